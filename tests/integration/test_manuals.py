"""The manual pages: complete, true to the tables in the code, and without a warning of mandoc or
groff. Profiles: loadable, and a reason for each line."""
import pathlib
import re
import shutil
import subprocess
import unittest

from harness import BUILD, ROOT, clean_environment

PAGES = {name: ROOT / place / name for place, name in (
    ("daemon", "convstored.8"), ("client", "convstorectl.1"), ("client", "libconvstore.3"),
    ("client", "convstore-bench.1"),
    ("config", "convstored.conf.5"), ("proto", "convstore-protocol.7"))}
PROFILES = sorted((ROOT / "config").glob("*-*.conf"))


def run(*words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env=clean_environment(LC_ALL="C.UTF-8"))


def keys():
    """(section, name, default, is it live) of each row of config_keys.c."""
    table = (ROOT / "daemon" / "config_keys.c").read_text().partition("config_keys[] = {")[2]
    for entry in table.partition("};")[0].split("),\n"):
        found = re.match(r'\s*[A-Z]+\((\w+), (\w+),\s+"([^"]*)"', entry)
        if found:
            yield (*found.groups(), entry.endswith("LIVE"))


class Manuals(unittest.TestCase):
    def assert_entries(self, page, names, form):
        text = PAGES[page].read_text()
        self.assertGreater(len(names), 5)
        missing = [name for name in names if not re.search(form.format(re.escape(name)), text, re.M)]
        self.assertEqual(missing, [], f"without an entry in {page}")

    def test_pages_are_well_formed(self):
        """Goal of this test: mandoc and groff find nothing to say about any page."""
        if not shutil.which("mandoc") or not shutil.which("groff"):
            self.skipTest("mandoc and groff are not both installed: make deps")
        for name, path in PAGES.items():
            with self.subTest(name):
                done = run("mandoc", "-Tlint", path)
                told = [line for line in (done.stdout + done.stderr).splitlines()
                        if "referenced manual not found" not in line and "mandoc.db" not in line]
                self.assertEqual(told, [])
                done = run("groff", "-ww", "-mdoc", "-Tutf8", path)
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_each_page_refers_to_pages_that_are_there(self):
        """Goal of this test: no reference to a manual of ours leads nowhere."""
        for name, path in PAGES.items():
            for title, section in re.findall(r"^\.Xr (\S+) (\d)", path.read_text(), re.M):
                if "convstore" in title:
                    self.assertIn(f"{title}.{section}", PAGES, name)

    def test_keys(self):
        """Goal of this test: each key of the configuration has its entry in its section, with its
        default, and a word where it needs a restart and only there; no entry is of no key."""
        sections = re.split(r"^\.Ss (\w+)\n", PAGES["convstored.conf.5"].read_text().partition(".Sh KEYS")[2]
                            .partition(".Sh ENVIRONMENT")[0], flags=re.M)[1:]
        text = dict(zip(sections[::2], sections[1::2], strict=True))
        table = list(keys())
        self.assertGreater(len(table), 70)
        named = {(section, name) for section, body in text.items()
                 for name in re.findall(r"^\.It Ic (\w+) =", body, re.M)}
        self.assertEqual(named, {(section, name) for section, name, _, _ in table})
        entries = {(section, name): entry for section, body in text.items()
                   for heads, entry in re.findall(r"((?:^\.It .*\n)+)([\s\S]*?)(?=^\.It|\Z)", body, re.M)
                   for name in re.findall(r"Ic (\w+) =", heads)}
        for section, name, default, live in table:
            with self.subTest(key=f"{section}.{name}"):
                entry = entries[section, name]
                told = re.search(r"^Default (.*?)\.(?:\n|\Z)", entry, re.M | re.S).group(1)
                self.assertIn(default or "empty", re.split(r",? and |, ", told))
                self.assertEqual("Needs a restart." not in entry, live)

    def test_commands(self):
        """Goal of this test: each command of convstorectl has its entry, and each of its options is
        named."""
        commands = re.findall(r'^    \{"([\w-]+)", "', (ROOT / "client" / "convstorectl.c").read_text(), re.M)
        self.assert_entries("convstorectl.1", commands, r"^\.It Ic {}( |$)")
        options = set()
        for command in commands:
            options |= set(re.findall(r"^  (--[\w-]+)", run(BUILD / "convstorectl", command, "--help").stdout,
                                      re.M))
        self.assert_entries("convstorectl.1", sorted(option[1:] for option in options), r"Fl {}\b(?!-)")

    def test_options_of_the_daemon(self):
        """Goal of this test: each option of convstored has its entry."""
        options = re.findall(r"^  -(-[\w-]+)", run(BUILD / "convstored", "--help").stdout, re.M)
        self.assert_entries("convstored.8", options, r"^\.It Fl {}( |$)")

    def test_the_load_generator(self):
        """Goal of this test: each command and option of convstore-bench has its entry."""
        told = run(BUILD / "convstore-bench", "--help").stdout
        self.assert_entries("convstore-bench.1", re.findall(r"^  ([a-z][\w-]+)  ", told, re.M), r"^\.It Ic {}$")
        options = re.findall(r"(?:^| ) -(-\w+)", told, re.M)
        self.assert_entries("convstore-bench.1", options, r"^\.It Fl {}( |$)")

    def test_functions(self):
        """Goal of this test: each public function of convstore.h has its synopsis and is explained."""
        header = (ROOT / "client" / "convstore.h").read_text()
        functions = [name for name in re.findall(r"^[a-z][^\n;{]*?\b(convstore_\w+)\(", header, re.M)
                     if f"typedef void {name}" not in header]
        self.assertGreater(len(functions), 18)
        self.assert_entries("libconvstore.3", functions, r"^\.F[no] {}\b")
        described = PAGES["libconvstore.3"].read_text().partition(".Sh DESCRIPTION")[2]
        self.assertEqual([name for name in functions if name not in described], [])

    def test_methods(self):
        """Goal of this test: each method has its entry on the page of the protocol."""
        methods = re.findall(r'^    \{"(\w+)", \w+_handle,', (ROOT / "daemon" / "rpc.c").read_text(), re.M)
        self.assert_entries("convstore-protocol.7", methods, r"^\.It Cm {} ")

    def test_make_install_takes_them(self):
        """Goal of this test: every page is installed in the directory of its section."""
        done = run("make", "-n", "-C", ROOT, "install", "DESTDIR=/nowhere", "PREFIX=/usr")
        for name, path in PAGES.items():
            section = pathlib.Path(name).suffix[1:]
            self.assertRegex(done.stdout, rf"share/man/man{section}\s+{re.escape(str(path.relative_to(ROOT)))}")


class Profiles(unittest.TestCase):
    def test_profiles(self):
        """Goal of this test: each profile loads, changes something with each of its lines, and says
        why."""
        self.assertEqual([path.name for path in PROFILES], ["high-throughput.conf", "low-latency.conf"])
        default = run(BUILD / "convstored", "--check-config").stdout.splitlines()
        for path in PROFILES:
            done = run(BUILD / "convstored", "--check-config", "--config", path)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            changed = set(done.stdout.splitlines()) - set(default)
            lines = path.read_text().splitlines()
            values = [number for number, line in enumerate(lines) if re.match(r"\w+ = ", line)]
            self.assertEqual(len(changed), len(values), path.name)
            for number in values:
                before = lines[number - 1]
                self.assertTrue(before.startswith("#") or re.match(r"\w+ = ", before), lines[number])


if __name__ == "__main__":
    unittest.main()
