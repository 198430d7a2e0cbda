"""Configurations and the command line: what is wrong is said in one line that names file and line;
sockets that are taken, stale or no sockets."""
import os
import socket
import subprocess
import unittest

from harness import BUILD, Scenario, clean_environment, conversation, scaled

GOOD = "[listen]\nsocket = %s/a.sock\ncontrol_socket = %s/b.sock\n"


class Config(Scenario):
    def run_daemon(self, *arguments, **environment):
        """convstored with these arguments, which must make it end by itself."""
        return subprocess.run([str(BUILD / "convstored"), *map(str, arguments)], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=scaled(20),
                              env=clean_environment(**environment), check=False)

    def run_with_sockets(self, **sockets):
        """The same with these paths, the others and the journal being in the test's directory."""
        settings = {"listen.socket": self.directory / "s2", "listen.control_socket": self.directory / "c2",
                    "journal.directory": self.directory / "j2"}
        settings.update({f"listen.{key}": path for key, path in sockets.items()})
        return self.run_daemon(*[word for key, value in settings.items()
                                 for word in ("--set", f"{key}={value}")])

    def write(self, text, name="convstored.conf"):
        path = self.directory / name
        path.write_text(text)
        return path

    def assert_refused(self, done, *parts):
        """One line on stderr that says these things, nothing on stdout, a status that is not 0."""
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, r"\Aconvstored: [^\n]+\n\Z")
        for part in parts:
            self.assertIn(part, done.stderr)

    def test_wrong_lines_are_named(self):
        """Goal of this test: each wrong line of a file is refused with the file's name, its number,
        the key and the reason, whether it only checks or would start."""
        wrong = {
            "unknown key listen.sockett": "sockett = /tmp/x",
            "unknown section [listne]": "[listne]\nsocket = /tmp/x",
            "listen.max_connections = many: must be a whole number": "max_connections = many",
            "listen.max_connections = -1: must be a whole number": "max_connections = -1",
            "listen.max_connections = 0: must be 1 to 1000000": "max_connections = 0",
            "listen.max_connections = 99999999999999999999": "max_connections = 99999999999999999999",
            "listen.max_message_bytes = 4MB: must be a size": "max_message_bytes = 4MB",
            "listen.max_message_bytes = 1: must be 1024 to": "max_message_bytes = 1",
            "listen.socket_mode = 0999: must be octal": "socket_mode = 0999",
            "database.auto_migrate = maybe: must be true or false": "[database]\nauto_migrate = maybe",
            "embedding.provider = magic: must be one of: builtin": "[embedding]\nprovider = magic",
            "log.level = loud: must be one of: error warning info debug": "[log]\nlevel = loud",
            "neither [section] nor key = value": "this is no setting",
            "longer than 198 bytes": "socket = /" + "x" * 300,
        }
        for text, lines in wrong.items():
            with self.subTest(text):
                path = self.write("# A comment\n\n[listen]\n; another\n" + lines + "\nsocket_mode = 0600\n")
                where = f"{path}:{5 if 'section' in text else 4 + len(lines.splitlines())}: "
                self.assert_refused(self.run_daemon("--config", path, "--check-config"), where, text)
                self.assert_refused(self.run_daemon("--config", path), where, text)

    def test_wrong_settings_and_arguments(self):
        """Goal of this test: the command line and the environment are checked the same way and named
        as what they are; so are values that do not go together."""
        check = "--check-config"
        self.assert_refused(self.run_daemon(check, "--set", "batch.batch_size=0"), "--set",
                            "batch.batch_size = 0: must be 1 to 10000")
        self.assert_refused(self.run_daemon(check, "--set", "batch.size=5"), "unknown key batch.size")
        self.assert_refused(self.run_daemon(check, "--set", "batch_size=5"), "must be section.key=value")
        self.assert_refused(self.run_daemon(check, CONVSTORE_BATCH_BATCH_SIZE="x"),
                            "CONVSTORE_BATCH_BATCH_SIZE", "batch.batch_size = x")
        self.assert_refused(self.run_daemon(check, "--set", "queue.max_queue_bytes=1MiB"),
                            "listen.max_message_bytes", "queue.max_queue_bytes")
        self.assert_refused(self.run_daemon(check, "--set", "listen.control_socket=/tmp/x",
                                            "--set", "listen.socket=/tmp/x"), "the same path")
        self.assert_refused(self.run_daemon("--config", self.directory / "none.conf"),
                            str(self.directory / "none.conf"), "No such file")
        for arguments in (["--nonsense"], ["extra"], ["--config"]):
            done = self.run_daemon(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertNotEqual(done.stderr, "")

    def test_a_model_that_is_not_known(self):
        """Goal of this test: a model without a known dimension is refused before anything is accepted,
        with the key to set."""
        paths = GOOD % (self.directory, self.directory)
        path = self.write(paths + "[embedding]\nprovider = ollama\nmodel = my-own\n")
        self.assert_refused(self.run_daemon("--config", path), "my-own", "embedding.dimensions")

    def test_check_config_prints_what_is_in_force(self):
        """Goal of this test: --check-config prints every key with the value that would be used: command
        line over environment over file over default; never a password; the output is a configuration."""
        path = self.write("[batch]\nbatch_size = 11\nflush_interval_ms = 12\nbatch_timeout_ms = 13\n"
                          "[database]\nconninfo = host=db.example\n  password=hunter2\n")
        done = self.run_daemon("--config", path, "--check-config", "--set", "batch.batch_timeout_ms=33",
                               CONVSTORE_BATCH_FLUSH_INTERVAL_MS="22", CONVSTORE_BATCH_BATCH_TIMEOUT_MS="23",
                               OLLAMA_URL="http://embedder:1")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for line in ("[batch]", "batch_size = 11", "flush_interval_ms = 22", "batch_timeout_ms = 33",
                     "socket_mode = 0660", "max_message_bytes = 4194304", "provider = builtin",
                     "url = http://embedder:1"):
            self.assertIn(line, done.stdout.splitlines())
        self.assertNotIn("hunter2", done.stdout)
        plain = self.run_daemon("--check-config")
        again = self.run_daemon("--check-config", "--config", self.write(plain.stdout, "printed.conf"))
        self.assertEqual((again.returncode, again.stdout), (0, plain.stdout))

    def test_a_file_is_obeyed(self):
        """Goal of this test: a daemon that has its settings from a file alone runs by them, and conninfo
        may go on in an indented line."""
        pg = self.postgres()
        host, rest = pg.conninfo.split(" ", 1)
        d = self.daemon(start=False)
        path = self.write(f"[listen]\nsocket = {d.socket}\nsocket_mode = 0640\n"
                          f"control_socket = {d.control_socket}\n[journal]\ndirectory = {d.journal}\n[database]\nconninfo = {host}\n  {rest}\n"
                          "[log]\nlevel = debug\n")
        d.settings, d.arguments = {}, ["--config", str(path)]
        d.start()
        with d.client() as client:
            client.request("store", conversation(), {"wait": "stored"})
            client.send_raw(b"\xc1")  # refused, which is a line of level debug
            client.wait_closed()
        self.assertEqual((pg.count(), os.stat(d.socket).st_mode & 0o777), (1, 0o640))
        self.assertRegex(d.log(), r"(?m) debug ")

    def test_sockets_that_cannot_be(self):
        """Goal of this test: a directory that is not there, a path that is too long and a file that is
        no socket are refused by name; the file stays as it was."""
        plain = self.write("not a socket", "plain")
        missing = self.directory / "missing" / "a.sock"
        long = "/tmp/" + "x" * 120
        for path, reason in ((missing, "its directory: No such file"),
                             (plain / "a.sock", "its directory: Not a directory"), (long, "longer than"), (plain, "is no socket"),
                             (self.directory, "is no socket")):
            for key in ("socket", "control_socket"):
                with self.subTest(path=path, key=key):
                    done = self.run_with_sockets(**{key: path})
                    self.assertEqual(done.returncode, 1)
                    (line,) = [text for text in done.stderr.splitlines() if text.startswith("convstored: ")]
                    self.assertIn(str(path), line)
                    self.assertIn(reason, line)
        self.assertEqual(plain.read_text(), "not a socket")

    def test_a_second_daemon_is_refused(self):
        """Goal of this test: a daemon on a socket that another serves ends with one line and takes
        nothing away from the first."""
        d = self.daemon()
        for sockets in ({"socket": d.socket}, {"control_socket": d.control_socket}):
            done = self.run_with_sockets(**sockets)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, r"convstored: .*another daemon listens there; stop it first\n\Z")
        with d.client() as client, d.control() as control:
            self.assertEqual(client.request("ping"), control.request("ping"))

    def test_a_stale_socket_is_replaced(self):
        """Goal of this test: after SIGKILL the socket files are still there; the next daemon takes their
        place, and no other permission bits come with them."""
        d = self.daemon()
        d.kill()
        self.assertTrue(d.socket.exists() and d.control_socket.exists(), "the test's own condition")
        os.chmod(d.control_socket, 0o777)
        with self.assertRaises(ConnectionRefusedError):
            d.client()
        d.start()
        with d.client() as client:
            client.request("ping")
        self.assertEqual(os.stat(d.control_socket).st_mode & 0o777, 0o600)
        self.assertEqual(d.stop(), 0)
        # A socket that somebody else made and left is as stale.
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(d.socket))
        d.start()
        with d.client() as client:
            client.request("ping")

    def test_version_and_help(self):
        """Goal of this test: --version and --help print to stdout and end with 0."""
        version = self.run_daemon("--version")
        self.assertRegex(version.stdout, r"\Aconvstored \d+\.\d+\.\d+\n\Z")
        text = self.run_daemon("--help")
        self.assertEqual((version.returncode, text.returncode), (0, 0))
        for option in ("--config", "--set", "--check-config"):
            self.assertIn(option, text.stdout)
        d = self.daemon()
        with d.client() as client:
            self.assertEqual(f"convstored {client.request('ping')['version']}\n", version.stdout)


if __name__ == "__main__":
    unittest.main()
