"""The simulator stores each record exactly once, and says what was not delivered and why."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from email.message import Message
from unittest import mock

import simulator
from tests import support
from tests.support import ROOT, SAMPLE, SAMPLE_FILE, Json, Server, eventually

NOTHING = simulator.Outcome(0, "no answer")
STORED = simulator.Outcome(200, "", accepted=True)
LOG = {"severity": "INFO", "message": "m", "weight": 1}
SERVICE = simulator.Service("app", "http://server", "token", (1, 1), (0, 0), [LOG])


def command(*arguments: str, **constants: float) -> list[str]:
    """The command that runs the simulator as a process, with some of its constants changed."""
    sample = f"simulator.CONFIG = pathlib.Path({str(SAMPLE_FILE)!r})"
    lines = ["import pathlib, sys, simulator", sample]
    for name, value in constants.items():
        lines.append(f"simulator.{name} = {value}")
    lines.append("sys.exit(simulator.main())")
    return [sys.executable, "-S", "-c", "\n".join(lines), *arguments]


def simulate(
    *arguments: str, environment: dict[str, str] | None = None, **constants: float
) -> tuple[int, str, str]:
    """Runs the simulator to its end; exit status, stdout, stderr."""
    done = subprocess.run(
        command(*arguments, **constants),
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        timeout=60,
        encoding="utf-8",
    )
    return done.returncode, done.stdout, done.stderr


def start(case: unittest.TestCase, *arguments: str, **constants: float) -> subprocess.Popen[str]:
    """Starts the simulator; it ends with the test at the latest."""
    process = subprocess.Popen(
        command(*arguments, **constants),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    case.addCleanup(process.kill)
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Waits for the end of a simulator that was started; exit status, stdout, stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def find(pattern: str, text: str) -> re.Match[str]:
    """Where a line of the text matches, or the test fails."""
    found = re.search(pattern, text, re.MULTILINE | re.IGNORECASE)
    assert found, f"no {pattern} in {text}"
    return found


def totals(out: str) -> dict[str, int]:
    """The last row of the summary, by column."""
    numbers = find("^total +(.*)$", out)[1].split()
    return dict(zip(simulator.COLUMNS, map(int, numbers), strict=True))


def not_delivered(table: dict[str, int]) -> str:
    """The line on stderr that says how many records were not delivered."""
    missing = table["planned"] - table["delivered"]
    return f"^{missing} of {table['planned']} records were not delivered$"


def sample_server() -> Server:
    """A server with the sample configuration."""
    return Server(config={**SAMPLE, "server": {**SAMPLE["server"], "port": 0}})


@contextlib.contextmanager
def no_server():
    """An address at which nobody listens as long as the context is open."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def listener(serve):
    """A TCP server that gives each connection and its one request to `serve`; its address."""

    def one(connection: socket.socket) -> None:
        with connection:
            serve(connection, receive_request(connection))

    def accept() -> None:
        # The listening socket is shut down when the test is over.
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=[listening.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        # Some systems refuse a shutdown here. On these, close() ends the accept.
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@contextlib.contextmanager
def answering(*parts: bytes):
    """A TCP server that sends the same bytes to everybody; its address and all requests to it."""
    requests: list[bytes] = []

    def serve(connection: socket.socket, request: bytes) -> None:
        requests.append(request)
        connection.sendall(b"".join(parts))

    with listener(serve) as url:
        yield url, requests


def receive_request(connection: socket.socket) -> bytes:
    """Reads one request with a Content-Length, to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head = data.partition(b"\r\n\r\n")[0]
    end = len(head) + 4 + int(find(r"^content-length: (\d+)", head.decode())[1])
    while len(data) < end:
        data += connection.recv(1 << 16)
    return data


class ARun(unittest.TestCase):
    server: Server
    before: float  # when the one run began, whose records the first tests look at; in microseconds
    result: tuple[int, str, str]

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(sample_server())
        cls.before = time.time() * 1e6
        cls.result = simulate("--url", cls.server.url, "--speed", "50")

    def assert_each_once(self, server: Server, out: str) -> None:
        """The simulator, /stats and the database have the same number of records, all different."""
        delivered = totals(out)["delivered"]
        self.assertEqual(server.get("/stats").json["total"], delivered)
        self.assertEqual(server.sql("SELECT count(*) FROM logs"), [(delivered,)])
        numbers = "SELECT DISTINCT service, json_extract(attributes, '$.number') FROM logs"
        self.assertEqual(len(server.sql(numbers)), delivered)

    def test_delivers_what_the_configuration_asks_for_and_says_how_many(self):
        status, out, err = self.result
        self.assertEqual((status, err), (0, ""))
        self.assert_each_once(self.server, out)
        table = totals(out)
        stats = self.server.get("/stats").json
        self.assertEqual((table["failed"], table["retries"], table["replayed"]), (0, 0, 0))
        for severity in simulator.SEVERITIES:
            self.assertEqual(table[severity], stats["by_severity"].get(severity, 0), severity)
        for name, service in SAMPLE["services"].items():
            least, most = service["iterations"]
            self.assertTrue(least <= stats["by_service"][name] <= most, name)
        last = find(r"^(\d+) records delivered, each exactly once: http://[^/]+(\S+)$", out)
        self.assertEqual(int(last[1]), table["delivered"])
        self.assertEqual(self.server.get(last[2]).json["total"], table["delivered"])

    def test_sends_the_messages_of_the_configuration_with_the_time_of_the_event(self):
        known = set()
        for name, service in SAMPLE["services"].items():
            known |= {(name, log["severity"], log["message"]) for log in service["logs"]}
        records = self.server.get("/logs?limit=0").json
        self.assertTrue(records)
        for record in records:
            self.assertIn((record["service"], record["severity"], record["message"]), known)
        too_early = "SELECT count(*) FROM logs WHERE timestamp < ?"
        self.assertEqual(self.server.sql(too_early, self.before), [(0,)])
        too_late = "SELECT count(*) FROM logs WHERE timestamp > received_at"
        self.assertEqual(self.server.sql(too_late), [(0,)])

    def test_one_seed_sends_the_same_messages_twice_and_both_times_they_are_stored(self):
        seven = ("--speed", "50", "--seed", "7")
        with sample_server() as server:
            outs = [simulate("--url", server.url, *seven)[1] for _ in range(2)]
            self.assertEqual(totals(outs[0]), totals(outs[1]))
            groups = """SELECT count(*) FROM logs
                GROUP BY service, message, json_extract(attributes, '$.number')"""
            self.assertEqual(set(server.sql(groups)), {(2,)})
            stored = server.sql("SELECT count(*) FROM logs")
            self.assertEqual(stored, [(2 * totals(outs[0])["delivered"],)])

    @unittest.skipUnless(pathlib.Path("/dev/full").exists(), "needs /dev/full")
    def test_where_nobody_reads_what_it_prints_each_record_is_delivered_all_the_same(self):
        reader, closed = os.pipe()
        os.close(reader)
        streams = {"stdout": os.open("/dev/full", os.O_WRONLY), "stderr": closed}
        with sample_server() as server:
            arguments = command("--url", server.url, "--speed", "60", PROGRESS_SECONDS=0.01)
            done = subprocess.run(arguments, cwd=ROOT, **streams)
            self.assertEqual(done.returncode, 0)
            self.assertGreater(server.sql("SELECT count(*) FROM logs")[0][0], 60)
        for stream in streams.values():
            os.close(stream)

    def test_a_delay_of_ages_is_waited_for_until_a_signal_comes(self):
        process = start(self, "--speed", "1e-300", PROGRESS_SECONDS=0.1)
        self.assertIn("0/", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        status, _, err = finish(process)
        self.assertEqual((status, "Traceback" in err), (130, False), err)

    def test_without_a_seed_each_run_sends_other_messages(self):
        with answering() as (url, requests):
            for _ in range(2):
                simulate("--url", url, "--speed", "100", GIVE_UP_AFTER_SECONDS=0)
        orders = collections.defaultdict(list)
        for request in requests:
            record = json.loads(request.partition(b"\r\n\r\n")[2])
            orders[record["attributes"]["run"]].append((record["service"], record["message"]))
        first, second = orders.values()
        self.assertNotEqual(sorted(first), sorted(second))

    def test_delivers_each_record_once_through_a_crash_and_a_restart_of_the_server(self):
        with sample_server() as server:
            process = start(self, "--url", server.url, "--speed", "8")
            for name, records in (("SIGKILL", 10), ("SIGTERM", 40)):
                count = functools.partial(server.sql, "SELECT count(*) FROM logs")
                eventually(lambda count=count, least=records: count()[0][0] >= least)
                server.restart(getattr(signal, name, signal.SIGTERM))
            status, out, err = finish(process)
            self.assertEqual((status, err), (0, ""), out)
            self.assertEqual(totals(out)["delivered"], totals(out)["planned"])
            self.assert_each_once(server, out)

    def test_delivers_each_record_once_though_the_first_answer_to_each_is_lost(self):
        tries = collections.Counter[str]()

        def lose_the_first_answer(client: socket.socket, request: bytes) -> None:
            with socket.create_connection(("127.0.0.1", server.port)) as upstream:
                upstream.sendall(request)
                answer = upstream.recv(1 << 16)
            key = find(r"^idempotency-key: (\S+)", request.decode())[1]
            tries[key] += 1
            if tries[key] > 1:
                client.sendall(answer)

        with sample_server() as server, listener(lose_the_first_answer) as url:
            arguments = ("--url", url, "--speed", "50")
            status, out, _ = simulate(*arguments, FIRST_PAUSE_SECONDS=0.02)
            self.assertEqual(status, 0, out)
            self.assertEqual(set(tries.values()), {2})
            table = totals(out)
            counts = [table[column] for column in ("planned", "retries", "replayed")]
            self.assertEqual(counts, [len(tries)] * 3)
            self.assert_each_once(server, out)

    def test_uses_no_proxy_of_the_environment(self):
        with sample_server() as server, answering(b"") as (proxy, requests):
            names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
            proxies = dict.fromkeys(names, proxy) | {"no_proxy": "", "NO_PROXY": ""}
            status, out, _ = simulate("--url", server.url, "--speed", "100", environment=proxies)
            self.assertEqual((status, requests), (0, []), out)


class WhatWasNotDelivered(unittest.TestCase):
    def test_is_counted_when_no_server_answers(self):
        with no_server() as url:
            arguments = ("--url", url, "--speed", "100")
            status, out, err = simulate(*arguments, GIVE_UP_AFTER_SECONDS=0.3)
        table = totals(out)
        self.assertEqual((status, table["delivered"], table["failed"]), (1, 0, table["planned"]))
        find(not_delivered(table), err)
        find(rf"no answer from {url} \(\[.*\): is server.py running there\?$", err)

    def test_is_counted_when_the_server_refuses_one_service(self):
        services = {**SAMPLE["services"], "pagos": {**SAMPLE["services"]["pagos"], "token": "no"}}
        with sample_server() as server, tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "config.json")
            path.write_text(json.dumps({**SAMPLE, "services": services}), encoding="utf-8")
            arguments = ("--config", str(path), "--url", server.url, "--speed", "50")
            status, out, err = simulate(*arguments)
            table = totals(out)
            self.assertEqual((status, table["retries"]), (1, 0))
            find(not_delivered(table), err)
            find(f"^  {table['failed']}: HTTP 401: .+$", err)
            stored = server.sql("SELECT count(*) FROM logs")
            self.assertEqual(stored, [(table["delivered"],)])
            refused = server.sql("SELECT count(*) FROM logs WHERE service = 'pagos'")
            self.assertEqual(refused, [(0,)])


@unittest.skipIf(sys.platform == "win32", "no such signals between processes")
class ASignal(unittest.TestCase):
    def stopped(
        self, process: subprocess.Popen[str], number: signal.Signals
    ) -> tuple[int, str, str]:
        """Sends the signal and waits for the end, which must be soon."""
        began = time.monotonic()
        process.send_signal(number)
        result = finish(process)
        self.assertLess(time.monotonic() - began, simulator.STOP_WITHIN_SECONDS)
        self.assertNotIn("Traceback", result[2])
        return result

    def test_stops_it_while_it_waits_for_a_server_and_the_summary_is_printed(self):
        for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(signal=number.name), no_server() as url:
                process = start(self, "--url", url, "--speed", "100")
                assert process.stdout
                waiting = process.stdout.readline()
                self.assertRegex(waiting, "^waiting, for [0-9]+ s at most: no answer")
                status, out, _ = self.stopped(process, number)
                self.assertEqual((status, totals(out)["delivered"]), (expected, 0))

    def test_stops_it_between_records_and_what_it_says_it_delivered_is_stored(self):
        with sample_server() as server:
            process = start(self, "--url", server.url, "--speed", "1")
            eventually(lambda: server.get("/stats").json["total"] >= 4)
            status, out, err = self.stopped(process, signal.SIGINT)
            table = totals(out)
            self.assertEqual(status, 130)
            find(not_delivered(table), err)
            stored = server.sql("SELECT count(*) FROM logs")
            self.assertEqual(stored, [(table["delivered"],)])

    def test_stops_it_in_time_though_a_server_takes_a_request_and_says_nothing(self):
        silent = threading.Event()
        self.addCleanup(silent.set)
        with listener(lambda client, _: silent.wait(20)) as url:
            arguments = ("--url", url, "--speed", "100")
            constants = {"STOP_WITHIN_SECONDS": 0.3, "PROGRESS_SECONDS": 0.2}
            process = start(self, *arguments, **constants)
            assert process.stdout
            self.assertTrue(process.stdout.readline())
            status, out, _ = self.stopped(process, signal.SIGINT)
            self.assertEqual((status, totals(out)["delivered"]), (130, 0))


class Clock(threading.Event):
    """Stands in for the Event `stop` and for the module time. A wait moves it forward at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        self.pauses.append(timeout)
        return False


class TryingAgain(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = simulator.ServiceThread(SERVICE, 1, 1.0, self.clock)

    def deliver(self, answers) -> tuple[simulator.Outcome, list[mock._Call]]:
        """Delivers a record to a server with these answers; the last one, and what was sent."""
        self.clock.pauses.clear()
        post = mock.patch("simulator.post", side_effect=answers)
        with post as sent, mock.patch("simulator.time", self.clock):
            outcome = self.thread.deliver({"message": "m"})
        return outcome, sent.call_args_list

    def test_sends_the_same_key_over_the_same_bytes_and_another_key_with_the_next_record(self):
        _, tries = self.deliver([NOTHING, NOTHING, STORED])
        self.assertEqual(tries, [tries[0]] * 3)
        _, later = self.deliver([STORED])
        self.assertNotEqual(later, tries[:1])

    def test_is_done_for_what_may_pass_and_for_nothing_else(self):
        for tries, statuses in {
            2: (0, 429, 502, 503, 504),
            1: (200, 201, 302, 400, 401, 403, 404, 413, 422, 500),
        }.items():
            for status in statuses:
                with self.subTest(status=status):
                    _, sent = self.deliver([simulator.Outcome(status, ""), STORED])
                    self.assertEqual(len(sent), tries)

    def test_pauses_longer_and_longer_up_to_a_bound_and_never_in_step(self):
        many = []
        for _ in range(100):
            self.deliver([NOTHING] * 12 + [STORED])
            many.append(list(self.clock.pauses))
        for number, pauses in enumerate(zip(*many, strict=True)):
            doubled = simulator.FIRST_PAUSE_SECONDS * 2**number
            bound = min(doubled, simulator.LONGEST_PAUSE_SECONDS)
            self.assertLessEqual(max(pauses), bound)
            self.assertGreater(max(pauses), bound / 2)
            self.assertLess(min(pauses), bound / 2)

    def test_waits_at_least_as_long_as_the_server_asks_and_not_all_at_once(self):
        pauses = []
        for _ in range(50):
            self.deliver([simulator.Outcome(429, "", retry_after=7), STORED])
            pauses += self.clock.pauses
        self.assertGreaterEqual(min(pauses), 7)
        spread = max(pauses) - min(pauses)
        self.assertGreater(spread, simulator.FIRST_PAUSE_SECONDS / 4, "all come back together")

    def test_ends_at_once_where_the_server_asks_for_more_time_than_there_is(self):
        outcome, tries = self.deliver([simulator.Outcome(503, "", retry_after=3600), STORED])
        self.assertEqual((outcome.status, len(tries)), (503, 1))

    def test_ends_after_a_minute_and_until_the_server_is_back_a_record_gets_one_try(self):
        began = self.clock.now
        outcome, tries = self.deliver(itertools.repeat(NOTHING))
        self.assertEqual(outcome, NOTHING)
        least = simulator.GIVE_UP_AFTER_SECONDS / simulator.LONGEST_PAUSE_SECONDS
        self.assertGreater(len(tries), least)
        self.assertLessEqual(self.clock.now - began, simulator.GIVE_UP_AFTER_SECONDS)
        self.clock.now += simulator.LONGEST_PAUSE_SECONDS
        self.assertEqual(len(self.deliver(itertools.repeat(NOTHING))[1]), 1)
        self.assertEqual(self.deliver([STORED])[0], STORED)
        self.assertEqual(self.deliver([NOTHING, NOTHING, STORED])[0], STORED)

    def test_trouble_that_is_over_is_told_no_more(self):
        with mock.patch("simulator.post", side_effect=[NOTHING, STORED]):
            self.thread.run()
        self.assertEqual((self.thread.trouble, self.thread.tally["delivered"]), ("", 1))


def headers(**values: str) -> Message:
    """The head of an answer; Retry_After="7" sets a header."""
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


class AnAnswer(unittest.TestCase):
    def test_counts_as_success_only_if_its_body_says_so(self):
        for status, body, accepted in [
            (200, b'{"accepted": 1, "rejected": 0}', True),
            (200, b'{"accepted": 0, "rejected": 1}', False),
            (201, b'{"accepted": 1}', False),
            (503, b'{"accepted": 1}', False),
            (200, b"{}", False),
            (200, b"[1]", False),
            (200, b"<html>It works!</html>", False),
            (200, b"\xff", False),
            (200, b"", False),
            (200, b"[" * 100_000, False),
        ]:
            with self.subTest(status=status, body=body[:80]):
                outcome = simulator.read_outcome(status, headers(), body)
                self.assertEqual(outcome.accepted, accepted)

    def test_that_refuses_is_told_with_its_reason_and_its_hint(self):
        body = {"error": "The token is not known.", "hint": "See config.json."}
        outcome = simulator.read_outcome(401, headers(), json.dumps(body).encode())
        self.assertEqual(outcome.reason, "HTTP 401: The token is not known. See config.json.")

    def test_says_how_long_to_wait_in_seconds(self):
        date = "Tue, 24 Nov 2026 02:14:12 GMT"
        for value, seconds in [("2", 2), ("0", 0), ("soon", 0), ("-1", 0), ("", 0), (date, 0)]:
            with self.subTest(value=value):
                outcome = simulator.read_outcome(429, headers(Retry_After=value), b"")
                self.assertEqual(outcome.retry_after, seconds)

    def test_of_any_status_is_read_with_its_headers_and_its_body(self):
        body = b'{"error": "e", "hint": "h"}'
        for status in (201, 400, 401, 422, 429, 500, 503):
            head = f"HTTP/1.1 {status} Word\r\nContent-Length: {len(body)}\r\n".encode()
            more = b"retry-after: 7\r\nidempotent-replayed: true\r\n\r\n"
            with self.subTest(status=status), answering(head, more, body) as (url, _):
                outcome = simulator.post(url, "token", "key", b"{}")
                self.assertEqual(outcome.reason, f"HTTP {status}: e h")
                self.assertEqual((outcome.status, outcome.retry_after), (status, 7))
                self.assertEqual((outcome.accepted, outcome.replayed), (False, True))

    def test_that_redirects_is_not_followed(self):
        for status in (301, 302, 303, 307, 308):
            for location in (b"/elsewhere", b"http://127.0.0.1:9/logs", b"http://[", b"file:///"):
                head = f"HTTP/1.1 {status} Found\r\nContent-Length: 0\r\nLocation: ".encode()
                with (
                    self.subTest(status=status, location=location),
                    answering(head, location, b"\r\n\r\n") as (url, requests),
                ):
                    self.assertEqual(simulator.post(url, "token", "key", b"{}").status, status)
                    self.assertEqual(len(requests), 1)

    def test_that_is_cut_off_or_is_not_http_is_none(self):
        cut_off = b"HTTP/1.1 %d Word\r\nContent-Length: 99\r\n\r\n{"
        for answer in (b"", cut_off % 200, cut_off % 503, b"SSH-2.0-OpenSSH_9.2\r\n"):
            with self.subTest(answer=answer), answering(answer) as (url, _):
                self.assertEqual(simulator.post(url, "token", "key", b"{}").status, 0)

    def test_that_does_not_come_in_time_is_none(self):
        silent = threading.Event()
        self.addCleanup(silent.set)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
        for sent in (b"", head):

            def send_and_wait(client, _, sent=sent):
                client.sendall(sent)
                silent.wait(20)

            with (
                self.subTest(sent=sent),
                listener(send_and_wait) as url,
                mock.patch("simulator.TRY_TIMEOUT_SECONDS", 0.1),
            ):
                outcome = simulator.post(url, "token", "key", b"{}")
                self.assertEqual(outcome.status, 0)
                self.assertIn("timed out", outcome.reason)


class ARequest(unittest.TestCase):
    def test_has_the_token_the_key_and_the_record(self):
        with answering(b"") as (url, requests):
            simulator.post(url, "a-token", "a-key", b'{"message": "m"}')
        head, _, body = requests[0].partition(b"\r\n\r\n")
        self.assertEqual(body, b'{"message": "m"}')
        for line in (
            "^post /logs http/1.1\r$",
            "^authorization: Token a-token\r$",
            "^idempotency-key: a-key\r$",
            "^content-type: application/json\r$",
        ):
            find(line, head.decode() + "\r\n")

    def test_the_path_of_an_address_is_kept_and_a_slash_at_its_end_is_not_doubled(self):
        address = "http://127.0.0.1:8000/behind/a/proxy"
        [service, *_] = simulator.load(SAMPLE_FILE, address + "/")
        self.assertEqual(service.url, address)
        with answering(b"") as (url, requests):
            simulator.post(url + "/behind/a/proxy", "token", "key", b"{}")
        start_of_request = b"POST /behind/a/proxy/logs HTTP/1.1\r\n"
        self.assertTrue(requests[0].startswith(start_of_request), requests)

    def test_an_https_address_is_spoken_to_in_tls(self):
        hello = []
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def take():
                connection, _ = listening.accept()
                with connection:
                    hello.append(connection.recv(3))

            thread = threading.Thread(target=take)
            thread.start()
            url = f"https://127.0.0.1:{listening.getsockname()[1]}"
            outcome = simulator.post(url, "token", "key", b"{}")
            thread.join(5)
        self.assertEqual((outcome.status, hello[0][:2]), (0, b"\x16\x03"), "a TLS handshake")

    def test_to_an_address_that_cannot_be_used_has_no_answer(self):
        for url in ("http://", "http://[", "http://localhost:port", "http://:8000"):
            with self.subTest(url):
                self.assertEqual(simulator.post(url, "token", "key", b"{}").status, 0)


class TheConfiguration(unittest.TestCase):
    def run_with(self, document: Json) -> tuple[int, str, str]:
        """Gives the simulator a wrong configuration; its path is cut from stderr."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "config.json")
            text = document if isinstance(document, str) else json.dumps(document)
            path.write_text(text, encoding="utf-8")
            status, out, err = self.run_here("--config", str(path))
            return status, out, err.replace(f"{path}: ", "")

    def run_here(self, *arguments: str) -> tuple[int, str, str]:
        """Starts the simulator in this process, which it refuses; exit status, stdout, stderr."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            self.assertRaises(SystemExit) as end,
        ):
            simulator.main(arguments)
        assert isinstance(end.exception.code, int)
        return end.exception.code, out.getvalue(), err.getvalue()

    def test_with_mistakes_has_all_of_them_named_with_their_place(self):
        bad = {"severity": "info", "message": " ", "weight": 0}
        document = {
            "simulator": {"url": "localhost:8000", "speed": 2},
            "services": {
                "a": {
                    "token": "two words",
                    "iterations": [3, 2],
                    "delay_seconds": [True, 1],
                    "logs": [],
                    "x": 1,
                },
                "b": {
                    "token": "b",
                    "iterations": [1.5, 2],
                    "delay_seconds": [-1, 1],
                    "logs": [LOG, 3, {"color": "red"}],
                },
                "c": {"token": "c", "iterations": [1, 2], "delay_seconds": "0.1", "logs": [bad]},
                "d": ["token"],
                "e": 5,
            },
        }
        status, out, err = self.run_with(document)
        self.assertEqual((status, out), (2, ""))
        places = """simulator.speed simulator.url
            services.a.x services.a.token services.a.iterations services.a.delay_seconds
            services.a.logs
            services.b.iterations services.b.delay_seconds
            services.b.logs[1].severity services.b.logs[1].message services.b.logs[1].weight
            services.b.logs[2].color
            services.b.logs[2].severity services.b.logs[2].message services.b.logs[2].weight
            services.c.delay_seconds
            services.c.logs[0].severity services.c.logs[0].message services.c.logs[0].weight
            services.d.token services.d.iterations services.d.delay_seconds services.d.logs
            services.e.token services.e.iterations services.e.delay_seconds services.e.logs"""
        self.assertEqual([line.split(": ")[0] for line in err.splitlines()], places.split())
        line = "services.a.iterations: must be whole numbers [least, most], like [10, 20]"
        self.assertIn(line, err.splitlines())

    def test_that_cannot_be_used_at_all_is_one_line(self):
        for document, line in [
            ("{", "cannot be read as JSON: "),
            ("[" * 100_000, "cannot be read as JSON: "),
            ("[]", "must be a JSON object"),
            ({"simulator": SAMPLE["simulator"]}, "services: must be an object"),
            ({**SAMPLE, "services": [1]}, "services: must be an object"),
            ({**SAMPLE, "services": {"own": {"token": "t"}}}, "services: must be an object"),
        ]:
            with self.subTest(document=str(document)[:80]):
                status, _, err = self.run_with(document)
                self.assertEqual((status, err.count("\n")), (2, 1), err)
                self.assertTrue(err.startswith(line), err)
        with tempfile.TemporaryDirectory() as folder:
            status, _, err = self.run_here("--config", folder + "/none.json")
            self.assertEqual(status, 2)
            self.assertRegex(err, r"none.json: cannot be read as JSON: .*No such file.*\n$")

    def test_may_begin_with_a_byte_order_mark(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "config.json")
            path.write_text(json.dumps(SAMPLE), encoding="utf-8-sig")
            self.assertEqual(len(simulator.load(path, None)), len(SAMPLE["services"]))

    def test_has_an_address_to_which_a_path_can_be_added(self):
        for good, addresses in {
            True: (
                *("http://localhost", "https://[::1]:8000/", "http://a-b.example:1/x/%20/y"),
                "http://127.0.0.1:8000",
            ),
            False: (
                *("localhost:8000", "ftp://localhost", "http://", "http://h/?a=b", "http://h/#a"),
                *("http://h?a", "http://user@h", "http://h/a b", "http://año", "", 7, None),
            ),
        }.items():
            for address in addresses:
                with self.subTest(address):
                    document = json.dumps({**SAMPLE, "simulator": {"url": address}})
                    with mock.patch.object(pathlib.Path, "read_text", return_value=document):
                        try:
                            simulator.load(pathlib.Path("config.json"), None)
                        except simulator.ConfigError as error:
                            self.assertFalse(good, error)
                        else:
                            self.assertTrue(good)

    def test_may_have_services_that_log_by_themselves(self):
        config = {**SAMPLE, "services": {**SAMPLE["services"], "own": {"token": "t"}}}
        said = io.StringIO()
        with (
            mock.patch.object(pathlib.Path, "read_text", return_value=json.dumps(config)),
            contextlib.redirect_stderr(said),
        ):
            services = simulator.load(pathlib.Path("config.json"), None)
        self.assertEqual([service.name for service in services], list(SAMPLE["services"]))
        self.assertEqual(said.getvalue(), "left out, since it has only a token: own\n")

    def test_an_address_of_the_command_line_that_is_none_is_blamed_there(self):
        status, _, err = self.run_here("--url", "localhost:8000")
        self.assertEqual(status, 2)
        self.assertRegex(err, r'^--url: must be an address such as "http://.*"\n$')

    def test_a_range_has_two_numbers_in_order_neither_below_0_nor_without_end(self):
        for good, ranges in {
            True: ([0, 0], [1, 2.5]),
            False: ([2, 1], [-1, 1], [0, float("inf")], [1], [1, 2, 3], [True, 1], "12", None),
        }.items():
            for value in ranges:
                with self.subTest(value):
                    self.assertIs(simulator.is_range(value, int, float), good)

    def test_a_speed_that_is_none_is_refused(self):
        for speed in ("0", "-1", "nan", "fast"):
            with self.subTest(speed):
                status, _, err = self.run_here("--speed", speed, "--config", "absent.json")
                self.assertEqual(status, 2)
                self.assertIn("--speed", err)


class AnOlderPython(support.OlderPythonTests):
    program = "simulator.py"


if __name__ == "__main__":
    unittest.main()
