"""PostgreSQL is away for a minute while clients store."""
import time
import unittest

from harness import SCALE, Scenario, eventually
from load import Load, check_loads

WAITS = True
OUTAGE_SECONDS = 60
TEXT_BYTES = 16384
QUEUE_SIZE = 100
MIB = 1 << 20
# The queue holds 1.6 MiB of texts; the rest is what comes and goes with them. More than twice as much is
# acked meanwhile.
MEMORY_MORE = 20 * MIB


class Outage(Scenario):
    time_limit = 240

    def test_a_minute_without_the_database(self):
        """Goal of this test: the database is away for 60 s under load, at its own durability: all is
        acked, in memory that does not grow with it, and is a row afterwards, once."""
        pg = self.postgres(durable=True)
        d = self.daemon(pg, queue__max_queue_size=QUEUE_SIZE, batch__batch_size=QUEUE_SIZE)
        loads = [Load(d, f"user {n}", self, pause=0.2, text_bytes=TEXT_BYTES) for n in range(3)]

        def acked():
            return sum(len(load.acked) for load in loads)
        eventually(lambda: d.stats()["completed"] > QUEUE_SIZE, 20, "the first rows")
        usual = d.memory()[0]
        pg.stop()
        before, until = acked(), time.monotonic() + OUTAGE_SECONDS
        eventually(lambda: d.stats()["database"]["state"] == "down", 10, "stats says down")
        for part in range(1, 5):
            time.sleep(max(until - OUTAGE_SECONDS * (4 - part) / 4 - time.monotonic(), 0))
            self.assertEqual([load.trouble for load in loads], [None] * 3)
            self.assertEqual(d.stats()["health"], "critical")
            self.assertGreater(acked(), before + 5 * QUEUE_SIZE * part)
        self.assertGreaterEqual(time.monotonic(), until)
        meanwhile = acked() - before
        pg.start()
        all_acked = check_loads(self, pg, [d], loads, 120)
        more = d.memory()[1] - usual
        self.assertGreater(meanwhile * TEXT_BYTES, 2 * MEMORY_MORE)
        if SCALE == 1:  # a sanitizer has needs of its own
            self.assertLess(more, MEMORY_MORE)
        self.faults = 1
        self.said = (f"{meanwhile} acked in {OUTAGE_SECONDS} s without PostgreSQL, {more / MIB:.1f} MiB more memory; "
                     f"{len(all_acked)} acked: 0 missing, 0 twice")


if __name__ == "__main__":
    unittest.main()
