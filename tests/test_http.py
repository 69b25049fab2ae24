"""HTTP as it comes from careless and from hostile clients, byte by byte.

Each gets a right answer or a closed connection: no request is ever read out of another's body, none
stops the server, and none takes more than a bounded time and memory.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import io
import itertools
import json
import pathlib
import socket
import threading
import time
import unittest
import urllib.parse
import zlib
from typing import ClassVar
from unittest import mock

import server as module
from tests.load import (
    GET,
    POST,
    Wire,
    check_database,
    forget_peak,
    peak_mib,
    proc,
    seconds_at_work,
)
from tests.support import Answer, Json, Server, eventually

RECORD = b'{"message": "hello"}'
MANY_KS = b"k" * (module.MAX_KEY_CHARS + 1)
MIB = 1 << 20

# A whole request, to be hidden in what belongs to another: its record must never be stored.
HIDDEN = POST + b'Connection: close\r\nContent-Length: 23\r\n\r\n{"message": "smuggled"}'


def post(body: bytes = RECORD, *headers: bytes) -> bytes:
    """A request with these header lines and a Content-Length."""
    return (
        POST
        + b"".join(line + b"\r\n" for line in headers)
        + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def chunked(*chunks: bytes) -> bytes:
    """A request whose body is sent as it stands, after Transfer-Encoding: chunked."""
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


class HTTPTest(unittest.TestCase):
    """One server for all tests of a class; in the end it must be the same process, in order,
    and silent."""

    server: ClassVar[Server]
    smuggled = 0  # records that earlier tests have complained of

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.__exit__)

    def tearDown(self):
        self.assertIsNone(self.server.process.poll(), "the server is gone")
        self.assertEqual(self.server.get("/health").status, 200)
        ((smuggled,),) = self.server.sql("SELECT count(*) FROM logs WHERE message = 'smuggled'")
        before, type(self).smuggled = self.smuggled, smuggled
        self.assertEqual(smuggled, before, "a body was read as a request")
        unexpected = [line for line in self.server.errors if "unexpected" in line]
        self.server.errors.clear()
        self.assertEqual(unexpected, [])

    def talk(self, data: bytes) -> list[Answer]:
        """The answers to all that is sent, until the server closes."""
        with Wire(self.server) as wire:
            return wire.send(data).end().answers()

    def assert_refused(self, data: bytes, *statuses: int) -> None:
        """One answer with one of these statuses, in JSON, then a close."""
        answers = self.talk(data)
        self.assertEqual(len(answers), 1, answers)
        self.assertIn(answers[0].status, statuses, answers[0].text)
        self.assertEqual(answers[0].headers.get("connection"), "close")
        self.assertEqual(set(answers[0].json), {"error", "hint"})


class Framing(HTTPTest):
    def test_lengths_that_two_readers_could_understand_differently_are_refused(self):
        for name, headers in {
            "length and chunked": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
            "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
            "two lengths": b"Content-Length: 5\r\nContent-Length: 0",
            "a list of lengths": b"Content-Length: 5, 0",
            "negative": b"Content-Length: -1",
            "signed": b"Content-Length: +5",
            "underscore": b"Content-Length: 1_0",
            "hexadecimal": b"Content-Length: 0x5",
            "two numbers": b"Content-Length: 0 5",
            "empty": b"Content-Length:",
            "fraction": b"Content-Length: 5.0",
            "exponent": b"Content-Length: 1e1",
            "other digits": "Content-Length: ٥".encode(),
            "quoted": b'Content-Length: "5"',
            "vertical tab": b"Content-Length: \x0b5",
            "no-break space": "Content-Length:\u00a05".encode(),
            "space before the colon": b"Content-Length : 5",
            "gzip": b"Transfer-Encoding: gzip",
            "identity": b"Transfer-Encoding: identity",
            "gzip, chunked": b"Transfer-Encoding: gzip, chunked",
            "chunked twice": b"Transfer-Encoding: chunked, chunked",
            "chunked on two lines": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "chunked and identity": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "almost chunked": b"Transfer-Encoding: xchunked",
            "chunked with a parameter": b"Transfer-Encoding: chunked;x=1",
            "chunked after a vertical tab": b"Transfer-Encoding: \x0bchunked",
            "chunked before the colon": b"Transfer-Encoding : chunked",
            "empty coding": b"Transfer-Encoding:",
        }.items():
            with self.subTest(name):
                self.assert_refused(POST + headers + b"\r\n\r\n" + b"0\r\n\r\n" + HIDDEN, 400, 501)

    def test_a_length_may_be_padded_as_the_protocol_allows(self):
        for length in (b"20", b" 20 ", b"\t20\t", b"0020"):
            with self.subTest(length):
                answers = self.talk(POST + b"Content-Length:" + length + b"\r\n\r\n" + RECORD)
                self.assertEqual([answer.status for answer in answers], [200])

    def test_huge_lengths(self):
        for length in (10 * MIB + 1, 1 << 31, 1 << 63, 10**18, 10**30, 10**4000):
            with self.subTest(length=len(str(length))):
                self.assert_refused(
                    POST + b"Content-Length: %d\r\n\r\n" % length + HIDDEN, 413, 400
                )

    def test_chunks_that_are_none_are_refused(self):
        for name, body in {
            "no size": b"\r\nhello\r\n0\r\n\r\n",
            "negative": b"-5\r\nhello\r\n0\r\n\r\n",
            "signed": b"+5\r\nhello\r\n0\r\n\r\n",
            "with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
            "underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
            "two sizes": b"5 5\r\nhello\r\n0\r\n\r\n",
            "no digit": b"g\r\nhello\r\n0\r\n\r\n",
            "space before": b" 5\r\nhello\r\n0\r\n\r\n",
            "too short": b"4\r\nhello\r\n0\r\n\r\n",
            "no CRLF after it": b"5\r\nhello0\r\n\r\n",
            "LF after it": b"5\r\nhello\n0\r\n\r\n",
            "LF after the size": b"5\nhello\r\n0\r\n\r\n",
            "CR after the size": b"5\rhello\r\n0\r\n\r\n",
            "bare CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            "trailer without a colon": chunk(RECORD) + b"0\r\nnone\r\n\r\n",
            "10,000 trailers": chunk(RECORD) + b"0\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
            "64 KiB of extension": b"5;" + b"a" * 65536 + b"\r\nhello\r\n0\r\n\r\n",
            "beyond 64 bits": b"1" + b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n",
            "too large": b"a00001\r\n" + b"hello",
        }.items():
            with self.subTest(name):
                self.assert_refused(chunked(body) + HIDDEN, 400, 413, 431)

    def test_chunks_in_every_lawful_shape_are_one_body(self):
        for name, chunks in {
            "one": (chunk(RECORD), chunk(b"")),
            "a byte each": (*(chunk(bytes([byte])) for byte in RECORD), chunk(b"")),
            "leading zeros": (b"00014\r\n" + RECORD + b"\r\n", b"000\r\n\r\n"),
            "extensions": (chunk(RECORD, b';name="a b";x'), b"0;last\r\n\r\n"),
            "a trailer": (chunk(RECORD), b"0\r\nContent-Length: 99\r\nX-Sum: 1\r\n\r\n"),
            "a trailer that names another token": (
                chunk(RECORD), b"0\r\nAuthorization: Token none\r\n\r\n",
            ),
            "upper case": (
                chunk(b'{"message":'), b"A\r\n" + b'"' + b"a" * 8 + b'"' + b"\r\n", chunk(b"}"),
                chunk(b""),
            ),
        }.items():
            with self.subTest(name):
                answers = self.talk(chunked(*chunks) + GET)
                self.assertEqual([answer.status for answer in answers], [200, 200], answers)
                self.assertEqual(answers[0].json["accepted"], 1)

    def test_headers_that_are_none_are_refused(self):
        for name, line in {
            "no colon": b"nonsense",
            "no name": b": value",
            "space before the colon": b"X-A : b",
            "space in the name": b"X A: b",
            "folded": b"X-A: b\r\n c",
            "folded by a tab": b"X-A: b\r\n\tc",
            "folded length": b"X-A: b\r\n Content-Length: 0",
            "bare CR": b"X-A: b\rContent-Length: 0",
            "bare LF": b"X-A: b\nContent-Length: 0",
            "CR CR LF": b"X-A: b\r",
            "NUL": b"X-A: b\0c",
            "NUL in the name": b"X\0A: b",
            "bracket in the name": b"X(A): b",
            "not ASCII in the name": "X-É: b".encode(),
            "64 KiB": b"X-A: " + b"b" * 65536,
            "64 KiB without an end": b"X" * 65536,
            "10,000 of them": b"\r\n".join(b"X-%d: b" % n for n in range(10_000)),
            "one 10,000 times": b"\r\n".join([b"X-A: b"] * 10_000),
            "two hosts": b"Host: example.org",
        }.items():
            with self.subTest(name):
                data = POST + line + b"\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN
                self.assert_refused(data, 400, 431)
        with self.subTest("space before the first"):
            self.assert_refused(b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n" + HIDDEN, 400)
        with self.subTest("no host"):
            self.assert_refused(b"GET /health HTTP/1.1\r\n\r\n" + HIDDEN, 400)

    def test_first_lines_that_are_none_are_refused(self):
        for line in (
            *(b"GET /health", b"GET", b"\r\n", b" ", b"GET /health HTTP/2.0", b"PRI * HTTP/2.0"),
            *(b"GET /health HTTP/0.9", b"GET /health HTTP/1.1\r", b"GET http:// HTTP/1.1"),
            *(b"GET http://[ HTTP/1.1", "GET http://a\u2100b/health HTTP/1.1".encode()),
            b"OPTIONS * HTTP/1.1",
            *(b"CONNECT localhost:80 HTTP/1.1", b"GET /health HTTP/1.1 ", b"GET  /health HTTP/1.1"),
            *(b"GET\t/health\tHTTP/1.1", b" GET /health HTTP/1.1", b"GET /health HTTP"),
            *(b"GET /health HTTP/11", b"GET /health HTTP/1.1.1", b"GET /health http/1.1"),
            b"GET /health HTTP/1.10",
            *(b"GET /health HTTP/-1.1", b"GET /health FTP/1.1", b"GET /hea lth HTTP/1.1"),
            b"GET health HTTP/1.1",
            *(b"GET /health\0 HTTP/1.1", b"GET /\0 HTTP/1.1", b"G\0ET / HTTP/1.1"),
            b"GET /health HTTP/1.1\0",
            *(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(range(256))),
            b"G(E)T /health HTTP/1.1",
            *(b"GET ftp://localhost/health HTTP/1.1", b"GET /" + b"a" * 65536 + b" HTTP/1.1"),
            b"GET /" + b"a" * 65536,
        ):
            with self.subTest(line[:40]):
                self.assert_refused(
                    line + b"\r\nHost: localhost\r\nX: y\r\n\r\n" + HIDDEN, 400, 414, 431, 505
                )

    def test_lines_that_end_in_lf_alone_are_understood_or_refused_but_never_in_two_ways(self):
        answers = self.talk(
            (POST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN)).replace(b"\r\n", b"\n") + HIDDEN
        )
        self.assertLessEqual(len(answers), 1, answers)
        self.assertLessEqual({answer.status for answer in answers}, {400, 422})

    def test_whole_addresses_and_empty_lines_are_taken(self):
        for name, (data, status) in {
            "absolute": (b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
            "absolute without a path": (
                b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", 200,
            ),
            "absolute, another host": (
                b"GET http://example.org/logs HTTP/1.1\r\nHost: localhost\r\n\r\n", 421,
            ),
            "absolute, the header lies": (
                b"GET http://localhost/logs HTTP/1.1\r\nHost: example.org\r\n\r\n", 200,
            ),
            "an empty line before": (b"\r\n" + GET, 200),
            "lower case": (b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", 200),
            "HTTP/1.9": (b"GET /health HTTP/1.9\r\nHost: localhost\r\n\r\n", 200),
            "query without a path": (b"GET /?x HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        }.items():
            with self.subTest(name):
                self.assertEqual([answer.status for answer in self.talk(data)], [status])
        with self.subTest("HTTP/1.9 knows chunks"):
            data = b"GET /logs?limit=0 HTTP/1.9\r\nHost: localhost\r\n\r\n" + GET
            self.assertEqual([answer.status for answer in self.talk(data)], [200, 200])


class Connections(HTTPTest):
    def test_pipelined_requests_are_answered_in_order(self):
        requests = [post(b'{"message": "p%d"}' % n) for n in range(20)]
        answers = self.talk(b"".join(itertools.chain.from_iterable(zip(requests, [GET] * 20))))
        self.assertEqual([answer.status for answer in answers], [200] * 40)
        ids = [answer.json["first_id"] for answer in answers[::2]]
        self.assertEqual(ids, list(range(ids[0], ids[0] + 20)))
        sql = "SELECT message FROM logs WHERE message GLOB 'p[0-9]*' ORDER BY id"
        stored = self.server.sql(sql)
        self.assertEqual(stored, [(f"p{n}",) for n in range(20)])

    def test_what_is_no_request_is_refused_after_the_answers_before_it(self):
        for wrong in (b"a line with a NUL\0\r\n\r\n", b"nonsense\r\n\r\n", b"G" * 70_000):
            with self.subTest(wrong[:20]):
                answers = self.talk(post() * 3 + wrong)
                self.assertEqual([answer.status // 100 for answer in answers], [2, 2, 2, 4])

    def test_who_sends_on_and_reads_no_answer_holds_nobody_up_and_is_cut_off(self):
        unsent = bytearray(post() * 20_000)

        def is_cut_off() -> bool:
            # The server has not yet taken what was sent before.
            with contextlib.suppress(BlockingIOError):
                del unsent[: deaf.send(unsent)]
            began = time.monotonic()
            self.assertEqual(server.post({"message": "heard"}).status, 200)
            self.assertLess(time.monotonic() - began, 5)
            return False

        constants = {"SEND_SECONDS": 1, "SEND_BUFFER_BYTES": 16 << 10}
        with Server(constants=constants) as server, socket.socket() as deaf:
            # A hundred answers fit into what is left.
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            deaf.setblocking(False)
            with self.assertRaises(ConnectionError):
                eventually(is_cut_off, 120)

    def test_a_request_may_come_byte_by_byte(self):
        with Wire(self.server) as wire:
            for byte in post(RECORD) + chunked(chunk(RECORD), chunk(b"")):
                wire.send(bytes([byte]))
            self.assertEqual([wire.answer().status, wire.answer().status], [200, 200])

    def test_a_body_that_is_left_unread_is_never_read_as_a_request(self):
        length = b"Content-Length: %d\r\n" % len(HIDDEN)
        unknown = b"POST /logs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Token unknown\r\n"
        for name, (head, status) in {
            "401": (unknown, 401),
            "401, no token": (b"POST /logs HTTP/1.1\r\nHost: localhost\r\n", 401),
            "404": (b"POST /nothing HTTP/1.1\r\nHost: localhost\r\n", 404),
            "405": (b"PUT /logs HTTP/1.1\r\nHost: localhost\r\n", 405),
            "501": (b"BREW /logs HTTP/1.1\r\nHost: localhost\r\n", 501),
            "405, POST": (b"POST /health HTTP/1.1\r\nHost: localhost\r\n", 405),
            "421": (b"POST /logs HTTP/1.1\r\nHost: example.org\r\n", 421),
            "415": (POST + b"Content-Encoding: br\r\n", 415),
            "400, key": (POST + b"Idempotency-Key: " + MANY_KS + b"\r\n", 400),
            "417 or 200, expectation": (POST + b"Expect: the-unexpected\r\n", 200),
            "GET with a body": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", 200),
            "HEAD with a body": (b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n", 200),
            "200, its lines are text": (POST, 200),
        }.items():
            for kind, data in {
                "length": head + length + b"\r\n" + HIDDEN,
                "chunked": head
                + b"Transfer-Encoding: chunked\r\n\r\n"
                + chunk(HIDDEN)
                + chunk(b""),
            }.items():
                with self.subTest(name, body=kind), Wire(self.server) as wire:
                    wire.send(data + GET).end()
                    first = wire.answer(head[:4].decode().strip())
                    self.assertIn(
                        first.status, {status, 417} if "417" in name else {status}, first.text
                    )
                    rest = wire.answers()
                    self.assertLessEqual([answer.json for answer in rest], [{"status": "ok"}])

    def test_a_connection_serves_request_after_request(self):
        with Wire(self.server) as wire:
            for data, status in (
                (post(), 200),
                (post(b"{"), 422),
                (GET, 200),
                (post(b'{"message": ""}'), 422),
                (GET.replace(b"health", b"nothing"), 404),
                (chunked(chunk(RECORD), chunk(b"")), 200),
                (GET.replace(b"health", b"logs?limit=0"), 200),
                (GET, 200),
            ):
                answer = wire.send(data).answer()
                self.assertEqual((answer.status, answer.headers.get("connection")), (status, None))
            wire.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            self.assertEqual(
                [(a.status, a.headers["connection"]) for a in wire.answers()], [(200, "close")]
            )

    def test_http_1_0_is_answered_and_closed(self):
        self.server.post([{"message": "m"}] * 50)
        for path in ("/health", "/logs?limit=0", "/logs", "/"):
            with self.subTest(path), Wire(self.server) as wire:
                wire.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answers = wire.answers()
                self.assertEqual([answer.status for answer in answers], [200])
                self.assertNotIn("transfer-encoding", answers[0].headers)
                self.assertTrue(answers[0].json)
        with self.subTest("POST"):
            self.assertEqual(
                [a.status for a in self.talk(post().replace(b"HTTP/1.1", b"HTTP/1.0"))], [200]
            )
        with self.subTest("chunked, which HTTP/1.0 does not know"):
            self.assert_refused(
                chunked(chunk(HIDDEN), chunk(b"")).replace(b"HTTP/1.1", b"HTTP/1.0", 1), 400, 411
            )

    def test_head_is_get_without_the_body(self):
        number = self.server.post({"message": "m"}).json["first_id"]
        for path in (
            "/", "/logs", f"/logs/{number}", "/logs/0", "/stats", "/estadisticas", "/health",
            "/logs?limit=1", "/logs?limit=x", "/logs?format=csv", "/nothing",
        ):
            with self.subTest(path), Wire(self.server) as wire:
                wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                expected = wire.answer()
                wire.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() + GET)
                answer = wire.answer("HEAD")
                self.assertEqual(answer.status, expected.status)
                unlike = {
                    name
                    for name in expected.headers
                    if answer.headers.get(name) != expected.headers[name]
                }
                self.assertLessEqual(unlike, {"date"})
                self.assertEqual(wire.answer().json, {"status": "ok"})
        for path in ("/logs?limit=0", "/logs?follow=1", "/metrics"):
            with self.subTest(path), Wire(self.server) as wire:
                wire.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() + GET)
                self.assertEqual(wire.answer("HEAD").status, 200)
                self.assertEqual(wire.answer().json, {"status": "ok"})

    def test_expect_100_continue(self):
        expect = b"Expect: 100-Continue\r\nContent-Length: %d\r\n\r\n"
        with self.subTest("it is told to go on"), Wire(self.server) as wire:
            wire.send(POST + expect % len(RECORD))
            self.assertEqual(wire.answer().status, 100)
            self.assertEqual(wire.send(RECORD).answer().status, 200)
            self.assertEqual(wire.send(GET).answer().status, 200)
        with self.subTest("it does not wait"):
            self.assertEqual(self.talk(POST + expect % len(RECORD) + RECORD)[-1].status, 200)
        for name, (head, status) in {
            "no token": (b"POST /logs HTTP/1.1\r\nHost: localhost\r\n", 401),
            "encoding": (POST + b"Content-Encoding: br\r\n", 415),
        }.items():
            with self.subTest(name), Wire(self.server) as wire:
                wire.send(head + expect % len(RECORD))
                self.assertEqual([answer.status for answer in wire.answers()], [status])
        with self.subTest("too large"), Wire(self.server) as wire:
            wire.send(POST + expect % (11 * MIB))
            self.assertEqual([answer.status for answer in wire.answers()], [413])
        with self.subTest("HTTP/1.0 does not know it"):
            answers = self.talk(
                (POST + expect % len(RECORD)).replace(b"HTTP/1.1", b"HTTP/1.0") + RECORD
            )
            self.assertEqual([answer.status for answer in answers], [200])

    def test_a_refusal_is_read_even_by_who_is_still_sending(self):
        for name, head in {
            "401": b"POST /logs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            % (5 * MIB),
            "413": POST + b"Content-Length: %d\r\n\r\n" % (20 * MIB),
        }.items():
            with self.subTest(name), Wire(self.server) as wire:
                wire.send(head + bytes(5 * MIB))
                self.assertEqual([str(answer.status) for answer in wire.answers()], [name])

    def test_a_body_needs_a_length(self):
        self.assert_refused(POST + b"\r\n" + HIDDEN, 411)
        answers = self.talk(POST + b"Content-Length: 0\r\n\r\n" + GET)
        self.assertEqual([answer.status for answer in answers], [422, 200])

    def test_a_body_cut_off_is_not_stored(self):
        whole = b'[{"message": "cut 1"}, {"message": "cut 2"}]'
        lines = b'{"message": "cut 1"}\n{"message": "cut 2"}\n'
        for name, data in {
            "length": POST + b"Content-Length: 99\r\n\r\n" + whole,
            "chunks without the last": chunked(chunk(lines)),
            "in mid-chunk": chunked(b"ff\r\n" + lines),
            "last chunk without its end": chunked(chunk(lines), b"0\r\n"),
            "gzip": post(gzip.compress(lines)[:-8], b"Content-Encoding: gzip"),
            "deflate": post(zlib.compress(lines)[:-4], b"Content-Encoding: deflate"),
        }.items():
            with self.subTest(name):
                self.assertLessEqual({answer.status for answer in self.talk(data)}, {400, 408, 422})
                self.assertEqual(
                    self.server.sql("SELECT count(*) FROM logs WHERE message LIKE 'cut%'"), [(0,)]
                )


class Deadlines(unittest.TestCase):
    def test_who_is_slow_with_a_request_gets_408_and_who_does_not_read_is_cut_off(self):
        with Server() as server:
            server.post([{"message": "x" * 10_000}] * 800)
            # A whole request must come in this time too, on a busy machine.
            server.constants = {"HEADER_SECONDS": 1, "REQUEST_SECONDS": 1, "SEND_SECONDS": 0.1}
            server.restart()
            unfinished = (
                b"GET / HTTP/1.1\r\nHost: loc",
                POST + b"Content-Length: 99\r\n\r\n{",
                POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
            )
            wires = [Wire(server).send(data) for data in unfinished]
            for data, slow in zip(unfinished, wires):
                with self.subTest(data), slow as wire:
                    answer = wire.answer()
                    assert answer
                    self.assertEqual((answer.status, answer.headers["connection"]), (408, "close"))
            # A busy machine may take longer to notice who does not read.
            answers = map(functools.partial(self.read_late, server), (0.7, 3, 15))
            cut_off = any(not answer.endswith(b"0\r\n\r\n") for answer in answers)
            self.assertTrue(cut_off, "it waits on, or half an answer looks whole")

    def read_late(self, server: Server, seconds: float) -> bytes:
        """What comes of an answer of 8 MB of which nothing is read for so many seconds."""
        received = b""
        with socket.socket() as deaf, contextlib.suppress(ConnectionError):
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(20)
            deaf.connect(("127.0.0.1", server.port))
            deaf.sendall(b"GET /logs?limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(seconds)
            while not received.endswith(b"0\r\n\r\n") and (piece := deaf.recv(1 << 20)):
                received += piece
        self.assertTrue(received.startswith(b"HTTP/1.1 200"), received[:100])
        return received

    def test_connections_past_the_bound_get_503_and_a_place_that_is_free_is_taken(self):
        with Server(constants={"MAX_CONNECTIONS": 2}) as server, Wire(server) as one:
            one.send(GET).answer()
            with Wire(server) as two:
                self.assertEqual(two.send(GET).answer().status, 200)
                with Wire(server) as three:
                    answer = three.answer()
                    self.assertEqual((answer.status, answer.headers["connection"]), (503, "close"))
                    self.assertIn("retry-after", answer.headers)
            eventually(lambda: server.get("/health").status == 200)


class Sizes(HTTPTest):
    def test_the_bound_on_a_body_counts_what_it_becomes(self):
        limit = RECORD.ljust(10 * MIB)
        over = RECORD.ljust(10 * MIB + 1)
        for name, (body, status) in {
            "10 MiB": (limit, 200),
            "10 MiB and a byte": (over, 413),
        }.items():
            for encoding, encoded in {
                "identity": body,
                "gzip": gzip.compress(body, 1),
                "x-gzip": gzip.compress(body, 1),
                "deflate": zlib.compress(body, 1),
                "raw deflate": zlib.compress(body, 1, -15),
                "gzip of two members": gzip.compress(body[:999], 1) + gzip.compress(body[999:], 1),
            }.items():
                with self.subTest(name, encoding=encoding):
                    answer = self.server.post(
                        encoded, Content_Encoding=encoding.split(" of")[0].split()[-1]
                    )
                    self.assertEqual(answer.status, status, answer.text)
                    if status == 413:
                        self.assertIn("10 MiB", answer.json["error"])
            with self.subTest(name, encoding="chunked"):
                halves = chunk(body[:999]), chunk(body[999:]), chunk(b"")
                self.assertEqual(
                    [answer.status for answer in self.talk(chunked(*halves))], [status]
                )

    def test_a_decompression_bomb_is_refused_before_it_is_large(self):
        member = gzip.compress(bytes(64 * MIB))
        bombs = {
            "one": member,
            "many in a row": member * 16,
            "deflate": zlib.compress(bytes(64 * MIB)),
        }
        # What is lawful.
        self.server.post(gzip.compress(RECORD.ljust(10 * MIB)), Content_Encoding="gzip")
        forget_peak(self.server)
        before = peak_mib(self.server)
        for name, bomb in bombs.items():
            with self.subTest(name):
                began = seconds_at_work(self.server)
                answer = self.server.post(
                    bomb, Content_Encoding="deflate" if name == "deflate" else "gzip"
                )
                self.assertEqual(answer.status, 413)
                self.assertLess(seconds_at_work(self.server) - began, 1)
        self.assertLess(peak_mib(self.server) - before, 60)

    def test_a_body_that_does_not_decompress_is_refused(self):
        good = gzip.compress(RECORD)
        for name, (body, encoding) in {
            "not gzip": (RECORD, "gzip"),
            "not deflate": (b"\xff" * 50, "deflate"),
            "wrong check sum": (good[:-8] + bytes(8), "gzip"),
            "garbage after it": (good + b"garbage", "gzip"),
            "a preset dictionary": (zlib_with_dictionary(RECORD), "deflate"),
        }.items():
            with self.subTest(name):
                self.assertEqual(self.server.post(body, Content_Encoding=encoding).status, 422)
        began = seconds_at_work(self.server)
        members = gzip.compress(b"") * (MIB // 20)
        self.assertEqual(self.server.post(members, Content_Encoding="gzip").status, 422)
        self.assertLess(seconds_at_work(self.server) - began, 1, "s for a MiB of empty members")


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
        handler.command, handler.request_version = "GET", "HTTP/1.1"
        handler.unread = handler.close_connection = False
        handler.wfile, handler.server = io.BytesIO(), mock.Mock()
        handler.server.app.stopping.is_set.return_value = False
        with self.assertLogs(module.log, "ERROR"), self.assertRaises(ConnectionAbortedError):
            handler.send(module.Response(200, pieces=pages()))
        self.assertTrue(handler.wfile.getvalue().endswith(b"4\r\nhalf\r\n"))

    # A value of blanks with a letter behind it: to strip it must not take the square of its length.
    BLANKS = b"A: y" + b" " * 16_377 + b"x\r\n"

    def assert_cheap_and_alone(self, data: bytes) -> None:
        """What is sent is refused for its size, within a second of work, and others are served."""
        slowest = 0.0
        began = seconds_at_work(self.server)
        with Wire(self.server) as wire:
            sender = threading.Thread(target=wire.send, args=[data])
            sender.start()
            for _ in range(20):
                asked = time.monotonic()
                self.assertEqual(self.server.get("/health").status, 200)
                slowest = max(slowest, time.monotonic() - asked)
            sender.join()
            answer = wire.end().answer()
        assert answer
        self.assertEqual((answer.status, answer.headers["connection"]), (431, "close"))
        self.assertLess(slowest, 5, "s that another request took, whatever else the machine does")
        self.assertLess(seconds_at_work(self.server) - began, 1, "s of work")

    def test_headers_of_blanks_cost_no_more_than_their_length(self):
        self.assert_cheap_and_alone(POST + self.BLANKS * 98 + b"\r\n")

    def test_trailers_of_blanks_cost_no_more_than_their_length(self):
        self.assert_cheap_and_alone(chunked(chunk(RECORD), b"0\r\n", self.BLANKS * 98, b"\r\n"))
        # One of them is taken.
        answers = self.talk(chunked(chunk(RECORD), b"0\r\n", self.BLANKS, b"\r\n") + GET)
        self.assertEqual([answer.status for answer in answers], [200, 200])

    def test_a_head_has_64_kib_at_most_and_so_do_trailers(self):
        room = (64 << 10) - len(post(RECORD, b"X: ")) + len(RECORD)
        for extra, status in ((0, 200), (1, 431)):
            with self.subTest("head", extra=extra):
                answers = self.talk(post(RECORD, b"X: " + b"a" * (room + extra)))
                self.assertEqual([answer.status for answer in answers], [status])
            with self.subTest("trailers", extra=extra):
                trailers = b"X: " + b"a" * ((64 << 10) - len(b"X: \r\n\r\n") + extra) + b"\r\n"
                answers = self.talk(chunked(chunk(RECORD), b"0\r\n", trailers, b"\r\n"))
                self.assertEqual([answer.status for answer in answers], [status])

    @unittest.skipUnless(pathlib.Path("/proc/net/tcp").exists(), "this system does not tell")
    def test_unfinished_heads_on_many_connections_are_held_in_64_kib_each(self):
        connections = 200
        line = b"A: " + b"b" * 16_379 + b"\r\n"
        for name, lines in {"as long as a head may be": 3, "a megabyte": 60}.items():
            with self.subTest(name), Server() as server, contextlib.ExitStack() as stack:
                wires = [stack.enter_context(Wire(server)) for _ in range(connections)]
                for wire in wires:  # Each has its thread and its buffers from here on.
                    wire.send(GET).answer()
                before = proc(server, "VmRSS")
                for wire in wires:
                    wire.send(GET.removesuffix(b"\r\n") + line * lines + b"X: y")
                eventually(lambda: bytes_under_way(server) == 0)
                grown = proc(server, "VmRSS") - before
                self.assertLess(grown / connections, 64, "KiB for each connection")

    def test_keys_that_differ_in_one_byte_are_two_keys(self):
        keys = [name.encode("latin-1") for name in ("envío-á", "envío-ó")]
        answers = [self.talk(post(RECORD, b"Idempotency-Key: " + key))[0] for key in keys]
        self.assertEqual([answer.status for answer in answers], [200, 200], answers)
        self.assertNotIn("idempotent-replayed", answers[1].headers)
        self.assertNotEqual(answers[0].json["first_id"], answers[1].json["first_id"])
        again = self.talk(post(RECORD, b"Idempotency-Key: " + keys[0]))[0]
        self.assertEqual(again.headers.get("idempotent-replayed"), "true")
        self.assertEqual(again.json, answers[0].json)


def bytes_under_way(server: Server) -> int:
    """Bytes that were sent to the server and that it has not read, by the kernel's account."""
    port = f":{server.port:04X}"
    total = 0
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, queues, *_ = line.split()
        sent, received = (int(size, 16) for size in queues.split(":"))
        total += received if here.endswith(port) else sent if there.endswith(port) else 0
    return total


def zlib_with_dictionary(data: bytes) -> bytes:
    compressor = zlib.compressobj(zdict=b"message")
    return compressor.compress(data) + compressor.flush()


def form(message: str, arguments: str, exception: str = "None") -> bytes:
    """What logging.handlers.HTTPHandler would post."""
    fields = {
        "msg": message,
        "args": arguments,
        "levelname": "INFO",
        "levelno": "20",
        "exc_info": exception,
    }
    return urllib.parse.urlencode(fields).encode()


def fill(piece: bytes, opening: bytes = b"", closing: bytes = b"") -> bytes:
    """As many pieces as a body may hold."""
    return opening + piece * ((10 * MIB - len(opening) - len(closing)) // len(piece)) + closing


class HostileBodies(HTTPTest):
    """Each is answered within a few seconds, in bounded memory. What must be refused is;
    the rest may be stored."""

    def assert_survives(self, body: bytes, *statuses: int, mib: int, seconds: float = 3) -> Answer:
        forget_peak(self.server)
        began = seconds_at_work(self.server)
        answer = self.server.post(body)
        spent = seconds_at_work(self.server) - began
        self.assertIn(answer.status, statuses, answer.text[:500])
        self.assertLess(spent, seconds, "s")
        self.assertLess(peak_mib(self.server), mib, "MiB")
        self.assertLess(len(answer.body), 100_000)
        return answer

    def test_json_that_is_nested_deep(self):
        for name, body in {
            "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
            "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            "100,000 deep in an attribute": b'{"message":"m","a":'
            + b"[" * 100_000
            + b"]" * 100_000
            + b"}",
            "10 MiB of [": fill(b"["),
            '10 MiB of {"a":': fill(b'{"a":'),
            "10 MiB of [{": fill(b"[{"),
        }.items():
            with self.subTest(name):
                self.assert_survives(body, 413, 422, mib=200)

    def test_what_is_as_deep_as_it_may_be_is_stored_read_and_searched(self):
        def nested(depth: int) -> bytes:
            return b'{"message":"deep","a":%b1%b}' % (b'{"a":' * depth, b"}" * depth)

        # 64 KiB of attributes have no room for more.
        depths = [*range(0, 1200, 20), 2000, 5000, 9000, 12_000]
        deepest = max(depth for depth in depths if self.server.post(nested(depth)).status == 200)
        self.assertGreaterEqual(deepest, 20)
        self.assertEqual(self.server.get("/logs?contains=deep&limit=1").status, 200)
        self.assertEqual(self.server.get("/logs?attr.b=1").json, [])
        self.assertEqual(self.server.get("/logs?contains=deep&limit=0&format=csv").status, 200)

    def test_numbers(self):
        for name, (body, statuses) in {
            "a million digits": (b'{"message":"m","n":' + b"1" * 1_000_000 + b"}", (422,)),
            "a million digits after the point": (
                b'{"message":"m","n":1.' + b"1" * 1_000_000 + b"}", (200, 422),
            ),
            "a million digits as a time": (
                b'{"message":"m","ts":"' + b"1" * 1_000_000 + b'"}', (422,),
            ),
            "a million digits as a level": (
                b'{"message":"m","level":"' + b"1" * 1_000_000 + b'"}', (422,),
            ),
            "NaN": (b'{"message":"m","n":NaN}', (422,)),
            "Infinity": (b'{"message":"m","n":[{"a":-Infinity}]}', (422,)),
            "beyond a double": (b'{"message":"m","n":1e999}', (422,)),
            "a huge exponent": (b'{"message":"m","n":1e999999999999}', (422,)),
            "NaN as a time": (b'{"message":"m","ts":NaN}', (422,)),
            "Infinity as a time": (b'{"message":"m","ts":Infinity}', (422,)),
            "beyond 64 bits as a time": (b'{"message":"m","ts":1' + b"0" * 40 + b"}", (200,)),
            "a huge level": (b'{"message":"m","level":1' + b"0" * 40 + b"}", (200,)),
            "beyond 64 bits": (b'{"message":"m","n":1' + b"0" * 40 + b"}", (200,)),
        }.items():
            with self.subTest(name):
                self.assert_survives(body, *statuses, mib=200)

    def test_text_that_is_no_unicode_and_keys_given_twice(self):
        for name, (body, message, attributes) in {
            "a lone surrogate": (b'{"message":"a\\ud800b"}', "a\ufffdb", {}),
            "a surrogate in a key": (
                b'{"message":"m","\\udfff":"\\ud800"}', "m", {"\ufffd": "\ufffd"},
            ),
            "a pair": (b'{"message":"\\ud83d\\ude00"}', "😀", {}),
            "a pair the wrong way round": (b'{"message":"\\ude00\\ud83d"}', "\ufffd\ufffd", {}),
            "NUL": (b'{"message":"a\\u0000b"}', "a\0b", {}),
            "a key twice": (b'{"message":"one","message":"two","k":1,"k":2}', "two", {"k": 2}),
        }.items():
            with self.subTest(name):
                number = self.server.post(body).json["first_id"]
                record: dict[str, Json] = self.server.get(f"/logs/{number}").json
                self.assertEqual((record["message"], record["attributes"]), (message, attributes))

    def test_ten_mib_of_little_things(self):
        many = 600
        for name, (body, statuses, mib) in {
            "a million tiny records": (
                fill(b'{"log":"a"},', b"[", b'{"log":"a"}]'), (200, 413, 422), many,
            ),
            "objects in a row": (fill(b"{}"), (413, 422), many),
            "arrays in a row": (fill(b"[]"), (413, 422), many),
            "one record of many attributes": (
                b'{"message":"m",' + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}",
                (413, 422),
                many,
            ),
            "surrogates": (fill(b"\\ud800", b'{"message":"', b'"}'), (422,), 300),
            "form": (fill(b"a=b&"), (413, 422), many),
        }.items():
            with self.subTest(name):
                self.assert_survives(body, *statuses, mib=mib)
        check_database(self, self.server)

    def test_forms_of_the_standard_library_do_what_they_say_and_no_more(self):
        for name, body in {
            "a width of 200 million": form("%200000000d", "(1,)"),
            "a width from the arguments": form("%*d", "(200000000, 1)"),
            "a precision of 200 million": form("%.200000000f", "(1.5,)"),
            "a width of 200 million behind a name with parentheses": form(
                "%(a(b)c)200000000d", "{'a(b)c': 1}"
            ),
            "names without an end": form("%(" * 100_000, "(1,)"),
            "a width of 999 many times over": form("%(a)999s" * 20_000, "{'a': 1}"),
            "arguments many times over": form("%(a)s" * 3000, repr({"a": "x" * 100_000})),
            "parentheses": form("%s", "(" * 300_000),
            "signs": form("%s", "-" * 300_000 + "1"),
            "a long sum": form("%s", "1+" * 300_000 + "1"),
            "a long list": form("%s", "[" + "1," * 300_000 + "]"),
            "an exception that is almost one": form(
                "m", "()", "(<class 'a'>, " + "'>, , <" * 20_000
            ),
            "code": form("%s", "__import__('os')._exit(1)"),
        }.items():
            with self.subTest(name):
                self.assert_survives(body, 200, 422, mib=400)

    def test_long_values_of_every_field(self):
        for field in (
            "timestamp", "severity", "level", "service", "attributes", "message", "id",
            "received_at", "x",
        ):
            for name, value in {
                "digits": "1" * 1_000_000,
                "dashes": "1-" * 500_000,
                "colons": "2026-11-24T" + "1:" * 500_000,
                "spaces": " " * 1_000_000,
                "brackets": "[" * 1_000_000,
                "colours": "\x1b[31m" * 200_000,
                "a word and blanks": "Tue" + " " * 1_000_000,
            }.items():
                with self.subTest(field, value=name):
                    body = json.dumps({"message": "m", field: value}).encode()
                    self.assert_survives(body, 200, 403, 413, 422, mib=300)


class HostileQueries(HTTPTest):
    VALUES = (  # percent signs go out as they are
        *("' OR 1=1 --", '" OR 1=1 --', "1); DELETE FROM logs; --", "'; DROP TABLE logs; --"),
        "' UNION SELECT 1 --",
        *("%00", "%FF", "a%00b", "%", "%zz", "%u0041", "%ED%A0%80", "%22", "+", "\\", "é", "_"),
        *("$", "[0]", "a.b"),
        *("?1", "-1", "9" * 30, "1e9", "0x10", "1_000", "٣", "NaN", "x" * 2000, "2026-13-45"),
        "0000-00-00",
        *("9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59"),
    )
    NAMES = (
        *("severity", "min_severity", "service", "timestamp_start", "timestamp_end"),
        *("received_at_start", "since"),
        *("received_at_end", "contains", "order", "limit", "cursor", "format", "follow", "after"),
        *("step", "attr.k"),
        *("attr.", "attr", "attr.k'", 'attr.k"', "attr.%00", "attr.$", "attr.[0]", "attr.%FF", ""),
        *("'", "%00", "%"),
    )
    NUMBERS = (
        *("1'", "0x1", "-1", "+1", "1_0", "9" * 30, "%00", "1%00", "%FF", "%31%30%30%30%30", "١"),
        *("1.0", "a" * 2000),
        *("..", "%2e%2e", "%", "%zz"),
    )

    def test_every_parameter_takes_every_value_or_refuses_it(self):
        self.server.post([{"message": f"m{n}", "k": n} for n in range(20)])
        with Wire(self.server) as wire:
            for path, name, value in itertools.product(
                ("/logs", "/stats"), self.NAMES, self.VALUES
            ):
                query = (
                    f"{urllib.parse.quote(name, safe='%')}={urllib.parse.quote(value, safe='%')}"
                )
                with self.subTest(path, query=query[:200]):
                    answer = wire.send(
                        f"GET {path}?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                    ).answer()
                    self.assertIsNotNone(answer)
                    self.assertIn(answer.status, {200, 400}, answer.text)
                    if answer.status == 400:
                        self.assertEqual(set(answer.json), {"error", "hint"})
        self.assertEqual(self.server.get("/stats").json["total"], 20)
        check_database(self, self.server)

    def test_a_cursor_that_was_made_up_is_taken_or_refused(self):
        big = 1 << 70
        for text in (
            "", "x", "1:2", ":", "a:b", "1:2:3", "-1:-1", f"{big}:1", f"1:{big}", "٣:٣", "1_0:1",
            "1.5:1",
        ):
            with self.subTest(text):
                cursor = urllib.parse.quote(base64.urlsafe_b64encode(text.encode()))
                self.assertIn(self.server.get(f"/logs?cursor={cursor}").status, {200, 400})

    def test_there_is_no_record_under_a_made_up_number(self):
        for text in self.NUMBERS:
            with self.subTest(text[:50]):
                answer = self.server.get(f"/logs/{urllib.parse.quote(text, safe='%')}")
                self.assertEqual((answer.status, set(answer.json)), (404, {"error", "hint"}))

    def test_very_many_parameters(self):
        for name, query in {
            "400 filters": "&".join(f"attr.k{n}=1" for n in range(400)),
            "one 400 times": "&".join(["severity=ERROR"] * 400),
            "600 severities": "severity=" + ",".join(["ERROR"] * 600),
            "3,000 services": "service=" + ",".join(f"s{n}" for n in range(2000)),
            "ampersands": "&" * 8000,
            "semicolons": ";" * 8000,
        }.items():
            with self.subTest(name):
                began = seconds_at_work(self.server)
                self.assertIn(self.server.get(f"/logs?{query}").status, {200, 400, 414, 431})
                self.assertLess(seconds_at_work(self.server) - began, 1)


if __name__ == "__main__":
    unittest.main()
