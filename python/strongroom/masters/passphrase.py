"""A master key made from a passphrase by Argon2id (RFC 9106). Mechanism 05 of kind 04."""

from __future__ import annotations

import os
import threading
import unicodedata
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from strongroom import _native
from strongroom.errors import DecryptionError, LimitError, MasterKeyError
from strongroom.masters import wrapped

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    from typing_extensions import Buffer

__all__ = ["Cost", "PassphraseMasterKey", "passphrase_bytes"]

SALT_LENGTH = 16
# RFC 9106's second choice, and the least that is written.
MEMORY_KIB = 65_536
PASSES = 3
LANES = 4
# The most that is read: 1 GiB, 16 passes, and 4 GiB filled in all.
MAX_MEMORY_KIB = 2**20
MAX_PASSES = 16
MAX_LANES = 16
MAX_WORK = 2**22
MAX_PASSPHRASE = 4096


class Cost(NamedTuple):
    """What Argon2id is run with: the `clear` of a passphrase slot."""

    memory_kib: int
    passes: int
    lanes: int
    salt: bytes

    @classmethod
    def parse(cls, clear: bytes) -> Cost:
        """Read `memory [4] | passes [4] | lanes [1] | salt [16]`.

        Raises:
            LimitError: It costs more than the format allows, or makes no sense.
        """
        memory_kib = int.from_bytes(clear[:4], "big")
        passes = int.from_bytes(clear[4:8], "big")
        cost = cls(memory_kib, passes, clear[8], bytes(clear[9 : wrapped.CLEAR_LENGTH]))
        cost.check()
        return cost

    def check(self) -> None:
        """Look that the cost is within the format's limits, before anything is hashed.

        Raises:
            LimitError: It isn't.
        """
        if (
            not 1 <= self.lanes <= MAX_LANES
            or not 1 <= self.passes <= MAX_PASSES
            or not 8 * self.lanes <= self.memory_kib <= MAX_MEMORY_KIB
            or self.memory_kib * self.passes > MAX_WORK
        ):
            raise LimitError(
                f"a passphrase may cost at most {MAX_MEMORY_KIB} KiB, {MAX_PASSES} passes, "
                f"{MAX_LANES} lanes and {MAX_WORK} KiB times passes; this one names "
                f"{self.memory_kib} KiB, {self.passes} passes, {self.lanes} lanes"
            )

    @property
    def clear(self) -> bytes:
        """The 25 bytes of the format."""
        return (
            self.memory_kib.to_bytes(4, "big")
            + self.passes.to_bytes(4, "big")
            + bytes([self.lanes])
            + self.salt
        )


def passphrase_bytes(passphrase: str | Buffer) -> bytearray:
    """Return a passphrase's bytes, for the caller to wipe: text is NFC, then UTF-8.

    Raises:
        TypeError: It is neither text nor a buffer.
        ValueError: It is empty or longer than 4,096 bytes, or the text isn't valid Unicode.
    """
    if isinstance(passphrase, str):
        try:
            data = bytearray(unicodedata.normalize("NFC", passphrase).encode())
        except UnicodeEncodeError:
            # Not chained: the error would show the passphrase.
            raise ValueError("a passphrase must be valid Unicode, or bytes") from None
    else:
        try:
            with memoryview(passphrase) as view:
                data = bytearray(view.cast("B") if view.c_contiguous else b"")
        except TypeError:
            raise TypeError(
                f"a passphrase is str or bytes, not {type(passphrase).__name__}"
            ) from None
    if not 1 <= len(data) <= MAX_PASSPHRASE:
        raise ValueError(f"a passphrase is 1 to {MAX_PASSPHRASE} bytes long")
    return data


class PassphraseMasterKey:
    """A master key that someone remembers.

    Argon2id runs at the first use and once more for each salt that another wrapping was made
    with; the results stay in locked memory until `close`, and so does a copy of the passphrase. A
    `str` of the caller can't be wiped at all: bytes in a bytearray can.

    Attributes:
        uri: `passphrase:`.
    """

    mechanism = wrapped.PASSPHRASE
    uri = "passphrase:"

    def __init__(
        self,
        passphrase: str | Buffer,
        *,
        memory_kib: int = MEMORY_KIB,
        passes: int = PASSES,
        lanes: int = LANES,
    ) -> None:
        """Take a passphrase, and the cost for what it will wrap.

        Args:
            passphrase: 1 to 4,096 bytes; text is NFC, then UTF-8.
            memory_kib: Memory that a guess takes, 65,536 to 1,048,576 KiB.
            passes: Passes over it, 3 to 16; times memory_kib at most 4,194,304.
            lanes: Lanes, 4 to 16.

        Raises:
            LimitError: The cost is above what the format allows. It is a ValueError.
            ValueError: The cost is below what is written, or the passphrase's length is wrong.
        """
        self._own = Cost(memory_kib, passes, lanes, os.urandom(SALT_LENGTH))
        if memory_kib < MEMORY_KIB or passes < PASSES or lanes < LANES:
            raise ValueError(
                f"a passphrase costs at least {MEMORY_KIB} KiB, {PASSES} passes and {LANES} lanes"
            )
        self._own.check()
        data = passphrase_bytes(passphrase)
        try:
            self._passphrase = _native.SecureBuffer(len(data))
            self._passphrase.write(data)
        finally:
            data[:] = bytes(len(data))
        self._lock = threading.Lock()
        self._keys: dict[Cost, _native.MemoryLockedKey] = {}
        self._process = _native.process_generation()

    @property
    def key_id(self) -> str:
        """The id of the key that the next `wrap` uses. It takes a run of Argon2id to know."""
        return self._key(self._own).key_id

    def identify(self, blob: bytes) -> str:
        """Return the id of the key that this passphrase makes with a blob's salt and cost.

        Raises:
            LimitError: The blob names a cost above what the format allows.
        """
        return self._key(_cost_of(blob)).key_id

    def wrap(self, key: _native.MemoryLockedKey | Buffer, context: str) -> bytes:
        """Wrap a key: KC-XAES-256-GCM, bound to the key id and the cost.

        Args:
            key: The key, a handle or 32 bytes.
            context: Its key id, 32 hex digits.

        Returns:
            The blob, 129 bytes.
        """
        if not isinstance(key, _native.MemoryLockedKey):
            # A view, for the constructor wipes a bytearray, and this one is the caller's.
            with memoryview(key) as view, _native.MemoryLockedKey(view.toreadonly()) as handle:
                return self.wrap(handle, context)
        own, clear = self._key(self._own), self._own.clear
        return clear + _native.seal_key(
            own, "passphrase", key, _associated_data(own.key_id, clear, context)
        )

    def unwrap(self, blob: bytes, context: str) -> _native.MemoryLockedKey:
        """Unwrap what `wrap` gave, under the same context.

        Raises:
            DecryptionError: The passphrase is wrong, or the blob or the context was changed.
            LimitError: The blob names a cost above what the format allows.
        """
        cost = _cost_of(blob)
        key = self._key(cost)
        opened = _native.open_key(
            key,
            "passphrase",
            blob[wrapped.CLEAR_LENGTH :],
            _associated_data(key.key_id, cost.clear, context),
        )
        with self._lock:
            if cost[:3] == self._own[:3]:
                # What this instance wraps from now on needs no second run of Argon2id.
                self._own = cost
        return opened

    def close(self) -> None:
        """Wipe the passphrase and all keys made from it. Done twice, it does nothing."""
        if self._process != _native.process_generation():
            # Nothing of it is in a forked child, where the lock may be held by nobody.
            return
        # Under the lock: a run of Argon2id that goes on has a view of the passphrase.
        with self._lock:
            self._passphrase.close()
            keys, self._keys = self._keys, {}
        for key in keys.values():
            key.destroy()

    def _key(self, cost: Cost) -> _native.MemoryLockedKey:
        if self._process != _native.process_generation():
            raise MasterKeyError(
                "this master was opened before the process forked: open it again in the child"
            )
        with self._lock:
            key = self._keys.get(cost)
            if key is None:
                if self._passphrase.closed:
                    raise MasterKeyError("this passphrase was closed")
                key = self._keys[cost] = _derive(self._passphrase, cost)
            return key

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return "<PassphraseMasterKey>"

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError(
            "a PassphraseMasterKey can't be pickled or copied: make it again in the child"
        )


def _cost_of(blob: bytes) -> Cost:
    if len(blob) != wrapped.CLEAR_LENGTH + wrapped.BOX_LENGTH:
        raise DecryptionError
    return Cost.parse(blob[: wrapped.CLEAR_LENGTH])


def _associated_data(wrapping_id: str, clear: bytes, context: str) -> bytes:
    return wrapped.header(wrapped.PASSPHRASE, wrapping_id) + clear + bytes.fromhex(context)


def _argon2id(cost: Cost) -> Argon2id:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    return Argon2id(
        salt=cost.salt,
        length=32,
        iterations=cost.passes,
        lanes=cost.lanes,
        memory_cost=cost.memory_kib,
    )


def _derive(passphrase: _native.SecureBuffer, cost: Cost) -> _native.MemoryLockedKey:
    out = bytearray(32)
    try:
        # Any buffer will do, whatever the stub says; bytes would leave a copy.
        with passphrase.view() as view:
            _argon2id(cost).derive_into(view, out)  # type: ignore[arg-type]
        key = _native.MemoryLockedKey(out)
        # OpenSSL has freed a copy of the passphrase without wiping it. The least work on zeros of
        # the same length puts them in its place.
        least = Cost(8 * cost.lanes, 1, cost.lanes, cost.salt)
        _argon2id(least).derive_into(bytes(len(passphrase)), bytearray(32))
        return key
    except MemoryError:
        raise MasterKeyError(
            f"Argon2id needs {cost.memory_kib} KiB of memory, which aren't free", retryable=True
        ) from None
    finally:
        out[:] = bytes(len(out))
