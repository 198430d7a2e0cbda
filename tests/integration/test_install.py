"""make install and uninstall, the library as others link it, and the shells' completion."""
import os
import pathlib
import re
import shutil
import subprocess
import unittest

from harness import BUILD, ROOT, Scenario, clean_environment, scaled

COMPLETION = ROOT / "systemd" / "completion"
PROGRAM = """
#include <convstore.h>
#include <stdio.h>

int main(void)
{
    struct convstore *store;

    if (convstore_open(NULL, &store) != 0)
        return 1;
    convstore_close(store);
    puts(convstore_version());
    return 0;
}
"""


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False,
                          timeout=scaled(120), stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        raise AssertionError(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout


def make(*words):
    """make with this build; what an outer make says to its children is not for this one."""
    env = {k: v for k, v in clean_environment().items() if not k.startswith("MAKE") and k != "MFLAGS"}
    return run("make", "-C", ROOT, f"BUILD={os.path.relpath(BUILD, ROOT)}", *words, env=env)


def files(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if not p.is_dir())


class Install(Scenario):
    def install(self, *words):
        make("-o", "programs", "-o", f"{os.path.relpath(BUILD, ROOT)}/convstore-bench", "install",
             f"DESTDIR={self.directory}/root", *words)
        return self.directory / "root"

    def test_install_and_uninstall(self):
        """Goal of this test: an install has its parts where a packager asks for them, the units name
        the programs there, and systemd finds nothing wrong with them; an edited configuration is kept
        by another install and by uninstall, which leaves nothing else."""
        where = ["PREFIX=/usr", "LIBDIR=/usr/lib/arch", "UNITDIR=/lib/systemd/system"]
        root = self.install(*where)
        there = files(root)
        for name in ("usr/sbin/convstored", "usr/bin/convstorectl", "usr/include/convstore.h",
                     "usr/lib/arch/libconvstore.so.1", "usr/lib/arch/libconvstore.a",
                     "usr/lib/arch/pkgconfig/convstore.pc", "lib/systemd/system/convstored.service",
                     "lib/systemd/system/convstored.socket", "usr/lib/sysusers.d/convstored.conf",
                     "usr/lib/tmpfiles.d/convstored.conf", "etc/convstore/convstored.conf",
                     "usr/share/bash-completion/completions/convstorectl",
                     "usr/share/zsh/vendor-completions/_convstorectl"):
            self.assertIn(name, there)
        pages = {page.name for page in ROOT.glob("*/*.[1-8]")} | {p.name for p in ROOT.glob("*/man/*.[1-8]")}
        self.assertLessEqual(pages, {pathlib.Path(name).name for name in there})
        config = root / "etc/convstore/convstored.conf"
        config.write_text("# mine\n")
        self.install(*where)
        self.assertEqual(config.read_text(), "# mine\n")
        make("uninstall", f"DESTDIR={root}", *where)
        self.assertEqual((files(root), config.read_text()), (["etc/convstore/convstored.conf"], "# mine\n"))
        service = (self.install("PREFIX=/opt/c") / "opt/c/lib/systemd/system/convstored.service").read_text()
        self.assertRegex(service, r"(?m)^ExecStart=/opt/c/sbin/convstored$")
        self.assertRegex(service, r"(?m)^ExecReload=/opt/c/bin/convstorectl reload$")

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd is not installed")
    def test_the_units(self):
        """Goal of this test: systemd knows every line of the units, and rates their exposure 1.2 or
        better."""
        root = self.install("UNITDIR=/etc/systemd/system", "PREFIX=/usr")
        units = [root / "etc/systemd/system" / name for name in ("convstored.service", "convstored.socket")]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True,
                              text=True, check=False, timeout=scaled(60))
        wrong = [line for line in done.stderr.splitlines() if "convstored." in line]
        # The programs are not installed on this machine.
        self.assertEqual([line for line in wrong if "is not executable" not in line], [])
        rating = run("systemd-analyze", "security", "--offline=true", "--no-pager",
                     units[0])
        self.assertLessEqual(float(re.search(r"level for convstored.service: ([\d.]+)", rating)[1]), 1.2)

    def test_a_program_is_linked(self):
        """Goal of this test: pkg-config is enough to build against the library, shared and static."""
        root = self.install()
        source = self.directory / "program.c"
        source.write_text(PROGRAM)
        env = clean_environment(PKG_CONFIG_PATH=f"{root}/usr/local/lib/pkgconfig",
                                PKG_CONFIG_SYSROOT_DIR=str(root))
        ask = lambda *words: run("pkg-config", *words, "convstore", env=env).split()
        version = ask("--modversion")[0]
        binary = (BUILD / "convstored").read_bytes()
        sanitizers = [f"-fsanitize={name}" for sign, name in
                      ((b"__asan_init", "address,undefined"), (b"__tsan_init", "thread")) if sign in binary]
        compiler = "clang" if sanitizers else "cc"
        run(compiler, source, *sanitizers, *ask("--cflags", "--libs"), "-o", self.directory / "shared")
        self.assertEqual(run(self.directory / "shared", env=clean_environment(
            LD_LIBRARY_PATH=f"{root}/usr/local/lib")), f"{version}\n")
        (root / "usr/local/lib/libconvstore.so").unlink()
        run(compiler, source, *sanitizers, *ask("--cflags", "--libs", "--static"), "-o", self.directory / "static")
        self.assertEqual(run(self.directory / "static"), f"{version}\n")

    def test_only_public_symbols(self):
        """Goal of this test: the shared library exports what convstore.h declares and nothing else,
        and has a soname."""
        library = BUILD / "libconvstore.so"
        exported = {line.split()[-1].split("@")[0] for line in
                    run("nm", "-D", "--defined-only", library).splitlines() if " A " not in line}
        header = re.sub(r"/\*.*?\*/", "", (ROOT / "client/convstore.h").read_text(), flags=re.S)
        header = re.sub(r"typedef[^;]*;|static inline.*?\n}", "", header, flags=re.S)
        declared = set(re.findall(r"\b(convstore_\w+)\(", header))
        self.assertGreater(len(declared), 15)
        self.assertEqual(exported, declared)
        self.assertIn("[libconvstore.so.1]", run("readelf", "-d", library))

    def complete(self, *words):
        """What bash offers after these words; the last one is being typed."""
        script = (f"source {COMPLETION}/convstorectl.bash; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1));"
                  " _convstorectl; printf '%s\\n' \"${COMPREPLY[@]}\"")
        return run("bash", "-c", script, "bash", BUILD / "convstorectl", *words, cwd=self.directory).split()

    def commands(self):
        """{name: summary} of --help."""
        lines = run(BUILD / "convstorectl", "--help").split("Commands", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
        self.assertGreaterEqual(len(lines), 10)
        return dict(line.split(None, 1) for line in lines)

    def options(self, command):
        return set(re.findall(r"(?m)^  (--[a-z-]+)", run(BUILD / "convstorectl", command, "--help")))

    def test_completion_in_bash(self):
        """Goal of this test: every command that --help names is offered, every option of each command,
        its actions, and files after it."""
        commands = list(self.commands())
        self.assertEqual(self.complete(""), commands)
        self.assertEqual(self.complete("--socket", "flush", "st"), [c for c in commands if c.startswith("st")])
        for command in commands:
            self.assertLessEqual(self.options(command), set(self.complete("--json", command, "--")), command)
        self.assertIn("retry", self.complete("dead-letters", "re"))
        (self.directory / "chat.jsonl").touch()
        self.assertEqual(self.complete("import", "cha"), ["chat.jsonl"])
        self.assertEqual(self.complete("--socket", "cha"), ["chat.jsonl"])

    def test_completion_in_zsh(self):
        """Goal of this test: the pipelines by which zsh's completion reads --help find every command
        with its summary, every option and action; zsh itself can read the file where it is installed."""
        text = (COMPLETION / "_convstorectl").read_text()
        pipelines = dict(re.findall(r"_call_program (\w+) \$words\[1\](.*?)\)\"\}\)", text, re.S))
        ask = lambda what, command="": run("sh", "-c", '"$program"' + pipelines[what], env=clean_environment(
            program=str(BUILD / "convstorectl"), command=command)).splitlines()
        commands = self.commands()
        self.assertEqual(ask("commands"), [f"{name}:{summary}" for name, summary in commands.items()])
        for command in commands:
            self.assertLessEqual(self.options(command), set(ask("options", command)), command)
        self.assertEqual(ask("actions", "dead-letters"), ["list", "show", "retry", "drop"])
        if shutil.which("zsh"):
            run("zsh", "-n", COMPLETION / "_convstorectl")


if __name__ == "__main__":
    unittest.main()
