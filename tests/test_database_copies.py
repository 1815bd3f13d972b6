"""Copies of a directory, and key states that change, while a rotation is at work.

A copy has the intent and the lock's file too, and whoever recovers it can't know that the rotation
lives elsewhere: it may take its key away, and must not take the database with it.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from database_help import Vault, vault
from database_rotations import Stopped, die_after, steps
from strongroom import (
    DatabaseKeyRotation,
    EncryptedDatabase,
    KeyStateError,
    RotationError,
)
from strongroom.database import RotationReport

__all__ = ["vault"]


def rows_of(database: EncryptedDatabase) -> int:
    with contextlib.closing(database.connect()) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (rows,) = connection.execute("SELECT count(*) FROM rows").fetchone()
    return int(rows)


def copy_of(vault: Vault, to: Path) -> Path:
    to.mkdir()
    for file in vault.files():
        if not file.name.endswith("-shm"):
            shutil.copy(file, to)
    return to / "app.db"


@pytest.mark.filterwarnings("ignore:.*reading only")
@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("step", steps(range(2, 14), 2, 6, 8, 9))
def test_a_copy_is_recovered_while_the_original_is_rotated(
    vault: Vault, tmp_path: Path, mode: str, step: int
) -> None:
    vault.fill(mode)
    (old, _), *_ = vault.key_states()
    rotation = Stopped(vault.path, vault.store)
    rotation.start(step)
    try:
        path = copy_of(vault, tmp_path / "copy")
        copied = DatabaseKeyRotation(path, vault.store)
        found = copied.recover()
    finally:
        rotation.go.set()
        rotation.thread.join()
    (outcome,) = rotation.outcome
    live = vault.live_keys()
    assert len(live) == 1
    assert vault.count() == 200
    assert vault.beside() <= {"-wal", "-shm", "-journal"}
    if found.key_id == old:
        # The rotation lost its key to the copy's recovery: it is undone, and says why.
        assert isinstance(outcome, RotationError)
        assert "a copy of the database was recovered" in str(outcome)
        assert "the database is as it was" in str(outcome)
        assert live == [old]
    else:
        assert isinstance(outcome, RotationReport)
        assert live == [outcome.new_key_id]
    assert vault.rotation().recover().found == "nothing"
    # Each has its rows, and goes on by a rotation.
    assert rows_of(EncryptedDatabase(path, vault.store)) == 200
    for again in (vault.rotation(), copied):
        assert again.rotate_key() is not None
    assert rows_of(EncryptedDatabase(path, vault.store)) == 200
    assert vault.count() == 200


def test_the_copy_takes_the_key_of_a_dead_rotation(vault: Vault, tmp_path: Path) -> None:
    """The original is then brought back by its backup, whenever it is recovered."""
    vault.fill()
    (old, _), *_ = vault.key_states()
    rotation = Stopped(vault.path, vault.store)
    rotation.start(6)
    path = copy_of(vault, tmp_path / "copy")
    rotation.at, rotation.dies = 9, True
    rotation.go.set()
    rotation.thread.join()
    assert DatabaseKeyRotation(path, vault.store).recover().found == "old"
    assert vault.rotation().recover() == ("restored", old, str(vault.path))
    assert vault.rotation().recover().found == "nothing"
    assert vault.count() == 200
    assert vault.live_keys() == [old]


def test_without_its_backup_nothing_is_touched(vault: Vault) -> None:
    vault.fill()
    die_after(vault, 9)
    vault.store.destroy_key(vault.key_states()[-1][0], force=True)
    backup = Path(f"{vault.path}.srm.backup")
    data = bytearray(backup.read_bytes())
    data[5000] ^= 1
    backup.write_bytes(data)
    before = {f: f.read_bytes() for f in vault.files()}
    for act in (vault.rotation().recover, vault.database.connect):
        with pytest.raises(RotationError, match=r"destroyed.*has the new key"):
            act()
    backup.unlink()
    del before[backup]
    with pytest.raises(RotationError, match="there is no backup"):
        vault.rotation().recover()
    assert {f: f.read_bytes() for f in vault.files()} == before


@pytest.mark.filterwarnings("ignore:.*reading only")
def test_the_copy_is_rotated_while_the_original_lies_dead(vault: Vault, tmp_path: Path) -> None:
    """The primary is the copy's key then; the original's is deactivated, so it is read-only."""
    vault.fill()
    rotation = Stopped(vault.path, vault.store)
    rotation.start(5)
    path = copy_of(vault, tmp_path / "copy")
    Path(f"{path}.srm.lock").unlink()
    copied = DatabaseKeyRotation(path, vault.store)
    report = copied.rotate_key()
    assert report is not None
    rotation.go.set()
    rotation.thread.join()
    (outcome,) = rotation.outcome
    assert isinstance(outcome, RotationError)
    assert "another primary" in str(outcome)
    assert "under the new key" in str(outcome)
    assert vault.rotation().status().state == "read-only"
    assert vault.count() == 200
    states = dict(vault.key_states())
    assert states[report.new_key_id] == "active"
    assert states[vault.live_keys()[0]] == "deactivated"
    assert "pre-active" not in states.values()
    vault.rotate()
    assert dict(vault.key_states())[vault.live_keys()[0]] == "active"
    assert vault.count() == 200


@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
@pytest.mark.parametrize("change", ["compromise_key", "suspend_key"])
def test_the_old_key_is_withdrawn_meanwhile(vault: Vault, change: str, live: bool) -> None:
    vault.fill()
    (old, _), *_ = vault.key_states()
    if live:
        rotation = Stopped(vault.path, vault.store)
        rotation.start(8)
        getattr(vault.store, change)(old)
        rotation.go.set()
        rotation.thread.join()
        assert isinstance(rotation.outcome[0], RotationReport)
    else:
        die_after(vault, 8)
        getattr(vault.store, change)(old)
        assert vault.rotation().recover().found == "new"
    states = vault.key_states()
    assert states[0] == (old, "compromised" if change == "compromise_key" else "suspended")
    assert states[1] == (vault.live_keys()[0], "active")
    assert vault.count() == 200


def test_the_old_key_is_destroyed_before_the_recovery(vault: Vault) -> None:
    vault.fill()
    (old, _), *_ = vault.key_states()
    die_after(vault, 10)
    vault.store.destroy_key(old, force=True)
    assert vault.rotation().recover().found == "new"
    assert vault.count() == 200
    assert vault.rotation().recover().found == "nothing"


def test_the_old_key_is_destroyed_and_the_intent_deleted(vault: Vault) -> None:
    vault.fill()
    (old, _), *_ = vault.key_states()
    die_after(vault, 8)
    Path(f"{vault.path}.srm.rotate").unlink()
    vault.store.compromise_key(old)
    vault.store.destroy_key(old, force=True)
    assert vault.count() == 200
    assert [state for _, state in vault.key_states()] == ["destroyed", "active"]


def test_a_rotations_key_is_not_destroyed_unasked(vault: Vault) -> None:
    vault.fill()
    die_after(vault, 8)
    (_, (new, state)) = vault.key_states()
    assert state == "pre-active"
    for act in (
        lambda: vault.store.destroy_key(new),
        lambda: vault.store.schedule_destruction(new, after_seconds=0),
        lambda: vault.store.activate_key(new),
        lambda: vault.store.retire_key(new),
    ):
        with pytest.raises(KeyStateError):
            act()
    assert vault.rotation().recover().found == "new"
    assert vault.count() == 200


def test_rotating_the_keyset_alone_is_refused(vault: Vault) -> None:
    vault.fill()
    for act in (vault.store.rotate, vault.store.generate_new_key):
        with pytest.raises(KeyStateError, match="strongroom db rotate"):
            act("database")
    assert [state for _, state in vault.key_states()] == ["active"]
