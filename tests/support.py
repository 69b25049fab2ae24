"""What the tests share: a real server process on a free port, requests to it, and its database.

    with Server() as server:
        answer = server.post({"message": "hello"})
        assert answer.status == 200, answer.text
        assert server.sql("SELECT count(*) FROM logs") == [(1,)]
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import functools
import http.client
import json
import marshal
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import server as module

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKEN = "test-app"  # the service token of the service "app"
OTHER_TOKEN = "test-web"  # the service token of the service "web"
SHIPPER = "test-shipper"
READER = "test-reader"

README = (ROOT / "README.md").read_text(encoding="utf-8")
# config.json as it came: a reader may have added services of his own.
SAMPLE = json.loads((ROOT / "config.json").read_text(encoding="utf-8"))
SAMPLE["services"] = {
    name: SAMPLE["services"][name] for name in ("pagos", "pedidos", "usuarios", "chat_atencion")
}
SEVERITIES = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR

Json = Any

# A shell lets what it starts in the background ignore Ctrl-C,
# and so would the servers that the tests start there.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Answer(NamedTuple):
    """One HTTP answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    @property
    def json(self) -> Json:
        return json.loads(self.body)


def service(token: str) -> dict[str, Json]:
    """A service of a configuration, with the least that it must have."""
    return {
        "token": token,
        "iterations": [1, 1],
        "delay_seconds": [0, 0],
        "logs": [{"severity": "INFO", "message": "m", "weight": 1}],
    }


def configuration(**server: Json) -> dict[str, Json]:
    """A whole configuration; the arguments replace or add keys of "server"."""
    settings = {
        "host": "127.0.0.1",
        "port": 0,
        "store": "logs.db",
        "read_tokens": [],
        "shipper_tokens": [SHIPPER],
        "retention": {"max_age_days": 30, "max_size_mb": 1024},
        "max_records_per_second": None,
    }
    return {
        "server": {**settings, **server},
        "simulator": {"url": "http://127.0.0.1:8000"},
        "services": {"app": service(TOKEN), "web": service(OTHER_TOKEN)},
    }


# Where the folders of servers are made: in memory, if there is room, for a sync takes long on some
# disks. No test can cut the power, and a killed process leaves to the system what it has written.
MEMORY = "/dev/shm"
HAS_ROOM = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 1 << 30
FOLDERS = MEMORY if HAS_ROOM else tempfile.gettempdir()

# server.py is compiled once for all servers: as a script it would be compiled at every start.
COMPILED_FOLDER = tempfile.TemporaryDirectory(prefix="logs-")
COMPILED = pathlib.Path(COMPILED_FOLDER.name, "server")
SAMPLE_FILE = pathlib.Path(COMPILED_FOLDER.name, "config.json")
SAMPLE_FILE.write_text(json.dumps(SAMPLE), encoding="utf-8")
SOURCE = (ROOT / "server.py").read_bytes()
COMPILED.write_bytes(marshal.dumps(compile(SOURCE, "server.py", "exec", dont_inherit=True)))

# Starts it, as a script, with constants changed; one that is not there is a mistake of the test.
LAUNCHER = """
import gc
gc.disable()  # Nothing that is loaded is garbage: to look for it takes a seventh of a start.
import json, marshal, pathlib, sys, types
server = sys.modules["server"] = types.ModuleType("server")
server.__file__ = sys.argv.pop(1)
exec(marshal.loads(pathlib.Path(sys.argv.pop(1)).read_bytes()), vars(server))
gc.enable()
for name, value in json.loads(sys.argv.pop(1)).items():
    getattr(server, name)
    setattr(server, name, value)
sys.exit(server.main())
"""


def command(**constants: Json) -> list[str]:
    """The command that runs server.py, as `python server.py` does, with its constants changed."""
    arguments = [str(ROOT / "server.py"), str(COMPILED), json.dumps(constants)]
    # -S: it needs no package, and to look for these takes a third of a start.
    return [sys.executable, "-S", "-c", LAUNCHER, *arguments]


class Server:
    """A process that runs server.py in a folder of its own, as `python server.py` would.

    Keyword arguments go into the "server" part of its configuration. With `folder`, a database that
    is there already is used, so that one server can follow another. `constants` of the module are
    replaced before it starts: a test need not wait for deadlines as long as a user. `wrapper` is a
    command that runs the server's. `as_script` starts it as a user does, which takes longer.
    """

    def __init__(
        self,
        folder: str | pathlib.Path | None = None,
        *arguments: str,
        config: Json = None,
        constants: dict[str, Json] | None = None,
        wrapper: tuple[str, ...] = (),
        as_script: bool = False,
        **settings: Json,
    ):
        self.constants, self.wrapper = constants or {}, wrapper
        self.as_script = as_script
        self._temporary = (
            None if folder else tempfile.TemporaryDirectory(prefix="logs-", dir=FOLDERS)
        )
        self.folder = pathlib.Path(folder or self._temporary.name)  # type: ignore[union-attr]
        self.config = config or configuration(**settings)
        self.arguments = arguments
        self.database = self.folder / "logs.db"
        self.errors: list[str] = []  # what it wrote on stderr, line by line
        self.start()

    def start(self) -> None:
        """Starts the process and waits until it says where it listens."""
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config), encoding="utf-8")
        script = [sys.executable, str(ROOT / "server.py")]
        program = script if self.as_script else command(**self.constants)
        program = [*self.wrapper, *program, "--config", str(path)]
        self.process = subprocess.Popen(
            [*program, *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self.process.stdout and self.process.stderr
        stderr = self.process.stderr
        self._drain = threading.Thread(target=lambda: self.errors.extend(stderr), daemon=True)
        self._drain.start()
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            self.process.wait(10)
            self.__exit__()
            raise RuntimeError(f"the server did not start: {line}{''.join(self.errors)}")
        self.url = line.split()[-1]
        self.host, _, port = self.url.rpartition("/")[2].rpartition(":")
        self.port = int(port)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Sends a signal and gives the exit status;
        a process that has ended already just gives it."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        status = self.process.wait(15)
        self._drain.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        return status

    def restart(self, sig: int = signal.SIGTERM) -> None:
        """Stops it and starts it again, on the same database and the same port."""
        self.stop(sig)
        self.config["server"]["port"] = self.port
        self.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._temporary:
            self._temporary.cleanup()

    # Requests

    def connection(self, timeout: float = 120) -> http.client.HTTPConnection:
        """A connection to it. A test that bounds a time says so itself: a machine may be busy."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.connection()
        try:
            return request(connection, method, path, body, headers)
        finally:
            connection.close()

    def post(
        self, body: Json, token: str | None = TOKEN, path: str = "/logs", **headers: str
    ) -> Answer:
        """POSTs bytes and text as they are, anything else as JSON;
        `Idempotency_Key="k"` sets a header."""
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent.setdefault("Authorization", f"Token {token}")
        return self.request("POST", path, body.encode() if isinstance(body, str) else body, sent)

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, {n.replace("_", "-"): v for n, v in headers.items()})

    def metric(self, name: str) -> float:
        """A number of GET /metrics without labels; -1 where there is none."""
        lines = self.get("/metrics").text.splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith(name + " ")), -1)

    def sql(self, statement: str, *parameters: Json) -> list[tuple[Any, ...]]:
        """Reads the database file by a connection of its own, past the server."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()


def request(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection that stays open."""
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return Answer(
        response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    )


def eventually(
    condition: Callable[[], Any],
    seconds: float = 60,
    why: str | Callable[[], str] = "it did not come true",
) -> Any:
    """Asks again and again until the answer is true, and gives it;
    `why` is what to say if it never is."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, (
            f"after {seconds:g} s: {why() if callable(why) else why}"
        )
        time.sleep(0.005)
    return answer


def visible(text: str) -> str:
    """A text with its control characters written as in JSON, but for tabs and line ends."""
    pattern = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    return re.sub(pattern, lambda match: f"\\u{ord(match[0]):04x}", text)


class ServerTests(unittest.TestCase):
    """Tests that share one server: it starts before the first of them and stops after the last."""

    settings: ClassVar[dict[str, Json]] = {}  # for the "server" part of its configuration
    server: ClassVar[Server]

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = cls.enterClassContext(Server(**cls.settings))

    def accept(self, body: Json, token: str = TOKEN, **headers: str) -> list[dict[str, Json]]:
        """POSTs a body all of which must be stored; gives its records as GET /logs/ID does."""
        answer = self.server.post(body, token, **headers)
        self.assertEqual(answer.status, 200, answer.text)
        self.assertEqual((answer.json["rejected"], answer.json["errors"]), (0, []))
        numbers = range(answer.json["first_id"], answer.json["last_id"] + 1)
        return [self.server.get(f"/logs/{number}").json for number in numbers]


# A store in this process, without a server: its batches are committed step by step.


def record(message: str = "m", severity: int = 20) -> module.Record:
    """A record as the store takes it."""
    return module.Record(1_795_486_452_000_000, "app", severity, message, "{}")


def batch_of(*records: module.Record, key: bytes = b"") -> module.Batch:
    """A batch of records as they stand, whatever is in them; with a key, all of one body."""
    return module.Batch(list(records), key, b"body" if key else b"")


def folder_of(case: unittest.TestCase) -> pathlib.Path:
    """A folder that goes with the test."""
    folder = tempfile.mkdtemp(prefix="logs-", dir=FOLDERS)
    case.addCleanup(shutil.rmtree, folder)
    return pathlib.Path(folder)


def store_of(case: unittest.TestCase) -> module.SQLiteStore:
    """A store in this process, without a server, and without its thread of upkeep: nothing but
    the test changes it."""
    path = folder_of(case) / "config.json"
    path.write_text(json.dumps(configuration()), encoding="utf-8")
    with mock.patch.object(module.SQLiteStore, "upkeep"):
        store = module.SQLiteStore(module.load_config(path))

    def close() -> None:
        if not store.readers.closing:  # To close it again would take two seconds.
            store.close()

    case.addCleanup(close)
    return store


def commit(store: module.SQLiteStore, *batches: module.Batch) -> list[Exception | None]:
    """Commits batches as one group, in this order, each from a thread of its own; gives what each
    failed of."""
    began, go_on = threading.Event(), threading.Event()

    def write(group: list[module.Batch]) -> None:
        if began.is_set():
            store.write(group)
        else:  # All that come during the first commit form the next group.
            began.set()
            assert go_on.wait(60), "the batches do not come together"

    committer = module.Committer(write)

    def work(batch: module.Batch) -> None:
        with contextlib.suppress(Exception):  # The batch keeps what is raised.
            committer.commit(batch)

    threads = [threading.Thread(target=work, args=[batch]) for batch in (batch_of(), *batches)]
    for number, thread in enumerate(threads):
        thread.start()
        eventually(lambda: began.is_set() and len(committer.queue) > number)  # noqa: B023
    go_on.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a commit has no end"
    return [batch.failure for batch in batches]


def all_records(store: module.SQLiteStore) -> list[module.StoredRecord]:
    """The records of a store, oldest first."""
    return [record for page in store.stream(module.Query(order="asc")) for record in page]


def query(*pairs: tuple[str, Json], **parameters: Json) -> str:
    """The path of GET /logs."""
    return "/logs?" + urllib.parse.urlencode([*pairs, *parameters.items()])


def microseconds(text: str) -> int:
    """A timestamp as the server gives it, in microseconds since 1970."""
    return (datetime.datetime.fromisoformat(text) - EPOCH) // MICROSECOND


def timestamp(moment: int) -> str:
    """Microseconds since 1970 as the server writes them."""
    return (EPOCH + moment * MICROSECOND).isoformat(timespec="microseconds")[:-6] + "Z"


@functools.cache
def tree_of(path: pathlib.Path) -> ast.Module:
    """The code of a file as a tree. Each file is parsed once; nobody may change the tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def rows(heading: str) -> list[list[str]]:
    """The cells of the table in the README below a line that begins so."""
    table = README.partition(f"\n{heading}")[2].partition("\n| --- ")[2].partition("\n\n")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[1:]
    ]


# Programs run to their end, by this Python or an older one.


def run(line: list[str]) -> tuple[int, str, str]:
    """Runs a program to its end; exit status, stdout, stderr."""
    done = subprocess.run(line, cwd=ROOT, capture_output=True, timeout=60, encoding="utf-8")
    return done.returncode, done.stdout, done.stderr


@functools.cache
def older_pythons() -> dict[str, str]:
    """The interpreters from 3.8 to 3.10 that this machine has, by version."""
    root = pathlib.Path(os.environ.get("PYENV_ROOT") or pathlib.Path.home() / ".pyenv")
    found = {}
    for version in ("3.8", "3.9", "3.10"):
        paths = [str(path) for path in root.glob(f"versions/{version}.*/bin/python")]
        for path in [*paths, shutil.which(f"python{version}")]:
            # A name in PATH can be a script of pyenv for a version that is not there.
            program = "import sys; print('%d.%d' % sys.version_info[:2])"
            if path and run([path, "-c", program]) == (0, f"{version}\n", ""):
                found[version] = path
                break
    return found


class OlderPythonTests(unittest.TestCase):
    """Tests that a program says in one line which Python it needs; a subclass names its file.

    Import its module, not its name: a test file runs all classes of tests that it has names of.
    """

    program: ClassVar[str]

    def setUp(self) -> None:
        self.source = (ROOT / self.program).read_text(encoding="utf-8")

    def said(self, version: str) -> str:
        """What it must say to a Python of that version."""
        return f"{self.program} needs Python 3.11 or newer; this is Python {version}.\n"

    def test_can_parse_the_whole_file(self) -> None:
        ast.parse(self.source, feature_version=(3, 8))

    def test_reaches_the_check_before_any_other_import(self) -> None:
        kinds = [type(node) for node in ast.parse(self.source).body[:4]]
        self.assertEqual(kinds, [ast.Expr, ast.ImportFrom, ast.Import, ast.If])

    def test_is_told_which_one_is_needed(self) -> None:
        for version in ((3, 8), (3, 10)):
            with self.subTest(version=version):
                pretend = f"import sys; sys.version_info = ({version[0]}, {version[1]}, 1)"
                execute = f"exec(open({self.program!r}, encoding='utf-8').read())"
                result = run([sys.executable, "-c", f"{pretend}\n{execute}"])
                self.assertEqual(result, (2, "", self.said("{}.{}".format(*version))))

    def test_that_is_on_this_machine_is_told_which_one_is_needed(self) -> None:
        pythons = older_pythons()
        if not pythons:
            self.skipTest("no Python from 3.8 to 3.10 on this machine")
        for version, path in pythons.items():
            with self.subTest(version=version):
                self.assertEqual(run([path, self.program]), (2, "", self.said(version)))
