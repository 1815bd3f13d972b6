"""Events where structlog and OpenTelemetry take them; each a few lines, and an extra of its own."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

__all__ = ["structlog_processor", "to_opentelemetry"]

_EventDict = MutableMapping[str, Any]


def structlog_processor(
    logger: Any,  # noqa: ANN401 - as structlog calls it
    method_name: str,
    event_dict: _EventDict,
) -> _EventDict:
    """A processor for structlog that brings a record of `CryptoAuditLogger` in its shape.

    For `structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[structlog_processor, ...])` on a
    handler of the `logging.Logger` that the audit log was given: the record's fields become keys of
    the event dict, and other records are left as they are.
    """
    record = event_dict.get("_record")
    if record is not None and str(event_dict.get("event", "")).startswith("crypto."):
        for name in getattr(record, "audit_fields", ()):
            event_dict[name] = getattr(record, name)
    return event_dict


def to_opentelemetry(
    provider: Any = None,  # noqa: ANN401 - opentelemetry's LoggerProvider
) -> logging.Handler:
    """Return a handler that emits each sealed event as an OpenTelemetry event.

    Args:
        provider: A `LoggerProvider`; None for the global one.

    Raises:
        ImportError: `pip install strongroom[opentelemetry]` is missing.

    Example:
        >>> logger = logging.getLogger("crypto")
        >>> logger.addHandler(to_opentelemetry())
        >>> audit.enable(CryptoAuditLogger(logger, "audit.log"))
    """
    import logging

    try:
        from opentelemetry import _logs
    except ImportError:
        raise ImportError(
            "OpenTelemetry is not installed: pip install 'strongroom[opentelemetry]'"
        ) from None
    target = _logs.get_logger("strongroom.audit", logger_provider=provider)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields = getattr(record, "audit_fields", ())
            target.emit(
                _logs.LogRecord(
                    timestamp=int(record.created * 1_000_000_000),
                    event_name=record.getMessage(),
                    severity_text=record.levelname,
                    severity_number=_severity(_logs, record.levelno),
                    attributes={f"strongroom.{name}": getattr(record, name) for name in fields},
                )
            )

    return Handler()


def _severity(logs: Any, level: int) -> Any:  # noqa: ANN401
    numbers = logs.SeverityNumber
    return numbers.ERROR if level >= 40 else numbers.WARN if level >= 30 else numbers.INFO
