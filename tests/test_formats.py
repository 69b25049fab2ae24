"""What clients of other log servers send: OTLP as protobuf, Splunk's HEC, Loki's push; pages of
other origins; and what a refused token leads to."""

from __future__ import annotations

import gzip
import json
import struct
import unittest
from collections.abc import Iterator

import server as module
from tests.load import Others, forget_peak, peak_mib, seconds_at_work
from tests.support import (
    OTHER_TOKEN,
    READER,
    SHIPPER,
    TOKEN,
    Answer,
    Json,
    Server,
    ServerTests,
    eventually,
)

PROTOBUF = "application/x-protobuf"
NANOSECONDS = 1_795_487_467_291_123_000
MOMENT = "2026-11-24T02:31:07.291123Z"

# Protobuf, written by hand: a message is the fields of a list, one after the other.


def varint(number: int) -> bytes:
    """A number in groups of 7 bits, the lowest first."""
    number &= (1 << 64) - 1
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def field(number: int, value: Json) -> bytes:
    """A field: an int is a varint, a float a double; bytes and text have their length before."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fixed(number: int, value: int) -> bytes:
    """A field of type fixed64."""
    return varint(number << 3 | 1) + struct.pack("<Q", value)


def pair(key: str, value: bytes) -> bytes:
    """A KeyValue; its value is an AnyValue."""
    return field(1, key) + field(2, value)


def text(value: str) -> bytes:
    """An AnyValue that is a text."""
    return field(1, value)


def log_record(message: str = "m", *more: bytes) -> bytes:
    """A LogRecord with a body."""
    return field(5, text(message)) + b"".join(more)


def export(*records: bytes, service: str | None = "app", resource: bytes = b"") -> bytes:
    """An ExportLogsServiceRequest."""
    if service is not None:
        resource += field(1, pair("service.name", text(service)))
    scope_logs = field(1, field(1, "app.scope")) + b"".join(field(2, r) for r in records)
    return field(1, field(1, resource) + field(2, scope_logs))


def read(data: bytes) -> Iterator[tuple[int, Json]]:
    """The fields of a small message that has varints and lengths below 128 only."""
    while data:
        number, kind, value = data[0] >> 3, data[0] & 7, data[1]
        size = value if kind == 2 else 0
        yield number, data[2 : 2 + size] if kind == 2 else value
        data = data[2 + size :]


class Formats(ServerTests):
    """What all formats share."""

    def newest(self) -> int:
        """The id of the newest record."""
        ((last,),) = self.server.sql("SELECT ifnull(max(id), 0) FROM logs")
        return int(last)

    def since(self, last: int) -> list[dict[str, Json]]:
        """The records after an id, as GET /logs/ID gives them."""
        numbers = self.server.sql("SELECT id FROM logs WHERE id > ? ORDER BY id", last)
        return [self.server.get(f"/logs/{number}").json for (number,) in numbers]


class Protobuf(Formats):
    """POST /v1/logs takes protobuf, and answers in it."""

    def send(self, body: bytes, token: str | None = SHIPPER, **headers: str) -> Answer:
        """One export request."""
        return self.server.post(body, token, "/v1/logs", **{"Content_Type": PROTOBUF, **headers})

    def stored(self, body: bytes, token: str = SHIPPER, **headers: str) -> list[dict[str, Json]]:
        """Sends a request all of which must be stored; gives its records."""
        last = self.newest()
        answer = self.send(body, token, **headers)
        self.assertEqual((answer.status, answer.body), (200, b""), answer.body)
        self.assertEqual(answer.headers["content-type"], PROTOBUF)
        return self.since(last)

    def test_every_field_of_a_record_is_stored(self) -> None:
        (record,) = self.stored(
            export(
                log_record(
                    "hello ñ",
                    fixed(1, NANOSECONDS),
                    fixed(11, 1),
                    field(2, 17),
                    field(3, "error"),
                    field(6, pair("user", text("bob"))),
                    field(9, bytes(range(16))),
                    field(10, bytes(range(8))),
                    field(12, "order.placed"),
                ),
                resource=field(1, pair("host.name", text("web1"))),
            )
        )
        self.assertEqual(
            [record[name] for name in ("service", "severity", "message", "timestamp")],
            ["app", "ERROR", "hello ñ", MOMENT],
        )
        self.assertEqual(
            record["attributes"],
            {
                "host.name": "web1",
                "scope": "app.scope",
                "user": "bob",
                "traceId": "000102030405060708090a0b0c0d0e0f",
                "spanId": "0001020304050607",
                "eventName": "order.placed",
            },
        )

    VALUES: tuple[tuple[bytes, Json], ...] = (
        (text("é"), "é"),
        (text(""), ""),
        (field(1, b"caf\xe9"), "caf\ufffd"),
        (field(2, 1), True),
        (field(2, 0), False),
        (field(3, 3), 3),
        (field(3, 0), 0),
        (field(3, -1), -1),
        (field(3, -(2**63)), -(2**63)),
        (field(3, 2**63 - 1), 2**63 - 1),
        (field(4, 0.1), 0.1),
        (field(4, float("nan")), "NaN"),
        (field(4, float("inf")), "Infinity"),
        (field(4, float("-inf")), "-Infinity"),
        (field(5, b""), []),
        (field(5, field(1, field(3, 1)) + field(1, b"") + field(1, field(5, b""))), [1, None, []]),
        (field(6, b""), {}),
        (field(6, field(1, pair("a", field(3, 1))) + field(1, pair("", b""))), {"a": 1, "": None}),
        (field(7, b"\x01\x02\x03"), "AQID"),
        (b"", None),
    )

    def test_every_kind_of_value_is_kept(self) -> None:
        records = self.stored(
            export(*(log_record("m", field(6, pair("v", value))) for value, _ in self.VALUES))
        )
        for (value, expected), record in zip(self.VALUES, records, strict=True):
            with self.subTest(value):
                self.assertEqual(record["attributes"]["v"], expected)
                self.assertIs(type(record["attributes"]["v"]), type(expected))

    def test_a_body_that_is_no_text_becomes_json_and_an_event_has_its_name(self) -> None:
        for record, message in (
            (field(5, field(6, field(1, pair("code", field(3, 7))))), '{"code":7}'),
            (field(5, field(4, float("nan"))), "NaN"),
            (field(12, "order.placed"), "order.placed"),
            (field(5, b"") + field(12, "order.placed"), "order.placed"),
        ):
            with self.subTest(record):
                (found,) = self.stored(export(record))
                self.assertEqual(found["message"], message)

    def test_gzip_and_chunks_are_taken(self) -> None:
        body = export(log_record())
        packed = gzip.compress(body)
        self.assertEqual(len(self.stored(packed, Content_Encoding="gzip")), 1)
        headers = {"Authorization": f"Bearer {SHIPPER}", "Content-Type": PROTOBUF}
        pieces = (body[start : start + 7] for start in range(0, len(body), 7))
        answer = self.server.request("POST", "/v1/logs", pieces, headers)
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_an_empty_request_is_a_success(self) -> None:
        for body in (
            b"",
            field(1, b""),
            field(1, field(1, b"") + field(2, b"")),
            field(99, b"unknown"),
        ):
            with self.subTest(body):
                self.assertEqual(self.stored(body), [])

    def test_unknown_fields_of_all_wire_types_are_skipped(self) -> None:
        unknown = field(90, 2**64 - 1) + fixed(91, 5) + field(92, b"\xff") + b"\xed\x05abcd"
        body = log_record("m", unknown) + unknown
        (record,) = self.stored(unknown + export(body) + unknown)
        self.assertEqual((record["message"], record["attributes"]), ("m", {"scope": "app.scope"}))

    def test_what_could_not_be_stored_is_a_partial_success(self) -> None:
        good = log_record("good")
        for name, bad in (
            ("a body too long", log_record("x" * ((256 << 10) + 1))),
            ("a group", log_record("m", b"\xf3\x01\xf4\x01")),
            ("a wrong wire type", log_record("m", field(3, 5))),
            ("cut short", log_record("m", b"\x1a\x7fabc")),
            ("a varint without an end", log_record("m", b"\x10" + b"\xff" * 11)),
            ("a length beyond all", log_record("m", b"\x1a" + b"\xff" * 9 + b"\x01")),
            ("an attribute nested too deep", log_record("m", field(6, pair("v", nested(600))))),
            ("a record too long", log_record("m", field(6, pair("v", text("x" * (3 << 20)))))),
        ):
            with self.subTest(name):
                last = self.newest()
                answer = self.send(export(good, bad, good))
                self.assertEqual(answer.status, 200, answer.body)
                ((number, partial),) = read(answer.body)
                parts = dict(read(partial))
                self.assertEqual((number, parts[1]), (1, 1))
                self.assertTrue(parts[2].decode())
                self.assertEqual(len(self.since(last)), 2)

    def test_values_may_be_nested_as_deep_as_usual(self) -> None:
        (record,) = self.stored(export(log_record("m", field(6, pair("v", nested(100))))))
        self.assertEqual(json.dumps(record["attributes"]["v"]), "[" * 100 + "]" * 100)

    def test_refusals_are_a_status_in_protobuf_with_the_status_of_the_server(self) -> None:
        whole = export(log_record())
        long = field(1, pair("a", text("x" * 70_000)))
        for name, body, token, status in (
            ("no token", whole, None, 401),
            ("a wrong token", whole, "wrong", 401),
            ("another service", export(log_record(), service="web"), TOKEN, 403),
            ("cut short", whole[:-1], SHIPPER, 422),
            ("a group", b"\x0b\x0c", SHIPPER, 422),
            ("a wrong wire type", field(1, 5), SHIPPER, 422),
            ("not protobuf", b"hello", SHIPPER, 422),
            ("text with a line end", b"\nhello\n", SHIPPER, 422),
            ("too many records", export(*[b""] * 100_001), SHIPPER, 413),
            ("too many resources", field(1, b"") * 250_001, SHIPPER, 413),
            ("long shared attributes", export(log_record(), resource=long), SHIPPER, 413),
            ("nothing stored", export(log_record("m", field(3, 5))), SHIPPER, 422),
        ):
            with self.subTest(name):
                answer = self.send(body, token)
                self.assertEqual(answer.status, status, answer.body)
                self.assertEqual(answer.headers["content-type"], PROTOBUF)
                self.assertEqual(answer.body[0], 0x12)
                self.assertRegex(answer.body.decode("utf-8", "replace"), r"\w+ .*\.")
        self.assertIn(b"wire type 3", self.send(b"\x0b\x0c").body)

    def test_a_body_of_tiny_fields_is_answered_in_time_and_holds_up_nobody(self) -> None:
        size = 5 << 20  # Half of what a body may have: it costs the half.
        for name, body in (
            ("unknown fields", b"\xf8\x01" * (size // 2 - 10)),
            ("empty resources", b"\x0a\x00" * (size // 2 - 10)),
            ("empty scopes", field(1, b"\x12\x00" * 90_000) * 27),
            ("empty attributes", field(1, field(1, b"\x0a\x00" * (size // 2 - 20)))),
            ("empty attributes of a record", export(b"\x32\x00" * (size // 2 - 50))),
        ):
            with self.subTest(name):
                began = seconds_at_work(self.server)
                with Others(self.server) as others:
                    answer = self.send(body)
                self.assertLess(seconds_at_work(self.server) - began, 6)
                self.assertLess(others.slowest, 1)
                self.assertEqual(others.failures, [])
                self.assertIn(answer.status, (200, 413, 422))

    def test_a_resource_shared_by_very_many_scopes_is_not_copied_for_each(self) -> None:
        shared = b"".join(field(1, pair(f"k{n}", text("x"))) for n in range(4000))
        scopes = field(2, field(2, b"\x10\x09")) * 30_000
        began = seconds_at_work(self.server)
        answer = self.send(field(1, field(1, shared) + scopes))
        self.assertIn(answer.status, (413, 422), answer.body)
        self.assertLess(seconds_at_work(self.server) - began, 6)

    def test_resources_of_very_many_values_are_refused_in_little_memory(self) -> None:
        many = field(5, field(1, b"") * 100_000)  # An array of values without a kind.
        shared = b"".join(field(1, pair(f"k{n}", many)) for n in range(45))
        record = field(2, field(2, b"\x10\x09"))
        one_resource = field(1, field(1, shared) + record)
        many_resources = field(1, field(1, field(1, pair("k", text("v")))) + record) * 300_000
        for name, body in (("one", one_resource), ("many", many_resources)):
            with self.subTest(name):
                forget_peak(self.server)
                answer = self.send(body)
                self.assertEqual(answer.status, 413, answer.body)
                self.assertLess(peak_mib(self.server), 150)

    def test_a_repeat_with_a_key_is_answered_the_same(self) -> None:
        body = export(log_record("once"), log_record("m", field(2, 99)))
        answers = [self.send(body, Idempotency_Key="protobuf") for _ in range(2)]
        self.assertEqual(answers[0].body, answers[1].body)
        self.assertEqual(answers[1].headers["idempotent-replayed"], "true")


def nested(depth: int) -> bytes:
    """An AnyValue of so many arrays, each the only value of the one around it."""
    value = field(5, b"")
    for _ in range(depth - 1):
        value = field(5, field(1, value))
    return value


class OtlpJson(Formats):
    """What OTLP sends as JSON, beyond tests/test_otlp.py."""

    def stored(self, record: Json, shared: Json = ()) -> dict[str, Json]:
        """Sends one record and gives it as it is stored."""
        last = self.newest()
        resource = {"attributes": [{"key": k, "value": v} for k, v in dict(shared).items()]}
        scope_logs = [{"logRecords": [record]}]
        body = {"resourceLogs": [{"resource": resource, "scopeLogs": scope_logs}]}
        answer = self.server.post(body, TOKEN, "/v1/logs")
        self.assertEqual((answer.status, answer.json), (200, {}))
        (found,) = self.since(last)
        return found

    def test_severities_may_be_given_by_name(self) -> None:
        for number, severity in (
            ("SEVERITY_NUMBER_TRACE", "DEBUG"),
            ("SEVERITY_NUMBER_DEBUG4", "DEBUG"),
            ("SEVERITY_NUMBER_INFO", "INFO"),
            ("SEVERITY_NUMBER_WARN2", "WARNING"),
            ("SEVERITY_NUMBER_ERROR", "ERROR"),
            ("SEVERITY_NUMBER_FATAL3", "CRITICAL"),
            ("17", "ERROR"),
            ("SEVERITY_NUMBER_UNSPECIFIED", "WARNING"),  # The text says so.
        ):
            with self.subTest(number):
                record = {"body": text_value("m"), "severityNumber": number, "severityText": "warn"}
                self.assertEqual(self.stored(record)["severity"], severity)

    def test_an_event_without_a_body_has_its_name_as_the_message(self) -> None:
        record = self.stored({"eventName": "order.placed"})
        self.assertEqual((record["message"], record["attributes"]), ("order.placed", {}))
        record = self.stored({"eventName": "order.placed", "body": text_value("m")})
        self.assertEqual(record["attributes"], {"eventName": "order.placed"})

    def test_a_service_name_of_the_record_is_an_attribute_and_that_of_the_resource_counts(self):
        own = [{"key": "service.name", "value": text_value("web")}]
        record = self.stored(
            {"body": text_value("m"), "attributes": own}, {"service.name": text_value("app")}
        )
        self.assertEqual(record["service"], "app")
        self.assertEqual(record["attributes"], {"service.name": "web"})


def text_value(value: str) -> Json:
    """An AnyValue that is a text, in JSON."""
    return {"stringValue": value}


class Hec(Formats):
    """POST /services/collector/event, as Splunk's HTTP Event Collector takes it."""

    PATH = "/services/collector/event/1.0"

    def send(self, body: Json, token: str = SHIPPER, path: str = PATH, **headers: str) -> Answer:
        """One request, with the word Splunk before the token."""
        return self.server.post(body, None, path, Authorization=f"Splunk {token}", **headers)

    def stored(self, body: Json, token: str = SHIPPER, **headers: str) -> list[dict[str, Json]]:
        """Sends a batch all of which must be stored; gives its records."""
        last = self.newest()
        answer = self.send(body, token, **headers)
        self.assertEqual((answer.status, answer.json), (200, {"text": "Success", "code": 0}))
        return self.since(last)

    def docker(self, line: Json, **more: Json) -> dict[str, Json]:
        """An event as Docker's log driver sends it."""
        event = {"line": line, "source": "stdout", "tag": "shop"}
        return {"event": event, "time": "1795487467.291123", "host": "vm", **more}

    def test_an_event_that_is_longer_as_json_than_its_message_may_be_is_taken(self) -> None:
        long = {"message": '"' * 200_000, "user": "u" * 50_000}
        [record] = self.stored({"event": long})
        self.assertEqual(record["message"], long["message"])
        self.assertEqual(record["attributes"], {"user": long["user"]})

    def test_a_severity_that_is_not_understood_stays_beside_the_level_that_is(self) -> None:
        for line in ({"msg": "m", "severity": "bogus", "level": "warn"},):
            for event in (line, json.dumps(line)):
                with self.subTest(event):
                    [record] = self.stored({"event": event})
                    self.assertEqual(record["severity"], "WARNING")
                    self.assertEqual(record["attributes"]["severity"], "bogus")

    def test_the_requests_of_docker_are_taken(self) -> None:
        for path in ("/services/collector", "/services/collector/event", self.PATH):
            self.assertEqual(self.server.request("OPTIONS", path).status, 200)
        plain = "".join(json.dumps(self.docker(f"line {n}")) for n in range(3)).encode()
        for body, headers in (
            (plain, {}),
            (gzip.compress(plain), {"Content_Encoding": "gzip"}),
        ):
            with self.subTest(headers):
                records = self.stored(body, **headers)
                self.assertEqual([record["message"] for record in records], [
                    "line 0", "line 1", "line 2",
                ])  # fmt: skip
                for record in records:
                    self.assertEqual(
                        (record["service"], record["severity"], record["timestamp"]),
                        ("shop", "INFO", MOMENT),
                    )
                    self.assertEqual(
                        record["attributes"], {"host": "vm", "source": "stdout", "tag": "shop"}
                    )

    def test_a_line_that_is_a_record_is_one(self) -> None:
        line = {"level": "warn", "msg": "slow", "time": "2026-11-24T01:02:03Z", "user": "bob"}
        for sent in (line, json.dumps(line)):
            with self.subTest(sent):
                (record,) = self.stored(self.docker(sent))
                self.assertEqual(
                    [record[name] for name in ("service", "severity", "message", "timestamp")],
                    ["shop", "WARNING", "slow", "2026-11-24T01:02:03.000000Z"],
                )
                self.assertEqual(record["attributes"]["user"], "bob")

    def test_a_line_that_is_no_good_record_is_the_message(self) -> None:
        for line in (
            "plain",
            "",
            "{",
            "[1, 2]",
            "5",
            "null",
            '{"a": NaN, "message": "m"}',
            '{"message": "m", "severity": "LOUD"}',
            '{"message": "m", "timestamp": "soon"}',
            '{"message": "m", "attributes": [1]}',
            '{"n": %s}' % ("9" * 5000),
            '{"a":' * 600 + "1" + "}" * 600,
        ):
            with self.subTest(line[:50]):
                (record,) = self.stored(self.docker(line))
                self.assertEqual((record["message"], record["timestamp"]), (line, MOMENT))
        (record,) = self.stored(self.docker('{"message": "a\\ud800b"}'))
        self.assertEqual(record["message"], "a\ufffdb")

    def test_events_of_other_clients_are_taken(self) -> None:
        for event, message, severity, more in (
            ("text", "text", "INFO", {}),
            ({"message": "m", "severity": "error", "user": "bob"}, "m", "ERROR", {"user": "bob"}),
            ({"message": {"msg": "m", "meta": {"n": 1}}, "severity": "warn"}, "m", "WARNING",
             {"meta": {"n": 1}}),
            ({"message": {"message": "m", "level": "error"}}, "m", "ERROR", {}),
            ('{"msg": "m", "level": "debug"}', "m", "DEBUG", {}),
        ):  # fmt: skip
            with self.subTest(event):
                value = {"event": event, "time": 1795487467.291123, "sourcetype": "shop"}
                (record,) = self.stored({**value, "fields": {"region": "eu"}})
                self.assertEqual(
                    [record[name] for name in ("message", "severity", "service", "timestamp")],
                    [message, severity, "shop", MOMENT],
                )
                known = {"sourcetype": "shop", "region": "eu"}
                self.assertEqual(record["attributes"], {**known, **more})

    def test_a_field_beside_an_event_tells_its_severity_unless_the_event_does(self) -> None:
        for event, severity in (
            ("text", "ERROR"),
            ({"message": "m", "user": "bob"}, "ERROR"),
            ({"message": "m", "level": "debug"}, "DEBUG"),
        ):
            with self.subTest(event):
                (record,) = self.stored({"event": event, "fields": {"level": "error"}}, TOKEN)
                self.assertEqual(record["severity"], severity)
                self.assertEqual(record["attributes"]["level"], "error")

    def test_an_event_without_a_message_is_its_own_json(self) -> None:
        for event in ({"temperature": 21}, [1, 2], 5, True, {"message": {"temperature": 21}}):
            with self.subTest(event):
                (record,) = self.stored({"event": event, "host": "vm"})
                expected = event.get("message", event) if isinstance(event, dict) else event
                self.assertEqual(json.loads(record["message"]), expected)

    def test_the_service_is_named_by_the_token_the_event_or_what_came_with_it(self) -> None:
        for value, token, service in (
            (self.docker("m"), TOKEN, "app"),
            (self.docker("m"), SHIPPER, "shop"),
            ({"event": {"message": "m", "service": "web"}, "host": "vm"}, SHIPPER, "web"),
            ({"event": {"message": "m", "service": "web"}, "host": "vm"}, TOKEN, "app"),
            ({"event": "m", "host": "vm", "source": "s", "sourcetype": "t"}, SHIPPER, "t"),
            ({"event": "m", "host": "vm", "source": "s"}, SHIPPER, "s"),
            ({"event": "m", "host": "vm"}, SHIPPER, "vm"),
            ({"event": {"message": "m", "service.name": "web"}, "host": "vm"}, SHIPPER, "web"),
            ({"event": {"message": "m", "service.name": None}, "host": "vm"}, SHIPPER, "vm"),
            ({"event": {"message": "m", "service": ""}, "host": "vm"}, SHIPPER, "vm"),
            ({"event": {"message": "m", "service": {"v": 1}}, "host": "vm"}, SHIPPER, "vm"),
            ({"event": "m"}, OTHER_TOKEN, "web"),
            ({"event": "m"}, SHIPPER, "unknown_service"),
            ({"event": "m", "source": "x" * 129, "host": "vm"}, SHIPPER, "vm"),
            ({"event": {"message": "m", "line": 42}, "host": "vm"}, SHIPPER, "vm"),
            ({"event": {"message": "m", "service": "web"}}, SHIPPER, "web"),
            ({"event": {"message": "m", "logger": "cart"}}, SHIPPER, "cart"),
            ({"event": {"message": "m", "logger": "cart"}, "host": "vm"}, SHIPPER, "vm"),
        ):
            with self.subTest(value, token=token):
                (record,) = self.stored(value, token)
                self.assertEqual((record["service"], record["message"]), (service, "m"))
        (record,) = self.stored({"event": {"message": "m", "service": "web"}}, TOKEN)
        self.assertEqual(record["attributes"], {"service": "web"})

    BAD: tuple[Json, ...] = (
        {"host": "vm"},
        {"event": None},
        {"event": ""},
        {"event": " \n"},
        {"event": "m", "time": "soon"},
        {"event": "x" * ((256 << 10) + 1)},
        5,
    )

    def test_of_a_batch_the_good_events_are_stored_and_the_bad_ones_named(self) -> None:
        for bad in self.BAD:
            with self.subTest(str(bad)[:50]):
                last = self.newest()
                good = {"event": "a", "host": "vm"}
                answer = self.send([good, bad, good])
                self.assertEqual(answer.status, 200, answer.text)
                self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (2, 1))
                self.assertNotEqual(answer.json["code"], 0)
                self.assertIn("1", answer.json["text"])
                self.assertEqual([error["index"] for error in answer.json["errors"]], [1])
                self.assertEqual(len(self.since(last)), 2)

    def test_errors_have_a_code_and_a_text_and_the_status_of_the_server(self) -> None:
        for body, token, status in (
            ({"event": "m"}, "wrong", 401),
            ("", SHIPPER, 422),
            ("{", SHIPPER, 422),
            ({"event": ""}, SHIPPER, 422),
            ("x" * ((10 << 20) + 1), SHIPPER, 413),
        ):
            with self.subTest(str(body)[:20], status=status):
                answer = self.send(body, token)
                self.assertEqual(answer.status, status, answer.text)
                self.assertNotEqual(answer.json["code"], 0)
                self.assertTrue(all(answer.json[name] for name in ("text", "error", "hint")))

    def test_parameters_are_passed_over_and_health_is_told(self) -> None:
        path = "/services/collector?channel=11111111-2222-3333-4444-555555555555&auto=true"
        self.assertEqual(self.send({"event": "m"}, TOKEN, path).status, 200)
        for end in ("", "/1.0"):
            answer = self.server.get(f"/services/collector/health{end}")
            self.assertEqual((answer.status, answer.json), (200, {"status": "ok"}))


class Loki(Formats):
    """POST /loki/api/v1/push, as JSON."""

    def send(self, body: Json, token: str = SHIPPER, **headers: str) -> Answer:
        """One push."""
        return self.server.post(body, token, "/loki/api/v1/push", **headers)

    def push(self, labels: Json, *values: Json) -> Json:
        """A push of one stream."""
        return {"streams": [{"stream": labels, "values": list(values)}]}

    def stored(self, body: Json, token: str = SHIPPER, **headers: str) -> list[dict[str, Json]]:
        """Sends a push all of which must be stored; gives its records."""
        last = self.newest()
        answer = self.send(body, token, **headers)
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertNotIn("content-length", answer.headers)
        return self.since(last)

    def test_of_two_levels_the_one_that_is_understood_counts_and_the_other_stays(self) -> None:
        for label, level, severity, kept in (
            ("audit", "warn", "WARNING", "audit"),
            ("error", "audit", "ERROR", "audit"),
            ("error", "warn", "WARNING", "error"),
            ("error", None, "ERROR", "error"),
        ):
            line = json.dumps({"msg": "m", "level": level} if level else {"msg": "m"})
            with self.subTest(label=label, level=level):
                labels = {"app": "web", "level": label}
                [record] = self.stored(self.push(labels, [str(10**18), line]))
                found = record["severity"], record["attributes"].get("level")
                self.assertEqual(found, (severity, kept))

    def test_entries_are_stored_with_their_labels(self) -> None:
        body = self.push(
            {"app": "shop", "level": "error", "host": "vm"},
            [str(NANOSECONDS), "one", {"trace_id": "t"}],
            [str(NANOSECONDS), "two"],
            [str(NANOSECONDS), "two", None],
        )
        for sent, headers in (
            (body, {}),
            (gzip.compress(json.dumps(body).encode()), {"Content_Encoding": "gzip"}),
        ):
            with self.subTest(headers):
                first, second, third = self.stored(sent, **headers)
                self.assertEqual(
                    [first[name] for name in ("service", "severity", "message", "timestamp")],
                    ["shop", "ERROR", "one", MOMENT],
                )
                labels = {"app": "shop", "level": "error", "host": "vm"}
                self.assertEqual(first["attributes"], {**labels, "trace_id": "t"})
                self.assertEqual(second["attributes"], labels)
                self.assertEqual(third["attributes"], labels)

    def test_a_connection_goes_on_after_204(self) -> None:
        connection = self.server.connection()
        self.addCleanup(connection.close)
        body = json.dumps(self.push({"app": "a"}, [str(NANOSECONDS), "m"]))
        for _ in range(2):
            headers = {"Authorization": f"Token {SHIPPER}"}
            connection.request("POST", "/loki/api/v1/push", body, headers)
            response = connection.getresponse()
            self.assertEqual((response.status, response.read()), (204, b""))

    def test_the_service_is_a_label_or_the_tokens_own(self) -> None:
        for labels, token, service in (
            ({"service_name": "a", "app": "b", "job": "c"}, SHIPPER, "a"),
            ({"app": "x" * 129, "job": "c"}, SHIPPER, "c"),
            ({"service": "d", "job": "c"}, SHIPPER, "d"),
            ({"app": "b", "job": "c"}, SHIPPER, "b"),
            ({"application": "d", "job": "c"}, SHIPPER, "d"),
            ({"job": "c"}, SHIPPER, "c"),
            ({"container": "e", "job": "c"}, SHIPPER, "e"),
            ({"logger": "f"}, SHIPPER, "f"),
            ({"host": "vm"}, SHIPPER, "unknown_service"),
            ({"app": "b"}, TOKEN, "app"),
        ):
            with self.subTest(labels, token=token):
                (record,) = self.stored(self.push(labels, [str(NANOSECONDS), "m"]), token)
                self.assertEqual(record["service"], service)

    def test_labels_give_the_severity(self) -> None:
        for labels, severity in (
            ({"level": "warn"}, "WARNING"),
            ({"detected_level": "error"}, "ERROR"),
            ({"severity": "critical"}, "CRITICAL"),
            ({"level": "error", "detected_level": "info"}, "ERROR"),
            ({"Level": "error"}, "ERROR"),
            ({"lvl": "warn"}, "WARNING"),
            ({"severity_text": "FATAL"}, "CRITICAL"),
            ({"level": "high"}, "INFO"),
            ({}, "INFO"),
        ):
            with self.subTest(labels):
                (record,) = self.stored(self.push(labels, [str(NANOSECONDS), "m"]), TOKEN)
                self.assertEqual((record["severity"], record["attributes"]), (severity, labels))

    def test_a_line_that_is_a_record_has_its_own_level_and_time(self) -> None:
        line = json.dumps({"msg": "slow", "level": "warn", "time": "2026-11-24T01:02:03Z", "n": 1})
        bare = json.dumps({"msg": "bare", "n": 1})
        labels = {"app": "a", "level": "error"}
        entries = [[str(NANOSECONDS), line], [str(NANOSECONDS), bare]]
        first, second = self.stored(self.push(labels, *entries))
        self.assertEqual(
            [first[name] for name in ("severity", "message", "timestamp")],
            ["WARNING", "slow", "2026-11-24T01:02:03.000000Z"],
        )
        self.assertEqual(
            [second[name] for name in ("severity", "message", "timestamp")],
            ["ERROR", "bare", MOMENT],
        )
        self.assertEqual(second["attributes"], {**labels, "n": 1})

    def test_an_empty_line_and_an_empty_push_are_taken(self) -> None:
        (record,) = self.stored(self.push({"app": "a"}, [str(NANOSECONDS), ""]))
        self.assertEqual(record["message"], "")
        for body in ({"streams": []}, self.push({"app": "a"})):
            self.assertEqual(self.stored(body), [])

    def test_a_push_of_which_a_part_is_stored_is_200_and_says_what_is_not(self) -> None:
        good = [str(NANOSECONDS), "good"]
        for bad in (
            ["soon", "m"],
            [str(NANOSECONDS)],
            [str(NANOSECONDS), None],
            [None, "m"],
            [str(NANOSECONDS), "m", 5],
            [str(NANOSECONDS), "m", {}, {}],
            ["9" * 5000, "m"],
            [str(NANOSECONDS), "x" * ((256 << 10) + 1)],
            {"ts": "2026-11-24T01:02:03Z", "line": "m"},
            5,
        ):
            with self.subTest(str(bad)[:50]):
                last = self.newest()
                answer = self.send(self.push({"app": "a"}, good, bad))
                self.assertEqual(answer.status, 200, answer.text)
                self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (1, 1))
                self.assertEqual(answer.json["errors"][0]["index"], 1)
                self.assertEqual(len(self.since(last)), 1)

    def test_what_is_no_push_is_refused(self) -> None:
        many = [[str(NANOSECONDS), "m"]] * 100_001
        for name, body, status in (
            ("snappy", b"\x9a\x01\xf0\x99\n\x97\x01", 415),
            ("protobuf", b"\n\x05hello", 415),
            ("text", "hello", 415),
            ("no streams", {"logs": []}, 422),
            ("streams that are none", {"streams": 5}, 422),
            ("a stream that is none", {"streams": [5]}, 422),
            ("labels that are none", {"streams": [{"stream": 5, "values": []}]}, 422),
            ("labels as a list", {"streams": [{"stream": [[5, "a"]], "values": []}]}, 422),
            ("no values", {"streams": [{"stream": {}}]}, 422),
            ("nothing stored", self.push({"app": "a"}, ["soon", "m"]), 422),
            ("too many", self.push({}, *many), 413),
            ("long labels", self.push({"a": "x" * 70_000}, [str(NANOSECONDS), "m"]), 413),
        ):
            with self.subTest(name):
                answer = self.send(body)
                self.assertEqual(answer.status, status, answer.text)
                self.assertTrue(answer.json["error"] and answer.json["hint"])
        self.assertIn("JSON", self.send(b"\x9a\x01\xf0", Content_Type=PROTOBUF).text)

    def test_basic_and_parameters_are_taken(self) -> None:
        body = self.push({"app": "a"}, [str(NANOSECONDS), "m"])
        self.assertEqual(
            self.server.post(body, SHIPPER, "/loki/api/v1/push?tenant=x").status, 204
        )


class Origins(Formats):
    """A page of another origin may post with a token, and read nothing."""

    POSTS = ("/logs", "/v1/logs", "/services/collector/event", "/loki/api/v1/push")
    ORIGIN = "access-control-allow-origin"

    def preflight(self, path: str, method: str, **headers: str) -> Answer:
        """What a browser asks before a request of another origin."""
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": method}
        return self.server.request("OPTIONS", path, None, {**asked, **headers})

    def test_a_browser_is_told_that_it_may_post(self) -> None:
        for path in (*self.POSTS, "/logs/"):
            for headers in ({}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}):
                with self.subTest(path, headers=headers):
                    answer = self.preflight(path, "POST", **headers)
                    self.assertEqual((answer.status, answer.body), (204, b""))
                    self.assertEqual(answer.headers[self.ORIGIN], "*")
                    self.assertEqual(answer.headers["access-control-allow-methods"], "POST")
                    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
                    self.assertEqual(
                        allowed,
                        ["authorization", "content-type", "content-encoding", "idempotency-key"],
                    )

    def test_the_answers_to_its_posts_can_be_seen_by_the_page_errors_too(self) -> None:
        for path in self.POSTS:
            for body, token in (({"message": "m"}, TOKEN), ("{", TOKEN), ("{}", "wrong")):
                with self.subTest(path, body=body, token=token):
                    answer = self.server.post(body, token, path, Sec_Fetch_Site="cross-site")
                    self.assertEqual(answer.headers[self.ORIGIN], "*", answer.status)

    def test_nothing_that_reads_is_given_to_another_origin(self) -> None:
        paths = ("/", "/logs", "/logs/1", "/stats", "/health", "/metrics", "/nothing",
                 "/services/collector/health", "/services/collector/health/1.0")  # fmt: skip
        for path in paths:
            for method in ("GET", "HEAD", "DELETE", "PUT"):
                with self.subTest(path, method=method):
                    self.assertNotIn(self.ORIGIN, self.server.request(method, path).headers)
                    answer = self.preflight(path, method)
                    self.assertGreaterEqual(answer.status, 404)
                    self.assertNotIn(self.ORIGIN, answer.headers)
        for path in ("/stats", "/logs/1", "/"):
            answer = self.preflight(path, "POST")
            self.assertEqual(answer.status, 405)
            self.assertNotIn(self.ORIGIN, answer.headers)

    def test_options_alone_are_405_where_no_collector_is(self) -> None:
        for path in ("/logs", "/v1/logs", "/loki/api/v1/push", "/stats"):
            answer = self.server.request("OPTIONS", path)
            self.assertEqual(answer.status, 405)
            self.assertTrue(answer.headers["allow"])


class Small(Formats):
    """Small things that cost users their records."""

    def test_a_slash_at_the_end_of_a_path_counts_for_nothing(self) -> None:
        last = self.newest()
        for path in ("/logs/", "/logs"):
            self.assertEqual(self.server.post({"message": "m"}, TOKEN, path).status, 200)
        number = self.newest()
        self.assertEqual(number, last + 2)
        for path in ("/logs/", f"/logs/{number}/", "/stats/", "/health/", "/metrics/"):
            self.assertEqual(self.server.get(path).status, 200, path)
        link = self.server.get("/logs/?limit=1").headers["link"]
        self.assertIn("<?", link)

    def test_parameters_of_a_post_are_refused_by_name(self) -> None:
        for query, name in (("service=web", "service"), ("a", "a"), ("x=1&y=2", "x")):
            answer = self.server.post({"message": "m"}, TOKEN, f"/logs?{query}")
            self.assertEqual(answer.status, 400)
            self.assertIn(name, answer.json["error"])
        self.assertEqual(self.server.post({"message": "m"}, TOKEN, "/logs?").status, 200)

    def test_a_token_without_its_word_is_told_so(self) -> None:
        for given, missing in ((TOKEN, True), ("wrong", True), ("Token", False), ("", False),
                               ("Token wrong", False)):  # fmt: skip
            with self.subTest(given):
                answer = self.server.post({"message": "m"}, None, Authorization=given)
                self.assertEqual(answer.status, 401)
                self.assertEqual("word Token is missing" in answer.json["error"], missing)
                self.assertNotIn(TOKEN, answer.text)
        self.assertIn("Basic", answer.headers["www-authenticate"])


class RefusedTokens(unittest.TestCase):
    """The log names who sends tokens that are refused, and not the token."""

    def test_a_line_a_second_says_the_address_the_path_and_how_many(self) -> None:
        with Server(read_tokens=[READER]) as server:
            for _ in range(20):
                server.post({}, "wrong-and-secret")
            eventually(lambda: server.errors, why="nothing is logged")
            self.assertEqual(len(server.errors), 1, server.errors)
            eventually(
                lambda: [server.get("/logs", Authorization="Bearer bad"), server.errors][1][1:],
                why="no second line comes",
            )
            server.post({})  # No token at all is not a refused one.
            first, second = server.errors[:2]
            self.assertRegex(first, r"127\.0\.0\.1 .*'/logs'")
            self.assertRegex(second, r"127\.0\.0\.1 .*'/logs', and \d\d+ more")
            self.assertNotIn("wrong-and-secret", "".join(server.errors))

    def test_addresses_are_kept_up_to_a_bound(self) -> None:
        shares = module.Shares()
        with self.assertLogs("server", "WARNING") as found:
            for number in range(2 * module.MAX_REFUSED_ADDRESSES):
                shares.note_refused(f"10.0.{number >> 8}.{number & 255}", "/logs\n")
        self.assertEqual(len(shares._refused), module.MAX_REFUSED_ADDRESSES)
        self.assertEqual(len(found.output), 2 * module.MAX_REFUSED_ADDRESSES)
        self.assertNotIn("\n", found.output[0])


if __name__ == "__main__":
    unittest.main()
