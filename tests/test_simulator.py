"""The simulator: each record exactly once whatever befalls the server, and the truth about what was not delivered."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
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
from unittest import mock

import simulator
from tests.support import ROOT, Json, Server, eventually

CONFIG = json.loads((ROOT / "config.json").read_text(encoding="utf-8"))
NOTHING = simulator.Outcome(0, "no answer")
STORED = simulator.Outcome(200, "", accepted=True)


def command(*arguments: str, give_up_after: float) -> list[str]:
    """The simulator as a process of its own, with less patience where a test has no minute."""
    program = f"import sys, simulator; simulator.GIVE_UP_AFTER_SECONDS = {give_up_after}; sys.exit(simulator.main())"
    return [sys.executable, "-c", program, *arguments]


def simulate(*arguments: str, give_up_after: float = 60) -> tuple[int, str, str]:
    """Runs the simulator to its end; exit status, stdout, stderr."""
    line = command(*arguments, give_up_after=give_up_after)
    done = subprocess.run(line, cwd=ROOT, capture_output=True, timeout=60, encoding="utf-8")
    return done.returncode, done.stdout, done.stderr


def start(case: unittest.TestCase, *arguments: str) -> subprocess.Popen[str]:
    """Starts the simulator; it does not outlive the test."""
    line, pipe = command(*arguments, give_up_after=60), subprocess.PIPE
    process = subprocess.Popen(line, cwd=ROOT, stdout=pipe, stderr=pipe, encoding="utf-8")
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
    return dict(zip(simulator.COLUMNS, map(int, find("^total +(.*)$", out)[1].split()), strict=True))


def sample_server() -> Server:
    """A server with the sample configuration."""
    return Server(config={**CONFIG, "server": {**CONFIG["server"], "port": 0}})


@contextlib.contextmanager
def no_server():
    """An address at which no one listens, nor will meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def listener(serve):
    """A TCP server that hands each connection, and the one request on it, to `serve`; gives its address."""

    def one(connection: socket.socket) -> None:
        with connection:
            serve(connection, receive_request(connection))

    def accept() -> None:
        with contextlib.suppress(OSError):  # shut down: the test is over
            while True:
                threading.Thread(target=one, args=[listening.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        with contextlib.suppress(OSError):  # some systems refuse it, and wake the accept by the close alone
            listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


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
    def assert_each_once(self, server: Server, out: str) -> None:
        """What the simulator says it delivered is what the server counts and what the database holds."""
        delivered = totals(out)["delivered"]
        self.assertEqual(server.get("/stats").json["total"], delivered)
        self.assertEqual(server.sql("SELECT count(*) FROM logs"), [(delivered,)])
        numbers = "SELECT DISTINCT service, json_extract(attributes, '$.number') FROM logs"
        self.assertEqual(len(server.sql(numbers)), delivered)

    def test_delivers_what_the_configuration_asks_for_and_says_how_many(self):
        with sample_server() as server:
            status, out, err = simulate("--url", server.url, "--speed", "50")
            self.assertEqual((status, err), (0, ""))
            self.assert_each_once(server, out)
            table, stats = totals(out), server.get("/stats").json
            self.assertEqual((table["failed"], table["retries"], table["replayed"]), (0, 0, 0))
            for severity in simulator.SEVERITIES:
                self.assertEqual(table[severity], stats["by_severity"].get(severity, 0), severity)
            for name, service in CONFIG["services"].items():
                least, most = service["iterations"]
                self.assertTrue(least <= stats["by_service"][name] <= most, name)
            number, path = find(r"^(\d+) records delivered, each exactly once: http://[^/]+(\S+)$", out).groups()
            self.assertEqual(int(number), table["delivered"])
            self.assertEqual(server.get(path).json["total"], table["delivered"])

    def test_sends_the_messages_of_the_configuration_with_the_time_of_the_event(self):
        before = time.time() * 1e6
        with sample_server() as server:
            simulate("--url", server.url, "--speed", "50")
            known = {(n, log["severity"], log["message"]) for n, s in CONFIG["services"].items() for log in s["logs"]}
            for record in server.get("/logs?limit=0").json:
                self.assertIn((record["service"], record["severity"], record["message"]), known)
            self.assertEqual(server.sql("SELECT count(*) FROM logs WHERE timestamp < ?", before), [(0,)])
            self.assertEqual(server.sql("SELECT count(*) FROM logs WHERE timestamp > received_at"), [(0,)])

    def test_one_seed_sends_the_same_messages_twice_and_both_times_they_are_stored(self):
        with sample_server() as server:
            outs = [simulate("--url", server.url, "--speed", "50", "--seed", "7")[1] for _ in range(2)]
            self.assertEqual(totals(outs[0]), totals(outs[1]))
            groups = "SELECT count(*) FROM logs GROUP BY service, message, json_extract(attributes, '$.number')"
            self.assertEqual(set(server.sql(groups)), {(2,)})
            self.assertEqual(server.sql("SELECT count(*) FROM logs"), [(2 * totals(outs[0])["delivered"],)])

    def test_delivers_each_record_once_through_a_crash_and_a_restart_of_the_server(self):
        with sample_server() as server:
            process = start(self, "--url", server.url, "--speed", "8")
            for name, records in (("SIGKILL", 10), ("SIGTERM", 40)):
                eventually(lambda least=records: server.sql("SELECT count(*) FROM logs")[0][0] >= least)
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
            status, out, _ = simulate("--url", url, "--speed", "50")
            self.assertEqual(status, 0, out)
            self.assertEqual(set(tries.values()), {2})
            table = totals(out)
            self.assertEqual([table[c] for c in ("planned", "retries", "replayed")], [len(tries)] * 3)
            self.assert_each_once(server, out)


class WhatWasNotDelivered(unittest.TestCase):
    def test_is_counted_when_no_server_answers(self):
        with no_server() as url:
            status, out, err = simulate("--url", url, "--speed", "100", give_up_after=0.3)
        table = totals(out)
        self.assertEqual((status, table["delivered"], table["failed"]), (1, 0, table["planned"]))
        find(f"^{table['planned']} of {table['planned']} records were not delivered$", err)
        find(rf"no answer from {url} \(.*\): is server.py running there\?$", err)

    def test_is_counted_when_the_server_refuses_one_service(self):
        services = {**CONFIG["services"], "pagos": {**CONFIG["services"]["pagos"], "token": "not-known"}}
        with sample_server() as server, tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "config.json")
            path.write_text(json.dumps({**CONFIG, "services": services}), encoding="utf-8")
            status, out, err = simulate("--config", str(path), "--url", server.url, "--speed", "50")
            table = totals(out)
            self.assertEqual((status, table["retries"]), (1, 0))
            find(f"^{table['failed']} of {table['planned']} records were not delivered$", err)
            find(f"^  {table['failed']}: HTTP 401: .+$", err)
            self.assertEqual(server.sql("SELECT count(*) FROM logs"), [(table["delivered"],)])
            self.assertEqual(server.sql("SELECT count(*) FROM logs WHERE service = 'pagos'"), [(0,)])


@unittest.skipIf(sys.platform == "win32", "no such signals between processes")
class ASignal(unittest.TestCase):
    def stopped(self, process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
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
                self.assertRegex(process.stdout.readline(), "^waiting: no answer")
                status, out, _ = self.stopped(process, number)
                self.assertEqual((status, totals(out)["delivered"]), (expected, 0))

    def test_stops_it_between_records_and_what_it_says_it_delivered_is_stored(self):
        with sample_server() as server:
            process = start(self, "--url", server.url, "--speed", "1")
            eventually(lambda: server.get("/stats").json["total"] >= 4)
            status, out, err = self.stopped(process, signal.SIGINT)
            table = totals(out)
            self.assertEqual(status, 130)
            find(f"^{table['planned'] - table['delivered']} of {table['planned']} records were not delivered$", err)
            self.assertEqual(server.sql("SELECT count(*) FROM logs"), [(table["delivered"],)])


class Clock(threading.Event):
    """Stands in for the Event `stop` and for the module time: who waits, moves it on."""

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
        service = simulator.Service("app", "token", (1, 1), (0, 0), [])
        self.thread = simulator.ServiceThread(service, "http://server", "run", 1, 1.0, self.clock)

    def deliver(self, answers) -> tuple[simulator.Outcome, list[mock._Call]]:
        """Delivers one record to a server that answers so; the last outcome, and what each try sent."""
        self.clock.pauses.clear()
        with mock.patch("simulator.post", side_effect=answers) as post, mock.patch("simulator.time", self.clock):
            outcome = self.thread.deliver({"message": "m"})
        return outcome, post.call_args_list

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
                    self.assertEqual(len(self.deliver([simulator.Outcome(status, ""), STORED])[1]), tries)

    def test_pauses_longer_and_longer_up_to_a_bound_and_never_in_step(self):
        many = []
        for _ in range(100):
            self.deliver([NOTHING] * 12 + [STORED])
            many.append(list(self.clock.pauses))
        for number, pauses in enumerate(zip(*many, strict=True)):
            bound = min(simulator.FIRST_PAUSE_SECONDS * 2**number, simulator.LONGEST_PAUSE_SECONDS)
            self.assertLessEqual(max(pauses), bound)
            self.assertGreater(max(pauses), bound / 2)
            self.assertLess(min(pauses), bound / 2)

    def test_waits_at_least_as_long_as_the_server_asks(self):
        self.deliver([simulator.Outcome(429, "", retry_after=7), STORED])
        self.assertGreaterEqual(self.clock.pauses[0], 7)

    def test_ends_at_once_where_the_server_asks_for_more_time_than_there_is(self):
        outcome, tries = self.deliver([simulator.Outcome(503, "", retry_after=3600), STORED])
        self.assertEqual((outcome.status, len(tries)), (503, 1))

    def test_ends_after_a_minute_and_until_the_server_is_back_a_record_gets_one_try(self):
        began = self.clock.now
        outcome, tries = self.deliver(itertools.repeat(NOTHING))
        self.assertEqual(outcome, NOTHING)
        self.assertGreater(len(tries), simulator.GIVE_UP_AFTER_SECONDS / simulator.LONGEST_PAUSE_SECONDS)
        self.assertLessEqual(self.clock.now - began, simulator.GIVE_UP_AFTER_SECONDS)
        self.clock.now += simulator.LONGEST_PAUSE_SECONDS
        self.assertEqual(len(self.deliver(itertools.repeat(NOTHING))[1]), 1)
        self.assertEqual(self.deliver([STORED])[0], STORED)
        self.assertEqual(self.deliver([NOTHING, NOTHING, STORED])[0], STORED)


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
                self.assertEqual(simulator.read_outcome(status, {}, body).accepted, accepted)

    def test_that_refuses_is_told_with_its_reason_and_its_hint(self):
        body = json.dumps({"error": "The token is not known.", "hint": "See config.json."}).encode()
        reason = simulator.read_outcome(401, {}, body).reason
        self.assertEqual(reason, "HTTP 401: The token is not known. See config.json.")

    def test_says_how_long_to_wait_in_seconds(self):
        for value, seconds in [("2", 2), ("0", 0), ("soon", 0), ("-1", 0), ("", 0)]:
            with self.subTest(value=value):
                self.assertEqual(simulator.read_outcome(429, {"Retry-After": value}, b"").retry_after, seconds)

    def test_that_redirects_is_not_followed(self):
        answer = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
        with listener(lambda client, _: client.sendall(answer)) as url:
            self.assertEqual(simulator.post(url, "token", "key", b"{}").status, 302)

    def test_that_is_cut_off_or_is_not_http_is_none(self):
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"SSH-2.0-OpenSSH_9.2\r\n"):
            with self.subTest(answer=answer), listener(lambda client, _, sent=answer: client.sendall(sent)) as url:
                self.assertEqual(simulator.post(url, "token", "key", b"{}").status, 0)


class TheConfiguration(unittest.TestCase):
    def run_with(self, document: Json) -> tuple[int, str, str]:
        """Runs the simulator with a configuration file of this content; its path is cut out of stderr."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "config.json")
            path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
            status, out, err = simulate("--config", str(path))
            return status, out, err.replace(f"{path}: ", "")

    def test_with_mistakes_has_all_of_them_named_with_their_place(self):
        good = {"severity": "INFO", "message": "m", "weight": 1}
        bad = {"severity": "info", "message": " ", "weight": 0}
        document = {
            "simulator": {"url": "localhost:8000", "speed": 2},
            "services": {
                "a": {"token": "two words", "iterations": [3, 2], "delay_seconds": [True, 1], "logs": [], "x": 1},
                "b": {"token": "b", "iterations": [1.5, 2], "delay_seconds": [-1, 1], "logs": [good, 3, {}]},
                "c": {"token": "c", "iterations": [1, 2], "delay_seconds": "0.1", "logs": [bad]},
                "d": [],
            },
        }
        status, out, err = self.run_with(document)
        self.assertEqual((status, out), (2, ""))
        places = """simulator.speed simulator.url
            services.a.x services.a.token services.a.iterations services.a.delay_seconds services.a.logs
            services.b.iterations services.b.delay_seconds services.b.logs[1]
            services.b.logs[2].severity services.b.logs[2].message services.b.logs[2].weight
            services.c.delay_seconds
            services.c.logs[0].severity services.c.logs[0].message services.c.logs[0].weight
            services.d"""
        self.assertEqual([line.split(": ")[0] for line in err.splitlines()], places.split())
        said = "services.a.iterations: must be two whole numbers, least and most, such as [10, 20], not [3, 2]"
        self.assertIn(said, err.splitlines())

    def test_that_cannot_be_used_at_all_is_one_line(self):
        for document, line in [
            ("{", "not JSON: "),
            ("[]", "must be a JSON object"),
            ({"simulator": CONFIG["simulator"]}, "services: must be an object"),
            ({**CONFIG, "services": {"own": {"token": "t"}}}, "services: must be an object"),
        ]:
            with self.subTest(document=document):
                status, _, err = self.run_with(document)
                self.assertEqual((status, err.count("\n")), (2, 1), err)
                self.assertTrue(err.startswith(line), err)
        with tempfile.TemporaryDirectory() as folder:
            status, _, err = simulate("--config", folder + "/none.json")
            self.assertEqual(status, 2)
            self.assertRegex(err, r"none.json: can't be read: .*\n$")

    def test_may_have_services_that_log_by_themselves(self):
        config = {**CONFIG, "services": {**CONFIG["services"], "own": {"token": "t"}}}
        with mock.patch.object(pathlib.Path, "read_text", return_value=json.dumps(config)):
            _, services = simulator.load(pathlib.Path("config.json"), None)
        self.assertEqual([service.name for service in services], list(CONFIG["services"]))

    def test_of_the_sample_has_every_severity_in_each_of_four_services(self):
        self.assertEqual(list(CONFIG["services"]), ["pagos", "pedidos", "usuarios", "chat_atencion"])
        for name, service in CONFIG["services"].items():
            with self.subTest(service=name):
                self.assertEqual({log["severity"] for log in service["logs"]}, set(simulator.SEVERITIES))


if __name__ == "__main__":
    unittest.main()
