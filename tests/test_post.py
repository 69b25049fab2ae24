"""POST /logs: which bodies are taken, what becomes of a record's fields, and what is answered."""

from __future__ import annotations

import base64
import concurrent.futures
import datetime
import gzip
import http.client
import itertools
import json
import logging
import logging.handlers
import pathlib
import queue
import socket
import unittest
import urllib.parse
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import server
from tests.support import (
    OTHER_TOKEN,
    READER,
    SHIPPER,
    TOKEN,
    Answer,
    Json,
    Server,
    ServerTests,
)

KIB, MIB = 1 << 10, 1 << 20
MAX_BODY = 10 * MIB
MAX_MESSAGE = 256 * KIB
MAX_ATTRIBUTES = 64 * KIB
MAX_KEY = server.MAX_KEY_CHARS


def raw_deflate(data: bytes) -> bytes:
    """Compressed without zlib's frame, as many clients understand the word "deflate"."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def basic(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def padded(size: int) -> bytes:
    """A body of so many bytes that holds one record."""
    return b'{"message": "padded"}'.ljust(size)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """A body in pieces, which http.client sends as chunks."""
    return (data[start : start + size] for start in range(0, len(data), size))


class Bodies(ServerTests):
    """The body is looked at, not what it says that it is."""

    # What is sent, and the messages that come of it.
    FORMS: tuple[tuple[str, bytes, list[str]], ...] = (
        ("an object", b'{"message": "a"}', ["a"]),
        ("an object over several lines", b'{\n  "message":\r\n    "a"\n}\n', ["a"]),
        ("an array", b'[{"message": "a"}, {"message": "b"}]', ["a", "b"]),
        ("an array over several lines", b'[\n{"message": "a"},\n{"message": "b"}\n]\n', ["a", "b"]),
        ("lines", b'{"message": "a"}\n{"message": "b"}\n', ["a", "b"]),
        ("lines, the last one open", b'{"message": "a"}\n{"message": "b"}', ["a", "b"]),
        ("lines that end in CR LF", b'{"message": "a"}\r\n{"message": "b"}\r\n', ["a", "b"]),
        ("blank lines first, between and last",
         b'\n\r\n \t\n{"message": "a"}\n\n\n{"message": "b"}\n \n', ["a", "b"]),
        ("objects back to back", b'{"message": "a"}{"message": "b"}{"message": "c"}',
         ["a", "b", "c"]),
        ("objects with blanks between", b'{"message": "a"} {"message": "b"}\t{"message": "c"}',
         ["a", "b", "c"]),
        ("arrays one after the other", b'[{"message": "a"}]\n[{"message": "b"}, {"message": "c"}]',
         ["a", "b", "c"]),
        ("an array, then objects", b'[{"message": "a"}]{"message": "b"}', ["a", "b"]),
        ('{"logs": [...]}', b'{"logs": [{"message": "a"}, {"message": "b"}]}', ["a", "b"]),
        ('{"logs": [...]} on each line',
         b'{"logs": [{"message": "a"}]}\n{"logs": [{"message": "b"}]}', ["a", "b"]),
        ("UTF-8 with a mark in front", b'\xef\xbb\xbf{"message": "\xc3\xa9"}', ["é"]),
        ("UTF-16 with a mark in front", '{"message": "é"}\n{"message": "b"}'.encode("utf-16"),
         ["é", "b"]),
        ("UTF-16, little-endian", '{"message": "é"}'.encode("utf-16-le"), ["é"]),
        ("UTF-16, big-endian", '[{"message": "é"}]'.encode("utf-16-be"), ["é"]),
        ("UTF-32", '{"message": "é"}'.encode("utf-32"), ["é"]),
        ("a form", b"message=a+b%3D%C3%A9&severity=ERROR", ["a b=é"]),
        ("a form of an alias alone", b"msg=a", ["a"]),
    )

    def test_every_form_of_a_body_is_taken(self) -> None:
        for name, body, messages in self.FORMS:
            with self.subTest(name):
                self.assertEqual([record["message"] for record in self.accept(body)], messages)

    def test_what_a_content_type_says_is_not_looked_at(self) -> None:
        bodies = [
            body
            for name, body, _ in self.FORMS
            if name in ("an object", "an array", "lines", "a form")
        ]
        for content_type in (
            "application/json",
            "application/json; charset=latin-1",
            "application/x-www-form-urlencoded",
            "application/x-ndjson",
            "application/octet-stream",
            "application/x-protobuf",
            "multipart/form-data; boundary=x",
            "text/plain",
            "nonsense",
        ):
            for body in bodies:
                with self.subTest(content_type, body=body):
                    self.accept(body, Content_Type=content_type)

    def test_a_form_of_any_fields_is_a_record(self) -> None:
        (record,) = self.accept(
            b"message=hello&level=warn&time=2026-11-24&user=bob&note=a%26b&empty="
        )
        self.assertEqual(record["severity"], "WARNING")
        self.assertEqual(record["timestamp"], "2026-11-24T00:00:00.000000Z")
        self.assertEqual(record["attributes"], {"user": "bob", "note": "a&b", "empty": ""})

    def test_a_name_that_comes_again_in_a_form_has_a_list_of_its_values(self) -> None:
        parts = [
            f"--x\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n"
            for name, value in (('name="message"', "a"), ("name=tag", "x"), ("NAME=tag", "y"))
        ]
        for body in ("message=a&tag=x&tag=y", "".join(parts) + "--x--\r\n"):
            with self.subTest(body):
                (record,) = self.accept(body.encode())
                found = record["message"], record["attributes"]
                self.assertEqual(found, ("a", {"tag": ["x", "y"]}))

    def test_a_service_beside_logs_is_that_of_records_without_their_own(self) -> None:
        body = {"service": "web", "logs": [{"message": "a"}, {"message": "b", "service": "db"}]}
        records = self.accept(body, token=SHIPPER)
        self.assertEqual([record["service"] for record in records], ["web", "db"])
        self.assertEqual(self.server.post(body, TOKEN).status, 403)

    def test_what_else_stands_beside_logs_is_not_lost_in_silence(self) -> None:
        answer = self.server.post({"logs": [{"message": "a"}], "host": "h"})
        self.assertEqual(answer.status, 422, answer.text)

    def test_logs_is_an_attribute_of_a_record_that_has_a_message(self) -> None:
        (record,) = self.accept({"message": "a", "logs": [1, 2]})
        self.assertEqual(record["attributes"], {"logs": [1, 2]})
        (record,) = self.accept({"msg": "a", "logs": [{"message": "b"}]})
        self.assertEqual(record["message"], "a")
        self.assertEqual(record["attributes"], {"logs": [{"message": "b"}]})

    def test_compressed_bodies_are_taken(self) -> None:
        body = b'{"message": "a"}\n{"message": "b"}\n'
        halves = gzip.compress(body[:20]) + gzip.compress(body[20:])
        for encoding, data in (
            ("gzip", gzip.compress(body)),
            ("GZIP", gzip.compress(body)),
            ("x-gzip", gzip.compress(body)),
            ("gzip", halves),
            ("deflate", zlib.compress(body)),
            ("deflate", zlib.compress(body, 0)),
            ("deflate", raw_deflate(body)),
            ("identity", body),
            ("", body),
        ):
            with self.subTest(encoding, data=data[:10]):
                records = self.accept(data, Content_Encoding=encoding)
                self.assertEqual([record["message"] for record in records], ["a", "b"])

    def test_what_can_not_be_decompressed_is_422(self) -> None:
        whole = gzip.compress(b'{"message": "a"}')
        damaged = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]  # its checksum
        for encoding, data in (
            ("gzip", b'{"message": "not compressed"}'),
            ("gzip", whole[:-9]),
            ("gzip", whole[:5]),
            ("gzip", damaged),
            ("gzip", whole + whole[:-3]),
            ("deflate", b"\x78\x9c nonsense"),
        ):
            with self.subTest(encoding, data=data):
                answer = self.server.post(data, Content_Encoding=encoding)
                self.assertEqual(answer.status, 422, answer.text)
                self.assertIn("decompress", answer.json["error"])

    def test_another_encoding_is_415_and_the_answer_names_those_that_are_handled(self) -> None:
        for encoding in ("br", "zstd", "gzip, gzip", "nonsense"):
            with self.subTest(encoding):
                answer = self.server.post(b"x", Content_Encoding=encoding)
                self.assertEqual(answer.status, 415, answer.text)
                self.assertIn(encoding.split(",")[0], answer.json["error"])
                for known in ("gzip", "deflate"):
                    self.assertIn(known, answer.json["hint"])

    def test_chunks_may_be_cut_anywhere(self) -> None:
        body = '[{"message": "ñandú"}, {"message": "😀"}]'.encode()
        for encoding, data, size in (
            ("identity", body, len(body)),
            ("identity", body, 1),
            ("gzip", gzip.compress(body), 7),
            ("deflate", raw_deflate(body), 1),
        ):
            with self.subTest(encoding, size=size):
                headers = {"Authorization": f"Token {TOKEN}", "Content-Encoding": encoding}
                answer = self.server.request("POST", "/logs", pieces(data, size), headers).json
                first = self.server.get(f"/logs/{answer['first_id']}").json
                self.assertEqual((answer["accepted"], first["message"]), (2, "ñandú"))

    def exchange(
        self, authorization: str, *headers: str
    ) -> tuple[socket.socket, http.client.HTTPResponse]:
        """Sends the head of a POST that waits for the word;
        gives the connection and what comes back."""
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=10)
        self.addCleanup(connection.close)
        lines = [
            "POST /logs HTTP/1.1",
            "Host: localhost",
            f"Authorization: {authorization}",
            *headers,
        ]
        connection.sendall("\r\n".join([*lines, "Expect: 100-continue", "", ""]).encode())
        return connection, http.client.HTTPResponse(connection, method="POST")

    def test_a_client_that_expects_100_continue_gets_it_before_its_body(self) -> None:
        for name, headers, body in (
            ("length", ["Content-Length: 16"], b'{"message": "a"}'),
            ("chunked", ["Transfer-Encoding: chunked"], b'10\r\n{"message": "a"}\r\n0\r\n\r\n'),
        ):
            with self.subTest(name):
                connection, response = self.exchange(f"Token {TOKEN}", *headers)
                self.assertEqual(connection.recv(1000), b"HTTP/1.1 100 Continue\r\n\r\n")
                connection.sendall(body)
                response.begin()
                self.assertEqual((response.status, json.load(response)["accepted"]), (200, 1))

    def test_a_body_that_is_refused_beforehand_is_not_asked_for(self) -> None:
        for name, authorization, header, status in (
            ("unknown token", "Token wrong", "Content-Length: 16", 401),
            ("too large", f"Token {TOKEN}", f"Content-Length: {MAX_BODY + 1}", 413),
        ):
            with self.subTest(name):
                connection, _ = self.exchange(authorization, header)
                self.assertTrue(connection.recv(1000).startswith(f"HTTP/1.1 {status} ".encode()))

    def test_a_body_without_a_length_is_411(self) -> None:
        connection = self.server.connection()
        self.addCleanup(connection.close)
        connection.putrequest("POST", "/logs")
        connection.putheader("Authorization", f"Token {TOKEN}")
        connection.endheaders()
        self.assertEqual(connection.getresponse().status, 411)

    def test_an_empty_batch_is_422(self) -> None:
        for body in (b"", b" \n\r\n", b"[]", b"[]\n[]\n", b'{"logs": []}', b"\xef\xbb\xbf"):
            with self.subTest(body=body):
                self.assertEqual(self.server.post(body).status, 422)

    def test_a_body_that_can_not_be_parsed_is_422_with_the_position_of_the_fault(self) -> None:
        before = self.server.get("/stats").json["total"]
        for body, line, column in (
            (b'{"message": "a"', 1, 16),
            (b'{"message": }', 1, 13),
            (b"{'message': 'a'}", 1, 2),
            (b'[{"message": "a"}, {"message": "b"}', 1, 36),
            (b'{\n"message": "a",\n"n": {"b": 1}\n,}', 4, 2),
            (b'{"message": "a\nb"}', 1, 15),
            (b'{"message": "a"}]', 1, 17),
        ):
            with self.subTest(body=body):
                answer = self.server.post(body)
                self.assertEqual(answer.status, 422, answer.text)
                self.assertIn(f"line {line} column {column}", answer.json["error"])
        self.assertEqual(self.server.get("/stats").json["total"], before)

    def test_a_body_of_a_hundred_gzip_members_is_taken_and_one_of_more_is_not(self) -> None:
        for members, status in ((100, 200), (101, 422)):
            with self.subTest(members=members):
                data = gzip.compress(b'{"message": "a"}') + gzip.compress(b"\n") * (members - 1)
                answer = self.server.post(data, Content_Encoding="gzip")
                self.assertEqual(answer.status, status, answer.text)

    def test_an_encoding_that_is_not_known_is_answered_with_those_that_are(self) -> None:
        answer = self.server.post(b"x", Content_Encoding="br")
        self.assertEqual(answer.headers["accept-encoding"], "gzip, deflate")


class HandlerForm(ServerTests):
    """What the standard library's own HTTPHandler posts:
    a form of everything that its record has."""

    def setUp(self) -> None:
        # It closes no socket.
        self.enterContext(warnings.catch_warnings(action="ignore", category=ResourceWarning))

    def logger(self, token: str = TOKEN, queued: bool = False) -> logging.Logger:
        """A logger that posts to the server, and is closed with the test."""
        handler: logging.Handler = logging.handlers.HTTPHandler(
            f"127.0.0.1:{self.server.port}", "/logs", method="POST", credentials=("any user", token)
        )
        self.addCleanup(handler.close)
        if queued:
            records: queue.SimpleQueue[Any] = queue.SimpleQueue()
            listener = logging.handlers.QueueListener(records, handler)
            listener.start()
            self.stop_listener, handler = listener.stop, logging.handlers.QueueHandler(records)
        logger = logging.Logger("shop.cart")
        logger.addHandler(handler)
        return logger

    def newest(self) -> dict[str, Json]:
        """The record that was stored last."""
        ((number,),) = self.server.sql("SELECT max(id) FROM logs")
        record: dict[str, Json] = self.server.get(f"/logs/{number}").json
        return record

    def test_the_message_is_formatted_with_its_arguments(self) -> None:
        for message, arguments, expected in (
            ("plain", (), "plain"),
            ("hello %s n=%d", ("world", 3), "hello world n=3"),
            ("one %s", ("é & =",), "one é & ="),
            ("a float %.2f, a repr %r", (3.14159, "x"), "a float 3.14, a repr 'x'"),
            ("%(user)s did %(what)s", ({"user": "bob", "what": "that"},), "bob did that"),
            ("a list %s", ([1, [2]],), "a list [1, [2]]"),
            ("none is %s", (None,), "none is None"),
            ("a tuple %s", ((1, 2),), "a tuple (1, 2)"),
            ("100% sure, no arguments", (), "100% sure, no arguments"),
            ("50%% of %s", ("it",), "50% of it"),
            ("100%% 2024: %5s|%-6.2f|%05d", ("x", 3.14159, 42), "100% 2024:     x|3.14  |00042"),
            ("two\nlines %s", ("x",), "two\nlines x"),
            ("not readable: %s", (object,), "not readable: %s"),  # repr gives what is no literal
            ("too few %s %s", ("x",), "too few %s %s"),
            ("not a number %d", ("x",), "not a number %d"),
            ("no such place %z", ("x",), "no such place %z"),
        ):
            with self.subTest(message):
                self.logger().warning(message, *arguments)
                record = self.newest()
                self.assertEqual(record["message"], expected)
                self.assertEqual((record["severity"], record["service"]), ("WARNING", "app"))
                lost = [str(one) for one in arguments if expected == message]
                for one in lost:
                    self.assertIn(one, record["attributes"]["arguments"])

    def test_a_level_that_the_program_made_has_the_severity_of_its_number(self) -> None:
        for number, severity in ((45, "ERROR"), (55, "CRITICAL"), (25, "INFO"), (5, "DEBUG")):
            logging.addLevelName(number, "SECURITY")
            self.logger().log(number, "m")
            record = self.newest()
            self.assertEqual(record["severity"], severity)
            self.assertEqual(record["attributes"]["levelname"], "SECURITY")

    def test_an_argument_that_is_no_unicode_is_stored_with_a_replacement(self) -> None:
        self.logger().warning("file %s", "caf\udce9.txt")  # as os.listdir gives it
        self.assertEqual(self.newest()["message"], "file caf\ufffd.txt")

    def test_a_format_that_would_fill_the_memory_is_not_carried_out(self) -> None:
        for message, arguments in (
            ("%080000000d", "(1,)"),
            ("%.80000000f", "(1,)"),
            ("%*d", "(80000000, 1)"),
            ("%(a)080000000d", "{'a': 1}"),
            ("%% %(a)-80000000s", "{'a': 1}"),
        ):
            form = {"msg": message, "args": arguments, "levelno": "20", "levelname": "INFO"}
            answer = self.server.post(urllib.parse.urlencode(form))
            self.assertIn(answer.status, (200, 422))
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status")
        if not status.exists():
            self.skipTest("this system does not tell how much memory a process took")
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        self.assertLess(int(peak.split()[1]), 100 * KIB)

    def test_every_level_is_kept(self) -> None:
        for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            with self.subTest(level):
                self.logger().log(logging.getLevelName(level), "at %s", level)
                self.assertEqual(self.newest()["severity"], level)

    def test_the_time_of_the_event_is_its_timestamp(self) -> None:
        began = datetime.datetime.now(datetime.timezone.utc)
        self.logger().warning("now")
        ended = datetime.datetime.now(datetime.timezone.utc)
        timestamp = datetime.datetime.fromisoformat(self.newest()["timestamp"])
        slack = datetime.timedelta(milliseconds=1)
        self.assertTrue(began - slack <= timestamp <= ended + slack, timestamp)

    def test_extra_fields_become_attributes_and_what_says_nothing_does_not(self) -> None:
        self.logger().warning("with more", extra={"user": "bob", "tags": ["x"]})
        attributes = self.newest()["attributes"]
        self.assertEqual((attributes["user"], attributes["tags"]), ("bob", "['x']"))
        self.assertNotIn("None", attributes.values())
        for name in ("message", "msg", "args", "levelname", "created", "exc_info"):
            self.assertNotIn(name, attributes)

    def test_the_exception_is_kept(self) -> None:
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            self.logger().exception("it failed")
        record = self.newest()
        self.assertEqual((record["message"], record["severity"]), ("it failed", "ERROR"))
        self.assertIn("ZeroDivisionError('division by zero')", record["attributes"]["exc_info"])

    def test_behind_a_queue_the_message_and_its_traceback_are_kept(self) -> None:
        logger = self.logger(queued=True)
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logger.exception("100%% of %s failed", "it", extra={"user": "bob"})
        self.stop_listener()  # waits for what is in the queue
        record = self.newest()
        self.assertTrue(record["message"].startswith("100% of it failed"), record["message"])
        self.assertIn("ZeroDivisionError: division by zero", json.dumps(record))
        self.assertEqual(record["attributes"]["user"], "bob")
        self.assertNotIn("None", record["attributes"].values())

    def test_with_a_shippers_token_the_loggers_name_is_the_service(self) -> None:
        self.logger(SHIPPER).warning("hello")
        self.assertEqual(self.newest()["service"], "shop.cart")


class Fields(ServerTests):
    """What becomes of each field of a record."""

    def one(self, fields: dict[str, Json], token: str = TOKEN) -> dict[str, Json]:
        """The record that comes of these fields; a message is added where there is none."""
        named = any(name in fields for name in ("message", "msg", "log"))
        return self.accept(fields if named else {"message": "m", **fields}, token)[0]

    def test_a_record_comes_back_with_these_fields_and_no_other(self) -> None:
        record = self.one({"message": "hello"})
        names = ["id", "timestamp", "received_at", "service", "severity", "message", "attributes"]
        self.assertEqual(list(record), names)
        self.assertEqual(
            (record["service"], record["severity"], record["attributes"]), ("app", "INFO", {})
        )
        self.assertEqual(
            record["timestamp"], record["received_at"], "no timestamp: the time of receipt"
        )

    def test_it_lies_in_the_database_as_schema_sql_says(self) -> None:
        sent = {
            "message": "ñ",
            "timestamp": "2026-11-24T02:14:12.123456Z",
            "severity": "ERROR",
            "user": "bob",
        }
        record = self.one(sent)
        rows = self.server.sql(
            "SELECT timestamp, service, severity, message, attributes FROM logs WHERE id = ?",
            record["id"],
        )
        self.assertEqual(rows, [(1795486452123456, "app", 40, "ñ", '{"user":"bob"}')])

    def test_an_alias_counts_where_the_canonical_name_is_absent(self) -> None:
        for names, values, field, expected in (
            (("message", "msg", "log"), ("a", "b", "c"), "message", ("a", "b", "c")),
            (
                ("timestamp", "time", "ts", "date", "created", "@timestamp"),
                ("2001-01-01", "2002-01-01", "2003-01-01", "2004-01-01", "2005-01-01",
                 "2006-01-01"),
                "timestamp",
                tuple(f"200{n}-01-01T00:00:00.000000Z" for n in range(1, 7)),
            ),
            (
                ("severity", "level", "levelname"),
                ("ERROR", "DEBUG", "CRITICAL"),
                "severity",
                ("ERROR", "DEBUG", "CRITICAL"),
            ),
        ):
            for first, name in enumerate(names):
                with self.subTest(name):
                    fields = dict(
                        zip(reversed(names[first:]), reversed(values[first:]), strict=True)
                    )
                    record = self.one(fields)
                    self.assertEqual(record[field], expected[first])
                    del fields[name]
                    self.assertEqual(record["attributes"], fields, "what lost is an attribute")

    def test_null_is_the_same_as_absent(self) -> None:
        record = self.one(
            {"message": None, "msg": "a", "severity": None, "timestamp": None, "attributes": None}
        )
        self.assertEqual((record["message"], record["severity"]), ("a", "INFO"))
        self.assertEqual(record["timestamp"], record["received_at"])
        self.assertEqual(record["attributes"], {})

    TIMESTAMPS: tuple[tuple[Json, str], ...] = (
        # ISO 8601
        ("2026-11-24T02:14:12.123456Z", "2026-11-24T02:14:12.123456Z"),
        ("2026-11-24T02:14:12Z", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24T02:14:12", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24T02:14", "2026-11-24T02:14:00.000000Z"),
        ("2026-11-24T02:14Z", "2026-11-24T02:14:00.000000Z"),
        ("2026-11-24 02:14:12", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24, 02:14:12", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24,02:14:12", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24 02:14:12,123", "2026-11-24T02:14:12.123000Z"),  # the logging module's asctime
        ("2026-11-24", "2026-11-24T00:00:00.000000Z"),
        ("20261124", "2026-11-24T00:00:00.000000Z"),
        ("20261124T021412Z", "2026-11-24T02:14:12.000000Z"),
        ("2026-W48-2", "2026-11-24T00:00:00.000000Z"),
        ("2026-11-24t02:14:12z", "2026-11-24T02:14:12.000000Z"),
        (" 2026-11-24T02:14:12Z ", "2026-11-24T02:14:12.000000Z"),
        # digits alone, with and without a fraction and an offset
        ("20261124021412", "2026-11-24T02:14:12.000000Z"),
        ("20261124021412Z", "2026-11-24T02:14:12.000000Z"),
        ("20261124100000Z", "2026-11-24T10:00:00.000000Z"),
        ("20261124021412.123", "2026-11-24T02:14:12.123000Z"),
        ("20261124021412,5Z", "2026-11-24T02:14:12.500000Z"),
        ("20261124021412123", "2026-11-24T02:14:12.123000Z"),
        ("20261124031412+0100", "2026-11-24T02:14:12.000000Z"),
        ("20261123211412.25-05:00", "2026-11-24T02:14:12.250000Z"),
        ("202611240214Z", "2026-11-24T02:14:00.000000Z"),
        ("202611240314+01", "2026-11-24T02:14:00.000000Z"),
        # names of zones, and two digits for a year
        ("2026-11-24 11:14:12.123 JST", "2026-11-24T02:14:12.123000Z"),
        ("2026-11-24T03:14:12+01:00[Europe/Paris]", "2026-11-24T02:14:12.000000Z"),
        ("Tuesday, 24-Nov-26 02:14:12 GMT", "2026-11-24T02:14:12.000000Z"),
        ("Sunday, 06-Nov-94 08:49:37 GMT", "1994-11-06T08:49:37.000000Z"),
        # fractions of any length
        ("2026-11-24T02:14:12.5Z", "2026-11-24T02:14:12.500000Z"),
        ("2026-11-24T02:14:12.12Z", "2026-11-24T02:14:12.120000Z"),
        ("2026-11-24T02:14:12.1234Z", "2026-11-24T02:14:12.123400Z"),
        ("2026-11-24T02:14:12.123456789Z", "2026-11-24T02:14:12.123456Z"),
        ("2026-11-24, 02:14:12.25", "2026-11-24T02:14:12.250000Z"),
        # offsets
        ("2026-11-24T02:14:12+00:00", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24T02:14:12-00:00", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24T03:14:12+01:00", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24T03:14:12+0100", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24T03:14:12+01", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-23T20:44:12-05:30", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24 03:14:12 +0100", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24 03:14:12.5 +01:00", "2026-11-24T02:14:12.500000Z"),
        ("2026-11-24 02:14:12 UTC", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24T02:14:12 Z", "2026-11-24T02:14:12.000000Z"),
        ("2026-11-24, 03:14:12+01:00", "2026-11-24T02:14:12.000000Z"),
        # epoch numbers in s, ms, µs and ns, by their size
        (1795486452, "2026-11-24T02:14:12.000000Z"),
        (1795486452.25, "2026-11-24T02:14:12.250000Z"),
        (1795486452.123456, "2026-11-24T02:14:12.123456Z"),
        (1795486452123, "2026-11-24T02:14:12.123000Z"),
        (1795486452123.5, "2026-11-24T02:14:12.123500Z"),
        (1795486452123456, "2026-11-24T02:14:12.123456Z"),
        (1795486452123456789, "2026-11-24T02:14:12.123456Z"),
        ("1795486452", "2026-11-24T02:14:12.000000Z"),
        ("1795486452.25", "2026-11-24T02:14:12.250000Z"),
        ("1795486452.123456", "2026-11-24T02:14:12.123456Z"),
        ("1795486452123", "2026-11-24T02:14:12.123000Z"),
        ("1795486452123456", "2026-11-24T02:14:12.123456Z"),
        ("1795486452123456789", "2026-11-24T02:14:12.123456Z"),
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:01.000000Z"),
        (-1, "1969-12-31T23:59:59.000000Z"),
        (-0.000001, "1969-12-31T23:59:59.999999Z"),
        ("-1.5", "1969-12-31T23:59:58.500000Z"),
        (631152000, "1990-01-01T00:00:00.000000Z"),
        (631152000000, "1990-01-01T00:00:00.000000Z"),
        (631152000000000, "1990-01-01T00:00:00.000000Z"),
        (631152000000000000, "1990-01-01T00:00:00.000000Z"),
        (4102444800, "2100-01-01T00:00:00.000000Z"),
        (4102444800000, "2100-01-01T00:00:00.000000Z"),
        (4102444800000000, "2100-01-01T00:00:00.000000Z"),
        (4102444800000000000, "2100-01-01T00:00:00.000000Z"),
        # the ends of the calendar
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("0001-01-01T01:00:00+01:00", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("1582-10-15", "1582-10-15T00:00:00.000000Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000000Z"),
    )

    def test_a_timestamp_in_any_usual_shape_is_the_same_moment(self) -> None:
        records = self.accept([{"message": "m", "timestamp": sent} for sent, _ in self.TIMESTAMPS])
        for (sent, expected), record in zip(self.TIMESTAMPS, records, strict=True):
            with self.subTest(sent=sent):
                self.assertEqual(record["timestamp"], expected)

    def test_epoch_numbers_keep_the_order_of_every_microsecond(self) -> None:
        start = 1795486452_000001
        records = self.accept(
            [{"message": "m", "timestamp": (start + n) / 1e6} for n in range(100)]
        )
        got = [
            datetime.datetime.fromisoformat(record["timestamp"]).timestamp() for record in records
        ]
        self.assertEqual(got, [(start + n) / 1e6 for n in range(100)])

    # Values that must be refused, by the field that is named then.
    BAD_VALUES: tuple[tuple[str, tuple[Json, ...]], ...] = (
        ("timestamp",
         ("", " ", "yesterday", "now", "12:30", "2026-13-01", "2026-02-30", "2025-02-29")),
        ("timestamp", ("2026", "2026112402Z", "20261124021412+", "2026-11-24102:14")),
        ("timestamp", ("2026-11-24 02:14:12 IST",)),  # That of India, of Israel or of Ireland?
        ("timestamp",
         ("2026-11-24T25:00:00Z", "2026-11-24T02:61:00Z", "2026-11-24T02:14:12+25:00")),
        ("timestamp", ("2026-11-24T02:14:12X", "2026-11-24T", "2026-11-24T02:14:12Z and more")),
        ("timestamp", ("1795486452abc", "0x10", "NaN", "inf", "--1", "1" * 400)),
        ("timestamp",
         ("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "10000-01-01T00:00:00Z")),
        ("timestamp", (1e30, -1e30, 10**40, True, False, [], {}, [1795486452], {"$date": "soon"})),
        ("severity", ("LOUD", "", "INFO,ERROR", -1, 1.5, 8, 11, 17, 70, 999, True, [], {})),
        ("severity", (["INFO"],)),
        ("message", (None, "")),
        ("attributes", ("text", "{}", 5, 0, True, False, ["a"])),
        ("service", (5, True, ["app"], {"name": "web"}, {"name": 5})),
    )
    BAD: tuple[tuple[dict[str, Json], str], ...] = (
        *(
            ({"message": "m", field: value}, field)
            for field, values in BAD_VALUES
            for value in values
        ),
        ({}, "message"),
        ({"user": "bob"}, "message"),
        ({"message": "", "msg": "an alias does not help"}, "message"),
    )

    def test_what_breaks_a_rule_is_refused_and_the_field_is_named(self) -> None:
        for first in range(0, len(self.BAD), 100):  # as many as an answer names
            part = self.BAD[first : first + 100]
            answer = self.server.post([*(record for record, _ in part), {"message": "good"}])
            self.assertEqual(answer.status, 200, answer.text)
            errors = {error["index"]: error for error in answer.json["errors"]}
            for index, (record, field) in enumerate(part):
                with self.subTest(record=record):
                    error = errors.get(index, {"field": "none: it was stored", "error": ""})
                    self.assertEqual(error["field"], field)
                    self.assertTrue(error["error"])

    def test_what_is_no_object_is_refused_and_the_rest_of_its_batch_stored(self) -> None:
        sent = [
            {"message": "a"},
            "text",
            5,
            None,
            True,
            [],
            [{"message": "nested"}],
            {"message": "b"},
        ]
        answer = self.server.post(sent).json
        self.assertEqual((answer["accepted"], answer["rejected"]), (2, 6))
        self.assertEqual([error["index"] for error in answer["errors"]], [1, 2, 3, 4, 5, 6])
        for body in ("5", "null", "true", '"text"'):
            with self.subTest(body):
                self.assertEqual(self.server.post(f"[{body}]").status, 422)

    def test_severities_have_their_usual_names_in_any_case(self) -> None:
        names = {
            "DEBUG": "debug Debug dEbUg TRACE trace verbose silly FINE",
            "INFO": "info Info notice NOTICE informational Information http",
            "WARNING": "warning Warning WARN warn",
            "ERROR": "error Error ERR err SEVERE",
            "CRITICAL": "critical CRIT crit FATAL fatal alert emerg EMERGENCY panic",
        }
        cases = [(sent, name) for name, others in names.items() for sent in (name, *others.split())]
        for field in ("severity", "level", "levelname"):
            records = self.accept([{"message": "m", field: sent} for sent, _ in cases])
            for (sent, name), record in zip(cases, records, strict=True):
                with self.subTest(sent, field=field):
                    self.assertEqual(record["severity"], name)

    def test_a_bare_number_in_level_is_on_pinos_scale(self) -> None:
        for number, name in (
            (10, "DEBUG"),
            (20, "DEBUG"),
            (30, "INFO"),
            (35, "INFO"),
            (40, "WARNING"),
            (50, "ERROR"),
            (60, "CRITICAL"),
            ("30", "INFO"),
        ):
            with self.subTest(number=number):
                self.assertEqual(self.one({"level": number})["severity"], name)

    def test_a_line_of_pino_is_taken_as_it_is(self) -> None:
        line = {
            "level": 50,
            "time": 1795486452123,
            "pid": 43,
            "hostname": "web1",
            "msg": "oops",
            "err": {"code": 7},
        }
        record = self.one(line)
        self.assertEqual((record["severity"], record["message"]), ("ERROR", "oops"))
        self.assertEqual(record["timestamp"], "2026-11-24T02:14:12.123000Z")
        self.assertEqual(record["attributes"], {"pid": 43, "hostname": "web1", "err": {"code": 7}})

    def test_a_line_of_syslog_ng_is_taken_as_it_is(self) -> None:
        line = (
            b'{"timestamp":"2026-11-24T02:00:01+00:00","pid":"43","message":"err 3164 caf\xc3\xa9",'
            b'"logger":"sshd","level":"err","host":"web1","facility":"user"}'
        )
        (record,) = self.accept(line, SHIPPER)
        self.assertEqual((record["service"], record["severity"]), ("sshd", "ERROR"))
        self.assertEqual(record["attributes"], {"pid": "43", "host": "web1", "facility": "user"})

    def test_everything_else_goes_into_attributes_as_it_was_sent(self) -> None:
        attributes = {
            "text": "é😀\u0000\t\"'\\",
            "number": 3,
            "large": 12345678901234567890123,
            "float": 0.1,
            "true": True,
            "false": False,
            "zero": 0,
            "empty": "",
            "list": [1, "a", None, [2], {}],
            "object": {"deep": {"deeper": [None]}},
            "": "a name that is empty",
            "http.status": 200,
            "ñ": "a name that is not ASCII",
            "id": 7,
        }
        self.assertEqual(self.one(attributes)["attributes"], attributes)
        self.assertEqual(self.one({"attributes": attributes})["attributes"], attributes)

    def test_an_attribute_that_is_null_is_kept(self) -> None:
        self.assertEqual(self.one({"user": None})["attributes"], {"user": None})

    def test_attributes_of_the_records_own_are_joined_by_its_other_fields(self) -> None:
        cases: tuple[tuple[dict[str, Json], dict[str, Json]], ...] = (
            ({"attributes": {"a": 1}}, {"a": 1}),
            ({"attributes": {}}, {}),
            ({"b": 2, "attributes": {"a": 1}}, {"a": 1, "b": 2}),
            ({"a": "outer", "attributes": {"a": "own"}}, {"a": "own"}),
            ({"attributes": {"attributes": {"a": 1}}}, {"attributes": {"a": 1}}),
            ({"attributes": {"message": "x", "severity": "y"}}, {"message": "x", "severity": "y"}),
            ({"msg": "m", "attributes": {"msg": "own"}}, {"msg": "own"}),
        )
        for fields, expected in cases:
            with self.subTest(fields):
                self.assertEqual(self.one(fields)["attributes"], expected)

    def test_numbers_that_json_does_not_have_are_refused(self) -> None:
        for number in ("NaN", "Infinity", "-Infinity", "1e400"):
            with self.subTest(number):
                answer = self.server.post(f'{{"message": "m", "n": {number}}}')
                self.assertEqual(answer.status, 422, answer.text)

    def test_a_message_has_256_kib_of_utf_8_at_most(self) -> None:
        for letter in ("a", "é", "€", "😀"):
            width = len(letter.encode())
            most = MAX_MESSAGE // width
            for count, stored in ((most - 1, True), (most, True), (most + 1, False)):
                with self.subTest(letter, count=count):
                    answer = self.server.post({"message": letter * count})
                    self.assertEqual(answer.status, 200 if stored else 422, answer.text)
                    if stored:
                        record = self.server.get(f"/logs/{answer.json['first_id']}").json
                        self.assertEqual(record["message"], letter * count)
                    else:
                        self.assertEqual(answer.json["errors"][0]["field"], "message")

    def test_attributes_have_64_kib_at_most(self) -> None:
        for letter in ("a", "€", "😀"):
            most = (MAX_ATTRIBUTES - len('{"k":""}')) // len(letter.encode())
            for count, stored in ((most - 1, True), (most, True), (most + 1, False)):
                for fields in ({"k": letter * count}, {"attributes": {"k": letter * count}}):
                    with self.subTest(letter, count=count):
                        answer = self.server.post({"message": "m", **fields})
                        self.assertEqual(answer.status, 200 if stored else 422, answer.text)
                        if not stored:
                            self.assertEqual(answer.json["errors"][0]["field"], "attributes")

    def test_a_service_has_128_characters_at_most(self) -> None:
        for name, stored in (("s" * 127, True), ("ñ" * 128, True), ("s" * 129, False), ("", False)):
            with self.subTest(name):
                answer = self.server.post({"message": "m", "service": name}, SHIPPER)
                self.assertEqual(answer.status, 200 if stored else 422, answer.text)

    def test_text_that_is_no_unicode_is_stored_with_a_replacement(self) -> None:
        for body, expected in (
            (rb'{"message": "a\ud800b"}', "a\ufffdb"),
            (rb'{"message": "a\uDFFF"}', "a\ufffd"),
            (rb'{"message": "\udc00\ud800"}', "\ufffd\ufffd"),
            (rb'{"message": "\ud800\ud83d\ude00"}', "\ufffd😀"),
            (rb'{"message": "\ud83d\ude00"}', "😀"),
            (rb'{"message": "C:\\udata"}', r"C:\udata"),
            (rb'{"message": "\ud800"}'.decode().encode("utf-16"), "\ufffd"),
        ):
            with self.subTest(body=body):
                self.assertEqual([record["message"] for record in self.accept(body)], [expected])
        (record,) = self.accept(rb'{"message": "m", "k\ud800": "v\udfff", "list": ["\ud800"]}')
        self.assertEqual(record["attributes"], {"k\ufffd": "v\ufffd", "list": ["\ufffd"]})
        (record,) = self.accept(rb'{"message": "m", "service": "s\ud800"}', SHIPPER)
        self.assertEqual(record["service"], "s\ufffd")

    def test_control_characters_are_kept(self) -> None:
        for text in (
            "\u0000", "a\u0000b", "\u001b[31mred\u001b[0m", "two\nlines", "\r", "\u2028", "\ufeff",
            " ",
        ):
            with self.subTest(text):
                self.assertEqual(self.one({"message": text})["message"], text)

    def test_a_shippers_record_falls_back_to_logger_then_to_name(self) -> None:
        for fields, service, attributes in (
            ({"service": "a", "logger": "b", "name": "c"}, "a", {"logger": "b", "name": "c"}),
            ({"logger": "b", "name": "c"}, "b", {"name": "c"}),
            ({"name": "c"}, "c", {}),
            ({"service": None, "logger": "b"}, "b", {}),
        ):
            with self.subTest(fields):
                record = self.one(fields, SHIPPER)
                self.assertEqual((record["service"], record["attributes"]), (service, attributes))
        answer = self.server.post({"message": "m"}, SHIPPER)
        self.assertEqual((answer.status, answer.json["errors"][0]["field"]), (422, "service"))

    def test_with_a_service_token_logger_and_name_are_attributes(self) -> None:
        record = self.one({"logger": "b", "name": "c"})
        self.assertEqual(
            (record["service"], record["attributes"]), ("app", {"logger": "b", "name": "c"})
        )
        self.assertEqual(self.one({"service": "app"})["attributes"], {})

    def test_what_get_gave_out_can_be_posted_again(self) -> None:
        sent: list[dict[str, Json]] = [
            {"message": "ñ\n\u0000", "severity": "ERROR", "timestamp": "1969-12-31", "user": "bob",
             "n": [1, None]},
            {"message": "b", "service": "web", "attributes": {"id": 1, "received_at": "x"}},
            {"message": "c", "service": "web", "timestamp": "2026-11-24T02:14:12.123456Z"},
        ]
        given = self.accept([{"service": "app", **record} for record in sent], SHIPPER)
        for name, body in (
            ("array", json.dumps(given)),
            ("lines", "\n".join(map(json.dumps, given))),
        ):
            with self.subTest(name):
                again = self.accept(body, SHIPPER)
                for old, new in zip(given, again, strict=True):
                    self.assertGreater(new["id"], old["id"])
                    self.assertGreaterEqual(new["received_at"], old["received_at"])
                    own = ("id", "received_at")
                    self.assertEqual(
                        *({k: v for k, v in r.items() if k not in own} for r in (old, new))
                    )

    def test_an_id_or_a_received_at_alone_is_an_attribute(self) -> None:
        for fields in ({"id": 7}, {"received_at": "2026-11-24T00:00:00Z"}):
            with self.subTest(fields):
                self.assertEqual(self.one(fields)["attributes"], fields)

    def test_a_repeated_line_is_real(self) -> None:
        line = {"message": "again", "timestamp": "2026-11-24T02:14:12Z", "severity": "ERROR"}
        numbers = [record["id"] for record in self.accept([line, line]) + self.accept(line)]
        self.assertEqual(len(set(numbers)), 3)


class Answers(ServerTests):
    """What is said to what was sent."""

    NUMBERS = ("accepted", "rejected", "first_id", "last_id", "errors")

    def test_a_batch_that_is_stored_whole(self) -> None:
        answer = self.server.post([{"message": "a"}, {"message": "b"}, {"message": "c"}])
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/json"))
        self.assertEqual(tuple(answer.json), self.NUMBERS)
        self.assertEqual(
            (answer.json["accepted"], answer.json["rejected"], answer.json["errors"]), (3, 0, [])
        )
        self.assertEqual(answer.json["last_id"] - answer.json["first_id"], 2)

    def test_a_batch_that_is_stored_in_part(self) -> None:
        answer = self.server.post(
            [{"message": "a"}, {"message": "x", "severity": "LOUD"}, {"message": "b"}, {}]
        )
        self.assertEqual(answer.status, 200)
        self.assertEqual(tuple(answer.json), self.NUMBERS)
        self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (2, 2))
        self.assertEqual(
            [(e["index"], e["field"]) for e in answer.json["errors"]],
            [(1, "severity"), (3, "message")],
        )
        self.assertIn("LOUD", answer.json["errors"][0]["error"])
        stored = [
            self.server.get(f"/logs/{answer.json[name]}").json["message"]
            for name in ("first_id", "last_id")
        ]
        self.assertEqual(stored, ["a", "b"])

    def test_an_error_shows_no_more_of_a_nested_value_than_of_another(self) -> None:
        nested: Json = "x"
        for _ in range(6):
            nested = [nested] * 6
        for fields in ({"message": "m", "timestamp": nested}, {"x": nested, "y": {"z": nested}}):
            answer = self.server.post(fields)
            self.assertEqual(answer.status, 422)
            self.assertLess(len(answer.body), 1000)

    def test_the_first_hundred_errors_are_named_and_all_are_counted(self) -> None:
        for bad in (99, 100, 101, 150):
            with self.subTest(bad=bad):
                answer = self.server.post(
                    [{"message": "good"}, *[{"message": ""}] * bad, {"message": "good"}]
                ).json
                self.assertEqual((answer["accepted"], answer["rejected"]), (2, bad))
                self.assertEqual(
                    [e["index"] for e in answer["errors"]], list(range(1, min(bad, 100) + 1))
                )

    def refused(self, answer: Answer, status: int) -> None:
        """Checks the answer to a batch of which nothing could be stored."""
        self.assertEqual(answer.status, status, answer.text)
        body = answer.json
        self.assertLessEqual({"error", "hint", *self.NUMBERS}, set(body))
        self.assertEqual((body["accepted"], body["first_id"], body["last_id"]), (0, None, None))
        self.assertEqual(body["rejected"], len(body["errors"]))
        self.assertTrue(body["error"] and body["hint"])

    def test_a_batch_of_which_nothing_could_be_stored_is_422(self) -> None:
        self.refused(self.server.post([{"message": ""}, {}]), 422)

    def test_another_service_is_refused_to_a_service_token(self) -> None:
        other = {"message": "m", "service": "web"}
        for name, body, status in (
            ("alone", other, 403),
            ("all", [other, other], 403),
            ("with a record that is bad otherwise", [other, {"message": ""}], 422),
        ):
            with self.subTest(name):
                answer = self.server.post(body)
                self.refused(answer, status)
                self.assertEqual(answer.json["errors"][0]["field"], "service")
                self.assertIn("web", answer.json["errors"][0]["error"])
        answer = self.server.post([other, {"message": "m", "service": "app"}, {"message": "m"}])
        self.assertEqual(
            (answer.status, answer.json["accepted"], answer.json["rejected"]), (200, 2, 1)
        )

    def test_a_shipper_token_writes_any_service(self) -> None:
        names = ["app", "web", "one that is in no configuration", "ñ"]
        records = self.accept([{"message": "m", "service": name} for name in names], SHIPPER)
        self.assertEqual([record["service"] for record in records], names)

    def test_what_was_answered_with_200_is_on_disk_and_can_be_read_at_once(self) -> None:
        for _ in range(20):
            number = self.server.post({"message": "read your own write"}).json["first_id"]
            self.assertEqual(
                self.server.sql("SELECT count(*) FROM logs WHERE id = ?", number), [(1,)]
            )
            self.assertEqual(self.server.get("/logs?limit=1").json[0]["id"], number)

    def test_ids_are_contiguous_within_a_batch_and_ascend_with_the_commits(self) -> None:
        def post(count: int) -> Json:
            return self.server.post([{"message": f"{count} {n}"} for n in range(count)]).json

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(post, [1, 7, 30, 600] * 10))
        ranges = sorted(
            (answer["first_id"], answer["last_id"], answer["accepted"]) for answer in answers
        )
        self.assertEqual(
            [last - first + 1 for first, last, _ in ranges], [accepted for *_, accepted in ranges]
        )
        for (_, last, _), (first, _, _) in itertools.pairwise(ranges):
            self.assertGreater(first, last)
        for first, last, accepted in ranges:
            rows = self.server.sql(
                "SELECT message FROM logs WHERE id BETWEEN ? AND ? ORDER BY id", first, last
            )
            self.assertEqual(
                [message for (message,) in rows], [f"{accepted} {n}" for n in range(accepted)]
            )
        received = [
            moment for (moment,) in self.server.sql("SELECT received_at FROM logs ORDER BY id")
        ]
        self.assertEqual(received, sorted(received))


class Tokens(ServerTests):
    """Who may write."""

    settings = {"read_tokens": [READER]}

    def test_three_schemes_carry_a_token(self) -> None:
        for authorization in (
            f"Token {TOKEN}",
            f"Bearer {TOKEN}",
            basic("app", TOKEN),
            basic("", TOKEN),
            basic("any user at all", TOKEN),
            f"token {TOKEN}",
            f"BEARER {TOKEN}",
            basic("x", TOKEN).replace("Basic", "basic"),
        ):
            with self.subTest(authorization):
                self.assertEqual(
                    self.server.post({"message": "m"}, None, Authorization=authorization).status,
                    200,
                )

    WRONG = (
        None,
        "",
        "Token",
        "Token ",
        "Token wrong",
        f"Token {TOKEN}x",
        f"Token {TOKEN[:-1]}",
        f"Token {TOKEN.upper()}",
        f"Token x {TOKEN}",
        f"Token ñ{TOKEN}",
        f"Token {READER}",
        TOKEN,
        f"Digest {TOKEN}",
        f"Basic {TOKEN}",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        basic(TOKEN, ""),
        basic(TOKEN, "wrong"),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
    )

    def test_no_or_an_unknown_token_is_401_and_says_which_schemes_there_are(self) -> None:
        for authorization in self.WRONG:
            with self.subTest(authorization):
                headers = {} if authorization is None else {"Authorization": authorization}
                answer = self.server.post({"message": "m"}, None, **headers)
                self.assertEqual(answer.status, 401, answer.text)
                self.assertTrue(answer.headers["www-authenticate"])
                self.assertTrue(answer.json["error"] and answer.json["hint"])
                self.assertNotIn(TOKEN, answer.text)

    def test_the_body_that_comes_with_a_wrong_token_is_not_parsed(self) -> None:
        for name, body, headers in (
            ("not JSON", b"{", {}),
            ("empty", b"", {}),
            ("not gzip", b"x", {"Content_Encoding": "gzip"}),
            ("an unknown encoding", b"x", {"Content_Encoding": "br"}),
            ("too large", padded(MAX_BODY + 1), {}),
            ("a long key", b"{}", {"Idempotency_Key": "k" * (MAX_KEY + 1)}),
        ):
            with self.subTest(name):
                self.assertEqual(self.server.post(body, "wrong", **headers).status, 401)


class Keys(ServerTests):
    """With an Idempotency-Key, a batch is stored once however often it is sent."""

    def count(self, message: str) -> int:
        """How many records with this message are stored."""
        ((records,),) = self.server.sql("SELECT count(*) FROM logs WHERE message = ?", message)
        return int(records)

    def test_a_repeat_gets_the_first_answer_and_stores_nothing(self) -> None:
        for name, body in (
            ("whole", [{"message": "whole"}]),
            ("in part",
             [{"message": "in part"}, {"message": ""}, {"message": "m", "level": "LOUD"}]),
        ):
            with self.subTest(name):
                first = self.server.post(body, Idempotency_Key=name)
                self.assertEqual(first.status, 200)
                self.assertNotIn("idempotent-replayed", first.headers)
                for _ in range(3):
                    repeat = self.server.post(body, Idempotency_Key=name)
                    self.assertEqual((repeat.status, repeat.json), (200, first.json))
                    self.assertEqual(repeat.headers["idempotent-replayed"], "true")
                self.assertEqual(self.count(name), 1)

    def test_without_a_key_nothing_is_held_to_be_a_repeat(self) -> None:
        for _ in range(3):
            self.assertNotIn("idempotent-replayed", self.server.post({"message": "no key"}).headers)
        self.server.post({"message": "no key"}, Idempotency_Key="one key")
        self.server.post({"message": "no key"}, Idempotency_Key="another key")
        self.assertEqual(self.count("no key"), 5)

    def test_the_same_key_with_another_body_is_422(self) -> None:
        first = self.server.post({"message": "body"}, Idempotency_Key="bodies")
        for body in ({"message": "other body"}, [{"message": "body"}]):
            answer = self.server.post(body, Idempotency_Key="bodies")
            self.assertEqual(answer.status, 422, answer.text)
            self.assertIn("Idempotency-Key", answer.json["error"])
        self.assertEqual((self.count("body"), self.count("other body")), (1, 0))
        self.assertEqual(
            self.server.post({"message": "body"}, Idempotency_Key="bodies").json, first.json
        )

    def test_the_same_key_with_another_token_is_another_key(self) -> None:
        for token in (TOKEN, OTHER_TOKEN):
            answer = self.server.post({"message": "tokens"}, token, Idempotency_Key="tokens")
            self.assertEqual(answer.status, 200)
            self.assertNotIn("idempotent-replayed", answer.headers)
        self.assertEqual(self.count("tokens"), 2)

    def test_a_key_that_is_empty_or_too_long_is_refused(self) -> None:
        for length, status in ((MAX_KEY - 1, 200), (MAX_KEY, 200), (MAX_KEY + 1, 400), (0, 400)):
            key = "k" * length
            with self.subTest(length=length):
                answer = self.server.post({"message": "long"}, Idempotency_Key=key)
                self.assertEqual(answer.status, status, answer.text)
        self.server.post({"message": "long"}, Idempotency_Key="k" * MAX_KEY)
        self.assertEqual(self.count("long"), 2)

    def test_the_last_of_two_values_under_one_name_counts(self) -> None:
        answer = self.server.post(b'{"message": "a", "n": 1, "message": "b", "n": 2}')
        record = self.server.get(f"/logs/{answer.json['first_id']}").json
        self.assertEqual((record["message"], record["attributes"]), ("b", {"n": 2}))

    def test_keys_that_differ_in_case_or_at_the_end_are_different(self) -> None:
        for key in ("case", "Case", "case2"):
            self.server.post({"message": "different"}, Idempotency_Key=key)
        self.assertEqual(self.count("different"), 3)

    def test_repeats_at_the_same_time_store_once(self) -> None:
        def post(key: str) -> Answer:
            return self.server.post([{"message": "at once"}] * 50, Idempotency_Key=key)

        for n in range(5):
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(post, [f"at once {n}"] * 8))
            self.assertEqual([answer.status for answer in answers], [200] * 8)
            self.assertEqual(len({answer.body for answer in answers}), 1)
            self.assertEqual(
                sum("idempotent-replayed" not in answer.headers for answer in answers), 1
            )
        self.assertEqual(self.count("at once"), 5 * 50)

    def test_a_batch_that_was_refused_can_be_sent_again_with_its_key(self) -> None:
        self.assertEqual(self.server.post({"message": ""}, Idempotency_Key="refused").status, 422)
        self.assertEqual(self.server.post({"message": ""}, Idempotency_Key="refused").status, 422)

    def test_a_repeat_is_known_after_a_restart(self) -> None:
        with Server() as server:
            first = server.post({"message": "m"}, Idempotency_Key="restart")
            server.restart()
            repeat = server.post({"message": "m"}, Idempotency_Key="restart")
            self.assertEqual(
                (repeat.json, repeat.headers["idempotent-replayed"]), (first.json, "true")
            )
            self.assertEqual(server.sql("SELECT count(*) FROM logs"), [(1,)])


if __name__ == "__main__":
    unittest.main()
