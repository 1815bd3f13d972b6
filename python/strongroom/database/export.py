"""Taking a database of another kind over: what the child does for adopt.py.

The copy is made beside the file and verified; only then it takes the file's name, while the lock on
the old one is still held. Nothing else may have the file open: it would go on with the old one.
"""

# ruff: noqa: ANN401  (connections of sqlcipher3, which has no types)

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from strongroom.database import driver
from strongroom.database.places import Places, own_as_database, size_of, sync_directory
from strongroom.database.settings import CipherSettings
from strongroom.database.work import (
    PAUSE_SECONDS,
    Busy,
    Proof,
    begin_exclusive,
    check_pages,
    check_structure,
)

__all__ = ["adopt"]

# What sqlcipher_export does not copy, and ANALYZE makes anew.
_STATISTICS = "sqlite_stat"
_OLDER = (3, 2, 1)


def adopt(
    places: Places,
    settings: CipherSettings,
    secret: bytearray,
    passphrase: bytearray | None,
    timeout: float,
    step: Callable[..., None],
) -> None:
    """Put a copy under a raw key in the place of a plain database, or one under a passphrase.

    Raises:
        Busy: Another connection holds it.
        Proof: It is of a kind that can't be adopted, or the copy is not what it must be.
    """
    source = _exclusive(places, passphrase, settings, timeout)
    copy = f"{places.database}.srm.adopt"
    try:
        (mode,) = source.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal" and source.execute("PRAGMA journal_mode = DELETE").fetchone() != (
            "delete",
        ):
            raise Busy
        check_structure(source)
        _export(places, source, copy, secret, settings)
        before = _content(source)
        check = driver.try_open(copy, secret, settings, immutable=True, isolation_level=None)
        if check is None:
            raise Proof("the copy does not open under its key")
        with contextlib.closing(check):
            if _content(check) != before:
                raise Proof("the copy has not the schema or the rows of the original")
            check_pages(check)
        step(1, rows=sum(before[1].values()), tables=len(before[1]), journal_mode=mode)
        os.link(places.database, f"{places.database}.srm.original")
        os.rename(copy, places.database)
        sync_directory(places.directory)
    finally:
        source.close()
    connection = driver.try_open(places.database, secret, settings, isolation_level=None)
    if connection is None:
        raise Proof("the copy does not open under its key any more")
    with contextlib.closing(connection):
        if mode == "wal":
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        check_structure(connection)


def _exclusive(
    places: Places, passphrase: bytearray | None, settings: CipherSettings, timeout: float
) -> Any:
    deadline = time.monotonic() + timeout
    while True:
        connection = _open(places, passphrase, settings)
        try:
            begin_exclusive(connection, deadline)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.execute("COMMIT")
        except BaseException as error:
            connection.close()
            code = driver.code_of(error)
            if code == driver.NOTADB:
                raise _unknown(places, passphrase) from None
            if code not in (driver.BUSY, driver.LOCKED):
                raise
            if time.monotonic() >= deadline:
                raise Busy from None
            time.sleep(PAUSE_SECONDS)
        else:
            return connection


def _open(
    places: Places, passphrase: bytearray | None, settings: CipherSettings, older: int = 0
) -> Any:
    connection = driver.open_with(places.database, None, settings, timeout=0, isolation_level=None)
    if passphrase is not None:
        connection.set_key(passphrase)
        pragmas = [f"PRAGMA cipher_compatibility = {older}"] if older else settings.pragmas()
        for pragma in pragmas:
            connection.execute(pragma)
    return connection


def _unknown(places: Places, passphrase: bytearray | None) -> Proof:
    if passphrase is None:
        return Proof("it is no plain SQLite database; name its passphrase if it has one")
    for older in _OLDER:
        with (
            contextlib.closing(_open(places, passphrase, CipherSettings(), older)) as connection,
            contextlib.suppress(driver.DatabaseError),
        ):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return Proof(
                f"it is a SQLCipher {older} database, whose format is not taken over: bring it "
                "to SQLCipher 4 first, with its passphrase and `PRAGMA cipher_migrate`"
            )
    return Proof("its passphrase is another one, or it is damaged")


def _export(
    places: Places, source: Any, copy: str, secret: bytearray, settings: CipherSettings
) -> None:
    for path in (copy, f"{copy}-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    descriptor = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        own_as_database(places, descriptor)
        text = driver.key_text(secret, settings.salt)
        try:
            # Bound, not written into the statement.
            source.execute("ATTACH ? AS adopted KEY ?", (copy, memoryview(text)))
        finally:
            driver.wipe(text)
        for pragma in settings.pragmas():
            source.execute(pragma.replace("PRAGMA ", "PRAGMA adopted."))
        (vacuum,) = source.execute("PRAGMA main.auto_vacuum").fetchone()
        source.execute(f"PRAGMA adopted.auto_vacuum = {int(vacuum)}")
        source.execute("PRAGMA adopted.synchronous = EXTRA")
        source.execute("SELECT sqlcipher_export('adopted')").fetchone()
        for name in ("user_version", "application_id"):
            (value,) = source.execute(f"PRAGMA main.{name}").fetchone()
            source.execute(f"PRAGMA adopted.{name} = {int(value)}")
        source.execute("DETACH adopted")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if size_of(copy) == 0:
        raise Proof("it has no tables: an empty database is made by connect()")


def _content(connection: Any) -> tuple[list[Any], dict[str, int]]:
    """Return the schema without the places of tables, which a copy has elsewhere, and rows."""
    schema = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
    ).fetchall()
    schema = [row for row in schema if not row[1].startswith(_STATISTICS)]
    counts = {}
    for kind, name, _, sql in schema:
        if kind == "table" and not (sql or "").upper().startswith("CREATE VIRTUAL"):
            quoted = name.replace('"', '""')
            (counts[name],) = connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()  # noqa: S608
    head = [
        connection.execute(f"PRAGMA {name}").fetchone()
        for name in ("user_version", "application_id", "encoding")
    ]
    return [*head, *schema], counts
