"""Thousands of requests that are almost right, over raw connections, from a seed that is told when
a test fails.

A longer run, of so many requests, and with another seed:

    LOG_SERVER_FUZZ=1000000 LOG_SERVER_FUZZ_SEED=7 python -m unittest tests.test_fuzz
"""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import re
import unittest
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Callable

from tests.load import Wire, check_database, peak_mib, proc
from tests.support import OTHER_TOKEN, SHIPPER, TOKEN, Server, eventually

REQUESTS = int(os.environ.get("LOG_SERVER_FUZZ", "2000"))
SEED = int(os.environ.get("LOG_SERVER_FUZZ_SEED", "20261124"))

BODIES = (
    b'{"message": "one"}',
    (
        b'[{"message": "a", "severity": "ERROR", "k": [1, 2.5, null, {"x": "y"}]},'
        b' {"msg": "b", "level": 30, "ts": 17954}]'
    ),
    (
        b'{"message": "a"}\n{"message": "b", "timestamp": "2026-11-24T02:14:12.123456+01:00"}\n'
        b'\n{"log": "c"}\n'
    ),
    b'{"logs": [{"message": "m", "attributes": {"user": "bob"}}, {"message": ""}]}',
    b"msg=%25s+rows&args=%283%2C%29&levelname=INFO&levelno=20&exc_info=None",
    '{"message": "café 😀 \\ud83d\\ude00", "service": "app"}'.encode(),
    (
        b'{"resourceLogs": [{"resource": {},'
        b' "scopeLogs": [{"logRecords": [{"body": {"stringValue": "m"}}]}]}]}'
    ),
)
QUERIES = (
    "/logs?severity=ERROR,CRITICAL&limit=5",
    "/logs?min_severity=WARNING&service=app&order=asc&limit=3&format=csv",
    "/logs?contains=a&since=2h&attr.user=bob&format=ndjson",
    "/logs?timestamp_start=2026-11-24T02:14:12Z&timestamp_end=2026-11-25&received_at_start=1795486",
    "/logs?limit=0&after=100000000",
    "/stats?step=1h&severity=INFO",
    "/estadisticas?received_at_end=1795486452",
    "/logs/1",
    "/health",
    "/metrics",
    "/",
)
# What breaks parsers.
PIECES = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"/", b"?", b"&", b"=", b"%", b"%00"),
    *(b"%FF", b"#", b'"'),
    *(b"'", b"\\", b"{", b"}", b"[", b"]", b"[" * 200, b"{" * 200, b"null", b"true", b"NaN"),
    *(b"-Infinity", b"1e999"),
    *(b"9" * 400, b"-1", b"0x1"),
    *(b"\\ud800", b"\\u0000", b"\xff", b"\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", "é".encode()),
    "\u2028".encode(),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"Content-Length: 5\r\n"),
    b"Transfer-Encoding: chunked\r\n",
    *(b"\r\n\r\n", b"0\r\n\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n"),
    b"Content-Encoding: gzip\r\n",
    *(b"Idempotency-Key: k\r\n", b"%s", b"%(a)s", b"%n", b"../", b"<script>", b"' OR 1=1 --"),
    *(b"message", b"timestamp"),
    *(b"attributes", b"A" * 5000),
)


class Fuzzer:
    """Makes requests out of a seed: a right one, then some mutations, or none."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def request(self) -> tuple[bytes, bool]:
        """A request, and whether it ends where it says that it does."""
        make = self.random.choice((self.post, self.post, self.get))
        data = make()
        return (self.mutated(data), False) if self.random.random() < 0.4 else (data, True)

    def mutated(self, data: bytes) -> bytes:
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 8))):
            data = self.random.choice(MUTATIONS)(self, data)
        return data

    def place(self, data: bytes) -> int:
        return self.random.randrange(len(data) + 1)

    def get(self) -> bytes:
        path = self.random.choice(QUERIES).encode()
        if self.random.random() < 0.5:
            path = urllib.parse.quote(self.mutated(path), safe="/?&=,.:%+'\"").encode()
        method = self.random.choice(
            (b"GET", b"GET", b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"get", b"PATCH")
        )
        return b"%b %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method, path)

    def post(self) -> bytes:
        body = self.random.choice(BODIES)
        if self.random.random() < 0.5:
            body = self.mutated(body)
        token = self.random.choice(
            (*[TOKEN] * 12, *[OTHER_TOKEN] * 6, *[SHIPPER] * 4, "unknown", "")
        )
        path = "/v1/logs" if body.startswith(b'{"resource') else "/logs"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Token {token}\r\n".encode()
        )
        if self.random.random() < 0.2:
            head += b"Idempotency-Key: %d\r\n" % self.random.randrange(50)
        encoding, encode = self.random.choice(ENCODINGS)
        if encoding:
            head += b"Content-Encoding: %b\r\n" % encoding
            body = encode(body)
            if self.random.random() < 0.2:
                body = self.mutated(body)
        if self.random.random() < 0.3:
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + self.chunks(body)
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

    def chunks(self, body: bytes) -> bytes:
        data = b""
        while body:
            size = self.random.randrange(1, len(body) + 1)
            data += b"%x\r\n%b\r\n" % (size, body[:size])
            body = body[size:]
        return data + b"0\r\n\r\n"

    # Mutations

    def insert(self, data: bytes) -> bytes:
        at = self.place(data)
        return data[:at] + self.random.choice(PIECES) + data[at:]

    def replace(self, data: bytes) -> bytes:
        at = self.place(data)
        return data[:at] + self.random.choice(PIECES) + data[at + self.random.randrange(1, 9) :]

    def delete(self, data: bytes) -> bytes:
        at = self.place(data)
        return data[:at] + data[at + self.random.randrange(1, 30) :]

    def cut(self, data: bytes) -> bytes:
        return data[: self.place(data)]

    def double(self, data: bytes) -> bytes:
        at, end = sorted((self.place(data), self.place(data)))
        return data[:end] + data[at:end] * self.random.choice((1, 1, 1, 50)) + data[end:]

    def flip(self, data: bytes) -> bytes:
        changed = bytearray(data or b"x")
        for _ in range(self.random.randrange(1, 6)):
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def line(self, data: bytes) -> bytes:
        """Doubles, moves or drops a line."""
        lines = data.split(b"\r\n")
        line = lines.pop(self.random.randrange(len(lines)))
        for _ in range(self.random.randrange(3)):
            lines.insert(self.random.randrange(len(lines) + 1), line)
        return b"\r\n".join(lines)

    def number(self, data: bytes) -> bytes:
        """Changes a digit, as those of a length."""
        places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
        if not places:
            return data
        at = self.random.choice(places)
        return (
            data[:at]
            + self.random.choice((b"0", b"9", b"-1", b"99999999999", b"_", b" ", b""))
            + data[at + 1 :]
        )


MUTATIONS: tuple[Callable[[Fuzzer, bytes], bytes], ...] = (
    *(Fuzzer.insert, Fuzzer.replace, Fuzzer.delete, Fuzzer.cut, Fuzzer.double, Fuzzer.flip),
    *(Fuzzer.line, Fuzzer.number),
)
ENCODINGS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    *([(b"", bytes)] * 12),
    *((b"gzip", gzip.compress), (b"gzip", gzip.compress), (b"deflate", zlib.compress)),
    (b"br", bytes),
)


class Client:
    """Sends requests to a server, and adds up what it answers."""

    def __init__(self, server: Server):
        self.server = server
        self.kept = Wire(server)
        self.statuses: Counter[int] = Counter()
        self.accepted = 0  # records that answers of POST /logs say were stored
        self.otlp = 0  # records stored by POST /v1/logs, whose answer does not say how many

    def send(self, data: bytes, is_framed: bool) -> None:
        """Sends a request whose end is where it says on a connection that stays;
        any other on one of its own."""
        before = self.newest() if b"/v1/logs" in data else 0
        for part in [self.keep(data)] if is_framed else self.spend(data):
            status = int(part[9:12])
            self.statuses[status] += 1
            found = re.search(rb'^\{"accepted":(\d+),"rejected"', part, re.MULTILINE)
            if found and b"Idempotent-Replayed" not in part:
                self.accepted += int(found[1])
            explained = data[:4].upper() == b"HEAD" or b'\r\n\r\n{"error":"' in part
            assert status < 400 or (status != 500 and explained), part
        if b"/v1/logs" in data:
            self.otlp += self.newest() - before

    def newest(self) -> int:
        return self.server.sql("SELECT ifnull(max(id), 0) FROM logs")[0][0]

    def keep(self, data: bytes) -> bytes:
        """Sends on the connection that stays; the one answer."""
        answer = self.kept.send(data).answer("HEAD" if data[:4].upper() == b"HEAD" else "GET")
        assert answer, "no answer"
        if answer.headers.get("connection") == "close":
            self.kept.close()
            self.kept = Wire(self.server)
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        return f"HTTP/1.1 {answer.status}\r\n{head.title()}\r\n".encode() + answer.body

    def spend(self, data: bytes) -> list[bytes]:
        """Sends on a connection of its own, to its end;
        the answers, however many it takes for requests."""
        with Wire(self.server) as wire, contextlib.suppress(ConnectionError):
            received = wire.send(data).end().reader.read()
            return re.split(rb"^(?=HTTP/1\.1 \d{3} [A-Z])", received, flags=re.MULTILINE)[1:]
        return []


class Fuzz(unittest.TestCase):
    def test_requests_that_are_almost_right_stop_nothing_and_lose_nothing(self):
        fuzzer = Fuzzer(SEED)
        with Server() as server:
            client = Client(server)
            for number in range(REQUESTS):
                data, is_framed = fuzzer.request()
                try:
                    client.send(data, is_framed)
                except Exception as error:
                    self.fail(f"seed {SEED}, request {number}: {error!r} after {data[:3000]!r}")
            client.kept.close()
            self.assertEqual([line for line in server.errors if "unexpected" in line], [])
            self.assertGreater(client.statuses[200], REQUESTS / 6, client.statuses)
            self.assertGreater(
                client.statuses[400] + client.statuses[422], REQUESTS / 8, client.statuses
            )
            self.assertEqual(server.post({"message": "still there"}).status, 200)
            self.assertEqual(
                server.sql("SELECT count(*) FROM logs"), [(client.accepted + client.otlp + 1,)]
            )
            self.assertEqual(server.get("/stats").json["total"], client.accepted + client.otlp + 1)
            self.assertGreater(client.otlp, REQUESTS / 50)
            records = server.get("/logs?limit=0").json
            self.assertEqual(
                len(records),
                client.accepted + client.otlp + 1,
                "what was stored can't be read back",
            )
            check_database(self, server)
            eventually(lambda: proc(server, "Threads") < 10, why="threads stay")
            self.assertLess(peak_mib(server), 200)


if __name__ == "__main__":
    unittest.main()
