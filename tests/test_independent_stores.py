"""Key stores against the second implementation in tests/independent, both ways.

The keys are read out of the store's database by the independent reader, with nothing but the
master: so its wrapped keys are read too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import strongroom
from independent import constructions as c
from independent import reader, writer
from store_for_tests import default_keys, keyset_slot, new_store, store_keys, write_envelope
from strongroom import (
    FileMasterKey,
    KeyStore,
    MemoryLockedKey,
    PassphraseMasterKey,
    VersionedEncryption,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with new_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def keys(store: KeyStore, tmp_path: Path) -> list[bytes]:
    """The keys of the keyset `default`, the primary first."""
    return default_keys(store, tmp_path)


@pytest.mark.parametrize("length", [0, 1, 65_536, 65_537, 200_000])
def test_versioned(store: KeyStore, keys: list[bytes], length: int) -> None:
    cipher = VersionedEncryption(store)
    plaintext, bound = os.urandom(length), b"users/42"
    message = cipher.encrypt(plaintext, bound)
    if length <= 65_536:
        assert reader.open_record(message, keys[:1], bound) == plaintext
    else:
        assert reader.open_envelope(message, keys=keys[:1], associated_data=bound) == plaintext
        assert [found.kind for found in reader.parse_envelope(message).slots] == [1]
    for key in keys:
        record = writer.write_record(key, plaintext, bound, nonce=os.urandom(24))
        envelope = write_envelope(plaintext, [keyset_slot(os.urandom(32)), keyset_slot(key)], bound)
        assert cipher.decrypt(record, bound) == plaintext
        assert cipher.decrypt(envelope, bound) == plaintext
        for ours in (record, envelope):
            rotated = cipher.rotate_encryption(ours, bound)
            current = key == keys[0]
            if rotated[3] == reader.RECORD:
                assert reader.open_record(rotated, keys[:1], bound) == plaintext
                assert (rotated == ours) == current
            else:
                assert (
                    reader.open_envelope(rotated, keys=keys[:1], associated_data=bound) == plaintext
                )
                if ours is envelope:
                    # Rewrapped: the slots alone change.
                    at = reader.parse_envelope(ours).chunks_at - 56
                    assert rotated.endswith(ours[at:])


def test_encrypted_payload_agrees(store: KeyStore, keys: list[bytes]) -> None:
    cipher = VersionedEncryption(store)
    for plaintext in (b"value", bytes(100_000)):
        message = cipher.encrypt(plaintext)
        payload = strongroom.EncryptedPayload.from_bytes(message)
        assert payload.version == 2
        assert payload.key_id == c.key_id(keys[0]).hex()
        assert payload.to_bytes() == message
        if payload.kind == "record":
            assert payload.salt == message[20:44]
        else:
            assert payload.kind == "envelope"
            assert payload.salt == reader.parse_envelope(message).salt
            assert list(payload.key_ids) == [c.key_id(keys[0]).hex()]


# --- Wrapped keys --------------------------------------------------------------------------------


def test_file_master(tmp_path: Path) -> None:
    master = FileMasterKey.create(tmp_path / "master")
    secret = bytes.fromhex((tmp_path / "master").read_text().split()[1])
    assert master.key_id == c.key_id(secret).hex()
    key = os.urandom(32)
    context = c.key_id(key).hex()
    header = writer.wrapped_header(0, c.key_id(secret))
    blob = master.wrap(key, context)
    assert reader.software_master(secret)(header + blob, c.key_id(key)) == key
    ours = writer.wrap_software(secret, key, nonce=os.urandom(24))
    opened = master.unwrap(ours[21:], context)
    assert bytes(opened.get() if isinstance(opened, MemoryLockedKey) else opened) == key


def test_passphrase_master(tmp_path: Path) -> None:
    passphrase = "Zo\u00eb's passphrase"
    master = PassphraseMasterKey(passphrase)
    url = f"sqlite:///{tmp_path}/keys.db"
    with KeyStore.create(url, master) as store:
        message = VersionedEncryption(store).encrypt(b"value")
    found = store_keys(tmp_path / "keys.db", reader.passphrase_master(passphrase))
    assert reader.open_record(message, found.values()) == b"value"
