"""VersionedEncryption under a key store that rotates, EncryptedPayload and inspect."""

from __future__ import annotations

import copy
import pickle

import pytest
import strongroom
from strongroom import (
    DecryptionError,
    EncryptedPayload,
    FileMasterKey,
    FormatError,
    KeyNotFoundError,
    KeyStateError,
    KeyStore,
    KeyStoreError,
    ParallelEncryption,
    SecureEncryption,
    UnsupportedVersionError,
    VersionedEncryption,
    generate_key,
    inspect,
)

RECORD_MAX = 65_536
SIZES = [0, 1, 100, 16_384, RECORD_MAX - 1, RECORD_MAX, RECORD_MAX + 1, 100_000, 2_000_000]
AD = b"table/42"


@pytest.fixture
def master(tmp_path):
    return FileMasterKey.create(tmp_path / "master.key")


@pytest.fixture
def store(tmp_path, master):
    with KeyStore.create(f"sqlite:///{tmp_path / 'keys.db'}", master) as store:
        yield store


@pytest.fixture
def cipher(store):
    return VersionedEncryption(store)


def content(size: int) -> bytes:
    return bytes((i * 13 + (i >> 8)) & 0xFF for i in range(size))


def is_envelope(message: bytes) -> bool:
    return message[:4] == b"SR\x02\x02"


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(cipher, store, size):
    message = cipher.encrypt(content(size), AD)
    assert type(message) is bytes
    assert is_envelope(message) == (size > RECORD_MAX)
    if size <= RECORD_MAX:
        assert len(message) == size + 92
    assert cipher.decrypt(message, AD) == content(size)
    assert cipher.decrypt(bytearray(message), associated_data=bytearray(AD)) == content(size)
    assert EncryptedPayload.from_bytes(message).key_id == store.get_current_key().id
    with pytest.raises(DecryptionError):
        cipher.decrypt(message)
    for position in (len(message) - 1, 30):
        changed = bytearray(message)
        changed[position] ^= 1
        with pytest.raises(DecryptionError):
            cipher.decrypt(changed, AD)


def test_reads_what_the_other_classes_write_under_its_key(tmp_path, store):
    # The same formats and keys: a record of any size, an envelope of any size.
    cipher = VersionedEncryption(store)
    with pytest.raises(KeyNotFoundError):
        cipher.decrypt(SecureEncryption(generate_key()).encrypt(b"x"))
    with pytest.raises(KeyNotFoundError):
        cipher.decrypt(ParallelEncryption(generate_key()).encrypt_large(b"x"))


@pytest.mark.parametrize("size", [100, 100_000])
def test_rotation(cipher, store, size):
    plaintext = content(size)
    old_id = store.get_current_key().id
    first = cipher.encrypt(plaintext, AD)
    assert cipher.rotate_encryption(first, AD) == first
    assert cipher.rotate_many([first], AD) == [first]

    new_id = store.rotate().id
    assert new_id != old_id
    assert cipher.decrypt(first, AD) == plaintext
    second = cipher.encrypt(plaintext, AD)
    assert EncryptedPayload.from_bytes(second).key_id == new_id

    rotated = cipher.rotate_encryption(first, AD)
    assert EncryptedPayload.from_bytes(rotated).key_ids == (new_id,)
    assert cipher.decrypt(rotated, AD) == plaintext
    assert len(rotated) == len(first)
    assert cipher.rotate_encryption(rotated, AD) == rotated
    # An envelope is rewrapped, its chunks are the same bytes; a record is encrypted anew.
    same = EncryptedPayload.from_bytes(first).salt == EncryptedPayload.from_bytes(rotated).salt
    assert same == is_envelope(first)
    if is_envelope(first):
        assert rotated[-size:] == first[-size:]

    for message in (first, rotated):
        anew = cipher.rotate_encryption(message, AD, reencrypt=True)
        assert EncryptedPayload.from_bytes(anew).key_id == new_id
        assert EncryptedPayload.from_bytes(anew).salt != EncryptedPayload.from_bytes(message).salt
        assert cipher.decrypt(anew, AD) == plaintext

    for wrong in (first[:-1] + bytes([first[-1] ^ 1]), first):
        with pytest.raises(DecryptionError):
            cipher.rotate_encryption(wrong, b"other", reencrypt=True)


@pytest.mark.parametrize("size", [100, 100_000])
def test_states(cipher, store, size):
    plaintext = content(size)
    old = store.get_current_key()
    message = cipher.encrypt(plaintext, AD)
    store.rotate()
    assert store.get_key(old.id).state == "deactivated"
    assert cipher.decrypt(message, AD) == plaintext

    store.compromise_key(old.id)
    with pytest.raises(KeyStateError) as caught:
        cipher.decrypt(message, AD)
    assert (caught.value.key_id, caught.value.state) == (old.id, "compromised")
    assert cipher.decrypt(message, AD, allow_compromised=True) == plaintext
    saved = cipher.rotate_encryption(message, AD)
    # Never rewrapped: whoever has the old key has the DEK.
    assert EncryptedPayload.from_bytes(saved).salt != EncryptedPayload.from_bytes(message).salt
    assert cipher.decrypt(saved, AD) == plaintext

    store.destroy_key(old.id, force=True)
    for flags in ({}, {"allow_compromised": True}):
        with pytest.raises(KeyNotFoundError, match="may be retired or destroyed") as caught:
            cipher.decrypt(message, AD, **flags)
        assert caught.value.key_id == old.id
        assert not str(caught.value).startswith("'")
    assert cipher.decrypt(saved, AD) == plaintext


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_key_of_another_keyset_is_unknown(store, size):
    store.create_keyset("tenant a")
    store.create_keyset("tenant b")
    a, b = VersionedEncryption(store, "tenant a"), VersionedEncryption(store, "tenant b")
    message = a.encrypt(content(size), AD)
    with pytest.raises(KeyNotFoundError, match="of another keyset"):
        b.decrypt(message, AD)
    with pytest.raises(KeyNotFoundError):
        b.rotate_encryption(message, AD)
    with pytest.raises(KeyNotFoundError):
        b.decrypt_many([message], AD)
    assert a.decrypt(message, AD) == content(size)


def test_keysets_that_are_refused(store):
    store.create_keyset("db", purpose="database")
    with pytest.raises(KeyNotFoundError, match="nowhere"):
        VersionedEncryption(store, "nowhere")
    with pytest.raises(KeyStateError):
        VersionedEncryption(store, "db").encrypt(b"x")
    for wrong in (None, 7, b"default"):
        with pytest.raises(TypeError):
            VersionedEncryption(store, wrong)


def test_without_a_primary(cipher, store):
    message = cipher.encrypt(b"x")
    store.suspend_key(store.get_current_key().id)
    with pytest.raises(KeyStateError):
        cipher.encrypt(b"x")
    with pytest.raises(KeyStateError, match="suspended"):
        cipher.decrypt(message)
    store.rotate()
    assert cipher.decrypt(cipher.encrypt(b"x")) == b"x"


def test_closed_store(tmp_path, master):
    store = KeyStore.create(f"sqlite:///{tmp_path / 'closed.db'}", master)
    cipher = VersionedEncryption(store)
    message = cipher.encrypt(b"x")
    store.close()
    for call in (
        lambda: cipher.encrypt(b"x"),
        lambda: cipher.decrypt(message),
        lambda: cipher.encrypt_many([b"x"]),
        lambda: cipher.decrypt_many([message]),
        lambda: cipher.rotate_encryption(message),
        lambda: VersionedEncryption(store),
    ):
        with pytest.raises(KeyStoreError):
            call()


def test_another_process_rotates(tmp_path, store, cipher, master):
    # A second store object on the same file stands for the other process: it shares no cache.
    with KeyStore.open(store.url, master) as elsewhere:
        other = VersionedEncryption(elsewhere)
        assert cipher.decrypt(other.encrypt(b"x")) == b"x"
        new = elsewhere.rotate()
        message = other.encrypt(b"x")
        # Within the cache time this process still writes under the old key, and reads the new one.
        assert EncryptedPayload.from_bytes(cipher.encrypt(b"y")).key_id != new.id
        assert cipher.decrypt(message) == b"x"
        store.refresh()
        assert EncryptedPayload.from_bytes(cipher.encrypt(b"y")).key_id == new.id


# Batches


def test_many(cipher, store):
    plaintexts = [content(size) for size in SIZES] + [b"row"] * 10_000
    each = [str(number).encode() for number in range(len(plaintexts))]
    messages = cipher.encrypt_many(plaintexts, each)
    assert [is_envelope(message) for message in messages[: len(SIZES)]] == [
        size > RECORD_MAX for size in SIZES
    ]
    assert cipher.decrypt_many(messages, each) == plaintexts
    store.rotate()
    messages = messages[:200] + cipher.encrypt_many(plaintexts[200:], each[200:])
    assert cipher.decrypt_many(messages, tuple(each)) == plaintexts
    rotated = cipher.rotate_many(messages, each)
    new_id = store.get_current_key().id
    assert {EncryptedPayload.from_bytes(message).key_id for message in rotated} == {new_id}
    assert rotated[200:] == messages[200:]
    assert cipher.decrypt_many(rotated, each) == plaintexts
    assert cipher.decrypt_many([]) == cipher.encrypt_many([]) == cipher.rotate_many([]) == []


@pytest.mark.parametrize("index", [0, 1, 4095, 4096, 5000])
@pytest.mark.parametrize("size", [10, 70_000])
def test_many_with_a_bad_one(cipher, index, size):
    messages = cipher.encrypt_many([b"row"] * 5001)
    bad = bytearray(cipher.encrypt(content(size)))
    bad[-1] ^= 1
    messages[index] = bad
    with pytest.raises(DecryptionError) as caught:
        cipher.decrypt_many(messages)
    assert caught.value.index == index
    with pytest.raises(DecryptionError) as caught:
        cipher.rotate_many(messages, reencrypt=True)
    assert caught.value.index == index


def test_many_are_rotated_as_each_would_be(cipher, store):
    sizes = [0, 1, 100, RECORD_MAX, RECORD_MAX + 1] * 300
    plaintexts = [content(size) for size in sizes]
    each = [str(number).encode() for number in range(len(sizes))]
    messages = cipher.encrypt_many(plaintexts, each)
    lost = store.get_current_key().id
    store.rotate()
    old = cipher.encrypt_many(plaintexts, each)
    store.compromise_key(lost)
    new_id = store.rotate().id
    new = cipher.encrypt_many(plaintexts, each)
    for given in (messages, old, new):
        rotated = cipher.rotate_many(given, each)
        assert cipher.decrypt_many(rotated, each) == plaintexts
        ids = {id_ for message in rotated for id_ in EncryptedPayload.from_bytes(message).key_ids}
        assert ids == {new_id}
        assert [len(message) for message in rotated] == [len(message) for message in given]
        # What is current is the object that was given; an envelope of a good key keeps its data.
        assert [a is b for a, b in zip(given, rotated, strict=True)] == [given is new] * len(sizes)
        kept = [a[-64:] == b[-64:] for a, b in zip(given, rotated, strict=True)]
        expected = [given is new or (given is old and size > RECORD_MAX) for size in sizes]
        assert kept == expected
        anew = cipher.rotate_many(tuple(given), each, reencrypt=True)
        assert not set(anew) & set(given)
        assert cipher.decrypt_many(anew, each) == plaintexts
    # A buffer that is no `bytes` comes back as a `bytes` of its own.
    held = [bytearray(message) for message in new[:5]]
    copies = cipher.rotate_many(held, each[:5])
    assert copies == new[:5]
    assert {type(copy) for copy in copies} == {bytes}
    held[0][-1] ^= 1
    with pytest.raises(DecryptionError) as caught:
        cipher.rotate_many(held, each[:5])
    assert caught.value.index == 0


def test_what_is_current_is_not_encrypted_again(cipher, store):
    messages = cipher.encrypt_many([b"row"] * 300)

    def encrypted():
        store.flush_usage()
        return store.usage_of(store.get_current_key().id).messages

    before = encrypted()
    cipher.rotate_many(messages)
    cipher.rotate_encryption(messages[0])
    assert encrypted() == before
    cipher.rotate_many(messages, reencrypt=True)
    assert encrypted() == before + 300


# Handles


def test_a_payload_does_not_pickle(cipher):
    payload = EncryptedPayload.from_bytes(cipher.encrypt(b"value"))
    for attempt in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="to_bytes"):
            attempt(payload)


def test_does_not_pickle_or_copy(cipher):
    for call in (
        lambda: pickle.dumps(cipher),
        lambda: copy.copy(cipher),
        lambda: copy.deepcopy(cipher),
    ):
        with pytest.raises(TypeError, match="open the store"):
            call()
    assert "default" in repr(cipher)


# What a message shows


def test_payload_of_a_record(cipher, store):
    message = cipher.encrypt(b"plaintext", AD)
    payload = EncryptedPayload.from_bytes(bytearray(message))
    assert (payload.version, payload.kind) == (2, "record")
    assert payload.key_id == store.get_current_key().id
    assert payload.key_ids == (payload.key_id,)
    assert payload.salt == message[20:44]
    assert payload.ciphertext == message[44:]
    assert payload.to_bytes() == message
    assert payload.key_id in repr(payload)


def test_payload_of_an_envelope(cipher, store):
    message = cipher.encrypt(bytes(100_000), AD)
    payload = EncryptedPayload.from_bytes(message)
    assert (payload.version, payload.kind) == (2, "envelope")
    assert payload.key_id == store.get_current_key().id
    start = 5 + 3 + 120
    assert payload.salt == message[start : start + 24]
    assert payload.ciphertext == message[start + 24 :]
    assert payload.to_bytes() == message


def test_payload_of_no_message(cipher):
    message = cipher.encrypt(b"x")
    for wrong in (b"", b"text", message[:91], message[:20]):
        with pytest.raises(FormatError):
            EncryptedPayload.from_bytes(wrong)
    with pytest.raises(UnsupportedVersionError):
        EncryptedPayload.from_bytes(b"SR\x03" + message[3:])
    with pytest.raises(TypeError):
        EncryptedPayload.from_bytes("text")


def test_inspect_needs_no_key(tmp_path, cipher, store):
    key_id = store.get_current_key().id
    record = inspect(cipher.encrypt(b"x" * 77))
    assert (record.kind, record.version, record.key_ids) == ("record", 2, (key_id,))
    assert (record.length, record.plaintext_length) == (77 + 92, 77)
    message = cipher.encrypt(bytes(100_000))
    envelope = inspect(message)
    assert (envelope.kind, envelope.key_ids) == ("envelope", (key_id,))
    assert (envelope.length, envelope.plaintext_length) == (len(message), 100_000)
    assert [slot.kind for slot in envelope.slots] == ["keyset"]
    path = tmp_path / "message"
    path.write_bytes(message)
    assert inspect(path) == inspect(str(path)) == envelope
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "nowhere")
    with pytest.raises(FormatError):
        inspect(b"text")


def test_what_is_no_store_or_master_is_told(tmp_path, store):
    with pytest.raises(TypeError, match="key_store must be an open KeyStore, not str"):
        VersionedEncryption("keys.db")
    with pytest.raises(TypeError, match="key_store must be an open KeyStore, not str"):
        strongroom.encrypt_file(tmp_path / "a", tmp_path / "b", "keys.db")
    with pytest.raises(TypeError, match=r"open_master\(uri\), not str"):
        KeyStore.open(store.url, "file:master.key")
