-- The ledger's one table. docs/format.md says what each column holds; the indexes and
-- guards here are conveniences and rails. What proves tampering is the chain.

CREATE TABLE events (
  seq        INTEGER PRIMARY KEY CHECK (seq > 0),
  at         INTEGER NOT NULL,
  kind       TEXT    NOT NULL CHECK (length(kind) BETWEEN 3 AND 128),
  stream     TEXT    NOT NULL CHECK (length(stream) BETWEEN 1 AND 512),
  key        TEXT             CHECK (length(key) BETWEEN 1 AND 512),
  meta       BLOB,
  salt       BLOB             CHECK (length(salt) = 16),
  body       BLOB             CHECK ((body IS NULL) = (salt IS NULL)),
  body_hash  BLOB    NOT NULL CHECK (length(body_hash) = 32),
  prev_hash  BLOB    NOT NULL CHECK (length(prev_hash) = 32),
  hash       BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- The rowid is seq and ends every index entry, so this serves (stream, seq) without
-- storing seq twice.
CREATE INDEX events_by_stream ON events (stream);

CREATE UNIQUE INDEX events_by_key ON events (key) WHERE key IS NOT NULL;

-- A new row follows the last one. This also stops INSERT OR REPLACE, which deletes without
-- firing a DELETE trigger: a seq in use is no next seq, and a key in use is refused here.
CREATE TRIGGER events_follow BEFORE INSERT ON events
WHEN ((NEW.seq - 1, NEW.prev_hash) IS NOT (SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1)
      AND NOT (NEW.seq = 1 AND NOT EXISTS (SELECT 1 FROM events)))
  OR (NEW.key IS NOT NULL AND EXISTS (SELECT 1 FROM events WHERE key = NEW.key))
BEGIN
  SELECT RAISE(ABORT, 'tallystick: a new event must follow the last one, with a key of its own');
END;

CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN
  SELECT RAISE(ABORT, 'tallystick: events are never deleted');
END;

-- The one permitted update nulls body and salt right after its ledger.body_erased event.
CREATE TRIGGER events_no_update BEFORE UPDATE ON events
WHEN NEW.body IS NOT NULL OR NEW.salt IS NOT NULL
  OR (NEW.seq, NEW.at, NEW.kind, NEW.stream, NEW.key, NEW.meta, NEW.body_hash, NEW.prev_hash, NEW.hash)
     IS NOT
     (OLD.seq, OLD.at, OLD.kind, OLD.stream, OLD.key, OLD.meta, OLD.body_hash, OLD.prev_hash, OLD.hash)
  OR OLD.kind GLOB 'ledger.*'
  OR NOT EXISTS (
       SELECT 1 FROM events
       WHERE seq > OLD.seq AND stream = 'ledger' AND kind = 'ledger.body_erased'
         AND json_extract(CAST(body AS TEXT), '$.seq') = OLD.seq)
BEGIN
  SELECT RAISE(ABORT, 'tallystick: events are never updated, except to erase a body on record');
END;
