"""Taking a plain SQLite database, or one under a passphrase, into a key store. Offline."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, NamedTuple

from strongroom import _events
from strongroom.database import places as files
from strongroom.database.before import check_room
from strongroom.database.documents import Sidecar
from strongroom.database.encrypted import DEFAULT_KEYSET, EncryptedDatabase, sqlcipher
from strongroom.database.places import FileLock, Places, locate
from strongroom.database.process import Failure, Worker
from strongroom.database.settings import CipherSettings
from strongroom.database.sources import StoreSource
from strongroom.errors import (
    DatabaseBusyError,
    EncryptedDatabaseError,
    KeyStateError,
    NotADatabaseError,
)
from strongroom.keys import KeyStore

if TYPE_CHECKING:
    import os as _os

__all__ = ["AdoptReport", "adopt_database"]


class AdoptReport(NamedTuple):
    """What was taken over.

    Attributes:
        path: The database, links resolved.
        keyset: Its keyset.
        key_id: The key that it is under.
        tables: How many tables were counted.
        rows: Their rows.
        original: Path of the original if it was kept, else None.
    """

    path: str
    keyset: str
    key_id: str
    tables: int
    rows: int
    original: str | None


def adopt_database(
    path: str | _os.PathLike[str],
    key_store: KeyStore,
    *,
    keyset: str = DEFAULT_KEYSET,
    passphrase: str | bytes | bytearray | None = None,
    settings: CipherSettings | None = None,
    busy_timeout: float = 30.0,
    keep_original: bool = False,
    force: bool = False,
) -> AdoptReport:
    """Bring a plain SQLite database, or one under a passphrase, under the active key of a keyset.

    Nothing else may have it open. It is copied by SQLCipher's export, the copy is verified, and
    only then it takes the file's name: done again after a crash, it goes on. Rows of a table that
    has neither an INTEGER PRIMARY KEY nor an index may get other rowids, as VACUUM does it.

    Args:
        path: The database; links are followed.
        key_store: The key store.
        keyset: A keyset that belongs to no other database.
        passphrase: What the database is under now: a passphrase, or a raw key as "x'...'" with 64
            or 96 hex digits; None for a plain one.
        settings: Its cipher settings, and those it is to have; None for SQLCipher 4's.
        busy_timeout: How long to wait for other connections, in seconds.
        keep_original: Leave the original beside it, as `NAME.srm.original`.
        force: Though other processes have the file open.

    Raises:
        FileNotFoundError: It isn't there.
        DatabaseBusyError: Another connection, or another process, has it open.
        NotADatabaseError: It is neither kind, or of SQLCipher 3.
        EncryptedDatabaseError: It is under a key of the keyset already, or there is no room, or it
            is mounted by itself.
        KeyStateError: The keyset is another database's.
    """
    sqlcipher()
    places, source = locate(path), StoreSource(key_store, keyset)
    original = f"{places.database}.srm.original"
    wanted = (settings or CipherSettings()).checked().with_salt()
    with FileLock.take(places, exclusive=True, timeout=busy_timeout) as lock:
        _forget_link(places, original)
        files.refuse_unsuitable(places)
        files.refuse_mounted(places)
        source.refresh()
        source.usable()
        database = EncryptedDatabase(places.database, key_store, keyset=keyset)
        sidecar = database._sidecar()
        if source.database_id:
            if sidecar is None or sidecar.database_id != source.database_id:
                raise KeyStateError(
                    f"keyset {keyset!r} belongs to another database: make another one, and name "
                    "it with keyset="
                )
            wanted = database.settings_of(sidecar)
        if os.path.lexists(places.intent):
            raise EncryptedDatabaseError(
                f"a rotation of {places.database} did not end: strongroom db recover"
            )
        if _ours(places, source, wanted):
            if not os.path.lexists(original):
                raise EncryptedDatabaseError(
                    f"{places.database} is under the active key of keyset {keyset!r} already"
                )
            # It was adopted, and died before the original was removed.
            tables = rows = 0
        else:
            _check_sole(places, force)
            check_room(places, "taking over")
            tables, rows = _adopt(places, source, lock, sidecar, wanted, passphrase, busy_timeout)
        if not keep_original:
            files.remove_durably(places, original)
        kept = original if keep_original else None
        report = AdoptReport(places.database, keyset, source.primary_id, tables, rows, kept)
    _events.report(
        "database.registered",
        database=source.database_id,
        keyset=keyset,
        key_id=report.key_id,
    )
    return report


def _adopt(
    places: Places,
    source: StoreSource,
    lock: FileLock,
    sidecar: Sidecar | None,
    settings: CipherSettings,
    passphrase: str | bytes | bytearray | None,
    timeout: float,
) -> tuple[int, int]:
    word = bytearray(passphrase.encode() if isinstance(passphrase, str) else passphrase or b"")
    given = -1 if passphrase is None else len(word)
    text = settings.dump()
    try:
        with Worker("adopt", places, text, lock, timeout=timeout, passphrase=given) as worker:
            worker.give([source.secret(source.primary_id), *([word] if given >= 0 else [])])
            found = worker.answer()
            identity = sidecar.database_id if sidecar else secrets.token_hex(16)
            new = Sidecar(identity, source.keyset, source.primary_id, text)
            files.write_durably(places, places.sidecar, new.dump(source.mac))
            source.bind(identity, text)
            worker.go()
            worker.answer()
            worker.finish()
    except Failure as failure:
        if failure.kind == "busy":
            raise _in_use(places) from None
        if failure.kind == "proof":
            raise NotADatabaseError(f"{places.database}: {failure}") from failure
        raise EncryptedDatabaseError(
            f"{places.database} could not be taken over: {failure}"
        ) from failure
    return found["tables"], found["rows"]


def _ours(places: Places, source: StoreSource, settings: CipherSettings) -> bool:
    driver = sqlcipher()
    secret = source.secret(source.primary_id)
    try:
        connection = driver.try_open(places.database, secret, settings, mode="rw", timeout=1.0)
    except driver.DatabaseError as error:
        if driver.code_of(error) in (driver.BUSY, driver.LOCKED):
            raise _in_use(places) from error
        raise EncryptedDatabaseError(f"{places.database} can't be opened: {error}") from error
    finally:
        driver.wipe(secret)
    if connection is None:
        return False
    connection.close()
    return True


def _forget_link(places: Places, original: str) -> None:
    """Take back the second name of an adoption that died between giving it and the rename."""
    try:
        same = os.path.samestat(os.stat(original), os.stat(places.database))
    except FileNotFoundError:
        return
    if same:
        files.remove_durably(places, original)


def _check_sole(places: Places, force: bool) -> None:
    if files.holders(places.database) and not force:
        raise _in_use(places)


def _in_use(places: Places) -> DatabaseBusyError:
    others = ", ".join(files.holders(places.database))
    return DatabaseBusyError(
        f"{places.database} is in use"
        + (f" by {others}" if others else "")
        + ": stop what uses it, then try again; nothing was changed"
    )
