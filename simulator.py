"""A simulator of services that log to server.py; its lesson: retry with idempotency delivers exactly once.

    python simulator.py [--config FILE] [--url URL] [--seed N] [--speed X]

Why trying again is not enough
==============================

Who posts a record and hears nothing cannot know which half of the way failed:

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
3. Only what may pass is tried again (no answer, 429, 502, 503, 504), after a pause that grows, that is
   random lest all services come back at once, and that is never shorter than the server's Retry-After.

What is not promised: "failed" means "never confirmed", for the last try of a record that was given up may have
arrived; and what is not delivered when the simulator ends is gone, since it keeps nothing on disk.

Threads
=======

One per service, joined at the end. Only the main thread prints. It reads the tallies, each of which has one
writer, its service's thread; all that the threads share besides is the Event `stop`.

Exit status
===========

0 every record was delivered; 1 some were not, and stderr says how many and why; 2 bad configuration or command
line; 130 stopped by Ctrl-C, 143 by SIGTERM, before all was delivered and after the summary of what was.

Sections
========

1. Constants
2. Configuration
3. One POST
4. A service's thread
5. What people see
6. Main
"""

from __future__ import annotations

import argparse
import collections
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
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# ---------------------------------------------------------------- 1. Constants

TRY_TIMEOUT_SECONDS = 10.0  # of silence; a commit takes milliseconds, a busy server may take seconds
# From the first failed try on. After it a record gets one try, until one succeeds: a server that is gone costs a
# minute, not a minute per record. Far below the 24 hours for which the server keeps a key.
GIVE_UP_AFTER_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.2  # at most, before the second try; it doubles from try to try ...
LONGEST_PAUSE_SECONDS = 3.0  # ... up to this, so that a server that is back is soon found
MAY_PASS = (0, 429, 502, 503, 504)  # 0: no answer; any other status would be the same the next time
STOP_WITHIN_SECONDS = 3.0  # from the signal to the summary, whatever a request in flight may do
REFRESH_SECONDS = 0.1  # of the progress line on a terminal
PLAIN_LINE_SECONDS = 2.0  # the same in a file or a pipe, where no line can be rewritten
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


def text(pattern: str) -> Callable[[Json], bool]:
    """Gives a check for text that matches as a whole."""
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None


def is_number(value: Json, *types: type) -> bool:
    """True for finite numbers from 0 of one of the types, by default int and float; never for true and false."""
    return type(value) in (types or (int, float)) and 0 <= value < math.inf


def is_range(value: Json, *types: type) -> bool:
    """True for [least, most]."""
    return type(value) is list and len(value) == 2 and all(is_number(n, *types) for n in value) and value[0] <= value[1]


# A table of rules for each object of the file. By key: what is right, and how to say so.
Rules = Mapping[str, tuple[Callable[[Json], bool], str]]
SIMULATOR: Rules = {"url": (text(r"https?://[\w.:\[\]-]+(/[!-~]*)?"), 'an address such as "http://127.0.0.1:8000"')}
SERVICE: Rules = {
    "token": (text("[!-~]+"), 'ASCII text without blanks, such as "demo-pagos"'),
    "iterations": (lambda value: is_range(value, int), "two whole numbers, least and most, such as [10, 20]"),
    "delay_seconds": (is_range, "two numbers, least and most, such as [0.1, 0.5]"),
    "logs": (lambda value: type(value) is list and value != [], "a list with at least one record to pick"),
}
LOG: Rules = {
    "severity": (lambda value: value in SEVERITIES, f"one of {', '.join(SEVERITIES)}"),
    "message": (text(r".*\S.*"), "text that is not empty"),
    "weight": (lambda value: is_number(value) and value > 0, "a number over 0"),
}


def mistakes_in(path: str, value: Json, rules: Rules) -> Iterator[str]:
    """Names the keys of an object that are unknown, missing or wrong; `path` is its place in the file."""
    if not isinstance(value, dict):
        yield f"{path}: must be an object with {', '.join(rules)}"
        return
    for key in (key for key in value if key not in rules):
        yield f"{path}.{key}: unknown key; known are {', '.join(rules)}"
    for key, (is_right, wanted) in rules.items():
        if key not in value:
            yield f"{path}.{key}: missing; must be {wanted}"
        elif not is_right(value[key]):
            yield f"{path}.{key}: must be {wanted}, not {json.dumps(value[key], ensure_ascii=False):.60}"


def is_simulated(service: Json) -> bool:
    """False for a service that has only a token: an application that logs by itself."""
    return not isinstance(service, dict) or list(service) != ["token"]


def mistakes(config: Json) -> Iterator[str]:
    """Names every mistake in what the simulator uses; the "server" part is the server's to check."""
    yield from mistakes_in("simulator", config.get("simulator"), SIMULATOR)
    services = config.get("services")
    if not isinstance(services, dict) or not any(map(is_simulated, services.values())):
        yield "services: must be an object with at least one service to simulate"
        return
    for name, service in services.items():
        if not is_simulated(service):
            continue
        yield from mistakes_in(f"services.{name}", service, SERVICE)
        logs = service.get("logs") if isinstance(service, dict) else None
        for index, log in enumerate(logs if isinstance(logs, list) else []):
            yield from mistakes_in(f"services.{name}.logs[{index}]", log, LOG)


def load(path: pathlib.Path, url: str | None) -> tuple[str, list[Service]]:
    """Reads the server's address (`url` replaces the file's) and the services; ConfigError names all mistakes."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: must be a JSON object")
    if url is not None:
        config["simulator"] = {"url": url}
    if found := [f"{path}: {mistake}" for mistake in mistakes(config)]:
        raise ConfigError(*found)
    services = {name: keys for name, keys in config["services"].items() if is_simulated(keys)}
    return config["simulator"]["url"].rstrip("/"), [Service(name, **keys) for name, keys in services.items()]


# ---------------------------------------------------------------- 3. One POST


class EveryAnswer(urllib.request.HTTPErrorProcessor):
    """Gives any answer as it is, where urllib raises an error or follows a redirected POST with a GET."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        """The answer, whatever its status."""
        return response

    https_response = http_response


# Straight to the server: a proxy that the environment names could not reach this machine's loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), EveryAnswer)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one try came to."""

    status: int  # 0: no answer
    reason: str  # for people, where it was not accepted
    accepted: bool = False  # said by the body; a status of 200 alone could be any web server's
    replayed: bool = False  # an earlier try had stored it
    retry_after: float = 0.0  # seconds that the server asks for


def read_outcome(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """Reads an answer. A Retry-After that is a date counts for none: servers that are busy give seconds."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
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
    request = urllib.request.Request(f"{url}/logs", body, headers, method="POST")
    try:
        with OPENER.open(request, timeout=TRY_TIMEOUT_SECONDS) as answer:
            return read_outcome(answer.status, answer.headers, answer.read())
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # refused, timed out, cut off, no such name
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        return Outcome(0, f"no answer from {url} ({cause}): is server.py running there?")


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
        self.tally = collections.Counter(planned=self.random.randint(*service.iterations))
        self.reasons = collections.Counter[str]()  # why records failed, and how many
        self.trouble = ""  # why the record in hand is not delivered yet
        self.give_up_at = math.inf  # on time.monotonic(); finite while the server cannot be had

    def run(self) -> None:
        """Waits, picks and delivers, as often as planned."""
        weights = [log["weight"] for log in self.service.logs]
        for number in range(1, self.tally["planned"] + 1):
            if self.stop.wait(self.random.uniform(*self.service.delay_seconds) / self.speed):
                return
            [log] = self.random.choices(self.service.logs, weights)
            self.count(log["severity"], self.deliver(self.record(log, number)))

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

    def count(self, severity: str, outcome: Outcome) -> None:
        """Enters a record's fate in the tally."""
        self.trouble = ""
        if outcome.accepted:
            self.tally.update(["delivered", severity, *["replayed"] * outcome.replayed])
        else:
            self.tally["failed"] += 1
            self.reasons[outcome.reason] += 1


# ---------------------------------------------------------------- 5. What people see


class Display:
    """Progress on stdout: on a terminal a line that is rewritten, elsewhere one every PLAIN_LINE_SECONDS."""

    def __init__(self) -> None:
        self.rewrites, self.due = sys.stdout.isatty(), time.monotonic() + PLAIN_LINE_SECONDS
        self.told = {""}

    def show(self, threads: Sequence[ServiceThread], last: bool = False) -> None:
        """Shows how far each service is, and says once for each reason why records are waiting."""
        for reason in {thread.trouble for thread in threads} - self.told:
            self.told.add(reason)
            self.write(f"waiting: {reason}", "\n")
        counts = [f"{thread.name} {thread.tally['delivered']}/{thread.tally['planned']}" for thread in threads]
        if self.rewrites or last or time.monotonic() >= self.due:
            self.due = time.monotonic() + PLAIN_LINE_SECONDS
            self.write(" | ".join(counts), "\n" if last or not self.rewrites else "")

    def write(self, line: str, end: str) -> None:
        """Writes over the line that stands there; one that stays in sight (`end` is a newline) is not cut short."""
        width = shutil.get_terminal_size().columns - 1  # a terminal wraps after its last column
        line = line if end else line[:width]
        print(f"\r{line.ljust(width)}" if self.rewrites else line, end=end, flush=True)


def summary(threads: Sequence[ServiceThread]) -> str:
    """The table at the end: a row for each service, and their total."""
    total = sum((thread.tally for thread in threads), collections.Counter[str]())
    width = max(len("service"), *(len(thread.name) for thread in threads))
    rows = [(thread.name, thread.tally) for thread in threads] + [("total", total)]
    lines = ["service".ljust(width) + "".join(f"  {column}" for column in COLUMNS)]
    lines += [name.ljust(width) + "".join(f"  {tally[c]:{len(c)}}" for c in COLUMNS) for name, tally in rows]
    return "\n".join(lines)


def report(threads: Sequence[ServiceThread]) -> int:
    """Prints the summary, and on stderr what was not delivered and why; gives the number of those records."""
    print(summary(threads), flush=True)
    planned = sum(thread.tally["planned"] for thread in threads)
    undelivered = planned - sum(thread.tally["delivered"] for thread in threads)
    if undelivered:
        print(f"{undelivered} of {planned} records were not delivered", file=sys.stderr)
    else:
        print(f"{planned} records delivered, each exactly once: {threads[0].url}/stats?attr.run={threads[0].run_name}")
    for reason, count in sum((thread.reasons for thread in threads), collections.Counter[str]()).items():
        print(f"  {count}: {reason}", file=sys.stderr)
    return undelivered


# ---------------------------------------------------------------- 6. Main


def join(threads: Sequence[ServiceThread], stop: threading.Event, signals: Sequence[int]) -> None:
    """Waits for every thread to end, showing how far they are; after a signal, STOP_WITHIN_SECONDS at most."""
    display, leave_at = Display(), math.inf
    for thread in threads:
        while thread.is_alive() and time.monotonic() < leave_at:
            thread.join(REFRESH_SECONDS)
            display.show(threads)
            if signals and not stop.is_set():
                stop.set()
                leave_at = time.monotonic() + STOP_WITHIN_SECONDS
    display.show(threads, last=True)


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
        print(*error.args, sep="\n", file=sys.stderr)
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
