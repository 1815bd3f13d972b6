"""Bad input to envelopes: kind 02, through ParallelEncryption."""

from __future__ import annotations

import os
from itertools import permutations

import pytest
from bad_input import (
    LENGTHS,
    REFUSALS,
    Decrypt,
    bits_of,
    flip_each,
    refusal,
    refused_all,
    seeded,
    split_chunks,
)
from hypothesis import given
from hypothesis import strategies as st
from independent import constructions as c
from independent import reader, writer
from strongroom import (
    DecryptionError,
    FormatError,
    KeyNotFoundError,
    ParallelEncryption,
    UnsupportedVersionError,
)

KEY, OTHER = os.urandom(32), os.urandom(32)
CIPHER = ParallelEncryption(KEY)
AD = b"backup/2041"
ENVELOPE = bytes.fromhex("53520202")


def decrypt(message: bytes | bytearray | memoryview) -> bytes:
    return CIPHER.decrypt_large(message, AD)


def under(associated_data: bytes) -> Decrypt:
    return lambda message: CIPHER.decrypt_large(message, associated_data)


def envelope(length: int) -> bytes:
    return CIPHER.encrypt_large(os.urandom(length), AD)


def write(
    plaintext: bytes,
    slots: list[writer.SlotMaker] | None = None,
    associated_data: bytes = AD,
    dek: bytes | None = None,
    salt: bytes | None = None,
) -> bytes:
    """An envelope from the independent writer, by default with one slot of KEY."""
    return writer.write_envelope(
        plaintext,
        [slot(KEY)] if slots is None else slots,
        associated_data,
        dek=dek or os.urandom(32),
        salt=salt or os.urandom(24),
    )


def slot(key: bytes) -> writer.SlotMaker:
    return writer.keyset_slot(key, nonce=os.urandom(24))


def with_slots(message: bytes, slots: list[tuple[int, bytes]]) -> bytes:
    """The message with other slots in front of the same salt, commitment and chunks."""
    parsed = reader.parse_envelope(message)
    head = ENVELOPE + bytes([len(slots)])
    for kind, body in slots:
        head += bytes([kind]) + len(body).to_bytes(2) + body
    return head + message[parsed.chunks_at - 56 :]


def slots_of(message: bytes) -> list[tuple[int, bytes]]:
    return [(found.kind, found.body) for found in reader.parse_envelope(message).slots]


# --- Flips, cuts and additions -------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_flips(length: int) -> None:
    message = envelope(length)
    parsed = reader.parse_envelope(message)
    (only,) = parsed.slots
    body, end = only.at + 3, only.at + 3 + len(only.body)
    assert (only.kind, len(only.body)) == (1, 120)
    for what, start, stop, expected in [
        ("magic", 0, 2, {FormatError}),
        ("version", 2, 3, {UnsupportedVersionError}),
        ("kind", 3, 4, {FormatError, UnsupportedVersionError}),
        ("slot kind", only.at, only.at + 1, {KeyNotFoundError}),
        ("key id", body, body + 16, {KeyNotFoundError}),
        ("box", body + 16, end, {DecryptionError}),
        ("salt and commitment", end, parsed.chunks_at, {DecryptionError}),
    ]:
        seen = refused_all(decrypt, flip_each(message, bits_of(start, stop)))
        assert seen == expected, what
    refused_all(decrypt, flip_each(message, bits_of(4, 5)))
    refused_all(decrypt, flip_each(message, bits_of(only.at + 1, body)))
    for at in range(parsed.chunks_at, len(message), c.SEALED_CHUNK_LEN):
        stop = min(at + c.SEALED_CHUNK_LEN, len(message))
        tag = bits_of(stop - 16, stop)
        edges = {*bits_of(at, min(at + 64, stop)), *bits_of(max(at, stop - 80), stop)}
        # All bits at the message's two ends, each eighth in between: 13 chunks at 200,000.
        wanted = edges if at == parsed.chunks_at or stop == len(message) else {*tag[::8]}
        assert refused_all(decrypt, flip_each(message, sorted(wanted))) == {DecryptionError}
    rng = seeded()
    bits = (rng.randrange(8 * len(message)) for _ in range(1500))
    refused_all(decrypt, flip_each(message, bits))


@pytest.mark.parametrize("length", LENGTHS)
def test_truncations(length: int) -> None:
    message = memoryview(envelope(length))
    chunks_at = reader.parse_envelope(bytes(message)).chunks_at
    cuts = set(range(min(len(message), 300)))
    for boundary in [*range(chunks_at, len(message), c.SEALED_CHUNK_LEN), len(message)]:
        cuts |= set(range(boundary - 17, boundary + 18))
    for cut in cuts & set(range(len(message))):
        error = refusal(decrypt, message[:cut])
        form = cut < chunks_at + 16 or not c.chunks_length_ok(cut - chunks_at)
        assert type(error) is (FormatError if form else DecryptionError), cut


@pytest.mark.parametrize("length", [0, 100, 16_384, 40_000])
def test_trailing_data(length: int) -> None:
    message = envelope(length)
    chunks = split_chunks(message, reader.parse_envelope(message).chunks_at)
    tails = [b"\x00", os.urandom(15), os.urandom(16), os.urandom(17), *chunks, message]
    refused_all(decrypt, (message + tail for tail in tails))
    refused_all(decrypt, (tail + message for tail in tails))


@pytest.mark.parametrize("length", [0, 1, 100])
def test_bytes_added_and_removed(length: int) -> None:
    message = envelope(length)
    refused_all(decrypt, (message[:at] + message[at + 1 :] for at in range(len(message))))
    refused_all(
        decrypt,
        (
            message[:at] + bytes([byte]) + message[at:]
            for at in range(len(message))
            for byte in (0x00, 0x5A)
        ),
    )


def test_every_version_and_kind() -> None:
    body = envelope(0)[4:]
    for version in range(256):
        for kind in range(256):
            if (version, kind) != (2, 2):
                error = refusal(decrypt, bytes((0x53, 0x52, version, kind)) + body)
                known = version == 2 and 1 <= kind <= 4
                assert type(error) is (FormatError if known else UnsupportedVersionError)


# --- Chunks --------------------------------------------------------------------------------------


def test_all_719_permutations_of_six_chunks() -> None:
    message = envelope(5 * c.CHUNK_LEN + 1000)
    chunks_at = reader.parse_envelope(message).chunks_at
    chunks = split_chunks(message, chunks_at)
    assert len(chunks) == 6
    tried = 0
    for order in permutations(range(6)):
        if order != tuple(range(6)):
            changed = message[:chunks_at] + b"".join(chunks[index] for index in order)
            refusal(decrypt, changed)
            tried += 1
    assert tried == 719


def test_chunks_doubled_dropped_and_spliced() -> None:
    length = 5 * c.CHUNK_LEN + 1000
    plaintext, dek, salt = os.urandom(length), os.urandom(32), os.urandom(24)
    message = write(plaintext, dek=dek, salt=salt)
    assert decrypt(message) == plaintext
    chunks_at = reader.parse_envelope(message).chunks_at
    head, chunks = message[:chunks_at], split_chunks(message, chunks_at)
    for index in range(6):
        refusal(decrypt, head + b"".join(chunks[:index] + chunks[index + 1 :]))
        for at in range(7):
            refusal(decrypt, head + b"".join([*chunks[:at], chunks[index], *chunks[at:]]))
    others = {
        "another message of the key": envelope(length),
        "the same DEK, another salt": write(plaintext, dek=dek),
        "the same DEK and salt, another associated data": write(
            plaintext, associated_data=AD + b"\x00", dek=dek, salt=salt
        ),
        "the same salt, another DEK": write(plaintext, salt=salt),
    }
    for what, other in others.items():
        foreign = split_chunks(other, reader.parse_envelope(other).chunks_at)
        for index in range(6):
            changed = [*chunks[:index], foreign[index], *chunks[index + 1 :]]
            assert type(refusal(decrypt, head + b"".join(changed))) is DecryptionError, what
        assert type(refusal(decrypt, head + b"".join(foreign))) is DecryptionError, what


def test_full_last_chunk_is_no_end() -> None:
    # A writer without the empty last chunk: a valid truncation would be a valid message.
    dek, salt = os.urandom(32), os.urandom(24)
    message = write(bytes(2 * c.CHUNK_LEN), dek=dek, salt=salt)
    assert decrypt(message) == bytes(2 * c.CHUNK_LEN)
    assert type(refusal(decrypt, message[:-16])) is FormatError


# --- Slots ---------------------------------------------------------------------------------------


def test_slots_that_the_reader_does_not_hold_change_nothing() -> None:
    plaintext = os.urandom(1000)
    slots = [
        writer.empty_slot(120),
        slot(OTHER),
        writer.raw_slot(2, os.urandom(129)),
        writer.raw_slot(4, os.urandom(77)),
        writer.raw_slot(0x77, b""),
        slot(KEY),
        writer.raw_slot(3, os.urandom(247)),
        writer.empty_slot(4096),
    ]
    message = write(plaintext, slots)
    parsed = reader.parse_envelope(message)
    assert decrypt(message) == plaintext
    for number, found in enumerate(parsed.slots):
        bits = bits_of(found.at + 3, found.at + 3 + len(found.body))
        changed = flip_each(message, bits if len(bits) < 2000 else bits[::37])
        if number == 5:
            refused_all(decrypt, changed)
        else:
            assert all(decrypt(other) == plaintext for other in changed)


def test_slots_swapped_and_moved_inside_their_message() -> None:
    # Slots are authentic one by one, not as a set: their order is storage's to change.
    plaintext = os.urandom(100)
    message = write(plaintext, [slot(KEY), slot(OTHER), writer.empty_slot(120)])
    for order in permutations(slots_of(message)):
        assert decrypt(with_slots(message, list(order))) == plaintext
    own, other, empty = slots_of(message)
    assert decrypt(with_slots(message, [own])) == plaintext
    assert decrypt(with_slots(message, [own, own])) == plaintext
    for slots in ([other], [empty], [other, empty]):
        assert type(refusal(decrypt, with_slots(message, slots))) is KeyNotFoundError


def test_slots_of_another_message() -> None:
    dek, salt = os.urandom(32), os.urandom(24)
    message = write(b"mine", dek=dek, salt=salt)
    (own,) = slots_of(message)
    for other in (
        envelope(4),
        write(b"mine"),
        write(b"mine", dek=dek),
        write(b"mine", salt=salt),
        # Salt and DEK are the same and the associated data is not: so is the commitment not.
        write(b"mine", associated_data=b"", dek=dek, salt=salt),
    ):
        (foreign,) = slots_of(other)
        assert type(refusal(decrypt, with_slots(message, [foreign]))) is DecryptionError
        for slots in ([foreign, own], [own, foreign], [foreign, own, foreign]):
            assert decrypt(with_slots(message, slots)) == b"mine"


def test_garbage_that_names_the_key() -> None:
    message = write(b"mine")
    (own,) = slots_of(message)
    garbage = (1, c.key_id(KEY) + os.urandom(104))
    assert type(refusal(decrypt, with_slots(message, [garbage]))) is DecryptionError
    assert type(refusal(decrypt, with_slots(message, [garbage] * 16))) is DecryptionError
    assert decrypt(with_slots(message, [garbage] * 15 + [own])) == b"mine"
    assert decrypt(with_slots(message, [own] + [garbage] * 15)) == b"mine"


def test_a_box_around_another_dek() -> None:
    # Whoever holds the key can bind any DEK to this salt and commitment; it must not be used.
    message = write(b"mine")
    parsed = reader.parse_envelope(message)
    for dek in (os.urandom(32), bytes(32)):
        made = slot(KEY)(writer.Target(dek, parsed.salt, parsed.commitment))
        assert type(refusal(decrypt, with_slots(message, [made]))) is DecryptionError
        assert decrypt(with_slots(message, [made, *slots_of(message)])) == b"mine"


def test_slot_kind_is_bound() -> None:
    # The body of a slot of kind 03 whose wrap key is the keyset key's: the kind is in A.
    message = write(b"mine", [slot(KEY), writer.empty_slot(120)])
    (_, body), empty = slots_of(message)
    for kind in (0, 2, 3, 4, 255):
        assert type(refusal(decrypt, with_slots(message, [(kind, body), empty]))) is (
            KeyNotFoundError
        )


@pytest.mark.parametrize("length", [0, 1, 15, 16, 119, 121, 4096])
def test_known_slot_of_another_length_is_no_candidate(length: int) -> None:
    body = (c.key_id(KEY) + os.urandom(4080))[:length]
    for kind in (1, 2, 3):
        message = write(b"mine", [writer.raw_slot(kind, body)])
        assert type(refusal(decrypt, message)) is KeyNotFoundError
        message = write(b"mine", [writer.raw_slot(kind, body), slot(KEY)])
        assert decrypt(message) == b"mine"


def test_slot_counts_and_lengths_at_their_extremes() -> None:
    message = bytearray(write(b"mine"))
    for count in range(256):
        message[4] = count
        if count != 1:
            error = refusal(decrypt, message)
            # Two slots: what the second would be is salt, so anything may be wrong with it.
            assert isinstance(error, FormatError) or 2 <= count <= 16
    message[4] = 1
    for length in range(0x10000):
        if length == 120:
            continue
        message[6:8] = length.to_bytes(2)
        refusal(decrypt, message)
    assert decrypt(write(b"", [slot(KEY)] + [writer.empty_slot(4096)] * 15)) == b""
    longest = write(b"", [writer.empty_slot(4096)] * 16)
    assert reader.parse_envelope(longest).chunks_at == 65_589 + 56
    assert type(refusal(decrypt, longest)) is KeyNotFoundError


def test_old_slot_put_back_opens() -> None:
    # Documented: rewrapping is not revoking.
    message = write(b"mine", [slot(KEY), writer.empty_slot(120)])
    old, _ = slots_of(message)
    parsed = reader.parse_envelope(message)
    _, dek = reader.open_dek(message, keys=[KEY], associated_data=AD)
    new = slot(OTHER)(writer.Target(dek, parsed.salt, parsed.commitment))
    rewrapped = with_slots(message, [(0, bytes(120)), new])
    assert type(refusal(decrypt, rewrapped)) is KeyNotFoundError
    assert ParallelEncryption(OTHER).decrypt_large(rewrapped, AD) == b"mine"
    assert decrypt(with_slots(rewrapped, [old, new])) == b"mine"


# --- Everything else -----------------------------------------------------------------------------


def test_wrong_associated_data() -> None:
    message = envelope(100)
    for associated_data in (b"", AD[:-1], AD + b"\x00", os.urandom(65_535)):
        error = refusal(under(associated_data), message)
        assert type(error) is DecryptionError


def test_unknown_key() -> None:
    error = refusal(ParallelEncryption(OTHER).decrypt_large, envelope(0))
    assert isinstance(error, KeyNotFoundError)
    assert error.key_id == c.key_id(KEY).hex()


@pytest.mark.parametrize("length", [1, 100, 16_384, 100_000, 1_500_000])
def test_output_is_zeros_after_a_failure(length: int) -> None:
    message = bytearray(envelope(length))
    for position in (30, 150, len(message) - 1, len(message) - 16_000, len(message) // 2):
        if position < 0:
            continue
        message[position] ^= 1
        out = bytearray(b"\xff" * length)
        with pytest.raises((DecryptionError, KeyNotFoundError)):
            CIPHER.decrypt_large_into(message, out, AD)
        assert not any(out), position
        message[position] ^= 1


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    refusal(decrypt, data)
    refusal(decrypt, ENVELOPE + data)
    refusal(decrypt, ENVELOPE + b"\x01\x01\x00\x78" + c.key_id(KEY) + data)


@given(st.data())
def test_edits(data: st.DataObject) -> None:
    plaintext = os.urandom(data.draw(st.integers(0, 40)))
    original = write(plaintext, [slot(OTHER), slot(KEY), writer.empty_slot(120)])
    message = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message)))
        to = data.draw(st.integers(at, min(at + 140, len(message))))
        message[at:to] = data.draw(st.binary(max_size=140))
    try:
        opened = decrypt(message)
    except REFUSALS:
        return
    # Only slots that the reader does not use may have changed.
    assert opened == plaintext
    assert slots_of(original)[1] in slots_of(bytes(message))
    assert message.endswith(original[reader.parse_envelope(original).chunks_at - 56 :])
