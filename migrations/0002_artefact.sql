-- Artefacts: what is made once and named later, such as sets of rows and regions of a model. One
-- table for all kinds, which are words of the program's, not of the schema's.
--
-- The chain listed its kinds in a CHECK, so it is made again, row by row as it was; children refer
-- to it deferred, so all of this is one transaction with foreign keys on. From here on a kind is a
-- table whose rows it seals: what the chain names and the program does not know is a finding of verify.

CREATE TABLE chain_before AS SELECT * FROM chain;
DROP TABLE chain;
CREATE TABLE chain (
    seq      INTEGER PRIMARY KEY,
    format   INTEGER NOT NULL,
    time_us  INTEGER NOT NULL,
    author   TEXT    NOT NULL,
    verified INTEGER NOT NULL CHECK (verified IN (0, 1)),
    kind     TEXT    NOT NULL CHECK (kind <> ''),
    subject  TEXT    NOT NULL,
    model    TEXT    NOT NULL,
    record   BLOB    NOT NULL CHECK (length(record) = 32),
    prev     BLOB    NOT NULL CHECK (length(prev) = 32),
    hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;
INSERT INTO chain (seq, format, time_us, author, verified, kind, subject, model, record, prev, hash)
SELECT seq, format, time_us, author, verified, kind, subject, model, record, prev, hash
FROM chain_before ORDER BY seq;
DROP TABLE chain_before;

CREATE TRIGGER chain_next BEFORE INSERT ON chain
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
  OR NEW.prev IS NOT coalesce((SELECT hash FROM chain ORDER BY seq DESC LIMIT 1), zeroblob(32))
BEGIN SELECT RAISE(ABORT, 'chain takes only its next entry'); END;
CREATE TRIGGER chain_no_update BEFORE UPDATE ON chain
BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;
CREATE TRIGGER chain_no_delete BEFORE DELETE ON chain
BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;

CREATE TABLE artefact (
    entry   INTEGER PRIMARY KEY REFERENCES chain (seq) DEFERRABLE INITIALLY DEFERRED,
    id      TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    model   INTEGER REFERENCES model (entry), -- NULL: of no model
    name    TEXT    NOT NULL,                 -- '': none. The newest of a name is the one it means
    summary TEXT    NOT NULL,                 -- JSON
    size    INTEGER NOT NULL,
    content BLOB    NOT NULL CHECK (length(content) = 32),
    run     INTEGER REFERENCES run (entry)    -- that made it; NULL: a request did
) STRICT;

CREATE INDEX artefact_by_id ON artefact (id);
CREATE INDEX artefact_by_kind ON artefact (kind, name);
CREATE INDEX artefact_by_content ON artefact (content);

CREATE TRIGGER artefact_next BEFORE INSERT ON artefact
WHEN NEW.entry IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM chain)
  OR EXISTS (SELECT 1 FROM artefact WHERE entry = NEW.entry OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'artefact takes only the next entry, with a new id'); END;
CREATE TRIGGER artefact_no_update BEFORE UPDATE ON artefact
BEGIN SELECT RAISE(ABORT, 'artefact is append-only'); END;
CREATE TRIGGER artefact_no_delete BEFORE DELETE ON artefact
BEGIN SELECT RAISE(ABORT, 'artefact is append-only'); END;
