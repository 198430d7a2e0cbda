"""Beside a busy database the threads that acknowledge come first."""
import os
import pathlib
import resource
import subprocess

from harness import BUILD, Scenario, eventually, scaled

ACKNOWLEDGE = {"convstored", "journal-sync"}


def permitted():
    return os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_RTPRIO)[0] >= 1


def real_time(daemon):
    """The names of the daemon's threads that have a real-time priority."""
    names = set()
    for task in pathlib.Path(f"/proc/{daemon.pid}/task").iterdir():
        if os.sched_getscheduler(int(task.name)) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR:
            names.add((task / "comm").read_text().strip())
    return names


class Rush(Scenario):
    def test_who_acknowledges_comes_first(self):
        """Goal of this test: while thousands a second come in beside the rows, the loop and the sync
        thread, and no other, have a real-time priority where that is permitted, and give it back
        after; all that was acknowledged is stored."""
        d = self.daemon(self.shared_postgres(), embedding__provider="none")
        self.assertEqual(real_time(d), set())
        load = subprocess.Popen([str(BUILD / "convstore-bench"), "saturate", "--socket", str(d.socket),
                                 "--connections", "20", "--wait", "stored", "--depth", "100", "--size", "100",
                                 "--seconds", str(scaled(60)), "--quiet"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(load.wait)
        self.addCleanup(load.kill)
        if permitted():
            eventually(lambda: real_time(d) == ACKNOWLEDGE, 30, "both threads come first")
        else:
            eventually(lambda: d.stats()["completed"] > 20000, 30, "20,000 rows")
            self.assertEqual(real_time(d), set())
        load.kill()
        load.wait()
        d.flush()
        # The sync thread hears of it with its next group.
        with d.client() as client:
            def calm():
                client.request("store", {"user_id": "ann", "platform": "web", "transcript": "calm"})
                return real_time(d) == set()
            eventually(calm, 30, "both threads stand back")
        stats = d.stats()
        self.assertEqual((stats["failed"], stats["dead_letters"]), (0, 0))
        self.said = "first" if permitted() else "not permitted: as all others"
