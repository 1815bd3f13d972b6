"""Files against the second implementation in tests/independent, both ways."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import strongroom
from independent import constructions as c
from independent import errors, examples, reader, writer
from store_for_tests import default_keys, keyset_slot, new_store, write_envelope
from strongroom import KeyStore

COST = c.Cost(65_536, 3, 4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with new_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def keys(store: KeyStore, tmp_path: Path) -> list[bytes]:
    """The keys of the keyset `default`, the primary first."""
    return default_keys(store, tmp_path)


@pytest.mark.parametrize("length", [0, 1, 16_384, 16_385, 1_000_000, 9_000_000])
def test_files(store: KeyStore, keys: list[bytes], tmp_path: Path, length: int) -> None:
    plain, sealed, out = tmp_path / "plain", tmp_path / "sealed", tmp_path / "out"
    plain.write_bytes(os.urandom(length))
    assert strongroom.encrypt_file(plain, sealed, store, associated_data=b"b") == length
    message = sealed.read_bytes()
    # One slot in use and an empty one as long: room for a rewrap in place.
    slots = reader.parse_envelope(message).slots
    assert [(found.kind, len(found.body)) for found in slots] == [(1, 120), (0, 120)]
    assert not any(slots[1].body)
    assert reader.open_envelope(message, keys=keys[:1], associated_data=b"b") == plain.read_bytes()
    for key in keys:
        ours = write_envelope(plain.read_bytes(), [keyset_slot(key), writer.empty_slot(120)], b"b")
        sealed.write_bytes(ours)
        assert strongroom.verify_file(sealed, store, associated_data=b"b") == length
        strongroom.decrypt_file(sealed, out, store, associated_data=b"b", overwrite=True)
        assert out.read_bytes() == plain.read_bytes()
        with strongroom.open(sealed, "rb", store, associated_data=b"b") as stream:
            assert stream.read() == plain.read_bytes()


def test_written_through_open(store: KeyStore, keys: list[bytes], tmp_path: Path) -> None:
    data = os.urandom(50_000)
    with strongroom.open(tmp_path / "sealed", "wb", store, associated_data=b"b") as stream:
        for at in range(0, len(data), 777):
            stream.write(data[at : at + 777])
    message = (tmp_path / "sealed").read_bytes()
    assert reader.open_envelope(message, keys=keys[:1], associated_data=b"b") == data


@pytest.mark.parametrize("passphrase", ["Zo\u00eb's passphrase", b"\xff\x00bytes"])
def test_files_under_a_passphrase(tmp_path: Path, passphrase: str | bytes) -> None:
    plain, sealed, out = tmp_path / "plain", tmp_path / "sealed", tmp_path / "out"
    plain.write_bytes(os.urandom(20_000))
    strongroom.encrypt_file(plain, sealed, None, passphrase=passphrase)
    message = sealed.read_bytes()
    slots = reader.parse_envelope(message).slots
    assert [(found.kind, len(found.body)) for found in slots] == [(2, 129), (0, 129)]
    cost, _ = reader.parse_cost(slots[0].body[:25])
    assert cost.memory >= COST.memory
    assert cost.passes >= COST.passes
    assert reader.open_envelope(message, passphrase=passphrase) == plain.read_bytes()
    typed = passphrase.replace("\u00eb", "e\u0308") if isinstance(passphrase, str) else passphrase
    slot = writer.passphrase_slot(
        passphrase, c.Cost(1024, 2, 1), salt=os.urandom(16), nonce=os.urandom(24)
    )
    sealed.write_bytes(write_envelope(plain.read_bytes(), [writer.empty_slot(9), slot]))
    strongroom.decrypt_file(sealed, out, None, passphrase=typed)
    assert out.read_bytes() == plain.read_bytes()


def test_file_under_both(store: KeyStore, keys: list[bytes], tmp_path: Path) -> None:
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(b"both")
    strongroom.encrypt_file(plain, sealed, store, passphrase="x")
    message = sealed.read_bytes()
    assert reader.open_envelope(message, keys=keys[:1]) == b"both"
    assert reader.open_envelope(message, passphrase="x") == b"both"
    kinds = [(found.kind, len(found.body)) for found in reader.parse_envelope(message).slots]
    # The empty slot is as long as the one that a rewrap will replace.
    assert sorted(kinds) == [(0, 120), (1, 120), (2, 129)]
    inode = sealed.stat().st_ino
    store.rotate("default")
    assert strongroom.rewrap_file(sealed, store)
    assert sealed.stat().st_ino == inode
    assert reader.open_envelope(sealed.read_bytes(), passphrase="x") == b"both"


def test_rewrapped_in_place(store: KeyStore, keys: list[bytes], tmp_path: Path) -> None:
    sealed = tmp_path / "sealed"
    old = keys[1]
    foreign = keyset_slot(os.urandom(32))
    ours = write_envelope(b"value", [keyset_slot(old), writer.empty_slot(120), foreign], b"bound")
    sealed.write_bytes(ours)
    inode = sealed.stat().st_ino
    assert strongroom.rewrap_file(sealed, store)
    assert not strongroom.rewrap_file(sealed, store)
    message = sealed.read_bytes()
    assert sealed.stat().st_ino == inode
    before, after = reader.parse_envelope(ours).slots, reader.parse_envelope(message).slots
    assert [found.kind for found in after] == [0, 1, 1]
    assert not any(after[0].body)
    assert after[2] == before[2]
    at = reader.parse_envelope(ours).chunks_at - 56
    assert message[at:] == ours[at:]
    assert reader.open_envelope(message, keys=keys[:1], associated_data=b"bound") == b"value"
    with pytest.raises(errors.KeyNotFoundError):
        reader.open_envelope(message, keys=[old], associated_data=b"bound")


@pytest.mark.parametrize("stop", range(1, 5))
def test_rewrap_goes_on_where_one_was_interrupted(
    store: KeyStore, keys: list[bytes], tmp_path: Path, stop: int
) -> None:
    # The four writes of the page, stopped after each; the package finishes.
    old, new = keys[1], keys[0]
    message = bytearray(
        write_envelope(b"value", [keyset_slot(old), writer.empty_slot(120)], b"bound")
    )
    _, dek = reader.open_dek(bytes(message), keys=[old], associated_data=b"bound")
    parsed = reader.parse_envelope(bytes(message))
    used, spare = parsed.slots
    target = writer.Target(dek, parsed.salt, parsed.commitment)
    kind, body = keyset_slot(new)(target)
    writes = [
        (spare.at + 3, body),
        (spare.at, bytes([kind])),
        (used.at, b"\x00"),
        (used.at + 3, bytes(120)),
    ]
    for at, data in writes[:stop]:
        message[at : at + len(data)] = data
    sealed = tmp_path / "sealed"
    sealed.write_bytes(message)
    strongroom.rewrap_file(sealed, store)
    done = sealed.read_bytes()
    slots = reader.parse_envelope(done).slots
    assert sorted(found.kind for found in slots) == [0, 1]
    assert reader.open_envelope(done, keys=[new], associated_data=b"bound") == b"value"
    assert c.key_id(old) not in {found.body[:16] for found in slots}


def test_the_package_reads_the_file_of_the_page(tmp_path: Path) -> None:
    sealed, out = tmp_path / "sealed", tmp_path / "out"
    sealed.write_bytes(examples.file_message())
    assert strongroom.decrypt_file(sealed, out, None, passphrase=examples.PASSPHRASE) == 0
    assert out.read_bytes() == b""
