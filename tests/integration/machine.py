"""A machine with a real systemd, for tests of the units: systemd-nspawn on a root of a few hundred
kilobytes that shares this machine's /usr, with the build installed below /usr/local and /etc. It boots
in half a second. Needs root and Debian's systemd-container.

The hard thing is to reach into it: its sockets are looked up through /proc/LEADER/root, and commands
enter its namespaces."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

from harness import BUILD, ROOT, clean_environment, eventually, scaled

CGROUPS = pathlib.Path("/sys/fs/cgroup")
# What would only take time, and the network.
MASKED = ("systemd-udevd.service systemd-udev-trigger.service systemd-hwdb-update.service systemd-timesyncd.service"
          " systemd-networkd.service systemd-resolved.service getty.target console-getty.service").split()
TARGET = """[Unit]
Description=Only what a service needs
Requires=sysinit.target
After=sysinit.target
AllowIsolate=yes
"""


class Machine:
    """Not booted yet; root is its file system, until then and later."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.root = self.directory / "root"
        self.name = self.directory.name.replace("_", "-")
        self.process, self.leader = None, None
        self.usr = ["--bind-ro=/usr"]
        self.make_root()
        self.install()

    @staticmethod
    def why_not():
        """Why there can be none here; "" where there can."""
        if os.getuid() != 0:
            return "a machine with systemd needs root"
        missing = [name for name in ("systemd-nspawn", "nsenter") if shutil.which(name) is None]
        return f"{missing[0]} is not installed" if missing else ""

    def make_root(self):
        for name in ("etc/systemd/system var/lib var/log/journal var/tmp run tmp proc sys dev root home opt"
                     " usr").split():
            (self.root / name).mkdir(parents=True)
        for name in ("tmp", "var/tmp"):
            (self.root / name).chmod(0o1777)
        for link in pathlib.Path("/").iterdir():
            if link.is_symlink() and os.readlink(link).startswith("usr/"):
                (self.root / link.name).symlink_to(os.readlink(link))
        for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache", "os-release"):
            shutil.copy(pathlib.Path("/etc") / name, self.root / "etc")
        system = self.root / "etc/systemd/system"
        for unit in MASKED:
            (system / unit).symlink_to("/dev/null")
        (system / "testhost.target").write_text(TARGET)

    def install(self):
        """The build, as `make install` lays it out."""
        env = {k: v for k, v in clean_environment().items() if not k.startswith("MAKE") and k != "MFLAGS"}
        build = os.path.relpath(BUILD, ROOT)
        subprocess.run(["make", "-s", "-C", str(ROOT), f"BUILD={build}", "-o", "programs", "-o", f"{build}/convstore-bench",
                        "install", f"DESTDIR={self.directory}/stage"], env=env, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=scaled(60))
        shutil.copytree(self.directory / "stage/etc", self.root / "etc", dirs_exist_ok=True)

    def write(self, name, text):
        """A file below the machine's /etc."""
        path = self.root / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def enter_cgroup(self):
        """A group of its own in a hierarchy that nobody manages; under a systemd it has one."""
        for hierarchy in ("systemd", "unified"):
            if (CGROUPS / hierarchy).is_dir() and not pathlib.Path("/run/systemd/system").is_dir():
                group = CGROUPS / hierarchy / self.name
                group.mkdir(exist_ok=True)
                (group / "cgroup.procs").write_text(str(os.getpid()))

    def boot(self, *binds):
        """Boots; binds: "HERE:THERE" directories."""
        command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}",
                   "--register=no", "--keep-unit", "--private-network", "--console=pipe", *self.usr,
                   f"--bind-ro={self.directory}/stage/usr/local:/usr/local", *[f"--bind={b}" for b in binds],
                   "--boot", "systemd.unit=testhost.target",
                   f"test.directory={self.directory}"]  # by which harness.clean_up() finds it
        with open(self.directory / "console", "wb") as console:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                            env=clean_environment(), start_new_session=True,
                                            preexec_fn=self.enter_cgroup)
        eventually(self.is_up, 30, "the machine's boot")
        return self

    def console(self):
        return (self.directory / "console").read_text(errors="replace")

    def is_up(self):
        if self.process.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended with {self.process.returncode}:\n{self.console()}")
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            return False
        self.leader = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def run(self, *words, check=True, **options):
        """The output of a command in the machine, standard error included."""
        command = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", *map(str, words)]
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env=env, timeout=scaled(100), check=False, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, words))}: {done.returncode}: {done.stdout}")
        return done.stdout

    def path(self, path):
        """Where this process finds a path of the machine."""
        return pathlib.Path(f"/proc/{self.leader}/root{path}")

    def is_alive(self):
        try:
            return str(self.directory).encode() in pathlib.Path(f"/proc/{self.leader}/cmdline").read_bytes()
        except FileNotFoundError:
            return False

    def shut_down(self):
        if self.process is None:
            return
        if self.is_alive():
            self.run("systemctl", "poweroff", "--force", check=False)
        try:
            self.process.wait(scaled(10))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        while self.is_alive():  # it outlives systemd-nspawn
            os.kill(self.leader, signal.SIGKILL)
            time.sleep(0.05)
        for hierarchy in ("systemd", "unified"):
            for directory, *_ in os.walk(CGROUPS / hierarchy / self.name, topdown=False):
                os.rmdir(directory)
