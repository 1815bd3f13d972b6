"""What test_memory_scan.py searches: uses keys through the public paths, and stops at checkpoints.

Keys come from files, straight into bytearrays that are wiped. Run: memory_target.py SCENARIO FOLDER
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path

if sys.argv[1:2] == ["exit"]:
    # Before the library is imported: such functions run in the reverse order. It sleeps for ever.
    ctypes.pythonapi.Py_AtExit(ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p))

import strongroom
from strongroom import (
    DatabaseKeyRotation,
    DecryptionError,
    EncryptedDatabase,
    EncryptedDatabaseError,
    EnvelopeEncryption,
    FileMasterKey,
    KeyStore,
    MemoryLockedKey,
    ParallelEncryption,
    PassphraseMasterKey,
    SecureBuffer,
    SecureEncryption,
    VersionedEncryption,
    _native,
    secure_key_context,
)

FOLDER = Path(sys.argv[2]) if __name__ == "__main__" else Path()
LARGE = 1 << 20


def checkpoint(name: str) -> None:
    """Tells the scanner, and waits until it is done."""
    os.write(1, name.encode() + b"\n")
    os.read(0, 1)


def raw_key(name: str = "key", length: int = 32) -> bytearray:
    """The key in a file, with no copy of it but the result."""
    key = bytearray(length)
    fd = os.open(FOLDER / name, os.O_RDONLY)
    os.readv(fd, [key])
    os.close(fd)
    return key


def records(key: MemoryLockedKey) -> None:
    """Each call of SecureEncryption, with successes and failures."""
    cipher = SecureEncryption(key)
    for size in (0, 1, 100, 65_536, LARGE):
        data = os.urandom(size)
        message = cipher.encrypt(data, b"ad")
        assert cipher.decrypt(message, b"ad") == data
        out = bytearray(len(message))
        cipher.encrypt_into(data, out)
        cipher.decrypt_into(out, bytearray(size))
        with contextlib.suppress(DecryptionError):
            cipher.decrypt(message, b"other")
        with contextlib.suppress(DecryptionError):
            cipher.decrypt_into(message, bytearray(size), b"other")
    messages = cipher.encrypt_many([b"x" * 256] * 1000)
    cipher.decrypt_many(messages)
    with contextlib.suppress(DecryptionError):
        cipher.decrypt_many(messages, b"other")
    packed = cipher.encrypt_packed(b"x" * 25_600, 256)
    cipher.decrypt_packed(packed, 256)


def envelopes(key: MemoryLockedKey) -> None:
    """Each call of ParallelEncryption, with successes and failures; keeps one message in a file."""
    cipher = ParallelEncryption(key)
    for size in (0, 1, LARGE, 4 * LARGE):
        data = bytes(size)
        message = cipher.encrypt_large(data, b"ad")
        assert cipher.decrypt_large(message, b"ad") == data
        out = bytearray(len(message))
        cipher.encrypt_large_into(data, out)
        cipher.decrypt_large_into(out, bytearray(size))
        with contextlib.suppress(DecryptionError):
            cipher.decrypt_large(message, b"other")
        with contextlib.suppress(DecryptionError):
            cipher.decrypt_large(message[:-1] + b"\0", b"ad")
    (FOLDER / "message").write_bytes(cipher.encrypt_large(os.urandom(100_000)))
    cipher.decrypt_large((FOLDER / "message").read_bytes())


def scenario_control() -> None:
    """A copy on the heap that the scan must find."""
    kept = raw_key()
    checkpoint("alive")
    kept[:] = bytes(32)
    checkpoint("gone")


def scenario_keys() -> None:
    """Records and envelopes under one key."""
    key = MemoryLockedKey(raw_key())
    checkpoint("alive")
    records(key)
    checkpoint("records")
    envelopes(key)
    checkpoint("envelopes")
    key.destroy()
    checkpoint("gone")


def scenario_record() -> None:
    """One record after the other, with nothing after it that would overwrite its traces."""
    cipher = SecureEncryption(MemoryLockedKey(raw_key()))
    for name, size in (("small", 64), ("large", 65_536)):
        message = cipher.encrypt(bytes(size))
        (FOLDER / "record").write_bytes(message)
        checkpoint(f"{name} encrypted")
        cipher.decrypt(message)
        checkpoint(f"{name} decrypted")
        with contextlib.suppress(DecryptionError):
            cipher.decrypt(message, b"other")
        checkpoint(f"{name} refused")


def scenario_deleted() -> None:
    """The last reference goes, without destroy."""
    key = MemoryLockedKey(raw_key())
    records(key)
    checkpoint("alive")
    del key
    checkpoint("gone")


def scenario_contexts() -> None:
    """Views and contexts, left by an exception too."""
    with secure_key_context(raw_key()) as view:
        SecureEncryption(view).encrypt(b"x")
        checkpoint("alive")
    for _ in range(50):
        with contextlib.suppress(ZeroDivisionError), secure_key_context(raw_key()) as view:
            assert len(view) == 32
            1 / 0  # noqa: B018
    with SecureBuffer(32) as buffer, (FOLDER / "key").open("rb", buffering=0) as file:
        file.readinto(buffer.view())
        copy = buffer.read()
        copy[:] = bytes(32)
        MemoryLockedKey(buffer.view()).destroy()
    checkpoint("gone")


def filled(size: int = 32) -> SecureBuffer:
    """A buffer that ends with the key, read straight into it."""
    buffer = SecureBuffer(size)
    with (FOLDER / "key").open("rb", buffering=0) as file, buffer.view() as view:
        file.readinto(view[-32:])
    return buffer


def scenario_buffers() -> None:
    """Buffers, small and with pages of their own, and all the ways in which they end."""
    kept = [filled(size) for size in (32, 5000) for _ in range(4)]
    checkpoint("alive")
    for closed, cleared, left, deleted in (kept[:4], kept[4:]):
        closed.close()
        cleared.clear()
        with contextlib.suppress(ZeroDivisionError), left:
            1 / 0  # noqa: B018
        view = deleted.view()
        kept.remove(deleted)
        del deleted
        view.release()
        del view
    checkpoint("gone")
    assert len(kept) == 6


def scenario_passphrase() -> None:
    """Files and a store under a passphrase: 32 bytes, the same that are the key."""
    plain, sealed = FOLDER / "plain", FOLDER / "sealed"
    plain.write_bytes(os.urandom(300_000))
    phrase = raw_key()
    strongroom.encrypt_file(plain, sealed, passphrase=phrase)
    strongroom.verify_file(sealed, passphrase=phrase)
    checkpoint("files")
    master = PassphraseMasterKey(phrase)
    phrase[:] = bytes(32)
    with KeyStore.create(f"sqlite:///{FOLDER}/keys.db", master) as store:
        cipher = VersionedEncryption(store)
        cipher.decrypt(cipher.encrypt(b"x"))
        checkpoint("alive")
    master.close()
    checkpoint("gone")


def scenario_cache() -> None:
    """Envelopes under a master, whose KEKs are cached, until they are forgotten."""
    master = FileMasterKey.create(FOLDER / "master")
    with EnvelopeEncryption(master) as cipher:
        message = cipher.encrypt(os.urandom(100_000), b"ad")
        cipher.decrypt(message, b"ad")
        with contextlib.suppress(DecryptionError):
            cipher.decrypt(message, b"other")
        (FOLDER / "message").write_bytes(message)
        checkpoint("alive")
        cipher.forget()
        checkpoint("forgotten")
    del master, cipher
    gc.collect()
    checkpoint("gone")


def scenario_signing() -> None:
    """Signatures with an Ed25519 key that is derived from a key, as `KeysetSigner` makes them."""
    key = MemoryLockedKey(raw_key())
    assert len(_native.audit_public_key(key)) == 32
    checkpoint("public key")
    assert len(_native.audit_sign(key, b"message")) == 64
    checkpoint("signed")
    key.destroy()
    checkpoint("gone")


def scenario_failing() -> None:
    """Exceptions while a key is in use, their tracebacks kept."""
    kept = []
    for _ in range(50):
        try:
            with MemoryLockedKey(raw_key()) as key:
                SecureEncryption(key).decrypt(SecureEncryption(key).encrypt(b"x"), b"other")
        except DecryptionError as error:
            kept.append(error)
    checkpoint("gone")
    assert len(kept) == 50


def scenario_store() -> None:
    """A key store with its master in a file, and all that works under it."""
    plain, sealed, back = FOLDER / "plain", FOLDER / "sealed", FOLDER / "back"
    plain.write_bytes(os.urandom(300_000))
    master = FileMasterKey.create(FOLDER / "master")
    with KeyStore.create(f"sqlite:///{FOLDER}/keys.db", master) as store:
        checkpoint("created")
        cipher = VersionedEncryption(store)
        for size in (0, 100, 65_536, 65_537, LARGE):
            message = cipher.encrypt(bytes(size), b"ad")
            cipher.decrypt(message, b"ad")
            cipher.rotate_encryption(message, b"ad")
            with contextlib.suppress(DecryptionError):
                cipher.decrypt(message, b"other")
        cipher.decrypt_many(cipher.encrypt_many([b"x" * 256] * 100))
        checkpoint("values")
        strongroom.encrypt_file(plain, sealed, store)
        strongroom.verify_file(sealed, store)
        strongroom.decrypt_file(sealed, back, store)
        with strongroom.open(sealed, "rb", store) as file:
            file.seek(100_000)
            assert len(file.read(10)) == 10
        with strongroom.open(FOLDER / "written", "wb", store) as file:
            file.write(bytes(100_000))
        with contextlib.suppress(DecryptionError):
            strongroom.verify_file(sealed, store, associated_data=b"other")
        (FOLDER / "message").write_bytes(sealed.read_bytes())
        checkpoint("files")
        store.rotate()
        cipher.rotate_encryption(message, b"ad")
        strongroom.rewrap_file(sealed, store)
        checkpoint("rotated")
    del cipher, store, master
    gc.collect()
    checkpoint("gone")


def scenario_database() -> None:
    """A database under a key that is given, and one that its key does not open."""
    key = MemoryLockedKey(raw_key())
    path = FOLDER / "app.db"
    with contextlib.closing(EncryptedDatabase(path, key).connect()) as connection:
        connection.execute("CREATE TABLE rows (data)")
        connection.execute("INSERT INTO rows VALUES (?)", (os.urandom(100_000),))
        connection.commit()
        checkpoint("open")
    checkpoint("closed")
    with contextlib.suppress(EncryptedDatabaseError):
        EncryptedDatabase(path, MemoryLockedKey.generate()).connect()
    other = FOLDER / "other.db"
    other.write_bytes(os.urandom(8192))
    with contextlib.suppress(EncryptedDatabaseError):
        EncryptedDatabase(other, key).connect()
    checkpoint("refused")
    key.destroy()
    checkpoint("gone")


def scenario_rotation() -> None:
    """A database under a key store, whose key is rotated."""
    master = FileMasterKey.create(FOLDER / "master")
    with KeyStore.create(f"sqlite:///{FOLDER}/keys.db", master) as store:
        store.create_keyset("database", purpose="database")
        path = FOLDER / "app.db"
        with contextlib.closing(EncryptedDatabase(path, store).connect()) as connection:
            connection.execute("CREATE TABLE rows (data)")
        checkpoint("made")
        rotation = DatabaseKeyRotation(path, store)
        rotation.rotate_key()
        checkpoint("rotated")
        rotation.verify()
        rotation.recover()
        EncryptedDatabase(path, store).connect().close()
        checkpoint("verified")
    del rotation, store, master
    gc.collect()
    checkpoint("gone")


def scenario_token() -> None:
    """Keys that a token wraps and unwraps, and the PIN that opens it."""
    pin = raw_key("pin", 200)
    key = MemoryLockedKey(raw_key())

    def read_pin() -> bytearray:
        return pin

    with strongroom.HSMKeyManager(token_label="memory", pin=read_pin) as hsm:
        pin[:] = bytes(len(pin))
        checkpoint("opened")
        # The second manager's PIN is compared with the first one's.
        pin[:] = raw_key("pin", 200)
        strongroom.HSMKeyManager(token_label="memory", pin=read_pin).close()
        pin[:] = bytes(len(pin))
        checkpoint("opened twice")
        # The session is lost, and the PIN that is kept opens another.
        assert hsm._token is not None
        hsm._module.close_session(hsm._token._session, log_out=True)
        master = hsm.generate_key("master:memory")
        checkpoint("opened again")
        for _ in range(20):
            wrapped = hsm.wrap_key(master, key)
            hsm.unwrap_key(master, wrapped, key.key_id).destroy()
            with contextlib.suppress(DecryptionError):
                hsm.unwrap_key(master, wrapped, "00" * 16)
        checkpoint("alive")
    key.destroy()
    checkpoint("gone")


def scenario_exit() -> None:
    """Secrets that are alive when the interpreter ends, in places that it does not clear."""
    key = MemoryLockedKey(raw_key())
    cipher = SecureEncryption(key)
    cipher.encrypt(b"x")
    # Never freed: one reference more than there are.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(cipher))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(key))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(filled()))
    checkpoint("alive")


def main() -> None:
    """Runs the scenario that the command line names."""
    os.read(0, 1)
    globals()[f"scenario_{sys.argv[1]}"]()


if __name__ == "__main__":
    main()
