"""Rotations on full disks and without rights, and what they report."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from database_help import Vault, vault
from database_rotations import Stopped
from file_help import small_disk
from process_help import NOBODY, in_a_child
from strongroom import (
    EncryptedDatabase,
    EncryptedDatabaseError,
    RotationError,
    _events,
)
from strongroom.audit import catalogue
from strongroom.database.rotation import _Course

__all__ = ["vault"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, "16m"):
        yield disk


class Filling(Stopped):
    """A rotation whose disk gets full after a step."""

    def _after(self, course: _Course, number: int) -> None:
        super()._after(course, number)
        if number == self.full_at:
            with (Path(self._places.directory) / "filler").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass

    full_at = 0


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("step", [2, 6])
def test_a_full_disk(vault: Vault, small: Path, mode: str, step: int) -> None:
    path = small / "app.db"
    vault.path, vault.database = path, EncryptedDatabase(path, vault.store)
    vault.fill(mode, rows=1000, size=500)
    rotation = Filling(path, vault.store)
    rotation.full_at = step
    with pytest.raises(RotationError, match=r"full|No space") as caught:
        rotation.rotate_key()
    assert caught.value.journal is None
    (small / "filler").unlink()
    # Without room for its -shm, a database in WAL mode can't even be opened to try the key.
    vault.rotation().recover()
    assert [state for _, state in vault.key_states()] == ["active", "destroyed"]
    assert vault.count() == 1000
    vault.rotate()
    assert vault.count() == 1000


def test_a_limit_on_the_size_of_files(vault: Vault) -> None:
    vault.fill(rows=2000)
    size = vault.path.stat().st_size
    vault.store.close()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with vault.open(), pytest.raises(RotationError):
            vault.rotation().rotate_key()

    in_a_child(work)
    with vault.open():
        vault.rotation().recover()
        assert vault.count() == 2000
        assert len(vault.live_keys()) == 1


@pytest.mark.parametrize("what", ["file", "directory"])
def test_without_rights(what: str) -> None:
    # pytest's own directories let no other user through.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        vault = Vault(Path(name) / "vault")
        with vault.create():
            vault.fill()
        for path in (vault.directory, *vault.files(), *vault.directory.glob("keys.db*")):
            os.chown(path, NOBODY, NOBODY)
        data = vault.path.read_bytes()
        path, mode = (vault.path, 0o444) if what == "file" else (vault.directory, 0o555)
        path.chmod(mode)

        def work() -> None:
            # The store is opened with rights: the database alone is in the way.
            with vault.open() as store:
                store.list_keys()
                os.setresuid(NOBODY, NOBODY, NOBODY)
                with pytest.raises(EncryptedDatabaseError, match="can't be written"):
                    vault.rotation().rotate_key()
                connection = vault.database.connect(mode="ro")
                assert connection.execute("SELECT count(*) FROM rows").fetchone() == (200,)

        in_a_child(work)
        assert vault.path.read_bytes() == data


def test_a_read_only_mount(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    place = tmp_path / "mounted"
    place.mkdir()
    with small_disk(place, "4m"):
        for file in vault.files():
            (place / file.name).write_bytes(file.read_bytes())
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        vault.path = place / "app.db"
        with pytest.raises(EncryptedDatabaseError, match="can't be written"):
            vault.rotate()
        connection = EncryptedDatabase(vault.path, vault.store).connect(mode="ro")
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (200,)
        connection.close()
        assert [state for _, state in vault.key_states()] == ["active"]


class Sink:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def event(self, name: str, outcome: str, fields: dict[str, Any]) -> None:
        assert name in catalogue.EVENTS
        assert fields.keys() <= catalogue.FIELDS
        self.events.append((name, outcome, fields))

    def count(self, *_: object) -> None:
        pass


def test_events(vault: Vault) -> None:
    sink = Sink()
    before = _events.set_sink(sink)
    try:
        vault.fill()
        vault.rotate()
        rotation = Stopped(vault.path, vault.store)
        rotation.at, rotation.dies = 8, True
        with pytest.raises(KeyboardInterrupt):
            rotation.rotate_key()
        vault.database.connect().close()
        data = bytearray(vault.path.read_bytes())
        data[-100] ^= 1
        vault.path.write_bytes(data)
        with pytest.raises(RotationError):
            vault.rotate()
    finally:
        _events.set_sink(before)
    names = [name for name, _, _ in sink.events]
    steps = [f["step"] for n, _, f in sink.events if n == "database.rotation.step"]
    assert steps[:13] == list(range(1, 14))
    for name in ("created", "opened", "rotated", "recovered", "rotation.failed"):
        assert f"database.{name}" in names
    assert names.count("key.rotated") == 2
    failed = next(e for e in sink.events if e[0] == "database.rotation.failed")
    assert failed[1] == "failure"
