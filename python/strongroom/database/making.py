"""Making a new encrypted database."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from strongroom import _events
from strongroom.database import places as files
from strongroom.database.documents import Sidecar
from strongroom.database.sources import StoreSource
from strongroom.errors import EncryptedDatabaseError, KeyStateError

if TYPE_CHECKING:
    from strongroom.database.encrypted import EncryptedDatabase

__all__ = ["make"]


def make(database: EncryptedDatabase) -> None:
    """Make the file of a database: it appears under its name whole, under the active key.

    The caller holds the exclusive lock. The store and the sidecar know the settings before there
    is a page: the salt of one with a plaintext header is nowhere else.

    Raises:
        EncryptedDatabaseError: A journal without its database is there.
        KeyStateError: The keyset is another database's, or has no active key.
    """
    from strongroom.database import driver

    places, source = database._places, database._source
    for path in (places.wal, places.journal):
        if os.path.lexists(path):
            raise EncryptedDatabaseError(
                f"{path} is there without its database: put {places.database} back, or move that "
                "file away"
            )
    source.refresh()
    sidecar = database._sidecar()
    if isinstance(source, StoreSource):
        source.usable()
        if source.database_id and (sidecar is None or sidecar.database_id != source.database_id):
            raise KeyStateError(
                f"keyset {source.keyset!r} belongs to another database, and {places.database} is "
                "not there: a keyset is one database's, name another one with keyset="
            )
    settings = database.settings_of(sidecar).with_salt()
    database_id = sidecar.database_id if sidecar else secrets.token_hex(16)
    sidecar = Sidecar(database_id, source.keyset, source.primary_id, settings.dump())
    files.write_durably(places, places.sidecar, sidecar.dump(source.mac))
    source.bind(database_id, settings.dump())
    temporary = f"{places.database}.srm.new"
    for path in (temporary, f"{temporary}-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    # With the umask's mode, as SQLite makes it.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    secret = source.secret(source.primary_id)
    try:
        connection = driver.open_with(temporary, secret, settings, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = EXTRA")
            # Either writes the first page.
            connection.execute("PRAGMA user_version = 1")
            connection.execute("PRAGMA user_version = 0")
        finally:
            connection.close()
    except driver.Error as error:
        raise EncryptedDatabaseError(f"{places.database} can't be made: {error}") from error
    finally:
        driver.wipe(secret)
    os.rename(temporary, places.database)
    files.sync_directory(places.directory)
    _events.report(
        "database.created",
        database=database_id,
        keyset=source.keyset or None,
        key_id=source.primary_id,
    )
