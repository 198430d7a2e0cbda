"""What operators see: timings that services record, alerts by their real causes, logs."""
import math
import unittest

from harness import RpcError, Scenario, conversation, eventually


class Recorded(Scenario):
    def test_a_services_own_timings(self):
        """Goal of this test: what services record, as requests or notifications, is in stats with its
        percentiles over each window; what is wrong is refused by name and counts nowhere."""
        d = self.daemon()
        with d.client() as client:
            for n in range(1, 101):
                self.assertIsNone(client.request("record", "llm.answer", n, n % 10 != 0))
            client.notify("record", "llm.answer", 0.25, True)
            found = client.request("stats")["operations"]["llm.answer"]
            for figures in (found, found["last_minute"], found["last_5_minutes"]):
                self.assertEqual((figures["count"], figures["errors"], figures["max_ms"]), (101, 10, 100))
                for name, exact in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)):
                    self.assertAlmostEqual(figures[name], exact, delta=exact * 0.01 + 1)
            wrong = [([7, 1, True], "operation: must be a string"), (["", 1, True], "operation: must be 1 to 64"),
                     (["a b", 1, True], "operation: must be 1 to 64"), (["queue", 1, True], "daemon's own"),
                     (["x", "1", True], "duration_ms"), (["x", -1, True], "duration_ms"),
                     (["x", math.nan, True], "duration_ms"), (["x", math.inf, True], "duration_ms"),
                     (["x", 1, 1], "success: must be true or false"), (["x", 1], "takes 3 to 3 parameters")]
            for params, text in wrong:
                with self.subTest(params), self.assertRaises(RpcError) as raised:
                    client.request("record", *params)
                self.assertEqual(raised.exception.name, "INVALID_ARGUMENT")
                self.assertIn(text, raised.exception.text)
                client.notify("record", *params)
            for n in range(63):
                client.request("record", f"name-{n}", 1, True)
            with self.assertRaises(RpcError) as raised:
                client.request("record", "name-64", 1, True)
            self.assertIn("64 names", raised.exception.text)
            self.assertEqual(len(client.request("stats")["operations"]), 5 + 64)


if __name__ == "__main__":
    unittest.main()
