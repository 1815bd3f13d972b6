"""What lies there from before: backups of other runs, intents that this user may not settle.

And what a run tells: its progress, and nothing on standard error.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from database_help import Vault, opens, vault
from database_processes import ENVIRONMENT
from database_rotations import die_after
from process_help import NOBODY, in_a_child
from strongroom import DatabaseRecoveryError, RotationError

__all__ = ["vault"]


def test_a_backup_from_another_run(vault: Vault) -> None:
    """It goes when the database is whole, and not before."""
    vault.fill()
    backup = Path(f"{vault.path}.srm.backup")
    shutil.copy(vault.path, backup)
    whole = vault.path.read_bytes()
    damaged = bytearray(whole)
    damaged[-100] ^= 1
    vault.path.write_bytes(damaged)
    for act in (vault.rotation().recover, vault.rotate):
        with pytest.raises(RotationError, match="damaged"):
            act()
        assert backup.read_bytes() == whole
    vault.path.write_bytes(whole)
    assert vault.rotation().recover().found == "leftovers"
    assert not backup.exists()
    shutil.copy(vault.path, backup)
    vault.rotate()
    assert not backup.exists()
    assert vault.count() == 200


def test_a_backup_from_another_run_beside_an_intent(vault: Vault) -> None:
    vault.fill()
    old = vault.rotation().rotate_key(keep_backup=3600)
    assert old is not None
    assert old.backup is not None
    die_after(vault, 8)
    backup = Path(f"{vault.path}.srm.backup")
    own = backup.read_bytes()
    shutil.copy(old.backup, backup)
    data = bytearray(vault.path.read_bytes())
    data[200] ^= 1
    vault.path.write_bytes(data)
    before = {f: f.read_bytes() for f in vault.files()}
    with pytest.raises(RotationError, match="is not this rotation's"):
        vault.rotation().recover()
    assert {f: f.read_bytes() for f in vault.files()} == before
    backup.write_bytes(own)
    assert vault.rotation().recover().found == "restored"
    assert vault.count() == 200


def test_an_intent_of_old_beside_a_newer_database(vault: Vault) -> None:
    """A copy that was made without deleting: its backup is not written over what came later."""
    vault.fill()
    die_after(vault, 6)
    left = {f: f.read_bytes() for f in vault.files() if f.suffix in (".rotate", ".backup")}
    assert len(left) == 2
    assert vault.rotation().recover().found == "old"
    for _ in range(2):
        vault.rotate()
    for path, data in left.items():
        path.write_bytes(data)
    before = {f: f.read_bytes() for f in vault.files()}
    for act in (vault.database.connect, vault.rotation().recover, vault.rotate):
        with pytest.raises(RotationError, match=f"under key {vault.live_keys()[0]}"):
            act()
        assert {f: f.read_bytes() for f in vault.files()} == before
    for path in left:
        path.unlink()
    assert vault.count() == 200


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_an_intent_that_comes_back_after_its_rotation(vault: Vault, mode: str) -> None:
    """It was settled, and rows were written since: they are no reason to refuse, nor to undo it."""
    vault.fill(mode)
    die_after(vault, 10)
    left = {f: f.read_bytes() for f in vault.files() if f.suffix in (".rotate", ".backup")}
    assert len(left) == 2
    assert vault.rotation().recover().found == "new"
    (live,) = vault.live_keys()
    with contextlib.closing(vault.database.connect()) as connection, connection:
        connection.execute("INSERT INTO rows (data) VALUES (?)", (b"since",))
    for path, data in left.items():
        path.write_bytes(data)
    assert vault.count() == 201
    assert vault.live_keys() == [live]
    assert not any(path.exists() for path in left)
    # Where no key opens it any more, the backup is not what it was.
    for path, data in left.items():
        path.write_bytes(data)
    with vault.path.open("r+b") as file:
        file.write(bytes(4096))
    before = {f: f.read_bytes() for f in vault.files()}
    with pytest.raises(RotationError, match="older than what was written"):
        vault.rotation().recover()
    assert {f: f.read_bytes() for f in vault.files()} == before


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 10**12])
def test_how_long_a_backup_is_kept(vault: Vault, seconds: float) -> None:
    vault.fill()
    before = vault.path.read_bytes()
    with pytest.raises(ValueError, match="keep_backup"):
        vault.rotation().rotate_key(keep_backup=seconds)
    assert vault.path.read_bytes() == before


def test_recovering_without_rights() -> None:
    """A rotation died, and who connects may read alone: an error of its own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        vault = Vault(Path(name) / "vault")
        with vault.create():
            vault.fill()
            die_after(vault, 8)
        for path in (*vault.files(), *vault.directory.glob("keys.db*")):
            path.chmod(0o644)
        vault.directory.chmod(0o755)
        before = {f: f.read_bytes() for f in vault.files()}

        def work() -> None:
            with vault.open() as store:
                store.list_keys()
                os.setresuid(NOBODY, NOBODY, NOBODY)
                for mode in ("ro", "rw", "rwc"):
                    with pytest.raises(DatabaseRecoveryError, match="can't write") as caught:
                        vault.database.connect(mode=mode)
                    assert caught.value.journal == f"{vault.path}.srm.rotate"

        in_a_child(work)
        assert {f: f.read_bytes() for f in vault.files()} == before
        with vault.open():
            assert vault.count() == 200


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_progress(vault: Vault, mode: str) -> None:
    vault.fill(mode, rows=4000, size=1000)
    seen: list[Any] = []
    report = vault.rotate(progress=seen.append)
    rekeying = [at for at in seen if at.stage == "rekey"]
    assert [at.done for at in rekeying] == sorted(at.done for at in rekeying)
    assert any(at.done > 0 for at in rekeying)
    assert all(at.done <= at.total == report.pages for at in rekeying)
    for at in rekeying:
        assert (at.rate > 0) == (at.seconds_left is not None) == (at.done > 0)
    order = ["backup", "rekey", "proof"]
    stages = [order.index(at.stage) for at in seen]
    assert stages == sorted(stages)


def test_an_interrupted_progress(vault: Vault) -> None:
    """What the callback raises ends the rotation, and undoes it."""
    vault.fill(rows=4000, size=1000)
    (old, _), *_ = vault.key_states()

    def enough(at: Any) -> None:
        if at.stage == "rekey":
            raise ValueError("enough")

    with pytest.raises(RotationError, match=r"enough; the database is as it was"):
        vault.rotate(progress=enough)
    assert vault.live_keys() == [old]
    assert vault.count() == 4000


def test_nothing_is_said_on_standard_error(vault: Vault, tmp_path: Path) -> None:
    """SQLCipher's log would tell it of each key that is tried."""
    vault.fill()
    vault.rotate()
    Path(f"{vault.path}.srm.json").unlink()
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from database_help import Vault\n"
        "vault = Vault(Path(sys.argv[1]))\n"
        "with vault.open():\n"
        "    connection = vault.database.connect()\n"
        "    print(connection.execute('PRAGMA cipher_memory_security').fetchone()[0])\n"
        "    connection.close()\n"
        "    vault.rotate()\n"
        "    vault.rotation().verify()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(vault.directory)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
    # The control: so it would be without.
    bare = (
        "import sys\n"
        "from sqlcipher3 import dbapi2\n"
        "connection = dbapi2.connect(sys.argv[1])\n"
        "connection.set_key(b\"x'\" + b'33' * 32 + b\"'\")\n"
        "try:\n"
        "    connection.execute('SELECT * FROM rows')\n"
        "except dbapi2.DatabaseError:\n"
        "    pass\n"
    )
    loud = subprocess.run(
        [sys.executable, "-c", bare, str(vault.path)], capture_output=True, text=True, check=True
    )
    assert "sqlcipher" in loud.stderr.lower()


def test_a_kept_backup_is_under_the_old_key_alone(vault: Vault) -> None:
    vault.fill()
    report = vault.rotation().rotate_key(keep_backup=60)
    assert report is not None
    assert report.backup is not None
    path = Path(report.backup)
    assert opens(path, vault.secret(report.old_key_id))
    assert not opens(path, vault.secret(report.new_key_id))
    with contextlib.suppress(FileNotFoundError):
        Path(f"{path}-journal").unlink()
    assert vault.beside() == {f".srm.backup.{path.name.rpartition('.')[2]}"}
