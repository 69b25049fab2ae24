"""The README: its commands are run, and what it names is there.

A block marked `sh` whose lines begin with "$ " is a session: each command (lines that begin with ">
" go on with it) is run in a shell, in a folder with copies of the programs, in the order of the
page, and must print what is shown below it. A block whose first line is a comment with a name, such
as "# ship.sh: ...", is a file in that folder from the beginning. Any other block marked `python` is
run, and prints nothing. Other blocks are not run.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
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
import threading
import unittest
from collections.abc import Iterator
from typing import Any

import server
from tests.support import README, ROOT, SAMPLE, SHIPPER, TOKEN, Server, rows, tree_of

BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+\.(?:py|sh)): ")
DPKG_LOG = "/var/log/dpkg.log"
# That a machine may lack.
PROGRAMS = ["curl", "jq", "awk", "sqlite3", "grep", "sort", "uniq", "head"]
WORDS = [
    "record", "batch", "commit", "store", "query", "cursor", "service token", "shipper token",
    "read token",
]
OPTIONAL_KEYS = [
    "server.admin_tokens", "server.allowed_hosts", "server.number",
    "server.tls.certificate", "server.tls.key",
]
UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20, "h": server.HOUR}

# What differs from run to run, and what stands for it in the comparison.
VARYING = [
    # Those that a command gives have whole seconds.
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.(?!000000)\d{6}Z", "TIME"),
    (r"(?m)^Date: .*", "Date: TIME"),
    (r'("run":"|attr\.run=)[0-9a-f]{8}', r"\1RUN"),
    (r'"id":\d+(?=.*"run")', '"id":ID'),  # services that send at the same time
    (r"(?m)^pagos \d+/.*\n(?=pagos \d+/)", ""),  # progress: only its last line stays on a terminal
    (r"(?m)^ +", ""),  # `uniq -c` puts its numbers where it likes
]


def blocks() -> Iterator[tuple[str, str]]:
    """The language and the text of each block. One that belongs to a step of a list is indented."""
    for indent, language, block in BLOCK.findall(README):
        yield language, re.sub(rf"(?m)^{indent}", "", block)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """The commands of a session, each with the output that is shown."""
    for part in re.split(r"(?m)^\$ ", block)[1:]:
        lines = part.splitlines(keepends=True)
        length = next(
            (n for n, line in enumerate(lines) if n and not line.startswith("> ")), len(lines)
        )
        yield "".join([lines[0], *(line[2:] for line in lines[1:length])]), "".join(lines[length:])


@functools.cache
def names_of_tests(pattern: str) -> set[str]:
    """The functions in the files of tests that begin with "test"."""
    nodes = [node for path in ROOT.glob(pattern) for node in ast.walk(tree_of(path))]
    functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    return {name for name in functions if name.startswith("test")}


def extent(name: str) -> tuple[int, int]:
    """The first and the last line of a class, a function or a method of the server."""
    body: list[Any] = tree_of(ROOT / "server.py").body
    for part in name.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef)
        [node] = [node for node in body if isinstance(node, kinds) and node.name == part]
        body = node.body
    return node.lineno, node.end_lineno or 0


class Session:
    """A folder with the programs, and a shell in it.
    The port is a free one, and the page never knows."""

    def __init__(self, folder: str):
        self.folder = pathlib.Path(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        for name in ("server.py", "simulator.py", "schema.sql"):
            shutil.copy(ROOT / name, self.folder)
        self.save("config.json", json.dumps(SAMPLE, indent=2))
        self.save("README.md", README)
        for _, block in blocks():
            if match := FILE.match(block):
                self.save(match[1], block)
        (self.folder / "bin").mkdir()
        python = self.folder / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
        locale = {"PYTHONUTF8": "1", "LC_ALL": "C"}
        self.environment = {**os.environ, "PATH": path, "HOME": folder, "no_proxy": "*", **locale}
        self.processes: list[subprocess.Popen[str]] = []

    def save(self, name: str, block: str) -> None:
        """Writes a block into the folder, with the port in it."""
        (self.folder / name).write_text(block.replace("8000", self.port), encoding="utf-8")

    def start(self, command: str) -> subprocess.Popen[str]:
        """Starts a command, in a process group of its own."""
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command.replace("8000", self.port)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def run(self, command: str, lines: int) -> str:
        """What a command prints; of one that goes on for ever, as many lines."""
        if command == "python server.py\n":
            self.close()  # As Ctrl-C does: a user has one server.
        process = self.start(
            f"{command.rstrip()} --speed 100" if "simulator.py" in command else command
        )
        deadline = threading.Timer(20, self.end, [process])
        deadline.start()
        try:
            if "server.py" in command or "follow=1" in command:
                assert process.stdout
                return "".join(process.stdout.readline() for _ in range(lines)).replace(
                    f":{self.port}", ":8000"
                )
            output, errors = process.communicate()
            assert process.returncode == 0, f"exit status {process.returncode}: {output}{errors}"
            return output.replace(f":{self.port}", ":8000")
        finally:
            deadline.cancel()

    def end(self, process: subprocess.Popen[str]) -> None:
        """Stops a command and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    def close(self) -> None:
        """Stops all that still runs."""
        for process in self.processes:
            if process.poll() is None:
                self.end(process)
            process.communicate(timeout=20)


@unittest.skipUnless(shutil.which("bash") and os.name == "posix", "there is no bash")
class Commands(unittest.TestCase):
    maxDiff = None

    def test_every_command_gives_what_is_shown(self) -> None:
        session = Session(self.enterContext(tempfile.TemporaryDirectory(prefix="readme-")))
        self.addCleanup(session.close)
        for language, block in blocks():
            numbers: tuple[dict[str, str], dict[str, str]] = {}, {}  # shown, and really
            if language == "python" and not FILE.match(block):
                session.save("recipe.py", block)
                self.assertEqual(session.run("python recipe.py", 0), "")
            for command, shown in commands(block) if language == "sh" else ():
                with self.subTest(command):
                    self.check_that_it_can_run(command)
                    real = session.run(command, shown.count("\n"))
                    texts = [self.mask(text) for text in (shown, real)]
                    # Another machine has another log; equal numbers must be equal there.
                    if DPKG_LOG in block:
                        texts = [self.rename(text, known) for text, known in zip(texts, numbers)]
                    self.assertEqual(texts[1], texts[0])

    def check_that_it_can_run(self, command: str) -> None:
        absent = [
            name
            for name in PROGRAMS
            if re.search(rf"\b{name}\b", command) and not shutil.which(name)
        ]
        if absent:
            self.skipTest(f"not installed: {', '.join(absent)}")
        with contextlib.suppress(OSError):
            if " status " in pathlib.Path(DPKG_LOG).read_text(encoding="utf-8", errors="replace"):
                return
        if DPKG_LOG in command or "service=dpkg" in command:
            self.skipTest(f"there is no {DPKG_LOG}, or nothing in it")

    def mask(self, text: str) -> str:
        return functools.reduce(lambda text, pair: re.sub(pair[0], pair[1], text), VARYING, text)

    def rename(self, text: str, known: dict[str, str]) -> str:
        """Puts a name in the place of each number, the same wherever it is the same number."""
        return re.sub(
            r"\d{2,}", lambda match: known.setdefault(match[0], f"number {len(known)}"), text
        )


class Names(unittest.TestCase):
    def assert_named(self, names: list[str]) -> None:
        """Each name must stand on the page as code; in an exercise it is only an idea."""
        begin = README.index("## Exercises")
        rest = README[:begin] + README[README.index("\n## ", begin + 1) :]
        self.assertEqual([name for name in names if f"`{name}`" not in rest], [])

    def test_every_test_that_is_named_is_there(self) -> None:
        known = names_of_tests("tests/test_*.py") | names_of_tests("tests/integration/test_*.py")
        files = {path.stem for path in ROOT.glob("tests/**/test_*.py")}
        self.assertEqual(set(re.findall(r"\btest_\w+", README)) - known - files, set())

    def test_every_promise_names_its_tests_and_says_where_they_are(self) -> None:
        quick, slow = (
            names_of_tests("tests/test_*.py"),
            names_of_tests("tests/integration/test_*.py"),
        )
        promises, decisions = rows("## Each promise"), rows("## What it decides")
        self.assertGreater(min(len(promises), len(decisions)), 15)
        for promise, tests in promises + decisions:
            with self.subTest(promise):
                named = set(re.findall(r"test_\w+", tests))
                self.assertTrue(named)
                self.assertEqual(named - (slow if "(*i*)" in promise else quick), set())

    def test_every_endpoint_parameter_and_metric_is_there(self) -> None:
        with Server() as running:
            running.post({"message": "hello"}, TOKEN)
            endpoints = list(running.get("/").json)
            hints = [running.get(f"{path}?colour=red").json["hint"] for path in ("/logs", "/stats")]
            metrics = re.findall(r"(?m)^# TYPE (\w+)", running.get("/metrics").text)
        parameters = [name for hint in hints for name in re.findall(r"[\w.]+(?=[,.](?: |$))", hint)]
        self.assertGreater(min(len(endpoints), len(parameters), len(metrics)), 8)
        self.assert_named(endpoints + parameters + metrics)

    def test_every_setting_is_there_with_its_value_in_the_sample(self) -> None:
        config = json.loads((ROOT / "config.json").read_text(encoding="utf-8"))
        config["services"] = {"NAME": config["services"]["pagos"]}
        settings = dict(self.settings(config))
        self.assert_named([*settings, *OPTIONAL_KEYS, *config["services"]["NAME"]["logs"][0]])
        for key, sample, *_ in rows("## Settings"):
            # Some are told in words.
            with self.subTest(key), contextlib.suppress(json.JSONDecodeError):
                self.assertEqual(json.loads(sample.strip("`")), settings[key.strip("`")])

    def settings(self, value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        """The paths of all values in a configuration."""
        if isinstance(value, dict):
            for name in value:
                yield from self.settings(value[name], f"{path}.{name}".lstrip("."))
        else:
            yield path, value

    def test_every_limit_is_the_constant_that_it_names(self) -> None:
        table = rows("What is no setting")
        self.assertGreater(len(table), 10)
        for what, values, names in table:
            for value, name in zip(values.split("; "), names.split(", "), strict=True):
                with self.subTest(what, constant=name):
                    number, _, unit = value.replace(",", "").partition(" ")
                    self.assertEqual(int(number) * UNITS[unit], getattr(server, name.strip("`")))

    def test_every_exercise_has_its_time_its_place_and_its_test(self) -> None:
        exercises = rows("## Exercises")
        self.assertGreater(len(exercises), 9)
        for number, (shown, time, _, places, done) in enumerate(exercises, 1):
            with self.subTest(exercise=number):
                self.assertEqual(shown, str(number))
                self.assertRegex(time, "minutes|hour|day|weekend")
                self.assertRegex(done, r"\*test\* `test_|\*write:\* ")
                for place in places.split(", "):
                    functools.reduce(getattr, place.strip("`").split("."), server)

    def test_every_idea_of_the_tour_is_where_it_says_and_costs_what_it_says(self) -> None:
        lines = (ROOT / "server.py").read_text(encoding="utf-8").splitlines()
        tour, exercises = rows("### A guided tour"), rows("## Exercises")
        self.assertGreater(len(tour), 8)
        bench = (ROOT / "tests" / "bench.py").read_text(encoding="utf-8")
        for idea, place, cost, takes, test, exercise in tour:
            with self.subTest(idea):
                self.assertIn(f'Figure("{idea.partition(":")[0]}"', bench)
                self.assertRegex(takes, r"\d (us|ms)\b")
                chapter, _, names = place.partition(" ")
                found = [extent(name.strip("`")) for name in names.split(", ")]
                self.assertEqual(cost, ", ".join(str(last - first + 1) for first, last in found))
                for name in names.split(", "):  # The first screen of server.py has them too.
                    self.assertIn(name, server.__doc__ or "")
                for first, _ in found:
                    banners = [line for line in lines[:first] if line.startswith("# -------- ")]
                    self.assertEqual(banners[-1].split()[2], f"{chapter}.")
                self.assertRegex(test, r"^`test_\w+`$")  # Another test sees that it is there.
                self.assertIn(exercise, [number for number, *_ in exercises])

    def test_what_a_newcomer_reads_first_is_short(self) -> None:
        first, _, rest = README.partition("\n## More recipes\n")
        self.assertTrue(rest)
        self.assertNotIn("<details>", first)
        self.assertLessEqual(first.count("\n"), 400)

    def test_prose_has_a_hundred_columns_at_most(self) -> None:
        prose = re.sub(r"(?ms)^ *```.*?^ *```$|^\|.*?$", "", README)
        self.assertEqual([line for line in prose.splitlines() if len(line) > 100], [])

    def test_every_thread_and_lock_of_the_first_screen_is_there(self) -> None:
        lines = (ROOT / "server.py").read_text(encoding="utf-8").splitlines()
        places = re.findall(r"`(\w+\.\w+)`", server.__doc__ or "")
        self.assertGreater(len(places), 3)
        for place in places:
            with self.subTest(place):
                kind, _, name = place.partition(".")
                first, last = extent(kind)
                self.assertIn(name, "\n".join(lines[first - 1 : last]))

    def test_every_word_has_its_meaning(self) -> None:
        self.assertEqual([word for word, _ in rows("| word |")], WORDS)

    def test_every_link_leads_somewhere(self) -> None:
        page = re.sub(r"(?ms)^ *```.*?^ *```$", "", README)
        headings = [
            re.sub(r"[^\w -]", "", line).lower() for line in re.findall(r"(?m)^#+ (.*)", page)
        ]
        self.assertEqual(len(headings), len(set(headings)))
        anchors = {heading.replace(" ", "-") for heading in headings}
        for target in re.findall(r"\]\(([^)]+)\)", README):
            with self.subTest(target):
                if target.startswith("#"):
                    self.assertIn(target[1:], anchors)
                elif "://" not in target:
                    self.assertTrue((ROOT / target.partition("#")[0]).exists())


class Decisions(unittest.TestCase):
    """What the page says, and no other test shows."""

    def test_the_time_of_receipt_never_goes_back(self) -> None:
        folder, later = (
            self.enterContext(tempfile.TemporaryDirectory(prefix="readme-")),
            4_102_444_800_000_000,
        )
        with contextlib.closing(sqlite3.connect(pathlib.Path(folder, "logs.db"))) as database:
            database.executescript((ROOT / "schema.sql").read_text(encoding="utf-8"))
            database.execute(
                "INSERT INTO logs VALUES (1, ?, 0, 'app', 20, 'the clock was wrong', '{}')", [later]
            )
            database.commit()
        with Server(folder) as running:
            running.post({"message": "today"})
            self.assertEqual(
                running.sql("SELECT received_at FROM logs ORDER BY id"), [(later,), (later,)]
            )

    def test_a_batch_of_too_many_records_is_refused_whole(self) -> None:
        with Server(constants={"MAX_RECORDS": 3}) as running:
            answers = [running.post([{"message": "m"}] * records) for records in (3, 4)]
            self.assertEqual([answer.status for answer in answers], [200, 413])
            self.assertEqual(running.sql("SELECT count(*) FROM logs"), [(3,)])

    def test_a_store_is_relative_to_where_its_name_stands(self) -> None:
        here = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="readme-")))
        self.enterContext(contextlib.chdir(here))
        with Server(None, "--store", "typed.db") as running:
            self.assertFalse(running.database.exists())
        self.assertTrue((here / "typed.db").exists())

    def test_a_service_named_with_a_comma_is_stored_but_not_filtered_by(self) -> None:
        with Server() as running:
            running.post({"message": "m", "service": "a,b"}, SHIPPER)
            self.assertEqual(running.get("/stats").json["by_service"], {"a,b": 1})
            self.assertEqual(running.get("/logs?service=a,b").json, [])
