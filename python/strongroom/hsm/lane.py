"""A session and what belongs to it: key handles, and the memory of AES-GCM's parameters."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from strongroom.errors import HSMError, KeyNotFoundError
from strongroom.hsm import codes
from strongroom.hsm.codes import Fault
from strongroom.hsm.module import busy

if TYPE_CHECKING:
    from strongroom.hsm.binding import Slot
    from strongroom.hsm.keys import TokenKey

__all__ = ["Lane"]

# CK_GCM_PARAMS of PKCS#11 2.40 (with ulIvBits, as the header has it, if not the text): pIv,
# ulIvLen, ulIvBits, pAAD, ulAADLen, ulTagBits.
_GCM_PARAMS = struct.Struct("@PLLPLL")
NONCE_LEN = 12
TAG_LEN = 16
# The 21 bytes of a wrapped key and a key id are less than the 20 of a message and a caller's data.
_MOST_ASSOCIATED_DATA = 20 + 65_535


class Lane:
    """What one thread at a time uses.

    Attributes:
        lock: Held by who uses it.
        session: The session, or None.
        epoch: When it was opened, as the token counts.
        slot: The slot that it is with.
        keys: Objects of the session with what is known of them, by key id.
        allowed: The purpose, the key that a caller named and the one that a message did, where the
            one was found to be a version of the other, and fit to be used for that.
        inside: Whether an operation is at work, where the lock is re-entrant.
    """

    def __init__(self, lock: Any) -> None:  # noqa: ANN401 - Lock or RLock
        """Take the lock that stands for it."""
        self.lock: Any = lock
        self.session: Any = None
        self.epoch: object = None
        self.slot: Slot | None = None
        self.keys: dict[str, tuple[Any, TokenKey]] = {}
        self.allowed: set[tuple[str, str, str]] = set()
        self.inside = False
        self._encrypt: Callable[[Any, bytes, bytes], bytes]
        self._decrypt: Callable[[Any, bytes, bytes], bytes]
        self._random: Callable[[Any, int], bytes]
        self._has_rng = False
        self._given = b""
        # A token that makes its own nonce writes it here, so it must be memory of ours that stays
        # where it is: in the `bytes` that python-pkcs11 takes, it would change a constant.
        self._nonce = bytearray(NONCE_LEN)
        self._nonce_at = ctypes.addressof((ctypes.c_char * NONCE_LEN).from_buffer(self._nonce))
        self._data = bytearray(_MOST_ASSOCIATED_DATA)
        self._data_at = ctypes.addressof(
            (ctypes.c_char * _MOST_ASSOCIATED_DATA).from_buffer(self._data)
        )

    def refuse(self) -> NoReturn:
        """Refuse a second operation: what it would write over may be a nonce in use.

        Raises:
            HSMError: This thread is in one already, which a signal handler or a finaliser
                interrupted.
        """
        raise HSMError(
            "the token is in use by the call that this one interrupts: don't use it from a "
            "signal handler or a finaliser"
        )

    @contextmanager
    def locked(self, path: str, timeout: float) -> Iterator[None]:
        """Hold the lock of a pool's lane.

        Raises:
            HSMError: It was not to be had in time.
        """
        if not self.lock.acquire(timeout=timeout):
            raise busy(path, timeout)
        try:
            yield
        finally:
            self.lock.release()

    def use(self, session: Any, epoch: object, slot: Slot) -> None:  # noqa: ANN401
        """Take a session that was opened."""
        from strongroom.hsm import binding

        self.forget()
        # An import statement in each call would cost more than the rest of it.
        self._encrypt, self._decrypt = binding.gcm_encrypt, binding.gcm_decrypt
        self._random = binding.random_bytes
        self.session, self.epoch, self.slot = session, epoch, slot
        self._has_rng = slot.has_rng

    def forget(self) -> None:
        """Forget the session and all that belongs to it."""
        self.session = self.epoch = None
        self.keys.clear()
        self.allowed.clear()

    def drop(self, key_id: str) -> None:
        """Look a key up again when it is used next."""
        self.keys.pop(key_id, None)
        self.allowed.clear()

    def key(self, key_id: str) -> tuple[Any, TokenKey]:
        """Return a key's object in this session and what it is, looked up by CKA_ID once.

        Raises:
            KeyNotFoundError: The token has no such key.
            HSMError: It has two, or it is one that must not be used.
            Fault: The module failed.
        """
        found = self.keys.get(key_id)
        if found is None:
            found = self.keys[key_id] = self.look_up(key_id)
        return found

    def find(self, *, key_id: bytes | None = None, label: str | None = None) -> list[Any]:
        """List the secret keys with this CKA_ID, or label, or all of them.

        Raises:
            Fault: The module failed, or the token is gone.
        """
        from strongroom.hsm import binding

        found = binding.find_keys(self.session, key_id=key_id, label=label)
        if not found and self.slot is not None:
            # A SoftHSM whose files are out of reach has no keys, and says so of each.
            binding.check_token(self.slot)
        return found

    def look_up(self, key_id: str) -> tuple[Any, TokenKey]:
        """Return a key as `key` does, as the token has it now."""
        from strongroom.hsm.keys import read_key

        objects = self.find(key_id=bytes.fromhex(key_id))
        if not objects:
            raise KeyNotFoundError(
                f"the token has no key {key_id}: it may be destroyed, or of another token",
                key_id=key_id,
            )
        if len(objects) > 1:
            raise HSMError(
                f"the token has {len(objects)} keys of the id {key_id}: remove the ones "
                "that don't belong there with the token's own tool"
            )
        return objects[0], read_key(objects[0])

    def seal(self, key: Any, plaintext: bytes, bound: bytes) -> tuple[bytes, bytes]:  # noqa: ANN401
        """AES-256-GCM in the token: the nonce that it used, and ciphertext and tag.

        Raises:
            Fault: The token refused or failed.
        """
        self._nonce[:] = self._given = self._draw()
        sealed = self._encrypt(key, plaintext, self._parameters(bound))
        if len(sealed) != len(plaintext) + TAG_LEN:
            raise HSMError("the token's AES-GCM gave another number of bytes than it takes")
        return bytes(self._nonce), sealed

    @property
    def nonce_changed(self) -> bool:
        """Whether the token put a nonce of its own in the place of the one that it was given."""
        return bytes(self._nonce) != self._given

    def open(self, key_id: str, nonce: bytes, sealed: bytes, bound: bytes) -> bytes | None:
        """The inverse of `seal`; None where it does not authenticate.

        Raises:
            KeyNotFoundError: The key is not there any more.
            Fault: The token refused or failed.
        """
        self._nonce[:] = nonce
        try:
            return self._decrypt(self.key(key_id)[0], sealed, self._parameters(bound))
        except Fault as fault:
            if fault.code not in codes.NOT_AUTHENTIC:
                raise
            code = fault.code
        if code == codes.GENERAL_ERROR:
            # SoftHSM says so of a wrong tag, kryoptic of a key that another process destroyed, and
            # any token of its own troubles: then it fails here too.
            self.drop(key_id)
            self.key(key_id)
        return None

    def _parameters(self, bound: bytes) -> bytes:
        length = len(bound)
        self._data[:length] = bound
        return _GCM_PARAMS.pack(
            self._nonce_at, NONCE_LEN, 8 * NONCE_LEN, self._data_at, length, 8 * TAG_LEN
        )

    def _draw(self) -> bytes:
        """Draw a nonce: from the token's generator, else from the system's.

        One at a time. What lay in a buffer would be used twice by a machine that was restored
        twice from one snapshot; the generator of a device is outside of that.
        """
        if self._has_rng:
            try:
                drawn = self._random(self.session, NONCE_LEN)
                # A generator that gives the same bytes again would be the end of GCM.
                if len(drawn) == NONCE_LEN and drawn != self._given and any(drawn):
                    return drawn
            except Fault as fault:
                if fault.code not in (codes.RANDOM_NO_RNG, codes.FUNCTION_NOT_SUPPORTED):
                    raise
            self._has_rng = False  # The flag was wrong.
        return os.urandom(NONCE_LEN)
