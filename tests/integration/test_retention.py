"""Retention: the oldest records go, by age and by size, while others are written and read,
and nobody notices."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import tempfile
import threading
import unittest
import urllib.parse

from tests.load import Writers, check_database
from tests.support import Json, Server, eventually

MIB = 1 << 20
DAY = 86_400_000_000  # µs
UNBOUNDED = {"max_age_days": None, "max_size_mb": None}


class Readers:
    """Threads that read in every way, as fast as they can;
    what was not as it should be is in `complaints`."""

    def __init__(self, server: Server):
        self.server = server
        self.complaints: list[str] = []
        self.rounds = {self.walk: 0, self.export: 0, self.count: 0}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[work], daemon=True) for work in self.rounds
        ]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, work) -> None:
        while not self._stopping.is_set():
            try:
                work()
            except Exception as error:
                self.complaints.append(f"{work.__name__}: {error!r}")
            self.rounds[work] += 1

    def walk(self) -> None:
        """Follows the Link headers from the newest record for some pages, or to the end."""
        path, seen = "/logs?limit=200", [(1 << 62, 0)]
        for _ in range(30):
            answer = self.server.get(path)
            assert answer.status == 200, answer.text
            keys = [(record["timestamp"], record["id"]) for record in answer.json]
            assert all(a > b for a, b in itertools.pairwise(keys)), "out of order"
            assert not keys or seen[-1][0] == 1 << 62 or keys[0] < seen[-1], (
                "a page repeats what was on the one before"
            )
            seen += keys
            if "link" not in answer.headers:
                return
            path = urllib.parse.urljoin(path, answer.headers["link"].partition(">")[0][1:])

    def export(self) -> None:
        answer = self.server.get("/logs?limit=0&order=asc")
        assert answer.status == 200, answer.text
        ids = [record["id"] for record in answer.json]
        assert len(ids) == len(set(ids)), "an export repeats a record"

    def count(self) -> None:
        answer = self.server.get("/stats?step=1m")
        assert answer.status == 200, answer.text
        stats: dict[str, Json] = answer.json
        sums = [sum(stats["by_service"].values()), sum(stats["by_severity"].values())]
        bars = [
            count for bar in stats["histogram"] for name, count in bar.items() if name != "start"
        ]
        assert [*sums, sum(bars)] == [stats["total"]] * 3, f"{stats} do not agree"


def edit(server: Server, statement: str) -> None:
    """Changes the database of a server that is stopped."""
    with contextlib.closing(sqlite3.connect(server.database)) as db, db:
        db.execute(statement)


class Retention(unittest.TestCase):
    def test_by_size_under_load_the_file_stays_within_its_bound_and_readers_see_no_error(self):
        bound = 6  # MiB; what comes in between two looks at the size is little beside it
        retention = {"max_age_days": None, "max_size_mb": bound}
        # On a disk, as a user has it: in memory, where a sync costs nothing, the rush is larger.
        with (
            tempfile.TemporaryDirectory(prefix="logs-") as folder,
            Server(folder, retention=retention) as server,
        ):
            largest = 0
            with (
                Readers(server) as readers,
                Writers(server, 2, records=250, details="x" * 500) as writers,
            ):
                while len(writers.acknowledged) < 14_000:
                    writers.wait_for(500)
                    largest = max(largest, server.database.stat().st_size)
                eventually(lambda: min(readers.rounds.values()) >= 2)
            self.assertEqual(readers.complaints, [])
            self.assertEqual(writers.refusals, [])
            self.assertLess(largest, bound * MIB * 1.1)
            check_database(self, server)
            low, high, records = server.sql("SELECT min(id), max(id), count(*) FROM logs")[0]
            self.assertEqual(
                (high, high - low + 1), (len(writers.acknowledged), records), "not the oldest went"
            )
            self.assertGreater(low, 3_000)
            self.assertGreater(records, 4_000, "it deletes far more than it must")
            eventually(
                lambda: server.database.stat().st_size < bound * MIB * 1.1,
                5,
                "the file stays over its bound",
            )

    def test_by_age_under_load(self):
        with Server(retention={"max_age_days": 0.5 / 86400, "max_size_mb": None}) as server:
            with Readers(server) as readers, Writers(server, 2, records=50) as writers:
                eventually(lambda: (server.sql("SELECT min(id) FROM logs")[0][0] or 0) > 1000)
                eventually(lambda: min(readers.rounds.values()) >= 2)
            self.assertEqual(readers.complaints, [])
            self.assertEqual(writers.refusals, [])
            eventually(lambda: server.get("/stats").json["total"] == 0, 10, "some records stay")
            self.assertEqual(server.get("/logs").json, [])
            self.assertEqual(server.sql("SELECT count(*) FROM counts"), [(0,)])
            check_database(self, server)
            last = len(writers.acknowledged)
            server.restart()
            self.assertEqual(server.post({"message": "next"}).json["first_id"], last + 1)

    def test_age_is_counted_from_the_receipt_and_the_link_of_a_page_works_when_its_records_are_gone(
        self,
    ):
        with Server() as server:
            server.post([{"message": f"m{n}", "timestamp": 1_700_000_000 + n} for n in range(3300)])
            server.post(
                [
                    {"message": "old, received now", "timestamp": "1999-12-31T23:59:59Z"},
                    {"message": "now"},
                ]
            )
            page = server.get("/logs?limit=100&order=asc&timestamp_start=2000-01-01")
            path = urllib.parse.urljoin("/logs", page.headers["link"].partition(">")[0][1:])
            server.stop()
            edit(server, f"UPDATE logs SET received_at = received_at - 31 * {DAY} WHERE id <= 3000")
            server.start()
            eventually(lambda: server.get("/stats").json["total"] == 302)
            self.assertEqual(
                [r["message"] for r in server.get(path).json], [f"m{n}" for n in range(3000, 3100)]
            )
            messages = [record["message"] for record in server.get("/logs?limit=0&order=asc").json]
            self.assertEqual(
                messages, ["old, received now", *(f"m{n}" for n in range(3000, 3300)), "now"]
            )
            check_database(self, server)

    def test_without_bounds_all_is_kept_and_a_bound_that_is_lowered_gives_space_back(self):
        with Server(retention=UNBOUNDED) as server:
            for _ in range(4):
                server.post([{"message": "x" * 10_000, "timestamp": "1970-01-01"}] * 250)
            server.stop()
            edit(server, f"UPDATE logs SET received_at = received_at - 4000 * {DAY}")
            server.start()
            self.assertEqual(server.post({"message": "after"}).status, 200)
            self.assertEqual(server.get("/stats").json["total"], 1001)
            server.stop()
            self.assertGreater(server.database.stat().st_size, 10_000_000)
            server.config["server"]["retention"] = {"max_age_days": None, "max_size_mb": 2}
            server.start()
            eventually(
                lambda: server.database.stat().st_size < 2 * MIB * 1.1,
                5,
                "the file stays over its bound",
            )
            self.assertIn(
                server.get("/stats").json["total"], range(120, 220), "it deletes more than it must"
            )
            self.assertEqual(server.get("/logs?limit=1").json[0]["message"], "after")
            check_database(self, server)

    def test_answers_kept_for_repeats_do_not_push_the_records_out(self):
        # An answer names each: some 12 KB.
        faults = [{"message": "m", "severity": "unheard-of"}] * 100
        with Server(retention={"max_age_days": None, "max_size_mb": 2}) as server:
            for number in range(400):
                body = [{"message": f"m{number}"}, *faults]
                answer = server.post(body, Idempotency_Key=f"k{number}")
                self.assertEqual(answer.json["accepted"], 1)
            eventually(
                lambda: server.database.stat().st_size < 2 * MIB * 1.1,
                5,
                "the file stays over its bound",
            )
            self.assertIn(
                server.get("/stats").json["total"],
                range(50, 401),
                "records that fit into the bound",
            )
            self.assertEqual(server.get("/logs?limit=1").json[0]["message"], "m399")
            again = server.post(body, Idempotency_Key="k399")
            self.assertEqual(
                (again.body, again.headers["idempotent-replayed"]), (answer.body, "true")
            )
            self.assertEqual(server.sql("SELECT count(*) FROM logs WHERE message = 'm399'"), [(1,)])
            check_database(self, server)


if __name__ == "__main__":
    unittest.main()
