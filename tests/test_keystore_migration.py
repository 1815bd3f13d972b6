"""From an older schema: made here by taking columns out of today's, since there is no older one."""

from __future__ import annotations

from typing import Any

import pytest
from keystore_help import Place, place
from strongroom import (
    AuditError,
    FileMasterKey,
    KeyStore,
    KeyStoreError,
    VersionedEncryption,
    _events,
)
from strongroom.keys import migrate, postgres, rows, sql, sqlite

__all__ = ["place"]

DROPPED = {
    sql.STORE.name: ["leases_digest"],
    sql.KEYSETS.name: ["policy", "database_id", "database_settings", "destroyed"],
    sql.KEYS.name: ["reason", "rotation"],
}
OLD = tuple(
    sql.Table(t.name, tuple(c for c in t.columns if c.name not in DROPPED.get(t.name, [])))
    for t in sql.TABLES
    if t not in (sql.USAGE, sql.LEASES, sql.BACKUPS, sql.HELD)
)


def _step(tables: migrate.Tables) -> migrate.Tables:
    for row in tables[sql.STORE.name]:
        row["leases_digest"] = b""  # made anew
    for row in tables[sql.KEYSETS.name]:
        row |= {"policy": "", "database_id": "", "database_settings": "", "destroyed": 0}
    for row in tables[sql.KEYS.name]:
        row |= {"reason": "", "rotation": ""}
    return tables


@pytest.fixture
def old_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store of schema 0, and what was encrypted with it."""
    monkeypatch.setitem(sql.OLD_TABLES, 0, OLD)
    monkeypatch.setitem(migrate.STEPS, 0, _step)
    with place.create() as store:
        store.create_keyset("tenant")
        message = VersionedEncryption(store).encrypt(b"value")
        store.rotate()
        keys = store.list_keys()
        _make_old(place, store)
    return message, keys


def _make_old(place: Place, store: KeyStore) -> None:
    def old_rows(name: str) -> list[dict[str, Any]]:
        table = next(t for t in OLD if t.name == name)
        found = place.sql(f"SELECT {table.names} FROM {name}")
        return [dict(zip([c.name for c in table.columns], row, strict=True)) for row in found]

    def seal(name: str, row: dict[str, Any]) -> None:
        row["mac"] = rows.row_mac(store._root, name, list(row.values())[:-1])

    tables = {table.name: old_rows(table.name) for table in OLD}
    for name in (sql.MASTERS.name, sql.KEYS.name, sql.WRAPPED.name, sql.USES.name):
        for row in tables[name]:
            seal(name, row)
    for head in tables[sql.KEYSETS.name]:
        own = [r for r in tables[sql.KEYS.name] if r["keyset"] == head["name"]]
        head["digest"] = migrate._digest(own)
        seal(sql.KEYSETS.name, head)
    (row,) = tables[sql.STORE.name]
    row |= {"schema_version": 0, "masters_digest": migrate._digest(tables[sql.MASTERS.name])}
    seal(sql.STORE.name, row)
    for table in sql.TABLES:
        place.sql(f"DROP TABLE {table.name}")
    for table in OLD:
        types = postgres.TYPES if place.kind == "postgresql" else sqlite.TYPES
        columns = ", ".join(f"{c.name} {types[c.kind]}" for c in table.columns)
        place.sql(f"CREATE TABLE {table.name} ({columns})")
        for row in tables[table.name]:
            place.sql(sql.insert(table), *row.values())


def test_migration(place: Place, old_store: Any) -> None:
    message, keys = old_store
    with pytest.raises(KeyStoreError, match=r"KeyStore\.migrate"):
        place.open()
    assert KeyStore.migrate(place.url, place.master) is True
    with place.open() as store:
        assert store.list_keys() == keys
        assert VersionedEncryption(store).decrypt(message) == b"value"
        store.rotate()
        store.check()
    assert KeyStore.migrate(place.url, place.master) is False


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE strongroom_keys SET state = 'deactivated' WHERE state = 'active'",
        "DELETE FROM strongroom_keys WHERE state = 'active' AND keyset = 'default'",
        "DELETE FROM strongroom_keysets WHERE name = 'tenant'",
        "UPDATE strongroom_store SET created = 7",
        "UPDATE strongroom_masters SET uri = 'file:/elsewhere'",
    ],
)
def test_a_damaged_store_is_not_migrated(place: Place, old_store: Any, edit: str) -> None:
    place.sql(edit)
    before = place.sql("SELECT * FROM strongroom_keys ORDER BY key_id")
    with pytest.raises(KeyStoreError, match="damaged"):
        KeyStore.migrate(place.url, place.master)
    assert place.sql("SELECT * FROM strongroom_keys ORDER BY key_id") == before
    assert place.sql(sql.SELECT_VERSION) == [(0,)]


def test_a_backup_comes_first(place: Place, old_store: Any) -> None:
    message, keys = old_store
    backup = place.directory / "before.db"
    assert KeyStore.schema_version(place.url) == 0
    assert [info.uri for info in KeyStore.masters_of(place.url, any_schema=True)] == [
        place.master.uri
    ]
    assert KeyStore.migrate(place.url, place.master, backup=backup) is True
    assert KeyStore.schema_version(place.url) == sql.SCHEMA_VERSION
    # As it was, in a file that the older release reads, and that migrates in its turn.
    url = f"sqlite:///{backup}"
    assert KeyStore.schema_version(url) == 0
    assert backup.stat().st_mode & 0o777 == 0o600
    assert KeyStore.migrate(url, place.master) is True
    with KeyStore.open(url, place.master) as store:
        assert store.list_keys() == keys
        assert VersionedEncryption(store).decrypt(message) == b"value"


def test_nothing_is_migrated_where_no_backup_can_be(place: Place, old_store: Any) -> None:
    (place.directory / "before.db").write_bytes(b"something")
    with pytest.raises(FileExistsError):
        KeyStore.migrate(place.url, place.master, backup=place.directory / "before.db")
    assert KeyStore.schema_version(place.url) == 0
    assert (place.directory / "before.db").read_bytes() == b"something"


def test_migrating_by_a_recovery_master_is_loud(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sql.OLD_TABLES, 0, OLD)
    monkeypatch.setitem(migrate.STEPS, 0, _step)
    second = FileMasterKey.create(place.directory / "second.key")
    with place.create() as store:
        store.add_master(second, recovery=True)
        _make_old(place, store)
    told: list[tuple[str, object]] = []

    class Sink:
        def event(self, name: str, outcome: str, fields: dict[str, Any]) -> None:
            told.append((name, fields["key_id"]))
            if len(told) == 1:
                raise AuditError("the disk of the audit log is full")

    before = _events.set_sink(Sink())
    try:
        with pytest.raises(AuditError):
            KeyStore.migrate(place.url, second)
        assert KeyStore.schema_version(place.url) == 0
        assert KeyStore.migrate(place.url, second) is True
    finally:
        _events.set_sink(before)
    assert told == [("master.recovery_used", second.key_id)] * 2


def test_a_newer_store_is_refused(place: Place) -> None:
    place.create().close()
    place.sql("UPDATE strongroom_store SET schema_version = 99")
    for call in (
        lambda: KeyStore.migrate(place.url, place.master, backup=place.directory / "b.db"),
        lambda: KeyStore.schema_version(place.url),
        place.open,
    ):
        with pytest.raises(KeyStoreError, match="newer release"):
            call()
    assert not (place.directory / "b.db").exists()
