-- The ledger's first shape. See docs/ledger.md for what each hash covers.
--
-- History (chain, genesis, model, delta, run, revision, revision_tensor, prune) is appended and
-- never changed: triggers refuse UPDATE and DELETE, and an insert must be the next one. There is
-- no UNIQUE besides the primary keys, because INSERT OR REPLACE that collides on a second unique
-- column removes the old row before any trigger of the new one could object.
--
-- A row of history is written first, under the number of the chain entry that will seal it.

CREATE TABLE migration (
    number     INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    sha256     BLOB    NOT NULL CHECK (length(sha256) = 32),
    applied_us INTEGER NOT NULL
) STRICT;

CREATE TABLE chain (
    seq      INTEGER PRIMARY KEY,
    format   INTEGER NOT NULL,
    time_us  INTEGER NOT NULL,
    author   TEXT    NOT NULL,
    verified INTEGER NOT NULL CHECK (verified IN (0, 1)),
    kind     TEXT    NOT NULL CHECK (kind IN ('genesis', 'model', 'delta', 'run', 'revision', 'prune')),
    subject  TEXT    NOT NULL,
    model    TEXT    NOT NULL,
    record   BLOB    NOT NULL CHECK (length(record) = 32),
    prev     BLOB    NOT NULL CHECK (length(prev) = 32),
    hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- Bytes by their SHA-256: requests, results, deltas, manifests, tensors. NULL bytes: the bytes
-- are the file objects/ab/cdef… . The only rows of the history that may go, and only when pruned.
CREATE TABLE body (
    hash  BLOB    PRIMARY KEY NOT NULL CHECK (length(hash) = 32),
    size  INTEGER NOT NULL CHECK (size >= 0),
    bytes BLOB    CHECK (bytes IS NULL OR length(bytes) = size)
) STRICT;

CREATE TABLE genesis (
    entry INTEGER PRIMARY KEY REFERENCES chain (seq) DEFERRABLE INITIALLY DEFERRED,
    id    TEXT NOT NULL,
    nonce BLOB NOT NULL CHECK (length(nonce) = 32)
) STRICT;

CREATE TABLE model (
    entry             INTEGER PRIMARY KEY REFERENCES chain (seq) DEFERRABLE INITIALLY DEFERRED,
    id                TEXT NOT NULL,
    name              TEXT NOT NULL,
    base_digest       TEXT NOT NULL,
    source_sha256     TEXT NOT NULL,
    pretrained_parent TEXT NOT NULL,
    manifest          BLOB NOT NULL
) STRICT;

CREATE TABLE delta (
    entry   INTEGER PRIMARY KEY REFERENCES chain (seq) DEFERRABLE INITIALLY DEFERRED,
    id      TEXT    NOT NULL,
    model   INTEGER NOT NULL REFERENCES model (entry),
    method  TEXT    NOT NULL,
    parts   TEXT    NOT NULL,
    size    INTEGER NOT NULL,
    content BLOB    NOT NULL
) STRICT;

CREATE TABLE revision (
    seq      INTEGER PRIMARY KEY,
    entry    INTEGER NOT NULL REFERENCES chain (seq) DEFERRABLE INITIALLY DEFERRED,
    id       TEXT    NOT NULL,
    model    INTEGER NOT NULL REFERENCES model (entry),
    branch   TEXT    NOT NULL,
    parent   INTEGER REFERENCES revision (seq),
    kind     TEXT    NOT NULL,
    target   INTEGER REFERENCES revision (seq), -- rollback: whose state this is, as asked for
    state    INTEGER NOT NULL,                  -- the revision that made this state: itself, or an older one
    depth    INTEGER NOT NULL,                  -- deltas between the base and this state
    snapshot INTEGER NOT NULL CHECK (snapshot IN (0, 1)), -- every changed tensor is kept as an object
    delta    INTEGER REFERENCES delta (entry),
    run      INTEGER REFERENCES run (entry),
    digest   TEXT    NOT NULL,
    message  TEXT    NOT NULL,
    summary  TEXT
) STRICT;

-- The tensors a revision changed; of a snapshot: every tensor that differs from the base.
CREATE TABLE revision_tensor (
    revision INTEGER NOT NULL REFERENCES revision (seq),
    tensor   TEXT    NOT NULL,
    hash     BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (revision, tensor)
) STRICT, WITHOUT ROWID;

CREATE TABLE run (
    entry       INTEGER PRIMARY KEY REFERENCES chain (seq) DEFERRABLE INITIALLY DEFERRED,
    id          TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    model       INTEGER NOT NULL REFERENCES model (entry),
    revision    INTEGER REFERENCES revision (seq), -- the view that was looked at
    view_digest TEXT    NOT NULL,
    cache_key   BLOB,
    status      INTEGER NOT NULL,
    request     BLOB,
    result      BLOB,
    engine      TEXT    NOT NULL,
    kernel      TEXT    NOT NULL,
    threads     INTEGER NOT NULL,
    seed        INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    job         TEXT
) STRICT;

CREATE TABLE prune (
    entry  INTEGER PRIMARY KEY REFERENCES chain (seq) DEFERRABLE INITIALLY DEFERRED,
    id     TEXT NOT NULL,
    model  INTEGER NOT NULL REFERENCES model (entry),
    hash   BLOB NOT NULL CHECK (length(hash) = 32),
    reason TEXT NOT NULL
) STRICT;

CREATE INDEX model_by_id ON model (id);
CREATE INDEX model_by_digest ON model (base_digest);
CREATE INDEX delta_by_id ON delta (id);
CREATE INDEX delta_by_content ON delta (content);
CREATE INDEX revision_by_entry ON revision (entry);
CREATE INDEX revision_by_id ON revision (id);
CREATE INDEX revision_by_branch ON revision (model, branch, seq);
CREATE INDEX revision_tensor_by_hash ON revision_tensor (hash);
CREATE INDEX run_by_id ON run (id);
CREATE INDEX run_by_model ON run (model);
CREATE INDEX run_by_kind ON run (model, kind);
CREATE INDEX run_by_cache_key ON run (cache_key) WHERE cache_key IS NOT NULL;
CREATE INDEX run_by_request ON run (request);
CREATE INDEX run_by_result ON run (result);
CREATE INDEX revision_by_delta ON revision (delta) WHERE delta IS NOT NULL;
CREATE INDEX prune_by_hash ON prune (hash);

-- Not history: what is still going on, and answers kept for a while.

CREATE TABLE job (
    number     INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    kind       TEXT    NOT NULL,
    model      INTEGER REFERENCES model (entry),
    author     TEXT    NOT NULL,
    created_us INTEGER NOT NULL,
    ended_us   INTEGER,
    state      TEXT    NOT NULL CHECK (state IN ('queued', 'done', 'failed', 'cancelled')),
    result     BLOB
) STRICT;
CREATE INDEX job_unended ON job (number) WHERE state = 'queued';

CREATE TABLE answer (
    scope      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    request    BLOB    NOT NULL CHECK (length(request) = 32),
    status     INTEGER, -- NULL: its job still runs
    result     BLOB,
    job        TEXT,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answer_by_age ON answer (created_us);
CREATE INDEX answer_by_job ON answer (job) WHERE job IS NOT NULL;

-- Appending only.

CREATE TRIGGER chain_next BEFORE INSERT ON chain
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
  OR NEW.prev IS NOT coalesce((SELECT hash FROM chain ORDER BY seq DESC LIMIT 1), zeroblob(32))
BEGIN SELECT RAISE(ABORT, 'chain takes only its next entry'); END;
CREATE TRIGGER chain_no_update BEFORE UPDATE ON chain
BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;
CREATE TRIGGER chain_no_delete BEFORE DELETE ON chain
BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;

CREATE TRIGGER genesis_next BEFORE INSERT ON genesis
WHEN NEW.entry IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain) OR NEW.entry <> 1
BEGIN SELECT RAISE(ABORT, 'genesis takes only the first entry'); END;
CREATE TRIGGER genesis_no_update BEFORE UPDATE ON genesis
BEGIN SELECT RAISE(ABORT, 'genesis is append-only'); END;
CREATE TRIGGER genesis_no_delete BEFORE DELETE ON genesis
BEGIN SELECT RAISE(ABORT, 'genesis is append-only'); END;

CREATE TRIGGER model_next BEFORE INSERT ON model
WHEN NEW.entry IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
  OR EXISTS (SELECT 1 FROM model WHERE entry = NEW.entry OR id = NEW.id OR base_digest = NEW.base_digest)
BEGIN SELECT RAISE(ABORT, 'model takes only the next entry, with a new id and base'); END;
CREATE TRIGGER model_no_update BEFORE UPDATE ON model
BEGIN SELECT RAISE(ABORT, 'model is append-only'); END;
CREATE TRIGGER model_no_delete BEFORE DELETE ON model
BEGIN SELECT RAISE(ABORT, 'model is append-only'); END;

CREATE TRIGGER delta_next BEFORE INSERT ON delta
WHEN NEW.entry IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
  OR EXISTS (SELECT 1 FROM delta WHERE entry = NEW.entry OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'delta takes only the next entry, with a new id'); END;
CREATE TRIGGER delta_no_update BEFORE UPDATE ON delta
BEGIN SELECT RAISE(ABORT, 'delta is append-only'); END;
CREATE TRIGGER delta_no_delete BEFORE DELETE ON delta
BEGIN SELECT RAISE(ABORT, 'delta is append-only'); END;

CREATE TRIGGER revision_next BEFORE INSERT ON revision
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM revision)
  OR NEW.entry IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
  OR EXISTS (SELECT 1 FROM revision WHERE entry = NEW.entry OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'revision takes only the next one, with a new id'); END;
CREATE TRIGGER revision_no_update BEFORE UPDATE ON revision
BEGIN SELECT RAISE(ABORT, 'revision is append-only'); END;
CREATE TRIGGER revision_no_delete BEFORE DELETE ON revision
BEGIN SELECT RAISE(ABORT, 'revision is append-only'); END;

CREATE TRIGGER revision_tensor_next BEFORE INSERT ON revision_tensor
WHEN (SELECT entry FROM revision WHERE seq = NEW.revision)
     IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
BEGIN SELECT RAISE(ABORT, 'revision_tensor takes only rows of a revision that is not sealed'); END;
CREATE TRIGGER revision_tensor_no_update BEFORE UPDATE ON revision_tensor
BEGIN SELECT RAISE(ABORT, 'revision_tensor is append-only'); END;
CREATE TRIGGER revision_tensor_no_delete BEFORE DELETE ON revision_tensor
BEGIN SELECT RAISE(ABORT, 'revision_tensor is append-only'); END;

CREATE TRIGGER run_next BEFORE INSERT ON run
WHEN NEW.entry IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
  OR EXISTS (SELECT 1 FROM run WHERE entry = NEW.entry OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'run takes only the next entry, with a new id'); END;
CREATE TRIGGER run_no_update BEFORE UPDATE ON run
BEGIN SELECT RAISE(ABORT, 'run is append-only'); END;
CREATE TRIGGER run_no_delete BEFORE DELETE ON run
BEGIN SELECT RAISE(ABORT, 'run is append-only'); END;

CREATE TRIGGER prune_next BEFORE INSERT ON prune
WHEN NEW.entry IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
BEGIN SELECT RAISE(ABORT, 'prune takes only the next entry'); END;
CREATE TRIGGER prune_no_update BEFORE UPDATE ON prune
BEGIN SELECT RAISE(ABORT, 'prune is append-only'); END;
CREATE TRIGGER prune_no_delete BEFORE DELETE ON prune
BEGIN SELECT RAISE(ABORT, 'prune is append-only'); END;

CREATE TRIGGER body_no_update BEFORE UPDATE ON body
BEGIN SELECT RAISE(ABORT, 'body is never rewritten'); END;
CREATE TRIGGER body_only_pruned BEFORE DELETE ON body
WHEN NOT EXISTS (SELECT 1 FROM prune WHERE hash = OLD.hash)
BEGIN SELECT RAISE(ABORT, 'body goes only when pruned'); END;
CREATE TRIGGER body_new BEFORE INSERT ON body
WHEN EXISTS (SELECT 1 FROM body WHERE hash = NEW.hash)
BEGIN SELECT RAISE(ABORT, 'body is never rewritten'); END;

CREATE TRIGGER migration_no_update BEFORE UPDATE ON migration
BEGIN SELECT RAISE(ABORT, 'migration is append-only'); END;
CREATE TRIGGER migration_no_delete BEFORE DELETE ON migration
BEGIN SELECT RAISE(ABORT, 'migration is append-only'); END;
CREATE TRIGGER migration_next BEFORE INSERT ON migration
WHEN NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM migration)
BEGIN SELECT RAISE(ABORT, 'migration takes only the next number'); END;
