"""What a token can and can't do, found by trying it: lists and flags of tokens are often wrong."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from strongroom.errors import HSMError
from strongroom.hsm import binding, codes, keys
from strongroom.hsm.codes import Fault
from strongroom.hsm.direct import NONCE_LEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from strongroom.hsm.lane import Lane

__all__ = ["Check", "run_checks"]


class Check(NamedTuple):
    """One thing that was tried.

    Attributes:
        name: What.
        result: "yes", "no", or "failed": it was refused in a way that is not right.
        detail: What came of it.
    """

    name: str
    result: str
    detail: str


def run_checks(lane: Lane) -> list[Check]:
    """Try what the library needs of a token, with keys that are destroyed again.

    Raises:
        Fault: The token is out of reach.
    """
    suffix = secrets.token_hex(6)
    made: list[Any] = []
    try:
        return [
            _try("random numbers", lambda: _random(lane)),
            *_data_key(lane, f"strongroom-test-{suffix}", made),
            *_wrapping_key(lane, f"{keys.MASTER_PREFIX}strongroom-test-{suffix}", made),
        ]
    finally:
        for key in made:
            binding.destroy(key)


def _try(name: str, work: Callable[[], str]) -> Check:
    try:
        return Check(name, "yes", work())
    except Fault as fault:
        if fault.code in codes.RECOVERABLE - {codes.GENERAL_ERROR, codes.FUNCTION_FAILED}:
            raise
        return Check(name, "no", str(codes.hsm_error(fault, "the token")).partition(": ")[2])
    except HSMError as error:
        return Check(name, "failed", str(error))


def _random(lane: Lane) -> str:
    one, two = (binding.random_bytes(lane.session, 32) for _ in range(2))
    if one == two or not any(one):
        raise HSMError("the generator repeats itself: the system's is used")
    return "nonces come from the token's generator"


def _data_key(lane: Lane, label: str, made: list[Any]) -> list[Check]:
    key_id = keys.new_id(1)

    def make() -> str:
        made.append(keys.make_key(lane, key_id, label, wrapping=False))
        return "sensitive, not extractable, made in the token"

    def allow() -> str:
        binding.allow(made[0], wrapping=False, allowed=True)
        if not lane.key(key_id.hex())[1].active:
            raise HSMError("CKA_ENCRYPT stays false when it is set")
        return "CKA_ENCRYPT can be set: rotation works"

    sealed: list[bytes] = []

    def seal(plaintext: bytes, bound: bytes) -> bytes:
        return lane.seal(lane.key(key_id.hex())[2], plaintext, bound)

    def opened(data: bytes, bound: bytes) -> bytes | None:
        return lane.open(key_id.hex(), data[:NONCE_LEN], data[NONCE_LEN:], bound, bytes)

    def encrypt() -> str:
        sealed.append(seal(b"plaintext", b"ad"))
        if opened(sealed[0], b"ad") != b"plaintext":
            raise HSMError("what was encrypted decrypts to something else")
        own = "the token makes the nonces" if lane.nonce_changed else "with nonces that we give"
        return f"AES-256-GCM, {own}"

    def tampered() -> str:
        if opened(sealed[0][:-1] + bytes([sealed[0][-1] ^ 1]), b"ad") is not None:
            raise HSMError("a changed ciphertext decrypts: do not use this token")
        return "a changed ciphertext is refused"

    def longest() -> str:
        if opened(seal(bytes(65_536), bytes(65_535)), bytes(65_535)) != bytes(65_536):
            raise HSMError("what was encrypted decrypts to something else")
        return "65,536 bytes in one call"

    checks = [_try("key for data", make)]
    for name, work in (
        ("rotation", allow),
        ("encryption", encrypt),
        ("tampering", tampered),
        ("64 KiB", longest),
    ):
        if checks[-1].result == "yes":
            checks.append(_try(name, work))
    return checks


def _wrapping_key(lane: Lane, label: str, made: list[Any]) -> list[Check]:
    """Only a token without AES-GCM needs this; it is shown for whoever plans to change tokens."""
    key_id = keys.new_id(1)

    def make() -> str:
        made.append(keys.make_key(lane, key_id, label, wrapping=True))
        binding.allow(made[-1], wrapping=True, allowed=True)
        return "a key that only wraps can be made"

    def way(name: str) -> Callable[[], str]:
        def work() -> str:
            key = lane.key(key_id.hex())[0]
            value = os.urandom(32)
            blob = binding.wrap_value(lane.session, key, value, name)
            if binding.unwrap_value(key, blob, name) != value:
                raise HSMError("what was wrapped unwraps to something else")
            kind = {40: "RFC 5649" if name != "AES_KEY_WRAP" else "RFC 3394"}.get(len(blob))
            return f"{kind or 'another algorithm: not used'}, {len(blob)} bytes"

        return work

    checks = [_try("key for wrapping", make)]
    if checks[-1].result == "yes":
        for name in (*binding.KWP_NAMES, *binding.KW_NAMES):
            checks.append(_try(name, way(name)))
    return checks
