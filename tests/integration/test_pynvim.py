"""The daemon against a msgpack-RPC client that others wrote: pynvim's, as python3-pynvim has it."""
import unittest

from harness import Scenario, conversation

try:
    from pynvim.msgpack_rpc import socket_session
except ImportError:
    socket_session = None


@unittest.skipIf(socket_session is None, "python3-pynvim is not installed")
class Pynvim(Scenario):
    def test_stores_and_reads_stats(self):
        """Goal of this test: pynvim's session, which announces itself with a notification of its own,
        stores a conversation, gets errors as errors, and reads stats."""
        pg = self.postgres()
        d = self.daemon(pg)
        session = socket_session(str(d.socket))
        session.error_wrapper = RuntimeError
        self.addCleanup(session.close)
        sent = conversation("pynvim", "User: Grüße 🙂\nAI: Hello", metadata={"client": "pynvim"})
        stored = session.request("store", sent, {"wait": "stored"})
        self.assertEqual(pg.sql("select id::text, user_id, transcript, metadata"
                                " from convstore.conversations"),
                         [(stored["id"], "pynvim", sent["transcript"], {"client": "pynvim"})])
        many = session.request("store_many", [sent, {"user_id": 5}], {"wait": "stored"})
        self.assertEqual((len(many["ids"]), many["ids"][1], many["errors"][0][0]), (2, None, 1))
        with self.assertRaises(RuntimeError) as raised:
            session.request("store", {"user_id": "pynvim"})
        self.assertIn("INVALID_ARGUMENT", str(raised.exception))
        with self.assertRaises(RuntimeError) as raised:
            session.request("nvim_get_api_info")
        self.assertIn("UNKNOWN_METHOD", str(raised.exception))
        stats = session.request("stats")
        self.assertEqual((stats["completed"], stats["rejected"]), (2, 2))
        self.assertEqual(stats["operations"]["end_to_end"]["count"], 2)


if __name__ == "__main__":
    unittest.main()
