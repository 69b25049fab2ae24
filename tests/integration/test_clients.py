"""Programs that people already have, unmodified, against a real server.

    python -m unittest discover -s tests/integration

A test is skipped, saying why, where the program that it drives is not installed. The programs for
Node are looked for in the folder that LOG_SERVER_NODE_MODULES names.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import functools
import gzip
import json
import logging
import logging.handlers
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import unittest
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from clickhouse import free_port  # type: ignore[import-not-found]

from tests.support import READER, SHIPPER, TOKEN, Server, eventually

MODULES = os.environ.get("LOG_SERVER_NODE_MODULES", "")
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def needs(*programs: str) -> Any:
    """Skips a test, or a class of them, where one of the programs is not installed."""
    absent = [program for program in programs if not shutil.which(program, path=PATH)]
    return unittest.skipIf(absent, f"not installed: {', '.join(absent)}")


def needs_node(*packages: str) -> Any:
    """Skips a test where Node, or one of the npm packages, is not installed."""
    if not MODULES:
        return unittest.skip("LOG_SERVER_NODE_MODULES does not say where the npm packages are")
    absent = [
        package
        for package in packages
        if not pathlib.Path(MODULES, package, "package.json").exists()
    ]
    return (
        unittest.skipIf(absent, f"not in {MODULES}: {', '.join(absent)}")
        if absent
        else needs("node")
    )


def listens(port: int) -> bool:
    """Whether somebody accepts connections on this port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Client:
    """A program that is killed at the end; what it prints is read line by line as it comes."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PATH": PATH, **environment},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def says(self, words: str) -> bool:
        """Whether one of its lines so far has these words in it."""
        return any(words in line for line in list(self.lines))

    def wait(self, seconds: float = 30) -> int:
        """Gives its exit status, when it has ended by itself."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.wait()
        assert self.process.stdout
        self.process.stdout.close()


class ClientTest(unittest.TestCase):
    """A server, a folder for what the clients need, and ways to see what was stored."""

    settings: dict[str, Any] = {}

    def setUp(self):
        self.server = self.enterContext(Server(**self.settings))
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory(prefix="clients-"))
        )

    def write(self, name: str, content: str | bytes) -> str:
        """Writes a file into the test's folder and gives its path."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def total(self, **filters: Any) -> int:
        """How many records GET /stats counts."""
        return int(self.server.get(f"/stats?{urllib.parse.urlencode(filters)}").json["total"])

    def records(self, **filters: Any) -> list[dict[str, Any]]:
        """All the records that match, in the order in which they were stored."""
        answer = self.server.get(f"/logs?{urllib.parse.urlencode({'limit': 0, **filters})}")
        self.assertEqual(answer.status, 200, answer.text)
        return sorted(answer.json, key=lambda record: record["id"])

    def wait_for(self, count: int, seconds: float = 20) -> list[dict[str, Any]]:
        """Waits until that many records are stored, and gives them."""
        eventually(
            lambda: self.total() >= count,
            seconds,
            lambda: f"only {self.total()} of {count} are stored",
        )
        return self.records()


class CurlAnswer(NamedTuple):
    """What curl saw, and how long it took in seconds."""

    status: int
    seconds: float
    body: str
    log: str


@needs("curl")
class Curl(ClientTest):
    """curl, in the forms in which people post with it."""

    def curl(self, *arguments: str, stdin: bytes = b"", path: str = "/logs") -> CurlAnswer:
        """Runs curl on the server; its exit status must be 0."""
        done = subprocess.run(
            [
                "curl",
                "-sS",
                "-v",
                "-m",
                "20",
                "-w",
                "\n%{http_code} %{time_total}",
                *arguments,
                self.server.url + path,
            ],
            input=stdin,
            capture_output=True,
            timeout=30,
        )
        log = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, 0, log[-2000:])
        body, _, numbers = done.stdout.decode().rpartition("\n")
        status, seconds = numbers.split()
        return CurlAnswer(int(status), float(seconds), body, log)

    def assert_no_wait(self, answer: CurlAnswer) -> None:
        """curl gives a server one second to answer `Expect:
        100-continue`, then sends the body anyway."""
        self.assertFalse(
            "Done waiting for 100-continue" in answer.log, "curl waited in vain for 100 Continue"
        )
        self.assertLess(answer.seconds, 1)

    def test_every_way_to_post_is_stored_whole_and_at_once(self):
        one = '{"severity": "ERROR", "message": "uno ñ", "user": "bob"}'
        three = "".join(
            json.dumps({"message": f"line {n}", "n": n}) + "\n" for n in range(3)
        ).encode()
        # 1.3 MB.
        many = b"".join(b'{"message": "%08d %s"}\n' % (n, b"x" * 80) for n in range(12_000))
        lines, big = self.write("lines.ndjson", three), self.write("big.ndjson", many)
        array = self.write(
            "array.json", json.dumps([{"message": "a"}, {"message": "b\nb"}], indent=2)
        )
        zipped, deflated = (
            self.write("lines.gz", gzip.compress(three)),
            self.write("lines.z", zlib.compress(three)),
        )
        big_zipped = self.write("big.gz", gzip.compress(many, 1))
        gzipped, as_post = ("-H", "Content-Encoding: gzip"), ("-X", "POST")
        table: list[tuple[tuple[str, ...], bytes, int]] = [
            (("--json", one), b"", 1),
            (("--json", f"@{lines}"), b"", 3),
            (("--json", f"@{array}"), b"", 2),
            (("-d", one), b"", 1),
            (("-d", f"@{lines}"), b"", 3),
            (("-d", f"@{array}"), b"", 2),
            (("-d", "@-"), three, 3),
            (("--data-binary", f"@{lines}"), b"", 3),
            (("--data-binary", "@-"), three, 3),
            (("--data-binary", f"@{big}"), b"", 12_000),
            (("-d", f"@{big}"), b"", 12_000),
            ((*as_post, "-T", "-"), three, 3),
            ((*as_post, "-T", "-"), many, 12_000),
            ((*as_post, "-T", lines), b"", 3),
            ((*as_post, "-T", big), b"", 12_000),
            (("--http1.0", "--data-binary", f"@{lines}"), b"", 3),
            ((*gzipped, "--data-binary", f"@{zipped}"), b"", 3),
            ((*gzipped, *as_post, "-T", "-"), gzip.compress(three), 3),
            ((*gzipped, *as_post, "-T", big_zipped), b"", 12_000),
            (("-H", "Content-Encoding: deflate", "--data-binary", f"@{deflated}"), b"", 3),
            (("-H", "Expect: 100-continue", "-d", one), b"", 1),
        ]
        for arguments, stdin, count in table:
            with self.subTest(" ".join(arguments).replace(str(self.folder), "")):
                before = self.total()
                answer = self.curl("-H", f"Authorization: Token {TOKEN}", *arguments, stdin=stdin)
                self.assertEqual(answer.status, 200, answer.body)
                result = json.loads(answer.body)
                self.assertEqual((result["accepted"], result["rejected"]), (count, 0))
                self.assertEqual(self.total(), before + count)
                self.assert_no_wait(answer)
        self.assertEqual({record["message"] for record in self.records(contains="uno")}, {"uno ñ"})

    def test_every_way_to_give_the_token_is_taken(self):
        for arguments in (
            ("-u", f"anything:{TOKEN}"),
            ("-H", f"Authorization: Token {TOKEN}"),
            ("-H", f"Authorization: Bearer {TOKEN}"),
            ("--oauth2-bearer", TOKEN),
        ):
            with self.subTest(arguments[-1]):
                self.assertEqual(self.curl(*arguments, "-d", '{"message": "m"}').status, 200)
        self.assertEqual(self.total(service="app"), 4)

    def test_a_refusal_comes_at_once_and_whole_however_large_the_body(self):
        # 1.7 and 11.9 MB.
        big, too_big = b'{"message": "x"}\n' * 100_000, b'{"message": "y"}\n' * 700_000
        good = ("-H", f"Authorization: Token {TOKEN}")
        table: list[tuple[int, tuple[str, ...], bytes]] = [
            (401, ("-X", "POST", "-T", "-"), big),
            (401, ("--data-binary", "@-", "-u", "app:wrong"), big),
            (405, ("-T", "-", *good), big),  # a PUT: the -X POST was forgotten
            (413, ("-X", "POST", "-T", "-", *good), too_big),
            (413, ("--data-binary", "@-", *good), too_big),
            (413, ("--data-binary", "@-", "-H", "Content-Encoding: gzip", *good),
             gzip.compress(too_big, 1)),
            (415, ("--data-binary", "@-", "-H", "Content-Encoding: br", *good), big),
        ]
        for status, arguments, stdin in table:
            with self.subTest(status=status, arguments=arguments):
                answer = self.curl(*arguments, stdin=stdin)
                self.assertEqual(answer.status, status, answer.body)
                self.assertEqual(set(json.loads(answer.body)), {"error", "hint"})
                self.assert_no_wait(answer)
        self.assertEqual(self.total(), 0)

    def test_a_second_request_goes_over_the_same_connection(self):
        post = (
            "-H",
            f"Authorization: Token {TOKEN}",
            "-d",
            '{"message": "m"}',
            self.server.url + "/logs",
        )
        answer = self.curl(
            *post, "--next", "-sS", "-v", "-w", "\n%{http_code} %{time_total}", *post[:-1]
        )
        self.assertEqual(answer.status, 200)
        self.assertIn("Re-using existing connection", answer.log)
        self.assertEqual(self.total(), 2)

    def test_following_shows_each_record_as_it_is_stored(self):
        self.server.post([{"message": "old"}, {"message": "last"}])
        with Client(
            "curl", "-sSN", f"{self.server.url}/logs?follow=1&limit=1&min_severity=INFO"
        ) as curl:
            eventually(lambda: curl.says('"last"'), why="the newest record is not shown")
            self.server.post([{"message": "first"}, {"message": "hidden", "severity": "DEBUG"}])
            self.server.post({"message": "second"})
            eventually(lambda: curl.says('"second"'), why="a record is not shown as it comes")
            shown = [json.loads(line)["message"] for line in curl.lines if line]
            self.assertEqual(shown, ["last", "first", "second"])

    @needs("jq")
    def test_jq_reads_what_it_prints(self):
        self.server.post(
            [{"message": f"m{n}", "severity": "ERROR", "user": "bob"} for n in range(3)]
        )
        command = (
            f"curl -sS '{self.server.url}/logs?severity=ERROR&format=%s'"
            " | jq -r '%s | .attributes.user'"
        )
        for form, items in (("json", ".[]"), ("ndjson", ".")):
            with self.subTest(form):
                self.assertEqual(shell(command % (form, items)), "bob\nbob\nbob\n")


def shell(command: str) -> str:
    """Runs a shell's command line and gives what it printed;
    a failure of any part of a pipe raises."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise AssertionError(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


# One JSON object a line from dpkg's own log: "2026-11-24 02:14:12 status installed jq:amd64 1.6".
DPKG = r"""
form='{"timestamp":"%s %s","service":"dpkg","severity":"%s"'
form=$form',"message":"%s","action":"%s","package":"%s"}\n'
awk -v f="$form" '
  { gsub(/["\\]/, "\\\\&"); status = ($3 == "status")
    printf f, $1, $2, status ? "DEBUG" : "INFO", substr($0, 21), $3, status ? $5 : $4 }' LOG |
curl -sS -X POST -T - -H 'Authorization: Token TOKEN' URL/logs
"""


@needs("bash", "awk", "curl", "grep")
class PackageManagersLog(ClientTest):
    """A log that nobody wrote for this test, poured in by a line of shell."""

    def test_counts_of_the_whole_log_agree_with_grep(self):
        log = "/var/log/dpkg.log"
        if not os.path.exists(log) or int(shell(f"grep -c '' {log} || true")) < 1000:
            self.skipTest(f"{log} does not have a thousand lines")
        copy = str(shutil.copy(log, self.folder))  # it may grow while the test runs

        def lines(pattern: str) -> int:
            return int(shell(f"grep -cE '{pattern}' {copy} || true"))

        answer = shell(
            DPKG.replace("LOG", copy).replace("TOKEN", SHIPPER).replace("URL", self.server.url)
        )
        self.assertEqual(
            (json.loads(answer)["accepted"], json.loads(answer)["rejected"]), (lines(""), 0)
        )

        stats = self.server.get("/stats?service=dpkg").json
        self.assertEqual(stats["total"], lines(""))
        self.assertEqual(stats["by_service"], {"dpkg": lines("")})
        self.assertEqual(stats["by_severity"].get("DEBUG", 0), lines("^.{19} status "))
        self.assertEqual(stats["by_severity"].get("INFO", 0), lines("^.{19} [^s ]|^.{19} startup "))
        for day in shell(f"cut -c1-10 {copy} | sort -u").split():
            with self.subTest(day):
                self.assertEqual(
                    self.total(timestamp_start=day, timestamp_end=day), lines(f"^{day} ")
                )
        for action in shell(f"cut -d' ' -f3 {copy} | sort -u").split():
            with self.subTest(action):
                self.assertEqual(
                    self.total(**{"attr.action": action}), lines(f"^.{{19}} {action} ")
                )
        messages = [record["message"] for record in self.records()]
        self.assertEqual(messages, shell(f"cut -c21- {copy}").splitlines())


# A program that logs, as any does; the first argument is the port,
# the second how its handler is attached.
LOGGING = """
import datetime, logging, logging.handlers, queue, sys

http = logging.handlers.HTTPHandler(
    f"127.0.0.1:{sys.argv[1]}", "/logs", method="POST", credentials=("app", sys.argv[2]))
log = logging.getLogger("shop.orders")
log.setLevel(logging.DEBUG)
if sys.argv[3] == "queued":
    waiting = queue.Queue()
    log.addHandler(logging.handlers.QueueHandler(waiting))
    listener = logging.handlers.QueueListener(waiting, http)
    listener.start()
else:
    log.addHandler(http)

log.info("order %s of %d", "A&B=7", 3)
log.warning("%(user)s has %(left)d left", {"user": "bob", "left": 2})
log.error("refused", extra={"user": "josé", "tags": ["x"], "n": 3})
log.debug("100% done")
log.critical("first line\\nsecond line %s", "ñ €")
log.info("at %s", datetime.date(2026, 11, 24))
try:
    1 / 0
except ZeroDivisionError:
    log.exception("dividing for %s", "bob")
if sys.argv[3] == "queued":
    listener.stop()
"""


class PythonLogging(ClientTest):
    """Programs that log through the standard library's HTTPHandler."""

    def run_program(self, how: str) -> list[dict[str, Any]]:
        """Runs the program and gives what it left in the store."""
        program = self.write("program.py", LOGGING)
        done = subprocess.run(
            [sys.executable, program, str(self.server.port), TOKEN, how],
            capture_output=True,
            text=True,
            timeout=30,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return self.records()

    def test_each_record_is_formatted_and_keeps_its_severity_and_its_extra(self):
        for how in ("direct", "queued"):
            with self.subTest(how):
                before = datetime.datetime.now(datetime.timezone.utc)
                records = self.run_program(how)[-7:]
                expected = [
                    ("INFO", "order A&B=7 of 3"),
                    ("WARNING", "bob has 2 left"),
                    ("ERROR", "refused"),
                    ("DEBUG", "100% done"),
                    ("CRITICAL", "first line\nsecond line ñ €"),
                ]
                self.assertEqual([(r["severity"], r["message"]) for r in records[:5]], expected)
                refused = records[2]["attributes"]
                self.assertEqual(
                    (refused["user"], str(refused["tags"]), str(refused["n"])),
                    ("josé", "['x']", "3"),
                )
                for record in records:
                    self.assertEqual(record["service"], "app")
                    self.assertIn("shop.orders", record["attributes"].values())
                    self.assertFalse(
                        {"relativeCreated", "msecs", "args"} & set(record["attributes"])
                    )
                    stamp = datetime.datetime.fromisoformat(
                        record["timestamp"].replace("Z", "+00:00")
                    )
                    self.assertTrue(
                        before <= stamp <= datetime.datetime.now(datetime.timezone.utc), stamp
                    )
                self.assertNotIn("user", records[0]["attributes"])

    def test_an_exception_is_kept_and_behind_a_queue_its_whole_traceback(self):
        direct = self.run_program("direct")[-1]
        self.assertEqual(direct["severity"], "ERROR")
        self.assertTrue(direct["message"].startswith("dividing for bob"))
        # All that the handler sends.
        self.assertIn("ZeroDivisionError('division by zero')", json.dumps(direct))
        queued = self.run_program("queued")[-1]
        self.assertEqual(queued["severity"], "ERROR")
        lines = queued["message"].splitlines()
        self.assertEqual(lines[:2], ["dividing for bob", "Traceback (most recent call last):"])
        self.assertEqual(lines[-1], "ZeroDivisionError: division by zero")

    def test_arguments_that_cannot_be_read_back_leave_the_text_as_it_was_written(self):
        self.assertEqual(self.run_program("direct")[5]["message"], "at %s")
        self.assertEqual(self.run_program("queued")[-2]["message"], "at 2026-11-24")


WINSTON = """
const winston = require('winston');
const [port, token, batch] = process.argv.slice(2);
const http = new winston.transports.Http({
  host: '127.0.0.1', port, path: '/logs', headers: {Authorization: `Token ${token}`},
  batch: batch === 'batch', batchCount: 10, batchInterval: 200});
http.on('warn', error => console.log(`warn ${error}`));
const log = winston.createLogger({
  level: 'silly', transports: [http],
  format: winston.format.combine(
    winston.format.errors({stack: true}), winston.format.timestamp(), winston.format.json())});
for (const level of ['error', 'warn', 'info', 'http', 'verbose', 'debug', 'silly'])
  log.log(level, `${level} ñ`, {user: 'bob', nested: {n: 1}});
log.error(new Error('boom'));
for (let n = 0; n < 17; n++) log.info(`number ${n}`);
"""


class Winston(ClientTest):
    """winston's Http transport, which takes exactly 200 as success."""

    @needs_node("winston")
    def test_each_record_is_stored_once_singly_and_in_batches(self):
        script = self.write("program.js", WINSTON)
        for batch in ("single", "batch"):
            with self.subTest(batch), Server() as self.server:
                with Client(
                    "node", script, str(self.server.port), TOKEN, batch, NODE_PATH=MODULES
                ) as node:
                    self.assertEqual(node.wait(), 0, node.lines)
                    self.assertEqual(node.lines, [])  # a "warn" event would be a refusal
                records = {record["message"]: record for record in self.records()}
                self.assertEqual((len(records), self.total()), (25, 25))
                severities = [
                    records[f"{level} ñ"]["severity"]
                    for level in ("error", "warn", "info", "debug")
                ]
                self.assertEqual(severities, ["ERROR", "WARNING", "INFO", "DEBUG"])
                for level in ("http", "verbose", "silly"):
                    self.assertIn(records[f"{level} ñ"]["severity"], ("INFO", "DEBUG"))
                self.assertEqual(
                    records["info ñ"]["attributes"], {"user": "bob", "nested": {"n": 1}}
                )
                self.assertEqual(records["boom"]["severity"], "ERROR")
                self.assertIn("at Object.<anonymous>", records["boom"]["attributes"]["stack"])


SYSLOG_NG = """@version: 3.38
options { keep-hostname(yes); use-dns(no); dns-cache(no); stats-freq(0); };
source s_net { network(ip("127.0.0.1") port(OLD_PORT) transport("tcp"));
               syslog(ip("127.0.0.1") port(IETF_PORT) transport("tcp")); };
destination d_http { http(url("URL/logs") method("POST")
  headers("Authorization: Token TOKEN", "Content-Type: application/x-ndjson")
  body("$(format-json level=$LEVEL message=$MSG logger=$PROGRAM host=$HOST \
timestamp=$ISODATE pid=$PID facility=$FACILITY)")
  delimiter("\\n") batch-lines(100) batch-timeout(1000) workers(1)
  timeout(5) retries(3) time-reopen(1)); };
log { source(s_net); destination(d_http); };
"""


@needs("syslog-ng")
class SyslogNg(ClientTest):
    """Every syslog sender, by way of syslog-ng's http destination."""

    def setUp(self):
        super().setUp()
        self.old_port, self.ietf_port = free_port(), free_port()
        text = SYSLOG_NG.replace("OLD_PORT", str(self.old_port)).replace(
            "IETF_PORT", str(self.ietf_port)
        )
        path = self.write(
            "syslog-ng.conf", text.replace("TOKEN", SHIPPER).replace("URL", self.server.url)
        )
        state = [
            part
            for flag, name in (("-R", "persist"), ("-p", "pid"), ("-c", "ctl"))
            for part in (flag, name)
        ]
        state = [str(self.folder / part) if not part.startswith("-") else part for part in state]
        self.enterContext(Client("syslog-ng", "-F", "--no-caps", "-f", path, *state, "--stderr"))
        eventually(
            lambda: listens(self.old_port) and listens(self.ietf_port),
            why="syslog-ng does not listen",
        )

    @contextlib.contextmanager
    def logger(self) -> Iterator[logging.Logger]:
        """A logger of this process that sends to syslog-ng over TCP."""
        handler = logging.handlers.SysLogHandler(
            ("127.0.0.1", self.old_port), socktype=socket.SOCK_STREAM
        )
        handler.ident = "shop: "
        log = logging.Logger("to syslog", logging.DEBUG)
        log.addHandler(handler)
        try:
            yield log
        finally:
            handler.close()

    def test_a_record_keeps_its_severity_program_host_and_time(self):
        with self.logger() as log:
            for level in (
                logging.DEBUG,
                logging.INFO,
                logging.WARNING,
                logging.ERROR,
                logging.CRITICAL,
            ):
                log.log(level, "café %d", level)
            found = [(r["service"], r["severity"], r["message"]) for r in self.wait_for(5)]
        names = (("DEBUG", 10), ("INFO", 20), ("WARNING", 30), ("ERROR", 40), ("CRITICAL", 50))
        self.assertEqual(found, [("shop", name, f"café {level}") for name, level in names])

        with socket.create_connection(("127.0.0.1", self.ietf_port)) as connection:
            for number in range(8):  # RFC 5424, facility user, from emerg to debug
                line = (
                    f"<{8 + number}>1 2026-11-24T03:00:01.5+01:00 web1 app 43 ID47 -"
                    f" número {number}"
                ).encode()
                connection.sendall(b"%d %s" % (len(line), line))
            records = self.wait_for(13)[5:]
        expected = ["CRITICAL"] * 3 + ["ERROR", "WARNING", "INFO", "INFO", "DEBUG"]
        self.assertEqual([record["severity"] for record in records], expected)
        for number, record in enumerate(records):
            self.assertEqual((record["service"], record["message"]), ("app", f"número {number}"))
            self.assertEqual(
                record["attributes"], {"host": "web1", "pid": "43", "facility": "user"}
            )
            self.assertRegex(record["timestamp"], r"^2026-11-24T02:00:01")

    def test_nothing_is_lost_or_repeated_when_the_server_is_stopped_and_started(self):
        with self.logger() as log:
            for number in range(250):
                log.info("before %d", number)
            eventually(lambda: self.total() >= 100, why="no first batch is stored")
            self.server.stop()
            for number in range(250):
                log.info("between %d", number)
            self.server.restart()
            for number in range(250):
                log.info("after %d", number)
            records = self.wait_for(750, 30)
        expected = [
            f"{when} {number}" for when in ("before", "between", "after") for number in range(250)
        ]
        self.assertEqual([record["message"] for record in records], expected)

    def test_nothing_is_lost_or_repeated_while_the_store_cannot_commit(self):
        blocker = sqlite3.connect(self.server.database, isolation_level=None)
        self.addCleanup(blocker.close)
        with self.logger() as log:
            blocker.execute("BEGIN IMMEDIATE")
            for number in range(250):
                log.info("number %d", number)
            self.assertEqual(self.server.post({"message": "m"}).status, 503)
            blocker.execute("ROLLBACK")
            records = self.wait_for(250)
        self.assertEqual(
            [record["message"] for record in records], [f"number {number}" for number in range(250)]
        )

    def test_nothing_is_lost_when_the_server_is_killed(self):
        # syslog-ng sends no Idempotency-Key: the batch whose answer was cut off may be there twice.
        with self.logger() as log:
            for number in range(2000):
                log.info("number %d", number)
                if number == 1000:
                    eventually(self.total, why="no first batch is stored")
                    self.server.restart(signal.SIGKILL)
            expected = {f"number {number}" for number in range(2000)}
            eventually(
                lambda: {record["message"] for record in self.records()} == expected,
                30,
                "some are not stored",
            )
        times = collections.Counter(
            collections.Counter(record["message"] for record in self.records()).values()
        )
        self.assertLessEqual(set(times), {1, 2})
        self.assertLessEqual(times[2], 100)  # one batch


# Configured by the environment alone; it prints what the exporter says of itself.
OPENTELEMETRY = """
const {diag, DiagConsoleLogger, DiagLogLevel} = require('@opentelemetry/api');
const {SeverityNumber} = require('@opentelemetry/api-logs');
const {OTLPLogExporter} = require('@opentelemetry/exporter-logs-otlp-http');
const {resourceFromAttributes} = require('@opentelemetry/resources');
const {BatchLogRecordProcessor, LoggerProvider} = require('@opentelemetry/sdk-logs');

diag.setLogger(new DiagConsoleLogger(), DiagLogLevel.VERBOSE);
const provider = new LoggerProvider({
  resource: resourceFromAttributes({'service.name': 'checkout', 'host.name': 'web1'}),
  processors: [new BatchLogRecordProcessor({exporter: new OTLPLogExporter()})]});
const log = provider.getLogger('app.js');
const when = new Date('2026-11-24T02:14:12.123Z');
log.emit({timestamp: when, severityNumber: SeverityNumber.INFO, severityText: 'INFO',
          body: 'hello ñ', attributes: {n: 3, ratio: 0.5, ok: true, tags: ['x', 'y']}});
log.emit({severityNumber: SeverityNumber.ERROR, body: {what: 'broken', code: 7}});
log.emit({severityNumber: SeverityNumber.WARN3, body: 'warned'});
log.emit({severityNumber: SeverityNumber.FATAL, body: 'dead'});
log.emit({severityNumber: SeverityNumber.TRACE, body: 'traced'});
for (let n = 0; n < 1000; n++) {
  log.emit({severityNumber: SeverityNumber.DEBUG, body: `number ${n}`});
}
provider.shutdown();
"""


class OpenTelemetry(ClientTest):
    """OpenTelemetry's own exporter for JavaScript, to POST /v1/logs."""

    def start(self, **environment: str) -> Client:
        """Starts a program that logs 1005 records through the exporter."""
        script = self.write("program.js", OPENTELEMETRY)
        environment |= {
            "NODE_PATH": MODULES,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.server.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Token%20{SHIPPER}",
        }
        return Client("node", script, **environment)

    def check(self) -> None:
        """Each of the program's records is there, once."""
        records = {record["message"]: record for record in self.records()}
        self.assertEqual((len(records), self.total(service="checkout")), (1005, 1005))
        hello = records["hello ñ"]
        self.assertEqual(
            (hello["severity"], hello["timestamp"]), ("INFO", "2026-11-24T02:14:12.123000Z")
        )
        kept = {"n": 3, "ratio": 0.5, "ok": True, "tags": ["x", "y"]}
        self.assertLessEqual(
            kept.items(), {key: hello["attributes"].get(key) for key in kept}.items()
        )
        self.assertIn("web1", json.dumps(hello["attributes"]))
        self.assertIn("app.js", json.dumps(hello["attributes"]))
        (broken,) = (record for record in records.values() if record["severity"] == "ERROR")
        self.assertEqual(json.loads(broken["message"]), {"what": "broken", "code": 7})
        severities = [
            records[message]["severity"] for message in ("warned", "dead", "traced", "number 7")
        ]
        self.assertEqual(severities, ["WARNING", "CRITICAL", "DEBUG", "DEBUG"])

    @needs_node("@opentelemetry/exporter-logs-otlp-http", "@opentelemetry/sdk-logs")
    def test_its_records_are_stored_plain_and_gzipped(self):
        for compression in ("none", "gzip"):
            with self.subTest(compression), Server() as self.server:
                with self.start(OTEL_EXPORTER_OTLP_COMPRESSION=compression) as node:
                    self.assertEqual(node.wait(), 0, node.lines)
                    self.assertFalse(
                        node.says("Export failed") or node.says("Scheduling export retry"),
                        node.lines,
                    )
                self.check()

    @needs_node("@opentelemetry/exporter-logs-otlp-http", "@opentelemetry/sdk-logs")
    def test_its_records_are_stored_once_when_it_had_to_retry_after_a_503(self):
        blocker = sqlite3.connect(self.server.database, isolation_level=None)
        self.addCleanup(blocker.close)
        blocker.execute("BEGIN IMMEDIATE")  # while another program writes, no commit can succeed
        self.assertEqual(self.server.post({"message": "m"}).status, 503)
        with self.start() as node:
            eventually(
                lambda: node.says("Scheduling export retry"),
                why="the exporter is not told to retry",
            )
            # At once: the exporter gives up 10 s after its first try.
            blocker.execute("ROLLBACK")
            self.assertEqual(node.wait(), 0, node.lines)
            self.assertFalse(node.says("Export failed"), node.lines)
        self.check()


class Prometheus(ClientTest):
    """Prometheus scrapes GET /metrics."""

    settings = {"read_tokens": [READER]}

    def setUp(self):
        super().setUp()
        self.server.post([{"message": "m", "severity": "ERROR"}] * 3 + [{"message": ""}])
        self.server.post({"message": "m"}, token="wrong")

    def metrics(self) -> str:
        """What GET /metrics says."""
        answer = self.server.get("/metrics", Authorization=f"Token {READER}")
        self.assertEqual(answer.status, 200, answer.text)
        self.assertEqual(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
        return answer.text

    @needs("promtool")
    def test_promtool_finds_nothing_to_say(self):
        text = self.metrics()
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        for name in re.findall(r"^# TYPE (\w+)", text, re.MULTILINE):
            with self.subTest(name):
                self.assertRegex(text, rf"(?m)^{name}(_bucket|_sum|_count)?(\{{| )")

    @needs("prometheus")
    def test_the_target_is_up_and_its_counters_can_be_queried(self):
        port = free_port()
        config = f"""
            global: {{scrape_interval: 500ms, scrape_timeout: 400ms}}
            scrape_configs:
              - job_name: logs
                metrics_path: /metrics
                authorization: {{type: Token, credentials: {READER}}}
                static_configs: [{{targets: ['127.0.0.1:{self.server.port}']}}]
        """
        path = self.write("prometheus.yml", textwrap.dedent(config))
        storage, address = f"--storage.tsdb.path={self.folder / 'data'}", f"127.0.0.1:{port}"

        def ask(query: str) -> list[Any]:
            with contextlib.suppress(OSError):
                url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return [
                        (item["metric"], item["value"][1])
                        for item in json.load(answer)["data"]["result"]
                    ]
            return []

        options = (
            f"--config.file={path}",
            storage,
            f"--web.listen-address={address}",
            "--log.level=warn",
        )
        with Client("prometheus", *options) as prometheus:
            (up,) = eventually(
                lambda: ask('up{job="logs"} == 1'),
                why=lambda: f"no target is up; {prometheus.lines}",
            )
            self.assertEqual(up[1], "1")
            for line in self.metrics().splitlines():  # every number that the server gives is there
                if not line.startswith("#"):
                    name = line.rpartition(" ")[0]
                    eventually(functools.partial(ask, name), why=f"{name} is not scraped")
            for query, value in (
                ("sum(logs_records_accepted_total)", "3"),
                ('sum(logs_records_rejected_total{service="app"})', "1"),
                ('sum(logs_http_requests_total{endpoint="/logs", status="401"})', "1"),
                ("logs_commits_total", "1"),
                ("logs_store_records", "3"),
            ):
                with self.subTest(query):
                    self.assertEqual([found for _, found in ask(query)], [value])


if __name__ == "__main__":
    unittest.main()
