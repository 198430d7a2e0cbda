"""An embedder behind a name that no name server answers for."""
import os
import socket
import threading
import time
import unittest

from harness import Scenario, conversation, eventually, scaled

STORED = {"wait": "stored"}
SILENT = ("127.0.0.53", "127.0.0.9", "127.0.0.99")  # one of them is free
# The daemon alone sees this resolv.conf.
WRAPPER = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')


@unittest.skipIf(os.getuid() != 0, "port 53 and a mount of its own take root")
class EmbedderDns(Scenario):
    def silent_name_server(self):
        """Its address. It counts what it is asked."""
        for address in SILENT:
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                server.bind((address, 53))
            except OSError:
                server.close()
                continue
            self.addCleanup(server.close)
            server.settimeout(0.1)
            self.asked, self.ending = 0, threading.Event()
            thread = threading.Thread(target=self.swallow, args=(server,))
            thread.start()
            self.addCleanup(thread.join)
            self.addCleanup(self.ending.set)
            return address
        self.skipTest("each of the addresses has a name server")
        return None

    def swallow(self, server):
        while not self.ending.is_set():
            try:
                server.recv(512)
                self.asked += 1
            except socket.timeout:
                pass

    def test_a_name_server_that_never_answers(self):
        """Goal of this test: while the embedder's name hangs, texts are rows in time, the loop answers at
        once, stats say why there are no vectors, and the daemon ends soon when it is told to."""
        resolv = self.directory / "resolv.conf"
        resolv.write_text(f"nameserver {self.silent_name_server()}\n")
        d = self.daemon(self.shared_postgres(), wrapper=(*WRAPPER, str(resolv)),
                        embedding__provider="ollama", embedding__url="http://embedder.example:11434",
                        embedding__deadline_ms=300, embedding__timeout_ms=1000)
        slowest = 0
        for n in range(10):
            started = time.monotonic()
            with d.client(timeout=20) as client:
                client.request("store_many", [conversation(transcript=f"{n} {i}") for i in range(20)], STORED)
                self.assertLess(time.monotonic() - started, scaled(2))
                for _ in range(20):
                    started = time.monotonic()
                    client.request("ping")
                    slowest = max(slowest, time.monotonic() - started)
        self.assertLess(slowest, scaled(0.3))
        self.assertGreater(self.asked, 0)
        eventually(lambda: d.stats()["embedding"]["state"] == "failing", 10, "an alert")
        self.assertIn("esol", d.stats()["embedding"]["last_error"])
        started = time.monotonic()
        eventually(lambda: d.stats()["embedding"]["requests"] > 2, 30, "requests that end with their time-out")
        self.assertLess(time.monotonic() - started, scaled(10), "the resolver's own time-out is 5 s")
        self.assertEqual(d.stats()["embedding_backlog"], 200)
        started = time.monotonic()
        self.assertEqual(d.stop(), 0)
        self.assertLess(time.monotonic() - started, scaled(5))
        self.said = f"slowest ping {slowest * 1000:.1f} ms"


if __name__ == "__main__":
    unittest.main()
