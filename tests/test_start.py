"""Starting and stopping: the configuration, the command line, the store's file, signals,
and who is let in."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from typing import NamedTuple

import server as module
from tests import support
from tests.load import GET, POST, Wire
from tests.support import (
    OTHER_TOKEN,
    READER,
    ROOT,
    SAMPLE,
    SHIPPER,
    TOKEN,
    Json,
    Server,
    ServerTests,
    configuration,
    eventually,
    folder_of,
    service,
)

SAFE: dict[str, Json] = {"read_tokens": [READER]}  # what a server needs to start beyond loopback
EXPOSED: dict[str, Json] = {"host": "0.0.0.0", **SAFE}


def write_config(folder: pathlib.Path, config: Json = None) -> pathlib.Path:
    """Writes a configuration into a folder; text and bytes as they are."""
    path = folder / "config.json"
    if not isinstance(config, (str, bytes)):
        config = json.dumps(configuration() if config is None else config)
    path.write_bytes(config.encode() if isinstance(config, str) else config)
    return path


def command(folder: pathlib.Path, *arguments: str, config: Json = None) -> list[str]:
    """The command line of a server with a configuration in a folder."""
    return [*support.command(), "--config", str(write_config(folder, config)), *arguments]


def refusal(folder: pathlib.Path, *arguments: str, config: Json = None) -> str:
    """What a server that must not start says on stderr."""
    line = command(folder, *arguments, config=config)
    done = subprocess.run(line, capture_output=True, timeout=30, encoding="utf-8", cwd=folder)
    assert done.returncode == 2, f"exit status {done.returncode}: {done.stdout}{done.stderr}"
    assert not done.stdout, done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


# Calls the server's main() for one command line after the other: quicker than a process for each.
MANY_STARTS = """
import contextlib, io, json, sys, traceback
sys.path.insert(0, sys.argv[1])
import server
server.LOCK_SECONDS = 0.1  # How long a file that has no tables is looked at again.
server.Server.serve_forever = lambda *_: None  # What starts after all stops at once.
server.Server.shutdown = lambda *_: None
outcomes = []
for line in json.load(sys.stdin):
    sys.argv, out, err, status = ["server.py", *line], io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = server.main()
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
    outcomes.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(outcomes))
"""


class Outcome(NamedTuple):
    """What came of one start."""

    status: int
    out: str
    err: str


def starts(lines: list[list[str]]) -> list[Outcome]:
    """What comes of each command line; all of them run in one process."""
    program = [sys.executable, "-c", MANY_STARTS, str(ROOT)]
    done = subprocess.run(
        program, input=json.dumps(lines), capture_output=True, timeout=60, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return [Outcome(*outcome) for outcome in json.loads(done.stdout)]


def snapshot(folder: pathlib.Path) -> dict[str, tuple[bytes, int] | None]:
    """Every file in a folder, its content and time of change; None for a folder."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != "config.json"
    }


def has_ipv6() -> bool:
    """Whether this machine has the address ::1."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


class Folders(unittest.TestCase):
    """Tests with a folder of their own."""

    def setUp(self) -> None:
        self.folder = folder_of(self)

    def subfolder(self, name: str) -> pathlib.Path:
        """A folder of one case."""
        path = self.folder / name.replace("/", "-").replace(" ", "-")[:60]
        path.mkdir()
        return path


class Mistakes(Folders):
    """A server that can not start says why in one line for each reason, and exits with status 2."""

    def test_every_mistake_of_a_configuration_is_named_at_once_with_its_path(self) -> None:
        server = {
            "host": 5,
            "port": 70000,
            "portt": 1,
            "store": "",
            "read_tokens": "secret",
            "shipper_tokens": [1],
            "allowed_hosts": [""],
            "max_records_per_second": "many",
            "retention": {"max_age_days": float("inf"), "max_size_mb": True, "max_size": 5},
            "tls": {"certificate": "file"},
        }
        services = {
            "app": {},
            "web": {"token": 5, "tokn": "x"},
            "chat": [],
            "blank": {"token": "a x"},
            "accent": {"token": "contraseña"},  # Some clients send it in Latin-1, some in UTF-8.
        }
        config = {
            "server": server,
            "services": services,
            "simulator": {"url": 7, "spede": 1},  # The simulator checks its URL.
            "other": 1,
        }
        lines = refusal(self.folder, config=config).splitlines()
        for path in (
            *("server.host", "server.port", "server.store", "server.portt"),
            "server.max_records_per_second",
            *("server.read_tokens", "server.shipper_tokens", "server.allowed_hosts"),
            "server.tls.key",
            *("server.retention.max_age_days", "server.retention.max_size_mb"),
            "server.retention.max_size",
            *("services.app.token", "services.web.token", "services.web.tokn", "services.chat"),
            *("services.blank.token", "services.accent.token"),
            *("simulator.spede", "other"),
        ):
            with self.subTest(path):
                self.assertEqual(sum(f" {path}:" in line for line in lines), 1, "\n".join(lines))
        self.assertEqual(len(lines), 20, "\n".join(lines))
        self.assertTrue(all(str(self.folder / "config.json") in line for line in lines))
        self.assertEqual(snapshot(self.folder), {}, "nothing is made")

    def test_a_key_that_is_given_twice_is_a_mistake(self) -> None:
        text = json.dumps(configuration()).replace('"app"', '"app": {"token": "x"}, "app"')
        path = self.folder / "twice.json"
        path.write_text(text, encoding="utf-8")
        said = refusal(self.folder, "--config", str(path))
        self.assertIn("'app' is given twice", said)

    def test_an_empty_tls_is_a_mistake_and_no_plain_http(self) -> None:
        said = refusal(self.folder, config=configuration(tls={}))
        self.assertIn("server.tls.certificate: missing", said)

    def test_a_store_that_is_no_file_is_refused(self) -> None:
        os.mkfifo(self.folder / "pipe")
        said = refusal(self.folder, config=configuration(store="pipe"))
        self.assertIn("is no file", said)

    def test_a_store_without_a_table_is_refused(self) -> None:
        with Server() as server:
            server.stop()
            with contextlib.closing(sqlite3.connect(server.database)) as database:
                database.execute("DROP TABLE counts")
            said = refusal(self.folder, config=configuration(store=str(server.database)))
        self.assertIn("no such table: counts", said)

    def test_it_starts_without_a_stdout(self) -> None:
        program = "import os, sys; os.close(1); os.execv(sys.argv[1], sys.argv[1:])"
        line = [sys.executable, "-c", program]
        line += command(self.folder, config=configuration())
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            with self.assertRaises(subprocess.TimeoutExpired):
                process.wait(2)
            process.terminate()
            self.assertEqual((process.wait(10), process.stderr.read()), (0, ""))

    def test_mistakes_of_every_kind_are_named_together(self) -> None:
        config = configuration(host="0.0.0.0", port="8000")
        config["services"] |= {
            "a": service("demo-twice"),
            "b": service("demo-twice"),
            "c": {"token": ""},
        }
        said = refusal(self.folder, config=config)
        for words in ("server.port", "server.read_tokens", "demo-", "services.c.token"):
            with self.subTest(words):
                self.assertIn(words, said)

    def test_a_service_whose_name_no_record_may_have_is_named(self) -> None:
        config = configuration()
        config["services"] |= {"": service("1"), "x" * 129: service("2"), "x" * 128: service("3")}
        config["services"]["\ud800"] = service("4")
        self.assertEqual(
            refusal(self.folder, config=config).count("must have a name of 1 to 128 printable"), 3
        )

    def test_what_keeps_it_from_starting_is_named(self) -> None:
        def both(token: str) -> Json:
            return {**configuration(**EXPOSED), "services": {"app": service(token)}}

        cases: tuple[tuple[str, Json, tuple[str, ...], tuple[str, ...]], ...] = (
            ("not JSON", '{"server": {\n"port": }}', (), ("config.json", "line 2 column 9")),
            ("empty", "", (), ("config.json",)),
            ("not text", b"\xff\xfe\x00", (), ("config.json",)),
            ("nested deep", "[" * 100_000, (), ("config.json",)),
            ("a list", "[]", (), ("config.json", "object")),
            ("nothing", "{}", (), ("server.host", "server.port", "server.store")),
            ("null", {"server": None, "services": None}, (), ("server", "services")),
            (
                "one token for two",
                {**configuration(), "services": {"app": service("same"), "web": service("same")}},
                (),
                ("app", "web"),
            ),
            ("a shipper's token for reading", configuration(read_tokens=[SHIPPER]), (),
             ("shipper", "read")),
            ("open to all", configuration(host="0.0.0.0"), (), ("server.read_tokens", "0.0.0.0")),
            ("open to all by --host", configuration(), ("--host", "0.0.0.0"),
             ("server.read_tokens",)),
            ("open to all of a name", configuration(host="logs.example"), (),
             ("server.read_tokens",)),
            ("open to all, IPv6", configuration(host="::"), (), ("server.read_tokens",)),
            ("a sample token", both("demo-app"), (), ("demo-", "0.0.0.0")),
            ("a sample token to read", configuration(host="0.0.0.0", read_tokens=["demo-r"]), (),
             ("demo-",)),
            ("a sample token of a shipper", configuration(**EXPOSED, shipper_tokens=["demo-s"]), (),
             ("demo-",)),
            ("an address of another machine", configuration(host="192.0.2.1", **SAFE), (),
             ("192.0.2.1",)),
            ("a name that is none", configuration(host="no.such.name.invalid", **SAFE), (),
             ("no.such.name.invalid",)),
            ("a port that is none", configuration(), ("--port", "70000"), ("server.port",)),
            ("a port that is no number", configuration(), ("--port", "http"), ("--port",)),
            ("an unknown option", configuration(), ("--prot", "1"), ("--prot",)),
            ("no store", configuration(), ("--store", ""), ("server.store",)),
            (
                "no such certificate",
                configuration(tls={"certificate": "absent.pem", "key": "absent.key"}),
                (),
                ("absent.pem",),
            ),
            (
                "a certificate that is none",
                configuration(tls={"certificate": "config.json", "key": "config.json"}),
                (),
                ("config.json", "certificate"),
            ),
        )

        lines = []
        for name, config, arguments, _ in cases:
            lines.append(["--config", str(write_config(self.subfolder(name), config)), *arguments])
        for (name, *_, words), outcome in zip(cases, starts(lines), strict=True):
            with self.subTest(name):
                self.assertEqual((outcome.status, outcome.out), (2, ""), outcome.err)
                for word in words:
                    self.assertIn(word, outcome.err)
                for secret in (TOKEN, OTHER_TOKEN, SHIPPER, READER):
                    self.assertNotIn(secret, outcome.err)

    def test_a_configuration_that_is_not_there_is_named(self) -> None:
        line = [
            sys.executable,
            str(ROOT / "server.py"),
            "--config",
            str(self.folder / "absent.json"),
        ]
        done = subprocess.run(line, capture_output=True, timeout=30, encoding="utf-8")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
        self.assertIn("absent.json", done.stderr)

    def test_a_port_that_is_in_use_is_named_and_the_server_on_it_goes_on(self) -> None:
        with Server() as server:
            said = refusal(self.folder, "--port", str(server.port))
            self.assertEqual(said.count("\n"), 1)
            self.assertIn(str(server.port), said)
            self.assertEqual(snapshot(self.folder), {}, "nothing is made")
            second = [
                sys.executable,
                str(ROOT / "server.py"),
                "--config",
                str(server.folder / "config.json"),
            ]
            done = subprocess.run(
                [*second, "--port", str(server.port)], capture_output=True, timeout=30
            )
            self.assertEqual(done.returncode, 2, "the same store, the same port")
            self.assertEqual(server.post({"message": "m"}).status, 200)

    def test_a_number_of_the_configuration_is_taken_up_to_its_bound_and_refused_beyond(
        self,
    ) -> None:
        for change, wrong in (
            *(({"port": port}, port not in (0, 65535)) for port in (-1, 0, 65535, 65536)),
            *(({"number": number}, number not in (0, 15)) for number in (-1, 0, 15, 16, 1.5, True)),
            *(({"max_records_per_second": rate}, rate == 0) for rate in (None, 0, 0.5)),
            *(({"retention": {"max_age_days": days}}, days == 0) for days in (None, 0, 0.5)),
            *(({"retention": {"max_size_mb": size}}, size == 0) for size in (None, 0, 0.5)),
        ):
            with self.subTest(change):
                path = write_config(self.folder, configuration(**change))
                expected = self.assertRaises(module.StartError)
                with expected if wrong else contextlib.nullcontext():
                    module.load_config(path)


def database(path: pathlib.Path, statements: str) -> None:
    """Makes an SQLite file."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(statements)


def own(path: pathlib.Path, more: str = "") -> None:
    """Makes a store of this server, with a few records in it."""
    columns = "received_at, timestamp, service, severity, message, attributes"
    row = f"INSERT INTO logs ({columns}) VALUES (1, 1, 's', 20, '{'m' * 1000}', '{{}}');"
    database(path, (ROOT / "schema.sql").read_text(encoding="utf-8") + row * 100 + more)


# What schema.sql was before: attributes were written another way, and answers kept whole.
SCHEMA_1 = """
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN;
PRAGMA application_id = 0x4C4F4753;
PRAGMA user_version = 1;
CREATE TABLE logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, received_at INTEGER NOT NULL, timestamp INTEGER NOT NULL,
    service TEXT NOT NULL, severity INTEGER NOT NULL CHECK (severity IN (10, 20, 30, 40, 50)),
    message TEXT NOT NULL, attributes TEXT NOT NULL
) STRICT;
CREATE INDEX logs_by_time ON logs (timestamp);
CREATE INDEX logs_by_kind ON logs (service, severity, timestamp);
CREATE TABLE counts (
    span INTEGER NOT NULL, start INTEGER NOT NULL, service TEXT NOT NULL, severity INTEGER NOT NULL,
    records INTEGER NOT NULL, PRIMARY KEY (span, start, service, severity)
) STRICT, WITHOUT ROWID;
CREATE INDEX counts_spent ON counts (span) WHERE records <= 0;
CREATE TABLE answers (
    key BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL, answer TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_by_age ON answers (created_at);
INSERT INTO logs VALUES (1, 1, 1, 'app', 20, 'm', '{"user": "bob"}');
INSERT INTO counts VALUES (60000000, 0, 'app', 20, 1), (3600000000, 0, 'app', 20, 1),
                          (86400000000, 0, 'app', 20, 1);
COMMIT;
"""


def version_1(path: pathlib.Path, more: str = "") -> None:
    """Makes a store of the version before this one, with a record in it."""
    database(path, SCHEMA_1 + more)


def cut(path: pathlib.Path, size: int) -> None:
    """Makes a store of this server and cuts it to a size, or where that is negative,
    by so many bytes."""
    own(path)
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)


def beside_a_journal(path: pathlib.Path) -> None:
    """Makes another program's database, with the journal of a transaction that was cut off."""
    database(path, "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    path.with_name(f"{path.name}-journal").write_bytes(bytes(512))


class ForeignFiles(Folders):
    """A file that is not a store of this version is named, and left untouched to the byte."""

    FILES: tuple[tuple[str, Callable[[pathlib.Path], object]], ...] = (
        ("a text", lambda path: path.write_text("2026-11-24 02:14:12 INFO started\n" * 1000)),
        ("a few letters", lambda path: path.write_text("hi")),
        ("zeros", lambda path: path.write_bytes(bytes(8192))),
        ("another database",
         lambda path: database(path, "CREATE TABLE t (a); INSERT INTO t VALUES (1);")),
        ("another database, WAL",
         lambda path: database(path, "PRAGMA journal_mode = WAL; CREATE TABLE logs (id);")),
        ("another database, its journal", beside_a_journal),
        ("no version", lambda path: own(path, "PRAGMA user_version = 0;")),
        ("an older version", version_1),
        ("an older version, WAL", lambda path: version_1(path, "PRAGMA journal_mode = WAL;")),
        ("a later version", lambda path: own(path, "PRAGMA user_version = 3;")),
        ("the name of another program", lambda path: own(path, "PRAGMA application_id = 7;")),
        ("without its tables", lambda path: own(path, "DROP TABLE logs;")),
        ("cut in half", lambda path: cut(path, 64 << 10)),
        ("cut by a byte", lambda path: cut(path, -1)),
        ("cut to a page", lambda path: cut(path, 4096)),
        ("cut to its head", lambda path: cut(path, 100)),
        ("cut within its head", lambda path: cut(path, 30)),
        ("a folder", lambda path: path.mkdir()),
    )

    def test_it_is_refused_in_one_line_and_untouched(self) -> None:
        folders = [self.subfolder(name) for name, _ in self.FILES]
        for folder, (_, make) in zip(folders, self.FILES, strict=True):
            make(folder / "logs.db")
        before = [snapshot(folder) for folder in folders]
        outcomes = starts([["--config", str(write_config(folder))] for folder in folders])
        for folder, there, outcome in zip(folders, before, outcomes, strict=True):
            with self.subTest(folder.name):
                self.assertEqual((outcome.status, outcome.out), (2, ""), outcome.err)
                self.assertEqual(outcome.err.count("\n"), 1, outcome.err)
                self.assertIn(str(folder / "logs.db"), outcome.err)
                self.assertEqual(snapshot(folder), there, "untouched")

    def test_a_store_of_version_1_is_refused_with_the_way_to_carry_it_over(self) -> None:
        version_1(self.folder / "logs.db")
        before = snapshot(self.folder)
        said = refusal(self.folder)
        self.assertEqual(said.count("\n"), 1, said)
        for words in (str(self.folder / "logs.db"), "version 1", "/logs?limit=0", "NEW/logs"):
            with self.subTest(words):
                self.assertIn(words, said)
        self.assertEqual(snapshot(self.folder), before, "untouched")

    @unittest.skipUnless(
        shutil.which("curl") and sys.platform == "linux", "needs curl, and split of GNU"
    )
    def test_the_way_that_it_names_carries_all_records_over(self) -> None:
        version_1(self.folder / "logs.db")
        said = refusal(self.folder)
        line = "curl" + said.partition(": curl")[2]
        with Server() as old, Server() as new:
            sent = [
                {"message": f"{n} 'quoted' \u2028 é\n", "service": name, "level": "ERROR", "n": n}
                for n in range(4000)
                for name in ("app", "web", "another")
            ]
            for start in range(0, len(sent), 6000):
                answer = old.post(sent[start : start + 6000], SHIPPER)
                self.assertEqual(answer.status, 200)
            line = line.replace("OLD/", f"{old.url}/").replace("NEW/", f"{new.url}/")
            line = line.replace("Token T'", f"Token {SHIPPER}'")
            done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            columns = "timestamp, service, severity, message, attributes"
            carried = f"SELECT {columns} FROM logs ORDER BY timestamp, id"
            self.assertEqual(new.sql(carried), old.sql(carried))
            self.assertEqual(new.sql("SELECT count(*) FROM logs"), [(len(sent),)])

    def test_a_copy_made_by_vacuum_into_becomes_a_wal_database(self) -> None:
        own(self.folder / "made.db")
        copy = self.folder / "logs.db"
        database(self.folder / "made.db", f"VACUUM INTO '{copy}';")
        with contextlib.closing(sqlite3.connect(copy)) as db:
            self.assertEqual(db.execute("PRAGMA journal_mode").fetchone(), ("delete",))
            self.assertEqual(db.execute("PRAGMA user_version").fetchone(), (2,))
        forever = {"max_age_days": None, "max_size_mb": None}  # Its records were received in 1970.
        with Server(self.folder, retention=forever) as server:
            self.assertEqual(server.sql("PRAGMA journal_mode"), [("wal",)])
            with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                self.assertEqual(reader.execute("SELECT count(*) FROM logs").fetchone(), (100,))
                answer = server.post({"message": "beside a reader"})
                self.assertEqual((answer.status, answer.json["first_id"]), (200, 101))
            self.assertEqual(len(server.get("/logs?limit=0").json), 101)

    def test_a_folder_that_is_absent_is_not_made(self) -> None:
        said = refusal(self.folder, "--store", str(self.folder / "absent" / "logs.db"))
        self.assertEqual(said.count("\n"), 1)
        self.assertIn("absent", said)
        self.assertEqual(snapshot(self.folder), {})

    def test_a_folder_without_permission_is_named(self) -> None:
        folder = self.subfolder("forbidden")
        folder.chmod(0o500)
        self.addCleanup(folder.chmod, 0o700)
        store = folder / "logs.db"
        if os.access(folder, os.W_OK):  # root may write everywhere, but not here
            if not os.path.isdir("/sys/kernel"):
                self.skipTest("this user may write everywhere")
            store = pathlib.Path("/sys/kernel/logs.db")
        said = refusal(self.folder, "--store", str(store))
        self.assertEqual(said.count("\n"), 1)
        self.assertIn(str(store), said)

    def test_a_store_that_schema_sql_has_made_is_taken(self) -> None:
        own(self.folder / "logs.db")
        with Server(self.folder) as server:
            self.assertEqual(server.post({"message": "m"}).json["first_id"], 101)


class Start(Folders):
    """What is said and made when it starts."""

    def test_the_first_line_says_where_it_listens_and_nothing_else_is_said(self) -> None:
        with Server(self.folder) as server:
            self.assertEqual(server.url, f"http://127.0.0.1:{server.port}")
            self.assertNotEqual(server.port, 0)
            self.assertEqual(server.get("/health").status, 200)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.stdout
            self.assertEqual(server.process.stdout.read(), "")
        self.assertEqual(server.errors, [])

    def test_a_store_beside_the_configuration_is_made_wherever_it_is_started(self) -> None:
        elsewhere = self.subfolder("elsewhere")
        for name in ("server.py", "schema.sql", "config.json"):
            shutil.copy(ROOT / name, self.folder)
        process = subprocess.Popen(
            [sys.executable, str(self.folder / "server.py"), "--port", "0"],
            cwd=elsewhere,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout
            self.assertRegex(process.stdout.readline(), r"^listening on http://127\.0\.0\.1:\d+$")
            process.terminate()
        self.assertEqual(process.returncode, 0)
        self.assertTrue((self.folder / "logs.db").exists())
        self.assertEqual(list(elsewhere.iterdir()), [])

    def test_options_replace_what_the_configuration_says(self) -> None:
        store = self.folder / "other.db"
        with Server(
            self.folder, "--host", "localhost", "--port", "0", "--store", str(store), port=1
        ) as server:
            self.assertEqual(server.url, f"http://localhost:{server.port}")
            self.assertEqual(server.post({"message": "m"}).status, 200)
        self.assertTrue(store.exists())
        self.assertFalse((self.folder / "logs.db").exists())

    @unittest.skipUnless(has_ipv6(), "this machine has no ::1")
    def test_an_ipv6_address_is_written_in_brackets(self) -> None:
        with Server(self.folder, host="::1") as server:
            self.assertEqual(server.url, f"http://[::1]:{server.port}")
            connection = http.client.HTTPConnection("::1", server.port, timeout=10)
            self.addCleanup(connection.close)
            connection.request("GET", "/health")
            self.assertEqual(connection.getresponse().status, 200)

    def test_beyond_loopback_it_starts_with_read_tokens_and_without_sample_tokens(self) -> None:
        with Server(self.folder, **EXPOSED) as server:
            self.assertEqual(server.url, f"http://0.0.0.0:{server.port}")
            self.assertEqual(server.get("/logs").status, 401)

    def test_records_are_there_after_a_restart(self) -> None:
        with Server(self.folder) as server:
            first = server.post({"message": "before"}).json["first_id"]
            server.restart()
            self.assertEqual(server.get(f"/logs/{first}").json["message"], "before")
            self.assertEqual(server.post({"message": "after"}).json["first_id"], first + 1)

    def test_the_sample_configuration_is_as_promised(self) -> None:
        settings = SAMPLE["server"]
        self.assertEqual((settings["host"], settings["port"]), ("127.0.0.1", 8000))
        self.assertEqual(settings["store"], "logs.db")
        for name, described in SAMPLE["services"].items():
            with self.subTest(name):
                self.assertTrue(described["token"].startswith("demo-"))
                severities = {log["severity"] for log in described["logs"]}
                self.assertEqual(severities, {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})

    def test_a_configuration_that_begins_with_a_byte_order_mark_is_read(self) -> None:
        line = command(self.folder, config=b"\xef\xbb\xbf" + json.dumps(configuration()).encode())
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            said = process.stdout.readline()
            process.terminate()
        self.assertTrue(said.startswith("listening on "), "it did not start")


class Stop(Folders):
    """SIGTERM and Ctrl-C end it within 5 seconds, with status 0."""

    def test_a_signal_right_after_the_first_line_is_heard_too(self) -> None:
        for sig in (signal.SIGTERM, signal.SIGINT) * 2:
            with self.subTest(sig):
                pipe = subprocess.PIPE
                process = subprocess.Popen(
                    command(self.folder), stdout=pipe, stderr=pipe, text=True
                )
                assert process.stdout
                self.assertTrue(process.stdout.readline())
                process.send_signal(sig)
                self.assertEqual((process.communicate(timeout=10)[1], process.returncode), ("", 0))

    @unittest.skipUnless(hasattr(os, "mkfifo"), "needs a FIFO")
    def test_a_signal_before_the_first_line_ends_it_and_sighup_does_not(self) -> None:
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(sig):
                path = self.folder / f"{sig}.json"
                os.mkfifo(path)
                arguments = [sys.executable, str(ROOT / "server.py"), "--config", str(path)]
                pipe = subprocess.PIPE
                process = subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True)
                with path.open("w", encoding="utf-8") as config:  # It waits until that reads it.
                    process.send_signal(sig)
                    if sig == signal.SIGHUP:
                        path.unlink()  # What is read again is a file: it would wait for a FIFO.
                        path.write_text(json.dumps(configuration()), encoding="utf-8")
                        json.dump(configuration(), config)
                if sig == signal.SIGHUP:
                    assert process.stdout
                    self.assertIn("listening on", process.stdout.readline())
                    process.send_signal(signal.SIGTERM)
                said = process.communicate(timeout=10)[1]
                self.assertEqual(process.returncode, 0)
                self.assertRegex(said, r"\A(.* the configuration is read again;.*\n)?\Z")

    def test_idle_connections_and_followers_do_not_hold_it_up(self) -> None:
        for sig in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(sig), Server() as server:
                first = server.post({"message": "m"}).json["first_id"]
                idle, follower = server.connection(), server.connection()
                self.addCleanup(idle.close)
                self.addCleanup(follower.close)
                idle.request("GET", "/health")
                idle.getresponse().read()
                follower.request("GET", "/logs?follow=1")
                response = follower.getresponse()
                self.assertEqual(json.loads(response.readline())["id"], first)
                began = time.monotonic()
                self.assertEqual(server.stop(sig), 0)
                self.assertLess(time.monotonic() - began, 5)
                self.assertEqual(response.read().strip(), b"", "the stream ends as it should")
                self.assertEqual(server.errors, [])
                self.assertEqual(server.sql("PRAGMA integrity_check"), [("ok",)])

    def test_a_second_signal_changes_nothing(self) -> None:
        with Server(constants={"SHUTDOWN_SECONDS": 0.5}) as server, Wire(server) as half:
            half.send(POST)
            half.send(b"Content-Length: 999999\r\n\r\n" + b"{" * 300_000)
            eventually(lambda: "logs_waiting_bytes 300000\n" in server.get("/metrics").text)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            for sig in (signal.SIGINT, signal.SIGTERM):
                server.process.send_signal(sig)
            self.assertEqual(server.process.wait(10), 0)
        self.assertEqual(server.errors, [])

    def test_idle_connections_are_ended_at_once(self) -> None:
        with Server(constants={"SHUTDOWN_SECONDS": 12}) as server, Wire(server) as idle:
            idle.send(GET).answer()
            began = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - began, 10, "it waited for who asks for nothing")

    def test_who_is_cut_off_in_a_request_by_the_stop_gets_503(self) -> None:
        with Server(constants={"SHUTDOWN_SECONDS": 1}) as server, Wire(server) as half:
            half.send(b"GET /he")
            # Whoever connects later is answered later: then the half request is being read.
            server.get("/health")
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            answer = half.answer()
            assert answer
            self.assertEqual((answer.status, answer.headers["connection"]), (503, "close"))


@unittest.skipUnless(hasattr(signal, "SIGHUP"), "this system has no SIGHUP")
class Reload(unittest.TestCase):
    """SIGHUP reads tokens and limits again."""

    def setUp(self) -> None:
        self.server = self.enterContext(Server())

    def reload(self, config: Json) -> None:
        """Writes another configuration, and tells the server."""
        text = config if isinstance(config, str) else json.dumps(config)
        (self.server.folder / "config.json").write_text(text, encoding="utf-8")
        self.server.process.send_signal(signal.SIGHUP)

    def says(self, words: str) -> bool:
        """Whether the server has written a line with these words."""
        return any(words in line for line in self.server.errors)

    def status(self, token: str) -> int:
        """What a token gets for a record."""
        return self.server.post({"message": "m"}, token).status

    def test_tokens_are_read_again(self) -> None:
        config = configuration(read_tokens=["reader-2"], shipper_tokens=[])
        config["services"] = {"app": service("app-2"), "other": service("other-2")}
        self.reload(config)
        eventually(lambda: self.status("app-2") == 200)
        self.assertEqual(self.status("other-2"), 200)
        self.assertEqual([self.status(token) for token in (TOKEN, OTHER_TOKEN, SHIPPER)], [401] * 3)
        self.assertEqual(self.server.get("/logs").status, 401, "a read token closes reading")
        self.assertEqual(self.server.get("/logs", Authorization="Token reader-2").status, 200)

    def test_limits_are_read_again(self) -> None:
        self.reload(configuration(max_records_per_second=0.5))
        eventually(lambda: self.status(TOKEN) == 429)
        self.reload(configuration())
        eventually(lambda: self.status(TOKEN) == 200)

    def test_it_goes_on_to_listen_where_it_was_started_and_so_to_need_read_tokens(self) -> None:
        config = configuration(host="0.0.0.0", read_tokens=[READER], shipper_tokens=[])
        with Server(config=config) as self.server:
            config["server"] |= {"host": "127.0.0.1", "read_tokens": []}
            self.reload(config)
            eventually(functools.partial(self.says, "server.read_tokens"))
            self.assertEqual(self.server.get("/logs").status, 401)

    def test_a_broken_file_leaves_all_as_it_was(self) -> None:
        for name, config, words in (
            ("not JSON", "{", "config.json"),
            ("a mistake", configuration(read_tokens="x"), "server.read_tokens"),
        ):
            with self.subTest(name):
                self.reload(config)
                eventually(functools.partial(self.says, words))
                self.assertEqual((self.status(TOKEN), self.server.get("/logs").status), (200, 200))
        self.reload(configuration(read_tokens=[READER]))
        eventually(lambda: self.server.get("/logs").status == 401)


class ReadTokens(ServerTests):
    """A read token closes reading, and opens it."""

    settings = {"read_tokens": [READER, "another-reader"]}
    CLOSED = (
        "/logs", "/logs?limit=0", "/logs?follow=1", "/logs/1", "/stats", "/estadisticas",
        "/metrics",
    )

    def setUp(self) -> None:
        self.server.post({"message": "m"})

    def read(self, path: str, authorization: str | None) -> http.client.HTTPResponse:
        """The head of an answer, with or without a token; a body may have no end."""
        connection = self.server.connection()
        self.addCleanup(connection.close)
        connection.request(
            "GET", path, headers={"Authorization": authorization} if authorization else {}
        )
        return connection.getresponse()

    def test_without_one_nothing_can_be_read(self) -> None:
        for path in self.CLOSED:
            for authorization in (
                None,
                "Token wrong",
                f"Token {TOKEN}",
                f"Token {SHIPPER}",
                f"Basic {READER}",
            ):
                with self.subTest(path, authorization=authorization):
                    answer = self.read(path, authorization)
                    self.assertEqual(answer.status, 401)
                    self.assertTrue(answer.headers["WWW-Authenticate"])
                    self.assertEqual(set(json.load(answer)), {"error", "hint"})

    def test_with_one_everything_can_be_read(self) -> None:
        password = base64.b64encode(f"me:{READER}".encode()).decode()
        for path in self.CLOSED:
            for authorization in (
                f"Token {READER}",
                f"Bearer {READER}",
                f"Basic {password}",
                "Token another-reader",
            ):
                with self.subTest(path, authorization=authorization):
                    self.assertEqual(self.read(path, authorization).status, 200)

    def test_health_and_the_root_tell_nothing_and_are_open(self) -> None:
        for path in ("/health", "/"):
            self.assertEqual(self.read(path, None).status, 200)

    def test_a_host_of_any_name_is_served(self) -> None:
        self.assertEqual(
            self.server.get("/logs", Host="logs.example", Authorization=f"Token {READER}").status,
            200,
        )


class Hosts(ServerTests):
    """While reading is open, only known names are served:
    no web page elsewhere can read by rebinding its own."""

    settings = {"allowed_hosts": ["logs.example", "Upper.Example"]}
    KNOWN = (
        *("127.0.0.1", "localhost", "LOCALHOST", "localhost:1", "127.0.0.1:8000", "127.0.0.2"),
        "127.1.2.3:80",
        *("[::1]", "[::1]:8000", "logs.example", "LOGS.example:8000", "upper.example"),
    )
    UNKNOWN = (
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
        "evillocalhost",
        *("sub.logs.example", "logs.example.evil.example", "192.168.1.5", "0.0.0.0", "[::]"),
        *("[fe80::1]", "10.0.0.1"),
        *("evil.example:localhost", "localhost@evil.example", "[evil.example]", "2130706433", "*"),
        "null",
    )

    def test_known_names_are_served(self) -> None:
        for host in self.KNOWN:
            with self.subTest(host):
                self.assertEqual(self.server.get("/stats", Host=host).status, 200)

    def test_other_names_get_421_for_whatever_they_ask(self) -> None:
        for host in self.UNKNOWN:
            with self.subTest(host):
                answer = self.server.get("/stats", Host=host)
                self.assertIn(
                    answer.status,
                    (400, 421) if "@" in host or ":l" in host else (421,),
                    answer.text,
                )
        for path in ("/", "/logs", "/logs/1", "/health", "/metrics", "/nothing"):
            with self.subTest(path):
                answer = self.server.get(path, Host="evil.example")
                self.assertEqual((answer.status, set(answer.json)), (421, {"error", "hint"}))
                self.assertIn("allowed_hosts", answer.json["hint"])
        self.assertEqual(self.server.post({"message": "m"}, Host="evil.example").status, 421)

    def exchange(self, *lines: str) -> int:
        """Sends a request as it stands; gives the status of the answer."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            return int(connection.recv(1000).split()[1])

    def test_the_host_of_an_absolute_uri_counts(self) -> None:
        for uri, host, status in (
            ("http://localhost/stats", "localhost", 200),
            ("http://localhost:8000/stats", "evil.example", 200),
            ("http://[::1]/stats", "evil.example", 200),
            ("http://evil.example/stats", "localhost", 421),
            ("http://evil.example:80/stats", "127.0.0.1", 421),
            ("http://evil.example", "localhost", 421),
        ):
            with self.subTest(uri, host=host):
                self.assertEqual(
                    self.exchange(f"GET {uri} HTTP/1.1", f"Host: {host}", "Connection: close"),
                    status,
                )

    def test_a_client_that_names_no_host_is_no_browser(self) -> None:
        self.assertEqual(self.exchange("GET /stats HTTP/1.0"), 200)
        self.assertEqual(self.exchange("GET /stats HTTP/1.1"), 400)


def certificate(folder: pathlib.Path) -> None:
    """Makes a certificate for 127.0.0.1 that signs itself, and its key."""
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", names),
            *("-keyout", "key.pem", "-out", "certificate.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=60,
    )


@unittest.skipUnless(
    shutil.which("openssl"), "the openssl program is not there to make a certificate"
)
class Tls(unittest.TestCase):
    """With a certificate, the server speaks HTTPS alone."""

    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="logs-")))
        certificate(folder)
        # Beside the configuration, as a store is.
        tls = {"certificate": "certificate.pem", "key": "key.pem"}
        cls.server = cls.enterClassContext(Server(folder, tls=tls))
        cls.context = ssl.create_default_context(cafile=folder / "certificate.pem")

    context: ssl.SSLContext

    def request(self, method: str, path: str, body: Json = None) -> Json:
        """One request over TLS, the server's certificate checked."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.server.port, timeout=10, context=self.context
        )
        self.addCleanup(connection.close)
        headers = {"Authorization": f"Token {TOKEN}"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        return json.load(response)

    def test_records_are_written_and_read(self) -> None:
        self.assertEqual(self.server.url, f"https://127.0.0.1:{self.server.port}")
        large = "x" * 200_000
        number = self.request("POST", "/logs", [{"message": large}, {"message": "b"}])["first_id"]
        self.assertEqual(self.request("GET", f"/logs/{number}")["message"], large)
        self.assertEqual(
            [r["message"] for r in self.request("GET", "/logs?limit=0&order=asc")][-2:],
            [large, "b"],
        )

    def test_who_speaks_no_tls_gets_nothing_and_disturbs_nobody(self) -> None:
        for sent in (
            b"GET /logs HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x16\x03\x01 nonsense" * 100,
            b"\n",
        ):
            with (
                self.subTest(sent[:10]),
                socket.create_connection(("127.0.0.1", self.server.port), 10) as connection,
            ):
                with contextlib.suppress(OSError):  # it may have hung up by then
                    connection.sendall(sent)
                    connection.shutdown(socket.SHUT_WR)
                    self.assertNotIn(b"HTTP", connection.recv(1000))
                self.assertEqual(self.request("GET", "/health"), {"status": "ok"})

    def test_who_connects_and_says_nothing_holds_nobody_up(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port), 10):
            self.assertEqual(self.request("GET", "/health"), {"status": "ok"})

    def test_a_client_that_does_not_know_the_certificate_refuses_it(self) -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=10)
        self.addCleanup(connection.close)
        with self.assertRaises(ssl.SSLCertVerificationError):
            connection.request("GET", "/health")


class AnOlderPython(support.OlderPythonTests):
    program = "server.py"


if __name__ == "__main__":
    unittest.main()
