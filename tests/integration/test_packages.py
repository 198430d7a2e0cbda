"""The Debian packages: made, checked by lintian, and installed, upgraded and removed with dpkg on a
machine with a real systemd whose /usr and package database lie over this machine's (overlayfs)."""
import os
import re
import shutil
import subprocess
import tempfile
import unittest
import uuid

from harness import BUILD, ROOT, SCALE, Scenario, clean_environment, eventually, scaled
from machine import Machine

CONFFILE = "/etc/convstore/convstored.conf"
JOURNAL = "/var/lib/convstore"
NEWER = "9.0"
CLIENTS = 4
# Stores until its standard input ends; prints how many were acked, the failures, the longest call in ms.
CLIENT = """
#include <convstore.h>
#include <poll.h>
#include <stdio.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

int main(void)
{
    struct convstore_conversation c = {.user_id = convstore_str("ann"),
                                       .platform = convstore_str("web"),
                                       .transcript = convstore_str("User: Hi")};
    struct convstore *store;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    unsigned acked = 0, failed = 0;
    double longest = 0;

    if (convstore_open(NULL, &store) != 0)
        return 1;
    convstore_set_timeout(store, 60000);
    while (poll(&input, 1, 2) == 0) {
        double started = now_ms(), took;

        if (convstore_store(store, &c, CONVSTORE_DURABLE, NULL) == 0)
            acked++;
        else
            failed++;
        took = now_ms() - started;
        longest = took > longest ? took : longest;
    }
    convstore_close(store);
    printf("%u %u %.0f\\n", acked, failed, longest);
    return 0;
}
"""


def why_not():
    if shutil.which("dh") is None or shutil.which("dpkg-buildpackage") is None:
        return "debhelper is not installed"
    return Machine.why_not() or ("" if can_overlay() else "no overlayfs where temporary files are")


def can_overlay():
    with tempfile.TemporaryDirectory() as home:
        for name in ("upper", "work", "merged"):
            os.mkdir(f"{home}/{name}")
        options = f"lowerdir=/usr,upperdir={home}/upper,workdir={home}/work"
        return subprocess.run(["unshare", "--mount", "mount", "-t", "overlay", "-o", options, "overlay",
                               f"{home}/merged"], stderr=subprocess.DEVNULL, check=False).returncode == 0


class PackageMachine(Machine):
    """One on which dpkg may write to /usr and to its database, and nothing is installed but what this
    machine has."""

    def install(self):
        for name in ("usr", "dpkg"):
            (self.directory / name).mkdir()
        (self.directory / "stage/usr/local").mkdir(parents=True)
        (self.root / "var/lib/dpkg").mkdir()
        self.usr = [f"--overlay=/{path}:{self.directory}/{name}:/{path}"
                    for path, name in (("usr", "usr"), ("var/lib/dpkg", "dpkg"))]


@unittest.skipIf(why_not(), why_not())
@unittest.skipIf(SCALE > 1, "the packages have a build of their own")
class Packages(Scenario):
    time_limit = 300

    @classmethod
    def setUpClass(cls):
        env = {k: v for k, v in clean_environment().items() if not k.startswith("MAKE") and k != "MFLAGS"}
        done = subprocess.run(["make", "-C", ROOT, f"BUILD={os.path.relpath(BUILD, ROOT)}", "deb"], env=env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False, timeout=scaled(250))
        if done.returncode != 0:
            raise AssertionError(done.stdout[-4000:])
        cls.debs = sorted(deb for deb in (BUILD / "deb").glob("*.deb") if "dbgsym" not in deb.name)

    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()
        if not self.pg.value("select 1 from pg_roles where rolname = 'convstored'"):
            self.pg.sql("create role convstored login superuser")
        home = dict(part.split("=", 1) for part in self.pg.conninfo.split())["host"]
        self.machine = PackageMachine(self.directory / f"m{uuid.uuid4().hex[:8]}")
        self.addCleanup(self.machine.shut_down)
        self.machine.boot(f"{home}:/run/postgresql", f"{self.directory}:/mnt")
        self.machine.run("rm", "-f", "/usr/sbin/policy-rc.d")  # a container's: "start no services"

    def dpkg(self, *words):
        return self.machine.run("dpkg", *words)

    def put(self, debs):
        """Installs them."""
        for deb in debs:
            shutil.copy(deb, self.directory)
        return self.dpkg("--force-confold", "--install", *[f"/mnt/{deb.name}" for deb in debs])

    def use_database(self):
        """The administrator's change to the configuration. Its text."""
        conffile = self.machine.path(CONFFILE)
        text, count = re.subn(r"(?m)^#? ?conninfo *=.*$",
                              "conninfo = host=/run/postgresql user=convstored dbname=postgres",
                              conffile.read_text())
        self.assertEqual(count, 1)
        conffile.write_text(text)
        return text

    def newer(self):
        """The same packages with a higher version, and another text of the configuration."""
        made = []
        (self.directory / "newer").mkdir()
        for deb in self.debs:
            tree = self.directory / "tree"
            subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
            control = tree / "DEBIAN/control"
            version = re.search(r"(?m)^Version: (.*)$", control.read_text())[1]
            control.write_text(control.read_text().replace(f" {version}", f" {NEWER}")
                               .replace(f"= {version})", f"= {NEWER})"))
            if (tree / CONFFILE[1:]).exists():
                with open(tree / CONFFILE[1:], "a") as conffile:
                    conffile.write("# newer\n")
            made.append(self.directory / "newer" / deb.name)
            subprocess.run(["dpkg-deb", "--build", "-Znone", tree, made[-1]], check=True,
                           stdout=subprocess.DEVNULL)
            shutil.rmtree(tree)
        return made

    @unittest.skipIf(shutil.which("lintian") is None, "lintian is not installed")
    def test_lintian(self):
        """Goal of this test: there are four packages, of the daemon's version, and lintian finds no error
        in them."""
        names = {deb.name.split("_")[0] for deb in self.debs}
        self.assertEqual(names, {"convstored", "convstorectl", "libconvstore1", "libconvstore-dev"})
        daemon = subprocess.check_output([BUILD / "convstored", "--version"], text=True)
        self.assertEqual({deb.name.split("_")[1] for deb in self.debs}, {daemon.split()[-1]})
        done = subprocess.run(["lintian", "--fail-on=error", "--allow-root", *self.debs], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_install_and_remove(self):
        """Goal of this test: installed, with the database named and started, it turns what convstorectl
        stores into a row; its user exists; remove keeps journal and configuration, purge deletes both."""
        self.put(self.debs)
        self.use_database()
        self.machine.run("systemctl", "restart", "convstored")
        self.machine.run("convstorectl", "store", "--user", "ann", "--platform", "web", "--transcript", "User: Hi")
        eventually(lambda: self.pg.count() == 1, 10, "the row")
        self.assertEqual(self.machine.run("stat", "--format=%U %a", JOURNAL), "convstore 700\n")
        self.assertEqual(self.machine.run("systemctl", "is-enabled", "convstored.service", "convstored.socket"),
                         "enabled\nenabled\n")
        journal = self.machine.path(JOURNAL)
        kept = sorted(p.name for p in journal.rglob("*"))
        self.dpkg("--remove", "convstored")
        self.assertEqual(self.machine.run("systemctl", "is-active", "convstored.service", "convstored.socket",
                                          check=False), "inactive\ninactive\n")
        self.assertTrue(kept)
        self.assertEqual(sorted(p.name for p in journal.rglob("*")), kept)
        self.assertTrue(self.machine.path(CONFFILE).exists())
        self.dpkg("--purge", "convstored", "convstorectl", "libconvstore-dev", "libconvstore1")
        self.assertFalse(journal.exists())
        self.assertFalse(self.machine.path("/etc/convstore").exists())

    def test_upgrade_under_traffic(self):
        """Goal of this test: a newer package comes while clients of libconvstore store: none of them
        sees an error, each acked conversation is one row; the changed configuration is kept."""
        self.put(self.debs)
        config = self.use_database()
        self.machine.run("systemctl", "restart", "convstored")
        (self.directory / "client.c").write_text(CLIENT)
        self.machine.run("sh", "-c", "gcc /mnt/client.c $(pkg-config --cflags --libs convstore) -o /mnt/client")
        newer = self.newer()
        before = self.machine.run("systemctl", "show", "--property=MainPID", "convstored")
        clients = [self.start_client() for _ in range(CLIENTS)]
        eventually(lambda: self.pg.count() > 0, 10, "the clients' first row")
        self.put(newer)
        self.assertNotEqual(self.machine.run("systemctl", "show", "--property=MainPID", "convstored"), before)
        figures = [self.end_client(client) for client in clients]
        acked, failed = (sum(numbers[n] for numbers in figures) for n in (0, 1))
        self.machine.run("convstorectl", "flush")
        self.assertGreater(min(numbers[0] for numbers in figures), 20)
        self.assertEqual((failed, self.pg.count()), (0, acked))
        self.assertEqual(self.machine.path(CONFFILE).read_text(), config)
        self.assertIn("# newer", self.machine.path(CONFFILE + ".dpkg-dist").read_text())
        self.said = f"{acked} stored, 0 lost, 0 errors; longest ack {max(numbers[2] for numbers in figures)} ms"

    def start_client(self):
        client = subprocess.Popen(["nsenter", "-t", str(self.machine.leader), "-m", "-n", "-p", "-C", "/mnt/client"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment())
        self.addCleanup(self.end_client, client)
        return client

    @staticmethod
    def end_client(client):
        """Its figures: conversations acked, failed, the longest call in ms."""
        client.stdin.close()
        client.wait(scaled(70))
        return [int(word) for word in client.stdout.read().split()]


if __name__ == "__main__":
    unittest.main()
