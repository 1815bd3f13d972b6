"""Envelope encryption: a master wraps KEKs, a KEK wraps the DEK of each message."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from strongroom import _native
from strongroom._inspect import MessageInfo, SlotInfo, inspect

if TYPE_CHECKING:
    from strongroom.keys import KeyStore
    from strongroom.masters import MasterKeyProvider

__all__ = ["EnvelopeEncryption", "MessageInfo", "SlotInfo", "inspect"]

CACHE_SECONDS = 300
CACHE_USES = 100_000


class EnvelopeEncryption(_native.EnvelopeCipher):
    """Encrypts values of any size as envelopes, which can be rewrapped without their data.

    Without a key store each envelope carries its KEK, wrapped by the master: it lives with nothing
    but the master. A KEK is made at the first use, and again when its time or its uses are up, so
    that ten thousand values cost one call to the master. With a key store the keys of a keyset are
    the KEKs; envelopes that carry theirs are read as well if a master is given, and `rewrap`
    brings them under the keyset.

    Unwrapped KEKs are kept in locked memory for `cache_seconds` and `cache_uses`, and found again
    by SHA-256 over all that was authenticated. They are dropped at fork, by `forget` and by
    `close`. How long a keyset's keys are kept, and changes of their state, are the store's
    (`KeyStore.open(cache_seconds=)`).

    Safe to share between threads. Not picklable. A context manager, which closes it.

    Example:
        >>> with EnvelopeEncryption(FileMasterKey("master.key")) as envelopes:
        ...     message = envelopes.encrypt(b"value", b"table/42")
        ...     envelopes.decrypt(message, b"table/42")
        b'value'
    """

    def __new__(
        cls,
        master_key_provider: MasterKeyProvider | None,
        key_store: KeyStore | None = None,
        keyset: str = "default",
        *,
        cache_seconds: float = CACHE_SECONDS,
        cache_uses: int = CACHE_USES,
    ) -> Self:
        """Takes a master, a keyset, or both.

        Args:
            master_key_provider: The master. None with a key store: envelopes that carry their KEK
                are not read then.
            key_store: An open store; it stays the caller's to close.
            keyset: Name of a keyset with the purpose "data".
            cache_seconds: How long an unwrapped KEK is kept, 0 to 86,400.
            cache_uses: How many messages it serves, 1 to 2^32.

        Raises:
            KeyNotFoundError: There is no such keyset.
            KeyStateError: The keyset has another purpose.
            TypeError: There is neither a master nor a store, or the one given is no master.
            ValueError: The master is a passphrase, whose KEKs no envelope carries (Argon2id would
                run for each of them), or a limit is out of its bounds.
        """
        if not 0 <= cache_seconds <= 86_400:
            raise ValueError(f"cache_seconds is {cache_seconds}: 0 to 86,400 are kept")
        if not 1 <= cache_uses <= 2**32:
            raise ValueError(f"cache_uses is {cache_uses}: 1 to 2^32 are counted")
        if not isinstance(keyset, str):
            raise TypeError(f"keyset must be a str, not {type(keyset).__name__}")
        keks = None if master_key_provider is None else _Keks(master_key_provider)
        if keks is None and key_store is None:
            raise TypeError("give a master, a key store, or both")
        keyring = None if key_store is None else key_store._keyring(keyset)
        return super().__new__(cls, keyring, keks, float(cache_seconds), cache_uses)

    def __init__(
        self,
        master_key_provider: MasterKeyProvider | None,
        key_store: KeyStore | None = None,
        keyset: str = "default",
        *,
        cache_seconds: float = CACHE_SECONDS,
        cache_uses: int = CACHE_USES,
    ) -> None:
        """See `__new__`."""
        self.keyset = None if key_store is None else keyset
        # The keyring doesn't keep its store alive.
        self._key_store = key_store
        self._uri = getattr(master_key_provider, "uri", None)

    def __enter__(self) -> Self:
        """Returns the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def __repr__(self) -> str:
        """Shows names alone."""
        parts = [f"master {self._uri}"] if self._uri else []
        parts += [f"keyset {self.keyset!r}"] if self.keyset is not None else []
        return f"<EnvelopeEncryption {', '.join(parts)}>"


class _Keks:
    """The calls to the master, for the native half: of threads that need one KEK, one asks."""

    def __init__(self, master: MasterKeyProvider) -> None:
        from strongroom.masters.wrapped import PASSPHRASE, SERVICE, MasterKeyProvider

        if not isinstance(master, MasterKeyProvider):
            raise TypeError(
                "a master needs key_id, uri, wrap and unwrap: use FileMasterKey or "
                f"open_master(uri), not {type(master).__name__}"
            )
        if getattr(master, "mechanism", SERVICE) == PASSPHRASE:
            raise ValueError(
                "a passphrase can't be the master of envelopes: encrypt files with passphrase=, "
                "or use it as the master of a key store"
            )
        self._master = master
        self._waiting = _Waiting()

    def make(self, cipher: EnvelopeEncryption) -> tuple[_native.MemoryLockedKey, bytes]:
        """Returns the KEK to write under and its wrapping, from the cache or new."""
        with self._waiting.alone(b"writing"):
            found = cipher._writing()
            if found is None:
                from strongroom.masters.wrapped import say, wrap_with

                key = _native.MemoryLockedKey.generate()
                found = key, wrap_with(self._master, key)
                say("key.wrapped", self._master, found[1], key.key_id)
                cipher._write_under(*found)
            return found

    def unwrap(
        self, cipher: EnvelopeEncryption, data: bytes, kek_id: str, entry: bytes
    ) -> _native.MemoryLockedKey | None:
        """Returns the KEK of a slot, from the cache or unwrapped; None if another master has it."""
        from strongroom.masters.wrapped import parse, say, unwrap_with, wrapped_by

        mechanism, wrapping_id, _ = parse(data)
        master = wrapped_by(self._master, mechanism, wrapping_id)
        if master is None:
            return None
        with self._waiting.alone(entry):
            key = cipher._opened(entry)
            if key is None:
                key = unwrap_with(master, data, kek_id)
                say("key.unwrapped", master, data, kek_id)
                cipher._keep(key, data)
            return key


class _Waiting:
    """A lock for each name that is in use. A forked child has new ones."""

    def __init__(self) -> None:
        self._locks = _Locks()

    @contextmanager
    def alone(self, name: bytes) -> Iterator[None]:
        locks = self._locks
        if locks.process != _native.process_generation():
            # A thread that the child lacks may have held them. Each caller gives back to those
            # that it took from: two threads of a child may come here at once.
            locks = self._locks = _Locks()
        with locks.all:
            lock, users = locks.named.get(name, (threading.Lock(), 0))
            locks.named[name] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with locks.all:
                lock, users = locks.named[name]
                if users == 1:
                    del locks.named[name]
                else:
                    locks.named[name] = lock, users - 1


class _Locks:
    """The locks of one process, each with how many threads have it or wait for it."""

    def __init__(self) -> None:
        self.process = _native.process_generation()
        self.all = threading.Lock()
        self.named: dict[bytes, tuple[threading.Lock, int]] = {}
