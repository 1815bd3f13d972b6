"""Records as they are read: from the log's files, and as `logging` takes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from strongroom import _native

if TYPE_CHECKING:
    import logging

__all__ = ["Record", "fields_of", "hand_over", "last_records", "matching", "records"]

# Members of an event that are its frame, not what it says.
FRAME: Final = frozenset(
    {
        "activity_id",
        "actor",
        "category_uid",
        "class_uid",
        "device",
        "metadata",
        "severity_id",
        "status",
        "status_id",
        "time",
        "time_dt",
        "type_uid",
    }
)

# The nouns of events whose name is a participle.
_NOUNS: Final = {
    "key.generated": "key_generation",
    "key.activated": "key_activation",
    "key.rotated": "key_rotation",
    "key.retired": "key_retirement",
    "key.suspended": "key_suspension",
    "key.resumed": "key_resumption",
    "key.compromised": "key_compromise",
    "key.destroyed": "key_destruction",
    "key.wrapped": "key_wrapping",
    "key.unwrapped": "key_unwrapping",
    "key.rewrapped": "key_rewrapping",
    "key.exported": "key_export",
    "key.imported": "key_import",
    "keyset.created": "keyset_creation",
    "keyset.destroyed": "keyset_destruction",
    "decryption.failed": "decryption_failure",
    "encryption.failed": "encryption_failure",
    "store.opened": "store_opening",
    "store.created": "store_creation",
    "database.rotated": "database_rotation",
}

# Levels of `logging`, which is only imported by who has a logger.
_INFO, _WARNING, _ERROR = 20, 30, 40


class Record(NamedTuple):
    """One record of a log.

    Attributes:
        seq: Its number since the first one ever.
        event: What it says.
        line: The whole line as it is hashed, without its newline.
    """

    seq: int
    event: dict[str, Any]
    line: bytes

    @property
    def name(self) -> str:
        """The event's name, as in "key.rotated"."""
        code = self.event.get("metadata", {}).get("event_code", "")
        return str(code)

    @property
    def failed(self) -> bool:
        """Whether it tells of a failure."""
        return bool(self.event.get("status_id") == 2)

    @property
    def time(self) -> str:
        """When it happened: RFC 3339 text in UTC."""
        return str(self.event.get("time_dt", ""))


def records(
    path: str | os.PathLike[str], *, start: int = 0, wanted: Callable[[bytes], bool] | None = None
) -> Iterator[Record]:
    """Yield the records of a log's files in their order; nothing is verified.

    Args:
        path: The log's newest file.
        start: The first record's number.
        wanted: Looked at for each line before it is parsed; None for all.

    Raises:
        AuditError: Files are missing or can't be read.
    """
    files = _native.audit_files(os.fspath(path))
    for number, (name, _, length) in enumerate(files):
        if number + 1 < len(files) and files[number + 1][1] <= start:
            continue
        with open(name, "rb") as file:
            left = length
            for line in file:
                left -= len(line)
                if left < 0 or not line.endswith(b"\n"):
                    break
                if wanted is not None and not wanted(line):
                    continue
                record = _parsed(line)
                if record is not None and record.seq >= start:
                    yield record


def last_records(path: str | os.PathLike[str], count: int) -> list[Record]:
    """Return the newest records, oldest first, from the end of the newest file that has them.

    Raises:
        AuditError: As `records`.
    """
    found: list[Record] = []
    for name, _, length in reversed(_native.audit_files(os.fspath(path))):
        wanted = count - len(found)
        if wanted <= 0:
            break
        size = 4096
        with open(name, "rb") as file:
            while True:
                size = min(size * 4, length)
                file.seek(length - size)
                lines = file.read(size).splitlines(keepends=True)
                if size < length:
                    # Its beginning was cut off, or ends where the piece begins.
                    del lines[0]
                if size == length or len(lines) > wanted:
                    break
        parsed = [record for line in lines if (record := _parsed(line)) is not None]
        found[:0] = parsed[-wanted:]
    return found


def _parsed(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        return Record(value["seq"], value["event"], line[:-1])
    except (ValueError, KeyError, TypeError):
        # `verify` names it; a reader shows what can be read.
        return None


def matching(
    *,
    key: str | None = None,
    event: str | None = None,
    outcome: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> Callable[[Record], bool]:
    """Return a filter of records.

    Args:
        key: A key's id in any field, or its beginning.
        event: An event's name, or its beginning up to a dot.
        outcome: "success" or "failure".
        since: The first time, as RFC 3339 text in UTC or the beginning of it.
        until: The first time that is too late.
    """

    def matches(record: Record) -> bool:
        name = record.name
        if event is not None and name != event and not name.startswith(f"{event}."):
            return False
        if outcome is not None and record.failed != (outcome == "failure"):
            return False
        if since is not None and record.time < since:
            return False
        if until is not None and record.time >= until:
            return False
        return key is None or any(
            field.endswith("key_id") and str(value).startswith(key)
            for field, value in record.event.items()
        )

    return matches


def fields_of(event: dict[str, Any]) -> dict[str, Any]:
    """Return what an event says, without its frame."""
    return {name: value for name, value in event.items() if name not in FRAME}


def event_type(name: str) -> str:
    """Return the noun of an event: "key_rotation" of "key.rotated"."""
    return _NOUNS.get(name) or name.replace(".", "_")


def hand_over(logger: logging.Logger, event: dict[str, Any]) -> None:
    """Log an event: its name is the message, its fields are the record's attributes."""
    name = event["metadata"]["event_code"]
    severity = event["severity_id"]
    level = _ERROR if severity >= 5 else _WARNING if severity >= 3 else _INFO
    if event["status_id"] == 1 and name in ("key.generated", "key.rotated"):
        level = _INFO
    extra = fields_of(event)
    extra["event_type"] = event_type(name)
    extra["timestamp"] = event["time_dt"]
    extra["outcome"] = event["status"].lower()
    # For handlers that pass the fields on without knowing them.
    extra["audit_fields"] = tuple(extra)
    logger.log(level, f"crypto.{name}", extra=extra, stacklevel=4)
