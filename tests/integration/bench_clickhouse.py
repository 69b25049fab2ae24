"""SQLite against ClickHouse as the store, through the server's HTTP, side by side in one run.

    python tests/integration/bench_clickhouse.py                   200,000 records in each, a minute
    python tests/integration/bench_clickhouse.py --rows 5000000    a quarter of an hour, 2 GB
    python tests/integration/bench_clickhouse.py --clickhouse http://user:word@host:8123/database

Prints a table in Markdown: medians, of rounds that alternate between the two, so that a machine
that is busy with other things slows both. Without --clickhouse it starts the engine that the tests
use. The given database must have no table `logs` yet; the records stay in it.

Client, server and engine share one machine here. What a network and disks of their own change, it
cannot show.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import platform
import random
import statistics
import sys
import threading
import time
import unittest
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # so that the file runs by its name

from clickhouse import Engine  # type: ignore[import-not-found]  # noqa: E402

from tests.support import SHIPPER, Server  # noqa: E402

CONNECTIONS = 2
CLIENTS, SINGLES = 32, 320  # connections, and POSTs of one record in a round
BATCHES = (1_000, 10_000)  # records a POST
ROUNDS = 5  # that alternate
QUERY_ROUNDS = 15
DAYS = 5  # over which the records' timestamps are spread
START = datetime(2026, 6, 1, tzinfo=timezone.utc)
PATIENCE = 120  # seconds for one answer

SERVICES = ["pagos", "pedidos", "usuarios", "chat_atencion"]
SEVERITIES = ["DEBUG", "INFO", "INFO", "INFO", "INFO", "INFO", "WARNING", "WARNING", "ERROR"]


class Line(NamedTuple):
    """A line of the table."""

    figure: str
    unit: str
    values: list[float | None]  # SQLite's, ClickHouse's; None: stopped by the server's deadline


# ---------------------------------------------------------------- Records


def record(number: int, rows: int, chance: random.Random) -> dict[str, Any]:
    """One record: one in 50,000 is critical, one in 100,000 of a service that is rare."""
    moment = START + timedelta(days=DAYS) * (number / rows)
    return {
        "timestamp": moment.isoformat(timespec="microseconds"),
        "service": "informes" if number % 100_000 == 77 else chance.choice(SERVICES),
        "severity": "CRITICAL" if number % 50_000 == 11 else chance.choice(SEVERITIES),
        "message": f"request {chance.randrange(10**9)} of user {chance.randrange(10_000)}:"
        f" {chance.randrange(900)} ms",
        "user": f"u{chance.randrange(1000)}",
        "path": f"/api/v1/items/{chance.randrange(100_000)}",
    }


def bodies(first: int, last: int, size: int, rows: int) -> Iterator[bytes]:
    """The bodies of POSTs of `size` records each, numbers `first` to `last` of `rows`."""
    chance = random.Random(first)
    for start in range(first, last, size):
        yield json.dumps(
            [record(number, rows, chance) for number in range(start, min(last, start + size))]
        ).encode()


# ---------------------------------------------------------------- The client


def post_all(
    server: Server, prepared: list[bytes], connections: int = CONNECTIONS, keys: bool = False
) -> float:
    """Seconds to post all bodies, each with an Idempotency-Key if asked.
    Ends the program at any answer but 200."""
    left = iter(prepared)
    lock = threading.Lock()
    failures: list[str] = []

    def work() -> None:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
        while True:
            with lock:
                body = next(left, None)
            if body is None or failures:
                break
            headers = {"Authorization": f"Token {SHIPPER}"} | (
                {"Idempotency-Key": uuid.uuid4().hex} if keys else {}
            )
            connection.request("POST", "/logs", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                failures.append(f"{answer.status}: {text[:300]!r}")
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"a batch was not stored: {failures[0]}")
    return time.perf_counter() - began


def ask(server: Server, path: str) -> tuple[float | None, bytes]:
    """Milliseconds for one GET, on a connection that is there already;
    None where the server stopped the query."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    connection.connect()
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    took = (time.perf_counter() - began) * 1000
    connection.close()
    if answer.status not in (200, 503):
        raise SystemExit(f"{path}: {answer.status} {body[:300]!r}")
    return (took if answer.status == 200 else None), body


# ---------------------------------------------------------------- Measuring


def fill(servers: list[Server], rows: int) -> Iterator[Line]:
    """Writes `rows` records to each, the same share in batches of each size,
    in rounds that alternate."""
    share = max(rows // (len(BATCHES) * ROUNDS), *BATCHES)
    written = 0
    for size in BATCHES:
        rates: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            prepared = list(bodies(written, written + share, size, rows))
            written += share
            for server, own in zip(servers, rates, strict=True):
                own.append(share / post_all(server, prepared))
        yield Line(
            f"written in batches of {size:,}",
            "records/s",
            [statistics.median(own) for own in rates],
        )


def singles(servers: list[Server]) -> Iterator[Line]:
    """Posts of one record each, from many clients at once."""
    for keys, name in ((False, "single records"), (True, "single records with an Idempotency-Key")):
        rates: list[list[float]] = [[], []]
        for number in range(ROUNDS):
            prepared = list(bodies(number * SINGLES, (number + 1) * SINGLES, 1, ROUNDS * SINGLES))
            for server, own in zip(servers, rates, strict=True):
                own.append(SINGLES / post_all(server, prepared, CLIENTS, keys))
        yield Line(
            f"{name}, {CLIENTS} connections", "POST/s", [statistics.median(own) for own in rates]
        )


def queries() -> dict[str, str]:
    """What is asked, by its name in the table."""
    middle = (START + timedelta(days=DAYS / 2)).isoformat().replace("+00:00", "Z")
    return {
        "newest 100": "/logs",
        "newest 100 of one service": "/logs?service=pagos",
        "newest 100 of a rare service": "/logs?service=informes",
        "newest 100 of a rare severity": "/logs?severity=CRITICAL",
        "100 from the middle": f"/logs?timestamp_end={middle}",
        "counts by service and severity": "/stats",
        "hourly histogram": "/stats?step=1h",
        "a text found nowhere, counted": f"/stats?contains={urllib.parse.quote('found nowhere')}",
        "a text found often, counted": f"/stats?contains={urllib.parse.quote('user 77')}",
        "an attribute, counted": "/stats?attr.user=u77",
        "hourly histogram of an attribute": "/stats?attr.user=u77&step=1h",
    }


def read(servers: list[Server]) -> Iterator[Line]:
    """Times the queries; both must give the same counts."""
    for name, path in queries().items():
        times: list[list[float | None]] = [[], []]
        answers: list[bytes] = [b"", b""]
        for number in range(QUERY_ROUNDS):
            for side, server in enumerate(servers):
                if number >= 3 and (
                    times[side][-1] is None or sum(t or 0 for t in times[side]) > 20_000
                ):
                    continue  # a slow one is known by now
                took, answers[side] = ask(server, path)
                times[side].append(took)
        if path.startswith("/stats") and None not in (times[0][-1], times[1][-1]):
            totals = [json.loads(answer)["total"] for answer in answers]
            if totals[0] != totals[1]:
                raise SystemExit(f"{path}: SQLite counts {totals[0]}, ClickHouse {totals[1]}")
        yield Line(name, "ms", [median(several) for several in times])


def median(times: list[float | None]) -> float | None:
    """The median; None where the server stopped one of them."""
    return statistics.median([t for t in times if t is not None]) if None not in times else None


def export(servers: list[Server], rows: int) -> Line:
    """Reads all records as NDJSON."""
    rates = []
    for server in servers:
        began = time.perf_counter()
        connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
        connection.request("GET", "/logs?limit=0&format=ndjson")
        answer = connection.getresponse()
        lines = 0
        with contextlib.suppress(http.client.IncompleteRead):
            while piece := answer.read(1 << 20):
                lines += piece.count(b"\n")
        took = time.perf_counter() - began
        if lines != rows:
            said = "".join(server.errors[-5:])
            raise SystemExit(
                f"an export ended after {lines} of {rows} records and {took:.0f} s;"
                f" the server says:\n{said}"
            )
        rates.append(lines / took)
        connection.close()
    return Line("export of everything", "records/s", list(rates))


def markdown(line: Line) -> str:
    """A row of the table."""
    digits = 1 if line.unit == "ms" else 0
    cells = [
        "stopped after 10 s" if v is None else f"{v:,.{digits}f} {line.unit}" for v in line.values
    ]
    return f"| {line.figure} | {cells[0]} | {cells[1]} |"


# ---------------------------------------------------------------- Main


def measure(rows: int, url: str, size_of: Callable[[], int]) -> Iterator[Line]:
    """Both stores through two servers; `size_of` gives the bytes of the second one's."""
    roomy = {"retention": {"max_age_days": 3650, "max_size_mb": None}}
    with Server(**roomy) as sqlite, Server(store=url, **roomy) as clickhouse:
        servers = [sqlite, clickhouse]
        yield from fill(servers, rows)
        yield from singles(servers)
        written = json.loads(ask(sqlite, "/stats")[1])["total"]
        yield from read(servers)
        on_disk = sum(file.stat().st_size for file in sqlite.folder.glob("logs.db*"))
        yield Line("on disk", "bytes a record", [on_disk / written, size_of() / written])
        yield export(servers, written)


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(description="SQLite against ClickHouse, through the server.")
    parser.add_argument(
        "--rows", type=int, default=200_000, help="records in each store; 200000 by default"
    )
    parser.add_argument(
        "--clickhouse", metavar="URL", help="http://user:password@host:8123/database"
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.clickhouse:
            url, size_of = options.clickhouse, lambda: store_bytes(options.clickhouse)
        else:
            try:
                engine = stack.enter_context(Engine())
            except unittest.SkipTest as reason:
                raise SystemExit(str(reason)) from None
            url, size_of = engine.url, lambda: engine.size("logs")
        print(
            f"{options.rows:,} records, {os.cpu_count()} cores,"
            f" Python {platform.python_version()}; medians\n"
        )
        print("| | SQLite | ClickHouse |\n| --- | ---: | ---: |")
        for line in measure(options.rows, url, size_of):
            print(markdown(line), flush=True)


def store_bytes(url: str) -> int:
    """Bytes on disk as the server's own /metrics has them,
    of a ClickHouse that is not ours to ask."""
    with Server(store=url, number=1) as server:  # the one that is measured has number 0
        for line in server.get("/metrics").text.splitlines():
            if line.startswith("logs_store_bytes "):
                return int(float(line.split()[1]))
    raise SystemExit("no logs_store_bytes in /metrics")


if __name__ == "__main__":
    main()
