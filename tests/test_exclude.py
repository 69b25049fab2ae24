"""`not_service`, `not_contains` and `not_attr.KEY`: all records but these, wherever filters are.

tests/test_get.py asks random questions with them too; here they stand alone.
"""

from __future__ import annotations

import json
import random
import unittest
import urllib.parse
from collections import Counter
from typing import ClassVar

from tests.load import Follower
from tests.support import SEVERITIES, SHIPPER, Json, Server, ServerTests

SERVICES = ("pagos", "pedidos", "chat", "ñ")
MESSAGES = ("Timeout of bob", "paid 100%", "a_b ÑANDÚ", "nul\0timeout", "plain")
USERS = ("bob", "7", 7, None, True, [7])
ADMIN = "test-admin"


def excluded(record: dict[str, Json], name: str, value: str) -> bool:
    """Whether a filter of this name excludes a record."""
    if name == "not_service":
        return record["service"] in value.split(",")
    if name == "not_contains":
        return value.casefold() in record["message"].casefold()
    key = name.removeprefix("not_attr.")
    if key not in record["attributes"]:
        return False
    known = record["attributes"][key]
    return value in (known, json.dumps(known, separators=(",", ":")))


class Exclude(ServerTests):
    SEED = 15
    # The constant is so low that what is rare is looked for in both ways.
    settings: ClassVar[dict[str, Json]] = {
        "constants": {"SAMPLE_RECORDS": 50},
        "admin_tokens": [ADMIN],
    }
    records: list[dict[str, Json]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.records = cls.filled(cls.server)

    def use_own_server(self) -> None:
        """For a test that changes what is stored: the others share one."""
        self.server = self.enterContext(Server(**self.settings))  # type: ignore[misc]
        self.records = self.filled(self.server)

    @classmethod
    def filled(cls, server: Server) -> list[dict[str, Json]]:
        """Posts random records; gives them as GET /logs does."""
        choose = random.Random(cls.SEED)
        body = []
        for _ in range(300):
            attributes = {"user": choose.choice(USERS)} if choose.random() < 0.7 else {}
            body.append(
                {
                    "service": choose.choice(SERVICES),
                    "severity": choose.choice(list(SEVERITIES)),
                    "message": choose.choice(MESSAGES),
                    "attributes": attributes,
                }
            )
        assert server.post(body, SHIPPER).json["accepted"] == len(body)
        records: list[dict[str, Json]] = server.get("/logs?limit=0").json
        assert len(records) == len(body)
        return records

    def random_filters(self, choose: random.Random) -> list[tuple[str, str]]:
        possible = [
            ("not_service", ",".join(choose.sample([*SERVICES, "nobody"], choose.randint(1, 3)))),
            ("not_service", choose.choice(SERVICES)),
            ("not_contains", choose.choice(("TIMEOUT", "0%", "_", "ñandú", "Ñ", "nowhere", "\0"))),
            ("not_contains", choose.choice(("bob", "a"))),
            ("not_attr.user", choose.choice(("bob", "7", "null", "true", "[7]", "", "no"))),
            ("not_attr.other", "x"),
            ('not_attr.a"b', "x"),
        ]
        return choose.sample(possible, choose.randint(1, 3))

    def expected(self, filters: list[tuple[str, str]]) -> list[dict[str, Json]]:
        return [
            record
            for record in self.records
            if not any(excluded(record, name, value) for name, value in filters)
        ]

    def test_random_exclusions_find_all_records_but_these(self) -> None:
        choose = random.Random(self.SEED + 1)
        for number in range(80):
            filters = self.random_filters(choose)
            encoded = urllib.parse.urlencode(filters)
            with self.subTest(number, query=encoded):
                expected = self.expected(filters)
                self.assertEqual(self.server.get(f"/logs?{encoded}&limit=0").json, expected)
                stats = self.server.get(f"/stats?{encoded}&step=1h").json
                self.assertEqual(stats["total"], len(expected))
                services = Counter(record["service"] for record in expected)
                self.assertEqual(stats["by_service"], services)
                steps = [sum(bar[name] for name in SEVERITIES) for bar in stats["histogram"]]
                self.assertEqual(sum(steps), len(expected))

    def test_the_same_service_wanted_and_excluded_finds_nothing(self) -> None:
        for path in ("service=pagos&not_service=pagos", "contains=bob&not_contains=BOB"):
            with self.subTest(path):
                self.assertEqual(self.server.get(f"/logs?{path}").json, [])
                self.assertEqual(self.server.get(f"/stats?{path}").json["total"], 0)

    def test_an_exclusion_holds_on_every_page(self) -> None:
        filters = [("not_service", "pagos"), ("not_contains", "bob"), ("not_attr.user", "7")]
        path = "/logs?" + urllib.parse.urlencode([*filters, ("limit", "7")])
        found: list[dict[str, Json]] = []
        while path:
            answer = self.server.get(path)
            found += answer.json
            link = answer.headers.get("link", "").partition("<")[2].partition(">")[0]
            path = urllib.parse.urljoin(path, link) if link else ""
        self.assertEqual(found, self.expected(filters))

    def test_a_follower_gets_all_but_these(self) -> None:
        self.use_own_server()
        wanted = {"service": "other", "message": "wanted"}
        unwanted = [
            {"service": "pagos", "message": "unwanted"},
            {"service": "other", "message": "unwanted, BOB"},
            {"service": "other", "message": "unwanted", "user": "bob"},
        ]
        filters = [("not_service", "pagos"), ("not_contains", "bob"), ("not_attr.user", "bob")]
        parameters = urllib.parse.urlencode([*filters, ("limit", "3")])
        with Follower(self.server, parameters) as follower:
            self.assertEqual(follower.wait(3), self.expected(filters)[2::-1])
            self.server.post([*unwanted, wanted, *unwanted, wanted], SHIPPER)
            found = [record["message"] for record in follower.wait(5)[3:]]
            self.assertEqual(found, ["wanted", "wanted"])

    def test_delete_deletes_all_but_these(self) -> None:
        self.use_own_server()
        filters = [("not_service", "pagos,chat"), ("not_contains", "timeout")]
        doomed = self.expected(filters)
        path = "/logs?" + urllib.parse.urlencode(filters)
        answer = self.server.request("DELETE", path, headers={"Authorization": f"Token {ADMIN}"})
        self.assertEqual(answer.json, {"deleted": len(doomed)})
        left = [record for record in self.records if record not in doomed]
        self.assertEqual(self.server.get("/logs?limit=0").json, left)
        self.assertEqual(self.server.get("/stats").json["total"], len(left))


if __name__ == "__main__":
    unittest.main()
