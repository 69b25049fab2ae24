"""One specification for every store: the same tests run on SQLite and on a real ClickHouse.

Each test asks the server and compares with `expected`, a query engine of a few lines over the list
of the records that were sent. So both stores are held to the same answers; a last class puts the
two side by side.
"""

from __future__ import annotations

import collections
import csv
import io
import itertools
import json
import threading
import time
import unittest
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from clickhouse import Engine  # type: ignore[import-not-found]

from tests.load import Follower, together
from tests.support import (
    DAY,
    HOUR,
    OTHER_TOKEN,
    SECOND,
    SEVERITIES,
    SHIPPER,
    Server,
    microseconds,
    query,
    timestamp,
    visible,
)

Json = Any
Record = dict[str, Json]

HOSTILE = [
    "it's",
    'a "quoted" word',
    "back\\slash",
    "\\",
    "\\'",
    "\\n is no newline",
    "100%",
    "%",
    "_",
    "a_b",
    "nul\0within",
    "\0",
    "emoji 😀 and 👩‍👩‍👧",
    "new\nline",
    "tab\there",
    "carriage\rreturn",
    "\u2028\u2029\x7f\x1b[31m",
    "\\N",
    "NULL",
    "{p:String}",
    "{0} ${x} %(x)s %s ?1 :a @b",
    "'; DROP TABLE logs; --",
    '"}); --',
    "' OR '1'='1",
    "/* */ -- #",
    " blanks around ",
    "ÁÉÍ ñandú ÇA ΣΊΣΥΦΟΣ Ж",
    "<script>alert(1)</script>&amp;",
    "[1, 2]",
    '{"a": 1}',
    "true",
    "0",
    "1e3",
]


# Values of attributes. Engines like to write numbers their own way.
NUMBERS = [1.0, 1.5, -0.0, 1e5, 1e-7, 1e300, 2**53, 2**63, 2**64, 10**30, -(10**20)]
NESTED: list[Json] = [
    *([], {}, [1, "2", None], {"a": {"b": [1, 2.0]}, "c": "d, e"}, {"value": "inner"}),
    *('", "other": "x', '","other":"x', 'x", "value": "deep'),
]


BASE = microseconds("2026-03-01T12:00:00Z")


def corpus() -> Iterator[Record]:
    """What is sent, in this order."""

    def record(
        message: str, moment: int, service: str = "app", severity: str = "INFO", **attributes: Json
    ) -> Record:
        fields = {
            "message": message,
            "service": service,
            "severity": severity,
            "attributes": attributes,
        }
        return {**fields, "timestamp": timestamp(moment)}

    # Every severity and service, out of order, and many at the same moment.
    for number in range(60):
        severity = list(SEVERITIES)[number % 5]
        service = ("app", "web", "worker")[number % 3]
        moment = BASE + (number * 7 % 20) * 90 * SECOND
        message = f"request {number} took {number * 13 % 400} ms"
        yield record(message, moment, service, severity, n=number, even=number % 2 == 0)
    for number, text in enumerate(HOSTILE):
        yield record(f"hostile: {text}", BASE + DAY + number, "app", "ERROR", text=text)
        yield record("in the key", BASE + 2 * DAY + number, "app", "DEBUG", **{text: "value"})
        if "," not in text:  # which separates several services in a query
            yield record("in the service", BASE + 3 * DAY + number, text, "CRITICAL")
        yield record(text, BASE + 4 * DAY, "app", "WARNING")
    for far in (
        microseconds("0001-01-01T00:00:00Z"),
        -1,
        0,
        microseconds("9999-12-31T23:59:59.999999Z"),
    ):
        yield record("far away", far, "ages")
    for value in (1, *NUMBERS, True, False, None, "", "1", "null"):
        yield record("typed", BASE + 5 * DAY, "typed", "INFO", value=value, other="here")
    for value in NESTED:
        yield record("nested", BASE + 5 * DAY, "typed", "INFO", value=value, other="here")
    yield record(
        "nested", BASE + 5 * DAY, "typed", "INFO", inner={"value": "deep", "other": "deep"}
    )
    # The wanted text stands deeper, and another number of the same size at the top.
    yield record("nested", BASE + 5 * DAY, "typed", "INFO", value=1.0, inner={"value": 1})
    yield record("nested", BASE + 5 * DAY, "typed", "INFO", value=2**64, inner={"value": 2.0**64})
    deep: Json = 1
    for _ in range(400):
        deep = {"value": deep}
    yield record("nested", BASE + 5 * DAY, "typed", "INFO", inner=deep, value=True)
    yield record("x" * 200_000 + " the end of a long message", BASE + 6 * DAY, "long")
    yield record(
        "many attributes",
        BASE + 6 * DAY,
        "long",
        "INFO",
        **{f"key{n}": f"value{n}" for n in range(2_000)},
    )


RECORDS = list(corpus())


def expected(
    test: Callable[[Record], Json] = lambda _: True,
    descending: bool = True,
    records: list[Record] | None = None,
) -> list[Record]:
    """The records that pass, in the order of (timestamp, receipt)."""
    chosen = [record for record in (RECORDS if records is None else records) if test(record)]
    # A stable sort: receipt comes second.
    chosen.sort(key=lambda record: microseconds(record["timestamp"]))
    return chosen[::-1] if descending else chosen


def sent_part(records: list[Record]) -> list[Record]:
    """Records as they were sent, without what the server adds."""
    return [
        {name: value for name, value in record.items() if name not in ("id", "received_at")}
        for record in records
    ]


def has(key: str, value: Json) -> Callable[[Record], bool]:
    """A test for an attribute that is exactly this value: 1 is neither 1.0 nor true."""

    def test(record: Record) -> bool:
        attributes = record["attributes"]
        return key in attributes and json.dumps(attributes[key]) == json.dumps(value)

    return test


# What is asked for, and a test that says which records that is.
FILTERS: list[tuple[str, Callable[[Record], Json]]] = [
    (query(), lambda _: True),
    (query(severity="ERROR"), lambda r: r["severity"] == "ERROR"),
    (query(severity="error,Critical"), lambda r: r["severity"] in ("ERROR", "CRITICAL")),
    (query(("severity", "DEBUG"), ("severity", "INFO")),
     lambda r: r["severity"] in ("DEBUG", "INFO")),
    (query(min_severity="WARNING"), lambda r: SEVERITIES[r["severity"]] >= 30),
    (query(min_severity="WARNING", severity="INFO,ERROR"), lambda r: r["severity"] == "ERROR"),
    (query(service="web"), lambda r: r["service"] == "web"),
    (query(service="web,worker"), lambda r: r["service"] in ("web", "worker")),
    (query(service="nobody"), lambda _: False),
    (query(service="web", severity="ERROR"),
     lambda r: r["service"] == "web" and r["severity"] == "ERROR"),
    (query(timestamp_start=timestamp(BASE + 450 * SECOND)),
     lambda r: microseconds(r["timestamp"]) >= BASE + 450 * SECOND),
    (query(timestamp_end=timestamp(BASE + 450 * SECOND)),
     lambda r: microseconds(r["timestamp"]) <= BASE + 450 * SECOND),
    (
        query(timestamp_start="2026-03-01", timestamp_end="2026-03-01"),
        lambda r: r["timestamp"].startswith("2026-03-01"),
    ),
    (query(timestamp_end="1970-01-01T00:00:00Z"), lambda r: microseconds(r["timestamp"]) <= 0),
    (query(timestamp_start="9999-12-31"), lambda r: r["timestamp"].startswith("9999-12-31")),
    (query(received_at_start="2026-01-01T00:00:00Z"), lambda _: True),
    (query(received_at_end="2026-01-01T00:00:00Z"), lambda _: False),
    (query(received_at_start="2030-01-01", severity="ERROR"), lambda _: False),
    (query(since="1h", timestamp_end="2026-03-05"), lambda _: False),
    (query(contains="REQUEST 4"), lambda r: "request 4" in r["message"]),
    (query(contains="the END of a long"),
     lambda r: r["service"] == "long" and "end" in r["message"]),
    (query(contains="found nowhere"), lambda _: False),
    (query(contains="áéí ÑANDÚ"), lambda r: "ñandú" in r["message"].lower()),
    (query(not_service="web,long"), lambda r: r["service"] not in ("web", "long")),
    (query(not_contains="REQUEST 4"), lambda r: "request 4" not in r["message"].lower()),
    (query(not_contains="áéí ÑANDÚ"), lambda r: "ñandú" not in r["message"].lower()),
    (query(("not_attr.even", "true")), lambda r: not has("even", True)(r)),
    (query(("not_attr.value", "1"), service="typed"),
     lambda r: r["service"] == "typed" and not (has("value", 1)(r) or has("value", "1")(r))),
    (query(("attr.n", 7)), has("n", 7)),
    (query(("attr.even", "true"), ("attr.n", 8)), has("n", 8)),
    (
        query(("attr.even", "false"), service="web"),
        lambda r: r["service"] == "web" and r["attributes"].get("even") is False,
    ),
    (query(("attr.other", "here")), has("other", "here")),
    (query(("attr.key1999", "value1999")), has("key1999", "value1999")),
    (query(("attr.missing", "")), lambda _: False),
    (query(("attr.missing", "null")), lambda _: False),
    (query(("attr.value", "deep")), lambda _: False),
    (query(("attr.value", "inner")), lambda _: False),
    (query(("attr.value", '1, "other": "here"')), lambda _: False),
    (query(("attr.value", '1,"other":"here"')), lambda _: False),
    (query(("attr.value", "1"), contains="typed"),
     lambda r: has("value", 1)(r) or has("value", "1")(r)),
    (query(("attr.value", "null"), service="typed"),
     lambda r: has("value", None)(r) or has("value", "null")(r)),
    (query(("attr.value", "")), has("value", "")),
    (query(("attr.value", '", "other": "x')), has("value", '", "other": "x')),
    *[
        (query(("attr.value", json.dumps(value))), has("value", value))
        for value in (*NUMBERS, True, False)
    ],
]


class EveryStore:
    """The tests; a subclass says which store the server has."""

    server: Server
    # All records as the server gives them, in the order in which they were sent.
    answers: list[Record]

    assertEqual: Any  # unittest.TestCase has them
    assertTrue: Any
    assertIn: Any
    assertLess: Any
    subTest: Any

    @classmethod
    def fill(cls, server: Server) -> None:
        """Sends the records, in batches of several sizes."""
        cls.server = server
        sizes = [1, 2, 7, 50]
        rest = RECORDS
        ids: list[int] = []
        while rest:
            size = sizes[len(rest) % len(sizes)]
            batch, rest = rest[:size], rest[size:]
            answer = server.post(batch, token=SHIPPER)
            assert answer.status == 200, answer.text
            assert (answer.json["accepted"], answer.json["rejected"]) == (len(batch), 0), (
                answer.text
            )
            ids += [answer.json["first_id"], answer.json["last_id"]]
        assert ids == sorted(ids), "ids grow in the order of commits"
        cls.answers = sorted(server.get("/logs?limit=0").json, key=lambda record: record["id"])

    def pages(self, path: str) -> Iterator[list[Record]]:
        """Follows the links from page to page."""
        while path:
            answer = self.server.get(path)
            self.assertEqual(answer.status, 200, f"{path}: {answer.text}")
            yield answer.json
            link = answer.headers.get("link", "")
            path = urllib.parse.urljoin(path, link[1 : link.index(">")]) if link else ""

    # Records

    def test_every_record_comes_back_as_it_was_sent(self):
        self.assertEqual(len(self.answers), len(RECORDS))
        for sent, got in zip(RECORDS, sent_part(self.answers), strict=True):
            self.assertEqual(json.dumps(got, sort_keys=True), json.dumps(sent, sort_keys=True))

    def test_ids_are_unique_and_safe_in_javascript(self):
        ids = [record["id"] for record in self.answers]
        self.assertEqual(len(set(ids)), len(ids))
        self.assertTrue(all(0 < number < 2**53 for number in ids))

    def test_the_time_of_receipt_grows_with_the_ids(self):
        received = [record["received_at"] for record in self.answers]
        self.assertEqual(received, sorted(received))
        self.assertLess(abs(microseconds(received[-1]) / SECOND - time.time()), 600)

    def test_a_record_is_found_by_its_id(self):
        for record in self.answers[::20]:
            self.assertEqual(self.server.get(f"/logs/{record['id']}").json, record)
        for number in (0, 1 << 50, self.answers[-1]["id"] + (1 << 40), "999999999999999999"):
            self.assertEqual(self.server.get(f"/logs/{number}").status, 404, number)

    def test_half_a_surrogate_pair_becomes_a_replacement_character(self):
        with self.another_server() as server:
            answer = server.post(b'{"message": "half \\ud83d of it", "\\udc00": "\\ud800"}')
            record = server.get(f"/logs/{answer.json['first_id']}").json
            self.assertEqual(record["message"], "half \ufffd of it")
            self.assertEqual(record["attributes"], {"\ufffd": "\ufffd"})

    def test_what_was_given_out_can_be_posted_to_another_server(self):
        """The recipe to move from one store to another."""
        everything = self.server.get("/logs?limit=0&order=asc&format=ndjson").body
        with self.another_server() as server:
            answer = server.post(everything, token=SHIPPER)
            self.assertEqual((answer.status, answer.json["accepted"]), (200, len(RECORDS)))
            moved = server.get("/logs?limit=0&order=asc&format=ndjson").body
            self.assertEqual(
                *(
                    sent_part([json.loads(line) for line in text.splitlines()])
                    for text in (everything, moved)
                )
            )

    def test_nothing_is_dropped_for_being_the_same(self):
        with self.another_server() as server:
            for _ in range(3):
                answer = server.post([{"message": "tick", "timestamp": "2026-01-01"}] * 2)
                self.assertEqual((answer.status, answer.json["accepted"]), (200, 2))
            self.assertEqual(server.get("/stats").json["total"], 6)

    # Queries

    def test_every_filter_gives_exactly_its_records_in_order(self):
        for path, test in FILTERS:
            for order in ("desc", "asc"):
                with self.subTest(path=path, order=order):
                    answer = self.server.get(f"{path}&order={order}&limit=10000")
                    self.assertEqual(answer.status, 200, answer.text)
                    self.same(sent_part(answer.json), expected(test, order == "desc"))

    def same(self, got: list[Record], wanted: list[Record]) -> None:
        """Compares records; a difference is shown by their messages and attributes alone."""
        if got != wanted or list(map(json.dumps, got)) != list(map(json.dumps, wanted)):
            self.assertEqual(
                *[
                    [str((r["message"][:60], r["timestamp"], r["attributes"]))[:150] for r in rs]
                    for rs in (got, wanted)
                ]
            )
            self.assertEqual(json.dumps(got, sort_keys=True), json.dumps(wanted, sort_keys=True))

    def test_hostile_text_is_found_where_it_stands_and_nowhere_else(self):
        for text in HOSTILE:
            cases = {
                query(contains=text): lambda r, text=text: text.lower() in r["message"].lower(),
                query(("attr.text", text)): lambda r, text=text: (
                    r["attributes"].get("text") == text
                ),
                query(("attr." + text, "value")): lambda r, text=text: (
                    r["attributes"].get(text) == "value"
                ),
                query(service=text): lambda r, text=text: r["service"] in text.split(","),
            }
            for path, test in cases.items():
                with self.subTest(path=path):
                    answer = self.server.get(path + "&limit=10000")
                    self.assertEqual(answer.status, 200, answer.text)
                    self.same(sent_part(answer.json), expected(test))

    def test_text_is_found_whatever_its_case(self):
        for needle in ("ÁÉÍ", "áéí", "Ñandú", "ça", "σίσυφ", "ж", "REQUEST 59 TOOK"):
            with self.subTest(needle=needle):
                answer = self.server.get(query(contains=needle, limit=10000))
                self.same(
                    sent_part(answer.json),
                    expected(lambda r, n=needle: n.lower() in r["message"].lower()),
                )

    def test_the_time_of_receipt_limits_on_both_ends_and_both_count(self):
        times = sorted({record["received_at"] for record in self.answers})
        for first, last in ((times[0], times[0]), (times[1], times[-2]), (times[-1], times[-1])):
            path = query(received_at_start=first, received_at_end=last, order="asc", limit=10000)
            wanted = [r["id"] for r in self.answers if first <= r["received_at"] <= last]
            self.assertEqual(sorted(record["id"] for record in self.server.get(path).json), wanted)

    def test_pages_follow_one_another_without_gap_or_repeat(self):
        filters = [
            query(),
            query(severity="INFO,WARNING"),
            query(service="typed"),
            query(contains="took"),
            query(service="app"),
        ]
        for path in filters:
            for order in ("desc", "asc"):
                whole = self.server.get(f"{path}&order={order}&limit=10000").json
                for limit in (1, 7, 100) if len(whole) < 100 else (13, 100):
                    with self.subTest(path=path, order=order, limit=limit):
                        pages = list(self.pages(f"{path}&order={order}&limit={limit}"))
                        self.assertEqual(
                            [len(page) for page in pages[:-1]], [limit] * (len(pages) - 1)
                        )
                        self.assertEqual(
                            [r["id"] for page in pages for r in page], [r["id"] for r in whole]
                        )

    def test_limit_0_gives_all(self):
        self.same(sent_part(self.server.get("/logs?limit=0").json), expected())
        self.same(
            sent_part(self.server.get("/logs?limit=0&order=asc&severity=ERROR").json),
            expected(lambda r: r["severity"] == "ERROR", False),
        )
        self.assertEqual(self.server.get("/logs?limit=0&service=nobody").json, [])

    def test_100_records_are_the_default(self):
        self.same(sent_part(self.server.get("/logs").json), expected()[:100])

    def test_every_format_holds_the_same(self):
        csv.field_size_limit(1 << 20)
        for limit in (0, 40, 1000):
            wanted = self.server.get(f"/logs?limit={limit}").json
            lines = self.server.get(f"/logs?limit={limit}&format=ndjson").body.decode().split("\n")
            self.assertEqual([json.loads(line) for line in lines if line], wanted)
            text = self.server.get(f"/logs?limit={limit}&format=csv").body.decode()
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            self.assertEqual([int(row["id"]) for row in rows], [record["id"] for record in wanted])
            for row, record in zip(rows, wanted, strict=True):
                self.assertEqual(json.loads(row["attributes"]), record["attributes"])
                self.assertEqual(row["message"], visible(record["message"]))

    # Statistics

    def test_stats_count_exactly_what_the_filters_choose(self):
        for path, test in FILTERS:
            with self.subTest(path=path):
                answer = self.server.get(path.replace("/logs", "/stats"))
                self.assertEqual(answer.status, 200, answer.text)
                self.assertEqual(answer.json, stats(expected(test, descending=False)))

    def test_a_histogram_counts_every_step_and_the_empty_ones(self):
        for step, length, parameters, test in HISTOGRAMS:
            low, high = parameters.get("timestamp_start"), parameters.get("timestamp_end")

            def chosen(
                r: Record, low: Json = low, high: Json = high, test: Callable[[Record], Json] = test
            ) -> Json:
                return (low or "") <= r["timestamp"] <= (high or "~") and test(r)

            with self.subTest(step=step, **parameters):
                answer = self.server.get(query(step=step, **parameters).replace("/logs", "/stats"))
                self.assertEqual(answer.status, 200, answer.text)
                found = expected(chosen, descending=False)
                self.assertEqual(answer.json["total"], len(found))
                self.assertEqual(answer.json["histogram"], histogram(found, length, low, high))

    # Following

    def test_a_follower_gets_the_last_records_and_then_each_as_it_is_committed(self):
        with self.another_server() as server:
            server.post([{"message": f"before {n}"} for n in range(5)])
            with Follower(server, "limit=2") as follower:
                follower.wait(2)
                for number in range(20):
                    server.post([{"message": f"after {number}.{part}"} for part in range(3)])
                wanted = ["before 3", "before 4"] + [
                    f"after {n}.{part}" for n in range(20) for part in range(3)
                ]
                self.assertEqual(
                    [record["message"] for record in follower.wait(len(wanted))], wanted
                )
            self.assertEqual(
                follower.records, server.get("/logs?order=asc&limit=0").json[-len(wanted) :]
            )

    def test_a_follower_filters(self):
        with (
            self.another_server() as server,
            Follower(server, "severity=ERROR&contains=YES&attr.user=bob") as follower,
        ):
            for severity in SEVERITIES:
                for message in ("yes", "no"):
                    for user in ("bob", "eve"):
                        server.post({"message": message, "severity": severity, "user": user})
            server.post({"message": "yes, the last", "severity": "ERROR", "user": "bob"})
            self.assertEqual(
                [record["message"] for record in follower.wait(2)], ["yes", "yes, the last"]
            )

    def test_a_follower_that_comes_back_misses_and_repeats_nothing(self):
        with self.another_server() as server:
            writer = threading.Thread(
                target=lambda: [server.post({"message": str(n)}) for n in range(150)]
            )
            writer.start()
            records: list[Record] = []
            while len(records) < 150:
                after = records[-1]["id"] if records else 0
                with Follower(server, f"after={after}") as follower:
                    records += follower.wait(min(10, 150 - len(records)))
            writer.join()
            self.assertEqual(
                [record["message"] for record in records], [str(n) for n in range(150)]
            )

    # The promise

    def test_an_idempotency_key_stores_a_batch_once_and_repeats_the_answer(self):
        with self.another_server() as server:
            body = [
                {"message": "good"},
                {"message": ""},
                {"message": "also", "severity": "?"},
                {"message": "fine"},
            ]
            first = server.post(body, Idempotency_Key="key 1")
            for _ in range(3):
                again = server.post(body, Idempotency_Key="key 1")
                self.assertEqual((again.status, again.json), (first.status, first.json))
                self.assertEqual(again.headers.get("idempotent-replayed"), "true")
            self.assertEqual((first.json["accepted"], first.json["rejected"]), (2, 2))
            self.assertEqual(first.headers.get("idempotent-replayed"), None)
            self.assertEqual(server.get("/stats").json["total"], 2)

    def test_a_key_is_known_by_its_token_and_its_body(self):
        with self.another_server() as server:
            self.assertEqual(server.post({"message": "a"}, Idempotency_Key="k").status, 200)
            self.assertEqual(server.post({"message": "b"}, Idempotency_Key="k").status, 422)
            self.assertEqual(
                server.post({"message": "a"}, OTHER_TOKEN, Idempotency_Key="k").status, 200
            )
            self.assertEqual(server.post({"message": "a"}, Idempotency_Key="K").status, 200)
            self.assertEqual(server.get("/stats").json["by_service"], {"app": 2, "web": 1})

    def test_one_key_sent_by_many_at_once_stores_one_batch(self):
        with self.another_server() as server:
            answers = together(
                20, lambda n: server.post([{"message": "x"}] * 50, Idempotency_Key=f"key {n % 4}")
            )
            self.assertEqual({answer.status for answer in answers}, {200})
            self.assertEqual(len({answer.json["first_id"] for answer in answers}), 4)
            self.assertEqual(server.get("/stats").json["total"], 200)

    def test_who_writes_reads_it_at_once(self):
        with self.another_server() as server:
            for number in range(1, 60):
                record = server.post({"message": str(number), "severity": "ERROR"}).json["first_id"]
                self.assertEqual(server.get("/logs?limit=1").json[0]["id"], record)
                self.assertEqual(server.get("/stats?severity=ERROR").json["total"], number)

    def test_many_writers_at_once_lose_nothing(self):
        with self.another_server() as server:
            answers = together(
                16, lambda n: [server.post([{"message": f"{n} {part}"}] * 3) for part in range(10)]
            )
            self.assertTrue(all(answer.status == 200 for several in answers for answer in several))
            messages = collections.Counter(
                record["message"] for record in server.get("/logs?limit=0").json
            )
            self.assertEqual(messages, {f"{n} {part}": 3 for n in range(16) for part in range(10)})


def stats(records: list[Record]) -> Json:
    """What GET /stats says of these records, the oldest first."""
    by_severity = collections.Counter(record["severity"] for record in records)
    return {
        "total": len(records),
        "by_service": dict(collections.Counter(record["service"] for record in records)),
        "by_severity": {name: by_severity[name] for name in SEVERITIES},
        "first_timestamp": records[0]["timestamp"] if records else None,
        "last_timestamp": records[-1]["timestamp"] if records else None,
    }


def histogram(records: list[Record], step: int, low: str | None, high: str | None) -> list[Json]:
    """Its histogram: from `low` to `high`, or else from the first record to the last."""
    if not (records or (low and high)):
        return []
    first, last = (
        microseconds(low or records[0]["timestamp"]),
        microseconds(high or records[-1]["timestamp"]),
    )
    counts = collections.Counter(
        (microseconds(r["timestamp"]) // step, r["severity"]) for r in records
    )
    steps = range(first // step, last // step + 1)
    return [
        {"start": timestamp(n * step), **{name: counts[n, name] for name in SEVERITIES}}
        for n in steps
    ]


# A step, its length, the filters, and a test for those that are not of time.
HISTOGRAMS: list[tuple[str, int, dict[str, str], Callable[[Record], Json]]] = [
    ("15m", 900 * SECOND,
     {"timestamp_start": timestamp(BASE), "timestamp_end": timestamp(BASE + DAY)},
     lambda _: True),
    ("1h", HOUR,
     {"timestamp_start": timestamp(BASE - 1), "timestamp_end": timestamp(BASE + DAY + 7)},
     lambda _: True),
    (
        "1d",
        DAY,
        {"timestamp_start": timestamp(BASE - DAY), "timestamp_end": timestamp(BASE + 9 * DAY),
         "severity": "ERROR,INFO"},
        lambda r: r["severity"] in ("ERROR", "INFO"),
    ),
    ("7m", 420 * SECOND, {"service": "web", "timestamp_end": timestamp(BASE + DAY)},
     lambda r: r["service"] == "web"),
    ("30s", 30 * SECOND, {"contains": "TOOK"}, lambda r: "took" in r["message"]),
    ("2h", 2 * HOUR, {"attr.even": "true"}, has("even", True)),
    ("1s", SECOND,
     {"timestamp_start": timestamp(-10 * SECOND), "timestamp_end": timestamp(5 * SECOND)},
     lambda _: True),
    ("7d", 7 * DAY,
     {"timestamp_start": timestamp(-100 * DAY), "timestamp_end": timestamp(100 * DAY)},
     lambda _: True),
    ("1h", HOUR, {"service": "nobody"}, lambda _: False),
]


class SQLiteStoreTests(EveryStore, unittest.TestCase):
    """On SQLite."""

    @classmethod
    def setUpClass(cls):
        cls.fill(cls.enterClassContext(Server()))

    def another_server(self) -> Server:
        return Server()


class ClickHouseStoreTests(EveryStore, unittest.TestCase):
    """On ClickHouse."""

    @classmethod
    def setUpClass(cls):
        cls.engine = cls.enterClassContext(Engine())
        cls.fill(cls.enterClassContext(Server(store=cls.engine.url)))
        cls.databases = 0

    def another_server(self) -> Server:
        type(self).databases += 1
        return Server(store=self.engine.database(f"logs{self.databases}"))


class SideBySideTests(unittest.TestCase):
    """The two of them, given the same, say the same."""

    @classmethod
    def setUpClass(cls):
        engine = cls.enterClassContext(Engine())
        cls.servers = [
            cls.enterClassContext(Server()),
            cls.enterClassContext(Server(store=engine.url)),
        ]
        for server in cls.servers:
            for start in range(0, len(RECORDS), 40):
                server.post(RECORDS[start : start + 40], token=SHIPPER)
        cls.numbers = [
            {
                record["id"]: number
                for number, record in enumerate(sorted(all_of(server), key=lambda r: r["id"]))
            }
            for server in cls.servers
        ]

    def answers(self, path: str) -> list[tuple[int, Json]]:
        """What both say, with ids counted from 0 and without times of receipt,
        which must differ."""
        results = []
        for server, numbers in zip(self.servers, self.numbers, strict=True):
            answer = server.get(path)
            body = answer.json
            if isinstance(body, list):
                body = [
                    {**record, "id": numbers[record["id"]], "received_at": ""} for record in body
                ]
            results.append((answer.status, body))
        return results

    def test_every_value_of_an_attribute_is_found_by_what_is_written_in_the_answer(self):
        attributes = [record["attributes"] for record in RECORDS if len(record["attributes"]) < 100]
        stored = [value for several in attributes for value in several.values()]
        values = {json.dumps(value, separators=(",", ":")) for value in stored} | set(
            map(json.dumps, stored)
        )
        values |= {value.strip('"') for value in values} | {
            "1E5", "+1", "01", "1.", "nan", "-0", "1e999", "[", '"',
        }
        for value in sorted(values):
            with self.subTest(value=value):
                self.assertEqual(*self.answers(query(("attr.value", value))))

    def test_odd_questions_get_the_same_answer(self):
        paths = [
            *(
                "/logs?contains=%00",
                "/logs?contains=%FF",
                "/logs?contains=%C4%B0",
                "/logs?attr.=x",
                "/logs?attr.a%22b=x",
            ),
            *("/logs?attr.text", "/logs?attr.%24.n=7", "/logs?attr.n%5B0%5D=7"),
            "/logs?attr.inner.value=deep",
            *("/logs?service=", "/logs?service=,", "/logs?service=web,,app", "/logs?severity=30"),
            "/logs?limit=-1",
            *("/logs?cursor=x", "/stats?step=1s", "/stats?step=52w&timestamp_end=9999-12-31"),
            "/stats?timestamp_start=2027-01-01&timestamp_end=2026-01-01",
        ]
        for path in paths:
            with self.subTest(path=path):
                self.assertEqual(*self.answers(path))

    def test_filters_in_every_combination_give_the_same_records_and_counts(self):
        several = [
            ["", "severity=ERROR,DEBUG", "min_severity=WARNING"],
            ["", "service=app,typed", "service=web"],
            ["", f"timestamp_start={timestamp(BASE)}&timestamp_end={timestamp(BASE + 5 * DAY)}"],
            ["", "contains=E", "contains=took", "attr.other=here"],
        ]
        for parts in itertools.product(*several):
            filters = "&".join(filter(None, parts))
            with self.subTest(filters=filters):
                self.assertEqual(*self.answers(f"/logs?{filters}&limit=300"))
                self.assertEqual(*self.answers(f"/logs?{filters}&limit=50&order=asc"))
                self.assertEqual(*self.answers(f"/stats?{filters}"))


def all_of(server: Server) -> list[Record]:
    """All records of a server."""
    records: list[Record] = server.get("/logs?limit=0").json
    return records


if __name__ == "__main__":
    unittest.main()
