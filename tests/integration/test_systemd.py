"""The units under a real systemd: start, stop, restart, reload, activation, watchdog, sandbox, logs.
Each test boots a machine of its own (machine.py); PostgreSQL runs outside, its socket is let in."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time
import unittest
import uuid

from harness import BUILD, SCALE, Client, RpcError, Scenario, conversation, eventually, scaled
from machine import Machine

SERVICES, CONTROL = "/run/convstore/convstore.sock", "/run/convstore/control.sock"
CONFIG = "[database]\nconninfo = host=/run/postgresql user=convstored dbname=postgres\n"
PASSWORD = "four words, one secret"
SLOW_ROWS = ("create function convstore.slow() returns trigger language plpgsql as $$ begin"
             " perform pg_sleep(0.01); return new; end $$;"
             " create trigger slow before insert on convstore.conversations"
             " for each row execute function convstore.slow()")
CLIENTS = 20


class Resending(threading.Thread):
    """A client that stores one conversation after the other, and each again under its id until it is
    acked, on a new connection where the old one has ended. That a connection is refused is trouble."""

    def __init__(self, path, user):
        super().__init__(daemon=True)
        self.path, self.user = path, user
        self.acked, self.again, self.longest, self.trouble = {}, 0, 0.0, None
        self.ending = threading.Event()

    def run(self):
        client = None
        try:
            while not self.ending.is_set():
                key, text = str(uuid.uuid4()), f"{self.user} {len(self.acked)}"
                started = time.monotonic()
                while key not in self.acked:
                    client = client or Client(self.path, 30)
                    try:
                        client.request("store", conversation(self.user, text, id=key))
                        self.acked[key] = text
                    except (RpcError, ConnectionError) as error:
                        if isinstance(error, RpcError) and error.name != "SHUTTING_DOWN":
                            raise
                        self.again += 1
                        client.close()
                        client = None
                self.longest = max(self.longest, time.monotonic() - started)
                time.sleep(0.003)
        except Exception as error:  # the test must hear of it
            self.trouble = error
        finally:
            if client is not None:
                client.close()


@unittest.skipIf(Machine.why_not(), Machine.why_not())
@unittest.skipIf(SCALE > 1, "a sanitizer does not run in the sandbox")
class Systemd(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()
        self.let_in_with_a_password()
        self.machine = Machine(self.directory / f"m{uuid.uuid4().hex[:8]}")
        self.addCleanup(self.machine.shut_down)
        self.addCleanup(self.show_trouble)
        credentials = self.machine.root / "etc/credstore"
        credentials.mkdir(mode=0o700)
        (credentials / "convstored.database_password").write_text(PASSWORD + "\n")

    def let_in_with_a_password(self):
        """The role convstored gets in with its password only."""
        home = dict(part.split("=", 1) for part in self.pg.conninfo.split())["host"]
        hba = pathlib.Path(self.pg.value("show hba_file"))
        rule = "local all convstored scram-sha-256\n"
        if rule not in hba.read_text():
            hba.write_text(rule + hba.read_text())
            self.pg.sql(f"create role convstored login superuser password '{PASSWORD}'")
            self.pg.sql("select pg_reload_conf()")
        self.pg_home = home

    def boot(self, config=CONFIG, dropin=""):
        self.machine.write("convstore/convstored.conf", config)
        self.machine.write("systemd/system/convstored.service.d/test.conf", f"[Service]\n{dropin}\n")
        self.machine.boot(f"{self.pg_home}:/run/postgresql")

    def show_trouble(self):
        if self._failed() and self.machine.leader is not None:
            print(self.log("--lines=40"))

    def systemctl(self, *words, check=True):
        return self.machine.run("systemctl", *words, check=check)

    def show(self, name, unit="convstored.service"):
        return self.systemctl("show", "--property", name, "--value", unit).strip()

    def log(self, *words):
        return self.machine.run("journalctl", "--no-pager", "--unit=convstored.service", *words)

    def signal(self, number):
        """To the daemon. Its process id."""
        pid = self.show("MainPID")
        self.machine.run("kill", f"-{int(number)}", pid)
        return pid

    def client(self):
        return Client(self.machine.path(SERVICES), 20)

    def ctl(self, *words, user=None):
        enter = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"] if user else []
        return self.machine.run(*enter, "/usr/local/bin/convstorectl", *words, check=False)

    def status_line(self):
        return self.show("StatusText")

    def start_with_backlog(self, rows, dropin="", sql="select"):
        """Boots and starts it, with one row stored and so many more acked that the database takes only
        when the function returned is called; the SQL is run before."""
        self.boot(dropin=dropin)
        self.systemctl("start", "convstored")
        with self.client() as client:
            client.request("store", conversation(), {"wait": "stored"})
            self.pg.sql(sql)
            release = self.hold_rows()
            client.request("store_many", [conversation(transcript=f"t{n}") for n in range(rows)])
        return release

    def hold_rows(self):
        holder = self.pg.connect()
        self.addCleanup(holder.close)
        holder.autocommit = False
        holder.cursor().execute("lock table convstore.conversations in access exclusive mode")
        return holder.rollback

    def leave_real_time_group(self, pid):
        """A kernel with real-time groups (Debian's has none) gives a service's own group no real time."""
        root = pathlib.Path("/sys/fs/cgroup/cpu/cgroup.procs")
        for status in pathlib.Path("/proc").glob("[0-9]*/status") if root.exists() else ():
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if fields["Name"] == "convstored" and fields["NSpid"].split()[1:] == [pid]:
                root.write_text(fields["Pid"])

    def test_who_acknowledges_comes_first(self):
        """Goal of this test: the unit permits what the daemon wants under load: two threads, and no
        other, have a real-time priority while thousands a second come in beside the rows."""
        self.boot()
        self.systemctl("start", "convstored")
        self.assertEqual(self.show("LimitRTPRIO"), "1")
        pid = self.show("MainPID")
        if not re.search(r"Max realtime priority +1 +1", self.machine.run("cat", f"/proc/{pid}/limits")):
            self.said = "asked for by the unit; this machine's process 1 may not raise limits"
            return
        self.leave_real_time_group(pid)
        load = subprocess.Popen([str(BUILD / "convstore-bench"), "saturate", "--socket",
                                 str(self.machine.path(SERVICES)), "--connections", "20", "--wait", "stored",
                                 "--depth", "100", "--size", "100", "--seconds", "60", "--quiet"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(load.wait)
        self.addCleanup(load.kill)
        eventually(lambda: self.machine.run("chrt", "--all-tasks", "--pid", pid).count("SCHED_RR") == 2, 30,
                   "two threads come first")

    def test_the_first_client_starts_it(self):
        """Goal of this test: with only the socket started, the first client's conversation is acked and
        becomes a row; who may connect where; the status line of systemctl; stopping the socket stops
        the daemon, too."""
        self.boot()
        self.systemctl("start", "convstored.socket")
        self.assertEqual(self.show("ActiveState"), "inactive")
        modes = self.machine.run("stat", "--format=%a %U %G", SERVICES, CONTROL).splitlines()
        self.assertEqual(modes, ["660 convstore convstore", "600 convstore convstore"])
        with self.client() as client:
            client.request("store", conversation(), {"wait": "stored"})
        self.assertEqual((self.show("ActiveState"), self.pg.count()), ("active", 1))
        self.assertIn("Permission denied", self.ctl("ping", user="nobody"))
        self.assertIn("answered in", self.ctl("ping"))
        eventually(lambda: "nothing waits; database up" in self.systemctl("status", "convstored"), 5, "the status line")
        self.systemctl("stop", "convstored.socket")
        self.assertEqual((self.show("ActiveState"), self.show("ActiveState", "convstored.socket")), ("inactive", "inactive"))
        self.systemctl("start", "convstored.service")
        self.assertEqual(self.show("ActiveState", "convstored.socket"), "active")

    def test_stop_with_a_backlog(self):
        """Goal of this test: systemctl stop drains a backlog for longer than TimeoutStopSec while rows
        go, and says how far it is; a client that comes afterwards starts the daemon again."""
        release = self.start_with_backlog(600, "TimeoutStopSec=4s", SLOW_ROWS)
        eventually(lambda: re.search(r"600 wait, the oldest for \d+\.\d s; database up", self.status_line()),
                   5, "depth and age in the status")
        eventually(lambda: "; alerts: " in self.status_line(), 5, "fsync=off in the status")
        self.systemctl("stop", "--no-block", "convstored.service")
        eventually(lambda: "Draining: 600" in self.status_line(), 5, "the drain in the status")
        started = time.monotonic()
        release()
        eventually(lambda: self.show("ActiveState") == "inactive", 30, "the end of the drain")
        self.assertGreater(time.monotonic() - started, 4)
        self.assertEqual((self.show("Result"), self.pg.count()), ("success", 601))
        with self.client() as client:
            client.request("ping")
        self.assertEqual(self.show("ActiveState"), "active")

    def test_restart_under_load(self):
        """Goal of this test: over restarts under the load of 20 clients none is refused a connection,
        and everything acked is a row, once."""
        self.boot()
        self.systemctl("start", "convstored")
        clients = [Resending(self.machine.path(SERVICES), f"client {n}") for n in range(CLIENTS)]
        for client in clients:
            client.start()
        for attempt in range(3):
            before = sum(len(client.acked) for client in clients)
            eventually(lambda: sum(len(c.acked) for c in clients) > before + 500, 30, "a load under way")
            self.systemctl("restart", "convstored.service")
        for client in clients:
            client.ending.set()
        for client in clients:
            client.join(scaled(30))
            self.assertIsNone(client.trouble)
        self.assertGreater(sum(client.again for client in clients), 0)
        self.ctl("flush")
        acked = {key: text for client in clients for key, text in client.acked.items()}
        rows = self.pg.sql("select id::text, transcript from convstore.conversations")
        self.assertEqual((len(rows), dict(rows)), (len(acked), acked))
        self.said = (f"{len(acked)} acked over 3 restarts: 0 lost, 0 twice, {sum(c.again for c in clients)} sent again,"
                     f" the longest ack {max(c.longest for c in clients):.2f} s")

    def test_systemctl_reload(self):
        """Goal of this test: systemctl reload applies a good file and refuses a bad one with the reason
        in the log; the daemon stays the same."""
        self.boot()
        self.systemctl("start", "convstored")
        pid = self.show("MainPID")
        self.machine.write("convstore/convstored.conf", CONFIG + "[log]\nlevel = debug\n")
        self.systemctl("reload", "convstored")
        with self.client() as client:
            client.send_raw(b"\xc1")  # refused, which is a line of level debug
            client.wait_closed()
        self.assertNotEqual(self.log("--priority=debug..debug", "--output=cat"), "")
        self.machine.write("convstore/convstored.conf", CONFIG + "[log]\nlevell = debug\n")
        self.assertIn("failed", self.systemctl("reload", "convstored", check=False))
        self.assertRegex(self.log(), r"convstored\.conf:4: unknown key log\.levell")
        with self.client() as client:
            client.request("ping")
        self.assertEqual((self.show("MainPID"), self.show("ActiveState")), (pid, "active"))

    def test_the_watchdog(self):
        """Goal of this test: a database that hangs for longer than WatchdogSec does not get the daemon
        killed; a loop that stands still does, and it is started again with all that was acked."""
        release = self.start_with_backlog(100, "WatchdogSec=2s\nTimeoutAbortSec=1s")
        time.sleep(3)
        self.assertEqual(self.show("NRestarts"), "0")
        stopped = self.signal(signal.SIGSTOP)
        eventually(lambda: self.show("NRestarts") == "1" and self.show("ActiveState") == "active", 20, "another start")
        self.assertIn("Watchdog timeout", self.log())
        self.assertNotEqual(self.show("MainPID"), stopped)
        release()
        eventually(lambda: self.pg.count() == 101, 10, "all rows")

    def test_kill(self):
        """Goal of this test: after SIGKILL the daemon is started again; a client that connects meanwhile
        waits for it."""
        release = self.start_with_backlog(100)
        self.signal(signal.SIGKILL)
        with self.client() as client:
            client.request("store", conversation(transcript="t100"))
        release()
        eventually(lambda: self.pg.count() == 102, 10, "all rows")
        self.assertEqual(self.show("NRestarts"), "1")

    def test_the_sandbox(self):
        """Goal of this test: the daemon runs as its own user without rights, and a program inside its
        sandbox can reach its own directories and nothing else; the database's password, which came as a
        credential, is in no log, environment or command line."""
        root = self.machine.root
        (root / "root").chmod(0o755)
        for name in ("var/open", "opt/open", "root", "home"):
            (root / name).mkdir(exist_ok=True)
            (root / name / "secret").write_text("x")
        for name in ("var/open", "opt/open"):
            (root / name).chmod(0o777)
        shutil.copy(pathlib.Path(__file__).with_name("probe.py"), root / "opt/probe.py")
        shutil.copy("/usr/bin/id", root / "opt/open/id")
        os.chmod(root / "opt/open/id", 0o4755)
        self.boot(dropin="ExecStartPost=/usr/bin/python3 /opt/probe.py /var/lib/convstore/own")
        self.systemctl("start", "convstored")
        with self.client() as client:
            client.request("store", conversation(), {"wait": "stored"})
        pid = self.show("MainPID")
        status = self.machine.run("cat", f"/proc/{pid}/status")
        user = self.machine.run("id", "-u", "convstore").strip()
        self.assertRegex(status, rf"(?m)^Uid:\s+{user}\s+{user}\s+{user}\s+{user}$")
        for line in (r"NoNewPrivs:\s+1", r"Seccomp:\s+2", r"CapEff:\s+0+", r"CapBnd:\s+0+"):
            self.assertRegex(status, rf"(?m)^{line}$")
        (found,) = [json.loads(line) for line in self.log("--output=cat").splitlines() if line.startswith("{")]
        self.assertEqual(str(found["user"]), user)
        for name, what in found["refused"].items():
            self.assertRegex(what, "^refused: ", name)
        for name, what in found["allowed"].items():
            self.assertEqual(what, "done", name)
        self.assertEqual(found["setuid"], user)
        self.assertFalse(self.machine.path("/tmp/x").exists())
        said = self.log() + json.dumps(found["environment"]) + self.machine.run("cat", f"/proc/{pid}/cmdline")
        self.assertNotIn(PASSWORD, said)
        # The conditions that the test makes: as the same user outside, these succeed.
        outside = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        self.assertEqual(self.machine.run(*outside, "/opt/open/id", "-u"), "0\n")
        self.machine.run(*outside, "cat", "/home/secret", "/root/secret")
        self.machine.run(*outside, "touch", "/var/open/x", "/opt/open/x")
        self.machine.run(*outside, "unshare", "--user", "true")

    def test_levels_in_the_log(self):
        """Goal of this test: the log has the daemon's levels, and no time of its own in the text."""
        self.boot(CONFIG.replace("/run/postgresql", "/run/nowhere"))
        self.systemctl("start", "convstored")
        with self.client() as client:
            client.request("store", conversation())
        eventually(lambda: "database" in self.log("--priority=warning", "--output=cat"), 10, "a warning")
        self.assertNotIn("server.start", self.log("--priority=warning", "--output=cat"))
        self.assertRegex(self.log("--priority=info..info", "--output=cat"), r"(?m)^server\.start version=")


if __name__ == "__main__":
    unittest.main()
