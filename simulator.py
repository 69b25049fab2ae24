"""A simulator of services that log to server.py; its lesson: retry with idempotency delivers exactly once.

    python simulator.py [--config FILE] [--url URL] [--seed N] [--speed X]

Why trying again is not enough: who posts and hears nothing cannot know whether the record was lost or its answer.

    simulator                               server
        │─── POST, Idempotency-Key: K ──x            it never arrived: the record must be sent again
        │─── POST, Idempotency-Key: K ────>│         commits the record and K in one transaction
        │             x──────────── 200 ───│         the answer is lost: the record must NOT be stored again
        │─── POST, Idempotency-Key: K ────>│         knows K, stores nothing
        │<────── 200, Idempotent-Replayed ─│         the first answer, once more

    sent once                            at most once: a restart of the server loses records
    sent until answered                  at least once: a lost answer doubles a record
    sent until answered, with one key    exactly once

Three rules make it so; `ServiceThread.deliver` is their code:

1. The key belongs to the record: made before the first try, sent with every try, over the very same bytes.
2. No two records share a key. Keys are the operating system's chance, never --seed's: two runs of one seed
   send the same messages, and with the same keys the second run's would pass for repeats.
3. Only what may pass is tried again (no answer, 429, 502, 503, 504), after a pause that grows, is
   random lest all services come back at once, and is never shorter than the server's Retry-After.

What is not promised: "failed" means "never confirmed", for the last try of a record that was given up may have
arrived; and what is not delivered when the simulator ends is gone, since it keeps nothing on disk.

Threads: one per service, joined at the end. Only the main thread prints. It reads the tallies, each of which has
one writer, its service's thread; all that the threads share besides is the Event `stop`.

Exit status: 0 every record was delivered; 1 some were not, and stderr says how many and why; 2 bad configuration
or command line; 130 stopped by Ctrl-C, 143 by SIGTERM, before all was delivered and after the summary of what was.

Sections: 1 Constants, 2 Configuration, 3 One POST, 4 A service's thread, 5 What people see, 6 Main.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import http.client
import json
import math
import pathlib
import random
import re
import shutil
import signal
import sys
import threading
import time
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# ---------------------------------------------------------------- 1. Constants

TRY_TIMEOUT_SECONDS = 10.0  # of silence; a commit takes milliseconds, a busy server may take seconds
# From the first failed try on. After that each record gets a single try, until one succeeds: a server that is gone
# costs a minute, not a minute per record. Far below the 24 hours for which the server keeps a key.
GIVE_UP_AFTER_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.2  # at most, before the second try; it doubles from try to try ...
LONGEST_PAUSE_SECONDS = 3.0  # ... up to this, so that a server that is back is soon found
MAY_PASS = (0, 429, 502, 503, 504)  # 0: no answer; any other status would be the same the next time
STOP_WITHIN_SECONDS = 3.0  # from the signal to the summary, whatever a request in flight may do
POLL_SECONDS = 0.1  # between looks for a signal, and between progress lines on a terminal, where one replaces the other
PLAIN_LINE_SECONDS = 2.0  # between progress lines in a file or a pipe
SEVERITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
COLUMNS = ("planned", "delivered", "failed", "retries", "replayed", *SEVERITIES)  # of the summary
CONFIG = pathlib.Path(__file__).resolve().parent / "config.json"

Json = Any  # what json.loads gives

# ---------------------------------------------------------------- 2. Configuration


class ConfigError(Exception):
    """The configuration cannot be used; `args` are all of its mistakes, a line each."""


@dataclasses.dataclass(frozen=True)
class Service:
    """A service to simulate, as config.json describes it; both ends of a range may come."""

    name: str
    token: str
    iterations: tuple[int, int]  # how many records
    delay_seconds: tuple[float, float]  # before each of them
    logs: Sequence[Mapping[str, Json]]  # severity, message and weight of each kind of record


def is_range(value: Json, *types: type) -> bool:
    """Whether a list is [least, most], not below 0; to Python true is an int, here it is not."""
    return [type(number) in types for number in value] == [True, True] and 0 <= value[0] <= value[1] < math.inf


# The shape of what the simulator uses of config.json; the "server" part is the server's to check. A rule is the words
# for what a value must be, and whether it is; a list holds the shape of its items.
SIMULATOR: dict[str, Any] = {
    "url": ('an address such as "http://127.0.0.1:8000"', re.compile(r"https?://[\w.:\[\]-]+(/[!-~]*)?").fullmatch),
}
LOG: dict[str, Any] = {
    "severity": (f"one of {', '.join(SEVERITIES)}", lambda value: value in SEVERITIES),
    "message": ("text that is not empty", re.compile(r"\S").search),
    "weight": ("a number over 0", lambda value: type(value) in (int, float) and 0 < value < math.inf),
}
SERVICE: dict[str, Any] = {
    "token": ('ASCII text without blanks, such as "demo-pagos"', re.compile("[!-~]+").fullmatch),
    "iterations": ("two whole numbers, least and most, such as [10, 20]", lambda value: is_range(value, int)),
    "delay_seconds": ("two numbers, least and most, such as [0.1, 0.5]", lambda value: is_range(value, int, float)),
    "logs": [LOG],
}


def mistakes_in(path: str, value: Json, shape: Any) -> Iterator[str]:
    """A line for each place where a value has not the shape; `path` is where it stands in the file."""
    if isinstance(shape, tuple):
        wanted, is_right = shape
        with contextlib.suppress(TypeError):  # a number where there should be text, say
            if is_right(value):
                return
        yield f"{path}: must be {wanted}, not {json.dumps(value, ensure_ascii=False):.60}"
    elif type(value) is not type(shape) or value == []:
        wanted = f"an object with {', '.join(shape)}" if isinstance(shape, dict) else "a list that is not empty"
        yield f"{path}: must be {wanted}"
    elif isinstance(shape, list):
        for index, item in enumerate(value):
            yield from mistakes_in(f"{path}[{index}]", item, shape[0])
    else:
        yield from (f"{path}.{key}: unknown key; known are {', '.join(shape)}" for key in value if key not in shape)
        yield from (f"{path}.{key}: missing" for key in shape if key not in value)
        for key in (key for key in shape if key in value):
            yield from mistakes_in(f"{path}.{key}", value[key], shape[key])


def load(path: pathlib.Path, url: str | None) -> tuple[str, list[Service]]:
    """Reads the server's address (`url` replaces the file's) and the services. Raises ConfigError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError("must be a JSON object")
    if url is not None:
        config["simulator"] = {"url": url}
    services = config["services"] if isinstance(config.get("services"), dict) else {}
    # A service with only a token is an application that logs by itself.
    services = {name: keys for name, keys in services.items() if type(keys) is not dict or [*keys] != ["token"]}
    mistakes = [*mistakes_in("simulator", config.get("simulator"), SIMULATOR)]
    mistakes += mistakes_in("services", services, dict.fromkeys(services, SERVICE))
    if not services:
        mistakes.append("services: must be an object with at least one service to simulate")
    if mistakes:
        raise ConfigError(*mistakes)
    return config["simulator"]["url"].rstrip("/"), [Service(name, **keys) for name, keys in services.items()]


# ---------------------------------------------------------------- 3. One POST


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one try came to."""

    status: int  # 0: no answer
    reason: str  # for people, where it was not accepted
    accepted: bool = False  # said by the body; a status of 200 alone could be any web server's
    replayed: bool = False  # an earlier try had stored it
    retry_after: float = 0.0  # seconds that the server asks for


def read_outcome(status: int, headers: Mapping[str, str] | http.client.HTTPMessage, body: bytes) -> Outcome:
    """Reads an answer. A Retry-After that is a date counts for none: servers that are busy give seconds."""
    said = None
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(body)
    if not isinstance(said, dict):
        said = {"error": "this is not the answer of a log server"}
    reason = f"HTTP {status}: {said.get('error') or said.get('errors')} {said.get('hint', '')}".rstrip()
    accepted = status == 200 and said.get("accepted") == 1
    seconds = headers.get("Retry-After", "")
    pause = float(seconds) if seconds.isdecimal() else 0.0
    return Outcome(status, reason, accepted, "Idempotent-Replayed" in headers, pause)


def post(url: str, token: str, key: str, body: bytes) -> Outcome:
    """Tries once, on a connection of its own. Does not raise; without an answer the outcome's status is 0."""
    headers = {"Authorization": f"Token {token}", "Idempotency-Key": key, "Content-Type": "application/json"}
    try:
        scheme, host, path, *_ = urllib.parse.urlsplit(url)
        connect = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        with contextlib.closing(connect(host, timeout=TRY_TIMEOUT_SECONDS)) as connection:
            connection.request("POST", f"{path}/logs", body, headers)
            answer = connection.getresponse()
            return read_outcome(answer.status, answer.headers, answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:  # refused, timed out, cut off, no such name
        return Outcome(0, f"no answer from {url} ({error}): is server.py running there?")


# ---------------------------------------------------------------- 4. A service's thread


class ServiceThread(threading.Thread):
    """Sends the records of one service, one after the other, until all are sent or `stop` is set.

    `seed` fixes how many, which and after what delays, whatever order the threads run in. It is a daemon, so that
    a request in flight cannot keep a stopped simulator alive.
    """

    def __init__(self, service: Service, url: str, run: str, seed: int | None, speed: float, stop: threading.Event):
        super().__init__(name=service.name, daemon=True)
        self.service, self.url, self.run_name, self.speed, self.stop = service, url, run, speed, stop
        self.random = random.Random(None if seed is None else f"{seed} {service.name}")
        self.tally = Counter(planned=self.random.randint(*service.iterations))
        self.reasons = Counter[str]()  # why records failed, and how many
        self.trouble = ""  # why the record in hand is not delivered yet
        self.give_up_at = math.inf  # on time.monotonic(); finite while the server cannot be had

    def run(self) -> None:
        """Waits, picks and delivers, as often as planned."""
        weights = [log["weight"] for log in self.service.logs]
        for number in range(1, self.tally["planned"] + 1):
            if self.stop.wait(self.random.uniform(*self.service.delay_seconds) / self.speed):
                return
            [log] = self.random.choices(self.service.logs, weights)
            outcome = self.deliver(self.record(log, number))
            self.trouble = ""
            if outcome.accepted:
                self.tally.update(["delivered", log["severity"], *["replayed"] * outcome.replayed])
            else:
                self.tally["failed"] += 1
                self.reasons[outcome.reason] += 1

    def record(self, log: Mapping[str, Json], number: int) -> dict[str, Json]:
        """A record of what happens now: however late it arrives, its timestamp is that of the event."""
        return {
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
            "service": self.service.name,
            "severity": log["severity"],
            "message": log["message"],
            "attributes": {"run": self.run_name, "number": number},
        }

    def deliver(self, record: dict[str, Json]) -> Outcome:
        """Tries until the record's fate is known, the time is up or `stop` is set, and gives the last outcome.

        Where that is `accepted`, the record is stored exactly once, however many tries it took.
        """
        key, body = str(uuid.uuid4()), json.dumps(record).encode()  # one key, the same bytes, for every try
        longest_pause = FIRST_PAUSE_SECONDS
        while (outcome := post(self.url, self.service.token, key, body)).status in MAY_PASS:
            self.trouble = outcome.reason
            self.give_up_at = min(self.give_up_at, time.monotonic() + GIVE_UP_AFTER_SECONDS)
            # Full jitter, from nothing up: services that failed together must not come back together. Not from
            # self.random, or the number of tries would change what --seed sends next.
            pause = outcome.retry_after + random.uniform(0, longest_pause)
            if time.monotonic() + pause > self.give_up_at or self.stop.wait(pause):
                return outcome
            self.tally["retries"] += 1
            longest_pause = min(2 * longest_pause, LONGEST_PAUSE_SECONDS)
        self.give_up_at = math.inf
        return outcome


# ---------------------------------------------------------------- 5. What people see


def show(line: str, stays: bool = True) -> None:
    """Prints a line of progress; on a terminal one that does not stay is cut to the width, and the next replaces it."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1  # a terminal wraps after its last column
        line = "\r" + (line if stays else line[:width]).ljust(width)
    print(line, end="\n" if stays or not sys.stdout.isatty() else "", flush=True)


def progress(threads: Sequence[ServiceThread]) -> str:
    """How far each service is."""
    return " | ".join(f"{thread.name} {thread.tally['delivered']}/{thread.tally['planned']}" for thread in threads)


def join(threads: Sequence[ServiceThread], stop: threading.Event, signals: Sequence[int]) -> None:
    """Waits for every thread to end, showing how far they are and, once for each reason, why records are waiting.

    Sets `stop` after a signal, and then waits for STOP_WITHIN_SECONDS at most.
    """
    told, shown_at, leave_at = {""}, time.monotonic(), math.inf  # "" is no trouble
    while time.monotonic() < leave_at and (alive := [thread for thread in threads if thread.is_alive()]):
        alive[0].join(POLL_SECONDS)
        for reason in {thread.trouble for thread in threads} - told:
            told.add(reason)
            show(f"waiting: {reason}")
        if sys.stdout.isatty() or time.monotonic() >= shown_at + PLAIN_LINE_SECONDS:
            show(progress(threads), stays=False)
            shown_at = time.monotonic()
        if signals and not stop.is_set():
            stop.set()
            leave_at = time.monotonic() + STOP_WITHIN_SECONDS
    show(progress(threads))


def report(threads: Sequence[ServiceThread]) -> int:
    """Prints a row for each service and their total, and on stderr what was not delivered and why; gives how many."""
    total = sum((thread.tally for thread in threads), Counter[str]())
    width = max(len("service"), *(len(thread.name) for thread in threads))
    print("service".ljust(width), *COLUMNS, sep="  ")
    for name, tally in [*((thread.name, thread.tally) for thread in threads), ("total", total)]:
        print(name.ljust(width), *(f"{tally[column]:{len(column)}}" for column in COLUMNS), sep="  ", flush=True)
    planned, undelivered = total["planned"], total["planned"] - total["delivered"]
    if not undelivered:
        print(f"{planned} records delivered, each exactly once: {threads[0].url}/stats?attr.run={threads[0].run_name}")
        return 0
    print(f"{undelivered} of {planned} records were not delivered", file=sys.stderr)
    for reason, count in sum((thread.reasons for thread in threads), Counter[str]()).items():
        print(f"  {count}: {reason}", file=sys.stderr)
    return undelivered


# ---------------------------------------------------------------- 6. Main


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the simulation that a command line asks for and gives the exit status."""
    parser = argparse.ArgumentParser(description="Simulates services that log to server.py.")
    parser.add_argument("--config", type=pathlib.Path, default=CONFIG, help="default: config.json beside this file")
    parser.add_argument("--url", help="of the server, in place of the configuration's")
    parser.add_argument("--seed", type=int, help="makes every run send the same messages after the same delays")
    parser.add_argument("--speed", type=float, default=1.0, help="divides the delays: 2 is twice as fast")
    options = parser.parse_args(arguments)
    if not options.speed > 0:
        parser.error("--speed must be over 0")
    try:
        url, services = load(options.config, options.url)
    except ConfigError as error:
        print(*(f"{options.config}: {mistake}" for mistake in error.args), sep="\n", file=sys.stderr)
        return 2
    # The handler only takes a note: it runs between any two steps of this thread, and there stop.set() could
    # wait for a lock that this very thread holds.
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    run, stop = uuid.uuid4().hex[:8], threading.Event()
    threads = [ServiceThread(service, url, run, options.seed, options.speed, stop) for service in services]
    for thread in threads:
        thread.start()
    join(threads, stop, signals)
    if not report(threads):
        return 0
    return 128 + signals[0] if signals else 1


if __name__ == "__main__":
    sys.exit(main())
