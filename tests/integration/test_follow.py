"""Ten followers at once while a thousand records a second come in,
one that never reads among them."""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Callable

from tests.support import Server, eventually

SECONDS, BATCHES, RECORDS = 4, 20, 50  # a second has so many batches of so many records
SEVERITIES = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
FILTERS = [
    "",
    *(f"&severity={name}" for name in SEVERITIES),
    "&min_severity=ERROR",
    "&contains=7",
    "&attr.n=3",
    "",
]


@unittest.skipUnless(shutil.which("curl"), "curl is not installed")
class Followers(unittest.TestCase):
    def test_ten_followers_of_a_thousand_records_a_second_miss_and_repeat_nothing(self) -> None:
        with Server() as server, tempfile.TemporaryDirectory(prefix="follow-") as folder:
            server.post({"message": "before them all"})
            deaf = socket.create_connection(("127.0.0.1", server.port))
            self.addCleanup(deaf.close)
            deaf.sendall(b"GET /logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            files = [pathlib.Path(folder, str(number)) for number in range(len(FILTERS))]
            followers = [
                self.follow(server, filters, file)
                for filters, file in zip(FILTERS, files, strict=True)
            ]
            self.addCleanup(self.stop, followers)
            eventually(lambda: all(file.stat().st_size for file in files), 10)
            self.pour(server, functools.partial(self.change, server, followers, files))
            everything = server.get("/logs?limit=0&order=asc&format=ndjson").text.splitlines()
            stored = sorted(
                (json.loads(line) for line in everything), key=lambda record: record["id"]
            )
            self.assertEqual(len(stored), SECONDS * BATCHES * RECORDS + 1)
            for filters, file in zip(FILTERS, files, strict=True):
                wanted = [record["id"] for record in stored[1:] if self.matches(record, filters)]
                with self.subTest(filters):
                    eventually(functools.partial(self.has, file, len(wanted)), 15, "some miss")
                    self.assertEqual(self.seen(file), wanted)

    def follow(
        self, server: Server, filters: str, file: pathlib.Path, after: int = 1
    ) -> subprocess.Popen[bytes]:
        """A curl that writes what it is shown, from after that id."""
        with file.open("ab") as output:
            return subprocess.Popen(
                ["curl", "-sN", f"{server.url}/logs?follow=1&after={after}{filters}"], stdout=output
            )

    def stop(self, followers: list[subprocess.Popen[bytes]]) -> None:
        for follower in followers:
            follower.kill()
            follower.wait()

    def pour(self, server: Server, at_half: Callable[[], None]) -> None:
        """Posts at an even pace; half way, something else happens at the same time."""
        began, aside = time.monotonic(), threading.Thread(target=at_half)
        for number in range(SECONDS * BATCHES):
            if number == SECONDS * BATCHES // 2:
                aside.start()
            batch = [
                {"message": f"m{n}", "severity": SEVERITIES[n % 5], "n": n % 10}
                for n in range(RECORDS)
            ]
            self.assertEqual(server.post(batch).status, 200)
            time.sleep(max(0, began + (number + 1) / BATCHES - time.monotonic()))
        aside.join()

    def change(
        self, server: Server, followers: list[subprocess.Popen[bytes]], files: list[pathlib.Path]
    ) -> None:
        """The last follower goes, and another comes and resumes where it was."""
        followers[-1].kill()
        followers[-1].wait()
        # It may have been cut off in a line.
        whole = files[-1].read_bytes().rpartition(b"\n")[0] + b"\n"
        files[-1].write_bytes(whole)
        followers[-1] = self.follow(server, FILTERS[-1], files[-1], self.seen(files[-1])[-1])

    def seen(self, file: pathlib.Path) -> list[int]:
        lines = file.read_bytes().rpartition(b"\n")[0].split(b"\n")
        return [json.loads(line)["id"] for line in lines if line]

    def has(self, file: pathlib.Path, number: int) -> bool:
        return len(self.seen(file)) >= number

    def matches(self, record: dict[str, object], filters: str) -> bool:
        severity = SEVERITIES.index(str(record["severity"]))
        known = {"min_severity=ERROR": severity >= 3, "contains=7": "7" in str(record["message"])}
        known |= {"attr.n=3": record["attributes"] == {"n": 3}, "": True}
        known |= {f"severity={name}": severity == number for number, name in enumerate(SEVERITIES)}
        return known[filters.lstrip("&")]


if __name__ == "__main__":
    unittest.main()
