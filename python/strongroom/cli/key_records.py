"""How the commands show keys: one line each, and with --json everything that is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strongroom.cli.output import Output, printable

if TYPE_CHECKING:
    from datetime import datetime

    from strongroom.keys import Key, KeyReport

__all__ = ["known", "record", "show"]


def known(report: KeyReport, backups: dict[str, str]) -> dict[str, Any]:
    """Return what is known of a key beside its row, for --json.

    Args:
        report: What the store says.
        backups: The names of the store's backups by their ids.
    """
    return {
        "policy": report.policy._asdict(),
        "due": report.due,
        "last_used": report.usage.last_day,
        "messages": report.usage.messages,
        "bytes": report.usage.volume,
        "opened": report.usage.opened,
        "backup": report.backup,
        "backup_name": backups.get(report.backup or ""),
    }


def show(out: Output, key: Key) -> None:
    """Print a key as it is after the command."""
    record(out, key)
    after = f", to be destroyed after {_time(key.destroy_after)}" if key.destroy_after else ""
    out.line(f"{key.id}  {printable(key.keyset)}  {key.state}{after}")


def record(out: Output, key: Key, **more: object) -> None:
    """Print a key's JSON."""
    out.record(
        "key",
        status="ok",
        key_ids=[key.id],
        keyset=key.keyset,
        purpose=key.purpose,
        state=key.state,
        since=_time(key.since),
        generation=key.generation,
        created=_time(key.created),
        activated=_time(key.activated),
        deactivated=_time(key.deactivated),
        destroy_after=_time(key.destroy_after),
        reason=key.reason,
        **more,
    )


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
