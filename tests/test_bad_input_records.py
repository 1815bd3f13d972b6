"""Bad input to records: kind 01, through SecureEncryption."""

from __future__ import annotations

import os

import pytest
import strongroom
from bad_input import LENGTHS, Decrypt, bits_of, flip_each, refusal, refused_all, seeded
from hypothesis import given
from hypothesis import strategies as st
from independent import constructions as c
from independent import writer
from strongroom import (
    DecryptionError,
    FormatError,
    KeyNotFoundError,
    LimitError,
    SecureEncryption,
    UnsupportedVersionError,
)

KEY = os.urandom(32)
CIPHER = SecureEncryption(KEY)
AD = b"table:users/42"
HEADER_LEN = 20
# A refused length says what it should have been, a batch or an overlap what is wrong.
WHY = r"bytes|length|overlap|one each"
OVERHEAD = 92


def decrypt(message: bytes | bytearray | memoryview) -> bytes:
    return CIPHER.decrypt(message, AD)


def under(associated_data: bytes) -> Decrypt:
    return lambda message: CIPHER.decrypt(message, associated_data)


def record(length: int) -> bytes:
    return CIPHER.encrypt(os.urandom(length), AD)


@pytest.mark.parametrize("length", LENGTHS)
def test_flips(length: int) -> None:
    message = record(length)
    for what, start, stop, expected in [
        ("magic", 0, 2, {FormatError}),
        ("version", 2, 3, {UnsupportedVersionError}),
        ("kind", 3, 4, {FormatError, UnsupportedVersionError}),
        ("key id", 4, HEADER_LEN, {KeyNotFoundError}),
        ("nonce", HEADER_LEN, 44, {DecryptionError}),
        ("first bytes", 44, min(44 + 64, len(message) - 48), {DecryptionError}),
        ("last bytes", max(44, len(message) - 48 - 64), len(message) - 48, {DecryptionError}),
        ("tag", len(message) - 48, len(message) - 32, {DecryptionError}),
        ("commitment", len(message) - 32, len(message), {DecryptionError}),
    ]:
        if start < stop:
            seen = refused_all(decrypt, flip_each(message, bits_of(start, stop)))
            assert seen == expected, what
    bits = (seeded().randrange(8 * len(message)) for _ in range(1500))
    refused_all(decrypt, flip_each(message, bits))


@pytest.mark.parametrize("length", LENGTHS)
def test_truncations(length: int) -> None:
    message = memoryview(record(length))
    cuts = set(range(min(len(message), 300)))
    cuts |= {len(message) - n for n in range(1, 100)}
    for cut in cuts & set(range(len(message))):
        error = refusal(decrypt, message[:cut])
        assert isinstance(error, FormatError if cut < OVERHEAD else DecryptionError)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_bytes_added_and_removed(length: int) -> None:
    message = record(length)
    other = record(length)
    for extra in (b"\x00", os.urandom(15), os.urandom(16), os.urandom(17), other, message):
        assert refused_all(decrypt, [message + extra]) == {DecryptionError}
        refused_all(decrypt, [extra + message])
    refused_all(decrypt, (message[:at] + message[at + 1 :] for at in range(len(message))))
    refused_all(
        decrypt,
        (
            message[:at] + bytes([byte]) + message[at:]
            for at in range(len(message))
            for byte in (0x00, 0xA5)
        ),
    )


def test_every_version_and_kind() -> None:
    body = record(0)[4:]
    for version in range(256):
        for kind in range(256):
            if (version, kind) == (2, 1):
                continue
            error = refusal(decrypt, bytes((0x53, 0x52, version, kind)) + body)
            known = version == 2 and 1 <= kind <= 4
            assert type(error) is (FormatError if known else UnsupportedVersionError)


@pytest.mark.parametrize("message", [b"", b"S", b"SR", b"SR\x02", b"SR\x02\x01", b"\x00" * 92])
def test_no_message(message: bytes) -> None:
    assert type(refusal(decrypt, message)) is FormatError


def test_parts_of_two_messages() -> None:
    one, two = record(100), record(100)
    made = {one[:cut] + two[cut:] for cut in range(HEADER_LEN + 1, len(one))}
    # Where both have the same byte at an end, one of them is whole.
    made -= {one, two}
    assert len(made) > 150
    refused_all(decrypt, made)


def test_wrong_key_and_wrong_associated_data_say_the_same() -> None:
    message = CIPHER.encrypt(b"value", AD)
    for associated_data in (b"", AD[:-1], AD + b"\x00", b"\x00" + AD, os.urandom(65_535)):
        error = refusal(under(associated_data), message)
        assert type(error) is DecryptionError
    # Another key, under the id of the right one.
    other = os.urandom(32)
    forged = (
        message[:4]
        + c.key_id(KEY)
        + writer.write_record(other, b"value", AD, nonce=os.urandom(24))[HEADER_LEN:]
    )
    assert type(refusal(decrypt, forged)) is DecryptionError


def test_another_key_id() -> None:
    other = os.urandom(32)
    message = SecureEncryption(other).encrypt(b"value", AD)
    error = refusal(decrypt, message)
    assert isinstance(error, KeyNotFoundError)
    assert error.key_id == c.key_id(other).hex()
    assert c.key_id(other).hex() in str(error)
    assert not str(error).startswith(("'", '"'))
    assert "may be retired or destroyed" in str(error)


def test_associated_data_limit() -> None:
    longest = os.urandom(65_535)
    assert CIPHER.decrypt(CIPHER.encrypt(b"x", longest), longest) == b"x"
    for call in (CIPHER.encrypt, CIPHER.decrypt):
        with pytest.raises(LimitError):
            call(record(0), longest + b"\x00")


@pytest.mark.parametrize("length", [0, 1, 100, 16_385, 200_000])
def test_output_is_zeros_after_a_failure(length: int) -> None:
    message = bytearray(record(length))
    for position in (25, len(message) - 40, len(message) - 1, 44 + length // 2):
        message[position] ^= 1
        out = bytearray(b"\xff" * length)
        with pytest.raises(DecryptionError):
            CIPHER.decrypt_into(message, out, AD)
        assert not any(out)
        message[position] ^= 1


def test_into_checks_before_it_works() -> None:
    message = record(100)
    for size in (0, 99):
        out = bytearray(b"\xff" * size)
        with pytest.raises(ValueError, match=WHY):
            CIPHER.decrypt_into(message, out, AD)
        assert out == b"\xff" * size
    with pytest.raises(ValueError, match=WHY):
        CIPHER.encrypt_into(bytes(100), bytearray(OVERHEAD + 99), AD)
    shared = bytearray(message + bytes(200))
    with pytest.raises(ValueError, match=WHY):
        CIPHER.decrypt_into(memoryview(shared)[: len(message)], memoryview(shared)[50:150], AD)
    assert shared[: len(message)] == message


def test_batch_tells_the_first_bad_one() -> None:
    plaintexts = [os.urandom(n % 300) for n in range(1000)]
    messages = CIPHER.encrypt_many(plaintexts, AD)
    assert CIPHER.decrypt_many(messages, AD) == plaintexts
    for bad in ([0], [999], [500, 501], [17, 998]):
        changed = list(messages)
        for index in bad:
            changed[index] = changed[index][:-1] + bytes([changed[index][-1] ^ 1])
        with pytest.raises(DecryptionError) as caught:
            CIPHER.decrypt_many(changed, AD)
        assert caught.value.index == bad[0]
    with pytest.raises(FormatError):
        CIPHER.decrypt_many([*messages, b""], AD)
    swapped = [messages[1], messages[0]]
    assert CIPHER.decrypt_many(swapped, AD) == [plaintexts[1], plaintexts[0]]
    with pytest.raises(DecryptionError) as caught:
        CIPHER.decrypt_many(messages[:3], [AD, b"", AD])
    assert caught.value.index == 1
    with pytest.raises(ValueError, match=WHY):
        CIPHER.decrypt_many(messages[:3], [AD, AD])


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    refusal(decrypt, data)
    refusal(decrypt, b"SR\x02\x01" + data)
    refusal(decrypt, b"SR\x02\x01" + c.key_id(KEY) + data)


@given(st.data())
def test_edits(data: st.DataObject) -> None:
    message = bytearray(record(data.draw(st.integers(0, 64))))
    original = bytes(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message)))
        to = data.draw(st.integers(at, min(at + 40, len(message))))
        message[at:to] = data.draw(st.binary(max_size=40))
    if message != original:
        refusal(decrypt, message)


@pytest.mark.parametrize("length", [0, 8, 11, 13, 16, 23, 25])
def test_nonces_of_other_lengths(length: int) -> None:
    key, nonce = os.urandom(32), os.urandom(length)
    for call in (
        strongroom.hazmat.aes_256_gcm_encrypt,
        strongroom.hazmat.kc_xaes_256_gcm_encrypt,
        strongroom.hazmat.aes_256_gcm_decrypt,
        strongroom.hazmat.kc_xaes_256_gcm_decrypt,
    ):
        with pytest.raises(ValueError, match=WHY):
            call(key, nonce, bytes(64))


@pytest.mark.parametrize("length", range(16))
def test_short_tags(length: int) -> None:
    key, nonce = os.urandom(32), os.urandom(12)
    sealed = strongroom.hazmat.aes_256_gcm_encrypt(key, nonce, b"")
    with pytest.raises((ValueError, DecryptionError)):
        strongroom.hazmat.aes_256_gcm_decrypt(key, nonce, sealed[:length])


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_keys_of_other_lengths(length: int) -> None:
    with pytest.raises(ValueError, match=WHY):
        SecureEncryption(os.urandom(length))
