"""Ed25519 keys of a token: `binding.py`'s part for keys that sign, with its way of errors."""

from __future__ import annotations

from typing import Any, Final

from strongroom.hsm import codes
from strongroom.hsm.binding import fault_of, find_keys
from strongroom.hsm.codes import Fault

# After binding, which says what is missing where this package is.
from pkcs11 import Attribute, KeyType, Mechanism, PKCS11Error  # isort: skip

__all__ = ["find_private", "generate", "public_key", "sign"]

# CKA_EC_PARAMS: id-Ed25519 (RFC 8410), and the name that PKCS#11 3.0 has for it, both as DER.
_CURVES: Final = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")
_KEY_LEN: Final = 32
# CKA_EC_POINT is an OCTET STRING or, of some tokens, a BIT STRING without unused bits or nothing
# around the point.
_HEADS: Final = (b"\x04\x20", b"\x03\x21\x00", b"")


def generate(session: Any, key_id: bytes, label: str) -> None:  # noqa: ANN401
    """Make a pair whose private half signs, and never leaves the token.

    Raises:
        Fault: The token refused or failed.
    """
    refused = Fault(codes.MECHANISM_INVALID)
    for curve in _CURVES:
        parameters = session.create_domain_parameters(
            KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: curve}, local=True
        )
        try:
            parameters.generate_keypair(
                id=key_id,
                label=label,
                store=True,
                private_template={
                    Attribute.PRIVATE: True,
                    Attribute.SENSITIVE: True,
                    Attribute.EXTRACTABLE: False,
                    Attribute.SIGN: True,
                },
            )
        except PKCS11Error as error:
            refused = fault_of(error)
            if refused.code in codes.RECOVERABLE:
                break
        else:
            return
    raise refused


def find_private(session: Any, label: str) -> list[tuple[Any, bytes, str | None]]:  # noqa: ANN401
    """List the Ed25519 keys of a label: the private key, its id, and why it must not be used.

    Raises:
        Fault: The module failed.
    """
    found = []
    for key in find_keys(session, label=label, kind="PRIVATE_KEY"):
        try:
            if key[Attribute.KEY_TYPE] != KeyType.EC_EDWARDS:
                continue
            leaves = key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]
            problem = "it can be taken out of the token" if leaves else None
            found.append((key, bytes(key[Attribute.ID] or b""), problem))
        except PKCS11Error as error:
            raise fault_of(error) from None
    return found


def public_key(session: Any, key_id: bytes) -> bytes | None:  # noqa: ANN401
    """Return the 32 bytes of a pair's public half; None where it is not there.

    Raises:
        Fault: The module failed.
    """
    for key in find_keys(session, key_id=key_id, kind="PUBLIC_KEY"):
        try:
            point = bytes(key[Attribute.EC_POINT])
        except PKCS11Error as error:
            raise fault_of(error) from None
        for head in _HEADS:
            if point.startswith(head) and len(point) == len(head) + _KEY_LEN:
                return point[len(head) :]
    return None


def sign(key: Any, message: bytes) -> bytes:  # noqa: ANN401
    """Return the Ed25519 signature of a message, by CKM_EDDSA without parameters.

    Raises:
        Fault: The token refused or failed.
    """
    try:
        signature: bytes = key.sign(message, mechanism=Mechanism.EDDSA)
    except PKCS11Error as error:
        raise fault_of(error) from None
    except AttributeError:
        raise Fault(codes.KEY_FUNCTION_NOT_PERMITTED) from None
    return signature
