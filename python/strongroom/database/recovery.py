"""Bringing a database and its key store together after a rotation that died.

How far it got is read from the file with the two keys, never from recorded steps, which could
disagree with it. Done twice, it changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from strongroom import _events
from strongroom.database import places as files
from strongroom.database.documents import Intent, Sidecar, Unreadable
from strongroom.database.encrypted import EncryptedDatabase, sqlcipher
from strongroom.database.journals import NoKeyError, refuse_foreign
from strongroom.database.places import FileLock, Places
from strongroom.database.process import Failure, Worker
from strongroom.database.settings import CipherSettings
from strongroom.database.sources import Candidate, StoreSource
from strongroom.errors import DatabaseBusyError, KeyStateError, RotationError
from strongroom.keys.states import DESTROYED, PRE_ACTIVE

__all__ = ["Recovery", "recover", "remove_backup", "remove_expired"]

CORRUPT = 11


class Recovery(NamedTuple):
    """What `recover` found and did.

    Attributes:
        found: "nothing" to do; "new": the rotation was finished; "old": it was undone; "restored":
            likewise, by writing the backup over a file that neither key opened, or whose new key
            was destroyed meanwhile; "sidecar": that was written anew; "promoted": a rotation's key
            without an intent was made the primary; "leftovers": of a rotation that had ended, or
            had not begun, were removed.
        key_id: The key that the file is under.
        path: The database.
    """

    found: str
    key_id: str
    path: str


def recover(places: Places, source: StoreSource, lock: FileLock, *, timeout: float) -> Recovery:
    """Settle what a dead rotation left; the caller holds the exclusive lock.

    Raises:
        DatabaseBusyError: Another connection holds the database.
        RotationError: Nothing was written and nothing removed; the text says which file holds what.
    """
    source.refresh()
    try:
        intent = Intent.load(places.intent, source.mac)
    except Unreadable as error:
        if not error.missing:
            raise RotationError(
                f"{places.intent}: {error}; nothing was touched. It says which keys "
                f"{places.database} may be under: put it back as it was, or open the key store "
                "that it belongs to",
                journal=places.intent,
            ) from None
        return _without_intent(places, source, lock, timeout)
    recovery = _from_intent(places, source, lock, intent, timeout)
    _events.report(
        "database.recovered",
        database=intent.database_id,
        keyset=source.keyset,
        old_key_id=intent.old_id,
        new_key_id=intent.new_id,
        detail=recovery.found,
    )
    return recovery


def _from_intent(
    places: Places, source: StoreSource, lock: FileLock, intent: Intent, timeout: float
) -> Recovery:
    def failed(text: str) -> RotationError:
        if gone:
            text += f" (the old key {intent.old_id} is not in the key store any more)"
        return RotationError(
            f"{places.database}: {text}. Nothing was written and nothing removed: it is as the "
            f"rotation from key {intent.old_id} to {intent.new_id} left it, "
            + (
                f"{places.backup} is the database before it, under {intent.old_id}, "
                if os.path.exists(places.backup)
                else "there is no backup, "
            )
            + f"and {places.intent} has the new key",
            journal=places.intent,
        )

    store, name, gone = source.store, source.keyset, False
    if intent.keyset != name or source.database_id not in ("", intent.database_id):
        raise RotationError(
            f"{places.intent} is another database's, of keyset {intent.keyset!r}; nothing was "
            "touched",
            journal=places.intent,
        )
    source.bind(intent.database_id, intent.settings)
    wrapped = bytes.fromhex(intent.wrapped)
    if source.state_of(intent.new_id) is None:
        # The store was put back to a copy from before the key was made.
        store._restore_rotation_key(name, intent.rotation, intent.new_id, wrapped)
    settings = intent.settings
    other = _third_key(places, source, intent)
    if other:
        # A file that was put here since, over the rotation's: the backup is older than it.
        raise failed(f"it is under key {other}, so the intent is of another rotation")
    try:
        salt = refuse_foreign(
            places,
            CipherSettings.load(intent.settings),
            source,
            more=partial(store._wrapped_secret, intent.new_id, wrapped),
        )
    except NoKeyError as error:
        raise failed(str(error)) from None
    # Once it was the primary others may have written, and the backup is older than what they wrote.
    never_primary = source.state_of(intent.new_id) in (PRE_ACTIVE, DESTROYED)
    figures = (intent.pages, intent.rows, intent.figures) if never_primary else None
    gone = source.state_of(intent.old_id) in (None, DESTROYED)
    keys = [
        # The new key may be the file's by now. If not, this one opens nothing, as the old one does.
        bytearray(os.urandom(32)) if gone else source.secret(intent.old_id),
        store._wrapped_secret(intent.new_id, wrapped),
        store._figures_key(intent.rotation),
    ]
    with Worker(
        "recover",
        places,
        settings,
        lock,
        timeout=timeout,
        figures=figures,
        undo=source.state_of(intent.new_id) == DESTROYED,
        salt=salt,
    ) as worker:
        with _translated(places, failed):
            worker.give(keys)
            found: str = worker.answer()["found"]
        key_id = intent.new_id if found == "new" else intent.old_id
        if found == "new":
            try:
                store._settle_rotation_key(name, intent.rotation, intent.new_id, intent.primary_id)
            except KeyStateError as error:
                raise failed(f"it is under the new key, but {error}") from error
        sidecar = Sidecar(intent.database_id, name, key_id, settings)
        _write_sidecar(places, source, sidecar)
        files.remove_durably(places, places.intent)
        with _translated(places, failed):
            worker.go()
            worker.answer()
    if found != "new" and source.state_of(intent.new_id) == PRE_ACTIVE:
        store._discard_rotation_key(name, intent.rotation, intent.new_id)
    remove_backup(places)
    return Recovery(found, key_id, places.database)


def _third_key(places: Places, source: StoreSource, intent: Intent) -> str:
    """Return the key that a file is under which was there neither before nor after; else ""."""
    driver, settings = sqlcipher(), CipherSettings.load(intent.settings)
    others = (i for i, _ in source.candidates("") if i not in (intent.old_id, intent.new_id))
    for key_id in others:
        if driver.opens_alone(places.database, partial(source.secret, key_id), settings):
            return key_id
    return ""


def _write_sidecar(places: Places, source: StoreSource, sidecar: Sidecar) -> None:
    """Write a sidecar that isn't right yet: the disk may be full, which is why we are here."""
    with contextlib.suppress(Unreadable):
        if Sidecar.load(places.sidecar, source.mac) == sidecar:
            return
    files.write_durably(places, places.sidecar, sidecar.dump(source.mac))


def _without_intent(
    places: Places, source: StoreSource, lock: FileLock, timeout: float
) -> Recovery:
    database = EncryptedDatabase(places.database, source.store, keyset=source.keyset)
    files.refuse_unsuitable(places)
    sidecar = database._sidecar()
    settings = database.settings_of(sidecar)
    # A key of this database's last rotation, if that died before its intent was there.
    rows = source.rows().keys
    rotation = lock.rotation
    stray = {i for i, r in rows.items() if r.state == PRE_ACTIVE and r.rotation == rotation != ""}
    try:
        salt = refuse_foreign(places, settings, source)
    except NoKeyError:
        raise database.refusal(sidecar, settings) from None
    candidates = source.candidates(sidecar.key_id if sidecar else "")
    candidates.sort(key=lambda candidate: candidate.key_id not in stray)
    answer = _find(places, source, settings, lock, candidates, timeout, salt=salt)
    if answer["found"] < 0:
        raise database.refusal(sidecar, settings, plain=answer["plain"])
    key_id = candidates[answer["found"]].key_id
    done = "nothing"
    if not source.database_id:
        identity = sidecar.database_id if sidecar else secrets.token_hex(16)
        source.bind(identity, settings.dump())
        done = "sidecar"
    if rows[key_id].state == PRE_ACTIVE:
        _promote(places, source, lock, key_id, timeout)
        done = "promoted"
    right = Sidecar(source.database_id, source.keyset, key_id, settings.dump())
    if sidecar != right:
        files.write_durably(places, places.sidecar, right.dump(source.mac))
        done = "sidecar" if done == "nothing" else done
    for other in stray - {key_id}:
        source.store._discard_rotation_key(source.keyset, rotation, other)
        done = "leftovers" if done == "nothing" else done
    if os.path.exists(places.backup):
        # It goes only when the database is whole.
        _find(places, source, settings, lock, [Candidate(key_id, "")], timeout, check=True)
    if any(map(os.path.lexists, _removable(places))):
        remove_backup(places)
        done = "leftovers" if done == "nothing" else done
    if done != "nothing":
        _events.report(
            "database.recovered",
            database=source.database_id,
            keyset=source.keyset,
            key_id=key_id,
            detail=done,
        )
    return Recovery(done, key_id, places.database)


def _find(
    places: Places,
    source: StoreSource,
    settings: CipherSettings,
    lock: FileLock,
    candidates: list[Candidate],
    timeout: float,
    *,
    check: bool = False,
    salt: str = "",
) -> dict[str, Any]:
    """Ask a child which of the keys opens the file, and whether all of that is whole."""
    with (
        Worker(
            "find",
            places,
            settings.dump(),
            lock,
            timeout=timeout,
            candidates=len(candidates),
            check=check,
            salt=salt,
        ) as worker,
        _translated(places, lambda text: RotationError(f"{places.database}: {text}")),
    ):
        for candidate in candidates:
            worker.give([source.secret(candidate.key_id)])
        return worker.answer()


def _promote(
    places: Places, source: StoreSource, lock: FileLock, key_id: str, timeout: float
) -> None:
    """Make a rotation's key the primary: its file is there, its intent is not."""
    row = source.rows().key(key_id)
    others = [c for c in source.candidates("") if c.key_id != key_id]
    keys = [
        source.secret(others[0].key_id) if others else bytearray(os.urandom(32)),
        source.secret(key_id),
        source.store._figures_key(row.rotation),
    ]
    settings = source.settings
    with (
        Worker("recover", places, settings, lock, timeout=timeout) as worker,
        _translated(places, lambda text: RotationError(f"{places.database}: {text}")),
    ):
        worker.give(keys)
        worker.answer()
        source.store._promote_rotation_key(source.keyset, row.rotation, key_id, None)
        worker.go()
        worker.answer()


@contextlib.contextmanager
def _translated(places: Places, failed: Callable[[str], RotationError]) -> Iterator[None]:
    """Turn what a child could not do into this library's errors."""
    try:
        yield
    except Failure as failure:
        if failure.kind == "busy":
            raise busy(places) from None
        text = str(failure)
        if failure.kind == "sqlite" and failure.code == CORRUPT:
            text = f"it is damaged ({text})"
        raise failed(text) from failure


def busy(places: Places) -> DatabaseBusyError:
    """Return the error for a database that others hold, with who they are."""
    others = files.holders(places.database)
    return DatabaseBusyError(
        f"{places.database} is in use by another connection; nothing was changed. In WAL mode an "
        "idle connection is enough: close the pools, then try again"
        + (f". Open in: {', '.join(others)}" if others else "")
    )


def kept_backups(places: Places) -> list[tuple[str, int]]:
    """Return the backups that were kept on request, and until when, in seconds since 1970."""
    prefix = f"{os.path.basename(places.backup)}."
    found = []
    for name in os.listdir(places.directory):
        end = name[len(prefix) :]
        if name.startswith(prefix) and end.isdigit():
            found.append((os.path.join(places.directory, name), int(end)))
    return sorted(found)


def _expired(places: Places) -> list[str]:
    return [path for path, until in kept_backups(places) if until <= time.time()]


def _removable(places: Places) -> list[str]:
    """Return the paths of what a rotation leaves for a time, there or not."""
    aside = [f"{places.backup}.aside{suffix}" for suffix in ("-wal", "-journal")]
    temporary = [f"{path}.tmp" for path in (places.backup, places.intent, places.sidecar)]
    return [places.backup, *aside, *temporary, *_expired(places)]


def remove_expired(places: Places) -> None:
    """Remove backups whose time is over; no lock is needed, for nobody wants them any more."""
    files.remove_durably(places, *_expired(places))


def remove_backup(places: Places) -> None:
    """Remove the backup, kept ones whose time is over, and what was moved aside."""
    files.remove_durably(places, *_removable(places))
