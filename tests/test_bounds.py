"""What one client may do to all others: each bound, from outside."""

from __future__ import annotations

import contextlib
import csv
import gzip
import http.client
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest import mock

import server as module
from tests.load import (
    POST,
    Follower,
    Others,
    Wire,
    Writers,
    check_database,
    forget_peak,
    peak_mib,
    seconds_at_work,
    together,
)
from tests.support import (
    OTHER_TOKEN,
    READER,
    README,
    ROOT,
    SHIPPER,
    TOKEN,
    Answer,
    Json,
    Server,
    ServerTests,
    all_records,
    batch_of,
    command,
    commit,
    configuration,
    eventually,
    folder_of,
    query,
    record,
    request,
    run,
    store_of,
    timestamp,
)

MIB = 1 << 20
ADMIN = "test-admin"
YEAR = 365 * module.DAY

# Sends bodies in chunks of one byte, side by side, as fast as they are taken, without an end.
UPLOAD = """
import socket, sys, threading
_, port, head, uploads = sys.argv
def upload():
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\\r\\n\\r\\n")
        connection.sendall(b"1\\r\\n \\r\\n" * 10_000)
        begun.wait()
        while True:
            connection.sendall(b"1\\r\\n \\r\\n" * 10_000)
begun = threading.Barrier(int(uploads), lambda: print("begins", flush=True))
for _ in range(int(uploads)):
    threading.Thread(target=upload).start()
"""


def filled(member: str, opening: str = "[", closing: str = "]") -> bytes:
    """The largest body that is taken, of one member over and over."""
    room = module.MAX_BODY_BYTES - len(opening) - len(closing)
    members = ",".join([member] * ((room + 1) // (len(member) + 1)))
    return f"{opening}{members}{closing}".encode()


def otlp(attribute: str, records: int) -> bytes:
    """An OTLP request: one resource with an attribute of its own, and so many tiny records."""
    pair = {"key": "shared", "value": {"stringValue": attribute}}
    scope_logs = [{"logRecords": [{"body": {"stringValue": "m"}}] * records}]
    resource_logs = {"resource": {"attributes": [pair]}, "scopeLogs": scope_logs}
    return json.dumps({"resourceLogs": [resource_logs]}).encode()


def from_elsewhere(server: Server) -> Wire:
    """A connection from another address of this machine."""
    wire = Wire.__new__(Wire)
    address = ("127.0.0.1", server.port)
    wire.socket = socket.create_connection(address, 20, source_address=("127.0.0.2", 0))
    wire.reader = wire.socket.makefile("rb")
    return wire


class OneBody(ServerTests):
    """What a body costs is bounded by what it is, not by what it could become."""

    # The end of the upload in tiny chunks is not worth waiting for.
    settings: ClassVar[dict[str, Json]] = {"constants": {"SHUTDOWN_SECONDS": 0.2}}

    def post_beside_others(self, body: bytes, *arguments: str, seconds: float, mib: int, **headers):
        """Posts a body. It takes at most so many seconds of work and so much memory; others wait
        for it less than a second, at one try of three."""
        for _ in range(3):
            self.server.get("/health")
            forget_peak(self.server)
            before = peak_mib(self.server)
            began = seconds_at_work(self.server)
            with Others(self.server) as others:
                answer = self.server.post(body, *arguments, **headers)
            took = seconds_at_work(self.server) - began
            self.assertLess(peak_mib(self.server) - before, mib, "MiB")
            self.assertEqual(others.failures, [])
            if took < seconds and others.slowest < 1:
                break
        else:
            self.fail(f"it took {took:.1f} s, and GET /health {others.slowest:.1f} s")
        return answer

    def stored(self) -> int:
        return self.server.sql("SELECT count(*) FROM logs")[0][0]

    def test_otlp_attributes_that_all_records_share_are_bounded_like_those_of_one(self):
        for length, status in ((module.MAX_ATTRIBUTES_BYTES + 1, 413), (60_000, 200)):
            answer = self.server.post(otlp("x" * length, 1), SHIPPER, "/v1/logs")
            self.assertEqual(answer.status, status, answer.text[:200])
            if status == 413:
                self.assertIn("attributes", answer.json["message"])

    def test_otlp_attributes_shared_by_very_many_records_are_refused_in_little_memory(self):
        before = self.stored()
        body = gzip.compress(otlp("x" * 60_000, 40_000), 1)
        self.assertLess(len(body), 100_000, "a small request")
        answer = self.post_beside_others(
            body, SHIPPER, "/v1/logs", seconds=6, mib=200, Content_Encoding="gzip"
        )
        self.assertEqual(answer.status, 413, answer.text[:200])
        self.assertEqual(self.stored(), before)

    def test_a_form_that_repeats_its_arguments_in_ten_characters_each_is_left_as_it_is(self):
        message = "%(a)a" * 805
        arguments = repr({"a": "\U0001f600" * 4000})
        form = {"msg": message, "args": arguments, "levelno": "20"}
        body = urllib.parse.urlencode(form).encode()
        answer = self.post_beside_others(body, seconds=2, mib=50)
        self.assertEqual(answer.status, 200, answer.text)
        stored = self.server.get(f"/logs/{answer.json['first_id']}").json
        self.assertEqual(stored["message"], message)

    def test_a_megabyte_of_arguments_in_a_form_is_not_parsed(self):
        for message in ("hello", "%s and so on"):
            form = {"msg": message, "args": "(" + "{1:[2]}," * 130_000 + ")", "levelno": "20"}
            body = urllib.parse.urlencode(form, safe="(){}[],:").encode()
            answer = self.post_beside_others(body, seconds=2, mib=50)
            self.assertEqual(answer.status, 200, answer.text)
            stored = self.server.get(f"/logs/{answer.json['first_id']}").json
            self.assertEqual(stored["message"], message)
            self.assertLess(len(stored["attributes"]["arguments"]), 10_000)

    def test_a_form_of_escapes_takes_no_more_memory_than_a_body(self):
        many = b"%" * ((10 << 20) - 2)
        for form in (b"a=" + many, many + b"=a", b"a=" + b"%zz" * 3_000_000):
            answer = self.post_beside_others(form, seconds=2, mib=80)
            self.assertEqual(answer.status, 413, answer.text)

    def test_ten_mebibytes_of_tiny_objects_let_others_run(self):
        for member, opening in (('{"":0}', "["), ("{}", '{"a":['), ("{}", '{"\xff":0}\n{"a":[')):
            with self.subTest(member, opening=opening):
                body = filled(member, opening).decode().encode("latin-1")
                answer = self.post_beside_others(body, seconds=6, mib=90)
                self.assertEqual(answer.status, 413, answer.text[:200])

    def test_ten_mebibytes_of_tiny_objects_in_the_formats_of_others_let_others_run(self):
        otlp_around = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[', "]}]}]}"
        loki_around = '{"streams":[{"stream":{},"values":[', "]}]}"
        for path, around, member, status in (
            ("/v1/logs", otlp_around, '{"":0}', 413),
            ("/v1/logs", otlp_around, "0", 413),
            ("/loki/api/v1/push", loki_around, '["1",""]', 413),
        ):
            with self.subTest(path=path, member=member[:12]):
                body = filled(member, *around)
                answer = self.post_beside_others(body, SHIPPER, path, seconds=6, mib=300)
                self.assertEqual(answer.status, status, answer.text[:200])

    def test_ten_mebibytes_of_usual_records_in_the_formats_of_others_are_taken(self):
        pair = '{"key":"http.response.status_code","value":{"intValue":"200"}}'
        event = f'{{"body":{{"stringValue":"GET /"}},"attributes":[{pair},{pair},{pair}]}}'
        otlp_around = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[', "]}]}]}"
        loki_around = '{"streams":[{"stream":{"app":"web"},"values":[', "]}]}"
        inner = json.dumps({"msg": "GET /" * 20, "n": 200, "x": {}})
        line = json.dumps(["1795486452000000000", inner])
        self.assertGreater(len(module.split_otlp(filled(event, *otlp_around), False)), 20_000)
        self.assertGreater(len(module.split_loki(filled(line, *loki_around))), 20_000)

    def test_ten_mebibytes_of_usual_records_let_others_run_and_are_taken(self):
        record = {"time": 1795486452123, "level": 30, "msg": "GET /" * 20, "n": [1, 2], "x": {}}
        answer = self.post_beside_others(filled(json.dumps(record)), seconds=10, mib=300)
        self.assertEqual((answer.status, answer.json["rejected"]), (200, 0))

    def test_ten_mebibytes_of_many_members_in_one_object_let_others_run(self):
        cases = ((800_000, ":", 413), (700_000, " :", 413), (450_000, ":", 422))
        for number, colon, status in cases:
            with self.subTest(number):
                members = ",".join(f'"{n:x}"{colon}0.5' for n in range(number))
                answer = self.post_beside_others(f"{{{members}}}".encode(), seconds=6, mib=400)
                self.assertEqual(answer.status, status, answer.text[:200])

    def test_many_colons_in_the_texts_of_one_push_are_no_members(self):
        values = [["1795486452000000000", f"2001:db8:0:0:0:0:0:{n:x} is up"] for n in range(80_000)]
        push = {"streams": [{"stream": {"app": "app"}, "values": values}]}
        self.assertGreater(json.dumps(values).count(":"), module.MAX_MEMBERS)
        self.assertEqual(self.server.post(push, path="/loki/api/v1/push").status, 204)

    def test_ten_mebibytes_of_half_surrogates_let_others_run(self):
        answer = self.post_beside_others(filled(r'{"\ud800":0}'), seconds=6, mib=90)
        self.assertEqual(answer.status, 413, answer.text[:200])
        answer = self.post_beside_others(
            json.dumps([{"message": "\ud800" * 40_000}] * 10).encode(), seconds=6, mib=150
        )
        self.assertEqual((answer.status, answer.json["rejected"]), (200, 0))
        stored = self.server.get(f"/logs/{answer.json['last_id']}").json
        self.assertEqual(stored["message"], "\ufffd" * 40_000)

    def test_a_record_of_millions_of_numbers_lets_others_run(self):
        for number, status in (("0", 413), ("0.25", 413), ("0.12345", 422)):
            with self.subTest(number):
                body = filled(number, r'{"message":"\ud800","n":[', "]}")
                answer = self.post_beside_others(body, seconds=6, mib=250)
                self.assertEqual(answer.status, status, answer.text[:200])

    def test_a_stream_of_long_records_reads_each_of_them_once(self):
        for _ in range(4):
            self.server.post([{"message": "x" * 30_000}] * 300)
        for filters in ("limit=0&order=asc", "limit=0", "limit=0&received_at_start=2026-01-01"):
            with self.subTest(filters):
                began = seconds_at_work(self.server)
                answer = self.server.get(f"/logs?{filters}&format=ndjson")
                self.assertGreaterEqual(len(answer.body), 1_200 * 30_000)
                self.assertLess(seconds_at_work(self.server) - began, 0.9, "s of work")

    def test_an_upload_in_chunks_of_one_byte_leaves_others_half_of_their_rate(self):
        connection = self.server.connection()
        headers = {"Authorization": f"Token {TOKEN}"}

        def rate() -> float:
            began = time.monotonic()
            sent = 0
            while time.monotonic() - began < 0.4:
                answer = request(connection, "POST", "/logs", '{"message":"m"}', headers)
                self.assertEqual(answer.status, 200)
                sent += 1
            return sent / (time.monotonic() - began)

        def rate_beside_an_upload() -> float:
            with self.uploads(1):
                return rate()

        alone = rate()
        beside = [rate_beside_an_upload()]
        while max(beside) < alone / 2 and len(beside) < 3:  # The machine may do other things.
            beside.append(rate_beside_an_upload())
        connection.close()
        self.assertGreaterEqual(max(beside), alone / 2, "POSTs a second")

    def test_fifty_uploads_in_chunks_of_one_byte_take_no_more_work_than_one(self):
        taken = []
        for uploads in (1, 50):
            with self.uploads(uploads):
                before = seconds_at_work(self.server)
                time.sleep(1)
                taken.append(seconds_at_work(self.server) - before)
        self.assertLess(max(taken), 0.4, "seconds of work in one second")

    @contextlib.contextmanager
    def uploads(self, count: int) -> Iterator[None]:
        """Uploads by one token, in chunks of one byte, that have begun and do not end."""
        command = [sys.executable, "-c", UPLOAD, str(self.server.port), POST.decode(), str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout and client.stdout.readline()
            yield
            self.assertIsNone(client.poll(), "the uploads last as long")
            client.kill()


class OneQuery(ServerTests):
    """What a query may ask for, and who sees the answer."""

    def test_a_follower_after_a_record_that_is_not_there_yet_is_told_so(self):
        newest = self.accept({"message": "m"})[0]["id"]
        for after in (newest + 1, 1 << 53):
            answer = self.server.get(f"/logs?follow=1&after={after}")
            self.assertEqual(answer.status, 400, answer.text)
            self.assertIn(str(after), answer.json["error"])
        with Follower(self.server, f"after={newest}") as follower:
            self.accept({"message": "next"})
            self.assertEqual(follower.wait(1)[0]["message"], "next")

    def test_a_page_of_another_site_is_refused_while_everyone_may_read(self):
        for path in ("/logs", "/stats", "/metrics", "/health"):
            for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
                answer = self.server.get(path, Sec_Fetch_Site=site)
                self.assertEqual(answer.status, status, (path, site))

    def test_without_an_admin_token_in_the_configuration_nobody_deletes(self):
        self.accept({"message": "m"})
        for secret in ("", TOKEN, SHIPPER):
            headers = {"Authorization": f"Token {secret}"}
            answer = self.server.request("DELETE", "/logs?service=app", None, headers)
            self.assertEqual(answer.status, 401)

    def test_the_database_can_be_read_by_its_owner_only(self):
        self.accept({"message": "m"})
        files = [path for path in self.server.folder.iterdir() if path.name.startswith("logs.db")]
        self.assertGreater(len(files), 1, "the WAL too")
        for path in files:
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path.name)

    def test_a_csv_shows_control_characters_and_a_terminal_does_not_obey_them(self):
        message = "a\x1b[31mb\x9b2Jc\x7fd\x00e\tf\ng"
        one = self.accept({"message": message, "k": "\x1b\x9b"})[0]["id"]
        answer = self.server.get(query(format="csv", limit=1))
        row = next(csv.DictReader(io.StringIO(answer.text, newline="")))
        self.assertEqual(row["id"], str(one))
        shown = r"a\x1b[31mb\x9b2Jc\x7fd\x00e" + "\tf\ng"
        self.assertEqual(row["message"].replace(r"\u00", r"\x"), shown)
        self.assertNotRegex(answer.text, "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
        self.assertEqual(self.server.get(f"/logs/{one}").json["message"], message)

    def test_records_are_kept_in_no_cache_and_a_proxy_passes_streams_on(self):
        one = self.accept({"message": "m"})[0]["id"]
        for path in ("/logs", f"/logs/{one}", "/stats", "/logs?format=csv", "/logs?limit=0"):
            self.assertEqual(self.server.get(path).headers["cache-control"], "no-store", path)
        self.assertEqual(self.server.get("/logs?limit=0").headers["x-accel-buffering"], "no")
        with Follower(self.server, "limit=1") as follower:
            headers = follower.answer.headers
            self.assertEqual(headers["Cache-Control"], "no-store")
            self.assertEqual(headers["X-Accel-Buffering"], "no")


class OneRecord(ServerTests):
    """One record with a time far away disturbs nobody."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        times = ("0001-01-01T00:00:00Z", None, "2099-01-01T00:00:00Z")
        bodies = [{"message": str(time), "timestamp": time} for time in times]
        answer = cls.server.post(bodies)
        assert answer.json["accepted"] == 3, answer.text

    def test_since_ends_a_minute_from_now(self):
        ahead = timestamp(module.now() + 30 * module.SECOND)  # a sender's clock
        self.assertEqual(self.server.post({"message": "ahead", "timestamp": ahead}).status, 200)
        for path in ("/logs?since=1h", "/logs?since=1h&order=asc", "/logs?since=1h&limit=0"):
            messages = {one["message"] for one in self.server.get(path).json}
            self.assertEqual(messages, {"None", "ahead"}, path)
        later = self.server.get("/logs?timestamp_start=2090-01-01")
        self.assertEqual([one["message"] for one in later.json], ["2099-01-01T00:00:00Z"])

    def test_statistics_since_an_hour_ago_have_a_step_of_a_minute(self):
        answer = self.server.get("/stats?since=1h&step=1m")
        self.assertEqual(answer.status, 200, answer.text)
        self.assertIn(answer.json["total"], (1, 2))
        self.assertIn(len(answer.json["histogram"]), (61, 62, 63))

    def test_a_histogram_without_bounds_has_the_steps_that_hold_records(self):
        answer = self.server.get("/stats?step=1m&severity=INFO")
        self.assertEqual(answer.status, 200, answer.text)
        steps = answer.json["histogram"]
        years = [step["start"][:4] for step in steps]
        self.assertEqual((years[0], years[-1]), ("0001", "2099"))
        self.assertIn(len(steps), (3, 4))
        self.assertEqual(sum(step["INFO"] for step in steps), answer.json["total"])


class OneOfMany(ServerTests):
    """No token and no address can take all of what all share. The bounds are low here."""

    settings: ClassVar[dict[str, Json]] = {
        "constants": {
            "MAX_HELD_BYTES": 6 * MIB,
            "MAX_CLIENT_BYTES": 4 * MIB,
            "MAX_UPLOADS": 9,
            "MAX_ADDRESS_CONNECTIONS": 20,
            "MAX_CONNECTIONS": 25,
            "MAX_METRIC_SERVICES": 3,
        }
    }

    def tearDown(self) -> None:
        eventually(lambda: self.server.metric("logs_waiting_bytes") == 0)

    def test_unfinished_uploads_of_one_token_leave_room_for_the_others(self):
        body = b'{"message":"m","k":"' + b"x" * 700_000 + b'"} {"message":"m"}'
        with contextlib.ExitStack() as stack:
            for number in range(1, 11):  # Nine MB, if all were taken. One after the other: all of
                # an upload is counted, or it is refused.
                wire = stack.enter_context(Wire(self.server))
                wire.send(POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 900_000)
                held = min(number, 4) * 900_000
                if number > 4:
                    self.assertEqual(wire.answer().status, 503)
                eventually(lambda held=held: self.server.metric("logs_waiting_bytes") == held)
            own = self.server.post(body)
            self.assertEqual(own.status, 503, own.text)
            self.assertIn("retry-after", own.headers)
            for _ in range(3):
                other = self.server.post(body, OTHER_TOKEN)
                self.assertEqual(other.status, 200, other.text)
        eventually(lambda: self.server.post(body).status == 200)

    def test_an_address_with_all_its_connections_leaves_some_to_the_others(self):
        get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.ExitStack() as stack:
            statuses = []
            for _ in range(23):
                wire = stack.enter_context(Wire(self.server))
                answer = wire.send(get).answer()
                assert answer
                statuses.append(answer.status)
            self.assertEqual(statuses[:18], [200] * 18)
            self.assertEqual(statuses[20:], [503] * 3)
            self.assertIn("retry-after", answer.headers)
            elsewhere = stack.enter_context(from_elsewhere(self.server))
            answer = elsewhere.send(get).answer()
            self.assertEqual(answer and answer.status, 200, "another address")
        eventually(lambda: self.server.get("/health").status == 200)

    def test_large_pages_that_a_client_does_not_read_are_counted(self):
        for _ in range(3):
            bodies = [{"message": "x" * (250 << 10), "n": n} for n in range(4)]
            self.assertEqual(self.server.post(bodies).status, 200)
        page = query(limit=12, service="app", contains="xxx")
        self.assertGreater(len(self.server.get(page).body), 2.5 * MIB)
        with contextlib.closing(socket.socket()) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", self.server.port))
            slow.sendall(f"GET {page} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            eventually(lambda: self.server.metric("logs_waiting_bytes") > 2 * MIB)
            answer = self.server.get(page)
            self.assertEqual(answer.status, 503, answer.text[:200])
            self.assertIn("retry-after", answer.headers)
            for path in ("/health", "/stats", "/logs?service=web&limit=1"):
                self.assertEqual(self.server.get(path).status, 200, path)
        eventually(lambda: self.server.get(page).status == 200)

    def test_the_parts_of_a_stream_that_a_client_does_not_read_are_counted(self):
        for _ in range(3):
            bodies = [{"message": "x" * (250 << 10), "n": n} for n in range(4)]
            self.assertEqual(self.server.post(bodies).status, 200)
        with contextlib.closing(socket.socket()) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", self.server.port))
            slow.sendall(b"GET /logs?limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually(lambda: self.server.metric("logs_waiting_bytes") > MIB)
        eventually(lambda: self.server.metric("logs_waiting_bytes") == 0)
        self.assertGreater(len(self.server.get("/logs?limit=0").json), 11)

    def test_services_past_a_bound_share_one_label_in_the_metrics(self):
        bodies = [{"message": "m", "service": f"s{n % 8}"} for n in range(24)]
        self.assertEqual(self.server.post(bodies, SHIPPER).status, 200)
        lines = self.server.get("/metrics").text.splitlines()
        accepted = [line for line in lines if line.startswith("logs_records_accepted_total{")]
        services = {line.partition('service="')[2].partition('"')[0] for line in accepted}
        self.assertEqual(len(services - {"other"}), 3, services)
        self.assertIn("other", services)
        records = sum(float(line.split()[-1]) for line in accepted)
        self.assertEqual(records, self.server.sql("SELECT count(*) FROM logs")[0][0])


class OneReader(unittest.TestCase):
    """What one client may have of the connections that read."""

    def test_quick_queries_of_one_client_leave_connections_to_the_others(self):
        store = store_of(self)
        with contextlib.ExitStack() as stack:
            for _ in range(module.READERS - 2):
                stack.enter_context(store.readers.lend(client="a"))
            with mock.patch.object(module, "QUERY_SECONDS", 0.1):
                with self.assertRaises(module.Unavailable), store.readers.lend(client="a"):
                    self.fail("it has its share")
                store.page(module.Query(client="b"))
                store.stats(module.Query(client="b"), module.MINUTE)
        store.page(module.Query(client="a"))

    def test_a_histogram_by_less_than_a_minute_is_no_quick_query(self):
        store = store_of(self)
        query = module.Query(client="a")
        with contextlib.ExitStack() as stack:
            for _ in range(module.SCANNERS):
                stack.enter_context(store.readers.lend(is_slow=True, client="a"))
            with mock.patch.object(module, "QUERY_SECONDS", 0.1):
                with self.assertRaises(module.Unavailable):
                    store.stats(query, module.MINUTE // 2)
                store.stats(query, 2 * module.MINUTE)


class OneLeap(unittest.TestCase):
    """The clock of the machine jumps, there and back."""

    def at(self, moment: int) -> contextlib.AbstractContextManager[Any]:
        return mock.patch.object(module, "now", return_value=moment)

    def test_a_clock_that_leaps_a_year_ahead_deletes_nothing(self):
        store = store_of(self)
        commit(store, batch_of(record("m"), key=b"k"))
        present = module.now()
        with self.at(present + YEAR):
            for _ in range(3):
                store.upkeep_step()
            self.assertLess(store.steady_now(), present + module.MINUTE)
        self.assertEqual([one.message for one in all_records(store)], ["m"])
        with store.readers.lend() as db:
            self.assertEqual(db.execute("SELECT key FROM keys").fetchall(), [(b"k",)])
        self.assertLess(abs(store.steady_now() - module.now()), module.MINUTE)

    def test_a_leap_that_lasts_for_more_than_an_hour_is_believed(self):
        store = store_of(self)
        commit(store, batch_of(record("m")))
        present, clock = module.now(), time.monotonic()
        with self.at(present + YEAR), mock.patch.object(module.time, "monotonic") as monotonic:
            monotonic.return_value = clock + 1800
            self.assertLess(store.steady_now(), present + module.HOUR)
            monotonic.return_value = clock + 3700
            self.assertEqual(store.steady_now(), present + YEAR)

    def test_a_record_without_a_time_gets_the_present_after_a_clock_went_back(self):
        store = store_of(self)
        present = module.now()
        own = record("m")._replace(timestamp=None)
        for moment in (present + 2 * module.HOUR, present, present + module.SECOND):
            with self.at(moment):
                self.assertEqual(commit(store, batch_of(own)), [None])
        found = all_records(store)
        found.sort()
        times = [one.timestamp - present for one in found]
        self.assertEqual(times, [2 * module.HOUR, 0, module.SECOND])
        received = [one.received_at for one in found]
        self.assertEqual(received, sorted(received), "it never goes back")


class Deleting(ServerTests):
    """DELETE /logs, with an admin token."""

    settings: ClassVar[dict[str, Json]] = {"admin_tokens": [ADMIN], "read_tokens": [READER]}

    def get(self, path: str, **headers: str) -> Answer:
        return self.server.get(path, Authorization=f"Token {READER}", **headers)

    def delete(self, parameters: str, token: str | None = ADMIN) -> Answer:
        headers = {"Authorization": f"Token {token}"} if token else {}
        return self.server.request("DELETE", f"/logs{parameters}", None, headers)

    def messages(self) -> list[str]:
        return [text for (text,) in self.server.sql("SELECT message FROM logs ORDER BY id")]

    def test_only_an_admin_deletes_and_only_what_a_filter_finds(self):
        bodies = [{"message": f"keep {n}"} for n in range(50)]
        self.assertEqual(self.server.post(bodies).status, 200)
        personal = [
            {"message": f"{'Ñandú' if n % 7 == 0 else 'other'} {n}", "timestamp": n * 3600, "n": n}
            for n in range(2_500)
        ]
        self.assertEqual(self.server.post(personal, OTHER_TOKEN).status, 200)
        everything = self.messages()
        for token in (None, TOKEN, SHIPPER, READER, "guess"):
            self.assertEqual(self.delete("?service=web", token).status, 401, token)
        for parameters in ("", "?", "?limit=5", "?contains=", "?servce=web"):
            self.assertEqual(self.delete(parameters).status, 400, parameters)
        self.assertEqual(self.messages(), everything)

        answer = self.delete("?contains=" + urllib.parse.quote("ñANDÚ"))
        self.assertEqual((answer.status, answer.json), (200, {"deleted": 358}))
        self.assertEqual(self.messages(), [m for m in everything if "Ñandú" not in m])
        check_database(self, self.server)

        answer = self.delete("?attr.n=13&service=web")
        self.assertEqual((answer.status, answer.json), (200, {"deleted": 1}))
        answer = self.delete("?service=web&timestamp_end=1970-01-02&min_severity=INFO")
        self.assertEqual(answer.json, {"deleted": 48 - 7 - 1})
        answer = self.delete("?service=web")
        self.assertEqual((answer.status, answer.json), (200, {"deleted": 2_500 - 358 - 1 - 40}))
        self.assertEqual(self.messages(), [m for m in everything if m.startswith("keep")])
        check_database(self, self.server)
        self.assertEqual(self.get("/stats").json["by_service"], {"app": 50})
        self.assertEqual(self.delete("?service=web").json, {"deleted": 0})

    def test_a_token_shows_that_a_reader_wants_it_whatever_site_the_page_is_of(self):
        answer = self.get("/logs?limit=1", Sec_Fetch_Site="cross-site")
        self.assertEqual(answer.status, 200)


class Starting(unittest.TestCase):
    """A start that fails leaves nothing behind, and says why in one line."""

    def start(self, folder: pathlib.Path, *program: str, **settings) -> str:
        """Runs a server that must not start. Gives the one line that it says."""
        path = folder / "config.json"
        path.write_text(json.dumps(configuration(**settings)), encoding="utf-8")
        status, out, err = run([*program, "--config", str(path)])
        self.assertEqual((status, out), (2, ""), err)
        self.assertEqual(err.count("\n"), 1, err)
        self.assertEqual(sorted(p.name for p in folder.glob("logs.db*")), [])
        return err

    def test_a_missing_schema_leaves_no_database(self):
        folder = folder_of(self)
        shutil.copy(ROOT / "server.py", folder)
        said = self.start(folder, sys.executable, str(folder / "server.py"))
        self.assertIn("schema.sql", said)

    def test_too_few_open_files_are_said_at_once(self):
        program = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
os.execv(sys.argv[1], sys.argv[1:])
"""
        line = self.start(folder_of(self), sys.executable, "-c", program, *command())
        self.assertIn("ulimit -n", line)

    def test_a_log_that_nobody_reads_stops_neither_requests_nor_the_end(self):
        with tempfile.TemporaryDirectory(prefix="logs-") as folder:
            path = pathlib.Path(folder, "config.json")
            path.write_text(json.dumps(configuration()), encoding="utf-8")
            line = [*command(MAX_LOG_LINES=100), "--config", str(path)]
            pipe = subprocess.PIPE
            process = subprocess.Popen(line, stdout=pipe, stderr=pipe, encoding="utf-8")
            self.addCleanup(process.kill)
            port = int(process.stdout.readline().rpartition(":")[2])
            pathlib.Path(folder, "logs.db").rename(pathlib.Path(folder, "away.db"))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            self.addCleanup(connection.close)
            for _ in range(1500):  # Each refused POST logs a line: together more than a pipe holds.
                headers = {"Authorization": f"Token {TOKEN}"}
                answer = request(connection, "POST", "/logs", b'{"message": "m"}', headers)
            self.assertEqual(answer.status, 503)
            process.stdout.close()
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(8), 0)
            process.stderr.close()


class OneFile(unittest.TestCase):
    """One database, and more than one who reads and writes it."""

    def test_two_servers_write_into_one_file_and_followers_see_both(self):
        with Server() as one, Server(one.folder) as two, Follower(two, "limit=0") as follower:
            one.post({"message": "from the other"})
            self.assertEqual(follower.wait(1)[0]["message"], "from the other")
            with Writers(one, 2, source="one") as first, Writers(two, 2, source="two") as second:
                first.wait_for(30)
                second.wait_for(30)
            acknowledged = sorted(first.acknowledged + second.acknowledged)
            check_database(self, one)
            rows = one.sql("SELECT message FROM logs WHERE id > 1")
            self.assertEqual(sorted(text for (text,) in rows), acknowledged)
            for server in (one, two):
                total = server.get("/stats").json["total"]
                self.assertEqual(total, len(acknowledged) + 1)

    def test_a_large_wal_is_moved_into_the_file_though_queries_overlap(self):
        with Server(constants={"MAX_WAL_BYTES": MIB}) as server:
            bodies = [{"message": "x" * 300, "n": n} for n in range(6_000)]
            self.assertEqual(server.post(bodies).status, 200)
            stopping = threading.Event()
            answers: list[Answer] = []

            def search() -> None:
                connection = server.connection()
                while not stopping.is_set():
                    path = query(('attr.a"b', "nowhere"))
                    answers.append(request(connection, "GET", path))
                connection.close()

            threads = [threading.Thread(target=search, daemon=True) for _ in range(3)]
            for thread in threads:
                thread.start()
                time.sleep(0.03)
            wal = pathlib.Path(f"{server.database}-wal")
            try:
                server.post([{"message": "y" * 1000}] * 1000)
                self.assertGreater(wal.stat().st_size, MIB)
                eventually(lambda: wal.stat().st_size < MIB, why="the WAL stays large")
                eventually(lambda: len(answers) > 5, why="no query goes on")
            finally:
                stopping.set()
                for thread in threads:
                    thread.join(20)
            self.assertEqual({answer.status for answer in answers}, {200})
            check_database(self, server)


class OneText(ServerTests):
    """A text that no index holds is looked for in all records side by side: it finds the same as
    one who reads them one after the other. Few records do here: the bounds are low."""

    settings: ClassVar[dict[str, Json]] = {
        "constants": {
            "NARROW_IDS": 100,
            "SAMPLE_RECORDS": 0,  # Every text counts as rare.
            "SCANNERS": 3,
            "PAGE_CHARS": 4_000,
            "STREAM_RECORDS": 70,
        },
        "admin_tokens": [ADMIN],
    }
    # The parameters of a query, and its test in SQL.
    EVERYWHERE = ([("contains", "COMMON")], "instr(lower(message), 'common')")
    SEARCHES = (
        EVERYWHERE,
        ([("contains", "nowhere")], "0"),
        ([("contains", "rare")], "instr(message, 'rare')"),
        ([("contains", "common"), ("contains", "Rare")], "instr(message, 'rare')"),
        ([("contains", "ÑANDÚ")], "instr(message, 'Ñandú')"),
        ([("contains", "100%_")], "instr(message, '100%_')"),
        ([("attr.k", "7")], "json_extract(attributes, '$.k') = 7"),
        ([("attr.t", "a b")], "json_extract(attributes, '$.t') = 'a b'"),
        ([('attr.q"q', "1")], "instr(attributes, '\"q\\\"q\":1')"),
        ([("attr.k", "nowhere")], "0"),
        ([("contains", "rare"), ("attr.k", "7")],
         "instr(message, 'rare') AND json_extract(attributes, '$.k') = 7"),
    )  # fmt: skip
    NARROWER = (
        ([], "1"),
        ([("service", "app")], "service = 'app'"),
        ([("severity", "ERROR"), ("service", "web,app")], "severity = 40"),
        ([("timestamp_start", "1970-01-01T05:00:00Z")], "timestamp >= 18000000000"),
        ([("timestamp_end", "1970-01-01T15:00:00Z")], "timestamp <= 54000000000"),
    )

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for part in range(4):
            bodies = []
            for n in range(part * 400, part * 400 + 400):
                text = f"common {n}"
                text += " rare" if n in (3, 700, 701, 1180, 1599) or 900 < n < 990 else ""
                text += " Ñandú 100%_" if n % 97 == 5 else ""
                # Times in no order, many of them twice and more.
                body = {"message": text, "timestamp": (n * 7919 % 800) * 100, "k": n % 50}
                body |= {"t": "a b"} if n % 31 == 0 else {}
                body |= {'q"q': 1} if n % 41 == 0 else {}
                body["severity"] = ("INFO", "ERROR", "DEBUG")[n % 3]
                body["service"] = ("app", "web")[n // 5 % 2]
                bodies.append(body)
            answer = cls.server.post(bodies, SHIPPER)
            assert answer.json["accepted"] == 400, answer.text
        headers = {"Authorization": f"Token {ADMIN}"}
        answer = cls.server.request("DELETE", "/logs?attr.k=9", None, headers)
        assert answer.json == {"deleted": 32}, answer.text

    def pages(self, path: str, most: int) -> Iterator[list[int]]:
        """The ids of page after page, by their links."""
        for _ in range(most):
            answer = self.server.get(path)
            self.assertEqual(answer.status, 200, answer.text)
            yield [one["id"] for one in answer.json]
            link = answer.headers.get("link")
            if not link:
                return
            path = urllib.parse.urljoin(path, link.partition("<")[2].partition(">")[0])

    def test_pages_in_both_orders_and_streams_have_what_sqlite_finds(self):
        for search, test in self.SEARCHES:
            for narrower, narrower_test in self.NARROWER:
                for order in ("desc", "asc"):
                    sql = f"""
                        SELECT id FROM logs WHERE {test} AND {narrower_test}
                        ORDER BY timestamp {order}, id {order}
                    """
                    right = [number for (number,) in self.server.sql(sql)]
                    parameters = [*search, *narrower, ("order", order)]
                    # Pages to the end, but two and a stream where times or kinds bound the search.
                    ways = ((7, 2), (0, 1)) if narrower else ((7, 2), (10_000, 100), (0, 1))
                    for limit, most in ways:
                        with self.subTest(parameters=parameters, limit=limit):
                            path = query(*parameters, limit=limit)
                            pages = list(self.pages(path, most))
                            found = [number for page in pages for number in page]
                            whole = limit in (0, 10_000)
                            expected = right if whole else right[: limit * most]
                            self.assertEqual(found, expected)
                            if 0 < limit < 100:
                                self.assertTrue(all(len(p) == limit for p in pages[:-1]))

    def test_statistics_have_what_sqlite_counts(self):
        for search, test in self.SEARCHES:
            for narrower, narrower_test in self.NARROWER:
                with self.subTest(search=search, narrower=narrower):
                    parameters = urllib.parse.urlencode([*search, *narrower, ("step", "1h")])
                    answer = self.server.get(f"/stats?{parameters}")
                    self.assertEqual(answer.status, 200, answer.text)
                    sql = f"FROM logs WHERE {test} AND {narrower_test}"
                    counted = f"SELECT service, count(*) {sql} GROUP BY 1"
                    self.assertEqual(answer.json["by_service"], dict(self.server.sql(counted)))
                    [(total, first, last)] = self.server.sql(
                        f"SELECT count(*), min(timestamp), max(timestamp) {sql}"
                    )
                    self.assertEqual(answer.json["total"], total)
                    ends = [None if end is None else timestamp(end) for end in (first, last)]
                    keys = ("first_timestamp", "last_timestamp")
                    self.assertEqual([answer.json[key] for key in keys], ends)
                    hours = f"""
                        SELECT timestamp / 3600000000, count(*) FILTER (WHERE severity = 10),
                               count(*) FILTER (WHERE severity = 20),
                               count(*) FILTER (WHERE severity = 40) {sql} GROUP BY 1
                    """
                    right = {timestamp(h * module.HOUR): row for h, *row in self.server.sql(hours)}
                    found = {
                        step["start"]: [step[name] for name in ("DEBUG", "INFO", "ERROR")]
                        for step in answer.json["histogram"]
                    }
                    self.assertEqual({k: v for k, v in found.items() if any(v)}, right)

    def test_a_follower_gives_the_last_ones_of_a_text(self):
        right = self.server.sql("SELECT id FROM logs WHERE instr(message, 'rare') ORDER BY id")
        with Follower(self.server, "contains=rare&limit=10") as follower:
            found = [one["id"] for one in follower.wait(10)]
        by_time = self.server.sql(
            "SELECT id FROM logs WHERE instr(message, 'rare') ORDER BY timestamp DESC LIMIT 10"
        )
        self.assertIn(found, ([n for (n,) in right[-10:]], sorted(n for (n,) in by_time)))


class LargeBodies(ServerTests):
    """Large bodies are worked on two at a time, and one of a token."""

    def test_bodies_of_one_token_that_take_long_leave_room_for_those_of_others(self):
        # Forty thousand records of which none is one: that takes some 0.4 s.
        slow = b"[" + b",".join([b'{"time":"soon"}'] * 40_000) + b"]"
        lines = b'{"message": "m"}\n' * 5_000  # Longer than LARGE_BODY_BYTES.
        threads = [threading.Thread(target=self.server.post, args=[slow]) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        self.assertEqual(self.server.post(lines, OTHER_TOKEN).status, 200)
        seconds = time.monotonic() - began
        self.assertTrue(any(thread.is_alive() for thread in threads))
        for thread in threads:
            thread.join()
        self.assertLess(seconds, (time.monotonic() - began) / 2)

    def test_three_uploads_of_one_token_come_in_at_a_time(self):
        body = b'{"message": "%s"}\n' % (b"x" * 3_000) * 200  # Longer than LARGE_UPLOAD_BYTES.
        heads = (b"Content-Length: %d\r\n\r\n" % len(body), b"Transfer-Encoding: chunked\r\n\r\n")
        for head in heads:
            chunk = b"%x\r\n" % len(body) if b"chunked" in head else b""
            with self.subTest(head), contextlib.ExitStack() as stack:
                for number in range(1, 4):
                    wire = stack.enter_context(Wire(self.server))
                    wire.send(POST + head + chunk + body[:-10])
                    held = number * (len(body) - 10)
                    eventually(lambda held=held: self.server.metric("logs_waiting_bytes") == held)
                refused = self.server.post(body)
                self.assertEqual(refused.status, 503, refused.text)
                self.assertIn("large", refused.json["error"])
                self.assertIn("retry-after", refused.headers)
                for other, token in ((body[:3_018], TOKEN), (body, OTHER_TOKEN)):
                    self.assertEqual(self.server.post(other, token).status, 200)
                waiting = stack.enter_context(Wire(self.server)).send(POST + heads[0] + body)
                wire.send(body[-10:] + (b"\r\n0\r\n\r\n" if chunk else b""))
                for one in (wire, waiting):  # The place of the first is free: the second gets it.
                    answer = one.answer()
                    self.assertEqual(answer and answer.status, 200)
            eventually(lambda: self.server.metric("logs_waiting_bytes") == 0)

    def test_a_short_batch_waits_for_sixteen_batches_of_another_token_at_most(self):
        body = b'{"message": "m"}\n' * 1_000
        done: list[float] = []

        def post() -> None:
            for _ in range(3):
                self.assertEqual(self.server.post(body).status, 200)
                done.append(time.monotonic())

        threads = [threading.Thread(target=post) for _ in range(60)]
        for thread in threads:
            thread.start()
        waits = []
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            self.assertEqual(self.server.post({"message": "short"}, OTHER_TOKEN).status, 200)
            waits.append((began, time.monotonic()))
        self.assertEqual(len(done), 180)
        # Some more may be told of in this time, which ended before it.
        self.assertLess(max(sum(a < end < b for end in done) for a, b in waits), 30)

    def test_a_short_batch_waits_for_one_long_batch_at_most(self):
        body = b'{"message": "m"}\n' * 20_000
        tokens = [TOKEN, OTHER_TOKEN] * 3
        done: list[float] = []

        def post(token: str) -> None:
            self.assertEqual(self.server.post(body, token).status, 200)
            done.append(time.monotonic())

        threads = [threading.Thread(target=post, args=[token]) for token in tokens]
        for thread in threads:
            thread.start()
        waits = []
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            self.assertEqual(self.server.post({"message": "short"}).status, 200)
            waits.append((began, time.monotonic()))
        self.assertEqual(len(done), len(tokens))
        # Two may end while it waits: one that ended just before its own commit, and a long one.
        self.assertLessEqual(max(sum(a < end < b for end in done) for a, b in waits), 2)


class WhoLeaves(ServerTests):
    """Nothing waits for a search that its client has left."""

    settings: ClassVar[dict[str, Json]] = {
        "constants": {"QUERY_SECONDS": 60, "NARROW_IDS": 100},
        "admin_tokens": [ADMIN],
    }
    # A hundred texts in each message, each of which is looked for in turn: that takes long.
    WORDS: ClassVar[list[str]] = [f"é{n:03d}" for n in range(100)]
    SEARCH_FOR_ALL = urllib.parse.urlencode([("contains", word) for word in WORDS])
    SEARCH = f"{SEARCH_FOR_ALL}&contains=%C3%A9+nowhere"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        message = " ".join(cls.WORDS) + "x" * 3_000
        for _ in range(4):
            assert cls.server.post([{"message": message}] * 1_000).status == 200

    def answered(self, endpoint: str, status: int) -> float:
        labels = f'logs_http_requests_total{{endpoint="{endpoint}",status="{status}"}} '
        lines = self.server.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(labels))

    def test_the_search_of_a_client_that_closed_its_connection_ends_within_seconds(self):
        reset = struct.pack("ii", 1, 0)
        for name, path in (("closed", "/logs"), ("reset", "/stats")):
            with self.subTest(name, path=path):
                stopped = self.answered(path, 503)
                whole = self.answered(path, 200)
                with Wire(self.server) as wire:
                    head = f"GET {path}?{self.SEARCH} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                    wire.send(head.encode())
                    time.sleep(0.3)  # It is under way: the least work is several seconds.
                    if name == "reset":
                        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                eventually(lambda: self.answered(path, 503) > stopped, 30)  # noqa: B023
                self.assertEqual(self.answered(path, 200), whole)

    def test_searches_of_one_client_leave_connections_to_the_others(self):
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                wire = stack.enter_context(Wire(self.server))
                wire.send(f"GET /logs?{self.SEARCH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(0.5)
            with contextlib.closing(
                http.client.HTTPConnection(
                    "127.0.0.1", self.server.port, source_address=("127.0.0.2", 0), timeout=30
                )
            ) as other:
                began = time.monotonic()
                word = urllib.parse.quote(self.WORDS[0])
                other.request("GET", f"/logs?limit=1&contains={word}")
                self.assertEqual(other.getresponse().status, 200)
                self.assertLess(time.monotonic() - began, 3)

    def test_a_deletion_whose_client_left_ends_within_seconds_and_all_counts_are_right(self):
        message = " ".join(self.WORDS) + "x" * 3_000
        for _ in range(4):
            answer = self.server.post([{"message": message}] * 1_000, OTHER_TOKEN)
            self.assertEqual(answer.status, 200)

        def left() -> int:
            return self.server.sql("SELECT count(*) FROM logs WHERE service = 'web'")[0][0]

        stopped = self.answered("/logs", 503)
        with Wire(self.server) as wire:
            wire.send(
                f"DELETE /logs?service=web&{self.SEARCH_FOR_ALL} HTTP/1.1\r\n"
                f"Host: localhost\r\nAuthorization: Token {ADMIN}\r\n\r\n".encode()
            )
            eventually(lambda: left() < 4_000)
        eventually(lambda: self.answered("/logs", 503) > stopped, 3)
        self.assertIn(left(), range(1, 4_000))
        check_database(self, self.server)

    def test_who_ends_only_its_sending_gets_what_is_not_a_long_search(self):
        for path in ("/logs?limit=3", "/stats", "/logs?limit=0"):
            with self.subTest(path), Wire(self.server) as wire:
                wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()).end()
                if path.endswith("limit=0"):
                    time.sleep(1.2)  # The server looks twice while the stream waits.
                answer = wire.answer()
                self.assertEqual(answer and answer.status, 200)


class OneFollower(unittest.TestCase):
    """A follower costs little while the records are none of its own."""

    def test_one_with_a_filter_begins_by_the_index_of_times(self):
        store = store_of(self)
        commit(store, batch_of(record("old")._replace(timestamp=0), record()))
        for filters, is_by_id in (
            ({}, True), ({"timestamp_start": module.DAY}, False), ({"service": ("app",)}, False),
            ({"contains": ("m",)}, False),
        ):  # fmt: skip
            with (
                self.subTest(filters),
                mock.patch.object(store, "page", wraps=store.page) as page,
            ):
                next(store.follow(module.Query(**filters)))
                self.assertEqual(page.call_args.args[0].by_id, is_by_id)

    def test_records_of_others_let_a_follower_look_a_few_times_a_second_and_its_own_come_soon(self):
        store = store_of(self)
        other = record("mine")._replace(service="other")
        found: list[module.StoredRecord] = []
        commit(store, batch_of(record()))

        def follow() -> None:
            for page in store.follow(module.Query(service=("other",), limit=1)):
                found.extend(page)
                if found:
                    return

        follower = threading.Thread(target=follow, daemon=True)
        with mock.patch.object(store, "newest", wraps=store.newest) as newest:
            follower.start()
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                commit(store, batch_of(record()))
                time.sleep(0.02)
            self.assertIn(newest.call_count, range(2, 8))
        commit(store, batch_of(other))
        follower.join(20)
        self.assertEqual([one.message for one in found], ["mine"])


class OneGroup(unittest.TestCase):
    """A thread that fails while it commits for others lets nobody wait for ever."""

    def test_no_batch_waits_for_ever_or_is_stored_twice_when_its_leader_runs_out_of_memory(self):
        outage = module.Unavailable("It is locked.")
        # What fails for want of memory, and what the store raised before.
        places: tuple[tuple[Any, str, list[Exception]], ...] = (
            (module.Committer, "_commit_together", []),
            (module, "fail", [outage]),
            (module.log, "error", [MemoryError()]),  # It came after the COMMIT.
        )
        for owner, name, errors in places:
            with self.subTest(name):
                began, go_on = threading.Event(), threading.Event()
                written: list[module.Batch] = []

                def write(group: list[module.Batch]) -> None:
                    written.extend(group)  # noqa: B023
                    if not began.is_set():  # noqa: B023
                        began.set()  # noqa: B023
                        go_on.wait(20)  # noqa: B023
                    elif errors:  # noqa: B023
                        raise errors.pop()  # noqa: B023

                committer = module.Committer(write)
                batches = [batch_of(record()) for _ in range(4)]
                threads = [
                    threading.Thread(target=self.commit, args=[committer, batch], daemon=True)
                    for batch in batches
                ]
                for number, thread in enumerate(threads, 1):
                    thread.start()
                    eventually(lambda: len(committer.queue) == number)  # noqa: B023
                    began.wait(20)  # Until the first one commits alone.
                quiet = mock.patch.object(module.log, "error")
                with quiet, mock.patch.object(owner, name, side_effect=MemoryError) as broken:
                    go_on.set()
                    for thread in threads:
                        thread.join(5)
                self.assertEqual([thread.is_alive() for thread in threads], [False] * 4)
                self.assertEqual(broken.call_count, 1)
                self.assertEqual(len(written), len(set(map(id, written))), "none is tried again")
                self.assertEqual([batch.is_on_disk for batch in batches], [True] + [False] * 3)
                later = batch_of(record())
                committer.commit(later)
                self.assertTrue(later.is_on_disk)

    def commit(self, committer: module.Committer, batch: module.Batch) -> None:
        with contextlib.suppress(MemoryError, module.Unavailable):
            committer.commit(batch)


@unittest.skipUnless(
    len(module.PROCESSORS) > 1 and os.path.exists("/proc/self/task"),
    "needs several processors, and a system that says where a thread may run",
)
class OneProcessor(ServerTests):
    """Threads that hand the GIL to one another stay together. No other thread is bound."""

    def test_small_bodies_are_taken_on_one_processor_and_all_else_on_any(self) -> None:
        small = json.dumps({"message": "m"}).encode()
        large = json.dumps({"message": "m" * (65 << 10)}).encode()
        connection = self.server.connection()
        self.addCleanup(connection.close)
        for method, body, headers, bound in (
            ("POST", small, {}, 1),
            ("GET", None, {}, 0),
            ("POST", small, {}, 1),
            ("POST", large, {}, 0),
            ("POST", small, {}, 1),
            ("POST", gzip.compress(small), {"Content-Encoding": "gzip"}, 0),
            ("POST", small, {}, 1),
            ("POST", iter([small]), {"Transfer-Encoding": "chunked"}, 0),
        ):
            with self.subTest(method, headers=headers, bytes=len(body) if body == large else 0):
                token = {"Authorization": f"Token {TOKEN}"}
                connection.request(method, "/logs", body, token | headers, encode_chunked=True)
                with connection.getresponse() as response:
                    self.assertEqual(response.status, 200, response.read())
                    response.read()
                self.assertEqual(self.bound_threads(), bound)

    def bound_threads(self) -> int:
        """How many threads of the server may not run on every processor."""
        threads = pathlib.Path(f"/proc/{self.server.process.pid}/task").iterdir()
        allowed = [os.sched_getaffinity(int(thread.name)) for thread in threads]
        return sum(processors != module.PROCESSORS for processors in allowed)


class OneLineTooMany(ServerTests):
    """Empty lines between two requests."""

    settings: ClassVar[dict[str, Json]] = {"constants": {"HEADER_SECONDS": 0.3, "IDLE_SECONDS": 2}}

    def test_an_empty_line_between_two_requests_counts_for_nothing_however_late_the_next_is(self):
        get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with Wire(self.server) as wire:
            for _ in range(2):
                wire.send(get + b"\r\n")
                answer = wire.answer()
                self.assertEqual(answer and answer.status, 200)
                time.sleep(0.7)  # Longer than a head may take.
            answer = wire.send(get).answer()
            self.assertEqual(answer and answer.status, 200)

    def test_who_sends_nothing_but_empty_lines_is_cut_off(self):
        for lines in (b"\r\n", b"\r\n" * 50):
            with self.subTest(lines=len(lines)), Wire(self.server) as wire:
                wire.send(lines)
                began = time.monotonic()
                statuses = [answer.status for answer in wire.answers()]
                self.assertLess(time.monotonic() - began, 8)
                self.assertEqual(statuses, [400] if len(lines) > 2 else [])


class OneWAL(unittest.TestCase):
    """The WAL is a part of what the store may take, and who holds it is told."""

    def test_a_wal_that_another_process_holds_is_told_by_health_until_it_is_small_again(self):
        constants = {"MAX_WAL_BYTES": MIB, "WAL_PAUSE_SECONDS": 0.5, "LOCK_SECONDS": 0.2}
        with Server(constants=constants) as server:
            server.post({"message": "m"})
            self.assertEqual(server.get("/health").json, {"status": "ok"})
            other = sqlite3.connect(server.database, isolation_level=None)
            with contextlib.closing(other):
                other.execute("BEGIN")
                other.execute("SELECT count(*) FROM logs").fetchall()
                for _ in range(3):
                    server.post([{"message": "x" * 1000}] * 1000)
                health = eventually(
                    lambda: (answer := server.get("/health")).json.get("warning") and answer
                )
                self.assertEqual((health.status, health.json["status"]), (200, "ok"))
                self.assertIn("WAL", health.json["warning"])
                eventually(lambda: any("WAL" in line for line in server.errors))
            eventually(lambda: server.get("/health").json == {"status": "ok"})

    def test_file_and_wal_together_stay_within_the_size(self):
        with Server(retention={"max_age_days": None, "max_size_mb": 8}) as server:
            files = [pathlib.Path(f"{server.database}{end}") for end in ("", "-wal")]
            for _ in range(12):
                self.assertEqual(server.post([{"message": "x" * 2000}] * 1000).status, 200)
            size = eventually(
                lambda: (size := sum(file.stat().st_size for file in files)) < 8 * MIB and size
            )
            self.assertGreater(size, 4 * MIB, "no more is deleted than must be")


class Keys(unittest.TestCase):
    """An Idempotency-Key lives for a day, though the clock leaps, or as long as its records."""

    def at(self, moment: int) -> contextlib.AbstractContextManager[Any]:
        return mock.patch.object(module, "now", return_value=moment)

    def test_a_key_that_came_after_a_leap_ends_after_a_day_and_not_after_the_leap(self):
        store = store_of(self)
        present = module.now()
        with self.at(present + YEAR):
            commit(store, batch_of(record("ahead"), key=b"ahead"))
        commit(store, batch_of(record("after"), key=b"after"))
        with mock.patch.object(store, "steady_now", return_value=module.now() + module.DAY):
            store.upkeep_step()
            self.assertEqual(self.keys(store), [b"ahead"])

    def test_over_its_size_the_keys_of_records_that_stay_stay_though_the_clock_leapt(self):
        store = store_of(self)
        with self.at(module.now() + YEAR):
            commit(store, batch_of(*[record("x" * 10_000)] * 200))
        commit(store, batch_of(record("last"), key=b"last"))
        store.config = module.dataclasses.replace(store.config, max_size_mb=1)
        while store.upkeep_step():
            pass
        self.assertEqual(all_records(store)[-1].message, "last")
        self.assertEqual(self.keys(store), [b"last"])

    def keys(self, store: module.SQLiteStore) -> list[bytes]:
        with store.readers.lend() as db:
            return [key for (key,) in db.execute("SELECT key FROM keys")]


class ChangedByHand(unittest.TestCase):
    """Another program has changed rows of the table of records."""

    def test_metrics_and_statistics_are_told_though_another_program_has_deleted_all(self):
        with Server() as server:
            self.assertEqual(server.post([{"message": "m"}] * 5).status, 200)
            with contextlib.closing(sqlite3.connect(server.database, timeout=10)) as db, db:
                db.execute("DELETE FROM logs")
            for path in ("/metrics", "/stats", "/stats?step=1h"):
                with self.subTest(path):
                    self.assertEqual(server.get(path).status, 200)

    def test_the_statement_of_the_readme_makes_wrong_counts_right_again(self):
        [statement] = re.findall(r'"(BEGIN IMMEDIATE; DELETE FROM counts.*?)"', README, re.DOTALL)
        with Server() as server:
            times = [-1, 0, 59_999_999, 60_000_000, 10**15]
            bodies = [{"message": "m", "timestamp": timestamp(time)} for time in times]
            self.assertEqual(server.post(bodies * 100).status, 200)
            with contextlib.closing(sqlite3.connect(server.database, timeout=10)) as db:
                db.execute("DELETE FROM logs WHERE id % 7 = 0")
                db.execute("UPDATE logs SET severity = 50 WHERE id % 5 = 0")
                db.execute("UPDATE counts SET records = records + 1 WHERE start = 0")
                db.commit()
                self.assertNotEqual(server.get("/stats").json["total"], 429)
                db.executescript(statement.replace("\n> ", "\n"))
            check_database(self, server)
            self.assertEqual(server.get("/stats").json["total"], 429)


class Twins(unittest.TestCase):
    """Two servers start on one file that is not there yet."""

    def test_both_of_two_first_starts_on_one_file_work(self):
        path = folder_of(self) / "config.json"
        path.write_text(json.dumps(configuration()), encoding="utf-8")
        # Two stores of one process start closer together than two processes do, and lock the same.
        upkeep = mock.patch.object(module.SQLiteStore, "upkeep")
        with upkeep, mock.patch.object(module, "log"):  # The first to close says: a WAL is there.
            for number in range(100):
                config = module.load_config(path, store=f"{number}.db")
                for store in together(2, lambda _: module.SQLiteStore(config)):  # noqa: B023
                    store.close()


class Ending(unittest.TestCase):
    """Whatever hangs, the server ends."""

    PROGRAM = """
import re, signal, sys, time
sys.path.insert(0, sys.argv.pop(1))
import server
server.HANG_SECONDS = server.SPIN_SECONDS = 1  # A user waits longer.
owner, name, work = sys.argv.pop(1).split()
owner = getattr(server, owner, server)
sleep, spin = lambda *_: time.sleep(1000), lambda *_: re.match("(a+)+$", "a" * 99 + "b")
setattr(owner, name, {"sleeps": sleep, "spins": spin}[work])
sys.exit(server.main())
"""

    def start(self, place: str) -> subprocess.Popen[str]:
        """A server in which one function never returns, with a connection."""
        path = folder_of(self) / "config.json"
        path.write_text(json.dumps(configuration()), encoding="utf-8")
        line = [sys.executable, "-c", self.PROGRAM, str(ROOT), place, "--config", str(path)]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, encoding="utf-8")
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        port = int(process.stdout.readline().rpartition(":")[2])
        self.addCleanup(socket.create_connection(("127.0.0.1", port)).close)
        return process

    def test_what_hangs_does_not_keep_the_server_from_ending(self):
        places = ("Server process_request", "server stop", "SQLiteStore close", "server reload")
        processes = [self.start(f"{place} sleeps") for place in places]
        processes[-1].send_signal(signal.SIGHUP)
        time.sleep(0.5)
        for process in processes:
            process.terminate()
        for place, process in zip(places, processes, strict=True):
            with self.subTest(place):
                self.assertEqual(process.wait(8), -signal.SIGALRM)

    def test_a_thread_that_never_lets_another_run_ends_the_server(self):
        self.assertEqual(self.start("Server process_request spins").wait(8), -signal.SIGPROF)


class HangUp(unittest.TestCase):
    """SIGHUP, beyond tokens and limits."""

    def hang_up(self, server: Server, **settings: Json) -> str:
        """Gives the line that the server says."""
        before = len(server.errors)
        config = configuration(**settings)
        (server.folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(server.errors) > before)
        return server.errors[-1]

    def test_another_host_is_said_to_hold_from_the_next_start_on(self):
        with Server() as server:
            for _ in range(2):
                line = self.hang_up(server, host="localhost")
                self.assertRegex(line, r"host\b.*; host only at the next start$")
            self.assertRegex(self.hang_up(server), r"changed: nothing$")

    def test_a_hangup_says_what_changed_and_what_needs_a_restart(self):
        with Server() as server:
            self.assertRegex(self.hang_up(server), r"(?i)changed: nothing$")
            line = self.hang_up(server, max_records_per_second=7, number=3)
            changed, _, later = line.rpartition(";")
            self.assertIn("max_records_per_second", changed)
            self.assertIn("number", changed)
            self.assertIn("number", later)
            self.assertIn("next start", later)
            self.assertNotIn("max_records", later)
            settings = {"max_records_per_second": 7, "number": 3, "read_tokens": [READER]}
            line = self.hang_up(server, **settings)
            self.assertIn("tokens", line)
            self.assertNotIn(READER, line, "a secret is not shown")
            self.assertEqual(server.get("/logs").status, 401, "it holds at once")

    @unittest.skipUnless(shutil.which("openssl"), "there is no openssl to make a certificate")
    def test_a_renewed_certificate_is_served_at_once_and_a_bad_one_never(self):
        folder = folder_of(self)
        self.renew(folder)
        tls = {"certificate": "certificate.pem", "key": "key.pem"}
        with Server(folder, tls=tls) as server:
            first = self.served(server)
            old = [folder.joinpath(name).read_bytes() for name in tls.values()]
            self.renew(folder)
            self.assertEqual(self.served(server), first)
            self.assertRegex(self.hang_up(server, tls=tls), r"certificate too; changed: nothing$")
            second = self.served(server)
            self.assertNotEqual(second, first)
            for bad in (old[0], b"no certificate"):  # The first does not fit the key.
                folder.joinpath("certificate.pem").write_bytes(bad)
                self.assertIn("certificate.pem", self.hang_up(server, tls=tls))
                self.assertEqual(self.served(server), second)
            line = self.hang_up(server)
            self.assertRegex(line, r"; tls only at the next start$")

    def renew(self, folder: pathlib.Path) -> None:
        options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=a"
        files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
        status, _, err = run(["openssl", *options.split(), *files])
        self.assertEqual(status, 0, err)

    def served(self, server: Server) -> str:
        return ssl.get_server_certificate(("127.0.0.1", server.port), timeout=10)


class FairShares(unittest.TestCase):
    """What is refused, or is not stored, costs nobody his place."""

    def test_a_batch_that_was_not_stored_is_not_counted_in_the_rate(self):
        batch = [{"message": "m"}] * 100
        with Server(max_records_per_second=10, constants={"LOCK_SECONDS": 0.1}) as server:
            other = sqlite3.connect(server.database, isolation_level=None)
            self.addCleanup(other.close)
            other.execute("BEGIN IMMEDIATE")
            self.assertEqual(server.post(batch).status, 503)
            other.execute("ROLLBACK")
            self.assertEqual(server.post(batch).status, 200)
            self.assertEqual(server.post(batch).status, 429)

    def test_a_body_that_never_pauses_has_its_deadline_too(self):
        with Server(constants={"REQUEST_SECONDS": 1}) as server, Wire(server) as wire:
            wire.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
            sending = threading.Thread(target=self.send_on, args=[wire.socket])
            sending.start()
            self.assertEqual(wire.answer().status, 408)
            sending.join(30)

    def send_on(self, connection: socket.socket) -> None:
        """Sends chunks of one byte until the server takes no more: 50 MB would take it long."""
        with contextlib.suppress(OSError):
            for _ in range(1000):
                connection.sendall(b"1\r\na\r\n" * 8000)

    def test_connections_that_are_refused_do_not_keep_a_free_place(self):
        constants = {"MAX_CONNECTIONS": 3, "DRAIN_SECONDS": 30, "SHUTDOWN_SECONDS": 0.2}
        with Server(constants=constants) as server:
            wires = [self.enterContext(Wire(server)) for _ in range(3)]
            for wire in wires:
                wire.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertEqual(wire.answer().status, 200)
            for _ in range(5):
                refused = self.enterContext(Wire(server))  # It stays, and is drained for long.
                self.assertEqual(refused.answer().status, 503)
            wires.pop().close()
            eventually(lambda: not self.is_refused(server), 20)

    def is_refused(self, server: Server) -> bool:
        return server.get("/health").status == 503


class Tail(unittest.TestCase):
    """A follower goes on after an outage where it was."""

    def test_an_outage_between_two_pages_makes_a_follower_miss_and_repeat_nothing(self):
        store = store_of(self)
        commit(store, batch_of(*[record(str(number)) for number in range(20)]))
        page, calls = store.page, iter(range(100))

        def fail_once(*arguments: Any) -> module.Page:
            if next(calls) == 2:
                raise module.Unavailable("An outage.")
            return page(*arguments)

        found: list[str] = []
        with (
            mock.patch.object(module, "STREAM_RECORDS", 5),
            mock.patch.object(store, "page", fail_once),
        ):
            follower = store.follow(module.Query(after=0))
            while len(found) < 20:
                found += [one.message for one in next(follower)]
        self.assertEqual(found, [str(number) for number in range(20)])


class RareTexts(unittest.TestCase):
    """A text is searched side by side where an index would have to be read to its end."""

    def test_one_recent_hit_does_not_make_a_rare_text_common(self):
        store = store_of(self)
        commit(store, batch_of(*[record("other")] * 50, record("rare")))
        with mock.patch.object(module, "NARROW_IDS", 0), store.readers.lend() as db:
            for text, limit, expected in (
                ("nowhere", 100, True), ("rare", 100, True), ("rare", 1, False),
                ("other", 100, False),
            ):  # fmt: skip
                with self.subTest(text, limit=limit):
                    query = module.Query(contains=(text,), limit=limit)
                    self.assertEqual(module.needs_scan(db, query), expected)
            for filters, expected in (
                ({"min_severity": 10}, True), ({"service": ("app",)}, True),
                ({"min_severity": 40}, False), ({"not_service": ("app",)}, False),
            ):  # fmt: skip
                with self.subTest(filters):
                    query = module.Query(contains=("nowhere",), **filters)
                    self.assertEqual(module.needs_scan(db, query), expected)

    def test_a_text_in_a_small_part_of_a_day_is_searched_by_the_index(self):
        store = store_of(self)
        noon = 20_000 * module.DAY + 12 * module.HOUR
        old, recent = (
            record("x")._replace(timestamp=moment) for moment in (noon, noon + 6 * module.HOUR)
        )
        commit(store, batch_of(*[old] * 50, recent))
        with mock.patch.object(module, "NARROW_IDS", 0), store.readers.lend() as db:
            for limit in (100, 0):
                for start, expected in ((noon, True), (noon + 5 * module.HOUR, False)):
                    with self.subTest(start=start, limit=limit):
                        query = module.Query(
                            contains=("nowhere",), limit=limit, timestamp_start=start,
                            timestamp_end=noon + 7 * module.HOUR,
                        )  # fmt: skip
                        self.assertEqual(module.needs_scan(db, query), expected)

    def test_a_page_that_an_index_would_fill_too_slowly_is_searched_side_by_side(self):
        store = store_of(self)
        commit(store, batch_of(*[record("other")] * 50, *[record("rare")] * 5))
        with (
            mock.patch.object(module, "NARROW_IDS", 0),
            mock.patch.object(module, "INDEX_RECORDS", 1_000 * module.SAMPLE_RECORDS // 10),
            store.readers.lend() as db,
        ):
            for limit, expected in ((100, False), (1_000, True)):
                with self.subTest(limit):
                    query = module.Query(contains=("rare",), limit=limit)
                    self.assertEqual(module.needs_scan(db, query), expected)
            counted = module.Query(after=0, last_id=50, limit=0)  # By the time of receipt.
            self.assertTrue(module.needs_scan(db, counted))


class OneByOne(unittest.TestCase):
    """Of a group that fails, the first batch is committed alone."""

    def test_after_an_outage_the_others_of_the_group_do_not_wait_for_it_one_by_one(self):
        sizes = []

        def write(batches: list[module.Batch]) -> None:
            sizes.append(len(batches))
            if len(batches) > 1:
                raise ValueError("one of them is bad")
            raise module.Unavailable("The database is locked.")

        batches = [batch_of(record()) for _ in range(20)]
        committer = module.Committer(write)
        committer.queue.extend(batches)
        with self.assertLogs(module.log, "ERROR"):
            committer._lead()
        self.assertEqual(sizes, [20, 1])
        self.assertEqual({type(batch.failure) for batch in batches}, {module.Unavailable})


class OldSQLite(unittest.TestCase):
    """The schema and the queries need what SQLite has since 3.38."""

    def test_an_older_one_is_refused_in_one_line_and_no_file_is_made(self):
        path = folder_of(self) / "logs.db"
        config = module.load_config(ROOT / "config.json", store=str(path))
        with (
            mock.patch.object(sqlite3, "sqlite_version_info", (3, 37, 2)),
            self.assertRaisesRegex(module.StartError, "3.38 or newer is needed"),
        ):
            module.SQLiteStore(config)
        self.assertFalse(path.exists())


if __name__ == "__main__":
    unittest.main()
