#!/usr/bin/env python3
"""A log server: takes records over HTTP, keeps them in a database, answers queries and statistics.

    python server.py                                   # listens on http://127.0.0.1:8000, writes logs.db
    curl -H 'Authorization: Token demo-pagos' -d '{"message": "hola"}' localhost:8000/logs
    curl 'localhost:8000/logs?severity=ERROR&since=2h'

The way of a record:

    client -- POST /logs --> Handler ---> App.post_logs --> read_batch --> Store.commit --> disk
                             a thread a   who, how much     JSON to        one transaction
                             connection                     Records        for all who wait
    client <-- 200 ----------------------------------------------------------------+

What a 200 promises: the records are committed and the transaction is on disk (fsync) before the answer
leaves. What it does not: that a request without an answer was not stored. A client that sends it again
sends the same Idempotency-Key, and the batch is stored once.

Threads: one accepts connections, and the main thread waits for signals. Each connection has a thread of its
own (Handler), which does all the work of its requests, but for commits: those are made by one for all
(`Store._commit_all`), which sends most of their answers, too. `Server.watch` ends connections and queries past their
deadline, and `SQLiteStore._maintain` deletes what is too old or too much.

Locks: one SQLite connection writes, and whoever holds `Store._writing` uses it. Eight connections read, each a
state of its own (WAL): they and the writer never wait for each other. `Store.page_lock` lets one thread at a time
read and format a page that indexes can serve, and `App.parsing` two parse a large body, for more would only fight
for the GIL. A Handler takes its `unanswered` before a commit, and who sends the answer lets go of it. Who waits for
that holds no other lock.

Sections: 1 Constants, 2 Errors, 3 Configuration, 4 Records, 5 Bodies, 6 Queries, 7 Store, 8 SQLite,
9 ClickHouse, 10 Endpoints, 11 HTTP, 12 Front page, 13 Main. Each needs only those before it.
"""

from __future__ import annotations

import argparse
import ast
import base64
import bisect
import contextlib
import csv
import dataclasses
import difflib
import email.utils
import functools
import gc
import hashlib
import hmac
import http.client
import io
import ipaddress
import itertools
import json
import logging
import os
import pathlib
import queue
import re
import reprlib
import signal
import socket
import socketserver
import sqlite3
import ssl
import struct
import sys
import threading
import time
import urllib.parse
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, TypeVar

try:
    import resource
except ImportError:  # Windows has neither the module nor the bound on open files
    resource = None  # type: ignore[assignment]

# ---------------------------------------------------------------- 1. Constants

SECOND = 1_000_000  # points in time are whole microseconds since 1970, UTC; waits are seconds
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86400 * SECOND
KEY_LIFETIME = DAY  # of an Idempotency-Key
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=timezone.utc), timedelta(microseconds=1)
MIN_TIMESTAMP = (datetime.min.replace(tzinfo=timezone.utc) - EPOCH) // MICROSECOND
MAX_TIMESTAMP = (datetime.max.replace(tzinfo=timezone.utc) - EPOCH) // MICROSECOND

# What a client may send and ask for
MAX_BODY_BYTES = 10 << 20  # after decompression; one batch of syslog-ng is 3 MB
MAX_MESSAGE_BYTES, MAX_ATTRIBUTES_BYTES = 256 << 10, 64 << 10
MAX_SERVICE_CHARS, MAX_KEY_CHARS = 128, 255  # the key is an Idempotency-Key
MAX_LINE_BYTES, MAX_HEADERS = 16 << 10, 100  # of a request's head
MAX_ID = 1 << 53  # JavaScript and jq read no larger number
MAX_LIMIT = 10_000  # records in one page of GET /logs; limit=0 streams them all
MAX_STEPS = 10_000  # of a histogram
MAX_RECORDS = 100_000  # in one batch: 10 MiB of records of 100 bytes; a million tiny ones would hold all others up
MAX_GZIP_MEMBERS = 100
MAX_ERRORS_LISTED = 100  # in the answer to a batch

# How much the server takes on at a time
MAX_CONNECTIONS = 900  # a thread and a file descriptor each; systems often allow 1024 of the latter
MAX_BODIES_BYTES = 64 << 20  # of all bodies being read or waiting for a commit
SEND_BUFFER_BYTES = 256 << 10  # what the system keeps for a client that does not read; else it grows to 4 MB each
MAX_COMMIT_RECORDS = 1_000  # then a commit takes no more batches: one client's is parsed while another's is written
SMALL_BATCH_RECORDS = 100  # a batch below this lets others join, to share one fsync, as long as more come,
SMALL_BATCHES = 32  # until so many are there
PAGE_RECORDS = 1_000  # that a stream reads at a time
GC_OBJECTS = 50_000  # between looks for cycles, which parsing makes none of: at Python's 700, a fifth of a batch's time
READERS = 8  # queries at a time; more wait for their turn

# How long it waits, in seconds
IDLE_SECONDS = 75  # for the next request; clients lose records on servers that close after 1-5 s
HEADER_SECONDS = 10  # for a request's head, from the end of its first line
REQUEST_SECONDS = 120  # for a whole body: 10 MiB at 700 kbit/s
SEND_SECONDS = 30  # for the client to take the next piece of an answer
QUERY_SECONDS = 10  # for one query, or for one page of a stream; and before it, for a reader that is free
LOCK_SECONDS = 2  # for another process that has locked the database
FOLLOW_SECONDS, HEARTBEAT_SECONDS = 0.1, 15  # between looks for new records, and between blank lines without any
SHUTDOWN_SECONDS = 3  # for requests in flight, on SIGTERM
RETRY_SECONDS = 2  # that a Retry-After asks for; clients give up on long ones

SEVERITIES = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
SEVERITY_NAMES = {number: name for name, number in SEVERITIES.items()}
SEVERITY_ALIASES = SEVERITIES | {"WARN": 30} | {
    **dict.fromkeys(["TRACE", "VERBOSE", "SILLY", "FINE", "FINER", "FINEST", "DBG"], 10),
    **dict.fromkeys(["NOTICE", "INFORMATION", "INFORMATIONAL", "HTTP", "LOG"], 20),
    **dict.fromkeys(["ERR", "SEVERE", "FAILURE"], 40),
    **dict.fromkeys(["CRIT", "FATAL", "ALERT", "EMERG", "EMERGENCY", "PANIC"], 50),
}

Json = Any  # whatever json.loads gives
show = reprlib.repr  # a value in an error message, cut short
encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode  # as it is stored
decode_one, SPACE = json.JSONDecoder().raw_decode, re.compile(r"\s*")
dump_json = json.JSONEncoder(ensure_ascii=False).encode  # with blanks, as it is answered
http_date = functools.lru_cache(1)(functools.partial(email.utils.formatdate, usegmt=True))  # of a whole second
log = logging.getLogger("server")


# ---------------------------------------------------------------- 2. Errors


class Refusal(Exception):
    """A request that is not carried out: raised anywhere, turned into an answer by `App.refuse`.

    `error` says in one sentence what is wrong, `hint` what to do; `body` goes beside them into the JSON.
    """

    def __init__(self, status: int, error: str, hint: str, body: dict[str, Json] | None = None, **headers: str):
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint
        self.body = {"error": error, "hint": hint, **(body or {})}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Unavailable(Refusal):
    """503: not now, but what was asked for may be asked for again."""

    def __init__(self, error: str, hint: str = "Send it again in a few seconds."):
        super().__init__(503, error, hint, Retry_After=str(RETRY_SECONDS))


class RecordError(Exception):
    """What is wrong with one record of a batch; `field` is the one at fault."""

    def __init__(self, field: str, error: str, forbidden: bool = False):
        super().__init__(error)
        self.field, self.error, self.forbidden = field, error, forbidden


class StartError(Exception):
    """What keeps the server from starting, a line for each mistake; exit status 2."""


# ---------------------------------------------------------------- 3. Configuration


class Token(NamedTuple):
    """A secret and what it is good for: `role` is "service", "shipper" or "read"; only the first has a service."""

    secret: str
    role: str
    service: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    """A configuration that has been checked; `load_config` makes it. None stands for no bound."""

    host: str
    port: int
    store: str
    tokens: tuple[Token, ...]
    allowed_hosts: frozenset[str]  # in lower case
    tls: dict[str, str]  # "certificate" and "key", or nothing
    max_age_days: float | None = 30
    max_size_mb: float | None = 1024
    max_records_per_second: float | None = None

    @functools.cached_property
    def reading_is_closed(self) -> bool:
        """Whether GET needs a token."""
        return any(token.role == "read" for token in self.tokens)

    def token_of(self, secret: str, *roles: str) -> Token | None:
        """The token of one of these roles with that secret. Looks at every token to its end, found or not,
        so that the time it takes tells nothing (https://docs.python.org/3/library/hmac.html#hmac.compare_digest)."""
        found, secret_bytes = None, secret.encode()
        for token in self.tokens:
            if hmac.compare_digest(token.secret.encode(), secret_bytes) and token.role in roles:
                found = token
        return found


@functools.lru_cache(256)
def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


# The shape of config.json: a rule is the words for what a value must be, and whether it is.
# "?" marks a key that may be left out, "*?" stands for any number of names.
ANY = ("anything", lambda v: True)
TEXT = ("a text that is not empty, nor has blanks around it", lambda v: isinstance(v, str) and v == v.strip() != "")
TEXTS = ("a list of such texts", lambda v: isinstance(v, list) and all(map(TEXT[1], v)))
PORT = ("a whole number from 0 to 65535", lambda v: type(v) is int and 0 <= v <= 65535)
BOUND = ("a number above 0, or null for no bound", lambda v: v is None or (type(v) in (int, float) and v > 0))
SHAPE: dict[str, Any] = {
    "server": {
        "host": TEXT, "port": PORT, "store": TEXT, "read_tokens?": TEXTS, "shipper_tokens?": TEXTS,
        "retention?": {"max_age_days?": BOUND, "max_size_mb?": BOUND}, "max_records_per_second?": BOUND,
        "allowed_hosts?": TEXTS, "tls?": {"certificate": TEXT, "key": TEXT},
    },
    "services": {"*?": {"token": TEXT, "iterations?": ANY, "delay_seconds?": ANY, "logs?": ANY}},
    "simulator?": {"url?": TEXT},
}


def mistakes_in(value: Json, shape: Any, path: str = "") -> Iterator[str]:
    """A line for each place where a value has not the shape, with its path."""
    if isinstance(shape, tuple):
        if not shape[1](value):
            kinds: dict[Any, str] = {str: "this text", list: "this list", dict: "an object"}
            kind = kinds.get(type(value)) or show(value)
            yield f"{path}: must be {shape[0]}, not {kind}"  # not the text itself: it may be a token
        return
    if not isinstance(value, dict):
        yield f"{path or 'the file'}: must be an object"
        return
    keys = {name.rstrip("?"): name for name in shape}
    for name in value:
        place = f"{path}.{name}".lstrip(".")
        if name in keys or "*" in keys:
            yield from mistakes_in(value[name], shape[keys[name if name in keys else "*"]], place)
        else:
            close = difflib.get_close_matches(name, keys, 1)
            yield f"{place}: unknown key" + (f"; did you mean {close[0]}?" if close else "")
    missing = (name for name in shape if not name.endswith("?") and name not in value)
    yield from (f"{path}.{name}: missing".lstrip(".") for name in missing)


def unsafe_tokens(tokens: list[Token], host: str) -> Iterator[str]:
    """A line for each reason not to start with these tokens."""
    for secret, uses in Counter(token.secret for token in tokens).items():
        if uses > 1:
            owners = ", ".join(token.service or token.role for token in tokens if token.secret == secret)
            yield f"the tokens of {owners} are the same: each must differ"
    if not is_loopback(host) and not any(token.role == "read" for token in tokens):
        yield f"server.read_tokens: must not be empty while the host is {host}, or everyone could read"
    if not is_loopback(host) and any(token.secret.startswith("demo-") for token in tokens):
        yield f"the sample tokens (demo-...) are known to everyone: replace them while the host is {host}"


def load_config(path: pathlib.Path, **overrides: Json) -> Config:
    """Reads and checks a file; overrides that are not None replace keys of its "server". Raises StartError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StartError(f"{path}: can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StartError(f"{path}: not JSON: {error}") from None
    if isinstance(document, dict) and isinstance(document.get("server"), dict):
        document["server"] |= {name: value for name, value in overrides.items() if value is not None}
    mistakes = list(mistakes_in(document, SHAPE))
    with contextlib.suppress(AttributeError, KeyError, TypeError):  # a wrong shape has been named by now
        server = document["server"]
        tokens = [Token(secret, "read") for secret in server.get("read_tokens", [])]
        tokens += [Token(secret, "shipper") for secret in server.get("shipper_tokens", [])]
        tokens += [Token(service["token"], "service", name) for name, service in document["services"].items()]
        mistakes += unsafe_tokens(tokens, server["host"])
        names = [name for name in document["services"] if not 0 < len(name) <= MAX_SERVICE_CHARS]
        mistakes += [f"services.{name}: must have a name of 1 to {MAX_SERVICE_CHARS} characters" for name in names]
    if mistakes:
        raise StartError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return Config(
        **{name: server[name] for name in ("host", "port", "max_records_per_second") if name in server},
        **server.get("retention", {}),
        store=server["store"] if "://" in server["store"] else str(path.parent / server["store"]),
        tokens=tuple(tokens),
        allowed_hosts=frozenset(name.lower() for name in server.get("allowed_hosts", [])),
        tls={name: str(path.parent / file) for name, file in server.get("tls", {}).items()},
    )


# ---------------------------------------------------------------- 4. Records


class Record(NamedTuple):
    """One record as the store takes it. A NamedTuple and not a dataclass: it is the row, as it stands."""

    timestamp: int | None  # µs; None where the sender left it out: the time of the commit
    service: str
    severity: int  # a value of SEVERITIES
    message: str
    attributes: str  # a JSON object, written by `attributes_json`


class StoredRecord(NamedTuple):
    """One record as the store gives it back."""

    id: int
    received_at: int  # µs
    timestamp: int
    service: str
    severity: int
    message: str
    attributes: str

    def json(self) -> str:
        """A line of JSON, without its end; the attributes go out as they lie in the store."""
        return (
            f'{{"id":{self.id},"timestamp":"{format_timestamp(self.timestamp)}",'
            f'"received_at":"{format_timestamp(self.received_at)}","service":{encode_json(self.service)},'
            f'"severity":"{SEVERITY_NAMES[self.severity]}","message":{encode_json(self.message)},'
            f'"attributes":{self.attributes}}}'
        )


def format_timestamp(microseconds: int) -> str:
    """
    >>> format_timestamp(1795486452123456)
    '2026-11-24T02:14:12.123456Z'
    """
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds")[:-6] + "Z"


def now() -> int:
    """In µs since 1970, by the system's clock, which may go back."""
    return time.time_ns() // 1000


NUMBER = re.compile(r"-?\d+(\.\d+)?")
# What fromisoformat leaves out: ", " or lower case between the parts, words for UTC, a "+" that a URL made a space.
LOOSE_TIMESTAMP = re.compile(r"([\d-]+)(?:[tT ]|, ?)([\d:]+(?:[.,]\d+)?) ?(?:[zZ]|UTC|GMT|([+ -]\d\d:?(?:\d\d)?))?")


def parse_timestamp(value: str | float) -> int:
    """A point in time, in any usual form, in microseconds since 1970; without an offset it is UTC.

    >>> parse_timestamp("2026-11-24T03:14:12.123456+01:00") == parse_timestamp("2026-11-24, 02:14:12.123456")
    True
    >>> {parse_timestamp(n) for n in (1795486452, 1795486452000, "1795486452000000", 1795486452000000000)}
    {1795486452000000}

    Raises ValueError for all else, and outside of the years 1 to 9999.
    """
    if isinstance(value, str) and (value[4:5] == "-" or len(value) == 8 or not NUMBER.fullmatch(value)):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            if not (parts := LOOSE_TIMESTAMP.fullmatch(value.strip())):
                raise
            moment = datetime.fromisoformat(f"{parts[1]}T{parts[2]}{(parts[3] or 'Z').replace(' ', '+')}")
        microseconds = ((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) - EPOCH) // MICROSECOND
    else:
        number = float(value) if isinstance(value, float) or "." in str(value) else int(str(value))
        size = abs(number)  # today, seconds have 10 digits, ms 13, µs 16, ns 19
        number *= SECOND if size < 1e11 else 1000 if size < 1e14 else 1
        microseconds = round(number if size < 1e17 else number // 1000)
    if not MIN_TIMESTAMP <= microseconds <= MAX_TIMESTAMP:
        raise ValueError("outside of the years 1 to 9999")
    return microseconds


def parse_severity(value: Json, name: str = "severity") -> int:
    """The number of a severity's name in any case; under the name "level", of a number on pino's scale too.

    >>> [parse_severity("Warn"), parse_severity("emerg"), parse_severity(30, "level"), parse_severity("60", "level")]
    [30, 50, 20, 50]

    Raises ValueError (https://github.com/pinojs/pino/blob/main/docs/api.md#logger-level).
    """
    if isinstance(value, str) and (number := SEVERITY_ALIASES.get(value.upper())):
        return number
    if name == "level" and re.fullmatch(r"\d{1,3}", str(value)):
        return min(max(int(value) // 10 * 10 - 10, 10), 50)
    raise ValueError(f"must be one of {', '.join(SEVERITIES)} or a usual other name for it, not {show(value)}")


def take(fields: dict[str, Json], *names: str) -> tuple[str, Json]:
    """Takes the first of `names` that has a value out of `fields`: its name, and the value or None. For aliases; the
    callers take the canonical name themselves, which saves a quarter of a record's time."""
    for name in names:
        if (value := fields.pop(name, None)) is not None:
            return name, value
    return names[0], None


def parse_record(fields: Json, token: Token) -> Record:
    """Makes a record of a JSON object, which it empties. Raises RecordError.

    >>> parse_record({"msg": "hi", "level": "warn", "ts": 1795486452, "user": "bob"}, Token("t", "service", "app"))
    Record(timestamp=1795486452000000, service='app', severity=30, message='hi', attributes='{"user": "bob"}')
    """
    if not isinstance(fields, dict):
        raise RecordError("record", f"must be a JSON object, not {show(fields)}")
    if "received_at" in fields and "id" in fields:  # what GET gave out comes in again
        del fields["received_at"], fields["id"]
    message = take_message(fields)
    name, timestamp = "timestamp", fields.pop("timestamp", None)
    if timestamp is None:
        name, timestamp = take(fields, "time", "ts", "date", "created", "@timestamp")
    try:
        timestamp = None if timestamp is None else parse_timestamp(timestamp)
    except (ValueError, TypeError, OverflowError):
        raise RecordError(name, f"must be ISO 8601 or an epoch number, not {show(timestamp)}") from None
    name, severity = "severity", fields.pop("severity", None)
    if severity is None:
        name, severity = take(fields, "level", "levelname")
    try:
        severity = 20 if severity is None else parse_severity(severity, name)
    except ValueError as error:
        raise RecordError(name, str(error)) from None
    return Record(timestamp, take_service(fields, token), severity, message, attributes_json(fields))


def take_message(fields: dict[str, Json]) -> str:
    """Takes the message out of `fields`. Raises RecordError."""
    name, message = "message", fields.pop("message", None)
    if message is None:
        name, message = take(fields, "msg", "log")
        if message is None:
            raise RecordError("message", "is missing")
    if not isinstance(message, str) or not message:
        raise RecordError(name, "must be a text that is not empty")
    # a character has 4 bytes at most, so that only a long text need be encoded to know
    if len(message) > MAX_MESSAGE_BYTES // 4 and len(message.encode()) > MAX_MESSAGE_BYTES:
        raise RecordError(name, f"is longer than {MAX_MESSAGE_BYTES >> 10} KiB")
    return message


def take_service(fields: dict[str, Json], token: Token) -> str:
    """Takes the service out of `fields`. Raises RecordError, `forbidden` where it is another than the token's."""
    name, service = "service", fields.pop("service", None)
    if token.role == "service":
        if service not in (None, "", token.service):
            error = f"this token writes records of {token.service} only, not of {show(service)}"
            raise RecordError("service", error, forbidden=True)
        return token.service
    if service is None:
        name, service = take(fields, "service", "logger", "name")
    if not isinstance(service, str) or not 0 < len(service) <= MAX_SERVICE_CHARS:
        raise RecordError(name, f"must be a text of 1 to {MAX_SERVICE_CHARS} characters, with a shipper's token")
    return service


def attributes_json(fields: dict[str, Json]) -> str:
    """What is left in `fields`, and in its own "attributes", as JSON. Raises RecordError.

    >>> attributes_json({"user": "bob", "attributes": {"n": [1, {"a": 2}]}})
    '{"user": "bob", "n": [1,{"a":2}]}'

    The blanks are there at the top level only: so `Store.where` can find `, "user": "bob", ` as plain text.
    """
    if (own := fields.pop("attributes", None)) is not None:
        if not isinstance(own, dict):
            raise RecordError("attributes", f"must be a JSON object, not {show(own)}")
        fields |= own
    if not fields:
        return "{}"
    try:
        text = "{" + ", ".join([f"{encode_json(key)}: {encode_json(value)}" for key, value in fields.items()]) + "}"
    except (ValueError, RecursionError):
        raise RecordError("attributes", "must have no NaN or Infinity, and not be nested too deep") from None
    # the blanks that are ours, 2n - 1, do not count
    if len(text) > MAX_ATTRIBUTES_BYTES // 4 and len(text.encode()) - 2 * len(fields) + 1 > MAX_ATTRIBUTES_BYTES:
        raise RecordError("attributes", f"are longer than {MAX_ATTRIBUTES_BYTES >> 10} KiB")
    return text


# ---------------------------------------------------------------- 5. Bodies


@dataclasses.dataclass(eq=False)
class Batch:
    """The records of one POST on their way into the store, and what became of them."""

    token: Token
    records: list[Record]
    rejected: Counter[str]  # by the field at fault
    forbidden: int  # of the rejected, those that named another service
    errors: list[dict[str, Json]]  # the first of them, for the answer
    counts: Counter[tuple[int | None, str, int]]  # of the records by minute, service and severity
    key: bytes = b""  # SHA-256 of token and Idempotency-Key, where there is one
    body_hash: bytes = b""  # SHA-256 of the body, with it
    size: int = 0  # of the body, in bytes
    first_id: int | None = None  # set by the store, as all that follows
    last_id: int | None = None
    repeated: bool = False  # it came with this key before, and its answer is the one of then
    kept_answer: str | None = None  # of a batch with a key
    failure: Exception | None = None

    def answer(self) -> dict[str, Json]:
        """What POST /logs answers."""
        accepted = len(self.records) if self.first_id else 0
        ids = {"first_id": self.first_id, "last_id": self.last_id}
        return {"accepted": accepted, "rejected": self.rejected.total(), **ids, "errors": self.errors}


Parse = Callable[[Json, Token], Record]  # raises RecordError


def read_batch(values: Iterable[Json], token: Token, parse: Parse = parse_record) -> Batch:
    """Sorts the values of a body into records and errors. The common case takes 2.5 µs a record."""
    records: list[Record] = []
    rejected: Counter[str] = Counter()
    errors: list[dict[str, Json]] = []
    forbidden = 0
    for index, value in enumerate(values):
        try:
            records.append(parse(value, token))
        except RecordError as error:
            rejected[error.field] += 1
            forbidden += error.forbidden
            if len(errors) < MAX_ERRORS_LISTED:
                errors.append({"index": index, "field": error.field, "error": error.error})
    counts = Counter([(t and t // MINUTE * MINUTE, service, severity) for t, service, severity, *_ in records])
    return Batch(token, records, rejected, forbidden, errors, counts)


def parse_body(data: bytes) -> list[Json]:
    """The values in a body, whatever it calls itself: JSON objects and arrays one after the other, or a form.

    >>> parse_body(b'{"message": "a"}{"message": "b"}') == parse_body(b'{"logs": [{"message": "a"}, {"message": "b"}]}')
    True
    >>> parse_body(b"message=a&severity=ERROR")
    [{'message': 'a', 'severity': 'ERROR'}]

    Raises Refusal: 422, with the place of the fault.
    """
    text = data.decode(json.detect_encoding(data), "replace").strip()
    if text.startswith("--") and "form-data" in text:
        raise Refusal(415, "A multipart form is not taken.", "Send JSON or a plain form: curl -d, not curl -F.")
    is_form = text[:1] not in ("{", "[") and "=" in text
    try:
        values = [parse_form(text)] if is_form else split_json(text)
        if is_form or "\\ud" in text or "\\uD" in text:  # maybe half a surrogate pair: U+FFFD takes its place
            halves = json.dumps(values, ensure_ascii=False).encode("utf-16", "surrogatepass")
            values = json.loads(halves.decode("utf-16", "replace"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno} (character {error.pos})"
        raise Refusal(422, f"The body is not JSON: {error.msg}, {place}.", "Mend it; nothing was stored.") from None
    except (ValueError, RecursionError):
        hint = "Send numbers of 4,300 digits, objects some hundreds deep and forms of 1,000 fields at most."
        raise Refusal(422, "The body has a number too long, is nested too deep or has too many fields.", hint) from None
    if not values:
        raise Refusal(422, "The body holds no record.", 'Send a JSON object such as {"message": "hello"}.')
    return values


def split_json(text: str) -> list[Json]:
    """The JSON values that stand one after the other in a text, with those of an array or of "logs" one by one."""
    values, offset, found = [], 0, 0
    while offset < len(text):
        value, offset = decode_one(text, offset)
        if isinstance(value, dict) and isinstance(value.get("logs"), list) and "message" not in value:
            value = value["logs"]
        if isinstance(value, list):
            values += value
        else:
            values.append(value)
        found += 1  # of empty arrays, too, there can be millions
        check_number(values, found)
        offset = SPACE.match(text, offset).end()  # type: ignore[union-attr]  # it matches always
    return values


def check_number(values: list[Json], found: int = 0) -> None:
    """Raises Refusal: 413 for more values than a batch may have, or so many found in a body."""
    if max(len(values), found) > MAX_RECORDS:
        raise Refusal(413, f"The batch has more than {MAX_RECORDS:,} records.", "Send smaller batches.")


# Of what logging.handlers.HTTPHandler posts, what says the same again, or nothing to a reader.
NOISE = ("args", "levelno", "msecs", "relativeCreated", "thread", "process", "processName", "taskName", "filename")


def parse_form(text: str) -> dict[str, Json]:
    """A record out of the form that logging.handlers.HTTPHandler posts, or of any other form.

    >>> parse_form("msg=%25s+rows&args=%283%2C%29&levelname=INFO&levelno=20&exc_info=None&user=bob")
    {'levelname': 'INFO', 'user': 'bob', 'message': '3 rows'}
    """
    fields: dict[str, Json] = dict(urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=1000))
    if "msg" not in fields or "levelno" not in fields:
        return fields
    fields["message"] = format_message(fields.pop("msg"), fields.get("args", ""))
    exception = fields.get("exc_info", "").partition("'>, ")[2].rpartition(", <traceback object")[0]
    fields["exc_info"] = exception or "None"  # (<class 'E'>, E('what'), <traceback ...>): only the middle says anything
    empty = [name for name in ("exc_info", "exc_text", "stack_info") if fields.get(name, "None") == "None"]
    return {name: value for name, value in fields.items() if name not in NOISE and name not in empty}


# Of a format, what makes some text of 999 characters at most: a wider one could fill the memory.
CONVERSION = re.compile(r"%(?:\([^()%]*\))?[-#0 +]*\d{0,3}(?:\.\d{0,3})?[hlL]?[diouxXeEfFgGcrsa%]")


def format_message(message: str, arguments: str) -> str:
    """What logging makes of them; `arguments` is whatever repr() gave. Where they do not fit, or could become too much,
    the message as it is."""
    size = message.count("%") * (len(arguments) + 999)
    if arguments in ("", "()", "None") or len(message) > MAX_MESSAGE_BYTES or len(arguments) > MAX_ATTRIBUTES_BYTES:
        return message
    if size > MAX_BODY_BYTES or "%" in CONVERSION.sub("", message):
        return message
    with contextlib.suppress(Exception):
        return message % ast.literal_eval(arguments)
    return message


def split_otlp(body: bytes) -> list[Json]:
    """The log records in OTLP's ExportLogsServiceRequests, each with the attributes that it shares with others.
    Raises Refusal: 422 (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding)."""
    values: list[Json] = []
    try:
        for document in parse_body(body):
            for resource in document["resourceLogs"] or [] if document != {} else []:
                common = otlp_pairs((resource.get("resource") or {}).get("attributes"))
                for scope in resource.get("scopeLogs") or []:
                    name = (scope.get("scope") or {}).get("name")
                    shared = {**common, "scope": name} if name else common
                    values += [(shared, record) for record in scope.get("logRecords") or []]
                    check_number(values)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        hint = 'Send {"resourceLogs": [...]} as the protocol has it; other JSON goes to POST /logs.'
        raise Refusal(422, "The body is not an OTLP logs request.", hint) from None
    return values


def parse_otlp(value: Json, token: Token) -> Record:
    """Makes a record of what `split_otlp` gave (https://opentelemetry.io/docs/specs/otel/logs/data-model/)."""
    shared, record = value
    try:
        attributes = shared | otlp_pairs(record.get("attributes"))
        attributes |= {name: record[name] for name in ("traceId", "spanId") if record.get(name)}
        service, body = attributes.pop("service.name", "unknown_service"), otlp_value(record.get("body") or {})
        nanoseconds = int(record.get("timeUnixNano") or 0) or int(record.get("observedTimeUnixNano") or 0)
        number, text = int(record.get("severityNumber") or 0), str(record.get("severityText")).upper()
        severity = ("DEBUG", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")[(number - 1) // 4] if number > 0 else text
        fields = {
            "message": body if body is None or isinstance(body, str) else encode_json(body),
            "timestamp": format_timestamp(nanoseconds // 1000) if nanoseconds else None,  # a number would be guessed
            "severity": severity if severity in SEVERITY_ALIASES else None,
            "attributes": attributes,
        }
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError):
        raise RecordError("record", "is not a LogRecord of OTLP") from None
    unknown = str(service).startswith("unknown_service")  # the SDK's word for none, which a token may know better
    fields |= {"service": service} if not unknown or token.role == "shipper" else {}
    return parse_record(fields, token)


def otlp_value(value: dict[str, Json]) -> Json:
    """An AnyValue as plain JSON.

    >>> otlp_value({"arrayValue": {"values": [{"intValue": "3"}, {"kvlistValue": {"values": []}}]}})
    [3, {}]
    """
    for kind, content in value.items():
        if kind == "arrayValue":
            return [otlp_value(item) for item in content.get("values") or []]
        if kind == "kvlistValue":
            return otlp_pairs(content.get("values"))
        return int(content) if kind == "intValue" else content
    return None


def otlp_pairs(pairs: list[Json] | None) -> dict[str, Json]:
    """A list of KeyValue as a dict."""
    return {pair["key"] + "": otlp_value(pair.get("value") or {}) for pair in pairs or []}  # TypeError for no text


# ---------------------------------------------------------------- 6. Queries


class Newest(NamedTuple):
    """Up to where all has been committed, in a store whose ids come in order within a slot only (see LANES)."""

    ids: dict[int, int]  # the newest of each slot
    floor: int  # of the slots that are not named


@dataclasses.dataclass(frozen=True)
class Query:
    """What GET /logs and GET /stats ask for; None and () are no such filter. Times in µs, both ends inclusive."""

    severities: tuple[int, ...] = ()
    min_severity: int | None = None
    services: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None
    received_start: int | None = None
    received_end: int | None = None
    contains: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    after_id: int | None = None  # exclusive
    last_id: int | None = None
    after: Newest | None = None  # these two are for ClickHouse what after_id and last_id are for SQLite
    last: Newest | None = None
    cursor: tuple[int, int] | None = None  # (timestamp, id) of the last record of the page before
    descending: bool = True
    by_id: bool = False  # in the order of commits, not of timestamps
    limit: int = 100

    def by_kind(self) -> Query:
        """What of it asks for services and severities: all that the table of counts knows, besides the time."""
        return Query(severities=self.severities, min_severity=self.min_severity, services=self.services)

    @property
    def counted(self) -> bool:
        """Whether counts and indexes can answer it, and no text need be read."""
        return not (self.contains or self.attributes) and self.received_start is None and self.received_end is None


# Parsers of parameters: each raises ValueError with what is allowed.


def parse_duration(text: str) -> int:
    """
    >>> parse_duration("15m") // SECOND
    900
    """
    units = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
    if not (match := re.fullmatch(r"([1-9]\d{0,5})([smhdw])", text)):
        raise ValueError("a number and a unit: 30s, 15m, 2h, 7d or 4w")
    return int(match[1]) * units[match[2]]


def parse_moment(text: str, end: bool = False) -> int:
    """A timestamp; a date alone as the end is that whole day."""
    try:
        return parse_timestamp(text) + (DAY - 1 if end and re.fullmatch(r"\d{4}-?(\d\d-?\d\d|W\d\d-?\d)", text) else 0)
    except (ValueError, OverflowError):
        raise ValueError("a time such as 2026-11-24T02:14:12Z, a date or an epoch number") from None


def parse_severities(text: str) -> tuple[int, ...]:
    """Names with commas between them."""
    try:
        return tuple(parse_severity(name.strip()) for name in text.split(","))
    except ValueError:
        raise ValueError(", ".join(SEVERITIES)) from None


def parse_text(text: str) -> str:
    """Any text that is not long."""
    if len(text) > 1000:  # so that no single comparison takes long
        raise ValueError("a text of 1,000 characters at most")
    return text


def parse_number(text: str, most: int) -> int:
    """A whole number from 0 to `most`."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > most:
        raise ValueError(f"a whole number from 0 to {most}")
    return int(text)


def parse_choice(text: str, choices: dict[str, Json]) -> Json:
    """What one of a few words stands for."""
    if text not in choices:
        raise ValueError(" or ".join(choices))
    return choices[text]


def parse_cursor(text: str) -> tuple[int, int]:
    """The cursor in a "next" link, as `next_link` makes it."""
    try:
        timestamp, record_id = map(int, base64.urlsafe_b64decode(text).decode("ascii").split(":"))
        if MIN_TIMESTAMP <= timestamp <= MAX_TIMESTAMP and 0 <= record_id <= MAX_ID:
            return timestamp, record_id
        raise ValueError
    except ValueError:
        raise ValueError('the cursor of a "next" link, as it was given') from None


# The parameters: the field of Query that each sets, and its parser.
Parameters = dict[str, tuple[str, Callable[[str], Json]]]
FILTERS: Parameters = {
    "severity": ("severities", parse_severities),
    "min_severity": ("min_severity", lambda text: parse_severities(text.replace(",", ";"))[0]),  # one name, and no list
    "service": ("services", lambda text: tuple(text.split(","))),
    "timestamp_start": ("start", parse_moment),
    "timestamp_end": ("end", functools.partial(parse_moment, end=True)),
    "received_at_start": ("received_start", parse_moment),
    "received_at_end": ("received_end", functools.partial(parse_moment, end=True)),
    "since": ("start", lambda text: max(now() - parse_duration(text), MIN_TIMESTAMP)),
    "contains": ("contains", parse_text),
}
LIST_PARAMETERS: Parameters = FILTERS | {
    "order": ("descending", functools.partial(parse_choice, choices={"desc": True, "asc": False})),
    "limit": ("limit", functools.partial(parse_number, most=MAX_LIMIT)),
    "cursor": ("cursor", parse_cursor),
    "format": ("format", functools.partial(parse_choice, choices={name: name for name in ("json", "ndjson", "csv")})),
    "follow": ("follow", functools.partial(parse_choice, choices={"1": True, "0": False})),
    "after": ("after_id", functools.partial(parse_number, most=MAX_ID)),
}
STATS_PARAMETERS: Parameters = FILTERS | {"step": ("step", parse_duration)}


def split_parameters(text: str) -> list[tuple[str, str]]:
    """The pairs of a query string. Raises Refusal: 400."""
    try:
        return urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise Refusal(400, "The query string has more than 200 parameters.", "Send fewer.") from None


def parse_parameters(text: str, parameters: Parameters) -> dict[str, Json]:
    """The fields that a query string sets. Raises Refusal: 400, with the parameter, its value and what is allowed."""
    fields: dict[str, Json] = {"attributes": ()}
    given: set[str] = set()
    for name, value in split_parameters(text):
        if name.startswith("attr."):
            fields["attributes"] += ((name[5:], value),)
            continue
        if name not in parameters:
            close = difflib.get_close_matches(name, [*parameters, "attr."], 1)
            hint = f"{f'Did you mean {close[0]}? ' if close else ''}There are {', '.join(parameters)}, attr.KEY."
            raise Refusal(400, f"There is no parameter {show(name)}.", hint)
        field, parse = parameters[name]
        try:
            if not value:
                raise ValueError("a value that is not empty")
            parsed = parse(value)
        except ValueError as error:
            raise Refusal(400, f"The parameter {name} can't be {show(value)}.", f"Allowed: {error}.") from None
        if name in ("severity", "service"):
            parsed += fields.get(field, ())
        elif name in given:
            raise Refusal(400, f"The parameter {name} is given twice.", "Give it once.")
        given.add(name)
        # since and timestamp_start narrow each other
        fields[field] = max(parsed, fields.get(field, parsed)) if field == "start" else parsed
    return fields


# ---------------------------------------------------------------- 7. Store

Read = Callable[[str, list[Json]], Iterable[Any]]  # SQL and its parameters in, rows out
Mark = Callable[[Json], str]  # takes a value as a parameter, gives the SQL that stands for it
Page = tuple[list[StoredRecord], bool]  # and whether there are more
Stretch = tuple[int | None, int, int]  # the span by which it is counted (None: by records), start, end (exclusive)


# The members of a record's attributes, each between ", " and ", ".
MEMBERS = "', ' || substr(attributes, 2, length(attributes) - 2) || ', '"


class Metrics:
    """Counters for Prometheus, by name and labels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        key = name, tuple(labels.items())
        with self._lock:
            self.values[key] = self.values.get(key, 0) + amount


class Store:
    """Where records live: group commit, and the queries, the same for every kind of database.

    A subclass gives what differs: `write` stores batches, all or none, and sets their ids; `reading` is a context in
    which SELECTs see one state; `mark`, `contains` and `instr` are words of SQL for a parameter, a text in a message
    ignoring case, and the place of a text in another; `newest` says up to where all has been committed; `probe`
    raises Unavailable where it can't commit; `size` counts bytes.
    """

    # methods, which the subclasses define
    write: Callable[[list[Batch]], None]
    reading: Callable[[], AbstractContextManager[Read]]
    mark: Callable[[list[Json], Json], str]
    contains: Callable[[Mark, str], str]
    instr: str
    newest: Callable[[], Any]
    probe: Callable[[], None]
    size: Callable[[], int]
    spans: tuple[int, ...] = ()  # the lengths of the stretches of time that are counted as records come, longest first
    follow_seconds = FOLLOW_SECONDS
    page_lock: AbstractContextManager[Any] = contextlib.nullcontext()  # held for a page that indexes can serve

    def __init__(self, config: Config, metrics: Metrics):
        self.config, self.metrics = config, metrics
        self.waiting: queue.SimpleQueue[tuple[Batch, Callable[[], None]]] = queue.SimpleQueue()
        self._writing = threading.Lock()  # held by the one thread that writes
        self._checking, self._checked = threading.Lock(), 0.0  # when `check` last looked,
        self._trouble: Unavailable | None = None  # and what it found
        self._streams = threading.Semaphore(2)  # that read at a time: the other readers stay free for short queries
        threading.Thread(target=self._commit_all, daemon=True).start()

    def check(self) -> None:
        """Raises Unavailable where nothing can be stored. Anyone may ask, so it looks once a second at most while all
        is well, and those who wait for one look hear the same."""
        asked = time.monotonic()
        with self._checking:
            if self._checked < asked - (0 if self._trouble else 1):
                self._trouble = None
                try:
                    self.probe()
                except Unavailable as trouble:
                    self._trouble = trouble
                self._checked = time.monotonic()
            if self._trouble:
                raise Unavailable(self._trouble.error, self._trouble.hint)  # each raise makes a traceback longer

    def stop_overdue(self) -> None:
        """Stops queries that are past their deadline; `Server.watch` calls it."""

    def close(self) -> bool:
        """Waits for the commit under way and lets no more begin; False where it did not end."""
        return self._writing.acquire(timeout=1)

    # Writing

    def commit(self, batch: Batch, then: Callable[[], None]) -> None:
        """Has a batch stored. Another thread calls `then`, which must not wait for anything, when it is on disk or has
        failed: `batch.failure` is Unavailable, Refusal for a reused key, or what nobody expected."""
        self.waiting.put((batch, then))

    def _commit_all(self) -> None:
        """The thread that commits, for all: those that come while a commit is under way share the next one's fsync."""
        while True:
            taken = [self.waiting.get()]
            with self._writing:
                records, joined = len(taken[0][0].records), 0
                while records < SMALL_BATCH_RECORDS and joined < self.waiting.qsize() < SMALL_BATCHES:
                    joined = self.waiting.qsize()
                    time.sleep(0)  # gives way while others join
                while not self.waiting.empty() and records < MAX_COMMIT_RECORDS:
                    taken.append(self.waiting.get())
                    records += len(taken[-1][0].records)
                # subtle: each statement of a large commit has to win the GIL back from who parses the next batch, and
                # Python hands it over after 5 ms; with less, parsing and writing overlap (a tenth to a fifth faster)
                sys.setswitchinterval(0.005 if records < SMALL_BATCH_RECORDS else 0.0002)
                self._commit_together([batch for batch, _ in taken])
                sys.setswitchinterval(0.005)
            for _, then in taken:
                try:
                    then()
                except Exception:  # the others get their answer all the same
                    log.exception("unexpected error after a commit")
            del taken, then  # nothing of a commit waits in memory for the next

    def _commit_together(self, batches: list[Batch]) -> None:
        """Commits all at once; where that fails for what is in one of them, each alone."""
        began = time.perf_counter()
        try:
            self.write(batches)
        except Unavailable as trouble:
            log.error("nothing was stored: %s", trouble)
            for batch in batches:
                batch.failure = Unavailable(trouble.error, trouble.hint)
        except Exception as error:
            if len(batches) == 1:
                batches[0].failure = error
                return
            for batch in batches:
                batch.failure, batch.repeated = None, False  # of the try that was rolled back
                self._commit_together([batch])
        else:
            stored = [batch for batch in batches if not batch.failure and not batch.repeated]
            if stored:
                self.metrics.add("logs_commits_total")
                self.metrics.add("logs_commit_seconds_total", time.perf_counter() - began)
            for (_, service, severity), records in itertools.chain(*(batch.counts.items() for batch in stored)):
                labels = {"service": service, "severity": SEVERITY_NAMES[severity]}
                self.metrics.add("logs_records_accepted_total", records, **labels)

    # Reading

    def branches(self, query: Query, read: Read, split: bool = False) -> list[tuple[str, Query]]:
        """Tables and queries that together hold just what this query asks for; `split` wants one
        for each service and severity, so that counting need not read a record."""
        return [("logs", query)]

    def between(self, query: Query, after: Any, last: Any) -> Query:
        """What of a query was committed after one `newest` (None: from where it begins) and up to another."""
        after_id = query.after_id if after is None else max(after, query.after_id or 0)
        return dataclasses.replace(query, after_id=after_id, last_id=last)

    def where(self, query: Query, parameters: list[Json]) -> str:
        """The conditions of a query, in SQL that every store understands."""
        mark = functools.partial(self.mark, parameters)
        bounds = {"severity >=": query.min_severity, "timestamp >=": query.start, "timestamp <=": query.end}
        bounds |= {"received_at >=": query.received_start, "received_at <=": query.received_end}
        bounds |= {"id >": query.after_id, "id <=": query.last_id}
        tests = [f"{comparison} {mark(value)}" for comparison, value in bounds.items() if value is not None]
        for column, values in (("service", query.services), ("severity", query.severities)):
            tests += [f"{column} IN ({', '.join(map(mark, values))})"] if values else []
        if query.cursor:
            (timestamp, record_id), sign = query.cursor, "<" if query.descending else ">"
            # (timestamp, id) < (t, i), in two tests: an index can start from the first
            tests.append(f"timestamp {sign}= {mark(timestamp)}")
            tests.append(f"(timestamp {sign} {mark(timestamp)} OR id {sign} {mark(record_id)})")
        if query.contains:
            tests.append(self.contains(mark, query.contains))
        for key, value in query.attributes:  # as a text, or as JSON that is written so; see attributes_json
            written = [encode_json(value)]
            with contextlib.suppress(ValueError, RecursionError):
                json.loads(value)
                written.append(value)
            found = [f"{self.instr}({MEMBERS}, {mark(f', {encode_json(key)}: {text}, ')}) > 0" for text in written]
            tests.append(f"({' OR '.join(found)})")
        return " AND ".join(tests) or "1 = 1"

    def page(self, query: Query, read: Read | None = None, most_chars: int = 8 << 20) -> Page:
        """The first `limit` records, fewer where they are longer than `most_chars`, and whether there are more."""
        if read is None:
            with self.reading() as reader:
                return self.page(query, reader, most_chars)
        parameters: list[Json] = []
        columns, direction = ", ".join(StoredRecord._fields), "DESC" if query.descending else "ASC"
        selects = [
            f"SELECT {columns} FROM {table} WHERE {self.where(part, parameters)}"
            for table, part in self.branches(query, read)
        ]
        order = f"id {direction}" if query.by_id else f"timestamp {direction}, id {direction}"
        sql = f"{' UNION ALL '.join(selects)} ORDER BY {order} LIMIT {self.mark(parameters, query.limit + 1)}"
        records: list[StoredRecord] = []
        size = 0
        for record in map(StoredRecord._make, read(sql, parameters) if selects else ()):
            if len(records) == query.limit or size > most_chars:
                return records, True
            size += len(record.message) + len(record.attributes)
            records.append(record)
        return records, False

    def stream(self, query: Query) -> Iterator[list[StoredRecord]]:
        """All records of a query that has an end, in pages. Each is a read of its own: a long one would keep SQLite's
        WAL from being reset, and it would grow (https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files)."""
        query, more = dataclasses.replace(query, limit=PAGE_RECORDS), True
        while more:
            with self._streams:
                records, more = self.page(query, most_chars=1 << 20)
            if records:
                last = records[-1]
                yield records
                del records  # or they would wait in memory for a slow client
                rest = {"after_id": last.id} if query.by_id else {"cursor": (last.timestamp, last.id)}
                query = dataclasses.replace(query, **rest)

    def follow(self, query: Query) -> Iterator[list[StoredRecord]]:
        """The last `limit` records that fit into a page, or those after `after_id`; then, without end, new ones.
        An empty list says that there is nothing new."""
        query, newest = dataclasses.replace(query, by_id=True, descending=False), self.newest()
        so_far = self.between(query, None, newest)
        if query.after_id is None and query.limit:
            yield self.page(dataclasses.replace(so_far, descending=True))[0][::-1]
        else:
            yield from self.stream(so_far)
        while True:
            yield []
            seen, newest = newest, self.newest()
            yield from self.stream(self.between(query, seen, newest)) if newest != seen else ()

    def stats(self, query: Query, step: int | None = None) -> dict[str, Json]:
        """What GET /stats answers: exact, and all of one state. Raises Refusal: 400 for too many steps."""
        low, high = query.start, query.end
        whole = MIN_TIMESTAMP if low is None else low, (MAX_TIMESTAMP if high is None else high) + 1
        spans = self.spans if query.counted else ()
        services: Counter[str] = Counter()
        severities = Counter(dict.fromkeys(SEVERITIES, 0))
        answer: dict[str, Json] = {"first_timestamp": None, "last_timestamp": None}
        with self.reading() as read:
            for stretch in stretches(*whole, spans):
                for service, severity, records in self._count(query, stretch, read):
                    services[service] += records
                    severities[SEVERITY_NAMES[severity]] += records
            for name, descending in (("first_timestamp", False), ("last_timestamp", True)) if services else ():
                for record in self.page(dataclasses.replace(query, limit=1, descending=descending), read)[0]:
                    answer[name] = format_timestamp(record.timestamp)
                    low = record.timestamp if low is None else low
                    high = record.timestamp if query.end is None else high  # low: the first's; high: the last's
            if step:
                steps = [] if low is None or high is None else self._histogram(query, step, low, high, read)
                answer["histogram"] = steps
        counts = {"by_service": dict(services.most_common()), "by_severity": dict(severities)}
        return {"total": severities.total(), **counts, **answer}

    def _histogram(self, query: Query, step: int, low: int, high: int, read: Read) -> list[Json]:
        begins = range(low // step * step, high + 1, step)
        if len(begins) > MAX_STEPS:
            hint = f"Take a longer one, or a shorter time: {MAX_STEPS} steps at most."
            raise Refusal(400, f"That step makes {len(begins)} steps.", hint)
        counts = {begin: [0] * len(SEVERITIES) for begin in begins}
        spans = tuple(span for span in self.spans if query.counted and step % span == 0)
        for stretch in stretches(low, high + 1, spans):
            for begin, *more in self._count(query, stretch, read, step):
                counts[begin] = [a + (b or 0) for a, b in zip(counts[begin], more, strict=True)]  # SQL's sum of none
        return [
            {"start": format_timestamp(max(begin, MIN_TIMESTAMP)), **dict(zip(SEVERITIES, numbers, strict=True))}
            for begin, numbers in counts.items()
        ]

    def _count(self, query: Query, stretch: Stretch, read: Read, step: int | None = None) -> Iterable[Any]:
        """Counts a stretch of time: rows of service, severity, count; with a step, of its begin and a count for each
        severity."""
        span, start, end = stretch
        parameters: list[Json] = []
        mark = functools.partial(self.mark, parameters)
        time_of, count = ("start", "sum(records)") if span else ("timestamp", "count(*)")
        if span:
            branches = [("counts", query.by_kind())]
        else:
            branches = self.branches(dataclasses.replace(query, start=start, end=end - 1), read, split=query.counted)
        selects = []
        for table, part in branches:
            columns = ["service", "severity", count]
            if step:
                # subtle: % has the sign of what it divides, so the steps are counted from before the first timestamp
                before = -(MIN_TIMESTAMP // step) * step
                begin = f"{time_of} - ({time_of} + {mark(before)}) % {mark(step)}" if step != span else time_of
                columns = [begin, *(f"{count} FILTER (WHERE severity = {severity})" for severity in SEVERITY_NAMES)]
            bounds = f"span = {mark(span)} AND start >= {mark(start)} AND start < {mark(end)} AND " if span else ""
            where = f"{bounds}{self.where(part, parameters)} GROUP BY {'1' if step else '1, 2'}"
            selects.append(f"SELECT {', '.join(columns)} FROM {table} WHERE {where}")
        return read(" UNION ALL ".join(selects), parameters) if selects else ()


def stretches(low: int, high: int, spans: tuple[int, ...]) -> Iterator[Stretch]:
    """Cuts [low, high) into whole spans, the longest that fit, and what is left at the ends.

    >>> list(stretches(50, 3700, (3600, 60)))
    [(60, 60, 3660), (None, 50, 60), (None, 3660, 3700)]
    """
    if not spans:
        yield from [(None, low, high)] if low < high else []
        return
    start, end = -(-low // spans[0]) * spans[0], high // spans[0] * spans[0]
    if start < end:
        yield spans[0], start, end
    else:
        start = end = high
    yield from stretches(low, start, spans[1:])
    yield from stretches(end, high, spans[1:])


# ---------------------------------------------------------------- 8. SQLite

SCHEMA = pathlib.Path(__file__).with_name("schema.sql")
APPLICATION_ID, SCHEMA_VERSION, DB_PAGE_BYTES = 0x4C4F4753, 1, 4096  # as schema.sql and SQLite set them
OLDEST = "id < (SELECT min(id) FROM logs) + ? AND received_at < ?"  # received_at grows with id
MAX_KINDS = 200  # pairs of service and severity that a query merges; with more, it filters logs_by_time
NARROW_IDS = 20_000  # a narrower range of ids is read whole and sorted
SAMPLE_RECORDS = 100_000  # looked at in a query's order; where none of them is asked for, all are read in the table's
FORGET_RECORDS = 2_000  # that retention deletes at a time
MAX_FREE_PAGES = 1_000  # that stay in the file for the next records


class SQLiteStore(Store):
    """One file, made by schema.sql. Raises StartError where the file is another thing."""

    spans, instr = (DAY, HOUR, MINUTE), "instr"

    def __init__(self, config: Config, metrics: Metrics):
        super().__init__(config, metrics)
        self.path = pathlib.Path(config.store).resolve()
        self.page_lock = threading.Lock()  # more are no faster, and the writer has to win the GIL among them all
        self._shrunk = False  # by a vacuum, in the WAL: a checkpoint is due
        self._unchecked = 0  # bytes that came in since its size was looked at
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._deadlines: dict[sqlite3.Connection, float] = {}  # of the readers at work
        try:
            if not self._is_ours():
                self._create()
            self._inode = os.stat(self.path).st_ino
            self._db = self._connect_writer()
            for _ in range(READERS):
                self._readers.put(self._connect("ro"))
        except (OSError, sqlite3.Error) as error:
            raise StartError(f"{self.path}: can't be opened as the store: {error}") from None
        threading.Thread(target=self._maintain, daemon=True).start()

    def _is_ours(self) -> bool:
        """Whether the file is a database of ours, by its first bytes; False where there is none yet. Only reads
        (https://www.sqlite.org/fileformat.html#the_database_header)."""
        if not self.path.exists() or not (head := self.path.open("rb").read(100)):
            return False
        page_size, pages, version, application = struct.unpack(">16xH10xI28xI4xI28x", head.ljust(100, b"\0"))
        size, whole = self.path.stat().st_size, pages * (65536 if page_size == 1 else page_size)
        if not head.startswith(b"SQLite format 3\0") or application != APPLICATION_ID:
            raise StartError(f"{self.path}: is not a database of this server; name another file as the store")
        if version != SCHEMA_VERSION:
            raise StartError(f"{self.path}: has schema version {version}, not {SCHEMA_VERSION}; name another file")
        if size < whole and not self.path.with_name(f"{self.path.name}-wal").exists():  # which may have the rest
            raise StartError(f"{self.path}: is cut short, {size} of {whole} bytes; put a whole copy in its place")
        return True

    def _create(self) -> None:
        half_made = self.path.with_name(f"{self.path.name}.new")  # so that a kill leaves no half-made store
        for old in (half_made, *(self.path.with_name(f"{self.path.name}-{end}") for end in ("wal", "shm"))):
            old.unlink(missing_ok=True)  # SQLite would take another store's WAL for this one's
        with contextlib.closing(sqlite3.connect(half_made, isolation_level=None)) as db:
            db.executescript(SCHEMA.read_text(encoding="utf-8"))
            db.execute("PRAGMA journal_mode = WAL")  # readers and the writer never wait for each other
        half_made.replace(self.path)
        if os.name == "posix":  # the new file's name must be on disk too
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, timeout=LOCK_SECONDS, uri=True, isolation_level=None, check_same_thread=False)
        db.create_function("fold", 1, str.casefold, deterministic=True)
        db.execute("SELECT 1 FROM logs LIMIT 1")  # opens the file
        return db

    def _connect_writer(self) -> sqlite3.Connection:
        db = self._connect("rw")
        db.execute("PRAGMA synchronous = FULL")  # an fsync at every commit: what a 200 promises
        db.execute("PRAGMA wal_autocheckpoint = 4000")  # pages, 16 MB: fewer and longer checkpoints
        db.execute("PRAGMA journal_size_limit = 67108864")  # bytes; the WAL shrinks to this after a rush
        db.execute("PRAGMA cache_size = -16384")  # KiB; where the indexes grow stays in memory
        db.set_authorizer(authorize)
        return db

    def close(self) -> bool:
        """Waits for the commit under way, and leaves one whole file."""
        if not super().close():
            return False
        for db in list(self._deadlines):
            db.interrupt()
        with contextlib.suppress(queue.Empty):  # one that is still at work would leave its WAL behind
            for _ in range(READERS):
                self._readers.get(timeout=0.5).close()
        self._db.close()  # the last to close moves what is in the WAL into the file
        return True

    # Writing

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction of the writing connection, for who holds the lock. Raises Unavailable."""
        db = self._db
        try:
            if os.stat(self.path).st_ino != self._inode:
                raise FileNotFoundError
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except OSError:
            hint = "Put it back or start the server again; nothing was stored."
            raise Unavailable("The database file is not where it was.", hint) from None
        except sqlite3.DatabaseError as error:
            if "SQLITE_READONLY" in getattr(error, "sqlite_errorname", ""):
                self._db = self._connect_writer()  # a connection that was opened read-only stays so
            raise unavailable(error) from error
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    def write(self, batches: list[Batch]) -> None:
        """One transaction, in which a batch whose key is known gets its earlier answer and stores nothing."""
        with self._transaction() as db:
            last_id, received_at = db.execute(
                "SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'logs'), 0),"
                " ifnull((SELECT received_at FROM logs ORDER BY id DESC LIMIT 1), 0)"
            ).fetchone()
            received_at = max(now(), received_at)  # it never goes back, whatever the clock does
            keys = [batch.key for batch in batches if batch.key]
            known = f"SELECT key, body, answer FROM answers WHERE key IN ({', '.join('?' * len(keys))})"
            answers = {key: (body, answer) for key, body, answer in db.execute(known, keys)} if keys else {}
            records: list[Record] = []
            counts: Counter[tuple[int | None, str, int]] = Counter()
            given: list[tuple[bytes, bytes, str, int]] = []
            for batch in batches:
                if batch.key in answers:
                    body, batch.kept_answer = answers[batch.key]
                    batch.repeated, batch.failure = True, None if body == batch.body_hash else key_reused()
                    continue
                batch.first_id, batch.last_id = last_id + 1, last_id + len(batch.records)
                last_id = batch.last_id
                if batch.key:
                    batch.kept_answer = dump_json(batch.answer())
                    answers[batch.key] = batch.body_hash, batch.kept_answer
                    given.append((batch.key, *answers[batch.key], received_at))
                records += batch.records
                counts.update(batch.counts)
            insert_rows(db, "INSERT INTO answers (key, body, answer, created_at) VALUES ", "(?, ?, ?, ?)", given)
            # INSERT gives the ids that were told above: AUTOINCREMENT goes on from sqlite_sequence, one by one
            columns = "SELECT ?, ifnull(column1, ?), column2, column3, column4, column5 FROM (VALUES "
            insert = f"INSERT INTO logs (received_at, timestamp, service, severity, message, attributes) {columns}"
            insert_rows(db, insert, "(?, ?, ?, ?, ?)", records, ")", [received_at, received_at])
            self._add_counts(db, counts, received_at)
            self._unchecked += sum(batch.size for batch in batches)
            if self._unchecked > 1 << 20:  # what comes in makes room for itself
                steps, self._unchecked = self._unchecked >> 17, 0  # one for each 128 KiB
                while steps and self._make_room(db):
                    steps -= 1

    def _add_counts(self, db: sqlite3.Connection, counts: Counter[Any], received_at: int) -> None:
        """Adds counts by minute to the table of counts: to the minutes, and to the hours and days they are in."""
        rows: Counter[tuple[int, int, str, int]] = Counter()
        for (minute, service, severity), records in counts.items():
            for span in self.spans:
                rows[span, (received_at if minute is None else minute) // span * span, service, severity] += records
        insert = "INSERT INTO counts (span, start, service, severity, records) VALUES "
        add = " ON CONFLICT DO UPDATE SET records = records + excluded.records"
        values = [(*key, records) for key, records in rows.items()]
        insert_rows(db, insert, "(?, ?, ?, ?, ?)", values, add, sizes=(1000, len(values) % 1000 or 1))

    # Retention

    def _maintain(self) -> None:
        """The thread that deletes what is too old, in steps so small that no writer waits long."""
        while True:
            time.sleep(1)
            try:
                while self._maintain_once():
                    time.sleep(0.01)  # the writers' turn
            except Exception as error:  # the next try may succeed
                log.error("retention: %s", error)

    def _maintain_once(self) -> bool:
        moment, days = now(), self.config.max_age_days
        with self._writing:
            with self._transaction() as db:
                too_old = int(max(moment - days * DAY, 0)) if days else 0  # an INTEGER, however many days
                more = self._make_room(db) or self._forget(db, FORGET_RECORDS, too_old) == FORGET_RECORDS
                db.execute("DELETE FROM answers WHERE created_at < ?", [moment - KEY_LIFETIME])
                pages, free = self._pages(db)
                spare = free > MAX_FREE_PAGES or (free > 0 and pages * DB_PAGE_BYTES > self._max_bytes())
            if spare:  # by executescript, since execute would take the first of its steps only
                self._db.executescript("PRAGMA incremental_vacuum(500)")
            elif self._shrunk:  # the file gets smaller when all of the WAL is in it; PASSIVE waits for no reader
                busy, frames, moved = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._shrunk = bool(busy) or moved < frames
            self._shrunk |= spare
        return more or spare

    def _make_room(self, db: sqlite3.Connection) -> bool:
        """Deletes as many of the oldest records as the file is over its bound, and the answers of their time. False
        where it is not over it, or nothing is left to delete."""
        pages, free = self._pages(db)
        used = (pages - free) * DB_PAGE_BYTES
        excess = used - 0.95 * self._max_bytes()  # the rest is for what comes in until the next look
        if excess <= 0:
            return False
        difference = "(SELECT max(id) FROM logs) - (SELECT min(id) FROM logs)"
        records = db.execute(f"SELECT ifnull({difference}, 0) + 1").fetchone()[0]
        forgotten = self._forget(db, min(FORGET_RECORDS, int(excess * records / used) + 1), MAX_TIMESTAMP)
        oldest = "ifnull((SELECT received_at FROM logs ORDER BY id LIMIT 1), ?)"
        answers = db.execute(f"DELETE FROM answers WHERE created_at < {oldest}", [MAX_TIMESTAMP]).rowcount
        return bool(forgotten or answers)

    def _forget(self, db: sqlite3.Connection, most: int, before: int) -> int:
        """Deletes the oldest records, `most` of those received before `before`, and takes them off the counts.
        Oldest by receipt: what is poured in from an old file today stays as long as today's."""
        minute = "timestamp - (timestamp + ?) % ?"
        groups = db.execute(
            f"SELECT {minute}, service, severity, -count(*) FROM logs NOT INDEXED WHERE {OLDEST} GROUP BY 1, 2, 3",
            [-(MIN_TIMESTAMP // MINUTE) * MINUTE, MINUTE, most, before],
        ).fetchall()
        if groups:
            db.execute(f"DELETE FROM logs NOT INDEXED WHERE {OLDEST}", [most, before])
            self._add_counts(db, Counter({tuple(kind): records for *kind, records in groups}), 0)
            db.execute("DELETE FROM counts WHERE records <= 0")
        return -sum(group[3] for group in groups)

    def _pages(self, db: sqlite3.Connection) -> list[int]:
        """How many pages the file has, and how many of them are free."""
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")]

    def _max_bytes(self) -> float:
        return self.config.max_size_mb * (1 << 20) if self.config.max_size_mb else float("inf")

    # Reading

    @contextlib.contextmanager
    def reading(self) -> Iterator[Read]:
        """A read-only connection in a transaction, stopped at its deadline. Raises Unavailable."""
        try:
            db = self._readers.get(timeout=QUERY_SECONDS)
        except queue.Empty:
            raise Unavailable("Too many queries are under way.") from None
        self._deadlines[db] = time.monotonic() + QUERY_SECONDS
        try:
            db.execute("BEGIN")  # all that is read until the end is of one state
            yield db.execute
        except sqlite3.DatabaseError as error:
            raise unavailable(error) from error
        finally:
            del self._deadlines[db]
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._readers.put(db)

    def stop_overdue(self) -> None:
        """Interrupts readers past their deadline (https://www.sqlite.org/c3ref/interrupt.html)."""
        for db, deadline in list(self._deadlines.items()):
            if deadline < time.monotonic() and self._deadlines.get(db) == deadline:  # the same query still
                db.interrupt()

    def mark(self, parameters: list[Json], value: Json) -> str:
        """Values are bound by their order, so this is called in the order of the text."""
        parameters.append(value)
        return "?"

    def contains(self, mark: Mark, text: str) -> str:
        """LIKE is the fastest there is, 0.16 µs a record, but it knows the case of ASCII only, and ends at a NUL:
        what it finds with "_" for all else is looked at again, by lower() or, six times slower, in Python."""
        pattern = re.sub(r"[^\x01-\x7f]", "_", re.sub(r"([%_\\])", r"\\\1", text))
        maybe = f"(message LIKE {mark(f'%{pattern}%')} ESCAPE '\\' OR instr(message, char(0)))"
        return f"{maybe} AND instr({'lower' if text.isascii() else 'fold'}(message), {mark(text.casefold())}) > 0"

    def newest(self) -> int:
        """The newest id: commits are one after the other."""
        with self.reading() as read:
            return next(iter(read("SELECT ifnull(max(id), 0) FROM logs", [])))[0]

    def branches(self, query: Query, read: Read, split: bool = False) -> list[tuple[str, Query]]:
        """Says which index serves a query, rather than leave it to the planner, which has no statistics.

        A query by service or severity becomes one for each pair of them that the counts know. Each reads one stretch
        of logs_by_kind, in order, and SQLite merges them: a rare kind costs as much as its records, and one that
        does not occur nothing.
        """
        query = self._by_receipt(query, read)
        ids = (MAX_ID if query.last_id is None else query.last_id) - (query.after_id or 0)
        if query.by_id or ids < NARROW_IDS:
            return [("logs NOT INDEXED", query)] if ids > 0 else []
        if split or query.by_kind() != Query():
            first_day = MIN_TIMESTAMP if query.start is None else query.start // DAY * DAY
            parameters = [DAY, first_day, MAX_TIMESTAMP if query.end is None else query.end]
            where = self.where(query.by_kind(), parameters)
            days = "FROM counts WHERE span = ? AND start >= ? AND start <= ?"
            kinds = list(read(f"SELECT DISTINCT service, severity {days} AND {where}", parameters))
            if len(kinds) <= MAX_KINDS:
                one = functools.partial(dataclasses.replace, query, min_severity=None)
                return [("logs INDEXED BY logs_by_kind", one(services=(s,), severities=(v,))) for s, v in kinds]
        elif not query.counted and query.start in (None, MIN_TIMESTAMP) and self._is_rare(query, read):
            return [("logs NOT INDEXED", query)]
        return [("logs INDEXED BY logs_by_time", query)]

    def _is_rare(self, query: Query, read: Read) -> bool:
        """Whether none of the first records that a query would look at is one that it asks for. Then it may have to
        look at all, and to fetch each by way of the index takes twice as long as to read the table and sort."""
        parameters: list[Json] = []
        whole = Query(end=query.end, cursor=query.cursor, descending=query.descending)
        first = f"SELECT * FROM logs INDEXED BY logs_by_time WHERE {self.where(whole, parameters)}"
        first += f" ORDER BY timestamp {'DESC' if query.descending else 'ASC'} LIMIT {SAMPLE_RECORDS}"
        return not list(read(f"SELECT 1 FROM ({first}) WHERE {self.where(query, parameters)} LIMIT 1", parameters))

    def _by_receipt(self, query: Query, read: Read) -> Query:
        """Turns bounds on received_at into bounds on the id, which grow together: by halves, without an index."""
        if query.received_start is None and query.received_end is None:
            return query
        # each by itself: only a lone min or max is answered by the index
        ends = "SELECT ifnull((SELECT min(id) FROM logs), 1), ifnull((SELECT max(id) FROM logs), 0)"
        low, high = next(iter(read(ends, [])))

        def received_at(record_id: int) -> int:
            """Of the first record from this id on."""
            return next(iter(read("SELECT received_at FROM logs WHERE id >= ? ORDER BY id LIMIT 1", [record_id])))[0]

        def last_before(moment: int) -> int:
            """The last id that was received before it."""
            return low + bisect.bisect_left(range(low, high + 1), moment, key=received_at) - 1

        after, last = query.after_id or 0, high if query.last_id is None else query.last_id
        if query.received_start is not None:
            after = max(after, last_before(query.received_start))
        if query.received_end is not None:
            last = min(last, last_before(query.received_end + 1))
        return dataclasses.replace(query, after_id=after, last_id=last)

    # State

    def probe(self) -> None:
        """Writes, since only that finds a full disk. Raises Unavailable."""
        with self._writing, self._transaction() as db:
            db.execute("REPLACE INTO answers VALUES (x'', x'', '', ?)", [now()])

    def size(self) -> int:
        """Of the file, its WAL and its index of the WAL."""
        files = (pathlib.Path(f"{self.path}{end}") for end in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())


def unavailable(error: sqlite3.DatabaseError) -> Exception:
    """What to answer when SQLite can't; the error itself where the SQL or the data are at fault."""
    name = getattr(error, "sqlite_errorname", "")
    if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
        return error
    if name == "SQLITE_INTERRUPT":
        return query_stopped()
    reasons = {"FULL": "The disk is full.", "BUSY": "Another process has locked the database."}
    reasons["READONLY"] = "The database is read-only."
    return Unavailable(reasons.get((name + "_").split("_")[1], f"The database says: {error}."))


def query_stopped() -> Unavailable:
    """The answer to a query that is past its deadline."""
    hint = "Narrow it, with timestamp_start, service or severity."
    return Unavailable(f"The query took longer than {QUERY_SECONDS} s and was stopped.", hint)


def key_reused() -> Refusal:
    """The answer to another body under a key that was used."""
    hint = "Take a key of its own for every batch, and send a batch again just as it was."
    return Refusal(422, "This Idempotency-Key was used with another body.", hint)


def insert_rows(
    db: sqlite3.Connection, head: str, row: str, rows: list[Any], tail: str = "", before: Iterable[int] = (),
    sizes: tuple[int, ...] = (1000, 200, 40, 8, 1),
) -> None:
    """Inserts up to a thousand rows at a time. sqlite3 gives up the GIL for every statement and has to win it back from
    the threads that parse: executemany does so for every row, and takes half as long again even alone. `sizes` are
    the numbers of rows of a statement: a few, since each is prepared once."""
    done = 0
    for size in sizes:
        while len(rows) - done >= size:
            values = itertools.chain(before, itertools.chain.from_iterable(rows[done : done + size]))
            db.execute(f"{head}{', '.join([row] * size)}{tail}", list(values))
            done += size


def authorize(action: int, table: str | None, column: str | None, *_: str | None) -> int:
    """What the writing connection may do: read, insert, count, and delete as retention does; not alter, nor drop.
    SQLite asks when it prepares a statement, not when it runs it (https://www.sqlite.org/c3ref/set_authorizer.html)."""
    allowed = (
        action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_TRANSACTION)
        or (action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE) and table in ("logs", "counts", "answers"))
        or (action == sqlite3.SQLITE_UPDATE and (table, column) == ("counts", "records"))
        or (action == sqlite3.SQLITE_PRAGMA and table in ("page_count", "freelist_count"))
        or (action == sqlite3.SQLITE_PRAGMA and table in ("incremental_vacuum", "wal_checkpoint"))
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


# ---------------------------------------------------------------- 9. ClickHouse

IDS_BEGIN = (datetime(2026, 1, 1, tzinfo=timezone.utc) - EPOCH) // MICROSECOND
# An id is (µs since IDS_BEGIN) * LANES + lane. Who owns a minute in a lane, a slot, gives its ids in order; so within a
# slot the newest id that was seen tells what is new. Across slots it does not.
LANES = 16  # servers that may write in one minute; ids stay below 2**53, JavaScript's bound, until 2043
SLOT = f"intDiv(id, {MINUTE * LANES}) * {LANES} + id % {LANES}"  # whose id it is: a minute in a lane
KEPT = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000"
CLICKHOUSE_TABLES = f"""
CREATE TABLE IF NOT EXISTS logs (
    id Int64, received_at Int64, timestamp Int64, service LowCardinality(String), severity UInt8, message String,
    attributes String, batch String, body String,
    INDEX by_id id TYPE minmax GRANULARITY 1, INDEX by_batch batch TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = MergeTree PARTITION BY toYYYYMMDD(toDateTime(intDiv(received_at, 1000000))) ORDER BY (timestamp, id)
%s {KEPT}, ttl_only_drop_parts = 1;
CREATE TABLE IF NOT EXISTS lanes (slot Int64, owner String, since DateTime64(6) DEFAULT now64(6))
ENGINE = MergeTree ORDER BY slot TTL toDateTime(since) + INTERVAL 1 DAY {KEPT}
"""


class ClickHouseStore(Store):
    """Tables in ClickHouse, over its HTTP interface; several servers may share them. Raises StartError.

    Every INSERT has a deduplication token, and ClickHouse stores one token once: so a try whose answer was lost can be
    repeated, and a batch with an Idempotency-Key is stored once, through whichever server it comes.
    """

    instr, follow_seconds = "position", 0.5

    def __init__(self, config: Config, metrics: Metrics):
        super().__init__(config, metrics)
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._minute = self._lane = self._next = 0
        try:
            url = urllib.parse.urlsplit(config.store)
            if url.scheme != "http" or not url.hostname:
                raise ValueError(f"must be http://user:password@host:8123/database, not {url.scheme}://...")
            self._address = url.hostname or "", url.port or 8123
            self._database = url.path.strip("/") or "default"
            secrets = {"X-ClickHouse-User": url.username or "default", "X-ClickHouse-Key": url.password or ""}
            self._headers = {n: urllib.parse.unquote(v).encode().decode("latin-1") for n, v in secrets.items()}
            seconds = int(min(config.max_age_days or 0, 36500) * 86400)
            ttl = f"TTL fromUnixTimestamp64Micro(received_at) + INTERVAL {seconds} SECOND" if seconds else ""
            for statement in (CLICKHOUSE_TABLES % ttl).split(";"):
                self._ask(statement)
        except (ValueError, Unavailable) as error:
            raise StartError(f"server.store: {error}") from None

    def _ask(self, sql: str, parameters: Iterable[Json] = (), rows: str = "", token: str = "") -> list[Any]:
        """Runs a statement; values go beside it, never into it. `rows` and `token` are INSERT's. Raises Unavailable."""
        url = {"database": self._database, "default_format": "JSONCompactEachRow", "max_execution_time": QUERY_SECONDS}
        url |= {"insert_distributed_sync": 1, "wait_end_of_query": 1, "output_format_json_quote_64bit_integers": 0}
        url |= {"query": sql, "insert_deduplication_token": token} if rows else {}
        for number, value in enumerate(parameters):  # escaped as in ClickHouse's TSV
            url[f"param_p{number}"] = str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
        for fresh in (False, True):
            connection = http.client.HTTPConnection(*self._address, timeout=QUERY_SECONDS + 2)
            with contextlib.suppress(queue.Empty):
                connection = connection if fresh else self._idle.get_nowait()
            try:
                connection.request("POST", f"/?{urllib.parse.urlencode(url)}", (rows or sql).encode(), self._headers)
                response = connection.getresponse()
                data = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if rows:  # they may be stored later, when followers have seen newer ids: leave the slot
                    self._minute = 0
                if fresh or isinstance(error, TimeoutError):  # else it may have been idle for too long
                    raise Unavailable("ClickHouse at {}:{} can't be reached.".format(*self._address)) from None
        self._idle.put(connection)
        if response.status == 408:
            raise query_stopped()
        if response.status != 200:
            raise Unavailable(f"ClickHouse says: {data.decode('utf-8', 'replace').partition(chr(10))[0][:300]}")
        return [json.loads(line) for line in data.splitlines()]

    def write(self, batches: list[Batch]) -> None:
        """One INSERT for all batches without a key, and one for each with a key."""
        until = time.monotonic() + QUERY_SECONDS  # those behind a ClickHouse that hangs must not wait for each
        for group in [[batch for batch in batches if not batch.key], *([batch] for batch in batches if batch.key)]:
            try:
                if time.monotonic() > until:
                    raise Unavailable("ClickHouse takes too long.")
                if group and not (group[0].key and self._is_repeat(group[0])):
                    self._insert(group)
            except Exception as trouble:  # the other groups are stored, or have been
                log.error("a batch was not stored: %s", trouble)
                for batch in group:
                    batch.failure = trouble

    def _insert(self, group: list[Batch]) -> None:
        token, received_at = (group[0].key or os.urandom(32)).hex(), now()
        next_id = first_id = self._take_ids(sum(len(batch.records) for batch in group))
        rows = []
        for batch in group:
            batch.first_id, batch.last_id = next_id, next_id + (len(batch.records) - 1) * LANES
            for timestamp, *values in batch.records:
                times = received_at, received_at if timestamp is None else timestamp
                rows.append(encode_json([next_id, *times, *values, token, batch.body_hash.hex()]))
                next_id += LANES
        columns = ", ".join((*StoredRecord._fields, "batch", "body"))
        insert, text = f"INSERT INTO logs ({columns}) FORMAT JSONCompactEachRow", "\n".join(rows)
        for attempt in ("", ".2", ".3"):
            self._ask(insert, rows=text, token=token + attempt)
            if not group[0].key:
                return
            if self._is_repeat(group[0]):
                if group[0].first_id == first_id:
                    group[0].repeated = False  # these are ours, and not another server's that had the key first
                return
            # the token is known, but not the records: ClickHouse was killed between the two, so it takes another token
        raise Unavailable("ClickHouse does not store this batch.")

    def _is_repeat(self, batch: Batch) -> bool:
        """Whether the batch's key is there: then it has the earlier answer, or failed for another body."""
        sql = "SELECT min(id), max(id), any(body), count() FROM logs WHERE batch = {p0:String}"
        [[first_id, last_id, body, records]] = self._ask(sql, [batch.key.hex()])
        if records:
            batch.first_id, batch.last_id = first_id, last_id
            batch.repeated, batch.kept_answer = True, dump_json(batch.answer())
            batch.failure = None if body == batch.body_hash.hex() else key_reused()
        return bool(records)

    def _take_ids(self, records: int) -> int:
        """The first of as many ids, LANES apart: microseconds of a minute that this server alone may use.

        It claims the minute in a lane with its first write. All who claim insert the same token, ClickHouse keeps one,
        and everyone reads whose: no clock, name or restart can make two owners.
        """
        first = max(now() - IDS_BEGIN, self._next)
        minute = (first + records) // MINUTE
        if minute != self._minute:
            first, owner = max(first, minute * MINUTE), uuid.uuid4().hex
            for slot in range(minute * LANES, (minute + 1) * LANES):
                row = encode_json([slot, owner])
                self._ask("INSERT INTO lanes (slot, owner) FORMAT JSONCompactEachRow", rows=row, token=str(slot))
                sql = "SELECT argMin(owner, since) FROM lanes WHERE slot = {p0:Int64}"
                if self._ask(sql, [slot]) == [[owner]]:
                    self._minute, self._lane = minute, slot % LANES
                    break
            else:
                raise Unavailable(f"{LANES} servers have written to this ClickHouse within a minute.")
        self._next = first + records
        return first * LANES + self._lane

    def reading(self) -> AbstractContextManager[Read]:
        """Each SELECT sees what is there when it begins."""
        return contextlib.nullcontext(self._ask)

    def mark(self, parameters: list[Json], value: Json) -> str:
        """https://clickhouse.com/docs/en/interfaces/http#cli-queries-with-parameters"""
        parameters.append(value)
        kind = {int: "Int64", str: "String", list: "Array(Int64)"}[type(value)]
        return f"{{p{len(parameters) - 1}:{kind}}}"

    def contains(self, mark: Mark, text: str) -> str:
        """Fast as it is."""
        return f"positionCaseInsensitiveUTF8(message, {mark(text)}) > 0"

    def newest(self) -> Newest:
        """The newest id of each slot of the last minutes: only within a slot are commits one after the other."""
        floor = (now() - IDS_BEGIN - 2 * MINUTE) * LANES
        sql = f"SELECT {SLOT} AS slot, max(id) FROM logs WHERE id > {{p0:Int64}} GROUP BY slot ORDER BY slot"
        return Newest(dict(self._ask(sql, [floor])), floor)

    def between(self, query: Query, after: Newest | None, last: Newest) -> Query:
        """By the newest id of each slot."""
        return dataclasses.replace(query, after=after, last=last)

    def where(self, query: Query, parameters: list[Json]) -> str:
        """And where the query is between two `newest`, `transform` looks each slot's up."""
        tests = [super().where(query, parameters)]
        for sign, newest in ((">", query.after), ("<=", query.last)):
            if newest:
                ids = newest.ids or {-1: -1}  # transform takes no empty array
                marks = [self.mark(parameters, value) for value in (list(ids), list(ids.values()), newest.floor)]
                tests.append(f"id {sign} transform({SLOT}, {', '.join(marks)})")
        if query.after:
            tests.append(f"id > {query.after.floor}")
        return " AND ".join(tests)

    def probe(self) -> None:
        """Writes and reads. Raises Unavailable."""
        insert = "INSERT INTO lanes (slot, owner) FORMAT JSONCompactEachRow"
        self._ask(insert, rows='[-1, ""]', token=uuid.uuid4().hex)
        self._ask("SELECT count() FROM logs WHERE id < 0")  # every shard must answer, and none has to search

    def size(self) -> int:
        """Of all tables of the database, on this node."""
        sql = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = {p0:String}"
        return self._ask(sql, [self._database])[0][0]


# ---------------------------------------------------------------- 10. Endpoints

Pages = Iterator[list[StoredRecord]]
T = TypeVar("T")


class Request(NamedTuple):
    """One request. Its body is still to be read: by `read_body`, decompressed; raises Refusal."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    read_body: Callable[[], bytes]


class Response(NamedTuple):
    """An answer; a body that is not bytes is streamed as it comes."""

    status: int
    body: bytes | Iterator[bytes]
    content_type: str = "application/json"
    headers: dict[str, str] = {}


class Later(NamedTuple):
    """What it takes to answer a request once its batch is committed."""

    request: Request
    batch: Batch
    make_response: Callable[[], Response]  # raises Refusal


def json_response(status: int, body: Json, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON, on one line."""
    return Response(status, dump_json(body).encode() + b"\n", headers=headers or {})


CSV_HEAD = "id,timestamp,received_at,service,severity,message,attributes\r\n"


def csv_line(r: StoredRecord) -> str:
    """A line of CSV (https://www.rfc-editor.org/rfc/rfc4180), with the attributes as JSON."""
    text, times = io.StringIO(), (format_timestamp(r.timestamp), format_timestamp(r.received_at))
    csv.writer(text).writerow([r.id, *times, r.service, SEVERITY_NAMES[r.severity], r.message, r.attributes])
    return text.getvalue()


class Format(NamedTuple):
    """How records are written: a line for each; what stands before, between, after them, and for none."""

    content_type: str
    line: Callable[[StoredRecord], str]
    opening: str = ""
    separator: str = ""
    closing: str = ""
    nothing: str = ""

    def encode(self, pages: Pages) -> Iterator[bytes]:
        """Each page of records as text."""
        opening = self.opening
        for records in pages:
            yield (opening + self.separator.join(map(self.line, records)) if records else self.nothing).encode()
            opening = self.separator if records else opening
        yield ((self.opening if opening == self.opening else "") + self.closing).encode()


NDJSON = Format("application/x-ndjson", lambda record: record.json() + "\n")
FOLLOWING = NDJSON._replace(nothing="\n")  # a blank line as the heartbeat
FORMATS = {
    "json": Format("application/json", StoredRecord.json, "[", ",\n", "]\n"),
    "ndjson": NDJSON,
    "csv": Format("text/csv; charset=utf-8", csv_line, CSV_HEAD),
}


def stream_response(form: Format, pages: Pages) -> Response:
    """A streamed answer. Its first page is read at once, so that an error there still gets its status."""
    first = list(itertools.islice(pages, 1))
    return Response(200, form.encode(itertools.chain(first, pages)), form.content_type)


class Limits:
    """What one client may take of what all share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._balances: dict[Token, tuple[float, float]] = {}  # the records a token may send, and as of when
        self.bodies_bytes = 0

    def spend(self, token: Token, records: int, rate: float | None) -> None:
        """A bucket of records for each token, full after a second, that a batch of any size may overdraw; asked with 0
        records, raises Refusal: 429 until that is paid."""
        if not rate:
            return
        clock = time.monotonic()
        with self._lock:
            balance, since = self._balances.get(token, (rate, clock))
            balance = min(balance + (clock - since) * rate, rate)
            if balance <= 0 and not records:
                error = f"This token may send {rate:g} records a second."
                seconds = min(int(1 - balance / rate), 5)  # rounded up; on longer ones clients give up
                raise Refusal(429, error, "Send it again later.", Retry_After=str(seconds))
            self._balances[token] = balance - records, clock

    def hold(self, size: int) -> None:
        """Counts the bytes of a body that comes in; a negative size lets go. Raises Unavailable for too many."""
        with self._lock:
            if size > 0 and self.bodies_bytes + size > MAX_BODIES_BYTES:
                raise Unavailable("Too much is waiting to be stored.")
            self.bodies_bytes += size


class App:
    """The endpoints: between HTTP and the store."""

    def __init__(self, config: Config, store: Store, metrics: Metrics, front_page: Response):
        self.config, self.store, self.metrics, self.front_page = config, store, metrics, front_page
        self.limits, self.started, self.stopping = Limits(), time.time(), threading.Event()
        self.parsing = threading.Semaphore(2)  # of large bodies: more at a time are no faster, and take more memory

    def answer(self, request: Request, make: Callable[[], T]) -> T | Response:
        """What `make` gives for a request. Here errors become answers; raises ConnectionError, SSLError only."""
        response: T | Response
        try:
            response = make()
        except Refusal as refusal:
            response = self.refuse(refusal, request.path)
        except (ConnectionError, ssl.SSLError):
            raise  # there is nobody to answer
        except Exception:
            log.exception("unexpected error in %s %s", request.method, request.path)
            response = self.refuse(Refusal(500, "The server made a mistake.", "Its log says more."), request.path)
        if isinstance(response, Response):
            endpoint = endpoint_of(request.path) or "other"
            self.metrics.add("logs_http_requests_total", endpoint=endpoint, status=str(response.status))
        return response

    def refuse(self, refusal: Refusal, path: str = "") -> Response:
        """The answer to a request that is not carried out; for OTLP, with the "message" of its Status."""
        message = {"message": f"{refusal.error} {refusal.hint}"} if path == "/v1/logs" else {}
        return json_response(refusal.status, refusal.body | message, refusal.headers)

    def route(self, request: Request) -> Response | Later:
        """The answer of a request's endpoint, or what is left to do for it. Raises Refusal: 404, 405, 421, its own."""
        host = re.sub(r":\d*$", "", request.headers.get("host", "localhost")).strip("[]").lower()
        known = is_loopback(host) or host in self.config.allowed_hosts
        if not (known or self.config.reading_is_closed):
            # a web page elsewhere has given its own name this address, to read the logs (DNS rebinding)
            hint = "Add it to server.allowed_hosts in the configuration."
            raise Refusal(421, f"This server is not {show(host)}.", hint)
        path = endpoint_of(request.path)
        if not path:
            raise Refusal(404, f"There is nothing at {show(request.path)}.", f"There are {', '.join(ROUTES)}.")
        methods = ROUTES[path]
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allow = ", ".join(methods) + (", HEAD" if "GET" in methods else "")
            raise Refusal(405, f"{path} does not take {show(request.method)}.", f"It takes {allow}.", Allow=allow)
        return methods[method](self, request)

    def authenticate(self, request: Request, *roles: str) -> Token:
        """Whose token a request has (https://www.rfc-editor.org/rfc/rfc9110#section-11.4). Raises Refusal: 401."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                secret, encoded = "", secret
                secret = base64.b64decode(encoded).decode().partition(":")[2]
        if scheme.lower() in ("token", "bearer", "basic") and (token := self.config.token_of(secret, *roles)):
            return token
        error = "The token is not known here, or not for this." if secret else "A token is needed."
        hint = f"Send 'Authorization: Token T' with a {' or '.join(roles)} token of the server's configuration."
        raise Refusal(401, error, hint, WWW_Authenticate='Bearer realm="logs"')

    def check_reader(self, request: Request) -> None:
        """Raises Refusal: 401."""
        if self.config.reading_is_closed:
            self.authenticate(request, "read")

    # Writing

    def read_records(
        self, request: Request, split: Callable[[bytes], list[Json]], parse: Parse, make: Callable[[Batch], str]
    ) -> Response | Later:
        """The batch in a request, to be stored; or the answer, where no record of it is good."""
        token, rate = self.authenticate(request, "service", "shipper"), self.config.max_records_per_second
        self.limits.spend(token, 0, rate)
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= MAX_KEY_CHARS:
            raise Refusal(400, f"An Idempotency-Key has 1 to {MAX_KEY_CHARS} characters.", "Send a UUID, for example.")
        body = request.read_body()
        with self.parsing if len(body) > 1 << 16 else contextlib.nullcontext():
            batch = read_batch(split(body), token, parse)
        self.limits.spend(token, len(batch.records), rate)
        batch.size = len(body)
        if key:
            batch.key = hashlib.sha256(f"{token.secret}\0{key}".encode()).digest()
            batch.body_hash = hashlib.sha256(body).digest()
        del body  # it need not wait for the commit too
        outcome = functools.partial(self._outcome, batch, make)
        return Later(request, batch, outcome) if batch.records else outcome()

    def _outcome(self, batch: Batch, make: Callable[[Batch], str]) -> Response:
        if batch.failure:
            raise batch.failure
        for field, records in () if batch.repeated else batch.rejected.items():
            self.metrics.add("logs_records_rejected_total", records, service=batch.token.service, reason=field)
        if batch.rejected and not batch.records:  # OTLP may send none at all
            status = 403 if batch.forbidden == batch.rejected.total() else 422
            error = "No record could be stored: {field}: {error}.".format_map(batch.errors[0])
            raise Refusal(status, error, '"errors" says what to mend, by index.', batch.answer())
        repeated = {"Idempotent-Replayed": "true"} if batch.repeated else {}
        return Response(200, make(batch).encode() + b"\n", headers=repeated)

    def post_logs(self, request: Request) -> Response | Later:
        """Takes records, in any form of JSON."""
        return self.read_records(request, parse_body, parse_record, answer_logs)

    def post_otlp(self, request: Request) -> Response | Later:
        """Takes records in OTLP/HTTP, as JSON."""
        if "protobuf" in request.headers.get("content-type", ""):
            hint = "Set the exporter to http/json (OTEL_EXPORTER_OTLP_PROTOCOL)."
            raise Refusal(415, "OTLP is taken as application/json, not as protobuf.", hint)
        return self.read_records(request, split_otlp, parse_otlp, answer_otlp)

    # Reading

    def get_logs(self, request: Request) -> Response:
        """Gives records, page by page, all, or as they come."""
        self.check_reader(request)
        fields = parse_parameters(request.query, LIST_PARAMETERS)
        form = FORMATS[fields.pop("format", "json")]
        follow = fields.pop("follow", False)
        given = {name for name, _ in split_parameters(request.query)}
        if wrong := given & ({"order", "cursor", "format"} if follow else {"after"}):
            error = f"The parameter {min(wrong)} does not go {'with' if follow else 'without'} follow=1."
            raise Refusal(400, error, "Leave one of them out." if follow else "Add follow=1, or leave it out.")
        query = Query(**fields)
        if follow:
            return stream_response(FOLLOWING, self.pace(self.store.follow(query)))
        if not query.limit:  # all that is there now
            query = self.store.between(query, None, self.store.newest())
            return stream_response(form, self.store.stream(query))
        lock = self.store.page_lock if query.counted else contextlib.nullcontext()  # what is not counted may take long
        with self.store.reading() as read, lock:  # in this order: who waits for a reader must not hold the others up
            records, more = self.store.page(query, read)
            body = b"".join(form.encode(iter([records])))
        return Response(200, body, form.content_type, {"Link": next_link(request, query, records[-1])} if more else {})

    def pace(self, pages: Pages) -> Pages:
        """Waits where there is nothing new, and lets an empty page through as a heartbeat, until the server stops."""
        sent_at = float("-inf")
        for records in pages:
            if self.stopping.is_set():
                return
            if records or time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
                yield records
                sent_at = time.monotonic()
            else:
                self.stopping.wait(self.store.follow_seconds)

    def get_record(self, request: Request) -> Response:
        """Gives one record."""
        self.check_reader(request)
        text = request.path.removeprefix("/logs/")
        if re.fullmatch(r"[0-9]{1,16}", text):
            for record in self.store.page(Query(after_id=int(text) - 1, last_id=int(text), by_id=True, limit=1))[0]:
                return Response(200, record.json().encode() + b"\n")
        raise Refusal(404, f"There is no record {show(text)}.", "GET /logs lists records with their ids.")

    def get_stats(self, request: Request) -> Response:
        """Counts records, by service, severity and time."""
        self.check_reader(request)
        fields = parse_parameters(request.query, STATS_PARAMETERS)
        step = fields.pop("step", None)
        return json_response(200, self.store.stats(Query(**fields), step))

    def get_health(self, request: Request) -> Response:
        """Says whether records can be stored."""
        self.store.check()
        return json_response(200, {"status": "ok"})

    def get_metrics(self, request: Request) -> Response:
        """Gives numbers for Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
        self.check_reader(request)
        escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
        values = dict(self.metrics.values) | {
            ("logs_store_records", ()): self.store.stats(Query())["total"],
            ("logs_store_bytes", ()): self.store.size(),
            ("logs_waiting_batches", ()): self.store.waiting.qsize(),
            ("logs_waiting_bytes", ()): self.limits.bodies_bytes,
            ("process_start_time_seconds", ()): self.started,
        }
        lines = []
        for name, explanation in METRICS.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
            for (known, labels), value in values.items():
                quoted = ",".join(f'{label}="{text.translate(escapes)}"' for label, text in labels)
                if known == name:
                    lines.append(f"{name}{f'{{{quoted}}}' if labels else ''} {value:.16g}")
        return Response(200, ("\n".join(lines) + "\n").encode(), "text/plain; version=0.0.4; charset=utf-8")

    def get_root(self, request: Request) -> Response:
        """Shows a page in a browser, and this list elsewhere."""
        if "text/html" in request.headers.get("accept", ""):
            return self.front_page
        endpoints = {f"{m} {path}": call.__doc__ for path, methods in ROUTES.items() for m, call in methods.items()}
        return Response(200, json.dumps(endpoints, indent=2).encode() + b"\n")


Endpoint = Callable[[App, Request], Response | Later]
ROUTES: dict[str, dict[str, Endpoint]] = {
    "/logs": {"POST": App.post_logs, "GET": App.get_logs},
    "/logs/ID": {"GET": App.get_record},
    "/stats": {"GET": App.get_stats},
    "/estadisticas": {"GET": App.get_stats},
    "/v1/logs": {"POST": App.post_otlp},
    "/health": {"GET": App.get_health},
    "/metrics": {"GET": App.get_metrics},
    "/": {"GET": App.get_root},
}


def endpoint_of(path: str) -> str | None:
    """Which line of ROUTES a path belongs to."""
    return path if path in ROUTES else "/logs/ID" if re.fullmatch(r"/logs/[^/]+", path) else None


def answer_logs(batch: Batch) -> str:
    """The answer to POST /logs."""
    return batch.kept_answer or dump_json(batch.answer())


def answer_otlp(batch: Batch) -> str:
    """The answer to POST /v1/logs (https://opentelemetry.io/docs/specs/otlp/#otlphttp-response)."""
    if not batch.rejected:
        return "{}"
    message = "{field}: {error}".format_map(batch.errors[0])
    partial = {"rejectedLogRecords": str(batch.rejected.total()), "errorMessage": message}
    return dump_json({"partialSuccess": partial})


def next_link(request: Request, query: Query, last: StoredRecord) -> str:
    """The page after `last` (https://www.rfc-editor.org/rfc/rfc8288); "since" becomes the moment that it meant."""
    kept = [(n, v) for n, v in split_parameters(request.query) if n not in ("cursor", "since", "timestamp_start")]
    if query.start is not None:
        kept.append(("timestamp_start", format_timestamp(query.start)))
    kept.append(("cursor", base64.urlsafe_b64encode(f"{last.timestamp}:{last.id}".encode()).decode()))
    return f'<{request.path}?{urllib.parse.urlencode(kept)}>; rel="next"'


METRICS = {
    "logs_records_accepted_total": "Records stored.",
    "logs_records_rejected_total": "Records refused, by the field at fault.",
    "logs_http_requests_total": "Requests answered, but for those with a malformed head.",
    "logs_commits_total": "Commits to the store.",
    "logs_commit_seconds_total": "Time taken by all commits.",
    "logs_store_records": "Records in the store.",
    "logs_store_bytes": "Size of the store on disk.",
    "logs_waiting_batches": "Batches that wait for a commit.",
    "logs_waiting_bytes": "Bodies being read or waiting for a commit.",
    "process_start_time_seconds": "When the server started, since 1970.",
}


# ---------------------------------------------------------------- 11. HTTP

REQUEST_LINE = re.compile(r"([A-Za-z]+) (?:https?://([^/? ]+))?(/[^ ?]*)?(?:\?([^ ]*))? HTTP/(\d\.\d)")
HEADER_LINE = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r\n", re.MULTILINE)
CHUNK_LINE = re.compile(r"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # Windows has none


def malformed(error: str, hint: str = "Send HTTP/1.1 as RFC 9112 has it.", status: int = 400) -> Refusal:
    """A request after which nobody can say where the next one begins."""
    return Refusal(status, error, hint)


class Handler(socketserver.StreamRequestHandler):
    """One connection, in a thread of its own.

    Reads heads by itself: the standard library's parser takes longer than all the rest of a request, and takes
    what this must not (request smuggling: https://www.rfc-editor.org/rfc/rfc9112#section-11.2).

    `idle`: between two requests; `unread`: a body may follow; `closing`: no request is to follow; `sending`: it is the
    client's turn to take, not to send; `expired`: it did not in time.
    """

    server: Server
    disable_nagle_algorithm = True  # an answer goes out in one piece, so there is nothing to wait for

    def setup(self) -> None:
        """Is called once, before the first request."""
        self.expired = self.sending = self.unread = False
        self.idle, self.closing, self.held_bytes, self.version = True, False, 0, "1.1"
        self.unanswered = threading.Lock()  # held from before a commit until its answer is sent
        self.allow(IDLE_SECONDS)
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        super().setup()
        self.server.connections.add(self)  # last: after a setup that fails, finish is not called

    def finish(self) -> None:
        """Is called once, after the last request."""
        with self.unanswered:
            self.server.connections.discard(self)
            super().finish()

    def allow(self, seconds: float, sending: bool = False) -> None:
        """Sets a deadline for what comes now; `Server.watch` ends it there."""
        self.sending, self.deadline = sending, time.monotonic() + seconds

    def expire(self) -> None:
        """Ends what the handler waits for. A read gets an end of file, and 408 can still be sent."""
        self.expired = True
        with contextlib.suppress(OSError):  # it may be closed already
            # socket's own method: SSLSocket's would take the encryption away under its reader
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR if self.sending else socket.SHUT_RD)

    def handle(self) -> None:
        """Takes requests, one after the other."""
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):  # the client is gone
            if len(self.server.connections) > self.server.max_connections:
                self.closing = True
                if not self.server.tls:  # whose handshake would take too long
                    self.send(None, self.server.app.refuse(Unavailable("Too many connections are open.")))
            while not (self.closing or self.server.app.stopping.is_set()):
                self.handle_request()

    def handle_request(self) -> None:
        """Reads a request, has it answered, and sends the answer or leaves it to the thread that commits."""
        app, request = self.server.app, None
        self.allow(IDLE_SECONDS)
        try:
            try:
                request = self.read_head()
                response = app.answer(request, functools.partial(app.route, request))
            except Refusal as refusal:
                self.unread = True  # nobody knows what follows
                response = app.refuse(refusal)
            if isinstance(response, Later):
                self.hand_over(response)
            else:
                with self.unanswered:  # the answer before this goes first
                    self.send(request, response)
        finally:
            app.limits.hold(-self.held_bytes)
            self.held_bytes = 0
        if self.unread:
            self.drain()

    def hand_over(self, later: Later) -> None:
        """Has a batch committed, and leaves the answer to the thread that commits, while this one goes on to read.

        To be woken only to send would be one change of thread more, out of three: singly sent records are a sixth
        faster without. Where that thread might have to wait, or the connection is to be closed, it wakes this one.
        """
        app = self.server.app
        self.unanswered.acquire()
        if self.closing or self.server.tls or not DO_NOT_WAIT:
            app.store.commit(later.batch, self.unanswered.release)
            with self.unanswered:
                self.send(later.request, app.answer(later.request, later.make_response))
        else:
            held_bytes, self.held_bytes = self.held_bytes, 0
            app.store.commit(later.batch, functools.partial(self.send_handed_over, later, held_bytes))

    def send_handed_over(self, later: Later, held_bytes: int) -> None:
        """Sends an answer from the thread that commits. A client with so much unread that this would have to
        wait is cut off."""
        app = self.server.app
        app.limits.hold(-held_bytes)
        try:
            response = app.answer(later.request, later.make_response)
            data = self.head(response, app.stopping.is_set()) + response.body  # type: ignore[operator]  # a batch's is bytes
            if self.connection.send(data, DO_NOT_WAIT) < len(data):
                raise BlockingIOError
        except OSError:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            self.unanswered.release()

    # Reading

    def check_line(self, line: bytes) -> bytes:
        """A line of a head as it was read, if it is whole. Raises Refusal, ConnectionError."""
        if len(line) > MAX_LINE_BYTES:
            raise malformed(f"A line of the head is longer than {MAX_LINE_BYTES >> 10} KiB.", "Shorten it.", 431)
        if not line.endswith(b"\n"):
            raise self.gone() if line or not self.idle else ConnectionResetError  # it closed between two requests
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise malformed("A line of the head has a NUL, or a CR or LF alone.")
        return line

    def gone(self) -> Refusal | ConnectionError:
        """What an end of file in the middle of a request means."""
        if self.server.app.stopping.is_set():
            return Unavailable("The server is stopping.")
        if self.expired:
            return malformed("The request did not come in time.", "Send it faster.", 408)
        return ConnectionResetError()

    def read_line(self) -> str:
        """A line without its CRLF. Raises Refusal, ConnectionError."""
        return self.check_line(self.rfile.readline(MAX_LINE_BYTES + 1))[:-2].decode("utf-8", "replace")

    def read_head(self) -> Request:
        """The head of the next request. Raises Refusal, ConnectionError."""
        self.idle = True
        line = self.read_line() or self.read_line()  # an empty line before a request is passed over (RFC 9112, 2.2)
        self.idle = False
        with self.unanswered:  # what came before on this connection is committed first
            self.allow(HEADER_SECONDS)
        match = REQUEST_LINE.fullmatch(line)
        if not match or not (match[2] or match[3]):
            raise malformed("The first line is not that of a request.")
        method, authority, path, query, self.version = match.groups()
        if not self.version.startswith("1."):
            raise malformed(f"HTTP/{self.version} is not spoken here.", "Send HTTP/1.1.", 505)
        headers = self.read_headers()
        headers |= {"host": authority} if authority else {}
        if self.version != "1.0" and "host" not in headers:
            raise malformed("The Host header is missing.")
        self.closing = self.version == "1.0" or "close" in headers.get("connection", "").lower()
        length = self.body_length(headers)
        self.unread, self.deadline = length != 0, float("inf")  # from here on it is the server that works
        read_body = functools.partial(self.read_body, headers, length)
        return Request(method.upper(), urllib.parse.unquote(path or "/"), query or "", headers, read_body)

    def read_headers(self) -> dict[str, str]:
        """Header lines up to the empty one, names in lower case; all in one go, which takes a third of the time."""
        read_line = functools.partial(self.rfile.readline, MAX_LINE_BYTES + 1)
        lines = list(itertools.islice(iter(read_line, b"\r\n"), MAX_HEADERS + 1))
        fields = HEADER_LINE.findall(b"".join(lines).decode("utf-8", "replace"))
        if len(fields) < len(lines):
            list(map(self.check_line, lines))  # says what is wrong, but for a colon that is missing
            raise malformed("A header line is not 'Name: value'.")
        if len(lines) > MAX_HEADERS:
            raise malformed(f"There are more than {MAX_HEADERS} headers.", "Send fewer.", 431)
        headers: dict[str, str] = {}
        for name, value in ((name.lower(), value) for name, value in fields):
            if name in headers and name in ("host", "content-length", "transfer-encoding"):
                raise malformed(f"The header {name} is given twice.")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    def body_length(self, headers: dict[str, str]) -> int | None:
        """The length of the body that follows, None for chunks. Raises Refusal where readers could differ about it."""
        length, encoding = headers.get("content-length", "0"), headers.get("transfer-encoding")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise malformed(f"The Content-Length {show(length)} is not a number.")
        if encoding is None:
            return int(length)
        if "content-length" in headers or self.version == "1.0" or encoding.lower() != "chunked":
            raise malformed("Transfer-Encoding is chunked, in HTTP/1.1 and without Content-Length, or not there.")
        return None

    def read_body(self, headers: dict[str, str], length: int | None) -> bytes:
        """The body, out of its chunks and decompressed. Raises Refusal, ConnectionError."""
        if length == 0 and "content-length" not in headers:
            self.unread = True  # who forgets the length may well send a body
            raise malformed("The request does not say how long its body is.", "Send Content-Length, or chunks.", 411)
        encoding = headers.get("content-encoding", "").lower() or "identity"
        if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
            error = f"The Content-Encoding {show(encoding)} is not known."
            raise Refusal(415, error, "Send gzip, deflate or none.", Accept_Encoding="gzip, deflate")
        if length and length > MAX_BODY_BYTES:
            raise too_large()
        self.allow(REQUEST_SECONDS)
        if headers.get("expect", "").lower() == "100-continue" and self.version != "1.0":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = io.BytesIO()  # join would keep all pieces at once, and chunks may be of one byte
        body.writelines(self.read_chunks() if length is None else self.read_exactly(length))
        self.unread, self.deadline, data = False, float("inf"), body.getvalue()
        if encoding == "identity":
            return data
        whole = decompress(data)
        self.hold(max(len(whole) - len(data), 0))
        return whole

    def read_exactly(self, length: int) -> Iterator[bytes]:
        """As many bytes, in pieces, counted as they come: a client holds no more than it has sent."""
        while length:
            data = self.rfile.read1(min(length, 1 << 18))  # what is there: read would wait for all of it
            if not data:
                raise self.gone()
            self.hold(len(data))
            length -= len(data)
            yield data

    def hold(self, size: int) -> None:
        """Counts bytes of this request's body in what is waiting. Raises Unavailable."""
        self.server.app.limits.hold(size)
        self.held_bytes += size

    def read_chunks(self) -> Iterator[bytes]:
        """https://www.rfc-editor.org/rfc/rfc9112#section-7.1; extensions and trailers are passed over."""
        total = 0
        while True:
            match = CHUNK_LINE.fullmatch(self.read_line())
            if not match:
                raise malformed("A chunk does not begin with its size.")
            size = int(match[1], 16)
            total += size
            if total > MAX_BODY_BYTES:
                raise too_large()
            if not size:
                self.read_headers()
                return
            yield from self.read_exactly(size)
            if self.read_line():
                raise malformed("A chunk is longer than its size.")

    def drain(self) -> None:
        """Reads on after a refusal, for a moment: closing while the client sends could destroy the answer before
        it is read (https://www.rfc-editor.org/rfc/rfc9112#section-9.6)."""
        self.allow(2)
        socket.socket.shutdown(self.connection, socket.SHUT_WR)
        while self.connection.recv(1 << 16):
            pass

    # Sending

    def head(self, response: Response, closing: bool) -> bytes:
        """The head of an answer; `closing` says that the connection closes after it."""
        lines = [f"HTTP/1.1 {response.status} {http.client.responses[response.status]}"]
        lines += [f"Date: {http_date(int(time.time()))}", f"Content-Type: {response.content_type}"]
        lines.append("X-Content-Type-Options: nosniff")
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        if isinstance(response.body, bytes):
            lines.append(f"Content-Length: {len(response.body)}")
        elif self.version != "1.0":
            lines.append("Transfer-Encoding: chunked")
        if closing:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1", "replace")

    def send(self, request: Request | None, response: Response) -> None:
        """Sends an answer: bytes in one piece, else in chunks (to HTTP/1.0, plain until the close). An error in the
        middle closes without the last chunk: half an answer must not look whole (over HTTP/1.0 it does)."""
        self.closing |= self.unread or request is None or self.server.app.stopping.is_set()
        head, body, chunked = self.head(response, self.closing), response.body, self.version != "1.0"
        if request and request.method == "HEAD":
            body = b""
        if isinstance(body, bytes):
            self.write(head + body)
            return
        self.write(head)
        try:
            for data in filter(None, body):
                self.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        except Refusal as refusal:
            log.error("an answer was broken off: %s", refusal)
            raise ConnectionAbortedError from None
        if chunked:
            self.write(b"0\r\n\r\n")

    def write(self, data: bytes) -> None:
        """Sends bytes, a piece within each deadline."""
        for start in range(0, len(data), SEND_BUFFER_BYTES):
            self.allow(SEND_SECONDS, sending=True)
            self.wfile.write(data[start : start + SEND_BUFFER_BYTES])
        self.deadline = float("inf")


def too_large() -> Refusal:
    """413, for a body and for what it is decompressed."""
    return Refusal(413, f"The body is larger than {MAX_BODY_BYTES >> 20} MiB.", "Send smaller batches.")


def decompress(data: bytes) -> bytes:
    """gzip of one or more members, or deflate with or without zlib's frame (RFC 9110, 8.4.1). Raises Refusal: 413, 422.
    Stops at the limit: 10 KiB can hold 10 MiB, and more."""
    whole = bytearray()
    try:
        for _ in range(MAX_GZIP_MEMBERS):
            framed = data[:2] in (b"", b"\x1f\x8b") or (data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0)
            stream = zlib.decompressobj(47 if framed else -15)  # gzip or zlib, by its head; or neither's frame
            whole += stream.decompress(data, MAX_BODY_BYTES + 1 - len(whole))
            if len(whole) > MAX_BODY_BYTES:
                raise too_large()
            if not stream.eof:
                raise zlib.error("it is cut short")
            if not (data := stream.unused_data):
                return bytes(whole)
        raise zlib.error(f"it has more than {MAX_GZIP_MEMBERS} members")
    except zlib.error as error:
        raise Refusal(422, f"The body can't be decompressed: {error}.", "Send it as it is.") from None


class Server(socketserver.ThreadingTCPServer):
    """Accepts connections up to a bound, and ends what is past its deadline."""

    request_queue_size = 1024  # socketserver's 5 resets a burst of clients
    allow_reuse_address = os.name == "posix"  # on Windows two servers could share a port
    daemon_threads = True  # `stop` waits for requests in flight, but not for ever

    def __init__(self, app: App):
        self.app, self.connections, self.tls = app, set[Handler](), None
        config = app.config
        if config.tls:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            try:
                self.tls.load_cert_chain(config.tls["certificate"], config.tls["key"])
            except OSError as error:  # ssl.SSLError is one
                raise StartError(f"server.tls: can't use {' and '.join(config.tls.values())}: {error}") from None
        try:
            self.address_family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((config.host, config.port), Handler)
            if self.tls:  # a handshake is for the thread of its connection, at the first read
                self.socket = self.tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            raise StartError(f"can't listen on {config.host}:{config.port}: {error.strerror}; try --port") from None
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.url = f"{'https' if self.tls else 'http'}://{host}:{self.server_address[1]}"
        self.max_connections = MAX_CONNECTIONS
        if resource:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            soft = max(soft, 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096))
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.max_connections = min(MAX_CONNECTIONS, soft - 100)  # the rest is for the store
        threading.Thread(target=self.watch, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What no handler expected."""
        if not isinstance(sys.exc_info()[1], OSError):  # else the client was gone before it was served
            log.exception("unexpected error in a connection")

    def watch(self) -> None:
        """The thread that keeps the deadlines: one clock for every kind of slowness."""
        while True:
            time.sleep(0.5)
            self.app.store.stop_overdue()
            for handler in list(self.connections):
                if handler.deadline < time.monotonic():
                    handler.expire()

    def stop(self) -> None:
        """Takes no more connections, ends idle ones, and waits for requests in flight."""
        self.app.stopping.set()
        self.shutdown()
        self.server_close()
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        while self.connections and time.monotonic() < deadline:
            for handler in list(self.connections):
                if handler.idle:
                    handler.expire()
            time.sleep(0.02)


# ---------------------------------------------------------------- 12. Front page

STYLE = """\
:root { color-scheme: light dark; --bg: light-dark(#fcfcfa, #15171b); --ink: light-dark(#222, #ddd); --tone: var(--dim);
  --dim: light-dark(#62676f, #98a0ab); --line: light-dark(#dfdfd8, #31353e); --wash: light-dark(#f3f3ef, #1d2026); }
.DEBUG { --tone: light-dark(#6c727d, #8b94a1); } .INFO { --tone: light-dark(#2a6cab, #6caee6); }
.WARNING { --tone: light-dark(#8f5e00, #e0ae3c); } .ERROR { --tone: light-dark(#c4342a, #ff7d73); }
.CRITICAL { --tone: light-dark(#a0187f, #ff8ad1); } .CRITICAL b { color: var(--bg); background: var(--tone); }
body { max-width: 100rem; margin: auto; padding: 0 min(1.25rem, 4vw) 4rem; background: var(--bg); color: var(--ink);
  font: 14px/1.5 system-ui; font-variant-numeric: tabular-nums; } * { box-sizing: border-box; min-width: 0; }
:focus-visible, label:has(:focus-visible) { outline: 2px solid light-dark(#0b5cad, #82bbff); outline-offset: -1px; }
h1, h2 { margin: 0; font-size: 1.25rem; } h2 { margin-top: 2rem; } h1 a { text-decoration: none; } a { color: inherit; }
header, form, fieldset { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; padding: 0; border: 0; }
header { justify-content: space-between; margin: 9px 0; --tone: light-dark(#1a7f4b, #4cc38a); } fieldset { margin: 0; }
input, select, button { font: inherit; color: inherit; background: var(--wash); border: 1px solid var(--line);
  border-radius: 6px; padding: .3rem .6rem; } form > input { flex: 1 1 max(20%, 9rem); } [type=search] { flex: 4 36%; }
label { flex: none; padding: .1rem .7rem; border: 1px solid var(--line); border-radius: 99px; cursor: pointer; }
label:has(:checked) { border-color: var(--tone); } label:not(:has(:checked)) { color: var(--dim); }
[type=checkbox] { appearance: none; width: .65em; height: .65em; padding: 0; margin: 0 .5em 0 0; border-radius: 50%;
  border: 1.5px solid var(--tone); } label :checked { background: var(--tone); } small { margin-left: .5em; }
body:has(main [open]) header label::after { content: ', held by the open record'; color: var(--dim); }
#notice:not(:empty) { width: 100%; padding: .4rem .8rem; border-left: 3px solid #d9822b; background: var(--wash); }
small, time, i, dt, figcaption, ::placeholder { color: var(--dim); font-style: normal; } b { color: var(--tone); }
figure { position: relative; margin: 1rem 0 .5rem; } figcaption, #bars a::after { font-size: 12px; text-align: right; }
#bars { display: flex; gap: 1px; height: 5rem; } #bars a { flex: 0 1 4rem; border-bottom: 1px solid var(--line); }
a:is(:hover, :focus)::after { content: attr(aria-label); position: absolute; inset: auto 0 0; background: var(--bg); }
svg { width: 100%; height: 100%; } rect { fill: var(--tone); stroke: var(--tone); vector-effect: non-scaling-stroke; }
main:not([aria-busy=false]:empty) ~ :is(p, section), main.filtered ~ section, main:not(.filtered) ~ p { display: none; }
main, pre { font: 12.5px/1.65 ui-monospace, Menlo, Consolas, monospace; } main[aria-busy=true] { opacity: .5; }
summary { display: grid; grid: auto / 24ch 8ch 14ch 1fr auto; gap: 0 1.5ch; padding-left: 10px; cursor: pointer; }
summary > * { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ERROR summary, .CRITICAL summary, summary:hover, a:hover { background: color-mix(in srgb, var(--tone) 9%, #0000); }
p, pre, dl { margin: .7rem 0 .7rem 10px; white-space: pre-wrap; overflow-wrap: anywhere; } dd { margin: 0; }
details { border-left: 3px solid var(--tone); } dl { display: grid; grid: auto / fit-content(40%) 1fr; gap: 0 2ch; }
@media (max-width: 640px) { main, pre { font-size: 11.5px; } summary { grid: auto / auto auto 1fr auto; }
  summary span { grid-area: 2 / 1 / 2 / -1; } fieldset { flex-wrap: nowrap; overflow: auto; scrollbar-width: none; } }
"""

SCRIPT = r"""
const SEVERITIES = ['CRITICAL', 'ERROR', 'WARNING', 'INFO', 'DEBUG'];  // the worst at the foot of each bar
const STEPS = [1, 2, 5, 15, 30, 60, 120, 300, 900, 1800, 3600, 10800, 43200, 86400, 604800, 2592000];  // s of a bar
const local = time => new Date(time).toLocaleString('sv');  // 2026-11-24 03:14:12 in the reader's time zone
const sleep = milliseconds => new Promise(wake => setTimeout(wake, milliseconds));
const page = Object.fromEntries([...document.querySelectorAll('[id]')].map(element => [element.id, element]));
const boxes = () => page.filters.querySelectorAll('[type=checkbox]');
let next, lastId, timer, work = new AbortController();
function make(tag, attributes, ...children) {
  const language = /svg|rect/.test(tag) ? '2000/svg' : '1999/xhtml';
  const element = document.createElementNS(`http://www.w3.org/${language}`, tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  element.append(...children);  // strings become text, never markup
  return element;
}
function changed(changes) {  // the query with other values; null takes a filter out
  const query = new URLSearchParams(location.search);
  for (const name in changes) changes[name] === null ? query.delete(name) : query.set(name, changes[name]);
  return '?' + query;
}
async function ask(url, signal) {
  const answer = await fetch(url, {signal, headers: {Authorization: `Bearer ${sessionStorage.token ?? ''}`}});
  if (!answer.ok) throw {status: answer.status, ...await answer.json()};
  return answer;
}
function tell({status, error, hint}) {  // what is wrong, if anything; true where a later try may help
  const text = status ? `${error} ${hint}`.trim() : 'The server does not answer. This page goes on as soon as it does.';
  if (page.notice.textContent !== text) page.notice.textContent = text;
  page.token.hidden = status !== 401;
  return [undefined, 429, 503].includes(status);
}
async function load(resume = null) {  // the first page, the counts, and while live each record as it commits
  work.abort();
  const {signal} = work = new AbortController();
  page.list.ariaBusy = true;
  for (lastId = resume; !signal.aborted; await sleep(1000)) {
    try {  // the stream opens first: what commits while the page is fetched is in one of the two, or in both
      const from = lastId === null ? {limit: 1} : {after: lastId};
      const stream = page.live.checked && await ask('/logs' + changed({follow: 1, ...from}), signal);
      if (lastId === null) page.list.replaceChildren(...await rows('/logs' + changed({}), signal));
      page.list.ariaBusy = false;
      tell({status: 200, error: '', hint: ''});
      count(signal);
      if (!stream) return;
      await listen(stream.body.pipeThrough(new TextDecoderStream()).getReader(), signal);
    } catch (error) { if (signal.aborted || !tell(error)) return; }
  }
}
async function listen(reader, signal) {
  for (let rest = ''; ;) {
    const {done, value} = await Promise.race([reader.read(), sleep(60000).then(() => ({done: true}))]);
    while (page.list.querySelector('[open]') && !signal.aborted) await sleep(200);  // nothing moves while one reads
    if (done || signal.aborted) return reader.cancel();  // closed, or without even a heartbeat for a minute
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) if (line) place(JSON.parse(line));
  }
}
function place(record) {
  if (record.id <= lastId) return;  // it was on the first page
  let added = row(record), below = page.list.firstChild;
  while (below?.dataset.key > added.dataset.key) below = below.nextSibling;
  if (below || !next) page.list.insertBefore(added, below);  // else it belongs to an older page
  lastId = record.id;
  timer ??= setTimeout(count, 2000, work.signal);
  if (page.list.children.length > 3000) load();  // a page that stays open all day does not grow without end
}
async function rows(url, signal) {  // a page of rows; the Link header holds the URL of the page after it
  const answer = await ask(url, signal), link = answer.headers.get('Link'), records = await answer.json();
  next = link && link.slice(1, link.indexOf('>'));
  page.older.hidden = !next;
  lastId ??= Math.max(0, ...records.map(record => record.id));
  return records.map(row);
}
function row(record) {
  const {id, timestamp, received_at, severity, service, message} = record, lines = message.split('\n');
  const at = make('time', {title: `${timestamp}, received ${received_at}`}, local(timestamp) + timestamp.slice(19, 23));
  const details = make('details', {class: severity, 'data-key': timestamp + String(id).padStart(16)},
    make('summary', {}, at, make('b', {}, severity), make('i', {}, service), make('span', {}, lines[0].slice(0, 400)),
      make('small', {}, lines.length > 1 ? `${lines.length} lines` : '')));
  details.ontoggle = () => details.childElementCount > 1 || details.append(make('pre', {}, message), facts(record));
  return details;
}
function facts({id, timestamp, received_at, attributes}) {  // an attribute is a link to the records that share it
  const links = Object.entries(attributes).map(([name, value]) => [`attr.${name}`, value instanceof Object
    ? JSON.stringify(value, null, 2) : make('a', {href: changed({[`attr.${name}`]: value})}, value)]);
  const list = [...Object.entries({id, timestamp, received_at}), ...links];
  return make('dl', {}, ...list.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));
}
async function count(signal) {  // the numbers on the page, and the histogram: each bar is a link to its own time
  const stats = async changes => (await ask('/stats' + changed(changes), signal)).json();
  try {
    const all = await stats({}), counts = await stats({severity: null, service: null});
    for (const service in counts.by_service) chip('service', service);
    for (const box of boxes()) box.nextElementSibling.textContent = counts[`by_${box.name}`]?.[box.value] ?? '';
    page.bars.parentElement.hidden = !all.total;
    if (all.total) await draw(all, stats);
  } catch (error) { if (!signal.aborted) tell(error); }
  timer = null;
}
async function draw({total, first_timestamp: first, last_timestamp: last}, stats) {
  const step = STEPS.find(step => new Date(last) - new Date(first) < 80000 * step) ?? 3153600000;
  const range = {since: null, timestamp_start: first, timestamp_end: last};
  const {histogram} = await stats({...range, step: step % 86400 ? `${step}s` : `${step / 86400}d`});
  const tallest = Math.max(...histogram.map(bar => SEVERITIES.reduce((sum, name) => sum + bar[name], 0)));
  const focused = [...page.bars.children].indexOf(document.activeElement);
  page.bars.replaceChildren(...histogram.map(bar => {
    const some = SEVERITIES.filter(name => bar[name]), label = some.map(name => `${bar[name]} ${name}`).join(', ');
    const end = new Date(Date.parse(bar.start) + 1000 * step - 1).toISOString().replace('Z', '999Z');
    const href = changed({since: null, timestamp_start: bar.start, timestamp_end: end});
    let y = tallest;
    const parts = some.map(name => make('rect', {class: name, y: y -= bar[name], height: bar[name], width: 1}));
    return make('a', {href, tabindex: bar === histogram.at(-1) ? 0 : -1, 'aria-label': `${local(bar.start)}: ${label}`},
      make('svg', {viewBox: `0 0 1 ${tallest}`, preserveAspectRatio: 'none'}, ...parts));
  }));
  page.bars.children[focused]?.focus();
  page.caption.textContent = `${total.toLocaleString('en')} found, ${local(first)} – ${local(last)}`;
}
function chip(name, value) {  // the checkbox for one value of a filter, made when it is first needed
  const known = [...page.filters.elements].find(field => field.name === name && field.value === value);
  const box = known ?? make('input', {type: 'checkbox', name, value}), text = page[name] ? value : `${name}=${value}`;
  if (!known) (page[name] ?? page.service).append(make('label', {class: value}, box, text, make('small', {})));
  return box;
}
function visit() {  // shows what the URL asks for: its query, the filters of GET /logs, is the whole state
  const query = new URLSearchParams(location.search);
  page.list.classList.toggle('filtered', query.size);
  for (const field of page.filters.elements) if (field.type !== 'checkbox') field.value = query.get(field.name) ?? '';
  for (const box of boxes()) box.checked = false;
  for (const [name, value] of query) if (page.filters.elements[name]?.value !== value)
    for (const one of value.split(page[name] && ',')) chip(name, one).checked = true;
  load();
}
window.navigation?.addEventListener('navigate', event => {  // a browser without this loads the page anew
  const here = new URL(event.destination.url).pathname === location.pathname && event.navigationType !== 'reload';
  if (here && event.canIntercept) event.intercept({handler: visit, focusReset: 'manual', scroll: 'manual'});
});
page.filters.onchange = () => {
  if (page.token.value) sessionStorage.token = page.token.value;
  location.search = new URLSearchParams([...new FormData(page.filters)].filter(([, value]) => value));
};
document.onvisibilitychange = () => document.hidden ? work.abort() : load(lastId);  // a browser has few connections
page.live.onchange = () => page.live.checked ? load() : (work.abort(), work = new AbortController());
page.older.onclick = () => rows(next, work.signal).then(older => page.list.append(...older), tell);
page.bars.onkeydown = ({key, target: a}) => ({ArrowLeft: a.previousSibling, ArrowRight: a.nextSibling})[key]?.focus();
page.curl.textContent = `curl ${location.origin}/logs -H "Authorization: Token demo-pagos" -d '{"message": "hello"}'`;
SEVERITIES.forEach(severity => chip('severity', severity));
visit();
"""

HTML = """\
<header><h1><a href="/">Logs</a></h1><label><input type="checkbox" role="switch" id="live" checked>Live</label></header>
<form id="filters"><input type="search" name="contains" placeholder="Search messages" aria-label="Text in the message">
  <select name="since" aria-label="Since"><option value="">Any time<option>15m<option>1h<option>1d<option>7d</select>
  <input name="timestamp_start" placeholder="From, in UTC"> <input name="timestamp_end" placeholder="Until, in UTC">
  <fieldset id="severity" aria-label="Severity"></fieldset><fieldset id="service" aria-label="Service"></fieldset>
  <output id="notice"></output> <input type="password" id="token" placeholder="Read token" autocomplete="off" hidden>
</form><figure hidden><div id="bars"></div><figcaption id="caption"></figcaption></figure>
<main id="list" aria-label="Records, newest first" aria-busy="true"></main> <p>No record matches.</p>
<section><h2>No records yet</h2> They show here the moment they are stored. In another terminal, try
  <pre>python simulator.py</pre><pre id="curl"></pre></section> <button id="older" hidden>Older records</button>
"""


# Nothing but this style and this script: what a message holds can't run, and nothing is loaded from elsewhere.
HASHES = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (STYLE, SCRIPT)]
POLICY = (
    "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
).format(*HASHES)
DOCUMENT = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Logs</title><style>{STYLE}</style>{HTML}<script>{SCRIPT}</script></html>
"""
FRONT_PAGE = Response(200, DOCUMENT.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": POLICY})


# ---------------------------------------------------------------- 13. Main


def main() -> int:
    """Runs the server until SIGTERM or Ctrl-C; gives the exit status."""
    parser = argparse.ArgumentParser(description="A log server.")
    parser.add_argument("--config", type=pathlib.Path, default=pathlib.Path(__file__).with_name("config.json"))
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the port; 0 for any that is free")
    parser.add_argument("--store", help="an SQLite file, or http://user:password@host:8123/database")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    if options.store and "://" not in options.store:
        options.store = os.path.abspath(options.store)  # relative to where it was typed
    load = functools.partial(load_config, options.config, host=options.host, port=options.port, store=options.store)
    try:
        config, metrics = load(), Metrics()
        store = (ClickHouseStore if "://" in config.store else SQLiteStore)(config, metrics)
        app = App(config, store, metrics, FRONT_PAGE)
        server = Server(app)
    except StartError as error:
        print(error, file=sys.stderr)
        return 2

    def reload(*_: object) -> None:
        """On SIGHUP: reads tokens and limits again; a bad file changes nothing."""
        try:
            app.config = store.config = load(host=config.host)  # where it goes on to listen
        except StartError as error:
            log.error("the configuration stays as it was:\n%s", error)

    gc.set_threshold(GC_OBJECTS)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, reload)
    # by a thread of its own: the exception that a signal raises here must not hit a connection that is being accepted
    accepting = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    accepting.start()
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: KeyboardInterrupt
        print(f"listening on {server.url}", flush=True)
        while accepting.is_alive():
            accepting.join(1)  # not for ever: on Windows, Ctrl-C would have to wait
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # one was enough
    server.stop()
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
