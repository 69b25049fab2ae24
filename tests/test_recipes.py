"""The two programs that README gives to copy: a handler for logging, and a pipe for any text.

Each is taken out of README as it stands there. Only the address, the token and the seconds that it
waits are those of the test.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest
from typing import Any, ClassVar

from tests.support import README, TOKEN, Json, Server, ServerTests, eventually, folder_of

PROGRAMS = ("bash", "curl", "jq")
ABSENT = [name for name in PROGRAMS if not shutil.which(name)]
STORED_AFTER = "SELECT message FROM logs WHERE id > ? ORDER BY id"


def program(name: str) -> str:
    """The block of README that begins with a comment that names its file."""
    [block] = re.findall(rf"(?ms)^```\w+\n(# {re.escape(name)}: .*?)^```$", README)
    return str(block)


class RecipeTests(ServerTests):
    """Tests of a program that sends to a server, in a folder of its own."""

    settings: ClassVar[dict[str, Json]] = {"constants": {"MAX_BODY_BYTES": 600_000}}

    def setUp(self) -> None:
        self.folder = folder_of(self)
        [(self.last,)] = self.server.sql("SELECT ifnull(max(id), 0) FROM logs")

    def use_own_server(self) -> None:
        """For a test that stops its server: the others share one."""
        self.server = self.enterContext(Server(**self.settings))  # type: ignore[misc]
        self.last = 0

    def save(self, name: str, token: str = TOKEN) -> pathlib.Path:
        """Writes a program of README as a user would, with the address and a token."""
        text = program(name)
        for old, new in (
            ("http://127.0.0.1:8000", self.server.url),
            ("demo-pagos", token),
            ("sleep 2", "sleep 0.1"),
            ("sleep(2)", "sleep(0.1)"),
            ("timeout=5)", "timeout=2)"),  # The end of a program, while the server is away.
        ):
            text = text.replace(old, new)
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a program with pipes."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.folder, bufsize=0
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def feed(self, process: subprocess.Popen[bytes], data: bytes) -> None:
        assert process.stdin
        process.stdin.write(data)

    def finish(self, process: subprocess.Popen[bytes], data: bytes = b"") -> str:
        """Gives the rest of its input; the program must end with 0. Gives what it said."""
        stdout, stderr = process.communicate(data, timeout=60)
        self.assertEqual((process.returncode, stdout), (0, b""), stderr)
        return stderr.decode()

    def stored(self) -> list[Any]:
        """The messages that the test has sent."""
        return [message for (message,) in self.server.sql(STORED_AFTER, self.last)]

    def wait_for(self, count: int) -> None:
        """Waits until so many records are stored."""
        eventually(lambda: len(self.stored()) >= count, why=lambda: f"stored: {self.stored()}")

    def lines_over_a_kill(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Feeds lines while the server is killed with -9 and started again, twice. Gives them."""
        lines = [f"line {number} \\ \"é'" for number in range(400)]
        data = [f"{line}\n".encode() for line in lines]
        self.feed(process, b"".join(data[:100]))
        self.wait_for(1)
        for first in (100, 250):
            self.feed(process, b"".join(data[first : first + 50]))
            self.server.stop(signal.SIGKILL)
            self.feed(process, b"".join(data[first + 50 : first + 150]))
            self.server.restart()
            self.wait_for(first + 100)
        self.finish(process)
        return lines


@unittest.skipIf(ABSENT, f"not installed: {', '.join(ABSENT)}")
class Pipe(RecipeTests):
    """ship.sh."""

    def ship(self, token: str = TOKEN) -> subprocess.Popen[bytes]:
        return self.start("bash", str(self.save("ship.sh", token)))

    def test_every_line_is_stored_once_over_a_kill_of_the_server(self) -> None:
        self.use_own_server()
        lines = self.lines_over_a_kill(self.ship())
        self.assertEqual(self.stored(), lines)

    def test_every_line_is_a_record_whatever_is_in_it(self) -> None:
        cases = {
            b"hello": "hello",
            b"  blanks around  ": "  blanks around  ",
            b"[INFO] a bracket": "[INFO] a bracket",
            b"{broken": "{broken",
            b"[1, 2]": "[1, 2]",
            b'"text"': '"text"',
            b"42": "42",
            b"a=b&c=d": "a=b&c=d",
            b"-n": "-n",
            b"%s %d $HOME `id` $(id) * ~": "%s %d $HOME `id` $(id) * ~",
            b"C:\\temp\\n 'one' \"two\"": "C:\\temp\\n 'one' \"two\"",
            "café ✓ 😀".encode(): "café ✓ 😀",
            b"of Windows\r": "of Windows",
            b"in Latin-1: caf\xe9": "in Latin-1: caf\ufffd",
            b"\x1b[31mred\x1b[0m\tand a tab": "\x1b[31mred\x1b[0m\tand a tab",
            b'{"message": "json", "level": "error", "n": 12345678901234567890}': "json",
            b' {"msg": "json after a blank"}': "json after a blank",
            b"the last line has no end": "the last line has no end",
        }
        said = self.finish(self.ship(), b"\n \n\r\n" + b"\n\n".join(cases))
        self.assertEqual((self.stored(), said), (list(cases.values()), ""))
        self.assertEqual(
            self.server.sql("SELECT severity, attributes FROM logs WHERE message = 'json'"),
            [(40, '{"n":12345678901234567890}')],
        )

    def test_lines_are_sent_while_the_pipe_stays_open(self) -> None:
        process = self.ship()
        self.feed(process, b"first\nsec")
        self.wait_for(1)
        self.feed(process, b"ond\n")
        self.wait_for(2)
        self.assertEqual(self.stored(), ["first", "second"])
        self.assertEqual(self.finish(process), "")

    def test_many_lines_are_sent_in_batches_that_every_proxy_takes(self) -> None:
        lines = [f"{number:04}" + "x" * 1000 for number in range(1200)]
        before = self.commits()
        self.finish(self.ship(), "\n".join(lines).encode())
        self.assertEqual(self.stored(), lines)
        self.assertIn(self.commits() - before, range(3, 100))

    def commits(self) -> int:
        """How many batches the server has committed."""
        metrics = self.server.get("/metrics").text
        return int(re.findall(r"(?m)^logs_commits_total (\d+)", metrics)[0])

    def test_what_is_refused_for_good_is_named_and_the_rest_is_stored(self) -> None:
        lines = [
            b"before",
            b'{"wrong": "no message"}',
            b"x" * 700_000,  # More than a body may have.
            b"between",
            b'{"message": "m", "service": "another"}',
            b"after",
        ]
        said = self.finish(self.ship(), b"\n".join(lines))
        self.assertEqual(self.stored(), ["before", "between", "after"])
        for reason in ("is missing", "larger than", "writes records of app only"):
            self.assertIn(reason, said)

    def test_a_wrong_token_is_said_and_nothing_is_lost_until_it_is_right(self) -> None:
        self.use_own_server()
        process = self.ship("mistyped")
        self.feed(process, b"one\ntwo\n")
        assert process.stderr
        self.assertIn(b"is not known", process.stderr.readline())
        self.server.config["services"]["app"]["token"] = "mistyped"
        self.server.restart()
        self.finish(process, b"three\n")
        self.assertEqual(self.stored(), ["one", "two", "three"])


USE = """
import logging, sys
from log_server import LogServerHandler
logging.basicConfig(level=logging.DEBUG, handlers=[LogServerHandler("{url}/logs", "{token}")])
"""


class Python(RecipeTests):
    """log_server.py."""

    def run_program(self, code: str, token: str = TOKEN) -> subprocess.Popen[bytes]:
        """Starts a program that logs with the handler of README."""
        self.save("log_server.py")
        path = self.folder / "program.py"
        path.write_text(USE.format(url=self.server.url, token=token) + code, encoding="utf-8")
        return self.start(sys.executable, str(path))

    def test_every_record_is_stored_once_over_a_kill_of_the_server(self) -> None:
        self.use_own_server()
        code = "for line in sys.stdin: logging.info(line.rstrip())"
        lines = self.lines_over_a_kill(self.run_program(code))
        self.assertEqual(self.stored(), lines)

    def test_a_record_keeps_its_level_time_logger_traceback_and_extra(self) -> None:
        code = """
logging.getLogger("shop.cart").warning("%s of %d", "one", 3, extra={"user": "ana", "n": [1, None]})
try:
    1 / 0
except ZeroDivisionError:
    logging.exception("order %s failed", 8)
logging.critical({"not": "a text"}, stack_info=True)
"""
        before = time.time_ns() // 1000
        self.assertEqual(self.finish(self.run_program(code)), "")
        after = time.time_ns() // 1000
        columns = "severity, timestamp, message, attributes"
        records = self.server.sql(f"SELECT {columns} FROM logs WHERE id > ?", self.last)
        severities, times, messages, attributes = zip(*records, strict=True)
        self.assertEqual(severities, (30, 40, 50))
        self.assertTrue(before <= min(times) <= max(times) <= after)
        self.assertEqual(messages[0], "one of 3")
        self.assertEqual(
            json.loads(attributes[0]), {"logger": "shop.cart", "user": "ana", "n": [1, None]}
        )
        self.assertIn("order 8 failed\nTraceback", messages[1])
        self.assertIn("ZeroDivisionError: division by zero", messages[1])
        self.assertIn("{'not': 'a text'}\nStack", messages[2])

    def test_values_that_json_does_not_have_are_kept_as_text(self) -> None:
        code = """
import datetime, pathlib
extra = {"at": datetime.date(2026, 1, 2), "path": pathlib.PurePosixPath("/a"), "known": {1, },
         "keys": {(1, 2): 3, 4: 5}, "half": "\\ud800"}
logging.info("m", extra=extra)
"""
        self.assertEqual(self.finish(self.run_program(code)), "")
        statement = "SELECT attributes FROM logs WHERE id > ?"
        [(attributes,)] = self.server.sql(statement, self.last)
        kept = json.loads(attributes)
        self.assertEqual((kept["at"], kept["path"], kept["known"]), ("2026-01-02", "/a", "{1}"))
        self.assertEqual((kept["keys"], kept["half"]), ({"4": 5}, "\ufffd"))

    def test_a_wrong_token_is_one_line_and_the_program_goes_on(self) -> None:
        code = "for line in sys.stdin:\n    logging.info(line)\n    print('on', flush=True)"
        process = self.run_program(code, token="mistyped")
        assert process.stdout and process.stderr
        self.feed(process, b"one\n")
        self.assertIn(b"401", process.stderr.readline())
        for line in (b"two\n", b"three\n"):
            self.feed(process, line)
        stdout, stderr = process.communicate(timeout=20)
        self.assertEqual((process.returncode, stdout, stderr), (0, b"on\n" * 3, b""))
        self.assertEqual(self.stored(), [])

    def test_a_server_that_is_away_holds_nothing_up_but_the_end_for_5_seconds(self) -> None:
        self.use_own_server()
        self.server.stop()
        code = """
import time
begun = time.monotonic()
for number in range(12_000):
    logging.info("m")
assert time.monotonic() - begun < 30, "a record waits"  # 2,000 find no place.
"""
        begun = time.monotonic()
        said = self.finish(self.run_program(code)).splitlines()
        self.assertLess(time.monotonic() - begun, 45)
        for problem in ("refused", "what comes now is lost", "may be lost"):
            self.assertTrue([line for line in said if problem in line], said)
        self.assertLess(len(said), 200)

    def test_a_bad_call_of_logging_is_reported_and_the_next_record_is_stored(self) -> None:
        said = self.finish(self.run_program("logging.info('%d', 'x')\nlogging.info('next')"))
        self.assertIn("--- Logging error ---", said)
        self.assertEqual(self.stored(), ["next"])

    @unittest.skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_a_forked_process_sends_its_own_records(self) -> None:
        code = """
import os
logging.info("parent")
child = os.fork()
logging.info("child" if child == 0 else "parent again")
if child:
    os.waitpid(child, 0)
"""
        self.assertEqual(self.finish(self.run_program(code)), "")
        self.assertCountEqual(self.stored(), ["parent", "child", "parent again"])

    def test_a_dictionary_can_configure_it(self) -> None:
        code = """
import logging.config
logging.config.dictConfig({"version": 1, "root": {"level": "INFO", "handlers": ["server"]},
    "handlers": {"server": {"class": "log_server.LogServerHandler", "url": "%s/logs",
                            "token": "%s"}}})
logging.info("configured")
"""
        said = self.finish(self.run_program(code % (self.server.url, TOKEN)))
        self.assertEqual((self.stored(), said), (["configured"], ""))


if __name__ == "__main__":
    unittest.main()
