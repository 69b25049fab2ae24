"""Bad guests: hundreds that are idle, that dawdle, that never read, that vanish. Honest clients are
served meanwhile.

The deadlines are shortened, so that a test sees them pass.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import struct
import sys
import threading
import time
import unittest
import urllib.parse
from collections.abc import Iterator

import server as module
from tests.load import Wire, Writers, peak_mib, proc, seconds_at_work, together
from tests.support import TOKEN, Answer, Server, eventually

with contextlib.suppress(ImportError):  # Windows
    import resource

HOST = b"Host: localhost\r\n"
POST = b"POST /logs HTTP/1.1\r\n" + HOST + f"Authorization: Token {TOKEN}\r\n".encode()
EXPORT = b"GET /logs?limit=0 HTTP/1.1\r\n" + HOST + b"\r\n"
SHORT = {"IDLE_SECONDS": 3, "HEADER_SECONDS": 2, "REQUEST_SECONDS": 2, "SEND_SECONDS": 1}
# Runs a command with few file descriptors, and no way to get more.
FEW_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
os.execv(sys.argv[1], sys.argv[1:])
"""


def setUpModule() -> None:
    with contextlib.suppress(NameError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))


@contextlib.contextmanager
def connections(server: Server, number: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Opens as many connections, and sends the first bytes on each."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(number):
            connection = stack.enter_context(socket.socket())
            # Who never reads takes little.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(10)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(first)
            sockets.append(connection)
        yield sockets


@contextlib.contextmanager
def dawdling(sockets: list[socket.socket], text: bytes) -> Iterator[None]:
    """Sends on each connection one byte of the text a second, over and over."""
    stopping = threading.Event()

    def send() -> None:
        for byte in itertools.cycle(text):
            for connection in sockets:
                with contextlib.suppress(OSError):  # the server has had enough
                    connection.send(bytes([byte]))
            if stopping.wait(1):
                return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    stopping.set()
    thread.join(5)


def vanish(connection: socket.socket) -> None:
    """Closes at once, by a reset, as a client that was killed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def fill(server: Server, mib: int, record: dict[str, str]) -> None:
    """Stores so many MiB of copies of a record."""
    size = len(str(record))
    for _ in range(mib // 8):
        assert server.post([record] * ((8 << 20) // size)).status == 200


def ask(server: Server, path: str) -> tuple[float, Answer]:
    """The seconds that an answer took, and the answer."""
    began = time.monotonic()
    answer = server.get(path)
    return time.monotonic() - began, answer


class Latencies:
    """Reads again and again, and notes how long each answer took."""

    def __init__(self, server: Server, path: str = "/logs?limit=1"):
        self.seconds: list[float] = []
        self.others: list[Answer] = []  # answers that were not 200
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[server, path], daemon=True)

    def __enter__(self) -> Latencies:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(20)

    def _run(self, server: Server, path: str) -> None:
        while not self._stopping.wait(0.02):
            began = time.monotonic()
            answer = server.get(path)
            self.seconds.append(time.monotonic() - began)
            if answer.status != 200:
                self.others.append(answer)

    def check(self, case: unittest.TestCase, usual: float, most: float) -> None:
        """All were served; nineteen of twenty within `usual` seconds, and each within `most`."""
        case.assertEqual(self.others, [])
        case.assertGreater(len(self.seconds), 20)
        case.assertLess(sorted(self.seconds)[len(self.seconds) * 19 // 20], usual)
        case.assertLess(max(self.seconds), most)


class Guests(unittest.TestCase):
    def assert_quiet(self, server: Server, before: int) -> None:
        """The threads have come back, and nothing was unexpected."""
        eventually(lambda: proc(server, "Threads") <= before, 15, "threads stay")
        self.assertEqual([line for line in server.errors if "unexpected" in line], [])
        eventually(
            lambda: "logs_waiting_bytes 0\n" in server.get("/metrics").text,
            10,
            "bytes of bodies stay counted",
        )

    def test_hundreds_of_bad_guests_hold_nobody_up_and_are_shown_out(self):
        with Server(constants=SHORT) as server, contextlib.ExitStack() as stack:
            fill(server, 16, {"message": "x" * 10_000})
            server.restart()
            server.get("/logs?limit=1")
            threads = proc(server, "Threads")
            honest = (
                stack.enter_context(Writers(server, 2, pause=0.02)),
                stack.enter_context(Latencies(server)),
            )
            honest[0].wait_for(20)
            guests = functools.partial(connections, server)
            idle = stack.enter_context(guests(500))
            slow = [
                stack.enter_context(guests(50, first))
                for first in (b"GET /logs", b"GET / HTTP/1.1\r\nX: ")
            ]
            slow += [stack.enter_context(guests(50, POST + b"Content-Length: 9999\r\n\r\n"))]
            slow += [
                stack.enter_context(guests(50, POST + b"Transfer-Encoding: chunked\r\n\r\n5;"))
            ]
            stack.enter_context(
                dawdling([connection for group in slow for connection in group], b"a")
            )
            deaf = stack.enter_context(guests(50, EXPORT))
            eventually(
                lambda: proc(server, "Threads") > threads + 500 or sys.platform != "linux", 10
            )
            honest[0].wait_for(100)
            eventually(lambda: proc(server, "Threads") <= threads + 3, 60, "the guests stay")
            honest[0].stop()
            honest[1].__exit__()
            honest[1].check(self, usual=1, most=5)
            self.assertEqual((honest[0].refusals, honest[0].broken), ([], 0))
            self.assertLess(honest[0].slowest, 5)
            self.assertLess(peak_mib(server), 300)
            self.assertEqual(idle[0].recv(100), b"")
            self.assertEqual([group[0].recv(12) for group in slow], [b"HTTP/1.1 408"] * 4)
            self.assertEqual(deaf[0].recv(12), b"HTTP/1.1 200")
            with contextlib.suppress(ConnectionError):
                while piece := deaf[0].recv(1 << 20):
                    end = piece
            self.assertFalse(end.endswith(b"0\r\n\r\n"), "half an answer looks whole")
            self.assert_quiet(server, threads)

    def test_an_idle_connection_is_kept_for_a_minute_and_more(self):
        self.assertGreaterEqual(module.IDLE_SECONDS, 60)
        for name in ("HEADER_SECONDS", "REQUEST_SECONDS", "SEND_SECONDS", "QUERY_SECONDS"):
            self.assertLessEqual(getattr(module, name), 120, name)

    def test_a_client_that_vanishes_in_mid_body_or_mid_answer_leaves_nothing_behind(self):
        body = b'[{"message": "half"},' + b" " * 100_000
        with Server(constants={"HEARTBEAT_SECONDS": 1}) as server:
            fill(server, 8, {"message": "x" * 1000})
            server.get("/logs?limit=1")
            threads, records = proc(server, "Threads"), server.get("/stats").json["total"]
            for first in (
                POST + b"Content-Length: 999999\r\n\r\n" + body,
                POST + b"Transfer-Encoding: chunked\r\n\r\n20000\r\n" + body,
                POST + b"Content-Le",
                EXPORT,
                EXPORT.replace(b"limit=0", b"follow=1"),
                POST + b'Content-Length: 20\r\n\r\n{"message": "stored"}'[:-1],
            ):
                with self.subTest(first[:80]), connections(server, 6, first) as sockets:
                    for connection in sockets[:3]:
                        vanish(connection)
                    for connection in sockets[3:]:
                        connection.close()
                    self.assert_quiet(server, threads)
            stored = (
                server.sql("SELECT count(*) FROM logs WHERE message = 'half'"),
                server.get("/stats").json["total"],
            )
            self.assertEqual(stored, ([(0,)], records))

    def test_connections_are_bounded_and_past_the_bound_is_503(self):
        with Server(constants={"MAX_CONNECTIONS": 20}) as server:
            with contextlib.ExitStack() as stack:
                wires = [stack.enter_context(Wire(server)) for _ in range(20)]
                for wire in wires:
                    self.assertEqual(
                        wire.send(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n").answer().status, 200
                    )
                for first in (
                    b"",
                    b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n",
                    POST + b"Content-Length: 9\r\n\r\n",
                ):
                    with self.subTest(first), Wire(server) as wire:
                        answer = wire.send(first).answer()
                        self.assertEqual(
                            (answer.status, answer.headers["connection"]), (503, "close")
                        )
                        self.assertIn(int(answer.headers["retry-after"]), range(1, 10))
                        self.assertEqual(set(answer.json), {"error", "hint"})
                self.assertEqual(
                    wires[7].send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n").answer().status, 200
                )
            eventually(lambda: server.get("/health").status == 200, 5)

    @unittest.skipUnless(sys.platform == "linux", "needs a limit of its own")
    def test_where_file_descriptors_are_few_connections_are_fewer_still(self):
        with Server(wrapper=(sys.executable, "-c", FEW_FILES)) as server:
            server.post({"message": "before"})
            with connections(server, 300), Wire(server, timeout=5) as wire:
                self.assertEqual(wire.answer().status, 503)
            eventually(lambda: server.get("/logs").status == 200, 5)
            self.assertEqual(server.post({"message": "after"}).status, 200)

    def test_a_slow_query_is_stopped_at_its_deadline_and_does_not_slow_the_writers(self):
        with Server(constants={"QUERY_SECONDS": 0.4}) as server:
            for _ in range(12):  # To search them takes several times as long as is allowed.
                server.post([{"message": "a" * 260_000}] * 38)
            paths = [
                f"/logs?contains={urllib.parse.quote('a' * 900 + last)}"
                for last in ("b", "b", "é", "é")
            ]
            with Writers(server, 2, pause=0.02) as writers:
                writers.wait_for(30)
                before = len(writers.acknowledged)
                answers = together(4, lambda number: ask(server, paths[number]))
            self.assertEqual([answer.status for _, answer in answers], [503] * 4, answers[0])
            # So many are searched at a time. The others wait for as long, and are refused.
            stopped = [answer for _, answer in answers if "Narrow" in answer.json["hint"]]
            self.assertGreaterEqual(len(stopped), module.SCANNERS)
            for _, answer in answers:
                self.assertIn("retry-after", answer.headers)
            self.assertLess(max(seconds for seconds, _ in answers), 3)
            self.assertLess(writers.slowest, 2)
            self.assertGreater(len(writers.acknowledged) - before, 30)
            self.assertEqual(len(server.get("/logs?limit=5").json), 5, "the readers go on")

    def test_followers_cost_little(self):
        follow = b"GET /logs?follow=1 HTTP/1.1\r\n" + HOST + b"\r\n"
        with Server(constants={"HEARTBEAT_SECONDS": 1}) as server:
            server.post({"message": "first"})
            threads = proc(server, "Threads")
            with connections(server, 50, follow) as sockets:
                for connection in sockets:
                    self.assertEqual(connection.recv(12), b"HTTP/1.1 200")
                before = seconds_at_work(server)
                with Latencies(server) as latencies:
                    eventually(lambda: len(latencies.seconds) > 25)
                self.assertLess(
                    seconds_at_work(server) - before,
                    sum(latencies.seconds) + 25 * 0.02,
                    "a whole core",
                )
                latencies.check(self, usual=0.5, most=2)
            self.assert_quiet(server, threads + 1)


if __name__ == "__main__":
    unittest.main()
