"""Retention: what is forgotten and when, and what is not."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import sys
import time
import unittest
from unittest import mock

import server as module
from tests.support import (
    Json,
    Server,
    all_records,
    batch_of,
    commit,
    eventually,
    folder_of,
    record,
    store_of,
)


class Forgetting(unittest.TestCase):
    """Retention, step by step and without a clock: `upkeep_step` is what its thread does."""

    def store(self, **retention):
        with mock.patch.object(module.SQLiteStore, "upkeep"):  # Its thread ends at once.
            store = store_of(self)
        store.config = dataclasses.replace(store.config, **retention)
        return store

    def forget(self, store):
        for _ in range(100):
            if not store.upkeep_step():
                return
        self.fail("it has no end")

    def receive(self, store, days, *records):
        """Stores records so many days ago."""
        with mock.patch.object(module, "now", return_value=module.now() - days * module.DAY):
            self.assertEqual(commit(store, batch_of(*records)), [None])

    def messages(self, store):
        return [r.message for r in all_records(store)]

    def test_the_age_is_that_of_the_receipt_and_null_is_no_bound(self):
        for days, left in ((30, ["new"]), (None, ["new", "old"])):  # by timestamp
            with self.subTest(days=days):
                store = self.store(max_age_days=None)
                self.receive(store, 31, record("old"))
                self.receive(store, 29, record("new")._replace(timestamp=1))
                store.config = dataclasses.replace(store.config, max_age_days=days)
                self.forget(store)
                self.assertEqual(self.messages(store), left)

    def test_what_is_deleted_is_counted_no_more(self):
        store = self.store(max_age_days=None)
        self.receive(store, 31, record("old"))
        store.config = dataclasses.replace(store.config, max_age_days=30)
        self.forget(store)
        self.assertEqual(store.stats(module.Query()).kinds, {})
        with store.readers.lend() as db:
            self.assertEqual(db.execute("SELECT * FROM counts").fetchall(), [])

    def test_over_its_size_the_oldest_go_with_their_keys_and_the_file_gets_smaller(self):
        store = self.store(max_age_days=None, max_size_mb=None)
        for n in range(30):
            batch = batch_of(*[record(f"{n} " + "x" * 10_000)] * 10, key=b"%d" % n)
            self.assertEqual(commit(store, batch), [None])
        store.config = dataclasses.replace(store.config, max_size_mb=1)
        self.forget(store)
        left = [int(message.split()[0]) for message in self.messages(store)]
        self.assertIn(len(left), range(70, 101), "of 300 records of 10 KB")
        self.assertEqual(left, sorted(left))
        self.assertEqual(left[-1], 29, "the newest is there")
        with store.readers.lend() as db:
            keys = {int(key) for (key,) in db.execute("SELECT key FROM keys")}
        self.assertEqual(keys, set(left), "a key goes with its records")
        self.assertLess(store.path.stat().st_size, 1.1 * (1 << 20))

    def test_the_file_gets_smaller_after_a_delete_though_nothing_more_is_written(self):
        store = self.store(max_age_days=None)
        self.receive(store, 0, *[record("x" * 10_000)] * 1000)
        store.bound_wal(0)  # All of it is in the file now.
        self.assertGreater(store.path.stat().st_size, 10_000_000)
        self.assertEqual(store.delete(module.Query()), 1000)
        self.forget(store)
        self.assertLess(store.path.stat().st_size, (module.SPARE_PAGES + 50) * module.PAGE_BYTES)

    def test_a_step_deletes_a_few_thousand_records_at_most_and_writing_deletes_none(self):
        store = self.store(max_age_days=None)
        self.receive(store, 31, *[record()] * 5000)
        store.config = dataclasses.replace(store.config, max_age_days=30, max_size_mb=0.01)
        left = []
        for _ in range(3):
            self.assertTrue(store.upkeep_step())
            left.append(len(self.messages(store)))
        self.assertEqual(left, [3000, 1000, 0])
        self.receive(store, 31, *[record()] * 5000)
        self.receive(store, 0, record("new"))
        self.assertEqual(len(self.messages(store)), 5001)

    def test_keys_that_are_too_old_go_in_small_steps_too(self):
        store = self.store(max_age_days=None)
        with store.transaction() as db:
            rows = [(str(n).encode(), b"", 1, 1, 0) for n in range(5000)]
            module.insert_rows(db, module.INSERT_KEYS, rows)
        left = []
        for _ in range(3):
            self.assertTrue(store.upkeep_step())
            with store.transaction() as db:
                left += db.execute("SELECT count(*) FROM keys").fetchone()
        self.assertEqual(left, [3000, 1000, 0])


# Runs a server whose clock is ahead of the machine's by what the time of a file says.
LEAPING = """
import pathlib, sys, time
_, ahead, _, _, _, launcher, *sys.argv[1:] = sys.argv
true_time = time.time_ns
time.time_ns = lambda: true_time() + pathlib.Path(ahead).stat().st_mtime_ns
exec(launcher)
"""


class Leaps(unittest.TestCase):
    """A server process whose clock leaps."""

    def start(self, max_age_seconds: float, **constants: Json) -> None:
        folder = folder_of(self)
        self.ahead = folder / "ahead"
        self.ahead.touch()
        self.leap(0)
        self.server = self.enterContext(
            Server(
                folder,
                wrapper=(sys.executable, "-c", LEAPING, str(self.ahead)),
                constants=constants,
                retention={"max_age_days": max_age_seconds / 86_400},
            )
        )

    def leap(self, seconds: int) -> None:
        """Lets the clock be so far ahead from now on."""
        os.utime(self.ahead, (0, seconds))

    def post(self, message: str) -> None:
        self.assertEqual(self.server.post({"message": message}).status, 200)

    def messages(self) -> list[str]:
        return [text for (text,) in self.server.sql("SELECT message FROM logs ORDER BY id")]

    def test_after_a_leap_ahead_and_back_each_record_goes_by_its_age(self) -> None:
        self.start(max_age_seconds=4)
        self.post("before")
        self.leap(7_200)
        self.post("during")
        self.assertEqual(self.messages(), ["before", "during"])
        self.leap(0)
        self.post("after")
        received = self.server.sql("SELECT received_at FROM logs ORDER BY id DESC LIMIT 2")
        self.assertEqual(received[0], received[1], "the time of receipt does not go back")
        time.sleep(2)  # The age of the records is what is tested.
        self.assertEqual(self.messages(), ["before", "during", "after"])
        self.post("young")
        eventually(lambda: self.messages() == ["young"], 4)
        eventually(lambda: self.messages() == [], 6)

    def test_what_came_by_a_clock_that_was_behind_stays_when_it_is_put_right(self) -> None:
        self.start(max_age_seconds=86_400, JUMP_SECONDS=1)
        self.post("of another start")
        self.server.restart()
        self.post("behind")
        self.leap(366 * 86_400)
        self.post("right")
        eventually(lambda: self.messages() == ["behind", "right"], 20, self.messages)


class Retention(unittest.TestCase):
    """What a server forgets, and what it does not."""

    def test_no_id_is_given_twice_even_after_retention_emptied_the_store_and_a_restart(
        self,
    ) -> None:
        with Server(retention={"max_age_days": 0.000001}) as server:
            self.assertEqual(server.post([{"message": "soon gone"}] * 3).json["last_id"], 3)
            eventually(lambda: server.sql("SELECT count(*) FROM logs") == [(0,)])
            self.assertEqual(server.get("/stats").json["total"], 0)
            server.restart()
            self.assertEqual(server.post({"message": "after"}).json["first_id"], 4)

    def test_a_key_is_kept_for_24_hours(self) -> None:
        hour = 3_600_000_000
        with Server(retention={"max_age_days": 1e12}) as server:  # no age is too large
            for key, age in (("young", 23 * hour), ("old", 25 * hour)):
                before = set(server.sql("SELECT key FROM keys"))
                server.post({"message": key}, Idempotency_Key=key)
                (row,) = set(server.sql("SELECT key FROM keys")) - before
                self.write(
                    server,
                    "UPDATE keys SET created_at = created_at - ? WHERE key = ?",
                    age,
                    *row,
                )
            eventually(lambda: self.stored_anew(server, "old"))
            self.assertFalse(self.stored_anew(server, "young"))

    def stored_anew(self, server: Server, key: str) -> bool:
        """Sends a batch again; whether the server took it for another."""
        return (
            "idempotent-replayed" not in server.post({"message": key}, Idempotency_Key=key).headers
        )

    def write(self, server: Server, statement: str, *parameters: Json) -> None:
        """Changes the database behind the server's back: so time passes quickly."""
        with contextlib.closing(sqlite3.connect(server.database, timeout=10)) as db, db:
            db.execute(statement, parameters)


if __name__ == "__main__":
    unittest.main()
