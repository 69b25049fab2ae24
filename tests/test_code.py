"""The code as a text: its chapters, names and examples;
and the index behind every query that must be fast."""

from __future__ import annotations

import ast
import contextlib
import doctest
import functools
import inspect
import itertools
import json
import pathlib
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

import server
import simulator
from tests.support import ROOT, SHIPPER, Server, rows, tree_of

PROGRAMS = {"server.py": server, "simulator.py": simulator}
MINUTE = 60_000_000  # in microseconds
BANNER = re.compile(r"^# -{8} (\d+)([b-z]?)\. ([^*\n]+?)(?: (\*))?$", re.MULTILINE)


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None
) -> unittest.TestSuite:
    """Adds the examples in the docstrings of both programs to the tests of this file."""
    if not loader.testNamePatterns:  # With -k, only tests of that name are wanted.
        for program in PROGRAMS.values():
            tests.addTests(doctest.DocTestSuite(program))
    return tests


def project_files() -> list[pathlib.Path]:
    """The files of the project: those that git knows, or all where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        known = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [ROOT / name for name in known.split("\0") if name and (ROOT / name).exists()]
    return [path for path in ROOT.rglob("*") if path.is_file()]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method in a program."""
    return (
        node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


class Code(unittest.TestCase):
    """What holds for both programs."""

    def test_nothing_lies_at_the_top_but_what_a_user_needs(self) -> None:
        names = {path.relative_to(ROOT).parts[0] for path in project_files()}
        there = {name for name in names if not name.startswith((".", "__pycache__", "logs.db"))}
        self.assertEqual(
            there, {"server.py", "simulator.py", "schema.sql", "config.json", "tests", "README.md"}
        )

    def test_only_the_standard_library_is_imported(self) -> None:
        for name in PROGRAMS:
            for node in ast.walk(tree_of(ROOT / name)):
                modules = []
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    modules = [node.module or "a relative import"]
                for module in modules:
                    with self.subTest(name, module=module):
                        self.assertIn(module.partition(".")[0], sys.stdlib_module_names)

    def test_every_public_name_has_a_docstring(self) -> None:
        for name, program in PROGRAMS.items():
            tree = tree_of(ROOT / name)
            self.assertTrue(ast.get_docstring(tree), name)
            things = [
                node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))
            ]
            for thing in (thing for thing in things if not thing.name.startswith("_")):
                with self.subTest(name, thing=thing.name):
                    self.assertTrue(ast.get_docstring(thing))
                for method in thing.body if isinstance(thing, ast.ClassDef) else ():
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        with self.subTest(name, thing=thing.name, method=method.name):
                            self.assertTrue(
                                self.described(getattr(program, thing.name), method.name)
                            )

    def described(self, kind: type, method: str) -> bool:
        """Whether a method has a docstring, its own or its base's,
        or the docstring of a base class describes it."""
        bases = [base.__doc__ or "" for base in kind.__mro__[1:]]
        return bool(inspect.getdoc(getattr(kind, method))) or any(
            f"`{method}`" in text for text in bases
        )

    def test_every_signature_has_its_types(self) -> None:
        for name in PROGRAMS:
            for function in functions(tree_of(ROOT / name)):
                arguments = [
                    *function.args.posonlyargs,
                    *function.args.args,
                    *function.args.kwonlyargs,
                ]
                for argument in (
                    argument for argument in arguments if argument.arg not in ("self", "cls")
                ):
                    with self.subTest(name, function=function.name, argument=argument.arg):
                        self.assertIsNotNone(argument.annotation)
                with self.subTest(name, function=function.name):
                    self.assertTrue(function.returns or function.name == "__init__")

    def test_functions_are_short(self) -> None:
        for name in PROGRAMS:
            tree = tree_of(ROOT / name)
            lines = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions(tree)}
            with self.subTest(name):
                self.assertLess(statistics.mean(lines.values()), 15)
                long = sorted(function for function, length in lines.items() if length > 40)
                self.assertLessEqual(len(long), 3, f"few over 40 lines, not {', '.join(long)}")

    def test_lines_have_a_hundred_columns_at_most(self) -> None:
        files = [path for path in project_files() if path.suffix in (".py", ".sql", ".sh")]
        self.assertGreater(len(files), 20)
        for path in [*files, ROOT / ".ci" / "run"]:
            lines = path.read_text(encoding="utf-8").splitlines()
            wide = [number for number, line in enumerate(lines, 1) if len(line) > 100]
            with self.subTest(path.relative_to(ROOT)):
                self.assertEqual(wide, [], "lines")

    def test_parsers_have_examples(self) -> None:
        finder = doctest.DocTestFinder()
        examples = [found for found in finder.find(server, "server") if found.examples]
        self.assertGreaterEqual(len(examples), 8)


class Chapter(NamedTuple):
    """A part of a program, from its banner on."""

    number: int
    letter: str  # "b" for the first part that belongs to the chapter before it, else nothing
    name: str
    mark: str  # "*" for one that can be left out at first
    start: int  # the line of its banner


@functools.cache
def chapters(source: str) -> list[Chapter]:
    """The chapters of a program, in their order."""
    return [
        Chapter(int(number), letter, name, mark or "", source[: match.start()].count("\n") + 1)
        for match in BANNER.finditer(source)
        for number, letter, name, mark in [match.groups()]
    ]


class Chapters(unittest.TestCase):
    """The list in the docstring is the order of the text. Each chapter needs only those before it,
    and the core needs of the chapters with a mark only what they say."""

    SOURCE = inspect.getsource(server)

    def test_the_list_in_the_docstring_is_that_of_the_banners(self) -> None:
        for name, program in PROGRAMS.items():
            found = chapters(inspect.getsource(program))
            numbers = [chapter.number for chapter in found if not chapter.letter]
            with self.subTest(name):
                self.assertTrue(numbers)
                self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        for before, chapter in itertools.pairwise(chapters(self.SOURCE)):
            with self.subTest(chapter.name):
                follows = chr(ord(before.letter or "a") + 1)
                self.assertIn((chapter.number, chapter.letter), {
                    (before.number, follows), (before.number + 1, ""),
                })
        listed = re.findall(
            r"(?m)^ +(\d+)([b-z]?) (\w[\w, ]*\w)( \*)?  +\w", server.__doc__ or ""
        )
        found = chapters(self.SOURCE)
        self.assertEqual(
            [(int(number), letter, name, mark.strip()) for number, letter, name, mark in listed],
            [(chapter.number, chapter.letter, chapter.name, chapter.mark) for chapter in found],
        )
        self.assertIn("*", {chapter.mark for chapter in found})

    def test_nothing_is_used_before_its_chapter(self) -> None:
        for name, program in PROGRAMS.items():
            source, tree = inspect.getsource(program), tree_of(ROOT / name)
            made = dict(self.definitions(tree))
            for used, line in self.uses(tree):
                if used in made:
                    with self.subTest(name, used=used, line=line):
                        here, there = (self.number_at(source, at) for at in (line, made[used]))
                        self.assertGreaterEqual(here, there, f"{used} is of chapter {there}")

    def number_at(self, source: str, line: int) -> int:
        """The number of the chapter of a line; 0 before the first banner."""
        place = self.chapter_at(source, line)
        return chapters(source)[place - 1].number if place else 0

    def chapter_at(self, source: str, line: int) -> int:
        """The place of the chapter of a line in their order, from 1 on; 0 before the first."""
        return sum(chapter.start <= line for chapter in chapters(source))

    def test_the_core_uses_of_a_marked_chapter_what_it_says_and_nothing_else(self) -> None:
        tree = tree_of(ROOT / "server.py")
        found = chapters(self.SOURCE)
        made = {name: self.chapter_at(self.SOURCE, line) for name, line in self.definitions(tree)}
        used: dict[int, set[str]] = {place: set() for place in range(1, len(found) + 1)}
        for name, line in self.uses(tree, with_annotations=True):
            user = self.chapter_at(self.SOURCE, line)
            if made.get(name) and not found[user - 1].mark and found[user - 1].name != "Main":
                used[made[name]].add(name)
        for place, chapter in enumerate(found, 1):
            if chapter.mark:
                with self.subTest(chapter.name):
                    self.assertEqual(self.said_to_be_used(chapter), used[place])

    def said_to_be_used(self, chapter: Chapter) -> set[str]:
        """The names that the comment below a banner says the core uses."""
        below = "\n".join(self.SOURCE.splitlines()[chapter.start :])
        comment = re.match(r"(# .*\n)+", below)
        assert comment, "a comment below the banner says what the core uses"
        text = comment[0].replace("\n# ", " ").strip()
        if text.startswith("# The core uses nothing of this chapter"):
            return set()
        said = re.match(r"# The core uses (`\w+`(?:(?:, | and )`\w+`)*)[.:]", text)
        assert said, text
        return set(re.findall(r"`(\w+)`", said[1]))

    def test_the_server_does_not_grow(self) -> None:
        lines = self.SOURCE.splitlines()
        found = chapters(self.SOURCE)
        ends = [chapter.start for chapter in found[1:]] + [len(lines) + 1]
        core = sum(
            end - chapter.start
            for chapter, end in zip(found, ends)
            if chapter.name in self.CORE
        )
        self.assertLessEqual(set(self.CORE), {chapter.name for chapter in found})
        for what, number, most in (
            ("lines", len(lines), 5928),
            ("lines of the core chapters", core, 1300),
            ("lines of code", len(self.lines_of_code()), 4090),
        ):
            with self.subTest(what):
                self.assertLessEqual(number, most)

    CORE = ("Records", "Bodies", "Queries", "Commits", "SQLite", "Endpoints", "HTTP")

    def lines_of_code(self) -> list[str]:
        """The lines without blank ones, comments and docstrings."""
        described = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings: set[int] = set()
        for node in ast.walk(tree_of(ROOT / "server.py")):
            if isinstance(node, described) and ast.get_docstring(node):
                text = node.body[0]
                docstrings |= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
        return [
            line
            for number, line in enumerate(self.SOURCE.splitlines(), 1)
            if number not in docstrings and not line.strip().startswith("#") and line.strip()
        ]

    def definitions(self, tree: ast.Module) -> Iterator[tuple[str, int]]:
        """The global names that the code makes, and where."""
        for thing in tree.body:
            if isinstance(thing, (ast.ClassDef, ast.FunctionDef)):
                yield thing.name, thing.lineno
            elif isinstance(thing, (ast.Assign, ast.AnnAssign)):
                for target in thing.targets if isinstance(thing, ast.Assign) else [thing.target]:
                    yield from (
                        (name.id, name.lineno)
                        for name in ast.walk(target)
                        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
                    )

    def uses(
        self, tree: ast.Module, with_annotations: bool = False
    ) -> Iterator[tuple[str, int]]:
        """The global names that the code reads, and where;
        those in annotations are for the reader alone."""
        for thing in tree.body:
            parts = [part for node in ast.walk(thing) for part in self.annotations(node)]
            passed_over = {inner for part in parts for inner in ast.walk(part)}
            if with_annotations:
                passed_over.clear()
            names = [
                node
                for node in ast.walk(thing)
                if isinstance(node, ast.Name) and node not in passed_over
            ]
            local = {name.id for name in names if isinstance(name.ctx, ast.Store)}
            local |= {node.arg for node in ast.walk(thing) if isinstance(node, ast.arg)}
            for name in names:
                if isinstance(name.ctx, ast.Load) and name.id not in local:
                    yield name.id, name.lineno

    def annotations(self, node: ast.AST) -> list[ast.AST]:
        """The annotations of an argument, a variable or a function."""
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        return [part for part in parts if part is not None]


class Words(unittest.TestCase):
    """One word for one thing: schema.sql, the code and the tables of
    README.md name the same things, and no others."""

    def named(self, heading: str) -> list[str]:
        """What the first column of a table of README.md names as code."""
        return [name for first, *_ in rows(heading) for name in re.findall(r"`([^`]+)`", first)]

    def test_a_record_has_the_same_fields_in_the_schema_the_code_and_the_readme(self) -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.executescript((ROOT / "schema.sql").read_text(encoding="utf-8"))
            columns = [name for _, name, *_ in database.execute("PRAGMA table_info(logs)")]
        self.assertEqual(list(server.StoredRecord._fields), columns)
        self.assertLess(set(server.Record._fields), set(columns))
        meaning = dict(rows("| word |"))["record"]
        self.assertCountEqual(re.findall(r"`(\w+)`", meaning), columns)

    def test_the_severities_have_the_same_names_and_numbers_everywhere(self) -> None:
        schema = (ROOT / "schema.sql").read_text(encoding="utf-8")
        [(numbers, names)] = re.findall(r"severity IN \((.+)\)\), +-- (.+)", schema)
        self.assertEqual(
            dict(zip(names.split(", "), map(int, numbers.split(", ")))), server.SEVERITIES
        )
        self.assertEqual(simulator.SEVERITIES, tuple(server.SEVERITIES))

    def test_the_endpoints_of_the_readme_are_the_routes(self) -> None:
        routes = [
            f"{method} {path}" for path, methods in server.ROUTES.items() for method in methods
        ]
        self.assertCountEqual(self.named("## Endpoints"), routes)

    def test_the_parameters_of_the_readme_are_those_of_the_queries(self) -> None:
        named = self.named("**Parameters**")
        filters, others = named[: named.index("attr.KEY")], named[named.index("attr.KEY") + 1 :]
        self.assertCountEqual(
            filters, server.LIST_PARAMETERS.keys() & server.STATS_PARAMETERS.keys()
        )
        self.assertCountEqual(
            others, server.LIST_PARAMETERS.keys() ^ server.STATS_PARAMETERS.keys()
        )

    def test_the_settings_of_the_readme_are_those_that_the_programs_check(self) -> None:
        settings = [
            f"{section}.{key}".lstrip(".")
            for section, keys in server.SETTINGS.items()
            for key in keys
        ]
        sections = {name for section in server.SETTINGS for name in self.above(section)}
        settings = [name for name in settings if name not in sections]
        self.assertCountEqual(self.named("## Settings"), settings)
        for place, shape in (
            ("services.NAME", simulator.SERVICE),
            ("simulator", simulator.SIMULATOR),
        ):
            with self.subTest(place):
                self.assertCountEqual(shape, server.SETTINGS[place])

    def above(self, section: str) -> list[str]:
        """A section and those that it stands in: of "a.b" these are "a.b" and "a"."""
        parts = section.split(".")
        return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


# Runs the server with each SQL statement of its reading connections written to a file,
# a line of JSON each.
TRACER = """
import json, sqlite3, sys
root, path, *_ = sys.argv[1:]
del sys.argv[1 : sys.argv.index("--config")]  # The command that is wrapped, but for its options.
sys.path.insert(0, root)
trace, connect = open(path, "a", buffering=1, encoding="utf-8"), sqlite3.connect
def traced(*arguments, **options):
    connection = connect(*arguments, **options)
    if "mode=ro" in str(arguments[0]):
        connection.set_trace_callback(lambda statement: trace.write(json.dumps(statement) + "\\n"))
    return connection
sqlite3.connect = traced
import server
sys.exit(server.main())
"""


class Step(NamedTuple):
    """A line of a query plan, and the statement that it is of."""

    detail: str
    statement: str


class Planned(unittest.TestCase):
    """A server of which it is seen how SQLite reads."""

    server: Server
    trace: pathlib.Path

    @classmethod
    def setUpClass(cls) -> None:
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="logs-")))
        cls.trace = folder / "trace"
        wrapper = (sys.executable, "-c", TRACER, str(ROOT), str(cls.trace))
        cls.server = cls.enterClassContext(Server(folder, wrapper=wrapper))

    def plan(self, path: str) -> list[Step]:
        """What SQLite does for a request, by the statements that the server really runs."""
        before = self.trace.stat().st_size
        answer = self.server.get(path)
        self.assertEqual(answer.status, 200, answer.text)
        with open(self.trace, encoding="utf-8") as file:
            file.seek(before)
            statements = [json.loads(line) for line in file]
        steps: list[Step] = []
        with contextlib.closing(
            sqlite3.connect(f"file:{self.server.database}?mode=ro", uri=True)
        ) as db:
            for statement in statements:
                if statement.lstrip().startswith(("SELECT", "WITH")):
                    steps += [Step(row[3], statement) for row in self.explain(db, statement)]
        self.assertTrue(
            any("logs" in step.detail for step in steps), "the records are read by SELECT"
        )
        return steps

    def explain(self, db: sqlite3.Connection, statement: str) -> list[tuple[int, int, int, str]]:
        """The plan of a statement; functions that the server adds to SQL are stood in for."""
        while True:
            try:
                return db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            except sqlite3.OperationalError as error:
                name = re.search(r"no such function: (\w+)", str(error))
                if not name:
                    raise
                db.create_function(name[1], -1, lambda *_: None, deterministic=True)

    def check_page(self, steps: list[Step], by_kind: bool, by_time: bool) -> None:
        """Checks that a page is read in its order,
        and no more of the index than what the query asks for."""
        for step in steps:
            self.assertNotIn("USE TEMP B-TREE FOR ORDER BY", step.detail, step.statement)
            if re.match(r"(SCAN|SEARCH) logs\b", step.detail):
                self.assertRegex(
                    step.detail, r"^(SCAN|SEARCH) logs USING (COVERING )?INDEX", step.statement
                )
                if by_kind:
                    self.assertRegex(
                        step.detail, r"^SEARCH .*\bservice=\? AND severity=\?", step.statement
                    )
                if by_time:
                    self.assertRegex(step.detail, r"^SEARCH .*\btimestamp[<>]\?", step.statement)
            self.assertNotRegex(step.detail, r"^SCAN counts\b", step.statement)


class Plans(Planned):
    """Every filter on service, severity and time is served by an index,
    in the order of the answer."""

    # How a stretch of the table is read: without an index, by a range of ids.
    STRETCH = "SEARCH logs USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        body = [
            {
                "timestamp": f"2026-11-{day:02}T12:34:56Z",
                "service": service,
                "severity": severity,
                "message": "m",
                "user": "bob",
            }
            for service in ("a", "b", "c")
            for severity in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
            for day in (1, 2, 3, 4)
            for _ in range(2)
        ]
        assert cls.server.post(body, SHIPPER).json["accepted"] == len(body)

    KINDS = (
        *("", "service=a", "service=a,b", "service=nobody,a", "severity=INFO"),
        "severity=INFO,ERROR",
        *("min_severity=ERROR", "service=a&severity=INFO", "service=a,b&min_severity=WARNING"),
        "service=a&severity=INFO,DEBUG&min_severity=INFO",
        *("not_service=b", "not_service=a,b&severity=INFO"),
    )
    TIMES = (
        *("", "timestamp_start=2026-11-02", "timestamp_end=2026-11-03T04:05:06"),
        "timestamp_start=2026-11-02T01:02:03Z&timestamp_end=2026-11-03T04:05:06Z",
    )

    def test_pages_are_read_from_an_index_in_their_order(self) -> None:
        for kind, time, order in itertools.product(self.KINDS, self.TIMES, ("asc", "desc")):
            path = "/logs?" + "&".join(
                part for part in (kind, time, f"order={order}", "limit=1") if part
            )
            link = self.server.get(path).headers["link"].partition("<")[2].partition(">")[0]
            link = urllib.parse.urljoin(path, link)
            for page, query in (("first", path), ("second", link)):
                with self.subTest(query, page=page):
                    self.check_page(self.plan(query), bool(kind), bool(time) or page == "second")

    def test_text_and_attributes_are_looked_for_from_the_newest_on(self) -> None:
        for query in (
            "contains=M",
            "attr.user=bob",
            "contains=m&attr.user=bob&since=9999d",
        ):
            with self.subTest(query):
                self.check_page(self.plan(f"/logs?{query}"), False, "since" in query)
                steps = self.plan(f"/logs?{query}&service=a")
                sample = f"LIMIT {server.SAMPLE_RECORDS})"
                steps = [step for step in steps if sample not in step.statement]
                self.check_page(steps, True, "since" in query)
        with self.subTest("a small part of the time, though no record has the text"):
            self.check_page(self.plan("/logs?contains=x&timestamp_start=2098-01-01"), False, True)

    def test_what_no_record_of_a_sample_has_is_looked_for_in_the_order_of_the_table(self) -> None:
        for path in (
            "/logs?contains=x",
            "/logs?attr.user=eve&order=asc",
            "/logs?contains=x&since=9999d",
            "/logs?contains=x&service=a,b",
        ):
            with self.subTest(path):
                steps = self.plan(path)
                sample = [
                    step for step in steps if f"LIMIT {server.SAMPLE_RECORDS})" in step.statement
                ]
                self.assertTrue(sample)
                self.check_page(sample, "service" in path, "since" in path)
                self.assertIn(self.STRETCH, {step.detail for step in steps if step not in sample})

    def test_texts_are_counted_in_the_order_of_the_table(self) -> None:
        for query in ("contains=x", "attr.user=eve"):
            with self.subTest(query):
                details = {step.detail for step in self.plan(f"/stats?{query}")}
                self.assertIn(self.STRETCH, details)

    def test_statistics_do_not_scan_the_records(self) -> None:
        for kind, time, step in itertools.product(self.KINDS, self.TIMES, ("", "step=1h")):
            path = "/stats?" + "&".join(part for part in (kind, time, step) if part)
            with self.subTest(path):
                for found in self.plan(path):
                    self.assertNotRegex(found.detail, r"^SCAN counts\b", found.statement)
                    if (
                        re.match(r"(SCAN|SEARCH) logs\b", found.detail)
                        and "LIMIT" not in found.statement
                    ):
                        self.assertRegex(
                            found.detail,
                            r"^SEARCH .*\btimestamp>\? AND timestamp<\?",
                            found.statement,
                        )
                        bounds = re.findall(
                            r"\btimestamp >= (-?\d+) AND timestamp <= (-?\d+)", found.statement
                        )
                        self.assertTrue(bounds, found.statement)
                        self.assertLess(max(int(end) - int(start) for start, end in bounds), MINUTE)
                    elif found.detail.startswith("SCAN logs"):  # the first or last record of all
                        self.assertRegex(
                            found.detail, r"^SCAN logs USING (COVERING )?INDEX", found.statement
                        )
                        self.assertNotIn(
                            "USE TEMP B-TREE FOR ORDER BY", found.detail, found.statement
                        )

    def test_the_time_of_receipt_and_ids_are_found_without_a_scan(self) -> None:
        for path in (
            "/logs?received_at_start=2020-01-01",
            "/stats?received_at_end=2099-01-01",
            "/logs/1",
        ):
            with self.subTest(path):
                for step in self.plan(path):
                    self.assertNotRegex(step.detail, r"^SCAN logs$", step.statement)


class ManyServices(Planned):
    """More kinds of records than one statement can merge."""

    def test_a_rare_severity_of_many_services_is_read_by_its_index(self) -> None:
        services = [f"many-{n}" for n in range(450)]  # More than one statement can merge.
        rare = [{"service": name, "severity": "ERROR", "message": "rare"} for name in services]
        self.assertEqual(self.server.post(rare, SHIPPER).json["accepted"], 450)
        path = "/logs?severity=ERROR&limit=1000&timestamp_start=2026-11-05"
        self.check_page(self.plan(path), True, True)
        records = self.server.get(path).json
        self.assertEqual({record["service"] for record in records}, set(services))
        ids = [record["id"] for record in records]
        self.assertEqual(ids, sorted(ids, reverse=True))
        second = self.server.get(path.replace("1000", "200"))
        link = second.headers["link"].partition("<")[2].partition(">")[0]
        rest = self.server.get(urllib.parse.urljoin("/logs", link)).json
        self.assertEqual([record["id"] for record in second.json + rest], ids[:400])
        stats = self.server.get("/stats?severity=ERROR&timestamp_start=2026-11-05").json
        self.assertEqual((stats["total"], len(stats["by_service"])), (450, 450))
        self.assertEqual(stats["first_timestamp"], records[-1]["timestamp"])


class Parsers(unittest.TestCase):
    """The parsers refuse by ValueError; tests/test_post.py has the tables of what they take."""

    def test_a_bad_timestamp_is_a_value_error(self) -> None:
        for text in ("", "soon", "2026-02-30", "2026-11-24T25:00", "9" * 400):
            with self.subTest(text), self.assertRaises(ValueError):
                server.parse_timestamp(text)

    def test_a_bad_severity_is_a_value_error(self) -> None:
        for value in ("", "LOUD", 8, None, True, 1.5, ["INFO"]):
            with self.subTest(value), self.assertRaises(ValueError):
                server.parse_severity(value)


if __name__ == "__main__":
    unittest.main()
