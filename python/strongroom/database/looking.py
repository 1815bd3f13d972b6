"""Looking at a database: how it stands, and whether all of it is whole."""

from __future__ import annotations

import os
import warnings

from strongroom.database.encrypted import EncryptedDatabase, sqlcipher
from strongroom.database.places import FileLock
from strongroom.database.reports import VerifyReport
from strongroom.database.sources import StoreSource
from strongroom.errors import DatabaseBusyError, RotationError, StrongroomError

__all__ = ["state_of", "verify"]


def state_of(database: EncryptedDatabase) -> tuple[str, str]:
    """Return the state and what is wrong, without waiting for anyone."""
    places = database.places
    try:
        lock = FileLock.take(places, exclusive=False, timeout=0.0)
    except DatabaseBusyError:
        return "rotating", ""
    except OSError:
        lock = None
    if lock is not None:
        lock.release()
    if os.path.lexists(places.intent):
        return "recover", "a rotation did not end: strongroom db recover"
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            database.connect(mode="ro", timeout=1.0, allow_compromised=True).close()
    except (StrongroomError, OSError) as error:
        return "refused", str(error)
    return ("read-only", str(told[0].message)) if told else ("ok", "")


def verify(database: EncryptedDatabase, source: StoreSource, timeout: float) -> VerifyReport:
    """Read the whole database: every page's HMAC, SQLite's structures, and no other key opens.

    Raises:
        RotationError: Something is wrong; the text says what.
        EncryptedDatabaseError: It can't be opened.
    """
    from strongroom.database import work

    driver, places = sqlcipher(), database.places
    os.stat(places.database)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connection = database.connect(mode="ro", timeout=timeout, allow_compromised=True)
    try:
        work.check_pages(connection)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (tables,) = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table'"
        ).fetchone()
    except work.Proof as error:
        raise RotationError(f"{places.database}: {error}") from None
    except driver.DatabaseError as error:
        raise database.meaning(error) from error
    finally:
        connection.close()
    sidecar = database._sidecar()
    settings = database.settings_of(sidecar)
    opens, refused = [], 0
    for candidate in source.candidates(""):
        secret = source.secret(candidate.key_id)
        try:
            other = driver.try_open(places.database, secret, settings, mode="ro")
        finally:
            driver.wipe(secret)
        if other is None:
            refused += 1
        else:
            other.close()
            opens.append(candidate.key_id)
    if len(opens) != 1:
        raise RotationError(f"{places.database} opens under {len(opens)} keys, not one")
    return VerifyReport(places.database, opens[0], pages, tables, refused)
