"""What goes wrong around the server: a store that can't commit, a bad batch among good ones, kill
-9, a full disk.

After each, what was acknowledged is there once, nothing else is, and the server goes on by itself.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

with contextlib.suppress(ImportError):  # Windows
    import resource

import server as module
from tests.load import POST, Wire, Writers, check_database, seconds_at_work
from tests.support import (
    OTHER_TOKEN,
    READER,
    TOKEN,
    Answer,
    Server,
    all_records,
    batch_of,
    commit,
    configuration,
    eventually,
    folder_of,
    record,
    store_of,
)

# Runs a command without the right of root to read and write what the
# permissions forbid (capabilities 1 and 2).
PROGRAM = """
import ctypes, os, sys
for capability in 1, 2:
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
WITHOUT_OVERRIDE = (sys.executable, "-c", PROGRAM)


SLOW_QUERY = b"GET /logs?contains=" + b"a" * 900 + b"b HTTP/1.1\r\nHost: localhost\r\n\r\n"
LONG_STATEMENT = """
    WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000)
    SELECT sum(i) FROM n
"""


def is_refused(answer: Answer) -> bool:
    """Whether it is what a store that can't commit answers:
    503, when to come again, one sentence and a hint."""
    return (
        answer.status == 503
        and 1 <= int(answer.headers["retry-after"]) <= 10
        and answer.json["error"].count(".") >= 1
        and bool(answer.json["hint"])
    )


def post_at_once(
    server: Server, answers: list[Answer], *bodies: bytes, **headers: str
) -> list[threading.Thread]:
    """A thread for each body posts it; the answers come in as they are given."""

    def post(body: bytes) -> None:
        answers.append(server.post(body, **headers))

    threads = [threading.Thread(target=post, args=[body]) for body in bodies]
    for thread in threads:
        thread.start()
    return threads


def counted(store: module.SQLiteStore) -> int:
    """How many records the table of counts says that there are."""
    return store.stats(module.Query()).kinds.total()


class TheStoreItself(unittest.TestCase):
    def test_a_bad_batch_fails_alone_among_those_that_commit_with_it(self):
        for name, bad in {
            "an integer beyond 64 bits": record()._replace(timestamp=1 << 70),
            "a severity that the schema refuses": record("bad", severity=7),
            "a type that sqlite3 does not know": record()._replace(message=[]),
            "text that is not Unicode": record("\ud800"),
        }.items():
            with self.subTest(name):
                store = store_of(self)
                good = [batch_of(record(f"good {n}"), record(f"also good {n}")) for n in range(5)]
                poisoned = batch_of(record("innocent"), bad)
                raised = commit(store, *good[:2], poisoned, *good[2:])
                self.assertEqual(
                    [bool(error) for error in raised], [False, False, True, False, False, False]
                )
                records = all_records(store)
                self.assertEqual(
                    {r.message for r in records},
                    {f"{m} {n}" for n in range(5) for m in ("good", "also good")},
                )
                self.assertEqual(counted(store), 10)
                self.assertEqual(
                    sorted(i for b in good for i in range(b.first_id, b.last_id + 1)),
                    sorted(r.id for r in records),
                )

    def test_an_unexpected_error_fails_its_callers_and_the_next_write_works(self):
        store = store_of(self)
        with mock.patch.object(store, "write", side_effect=RuntimeError("broken")):
            raised = commit(store, batch_of(record()), batch_of(record()))
        self.assertEqual([type(error) for error in raised], [RuntimeError, RuntimeError])
        commit(store, batch_of(record("after")))
        self.assertEqual([r.message for r in all_records(store)], ["after"])

    def test_an_error_in_the_middle_of_a_write_leaves_nothing_behind(self):
        store = store_of(self)
        with mock.patch.object(module, "add_counts", side_effect=RuntimeError("broken")):
            self.assertIsInstance(commit(store, batch_of(record("half")))[0], RuntimeError)
        later = batch_of(record("after"))
        commit(store, later)
        self.assertEqual(
            [(r.id, r.message) for r in all_records(store)], [(later.first_id, "after")]
        )
        self.assertEqual(counted(store), 1)

    def test_the_writing_connection_refuses_what_is_not_its_work(self):
        store = store_of(self)
        commit(store, batch_of(record("keep me")))
        for statement in (
            *("DROP TABLE logs", "DROP TABLE keys", "DROP INDEX logs_by_time"),
            "ALTER TABLE logs ADD COLUMN x",
            *("ALTER TABLE logs RENAME TO y", "ALTER TABLE logs DROP COLUMN message"),
            *("UPDATE logs SET message = ''", "UPDATE logs SET id = 7"),
            *("UPDATE keys SET body = x''", "UPDATE counts SET service = ''"),
            *("UPDATE counts SET span = 0", "UPDATE sqlite_sequence SET seq = 0"),
            "DELETE FROM sqlite_sequence",
            *("CREATE TABLE x (y)", "CREATE INDEX x ON logs (message)"),
            "CREATE VIEW x AS SELECT 1",
            "CREATE TRIGGER x AFTER INSERT ON logs BEGIN DELETE FROM logs; END",
            "CREATE TEMP TABLE x (y)",
            "CREATE TEMP TRIGGER x AFTER INSERT ON logs BEGIN SELECT 1; END",
            *("ATTACH ':memory:' AS x", "DETACH main", "VACUUM", "VACUUM INTO '/dev/null'"),
            *("REINDEX", "ANALYZE"),
            *("PRAGMA writable_schema = ON", "PRAGMA journal_mode = DELETE"),
            "PRAGMA synchronous = OFF",
            *("PRAGMA user_version = 3", "PRAGMA application_id = 0"),
            "PRAGMA ignore_check_constraints = ON",
            "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 0, '')",
            "DELETE FROM sqlite_master",
            "SELECT load_extension('x')",
        ):
            with self.subTest(statement), self.assertRaises(sqlite3.Error):
                store._db.execute(statement)
        self.assertEqual([r.message for r in all_records(store)], ["keep me"])
        commit(store, batch_of(record("it still writes")))

    def test_a_reading_connection_writes_nothing(self):
        store = store_of(self)
        commit(store, batch_of(record("keep me")))
        for statement in (
            *("DELETE FROM logs", "UPDATE logs SET message = ''", "DROP TABLE logs"),
            "CREATE TABLE x (y)",
            "INSERT INTO keys VALUES (x'', x'', 0, 0, 0)",
            *("PRAGMA user_version = 3", "PRAGMA journal_mode = DELETE", "VACUUM"),
        ):
            refused = self.assertRaises((sqlite3.Error, module.Unavailable))
            with self.subTest(statement), refused, store.readers.lend() as db:
                if not db.execute(statement).fetchall():
                    raise sqlite3.OperationalError("some PRAGMAs are passed over without an error")
        self.assertEqual([r.message for r in all_records(store)], ["keep me"])
        with contextlib.closing(sqlite3.connect(store.path)) as db:
            self.assertEqual(db.execute("PRAGMA user_version").fetchone(), (2,))


class Commits(unittest.TestCase):
    def test_a_key_of_a_batch_that_failed_is_free_for_the_next_in_the_same_commit(self):
        store = store_of(self)
        bad = batch_of(record(severity=7), key=b"k" * 32)
        good = batch_of(record("good"), key=b"k" * 32)
        self.assertEqual([bool(error) for error in commit(store, bad, good)], [True, False])
        self.assertFalse(good.replayed)
        self.assertEqual([r.message for r in all_records(store)], ["good"])

    def test_the_same_key_twice_in_one_commit_is_stored_once(self):
        store = store_of(self)
        first, again = (batch_of(record(word), key=b"k" * 32) for word in ("first", "again"))
        other = batch_of(record("other"), key=b"k" * 32)
        other.body_hash = b"another body"
        raised = commit(store, first, again, other)
        self.assertEqual([type(error) for error in raised[:2]], [type(None)] * 2)
        self.assertIsInstance(raised[2], module.KeyReused)
        self.assertEqual([batch.replayed for batch in (first, again)], [False, True])
        self.assertEqual((again.first_id, again.last_id, again.stored), (1, 1, 1))
        self.assertEqual([r.message for r in all_records(store)], ["first"])
        self.assertEqual(counted(store), 1)

    def test_what_comes_after_a_commit_that_failed_is_tried(self):
        locked = module.Unavailable("It is locked.")
        write = mock.Mock(side_effect=[locked, None])
        committer = module.Committer(write)
        with self.assertLogs(module.log, "ERROR"), self.assertRaises(module.Unavailable):
            committer.commit(batch_of(record("during")))
        committer.commit(batch_of(record("after")))  # Nothing was waiting behind the first.
        self.assertEqual(write.call_count, 2)

    def test_what_formed_behind_a_commit_that_failed_fails_with_it_without_a_try(self):
        began, go_on = threading.Event(), threading.Event()

        def write(batches: list[module.Batch]) -> None:
            began.set()
            go_on.wait(20)
            raise module.Unavailable("It is locked.")

        committer = module.Committer(mock.Mock(side_effect=write))
        batches = [batch_of(*[record()] * module.MAX_COMMIT_RECORDS) for _ in range(5)]

        def work(batch: module.Batch) -> None:
            with contextlib.suppress(module.Unavailable):
                committer.commit(batch)

        threads = [threading.Thread(target=work, args=[batch]) for batch in batches]
        with self.assertLogs(module.log, "ERROR"):
            threads[0].start()
            began.wait(20)
            for thread in threads[1:]:
                thread.start()
            eventually(lambda: len(committer.queue) == len(batches))
            go_on.set()
            for thread in threads:
                thread.join(20)
        self.assertEqual([str(batch.failure) for batch in batches], ["It is locked."] * 5)
        self.assertEqual(committer._write.call_count, 1)  # type: ignore[attr-defined]
        self.assertEqual(len(committer.queue), 0)
        self.assertEqual(len({id(batch.failure) for batch in batches}), 5, "each has its own")

    def test_health_is_looked_at_once_a_second_while_all_is_well_and_each_time_while_it_is_not(
        self,
    ):
        store = store_of(self)
        app = module.App(store.config, store)
        request = mock.Mock()
        with mock.patch.object(store, "probe") as probe:
            for _ in range(5):
                self.assertEqual(module.get_health(app, request).status, 200)
            self.assertEqual(probe.call_count, 1)
        app = module.App(store.config, store)
        with mock.patch.object(store, "probe", side_effect=module.Unavailable("full")) as probe:
            for _ in range(3):
                with self.assertRaises(module.Unavailable):
                    module.get_health(app, request)
            self.assertEqual(probe.call_count, 3)
        self.assertEqual(module.get_health(app, request).status, 200, "it does not stay bad")

    def test_every_commit_is_synced(self):  # tests/integration/test_crash.py sees the calls.
        store = store_of(self)
        store._db.set_authorizer(None)
        self.assertEqual(store._db.execute("PRAGMA synchronous").fetchone(), (2,), "FULL")

    def stop_overdue(self, store: module.SQLiteStore, over: threading.Event) -> None:
        """Does now and then what a thread of the server does."""
        while not over.wait(0.1):
            store.stop_queries(set())

    def test_a_query_past_its_deadline_is_503_and_its_connection_serves_the_next(self):
        store = store_of(self)
        with mock.patch.object(module, "QUERY_SECONDS", 0):
            over = threading.Event()
            self.addCleanup(over.set)
            threading.Thread(target=self.stop_overdue, args=[store, over], daemon=True).start()
            with self.assertRaises(module.Unavailable) as caught, store.readers.lend() as db:
                db.execute(LONG_STATEMENT).fetchall()
            over.set()
        self.assertIn("Narrow", caught.exception.hint)
        for _ in range(module.READERS):
            self.assertEqual(all_records(store), [])

    def test_a_query_that_waits_for_a_connection_ends_when_the_store_closes(self):
        for is_slow, count in ((False, module.READERS), (True, module.SLOW_READERS)):
            with self.subTest(is_slow=is_slow), contextlib.ExitStack() as stack:
                store = store_of(self)
                for number in range(count):
                    stack.enter_context(store.readers.lend(is_slow, str(number)))
                ended = threading.Event()

                def wait(
                    store: module.SQLiteStore = store,
                    is_slow: bool = is_slow,
                    ended: threading.Event = ended,
                ) -> None:
                    with contextlib.suppress(module.Unavailable), store.readers.lend(is_slow):
                        pass
                    ended.set()

                for _ in range(3):
                    threading.Thread(target=wait).start()
                time.sleep(0.1)
                store.close()
                self.assertTrue(ended.wait(2))

    def test_a_query_that_is_between_two_statements_when_the_store_closes_is_stopped_too(self):
        store = store_of(self)
        commit(store, batch_of(record()))
        reads = threading.Event()

        def query() -> None:
            with contextlib.suppress(module.Unavailable), store.readers.lend() as db:
                db.execute("SELECT id FROM logs").fetchall()
                reads.set()
                eventually(lambda: store.readers.closing)
                time.sleep(0.1)  # All that interrupts once has done so.
                db.execute(LONG_STATEMENT).fetchall()

        thread = threading.Thread(target=query)
        thread.start()
        reads.wait(20)
        store.close()
        files = {file.name for file in store.path.parent.glob("logs.db*")}
        thread.join(20)
        self.assertEqual(files, {"logs.db"})


class AStoreThatCanNotCommit(unittest.TestCase):
    """503 with Retry-After and a sentence, /health too;
    reading goes on, and writing by itself afterwards."""

    def assert_refuses(self, server: Server, seconds: float = 10) -> None:
        began = time.monotonic()
        answer = server.post({"message": "refused"})
        self.assertTrue(is_refused(answer), answer)
        self.assertLess(time.monotonic() - began, seconds)
        health = eventually(
            lambda: (a := server.get("/health")).status != 200 and a, why="/health is content"
        )
        self.assertTrue(is_refused(health), health)
        self.assertEqual(health.json["error"], answer.json["error"])
        before = server.get("/logs?contains=before")
        self.assertEqual((before.status, len(before.json)), (200, 1), before.text)
        self.assertEqual(
            server.get("/stats").json["total"], server.sql("SELECT count(*) FROM logs")[0][0]
        )

    def assert_goes_on(self, server: Server) -> None:
        answer = eventually(
            lambda: (a := server.post({"message": "after"})).status == 200 and a,
            why="it stays refused",
        )
        self.assertEqual(server.get(f"/logs/{answer.json['first_id']}").json["message"], "after")
        eventually(lambda: server.get("/health").status == 200, why="/health stays bad")
        self.assertEqual(
            server.sql("SELECT message FROM logs ORDER BY id"), [("before",), ("after",)]
        )
        check_database(self, server)

    def test_writes_are_refused_while_another_process_locks_the_file_and_go_on_after(self):
        with Server(constants={"LOCK_SECONDS": 0.2}) as server:
            server.post({"message": "before"})
            with contextlib.closing(
                sqlite3.connect(server.database, isolation_level=None)
            ) as other:
                other.execute("BEGIN EXCLUSIVE")
                self.assert_refuses(server)
                self.assertIn("lock", server.post({"message": "refused"}).json["error"])
            self.assert_goes_on(server)

    def test_those_who_wait_for_a_lock_wait_together(self):
        with (
            Server(constants={"LOCK_SECONDS": 1}) as server,
            contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as other,
        ):
            other.execute("BEGIN EXCLUSIVE")
            answers: list[Answer] = []
            began = time.monotonic()
            threads = post_at_once(
                server, answers, *[json.dumps({"message": "refused"}).encode()] * 12
            )
            for thread in threads:
                thread.join(20)
            self.assertEqual([is_refused(answer) for answer in answers], [True] * 12, answers)
            self.assertLess(
                time.monotonic() - began, 8, "s; 12 waits one after the other would be 12 s"
            )

    def test_full_groups_that_wait_for_a_lock_wait_together(self):
        for records in (1_000, 1_001):
            with self.subTest(records=records):
                self.post_while_locked(json.dumps([{"message": "refused"}] * records).encode())

    def post_while_locked(self, body: bytes):
        lock_seconds = 1
        with (
            Server(constants={"LOCK_SECONDS": lock_seconds}) as server,
            contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as other,
        ):
            server.post({"message": "before"})
            other.execute("BEGIN EXCLUSIVE")
            answers: list[Answer] = []
            began = time.monotonic()
            for thread in post_at_once(server, answers, *[body] * 12):
                thread.join(30)
            seconds = time.monotonic() - began
            self.assertEqual([is_refused(answer) for answer in answers], [True] * 12, answers)
            self.assertLess(seconds, 6 * lock_seconds, "s; one after the other would be 12 s")
            other.execute("COMMIT")
            self.assertEqual(server.post({"message": "after"}).status, 200, "it is free again")
            self.assertEqual(server.sql("SELECT message FROM logs"), [("before",), ("after",)])

    def test_who_asks_for_the_health_again_and_again_holds_no_writer_up(self):
        with (
            Server(constants={"LOCK_SECONDS": 0.5}) as server,
            contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as other,
        ):
            other.execute("BEGIN EXCLUSIVE")
            asking = [threading.Thread(target=server.get, args=["/health"]) for _ in range(20)]
            for thread in asking:
                thread.start()
            began = time.monotonic()
            self.assertTrue(is_refused(server.post({"message": "refused"})))
            self.assertLess(
                time.monotonic() - began, 8, "s; 20 waits one after the other would be 10 s"
            )
            for thread in asking:
                thread.join(20)

    def test_writes_are_refused_while_the_file_is_moved_away_and_go_on_after(self):
        for name, put_another in {
            "nothing in its place": False,
            "another file in its place": True,
        }.items():
            with self.subTest(name), Server() as server:
                server.post({"message": "before"})
                aside = server.folder / "aside.db"
                server.database.rename(aside)
                if put_another:
                    server.database.write_bytes(b"")
                answer = server.post({"message": "refused"})
                self.assertTrue(is_refused(answer), answer)
                eventually(lambda: server.get("/health").status == 503)
                reading = server.get("/logs")  # a reader that has the file open may go on
                self.assertTrue(is_refused(reading) or len(reading.json) == 1, reading)
                aside.rename(server.database)
                self.assert_goes_on(server)

    def test_writes_are_refused_while_the_file_is_read_only_and_go_on_after(self):
        folder = folder_of(self)
        with Server(folder) as server:
            server.post({"message": "before"})
        files = list(folder.glob("logs.db*"))
        for file in files:
            file.chmod(0o444)
        if os.access(files[0], os.W_OK) and sys.platform != "linux":
            self.skipTest("root writes what it likes")
        with Server(folder, wrapper=WITHOUT_OVERRIDE if sys.platform == "linux" else ()) as server:
            self.assert_refuses(server)
            for file in files:
                if file.exists():
                    file.chmod(0o644)
            self.assert_goes_on(server)

    def test_writes_are_refused_while_the_file_is_immutable_and_go_on_after(self):
        # A file in memory can be written all the same.
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="logs-"))
        with Server(folder) as server:
            server.post({"message": "before"})
            files = [str(server.database), f"{server.database}-wal"]
            self.addCleanup(subprocess.run, ["chattr", "-i", *files], capture_output=True)
            if (
                not shutil.which("chattr")
                or subprocess.run(["chattr", "+i", *files], capture_output=True).returncode
            ):
                self.skipTest("needs root, and a file system with the flag")
            self.assert_refuses(server)
            subprocess.run(["chattr", "-i", *files], check=True)
            self.assert_goes_on(server)

    def test_writes_are_refused_while_the_disk_is_full_and_go_on_after(self):
        folder = folder_of(self)
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "logs", folder], capture_output=True
        ).returncode:
            self.skipTest("needs root, and Linux")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)
        with Server(folder) as server:
            server.post({"message": "before"})
            with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
            # what lies on the disk already may be written once more,
            # so it may take some records until it is full
            count = "SELECT count(*) FROM logs"
            stored = eventually(
                lambda: is_refused(server.post({"message": "x" * 20_000})) and server.sql(count)
            )
            answer = server.post({"message": "x" * 20_000})
            self.assertIn("full", answer.json["error"])
            self.assertTrue(
                is_refused(eventually(lambda: (a := server.get("/health")).status == 503 and a))
            )
            self.assertEqual(server.get("/stats").json["total"], stored[0][0])
            (folder / "filler").unlink()
            eventually(lambda: server.post({"message": "after"}).status == 200)
            eventually(lambda: server.get("/health").status == 200)
            self.assertEqual(server.sql(count)[0][0], stored[0][0] + 1)
            check_database(self, server)

    @unittest.skipUnless(sys.platform == "linux", "prlimit is Linux's")
    def test_writes_are_refused_while_no_file_may_grow_and_go_on_after(self):
        with Server() as server:
            server.post({"message": "before"})
            size = os.stat(f"{server.database}-wal").st_size
            no_limit = resource.RLIM_INFINITY
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, no_limit))
            self.assert_refuses(server)
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (no_limit, no_limit))
            self.assert_goes_on(server)

    def test_a_short_lock_is_waited_for(self):
        with (
            Server(constants={"LOCK_SECONDS": 20}) as server,
            contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as other,
        ):
            other.execute("BEGIN EXCLUSIVE")
            answers = []
            (patient,) = post_at_once(server, answers, b'{"message": "waits"}')
            patient.join(0.3)
            self.assertEqual(answers, [], "it did not wait")
            other.execute("COMMIT")
            patient.join(20)
            self.assertEqual(answers[0].status, 200)


class Killed(unittest.TestCase):
    def test_kill_9_under_load_loses_and_repeats_nothing(self):
        with Server() as server:
            readiness = []
            with Writers(server, 4) as writers:
                for _ in range(3):
                    writers.wait_for(150)
                    server.stop(signal.SIGKILL)
                    began = time.monotonic()
                    server.restart()
                    self.assertEqual(server.get("/health").status, 200)
                    readiness.append(time.monotonic() - began)
                writers.wait_for(50)
            writers.check(self)
            self.assertGreater(writers.broken, 0, "it was not killed under load")
            began = time.monotonic()
            with Server() as empty:
                self.assertEqual(empty.get("/health").status, 200)
                usual = time.monotonic() - began
            self.assertLess(min(readiness), 2 * usual + 0.5, "s from the start to the first answer")

    def test_a_checkpoint_that_was_cut_off_is_finished_by_the_next_start(self):
        with Server() as server:
            for n in range(20):
                server.post([{"message": f"m{n}", "details": "x" * 500}] * 100)
            server.stop(signal.SIGKILL)
            wal = pathlib.Path(f"{server.database}-wal").read_bytes()
            # https://www.sqlite.org/fileformat.html#the_write_ahead_log:
            # 32 bytes, then frames of 24 bytes and a page
            frames = [wal[at : at + 24 + 4096] for at in range(32, len(wal) - 4119, 24 + 4096)]
            newest = [frame[24:] for frame in frames if frame[:4] == b"\0\0\0\1"][-1]
            with open(server.database, "r+b") as file:
                # The first page, which says how many there are; then it was killed.
                file.write(newest)
            server.start()
            self.assertEqual(server.get("/stats").json["total"], 2000)
            self.assertEqual(server.post({"message": "after"}).json["first_id"], 2001)
            check_database(self, server)

    def test_a_database_moved_away_is_missed_at_the_start_and_nothing_of_it_is_lost(self):
        with Server(folder_of(self)) as server:
            for n in range(5):
                server.post([{"message": f"m{n}"}] * 100)
            aside = server.folder / "aside.db"
            wal = pathlib.Path(f"{server.database}-wal")
            server.database.rename(aside)
            self.assertTrue(is_refused(server.post({"message": "refused"})))
            self.assertEqual(server.stop(), 0)
            server.errors.clear()
            before = wal.read_bytes()
            self.assertGreater(len(before), 0)
            for _ in range(2):
                with self.assertRaises(RuntimeError) as caught:
                    server.start()
                said = str(caught.exception).partition("did not start: ")[2]
                self.assertEqual(server.process.returncode, 2, said)
                self.assertEqual(said.count("\n"), 1, said)
                self.assertIn(str(wal), said)
                server.errors.clear()
                self.assertEqual(wal.read_bytes(), before, "untouched")
                self.assertFalse(server.database.exists(), "nothing is made")
            aside.rename(server.database)
            server.start()
            stored = server.sql("SELECT message, count(*) FROM logs GROUP BY 1 ORDER BY 1")
            self.assertEqual(stored, [(f"m{n}", 100) for n in range(5)])
            self.assertEqual(server.post({"message": "after"}).json["first_id"], 501)
            check_database(self, server)

    def test_a_database_taken_away_with_its_log_leaves_a_new_one(self):
        with Server() as server:
            server.post([{"message": "old"}] * 100)
            server.stop(signal.SIGKILL)
            self.assertTrue(pathlib.Path(f"{server.database}-wal").exists())
            server.database.unlink()
            pathlib.Path(f"{server.database}-wal").unlink()
            server.start()
            self.assertEqual(server.get("/logs").json, [])
            self.assertEqual(server.post({"message": "new"}).json["first_id"], 1)
            check_database(self, server)
            server.restart()
            self.assertEqual([record["message"] for record in server.get("/logs").json], ["new"])

    def test_sigterm_under_load_stores_what_it_acknowledged_and_exits_0_within_5_s(self):
        with Server() as server:
            with Writers(server, 8) as writers:
                writers.wait_for(300)
                began = time.monotonic()
                self.assertEqual(server.stop(signal.SIGTERM), 0)
                self.assertLess(time.monotonic() - began, 5)
                stored = {message for (message,) in server.sql("SELECT message FROM logs")}
                self.assertLessEqual(set(writers.acknowledged), stored)
                server.restart()
                writers.wait_for(50)
            writers.check(self)
            self.assertLessEqual({answer.status for answer in writers.refusals}, {503})
            self.assertEqual([line for line in server.errors if "unexpected" in line], [])

    def test_sigterm_leaves_one_whole_file(self):
        with Server() as server:
            server.post([{"message": f"m{n}"} for n in range(100)])
            self.assertEqual(server.stop(), 0)
            copy = server.folder / "copy.db"
            shutil.copy(server.database, copy)
            with contextlib.closing(sqlite3.connect(copy)) as db:
                self.assertEqual(db.execute("SELECT count(*) FROM logs").fetchone(), (100,))
            self.assertEqual({file.name for file in server.folder.glob("logs.db*")}, {"logs.db"})

    def test_sigterm_leaves_one_whole_file_though_a_query_is_under_way(self):
        with Server(constants={"SHUTDOWN_SECONDS": 0.2}) as server:
            # It takes long to find that a text is not there.
            server.post([{"message": "a" * 20_000}] * 500)
            before = seconds_at_work(server)
            with Wire(server) as wire:
                wire.send(SLOW_QUERY)
                eventually(lambda: seconds_at_work(server) > before + 0.2)
                self.assertEqual(server.stop(), 0)
            self.assertEqual({file.name for file in server.folder.glob("logs.db*")}, {"logs.db"})

    def test_sigterm_leaves_one_whole_file_though_more_queries_than_readers_are_under_way(self):
        # All of them must end within a second. A busy machine may need more tries than one.
        tries = (self.files_after_a_stop_with_many_queries() for _ in range(4))
        self.assertTrue(any(files == {"logs.db"} for files in tries), "the WAL is left each time")

    def files_after_a_stop_with_many_queries(self) -> set[str]:
        """The names of the files that a server leaves that is stopped while it searches."""
        with Server(constants={"SHUTDOWN_SECONDS": 0.2}) as server, contextlib.ExitStack() as stack:
            server.post([{"message": "a" * 20_000}] * 500)
            before = seconds_at_work(server)
            # Some may be streams, and none of them is served by an index.
            paths = (b"/logs?", b"/logs?limit=0&", b"/stats?")
            for n in range(18):
                wire = stack.enter_context(Wire(server))
                wire.send(SLOW_QUERY.replace(b"/logs?", paths[n % 3]))
            eventually(lambda: seconds_at_work(server) > before + 0.5)
            began = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - began, 5)
            self.assertEqual([line for line in server.errors if "unexpected" in line], [])
            return {file.name for file in server.folder.glob("logs.db*")}

    def test_sigterm_does_not_wait_for_those_who_never_finish(self):
        with (
            Server() as server,
            Wire(server) as half,
            Wire(server) as idle,
            Wire(server) as follower,
        ):
            half.send(POST)
            half.send(b"Content-Length: 99\r\n\r\n{")
            idle.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(idle.answer().status, 200)
            server.post({"message": "m"})
            follower.send(b"GET /logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            follower.reader.readline()
            began = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - began, 5)
            self.assertEqual(server.errors, [])


class Tokens(unittest.TestCase):
    def test_tokens_are_compared_in_constant_time_each_to_its_end(self):
        path = folder_of(self) / "config.json"
        path.write_text(json.dumps(configuration(read_tokens=[READER])), encoding="utf-8")
        config = module.load_config(path)
        compare_digest = mock.patch.object(
            module.hmac, "compare_digest", wraps=module.hmac.compare_digest
        )
        for secret, found in (
            (TOKEN, "app"),
            (OTHER_TOKEN, "web"),
            ("unknown", None),
            ("", None),
            (TOKEN[:-1], None),
        ):
            with self.subTest(secret), compare_digest as compare:
                token = config.find_token(secret.encode(), "service", "shipper")
                self.assertEqual(token.service if token else None, found)
                self.assertEqual(compare.call_count, 4, "it stopped at a match, or did not compare")

    def test_no_token_shows_in_errors_answers_or_the_database(self):
        secrets = {
            "app": "tkn-app-91f3",
            "web": "tkn-web-77a2",
            "read": "tkn-read-5c0e",
            "wrong": "tkn-wrong-11d8",
        }
        config = configuration(read_tokens=[secrets["read"]], shipper_tokens=["tkn-shipper-08bb"])
        for name in ("app", "web"):
            config["services"][name]["token"] = secrets[name]
        with Server(config=config) as server:
            seen = [
                server.post({"message": "m"}, token, Idempotency_Key="k")
                for token in secrets.values()
            ]
            seen += [
                server.post({"message": "m", "service": "web"}, secrets["app"]),
                server.post("{", secrets["app"]),
            ]
            for scheme in ("Token", "Bearer", "Digest", "Basic", ""):
                for secret in secrets.values():
                    seen.append(server.get("/logs", Authorization=f"{scheme} {secret}"))
            for path in ("/metrics", "/stats", "/", "/x"):
                seen.append(server.get(path, Authorization=f"Token {secrets['read']}"))
            server.process.send_signal(signal.SIGHUP)
            seen += [
                server.request(
                    "DELETE", "/logs", None, {"Authorization": f"Token {secrets['app']}"}
                )
            ]
            said = (
                b"".join(str(answer).encode() + answer.body for answer in seen)
                + "".join(server.errors).encode()
            )
            files = b"".join(file.read_bytes() for file in server.folder.glob("logs.db*"))
            self.assertNotIn(b"tkn-", said)
            self.assertNotIn(b"tkn-", files)
            self.assertIn(b"app", files)
        self.assertNotIn("tkn-", "".join(server.errors))

    def test_a_mistaken_configuration_is_named_without_its_tokens(self):
        path = folder_of(self) / "config.json"
        for name, mistake in {
            "a text in place of a list": lambda c: c["server"].update(read_tokens="tkn-1"),
            "a list with a number": lambda c: c["server"].update(shipper_tokens=["tkn-1", 5]),
            "a list in place of a text": lambda c: c["services"]["app"].update(token=["tkn-1"]),
            "a token used twice": lambda c: [
                s.update(token="tkn-1") for s in c["services"].values()
            ],
            "a token under an unknown key": lambda c: c["services"]["app"].update(tokn="tkn-1"),
        }.items():
            with self.subTest(name), self.assertRaises(module.StartError) as caught:
                config = configuration()
                mistake(config)
                path.write_text(json.dumps(config), encoding="utf-8")
                module.load_config(path)
            self.assertNotIn("tkn-1", str(caught.exception))


class Bounds(unittest.TestCase):
    def test_a_token_over_its_rate_gets_429_and_is_served_again_after_the_time_that_it_is_told(
        self,
    ):
        with Server(max_records_per_second=20) as server:
            began = time.monotonic()
            self.assertEqual(server.post([{"message": "m"}] * 30).status, 200)
            refused = server.post({"message": "too soon"})
            self.assertEqual(
                (refused.status, set(refused.json)), (429, {"error", "hint"}), refused.text
            )
            told_at = time.monotonic()
            retry_after = int(refused.headers["retry-after"])
            self.assertIn(retry_after, range(1, 6))
            self.assertEqual(server.post({"message": "another's"}, OTHER_TOKEN).status, 200)
            self.assertEqual(server.get("/logs").status, 200)
            eventually(lambda: time.monotonic() >= told_at + retry_after)
            answer = server.post({"message": "in time"})
            self.assertEqual(answer.status, 200, "it was told less")
            while server.post({"message": "more"}).status == 200:
                pass
            total = server.get("/stats").json["total"]
            self.assertEqual(
                server.sql("SELECT count(*) FROM logs WHERE message = 'too soon'"), [(0,)]
            )
            self.assertEqual(server.sql("SELECT count(*) FROM logs"), [(total,)])
            self.assertLessEqual(total - 1, 30 + 20 * (time.monotonic() - began))

    def test_what_waits_for_a_commit_is_bounded(self):
        body = json.dumps({"message": "x" * 200_000}).encode()
        with Server(constants={"MAX_HELD_BYTES": 1 << 20, "LOCK_SECONDS": 60}) as server:
            answers: list[Answer] = []
            with contextlib.closing(
                sqlite3.connect(server.database, isolation_level=None)
            ) as other:
                other.execute("BEGIN EXCLUSIVE")
                threads = []
                for number in range(1, 6):  # Five fit, and wait. What only comes counts too: so one
                    # after the other.
                    threads += post_at_once(server, answers, body)
                    held = f"logs_waiting_bytes {number * len(body)}\n"
                    eventually(lambda held=held: held in server.get("/metrics").text)
                threads += post_at_once(server, answers, *[body] * 7)
                eventually(lambda: len(answers) >= 7)
                self.assertTrue(all(map(is_refused, answers)), answers)
                self.assertEqual(server.get("/logs").json, [])
            for thread in threads:
                thread.join(20)
            self.assertEqual(sorted(answer.status for answer in answers), [200] * 5 + [503] * 7)
            self.assertEqual(server.sql("SELECT count(*) FROM logs"), [(5,)])
            self.assertEqual(server.post(body).status, 200)
            # A request gives its bytes back when its answer is out.
            eventually(lambda: "logs_waiting_bytes 0\n" in server.get("/metrics").text)

    def test_a_compressed_body_counts_as_what_it_becomes(self):
        body = gzip.compress(json.dumps({"message": "x" * 200_000}).encode())
        with Server(constants={"MAX_HELD_BYTES": 1 << 20, "LOCK_SECONDS": 60}) as server:
            answers: list[Answer] = []
            with contextlib.closing(
                sqlite3.connect(server.database, isolation_level=None)
            ) as other:
                other.execute("BEGIN EXCLUSIVE")
                threads = post_at_once(server, answers, *[body] * 12, Content_Encoding="gzip")
                eventually(lambda: len(answers) >= 7, why="200 KB each, they all fit into 1 MiB")
                self.assertTrue(all(map(is_refused, answers)), answers)
            for thread in threads:
                thread.join(20)

    def test_a_token_saves_up_a_second_at_most_and_is_told_when_its_debt_is_paid(self):
        shares, token, clock = module.Shares(), module.Token("t", "service", "app"), mock.Mock()
        with mock.patch.object(module, "time", clock):
            clock.monotonic.return_value = 1000.0
            for records, seconds in (
                (10, "1"),
                (9, "1"),
                (11, "3"),
                (1000, "5"),
            ):  # 10 it has; the rest is debt
                with self.subTest(records=records):
                    shares.spend(token, records, 10)
                    with self.assertRaises(module.Refusal) as caught:
                        shares.check_rate(token, 10)
                    self.assertEqual(caught.exception.headers["Retry-After"], seconds)
            clock.monotonic.return_value += 1_000_000  # it was silent for days
            shares.spend(token, 10, 10)
            with self.assertRaises(module.Refusal):
                shares.check_rate(token, 10)


if __name__ == "__main__":
    unittest.main()
