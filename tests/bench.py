"""How fast the server is: ratios and percentiles, measured side by side in one run.

    python tests/bench.py                     every figure, in about two minutes
    python tests/bench.py --rows 10000000     the same with a large store: 3 GB, 15 minutes
    python tests/bench.py --keep FOLDER       leaves the filled stores there, and uses them again
    python tests/bench.py --only queries      some figures; may be repeated
    python tests/bench.py --short             only shows that the benchmark itself works

Each line of the table is a figure, its goal, what was measured, and "met" or "MISSED". The exit
status says nothing of that: it is 0 when everything could be measured.

What makes a figure worth something:

- The server is a process of its own, started as a user starts it, with everything switched on. This
  process is the client: one thread, requests that are complete bytes before the clock starts,
  connections that are reused, answers taken apart no further than needed.
- A figure is compared with another of the same run, in rounds that alternate (A B A B), and the
  median of the rounds counts: a machine that is busy with other things slows both.
- Every answer must be 200, and after each load the store must hold exactly as many records as the
  answers accepted. Fast and wrong is an error here, not a figure.

What it does not show: a network, a cold disk cache, more cores than the machine has. Client and
server share these; on two cores, a server that keeps one busy leaves the other to the client.

Sections: 1. Figures, 2. Records and requests, 3. The client, 4. Servers and stores, 5. Writing,
6. Reading, 7. Memory, start, disk, 8. Ideas, 9. Main.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import gc
import http.client
import http.server
import itertools
import json
import math
import os
import pathlib
import platform
import re
import secrets
import selectors
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
import types
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that the file runs by its name, and not only as a module

import server as module  # noqa: E402  # needs that path
from tests.load import Follower  # noqa: E402
from tests.support import SHIPPER, Server  # noqa: E402

# The goals
SINGLE_RATIO = 0.7  # of what a server that does nothing answers, at 64 connections
BATCH_RATIO = 1.0  # of raw executemany, in batches of 1,000 over two connections
PARSE_US = 3.0  # a record, from the object that JSON gave to what a store takes
BESIDE_READERS_RATIO = 0.5  # of the batch rate without readers
PAGE_MS = 5.0  # p99 of a page of 100 records
STATS_MS = 20.0  # p99
GROWTH = 2.0  # times the median of the smallest store
MEMORY_MIB = 100.0
START_SECONDS = 0.5
START_GROWTH = 1.5  # times the start with an empty store
SCAN_SECONDS = 12.0  # the server's deadline for a query is 10 s

ANSWER_SECONDS = 120.0  # to wait for one answer; longer than any deadline of the server
QUERY_SECONDS = 10.0  # to spend on the repetitions of one query
RECEIVE_BYTES = 1 << 18
FILL_BATCH = 5000  # records: 1.2 MB, well under the limit of a body


# ---------------------------------------------------------------- 1. Figures


class Figure(NamedTuple):
    """One line of the table; `met` is None where there is no goal."""

    name: str
    goal: str
    measured: str
    met: bool | None = None


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest rank: the smallest value that at least `percent` of the values do not exceed.

    >>> percentile([5, 1, 4, 2, 3], 50), percentile(range(1, 101), 99), percentile([7], 99)
    (3, 99, 7)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def compact(value: float) -> str:
    """A number as people say it.

    >>> compact(7), compact(1234.5), compact(100_000), compact(10_000_000)
    ('7', '1,234', '100k', '10M')
    """
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if value >= 10 * size or (value >= size and value % size == 0):
            return f"{value / size:.0f}{letter}"
    return f"{value:,.0f}"


def ratio(name: str, ours: Sequence[float], other: Sequence[float], goal: float | None) -> Figure:
    """The median of our rates per second to that of the others; it should be high.

    >>> ratio("a", [5000, 6000, 1000], [8000, 10_000], 0.7)
    Figure(name='a', goal='>= 0.7', measured='0.56 (5k/s to 9k/s)', met=False)
    """
    a, b = statistics.median(ours), statistics.median(other)
    goal_text, met = (f">= {goal}", a / b >= goal) if goal else ("", None)
    return Figure(name, goal_text, f"{a / b:.2f} ({compact(a)}/s to {compact(b)}/s)", met)


def at_most(name: str, value: float | None, goal: float, unit: str, note: str = "") -> Figure:
    """A size or a time that should be low; None: this system cannot tell it.

    >>> at_most("a", 12.34, 100.0, "MiB", "all")
    Figure(name='a', goal='<= 100 MiB', measured='12.34 MiB (all)', met=True)
    """
    if value is None:
        return Figure(name, f"<= {goal:g} {unit}", "skipped: this system has no /proc")
    return Figure(
        name,
        f"<= {goal:g} {unit}",
        f"{value:.2f} {unit}" + (f" ({note})" if note else ""),
        value <= goal,
    )


def print_row(*cells: str) -> None:
    """One row of the table, which is Markdown too."""
    padded = (cell.ljust(width) for cell, width in zip(cells, (58, 12, 62, 6), strict=True))
    print(f"| {' | '.join(padded)} |", flush=True)


def progress(text: str) -> None:
    """Tells a terminal, on stderr, what takes long; the table alone is on stdout."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- 2. Records and requests

START = datetime(2026, 1, 1)  # noqa: DTZ001  # UTC, as a record without an offset is
MONTH = timedelta(days=30)

# Half of the records are of one service. "search" never has an ERROR, though both are common. No
# record is CRITICAL, and ten of a store are of the service "rare".
SERVICES = ["payments"] * 10 + ["orders"] * 4 + ["users"] * 3 + ["chat"] * 2 + ["search"]
SEVERITIES = ["DEBUG"] * 5 + ["INFO"] * 12 + ["WARNING"] * 2 + ["ERROR"]
MESSAGES = (
    "Payment {n} of customer {a} authorised by the bank after {b} ms, card ending in {c}",
    "Order {n} could not be reserved: {b} units of item {a} are left in the store of region {c}",
    "User {a} signed in from a browser not seen before, session {n}, challenge passed in {b} ms",
    "Conversation {n} was handed over to agent {a} after {b} s in the queue, {c} are waiting",
    "Query {n} for 'winter boots size {c}' gave {a} results from {b} shards, out of the cache",
    "GET /api/v2/customers/{a}/invoices/{n} answered 200 in {b} ms, {c} bytes, upstream web-03",
    "Retrying delivery of event {n} to https://hooks.partner-{c}.example/in, attempt {a} in {b} s",
)


@functools.cache
def rest_of_record(kind: int, service: str = "") -> str:
    """What follows the timestamp in the JSON of a record, with %d for the record's number;
    4,200 kinds differ."""
    service = service or SERVICES[kind % 20]
    severity = SEVERITIES[kind // 20 % 20]
    if service == "search" and severity == "ERROR":
        severity = "INFO"
    a, b, c = kind * 7919 % 90_000 + 10_000, kind * 31 % 900, kind * 17 % 90 + 10
    message = MESSAGES[kind % 7].format(n="%d", a=a, b=b, c=c)
    attributes = (
        f', "attributes": {{"user": "u{a}", "duration_ms": {b}, "region": "eu-west-{c % 4}"}}'
    )
    text = f', "service": "{service}", "severity": "{severity}", "message": "{message}"'
    return text + (attributes if kind % 3 == 0 else "") + "}"


def records(count: int, span: timedelta, rare: int = 0) -> Iterator[str]:
    """JSON texts of records spread evenly over a span, nearly in order; `rare` of them of the
    service "rare".

    >>> [json.loads(text)["timestamp"] for text in records(3, timedelta(seconds=3))]
    ['2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:01.007919Z', '2026-01-01T00:00:02.015838Z']
    >>> [json.loads(text)["service"] for text in records(4, MONTH, rare=2)].count("rare")
    2
    """
    step, gap = span / count, count // rare if rare else count + 1
    for number in range(count):
        stamp = START + number * step + timedelta(microseconds=number * 7919 % 50_000)
        rest = rest_of_record(
            number * 1009 % 4200, "rare" if number % gap == gap // 2 and rare else ""
        )
        yield f'{{"timestamp": "{stamp.isoformat(timespec="microseconds")}Z"{rest % number}'


# The headers of every request.
CLIENT = "Host: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n"


def post(body: str, key: str = "") -> bytes:
    """A whole POST /logs, with the headers that a small client sends."""
    key_line = f"Idempotency-Key: {key}\r\n" if key else ""
    # The length of the text is that of the body, which is ASCII.
    head = (
        f"POST /logs HTTP/1.1\r\n{CLIENT}Authorization: Token {SHIPPER}\r\n{key_line}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode("ascii")


def get(path: str) -> bytes:
    """A whole GET."""
    return f"GET {path} HTTP/1.1\r\n{CLIENT}\r\n".encode()


def posts(texts: Iterable[str], size: int, keys: bool = False) -> Iterator[bytes]:
    """The records in POSTs of `size` each, with an Idempotency-Key each if wanted; a single one is
    no array.

    >>> [request.partition(b"\\r\\n\\r\\n")[2] for request in posts(["1", "2", "3"], 2)]
    [b'[1,2]', b'[3]']
    """
    rest = iter(texts)
    for number in itertools.count():
        if not (some := list(itertools.islice(rest, size))):
            return
        yield post(
            some[0] if size == 1 else f"[{','.join(some)}]", f"bench-{number}" if keys else ""
        )


# ---------------------------------------------------------------- 3. The client

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
NEXT_PAGE = re.compile(rb'\r\nlink: *<([^>]*)>; *rel="?next', re.IGNORECASE)


class Answer(NamedTuple):
    """One HTTP answer; `head` ends with the last header."""

    status: int
    head: bytes
    body: bytes


def parse(received: bytearray) -> Answer | None:
    """The answer, or None while it is not whole. Nothing may follow it: one request at a time.

    A chunked body is kept as it came, and whole once its last chunk is there: no JSON contains CR
    LF.

    >>> parse(bytearray(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{"))
    >>> parse(bytearray(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}"))
    Answer(status=200, head=b'HTTP/1.1 200 OK\\r\\nContent-Length: 2', body=b'{}')
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end])
    length = CONTENT_LENGTH.search(head)
    whole = (
        len(received) >= end + 4 + int(length[1]) if length else received.endswith(b"\r\n0\r\n\r\n")
    )
    return Answer(int(head[9:12]), head, bytes(received[end + 4 :])) if whole else None


class Connection:
    """A connection that stays open, with one request under way at most."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.started = 0.0  # when the request under way was
        self.accepted = 0  # records
        self.waits: list[float] = []  # seconds from a request to its whole answer

    def ask(self, request: bytes) -> Answer:
        """Sends one request and waits for its answer, whatever its status."""
        self.socket.sendall(request)
        while not (answer := self.receive()):
            pass
        return answer

    def read(self, path: str) -> Answer:
        """The answer to a GET. Raises RuntimeError unless it is 200."""
        return must_be_200(self.ask(get(path)))

    def receive(self) -> Answer | None:
        """Takes what has arrived; gives the answer once it is whole."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError(
                f"the server closed a connection after {bytes(self.received[:200])!r}"
            )
        self.received += data
        if answer := parse(self.received):
            self.received.clear()
        return answer

    def go_on(self, feed: Iterator[bytes], ready: int) -> int:
        """Does what the socket, which does not block, is ready for (0: begins); returns what to
        wait for next.

        Takes the next request from the feed as soon as it has an answer, and returns 0 where there
        is none.
        """
        answer = self.receive() if ready & selectors.EVENT_READ else None
        if answer:
            self.waits.append(time.perf_counter() - self.started)
            if must_be_200(answer).body.startswith(b'{"accepted"'):
                self.accepted += int(json.loads(answer.body)["accepted"])
        if answer or not ready:
            if (request := next(feed, None)) is None:
                return 0
            self.unsent = memoryview(request)
            self.started = time.perf_counter()
        if self.unsent:
            with contextlib.suppress(BlockingIOError):  # its buffer is full
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.unsent else 0)


def must_be_200(answer: Answer) -> Answer:
    """The answer again, or RuntimeError."""
    if answer.status != 200:
        raise RuntimeError(f"{answer.head.decode()} {answer.body[:500].decode()}")
    return answer


@contextlib.contextmanager
def connected(port: int, count: int) -> Iterator[list[Connection]]:
    """So many open connections, each of which the server has already answered once."""
    connections = [Connection(port) for _ in range(count)]
    try:
        for connection in connections:
            connection.read("/health")
        yield connections
    finally:
        for connection in connections:
            connection.socket.close()


def drive(
    connections: Sequence[Connection], feeds: Sequence[Iterator[bytes]], seconds: float
) -> float:
    """Keeps all connections busy from their feeds; returns the seconds up to the last answer.

    Each takes from its feed, which may be shared, as soon as it has its answer, until the seconds
    are over or the feed is at its end. What is under way then is waited for.
    """
    begin = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for connection, feed in zip(connections, feeds, strict=True):
            in_time = itertools.takewhile(lambda _: time.perf_counter() < begin + seconds, feed)
            connection.socket.setblocking(False)
            if events := connection.go_on(in_time, 0):
                selector.register(connection.socket, events, (connection, in_time))
        while selector.get_map():
            ready = selector.select(ANSWER_SECONDS)
            if not ready:
                raise TimeoutError(f"no answer within {ANSWER_SECONDS} s")
            for key, events in ready:
                connection, in_time = key.data
                wanted = connection.go_on(in_time, events)
                if not wanted:
                    selector.unregister(connection.socket)
                elif wanted != key.events:
                    selector.modify(connection.socket, wanted, key.data)
    return time.perf_counter() - begin


class Load(NamedTuple):
    """What a load on the server came to."""

    accepted: int  # records
    rate: float  # records/s
    longest: float  # seconds that one request waited


def write(port: int, requests: Iterable[bytes], count: int, seconds: float = math.inf) -> Load:
    """Sends the requests over `count` connections, each once, for so many seconds at most."""
    feed = iter(requests)
    with connected(port, count) as connections:
        taken = drive(connections, [feed] * count, seconds)
    return load_of(connections, taken)


def load_of(connections: Sequence[Connection], taken: float) -> Load:
    """What these connections wrote in so many seconds."""
    accepted = sum(connection.accepted for connection in connections)
    return Load(
        accepted,
        accepted / taken,
        max(wait for connection in connections for wait in connection.waits),
    )


# ---------------------------------------------------------------- 4. Servers and stores


class DoNothing(http.server.BaseHTTPRequestHandler):
    """The standard library's handler with no work of its own: what a server built on it could
    reach.

    Its answer leaves in one `send`: the best that it can do, for two would meet Nagle's algorithm.
    """

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    answer = (
        b'{"accepted": 1, "rejected": 0, "first_id": 1000000, "last_id": 1000000, "errors": []}'
    )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Silent."""


class DoNothingServer(http.server.ThreadingHTTPServer):
    """Takes 64 clients that come at once; the stock queue of 5 would reset some."""

    request_queue_size = 256


@contextlib.contextmanager
def do_nothing_server() -> Iterator[int]:
    """The port of such a server, in a process of its own."""
    command = [sys.executable, __file__, "--serve-nothing"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def serve_nothing() -> None:
    """What that process does, until it is terminated."""
    server = DoNothingServer(("127.0.0.1", 0), DoNothing)
    print(server.server_port, flush=True)
    server.serve_forever()


def serve(folder: pathlib.Path, **constants: int) -> Server:
    """The server on the store of that folder, with bounds for retention that it never reaches."""
    retention = {"max_age_days": 36_500, "max_size_mb": 1 << 20}
    return Server(folder, retention=retention, constants=constants, as_script=not constants)


def count_of(database: pathlib.Path) -> int:
    """The records in a store, by a connection past the server."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM logs").fetchone()[0])


def check(server: Server, accepted: int) -> None:
    """Raises RuntimeError unless the store holds exactly what was accepted,
    and /stats says so too."""
    stored, told = count_of(server.database), server.get("/stats").json["total"]
    if not accepted == stored == told:
        raise RuntimeError(
            f"accepted {accepted} records, but {stored} are stored and /stats says {told}"
        )


def fill(folder: pathlib.Path, rows: int) -> None:
    """Makes a store of so many records over a month, through the server,
    so that its counts are right."""

    def told(requests: Iterable[bytes]) -> Iterator[bytes]:
        for number, request in enumerate(requests):
            progress(f"filling: {number * FILL_BATCH:,} of {rows:,} records")
            yield request

    with serve(folder) as server:
        check(
            server,
            write(server.port, told(posts(records(rows, MONTH, rare=10), FILL_BATCH)), 2).accepted,
        )
    progress("")


@dataclass
class Bench:
    """How much to measure, and where the stores are."""

    folder: pathlib.Path
    sizes: tuple[int, ...]  # records of the stores that are read, the smallest first
    rounds: int  # of which the median counts
    seconds: float  # that writing lasts in a round, at most
    live: int  # records to write in a round, at most
    repetitions: int  # of each query

    def store(self, rows: int) -> pathlib.Path:
        """The folder of a store of so many records; filled when it is not there yet."""
        folder = self.folder / f"store-{rows}"
        if not (folder / "logs.db").exists() or count_of(folder / "logs.db") != rows:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            fill(folder, rows)
        return folder

    @contextlib.contextmanager
    def scratch(self) -> Iterator[pathlib.Path]:
        """An empty folder, on the disk of the stores, for a while."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="scratch-") as name:
            yield pathlib.Path(name)

    def requests(self, size: int, keys: bool = False) -> list[bytes]:
        """The records of one round of writing, one a millisecond, in POSTs of that size."""
        return list(posts(records(self.live, timedelta(milliseconds=self.live)), size, keys))

    def write(self, requests: Iterable[bytes], connections: int) -> Load:
        """One round of writing, to a server with an empty store."""
        with self.scratch() as folder, serve(folder) as server:
            load = write(server.port, requests, connections, self.seconds)
            check(server, load.accepted)
        return load


# ---------------------------------------------------------------- 5. Writing


def singles(bench: Bench) -> Iterator[Figure]:
    """POSTs of one record each, and the same to a server that does nothing."""
    for connections, keys in ((1, False), (8, False), (64, False), (64, True)):
        requests = bench.requests(1, keys)
        ours, nothing = [], []
        with do_nothing_server() as port:
            for _ in range(bench.rounds):
                nothing.append(write(port, requests, connections, bench.seconds).rate)
                ours.append(bench.write(requests, connections).rate)
        name = f"single records, {connections} connections" + ", each with a key" * keys
        yield ratio(name, ours, nothing, SINGLE_RATIO if connections == 64 else None)


def stored_rows(bench: Bench) -> tuple[str, list[tuple[Any, ...]]]:
    """An INSERT for the table of the records,
    and the rows of a round just as the server stores them."""
    with bench.scratch() as folder, serve(folder) as server:
        write(server.port, bench.requests(1000), 1)
        columns = [row[1] for row in server.sql("PRAGMA table_info(logs)")]
        rows = server.sql(f"SELECT {', '.join(columns)} FROM logs")
    return (
        f"INSERT INTO logs ({', '.join(columns)}) VALUES ({', '.join('?' for _ in columns)})",
        rows,
    )


# Those of the connection with which the server writes
SETTINGS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "wal_autocheckpoint = 4000",
    "cache_size = -16384",
)


def raw_rate(bench: Bench, insert: str, rows: list[tuple[Any, ...]], without: str = "") -> float:
    """Rows/s that one thread puts into the same schema by executemany,
    1,000 durable rows a transaction."""
    with (
        bench.scratch() as folder,
        contextlib.closing(sqlite3.connect(folder / "raw.db")) as connection,
    ):
        connection.isolation_level = None
        connection.executescript((ROOT / "schema.sql").read_text(encoding="utf-8"))
        for setting in SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        if without:
            connection.execute(f"DROP INDEX {without}")
        begin = time.perf_counter()
        for first in range(0, len(rows), 1000):
            connection.execute("BEGIN")
            connection.executemany(insert, rows[first : first + 1000])
            connection.execute("COMMIT")
        return len(rows) / (time.perf_counter() - begin)


def batches(bench: Bench) -> Iterator[Figure]:
    """Records/s in batches, and by raw executemany of the same rows into the same schema."""
    # Those with a goal have their baseline right before them.
    cases = [(1000, 2, False), (1000, 2, True)]
    cases += [
        case
        for case in itertools.product((10, 100, 1000, 5000), (1, 2, 8), (False,))
        if case not in cases
    ]
    requests = {(size, keys): bench.requests(size, keys) for size, _, keys in cases}
    insert, rows = stored_rows(bench)
    raw: list[float] = []
    ours: dict[tuple[int, int, bool], list[float]] = {case: [] for case in cases}
    for number, (case, rates) in itertools.product(range(bench.rounds), ours.items()):
        size, connections, keys = case
        progress(f"batches: round {number + 1} of {bench.rounds}, {size} x {connections}")
        if case in cases[:2]:
            raw.append(raw_rate(bench, insert, rows))
        rates.append(bench.write(requests[size, keys], connections).rate)
    progress("")
    for (size, connections, keys), rates in sorted(ours.items()):
        name = f"batches of {size}, {connections} connections" + ", each with a key" * keys
        yield ratio(name, rates, raw, BATCH_RATIO if (size, connections) == (1000, 2) else None)


def parsing(bench: Bench) -> Iterator[Figure]:
    """Microseconds that a record costs between the parser of JSON and the store."""
    gc.set_threshold(50_000)  # As the server has it: this process keeps far more objects.
    token = module.Token("secret", "shipper")
    body = f"[{','.join(records(1000, timedelta(hours=1)))}]"
    others = body.replace('"message"', '"msg"').replace('"severity"', '"level"')
    for name, text in (("our own names", body), ("names of other loggers", others)):
        taken = []
        for _ in range(20 * bench.rounds):
            fields = json.loads(text.replace('"timestamp"', '"time"') if text is others else text)
            began = time.perf_counter()
            for one in fields:
                module.parse_record(one, token)
            taken.append((time.perf_counter() - began) * 1e3)
        figure = at_most(f"a record to parse, {name}", statistics.median(taken), PARSE_US, "us")
        yield figure if text is body else figure._replace(goal="", met=None)


def readers(bench: Bench) -> Iterator[Figure]:
    """Two writers of batches of 1,000, alone and beside 8 readers that query without pause."""
    requests, queries = bench.requests(1000), [get(f"/logs?{query}") for query in QUERIES.values()]
    alone: list[Load] = []
    beside: list[Load] = []
    waits: list[float] = []
    for count in (0, 8) * bench.rounds:
        with bench.scratch() as folder:
            shutil.copytree(bench.store(bench.sizes[0]), folder / "store")
            with (
                serve(folder / "store") as server,
                connected(server.port, 2) as writers,
                connected(server.port, count) as others,
            ):
                feeds = [itertools.cycle(requests)] * 2  # one feed for both writers
                feeds += [itertools.cycle(queries[n:] + queries[:n]) for n in range(count)]
                load = load_of(writers, drive([*writers, *others], feeds, bench.seconds))
                check(server, bench.sizes[0] + load.accepted)
        (beside if count else alone).append(load)
        waits += [1000 * wait for reader in others for wait in reader.waits]
    name = "batches of 1000, 2 connections, beside 8 readers to alone"
    yield ratio(
        name, [load.rate for load in beside], [load.rate for load in alone], BESIDE_READERS_RATIO
    )
    pause, pause_alone = (1000 * max(load.longest for load in some) for some in (beside, alone))
    yield Figure(
        "longest wait of a writer beside 8 readers",
        "",
        f"{pause:.0f} ms (alone {pause_alone:.0f} ms)",
    )
    measured = f"p50 {percentile(waits, 50):.1f}, p99 {percentile(waits, 99):.1f} ms"
    yield Figure("queries of 8 readers beside 2 writers", "", measured)


# ---------------------------------------------------------------- 6. Reading

PAST = "timestamp_start=2026-01-03T10:17:31&timestamp_end=2026-01-10T09:12:05"  # 7 of 30 days
MONTH_BY_HOUR = "step=1h&timestamp_start=2026-01-01&timestamp_end=2026-01-30"
QUERIES = {
    "newest": "",
    "half": "service=payments",
    "rare": "service=rare",
    "no such service": "service=nobody",
    "ERROR": "severity=ERROR",
    "no CRITICAL": "severity=CRITICAL",
    "past": PAST,
    "half, ERROR": "service=payments&severity=ERROR",
    "half, no CRITICAL": "service=payments&severity=CRITICAL",
    "ERROR of a service without": "service=search&severity=ERROR",
    "half, past": f"service=payments&{PAST}",
    "rare, past": f"service=rare&{PAST}",
    "no CRITICAL, past": f"severity=CRITICAL&{PAST}",
    "half, ERROR, past": f"service=payments&severity=ERROR&{PAST}",
    "half, no CRITICAL, past": f"service=payments&severity=CRITICAL&{PAST}",
    "WARNING and worse": "min_severity=WARNING",
    "WARNING and worse, past": f"min_severity=WARNING&{PAST}",
    "two services, two severities": "service=rare,search&severity=WARNING,ERROR",
    "received before all": "received_at_end=2001-01-01",
    "received after all": "received_at_start=2101-01-01",
}
STATS = {
    "whole": "",
    "half": "service=payments",
    "rare": "service=rare",
    "ERROR": "severity=ERROR",
    "half, ERROR": "service=payments&severity=ERROR",
    "past": PAST,
    "half, ERROR, past": f"service=payments&severity=ERROR&{PAST}",
    "a month by the hour": MONTH_BY_HOUR,
    "half, a month by the hour": f"service=payments&{MONTH_BY_HOUR}",
    "ERROR, past, by the hour": f"severity=ERROR&step=1h&{PAST}",
    "all by the day": "step=1d",
}


def hundredth(connections: list[Connection], path: str) -> list[str]:
    """The paths of the hundredth page by store;
    where one has less, of the last page that is full in all."""
    full = paths = [path for _ in connections]
    for _ in range(100):
        heads = [
            connection.ask(get(path)).head
            for connection, path in zip(connections, paths, strict=True)
        ]
        links = [
            urllib.parse.urljoin(path, link[1].decode())
            for link in map(NEXT_PAGE.search, heads)
            if link
        ]
        if len(links) < len(connections):
            break
        full, paths = paths, links
    return full


def ask_in_turn(bench: Bench, connections: list[Connection], paths: list[str]) -> list[list[float]]:
    """The milliseconds of each answer by store, asking one store after the other, over and over.

    A query that the server stops with 503 has taken for ever; slow ones are not repeated as often.
    """
    taken: list[list[float]] = [[] for _ in connections]
    end = time.perf_counter() + QUERY_SECONDS
    for _ in range(bench.repetitions):
        for connection, path, times in zip(connections, paths, taken, strict=True):
            begin = time.perf_counter()
            answer = connection.ask(get(path))
            times.append(1000 * (time.perf_counter() - begin) if answer.status != 503 else math.inf)
            if answer.status != 503:
                must_be_200(answer)
        if time.perf_counter() > end:
            break
    return taken


def compare_stores(
    bench: Bench, name: str, variants: list[list[list[float]]], goal: float
) -> Figure:
    """p50/p99 of all variants by store; how much the largest store
    slows the variant that suffers most."""
    shown = []
    for rows, *times in zip(bench.sizes, *variants, strict=True):
        together = list(itertools.chain(*times))
        p99 = percentile(together, 99)
        shown.append(f"{compact(rows)} {percentile(together, 50):.1f}/{p99:.1f}")
    growth = max(percentile(taken[-1], 50) / percentile(taken[0], 50) for taken in variants)
    measured = f"{', '.join(shown)} ms, {growth:.1f} x"
    return Figure(name, f"{goal:g} ms, {GROWTH:g} x", measured, p99 <= goal and growth <= GROWTH)


@contextlib.contextmanager
def all_stores(bench: Bench) -> Iterator[list[Connection]]:
    """A connection to a server on each store, all running at once."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serve(bench.store(rows))) for rows in bench.sizes]
        yield [stack.enter_context(connected(server.port, 1))[0] for server in servers]


def queries(bench: Bench) -> Iterator[Figure]:
    """Pages of 100 records by every kind of filter:
    the first and the hundredth, newest and oldest first."""
    with all_stores(bench) as connections:
        for name, query in QUERIES.items():
            variants = []
            for path in (f"/logs?{query}&order=desc", f"/logs?{query}&order=asc"):
                for paths in ([path] * len(connections), hundredth(connections, path)):
                    variants.append(ask_in_turn(bench, connections, paths))
            yield compare_stores(bench, f"p50/p99 of a page: {name}", variants, PAGE_MS)


def stats(bench: Bench) -> Iterator[Figure]:
    """GET /stats without text filters."""
    with all_stores(bench) as connections:
        for name, query in STATS.items():
            taken = ask_in_turn(bench, connections, [f"/stats?{query}"] * len(connections))
            yield compare_stores(bench, f"p50/p99 of /stats: {name}", [taken], STATS_MS)


def contains(bench: Bench) -> Iterator[Figure]:
    """What no record has: all must be looked at, or the search is stopped with a hint."""
    rows = bench.sizes[-1]
    with serve(bench.store(rows)) as server:
        for path in ("/logs?contains=nowhere", "/stats?contains=nowhere", "/logs?attr.nobody=1"):
            begin = time.perf_counter()
            with connected(server.port, 1) as (connection,):
                answer = connection.ask(get(path))
            taken = time.perf_counter() - begin
            if answer.status != 503 or b'"hint"' not in answer.body:
                must_be_200(answer)
            note = (
                "503 with a hint" if answer.status == 503 else f"{compact(rows / taken)} records/s"
            )
            yield at_most(f"GET {path}, {compact(rows)} records", taken, SCAN_SECONDS, "s", note)
    yield scanners(bench)


def scanners(bench: Bench) -> Figure:
    """A text found nowhere, looked for on all processors: against one reader of the same store."""
    rates: tuple[list[float], list[float]] = ([], [])
    rows = bench.sizes[-1]
    folder = bench.store(rows)
    with (
        serve(folder, NARROW_IDS=1000) as many,  # A short run has few records.
        serve(folder, NARROW_IDS=1000, SCANNERS=1) as one,
        connected(many.port, 1) as (to_many,),
        connected(one.port, 1) as (to_one,),
    ):
        for _ in range(bench.rounds):
            for connection, measured in zip((to_many, to_one), rates, strict=True):
                begin = time.perf_counter()
                connection.ask(get("/stats?contains=nowhere"))  # 503 is the deadline's time.
                measured.append(rows / (time.perf_counter() - begin))
    return ratio(f"a text nowhere in {compact(rows)} records, against one reader", *rates, None)


# ---------------------------------------------------------------- 7. Memory, start, disk


def peak_mib(server: Server) -> float | None:
    """The most memory that the process has held so far, in MiB; None where there is no /proc."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status")
    return (
        int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
        if status.exists()
        else None
    )


def export(server: Server) -> int:
    """Reads all records as NDJSON, and counts them."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_SECONDS)
    connection.request("GET", "/logs?limit=0&format=ndjson&order=asc")
    answer, lines = connection.getresponse(), 0
    while data := answer.read(1 << 20):
        lines += data.count(b"\n")
    connection.close()
    return lines


def memory(bench: Bench) -> Iterator[Figure]:
    """The most that a server holds, each load on a process of its own."""
    for size, what in ((1, "single records"), (1000, "batches of 1000")):
        with bench.scratch() as folder, serve(folder) as server:
            check(server, write(server.port, bench.requests(size), 64, 2 * bench.seconds).accepted)
            yield at_most(f"memory, 64 connections, {what}", peak_mib(server), MEMORY_MIB, "MiB")
    folder, size_text = bench.store(rows := bench.sizes[-1]), compact(bench.sizes[-1])
    with serve(folder) as server, connected(server.port, 1) as (connection,):
        paths = [f"/logs?{query}" for query in QUERIES.values()]
        paths += [f"/stats?{query}" for query in STATS.values()]
        for path in paths:
            connection.ask(get(path))
        yield at_most(
            f"memory, each query, {size_text} records", peak_mib(server), MEMORY_MIB, "MiB"
        )
    with serve(folder) as server:
        begin = time.perf_counter()
        if (exported := export(server)) != rows:
            raise RuntimeError(f"exported {exported} of {rows} records")
        note = f"{compact(rows / (time.perf_counter() - begin))} records/s"
        yield at_most(
            f"memory, export of {size_text} records", peak_mib(server), MEMORY_MIB, "MiB", note
        )


def imports_of(source: str) -> str:
    """The imports of a program, as a program that does nothing else.

    >>> imports_of("from __future__ import annotations\\nimport a, b.c\\nfrom d import e\\nx = 1")
    'import a, b.c;from d import e'
    """
    found = [
        node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    return ";".join(
        ast.unparse(node) for node in found if getattr(node, "module", "") != "__future__"
    )


def seconds_of_python(program: str) -> float:
    """How long a Python process takes that runs only this."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - begin


def seconds_to_start(folder: pathlib.Path) -> float:
    """From the start of the server's process to its first answer of 200."""
    begin = time.perf_counter()
    with serve(folder) as server, connected(server.port, 1):
        return time.perf_counter() - begin


def startup(bench: Bench) -> Iterator[Figure]:
    """Seconds to the first answer, without a database and with a large one,
    beside those of Python itself."""
    full, size_text = bench.store(bench.sizes[-1]), compact(bench.sizes[-1])
    imports = imports_of((ROOT / "server.py").read_text(encoding="utf-8"))
    taken = []
    for _ in range(2 * bench.rounds + 1):
        with bench.scratch() as empty:
            python = seconds_of_python("pass"), seconds_of_python(imports)
            taken.append((*python, seconds_to_start(empty), seconds_to_start(full)))
    nothing, imported, empty_start, full_start = map(statistics.median, zip(*taken, strict=True))
    note = f"python -c pass {nothing:.2f} s, with the imports {imported:.2f} s"
    yield at_most("start, no database", empty_start, START_SECONDS, "s", note)
    yield at_most(f"start, {size_text} records", full_start, START_SECONDS, "s")
    yield at_most(
        f"start, {size_text} records to none", full_start / empty_start, START_GROWTH, "x"
    )


def used_bytes(connection: sqlite3.Connection) -> int:
    """The size of a database without its free pages."""
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
    return (pages - free) * size


def disk(bench: Bench) -> Iterator[Figure]:
    """Bytes a record; what each index takes of them, and what it costs on the way in."""
    for rows in bench.sizes:
        with contextlib.closing(sqlite3.connect(bench.store(rows) / "logs.db")) as connection:
            measured = f"{used_bytes(connection) / rows:.0f} bytes a record"
        yield Figure(f"disk, {compact(rows)} records", "", measured)
    insert, values = stored_rows(bench)
    rows = bench.sizes[-2]
    with bench.scratch() as folder:
        copy = shutil.copy(bench.store(rows) / "logs.db", folder / "copy.db")
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            names = connection.execute("""
                SELECT name FROM sqlite_master
                WHERE type = 'index' AND sql IS NOT NULL
                ORDER BY name
            """)
            for (name,) in names.fetchall():
                before = used_bytes(connection)
                connection.execute(f"DROP INDEX {name}")  # its pages are free then
                size = (before - used_bytes(connection)) / rows
                rates = [
                    raw_rate(bench, insert, values, left_out)
                    for left_out in ("", name) * bench.rounds
                ]
                cost = statistics.median(rates[::2]) / statistics.median(rates[1::2])
                measured = (
                    f"{size:.1f} bytes a record, raw inserts {cost:.2f} of the rate without it"
                )
                yield Figure(f"disk, index {name}, {compact(rows)} records", "", measured)


# ---------------------------------------------------------------- 8. Ideas


def microseconds(work: Callable[[], object], times: int = 1) -> float:
    """What a piece of work takes, that a call does so many times: the median of 20 calls."""
    return statistics.median(timeit.repeat(work, number=1, repeat=20)) * 1e6 / times


def ideas(bench: Bench) -> Iterator[Figure]:
    """What each idea of README's tour costs: in this process, without HTTP, or by one client."""
    with bench.scratch() as folder:
        config = module.load_config(ROOT / "config.json", store=str(folder / "logs.db"))
        store = module.SQLiteStore(config)
        try:
            yield from ideas_of_writing(store)
        finally:
            store.close()
    yield from ideas_of_reading(bench)
    yield from ideas_of_http()


def ideas_of_writing(store: module.SQLiteStore) -> Iterator[Figure]:
    """Group commit, exactly once, counts, retention."""
    keys = (secrets.token_bytes(32) for _ in itertools.count())
    record = module.Record(None, "payments", 20, "Payment authorised", '{"user":"bob"}')

    def write(batches: int, has_key: bool = False) -> None:
        some = [module.Batch([record], next(keys) if has_key else b"") for _ in range(batches)]
        store.write(some)

    alone = microseconds(lambda: write(1))
    together, keyed = (
        microseconds(lambda has_key=has_key: write(64, has_key), 64)  # type: ignore[misc]
        for has_key in (False, True)
    )
    measured = f"{alone:.0f} us a batch alone, {together:.0f} us where 64 share a commit"
    yield Figure("group commit", "", measured)
    with store.transaction() as db:
        rows = [(next(keys), next(keys), number, 1, number) for number in range(10_000)]
        [before] = db.execute("PRAGMA page_count").fetchone()
        module.insert_rows(db, module.INSERT_KEYS, rows)
        [after] = db.execute("PRAGMA page_count").fetchone()
    size = (after - before) * module.PAGE_BYTES / len(rows)
    measured = f"{keyed - together:.0f} us and {size:.0f} bytes a key"
    yield Figure("exactly once", "", measured)
    with store.transaction() as db:
        kinds = {(minute * module.MINUTE, "payments", 20): 1 for minute in range(100)}
        counted = microseconds(lambda: module.add_counts(db, kinds), 100)
    measured = f"{counted:.0f} us for each minute, service and severity of a commit"
    yield Figure("counts kept as records come", "", measured)
    store.write([module.Batch([record] * 50_000)])
    with store.transaction() as db:
        test = "id < (SELECT min(id) FROM logs) + ?"
        values = [module.UPKEEP_RECORDS]
        deleted = microseconds(lambda: module.delete_where(db, test, values))
    measured = f"{deleted / 1000:.0f} ms for a step of {module.UPKEEP_RECORDS:,} records"
    yield Figure("retention in small steps", "", measured)


def ideas_of_reading(bench: Bench) -> Iterator[Figure]:
    """Keyset paging, a search on all processors, live tail."""
    rows = bench.sizes[-1]
    folder = bench.store(rows)
    with serve(folder) as server, connected(server.port, 1) as connections:
        first = "/logs?limit=100"
        deep = hundredth(connections, first)[0]
        taken = [statistics.median(*ask_in_turn(bench, connections, [p])) for p in (first, deep)]
        measured = f"{taken[0]:.1f} ms the first page, {taken[1]:.1f} ms the hundredth"
        yield Figure("keyset paging", "", measured)
        [[*searches]] = ask_in_turn(bench, connections, ["/stats?contains=nowhere"])
        measured = f"{1000 * statistics.median(searches) / rows:.2f} us a record"
        yield Figure("a search on all processors", "", measured)
    with bench.scratch() as empty, serve(empty) as server, Follower(server, "limit=0") as follower:
        waits = []
        for number in range(1, 21):
            assert server.post({"message": "news"}).status == 200
            began = time.perf_counter()
            follower.wait(number)
            waits.append(1000 * (time.perf_counter() - began))
        measured = f"{statistics.median(waits):.0f} ms from a 200 to the follower"
        yield Figure("live tail without loss", "", measured)


def ideas_of_http() -> Iterator[Figure]:
    """Shares, framing, deadlines, protobuf."""
    times = 1000

    def each(work: Callable[[], object]) -> str:
        def repeat() -> None:
            for _ in range(times):
                work()

        return f"{microseconds(repeat, times):.1f} us"

    shares = module.Shares()
    held = each(lambda: shares.hold("a token", 100))
    yield Figure("backpressure", "", f"{held} for each piece of a body")
    head = post("x").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    yield Figure("framing", "", f"{each(lambda: module.parse_head(head))} a head")
    handler = types.SimpleNamespace()
    deadline = each(lambda: module.Handler.set_deadline(handler, 10))  # type: ignore[arg-type]
    yield Figure("deadlines for every wait", "", f"{deadline} a wait")
    text = module.write_field(1, b"Payment authorised")
    attribute = module.write_field(1, b"user") + module.write_field(2, text)
    data = module.write_field(5, text) + 3 * module.write_field(6, attribute)
    read = each(lambda: module.read_message("LogRecord", data, 0, len(data)))
    yield Figure("protobuf by hand", "", f"{read} a record of three attributes")


# ---------------------------------------------------------------- 9. Main

FIGURES: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    function.__name__: function
    for function in (
        singles, batches, parsing, readers, queries, stats, contains, memory, startup, disk,
        ideas,
    )
}


def plan(rows: int, only_check: bool, folder: pathlib.Path) -> Bench:
    """How much to measure: next to nothing, what two minutes allow,
    or at length once the store is large."""
    if only_check:
        return Bench(folder, (2000, 5000), rounds=1, seconds=0.05, live=2000, repetitions=1)
    sizes = (
        (*(size for size in (100_000, 1_000_000) if size < rows), rows)
        if rows > 100_000
        else (rows // 2, rows)
    )
    if rows < 1_000_000:
        return Bench(folder, sizes, rounds=3, seconds=0.4, live=50_000, repetitions=25)
    return Bench(folder, sizes, rounds=5, seconds=1.0, live=150_000, repetitions=200)


def machine() -> str:
    """Where and under which load the figures were taken."""
    load = f"load {os.getloadavg()[0]:.1f}, " if hasattr(os, "getloadavg") else ""
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return f"{platform.system()}, {os.cpu_count()} cores, {load}{versions}"


def run(bench: Bench, names: Iterable[str]) -> None:
    """Prints each figure as soon as it is there, and at the end which goals were missed."""
    print(
        machine() + (", too short to mean anything" if bench.repetitions == 1 else ""), end="\n\n"
    )
    print_row("figure", "goal", "measured", "")
    print_row("---", "---", "---", "---")
    shown = []
    for name in names:
        for figure in FIGURES[name](bench):
            print_row(*figure[:3], {True: "met", False: "MISSED", None: ""}[figure.met])
            shown.append(figure)
    missed = [figure.name for figure in shown if figure.met is False]
    met = sum(figure.met is True for figure in shown)
    print(f"\n{met} goals met, {len(missed)} missed. {machine()}")
    for name in missed:
        print(f"MISSED {name}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Measures the server; the head of this file explains how."
    )
    parser.add_argument(
        "--rows", type=int, default=300_000, help="records of the largest store (300000)"
    )
    parser.add_argument(
        "--only", action="append", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES)
    )
    parser.add_argument(
        "--keep", type=pathlib.Path, metavar="FOLDER", help="where the filled stores stay"
    )
    parser.add_argument("--short", action="store_true", help="only check that the benchmark works")
    parser.add_argument("--serve-nothing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_nothing:
        return serve_nothing()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = (arguments.keep or pathlib.Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        run(plan(arguments.rows, arguments.short, folder), arguments.only or FIGURES)
    return None


if __name__ == "__main__":
    main()
