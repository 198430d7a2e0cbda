"""What embedding promises, by count: each text is sent once; near-duplicates are found first.

CONVSTORE_DATASET=FILE takes the near-duplicates from another file of JSON lines than the project's
samples.
"""
import json
import os
import pathlib
import random
import unittest

from harness import ROOT, Scenario, conversation

STORED = {"wait": "stored"}
SAMPLES = pathlib.Path(os.environ.get("CONVSTORE_DATASET") or ROOT / "tests" / "data" / "conversations.jsonl")
CONVERSATIONS = 10000
STORE_MANY = 500
COMPARED = 200
WORDS_MIN = 10  # of which a tenth is one

# For each changed conversation, whether its original is nearest, by the nearest of their chunks.
NEAREST = """
    with changed as (select * from convstore.embeddings where user_id = 'changed'),
        original as (select * from convstore.embeddings where user_id = 'original'),
        pairs as (select c.conversation_id as changed, o.conversation_id as original,
                min({distance}) as distance
            from changed c cross join original o group by 1, 2)
    select count(*) from (select distinct on (changed) changed, original from pairs
        order by changed, distance) nearest
        join public.copies on copies.changed = nearest.changed and copies.original = nearest.original"""
WITHOUT_PGVECTOR = "-(select sum(x * y) from unnest(c.embedding, o.embedding) as t (x, y))"


def uuid(n):
    return f"00000000-0000-4000-8000-{n:012d}"


class Evidence(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def store(self, daemon, conversations):
        with daemon.client(timeout=60) as client:
            for n in range(0, len(conversations), STORE_MANY):
                answer = client.request("store_many", conversations[n:n + STORE_MANY], STORED)
                self.assertEqual(answer["errors"], [])

    def test_each_distinct_text_is_sent_once(self):
        """Goal of this test: of 10,000 conversations half repeat an earlier text, near or far; the
        embedder gets each distinct text once, by its own count, and every row has its vector."""
        chance = random.Random(1)
        texts = []
        for n in range(CONVERSATIONS // 2):
            texts.append(f"text {n}")
            # Now and then of the same batch, so that it is under way: then the cache has nothing yet.
            texts.append(texts[-1] if chance.random() < 0.3 else chance.choice(texts))
        server = self.ollama(dimension=16)
        server.delay = 0.01
        d = self.daemon(self.pg, embedding__provider="ollama", embedding__url=server.url,
                        embedding__dimensions=16, embedding__deadline_ms=20000,
                        cache__embedding_cache_size=CONVERSATIONS)
        self.store(d, [conversation(transcript=text) for text in texts])
        self.assertEqual(len(texts), CONVERSATIONS)
        self.assertEqual(server.inputs, len(set(texts)))
        self.assertEqual(len(set(server.texts)), len(set(texts)))
        self.assertEqual(self.pg.count("embeddings"), CONVERSATIONS)
        self.said = f"{len(texts)} conversations, {server.inputs} inputs, {server.requests} requests"

    def long_enough(self, text):
        return text if text and len(text.split(" ")) >= WORDS_MIN else None

    def change(self, text, vocabulary, chance):
        """The same with a tenth of its words exchanged."""
        words = text.split(" ")
        for place in chance.sample(range(len(words)), max(1, len(words) // 10)):
            words[place] = chance.choice(vocabulary)
        return " ".join(words)

    def find_near_duplicates(self, source):
        """How many of COMPARED originals are nearest to their changed copies."""
        chance = random.Random(2)
        lines = [json.loads(line) for line in SAMPLES.read_bytes().decode().split("\n") if line]
        texts = {line["transcript"]: self.long_enough(line.get("summary")) for line in lines
                 if self.long_enough(line["transcript"])}
        vocabulary = sorted({word for text in texts for word in text.split(" ")})
        chosen = chance.sample(sorted(texts), COMPARED)
        originals, copies = [], []
        for n, text in enumerate(chosen):
            summary = texts[text]
            originals.append(conversation(id=uuid(n), user_id="original", transcript=text, summary=summary))
            copies.append(conversation(
                id=uuid(COMPARED + n), user_id="changed", transcript=self.change(text, vocabulary, chance),
                summary=summary and self.change(summary, vocabulary, chance)))
        d = self.daemon(self.pg, embedding__source=source, embedding__deadline_ms=20000)
        self.store(d, originals + copies)
        self.pg.sql("drop table if exists public.copies")
        self.pg.sql("create table public.copies as select"
                    " ('00000000-0000-4000-8000-' || lpad(c.n::text, 12, '0'))::uuid as original,"
                    " ('00000000-0000-4000-8000-' || lpad((c.n + %s)::text, 12, '0'))::uuid as changed"
                    " from generate_series(0, %s) c (n)", COMPARED, COMPARED - 1)
        pgvector = d.stats()["embedding"]["storage"] == "vector"
        found = self.pg.value(NEAREST.format(
            distance="c.embedding <=> o.embedding" if pgvector else WITHOUT_PGVECTOR))
        self.said = f"{source}: {found} of {COMPARED}"
        self.assertGreaterEqual(found / COMPARED, 0.95)

    def test_near_duplicates_by_transcript(self):
        """Goal of this test: with a tenth of the words changed the original is nearest for at least 95 %."""
        self.find_near_duplicates("transcript")

    def test_near_duplicates_by_summary(self):
        """Goal of this test: the same where the summaries are embedded, transcripts where there is none."""
        self.find_near_duplicates("summary")


if __name__ == "__main__":
    unittest.main()
