"""What holds when the records live in ClickHouse: the promise through every failure, and several
servers on one store.

test_stores.py has what every store must answer. Here the engine is killed, paused, filled and cut
off, its answers are lost on the way, and servers share it. Where ClickHouse is not installed, all
of this is skipped.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import http.client
import itertools
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from collections.abc import Callable
from typing import Any

from clickhouse import Cluster, Engine, Proxy, Seen, free_port  # type: ignore[import-not-found]

from tests.load import Follower, together
from tests.support import (
    ROOT,
    SEVERITIES,
    SHIPPER,
    Answer,
    Server,
    configuration,
    eventually,
    query,
)

Json = Any
PASSWORD = "s3cret: with/odd@marks?&%"
PATIENCE_SECONDS = 30  # within which an engine that hangs must have become a 503
RECOVERY_SECONDS = 15  # within which all must be well again by itself
DAY = 86_400_000_000
databases = (f"logs{number}" for number in itertools.count(1))


def is_insert(seen: Seen) -> bool:
    """Whether a request of the server writes records."""
    return re.match(r"INSERT INTO `?logs\b", seen.sql) is not None


def start_fails(store: str) -> tuple[int, str]:
    """Starts a server that must not run; gives its exit status and what it says."""
    with tempfile.TemporaryDirectory(prefix="logs-") as folder:
        path = pathlib.Path(folder, "config.json")
        path.write_text(json.dumps(configuration(store=store)), encoding="utf-8")
        command = [sys.executable, str(ROOT / "server.py"), "--config", str(path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            output, _ = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:  # it runs
            process.kill()
            output, _ = process.communicate()
        return process.returncode, output


def post_until_stored(servers: list[Server], body: Json, key: str, seconds: float = 60) -> Answer:
    """What a good client does: sends a batch, with one key,
    to one server or another until it gets a 200."""
    deadline = time.monotonic() + seconds
    for server in itertools.cycle(servers):
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = server.post(body, Idempotency_Key=key)
            if answer.status == 200:
                return answer
            if answer.status != 503:
                raise AssertionError(f"{answer.status}: {answer.text}")
        if time.monotonic() > deadline:
            raise AssertionError(f"not stored in {seconds:g} s")
        time.sleep(0.1)
    raise AssertionError("no server")


class ClickHouseTest(unittest.TestCase):
    """What the tests share: one engine, and a database for each test."""

    engine: Engine

    @classmethod
    def setUpClass(cls):
        cls.engine = cls.enterClassContext(Engine(user="logs", password=PASSWORD))

    def setUp(self):
        self.database = next(databases)
        self.store = self.engine.database(self.database)
        self.addCleanup(self.repair)

    def repair(self) -> None:
        """Leaves the engine running for the next test."""
        self.engine.resume()
        if not self.engine.answers():
            self.engine.kill()
            self.engine.start()
        self.engine.query("SYSTEM START MERGES")

    def start(self, store: str | None = None, **settings: Json) -> Server:
        """A server on this test's database."""
        return self.enterContext(Server(store=store or self.store, **settings))

    def rows(self, sql: str) -> list[Any]:
        """Asks the engine, past the server."""
        return self.engine.rows(sql, self.database)

    def count(self) -> int:
        """How many records there are in truth."""
        return int(self.rows("SELECT count() FROM logs")[0][0])

    def assert_unavailable(self, answer: Answer) -> None:
        """503, with a Retry-After of a few seconds,
        and a sentence on what is wrong and what to do."""
        self.assertEqual(answer.status, 503, answer.text)
        self.assertIn(int(answer.headers["retry-after"]), range(1, 11))
        self.assertTrue(answer.json["error"] and answer.json["hint"], answer.text)
        self.assertNotIn(PASSWORD, answer.text)

    def assert_recovers(self, server: Server) -> None:
        """It must take records again, without a restart."""
        again = {"message": "again"}
        eventually(
            lambda: server.post(again).status == 200, RECOVERY_SECONDS, "no record is taken again"
        )
        self.assertEqual(server.get("/health").status, 200)
        self.assertEqual(server.get("/logs?limit=1").json[0]["message"], "again")


class OnceTests(ClickHouseTest):
    """An Idempotency-Key stores a batch once."""

    def test_a_key_sent_again_through_another_server_stores_nothing_and_gets_the_first_answer(self):
        one, two = self.start(), self.start(number=1)
        body = [{"message": "a"}, {"message": ""}, {"message": "b"}]
        first = one.post(body, Idempotency_Key="k")
        self.assertEqual(
            (first.status, first.json["accepted"], first.json["rejected"]), (200, 2, 1)
        )
        for server in (two, one, two):
            again = server.post(body, Idempotency_Key="k")
            self.assertEqual((again.status, again.json), (200, first.json))
            self.assertEqual(again.headers.get("idempotent-replayed"), "true")
        self.assertEqual(self.count(), 2)

    def test_a_key_with_another_body_is_refused_by_the_other_server_too(self):
        one, two = self.start(), self.start(number=1)
        self.assertEqual(one.post({"message": "a"}, Idempotency_Key="k").status, 200)
        for server in (one, two):
            self.assertEqual(server.post({"message": "b"}, Idempotency_Key="k").status, 422)
        self.assertEqual(self.rows("SELECT message FROM logs"), [["a"]])

    def test_a_key_sent_to_two_servers_at_the_same_moment_is_stored_once(self):
        servers = [self.start(), self.start(number=1)]
        for number in range(8):
            body = [{"message": f"{number}.{part}"} for part in range(20)]
            answers = together(
                6, lambda n, b=body, k=number: servers[n % 2].post(b, Idempotency_Key=f"key {k}")
            )
            with self.subTest(number=number):
                self.assertEqual([answer.status for answer in answers], [200] * 6, answers)
                self.assertEqual(len({(a.json["first_id"], a.json["last_id"]) for a in answers}), 1)
                self.assertEqual(self.count(), 20 * (number + 1))
        stored = {record["id"] for record in servers[0].get("/logs?limit=0").json}
        self.assertIn(answers[0].json["first_id"], stored)
        self.assertIn(answers[0].json["last_id"], stored)

    def test_a_key_is_known_after_the_server_and_the_engine_were_killed(self):
        server = self.start()
        first = server.post([{"message": "a"}] * 3, Idempotency_Key="k")
        server.stop(signal.SIGKILL)
        self.engine.kill()
        self.engine.start()
        server = self.start()
        again = server.post([{"message": "a"}] * 3, Idempotency_Key="k")
        self.assertEqual((again.status, again.json), (200, first.json))
        self.assertEqual(self.count(), 3)

    def test_a_key_is_known_longer_than_the_engine_remembers_its_inserts(self):
        server = self.start()
        self.engine.change(self.database, "non_replicated_deduplication_window", 1)
        first = server.post({"message": "a"}, Idempotency_Key="k")
        for _ in range(3):
            server.post({"message": "another"})
        again = server.post({"message": "a"}, Idempotency_Key="k")
        self.assertEqual((again.status, again.json), (200, first.json))
        self.assertEqual(self.rows("SELECT count() FROM logs WHERE message = 'a'"), [[1]])

    def test_a_batch_whose_answer_was_lost_between_engine_and_server_is_stored_once(self):
        proxy = self.enterContext(Proxy(self.engine))
        servers = [self.start(proxy.store(self.database)), self.start(number=1)]
        for failures in (1, 2, 5):
            left = iter(range(failures))
            proxy.lose(lambda seen, left=left: is_insert(seen) and next(left, None) is not None)
            key, body = f"key {failures}", [{"message": f"lost {failures}"}] * 4
            answer = post_until_stored(servers, body, key)
            with self.subTest(failures=failures):
                self.assertEqual((answer.status, answer.json["accepted"]), (200, 4))
                self.assertEqual(
                    self.rows(f"SELECT count() FROM logs WHERE message = 'lost {failures}'"), [[4]]
                )
                ids = [
                    record["id"]
                    for record in servers[0]
                    .get(query(contains=f"lost {failures}", order="asc"))
                    .json
                ]
                self.assertEqual(
                    [answer.json["first_id"], answer.json["last_id"]], [ids[0], ids[-1]]
                )
        self.assertTrue(proxy.lost)

    def test_a_repeat_that_overtakes_the_first_try_stores_nothing_twice(self):
        """The first try hangs on its way, a balancer sends the repeat to another server,
        then the first arrives."""
        proxy = self.enterContext(Proxy(self.engine))
        slow, quick = self.start(proxy.store(self.database)), self.start(number=1)
        slow.post({"message": "warm up"})
        proxy.hold(is_insert)
        answers: list[Answer] = []
        first = threading.Thread(
            target=lambda: answers.append(slow.post({"message": "x"}, Idempotency_Key="k"))
        )
        first.start()
        self.assertTrue(proxy.held.wait(10))
        answers.append(quick.post({"message": "x"}, Idempotency_Key="k"))
        proxy.go_on.set()
        first.join(PATIENCE_SECONDS)
        self.assertEqual([answer.status for answer in answers], [200, 200], answers)
        self.assertEqual(answers[0].json, answers[1].json)
        self.assertEqual(self.rows("SELECT count() FROM logs WHERE message = 'x'"), [[1]])

    def test_a_batch_without_a_key_is_never_stored_twice_by_the_server_itself(self):
        proxy = self.enterContext(Proxy(self.engine))
        server = self.start(proxy.store(self.database))
        stored = 0
        for number in range(4):
            left = iter([True])
            proxy.lose(lambda seen, left=left: is_insert(seen) and next(left, False))
            answer = server.post([{"message": f"x{number}"}] * 3)
            self.assertIn(answer.status, (200, 503), answer.text)
            stored += 3
            self.assertEqual(self.count(), stored)


class OutageTests(ClickHouseTest):
    """The engine gone, refusing, slow or full: an honest 503, and on again by itself."""

    def assert_all_unavailable(self, server: Server) -> None:
        paths = [
            "/logs", "/logs?limit=0", "/logs/1", "/stats", "/stats?step=1h&since=1d", "/health",
        ]
        work: list[Callable[[], Answer]] = [functools.partial(server.get, path) for path in paths]
        work += [
            lambda: server.post({"message": "lost"}),
            lambda: server.post({"message": "lost"}, Idempotency_Key="k"),
        ]
        for answer in together(len(work), lambda n: work[n]()):
            self.assert_unavailable(answer)

    def test_while_the_engine_is_gone_everything_is_503_and_then_well_again(self):
        server = self.start()
        kept = server.post({"message": "kept"}).json["first_id"]
        self.engine.kill()
        self.assert_all_unavailable(server)
        self.assertEqual(server.get("/").status, 200)
        self.engine.start()
        self.assert_recovers(server)
        self.assertEqual(server.get(f"/logs/{kept}").json["message"], "kept")
        self.assertEqual(server.get("/stats?contains=lost").json["total"], 0)

    def test_while_the_engine_hangs_everything_is_503_in_time_and_then_well_again(self):
        server = self.start()
        server.post({"message": "kept"})
        self.engine.pause()
        began = time.monotonic()
        self.assert_all_unavailable(server)
        self.assertLess(time.monotonic() - began, PATIENCE_SECONDS)
        self.engine.resume()
        self.assert_recovers(server)
        self.assertEqual(server.post({"message": "lost"}, Idempotency_Key="k").status, 200)
        # With the key, and without.
        self.assertLessEqual(server.get("/stats?contains=lost").json["total"], 2)

    def test_a_stop_does_not_wait_for_an_engine_that_hangs(self):
        server = self.start()
        self.engine.pause()
        self.addCleanup(self.engine.resume)
        with contextlib.ExitStack() as stack:
            for number in range(3):
                connection = stack.enter_context(contextlib.closing(server.connection()))
                headers = {"Authorization": f"Token {SHIPPER}", "Idempotency-Key": str(number)}
                connection.request(
                    "POST", "/logs", json.dumps({"service": "app", "message": "lost"}), headers
                )
            self.assertEqual(server.get("/").status, 200)  # which needs no store
            began = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(
                time.monotonic() - began, 6, "s; three tries of 12 s are under way or waiting"
            )

    def test_while_the_engine_refuses_to_write_the_server_reads_on(self):
        server = self.start()
        server.post({"message": "kept"})
        causes = {
            "a full disk": ("min_free_disk_bytes_to_perform_insert", 1 << 60),
            "too many parts": ("parts_to_throw_insert", 1),
        }
        self.engine.query("SYSTEM STOP MERGES")
        for cause, (setting, value) in causes.items():
            with self.subTest(cause):
                self.engine.change(self.database, setting, value)
                self.assert_unavailable(server.post({"message": "lost"}, Idempotency_Key=cause))
                self.assertIn("kept", [record["message"] for record in server.get("/logs").json])
                self.engine.change(self.database, setting, None)
                self.assert_recovers(server)
                self.assertEqual(
                    server.post({"message": "lost"}, Idempotency_Key=cause).json["accepted"], 1
                )
        self.assertEqual(
            self.rows("SELECT count() FROM logs WHERE message = 'lost'"), [[len(causes)]]
        )

    def test_many_refusals_in_a_row_do_not_outlast_their_cause(self):
        server = self.start()
        server.post({"message": "kept"})
        self.engine.query(
            "ALTER TABLE logs MODIFY SETTING parts_to_throw_insert = 1", database=self.database
        )
        for _ in range(20):
            self.assert_unavailable(server.post({"message": "lost"}))
        self.engine.query(
            "ALTER TABLE logs RESET SETTING parts_to_throw_insert", database=self.database
        )
        eventually(
            lambda: server.post({"message": "again"}).status == 200, 3, "no record is taken again"
        )

    def test_a_full_disk_is_called_so_and_found_by_a_check_of_health(self):
        server = self.start()
        self.engine.fill_disk(self.database)
        self.assertRegex(server.post({"message": "lost"}).json["error"].lower(), "disk|space|full")
        self.assert_unavailable(server.get("/health"))
        self.engine.fill_disk(self.database, False)
        self.assert_recovers(server)

    def test_a_table_that_was_dropped_is_an_outage_and_no_empty_store(self):
        server = self.start()
        server.post({"message": "kept"})
        self.engine.query("RENAME TABLE logs TO away", database=self.database)
        for answer in (
            server.get("/logs"),
            server.get("/stats"),
            server.get("/health"),
            server.post({"message": "x"}),
        ):
            self.assert_unavailable(answer)
        self.engine.query("RENAME TABLE away TO logs", database=self.database)
        self.assert_recovers(server)

    def test_a_connection_that_the_engine_has_closed_is_no_failure(self):
        server = self.start()
        for _ in range(3):
            self.assertEqual(server.post({"message": "x"}).status, 200)
            self.assertEqual(server.get("/logs").status, 200)
            self.engine.kill()
            self.engine.start()
        self.assertEqual(server.post({"message": "x"}).status, 200)

    def test_an_answer_cut_short_is_an_error_and_no_short_list(self):
        proxy = self.enterContext(Proxy(self.engine))
        server = self.start(proxy.store(self.database))
        server.post([{"message": "x"}] * 10)
        ok = b"HTTP/1.1 200 OK\r\n"
        summary = ok + b'X-ClickHouse-Summary: {"read_rows":"10"}\r\n'
        chunked = summary + b"Transfer-Encoding: chunked\r\n\r\n"
        sized = summary + b"Content-Length: 5\r\n\r\n"
        # The engine sends each of these parts by itself: a kill can come after any of them.
        parts = [b"", ok, ok + b"X-ClickHouse-Summary: ", summary, chunked, chunked + b"3\r\n"]
        for part in [*parts, chunked + b"3\r\n[1]\r\n", sized, sized + b"[1]"]:
            proxy.lose(lambda seen: "SELECT" in seen.sql, part)
            with self.subTest(part):
                for path in ("/logs", "/stats", "/stats?step=1h", "/logs?limit=0", "/logs/1"):
                    self.assert_unavailable(server.get(path))
                self.assert_unavailable(server.post({"message": "y"}, Idempotency_Key="k"))
        proxy.lose(lambda _: False)
        self.assertEqual(len(server.get("/logs").json), 10)

    def test_a_batch_of_which_only_the_token_is_there_after_a_repeat_is_not_confirmed(self):
        proxy = self.enterContext(Proxy(self.engine))
        server = self.start(proxy.store(self.database))
        server.post({"message": "warm up"})

        def lose_the_records(seen: Seen) -> bool:
            if is_insert(seen) and not proxy.lost:
                sql = "DELETE FROM logs WHERE message = 'x'"  # As if it had been killed.
                self.engine.query(sql, database=self.database)
                return True
            return False

        proxy.lose(lose_the_records)
        self.assert_unavailable(server.post({"message": "x"}))
        self.assertEqual(server.post({"message": "y"}).status, 200)
        messages = [record["message"] for record in server.get("/logs").json]
        self.assertEqual(sorted(messages), ["warm up", "y"])

    def test_a_page_of_long_records_ends_early_and_the_next_goes_on(self):
        server = self.start(constants={"PAGE_CHARS": 10_000})
        server.post([{"message": f"{n} {'x' * 4_000}"} for n in range(10)])
        path, pages = "/logs?limit=9", []
        while path:
            answer = server.get(path)
            pages.append([record["message"].partition(" ")[0] for record in answer.json])
            link = re.match("<(.*)>", answer.headers.get("link", ""))
            path = "/" + link[1].lstrip("./") if link else ""
        self.assertEqual([n for page in pages for n in page], [str(n) for n in range(9, -1, -1)])
        self.assertEqual([len(page) for page in pages], [3, 3, 3, 1])
        with Follower(server, "limit=0") as follower:
            self.assertEqual(len(follower.wait(10)), 10)

    def test_a_query_that_takes_too_long_is_stopped_and_says_how_to_narrow_it(self):
        server = self.start()
        server.post([{"message": "x" * 100_000}] * 20)
        columns = "id, timestamp, received_at, service, severity, message, attributes"
        slow = (
            "SELECT * FROM truth WHERE sleepEachRow(1) = 0"
            " SETTINGS function_sleep_max_microseconds_per_block = 0"
        )
        self.engine.query("RENAME TABLE logs TO truth", database=self.database)
        self.engine.query(
            f"CREATE VIEW logs AS SELECT {columns} FROM ({slow})", database=self.database
        )
        began = time.monotonic()
        answer = server.get("/logs?contains=xxx")
        self.assert_unavailable(answer)
        self.assertLess(time.monotonic() - began, PATIENCE_SECONDS)
        self.assertRegex(answer.json["hint"], "timestamp_start|since")

    def test_a_token_that_is_known_without_its_records_does_not_pass_for_a_repeat(self):
        server = self.start()
        server.post({"message": "first"}, Idempotency_Key="k")
        # as after a kill between the two: ClickHouse knows the token, and has no record of it
        self.engine.query(
            "DELETE FROM logs WHERE 1 SETTINGS lightweight_deletes_sync = 2", database=self.database
        )
        self.assertEqual(self.rows("SELECT count() FROM logs"), [[0]])
        answer = server.post({"message": "first"}, Idempotency_Key="k")
        self.assertEqual((answer.status, answer.json["accepted"]), (200, 1))
        self.assertNotIn("idempotent-replayed", answer.headers)
        self.assertEqual(self.rows("SELECT message FROM logs"), [["first"]])
        again = server.post({"message": "first"}, Idempotency_Key="k")
        self.assertEqual(
            (again.headers.get("idempotent-replayed"), again.json), ("true", answer.json)
        )

    def test_records_that_were_confirmed_survive_kill_9_of_the_engine_in_mid_load(self):
        server = self.start()
        stop = threading.Event()
        confirmed: list[str] = []

        def write(number: int) -> None:
            for part in itertools.count():
                if stop.is_set():
                    return
                key = f"{number}.{part}"
                post_until_stored([server], [{"message": key}] * 5, key)
                confirmed.append(key)

        threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = len(confirmed)
            eventually(
                lambda before=before: len(confirmed) > before + 20,
                30,
                "no more records are confirmed",
            )
            self.engine.kill()
            self.engine.start()
        stop.set()
        for thread in threads:
            thread.join(60)
        counts = dict(self.rows("SELECT message, count() FROM logs GROUP BY message"))
        self.assertEqual(counts, dict.fromkeys(confirmed, 5))


class StartTests(ClickHouseTest):
    """What is wrong at the start is said in one clear line, without the password."""

    def test_a_wrong_password_stops_the_start_with_a_clear_line(self):
        status, output = start_fails(self.engine.store(self.database, password="not-the-word"))
        self.assertEqual(status, 2, output)
        self.assertEqual(len(output.strip().splitlines()), 1, output)
        self.assertRegex(output.lower(), "password")
        self.assertNotIn("not-the-word", output)
        self.assertNotIn("Traceback", output)

    def test_a_password_may_hold_any_letter(self):
        with (
            Engine(user="logs", password="contraseña 密码") as engine,
            Server(store=engine.url) as server,
        ):
            self.assertEqual(server.post({"message": "x"}).status, 200)

    def test_a_database_that_is_not_there_stops_the_start_with_a_clear_line(self):
        status, output = start_fails(self.engine.store("nowhere"))
        self.assertEqual(status, 2, output)
        self.assertEqual(len(output.strip().splitlines()), 1, output)
        self.assertIn("nowhere", output)
        self.assertNotIn("s3cret", output)

    def test_an_address_that_is_no_store_stops_the_start_with_a_clear_line(self):
        engine = f"127.0.0.1:{self.engine.port}"  # which speaks neither FTP nor TLS
        stores = [f"ftp://{engine}/default", f"https://{engine}/default", "http:///logs"]
        for store in (*stores, "http://127.0.0.1:99999/logs", "http://[::1/logs"):
            with self.subTest(store):
                status, output = start_fails(store)
                self.assertEqual(status, 2, output)
                self.assertNotIn("Traceback", output)

    def test_an_engine_that_is_not_there_yet_is_waited_for_or_named(self):
        port = free_port()
        store = f"http://127.0.0.1:{port}/default"
        try:
            server = self.enterContext(Server(store=store))
        except RuntimeError as error:
            self.assertIn(f"127.0.0.1:{port}", str(error))
            self.assertNotIn("Traceback", str(error))
        else:
            self.assert_unavailable(server.get("/health"))

    def test_the_password_is_never_shown(self):
        server = self.start()
        server.post({"message": "x"})
        self.engine.kill()
        answers = [server.get(path) for path in ("/", "/health", "/logs", "/metrics")] + [
            server.post({"message": "y"})
        ]
        server.stop()
        for text in [answer.text for answer in answers] + server.errors:
            self.assertNotIn("s3cret", text)


class TwoServersTests(ClickHouseTest):
    """Two servers share one store. Each has a number of its own in its configuration."""

    def setUp(self):
        super().setUp()
        # The table is made once, by either.
        self.one, self.two = together(2, lambda number: self.start(number=number))

    def test_what_one_has_taken_the_other_reads_at_once(self):
        for number in range(30):
            for writer, reader in ((self.one, self.two), (self.two, self.one)):
                answer = writer.post({"message": f"{number}", "service": "app"})
                self.assertEqual(
                    reader.get(f"/logs/{answer.json['first_id']}").json["message"], str(number)
                )
        self.assertEqual(self.one.get("/stats").json, self.two.get("/stats").json)
        self.assertEqual(self.one.get("/stats").json["total"], 60)

    def test_ids_never_collide(self):
        servers = [self.one, self.two, self.start(number=2), self.start(number=15)]
        answers = together(
            16, lambda n: [servers[n % 4].post([{"message": "x"}] * (1 + n * 5)) for _ in range(8)]
        )
        ranges = [(a.json["first_id"], a.json["last_id"]) for several in answers for a in several]
        self.assertEqual(len(set(ranges)), 16 * 8)
        total = 8 * sum(1 + n * 5 for n in range(16))
        self.assertEqual(self.rows("SELECT count(), uniqExact(id) FROM logs"), [[total, total]])

    def test_ids_never_collide_over_restarts_by_kill_9(self):
        seen: collections.Counter[int] = collections.Counter()
        for _ in range(4):
            for server in (self.one, self.two):
                seen.update(server.post([{"message": "x"}]).json["first_id"] for _ in range(3))
                server.restart(signal.SIGKILL)
        self.assertEqual(set(seen.values()), {1})
        self.assertEqual(self.rows("SELECT count(), uniqExact(id) FROM logs"), [[24, 24]])

    def test_ids_grow_from_server_to_server_in_the_order_of_commits(self):
        ids = [
            server.post({"message": "x"}).json["first_id"]
            for _ in range(20)
            for server in (self.one, self.two)
        ]
        self.assertEqual(ids, sorted(ids))

    def test_a_follower_on_one_sees_what_the_other_took_none_missed_or_repeated(self):
        with Follower(self.one, "") as follower:
            self.one.post({"message": "start"})
            follower.wait(1)

            def write(number: int) -> None:
                for part in range(40):
                    server = (self.one, self.two)[number % 2]
                    self.assertEqual(
                        server.post([{"message": f"{number}.{part}.{n}"} for n in range(3)]).status,
                        200,
                    )

            together(6, write)
            self.one.post({"message": "end"})
            eventually(
                lambda: follower.records[-1]["message"] == "end",
                30,
                "the last record does not come",
            )
            time.sleep(1)  # for what might come twice
        messages = collections.Counter(record["message"] for record in follower.records)
        wanted = ["start", "end"] + [
            f"{n}.{part}.{k}" for n in range(6) for part in range(40) for k in range(3)
        ]
        self.assertEqual(messages, collections.Counter(wanted))

    def test_a_follower_misses_nothing_of_a_commit_that_another_overtakes(self):
        proxy = self.enterContext(Proxy(self.engine))
        slow = self.start(proxy.store(self.database), number=2)
        slow.post({"message": "warm up"})
        with Follower(self.one, "after=0") as follower:
            follower.wait(1)
            proxy.hold(is_insert)
            thread = threading.Thread(target=slow.post, args=[{"message": "slow"}])
            thread.start()
            self.assertTrue(proxy.held.wait(10))
            self.two.post({"message": "quick"})  # its id is the higher one
            follower.wait(2)
            proxy.go_on.set()
            thread.join(PATIENCE_SECONDS)
            self.assertEqual(
                {record["message"] for record in follower.wait(3)}, {"warm up", "quick", "slow"}
            )

    def test_a_follower_that_begins_between_two_commits_gets_the_overtaken_one(self):
        proxy = self.enterContext(Proxy(self.engine))
        slow = self.start(proxy.store(self.database), number=2)
        proxy.hold(is_insert)
        thread = threading.Thread(target=slow.post, args=[{"message": "slow"}])
        thread.start()
        self.assertTrue(proxy.held.wait(10))
        self.two.post({"message": "first"})
        self.two.post({"message": "second"})
        with Follower(self.one, "limit=1") as follower:
            follower.wait(1)
            proxy.go_on.set()  # Its id is lower than those of both others.
            thread.join(PATIENCE_SECONDS)
            messages = [record["message"] for record in follower.wait(2)]
            self.assertEqual(messages, ["second", "slow"])

    def test_a_follower_that_changes_servers_misses_and_repeats_nothing(self):
        servers = [self.one, self.two]

        def write() -> None:
            for number in range(150):
                servers[number % 2].post({"message": str(number)})

        writer = threading.Thread(target=write)
        writer.start()
        records: list[Json] = []
        for server in itertools.cycle(servers):
            with Follower(server, f"after={records[-1]['id'] if records else 0}") as follower:
                records += follower.wait(min(15, 150 - len(records)))
            if len(records) >= 150:
                break
        writer.join()
        self.assertEqual(
            [record["message"] for record in records], [str(number) for number in range(150)]
        )

    def test_a_follower_after_a_record_that_is_not_there_yet_is_told_so(self):
        newest = 0
        for writer, reader in ((self.one, self.two), (self.two, self.one)):
            newest = writer.post([{"message": "m"}] * 2).json["last_id"]
            for after in (newest + 1, 1 << 53):
                answer = reader.get(f"/logs?follow=1&after={after}")
                self.assertEqual(answer.status, 400, answer.text)
                self.assertIn(str(after), answer.json["error"])
        for server in (self.one, self.two):
            with Follower(server, f"after={newest}") as follower:
                newest = self.one.post({"message": "next"}).json["last_id"]
                self.assertEqual(follower.wait(1)[0]["id"], newest)

    def test_the_simulator_runs_against_both_while_one_is_killed(self):
        runs = [Simulator(self.one, 1), Simulator(self.two, 2)]
        eventually(lambda: self.count() > 40, 30, "the simulators do not begin")
        self.one.stop(signal.SIGKILL)
        before = self.two.get("/stats").json["total"]
        eventually(
            lambda: self.two.get("/stats").json["total"] > before,
            RECOVERY_SECONDS,
            "the other does not go on",
        )
        self.one.restart()
        for run in runs:
            self.assertEqual(run.wait(), 0, run.output)
        records = self.two.get("/logs?limit=0").json
        self.assertEqual(len(records), sum(run.records for run in runs))
        self.assertEqual(len({record["id"] for record in records}), len(records))
        self.assertEqual(self.one.get("/stats").json, self.two.get("/stats").json)


class Simulator:
    """`python simulator.py` against one server, with two services of 60 records each."""

    records = 120

    def __init__(self, server: Server, seed: int):
        self.folder = tempfile.TemporaryDirectory(prefix="simulator-")
        config = configuration()
        for service in config["services"].values():
            logs = [
                {"severity": severity, "message": f"m {severity}", "weight": 1}
                for severity in SEVERITIES
            ]
            service.update(iterations=[60, 60], delay_seconds=[0, 0.1], logs=logs)
        path = pathlib.Path(self.folder.name, "config.json")
        path.write_text(json.dumps(config), encoding="utf-8")
        command = [
            sys.executable,
            str(ROOT / "simulator.py"),
            "--config",
            str(path),
            "--url",
            server.url,
        ]
        self.process = subprocess.Popen(
            [*command, "--seed", str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self.output = ""

    def wait(self) -> int:
        """Its exit status."""
        self.output, _ = self.process.communicate(timeout=120)
        self.folder.cleanup()
        return self.process.returncode


class TableTests(ClickHouseTest):
    """The table is made once, and never altered."""

    def definition(self) -> str:
        """How the engine would make the table."""
        found = self.rows(
            "SELECT create_table_query FROM system.tables"
            " WHERE database = currentDatabase() AND name = 'logs'"
        )
        return str(found[0][0])

    def test_an_insert_is_on_disk_before_it_is_confirmed(self):
        proxy = self.enterContext(Proxy(self.engine))
        self.start(proxy.store(self.database)).post({"message": "x"})
        for setting in ("fsync_after_insert = 1", "fsync_part_directory = 1"):
            self.assertIn(setting, self.definition())
        # Whatever the user's profile says: else it may be confirmed while it waits in memory.
        [insert] = filter(is_insert, proxy.seen)
        self.assertEqual(insert.parameters["async_insert"], "0")

    def test_what_is_too_old_is_deleted_as_the_settings_say(self):
        server = self.start(retention={"max_age_days": 2, "max_size_mb": None})
        kept = server.post(
            [{"message": "old", "timestamp": "2001-01-01"}, {"message": "young"}]
        ).json
        self.assertEqual(kept["accepted"], 2)  # what counts is the time of receipt
        found = self.rows(
            "SELECT name FROM system.columns"
            " WHERE database = currentDatabase() AND table = 'logs'"
        )
        columns = [name for (name,) in found]
        shifted = ", ".join(
            f"{name} - {3 * DAY}" if name == "received_at" else name for name in columns
        )
        self.engine.query(
            f"INSERT INTO logs ({', '.join(columns)}) SELECT {shifted} FROM logs",
            database=self.database,
        )
        self.engine.query("OPTIMIZE TABLE logs FINAL", database=self.database)
        self.assertEqual(server.get("/stats").json["total"], 2)
        self.assertEqual(
            server.get("/stats").json["first_timestamp"], "2001-01-01T00:00:00.000000Z"
        )

    def test_without_a_bound_on_age_or_with_a_distant_one_nothing_is_deleted(self):
        for days in (None, 20_000, 36_500, 1_000_000):
            with self.subTest(days=days):
                self.database = next(databases)
                server = self.start(
                    self.engine.database(self.database),
                    retention={"max_age_days": days, "max_size_mb": None},
                )
                self.assertEqual(server.post([{"message": "x"}] * 3).status, 200)
                self.engine.query("OPTIMIZE TABLE logs FINAL", database=self.database)
                self.assertEqual(server.get("/stats").json["total"], 3)

    def test_a_table_that_is_there_is_not_altered_whatever_the_settings_say(self):
        self.start(retention={"max_age_days": 2}).stop()
        before = self.definition()
        self.assertIn("TTL", before)
        self.start(retention={"max_age_days": 9}).post({"message": "x"})
        self.assertEqual(self.definition(), before)

    def test_an_operators_own_table_is_used_as_it_is(self):
        self.start(self.engine.database(f"{self.database}_model")).stop()
        columns = (
            "SELECT name, type FROM system.columns"
            f" WHERE database = '{self.database}_model' AND table = 'logs'"
        )
        fields = ", ".join(
            f"{name} {kind} CODEC(ZSTD(3))" for name, kind in reversed(self.rows(columns))
        )
        self.engine.query(
            f"CREATE TABLE logs (host String DEFAULT 'here', {fields})"
            " ENGINE = MergeTree ORDER BY (service, timestamp)"
            " SETTINGS non_replicated_deduplication_window = 100",
            database=self.database,
        )
        before = self.definition()
        server = self.start()
        body = [{"message": "a", "user": "bob"}, {"message": "b", "severity": "ERROR"}]
        answer = server.post(body, Idempotency_Key="k")
        self.assertEqual(answer.status, 200, answer.text)
        self.assertEqual(server.post(body, Idempotency_Key="k").json, answer.json)
        self.assertEqual(
            [record["message"] for record in server.get("/logs?attr.user=bob").json], ["a"]
        )
        self.assertEqual(server.get("/stats").json["by_severity"]["ERROR"], 1)
        self.assertEqual(self.definition(), before)

    def test_a_table_that_lacks_a_column_takes_no_record_without_it(self):
        self.engine.query(
            "CREATE TABLE logs (id Int64, message String) ENGINE = MergeTree ORDER BY id",
            database=self.database,
        )
        try:
            server = self.start()
        except RuntimeError as error:
            self.assertNotIn("Traceback", str(error))
        else:
            self.assertGreaterEqual(server.post({"message": "x"}).status, 500)
        self.assertEqual(self.count(), 0)


class ParametersTests(ClickHouseTest):
    """No value becomes SQL."""

    def test_no_value_of_a_client_is_ever_part_of_a_statement(self):
        proxy = self.enterContext(Proxy(self.engine))
        server = self.start(proxy.store(self.database))
        mark = "Zq'\\`\"%_{}?:Zq"
        for key in (None, mark.encode().decode("latin-1")):
            record = {
                "message": mark,
                "service": mark,
                "severity": "ERROR",
                "timestamp": "2031-05-06T07:08:09.123457Z",
                mark: mark,
            }
            headers = {"Idempotency_Key": key} if key else {}
            self.assertEqual(server.post([record] * 3, SHIPPER, **headers).status, 200)
        moments = {
            "timestamp_start": "2031-05-06T07:08:09.123451Z",
            "timestamp_end": "2031-05-06T07:08:09.123459Z",
        }
        receipts = {
            "received_at_start": "2021-05-06T07:08:09.123453Z",
            "received_at_end": "2091-05-06T07:08:09.123454Z",
        }
        asked = [
            query(contains=mark, limit=7777),
            query(service=mark, limit=7777),
            query(("attr." + mark, mark), limit=7777),
            query(severity="ERROR", **moments, **receipts, limit=7777),
            query(order="asc", limit=5),
            query(limit=0, contains=mark),
            query(("not_attr." + mark, "Zq"), not_contains=mark + "Zq", not_service=mark + "Zq"),
        ]
        found = []
        for path in asked:
            answer = server.get(path)
            self.assertEqual(
                (answer.status, len(answer.json)), (200, 5 if "limit=5" in path else 6), path
            )
            found.append(answer)
            filters = [
                pair
                for pair in path.partition("?")[2].split("&")
                if not re.match("limit|order", pair)
            ]
            self.assertEqual(server.get("/stats?" + "&".join(filters)).status, 200)
        link = found[4].headers["link"]
        following = urllib.parse.urljoin("/logs", link[1 : link.index(">")])
        self.assertEqual(len(server.get(following).json), 1)
        number = found[0].json[0]["id"]
        self.assertEqual(server.get(f"/logs/{number}").status, 200)
        with Follower(
            server, f"after={number - 7}&" + query(contains=mark).partition("?")[2]
        ) as follower:
            follower.wait(1)
        self.assertGreater(len(proxy.seen), 10)
        for seen in proxy.seen:
            self.assertNotIn("Zq", seen.sql)
            self.assertNotRegex(seen.sql, rf"12345\d|7777|{number}|{number - 7}")
        values = "".join(f"{seen.parameters}" for seen in proxy.seen)
        self.assertIn("Zq", values)

    def test_one_kind_of_question_is_one_statement_whatever_its_values(self):
        proxy = self.enterContext(Proxy(self.engine))
        server = self.start(proxy.store(self.database))
        statements = []
        for text in ("plain", "it's", "back\\slash", "%_", "\0", "😀", "{p0:String}", "?"):
            proxy.seen.clear()
            self.assertEqual(
                server.get(query(("attr." + text, text), contains=text, service=text)).status, 200
            )
            excluded = query(("not_attr." + text, text), not_contains=text, not_service=text)
            self.assertEqual(server.get(excluded).status, 200)
            statements.append([seen.sql for seen in proxy.seen])
        self.assertEqual(statements, [statements[0]] * len(statements))


class ClusterTests(unittest.TestCase):
    """Two engines, each with half of the records, made as the README says."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster("logs", recipe()))

    def setUp(self):
        self.nodes = self.cluster.nodes
        self.addCleanup(self.repair)
        for node in self.nodes:
            for (table,) in node.rows(
                "SELECT name FROM system.tables"
                " WHERE database = 'default' AND engine LIKE '%MergeTree'"
            ):
                node.query(f"TRUNCATE TABLE {table}")
        self.one, self.two = (
            self.enterContext(Server(store=node.url, number=number))
            for number, node in enumerate(self.nodes)
        )

    def repair(self) -> None:
        """Leaves both nodes running."""
        for node in self.nodes:
            if not node.answers():
                node.kill()
                node.start()

    def test_the_operators_tables_are_used_as_they_are(self):
        for node in self.nodes:
            engines = dict(
                node.rows("SELECT name, engine FROM system.tables WHERE database = 'default'")
            )
            self.assertEqual(engines["logs"], "Distributed")
            self.assertFalse(
                [n for n, e in engines.items() if e != "Distributed" and not n.endswith("_local")],
                engines,
            )

    def test_what_is_written_through_one_node_is_read_through_the_other_at_once(self):
        for number in range(20):
            for writer, reader in ((self.one, self.two), (self.two, self.one)):
                answer = writer.post([{"message": f"{number}.{part}"} for part in range(5)])
                self.assertEqual(answer.status, 200, answer.text)
                self.assertEqual(
                    reader.get(f"/logs/{answer.json['last_id']}").json["message"], f"{number}.4"
                )
        halves = [node.rows("SELECT count() FROM logs_local")[0][0] for node in self.nodes]
        self.assertEqual(sum(halves), 200)
        self.assertTrue(all(halves), halves)
        self.assertEqual(self.one.get("/stats").json, self.two.get("/stats").json)
        messages = [
            [record["message"] for record in server.get("/logs?limit=0").json]
            for server in (self.one, self.two)
        ]
        self.assertEqual(messages[0], messages[1])

    def test_a_key_sent_through_both_nodes_is_stored_once(self):
        for number in range(10):
            body = [{"message": str(number)}] * 4
            answers = together(
                4,
                lambda n, b=body, k=number: (self.one, self.two)[n % 2].post(
                    b, Idempotency_Key=str(k)
                ),
            )
            self.assertEqual({answer.status for answer in answers}, {200}, answers)
            self.assertEqual(len({answer.json["first_id"] for answer in answers}), 1)
        self.assertEqual(self.two.get("/stats").json["total"], 40)

    def test_ids_never_collide_between_the_nodes(self):
        together(
            8,
            lambda n: [(self.one, self.two)[n % 2].post([{"message": "x"}] * 20) for _ in range(5)],
        )
        self.assertEqual(
            self.nodes[0].rows("SELECT count(), uniqExact(id) FROM logs"), [[800, 800]]
        )

    def test_while_a_node_is_down_there_is_an_error_and_never_half_an_answer(self):
        wanted = collections.Counter[str]()
        for down, server in ((1, self.one), (0, self.two)):
            kept = [f"kept {down}.{number}" for number in range(10)]
            for message in kept:
                self.assertEqual(server.post([{"message": message}] * 3).status, 200)
            self.nodes[down].kill()
            for path in (
                "/logs",
                "/logs?limit=0",
                "/logs?order=asc&limit=5",
                "/stats",
                "/stats?step=1d&since=2d",
                "/health",
            ):
                answer = server.get(path)
                self.assertEqual(
                    answer.status, 503, f"without node {down}, {path}: {answer.text[:300]}"
                )
                self.assertIn("retry-after", answer.headers)
            keys = [f"later {down}.{number}" for number in range(12)]
            statuses = {
                server.post([{"message": key}] * 3, Idempotency_Key=key).status for key in keys
            }
            self.assertLessEqual(statuses, {200, 503})
            self.assertIn(503, statuses)
            self.nodes[down].start()
            for key in keys:
                answer = post_until_stored([self.one, self.two], [{"message": key}] * 3, key)
                self.assertEqual((answer.status, answer.json["accepted"]), (200, 3))
            eventually(
                lambda server=server: server.get("/health").status == 200,
                RECOVERY_SECONDS,
                "it stays ill",
            )
            wanted.update(dict.fromkeys(kept + keys, 3))
            found = collections.Counter(
                record["message"] for record in server.get("/logs?limit=0").json
            )
            self.assertEqual(found, wanted)

    def test_a_stream_that_loses_a_node_on_its_way_does_not_end_as_if_it_were_whole(self):
        for _ in range(6):
            self.one.post([{"message": "x" * 2000}] * 1000)
        connection = self.one.connection()
        connection.request("GET", "/logs?limit=0&format=ndjson")
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        answer.read(100)
        self.nodes[1].kill()
        with self.assertRaises((http.client.HTTPException, OSError)):
            while answer.read(65536):
                pass
        connection.close()


def recipe() -> list[str]:
    """The statements that the README gives for each node of a cluster:
    its SQL that makes a Distributed table."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [
        block
        for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
        if "Distributed" in block
    ]
    if not blocks:
        raise unittest.SkipTest("the README has no recipe for a cluster")
    return [
        statement.strip()
        for statement in re.sub(r"--.*", "", blocks[0]).split(";")
        if statement.strip()
    ]


if __name__ == "__main__":
    unittest.main()
