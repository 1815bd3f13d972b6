"""The store in a SQLite file, through the standard library's sqlite3.

Connections are in autocommit mode: every BEGIN and COMMIT is written here. (The driver's default
begins transactions late, after the read, and so loses updates in silence.) The journal is a WAL,
synchronous=FULL makes a commit durable before it is acknowledged, secure_delete zeroes what is
deleted.

Nothing here opens the store's file but SQLite: POSIX locks belong to the process, so that closing
any other descriptor of the file would drop the locks of a transaction under way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from strongroom.errors import KeyStoreBusyError, KeyStoreError
from strongroom.keys import sql
from strongroom.keys.database import Backoff, Transaction
from strongroom.keys.pool import Pool

__all__ = ["SqliteDatabase", "create_file"]

T = TypeVar("T")

# "SRKS", in the header of the file, so that `file` and this code know a store when they see one.
APPLICATION_ID = 0x53524B53
TYPES = {"int": "INTEGER", "text": "TEXT", "blob": "BLOB"}
# Up to this size (1 MiB) the whole file is checked when it is opened; `KeyStore.check` does it
# for larger ones, where it takes longer than an open should.
CHECK_PAGES = 256
# SQLite's own wait for a lock can't be interrupted, so it is short, and Backoff does the rest.
_LOCK_WAIT = 0.05
# What SQLite itself says of a damaged file.
_MALFORMED = "database disk image is malformed"
_SIDE_FILES = ("-wal", "-shm", "-journal")


class _Transaction:
    # SQLite's writers are alone from BEGIN IMMEDIATE on: there is nothing more to lock.
    for_update = ""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()


class SqliteDatabase:
    """A store's file. See `Database` for the methods."""

    def __init__(self, path: str, *, busy_timeout: float, read_only: bool) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.read_only = read_only
        self._busy_timeout = busy_timeout
        self._pool = Pool(lambda: _connect(path, "ro" if read_only else "rw"))
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(status.st_mode):
            raise KeyStoreError(f"{path} is not a regular file, so it is no key store")
        if status.st_size == 0:
            raise KeyStoreError(f"{path} is empty, not a key store; restore it from a backup")

    def schema_version(self) -> int:
        """See `Database`."""
        return self._attempts(self._inspect)

    def read(self, function: Callable[[Transaction], T]) -> T:
        """See `Database`."""
        return self._attempts(lambda connection: _run(connection, "BEGIN", function))

    def write(
        self,
        function: Callable[[Transaction], T],
        landed: Callable[[Transaction], bool],
        *,
        patience: float | None = None,
    ) -> T:
        """See `Database`."""
        # A COMMIT in this process has an answer, always: `landed` is for servers.
        return self._write(function, patience)

    def rebuild(self, function: Callable[[Transaction], T]) -> T:
        """See `Database`."""
        return self._write(function)

    def _write(self, function: Callable[[Transaction], T], patience: float | None = None) -> T:
        if self.read_only:
            raise KeyStoreError("the key store was opened read-only")
        return self._attempts(
            lambda connection: _run(connection, "BEGIN IMMEDIATE", function), patience
        )

    def erase(self) -> None:
        """See `Database`."""

        def truncate(connection: sqlite3.Connection) -> None:
            if _pragma(connection, "wal_checkpoint(TRUNCATE)"):
                raise _Busy

        try:
            self._attempts(truncate)
        except KeyStoreBusyError:
            raise KeyStoreBusyError(
                "another process reads the key store, so the bytes of the destroyed key are "
                "still in its -wal file: call KeyStore.erase_deleted() again later"
            ) from None

    def check(self) -> None:
        """Run SQLite's own check over the whole file.

        Raises:
            KeyStoreError: The file is damaged.
        """
        self._attempts(_integrity)

    def create_statements(self) -> list[str]:
        """See `Database`."""
        return sql.create_statements(TYPES)

    def close(self) -> None:
        """See `Database`."""
        self._pool.close()

    def abandon(self) -> None:
        """See `Database`."""
        self._pool.abandon()

    def _attempts(
        self, function: Callable[[sqlite3.Connection], T], patience: float | None = None
    ) -> T:
        """Run a function on a connection; again while the store is busy, until the timeout."""
        backoff = Backoff(self._busy_timeout, patience)
        while True:
            try:
                with self._connection() as connection:
                    return function(connection)
            except sqlite3.Error as error:
                if _is_busy(error):
                    if backoff.again():
                        continue
                    raise KeyStoreBusyError(
                        f"the key store {self.path} is locked by another process, "
                        f"for more than {self._busy_timeout:g} s; try again"
                    ) from None
                raise _translated(error, self.path) from error
            except UnicodeDecodeError as error:
                # The module could not decode an error text that quotes the file.
                raise _damaged(self.path, "its schema is not text") from error

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection, _ = self._pool.take()
        sound = True
        try:
            yield connection
        except sqlite3.Error as error:
            sound = _is_busy(error)
            raise
        finally:
            self._pool.give(connection, sound=sound and not connection.in_transaction)

    def _inspect(self, connection: sqlite3.Connection) -> int:
        """Look that the file holds the tables of a store and no others; return the version."""
        application = _pragma(connection, "application_id")
        if application != APPLICATION_ID:
            raise KeyStoreError(f"{self.path} is an SQLite database, but not a key store")
        (version,) = connection.execute(sql.SELECT_VERSION).fetchone() or (0,)
        known = (sql.SCHEMA_VERSION, *sql.OLD_TABLES)
        if type(version) is not int or (version not in known and version < sql.SCHEMA_VERSION):
            raise _damaged(self.path, "it has no known schema version")
        if version > sql.SCHEMA_VERSION:
            raise KeyStoreError(
                f"{self.path} has schema {version}, made by a newer release; this one reads up "
                f"to {sql.SCHEMA_VERSION}: update strongroom on this machine"
            )
        if version == sql.SCHEMA_VERSION:
            # A trigger or a view under a table's name would be run by the statements below.
            query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
            found = [s for (s,) in connection.execute(query)]
            # One flipped bit makes a blob of a text.
            if not all(isinstance(s, str) for s in found) or sorted(map(_plain, found)) != sorted(
                map(_plain, self.create_statements())
            ):
                raise _damaged(self.path, "its tables are not the schema's")
        pages = _pragma(connection, "page_count")
        page_size = _pragma(connection, "page_size")
        # SQLite takes a cut within the last page for zeros. Pages in the WAL may not be in the
        # file yet.
        if os.stat(self.path).st_size < pages * page_size and not _has_frames(self.path):
            raise _damaged(self.path, "the file was cut")
        if pages <= CHECK_PAGES:
            _integrity(connection)
        return version


def create_file(
    path: str,
    fill: Callable[[Transaction], None],
    *,
    wal: bool = True,
    tables: tuple[sql.Table, ...] = sql.TABLES,
) -> None:
    """Make a store's file, mode 0600: it appears under its name whole and durable, or not at all.

    Args:
        path: The file.
        fill: Fills the empty tables.
        wal: Have it written through a WAL from then on; without, nothing is ever beside it while
            it is read.
        tables: The schema, an older one maybe.

    Raises:
        FileExistsError: Something of that name is there.
        KeyStoreError: Files of an earlier store of that name are left over.
        OSError: The directory isn't there, or isn't writable.
    """
    folder, name = os.path.split(path)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    for suffix in _SIDE_FILES:
        # SQLite would replay such a file, of whatever database, into the new one.
        if os.path.lexists(path + suffix):
            raise KeyStoreError(f"{path + suffix} is left over from another store: move it away")
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        connection = _connect(temporary, "rw")
        try:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            for statement in sql.create_statements(TYPES, tables):
                connection.execute(statement)
            _run(connection, "BEGIN IMMEDIATE", fill)
            # Written to the file's header: every later connection uses a WAL.
            if wal:
                connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        os.fsync(descriptor)
        os.link(temporary, path)
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    finally:
        os.close(descriptor)
        for suffix in ("", *_SIDE_FILES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{temporary}{suffix}")
    directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class _Busy(sqlite3.OperationalError):
    """Raised where SQLite reports a lock in a row, not as an error."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


def _connect(path: str, mode: str) -> sqlite3.Connection:
    # What else a URI may hold stays as it is: urllib.parse takes 3 ms to import.
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(
        f"file:{quoted}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=_LOCK_WAIT,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def _run(connection: sqlite3.Connection, begin: str, function: Callable[[Transaction], T]) -> T:
    connection.execute(begin)
    try:
        result = function(_Transaction(connection))
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors (a full disk); after the others a
        # connection that can't roll back is closed by the caller, which has the same effect.
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise
    return result


def _integrity(connection: sqlite3.Connection) -> None:
    if _pragma(connection, "integrity_check(1)") != "ok":
        raise sqlite3.DatabaseError(_MALFORMED)


def _pragma(connection: sqlite3.Connection, name: str) -> Any:  # noqa: ANN401 - SQLite's value
    """Return a pragma's value; a damaged file may have no answer."""
    row = connection.execute(f"PRAGMA {name}").fetchone()
    if row is None:
        raise sqlite3.DatabaseError(_MALFORMED)
    return row[0]


def _has_frames(path: str) -> bool:
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        return False


def _plain(statement: str) -> str:
    return re.sub(r"\s+", " ", statement).strip()


def _is_busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _translated(error: sqlite3.Error, path: str) -> KeyStoreError:
    """Return the error that says what an SQLite error means for a store."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return KeyStoreError(f"{path} is not a key store, or the head of the file is damaged")
    if code == sqlite3.SQLITE_READONLY:
        return KeyStoreError(
            f"the key store {path} can't be written: file or directory is read-only for this user"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return KeyStoreError(
            f"the key store {path} can't be opened: this user must be able to read and write "
            "the file and its directory (SQLite keeps the -wal and -shm files beside it)"
        )
    if code == sqlite3.SQLITE_FULL:
        return KeyStoreError(f"no space left for the key store {path}; nothing was changed")
    if code == sqlite3.SQLITE_IOERR:
        return KeyStoreError(f"the key store {path} could not be read or written: {error}")
    return _damaged(path, str(error))


def _damaged(path: str, what: str) -> KeyStoreError:
    return KeyStoreError(f"the key store {path} is damaged: {what}; restore it from a backup")
