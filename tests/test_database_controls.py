"""What the locks are for: the same scenes without one end in a conflict, or in loss.

Each pauses one side where it matters, by a pipe or an event: nothing here depends on luck.
"""

from __future__ import annotations

import contextlib

import pytest
from database_help import Vault, rows_under, vault
from database_processes import Other
from database_rotations import Stopped
from strongroom import DatabaseBusyError, RotationError

__all__ = ["vault"]


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "control"])
def test_two_rotations(vault: Vault, locked: bool) -> None:
    """After step 2 only the lock beside the database says that the new key is somebody's."""
    vault.fill()
    rotation = Stopped(vault.path, vault.store)
    rotation.start(2)
    try:
        (key_id,) = [i for i, state in vault.key_states() if state == "pre-active"]
        said = Other(vault, "rotate" if locked else "rotate without the lock").end()
        state = dict(vault.key_states())[key_id]
    finally:
        rotation.go.set()
        rotation.thread.join()
    (outcome,) = rotation.outcome
    if locked:
        assert said[0].startswith("DatabaseBusyError")
        assert state == "pre-active"
        assert outcome.new_key_id == key_id
    else:
        assert said[0].startswith("rotated")
        assert state == "destroyed"
        assert isinstance(outcome, RotationError)
    # Also then no row is lost: that takes more than one lock to fail.
    assert vault.count() == 200


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "control"])
def test_a_rotation_while_a_recovery_looks(vault: Vault, locked: bool) -> None:
    """Whoever connects while an intent is there waits for who is at work."""
    vault.fill()
    rotation = Stopped(vault.path, vault.store)
    rotation.start(6)
    try:
        said = Other(vault, "connect" if locked else "connect without the lock").end()
    finally:
        rotation.go.set()
        rotation.thread.join()
    # Without it, SQLite's own lock on the file is what stops it.
    assert ("rotated by another process" in said[0]) == locked
    assert ("in use by another connection" in said[0]) != locked
    assert vault.count() == 200


def test_the_bystander_would_cost_a_row(vault: Vault) -> None:
    """The control of the bystander: the work in the very process that opens and closes the file."""
    vault.fill()
    process = Other(vault, "rekey")
    stdin = process.process.stdin
    assert stdin is not None
    try:
        assert process.line() == "ready"
        with pytest.raises(DatabaseBusyError, match="locked"):
            vault.database.connect(timeout=0)
        stdin.write("open and close\n")
        stdin.flush()
        assert process.line() == "closed"
        with contextlib.closing(vault.database.connect(isolation_level=None)) as connection:
            connection.execute("INSERT INTO rows (data) VALUES ('acknowledged')")
            assert connection.execute("SELECT count(*) FROM rows").fetchone() == (201,)
        stdin.write("rekey\n")
        stdin.flush()
        assert process.line() == "ok"
    finally:
        process.process.kill()
        process.process.communicate()
    assert rows_under(vault.path, bytearray(b"\x11" * 32)) != 201
