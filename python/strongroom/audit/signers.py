"""Who signs a log's checkpoints, where it is not the key beside the log."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, Self

from strongroom import _native
from strongroom.errors import KeyStateError

if TYPE_CHECKING:
    from strongroom.hsm import HSMKeyManager
    from strongroom.keys import KeyStore

__all__ = ["HSMSigner", "KeysetSigner", "Signer"]


class Signer(Protocol):
    """An Ed25519 key that signs: `KeysetSigner`, `HSMSigner`, or a service's.

    One may have a method `hold()` that returns a context manager: each append enters it before it
    takes the log's lock.

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


class HSMSigner:
    """Signs with an Ed25519 key (CKM_EDDSA) that was made in a token and never leaves it.

    A log keeps the key that it was made with. Each signature is verified before it is used, so a
    token that fails makes no log that nobody can verify.

    Args:
        hsm: The token, open for as long as the log.
        label: The key's label.

    Raises:
        KeyNotFoundError: The token has no signing key of that label: `HSMSigner.generate` makes it.
        HSMError: It has two, or one that can be taken out of it; or it is out of reach.

    Example:
        >>> with HSMKeyManager(token_label="app", pin=read_pin) as hsm:
        ...     signer = HSMSigner.generate(hsm, "audit")
        ...     log = CryptoAuditLogger.open("audit.log", signer=signer)
    """

    def __init__(self, hsm: HSMKeyManager, label: str = "audit") -> None:
        from strongroom.hsm import signing

        self._hsm = hsm
        self._key = hsm._run(lambda lane: signing.find(lane, label))

    @classmethod
    def generate(cls, hsm: HSMKeyManager, label: str = "audit") -> Self:
        """Make the key in the token, and return its signer.

        Raises:
            HSMError: The token has no Ed25519, or a signing key of that label; or it failed.
            AuditError: An audit log is on, and could not record it.
        """
        from strongroom.hsm import keys, signing
        from strongroom.hsm.said import Said

        keys.check_label(label)
        key_id = keys.new_id(1)
        with Said(
            "hsm.key.generated",
            token=hsm.token_label,
            purpose="audit",
            algorithm="Ed25519",
            key_id=key_id.hex(),
        ) as said:
            hsm._run(lambda lane: signing.make(lane, key_id, label, said), reports=True)
        return cls(hsm, label)

    @property
    def public_key(self) -> bytes:
        """The public key's 32 bytes."""
        return self._key.public_key

    def hold(self) -> AbstractContextManager[None]:
        """Take the module's lock, as an operation of the token that reports to the log has it.

        Else that operation would wait for the log, and an append by another thread for the token.

        Raises:
            HSMError: Other threads kept it busy for too long.
        """
        return self._hsm._held()

    def sign(self, message: bytes, /) -> bytes:
        """Return the signature's 64 bytes.

        Raises:
            HSMError: The token is out of reach, or its signature does not verify.
            KeyNotFoundError: The key is not there any more.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        from strongroom.errors import HSMError
        from strongroom.hsm import signing

        # What is sealed may be an event of an operation that this thread does with the same token.
        signature = self._hsm._run_aside(lambda lane: signing.sign(lane, self._key, message))
        try:
            Ed25519PublicKey.from_public_bytes(self._key.public_key).verify(signature, message)
        except InvalidSignature:
            raise HSMError("the token's signature does not verify: do not use this key") from None
        return signature
