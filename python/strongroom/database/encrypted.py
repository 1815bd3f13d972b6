"""Opening an encrypted database: the everyday part."""

# ruff: noqa: ANN401  (what sqlite3.connect takes, and connections of sqlcipher3)

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from strongroom import _events, _native
from strongroom.database import journals
from strongroom.database import places as files
from strongroom.database.documents import Sidecar, Unreadable
from strongroom.database.places import FileLock, Places, locate
from strongroom.database.settings import CipherSettings
from strongroom.database.sources import Candidate, StoreSource, source_of
from strongroom.errors import (
    DatabaseBusyError,
    DatabaseCorruptError,
    DatabaseKeyError,
    DatabaseRecoveryError,
    EncryptedDatabaseError,
    FormatError,
    KeyStateError,
    NotADatabaseError,
)
from strongroom.keys import KeyStore
from strongroom.keys.states import ACTIVE, COMPROMISED, DEACTIVATED, SUSPENDED

if TYPE_CHECKING:
    import os as _os
    from types import ModuleType

__all__ = ["EncryptedDatabase", "sqlcipher"]

DEFAULT_KEYSET = "database"
DEFAULT_TIMEOUT = 5.0
_MODES = ("rwc", "rw", "ro")
# Each turn puts one thing right: it is missing, a rotation died, the sidecar is wrong.
_TURNS = 8


def sqlcipher() -> ModuleType:
    """Return driver.py, the one module that imports sqlcipher3.

    Raises:
        EncryptedDatabaseError: sqlcipher3 is not installed.
    """
    try:
        from strongroom.database import driver
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("sqlcipher3"):
            raise
        raise EncryptedDatabaseError(
            "encrypted databases need sqlcipher3: pip install 'strongroom[sqlcipher]'"
        ) from None
    return driver


class _Found(NamedTuple):
    """An open connection, and under which key."""

    connection: Any
    candidate: Candidate


class EncryptedDatabase:
    """A SQLCipher database whose key comes from a key store, or is given.

    The file is under derive(key, "database") of FORMAT.md: the keyset key itself never reaches
    SQLCipher. A keyset of the purpose "database" belongs to one database. Beside the file lie
    `NAME.srm.json`, a hint at its key, and `NAME.srm.lock`.

    Args:
        path: The file; links are followed.
        key_or_key_store: A `KeyStore`, or a key of 32 bytes (which nothing rotates).
        keyset: With a store, the keyset; it must be there.
        settings: Cipher settings of a new database; of one that is there, only to have them
            compared. None for SQLCipher 4's, or those that are known.
    """

    def __init__(
        self,
        path: str | _os.PathLike[str],
        key_or_key_store: KeyStore | bytes | bytearray | memoryview | _native.MemoryLockedKey,
        *,
        keyset: str = DEFAULT_KEYSET,
        settings: CipherSettings | None = None,
    ) -> None:
        self._places = locate(path)
        self._source = source_of(key_or_key_store, keyset)
        self._settings = settings.checked() if settings is not None else None

    @property
    def path(self) -> str:
        """The file's path, links resolved."""
        return self._places.database

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<EncryptedDatabase {self.path}>"

    def connect(
        self,
        *,
        mode: str = "rwc",
        timeout: float = DEFAULT_TIMEOUT,
        allow_compromised: bool = False,
        **options: Any,
    ) -> Any:
        """Return a DB-API connection to the database: keyed, and its first page read.

        A live rotation is waited for; one that died is recovered first. A statement on a
        connection whose key was rotated meanwhile raises KeyRotatedError. The file of a restored
        copy, which is under a deactivated key, opens read-only with a warning, until
        `DatabaseKeyRotation.rotate_key` brings it forward.

        Args:
            mode: "rwc" makes a missing database under the keyset's active key, "rw" doesn't, "ro"
                opens for reading.
            timeout: How long to wait for a lock, in seconds; for each statement too.
            allow_compromised: Open a database whose key is compromised, read-only.
            options: Those of sqlite3.connect. A `factory` is a subclass of the class of what
                this method returns without one.

        Returns:
            A subclass of sqlcipher3's Connection.

        Raises:
            FileNotFoundError: It isn't there, and the mode is not "rwc".
            NotADatabaseError: It is plain SQLite, empty, or something else.
            DatabaseKeyError: No key that is here opens it.
            DatabaseCorruptError: The right key is here, and its first page is damaged.
            DatabaseRecoveryError: A rotation died, and this process may not recover it.
            DatabaseBusyError: A lock was held for longer than the timeout.
            EncryptedDatabaseError: Something else is in the way; the text says what.
            KeyNotFoundError: There is no such keyset.
            KeyStateError: The keyset is another database's; or the key is suspended, or
                compromised.
        """
        if mode not in _MODES:
            raise ValueError(f"mode is one of {', '.join(_MODES)}")
        for name in ("uri", "isolation"):
            options.pop(name, None)
        driver = sqlcipher()
        factory = options.setdefault("factory", driver.Connection)
        if not (isinstance(factory, type) and issubclass(factory, driver.Connection)):
            raise TypeError("factory must be a subclass of type(EncryptedDatabase.connect())")
        deadline = time.monotonic() + timeout
        options["timeout"] = timeout
        for _ in range(_TURNS):
            left = max(0.0, deadline - time.monotonic())
            with contextlib.ExitStack() as stack:
                self._lock(stack, mode, left)
                if not os.path.lexists(self._places.intent):
                    if os.path.exists(self._places.database):
                        found = self._open(options, mode, left)
                        if found is not None:
                            return self._guarded(found, allow_compromised, timeout)
                    elif mode != "rwc":
                        path = self._places.given
                        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._put_right(mode, max(0.1, deadline - time.monotonic()))
        raise DatabaseBusyError(f"{self.path} changed each time it was opened; try again")

    # Under the shared lock

    def _lock(self, stack: contextlib.ExitStack, mode: str, timeout: float) -> None:
        places = self._places
        if mode == "rwc" or os.path.exists(places.database):
            try:
                stack.enter_context(FileLock.take(places, exclusive=False, timeout=timeout))
            except OSError as error:
                # Who can't write there reads without it; nobody rotated there yet.
                if mode != "ro" or error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                    raise

    def _open(self, options: dict[str, Any], mode: str, timeout: float) -> _Found | None:
        """Open by the sidecar's word, or by trying all; None if something must be put right."""
        files.refuse_unsuitable(self._places)
        sidecar = self._sidecar()
        settings = self.settings_of(sidecar)
        found = self._try(options, mode, sidecar, settings)
        source = self._source
        candidate = found.candidate
        right = sidecar is not None and sidecar.key_id == candidate.key_id
        if candidate.state != ACTIVE:
            # It may have become so since the store was read.
            source.refresh()
            candidate = Candidate(candidate.key_id, source.state_of(candidate.key_id) or "")
            found = found._replace(candidate=candidate)
        unfinished = candidate.state not in (ACTIVE, DEACTIVATED, SUSPENDED, COMPROMISED)
        unbound = isinstance(source, StoreSource) and not source.database_id
        if mode != "ro" and (unfinished or not right or unbound) and self._may_write():
            found.connection.close()
            return None
        return found

    def _try(
        self,
        options: dict[str, Any],
        mode: str,
        sidecar: Sidecar | None,
        settings: CipherSettings,
    ) -> _Found:
        driver = sqlcipher()
        hint = sidecar.key_id if sidecar else ""
        known = self._source.state_of(hint)
        if hint and known is None:
            self._source.refresh()
        sqlite_mode = "ro" if mode == "ro" else "rw"
        try:
            try:
                lost = journals.refuse_foreign(self._places, settings, self._source)
            except journals.NoKeyError:
                # A key may have been made meanwhile, by another process.
                self._source.refresh()
                lost = journals.refuse_foreign(self._places, settings, self._source)
            opening = settings._replace(salt=lost) if lost else settings
            for again in (False, True):
                if again:
                    self._source.refresh()
                for candidate in self._source.candidates(hint):
                    secret = self._source.secret(candidate.key_id)
                    try:
                        connection = driver.try_open(
                            self._places.database, secret, opening, mode=sqlite_mode, **options
                        )
                    finally:
                        driver.wipe(secret)
                    if connection is not None:
                        return _Found(connection, candidate)
        except driver.DatabaseError as error:
            raise self.meaning(error) from error
        except journals.NoKeyError:
            pass
        raise self.refusal(sidecar, settings)

    def _guarded(self, found: _Found, allow_compromised: bool, timeout: float) -> Any:
        driver = sqlcipher()
        connection, (key_id, state) = found
        read_only = ""
        try:
            if state == SUSPENDED or (state == COMPROMISED and not allow_compromised):
                raise KeyStateError(
                    f"{self.path} is under key {key_id}, which is {state}: "
                    + ("resume_key" if state == SUSPENDED else "rotate it (strongroom db rotate)")
                    + " first",
                    key_id=key_id,
                    state=state,
                )
            if state != ACTIVE:
                read_only = (
                    f"{self.path} is under key {key_id}, which is {state}, so it is open for "
                    "reading only: rotate it (strongroom db rotate) to write"
                )
                driver.dbapi2.Cursor(connection).execute("PRAGMA query_only = ON")
                warnings.warn(read_only, stacklevel=3)
            rotated = partial(self._was_rotated, key_id)
            guard = driver.Guard(self.path, read_only, rotated, timeout)
            connection._guard = guard
            driver.refuse_dangerous(connection, guard)
            _events.report(
                "database.opened",
                key_id=key_id,
                keyset=self._source.keyset or None,
                database=self._source.database_id or None,
                state=state,
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _was_rotated(self, key_id: str) -> bool:
        """Tell whether the file is under another key than one that opened it once."""
        if os.path.lexists(self._places.intent):
            return True
        with contextlib.suppress(Unreadable):
            return Sidecar.load(self._places.sidecar, self._source.mac).key_id != key_id
        with contextlib.suppress(Exception):
            self._source.refresh()
            return self._source.primary_id != key_id
        return False

    # Under the exclusive lock

    def _put_right(self, mode: str, timeout: float) -> None:
        """Make, recover or repair, whichever is needed, under the exclusive lock."""
        places = self._places
        try:
            lock = FileLock.take(places, exclusive=True, timeout=timeout)
        except OSError as error:
            if os.path.lexists(places.intent):
                raise self._unrecovered(str(error.strerror)) from error
            raise
        with lock:
            if not os.path.exists(places.database):
                if os.path.lexists(places.intent):
                    raise self._unrecovered(f"{places.database} is not there")
                if mode == "rwc":
                    from strongroom.database.making import make

                    make(self)
                return
            if not isinstance(self._source, StoreSource):
                if os.path.lexists(places.intent):
                    raise self._unrecovered("a bare key can't, its key store can")
                self._repair(timeout)
                return
            if self._source.store.read_only:
                raise self._unrecovered("the key store was opened read-only")
            if os.path.lexists(places.intent) and not self._may_write():
                raise self._unrecovered("this user can't write there")
            from strongroom.database.recovery import recover

            recover(places, self._source, lock, timeout=timeout)

    def _repair(self, timeout: float) -> None:
        """Write the sidecar of a database under a bare key anew."""
        sidecar = self._sidecar()
        settings = self.settings_of(sidecar)
        found = self._try({"timeout": timeout}, "rw", sidecar, settings)
        found.connection.close()
        new = Sidecar(
            sidecar.database_id if sidecar else secrets.token_hex(16),
            "",
            found.candidate.key_id,
            settings.dump(),
        )
        files.write_durably(self._places, self._places.sidecar, new.dump(self._source.mac))

    def _unrecovered(self, why: str) -> DatabaseRecoveryError:
        return DatabaseRecoveryError(
            f"a rotation of {self.path} did not end and must be recovered first "
            f"(strongroom db recover), which is not possible here: {why}",
            journal=self._places.intent,
        )

    # What is known of the file

    def _sidecar(self) -> Sidecar | None:
        try:
            sidecar = Sidecar.load(self._places.sidecar, self._source.mac)
        except Unreadable:
            return None
        return sidecar if sidecar.keyset == self._source.keyset else None

    def settings_of(self, sidecar: Sidecar | None) -> CipherSettings:
        """Return the cipher settings: the store's word, else the sidecar's, else the caller's.

        Raises:
            EncryptedDatabaseError: The caller named others.
        """
        known = self._source.settings or (sidecar.settings if sidecar else "")
        try:
            there = CipherSettings.load(known) if known else None
        except FormatError as error:
            raise EncryptedDatabaseError(f"{self.path}: {error}") from None
        wanted = self._settings
        if there is None:
            return wanted or CipherSettings()
        if wanted is not None and (wanted if wanted.salt else wanted._replace(salt=there.salt)) != (
            there
        ):
            raise EncryptedDatabaseError(
                f"{self.path} has other cipher settings than those given: {there.dump()}"
            )
        return there

    def meaning(self, error: BaseException) -> EncryptedDatabaseError:
        """Return what an error of SQLite's means for a database that is being opened."""
        driver = sqlcipher()
        code = driver.code_of(error)
        if code in (driver.BUSY, driver.LOCKED):
            return DatabaseBusyError(f"{self.path} is locked by another connection; try again")
        if code in (driver.CORRUPT, driver.NOTADB):
            return DatabaseCorruptError(
                f"{self.path} is damaged ({error}): restore it from a backup"
            )
        return EncryptedDatabaseError(f"{self.path} can't be opened: {error}")

    def refusal(
        self, sidecar: Sidecar | None, settings: CipherSettings, *, plain: bool | None = None
    ) -> EncryptedDatabaseError | KeyStateError:
        """Return the error for a file that no key opens."""
        path, size = self.path, files.size_of(self._places.database)
        if plain is None:
            plain = self._is_plain()
        if plain:
            return NotADatabaseError(
                f"{path} is a plain SQLite database: take it over with `strongroom db adopt`"
            )
        if size < settings.page_size or size % settings.page_size:
            return NotADatabaseError(
                f"{path} has {size} bytes, no whole pages of {settings.page_size}: it was cut, or "
                "it is no encrypted database"
            )
        if sidecar is not None:
            state = self._source.state_of(sidecar.key_id)
            if state is not None and state != "destroyed":
                return DatabaseCorruptError(
                    f"the first page of {path} does not authenticate under key {sidecar.key_id}, "
                    "which its sidecar names: it is damaged, or another database's file; restore "
                    "it from a backup"
                )
            if state == "destroyed":
                return KeyStateError(
                    f"{path} is under key {sidecar.key_id}, which was destroyed",
                    key_id=sidecar.key_id,
                    state=state,
                )
        return DatabaseKeyError(
            f"no key of keyset {self._source.keyset!r} opens {path}: another key store's or "
            "keyset's database, or its first page is damaged"
            if self._source.keyset
            else f"this key does not open {path}: another key's, or its first page is damaged"
        )

    def _is_plain(self) -> bool:
        driver = sqlcipher()
        with contextlib.suppress(driver.Error):
            connection = driver.try_open(
                self._places.database, None, CipherSettings(), mode="ro", timeout=1.0
            )
            if connection is not None:
                connection.close()
                return True
        return False

    @property
    def places(self) -> Places:
        """Where its files are."""
        return self._places

    def _may_write(self) -> bool:
        places = self._places
        return all(os.access(path, os.W_OK) for path in (places.directory, places.database))
