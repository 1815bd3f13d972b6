"""Keys of a token that sign: Ed25519, for the checkpoints of an audit log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from strongroom.errors import HSMError, KeyNotFoundError
from strongroom.hsm import codes, keys
from strongroom.hsm.codes import Fault, hsm_error

if TYPE_CHECKING:
    from strongroom.hsm.lane import Lane

__all__ = ["SigningKey", "find", "make", "sign"]


class SigningKey(NamedTuple):
    """A pair in a token.

    Attributes:
        id: Its id, CKA_ID as hex digits.
        label: Its label.
        public_key: The public half, 32 bytes (RFC 8032).
    """

    id: str
    label: str
    public_key: bytes


def make(lane: Lane, key_id: bytes, label: str, before: Callable[[], None]) -> SigningKey:
    """Make the pair of a label, or find it where the answer to that was lost.

    Args:
        lane: The session.
        key_id: The id that it gets.
        label: Its label.
        before: Called before it is made.

    Raises:
        HSMError: The label has another one, or the token has no Ed25519.
        Fault: The module failed.
    """
    from strongroom.hsm import ed25519

    found = ed25519.find_private(lane.session, label)
    if any(there != key_id for _, there, _ in found):
        raise HSMError(f"there is a signing key with the label {label!r}: use it, or another label")
    if not found:
        before()
        try:
            ed25519.generate(lane.session, key_id, label)
        except Fault as fault:
            if fault.code in codes.RECOVERABLE:
                raise
            raise HSMError(
                "the token makes no Ed25519 keys (CKM_EC_EDWARDS_KEY_PAIR_GEN): sign with a key "
                f"of a keyset instead; {hsm_error(fault, 'it said')}",
                code=fault.code,
            ) from None
    return find(lane, label)


def find(lane: Lane, label: str) -> SigningKey:
    """Return the pair of a label.

    Raises:
        KeyNotFoundError: There is none, or its public half is missing.
        HSMError: There are two, or it can be taken out of the token.
        Fault: The module failed.
    """
    from strongroom.hsm import ed25519

    _, key_id = _private(lane, label)
    public = ed25519.public_key(lane.session, key_id)
    if public is None:
        raise KeyNotFoundError(f"the token has no public key beside the signing key {label!r}")
    return SigningKey(key_id.hex(), label, public)


def sign(lane: Lane, key: SigningKey, message: bytes) -> bytes:
    """Return a signature.

    Raises:
        KeyNotFoundError, HSMError, Fault: As `find`.
    """
    from strongroom.hsm import ed25519

    private, key_id = _private(lane, key.label)
    if key_id.hex() != key.id:
        raise KeyNotFoundError(
            f"the signing key {key.label!r} of the token is another than before", key_id=key.id
        )
    return ed25519.sign(private, message)


def _private(lane: Lane, label: str) -> tuple[object, bytes]:
    from strongroom.hsm import binding, ed25519

    keys.check_label(label)
    found = ed25519.find_private(lane.session, label)
    if not found and lane.slot is not None:
        # A SoftHSM whose files are out of reach has no keys, and says so of each.
        binding.check_token(lane.slot)
    if not found:
        raise KeyNotFoundError(f"the token has no signing key with the label {label!r}")
    if len(found) > 1:
        raise HSMError(f"the token has {len(found)} signing keys with the label {label!r}")
    private, key_id, problem = found[0]
    if problem is not None:
        raise HSMError(f"the signing key {label!r} of the token is refused: {problem}")
    return private, key_id
