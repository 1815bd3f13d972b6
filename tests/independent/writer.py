"""Writes messages of kinds 01 to 04. Every random value is a parameter, with no default.

Limits of the writer's side (2^45 boxes a key, 2^32 messages a token's key, one message a DEK) are
the caller's to keep here: this writer serves tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap, aes_key_wrap_with_padding

from . import constructions as c
from .errors import LimitError

RECORD_PREFIX = bytes.fromhex("53520201")
ENVELOPE_PREFIX = bytes.fromhex("53520202")
TOKEN_PREFIX = bytes.fromhex("53520203")
WRAPPED_PREFIX = bytes.fromhex("53520204")


def write_record(
    key: bytes, plaintext: bytes, associated_data: bytes = b"", *, nonce: bytes
) -> bytes:
    """A record of kind 01; `nonce` is 24 bytes."""
    c.check_associated_data(associated_data)
    if len(plaintext) > 2**30:
        raise LimitError("a record holds at most 2^30 bytes")
    header = RECORD_PREFIX + c.key_id(key)
    return header + c.box_seal(c.derive(key, "record"), nonce, plaintext, header + associated_data)


# --- Kind 02 -------------------------------------------------------------------------------------


class Target(NamedTuple):
    """What a slot is bound to: the DEK, and the message by its salt and commitment."""

    dek: bytes
    salt: bytes
    commitment: bytes


# A slot is made for a target: its kind and its body come back.
SlotMaker = Callable[[Target], tuple[int, bytes]]


def _body(target: Target, kind: int, clear: bytes, wrap_key: bytes, nonce: bytes) -> bytes:
    bound = ENVELOPE_PREFIX + bytes([kind]) + clear + target.salt + target.commitment
    return clear + c.box_seal(wrap_key, nonce, target.dek, bound)


def raw_slot(kind: int, body: bytes) -> SlotMaker:
    """Any kind and any body, so garbage too."""
    return lambda _: (kind, body)


def empty_slot(length: int) -> SlotMaker:
    """Kind 00: zeros."""
    return raw_slot(0, bytes(length))


def keyset_slot(key: bytes, *, nonce: bytes) -> SlotMaker:
    """Kind 01: the DEK under a key of a keyset."""
    return lambda target: (
        1,
        _body(target, 1, c.key_id(key), c.derive(key, "wrap"), nonce),
    )


def passphrase_clear(cost: c.Cost, salt: bytes) -> bytes:
    """Memory [4] | passes [4] | lanes [1] | salt [16]."""
    return cost.memory.to_bytes(4) + cost.passes.to_bytes(4) + cost.lanes.to_bytes(1) + salt


def passphrase_slot(
    passphrase: str | bytes, cost: c.Cost, *, salt: bytes, nonce: bytes
) -> SlotMaker:
    """Kind 02: the DEK under a passphrase."""

    def make(target: Target) -> tuple[int, bytes]:
        wrap_key = c.derive(c.argon2id(passphrase, cost, salt), "passphrase")
        return 2, _body(target, 2, passphrase_clear(cost, salt), wrap_key, nonce)

    return make


def master_slot(kek: bytes, wrapped_kek: bytes, *, nonce: bytes) -> SlotMaker:
    """Kind 03: the DEK under a KEK that travels with it, wrapped by a master (kind 04)."""
    clear = c.key_id(kek) + len(wrapped_kek).to_bytes(2) + wrapped_kek
    return lambda target: (3, _body(target, 3, clear, c.derive(kek, "wrap"), nonce))


def write_envelope(
    plaintext: bytes,
    slots: Sequence[SlotMaker],
    associated_data: bytes = b"",
    *,
    dek: bytes,
    salt: bytes,
) -> bytes:
    """An envelope of kind 02; `dek` is 32 bytes for this message alone, `salt` is 24."""
    c.check_associated_data(associated_data)
    if not 1 <= len(slots) <= 16:
        raise LimitError("an envelope has 1 to 16 slots")
    keys = c.stream_keys(dek, salt, ENVELOPE_PREFIX + associated_data)
    target = Target(dek, salt, keys.commitment)
    parts = [ENVELOPE_PREFIX, bytes([len(slots)])]
    for make in slots:
        kind, body = make(target)
        if len(body) > 4096:
            raise LimitError("a slot's body is at most 4,096 bytes")
        parts.append(bytes([kind]) + len(body).to_bytes(2) + body)
    parts += [salt, keys.commitment, c.seal_chunks(keys, plaintext)]
    return b"".join(parts)


# --- Kind 03 -------------------------------------------------------------------------------------


def write_token_message(
    aes_key: bytes, cka_id: bytes, plaintext: bytes, associated_data: bytes = b"", *, nonce: bytes
) -> bytes:
    """A message of kind 03, as a token would make it; `nonce` is 12 bytes."""
    c.check_associated_data(associated_data)
    if len(plaintext) > 2**16:
        raise LimitError("a token's message holds at most 65,536 bytes")
    header = TOKEN_PREFIX + cka_id
    return header + nonce + AESGCM(aes_key).encrypt(nonce, plaintext, header + associated_data)


# --- Kind 04 -------------------------------------------------------------------------------------


def wrapped_header(mechanism: int, wrapping_id: bytes) -> bytes:
    """The 21 bytes before the blob."""
    return WRAPPED_PREFIX + bytes([mechanism]) + wrapping_id


def wrap_software(master: bytes, key: bytes, *, nonce: bytes) -> bytes:
    """Mechanism 00."""
    header = wrapped_header(0, c.key_id(master))
    return header + c.box_seal(c.derive(master, "master"), nonce, key, header + c.key_id(key))


def wrap_token_gcm(aes_key: bytes, cka_id: bytes, key: bytes, *, nonce: bytes) -> bytes:
    """Mechanism 01."""
    header = wrapped_header(1, cka_id)
    return header + nonce + AESGCM(aes_key).encrypt(nonce, key, header + c.key_id(key))


def wrap_token_kwp(aes_key: bytes, cka_id: bytes, key: bytes) -> bytes:
    """Mechanism 02: RFC 5649."""
    return wrapped_header(2, cka_id) + aes_key_wrap_with_padding(aes_key, key)


def wrap_token_kw(aes_key: bytes, cka_id: bytes, key: bytes) -> bytes:
    """Mechanism 03: RFC 3394."""
    return wrapped_header(3, cka_id) + aes_key_wrap(aes_key, key)


def wrap_service(full_name: str, call: Callable[[bytes, str], bytes], key: bytes) -> bytes:
    """Mechanism 04; `call` gets the key and the context, and gives the blob."""
    blob = call(key, c.key_id(key).hex())
    if not 1 <= len(blob) <= 2048:
        raise LimitError("a service's blob is 1 to 2,048 bytes")
    return wrapped_header(4, c.service_key_id(full_name)) + blob


def wrap_passphrase(
    passphrase: str | bytes, cost: c.Cost, key: bytes, *, salt: bytes, nonce: bytes
) -> bytes:
    """Mechanism 05."""
    output = c.argon2id(passphrase, cost, salt)
    header = wrapped_header(5, c.key_id(output))
    clear = passphrase_clear(cost, salt)
    bound = header + clear + c.key_id(key)
    return header + clear + c.box_seal(c.derive(output, "passphrase"), nonce, key, bound)
