"""A client that stores while a test makes trouble, and the proof that nothing was lost."""
import threading
import time

from harness import RpcError, conversation, scaled


class Load(threading.Thread):
    """A client that stores one conversation after the other until it is ended; it must never fail. The
    texts are filled up to text_bytes."""

    def __init__(self, daemon, user, test, pause=0.002, text_bytes=0):
        super().__init__(daemon=True)
        self.client = daemon.client(timeout=30)
        self.user, self.pause, self.text_bytes = user, pause, text_bytes
        self.acked, self.trouble = {}, None
        self.ending = threading.Event()
        test.addCleanup(self.end)
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                texts = [f"{self.user} {len(self.acked) + n}".ljust(self.text_bytes, "x") for n in range(5)]
                asked = [(self.client.send("store", conversation(self.user, t)), t) for t in texts]
                for msgid, text in asked:
                    error, result = self.client.reply(msgid)
                    if error is not None:
                        raise RpcError(error)
                    self.acked[result["id"]] = text
                time.sleep(self.pause)
        except Exception as error:  # the test must hear of it
            self.trouble = error

    def end(self):
        self.ending.set()
        self.join(scaled(30))
        self.client.close()


def check_loads(test, pg, daemons, loads, seconds=60):
    """Ends the loads; everything that was acked is a row with its text, and there is nothing else.
    Returns what was acked: {id: text}."""
    acked = {}
    for load in loads:
        load.end()
        test.assertIsNone(load.trouble)
        acked.update(load.acked)
    for daemon in daemons:
        daemon.flush(seconds)
    rows = dict(pg.sql("select id::text, transcript from convstore.conversations"))
    missing = [key for key, text in acked.items() if rows.get(key) != text]
    test.assertEqual((len(missing), len(rows) - len(acked)), (0, 0), "missing, surplus")
    test.assertEqual(pg.count("dead_letters"), 0)
    return acked
