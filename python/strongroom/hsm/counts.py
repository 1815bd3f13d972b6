"""How many messages a token's key has written: at most 2^32, FORMAT.md section 7."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from strongroom import _native
from strongroom.errors import LimitError

if TYPE_CHECKING:
    from strongroom.keys import KeyStore

__all__ = ["MAX_MESSAGES", "Counts"]

# Random nonces of 96 bits: SP 800-38D, section 8.3. Kinds 03 and 04 together.
MAX_MESSAGES = 2**32
# What a process takes from the store at once, and loses when it dies.
LEASE = 2**20

# Without a store: of all managers and masters of this process. `next` of a counter is one step of
# the interpreter, so that neither another thread nor a signal handler comes between.
_written: dict[str, Iterator[int]] = {}


class Counts:
    """Counts in a key store by leases, or in this process alone."""

    def __init__(self, key_store: KeyStore | None) -> None:
        """Take the store, which stays the caller's to close."""
        self._key_store = key_store
        self._left: dict[str, Iterator[int]] = {}
        self._process = _native.process_generation()
        self._lock = threading.RLock()

    def take(self, key_id: str) -> None:
        """Count one message before it is written.

        Raises:
            LimitError: The key has written all that it may.
            KeyStoreError: The store can't be written to.
        """
        if self._key_store is None:
            counter = _written.get(key_id) or _written.setdefault(key_id, itertools.count())
            if next(counter) >= MAX_MESSAGES:
                raise LimitError(
                    f"the token's key {key_id} has written all the {MAX_MESSAGES} messages that "
                    "it may: rotate it"
                )
            return
        if self._process != _native.process_generation():
            # What the parent leased is the parent's, and so may be its lock.
            self._lock = threading.RLock()
            self._left = {}
            self._process = _native.process_generation()
        if next(self._left.get(key_id, _NONE), None) is None:
            self._lease(key_id, self._key_store)

    def _lease(self, key_id: str, key_store: KeyStore) -> None:
        """Take a lease, and one message of it."""
        with self._lock:
            # Another thread may have taken one meanwhile.
            if next(self._left.get(key_id, _NONE), None) is None:
                granted = key_store.lease_messages(key_id, LEASE, MAX_MESSAGES)
                self._left[key_id] = iter(range(granted - 1))


_NONE: Iterator[int] = iter(())
