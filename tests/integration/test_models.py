"""A change of model: new conversations get the new one's vectors at once, the old ones when an
operator asks for it, and the old model can go."""
import json
import unittest

from harness import RpcError, Scenario, conversation, eventually, vector

STORED = {"wait": "stored"}
PREFIX = "search_document: "  # what nomic-embed-text wants before a text


class Models(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def store(self, daemon, texts):
        with daemon.client(timeout=20) as client:
            answer = client.request("store_many", [conversation(transcript=text) for text in texts],
                                    STORED)
        self.assertEqual(answer["errors"], [])

    def control(self, daemon, method, *params):
        with daemon.control(timeout=20) as client:
            return client.request(method, *params)

    def ctl(self, daemon, *arguments):
        done = daemon.ctl("--json", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_from_one_model_to_another(self):
        """Goal of this test: after a restart with another model new conversations have its vectors;
        reembed fills in the old ones, once; embeddings shows both models, and drops the old one but
        not the current."""
        d = self.daemon(self.pg)
        texts = [f"old {n}" for n in range(2500)]  # more than a slice
        for n in range(0, len(texts), 500):
            self.store(d, texts[n:n + 500])
        self.assertEqual(d.stop(), 0)
        server = self.ollama()
        d.settings.update({"embedding.provider": "ollama", "embedding.url": server.url,
                           "embedding.deadline_ms": 5000})
        d.start()
        self.store(d, ["new"])
        self.assertEqual(server.inputs, 1)
        models = self.ctl(d, "embeddings")["models"]
        self.assertEqual([(m["provider"], m["vectors"], m["backlog"], m["current"]) for m in models],
                         [("builtin", 2500, 0, False), ("ollama", 1, 0, True)])

        done = d.ctl("reembed", "--wait", seconds=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(d.stats()["embedding_backlog"], 0)
        self.assertEqual((server.inputs, len(set(server.texts))), (2501, 2501))
        self.assertEqual(self.control(d, "reembed"), {"model_id": 2, "current": True,
                                                      "conversations": 2501, "queued": 0})
        models = self.ctl(d, "embeddings", "list")["models"]
        self.assertEqual([m["vectors"] for m in models], [2500, 2501])
        for text, numbers in self.pg.sql("select c.transcript, e.embedding::real[]"
                                         " from convstore.embeddings e join convstore.conversations c"
                                         " on c.user_id = e.user_id and c.id = e.conversation_id"
                                         " where e.model_id = %s limit 100", models[1]["model_id"]):
            expected = vector(PREFIX + text)
            self.assertLess(max(abs(a - b) for a, b in zip(numbers, expected, strict=True)), 1e-6, text)

        with self.assertRaises(RpcError) as caught:
            self.control(d, "embeddings", {"action": "drop", "model_id": models[1]["model_id"]})
        self.assertEqual(caught.exception.name, "INVALID_ARGUMENT")
        with self.assertRaises(RpcError) as caught:
            self.control(d, "embeddings", {"action": "drop", "model_id": 999})
        self.assertEqual(caught.exception.name, "NOT_FOUND")
        self.assertEqual(self.ctl(d, "embeddings", "drop", models[0]["model_id"]), {"dropped": 2500})
        self.assertEqual([m["model_id"] for m in self.ctl(d, "embeddings")["models"]],
                         [models[1]["model_id"]])
        self.assertEqual(self.pg.count("embeddings"), 2501)

    def test_another_daemons_model(self):
        """Goal of this test: reembed --model fills in the vectors of a model that another daemon on
        the database has, and says that it is not this one's."""
        server = self.ollama()
        other = self.daemon(self.pg, name="other", embedding__provider="ollama",
                            embedding__url=server.url, embedding__deadline_ms=5000)
        self.store(other, ["its own"])
        d = self.daemon(self.pg)
        self.store(d, [f"text {n}" for n in range(30)])
        models = {m["provider"]: m["model_id"] for m in self.ctl(d, "embeddings")["models"]}
        done = d.ctl("--json", "reembed", "--wait", "--model", models["ollama"])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout), {"model_id": models["ollama"], "current": False,
                                                   "conversations": 31, "queued": 30})
        self.assertIn("not this daemon's", done.stderr)
        eventually(lambda: self.pg.value("select count(*) from convstore.embeddings"
                                         " where model_id = %s", models["ollama"]) == 31)
        self.assertEqual(self.pg.count("embeddings"), 31 + 30)
        self.assertEqual(d.ctl("reembed", "--model", "9").returncode, 1)
        self.assertEqual(d.ctl("reembed", "--model", "ollama").returncode, 2)

    def test_what_is_wrong_with_a_call(self):
        """Goal of this test: wrong options are refused by name, services may not call it, and without
        a provider there is nothing to reembed."""
        d = self.daemon(self.pg, embedding__provider="none")
        self.store(d, ["text"])
        for options, word in (({"action": "burn"}, "options.action"), ({"action": "drop"}, "model_id"),
                              ({"model_id": 0}, "options.model_id"), ({"more": 1}, "more"), (7, "map")):
            with self.assertRaises(RpcError) as caught:
                self.control(d, "embeddings", options)
            self.assertEqual(caught.exception.name, "INVALID_ARGUMENT")
            self.assertIn(word, caught.exception.text)
        for method, option in (("reembed", {"action": "list"}), ("migrate_vectors", {"model_id": 1}),
                               ("migrate_vectors", {"after": "here"})):
            with self.assertRaises(RpcError) as caught:
                self.control(d, method, option)
            self.assertEqual(caught.exception.name, "INVALID_ARGUMENT")
        for method in ("reembed", "migrate_vectors"):
            with self.assertRaises(RpcError) as caught:
                self.control(d, method)
            self.assertIn("embedding.provider", caught.exception.text)
        with d.client() as client, self.assertRaises(RpcError) as caught:
            client.request("embeddings")
        self.assertEqual(caught.exception.name, "PERMISSION_DENIED")
        self.assertEqual(self.control(d, "embeddings"), {"models": []})


if __name__ == "__main__":
    unittest.main()
