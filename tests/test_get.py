"""GET /logs, /stats and the other pages: what is asked for, in the order and form asked for,
and nothing else."""

from __future__ import annotations

import collections
import csv
import datetime
import io
import itertools
import json
import random
import re
import threading
import time
import unittest
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tests.support import (
    DAY,
    SECOND,
    SHIPPER,
    Answer,
    Json,
    Server,
    ServerTests,
    microseconds,
    timestamp,
    visible,
)
from tests.support import SEVERITIES as SEVERITY_NUMBERS

SEVERITIES = tuple(SEVERITY_NUMBERS)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

Pairs = list[tuple[str, str]]  # of a query string


def encode(parameters: Pairs | dict[str, Any]) -> str:
    """A query string."""
    return urllib.parse.urlencode(parameters)


def ago(**amount: float) -> str:
    """A moment so far back from now."""
    return (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**amount)).isoformat()


def check_same(got: Iterable[Any], expected: Iterable[Any]) -> None:
    """Fails at the first place where two long lists differ;
    the diff that assertEqual makes of them takes minutes."""
    for place, (one, other) in enumerate(itertools.zip_longest(got, expected, fillvalue="nothing")):
        assert one == other, f"at {place}: {one}, not {other}"


def next_page(path: str, answer: Answer) -> str:
    """Where the next page is, by the link in the answer to a path; nowhere on the last."""
    if "link" not in answer.headers:
        return ""
    match = re.fullmatch(r'<([^>]*)>; rel="next"', answer.headers["link"])
    assert match, answer.headers["link"]
    return urllib.parse.urljoin(path, match[1])


class Reading(ServerTests):
    """Tests that read back what they have posted, each under a service of its own."""

    def setUp(self) -> None:
        self.service = self.id().rpartition(".")[2]

    def given(self, *records: dict[str, Json]) -> list[dict[str, Json]]:
        """Posts records of the test's service;
        gives them as they are read back, in the order of their ids."""
        body = [{"service": self.service, **record} for record in records]
        answer = self.server.post(body, SHIPPER)
        self.assertEqual((answer.status, answer.json["rejected"]), (200, 0), answer.text)
        query = encode({"limit": 0, "service": ",".join({record["service"] for record in body})})
        found = {record["id"]: record for record in self.server.get(f"/logs?{query}").json}
        return [
            found[number] for number in range(answer.json["first_id"], answer.json["last_id"] + 1)
        ]

    def ask(self, query: str | Pairs | dict[str, Any] = "", path: str = "/logs") -> Answer:
        """Asks for the records of the test's service."""
        query = query if isinstance(query, str) else encode(query)
        answer = self.server.get(f"{path}?service={self.service}" + ("&" + query if query else ""))
        self.assertEqual(answer.status, 200, answer.text)
        return answer

    def found(self, query: str | Pairs | dict[str, Any] = "") -> str:
        """The messages found, in their order, one after the other."""
        return " ".join(record["message"] for record in self.ask(query).json)


class Filters(Reading):
    """Each parameter of GET /logs, alone and with others."""

    RECORDS = (
        {"message": "a", "severity": "DEBUG", "timestamp": "2026-11-01T00:00:00Z"},
        {"message": "b", "severity": "INFO", "timestamp": "2026-11-02T00:00:00.000001Z"},
        {"message": "c", "severity": "WARNING", "timestamp": "2026-11-02T23:59:59.999999Z"},
        {"message": "d", "severity": "ERROR", "timestamp": "2026-11-03T00:00:00Z"},
        {"message": "e", "severity": "CRITICAL", "timestamp": "2026-11-03T12:00:00Z"},
        {"message": "f", "severity": "INFO", "timestamp": "2026-11-03T12:00:00Z"},
    )
    QUERIES = (
        ("", "f e d c b a"),
        ("order=desc", "f e d c b a"),
        ("order=asc", "a b c d e f"),
        ("severity=INFO", "f b"),
        ("severity=info", "f b"),
        ("severity=Warn", "c"),
        ("severity=ERROR,CRITICAL", "e d"),
        ("severity=ERROR&severity=CRITICAL", "e d"),
        ("severity=ERROR,%20INFO&severity=DEBUG", "f d b a"),
        ("severity=INFO,INFO", "f b"),
        ("min_severity=DEBUG", "f e d c b a"),
        ("min_severity=WARNING", "e d c"),
        ("min_severity=critical", "e"),
        ("min_severity=WARNING&severity=INFO,ERROR", "d"),
        ("min_severity=WARNING&severity=INFO", ""),
        ("timestamp_start=2026-11-03T00:00:00Z", "f e d"),
        ("timestamp_start=2026-11-03T00:00:00.000001Z", "f e"),
        ("timestamp_start=2026-11-03", "f e d"),
        ("timestamp_start=2026-11-03,%2012:00:00", "f e"),
        ("timestamp_start=2026-11-03T13:00:00%2B01:00", "f e"),
        ("timestamp_start=2026-11-03T13:00:00+01:00", "f e"),  # what a + is before it is encoded
        ("timestamp_start=2026-11-03T07:00:00-05:00", "f e"),
        ("timestamp_start=1793707200", "f e"),
        ("timestamp_start=1793707200000", "f e"),
        ("timestamp_start=1793707200.000001", ""),
        ("timestamp_start=2030-01-01", ""),
        ("timestamp_end=2026-11-03T00:00:00Z", "d c b a"),
        ("timestamp_end=2026-11-02T23:59:59.999999Z", "c b a"),
        ("timestamp_end=2026-11-02T23:59:59.999998Z", "b a"),
        ("timestamp_end=2026-11-02", "c b a"),
        ("timestamp_end=20261102", "c b a"),
        ("timestamp_end=2026-W45-1", "c b a"),
        ("timestamp_end=2026-11-02T00:00:00", "a"),
        ("timestamp_end=1999-12-31", ""),
        ("timestamp_start=2026-11-02&timestamp_end=2026-11-02", "c b"),
        ("timestamp_start=2026-11-03&timestamp_end=2026-11-02", ""),
        ("timestamp_start=0001-01-01&timestamp_end=9999-12-31", "f e d c b a"),
        ("limit=1", "f"),
        ("limit=2", "f e"),
        ("limit=2&order=asc", "a b"),
        ("limit=6", "f e d c b a"),
        ("limit=0", "f e d c b a"),
        ("limit=0&order=asc&severity=INFO", "b f"),
        ("severity=INFO,ERROR&timestamp_start=2026-11-02&timestamp_end=2026-11-03T11:00Z&order=asc",
         "b d"),
        ("severity=INFO&limit=1&order=asc&contains=B", "b"),
    )

    def test_each_query_finds_what_it_asks_for_in_its_order(self) -> None:
        self.given(*self.RECORDS)
        for query, messages in self.QUERIES:
            with self.subTest(query):
                self.assertEqual(self.found(query), messages)
                if "order" not in query and "limit" not in query:
                    self.assertEqual(self.ask(query, "/stats").json["total"], len(messages.split()))

    def test_services_may_be_several(self) -> None:
        for name in ("a", "b", "c"):
            self.given({"service": f"{self.service}.{name}", "message": name})
        one, two, three = (f"{self.service}.{name}" for name in ("a", "b", "c"))
        for query, messages in (
            (f"service={one}", ["a"]),
            (f"service={one},{two}", ["a", "b"]),
            (f"service={one}&service={two}", ["a", "b"]),
            (f"service={one},{two}&service={three}", ["a", "b", "c"]),
            (f"service={one},unknown", ["a"]),
            ("service=unknown", []),
            (f"service={one.upper()}", []),  # a name is taken as it is
            (f"service={self.service}.%25", []),
            (f"service={one},{one}", ["a"]),
        ):
            with self.subTest(query):
                found = self.server.get(f"/logs?order=asc&{query}").json
                self.assertEqual([record["message"] for record in found], messages)
                self.assertEqual(self.server.get(f"/stats?{query}").json["total"], len(messages))

    def test_a_hundred_records_are_given_by_default_the_newest_first(self) -> None:
        self.given(*({"message": f"{n}", "timestamp": n} for n in range(150)))
        self.assertEqual(self.found(), " ".join(map(str, range(149, 49, -1))))

    def test_since_counts_back_from_now(self) -> None:
        back = (
            {"days": 8},
            {"days": 6},
            {"hours": 3},
            {"minutes": 20},
            {"minutes": 10},
            {"seconds": 5},
            {"days": -1},
        )
        self.given(
            *(
                {"message": name, "timestamp": ago(**b)}
                for name, b in zip("abcdefg", back, strict=True)
            )
        )
        for query, messages in (
            ("since=15m", "f e"),
            ("since=2h", "f e d"),
            ("since=4h", "f e d c"),
            ("since=7d", "f e d c b"),
            ("since=2w", "f e d c b a"),
            ("since=60s", "f"),
            ("since=2h&order=asc&limit=2", "d e"),
            ("since=7d&timestamp_end=2000-01-01", ""),
            (f"since=7d&timestamp_start={urllib.parse.quote(ago(hours=1))}", "f e d"),
            ("since=9999w&limit=2", "f e"),
            ("since=999999w&limit=2", "f e"),
            (f"since=15m&timestamp_start={urllib.parse.quote(ago(days=30))}", "f e"),
        ):
            with self.subTest(query):
                self.assertEqual(self.found(query), messages)

    def test_ranges_of_the_time_of_receipt_are_inclusive(self) -> None:
        # Received in the order of their names, but happened in the opposite one.
        records = [
            self.given({"message": m, "timestamp": t})[0]
            for m, t in zip("abcd", (4, 3, 2, 1), strict=True)
        ]
        moments = [microseconds(record["received_at"]) for record in records]
        for start in (None, *moments, moments[1] + 1, moments[3] + 1):
            for end in (None, *moments, moments[2] - 1, moments[0] - 1):
                bounds = {"received_at_start": start, "received_at_end": end}
                query = {
                    name: timestamp(value) for name, value in bounds.items() if value is not None
                }
                with self.subTest(query):
                    expected = [
                        record["message"]
                        for record, moment in zip(records, moments, strict=True)
                        if (start is None or start <= moment) and (end is None or moment <= end)
                    ]
                    self.assertEqual(self.found(query), " ".join(expected))
                    self.assertEqual(
                        self.found({**query, "order": "asc"}), " ".join(reversed(expected))
                    )
                    self.assertEqual(self.ask(query, "/stats").json["total"], len(expected))

    def test_a_date_alone_as_the_end_of_receipt_is_that_whole_day(self) -> None:
        (record,) = self.given({"message": "m", "timestamp": 0})
        today = datetime.date.fromisoformat(record["received_at"][:10])
        for days, messages in ((-1, ""), (0, "m"), (1, "m")):
            self.assertEqual(
                self.found({"received_at_end": today + datetime.timedelta(days)}), messages
            )
        for days, messages in ((-1, "m"), (0, "m"), (1, "")):
            self.assertEqual(
                self.found({"received_at_start": today + datetime.timedelta(days)}), messages
            )

    def test_contains_finds_text_in_the_message_ignoring_case(self) -> None:
        for message, text in (
            ("Payment refused", "payment REFUSED"),
            ("Payment refused", "t r"),
            ("Payment refused", "Payment refused"),
            ("CAFÉ", "café"),
            ("café", "CAFÉ"),
            ("café", "É"),
            ("Ñandú", "ñANDÚ"),
            ("ПРИВЕТ", "привет"),
            ("ΠΡΟΣΟΧΗ", "ΠΡΟΣ"),  # at the end of a word, Σ is ς in lower case
            ("100 % sure_of it", "% "),
            ("100 % sure_of it", "e_o"),
            ("a 'quoted' \"text\"", "'quoted' \"TEXT\""),
            ("C:\\Temp", "c:\\t"),
            ("a\u0000b", "\u0000B"),
            ("a\u0000b", "b"),
            ("two\nlines", "o\nL"),
            ("*.[a-z]?", "*.[A-Z]?"),
            ("1 + 1 & 2", "+ 1 &"),
            ("smile 😀", "😀"),
            ("a;b--/*c*/", "B--/*C"),
        ):
            with self.subTest(message, text=text):
                (record,) = self.given({"message": message})
                found = self.server.get("/logs?" + encode({"contains": text, "limit": 0})).json
                self.assertIn(record["id"], [other["id"] for other in found])

    def test_several_texts_must_all_be_there(self) -> None:
        self.given({"message": "one"}, {"message": "one two"}, {"message": "Two, ONE"})
        for texts, messages in (
            (("one", "two"), ["one two", "Two, ONE"]),
            (("two", "one", "one"), ["one two", "Two, ONE"]),
            (("two", ","), ["Two, ONE"]),
            (("one", "three"), []),
        ):
            with self.subTest(texts):
                query = [("order", "asc"), *(("contains", text) for text in texts)]
                found = [record["message"] for record in self.ask(query).json]
                self.assertEqual(found, messages)
                total = self.ask(query[1:], "/stats").json["total"]
                self.assertEqual(total, len(messages))

    def test_contains_takes_its_text_as_it_is(self) -> None:
        self.given({"message": "abc\u0000def 100 percent"})
        for text in (
            "a%c", "a_c", "abcd", "%", "_", "*", "[abc]", "c\u0000e", "\\", "'", "abc def", ".*",
            "ab c",
        ):
            with self.subTest(text):
                self.assertEqual(self.ask({"contains": text}).json, [])
                self.assertEqual(self.ask({"contains": text}, "/stats").json["total"], 0)

    def test_an_attribute_is_found_by_its_text_or_by_its_json(self) -> None:
        self.given(
            {"message": "text", "attributes": {"k": "bob"}},
            {"message": "number", "attributes": {"k": 3}},
            {"message": "digits", "attributes": {"k": "3"}},
            {"message": "float", "attributes": {"k": 0.5}},
            {"message": "large", "attributes": {"k": 12345678901234567890}},
            {"message": "true", "attributes": {"k": True}},
            {"message": "null", "attributes": {"k": None}},
            {"message": "empty", "attributes": {"k": ""}},
            {"message": "accent", "attributes": {"k": "É\"'\\\n"}},
            {"message": "missing", "attributes": {"other": "bob"}},
            {
                "message": "nested",
                "attributes": {"other": {"k": "bob", "l": [{"k": "bob"}, {"k": 3}, "k", 3]}},
            },
            {
                "message": "in a text",
                "attributes": {"other": ', "k": "bob", "k": 3, ', "another": '"k":"bob","k":3'},
            },
            {
                "message": "in a name",
                "attributes": {', "k": "bob", ': 1, '"k": 3, "': 3, "o.k": "bob", "kk": "bob"},
            },
            {"message": "none"},
        )
        for value, messages in (
            ("bob", "text"),
            ("Bob", ""),
            ("bo", ""),
            ("3", "number digits"),
            ("3.0", ""),
            ("0.5", "float"),
            ("12345678901234567890", "large"),
            ("true", "true"),
            ("false", ""),
            ("1", ""),
            ("null", "null"),
            ("None", ""),
            ("", "empty"),
            ("É\"'\\\n", "accent"),
            ("nobody", ""),
            ('"bob"', "text"),
            ('"3"', "digits"),
        ):
            with self.subTest(value):
                self.assertEqual(self.found({"attr.k": value, "order": "asc"}), messages)
                self.assertEqual(
                    self.ask({"attr.k": value}, "/stats").json["total"], len(messages.split())
                )

    def test_the_name_of_an_attribute_is_taken_as_it_is(self) -> None:
        names = (
            "http.status", "http", "a b", "ñ", "$", "$.a", "a[0]", "[0]", "#", "A", "a", "a'b", "%",
            "a\\b", 'a"b',
        )
        for name in names:
            self.given({"message": "m", "attributes": {name: f"value of {name}"}})
        for name in names:
            with self.subTest(name):
                found = self.ask({f"attr.{name}": f"value of {name}"}).json
                self.assertEqual(
                    [record["attributes"] for record in found], [{name: f"value of {name}"}]
                )
                self.assertEqual(self.ask({f"attr.{name}": "another"}).json, [])

    def test_a_dotted_name_does_not_reach_into_an_object(self) -> None:
        self.given({"message": "deep", "attributes": {"http": {"status": 200}}})
        self.assertEqual(self.found({"attr.http.status": "200"}), "")

    def test_several_attributes_must_all_be_so(self) -> None:
        self.given(
            {"message": "a", "user": "bob", "code": 1},
            {"message": "b", "user": "bob", "code": 2},
            {"message": "c", "user": "eve", "code": 2},
        )
        self.assertEqual(self.found("attr.user=bob&attr.code=2"), "b")
        self.assertEqual(self.found("attr.user=bob&attr.user=eve"), "")
        self.assertEqual(self.found("attr.code=2&contains=C&severity=INFO"), "c")

    def test_odd_queries_are_answered(self) -> None:
        for query in (
            *("contains=%FF", "contains=%00", "contains=%", "contains=%zz", "contains=a=b"),
            "attr.%FF=x",
            *("service=%00", "service=';DROP TABLE logs;--", "service=%22", "attr.k=%27%22%5C"),
            "attr.$=1",
            *("&&", "limit=5&", "order=asc&", "attr.=x"),
        ):
            with self.subTest(query):
                quoted = urllib.parse.quote(query, safe="%&=.-_")
                self.assertEqual(self.server.get(f"/logs?{quoted}").status, 200)


class Pages(Reading):
    """The next page begins where the one before ended, whatever happens in between."""

    def walk(self, query: str) -> Iterator[list[dict[str, Json]]]:
        """The records of page after page."""
        path = f"/logs?service={self.service}&{query}"
        for _ in range(1000):
            answer = self.server.get(path)
            self.assertEqual(answer.status, 200, answer.text)
            yield answer.json
            path = next_page(path, answer)
            if not path:
                return
        self.fail(f"the pages of {query} have no end")

    def ids(self, query: str) -> list[int]:
        """The ids of the records of all pages."""
        return [record["id"] for page in self.walk(query) for record in page]

    def many(self, count: int = 300) -> list[dict[str, Json]]:
        """Records of which a third each has the same timestamp."""
        moments = ("1969-07-20T20:17:40Z", "2026-11-24", "2026-11-24T00:00:00.000001Z")
        severities = itertools.cycle(SEVERITIES)
        times = itertools.cycle(moments)
        return self.given(
            *(
                {"message": f"{n}", "timestamp": next(times), "severity": next(severities)}
                for n in range(count)
            )
        )

    def test_many_equal_timestamps_lose_and_repeat_nothing(self) -> None:
        records = self.many()
        for filters, severities, limits in (
            ("", SEVERITIES, (7, 99, 100, 101, 299, 300, 301)),
            ("&severity=ERROR,INFO", ("ERROR", "INFO"), (11, 119, 120, 121)),
            ("&min_severity=CRITICAL", ("CRITICAL",), (1, 59, 60, 61)),
        ):
            kept = [record for record in records if record["severity"] in severities]
            kept.sort(key=lambda record: (record["timestamp"], record["id"]))
            for order, limit in itertools.product(("asc", "desc"), limits):
                with self.subTest(order, filters=filters, limit=limit):
                    expected = [
                        record["id"] for record in (kept if order == "asc" else reversed(kept))
                    ]
                    pages = list(self.walk(f"order={order}&limit={limit}{filters}"))
                    check_same((record["id"] for page in pages for record in page), expected)
                    self.assertEqual(
                        {len(page) for page in pages[:-1]} - {limit}, set(), "full but for the last"
                    )
                    self.assertTrue(pages[-1], "no empty page at the end")

    def test_every_filter_holds_on_every_page(self) -> None:
        records = self.many(100)
        first = records[0]["received_at"]
        for filters in (
            "contains=1",
            "timestamp_start=2026-11-24&timestamp_end=2026-11-24T00:00:00Z",
            "timestamp_end=1970-01-01",
            f"received_at_start={first}",
            "since=20000d&severity=info&severity=error",
            "contains=%25&attr.a%26b=%2B",
        ):
            with self.subTest(filters):
                whole = [record["id"] for record in self.ask(f"{filters}&limit=0").json]
                self.assertEqual(self.ids(f"{filters}&limit=5"), whole)

    def test_the_link_says_when_since_began_and_each_parameter_once(self) -> None:
        self.given(*({"message": f"{n}", "timestamp": ago(minutes=n)} for n in range(5)))
        for filters in (
            "since=1h",
            "since=1h&timestamp_start=2026-01-01",
            "timestamp_start=2026-01-01",
        ):
            with self.subTest(filters):
                path = f"/logs?limit=2&{filters}&service={self.service}"
                links = [next_page(path, self.server.get(path))]
                links.append(next_page(links[0], self.server.get(links[0])))
                first, second = (urllib.parse.parse_qs(link.partition("?")[2]) for link in links)
                ends = {"timestamp_end"} if "since" in filters else set()
                self.assertEqual(
                    set(first), {"limit", "service", "timestamp_start", "cursor"} | ends
                )
                self.assertEqual(
                    {name: len(values) for name, values in second.items()}, dict.fromkeys(first, 1)
                )
                self.assertEqual(
                    first["timestamp_start"],
                    second["timestamp_start"],
                    "the same moment on every page",
                )

    def test_records_that_are_added_meanwhile_disturb_no_page(self) -> None:
        for order in ("asc", "desc"):
            with self.subTest(order):
                before = {record["id"] for record in self.many(100)}
                before |= {record["id"] for record in self.ask("limit=0").json}
                seen: collections.Counter[int] = collections.Counter()
                for number, page in enumerate(self.walk(f"order={order}&limit=9")):
                    seen.update(record["id"] for record in page)
                    if number < 9:
                        self.many(6)  # of the same timestamps
                        self.given(
                            {"message": "early", "timestamp": 0},
                            {"message": "late", "timestamp": 4102444800},
                        )
                self.assertLessEqual(before, set(seen), "nothing that was there is lost")
                self.assertEqual(set(seen.values()), {1}, "nothing is repeated")

    def test_the_last_page_has_no_link(self) -> None:
        self.given(*({"message": f"{n}"} for n in range(3)))
        for limit, link in ((2, True), (3, False), (4, False), (0, False)):
            with self.subTest(limit=limit):
                self.assertEqual("link" in self.ask(f"limit={limit}").headers, link)

    def test_a_page_of_large_records_may_end_early_but_the_pages_hold_them_all(self) -> None:
        body = [{"service": self.service, "message": "x" * 200_000}] * 50
        self.assertEqual(self.server.post(body, SHIPPER).json["accepted"], 50)
        first = self.ask("limit=100")
        self.assertIn("link", first.headers)
        self.assertLess(len(first.body), (8 << 20) + 400_000)
        self.assertEqual(len(self.ids("limit=100")), 50)


class Formats(Reading):
    """The same records as JSON, as lines of JSON and as CSV."""

    DIFFICULT = (
        {"message": "quotes \"double\" and 'single', commas, \t",
         "attributes": {"a": [1, {"b": None}], "ñ": "é\n"}},
        {"message": "two\nlines\r\nand\rmore", "severity": "ERROR"},
        {"message": "=1+1", "timestamp": "0001-01-01"},
        {"message": "a\u0000b \u2028 \u0085 😀 </script>",
         "timestamp": "9999-12-31T23:59:59.999999Z"},
        {"message": " blanks around ",
         "attributes": {"large": 12345678901234567890123, "float": 0.1}},
        {"message": '"', "timestamp": -1},
    )

    def parse(self, answer: Answer) -> list[dict[str, Json]]:
        """The records of an answer in any of the formats."""
        kind = answer.headers["content-type"].partition(";")[0]
        if kind == "text/csv":
            rows = list(csv.DictReader(io.StringIO(answer.text, newline=""), strict=True))
            return [
                {**row, "id": int(row["id"]), "attributes": json.loads(row["attributes"])}
                for row in rows
            ]
        if kind == "application/x-ndjson":
            return [json.loads(line) for line in answer.body.split(b"\n")[:-1]]
        self.assertEqual(kind, "application/json")
        records: list[dict[str, Json]] = answer.json
        return records

    def test_all_formats_hold_the_same_records(self) -> None:
        records = self.given(*self.DIFFICULT)
        expected = sorted(records, key=lambda record: (record["timestamp"], record["id"]))
        for form, limit in itertools.product(("json", "ndjson", "csv"), (0, 3, 100)):
            for order, ordered in (("asc", expected), ("desc", expected[::-1])):
                with self.subTest(form, order=order, limit=limit):
                    answer = self.ask(f"order={order}&limit={limit}&format={form}")
                    shown = ordered[: limit or None]
                    if form == "csv":  # A terminal would obey control characters.
                        shown = [{**r, "message": visible(r["message"])} for r in shown]
                    self.assertEqual(self.parse(answer), shown)

    def test_json_is_the_default_and_each_format_names_its_type(self) -> None:
        self.given({"message": "m"})
        for query, content_type in (
            ("", "application/json"),
            ("format=json", "application/json"),
            ("format=ndjson", "application/x-ndjson"),
            ("format=csv", "text/csv; charset=utf-8"),
        ):
            for limit in ("", "&limit=0"):
                self.assertEqual(self.ask(query + limit).headers["content-type"], content_type)

    def test_nothing_found_is_an_empty_list_no_line_or_a_header_alone(self) -> None:
        for form, body in (
            ("json", b"[]"),
            ("ndjson", b""),
            ("csv", b"id,timestamp,received_at,service,severity,message,attributes"),
        ):
            for limit in (0, 100):
                with self.subTest(form, limit=limit):
                    answer = self.ask(f"format={form}&limit={limit}")
                    self.assertEqual(answer.body.removesuffix(b"\n").removesuffix(b"\r"), body)
                    self.assertEqual(answer.body.count(b"\n"), 1 if body else 0)

    def test_a_line_is_a_record(self) -> None:
        self.given(*self.DIFFICULT)
        self.assertEqual(self.ask("format=ndjson").body.count(b"\n"), len(self.DIFFICULT))

    def test_limit_0_is_streamed_and_gives_what_the_pages_give(self) -> None:
        expected = [f"{n}" for n in range(2500)]
        self.given(*({"message": n, "timestamp": 7} for n in expected))
        for form in ("json", "ndjson", "csv"):
            answer = self.ask(f"limit=0&order=asc&format={form}")
            self.assertEqual(answer.headers["transfer-encoding"], "chunked")
            check_same((record["message"] for record in self.parse(answer)), expected)
        check_same(self.found("limit=10000&order=asc").split(), expected)

    def test_one_record_is_an_object(self) -> None:
        for record in self.given(*self.DIFFICULT):
            answer = self.server.get(f"/logs/{record['id']}")
            self.assertEqual((answer.status, answer.json), (200, record))


class Follow(Reading):
    """follow=1 is like tail -f."""

    def follow(self, query: str = "") -> Iterator[str]:
        """The messages that come, as they come; blank lines are passed over."""
        connection = self.server.connection()
        self.addCleanup(connection.close)
        connection.request("GET", f"/logs?follow=1&service={self.service}&{query}")
        response = connection.getresponse()
        self.assertEqual(
            (response.status, response.getheader("Content-Type")), (200, "application/x-ndjson")
        )
        return (
            json.loads(line)["message"] for line in iter(response.readline, b"") if line.strip()
        )

    def test_it_answers_at_once_even_if_there_is_nothing_yet(self) -> None:
        lines = self.follow("limit=5")
        self.given({"message": "first"})
        self.assertEqual(next(lines), "first")

    def test_the_last_records_come_first_then_those_that_are_committed(self) -> None:
        self.given(*({"message": f"old {n}"} for n in range(5)))
        lines = self.follow("limit=2")
        self.assertEqual([next(lines), next(lines)], ["old 3", "old 4"])
        for n in range(3):
            self.given({"message": f"new {n}"})
            self.assertEqual(next(lines), f"new {n}")

    def test_limit_0_begins_with_all(self) -> None:
        self.given(*({"message": f"{n}"} for n in range(150)))
        lines = self.follow("limit=0")
        self.assertEqual(list(itertools.islice(lines, 150)), [f"{n}" for n in range(150)])
        self.given({"message": "next"})
        self.assertEqual(next(lines), "next")

    def test_records_come_in_the_order_of_their_commits(self) -> None:
        self.given({"message": "a", "timestamp": "2100-01-01"}, {"message": "b", "timestamp": 0})
        lines = self.follow()
        self.assertEqual([next(lines), next(lines)], ["a", "b"])
        self.given(
            {"message": "c", "timestamp": "1900-01-01"}, {"message": "d", "timestamp": "2200-01-01"}
        )
        self.assertEqual([next(lines), next(lines)], ["c", "d"])

    def test_filters_hold_for_what_comes_too(self) -> None:
        lines = self.follow("min_severity=ERROR&contains=yes")
        for message, severity in (
            ("yes 1", "ERROR"),
            ("yes 2", "INFO"),
            ("no", "ERROR"),
            ("yes 3", "CRITICAL"),
        ):
            self.given({"message": message, "severity": severity})
        self.assertEqual([next(lines), next(lines)], ["yes 1", "yes 3"])

    def test_after_resumes_with_nothing_missed_or_repeated(self) -> None:
        records = self.given(*({"message": f"{n}"} for n in range(250)))
        for start in (0, 100, 249, 250):
            after = records[start - 1]["id"] if start else records[0]["id"] - 1
            lines = self.follow(f"after={after}")
            self.assertEqual(
                list(itertools.islice(lines, 250 - start)), [f"{n}" for n in range(start, 250)]
            )
        self.given({"message": "last"})
        self.assertEqual(next(lines), "last")

    def test_nothing_is_missed_while_many_write(self) -> None:
        def write(writer: int) -> None:
            for n in range(25):
                body = [
                    {"service": self.service, "message": f"{writer} {n} {part}"}
                    for part in range(3)
                ]
                self.server.post(body, SHIPPER)

        lines = self.follow()
        writers = [threading.Thread(target=write, args=[writer]) for writer in range(4)]
        for thread in writers:
            thread.start()
        got = list(itertools.islice(lines, 4 * 25 * 3))
        for thread in writers:
            thread.join()
        stored = self.server.sql(
            "SELECT message FROM logs WHERE service = ? ORDER BY id", self.service
        )
        check_same(got, (message for (message,) in stored))

    def test_a_blank_line_comes_when_nothing_else_has_come_for_a_while(self) -> None:
        with Server(constants={"HEARTBEAT_SECONDS": 0.2}) as server:
            server.post({"message": "m"})
            connection = server.connection()
            self.addCleanup(connection.close)
            began = time.monotonic()
            connection.request("GET", "/logs?follow=1")
            response = connection.getresponse()
            self.assertTrue(json.loads(response.readline()))
            self.assertEqual([response.readline(), response.readline()], [b"\n", b"\n"])
            self.assertGreater(time.monotonic() - began, 0.4)


class Statistics(Reading):
    """GET /stats, and /estadisticas, the same."""

    def stats(self, query: str | dict[str, Any] = "") -> Json:
        """What both paths answer."""
        answers = [self.ask(query, path) for path in ("/stats", "/estadisticas")]
        self.assertEqual(answers[0].body, answers[1].body)
        return answers[0].json

    def test_it_counts_by_service_and_severity(self) -> None:
        self.given(*Filters.RECORDS)
        self.assertEqual(
            self.stats(),
            {
                "total": 6,
                "by_service": {self.service: 6},
                "by_severity": {"DEBUG": 1, "INFO": 2, "WARNING": 1, "ERROR": 1, "CRITICAL": 1},
                "first_timestamp": "2026-11-01T00:00:00.000000Z",
                "last_timestamp": "2026-11-03T12:00:00.000000Z",
            },
        )

    def test_of_nothing_it_counts_0(self) -> None:
        answer = self.stats("step=1h")
        self.assertEqual((answer["total"], answer["by_service"], answer["histogram"]), (0, {}, []))
        self.assertEqual((answer["first_timestamp"], answer["last_timestamp"]), (None, None))
        self.assertEqual(sum(answer["by_severity"].values()), 0)

    def test_a_histogram_has_every_step_empty_ones_included(self) -> None:
        self.given(*Filters.RECORDS)
        nothing = dict.fromkeys(SEVERITIES, 0)
        self.assertEqual(
            self.stats("step=1d")["histogram"],
            [
                {"start": "2026-11-01T00:00:00.000000Z", **nothing, "DEBUG": 1},
                {"start": "2026-11-02T00:00:00.000000Z", **nothing, "INFO": 1, "WARNING": 1},
                {"start": "2026-11-03T00:00:00.000000Z", **nothing, "INFO": 1, "ERROR": 1,
                 "CRITICAL": 1},
            ],
        )
        first, last = (microseconds(Filters.RECORDS[n]["timestamp"]) for n in (0, -1))
        for step, minutes in (
            ("1h", 60), ("15m", 15), ("90m", 90), ("12h", 720), ("30d", 43200), ("2w", 20160),
        ):
            with self.subTest(step):
                bars = self.stats(f"step={step}")["histogram"]
                length = minutes * 60 * SECOND
                starts = [
                    timestamp(start) for start in range(first // length * length, last + 1, length)
                ]
                self.assertEqual([bar["start"] for bar in bars], starts)
                self.assertEqual(sum(bar[name] for bar in bars for name in SEVERITIES), 6)

    def test_a_histogram_fills_the_range_that_is_asked_for(self) -> None:
        self.given({"message": "m", "timestamp": "2026-11-02T10:30:00Z", "severity": "ERROR"})
        answer = self.stats("step=6h&timestamp_start=2026-11-02&timestamp_end=2026-11-03")
        bars = answer["histogram"]
        starts = [
            f"2026-11-{day}T{hour}:00:00.000000Z"
            for day in ("02", "03")
            for hour in ("00", "06", "12", "18")
        ]
        self.assertEqual([bar["start"] for bar in bars], starts)
        self.assertEqual([bar["ERROR"] for bar in bars], [0, 1, 0, 0, 0, 0, 0, 0])
        answer = self.stats("step=1d&timestamp_start=2026-12-01&timestamp_end=2026-12-05")
        bars = answer["histogram"]
        self.assertEqual([sum(bar[s] for s in SEVERITIES) for bar in bars], [0] * 5)

    def test_a_range_that_cuts_minutes_is_exact(self) -> None:
        moments = [microseconds("2026-11-02T00:00:00Z") + n * 20 * SECOND for n in range(1000)]
        self.given(*({"message": "m", "timestamp": timestamp(moment)} for moment in moments))
        for first, last in ((0, 999), (1, 998), (2, 2), (3, 5), (200, 900), (179, 361)):
            for before, after in ((0, 0), (1, 0), (0, 1), (-1, -1)):
                with self.subTest(first=first, last=last, before=before, after=after):
                    start, end = moments[first] + before, moments[last] - after
                    query = {"timestamp_start": timestamp(start), "timestamp_end": timestamp(end)}
                    expected = sum(start <= moment <= end for moment in moments)
                    self.assertEqual(self.stats(query)["total"], expected)

    def test_the_ends_of_the_calendar_are_counted(self) -> None:
        self.given(
            {"message": "first", "timestamp": "0001-01-01T00:00:00Z"},
            {"message": "last", "timestamp": "9999-12-31T23:59:59.999999Z"},
        )
        answer = self.stats()
        self.assertEqual(answer["total"], 2)
        self.assertEqual(answer["first_timestamp"], "0001-01-01T00:00:00.000000Z")
        self.assertEqual(answer["last_timestamp"], "9999-12-31T23:59:59.999999Z")
        for query in (
            "timestamp_end=0001-01-02&step=7d",
            "timestamp_start=9999-12-31&step=7d",
            "step=1d",
        ):
            with self.subTest(query):
                path = f"/stats?service={self.service}&{query}"
                self.assertIn(self.server.get(path).status, (200, 400))
        bars = self.stats("timestamp_end=0001-01-01T12:00&step=1h")["histogram"]
        self.assertEqual((len(bars), bars[0]["INFO"]), (13, 1))


class OtherPages(Reading):
    """The rest of what can be asked for, and what can not."""

    def test_a_typing_error_in_a_parameter_is_answered_with_the_name_that_is_meant(self) -> None:
        for wrong, meant in (("severty", "severity"), ("atr.user", "attr."), ("Limit", "limit")):
            hint = self.server.get(f"/logs?{wrong}=1").json["hint"]
            self.assertTrue(hint.startswith(f"Did you mean {meant}? There are "), hint)

    def test_a_question_that_is_wrong_is_400_and_names_parameter_value_and_what_is_allowed(
        self,
    ) -> None:
        for path, parameter, value, allowed in (
            ("/logs", "severity", "LOUD", "CRITICAL"),
            ("/logs", "severity", "INFO,", "CRITICAL"),
            ("/logs", "severity", "", "empty"),
            ("/logs", "severity", "30", "CRITICAL"),
            ("/logs", "min_severity", "LOUD", "WARNING"),
            ("/logs", "min_severity", "ERROR,INFO", "WARNING"),
            ("/logs", "timestamp_start", "yesterday", "2026-11-24"),
            ("/logs", "timestamp_start", "", "empty"),
            ("/logs", "timestamp_end", "2026-02-30", "2026-11-24"),
            ("/logs", "timestamp_end", "10000-01-01", "2026-11-24"),
            ("/logs", "timestamp_end", "9" * 30, "2026-11-24"),
            ("/logs", "received_at_start", "now", "2026-11-24"),
            ("/logs", "received_at_end", "x", "2026-11-24"),
            ("/logs", "since", "15", "15m"),
            ("/logs", "since", "m", "15m"),
            ("/logs", "since", "-1h", "15m"),
            ("/logs", "since", "1y", "15m"),
            ("/logs", "since", "99999999999999999d", "15m"),
            ("/logs", "service", "a,", "comma"),
            ("/stats", "not_service", ",", "comma"),
            ("/logs", "order", "up", "asc"),
            ("/logs", "order", "DESC,", "desc"),
            ("/logs", "limit", "-1", "0"),
            ("/logs", "limit", "ten", "0"),
            ("/logs", "limit", "1.5", "0"),
            ("/logs", "limit", "9" * 30, "0"),
            ("/logs", "limit", "", "empty"),
            ("/logs", "cursor", "x", "cursor"),
            ("/logs", "cursor", "MTp4", "cursor"),
            ("/logs", "cursor", "ñ", "cursor"),
            # A number beyond 64 bits.
            ("/logs", "cursor", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OToxCg==", "cursor"),
            ("/logs", "format", "xml", "ndjson"),
            ("/logs", "follow", "yes", "1"),
            ("/logs", "after", "x", "0"),
            ("/logs", "after", "-1", "0"),
            ("/logs", "sevrity", "ERROR", "severity"),
            ("/logs", "Severity", "ERROR", "severity"),
            ("/logs", "step", "1h", "severity"),
            ("/logs", "attr", "x", "attr.KEY"),
            ("/logs", "", "x", "severity"),
            ("/stats", "step", "1", "15m"),
            ("/stats", "step", "0h", "15m"),
            ("/stats", "step", "hour", "15m"),
            ("/stats", "limit", "5", "step"),
            ("/stats", "order", "asc", "step"),
            ("/stats", "severity", "LOUD", "CRITICAL"),
            ("/estadisticas", "desde", "2026-11-24", "timestamp_start"),
        ):
            with self.subTest(path, parameter=parameter, value=value):
                answer = self.server.get(f"{path}?{encode({parameter: value})}")
                self.assertEqual(answer.status, 400, answer.text)
                self.assertEqual(set(answer.json), {"error", "hint"})
                self.assertIn(parameter, answer.json["error"])
                self.assertIn(allowed, answer.json["error"] + answer.json["hint"])
                known = (
                    parameter in ("severity", "limit", "since", "order", "format", "cursor")
                    and path == "/logs"
                )
                if known and len(value) < 20 and value.isascii():
                    self.assertIn(value, answer.json["error"])

    def test_the_hint_for_an_unknown_parameter_lists_all_that_there_are(self) -> None:
        filters = (
            "severity min_severity service not_service timestamp_start timestamp_end"
            " received_at_start received_at_end since contains not_contains attr.KEY not_attr.KEY"
        )
        for path, others in (("/logs", "order limit cursor format follow"), ("/stats", "step")):
            hint = self.server.get(f"{path}?colour=blue").json["hint"]
            for name in (filters + " " + others).split():
                with self.subTest(path, name=name):
                    self.assertIn(name, hint)

    def test_the_last_week_of_the_calendar_may_be_asked_for(self) -> None:
        query = "timestamp_start=9999-12-20&timestamp_end=9999-W52&step=1d"
        self.assertEqual(self.server.get(f"/stats?{query}").status, 200)

    def test_very_many_names_are_400_in_words(self) -> None:
        for names, status in ((1000, 200), (1001, 400), (30_000, 400)):
            with self.subTest(names=names):
                answer = self.server.get(f"/stats?service={','.join('a' * names)}")
                self.assertEqual(answer.status, status, answer.text)
                if status == 400:
                    self.assertIn("1,000", answer.json["error"])

    def test_each_endpoint_says_at_the_root_what_it_does(self) -> None:
        for endpoint, words in self.server.get("/").json.items():
            with self.subTest(endpoint):
                self.assertTrue(words)

    def test_a_parameter_that_may_be_there_once_is_400_when_it_is_there_twice(self) -> None:
        for query in (
            "limit=1&limit=2",
            "order=asc&order=asc",
            "since=1h&since=2h",
        ):
            with self.subTest(query):
                answer = self.server.get(f"/logs?{query}")
                self.assertEqual(answer.status, 400)
                self.assertIn(query.partition("=")[0], answer.json["error"])

    def test_a_histogram_of_a_long_time_has_only_the_steps_that_hold_records(self) -> None:
        self.given(
            {"message": "m", "timestamp": -1.5, "severity": "ERROR"},
            {"message": "m", "timestamp": -1.1, "severity": "INFO"},
            {"message": "m", "timestamp": "2026-11-24"},
        )
        answer = self.server.get(f"/stats?service={self.service}&step=1s")
        self.assertEqual(answer.status, 200, answer.text)
        nothing = dict.fromkeys(SEVERITIES, 0)
        self.assertEqual(
            answer.json["histogram"],
            [
                {"start": "1969-12-31T23:59:58.000000Z", **nothing, "INFO": 1, "ERROR": 1},
                {"start": "2026-11-24T00:00:00.000000Z", **nothing, "INFO": 1},
            ],
        )

    def test_what_is_not_there_is_404(self) -> None:
        for path in (
            *("/nothing", "/Logs", "/logs/1/2", "//logs", "/v1", "/logs.json"),
            "/schema.sql",
            *("/logs/0", "/logs/999999999", "/logs/x", "/logs/-1", "/logs/1.0"),
            *("/logs/" + "9" * 30, "/logs/%00"),
            *("/..", "/../schema.sql", "/%2e%2e/schema.sql", "/favicon.ico"),
        ):
            with self.subTest(path):
                answer = self.server.get(path)
                self.assertEqual(answer.status, 404, answer.text)
                self.assertEqual(set(answer.json), {"error", "hint"})
        hint = self.server.get("/nothing").json["hint"]
        for path in ("/logs", "/stats", "/estadisticas", "/health", "/metrics"):
            self.assertIn(path, hint)

    METHODS = (
        ("/logs", {"GET", "HEAD", "POST", "DELETE"}),
        ("/logs/1", {"GET", "HEAD"}),
        ("/stats", {"GET", "HEAD"}),
        ("/estadisticas", {"GET", "HEAD"}),
        ("/health", {"GET", "HEAD"}),
        ("/metrics", {"GET", "HEAD"}),
        ("/", {"GET", "HEAD"}),
        ("/v1/logs", {"POST"}),
        ("/services/collector/event", {"POST", "OPTIONS"}),
        ("/loki/api/v1/push", {"POST"}),
    )

    def test_another_method_is_405_and_allow_names_those_that_there_are(self) -> None:
        for path, allowed in self.METHODS:
            for method in {
                "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS",
            } - allowed:
                with self.subTest(method, path=path):
                    answer = self.server.request(
                        method, path, b"{}" if method in ("PUT", "POST", "PATCH") else None
                    )
                    self.assertEqual(answer.status, 405, answer.text)
                    self.assertEqual(set(answer.headers["allow"].split(", ")), allowed)
                    if method != "HEAD":
                        self.assertLessEqual({"error", "hint"}, set(answer.json))

    def test_a_method_that_nobody_knows_is_501(self) -> None:
        for (path, _), method in itertools.product(self.METHODS, ("BREW", "get", "LOGS")):
            with self.subTest(method, path=path):
                answer = self.server.request(method, path)
                self.assertEqual(answer.status, 501, answer.text)
                self.assertEqual(set(answer.json), {"error", "hint"})

    def test_a_connection_goes_on_after_head_and_after_an_error(self) -> None:
        connection = self.server.connection()
        self.addCleanup(connection.close)
        for method, path, status in (
            ("HEAD", "/logs?limit=0", 200),
            ("GET", "/nothing", 404),
            ("GET", "/logs?limit=x", 400),
            ("GET", "/logs?limit=0", 200),
            ("HEAD", "/nothing", 404),
            ("GET", "/health", 200),
        ):
            connection.request(method, path)
            response = connection.getresponse()
            self.assertEqual(response.status, status)
            self.assertFalse(response.will_close, "the same connection takes the next request")
            response.read()

    def test_the_root_lists_the_endpoints_for_curl(self) -> None:
        answer = self.server.get("/", Accept="*/*")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/json"))
        for path, _ in self.METHODS:
            self.assertIn(path.replace("/1", "/ID"), answer.text)
        self.assertGreater(answer.text.count("\n"), 8, "to be read by people")

    def test_the_root_is_a_page_for_a_browser(self) -> None:
        answer = self.server.get("/", Accept=BROWSER)
        self.assertEqual(
            (answer.status, answer.headers["content-type"]), (200, "text/html; charset=utf-8")
        )
        self.assertTrue(answer.text.lower().startswith("<!doctype html>"))
        self.assertEqual(answer.headers["x-content-type-options"], "nosniff")

    def test_health_says_that_all_is_well(self) -> None:
        for _ in range(3):
            answer = self.server.get("/health")
            self.assertEqual(
                (answer.status, answer.headers["content-type"]), (200, "application/json")
            )
            self.assertEqual(answer.json["status"], "ok")

    def metrics(self) -> dict[str, float]:
        """What GET /metrics says, by name and labels; checks its form."""
        answer = self.server.get("/metrics")
        self.assertEqual(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
        self.assertTrue(answer.text.endswith("\n"))
        samples: dict[str, float] = {}
        described: dict[str, set[str]] = collections.defaultdict(set)
        for line in answer.text.splitlines():
            if match := re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line):
                self.assertNotIn(match[1], described[match[2]], "once only")
                described[match[2]].add(match[1])
            else:
                match = re.fullmatch(
                    r'([a-z_]+)(\{([a-z_]+="([^"\\\n]|\\["\\n])*",?)*\})? (\S+)', line
                )
                assert match, line
                self.assertEqual(described[match[1]], {"HELP", "TYPE"}, line)
                self.assertNotIn(line.rpartition(" ")[0], samples, "once only")
                samples[line.rpartition(" ")[0]] = float(match[5])
        return samples

    def test_metrics_count_what_was_taken_refused_and_asked(self) -> None:
        before = self.metrics()
        self.given(*[{"message": "m", "severity": "ERROR"}] * 3)
        self.server.post([{"message": "m", "service": self.service}, {"message": ""}], SHIPPER)
        self.server.post({"message": ""})
        for _ in range(2):  # a repeat takes and refuses nothing
            body = [
                {"message": "m", "service": self.service},
                {"message": "", "service": self.service},
            ]
            self.server.post(body, SHIPPER, Idempotency_Key="counted once")
        self.server.get("/nothing")
        after = self.metrics()
        grown = {name: value - before.get(name, 0) for name, value in after.items()}
        taken = "logs_records_accepted_total"
        self.assertEqual(grown[f'{taken}{{service="{self.service}",severity="ERROR"}}'], 3)
        self.assertEqual(grown[f'{taken}{{service="{self.service}",severity="INFO"}}'], 2)
        refused = [
            value for name, value in grown.items() if name.startswith("logs_records_rejected_total")
        ]
        self.assertEqual(sum(refused), 3)
        requests = {
            name: value
            for name, value in grown.items()
            if name.startswith("logs_http_requests_total")
        }
        for status in ('"422"', '"404"'):
            self.assertEqual(sum(value for name, value in requests.items() if status in name), 1)
        self.assertEqual(after["logs_store_records"], self.server.get("/stats").json["total"])
        self.assertGreater(after["logs_store_bytes"], 0)

    def test_a_name_in_any_spelling_is_one_reason_in_the_metrics(self) -> None:
        for name in ("tEXT", "tExT", "TEXt"):
            self.server.post(f'{{"{name}": NaN}}'.encode())
        metrics = self.server.get("/metrics").text
        reasons = set(re.findall('reason="(text)"', metrics, re.IGNORECASE))
        self.assertEqual(reasons, {"text"})

    def test_metrics_count_commits_and_each_record_that_is_refused(self) -> None:
        before = self.metrics()
        self.given(*[{"message": "m", "severity": "ERROR"}] * 3)
        self.server.post([{"message": ""}] * 2 + [{"message": "m"}])
        after = self.metrics()
        grown = {name: value - before.get(name, 0) for name, value in after.items()}
        self.assertEqual(grown["logs_commits_total"], 2)
        self.assertGreater(grown["logs_commit_seconds_total"], 0)
        self.assertEqual(grown['logs_records_rejected_total{service="app",reason="message"}'], 2)

    def test_a_label_may_hold_any_text(self) -> None:
        self.given({"message": "m", "service": 'a "b" \\ c\nd\te ñ'})
        self.assertTrue(
            any('service="a \\"b\\" \\\\ c\\nd\te ñ"' in name for name in self.metrics())
        )

    def test_the_columns_of_csv_and_of_the_table_are_the_fields_of_a_record(self) -> None:
        (record,) = self.given({"message": "m"})
        columns = {name for _, name, *_ in self.server.sql("PRAGMA table_info(logs)")}
        self.assertEqual(columns, set(record))
        self.assertEqual(self.ask("format=csv").text.splitlines()[0].split(","), list(record))


class Bounds(Reading):
    """Each bound on a query and its answer, from both its sides."""

    def test_contains_has_a_thousand_characters_at_most(self) -> None:
        self.given({"message": "x" * 1001})
        self.assertEqual(len(self.ask({"contains": "x" * 1000}).json), 1)
        answer = self.server.get("/logs?" + encode({"contains": "x" * 1001}))
        self.assertEqual(answer.status, 400, answer.text)
        self.assertIn("1,000", answer.json["hint"])

    def test_a_page_has_ten_thousand_records_at_most(self) -> None:
        for limit, status in ((10_000, 200), (10_001, 400)):
            self.assertEqual(self.server.get(f"/logs?limit={limit}").status, status)

    def test_a_histogram_has_ten_thousand_steps_at_most(self) -> None:
        self.given({"message": "m", "timestamp": "2026-11-24T01:00:00Z"})
        for end, steps in (("02:46:39", 10_000), ("02:46:40", 1)):
            query = f"step=1s&timestamp_start=2026-11-24T00:00:00Z&timestamp_end=2026-11-24T{end}Z"
            answer = self.server.get(f"/stats?service={self.service}&{query}")
            self.assertEqual(answer.status, 200, answer.text[:200])
            self.assertEqual(len(answer.json["histogram"]), steps)
            with self.subTest("without a record", steps=steps):
                bars = self.server.get(f"/stats?service=nobody&{query}").json["histogram"]
                self.assertEqual(len(bars), steps if steps > 1 else 0)

    def test_a_histogram_of_which_more_than_ten_thousand_steps_hold_records_is_400(self) -> None:
        body = [
            {"message": "m", "service": self.service, "timestamp": 2 * n} for n in range(10_001)
        ]
        for records, status in ((body[:-1], 200), (body[-1:], 400)):
            self.assertEqual(self.server.post(records, SHIPPER).json["rejected"], 0)
            answer = self.server.get(f"/stats?service={self.service}&step=1s")
            self.assertEqual(answer.status, status, answer.text[:200])
            if status == 200:
                self.assertEqual(len(answer.json["histogram"]), 10_000)
        self.assertIn("step", answer.json["error"])
        self.assertIn("10,000", answer.json["hint"])

    def test_a_query_has_twenty_filters_on_attributes_at_most(self) -> None:
        names = [f"k{n}" for n in range(21)]
        self.given({"message": "m", **dict.fromkeys(names, "v")})
        self.assertEqual(len(self.ask({f"attr.{name}": "v" for name in names[:20]}).json), 1)
        for path in ("/logs", "/stats"):
            answer = self.server.get(f"{path}?" + encode({f"attr.{name}": "v" for name in names}))
            self.assertEqual(answer.status, 400, answer.text)
            self.assertIn("20", answer.json["error"])

    def test_more_kinds_than_one_statement_can_merge_are_found_in_order(self) -> None:
        names = [f"{self.service} {n}" for n in range(600)]
        body = [
            {"message": "m", "service": name, "timestamp": n, "severity": "ERROR"}
            for n, name in enumerate(names)
        ]
        self.assertEqual(self.server.post(body, SHIPPER).json["accepted"], 600)
        found = self.server.get(
            "/logs?min_severity=ERROR&timestamp_end=599&limit=1000&order=asc"
        ).json
        self.assertEqual([r["service"] for r in found], names)
        self.assertEqual(
            self.server.get("/stats?min_severity=ERROR&timestamp_end=599").json["total"], 600
        )


class Known(NamedTuple):
    """A record of the model."""

    timestamp: int
    id: int
    received_at: int
    service: str
    severity: int  # its place in SEVERITIES
    message: str
    attributes: dict[str, Json]


Test = Callable[[Known], bool]


class Model(ServerTests):
    """Random questions, and the answers that a few lines of Python give."""

    # So that what is rare is looked for in both ways.
    settings = {"constants": {"SAMPLE_RECORDS": 50}}
    SEED = 20261124
    SERVICES = ("pagos", "pedidos", "usuarios", "chat_atencion", "rare, with a comma", "ñ")
    WORDS = (
        "payment", "Refused", "timeout", "AFTER", "30 s", "user", "ñandú", "100%", "a_b",
        "'quoted'", "\n",
    )
    STEPS = (
        ("1s", 1), ("1m", 60), ("15m", 900), ("37m", 2220), ("1h", 3600), ("6h", 21600),
        ("1d", 86400),
    )
    LONG_STEPS = (("7d", 7 * 86400), ("5w", 35 * 86400), ("600d", 600 * 86400))

    records: list[Known]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        choose = random.Random(cls.SEED)
        cls.records = []
        while len(cls.records) < 2000:
            batch = [cls.random_record(choose) for _ in range(choose.choice((1, 2, 10, 100, 300)))]
            assert cls.server.post(batch, SHIPPER).json["rejected"] == 0
            # Counted, and read back below.
            cls.records += [Known(0, 0, 0, "", 0, "", {})] * len(batch)
        cls.records = [
            Known(
                microseconds(r["timestamp"]),
                r["id"],
                microseconds(r["received_at"]),
                r["service"],
                SEVERITIES.index(r["severity"]),
                r["message"],
                r["attributes"],
            )
            for r in cls.server.get("/logs?limit=0&order=asc").json
        ]

    @classmethod
    def random_moment(cls, choose: random.Random) -> int:
        """Microseconds since 1970: anywhere from 1900 to 2150, often in one week,
        often on a boundary."""
        week = microseconds("2026-11-20T00:00:00Z")
        moment = choose.choice(
            (
                choose.randrange(
                    microseconds("1900-01-01T00:00:00Z"), microseconds("2150-01-01T00:00:00Z")
                ),
                choose.randrange(-30 * DAY, 30 * DAY),
                week + choose.randrange(7 * DAY),
                week + choose.randrange(7 * DAY),
                week + choose.randrange(20) * 3600 * SECOND,
            )
        )
        unit = choose.choice((1, 1, SECOND, 60 * SECOND, 3600 * SECOND, DAY))
        return moment // unit * unit - choose.choice((0, 0, 0, 1))

    @classmethod
    def random_record(cls, choose: random.Random) -> dict[str, Json]:
        """A record as it is posted."""
        attributes: dict[str, Json] = {}
        if choose.random() < 0.5:
            attributes["user"] = choose.choice(("bob", "eve", "", None, True, 7, "7"))
        if choose.random() < 0.3:
            attributes["http.status"] = choose.choice((200, 404, "404", 500.5))
        return {
            "timestamp": timestamp(cls.random_moment(choose)),
            "service": choose.choices(cls.SERVICES, (50, 30, 10, 8, 1, 1))[0],
            "severity": choose.choices(SEVERITIES, (20, 50, 20, 9, 1))[0],
            "message": " ".join(choose.choices(cls.WORDS, k=choose.randint(1, 4))),
            "attributes": attributes,
        }

    def random_filters(self, choose: random.Random) -> tuple[Pairs, list[Test]]:
        """Parameters, and for each what it means."""
        pairs: Pairs = []
        tests: list[Test] = []
        some = choose.choice((0.1, 0.3, 0.6))

        def add(name: str, value: str, test: Test) -> None:
            if choose.random() < some:
                pairs.append((name, value))
                tests.append(test)

        def bound(name: str, moment: int, field: str, end: bool) -> None:
            value, exact = timestamp(moment), moment
            if choose.random() < 0.3:
                value, exact = value[:10], moment // DAY * DAY + (DAY - 1 if end else 0)
            add(
                name,
                value,
                lambda r: getattr(r, field) <= exact if end else getattr(r, field) >= exact,
            )

        severities = choose.sample(range(5), choose.randint(1, 3))
        names = [choose.choice((SEVERITIES[n], SEVERITIES[n].lower())) for n in severities]
        add("severity", ",".join(names), lambda r: r.severity in severities)
        least = choose.randrange(5)
        add("min_severity", SEVERITIES[least], lambda r: r.severity >= least)
        services = choose.sample(
            [s for s in self.SERVICES if "," not in s] + ["unknown"], choose.randint(1, 3)
        )
        add("service", ",".join(services), lambda r: r.service in services)
        others = choose.sample(services, choose.randint(1, len(services)))
        add("not_service", ",".join(others), lambda r: r.service not in others)
        known = [choose.choice(self.records) for _ in range(4)]
        for name, end in (("start", False), ("end", True)):
            for field in ("timestamp", "received_at"):
                moment: int = getattr(known.pop(), field)
                if field == "timestamp" and choose.random() < 0.5:
                    moment = self.random_moment(choose)
                bound(f"{field}_{name}", moment, field, end)
        word = choose.choice(self.WORDS)
        begin = choose.randrange(len(word))
        part = word[begin : begin + choose.randint(1, 4)]
        part = part.swapcase() if part.isascii() else part
        add("contains", part, lambda r: part.lower() in r.message.lower())
        letter = choose.choice("aeoTU ")
        add("contains", letter, lambda r: letter.lower() in r.message.lower())
        absent = choose.choice(self.WORDS)
        add("not_contains", absent.swapcase(), lambda r: absent.lower() not in r.message.lower())
        for key, values in (
            ("user", ("bob", "", "null", "true", "7", "no")),
            ("http.status", ("404", "500.5")),
        ):
            self.attribute(add, key, choose.choice(values))
        return pairs, tests

    def attribute(self, add: Callable[[str, str, Test], None], key: str, value: str) -> None:
        """Adds the filter that an attribute is that text, or JSON that is written so;
        and the one that it is not."""

        def test(r: Known) -> bool:
            return key in r.attributes and value in (
                r.attributes[key], json.dumps(r.attributes[key])
            )

        add(f"attr.{key}", value, test)
        add(f"not_attr.{key}", value, lambda r: not test(r))

    def expected(self, tests: list[Test], descending: bool = False) -> list[Known]:
        """What the model finds, in order."""
        return sorted(
            (r for r in self.records if all(test(r) for test in tests)), reverse=descending
        )

    def test_random_queries_find_what_the_model_finds(self) -> None:
        choose = random.Random(self.SEED + 1)
        for number in range(200):
            pairs, tests = self.random_filters(choose)
            order, limit = (
                choose.choice(("asc", "desc", None)),
                choose.choice((None, None, 0, 1, 7, 500)),
            )
            expected = [record.id for record in self.expected(tests, order != "asc")]
            pairs += [("order", order)] if order else []
            pairs += [("limit", str(limit))] if limit is not None else []
            path = f"/logs?{encode(pairs)}"
            with self.subTest(number, path=path):
                answer = self.server.get(path)
                self.assertEqual(answer.status, 200, answer.text)
                most = {None: 100, 0: len(expected)}.get(limit, limit) or 0
                check_same((record["id"] for record in answer.json), expected[:most])
                self.assertEqual("link" in answer.headers, len(expected) > most)

    def test_the_pages_of_random_queries_are_what_the_model_finds(self) -> None:
        choose = random.Random(self.SEED + 2)
        for number in range(40):
            pairs, tests = self.random_filters(choose)
            order = choose.choice(("asc", "desc"))
            expected = [record.id for record in self.expected(tests, order == "desc")]
            limit = max(len(expected) // choose.randint(2, 6), 1)
            path = f"/logs?{encode([*pairs, ('order', order), ('limit', str(limit))])}"
            with self.subTest(number, path=path):
                got: list[int] = []
                while path and len(got) <= len(expected):
                    answer = self.server.get(path)
                    got += [record["id"] for record in answer.json]
                    path = next_page(path, answer)
                check_same(got, expected)

    def test_random_statistics_are_what_the_model_counts(self) -> None:
        choose = random.Random(self.SEED + 3)
        for number in range(100):
            pairs, tests = self.random_filters(choose)
            expected = self.expected(tests)
            step = choose.choice((None, *self.STEPS, *self.LONG_STEPS))
            bars = self.bars(expected, step[1] * SECOND, dict(pairs)) if step else []
            pairs += [("step", step[0])] if step else []
            path = f"/stats?{encode(pairs)}"
            with self.subTest(number, path=path):
                answer = self.server.get(path)
                self.assertEqual(answer.status, 200, answer.text)
                self.assertEqual(answer.json["total"], len(expected))
                self.assertEqual(
                    answer.json["by_service"], collections.Counter(r.service for r in expected)
                )
                severities = collections.Counter(SEVERITIES[r.severity] for r in expected)
                self.assertEqual(
                    {k: v for k, v in answer.json["by_severity"].items() if v}, severities
                )
                ends = [timestamp(expected[n].timestamp) if expected else None for n in (0, -1)]
                self.assertEqual(
                    [answer.json["first_timestamp"], answer.json["last_timestamp"]], ends
                )
                if step:
                    check_same(answer.json["histogram"], bars)

    def bars(
        self, records: list[Known], step: int, query: dict[str, str]
    ) -> list[dict[str, Json]]:
        """The histogram of the model; where it would be long, only the steps that hold records."""
        first = records[0].timestamp if records else None
        last = records[-1].timestamp if records else None
        if start := query.get("timestamp_start"):
            first = microseconds(start if len(start) > 10 else f"{start}T00:00:00Z")
        if end := query.get("timestamp_end"):
            last = microseconds(end if len(end) > 10 else f"{end}T23:59:59.999999Z")
        if first is None or last is None:
            return []
        begins: Sequence[int] = range(first // step * step, last + 1, step)
        if len(begins) > 10_000:
            begins = sorted({r.timestamp // step * step for r in records})
        counts = collections.Counter((r.timestamp // step * step, r.severity) for r in records)
        return [
            {"start": timestamp(begin)}
            | {name: counts[begin, n] for n, name in enumerate(SEVERITIES)}
            for begin in begins
        ]


class LargeStore(ServerTests):
    """Ranges of many ids are read in another way; the answers are the same. Here 2,000 are many."""

    settings = {"constants": {"NARROW_IDS": 2_000}}
    records: list[Known]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        choose = random.Random(7)
        for _ in range(5):
            lines = [
                f'{{"message": "m", "service": "s{choose.randrange(3)}",'
                f' "severity": "{choose.choice(SEVERITIES)}",'
                f' "timestamp": {1795486452_000000 + choose.randrange(10**9)}}}'
                for _ in range(1000)
            ]
            assert cls.server.post("\n".join(lines), SHIPPER).status == 200
        cls.records = [
            Known(row[0], row[1], row[2], row[3], row[4] // 10 - 1, "", {})
            for row in cls.server.sql(
                "SELECT timestamp, id, received_at, service, severity FROM logs ORDER BY 1, 2"
            )
        ]

    def test_streams_and_ranges_of_receipt_find_all_in_order(self) -> None:
        received = sorted({record.received_at for record in self.records})
        early, late = timestamp(received[1]), timestamp(received[-2])
        cases: tuple[tuple[str, Test], ...] = (
            ("", lambda r: True),
            ("severity=ERROR", lambda r: r.severity == 3),
            ("service=s1&min_severity=ERROR", lambda r: r.service == "s1" and r.severity >= 3),
            (f"received_at_start={early}", lambda r: r.received_at >= received[1]),
            (f"received_at_end={late}&service=s0,s2",
             lambda r: r.received_at <= received[-2] and r.service != "s1"),
            (
                f"received_at_start={early}&received_at_end={early}&severity=INFO",
                lambda r: r.received_at == received[1] and r.severity == 1,
            ),
        )
        for query, test in cases:
            expected = [record.id for record in self.records if test(record)]
            with self.subTest(query):
                whole = self.server.get(
                    f"/logs?limit=0&format=csv&order=asc&{query}"
                ).text.splitlines()[1:]
                check_same((int(line.partition(",")[0]) for line in whole), expected)
                page = self.server.get(f"/logs?limit=500&{query}")
                check_same((record["id"] for record in page.json), expected[:-501:-1])
            with self.subTest(query, path="/stats"):
                self.assertEqual(self.server.get(f"/stats?{query}").json["total"], len(expected))


if __name__ == "__main__":
    unittest.main()
