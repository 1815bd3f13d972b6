"""The independent reader refuses what FORMAT.md, section 8, says, by the class it says.

It is what the package is compared with, so it must be as strict as the page.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from independent import constructions as c
from independent import examples, reader, writer
from independent.errors import (
    DecryptionError,
    FormatError,
    KeyNotFoundError,
    LimitError,
    MasterKeyError,
    UnsupportedVersionError,
)

KEY = os.urandom(32)
RECORD = writer.write_record(KEY, b"value", b"bound", nonce=os.urandom(24))
TOKEN = writer.write_token_message(KEY, bytes(16), b"value", b"bound", nonce=os.urandom(12))
ENVELOPE = writer.write_envelope(
    b"value",
    [writer.keyset_slot(KEY, nonce=os.urandom(24))],
    b"bound",
    dek=os.urandom(32),
    salt=os.urandom(24),
)
READERS: dict[int, tuple[bytes, Callable[[bytes], bytes]]] = {
    1: (RECORD, lambda m: reader.open_record(m, [KEY], b"bound")),
    2: (ENVELOPE, lambda m: reader.open_envelope(m, keys=[KEY], associated_data=b"bound")),
    3: (TOKEN, lambda m: reader.open_token_message(m, {bytes(16): KEY}, b"bound")),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_bit_and_every_cut(kind: int) -> None:
    message, read = READERS[kind]
    assert read(message) == b"value"
    for bit in range(8 * len(message)):
        changed = bytearray(message)
        changed[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises((FormatError, DecryptionError, KeyNotFoundError)):
            read(bytes(changed))
    for length in range(len(message)):
        with pytest.raises((FormatError, DecryptionError)):
            read(message[:length])
    with pytest.raises((FormatError, DecryptionError)):
        read(message + b"\x00")


@pytest.mark.parametrize("kind", READERS)
def test_prefix(kind: int) -> None:
    message, read = READERS[kind]
    for version in range(256):
        for other in range(256):
            if (version, other) != (2, kind):
                expected = (
                    FormatError if version == 2 and 1 <= other <= 4 else UnsupportedVersionError
                )
                with pytest.raises(FormatError) as caught:
                    read(message[:2] + bytes([version, other]) + message[4:])
                assert type(caught.value) is expected


def test_limits() -> None:
    with pytest.raises(LimitError):
        reader.open_record(RECORD, [KEY], bytes(65_536))
    with pytest.raises(LimitError):
        reader.open_envelope(ENVELOPE, keys=[KEY], associated_data=bytes(65_536))
    with pytest.raises(LimitError):
        writer.write_record(KEY, b"", bytes(65_536), nonce=bytes(24))
    with pytest.raises(LimitError):
        writer.write_token_message(KEY, bytes(16), bytes(65_537), nonce=bytes(12))
    with pytest.raises(FormatError):
        reader.open_token_message(TOKEN[:32] + bytes(65_537 + 16), {bytes(16): KEY})


@pytest.mark.parametrize(
    ("memory", "passes", "lanes"),
    [
        (65_536, 3, 0),
        (65_536, 3, 17),
        (65_536, 0, 4),
        (65_536, 17, 4),
        (31, 3, 4),
        (0, 3, 1),
        (2**20 + 1, 3, 4),
        (2**32 - 1, 2**32 - 1, 255),
        (2**20, 5, 4),
    ],
)
def test_passphrase_costs(memory: int, passes: int, lanes: int) -> None:
    clear = writer.passphrase_clear(c.Cost(memory, passes, lanes), bytes(16))
    slot = writer.raw_slot(2, clear + bytes(104))
    message = writer.write_envelope(
        b"value",
        [writer.keyset_slot(KEY, nonce=os.urandom(24)), slot],
        dek=os.urandom(32),
        salt=os.urandom(24),
    )
    # Nobody who gives no passphrase looks at costs.
    assert reader.open_envelope(message, keys=[KEY]) == b"value"
    with pytest.raises(LimitError):
        reader.open_envelope(message, keys=[KEY], passphrase="x")
    wrapped = writer.wrapped_header(5, bytes(16)) + clear + bytes(104)
    with pytest.raises(LimitError):
        reader.passphrase_master("x")(wrapped, bytes(16))


def test_the_sum_of_passphrase_costs() -> None:
    clear = writer.passphrase_clear(c.Cost(2**20, 1, 1), bytes(16))
    reader.check_passphrase_work([clear] * 4)
    with pytest.raises(LimitError):
        reader.check_passphrase_work([clear] * 5)


def test_wrapped_keys() -> None:
    key, master = os.urandom(32), os.urandom(32)
    named = c.key_id(key)
    good = writer.wrap_software(master, key, nonce=os.urandom(24))
    unwrap = reader.software_master(master)
    assert unwrap(good, named) == key
    for bit in range(8 * 5, 8 * len(good)):
        changed = bytearray(good)
        changed[bit // 8] ^= 0x80 >> bit % 8
        expected = MasterKeyError if bit < 8 * 21 else DecryptionError
        with pytest.raises(expected):
            unwrap(bytes(changed), named)
    for length in range(len(good)):
        with pytest.raises(FormatError):
            unwrap(good[:length], named)
    for mechanism in range(256):
        renamed = good[:4] + bytes([mechanism]) + good[5:]
        if mechanism == 4:  # a service's blob has any length
            with pytest.raises(MasterKeyError):
                unwrap(renamed, named)
        elif mechanism:
            with pytest.raises(FormatError) as caught:
                unwrap(renamed, named)
            assert (type(caught.value) is UnsupportedVersionError) == (mechanism > 5)
    with pytest.raises(DecryptionError):
        unwrap(good, os.urandom(16))
    with pytest.raises(MasterKeyError):
        reader.software_master(os.urandom(32))(good, named)


def test_mechanisms_that_bind_no_context_are_checked_by_the_key_id() -> None:
    aes_key, key, other = os.urandom(32), os.urandom(32), os.urandom(32)
    cka_id = os.urandom(16)
    token = reader.token_master(aes_key, cka_id)
    for wrap in (writer.wrap_token_kw, writer.wrap_token_kwp):
        wrapped = wrap(aes_key, cka_id, key)
        assert token(wrapped, c.key_id(key)) == key
        with pytest.raises(DecryptionError):
            token(wrapped, c.key_id(other))
        with pytest.raises(DecryptionError):
            token(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), c.key_id(key))
    service = reader.service_master("name", lambda _blob, _context: other)
    with pytest.raises(DecryptionError):
        service(writer.wrap_service("name", lambda _key, _context: b"blob", key), c.key_id(key))


def test_wrong_passphrase() -> None:
    message = examples.wrapped_05()["message"]
    assert isinstance(message, bytes)
    with pytest.raises(MasterKeyError, match="passphrase"):
        reader.passphrase_master("another")(message, c.key_id(examples.KEY))
    with pytest.raises(DecryptionError):
        reader.open_envelope(examples.file_message(), passphrase="another")
