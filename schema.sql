-- The whole schema of the SQLite store. The server applies it once, to a new and empty file, and
-- never alters it. You can look into a store at any time: sqlite3 logs.db
--
-- Every timestamp is an integer: microseconds since 1970-01-01T00:00:00Z. Integers sort, compare
-- and subtract as they are, and take half the space of a text. To read one:
--     SELECT datetime(timestamp / 1000000, 'unixepoch'), message FROM logs
--     ORDER BY timestamp DESC LIMIT 10;
--
-- Do not change rows by hand while you need the statistics: /stats reads the table `counts`.

-- Retention gives freed pages back. SQLite takes this only before the first table is made.
PRAGMA auto_vacuum = INCREMENTAL;

BEGIN IMMEDIATE;                        -- all of the schema or nothing, whatever happens

PRAGMA application_id = 0x4C4F4753;     -- "LOGS": by this the server knows its own files
PRAGMA user_version = 2;                -- the version of this schema; the server opens no other

CREATE TABLE logs (                     -- one row for each record
    id          INTEGER PRIMARY KEY     -- grows in the order of commits;
                AUTOINCREMENT,          -- no id is given twice, even after all rows are deleted
    -- The next column grows with the id: a range of it is a range of ids, and needs no index.
    received_at INTEGER NOT NULL,       -- µs; when its commit began; no less than in the row before
    timestamp   INTEGER NOT NULL,       -- µs; when it happened, by the sender's clock: any value
    service     TEXT    NOT NULL,       -- the application that sent it, 1 to 128 characters
    severity    INTEGER NOT NULL        -- the numbers of Python's logging module:
                CHECK (severity IN (10, 20, 30, 40, 50)),  -- DEBUG, INFO, WARNING, ERROR, CRITICAL
    message     TEXT    NOT NULL,       -- 256 KiB at most
    attributes  TEXT    NOT NULL        -- a JSON object, '{}' where there are none, 64 KiB at most
) STRICT;

-- Serves GET /logs without service and severity: the newest records are the end of this index.
-- SQLite ends each entry with the row's id, so the order (timestamp, id) needs no sort.
CREATE INDEX logs_by_time ON logs (timestamp);

-- Serves GET /logs by service, by severity or by both: the newest records of one service and
-- severity are one stretch of this index, and a query for several merges as many stretches.
-- It also serves /stats. The table counts knows whole minutes only: where a query begins or ends
-- within one, the entries of that part are counted here, and no record is read.
CREATE INDEX logs_by_kind ON logs (service, severity, timestamp);

-- Serves /stats and its histogram: how many records there are by day, hour and minute of their
-- timestamp, by service and severity. The transaction that inserts or deletes records changes
-- these rows too, so they are always exact.
CREATE TABLE counts (
    span        INTEGER NOT NULL,       -- µs; a minute, an hour or a day: the length of the span
    start       INTEGER NOT NULL,       -- µs; where it begins, a multiple of its length
    service     TEXT    NOT NULL,
    severity    INTEGER NOT NULL,
    records     INTEGER NOT NULL,       -- how many; a row that reaches 0 is deleted
    PRIMARY KEY (span, start, service, severity)  -- read by a range of start within one span
) STRICT, WITHOUT ROWID;

-- Serves retention. It holds only the rows that have reached 0: so they are found without reading
-- the table, and deleted in the same transaction.
CREATE INDEX counts_spent ON counts (span) WHERE records <= 0;

-- The Idempotency-Keys of the last 24 hours. When records are deleted because the store is too
-- large, their keys are deleted too. A repeat gets the ids of the first time and stores nothing.
-- The transaction that inserts the records inserts the key: both are there, or neither.
CREATE TABLE keys (
    key         BLOB    NOT NULL PRIMARY KEY,  -- SHA-256 of token and Idempotency-Key
    body        BLOB    NOT NULL,       -- SHA-256 of the body: another body is an error
    first_id    INTEGER NOT NULL,       -- of the records that were stored
    records     INTEGER NOT NULL,       -- how many were stored
    created_at  INTEGER NOT NULL        -- µs
) STRICT, WITHOUT ROWID;

-- Serves retention: finds the keys that are too old.
CREATE INDEX keys_by_age ON keys (created_at);

COMMIT;
