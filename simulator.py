"""Simulates services that send log records to server.py. Each record is stored exactly once.

    python simulator.py [--config FILE] [--url URL] [--seed N] [--speed X]

A client that gets no answer does not know whether its request was lost or only the answer. If it
sends a record once, the record can be lost (at most once). If it repeats the request until an
answer comes, the record can be stored twice (at least once). A key makes it exactly once:

    simulator                            server
        │─── POST, Idempotency-Key: K ──x           The request is lost. Nothing is stored.
        │─── POST, Idempotency-Key: K ────>│        The server stores the record and K together.
        │             x──────────── 200 ───│        The answer is lost.
        │─── POST, Idempotency-Key: K ────>│        The server knows K. It stores nothing.
        │<────── 200, Idempotent-Replayed ─│        The server sends the first answer again.

What is promised: a record that is counted as delivered is stored exactly once, even if the server
crashes and restarts. Three rules keep this promise, and `ServiceThread.deliver` is their code:
1. Each record has one key. Every try for the record sends the same key and the same bytes.
2. Two records never have the same key, even if two runs with one --seed send the same messages.
3. A record is sent again only after a failure that can pass: no answer, 408, 429, 502, 503 or 504.
   The pause before the next try grows, is random, and is at least the server's Retry-After.

What is not promised: a record that is counted as failed can be stored, because perhaps only its
last answer was lost. Nothing is kept on disk: what is not delivered at the end is never sent.

Threads: the main thread starts one thread for each service, waits for all of them, and prints.
Each count has one thread that changes it; the main thread only reads. So counts need no lock.

Exit status: 0 if every record was delivered, otherwise 130 after Ctrl-C, 143 after SIGTERM, or 1.
It is 2 if the configuration, the command line or the version of Python is wrong.
Sections: 1. Constants, 2. Configuration, 3. One POST, 4. A service's thread, 5. The main thread.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (Python 3.8 must be able to parse this file)
    explanation = "simulator.py needs Python 3.11 or newer; this is Python {}.{}."
    print(explanation.format(*sys.version_info), file=sys.stderr)
    sys.exit(2)

import argparse
import datetime
import http.client
import json
import math
import os
import pathlib
import random
import re
import signal
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# -------- 1. Constants
TRY_TIMEOUT_SECONDS = 10.0  # a try fails after this silence; a busy server may need some seconds
GIVE_UP_AFTER_SECONDS = 60.0  # from the first failure on; then one try each, till it works again
FIRST_PAUSE_SECONDS = 0.2  # the longest pause before the second try; it doubles from try to try
LONGEST_PAUSE_SECONDS = 3.0  # it grows no further, so that a restarted server is found soon
STOP_WITHIN_SECONDS = 3.0  # from Ctrl-C to the summary, even if a request still has no answer
POLL_SECONDS = 0.1  # between two checks for signals
PROGRESS_SECONDS = 2.0  # between progress lines
TEMPORARY_STATUSES = (0, 408, 429, 502, 503, 504)  # 0: no answer. Others would not change.
SEVERITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
COLUMNS = ("planned", "delivered", "failed", "retries", "replayed", *SEVERITIES)  # of the summary
CONFIG = pathlib.Path(__file__).resolve().parent / "config.json"
ADDRESS = r"https?://[\w.:\[\]-]+(/[\w/.~%-]*)?"  # no "?" and no "#", because "/logs" is added
RUN = uuid.uuid4().hex[:8]  # an attribute of each record, to find the records of this run


def say(text: str, stream: Any = None, end: str = "\n") -> None:
    """Prints a line. If stdout or stderr is closed or full, the simulation goes on."""
    try:
        print(text, end=end, file=stream, flush=True)
    except OSError:  # At its end, Python flushes it, and would fail again: /dev/null takes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


# -------- 2. Configuration
class ConfigError(Exception):
    """The configuration cannot be used. The text of the error has a line for each mistake."""


class Service(NamedTuple):
    """One service of config.json. A range is [least, most], and both are possible values."""

    name: str
    url: str  # of the server
    token: str
    iterations: Sequence[int]  # a range: how many records the service sends
    delay_seconds: Sequence[float]  # a range: the wait before each record
    logs: Sequence[Mapping[str, Any]]  # the kinds of records: severity, message, weight


def is_range(value: Any, *types: type) -> bool:
    """Returns whether a value is [least, most], 0 or more, of these types. True is no int here."""
    if not isinstance(value, list) or not all(type(number) in types for number in value):
        return False
    return len(value) == 2 and 0 <= value[0] <= value[1] < math.inf


def is_text(value: Any, pattern: str) -> bool:
    """Returns whether a value is text that the pattern matches from its start to its end."""
    return isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


# For each key that an object of config.json must have: what its value must be, and a test for it.
Checks = Mapping[str, tuple[str, Callable[[Any], bool]]]
SIMULATOR: Checks = {
    "url": ('an address such as "http://127.0.0.1:8000"', lambda v: is_text(v, ADDRESS)),
}
SERVICE: Checks = {
    "token": ('ASCII text without blanks, such as "demo-pagos"', lambda v: is_text(v, "[!-~]+")),
    "iterations": ("whole numbers [least, most], like [10, 20]", lambda v: is_range(v, int)),
    "delay_seconds": ("numbers [least, most], like [0.1, 0.5]", lambda v: is_range(v, int, float)),
    "logs": ("a list that is not empty", lambda v: isinstance(v, list) and v != []),
}
LOG: Checks = {
    "severity": (f"one of {', '.join(SEVERITIES)}", lambda v: v in SEVERITIES),
    "message": ("text that is not empty", lambda v: isinstance(v, str) and v.strip() != ""),
    "weight": ("a number over 0", lambda v: type(v) in (int, float) and 0 < v < 1e15),
}


def find_mistakes(path: str, section: Any, checks: Checks) -> Iterator[str]:
    """Yields a line for each mistake in an object of config.json."""
    values = section if isinstance(section, dict) else {}
    for key in values:
        if key not in checks:
            yield f"{path}.{key}: unknown key; known are {', '.join(checks)}"
    for key, (words, is_right) in checks.items():
        if not is_right(values.get(key)):
            yield f"{path}.{key}: must be {words}"
        elif key == "logs":
            for index, log in enumerate(values[key]):
                yield from find_mistakes(f"{path}.logs[{index}]", log, LOG)


def load(path: pathlib.Path, url: str | None) -> list[Service]:
    """Returns the services of a file. A `url` replaces the file's. Raises ConfigError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: must be a JSON object")
    if url is not None and not is_text(url, ADDRESS):
        raise ConfigError(f"--url: must be {SIMULATOR['url'][0]}")
    simulator: Any = config.get("simulator") if url is None else {"url": url}
    mistakes = list(find_mistakes("simulator", simulator, SIMULATOR))
    services = config["services"] if isinstance(config.get("services"), dict) else {}
    left_out = []  # Programs that send their own records: only their tokens are there.
    for name, values in list(services.items()):
        if isinstance(values, dict) and list(values) == ["token"]:
            left_out.append(name)
            del services[name]
        else:
            mistakes += find_mistakes(f"services.{name}", values, SERVICE)
    if not services:
        mistakes.append("services: must be an object with at least one service to simulate")
    if mistakes:
        raise ConfigError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    if left_out:
        say(f"left out, since it has only a token: {', '.join(left_out)}", sys.stderr)
    address = simulator["url"].rstrip("/")
    return [Service(name, address, **services[name]) for name in services]


# -------- 3. One POST

# This opener has no handlers for proxies and redirects, so only the server gets the token. It has
# no handler that raises HTTPError, so an answer of any status is returned.
OPENER = urllib.request.OpenerDirector()
OPENER.add_handler(urllib.request.HTTPHandler())
OPENER.add_handler(urllib.request.HTTPSHandler())


class Outcome(NamedTuple):
    """The result of one try."""

    status: int  # of HTTP; 0 if there was no answer
    reason: str  # why the record was not accepted, for people
    accepted: bool = False  # the body says so; any web server can answer with status 200
    replayed: bool = False  # an earlier try had stored the record
    retry_after: float = 0.0  # seconds to wait, if the server asks for it


def read_outcome(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """Returns what an answer means. A Retry-After that is a date counts as 0 seconds."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = {"error": "this is not the answer of a log server"}
    error = document.get("error") or document.get("errors")
    reason = f"HTTP {status}: {error} {document.get('hint', '')}".rstrip()
    accepted = status == 200 and document.get("accepted") == 1
    seconds = headers.get("Retry-After", "")
    retry_after = float(seconds) if seconds.isdecimal() else 0.0
    return Outcome(status, reason, accepted, "Idempotent-Replayed" in headers, retry_after)


def post(url: str, token: str, key: str, body: bytes) -> Outcome:
    """Tries once to store a record. Never raises: without an answer, the status is 0."""
    headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}
    headers["Idempotency-Key"] = key
    try:
        request = urllib.request.Request(f"{url}/logs", body, headers)
        with OPENER.open(request, timeout=TRY_TIMEOUT_SECONDS) as answer:
            return read_outcome(answer.status, answer.headers, answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)  # urllib puts most errors into a URLError
        return Outcome(0, f"no answer from {url} ({cause}): is server.py running there?")


# -------- 4. A service's thread
class ServiceThread(threading.Thread):
    """Sends the records of one service, one after the other, until `stop` is set."""

    def __init__(self, service: Service, seed: float, speed: float, stop: threading.Event):
        # Python does not wait for a daemon thread, whose request may still be without an answer.
        super().__init__(name=service.name, daemon=True)
        self.service = service
        self.speed = speed
        self.stop = stop
        self.random = random.Random(f"{seed} {service.name}")
        self.tally = Counter(planned=self.random.randint(*service.iterations))  # keys: COLUMNS
        self.reasons = Counter[str]()  # why records failed, and how many failed so
        self.trouble = ""  # why the last try for the present record failed
        self.give_up_at = math.inf  # by time.monotonic(); infinite until a try fails

    def run(self) -> None:
        """Sends the planned number of records, with a delay before each."""
        weights = [log["weight"] for log in self.service.logs]
        for number in range(1, self.tally["planned"] + 1):
            delay = self.random.uniform(*self.service.delay_seconds) / self.speed
            if self.stop.wait(min(delay, threading.TIMEOUT_MAX)):
                return
            [log] = self.random.choices(self.service.logs, weights)
            outcome = self.deliver(self.record(log, number))
            self.trouble = ""
            if outcome.accepted:
                self.tally.update(["delivered", log["severity"]])
                self.tally["replayed"] += outcome.replayed
            else:
                self.tally["failed"] += 1
                self.reasons[outcome.reason] += 1

    def record(self, log: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Returns a record. Its timestamp is the time of the event, not the time of a later try."""
        return {
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
            "service": self.service.name,
            "severity": log["severity"],
            "message": log["message"],
            "attributes": {"run": RUN, "number": number},
        }

    def deliver(self, record: Mapping[str, Any]) -> Outcome:
        """Sends a record by the three rules. If the outcome is accepted, it is stored once."""
        key = str(uuid.uuid4())
        body = json.dumps(record).encode()
        longest_pause = FIRST_PAUSE_SECONDS
        while True:
            outcome = post(self.service.url, self.service.token, key, body)
            if outcome.status not in TEMPORARY_STATUSES:
                self.give_up_at = math.inf
                return outcome
            self.trouble = outcome.reason
            self.give_up_at = min(self.give_up_at, time.monotonic() + GIVE_UP_AFTER_SECONDS)
            # Services that failed at the same moment must not all try again at the same moment.
            # Not self.random, because the number of tries must not change what --seed sends.
            pause = outcome.retry_after + random.uniform(0, longest_pause)
            if time.monotonic() + pause > self.give_up_at or self.stop.wait(pause):
                return outcome
            self.tally["retries"] += 1
            longest_pause = min(2 * longest_pause, LONGEST_PAUSE_SECONDS)


# -------- 5. The main thread
def join(threads: Sequence[ServiceThread], stop: threading.Event, signals: Sequence[int]) -> None:
    """Waits for all threads and prints their progress. After a signal, it stops them."""
    printed = {""}  # each trouble is printed once; "" means no trouble
    print_at = time.monotonic() + PROGRESS_SECONDS
    leave_at = math.inf
    alive = list(threads)
    while alive and time.monotonic() < leave_at:
        alive[0].join(POLL_SECONDS)
        alive = [thread for thread in threads if thread.is_alive()]
        for trouble in {thread.trouble for thread in threads} - printed:
            printed.add(trouble)
            say(f"waiting, for {GIVE_UP_AFTER_SECONDS:g} s at most: {trouble}")
        if time.monotonic() >= print_at or not alive:
            counts = [f"{t.name} {t.tally['delivered']}/{t.tally['planned']}" for t in threads]
            is_replaced = alive and sys.stdout and sys.stdout.isatty()  # by the next line
            say(" | ".join(counts), end="\r" if is_replaced else "\n")
            print_at = time.monotonic() + PROGRESS_SECONDS
        if signals and not stop.is_set():
            stop.set()
            leave_at = time.monotonic() + STOP_WITHIN_SECONDS


def print_summary(threads: Sequence[ServiceThread]) -> int:
    """Prints the counts of each service. Returns how many records were not delivered."""
    rows = [(thread.name, thread.tally.copy()) for thread in threads]  # a thread may still count
    total = sum((tally for _, tally in rows), Counter[str]())
    width = max(len("service"), *(len(thread.name) for thread in threads))
    say("  ".join(["service".ljust(width), *COLUMNS]))
    for name, tally in [*rows, ("total", total)]:
        cells = [str(tally[column]).rjust(len(column)) for column in COLUMNS]
        say("  ".join([name.ljust(width), *cells]))
    missing = total["planned"] - total["delivered"]
    if missing == 0:
        stats = f"{threads[0].service.url}/stats?attr.run={RUN}"
        say(f"{total['planned']} records delivered, each exactly once: {stats}")
        return 0
    say(f"{missing} of {total['planned']} records were not delivered", sys.stderr)
    reasons = sum((thread.reasons.copy() for thread in threads), Counter[str]())
    for reason, count in reasons.items():
        say(f"  {count}: {reason}", sys.stderr)
    return missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the simulation that a command line asks for. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Simulates services that log to server.py.")
    parser.add_argument("--config", type=pathlib.Path, default=CONFIG, help="default: %(default)s")
    parser.add_argument("--url", help="the server's address; default: that of the configuration")
    parser.add_argument("--seed", type=int, default=time.time(), help="same seed, same messages")
    parser.add_argument("--speed", type=float, default=1.0, help="2 halves the delays; default: 1")
    options = parser.parse_args(arguments)
    if not options.speed > 0:
        parser.error("--speed must be over 0")
    try:
        services = load(options.config, options.url)
    except ConfigError as error:
        parser.exit(2, f"{error}\n")
    # The handler must not call stop.set(), which could wait for a lock that this thread holds.
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    stop = threading.Event()
    threads = [ServiceThread(service, options.seed, options.speed, stop) for service in services]
    for thread in threads:
        thread.start()
    join(threads, stop, signals)
    if print_summary(threads) == 0:
        return 0
    return 128 + signals[0] if signals else 1


if __name__ == "__main__":
    sys.exit(main())
