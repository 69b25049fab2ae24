"""The names and bodies that loggers, shippers and people send."""

from __future__ import annotations

import json
import unittest
from typing import Any

import server
from tests.load import seconds_at_work
from tests.support import SHIPPER, TOKEN, Json, ServerTests

MOMENT = "2026-11-24T02:14:12"

# A row of what a logger sends, and what is stored: message, time, severity, and some attributes.
Row = tuple[str, dict[str, Json], str, str | None, str, dict[str, Json]]
LOGGERS: tuple[Row, ...] = (
    ("pino", {"level": 50, "time": 1795486452123, "pid": 4, "msg": "oops"},
     "oops", f"{MOMENT}.123000Z", "ERROR", {"pid": 4}),
    ("pino without a message", {"level": 30, "time": f"{MOMENT}.5Z", "order": 7},
     "", f"{MOMENT}.500000Z", "INFO", {"order": 7}),
    ("pino with an empty message", {"level": 20, "time": 1795486452000, "msg": ""},
     "", f"{MOMENT}.000000Z", "DEBUG", {}),
    ("bunyan", {"name": "web", "hostname": "h", "level": 60, "msg": "m", "time": f"{MOMENT}Z"},
     "m", f"{MOMENT}.000000Z", "CRITICAL", {"name": "web", "hostname": "h"}),
    ("winston with colours", {"level": "\u001b[31merror\u001b[39m", "message": "m"},
     "m", None, "ERROR", {}),
    ("winston with a number", {"level": "info", "message": 5}, "5", None, "INFO", {}),
    ("winston with an object", {"level": "warn", "message": {"a": [1]}},
     '{"a":[1]}', None, "WARNING", {}),
    ("zap", {"level": "dpanic", "ts": 1795486452.5, "caller": "a.go:1", "msg": "m"},
     "m", f"{MOMENT}.500000Z", "CRITICAL", {"caller": "a.go:1"}),
    ("zerolog .Send()", {"level": "error", "time": f"{MOMENT}Z", "n": 1},
     "", f"{MOMENT}.000000Z", "ERROR", {"n": 1}),
    ("slog", {"time": f"{MOMENT}.123456789Z", "level": "INFO+2", "msg": "m"},
     "m", f"{MOMENT}.123456Z", "INFO", {}),
    ("slog below DEBUG", {"level": "DEBUG-4", "msg": "m"}, "m", None, "DEBUG", {}),
    ("structlog", {"event": "paid", "level": "warning", "timestamp": f"{MOMENT}Z", "user": "bob"},
     "paid", f"{MOMENT}.000000Z", "WARNING", {"user": "bob"}),
    ("structlog, the event alone", {"event": "paid"}, "paid", None, "INFO", {}),
    ("loguru", {"text": "02:14 | hi\n", "record": {
        "message": "hi", "level": {"name": "SUCCESS", "no": 25},
        "time": {"repr": MOMENT, "timestamp": 1795486452.25}}},
     "hi", f"{MOMENT}.250000Z", "INFO", {"text": "02:14 | hi\n"}),
    ("python-json-logger", {"message": "m", "asctime": "2026-11-24 02:14:12,123",
                            "levelname": "ERROR", "exc_info": "Traceback"},
     "m", f"{MOMENT}.123000Z", "ERROR", {"exc_info": "Traceback"}),
    ("Python's own numbers", {"message": "m", "levelno": 30, "created": 1795486452.5},
     "m", f"{MOMENT}.500000Z", "WARNING", {}),
    ("log4j2", {"instant": {"epochSecond": 1795486452, "nanoOfSecond": 5000}, "level": "FATAL",
                "message": "m", "loggerName": "a.B"},
     "m", f"{MOMENT}.000005Z", "CRITICAL", {"loggerName": "a.B"}),
    ("log4j2, older", {"timeMillis": 1795486452123, "level": "WARN", "message": "m"},
     "m", f"{MOMENT}.123000Z", "WARNING", {}),
    ("Ruby", {"severity": "ANY", "time": f"{MOMENT}.1Z", "progname": "job", "message": "m"},
     "m", f"{MOMENT}.100000Z", "INFO", {"progname": "job"}),
    ("Monolog", {"message": "m", "level": 550, "level_name": "ALERT", "channel": "app",
                 "datetime": f"{MOMENT}.5+00:00", "context": []},
     "m", f"{MOMENT}.500000Z", "CRITICAL", {"channel": "app", "context": []}),
    ("Monolog, numbers alone", {"message": "m", "level": 100}, "m", None, "DEBUG", {}),
    ("ECS, dotted", {"@timestamp": f"{MOMENT}Z", "log.level": "error", "message": "m",
                     "service.name": "app", "error.stack_trace": "at"},
     "m", f"{MOMENT}.000000Z", "ERROR", {"error.stack_trace": "at"}),
    ("ECS, nested", {"log": {"level": "warn"}, "event": {"kind": "x"}, "message": "m",
                     "service": {"name": "app", "version": "1.2"}},
     "m", None, "WARNING", {"event": {"kind": "x"}, "service": {"version": "1.2"}}),
    ("Serilog", {"@t": f"{MOMENT}Z", "@m": "Hi bob", "@mt": "Hi {User}", "@x": "trace"},
     "Hi bob", f"{MOMENT}.000000Z", "INFO", {"@mt": "Hi {User}", "@x": "trace"}),
    ("Serilog, the template", {"@t": f"{MOMENT}Z", "@mt": "Hi {User}", "@l": "Fatal"},
     "Hi {User}", f"{MOMENT}.000000Z", "CRITICAL", {}),
    ("GELF", {"version": "1.1", "short_message": "m", "full_message": "long", "level": 3,
              "timestamp": 1795486452.5, "_user": "bob", "host": "h"},
     "m", f"{MOMENT}.500000Z", "ERROR", {"full_message": "long", "_user": "bob"}),
    ("journald", {"MESSAGE": "m", "__REALTIME_TIMESTAMP": "1795486452123456", "PRIORITY": "4",
                  "_SYSTEMD_UNIT": "ssh.service"},
     "m", f"{MOMENT}.123456Z", "WARNING", {"_SYSTEMD_UNIT": "ssh.service"}),
    ("journald, bytes", {"MESSAGE": [104, 195, 169, 255], "PRIORITY": "0"},
     "hé\ufffd", None, "CRITICAL", {}),
    ("Docker's json-file", {"log": "hello\n", "stream": "stderr", "time": f"{MOMENT}Z"},
     "hello", f"{MOMENT}.000000Z", "INFO", {"stream": "stderr"}),
    ("Google Cloud", {"textPayload": "m", "severity": "NOTICE", "timestamp": f"{MOMENT}Z"},
     "m", f"{MOMENT}.000000Z", "INFO", {}),
    ("Google Cloud, JSON", {"jsonPayload": {"message": "m", "n": 1}, "severity": "DEFAULT"},
     "m", None, "INFO", {"jsonPayload": {"message": "m", "n": 1}}),
    ("ASP.NET", {"Timestamp": f"{MOMENT}Z", "LogLevel": "Critical", "Message": "m"},
     "m", f"{MOMENT}.000000Z", "CRITICAL", {}),
    ("Azure", {"time": f"{MOMENT}Z", "level": "Informational", "Message": "m"},
     "m", f"{MOMENT}.000000Z", "INFO", {}),
    ("Postgres", {"timestamp": "2026-11-24 03:14:12.123 CET", "error_severity": "PANIC",
                  "message": "m"},
     "m", f"{MOMENT}.123000Z", "CRITICAL", {}),
    ("MongoDB", {"t": {"$date": f"{MOMENT}.5+00:00"}, "s": "D1", "c": "NET", "msg": "m"},
     "m", f"{MOMENT}.500000Z", "DEBUG", {"c": "NET"}),
    ("Caddy", {"level": "info", "ts": 1795486452.5, "msg": "", "status": 200},
     "", f"{MOMENT}.500000Z", "INFO", {"status": 200}),
    ("Rust's tracing", {"timestamp": f"{MOMENT}Z", "level": "TRACE", "fields": {"message": "m"}},
     "m", f"{MOMENT}.000000Z", "DEBUG", {"fields": {"message": "m"}}),
    ("hclog", {"@level": "warn", "@message": "m", "@timestamp": f"{MOMENT}Z", "@module": "raft"},
     "m", f"{MOMENT}.000000Z", "WARNING", {"@module": "raft"}),
    ("Windows, an audit", {"ProviderName": "Security", "Level": 0, "Message": "m"},
     "m", None, "INFO", {"ProviderName": "Security"}),
    ("Windows, information", {"ProviderName": "SCM", "Level": 4, "Message": "m",
                              "TimeCreated": f"{MOMENT}Z"},
     "m", f"{MOMENT}.000000Z", "INFO", {"ProviderName": "SCM"}),
    ("Windows, a word", {"ProviderName": "SCM", "Level": 2, "LevelDisplayName": "Error",
                         "Message": "m"}, "m", None, "ERROR", {"Level": 2}),
    ("CloudFront", {"date": "2026-11-24", "time": "02:14:12", "level": "error", "msg": "m"},
     "m", f"{MOMENT}.000000Z", "ERROR", {"time": "02:14:12"}),
    ("Lambda", {"time": f"{MOMENT}Z", "record": {"level": "ERROR", "message": "m"}},
     "m", f"{MOMENT}.000000Z", "ERROR", {}),
    ("Lambda, text", {"time": f"{MOMENT}Z", "record": "m"}, "m", f"{MOMENT}.000000Z", "INFO", {}),
    ("log15", {"t": f"{MOMENT}Z", "lvl": "crit", "msg": "m"},
     "m", f"{MOMENT}.000000Z", "CRITICAL", {}),
    ("log4js", {"level": {"level": 40000, "levelStr": "ERROR"}, "msg": "m"},
     "m", None, "ERROR", {"level": {"level": 40000, "levelStr": "ERROR"}}),
    ("rsyslog", {"msg": "m", "syslogseverity": "3", "timereported": f"{MOMENT}Z"},
     "m", f"{MOMENT}.000000Z", "ERROR", {}),
    ("macOS", {"eventMessage": "m", "level": "Fault"}, "m", None, "ERROR", {}),
    ("macOS, a message type", {"eventMessage": "m", "messageType": "Fault"},
     "m", None, "ERROR", {}),
    ("PHP", {"message": "m", "attributes": []}, "m", None, "INFO", {}),
    ("Laminas", {"message": "m", "priority": 3, "priorityName": "ERR"},
     "m", None, "ERROR", {"priority": 3}),
    ("tslog", {"0": "m", "_meta": {"date": f"{MOMENT}Z", "logLevelName": "ERROR"}},
     "m", f"{MOMENT}.000000Z", "ERROR", {}),
    ("nginx, its own names", {"time_local": "24/Nov/2026:02:14:12 +0000", "status": "502"},
     "", f"{MOMENT}.000000Z", "INFO", {"status": "502"}),
    ("mongoexport", {"timestamp": {"$date": f"{MOMENT}.5Z"}, "level": "warn", "message": "m"},
     "m", f"{MOMENT}.500000Z", "WARNING", {}),
    ("NLog", {"longdate": f"{MOMENT}.1234", "level": "Warn", "message": "m"},
     "m", f"{MOMENT}.123400Z", "WARNING", {}),
    ("syslog-ng", {"ISODATE": f"{MOMENT}+00:00", "PRIORITY": "crit", "MESSAGE": "m"},
     "m", f"{MOMENT}.000000Z", "CRITICAL", {}),
    ("Envoy", {"start_time": f"{MOMENT}.5Z", "method": "GET", "response_code": 503},
     "", f"{MOMENT}.500000Z", "INFO", {"method": "GET", "response_code": 503}),
    ("an audit of Kubernetes", {"level": "Metadata", "stageTimestamp": f"{MOMENT}.5Z"},
     "", f"{MOMENT}.500000Z", "INFO", {"level": "Metadata"}),
    ("nginx, as an epoch", {"msec": "1795486452.500", "status": "502"},
     "", f"{MOMENT}.500000Z", "INFO", {"status": "502"}),
    ("Kong", {"started_at": 1795486452500, "latencies": {"kong": 1}, "service": {"name": "app"}},
     "", f"{MOMENT}.500000Z", "INFO", {"latencies": {"kong": 1}}),
    ("an event of Kubernetes", {"type": "Warning", "lastTimestamp": f"{MOMENT}Z", "message": "m",
                                "involvedObject": {"kind": "Pod"}},
     "m", f"{MOMENT}.000000Z", "WARNING", {}),
    ("MySQL", {"prio": 1, "label": "Error", "err_symbol": "ER", "time": f"{MOMENT}Z", "msg": "m"},
     "m", f"{MOMENT}.000000Z", "ERROR", {"prio": 1}),
    ("Liberty", {"ibm_datetime": f"{MOMENT}.500+0000", "loglevel": "AUDIT", "message": "m"},
     "m", f"{MOMENT}.500000Z", "INFO", {"loglevel": "AUDIT"}),
    ("Spring for Google", {"timestampSeconds": 1795486452, "timestampNanos": 5000, "message": "m"},
     "m", f"{MOMENT}.000000Z", "INFO", {"timestampNanos": 5000}),
    ("SAP", {"written_at": f"{MOMENT}.5Z", "level": "ERROR", "msg": "m"},
     "m", f"{MOMENT}.500000Z", "ERROR", {}),
    ("Azure", {"TimeGenerated": f"{MOMENT}Z", "ResultDescription": "m", "Level": "Warning"},
     "m", f"{MOMENT}.000000Z", "WARNING", {}),
    ("Logback, formatted", {"formattedMessage": "m", "level": "ERROR", "timestamp": 1795486452000},
     "m", f"{MOMENT}.000000Z", "ERROR", {}),
    ("log15, four letters", {"t": f"{MOMENT}Z", "lvl": "eror", "msg": "m"},
     "m", f"{MOMENT}.000000Z", "ERROR", {}),
    ("Roarr", {"context": {"logLevel": 40}, "message": "m", "time": 1795486452500},
     "m", f"{MOMENT}.500000Z", "WARNING", {"context": {"logLevel": 40}}),
    ("Filebeat, syslog", {"log": {"syslog": {"severity": {"code": 2, "name": "Critical"}}},
                          "message": "m", "dt": f"{MOMENT}Z"},
     "m", f"{MOMENT}.000000Z", "CRITICAL", {}),
    ("a date with its time, and the time", {"date": f"{MOMENT}Z", "time": "02:14", "msg": "m"},
     "m", f"{MOMENT}.000000Z", "INFO", {"time": "02:14"}),
    ("a table of a spreadsheet", {"Date": "2026-11-24", "Time": "02:14:12", "message": "m"},
     "m", f"{MOMENT}.000000Z", "INFO", {"Time": "02:14:12"}),
)  # fmt: skip

# What says nothing, or could mean something else, stays where a reader sees it.
NOT_UNDERSTOOD: tuple[dict[str, Json], ...] = (
    {"level": "loud"}, {"level": ""}, {"level": 8}, {"level": 77}, {"level": 404}, {"level": True},
    {"level": -1}, {"level": 30.5e9}, {"levelname": "Level 15"}, {"log.level": "very bad"},
    {"level": {"a": 1}}, {"priority": 1}, {"priority": "1"}, {"messageType": 3},
    {"messageType": "alert"}, {"type": "error"}, {"label": "error"}, {"started_at": 1795486452},
    {"time": {"value": "soon"}}, {"time": {"value": 35}},
    {"start_time": "2026-11-24T02:14:12Z"}, {"s": "E"}, {"s": 3},
    {"level": "C1"}, {"level": "T 1"}, {"t": 1795486452.5}, {"t": "10:00"},
    {"time": "soon"}, {"time": ""}, {"time": 35}, {"ts": 0.25}, {"date": "24.11.2026"},
    {"datetime": "2026-11-24 02:14:12 XYZ"}, {"asctime": "Nov 24 02:14:12"}, {"t": 1795486452},
    {"instant": {"a": 1}}, {"created": True}, {"date": "2026-11-24 02:14:12 XM"},
    {"time": "24 Nov 02:14:12"}, {"time": "Tue Nov 24 2026 02:14:12 (CET)"},
    {"time": "35\n"}, {"datetime": {"date": MOMENT, "timezone": "Europe/Madrid"}},
    {"id": 7}, {"id": "a", "received_at": "2026-11-24T02:14:12.000000Z"},
    {"id": 7, "received_at": "2026-11-24"}, {"id": 7, "received_at": 5},
)  # fmt: skip

TIMES: tuple[tuple[Json, str], ...] = (
    ("20261124021412", f"{MOMENT}.000000Z"),
    (20261124021412, f"{MOMENT}.000000Z"),
    ("20261124021412123", f"{MOMENT}.123000Z"),
    ("2026/11/24 02:14:12", f"{MOMENT}.000000Z"),
    ("2026/11/24 02:14:12.123456", f"{MOMENT}.123456Z"),
    ("2026-11-24, 02:14:12,5", f"{MOMENT}.500000Z"),
    ("2026-11-24 02:14:12.123456789 +0000 UTC m=+0.000123", f"{MOMENT}.123456Z"),
    ("2026-11-24 03:14:12.5 +0100 CET", f"{MOMENT}.500000Z"),
    ("2026-11-23 21:14:12 EST", f"{MOMENT}.000000Z"),
    ("2026-11-23 21:14:12-05", f"{MOMENT}.000000Z"),
    ("Tue, 24 Nov 2026 02:14:12 +0000", f"{MOMENT}.000000Z"),
    ("Tue, 24 Nov 2026 03:14:12 CET", f"{MOMENT}.000000Z"),
    ("Tue, 24 Nov 2026 03:14:12 +0100 (CET)", f"{MOMENT}.000000Z"),
    ("24 Nov 2026 02:14 GMT", "2026-11-24T02:14:00.000000Z"),
    ("Tuesday, 24-Nov-26 02:14:12 GMT", f"{MOMENT}.000000Z"),
    ("24/Nov/2026:02:14:12 +0000", f"{MOMENT}.000000Z"),
    ("[24/Nov/2026:03:14:12 +0100]", f"{MOMENT}.000000Z"),
    ("Tue Nov 24 02:14:12 2026", f"{MOMENT}.000000Z"),
    ("Tue Nov 24 02:14:12.5 2026", f"{MOMENT}.500000Z"),
    ("Tue Nov 24 03:14:12 CET 2026", f"{MOMENT}.000000Z"),
    ("Thu Nov  5 02:14:12 2026", "2026-11-05T02:14:12.000000Z"),
    ("2026-11-24 2:14:12", f"{MOMENT}.000000Z"),
    ({"seconds": 1795486452, "nanos": 5000}, f"{MOMENT}.000005Z"),
    ("2026-11-23 23:14:12.5 -0300 -03 m=+0.001", f"{MOMENT}.500000Z"),
    ("2026-11-24T02:14:12.5+00:00Z", f"{MOMENT}.500000Z"),
    ("2026-11-24 05:14:12 EAT", f"{MOMENT}.000000Z"),
    ("2026-11-24 11:44:12 ACST", f"{MOMENT}.000000Z"),
    ("Tue Nov 24 2026 03:14:12 GMT+0100 (Central European Standard Time)", f"{MOMENT}.000000Z"),
    ("2026-11-24+01:00", "2026-11-23T23:00:00.000000Z"),
    ("20261124-0500", "2026-11-24T05:00:00.000000Z"),
    ("2026-11-24Z", "2026-11-24T00:00:00.000000Z"),
    ("2026-11-24 02:14:12.5 AM", f"{MOMENT}.500000Z"),
    ("2026-11-24 12:14:12 am", "2026-11-24T00:14:12.000000Z"),
    ("Tue Nov 24 02:14:12 PM UTC 2026", "2026-11-24T14:14:12.000000Z"),
    ("Tue 24 Nov 2026 12:14:12 PM CET", "2026-11-24T11:14:12.000000Z"),
    ({"date": f"{MOMENT}.123456", "timezone_type": 3, "timezone": "UTC"}, f"{MOMENT}.123456Z"),
    ({"date": MOMENT, "timezone_type": 1, "timezone": "+01:00"}, "2026-11-24T01:14:12.000000Z"),
    ("Nov 24, 2026 2:14:12 AM", f"{MOMENT}.000000Z"),
    ("Nov 24, 2026, 12:14:12\u202fAM", "2026-11-24T00:14:12.000000Z"),
    ("Nov 24, 2026 @ 02:14:12.123", f"{MOMENT}.123000Z"),
    ("Tuesday, November 24, 2026 at 3:14:12 AM CET", f"{MOMENT}.000000Z"),
    ("24 November 2026 02:14:12", f"{MOMENT}.000000Z"),
    ("2026-1-4 2:14:12", "2026-01-04T02:14:12.000000Z"),
    ("2026/1/24 2:14:12.5", "2026-01-24T02:14:12.500000Z"),
    ("2026.11.24 02:14:12", f"{MOMENT}.000000Z"),
    ({"$date": f"{MOMENT}.123Z"}, f"{MOMENT}.123000Z"),
    ({"$date": 1795486452123}, f"{MOMENT}.123000Z"),
    ({"value": "/Date(1795486452123)/", "DisplayHint": 2}, f"{MOMENT}.123000Z"),
    ("/Date(1795486452123)/", f"{MOMENT}.123000Z"),
    (f"{MOMENT}Z\n", f"{MOMENT}.000000Z"),
    ("1795486452.5\r\n", f"{MOMENT}.500000Z"),
    ("20261124021412\n", f"{MOMENT}.000000Z"),
)

SEVERITIES = {
    "DEBUG": ("dbg", "D", "trc", "Verbose", "DEBUG2", "[debug]", "dbug", 7, "7", 10, 20, 29),
    "INFO": ("INF", "i", "success", "notice", " info ", "<info>", "INFO:", 5, 6, 30, 200, 250),
    "WARNING": ("WRN", "W", "WARN ", "warn:", "[WARN]", "\u001b[33mwarn\u001b[0m", 4, 40, 300),
    "ERROR": ("E", "EROR", "ERROR+4", "Error!", "\u001b[1;31m ERROR \u001b[0m", 3, "3", 50, 400),
    "CRITICAL": ("F", "ftl", "dpanic", "SHOUT", "(fatal)", "Emergency", 0, 1, 2, 60, 69, 500, 600),
}


class Loggers(ServerTests):
    """The names of others are taken as they come, and misread never."""

    def test_each_logger_is_right_in_message_time_severity_and_attributes(self) -> None:
        for name, sent, message, time, severity, attributes in LOGGERS:
            with self.subTest(name):
                (record,) = self.accept(sent)
                self.assertEqual(record["message"], message)
                self.assertEqual(record["timestamp"], time or record["received_at"])
                self.assertEqual(record["severity"], severity)
                self.assertEqual(record["service"], "app")
                found = {key: record["attributes"].get(key) for key in attributes}
                self.assertEqual(found, attributes)

    def test_names_mean_the_same_in_capitals(self) -> None:
        for change in (str.upper, str.capitalize, str.lower):
            with self.subTest(change):
                fields = {"msg": "m", "ts": 1795486452, "loglevel": "error"}
                (record,) = self.accept({change(name): value for name, value in fields.items()})
                self.assertEqual((record["message"], record["severity"]), ("m", "ERROR"))
                self.assertEqual(record["timestamp"], f"{MOMENT}.000000Z")
                self.assertEqual(record["attributes"], {})

    def test_what_says_nothing_stays_an_attribute(self) -> None:
        for fields in NOT_UNDERSTOOD:
            with self.subTest(fields):
                (record,) = self.accept({"message": "m", **fields})
                self.assertEqual(record["severity"], "INFO")
                self.assertEqual(record["timestamp"], record["received_at"])
                self.assertEqual(record["attributes"], fields)

    def test_a_level_in_any_dress_is_the_same_severity(self) -> None:
        for severity, levels in SEVERITIES.items():
            for level in levels:
                for name in ("level", "severity"):
                    with self.subTest(level, name=name):
                        (record,) = self.accept({"message": "m", name: level})
                        self.assertEqual(record["severity"], severity)
                        self.assertEqual(record["attributes"], {})

    def test_a_time_in_the_usual_shapes_is_the_same_moment(self) -> None:
        for time, expected in TIMES:
            for name in ("time", "timestamp"):
                with self.subTest(time, name=name):
                    (record,) = self.accept({"message": "m", name: time})
                    self.assertEqual(record["timestamp"], expected)

    def test_a_name_inside_an_object_and_the_same_name_with_a_dot_are_both_kept(self) -> None:
        (record,) = self.accept({"msg": "m", "log": {"level": "warn"}, "log.level": "custom-7"})
        self.assertEqual(record["severity"], "WARNING")
        self.assertEqual(record["attributes"], {"log": {"level": "warn"}, "log.level": "custom-7"})

    def test_a_word_for_the_level_counts_more_than_a_number(self) -> None:
        for level in (30, "1"):
            (record,) = self.accept({"message": "m", "level": level, "levelname": "WARNING"})
            found = record["severity"], record["attributes"]
            self.assertEqual(found, ("WARNING", {"level": level}))

    def test_a_message_of_digits_counts_like_any_other_text(self) -> None:
        for fields in ({"msg": "200", "event": "request"}, {"event": "request", "msg": "200"}):
            with self.subTest(fields):
                (stored,) = self.accept(fields)
                found = stored["message"], stored["attributes"]
                self.assertEqual(found, ("200", {"event": "request"}))

    def test_our_own_names_are_held_to_our_rules(self) -> None:
        for fields in (
            {"severity": "loud"}, {"severity": "erorr"}, {"severity": ""}, {"timestamp": "soon"},
            {"timestamp": "2026114 02:14:12"}, {"timestamp": {"$date": "soon"}},
            {"timestamp": "2026-11-24 02:14:12 XYZ"}, {"severity": 77},
        ):  # fmt: skip
            with self.subTest(fields):
                answer = self.server.post({"message": "m", **fields})
                self.assertEqual(answer.status, 422, answer.text)
                self.assertEqual(answer.json["errors"][0]["field"], next(iter(fields)))

    def test_a_record_without_message_time_and_level_is_a_typing_error(self) -> None:
        for fields in (
            {"mesage": "hi"}, {"message": ""}, {"user": "bob"}, {"log": {"a": 1}}, {"s": "E"},
            {"t": 7},
        ):  # fmt: skip
            with self.subTest(fields):
                answer = self.server.post(fields)
                self.assertEqual(answer.status, 422, answer.text)
                self.assertIn("is missing", answer.json["errors"][0]["error"])

    def test_a_shippers_record_takes_its_service_from_what_it_says_of_its_origin(self) -> None:
        for fields, expected in (
            ({"service": {"name": "web"}}, "web"),
            ({"service.name": "web"}, "web"),
            ({"logger": "web", "name": "no"}, "web"),
            ({"name": "web", "app": "no"}, "web"),
            ({"app": "web"}, "web"),
            ({"severity": "INFO", "timestamp": 1, "service": {"v": "1"}, "app": "web"}, "web"),
            ({"loggerName": "web"}, "web"),
            ({"logger_name": "web"}, "web"),
            ({"log": {"logger": "web"}}, "web"),
            ({"kubernetes": {"container_name": "web", "pod_name": "no"}}, "web"),
            ({"service": "", "logger": "web"}, "web"),
            ({"name": {"first": "bob"}, "app": "web"}, "web"),
            ({"SYSLOG_IDENTIFIER": "web", "_SYSTEMD_UNIT": "no"}, "web"),
            ({"PROGRAM": "web"}, "web"),
            ({"appname": "web"}, "web"),
            ({"app_name": "web"}, "web"),
            ({"serviceName": "web"}, "web"),
            ({"container": {"name": "web"}}, "web"),
        ):
            with self.subTest(fields):
                (record,) = self.accept({"message": "m", **fields}, SHIPPER)
                self.assertEqual(record["service"], expected)

    def test_a_service_that_is_no_text_is_refused_and_not_lost(self) -> None:
        for service in (0, False, [], 5):
            for token in (TOKEN, SHIPPER):
                with self.subTest(service, token=token):
                    answer = self.server.post({"message": "m", "service": service}, token)
                    self.assertIn(answer.status, (403, 422), answer.text)

    def test_a_service_object_of_another_service_is_refused_to_a_service_token(self) -> None:
        for fields in ({"service": {"name": "web"}}, {"service.name": "web"}):
            with self.subTest(fields):
                self.assertEqual(self.server.post({"message": "m", **fields}).status, 403)


class Bodies(ServerTests):
    """Lines of JSON, of text, forms, and what is none of these."""

    def messages(self, body: bytes, content_type: str = "text/plain") -> list[str]:
        return [record["message"] for record in self.accept(body, Content_Type=content_type)]

    def test_a_bad_line_costs_one_record(self) -> None:
        good = b'{"message": "good"}'
        for name, bad in (
            ("cut off", b'{"message": "a'),
            ("text", b"Traceback (most recent call last):"),
            ("a comma too many", b'{"message": "a"},'),
            ("not UTF-8", b'{"message": "\xff"}'),
            ("a number too long", b'{"n": ' + b"1" * 5000 + b"}"),
            ("nested too deep", b"[" * 100_000),
            ("a raw control character", b'{"message": "a\x01"}'),
        ):
            for place in range(3):
                if name in ("text", "nested too deep") and not place:
                    continue  # The first line says what the body is.
                with self.subTest(name, place=place):
                    lines = [good, good]
                    lines.insert(place, bad)
                    answer = self.server.post(b"\n".join(lines))
                    self.assertEqual(answer.status, 200, answer.text)
                    self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (2, 1))
                    self.assertEqual(answer.json["errors"][0]["index"], place)

    def test_records_after_an_empty_array_are_stored(self) -> None:
        for first in (b"[]", b"[ ]\n[]", b"[\n]"):
            with self.subTest(first):
                answer = self.server.post(first + b'\n{"message": "a"}\n[{"message": "b"}]')
                self.assertEqual(answer.status, 200, answer.text)
                self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (2, 0))

    def test_half_a_surrogate_pair_beside_a_line_that_is_not_utf_8_is_replaced(self) -> None:
        answer = self.server.post(b'{"message": "a\\ud800"}\n{"message": "\xff"}\n')
        self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (1, 1))
        record = self.server.get(f"/logs/{answer.json['first_id']}").json
        self.assertEqual(record["message"], "a\ufffd")

    def test_a_deep_line_beside_an_escaped_emoji_costs_one_record(self) -> None:
        emoji = b'{"message": "\\ud83d\\ude00"}\n'
        for depth, accepted in ((480, 2), (600, 1), (5_000, 1)):
            with self.subTest(depth):
                deep = b'{"message": "m", "x": ' + b'{"x":' * depth + b"1" + b"}" * depth + b"}"
                answer = self.server.post(emoji + deep)
                self.assertEqual(answer.status, 200, answer.text)
                self.assertEqual(answer.json["accepted"], accepted)
                record = self.server.get(f"/logs/{answer.json['first_id']}").json
                self.assertEqual(record["message"], "\U0001f600")

    def test_one_good_line_among_many_bad_ones_is_stored(self) -> None:
        answer = self.server.post(b'{"message": "good"}\n' + b"{bad\n" * 200)
        self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (1, 200))
        self.assertEqual(len(answer.json["errors"]), 100)

    def test_a_long_line_of_good_records_costs_nothing_beside_a_bad_line(self) -> None:
        long_line = json.dumps([{"message": "x" * 1000}] * 3000).encode()
        answer = self.server.post(long_line + b'\n{"message": "a"}\n{bad\n')
        self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (3001, 1))

    def test_an_array_or_an_object_on_many_lines_is_refused_whole(self) -> None:
        for body in (
            b'[\n{"message": "a"},\n{"message": "b"}\n',
            b'[{"message": "a"},\n{"message": "b"},\n{"message": "c"}\n',
            b'{\n"message": "a",\n"x": {"n": 1},\n"y":\n{"n": 1}\nbad}',
        ):
            with self.subTest(body):
                answer = self.server.post(body)
                self.assertEqual(answer.status, 422, answer.text)
                self.assertIn("line", answer.json["error"])

    def test_each_line_of_text_is_a_record(self) -> None:
        for name, body, expected in (
            ("one line", b"hello", ["hello"]),
            ("dmesg", b"[    0.000000] Linux\n[    0.5] [drm] up\n",
             ["[    0.000000] Linux", "[    0.5] [drm] up"]),
            ("a level in brackets", b"[ERROR] disk full\n[INFO] ok",
             ["[ERROR] disk full", "[INFO] ok"]),
            ("a date in brackets", b"[2026-11-24 02:14:12] up", ["[2026-11-24 02:14:12] up"]),
            ("ends of lines and blank lines", b"a\r\n\r\n \n  b \n", ["a", "  b "]),
            ("what looks like a form", b"a=b & c=d", ["a=b & c=d"]),
            ("logfmt", b'level=info msg="hi there"', ['level=info msg="hi there"']),
            ("forms on two lines", b"a=1\nb=2\n", ["a=1", "b=2"]),
            ("a JSON text", b'"hello"', ['"hello"']),
            ("a number", b"42", ["42"]),
            ("UTF-8", "ñandú 😀".encode(), ["ñandú 😀"]),
            ("UTF-16 with a mark", "ñandú\nb".encode("utf-16"), ["ñandú", "b"]),
            ("empty brackets", b"[] [main] up", ["[] [main] up"]),
            ("a number before JSON", b'[42] {"msg": "x"}', ['[42] {"msg": "x"}']),
            ("a number before words", b'[17] "GET /" 200', ['[17] "GET /" 200']),
            ("a number in brackets", b"[12] up\n[13]\n[14] down", ["[12] up", "[13]", "[14] down"]),
            ("a brace in brackets", b"[{http-8080}] started", ["[{http-8080}] started"]),
            ("two dashes", b"-- form-data upload failed", ["-- form-data upload failed"]),
            ("markup", b"<14>Nov 24 02:14:12 host app: hi", ["<14>Nov 24 02:14:12 host app: hi"]),
        ):  # fmt: skip
            with self.subTest(name):
                self.assertEqual(self.messages(body), expected)

    def test_a_line_of_text_that_is_too_long_costs_one_record(self) -> None:
        answer = self.server.post(b"a\n" + b"b" * (256 * 1024 + 1) + b"\nc\n")
        self.assertEqual((answer.json["accepted"], answer.json["rejected"]), (2, 1))
        self.assertEqual(answer.json["errors"][0]["index"], 1)

    def test_a_multipart_form_is_a_record_like_a_plain_one(self) -> None:
        part = 'Content-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
        for name, parts in (
            ("curl -F", [("message", "", "a=ñ & b"), ("severity", "", "ERROR"), ("n", "", "")]),
            ("with a type", [("message", "\r\nContent-Type: text/plain; charset=utf-8", "a=ñ & b"),
                             ("severity", "", "ERROR"), ("n", "", "")]),
        ):  # fmt: skip
            with self.subTest(name):
                pieces = [part.format(*values) for values in parts]
                body = "--xY\r\n" + "--xY\r\n".join(pieces) + "--xY--\r\n"
                (record,) = self.accept(
                    body.encode(), Content_Type="multipart/form-data; boundary=xY"
                )
                self.assertEqual((record["message"], record["severity"]), ("a=ñ & b", "ERROR"))
                self.assertEqual(record["attributes"], {"n": ""})

    def test_a_form_of_httphandler_with_a_name_twice_is_kept_as_it_is(self) -> None:
        for fields in (b"msg=%25s&msg=b&args=(1,)", b"msg=a&exc_info=x&exc_info="):
            with self.subTest(fields):
                (record,) = self.accept(b"levelno=40&" + fields)
                self.assertEqual(record["severity"], "ERROR")

    def test_a_declared_charset_of_windows_or_iso_is_decoded(self) -> None:
        for charset, body, expected in (
            ("windows-1252", "caf\u00e9 \u20ac".encode("cp1252"), "café €"),
            ("iso-8859-1", b'{"message": "caf\xe9"}', "café"),
            ('"ISO-8859-15"', b"\xa4", "€"),
            ("latin1", b"message=caf%E9", "café"),
            ("windows-1251", "привет".encode("cp1251"), "привет"),
            ("utf-8", "é".encode(), "é"),
            ("nonsense", "é".encode(), "é"),
        ):
            with self.subTest(charset):
                self.assertEqual(self.messages(body, f"text/plain; charset={charset}"), [expected])

    def test_what_is_no_text_is_refused_and_the_answer_says_what_it_seems_to_be(self) -> None:
        for body, status, word in (
            (b"\x1f\x8b\x08\x00abc", 415, "gzip"),
            (b"\x28\xb5\x2f\xfd\x00\x00", 415, "zstd"),
            (b"PK\x03\x04\xff\xff", 415, "ZIP"),
            (b"\x92\xd7\x00j\x04\x00\x00\x81\xa3log\xa1a", 415, "MessagePack"),
            (b"\x89PNG\r\n\x1a\n", 415, "picture"),
            (b"caf\xe9", 422, "UTF-8"),
            (b"message=caf%E9", 422, "UTF-8"),
            (b'{"message": "caf\xe9"}', 422, "UTF-8"),
            (b'[{"message": "caf\xe9"}]', 422, "UTF-8"),
            (b"a\x00b\nc", 422, "NUL"),
            (bytes(range(256)), 422, "NUL"),
        ):
            with self.subTest(body):
                answer = self.server.post(body, Content_Type="application/octet-stream")
                self.assertEqual(answer.status, status, answer.text)
                self.assertIn(word, answer.json["error"])
                self.assertTrue(answer.json["hint"])

    def test_text_costs_no_more_than_its_length(self) -> None:
        mib = 1 << 20
        for name, body in (
            ("blanks", b"x" + b" \t" * (5 * mib - 10) + b"x"),
            ("ends of lines", b"x" + b"\n" * (10 * mib - 10)),
            ("quotes that do not end", b'{"a": "' + rb"\"" * (5 * mib - 10)),
            ("a long boundary", b"--" + b"x" * (9 * mib) + b"\r\nform-data"),
            ("parts without a name", b"--x\r\nform-data\r\n" + b"--x\r\nname=" * 700_000),
            ("names without an end", b"--x\r\nform-data" + b' name="' * 1_400_000),
            ("a name of a form", b"a" * (9 * mib) + b"="),
            ("brackets", b"[" * (10 * mib)),
            ("digits", b"[" + b"1" * (9 * mib)),
            ("a time", b'{"time": "Nov 24 2026 02:14:12 m=' + b" (" * 150_000 + rb'\nx"}'),
        ):
            with self.subTest(name):
                began = seconds_at_work(self.server)
                self.assertIn(self.server.post(body).status, (200, 413, 422))
                self.assertLess(seconds_at_work(self.server) - began, 3, "s of work")


class Fields(unittest.TestCase):
    """Doctests show the parsers; here is what an object of any kind becomes."""

    def test_no_value_of_any_field_is_an_error_of_the_server(self) -> None:
        values: list[Any] = [None, True, 0, -1, 1.5, 1e300, "", "x", [], [1], {}, {"name": {}}]
        token = server.Token("secret", "shipper")
        for name in server.KNOWN_NAMES:
            for value in values:
                with self.subTest(name, value=value):
                    text = json.dumps({"message": "m", "app": "web", name: value})
                    try:
                        record = server.parse_record(json.loads(text), token)
                    except server.RecordError:
                        continue
                    self.assertIn(record.severity, server.SEVERITY_NAMES)


if __name__ == "__main__":
    unittest.main()
