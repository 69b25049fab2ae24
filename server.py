#!/usr/bin/env python3
"""A log server: takes log records over HTTP, keeps them in a database, answers queries and statistics.

    python server.py                                   # listens on http://127.0.0.1:8000, writes logs.db
    curl -H 'Authorization: Token demo-pagos' -d '{"message": "hola"}' localhost:8000/logs
    curl 'localhost:8000/logs?severity=ERROR&since=2h'

The way of a record
===================

    client ── POST /logs ──> Handler ──> post_logs ──> read_batch ──> Store.commit ──> disk
                             one thread   token, size   JSON to        one transaction
                             a connection limits        Records        for all who wait
    client <──── 200 ──────────────────────────────────────────────────────┘

What a 200 promises: the records are committed, and the transaction is on disk (fsync) before the answer
leaves. What is not promised: that a request without an answer was not stored. A client that repeats it
sends the same Idempotency-Key, and the batch is stored once.

Threads and locks
=================

- The main thread accepts connections. Each connection has a thread of its own (`Handler`), which does
  all the work of its requests. One more thread closes connections that are past their deadline
  (`Server.watch`), and one deletes what retention says (`SQLiteStore.maintain`).
- One connection to SQLite writes; whoever holds `Store._writing` uses it. Waiters are served by group
  commit: see `Store.commit`.
- Eight connections read. They are read-only, and a snapshot each (WAL): readers and the writer never
  wait for each other.
- `Metrics`, `Limits` and nothing else have locks besides, each held for a few additions.

Sections
========

 1. Constants
 2. Errors
 3. Configuration
 4. Records
 5. Bodies
 6. Queries
 7. Stores
 8. Endpoints
 9. HTTP
10. Page
11. Main
"""

from __future__ import annotations

import argparse
import ast
import base64
import bisect
import calendar
import contextlib
import csv
import dataclasses
import difflib
import functools
import hashlib
import hmac
import http
import http.server
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
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

# ---------------------------------------------------------------- 1. Constants

SECOND = 1_000_000  # all times are whole microseconds since 1970, UTC
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86400 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)

# What a client may send
MAX_BODY_BYTES = 10 << 20  # after decompression; one batch of syslog-ng is 3 MB
MAX_MESSAGE_BYTES = 256 << 10
MAX_ATTRIBUTES_BYTES = 64 << 10
MAX_SERVICE_CHARS = 128
MAX_KEY_CHARS = 255  # of an Idempotency-Key
MAX_ERRORS_LISTED = 100  # in the answer to a batch
MAX_LIMIT = 10_000  # records in one page of GET /logs; limit=0 streams them all
MAX_STEPS = 10_000  # of a histogram

# How much the server takes on at a time
MAX_CONNECTIONS = 900  # a thread and a file descriptor each; systems often allow 1024 of the latter
MAX_BODIES_BYTES = 64 << 20  # of all the bodies being read or waiting for a commit
MAX_COMMIT_RECORDS = 20_000  # from here on a commit takes no further batch: about 0.1 s
MAX_ANSWER_BYTES = 8 << 20  # a page of records ends early here, and the next page goes on
READERS = 8  # queries at a time; more wait for their turn

# How long it waits, in seconds
IDLE_SECONDS = 75  # for the next request; clients lose records on servers that close after 1-5 s
HEADER_SECONDS = 10  # from the first line of a request to the end of its headers
REQUEST_SECONDS = 120  # for the whole body: 10 MiB at 700 kbit/s
SEND_SECONDS = 30  # for the client to take the next piece of an answer
QUERY_SECONDS = 10  # for one query, or for one page of an export
LOCK_SECONDS = 2  # for another process that has locked the database
FOLLOW_SECONDS = 0.1  # between two looks for new records while following
HEARTBEAT_SECONDS = 15  # between two blank lines while there is nothing to follow
SHUTDOWN_SECONDS = 4  # for requests in flight, on SIGTERM
RETRY_AFTER = "2"  # seconds; clients give up on long ones

PAGE_RECORDS = 1_000  # that a stream reads at a time, in a transaction of its own
KEY_LIFETIME = DAY  # of an Idempotency-Key

SEVERITIES = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
SEVERITY_NAMES = {number: name for name, number in SEVERITIES.items()}
SEVERITY_ALIASES = SEVERITIES | {
    **dict.fromkeys(["TRACE", "VERBOSE", "FINE", "FINER", "FINEST", "DBG", "SILLY"], 10),
    **dict.fromkeys(["NOTICE", "INFORMATION", "INFORMATIONAL", "HTTP", "LOG"], 20),
    **dict.fromkeys(["WARN"], 30),
    **dict.fromkeys(["ERR", "SEVERE", "FAILURE"], 40),
    **dict.fromkeys(["CRIT", "FATAL", "ALERT", "EMERG", "EMERGENCY", "PANIC"], 50),
}

log = logging.getLogger("server")

Json = Any  # whatever json.loads returns
show = reprlib.repr  # a value in an error message, cut short


# ---------------------------------------------------------------- 2. Errors


class Refusal(Exception):
    """A request that is not carried out; raised anywhere, answered in one place (`App.respond`).

    `error` says in one sentence what is wrong, `hint` in one what to do. `body` adds to the JSON that
    is answered, `headers` to the answer's headers. `close` is set where the connection can't go on.
    """

    def __init__(self, status: int, error: str, hint: str, *, close: bool = False, body: Json = None, **headers: str):
        super().__init__(error)
        self.status, self.error, self.hint, self.close = status, error, hint, close
        self.body = {"error": error, "hint": hint, **(body or {})}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Unavailable(Refusal):
    """503: the store can't take or give records now. What was asked for may be asked for again."""

    def __init__(self, error: str, hint: str = "Send it again in a few seconds."):
        super().__init__(503, error, hint, Retry_After=RETRY_AFTER)


class RecordError(Exception):
    """What is wrong with one record of a batch; `field` is the one at fault."""

    def __init__(self, field: str, error: str, forbidden: bool = False):
        super().__init__(error)
        self.field, self.error, self.forbidden = field, error, forbidden


class StartError(Exception):
    """What keeps the server from starting, a line for each mistake; exit status 2."""


# ---------------------------------------------------------------- 3. Configuration


class Token(NamedTuple):
    """Who may do what: `role` is "service", "shipper" or "read"; only the first has a `service`."""

    secret: str
    role: str
    service: str | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration, checked. `load_config` makes it."""

    host: str
    port: int
    store: str
    tokens: tuple[Token, ...]
    allowed_hosts: frozenset[str]
    tls: dict[str, str] | None
    max_age_days: float | None
    max_size_mb: float | None
    max_records_per_second: float | None

    @property
    def reading_is_open(self) -> bool:
        """Whether GET needs no token: only on loopback, and while no read token is configured."""
        return not any(token.role == "read" for token in self.tokens)

    def find(self, secret: str, *roles: str) -> Token | None:
        """The token with that secret and one of these roles.

        Looks at every token to its end, whether or not one has matched, so that the time it takes
        tells nothing (https://docs.python.org/3/library/hmac.html#hmac.compare_digest).
        """
        found = None
        for token in self.tokens:
            if hmac.compare_digest(token.secret.encode(), secret.encode()) and token.role in roles:
                found = token
        return found


# One rule for each key: how to check a value, and the words for what is expected.
Rule = tuple[Callable[[Json], bool], str]


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_texts(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _is_range(value: Json) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and 0 <= value[0] <= value[1]


TEXT: Rule = (lambda v: isinstance(v, str) and v != "", "a text that is not empty")
TEXTS: Rule = (_is_texts, "a list of texts")
OBJECT: Rule = (lambda v: isinstance(v, dict), "an object")
POSITIVE: Rule = (lambda v: v is None or (_is_number(v) and v > 0), "a number above 0, or null for no bound")
RANGE: Rule = (_is_range, "two numbers, the lower one first")
PORT: Rule = (lambda v: type(v) is int and 0 <= v <= 65535, "a whole number from 0 to 65535")

CONFIG_KEYS = {"server": OBJECT, "services": OBJECT, "simulator?": OBJECT}  # "?": may be left out
SERVER_KEYS = {
    "host": TEXT,
    "port": PORT,
    "store": TEXT,
    "read_tokens?": TEXTS,
    "shipper_tokens?": TEXTS,
    "retention?": OBJECT,
    "max_records_per_second?": POSITIVE,
    "allowed_hosts?": TEXTS,
    "tls?": OBJECT,
}
RETENTION_KEYS = {"max_age_days?": POSITIVE, "max_size_mb?": POSITIVE}
TLS_KEYS = {"certificate": TEXT, "key": TEXT}
SIMULATOR_KEYS = {"url?": TEXT}
SERVICE_KEYS = {
    "token": TEXT,
    "iterations?": RANGE,
    "delay_seconds?": RANGE,
    "logs?": (lambda v: isinstance(v, list), "a list of objects"),
}


def check_keys(value: Json, keys: dict[str, Rule], path: str, mistakes: list[str]) -> dict[str, Json]:
    """The members of the object at `path` that are as `keys` says; adds a line to `mistakes` for each other."""
    if not isinstance(value, dict):
        return {}  # its own rule has named it
    rules = {name.rstrip("?"): rule for name, rule in keys.items()}
    for name in value.keys() - rules.keys():
        close = difflib.get_close_matches(name, rules, 1)
        mistakes.append(f"{path}{name}: unknown key" + (f"; did you mean {close[0]}?" if close else ""))
    for name in (name for name in keys if name not in value and not name.endswith("?")):
        mistakes.append(f"{path}{name}: missing; must be {rules[name][1]}")
    right = {}
    for name, (check, expected) in rules.items():
        if name in value and check(value[name]):
            right[name] = value[name]
        elif name in value:
            mistakes.append(f"{path}{name}: must be {expected}, not {show(value[name])}")
    return right


def load_config(path: pathlib.Path, **overrides: Json) -> Config:
    """Reads and checks a configuration file; `overrides` replace keys of its "server" part.

    Raises StartError with a line for every mistake, each with its path in the file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StartError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise StartError(f"{path}: not JSON: {error}") from None
    mistakes: list[str] = [] if isinstance(document, dict) else [f"{path}: must be a JSON object"]
    parts = check_keys(document, CONFIG_KEYS, "", mistakes)
    if "server" in parts:
        parts["server"] |= {name: value for name, value in overrides.items() if value is not None}
    server = check_keys(parts.get("server"), SERVER_KEYS, "server.", mistakes)
    retention = check_keys(server.get("retention"), RETENTION_KEYS, "server.retention.", mistakes)
    tls = check_keys(server.get("tls"), TLS_KEYS, "server.tls.", mistakes)
    check_keys(parts.get("simulator"), SIMULATOR_KEYS, "simulator.", mistakes)
    tokens = [Token(secret, "read") for secret in server.get("read_tokens", [])]
    tokens += [Token(secret, "shipper") for secret in server.get("shipper_tokens", [])]
    for name, service in parts.get("services", {}).items():
        if not OBJECT[0](service) or not 0 < len(name) <= MAX_SERVICE_CHARS:
            mistakes.append(f"services.{name}: must be an object, under a name of 1 to {MAX_SERVICE_CHARS} characters")
        right = check_keys(service, SERVICE_KEYS, f"services.{name}.", mistakes)
        tokens.append(Token(right.get("token", ""), "service", name))
    mistakes += check_tokens(tokens, server.get("host", "127.0.0.1"))
    if mistakes:
        raise StartError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    store = server["store"]
    return Config(
        host=server["host"],
        port=server["port"],
        store=store if "://" in store else str(path.parent / store),
        tokens=tuple(tokens),
        allowed_hosts=frozenset(name.lower() for name in server.get("allowed_hosts", [])),
        tls={name: str(path.parent / file) for name, file in tls.items()} or None,
        max_age_days=retention.get("max_age_days", 30),
        max_size_mb=retention.get("max_size_mb", 1024),
        max_records_per_second=server.get("max_records_per_second"),
    )


def check_tokens(tokens: list[Token], host: str) -> list[str]:
    """The mistakes in the tokens: one secret used twice, and what is not safe to start with beyond loopback."""
    uses = Counter(token.secret for token in tokens if token.secret)
    mistakes = [f"a token of {t.service or t.role} is used twice" for t in tokens if uses[t.secret] > 1]
    if not is_loopback(host):
        if not any(token.role == "read" for token in tokens):
            mistakes.append(f"server.read_tokens: must not be empty while the host is {host}, or all could read")
        if any(token.secret.startswith("demo-") for token in tokens):
            mistakes.append(f"the sample tokens (demo-...) are known to all: replace them while the host is {host}")
    return mistakes


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# ---------------------------------------------------------------- 4. Records


class Record(NamedTuple):
    """One record as the store takes it. A NamedTuple and no dataclass: it is the row, as it stands."""

    timestamp: int | None  # µs since 1970; None: the time of the commit, which the sender left out
    service: str
    severity: int  # a number of SEVERITIES
    message: str
    attributes: str  # a JSON object


class StoredRecord(NamedTuple):
    """One record as the store gives it back."""

    id: int
    received_at: int
    timestamp: int
    service: str
    severity: int
    message: str
    attributes: str


COLUMNS = ", ".join(StoredRecord._fields)
MIN_TIMESTAMP = (datetime.min.replace(tzinfo=timezone.utc) - EPOCH) // MICROSECOND
MAX_TIMESTAMP = (datetime.max.replace(tzinfo=timezone.utc) - EPOCH) // MICROSECOND

# What fromisoformat does not take: ", " and lower case between its parts, a space or a word for the offset.
LOOSE_TIMESTAMP = re.compile(r"([\d-]+)(?:[tT ]|, ?)([\d:]+(?:[.,]\d+)?) ?(?:[zZ]|UTC|GMT|([+ -]\d\d:?(?:\d\d)?))?")
NUMBER = re.compile(r"-?\d+(\.\d+)?")

encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def parse_timestamp(value: str | int | float) -> int:
    """A point in time, in any usual form, as microseconds since 1970 in UTC; without an offset it is UTC.

    >>> parse_timestamp("2026-11-24T03:14:12.123456+01:00") == parse_timestamp("2026-11-24, 02:14:12.123456")
    True
    >>> [parse_timestamp(n) for n in (1795486452, 1795486452000, "1795486452000000", 1795486452000000000)]
    [1795486452000000, 1795486452000000, 1795486452000000, 1795486452000000]

    Raises ValueError for all else, and outside of the years 1 to 9999.
    """
    if isinstance(value, str) and (len(value) == 8 or not NUMBER.fullmatch(value)):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            parts = LOOSE_TIMESTAMP.fullmatch(value.strip())
            if not parts:
                raise
            moment = datetime.fromisoformat(f"{parts[1]}T{parts[2]}{(parts[3] or 'Z').replace(' ', '+')}")
        microseconds = ((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) - EPOCH) // MICROSECOND
    else:
        number = float(value) if isinstance(value, str) and "." in value else value if _is_number(value) else int(value)
        size = abs(number)  # today, seconds have 10 digits, ms 13, µs 16 and ns 19
        microseconds = round(
            number * SECOND if size < 1e11 else number * 1000 if size < 1e14 else number if size < 1e17 else number // 1000
        )
    if not MIN_TIMESTAMP <= microseconds <= MAX_TIMESTAMP:
        raise ValueError("outside of the years 1 to 9999")
    return microseconds


def format_timestamp(microseconds: int) -> str:
    """
    >>> format_timestamp(1795486452123456)
    '2026-11-24T02:14:12.123456Z'
    """
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_severity(value: Json, name: str = "severity") -> int:
    """The number of a severity's name in any case; under the name "level", also of a number on pino's scale.

    >>> [parse_severity("Warn"), parse_severity("emerg"), parse_severity(30, "level"), parse_severity("60", "level")]
    [30, 50, 20, 50]

    Raises ValueError (https://github.com/pinojs/pino/blob/main/docs/api.md#loggerlevels-object).
    """
    if isinstance(value, str) and value.upper() in SEVERITY_ALIASES:
        return SEVERITY_ALIASES[value.upper()]
    if name == "level" and not isinstance(value, bool) and re.fullmatch(r"\d{1,3}", str(value)):
        return min(max(int(value) // 10 * 10 - 10, 10), 50)
    raise ValueError(f"must be one of {', '.join(SEVERITIES)}, or a usual other name for it, not {show(value)}")


def _take(fields: dict[str, Json], *names: str) -> tuple[str, Json]:
    """Takes the first of `names` that is there out of `fields`; the others stay."""
    for name in names:
        if (value := fields.pop(name, None)) is not None:
            return name, value
    return names[0], None


def parse_record(fields: dict[str, Json], token: Token) -> Record:
    """Makes a record of a JSON object, which it empties.

    >>> parse_record({"msg": "hi", "level": "warn", "ts": 1795486452, "user": "bob"}, Token("t", "service", "app"))
    Record(timestamp=1795486452000000, service='app', severity=30, message='hi', attributes='{"user":"bob"}')

    Raises RecordError. The common case, canonical names alone, takes 1.4 µs.
    """
    if not isinstance(fields, dict):
        raise RecordError("record", f"must be a JSON object, not {show(fields)}")
    if "received_at" in fields and "id" in fields:  # what GET gave out is posted again
        del fields["received_at"], fields["id"]
    name, message = _take(fields, "message", "msg", "log")
    if not isinstance(message, str) or not message:
        raise RecordError(name, "is missing" if message is None else "must be a text that is not empty")
    if len(message) > MAX_MESSAGE_BYTES // 4 and len(message.encode()) > MAX_MESSAGE_BYTES:
        raise RecordError(name, f"is longer than {MAX_MESSAGE_BYTES >> 10} KiB")
    name, timestamp = _take(fields, "timestamp", "time", "ts", "date", "created", "@timestamp")
    try:
        timestamp = timestamp if timestamp is None else parse_timestamp(timestamp)
    except (ValueError, TypeError, OverflowError):
        raise RecordError(name, f"must be ISO 8601 or an epoch number, not {show(timestamp)}") from None
    name, severity = _take(fields, "severity", "level", "levelname")
    try:
        severity = 20 if severity is None else parse_severity(severity, name)
    except ValueError as error:
        raise RecordError(name, str(error)) from None
    return Record(timestamp, parse_service(fields, token), severity, message, parse_attributes(fields))


def parse_service(fields: dict[str, Json], token: Token) -> str:
    """Takes the service out of `fields`. Raises RecordError, `forbidden` where the token is another service's."""
    if token.role == "service":
        service = fields.pop("service", None) or token.service
        if service != token.service:
            error = f"this token writes records of {token.service} only, not of {show(service)}"
            raise RecordError("service", error, forbidden=True)
        return service
    name, service = _take(fields, "service", "logger", "name")
    if not isinstance(service, str) or not 0 < len(service) <= MAX_SERVICE_CHARS:
        raise RecordError(name, f"must be a text of 1 to {MAX_SERVICE_CHARS} characters, with a shipper's token")
    return service


def parse_attributes(fields: dict[str, Json]) -> str:
    """What is left in `fields`, as a JSON object; members of the record's own `attributes` come first."""
    own = fields.pop("attributes", None)
    if own and not isinstance(own, dict):
        raise RecordError("attributes", f"must be a JSON object, not {show(own)}")
    try:
        text = encode_json({**fields, **own} if own else fields) if own or fields else "{}"
    except (ValueError, RecursionError):
        raise RecordError("attributes", "must be JSON: no NaN, no Infinity, not nested too deep") from None
    if len(text) > MAX_ATTRIBUTES_BYTES // 4 and len(text.encode()) > MAX_ATTRIBUTES_BYTES:
        raise RecordError("attributes", f"are longer than {MAX_ATTRIBUTES_BYTES >> 10} KiB")
    return text


def record_json(record: StoredRecord) -> str:
    """One record as a line of JSON; the attributes go out as they lie in the store."""
    return (
        f'{{"id":{record.id},"timestamp":"{format_timestamp(record.timestamp)}",'
        f'"received_at":"{format_timestamp(record.received_at)}","service":{encode_json(record.service)},'
        f'"severity":"{SEVERITY_NAMES[record.severity]}","message":{encode_json(record.message)},'
        f'"attributes":{record.attributes}}}'
    )


# ---------------------------------------------------------------- 5. Bodies


@dataclasses.dataclass(eq=False)
class Batch:
    """The records of one POST on their way into the store, and what became of them."""

    token: Token
    records: list[Record] = dataclasses.field(default_factory=list)
    rejected: Counter[str] = dataclasses.field(default_factory=Counter)  # by field at fault
    forbidden: int = 0  # of the rejected, those that named another service
    errors: list[dict[str, Json]] = dataclasses.field(default_factory=list)  # the first of them, for the answer
    counts: Counter[tuple[int | None, str, int]] = dataclasses.field(default_factory=Counter)  # by minute and kind
    key: bytes | None = None  # SHA-256 of token and Idempotency-Key
    body: bytes = b""  # SHA-256 of the body
    first_id: int | None = None  # the records' ids are consecutive
    stored_answer: str | None = None  # of an earlier batch with the same key
    failure: BaseException | None = None
    done: bool = False

    def answer(self) -> dict[str, Json]:
        """What POST /logs answers."""
        last_id = None if self.first_id is None else self.first_id + len(self.records) - 1
        rejected = self.rejected.total()
        accepted = len(self.records) if last_id else 0
        numbers = {"accepted": accepted, "rejected": rejected, "first_id": self.first_id, "last_id": last_id}
        return {**numbers, "errors": self.errors}


def read_batch(values: Iterable[Json], token: Token) -> Batch:
    """Sorts the values of a body into records and errors. Raises Refusal (422) when there is none."""
    batch = Batch(token)
    for index, value in enumerate(values):
        try:
            batch.records.append(parse_record(value, token))
        except RecordError as error:
            batch.rejected[error.field] += 1
            batch.forbidden += error.forbidden
            if len(batch.errors) < MAX_ERRORS_LISTED:
                batch.errors.append({"index": index, "field": error.field, "error": error.error})
    batch.counts.update(
        [(None if r.timestamp is None else r.timestamp // MINUTE * MINUTE, r.service, r.severity) for r in batch.records]
    )
    if not batch.records and not batch.rejected:
        raise Refusal(422, "The body holds no record.", 'Send a JSON object such as {"message": "hello"}.')
    return batch


def parse_body(data: bytes) -> list[Json]:
    """The values of a body, whatever it says that it is: JSON objects and arrays one after the other, or a form.

    >>> parse_body(b'{"message": "a"}{"message": "b"}')
    [{'message': 'a'}, {'message': 'b'}]
    >>> parse_body(b'{"logs": [{"message": "a"}]}') == parse_body(b'[{"message": "a"}]') == parse_body(b"message=a")
    True

    Raises Refusal (422) with the position of the fault.
    """
    text = data.decode(json.detect_encoding(data), "replace").removeprefix("\ufeff").strip()
    if text[:1] not in ("{", "[") and "=" in text:
        return [parse_form(text)]
    try:
        values = list(split_json(text))
        if b"\\ud" in data.lower():  # maybe half of a surrogate pair, which is no Unicode: U+FFFD takes its place
            values = json.loads(json.dumps(values, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno} (character {error.pos})"
        raise Refusal(422, f"The body is not JSON: {error.msg} at {place}.", "Mend it there; nothing was stored.") from None
    except (ValueError, RecursionError):
        hint = "Send numbers of 4,300 digits at most, and objects at most some hundreds deep."
        raise Refusal(422, "The body has a number too long or is nested too deep.", hint) from None
    return values


def split_json(text: str) -> Iterator[Json]:
    """The JSON values that stand one after the other in a text; those of an array or of "logs" one by one."""
    decoder, space = json.JSONDecoder(), re.compile(r"\s*")
    position = 0
    while position < len(text):
        value, position = decoder.raw_decode(text, position)
        if isinstance(value, dict) and isinstance(value.get("logs"), list) and "message" not in value:
            value = value["logs"]
        yield from value if isinstance(value, list) else (value,)
        position = space.match(text, position).end()  # type: ignore[union-attr]  # it matches always


# Of what logging.handlers.HTTPHandler sends, what says the same again, or nothing to a reader.
HTTP_HANDLER_NOISE = (
    *("args", "levelno", "msecs", "relativeCreated", "thread", "process", "processName", "taskName"),
    *("filename", "module", "exc_info", "exc_text", "stack_info"),
)


def parse_form(text: str) -> dict[str, Json]:
    """A record out of the form that logging.handlers.HTTPHandler posts, or of any other form.

    >>> parse_form("msg=%25s+rows&args=%283%2C%29&levelname=INFO&levelno=20&exc_info=None")
    {'levelname': 'INFO', 'message': '3 rows'}
    """
    fields: dict[str, Json] = dict(urllib.parse.parse_qsl(text, keep_blank_values=True))
    if "msg" not in fields or "levelno" not in fields:
        return fields
    message = fields.pop("msg")
    with contextlib.suppress(Exception):  # "args" is whatever repr() gave: where it can't be read, the raw text stays
        arguments = ast.literal_eval(fields.get("args", ""))
        message = message % arguments if arguments else message
    fields["message"] = message
    exception = re.match(r"\(<class '.*?'>, (.*), <traceback", fields.get("exc_info", ""), re.DOTALL)
    details = {"exception": exception and exception[1], "traceback": fields.get("exc_text"), "stack": fields.get("stack_info")}
    for name in HTTP_HANDLER_NOISE:
        fields.pop(name, None)
    return fields | {name: text for name, text in details.items() if text not in (None, "None")}


def parse_otlp(document: Json) -> list[Json]:
    """The records of an ExportLogsServiceRequest in JSON, as the objects that `parse_record` takes.

    https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    Raises Refusal (422) where the document is another.
    """
    records = []
    try:
        for resource in document.get("resourceLogs", []):
            common = otlp_attributes(resource.get("resource"))
            for scope in resource.get("scopeLogs", []):
                name = (scope.get("scope") or {}).get("name")
                more = common | ({"scope": name} if name else {})
                records += [otlp_record(record, more) for record in scope.get("logRecords", [])]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        hint = 'Send {"resourceLogs": [...]}; other JSON goes to POST /logs.'
        raise Refusal(422, f"The body is not an OTLP logs request: {error}.", hint) from None
    return records


def otlp_record(record: dict[str, Json], common: dict[str, Json]) -> dict[str, Json]:
    """One LogRecord (https://opentelemetry.io/docs/specs/otel/logs/data-model/)."""
    attributes = common | otlp_attributes(record)
    service = attributes.pop("service.name", None)
    body = otlp_value(record.get("body") or {})
    fields: dict[str, Json] = {
        "message": body if isinstance(body, str) else encode_json(body),
        "timestamp": int(record.get("timeUnixNano") or 0) or int(record.get("observedTimeUnixNano") or 0) or None,
        "attributes": attributes | {name: record[name] for name in ("traceId", "spanId") if record.get(name)},
    }
    number = record.get("severityNumber") or 0  # 1-4 trace, 5-8 debug, 9-12 info, 13-16 warn, 17-20 error, 21-24 fatal
    fields["severity"] = ("DEBUG", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")[(number - 1) // 4] if number else None
    if not number and str(record.get("severityText")).upper() in SEVERITY_ALIASES:
        fields["severity"] = record["severityText"]
    if service and not str(service).startswith("unknown_service"):  # the SDK's word for none
        fields["service"] = service
    return fields


def otlp_attributes(holder: Json) -> dict[str, Json]:
    """The "attributes" list of a resource or record, as a dict."""
    return {pair["key"]: otlp_value(pair.get("value") or {}) for pair in (holder or {}).get("attributes", [])}


def otlp_value(value: dict[str, Json]) -> Json:
    """
    >>> otlp_value({"arrayValue": {"values": [{"intValue": "3"}, {"kvlistValue": {"values": []}}]}})
    [3, {}]
    """
    for kind, content in value.items():
        if kind == "arrayValue":
            return [otlp_value(item) for item in content.get("values", [])]
        if kind == "kvlistValue":
            return otlp_attributes({"attributes": content.get("values", [])})
        return int(content) if kind == "intValue" else content
    return None


# ---------------------------------------------------------------- 6. Queries


@dataclasses.dataclass(frozen=True)
class Query:
    """What GET /logs and GET /stats ask for; None and () stand for no such filter."""

    severities: tuple[int, ...] = ()
    min_severity: int | None = None
    services: tuple[str, ...] = ()
    start: int | None = None  # µs, inclusive, as all four
    end: int | None = None
    received_start: int | None = None
    received_end: int | None = None
    contains: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    after_id: int | None = None  # exclusive
    last_id: int | None = None  # inclusive
    cursor: tuple[int, int] | None = None  # (timestamp, id) of the last record of the page before
    descending: bool = True
    by_id: bool = False  # in the order of commits, not of timestamps
    limit: int = 100

    @property
    def counted(self) -> bool:
        """Whether the table of counts can answer it: it knows of services, severities and timestamps only."""
        return not self.contains and not self.attributes and self.received_start is None and self.received_end is None


UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}


def parse_duration(text: str) -> int:
    """
    >>> parse_duration("15m") // SECOND
    900
    """
    match = re.fullmatch(r"([1-9]\d{0,5})([smhdw])", text)
    if not match:
        raise ValueError("a number and a unit: 30s, 15m, 2h, 7d or 4w")
    return int(match[1]) * UNITS[match[2]]


def parse_moment(text: str, end: bool = False) -> int:
    """A timestamp of a query string; a date alone as the end is its last microsecond."""
    try:
        whole_day = end and re.fullmatch(r"\d{4}-?\d\d-?\d\d", text)
        return parse_timestamp(text) + (DAY - 1 if whole_day else 0)
    except (ValueError, OverflowError):
        raise ValueError("a time such as 2026-11-24T02:14:12Z, a date or an epoch number") from None


def parse_severities(text: str) -> tuple[int, ...]:
    try:
        return tuple(parse_severity(name.strip()) for name in text.split(","))
    except ValueError:
        raise ValueError(", ".join(SEVERITIES)) from None


def parse_number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def parse_choice(**choices: Json) -> Callable[[str], Json]:
    def parse(text: str) -> Json:
        if text not in choices:
            raise ValueError(" or ".join(choices))
        return choices[text]

    return parse


def parse_cursor(text: str) -> tuple[int, int]:
    """
    >>> parse_cursor(format_cursor(1795486452123456, 7))
    (1795486452123456, 7)
    """
    try:
        timestamp, number = base64.urlsafe_b64decode(text).decode("ascii").split(":")
        return int(timestamp), int(number)
    except ValueError:
        raise ValueError('the cursor of a "next" link, as it was given') from None


def format_cursor(timestamp: int, number: int) -> str:
    return base64.urlsafe_b64encode(f"{timestamp}:{number}".encode()).decode()


# The parameters: the field of Query that each sets, and how its text is read. Each parser's ValueError
# says what is allowed.
FILTERS: dict[str, tuple[str, Callable[[str], Json]]] = {
    "severity": ("severities", parse_severities),
    "min_severity": ("min_severity", lambda text: parse_severities(text)[0]),
    "service": ("services", lambda text: tuple(text.split(","))),
    "timestamp_start": ("start", parse_moment),
    "timestamp_end": ("end", functools.partial(parse_moment, end=True)),
    "received_at_start": ("received_start", parse_moment),
    "received_at_end": ("received_end", functools.partial(parse_moment, end=True)),
    "since": ("start", lambda text: time.time_ns() // 1000 - parse_duration(text)),
    "contains": ("contains", str),
}
LIST_PARAMETERS = FILTERS | {
    "order": ("descending", parse_choice(desc=True, asc=False)),
    "limit": ("limit", parse_number(0, MAX_LIMIT)),
    "cursor": ("cursor", parse_cursor),
    "format": ("format", parse_choice(json="json", ndjson="ndjson", csv="csv")),
    "follow": ("follow", parse_choice(**{"1": True, "0": False})),
    "after": ("after_id", parse_number(0, 1 << 53)),
}
STATS_PARAMETERS = FILTERS | {"step": ("step", parse_duration)}
LISTS = ("severity", "service")  # may be given several times


def parse_parameters(text: str, parameters: dict[str, tuple[str, Callable[[str], Json]]]) -> dict[str, Json]:
    """The fields that a query string sets. Raises Refusal (400) with the parameter, its value and what is allowed."""
    fields: dict[str, Json] = {"attributes": ()}
    seen = set()
    for name, value in split_parameters(text):
        if name.startswith("attr.") and len(name) > 5 and '"' not in name:
            fields["attributes"] += ((name[5:], value),)
            continue
        if name not in parameters:
            close = difflib.get_close_matches(name, [*parameters, "attr."], 1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise Refusal(400, f"There is no parameter {show(name)}.", f"{hint}There are {', '.join(parameters)}, attr.KEY.")
        if name in seen and name not in LISTS:
            raise Refusal(400, f"The parameter {name} is given twice.", "Give it once.")
        seen.add(name)
        field, parse = parameters[name]
        try:
            if not value:
                raise ValueError("a value that is not empty")
            parsed = parse(value)
        except ValueError as error:
            raise Refusal(400, f"The parameter {name} can't be {show(value)}.", f"Allowed: {error}.") from None
        if name in LISTS:
            parsed = fields.get(field, ()) + parsed
        elif field == "start" and field in fields:  # both since and timestamp_start
            parsed = max(parsed, fields[field])
        fields[field] = parsed
    return fields


def split_parameters(text: str) -> list[tuple[str, str]]:
    """The pairs of a query string. Raises Refusal (400) for hundreds."""
    try:
        return urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise Refusal(400, "The query string has more than 200 parameters.", "Send fewer.") from None


# ---------------------------------------------------------------- 7. Stores

class Metrics:
    """Numbers that only grow, by name and labels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.values: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        with self._lock:
            self.values[name, tuple(labels.items())] += amount  # type: ignore[assignment]  # some are seconds


Read = Callable[[str, list[Json]], Iterable[tuple[Any, ...]]]  # SQL and its parameters in, rows out


class Store:
    """Where records live. What both kinds share: group commit, and the queries in SQL.

    A subclass says how rows go in (`write`) and come out (`reading`), and the few words of SQL that differ.
    """

    spans: tuple[int, ...] = ()  # the lengths of the stretches that a table of counts knows, the longest first

    def __init__(self) -> None:
        self._waiting: deque[Batch] = deque()
        self._writing = threading.Lock()  # held by the one thread that writes
        self.commits = Metrics()

    # What a subclass gives

    def write(self, batches: list[Batch]) -> None:
        """Stores the batches durably, all or none, and sets what their answers need."""
        raise NotImplementedError

    def reading(self) -> contextlib.AbstractContextManager[Read]:
        """A function that runs SELECTs, all on one state of the store. Raises Unavailable."""
        raise NotImplementedError

    def mark(self, parameters: list[Json], value: Json) -> str:
        """Adds a value to a statement's parameters; gives the words that stand for it in the SQL."""
        raise NotImplementedError

    def contains(self, mark: Callable[[Json], str], text: str) -> str:
        """The condition that the message holds the text, ignoring case."""
        raise NotImplementedError

    def attribute(self, mark: Callable[[Json], str], key: str, value: str) -> str:
        """The condition that an attribute is that text, or JSON (a number, true, null) that is written so."""
        raise NotImplementedError

    def branches(self, query: Query, read: Read, split: bool = False) -> list[tuple[str, Query]]:
        """The tables to read, and what of each: together they hold just what the query asks for."""
        return [("logs", query)]

    def check(self) -> None:
        """Returns when the store can commit. Raises Unavailable."""
        raise NotImplementedError

    def size(self) -> int:
        """Bytes on disk."""
        raise NotImplementedError

    def configure(self, config: Config) -> None:
        """Takes the bounds of retention."""

    def close(self) -> None:
        """Waits for the commit that is under way."""

    # Writing

    def commit(self, batch: Batch) -> None:
        """Stores a batch; returns when it is on disk. Raises Unavailable, and Refusal for a reused key.

        Group commit without a thread: every caller puts its batch on a list, then takes the lock. Whoever
        gets it commits for all that wait; the rest find theirs done. One fsync serves all, and a lone
        client waits for nobody.
        """
        self._waiting.append(batch)
        with self._writing:
            while not batch.done:
                self._attempt(list(self._next_batches()))
        if batch.failure:
            raise batch.failure

    def _next_batches(self) -> Iterator[Batch]:
        records = 0
        while self._waiting and records < MAX_COMMIT_RECORDS:
            batch = self._waiting.popleft()
            records += len(batch.records)
            yield batch

    def _attempt(self, batches: list[Batch]) -> None:
        """Commits the batches together. Where that fails for what is in them, the bad one must fail alone."""
        began = time.perf_counter()
        try:
            self.write(batches)
            self.commits.add("commit_duration_seconds", time.perf_counter() - began)
            self.commits.add("commit_records", sum(len(batch.records) for batch in batches))
        except Refusal as refusal:  # the store's own trouble, which all share
            log.error("nothing can be stored: %s", refusal.error)
            for batch in batches:
                batch.failure = Unavailable(refusal.error, refusal.hint)
        except Exception as error:
            if len(batches) == 1:
                batches[0].failure = error
            for batch in batches if len(batches) > 1 else ():
                self._attempt([batch])
        finally:
            for batch in batches:
                batch.done = True

    # Reading

    def where(self, query: Query, parameters: list[Json]) -> str:
        """The conditions of a query, in SQL that every store understands."""
        mark = functools.partial(self.mark, parameters)
        tests = []
        for column, values in (("service", query.services), ("severity", query.severities)):
            if values:
                tests.append(f"{column} IN ({', '.join(map(mark, values))})")
        for comparison, value in (
            ("severity >=", query.min_severity),
            ("timestamp >=", query.start),
            ("timestamp <=", query.end),
            ("received_at >=", query.received_start),
            ("received_at <=", query.received_end),
            ("id >", query.after_id),
            ("id <=", query.last_id),
        ):
            if value is not None:
                tests.append(f"{comparison} {mark(value)}")
        if query.cursor:
            (timestamp, number), sign = query.cursor, "<" if query.descending else ">"
            tests.append(f"timestamp {sign}= {mark(timestamp)}")  # what an index can start from
            tests.append(f"(timestamp {sign} {mark(timestamp)} OR id {sign} {mark(number)})")
        if query.contains:
            tests.append(self.contains(mark, query.contains))
        tests += [self.attribute(mark, key, value) for key, value in query.attributes]
        return " AND ".join(tests) or "1 = 1"

    def _page(self, query: Query, read: Read) -> tuple[list[StoredRecord], bool]:
        parameters: list[Json] = []
        selects = [
            f"SELECT {COLUMNS} FROM {table} WHERE {self.where(branch, parameters)}"
            for table, branch in self.branches(query, read)
        ]
        if not selects:
            return [], False
        order = "DESC" if query.descending else "ASC"
        order = f"id {order}" if query.by_id else f"timestamp {order}, id {order}"
        limit = self.mark(parameters, query.limit + 1)
        records: list[StoredRecord] = []
        size = 0
        for record in map(StoredRecord._make, read(f"{' UNION ALL '.join(selects)} ORDER BY {order} LIMIT {limit}", parameters)):
            if len(records) == query.limit or size > MAX_ANSWER_BYTES:
                return records, True
            size += len(record.message) + len(record.attributes)
            records.append(record)
        return records, False

    def page(self, query: Query) -> tuple[list[StoredRecord], bool]:
        """The first `limit` records of a query, fewer where they are large, and whether there are more."""
        with self.reading() as read:
            return self._page(query, read)

    def stream(self, query: Query) -> Iterator[list[StoredRecord]]:
        """All the records of a query that are there now, page after page: one long read would hold up the
        clean-up of SQLite's WAL, and it would grow without end (https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
        """
        query = dataclasses.replace(query, last_id=self.newest_id(), limit=PAGE_RECORDS)
        more = True
        while more:
            records, more = self.page(query)
            if records:
                yield records
                last = records[-1]
                position = {"after_id": last.id} if query.by_id else {"cursor": (last.timestamp, last.id)}
                query = dataclasses.replace(query, **position)

    def follow(self, query: Query, resume: bool) -> Iterator[list[StoredRecord]]:
        """The last `limit` records, or with `resume` those after `after_id`; then new ones as they are
        committed, without end. An empty list says that there is nothing new."""
        query = dataclasses.replace(query, by_id=True, descending=False)
        if not resume:
            newest = self.newest_id()
            records, _ = self.page(dataclasses.replace(query, last_id=newest, descending=True))
            yield records[::-1]
            query = dataclasses.replace(query, after_id=newest)
        while True:
            for records in self.stream(query):
                yield records
                query = dataclasses.replace(query, after_id=records[-1].id)
            yield []

    def newest_id(self) -> int:
        with self.reading() as read:
            return next(iter(read("SELECT max(id) FROM logs", [])))[0] or 0

    def record(self, number: int) -> StoredRecord | None:
        """The record with that id."""
        records, _ = self.page(Query(after_id=number - 1, last_id=number, by_id=True, limit=1))
        return records[0] if records else None

    def stats(self, query: Query, step: int | None) -> dict[str, Json]:
        """What GET /stats answers: exact, and all of one state of the store."""
        low = MIN_TIMESTAMP if query.start is None else query.start
        high = MAX_TIMESTAMP + 1 if query.end is None else query.end + 1
        spans = [span for span in self.spans if query.counted and (not step or step % span == 0)]
        kinds: Counter[tuple[str, int]] = Counter()
        steps: dict[int, Counter[str]] = {}
        with self.reading() as read:
            for span, start, end in pieces(low, high, spans):
                for begin, service, severity, records in self._count(query, step, span, start, end, read):
                    kinds[service, severity] += records
                    steps.setdefault(begin, Counter())[SEVERITY_NAMES[severity]] += records
            ends = [self._page(dataclasses.replace(query, limit=1, descending=d), read)[0] for d in (False, True)] if kinds else []
        first, last = (ends[0][0].timestamp, ends[1][0].timestamp) if ends else (None, None)
        by_service: Counter[str] = Counter()
        by_severity: Counter[str] = Counter()
        for (service, severity), records in kinds.items():
            by_service[service] += records
            by_severity[SEVERITY_NAMES[severity]] += records
        answer = {
            "total": kinds.total(),
            "by_service": dict(by_service.most_common()),
            "by_severity": {name: by_severity[name] for name in SEVERITIES},
            "first_timestamp": None if first is None else format_timestamp(first),
            "last_timestamp": None if last is None else format_timestamp(last),
        }
        if step:
            answer["histogram"] = histogram(steps, step, first if query.start is None else low, last if query.end is None else query.end)
        return answer

    def _count(self, query: Query, step: int | None, span: int | None, start: int, end: int, read: Read) -> Iterable[tuple[Any, ...]]:
        """Rows of step, service, severity and number of records in [start, end): of the records, or of the counts by `span`."""
        parameters: list[Json] = []
        mark = functools.partial(self.mark, parameters)
        column, number = ("start", "sum(records)") if span else ("timestamp", "count(*)")
        if span:
            query = Query(services=query.services, severities=query.severities, min_severity=query.min_severity)
            tables = [("counts", query)]
        else:
            query = dataclasses.replace(query, start=start, end=end - 1)
            tables = self.branches(query, read, split=query.counted)
        selects = []
        for table, branch in tables:
            # subtle: % follows the sign of what it divides, so years are counted from before the first
            begin = f"{column} - ({column} + {mark(-(MIN_TIMESTAMP // step) * step)}) % {mark(step)}" if step else "0"
            limits = f"span = {mark(span)} AND start >= {mark(start)} AND start < {mark(end)} AND " if span else ""
            selects.append(f"SELECT {begin} AS step, service, severity, {number} FROM {table} WHERE {limits}{self.where(branch, parameters)} GROUP BY step, service, severity")
        return read(" UNION ALL ".join(selects), parameters) if selects else ()


def pieces(low: int, high: int, spans: list[int]) -> Iterator[tuple[int | None, int, int]]:
    """Cuts [low, high) into the longest spans that fit, and what is left at the ends.

    >>> list(pieces(50, 3700, [3600, 60]))
    [(60, 60, 3660), (None, 50, 60), (None, 3660, 3700)]
    """
    if low >= high:
        return
    if not spans:
        yield None, low, high
        return
    span, *shorter = spans
    start, end = -(-low // span) * span, high // span * span
    if start >= end:
        yield from pieces(low, high, shorter)
    else:
        yield span, start, end
        yield from pieces(low, start, shorter)
        yield from pieces(end, high, shorter)


def histogram(steps: dict[int, Counter[str]], step: int, first: int | None, last: int | None) -> list[dict[str, Json]]:
    """Counts by severity of every step from `first` to `last`, empty ones too. Raises Refusal (400) for too many."""
    if first is None or last is None:
        return []
    begins = range(first // step * step, last + 1, step)
    if len(begins) > MAX_STEPS:
        raise Refusal(400, f"The parameter step gives {len(begins)} steps.", f"Take a longer one: {MAX_STEPS} steps at most.")
    return [{"start": format_timestamp(begin), **{name: steps.get(begin, {}).get(name, 0) for name in SEVERITIES}} for begin in begins]


SCHEMA = pathlib.Path(__file__).with_name("schema.sql")
APPLICATION_ID, SCHEMA_VERSION = 0x4C4F4753, 1  # as schema.sql sets them
INSERT_RECORDS = "INSERT INTO logs (received_at, timestamp, service, severity, message, attributes) VALUES "
INSERT_COUNTS = "INSERT INTO counts (span, start, service, severity, records) VALUES "
ADD_TO_COUNTS = " ON CONFLICT DO UPDATE SET records = records + excluded.records"
OLDEST = "id < (SELECT min(id) FROM logs) + ? AND received_at < ?"  # received_at grows with id
MAX_KINDS = 200  # services times severities that a query merges; beyond, it filters as it goes
NARROW_IDS = 20_000  # a range of receipt so narrow is read whole and sorted
MAX_FREE_PAGES = 1_000  # of 4 KiB, that stay in the file for the next records


@functools.cache
def values_of(rows: int, row: str) -> str:
    """The text of a VALUES clause; the same object every time, so that sqlite3 finds its prepared statement."""
    return ", ".join([row] * rows)


class SQLiteStore(Store):
    """One file, schema.sql in it. Raises StartError for a file that is another thing."""

    spans = (DAY, HOUR, MINUTE)

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = pathlib.Path(path)
        self._prepare()
        self._inode = os.stat(self.path).st_ino
        self._max_pages = self._max_age = 1 << 62
        self._stopping = threading.Event()
        self._checked = 0.0
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        try:
            self._db = self._connect("rw")
            self._db.execute("PRAGMA synchronous = FULL")  # the fsync at every commit: what a 200 promises
            self._db.execute("PRAGMA wal_autocheckpoint = 4000")  # pages, 16 MB: fewer, longer checkpoints
            self._db.execute("PRAGMA journal_size_limit = 67108864")  # the WAL shrinks to this after a rush
            self._db.execute("PRAGMA cache_size = -16384")  # 16 MiB: the ends of the indexes stay in memory
            self._page_bytes = self._db.execute("PRAGMA page_size").fetchone()[0]
            self._db.execute("SELECT 1 FROM logs LIMIT 1").fetchone()
            self._db.set_authorizer(authorize)
            for _ in range(READERS):
                self._readers.put(self._connect("ro"))
        except sqlite3.Error as error:
            raise StartError(f"{self.path}: can't be opened: {error}") from None
        threading.Thread(target=self.maintain, daemon=True).start()

    # Opening

    def _prepare(self) -> None:
        """Makes a new database, or checks by its first bytes that the file is one of ours, without touching it.

        The fields of the header are in https://www.sqlite.org/fileformat.html#the_database_header.
        """
        try:
            with open(self.path, "rb") as file:
                head, size = file.read(100), os.fstat(file.fileno()).st_size
            if head:
                page_size, pages, version, application = struct.unpack(">16xH10xI28xI4xI28x", head.ljust(100, b"\0"))
                if not head.startswith(b"SQLite format 3\0") or application != APPLICATION_ID:
                    raise StartError(f"{self.path}: not a database of this server; name another file as the store")
                if version != SCHEMA_VERSION:
                    raise StartError(f"{self.path}: of schema version {version}, not {SCHEMA_VERSION}; name another file as the store")
                if size < pages * page_size:
                    raise StartError(f"{self.path}: cut short, {size} of {pages * page_size} bytes; restore it from a copy")
                return
        except FileNotFoundError:
            pass  # made below
        except OSError as error:
            raise StartError(f"{self.path}: can't be read: {error.strerror}") from None
        try:
            with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                db.executescript(SCHEMA.read_text(encoding="utf-8"))
                db.execute("PRAGMA journal_mode = WAL")  # readers and the writer never wait for each other
            if os.name == "posix":  # the new file's name must be on disk too
                folder = os.open(self.path.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
        except (OSError, sqlite3.Error) as error:
            raise StartError(f"{self.path}: can't be made: {error}") from None

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.resolve().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)

    def _unavailable(self, error: sqlite3.OperationalError) -> Unavailable:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_INTERRUPT":
            hint = "Narrow it: with timestamp_start, service or severity, or a smaller limit."
            return Unavailable(f"The query took longer than {QUERY_SECONDS} s and was stopped.", hint)
        reasons = {
            "SQLITE_FULL": "The disk is full.",
            "SQLITE_BUSY": "Another process has locked the database.",
            "SQLITE_READONLY": "The database can't be written.",
        }
        return Unavailable(reasons.get("_".join(name.split("_")[:2]), f"The database is in trouble: {error}."))

    # Writing

    def write(self, batches: list[Batch]) -> None:
        """One transaction; a batch whose Idempotency-Key is known gets the earlier answer and stores nothing."""
        with self._transaction() as db:
            last_id, received_at = db.execute(
                "SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'logs'), (SELECT received_at FROM logs ORDER BY id DESC LIMIT 1)"
            ).fetchone()
            received_at = max(time.time_ns() // 1000, received_at or 0)
            records: list[Record] = []
            counts: Counter[tuple[int | None, str, int]] = Counter()
            for batch in batches:
                if batch.key and self._is_repeat(batch, db):
                    continue
                batch.first_id = (last_id or 0) + len(records) + 1
                if batch.key:
                    answer = (batch.key, batch.body, json.dumps(batch.answer()), received_at)
                    db.execute("INSERT INTO answers (key, body, answer, created_at) VALUES (?, ?, ?, ?)", answer)
                records += batch.records
                counts.update(batch.counts)
            self._insert(db, INSERT_RECORDS, "(?1, ifnull(?, ?1), ?, ?, ?, ?)", records, [received_at])
            self._add(db, counts, received_at)
            if self._pages(db) > self._max_pages:
                self._forget(db, 2 * len(records) + 500, MAX_TIMESTAMP)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction on the writing connection, for who holds the lock. Raises Unavailable when it fails for its surroundings."""
        db = self._db
        try:
            if os.stat(self.path).st_ino != self._inode:
                raise FileNotFoundError
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except FileNotFoundError:
            raise Unavailable("The database file was moved or deleted.", "Put it back, or start the server again.") from None
        except sqlite3.OperationalError as error:
            raise self._unavailable(error) from error
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    def _is_repeat(self, batch: Batch, db: sqlite3.Connection) -> bool:
        row = db.execute("SELECT body, answer FROM answers WHERE key = ?", [batch.key]).fetchone()
        if not row:
            return False
        body, batch.stored_answer = row
        if body != batch.body:
            hint = "Use a key of its own for every batch, and repeat a batch as it was."
            batch.failure = Refusal(422, "This Idempotency-Key was used with another body.", hint)
        return True

    def _insert(self, db: sqlite3.Connection, head: str, row: str, rows: list[tuple[Any, ...]] | list[Record], first: list[int], tail: str = "") -> None:
        """Inserts rows hundreds at a time: sqlite3 gives up the GIL once a statement, and must win it back from
        the threads that parse. 1,000 rows in two statements are half again as fast as executemany, and in
        a busy server three times."""
        done = 0
        for size in (500, 100, 20, 5, 1):
            while len(rows) - done >= size:
                values = itertools.chain(first, itertools.chain.from_iterable(rows[done : done + size]))
                db.execute(head + values_of(size, row) + tail, list(values))
                done += size

    def _add(self, db: sqlite3.Connection, counts: Counter[tuple[int | None, str, int]], received_at: int) -> None:
        """Adds counts by minute to the table of counts, and to the hours and days that they are in."""
        rows: Counter[tuple[int, int, str, int]] = Counter()
        for (minute, service, severity), records in counts.items():
            for span in self.spans:
                start = (received_at if minute is None else minute) // span * span
                rows[span, start, service, severity] += records
        self._insert(db, INSERT_COUNTS, "(?, ?, ?, ?, ?)", [(*key, records) for key, records in rows.items()], [], ADD_TO_COUNTS)

    # Retention

    def configure(self, config: Config) -> None:
        self._max_age = int(config.max_age_days * DAY) if config.max_age_days else 1 << 62
        self._max_pages = int(config.max_size_mb * 0.95 * (1 << 20)) // self._page_bytes if config.max_size_mb else 1 << 62

    def maintain(self) -> None:
        """The thread that deletes what is too old, in steps small enough that no writer waits long."""
        while not self._stopping.wait(1):
            try:
                while self._maintain_once():
                    time.sleep(0.01)  # the others' turn
            except Exception as error:  # it must go on: the next try may do
                log.error("retention: %s", error)

    def _maintain_once(self) -> bool:
        now = time.time_ns() // 1000
        with self._writing, self._transaction() as db:
            before = MAX_TIMESTAMP if self._pages(db) > self._max_pages else now - self._max_age
            forgotten = self._forget(db, 2_000, before)
            db.execute("DELETE FROM answers WHERE created_at < ?", [now - KEY_LIFETIME])
            free = db.execute("PRAGMA freelist_count").fetchone()[0] > MAX_FREE_PAGES
            if free:
                db.execute("PRAGMA incremental_vacuum(500)").fetchall()
        return forgotten == 2_000 or free

    def _forget(self, db: sqlite3.Connection, most: int, before: int) -> int:
        """Deletes the `most` oldest records, of those received before `before`, and takes them off the counts.

        Oldest by receipt, so that old lines that are poured in today stay as long as today's."""
        groups = db.execute(
            f"SELECT timestamp - (timestamp + ?) % ?, service, severity, -count(*) FROM logs NOT INDEXED WHERE {OLDEST} GROUP BY 1, 2, 3",
            [-(MIN_TIMESTAMP // MINUTE) * MINUTE, MINUTE, most, before],
        ).fetchall()
        if groups:
            db.execute(f"DELETE FROM logs NOT INDEXED WHERE {OLDEST}", [most, before])
            self._add(db, Counter({tuple(kind): records for *kind, records in groups}), 0)
            db.execute("DELETE FROM counts WHERE records <= 0")
        return -sum(group[3] for group in groups)

    def _pages(self, db: sqlite3.Connection) -> int:
        return db.execute("PRAGMA page_count").fetchone()[0] - db.execute("PRAGMA freelist_count").fetchone()[0]

    # Reading

    @contextlib.contextmanager
    def reading(self) -> Iterator[Read]:
        try:
            db = self._readers.get(timeout=QUERY_SECONDS)
        except queue.Empty:
            raise Unavailable("Too many queries are under way.") from None
        deadline = time.monotonic() + QUERY_SECONDS
        db.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)  # instructions of SQLite, about 1 ms
        try:
            db.execute("BEGIN")  # all reads until COMMIT see one state
            yield db.execute
        except sqlite3.OperationalError as error:
            raise self._unavailable(error) from None
        finally:
            db.set_progress_handler(None, 0)
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._readers.put(db)

    def mark(self, parameters: list[Json], value: Json) -> str:
        parameters.append(value)
        return "?"

    def contains(self, mark: Callable[[Json], str], text: str) -> str:
        return f"instr(lower(message), {mark(text.lower())})"

    def attribute(self, mark: Callable[[Json], str], key: str, value: str) -> str:
        path = mark(f'$."{key}"')
        return f"attributes -> {path} IN ({mark(value)}, {mark(encode_json(value))})"

    def branches(self, query: Query, read: Read, split: bool = False) -> list[tuple[str, Query]]:
        """Says which index serves a query, rather than leave it to the planner, which has no statistics.

        A query by service or severity becomes one for each pair that the counts know: each reads one
        stretch of logs_by_kind, already in order, and SQLite merges them. A severity that does not occur
        costs nothing; a rare one costs as much as its records.
        """
        query = self._by_receipt(query, read)
        if query.by_id or (query.last_id or 1 << 62) - (query.after_id or 0) < NARROW_IDS:
            return [("logs NOT INDEXED", query)]
        if not (split or query.services or query.severities or query.min_severity):
            return [("logs INDEXED BY logs_by_time", query)]
        parameters: list[Json] = [DAY]
        days = Query(severities=query.severities, min_severity=query.min_severity, services=query.services)
        limits = "span = ? AND start >= ? AND start <= ?"
        parameters += [(query.start or MIN_TIMESTAMP) // DAY * DAY, MAX_TIMESTAMP if query.end is None else query.end]
        kinds = list(read(f"SELECT DISTINCT service, severity FROM counts WHERE {limits} AND {self.where(days, parameters)}", parameters))
        if len(kinds) > MAX_KINDS:
            return [("logs INDEXED BY logs_by_time", query)]
        narrowed = functools.partial(dataclasses.replace, query, min_severity=None)
        return [("logs INDEXED BY logs_by_kind", narrowed(services=(s,), severities=(v,))) for s, v in kinds]

    def _by_receipt(self, query: Query, read: Read) -> Query:
        """Turns bounds on received_at into bounds on the id, which grows with it: found by halves, no index needed."""
        if query.received_start is None and query.received_end is None:
            return query
        low, high = next(iter(read("SELECT ifnull(min(id), 1), ifnull(max(id), 0) FROM logs", [])))

        def received(number: int) -> int:
            return next(iter(read("SELECT received_at FROM logs WHERE id >= ? ORDER BY id LIMIT 1", [number])))[0]

        def first(moment: int) -> int:
            return low + bisect.bisect_left(range(low, high + 1), moment, key=received)

        after, last = query.after_id or 0, high if query.last_id is None else query.last_id
        if query.received_start is not None:
            after = max(after, first(query.received_start) - 1)
        if query.received_end is not None:
            last = min(last, first(query.received_end + 1) - 1)
        return dataclasses.replace(query, after_id=after, last_id=last)

    # State

    def check(self) -> None:
        if time.monotonic() - self._checked > 1:  # /health may be asked often
            with self._writing, self._transaction() as db:  # a real write: only that finds a full disk
                db.execute("REPLACE INTO answers (key, body, answer, created_at) VALUES (x'', x'', '', ?)", [time.time_ns() // 1000])
            self._checked = time.monotonic()

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.path.parent.glob(self.path.name + "*"))

    def close(self) -> None:
        self._stopping.set()
        with self._writing:
            self._db.close()


def authorize(action: int, table: str | None, column: str | None, *_: str | None) -> int:
    """What the writing connection may do: read, insert, count, and delete as retention does; not alter, nor drop.

    SQLite asks when it prepares a statement, not when it runs one (https://www.sqlite.org/c3ref/set_authorizer.html).
    """
    allowed = (
        action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_TRANSACTION)
        or (action == sqlite3.SQLITE_INSERT and table in ("logs", "counts", "answers"))
        or (action == sqlite3.SQLITE_UPDATE and (table, column) == ("counts", "records"))
        or (action == sqlite3.SQLITE_DELETE and table in ("logs", "counts", "answers"))
        or (action == sqlite3.SQLITE_PRAGMA and table in ("page_count", "freelist_count", "incremental_vacuum"))
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


# ---------------------------------------------------------------- 8. Endpoints


@dataclasses.dataclass(frozen=True)
class Request:
    """One request, its body still unread."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    read_body: Callable[[], bytes] = lambda: b""  # decoded and decompressed; raises Refusal


class Response(NamedTuple):
    """An answer; a body that is no bytes is streamed, piece by piece."""

    status: int
    body: bytes | Iterator[bytes]
    content_type: str = "application/json"
    headers: dict[str, str] = {}


def json_response(status: int, body: Json, **headers: str) -> Response:
    return Response(status, json.dumps(body, ensure_ascii=False).encode() + b"\n", headers=headers)


class Limits:
    """What one client may take of what all share. Both raise Refusal: 429 and 503."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._balances: dict[Token, tuple[float, float]] = {}  # records that a token may send, and as of when
        self.bodies_bytes = 0

    def spend(self, token: Token, records: int, rate: float | None) -> None:
        """A token bucket that may go below zero once, by a batch of any size, and is full after one second."""
        if not rate:
            return
        now = time.monotonic()
        with self._lock:
            balance, since = self._balances.get(token, (rate, now))
            balance = min(balance + (now - since) * rate, rate)
            if balance <= 0:
                retry_after = str(min(int(-balance / rate) + 1, 5))
                raise Refusal(429, f"This token may send {rate:g} records a second.", "Send them later.", Retry_After=retry_after)
            self._balances[token] = balance - records, now

    def hold(self, size: int) -> None:
        """Counts bytes of a body that has come in; negative when it is done with."""
        with self._lock:
            if size > 0 and self.bodies_bytes + size > MAX_BODIES_BYTES:
                raise Unavailable("Too much is waiting to be stored.")
            self.bodies_bytes += size


class App:
    """The endpoints, between HTTP and the store."""

    def __init__(self, config: Config, store: Store):
        self.config, self.store = config, store
        self.limits, self.metrics, self.started = Limits(), Metrics(), time.time()
        self.stopping = threading.Event()

    def respond(self, request: Request) -> Response:
        """Answers a request, whatever happens: the one place where errors become answers."""
        path, response = "other", None
        try:
            path, endpoint = self.route(request)
            response = endpoint(self, request)
        except Refusal as refusal:
            response = self.refuse(refusal, request.path)
        except (ConnectionError, ssl.SSLError):
            raise  # there is nobody to answer
        except Exception:
            log.exception("unexpected error in %s %s", request.method, request.path)
            response = self.refuse(Refusal(500, "The server made a mistake.", "Its log says more."), request.path)
        finally:
            status = str(response.status) if response else "gone"
            self.metrics.add("http_requests", endpoint=path, method=request.method if path != "other" else "other", status=status)
        return response

    def refuse(self, refusal: Refusal, path: str = "") -> Response:
        body = refusal.body | ({"message": f"{refusal.error} {refusal.hint}"} if path == "/v1/logs" else {})  # OTLP's Status
        return json_response(refusal.status, body, **refusal.headers)

    def route(self, request: Request) -> tuple[str, Callable[[App, Request], Response]]:
        """The endpoint for a request, under the path that ROUTES has. Raises Refusal: 404, 405, 421."""
        self.check_host(request)
        path = "/logs/ID" if re.fullmatch(r"/logs/[^/]+", request.path) else request.path
        methods = {method: endpoint for method, known, endpoint, _ in ROUTES if known == path}
        if not methods:
            paths = ", ".join(dict.fromkeys(route[1] for route in ROUTES))
            raise Refusal(404, f"There is nothing at {show(request.path)}.", f"There are {paths}.")
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allow = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            raise Refusal(405, f"{path} does not take {show(request.method)}.", f"It takes {allow}.", Allow=allow)
        return path, methods[method]

    def check_host(self, request: Request) -> None:
        """Keeps web pages out that reach this server under a name of their own (DNS rebinding)."""
        host = re.sub(r":\d*$", "", request.headers.get("host", "localhost")).strip("[]").lower()
        allowed = self.config.allowed_hosts | {"localhost", self.config.host.lower()}
        if self.config.reading_is_open and host not in allowed and not is_loopback(host):
            raise Refusal(421, f"This server is not {show(host)}.", "Add the name to server.allowed_hosts in its configuration.")

    def authenticate(self, request: Request, *roles: str) -> Token:
        """Who sends the request: https://www.rfc-editor.org/rfc/rfc9110#section-11.4. Raises Refusal (401)."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                secret = base64.b64decode(secret).decode().partition(":")[2]
        token = self.config.find(secret, *roles) if scheme.lower() in ("token", "bearer", "basic") and secret else None
        if token:
            return token
        error = "The token is not known, or not for this." if secret else "A token is needed."
        hint = f"Send 'Authorization: Token T' with a {' or '.join(roles)} token of the server's configuration."
        raise Refusal(401, error, hint, WWW_Authenticate='Bearer realm="logs"')

    def check_reader(self, request: Request) -> None:
        if not self.config.reading_is_open:
            self.authenticate(request, "read")

    # Writing

    def post_logs(self, request: Request) -> Response:
        """Takes records in any form"""
        batch = self.take(request, parse_body)
        if not batch.records:
            forbidden = batch.forbidden == batch.rejected.total()
            error = f"None of the {batch.rejected.total()} records could be stored."
            hint = "errors names what to mend in each, by its index."
            raise Refusal(403 if forbidden else 422, error, hint, body=batch.answer())
        if batch.stored_answer is None:
            return json_response(200, batch.answer())
        return Response(200, batch.stored_answer.encode() + b"\n", headers={"Idempotent-Replayed": "true"})

    def post_otlp(self, request: Request) -> Response:
        """Takes OpenTelemetry's OTLP/HTTP in JSON"""
        if "protobuf" in request.headers.get("content-type", ""):
            hint = "Set the exporter to http/json (OTEL_EXPORTER_OTLP_PROTOCOL)."
            raise Refusal(415, "OTLP is taken as application/json, not as protobuf.", hint)
        batch = self.take(request, lambda data: parse_otlp(next(iter(parse_body(data)), None)), may_be_empty=True)
        if not batch.rejected:
            return json_response(200, {})
        message = f"{batch.errors[0]['field']}: {batch.errors[0]['error']}"
        if not batch.records:
            raise Refusal(403 if batch.forbidden else 422, f"No record could be stored; {message}.", "Mend the records.")
        return json_response(200, {"partialSuccess": {"rejectedLogRecords": str(batch.rejected.total()), "errorMessage": message}})

    def take(self, request: Request, parse: Callable[[bytes], list[Json]], may_be_empty: bool = False) -> Batch:
        """Reads the batch in a request and stores what is good of it."""
        token = self.authenticate(request, "service", "shipper")
        self.limits.spend(token, 0, self.config.max_records_per_second)
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= MAX_KEY_CHARS:
            raise Refusal(400, f"An Idempotency-Key has 1 to {MAX_KEY_CHARS} characters.", "Send a UUID, for example.")
        data = request.read_body()
        values = parse(data)
        batch = Batch(token) if may_be_empty and not values else read_batch(values, token)
        self.limits.spend(token, len(batch.records), self.config.max_records_per_second)
        if batch.records:
            if key is not None:
                batch.key = hashlib.sha256(f"{token.secret}\0{key}".encode()).digest()
                batch.body = hashlib.sha256(data).digest()
            self.store.commit(batch)
        self.count(batch)
        return batch

    def count(self, batch: Batch) -> None:
        """Brings a batch that has been dealt with into the metrics."""
        kinds: Counter[tuple[str, int]] = Counter()
        for (_, service, severity), records in batch.counts.items():
            kinds[service, severity] += records
        for (service, severity), records in kinds.items() if batch.stored_answer is None else ():
            self.metrics.add("records_accepted", records, service=service, severity=SEVERITY_NAMES[severity])
        for field, records in batch.rejected.items():
            self.metrics.add("records_rejected", records, service=batch.token.service or "", reason=field)

    # Reading

    def get_logs(self, request: Request) -> Response:
        """Gives records, newest first"""
        self.check_reader(request)
        fields = parse_parameters(request.query, LIST_PARAMETERS)
        form = FORMATS[fields.pop("format", "json")]
        follow = fields.pop("follow", False)
        query = Query(**fields)
        if follow:
            if query.after_id is None and not query.limit:
                query = dataclasses.replace(query, after_id=0)
            return stream_response(FORMATS["ndjson"], self.watch(self.store.follow(query, query.after_id is not None)))
        if not query.limit:
            return stream_response(form, self.store.stream(query))
        records, more = self.store.page(query)
        headers = {"Link": self.next_link(request, query, records[-1])} if more else {}
        return Response(200, b"".join(form[1](iter([records]))), form[0], headers)

    def next_link(self, request: Request, query: Query, last: StoredRecord) -> str:
        """https://www.rfc-editor.org/rfc/rfc8288; "since" becomes the moment that it meant."""
        kept = [(n, v) for n, v in split_parameters(request.query) if n not in ("cursor", "since", "timestamp_start")]
        if query.start is not None:
            kept.append(("timestamp_start", format_timestamp(query.start)))
        kept.append(("cursor", format_cursor(last.timestamp, last.id)))
        return f'<{request.path}?{urllib.parse.urlencode(kept)}>; rel="next"'

    def watch(self, pages: Iterator[list[StoredRecord]]) -> Iterator[list[StoredRecord]]:
        """Paces a stream that follows, until the server stops: [] passes as the heartbeat only."""
        silent_since = time.monotonic()
        for records in pages:
            if self.stopping.is_set():
                return
            now = time.monotonic()
            if records or now - silent_since >= HEARTBEAT_SECONDS:
                silent_since = now
                yield records
            else:
                self.stopping.wait(FOLLOW_SECONDS)

    def get_record(self, request: Request) -> Response:
        """Gives one record"""
        self.check_reader(request)
        number = request.path.removeprefix("/logs/")
        record = self.store.record(int(number)) if re.fullmatch(r"[0-9]{1,18}", number) else None
        if not record:
            raise Refusal(404, f"There is no record {show(number)}.", "GET /logs lists records with their ids.")
        return Response(200, record_json(record).encode() + b"\n")

    def get_stats(self, request: Request) -> Response:
        """Counts by service and severity"""
        self.check_reader(request)
        fields = parse_parameters(request.query, STATS_PARAMETERS)
        step = fields.pop("step", None)
        return json_response(200, self.store.stats(Query(**fields), step))

    def get_health(self, request: Request) -> Response:
        """Says whether the server can store"""
        self.store.check()
        return json_response(200, {"status": "ok"})

    def get_metrics(self, request: Request) -> Response:
        """Numbers for Prometheus"""
        self.check_reader(request)
        text = prometheus_text(self)
        return Response(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def get_root(self, request: Request) -> Response:
        """In a browser, a page to look at the records; else this list"""
        if "text/html" in request.headers.get("accept", ""):
            return Response(200, PAGE, "text/html; charset=utf-8", {"Content-Security-Policy": PAGE_POLICY})
        listed = {f"{method} {path}": (endpoint.__doc__ or "").strip() for method, path, endpoint, _ in ROUTES}
        return Response(200, json.dumps(listed, indent=2).encode() + b"\n")


# The dispatcher: what there is, and who answers. The last column is not looked at.
ROUTES: list[tuple[str, str, Callable[[App, Request], Response], str]] = [
    ("POST", "/logs", App.post_logs, ""),
    ("GET", "/logs", App.get_logs, ""),
    ("GET", "/logs/ID", App.get_record, ""),
    ("GET", "/stats", App.get_stats, ""),
    ("GET", "/estadisticas", App.get_stats, ""),
    ("POST", "/v1/logs", App.post_otlp, ""),
    ("GET", "/health", App.get_health, ""),
    ("GET", "/metrics", App.get_metrics, ""),
    ("GET", "/", App.get_root, ""),
]


def json_pieces(pages: Iterator[list[StoredRecord]]) -> Iterator[bytes]:
    opening = "["
    for records in pages:
        if records:
            yield (opening + ",\n".join(map(record_json, records))).encode()
            opening = ",\n"
    yield b"[]\n" if opening == "[" else b"]\n"


def ndjson_pieces(pages: Iterator[list[StoredRecord]]) -> Iterator[bytes]:
    for records in pages:
        yield "".join(record_json(record) + "\n" for record in records).encode() or b"\n"


def csv_pieces(pages: Iterator[list[StoredRecord]]) -> Iterator[bytes]:
    """https://www.rfc-editor.org/rfc/rfc4180; attributes as JSON."""
    rows: Iterable[list[Json]] = [["id", "timestamp", "received_at", "service", "severity", "message", "attributes"]]
    for records in itertools.chain([None], pages):
        if records is not None:
            rows = ([r.id, format_timestamp(r.timestamp), format_timestamp(r.received_at), r.service, SEVERITY_NAMES[r.severity], r.message, r.attributes] for r in records)
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        yield text.getvalue().encode()


Form = tuple[str, Callable[[Iterator[list[StoredRecord]]], Iterator[bytes]]]
FORMATS: dict[str, Form] = {
    "json": ("application/json", json_pieces),
    "ndjson": ("application/x-ndjson", ndjson_pieces),
    "csv": ("text/csv; charset=utf-8", csv_pieces),
}


def stream_response(form: Form, pages: Iterator[list[StoredRecord]]) -> Response:
    """A streamed answer. The first page is read before, so that its errors still get a status."""
    first = list(itertools.islice(pages, 1))
    return Response(200, form[1](itertools.chain(first, pages)), form[0])


def prometheus_text(app: App) -> str:
    """https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format"""
    records = app.store.stats(Query(), None)["total"]
    families = [
        ("logs_records_accepted_total", "counter", "Records stored.", "records_accepted", app.metrics),
        ("logs_records_rejected_total", "counter", "Records refused, by the field at fault.", "records_rejected", app.metrics),
        ("logs_http_requests_total", "counter", "Requests answered.", "http_requests", app.metrics),
        ("logs_commits_total", "counter", "Commits to the store.", "commits", app.store.commits),
        ("logs_commit_records_total", "counter", "Records in these commits.", "commit_records", app.store.commits),
        ("logs_commit_duration_seconds_total", "counter", "Time spent in commits.", "commit_duration_seconds", app.store.commits),
    ]
    lines = []
    for family, kind, text, name, metrics in families:
        lines += [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
        for (known, labels), value in list(metrics.values.items()):
            if known == name:
                lines.append(f"{family}{prometheus_labels(labels)} {value:.17g}")
    for gauge, text, value in (
        ("logs_store_records", "Records in the store.", records),
        ("logs_store_bytes", "Bytes of the store on disk.", app.store.size()),
        ("logs_waiting_bytes", "Bytes of bodies being read or waiting for a commit.", app.limits.bodies_bytes),
        ("process_start_time_seconds", "When the server started, in seconds since 1970.", app.started),
    ):
        lines += [f"# HELP {gauge} {text}", f"# TYPE {gauge} gauge", f"{gauge} {value:.17g}"]
    return "\n".join(lines) + "\n"


def prometheus_labels(labels: tuple[tuple[str, str], ...]) -> str:
    """
    >>> prometheus_labels((("service", 'a"b'),))
    '{service="a\\\\"b"}'
    """
    escaped = [(name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels]
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}" if labels else ""


# ---------------------------------------------------------------- 9. HTTP

MAX_LINE_BYTES = 16 << 10
MAX_HEADERS = 100
REQUEST_LINE = re.compile(r"([A-Za-z]+) (?:https?://([^/? ]*))?((?:/[^ ?#]*)?)(?:\?([^ #]*))? HTTP/(\d)\.(\d)")
HEADER_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
CHUNK_LINE = re.compile(r"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")


def bad_framing(error: str, hint: str = "Send HTTP/1.1 as RFC 9112 has it.", status: int = 400) -> Refusal:
    return Refusal(status, error, hint, close=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, in a thread of its own.

    Reads heads by itself: the standard library's parser takes longer than all else in a request, and lets
    pass what this must not (https://www.rfc-editor.org/rfc/rfc9112#section-11.2, request smuggling).
    """

    server: Server
    disable_nagle_algorithm = True  # an answer goes out in one piece; nothing is gained by waiting

    def setup(self) -> None:
        self.held = 0  # bytes of bodies, in Limits
        self.expired = self.idle = False
        self.allow(IDLE_SECONDS)
        self.server.connections.add(self)
        super().setup()

    def finish(self) -> None:
        self.server.connections.discard(self)
        super().finish()

    def allow(self, seconds: float, sending: bool = False) -> None:
        """Sets the deadline of what comes now; `Server.watch` ends it then."""
        self.sending, self.deadline = sending, time.monotonic() + seconds

    def expire(self) -> None:
        """Cuts off what the handler waits for. A read gives end of file, so that 408 can still be answered."""
        self.expired = True
        with contextlib.suppress(OSError):  # it may be closed by now
            # socket's own method: an SSLSocket's would take the encryption away under its reader
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR if self.sending else socket.SHUT_RD)

    def handle_one_request(self) -> None:
        """Reads a request, has it answered and sends the answer. A client that is gone ends the connection."""
        self.close_connection = True
        self.unread = False
        try:
            self.allow(IDLE_SECONDS)
            request = None
            try:
                request = self.read_head()
                if request is None:
                    return
                response = self.server.app.respond(request)
            except Refusal as refusal:
                self.unread = True
                response = self.server.app.refuse(refusal)
            self.send(request, response)
            if self.unread:
                self.drain()
        except (ConnectionError, ssl.SSLError, TimeoutError):
            self.close_connection = True
        finally:
            self.server.app.limits.hold(-self.held)
            self.held = 0

    # Reading

    def read_line(self) -> str | None:
        """A line without its CRLF; None at the end of the stream."""
        line = self.rfile.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise bad_framing(f"A line of the head is longer than {MAX_LINE_BYTES >> 10} KiB.", "Send a shorter one.", 431)
        if not line.endswith(b"\n"):
            return self.vanished() if line else None
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise bad_framing("A line of the head has a bare CR or LF, or a NUL.")
        return line[:-2].decode("utf-8", "replace")

    def vanished(self) -> None:
        """What an end of file in mid-request means: too slow, or gone."""
        if self.expired:
            raise bad_framing("The request did not come in time.", "Send it faster.", 408)
        raise ConnectionResetError

    def read_head(self) -> Request | None:
        """The head of the next request; None when the client has closed. Raises Refusal with `close`."""
        self.idle = True
        line = self.read_line()
        if line == "":  # an empty line before a request is to be passed over: RFC 9112, 2.2
            line = self.read_line()
        self.idle = False
        if line is None:
            return None
        self.allow(HEADER_SECONDS)
        match = REQUEST_LINE.fullmatch(line)
        if not match or not (match[2] or match[3]):
            raise bad_framing("The first line is not a request of HTTP/1.1.")
        method, authority, path, query, major, minor = match.groups()
        if major != "1":
            raise bad_framing(f"HTTP/{major}.{minor} is not spoken here.", "Send HTTP/1.1.", 505)
        headers = self.read_headers()
        if authority:
            headers["host"] = authority
        if minor != "0" and "host" not in headers:
            raise bad_framing("The Host header is missing.")
        connection = headers.get("connection", "").lower()
        self.close_connection = minor == "0" or "close" in connection
        self.request_version = f"HTTP/1.{minor}"
        length = self.body_length(headers, method)
        self.unread = length != 0
        read_body = functools.partial(self.read_body, headers, length)
        return Request(method.upper(), urllib.parse.unquote(path or "/"), query or "", headers, read_body)

    def read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(MAX_HEADERS):
            line = self.read_line()
            if line == "":
                return headers
            match = HEADER_LINE.fullmatch(line) if line else self.vanished()
            if not match:
                raise bad_framing("A header line is not 'Name: value'.")
            name, value = match[1].lower(), match[2]
            if name in headers and name in ("host", "content-length", "transfer-encoding"):
                raise bad_framing(f"The header {match[1]} is given twice.")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        raise bad_framing(f"There are more than {MAX_HEADERS} headers.", "Send fewer.", 431)

    def body_length(self, headers: dict[str, str], method: str) -> int | None:
        """The length of the body that follows; None for chunked. Raises Refusal where two readers could differ."""
        length, encoding = headers.get("content-length"), headers.get("transfer-encoding")
        if encoding is not None:
            if length is not None:
                raise bad_framing("A request has Content-Length or Transfer-Encoding, not both.")
            if encoding.lower() != "chunked" or self.request_version == "HTTP/1.0":
                raise bad_framing(f"The Transfer-Encoding {show(encoding)} is not known.", "Send chunked, or a Content-Length.")
            return None
        if length is None:
            return 0
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise bad_framing(f"The Content-Length {show(length)} is not a number.")
        return int(length)

    def read_body(self, headers: dict[str, str], length: int | None) -> bytes:
        """The body, out of its chunks and its compression. Raises Refusal: 400, 408, 411, 413, 415, 422."""
        if length == 0 and "content-length" not in headers:
            raise bad_framing("The request has no body, or does not say how long it is.", "Send Content-Length or chunked.", 411)
        decompress = decompressor(headers.get("content-encoding", ""))
        if length is not None and length > MAX_BODY_BYTES:
            raise too_large()
        self.allow(REQUEST_SECONDS)
        if headers.get("expect", "").lower() == "100-continue" and self.request_version == "HTTP/1.1":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = b"".join(self.read_chunks() if length is None else self.read_exactly(length))
        self.unread = False
        self.deadline = float("inf")  # from here on it is the server that works
        return decompress(data)

    def read_exactly(self, length: int) -> Iterator[bytes]:
        while length:
            data = self.rfile.read(min(length, 1 << 18))
            self.server.app.limits.hold(len(data))
            self.held += len(data)
            if not data:
                self.vanished()
            length -= len(data)
            yield data

    def read_chunks(self) -> Iterator[bytes]:
        """https://www.rfc-editor.org/rfc/rfc9112#section-7.1; extensions and trailers are passed over."""
        total = 0
        while True:
            match = CHUNK_LINE.fullmatch(self.read_line() or "")
            if not match:
                raise bad_framing("A chunk does not begin with its size.")
            size = int(match[1], 16)
            total += size
            if total > MAX_BODY_BYTES:
                raise too_large()
            if not size:
                self.read_headers()
                return
            yield from self.read_exactly(size)
            if self.read_line() != "":
                raise bad_framing("A chunk is longer than its size.")

    def drain(self) -> None:
        """Reads on for a moment after a refusal: a close while the client still sends would destroy the answer
        before it is read (https://www.rfc-editor.org/rfc/rfc9112#section-9.6)."""
        self.allow(2)
        self.connection.shutdown(socket.SHUT_WR)
        while self.connection.recv(1 << 16):
            pass

    # Sending

    def send(self, request: Request | None, response: Response) -> None:
        """Sends an answer: in one piece if it is bytes, else chunked (plainly, until the close, to HTTP/1.0)."""
        self.close_connection |= self.unread or request is None or self.server.app.stopping.is_set()
        body, chunked = response.body, request is not None and self.request_version == "HTTP/1.1"
        headers = {"Date": self.date_time_string(), "Content-Type": response.content_type, **response.headers}
        if isinstance(body, bytes):
            headers["Content-Length"] = str(len(body))
        elif chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            self.close_connection = True
        if self.close_connection:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {response.status} {http.HTTPStatus(response.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "X-Content-Type-Options: nosniff", "\r\n"]).encode("latin-1", "replace")
        if request and request.method == "HEAD":
            self.write(head)
        elif isinstance(body, bytes):
            self.write(head + body)
        else:
            self.send_stream(head, body, chunked)

    def send_stream(self, head: bytes, pieces: Iterator[bytes], chunked: bool) -> None:
        """An error in the middle closes without the last chunk, so that half an answer never looks whole."""
        try:
            self.write(head)
            for piece in pieces:
                if piece:
                    self.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                self.write(b"0\r\n\r\n")
        except Refusal as refusal:
            log.error("an answer was broken off: %s", refusal.error)
            raise ConnectionAbortedError from None

    def write(self, data: bytes) -> None:
        self.allow(SEND_SECONDS, sending=True)
        self.wfile.write(data)
        self.deadline = float("inf")


def too_large() -> Refusal:
    return Refusal(413, f"The body is larger than {MAX_BODY_BYTES >> 20} MiB.", "Send smaller batches.", close=True)


def decompressor(encoding: str) -> Callable[[bytes], bytes]:
    """How to undo a Content-Encoding. Raises Refusal: 415 for another, and when called 413 and 422."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda data: data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        hint = "Send gzip, deflate or none."
        raise Refusal(415, f"The Content-Encoding {show(encoding)} is not known.", hint, Accept_Encoding="gzip, deflate")
    return decompress


def decompress(data: bytes) -> bytes:
    """gzip, of one or more members, or deflate, with or without zlib's frame (RFC 9110, 8.4.1).

    Stops at the limit: 10 KiB can hold 10 MiB, and so on without end.
    """
    whole = bytearray()
    try:
        while data:
            raw = data[:2] != b"\x1f\x8b" and (data[0] & 15 != 8 or int.from_bytes(data[:2]) % 31)
            stream = zlib.decompressobj(-15 if raw else 47)
            whole += stream.decompress(data, MAX_BODY_BYTES + 1 - len(whole))
            if len(whole) > MAX_BODY_BYTES:
                raise too_large()
            if not stream.eof:
                raise zlib.error("it ends too early")
            data = stream.unused_data
    except zlib.error as error:
        raise Refusal(422, f"The body can't be decompressed: {error}.", "Compress it again, or send it plain.") from None
    return bytes(whole)


class Server(http.server.ThreadingHTTPServer):
    """Accepts connections, up to a bound, and closes those that are past their deadline."""

    request_queue_size = 1024  # socketserver's 5 resets a burst of clients
    allow_reuse_address = os.name == "posix"  # on Windows it would let two servers share a port
    daemon_threads = True  # `stop` waits for what is in flight, but not for ever

    def __init__(self, app: App):
        self.app = app
        self.connections: set[Handler] = set()
        self.tls: ssl.SSLContext | None = None
        config = app.config
        if config.tls:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(config.tls["certificate"], config.tls["key"])
        self.address_family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((config.host, config.port), Handler)
        threading.Thread(target=self.watch, daemon=True).start()

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's looks the name up, which can take seconds

    @property
    def url(self) -> str:
        host = f"[{self.app.config.host}]" if ":" in self.app.config.host else self.app.config.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.socket.getsockname()[1]}"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls:  # the handshake is for the connection's own thread, at its first read
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if len(self.connections) < MAX_CONNECTIONS:
            return True
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("unexpected error in a connection")

    def watch(self) -> None:
        """The thread that ends what is past its deadline: one clock for every kind of slowness."""
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            for handler in list(self.connections):
                if handler.deadline < now:
                    handler.expire()

    def stop(self) -> None:
        """Ends idle connections, and waits for requests in flight."""
        self.app.stopping.set()
        self.server_close()
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        while self.connections and time.monotonic() < deadline:
            for handler in list(self.connections):
                if handler.idle:
                    handler.expire()
            time.sleep(0.02)


# ---------------------------------------------------------------- 10. Page

PAGE = b"<!doctype html><title>Logs</title>"
PAGE_POLICY = "default-src 'none'"


# ---------------------------------------------------------------- 11. Main


def main() -> int:
    """Runs the server until SIGTERM or Ctrl-C; gives the exit status."""
    parser = argparse.ArgumentParser(description="A log server.")
    parser.add_argument("--config", type=pathlib.Path, default=pathlib.Path(__file__).with_name("config.json"))
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the port; 0 for any that is free")
    parser.add_argument("--store", help="an SQLite file, or http://user:password@host:8123/database")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    load = functools.partial(load_config, options.config, host=options.host, port=options.port, store=options.store)
    try:
        config = load()
        store = SQLiteStore(config.store)
        store.configure(config)
        app = App(config, store)
        server = Server(app)
    except StartError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{config.host}:{config.port}: can't listen: {error.strerror}", file=sys.stderr)
        return 2

    def reload(*_: object) -> None:
        try:
            app.config = load()
            app.store.configure(app.config)
        except StartError as error:
            log.error("the configuration stays as it was:\n%s", error)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM and Ctrl-C: KeyboardInterrupt
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, reload)
    print(f"listening on {server.url}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.stop()
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
