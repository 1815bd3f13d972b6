"""SQLCipher, and nothing else here imports it.

Keys are given by `set_key` and `reset_key`, so that none is in the text of a statement, which trace
callbacks see. They are of exactly 32 bytes, as 64 hex digits: SQLCipher would silently take
another length for a passphrase.
"""

# ruff: noqa: ANN401  (connections and rows are those of sqlcipher3, which has no types)

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import quote

from sqlcipher3 import dbapi2

from strongroom.database.settings import CipherSettings
from strongroom.errors import EncryptedDatabaseError, KeyRotatedError

__all__ = ["Connection", "Cursor", "Guard", "code_of", "key_text", "open_with", "wipe"]

BUSY, LOCKED, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, AUTH, NOTADB = (
    5,
    6,
    8,
    10,
    11,
    13,
    14,
    23,
    26,
)
SQLITE_OK = int(dbapi2.SQLITE_OK)
_KEY_PRAGMAS = {"key", "hexkey", "textkey", "rekey", "hexrekey", "textrekey", "cipher_migrate"}
# They can be asked for, and not be set: nothing would read the pages that are written after that.
_SETTING_PRAGMAS = {
    "cipher",
    "cipher_compatibility",
    "cipher_hmac_algorithm",
    "cipher_hmac_pgno",
    "cipher_hmac_salt_mask",
    "cipher_kdf_algorithm",
    "cipher_page_size",
    "cipher_plaintext_header_size",
    "cipher_salt",
    "cipher_use_hmac",
    "fast_kdf_iter",
    "kdf_iter",
    "rekey_cipher",
    "rekey_kdf_iter",
}
_HEX = b"0123456789abcdef"
KEY_BYTES = 32

Error = dbapi2.Error
DatabaseError = dbapi2.DatabaseError


def code_of(error: BaseException) -> int:
    """Return SQLite's primary error code of an exception, 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def wipe(data: bytearray) -> None:
    """Overwrite with zeros."""
    data[:] = bytes(len(data))


def key_text(secret: bytearray, salt: str = "") -> bytearray:
    """Return a raw key as SQLCipher reads it, x'<64 hex digits and those of the salt>'."""
    if len(secret) != KEY_BYTES:
        raise ValueError(f"a raw key is {KEY_BYTES} bytes")
    text = bytearray(2 + 2 * len(secret) + len(salt) + 1)
    text[:2] = b"x'"
    at = 2
    for byte in secret:
        text[at], text[at + 1] = _HEX[byte >> 4], _HEX[byte & 15]
        at += 2
    text[at:-1] = salt.encode()
    text[-1:] = b"'"
    return text


class Guard:
    """What a connection knows of its database, to say what an error of SQLite's means."""

    __slots__ = ("path", "read_only", "refused", "rotated", "timeout")

    def __init__(
        self, path: str, read_only: str, rotated: Callable[[], bool], timeout: float
    ) -> None:
        self.timeout = timeout
        self.path = path
        self.read_only = read_only
        self.rotated = rotated
        self.refused = ""


class _RotatedError(KeyRotatedError, dbapi2.OperationalError):  # type: ignore[misc]
    """Both of this library and of the DB-API, so that pools know it as an error of theirs."""


class _RefusedError(EncryptedDatabaseError, dbapi2.OperationalError):  # type: ignore[misc]
    """Likewise."""


for _class, _name in (
    (_RotatedError, "KeyRotatedError"),
    (_RefusedError, "EncryptedDatabaseError"),
):
    _class.__name__ = _class.__qualname__ = _name


class Cursor(dbapi2.Cursor):  # type: ignore[misc]
    """A cursor whose errors say when the key was rotated."""

    def execute(self, *args: Any) -> Any:
        """See sqlite3."""
        try:
            return super().execute(*args)
        except (DatabaseError, MemoryError) as error:
            _explain(self.connection, error)

    def executemany(self, *args: Any) -> Any:
        """See sqlite3."""
        try:
            return super().executemany(*args)
        except (DatabaseError, MemoryError) as error:
            _explain(self.connection, error)

    def executescript(self, *args: Any) -> Any:
        """See sqlite3."""
        try:
            return super().executescript(*args)
        except (DatabaseError, MemoryError) as error:
            _explain(self.connection, error)

    def fetchone(self) -> Any:
        """See sqlite3."""
        try:
            return super().fetchone()
        except (DatabaseError, MemoryError) as error:
            _explain(self.connection, error)

    def fetchmany(self, *args: Any, **options: Any) -> Any:
        """See sqlite3."""
        try:
            return super().fetchmany(*args, **options)
        except (DatabaseError, MemoryError) as error:
            _explain(self.connection, error)

    def fetchall(self) -> Any:
        """See sqlite3."""
        try:
            return super().fetchall()
        except (DatabaseError, MemoryError) as error:
            _explain(self.connection, error)

    def __next__(self) -> Any:
        """See sqlite3."""
        try:
            return super().__next__()
        except (DatabaseError, MemoryError) as error:
            _explain(self.connection, error)


class Connection(dbapi2.Connection):  # type: ignore[misc]
    """A connection of sqlcipher3, keyed and checked, whose errors say when the key was rotated."""

    _guard: Guard | None = None
    _allowed: Callable[..., int] | None = None

    def set_authorizer(self, authorizer_callback: Callable[..., int] | None) -> None:
        """See sqlite3; what is refused on each connection stays so."""
        own = self._allowed

        def both(*args: Any) -> int:
            verdict = own(*args) if own is not None else SQLITE_OK
            if verdict != SQLITE_OK or authorizer_callback is None:
                return verdict
            return authorizer_callback(*args)

        super().set_authorizer(both)

    def set_key(self, *args: Any) -> None:
        """Refused: the key is given by then."""
        self._refuse_key()
        super().set_key(*args)

    def reset_key(self, *args: Any) -> None:
        """Refused: the file would be under a key that its key store has not."""
        self._refuse_key()
        super().reset_key(*args)

    def _refuse_key(self) -> None:
        if self._guard is not None:
            raise EncryptedDatabaseError(_key_text(self._guard))

    def cursor(self, factory: Any = Cursor) -> Any:
        """See sqlite3."""
        return super().cursor(factory)

    def commit(self) -> None:
        """See sqlite3."""
        try:
            super().commit()
        except (DatabaseError, MemoryError) as error:
            _explain(self, error)

    def backup(
        self,
        target: Any,
        *,
        pages: int = -1,
        progress: Callable[[int, int, int], object] | None = None,
        name: str = "main",
        sleep: float = 0.25,
    ) -> None:
        """See sqlite3; a source that stays busy for longer than the timeout is an error.

        Raises:
            sqlcipher3.OperationalError: This connection is inside a transaction, or the source
                is busy: sqlcipher3 itself would wait for ever for either.
        """
        if self.in_transaction:
            raise dbapi2.OperationalError("commit or roll back before backup()")
        seconds = self._guard.timeout if self._guard else 5.0
        deadline = time.monotonic() + seconds

        def watch(status: int, remaining: int, total: int) -> None:
            nonlocal deadline
            now = time.monotonic()
            if status not in (BUSY, LOCKED):
                deadline = now + seconds
            elif now >= deadline:
                raise dbapi2.OperationalError("database is locked: nothing was backed up")
            if progress is not None:
                progress(status, remaining, total)

        try:
            super().backup(target, pages=pages, progress=watch, name=name, sleep=sleep)
        except (DatabaseError, MemoryError) as error:
            _explain(self, error)

    def __exit__(self, *exception: object) -> Any:
        """Commit or roll back, as sqlite3 does."""
        try:
            return super().__exit__(*exception)
        except (DatabaseError, MemoryError) as error:
            _explain(self, error)


def _explain(connection: Any, error: BaseException) -> NoReturn:
    """Raise what an error of SQLite's means on this connection."""
    guard = getattr(connection, "_guard", None)
    if guard is None:
        raise error
    code = code_of(error)
    if code == AUTH and guard.refused:
        refused, guard.refused = guard.refused, ""
        raise _RefusedError(refused) from error
    if (code in (NOTADB, READONLY) or isinstance(error, MemoryError)) and guard.rotated():
        raise _RotatedError(
            f"the key of {guard.path} was rotated: reconnect; what was committed is there"
        ) from error
    if code == READONLY and guard.read_only:
        raise _RefusedError(guard.read_only) from error
    raise error


def open_with(
    path: str,
    secret: bytearray | None,
    settings: CipherSettings,
    *,
    mode: str = "rw",
    immutable: bool = False,
    factory: Any = dbapi2.Connection,
    **options: Any,
) -> Any:
    """Open a file under a raw key, without reading it yet.

    Args:
        path: The file.
        secret: The raw key, 32 bytes; None for a plain database.
        settings: Its cipher settings.
        mode: SQLite's: "ro", "rw" or "rwc".
        immutable: Look at the main file alone, as if no one wrote: locks and journals are ignored.
        factory: The class of the connection.
        options: Those of sqlite3.connect.
    """
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}" + ("&immutable=1" if immutable else "")
    connection = dbapi2.connect(uri, uri=True, factory=factory, **options)
    try:
        # The log would tell standard error what every try of a wrong key is.
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.execute("PRAGMA cipher_memory_security = ON")
        if secret is not None:
            text = key_text(secret, settings.salt)
            try:
                connection.set_key(text)
            finally:
                wipe(text)
            for pragma in settings.pragmas():
                connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def try_open(
    path: str, secret: bytearray | None, settings: CipherSettings, **options: Any
) -> Any | None:
    """Open a file and read its first page; None if this key doesn't open it.

    Raises:
        sqlcipher3.DatabaseError: Anything but a wrong key: locked, damaged, out of reach.
    """
    if secret is not None and not header_fits(path, settings):
        return None
    connection = open_with(path, secret, settings, **options)
    try:
        read_first_page(connection, settings)
    except BaseException as error:
        connection.close()
        if is_refusal(error, settings):
            return None
        raise
    return connection


def salt_of(path: str, settings: CipherSettings) -> bytes:
    """Return the salt that a database's file begins with, 16 bytes.

    SQLite reads it, for closing a descriptor of ours would drop its locks; and nothing else.
    """
    connection = open_with(path, bytearray(KEY_BYTES), settings, mode="ro", immutable=True)
    with contextlib.closing(connection):
        (salt,) = connection.execute("PRAGMA cipher_salt").fetchone()
    return bytes.fromhex(salt)


def header_fits(path: str, settings: CipherSettings) -> bool:
    """Tell whether a plaintext header says the page size that the settings say.

    SQLite believes the header, and SQLCipher's pages then don't fit its buffers: the process dies
    by SIGSEGV. SQLite itself reads the header here, for closing a descriptor of ours would drop
    its locks.
    """
    if not settings.plaintext_header:
        return True
    connection = open_with(path, None, settings, mode="ro", timeout=1.0, isolation_level=None)
    with contextlib.closing(connection):
        with contextlib.suppress(DatabaseError):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(size) == settings.page_size


def is_refusal(error: BaseException, settings: CipherSettings) -> bool:
    """Tell whether an error at the first page means that it doesn't open under this key.

    A plaintext header looks right under any key; then it is the rest of the page that is wrong.
    """
    return code_of(error) == NOTADB or (code_of(error) == CORRUPT and settings.plaintext_header > 0)


def opens_alone(path: str, give: Callable[[], bytearray], settings: CipherSettings) -> bool:
    """Tell whether a key opens the main file, without a look at its journals.

    Args:
        path: The file.
        give: Gives the raw key, which is wiped.
        settings: Its cipher settings.
    """
    secret = give()
    try:
        connection = try_open(path, secret, settings, mode="ro", immutable=True)
    finally:
        wipe(secret)
    if connection is None:
        return False
    connection.close()
    return True


def read_first_page(connection: Any, settings: CipherSettings) -> None:
    """Read what takes the key: no page but the first, or with a plaintext header the schema."""
    # Not through a factory's Cursor, whose row_factory may be the caller's.
    cursor = dbapi2.Cursor(connection)
    with contextlib.closing(cursor):
        cursor.execute("PRAGMA user_version").fetchone()
        if settings.plaintext_header:
            # That header looks right under any key, and SQLCipher gives zeros for the rest.
            cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()


def refuse_dangerous(connection: Any, guard: Guard) -> None:
    """Refuse on a connection what a rotation would know nothing of.

    ATTACH of other files (VACUUM's own temporary one passes), other cipher settings, and another
    key: by PRAGMA, since `Connection` refuses it by its methods.
    """

    def allowed(action: int, name: str | None, value: str | None, *_: object) -> int:
        if action == dbapi2.SQLITE_ATTACH and name not in ("", ":memory:"):
            other = repr(name) if name else "a file named by a parameter"
            guard.refused = (
                f"{other} can't be attached to {guard.path}: it would be under the same key, of "
                "which a rotation would know nothing; open it by an EncryptedDatabase of its own"
            )
        elif action == dbapi2.SQLITE_PRAGMA and str(name).lower() in _KEY_PRAGMAS:
            guard.refused = _key_text(guard)
        elif action == dbapi2.SQLITE_PRAGMA and value is not None and _is_setting(str(name)):
            guard.refused = (
                f"the cipher settings of {guard.path} are those that it was made with, and {name} "
                "can't be set: pages would be written that nothing reads"
            )
        else:
            return SQLITE_OK
        return int(dbapi2.SQLITE_DENY)

    connection._allowed = allowed
    connection.set_authorizer(None)


def _is_setting(pragma: str) -> bool:
    return pragma.lower() in _SETTING_PRAGMAS or pragma.lower().startswith("cipher_default_")


def _key_text(guard: Guard) -> str:
    return (
        f"the key of {guard.path} is its key store's, and nothing would open it under another one: "
        "rotate it by DatabaseKeyRotation, or strongroom db rotate"
    )
