"""The page that a browser shows, in a real Chromium.

    python -m unittest discover -s tests/integration -p test_browser.py

Chromium is driven by chromedriver, over the HTTP of https://www.w3.org/TR/webdriver2/. Without
these two programs the tests are skipped. To look at the page as a test left it:
`browser.picture("page.png")`.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import http.server
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import unittest
import urllib.parse
from collections.abc import Iterator
from typing import Any

import server
from tests.support import OTHER_TOKEN, READER, SHIPPER, Server, eventually

PROGRAMS = {
    "chromium": shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome"),
    "chromedriver": shutil.which("chromedriver"),
}
ARGUMENTS = [
    "--headless=new",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK, PHONE = (1280, 800), (360, 740)  # pixels
KEYS = {
    "Tab": "\ue004", "Enter": "\ue007", "ArrowLeft": "\ue012", "Escape": "\ue00c", "Space": " ",
}
SEVERITIES = ["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that WebDriver gives to a reference

# Parts of the page, for the script that a test evaluates in it.
ROWS = "[...document.querySelectorAll('#list > details')]"
MESSAGES = f"{ROWS}.map(row => row.querySelector('summary span').textContent)"
BARS = "[...document.querySelectorAll('#bars a')]"
NOTICE = "document.querySelector('#notice').textContent"
STATE = "document.querySelector('#state').textContent"
CAPTION = "document.querySelector('#caption').textContent"
HIDDEN = "getComputedStyle(document.querySelector('#list')).visibility === 'hidden'"
LATER = "document.querySelector('#later').textContent"
MARKS = "[...document.querySelectorAll('summary mark')].map(mark => mark.textContent)"
LOADED = "document.querySelector('#list').ariaBusy === 'false'"
COUNTED = "document.querySelector('form nav small:not(:empty)')"
CHIPS = "[...document.querySelectorAll('form nav label:not([title])')]"


def chip(name: str, value: str) -> str:
    """The selector of a chip."""
    return f"[id='{name}={value}']"


class Browser:
    """A Chromium without a window, with a profile of its own."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()
        folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        profile = self._closing.enter_context(folder)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.path = ""
        command = [PROGRAMS["chromedriver"], f"--port={self.port}"]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._closing.callback(driver.wait, 20)
        self._closing.callback(driver.terminate)
        eventually(self._answers)
        arguments = [*ARGUMENTS, f"--user-data-dir={profile}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium refuses to run as root with it
        options = {"args": arguments, "binary": PROGRAMS["chromium"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.path = f"/session/{session['sessionId']}"
        self._closing.callback(self._call, "DELETE", "")

    def close(self) -> None:
        self._closing.close()

    def _answers(self) -> bool:
        try:
            return self._call("GET", "/status")["ready"]
        except OSError:
            return False

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            sent = json.dumps(body or {}) if method == "POST" else None
            connection.request(method, self.path + path, sent, {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        if isinstance(value, dict) and "stacktrace" in value:
            raise RuntimeError(value["message"])
        return value

    def command(self, name: str, **parameters: Any) -> Any:
        """Calls the browser itself: https://chromedevtools.github.io/devtools-protocol/."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def back(self) -> None:
        self._call("POST", "/back")

    def look(self, size: tuple[int, int] = DESK, scheme: str = "light") -> None:
        """Sets the size of the window, and whether the reader likes it light or dark."""
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **screen)
        self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        return self._call("POST", "/execute/sync", {"script": f"return {expression}", "args": []})

    def until(self, expression: str) -> Any:
        """Waits until an expression is true in the page, and gives what it gave."""

        def attempt() -> Any:
            # A page that is just coming has not all its parts.
            with contextlib.suppress(RuntimeError):
                return self.value(expression)

        try:
            return eventually(attempt, 10)
        except AssertionError:
            text = self.value("document.body.innerText")
            raise AssertionError(
                f"not within 10 s: {expression}\nThe page shows:\n{text}"
            ) from None

    def _element(self, selector: str) -> str:
        self.until(f"document.querySelector({json.dumps(selector)})")
        return self._call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector: str) -> None:
        try:
            self._call("POST", f"/element/{self._element(selector)}/click")
        except RuntimeError as error:  # The page has just put another in its place.
            if "stale element" not in str(error):
                raise
            self.click(selector)

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"/element/{self._element(selector)}/value", {"text": text})

    def press(self, *names: str) -> None:
        """Presses keys, one after the other, wherever the focus is."""
        keys = [KEYS.get(name, name) for name in names]
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call(
            "POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        )

    def drag(self, start: str, end: str) -> None:
        """Presses the mouse on one element and releases it on another."""
        origins = [{ELEMENT: self._element(selector)} for selector in (start, end)]
        moves = [{"type": "pointerMove", "origin": origin, "x": 0, "y": 0} for origin in origins]
        down = {"type": "pointerDown", "button": 0}
        up = {"type": "pointerUp", "button": 0}
        actions = [moves[0], down, moves[1], up]
        mouse = {"type": "pointer", "id": "mouse", "actions": actions}
        self._call("POST", "/actions", {"actions": [mouse]})

    def run(self, script: str) -> None:
        """Runs statements in the page."""
        self._call("POST", "/execute/sync", {"script": script, "args": []})

    def copied(self, selector: str) -> str:
        """What a button puts on the clipboard."""
        listen = "text => window.copied = text"
        self.run(f"window.copied = null; navigator.clipboard.writeText = {listen}")
        self.click(selector)
        return self.until("window.copied")

    def console(self) -> list[str]:
        """What the console has shown since it was last asked, but for answers that are no 200."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["source"] != "network"]

    def picture(self, path: str | pathlib.Path) -> None:
        pathlib.Path(path).write_bytes(base64.b64decode(self._call("GET", "/screenshot")))


@contextlib.contextmanager
def prefix_proxy(target: Server, prefix: str) -> Iterator[int]:
    """A proxy that serves a server under a path, like one before many services; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix(prefix)
            connection = target.connection()
            with contextlib.closing(connection), contextlib.suppress(OSError):
                connection.request("GET", path, headers=dict(self.headers))
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                while piece := answer.read1():
                    self.wfile.write(piece)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy.server_port
        proxy.shutdown()
        thread.join()


browser: Browser


def setUpModule() -> None:
    global browser  # noqa: PLW0603  # one for all tests: it takes a second to start
    absent = [name for name, path in PROGRAMS.items() if not path]
    if absent:
        raise unittest.SkipTest(f"not installed: {', '.join(absent)}")
    browser = Browser()
    unittest.addModuleCleanup(browser.close)


def luminance(color: list[float]) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance, of red, green and blue from 0 to 1."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def rgba(text: str) -> list[float]:
    """The parts of `rgb(0, 0, 0)`, `rgba(0, 0, 0, 0.5)` or `color(srgb 0 0 0 / 0.5)`,
    from 0 to 1."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", text)]
    scale = 1 if text.startswith("color") else 255
    return [*(number / scale for number in numbers[:3]), *(numbers[3:] or [1.0])]


class Page(unittest.TestCase):
    settings: dict[str, Any] = {}  # of the server

    def setUp(self) -> None:
        self.server = self.enterContext(Server(**self.settings))
        self.addCleanup(browser.open, "about:blank")
        browser.open("about:blank")
        browser.look()
        browser.console()

    def open(self, path: str = "/") -> None:
        browser.open(self.server.url + path)

    def store(self, *records: Any, token: str = SHIPPER) -> None:
        """Stores records: messages, or whole ones,
        of the service "app" unless they name another."""
        named = [{"message": record} if isinstance(record, str) else record for record in records]
        answer = self.server.post([{"service": "app", **record} for record in named], token)
        self.assertEqual(answer.status, 200, answer.text)

    def store_hours(self) -> None:
        """One record an hour for a day, an ERROR at 13:00 and INFO else."""
        self.store(
            *(
                {
                    "timestamp": f"2026-03-05T{hour:02}:00:00Z",
                    "severity": "ERROR" if hour == 13 else "INFO",
                    "message": f"at {hour}",
                }
                for hour in range(24)
            )
        )

    def query(self) -> list[tuple[str, str]]:
        """The filters in the address bar."""
        return urllib.parse.parse_qsl(urllib.parse.urlsplit(browser.value("location.href")).query)

    def assert_quiet(self) -> None:
        """Nothing in the console: above all, nothing that the
        Content-Security-Policy had to stop."""
        self.assertEqual(browser.console(), [])


class Records(Page):
    def test_the_newest_records_come_first_each_coloured_by_its_severity(self) -> None:
        self.store(*({"message": name, "severity": name} for name in reversed(SEVERITIES)))
        self.open()
        self.assertEqual(browser.until(f"{ROWS}.length === 5 && {MESSAGES}"), SEVERITIES)
        self.assertEqual(
            browser.value(f"{ROWS}.map(row => row.querySelector('b').textContent)"), SEVERITIES
        )
        self.assertEqual(
            len(set(browser.value(f"{ROWS}.map(row => getComputedStyle(row).borderLeftColor)"))), 5
        )
        self.assert_quiet()

    def test_a_time_is_local_and_its_title_is_the_exact_time_in_utc(self) -> None:
        self.store({"timestamp": "2026-03-05T13:00:00.123456Z", "message": "m"})
        self.open()
        title = browser.until(f"{ROWS}[0].querySelector('time').title")
        self.assertTrue(title.startswith("2026-03-05T13:00:00.123456Z"), title)
        local = browser.value("new Date('2026-03-05T13:00:00Z').toTimeString().slice(0, 8)")
        self.assertIn(
            f" {local}.123", browser.value(f"{ROWS}[0].querySelector('time').textContent")
        )

    def test_older_pages_follow_without_a_gap_or_a_repetition(self) -> None:
        self.store(*(f"number {n}" for n in range(250)))
        self.open()
        browser.until(f"{ROWS}.length === 100")
        browser.click("#more")
        browser.until(f"{ROWS}.length === 200")
        browser.click("#more")
        browser.until(f"{ROWS}.length === 250")
        self.assertEqual(browser.value(MESSAGES), [f"number {n}" for n in range(249, -1, -1)])
        self.assertTrue(browser.value("document.querySelector('#more').hidden"))

    def test_a_record_opens_to_its_whole_message_and_its_attributes(self) -> None:
        self.store(
            {
                "message": "first\n  second\n\tthird",
                "user": "bob",
                "cart": {"items": [1, 2]},
                "none": None,
                "number": 2**60 + 1,
            }
        )
        self.open()
        self.assertEqual(browser.until(MESSAGES), ["first"])
        self.assertEqual(browser.value(f"{ROWS}[0].querySelector('small').textContent"), " 3 lines")
        browser.click("#list summary")
        self.assertEqual(
            browser.until(f"{ROWS}[0].querySelector('pre').textContent"), "first\n  second\n\tthird"
        )
        names = browser.value(
            f"[...{ROWS}[0].querySelectorAll('dt')].map(term => term.textContent)"
        )
        values = browser.value(
            f"[...{ROWS}[0].querySelectorAll('dd')].map(term => term.textContent)"
        )
        fields = dict(zip(names, values))
        self.assertEqual(fields["attr.number"], f"{2**60 + 1} ≠")
        self.assertEqual(
            (fields["id"], fields["attr.user"], fields["attr.none"]), ("1", "bob ≠", "null ≠")
        )
        self.assertEqual(json.loads(fields["attr.cart"]), {"items": [1, 2]})

    def test_an_attribute_leads_to_the_records_that_share_it(self) -> None:
        self.store(
            *(
                {"message": f"of {user} {n}", "user": user}
                for n in (1, 2)
                for user in ("ann", "bob")
            )
        )
        self.open()
        browser.click("#list summary")
        browser.click("#list dd a[href*='attr.user']")
        self.assertEqual(
            browser.until(f"{ROWS}.length === 2 && {MESSAGES}"), ["of bob 2", "of bob 1"]
        )
        self.assertEqual(self.query(), [("attr.user", "bob")])
        browser.click(chip("not_attr.user", "bob"))
        self.assertEqual(
            browser.until(f"{MESSAGES}[0] === 'of ann 2' && {MESSAGES}"), ["of ann 2", "of ann 1"]
        )
        self.assertEqual(self.query(), [("not_attr.user", "bob")])
        browser.click(chip("not_attr.user", "bob"))
        browser.until(f"{ROWS}.length === 4")

    def test_html_in_a_message_is_text_and_none_of_it_runs(self) -> None:
        hostile = (
            "<img src=x onerror='window.hit = 1'><script>window.hit = 1</script></script>"
            "<b>bold</b>"
        )
        self.store(
            {
                "message": hostile,
                "service": hostile,
                hostile: hostile,
                "link": "javascript:window.hit = 1",
            }
        )
        self.open()
        self.assertEqual(browser.until(MESSAGES), [hostile])
        browser.click("#list summary")
        self.assertEqual(browser.until(f"{ROWS}[0].querySelector('pre').textContent"), hostile)
        browser.until(
            f"document.querySelector('#services').textContent.includes({json.dumps(hostile)})"
        )
        self.assertEqual(
            browser.value(
                "document.querySelectorAll('img, main script, main b b, form nav b').length"
            ),
            0,
        )
        self.assertIsNone(browser.value("window.hit"))
        self.assert_quiet()


class Filters(Page):
    def test_the_filters_of_the_url_are_set_and_in_force(self) -> None:
        self.store(
            *({"message": f"{name} {n}", "severity": name} for name in SEVERITIES for n in range(3))
        )
        self.store({"message": "ERROR 1 elsewhere", "severity": "ERROR", "service": "web"})
        self.open("/?severity=ERROR&severity=CRITICAL&service=app&contains=+1&since=1h")
        self.assertEqual(
            browser.until(f"{ROWS}.length === 2 && {MESSAGES}.sort()"), ["CRITICAL 1", "ERROR 1"]
        )
        checked = browser.value(
            "[...document.querySelectorAll('form nav :checked')].map(chip => chip.id)"
        )
        self.assertEqual(checked, ["severity=CRITICAL", "severity=ERROR", "service=app"])
        self.assertEqual(browser.value("document.querySelector('#contains').value"), " 1")
        self.assertEqual(browser.value("document.querySelector('[name=since]').value"), "1h")

    def test_what_a_reader_types_into_the_address_by_hand_is_understood(self) -> None:
        self.store({"message": "bad", "severity": "ERROR", "user": ""}, "good")
        today = datetime.datetime.now(datetime.timezone.utc).date()
        for query, shown in (
            ("severity=error", ["bad"]),
            ("severity=error,info&limit=1", ["good"]),
            ("limit=0", ["good", "bad"]),
            ("order=asc&limit=10", ["bad", "good"]),
            ("follow=1&format=csv&after=0", ["good", "bad"]),
            ("attr.user=", ["bad"]),
        ):
            with self.subTest(query):
                self.open(f"/?{query}")
                found = browser.until(f"{LOADED} && {COUNTED} && {MESSAGES}")
                self.assertEqual((found, browser.value(NOTICE)), (shown, ""))
        browser.click(chip("severity", "ERROR"))  # What is in force stays so.
        browser.until("location.search.includes('severity=ERROR')")
        self.assertIn(("severity", "ERROR"), self.query())
        self.assertIn("attr.user=", browser.value("location.search"))
        self.open(f"/?timestamp_end={today}")
        browser.until(f"{ROWS}.length === 2")
        self.store("of today")
        browser.until(f"{ROWS}.length === 3")

    def test_a_filter_goes_into_the_url_and_back_takes_it_out_again(self) -> None:
        self.store(
            {"message": "bad", "severity": "ERROR"}, {"message": "good"}, {"message": "bad news"}
        )
        self.open()
        browser.until(f"{ROWS}.length === 3")
        browser.value("window.same = true")
        browser.click(chip("severity", "ERROR"))
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["bad"])
        self.assertEqual(self.query(), [("severity", "ERROR")])
        browser.click(chip("severity", "INFO"))
        browser.until(f"{ROWS}.length === 3")
        browser.type("#contains", "news" + KEYS["Enter"])
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["bad news"])
        self.assertEqual(
            sorted(self.query()),
            [("contains", "news"), ("severity", "ERROR"), ("severity", "INFO")],
        )
        browser.back()
        browser.until(f"{ROWS}.length === 3")
        self.assertEqual(browser.value("document.querySelector('#contains').value"), "")
        browser.back()
        browser.back()
        browser.until(f"{ROWS}.length === 3 && !document.querySelector('form nav :checked')")
        self.assertEqual(self.query(), [])
        browser.click(chip("severity", "ERROR"))
        browser.until(f"{ROWS}.length === 1")
        browser.click("h1 a")
        browser.until(f"{ROWS}.length === 3")
        self.assertTrue(browser.value("window.same"), "the page was loaded anew")

    def test_each_service_has_its_count_and_is_a_filter(self) -> None:
        self.store(*["m"] * 3)
        self.store(*[{"message": "m", "service": "web"}] * 2, token=OTHER_TOKEN)
        self.open()
        counts = f"{CHIPS}.slice(5).map(chip => chip.textContent)"
        self.assertEqual(browser.until(f"{COUNTED} && {counts}"), ["app 3", "web 2"])
        browser.click(chip("service", "web"))
        browser.until(f"{ROWS}.length === 2")
        self.assertEqual(browser.value(counts), ["app 3", "web 2"])

    def test_filters_without_a_field_of_their_own_can_be_seen_and_taken_out(self) -> None:
        self.store({"message": "bad", "severity": "ERROR"}, {"message": "good"})
        self.open("/?received_at_start=2026-01-01&severity=ERROR&since=2h")
        browser.until(f"{ROWS}.length === 1")
        chips = browser.until(f"{COUNTED} && document.querySelector('form').innerText")
        self.assertIn("received_at_start=2026-01-01", chips)
        self.assertIn("since=2h", chips)
        browser.click(chip("received_at_start", "2026-01-01"))
        browser.click(chip("severity", "ERROR"))
        browser.until(f"{ROWS}.length === 2")
        self.assertEqual(self.query(), [("since", "2h")])

    def test_a_filter_that_cannot_be_says_so_in_the_words_of_the_page(self) -> None:
        self.store("m")
        for query, named in (
            ("since=yesterday", "Time 'yesterday'"),
            ("timestamp_start=soon", "From 'soon'"),
            ("timestamp_end=2026-02-31T00:00:00Z", "Until '2026-02-31T00:00:00Z'"),
            ("severity=LOUD", "severity 'LOUD'"),
            ("colour=blue", "'colour'"),
        ):
            with self.subTest(query):
                self.open(f"/?{query}")
                notice = browser.until(NOTICE)
                self.assertIn(f"Not possible: {named}.", notice)
                self.assertIn("begin again with “Logs”", notice)
                self.assertNotIn("parameter", notice)
                browser.click("h1 a")
                browser.until(f"{ROWS}.length === 1 && {NOTICE} === ''")

    def test_a_bar_of_the_histogram_zooms_into_its_time(self) -> None:
        self.store_hours()
        self.open()
        labels = browser.until(f"{BARS}.length && {BARS}.map(bar => bar.title)")
        self.assertEqual(sum("1 ERROR" in label for label in labels), 1)
        self.assertEqual(sum("1 INFO" in label for label in labels), 23)
        place = next(n for n, label in enumerate(labels, 1) if "1 ERROR" in label)
        self.assertEqual(
            browser.value(f"document.querySelectorAll('#bars a:nth-child({place}) span').length"), 1
        )
        browser.click(f"#bars a:nth-child({place})")
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["at 13"])
        (first, start), (last, end) = sorted(self.query(), reverse=True)
        self.assertEqual((first, last), ("timestamp_start", "timestamp_end"))
        self.assertEqual(start, "2026-03-05T13:00:00.000000Z")
        self.assertRegex(end, r"2026-03-05T13:\d\d:59.999999Z")
        field = "document.querySelector('[name=timestamp_start]').value"
        self.assertEqual(browser.value(f"new Date({field}) - new Date('{start}')"), 0)
        browser.back()
        browser.until(f"{ROWS}.length === 24")

    def test_times_that_lie_centuries_apart_still_give_a_histogram(self) -> None:
        self.store(
            *({"timestamp": f"{year}-12-31T23:59:59Z", "message": "m"} for year in ("0001", "9999"))
        )
        self.open("/?timestamp_end=9999-12-31T23:59:59Z")
        browser.until(f"{BARS}.length > 1 && {ROWS}.length === 2")
        self.assertEqual(browser.value(NOTICE), "")


class Times(Page):
    """The reader's own time in the fields, UTC in the URL."""

    def setUp(self) -> None:
        super().setUp()
        browser.command("Emulation.setTimezoneOverride", timezoneId="America/New_York")
        self.addCleanup(browser.command, "Emulation.setTimezoneOverride", timezoneId="")

    def test_the_fields_are_local_the_url_holds_utc_and_the_caption_names_the_zone(self) -> None:
        self.store_hours()
        self.open("/?timestamp_start=2026-03-05T13:00:00Z")
        browser.until(f"{ROWS}.length === 11 && {BARS}.length")
        fields = "[page.timestamp_start.value, page.timestamp_end.value]"
        self.assertEqual(browser.value(fields), ["2026-03-05T08:00", ""])
        self.assertIn("(America/New_York)", browser.value(CAPTION))
        browser.run("""
            const until = document.querySelector('[name=timestamp_end]');
            until.value = '2026-03-05T10:00';
            until.dispatchEvent(new Event('change', {bubbles: true}));
        """)
        self.assertEqual(
            browser.until(f"{ROWS}.length === 3 && {MESSAGES}"), ["at 15", "at 14", "at 13"]
        )
        times = ["2026-03-05T13:00:00.000Z", "2026-03-05T15:00:00.999999Z"]
        self.assertEqual(
            self.query(), list(zip(("timestamp_start", "timestamp_end"), times))
        )

    def test_a_range_is_chosen_and_takes_the_place_of_the_times(self) -> None:
        self.store("now", {"message": "old", "timestamp": "2020-01-01"})
        self.open("/?timestamp_end=2021-01-01T00:00:00Z")
        self.assertEqual(browser.until(f"{ROWS}.length && {MESSAGES}"), ["old"])
        options = "[...document.querySelector('[name=since]').options].map(one => one.value)"
        self.assertEqual(browser.value(options), ["", "15m", "1h", "6h", "1d", "7d"])
        browser.click("[name=since] option[value='6h']")
        self.assertEqual(browser.until(f"{MESSAGES}[0] === 'now' && {MESSAGES}"), ["now"])
        self.assertEqual(self.query(), [("since", "6h")])
        browser.until(f"{BARS}.length > 70")  # Of all six hours, though one record is there.

    def test_a_drag_over_the_histogram_chooses_a_range_and_a_link_goes_back_out(self) -> None:
        self.store_hours()
        self.open()
        browser.until(f"{ROWS}.length === 24 && {BARS}.length > 40")
        labels = browser.value(f"{BARS}.map(bar => bar.title)")
        hours = [n for n, label in enumerate(labels, 1) if "1 " in label]
        ends = f"#bars a:nth-child({hours[12]})", f"#bars a:nth-child({hours[10]})"
        self.assertTrue(browser.value("document.querySelector('#out').hidden"))
        browser.drag(*ends)
        self.assertEqual(
            browser.until(f"{ROWS}.length === 3 && {MESSAGES}"), ["at 12", "at 11", "at 10"]
        )
        browser.click("#out")
        browser.until(f"{ROWS}.length === 24")
        self.assertEqual(self.query(), [])

    def test_the_axis_has_a_few_times_of_the_reader(self) -> None:
        self.store_hours()
        self.open()
        browser.until(f"{BARS}.length > 40")
        labels = browser.value("[...document.querySelectorAll('#axis *')].map(t => t.textContent)")
        self.assertEqual(len(labels), 5)
        self.assertEqual(labels[0], "03-04 19:00")
        self.assertEqual(labels, sorted(labels))

    def test_a_false_future_is_told_and_does_not_come_first(self) -> None:
        self.store("now", {"message": "later", "timestamp": "2099-01-01"})
        self.open()
        self.assertEqual(browser.until(f"{ROWS}.length && {COUNTED} && {MESSAGES}"), ["now"])
        self.assertEqual(browser.until(LATER), "1 with a later time")
        browser.until(f"{BARS}.length")
        self.assertNotIn("2099", browser.value(CAPTION))
        self.store({"message": "later still", "timestamp": "2099-01-02"}, "now too")
        self.assertEqual(browser.until(f"{ROWS}.length === 2 && {MESSAGES}"), ["now too", "now"])
        browser.until(f"{LATER} === '2 with a later time'")
        browser.click("#later")
        self.assertEqual(
            browser.until(f"{MESSAGES}[0] !== 'now too' && {MESSAGES}"), ["later still", "later"]
        )


class OneRecord(Page):
    """What an open record leads to."""

    def store_minutes(self) -> None:
        self.store(
            *(
                {
                    "timestamp": f"2026-03-05T13:{minute:02}:00Z",
                    "service": "app" if minute % 2 else "web",
                    "severity": "ERROR" if minute == 7 else "INFO",
                    "message": f"minute {minute}",
                }
                for minute in range(20)
            )
        )

    def test_one_minute_around_shows_all_services_and_the_record_itself(self) -> None:
        self.store_minutes()
        self.open("/?severity=ERROR&contains=minute&service=app")
        browser.click("#list summary")
        browser.click("#list nav a")
        around = ["minute 8", "minute 7", "minute 6"]
        self.assertEqual(browser.until(f"{ROWS}.length === 3 && {MESSAGES}"), around)
        self.assertEqual(
            self.query(),
            [
                ("timestamp_start", "2026-03-05T13:06:00.000Z"),
                ("timestamp_end", "2026-03-05T13:08:00.000Z"),
            ],
        )
        browser.until(f"{ROWS}[1].open && {ROWS}[1].querySelector('pre')")

    def test_back_from_the_minute_around_a_record_shows_that_record_open(self) -> None:
        self.store_minutes()
        self.open("/?contains=minute")
        browser.until(f"{ROWS}.length === 20")
        browser.click("#list details:nth-child(16) summary")
        browser.click("#list nav a")
        browser.until(f"{ROWS}.length === 3")
        browser.back()
        browser.until(f"{ROWS}.length === 20 && {ROWS}[15].open")
        place = f"{ROWS}[15].getBoundingClientRect().top"
        browser.until(f"{place} > 0 && {place} < innerHeight")

    def test_the_link_to_a_record_opens_it(self) -> None:
        self.store_minutes()
        self.store(*(f"newer {n}" for n in range(150)))
        self.open("/?contains=minute")
        browser.until(f"{ROWS}.length === 20")
        browser.click("#list details:nth-child(10) summary")
        browser.click("#list nav a:nth-child(2)")
        browser.until(f"{ROWS}.length === 11 && {ROWS}[0].open")
        link = browser.value("location.href")
        self.assertTrue(link.endswith("#11"), link)
        self.open()
        browser.until(f"{ROWS}.length === 100")
        browser.open(link)
        browser.until(f"{ROWS}[0].open && {MESSAGES}[0] === 'minute 10'")
        self.open("/#3")  # It is on none of the first pages.
        browser.until(f"{ROWS}[0].open && {MESSAGES}[0] === 'minute 2'")

    def test_a_link_to_a_record_that_is_not_there_says_so_and_the_others_show(self) -> None:
        self.store("m")
        self.open("/#77")
        text = "document.querySelector('#list').innerText"
        browser.until(f"{text}.startsWith('This record is not there any more.')")
        self.assertEqual(browser.value(f"{ROWS}.length"), 1)
        self.store("another")
        browser.until(f"{ROWS}.length === 2")

    def test_a_record_is_copied_as_it_was_stored(self) -> None:
        self.store({"message": "\x1b[31mred\x1b[0m", "user": "bob"})
        self.open()
        browser.click("#list summary")
        copied = json.loads(browser.copied("#list nav button"))
        self.assertEqual(copied, self.server.get("/logs/1").json)
        label = browser.value("document.querySelector('#list nav button').textContent")
        self.assertEqual(label, "copy as JSON ✓")

    def test_an_attribute_searches_all_services(self) -> None:
        self.store({"message": "one", "trace": "t1"}, {"message": "no", "trace": "t2"})
        self.store({"message": "two", "trace": "t1", "service": "web"})
        self.open("/?service=app")
        browser.until(f"{ROWS}.length === 2")
        browser.click("#list details:nth-child(2) summary")
        browser.click("#list dd a[href*='attr.trace']")
        self.assertEqual(browser.until(f"{MESSAGES}[0] === 'two' && {MESSAGES}"), ["two", "one"])
        browser.click("#list summary")
        browser.click("#list dd a[href*='not_attr.trace']")
        browser.until("location.search.includes('not_attr.trace=t1')")

    def test_the_line_that_holds_the_text_is_shown_and_marked(self) -> None:
        lines = ["Traceback:", "  frame", "TimeOut* of " + "x" * 500, "end"]
        self.store("\n".join(lines), "y" * 300 + " a timeout* here")
        self.open("/?contains=TIMEOUT*")
        self.assertEqual(
            browser.until(f"{ROWS}.length === 2 && {MARKS}"), ["timeout*", "TimeOut*"]
        )
        shown = browser.value(MESSAGES)
        self.assertTrue(shown[1].startswith("TimeOut* of"), shown[1])
        self.assertEqual(shown[0], "…" + "y" * 37 + " a timeout* here")
        size = browser.value(f"{ROWS}[1].querySelector('small').textContent")
        self.assertEqual(size, " 4 lines")
        browser.click("#list details:nth-child(2) summary")
        marked = browser.until(f"{ROWS}[1].querySelector('pre mark').textContent")
        self.assertEqual(marked, "TimeOut*")

    def test_the_row_of_a_traceback_is_what_it_says_at_its_end(self) -> None:
        self.store("Traceback (most recent call last):\n  File 'a.py'\nKeyError: 'id'\n")
        self.open()
        self.assertEqual(browser.until(f"{ROWS}.length && {MESSAGES}"), ["KeyError: 'id'"])

    def test_the_colours_of_a_terminal_are_not_shown(self) -> None:
        link = "\x1b]8;;http://x\x07link\x1b]8;;\x07"
        stored = f"\x1b[32m200\x1b[0m \x1b[1;38;5;9mGET\x1b[K /\x1b[m {link} [0m"
        self.store(stored)
        self.open()
        self.assertEqual(browser.until(f"{ROWS}.length && {MESSAGES}"), ["200 GET / link [0m"])
        browser.click("#list summary")
        text = browser.until(f"{ROWS}[0].querySelector('pre').textContent")
        self.assertEqual(text, "200 GET / link [0m")
        self.assertEqual(self.server.get("/logs/1").json["message"], stored)


class Exclude(Page):
    def store_services(self) -> None:
        services = ("app", "app", "web", "web", "web", "chat")
        self.store(*({"message": f"of {name}", "service": name} for name in services))
        self.store({"message": "bad", "severity": "ERROR", "service": "chat"})

    def test_a_click_beside_a_service_excludes_it_and_another_takes_it_out(self) -> None:
        self.store_services()
        self.open()
        browser.until(f"{ROWS}.length === 7 && {COUNTED}")
        browser.click(chip("service", "web"))
        browser.until(f"{ROWS}.length === 3")
        browser.click(chip("service", "web"))
        browser.until(f"{ROWS}.length === 7")
        browser.click(chip("service", "web"))
        browser.until(f"{ROWS}.length === 3")
        browser.click(chip("not_service", "web"))
        browser.until(f"{ROWS}.length === 4")
        self.assertEqual(self.query(), [("not_service", "web")])
        excluded = browser.value(f"document.querySelector(`{chip('not_service', 'web')}`).checked")
        self.assertTrue(excluded)
        browser.click(chip("service", "chat"))
        browser.until(f"{ROWS}.length === 2")
        browser.back()
        browser.until(f"{ROWS}.length === 4")
        browser.click(chip("not_service", "web"))
        browser.until(f"{ROWS}.length === 7")
        self.assertEqual(self.query(), [])

    def test_a_text_is_excluded_and_taken_out_again(self) -> None:
        self.store_services()
        self.open()
        browser.until(f"{ROWS}.length === 7")
        browser.type("#contains", "OF")
        browser.run("window.same = true")
        browser.click("#exclude")
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["bad"])
        self.assertEqual(self.query(), [("not_contains", "OF")])
        browser.click(chip("not_contains", "OF"))
        browser.until(f"{ROWS}.length === 7")

    def test_a_name_and_a_value_in_the_search_ask_for_an_attribute(self) -> None:
        self.store({"message": "a", "request_id": "c0ffee"}, {"message": "b", "request_id": "b"})
        self.open()
        browser.until(f"{ROWS}.length === 2")
        browser.type("#contains", "attr.request_id=c0ffee\n")
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["a"])
        self.assertEqual(self.query(), [("attr.request_id", "c0ffee")])

    def test_a_search_that_is_emptied_is_over(self) -> None:
        self.store({"message": "a"}, {"message": "b"})
        self.open("/?contains=a")
        browser.until(f"{ROWS}.length === 1")
        browser.run("page.contains.value = ''; page.contains.dispatchEvent(new Event('input'))")
        browser.until(f"{ROWS}.length === 2")
        self.assertEqual(self.query(), [])

    def test_a_click_on_a_chip_keeps_the_text_that_is_being_typed(self) -> None:
        self.store({"message": "bad a", "severity": "ERROR"}, {"message": "a"}, {"message": "b"})
        self.open()
        browser.until(f"{ROWS}.length === 3 && {COUNTED}")
        browser.type("#contains", "a")
        browser.click(chip("severity", "ERROR"))
        browser.until(f"{ROWS}.length === 1")
        self.assertEqual(self.query(), [("severity", "ERROR"), ("contains", "a")])

    def test_a_choice_takes_the_place_of_a_chip_of_the_same_name(self) -> None:
        self.store(*({"message": name, "severity": name} for name in SEVERITIES))
        self.open("/?min_severity=CRITICAL&timestamp_end=2100-01-01")
        browser.until(f"{ROWS}.length === 1")
        browser.click("[name=min_severity] option:nth-child(3)")
        browser.until(f"{ROWS}.length === 3")
        browser.click("[name=since] option[value='1h']")
        browser.until("location.search.includes('since=1h')")
        self.assertEqual(self.query(), [("since", "1h"), ("min_severity", "WARNING")])
        browser.back()
        browser.until("location.search.includes('timestamp_end')")
        browser.until(f"{ROWS}.length === 3")
        browser.click(chip("severity", "INFO"))
        browser.until("location.search.includes('severity=INFO')")
        self.assertEqual(self.query(), [("severity", "INFO"), ("timestamp_end", "2100-01-01")])

    def test_what_somebody_types_into_a_time_stays_while_the_page_shows_another_query(self) -> None:
        self.store("m")
        self.open()
        browser.until(f"{ROWS}.length === 1")
        browser.click("[name=timestamp_end]")
        browser.press("1", "2")
        half = "page.timestamp_end.validity.badInput"
        self.assertTrue(browser.value(half))
        browser.run("location.href = '?since=1h'")
        browser.until("page.since.value === '1h'")
        self.assertTrue(browser.value(half))

    def test_a_comparison_of_an_attribute_is_a_text_as_there_is_none(self) -> None:
        self.store({"message": "m", "status": 503})
        self.open()
        browser.until(f"{ROWS}.length === 1")
        browser.type("#contains", "attr.status>=500" + KEYS["Enter"])
        browser.until(f"{LOADED} && {ROWS}.length === 0")
        self.assertEqual(self.query(), [("contains", "attr.status>=500")])

    def test_no_other_parameter_gets_into_the_field_of_the_token(self) -> None:
        self.store("m")
        self.open("/?token=x")
        self.assertIn("token", browser.until(NOTICE))
        self.assertEqual(browser.value("document.querySelector('#token').value"), "")

    def test_the_least_severity_is_a_control(self) -> None:
        self.store(*({"message": name, "severity": name} for name in SEVERITIES))
        self.open()
        browser.click("[name=min_severity] option:nth-child(3)")
        browser.until(f"{ROWS}.length === 3")
        self.assertEqual(self.query(), [("min_severity", "WARNING")])

    def test_each_group_counts_with_all_filters_but_its_own(self) -> None:
        self.store_services()
        self.open("/?service=chat&severity=ERROR&contains=b")
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        shown = f"{CHIPS}.map(chip => chip.textContent)"
        texts = [re.sub(r"\s+", "", text) for text in browser.value(shown)]
        self.assertEqual(
            texts, ["CRITICAL0", "ERROR1", "WARNING0", "INFO0", "DEBUG0", "chat1"]
        )
        self.open("/?service=chat&min_severity=ERROR")
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        texts = [re.sub(r"\s+", "", text) for text in browser.value(shown)]
        self.assertIn("INFO1", texts)
        browser.click(chip("severity", "INFO"))
        browser.until("location.search.includes('severity=INFO')")
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        self.assertEqual(self.query(), [("severity", "INFO"), ("service", "chat")])
        self.open("/?severity=INFO&service=chat")
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        texts = [re.sub(r"\s+", "", text) for text in browser.value(shown)]
        self.assertCountEqual(texts[5:], ["web3", "app2", "chat1"])

    def test_many_services_leave_the_log_on_the_screen(self) -> None:
        self.store(*({"message": "m", "service": f"service-{n:03}"} for n in range(130)))
        for size in (DESK, PHONE):
            browser.look(size)
            self.open()
            browser.until(f"{ROWS}.length === 100 && {COUNTED} && {BARS}.length")
            services = "document.querySelectorAll('form nav label').length"
            self.assertEqual(browser.until(services), 265)  # A service has two, its name and ≠.
            top = browser.value(f"{ROWS}[0].getBoundingClientRect().top")
            self.assertLess(top, size[1] * 0.6)

    def test_the_head_stays_in_sight_unless_it_would_fill_the_screen(self) -> None:
        self.store(*(f"m{n}" for n in range(100)))
        for size, stays in ((DESK, True), (PHONE, True), (PHONE[::-1], False)):
            browser.look(size)
            self.open()
            browser.until(f"{ROWS}.length === 100 && {COUNTED}")
            browser.run("scrollTo(0, 1500)")
            top = browser.until("scrollY && document.querySelector('#top').getBoundingClientRect()")
            self.assertEqual(top["top"] == 0, stays, size)


class Away(Page):
    """What is taken away from the page."""

    def store_some(self) -> None:
        self.store(*({"message": f"m {n}", "user": "it's"} for n in range(120)), "other")

    def test_the_query_is_there_as_json_csv_and_curl(self) -> None:
        self.store_some()
        self.open("/?contains=M&attr.user=it%27s&limit=7")
        browser.until(f"{ROWS}.length === 7")
        hrefs = browser.value("['json', 'csv'].map(id => document.getElementById(id).href)")
        answers = [self.server.get(href.removeprefix(self.server.url)) for href in hrefs]
        self.assertEqual(len(answers[0].json), 120)
        self.assertEqual(len(answers[1].text.splitlines()), 121)
        command = browser.copied("#curl")
        program, address = shlex.split(command)
        self.assertEqual((program, address), ("curl", hrefs[0]))

    def test_what_is_selected_with_the_mouse_pastes_as_lines(self) -> None:
        self.store(*({"message": f"m {n}", "timestamp": n} for n in range(3)))
        self.open()
        browser.until(f"{ROWS}.length === 3")
        browser.run("getSelection().selectAllChildren(document.querySelector('#list'))")
        lines = browser.value("getSelection().toString()").splitlines()
        self.assertEqual(len(lines), 3)
        for line, n in zip(lines, (2, 1, 0)):
            self.assertRegex(line, rf"^\d{{4}}-\d\d-\d\d .*\.000\tINFO\tapp\tm {n}\s*$")

    def test_a_selection_opens_no_record(self) -> None:
        self.store("something to select")
        self.open()
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        browser.drag("#list time", "#list span")
        self.assertGreater(browser.value("getSelection().toString().length"), 10)
        self.assertFalse(browser.value(f"{ROWS}[0].open"))


class Live(Page):
    def test_a_record_shows_as_soon_as_it_is_stored_and_is_counted(self) -> None:
        self.store("first")
        self.open()
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        self.store("second", "third")
        self.assertEqual(
            browser.until(f"{ROWS}.length === 3 && {MESSAGES}"), ["third", "second", "first"]
        )
        browser.until(
            f"document.querySelector(`{chip('severity', 'INFO')} + small`).textContent === '3'"
        )
        self.assert_quiet()

    def test_only_records_that_match_the_filters_come_in(self) -> None:
        self.open("/?severity=ERROR")
        browser.until(LOADED)
        self.store("no", {"message": "yes", "severity": "ERROR"})
        self.assertEqual(browser.until(f"{ROWS}.length && {MESSAGES}"), ["yes"])

    def test_a_late_record_takes_its_place_by_time(self) -> None:
        self.store_hours()
        self.open()
        browser.until(f"{ROWS}.length === 24")
        self.store({"timestamp": "2026-03-05T20:30:00Z", "message": "late"})
        self.assertEqual(
            browser.until(f"{ROWS}.length === 25 && {MESSAGES}")[2:5], ["at 21", "late", "at 20"]
        )

    def test_live_can_be_switched_off_and_on(self) -> None:
        self.store("first")
        self.open()
        browser.until(f"{ROWS}.length === 1")
        browser.click("#live")
        self.store("second")
        # What is asked for now is shown, what comes later is not.
        browser.click(chip("severity", "INFO"))
        browser.until(f"{ROWS}.length === 2")
        self.store("third")
        self.assertEqual(
            browser.value(f"new Promise(done => setTimeout(() => done({ROWS}.length), 500))"), 2
        )
        browser.click("#live")
        browser.until(f"{ROWS}.length === 3")
        self.store("fourth")
        browser.until(f"{ROWS}.length === 4")

    def test_nothing_moves_while_a_record_is_open(self) -> None:
        self.store("first")
        self.open()
        browser.click("#list summary")
        browser.until(f"{ROWS}[0].open")
        self.store("second")
        self.assertEqual(
            browser.value(f"new Promise(done => setTimeout(() => done({ROWS}.length), 500))"), 1
        )
        self.assertEqual(browser.until(STATE), "show 1 new")
        browser.click("#list summary")
        browser.until(f"{STATE} === ''")
        self.assertEqual(browser.until(f"{ROWS}.length === 2 && {MESSAGES}"), ["second", "first"])
        browser.click("#list summary")
        self.store("third")
        browser.until(f"{STATE} === 'show 1 new'")
        browser.click("#state")
        browser.until(f"{ROWS}.length === 3 && {ROWS}[1].open")

    def test_it_says_that_a_range_ends_in_the_past(self) -> None:
        self.store("m")
        self.open("/?timestamp_end=2026-01-01T00:00:00Z")
        self.assertEqual(browser.until(STATE), "not live: what comes now is not in this list")
        browser.click("h1 a")
        browser.until(f"{ROWS}.length === 1 && {STATE} === ''")

    def test_the_counts_of_what_is_not_in_the_list_grow_too(self) -> None:
        self.store("m", {"message": "m", "service": "web"})
        self.open("/?service=app")
        text = "document.querySelector('form').innerText"
        browser.until(f"{text}.includes('web 1')")
        self.store({"message": "m", "service": "web"})
        browser.until(f"{text}.includes('web 2')")
        self.assertEqual(browser.value(f"{ROWS}.length"), 1)

    def hide(self, is_hidden: bool) -> None:
        """Puts the page out of sight, or back, as far as its script knows."""
        value = json.dumps(is_hidden)
        browser.run(f"""
            Object.defineProperty(document, 'hidden', {{value: {value}, configurable: true}});
            document.dispatchEvent(new Event('visibilitychange'));
        """)

    def test_a_list_that_was_made_longer_stays_while_others_come(self) -> None:
        self.store("first", "second", "third")
        self.open("/?limit=2")
        browser.until(f"{ROWS}.length === 2")
        browser.click("#more")
        browser.until(f"{ROWS}.length === 3")
        self.store("fourth")
        self.assertEqual(browser.until(STATE), "show 1 new")
        self.assertEqual(browser.value(MESSAGES), ["third", "second", "first"])
        browser.click("#state")
        browser.until(f"{ROWS}.length === 2 && {MESSAGES}[0] === 'fourth'")

    def test_the_title_counts_the_errors_that_come_while_the_page_is_out_of_sight(self) -> None:
        self.store({"message": "old", "severity": "ERROR"})
        self.open()
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        self.assertEqual(browser.value("document.title"), "Logs")
        self.hide(True)
        self.store({"message": "new", "severity": "ERROR"}, "m")
        self.store({"message": "worse", "severity": "CRITICAL"})
        eventually(lambda: browser.value("document.title") == "(2) Logs", 30)
        self.hide(False)
        browser.until("document.title === 'Logs'")

    def test_the_address_sets_the_order_and_the_length_of_a_page(self) -> None:
        self.store("first", "second", "third")
        self.open("/?order=asc&limit=2")
        browser.until(f"{ROWS}.length === 2")
        self.assertEqual(browser.value(MESSAGES), ["first", "second"])
        browser.click("#more")
        browser.until(f"{ROWS}.length === 3 && document.querySelector('#more').hidden")
        self.assertEqual(browser.value(MESSAGES), ["first", "second", "third"])
        self.assertIn("not live", browser.value(STATE))
        self.assertEqual(browser.value(NOTICE), "")

    def test_a_thousand_records_at_once_all_come_in_order(self) -> None:
        self.store("first")
        self.open()
        browser.until(f"{ROWS}.length === 1")
        for start in range(0, 1000, 100):
            self.store(*(f"number {n}" for n in range(start, start + 100)))
        browser.until(f"{MESSAGES}[0] === 'number 999' && {COUNTED}")
        while not browser.value("document.querySelector('#more').hidden"):
            rows = browser.value(f"{ROWS}.length")
            browser.click("#more")
            browser.until(f"{ROWS}.length > {rows}")
        shown = browser.value(MESSAGES)
        self.assertEqual(shown, [*(f"number {n}" for n in range(999, -1, -1)), "first"])

    def test_a_page_that_is_left_behind_holds_no_connection(self) -> None:
        self.store("m")
        # A browser has six for one server, and keeps pages in case that one goes back.
        for n in range(10):
            self.open(f"/?since={n + 1}h")
            browser.until(LOADED)
        browser.back()
        browser.until(LOADED)
        self.store("another")
        browser.until(f"{ROWS}.length === 2")


class Trouble(Page):
    def test_an_empty_store_says_what_to_try(self) -> None:
        self.open()
        text = browser.until(f"{LOADED} && document.querySelector('p').innerText")
        self.assertIn("python simulator.py", text)
        self.store("the first")
        browser.until(f"{ROWS}.length === 1 && !document.querySelector('p').offsetHeight")

    def test_filters_that_nothing_matches_say_so(self) -> None:
        self.store("m")
        self.open("/?contains=nothing+like+it")
        self.assertIn("No record matches", browser.until(f"{LOADED} && document.body.innerText"))
        self.assertNotIn("simulator", browser.value("document.body.innerText"))

    def test_a_text_that_no_message_has_is_offered_as_the_value_of_an_attribute(self) -> None:
        self.store("m", {"message": "paid", "request id": "7f3a"}, {"message": "n", "user": "ana"})
        self.open("/?contains=+7f3a&severity=INFO")
        offers = "[...document.querySelectorAll('#hints a')].map(offer => offer.textContent)"
        known = ["attr.user=7f3a", "attr.request id=7f3a"]
        self.assertEqual(browser.until(f"{offers}.length && {offers}"), known)
        browser.run("document.querySelectorAll('#hints a')[1].click()")
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["paid"])
        self.assertIn("severity=INFO", browser.value("location.search"))
        browser.until("!document.querySelector('#hints').textContent")
        self.open("/?contains=user%3Dana")
        self.assertIn("attr.user=ana", browser.until(f"{offers}.length && {offers}"))

    def test_what_was_there_before_is_gone_when_the_server_is_away(self) -> None:
        self.store("m")
        self.open("/?contains=m")
        browser.until(f"{ROWS}.length === 1")
        self.server.stop()
        browser.click("h1 a")
        browser.until(f"{NOTICE}.includes('does not answer') && {HIDDEN}")

    def test_a_server_that_is_gone_is_told_and_the_page_goes_on_when_it_is_back(self) -> None:
        self.store("before")
        self.open()
        browser.until(f"{ROWS}.length === 1")
        self.server.stop()
        browser.until(f"{NOTICE}.includes('does not answer')")
        self.server.config["server"]["port"] = self.server.port
        self.server.start()
        self.store("after")
        self.assertEqual(browser.until(f"{ROWS}.length === 2 && {MESSAGES}"), ["after", "before"])
        browser.until(f"{NOTICE} === '' && {STATE} === ''")
        self.assert_quiet()

    def test_it_works_under_a_path_behind_a_proxy(self) -> None:
        self.store("first", {"message": "bad", "severity": "ERROR"})
        proxy = self.enterContext(prefix_proxy(self.server, "/some/path"))
        browser.open(f"http://127.0.0.1:{proxy}/some/path/")
        browser.until(f"{ROWS}.length === 2 && {COUNTED} && {BARS}.length")
        browser.click(chip("severity", "ERROR"))
        browser.until(f"{ROWS}.length === 1")
        self.assertIn("/some/path/?severity=ERROR", browser.value("location.href"))
        self.store({"message": "worse", "severity": "ERROR"})
        browser.until(f"{ROWS}.length === 2")
        for part in ("json", "csv"):
            href = browser.value(f"document.getElementById('{part}').href")
            self.assertIn("/some/path/logs?", href)
        browser.click("h1 a")
        browser.until(f"{ROWS}.length === 3")
        self.assert_quiet()


class Language(Page):
    def speak(self, language: str) -> None:
        """Sets the languages that the browser prefers."""
        agent = browser.value("navigator.userAgent")
        browser.command(
            "Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language
        )

    def test_the_page_is_spanish_where_the_browser_prefers_it(self) -> None:
        self.addCleanup(self.speak, "en-US,en")
        self.store("uno\ndos")
        for language, switch, found, lines in (
            ("es-MX,es,en", "En vivo", "Encontrados: 1", "2 líneas"),
            ("fr-FR,fr", "Live", "1 found", "2 lines"),
            ("fr,es;q=0.5", "En vivo", "Encontrados: 1", "2 líneas"),
        ):
            with self.subTest(language):
                self.speak(language)
                self.open()
                browser.until(f"{ROWS}.length === 1 && {BARS}.length")
                self.assertIn(switch, browser.value("document.querySelector('header').innerText"))
                self.assertTrue(browser.value(CAPTION).startswith(found), browser.value(CAPTION))
                size = browser.value("document.querySelector('summary small').textContent")
                self.assertEqual(size.strip(), lines)
        self.assert_quiet()

    def test_the_table_of_words_is_that_of_the_page(self) -> None:
        marked = re.findall("‹(.*?)›", server.STYLE + server.HTML + server.SCRIPT)
        self.assertEqual(set(marked), set(server.SPANISH))
        for english, spanish in server.SPANISH.items():
            values = [re.findall(r"\$\{.*?\}", text) for text in (english, spanish)]
            self.assertEqual(sorted(values[0]), sorted(values[1]), english)

    def test_the_page_is_short(self) -> None:
        parts = (server.STYLE, server.HTML, server.SCRIPT)
        self.assertLessEqual(sum(len(part.strip().splitlines()) for part in parts), 442)


class Token(Page):
    settings = {"read_tokens": [READER]}

    def test_a_token_is_asked_for_refused_when_it_is_wrong_and_kept_when_it_is_right(self) -> None:
        self.store("secret")
        self.open("/?contains=secret#1")
        needed = browser.until(NOTICE)
        self.assertIn("token", needed)
        browser.type("#token", "wrong" + KEYS["Enter"])
        browser.until(f"{NOTICE} && {NOTICE} !== {json.dumps(needed)}")
        self.assertEqual(browser.value(f"{ROWS}.length"), 0)
        browser.type("#token", READER + KEYS["Enter"])
        browser.until(f"{ROWS}.length === 1 && {NOTICE} === '' && {ROWS}[0].open")
        self.assertTrue(browser.value("document.querySelector('#token').hidden"))
        self.assertEqual(self.query(), [("contains", "secret")])
        self.open()
        browser.until(f"{ROWS}.length === 1")
        self.store("live too")
        browser.until(f"{ROWS}.length === 2")
        self.assert_quiet()

    def test_a_download_takes_the_token_along_and_a_command_does_not_show_it(self) -> None:
        self.store("secret", "more")
        self.open()
        browser.until(NOTICE)
        browser.type("#token", READER + KEYS["Enter"])
        browser.until(f"{ROWS}.length === 2 && {COUNTED}")
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="logs-")))
        browser.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        browser.click("#csv")
        file = folder / "logs.csv"
        text = eventually(lambda: file.exists() and file.read_text(encoding="utf-8"))
        self.assertEqual(len(text.splitlines()), 3)
        command = browser.copied("#curl")
        self.assertNotIn(READER, command)
        self.assertEqual(shlex.split(command)[1:3], ["-H", "Authorization: Bearer TOKEN"])


class Looks(Page):
    def test_keys_search_move_and_close(self) -> None:
        self.store_hours()
        self.open()
        browser.until(f"{ROWS}.length === 24 && {COUNTED}")
        place = f"{ROWS}.findIndex(row => row.contains(document.activeElement))"
        browser.press("j", "j", "j", "k")
        self.assertEqual(browser.value(place), 1)
        browser.press("Enter")
        browser.until(f"{ROWS}[1].open")
        browser.press("Escape")
        browser.until(f"!{ROWS}[1].open")
        self.assertEqual(browser.value(place), 1)
        browser.press("j", "/", "j", "k", "/")
        self.assertEqual(browser.value("document.activeElement.id"), "contains")
        self.assertEqual(browser.value("document.activeElement.value"), "jk/")

    def test_escape_takes_back_what_is_typed_and_does_not_search(self) -> None:
        self.store("good", "bad")
        self.open("/?contains=good")
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        browser.press("/", "z", "Escape")
        self.assertEqual(browser.value("document.querySelector('#contains').value"), "good")
        self.assertEqual(browser.value("document.activeElement.tagName"), "BODY")
        self.assertEqual(self.query(), [("contains", "good")])

    def test_escape_leaves_the_search_as_it_is_and_a_slash_replaces_it(self) -> None:
        self.store_hours()
        self.open("/?contains=at 1")
        browser.until(f"{ROWS}.length === 11 && {COUNTED}")
        browser.press("/", "Escape")
        self.assertEqual(browser.value("document.activeElement.tagName"), "BODY")
        self.assertEqual(browser.value("document.querySelector('#contains').value"), "at 1")
        self.assertEqual(browser.value(f"{ROWS}.length"), 11)
        browser.press("/", "7", "Enter")
        browser.until(f"{ROWS}.length === 2 && location.search.includes('contains=7')")

    def test_escape_closes_the_record_that_has_the_focus(self) -> None:
        self.store("first", "second")
        self.open()
        browser.until(f"{ROWS}.length === 2 && {COUNTED}")
        browser.press("j", "Enter", "j", "Enter")
        browser.until(f"{ROWS}[1].open")
        browser.press("Escape")
        self.assertEqual(browser.until(f"!{ROWS}[1].open && {ROWS}[0].open"), True)

    def test_the_filters_stay_in_sight_and_hide_no_record_that_has_the_focus(self) -> None:
        self.store(*(f"number {n}" for n in range(100)))
        for size in (DESK, (390, 844)):
            browser.look(size)
            self.open()
            browser.until(f"{ROWS}.length === 100 && {COUNTED}")
            browser.run(f"{ROWS}[60].firstChild.focus()")
            browser.press("j", "k", "k", "k")
            search = "document.querySelector('#contains').getBoundingClientRect()"
            self.assertGreater(browser.value("scrollY"), 500)
            self.assertGreaterEqual(browser.value(f"{search}.top"), 0)
            focus = "document.activeElement.getBoundingClientRect().top"
            below = "document.querySelector('#top').getBoundingClientRect().bottom"
            self.assertGreaterEqual(browser.value(focus), browser.value(below))
            self.assertLess(browser.value(below), size[1] * 0.35)

    def test_long_lines_wrap_by_choice_and_the_choice_is_remembered(self) -> None:
        self.addCleanup(browser.run, "localStorage.clear()")
        self.store("word " * 200)
        height = f"{ROWS}[0].offsetHeight"
        self.open()
        narrow = browser.until(f"{ROWS}.length === 1 && {height}")
        browser.click("#wrap")
        browser.until(f"{height} > {3 * narrow}")
        self.open()
        browser.until(f"{ROWS}.length === 1 && {height} > {3 * narrow}")
        browser.click("#wrap")
        browser.until(f"{height} === {narrow}")

    def test_a_click_after_the_search_opens_the_row_that_it_hits(self) -> None:
        self.store("good", "bad")
        self.open()
        browser.until(f"{ROWS}.length === 2 && {COUNTED}")
        browser.type("#contains", "nothing" + KEYS["Enter"])
        browser.until(f"{LOADED} && {ROWS}.length === 0")
        browser.run("const field = document.querySelector('#contains'); field.value = '';"
                    "field.dispatchEvent(new Event('input', {bubbles: true}))")  # Its cross.
        browser.until(f"{LOADED} && {ROWS}.length === 2 && {COUNTED}")
        browser.click("#list summary")
        browser.until(f"{ROWS}.some(row => row.open)")

    def test_a_service_can_be_searched_and_excluded_by_its_name(self) -> None:
        self.store("mine")
        self.open()
        browser.until(f"{ROWS}.length === 1 && {COUNTED}")
        browser.type("#contains", "service=app")
        browser.click("#exclude")
        browser.until(f"{LOADED} && {ROWS}.length === 0")
        self.assertEqual(self.query(), [("not_service", "app")])

    def test_other_filters_begin_at_the_top_of_the_list(self) -> None:
        self.store(*(f"number {n}" for n in range(100)))
        self.open()
        browser.until(f"{ROWS}.length === 100 && {COUNTED}")
        browser.run("scrollTo(0, 1000)")
        browser.click("h1 a")
        browser.until("scrollY === 0")

    def test_all_of_it_works_with_the_keyboard_alone(self) -> None:
        self.store_hours()
        self.open()
        browser.until(f"{ROWS}.length === 24 && {BARS}.length && {COUNTED}")
        focus = "document.activeElement"
        passed = []
        for _ in range(40):
            browser.press("Tab")
            name = (
                f"{focus}.closest('h1, #bars, #list, #kinds, #services')?.id"
                f" || {focus}.id || {focus}.name || 'title'"
            )
            passed.append(browser.value(name))
            self.assertNotEqual(
                browser.value(f"getComputedStyle({focus}).outlineStyle"), "none", passed[-1]
            )
            if passed[-1] == "list":
                break
        order = [name for name, _ in itertools.groupby(passed)]
        times = ["timestamp_start", "timestamp_end"]
        fields = ["contains", "search", "exclude", "since", "min_severity", *times]
        ways_out = ["json", "csv", "curl"]
        switches = ["wrap", "live"]
        chips = ["kinds", "services"]
        self.assertEqual(order, ["title", *switches, *fields, *chips, "bars", *ways_out, "list"])
        self.assertEqual(passed.count("bars"), 1)  # one stop; from there, the arrow keys
        browser.press("Enter")
        browser.until(f"{ROWS}[0].open && {ROWS}[0].querySelector('pre').textContent === 'at 23'")
        browser.press("Enter")
        browser.value(f"document.querySelector(`{chip('severity', 'ERROR')}`).focus()")
        browser.press("Space")
        browser.until(f"{ROWS}.length === 1")
        self.assertEqual(browser.value(f"{focus}.id"), "severity=ERROR")
        browser.press("Space")
        browser.until(f"{ROWS}.length === 24")
        browser.value("document.querySelector('#bars a:last-child').focus()")
        browser.press("ArrowLeft", "Enter")
        browser.until("location.search.includes('timestamp_start')")

    def test_a_phone_has_nothing_to_scroll_sideways(self) -> None:
        long = "x" * 300
        self.store_hours()
        self.store(
            {
                "message": f"{long}\n{long}",
                "service": "s" * 100,
                "severity": "CRITICAL",
                "attr" * 20: long,
            }
        )
        for size in (PHONE, (320, 600)):
            browser.look(size)
            self.open()
            browser.click("#list summary")
            browser.until(f"{ROWS}[0].querySelector('dl') && {BARS}.length && {COUNTED}")
            self.assertLessEqual(browser.value("document.documentElement.scrollWidth"), size[0])
            parts = (
                "[...document.querySelectorAll('header *, form > *, figure *, main *')]"
            )
            outside = f"{parts}.filter(part => part.getBoundingClientRect().right > {size[0]})"
            self.assertEqual(browser.value(f"{outside}.map(part => part.outerHTML)"), [])

    def test_light_and_dark_both_have_enough_contrast(self) -> None:
        self.store(*({"message": name, "severity": name} for name in SEVERITIES))
        parts = [
            "#list span", "#list time", "#list i", "header label", "form nav small", "figcaption",
        ]
        parts += [f".{name} b" for name in SEVERITIES]
        backgrounds = set()
        for scheme in ("light", "dark"):
            browser.look(scheme=scheme)
            self.open()
            browser.until(f"{ROWS}.length === 5 && {COUNTED}")
            for part in parts:
                with self.subTest(scheme=scheme, part=part):
                    ratio, background = self.contrast(part)
                    backgrounds.add(background)
                    self.assertGreaterEqual(ratio, 4.5)
        self.assertEqual(len(backgrounds), 2)

    def contrast(self, selector: str) -> tuple[float, str]:
        """The contrast of a part's text with all that lies under it,
        and the background of the page."""
        parents = "for (let part = found; part; part = part.parentElement)"
        script = f"""(() => {{
            const found = document.querySelector({json.dumps(selector)});
            const colors = [getComputedStyle(found).color];
            {parents} colors.push(getComputedStyle(part).backgroundColor);
            return colors;
        }})()"""
        text, *layers = browser.value(script)
        shown = [1.0, 1.0, 1.0]
        for layer in reversed(layers):
            *color, alpha = rgba(layer)
            shown = [part * alpha + below * (1 - alpha) for part, below in zip(color, shown)]
        light, dark = sorted((luminance(rgba(text)[:3]), luminance(shown)), reverse=True)
        return (light + 0.05) / (dark + 0.05), layers[-2]

    def test_only_its_own_style_and_script_are_let_in(self) -> None:
        answer = self.server.get("/?severity=ERROR", Accept="text/html,*/*;q=0.8")
        self.assertEqual(
            (answer.status, answer.headers["content-type"]), (200, "text/html; charset=utf-8")
        )
        policy = answer.headers["content-security-policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(len(re.findall('<link rel="icon" href="data:', answer.text)), 1)
        elsewhere = (
            r"<(link (?!rel=.icon)|img|iframe|object)|https?://(?!www\.w3\.org/)"
            r"|\ssrc=|\son\w+=|\sstyle=|@import|url\("
        )
        self.assertNotRegex(answer.text, elsewhere)


if __name__ == "__main__":
    unittest.main()
