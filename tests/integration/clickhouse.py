"""A real ClickHouse for the tests: one engine or a cluster of them, and a proxy that gets in the
way.

    with Engine() as engine, Server(store=engine.url) as server:
        server.post({"message": "hello"})
        assert engine.rows("SELECT count() FROM logs") == [[1]]

The npm package @chdb/lib-linux-x64-gnu holds the whole engine as a shared library, with the HTTP
and TCP listeners of the server. It is looked for in the folder that LOG_SERVER_NODE_MODULES names;
where it is not found, an Engine raises unittest.SkipTest and says so. Run as a program, this file
is the engine's process.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

MODULES = pathlib.Path(
    os.environ.get("LOG_SERVER_NODE_MODULES")
    or pathlib.Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "log-server-ci/node_modules"
    ).expanduser()
)
LIBRARY = MODULES / "@chdb/lib-linux-x64-gnu/libchdb.so"
START_SECONDS = 30  # it takes 0.3 s; a busy machine may need more
PR_SET_PDEATHSIG = 1  # prctl(2)

# The engine ends when its query does, so the query that starts the listeners sleeps for hours.
LISTEN = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; SELECT sleepEachRow(1) FROM numbers(14400)"
    " SETTINGS max_block_size=1, function_sleep_max_microseconds_per_block=0 FORMAT Null"
)

# The statement that starts the listeners runs as "default".
USERS = (
    "<clickhouse><profiles><default/></profiles><quotas><default/></quotas>"
    "<users>{users}</users></clickhouse>"
)
USER = (
    "<{name}><password>{password}</password><networks><ip>127.0.0.1</ip></networks>"
    "<profile>default</profile><quota>default</quota></{name}>"
)

Row = list[Any]
Forwarded = tuple[int, list[tuple[str, str]], bytes]  # status, headers and body of an answer


class EngineError(Exception):
    """What the engine answered in place of a result."""


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Engine:
    """One engine in a process and a folder of its own, empty at first.

    `user` may have a `password`; "default" has none. `config` is XML for its
    configuration file, `tcp_port` where other engines of a cluster reach it.
    """

    def __init__(
        self,
        user: str = "default",
        password: str = "",
        config: str = "",
        tcp_port: int | None = None,
    ):
        if not LIBRARY.exists():
            raise unittest.SkipTest(f"ClickHouse is not installed: {LIBRARY} is not there")
        self.user, self.password = user, password
        self.port, self.tcp_port = free_port(), tcp_port or free_port()
        self._temporary = tempfile.TemporaryDirectory(
            prefix="clickhouse-", ignore_cleanup_errors=True
        )
        self.folder = pathlib.Path(self._temporary.name)
        secrets = {"default": "", user: password}
        accounts = "".join(
            USER.format(name=name, password=escape(secret)) for name, secret in secrets.items()
        )
        (self.folder / "users.xml").write_text(USERS.format(users=accounts), encoding="utf-8")
        users = f"<users_config>{self.folder / 'users.xml'}</users_config>"
        (self.folder / "config.xml").write_text(
            f"<clickhouse>{users}{config}</clickhouse>", encoding="utf-8"
        )
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """What a configuration names as the store: the database "default"."""
        return self.store()

    def store(
        self, database: str = "default", password: str | None = None, port: int | None = None
    ) -> str:
        """The same for another database, another password (a
        wrong one) or another port (a proxy's)."""
        secret = urllib.parse.quote(self.password if password is None else password, safe="")
        login = f"{self.user}:{secret}@" if secret or self.user != "default" else ""
        return f"http://{login}127.0.0.1:{port or self.port}/{database}"

    def database(self, name: str) -> str:
        """Makes a database, and gives what a configuration names as the store."""
        self.query(f"CREATE DATABASE {name}")
        return self.store(name)

    # Its life

    def start(self) -> None:
        """Starts the process on the same folder and ports as before, and waits until it answers."""
        arguments = [
            f"--path={self.folder / 'data'}",
            f"--config-file={self.folder / 'config.xml'}",
        ]
        arguments += [
            "--listen_host=127.0.0.1",
            f"--http_port={self.port}",
            f"--tcp_port={self.tcp_port}",
        ]
        with open(self.folder / "engine.log", "ab") as output:
            # It would read what lies in an input as a table.
            self.process = subprocess.Popen(
                [sys.executable, __file__, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the engine did not start: {(self.folder / 'engine.log').read_text()}"
                )
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it takes requests."""
        with contextlib.suppress(OSError, http.client.HTTPException, EngineError):
            return self.query("SELECT 1", timeout=2) == "1\n"
        return False

    def kill(self) -> None:
        """kill -9: nothing that is not on disk survives in the process."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def pause(self) -> None:
        """It accepts connections (the system does) and does nothing, until `resume`."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Goes on after `pause`."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def change(self, database: str, setting: str, value: int | None) -> None:
        """Sets a setting of every table of a database, or sets it back with None."""
        for (table,) in self.rows(f"SELECT name FROM system.tables WHERE database = '{database}'"):
            change = (
                f"RESET SETTING {setting}"
                if value is None
                else f"MODIFY SETTING {setting} = {value}"
            )
            self.query(f"ALTER TABLE {table} {change}", database=database)

    def fill_disk(self, database: str, full: bool = True) -> None:
        """Makes the engine refuse every INSERT into a database as it does on a full disk,
        or no longer."""
        self.change(database, "min_free_disk_bytes_to_perform_insert", 1 << 60 if full else None)

    def close(self) -> None:
        """Kills it and removes its folder."""
        self.kill()
        self._temporary.cleanup()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Past the server

    def query(
        self,
        sql: str,
        body: bytes = b"",
        database: str = "default",
        timeout: float = 60,
        **settings: Any,
    ) -> str:
        """Runs a statement; `body` is the data of an INSERT. Raises EngineError."""
        parameters = {"database": database, "query": sql, "wait_end_of_query": 1, **settings}
        headers = {
            "X-ClickHouse-User": self.user,
            "X-ClickHouse-Key": self.password.encode().decode("latin-1"),
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", f"/?{urllib.parse.urlencode(parameters)}", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        finally:
            connection.close()
        if answer.status != 200:
            raise EngineError(text)
        return text

    def rows(self, sql: str, database: str = "default", **settings: Any) -> list[Row]:
        """The rows of a SELECT."""
        settings = {"output_format_json_quote_64bit_integers": 0, **settings}
        text = self.query(f"{sql} FORMAT JSONCompactEachRow", database=database, **settings)
        return [json.loads(line) for line in text.splitlines()]

    def size(self, table: str, database: str = "default") -> int:
        """Bytes on disk of a table, without parts that a merge has replaced."""
        where = f"database = '{database}' AND table = '{table}' AND active"
        return int(self.rows(f"SELECT sum(bytes_on_disk) FROM system.parts WHERE {where}")[0][0])


class Cluster:
    """Engines that know one another as the shards of a cluster;
    `statements` are run on each, in order."""

    def __init__(self, name: str, statements: list[str], size: int = 2):
        ports = [free_port() for _ in range(size)]
        shards = "".join(
            f"<shard><replica><host>127.0.0.1</host><port>{port}</port></replica></shard>"
            for port in ports
        )
        config = f"<remote_servers><{name}>{shards}</{name}></remote_servers>"
        self.nodes: list[Engine] = []
        try:
            for port in ports:
                self.nodes.append(Engine(config=config, tcp_port=port))
            for node in self.nodes:
                for statement in statements:
                    node.query(statement)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills them all."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---------------------------------------------------------------- between the server and an engine


class Seen(NamedTuple):
    """One request of the server to the engine."""

    sql: str  # the statement: of the URL or of the body, or of both, one after the other
    parameters: dict[str, str]  # the rest of the URL
    rows: bytes  # the data of an INSERT
    headers: dict[str, str]  # names in lower case


class Proxy:
    """Stands before an engine, notes what it is asked, and loses or holds up answers when told to.

    `lose(test)` and `hold(test)` take a function of a `Seen` that says which requests are meant.
    Of a lost answer, the server gets `lose`'s `part`.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.seen: list[Seen] = []
        self.lost: list[Seen] = []
        self._lose: Callable[[Seen], bool] = lambda _: False
        self.part = b""
        self._hold: Callable[[Seen], bool] = lambda _: False
        self.held = threading.Event()  # set when a request waits
        self.go_on = threading.Event()
        handler = type("Handler", (ProxyHandler,), {"proxy": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()

    def store(self, database: str = "default") -> str:
        """What a configuration names as the store."""
        return self.engine.store(database, port=self.port)

    def lose(self, test: Callable[[Seen], bool], part: bytes = b"") -> None:
        """From now on, the engine does what these requests ask,
        and the server hears no more of it than `part`."""
        self._lose, self.part = test, part

    def hold(self, test: Callable[[Seen], bool]) -> None:
        """From now on, these requests wait before the engine until `go_on` is set."""
        self._hold = test

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()

    def note(self, path: str, body: bytes, headers: dict[str, str]) -> Seen:
        """Takes a request apart, and keeps it."""
        parameters = dict(urllib.parse.parse_qsl(path.partition("?")[2], keep_blank_values=True))
        sql = parameters.pop("query", "")
        is_insert = sql.lstrip()[:6].upper() == "INSERT"
        text = "" if is_insert else body.decode("utf-8", "replace")
        seen = Seen(f"{sql}\n{text}".strip(), parameters, body if is_insert else b"", headers)
        self.seen.append(seen)
        return seen

    def forward(
        self, command: str, path: str, body: bytes, headers: dict[str, str]
    ) -> Forwarded | None:
        """Asks the engine, and gives its answer; None where the server must not get any."""
        seen = self.note(path, body, headers)
        if self._hold(seen):
            self.held.set()
            self.go_on.wait(60)
        connection = http.client.HTTPConnection("127.0.0.1", self.engine.port, timeout=60)
        try:
            connection.request(command, path, body, headers)
            answer = connection.getresponse()
            result = answer.status, answer.getheaders(), answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if self._lose(seen):
            self.lost.append(seen)
            return None
        return result


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    """A connection of the server to the proxy."""

    proxy: Proxy
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait for each other's acknowledgement

    def do_POST(self) -> None:
        """Passes a request on, and its answer back; without one, sends a part of
        an answer and closes the connection."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        result = self.proxy.forward(self.command, self.path, body, headers)
        if result is None:
            self.wfile.write(self.proxy.part)
            self.close_connection = True
            return
        status, answered, data = result
        self.send_response(status)
        for name, value in answered:
            if name.lower() not in (
                "transfer-encoding",
                "content-length",
                "connection",
                "keep-alive",
            ):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """The same."""
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


# ---------------------------------------------------------------- the engine's process


def run(arguments: list[str]) -> None:
    """Is the engine, until it is killed or its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    words = [word.encode() for word in ("clickhouse", *arguments, "--query", LISTEN)]
    ctypes.CDLL(str(LIBRARY)).query_stable_v2(
        len(words), (ctypes.c_char_p * (len(words) + 1))(*words, None)
    )


if __name__ == "__main__":
    run(sys.argv[1:])
