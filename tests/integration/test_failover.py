"""A primary and an asynchronous standby: the standby that lags is promoted under load."""
import os
import re
import signal
import unittest

from harness import Postgres, Scenario, conversation, eventually
from load import Load, check_loads


class Failover(Scenario):
    def pair(self):
        """Both with the durability that PostgreSQL has by default."""
        primary = self.postgres("pg", durable=True)
        standby = Postgres(self.directory / "standby", durable=True)
        self.addCleanup(standby.drop)
        standby.start_as_standby(primary)
        eventually(lambda: primary.value("select count(*) from pg_stat_replication"
                                         " where state = 'streaming'"), 20, "a standby that streams")
        return primary, standby

    @staticmethod
    def conninfo(*servers):
        """All of them in one string; target_session_attrs=read-write is the daemon's default."""
        hosts = [re.search(r"host=(\S+)", server.conninfo)[1] for server in servers]
        return f"host={','.join(hosts)} dbname=postgres user=postgres"

    def lose_the_primary(self, primary, daemon):
        """Commits that the standby never sees, and then the primary's death. How many rows it had."""
        eventually(lambda: daemon.stats()["completed"] > 200, 20, "the first rows")
        os.kill(primary.value("select pid from pg_stat_replication"), signal.SIGSTOP)
        before = daemon.stats()["completed"]
        eventually(lambda: daemon.stats()["completed"] > before + 200, 20, "rows that the standby lacks")
        count = primary.count()
        primary.kill()
        return count

    def start(self, primary, standby, **settings):
        return self.daemon(database__conninfo=self.conninfo(primary, standby),
                           journal__retain_ms=600000, batch__batch_timeout_ms=10,
                           batch__flush_interval_ms=5, **settings)

    def check_promoted(self, standby, d, loads, count):
        acked = check_loads(self, standby, [d], loads)
        promoted = re.findall(r"database\.promoted timeline_before=1 timeline=2 replayed=(\d+)", d.log())
        self.assertGreater(max(map(int, promoted), default=0), 200)
        self.assertGreater(len(acked), count)
        self.assertEqual(d.stats()["queued"], 0)
        self.assertEqual((d.journal / "timeline").read_text(), "2\n")
        return acked

    def test_a_lagging_standby_is_promoted_under_load(self):
        """Goal of this test: the primary dies with commits that its asynchronous standby never saw;
        the standby is promoted while three clients store: every acked conversation is there, once."""
        primary, standby = self.pair()
        d = self.start(primary, standby)
        loads = [Load(d, f"user {n}", self) for n in range(3)]
        count = self.lose_the_primary(primary, d)
        lacking = count - standby.count()
        self.assertGreater(lacking, 50, "the standby lacked nothing: the test shows nothing")
        standby.value("select pg_promote()")
        eventually(lambda: standby.count() > count, 30, "rows on the new primary")
        acked = self.check_promoted(standby, d, loads, count)
        self.faults = 1
        self.said = (f"{len(acked)} acked, {lacking} rows missing on the standby when it was promoted;"
                     f" afterwards 0 missing, 0 twice")

    def test_promoted_while_no_daemon_runs(self):
        """Goal of this test: the daemon is killed, the primary dies, the standby is promoted; the next
        daemon sees another timeline than the last one did and writes what the standby lacks."""
        primary, standby = self.pair()
        d = self.start(primary, standby)
        loads = [Load(d, "user", self)]
        os.kill(primary.value("select pid from pg_stat_replication"), signal.SIGSTOP)
        eventually(lambda: d.stats()["completed"] > 300, 20, "rows that the standby lacks")
        loads[0].end()
        d.flush()
        count = primary.count()
        d.kill()
        primary.kill()
        standby.value("select pg_promote()")
        self.assertLess(standby.count(), count)
        d.start()
        loads.append(Load(d, "later", self))
        eventually(lambda: len(loads[1].acked) > 50, 20, "more conversations")
        self.check_promoted(standby, d, loads, count)

    def test_what_was_forgotten_stays_so(self):
        """Goal of this test: a standby is promoted that has neither the last rows nor seen what was
        forgotten: the replay brings back all but that, and what the standby still had is removed."""
        primary, standby = self.pair()
        d = self.start(primary, standby)
        with d.client(timeout=30) as client, d.control(timeout=30) as control:
            def store(user):
                client.request("store_many", [conversation(user, f"{user} {n}") for n in range(50)],
                               {"wait": "stored"})

            for user in ("ann", "bob"):
                store(user)
            eventually(lambda: standby.count() == 100, 20, "the standby has them")
            os.kill(primary.value("select pid from pg_stat_replication"), signal.SIGSTOP)
            for user in ("ann", "bob"):
                store(user)
            self.assertEqual(control.request("forget", {"user_id": "ann"})["removed"], 100)
            store("ann")  # is back, and these are not forgotten
            primary.kill()
            standby.value("select pg_promote()")
            store("eve")
            count = "select count(*) from convstore.conversations where user_id = %s"
            eventually(lambda: standby.value(count, "bob") == 100, 30, "the replay is done")
            eventually(lambda: "forget.done what=all_again" in d.log(), 30, "forgotten again")
            d.flush()
            self.assertEqual(standby.value(count, "ann"), 50)
            eventually(lambda: standby.value("select count(*) from convstore.embeddings"
                                             " where user_id = 'ann'") == 50, 20, "their vectors")
            self.assertEqual(standby.count(), 200)

    def test_a_mere_restart_replays_nothing(self):
        """Goal of this test: a primary that crashes and comes back is the same one: no replay."""
        primary = self.postgres("pg", durable=True)
        d = self.daemon(primary, journal__retain_ms=600000)
        loads = [Load(d, "user", self)]
        eventually(lambda: d.stats()["completed"] > 100, 20, "the first rows")
        primary.kill()
        primary.start()
        before = d.stats()["completed"]
        eventually(lambda: d.stats()["completed"] > before + 50, 20, "rows again")
        check_loads(self, primary, [d], loads)
        self.assertNotIn("database.promoted", d.log())


if __name__ == "__main__":
    unittest.main()
