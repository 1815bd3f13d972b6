"""Unwrapped keys of a store, in locked memory, each unwrapped once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from strongroom import _native
from strongroom.errors import DecryptionError
from strongroom.keys.keyset import Keyset
from strongroom.keys.rows import damaged
from strongroom.keys.states import STATES
from strongroom.masters import wrapped

__all__ = ["Material", "wrap_new"]

# Some MiB of locked pages with a key or two each; the least recently loaded keysets go first.
MAX_KEYSETS = 4096


class Material:
    """The unwrapped keys of one store, by what was authenticated when they were unwrapped.

    A key is found again by SHA-256 over its wrapping (header with the root's id, box) and its
    key id, so that an edited row can never meet a cached key.
    """

    def __init__(self, root: _native.MemoryLockedKey) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._keysets: OrderedDict[str, dict[bytes, _native.MemoryLockedKey]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def wrap_new(self) -> tuple[str, bytes]:
        """Make a new key, and return its id and itself wrapped by the root, kind 04."""
        return wrap_new(self._root)

    def unwrap(self, keyset: Keyset) -> dict[str, _native.MemoryLockedKey]:
        """Return the keys of a keyset by their ids, those of destroyed and suspended ones not.

        Raises:
            KeyStoreError: A wrapped key doesn't open to the key that its row names.
        """
        name = keyset.head.name
        with self._lock:
            known = self._keysets.get(name, {})
        opened: dict[str, _native.MemoryLockedKey] = {}
        entries: dict[bytes, _native.MemoryLockedKey] = {}
        root_id = self._root.key_id
        for row in keyset.keys.values():
            if not STATES[row.state].decrypts_if_allowed:
                continue
            data = keyset.wrapped[row.key_id]
            entry = _entry(root_id, row.key_id, data)
            key = known.get(entry)
            if key is None:
                self.misses += 1
                key = self._open(row.key_id, data)
            else:
                self.hits += 1
            opened[row.key_id] = entries[entry] = key
        with self._lock:
            # What isn't among the entries any more is dropped here, and wiped when the last
            # call that uses it ends.
            self._keysets[name] = entries
            self._keysets.move_to_end(name)
            while len(self._keysets) > MAX_KEYSETS:
                self._keysets.popitem(last=False)
        return opened

    def open_all(self, keyset: Keyset) -> None:
        """Look that every wrapped key of a keyset opens, those of suspended ones too.

        Raises:
            KeyStoreError: One doesn't.
        """
        for row in keyset.keys.values():
            if STATES[row.state].has_material:
                self._open(row.key_id, keyset.wrapped[row.key_id]).destroy()

    def forget(self, name: str) -> None:
        """Forget the keys of a keyset."""
        with self._lock:
            self._keysets.pop(name, None)

    def drop(self) -> None:
        """Forget all keys."""
        with self._lock:
            self._keysets.clear()

    def _open(self, key_id: str, data: bytes) -> _native.MemoryLockedKey:
        try:
            return wrapped.open_software(self._root, data, key_id)
        except (DecryptionError, ValueError):
            raise damaged(f"the wrapped key {key_id} does not open") from None


def wrap_new(root: _native.MemoryLockedKey) -> tuple[str, bytes]:
    """Make a new key, and return its id and itself wrapped by `root`, kind 04."""
    with _native.MemoryLockedKey.generate() as key:
        return key.key_id, wrapped.seal_software(root, key)


def _entry(root_id: str, key_id: str, data: bytes) -> bytes:
    # The ids have one length each, so the join has one reading.
    return _native.sha256(root_id.encode() + key_id.encode() + data)
