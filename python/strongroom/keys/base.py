"""What every method of a key store stands on: loading, changing, caching, closing, forking."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from strongroom import _native
from strongroom.errors import (
    KeyNotFoundError,
    KeyStateError,
    KeyStoreBusyError,
    KeyStoreError,
)
from strongroom.keys import events, policy, sql
from strongroom.keys import keyset as keysets
from strongroom.keys.committed import is_committed
from strongroom.keys.database import Database, Transaction
from strongroom.keys.key import Key, moment
from strongroom.keys.keyset import Keyset
from strongroom.keys.material import Material
from strongroom.keys.reading import Block, Reading
from strongroom.keys.rows import KeyRow, StoreRow
from strongroom.keys.seen import Seen
from strongroom.keys.states import DESTROYED

__all__ = ["Plan", "StoreBase"]

T = TypeVar("T")
Plan = Callable[[Keyset, Transaction], Keyset]
Uses = Callable[[Keyset], list[tuple[str, dict[str, str]]]]
Entry = tuple[str, str, str, "_native.MemoryLockedKey | None", str]
Contents = tuple[str | None, list[Entry], float, str]

# How many keysets' metadata and keyrings are kept, the least recently used going first.
MAX_CACHED = 4096

_SEEN = Seen()
_STORES: weakref.WeakSet[StoreBase] = weakref.WeakSet()


class StoreBase:
    """The inside of a `KeyStore`. No public method here but those of its life."""

    # Replaced in tests: the time for the store's columns, and the time for its caches.
    _clock = staticmethod(time.time_ns)
    _monotonic = staticmethod(time.monotonic)

    def __init__(
        self,
        database: Database,
        root: _native.MemoryLockedKey,
        row: StoreRow,
        cache_seconds: float | None,
    ) -> None:
        self._database = database
        self._root = root
        self._root_id = root.key_id
        # Id of the master that unwrapped the root.
        self._opened_by = ""
        self._row = row
        self._cache_seconds = (
            float(row.cache_seconds)
            if cache_seconds is None
            else min(cache_seconds, float(row.cache_seconds))
        )
        self._material = Material(root)
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, tuple[Keyset, float]] = OrderedDict()
        self._handles: dict[str, tuple[Key, float]] = {}
        self._keyrings: OrderedDict[str | None, _native.Keyring] = OrderedDict()
        # Ids of the keys that ciphers got from here, and when their use was last written down.
        self._given: set[str] = set()
        self._flushed = 0.0
        # Whether nothing of the store was found damaged: into such a one no figures are written.
        self._sound = True
        self._closed = False
        self._process = _native.process_generation()
        _STORES.add(self)

    @property
    def url(self) -> str:
        """Where the store is, without a password."""
        return self._database.url

    @property
    def cache_seconds(self) -> float:
        """How long this process may go on with what it has read, in seconds."""
        return self._cache_seconds

    @property
    def read_only(self) -> bool:
        """Whether the store was opened for reading alone."""
        return self._database.read_only

    def close(self) -> None:
        """Wipe the unwrapped keys and close the database. Done twice, it does nothing.

        Ciphers made from this store raise KeyStoreError from then on.
        """
        if self._process != _native.process_generation():
            # A forked child: the connections were set aside when it began, its copies of the
            # keys are unreadable already, and the lock may be held by a thread that isn't here.
            self._closed = True
            return
        if not self._closed:
            self._flush_at_end()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            keyrings = list(self._keyrings.values())
            self._keyrings.clear()
            self._loaded.clear()
            self._handles.clear()
        for keyring in keyrings:
            keyring.close()
        self._material.drop()
        self._root.destroy()
        self._database.close()

    def refresh(self) -> None:
        """Forget what was read, so that the next use sees what other processes did.

        Raises:
            KeyStoreError: The store is closed.
        """
        self._check()
        with self._lock:
            self._loaded.clear()
            self._handles.clear()
            keyrings = list(self._keyrings.values())
        for keyring in keyrings:
            keyring.invalidate()

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self.url}{state}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError("a KeyStore can't be pickled or copied: open it again in the child")

    def __del__(self) -> None:
        """Close what was not closed."""
        # At interpreter exit anything may be gone already; the operating system frees the rest.
        with contextlib.suppress(Exception):
            self.close()

    def _check(self) -> None:
        if self._process != _native.process_generation():
            raise KeyStoreError(
                "this key store was opened before the process forked: open it again in the child"
            )
        if self._closed:
            raise KeyStoreError("the key store is closed")

    def _check_writable(self) -> None:
        if self._database.read_only:
            raise KeyStoreError("the key store was opened read-only")

    def _now(self) -> int:
        return self._clock() // 1000

    def _load(self, name: str) -> Keyset:
        """Read a keyset from the database, and remember it."""
        self._check()
        keysets.check_name(name)
        while True:
            newest = _SEEN.get(self._root_id, name)
            loaded = self._read(
                lambda transaction: keysets.load(transaction, self._root, name, newest)  # noqa: B023
            )
            if loaded is None:
                raise KeyNotFoundError(f"no keyset named {name!r} in the key store")
            # A change by another thread, while this one was reading, must not be covered up.
            newest = _SEEN.get(self._root_id, name)
            if newest is None or newest[0] <= loaded.head.generation:
                return self._remember(loaded)

    def _current(self, name: str) -> Keyset:
        """Return a keyset as it was at most the cache time ago."""
        self._check()
        cached = self._loaded.get(name)
        if cached is not None and self._monotonic() < cached[1]:
            return cached[0]
        return self._load(name)

    def _all(self) -> Iterator[Keyset]:
        """Read all keysets, as `_blocks`."""
        for found, _ in self._blocks(lambda *_: None):
            yield from found

    def _blocks(self, look: Callable[[Transaction, Block], T]) -> Iterator[tuple[list[Keyset], T]]:
        """Read all keysets, some at a time, each time in a transaction of its own.

        None is open while the caller has them, so that a slow one holds nobody up.

        Args:
            look: What else to read of the same keysets, in their transaction.
        """
        self._check()
        # Known before anything is read, so it must be met below.
        missing = _SEEN.names(self._root_id)
        reading = Reading()

        def read(transaction: Transaction) -> tuple[Block, T]:
            block = reading.some(transaction, self._root)
            return block, look(transaction, block)

        while True:
            block, beside = self._read(read)
            if not block.keysets:
                break
            missing.difference_update(keyset.head.name for keyset in block.keysets)
            yield [self._in_order(keyset) for keyset in block.keysets], beside
            reading.went_on(block)
        for name in sorted(missing):
            self._load(name)

    def _in_order(self, keyset: Keyset) -> Keyset:
        """Return a keyset that was read just now, or a newer one; an older one is refused."""
        head = keyset.head
        newest = _SEEN.get(self._root_id, head.name) or (0, b"")
        if newest[0] >= head.generation and newest != (head.generation, head.mac):
            # Another thread has changed it meanwhile, or it was put back.
            return self._load(head.name)
        _SEEN.record(self._root_id, head)
        return keyset

    def _read(self, function: Callable[[Transaction], T]) -> T:
        try:
            return self._database.read(function)
        except KeyStoreBusyError:
            raise
        except KeyStoreError:
            self._sound = False
            raise

    def _keyset_name_of(self, key_id: str) -> str:
        """Return the name of a key's keyset, from the database.

        Raises:
            KeyNotFoundError: The store has no such key.
        """
        self._check()
        if not isinstance(key_id, str):
            raise TypeError(f"a key id is 32 hex digits in str, not {type(key_id).__name__}")
        found = self._database.read(
            lambda transaction: transaction.execute(sql.SELECT_KEYSET_OF_KEY, (key_id,))
        )
        if not found or not isinstance(found[0][0], str):
            raise KeyNotFoundError(
                f"no key {key_id} in the key store; it may be another store's", key_id=key_id
            )
        return found[0][0]

    def _remember(self, keyset: Keyset) -> Keyset:
        name = keyset.head.name
        _SEEN.record(self._root_id, keyset.head)
        until = self._monotonic() + self._cache_seconds
        handles = {
            row.key_id: (Key._of(row, keyset.head.purpose), until) for row in keyset.keys.values()
        }
        with self._lock:
            cached = self._loaded.get(name)
            if cached is not None and cached[0].head.generation > keyset.head.generation:
                return cached[0]
            self._loaded[name] = (keyset, until)
            self._loaded.move_to_end(name)
            self._handles.update(handles)
            while len(self._loaded) > MAX_CACHED:
                _, (oldest, _) = self._loaded.popitem(last=False)
                for key_id in oldest.keys:
                    self._handles.pop(key_id, None)
        return keyset

    def _change(self, name: str, plan: Plan, uses: Uses | None = None) -> Keyset:
        """Change a keyset under the database's lock; durable when this returns.

        Args:
            name: The keyset's name.
            plan: Returns the keyset as it is to be, or the one that it got for no change. It may
                be called more than once.
            uses: The events of what a plan did beside the keyset's rows.

        Raises:
            AuditError: The change could not be sealed in the audit log, and was not made.
        """
        self._check()
        keysets.check_name(name)
        newest = _SEEN.get(self._root_id, name)
        saved: list[tuple[Keyset, Keyset]] = []

        def work(transaction: Transaction, say: events.Say) -> Keyset:
            before = keysets.load(transaction, self._root, name, newest, lock=True)
            if before is None:
                raise KeyNotFoundError(f"no keyset named {name!r} in the key store")
            if saved and is_committed(before, *saved[0]):
                # Done again, after an answer was lost and before its commit had taken place.
                before, after = saved[0]
            else:
                after = plan(before, transaction)
                if after is not before:
                    after = keysets.save(transaction, self._root, before, after)
            saved[:] = [(before, after)]
            events.say_changes(say, before, after)
            for event, fields in uses(after) if uses else ():
                say(event, keyset=name, **fields)
            return after

        def landed(transaction: Transaction) -> bool:
            there = keysets.load(transaction, self._root, name, newest)
            return there is not None and is_committed(there, *saved[0])

        changed = self._write(work, landed)
        # Another thread may have gone on from there; the caller is told of its own change.
        self._remember(changed)
        self._invalidate(name)
        return changed

    def _write(
        self,
        function: Callable[[Transaction, events.Say], T],
        landed: Callable[[Transaction], bool],
    ) -> T:
        return events.write(self._database, self._root_id, function, landed)

    def _invalidate(self, name: str) -> None:
        for keyring in (self._keyrings.get(name), self._keyrings.get(None)):
            if keyring is not None:
                keyring.invalidate()

    def _keyring(self, keyset: str | None) -> _native.Keyring:
        """Return the keys of a data keyset as the core sees them; one object a keyset.

        Args:
            keyset: The keyset's name; None for all data keysets of the store.

        Raises:
            KeyNotFoundError: There is no keyset of that name.
            KeyStateError: Its purpose is not "data".
        """
        self._check()
        keyring = self._keyrings.get(keyset)
        if keyring is not None:
            return keyring
        if keyset is not None:
            _for_data(self._current(keyset))
        # The core must not keep the store alive, or neither would ever be collected.
        reference = weakref.ref(self)

        def reload(missing: str | None) -> Contents:
            store = reference()
            if store is None:
                raise KeyStoreError("the key store is closed")
            return store._contents(missing) if keyset is None else store._contents_of(keyset)

        with self._lock:
            keyring = self._keyrings.setdefault(keyset, _native.Keyring(reload))
        return keyring

    def _flush_usage_if_due(self) -> None:
        """See `Usage`."""

    def _flush_at_end(self) -> None:
        """See `Usage`."""

    def _contents_of(self, name: str) -> Contents:
        self._flush_usage_if_due()
        keyset = self._load(name)
        _for_data(keyset)
        seconds = self._cache_seconds
        primary = keyset.primary
        rules = policy.load(keyset.head.policy)
        why = f"keyset {name!r} has no primary key: rotate it, or activate a key"
        if primary is not None and rules.enforce:
            # Encrypting ends with the period, reading doesn't.
            left = ((rules.ends(primary) or 0) - self._now()) / 1e6
            seconds = min(seconds, left) if left > 0 else seconds
            if left <= 0:
                why = (
                    f"the time of keyset {name!r}'s primary key {primary.key_id} is over by its "
                    "policy, which is enforced: rotate the keyset"
                )
                primary = None
        return primary.key_id if primary else None, self._entries(keyset), seconds, why

    def _contents(self, missing: str | None) -> Contents:
        """All keysets read within the cache time, and the missing key's: no primary among all."""
        if missing is not None:
            with contextlib.suppress(KeyNotFoundError):
                self._load(self._keyset_name_of(missing))
        self._check()
        now = self._monotonic()
        entries, end = [], now + self._cache_seconds
        with self._lock:
            loaded = list(self._loaded.values())
        for keyset, until in loaded:
            if until > now and keyset.head.purpose == "data":
                entries += self._entries(keyset)
                end = min(end, until)
        return None, entries, end - now, "no keyset was named to encrypt under"

    def _entries(self, keyset: Keyset) -> list[Entry]:
        keys = self._material.unwrap(keyset)
        self._given.update(keys)
        name = keyset.head.name
        return [(i, r.state, name, keys.get(i), _note(r)) for i, r in keyset.keys.items()]


def _note(row: KeyRow) -> str:
    """What the refusal to open something under a key adds."""
    return f"destroyed on {moment(row.since):%Y-%m-%d}" if row.state == DESTROYED else ""


def _for_data(keyset: Keyset) -> None:
    if keyset.head.purpose != "data":
        raise KeyStateError(
            f"keyset {keyset.head.name!r} has the purpose {keyset.head.purpose!r}: "
            "its keys don't encrypt data"
        )


def _after_fork() -> None:
    for store in _STORES:
        store._database.abandon()


os.register_at_fork(after_in_child=_after_fork)
