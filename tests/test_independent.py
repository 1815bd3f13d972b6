"""The package against the second implementation in tests/independent, both ways.

What either writes, the other reads: through the package's public API, with every option that
changes a byte.
"""

from __future__ import annotations

import os
from typing import Literal

import pytest
import strongroom
from cryptography import cobblestone
from independent import constructions as c
from independent import examples, reader, writer
from strongroom import ParallelEncryption, SecureEncryption

RECORDS = [0, 1, 15, 16, 17, 64, 191, 192, 193, 4096, 16_384, 65_536, 65_537, 1 << 20]
ENVELOPES = [0, 1, 16_383, 16_384, 16_385, 32_768, 200_000, 8 << 20]
ASSOCIATED_DATA = [b"", b"\x00", b"table:users/42", bytes(range(256)), b"a" * 236, b"a" * 65_535]
COST = c.Cost(65_536, 3, 4)


def keyset_slot(key: bytes) -> writer.SlotMaker:
    return writer.keyset_slot(key, nonce=os.urandom(24))


def write_envelope(
    plaintext: bytes, slots: list[writer.SlotMaker], associated_data: bytes = b""
) -> bytes:
    return writer.write_envelope(
        plaintext, slots, associated_data, dek=os.urandom(32), salt=os.urandom(24)
    )


# --- The page's own messages ---------------------------------------------------------------------


def test_the_package_reads_the_examples_of_the_page() -> None:
    record, envelope = examples.record()["message"], examples.envelope()["message"]
    assert isinstance(record, bytes)
    assert isinstance(envelope, bytes)
    associated_data = examples.ASSOCIATED_DATA
    cipher = SecureEncryption(examples.KEY)
    assert cipher.decrypt(record, associated_data) == examples.PLAINTEXT
    large = ParallelEncryption(examples.KEY)
    assert large.decrypt_large(envelope, associated_data) == examples.PLAINTEXT
    assert large.decrypt_large(examples.file_message()) == b""


# --- Records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", RECORDS)
def test_records(length: int) -> None:
    key, plaintext = os.urandom(32), os.urandom(length)
    cipher = SecureEncryption(key)
    assert cipher.encrypted_size(length) == length + 92
    for associated_data in ASSOCIATED_DATA if length <= 4096 else ASSOCIATED_DATA[:2]:
        message = cipher.encrypt(plaintext, associated_data)
        assert reader.open_record(message, [key], associated_data) == plaintext
        ours = writer.write_record(key, plaintext, associated_data, nonce=os.urandom(24))
        assert cipher.decrypt(ours, associated_data) == plaintext
        # The same bytes, given the package's nonce.
        nonce = message[20:44]
        assert writer.write_record(key, plaintext, associated_data, nonce=nonce) == message
        out = bytearray(length + 92)
        assert cipher.encrypt_into(plaintext, out, associated_data) == len(out)
        assert reader.open_record(bytes(out), [key], associated_data) == plaintext


@pytest.mark.parametrize("engine", ["aes-gcm", "aws-lc"])
def test_hazmat(engine: Literal["aes-gcm", "aws-lc"]) -> None:
    for length in (0, 1, 100, 16_384, 100_000):
        key, nonce, plaintext = os.urandom(32), os.urandom(24), os.urandom(length)
        bound = os.urandom(40)
        sealed = c.kc_xaes_seal(key, nonce, plaintext, bound)
        hazmat = strongroom.hazmat
        assert hazmat.kc_xaes_256_gcm_encrypt(key, nonce, plaintext, bound, engine=engine) == sealed
        assert hazmat.kc_xaes_256_gcm_decrypt(key, nonce, sealed, bound, engine=engine) == plaintext
        message = hazmat.cobblestone_256_encrypt(key, plaintext, bound, engine=engine)
        assert c.cobblestone_open(key, message, bound) == plaintext
        ours = c.cobblestone_seal(key, os.urandom(24), plaintext, bound)
        assert hazmat.cobblestone_256_decrypt(key, ours, bound, engine=engine) == plaintext


def test_batches() -> None:
    key = os.urandom(32)
    cipher = SecureEncryption(key)
    plaintexts = [os.urandom(n * 7 % 3000) for n in range(500)]
    each = [os.urandom(n % 50) for n in range(500)]
    for given, used in ((None, [b""] * 500), (b"one", [b"one"] * 500), (each, each)):
        messages = cipher.encrypt_many(plaintexts, given)
        opened = [
            reader.open_record(message, [key], associated_data)
            for message, associated_data in zip(messages, used, strict=True)
        ]
        assert opened == plaintexts
        ours = [
            writer.write_record(key, plaintext, associated_data, nonce=os.urandom(24))
            for plaintext, associated_data in zip(plaintexts, used, strict=True)
        ]
        assert cipher.decrypt_many(ours, given) == plaintexts


@pytest.mark.parametrize("size", [1, 16, 100, 1000])
def test_packed(size: int) -> None:
    key, data = os.urandom(32), os.urandom(size * 300)
    cipher = SecureEncryption(key)
    packed = cipher.encrypt_packed(data, size, b"column")
    records = [packed[at : at + size + 92] for at in range(0, len(packed), size + 92)]
    assert len(records) == 300
    opened = b"".join(reader.open_record(record, [key], b"column") for record in records)
    assert opened == data
    ours = b"".join(
        writer.write_record(key, data[at : at + size], b"column", nonce=os.urandom(24))
        for at in range(0, len(data), size)
    )
    assert cipher.decrypt_packed(ours, size, b"column") == data


# --- Envelopes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ENVELOPES)
def test_envelopes(length: int) -> None:
    key, plaintext, bound = os.urandom(32), os.urandom(length), os.urandom(50)
    cipher = ParallelEncryption(key)
    message = cipher.encrypt_large(plaintext, bound)
    assert len(message) == cipher.encrypted_size(length)
    assert len(message) == 184 + length + 16 * (length // 16_384 + 1)
    assert cipher.plaintext_size(message) == length
    assert [found.kind for found in reader.parse_envelope(message).slots] == [1]
    assert reader.open_envelope(message, keys=[key], associated_data=bound) == plaintext
    ours = write_envelope(plaintext, [keyset_slot(key)], bound)
    assert cipher.decrypt_large(ours, bound) == plaintext
    # The same bytes, given the package's DEK, salt and nonce.
    _, dek = reader.open_dek(message, keys=[key], associated_data=bound)
    parsed = reader.parse_envelope(message)
    again = writer.write_envelope(
        plaintext,
        [writer.keyset_slot(key, nonce=parsed.slots[0].body[16:40])],
        bound,
        dek=dek,
        salt=parsed.salt,
    )
    assert again == message
    # A third implementation reads the chunks.
    decryptor = cobblestone.Cobblestone256Decryptor(dek, writer.ENVELOPE_PREFIX + bound)
    rest = message[parsed.chunks_at - 56 :]
    assert decryptor.update(rest) + decryptor.finalize() == plaintext


def test_envelope_with_slots_of_every_kind() -> None:
    key, kek, master = os.urandom(32), os.urandom(32), os.urandom(32)
    slots = [
        writer.empty_slot(120),
        writer.passphrase_slot("x", COST, salt=os.urandom(16), nonce=os.urandom(24)),
        writer.master_slot(
            kek,
            writer.wrap_software(master, kek, nonce=os.urandom(24)),
            nonce=os.urandom(24),
        ),
        keyset_slot(os.urandom(32)),
        keyset_slot(key),
    ]
    message = write_envelope(b"value", slots, b"bound")
    assert ParallelEncryption(key).decrypt_large(message, b"bound") == b"value"
