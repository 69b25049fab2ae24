#!/usr/bin/env python3
"""A log server. It takes records over HTTP, stores them in a database and answers queries.
It needs Python 3.11 or newer, its standard library, and schema.sql beside this file.

    python server.py                                  # listens on http://127.0.0.1:8000
    curl -H 'Authorization: Token demo-pagos' -d '{"message": "hola"}' localhost:8000/logs
    curl 'localhost:8000/logs?severity=ERROR&since=2h'

The way of a record from its client to the disk, and of the answer back:

    client --POST /logs--> Handler --Request--> App --Batch--> Committer --> store.write --> disk
    client <-----200------ Handler <-Response-- App <----------- returns when it is on disk

    Handler.parse_request  reads the head; each connection has a thread of its own
    App.post_logs          checks the token, reads the body and makes records of it
    Committer.commit       lets many batches share one commit
    SQLiteRecords.write    writes them in one transaction, then waits for fsync

What a 200 promises: every record counted as accepted is committed, and the transaction is on disk
(fsync) before the answer leaves. No answer, and one of 500 or 503, proves nothing: the batch may be
stored or not. So give each batch an Idempotency-Key of its own: sent again with that key and the
same token within a day, it is stored once. (A key ends with the records that came with it.)

README.md says how to use it; schema.sql has the tables, config.json the tokens and other settings.

Ideas worth a look, a guided tour in README.md: group commit (`Committer`), exactly once
(`insert_batches`, `find_keys`), keyset paging (`read_page`), a search on all processors (`search`),
live tail without loss (`follow`), counts kept as records come (`count_by_ranges`,
`cut_into_ranges`), retention in small steps (`SQLiteStore`), a share for each client (`Shares`),
framing (`parse_head`, `body_length`), deadlines (`Handler.set_deadline`, `Handler.expire`) and
protobuf by hand (`read_varint`, `read_message`).

Chapters. Those without * are the core. Skip the others when you read for the first time: the lines
below their title say what the core uses of them. A chapter with a letter belongs to the one before
it: 4b has what chapter 4 leaves out, and the lines below its title are best read before chapter 4.
Apart from that, a chapter calls only what stands before it.

     1 Limits           what clients and operators meet, with unit and reason: look one up
     2 Errors           what can be wrong, without HTTP
     3 Configuration *  config.json, tokens
     4 Records          what a record is, and how a JSON object becomes one
    4b Names and values *  how other loggers name and write the fields; their bounds
     5 Bodies           from the bytes of a body to records: JSON, forms, lines of text
    5b Unusual bodies *  other charsets, text, kinds of forms, JSON with bad lines
     6 Queries          from a query string to a Query
    6b Parameters *     how the value of each parameter is read
     7 Commits          one transaction for all who wait
    7b Stores *         what a store can do
     8 SQLite           writing, and reading by indexes, page by page
    8b The file *       opening and protecting the database
    8c Plans and searches *  which index serves a query; texts, which no index holds
    8d Followers *      records as they come
     9 Counts *         statistics without reading the records
    10 Retention *      deleting what is old, and giving its space back
    11 Endpoints        who may ask, what is asked, what is answered
   11b Checks and answers *  tokens and origins, parts of requests and of answers
   11c More endpoints *  statistics, health, metrics, deleting; what one client may take
    12 HTTP             requests out of a socket, answers into it
   12b Heads and chunks *  where a request ends
   12c Connections and deadlines *  clients that take too much, are slow or leave
    13 Formats of others *  records as OpenTelemetry, Splunk and Loki send them
    14 ClickHouse *     another store, for when one machine is too small
    15 Page *           what a browser shows
    16 Main             the wiring

Threads. One thread accepts connections. Each connection has a thread of its own: it reads the
requests, waits for their commits and sends the answers. Python runs one thread at a time, and to
wake one on another processor takes longer than a small body: so threads that take small bodies all
stay on one processor (`choose_processors`). A search that must read all records starts more
threads, one for each processor, that read side by side. One thread runs `watch`, which ends what is
past its deadline; one runs `SQLiteStore.upkeep`, which deletes old records; and a last one writes
the server's own log. The main thread waits for signals.

Readers have connections of their own: they and the writer do not wait for each other. One case is
different. SQLite commits into a second file, the WAL, and a checkpoint moves it into the database,
which needs a moment without readers. So, while the WAL is too large, queries that have not begun
are held back, for 10 s at most.

What a batch may wait for, in this order. A client is a token here.

    `Shares.begin_upload`    when 512 KiB of its body are there: 3 places for each client, each
                             held until the answer is sent; it waits for 2 s
    `Shares.large_body_slot`  once to be decompressed, if it is compressed, and once to be made into
                             records, if it has over 8 KiB: 1 place for each client, 2 in all. No
                             timeout: the bounds on a body bound how long a place is held
    `Shares.commit_place`    if it has over 10 records: 16 places for each client; it waits for 10 s
    `Committer._long`        if it has over 1,000 records: one in all
    `Batch.wake`             until the thread of another batch has committed it, or until it is the
                             first in the queue: then its own thread commits
    `SQLiteRecords._write_lock`  until nothing else writes: a small step of deleting, the check of
                             /health, or a checkpoint. While one of these waits for another process
                             or for readers, 2 s at most, the batch waits too

The other locks that a batch meets are held for a moment only.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # Python 3.8 must be able to parse this file.
    explanation = "server.py needs Python 3.11 or newer; this is Python {}.{}."
    print(explanation.format(*sys.version_info), file=sys.stderr)
    sys.exit(2)

import _thread
import abc
import argparse
import ast
import base64
import bisect
import codecs
import concurrent.futures
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
import http.server
import io
import ipaddress
import itertools
import json
import logging
import logging.handlers
import operator
import os
import pathlib
import queue
import re
import reprlib
import select
import signal
import socket
import socketserver
import sqlite3
import ssl
import struct
import threading
import time
import urllib.parse
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

try:
    import resource
except ImportError:  # Windows has neither the module nor the bound on open files.
    resource = None  # type: ignore[assignment]

Json = Any  # Whatever json.loads gives.
log = logging.getLogger("server")
brief = reprlib.Repr()
brief.maxlevel = 1  # "[[...], 2]": a nested value could be long.
shorten = brief.repr  # A value for an error message: of each part some 30 characters.

# -------- 1. Limits

# Timestamps are microseconds since 1970, UTC. Timeouts are seconds: their names say so.
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# What one request may hold.
MAX_HEAD_BYTES = 64 << 10  # The request line and all headers together.
MAX_HEADERS = 100
# Each chunk of a body costs the same work, however small it is. A client that sends many chunks
# smaller than this is slowed down, so that it does not keep a processor busy.
SMALL_CHUNK_BYTES = 256
MAX_CHUNK_LINE_BYTES = 4 << 10  # The line before a chunk, with its extensions.
MAX_BODY_BYTES = 10 << 20  # After decompression. Usual batches are smaller: syslog-ng's has 3 MB.
MAX_GZIP_MEMBERS = 100  # A body of a million empty members would cost seconds.
MAX_FORM_ESCAPES = 512 << 10  # "%XX" in a form: each takes 200 bytes for a moment.
# The records of a body can be longer together than the body: OTLP sends an attribute once for many
# records, and it is stored with each of them.
MAX_STORED_CHARS = 64 << 20
# The json module holds the GIL for a whole call: no other thread runs. So longer texts than this
# are parsed by `decode_and_pause`, which lets others run at each object.
LONG_JSON_CHARS = 1 << 20
# What a text of JSON may have, so that it does not take seconds. While one is read, other threads
# get the GIL only where an object ends.
MAX_BRACKETS = 500_000  # "{" and "[".
MAX_COMMAS = 1_500_000  # Of numbers in an array, for example.
MAX_MEMBERS = 500_000  # Of one object.
MAX_PROTOBUF_BYTES = 1 << 20  # One record of OTLP.
MAX_VALUES = 250_000  # In the lists of OTLP as protobuf: records and attributes, for example.
MAX_RECORDS = 100_000  # A million tiny records would hold up all others for seconds.
MAX_MESSAGE_BYTES = 256 << 10
MAX_ATTRIBUTES_BYTES = 64 << 10
MAX_NESTING = 500  # Attributes. SQLite reads JSON that is 1,000 deep: this leaves room.
MAX_SERVICE_CHARS = 128
MAX_KEY_CHARS = 255  # An Idempotency-Key.
MAX_ERRORS_LISTED = 100  # In the answer to a batch.

# What one query may ask for.
MAX_ID = 1 << 53  # JavaScript and jq round greater numbers.
MAX_LIMIT = 10_000  # Records in a page. limit=0 streams all of them.
MAX_STEPS = 10_000  # In a histogram.
MAX_PARAMETERS = 200
MAX_ATTRIBUTE_FILTERS = 20
MAX_NAMES = 1_000  # Services, severities and texts together.
MAX_TEXT_CHARS = 1000  # A text to search for.

# What the server takes on at a time.
MAX_CONNECTIONS = 900  # Each needs a file descriptor. Systems often allow 1,024.
MAX_ADDRESS_CONNECTIONS = 800  # From one address: no client alone keeps the others out.
MAX_HELD_BYTES = 64 << 20  # Memory for bodies that come in and for large answers, all together.
MAX_CLIENT_BYTES = 32 << 20  # The part of it that one token or address may have.
HELD_ANSWER_BYTES = 64 << 10  # Only larger answers are counted.
ONE_PROCESSOR_BYTES = 64 << 10  # Bodies of up to this are taken on one processor.
LARGE_BODY_BYTES = 8 << 10  # Of larger bodies, two at a time are made into records.
LARGE_UPLOAD_BYTES = 512 << 10
MAX_UPLOADS = 3  # Bodies of one token, over LARGE_UPLOAD_BYTES as sent, until their answers.
SHORT_BATCH_RECORDS = 10
MAX_COMMITS = 16  # Batches over SHORT_BATCH_RECORDS of one token that wait for their commit.
MAX_COMMIT_RECORDS = 1_000  # In one transaction. A longer batch has one of its own.
MAX_WAL_BYTES = 128 << 20  # When SQLite's WAL is larger, queries wait for a checkpoint.
MAX_METRIC_SERVICES = 1_000  # Services with a label of their own in /metrics.
# Addresses that sent bad tokens and are remembered, to log a line a second at most for each.
MAX_REFUSED_ADDRESSES = 1_000
SEND_BUFFER_BYTES = 256 << 10  # In the kernel, for a client that does not read.
MAX_LOG_LINES = 10_000  # Of the server's own log, that wait to be written. More are lost.
# The processors that this process may use, where the system tells; and one of them, not always the
# same, since several servers may run here.
PROCESSORS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
ONE_PROCESSOR = {sorted(PROCESSORS)[os.getpid() % len(PROCESSORS)]} if PROCESSORS else set()
READERS = 6  # Connections to SQLite for queries that an index serves.
SCANNERS = max(2, os.cpu_count() or 2)  # Stretches of records that one query reads side by side.
# Connections for queries that must read the records. One client may have half of them.
SLOW_READERS = 2 * SCANNERS
PAGE_CHARS = 4 << 20  # A page ends early when its messages and attributes are longer together.
STREAM_RECORDS = 1_000  # In a page of a stream.
STREAM_CHARS = 1 << 20  # In a page of a stream. Fewer, since many may wait for slow clients.

# How long it waits.
# For the next request. Loggers keep a connection for a minute: it must not be closed sooner, or
# they lose what they send just then.
IDLE_SECONDS = 75
HEADER_SECONDS = 10  # For the headers, from the first line on.
REQUEST_SECONDS = 120  # For a whole body: 10 MiB at 700 kbit/s.
SEND_SECONDS = 30  # For the client to take the next part of an answer.
PARSE_SECONDS = 10  # For the records of one body.
COMMIT_SECONDS = 10  # A batch, for one of the MAX_COMMITS places of its client.
# For a query. Before that it may wait as long for a checkpoint, and again for a free connection.
QUERY_SECONDS = 10
LOCK_SECONDS = 2  # For another process that has locked the database.
# A client of GET /logs?follow=1 is a follower. The server waits so long after each page, and sends
# together what came meanwhile.
FOLLOW_SECONDS = 0.1
IDLE_FOLLOW_SECONDS = 0.5  # A follower's pause after new records of which none is for it.
HEARTBEAT_SECONDS = 15  # A follower that gets no record gets a blank line so often.
# After a refusal the server reads on: closing while the client sends could destroy the answer.
DRAIN_SECONDS = 2
SHUTDOWN_SECONDS = 2  # For requests in flight, when the server stops.
HANG_SECONDS = 5  # A stop that takes longer is ended by a signal of the system, SIGALRM.
# Out of memory, Python can loop for ever. When the process has used so much processor time and the
# thread of `watch` never had its turn, the system ends the process by SIGPROF.
SPIN_SECONDS = 10 * (os.cpu_count() or 1)  # 10 s for each processor.
RETRY_SECONDS = 2  # What Retry-After asks for. Clients give up on long waits.
KEY_LIFETIME = DAY  # An Idempotency-Key.

# -------- 2. Errors


class Refusal(Exception):
    """A request that is not carried out. Raised anywhere; `refusal_response` makes an answer of it.

    `error` is a sentence on what is wrong, `hint` a sentence on what to do. `details` are more
    members of the JSON in the answer. The class tells the kind of the refusal.
    """

    def __init__(self, error: str, hint: str, **details: Json):
        super().__init__(error)
        self.error = error
        self.hint = hint
        self.details = details


class BadBody(Refusal):
    """A body that is not parseable, or has no record that can be stored."""


class BadQuery(Refusal):
    """A query string with an unknown parameter or a bad value."""


class TooLarge(Refusal):
    """A body over one of the limits."""


class Unsupported(Refusal):
    """A body in a form that is not handled."""


class KeyReused(Refusal):
    """Another body under an Idempotency-Key that was used before."""

    def __init__(self) -> None:
        hint = "Use a new key for each batch, and repeat a batch without any change."
        super().__init__("This Idempotency-Key was used with another body.", hint)


class TooManySteps(Refusal):
    """More than MAX_STEPS steps of a histogram hold records."""

    def __init__(self) -> None:
        hint = f"Take a longer step or a shorter time: at most {MAX_STEPS:,} steps."
        super().__init__("That step makes too many steps.", hint)


class Unavailable(Refusal):
    """The store can't do it now. The same request may succeed later."""

    def __init__(self, error: str, hint: str = "Send it again in a few seconds."):
        super().__init__(error, hint)


class RecordError(Exception):
    """What is wrong with one record. The others of its batch are stored.

    `field` is the name of the wrong field.
    """

    def __init__(self, field: str, error: str, forbidden: bool = False):
        super().__init__(error)
        self.field = field
        self.error = error
        self.forbidden = forbidden  # The record names a service that the token may not write.


class StartError(Exception):
    """What keeps the server from starting, a line for each mistake. The exit status is 2."""


# -------- 3. Configuration *
# The core uses `Config` and `Token`. The role of a token is "service": it writes records of its own
# service; "shipper": it writes those of any service; "read": it reads; or "admin": it deletes.
# While no read token is configured, everyone may read (`reading_is_open`).


class Token(NamedTuple):
    """A secret, and what it is good for."""

    secret: str
    role: str  # "service", "shipper", "read" or "admin".
    service: str = ""  # The one service that a service token may write.


@dataclasses.dataclass(frozen=True)
class Config:
    """A configuration that has been checked. `load_config` makes it."""

    host: str
    port: int
    store: str  # The path of an SQLite file, or the URL of a ClickHouse.
    number: int  # Of this server, among several on one ClickHouse: 0 to 15.
    tokens: tuple[Token, ...]
    allowed_hosts: frozenset[str]  # In lower case.
    tls: dict[str, str]  # The paths of the certificate and of its key, or nothing.
    max_age_days: float | None  # None: no bound.
    max_size_mb: float | None
    max_records_per_second: float | None  # For each token.

    @functools.cached_property
    def reading_is_open(self) -> bool:
        """Whether everyone may read: no read token is configured."""
        return not any(token.role == "read" for token in self.tokens)

    def find_token(self, secret: bytes, *roles: str) -> Token | None:
        """The token of one of these roles with that secret.

        It compares every token to its end, so that the time it takes tells nothing
        (https://docs.python.org/3/library/hmac.html#hmac.compare_digest).
        """
        found = None
        for token in self.tokens:
            if hmac.compare_digest(token.secret.encode(), secret) and token.role in roles:
                found = token
        return found


@functools.lru_cache(256)
def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine itself.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0")]
    [True, True, True, False]
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


class Setting(NamedTuple):
    """What the value of a key must be, in words and as a test; and its default."""

    words: str
    is_right: Callable[[Json], bool]
    default: Json = None  # A key whose default fails the test must be there.


def is_word(value: Json) -> bool:
    """Whether a value is printable ASCII without blanks, and not empty."""
    return isinstance(value, str) and re.fullmatch("[!-~]+", value) is not None


def whole_number(most: int, default: int | None = None) -> Setting:
    """The setting of a whole number from 0 to `most`. True does not count as one here."""
    words = f"a whole number from 0 to {most}"
    return Setting(words, lambda value: type(value) is int and 0 <= value <= most, default)


TEXT = Setting(
    "a printable text, not empty and without blanks around it",
    lambda value: isinstance(value, str) and value == value.strip() != "" and value.isprintable(),
)
# Tokens and names of hosts. Clients do not agree how to send other characters in a header.
WORD = Setting("ASCII text without blanks", is_word)
WORDS = Setting(
    "a list of ASCII texts without blanks",
    lambda value: isinstance(value, list) and all(map(is_word, value)),
    [],
)
BOUND = Setting(
    "a number above 0, or null for no bound",
    lambda value: value is None or (type(value) in (int, float) and 0 < value <= 1e15),
)
SECTION = Setting("an object", lambda value: isinstance(value, dict), {})
ANY = Setting("anything", lambda value: True)  # simulator.py checks it.
SETTINGS: dict[str, dict[str, Setting]] = {
    "": {"server": SECTION, "services": SECTION, "simulator": SECTION},
    "server": {
        "host": TEXT,
        "port": whole_number(65535),
        "store": TEXT,
        "number": whole_number(15, 0),
        "read_tokens": WORDS,
        "shipper_tokens": WORDS,
        "admin_tokens": WORDS,
        "retention": SECTION,
        "max_records_per_second": BOUND,
        "allowed_hosts": WORDS,
        "tls": SECTION,
    },
    "server.retention": {
        "max_age_days": BOUND._replace(default=30),
        "max_size_mb": BOUND._replace(default=1024),
    },
    "server.tls": {"certificate": TEXT, "key": TEXT},
    "services.NAME": {"token": WORD, "iterations": ANY, "delay_seconds": ANY, "logs": ANY},
    "simulator": {"url": ANY},
}


def read_section(values: Json, path: str, mistakes: list[str]) -> dict[str, Json]:
    """The settings in an object of the file; the default where one is missing or wrong.

    `path` is where the object stands. `mistakes` gets a line for each mistake.
    """
    settings = SETTINGS.get(path, SETTINGS["services.NAME"])  # Others are those of services.
    read = {key: setting.default for key, setting in settings.items()}
    if not isinstance(values, dict):
        mistakes.append(f"{path or 'the file'}: must be an object")
        return read
    place = f"{path}." if path else ""
    for key in values:
        if key not in settings:
            mistakes.append(f"{place}{key}: unknown key; known are {', '.join(settings)}")
    for key, setting in settings.items():
        value = values.get(key, setting.default)
        if setting.is_right(value):
            read[key] = value
        else:  # The value itself is not shown: it may be a token.
            must = "must" if key in values else "missing: it must"
            mistakes.append(f"{place}{key}: {must} be {setting.words}")
    return read


def read_tokens(server: Json, services: Json, mistakes: list[str]) -> list[Token]:
    """The tokens of all roles and of all services."""
    tokens = []
    for role in ("read", "shipper", "admin"):
        tokens += [Token(secret, role) for secret in server[f"{role}_tokens"]]
    for name, values in services.items():
        service = read_section(values, f"services.{name}", mistakes)
        if service["token"]:
            tokens.append(Token(service["token"], "service", name))
        if not 0 < len(name) <= MAX_SERVICE_CHARS or not name.isprintable():
            words = f"must have a name of 1 to {MAX_SERVICE_CHARS} printable characters"
            mistakes.append(f"services.{name}: {words}")
    return tokens


def unsafe_tokens(tokens: list[Token], host: str) -> Iterator[str]:
    """A line for each reason not to start with these tokens."""
    for secret, uses in Counter(token.secret for token in tokens).items():
        if uses > 1:
            owners = [token.service or token.role for token in tokens if token.secret == secret]
            yield f"the tokens of {', '.join(owners)} are the same: each must differ"
    if is_loopback(host):
        return
    if not any(token.role == "read" for token in tokens):
        yield f"server.read_tokens: must not be empty while the host is {host}: all could read"
    if any(token.secret.startswith("demo-") for token in tokens):
        yield f"the sample tokens (demo-...) are public: replace them while the host is {host}"


def unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """A JSON object. Raises ValueError for a key that is given twice: json keeps the last one."""
    for key, uses in Counter(key for key, _ in pairs).items():
        if uses > 1:
            raise ValueError(f"the key {shorten(key)} is given twice in an object")
    return dict(pairs)


def load_config(path: pathlib.Path, **overrides: Json) -> Config:
    """Reads and checks a configuration file.

    `overrides` that are not None replace keys of its "server". Raises StartError with all mistakes.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = json.loads(text, object_pairs_hook=unique_keys)
    except OSError as error:
        raise StartError(f"{path}: can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StartError(f"{path}: can't be read as JSON: {error}") from None
    mistakes: list[str] = []
    top = read_section(document, "", mistakes)
    given = {key: value for key, value in overrides.items() if value is not None}
    server = read_section(top["server"] | given, "server", mistakes)
    retention = read_section(server["retention"], "server.retention", mistakes)
    read_section(top["simulator"], "simulator", mistakes)
    has_tls = "tls" in top["server"]
    tls = read_section(server["tls"], "server.tls", mistakes) if has_tls else {}
    tokens = read_tokens(server, top["services"], mistakes)
    if server["host"]:
        mistakes += unsafe_tokens(tokens, server["host"])
    if mistakes:
        raise StartError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    store = server["store"]
    return Config(
        host=server["host"],
        port=server["port"],
        store=store if "://" in store else str(path.parent / store),
        number=server["number"],
        tokens=tuple(tokens),
        allowed_hosts=frozenset(name.lower() for name in server["allowed_hosts"]),
        tls={key: str(path.parent / file) for key, file in tls.items()},
        max_records_per_second=server["max_records_per_second"],
        **retention,
    )


# -------- 4. Records

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
EPOCH_WITHOUT_ZONE = EPOCH.replace(tzinfo=None)  # Its text has no offset, and is made faster.
MICROSECOND = timedelta(microseconds=1)
MIN_TIMESTAMP = (datetime.min.replace(tzinfo=timezone.utc) - EPOCH) // MICROSECOND
MAX_TIMESTAMP = (datetime.max.replace(tzinfo=timezone.utc) - EPOCH) // MICROSECOND
SEVERITIES = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
SEVERITY_NAMES = {number: name for name, number in SEVERITIES.items()}
# JSON without blanks, as records are stored and answers are sent. NaN raises ValueError. No value
# that came as JSON contains itself: not to check that saves time.
encode_json = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
).encode


class Record(NamedTuple):
    """One record, as a store takes it. It is the row of an INSERT, hence no dataclass."""

    timestamp: int | None  # Microseconds. None: that of the commit, by the server's clock.
    service: str
    severity: int  # A value of SEVERITIES.
    message: str
    attributes: str  # A JSON object.


class StoredRecord(NamedTuple):
    """One record, as a store gives it back."""

    id: int
    received_at: int  # Microseconds.
    timestamp: int
    service: str
    severity: int
    message: str
    attributes: str

    def json(self) -> str:
        """The record as a line of JSON, without the end of the line."""
        return (
            f'{{"id":{self.id},"timestamp":"{format_timestamp(self.timestamp)}",'
            f'"received_at":"{format_timestamp(self.received_at)}",'
            f'"service":{encode_json(self.service)},"severity":"{SEVERITY_NAMES[self.severity]}",'
            f'"message":{encode_json(self.message)},"attributes":{self.attributes}}}'
        )


def now() -> int:
    """The present moment in microseconds. The clock of the system may go back."""
    return time.time_ns() // 1000


def format_timestamp(microseconds: int) -> str:
    """A timestamp as the server writes it.

    >>> format_timestamp(1795486452123456)
    '2026-11-24T02:14:12.123456Z'
    """
    moment = EPOCH_WITHOUT_ZONE + timedelta(microseconds=microseconds)
    return moment.isoformat(timespec="microseconds") + "Z"


def parse_record(fields: Json, token: Token) -> Record:
    """Makes a record of a JSON object, and takes its fields out of it. Raises RecordError.

    A bad value under one of our own names ("message", "timestamp", "severity", "service",
    "attributes") refuses the record, so that its sender sees the mistake. A bad value under an
    alias, a name that other loggers give the field, stays where it is and becomes an attribute.
    But a message that is too long, or holds NaN, refuses the record under an alias too.

    >>> fields = {"msg": "hi", "level": "warn", "ts": 1795486452, "user": "bob"}
    >>> record = parse_record(fields, Token("secret", "service", "app"))
    >>> (record.severity, record.message, record.attributes)
    (30, 'hi', '{"user":"bob"}')
    """
    if not isinstance(fields, dict):
        raise RecordError("record", f"must be a JSON object, not {shorten(fields)}")
    if "received_at" in fields:  # Perhaps it is a record that GET /logs gave out, with its id.
        drop_id_and_receipt(fields)
    own_message = fields.pop("message", None)
    own_timestamp = fields.pop("timestamp", None)
    own_severity = fields.pop("severity", None)
    service = fields.pop("service", None)
    # To look for aliases costs as much as all the rest: only where something is missing. With a
    # service token, the token tells the service.
    needs_service = token.role == "shipper" and not is_service(service)
    lacks_any = own_message is None or own_timestamp is None or own_severity is None
    aliases = find_aliases(fields) if lacks_any or needs_service else {}
    field = "timestamp"  # What is read now: an error names it.
    try:
        if own_timestamp is None:
            timestamp = pop_alias(fields, aliases, "timestamp")
        else:
            timestamp = parse_timestamp(own_timestamp)
        field = "severity"
        if own_severity is None:
            severity = pop_alias(fields, aliases, "severity") or SEVERITIES["INFO"]
        else:
            severity = parse_severity(own_severity)
    except ValueError as error:
        raise RecordError(field, str(error)) from None
    if own_message is None:
        message = pop_alias(fields, aliases, "message") or ""
    else:
        message = check_message("message", own_message)
    # A record needs a message, a time or a level. Here an alias counts, even one not understood.
    has_time = own_timestamp is not None or "timestamp" in aliases
    has_level = own_severity is not None or "severity" in aliases
    if not (message or has_time or has_level):
        text = f"is missing: a record needs a message, a time or a level; it has {shorten(fields)}"
        raise RecordError("message", text)
    if token.role == "service" or needs_service:  # A service token writes its own service only.
        service = find_service(fields, aliases, service, token)
    row = (timestamp, service, severity, message, attributes_json(fields))
    return tuple.__new__(Record, row)  # Record(...) takes twice as long.


def check_message(name: str, value: Json) -> str:
    """A message as a text: a value that is no text becomes its JSON. Raises RecordError."""
    message = value if isinstance(value, str) else to_json(name, value)
    check_size(name, message, MAX_MESSAGE_BYTES)
    return message


def attributes_json(fields: dict[str, Json]) -> str:
    """What is left in `fields`, with the members of its "attributes", as JSON.

    Where both have the same name, the member of "attributes" stays. Raises RecordError.

    >>> attributes_json({"user": "bob", "attributes": {"n": [1, 2]}})
    '{"user":"bob","n":[1,2]}'
    """
    own = fields.pop("attributes", None)
    if own not in (None, []):  # PHP writes an empty object so.
        if not isinstance(own, dict):
            raise RecordError("attributes", f"must be a JSON object, not {shorten(own)}")
        fields |= own
    if not fields:
        return "{}"
    text = to_json("attributes", fields)
    check_size("attributes", text, MAX_ATTRIBUTES_BYTES)
    return text


def to_json(field: str, value: Json) -> str:
    """A value of a record as JSON. Raises RecordError for the field."""
    try:
        text = encode_json(value)
        # A short text can't be nested deep: most values need no look.
        if len(text) > 2 * MAX_NESTING and nesting(value) > MAX_NESTING:
            raise ValueError
    except (ValueError, RecursionError):
        error = "must have no NaN or Infinity, and not be nested too deep"
        raise RecordError(field, error) from None
    return text


# -------- 4b. Names and values *
# The core uses `parse_timestamp`, `parse_severity`, `find_aliases`, `pop_alias`, `find_service`,
# `drop_id_and_receipt`, `is_service`, `check_size` and `nesting`. `find_aliases` finds the fields
# that have another logger's name, such as "msg" or "level", by our name of the field. `pop_alias`
# takes one out of the record, not out of what was found. `find_service` refuses a service that the
# token may not write. `drop_id_and_receipt` removes what GET has added. `is_service`, `check_size`
# and `nesting` are bounds on values.

# As a text, 20261124 is a date, and 2026 is refused: it may be a year. As numbers of JSON they are
# seconds since 1970. PowerShell writes /Date(1795486452123)/.
EPOCH_NUMBER = re.compile(r"(?:/Date\()?(?!\d{4}(?:\d{4})?\Z)(-?\d++(?:\.\d++)?)(?:\)/)?")
# 20261124021412, with a fraction (.5, or 3 or 6 more digits) and an offset where they are there.
# Without seconds, only an offset shows that it is a date. In milliseconds such a number would be of
# the year 2572 or later.
DATE_OF_DIGITS = re.compile(
    r"((?:19|20)\d{6})(\d{6}|\d{4}(?=[Z+-]))([.,]\d++|\d{3}|\d{6})?(Z|[+-]\d\d(?::?\d\d)?)?"
)


def parse_timestamp(value: Json) -> int:
    """A moment in any usual form, in microseconds. Without an offset it is UTC.

    Raises ValueError for all else, and outside of the years 1 to 9999.

    >>> parse_timestamp("2026-11-24T03:14:12.123456+01:00")
    1795486452123456
    >>> {parse_timestamp(n) for n in (1795486452, "1795486452000", 1795486452000000)}
    {1795486452000000}
    """
    try:
        if isinstance(value, str) and value[4:5] == "-":  # 2026-..., as most have it.
            microseconds = parse_date(value)
        elif isinstance(value, dict) and value.keys() & {"date", "$date", "value"}:  # PHP, MongoDB
            date = value.get("date", value.get("$date", value.get("value")))
            microseconds = parse_timestamp(f"{date} {value.get('timezone', '')}".strip())
        elif isinstance(value, dict):  # An Instant of log4j2 or a Timestamp of protobuf.
            seconds: Json = value.get("epochSecond", value.get("seconds"))
            nanoseconds = value.get("nanoOfSecond", value.get("nanos")) or 0
            microseconds = int(seconds) * SECOND + int(nanoseconds) // 1000
        elif digits := DATE_OF_DIGITS.fullmatch(str(value).strip()):
            date, clock, fraction, zone = digits.groups("")
            fraction = fraction.lstrip(".,") or "0"
            microseconds = parse_date(f"{date}T{clock:0<6}.{fraction}{zone}")
        elif not isinstance(value, str):
            microseconds = parse_epoch(value)
        elif epoch := EPOCH_NUMBER.fullmatch(value.strip()):
            microseconds = parse_epoch(float(epoch[1]) if "." in epoch[1] else int(epoch[1]))
        else:
            microseconds = parse_date(value)
        if not MIN_TIMESTAMP <= microseconds <= MAX_TIMESTAMP:
            raise OverflowError("outside of the calendar")
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"must be ISO 8601 or an epoch number, not {shorten(value)}") from None
    return microseconds


# What datetime.fromisoformat does not take: "2026/1/4 02:14:12 UTC"; mails' "Tue, 24 Nov 2026
# 02:14:12 +0000" and Apache's "24/Nov/2026:02:14:12 +0000"; Java's "Nov 24, 2026, 2:14:12 AM",
# JavaScript's "Tue Nov 24 2026 02:14:12 GMT+0100 (CET)" and, with the year at its end, "Tue Nov 24
# 02:14:12 CET 2026". Go adds a second zone and its clock: "+0000 UTC m=+0.1". A blank can stand for
# the "+" of an offset: a "+" in a URL arrives so.
LOOSE_DATE = re.compile(
    r"""
    (?:[A-Za-z]{3,9},?[ ]+)?                                      # The day of the week.
    (?: (?P<year_1>\d{4})[-/.]?(?P<month_1>\d\d|\d(?=[-/.]))[-/.]?(?P<day_1>\d\d|(?<=[-/.])\d)
      | (?P<day_2>\d\d?)[-/ ](?P<month_2>[A-Za-z]{3})[a-z]*[-/ ](?P<year_2>\d{4}|\d\d(?!:))
      | (?P<month_3>[A-Za-z]{3})[a-z]*[ ]+(?P<day_3>\d\d?)(?:,?[ ](?P<year_3>\d{4}))?
    )
    (?:[tT,_: ]|,[ ]|[ ]@[ ]|[ ]at[ ])[ ]*
    (?P<hour>\d\d?)(?P<rest>:\d\d(?::\d\d(?:[.,]\d+)?)?)(?:[ \u202f]?(?P<half>[AaPp])[Mm])?
    (?:
        [ ]? (?:GMT(?=[+-]))?
        (?P<zone>(?:[+-]\d\d|[ ](?:0\d|1[0-4])):?(?:\d\d)?|[A-Za-z]{1,4})
        Z? (?:[ ]\(.*\))?                                         # Some write +00:00Z.
    )?
    (?:[ ](?P<year_4>\d{4}))? (?:[ ](?:[A-Z]{3,4}|[+-]\d\d(?:\d\d)?))? (?:[ ]m=.*)?
    """,
    re.VERBOSE,
)
MAX_DATE_CHARS = 100  # LOOSE_DATE can take as many steps as the square of the length.
# fromisoformat would take the sign for the "T", and the offset for a time of the day.
DATE_WITH_ZONE = re.compile(r"(\d{4}-?\d\d-?\d\d)([+-]\d\d:?\d\d|Z)")
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
ZONE_NAMES = """
    Z=+00 UT=+00 UTC=+00 GMT=+00 WET=+00 WEST=+01 BST=+01 CET=+01 CEST=+02 EET=+02 EEST=+03 MSK=+03
    WAT=+01 CAT=+02 SAST=+02 EAT=+03 IDT=+03 PKT=+05 WIB=+07 ICT=+07 WITA=+08 HKT=+08
    SGT=+08 JST=+09 KST=+09 WIT=+09 AWST=+08 ACST=+09:30 ACDT=+10:30 AEST=+10 AEDT=+11 NZST=+12
    NZDT=+13 NDT=-02:30 NST=-03:30 EDT=-04 EST=-05 CDT=-05 CST=-06 MDT=-06 MST=-07 PDT=-07 PST=-08
    AKDT=-08 AKST=-09 HST=-10 BRT=-03 ART=-03 UYT=-03 CLST=-03 CLT=-04 VET=-04 BOT=-04 COT=-05
    PET=-05 ECT=-05
"""  # The American ones as RFC 2822, 4.3 has them. IST is left out: it has three meanings.
ZONES = dict(name.split("=") for name in ZONE_NAMES.split())


def parse_date(text: str) -> int:
    """Microseconds of a moment in ISO 8601 or a form of LOOSE_DATE. Raises ValueError."""
    # fromisoformat takes any character between date and time for "T", a digit too.
    if text[10:11].isdigit() and re.match(r"\d{9}|\d{4}-\d\d-\d{3}", text):
        raise ValueError
    # 16: as long as "2026-11-24+01:00".
    if len(text) <= 16 and (date := DATE_WITH_ZONE.fullmatch(text)):
        text = f"{date[1]}T00:00:00{date[2]}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        text = text.strip(" []\r\n").partition("[")[0]  # Java ends with "+01:00[Europe/Paris]".
        match = LOOSE_DATE.fullmatch(text) if len(text) <= MAX_DATE_CHARS else None
        if not match:
            raise
        parts = match.groupdict("")  # Of each field, one is there. More of them make no date.
        year = parts["year_1"] + parts["year_2"] + parts["year_3"] + parts["year_4"]
        month = parts["month_1"] + parts["month_2"] + parts["month_3"]
        day = parts["day_1"] + parts["day_2"] + parts["day_3"]
        hour = parts["hour"]
        if len(year) == 2:
            year = f"{'19' if year > '68' else '20'}{year}"  # As strptime takes it.
        if parts["half"]:  # AM or PM.
            hour = str(int(hour) % 12 + 12 * (parts["half"] in "Pp"))
        if month.isalpha():
            month = str(MONTHS.index(month.lower()) + 1)
        zone = (parts["zone"] or "Z").replace(" ", "+")
        zone = ZONES.get(zone.upper(), zone)
        moment = datetime.fromisoformat(
            f"{year}-{month:0>2}-{day:0>2}T{hour:0>2}{parts['rest']}{zone}"
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - EPOCH) // MICROSECOND


def parse_epoch(number: float) -> int:
    """Microseconds of a number of seconds, milliseconds, microseconds or nanoseconds since 1970.

    Its size tells the unit: today, the four have 10, 13, 16 and 19 digits. Raises TypeError.
    """
    if isinstance(number, bool):
        raise TypeError("true is no time")
    for bound, factor in ((1e11, SECOND), (1e14, 1000), (1e17, 1)):
        if abs(number) < bound:
            return round(number * factor)
    return round(number // 1000)


SEVERITY_WORDS = {
    10: "DEBUG DBG DEBG DBUG D TRACE TRC TRCE T VERBOSE VRB V SILLY FINE FINER FINEST",
    20: "INFO INF I INFORMATION INFORMATIONAL NOTICE NOTE HTTP LOG SUCCESS DEFAULT ANY UNKNOWN",
    30: "WARNING WARN WRN W",
    40: "ERROR ERR ERRO EROR E SEVERE FAILURE FAULT EXCEPTION",
    50: "CRITICAL CRIT CRT C FATAL FTL FAT F ALERT EMERGENCY EMERG PANIC DPANIC SHOUT",
}
SEVERITY_OF_WORD = {word: n for n, words in SEVERITY_WORDS.items() for word in words.split()}
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # Colours, for example.
# With blanks, brackets or "+4" around it. A letter alone has no digit beside it: "C1" is no level.
# But MongoDB has D1 to D5.
ONE_WORD = re.compile(
    r"[^a-z]*([a-z]{2,})[^a-z]*|[^a-z0-9]*([a-z])[^a-z0-9]*|(D)[1-5]", re.IGNORECASE
)
# What a number means. The scales of syslog (RFC 5424, table 2: 0 is emergency), of pino and bunyan
# (10 is trace, 20 debug, 60 fatal) and of Monolog do not overlap. {"severity": 30} is INFO, though
# we store 30 for WARNING: a client that sends numbers is more often pino than Python.
SYSLOG_SEVERITIES = dict(enumerate((50, 50, 50, 40, 30, 20, 20, 10)))
PINO_SEVERITIES = {number: max(number // 10 * 10 - 10, 10) for number in (10, *range(20, 70))}
MONOLOG_SEVERITIES = {100: 10, 200: 20, 250: 20, 300: 30, 400: 40, 500: 50, 550: 50, 600: 50}
SEVERITY_OF_NUMBER = SYSLOG_SEVERITIES | PINO_SEVERITIES | MONOLOG_SEVERITIES
OTEL_SEVERITIES = {number: (10, 10, 20, 30, 40, 50)[(number - 1) // 4] for number in range(1, 25)}
WINDOWS_LEVEL = "level of an event of windows"  # `understand` puts it in place of "level".
# Under these names numbers mean something else.
SEVERITY_OF_NUMBER_BY_NAME = {
    "levelno": {number: max(number // 10 * 10, 10) for number in range(1, 60)},  # Python's logging.
    "severity_number": OTEL_SEVERITIES,
    "severitynumber": OTEL_SEVERITIES,
    WINDOWS_LEVEL: dict(enumerate((20, 50, 40, 30, 20, 10))),  # 0 is logged always, 5 is verbose.
    "priority": {},  # Nothing: it is that of a ticket or a job.
}


def parse_severity(value: Json, name: str = "severity") -> int:
    """The number of a severity. `name` can tell what its numbers mean. Raises ValueError.

    >>> [parse_severity(text) for text in ("warn", " [Error]: ", "\x1b[31mfatal\x1b[0m", "INFO+2")]
    [30, 40, 50, 20]
    >>> [parse_severity(3), parse_severity(30), parse_severity(30, "levelno"), parse_severity(400)]
    [40, 20, 30, 40]
    """
    if isinstance(value, str):
        word = value.upper()
        if word not in SEVERITY_OF_WORD:
            match = ONE_WORD.fullmatch(TERMINAL_CODE.sub("", value))
            word = "".join(match.groups("")).upper() if match else ""
        if word in SEVERITY_OF_WORD:
            return SEVERITY_OF_WORD[word]
        value = int(value) if re.fullmatch(r"\s*[0-9]{1,3}\s*", value) else value
    meanings = SEVERITY_OF_NUMBER_BY_NAME.get(name, SEVERITY_OF_NUMBER)
    if type(value) in (int, float) and value in meanings:
        return meanings[value]
    names = ", ".join(SEVERITIES)
    raise ValueError(f"must be one of {names} or a usual alias, not {shorten(value)}")


# The names under which loggers send our fields, in upper or lower case: "Message" and "MSG" too.
# The first that is understood counts. A dot leads into an object: "log.level" finds
# {"log": {"level": "warn"}}, and also {"log.level": "warn"}.
NAMES = {
    "message": """
        message msg log event short_message @m @mt @message record.message text textpayload
        jsonpayload.message fields.message renderedmessage messagetemplate full_message body
        eventmessage event_message logmessage formattedmessage resultdescription output record 0
    """,
    "timestamp": """
        timestamp time ts date created @timestamp @t record.time.timestamp asctime datetime
        __realtime_timestamp timemillis instant t eventtime timecreated timereported date_time
        syslog.timestamp time_local time_iso8601 _meta.date longdate isodate dt msec timegenerated
        stagetimestamp lasttimestamp start_time started_at timestampseconds ibm_datetime written_at
    """,
    "severity": """
        severity level levelname level_name level.name log.level loglevel log_level lvl
        severity_text severitytext @l @level record.level.name error_severity priority levelno
        severity_number severitynumber s record.level level.levelstr leveldisplayname syslogseverity
        syslog.severity messagetype priorityname _meta.loglevelname detected_level context.loglevel
        syslog.severity.name log.syslog.severity.name type label
    """,
    # These count only with a shipper's token, which may write for any service.
    "service": """
        service service_name logger name app loggername logger_name log.logger application app_name
        kubernetes.container_name kubernetes.container.name container_name @module progname channel
        syslog_identifier _systemd_unit program programname appname servicename container.name
    """,
}
# By name: the field, and the place among its names.
KNOWN_NAMES = {
    name: (field, place)
    for field, names in NAMES.items()
    for place, name in enumerate(names.split())
}
# These are names of other things too: they count only beside a name of the program they come from.
BESIDE = {
    "messagetype": "eventMessage",  # macOS
    "start_time": "response_code",  # Envoy
    "started_at": "latencies",  # Kong
    "type": "involvedObject",  # Events of Kubernetes.
    "label": "err_symbol",  # MySQL
}
# What stands before a dot in a name: "record" and "record.level", for example.
OBJECT_NAMES = {name[: match.start()] for name in KNOWN_NAMES for match in re.finditer(r"\.", name)}


class Alias(NamedTuple):
    """A value that a record has under one of NAMES."""

    rank: int  # The lowest counts first.
    name: str  # As it was sent, with the path to it: "log.level".
    value: Json


Aliases = dict[str, list[Alias]]  # By our name of the field.


def find_aliases(fields: dict[str, Json], path: str = "") -> Aliases:
    """The values that have one of NAMES in an object. `path` leads to it from the record.

    >>> find_aliases({"Msg": "hi", "log": {"level": "warn"}})["severity"]
    [Alias(rank=5, name='log.level', value='warn')]
    """
    aliases: Aliases = {}
    for key, value in fields.items():
        name = path + key
        lower = name.lower()
        is_known = lower in KNOWN_NAMES and (lower not in BESIDE or BESIDE[lower] in fields)
        if lower == "t" and isinstance(value, int | float):  # Who means a time sends no number.
            is_known = False
        if lower == "s" and not isinstance(fields.get("t"), dict):  # {"$date": ...}, of MongoDB.
            is_known = False
        if is_known and value is not None:
            field, rank = KNOWN_NAMES[lower]
            # A text counts before any other value, except for times. A level of digits comes after
            # all texts: other loggers have other numbers, and in a form all is text.
            is_text = isinstance(value, str) and value != ""
            is_number = field == "severity" and str(value).isdigit()
            if field != "timestamp" and (is_number or not is_text):
                rank += len(KNOWN_NAMES)
            aliases.setdefault(field, []).append(Alias(rank, name, value))
        if isinstance(value, dict) and lower in OBJECT_NAMES:
            for field, inner in find_aliases(value, f"{name}.").items():
                aliases.setdefault(field, []).extend(inner)
    return aliases


def pop_alias(fields: dict[str, Json], aliases: Aliases, field: str) -> Json:
    """Takes the first value that is understood under an alias of a field out of `fields`.

    Gives what it means for the field, or None without one. Raises RecordError.
    """
    found = aliases.get(field, [])
    if len(found) > 1:  # Most are alone, and the call would take longer than the test.
        found.sort(key=operator.attrgetter("rank"))
    for alias in found:
        try:
            value = understand(field, alias, fields)
        except ValueError:
            continue
        # One inside an object stays in it. A flat "log.level" may stand beside it: so only this
        # very object is removed.
        if fields.get(alias.name) is alias.value:
            del fields[alias.name]
        return value
    return None


OWN_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")  # As the server writes it.


def drop_id_and_receipt(fields: dict[str, Json]) -> None:
    """Removes the id and the time of receipt that GET gave out: the record gets new ones."""
    has_time = OWN_TIME.fullmatch(str(fields["received_at"]))
    if has_time and type(fields.get("id")) is int:
        del fields["id"], fields["received_at"]


LEAST_EPOCH = 100_000_000 * SECOND  # March 1973. A smaller number under an alias is a duration.


def timestamp_of(alias: Alias, fields: dict[str, Json]) -> int:
    """The time that an alias means, in microseconds. Raises ValueError."""
    value = alias.value
    clock = fields.get("time", fields.get("Time"))
    has_clock = re.match(r"\d\d?:\d\d", str(clock))  # A time of day stands beside it.
    if has_clock and alias.name.lower() == "date" and ":" not in str(value):
        value = f"{value}T{clock}"
    timestamp = parse_timestamp(value)
    is_number = not isinstance(value, str) or EPOCH_NUMBER.fullmatch(value.strip())
    if is_number and abs(timestamp) < LEAST_EPOCH:
        raise ValueError("a duration")
    return timestamp


def message_of(alias: Alias) -> str:
    """The message that an alias means. Raises ValueError, RecordError."""
    message = alias.value
    if alias.name.lower() in ("log", "event", "record") and isinstance(message, dict):
        raise ValueError("an object that holds other fields")
    if alias.name == "MESSAGE" and isinstance(message, list):  # journald: bytes that are not UTF-8.
        with contextlib.suppress(ValueError, TypeError):
            message = bytes(message).decode("utf-8", "replace")
    if alias.name == "log" and isinstance(message, str):  # Docker keeps the end of the line.
        message = message.removesuffix("\n").removesuffix("\r")
    # In lower case: an error's field is a label of /metrics, which must not get ever more values.
    return check_message(alias.name.lower(), message)


def understand(field: str, alias: Alias, fields: dict[str, Json]) -> Json:
    """What an alias means for a field. It can depend on other fields of the record.

    Raises ValueError, and RecordError for a message that can't be stored.
    """
    if field == "timestamp":
        return timestamp_of(alias, fields)
    if field == "message":
        return message_of(alias)
    if field == "service":
        if is_service(alias.value):
            return alias.value
        raise ValueError("no name of a service")
    # In capitals, "PRIORITY" is journald's, a level. Else it is that of a ticket or a job.
    name = alias.name if alias.name == "PRIORITY" else alias.name.lower()
    if name == "level" and "ProviderName" in fields:
        name = WINDOWS_LEVEL
    return parse_severity(alias.value, name)


def find_service(fields: dict[str, Json], aliases: Aliases, service: Json, token: Token) -> str:
    """The service of a record. `service` is what it had under that name.

    A service token writes its own service only: "logger" and the like, which name it with a
    shipper's token, stay and become attributes. Raises RecordError.
    """
    if isinstance(service, dict):  # ECS of Elastic: {"name": "web", "version": "1.2"}.
        rest = dict(service)
        service = rest.pop("name", None)
        if rest:
            fields["service"] = rest
    if service in (None, ""):
        # ECS again. It is not one of NAMES, since it counts with a service token too.
        service = fields.pop("service.name", None)
    if token.role == "service":
        if service not in (None, "", token.service):
            error = f"this token writes records of {token.service} only, not of {shorten(service)}"
            raise RecordError("service", error, forbidden=True)
        return token.service
    if service in (None, ""):
        service = pop_alias(fields, aliases, "service")
    if not is_service(service):
        must = f"must be a text of 1 to {MAX_SERVICE_CHARS} characters, with a shipper's token"
        raise RecordError("service", f"{must}: in service, logger, name or app")
    return str(service)


def check_size(field: str, text: str, most: int) -> None:
    """Raises RecordError for a text of more bytes than `most` in UTF-8."""
    # A character has at most 4 bytes: most texts are so short that they need not be encoded.
    if len(text) * 4 > most and len(text.encode()) > most:
        raise RecordError(field, f"is longer than {most >> 10} KiB")


def is_service(value: Json) -> bool:
    """Whether a value can be the name of a service."""
    return isinstance(value, str) and 0 < len(value) <= MAX_SERVICE_CHARS


def nesting(value: Json) -> int:
    """How deep a value is nested. Raises RecursionError."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return 0
    return 1 + max(map(nesting, value), default=0)


# -------- 5. Bodies


@dataclasses.dataclass
class Parsed:
    """What a body holds: its good records, and what is wrong with the others."""

    records: list[Record] = dataclasses.field(default_factory=list)
    rejected_by_field: Counter[str] = dataclasses.field(default_factory=Counter)
    rejected: int = 0
    forbidden: int = 0  # Of the rejected records, those that named another service.
    errors: list[dict[str, Json]] = dataclasses.field(default_factory=list)  # For the answer.

    def reject(self, index: int, error: RecordError) -> None:
        """Notes that the record at this index is rejected."""
        self.rejected_by_field[error.field] += 1
        self.rejected += 1
        self.forbidden += error.forbidden
        if len(self.errors) < MAX_ERRORS_LISTED:
            self.errors.append({"index": index, "field": error.field, "error": error.error})


# Each format of a body (ours, OTLP, ...) has a splitter, which gives the values in a body, and a
# parser, which makes a record of a value. The splitter raises Refusal, the parser RecordError. A
# value is what the parser takes: JSON, for example. Among the values may be RecordError objects:
# each stands for a part of the body that can't be a record, so that the others are stored.
Split = Callable[[bytes], list[Json]]
Parse = Callable[[Json, Token], Record]


def read_records(values: list[Json], token: Token, parse: Parse) -> Parsed:
    """Makes records of the values of a body. Raises TooLarge."""
    parsed = Parsed()
    room = MAX_STORED_CHARS
    deadline = time.monotonic() + PARSE_SECONDS
    for index, value in enumerate(values):
        if index % 100 == 99 and time.monotonic() > deadline:
            problem = f"The records take more than {PARSE_SECONDS} s to read."
            raise TooLarge(problem, "Send smaller batches.")
        try:
            if isinstance(value, RecordError):
                raise value
            record = parse(value, token)
        except RecordError as error:
            parsed.reject(index, error)
            continue
        parsed.records.append(record)
        room -= len(record.message) + len(record.attributes)
        if room < 0:
            problem = f"The records have more than {MAX_STORED_CHARS >> 20} Mi characters."
            raise TooLarge(problem, "Send smaller batches.")
    return parsed


def split_logs(body: bytes, content_type: str = "") -> list[Json]:
    """The splitter of POST /logs: JSON values, one after the other; one form; or lines of text.

    The content of the body decides which, since many Content-Types are wrong: of `content_type`,
    only the charset counts. A RecordError stands for a value that can't be a record.

    >>> split_logs(b'{"message": "a"}{"message": "b"}')
    [{'message': 'a'}, {'message': 'b'}]
    >>> split_logs(b"message=a&severity=ERROR")
    [{'message': 'a', 'severity': 'ERROR'}]
    >>> split_logs(b"[    0.1] usb: new device\\n[    0.2] eth0: up")
    [{'message': '[    0.1] usb: new device'}, {'message': '[    0.2] eth0: up'}]

    Raises BadBody with the place of the fault, TooLarge, Unsupported.
    """
    charset = charset_of(content_type) or json.detect_encoding(body)  # UTF-8, or UTF-16 or 32.
    try:
        values = split_body(body, charset)
    except (ValueError, RecursionError) as error:
        raise unreadable(body, error) from None
    if not values:
        hint = 'Send a JSON object such as {"message": "hello"}.'
        raise BadBody("The body holds no record.", hint)
    return values


def split_body(body: bytes, charset: str) -> list[Json]:
    """The values in a body of this charset. Raises Refusal, ValueError, RecursionError.

    JSON that can't be read as a whole is read line by line. A bad line becomes a RecordError, and
    the others are values. Where no line is good, the error of the whole body is raised.
    """
    try:
        text = body.decode(charset)
        values = split_text(text, charset)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError.
        # "surrogateescape" marks each byte that is not of the charset. In JSON, `split_lines` makes
        # a RecordError of a line with such a mark. Plain text gives no values here, since it would
        # be stored damaged. Then the first error is raised again.
        text = body.decode(charset, "surrogateescape")
        values = split_lines(text.strip())
        if not values:
            raise
    return values


def split_text(text: str, charset: str) -> list[Json]:
    """The values in a text. `charset` is that of %XX in a form.

    Raises Refusal, ValueError, RecursionError.
    """
    stripped = text.strip()
    if is_json(stripped):
        check_density(stripped)
        return split_json(stripped)
    form = parse_form(stripped, charset)
    if form is not None:
        return [form]
    if "\0" in text:
        raise UnicodeError("it has a NUL")  # `unreadable` says then what the body seems to be.
    # Here `stripped` would be wrong: blanks in front belong to a line.
    values = [{"message": line} for line in itertools.islice(lines_of(text), MAX_RECORDS + 1)]
    check_count(len(values))
    return values


BLANKS = re.compile(r"[ \t\r\n]*")  # JSON has no others.
decode_json = json.JSONDecoder().raw_decode
# It calls Python code for each object: there another thread can take the GIL.
decode_and_pause = json.JSONDecoder(object_hook=lambda value: value).raw_decode


def split_json(text: str) -> list[Json]:
    """The JSON values that stand one after the other in a text.

    The members of an array count as values of their own, and so do those of {"logs": [...]}. Raises
    json.JSONDecodeError, ValueError, RecursionError, TooLarge.
    """
    text = mend_surrogates(text)
    decode = decode_json if len(text) < LONG_JSON_CHARS else decode_and_pause
    values: list[Json] = []
    offset = 0
    while offset < len(text):
        value, offset = decode(text, offset)
        if isinstance(value, dict) and "logs" in value:
            value = open_envelope(value)
        if isinstance(value, list):
            values += value
        else:
            values.append(value)
        check_count(len(values))
        offset = BLANKS.match(text, offset).end()  # type: ignore[union-attr]  # It always matches.
    return values


# -------- 5b. Unusual bodies *
# The core uses `charset_of`, `unreadable`, `mend_surrogates`, `is_json`, `open_envelope`,
# `split_lines`, `lines_of`, `parse_form`, `check_density` and `check_count`. They read bodies that
# are not UTF-8, JSON with bad lines, text and forms. The last two are bounds.


@functools.lru_cache(256)
def charset_of(content_type: str) -> str:
    """The charset of Windows or ISO that a Content-Type names, or nothing: others are ignored."""
    match = re.search(r"charset\s*=\s*\"?([\w.:-]{1,40})", content_type, re.IGNORECASE)
    with contextlib.suppress(LookupError):
        name = codecs.lookup(match[1]).name if match else ""
        return name if name.startswith(("cp125", "iso8859")) else ""
    return ""


# What a body that is no text begins with, and what it seems to be.
SIGNATURES = {
    b"\x1f\x8b": "gzip without 'Content-Encoding: gzip'",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"BZh": "bzip2",
    b"\x92": "MessagePack",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "a ZIP file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF": "a PDF",
}


def unreadable(body: bytes, error: ValueError | RecursionError) -> Refusal:
    """The refusal of a body, for the error with which it was read."""
    if isinstance(error, json.JSONDecodeError):
        problem = f"The body is not JSON: {error}."  # It names line, column and character.
        return BadBody(problem, "Correct it and send it again; nothing was stored.")
    if not isinstance(error, UnicodeError):
        problem = "The body has too long a number, is nested too deep or has too many fields."
        # Python does not convert a text of more than 4,300 digits to a number.
        hint = "Send numbers of at most 4,300 digits and forms of at most 1,000 fields."
        return BadBody(problem, hint)
    hint = "Send JSON, a form or lines of text, in UTF-8, as they are or with gzip or deflate."
    for signature, name in SIGNATURES.items():
        if body.startswith(signature):
            return Unsupported(f"The body seems to be {name}.", hint)
    if b"\0" in body:
        return BadBody("The body seems to be binary: it has a NUL.", hint)
    hint += " Or name a charset of Windows or ISO in Content-Type."
    return BadBody(f"The body is not text in UTF-8: {error}.", hint)


# An escape in JSON: a whole surrogate pair; half of one, as a group; or any other.
ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(u[dD][89a-fA-F][\da-fA-F]{2})|.)"
)


def mend_surrogates(text: str) -> str:
    r"""JSON with U+FFFD for each half of a surrogate pair: neither UTF-8 nor SQLite takes it.

    >>> mend_surrogates(r'"\ud83d\ude00 \ud83d \\ud83d"')
    '"\\ud83d\\ude00 \\ufffd \\\\ud83d"'
    """
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return ESCAPE.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)


# What is certainly meant as JSON: "{", or "[{" before a name or "}". Empty arrays may stand before
# it, or alone. An empty text counts too.
JSON_BEGIN = re.compile(r"(?:\[\s*\]\s*)*+(?:\{|\[\s*\{\s*[\"}]|\Z)")


def is_json(text: str) -> bool:
    """Whether a text is meant as JSON, well formed or not. Raises RecursionError.

    >>> [is_json(text) for text in ('{"a', "[1, 2]", "[1] up", '[12] {"message": "a"}')]
    [True, True, False, False]
    """
    if JSON_BEGIN.match(text):
        return True
    if not text.startswith("["):
        return False
    try:
        # A longer array that begins without an object is cut here: so it counts as text.
        _, end = decode_json(text[:LONG_JSON_CHARS])
    except ValueError:
        return False
    return end == len(text)


def open_envelope(value: dict[str, Json]) -> Json:
    """The records in {"logs": [...]}. A "service" beside it is that of records without their own.

    Any other object is a record that has something of that name: it is given back.
    """
    records = value["logs"]
    if not isinstance(records, list) or value.keys() - {"logs", "service"}:
        return value
    if "service" not in value:
        return records
    shared = {"service": value["service"]}
    return [shared | record if isinstance(record, dict) else record for record in records]


def split_lines(text: str) -> list[Json]:
    """The values of a text with one JSON value on each line. A RecordError stands for a bad line.

    Nothing, where no line is JSON or one value stands on many lines. Raises TooLarge.
    """
    if not is_json(text):
        return []
    check_density(text)
    values: list[Json] = []
    for line in lines_of(text):
        if not values and line.strip() == "{":  # One value on many lines.
            return []
        try:
            line.encode()  # Raises UnicodeEncodeError for what was not UTF-8.
            values += split_json(line.strip())
        except json.JSONDecodeError as error:
            if not values and line.lstrip().startswith("["):  # One array on many lines.
                return []
            values.append(RecordError("record", f"is not JSON: {error.msg}, column {error.colno}"))
        except (ValueError, RecursionError):
            problem = "can't be read: not UTF-8, nested too deep, or too long a number"
            values.append(RecordError("record", problem))
        check_count(len(values))
    return [] if all(isinstance(value, RecordError) for value in values) else values


FORM = re.compile(r"[\w.%+*@\[\]-]+=[^\s\"']*")  # As browsers write one.
# The name of a part. .NET writes it without quotes.
PART_NAME = re.compile(r'\bname=(?:"([^"\r\n]{1,200})"|([^\s";]{1,200}))', re.IGNORECASE)
MULTIPART = re.compile(r"^content-disposition: *form-data", re.IGNORECASE | re.MULTILINE)


def parse_form(text: str, charset: str) -> dict[str, Json] | None:
    """The fields of a form, or None. `charset` is that of %XX. Raises TooLarge and ValueError."""
    if text.startswith("--") and MULTIPART.search(text, 0, 1000):
        lists = parse_multipart(text)
    elif FORM.fullmatch(text):
        if text.count("%") > MAX_FORM_ESCAPES:
            raise TooLarge("The form has too many escapes: %XX.", "Send JSON, or a shorter form.")
        lists = urllib.parse.parse_qs(
            text, keep_blank_values=True, max_num_fields=1000, encoding=charset, errors="strict"
        )
    else:
        return None
    # A name that comes again has a list of its values.
    fields = {name: values[0] if len(values) == 1 else values for name, values in lists.items()}
    return clean_form(fields)


def parse_multipart(text: str) -> dict[str, list[str]]:
    r"""The values of each field of a multipart form (RFC 7578). Raises ValueError for over 1,000.

    >>> head = 'Content-Disposition: form-data; name="message"'
    >>> parse_multipart(f"--x\r\n{head}\r\n\r\nhello\r\n--x--\r\n")
    {'message': ['hello']}
    """
    boundary, _, rest = text.partition("\n")
    boundary = "\n" + boundary.rstrip("\r")
    if rest.count(boundary) > 1000:
        raise ValueError
    lists: dict[str, list[str]] = {}
    for part in rest.split(boundary):
        head, *content = re.split(r"\r?\n\r?\n", part, maxsplit=1)
        name = PART_NAME.search(head)
        if name and content:
            lists.setdefault(name[1] or name[2], []).append(content[0].removesuffix("\r"))
    return lists


# Fields in a form of logging.handlers.HTTPHandler that repeat others or say nothing to a reader.
NOISE = {"msecs", "relativeCreated", "thread", "process", "processName", "taskName", "filename"}


def clean_form(fields: dict[str, Json]) -> dict[str, Json]:
    """The fields of a form, without what says nothing in those of logging.handlers.HTTPHandler.

    >>> form = {"msg": "%s rows", "args": "(3,)", "levelname": "INFO", "levelno": "20"}
    >>> clean_form(form)
    {'levelname': 'INFO', 'message': '3 rows'}
    """
    # It sends no name twice: each value is a text.
    is_of_handler = "msg" in fields and "levelno" in fields
    if not is_of_handler or not all(isinstance(value, str) for value in fields.values()):
        return fields
    message = fields.pop("msg")
    arguments = fields.pop("args", "")
    fields["message"] = message
    if arguments not in ("()", "None", ""):
        fields["message"] = format_message(message, arguments)
        if fields["message"] == message:  # They are not in it: it could not be formatted.
            fields["arguments"] = arguments[: MAX_ATTRIBUTES_BYTES // 8]
    if fields.get("levelname", "").upper() in SEVERITY_OF_WORD:
        del fields["levelno"]  # Else the name is the program's own, and the number is kept.
    for name in ("exc_info", "exc_text", "stack_info"):
        if fields.get(name) == "None":
            del fields[name]
    return {name: value for name, value in fields.items() if name not in NOISE}


# A conversion of a format, with a width and a precision of at most 3 digits.
CONVERSION = re.compile(r"%(?:\([^()%]*\))?[-#0 +]*\d{0,3}(?:\.\d{0,3})?[hlL]?[diouxXeEfFgGcrsa%]")


def format_message(message: str, arguments: str) -> str:
    """The text that logging would make of a message and the repr() of its arguments.

    HTTPHandler sends both apart. The message stays as it is where they do not fit each other, or
    where the result could be large: each conversion can write all the arguments, %a makes up to ten
    characters of one ("\\U0001f600"), and a width adds up to 999 blanks.
    """
    if len(message) > MAX_MESSAGE_BYTES or len(arguments) > MAX_ATTRIBUTES_BYTES:
        return message
    largest = message.count("%") * (10 * len(arguments) + 999)
    if largest > 16 * MAX_MESSAGE_BYTES or "%" in CONVERSION.sub("", message):
        return message
    with contextlib.suppress(Exception):  # Any error of the client's text: it stays as it is.
        text = str(message % ast.literal_eval(arguments))
        # The repr() can write half a surrogate pair: see `mend_surrogates`.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return message


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text that are not blank, without their ends."""
    for match in re.finditer(r"[^\n]+", text):
        line = match[0].removesuffix("\r")
        if line.strip():
            yield line


MEMBER = re.compile(r'"\s*:')  # A text has colons too, but seldom behind a quotation mark.


def check_density(text: str) -> None:
    """Raises TooLarge for JSON of very many values: they cost more time and memory than text."""
    if len(text) < MAX_BRACKETS:
        return
    if text.count("{") + text.count("[") > MAX_BRACKETS or text.count(",") > MAX_COMMAS:
        error = f"The JSON has over {MAX_BRACKETS:,} objects and arrays, or {MAX_COMMAS:,} commas."
        raise TooLarge(error, "Send smaller batches.")
    for part in text.split("}"):  # Within a part no object ends: nothing lets others run.
        if part.count(":") > MAX_MEMBERS and len(MEMBER.findall(part)) > MAX_MEMBERS:
            error = f"An object in the JSON has over {MAX_MEMBERS:,} members."
            raise TooLarge(error, "Send smaller ones.")


def check_count(records: int) -> None:
    """Raises TooLarge for more records than a batch may have."""
    if records > MAX_RECORDS:
        raise TooLarge(f"The batch has more than {MAX_RECORDS:,} records.", "Send smaller batches.")


# -------- 6. Queries


@dataclasses.dataclass(frozen=True)
class Query:
    """What GET /logs and GET /stats ask for. None and () are no filter; times are inclusive.

    A service and a severity together are called a kind. A field whose name begins with "not_"
    leaves out the records that have one of its values.
    """

    severity: tuple[int, ...] = ()
    min_severity: int | None = None
    service: tuple[str, ...] = ()
    not_service: tuple[str, ...] = ()
    timestamp_start: int | None = None  # Microseconds, as all times here.
    timestamp_end: int | None = None
    received_at_start: int | None = None
    received_at_end: int | None = None
    contains: tuple[str, ...] = ()  # Texts that must all be in the message.
    not_contains: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()  # Names and values.
    not_attributes: tuple[tuple[str, str], ...] = ()
    after: int | None = None  # Only greater ids.
    last_id: int | None = None  # Only ids up to this one.
    cursor: tuple[int, int] | None = None  # Timestamp and id of the last record before the page.
    order: str = "desc"
    by_id: bool = False  # A follower's: in the order of ids, which is that of commits.
    limit: int = 100  # 0: all. Then the endpoint calls `Store.stream`, and not `page`.
    is_stream: bool = False  # `Store.stream` sets it: this is one page of a stream.
    client: str = ""  # Who asks: an address or the secret of a token.

    @property
    def text_count(self) -> int:
        """How many filters are on messages and attributes. No index holds these."""
        filters = (self.contains, self.not_contains, self.attributes, self.not_attributes)
        return sum(map(len, filters))


# Reads the value of a parameter. It raises ValueError with what is allowed.
ParseValue = Callable[[str], Json]
# These may be given more than once.
SEVERAL = ("severity", "service", "not_service", "contains", "not_contains")


def split_query_string(text: str) -> list[tuple[str, str]]:
    """The names and values of a query string. Raises BadQuery."""
    try:
        return urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        error = f"The query string has more than {MAX_PARAMETERS} parameters."
        raise BadQuery(error, "Send fewer.") from None


def parse_query_string(text: str, parsers: dict[str, ParseValue]) -> dict[str, Json]:
    """The arguments for a Query, and values of format, follow and step: the caller takes them out.

    Raises BadQuery, with the parameter, its value and what is allowed.
    """
    values: dict[str, Json] = {}
    attributes: dict[str, list[tuple[str, str]]] = {"attr": [], "not_attr": []}
    for name, value in split_query_string(text):
        prefix, dot, key = name.partition(".")
        if dot and prefix in attributes:
            attributes[prefix].append((key, value))
            continue
        if name not in parsers:
            raise unknown_parameter(name, parsers)
        try:
            if not value:
                raise ValueError("a value that is not empty")
            parsed = parsers[name](value)
        except ValueError as error:
            problem = f"The parameter {name} can't be {shorten(value)}."
            raise BadQuery(problem, f"Allowed: {error}.") from None
        if name in SEVERAL:  # Their parsers give tuples.
            values[name] = values.get(name, ()) + parsed
        elif name in values:
            raise BadQuery(f"The parameter {name} is given twice.", "Give it once.")
        else:
            values[name] = parsed
    apply_since(values)
    values["attributes"] = tuple(attributes["attr"])
    values["not_attributes"] = tuple(attributes["not_attr"])
    check_filters(values)
    return values


# -------- 6b. Parameters *
# The core uses `LIST_PARAMETERS`, `unknown_parameter`, `apply_since`, `check_filters` and
# `check_follow`. The first has the parser of each parameter of GET /logs: it raises ValueError with
# what is allowed. The others look at all parameters together. Times are microseconds.


def parse_duration(text: str) -> int:
    """Microseconds of a duration.

    >>> parse_duration("15m") // SECOND
    900
    """
    units = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
    match = re.fullmatch(r"([1-9]\d{0,5})([smhdw])", text)
    if not match:
        raise ValueError("a number and a unit: 30s, 15m, 2h, 7d or 4w")
    return int(match[1]) * units[match[2]]


def parse_moment(text: str) -> int:
    """A timestamp, in any form that a record may have."""
    try:
        return parse_timestamp(text)
    except ValueError:
        allowed = "a time such as 2026-11-24T02:14:12Z, a date or an epoch number"
        raise ValueError(allowed) from None


def parse_end(text: str) -> int:
    """A timestamp as an end. A date alone is that whole day, and a week that whole week.

    >>> [(parse_end(text) - parse_moment(text) + 1) // DAY for text in ("2026-11-24", "2026-W48")]
    [1, 7]
    """
    day = r"\d{4}-?(\d\d-?\d\d([+-]\d\d:?\d\d|Z)?|W\d\d-?\d)"
    for form, days in ((day, 1), (r"\d{4}-?W\d\d", 7)):
        if re.fullmatch(form, text):
            return min(parse_moment(text) + days * DAY - 1, MAX_TIMESTAMP)
    return parse_moment(text)


def parse_severity_name(text: str) -> int:
    """One name of a severity."""
    try:
        return SEVERITY_OF_WORD[text.strip().upper()]
    except KeyError:
        raise ValueError(", ".join(SEVERITIES)) from None


def parse_text(text: str) -> tuple[str, ...]:
    """One text to search for, in a tuple: those of several parameters are added."""
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"a text of at most {MAX_TEXT_CHARS:,} characters")
    return (text,)


def parse_services(text: str) -> tuple[str, ...]:
    """The names of services with commas between them."""
    names = tuple(text.split(","))
    if "" in names:
        raise ValueError("names with one comma between two of them")
    return names


def parse_number(text: str, most: int) -> int:
    """A whole number from 0 to `most`."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > most:
        raise ValueError(f"a whole number from 0 to {most}")
    return int(text)


def parse_choice(text: str, *choices: str) -> str:
    """One of a few words."""
    if text not in choices:
        raise ValueError(" or ".join(choices))
    return text


def unknown_parameter(name: str, known: Iterable[str]) -> BadQuery:
    """The refusal of a parameter that is not there, with the name that is perhaps meant."""
    close = difflib.get_close_matches(name, [*known, "attr.", "not_attr."], 1)
    guess = f"Did you mean {close[0]}? " if close else ""
    hint = f"{guess}There are {', '.join(known)}, attr.KEY, not_attr.KEY."
    return BadQuery(f"There is no parameter {shorten(name)}.", hint)


def apply_since(values: dict[str, Json]) -> None:
    """Turns "since" into a start and an end. Of two starts or ends, the narrower one counts."""
    if "since" not in values:
        return
    start = values.pop("since")
    values["timestamp_start"] = max(start, values.get("timestamp_start", start))
    if values.get("follow") != "1":
        # Records with a wrong time in the future would come first. A minute later than now is
        # allowed, since clocks differ.
        end = now() + MINUTE
        values["timestamp_end"] = min(end, values.get("timestamp_end", end))


def check_follow(values: dict[str, Json], follow: bool) -> None:
    """Raises BadQuery for a parameter that does not go with follow=1, or not without it."""
    # A follower has one order and one format. Pages are in the order of time, where `after` an
    # id says nothing: they have a cursor.
    not_allowed = ("order", "cursor", "format") if follow else ("after",)
    for name in not_allowed:
        if name in values and values[name] != "ndjson":  # A follower gets NDJSON anyway.
            word = "with" if follow else "without"
            raise BadQuery(f"The parameter {name} does not go {word} follow=1.", "Leave it out.")


def check_filters(values: dict[str, Json]) -> None:
    """Raises BadQuery for more filters than one statement of SQL should have."""
    if sum(len(values.get(name, ())) for name in SEVERAL) > MAX_NAMES:
        problem = f"There are over {MAX_NAMES:,} services, severities and texts."
        raise BadQuery(problem, "Send fewer.")
    pairs = values["attributes"] + values["not_attributes"]
    too_long = any(len(value) > MAX_TEXT_CHARS for _, value in pairs)
    if too_long or len(pairs) > MAX_ATTRIBUTE_FILTERS:
        problem = f"There are over {MAX_ATTRIBUTE_FILTERS} filters on attributes, or long ones."
        raise BadQuery(problem, f"Send fewer, of at most {MAX_TEXT_CHARS:,} characters each.")


def parse_cursor(text: str) -> tuple[int, int]:
    """The cursor in a link to the next page, as `format_cursor` makes it."""
    with contextlib.suppress(ValueError):
        timestamp, last_id = map(int, base64.urlsafe_b64decode(text).decode("ascii").split(":"))
        if MIN_TIMESTAMP <= timestamp <= MAX_TIMESTAMP and 0 <= last_id <= MAX_ID:
            return timestamp, last_id
    raise ValueError('the cursor of a "next" link, as it was given')


def format_cursor(last: StoredRecord) -> str:
    """The cursor of the page after this record."""
    return base64.urlsafe_b64encode(f"{last.timestamp}:{last.id}".encode()).decode()


FILTERS: dict[str, ParseValue] = {
    "severity": lambda text: tuple(map(parse_severity_name, text.split(","))),
    "min_severity": parse_severity_name,
    "service": parse_services,
    "not_service": parse_services,
    "timestamp_start": parse_moment,
    "timestamp_end": parse_end,
    "received_at_start": parse_moment,
    "received_at_end": parse_end,
    "since": lambda text: max(now() - parse_duration(text), MIN_TIMESTAMP),
    "contains": parse_text,
    "not_contains": parse_text,
}
LIST_PARAMETERS: dict[str, ParseValue] = {
    **FILTERS,
    "order": lambda text: parse_choice(text, "desc", "asc"),
    "limit": lambda text: parse_number(text, MAX_LIMIT),
    "cursor": parse_cursor,
    "format": lambda text: parse_choice(text, "json", "ndjson", "csv"),
    "follow": lambda text: parse_choice(text, "1", "0"),
    "after": lambda text: parse_number(text, MAX_ID),
}
STATS_PARAMETERS: dict[str, ParseValue] = {**FILTERS, "step": parse_duration}


# -------- 7. Commits

MinuteKind = tuple[int | None, str, int]  # A minute (None: that of the commit), service, severity.
OUT_OF_MEMORY = Unavailable("Out of memory: the records may be stored or not.")


class Batch:
    """The records of one POST on their way into a store, and what became of them."""

    def __init__(self, records: list[Record], key: bytes = b"", body_hash: bytes = b""):
        self.records = records
        self.key = key  # SHA-256 of token and Idempotency-Key; empty without such a key.
        self.body_hash = body_hash  # SHA-256 of the body that came with the key.
        # How many records each minute, service and severity has: the commit adds them to the table
        # of counts. They are counted here, in the thread of the request, so that it has less to do.
        self.minutes: dict[MinuteKind, int] = {}  # Faster than a Counter.
        for timestamp, service, severity, _, _ in records:
            minute = None if timestamp is None else timestamp // MINUTE * MINUTE
            minute_kind = minute, service, severity
            self.minutes[minute_kind] = self.minutes.get(minute_kind, 0) + 1
        # A lock as a signal. It is taken here; the thread of the batch takes it again, and sleeps
        # until it is released: once, when the batch has a result, or is the first of the queue and
        # its thread is to commit. To set an Event takes memory: without any, all would sleep on.
        self.wake = threading.Lock()
        self.wake.acquire()
        # `store.write` sets these.
        self.first_id = 0
        self.last_id = 0
        self.stored = 0  # How many records it has in the store.
        self.replayed = False  # Its key was known: it was stored before, and not again.
        # The Committer sets these. `store.write` may set a `failure` too.
        self.failure: Exception | None = None  # Why it is not stored.
        self.is_on_disk = False  # Nothing else makes a 200.

    @property
    def has_result(self) -> bool:
        """Whether it is stored or has failed."""
        return self.is_on_disk or self.failure is not None


class Committer:
    """Group commit: batches that come while others are committed share the next transaction.

    All batches wait in a queue. Only the thread of the first batch commits. It takes the batches
    that are in the queue at that moment, up to MAX_COMMIT_RECORDS. The threads of the others sleep.
    So one fsync serves many requests, and a lone client waits for nobody.
    """

    def __init__(self, write: Callable[[list[Batch]], None]):
        self._write = write
        self._lock = threading.Lock()  # Guards `queue`. It is held for a moment only.
        self._long = threading.Lock()  # Long batches queue one by one: others go between them.
        self.queue: deque[Batch] = deque()  # A batch leaves it with its result.
        self._outage = Unavailable("")  # The last one.
        # Changed only by the thread that commits:
        self.commits = 0
        self.seconds = 0.0  # Of all commits.

    def commit(self, batch: Batch) -> None:
        """Returns when the batch is on disk. Raises Unavailable, KeyReused or unexpected errors."""
        outage = self._outage
        with self._long if len(batch.records) > MAX_COMMIT_RECORDS else contextlib.nullcontext():
            if outage is not self._outage:  # All in the queue failed. This batch was not in it yet.
                raise Unavailable(self._outage.error, self._outage.hint)
            with self._lock:
                self.queue.append(batch)
                if len(self.queue) == 1:
                    batch.wake.release()
            batch.wake.acquire()  # It waits until it has a result, or is the first.
            if not batch.has_result:
                self._lead()
        if not batch.is_on_disk:
            # A batch without any result would be a fault of this program. It gets no 200 either.
            raise batch.failure or Unavailable("The batch was not committed.")

    def _lead(self) -> None:
        """Commits the first batches. Then wakes their threads, and that of the next to commit."""
        batches: list[Batch] = []
        try:
            if hasattr(os, "sched_yield"):
                os.sched_yield()  # Threads that are ready put their batches into the queue first.
            records = 0
            with self._lock:
                for batch in self.queue:
                    records += len(batch.records)
                    if batches and records > MAX_COMMIT_RECORDS:
                        break
                    batches.append(batch)
            self._commit_together(batches)
        finally:  # Whatever was raised: nobody waits for ever, and nothing is stored twice.
            for batch in batches:
                if not batch.has_result:
                    batch.failure = OUT_OF_MEMORY
            with self._lock:
                # The batches of this commit have a result now. After an outage, all have.
                self.queue.popleft()  # The batch of this thread.
                while self.queue and self.queue[0].has_result:
                    self.queue.popleft().wake.release()
                if self.queue:
                    self.queue[0].wake.release()
        if len(batches[0].records) > SHORT_BATCH_RECORDS and self.queue:
            # This thread would keep the GIL now, for a next body as long. The thread that commits
            # next needs it only until SQLite has the rows: so it goes first.
            time.sleep(0.0002)

    def _commit_together(self, batches: list[Batch]) -> None:
        """Gives each batch a result."""
        began = time.perf_counter()
        try:
            self._write(batches)
        except Exception as error:
            for batch in batches:
                batch.failure = None  # `write` may have set it before the error.
            if isinstance(error, MemoryError):  # It may come after the COMMIT: no second try.
                error = OUT_OF_MEMORY
            self._settle(batches, error)
        else:
            for batch in batches:
                batch.is_on_disk = batch.failure is None
            self.commits += 1
            self.seconds += time.perf_counter() - began

    def _settle(self, batches: list[Batch], error: Exception) -> None:
        """Gives a result to batches that could not be written together.

        After Unavailable, all that wait fail. Another error is a fault of this program: a batch
        breaks the schema, for example. Then each is tried alone, once, so that only that one fails.
        """
        if isinstance(error, Unavailable):
            log.error("a commit failed: %s", error)
            # All that wait by now fail with it. Else each would wait LOCK_SECONDS for a locked
            # database, one after the other.
            self._outage = error
            with self._lock:
                fail(self.queue, error)
        elif len(batches) == 1:
            batches[0].failure = error
        else:
            for batch in batches:
                if not batch.has_result:  # An outage meanwhile fails all that wait.
                    self._commit_together([batch])


def fail(batches: Iterable[Batch], outage: Unavailable) -> None:
    """Gives each batch without a result a failure of its own.

    Raising one in many threads would mix tracebacks.
    """
    for batch in batches:
        if not batch.has_result:
            batch.failure = Unavailable(outage.error, outage.hint)


# -------- 7b. Stores *
# The core uses `Store` and `Page`: what a store can do, SQLite as well as ClickHouse. Its `stream`
# reads page after page.

Page = tuple[list[StoredRecord], bool]  # Records, and whether there are more.


class Store(abc.ABC):
    """Where records live. All methods may be called from any thread, and may raise Unavailable."""

    config: Config  # SIGHUP replaces it.
    warning = ""  # What /health says beside "ok".

    @abc.abstractmethod
    def write(self, batches: list[Batch]) -> None:
        """Stores batches and sets their ids. When it returns, they are on disk.

        A batch whose key is known gets the ids of the first time, and `replayed` is set. One that
        can't be stored gets a `failure`: KeyReused, if its body differs. Where the method raises,
        none counts as stored.
        """

    @abc.abstractmethod
    def page(self, query: Query) -> Page:
        """The first records of a query, at most its limit, and whether there are more."""

    @abc.abstractmethod
    def newest(self) -> int:
        """The newest id, though its record may be deleted."""

    def stream(self, query: Query) -> Iterator[list[StoredRecord]]:
        """All records of a query that are there now, in pages that are not empty.

        Each page is a read of its own. One long read would keep SQLite's WAL from being reset
        (https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
        """
        last_id = self.newest()
        query = dataclasses.replace(query, last_id=last_id, limit=STREAM_RECORDS, is_stream=True)
        more = True
        while more:
            records, more = self.page(query)
            if records:
                last = records[-1]
                query = dataclasses.replace(query, cursor=(last.timestamp, last.id))
                yield records
                del records  # Else two pages are in memory while the next one is read.

    @abc.abstractmethod
    def follow(self, query: Query) -> Iterator[list[StoredRecord]]:
        """The last `limit` records (0: all), or all after `after`; then each new one.

        It has no end, and gives an empty page each second or two while there is nothing new.
        """

    @abc.abstractmethod
    def stats(self, query: Query, step: int | None) -> Stats:
        """Counts records, and by steps (microseconds) where one is given. Raises TooManySteps."""

    @abc.abstractmethod
    def delete(self, query: Query) -> int:
        """Deletes the records of a query that are there now, in small steps. Gives how many."""

    def count(self) -> int:
        """How many records there are."""
        return self.stats(Query(), None).kinds.total()

    @abc.abstractmethod
    def probe(self) -> None:
        """Writes and reads. Raises Unavailable where records can't be stored."""

    @abc.abstractmethod
    def size(self) -> int:
        """Bytes on disk."""

    def stop_queries(self, gone: set[int]) -> None:
        """Stops queries that are past their deadline, and those of threads whose client left."""

    def close(self) -> None:
        """Ends all queries and leaves whole files. Nothing is to be called after it."""


# -------- 8. SQLite

SPANS = (DAY, HOUR, MINUTE)  # The lengths of the spans in the table of counts.
ROWS = 500  # Of one INSERT, at most. With more, SQLite gets no faster.
COLUMNS = ", ".join(StoredRecord._fields)
Sql = tuple[str, list[Json]]  # A statement, or a part of one, and the values of its "?".
# A page is merged from parts: a FROM, as "logs INDEXED BY logs_by_time", and a Query, which is the
# WHERE. `plan` (8c) makes one part; with a filter on service or severity, it makes one for each
# service and severity that has records.
Part = tuple[str, Query]


def where(query: Query) -> Sql:
    """The SQL test of a query, without filters on texts and attributes.

    >>> where(Query(service=("a", "b"), timestamp_start=7))
    ('timestamp >= ? AND service IN (?, ?)', [7, 'a', 'b'])
    """
    tests: list[str] = []
    values: list[Json] = []
    bounds = (
        ("severity >= ?", query.min_severity),
        ("timestamp >= ?", query.timestamp_start),
        ("timestamp <= ?", query.timestamp_end),
        ("received_at >= ?", query.received_at_start),
        ("received_at <= ?", query.received_at_end),
        ("id > ?", query.after),
        ("id <= ?", query.last_id),
    )
    for test, value in bounds:
        if value is not None:
            tests.append(test)
            values.append(value)
    lists: tuple[tuple[str, tuple[Json, ...]], ...] = (
        ("service IN", query.service),
        ("severity IN", query.severity),
        ("service NOT IN", query.not_service),
    )
    for test, several in lists:
        if several:
            tests.append(f"{test} ({', '.join('?' * len(several))})")
            values += several
    if query.cursor:
        # This is (timestamp, id) < (?, ?). The first test lets SQLite begin within an index.
        timestamp, cursor_id = query.cursor
        sign = "<" if query.order == "desc" else ">"
        tests.append(f"timestamp {sign}= ? AND (timestamp {sign} ? OR id {sign} ?)")
        values += [timestamp, timestamp, cursor_id]
    return " AND ".join(tests) or "1 = 1", values


def order_by(query: Query) -> str:
    """The columns that a query's records are ordered by, in SQL."""
    return f"id {query.order}" if query.by_id else f"timestamp {query.order}, id {query.order}"


# The last id that a record got, though that may be deleted by now; and the last time of receipt.
LAST_RECORD = """
SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'logs'), 0),
       ifnull((SELECT received_at FROM logs ORDER BY id DESC LIMIT 1), 0)
"""


class SQLiteRecords(Store):
    """The records in one SQLite file. `SQLiteStore` inherits from it (chapter 10).

    Raises StartError where the file can't be the store.
    """

    def __init__(self, config: Config):
        self.config = config
        self._write_lock = threading.Lock()  # Held by the thread that uses `_db`.
        self._news = threading.Condition()  # Notified after each commit. It guards `_last_id`.
        self._last_id = 0  # Of the last commit, if there was one since the start.
        try:
            self.path = pathlib.Path(config.store).resolve()
            prepare_file(self.path)
            self._db = connect_writer(self.path)
            self._inode = os.stat(self.path).st_ino
            self.readers = Readers(self.path)
        except (OSError, RuntimeError, sqlite3.Error) as error:  # RuntimeError: a loop of links.
            raise StartError(f"{config.store}: can't be opened as the store: {error}") from None

    def close(self) -> None:
        """Stops the queries under way. When all connections are closed, SQLite empties the WAL."""
        self.readers.close()
        if self._write_lock.acquire(timeout=1):  # It is never released: nothing is written after.
            self._db.close()
        wal = pathlib.Path(f"{self.path}-wal")
        if wal.exists() and wal.stat().st_size:  # The disk is full, or others have it open.
            log.warning("%s still holds records: whoever copies the database needs both files", wal)

    # Writing

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction of the connection that writes, for one thread at a time.

        Raises Unavailable, or the error itself where this program is at fault: a row breaks the
        schema, for example. Whatever is raised inside, nothing of it is stored.
        """
        with self._write_lock:
            check_place(self.path, self._inode)
            db = self._db
            try:
                # At its end: COMMIT and its sync to disk (`connect_writer`), or else ROLLBACK.
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    yield db
            except sqlite3.DatabaseError as error:
                if name_of(error).startswith("SQLITE_READONLY"):
                    # A connection that was opened while the file was read-only can never write.
                    with contextlib.suppress(sqlite3.Error):
                        self._db = connect_writer(self.path)
                raise explain(error) from error

    def write(self, batches: list[Batch]) -> None:
        """Stores batches in one transaction. Each statement has many rows: see `insert_rows`."""
        with self.transaction() as db:
            last_id, received_at = db.execute(LAST_RECORD).fetchone()
            moment = now()  # The timestamp of records without one.
            received_at = max(moment, received_at)  # It never goes back, though the clock may.
            known = find_keys(db, [batch.key for batch in batches if batch.key])
            fresh: list[Batch] = []  # Those that are not stored yet.
            for batch in batches:
                batch.replayed = batch.key in known
                if batch.replayed:
                    body_hash, batch.first_id, batch.stored = known[batch.key]
                    if body_hash != batch.body_hash:
                        batch.failure = KeyReused()
                else:
                    batch.first_id = last_id + 1
                    batch.stored = len(batch.records)
                    last_id += batch.stored
                    fresh.append(batch)
                    if batch.key:  # The same key may come twice in one commit.
                        known[batch.key] = (batch.body_hash, batch.first_id, batch.stored)
                batch.last_id = batch.first_id + batch.stored - 1
            insert_batches(db, fresh, received_at, moment)
        with self._news:
            self._last_id = last_id
            self._news.notify_all()

    # Reading

    def stop_queries(self, gone: set[int]) -> None:
        """Stops queries past their deadline, and those of threads whose clients have left."""
        self.readers.stop(gone)

    def page(self, query: Query) -> Page:
        """The first records of a query.

        `search` calls `read_page` with parts that indexes serve, most often once. For a text that
        few records of a sample have, it calls it for each stretch of the table, side by side.
        """
        pages = search(self, query, lambda db, parts: read_page(db, query, parts))
        return merge_pages(query, pages)

    def newest(self) -> int:
        """The newest id. Commits do not overlap: all ids before it are committed."""
        with self.readers.lend() as db:
            return int(db.execute(LAST_RECORD).fetchone()[0])

    def follow(self, query: Query) -> Iterator[list[StoredRecord]]:
        return follow(self, query)

    def wait_for_news(self, seen: int) -> None:
        """Waits until a commit of this server gives an id after `seen`, for a second at most."""
        with self._news:
            self._news.wait_for(lambda: self._last_id > seen, timeout=1)


# AUTOINCREMENT counts on from sqlite_sequence, one by one: so the rows get the ids that `write` has
# computed. The first two "?" are the time of receipt and that of the commit. VALUES calls its
# columns column1, column2, ...
INSERT_LOGS = """
INSERT INTO logs (received_at, timestamp, service, severity, message, attributes)
SELECT ?, ifnull(column1, ?), column2, column3, column4, column5 FROM (VALUES {rows})
"""
INSERT_KEYS = "INSERT INTO keys (key, body, first_id, records, created_at) VALUES {rows}"
INSERT_COUNTS = """
INSERT INTO counts (span, start, service, severity, records) VALUES {rows}
ON CONFLICT DO UPDATE SET records = records + excluded.records
"""


def insert_batches(
    db: sqlite3.Connection, batches: list[Batch], received_at: int, moment: int
) -> None:
    """Inserts the records of batches and their keys, and adds to the counts. `moment` is now."""
    keys = []
    records: list[Record] = []
    minutes: Counter[MinuteKind] = Counter()
    for batch in batches:
        records += batch.records
        minutes.update(batch.minutes)
        if batch.key:
            keys.append((batch.key, batch.body_hash, batch.first_id, batch.stored, moment))
    insert_rows(db, INSERT_KEYS, keys)
    insert_rows(db, INSERT_LOGS, records, received_at, moment)
    add_counts(db, minutes, moment)


def insert_rows(db: sqlite3.Connection, sql: str, rows: list[Any], *first: Json) -> None:
    """Inserts rows, many with one statement; `first` are values before those of the rows.

    sqlite3 gives up the GIL in each statement and has to win it back from the threads that parse.
    `executemany` does so for each row, and takes three times as long.
    """
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        row = f"({', '.join('?' * len(some[0]))})"
        statement = sql.format(rows=", ".join([row] * len(some)))
        db.execute(statement, [*first, *itertools.chain.from_iterable(some)])


def find_keys(db: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, tuple[bytes, int, int]]:
    """The keys that are known: for each the hash of its body, its first id and its records."""
    if not keys:
        return {}
    marks = ", ".join("?" * len(keys))
    sql = f"SELECT key, body, first_id, records FROM keys WHERE key IN ({marks})"
    return {key: (body, first_id, stored) for key, body, first_id, stored in db.execute(sql, keys)}


def add_counts(db: sqlite3.Connection, kinds: Mapping[MinuteKind, int], moment: int = 0) -> None:
    """Adds records by minute to the table of counts: to their minutes, hours and days.

    `moment` is the time of those without a minute.
    """
    rows: Counter[tuple[int, int, str, int]] = Counter()
    for (minute, service, severity), records in kinds.items():
        start = moment if minute is None else minute
        for span in SPANS:
            rows[span, start // span * span, service, severity] += records
    insert_rows(db, INSERT_COUNTS, [(*key, records) for key, records in rows.items()])


def select_parts(parts: list[Part], test: Callable[[Query], Sql]) -> Sql:
    """SQL for the records of all parts that pass a test: `where`, or `where_all`."""
    selects: list[str] = []
    values: list[Json] = []
    for source, query in parts:
        sql, some = test(query)
        selects.append(f"SELECT {COLUMNS} FROM {source} WHERE {sql}")
        values += some
    return " UNION ALL ".join(selects), values


def read_page(db: sqlite3.Connection, query: Query, parts: list[Part]) -> Page:
    """The first records of the parts of a query, and whether there are more.

    Each part comes from its index in the order of the query: SQLite merges them, and reads no
    further than LIMIT. The page ends early where the records are too long together.
    """
    selects, values = select_parts(parts, where_all)
    sql = f"{selects} ORDER BY {order_by(query)} LIMIT {query.limit + 1}"
    records: list[StoredRecord] = []
    chars = 0
    most_chars = STREAM_CHARS if query.is_stream else PAGE_CHARS
    for record in map(StoredRecord._make, db.execute(sql, values)):
        if len(records) == query.limit or chars > most_chars:  # There is no room for this one.
            return records, True
        chars += len(record.message) + len(record.attributes)
        records.append(record)
    return records, False


# -------- 8b. The file *
# The core uses `prepare_file`, `check_place`, `connect_writer`, `Readers`, `explain` and
# `name_of`. They open and protect the database, and say what an error of SQLite means.

SCHEMA = pathlib.Path(__file__).with_name("schema.sql")
APPLICATION_ID = 0x4C4F4753  # As schema.sql sets it.
SCHEMA_VERSION = 2
PAGE_BYTES = 4096  # Of SQLite's pages.


def prepare_file(path: pathlib.Path) -> None:
    """Makes an empty file where none is. Raises StartError where the file can't be the store."""
    if sqlite3.sqlite_version_info < (3, 38):  # For STRICT tables and the operator "->".
        raise StartError(f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or newer is needed")
    if path.exists() and not path.is_file():
        raise StartError(f"{path}: is no file; name another")
    check_file(path)
    SCHEMA.stat()  # Without it, no file is made.
    os.close(os.open(path, os.O_CREAT, 0o600))  # Only its owner may read a new one.


def check_file(path: pathlib.Path) -> None:
    """Raises StartError where a file is there that can't be the store. It only reads.

    It reads the header by hand (https://www.sqlite.org/fileformat.html#the_database_header):
    SQLite would make files beside a database that is not ours.
    """
    wal = path.with_name(f"{path.name}-wal")
    # Looked at before the file: another server that starts now may make the file and then its WAL.
    has_wal = wal.exists() and wal.stat().st_size
    head = b""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        head = file.read(100)
    if not head and has_wal:
        raise StartError(
            f"{wal}: holds records of a database that is not beside it; put {path.name} back,"
            " or move this file away too"
        )
    is_database = head.startswith(b"SQLite format 3\0")
    pages, cookie, version, application_id = (
        int.from_bytes(head[start : start + 4], "big") for start in (28, 40, 60, 68)
    )
    # The cookie counts the changes of a schema. At 0, a first start that was killed left the file.
    if not head or (is_database and application_id == cookie == 0):
        return
    if not is_database or application_id != APPLICATION_ID:
        raise StartError(f"{path}: is not a database of this server; name another file")
    if version == 1:
        raise StartError(
            f"{path}: has schema version 1; start the old server on it, name another file here, and"
            " carry its records over with a shipper's token T: curl 'OLD/logs?limit=0&order=asc&"
            "format=ndjson' | split -l 5000 --filter=\"curl -f -H 'Authorization: Token T'"
            ' --data-binary @- NEW/logs"'
        )
    if version != SCHEMA_VERSION:
        raise StartError(f"{path}: has schema version {version}, not {SCHEMA_VERSION}")
    # A WAL may have the rest. A journal is from a first start that was killed: SQLite undoes it.
    is_recoverable = wal.exists() or path.with_name(f"{path.name}-journal").exists()
    whole = pages * PAGE_BYTES
    if path.stat().st_size < whole and not is_recoverable:
        raise StartError(f"{path}: is cut short, it should have {whole:,} bytes; copy it again")


def check_place(path: pathlib.Path, inode: int) -> None:
    """Raises Unavailable where the file was moved or deleted: SQLite would go on writing to it."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            return
    hint = "Put it back or start the server again; nothing was stored."
    raise Unavailable("The database file is not where it was.", hint)


def connect(path: pathlib.Path, mode: str, cached_statements: int) -> sqlite3.Connection:
    """A connection to the file. `mode` is "ro" or "rw"."""
    db = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        timeout=LOCK_SECONDS,
        isolation_level=None,  # Transactions begin where the code says so.
        check_same_thread=False,  # Connections are lent from thread to thread.
        cached_statements=cached_statements,
        uri=True,
    )
    db.create_function("fold", 1, str.casefold, deterministic=True)
    db.create_function("member", 2, json_member, deterministic=True)
    return db


class Readers:
    """The connections that only read. Each query borrows one, and gives it back."""

    def __init__(self, path: pathlib.Path):
        # Slow queries share connections of their own, so that all others find a free one soon.
        self._free: dict[bool, list[sqlite3.Connection]] = {False: [], True: []}
        for is_slow in [False] * READERS + [True] * SLOW_READERS:
            # sqlite3 caches few statements of each: clients can send ever more different ones.
            self._free[is_slow].append(connect(path, "ro", cached_statements=8))
        # The queries under way: for each its deadline, the thread that asks, and whose share it
        # counts in: the client, and whether it is slow.
        self._queries: dict[sqlite3.Connection, tuple[float, int, tuple[str, bool]]] = {}
        self._changed = threading.Condition()  # It guards both.
        self.gone: set[int] = set()  # Threads whose client had left when `stop` looked last.
        self.closing = False
        self.may_begin = threading.Event()  # Chapter 10 clears it while the WAL is too large.
        self.may_begin.set()

    @contextlib.contextmanager
    def lend(
        self, is_slow: bool = False, client: str = "", thread: int = 0
    ) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: all that it reads is of one moment.

        A client that is named has only a share of them. A thread of `search` gives the `thread` of
        the request that it reads for. Raises Unavailable, past the deadline too.
        """
        free = self._free[is_slow]
        most = SCANNERS if is_slow else READERS - 2  # Of one client: some are left for others.

        def has_room() -> bool:
            shares = [share for _, _, share in self._queries.values()]
            is_over = client and shares.count((client, is_slow)) >= most
            return self.closing or bool(free and not is_over)

        self.may_begin.wait(QUERY_SECONDS)  # After that it reads anyway.
        with self._changed:
            if not self._changed.wait_for(has_room, QUERY_SECONDS):
                raise Unavailable("Too many queries are under way, of this client or of all.")
            if self.closing:
                raise Unavailable("The server is stopping.")
            db = free.pop()
            deadline = time.monotonic() + QUERY_SECONDS
            self._queries[db] = deadline, thread or threading.get_ident(), (client, is_slow)
        try:
            with db:  # It ends the transaction.
                db.execute("BEGIN")
                yield db
        except sqlite3.DatabaseError as error:
            raise explain(error) from error
        finally:
            with self._changed:
                del self._queries[db]
                free.append(db)
                self._changed.notify_all()

    def stop(self, gone: set[int]) -> None:
        """Stops queries that are past their deadline, and those of threads whose client left."""
        self.gone = gone
        with self._changed:
            for db, (deadline, thread, _) in self._queries.items():
                if deadline < time.monotonic() or thread in gone:
                    db.interrupt()

    def wait_until_idle(self) -> None:
        """Waits until no query is under way, for QUERY_SECONDS at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queries, QUERY_SECONDS)

    def close(self) -> None:
        """Stops the queries under way, and closes the connections that are back in a second."""
        self.may_begin.set()
        with self._changed:
            self.closing = True
            self._changed.notify_all()
            deadline = time.monotonic() + 1
            while self._queries and time.monotonic() < deadline:
                for db in self._queries:
                    db.interrupt()  # Again and again: it may be between two statements.
                self._changed.wait(0.02)
            for db in self._free[False] + self._free[True]:
                db.close()


def connect_writer(path: pathlib.Path) -> sqlite3.Connection:
    """The connection that writes. It waits while another server makes the same new file."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        db = connect(path, "rw", cached_statements=64)
        try:
            prepare_writer(db)
            return db
        except sqlite3.Error as error:
            db.close()  # It may hold a lock.
            # BUSY: the file is locked. ERROR: another server made the tables at the same moment.
            is_passing = name_of(error).startswith(("SQLITE_BUSY", "SQLITE_ERROR"))
            if not is_passing or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def prepare_writer(db: sqlite3.Connection) -> None:
    """Makes a new file by schema.sql, and sets how its connection writes."""
    if db.execute("PRAGMA user_version").fetchone() == (0,):
        db.executescript(SCHEMA.read_text(encoding="utf-8"))  # SQLite syncs the folder too.
    for table in ("logs", "counts", "keys"):  # A broken file is found before a change.
        db.execute(f"SELECT 1 FROM {table} LIMIT 1")
    # In WAL mode, readers and the writer do not wait for each other.
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise sqlite3.OperationalError("this file system has no WAL mode")
    db.execute("PRAGMA synchronous = FULL")  # An fsync for each commit, as a 200 promises.
    db.execute("PRAGMA wal_autocheckpoint = 4000")  # Pages, 16 MB: fewer checkpoints.
    db.execute("PRAGMA journal_size_limit = 67108864")  # Bytes of the WAL after a checkpoint.
    db.execute("PRAGMA cache_size = -16384")  # KiB: the ends of the indexes stay in memory.
    db.set_authorizer(authorize)


def authorize(action: int, name: str | None, column: str | None, *_: str | None) -> int:
    """What the writing connection may do: read, insert, count, and delete as retention does.

    SQLite asks when it prepares a statement (https://www.sqlite.org/c3ref/set_authorizer.html).
    So no fault of the server can alter a record or drop a table.
    """
    always = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
    tables = ("logs", "counts", "keys")
    pragmas = ("page_count", "freelist_count", "incremental_vacuum", "wal_checkpoint")
    allowed = (
        action in (*always, sqlite3.SQLITE_TRANSACTION)
        or (action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE) and name in tables)
        or (action == sqlite3.SQLITE_UPDATE and (name, column) == ("counts", "records"))
        or (action == sqlite3.SQLITE_PRAGMA and name in pragmas)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def name_of(error: sqlite3.Error) -> str:
    """SQLite's name of an error, "SQLITE_BUSY" for example. What sqlite3 raises itself has none."""
    return getattr(error, "sqlite_errorname", "")


def explain(error: sqlite3.DatabaseError) -> Exception:
    """What to raise for an error of SQLite: Unavailable, or the error where we are at fault."""
    # Other classes, IntegrityError for example, are faults of this program.
    if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
        return error
    if name_of(error) == "SQLITE_INTERRUPT":
        return query_stopped()
    return Unavailable(f"The database says: {error}.")


def query_stopped() -> Unavailable:
    """The error of a query that is past its deadline, or whose client left."""
    error = f"The query took longer than {QUERY_SECONDS} s, or its client left: it was stopped."
    return Unavailable(error, "Narrow it with timestamp_start, service or severity.")


# -------- 8c. Plans and searches *
# The core uses `where_all`, `search` and `merge_pages`. `where_all` is `where` with the tests of
# texts and attributes. `search` makes the parts of a query with `plan`, and calls a function with
# them.

# The table of records with the index to use: SQLite's planner has no statistics to choose by.
BY_ID = "logs NOT INDEXED"  # In the order of the table.
BY_TIME = "logs INDEXED BY logs_by_time"
BY_KIND = "logs INDEXED BY logs_by_kind"
MAX_KINDS = 2_000  # Pairs of service and severity that one query looks up, each by its index.
KINDS_AT_ONCE = 200  # That one statement merges. SQLite takes 500.
NARROW_IDS = 20_000  # A range of at most so many ids is read whole.
SAMPLE_RECORDS = 100_000  # That are searched first, to know whether a text is rare.
INDEX_RECORDS = 1_000_000  # By an index, one reader may read so many of them for a page.


def kind_filters(query: Query) -> Query:
    """The same query with its filters on service and severity only."""
    return Query(
        severity=query.severity,
        min_severity=query.min_severity,
        service=query.service,
        not_service=query.not_service,
    )


def is_narrow(query: Query) -> bool:
    """Whether its range of ids is bounded on both sides, and so small that it is read whole."""
    if query.after is None or query.last_id is None:
        return False
    return query.last_id - query.after <= NARROW_IDS


def where_counts(query: Query) -> Sql:
    """The SQL test for the days in the table of counts that a query's time and kinds are in.

    For a time of a day or less it gives the hours.
    """
    test, values = where(kind_filters(query))
    start = MIN_TIMESTAMP if query.timestamp_start is None else query.timestamp_start
    end = MAX_TIMESTAMP if query.timestamp_end is None else query.timestamp_end
    span = HOUR if end - start <= DAY else DAY
    test = f"span = {span} AND start >= ? AND start <= ? AND {test}"
    return test, [start // span * span, end, *values]


def plan(db: sqlite3.Connection, query: Query) -> list[Part]:
    """The parts that together give what a query asks for, each by its index.

    With a filter on service or severity, each kind in the table of counts is a part: one stretch of
    logs_by_kind in the order of the page. A rare kind costs no more than a common one.
    """
    if query.by_id or is_narrow(query):
        return [(BY_ID, query)]
    if kind_filters(query) == Query():
        return [(BY_TIME, query)]
    test, values = where_counts(query)
    sql = f"SELECT DISTINCT service, severity FROM counts WHERE {test}"
    kinds = db.execute(sql, values).fetchall()
    if len(kinds) > MAX_KINDS:
        return [(BY_TIME, query)]
    query = dataclasses.replace(query, min_severity=None, not_service=())
    return [
        (BY_KIND, dataclasses.replace(query, service=(service,), severity=(severity,)))
        for service, severity in kinds
    ]


def where_all(query: Query) -> Sql:
    """The SQL test of all filters of a query, texts and attributes too, in SQLite."""
    test, values = where(query)
    found = [where_text(text) for text in query.contains]
    found += [where_attribute(*pair) for pair in query.attributes]
    excluded = [where_text(text) for text in query.not_contains]
    excluded += [where_attribute(*pair) for pair in query.not_attributes]
    # Not "NOT": the test of a missing attribute is NULL, and such a record is not left out.
    found += [(f"({part}) IS NOT TRUE", part_values) for part, part_values in excluded]
    for part, part_values in found:
        test += f" AND {part}"
        values += part_values
    return test, values


def where_text(text: str) -> Sql:
    """The SQL test for a text in a message, ignoring case. `connect` gives SQLite its "fold"."""
    # LIKE is fast, and leaves few messages. Of these, a function makes lower case, and instr looks
    # for the text in lower case. Three texts:
    #     text    LIKE      function  instr
    #     50%     %50\%%    lower     50%      A "%" of the text is no wildcard.
    #     CAFÉ    %CAF_%    fold      café     LIKE knows ASCII's case only: "_" is any letter.
    #     Straße  %Stra%e%  fold      strasse  `casefold` makes "ss" of "ß": "%" is any text.
    # LIKE stops at a NUL: a message with a NUL passes.
    pattern = re.sub(r"([%_\\])", r"\\\1", text)
    pattern = re.sub(r"[^\x01-\x7f]", lambda m: "%" if len(m[0].casefold()) > 1 else "_", pattern)
    fold = "lower" if text.isascii() else "fold"
    test = "(message LIKE ? ESCAPE '\\' OR instr(message, char(0)))"
    return f"{test} AND instr({fold}(message), ?) > 0", [f"%{pattern}%", text.casefold()]


def where_attribute(key: str, value: str) -> Sql:
    """The SQL test for an attribute: it is this text, or JSON that is written exactly like it."""
    path = f"$.{encode_json(key)}"
    has_path = bool(key) and path == f'$."{key}"'  # A key with a quote has no path in SQLite.
    test = "attributes -> ? IN (?, ?)" if has_path else "member(attributes, ?) IN (?, ?)"
    return test, [path if has_path else key, encode_json(value), value]


def json_member(attributes: str, key: str) -> str | None:
    """The JSON of one attribute, or None where it is missing."""
    values = json.loads(attributes)
    return encode_json(values[key]) if key in values else None


ID_RANGE = "SELECT ifnull((SELECT min(id) FROM logs), 1), ifnull((SELECT max(id) FROM logs), 0)"


def ids_within(db: sqlite3.Connection, query: Query) -> range:
    """The ids of the table, within the bounds that a query has on them."""
    low, high = db.execute(ID_RANGE).fetchone()
    last_id = high if query.last_id is None else min(high, query.last_id)
    return range(max(low, (query.after or 0) + 1), last_id + 1)


def by_receipt(db: sqlite3.Connection, query: Query) -> Query:
    """The same query with bounds on the id in place of those on received_at: both grow together."""
    start, end = query.received_at_start, query.received_at_end
    if start is None and end is None:
        return query

    def received_at(record_id: int) -> int:
        sql = "SELECT received_at FROM logs WHERE id >= ? ORDER BY id LIMIT 1"
        return int(db.execute(sql, [record_id]).fetchone()[0])

    ids = ids_within(db, query)
    begin = bisect.bisect_left(ids, start or 0, key=received_at)
    stop = len(ids) if end is None else bisect.bisect_right(ids, end, key=received_at)
    found = ids[begin:stop]
    query = dataclasses.replace(query, received_at_start=None, received_at_end=None)
    if found == ids:  # With bounds, `is_narrow` would let a small store be read whole.
        return query
    return dataclasses.replace(query, after=found.start - 1, last_id=found.stop - 1)


def needs_scan(db: sqlite3.Connection, query: Query) -> bool:
    """Whether all records are to be read for a query, side by side, on all processors.

    Where its kinds have less than a third of all records in its time, reading these by an index is
    faster than reading the whole table in its own order.
    """
    # Only `stats` has the limit 0 here: it counts all. A stream has pages of STREAM_RECORDS.
    if is_narrow(query) or (query.limit and not query.text_count):
        return False
    test, values = where_counts(query)
    sql = f"""
        SELECT (SELECT total(records) FROM counts WHERE {test}), total(records)
        FROM counts WHERE span = {DAY}
    """
    some, all_records = db.execute(sql, values).fetchone()
    if not 0 < all_records <= 3 * some:
        return False
    return not query.limit or finds_few(db, query)


def finds_few(db: sqlite3.Connection, query: Query) -> bool:
    """Whether so few of a sample have the texts that INDEX_RECORDS would not fill the page.

    The sample is the first SAMPLE_RECORDS, in the query's order, that pass all tests but texts; of
    many kinds, those of some.
    """
    sample, sample_values = select_parts(plan(db, query)[:KINDS_AT_ONCE], where)
    test, values = where_all(query)
    enough = max(query.limit * SAMPLE_RECORDS // INDEX_RECORDS, 1)
    sql = f"""
        SELECT count(*) FROM (
            SELECT 1 FROM ({sample} ORDER BY {order_by(query)} LIMIT {SAMPLE_RECORDS})
            WHERE {test} LIMIT {enough})
    """
    [found] = db.execute(sql, sample_values + values).fetchone()
    return bool(found < enough)


def read_by_indexes(
    db: sqlite3.Connection, query: Query, work: Callable[[sqlite3.Connection, list[Part]], Any]
) -> list[Any]:
    """Calls `work` with the parts of a query, so many at a time as fit in a statement."""
    # Each kind repeats the tests of all texts: the more texts, the fewer kinds fit in a statement.
    most = max(KINDS_AT_ONCE // (1 + query.text_count), 1)
    parts = plan(db, query)
    return [work(db, parts[start : start + most]) for start in range(0, len(parts), most)]


def search(
    store: SQLiteRecords, query: Query, work: Callable[[sqlite3.Connection, list[Part]], Any]
) -> list[Any]:
    """Calls `work` for a query by its indexes, most often once, or for each stretch of the table.

    Gives the results. Stretches are read side by side: SQLite gives up the GIL while it reads. Each
    is a transaction of its own: no newer record is among the ids, but a deletion may show.
    """
    is_slow = query.text_count > 0 or query.limit == 0  # The limit 0: all are counted.
    with store.readers.lend(is_slow, query.client) as db:
        query = by_receipt(db, query)
        if not needs_scan(db, query):
            return read_by_indexes(db, query, work)
        ids = ids_within(db, query)
    # The connection is given back before each thread borrows one: else two queries could block.
    length = len(ids) // SCANNERS + 1
    asking = threading.get_ident()

    def read_stretch(start: int) -> Any:
        some = ids[start : start + length]
        stretch = dataclasses.replace(query, after=some[0] - 1, last_id=some[-1])
        with store.readers.lend(is_slow=True, client=query.client, thread=asking) as db:
            return work(db, [(BY_ID, stretch)])

    with concurrent.futures.ThreadPoolExecutor(SCANNERS) as pool:
        return list(pool.map(read_stretch, range(0, len(ids), length)))


def merge_pages(query: Query, pages: list[Page]) -> Page:
    """The first records of several pages, in order.

    Where a page has more, what follows its last record is unknown: there the merge ends.
    """
    if len(pages) == 1:
        return pages[0]
    found = itertools.chain.from_iterable(records for records, _ in pages)
    key = operator.attrgetter("timestamp", "id")
    merged = sorted(found, key=key, reverse=query.order == "desc")
    ends = [records[-1] for records, more in pages if more]
    for count, record in enumerate(merged, 1):
        if record in ends or (count == query.limit and count < len(merged)):
            return merged[:count], True
    return merged, False


# -------- 8d. Followers *
# The core uses `follow`: it gives records as they are committed, none twice and none left out.


def follow(store: SQLiteRecords, query: Query) -> Iterator[list[StoredRecord]]:
    """`Store.follow` for SQLite. Raises BadQuery for an `after` that is not given yet.

    Ids grow with the commits: when the newest is seen, no smaller one can still come.
    """
    newest = store.newest()
    seen = query.after or 0
    if seen > newest:
        raise BadQuery(f"No record has the id {seen} yet.", "Give the id of the last record.")
    if query.after is None and query.limit:
        seen = newest
        # The newest by id. With a filter the newest by time: no index has it in the order of ids.
        by_id = where_all(query) == where_all(Query())
        recent, _ = store.page(dataclasses.replace(query, by_id=by_id, last_id=seen))
        yield sorted(recent)  # By id, with which a record begins.
    query = dataclasses.replace(query, by_id=True, order="asc", limit=STREAM_RECORDS)
    while True:
        records: list[StoredRecord] = []
        pause = FOLLOW_SECONDS
        with contextlib.suppress(Unavailable):  # Too many queries: it looks again later.
            newest = store.newest()
            last_id = min(newest, seen + NARROW_IDS)
            if seen < last_id:
                stretch = dataclasses.replace(query, after=seen, last_id=last_id, is_stream=True)
                records, more = store.page(stretch)
                seen = records[-1].id if more else last_id
                if seen < newest:
                    pause = 0
                elif not records:  # Each commit wakes all followers: most find nothing.
                    pause = IDLE_FOLLOW_SECONDS
        yield records  # Perhaps none: a heartbeat may be due.
        time.sleep(pause)  # Else each record of a rush would be sent alone.
        if seen >= newest:
            store.wait_for_news(seen)


# -------- 9. Counts *
# The core uses nothing of this chapter: `SQLiteStore.stats` (10) does. The table of counts holds
# how many records each minute, hour and day has, by service and severity. So a query by time,
# service and severity reads an index only for the part of a minute at each end of its time.

# A range of time: the length of the spans that make it up, its start and its end (exclusive). The
# length 1 means that no span fits: then the records of the range are counted by an index.
Range = tuple[int, int, int]
LENGTHS = (*SPANS, 1)


@dataclasses.dataclass
class Stats:
    """What a store counts."""

    kinds: Counter[tuple[str, int]]  # Records by service and severity.
    first: int | None = None  # The least and the greatest timestamp.
    last: int | None = None
    # For each step that holds records: their number by severity, DEBUG first.
    steps: dict[int, list[int]] = dataclasses.field(default_factory=dict)

    def add(self, other: Stats) -> None:
        """Adds what was counted of other records. Raises TooManySteps."""
        self.kinds.update(other.kinds)
        self.first = min((n for n in (self.first, other.first) if n is not None), default=None)
        self.last = max((n for n in (self.last, other.last) if n is not None), default=None)
        self.add_steps((begin, *numbers) for begin, numbers in other.steps.items())

    def add_steps(self, rows: Iterable[tuple[int, ...]]) -> None:
        """Adds rows of a step's begin and its numbers by severity. Raises TooManySteps."""
        for begin, *numbers in rows:
            known = self.steps.get(begin, [0] * len(SEVERITIES))
            # SQL's sum of no rows is NULL.
            self.steps[begin] = [a + (b or 0) for a, b in zip(known, numbers, strict=True)]
            if len(self.steps) > MAX_STEPS:
                raise TooManySteps


def cut_into_ranges(start: int, end: int, lengths: Sequence[int]) -> Iterator[Range]:
    """Cuts a time into ranges of whole spans: of the longest that fit, and shorter at its ends.

    >>> list(cut_into_ranges(50, 3700, [3600, 60, 1]))
    [(60, 60, 3660), (1, 50, 60), (1, 3660, 3700)]
    """
    if start >= end:
        return
    length, *shorter = lengths
    first = -(-start // length) * length
    last = end // length * length
    if first < last:
        yield length, first, last
    else:
        first = last = end  # No span of this length fits.
    yield from cut_into_ranges(start, first, shorter)
    yield from cut_into_ranges(last, end, shorter)


def step_of(column: str, step: int) -> str:
    """The start of the step that a column's time is in, in SQL.

    Before 1970 "%" is negative. Adding a multiple of the step makes it positive. Without CAST,
    ClickHouse would take the step for a number of another size.
    """
    shift = -(MIN_TIMESTAMP // step) * step
    return f"{column} - ({column} + {shift}) % CAST({step} AS BIGINT)"


def count_by_ranges(db: sqlite3.Connection, query: Query, step: int | None) -> Stats:
    """Counts by the table of counts, and by an index at the ends. Raises TooManySteps."""
    start = MIN_TIMESTAMP if query.timestamp_start is None else query.timestamp_start
    end = MAX_TIMESTAMP if query.timestamp_end is None else query.timestamp_end
    stats = Stats(Counter())
    for length, first, last in cut_into_ranges(start, end + 1, LENGTHS):
        rows, values = select_range(query, length, first, last)
        sql = f"SELECT service, severity, sum(records) FROM ({rows}) GROUP BY 1, 2"
        for service, severity, records in db.execute(sql, values):
            stats.kinds[service, severity] += records
    ends = [record.timestamp for record in read_end(db, query, "asc") + read_end(db, query, "desc")]
    if not ends:  # Another program may have deleted what is counted.
        return stats
    stats.first, stats.last = ends
    if step:
        lengths = [length for length in LENGTHS if step % length == 0]  # No span is in two steps.
        sums = [f"sum(records) FILTER (WHERE severity = {n})" for n in SEVERITY_NAMES]
        for length, start, end in cut_into_ranges(ends[0], ends[1] + 1, lengths):
            rows, values = select_range(query, length, start, end)
            # Where a span is a step, its rows are in order already: SQLite need not sort them.
            begin = "time" if length == step else step_of("time", step)
            sql = f"SELECT {begin}, {', '.join(sums)} FROM ({rows}) GROUP BY 1"
            stats.add_steps(db.execute(sql, values))
    return stats


def read_end(db: sqlite3.Connection, query: Query, order: str) -> list[StoredRecord]:
    """The first record that a query finds in this order, or none."""
    query = dataclasses.replace(query, limit=1, order=order)
    pages = read_by_indexes(db, query, lambda db, parts: read_page(db, query, parts))
    return merge_pages(query, pages)[0]


def select_range(query: Query, length: int, start: int, end: int) -> Sql:
    """SQL for what a query finds in a range. A row has time, service, severity, number of records.

    For the length 1, it reads the index of each kind, which has all that is asked for: no record is
    read. (CROSS JOIN makes SQLite begin with the kinds.)
    """
    test, kinds = where(kind_filters(query))
    if length > 1:
        sql = f"""
            SELECT start AS time, service, severity, records FROM counts
            WHERE span = ? AND start >= ? AND start < ? AND {test}
        """
        return sql, [length, start, end, *kinds]
    sql = f"""
        SELECT timestamp AS time, service, severity, 1 AS records FROM (
            SELECT DISTINCT service, severity FROM counts
            WHERE span = ? AND start >= ? AND start < ? AND {test})
        CROSS JOIN logs INDEXED BY logs_by_kind USING (service, severity)
        WHERE timestamp >= ? AND timestamp <= ?
    """
    return sql, [DAY, start // DAY * DAY, end, *kinds, start, end - 1]


def count_records(db: sqlite3.Connection, parts: list[Part], step: int | None) -> Stats:
    """Counts the records of the parts of a query by reading them once. Raises TooManySteps."""
    stats = Stats(Counter())
    begin = step_of("timestamp", step) if step else "0"
    for table, part in parts:
        test, values = where_all(part)
        sql = f"""
            SELECT {begin}, service, severity, count(*), min(timestamp), max(timestamp)
            FROM {table} WHERE {test} GROUP BY 1, 2, 3
        """
        for start, service, severity, records, first, last in db.execute(sql, values):
            some = Stats(Counter({(service, severity): records}), first, last)
            if step:
                some.steps[start] = [records * (severity == n) for n in SEVERITY_NAMES]
            stats.add(some)
    return stats


# -------- 10. Retention *
# The core uses nothing of this chapter: main makes its `SQLiteStore`.

UPKEEP_SECONDS = 1.0  # Between two looks, while the files are much smaller than they may be.
FULL_UPKEEP_SECONDS = 0.05  # When they are almost as large. Writers wait for each look.
GROWTH = 64 << 20  # Bytes that come in a second, at most.
UPKEEP_RECORDS = 2_000  # One step deletes so many, so that no writer waits long.
WAL_PAUSE_SECONDS = 30  # After a checkpoint that could not end, since another process reads.
SPARE_PAGES = 1_000  # Free pages that stay in the file for the next records.
JUMP_SECONDS = 3600  # A clock that jumped ahead and stayed there for so long is believed.
AGE_NOTES = 10_000  # So many notes are kept for max_age_days: for 30 days, one each 4 minutes.
# Of the oldest keys that came before a moment, those whose records all have ids up to a given one.
DELETE_KEYS = """
DELETE FROM keys WHERE first_id + records - 1 <= ?
AND key IN (SELECT key FROM keys WHERE created_at < ? ORDER BY created_at LIMIT ?)
"""


class SQLiteStore(SQLiteRecords):
    """The whole SQLite store: records, statistics, and a thread that deletes what is old.

    The clock of the system can be wrong, and can be set right later. Of records that were there at
    the start, received_at tells the age, and a jump of the clock ahead is not believed for an hour.
    Of records that came later, notes tell it, without that clock. A note is a moment of the
    monotonic clock and the newest id at that moment: when it is older than max_age_days, all ids up
    to it are too old.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        self._clock = (now(), time.monotonic())  # When the two clocks agreed last.
        self._notes: deque[tuple[float, int]] = deque()
        self._old_id = 0  # All ids up to it are too old by the notes.
        self._start_id = 0  # The newest id when the first note was made.
        self._wal_pause_until = 0.0  # By the monotonic clock.
        threading.Thread(target=self.upkeep, daemon=True).start()

    def upkeep(self) -> None:
        """Deletes, in small steps, what is older or larger than the configuration allows."""
        while not self.readers.closing:
            try:
                pause = 0.01  # Writers take their turn.
                if not self.upkeep_step():
                    room = 0.9 * self.most_bytes() - self.size()
                    pause = min(max(room / GROWTH, FULL_UPKEEP_SECONDS), UPKEEP_SECONDS)
            except Exception as error:  # The next try may succeed.
                if not self.readers.closing:  # `close` takes the files away in the middle of it.
                    log.error("retention: %s", error)
                pause = 1
            time.sleep(pause)

    def upkeep_step(self) -> bool:
        """One step. It gives whether there may be more to do. Raises Unavailable, sqlite3.Error."""
        moment = self.steady_now()
        most_bytes = self.most_bytes()
        most_wal_bytes = min(MAX_WAL_BYTES, most_bytes / 8)
        self.bound_wal(most_wal_bytes)
        with self.transaction() as db:
            [pages] = db.execute("PRAGMA page_count").fetchone()
            [free] = db.execute("PRAGMA freelist_count").fetchone()
            low, high = db.execute(ID_RANGE).fetchone()
            most_id = low + UPKEEP_RECORDS - 1
            last_id = self.last_old_id(db, moment, most_id)
            used_bytes = (pages - free) * PAGE_BYTES
            excess = used_bytes - 0.95 * (most_bytes - most_wal_bytes)  # 5 % stay for a rush.
            keys = [MAX_ID, moment - KEY_LIFETIME]  # All that are too old.
            if excess > 0:  # The oldest records go, with all keys that have no record left.
                last_id = max(last_id, min(most_id, low + int(excess / used_bytes * (high - low))))
                keys = [last_id if high else MAX_ID, MAX_TIMESTAMP]
            deleted = delete_where(db, "id <= ?", [last_id])
            deleted += db.execute(DELETE_KEYS, [*keys, UPKEEP_RECORDS]).rowcount
        has_spare = free > SPARE_PAGES or (free > 0 and pages * PAGE_BYTES > most_bytes)
        with self._write_lock:
            if has_spare:  # executescript runs all steps of it; execute would take the first.
                self._db.executescript("PRAGMA incremental_vacuum(500)")
            elif self.path.stat().st_size > pages * PAGE_BYTES:
                # The file is shorter in the WAL only. This moves it, and waits for no reader.
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return bool(deleted) or has_spare

    def most_bytes(self) -> float:
        """How large the files may be."""
        return (self.config.max_size_mb or float("inf")) * (1 << 20)

    def last_old_id(self, db: sqlite3.Connection, moment: int, most_id: int) -> int:
        """The last id, up to `most_id`, whose record is older than max_age_days; or 0."""
        if self.config.max_age_days is None:
            return 0
        age = self.config.max_age_days * DAY
        seconds = age / SECOND
        clock = time.monotonic()
        newest, _ = db.execute(LAST_RECORD).fetchone()
        if not self._notes:
            self._start_id = newest
        if not self._notes or clock - self._notes[-1][0] > seconds / AGE_NOTES:
            self._notes.append((clock, newest))
        while clock - self._notes[0][0] > seconds:  # The last one is never so old: it stays.
            _, self._old_id = self._notes.popleft()
        sql = "SELECT ifnull(max(id), 0) FROM logs NOT INDEXED WHERE id <= ? AND received_at < ?"
        values = [min(self._start_id, most_id), int(max(moment - age, 0))]
        [last_id] = db.execute(sql, values).fetchone()
        return max(last_id, min(self._old_id, most_id))

    def steady_now(self) -> int:
        """The present moment, for deleting by age: a jump ahead counts after JUMP_SECONDS only."""
        moment, clock = now(), time.monotonic()
        agreed, agreed_clock = self._clock
        expected = agreed + int((clock - agreed_clock) * SECOND)
        if abs(moment - expected) >= MINUTE and clock - agreed_clock < JUMP_SECONDS:
            return min(moment, expected)
        self._clock = moment, clock
        return moment

    def bound_wal(self, most_bytes: float) -> None:
        """Makes queries wait, where the WAL is too large, until all of it is in the file.

        Queries that overlap without end would let it grow without end. Raises sqlite3.Error.
        """
        wal = pathlib.Path(f"{self.path}-wal")
        if not wal.exists() or wal.stat().st_size < most_bytes:
            self.warning = ""
            return
        if time.monotonic() < self._wal_pause_until:
            return
        self.readers.may_begin.clear()
        try:
            self.readers.wait_until_idle()
            with self._write_lock:  # TRUNCATE waits for readers: LOCK_SECONDS at most.
                [is_busy, *_] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self.readers.may_begin.set()
        if is_busy:  # Another process reads: each try keeps the writers waiting.
            megabytes = wal.stat().st_size >> 20
            self.warning = f"The WAL has {megabytes} MiB: another process reads and holds it."
            log.error("%s", self.warning)
            self._wal_pause_until = time.monotonic() + WAL_PAUSE_SECONDS

    def delete(self, query: Query) -> int:
        deleted = 0
        thread = threading.get_ident()
        self.readers.gone.discard(thread)  # An ended thread can have had the same number.
        for records in self.stream(query):
            if thread in self.readers.gone:
                raise query_stopped()
            marks = ", ".join("?" * len(records))
            with self.transaction() as db:
                deleted += delete_where(db, f"id IN ({marks})", [record.id for record in records])
        return deleted

    def stats(self, query: Query, step: int | None = None) -> Stats:
        received = (query.received_at_start, query.received_at_end)
        if not query.text_count and received == (None, None):
            # The table of counts has no time shorter than a minute: there an index is read.
            is_slow = bool(step and step % MINUTE)
            with self.readers.lend(is_slow, query.client) as db:
                return count_by_ranges(db, query, step)
        stats = Stats(Counter())
        query = dataclasses.replace(query, limit=0)  # All are counted.
        for some in search(self, query, lambda db, parts: count_records(db, parts, step)):
            stats.add(some)
        return stats

    def probe(self) -> None:
        """Writes a key that no client can send: only a write finds a full disk."""
        with self.transaction() as db:
            db.execute("REPLACE INTO keys VALUES (x'', x'', 0, 0, ?)", [now()])

    def size(self) -> int:
        files = [pathlib.Path(f"{self.path}{end}") for end in ("", "-wal", "-shm")]
        return sum(file.stat().st_size for file in files if file.exists())


def delete_where(db: sqlite3.Connection, test: str, values: list[int]) -> int:
    """Deletes records and takes them off the counts. Gives how many they were."""
    kinds = count_minutes(db, test, values)
    if kinds:
        db.execute(f"DELETE FROM logs NOT INDEXED WHERE {test}", values)
        add_counts(db, {kind: -records for kind, records in kinds.items()})
        db.execute("DELETE FROM counts WHERE records <= 0")
    return sum(kinds.values())


def count_minutes(db: sqlite3.Connection, test: str, values: list[int]) -> dict[MinuteKind, int]:
    """How many records each minute, service and severity has, by reading them."""
    sql = f"""
        SELECT {step_of("timestamp", MINUTE)}, service, severity, count(*)
        FROM logs NOT INDEXED WHERE {test} GROUP BY 1, 2, 3
    """
    return {tuple(kind): records for *kind, records in db.execute(sql, values)}


# -------- 11. Endpoints


class Request(NamedTuple):
    """One request. Its body is still to be read."""

    method: str
    path: str  # Percent-decoded.
    query_string: str  # What follows "?".
    version: str  # "HTTP/1.0" or "HTTP/1.1".
    # Names in lower case. Never change it: `parse_cached_head` gives the same object again for the
    # same head.
    headers: Mapping[str, str]
    body_length: int | None  # None: the body comes in chunks.
    # Reads the body. `Shares` counts the bytes of the body as those of this client: the argument is
    # the secret of a token. Raises Refusal. The handler sets it, for each request anew.
    read_body: Callable[[str], bytes] = lambda client: b""
    address: str = ""  # Of the client.


class Response(NamedTuple):
    """One answer. It has a body, or pieces that are sent as they are made."""

    status: int
    body: bytes = b""
    pieces: Iterator[bytes] | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class HTTPRefusal(Refusal):
    """A refusal with a status of its own. `headers` go into the answer."""

    def __init__(self, status: int, error: str, hint: str, headers: Mapping[str, str] = {}):
        super().__init__(error, hint)
        self.status = status
        self.headers = headers


# The status of each refusal, and headers for its answer.
STATUSES: dict[type[Refusal], tuple[int, Mapping[str, str]]] = {
    BadQuery: (400, {}),
    TooManySteps: (400, {}),
    TooLarge: (413, {}),
    Unsupported: (415, {"Accept-Encoding": "gzip, deflate"}),
    BadBody: (422, {}),
    KeyReused: (422, {}),
    Unavailable: (503, {"Retry-After": str(RETRY_SECONDS)}),
}


def json_response(status: int, body: Json, headers: Mapping[str, str] = {}) -> Response:
    """An answer in JSON, on one line."""
    return Response(status, encode_json(body).encode() + b"\n", headers=headers)


def refusal_response(refusal: Refusal) -> Response:
    """The answer to a request that is not carried out."""
    body = {"error": refusal.error, "hint": refusal.hint, **refusal.details}
    if isinstance(refusal, HTTPRefusal):
        return json_response(refusal.status, body, refusal.headers)
    status, headers = STATUSES[type(refusal)]
    return json_response(status, body, headers)


class App:
    """The endpoints. It knows neither sockets nor SQL.

    ROUTES, after the class, says which method of which path each of them serves. GET / shows the
    first line of each one's docstring.
    """

    def __init__(self, config: Config, store: Store):
        self.config = config  # SIGHUP replaces it.
        self.store = store
        self.committer = Committer(store.write)
        self.metrics = Metrics()
        self.shares = Shares()
        self.started_at = time.time()  # Seconds since 1970.
        self.stopping = threading.Event()  # `stop` sets it: followers end.
        self.health = Health(store)

    def respond(self, request: Request) -> Response:
        """The answer to a request. All errors become answers, except ConnectionError."""
        path = find_path(request.path)
        try:
            endpoint = self.find_endpoint(request, path)
            response = endpoint(self, request)
        except Refusal as refusal:
            response = refusal_response(refusal)
        except ConnectionError:
            raise
        except Exception:
            log.exception("unexpected error in %s %s", request.method, shorten(request.path))
            mistake = HTTPRefusal(500, "The server made a mistake.", "See its log.")
            response = refusal_response(mistake)
        labels = {"endpoint": path or "other", "status": str(response.status)}
        self.metrics.add("logs_http_requests_total", 1, labels)
        return response

    def find_endpoint(self, request: Request, path: str | None) -> Endpoint:
        """The endpoint of a request; `path` is its key in ROUTES. Raises HTTPRefusal."""
        methods = ROUTES.get(path or "", {})
        asked = request.headers.get("access-control-request-method")
        if request.method == "OPTIONS" and asked == "POST" and "POST" in methods:
            return answer_preflight
        if self.config.reading_is_open:
            check_origin(self.config, request)  # It keeps out pages of other sites.
        if not path:
            hint = f"There are {', '.join(ROUTES)}."
            raise HTTPRefusal(404, f"There is nothing at {shorten(request.path)}.", hint)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            error = f"{path} does not take {shorten(request.method)}."
            raise HTTPRefusal(405, error, f"It takes {allowed}.", {"Allow": allowed})
        return methods[method]

    def authenticate(self, request: Request, *roles: str) -> Token:
        """Whose token a request has (RFC 9110, section 11.4). Raises HTTPRefusal: 401."""
        given = request.headers.get("authorization", "")
        token = self.config.find_token(secret_of(given), *roles)
        if token:
            return token
        if given:
            self.shares.note_refused(request.address, request.path)
        raise unauthorized(given, roles)

    def check_reader(self, request: Request) -> str:
        """Who reads: a token's secret, or an address while reading is open. Raises HTTPRefusal."""
        if self.config.reading_is_open:
            return request.address
        return self.authenticate(request, "read").secret

    # Writing

    def post_logs(self, request: Request) -> Response:
        """Takes records: JSON, forms or lines of text."""
        refuse_parameters(request)
        content_type = request.headers.get("content-type", "")
        split = functools.partial(split_logs, content_type=content_type)
        parsed, batch = self.store_body(request, split, parse_record)
        return json_response(200, batch_answer(parsed, batch), replayed_header(batch))

    def store_body(self, request: Request, split: Split, parse: Parse) -> tuple[Parsed, Batch]:
        """Stores the records in a body, and returns when they are on disk. Raises Refusal."""
        token = self.authenticate(request, "service", "shipper")
        rate = self.config.max_records_per_second
        self.shares.check_rate(token, rate)
        key = idempotency_key(request)
        body = request.read_body(token.secret)
        is_large = len(body) > LARGE_BODY_BYTES
        slot = self.shares.large_body_slot(token.secret) if is_large else contextlib.nullcontext()
        with slot:
            parsed = read_records(split(body), token, parse)
        body_hash = hashlib.sha256(body).digest() if key else b""
        key = hashlib.sha256(token.secret.encode() + b"\0" + key).digest() if key else b""
        batch = Batch(parsed.records, key, body_hash)
        del body  # Its memory is free while the batch waits for its commit.
        if batch.records:
            is_short = len(batch.records) <= SHORT_BATCH_RECORDS
            place = contextlib.nullcontext() if is_short else self.shares.commit_place(token.secret)
            with place:
                self.committer.commit(batch)
            if not batch.replayed:
                self.shares.spend(token, len(batch.records), rate)
        self.metrics.count(token, parsed, batch)
        # A body of OTLP may hold no record at all. That is no error.
        if parsed.rejected and not batch.records:
            raise nothing_stored(parsed, batch)
        return parsed, batch

    # Reading

    def get_logs(self, request: Request) -> Response:
        """Gives records, page by page, all, or as they come."""
        client = self.check_reader(request)
        values = parse_query_string(request.query_string, LIST_PARAMETERS)
        follow = values.pop("follow", "0") == "1"
        check_follow(values, follow)
        output = FORMATS[values.pop("format", "json")]
        query = Query(**values, client=client)
        if follow:
            lines = self.follow_lines(self.store.follow(query))
            return stream_response(FORMATS["ndjson"].content_type, lines)
        if not query.limit:
            return stream_response(output.content_type, output.encode(self.store.stream(query)))
        records, more = self.store.page(query)
        headers = {"Link": next_link(request, query, records[-1])} if more else {}
        body = b"".join(output.encode([records]))
        return Response(200, body, content_type=output.content_type, headers=headers)

    def follow_lines(self, pages: Iterator[list[StoredRecord]]) -> Iterator[bytes]:
        """A line for each record as it comes, and a blank line where nothing comes for long."""
        sent_at = float("-inf")  # The first line leaves at once: the client sees that it follows.
        for records in pages:
            if self.stopping.is_set():
                return
            if not records and time.monotonic() - sent_at < HEARTBEAT_SECONDS:
                continue
            yield "".join(map(FORMATS["ndjson"].line, records)).encode() or b"\n"
            sent_at = time.monotonic()


Endpoint = Callable[[App, Request], Response]
ROUTES: dict[str, dict[str, Endpoint]] = {
    "/logs": {"POST": App.post_logs, "GET": App.get_logs},
}


# -------- 11b. Checks and answers *
# The core uses `secret_of`, `unauthorized`, `check_origin`, `answer_preflight`, `find_path`,
# `refuse_parameters`, `idempotency_key`, `batch_answer`, `replayed_header`, `nothing_stored`,
# `stream_response` and `next_link`. They read a request's head and say what is wrong with it, and
# make answers and refusals. `stream_response` makes the first piece of a stream at once.


SCHEMES = ("token", "bearer", "basic", "splunk")  # The word before a token in Authorization.


def secret_of(authorization: str) -> bytes:
    """The secret of the token in this header, or nothing. Basic has it as the password."""
    scheme, _, text = authorization.partition(" ")
    secret = text.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(secret).partition(b":")[2]
        except ValueError:
            return b""
    return secret if scheme.lower() in SCHEMES else b""


def unauthorized(given: str, roles: Iterable[str]) -> HTTPRefusal:
    """The refusal of what came in Authorization, perhaps nothing. `roles` are those that may."""
    error = "A token is needed."
    if given:
        error = "The token is not known here, or may not do this."
        if given.partition(" ")[0].lower() not in SCHEMES:  # "Authorization: T", for example.
            error = "The word Token is missing in Authorization, before the token."
    kinds = " or ".join(roles)
    hint = f"Send 'Authorization: Token T', with a token ({kinds}) of config.json as last read."
    headers = {"WWW-Authenticate": 'Basic realm="logs", Bearer realm="logs"'}
    return HTTPRefusal(401, error, hint, headers)


def check_origin(config: Config, request: Request) -> None:
    """Keeps pages of other sites out while everyone may read. Raises HTTPRefusal: 421, 403."""
    # A page could give its own name the address of this server, and read the logs in the browser of
    # someone who may reach it (DNS rebinding). So only names that are ours are answered.
    value = request.headers.get("host", "localhost")
    # Without the port: "[::1]:80" and "[::1]", "localhost:80" and "localhost".
    name = value if value.endswith("]") else value.rpartition(":")[0] or value
    host = name.strip("[]").lower()[:300]  # No name is as long: `is_loopback` keeps some.
    if not is_loopback(host) and host not in (config.host.lower(), *config.allowed_hosts):
        hint = "Add it to server.allowed_hosts in the configuration."
        raise HTTPRefusal(421, f"This server is not {shorten(host)}.", hint)
    # A browser does not show the answer to a page of another site. But that page could ask for what
    # costs much, again and again. It still may link to "/", and a POST needs a token.
    is_cross_site = request.headers.get("sec-fetch-site") == "cross-site"
    if is_cross_site and request.path != "/" and request.method != "POST":
        hint = "Open the address of this server itself."
        raise HTTPRefusal(403, "A page of another site may not read here.", hint)


def answer_preflight(_app: App, _request: Request) -> Response:
    """Tells a browser that pages of all origins may POST here: a token protects the records."""
    names = "Authorization, Content-Type, Content-Encoding, Idempotency-Key"
    allowed = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": names,
    }
    return Response(204, headers=allowed)


def find_path(path: str) -> str | None:
    """The key of a path in ROUTES. "/logs/" means "/logs"."""
    path = path.removesuffix("/") or "/"
    if path in ROUTES:
        return path
    # Chapter 11c adds this one to ROUTES.
    return "/logs/ID" if re.fullmatch(r"/logs/[^/]+", path) else None


def refuse_parameters(request: Request) -> None:
    """Raises BadQuery for a request that has no parameters to give."""
    if request.query_string:
        name = request.query_string.partition("=")[0]
        error = f"{request.method} {request.path} has no parameter {shorten(name)}."
        raise BadQuery(error, "Leave it out.")


def idempotency_key(request: Request) -> bytes:
    """The Idempotency-Key of a request, or nothing. Raises HTTPRefusal: 400."""
    text = request.headers.get("idempotency-key")
    if text is None:
        return b""
    key = text.encode("latin-1")  # Its bytes as they came: two keys never become one.
    if not 0 < len(key.decode("utf-8", "replace")) <= MAX_KEY_CHARS:
        error = f"An Idempotency-Key has 1 to {MAX_KEY_CHARS} characters."
        raise HTTPRefusal(400, error, "Send a UUID, for example.")
    return key


def batch_answer(parsed: Parsed, batch: Batch) -> dict[str, Json]:
    """What POST /logs answers."""
    return {
        "accepted": batch.stored,
        "rejected": parsed.rejected,
        "first_id": batch.first_id or None,
        "last_id": batch.last_id or None,
        "errors": parsed.errors,
    }


def replayed_header(batch: Batch) -> dict[str, str]:
    """The header that tells a repeat from a first try."""
    return {"Idempotent-Replayed": "true"} if batch.replayed else {}


def nothing_stored(parsed: Parsed, batch: Batch) -> HTTPRefusal:
    """The refusal of a batch without a good record: 403 where all named another service."""
    status = 403 if parsed.forbidden == parsed.rejected else 422
    error = "No record could be stored: {field}: {error}.".format_map(parsed.errors[0])
    refusal = HTTPRefusal(status, error, '"errors" says what to correct, by index.')
    refusal.details = batch_answer(parsed, batch)
    return refusal


def stream_response(content_type: str, pieces: Iterator[bytes]) -> Response:
    """A streamed answer. Its first piece is made now: an error there becomes a 4xx or 5xx."""
    pieces = itertools.chain([next(pieces, b"")], pieces)
    headers = {"X-Accel-Buffering": "no"}  # nginx passes each piece on as it comes.
    return Response(200, pieces=pieces, content_type=content_type, headers=headers)


def next_link(request: Request, query: Query, last: StoredRecord) -> str:
    """The Link to the page after `last` (RFC 8288). "since" becomes the moment that it meant.

    It is relative to the request: a proxy may have put a prefix before "/logs".
    """
    left_out = ("cursor", "since", "timestamp_start", "timestamp_end")
    pairs = [pair for pair in split_query_string(request.query_string) if pair[0] not in left_out]
    for name in ("timestamp_start", "timestamp_end"):
        if (moment := getattr(query, name)) is not None:
            pairs.append((name, format_timestamp(moment)))
    pairs.append(("cursor", format_cursor(last)))
    name = request.path.rpartition("/")[2]
    return f'<{name}?{urllib.parse.urlencode(pairs)}>; rel="next"'


# -------- 11c. More endpoints *
# The core uses `Shares`, `Metrics`, `Health` and `FORMATS`: what one client may take, counters,
# whether the store works, how records are written.
# This chapter adds lines to the route table.


class Shares:
    """What one client may take of what all share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._may_send_at: dict[str, float] = {}  # By secret, where a rate is set.
        self._held: dict[str, int] = {}  # Bytes of a client: of a secret or of an address.
        self._refused: dict[str, tuple[float, int]] = {}  # Of an address: see `note_refused`.
        self.held_bytes = 0  # Of all.
        self._large_bodies = threading.Semaphore(2)  # Of all: more at a time would take memory.
        # By secret of a token. They are never removed, but there are few.
        self._turns: dict[str, threading.Lock] = {}
        self._uploads: dict[str, threading.Semaphore] = {}
        self._commits: dict[str, threading.Semaphore] = {}

    def check_rate(self, token: Token, rate: float | None) -> None:
        """Raises HTTPRefusal, 429, while a token has sent more than its rate allows."""
        wait = self._may_send_at.get(token.secret, 0) - time.monotonic()
        if rate is not None and wait >= 0:
            error = f"This token may send {rate:g} records a second."
            seconds = min(int(1 + wait), 5)  # Clients give up on long waits.
            raise HTTPRefusal(429, error, "Send it again later.", {"Retry-After": str(seconds)})

    def spend(self, token: Token, records: int, rate: float | None) -> None:
        """Counts stored records of a token. It saves up what its rate allows in a second."""
        if rate is not None:
            with self._lock:
                may_send_at = max(self._may_send_at.get(token.secret, 0), time.monotonic() - 1)
                self._may_send_at[token.secret] = may_send_at + records / rate

    def hold(self, client: str, size: int) -> None:
        """Counts bytes that are kept for a client; a negative size takes them off again.

        Raises Unavailable for too many of all clients, or of this one.
        """
        with self._lock:
            held = self._held.get(client, 0) + size
            if size > 0 and (held > MAX_CLIENT_BYTES or self.held_bytes + size > MAX_HELD_BYTES):
                raise Unavailable("Too many bytes are in flight, of this client or of all.")
            self.held_bytes += size
            self._held[client] = held
            if not held:
                del self._held[client]

    def note_refused(self, address: str, path: str) -> None:
        """Logs that a token was refused: a line a second at most for each address."""
        clock = time.monotonic()
        with self._lock:
            logged_at, unsaid = self._refused.pop(address, (float("-inf"), 0))
            is_due = clock - logged_at >= 1
            if len(self._refused) >= MAX_REFUSED_ADDRESSES:
                del self._refused[next(iter(self._refused))]  # The one that has been quiet longest.
            self._refused[address] = (clock, 0) if is_due else (logged_at, unsaid + 1)
        if is_due:
            before = f", and {unsaid} more since the last line" if unsaid else ""
            log.warning("a token from %s is refused at %s%s", address, shorten(path), before)

    @contextlib.contextmanager
    def large_body_slot(self, client: str) -> Iterator[None]:
        """One of two places for work on a large body. A client has one at most."""
        with self._turns.setdefault(client, threading.Lock()), self._large_bodies:
            # After each statement, the thread that commits must get the GIL back from the one that
            # works here. By default Python makes that one release it after 0.005 s only. Where two
            # work here, the first to end sets it back.
            sys.setswitchinterval(0.0002)
            try:
                yield
            finally:
                sys.setswitchinterval(0.005)

    @contextlib.contextmanager
    def commit_place(self, client: str) -> Iterator[None]:
        """One of MAX_COMMITS places of a client for batches that wait. Raises Unavailable."""
        places = self._commits.setdefault(client, threading.Semaphore(MAX_COMMITS))
        if not places.acquire(timeout=COMMIT_SECONDS):
            raise Unavailable("Too many batches of this client wait for their commit.")
        try:
            yield
        finally:
            places.release()

    def begin_upload(self, client: str) -> threading.Semaphore:
        """Takes a place of a client's MAX_UPLOADS. The caller releases it. Raises Unavailable."""
        places = self._uploads.setdefault(client, threading.Semaphore(MAX_UPLOADS))
        if not places.acquire(timeout=RETRY_SECONDS):
            raise Unavailable("Too many large bodies come in, of this client.")
        return places

    def brake(self, client: str) -> None:
        """Makes a client wait that sends many small chunks: its connections one after the other."""
        with self._turns.setdefault(client, threading.Lock()):
            time.sleep(0.002)  # `read_chunks` calls it for 16 chunks: some 8,000 a second.


class Format(NamedTuple):
    """How records are written: a line for each, and what stands before, between and after."""

    content_type: str
    line: Callable[[StoredRecord], str]
    opening: str = ""
    separator: str = ""
    closing: str = ""

    def encode(self, pages: Iterable[list[StoredRecord]]) -> Iterator[bytes]:
        """The records of all pages, in pieces."""
        before = self.opening
        after = self.opening + self.closing
        for records in pages:
            if records:
                yield (before + self.separator.join(map(self.line, records))).encode()
                before = self.separator
                after = self.closing
        yield after.encode()


# Control characters, except tabs and line ends: a terminal would obey them. JSON has this escape.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
CSV_HEAD = "id,timestamp,received_at,service,severity,message,attributes\r\n"


def csv_line(record: StoredRecord) -> str:
    """A line of CSV (RFC 4180). The attributes are JSON."""
    line = io.StringIO()
    times = format_timestamp(record.timestamp), format_timestamp(record.received_at)
    texts = [record.service, SEVERITY_NAMES[record.severity], record.message, record.attributes]
    csv.writer(line).writerow([record.id, *times, *texts])
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", line.getvalue())


FORMATS = {
    "json": Format("application/json", StoredRecord.json, "[", ",\n", "]\n"),
    "ndjson": Format("application/x-ndjson", lambda record: record.json() + "\n"),
    "csv": Format("text/csv; charset=utf-8", csv_line, CSV_HEAD),
}


def get_record(app: App, request: Request) -> Response:
    """Gives one record."""
    app.check_reader(request)
    refuse_parameters(request)
    text = request.path.removeprefix("/logs/").removesuffix("/")
    if re.fullmatch(r"[0-9]{1,16}", text):
        record_id = int(text)
        records, _ = app.store.page(Query(after=record_id - 1, last_id=record_id, by_id=True))
        if records:
            return Response(200, records[0].json().encode() + b"\n")
    error = f"There is no record {shorten(text)}."
    raise HTTPRefusal(404, error, "GET /logs lists records with their ids.")


def delete_logs(app: App, request: Request) -> Response:
    """Deletes the records that a filter finds, with an admin token."""
    token = app.authenticate(request, "admin")
    query = Query(**parse_query_string(request.query_string, FILTERS))
    if query == Query():
        raise BadQuery("DELETE needs a filter.", "Name the records, by service for example.")
    query = dataclasses.replace(query, client=token.secret)
    return json_response(200, {"deleted": app.store.delete(query)})


def get_stats(app: App, request: Request) -> Response:
    """Counts records, by service, severity and time."""
    client = app.check_reader(request)
    values = parse_query_string(request.query_string, STATS_PARAMETERS)
    step = values.pop("step", None)
    query = Query(**values, client=client)
    stats = app.store.stats(query, step)
    services: Counter[str] = Counter()
    severities = dict.fromkeys(SEVERITIES, 0)
    for (service, severity), records in stats.kinds.items():
        services[service] += records
        severities[SEVERITY_NAMES[severity]] += records
    answer = {
        "total": stats.kinds.total(),
        "by_service": dict(services.most_common()),
        "by_severity": severities,
        "first_timestamp": None if stats.first is None else format_timestamp(stats.first),
        "last_timestamp": None if stats.last is None else format_timestamp(stats.last),
    }
    if step:
        answer["histogram"] = histogram(stats, query, step)
    return json_response(200, answer)


def histogram(stats: Stats, query: Query, step: int) -> list[dict[str, Json]]:
    """The counts by steps, with empty steps between them where there are not too many."""
    start = stats.first if query.timestamp_start is None else query.timestamp_start
    end = stats.last if query.timestamp_end is None else query.timestamp_end
    if start is None or end is None or start > end:
        return []
    begins: Sequence[int] = range(start // step * step, end + 1, step)
    if len(begins) > MAX_STEPS:
        begins = sorted(stats.steps)
    nothing = [0] * len(SEVERITIES)
    bars = []
    for begin in begins:
        counts = dict(zip(SEVERITIES, stats.steps.get(begin, nothing), strict=True))
        bars.append({"start": format_timestamp(max(begin, MIN_TIMESTAMP)), **counts})
    return bars


class Health:
    """Whether records can be stored, as the last look at the store found it.

    A good look serves all who ask within a second; a bad one only those who asked before it ended.
    """

    def __init__(self, store: Store):
        self._store = store
        self._looking = threading.Lock()  # It guards what follows.
        self._looked_at = float("-inf")
        self._trouble: Unavailable | None = None

    def check(self) -> None:
        """Raises Unavailable where records can't be stored."""
        asked_at = time.monotonic()
        with self._looking:
            if self._looked_at + (0 if self._trouble else 1) < asked_at:
                self._trouble = None
                try:
                    self._store.probe()
                except Unavailable as trouble:
                    self._trouble = trouble
                self._looked_at = time.monotonic()
            if self._trouble:
                raise Unavailable(self._trouble.error, self._trouble.hint)


def get_health(app: App, _request: Request) -> Response:
    """Says whether records can be stored. It needs no token."""
    app.health.check()
    warning = {"warning": app.store.warning} if app.store.warning else {}
    return json_response(200, {"status": "ok", **warning})


Labels = tuple[tuple[str, str], ...]  # Of one counter: names and values.


class Metrics:
    """Counters for Prometheus, by name and labels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._services = {"other"}
        self.values: dict[str, Counter[Labels]] = {name: Counter() for name in METRICS}

    def add(self, name: str, amount: int, labels: dict[str, str]) -> None:
        """Adds to a counter. Services past MAX_METRIC_SERVICES share the label "other"."""
        with self._lock:
            service = labels.get("service", "other")
            if len(self._services) <= MAX_METRIC_SERVICES:
                self._services.add(service)
            if service not in self._services:
                labels = {**labels, "service": "other"}
            self.values[name][tuple(labels.items())] += amount

    def count(self, token: Token, parsed: Parsed, batch: Batch) -> None:
        """Counts what became of a batch. A repeat was counted before."""
        if batch.replayed:
            return
        kinds: Counter[tuple[str, int]] = Counter()
        for (_, service, severity), records in batch.minutes.items():
            kinds[service, severity] += records
        for (service, severity), records in kinds.items():
            labels = {"service": service, "severity": SEVERITY_NAMES[severity]}
            self.add("logs_records_accepted_total", records, labels)
        for field, records in parsed.rejected_by_field.items():
            labels = {"service": token.service, "reason": field}
            self.add("logs_records_rejected_total", records, labels)


METRICS = {  # https://prometheus.io/docs/instrumenting/exposition_formats/
    "logs_records_accepted_total": "Records stored.",
    "logs_records_rejected_total": "Records refused, by the field at fault.",
    "logs_http_requests_total": "Requests answered, except those with a malformed head.",
    "logs_commits_total": "Commits to the store.",
    "logs_commit_seconds_total": "Time taken by all commits.",
    "logs_store_records": "Records in the store.",
    "logs_store_bytes": "Size of the store on disk.",
    "logs_waiting_batches": "Batches that wait for a commit.",
    "logs_waiting_bytes": "Bodies that come in and large answers that go out.",
    "process_start_time_seconds": "When the server started, since 1970.",
}
LABEL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def get_metrics(app: App, request: Request) -> Response:
    """Gives numbers for Prometheus."""
    app.check_reader(request)
    values: dict[str, Mapping[Labels, float]] = {
        **app.metrics.values,
        "logs_commits_total": {(): app.committer.commits},
        "logs_commit_seconds_total": {(): app.committer.seconds},
        "logs_store_records": {(): app.store.count()},
        "logs_store_bytes": {(): app.store.size()},
        "logs_waiting_batches": {(): len(app.committer.queue)},
        "logs_waiting_bytes": {(): app.shares.held_bytes},
        "process_start_time_seconds": {(): app.started_at},
    }
    lines: list[str] = []
    for name, explanation in METRICS.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
        for labels, value in dict(values[name]).items():  # A copy: others add meanwhile.
            pairs = [f'{label}="{text.translate(LABEL_ESCAPES)}"' for label, text in labels]
            quoted = f"{{{','.join(pairs)}}}" if labels else ""
            lines.append(f"{name}{quoted} {value:.16g}")
    text = "\n".join([*lines, ""])
    return Response(200, text.encode(), content_type="text/plain; version=0.0.4; charset=utf-8")


ROUTES["/logs"]["DELETE"] = delete_logs
ROUTES["/logs/ID"] = {"GET": get_record}
ROUTES["/stats"] = {"GET": get_stats}
ROUTES["/estadisticas"] = {"GET": get_stats}  # The Spanish name of /stats.
ROUTES["/health"] = {"GET": get_health}
ROUTES["/metrics"] = {"GET": get_metrics}


# -------- 12. HTTP


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, in a thread of its own.

    The base class loops over the requests: `handle` calls `handle_one_request`, which reads the
    first line, calls `parse_request` for the headers and then `do_GET` or the like: `respond`.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 << 10  # Head and body of most answers leave in one send.
    server: Server
    head: Request  # Of the request under way: `parse_request` sets it.
    command = ""
    request_version = protocol_version  # `send` needs it even before a request has come.
    idle = True  # No request has begun.
    # Bytes of this request may still come in. The connection is closed after the answer then: they
    # could be taken for the next request.
    unread = False
    client: str  # Whose bytes `Shares` counts: a token or an address.
    held_bytes = 0  # Those of this request that are counted there now.
    upload: threading.Semaphore | None = None  # The place of a large body: see `read_exactly`.
    deadline = float("inf")  # When the present wait ends: `set_deadline` sets it.
    shuts = socket.SHUT_RD  # Or SHUT_RDWR, for `expire`.
    is_shut = False  # `expire` was called.
    is_admitted = False  # `admit` sets it: then it counts among the connections.
    processors = PROCESSORS  # Where its thread may run: `choose_processors` sets it.
    # The thread's id while `App.respond` works on a GET or DELETE, else 0: `watch` stops its query
    # if the client leaves meanwhile. Of a stream, only the first piece is made then.
    querying = 0

    def setup(self) -> None:
        """Is called once, before the first request."""
        self.client = self.client_address[0]
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.server.handlers.add(self)

    def finish(self) -> None:
        """Is called once, after the last request."""
        self.server.handlers.discard(self)
        super().finish()

    def set_deadline(self, seconds: float, shuts: int = socket.SHUT_RD) -> None:
        """Sets the deadline of what comes now, in place of the one before.

        When it is past, `watch` calls `expire`. While the server reads, that shuts reading: a read
        gets an end of file, and `cut_off` (12b) makes a 408 of it. While the server sends, it shuts
        both ways: the send fails, and the connection ends.
        """
        self.deadline = time.monotonic() + seconds
        self.shuts = shuts

    def expire(self) -> None:
        """Ends the wait of this handler, from another thread."""
        self.is_shut = True
        with contextlib.suppress(OSError):  # It may be closed already.
            # SSLSocket.shutdown drops the encryption (github.com/python/cpython/issues/124618).
            socket.socket.shutdown(self.connection, self.shuts)

    def handle(self) -> None:
        """Takes requests, one after the other, until the client leaves or the server stops."""
        if admit(self.server, self):
            super().handle()
        elif not self.server.tls:  # With TLS it only closes: a handshake would take too long.
            self.unread = True
            self.send(refusal_response(Unavailable("Too many connections are open.")))
            drain(self)

    def handle_one_request(self) -> None:
        """Takes one request."""
        self.idle = True
        self.set_deadline(IDLE_SECONDS)
        try:
            super().handle_one_request()
        finally:
            self.server.app.shares.hold(self.client, -self.held_bytes)
            self.held_bytes = 0
            if self.upload:
                self.upload.release()
                self.upload = None
            self.client = self.client_address[0]
        if self.unread:
            drain(self)

    def parse_request(self) -> bool:
        """Reads the head of a request into `head`. False: it is refused, or the client has left.

        The base class's own takes a lone LF, folded lines and two Content-Lengths, and its parser
        takes as long as all the rest of a small request.
        """
        first: bytes = self.raw_requestline  # type: ignore[attr-defined]
        if first == b"\r\n":  # It counts for nothing (RFC 9112, 2.2): no request has begun.
            first = self.rfile.readline(MAX_HEAD_BYTES + 1)
            if not first:
                self.close_connection = True
                return False
        self.idle = False
        self.command = ""  # Not that of the request before.
        self.unread = True
        self.set_deadline(HEADER_SECONDS)
        try:
            data = read_head(self, first)
            # Most clients repeat their heads. Long ones would fill the memory.
            head = parse_cached_head(data) if len(data) < 1000 else parse_head(data)
        except Refusal as refusal:
            self.send(refusal_response(refusal))
            return False
        self.command = head.method
        self.request_version = head.version
        self.head = head
        self.unread = head.body_length != 0
        self.set_deadline(float("inf"))  # No deadline while the server works.
        wishes = head.headers.get("connection", "").lower()
        self.close_connection = head.version == "HTTP/1.0" or "close" in wishes
        return True

    def respond(self) -> None:
        """Answers one request. All `do_...` are this: ROUTES says which methods a path takes."""
        request = self.head._replace(read_body=self.read_body, address=self.client_address[0])
        self.querying = 0 if self.command == "POST" else threading.get_ident()
        choose_processors(self)
        response = self.server.app.respond(request)
        self.querying = 0
        if len(response.body) > HELD_ANSWER_BYTES:  # It is in memory until the client has read it.
            try:
                self.hold(len(response.body))
            except Unavailable as refusal:
                response = refusal_response(refusal)
        self.send(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = respond  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers in JSON what the base class refuses: 414, and 501 for a method nobody knows."""
        self.unread = True  # Nobody will read its body.
        error = message or http.client.responses[code]
        self.send(refusal_response(malformed(f"{error}.", code)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # The base class's name.
        """Logs nothing: the base class would tell of each client that was lost (ETIMEDOUT)."""

    # Reading

    def read_body(self, client: str) -> bytes:
        """The body, out of its chunks and decompressed. Its bytes are counted as this client's.

        Raises Refusal, ConnectionError.
        """
        self.client = client
        length = self.head.body_length
        self.unread = True  # Until it is read. One without a length is refused, but may still come.
        is_compressed, expects = check_body_headers(self.head)
        body = io.BytesIO()
        try:
            if expects:
                self.set_deadline(SEND_SECONDS, socket.SHUT_RDWR)
                self.handle_expect_100()
                self.wfile.flush()
            self.set_deadline(REQUEST_SECONDS)
            body.writelines(read_chunks(self) if length is None else read_exactly(self, length))
        except OSError as error:  # Of the socket, or of its TLS.
            raise ConnectionResetError from error
        self.unread = False
        self.set_deadline(float("inf"))
        data = body.getvalue()
        if not is_compressed:
            return data
        # Its size is known only now. There are two slots: so two bodies at most are not counted.
        with self.server.app.shares.large_body_slot(client):
            whole = decompress(data)
            self.hold(max(len(whole) - len(data), 0))
        return whole

    def hold(self, size: int) -> None:
        """Counts bytes of this request's body or answer until it is over. Raises Unavailable."""
        self.server.app.shares.hold(self.client, size)
        self.held_bytes += size

    # Sending

    def send(self, response: Response) -> None:
        """Sends an answer. Raises ConnectionError where that fails."""
        self.set_deadline(SEND_SECONDS, socket.SHUT_RDWR)
        if self.unread or self.server.app.stopping.is_set():
            self.close_connection = True
        is_chunked = response.pieces is not None and self.request_version != "HTTP/1.0"
        self.send_response_only(response.status)
        self.send_header("Date", http_date(int(time.time()), usegmt=True))
        self.send_header("Content-Type", response.content_type)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if self.command == "POST":
            # A page of any origin may see the answer to its POST, and no other answer (CORS,
            # https://fetch.spec.whatwg.org/).
            self.send_header("Access-Control-Allow-Origin", "*")
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.pieces is None and response.status != 204:  # RFC 9110, 8.6.
            self.send_header("Content-Length", str(len(response.body)))
        elif is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            self.wfile.flush()
        elif response.pieces is None:
            self.write(response.body)
        else:
            send_pieces(self, response.pieces, is_chunked)

    def write(self, data: bytes) -> None:
        """Sends the headers that `wfile` may keep, then these bytes, each part with a deadline."""
        for start in range(0, len(data), SEND_BUFFER_BYTES):
            self.set_deadline(SEND_SECONDS, socket.SHUT_RDWR)
            self.wfile.write(data[start : start + SEND_BUFFER_BYTES])
            self.wfile.flush()


class Server(http.server.ThreadingHTTPServer):
    """Accepts connections up to a bound, and ends what is past its deadline. Raises StartError."""

    request_queue_size = 1024  # The base class's 5 resets a burst of clients.
    allow_reuse_address = os.name == "posix"  # On Windows two servers could share a port.
    app: App  # `serve` sets it: the port is taken before a store is made.

    def __init__(self, config: Config, tls: ssl.SSLContext | None, max_connections: int):
        self.tls = tls
        self.max_connections = max_connections
        self.handlers: set[Handler] = set()  # Each adds and removes itself: loop over a copy.
        self.admitting = threading.Lock()  # So that two do not take the last place.
        try:
            address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
            self.address_family = address[0]
            super().__init__((config.host, config.port), Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            place = f"{config.host}:{config.port}"
            raise StartError(f"can't listen on {place}: {reason}; try --port or --host") from None
        if self.tls:  # The handshake is for the thread of the connection, at its first read.
            self.socket = self.tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.url = f"{'https' if self.tls else 'http'}://{host}:{self.server_address[1]}"

    def serve(self, app: App) -> threading.Thread:
        """Accepts connections from now on, in the thread that it returns."""
        self.app = app
        threading.Thread(target=watch, args=[self], daemon=True).start()
        accepting = threading.Thread(target=self.serve_forever, args=[0.05], daemon=True)
        accepting.start()
        return accepting

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the thread of a connection. Nothing waits for its end.

        The base class's `Thread.start` waits until the thread runs: for ever, where the thread
        dies of a MemoryError before that (https://github.com/python/cpython/issues/140746).
        """
        _thread.start_new_thread(self.process_request_thread, (request, client_address))

    def server_bind(self) -> None:
        """Binds the socket. The base class also asks a name server, which can take long."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what no handler expected. After an OSError the client is gone."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.exception("unexpected error in a connection")


# -------- 12b. Heads and chunks *
# The core uses `malformed`, `http_date`, `read_head`, `parse_head`, `parse_cached_head`,
# `check_body_headers`, `read_exactly` and `read_chunks`: where a request ends, by RFC 9112.

http_date = functools.lru_cache(1)(email.utils.formatdate)  # Date is made once a second.
HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # A token (RFC 9110, 5.6.2).


def malformed(error: str, status: int = 400) -> HTTPRefusal:
    """The refusal of a request after which nobody can tell where the next one begins."""
    return HTTPRefusal(status, error, "Send HTTP/1.1 as RFC 9112 has it.")


def parse_head(head: bytes) -> Request:
    r"""The head of a request, from its first line to its empty line.

    >>> parse_head(b"GET /logs?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")[:5]
    ('GET', '/logs', 'limit=1', 'HTTP/1.1', {'host': 'localhost'})

    It refuses each head that two servers could read in different ways: behind a proxy, one request
    could hide in another one's body (request smuggling, RFC 9112, 11.2). Raises HTTPRefusal.
    """
    first, _, rest = head.partition(b"\r\n")
    method, target, version = parse_request_line(first.decode("utf-8", "replace"))
    headers = parse_headers(rest)
    if not target.startswith("/"):  # The whole URL: its host counts (RFC 9112, 3.2.2).
        try:
            parts = urllib.parse.urlsplit(target)
        except ValueError:
            raise malformed("The first line names no host.") from None
        headers["host"] = parts.netloc
        target = f"{parts.path or '/'}?{parts.query}"
    if version == "HTTP/1.1" and "host" not in headers:
        raise malformed("The Host header is missing.")
    path, _, query = target.partition("?")
    length = body_length(headers, version)
    path = urllib.parse.unquote(path)
    return Request(method, path, query, version, headers, length)


# Most clients send the same head again and again.
parse_cached_head = functools.lru_cache(256)(parse_head)


def parse_request_line(line: str) -> tuple[str, str, str]:
    """Method, target and version of a request's first line. Raises HTTPRefusal."""
    parts = re.fullmatch(r"([A-Za-z]+) ([^ ]*) (HTTP/[0-9]\.[0-9])", line)
    if not parts:
        raise malformed("The first line is not that of a request.")
    method, target, version = parts.groups()
    if not version.startswith("HTTP/1."):
        raise malformed(f"{version} is not spoken here.", 505)
    if not re.match(r"/|https?://[^/?]", target, re.IGNORECASE):
        raise malformed("The first line names no path.")
    return method, target, "HTTP/1.0" if version == "HTTP/1.0" else "HTTP/1.1"


def parse_headers(lines: bytes) -> dict[str, str]:
    """The headers in lines that end with CRLF, up to an empty line. Raises HTTPRefusal."""
    headers: dict[str, str] = {}
    for line in lines.decode("latin-1").split("\r\n")[:-2]:  # The last two are empty.
        name, colon, value = line.partition(":")
        if not (colon and HEADER_NAME.fullmatch(name)):
            raise malformed("A header line is not 'Name: value'.")
        name = name.lower()
        value = value.strip(" \t")
        if name in headers:
            if name in ("host", "content-length", "transfer-encoding"):
                raise malformed(f"The header {name} is given twice.")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def body_length(headers: Mapping[str, str], version: str) -> int | None:
    """The bytes of the body, or None for chunks. Raises HTTPRefusal where readers could differ."""
    length = headers.get("content-length", "0")
    encoding = headers.get("transfer-encoding")
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise malformed(f"The Content-Length {shorten(length)} is not a number.")
    if encoding is None:
        return int(length)
    if "content-length" in headers or version == "HTTP/1.0" or encoding.lower() != "chunked":
        raise malformed("Transfer-Encoding must be 'chunked', and without a Content-Length.")
    return None


def cut_off(handler: Handler) -> Exception:
    """What an end of file in the middle of a request means."""
    if handler.server.app.stopping.is_set():
        return Unavailable("The server is stopping.")
    if handler.is_shut:
        error = "The request did not come in time; nothing was stored."
        return HTTPRefusal(408, error, "Send it faster, or in smaller pieces.")
    return ConnectionResetError()


def check_body_headers(head: Request) -> tuple[bool, bool]:
    """Whether a body is compressed, and whether its client waits for a 100. Raises Refusal."""
    headers = head.headers
    if head.body_length == 0 and "content-length" not in headers:
        hint = "Send Content-Length, or chunks."
        raise HTTPRefusal(411, "The request does not say how long its body is.", hint)
    encoding = headers.get("content-encoding", "").lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        error = f"The Content-Encoding {shorten(encoding)} is not known."
        raise Unsupported(error, "Send gzip, deflate or none.")
    check_body_size(head.body_length or 0)
    expects = headers.get("expect", "").lower() == "100-continue" and head.version == "HTTP/1.1"
    return encoding != "identity", expects


def check_body_size(size: int) -> None:
    """Raises TooLarge for a body of more than MAX_BODY_BYTES, as sent or decompressed."""
    if size > MAX_BODY_BYTES:
        most = f"{MAX_BODY_BYTES >> 20} MiB"
        raise TooLarge(f"The body is larger than {most}.", "Send smaller batches.")


def read_head(handler: Handler, line: bytes) -> bytes:
    """The lines of a head, from this first one to an empty one. Raises Refusal, OSError."""
    lines: list[bytes] = []
    size = 0
    for _ in range(MAX_HEADERS + 2):  # With the first line and the empty one.
        lines.append(line)
        size += len(line)
        if size > MAX_HEAD_BYTES:
            break
        if line[-2:] != b"\r\n":
            if line[-1:] == b"\n":
                raise malformed("A line of the head ends without CR.")
            raise cut_off(handler)
        if line == b"\r\n":
            head = b"".join(lines)
            if head.count(b"\r") != len(lines) or b"\0" in head:
                raise malformed("The head has a NUL, or a CR alone.")
            return head
        line = handler.rfile.readline(MAX_HEAD_BYTES + 1 - size)
    most = f"{MAX_HEADERS} headers of {MAX_HEAD_BYTES >> 10} KiB together"
    raise malformed(f"The head is larger than {most}.", 431)


def read_exactly(handler: Handler, length: int) -> Iterator[bytes]:
    """So many bytes, in pieces. Each is counted as it comes, not before."""
    while length:
        data = handler.rfile.read1(min(length, 1 << 18))  # What one `recv` gives.
        # `expire` shuts reading, but the bytes that came can still be read. Past the deadline
        # they are refused. Else it was `stop` that called `expire`: they are read.
        if not data or (handler.is_shut and time.monotonic() > handler.deadline):
            raise cut_off(handler)
        handler.hold(len(data))
        if handler.held_bytes > LARGE_UPLOAD_BYTES and not handler.upload:
            handler.upload = handler.server.app.shares.begin_upload(handler.client)
        length -= len(data)
        yield data


def read_chunks(handler: Handler) -> Iterator[bytes]:
    """The bytes of all chunks (RFC 9112, 7.1). Extensions and trailers count for nothing."""
    # "5\r\nhello\r\n0\r\n\r\n" is "hello": each chunk follows its size, and the last one is empty.
    total = 0
    small = 0
    while True:
        digits = read_chunk_line(handler).partition(b";")[0].rstrip(b" \t")
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", digits):
            raise malformed("A chunk does not begin with its size.")
        size = int(digits, 16)
        total += size
        check_body_size(total)
        if size < SMALL_CHUNK_BYTES:
            small += 1
            if small % 16 == 0:  # Many small chunks cost their sender, not the others.
                handler.server.app.shares.brake(handler.client)
        if not size:
            trailers = read_head(handler, handler.rfile.readline(MAX_HEAD_BYTES + 1))
            parse_headers(trailers)  # It refuses malformed ones.
            return
        yield from read_exactly(handler, size)
        if read_chunk_line(handler):
            raise malformed("A chunk is longer than its size.")


def read_chunk_line(handler: Handler) -> bytes:
    """A line before or after a chunk, without its CRLF. Raises Refusal, OSError."""
    line = handler.rfile.readline(MAX_CHUNK_LINE_BYTES)
    if line[-2:] == b"\r\n" and line.count(b"\r") == 1:
        return line[:-2]
    if len(line) == MAX_CHUNK_LINE_BYTES or line[-1:] == b"\n":
        raise malformed("A chunk is not framed by short lines that end with CRLF.")
    raise cut_off(handler)


# -------- 12c. Connections and deadlines *
# The core uses `admit`, `choose_processors`, `watch`, `drain`, `decompress` and `send_pieces`:
# where a thread runs, and what becomes of a client that takes too much, sends too slowly or leaves.
# `main` uses `stop`, which ends the server.


def admit(server: Server, handler: Handler) -> bool:
    """Whether there is room for this connection, in all and from its address. Then it counts."""
    # Where the system allows fewer connections, one address has the same part of them.
    share = server.max_connections * MAX_ADDRESS_CONNECTIONS // MAX_CONNECTIONS
    address = handler.client_address[0]
    with server.admitting:
        addresses = [one.client_address[0] for one in list(server.handlers) if one.is_admitted]
        has_room = addresses.count(address) < max(share, 1)
        handler.is_admitted = has_room and len(addresses) < server.max_connections
    return handler.is_admitted


def choose_processors(handler: Handler) -> None:
    """Keeps a connection's thread on one processor while it takes a small body.

    Only the thread that holds the GIL runs Python, and the next one takes longer to wake on another
    processor: on one, single records over many connections are stored half as fast again. Queries
    and long commits run in SQLite, without the GIL: they may use every processor.
    """
    length = handler.head.body_length
    is_small = length is not None and length <= ONE_PROCESSOR_BYTES
    is_plain = "content-encoding" not in handler.head.headers
    is_post = handler.command == "POST"
    wanted = ONE_PROCESSOR if is_post and is_small and is_plain else PROCESSORS
    if wanted != handler.processors:
        handler.processors = wanted
        with contextlib.suppress(OSError):  # Meanwhile this process may have lost that processor.
            os.sched_setaffinity(0, wanted)  # 0: this thread.


def watch(server: Server) -> None:
    """Keeps the deadlines of sockets and queries, in a thread of its own.

    Out of memory, Python itself can loop for ever and keep the GIL: no other thread runs again. So
    a timer of the system counts the processor time of this process. It is set anew each time; when
    it is over, SIGPROF ends the process.
    """
    while True:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, SPIN_SECONDS)
        time.sleep(0.5)
        try:
            querying = [handler for handler in list(server.handlers) if handler.querying]
            left = {handler.querying for handler in querying if has_left(handler.connection)}
            server.app.store.stop_queries(left)
            for handler in list(server.handlers):
                if handler.deadline < time.monotonic():
                    handler.expire()
        except Exception:  # Without this thread, nothing would have a deadline.
            log.exception("unexpected error while keeping the deadlines")


def decompress(data: bytes) -> bytes:
    """The bytes of a gzip file, of one or more members, or of deflate with or without zlib's frame.

    It stops at the limit: 10 KiB can hold 10 MiB and more. Raises TooLarge, BadBody.
    """
    whole = bytearray()
    try:
        for _ in range(MAX_GZIP_MEMBERS):
            first = int.from_bytes(data[:2], "big")
            is_gzip = first == 0x1F8B
            is_zlib = (first >> 8) & 15 == 8 and first % 31 == 0  # RFC 1950, 2.2.
            # 32: zlib tells the two by the head. Negative: there is no head at all.
            wbits = 32 + zlib.MAX_WBITS if is_gzip or is_zlib else -zlib.MAX_WBITS
            stream = zlib.decompressobj(wbits)
            whole += stream.decompress(data, MAX_BODY_BYTES + 1 - len(whole))
            check_body_size(len(whole))
            if not stream.eof:
                raise zlib.error("it is cut short")
            data = stream.unused_data
            if not data:
                return bytes(whole)
        raise zlib.error(f"it has more than {MAX_GZIP_MEMBERS} members")
    except zlib.error as error:
        hint = "Compress it again, or send it as it is, without Content-Encoding."
        raise BadBody(f"The body can't be decompressed: {error}.", hint) from None


def send_pieces(handler: Handler, pieces: Iterator[bytes], is_chunked: bool) -> None:
    """Sends the pieces of a stream as they come: in chunks, or to HTTP/1.0 until the close.

    After an error in the middle the last chunk is missing, so that half an answer does not
    look whole. HTTP/1.0 has no chunks, and can't tell.
    """
    handler.wfile.flush()
    handler.set_deadline(float("inf"))  # Now it is the store that works.
    try:
        for data in filter(None, pieces):
            is_large = len(data) > HELD_ANSWER_BYTES
            if is_large:
                handler.hold(len(data))
            handler.write(b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data)
            if is_large:
                handler.hold(-len(data))
            handler.set_deadline(float("inf"))
    except Refusal as refusal:
        log.error("an answer was broken off: %s", refusal)
        raise ConnectionAbortedError from None
    if is_chunked:
        handler.write(b"0\r\n\r\n")


def drain(handler: Handler) -> None:
    """Reads on for a moment after a refusal, then closes.

    Closing while the client sends could destroy the answer, unread (RFC 9112, section 9.6).
    """
    handler.close_connection = True
    handler.set_deadline(DRAIN_SECONDS)
    socket.socket.shutdown(handler.connection, socket.SHUT_WR)  # As in `Handler.expire`.
    while time.monotonic() < handler.deadline:
        if not handler.connection.recv(1 << 12):
            if not handler.is_shut:  # The client has ended its sending.
                break
            time.sleep(0.1)  # After `expire` a read does not wait, but more may come.


def has_left(connection: socket.socket) -> bool:
    """Whether the client ended its side of the connection, where the system can tell.

    One that ended only its sending looks like one that is gone, and is taken for it, as by
    most servers. Small answers are out before `watch` looks.
    """
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    with contextlib.suppress(OSError, ValueError):  # It may be closed already.
        poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def stop(server: Server) -> None:
    """Takes no more connections, ends idle ones, and waits for requests in flight.

    Those that are not over after SHUTDOWN_SECONDS end with the process, without an answer.
    """
    server.app.stopping.set()
    server.shutdown()
    server.server_close()
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    while server.handlers and time.monotonic() < deadline:
        for handler in list(server.handlers):
            if handler.idle:
                handler.expire()
        time.sleep(0.02)


# -------- 13. Formats of others *
# The core uses nothing of this chapter. It adds lines to the route table.

PROTOBUF = "application/x-protobuf"
UNKNOWN_SERVICE = "unknown_service"  # OpenTelemetry's name for a service without one.
# What the code raises where the JSON or protobuf of a client does not have the form of its format.
MALFORMED = (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError)

# Protobuf (https://protobuf.dev/programming-guides/encoding/). A message is a row of fields. Each
# begins with a tag: 8 * its number + its wire type. Wire type 0 is followed by a varint, 1 and 5 by
# 8 and 4 bytes, and 2 by a length and so many bytes: a text, or another message. Tags and lengths
# are varints too.


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    r"""A number of 1 to 10 bytes, the lowest 7 bits first, and the offset after it.

    Its last byte is below 128.

    >>> read_varint(b"\xac\x02", 0)  # 0x2c + 128 * 2
    (300, 2)
    """
    if at < len(data) and data[at] < 128:  # Most are that short.
        return data[at], at + 1
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise ValueError("it is cut short, or has a number of more than 10 bytes")


def find_content(data: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Where the content of a field begins and ends, whose tag ends at `at`. Raises ValueError."""
    if wire_type == 0:
        return at, read_varint(data, at)[1]
    if wire_type == 2:
        length, at = read_varint(data, at)
        return at, at + length
    if wire_type in (1, 5):
        return at, at + (8 if wire_type == 1 else 4)
    raise ValueError(f"wire type {wire_type} is not taken")  # 3 and 4 are groups.


# Names are not sent: here are those of the JSON form, and what each field holds, a scalar or a
# message. Other fields are skipped. A record stays in bytes and is read later: so a bad one does
# not spoil the others, and not all of them are in memory as JSON.
MESSAGES = {
    "Request": {1: ("resourceLogs", "ResourceLogs")},
    "ResourceLogs": {1: ("resource", "Resource"), 2: ("scopeLogs", "ScopeLogs")},
    "Resource": {1: ("attributes", "KeyValue")},
    "ScopeLogs": {1: ("scope", "Scope"), 2: ("logRecords", "bytes")},
    "Scope": {1: ("name", "text")},
    "LogRecord": {
        1: ("timeUnixNano", "fixed64"), 11: ("observedTimeUnixNano", "fixed64"),
        2: ("severityNumber", "int"), 3: ("severityText", "text"), 5: ("body", "AnyValue"),
        6: ("attributes", "KeyValue"), 9: ("traceId", "hex"), 10: ("spanId", "hex"),
        12: ("eventName", "text"),
    },
    "KeyValue": {1: ("key", "text"), 2: ("value", "AnyValue")},
    "AnyValue": {
        1: ("stringValue", "text"), 2: ("boolValue", "bool"), 3: ("intValue", "int"),
        4: ("doubleValue", "double"), 5: ("arrayValue", "ArrayValue"),
        6: ("kvlistValue", "KeyValueList"), 7: ("bytesValue", "base64"),
    },
    "ArrayValue": {1: ("values", "AnyValue")},
    "KeyValueList": {1: ("values", "KeyValue")},
}  # fmt: skip
REPEATED = frozenset(["resourceLogs", "scopeLogs", "logRecords", "attributes", "values"])
# The wire type of each scalar, and how its JSON form is made of its bytes.
SCALARS: dict[str, tuple[int, Callable[[bytes], Json]]] = {
    "int": (0, lambda data: (read_varint(data, 0)[0] + 2**63) % 2**64 - 2**63),  # Two's complement.
    "bool": (0, lambda data: read_varint(data, 0)[0] != 0),
    "fixed64": (1, lambda data: int.from_bytes(data, "little")),
    "double": (1, lambda data: json_number(*struct.unpack("<d", data))),
    "text": (2, lambda data: data.decode("utf-8", "replace")),
    "hex": (2, bytes.hex),
    "base64": (2, lambda data: base64.b64encode(data).decode()),
    "bytes": (2, bytes),
}


def json_number(number: float) -> Json:
    """A number, or the text that stands for NaN or Infinity: JSON has no such numbers."""
    return number if abs(number) < float("inf") else json.dumps(number)


def read_message(
    kind: str, data: bytes, at: int, end: int, places: Iterator[int] | None = None
) -> dict[str, Json]:
    r"""The message that stands in `data` from one offset to another, as its JSON form.

    Each value in a list takes one of MAX_VALUES places.

    >>> read_message("KeyValue", b"\x0a\x01n\x12\x02\x18\x05", 0, 7)
    {'key': 'n', 'value': {'intValue': 5}}

    Raises ValueError, RecursionError, TooLarge.
    """
    places = places or iter(range(MAX_VALUES))
    fields = MESSAGES[kind]
    message: dict[str, Json] = {}
    while at < end:
        tag, begin = read_varint(data, at)
        number = tag >> 3
        wire_type = tag & 7
        begin, at = find_content(data, begin, wire_type)
        if at > end:
            raise ValueError("it is cut short")
        if number not in fields:
            continue
        name, form = fields[number]
        expected, convert = SCALARS.get(form, (2, None))  # Without one, it is a message.
        if wire_type != expected:
            raise ValueError(f"{name} has wire type {wire_type}")
        value = convert(data[begin:at]) if convert else read_message(form, data, begin, at, places)
        if name not in REPEATED:
            message[name] = value
            continue
        message.setdefault(name, []).append(value)
        if next(places, None) is None:  # An empty value has two bytes, and takes much memory.
            raise TooLarge(f"There are over {MAX_VALUES:,} values.", "Send smaller batches.")
    return message


def write_varint(number: int) -> bytes:
    """A number as `read_varint` reads it."""
    if number < 128:
        return bytes([number])
    return bytes([number & 127 | 128]) + write_varint(number >> 7)


def write_field(number: int, content: int | bytes) -> bytes:
    """A field that holds a number, or a text or another message."""
    if isinstance(content, int):
        return write_varint(8 * number + 0) + write_varint(content)
    return write_varint(8 * number + 2) + write_varint(len(content)) + content


# OTLP, from OpenTelemetry (https://opentelemetry.io/docs/specs/otel/logs/data-model/), as JSON, or
# as protobuf, of which `read_message` makes the same JSON.


def post_otlp(app: App, request: Request) -> Response:
    """Takes records from OpenTelemetry (OTLP/HTTP), and answers in the encoding that was sent."""
    is_protobuf = "protobuf" in request.headers.get("content-type", "")
    split = functools.partial(split_otlp, is_protobuf=is_protobuf)
    try:
        parsed, batch = app.store_body(request, split, parse_otlp)
    except Refusal as refusal:  # The protocol's Status has a "message".
        message = f"{refusal.error} {refusal.hint}"
        refusal.details["message"] = message
        if not is_protobuf:
            raise
        body = write_field(2, message.encode())
        return refusal_response(refusal)._replace(body=body, content_type=PROTOBUF)
    headers = replayed_header(batch)
    error = "{field}: {error}".format_map(parsed.errors[0]) if parsed.rejected else ""
    if is_protobuf:
        partial_success = write_field(1, parsed.rejected) + write_field(2, error.encode())
        body = write_field(1, partial_success) if parsed.rejected else b""
        return Response(200, body, content_type=PROTOBUF, headers=headers)
    # An int64 is a text in the JSON of protobuf.
    partial = {"rejectedLogRecords": str(parsed.rejected), "errorMessage": error}
    return json_response(200, {"partialSuccess": partial} if parsed.rejected else {}, headers)


def split_otlp(body: bytes, is_protobuf: bool) -> list[Json]:
    """The log records of a body, each with what it shares with others. Raises Refusal."""
    values: list[Json] = []
    try:
        if is_protobuf:
            requests: list[Json] = [read_message("Request", body, 0, len(body))]
        else:
            requests = split_logs(body)
        for request in requests:
            if isinstance(request, RecordError):  # A bad line in a file of requests.
                values.append(request)
                continue
            # A request may be empty. Without this name, a KeyError: the JSON is not OTLP.
            resources = request["resourceLogs"] if request != {} else []
            for resource_logs in resources or []:
                # Names of 2021, or with "_": scopeLogs would seem to be empty.
                if resource_logs.keys() & {"instrumentationLibraryLogs", "scope_logs"}:
                    raise ValueError
                shared = otlp_pairs((resource_logs.get("resource") or {}).get("attributes"))
                check_shared(shared)
                for scope_logs in resource_logs.get("scopeLogs") or []:
                    if "log_records" in scope_logs:
                        raise ValueError
                    name = (scope_logs.get("scope") or {}).get("name")
                    records = scope_logs.get("logRecords") or []
                    check_count(len(values) + len(records))
                    values += [(shared, name, record) for record in records]
    except MALFORMED as error:
        reason = f": {error}" if is_protobuf else ""
        hint = 'Send {"resourceLogs": [...]} as the protocol has it; other JSON goes to POST /logs.'
        raise BadBody(f"The body is not an OTLP logs request{reason}.", hint) from None
    return values


def check_shared(attributes: dict[str, Json]) -> None:
    """Raises TooLarge for attributes that are too long: each record that shares them has them."""
    if len(encode_json(attributes)) > MAX_ATTRIBUTES_BYTES:
        most = f"{MAX_ATTRIBUTES_BYTES >> 10} KiB"
        raise TooLarge(f"The records share over {most} of attributes.", "Send fewer.")


def parse_otlp(value: Json, token: Token) -> Record:
    """Makes a record of what `split_otlp` gave. Raises RecordError."""
    shared, scope, sent = value
    is_protobuf = isinstance(sent, bytes)
    if is_protobuf and len(sent) > MAX_PROTOBUF_BYTES:
        raise RecordError("record", f"is longer than {MAX_PROTOBUF_BYTES >> 20} MiB")
    try:
        record = read_message("LogRecord", sent, 0, len(sent)) if is_protobuf else sent
        extras = {name: record.get(name) for name in ("traceId", "spanId", "eventName")}
        extras["scope"] = scope
        message = otlp_value(record.get("body") or {})
        if message in (None, ""):
            message = extras.pop("eventName") or message
        attributes = {**shared, **{name: text for name, text in extras.items() if text}}
        service = attributes.pop("service.name", None) or UNKNOWN_SERVICE
        nanoseconds = int(record.get("timeUnixNano") or 0)
        nanoseconds = nanoseconds or int(record.get("observedTimeUnixNano") or 0)
        fields = {
            "message": message,
            # As a text: a number would have to be guessed.
            "timestamp": format_timestamp(nanoseconds // 1000) if nanoseconds else None,
            "attributes": attributes | otlp_pairs(record.get("attributes")),
            **otlp_severity(record.get("severityNumber") or 0, record.get("severityText")),
        }
    except MALFORMED as error:
        reason = f": {error}" if is_protobuf else ""
        raise RecordError("record", f"is not a LogRecord of OTLP{reason}") from None
    # SDKs send "unknown_service:python" for a service without a name: a service token knows better.
    if token.role == "shipper" or not str(service).startswith(UNKNOWN_SERVICE):
        fields["service"] = service
    return parse_record(fields, token)


def otlp_severity(number: Json, text: Json) -> dict[str, Json]:
    """The fields of a record for a SeverityNumber, which may be its name, and a SeverityText.

    Where they mean different things the number counts. What does not count becomes an attribute.

    >>> otlp_severity("SEVERITY_NUMBER_WARN2", "Warning"), otlp_severity(0, "warn")
    ({'severity': 'WARNING'}, {'level': 'warn'})
    >>> otlp_severity(9, "note"), otlp_severity(25, "warn")
    ({'severity': 'INFO'}, {'level': 'warn', 'severity_number': 25})
    """
    value = number.removeprefix("SEVERITY_NUMBER_") if isinstance(number, str) else number
    is_set = value not in ("0", "UNSPECIFIED")
    fields = {"level": text, "severity_number": number if is_set else None}
    with contextlib.suppress(ValueError):
        severity = parse_severity(value, "severity_number")
        fields = {"severity": SEVERITY_NAMES[severity], "level": text}
        if parse_severity(text) == severity:
            del fields["level"]
    return {name: value for name, value in fields.items() if value}


def otlp_value(value: dict[str, Json]) -> Json:
    """An AnyValue as plain JSON.

    >>> otlp_value({"arrayValue": {"values": [{"intValue": "3"}, {"kvlistValue": {"values": []}}]}})
    [3, {}]
    """
    present = ((kind, content) for kind, content in value.items() if content is not None)
    nothing: tuple[str, Json] = ("", None)
    kind, content = next(present, nothing)
    if kind == "arrayValue":
        return [otlp_value(item) for item in content.get("values") or []]
    if kind == "kvlistValue":
        return otlp_pairs(content.get("values"))
    return int(content) if kind == "intValue" else content


def otlp_pairs(pairs: list[Json] | None) -> dict[str, Json]:
    """A list of KeyValue as an object. Raises TypeError for a key that is no text."""
    values = {pair.get("key", ""): otlp_value(pair.get("value") or {}) for pair in pairs or []}
    if not all(isinstance(key, str) for key in values):
        raise TypeError("a key must be a text")
    return values


# Splunk's HTTP Event Collector (HEC), which Docker's own log driver speaks, and Loki's push. Both
# wrap what a program wrote, which is often a record in JSON itself.


def parse_inner(inner: Json, outer: dict[str, Json], token: Token) -> Record:
    """Makes a record of a line or an event and of the fields that came around it.

    Where it is a JSON object, or a text that is one, its members are the record: what came around
    it gives only the service, the time, the severity and the attributes that the line lacks. Where
    the members make no good record, the line as it stands is the message. A service token writes
    its own service: one that a line names is an attribute. Raises RecordError.

    >>> outer = {"timestamp": "2026-11-24", "service": "web", "attributes": {"pod": "a"}}
    >>> parse_inner('{"msg": "full", "level": "error"}', outer, Token("secret", "shipper"))[1:]
    ('web', 40, 'full', '{"pod":"a"}')
    """
    may_name = token.role == "shipper"
    service = outer["service"] if may_name else token.service
    labels = outer["attributes"]
    # Of a copy: a label that tells the severity stays an attribute too.
    label = pop_alias(dict(labels), find_aliases(labels), "severity")
    outer = {**outer, "service": service, "severity": SEVERITY_NAMES.get(label)}
    fields = read_object(inner)
    aliases = find_aliases(fields)
    attributes = fields.pop("attributes", None) or {}
    if not fields or not isinstance(attributes, dict):
        return parse_record({**outer, "message": inner}, token)
    around = parse_record({**outer, "message": "-"}, token)  # Its time and severity count.
    severity = pop_alias(fields, aliases, "severity")
    if severity:
        if "severity" in fields:  # It was not understood, but an alias was: both stay visible.
            attributes = {"severity": fields["severity"], **attributes}
        fields["severity"] = SEVERITY_NAMES[severity]
    # In `parse_record` the "attributes" win over other members. Here the program's own win.
    shared = {name: value for name, value in labels.items() if name not in fields}
    own = fields.get("service")
    name = own.get("name") if isinstance(own, dict) else own  # ECS has {"name": "web"}.
    if not may_name or not (name or fields.get("service.name")):
        if own:  # It does not count: it becomes an attribute.
            shared["service"] = own
        if may_name and service == UNKNOWN_SERVICE:  # Then an alias ("logger") counts.
            service = pop_alias(fields, aliases, "service") or service
        fields["service"] = service  # Else `parse_record` takes the line's own.
    fields["attributes"] = {**shared, **attributes}
    try:
        record = parse_record(fields, token)
    except RecordError:
        whole = parse_record({**outer, "message": inner}, token)
        return whole._replace(severity=severity or whole.severity)
    timestamp = around.timestamp if record.timestamp is None else record.timestamp
    return record._replace(timestamp=timestamp, severity=severity or around.severity)


def read_object(value: Json) -> dict[str, Json]:
    """The members of a JSON object, or of a text that holds one; none of anything else.

    >>> read_object('{"level": "warn"}'), read_object("hello")
    ({'level': 'warn'}, {})
    """
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, str) and value[:1] == "{":
        with contextlib.suppress(ValueError, RecursionError):
            return dict(json.loads(mend_surrogates(value)))
    return {}


def post_hec(app: App, request: Request) -> Response:
    """Takes records in the form of Splunk's HTTP Event Collector.

    Where a part of a batch is stored, the status is 200: after any other, Docker sends all of it
    again. The code is not 0: then other clients show the text.
    """
    try:
        parsed, batch = app.store_body(request, split_logs, parse_hec)
    except Refusal as refusal:
        refusal.details["text"] = f"{refusal.error} {refusal.hint}"
        refusal.details["code"] = 6  # A fault in the data. Clients treat all but 0 alike.
        raise
    answer: dict[str, Json] = {"text": "Success", "code": 0}
    if parsed.rejected:
        text = "Event {index} is refused, {field}: {error}.".format_map(parsed.errors[0])
        answer = {"text": text, "code": 6, **batch_answer(parsed, batch)}
    return json_response(200, answer, replayed_header(batch))


def answer_hec_options(_app: App, _request: Request) -> Response:
    """Tells Docker that there is a collector."""
    return Response(200)


def parse_hec(value: Json, token: Token) -> Record:
    """Makes a record of an event and what is known of it. Raises RecordError.

    Docker's event is {"line": ..., "source": "stdout", "tag": ...}, that of others has a "message".
    """
    if not isinstance(value, dict):
        raise RecordError("record", f"must be a JSON object, not {shorten(value)}")
    event = value.get("event")
    if event is None or (isinstance(event, str) and not event.strip()):
        raise RecordError("event", "is missing or blank")
    attributes = {name: value[name] for name in value if name not in ("event", "time")}
    if isinstance(value.get("fields"), dict | None):
        attributes |= attributes.pop("fields", None) or {}
    if isinstance(event, dict):
        inner = event.get("message")
        if "line" in event and event.keys() <= {"line", "source", "tag", "attrs"}:
            attributes |= event
            event = attributes.pop("line")
        # Loggers for Splunk wrap a record: {"message": {"msg": "hi"}, "severity": "info"}. This
        # becomes {"message": None, "severity": "info", "msg": "hi"}: the wrapper is no message.
        elif isinstance(inner, dict) and ("message" in inner or "msg" in inner):
            event = {**event, "message": None, **inner}
    names = [attributes.get("service"), attributes.get("tag")]
    names += [value.get(name) for name in ("sourcetype", "source", "host")]
    service = next(filter(is_service, names), UNKNOWN_SERVICE)
    outer = {"timestamp": value.get("time") or None, "service": service, "attributes": attributes}
    return parse_inner(event, outer, token)


def post_loki(app: App, request: Request) -> Response:
    """Takes records in the form of Loki's push, as JSON.

    A push of which a part is stored gets 200 with what POST /logs answers, since its clients would
    repeat all of it after 4xx. All else gets 204, as from Loki.
    """
    parsed, batch = app.store_body(request, split_loki, parse_loki)
    if parsed.rejected:
        return json_response(200, batch_answer(parsed, batch), replayed_header(batch))
    return Response(204, headers=replayed_header(batch))


def split_loki(body: bytes) -> list[Json]:
    """The entries of all streams of a push, each with the labels that it shares. Raises Refusal."""
    if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"[", b""):
        hint = "Set the client to JSON: in winston-loki, json: true."
        raise Unsupported("Loki's push is taken as JSON, not as protobuf with snappy.", hint)
    values: list[Json] = []
    try:
        for document in split_logs(body):
            for stream in document["streams"]:
                labels = {**(stream.get("stream") or {})}  # A TypeError for a list.
                check_shared(labels)
                entries = stream["values"] or []
                check_count(len(values) + len(entries))
                values += [(labels, entry) for entry in entries]
    except MALFORMED:
        hint = 'Send {"streams": [{"stream": {LABELS}, "values": [["NANOSECONDS", "LINE"]]}]}.'
        raise BadBody("The body is not a push of Loki.", hint) from None
    return values


def parse_loki(value: Json, token: Token) -> Record:
    """Makes a record of an entry and its labels. Raises RecordError."""
    labels, entry = value
    is_entry = isinstance(entry, list) and len(entry) in (2, 3) and None not in entry[:2]
    metadata = entry[2] if is_entry and len(entry) == 3 else {}
    if not is_entry or not isinstance(metadata, dict | None):
        error = 'must be ["NANOSECONDS", "LINE"], with or without a third item, an object'
        raise RecordError("values", error)
    attributes = labels | (metadata or {})
    names = ("service_name", "service", "app", "application", "container", "job", "logger")
    service = next(filter(is_service, map(attributes.get, names)), UNKNOWN_SERVICE)
    outer = {"timestamp": entry[0], "service": service, "attributes": attributes}
    return parse_inner(entry[1], outer, token)


HEC: dict[str, Endpoint] = {"POST": post_hec, "OPTIONS": answer_hec_options}
ROUTES["/v1/logs"] = {"POST": post_otlp}
for end in ("", "/event", "/event/1.0"):
    ROUTES[f"/services/collector{end}"] = HEC
for end in ("", "/1.0"):  # Clients look at the status only.
    ROUTES[f"/services/collector/health{end}"] = {"GET": get_health}
ROUTES["/loki/api/v1/push"] = {"POST": post_loki}


# -------- 14. ClickHouse *
# The core uses nothing of this chapter: main makes a `ClickHouseStore` for a store with "://".

NUMBERS = 16  # Servers on one store, at most: an id is microseconds times 16, plus such a number.
# The microseconds count from here, and not from 1970: so ids stay below MAX_ID until 2043. From
# 1970, they would be greater already, and JavaScript and jq would round them.
IDS_BEGIN = (datetime(2026, 1, 1, tzinfo=timezone.utc) - EPOCH) // MICROSECOND
# A record that is not committed so long after it got its id never will be: its INSERT begins at
# once, and ends after two tries of QUERY_SECONDS + 2 each. The rest is for clocks that differ.
LATE = 2 * MINUTE
CREATE_PROBES = """
CREATE TABLE IF NOT EXISTS probes (at DateTime) ENGINE = MergeTree ORDER BY at
TTL at + INTERVAL 1 HOUR SETTINGS fsync_after_insert = 1
"""
CREATE_LOGS = """
CREATE TABLE IF NOT EXISTS logs (
    id Int64, received_at Int64, timestamp Int64, service LowCardinality(String),
    severity UInt8, message String, attributes String,
    batch String,  -- The Idempotency-Key's hash, or a random one.
    body String,   -- The hash of the body.
    INDEX by_id id TYPE minmax GRANULARITY 1,
    INDEX by_batch batch TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = MergeTree ORDER BY (timestamp, id)
PARTITION BY toYYYYMMDD(toDateTime(intDiv(received_at, 1000000)))
TTL fromUnixTimestamp64Micro(received_at) + INTERVAL {seconds} SECOND
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1
"""


class ClickHouseStore(Store):
    """A table in ClickHouse, over its HTTP interface. Several servers may share it.

    An id is the microseconds since 2026 times 16, plus the server's number. So each server gives
    its own ids, ascending. Every INSERT has a token, and ClickHouse stores one token once: a try
    whose answer was lost can be repeated. Raises StartError.
    """

    def __init__(self, config: Config):
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._number = config.number
        try:
            url = urllib.parse.urlsplit(config.store)
            if url.scheme != "http" or not url.hostname:
                raise ValueError("must be http://user:password@host:8123/database")
            self._address = (url.hostname, url.port or 8123)
            unquote = urllib.parse.unquote_to_bytes
            self._headers = {
                "X-ClickHouse-User": unquote(url.username or "default"),
                "X-ClickHouse-Key": unquote(url.password or ""),
                "X-ClickHouse-Database": unquote(url.path.strip("/") or "default"),
            }
            self._ask(CREATE_PROBES)
            days = min(config.max_age_days or 36500, 36500)  # A hundred years for no bound.
            self._ask(CREATE_LOGS.format(seconds=int(days * 86400)))
            self._next_id = (self.newest() // NUMBERS + 1) * NUMBERS + self._number
        except (ValueError, Unavailable) as error:
            raise StartError(f"server.store: {error}") from None

    def _ask(self, sql: str, values: Iterable[Json] = (), rows: str = "", token: str = "") -> Any:
        """The rows that a statement gives. `rows` and `token` are an INSERT's. Raises Unavailable.

        Values go beside the statement, never into it
        (https://clickhouse.com/docs/en/interfaces/http#cli-queries-with-parameters).
        """
        parameters: dict[str, Json] = {}
        for number, value in enumerate(values):
            kind = "Int64" if isinstance(value, int) else "String"
            sql = sql.replace("?", f"{{p{number}:{kind}}}", 1)
            text = str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
            parameters[f"param_p{number}"] = text
        parameters |= {
            "query": sql,
            "default_format": "JSONCompactEachRow",
            "max_execution_time": QUERY_SECONDS,
            "insert_deduplication_token": token,
            "async_insert": 0,  # The answer comes when the rows are stored,
            "insert_distributed_sync": 1,  # and when all shards have them.
            "wait_end_of_query": 1,  # An error in the middle gets its status.
            "output_format_json_quote_64bit_integers": 0,
            "allow_simdjson": 0,  # It reads no object with a number of more than 64 bits.
        }
        target = f"/?{urllib.parse.urlencode(parameters)}"
        status, data, is_repeat = self._send(target, rows.encode())
        if status == 408:  # After max_execution_time.
            raise query_stopped()
        if status != 200:
            reason = data.decode("utf-8", "replace").partition("\n")[0]
            raise Unavailable(f"ClickHouse says: {reason[:300]}")
        # It may have been killed in the first try, after it had noted the token and before it had
        # the records. Then it ignores that token.
        count = "SELECT count() FROM logs WHERE batch = ?"
        if token and is_repeat and self._ask(count, [token.partition(".")[0]]) == [[0]]:
            raise Unavailable("ClickHouse was away, and has not stored the batch.")
        return [json.loads(line) for line in data.splitlines()]

    def _send(self, target: str, body: bytes) -> tuple[int, bytes, bool]:
        """Status and body of the answer to a request, and whether it was sent a second time.

        It is sent again after any error but a timeout: ClickHouse may have closed an idle
        connection. An INSERT has the same token again.
        """
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = http.client.HTTPConnection(*self._address, timeout=QUERY_SECONDS + 2)
        for is_repeat in (False, True):
            try:
                connection.request("POST", target, body, self._headers)
                response = connection.getresponse()
                data = response.read()
                # Neither a length nor chunks: ClickHouse was killed while it sent its headers.
                if response.status == 200 and response.length is None and not response.chunked:
                    raise http.client.IncompleteRead(data)
                self._idle.put(connection)
                return response.status, data, is_repeat
            except (OSError, http.client.HTTPException) as error:
                connection.close()  # The next request opens it again.
                if isinstance(error, TimeoutError):
                    break
        raise Unavailable("ClickHouse at {}:{} can't be reached.".format(*self._address))

    def write(self, batches: list[Batch]) -> None:
        """One INSERT for all batches without a key, and one for each with a key."""
        deadline = time.monotonic() + QUERY_SECONDS  # For all of them together.
        groups = [[batch] for batch in batches if batch.key]
        groups.append([batch for batch in batches if not batch.key])
        for group in filter(None, groups):
            try:
                if time.monotonic() > deadline:
                    raise Unavailable("ClickHouse takes too long.")
                if group[0].key:
                    self._insert_once(group[0])
                else:
                    self._insert(group, os.urandom(32).hex())
            except Unavailable as outage:  # The other groups are still tried.
                log.error("a batch was not stored: %s", outage)
                fail(group, outage)
            except Exception as error:  # Not raised: the Committer would try all batches again.
                for batch in group:
                    batch.failure = error

    def _insert_once(self, batch: Batch) -> None:
        """Inserts a batch with a key. A known key adds nothing.

        ClickHouse may have been killed after it had noted a token, and before it had the records.
        It ignores that token from then on: so another one is tried.
        """
        for attempt in ("", ".2", ".3"):
            if self._is_stored(batch):
                return
            self._insert([batch], batch.key.hex(), attempt)
        if not self._is_stored(batch):
            raise Unavailable("ClickHouse does not store this batch.")

    def _insert(self, group: list[Batch], key: str, attempt: str = "") -> None:
        """Gives ids to the records of a group, and inserts them with one token: all or none."""
        received_at = now()
        record_id = max((received_at - IDS_BEGIN) * NUMBERS + self._number, self._next_id)
        rows = []
        for batch in group:
            batch.first_id = record_id
            batch.stored = len(batch.records)
            for timestamp, *values in batch.records:
                times = [received_at, received_at if timestamp is None else timestamp]
                rows.append(encode_json([record_id, *times, *values, key, batch.body_hash.hex()]))
                record_id += NUMBERS
            batch.last_id = record_id - NUMBERS
        self._next_id = record_id
        insert = f"INSERT INTO logs ({COLUMNS}, batch, body) FORMAT JSONCompactEachRow"
        self._ask(insert, rows="\n".join(rows), token=key + attempt)

    def _is_stored(self, batch: Batch) -> bool:
        """Whether the batch's key is there. Then the batch gets those ids, or a failure."""
        first_id = batch.first_id  # As `_insert` gave it just now, or 0.
        sql = "SELECT min(id), max(id), any(body), count() FROM logs WHERE batch = ?"
        [row] = self._ask(sql, [batch.key.hex()])
        batch.first_id, batch.last_id, body, batch.stored = row
        if not batch.stored:
            return False
        # Other ids than ours: it was stored before, or just now by another server.
        batch.replayed = batch.first_id != first_id
        batch.failure = None if body == batch.body_hash.hex() else KeyReused()
        return True

    def newest(self) -> int:
        """The newest id. What is older than LATE is not looked at."""
        floor = self._floor()
        [[newest]] = self._ask("SELECT max(id) FROM logs WHERE id > ?", [floor])
        return max(int(newest), floor)

    def page(self, query: Query, seen: list[int] | None = None) -> Page:
        """As in the base class. For a follower: only ids after what `seen` has for their server."""
        test, values = clickhouse_where(query)
        if seen:
            # ClickHouse counts the members of an array from 1.
            test += f" AND id > [{', '.join('?' * NUMBERS)}][id % {NUMBERS} + 1]"
            values += seen
        # It ends early where the records are too long together, as in SQLite. `bytes` is the length
        # of a record and of all before it.
        sql = f"""
            SELECT {COLUMNS}, bytes FROM (
                SELECT *, length(message) + length(attributes) AS own,
                       sum(own) OVER (ORDER BY {order_by(query)}) AS bytes
                FROM (SELECT {COLUMNS} FROM logs WHERE {test}
                      ORDER BY {order_by(query)} LIMIT {query.limit + 1}))
            WHERE bytes - own <= {PAGE_CHARS} ORDER BY {order_by(query)}
        """
        rows = self._ask(sql, values)
        records = [StoredRecord(*row) for *row, _ in rows]
        more = len(records) > query.limit or (bool(rows) and rows[-1][-1] > PAGE_CHARS)
        return records[: query.limit], more

    def follow(self, query: Query) -> Iterator[list[StoredRecord]]:
        """As the base class has it. Raises BadQuery for an `after` that is not given yet.

        Commits of several servers overtake each other. But those of one server come in the order of
        its ids. So `seen` has the last id of each server's number, and what comes later is found by
        it. Nothing up to `after` can still come. After a look that found everything, `after` is
        raised to the floor that was computed before the look.
        """
        seen = [0] * NUMBERS
        after = query.after or 0
        if after > self.newest():
            raise BadQuery(f"No record has the id {after} yet.", "Give the id of the last record.")
        records: list[StoredRecord] = []
        if query.after is None and query.limit:
            after = self._floor()
            sql = f"SELECT id % {NUMBERS}, max(id) FROM logs WHERE id > ? GROUP BY 1"
            for number, last_id in self._ask(sql, [after]):
                seen[number] = last_id
            records, _ = self.page(dataclasses.replace(query, by_id=True))
            records.reverse()
            yield records
        query = dataclasses.replace(query, by_id=True, order="asc", limit=STREAM_RECORDS)
        while True:
            for record in records:
                seen[record.id % NUMBERS] = record.id
            floor = self._floor()
            records = []
            with contextlib.suppress(Unavailable):  # It looks again later.
                records, more = self.page(dataclasses.replace(query, after=after), seen)
                if not more:
                    after = max(after, floor)
            yield records
            if not records:
                time.sleep(IDLE_FOLLOW_SECONDS)

    def _floor(self) -> int:
        """An id below which nothing more will be committed."""
        return (now() - LATE - IDS_BEGIN) * NUMBERS

    def stats(self, query: Query, step: int | None = None) -> Stats:
        test, values = clickhouse_where(query)
        sql = f"""
            SELECT service, severity, count(), min(timestamp), max(timestamp)
            FROM logs WHERE {test} GROUP BY 1, 2
        """
        stats = Stats(Counter())
        for service, severity, records, first, last in self._ask(sql, values):
            stats.add(Stats(Counter({(service, severity): records}), first, last))
        if stats.kinds and step:
            columns = [step_of("timestamp", step)]
            columns += [f"countIf(severity = {number})" for number in SEVERITY_NAMES]
            sql = f"SELECT {', '.join(columns)} FROM logs WHERE {test} GROUP BY 1"
            stats.add_steps(self._ask(f"{sql} LIMIT {MAX_STEPS + 1}", values))
        return stats

    def probe(self) -> None:
        self._ask("INSERT INTO probes SELECT now()")
        self._ask("SELECT count() FROM logs WHERE id < 0")  # All shards answer, none searches.

    def delete(self, query: Query) -> int:
        # What this server commits from now on is neither counted nor deleted.
        query = dataclasses.replace(query, last_id=self.newest())
        test, values = clickhouse_where(query)
        [[records]] = self._ask(f"SELECT count() FROM logs WHERE {test}", values)
        if records:
            self._ask(f"DELETE FROM logs WHERE {test}", values)
        return int(records)

    def count(self) -> int:
        return int(self._ask("SELECT count() FROM logs")[0][0])

    def size(self) -> int:
        """Bytes of all tables of the database, on this node."""
        sql = "SELECT sum(total_bytes) FROM system.tables WHERE database = currentDatabase()"
        return int(self._ask(sql)[0][0])


# ClickHouse's functions for JSON take 1 and 1.0 for the same. So the text of the wanted member is
# replaced by one with a name N that no attribute has: where "k":1 is wanted, {"a":{"k":1},"k":1}
# becomes {"a":{"N":0},"N":0}. JSONHas looks for N at the top only.
HAS_MEMBER = """
multiSearchAny(attributes, [?, ?]) AND JSONHas(replaceRegexpAll(attributes, ?, ?), ?)
"""


def clickhouse_where(query: Query) -> Sql:
    """The SQL test of a query's filters, in ClickHouse."""
    test, values = where(query)
    tests = [test]
    has_text = "positionCaseInsensitiveUTF8(message, ?) > 0"
    tests += [has_text] * len(query.contains)
    tests += [f"NOT {has_text}"] * len(query.not_contains)
    tests += [HAS_MEMBER] * len(query.attributes)
    tests += [f"NOT ({HAS_MEMBER})"] * len(query.not_attributes)
    values += query.contains + query.not_contains
    for pair in query.attributes + query.not_attributes:
        values += member_values(*pair)
    return " AND ".join(tests), values


def member_values(key: str, value: str) -> list[str]:
    """The values of HAS_MEMBER. As in SQLite, a value is this text, or JSON written like it."""
    members = [f"{encode_json(key)}:{encode_json(value)}"] * 2
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(value)
        members[1] = f"{encode_json(key)}:{value}"  # It is JSON.
    either = "|".join(map(re.escape, members))
    name = os.urandom(16).hex()
    return [*members, f"(?:{either})([,}}])", rf'"{name}":0\1', name]


# -------- 15. Page *
# The core uses nothing of this chapter. It adds a line to the route table.

STYLE = """\
:root { color-scheme: light dark; --dim: light-dark(#62676f, #98a0ab); --tone: var(--dim); }
html { scroll-padding: 15rem 0 3rem; scrollbar-gutter: stable; }
.INFO { --tone: light-dark(#2a6cab, #6caee6); }
.WARNING { --tone: light-dark(#8f5e00, #e0ae3c); }
.ERROR { --tone: light-dark(#c4342a, #ff7d73); }
.CRITICAL { --tone: light-dark(#a0187f, #ff8ad1); }
* { box-sizing: border-box; min-width: 0; overflow-wrap: anywhere; }
body { margin: auto; padding: 0 1rem 4rem; background: Canvas; font: 14px/1.5 system-ui; }
#top { top: 0; z-index: 1; padding-bottom: .4rem; background: Canvas; }
@media (min-height: 500px) { #top { position: sticky; } }
header, form, form div, nav, figcaption { display: flex; flex-wrap: wrap; gap: .4rem; }
header, form, form div, figcaption { align-items: center; }
h1 { margin: .3rem auto .3rem 0; font-size: 1.25rem; }
a { color: inherit; }
input, select, button { max-width: 100%; background: Canvas; color: inherit; font: inherit; }
input, select, button, label { position: relative; padding: .2em .5em; border: 1px solid #8886; }
:is(button, figcaption a):empty { display: none; }
[type=search] { flex: 1 12rem; }
[type=datetime-local]:focus-within { outline: 2px solid Highlight; }
form nav { flex: 0 0 100%; max-height: 6rem; overflow: auto; }
form nav span { display: flex; }
#kinds span:not(:has(:checked, [name=severity])) { display: none; }
form nav label, b { color: var(--tone); }
/* The checkbox of a chip is all of it. */
form nav input { position: absolute; inset: 0; border: 0; background: #0000; appearance: none; }
form nav label:has(:checked) { border-color: var(--tone); background: #8882; }
span > label:has(+ label :checked) { text-decoration: line-through; }
output:not(:empty) { padding: .2rem .6rem; border-left: 3px solid #d9822b; }
small, time, i, dt, figcaption, ::placeholder { color: var(--dim); font-style: normal; }
figure, dd { margin: 0; }
figure { padding: .5rem 0; font-size: 12px; }
#bars, #axis { display: flex; justify-content: space-between; }
#bars { gap: 1px; height: 5rem; touch-action: pan-y; user-select: none; }
#bars:empty, #bars:empty + #axis { display: none; }
#bars a { display: flex; flex: 1; flex-direction: column-reverse; }
/* In a drag, the bars from the one that is pressed (:active) to the pointer, either way. */
#bars a:is(:hover, :active, :active ~ :has(~ :hover), :hover ~ :has(~ :active)) { opacity: .5; }
#bars span { min-height: 1px; background: var(--tone); }
/* What was found before does not stay for long when other things are asked for. */
:has(> [aria-busy=true]) :is(figure, main) { visibility: hidden; transition: visibility 0s .5s; }
main:is(:not(:empty), [aria-busy=true]) ~ p { display: none; }
main, pre { font: 12px/1.65 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; }
details { padding-left: 10px; border-left: 3px solid var(--tone); }
summary { white-space: pre; tab-size: 9; cursor: pointer; }
:has(#wrap:checked) summary { white-space: pre-wrap; }
summary, summary span, i { overflow: hidden; text-overflow: ellipsis; }
i { display: inline-block; width: 14ch; vertical-align: bottom; }
:is(.ERROR, .CRITICAL, :hover) > summary { background: color-mix(in srgb, var(--tone) 9%, #0000); }
dl { display: grid; grid: auto / fit-content(40%) 1fr; gap: 0 2ch; }
@media (max-width: 640px) {
  form nav, form div { flex: 0 0 100%; flex-wrap: nowrap; overflow: auto; scrollbar-width: none; }
  form div *, form span { flex: none; }
  summary { tab-size: 1; }
  summary span { display: block; }
  i { width: auto; max-width: calc(100vw - 17rem); }
}
"""

# What stands between ‹ and › is for `render`: it puts the words of the reader's language there.
SCRIPT = r"""
const SEVERITIES = ['CRITICAL', 'ERROR', 'WARNING', 'INFO', 'DEBUG'];
const STEPS = [1, 5, 15, 60, 300, 900, 1800, 3600, 10800, 86400, 604800, 2592000, 31536000, 8.64e9];
const ANSI = /\x1b(?:\[[0-?]*[ -\/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))/g;  // A terminal's codes.
// Changes that take filters out of a query: all times; what only the list has.
const TIMES = {since: null, timestamp_start: null, timestamp_end: null};
const LIST = {order: null, limit: null};
const page = {};  // The elements by id or name.
document.querySelectorAll('[id], [name]').forEach(part => page[part.id || part.name] = part);
let query;  // What the address asks for: each filter is one of its pairs.
let wanted;  // A pattern of the texts that it searches for.
let work = new AbortController();  // Stops the requests for what is shown.
let latest;  // The list as it was last shown, as JSON.
let countedAt;  // When the records were last counted.
let total;  // The records when the list was shown.
let seen;  // The errors when the page was last in sight.
let timer;  // Of the next look.
let isLong = false;  // Whether "More records" has made the list longer.
let typing;  // Of a field for a time, which waits for more digits.
let grip;  // The bar where the pointer was pressed.
const iso = time => new Date(time).toISOString();  // 2026-11-24T02:14:12.000Z
const local = time => new Date(time).toLocaleString('sv');  // 2026-11-24 03:14:12 in local time
const link = (href, text) => make('a', {href}, text);
const byId = id => document.getElementById(id);
const clear = field => field.type === 'checkbox' ? field.checked = false : field.value = '';
const exact = (name, value, part) =>  // A number that JavaScript would round stays a text.
  Number.isInteger(value) && !Number.isSafeInteger(value) ? part?.source ?? value : value;
const isSelected = () => !getSelection().isCollapsed;  // Whether a text is.
const isHeld = () =>  // Nothing moves while one reads, presses or selects.
  isLong || scrollY > 300 || isSelected()
  || page.list.querySelector('[open], :active, :focus-visible');
// An end that is a date alone holds that day: filled up with "~", it comes after all its times.
const isOver = () => query.get('order') === 'asc'
  || (query.get('timestamp_end') ?? '').padEnd(11, '~') < iso(Date.now());
function make(tag, properties, ...children) {  // Makes an element; a string becomes text only.
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
function changed(changes, path = '') {  // Gives the query with other values; null takes one out.
  const next = new URLSearchParams(query);
  // What goes to the server has a path. "since" ends the list a minute from now, by the server's
  // clock: a wrong time in the future must not come first. "999999w" begins before all records.
  if (path && !next.has('since') && !next.has('timestamp_end')) next.set('since', '999999w');
  for (const name in changes) next.set(name, changes[name]);
  for (const name in changes) if (changes[name] === null) next.delete(name);
  return `${path}?${next}`;
}
// Sends a GET with the token; throws what an error says.
async function ask(url, seconds = 20, stop = work.signal) {
  const headers = sessionStorage.token ? {Authorization: `Bearer ${sessionStorage.token}`} : {};
  const signal = AbortSignal.any([stop, AbortSignal.timeout(1000 * seconds)]);
  const answer = await fetch(url, {headers, credentials: 'omit', signal});
  if (!answer.ok) throw {status: answer.status, ...await answer.json().catch(() => ({}))};
  return answer;
}
function tell({name, status, error = '', hint = ''}) {  // Shows an error; gives whether to retry.
  if (name === 'AbortError') return false;
  const [, field, value = ''] = /parameter (\S+?)(?: can't be (.*))?\.$/.exec(error) ?? [];
  const what = `${page[field]?.ariaLabel ?? field ?? error} ${value}`.trim();
  page.notice.value = {
    undefined: '‹The server does not answer. Trying again.›',
    400: `‹Not possible: ${what}. Choose again, or begin again with “Logs”.›`,
    401: sessionStorage.token ? '‹Enter a token that may read.›' : '‹Enter your read token.›',
  }[status] ?? `${error} ${hint}`.trim();
  page.token.hidden = status !== 401;
  return status === undefined || status >= 429;  // Without a status, the server is away.
}
// Shows what there is now, from the top if that is wanted, and looks again after a pause.
async function look(isWanted) {
  const start = Date.now();
  const isLive = await update(isWanted).catch(tell);
  // What costs the server much is asked seldom.
  const ms = document.hidden ? 20000 : 1000 + 4 * (Date.now() - start);
  clearTimeout(timer);
  if (isLive) timer = setTimeout(look, ms);
}
async function update(isWanted) {  // Shows what there is now; gives whether to look again.
  const answer = await ask(changed({}, 'logs'));
  const text = await answer.clone().text();
  const isFirst = page.list.ariaBusy === 'true';
  const mayMove = isFirst || isWanted || !isHeld();
  tell({status: 200});  // Takes the notice away.
  if (isWanted) scrollTo(0, 0);
  if (text !== latest && mayMove) await show(answer);
  if (isFirst) await suggest();
  if (isFirst && location.hash) await reveal(location.hash.slice(1));
  // Counts change by themselves: time goes on, and other services log.
  if (text !== latest || Date.now() - countedAt > 5000) await count(mayMove);
  if (mayMove) latest = text;
  return page.live.checked && !isOver();
}
async function show(answer, isMore = false) {  // Shows a page of records, below others or alone.
  const records = JSON.parse(await answer.text(), exact);
  if (page.list.ariaBusy === 'true') page.list.replaceChildren();  // Old rows have old marks.
  const rows = records.map(record => byId(record.id) ?? row(record));
  if (!isMore) page.list.replaceChildren();
  page.list.append(...rows);
  isLong = isMore;
  page.more.value = answer.headers.get('Link')?.split(/[<>]/)[1] ?? '';
  page.more.hidden = !page.more.value;
  page.list.ariaBusy = false;
}
async function suggest() {  // If no message has the text, offers to look for it in attributes.
  const text = query.get('contains')?.trim().replace(/^[^ =]+=/, '');  // Of "user=ana", "ana".
  const isNeeded = text && !page.list.firstChild;
  const records = isNeeded ? await (await ask('logs?limit=1000')).json() : [];
  const names = new Set(records.flatMap(({attributes}) => Object.keys(attributes)));
  const hint = name => link(changed({contains: null, [name]: text}), `${name}=${text}`);
  const hints = [...names].slice(0, 20).flatMap(name => [hint(`attr.${name}`), ' ']);
  page.hints.replaceChildren(...hints);
}
async function reveal(id) {  // Opens a record. One of another page is shown above this one.
  const answer = byId(id) ? null : await ask(`logs/${id}`).catch(() => null);
  if (answer) page.list.prepend(row(JSON.parse(await answer.text(), exact)));
  if (!byId(id)) return page.list.prepend('‹This record is not there any more.›');
  byId(id).open = true;
  byId(id).firstChild.focus();
}
const marked = text =>  // Gives the parts of a text, with marks on what is searched for.
  text.split(wanted).map((part, n) => n % 2 ? make('mark', {}, part) : part);
function row(record) {  // Makes the row of a record; its details follow when it is opened.
  const {id, timestamp, severity, service, message} = record;
  const lines = message.replace(ANSI, '').split('\n');
  const lastLine = lines.findLast(line => line.trim());  // Of a traceback of Python: what it says.
  const line = lines.find(line => line.search(wanted) >= 0)
    ?? (lines[0].startsWith('Traceback') ? lastLine : lines[0]);
  const at = line.search(wanted);
  const start = at > 100 ? at - 40 : 0;
  const text = (start ? '…' : '') + line.slice(start, start + 2000);
  const size = lines.length > 1 ? ` ‹${lines.length} lines›` : '';
  const time = make('time', {title: timestamp}, local(timestamp) + timestamp.slice(19, 23));
  const summary = make('summary', {}, time, '\t', make('b', {}, severity), '\t',
    make('i', {}, service), '\t', make('span', {}, ...marked(text)), make('small', {}, size));
  const ontoggle = ({target}) => target.children[1] ?? target.append(...facts(record));
  return make('details', {id, className: severity, ontoggle}, summary);
}
function facts(record) {  // Makes a record's details.
  const {id, timestamp, received_at, service, message, attributes} = record;
  const near = seconds => iso(Date.parse(timestamp) + 1000 * seconds);
  const around = `?timestamp_start=${near(-60)}&timestamp_end=${near(60)}#${id}`;
  const itself = `${changed({...TIMES, ...LIST, timestamp_end: timestamp})}#${id}`;
  const context = link(around, '‹one minute around, all services›');
  context.onclick = () => history.replaceState(null, '', `#${id}`);  // Back opens it again.
  const json = make('button', {onclick: copy, value: JSON.stringify(record)}, '‹copy as JSON›');
  const fields = Object.entries(attributes).map(([name, value]) => [`attr.${name}`, value]);
  const cells = [...Object.entries({id, timestamp, received_at, service}), ...fields].flatMap(fact);
  return [make('nav', {}, context, link(itself, '‹link to this record›'), json),
    make('dl', {}, ...cells), make('pre', {}, ...marked(message.replace(ANSI, '')))];
}
function fact([name, value]) {  // Makes a name and its value, with links to filter by it.
  const text = value instanceof Object ? JSON.stringify(value, null, 2) : String(value);
  // In all services: an id often leads from one to another.
  const same = link(changed({service: null, not_service: null, [name]: text}), text);
  const not = new URLSearchParams({[`not_${name}`]: text});
  const others = link(`${changed({[name]: null})}&${not}`, ' ≠');
  const isFilter = /^(service$|attr\.)/.test(name) && !(value instanceof Object);
  return [make('dt', {}, name), make('dd', {}, ...isFilter ? [same, others] : [text])];
}
async function count(mayMove) {  // Shows the counts of the chips, and the histogram.
  countedAt = Date.now();
  const answers = {};  // By address: two groups of chips may ask for the same counts.
  const once = url => answers[url] ??= ask(url).then(answer => answer.json());
  const stats = changes => once(changed({...LIST, ...changes}, 'stats'));
  const groups = [{}, {severity: null, min_severity: null}, {service: null, not_service: null}];
  const [all, {by_severity}, {by_service}] = await Promise.all(groups.map(stats));
  page.services.querySelectorAll('small').forEach(small => small.textContent = 0);
  const put = (box, number) => box.nextElementSibling.textContent = number.toLocaleString();
  for (const value in by_severity) put(chip('severity', value), by_severity[value]);
  for (const value in by_service) put(chip('service', value), by_service[value]);
  const severe = all.by_severity.ERROR + all.by_severity.CRITICAL;
  seen = document.hidden ? seen ?? severe : severe;
  document.title = severe > seen ? `(${severe - seen}) Logs` : 'Logs';
  if (mayMove) total = all.total;
  const waiting = all.total - total;
  const text = waiting > 0 ? `‹show ${waiting} new›` : '';
  page.live.disabled = isOver();
  page.state.textContent = isOver() ? '‹not live: what comes now is not in this list›' : text;
  // Records of the future, by wrong clocks, are not in the list. A link shows them.
  const {first_timestamp: first, last_timestamp: last} = all;
  const begin = iso(Math.max(Date.now(), new Date(last)) + 60000);
  const future = {...TIMES, timestamp_start: begin, timestamp_end: '9999-12-31'};
  const later = query.has('timestamp_end') ? 0 : (await stats(future)).total;
  page.later.textContent = later ? `‹${later.toLocaleString()} with a later time›` : '';
  page.later.href = changed(future);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const ends = last ? `, ${local(first)} – ${local(last)} (${zone})` : '';
  page.caption.textContent = `‹${all.total.toLocaleString()} found›${ends}`;
  // The bars, 80 at most, show the time that is asked for, or that of the records. An end that is a
  // date alone is read as its first moment: then `last` is later.
  const [, number, unit] = /^(\d+)([mhd])$/.exec(query.get('since')) ?? [];
  const back = number * {m: 6e4, h: 36e5, d: 864e5}[unit];  // Milliseconds, or NaN.
  const start = back ? iso(Date.now() - back) : query.get('timestamp_start') ?? first;
  const end = back ? iso(Date.now()) : query.get('timestamp_end') ?? last;
  const ms = Math.max(Date.parse(end), Date.parse(last)) - Date.parse(start);
  const step = STEPS.find(step => ms < 80000 * step) ?? 1;
  const name = step % 86400 ? `${step}s` : `${step / 86400}d`;
  const range = {since: null, timestamp_start: start, timestamp_end: end, step: name};
  const {histogram} = last ? await stats(range) : {histogram: []};
  const sums = histogram.map(item => SEVERITIES.reduce((sum, name) => sum + item[name], 0));
  const bars = histogram.map(item => bar(item, step, 100 / Math.max(...sums)));
  bars.at(-1)?.setAttribute('tabindex', 0);  // One stop for Tab; from there, the arrow keys.
  const {activeElement} = document;
  if (!page.bars.matches(':active')) page.bars.replaceChildren(...bars);  // It may be dragged over.
  byId(activeElement.id)?.focus({preventScroll: true});
  const cut = step < 60 ? [11, 19] : step < 86400 ? [5, 16] : [0, 10];
  const label = part => bars.at(part * (bars.length - 1))?.title.slice(...cut);
  const labels = new Set([0, .25, .5, .75, 1].map(label));
  page.axis.replaceChildren(...[...labels].map(text => make('small', {}, text)));
}
function bar({start, ...counts}, step, scale) {  // Makes a bar, a link to the records of its time.
  const names = SEVERITIES.filter(name => counts[name]);
  const numbers = names.map(name => `${counts[name]} ${name}`).join(', ');
  const end = iso(Date.parse(start) + 1000 * step - 1).replace('Z', '999Z');
  const title = `${local(start)} – ${local(end)}: ${numbers || 0}`;
  const href = changed({since: null, timestamp_start: start, timestamp_end: end});
  const box = name => make('span', {className: name, style: `height: ${scale * counts[name]}%`});
  const properties = {id: start, href, start, end, title, draggable: false, tabIndex: -1};
  return make('a', properties, ...names.map(box));
}
function chip(name, value) {  // Gives the checkbox of a filter; makes one that is not there.
  const known = byId(`${name}=${value}`);
  if (known) return known;
  const part = (name, properties, ...text) => make('label', properties,
    make('input', {type: 'checkbox', id: `${name}=${value}`, name, value}), ...text);
  const [, not, base] = /^(not_)?(.*)$/s.exec(name);
  const isCounted = /^(severity|service)$/.test(base);
  const text = isCounted ? [`${value} `, make('small')] : [`${base}=${value}`];
  const parts = [part(base, {className: value}, ...text)];
  if (not || /^(service|contains|attr\.)/.test(base))
    parts.push(part(`not_${base}`, {title: '‹All but this›'}, '≠'));
  page[base === 'service' ? 'services' : 'kinds'].append(make('span', {}, ...parts));
  return chip(name, value);
}
function visit() {  // Shows what the address asks for: its query holds all filters.
  query = new URLSearchParams(location.search);
  for (const name of ['cursor', 'format', 'follow', 'after']) query.delete(name);
  if (query.get('limit') === '0') query.set('limit', 10000);
  // A field for a time where somebody types just now stays as it is.
  const isTyped = field => field === document.activeElement && field.validity.badInput;
  [...page.filters.elements].filter(field => !isTyped(field)).forEach(clear);
  // A field takes the first value that it can hold. One that it can't leaves it empty: then, as
  // for names without a field, a chip shows it.
  for (const [name, value] of query) {
    const isUTC = /^timestamp_.*T[\d:.]+Z?$/.test(name + value);
    const field = page[name];
    const isFree = (name === 'contains' || field?.name === name) && !field.value;
    if (isFree) field.value = isUTC ? local(value.replace(/Z?$/, 'Z')).replace(' ', 'T') : value;
    if (!isFree || !field.value) chip(name, value).checked = true;
  }
  const texts = query.getAll('contains').map(text => text.replace(/[$()*+.?[\\\]^{|}]/g, '\\$&'));
  wanted = RegExp(`(${texts.join('|') || '(?!)'})`, 'iu');
  page.out.hidden = !Object.keys(TIMES).some(name => query.has(name));
  page.out.href = changed(TIMES);
  page.first.hidden = location.search !== '';
  page.json.href = changed({...LIST, limit: 0}, 'logs');
  page.csv.href = changed({...LIST, limit: 0, format: 'csv'}, 'logs');
  const token = sessionStorage.token ? " -H 'Authorization: Bearer TOKEN'" : '';
  page.curl.value = `curl${token} '${page.json.href}'`;
  page.curl.textContent = 'curl';
  work.abort();
  work = new AbortController();
  page.list.ariaBusy = true;
  latest = null;
  look(!location.hash);
}
function search(not = '') {  // Asks for what the fields and the chips say: the whole query.
  if (page.token.value) return visit();  // Nothing else has changed.
  const next = new URLSearchParams();
  for (let [name, value] of new FormData(page.filters)) {
    if (/^timestamp_.*T[\d:]+$/.test(name + value)) value = iso(value);
    if (name === 'timestamp_end') value = value.replace('000Z', '999999Z');  // All of its second.
    if (value || name.includes('attr.')) next.append(name, value);  // An attribute may be empty.
  }
  // "attr.x=1" is a filter of its own, all else is a text to search for.
  const text = page.contains.value;
  const pair = /^\s*(service|attr\.[^<>=!~]+?)\s*=\s*(.*?)\s*$/.exec(text) ?? [, 'contains', text];
  if (text) next.append(not + pair[1], pair[2]);
  location.href = `?${next}`;
}
function copy({target}) {  // Copies the value of a button. Without TLS a browser only shows it.
  navigator.clipboard?.writeText(target.value) ?? prompt('', target.value);
  target.replaceChildren(target.firstChild, ' ✓');
}
async function save(event) {  // A link sends no token: with one, the page fetches the file.
  if (!sessionStorage.token) return;
  event.preventDefault();
  const {href, download} = event.target;
  const blob = await (await ask(href, 3600, new AbortController().signal)).blob();
  make('a', {href: URL.createObjectURL(blob), download}).click();
}
window.navigation?.addEventListener('navigate', event => {  // Older browsers load the page anew.
  const isOurs = event.canIntercept && event.downloadRequest === null;
  if (isOurs && ['push', 'traverse'].includes(event.navigationType))
    event.intercept({handler: visit, focusReset: 'manual', scroll: 'manual'});
});
page.filters.onchange = ({target}) => {  // Takes out what the choice replaces, and searches.
  const {name, type} = target;
  const times = name === 'since' ? Object.keys(TIMES) : ['since', name];
  const replaced = name in TIMES ? times : /severity$/.test(name) ? ['min_severity'] : [];
  for (const field of page.filters.elements)
    if (field !== target && replaced.includes(field.name)) clear(field);
  // Of a chip and its "≠", one can be on.
  target.closest('span')?.querySelectorAll(':checked').forEach(box => box.checked = box === target);
  clearTimeout(typing);
  typing = setTimeout(search, type === 'datetime-local' ? 1000 : 0);
};
page.contains.oninput = ({target}) =>  // Its × empties it.
  target.value || query.has('contains') && search();
page.exclude.onmousedown = event => event.preventDefault();  // The field keeps what is typed.
page.exclude.onclick = () => search('not_');
page.token.onchange = () => sessionStorage.token = page.token.value.replace(/[^!-~]/g, '');
document.onpointerdown = ({target}) => grip = target.closest('#bars a');
document.onpointerup = ({clientX}) => {  // A drag over the bars asks for their time.
  const {top} = page.bars.getBoundingClientRect();  // It may end above or below them.
  const last = document.elementFromPoint(clientX, top + 20)?.closest('#bars a');
  if (!grip || !last || grip === last) return;
  // The least and the greatest of four times.
  const [start, , , end] = [grip.start, grip.end, last.start, last.end].sort();
  location.href = changed({since: null, timestamp_start: start, timestamp_end: end});
};
document.onkeydown = event => {  // "/" searches, "j" and "k" move, Escape closes.
  const {key, target} = event;
  const isTyped = target.matches('select, input:not([type=checkbox])');
  if (event.ctrlKey || event.metaKey || event.altKey || isTyped && key !== 'Escape') return;
  const rows = [...page.list.querySelectorAll('summary')];
  const here = target.closest('details');
  const at = rows.indexOf(here?.firstChild);
  const open = here?.open ? here : page.list.querySelector('[open]');
  const closed = isTyped ? target : open?.firstChild;
  const bar = target.closest('#bars a');
  const next = {'/': page.contains, j: rows[at + 1], k: rows[at - 1], Escape: closed,
    ArrowRight: bar?.nextSibling, ArrowLeft: bar?.previousSibling}[key];
  if (!next) return;
  event.preventDefault();
  if (key === 'Escape' && !isTyped) open.open = false;
  next.focus();
  next.select?.();
  if (!isTyped) return;  // Escape takes back what was typed, and the focus.
  page.contains.value = query.get('contains') ?? '';
  target.blur();
};
document.onvisibilitychange = () => page.live.checked && look();
page.state.onclick = () => look(true);
// A text that was selected with the mouse opens no record.
page.list.onclick = event => event.detail === 0 || !isSelected() || event.preventDefault();
page.live.onchange = () => look();
page.wrap.onchange = () => localStorage.wrap = page.wrap.checked;
page.wrap.checked = localStorage.wrap === 'true';
page.more.onclick = () => ask(page.more.value).then(answer => show(answer, true)).catch(tell);
page.curl.onclick = copy;
page.json.onclick = page.csv.onclick = event => save(event).catch(tell);
SEVERITIES.forEach(value => chip('severity', value));
visit();
"""

HTML = """\
<title>Logs</title><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'>
<path stroke='%23d9822b' d='M0 1.5h8M0 4h5M0 6.5h7'/></svg>">
<div id="top"><header><h1><a href=".">Logs</a></h1> <button id="state"></button>
  <label><input type="checkbox" id="wrap">‹Wrap lines›</label>
  <label><input type="checkbox" id="live" checked>‹Live›</label></header>
<form id="filters" autocomplete="off">
  <input type="search" id="contains" placeholder="‹Search messages, or attr.name=value›"
    title="‹/ searches, j and k move, Enter opens, Esc closes›">
  <!-- This button does nothing: who presses it leaves the field, and that is enough. -->
  <button type="button" id="search">‹Search›</button>
  <button type="button" id="exclude">‹Exclude›</button>
  <div><select name="since" aria-label="‹Time›">
      <option value="">‹Time›<option value="15m">≤ 15 min<option value="1h">≤ 1 h
      <option value="6h">≤ 6 h<option value="1d">≤ 1 d<option value="7d">≤ 7 d</select>
    <select name="min_severity" aria-label="‹Least severity›">
      <option value="">‹Any severity›<option label="≥ INFO">INFO<option label="≥ WARNING">WARNING
      <option label="≥ ERROR">ERROR</select> <small>‹From›</small>
    <input type="datetime-local" name="timestamp_start" step="1" aria-label="‹From›">
    <small>‹Until›</small>
    <input type="datetime-local" name="timestamp_end" step="1" aria-label="‹Until›"></div>
  <nav id="kinds"></nav> <nav id="services"></nav> <output id="notice"></output>
  <input type="password" id="token" placeholder="Token" autocomplete="off" hidden>
</form></div>
<figure><div id="bars"></div><div id="axis"></div><figcaption>
  <span id="caption"></span> <a id="out">‹All times›</a> <a id="later"></a>
  <a id="json" download="logs.json">JSON</a> <a id="csv" download="logs.csv">CSV</a>
  <button id="curl">curl</button></figcaption></figure>
<main id="list" aria-busy="true"></main>
<p>‹No record matches. The search reads messages: for an attribute, type attr.name=value.›
  <span id="hints"></span>
  <span id="first">‹Are there none yet? “python simulator.py” sends some.›</span></p>
<button id="more" hidden>‹More records›</button>
"""

# What stands between ‹ and › above, for readers whose browser prefers Spanish.
SPANISH = {
    "Wrap lines": "Ajustar líneas",
    "Live": "En vivo",
    "Search messages, or attr.name=value": "Buscar en los mensajes, o attr.nombre=valor",
    "/ searches, j and k move, Enter opens, Esc closes": (
        "/ busca, j y k mueven, Enter abre, Esc cierra"
    ),
    "Search": "Buscar",
    "Exclude": "Excluir",
    "All but this": "Todos menos este",
    "Time": "Tiempo",
    "From": "Desde",
    "Until": "Hasta",
    "Least severity": "Gravedad mínima",
    "Any severity": "Cualquier gravedad",
    "All times": "Todas las fechas",
    "No record matches. The search reads messages: for an attribute, type attr.name=value.": (
        "Ningún registro coincide. La búsqueda solo lee los mensajes: para un atributo, escriba"
        " attr.nombre=valor."
    ),
    "More records": "Más registros",
    "${lines.length} lines": "${lines.length} líneas",
    "show ${waiting} new": "mostrar ${waiting} nuevos",
    "not live: what comes now is not in this list": (
        "intervalo cerrado: lo nuevo no se añade a esta lista"
    ),
    "This record is not there any more.": "Este registro ya no está.",
    "Enter your read token.": "Escriba su token de lectura.",
    "Enter a token that may read.": "Escriba un token que pueda leer.",
    "The server does not answer. Trying again.": "El servidor no responde. Reintentando…",
    "Not possible: ${what}. Choose again, or begin again with “Logs”.": (
        "No es posible: ${what}. Elija otra vez, o empiece de nuevo con «Logs»."
    ),
    "one minute around, all services": "un minuto antes y después, todos los servicios",
    "link to this record": "enlace a este registro",
    "copy as JSON": "copiar como JSON",
    "${later.toLocaleString()} with a later time": "${later.toLocaleString()} con hora posterior",
    "${all.total.toLocaleString()} found": "Encontrados: ${all.total.toLocaleString()}",
    "Are there none yet? “python simulator.py” sends some.": (
        "¿Aún no hay ninguno? «python simulator.py» envía algunos."
    ),
}


def render(words: dict[str, str]) -> Response:
    """The page with the words of a language. A browser runs only this style and this script."""
    html, script = (
        re.sub("‹(.*?)›", lambda match: words.get(match[1], match[1]), text)
        for text in (HTML, SCRIPT)
    )
    language = "es" if words else "en"
    document = f"""<!doctype html><html lang="{language}"><meta charset="utf-8">
<style>{STYLE}</style>{html}<script>{script}</script></html>
"""
    digests = [hashlib.sha256(text.encode()).digest() for text in (STYLE, script)]
    # Nothing in a message runs as code. The icon is an image in the page itself.
    policy = (
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).format(*(base64.b64encode(digest).decode() for digest in digests))
    headers = {"Content-Security-Policy": policy, "Vary": "Accept, Accept-Language"}
    content_type = "text/html; charset=utf-8"
    return Response(200, body=document.encode(), content_type=content_type, headers=headers)


PAGES = {"en": render({}), "es": render(SPANISH)}


def get_root(_: App, request: Request) -> Response:
    """Shows the page in a browser, and lists the endpoints elsewhere."""
    if "text/html" in request.headers.get("accept", ""):
        languages = re.findall(r"(?:^|,) *([a-z]+)", request.headers.get("accept-language", ""))
        return PAGES[next((language for language in languages if language in PAGES), "en")]
    endpoints = {}
    for path, methods in ROUTES.items():
        for method, endpoint in methods.items():
            endpoints[f"{method} {path}"] = (endpoint.__doc__ or "").partition("\n")[0]
    return Response(200, body=json.dumps(endpoints, indent=2).encode() + b"\n")


ROUTES["/"] = {"GET": get_root}


# -------- 16. Main


def load_tls(files: dict[str, str]) -> ssl.SSLContext | None:
    """The certificate and key to serve with. Raises StartError."""
    if not files:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(files["certificate"], files["key"])
    except OSError as error:  # ssl.SSLError is one.
        names = " and ".join(files.values())
        raise StartError(f"server.tls: can't use {names}: {error}") from None
    return context


def connection_limit() -> int:
    """How many connections the bound on open files allows. It raises that bound where it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE) if resource else (-1, -1)
    if 0 <= soft < 4096:  # No bound is -1, or a very large number.
        soft = 4096 if hard < 0 else min(hard, 4096)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < 0:
        return MAX_CONNECTIONS
    spare = 80 + 2 * (READERS + SLOW_READERS)  # The store needs these, two for each reader.
    if soft <= spare:
        most = f"{soft} open files are allowed, and the store alone needs {spare}"
        raise StartError(f"{most}: raise ulimit -n to {spare + 100} or more")
    return min(MAX_CONNECTIONS, soft - spare)


def start_log() -> queue.Queue[logging.LogRecord]:
    """Writes the log to stderr in a thread of its own, the only one that a full pipe can stop.

    Returns the queue of the lines that wait.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_LOG_LINES)
    logging.raiseExceptions = False  # Else it would write to stderr that a line did not fit.
    log.addHandler(logging.handlers.QueueHandler(lines))
    logging.handlers.QueueListener(lines, handler).start()
    return lines


def end_log(lines: queue.Queue[logging.LogRecord], status: int) -> None:
    """Waits until the log is written. It ends the process where nobody reads stderr."""
    deadline = time.monotonic() + 0.5
    while lines.unfinished_tasks:
        if time.monotonic() > deadline:
            os._exit(status)  # Python would wait for a lock that the writing thread holds.
        time.sleep(0.01)


def reload(server: Server, path: pathlib.Path, overrides: dict[str, Json]) -> None:
    """Reads tokens, limits and the certificate again. A bad file changes nothing."""
    app = server.app
    # These count only at the next start.
    fixed = {name: getattr(app.config, name) for name in ("host", "port", "store", "number")}
    try:
        config = load_config(path, **overrides)
        # The server goes on listening on the host of its start: that one decides which tokens the
        # file must have.
        load_config(path, **{**overrides, "host": app.config.host})
        if server.tls and config.tls:
            load_tls(config.tls)  # A bad certificate is found before it replaces the good one.
            server.tls.load_cert_chain(config.tls["certificate"], config.tls["key"])
    except (StartError, OSError) as error:
        log.error("the configuration stays as it was:\n%s", error)
        return
    names = [field.name for field in dataclasses.fields(Config)]
    changed = [name for name in names if getattr(config, name) != getattr(app.config, name)]
    later = [name for name in fixed if name in changed]
    if bool(server.tls) != bool(config.tls):
        later.append("tls")
    app.config = app.store.config = dataclasses.replace(config, **fixed)
    certificate = ", the certificate too" if server.tls and config.tls else ""
    restart = f"; {', '.join(later)} only at the next start" if later else ""
    line = "the configuration is read again%s; changed: %s%s"
    log.warning(line, certificate, changed or "nothing", restart)


def parse_arguments() -> argparse.Namespace:
    """The options of the command line. It ends the program, status 2, where they are wrong."""
    parser = argparse.ArgumentParser(description="A log server.")
    sample = SCHEMA.with_name("config.json")
    parser.add_argument("--config", type=pathlib.Path, default=sample, help="default: %(default)s")
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the port; 0 for any that is free")
    parser.add_argument("--store", help="a file, or http://user:password@host:8123/database")
    options = parser.parse_args()
    if options.store and "://" not in options.store:
        options.store = os.path.abspath(options.store)  # Relative to where it was typed.
    return options


def announce(server: Server) -> None:
    """Prints where it listens, and on a terminal what is stored and who may read it."""
    config = server.app.config
    with contextlib.suppress(OSError, Unavailable):  # Nobody may be there to read it.
        print(f"listening on {server.url}", flush=True)
        if sys.stdout and sys.stdout.isatty():
            readers = "everyone on this machine" if config.reading_is_open else "read tokens"
            store = config.store.rpartition("@")[2]  # Of a URL, without user and password.
            print(f"{server.app.store.count()} records in {store}; may read: {readers}")


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM or Ctrl-C, and gives the exit status. Raises StartError."""
    # A signal can come at any moment: its handler takes no lock.
    hangups: list[int] = []
    ends: list[int] = []

    def end(number: int, _: object) -> None:
        # What hangs from here on, since memory ran out for example, is ended by SIGALRM.
        if not ends and hasattr(signal, "alarm"):
            signal.alarm(HANG_SECONDS)
        ends.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):  # Until it serves, they end it at once.
        signal.signal(number, lambda *_: os._exit(0))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, _: hangups.append(number))
    overrides = {"host": options.host, "port": options.port, "store": options.store}
    config = load_config(options.config, **overrides)
    server = Server(config, load_tls(config.tls), connection_limit())
    kind = ClickHouseStore if "://" in config.store else SQLiteStore
    accepting = server.serve(App(config, kind(config)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    announce(server)
    while accepting.is_alive() and not ends:
        accepting.join(0.1)  # Not for ever: a signal is looked at when it returns.
        if hangups:
            hangups.clear()
            reload(server, options.config, overrides)
    status = 0 if ends else 1  # Without a signal, the accepting thread has ended by itself.
    end(0, None)  # It sets the alarm where no signal came.
    stop(server)
    server.app.store.close()
    return status


def main() -> int:
    """Runs the program, and gives the exit status."""
    options = parse_arguments()
    lines = start_log()
    warnings.simplefilter("ignore")  # Of a client's text, `format_message` could make some.
    gc.set_threshold(50_000)  # Parsing makes no cycles: looking for them took a fifth of its time.
    try:
        status = run(options)
    except StartError as error:
        with contextlib.suppress(OSError):  # Nobody may be there to read it.
            print(error, file=sys.stderr, flush=True)
        status = 2
    end_log(lines, status)
    return status


if __name__ == "__main__":
    sys.exit(main())
