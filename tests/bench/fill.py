"""Rows that are in the tables before a measurement begins."""


def conversations(postgres, count):
    """Short texts of 1,000 users, a year old at most."""
    postgres.sql(f"""
        insert into convstore.conversations
            (user_id, id, created_at, content_hash, platform, transcript)
        select 'user-' || lpad((i % 1000)::text, 4, '0'), gen_random_uuid(),
            now() - random() * interval '1 year', decode(md5(i::text), 'hex'), 'bench',
            repeat(md5(i::text), 6)
        from generate_series(1, {count}) i""")
    postgres.sql("checkpoint")


def for_reads(postgres, count):
    """The same with texts of common words, and vectors for the 64 users that are read."""
    words = "printer invoice refund delivery account morning weather battery".split()
    text = " || ' ' || ".join(f"'{w} ' || md5((i + {n})::text)" for n, w in enumerate(words))
    postgres.sql(f"""
        insert into convstore.conversations
            (user_id, id, created_at, content_hash, platform, transcript)
        select 'user-' || lpad((i % 1000)::text, 4, '0'), gen_random_uuid(),
            now() - random() * interval '1 year', decode(md5(i::text), 'hex'), 'bench', {text}
        from generate_series(1, {count}) i""")
    postgres.sql("""
        insert into convstore.embeddings
            (user_id, conversation_id, model_id, chunk, byte_start, byte_end, embedding)
        select user_id, id, (select max(model_id) from convstore.embedding_models), 0, 0, 0,
            (select array_agg((random() - 0.5)::real) from generate_series(1, 768)
             where id is not null)
        from convstore.conversations where user_id < 'user-0064'
        on conflict do nothing""")
    postgres.sql("analyze convstore.conversations, convstore.embeddings")
    postgres.sql("checkpoint")
