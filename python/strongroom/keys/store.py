"""The key store: keysets of keys, wrapped by a root key that masters wrap."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Self

from strongroom import _events, _native
from strongroom.errors import KeyStoreError
from strongroom.keys import database as databases
from strongroom.keys import events, sql
from strongroom.keys import keyset as keysets
from strongroom.keys import policy as policies
from strongroom.keys import root as roots
from strongroom.keys.bound import BoundKeysets
from strongroom.keys.database import Transaction
from strongroom.keys.key import Key
from strongroom.keys.keyset import DEFAULT_KEYSET, Keyset
from strongroom.keys.leases import Leases, read_leases
from strongroom.keys.lifecycle import Lifecycle, primary_of
from strongroom.keys.looking import Looking
from strongroom.keys.material import wrap_new
from strongroom.keys.policy import Policy
from strongroom.keys.reading import rows_of
from strongroom.keys.restore import Restored
from strongroom.keys.root import MasterInfo
from strongroom.keys.seen import newest_logged
from strongroom.keys.store_masters import StoreMasters
from strongroom.masters.wrapped import MasterKeyProvider

__all__ = ["KeyStore"]

DEFAULT_CACHE_SECONDS = 300
# Tables whose rows nothing binds: each is looked at by itself.
_ALONE = (sql.USES, sql.USAGE, sql.BACKUPS, sql.HELD)
DEFAULT_BUSY_TIMEOUT = 5.0


class KeyStore(Looking, Leases, StoreMasters, BoundKeysets, Lifecycle):
    """Keysets in a SQL database, each with its keys and at most one primary.

    Made by `KeyStore.create` and `KeyStore.open`; close it, or use it in a with-statement. Threads
    may share one. It doesn't pickle, and a forked child opens its own: there every use of the
    parent's raises KeyStoreError.

    What was read is kept for `cache_seconds`; a change made here is seen here at once, one made by
    another process within that time, or after `refresh`.

    Every method that reads or writes the database raises KeyStoreError if it is closed, damaged
    or out of reach, and KeyStoreBusyError if another process held its lock for longer than the
    busy timeout.
    """

    @classmethod
    def create(
        cls,
        url: str,
        master: MasterKeyProvider,
        *,
        cache_seconds: int = DEFAULT_CACHE_SECONDS,
        busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
    ) -> Self:
        """Make a store with a new root key and the keyset "default" with its first active key.

        Args:
            url: `sqlite:///` and a path (a relative one is one from here), for a file that only
                this user can read; or `postgresql://user@host/database`.
            master: The master that will open it.
            cache_seconds: How long any process may go on with what it has read.
            busy_timeout: How long to wait for another process's lock, in seconds.

        Raises:
            FileExistsError: A file of that name is there, whatever it holds.
            KeyStoreError: The PostgreSQL database holds a store already, or leftovers of another
                store lie beside the file.
            MasterKeyError: The master refused.
            OSError: The file can't be made.
        """
        _check_seconds(cache_seconds=cache_seconds, busy_timeout=busy_timeout)
        databases.sqlite_path(url)
        root = _native.MemoryLockedKey.generate()
        now = cls._clock() // 1000
        # All keys are made and wrapped before the database is touched.
        store_row, master_row = roots.new_rows(root, master, cache_seconds, now)
        first = _new_keyset(root, DEFAULT_KEYSET, "data", "", now)

        def fill(transaction: Transaction) -> None:
            transaction.execute(sql.INSERT_STORE, store_row)
            transaction.execute(sql.INSERT_MASTER, master_row)
            saved = keysets.save(transaction, root, None, first)
            say = functools.partial(_events.report, store=root.key_id)
            say("store.created", key_id=master_row.key_id, master=master_row.uri)
            events.say_changes(say, None, saved)

        databases.create(url, fill, busy_timeout=busy_timeout)
        database = databases.open_database(url, busy_timeout=busy_timeout, read_only=False)
        store = cls(database, root, store_row, None)
        store._opened_by = master_row.key_id
        store._count_from_now()
        return store

    @classmethod
    def open(
        cls,
        url: str,
        master: MasterKeyProvider,
        *,
        read_only: bool = False,
        cache_seconds: float | None = None,
        busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
    ) -> Self:
        """Open a store by one of its masters.

        Args:
            url: As for `create`.
            master: Any of the store's masters; one call to its `unwrap`.
            read_only: Refuse every change.
            cache_seconds: Less than the store's own cache time, for this process; None for that.
            busy_timeout: How long to wait for another process's lock, in seconds.

        Raises:
            FileNotFoundError: There is no such file.
            KeyStoreError: It is no store, a damaged one, or one of a newer release.
            MasterKeyError: It is not a master of this store, or refused.
            AuditError: The opening could not be sealed in the audit log.
        """
        _check_seconds(cache_seconds=cache_seconds or 0, busy_timeout=busy_timeout)
        database = databases.open_database(url, busy_timeout=busy_timeout, read_only=read_only)
        try:
            _check_version(database.schema_version())
            head = database.read(roots.read_head)
            root, opened_by = roots.open_root(master, head)
            store_row, _ = roots.verify_head(root, head)
            events.say_opened(root, opened_by)
        except BaseException:
            database.close()
            raise
        store = cls(database, root, store_row, cache_seconds)
        store._opened_by = opened_by.key_id
        store._count_from_now()
        return store

    @classmethod
    def masters_of(cls, url: str, *, any_schema: bool = False) -> list[MasterInfo]:
        """Return the masters that a store names, to learn which one to open it with.

        Nothing of this is authenticated: that takes the root, and so a master.
        """
        database = databases.open_database(url, busy_timeout=DEFAULT_BUSY_TIMEOUT, read_only=True)
        try:
            version = database.schema_version()
            if any_schema and version < sql.SCHEMA_VERSION:
                from strongroom.keys.migrate import read_old_head

                return roots.describe(read_old_head(database, version))
            _check_version(version)
            return roots.describe(database.read(roots.read_head))
        finally:
            database.close()

    @classmethod
    def restore(
        cls,
        backup: str | os.PathLike[str],
        url: str,
        master: MasterKeyProvider,
        *,
        logged: Iterable[tuple[str, Mapping[str, object]]] = (),
    ) -> Restored:
        """Make a store out of a backup, brought forward by what an audit log says came after it.

        Stop every process that uses the lost store first: what they have cached may name keys
        that the backup does not hold. Counted keys write no more, and their keysets are rotated.

        Args:
            backup: The file that `backup` made; it is not changed.
            url: Where the store is to be, as for `create`: no file, or no store, is there.
            master: Any of the masters that the store had then.
            logged: The names and fields of the audit log's events, successes alone.

        Raises:
            FileExistsError: A file of that name is there: move it away, never over it.
            KeyStoreError: The backup is damaged, none, or of another release; or there is a store.
            MasterKeyError: It is not a master of the backup, or refused.
        """
        from strongroom.keys.restore import restore

        return restore(backup, url, master, logged=logged, now=cls._clock() // 1000)

    @classmethod
    def schema_version(cls, url: str) -> int:
        """Return the version of a store's schema.

        Raises:
            KeyStoreError: It is no store, or one of a newer release.
        """
        database = databases.open_database(url, busy_timeout=DEFAULT_BUSY_TIMEOUT, read_only=True)
        try:
            return database.schema_version()
        finally:
            database.close()

    @classmethod
    def migrate(
        cls,
        url: str,
        master: MasterKeyProvider,
        *,
        backup: str | os.PathLike[str] | None = None,
    ) -> bool:
        """Bring a store of an older release to this release's schema, in one transaction.

        Older releases can't read it any more.

        Args:
            url: As for `create`.
            master: Any of the store's masters.
            backup: Where to put the store as it was, a SQLite file that the older release reads.

        Returns:
            False if there was nothing to do.

        Raises:
            KeyStoreError: It is no store, a damaged one, or one of a newer release.
            MasterKeyError: It is not a master of this store, or refused.
        """
        from strongroom.keys.migrate import migrate

        database = databases.open_database(url, busy_timeout=DEFAULT_BUSY_TIMEOUT, read_only=False)
        try:
            return migrate(database, master, backup)
        finally:
            database.close()

    def __enter__(self) -> Self:
        """Return the store itself."""
        self._check()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    def check(
        self,
        *,
        generation: int = 0,
        logged: Iterable[tuple[str, Mapping[str, object]]] = (),
    ) -> None:
        """Read and authenticate the whole store: every row, every wrapped key.

        Args:
            generation: The store is to be at this `generation()` at least, as it was known
                elsewhere: an older copy of the whole store authenticates by itself.
            logged: The same from the audit log: names and fields of its events, successes alone.

        Raises:
            KeyStoreError: Something is damaged, or the store is older; the text says what.
        """
        self._check()
        self._database.check()
        head, _ = self._head()
        self._database.read(lambda transaction: read_leases(transaction, self._root, head))
        newest = newest_logged(self._root_id, logged)
        now = head.generation
        for keyset in self._all():
            self._material.open_all(keyset)
            now += keyset.head.generation
            known = newest.pop(keyset.head.name, 0)
            if keyset.head.generation < known:
                raise KeyStoreError(
                    f"the key store is older than it was: keyset {keyset.head.name!r} is at "
                    f"generation {keyset.head.generation}, and the audit log knows {known}"
                )
        if newest:
            raise KeyStoreError(
                f"the key store is older than it was: the audit log knows keyset {min(newest)!r}, "
                "which is not there"
            )
        for table in _ALONE:
            self._read(functools.partial(_look_through, root=self._root, table=table))
        if now < generation:
            raise KeyStoreError(
                f"the key store is older than it was: it is at generation {now}, and {generation} "
                "was known; if it was restored from a backup, look at what was changed since"
            )

    # Looking

    def get_current_key(self, keyset: str = DEFAULT_KEYSET) -> Key:
        """Return the primary of a keyset.

        Raises:
            KeyNotFoundError: There is no such keyset.
            KeyStateError: It has no primary: its primary was suspended or compromised.
        """
        current = self._current(keyset)
        return self.get_key(primary_of(current).key_id)

    def get_key(self, id: str) -> Key:
        """Return a key, in whatever state, destroyed ones too.

        Raises:
            KeyNotFoundError: The store never had such a key.
        """
        self._check()
        cached = self._handles.get(id)
        if cached is not None and self._monotonic() < cached[1]:
            return cached[0]
        keyset = self._load(self._keyset_name_of(id))
        return Key._of(keyset.key(id), keyset.head.purpose)

    # Keysets

    def create_keyset(
        self, name: str, *, purpose: str = "data", policy: Policy | None = None
    ) -> Key:
        """Make a keyset with its first active key, and return that key.

        Args:
            name: 1 to 255 bytes of UTF-8 without control characters.
            purpose: "data", "database", "names" or "audit": what alone its keys are used for.
            policy: Its cryptoperiods; None for none.

        Raises:
            KeyStoreError: There is, or was, a keyset of that name.
            ValueError: The name or the purpose is none.
        """
        self._check()
        keysets.check_name(name)
        if purpose not in keysets.PURPOSES:
            raise ValueError(f"a purpose is one of {', '.join(keysets.PURPOSES)}")
        rules = (policy or Policy())._dump()
        new = _new_keyset(self._root, name, purpose, rules, self._now())
        key_id = new.head.primary_id
        made = _has_key(key_id)
        saved: list[Keyset] = []

        def work(transaction: Transaction, say: events.Say) -> None:
            if not (saved and made(transaction)):
                if transaction.execute(sql.SELECT_KEYSET, (name,)):
                    raise KeyStoreError(
                        f"a keyset named {name!r} is there already, or was destroyed"
                    )
                saved[:] = [keysets.save(transaction, self._root, None, new)]
            # Else it is done again, and the commit whose answer was lost took place after all.
            events.say_changes(say, None, saved[0])

        self._write(work, made)
        return Key._of(self._remember(saved[0]).key(key_id), purpose)

    def set_policy(self, keyset: str, policy: Policy) -> None:
        """Set the cryptoperiods of a keyset.

        Raises:
            KeyNotFoundError: There is no such keyset.
        """
        text = policy._dump()
        self._change(keyset, lambda before, _: before.with_policy(text))

    def get_policy(self, keyset: str = DEFAULT_KEYSET) -> Policy:
        """Return the cryptoperiods of a keyset.

        Raises:
            KeyNotFoundError: There is no such keyset.
        """
        return policies.load(self._current(keyset).head.policy)


def _new_keyset(
    root: _native.MemoryLockedKey, name: str, purpose: str, policy: str, now: int
) -> Keyset:
    """Return a keyset with its first key, active, that isn't in the store yet."""
    key_id, data = wrap_new(root)
    keyset = Keyset.new(name, purpose, policy, now)
    return keyset.with_key(key_id, data, now).activated(key_id, now)


def _look_through(
    transaction: Transaction, root: _native.MemoryLockedKey, table: sql.Table
) -> None:
    for _ in rows_of(transaction, root, table):
        pass


def _has_key(key_id: str) -> Callable[[Transaction], bool]:
    return lambda transaction: bool(transaction.execute(sql.SELECT_KEYSET_OF_KEY, (key_id,)))


def _check_version(version: int) -> None:
    if version < sql.SCHEMA_VERSION:
        raise KeyStoreError(
            f"the key store has the older schema {version}: make a copy of it, then run "
            "KeyStore.migrate(url, master)"
        )


def _check_seconds(**values: object) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is a number of seconds, not {type(value).__name__}")
        if not 0 <= value <= 86_400:
            raise ValueError(f"{name} is from 0 to 86,400 seconds")
