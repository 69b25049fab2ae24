"""The tests. `python -m unittest` runs their classes side by side: many of them only wait."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
import sys
import unittest

FILES = sorted(pathlib.Path(__file__).parent.glob("test_*.py"))
# What takes longest begins first: no processor waits for it at the end.
LONG = (
    "test_bounds.LargeBodies", "test_bounds.OneBody", "test_bounds.OneText",
    "test_bounds.WhoLeaves", "test_faults.AStoreThatCanNotCommit", "test_faults.Killed",
    "test_formats.Protobuf", "test_get.Follow", "test_get.Model", "test_http.Deadlines",
    "test_http.HostileBodies", "test_recipes.Pipe", "test_recipes.Python", "test_simulator.ARun",
    "test_start.ForeignFiles", "test_start.Stop",
)  # fmt: skip


class Name(str):
    """The name of a test that another process ran, as a result shows it."""

    __slots__ = ()

    def shortDescription(self) -> None:
        """Gives nothing: the name has it all."""


class SideBySide(unittest.TestSuite):
    """Suites that run in other processes. Each process prints its dots, and the result of this one
    gets what they have found."""

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        processes = 3 * (os.cpu_count() or 1)  # Many tests wait more than they work.
        if sys.platform != "linux" or debug:  # Other systems can't fork safely.
            return super().run(result, debug)
        suites = list(self)
        count = self.countTestCases()
        if count > 100:  # Not where -k has chosen a few.
            says = f"{count} tests of server.py, simulator.py and README.md, {processes} at a time:"
            print(says, "about a minute on two idle cores. A dot is a test.", file=sys.stderr)
        fork = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(
            processes, fork, initializer=Worker.begin, initargs=(suites, result)
        ) as pool:
            for tests_run, lists in pool.map(Worker.run, range(len(suites))):
                result.testsRun += tests_run
                for name, entries in lists.items():
                    getattr(result, name).extend(entries)
                if result.failfast and not result.wasSuccessful():
                    pool.shutdown(cancel_futures=True)
                    break
        return result


class Worker:
    """A process that runs some of the suites, with the result that it has inherited."""

    suites: list[unittest.TestSuite]
    result: unittest.TestResult

    @classmethod
    def begin(cls, suites: list[unittest.TestSuite], result: unittest.TestResult) -> None:
        cls.suites, cls.result = suites, result

    @classmethod
    def run(cls, number: int) -> tuple[int, dict[str, list[object]]]:
        """Runs a suite; gives how many tests ran, and the lists of the result by their names."""
        lists = {name: value for name, value in vars(cls.result).items() if type(value) is list}
        for entries in lists.values():
            entries.clear()
        cls.result.testsRun = 0
        cls.result._testRunEntered = False  # So that the suite also ends what its last class began.
        cls.suites[number].run(cls.result)
        return cls.result.testsRun, {name: list(map(named, lists[name])) for name in lists}


def named(entry: object) -> object:
    """An entry of a list of a result, with the name of the test in the test's place."""
    if isinstance(entry, tuple):
        return (Name(entry[0]), *entry[1:])
    return Name(entry)


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None
) -> unittest.TestSuite:
    """Gives the tests of all files, class by class; the long ones begin first."""
    files = [loader.loadTestsFromName(f"tests.{file.stem}") for file in FILES]
    classes = [tests_of_class for file in files for tests_of_class in file]
    return SideBySide(sorted(classes, key=takes_long, reverse=True))


def takes_long(tests_of_class: unittest.TestSuite) -> bool:
    """Whether these are the tests of one of the LONG classes."""
    return any(f"<tests.{name} " in str(tests_of_class) for name in LONG)
