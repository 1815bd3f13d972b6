"""Bad input to files: kind 02 through encrypt_file's readers and rewrap_file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import strongroom
from bad_input import REFUSALS, seeded
from independent import constructions as c
from independent import reader, writer
from store_for_tests import default_keys, keyset_slot, new_store, write_envelope
from strongroom import DecryptionError, FormatError, KeyNotFoundError, KeyStore

AD = b"backup/2041"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with new_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the files alone, to see that nothing is left in it."""
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def refused(path: Path, message: bytes, store: KeyStore) -> set[str]:
    """Asserts that each reader of files refuses `message` and leaves nothing; the errors' names."""
    path.write_bytes(message)
    target = path.with_name("target")
    names = set()

    def read_all() -> None:
        with strongroom.open(path, "rb", store, associated_data=AD) as stream:
            stream.read()

    for call in (
        lambda: strongroom.decrypt_file(path, target, store, associated_data=AD),
        lambda: strongroom.verify_file(path, store, associated_data=AD),
        read_all,
    ):
        with pytest.raises(REFUSALS) as caught:
            call()
        names.add(caught.type.__name__)
        assert [found.name for found in path.parent.iterdir()] == [path.name]
    return names


def test_flips_and_cuts(store: KeyStore, folder: Path) -> None:
    plain, sealed = folder / "plain", folder / "sealed"
    plain.write_bytes(os.urandom(40_000))
    strongroom.encrypt_file(plain, sealed, store, associated_data=AD)
    plain.unlink()
    message = sealed.read_bytes()
    parsed = reader.parse_envelope(message)
    spare = parsed.slots[1]
    rng = seeded()
    bits = [rng.randrange(8 * len(message)) for _ in range(150)]
    for bit in [
        *bits,
        *range(0, 8 * spare.at, 13),
        *range(8 * len(message) - 200, 8 * len(message), 7),
    ]:
        changed = bytearray(message)
        changed[bit // 8] ^= 0x80 >> bit % 8
        if spare.at + 3 <= bit // 8 < spare.at + 3 + 120 or bit // 8 == spare.at:
            # The bytes of an empty slot, and a kind that is not known, change nothing.
            sealed.write_bytes(changed)
            assert strongroom.verify_file(sealed, store, associated_data=AD) == 40_000
        else:
            refused(sealed, bytes(changed), store)
    for cut in [0, 1, 4, 5, 100, 307, *range(parsed.chunks_at, len(message), c.SEALED_CHUNK_LEN)]:
        assert refused(sealed, message[:cut], store) <= {"FormatError"}
    for extra in (b"\x00", os.urandom(16), os.urandom(17), message):
        refused(sealed, message + extra, store)
    error = refused(sealed, message[: parsed.chunks_at + c.SEALED_CHUNK_LEN + 100], store)
    assert error == {"DecryptionError"}


@pytest.mark.parametrize("bad", range(4))
def test_a_stream_gives_the_true_prefix_and_then_fails_for_good(
    store: KeyStore, folder: Path, bad: int
) -> None:
    plaintext = os.urandom(3 * c.CHUNK_LEN + 100)
    (folder / "plain").write_bytes(plaintext)
    sealed = folder / "sealed"
    strongroom.encrypt_file(folder / "plain", sealed, store, associated_data=AD)
    message = bytearray(sealed.read_bytes())
    message[reader.parse_envelope(bytes(message)).chunks_at + bad * c.SEALED_CHUNK_LEN + 7] ^= 1
    sealed.write_bytes(message)
    got = b""
    try:
        # The last chunk is authenticated at open: a bad one is seen there.
        stream = strongroom.open(sealed, "rb", store, associated_data=AD)
    except DecryptionError:
        assert bad == 3
        return
    assert bad < 3
    with stream:
        while len(got) < len(plaintext):
            try:
                got += stream.read(1000)
            except DecryptionError:
                break
        for _ in range(3):
            with pytest.raises(DecryptionError):
                stream.read(1000)
    assert plaintext.startswith(got)
    assert len(got) <= bad * c.CHUNK_LEN


def test_chunks_of_files_are_not_exchanged(store: KeyStore, folder: Path) -> None:
    plain, sealed = folder / "plain", folder / "sealed"
    plain.write_bytes(bytes(3 * c.CHUNK_LEN))
    strongroom.encrypt_file(plain, sealed, store, associated_data=AD)
    one = sealed.read_bytes()
    strongroom.encrypt_file(plain, sealed, store, associated_data=AD, overwrite=True)
    two = sealed.read_bytes()
    plain.unlink()
    at = reader.parse_envelope(one).chunks_at
    for cut in (at, at - 32, at - 56, at + c.SEALED_CHUNK_LEN, at + 2 * c.SEALED_CHUNK_LEN):
        assert refused(sealed, one[:cut] + two[cut:], store) == {"DecryptionError"}


def test_rewrap_leaves_what_it_can_not_open(store: KeyStore, tmp_path: Path, folder: Path) -> None:
    primary, old, _ = default_keys(store, tmp_path)
    sealed = folder / "sealed"
    message = write_envelope(b"value", [keyset_slot(old), writer.empty_slot(120)], AD)
    other = write_envelope(b"other", [keyset_slot(primary), keyset_slot(old)], AD)
    (_, spare), (theirs, their_old) = (
        reader.parse_envelope(message).slots,
        reader.parse_envelope(other).slots,
    )
    # A slot of another message of the primary, and garbage that names it, in the empty slot.
    for body in (theirs.body, c.key_id(primary) + os.urandom(104)):
        planted = bytearray(message)
        planted[spare.at : spare.at + 123] = b"\x01\x00\x78" + body
        sealed.write_bytes(planted)
        assert strongroom.rewrap_file(sealed, store)
        done = sealed.read_bytes()
        assert reader.open_envelope(done, keys=[primary], associated_data=AD) == b"value"
    # A message whose only slot is another's, or nobody's: refused, and not a byte is written.
    for body, error in (
        (their_old.body, DecryptionError),
        (c.key_id(old) + os.urandom(104), DecryptionError),
        (os.urandom(120), KeyNotFoundError),
    ):
        planted = bytearray(message)
        planted[5 : 5 + 123] = b"\x01\x00\x78" + body
        sealed.write_bytes(planted)
        with pytest.raises(error):
            strongroom.rewrap_file(sealed, store)
        assert sealed.read_bytes() == planted
    for data in (b"", b"SR", b"SR\x02\x02\x00", message[:200]):
        sealed.write_bytes(data)
        with pytest.raises(FormatError):
            strongroom.rewrap_file(sealed, store)
        assert sealed.read_bytes() == data
