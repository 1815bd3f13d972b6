"""structlog and OpenTelemetry, with the real packages."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import structlog
from opentelemetry.sdk import _logs
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from strongroom import CryptoAuditLogger
from strongroom.audit.integrations import structlog_processor, to_opentelemetry

KEY = "00112233445566778899aabbccddeeff"


@pytest.fixture
def logger():
    logger = logging.getLogger("crypto.test")
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers.clear()


def test_structlog(logger: logging.Logger, tmp_path: Path, capsys) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog_processor],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logger.addHandler(handler)
    with CryptoAuditLogger(logger, tmp_path / "log") as log:
        log.log_key_rotation(KEY, "1" * 32, "policy")
    logger.info("another record")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["event"] == "crypto.key.rotated"
    assert (first["event_type"], first["old_key_id"], first["reason"]) == (
        "key_rotation",
        KEY,
        "policy",
    )
    assert second == {"event": "another record"}


def test_opentelemetry(logger: logging.Logger, tmp_path: Path) -> None:
    provider = _logs.LoggerProvider()
    exporter = InMemoryLogRecordExporter()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger.addHandler(to_opentelemetry(provider))
    with CryptoAuditLogger(logger, tmp_path / "log") as log:
        log.log_key_generation(KEY, "AES-256-GCM", "data")
        log.log_decryption_failure(KEY, "DecryptionError")
    generated, failed = (data.log_record for data in exporter.get_finished_logs())
    assert generated.event_name == "crypto.key.generated"
    assert (generated.attributes or {})["strongroom.key_id"] == KEY
    assert generated.severity_text == "INFO"
    assert failed.event_name == "crypto.decryption.failed"
    assert (failed.attributes or {})["strongroom.error_type"] == "DecryptionError"
    provider.shutdown()
