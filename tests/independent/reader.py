"""Reads messages of kinds 01 to 04, strictly: what FORMAT.md does not allow is refused.

Every reader checks its arguments, then the form, then the limits, and uses a key only after that.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
)

from . import constructions as c
from .errors import (
    DecryptionError,
    FormatError,
    KeyNotFoundError,
    LimitError,
    MasterKeyError,
    UnsupportedVersionError,
)

MAGIC = b"\x53\x52"
VERSION = 2
RECORD, ENVELOPE, TOKEN, WRAPPED = range(1, 5)
PREFIX_LEN = 4
ID_END = PREFIX_LEN + c.KEY_ID_LEN  # kinds 01 and 03: prefix, key id
MAX_RECORD_PLAINTEXT = 2**30
MAX_TOKEN_PLAINTEXT = 2**16
GCM_NONCE_LEN = 12

MAX_SLOTS = 16
MAX_SLOT_BODY = 4096
SLOT_EMPTY, SLOT_KEYSET, SLOT_PASSPHRASE, SLOT_MASTER = range(4)
BOXED_KEY_LEN = c.BOX_OVERHEAD + c.KEY_LEN
PASSPHRASE_CLEAR_LEN = 4 + 4 + 1 + 16
KEYSET_BODY_LEN = c.KEY_ID_LEN + BOXED_KEY_LEN
PASSPHRASE_BODY_LEN = PASSPHRASE_CLEAR_LEN + BOXED_KEY_LEN
MASTER_BODY_MIN = c.KEY_ID_LEN + 2 + BOXED_KEY_LEN  # and the wrapped key

MAX_LANES = 16
MAX_PASSES = 16
MAX_MEMORY = 2**20
MAX_PASSPHRASE_WORK = 2**22

WRAPPED_HEADER_LEN = PREFIX_LEN + 1 + c.KEY_ID_LEN
MAX_SERVICE_BLOB = 2048
M_SOFTWARE, M_TOKEN_GCM, M_TOKEN_KWP, M_TOKEN_KW, M_SERVICE, M_PASSPHRASE = range(6)
FIXED_BLOB = {
    M_SOFTWARE: BOXED_KEY_LEN,
    M_TOKEN_GCM: GCM_NONCE_LEN + c.KEY_LEN + c.TAG_LEN,
    M_TOKEN_KWP: c.KEY_LEN + 8,
    M_TOKEN_KW: c.KEY_LEN + 8,
    M_PASSPHRASE: PASSPHRASE_BODY_LEN,
}

# A master opens a whole wrapped key (kind 04), given the id of the key in it.
Master = Callable[[bytes, bytes], bytes]


def kind_of(message: bytes) -> int:
    """The kind of a message; FormatError, UnsupportedVersionError."""
    if len(message) < PREFIX_LEN or message[:2] != MAGIC:
        raise FormatError("does not begin 53 52, or ends before its kind")
    if message[2] != VERSION or not RECORD <= message[3] <= WRAPPED:
        raise UnsupportedVersionError(f"version {message[2]}, kind {message[3]}")
    return message[3]


def _check_kind(message: bytes, kind: int) -> None:
    if kind_of(message) != kind:
        raise FormatError(f"is of kind {message[3]}, not {kind}")


def _by_id(keys: Iterable[bytes]) -> dict[bytes, bytes]:
    return {c.key_id(key): key for key in keys}


# --- Kind 01 -------------------------------------------------------------------------------------


def open_record(message: bytes, keys: Iterable[bytes], associated_data: bytes = b"") -> bytes:
    """The plaintext of a record under one of the `keys` of a keyset.

    Raises:
        FormatError: Not a record, or shorter or longer than one can be.
        KeyNotFoundError: It names a key that is not among `keys`.
        DecryptionError: It does not authenticate.
    """
    c.check_associated_data(associated_data)
    _check_kind(message, RECORD)
    if not 0 <= len(message) - ID_END - c.BOX_OVERHEAD <= MAX_RECORD_PLAINTEXT:
        raise FormatError("a record is 92 to 2^30 + 92 bytes")
    named = message[PREFIX_LEN:ID_END]
    key = _by_id(keys).get(named)
    if key is None:
        raise KeyNotFoundError((named,))
    return c.box_open(c.derive(key, "record"), message[ID_END:], message[:ID_END] + associated_data)


# --- Kind 02 -------------------------------------------------------------------------------------


class Slot(NamedTuple):
    """One slot as it stands in the message; `at` is the offset of its kind byte."""

    at: int
    kind: int
    body: bytes


class Envelope(NamedTuple):
    """The parts of an envelope that are visible without a key."""

    slots: tuple[Slot, ...]
    salt: bytes
    commitment: bytes
    chunks_at: int
    chunks_len: int


def parse_envelope(message: bytes) -> Envelope:
    """Step 1 of opening. FormatError for all that the table does not allow."""
    _check_kind(message, ENVELOPE)
    if len(message) < PREFIX_LEN + 1:
        raise FormatError("ends before the slot count")
    count = message[PREFIX_LEN]
    if not 1 <= count <= MAX_SLOTS:
        raise FormatError(f"{count} slots")
    at = PREFIX_LEN + 1
    slots = []
    for _ in range(count):
        if len(message) < at + 3:
            raise FormatError("ends in a slot's kind and length")
        length = int.from_bytes(message[at + 1 : at + 3])
        if length > MAX_SLOT_BODY:
            raise FormatError(f"slot body of {length} bytes")
        if len(message) < at + 3 + length:
            raise FormatError("ends in a slot's body")
        slots.append(Slot(at, message[at], message[at + 3 : at + 3 + length]))
        at += 3 + length
    chunks_at = at + c.STREAM_HEADER_LEN
    chunks_len = len(message) - chunks_at
    if chunks_len < c.TAG_LEN or not c.chunks_length_ok(chunks_len):
        raise FormatError(f"{chunks_len} bytes of chunks: cut short or extended")
    if chunks_len // c.SEALED_CHUNK_LEN + 1 > c.MAX_CHUNKS:
        raise FormatError("more than 2^38 chunks")
    salt_end = at + c.SALT_LEN
    return Envelope(
        tuple(slots), message[at:salt_end], message[salt_end:chunks_at], chunks_at, chunks_len
    )


def slot_clear_length(slot: Slot) -> int | None:
    """The length of the body's `clear`; None if the slot can't be a candidate for anybody."""
    if slot.kind == SLOT_KEYSET and len(slot.body) == KEYSET_BODY_LEN:
        return c.KEY_ID_LEN
    if slot.kind == SLOT_PASSPHRASE and len(slot.body) == PASSPHRASE_BODY_LEN:
        return PASSPHRASE_CLEAR_LEN
    if slot.kind == SLOT_MASTER and len(slot.body) >= MASTER_BODY_MIN:
        wrapped_len = int.from_bytes(slot.body[16:18])
        if len(slot.body) != MASTER_BODY_MIN + wrapped_len:
            return None
        try:
            wrapped = parse_wrapped(slot.body[18 : 18 + wrapped_len])
        except FormatError:
            return None
        return None if wrapped.mechanism == M_PASSPHRASE else 18 + wrapped_len
    return None


def named_key_ids(slots: Iterable[Slot]) -> tuple[bytes, ...]:
    """The key ids that slots of kinds 01 and 03 name, for a KeyNotFoundError."""
    return tuple(
        slot.body[: c.KEY_ID_LEN]
        for slot in slots
        if slot.kind in (SLOT_KEYSET, SLOT_MASTER) and slot_clear_length(slot) is not None
    )


def parse_cost(clear: bytes) -> tuple[c.Cost, bytes]:
    """Cost and salt out of a passphrase slot's `clear`; LimitError outside the bounds."""
    cost = c.Cost(int.from_bytes(clear[:4]), int.from_bytes(clear[4:8]), clear[8])
    if not 1 <= cost.lanes <= MAX_LANES:
        raise LimitError(f"{cost.lanes} lanes")
    if not 1 <= cost.passes <= MAX_PASSES:
        raise LimitError(f"{cost.passes} passes")
    if not 8 * cost.lanes <= cost.memory <= MAX_MEMORY:
        raise LimitError(f"{cost.memory} KiB of memory")
    return cost, clear[9:]


def check_passphrase_work(clears: Iterable[bytes]) -> None:
    """LimitError if a cost, or memory times passes summed over all, is over its bound."""
    work = 0
    for clear in clears:
        cost, _ = parse_cost(clear)
        work += cost.memory * cost.passes
    if work > MAX_PASSPHRASE_WORK:
        raise LimitError(f"{work} KiB passes in all passphrase slots")


def open_dek(
    message: bytes,
    *,
    keys: Iterable[bytes] = (),
    passphrase: str | bytes | None = None,
    masters: Mapping[bytes, Master] | None = None,
    associated_data: bytes = b"",
) -> tuple[int, bytes]:
    """Steps 1 to 4 of opening: the number of the slot that opened, and the DEK."""
    c.check_associated_data(associated_data)
    parsed = parse_envelope(message)
    keyset, masters = _by_id(keys), masters or {}

    candidates: list[tuple[int, Slot, bytes]] = []
    for number, slot in enumerate(parsed.slots):
        length = slot_clear_length(slot)
        if length is None:
            continue
        clear = slot.body[:length]
        if (
            (slot.kind == SLOT_KEYSET and clear in keyset)
            or (slot.kind == SLOT_PASSPHRASE and passphrase is not None)
            or (slot.kind == SLOT_MASTER and parse_wrapped(clear[18:]).wrapping_id in masters)
        ):
            candidates.append((number, slot, clear))
    if not candidates:
        raise KeyNotFoundError(named_key_ids(parsed.slots))
    check_passphrase_work(clear for _, slot, clear in candidates if slot.kind == SLOT_PASSPHRASE)

    context = bytes((*MAGIC, VERSION, ENVELOPE)) + associated_data
    for number, slot, clear in candidates:
        bound = message[:PREFIX_LEN] + bytes([slot.kind]) + clear + parsed.salt + parsed.commitment
        try:
            if slot.kind == SLOT_KEYSET:
                wrap_key = c.derive(keyset[clear], "wrap")
            elif slot.kind == SLOT_PASSPHRASE:
                cost, salt = parse_cost(clear)
                wrap_key = c.derive(c.argon2id(passphrase or b"", cost, salt), "passphrase")
            else:
                kek_id, wrapped = clear[:16], clear[18:]
                kek = masters[parse_wrapped(wrapped).wrapping_id](wrapped, kek_id)
                wrap_key = c.derive(kek, "wrap")
            dek = c.box_open(wrap_key, slot.body[len(clear) :], bound)
        except (DecryptionError, MasterKeyError):
            # MasterKeyError: the master's id is right, the mechanism not one of that master's.
            continue
        if hmac.compare_digest(
            c.stream_keys(dek, parsed.salt, context).commitment, parsed.commitment
        ):
            return number, dek
    raise DecryptionError


def open_envelope(
    message: bytes,
    *,
    keys: Iterable[bytes] = (),
    passphrase: str | bytes | None = None,
    masters: Mapping[bytes, Master] | None = None,
    associated_data: bytes = b"",
) -> bytes:
    """The plaintext of an envelope, by any of what is given.

    Args:
        message: The whole envelope.
        keys: The keys of the keyset that the caller names, 32 bytes each.
        passphrase: For slots of kind 02.
        masters: For slots of kind 03: key id of the master, and what unwraps with it.
        associated_data: At most 65,535 bytes.

    Raises:
        FormatError: The form is wrong.
        LimitError: A passphrase slot asks for too much.
        KeyNotFoundError: No slot is a candidate.
        DecryptionError: No candidate opens, or a chunk doesn't.
    """
    _, dek = open_dek(
        message, keys=keys, passphrase=passphrase, masters=masters, associated_data=associated_data
    )
    parsed = parse_envelope(message)
    context = bytes((*MAGIC, VERSION, ENVELOPE)) + associated_data
    keys_of_stream = c.stream_keys(dek, parsed.salt, context)
    return c.open_chunks(keys_of_stream, message[parsed.chunks_at :])


# --- Kind 03 -------------------------------------------------------------------------------------


def open_token_message(
    message: bytes, keys: Mapping[bytes, bytes], associated_data: bytes = b""
) -> bytes:
    """The plaintext of a token's message; `keys` maps CKA_ID to the AES key."""
    c.check_associated_data(associated_data)
    _check_kind(message, TOKEN)
    if not 0 <= len(message) - ID_END - GCM_NONCE_LEN - c.TAG_LEN <= MAX_TOKEN_PLAINTEXT:
        raise FormatError("a token's message is 48 to 65,584 bytes")
    named = message[PREFIX_LEN:ID_END]
    if named not in keys:
        raise KeyNotFoundError((named,))
    nonce = message[ID_END : ID_END + GCM_NONCE_LEN]
    return c.gcm_open(
        keys[named], nonce, message[ID_END + GCM_NONCE_LEN :], message[:ID_END] + associated_data
    )


# --- Kind 04 -------------------------------------------------------------------------------------


class Wrapped(NamedTuple):
    """The parts of a wrapped key."""

    mechanism: int
    wrapping_id: bytes
    blob: bytes


def parse_wrapped(message: bytes) -> Wrapped:
    """The parts of a wrapped key; FormatError."""
    _check_kind(message, WRAPPED)
    if len(message) <= WRAPPED_HEADER_LEN:
        raise FormatError("ends in the header of a wrapped key")
    mechanism = message[PREFIX_LEN]
    blob = message[WRAPPED_HEADER_LEN:]
    if mechanism == M_SERVICE:
        if not 1 <= len(blob) <= MAX_SERVICE_BLOB:
            raise FormatError("a service's blob is 1 to 2,048 bytes")
    elif mechanism not in FIXED_BLOB:
        raise UnsupportedVersionError(f"mechanism {mechanism}")
    elif len(blob) != FIXED_BLOB[mechanism]:
        raise FormatError(f"blob of {len(blob)} bytes for mechanism {mechanism}")
    return Wrapped(mechanism, message[PREFIX_LEN + 1 : WRAPPED_HEADER_LEN], blob)


def _check_unwrapped(key: bytes, key_id: bytes) -> bytes:
    if len(key) != c.KEY_LEN or not hmac.compare_digest(c.key_id(key), key_id):
        raise DecryptionError
    return key


def _check_wrapping(parsed: Wrapped, mechanisms: tuple[int, ...], wrapping_id: bytes) -> None:
    if parsed.mechanism not in mechanisms or parsed.wrapping_id != wrapping_id:
        raise MasterKeyError("another master wrapped this key")


def software_master(master: bytes) -> Master:
    """Unwraps with a software master's 32 bytes: mechanism 00."""

    def unwrap(message: bytes, key_id: bytes) -> bytes:
        parsed = parse_wrapped(message)
        _check_wrapping(parsed, (M_SOFTWARE,), c.key_id(master))
        bound = message[:WRAPPED_HEADER_LEN] + key_id
        return _check_unwrapped(c.box_open(c.derive(master, "master"), parsed.blob, bound), key_id)

    return unwrap


def token_master(aes_key: bytes, cka_id: bytes) -> Master:
    """Unwraps as a token would that holds this AES key: mechanisms 01, 02, 03."""

    def unwrap(message: bytes, key_id: bytes) -> bytes:
        parsed = parse_wrapped(message)
        _check_wrapping(parsed, (M_TOKEN_GCM, M_TOKEN_KWP, M_TOKEN_KW), cka_id)
        if parsed.mechanism == M_TOKEN_GCM:
            nonce, sealed = parsed.blob[:GCM_NONCE_LEN], parsed.blob[GCM_NONCE_LEN:]
            key = c.gcm_open(aes_key, nonce, sealed, message[:WRAPPED_HEADER_LEN] + key_id)
        else:
            padded = parsed.mechanism == M_TOKEN_KWP
            unwrap_blob = aes_key_unwrap_with_padding if padded else aes_key_unwrap
            try:
                key = unwrap_blob(aes_key, parsed.blob)
            except InvalidUnwrap:
                raise DecryptionError from None
        return _check_unwrapped(key, key_id)

    return unwrap


def service_master(full_name: str, call: Callable[[bytes, str], bytes]) -> Master:
    """Unwraps through a service: mechanism 04; `call` gets the blob and the context."""

    def unwrap(message: bytes, key_id: bytes) -> bytes:
        parsed = parse_wrapped(message)
        _check_wrapping(parsed, (M_SERVICE,), c.service_key_id(full_name))
        return _check_unwrapped(call(parsed.blob, key_id.hex()), key_id)

    return unwrap


def passphrase_master(passphrase: str | bytes) -> Master:
    """Unwraps with a passphrase: mechanism 05, in key stores only, never in a slot of kind 03."""

    def unwrap(message: bytes, key_id: bytes) -> bytes:
        parsed = parse_wrapped(message)
        if parsed.mechanism != M_PASSPHRASE:
            raise MasterKeyError("no passphrase wrapped this key")
        clear, box = parsed.blob[:PASSPHRASE_CLEAR_LEN], parsed.blob[PASSPHRASE_CLEAR_LEN:]
        check_passphrase_work([clear])
        output = c.argon2id(passphrase, *parse_cost(clear))
        if not hmac.compare_digest(c.key_id(output), parsed.wrapping_id):
            raise MasterKeyError("wrong passphrase")
        bound = message[:WRAPPED_HEADER_LEN] + clear + key_id
        return _check_unwrapped(c.box_open(c.derive(output, "passphrase"), box, bound), key_id)

    return unwrap
