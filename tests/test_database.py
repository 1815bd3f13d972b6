"""Encrypted databases: opening, the sidecar, the files beside them, bad input."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import strongroom
from database_help import MODES, Vault, opens, pages_under, refused, vault
from sqlcipher3 import dbapi2
from strongroom import (
    CipherSettings,
    DatabaseBusyError,
    DatabaseCorruptError,
    DatabaseKeyError,
    DatabaseKeyRotation,
    DatabaseRecoveryError,
    EncryptedDatabase,
    EncryptedDatabaseError,
    KeyNotFoundError,
    KeyRotatedError,
    KeyStateError,
    MemoryLockedKey,
    NotADatabaseError,
    RotationError,
)

__all__ = ["vault"]


def test_made_and_opened(vault: Vault) -> None:
    with pytest.raises(FileNotFoundError):
        vault.database.connect(mode="rw")
    with pytest.raises(FileNotFoundError):
        vault.database.connect(mode="ro")
    assert not vault.path.exists()
    connection = vault.database.connect()
    assert isinstance(connection, dbapi2.Connection)
    with connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    data = vault.path.read_bytes()
    assert b"SQLite" not in data
    assert b"CREATE" not in data
    assert vault.beside() == set()
    with contextlib.closing(vault.database.connect(mode="ro")) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
        with pytest.raises(dbapi2.OperationalError, match="readonly"):
            connection.execute("INSERT INTO t VALUES (2)")
    (key_id, _), *_ = vault.key_states()
    assert vault.opens(key_id)
    sidecar = json.loads(Path(f"{vault.path}.srm.json").read_text())
    assert sidecar["key_id"] == key_id
    assert sidecar["keyset"] == "database"


def test_the_keyset_key_is_not_the_raw_key(vault: Vault) -> None:
    vault.fill()
    keyset = vault.store._load("database")
    (key_id, _), *_ = vault.key_states()
    with vault.store._material._open(key_id, keyset.wrapped[key_id]) as key:
        assert not opens(vault.path, key.get())


def test_options_of_sqlite3(vault: Vault) -> None:
    vault.fill()
    with contextlib.closing(vault.database.connect(isolation_level=None)) as connection:
        assert connection.isolation_level is None
        connection.row_factory = dbapi2.Row
        assert connection.execute("SELECT count(*) AS n FROM rows").fetchone()["n"] == 200
        assert len(connection.cursor().execute("SELECT * FROM rows").fetchmany(3)) == 3
        assert sum(1 for _ in connection.execute("SELECT 1 FROM rows")) == 200
        connection.execute("VACUUM")
    own = type(connection)

    class Mine(own):  # type: ignore[misc, valid-type]
        pass

    with contextlib.closing(vault.database.connect(factory=Mine)) as connection:
        assert type(connection) is Mine
    with pytest.raises(TypeError, match="factory"):
        vault.database.connect(factory=dbapi2.Connection)
    with pytest.raises(ValueError, match="mode"):
        vault.database.connect(mode="rwx")


def test_sqlalchemy(vault: Vault) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine("sqlite://", creator=vault.database.connect, module=dbapi2)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (a)"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (7)"))
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT a FROM t")).scalar() == 7
    engine.dispose()


def test_a_bare_key(tmp_path: Path) -> None:
    key = strongroom.generate_key()
    database = EncryptedDatabase(tmp_path / "a.db", key)
    with contextlib.closing(database.connect(isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a)")
    for same in (key, bytearray(key), MemoryLockedKey(key)):
        again = EncryptedDatabase(tmp_path / "a.db", same)
        with contextlib.closing(again.connect()) as connection:
            assert connection.execute("SELECT * FROM t").fetchall() == []
    Path(tmp_path / "a.db.srm.json").unlink()
    database.connect().close()
    assert Path(tmp_path / "a.db.srm.json").exists()
    with pytest.raises(DatabaseKeyError):
        EncryptedDatabase(tmp_path / "a.db", strongroom.generate_key()).connect()
    for wrong in (b"short", b"x" * 64):
        with pytest.raises(ValueError, match="a key has 32"):
            EncryptedDatabase(tmp_path / "a.db", wrong)


@pytest.mark.parametrize("mode", MODES)
def test_rotation(vault: Vault, mode: str) -> None:
    vault.fill(mode)
    seen: list[Any] = []
    report = vault.rotate(progress=seen.append)
    (old, new) = (report.old_key_id, report.new_key_id)
    assert vault.key_states() == [(old, "deactivated"), (new, "active")]
    assert report.rows == 200
    assert sorted(report.steps) == list(range(1, 14))
    assert vault.opens(new)
    assert not vault.opens(old)
    assert vault.beside() <= {"-wal", "-shm", "-journal"}
    secret, salt = bytes(vault.secret(old)), vault.path.read_bytes()[:16]
    for file in vault.files():
        assert pages_under(file.read_bytes(), secret, salt) == 0, file
        # Each alone, as someone would try who has a copy of it and the old key.
        if file.stat().st_size > 512 and not file.name.endswith(".json"):
            assert not opens(file, bytearray(secret)), file
    assert vault.count() == 200
    again = vault.rotate()
    assert again.old_key_id == new
    assert vault.live_keys() == [again.new_key_id]


@pytest.mark.parametrize(
    "settings",
    [
        CipherSettings(page_size=1024),
        CipherSettings(page_size=65_536),
        CipherSettings(hmac_algorithm="HMAC_SHA1", kdf_algorithm="PBKDF2_HMAC_SHA1"),
        CipherSettings(plaintext_header=32),
        CipherSettings(plaintext_header=32, page_size=8192, hmac_algorithm="HMAC_SHA256"),
    ],
)
@pytest.mark.parametrize("mode", ["delete", "wal+frames"])
def test_settings(tmp_path: Path, settings: CipherSettings, mode: str) -> None:
    vault = Vault(tmp_path / "v")
    with vault.create(settings=settings):
        vault.fill(mode)
        assert vault.path.read_bytes().startswith(b"SQLite") == bool(settings.plaintext_header)
        first = vault.rotate()
        assert vault.count() == 200
        # The store keeps the settings, the salt of a plaintext header too.
        Path(f"{vault.path}.srm.json").unlink()
        assert EncryptedDatabase(vault.path, vault.store).connect().close() is None
        second = vault.rotate()
        assert (second.pages, second.page_size) == (first.pages, settings.page_size)
        assert vault.count() == 200
        with pytest.raises(EncryptedDatabaseError, match="other cipher settings"):
            EncryptedDatabase(
                vault.path, vault.store, settings=CipherSettings(page_size=2048)
            ).connect()


@pytest.mark.parametrize(
    "wrong",
    [
        {"page_size": 1000}, {"page_size": True}, {"plaintext_header": 8}, {"salt": "11" * 16},
        {"hmac_algorithm": "MD5"}, {"kdf_algorithm": "x"},
    ],
)  # fmt: skip
def test_wrong_settings(vault: Vault, wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EncryptedDatabase(vault.path, vault.store, settings=CipherSettings(**wrong))


def _delete(path: Path, _: bytes) -> None:
    path.unlink()


def _empty(path: Path, _: bytes) -> None:
    path.write_bytes(b"")


def _yesterdays(path: Path, old: bytes) -> None:
    path.write_bytes(old)


def _edit(path: Path, _: bytes) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"key_id": "00" * 16}))


@pytest.mark.parametrize("damage", [_delete, _empty, _yesterdays, _edit])
def test_the_sidecar_is_a_hint(vault: Vault, damage: Any) -> None:
    vault.fill()
    path = Path(f"{vault.path}.srm.json")
    yesterday = path.read_bytes()
    vault.rotate()
    right = json.loads(path.read_text())
    damage(path, yesterday)
    assert vault.count() == 200
    assert json.loads(path.read_text()) == right
    damage(path, yesterday)
    vault.rotate()
    assert vault.count() == 200


def test_another_databases_sidecar(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    vault.store.create_keyset("other", purpose="database")
    other = EncryptedDatabase(tmp_path / "other.db", vault.store, keyset="other")
    other.connect().close()
    shutil.copy(tmp_path / "other.db.srm.json", f"{vault.path}.srm.json")
    assert vault.count() == 200
    assert json.loads(Path(f"{vault.path}.srm.json").read_text())["keyset"] == "database"


def test_a_moved_directory_opens(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    vault.rotate()
    vault.store.close()
    vault.directory.rename(tmp_path / "moved")
    moved = Vault(tmp_path / "moved")
    with moved.open():
        assert moved.count() == 200
        assert moved.rotation().recover().found == "nothing"
        moved.rotate()


def test_a_restored_copy_is_read_only(vault: Vault) -> None:
    vault.fill()
    copies = {f: f.read_bytes() for f in vault.files() if f.name == "app.db"}
    vault.rotate()
    for file, data in copies.items():
        file.write_bytes(data)
    for _ in range(2):
        with pytest.warns(UserWarning, match="reading only"):
            connection = vault.database.connect()
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (200,)
        with pytest.raises(EncryptedDatabaseError, match="strongroom db rotate"):
            connection.execute("DELETE FROM rows")
        connection.close()
    assert vault.rotation().status().state == "read-only"
    vault.rotate()
    assert vault.count() == 200
    assert [state for _, state in vault.key_states()] == ["deactivated", "deactivated", "active"]
    assert len(vault.live_keys()) == 1


def test_states_of_keys(vault: Vault) -> None:
    vault.fill()
    (key_id, _), *_ = vault.key_states()
    vault.store.suspend_key(key_id)
    for act in (vault.database.connect, vault.rotate):
        with pytest.raises(KeyStateError, match="resume_key"):
            act()
    vault.store.resume_key(key_id)
    assert vault.count() == 200
    vault.store.compromise_key(key_id)
    with pytest.raises(KeyStateError, match="compromised"):
        vault.database.connect()
    with pytest.warns(UserWarning, match="compromised"):
        vault.database.connect(allow_compromised=True).close()
    report = vault.rotate()
    assert vault.key_states() == [(key_id, "compromised"), (report.new_key_id, "active")]
    assert vault.count() == 200


def test_a_destroyed_key(vault: Vault) -> None:
    vault.fill()
    old = {f: f.read_bytes() for f in vault.files()}
    first = vault.rotate().old_key_id
    vault.store.destroy_key(first, force=True)
    for file, data in old.items():
        file.write_bytes(data)
    for act in (vault.database.connect, vault.rotate):
        with pytest.raises(KeyStateError, match="destroyed"):
            act()


def test_idle_connections(vault: Vault) -> None:
    vault.fill()
    reader, writer = vault.database.connect(), vault.database.connect()
    assert reader.execute("SELECT count(*) FROM rows").fetchone() == (200,)
    assert writer.execute("SELECT count(*) FROM rows").fetchone() == (200,)
    vault.rotate()
    for _ in range(3):
        with pytest.raises(KeyRotatedError, match="reconnect") as caught:
            reader.execute("SELECT count(*) FROM rows").fetchone()
        assert isinstance(caught.value, dbapi2.OperationalError)
        with pytest.raises(KeyRotatedError, match="reconnect"):
            writer.execute("INSERT INTO rows (data) VALUES (1)")
    with pytest.raises(KeyRotatedError):
        writer.cursor().executemany("INSERT INTO rows (data) VALUES (?)", [(1,)])
    reader.close()
    writer.close()
    assert vault.count() == 200


def test_wal_connections_hold_the_file(vault: Vault) -> None:
    vault.fill("wal")
    idle = vault.database.connect()
    before = vault.key_states()
    with pytest.raises(DatabaseBusyError, match=rf"pools.*pid {os.getpid()}"):
        vault.rotate(busy_timeout=0.2)
    assert [s for _, s in vault.key_states()] == [before[0][1], "destroyed"]
    assert idle.execute("SELECT count(*) FROM rows").fetchone() == (200,)
    idle.close()
    vault.rotate()
    assert vault.count() == 200


def test_attaching_is_refused_by_name(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    with contextlib.closing(vault.database.connect(isolation_level=None)) as connection:
        for statement, values in (
            (f"ATTACH '{tmp_path}/other.db' AS other", ()),
            ("ATTACH ? AS other", (str(tmp_path / "other.db"),)),
        ):
            with pytest.raises(EncryptedDatabaseError, match=r"other\.db|parameter"):
                connection.execute(statement, values)
        connection.execute("ATTACH ':memory:' AS scratch")
    assert not (tmp_path / "other.db").exists()


def test_what_is_refused_stays_refused(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    seen: list[int] = []

    def mine(action: int, *_: object) -> int:
        seen.append(action)
        denied = action == dbapi2.SQLITE_DELETE
        return int(dbapi2.SQLITE_DENY if denied else dbapi2.SQLITE_OK)

    with contextlib.closing(vault.database.connect(isolation_level=None)) as connection:
        for callback in (mine, None):
            connection.set_authorizer(callback)
            with pytest.raises(EncryptedDatabaseError, match=r"other\.db"):
                connection.execute(f"ATTACH '{tmp_path}/other.db' AS other")
            if callback:
                with pytest.raises(dbapi2.DatabaseError, match="not authorized"):
                    connection.execute("DELETE FROM rows")
        assert dbapi2.SQLITE_DELETE in seen
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (200,)


def test_other_cipher_settings_are_refused(vault: Vault) -> None:
    vault.fill()
    before = vault.path.read_bytes()
    with contextlib.closing(vault.database.connect()) as connection:
        for pragma in (
            *("cipher_page_size = 8192", "cipher_use_hmac = OFF", "KDF_ITER(1000)"),
            *("cipher_default_page_size = 8192", "cipher_plaintext_header_size = 32"),
            *("cipher_compatibility = 3", f"cipher_salt = \"x'{'0' * 32}'\""),
        ):
            with pytest.raises(EncryptedDatabaseError, match="can't be set"):
                connection.execute(f"PRAGMA {pragma}")
        for asked in ("cipher_page_size", "cipher_settings", "cipher_version"):
            assert connection.execute(f"PRAGMA {asked}").fetchall()
        assert connection.execute("PRAGMA cipher_integrity_check").fetchall() == []
        connection.execute("PRAGMA cipher_memory_security = ON")
    assert vault.path.read_bytes() == before
    assert vault.count() == 200


def test_another_key_is_refused(vault: Vault) -> None:
    vault.fill()
    key = "x'" + "11" * 32 + "'"
    with contextlib.closing(vault.database.connect(isolation_level=None)) as connection:
        for name in ("rekey", "ReKey", "hexrekey", "key", "cipher_migrate"):
            with pytest.raises(EncryptedDatabaseError, match="strongroom db rotate"):
                connection.execute(f'PRAGMA {name} = "{key}"')
        for act in (connection.reset_key, connection.set_key):
            with pytest.raises(EncryptedDatabaseError, match="strongroom db rotate"):
                act(key.encode())
        connection.execute("INSERT INTO rows (data) VALUES (1)")
    assert vault.count() == 201
    assert len(vault.live_keys()) == 1


def test_one_database_a_keyset(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    with pytest.raises(KeyStateError, match="keyset="):
        EncryptedDatabase(tmp_path / "second.db", vault.store).connect()
    with pytest.raises(KeyStateError, match="purpose"):
        EncryptedDatabase(tmp_path / "second.db", vault.store, keyset="default").connect()
    with pytest.raises(KeyNotFoundError):
        EncryptedDatabase(tmp_path / "second.db", vault.store, keyset="none").connect()
    assert not (tmp_path / "second.db").exists()


def test_bad_files(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    with pytest.raises(FileNotFoundError):
        vault.rotation().__class__(tmp_path / "none.db", vault.store).rotate_key()
    empty = tmp_path / "empty.db"
    empty.touch()
    text = tmp_path / "text.db"
    text.write_text("not a database, nor as long as a page")
    plain = tmp_path / "plain.db"
    with contextlib.closing(sqlite3.connect(plain)) as connection:
        connection.execute("CREATE TABLE t (a)")
    noise = tmp_path / "noise.db"
    noise.write_bytes(os.urandom(8 * 4096))
    for path, error, match in (
        (empty, NotADatabaseError, "empty"),
        (text, NotADatabaseError, "no whole pages"),
        (plain, NotADatabaseError, "adopt"),
        (noise, DatabaseKeyError, "no key of keyset"),
    ):
        with pytest.raises(error, match=match):
            EncryptedDatabase(path, vault.store).connect()
        refused(path, error, match, vault)
    (tmp_path / "folder").mkdir()
    for act in (
        EncryptedDatabase(tmp_path / "folder", vault.store).connect,
        DatabaseKeyRotation(tmp_path / "folder", vault.store).rotate_key,
    ):
        with pytest.raises(IsADirectoryError):
            act()
    for wrong in ("", ":memory:", "a\0b"):
        with pytest.raises(ValueError, match="name the file"):
            EncryptedDatabase(wrong, vault.store)
    with pytest.raises(TypeError):
        EncryptedDatabase(b"app.db", vault.store)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        DatabaseKeyRotation(vault.path, strongroom.generate_key())  # type: ignore[arg-type]


def test_a_damaged_first_page(vault: Vault) -> None:
    vault.fill()
    data = bytearray(vault.path.read_bytes())
    data[100] ^= 1
    vault.path.write_bytes(data)
    for act in (vault.database.connect, vault.rotate, vault.rotation().recover):
        with pytest.raises(DatabaseCorruptError, match="first page"):
            act()
    assert vault.path.read_bytes() == data


def test_a_damaged_later_page(vault: Vault) -> None:
    vault.fill()
    data = bytearray(vault.path.read_bytes())
    data[-100] ^= 1
    vault.path.write_bytes(data)
    with pytest.raises(RotationError, match=r"damaged|malformed|not a database"):
        vault.rotate()
    with pytest.raises(RotationError, match="cipher_integrity_check"):
        vault.rotation().verify()
    assert vault.path.read_bytes() == data
    assert [state for _, state in vault.key_states()] == ["active", "destroyed"]


def test_links(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    link = tmp_path / "link.db"
    link.symlink_to(vault.path)
    report = DatabaseKeyRotation(link, vault.store).rotate_key()
    assert report is not None
    assert report.path == str(vault.path)
    assert not list(tmp_path.glob("link.db?*"))
    os.link(vault.path, tmp_path / "hard.db")
    for act in (vault.database.connect, vault.rotate):
        with pytest.raises(EncryptedDatabaseError, match="hard links"):
            act()
    (tmp_path / "hard.db").unlink()
    assert vault.count() == 200


def test_a_journal_without_its_database(vault: Vault) -> None:
    Path(f"{vault.path}-wal").write_bytes(b"frames")
    with pytest.raises(EncryptedDatabaseError, match="without its database"):
        vault.database.connect()
    assert not vault.path.exists()


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_store(vault: Vault, tmp_path: Path, mode: str) -> None:
    """Its own journal beside it makes it no other database's."""
    vault.fill(mode)
    other = Vault(tmp_path / "other")
    with other.create() as store:
        for act in (
            EncryptedDatabase(vault.path, store).connect,
            DatabaseKeyRotation(vault.path, store).rotate_key,
        ):
            with pytest.raises(DatabaseKeyError, match="no key of keyset"):
                act()
    assert vault.count() == 200


def test_two_threads(vault: Vault) -> None:
    vault.fill()
    made: list[Any] = []

    def run() -> None:
        made.append(DatabaseKeyRotation(vault.path, vault.store).rotate_key())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0].new_key_id in (made[1].old_key_id, made[1].new_key_id) or (
        made[1].new_key_id == made[0].old_key_id
    )
    assert [state for _, state in vault.key_states()] == ["deactivated", "deactivated", "active"]
    assert vault.count() == 200


def test_kept_backups(vault: Vault) -> None:
    vault.fill()
    first = vault.rotate(), vault.rotation().rotate_key(keep_backup=3600)
    kept = first[1]
    assert kept is not None
    assert kept.backup is not None
    assert vault.opens(kept.old_key_id, Path(kept.backup))
    assert vault.rotation().status().backups == [kept.backup]
    vault.rotate()
    assert Path(kept.backup).exists()
    expired = Path(f"{vault.path}.srm.backup.7")
    Path(kept.backup).rename(expired)
    assert vault.rotation().recover().found == "leftovers"
    assert not expired.exists()


def test_only_if_due(vault: Vault) -> None:
    from strongroom.keys import Policy

    vault.fill()
    assert vault.rotation().rotate_key(if_due=True) is None
    vault.store.set_policy("database", Policy(originator_seconds=1))
    clock = vault.store._clock
    vault.store._clock = lambda: clock() + 10**10
    assert vault.rotation().status().due
    assert vault.rotation().rotate_key(if_due=True) is not None


def test_status_and_verify(vault: Vault) -> None:
    vault.fill("wal")
    status = vault.rotation().status()
    assert (status.state, status.key_state, status.sidecar) == ("ok", "active", True)
    assert status.needed == 2 * status.size + (1 << 20)
    vault.rotate()
    verified = vault.rotation().verify()
    assert verified.refused == 1
    assert verified.tables == 1
    assert verified.pages > 10
    Path(f"{vault.path}.srm.rotate").write_text("{}")
    assert vault.rotation().status().state == "recover"
    with pytest.raises(RotationError, match="nothing was touched") as caught:
        vault.database.connect()
    assert caught.value.journal == f"{vault.path}.srm.rotate"


def test_read_only_store(vault: Vault) -> None:
    vault.fill()
    vault.store.close()
    store = strongroom.KeyStore.open(vault.url, vault.master, read_only=True)
    with store:
        EncryptedDatabase(vault.path, store).connect().close()
        with pytest.raises(EncryptedDatabaseError, match="read-only"):
            DatabaseKeyRotation(vault.path, store).rotate_key()
        Path(f"{vault.path}.srm.rotate").write_text("{}")
        with pytest.raises(DatabaseRecoveryError):
            EncryptedDatabase(vault.path, store).connect()


def test_one_module_imports_sqlcipher3() -> None:
    package = Path(strongroom.__file__).parent
    importers = [
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if re.search(r"^\s*(from|import) sqlcipher3", file.read_text(), re.MULTILINE)
    ]
    assert importers == ["database/driver.py"]


def test_without_the_extra() -> None:
    code = (
        "import sys\n"
        "sys.modules['sqlcipher3'] = None\n"
        "import strongroom\n"
        "try:\n"
        "    strongroom.EncryptedDatabase('a.db', bytes(32)).connect()\n"
        "except strongroom.EncryptedDatabaseError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'strongroom[sqlcipher]'" in done.stdout


def test_backup_never_waits_for_ever(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    key = EncryptedDatabase(tmp_path / "copy.db", strongroom.generate_key())
    with (
        contextlib.closing(vault.database.connect(isolation_level=None, timeout=0.2)) as source,
        contextlib.closing(vault.database.connect(isolation_level=None)) as other,
        contextlib.closing(key.connect()) as target,
    ):
        source.backup(target)
        assert target.execute("SELECT count(*) FROM rows").fetchone() == (200,)
        source.execute("BEGIN IMMEDIATE")
        with pytest.raises(dbapi2.OperationalError, match="commit or roll back"):
            source.backup(target)
        source.execute("ROLLBACK")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(dbapi2.OperationalError, match="locked"):
            source.backup(target, sleep=0.01)
        other.execute("ROLLBACK")
        source.backup(target, pages=5)
