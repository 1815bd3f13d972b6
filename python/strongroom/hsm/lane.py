"""A session and what belongs to it: key handles, and the memory of AES-GCM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from strongroom.errors import HSMError, KeyNotFoundError
from strongroom.hsm import codes
from strongroom.hsm.codes import Fault
from strongroom.hsm.direct import Gcm, Handle
from strongroom.hsm.module import busy

if TYPE_CHECKING:
    from strongroom.hsm.binding import Slot
    from strongroom.hsm.direct import Functions
    from strongroom.hsm.keys import TokenKey

__all__ = ["Lane"]

T = TypeVar("T")


class Lane:
    """What one thread at a time uses.

    Attributes:
        lock: Held by who uses it.
        session: The session, or None.
        epoch: When it was opened, as the token counts.
        slot: The slot that it is with.
        keys: Objects of the session, what is known of them, and their handles, by key id.
        allowed: By a purpose, the key that a caller named and the id in a message: that id as text,
            where the one was found to be a version of the other, and fit to be used for that.
        inside: Whether an operation is at work, where the lock is re-entrant.
    """

    def __init__(self, lock: Any) -> None:  # noqa: ANN401 - Lock or RLock
        """Take the lock that stands for it."""
        self.lock: Any = lock
        self.session: Any = None
        self.epoch: object = None
        self.slot: Slot | None = None
        self.keys: dict[str, tuple[Any, TokenKey, Handle]] = {}
        self.allowed: dict[tuple[str, str, bytes], str] = {}
        self.inside = False
        self._gcm = Gcm()

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

    def use(self, session: Any, epoch: object, slot: Slot, functions: Functions) -> None:  # noqa: ANN401
        """Take a session that was opened."""
        self.forget()
        self.session, self.epoch, self.slot = session, epoch, slot
        self._gcm.use(functions, session.handle, has_rng=slot.has_rng)

    def forget(self) -> None:
        """Forget the session and all that belongs to it."""
        self.session = self.epoch = None
        self.keys.clear()
        self.allowed.clear()

    def drop(self, key_id: str) -> None:
        """Look a key up again when it is used next."""
        self.keys.pop(key_id, None)
        self.allowed.clear()

    def key(self, key_id: str) -> tuple[Any, TokenKey, Handle]:
        """Return a key's object in this session, what it is, and its handle.

        It is looked up by CKA_ID once.

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

    def look_up(self, key_id: str) -> tuple[Any, TokenKey, Handle]:
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
        return objects[0], read_key(objects[0]), Handle(objects[0].handle)

    def seal(self, key: Handle, plaintext: bytes, bound: bytes) -> bytes:
        """AES-256-GCM in the token with a key by its handle: nonce, ciphertext and tag.

        Raises:
            Fault: The token refused or failed.
        """
        return self._gcm.seal(key, plaintext, bound)

    def seal_key(self, key: Handle, value: bytearray, bound: bytes) -> bytes:
        """As `seal`, of a key's 32 bytes, of which no copy stays."""
        return self._gcm.seal_key(key, value, bound)

    @property
    def nonce_changed(self) -> bool:
        """Whether the token put a nonce of its own in the place of the one that it was given."""
        return self._gcm.nonce_changed

    def open(
        self,
        key_id: str,
        nonce: bytes,
        sealed: bytes,
        bound: bytes,
        take: Callable[[memoryview], T],
    ) -> T | None:
        """The inverse of `seal` and `seal_key`: what `take` makes of a view of the plaintext.

        Returns:
            None where it does not authenticate.

        Raises:
            KeyNotFoundError: The key is not there any more.
            Fault: The token refused or failed.
        """
        handle = (self.keys.get(key_id) or self.key(key_id))[2]
        try:
            return self._gcm.open(handle, nonce, sealed, bound, take)
        except Fault as fault:
            failed = fault
        self._not_opened(key_id, failed)
        return None

    def _not_opened(self, key_id: str, fault: Fault) -> None:
        """Return if it does not authenticate, and raise what else it is."""
        if fault.code not in codes.NOT_AUTHENTIC:
            raise fault
        if fault.code == codes.GENERAL_ERROR:
            # SoftHSM says so of a wrong tag, kryoptic of a key that another process destroyed, and
            # any token of its own troubles: then it fails here too.
            self.drop(key_id)
            self.key(key_id)
