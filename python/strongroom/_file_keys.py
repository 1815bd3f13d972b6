"""What files are opened with and written under, for `strongroom.files` and `strongroom.bulk`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from strongroom import _native

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom.keys import KeyStore
    from strongroom.masters import MasterKeyProvider

__all__ = ["ByteCount", "Keys", "Path", "Progress", "file_keys"]

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""A path, as the functions of `os` take it."""

Progress = Callable[[int, int | None], object]
"""Called with the bytes of plaintext done and their total, None where it isn't known."""


class ByteCount(int):
    """A number of bytes of plaintext, and the key that they were read or written with.

    Attributes:
        keyset: Name of the keyset that the key is of; None for a passphrase.
        key_id: The key's id, 32 hex digits; None for a passphrase.
    """

    keyset: str | None
    key_id: str | None

    def __new__(cls, count: int, keyset: str | None = None, key_id: str | None = None) -> Self:
        """Makes a count."""
        made = super().__new__(cls, count)
        made.keyset = keyset
        made.key_id = key_id
        return made


class Keys:
    """Keys for the native calls, and what their key ids mean."""

    def __init__(
        self,
        native: _native.FileKeys,
        keyring: _native.Keyring | None,
        keyset: str | None,
        has_master: bool = False,
    ) -> None:
        """Takes what `file_keys` has gathered."""
        self._has_master = has_master
        self.native = native
        self._keyring = keyring
        self._keyset = keyset

    def count(self, plaintext: int, key_id: str | None) -> ByteCount:
        """Returns a number of bytes with the key that they were read or written with."""
        return ByteCount(plaintext, self.keyset_of(key_id), key_id)

    def keyset_of(self, key_id: str | None) -> str | None:
        """Returns the keyset of a key; None for a passphrase."""
        if key_id is None or self._keyring is None:
            return None
        # A KEK is in no keyset.
        if self._keyset is not None and not self._has_master:
            return self._keyset
        return self._keyring.lookup(key_id)


@contextmanager
def file_keys(
    key_store: KeyStore | None,
    keyset: str | None,
    passphrase: str | Buffer | None,
    *,
    writes: bool = False,
    rewraps: bool = False,
    allow_compromised: bool = False,
    master: MasterKeyProvider | None = None,
) -> Iterator[Keys]:
    """Gathers what files are opened with; a passphrase's keys are wiped at the end.

    Raises:
        ValueError: Neither a key store nor a passphrase, or no keyset to write under.
        TypeError: The key store is none.
        KeyNotFoundError: No such keyset.
    """
    if key_store is None and passphrase is None and (master is None or writes):
        raise ValueError("give a key store, a passphrase, or both")
    unwrap = None if master is None else _unwrapping(master)
    if keyset is None and key_store is not None and (writes or rewraps):
        raise ValueError("keyset=None searches all keysets to read; to write, name one")
    if key_store is not None and not hasattr(key_store, "_keyring"):
        raise TypeError(f"key_store must be an open KeyStore, not {type(key_store).__name__}")
    keyring = None if key_store is None else key_store._keyring(keyset)
    if passphrase is None:
        native = _native.FileKeys(keyring, allow_compromised=allow_compromised, master=unwrap)
        yield Keys(native, keyring, keyset, master is not None)
        return
    from strongroom.masters.passphrase import Cost, PassphraseMasterKey

    own_master = PassphraseMasterKey(passphrase)

    def key(memory_kib: int, passes: int, lanes: int, salt: bytes) -> _native.MemoryLockedKey:
        return own_master._key(Cost(memory_kib, passes, lanes, salt))

    try:
        # One salt for all that is written under it: Argon2id runs once for a whole tree.
        own = own_master._own
        new = (own.memory_kib, own.passes, own.lanes, own.salt)
        cost = new if writes else None
        native = _native.FileKeys(
            keyring, key, cost, allow_compromised=allow_compromised, master=unwrap
        )
        yield Keys(native, keyring, keyset, master is not None)
    finally:
        own_master.close()


def _unwrapping(
    master: MasterKeyProvider,
) -> Callable[[bytes, str], _native.MemoryLockedKey | None]:
    """Returns what opens the slots whose KEK this master wrapped: each KEK is asked for once."""
    from strongroom.masters import wrapped

    found: dict[tuple[bytes, str], _native.MemoryLockedKey] = {}

    def unwrap(data: bytes, kek_id: str) -> _native.MemoryLockedKey | None:
        if (data, kek_id) not in found:
            parts = wrapped.parse(data)
            by = wrapped.wrapped_by(master, parts.mechanism, parts.wrapping_id)
            if by is None:
                return None
            found[data, kek_id] = wrapped.unwrap_with(by, data, kek_id)
            wrapped.say("key.unwrapped", by, data, kek_id)
        return found[data, kek_id]

    return unwrap
