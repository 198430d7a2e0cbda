"""What a daemon has from a service manager, and tells it, without systemd: sockets that somebody else
holds, credentials, notifications. (test_systemd.py has the real one.)"""
import fcntl
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

from harness import Client, Scenario, clean_environment, conversation, eventually, scaled
from notified import Notified

# Becomes a program that has the named descriptors as systemd gives them: from 3 on, for this process.
HAND_OVER = """
import os, sys
for at, fd in enumerate(sys.argv[1].split(",")):
    os.dup2(int(fd), 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(at + 1))
os.execv(sys.argv[2], sys.argv[2:])
"""
FIRST_FREE = 100


class Sockets(Scenario):
    def daemon_on(self, *paths):
        """A daemon, not started, that is handed listening sockets at these paths in its directory."""
        d = self.daemon(start=False)
        fds = []
        for path in paths:
            with socket.socket(socket.AF_UNIX) as holder:
                holder.bind(str(path))
                holder.listen(100)
                # A number of its own: 3 and 4 are the daemon's.
                fds.append(fcntl.fcntl(holder.fileno(), fcntl.F_DUPFD, FIRST_FREE))
            self.addCleanup(os.close, fds[-1])
        d.pass_fds = fds
        d.wrapper = [sys.executable, "-c", HAND_OVER, ",".join(map(str, fds))]
        return d

    def test_clients_wait_for_the_daemon(self):
        """Goal of this test: a client that connects and stores while no daemon runs has its ack when one
        starts, before the first start as over a restart; each socket is known by its path, and stays."""
        home = self.directory / "d"
        home.mkdir()
        d = self.daemon_on(home / "control.sock", home / "convstore.sock")
        for unused in range(2):
            with Client(d.socket, 20) as client:
                asked = client.send("store", conversation())
                d.start()
                error, result = client.reply(asked)
                self.assertEqual((error, list(result)), (None, ["id"]))
                with d.control() as control:
                    self.assertIn("segments", control.request("journal"))
                self.assertEqual(d.stop(), 0)
                self.assertTrue(d.socket.is_socket() and d.control_socket.is_socket())

    def test_a_socket_that_belongs_nowhere(self):
        """Goal of this test: a socket whose path is not configured is refused by name, because its
        clients would wait for ever."""
        d = self.daemon_on(self.directory / "stray.sock")
        done = subprocess.run(d.command(), capture_output=True, text=True, env=clean_environment(),
                              check=False, pass_fds=d.pass_fds, timeout=scaled(20))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"convstored: systemd hands over the socket \S+/stray\.sock, which is neither")


def age(message):
    return float(re.search(r"the oldest for ([\d.]+) s", message)[1])


class Notifications(Scenario):
    def setUp(self):
        super().setUp()
        self.notified = Notified(self.directory / "notify", self)

    def told(self, text, seconds=10):
        """Waits for a message that has this in it, and returns all until then."""
        return eventually(lambda: self.notified.take_until(text), seconds, f"the message {text}")

    def test_what_is_told(self):
        """Goal of this test: READY=1 comes after the journal is read, when the daemon listens; the
        watchdog is kicked more often than is asked for; the status follows depth and age and is not
        repeated while nothing changes; the end begins with STOPPING=1."""
        pg = self.postgres()
        d = self.daemon(pg, start=False, env={"NOTIFY_SOCKET": self.notified.path, "WATCHDOG_USEC": "600000"})
        d.start(wait=False)
        self.assertEqual(self.told("READY=1")[0], "STATUS=Reading the journal")
        with d.client() as client:
            client.request("store", conversation(), {"wait": "stored"})
            self.told("STATUS=Serving: nothing waits; database up")
            started, kicks = time.monotonic(), []
            while time.monotonic() - started < 1.5:
                kicks += self.told("WATCHDOG=1")
            self.assertGreaterEqual(len(kicks), 3)
            self.assertEqual(set(kicks), {"WATCHDOG=1"})
            pg.stop()
            client.request("store_many", [conversation(transcript=f"t{n}") for n in range(3)])
            first = self.told("STATUS=Serving: 3 wait, the oldest for ")[-1]
            self.assertGreater(age(self.told("STATUS=Serving: 3 wait, the oldest for ")[-1]), age(first))
            self.told("; database down")
        d.signal(signal.SIGTERM)
        self.told("STOPPING=1\nSTATUS=Draining: 3 conversations left")
        self.assertEqual(d.wait_exit(), 0)


class Credentials(Scenario):
    def test_the_password_of_the_database(self):
        """Goal of this test: the credential database_password lets the daemon in; one that cannot be
        read is named in stats; a password in conninfo is the stronger one."""
        pg = self.postgres()
        pg.sql("create role keeper login superuser password 'open sesame'")
        hba = pathlib.Path(pg.value("show hba_file"))
        hba.write_text("local all keeper scram-sha-256\n" + hba.read_text())
        pg.sql("select pg_reload_conf()")
        conninfo = f"{pg.conninfo} user=keeper dbname=postgres"
        credential = self.directory / "database_password"
        credential.mkdir()
        d = self.daemon(env={"CREDENTIALS_DIRECTORY": str(self.directory)}, database__conninfo=conninfo)
        with d.client() as client:
            client.request("store", conversation())
            eventually(lambda: f"{credential}: Is a directory" in d.log(), 10, "the reason")
            credential.rmdir()
            credential.write_text("open sesame\n")
            d.flush()
        self.assertEqual((d.stop(), pg.count()), (0, 1))
        credential.write_text("wrong\n")
        d.settings["database.conninfo"] = f"{conninfo} password='open sesame'"
        d.start()
        with d.client() as client:
            client.request("store", conversation(), {"wait": "stored"})
        self.assertNotIn("sesame", d.log())


if __name__ == "__main__":
    unittest.main()
