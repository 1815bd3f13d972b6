"""Keys in tokens: what HSMKeyManager does on SoftHSM and on kryoptic, seen from outside."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hsm_help import LABEL, Backend, Bare, label
from hsm_help import backend as backend
from hsm_help import bare as bare
from hsm_help import hsm as hsm
from hsm_help import softhsm as softhsm
from independent import reader
from strongroom import (
    DatabaseKeyRotation,
    EncryptedDatabase,
    EnvelopeEncryption,
    HSMKeyManager,
    KeyStore,
    MemoryLockedKey,
    Pkcs11MasterKey,
    VersionedEncryption,
    files,
    inspect,
)
from strongroom.errors import (
    DecryptionError,
    FormatError,
    HSMError,
    KeyNotFoundError,
    KeyStateError,
    LimitError,
    UnsupportedVersionError,
)
from strongroom.masters import open_master

LENGTHS = [0, 1, 15, 16, 17, 1024, 65_535, 65_536]


# --- Keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["key", "master:key"])
@pytest.mark.parametrize("make", ["generate_key", "rotate"])
def test_a_key_is_made_as_it_should_be(
    hsm: HSMKeyManager, bare: Bare, prefix: str, make: str
) -> None:
    name = label(prefix)
    key_id = hsm.generate_key(name)
    assert key_id[:8] == "00000001"
    if make == "rotate":
        key_id = hsm.rotate(name)
        assert key_id[:8] == "00000002"
    assert hsm.find(name) == key_id
    (key,) = bare.session.get_objects({bare.p.Attribute.ID: bytes.fromhex(key_id)})
    a = bare.p.Attribute
    expected = {
        a.TOKEN: True, a.PRIVATE: True, a.LABEL: name, a.KEY_TYPE: bare.p.KeyType.AES,
        a.VALUE_LEN: 32, a.ENCRYPT: True, a.DECRYPT: True, a.WRAP: False, a.UNWRAP: False,
        a.SIGN: False, a.VERIFY: False, a.DERIVE: False, a.SENSITIVE: True, a.EXTRACTABLE: False,
        a.ALWAYS_SENSITIVE: True, a.NEVER_EXTRACTABLE: True, a.LOCAL: True,
    }  # fmt: skip
    assert key.get_attributes(list(expected)) == expected


@pytest.mark.parametrize("prefix", ["key", "master:key"])
def test_the_key_does_not_leave_the_token(hsm: HSMKeyManager, bare: Bare, prefix: str) -> None:
    name = label(prefix)
    for key_id in (hsm.generate_key(name), hsm.rotate(name)):
        (key,) = bare.session.get_objects({bare.p.Attribute.ID: bytes.fromhex(key_id)})
        with pytest.raises(bare.p.AttributeSensitive):
            key[bare.p.Attribute.VALUE]
        for weaker in ({"SENSITIVE": False}, {"EXTRACTABLE": True}):
            (attribute, value) = next(iter(weaker.items()))
            with pytest.raises(bare.p.PKCS11Error):
                key[bare.p.Attribute[attribute]] = value


def test_a_label_is_generated_once(hsm: HSMKeyManager) -> None:
    name = label()
    hsm.generate_key(name)
    with pytest.raises(HSMError, match="rotate it"):
        hsm.generate_key(name)
    assert len(hsm.list_keys(name)) == 1


def test_rotation_leaves_one_primary_that_encrypts(hsm: HSMKeyManager) -> None:
    name = label()
    ids = [hsm.generate_key(name)]
    messages = [hsm.encrypt(ids[0], b"0", b"ad")]
    for number in range(1, 4):
        ids.append(hsm.rotate(name))
        assert hsm.find(name) == ids[-1]
        messages.append(hsm.encrypt(ids[-1], str(number).encode(), b"ad"))
    listed = hsm.list_keys(name)
    assert [(key.id, key.version, key.active) for key in listed] == [
        (key_id, version, version == 4) for version, key_id in enumerate(ids, 1)
    ]
    for number, message in enumerate(messages):
        assert hsm.decrypt(ids[-1], message, b"ad") == str(number).encode()
    with pytest.raises(KeyStateError, match="later version") as caught:
        hsm.encrypt(ids[0], b"x")
    assert caught.value.key_id == ids[0]


def test_a_rotation_elsewhere_is_seen(backend: Backend, hsm: HSMKeyManager) -> None:
    name = label()
    key_id = hsm.generate_key(name)
    hsm.encrypt(key_id, b"x")
    backend.python("with open_manager() as h: h.rotate(arguments[0])", name)
    with pytest.raises(KeyStateError, match="later version"):
        hsm.encrypt(key_id, b"x")
    assert hsm.encrypt(hsm.find(name), b"x")


def test_destroyed_is_gone(backend: Backend, hsm: HSMKeyManager) -> None:
    name = label()
    key_id = hsm.generate_key(name)
    message = hsm.encrypt(key_id, b"x")
    hsm.destroy_key(key_id)
    for call in (
        lambda: hsm.decrypt(key_id, message),
        lambda: hsm.find(name),
        lambda: hsm.destroy_key(key_id),
        lambda: hsm.rotate(name),
    ):
        with pytest.raises(KeyNotFoundError):
            call()
    assert hsm.list_keys(name) == []


def test_destroyed_elsewhere_is_gone(backend: Backend, hsm: HSMKeyManager) -> None:
    key_id = hsm.generate_key(label())
    message = hsm.encrypt(key_id, b"x")
    backend.python("with open_manager() as h: h.destroy_key(arguments[0])", key_id)
    with pytest.raises(KeyNotFoundError):
        hsm.decrypt(key_id, message)


# --- Data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_round_trip(hsm: HSMKeyManager, length: int) -> None:
    key_id = hsm.generate_key(label())
    plaintext = secrets.token_bytes(length)
    for ad in (b"", b"ad", bytes(65_535)):
        message = hsm.encrypt(key_id, plaintext, ad)
        assert len(message) == length + 48
        assert hsm.decrypt(key_id, message, ad) == plaintext
    shown = inspect(message)
    assert shown.kind == "token"
    assert shown.key_ids == (key_id,) or list(shown.key_ids) == [key_id]


def test_against_aesgcm_and_the_independent_reader(hsm: HSMKeyManager, bare: Bare) -> None:
    value, key_id = secrets.token_bytes(32), (1).to_bytes(4) + secrets.token_bytes(12)
    bare.create(label(), key_id, value)
    for length in LENGTHS:
        plaintext = secrets.token_bytes(length)
        message = hsm.encrypt(key_id.hex(), plaintext, b"ad")
        assert message[:20] == b"SR\x02\x03" + key_id
        opened = AESGCM(value).decrypt(message[20:32], message[32:], message[:20] + b"ad")
        assert opened == plaintext
        assert reader.open_token_message(message, {key_id: value}, b"ad") == plaintext
        nonce = secrets.token_bytes(12)
        header = b"SR\x02\x03" + key_id
        other = header + nonce + AESGCM(value).encrypt(nonce, plaintext, header + b"ad")
        assert hsm.decrypt(key_id.hex(), other, b"ad") == plaintext


def test_wrapped_keys_against_the_independent_reader(hsm: HSMKeyManager, bare: Bare) -> None:
    value, master_id = secrets.token_bytes(32), (1).to_bytes(4) + secrets.token_bytes(12)
    bare.create(label("master:"), master_id, value)
    with MemoryLockedKey.generate() as key:
        material = bytes(key.get())
        wrapped = hsm.wrap_key(master_id.hex(), key)
        unwrap = reader.token_master(value, master_id)
        assert unwrap(wrapped, bytes.fromhex(key.key_id)) == material
        assert len(wrapped) == 81
        assert inspect(wrapped).kind == "wrapped key"
        assert bytes(hsm.unwrap_key(master_id.hex(), wrapped, key.key_id).get()) == material
        # The same bytes by another hand.
        head = wrapped[:21]
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(value).encrypt(nonce, material, head + bytes.fromhex(key.key_id))
        assert hsm.unwrap_key(master_id.hex(), head + nonce + sealed, key.key_id)
        with pytest.raises(reader.DecryptionError):
            unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), bytes.fromhex(key.key_id))


def test_nonces_are_distinct(hsm: HSMKeyManager) -> None:
    key_id = hsm.generate_key(label())
    assert len({hsm.encrypt(key_id, b"")[20:32] for _ in range(500)}) == 500


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_buffers(hsm: HSMKeyManager, kind: type) -> None:
    key_id = hsm.generate_key(label())
    message = hsm.encrypt(key_id, kind(b"plaintext"), kind(b"ad"))
    assert type(message) is bytes
    assert hsm.decrypt(key_id, kind(message), kind(b"ad")) == b"plaintext"
    assert hsm.encrypt(key_id, memoryview(b"abcdef")[::2])


def test_every_bit_of_a_message_counts(hsm: HSMKeyManager) -> None:
    key_id = hsm.generate_key(label())
    message = hsm.encrypt(key_id, b"0123456789", b"ad")
    for bit in range(8 * len(message)):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DecryptionError, KeyNotFoundError, FormatError)) as caught:
            hsm.decrypt(key_id, changed, b"ad")
        at = bit // 8
        kind = FormatError if at < 4 else KeyNotFoundError if at < 20 else DecryptionError
        assert isinstance(caught.value, kind), at
        assert caught.value.__cause__ is None
    with pytest.raises(DecryptionError):
        hsm.decrypt(key_id, message, b"other")
    assert hsm.decrypt(key_id, message, b"ad") == b"0123456789"


def test_every_bit_of_a_wrapped_key_counts(hsm: HSMKeyManager) -> None:
    master = hsm.generate_key(label("master:"))
    with MemoryLockedKey.generate() as key:
        wrapped = hsm.wrap_key(master, key)
        for bit in range(8 * len(wrapped)):
            changed = bytearray(wrapped)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises((DecryptionError, KeyNotFoundError, FormatError)) as caught:
                hsm.unwrap_key(master, changed, key.key_id)
            if bit // 8 >= 21:
                assert isinstance(caught.value, DecryptionError)
        with pytest.raises(DecryptionError):
            hsm.unwrap_key(master, wrapped, "00" * 16)
        assert hsm.unwrap_key(master, wrapped, key.key_id).key_id == key.key_id


@pytest.mark.parametrize("length", range(48))
def test_cut_messages_are_refused(softhsm: Backend, length: int) -> None:
    with softhsm.open() as hsm:
        key_id = hsm.generate_key(label())
        with pytest.raises(FormatError):
            hsm.decrypt(key_id, hsm.encrypt(key_id, b"")[:length])


def test_other_kinds_are_refused(hsm: HSMKeyManager) -> None:
    key_id = hsm.generate_key(label())
    message = hsm.encrypt(key_id, b"x")
    for third, fourth, error in ((1, 3, UnsupportedVersionError), (2, 9, UnsupportedVersionError),
                                 (2, 1, FormatError), (2, 4, FormatError)):  # fmt: skip
        changed = message[:2] + bytes([third, fourth]) + message[4:]
        with pytest.raises(error):
            hsm.decrypt(key_id, changed)
    with pytest.raises(FormatError):
        hsm.decrypt(key_id, message[:32] + bytes(65_537 + 16))


def test_64_kib_and_no_more(hsm: HSMKeyManager) -> None:
    key_id = hsm.generate_key(label())
    with pytest.raises(LimitError, match="EnvelopeEncryption"):
        hsm.encrypt(key_id, bytes(65_537))
    with pytest.raises(LimitError, match="associated data"):
        hsm.encrypt(key_id, b"", bytes(65_536))


def test_a_message_of_another_label_does_not_open_in_its_place(hsm: HSMKeyManager) -> None:
    ours, theirs = hsm.generate_key(label()), hsm.generate_key(label())
    planted = hsm.encrypt(theirs, b"x", b"ad")
    with pytest.raises(KeyNotFoundError) as caught:
        hsm.decrypt(ours, planted, b"ad")
    assert caught.value.key_id == theirs


def test_data_and_masters_are_kept_apart(hsm: HSMKeyManager) -> None:
    data, master = hsm.generate_key(label()), hsm.generate_key(label("master:"))
    message = hsm.encrypt(data, b"x")
    with MemoryLockedKey.generate() as key:
        wrapped = hsm.wrap_key(master, key)
        for call in (
            lambda: hsm.encrypt(master, b"x"),
            lambda: hsm.wrap_key(data, key),
            lambda: hsm.unwrap_key(data, wrapped[:5] + bytes.fromhex(data) + wrapped[21:],
                                   key.key_id),
            lambda: hsm.decrypt(master, message[:4] + bytes.fromhex(master) + message[20:]),
        ):  # fmt: skip
            with pytest.raises(KeyStateError, match="master"):
                call()


# --- Two tokens --------------------------------------------------------------------------------


def test_what_one_wraps_the_other_unwraps(softhsm: Backend) -> None:
    kryoptic = Backend("kryoptic")
    value, key_id = secrets.token_bytes(32), (1).to_bytes(4) + secrets.token_bytes(12)
    name = label("master:")
    data_value, data_id = secrets.token_bytes(32), (1).to_bytes(4) + secrets.token_bytes(12)
    with softhsm.open() as one, kryoptic.open() as two:
        for backend in (softhsm, kryoptic):
            bare = Bare(backend.path)
            bare.create(name, key_id, value)
            bare.create("data-" + name, data_id, data_value)
            bare.close()
        with MemoryLockedKey.generate() as key:
            for writer, opener in ((one, two), (two, one)):
                wrapped = writer.wrap_key(key_id.hex(), key)
                assert opener.unwrap_key(key_id.hex(), wrapped, key.key_id).key_id == key.key_id
                message = writer.encrypt(data_id.hex(), b"across", b"ad")
                assert opener.decrypt(data_id.hex(), message, b"ad") == b"across"


@pytest.mark.parametrize("mechanism", [2, 3], ids=["AES-KWP", "AES-KW"])
def test_wraps_without_gcm_go_across_too(
    softhsm: Backend, mechanism: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strongroom.hsm import binding

    if mechanism == 3:
        monkeypatch.setattr(binding, "KWP_NAMES", ())
    kryoptic = Backend("kryoptic")
    value, master_id = secrets.token_bytes(32), (1).to_bytes(4) + secrets.token_bytes(12)
    with softhsm.open() as one, kryoptic.open() as two, MemoryLockedKey.generate() as key:
        for backend in (softhsm, kryoptic):
            bare = Bare(backend.path)
            bare.create(label("master:"), master_id, value, wraps=True)
            bare.close()
        for writer, opener in ((one, two), (two, one)):
            wrapped = writer.wrap_key(master_id.hex(), key)
            assert (wrapped[4], len(wrapped)) == (mechanism, 61)
            assert opener.unwrap_key(master_id.hex(), wrapped, key.key_id).key_id == key.key_id
            unwrap = reader.token_master(value, master_id)
            assert unwrap(wrapped, bytes.fromhex(key.key_id)) == bytes(key.get())


# --- As a master -------------------------------------------------------------------------------


def test_a_store_its_files_and_its_records(
    backend: Backend, hsm: HSMKeyManager, tmp_path: Path
) -> None:
    name = label("master:")
    first = hsm.generate_key(name)
    uri = backend.uri(name, tmp_path / "pin")
    url = f"sqlite:///{tmp_path}/keys.db"
    source, target, back = tmp_path / "a", tmp_path / "a.sr", tmp_path / "b"
    source.write_bytes(secrets.token_bytes(100_000))
    opened = open_master(uri)
    assert isinstance(opened, Pkcs11MasterKey)
    opened.close()
    with Pkcs11MasterKey(uri) as master:
        assert master.key_id == first
        with KeyStore.create(url, master) as store:
            files.encrypt_file(source, target, store)
    hsm.rotate(name)
    # The root is wrapped by the older version, which unwraps.
    with Pkcs11MasterKey(uri) as master, KeyStore.open(url, master) as store:
        assert master.key_id != first
        files.decrypt_file(target, back, store)
        assert back.read_bytes() == source.read_bytes()
        (info,) = store.masters()
        assert info.key_id == first
        assert info.uri == uri
        store.rotate_master(first, master)
    hsm.destroy_key(first)
    with Pkcs11MasterKey(uri) as master, KeyStore.open(url, master) as store:
        assert [info.key_id for info in store.masters()] == [master.key_id]


def test_records_and_databases(backend: Backend, hsm: HSMKeyManager, tmp_path: Path) -> None:
    name = label("master:")
    hsm.generate_key(name)
    uri = backend.uri(name, tmp_path / "pin")
    url, path = f"sqlite:///{tmp_path}/keys.db", tmp_path / "data.db"
    with Pkcs11MasterKey(uri) as master, KeyStore.create(url, master) as store:
        message = VersionedEncryption(store).encrypt(b"record", b"ad")
        store.create_keyset("app", purpose="database")
        database = EncryptedDatabase(path, store, keyset="app")
        with contextlib.closing(database.connect()) as connection, connection:
            connection.execute("CREATE TABLE t (a)")
            connection.execute("INSERT INTO t VALUES (42)")
    hsm.rotate(name)
    with Pkcs11MasterKey(uri) as master, KeyStore.open(url, master) as store:
        assert VersionedEncryption(store).decrypt(message, b"ad") == b"record"
        store.rotate_master(store.masters()[0].key_id, master)
        assert DatabaseKeyRotation(path, store, keyset="app").rotate_key()
    with Pkcs11MasterKey(uri) as master, KeyStore.open(url, master) as store:
        database = EncryptedDatabase(path, store, keyset="app")
        with contextlib.closing(database.connect(mode="ro")) as connection:
            assert connection.execute("SELECT a FROM t").fetchall() == [(42,)]


def test_envelopes(backend: Backend, hsm: HSMKeyManager, tmp_path: Path) -> None:
    name = label("master:")
    hsm.generate_key(name)
    uri = backend.uri(name, tmp_path / "pin")
    with Pkcs11MasterKey(uri) as master, EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(b"value", b"ad")
        assert envelopes.decrypt(message, b"ad") == b"value"
    hsm.rotate(name)
    with Pkcs11MasterKey(uri) as master, EnvelopeEncryption(master) as envelopes:
        assert envelopes.decrypt(message, b"ad") == b"value"
        source, target = tmp_path / "in.sr", tmp_path / "out"
        source.write_bytes(message)
        files.decrypt_file(source, target, master=master, associated_data=b"ad")
        assert target.read_bytes() == b"value"


def test_a_warm_envelope_makes_no_call_to_the_token(
    backend: Backend, hsm: HSMKeyManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from strongroom.hsm.token import Token

    name = label("master:")
    hsm.generate_key(name)
    with Pkcs11MasterKey(backend.uri(name, tmp_path / "pin")) as master:
        with EnvelopeEncryption(master) as envelopes:
            envelopes.decrypt(envelopes.encrypt(b"warm"))

            def fail(*_: object, **__: object) -> None:
                raise AssertionError("a call to the token")

            monkeypatch.setattr(Token, "run", fail)
            for _ in range(100):
                assert envelopes.decrypt(envelopes.encrypt(b"value")) == b"value"
            with EnvelopeEncryption(master) as cold, pytest.raises(Exception, match="master"):
                cold.encrypt(b"value")


def test_what_shows(hsm: HSMKeyManager) -> None:
    assert LABEL in repr(hsm)
    assert hsm.token_label == LABEL
    hsm.close()
    hsm.close()
    assert hsm.closed
    with pytest.raises(HSMError, match="closed"):
        hsm.list_keys()
