"""How many messages a token's key has written: at most 2^32, FORMAT.md section 7."""

from __future__ import annotations

import threading
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

# Without a store: of all managers and masters of this process.
_written: dict[str, int] = {}
_lock = threading.Lock()


class Counts:
    """Counts in a key store by leases, or in this process alone."""

    def __init__(self, key_store: KeyStore | None) -> None:
        """Take the store, which stays the caller's to close."""
        self._key_store = key_store
        self._left: dict[str, int] = {}
        self._process = _native.process_generation()
        self._lock = threading.Lock()

    def take(self, key_id: str) -> None:
        """Count one message before it is written.

        Raises:
            LimitError: The key has written all that it may.
            KeyStoreError: The store can't be written to.
        """
        if self._key_store is None:
            self._take_here(key_id)
            return
        if self._process != _native.process_generation():
            # What the parent leased is the parent's, and so may be its lock.
            self._lock = threading.Lock()
            self._left = {}
            self._process = _native.process_generation()
        with self._lock:
            left = self._left.get(key_id, 0)
            if left == 0:
                left = self._key_store.lease_messages(key_id, LEASE, MAX_MESSAGES)
            self._left[key_id] = left - 1

    def _take_here(self, key_id: str) -> None:
        # A loss between reading and writing would need a switch of threads between two bytecodes
        # of the same expression; the lock is cheaper than the argument.
        with _lock:
            written = _written.get(key_id, 0)
            if written >= MAX_MESSAGES:
                raise LimitError(
                    f"the token's key {key_id} has written all the {MAX_MESSAGES} messages that "
                    "it may: rotate it"
                )
            _written[key_id] = written + 1


def _unlock_in_child() -> None:
    global _lock
    _lock = threading.Lock()


def _register() -> None:
    import os

    os.register_at_fork(after_in_child=_unlock_in_child)


_register()
