"""A store out of a backup: the same rows under a new name, and what happened since the backup.

A backup knows nothing of what came after it. The audit log does: which keys were made since, whose
messages can't be read any more, and which were destroyed or compromised since, which a plain copy
would bring back. All of it is one transaction: the restored store is there whole, or not at all.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from strongroom import _events, _native
from strongroom.errors import KeyStoreError
from strongroom.keys import backup, events, sql
from strongroom.keys import database as databases
from strongroom.keys import keyset as keysets
from strongroom.keys import leases as counts
from strongroom.keys import root as roots
from strongroom.keys.base import _SEEN
from strongroom.keys.database import Transaction
from strongroom.keys.keyset import Keyset
from strongroom.keys.material import wrap_new
from strongroom.keys.reading import load_each
from strongroom.keys.rows import sealed
from strongroom.keys.states import ACTIVE, COMPROMISED, DESTROYED
from strongroom.masters.wrapped import MasterKeyProvider

__all__ = ["Restored", "read_log", "restore"]

# Each event of the log: its name and its fields, successes alone, in the log's order.
Logged = Iterable[tuple[str, Mapping[str, object]]]
_REASON = "restored from a backup"


class Restored(NamedTuple):
    """What `KeyStore.restore` found and did.

    Attributes:
        generation: The store's generation in the backup.
        keys: How many keys the backup holds, destroyed ones not counted.
        lost: Ids of keys that the log says were made since: what they wrote can't be read.
        destroyed: Ids of keys that the log says were destroyed since, destroyed again.
        compromised: Ids of keys that the log says were compromised since, marked again.
        rotated: Names of keysets that got a new primary, for one of these reasons or because a
            key of theirs is counted.
        counted: Ids of keys with a limit, which write no more: how much was counted since the
            backup is not known.
    """

    generation: int
    keys: int
    lost: list[str]
    destroyed: list[str]
    compromised: list[str]
    rotated: list[str]
    counted: list[str]


def read_log(path: str | os.PathLike[str]) -> list[tuple[str, Mapping[str, object]]]:
    """Return the events of a store's life in an audit log, after verifying the log.

    What was reported and then could not be committed is left out.

    Raises:
        AuditIntegrityError: The log was changed.
        AuditError, FileNotFoundError: It is missing or can't be read.
    """
    from strongroom.audit.records import fields_of, records
    from strongroom.audit.verification import verify

    verify(path, index=False)
    found: list[tuple[str, Mapping[str, object]]] = []
    for record in records(path):
        if not record.name.startswith(("key.", "keyset.", "store.")):
            continue
        fields = fields_of(record.event)
        if not record.failed:
            found.append((record.name, fields))
            continue
        for number in range(len(found) - 1, -1, -1):
            name, known = found[number]
            same = all(known.get(f) == fields.get(f) for f in ("key_id", "keyset", "generation"))
            if name == record.name and same:
                del found[number]
                break
    return found


class _Since:
    """What a log says of the keys of one store."""

    def __init__(self, root_id: str, logged: Logged) -> None:
        self.made: dict[str, None] = {}
        self.destroyed: set[str] = set()
        self.compromised: set[str] = set()
        for name, fields in logged:
            key_id = fields.get("key_id")
            if fields.get("store") != root_id or not isinstance(key_id, str):
                continue
            if name == "key.generated":
                self.made[key_id] = None
            elif name == "key.destroyed":
                self.destroyed.add(key_id)
            elif name == "key.compromised":
                self.compromised.add(key_id)


def restore(
    path: str | os.PathLike[str],
    url: str,
    master: MasterKeyProvider,
    *,
    logged: Logged = (),
    now: int,
) -> Restored:
    """See `KeyStore.restore`."""
    databases.sqlite_path(url)
    source = databases.open_database(
        f"sqlite:///{os.path.abspath(os.fspath(path))}", busy_timeout=5.0, read_only=True
    )
    try:
        version = source.schema_version()
        if version != sql.SCHEMA_VERSION:
            raise KeyStoreError(
                f"the backup has the older schema {version}: restore it by the release that made "
                "it, or migrate a copy of it first"
            )
        head = source.read(roots.read_head)
        root, opened_by = roots.open_root(master, head)
        try:
            roots.verify_head(root, head)
            events.say_recovery(root, opened_by)
            return _copy(source, root, url, logged, now)
        finally:
            root.destroy()
    finally:
        source.close()


def _copy(
    source: databases.Database,
    root: _native.MemoryLockedKey,
    url: str,
    logged: Logged,
    now: int,
) -> Restored:
    since = _Since(root.key_id, logged)
    found: list[Restored] = []

    def fill(transaction: Transaction) -> None:
        missing = {i: None for i in since.made if i not in since.destroyed}

        def look(keyset: Keyset) -> None:
            for row in keyset.keys.values():
                if row.state != DESTROYED:
                    missing.pop(row.key_id, None)

        copied = backup.Copied()
        copied.copy(root, source, transaction, look)
        counted = _end_counts(transaction, root)
        ended = set(counted)
        say = functools.partial(_events.report, store=root.key_id)
        lost = list(missing)
        result = Restored(copied.generation, copied.number, lost, [], [], [], counted)
        changes = []
        for block in load_each(transaction, root):
            for before in block.keysets:
                after = _brought_forward(root, before, since, ended, result, now)
                if after is not before:
                    changes.append((before, keysets.save(transaction, root, before, after)))
        say(
            "store.restored",
            generation=copied.generation,
            count=copied.number,
            detail=f"{len(lost)} lost",
        )
        for before, after in changes:
            events.say_changes(say, before, after)
        found[:] = [result]

    try:
        databases.create(url, fill, busy_timeout=5.0)
    except BaseException as error:
        if found:
            _events.report_failure(
                "store.restored", store=root.key_id, error_type=type(error).__name__
            )
        raise
    # This process knows that the store is older than it was.
    _SEEN.forget(root.key_id)
    return found[0]


def _end_counts(transaction: Transaction, root: _native.MemoryLockedKey) -> list[str]:
    """Let no counted key write any more: what was counted since the backup is not known."""
    store, _ = roots.locked(transaction, root)
    rows = counts.read_leases(transaction, root, store)
    ended = {i: sealed(root, row._replace(spent=counts.MOST)) for i, row in rows.items()}
    for key_id, row in ended.items():
        transaction.execute(sql.UPDATE_LEASE, (*row, key_id))
    if ended:
        counts.save_leases(transaction, root, store, ended)
    return sorted(ended)


def _brought_forward(
    root: _native.MemoryLockedKey,
    before: Keyset,
    since: _Since,
    counted: set[str],
    result: Restored,
    now: int,
) -> Keyset:
    """Return a keyset as the log says it should be."""
    gone = [i for i, row in before.keys.items() if i in since.destroyed and row.state != DESTROYED]
    known = [
        i
        for i, row in before.keys.items()
        if i in since.compromised and i not in gone and row.state not in (COMPROMISED, DESTROYED)
    ]
    after = before
    primary = before.primary
    if primary is not None and not before.head.database_id:
        leaves = primary.key_id in (*gone, *known)
        if leaves or counted & before.keys.keys():
            key_id, data = wrap_new(root)
            after = after.with_key(key_id, data, now).activated(key_id, now, _REASON)
            result.rotated.append(before.head.name)
    for key_id in sorted(known):
        if after.keys[key_id].state in ("pre-active",):
            gone.append(key_id)
            continue
        after = after.compromised(key_id, now, _REASON)
        result.compromised.append(key_id)
    for key_id in sorted(gone):
        if after.keys[key_id].state == ACTIVE:
            # A database's: its file is under it.
            after = after.suspended(key_id, now, _REASON)
        after = after.destroyed(key_id, now, _REASON)
        result.destroyed.append(key_id)
    return after
