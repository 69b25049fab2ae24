"""Loggers and exporters that people already have, unmodified, against a real server.

The programs for Python are run by the interpreter that LOG_SERVER_CLIENTS_PYTHON names: .ci/run
installs the packages of .ci/clients.txt for it. Those for Node: see test_clients.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import unittest
from typing import Any

from test_clients import (  # type: ignore[import-not-found]
    MODULES,
    Client,
    ClientTest,
    needs,
    needs_node,
    shell,
)

from tests.support import SHIPPER, TOKEN

PYTHON = os.environ.get("LOG_SERVER_CLIENTS_PYTHON", "")
MOMENT = "2026-11-24T02:14:12.123000Z"


def needs_python(*modules: str) -> Any:
    """Skips a test where the Python of the clients does not have one of the modules."""
    if not PYTHON:
        return unittest.skip("LOG_SERVER_CLIENTS_PYTHON does not name a Python")
    done = subprocess.run([PYTHON, "-c", f"import {', '.join(modules)}"], capture_output=True)
    return unittest.skipIf(done.returncode, f"not installed for {PYTHON}: {', '.join(modules)}")


class ProgramTest(ClientTest):  # type: ignore[misc]
    """Runs a program to its end; its arguments are the server's URL and a token."""

    def run_python(self, program: str, token: str, *arguments: str, **environment: str) -> None:
        """Runs a program by the Python of the clients; it must print nothing."""
        path = self.write("program.py", program)
        done = subprocess.run(
            [PYTHON, path, self.server.url, token, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environment},
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def run_node(self, program: str, token: str, *arguments: str) -> None:
        """Runs a program by Node; it must print nothing."""
        path = self.write("program.js", program)
        with Client("node", path, self.server.url, token, *arguments, NODE_PATH=MODULES) as node:
            self.assertEqual(node.wait(60), 0, node.lines)
            self.assertEqual(node.lines, [])

    def by_message(self) -> dict[str, dict[str, Any]]:
        """All records, each by its message."""
        records = self.records()
        found = {record["message"]: record for record in records}
        self.assertEqual(len(found), len(records))
        return found

    def assert_record(self, record: dict[str, Any], **expected: Any) -> None:
        """Checks the fields that are named."""
        self.assertEqual({name: record[name] for name in expected}, expected)


# Its exporter sends protobuf and nothing else.
OPENTELEMETRY = """
import sys
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

provider = LoggerProvider(resource=Resource.create({"service.name": "checkout", "host.name": "w1"}))
headers = {"Authorization": f"Token {sys.argv[2]}"}
exporter = OTLPLogExporter(endpoint=f"{sys.argv[1]}/v1/logs", headers=headers)
provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
log = provider.get_logger("app.py")
when = 1795486452123000000
values = {"n": -3, "big": 2**62, "ratio": 0.5, "ok": True, "tags": ["x", "y"], "raw": b"\\x01\\x02"}
log.emit(LogRecord(timestamp=when, severity_number=SeverityNumber.INFO, severity_text="INFO",
                   body="hello ñ", attributes=values))
log.emit(LogRecord(timestamp=when, severity_number=SeverityNumber.ERROR2,
                   body={"what": "broken", "codes": [7, None]}))
log.emit(LogRecord(timestamp=when, event_name="order.placed", attributes={"order": 7}))
log.emit(LogRecord(timestamp=when, severity_number=SeverityNumber.FATAL, body="dead"))
for n in range(1000):
    log.emit(LogRecord(timestamp=when, severity_number=SeverityNumber.DEBUG, body=f"number {n}"))
provider.shutdown()
"""


class OpenTelemetryPython(ProgramTest):
    """OpenTelemetry's own exporter for Python, which sends protobuf."""

    @needs_python("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    def test_each_record_is_stored_plain_and_compressed(self):
        for number, compression in enumerate(("none", "gzip", "deflate")):
            with self.subTest(compression):
                self.run_python(OPENTELEMETRY, SHIPPER, OTEL_EXPORTER_OTLP_COMPRESSION=compression)
                records = self.records()[number * 1004 :]
                self.assertEqual(len(records), 1004)
                hello, broken, event, dead = records[:4]
                fixed = {"service": "checkout", "timestamp": MOMENT}
                self.assert_record(hello, message="hello ñ", severity="INFO", **fixed)
                kept = {"n": -3, "big": 2**62, "ratio": 0.5, "ok": True, "tags": ["x", "y"]}
                shared = {"raw": "AQI=", "host.name": "w1", "scope": "app.py"}
                self.assertLessEqual({**kept, **shared}.items(), hello["attributes"].items())
                self.assertEqual(
                    json.loads(broken["message"]), {"what": "broken", "codes": [7, None]}
                )
                self.assertEqual(broken["severity"], "ERROR")
                self.assert_record(event, message="order.placed", severity="INFO", **fixed)
                self.assertEqual(event["attributes"]["order"], 7)
                self.assert_record(dead, message="dead", severity="CRITICAL", **fixed)
                messages = [record["message"] for record in records[4:]]
                self.assertEqual(messages, [f"number {n}" for n in range(1000)])


STRUCTLOG = """
import sys, urllib.request
import structlog

class Sender:
    def msg(self, line):
        headers = {"Authorization": f"Token {sys.argv[2]}"}
        request = urllib.request.Request(f"{sys.argv[1]}/logs", line.encode(), headers)
        urllib.request.urlopen(request, timeout=10).close()
    debug = info = warning = error = critical = msg

structlog.configure(
    processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()],
    logger_factory=Sender)
log = structlog.get_logger()
log.info("order placed ñ", user="bob", n=3)
log.warning("slow", timestamp="2026-11-24T02:14:12.123Z")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""

LOGURU = """
import sys, urllib.request
from loguru import logger

def send(line):
    headers = {"Authorization": f"Token {sys.argv[2]}"}
    request = urllib.request.Request(f"{sys.argv[1]}/logs", line.encode(), headers)
    urllib.request.urlopen(request, timeout=10).close()

logger.remove()
logger.add(send, serialize=True, format="{message}", level=0)
logger.bind(user="bob").info("order placed ñ")
logger.success("done")
logger.critical("dead")
"""


class PythonLoggers(ProgramTest):
    """Loggers for Python that write JSON."""

    @needs_python("structlog")
    def test_records_of_structlog_are_stored(self):
        self.run_python(STRUCTLOG, TOKEN)
        records = self.by_message()
        placed = records["order placed ñ"]
        self.assert_record(
            placed, severity="INFO", service="app", attributes={"user": "bob", "n": 3}
        )
        self.assertNotEqual(placed["timestamp"], placed["received_at"])
        self.assert_record(records["slow"], severity="WARNING")
        self.assertEqual(records["failed"]["severity"], "ERROR")
        self.assertIn("ZeroDivisionError", json.dumps(records["failed"]["attributes"]))

    @needs_python("loguru")
    def test_records_of_loguru_are_stored(self):
        self.run_python(LOGURU, TOKEN)
        records = {record["message"].strip(): record for record in self.records()}
        self.assert_record(records["order placed ñ"], severity="INFO", service="app")
        self.assertIn("bob", json.dumps(records["order placed ñ"]["attributes"]))
        self.assertEqual(records["done"]["severity"], "INFO")
        self.assertEqual(records["dead"]["severity"], "CRITICAL")
        for record in records.values():
            self.assertNotEqual(record["timestamp"], record["received_at"])


PINO = """
const log = require('pino')({level: 'trace', name: 'shop'});
log.info({user: 'bob'}, 'order placed ñ');
log.error(new Error('boom'));
log.trace('traced');
log.warn({n: 1});
"""


class Pino(ProgramTest):
    """pino writes JSON to its output; curl takes it from there."""

    @needs("bash", "curl")
    @needs_node("pino")
    def test_its_lines_through_curl_are_stored(self):
        program = self.write("program.js", PINO)
        shell(
            f"NODE_PATH={MODULES} node {program} | curl -sSf --data-binary @-"
            f" -H 'Authorization: Token {SHIPPER}' {self.server.url}/logs"
        )
        records = self.by_message()
        self.assert_record(records["order placed ñ"], severity="INFO", service="shop")
        self.assertEqual(records["order placed ñ"]["attributes"]["user"], "bob")
        self.assertEqual(records["boom"]["severity"], "ERROR")
        self.assertIn("Error: boom", records["boom"]["attributes"]["err"]["stack"])
        self.assertEqual(records["traced"]["severity"], "DEBUG")
        self.assert_record(records[""], severity="WARNING", service="shop")
        for record in records.values():
            self.assertNotEqual(record["timestamp"], record["received_at"])


PINO_LOKI = """
const [url, token] = process.argv.slice(2);
const pino = require('pino');
const transport = pino.transport({target: 'pino-loki', options: {
  host: url, basicAuth: {username: 'any', password: token}, labels: {application: 'shop'},
  batching: {interval: 1}, structuredMetaKey: 'meta'}});
const log = pino({level: 'trace', timestamp: () => ',"time":1795486452123'}, transport);
log.info({user: 'bob', meta: {trace_id: 'abc'}}, 'order placed ñ');
log.error(new Error('boom'));
log.trace('traced');
"""

LOKI_HANDLER = """
import logging, sys
from loki_logger_handler.loki_logger_handler import LokiLoggerHandler

handler = LokiLoggerHandler(
    url=f"{sys.argv[1]}/loki/api/v1/push", labels={"application": "shop", "env": "test"},
    auth=("any", sys.argv[2]), compressed=sys.argv[3] == "gzip", enable_self_errors=True)
log = logging.getLogger("shop.orders")
log.setLevel(logging.DEBUG)
log.addHandler(handler)
log.info("order placed ñ", extra={"user": "bob"})
log.error("failed")
log.debug("looked")
"""


class LokiClients(ProgramTest):
    """Clients that push to Loki."""

    @needs_node("pino", "pino-loki")
    def test_records_of_pino_loki_are_stored(self):
        self.run_node(PINO_LOKI, SHIPPER)
        records = self.by_message()
        self.assertEqual(set(records), {"order placed ñ", "boom", "traced"})
        placed = records["order placed ñ"]
        self.assert_record(placed, severity="INFO", service="shop", timestamp=MOMENT)
        kept = {"user": "bob", "trace_id": "abc", "application": "shop"}
        self.assertLessEqual(kept.items(), placed["attributes"].items())
        self.assert_record(records["boom"], severity="ERROR", timestamp=MOMENT)
        self.assert_record(records["traced"], severity="DEBUG", timestamp=MOMENT)

    @needs_python("loki_logger_handler")
    def test_records_of_loki_logger_handler_are_stored_plain_and_gzipped(self):
        for number, compression in enumerate(("none", "gzip")):
            with self.subTest(compression):
                self.run_python(LOKI_HANDLER, SHIPPER, compression)
                records = {r["message"]: r for r in self.records()[3 * number :]}
                placed = records["order placed ñ"]
                self.assert_record(placed, severity="INFO", service="shop")
                self.assertLessEqual(
                    {"user": "bob", "env": "test"}.items(), placed["attributes"].items()
                )
                self.assertNotEqual(placed["timestamp"], placed["received_at"])
                self.assertEqual(records["failed"]["severity"], "ERROR")
                self.assertEqual(records["looked"]["severity"], "DEBUG")


SPLUNK = """
const [url, token] = process.argv.slice(2);
const {Logger} = require('splunk-logging');
const log = new Logger({token, url, maxBatchCount: 2, batchInterval: 0});
log.error = (error, context) => console.log(String(error), JSON.stringify(context));
const metadata = {time: 1795486452.123, host: 'vm', source: 'orders', sourcetype: 'shop'};
log.send({message: 'order placed ñ', severity: 'info', metadata});
log.send({message: {temperature: 21}, severity: 'error', metadata});
"""

WINSTON_SPLUNK = """
const [url, token] = process.argv.slice(2);
const winston = require('winston');
const Splunk = require('winston-splunk-httplogger');
const transport = new Splunk({splunk: {token, url, sourcetype: 'shop'}, level: 'silly'});
const log = winston.createLogger({level: 'silly', transports: [transport]});
log.info('order placed ñ', {user: 'bob'});
log.error('failed');
"""


class SplunkClients(ProgramTest):
    """Clients of Splunk's HTTP Event Collector."""

    @needs_node("splunk-logging")
    def test_records_of_splunk_logging_are_stored(self):
        self.run_node(SPLUNK, SHIPPER)
        placed, measured = self.wait_for(2)
        fixed = {"service": "shop", "timestamp": MOMENT}
        self.assert_record(placed, message="order placed ñ", severity="INFO", **fixed)
        kept = {"host": "vm", "source": "orders", "sourcetype": "shop"}
        self.assertEqual(placed["attributes"], kept)
        self.assert_record(measured, message='{"temperature":21}', severity="ERROR", **fixed)

    @needs_node("winston", "winston-splunk-httplogger")
    def test_records_of_winston_are_stored(self):
        self.run_node(WINSTON_SPLUNK, TOKEN)
        records = self.by_message()
        self.assert_record(records["order placed ñ"], severity="INFO", service="app")
        self.assertIn("bob", json.dumps(records["order placed ñ"]["attributes"]))
        self.assert_record(records["failed"], severity="ERROR")


if __name__ == "__main__":
    unittest.main()
