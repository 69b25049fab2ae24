"""The page that a browser shows, in a real Chromium.

    python -m unittest discover -s tests/integration -p test_browser.py

Chromium is driven by chromedriver, over the HTTP of https://www.w3.org/TR/webdriver2/. Without
these two programs the tests are skipped. To look at the page as a test left it:
`browser.picture("page.png")`.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import unittest
import urllib.parse
from typing import Any

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
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "ArrowLeft": "\ue012", "Space": " "}
SEVERITIES = ["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that WebDriver gives to a reference

# Parts of the page, for the script that a test evaluates in it.
ROWS = "[...document.querySelectorAll('#list > details')]"
MESSAGES = f"{ROWS}.map(row => row.querySelector('summary span').textContent)"
BARS = "[...document.querySelectorAll('#bars a')]"
NOTICE = "document.querySelector('#notice').textContent"
LOADED = "document.querySelector('#list').ariaBusy === 'false'"
COUNTED = "document.querySelector('#severity small').textContent !== ''"


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

    def _command(self, name: str, **parameters: Any) -> None:
        self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def back(self) -> None:
        self._call("POST", "/back")

    def look(self, size: tuple[int, int] = DESK, scheme: str = "light") -> None:
        """Sets the size of the window, and whether the reader likes it light or dark."""
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", **screen)
        self._command(
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
        self._call("POST", f"/element/{self._element(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"/element/{self._element(selector)}/value", {"text": text})

    def press(self, *names: str) -> None:
        """Presses keys, one after the other, wherever the focus is."""
        keys = [KEYS.get(name, name) for name in names]
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call(
            "POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        )

    def console(self) -> list[str]:
        """What the console has shown since it was last asked, but for answers that are no 200."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["source"] != "network"]

    def picture(self, path: str | pathlib.Path) -> None:
        pathlib.Path(path).write_bytes(base64.b64decode(self._call("GET", "/screenshot")))


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
        browser.click("#older")
        browser.until(f"{ROWS}.length === 200")
        browser.click("#older")
        browser.until(f"{ROWS}.length === 250")
        self.assertEqual(browser.value(MESSAGES), [f"number {n}" for n in range(249, -1, -1)])
        self.assertTrue(browser.value("document.querySelector('#older').hidden"))

    def test_a_record_opens_to_its_whole_message_and_its_attributes(self) -> None:
        self.store(
            {
                "message": "first\n  second\n\tthird",
                "user": "bob",
                "cart": {"items": [1, 2]},
                "none": None,
            }
        )
        self.open()
        self.assertEqual(browser.until(MESSAGES), ["first"])
        self.assertEqual(browser.value(f"{ROWS}[0].querySelector('small').textContent"), "3 lines")
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
        self.assertEqual(
            (fields["id"], fields["attr.user"], fields["attr.none"]), ("1", "bob", "null")
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
        browser.click("#list dd a")
        self.assertEqual(
            browser.until(f"{ROWS}.length === 2 && {MESSAGES}"), ["of bob 2", "of bob 1"]
        )
        self.assertEqual(self.query(), [("attr.user", "bob")])
        browser.click("[name='attr.user']")
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
            f"document.querySelector('#service').textContent.includes({json.dumps(hostile)})"
        )
        self.assertEqual(
            browser.value(
                "document.querySelectorAll('img, main script, main b b, fieldset b').length"
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
        self.open("/?severity=ERROR,CRITICAL&service=app&contains=+1&since=1h")
        self.assertEqual(
            browser.until(f"{ROWS}.length === 2 && {MESSAGES}.sort()"), ["CRITICAL 1", "ERROR 1"]
        )
        checked = browser.value(
            "[...document.querySelectorAll('fieldset :checked')].map(box => box.value)"
        )
        self.assertEqual(checked, ["CRITICAL", "ERROR", "app"])
        self.assertEqual(browser.value("document.querySelector('[name=contains]').value"), " 1")
        self.assertEqual(browser.value("document.querySelector('[name=since]').value"), "1h")

    def test_a_filter_goes_into_the_url_and_back_takes_it_out_again(self) -> None:
        self.store(
            {"message": "bad", "severity": "ERROR"}, {"message": "good"}, {"message": "bad news"}
        )
        self.open()
        browser.until(f"{ROWS}.length === 3")
        browser.value("window.same = true")
        browser.click("[value=ERROR]")
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["bad"])
        self.assertEqual(self.query(), [("severity", "ERROR")])
        browser.click("[value=INFO]")
        browser.until(f"{ROWS}.length === 3")
        browser.type("[name=contains]", "news" + KEYS["Enter"])
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["bad news"])
        self.assertEqual(
            sorted(self.query()),
            [("contains", "news"), ("severity", "ERROR"), ("severity", "INFO")],
        )
        browser.back()
        browser.until(f"{ROWS}.length === 3")
        self.assertEqual(browser.value("document.querySelector('[name=contains]').value"), "")
        browser.back()
        browser.back()
        browser.until(f"{ROWS}.length === 3 && !document.querySelector('fieldset :checked')")
        self.assertEqual(self.query(), [])
        browser.click("[value=ERROR]")
        browser.until(f"{ROWS}.length === 1")
        browser.click("h1 a")
        browser.until(f"{ROWS}.length === 3")
        self.assertTrue(browser.value("window.same"), "the page was loaded anew")

    def test_each_service_has_its_count_and_is_a_filter(self) -> None:
        self.store(*["m"] * 3)
        self.store(*[{"message": "m", "service": "web"}] * 2, token=OTHER_TOKEN)
        self.open()
        counts = "document.querySelector('#service').innerText"
        self.assertEqual(browser.until(f"{COUNTED} && {counts}").split(), ["app3", "web2"])
        browser.click("[value=web]")
        browser.until(f"{ROWS}.length === 2")
        self.assertEqual(browser.value(counts).split(), ["app3", "web2"])

    def test_filters_without_a_field_of_their_own_can_be_seen_and_taken_out(self) -> None:
        self.store({"message": "bad", "severity": "ERROR"}, {"message": "good"})
        self.open("/?min_severity=WARNING&since=2h")
        browser.until(f"{ROWS}.length === 1")
        self.assertIn(
            "min_severity=WARNING", browser.value("document.querySelector('#service').innerText")
        )
        browser.click("[name=min_severity]")
        browser.until(f"{ROWS}.length === 2")
        self.assertEqual(self.query(), [("since", "2h")])

    def test_a_filter_that_cannot_be_says_what_is_allowed(self) -> None:
        self.store("m")
        self.open("/?since=yesterday")
        self.assertIn("since", browser.until(NOTICE))
        expected = self.server.get("/logs?since=yesterday").json
        self.assertEqual(browser.value(NOTICE), f"{expected['error']} {expected['hint']}")
        browser.click("h1 a")
        browser.until(f"{ROWS}.length === 1 && {NOTICE} === ''")

    def test_a_bar_of_the_histogram_zooms_into_its_time(self) -> None:
        self.store_hours()
        self.open()
        labels = browser.until(f"{BARS}.length && {BARS}.map(bar => bar.ariaLabel)")
        self.assertEqual(sum("1 ERROR" in label for label in labels), 1)
        self.assertEqual(sum("1 INFO" in label for label in labels), 23)
        place = next(n for n, label in enumerate(labels, 1) if "1 ERROR" in label)
        self.assertEqual(
            browser.value(f"document.querySelectorAll('#bars a:nth-child({place}) rect').length"), 1
        )
        browser.click(f"#bars a:nth-child({place})")
        self.assertEqual(browser.until(f"{ROWS}.length === 1 && {MESSAGES}"), ["at 13"])
        (first, start), (last, end) = self.query()
        self.assertEqual((first, last), ("timestamp_start", "timestamp_end"))
        self.assertEqual(start, "2026-03-05T13:00:00.000000Z")
        self.assertRegex(end, r"2026-03-05T13:\d\d:59.999999Z")
        self.assertEqual(
            browser.value("document.querySelector('[name=timestamp_start]').value"), start
        )
        browser.back()
        browser.until(f"{ROWS}.length === 24")

    def test_times_that_lie_centuries_apart_still_give_a_histogram(self) -> None:
        self.store(
            *({"timestamp": f"{year}-12-31T23:59:59Z", "message": "m"} for year in ("0001", "9999"))
        )
        self.open()
        browser.until(f"{BARS}.length > 1")
        self.assertEqual(browser.value(NOTICE), "")


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
            "document.querySelector('[value=INFO]').nextElementSibling.textContent === '3'"
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
        browser.click("[value=INFO]")  # what is asked for now is shown, what comes later is not
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
        label = "getComputedStyle(document.querySelector('header label'), '::after').content"
        self.assertIn("held by the open record", browser.value(label))
        browser.click("#list summary")
        self.assertEqual(browser.until(f"{ROWS}.length === 2 && {MESSAGES}"), ["second", "first"])

    def test_a_thousand_records_at_once_all_come_in_order(self) -> None:
        self.store("first")
        self.open()
        browser.until(f"{ROWS}.length === 1")
        for start in range(0, 1000, 100):
            self.store(*(f"number {n}" for n in range(start, start + 100)))
        shown = browser.until(f"{ROWS}.length === 1001 && {MESSAGES}")
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
        text = browser.until(f"{LOADED} && document.querySelector('section').innerText")
        self.assertIn("python simulator.py", text)
        self.assertIn(f"curl {self.server.url}/logs", text)
        self.store("the first")
        browser.until(f"{ROWS}.length === 1 && !document.querySelector('section').offsetHeight")

    def test_filters_that_nothing_matches_say_so(self) -> None:
        self.store("m")
        self.open("/?contains=nothing+like+it")
        self.assertIn("No record matches", browser.until(f"{LOADED} && document.body.innerText"))
        self.assertNotIn("simulator", browser.value("document.body.innerText"))

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
        browser.until(f"{NOTICE} === ''")
        self.assert_quiet()


class Token(Page):
    settings = {"read_tokens": [READER]}

    def test_a_token_is_asked_for_refused_when_it_is_wrong_and_kept_when_it_is_right(self) -> None:
        self.store("secret")
        self.open("/?contains=secret")
        needed = browser.until(NOTICE)
        self.assertIn("token", needed)
        browser.type("#token", "wrong" + KEYS["Enter"])
        browser.until(f"{NOTICE} && {NOTICE} !== {json.dumps(needed)}")
        self.assertEqual(browser.value(f"{ROWS}.length"), 0)
        browser.type("#token", READER + KEYS["Enter"])
        browser.until(f"{ROWS}.length === 1 && {NOTICE} === ''")
        self.assertTrue(browser.value("document.querySelector('#token').hidden"))
        self.assertEqual(self.query(), [("contains", "secret")])
        self.open()
        browser.until(f"{ROWS}.length === 1")
        self.store("live too")
        browser.until(f"{ROWS}.length === 2")
        self.assert_quiet()


class Looks(Page):
    def test_all_of_it_works_with_the_keyboard_alone(self) -> None:
        self.store_hours()
        self.open()
        browser.until(f"{ROWS}.length === 24 && {BARS}.length && {COUNTED}")
        focus = "document.activeElement"
        passed = []
        for _ in range(30):
            browser.press("Tab")
            name = (
                f"{focus}.id || {focus}.name || {focus}.closest('h1, #bars, #list')?.id || 'title'"
            )
            passed.append(browser.value(name))
            self.assertNotEqual(
                browser.value(f"getComputedStyle({focus}).outlineStyle"), "none", passed[-1]
            )
            if passed[-1] == "list":
                break
        order = [name for name, _ in itertools.groupby(passed)]
        fields = ["contains", "since", "timestamp_start", "timestamp_end", "severity", "service"]
        self.assertEqual(order, ["title", "live", *fields, "bars", "list"])
        self.assertEqual(passed.count("bars"), 1)  # one stop; from there, the arrow keys
        browser.press("Enter")
        browser.until(f"{ROWS}[0].open && {ROWS}[0].querySelector('pre').textContent === 'at 23'")
        browser.press("Enter")
        browser.value("document.querySelector('[value=ERROR]').focus()")
        browser.press("Space")
        browser.until(f"{ROWS}.length === 1")
        self.assertEqual(browser.value(f"{focus}.value"), "ERROR")
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
                "[...document.querySelectorAll('header *, form > input, select, figure *, main *')]"
            )
            outside = f"{parts}.filter(part => part.getBoundingClientRect().right > {size[0]})"
            self.assertEqual(browser.value(f"{outside}.map(part => part.outerHTML)"), [])

    def test_light_and_dark_both_have_enough_contrast(self) -> None:
        self.store(*({"message": name, "severity": name} for name in SEVERITIES))
        parts = [
            "#list span", "#list time", "#list i", "header label", "#service small", "figcaption",
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
        elsewhere = (
            r"<(link|img|iframe|object)|https?://(?!www\.w3\.org/)"
            r"|\ssrc=|\son\w+=|\sstyle=|@import|url\("
        )
        self.assertNotRegex(answer.text, elsewhere)


if __name__ == "__main__":
    unittest.main()
