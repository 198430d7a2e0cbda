-- Version 2: models whose vectors are stored in different ways stand side by side. Each way has a
-- column of its own, which is NULL in the rows of the others: embedding is what version 1 made of it
-- (vector, or real[] where pgvector was not there), and embedding_vector or embedding_halfvec come
-- beside it. A daemon of version 1 goes on with the column that it knows.
--
-- Run again after pgvector has appeared, this adds its columns and changes nothing else:
-- "convstorectl migrate-vectors" does so by itself where the daemon may.
ALTER TABLE IF EXISTS convstore.embeddings ALTER COLUMN embedding DROP NOT NULL;

DO $convstore$
DECLARE
    home text;
    storage text;
BEGIN
    SELECT quote_ident(n.nspname) INTO home
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'vector'
            AND string_to_array(substring(e.extversion FROM '^[0-9]+\.[0-9]+'), '.')::int[]
                >= ARRAY[0, 7];
    IF home IS NULL OR to_regclass('convstore.embeddings') IS NULL THEN
        RETURN;
    END IF;
    FOREACH storage IN ARRAY ARRAY['vector', 'halfvec'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = 'convstore.embeddings'::regclass AND t.typname = storage);
        EXECUTE format('ALTER TABLE convstore.embeddings ADD COLUMN embedding_%s %s.%s',
            storage, home, storage);
        BEGIN
            EXECUTE format('ALTER TABLE convstore.embeddings ALTER COLUMN embedding_%s'
                ' SET STORAGE MAIN', storage);
        EXCEPTION WHEN feature_not_supported OR wrong_object_type THEN
            RAISE NOTICE 'convstore: not tuned: %', SQLERRM;
        END;
    END LOOP;
END
$convstore$;

INSERT INTO convstore.schema_version (version) VALUES (2) ON CONFLICT DO NOTHING;
