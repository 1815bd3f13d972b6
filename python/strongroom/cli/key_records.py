"""How the commands show keys: one line each, and with --json everything that is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strongroom.cli.output import Output, printable

if TYPE_CHECKING:
    from datetime import datetime

    from strongroom.keys import Key, KeyStore

__all__ = ["Inventory", "record", "show"]


class Inventory:
    """What a store knows of its keys beside their rows, read once."""

    def __init__(self, key_store: KeyStore) -> None:
        self._policies = {name: key_store.get_policy(name) for name in key_store.keysets()}
        self._usage = key_store.all_usage()
        self._held = key_store.held_keys()
        self._names = {backup.id: backup.name for backup in key_store.backups()}
        due = key_store.due()
        self._rotate = set(due.rotate)
        self._due = {
            name: {key.id for key in keys}
            for name, keys in (
                ("reencrypt", due.reencrypt),
                ("destroy", due.destroy),
                ("back up", due.back_up),
            )
        }

    def fields(self, key: Key) -> dict[str, Any]:
        """Return what belongs to a key, for --json."""
        policy = self._policies.get(key.keyset)
        usage = self._usage.get(key.id)
        backup = self._held.get(key.id)
        return {
            "policy": None if policy is None else policy._asdict(),
            "due": self.reasons(key),
            "last_used": usage.last_day if usage else None,
            "messages": usage.messages if usage else 0,
            "bytes": usage.volume if usage else 0,
            "opened": usage.opened if usage else 0,
            "backup": backup,
            "backup_name": self._names.get(backup) if backup else None,
        }

    def reasons(self, key: Key) -> list[str]:
        """Return what is due for a key."""
        found = ["rotate"] if key.state == "active" and key.keyset in self._rotate else []
        return found + [name for name, ids in self._due.items() if key.id in ids]


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
