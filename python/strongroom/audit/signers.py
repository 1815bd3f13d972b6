"""Who signs a log's checkpoints, where it is not the key beside the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from strongroom import _native
from strongroom.errors import KeyStateError

if TYPE_CHECKING:
    from strongroom.keys import KeyStore

__all__ = ["KeysetSigner", "Signer"]


class Signer(Protocol):
    """An Ed25519 key that signs: an HSM's, a service's, or `KeysetSigner`.

    Attributes:
        public_key: Its 32 bytes (RFC 8032).
    """

    @property
    def public_key(self) -> bytes:
        """The public key's 32 bytes."""

    def sign(self, message: bytes, /) -> bytes:
        """Return the signature's 64 bytes."""


class KeysetSigner:
    """Signs with a key of a keyset whose purpose is "audit".

    Its Ed25519 seed is derived from the key each time, and lies in no file. A log keeps the key
    that it was made with: after a rotation of the keyset give the old key's id, or begin a new log.

    Args:
        store: The key store, open for as long as the log.
        keyset: The keyset's name.
        key_id: The key; None for the primary.

    Raises:
        KeyNotFoundError: There is no such keyset or key.
        KeyStateError: The keyset has another purpose, or the key's state keeps it from signing.
    """

    def __init__(
        self, store: KeyStore, keyset: str = "audit", *, key_id: str | None = None
    ) -> None:
        whole = store._current(keyset)
        if whole.head.purpose != "audit":
            raise KeyStateError(
                f'keyset {keyset} has the purpose "{whole.head.purpose}", and a log takes "audit"'
            )
        wanted = key_id or whole.head.primary_id
        if not wanted:
            raise KeyStateError(f"keyset {keyset} has no primary key")
        row = whole.key(wanted)
        if row.state not in ("active", "deactivated"):
            raise KeyStateError(f"key {wanted} is {row.state}", key_id=wanted, state=row.state)
        self._key = store._material.unwrap(whole)[wanted]
        self._public_key = _native.audit_public_key(self._key)

    @property
    def public_key(self) -> bytes:
        """The public key's 32 bytes."""
        return self._public_key

    def sign(self, message: bytes, /) -> bytes:
        """Return the signature's 64 bytes."""
        return _native.audit_sign(self._key, message)
