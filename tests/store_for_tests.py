"""A key store for tests, and its keys as the independent reader finds them in its file."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

from independent import errors, reader, writer
from strongroom import FileMasterKey, KeyStore


def keyset_slot(key: bytes) -> writer.SlotMaker:
    """A slot of kind 01 under `key`."""
    return writer.keyset_slot(key, nonce=os.urandom(24))


def write_envelope(
    plaintext: bytes, slots: list[writer.SlotMaker], associated_data: bytes = b""
) -> bytes:
    """An envelope from the independent writer, its DEK and salt fresh."""
    return writer.write_envelope(
        plaintext, slots, associated_data, dek=os.urandom(32), salt=os.urandom(24)
    )


def store_keys(path: Path, master: reader.Master) -> dict[str, bytes]:
    """Every key in a store's file, by its id: found without knowing the store's schema.

    The master unwraps the root key, the root unwraps the keyset keys: all of them are messages of
    kind 04 somewhere in the database, each under an id that stands there too.
    """
    values: list[object] = []
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                values.extend(row)
    connection.close()
    blobs = [v for v in values if isinstance(v, bytes) and v.startswith(writer.WRAPPED_PREFIX)]
    ids = {v for v in values if isinstance(v, bytes) and len(v) == 16}
    ids |= {
        bytes.fromhex(v) for v in values if isinstance(v, str) and re.fullmatch("[0-9a-f]{32}", v)
    }
    found: dict[str, bytes] = {}
    masters = [master]
    while masters:
        unwrap = masters.pop()
        for blob in blobs:
            for key_id in ids:
                try:
                    key = unwrap(blob, key_id)
                except (errors.DecryptionError, errors.MasterKeyError):
                    continue
                if key_id.hex() not in found:
                    found[key_id.hex()] = key
                    masters.append(reader.software_master(key))
    return found


def new_store(folder: Path) -> KeyStore:
    """A store under a file master, both in `folder`; its default keyset is rotated twice."""
    master = FileMasterKey.create(folder / "master")
    store = KeyStore.create(f"sqlite:///{folder}/keys.db", master)
    store.rotate("default")
    store.rotate("default")
    return store


def default_keys(store: KeyStore, folder: Path) -> list[bytes]:
    """The three keys of the keyset `default`, the primary first."""
    text = (folder / "master").read_text().split()
    assert text[0] == "strongroom-master-key-1"
    found = store_keys(folder / "keys.db", reader.software_master(bytes.fromhex(text[1])))
    primary = store.get_current_key("default").id
    listed = [key.id for key in store.list_keys("default")]
    assert len(listed) == 3
    assert set(listed) <= set(found)
    return [found[key_id] for key_id in sorted(listed, key=lambda name: name != primary)]
