"""An embedder behind a name that no name server answers for."""
import os
import time
import unittest

from harness import Scenario, conversation, eventually, scaled
from name_server import NameServer

STORED = {"wait": "stored"}


@unittest.skipIf(os.getuid() != 0, "port 53 and a mount of its own take root")
class EmbedderDns(Scenario):
    def test_a_name_server_that_never_answers(self):
        """Goal of this test: while the embedder's name hangs, texts are rows in time, the loop answers at
        once, stats say why there are no vectors, and the daemon ends soon when it is told to."""
        names = NameServer(self)
        d = self.daemon(self.shared_postgres(), wrapper=names.wrapper,
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
        self.assertGreater(names.asked, 0)
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
