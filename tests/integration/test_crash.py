"""What a 200 promises, tried for longer: kill -9 again and again, the order of the system calls
behind each answer, a lock of half a minute, restarts under the simulator.

    python -m unittest discover -s tests/integration -p test_crash.py
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
from typing import NamedTuple

from tests.load import Wire, Writers, check_database, together
from tests.support import ROOT, SAMPLE, TOKEN, Answer, Server, eventually, request

ROUNDS = 20
WRITERS = 4


class Killed(unittest.TestCase):
    def test_twenty_times_kill_9_under_load(self):
        """Every acknowledged record is there exactly once, the counts agree, the file is whole."""
        moments = random.Random(20)
        with Server() as server:
            seconds = []
            with Writers(server, WRITERS, records=5) as writers:
                for _ in range(ROUNDS):
                    writers.wait_for(moments.randrange(20, 400))
                    server.stop(signal.SIGKILL)
                    check_database(self, server)
                    began = time.monotonic()
                    server.restart()
                    self.assertEqual(server.get("/health").status, 200)
                    seconds.append(time.monotonic() - began)
                writers.wait_for(100)
            writers.check(self)
            self.assertEqual(
                server.sql("SELECT count(*) FROM logs"), [(len(writers.acknowledged),)]
            )
            self.assertEqual({answer.status for answer in writers.refusals}, set())
            self.assertGreater(writers.broken, ROUNDS, "it was not killed under load")
            self.assertLess(statistics.median(seconds), 0.5, "s from the start to the first answer")
            self.assertLess(max(seconds), 3)

    def test_kill_9_in_the_middle_of_retention_and_of_checkpoints(self):
        moments = random.Random(21)
        with Server(retention={"max_age_days": None, "max_size_mb": 6}) as server:
            with Writers(server, WRITERS, records=200, details="x" * 300) as writers:
                for number in range(ROUNDS):
                    writers.wait_for(moments.randrange(1000, 4000))
                    if number % 2:  # Retention begins a second after the start.
                        oldest = server.sql("SELECT min(id) FROM logs")
                        eventually(
                            lambda oldest=oldest: (
                                server.sql("SELECT min(id) FROM logs") > oldest
                            )
                        )
                    server.stop(signal.SIGKILL)
                    check_database(self, server)
                    server.restart()
                writers.wait_for(1000)
            check_database(self, server)
            low, high, records = server.sql("SELECT min(id), max(id), count(*) FROM logs")[0]
            self.assertEqual(high - low + 1, records, "not the oldest went")
            self.assertGreater(low, 1)
            stored = [message for (message,) in server.sql("SELECT message FROM logs ORDER BY id")]
            self.assertEqual(len(set(stored)), len(stored), "stored twice")
            self.assertLessEqual(set(stored), set(writers.acknowledged))
            self.assertEqual(high, len(writers.acknowledged), "lost, or stored twice")

    def test_kill_9_while_a_new_database_is_made(self):
        """A server that was killed at any moment of its first start can be started again."""
        with tempfile.TemporaryDirectory(prefix="logs-") as name:
            folder = pathlib.Path(name)
            config = folder / "config.json"
            shutil.copy(ROOT / "config.json", config)
            command = [
                sys.executable,
                str(ROOT / "server.py"),
                "--config",
                str(config),
                "--port",
                "0",
            ]
            for attempt in range(40):
                process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                eventually(lambda: any(folder.glob("logs.db*")))
                time.sleep(attempt / 4000)  # 0 to 10 ms: the schema takes about as long
                process.kill()
                process.wait()
                with self.subTest(attempt), Server(folder) as server:
                    self.assertEqual(server.post({"message": "m"}).status, 200)
                for file in folder.glob("logs.db*"):
                    file.unlink()
                shutil.copy(ROOT / "config.json", config)


class Stopped(unittest.TestCase):
    def test_sigterm_among_all_kinds_of_clients_within_5_s(self):
        with Server() as server, contextlib.ExitStack() as stack:
            writers = stack.enter_context(Writers(server, 8))
            writers.wait_for(100)
            post = b"POST /logs HTTP/1.1\r\nHost: localhost\r\n"
            post += f"Authorization: Token {TOKEN}\r\n".encode()
            follow = b"GET /logs?follow=1 HTTP/1.0\r\n\r\n"
            for first in (b"", b"GET /lo", post + b"Content-Length: 99\r\n\r\n{", follow):
                for _ in range(50):
                    stack.enter_context(Wire(server)).send(first)
            began = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - began, 5)
            stored = {message for (message,) in server.sql("SELECT message FROM logs")}
            self.assertLessEqual(set(writers.acknowledged), stored)
            self.assertNotIn("unexpected", "".join(server.errors))
            server.restart()
            writers.stop()
            writers.check(self)

    def test_sigterm_again_and_again_is_quick_and_quiet(self):
        with Server() as server, Writers(server, 8, records=1) as writers:
            for _ in range(15):
                writers.wait_for(30)
                with contextlib.ExitStack() as stack:
                    for _ in range(100):
                        stack.enter_context(Wire(server))
                    began = time.monotonic()
                    self.assertEqual(server.stop(), 0)
                    self.assertLess(
                        time.monotonic() - began, 3, "s; nobody is in the middle of anything"
                    )
                self.assertNotIn("unexpected", "".join(server.errors))
                server.restart()
            writers.stop()
            writers.check(self)

    def test_the_simulator_runs_through_restarts_and_each_of_its_records_is_there_once(self):
        with Server(config=self.configuration()) as server:
            command = [
                sys.executable,
                str(ROOT / "simulator.py"),
                "--config",
                str(server.folder / "config.json"),
            ]
            command += ["--url", server.url, "--seed", "5"]
            simulator = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
            )
            self.addCleanup(simulator.kill)
            for sig in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
                before = server.sql("SELECT count(*) FROM logs")[0][0]
                eventually(
                    lambda before=before: (
                        server.sql("SELECT count(*) FROM logs")[0][0] > before + 50
                    )
                )
                server.restart(sig)
            out, err = simulator.communicate(timeout=90)
            self.assertEqual(simulator.returncode, 0, out + err)
            self.assertRegex(out, r"(?m)^total +800 +800 +0 ")
            stored = server.sql(
                "SELECT service, count(*) FROM logs GROUP BY service ORDER BY service"
            )
            self.assertEqual(stored, [("app", 400), ("web", 400)])
            check_database(self, server)

    def configuration(self) -> dict[str, object]:
        """Two services of 400 records each, that take some seconds."""
        (sample, *_) = SAMPLE["services"].values()
        service = {**sample, "iterations": [400, 400], "delay_seconds": [0, 0.02]}
        server = {**SAMPLE["server"], "port": 0}
        services = {
            "app": {**service, "token": "test-app"},
            "web": {**service, "token": "test-web"},
        }
        return {**SAMPLE, "server": server, "services": services}


class Locked(unittest.TestCase):
    def test_a_lock_of_30_s_refuses_writers_for_as_long_and_nobody_else(self):
        with Server() as server, Writers(server, WRITERS) as writers:
            writers.wait_for(20)
            with contextlib.closing(
                sqlite3.connect(server.database, timeout=20, isolation_level=None)
            ) as other:
                other.execute("BEGIN EXCLUSIVE")
                end = time.monotonic() + 30
                answers: list[Answer] = []
                while time.monotonic() < end:
                    began = time.monotonic()
                    for answer in (server.post({"message": "refused"}), server.get("/health")):
                        self.assertEqual(answer.status, 503)
                        self.assertIn(int(answer.headers["retry-after"]), range(1, 10))
                        answers.append(answer)
                    self.assertLess(time.monotonic() - began, 15)
                    began = time.monotonic()
                    self.assertEqual(server.get("/logs?limit=5").status, 200)
                    self.assertGreater(server.get("/stats").json["total"], 0)
                    self.assertLess(time.monotonic() - began, 2)
            self.assertGreater(len(answers), 5)
            writers.wait_for(100)
            eventually(lambda: server.get("/health").status == 200)
            writers.stop()
            writers.check(self)
            self.assertEqual({answer.status for answer in writers.refusals}, {503})


class Call(NamedTuple):
    """One system call: in which line of strace's it began and ended, of which thread."""

    began: int
    ended: int
    thread: str
    name: str
    text: str  # its arguments and what it gave

    @property
    def file(self) -> str:
        """The number and name of the file or socket that it is for."""
        return self.text.partition(",")[0]

    def syncs(self, name: str) -> bool:
        """Whether it put the file of that name on disk."""
        done = self.name in ("fsync", "fdatasync") and re.search(r"<(.*)>\) += 0$", self.text)
        return bool(done) and done[1].rpartition("/")[2] == name


def system_calls(trace: str) -> list[Call]:
    """The calls in the output of `strace -f -y`, each with the lines where it began and ended."""
    calls, unfinished = [], {}
    for number, line in enumerate(trace.splitlines()):
        found = re.match(r"(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$", line)
        if not found:
            continue
        thread, name, text, resumed, rest = found.groups()
        if resumed:
            began, text = unfinished.pop((thread, resumed), (number, ""))
            calls.append(Call(began, number, thread, resumed, text + rest))
        elif text.endswith("<unfinished ...>"):
            unfinished[thread, name] = number, text.removesuffix("<unfinished ...>").rstrip()
        else:
            calls.append(Call(number, number, thread, name, text))
    return calls


def strace(folder: pathlib.Path) -> tuple[str, ...]:
    """The command that writes down the calls of another that matter here; -D:
    a signal goes to the other."""
    calls = "trace=fsync,fdatasync,pwrite64,sendto,recvfrom,write,openat,rename,renameat,renameat2"
    return ("strace", "-D", "-f", "-y", "-s", "5000", "-e", calls, "-o", str(folder / "trace"))


def can_trace() -> bool:
    """Whether there is strace, and the system lets it work."""
    done = shutil.which("strace") and subprocess.run(
        ["strace", "-o", os.devnull, "true"], capture_output=True
    )
    return bool(done) and done.returncode == 0


@unittest.skipUnless(can_trace(), "needs strace, and leave to use it")
class OnDisk(unittest.TestCase):
    """Power may fail at any moment: what was acknowledged was on disk before."""

    def trace(self, drive, **settings) -> list[Call]:
        """The system calls of a server from its start to its end, while `drive` uses it."""
        with tempfile.TemporaryDirectory(prefix="logs-") as name:
            folder = pathlib.Path(name).resolve()
            with Server(folder, wrapper=strace(folder), **settings) as server:
                drive(server)
            return system_calls((folder / "trace").read_text(encoding="utf-8", errors="replace"))

    def test_for_every_batch_the_wal_is_synced_after_its_write_and_before_its_answer(self):
        markers = [
            f"marker-{writer}-{number:03}-" for writer in range(WRITERS) for number in range(50)
        ]

        def drive(server: Server) -> None:
            def write(writer: int) -> None:
                connection = server.connection()
                for marker in markers[writer * 50 :][:50]:
                    headers = {"Authorization": f"Token {TOKEN}", "Idempotency-Key": marker}
                    body = json.dumps({"message": marker})
                    self.assertEqual(
                        request(connection, "POST", "/logs", body, headers).status, 200
                    )
                connection.close()

            together(WRITERS, write)

        calls = self.trace(drive)
        to_wal = [call for call in calls if call.name == "pwrite64" and "logs.db-wal>" in call.text]
        syncs = [call for call in calls if call.syncs("logs.db-wal")]
        requests = [call for call in calls if call.name == "recvfrom"]
        shared = set()
        for marker in markers:
            with self.subTest(marker):
                (received,) = [
                    call for call in requests if f'\\"message\\": \\"{marker}' in call.text
                ]
                written = next(
                    call for call in to_wal if call.began > received.ended and marker in call.text
                )
                synced = next(call for call in syncs if call.began > written.ended)
                sends = (
                    call for call in calls if call.name == "sendto" and call.file == received.file
                )
                answered = next(call for call in sends if call.began > received.ended)
                self.assertIn("HTTP/1.1 200", answered.text)
                self.assertLess(synced.ended, answered.began, "the answer left before the sync")
                shared.add(synced.began)
        self.assertLess(len(shared), len(markers), "no sync served two batches")

    def test_a_new_database_and_its_folder_are_synced_before_the_server_says_that_it_listens(self):
        calls = self.trace(lambda server: None)
        listening = next(
            call for call in calls if call.name == "write" and "listening on" in call.text
        )
        naming = re.compile(r'openat.*/logs\.db(\.\w+)?", .*O_CREAT|rename.*/logs\.db"')
        named = [call for call in calls if naming.match(call.name + call.text)]
        folder = re.search(r'"([^"]*)/logs\.db', named[0].text)[1].rpartition("/")[2]
        synced = [call for call in calls if call.syncs(folder) and call.ended < listening.began]
        self.assertTrue(synced, "the folder is not synced")
        self.assertGreater(
            synced[-1].began, named[-1].ended, "a name came after the last sync of the folder"
        )
        self.assertTrue(
            [call for call in calls if call.syncs("logs.db") or call.syncs("logs.db.new")]
        )

    def test_a_new_wal_and_its_folder_are_synced_before_the_first_answer(self):
        calls = self.trace(lambda server: server.post({"message": "first"}))
        answered = next(
            call for call in calls if call.name == "sendto" and "HTTP/1.1 200" in call.text
        )
        created = next(
            call for call in calls if "logs.db-wal" in call.text and "O_CREAT" in call.text
        )
        folder = re.search(r'"([^"]*)/logs\.db', created.text)[1].rpartition("/")[2]
        between = [
            call for call in calls if created.ended < call.began and call.ended < answered.began
        ]
        for name in ("logs.db-wal", folder):
            self.assertTrue([call for call in between if call.syncs(name)], name)

    def test_an_answer_to_a_repeat_is_of_what_is_on_disk(self):
        def drive(server: Server) -> None:
            for _ in range(2):
                self.assertEqual(server.post({"message": "once"}, Idempotency_Key="k").status, 200)

        calls = self.trace(drive)
        answers = [call for call in calls if call.name == "sendto" and "HTTP/1.1 200" in call.text]
        syncs = [call for call in calls if call.syncs("logs.db-wal")]
        self.assertEqual(["Replayed" in call.text for call in answers], [False, True])
        self.assertTrue([call for call in syncs if call.ended < answers[0].began])


if __name__ == "__main__":
    unittest.main()
