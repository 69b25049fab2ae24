-- The whole schema of the SQLite store. The server applies it once, to a new and empty file, and
-- never alters it afterwards. Look into a store at any time with `sqlite3 logs.db`.
--
-- Every point in time is an integer: microseconds since 1970-01-01T00:00:00Z. It sorts, compares and
-- subtracts as it stands, and takes half the space of its text. To read one:
--     SELECT datetime(timestamp / 1000000, 'unixepoch'), message FROM logs ORDER BY timestamp DESC LIMIT 10;

PRAGMA auto_vacuum = INCREMENTAL;       -- retention hands freed pages back to the file system; must come first

BEGIN;

PRAGMA application_id = 0x4C4F4753;     -- "LOGS": how the server knows its own files (https://www.sqlite.org/fileformat.html)
PRAGMA user_version = 1;                -- the version of this schema; the server opens no other

CREATE TABLE logs (                     -- one row a record
    id          INTEGER PRIMARY KEY     -- given in the order of commits
                AUTOINCREMENT,          -- and never twice, not even after retention has emptied the table
    received_at INTEGER NOT NULL,       -- µs; when its commit began; never less than in the row before
    timestamp   INTEGER NOT NULL,       -- µs; when it happened, by the sender's clock: any value, in any order
    service     TEXT    NOT NULL,       -- the application that sent it
    severity    INTEGER NOT NULL        -- the numbers of Python's logging module:
                CHECK (severity IN (10, 20, 30, 40, 50)),  -- DEBUG, INFO, WARNING, ERROR, CRITICAL
    message     TEXT    NOT NULL,       -- never empty, 256 KiB at most
    attributes  TEXT    NOT NULL        -- a JSON object, '{}' where the record has none, 64 KiB at most
) STRICT;

-- GET /logs with neither service nor severity: newest first is this index read backwards. SQLite ends
-- every index entry with the row's id, so that (timestamp, id), the order of the pages, needs no sort.
CREATE INDEX logs_by_time ON logs (timestamp);

-- GET /logs by service, by severity or by both: the newest of one service and severity are one stretch
-- of this index; a query for several merges that many stretches. A rare value costs no more than a
-- common one. /stats counts what is left of a minute at the ends of its range here, without reading a record.
CREATE INDEX logs_by_kind ON logs (service, severity, timestamp);

-- /stats and its histogram: how many records there are by day, hour and minute of `timestamp`, by
-- service and severity. Written in the transaction that writes or deletes the records, so always exact.
CREATE TABLE counts (
    span        INTEGER NOT NULL,       -- µs; a minute, an hour or a day: the length of the stretch counted
    start       INTEGER NOT NULL,       -- µs; where it begins, a multiple of span
    service     TEXT    NOT NULL,
    severity    INTEGER NOT NULL,
    records     INTEGER NOT NULL,       -- how many; rows that reach 0 are deleted
    PRIMARY KEY (span, start, service, severity)  -- read by ranges of start within one span
) STRICT, WITHOUT ROWID;

-- Retention: finds the rows that have reached 0. It holds nothing else, so it costs nothing.
CREATE INDEX counts_spent ON counts (span) WHERE records <= 0;

-- The answers to POSTs with an Idempotency-Key, kept for 24 hours: a repeat gets the answer, and
-- stores nothing. Written in the transaction that writes the records: either both are there or neither.
CREATE TABLE answers (
    key         BLOB    NOT NULL PRIMARY KEY,  -- SHA-256 of token and Idempotency-Key: no token stands here
    body        BLOB    NOT NULL,       -- SHA-256 of the body, to tell a repeat from a reused key
    answer      TEXT    NOT NULL,       -- the JSON that POST /logs answered
    created_at  INTEGER NOT NULL        -- µs
) STRICT, WITHOUT ROWID;

-- The clean-up of that table, once a second.
CREATE INDEX answers_by_age ON answers (created_at);

COMMIT;
