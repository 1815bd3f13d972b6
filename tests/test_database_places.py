"""Where a database may lie, and what may lie beside it: file systems, mounts, links, journals."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import strongroom
from database_help import Vault, refused, rows_under, vault
from file_help import small_disk
from sqlcipher3 import dbapi2
from strongroom import (
    CipherSettings,
    DatabaseKeyRotation,
    EncryptedDatabase,
    EncryptedDatabaseError,
)
from strongroom.database import adopt_database, places

__all__ = ["vault"]

SFTP_SERVER = "/usr/lib/openssh/sftp-server"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Another file system, of 4 MiB."""
    directory = tmp_path / "disk"
    with small_disk(directory, "4m"):
        yield directory


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    """A directory on a network file system: SFTP, its server at the other end of a pipe."""
    server = tmp_path / "sftp"
    server.write_text(f"#!/bin/sh\nexec {SFTP_SERVER}\n")
    server.chmod(0o755)
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir()
    near.mkdir()
    command = [
        "sshfs",
        "-o",
        f"ssh_command={server}",
        "-o",
        "dir_cache=no",
        f"host:{far}",
        str(near),
    ]
    subprocess.run(command, check=True)
    try:
        yield near
    finally:
        subprocess.run(["umount", "--lazy", near], check=True)


def put(vault: Vault, path: Path) -> None:
    """Let a vault's database be in another place; its store stays."""
    vault.path, vault.database = path, EncryptedDatabase(path, vault.store)


def test_no_room(vault: Vault, disk: Path) -> None:
    put(vault, disk / "app.db")
    vault.fill(rows=1000)
    size = vault.path.stat().st_size
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 2 * size - (1 << 20)))
    found = vault.rotation().status()
    assert found.needed == 2 * size + (1 << 20)
    assert found.free == found.needed
    with (disk / "filler").open("ab") as file:
        file.write(bytes(4096))
    text = rf"needs {2 * size + (1 << 20)} bytes.*{found.needed - 4096} are there"
    refused(vault.path, EncryptedDatabaseError, text, vault)
    assert [state for _, state in vault.key_states()] == ["active"]
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - 4096)
    vault.rotate()
    assert vault.count() == 1000


def test_no_room_to_adopt(vault: Vault, disk: Path) -> None:
    path = disk / "plain.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (zeroblob(1000000))")
        connection.commit()
    before = path.read_bytes()
    (disk / "filler").write_bytes(bytes(1 << 20))
    with pytest.raises(EncryptedDatabaseError, match=str(2 * len(before) + (1 << 20))):
        adopt_database(path, vault.store)
    assert path.read_bytes() == before
    (disk / "filler").unlink()
    assert adopt_database(path, vault.store).rows == 1


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_link_to_another_file_system(vault: Vault, disk: Path, mode: str) -> None:
    """It is followed, and what lies beside lies there too."""
    link = vault.path
    put(vault, disk / "app.db")
    vault.fill(mode)
    link.symlink_to(disk / "app.db")
    assert link.stat().st_dev != link.lstat().st_dev
    report = DatabaseKeyRotation(link, vault.store).rotate_key()
    assert report is not None
    assert report.path == str(disk / "app.db")
    assert [f.name for f in vault.directory.glob("app.db*")] == ["app.db"]
    assert vault.count() == 200


def test_a_file_that_is_mounted_by_itself(vault: Vault, disk: Path) -> None:
    """Its journals would lie on the file system that it is not on."""
    there = disk / "app.db"
    put(vault, there)
    vault.fill()
    plain = disk / "plain.db"
    plain.write_bytes(b"")
    for name, source in (("app here.db", there), ("plain.db", plain)):
        (vault.directory / name).touch()
        subprocess.run(["mount", "--bind", source, vault.directory / name], check=True)
    try:
        data = there.read_bytes()
        refused(vault.directory / "app here.db", EncryptedDatabaseError, "mounted by itself", vault)
        assert there.read_bytes() == data
        with contextlib.closing(sqlite3.connect(plain)) as connection:
            connection.execute("CREATE TABLE t (a)")
        with pytest.raises(EncryptedDatabaseError, match="mounted by itself"):
            adopt_database(vault.directory / "plain.db", vault.store)
    finally:
        for name in ("app here.db", "plain.db"):
            subprocess.run(["umount", vault.directory / name], check=True)
    vault.rotate()
    assert vault.count() == 200


def test_a_network_file_system(vault: Vault, network: Path) -> None:
    assert places.file_system_of(str(vault.directory)) != "fuse.sshfs"
    put(vault, network / "app.db")
    vault.fill()
    refused(vault.path, EncryptedDatabaseError, r"network file system \(fuse\.sshfs\)", vault)
    assert [state for _, state in vault.key_states()] == ["active"]
    vault.rotate(force=True)
    assert vault.count() == 200
    assert [state for _, state in vault.key_states()] == ["deactivated", "active"]


def test_neither_a_device_nor_a_pipe(vault: Vault, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.db")
    os.mknod(tmp_path / "null.db", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    for name in ("pipe.db", "null.db"):
        for act in (
            EncryptedDatabase(tmp_path / name, vault.store).connect,
            DatabaseKeyRotation(tmp_path / name, vault.store).rotate_key,
        ):
            with pytest.raises(EncryptedDatabaseError, match="not a regular file"):
                act()


# Journals beside the database that are another's


def _plain(path: Path) -> Any:
    return sqlite3.connect(path, isolation_level=None)


def _other_key(path: Path) -> Any:
    connection = dbapi2.connect(path, isolation_level=None)
    connection.set_key(b"x'" + b"22" * 32 + b"'")
    return connection


def journal_of(connection: Any, path: Path, kind: str) -> bytes:
    """The journal of a writer at work: pages that are not in its database, or not any more."""
    connection.execute(
        "PRAGMA journal_mode = " + ("wal" if kind == "-wal" else "delete")
    ).fetchone()
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
    connection.executemany("INSERT INTO rows (data) VALUES (?)", [(os.urandom(500),)] * 500)
    # A small cache spills, which takes the journal to the disk first.
    connection.execute("PRAGMA cache_size = 5")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE rows SET data = zeroblob(500)")
    data = Path(f"{path}{kind}").read_bytes()
    connection.execute("ROLLBACK")
    return data


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("kind", ["-journal", "-wal"])
@pytest.mark.parametrize("whose", [_plain, _other_key])
def test_a_journal_of_another_database(
    vault: Vault, tmp_path: Path, whose: Any, kind: str, mode: str
) -> None:
    vault.fill(mode)
    with contextlib.closing(whose(tmp_path / "other.db")) as other:
        data = journal_of(other, tmp_path / "other.db", kind)
    journal = Path(f"{vault.path}{kind}")
    journal.write_bytes(data)
    refused(vault.path, EncryptedDatabaseError, "another database's", vault)
    before = {f: f.read_bytes() for f in vault.files()}
    for act in (vault.database.connect, vault.rotation().recover, vault.rotation().verify):
        with pytest.raises(EncryptedDatabaseError, match=f"{journal.name} is another database's"):
            act()
    assert {f: f.read_bytes() for f in vault.files()} == before
    # The control: SQLite asks nobody.
    (key_id, _), *_ = vault.key_states()
    copy = vault.copy(tmp_path / "copy")
    assert rows_under(copy.path, vault.secret(key_id)) == 0
    journal.unlink()
    assert vault.count() == 200
    vault.rotate()
    assert vault.count() == 200


@pytest.mark.parametrize("kind", ["-journal", "-wal"])
@pytest.mark.parametrize(
    "settings",
    [
        None,
        CipherSettings(page_size=1024, hmac_algorithm="HMAC_SHA256"),
        CipherSettings(plaintext_header=32, hmac_algorithm="HMAC_SHA1"),
    ],
)
def test_its_own_journal(tmp_path: Path, kind: str, settings: CipherSettings | None) -> None:
    """A writer died in the middle: what it wrote is undone, and what was committed is there."""
    vault = Vault(tmp_path / "v")
    with vault.create(settings=settings):
        with contextlib.closing(vault.database.connect(isolation_level=None)) as connection:
            data = journal_of(connection, vault.path, kind)
            main = vault.path.read_bytes()
        vault.path.write_bytes(main)
        Path(f"{vault.path}{kind}").write_bytes(data)
        vault.rotate()
        with contextlib.closing(vault.database.connect()) as connection:
            found = connection.execute("SELECT count(*), sum(data = zeroblob(500)) FROM rows")
            assert found.fetchone() == (500, 0)


@pytest.mark.parametrize("kind", ["-journal", "-wal"])
@pytest.mark.parametrize("data", [b"", b"x", b"x" * 5000, bytes(5000)])
def test_what_is_no_journal(vault: Vault, kind: str, data: bytes) -> None:
    """SQLite passes over it, and so do we."""
    vault.fill()
    Path(f"{vault.path}{kind}").write_bytes(data)
    vault.rotate()
    assert vault.count() == 200


def test_a_bare_keys_database(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    database = EncryptedDatabase(path, strongroom.generate_key())
    database.connect().close()
    with contextlib.closing(_plain(tmp_path / "other.db")) as other:
        data = journal_of(other, tmp_path / "other.db", "-journal")
    Path(f"{path}-journal").write_bytes(data)
    with pytest.raises(EncryptedDatabaseError, match="another database's"):
        database.connect()
    shutil.move(f"{path}-journal", tmp_path / "away")
    database.connect().close()
