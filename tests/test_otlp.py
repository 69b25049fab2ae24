"""POST /v1/logs: OTLP/HTTP in JSON, as the SDKs and collectors of OpenTelemetry send it."""

from __future__ import annotations

import gzip
import json
import unittest
from typing import ClassVar

from tests.support import OTHER_TOKEN, SHIPPER, TOKEN, Answer, Json, ServerTests

NANOSECONDS = "1795487467291000000"
MOMENT = "2026-11-24T02:31:07.291000Z"


def text(value: str) -> Json:
    """An AnyValue that is a text."""
    return {"stringValue": value}


def pairs(**values: Json) -> list[Json]:
    """A list of KeyValue, out of names and AnyValues; an underscore in a name stands for a dot."""
    return [{"key": name.replace("_", "."), "value": value} for name, value in values.items()]


def request(*records: Json, service: str | None = "app", **resource: Json) -> Json:
    """An ExportLogsServiceRequest with these LogRecords."""
    named = {} if service is None else {"service_name": text(service)}
    scope_logs = [{"scope": {"name": "app.js"}, "logRecords": list(records)}]
    return {
        "resourceLogs": [
            {"resource": {"attributes": pairs(**named, **resource)}, "scopeLogs": scope_logs},
        ]
    }


# What the exporter of OpenTelemetry for JavaScript sends.
JAVASCRIPT = {
    "resourceLogs": [
        {
            "resource": {
                "attributes": [{"key": "service.name", "value": {"stringValue": "checkout"}}]
            },
            "scopeLogs": [
                {
                    "scope": {"name": "app.js"},
                    "logRecords": [
                        {
                            "timeUnixNano": NANOSECONDS,
                            "observedTimeUnixNano": "1795487467292000000",
                            "severityNumber": 9,
                            "severityText": "INFO",
                            "body": {"stringValue": "hello world"},
                            "attributes": [
                                {"key": "n", "value": {"intValue": 3}},
                                {"key": "tags",
                                 "value": {"arrayValue": {"values": [{"stringValue": "x"}]}}},
                            ],
                            "droppedAttributesCount": 0,
                            "traceId": "5b8efff798038103d269b633813fc60c",
                            "spanId": "eee19b7ec3c1b174",
                        },
                        {
                            "timeUnixNano": NANOSECONDS,
                            "severityNumber": 17,
                            "severityText": "ERROR",
                            "body": {
                                "kvlistValue": {
                                    "values": [{"key": "code", "value": {"intValue": 7}}]
                                }
                            },
                        },
                    ],
                }
            ],
        }
    ]
}


class Otlp(ServerTests):
    """What OTLP sends is stored like any other record, and answered as OTLP says."""

    JSON: ClassVar[dict[str, str]] = {"Content_Type": "application/json"}

    def send(self, body: Json, token: str = SHIPPER, **headers: str) -> Answer:
        """One export request."""
        return self.server.post(body, token, "/v1/logs", **{**self.JSON, **headers})

    def stored(self, body: Json, token: str = SHIPPER, **headers: str) -> list[dict[str, Json]]:
        """Sends a request all of which must be stored; gives its records as GET does."""
        ((last,),) = self.server.sql("SELECT ifnull(max(id), 0) FROM logs")
        answer = self.send(body, token, **headers)
        self.assertEqual((answer.status, answer.json), (200, {}), answer.text)
        numbers = self.server.sql("SELECT id FROM logs WHERE id > ? ORDER BY id", last)
        return [self.server.get(f"/logs/{number}").json for (number,) in numbers]

    def test_a_request_of_the_javascript_exporter_is_stored(self) -> None:
        first, second = self.stored(JAVASCRIPT)
        self.assertEqual(
            (first["service"], first["severity"], first["message"]),
            ("checkout", "INFO", "hello world"),
        )
        self.assertEqual(first["timestamp"], MOMENT)
        attributes = first["attributes"]
        self.assertEqual((attributes["n"], attributes["tags"]), (3, ["x"]))
        self.assertEqual(attributes["traceId"], "5b8efff798038103d269b633813fc60c")
        self.assertEqual(attributes["spanId"], "eee19b7ec3c1b174")
        self.assertEqual(attributes["scope"], "app.js")
        self.assertEqual((second["service"], second["severity"]), ("checkout", "ERROR"))
        self.assertEqual(json.loads(second["message"]), {"code": 7})

    def test_success_is_200_with_an_empty_object(self) -> None:
        answer = self.send(request({"body": text("m")}))
        self.assertEqual((answer.status, answer.json), (200, {}))
        self.assertEqual(answer.headers["content-type"], "application/json")

    def test_an_empty_request_is_a_success_too(self) -> None:
        bodies: tuple[Json, ...] = (
            {},
            {"resourceLogs": []},
            {"resourceLogs": [{}]},
            {"resourceLogs": [{"resource": {}, "scopeLogs": []}]},
            {"resourceLogs": [{"scopeLogs": [{"scope": {}, "logRecords": []}]}]},
        )
        for body in bodies:
            with self.subTest(body):
                self.assertEqual(self.stored(body), [])

    def test_chunked_and_compressed_requests_are_taken(self) -> None:
        data = json.dumps(JAVASCRIPT).encode()
        for encoding, body in (("identity", data), ("gzip", gzip.compress(data))):
            with self.subTest(encoding):
                headers = {"Authorization": f"Bearer {SHIPPER}", "Content-Encoding": encoding}
                pieces = (body[start : start + 100] for start in range(0, len(body), 100))
                answer = self.server.request("POST", "/v1/logs", pieces, headers)
                self.assertEqual((answer.status, answer.json), (200, {}), answer.text)

    def test_what_a_content_type_says_of_json_is_not_looked_at(self) -> None:
        for content_type in (
            "application/json; charset=utf-8",
            "text/plain",
            "application/x-www-form-urlencoded",
        ):
            with self.subTest(content_type):
                self.assertEqual(len(self.stored(JAVASCRIPT, Content_Type=content_type)), 2)

    # An AnyValue, and what it is as JSON.
    VALUES: tuple[tuple[Json, Json], ...] = (
        ({"stringValue": "é"}, "é"),
        ({"stringValue": ""}, ""),
        ({"boolValue": True}, True),
        ({"boolValue": False}, False),
        ({"intValue": 3}, 3),
        ({"intValue": "3"}, 3),
        ({"intValue": "-9223372036854775808"}, -9223372036854775808),
        ({"intValue": 0}, 0),
        ({"stringValue": None, "intValue": "5"}, 5),
        ({"doubleValue": 0.5}, 0.5),
        ({"doubleValue": 3}, 3),
        ({"doubleValue": "NaN"}, "NaN"),
        ({"bytesValue": "AQID"}, "AQID"),
        ({"arrayValue": {"values": []}}, []),
        ({"arrayValue": {}}, []),
        ({"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "a"}, {"arrayValue": {}}]}},
         [1, "a", []]),
        ({"kvlistValue": {"values": []}}, {}),
        ({"kvlistValue": {"values": pairs(a={"intValue": 1}, b={"kvlistValue": {}})}},
         {"a": 1, "b": {}}),
        ({}, None),
    )

    def test_every_kind_of_value_is_kept_in_attributes(self) -> None:
        records = self.stored(
            request(*({"body": text("m"), "attributes": pairs(v=v)} for v, _ in self.VALUES))
        )
        for (value, expected), record in zip(self.VALUES, records, strict=True):
            with self.subTest(value):
                self.assertEqual(record["attributes"]["v"], expected)
                self.assertIs(type(record["attributes"]["v"]), type(expected))

    def test_a_body_that_is_no_text_becomes_a_message_in_json(self) -> None:
        cases = [(value, expected) for value, expected in self.VALUES if expected not in ("", None)]
        records = self.stored(request(*({"body": value} for value, _ in cases)))
        for (value, expected), record in zip(cases, records, strict=True):
            with self.subTest(value):
                message = record["message"]
                self.assertEqual(
                    message if isinstance(expected, str) else json.loads(message), expected
                )

    def test_attributes_of_the_resource_and_of_the_record_are_joined(self) -> None:
        sent = {"body": text("m"), "attributes": pairs(user=text("bob"), region=text("own"))}
        (record,) = self.stored(
            request(sent, host_name=text("web1"), region=text("of the resource"))
        )
        attributes = {"host.name": "web1", "region": "own", "user": "bob", "scope": "app.js"}
        self.assertEqual(record["attributes"], attributes)

    def test_severity_numbers_stand_for_severities(self) -> None:
        names = ["DEBUG"] * 8 + ["INFO"] * 4 + ["WARNING"] * 4 + ["ERROR"] * 4 + ["CRITICAL"] * 4
        records = self.stored(
            request(*({"body": text("m"), "severityNumber": n} for n in range(1, 25)))
        )
        for number, (name, record) in enumerate(zip(names, records, strict=True), 1):
            with self.subTest(number=number):
                self.assertEqual(record["severity"], name)

    def test_without_a_severity_number_the_text_counts_where_it_is_known(self) -> None:
        for fields, name in (
            ({}, "INFO"),
            ({"severityNumber": 0}, "INFO"),
            ({"severityText": "warn"}, "WARNING"),
            ({"severityNumber": 0, "severityText": "FATAL"}, "CRITICAL"),
            ({"severityText": "something else"}, "INFO"),
            ({"severityText": ""}, "INFO"),
            ({"severityNumber": -1, "severityText": "warn"}, "WARNING"),
            ({"severityNumber": 17, "severityText": "DEBUG"}, "ERROR"),
        ):
            with self.subTest(fields):
                (record,) = self.stored(request({"body": text("m"), **fields}))
                self.assertEqual(record["severity"], name)

    def test_what_of_a_severity_does_not_count_stays_an_attribute(self) -> None:
        for number, said, severity, attributes in (
            (9, "INFO", "INFO", {}),
            (9, "Information", "INFO", {}),
            (17, "foo", "ERROR", {"level": "foo"}),
            (9, "ERROR", "INFO", {"level": "ERROR"}),
            (25, "", "INFO", {"severity_number": 25}),
            (100, "warn", "WARNING", {"severity_number": 100}),
        ):
            with self.subTest(number, text=said):
                fields = {"body": text("m"), "severityNumber": number, "severityText": said}
                (record,) = self.stored(request(fields))
                kept = {name: value for name, value in record["attributes"].items()
                        if name in ("level", "severity_number", "severity_text")}
                self.assertEqual((record["severity"], kept), (severity, attributes))

    def test_the_time_is_the_events_or_the_observers_or_that_of_receipt(self) -> None:
        other = "1795487400000000000"
        for fields, moment in (
            ({"timeUnixNano": NANOSECONDS}, MOMENT),
            ({"timeUnixNano": int(NANOSECONDS)}, MOMENT),
            ({"timeUnixNano": NANOSECONDS, "observedTimeUnixNano": other}, MOMENT),
            ({"timeUnixNano": "0", "observedTimeUnixNano": NANOSECONDS}, MOMENT),
            ({"timeUnixNano": 0, "observedTimeUnixNano": NANOSECONDS}, MOMENT),
            ({"observedTimeUnixNano": NANOSECONDS}, MOMENT),
            ({"timeUnixNano": "1795487467291123999"}, "2026-11-24T02:31:07.291123Z"),
            ({"timeUnixNano": "1000000000"}, "1970-01-01T00:00:01.000000Z"),
        ):
            with self.subTest(fields):
                (record,) = self.stored(request({"body": text("m"), **fields}))
                self.assertEqual(record["timestamp"], moment)
        for nothing in ({}, {"timeUnixNano": 0, "observedTimeUnixNano": "0"}):
            (record,) = self.stored(request({"body": text("m"), **nothing}))
            self.assertEqual(record["timestamp"], record["received_at"])

    def test_the_service_is_that_of_the_resource_or_the_tokens_own(self) -> None:
        for service, token, expected in (
            ("checkout", SHIPPER, "checkout"),
            ("app", TOKEN, "app"),
            (None, TOKEN, "app"),
            ("unknown_service:node", TOKEN, "app"),
            ("unknown_service", OTHER_TOKEN, "web"),
            ("unknown_service:node", SHIPPER, "unknown_service:node"),
        ):
            with self.subTest(service, token=token):
                (record,) = self.stored(request({"body": text("m")}, service=service), token)
                self.assertEqual(record["service"], expected)

    def test_null_is_the_same_as_absent(self) -> None:
        nothing = {
            "attributes": None,
            "timeUnixNano": None,
            "severityNumber": None,
            "severityText": None,
        }
        document = request({"body": text("m"), **nothing})
        resource = document["resourceLogs"][0]
        resource["schemaUrl"] = None
        resource["scopeLogs"][0]["scope"] = None
        (record,) = self.stored(document)
        self.assertEqual(
            (record["message"], record["severity"], record["attributes"]), ("m", "INFO", {})
        )

    def test_what_could_not_be_stored_of_a_request_is_a_partial_success(self) -> None:
        good = {"body": text("good")}
        for name, bad in (
            ("no body", {}),
            ("an empty body", {"body": text("")}),
            ("a body too long", {"body": text("x" * ((256 << 10) + 1))}),
            ("a time that is none", {"body": text("m"), "timeUnixNano": "soon"}),
            ("a number that is none",
             {"body": text("m"), "attributes": pairs(n={"intValue": "three"})}),
            ("a key that is no text",
             {"body": text("m"), "attributes": [{"key": 5, "value": text("x")}]}),
        ):
            with self.subTest(name):
                ((before,),) = self.server.sql("SELECT count(*) FROM logs")
                answer = self.send(request(good, bad, bad, good))
                self.assertEqual(answer.status, 200, answer.text)
                self.assertEqual(list(answer.json), ["partialSuccess"])
                partial = answer.json["partialSuccess"]
                self.assertEqual(set(partial), {"rejectedLogRecords", "errorMessage"})
                self.assertEqual(partial["rejectedLogRecords"], "2", "int64 is a text in this JSON")
                self.assertTrue(partial["errorMessage"])
                self.assertEqual(self.server.sql("SELECT count(*) FROM logs"), [(before + 2,)])

    def test_a_resource_that_is_none_is_422(self) -> None:
        for key, value in (("n", '{"intValue": 1e400}'), (5, "{}"), (None, "{}")):
            attribute = f'{{"key": {json.dumps(key)}, "value": {value}}}'
            plain = json.dumps(request({"body": text("m")}))
            body = plain.replace('"attributes": [', f'"attributes": [{attribute}, ', 1)
            with self.subTest(key):
                self.assertEqual(self.send(body).status, 422)

    def test_records_of_another_service_are_refused_to_a_service_token(self) -> None:
        body = request({"body": text("mine")})
        body["resourceLogs"] += request({"body": text("not mine")}, service="web")["resourceLogs"]
        answer = self.send(body, TOKEN)
        self.assertEqual(
            (answer.status, answer.json["partialSuccess"]["rejectedLogRecords"]), (200, "1")
        )
        self.assertIn("web", answer.json["partialSuccess"]["errorMessage"])
        self.assertEqual(self.send(request({"body": text("m")}, service="web"), TOKEN).status, 403)

    def test_a_request_of_which_nothing_could_be_stored_is_not_to_be_repeated(self) -> None:
        answer = self.send(request({"body": text("")}))
        self.assertEqual(answer.status, 422, answer.text)
        self.assertTrue(answer.json["message"], "the protocol's Status")
        self.assertTrue(answer.json["error"] and answer.json["hint"])

    def test_what_is_no_such_request_is_422(self) -> None:
        record = {"message": "for POST /logs"}
        bodies: tuple[Json, ...] = (
            "[]",
            "5",
            "{",
            "null",
            "hello",
            record,
            [record],
            {"logs": [record]},
            {"resourceSpans": []},
            {"resourceLogs": 5},
            {"resourceLogs": ["text"]},
            {"resourceLogs": [{"scopeLogs": 5}]},
            {"resourceLogs": [{"scope_logs": [{"logRecords": [{"body": {"stringValue": "m"}}]}]}]},
            {"resourceLogs": [{"scopeLogs": [{"log_records": [{"body": {"stringValue": "m"}}]}]}]},
        )
        for body in bodies:
            with self.subTest(body):
                answer = self.send(body)
                self.assertEqual(answer.status, 422, answer.text)
                self.assertTrue(answer.json["message"])

    def test_more_records_than_a_batch_may_have_are_413(self) -> None:
        record = {"body": {"stringValue": "a"}}
        answer = self.send(
            {"resourceLogs": [{"scopeLogs": [{"logRecords": [record] * 50_001}] * 2}]}
        )
        self.assertEqual(answer.status, 413, answer.text)
        self.assertIn("100,000", answer.json["message"])

    def test_requests_one_after_the_other_are_all_stored(self) -> None:
        line = json.dumps(request({"body": text("m")}))  # as a collector writes them into a file
        self.assertEqual(len(self.stored(f"{line}\n{line}\n{line}\n")), 3)

    def test_a_bad_line_among_requests_costs_no_other(self) -> None:
        line = json.dumps(request({"body": text("m")}))
        answer = self.send(f"{line}\n{line[:-9]}\n{line}\n")
        self.assertEqual(answer.status, 200, answer.text)
        self.assertEqual(answer.json["partialSuccess"]["rejectedLogRecords"], "1")
        self.assertIn("not JSON", answer.json["partialSuccess"]["errorMessage"])

    def test_without_a_token_it_is_401(self) -> None:
        for headers in ({}, {"Authorization": "Token wrong"}):
            answer = self.server.post(JAVASCRIPT, None, "/v1/logs", **headers)
            self.assertEqual(answer.status, 401)
            self.assertTrue(answer.headers["www-authenticate"])

    def test_a_repeat_with_an_idempotency_key_stores_nothing(self) -> None:
        body = request({"body": text("once")}, {"body": text("")})
        answers = [self.send(body, Idempotency_Key="otlp") for _ in range(3)]
        self.assertEqual(
            ["idempotent-replayed" in answer.headers for answer in answers], [False, True, True]
        )
        self.assertEqual(len({(answer.status, answer.body) for answer in answers}), 1, answers)
        self.assertEqual(
            self.server.sql("SELECT count(*) FROM logs WHERE message = 'once'"), [(1,)]
        )

    def test_refused_in_part_for_another_service_and_in_part_otherwise_is_422(self):
        body = request({"body": text("not mine")}, service="web")
        body["resourceLogs"] += request({"body": text("")})["resourceLogs"]
        self.assertEqual(
            self.server.post(body, TOKEN, "/v1/logs", Content_Type="application/json").status, 422
        )


if __name__ == "__main__":
    unittest.main()
