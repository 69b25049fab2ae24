"""What the harder tests share: writers that retry, checks of a database, requests byte by byte.

    with Server() as server, Writers(server, 4) as writers:
        writers.wait_for(100)
        server.restart(signal.SIGKILL)
    writers.check(server)
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import socket
import threading
import time
import unittest
import uuid
from collections.abc import Callable

from tests.support import TOKEN, Answer, Json, Server, eventually, request

# Requests as bytes: a whole one, and one without its length and body.
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = f"POST /logs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Token {TOKEN}\r\n".encode()

# The rows that the table of counts must hold, worked out from the records.
COUNTS = """
    SELECT span, timestamp - (timestamp % span + span) % span AS start, service, severity,
           count(*) AS records
    FROM logs, (SELECT 60000000 AS span UNION SELECT 3600000000 UNION SELECT 86400000000)
    GROUP BY 1, 2, 3, 4
"""


def together(count: int, work: Callable[[int], Json]) -> list[Json]:
    """Runs work(0), work(1), ... at the same moment, each in a thread;
    raises what one of them raised."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Json:
        barrier.wait(30)
        return work(number)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def check_database(case: unittest.TestCase, server: Server) -> None:
    """The file is whole, and the counts are those of the records, for every minute, hour and day.

    All in one statement, so that it may be asked while the server writes.
    """
    case.assertEqual(server.sql("PRAGMA integrity_check"), [("ok",)])
    case.assertEqual(
        server.sql(f"SELECT * FROM ({COUNTS}) EXCEPT SELECT * FROM counts"), [], "not in counts"
    )
    case.assertEqual(
        server.sql(f"SELECT * FROM counts EXCEPT SELECT * FROM ({COUNTS})"), [], "only in counts"
    )


class Writers:
    """Threads that post small batches, with a pause of so many seconds, and repeat each, by its
    Idempotency-Key, until it has got its 200. Every message is another, so that what is lost or
    stored twice can be named."""

    def __init__(
        self, server: Server, threads: int, records: int = 3, pause: float = 0, **fields: Json
    ):
        self.server, self.records, self.pause, self.fields = server, records, pause, fields
        self.acknowledged: list[str] = []  # messages
        self.refusals: list[Answer] = []  # answers that were not 200
        self.broken = 0  # requests that got no answer
        self.slowest = 0.0  # s; of those that got 200
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[f"w{n}"], daemon=True) for n in range(threads)
        ]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Lets each thread finish its batch, for as long as it takes within reason."""
        self._stopping.set()
        deadline = time.monotonic() + 30
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        assert not any(thread.is_alive() for thread in self._threads), (
            "a writer did not get its batch stored"
        )

    def wait_for(self, more: int) -> None:
        """Returns when so many more records have been acknowledged."""
        goal = len(self.acknowledged) + more
        eventually(
            lambda: len(self.acknowledged) >= goal,
            30,
            lambda: f"only {len(self.acknowledged)} of {goal}",
        )

    def _run(self, name: str) -> None:
        connection = self.server.connection(10)
        number = 0
        while not self._stopping.is_set():
            number += 1
            messages = [f"{name}-{number}-{n}" for n in range(self.records)]
            body = json.dumps([{"message": message, **self.fields} for message in messages])
            headers = {"Authorization": f"Token {TOKEN}", "Idempotency-Key": str(uuid.uuid4())}
            while not self._send(connection, body, headers):
                time.sleep(0.02)
            self.acknowledged += messages
            if self.pause:
                self._stopping.wait(self.pause)
        connection.close()

    def _send(
        self, connection: http.client.HTTPConnection, body: str, headers: dict[str, str]
    ) -> bool:
        began = time.monotonic()
        try:
            answer = request(connection, "POST", "/logs", body, headers)
        except (OSError, http.client.HTTPException):
            connection.close()
            self.broken += 1
            return False
        if answer.status != 200:
            self.refusals.append(answer)
            return False
        assert answer.json["accepted"] == self.records, answer.text
        self.slowest = max(self.slowest, time.monotonic() - began)
        return True

    def check(self, case: unittest.TestCase) -> None:
        """Every acknowledged record is there exactly once, and nothing besides;
        the database is whole."""
        check_database(case, self.server)
        stored = [
            message
            for (message,) in self.server.sql(
                "SELECT message FROM logs WHERE message GLOB 'w*-*-*'"
            )
        ]
        case.assertEqual(sorted(stored), sorted(self.acknowledged))


class Follower:
    """A client of GET /logs?follow=1, whose lines are read by a thread of its own."""

    def __init__(self, server: Server, parameters: str):
        self.records: list[dict[str, Json]] = []
        self._news = threading.Condition()
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        self.connection.request("GET", f"/logs?follow=1&{parameters}")
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        self._socket = self.connection.sock
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError, http.client.HTTPException):
            for line in self.answer:
                if line.strip():
                    with self._news:
                        self.records.append(json.loads(line))
                        self._news.notify_all()

    def wait(self, count: int, seconds: float = 30) -> list[dict[str, Json]]:
        """The first `count` records, as soon as there are as many."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.records) >= count, seconds):
                raise AssertionError(
                    f"after {seconds:g} s only {len(self.records)} of {count} records"
                )
            return self.records[:count]

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self.connection.close()


class Wire:
    """A raw connection: what is sent is what the test says, byte by byte.

        wire = Wire(server)
        wire.send(b"GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        assert wire.answer().status == 200
    """

    def __init__(self, server: Server, timeout: float = 60):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout)
        self.reader = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.reader.close()
        self.socket.close()

    def send(self, data: bytes) -> Wire:
        """Sends as much as the server takes: it may refuse and close before the end."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)
        return self

    def end(self) -> Wire:
        """Tells the server that no more comes."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        return self

    def answer(self, method: str = "GET") -> Answer | None:
        """The next answer; None when the server has closed.
        An answer to HEAD has no body to read."""
        try:
            return self._read(method)
        except ConnectionError:
            return None

    def _read(self, method: str) -> Answer | None:
        line = self.reader.readline()
        if not line:
            return None
        version, status, _ = line.decode("latin-1").split(" ", 2)
        assert version == "HTTP/1.1", line
        headers: dict[str, str] = {}
        while (line := self.reader.readline()) != b"\r\n":
            assert line.endswith(b"\r\n"), line
            name, _, value = line.decode("latin-1").strip().partition(": ")
            headers[name.lower()] = value
        if method == "HEAD" or status in ("100", "204", "304"):
            body = b""
        elif "chunked" in headers.get("transfer-encoding", ""):
            body = self._read_chunks()
        else:
            body = self.reader.read(
                int(headers["content-length"]) if "content-length" in headers else -1
            )
            assert len(body) == int(headers.get("content-length", len(body))), (
                "the answer was cut short"
            )
        return Answer(int(status), headers, body)

    def _read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.reader.readline(), 16):
            chunks.append(self.reader.read(size))
            assert self.reader.read(2) == b"\r\n"
        assert self.reader.readline() == b"\r\n"
        return b"".join(chunks)

    def answers(self) -> list[Answer]:
        """All the answers until the server closes."""
        found = []
        while answer := self.answer():
            found.append(answer)
        return found


def proc(server: Server, name: str) -> int:
    """A number of the server's /proc/PID/status: "VmHWM" and "VmRSS" (KiB), "Threads".
    0 where there is none."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


def seconds_at_work(server: Server) -> float:
    """The processor time that the server has taken, whatever else the machine does; where the
    system does not tell, the time that has passed."""
    try:
        fields = (
            pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        )
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_peak(server: Server) -> None:
    """Lets VmHWM begin anew (https://docs.kernel.org/filesystems/proc.html, clear_refs)."""
    with contextlib.suppress(OSError):
        pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def peak_mib(server: Server) -> int:
    """The most memory that the server has had at a time, MiB; 0 where the system does not tell."""
    return proc(server, "VmHWM") // 1024


class Others:
    """A client that asks for /health again and again, as others work; `slowest` is its longest
    wait, in seconds that the server has worked meanwhile: the machine may do other things."""

    def __init__(self, server: Server):
        self.server = server
        self.slowest = 0.0
        self.failures: list[Answer] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Others:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    def _run(self) -> None:
        connection = self.server.connection()
        while not self._stopping.wait(0.01):
            began = seconds_at_work(self.server)
            answer = request(connection, "GET", "/health")
            self.slowest = max(self.slowest, seconds_at_work(self.server) - began)
            if answer.status != 200:
                self.failures.append(answer)
        connection.close()
