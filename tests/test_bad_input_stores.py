"""Bad input to what a key store opens, and to what needs no key at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import strongroom
from bad_input import bits_of, flip_each, refusal, refused_all
from hypothesis import given
from hypothesis import strategies as st
from independent import constructions as c
from independent import reader, writer
from store_for_tests import default_keys, keyset_slot, new_store, write_envelope
from strongroom import (
    DecryptionError,
    FileMasterKey,
    FormatError,
    KeyNotFoundError,
    KeyStore,
    PassphraseMasterKey,
    VersionedEncryption,
    _native,
)

AD = b"table:users/42"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with new_store(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("length", [0, 100, 65_536, 65_537])
def test_flips_and_cuts(store: KeyStore, length: int) -> None:
    cipher = VersionedEncryption(store)
    message = cipher.encrypt(os.urandom(length), AD)

    def decrypt(message: bytes | bytearray | memoryview) -> bytes:
        return cipher.decrypt(message, AD)

    def rotate(message: bytes | bytearray | memoryview) -> bytes:
        return cipher.rotate_encryption(message, AD)

    head = 300 if length > 100 else len(message)
    bits = [*bits_of(0, head), *bits_of(len(message) - 80, len(message))]
    refused_all(decrypt, flip_each(message, bits))
    refused_all(decrypt, (message[:cut] for cut in range(head)))
    refusal(decrypt, message + b"\x00")
    # A rotation authenticates too: of an envelope all but its chunks, which it does not touch.
    opened = bits_of(0, 20 if length <= 65_536 else reader.parse_envelope(message).chunks_at)
    refused_all(rotate, flip_each(message, opened))


def test_ids_of_other_keysets_are_unknown(store: KeyStore) -> None:
    store.create_keyset("tenant")
    theirs = VersionedEncryption(store, "tenant")
    ours = VersionedEncryption(store)
    for length in (10, 100_000):
        planted = theirs.encrypt(os.urandom(length), AD)
        for call in (ours.decrypt, ours.rotate_encryption):
            with pytest.raises(KeyNotFoundError) as caught:
                call(planted, AD)
            assert caught.value.key_id == store.get_current_key("tenant").id
        with pytest.raises(KeyNotFoundError):
            ours.decrypt_many([ours.encrypt(b"", AD), planted], AD)


def test_a_slot_of_another_keyset_is_no_candidate(store: KeyStore, tmp_path: Path) -> None:
    keys = default_keys(store, tmp_path)
    store.create_keyset("tenant")
    message = write_envelope(b"value", [keyset_slot(os.urandom(32)), keyset_slot(keys[2])], AD)
    assert VersionedEncryption(store).decrypt(message, AD) == b"value"
    with pytest.raises(KeyNotFoundError):
        VersionedEncryption(store, "tenant").decrypt(message, AD)


def test_retired_opens_and_destroyed_does_not(store: KeyStore, tmp_path: Path) -> None:
    primary, retired, _ = default_keys(store, tmp_path)
    record = writer.write_record(retired, b"value", AD, nonce=os.urandom(24))
    envelope = write_envelope(b"value", [keyset_slot(retired)], AD)
    both = write_envelope(b"value", [keyset_slot(retired), keyset_slot(primary)], AD)
    cipher = VersionedEncryption(store)
    for message in (record, envelope, both):
        assert cipher.decrypt(message, AD) == b"value"
    store.destroy_key(c.key_id(retired).hex(), force=True)
    for message in (record, envelope):
        error = refusal(lambda m: cipher.decrypt(m, AD), message)
        assert isinstance(error, KeyNotFoundError)
        assert error.key_id == c.key_id(retired).hex()
    assert cipher.decrypt(both, AD) == b"value"


def test_unknown_id_and_wrong_key_under_a_known_id(store: KeyStore, tmp_path: Path) -> None:
    primary = default_keys(store, tmp_path)[0]
    cipher = VersionedEncryption(store)
    foreign = writer.write_record(os.urandom(32), b"value", AD, nonce=os.urandom(24))
    assert type(refusal(lambda m: cipher.decrypt(m, AD), foreign)) is KeyNotFoundError
    renamed = foreign[:4] + c.key_id(primary) + foreign[20:]
    assert type(refusal(lambda m: cipher.decrypt(m, AD), renamed)) is DecryptionError


def test_kinds_that_no_keyset_opens(store: KeyStore) -> None:
    cipher = VersionedEncryption(store)
    token = writer.write_token_message(
        os.urandom(32), os.urandom(16), b"value", AD, nonce=os.urandom(12)
    )
    wrapped = writer.wrap_software(os.urandom(32), os.urandom(32), nonce=os.urandom(24))
    for message in (token, wrapped):
        assert type(refusal(lambda m: cipher.decrypt(m, AD), message)) is FormatError


# --- Wrapped keys --------------------------------------------------------------------------------


def test_every_bit_of_a_wrapped_key(tmp_path: Path) -> None:
    master = FileMasterKey.create(tmp_path / "master")
    key = _native.MemoryLockedKey.generate()
    blob = master.wrap(key, key.key_id)

    def unwrap(blob: bytes | bytearray | memoryview) -> bytes:
        return bytes(master.unwrap(bytes(blob), key.key_id).get())

    assert unwrap(blob) == bytes(key.get())
    assert refused_all(unwrap, flip_each(blob, bits_of(0, len(blob)))) == {DecryptionError}
    refused_all(unwrap, (blob[:length] for length in range(len(blob))))
    refusal(unwrap, blob + b"\x00")
    for context in (os.urandom(16).hex(), "0" * 32):
        with pytest.raises(DecryptionError):
            master.unwrap(blob, context)


def test_bytes_of_a_passphrase_wrapping() -> None:
    master = PassphraseMasterKey("passphrase")
    key = _native.MemoryLockedKey.generate()
    blob = master.wrap(key, key.key_id)

    def unwrap(blob: bytes | bytearray | memoryview) -> bytes:
        opened = master.unwrap(bytes(blob), key.key_id)
        return bytes(opened.get() if isinstance(opened, _native.MemoryLockedKey) else opened)

    assert unwrap(blob) == bytes(key.get())
    # All of the box; of the cost only what asks for too much: the rest runs Argon2id each time.
    box = bits_of(25, len(blob))
    assert refused_all(unwrap, flip_each(blob, box)) == {DecryptionError}
    for at, length in ((0, 4), (4, 4), (8, 1)):
        for value in (0, 256**length - 1):
            changed = blob[:at] + value.to_bytes(length) + blob[at + length :]
            assert type(refusal(unwrap, changed)) is strongroom.LimitError


# --- Without a key -------------------------------------------------------------------------------


def messages() -> list[bytes]:
    key = os.urandom(32)
    return [
        writer.write_record(key, b"value", nonce=os.urandom(24)),
        write_envelope(
            b"value",
            [
                keyset_slot(key),
                writer.raw_slot(2, os.urandom(129)),
                writer.raw_slot(3, os.urandom(16) + (125).to_bytes(2) + os.urandom(125 + 104)),
                writer.empty_slot(7),
            ],
        ),
    ]


def shown(data: bytes | bytearray | memoryview) -> None:
    """Everything that is to be had without a key, or a FormatError."""
    for call in (strongroom.inspect, strongroom.EncryptedPayload.from_bytes):
        try:
            call(data)
        except FormatError:
            continue
        assert reader.kind_of(bytes(data)) in range(1, 5)


def test_looking_at_changed_messages() -> None:
    for message in messages():
        shown(message)
        for changed in flip_each(message, bits_of(0, len(message))):
            shown(changed)
        # With its 5 bytes of plaintext gone it may be another message, as far as lengths tell.
        for cut in range(len(message) - 5):
            with pytest.raises(FormatError):
                strongroom.EncryptedPayload.from_bytes(message[:cut])
            with pytest.raises(FormatError):
                strongroom.inspect(message[:cut])


@given(st.binary(max_size=200), st.sampled_from([b"", b"SR\x02\x01", b"SR\x02\x02", b"SR\x02"]))
def test_looking_at_random_bytes(data: bytes, prefix: bytes) -> None:
    shown(prefix + data)


def test_what_looks_and_what_parses_agree() -> None:
    for message in messages():
        info = strongroom.inspect(message)
        payload = strongroom.EncryptedPayload.from_bytes(message)
        assert (info.version, info.length, info.plaintext_length) == (2, len(message), 5)
        assert info.key_ids == payload.key_ids
        if info.kind == "envelope":
            parsed = reader.parse_envelope(message)
            assert [(slot.offset, slot.length) for slot in info.slots] == [
                (slot.at, len(slot.body)) for slot in parsed.slots
            ]
            named = [key_id.hex() for key_id in reader.named_key_ids(parsed.slots)]
            # The third slot's wrapped key is garbage, which a look at its length does not show.
            assert list(info.key_ids)[: len(named)] == named
            assert info.salt == payload.salt == parsed.salt
        else:
            assert info.salt == payload.salt == message[20:44]
