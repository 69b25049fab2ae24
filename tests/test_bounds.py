"""Every bound from both its sides, and every state that passes: that it holds, and that it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import unittest
from unittest import mock

import server as module
import simulator
from tests.load import Wire
from tests.support import ROOT, SHIPPER, TOKEN, Server, ServerTests, configuration, eventually
from tests.test_faults import batch_of, commit, post_at_once, record, store_of
from tests.test_get import Reading, encode
from tests.test_http import GET, POST, RECORD, HTTPTest
from tests.test_otlp import request, text
from tests.test_simulator import NOTHING, STORED, listener, totals
from tests.test_start import Folders, command


class Configuration(Folders):
    def test_a_number_of_the_configuration_is_taken_up_to_its_bound_and_refused_beyond(self) -> None:
        for change, wrong in (
            *(({"port": port}, port not in (0, 65535)) for port in (-1, 0, 65535, 65536)),
            *(({"max_records_per_second": rate}, rate == 0) for rate in (None, 0, 0.5)),
            *(({"retention": {"max_age_days": days}}, days == 0) for days in (None, 0, 0.5)),
            *(({"retention": {"max_size_mb": size}}, size == 0) for size in (None, 0, 0.5)),
        ):
            with self.subTest(change):
                self.assertEqual(bool(list(module.mistakes_in(configuration(**change), module.SHAPE))), wrong)

    def test_a_configuration_that_begins_with_a_byte_order_mark_is_read(self) -> None:
        line = command(self.folder, config=b"\xef\xbb\xbf" + json.dumps(configuration()).encode())
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            said = process.stdout.readline()
            process.terminate()
        self.assertTrue(said.startswith("listening on "), "it did not start")


class Stop(Folders):
    def test_a_second_signal_changes_nothing(self) -> None:
        with Server(constants={"SHUTDOWN_SECONDS": 0.5}) as server, Wire(server) as half:
            half.send(b"POST /logs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Token test-app\r\n")
            half.send(b"Content-Length: 999999\r\n\r\n" + b"{" * 300_000)
            eventually(lambda: "logs_waiting_bytes 300000\n" in server.get("/metrics").text)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            for sig in (signal.SIGINT, signal.SIGTERM):
                server.process.send_signal(sig)
            self.assertEqual(server.process.wait(10), 0)
        self.assertEqual(server.errors, [])

    def test_idle_connections_are_ended_at_once(self) -> None:
        with Server() as server, Wire(server) as idle:
            idle.send(GET).answer()
            began = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - began, module.SHUTDOWN_SECONDS - 0.5)

    def test_who_is_cut_off_in_a_request_by_the_stop_gets_503(self) -> None:
        with Server() as server, Wire(server) as half:
            half.send(b"GET /he")
            time.sleep(0.1)
            server.process.send_signal(signal.SIGTERM)
            answer = half.answer()
            assert answer
            self.assertEqual((answer.status, answer.headers["connection"]), (503, "close"))


class Bodies(ServerTests):
    def test_a_body_of_a_hundred_gzip_members_is_taken_and_one_of_more_is_not(self) -> None:
        for members, status in ((100, 200), (101, 422)):
            with self.subTest(members=members):
                data = gzip.compress(b'{"message": "a"}') + gzip.compress(b"\n") * (members - 1)
                answer = self.server.post(data, Content_Encoding="gzip")
                self.assertEqual(answer.status, status, answer.text)

    def test_a_multipart_form_is_415_and_the_hint_says_how_to_send_it(self) -> None:
        form = b'--x\r\nContent-Disposition: form-data; name="message"\r\n\r\nhello\r\n--x--\r\n'
        answer = self.server.post(form, Content_Type="multipart/form-data; boundary=x")
        self.assertEqual(answer.status, 415, answer.text)
        self.assertIn("curl -d", answer.json["hint"])

    def test_an_encoding_that_is_not_known_is_answered_with_those_that_are(self) -> None:
        answer = self.server.post(b"x", Content_Encoding="br")
        self.assertEqual(answer.headers["accept-encoding"], "gzip, deflate")

    def test_a_level_outside_of_pinos_scale_is_the_nearest_on_it(self) -> None:
        for number, name in ((0, "DEBUG"), (69, "CRITICAL"), (70, "CRITICAL"), (999, "CRITICAL")):
            with self.subTest(number=number):
                self.assertEqual(self.accept({"message": "m", "level": number})[0]["severity"], name)


class Queries(Reading):
    def test_contains_has_a_thousand_characters_at_most(self) -> None:
        self.given({"message": "x" * 1001})
        self.assertEqual(len(self.ask({"contains": "x" * 1000}).json), 1)
        answer = self.server.get("/logs?" + encode({"contains": "x" * 1001}))
        self.assertEqual(answer.status, 400, answer.text)
        self.assertIn("1,000", answer.json["hint"])

    def test_a_page_has_ten_thousand_records_at_most(self) -> None:
        for limit, status in ((10_000, 200), (10_001, 400)):
            self.assertEqual(self.server.get(f"/logs?limit={limit}").status, status)

    def test_a_histogram_has_ten_thousand_steps_at_most(self) -> None:
        for end, status in (("02:46:39", 200), ("02:46:40", 400)):
            query = f"step=1s&timestamp_start=2026-11-24T00:00:00Z&timestamp_end=2026-11-24T{end}Z"
            answer = self.server.get(f"/stats?service={self.service}&{query}")
            self.assertEqual(answer.status, status, answer.text[:200])
            if status == 200:
                self.assertEqual(len(answer.json["histogram"]), 10_000)

    def test_a_page_of_large_records_ends_after_8_mib_and_the_pages_hold_them_all(self) -> None:
        body = [{"service": self.service, "message": "x" * 200_000}] * 50
        self.assertEqual(self.server.post(body, SHIPPER).json["accepted"], 50)
        first = self.ask("limit=100")
        self.assertIn("link", first.headers)
        self.assertLess(len(first.body), (8 << 20) + 400_000)

    def test_more_kinds_than_one_statement_can_merge_are_found_in_order(self) -> None:
        names = [f"{self.service} {n}" for n in range(600)]
        body = [{"message": "m", "service": name, "timestamp": n, "severity": "ERROR"} for n, name in enumerate(names)]
        self.assertEqual(self.server.post(body, SHIPPER).json["accepted"], 600)
        found = self.server.get("/logs?min_severity=ERROR&timestamp_end=599&limit=1000&order=asc").json
        self.assertEqual([r["service"] for r in found], names)
        self.assertEqual(self.server.get("/stats?min_severity=ERROR&timestamp_end=599").json["total"], 600)


class Follow(unittest.TestCase):
    def test_a_blank_line_comes_when_nothing_else_has_come_for_a_while(self) -> None:
        with Server(constants={"HEARTBEAT_SECONDS": 0.2}) as server:
            server.post({"message": "m"})
            connection = server.connection(timeout=5)
            self.addCleanup(connection.close)
            connection.request("GET", "/logs?follow=1")
            response = connection.getresponse()
            self.assertTrue(json.loads(response.readline()))
            began = time.monotonic()
            self.assertEqual([response.readline(), response.readline()], [b"\n", b"\n"])
            self.assertGreater(time.monotonic() - began, 0.2)


class Commits(unittest.TestCase):
    def test_a_key_of_a_batch_that_failed_is_free_for_the_next_in_the_same_commit(self):
        store = store_of(self)
        bad, good = batch_of(record(severity=7)), batch_of(record("good"))
        bad.key = good.key = b"k" * 32
        bad.body_hash = good.body_hash = b"b" * 32
        self.assertEqual([bool(error) for error in commit(store, bad, good)], [True, False])
        self.assertFalse(good.repeated)
        self.assertEqual([r.message for r in store.page(module.Query())[0]], ["good"])

    def test_an_answer_that_can_not_be_sent_stops_no_other(self):
        store, done = store_of(self), threading.Semaphore(0)
        with self.assertLogs(module.log, "ERROR"), store._writing:
            store.commit(batch_of(record("first")), lambda: 1 / 0)
            store.commit(batch_of(record("second")), done.release)
            eventually(lambda: store.waiting.qsize() == 1)
            store._writing.release()
            told = done.acquire(timeout=5)
            store._writing.acquire()
        self.assertTrue(told, "the second was not told")
        self.assertEqual(commit(store, batch_of(record("after"))), [None])

    def test_health_is_looked_at_once_a_second_while_all_is_well_and_each_time_while_it_is_not(self):
        store = store_of(self)
        with mock.patch.object(store, "probe") as probe:
            for _ in range(5):
                store.check()
            self.assertEqual(probe.call_count, 1)
        store._checked = 0.0
        with mock.patch.object(store, "probe", side_effect=module.Unavailable("full")) as probe:
            for _ in range(3):
                with self.assertRaises(module.Unavailable):
                    store.check()
            self.assertEqual(probe.call_count, 3)

    def test_every_commit_and_a_new_files_name_are_synced(self):
        with mock.patch.object(module.os, "fsync", wraps=module.os.fsync) as fsync:
            store = store_of(self)
        self.assertEqual(fsync.call_count, 1, "the folder, after the new file is in its place")
        store._db.set_authorizer(None)
        self.assertEqual(store._db.execute("PRAGMA synchronous").fetchone(), (2,), "FULL")

    def test_a_query_past_its_deadline_is_503_and_its_connection_serves_the_next(self):
        store = store_of(self)
        long = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000) SELECT sum(i) FROM n"
        with mock.patch.object(module, "QUERY_SECONDS", 0):
            timer = threading.Timer(0.1, store.stop_overdue)
            timer.start()
            with self.assertRaises(module.Unavailable) as caught, store_reading_now(store) as read:
                list(read(long, []))
        self.assertIn("Narrow", caught.exception.hint)
        for _ in range(module.READERS):
            self.assertEqual(store.page(module.Query())[0], [])


def store_reading_now(store):
    return store.reading()


class Forgetting(unittest.TestCase):
    """Retention, step by step and without a clock: `_maintain_once` is what its thread does."""

    def store(self, **retention):
        store = store_of(self)
        store.config = dataclasses.replace(store.config, **retention)
        return store

    def forget(self, store):
        for _ in range(100):
            if not store._maintain_once():
                return
        self.fail("it has no end")

    def receive(self, store, days, *records):
        """Stores records so many days ago."""
        with mock.patch.object(module, "now", return_value=module.now() - days * module.DAY):
            self.assertEqual(commit(store, batch_of(*records)), [None])

    def messages(self, store):
        return [r.message for r in store.page(module.Query(descending=False, limit=10_000))[0]]

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
        self.assertEqual(store.stats(module.Query())["by_service"], {})
        with store.reading() as read:
            self.assertEqual(list(read("SELECT * FROM counts", [])), [])

    def test_over_its_size_the_oldest_go_with_their_answers_and_the_file_gets_smaller(self):
        store = self.store(max_age_days=None, max_size_mb=None)
        for n in range(30):
            batch = batch_of(*[record(f"{n} " + "x" * 10_000)] * 10)
            batch.key, batch.body_hash = b"%d" % n, b""
            self.assertEqual(commit(store, batch), [None])
        store.config = dataclasses.replace(store.config, max_size_mb=1)
        self.forget(store)
        left = [int(message.split()[0]) for message in self.messages(store)]
        self.assertIn(len(left), range(70, 101), "of 300 records of 10 KB")
        self.assertEqual(left, sorted(left))
        self.assertEqual(left[-1], 29, "the newest is there")
        with store.reading() as read:
            keys = {int(key) for (key,) in read("SELECT key FROM answers", [])}
        self.assertEqual(keys, set(left), "an answer goes with its records")
        self.assertLess(store.path.stat().st_size, 1.1 * (1 << 20))


class Rates(unittest.TestCase):
    def test_a_token_saves_up_a_second_at_most_and_is_told_when_its_debt_is_paid(self):
        limits, token, clock = module.Limits(), module.Token("t", "service", "app"), mock.Mock()
        with mock.patch.object(module, "time", clock):
            clock.monotonic.return_value = 1000.0
            for records, seconds in ((10, "1"), (9, "1"), (11, "3"), (1000, "5")):  # 10 it has; the rest is debt
                with self.subTest(records=records):
                    limits.spend(token, records, 10)
                    with self.assertRaises(module.Refusal) as caught:
                        limits.spend(token, 0, 10)
                    self.assertEqual(caught.exception.headers["Retry-After"], seconds)
            clock.monotonic.return_value += 1_000_000  # it was silent for days
            limits.spend(token, 10, 10)
            with self.assertRaises(module.Refusal):
                limits.spend(token, 0, 10)


class Deadlines(unittest.TestCase):
    POSTED = f"POST /logs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Token {TOKEN}\r\n".encode()

    def test_who_is_slow_with_a_request_gets_408_and_who_does_not_read_is_cut_off(self):
        short = {"HEADER_SECONDS": 0.1, "REQUEST_SECONDS": 0.1, "SEND_SECONDS": 0.1}
        with Server(constants=short) as server, contextlib.ExitStack() as stack:
            server.post([{"message": "x" * 10_000}] * 800)
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(5)
            deaf.connect(("127.0.0.1", server.port))
            deaf.sendall(b"GET /logs?limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            slow = [stack.enter_context(Wire(server, timeout=5)) for _ in range(3)]
            slow[0].send(b"GET / HTTP/1.1\r\nHost: loc")
            slow[1].send(self.POSTED + b"Content-Length: 99\r\n\r\n{")
            slow[2].send(self.POSTED + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe")
            for wire in slow:
                answer = wire.answer()
                assert answer
                self.assertEqual((answer.status, answer.headers["connection"]), (408, "close"))
            time.sleep(0.6)
            received = b""
            with contextlib.suppress(ConnectionError):
                while piece := deaf.recv(1 << 20):
                    received += piece
            self.assertTrue(received.startswith(b"HTTP/1.1 200"))
            self.assertFalse(received.endswith(b"0\r\n\r\n"), "half an answer looks whole")

    def test_connections_past_the_bound_get_503_and_a_place_that_is_free_is_taken(self):
        with Server(constants={"MAX_CONNECTIONS": 2}) as server, Wire(server) as one:
            one.send(GET).answer()
            with Wire(server) as two:
                self.assertEqual(two.send(GET).answer().status, 200)
                with Wire(server) as three:
                    answer = three.answer()
                    self.assertEqual((answer.status, answer.headers["connection"]), (503, "close"))
                    self.assertIn("retry-after", answer.headers)
            eventually(lambda: server.get("/health").status == 200, 5)


class Heads(HTTPTest):
    def test_a_hundred_headers_are_taken_and_one_more_is_refused(self):
        for extra, status in ((97, 200), (98, 431)):
            with self.subTest(headers=3 + extra):
                lines = b"".join(b"X-%d: b\r\n" % n for n in range(extra))
                data = POST + lines + b"Content-Length: %d\r\n\r\n" % len(RECORD) + RECORD
                self.assertEqual([answer.status for answer in self.talk(data)], [status])

    def test_an_answer_that_is_broken_off_does_not_look_whole(self):
        def pages():
            yield b"half"
            raise module.Unavailable("The query was stopped.")

        handler = module.Handler.__new__(module.Handler)
        handler.unread = handler.closing = False
        handler.version, handler.wfile, handler.server = "1.1", io.BytesIO(), mock.Mock()
        handler.server.app.stopping.is_set.return_value = False
        asked = module.Request("GET", "/logs", "limit=0", {}, bytes)
        with self.assertLogs(module.log, "ERROR"), self.assertRaises(ConnectionAbortedError):
            handler.send(asked, module.Response(200, pages()))
        self.assertTrue(handler.wfile.getvalue().endswith(b"4\r\nhalf\r\n"))


class Otlp(ServerTests):
    def test_refused_in_part_for_another_service_and_in_part_otherwise_is_422(self):
        body = request({"body": text("not mine")}, service="web")
        body["resourceLogs"] += request({"body": text("")})["resourceLogs"]
        self.assertEqual(self.server.post(body, TOKEN, "/v1/logs", Content_Type="application/json").status, 422)


class Simulator(unittest.TestCase):
    def test_a_speed_that_is_none_is_refused(self):
        for speed in ("0", "-1", "nan", "fast"):
            with self.subTest(speed), contextlib.redirect_stderr(io.StringIO()) as err:
                with self.assertRaises(SystemExit) as stop:
                    simulator.main(["--speed", speed, "--config", "absent.json"])
                self.assertEqual(stop.exception.code, 2)
                self.assertIn("--speed", err.getvalue())

    def test_the_path_of_an_address_is_kept_and_a_slash_at_its_end_is_not_doubled(self):
        url, _ = simulator.load(simulator.CONFIG, "http://127.0.0.1:8000/behind/a/proxy/")
        self.assertEqual(url, "http://127.0.0.1:8000/behind/a/proxy")
        requests = []

        def note(client, request):
            requests.append(request)

        with listener(note) as url:
            simulator.post(url + "/behind/a/proxy", "token", "key", b"{}")
        self.assertTrue(requests[0].startswith(b"POST /behind/a/proxy/logs HTTP/1.1\r\n"), requests)

    def test_an_https_address_is_spoken_to_in_tls(self):
        hello = []
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def take():
                connection, _ = listening.accept()
                with connection:
                    hello.append(connection.recv(3))

            thread = threading.Thread(target=take)
            thread.start()
            outcome = simulator.post(f"https://127.0.0.1:{listening.getsockname()[1]}", "token", "key", b"{}")
            thread.join(5)
        self.assertEqual((outcome.status, hello[0][:2]), (0, b"\x16\x03"), "a TLS handshake")

    def test_a_range_has_two_numbers_in_order_neither_below_0_nor_without_end(self):
        for good, ranges in {
            True: ([0, 0], [1, 2.5]),
            False: ([2, 1], [-1, 1], [0, float("inf")], [1], [1, 2, 3]),
        }.items():
            for value in ranges:
                with self.subTest(value):
                    self.assertIs(simulator.is_range(value, int, float), good)

    def test_waits_at_least_as_long_as_the_server_asks_and_not_all_at_once(self):
        pauses = []
        stop = mock.Mock(wait=pauses.append)
        for _ in range(50):
            thread = simulator.ServiceThread(simulator.Service("app", "t", (1, 1), (0, 0), []), "u", "r", 1, 1.0, stop)
            answers = [simulator.Outcome(429, "", retry_after=7), simulator.Outcome(200, "", accepted=True)]
            with mock.patch("simulator.post", side_effect=answers):
                thread.deliver({})
        self.assertGreaterEqual(min(pauses), 7)
        self.assertGreater(max(pauses) - min(pauses), simulator.FIRST_PAUSE_SECONDS / 4, "all come back together")


class SimulatorAtATerminal(unittest.TestCase):
    def test_a_line_of_progress_is_cut_to_the_terminal_and_replaces_the_one_before(self):
        out = io.StringIO()
        out.isatty = lambda: True
        size = mock.patch("simulator.shutil.get_terminal_size", return_value=mock.Mock(columns=11))
        with contextlib.redirect_stdout(out), size:
            simulator.show("a line of more than ten", stays=False)
            simulator.show("short")
        self.assertEqual(out.getvalue(), "\ra line of \rshort     \n")

    def test_trouble_that_is_over_is_told_no_more(self):
        kind = {"severity": "INFO", "message": "m", "weight": 1}
        service, stop = simulator.Service("app", "t", (1, 1), (0, 0), [kind]), mock.Mock(wait=lambda _: False)
        thread = simulator.ServiceThread(service, "u", "r", 1, 1.0, stop)
        with mock.patch("simulator.post", side_effect=[NOTHING, STORED]):
            thread.run()
        self.assertEqual((thread.trouble, thread.tally["delivered"]), ("", 1))

    def test_stops_it_in_time_though_a_server_takes_a_request_and_says_nothing(self):
        silent = threading.Event()
        self.addCleanup(silent.set)
        with listener(lambda client, _: silent.wait(20)) as url:
            program = "import sys, simulator; simulator.STOP_WITHIN_SECONDS = 0.3; sys.exit(simulator.main())"
            line = [sys.executable, "-c", program, "--url", url, "--speed", "100"]
            process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.addCleanup(process.kill)
            self.assertTrue(process.stdout.readline())
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=8)
            self.assertEqual((process.returncode, totals(out)["delivered"]), (130, 0))
            self.assertLess(time.monotonic() - began, 3)


class Locks(unittest.TestCase):
    def test_a_short_lock_is_waited_for(self):
        with (
            Server() as server,
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
