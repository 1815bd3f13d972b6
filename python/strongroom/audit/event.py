"""Events as they are sealed: OCSF-shaped objects in canonical JSON (RFC 8785).

`event.schema.json` beside this file is their published form. No field holds plaintext, a key or a
PIN; what may be personal comes in as an HMAC from whoever reports it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from strongroom._native import __version__
from strongroom.audit.catalogue import EVENTS, LOG, OPERATIONS, Event

__all__ = ["build", "data_template", "gap", "moment", "now", "own_templates", "tally_event"]

# A longer text is cut, and its end says so: a line stays far below the log's limit of 64 KiB.
TEXT_BYTES: Final = 1024
_INTEGER_MAX: Final = 2**53 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# The version of the schema, which moves when a member changes its meaning.
SCHEMA_VERSION: Final = "1.0.0"

# What the event itself says beside the fields of a report.
_OWN: Final = frozenset(
    {
        "activity_id",
        "activity_name",
        "actor",
        "category_uid",
        "class_name",
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

# An event that this release's catalogue doesn't have; OCSF's activity "Other".
_UNKNOWN: Final = Event(LOG, 99, 1, "another event")

_where: tuple[int, dict[str, Any]] | None = None


def now() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000


def moment(microseconds: int) -> str:
    """Return RFC 3339 text in UTC with microseconds."""
    at = _EPOCH + timedelta(microseconds=microseconds)
    return at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def build(
    name: str, outcome: str, fields: Mapping[str, object], *, at: int | None = None
) -> dict[str, Any]:
    """Return an event as a dict of canonical JSON's values.

    Args:
        name: As in the catalogue; another name is recorded as activity 99, "Other".
        outcome: "success" or "failure".
        fields: What the report says.
        at: Its time, in microseconds since 1970; None for now.

    Raises:
        ValueError: A field's name is no identifier, or is one of the event's own.
    """
    known = EVENTS.get(name, _UNKNOWN)
    when = now() if at is None else at
    failed = outcome != "success"
    event: dict[str, Any] = {
        "activity_id": known.activity_id,
        "category_uid": 6,
        "class_uid": known.class_uid,
        "metadata": {
            "event_code": _text(name),
            "product": {"name": "Strongroom", "version": __version__},
            "version": SCHEMA_VERSION,
        },
        # What was refused or did not work deserves a look, whatever it was about.
        "severity_id": max(known.severity_id, 3) if failed else known.severity_id,
        "status": "Failure" if failed else "Success",
        "status_id": 2 if failed else 1,
        "time": when // 1000,
        "time_dt": moment(when),
        "type_uid": known.class_uid * 100 + known.activity_id,
    }
    event |= _origin()
    for key, value in fields.items():
        if key in _OWN or not (key.isidentifier() and key.isascii()):
            raise ValueError(f"{key!r} can't be a field of an event")
        if value is not None and value != "":
            event[key] = _value(value)
    return event


def canonical(event: Mapping[str, Any]) -> str:
    """Return an event's text: names are ASCII and numbers integers, so this is RFC 8785."""
    return json.dumps(event, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def tally_event(
    key_id: str | None,
    operation: str,
    outcome: str,
    messages: int,
    size: int,
    first: int,
    last: int,
) -> dict[str, Any]:
    """Return the event that says what a second's calls add up to."""
    name, failed, fields = _data(operation, outcome)
    return build(
        name,
        "failure" if failed else "success",
        {
            **fields,
            "key_id": key_id,
            "count": messages,
            "bytes": size,
            "first_time": moment(first),
            "last_time": moment(last),
        },
        at=last,
    )


def gap(missing: int) -> list[dict[str, Any]]:
    """Return the event that says how many events are missing, if some are."""
    return [build("log.gap", "failure", {"count": missing})] if missing else []


def data_template(operation: str, outcome: str, has_key: bool) -> str:
    """Return the event of one data operation, with places for what only the core knows."""
    name, failed, fields = _data(operation, outcome)
    event = build(name, "failure" if failed else "success", fields, at=0)
    for place in ("bytes", "count", "time", "time_dt") + (("key_id",) if has_key else ()):
        event[place] = f"\x01{place}\x01"
    return _with_places(event)


def own_templates() -> tuple[str, str, str]:
    """Return the log's own events: made, torn tail set aside, file begun."""
    events = []
    for name, more in (
        ("log.opened", ()),
        ("log.recovered", ("bytes", "sha256")),
        ("log.rotated", ()),
    ):
        event = build(name, "success", {}, at=0)
        for place in ("time", "time_dt", *more):
            event[place] = f"\x01{place}\x01"
        events.append(_with_places(event))
    opened, recovered, rotated = events
    return opened, recovered, rotated


def _data(operation: str, outcome: str) -> tuple[str, bool, dict[str, object]]:
    if outcome == "success":
        return OPERATIONS[operation], False, {"operation": operation}
    name = "decryption.failed" if operation in ("decrypt", "verify") else "encryption.failed"
    return name, True, {"operation": operation, "error_type": outcome}


def _with_places(event: Mapping[str, Any]) -> str:
    text = canonical(event)
    # Numbers stand without quotes; json.dumps has escaped the marks.
    for place in ("bytes", "count", "time"):
        text = text.replace(f'"\\u0001{place}\\u0001"', f"\x01{place}\x01")
    return text.replace("\\u0001", "\x01")


def _origin() -> dict[str, Any]:
    """Return who and where this process is; found out once a process."""
    global _where
    pid = os.getpid()
    if _where is None or _where[0] != pid:
        uid = os.geteuid()
        user: dict[str, Any] = {"uid": str(uid)}
        try:
            import pwd

            user["name"] = _text(pwd.getpwuid(uid).pw_name)
        except (ImportError, KeyError):
            pass
        program = os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else sys.executable)
        actor = {"process": {"name": _text(program), "pid": pid}, "user": user}
        device = {"hostname": _text(os.uname().nodename), "type_id": 0}
        _where = pid, {"actor": actor, "device": device}
    return _where[1]


def _value(value: object) -> str | int | bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= _INTEGER_MAX:
        return int(value)
    # Fractions too: JSON readers don't agree on their digits.
    return _text(value if isinstance(value, str) else str(value))


def _text(text: str) -> str:
    """Return text that UTF-8 can hold, cut where it is too long."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        # Names from the system that are not UTF-8 come as lone surrogates.
        text = text.encode("utf-8", "backslashreplace").decode()
        encoded = text.encode()
    if len(encoded) <= TEXT_BYTES:
        return text
    kept = encoded[:TEXT_BYTES].decode("utf-8", "ignore")
    return f"{kept}... [cut: {len(encoded)} bytes]"
