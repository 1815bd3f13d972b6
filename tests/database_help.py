"""What the tests of encrypted databases share: stores, databases with rows, looks at files."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlcipher3 import dbapi2
from strongroom import (
    CipherSettings,
    DatabaseKeyRotation,
    EncryptedDatabase,
    FileMasterKey,
    KeyStore,
)
from strongroom.database import RotationReport

MODES = ("delete", "truncate", "persist", "wal", "wal+frames")
PAGE = 4096


class Vault:
    """A key store, and one database under its keyset `database`."""

    def __init__(self, directory: Path, *, url: str | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.path = directory / "app.db"
        self.url = url or f"sqlite:///{directory / 'keys.db'}"
        self.master_path = directory / "master.key"

    def create(self, *, settings: CipherSettings | None = None) -> KeyStore:
        self.master = FileMasterKey.create(self.master_path)
        self.store = KeyStore.create(self.url, self.master)
        self.store.create_keyset("database", purpose="database")
        self.database = EncryptedDatabase(self.path, self.store, settings=settings)
        return self.store

    def open(self) -> KeyStore:
        """Open the store anew, as another process would."""
        self.master = FileMasterKey(self.master_path)
        self.store = KeyStore.open(self.url, self.master)
        self.database = EncryptedDatabase(self.path, self.store)
        return self.store

    def fill(self, mode: str = "delete", rows: int = 200, size: int = 200) -> None:
        """Write rows under a journal mode; with "wal+frames" the WAL holds what the file lacks."""
        name, _, frames = mode.partition("+")
        connection = self.database.connect(isolation_level=None)
        connection.execute(f"PRAGMA journal_mode = {name}").fetchone()
        if frames:
            connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
        connection.execute("CREATE INDEX by_data ON rows (data)")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO rows (data) VALUES (?)", [(os.urandom(size),) for _ in range(rows)]
        )
        connection.execute("COMMIT")
        self.rows = rows
        if not frames:
            connection.close()
            return
        # The files as a killed writer leaves them: no checkpoint at the close.
        saved = {f: f.read_bytes() for f in self.files() if f.suffix != ".db-shm"}
        connection.close()
        for file, data in saved.items():
            file.write_bytes(data)

    def rotation(self, **options: Any) -> DatabaseKeyRotation:
        return DatabaseKeyRotation(self.path, self.store, **options)

    def rotate(self, **options: Any) -> RotationReport:
        report = self.rotation(**options).rotate_key()
        assert report is not None
        return report

    def count(self) -> int:
        with contextlib.closing(self.database.connect()) as connection:
            (found,) = connection.execute("SELECT count(*) FROM rows").fetchone()
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(found)

    def files(self) -> list[Path]:
        """The database's files and those beside it; not the store's."""
        return sorted(self.directory.glob("app.db*"))

    def beside(self) -> set[str]:
        """Names of what lies beside the database, without the sidecar and the lock."""
        names = {f.name[len("app.db") :] for f in self.files()}
        return names - {"", ".srm.json", ".srm.lock"}

    def secret(self, key_id: str) -> bytearray:
        return self.store._database_secret(self.store._load("database"), key_id)

    def key_states(self) -> list[tuple[str, str]]:
        """Id and state of each key, oldest first."""
        return [(key.id, key.state) for key in self.store.list_keys("database")]

    def opens(self, key_id: str, path: Path | None = None) -> bool:
        """Whether a key opens a file, by sqlcipher3 alone and the main file alone."""
        return opens(path or self.path, self.secret(key_id))

    def live_keys(self) -> list[str]:
        """The keys that open the database, in whatever state, destroyed ones excepted."""
        with_material = [i for i, state in self.key_states() if state != "destroyed"]
        return [i for i in with_material if opens(self.path, self.secret(i), immutable=False)]

    def copy(self, to: Path) -> Vault:
        """Copy the whole directory."""
        shutil.copytree(self.directory, to)
        other = Vault(to)
        other.rows = getattr(self, "rows", 0)
        return other


def refused(path: Path, error: type[Exception], match: str, vault: Vault, **options: Any) -> None:
    """Not rotated, for that reason, and nothing is touched."""
    before = {f: f.read_bytes() for f in path.parent.glob(f"{path.name}*") if f.is_file()}
    with pytest.raises(error, match=match):
        DatabaseKeyRotation(path, vault.store, **options).rotate_key()
    after = {f: f.read_bytes() for f in path.parent.glob(f"{path.name}*") if f.is_file()}
    after.pop(Path(f"{path}.srm.lock"), None)
    before.pop(Path(f"{path}.srm.lock"), None)
    assert after == before


def opens(path: Path, secret: bytearray, *, immutable: bool = True) -> bool:
    uri = f"file:{path}?mode=rw" + ("&immutable=1" if immutable else "")
    with contextlib.closing(dbapi2.connect(uri, uri=True)) as connection:
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.set_key(f"x'{bytes(secret).hex()}'".encode())
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except dbapi2.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF != dbapi2.SQLITE_NOTADB:
                raise
            return False
    return True


def rows_under(path: Path, secret: bytearray) -> int:
    """How many rows a key opens, by sqlcipher3 alone; 0 if it opens none, or damaged ones."""
    with contextlib.closing(dbapi2.connect(path)) as connection:
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.set_key(f"x'{bytes(secret).hex()}'".encode())
        try:
            (rows,) = connection.execute("SELECT count(*) FROM rows").fetchone()
            whole = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        except dbapi2.DatabaseError:
            return 0
    return int(rows) if whole else 0


def pages_under(data: bytes, secret: bytes, salt: bytes) -> int:
    """How many pages anywhere in some bytes authenticate under a raw key, at any offset of 4.

    SQLCipher's layout: a page ends in its IV (16 bytes) and HMAC-SHA-512 (64 bytes) over page
    without salt, IV and page number, little-endian, under a key of PBKDF2 with two rounds.
    """
    mac_key = hashlib.pbkdf2_hmac("sha512", secret, bytes(b ^ 0x3A for b in salt), 2, 32)
    base = hmac.new(mac_key, digestmod=hashlib.sha512)
    found = 0
    for offset in range(0, max(0, len(data) - PAGE + 1), 4):
        page = data[offset : offset + PAGE]
        if not any(page):
            continue
        own = () if offset % PAGE else (offset // PAGE + 1,)
        for number in {*own, *_numbers(data, offset)}:
            state = base.copy()
            state.update(page[16 if number == 1 else 0 : -64])
            state.update(number.to_bytes(4, "little"))
            found += hmac.compare_digest(state.digest(), page[-64:])
    return found


def _numbers(data: bytes, offset: int) -> Iterator[int]:
    # In a journal the number stands before the page, in a WAL 24 bytes before, both big-endian.
    for back in (4, 24):
        if offset >= back:
            number = int.from_bytes(data[offset - back : offset - back + 4], "big")
            if 0 < number < 1 << 20:
                yield number


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    made = Vault(tmp_path / "vault")
    with made.create():
        yield made


Check = Callable[[Vault], None]
