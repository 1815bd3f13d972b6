"""Taking plain databases, and those under a passphrase, into a key store."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from database_help import Vault, vault
from sqlcipher3 import dbapi2
from strongroom import (
    CipherSettings,
    DatabaseBusyError,
    EncryptedDatabase,
    EncryptedDatabaseError,
    KeyStateError,
    NotADatabaseError,
)
from strongroom.database import adopt_database

__all__ = ["vault"]

SCHEMA = """
    CREATE TABLE rows (id INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB);
    CREATE TABLE plain (a, b);
    CREATE INDEX by_data ON rows (data);
    CREATE VIEW some AS SELECT * FROM rows LIMIT 5;
    CREATE TRIGGER t AFTER DELETE ON rows BEGIN INSERT INTO plain VALUES (1, 2); END;
    CREATE VIRTUAL TABLE search USING fts5(text);
    CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    PRAGMA user_version = 7;
    PRAGMA application_id = 99;
"""


def _fill(connection: Any, mode: str) -> None:
    connection.execute("PRAGMA auto_vacuum = 2")
    connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
    connection.executescript(SCHEMA)
    connection.executemany("INSERT INTO rows (data) VALUES (?)", [(os.urandom(50),)] * 300)
    connection.execute("INSERT INTO search VALUES ('one two')")
    connection.execute("INSERT INTO keyed VALUES ('k', 1)")
    connection.execute("ANALYZE")
    connection.commit()
    connection.close()


def _look(vault: Vault, mode: str) -> None:
    with contextlib.closing(vault.database.connect()) as connection:
        get = lambda text: connection.execute(text).fetchone()  # noqa: E731
        assert get("SELECT count(*) FROM rows") == (300,)
        assert get("SELECT seq FROM sqlite_sequence") == (300,)
        assert get("SELECT text FROM search WHERE search MATCH 'two'") == ("one two",)
        assert get("PRAGMA user_version") == (7,)
        assert get("PRAGMA application_id") == (99,)
        assert get("PRAGMA auto_vacuum") == (2,)
        assert get("PRAGMA journal_mode") == (mode,)
    assert b"SQLite" not in vault.path.read_bytes()
    assert vault.beside() <= {"-wal", "-shm"}


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_plain_database(vault: Vault, mode: str) -> None:
    _fill(sqlite3.connect(vault.path), mode)
    vault.path.chmod(0o640)
    report = adopt_database(vault.path, vault.store)
    assert (report.rows, report.original) == (report.rows, None)
    assert vault.path.stat().st_mode & 0o777 == 0o640
    _look(vault, mode)
    vault.rotate()
    _look(vault, mode)
    with pytest.raises(EncryptedDatabaseError, match="already"):
        adopt_database(vault.path, vault.store)


@pytest.mark.parametrize("word", ["correct horse", b"x'" + b"5a" * 32 + b"'"])
def test_a_passphrase(vault: Vault, word: str | bytes) -> None:
    connection = dbapi2.connect(str(vault.path))
    connection.set_key(word.encode() if isinstance(word, str) else word)
    _fill(connection, "delete")
    with pytest.raises(NotADatabaseError, match="passphrase"):
        adopt_database(vault.path, vault.store)
    with pytest.raises(NotADatabaseError, match="another one"):
        adopt_database(vault.path, vault.store, passphrase="wrong")
    report = adopt_database(vault.path, vault.store, passphrase=word, keep_original=True)
    assert report.original is not None
    assert Path(report.original).exists()
    Path(report.original).unlink()
    _look(vault, "delete")


def test_other_settings(vault: Vault) -> None:
    _fill(sqlite3.connect(vault.path), "delete")
    settings = CipherSettings(page_size=8192, plaintext_header=32)
    adopt_database(vault.path, vault.store, settings=settings)
    vault.rotate()
    with contextlib.closing(vault.database.connect()) as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (300,)


def test_sqlcipher_3(vault: Vault) -> None:
    connection = dbapi2.connect(str(vault.path))
    connection.set_key(b"word")
    connection.execute("PRAGMA cipher_compatibility = 3")
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    before = vault.path.read_bytes()
    with pytest.raises(NotADatabaseError, match=r"SQLCipher 3.*cipher_migrate"):
        adopt_database(vault.path, vault.store, passphrase="word")
    assert vault.path.read_bytes() == before


def test_in_use(vault: Vault, tmp_path: Path) -> None:
    _fill(sqlite3.connect(vault.path), "wal")
    # Not the standard library's: closing SQLCipher's descriptor here would drop its locks.
    with contextlib.closing(dbapi2.connect(str(vault.path))) as other:
        other.execute("SELECT count(*) FROM rows").fetchone()
        with pytest.raises(DatabaseBusyError, match="pid"):
            adopt_database(vault.path, vault.store)
        with pytest.raises(DatabaseBusyError, match="nothing was changed"):
            adopt_database(vault.path, vault.store, force=True, busy_timeout=0.2)
    adopt_database(vault.path, vault.store)
    _look(vault, "wal")
    second = tmp_path / "second.db"
    _fill(sqlite3.connect(second), "delete")
    with pytest.raises(KeyStateError, match="keyset="):
        adopt_database(second, vault.store)
    with pytest.raises(FileNotFoundError):
        adopt_database(tmp_path / "none.db", vault.store)


@pytest.mark.parametrize("died", ["before the rename", "after the rename"])
def test_goes_on_after_a_crash(vault: Vault, died: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(sqlite3.connect(vault.path), "delete")
    original = Path(f"{vault.path}.srm.original")
    if died == "before the rename":
        os.link(vault.path, original)
    else:
        plain = vault.path.read_bytes()
        adopt_database(vault.path, vault.store)
        original.write_bytes(plain)
    adopt_database(vault.path, vault.store)
    assert not original.exists()
    _look(vault, "delete")
    assert EncryptedDatabase(vault.path, vault.store).connect().close() is None
