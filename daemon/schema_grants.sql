-- For a site where the daemon's role may not make tables. Read it, put your names in, and run it as
-- the database's owner after the migrations, with database.auto_migrate = false.
--
-- Who may CREATE EXTENSION vector: a superuser; or any role with CREATE on the database where
-- pgvector's control file calls it trusted (SELECT trusted FROM pg_available_extension_versions WHERE
-- name = 'vector'). Without it vectors are stored as real[], and search compares them one by one.
--
-- CREATE EXTENSION vector;
-- CREATE ROLE convstore LOGIN;

GRANT USAGE ON SCHEMA convstore TO convstore;
GRANT SELECT, INSERT ON convstore.conversations, convstore.embeddings, convstore.embedding_models,
    convstore.embedding_backlog, convstore.dead_letters TO convstore;
GRANT SELECT ON convstore.schema_version TO convstore;

-- Leases and attempts of vectors that come later; dead letters retried or dropped; forget.
GRANT UPDATE, DELETE ON convstore.embedding_backlog, convstore.dead_letters TO convstore;
GRANT DELETE ON convstore.conversations, convstore.embeddings TO convstore;
