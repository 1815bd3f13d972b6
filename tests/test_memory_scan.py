"""No copy of a key outside the arena, seen from another process. Counts: docs/memory.md."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import time
from pathlib import Path

import pytest
from database_help import opens
from independent import constructions, reader
from memory_scanner import (
    Hit,
    Target,
    dek_patterns,
    key_patterns,
    patterns,
    record_patterns,
    regions,
    scan,
)

ENGINES = ("aws-lc", "aes-gcm")
BACKENDS = ("memfd_secret", "mlock")
# The number of pause(2) on x86-64, as /proc/PID/syscall shows it.
PAUSE = "34 "
CONTEXT = bytes.fromhex("53520202")


@pytest.fixture
def key(tmp_path):
    made = os.urandom(32)
    (tmp_path / "key").write_bytes(made)
    return made


def find(target: Target, folder: Path, key: bytes) -> tuple[list[Hit], list[Hit]]:
    """What is outside the arena, and what is inside."""
    wanted = key_patterns("key", key)
    if (folder / "record").exists():
        wanted |= record_patterns("record", key, (folder / "record").read_bytes())
    if (folder / "message").exists():
        message = (folder / "message").read_bytes()
        _, dek = reader.open_dek(message, keys=[key])
        wanted |= dek_patterns("dek", dek, reader.parse_envelope(message).salt, CONTEXT)
    hits = scan(target.pid, wanted)
    return [h for h in hits if not h.region.is_arena], [h for h in hits if h.region.is_arena]


def test_planted_copy_is_found(tmp_path, key):
    with Target("control", tmp_path) as target:
        target.wait_for("alive")
        outside, _ = find(target, tmp_path, key)
        assert {hit.what for hit in outside} == {"key", "key, first half", "key, second half"}
        target.wait_for("gone")
        assert find(target, tmp_path, key) == ([], [])


SCENARIOS = {
    "keys": ("alive", "records", "envelopes", "gone"),
    "record": (
        *("small encrypted", "small decrypted", "small refused"),
        *("large encrypted", "large decrypted", "large refused"),
    ),
    "deleted": ("alive", "gone"),
    "contexts": ("alive", "gone"),
    "buffers": ("alive", "gone"),
    "failing": ("gone",),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_copy_outside_the_arena(tmp_path, key, scenario, engine, backend):
    environment = {"STRONGROOM_ENGINE": engine, "STRONGROOM_MEMORY_BACKEND": backend}
    with Target(scenario, tmp_path, **environment) as target:
        for checkpoint in SCENARIOS[scenario]:
            target.wait_for(checkpoint)
            outside, inside = find(target, tmp_path, key)
            assert outside == [], checkpoint
            whole = [hit for hit in inside if hit.what == "key"]
            if checkpoint == "gone":
                assert inside == []
            elif backend == "memfd_secret":
                # Neither this process nor the kernel can read it.
                assert inside == []
            else:
                # The key itself, and in `contexts` the copy that the view shows.
                expected = {"contexts": 2, "buffers": 8}.get(scenario, 1)
                # A cipher made of a view has a key of its own until it is collected.
                assert len(whole) == expected
        assert target.finish() == 0


def store_cells(folder: Path) -> list[object]:
    """All that is in the store's tables."""
    cells: list[object] = []
    with contextlib.closing(sqlite3.connect(folder / "keys.db")) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            for row in database.execute(f"SELECT * FROM {table}"):
                cells += row
    return cells


def passphrase_key(phrase: bytes, clear: bytes) -> bytes:
    """What Argon2id makes of a passphrase with the `clear` of a slot or of a wrapped key."""
    memory, passes = int.from_bytes(clear[:4], "big"), int.from_bytes(clear[4:8], "big")
    return constructions.argon2id(phrase, constructions.Cost(memory, passes, clear[8]), clear[9:25])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_copy_of_a_passphrase(tmp_path, key, backend):
    # The passphrase is the bytes that are the key elsewhere.
    with Target("passphrase", tmp_path, STRONGROOM_MEMORY_BACKEND=backend) as target:
        target.wait_for("files")
        sealed = (tmp_path / "sealed").read_bytes()
        (slot,) = [s for s in reader.parse_envelope(sealed).slots if s.kind == 2]
        _, dek = reader.open_dek(sealed, passphrase=key)
        wanted = key_patterns("file's", passphrase_key(key, slot.body))
        wanted |= dek_patterns("dek", dek, reader.parse_envelope(sealed).salt, CONTEXT)
        # The caller's own copy of the passphrase is there still.
        assert len(scan(target.pid, {"phrase": key})) == 1
        assert [hit for hit in scan(target.pid, wanted) if not hit.region.is_arena] == []
        target.wait_for("alive")
        cells = [cell for cell in store_cells(tmp_path) if isinstance(cell, bytes)]
        (blob,) = [cell for cell in cells if cell.startswith(b"SR\x02\x04\x05")]
        made = passphrase_key(key, blob[21:])
        wanted |= patterns("phrase", key) | key_patterns("store's", made)
        hits = scan(target.pid, wanted)
        assert [hit for hit in hits if not hit.region.is_arena] == []
        inside = {hit.what for hit in hits}
        assert ({"phrase", "store's"} <= inside) == (backend == "mlock")
        target.wait_for("gone")
        assert scan(target.pid, wanted) == []
        assert target.finish() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_copy_of_a_cached_key(tmp_path, backend):
    with Target("cache", tmp_path, STRONGROOM_MEMORY_BACKEND=backend) as target:
        target.wait_for("alive")
        master = bytes.fromhex((tmp_path / "master").read_bytes().split()[1].decode())
        message = (tmp_path / "message").read_bytes()
        envelope = reader.parse_envelope(message)
        (slot,) = [s for s in envelope.slots if s.kind == 3]
        kek = reader.software_master(master)(slot.body[18 : 18 + 125], slot.body[:16])
        _, dek = reader.open_dek(
            message,
            masters={constructions.key_id(master): reader.software_master(master)},
            associated_data=b"ad",
        )
        keys = {"master": master, "kek": kek}
        wanted = dek_patterns("dek", dek, envelope.salt, CONTEXT + b"ad")
        for name, key in keys.items():
            wanted |= key_patterns(name, key)
        for checkpoint, inside in (("alive", {"master", "kek"}), ("forgotten", {"master"})):
            if checkpoint != "alive":
                target.wait_for(checkpoint)
            hits = scan(target.pid, wanted)
            assert [hit for hit in hits if not hit.region.is_arena] == [], checkpoint
            found = {hit.what for hit in hits} & keys.keys()
            assert found == (inside if backend == "mlock" else set()), checkpoint
        target.wait_for("gone")
        assert scan(target.pid, wanted) == []
        assert target.finish() == 0


def test_no_copy_of_a_signing_key(tmp_path, key):
    seed = constructions.derive(key, "audit")
    # RFC 8032, §5.1.5: the scalar, with its bits set, and the prefix of the nonces.
    expanded = bytearray(hashlib.sha512(seed).digest())
    wanted = key_patterns("key", key) | patterns("seed", seed) | patterns("hash", bytes(expanded))
    expanded[0] &= 248
    expanded[31] = expanded[31] & 127 | 64
    wanted |= patterns("scalar", bytes(expanded[:32])) | patterns("prefix", bytes(expanded[32:]))
    with Target("signing", tmp_path, STRONGROOM_MEMORY_BACKEND="mlock") as target:
        for checkpoint in ("public key", "signed", "gone"):
            target.wait_for(checkpoint)
            hits = scan(target.pid, wanted)
            assert [hit for hit in hits if not hit.region.is_arena] == [], checkpoint
        assert hits == []
        assert target.finish() == 0


def store_keys(folder: Path) -> dict[str, bytes]:
    """Master, root key and keyset keys of the scenario's store, by the independent reader."""
    line = (folder / "master").read_bytes()
    master = bytes.fromhex(line.split()[1].decode())
    found = {"master": master}
    cells = store_cells(folder)
    texts = [cell for cell in cells if isinstance(cell, str)]
    ids = {bytes.fromhex(text) for text in texts if re.fullmatch("[0-9a-f]{32}", text)}
    ids |= {cell for cell in cells if isinstance(cell, bytes) and len(cell) == 16}
    blobs = [cell for cell in cells if isinstance(cell, bytes) and cell.startswith(b"SR\x02\x04")]
    for wrapping, name in ((master, "root"), (None, "keyset key")):
        unwrap = reader.software_master(wrapping or found["root"])
        for blob in blobs:
            for key_id in ids:
                with contextlib.suppress(Exception):
                    found[name if wrapping else f"{name} {key_id.hex()}"] = unwrap(blob, key_id)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_copy_of_a_stores_keys(tmp_path, backend):
    with Target("store", tmp_path, STRONGROOM_MEMORY_BACKEND=backend) as target:
        for checkpoint in ("created", "values", "files", "rotated", "gone"):
            target.wait_for(checkpoint)
            keys = store_keys(tmp_path)
            assert len(keys) == (4 if checkpoint in ("rotated", "gone") else 3)
            wanted: dict[str, bytes] = {}
            for name, key in keys.items():
                wanted |= key_patterns(name, key)
            if checkpoint in ("files", "rotated"):
                message = (tmp_path / "message").read_bytes()
                _, dek = reader.open_dek(message, keys=list(keys.values()))
                salt = reader.parse_envelope(message).salt
                wanted |= dek_patterns("dek", dek, salt, CONTEXT)
            hits = scan(target.pid, wanted)
            assert [hit for hit in hits if not hit.region.is_arena] == [], checkpoint
            if checkpoint == "gone" or backend == "memfd_secret":
                assert hits == []
            else:
                assert {"master", "root"} <= {hit.what for hit in hits}
        assert target.finish() == 0


def test_no_copy_of_a_databases_key(tmp_path, key):
    """Not even while a connection is open: SQLCipher masks what it keeps."""
    raw = constructions.derive(key, "database")
    wanted = key_patterns("key", key) | patterns("raw key", raw)
    with Target("database", tmp_path, STRONGROOM_MEMORY_BACKEND="mlock") as target:
        for checkpoint in ("open", "closed", "refused", "gone"):
            target.wait_for(checkpoint)
            assert opens(tmp_path / "app.db", bytearray(raw))
            hits = scan(target.pid, wanted)
            assert [hit for hit in hits if not hit.region.is_arena] == [], checkpoint
            assert bool(hits) == (checkpoint != "gone")
        assert target.finish() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_copy_of_the_keys_of_a_rotation(tmp_path, backend):
    with Target("rotation", tmp_path, STRONGROOM_MEMORY_BACKEND=backend) as target:
        for checkpoint in ("made", "rotated", "verified", "gone"):
            target.wait_for(checkpoint)
            keys = store_keys(tmp_path)
            wanted: dict[str, bytes] = {}
            for name, key in keys.items():
                wanted |= key_patterns(name, key)
                wanted |= patterns(f"{name}'s raw key", constructions.derive(key, "database"))
            raws = [bytearray(constructions.derive(key, "database")) for key in keys.values()]
            assert sum(opens(tmp_path / "app.db", raw) for raw in raws) == 1
            hits = scan(target.pid, wanted)
            assert [hit for hit in hits if not hit.region.is_arena] == [], checkpoint
        assert hits == []
        assert target.finish() == 0


def test_no_copy_after_the_end_of_the_interpreter(tmp_path, key):
    with Target("exit", tmp_path, STRONGROOM_MEMORY_BACKEND="mlock") as target:
        target.wait_for("alive")
        outside, inside = find(target, tmp_path, key)
        assert outside == []
        assert inside
        target.proceed()
        # Its last function, after that of the library, is pause(2).
        until = time.monotonic() + 30
        while not Path(f"/proc/{target.pid}/syscall").read_text().startswith(PAUSE):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert find(target, tmp_path, key) == ([], [])


@pytest.mark.parametrize("backend", BACKENDS)
def test_flags_of_the_pages(tmp_path, key, backend):
    with Target("deleted", tmp_path, STRONGROOM_MEMORY_BACKEND=backend) as target:
        target.wait_for("alive")
        arena = [region for region in regions(target.pid) if region.is_arena]
        assert arena
        for region in arena:
            assert {"rd", "wr", "lo", "dd"} <= region.flags
            assert ("dc" if "secretmem" in region.name else "wf") in region.flags
        if backend == "memfd_secret":
            assert any("secretmem" in region.name for region in arena)
