"""Stores that were changed behind the library's back: always a typed error, never a write."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from keystore_help import PLACES, TABLES, Place, seeded
from strongroom import (
    FileMasterKey,
    KeyStore,
    KeyStoreBusyError,
    KeyStoreError,
    LimitError,
    MasterKeyError,
    VersionedEncryption,
)
from strongroom.keys import reading
from strongroom.keys.base import _SEEN

SAMPLE = 700  # of the bits; `make sweep` flips all, in about an hour


@pytest.fixture(params=PLACES, ids=lambda kind: kind.kind, scope="module")
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Place, Any]:
    """A store that was filled once, and all of its rows."""
    place = fill(request.param(tmp_path_factory.mktemp("filled")))
    return place, place.copy()


@pytest.fixture
def full(filled: tuple[Place, Any]) -> Place:
    place, rows = filled
    if place.copy() != rows:
        place.put_back(rows)
    return place


def fill(place: Place) -> Place:
    """Make a store with two keysets, keys in several states, a use and two masters."""
    with place.create() as store:
        first = store.get_current_key()
        store.rotate()
        store.register_use(first.id, "archive")
        store.generate_new_key()
        store.create_keyset("tenant")
        store.rotate("tenant")
        store.create_keyset("other")
        store.add_master(FileMasterKey.create(place.directory / "second.key"), recovery=True)
        store.lease_messages("ab" * 16, 10, 100)
        store.lease_messages("cd" * 16, 20, 100)
        store.backup(place.directory / "backup.db")
        forget(store)
    return place


def forget(store: KeyStore) -> None:
    """Let this process forget the store: damage must be seen without remembering."""
    _SEEN.forget(store._root_id)


def use(place: Place) -> None:
    """Do what shows damage anywhere: open, read everything, decrypt."""
    with place.open() as store:
        try:
            store.check()
        finally:
            forget(store)


def columns() -> list[tuple[str, str]]:
    from strongroom.keys import sql

    return [(t.name, c.name) for t in sql.TABLES for c in t.columns if t is not sql.USAGE]


@pytest.mark.parametrize(("table", "column"), columns())
def test_edited_column(full: Place, table: str, column: str) -> None:
    rows = full.sql(f"SELECT * FROM {table} LIMIT 2")
    from strongroom.keys import sql

    (found,) = (t for t in sql.TABLES if t.name == table)
    index = [c.name for c in found.columns].index(column)
    key = found.columns[0].name
    for row in rows:
        old = row[index]
        new = {int: lambda v: v + 100, str: lambda v: v + "x", bytes: lambda v: v + b"x"}
        edited = new[type(old)](old)
        if (table, column) == ("strongroom_store", "id"):
            continue
        full.sql(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", edited, row[0])
        now = edited if index == 0 else row[0]
        if (table, column) == ("strongroom_uses", "key_id"):
            # Out of sight under a key that isn't there: as if it were dropped.
            pass
        elif table == "strongroom_uses":
            with full.open() as store, pytest.raises(KeyStoreError, match="damaged"):
                store.uses_of(row[1])
        elif table == "strongroom_masters":
            with pytest.raises((KeyStoreError, MasterKeyError)):
                use(full)
        else:
            with pytest.raises(KeyStoreError, match=r"damaged|newer release"):
                use(full)
        full.sql(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", old, now)
    use(full)


@pytest.mark.parametrize(("table", "column"), columns())
def test_another_type_in_a_column(tmp_path: Path, table: str, column: str) -> None:
    """SQLite's columns take values of any type."""
    full = fill(Place(tmp_path))
    if (table, column) == ("strongroom_store", "id"):
        return  # SQLite's rowid: it takes nothing but integers
    full.sql(f"UPDATE {table} SET {column} = CAST({column} AS BLOB)")
    text = full.sql(f"SELECT typeof({column}) FROM {table}")
    if text == [("blob",)] * len(text) and column in (
        "mac",
        "digest",
        "wrapped",
        "masters_digest",
        "leases_digest",
    ):
        full.sql(f"UPDATE {table} SET {column} = 'text' || hex({column})")
    with contextlib.ExitStack() as stack:
        if table == "strongroom_uses":
            if column in ("id", "key_id"):
                return
            store = stack.enter_context(full.open())
            ids = [key.id for key in store.list_keys()]
            stack.enter_context(pytest.raises(KeyStoreError, match="damaged"))
            for key_id in ids:
                store.uses_of(key_id)
        else:
            stack.enter_context(pytest.raises(KeyStoreError, match="damaged"))
            use(full)


def _swap(table: str, column: str, where: str) -> Callable[[Place], None]:
    def swap(place: Place) -> None:
        key = "name" if table == "strongroom_keysets" else "key_id"
        (a, va), (b, vb) = place.sql(
            f"SELECT {key}, {column} FROM {table} WHERE {where} ORDER BY {key} LIMIT 2"
        )
        assert va != vb
        place.sql(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", vb, a)
        place.sql(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", va, b)

    return swap


def _run(statement: str) -> Callable[[Place], object]:
    return lambda place: place.sql(statement)


DAMAGE: dict[str, Callable[[Place], object]] = {
    "two wrapped keys": _swap("strongroom_wrapped", "wrapped", "1 = 1"),
    "macs of two wrapped keys": _swap("strongroom_wrapped", "mac", "1 = 1"),
    "two wrapped keys with their macs": lambda place: [
        _swap("strongroom_wrapped", column, "1 = 1")(place) for column in ("wrapped", "mac")
    ],
    "the names of two wrapped keys": lambda place: [
        place.sql("UPDATE strongroom_wrapped SET key_id = ? WHERE key_id = ?", new, old)
        for (a,), (b,) in [place.sql("SELECT key_id FROM strongroom_wrapped LIMIT 2")]
        for old, new in ((a, "x"), (b, a), ("x", b))
    ],
    "a wrapped key dropped": lambda place: place.sql(
        "DELETE FROM strongroom_wrapped WHERE key_id = ?",
        *place.sql("SELECT key_id FROM strongroom_wrapped LIMIT 1")[0],
    ),
    "a wrapped key emptied": lambda place: place.sql(
        "UPDATE strongroom_wrapped SET wrapped = ?", b""
    ),
    "macs of two keys": _swap("strongroom_keys", "mac", "keyset = 'default'"),
    "digests of two keysets": _swap("strongroom_keysets", "digest", "1 = 1"),
    "macs of two keysets": _swap("strongroom_keysets", "mac", "1 = 1"),
    "a key dropped": _run("DELETE FROM strongroom_keys WHERE state = 'pre-active'"),
    "the primary dropped": _run(
        "DELETE FROM strongroom_keys WHERE keyset = 'tenant' AND state = 'active'"
    ),
    "all keys dropped": _run("DELETE FROM strongroom_keys WHERE keyset = 'tenant'"),
    "a head dropped": _run("DELETE FROM strongroom_keysets WHERE name = 'tenant'"),
    "a master dropped": _run("DELETE FROM strongroom_masters WHERE recovery = 1"),
    "the store's row dropped": _run("DELETE FROM strongroom_store"),
    "a key moved to another keyset": _run(
        "UPDATE strongroom_keys SET keyset = 'other', version = 9 WHERE state = 'pre-active'"
    ),
    "a key doubled": _run(
        "INSERT INTO strongroom_keys SELECT 'ff' || substr(key_id, 3), keyset, 99, state, since, "
        "created, activated, deactivated, reason, rotation, destroy_after, mac "
        "FROM strongroom_keys WHERE state = 'pre-active'"
    ),
    "a keyset renamed": _run("UPDATE strongroom_keysets SET name = 'x' WHERE name = 'other'"),
    "a keyset renamed with its keys": lambda place: [
        place.sql("UPDATE strongroom_keysets SET name = 'x' WHERE name = 'other'"),
        place.sql("UPDATE strongroom_keys SET keyset = 'x' WHERE keyset = 'other'"),
    ],
    "two keysets exchanged": lambda place: [
        place.sql(f"UPDATE {t} SET {c} = '{new}' WHERE {c} = '{old}'")
        for t, c in (("strongroom_keysets", "name"), ("strongroom_keys", "keyset"))
        for old, new in (("other", "x"), ("tenant", "other"), ("x", "tenant"))
    ],
}


@pytest.mark.parametrize("block", [1, 1000])
@pytest.mark.parametrize("name", DAMAGE)
def test_damage(full: Place, name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", block)
    DAMAGE[name](full)
    before = full.copy()
    with pytest.raises(KeyStoreError, match="damaged"):
        use(full)
    with (
        contextlib.suppress(KeyStoreError),
        full.open() as store,
    ):
        forget(store)
        if "tenant" in name:
            with pytest.raises(KeyStoreError, match="damaged"):
                store.rotate("tenant")
    assert full.copy() == before


def test_what_was_destroyed_is_not_brought_back(full: Place) -> None:
    with full.open() as store:
        before = full.copy()
        first = store.list_keys("default")[0]
        store.destroy_key(first.id, force=True)
        forget(store)
    after = full.copy()
    for tables in (
        ("strongroom_keys",),
        ("strongroom_wrapped",),
        ("strongroom_keys", "strongroom_wrapped"),
        ("strongroom_keysets", "strongroom_keys"),
    ):
        full.put_back({table: before[table] for table in tables})
        with pytest.raises(KeyStoreError, match="damaged"):
            use(full)
        full.put_back(after)
    use(full)


@pytest.mark.parametrize("table", ["strongroom_keys", "strongroom_keysets"])
def test_older_rows_put_back(full: Place, table: str) -> None:
    before = full.copy()[table]
    with full.open() as store:
        store.rotate()
        forget(store)
    full.put_back({table: before})
    with pytest.raises(KeyStoreError, match="damaged"):
        use(full)


def test_a_removed_master_is_not_brought_back(full: Place) -> None:
    before = full.copy()["strongroom_masters"]
    second = FileMasterKey(full.directory / "second.key")
    with full.open() as store:
        store.remove_master(second.key_id)
    full.put_back({"strongroom_masters": before})
    for master in (second, full.master):
        with pytest.raises(KeyStoreError, match="damaged"):
            KeyStore.open(full.url, master)


def test_older_whole_store(full: Place) -> None:
    """Not seen by its bytes, for it is a sound store: seen by who knows of a later generation."""
    before = full.copy()
    with full.open() as store:
        tenants = store.list_keys("tenant")
        store.rotate("tenant")
        store.create_keyset("new")
    full.put_back(before)
    # A process that has seen the later one, in a store opened anew as well.
    for _ in range(2):
        with full.open() as store:
            assert store.list_keys("default")
            for call in (
                lambda s=store: s.list_keys("tenant"),
                lambda s=store: s.rotate("tenant"),
                lambda s=store: VersionedEncryption(s, "tenant"),
            ):
                with pytest.raises(KeyStoreError, match="older than it was"):
                    call()
            with pytest.raises(KeyStoreError, match="'new' is missing"):
                store.rotate("new")
            with pytest.raises(KeyStoreError, match=r"older|missing"):
                store.list_keys()
    # One that hasn't: the docs say so.
    forget(store)
    use(full)
    with full.open() as store:
        assert store.list_keys("tenant") == tenants
        forget(store)


def test_another_history_of_the_same_generation(full: Place) -> None:
    before = full.copy()
    with full.open() as store:
        store.rotate("tenant")
    full.put_back(before)
    root_id = store._root_id
    heads = dict(_SEEN._stores[root_id])
    forget(store)
    with full.open() as store:
        store.rotate("tenant")
    # Both are at the same generation now, with other keys.
    _SEEN._stores[root_id] = heads
    with full.open() as store, pytest.raises(KeyStoreError, match="older than it was"):
        store.list_keys("tenant")
    forget(store)


def test_rows_of_another_store(full: Place) -> None:
    other = full.other(secrets.token_hex(4))
    with other.create() as store:
        store.create_keyset("tenant")
        store.create_keyset("other")
    foreign = other.copy()
    own = full.copy()
    for table in TABLES[2:5]:
        full.put_back({table: foreign[table]})
        with pytest.raises(KeyStoreError, match="damaged"):
            use(full)
        full.put_back({table: own[table]})
    full.put_back({t: foreign[t] for t in TABLES[2:5]})
    with pytest.raises(KeyStoreError, match="damaged"):
        use(full)
    full.put_back(own)
    use(full)


class Loose:
    """A service that binds no context: it unwraps whatever it wrapped."""

    mechanism = 4
    key_id = "5e" * 16
    uri = "test:loose"

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}

    def wrap(self, key: Any, context: str) -> bytes:
        blob = secrets.token_bytes(20)
        self.kept[blob] = bytes(key.get())
        return blob

    def unwrap(self, blob: bytes, context: str) -> bytes:
        return self.kept[blob]


@pytest.mark.parametrize("loose", [False, True])
@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.kind)
def test_two_masters_that_disagree(kind: type[Place], tmp_path: Path, loose: bool) -> None:
    """One of them unwraps another root, which is a root: its id shows that it is not this one's."""
    place = kind(tmp_path)
    second: Any = Loose() if loose else FileMasterKey.create(tmp_path / "second.key")
    other = place.other("other")
    for one in (place, other):
        with one.create() as store:
            store.add_master(second)
    ((blob,),) = other.sql("SELECT wrapped FROM strongroom_masters WHERE key_id = ?", second.key_id)
    own = place.sql("SELECT wrapped FROM strongroom_masters WHERE key_id = ?", second.key_id)
    change = "UPDATE strongroom_masters SET wrapped = ? WHERE key_id = ?"
    place.sql(change, bytes(blob), second.key_id)
    with pytest.raises(MasterKeyError if loose else KeyStoreError, match=r"another key|damaged"):
        KeyStore.open(place.url, second)
    with pytest.raises(KeyStoreError, match="damaged"):
        place.open()
    place.sql(change, bytes(own[0][0]), second.key_id)
    KeyStore.open(place.url, second).close()
    place.open().close()


@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.kind)
def test_two_keys_of_one_id(kind: type[Place], tmp_path: Path) -> None:
    """The database allows none; one whose constraints were taken away is refused."""
    place = fill(kind(tmp_path))
    double = "INSERT INTO strongroom_keys SELECT * FROM strongroom_keys WHERE keyset = 'other'"
    with pytest.raises(Exception, match=r"UNIQUE|unique"):
        place.sql(double)
    if place.kind == "sqlite":
        place.sql("ALTER TABLE strongroom_keys RENAME TO old")
        place.sql("CREATE TABLE strongroom_keys AS SELECT * FROM old")
        place.sql("DROP TABLE old")
    else:
        place.sql("ALTER TABLE strongroom_keys DROP CONSTRAINT strongroom_keys_pkey")
        place.sql("DROP INDEX strongroom_keys_version, strongroom_keys_active")
    place.sql(double)
    with pytest.raises(KeyStoreError, match="damaged"):
        use(place)


# What is particular to SQLite files


class Victim:
    """A closed store's file, of which damaged copies are opened."""

    def __init__(self, place: Place, target: Path) -> None:
        with place.open() as store:
            self.keys = [(k.id, k.state, k.generation, k.keyset) for k in store.list_keys()]
            self.message = VersionedEncryption(store).encrypt(b"value")
            forget(store)
        self.data = place.path.read_bytes()
        self.master = place.master
        self.path = target
        self.refused = self.harmless = 0

    def expect(self, data: bytes, what: str, refused: bool = False) -> None:
        """A damaged copy is refused with a typed error, or nothing that is read has changed."""
        self.path.write_bytes(data)
        try:
            with KeyStore.open(f"sqlite:///{self.path}", self.master) as store:
                try:
                    store.check()
                    keys = [(k.id, k.state, k.generation, k.keyset) for k in store.list_keys()]
                    assert VersionedEncryption(store).decrypt(self.message) == b"value"
                    # Where nothing was noticed the usage figures would be written at the end.
                    store._given.clear()
                finally:
                    forget(store)
            assert keys == self.keys, what
            assert not refused, what
            self.harmless += 1
        except (KeyStoreError, MasterKeyError, LimitError):
            self.refused += 1
        assert self.path.read_bytes() == data, f"{what}: written to"
        leftover = [p.name for p in self.path.parent.iterdir() if p != self.path]
        assert leftover == [], what


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    place = Place(tmp_path)
    with place.create() as store:
        store.rotate()
        store.create_keyset("tenant")
        forget(store)
    (tmp_path / "copies").mkdir()
    return Victim(place, tmp_path / "copies" / "copy.db")


def test_flipped_bits(victim: Victim) -> None:
    random = seeded()
    sample = sorted(random.sample(range(8 * len(victim.data)), SAMPLE))
    # What is not zero is where the rows and the tables are: half of the sample from there.
    busy = [8 * at + bit for at, byte in enumerate(victim.data) if byte for bit in range(8)]
    _flip(victim, [*sample, *random.sample(busy, SAMPLE)])


@pytest.mark.sweep
def test_every_bit_flipped(victim: Victim) -> None:
    _flip(victim, range(8 * len(victim.data)))


def _flip(victim: Victim, positions: Iterable[int]) -> None:
    for position in positions:
        data = bytearray(victim.data)
        data[position // 8] ^= 1 << position % 8
        victim.expect(bytes(data), f"bit {position}")
    print(f"{victim.refused} refused, {victim.harmless} in bytes that nothing reads")
    assert victim.refused > SAMPLE // 2


def test_flipped_bits_of_rows(victim: Victim) -> None:
    """Bits of MACs, ids and wrapped keys are always refused."""
    from strongroom.keys import sql

    place = Place.__new__(Place)
    place.path = victim.path
    victim.path.write_bytes(victim.data)
    random = seeded()
    for table, column in (
        (sql.WRAPPED, "wrapped"),
        (sql.WRAPPED, "mac"),
        (sql.KEYS, "mac"),
        (sql.KEYSETS, "digest"),
        (sql.MASTERS, "wrapped"),
        (sql.STORE, "mac"),
    ):
        victim.path.write_bytes(victim.data)
        value = place.sql(f"SELECT {column} FROM {table.name}")[0][0]
        at = victim.data.index(value)
        for _ in range(20):
            data = bytearray(victim.data)
            position = random.randrange(8 * len(value))
            data[at + position // 8] ^= 1 << position % 8
            victim.expect(bytes(data), f"{table.name}.{column} bit {position}", refused=True)


@pytest.mark.sweep
def test_every_truncation(victim: Victim) -> None:
    for length in range(len(victim.data)):
        victim.expect(victim.data[:length], f"cut at {length}", refused=True)


def test_truncations(victim: Victim) -> None:
    size = len(victim.data)
    random = seeded()
    lengths = {0, 1, 15, 16, 99, 100, 511, 512, 4095, 4096, size - 1, size - 4096}
    lengths |= set(random.sample(range(size), 200))
    for length in sorted(lengths):
        victim.expect(victim.data[:length], f"cut at {length}", refused=True)


def test_other_garbage(victim: Victim) -> None:
    random = seeded()
    for _ in range(30):
        at = random.randrange(0, len(victim.data), 512)
        data = bytearray(victim.data)
        data[at : at + 512] = random.randbytes(512)
        victim.expect(bytes(data), f"garbage at {at}")
    victim.expect(random.randbytes(len(victim.data)), "random bytes", refused=True)
    victim.expect(bytes(len(victim.data)), "zeros", refused=True)


def test_tables_with_more_in_them(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.create().close()
    for statement in (
        "CREATE TRIGGER t AFTER INSERT ON strongroom_keys BEGIN DELETE FROM strongroom_keys; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE t (a)",
        "DROP INDEX strongroom_keys_active",
    ):
        copy = tmp_path / "copy.db"
        shutil.copy(place.path, copy)
        other = Place.__new__(Place)
        other.path, other.url, other.master = copy, f"sqlite:///{copy}", place.master
        other.sql(statement)
        with pytest.raises(KeyStoreError, match="tables are not the schema's"):
            other.open()


def test_a_destroyed_key_is_gone_from_the_files(tmp_path: Path) -> None:
    """Not in the main file, not in the WAL: with keys enough for pages to split and merge."""
    place = Place(tmp_path)
    random = seeded()
    gone: list[bytes] = []
    with place.create() as store:
        for number in range(15):
            store.create_keyset(f"tenant {number}")
        names = store.keysets()
        for _ in range(400):
            if random.random() < 0.6:
                reason = "x" * random.choice([0, 0, 5, 300, 1000])
                store.rotate(random.choice(names), reason=reason)
                continue
            old = place.sql(
                "SELECT k.key_id, wrapped FROM strongroom_keys k, strongroom_wrapped w "
                "WHERE k.key_id = w.key_id AND state = 'deactivated'"
            )
            if old:
                key_id, wrapped = random.choice(old)
                assert wrapped in files(tmp_path)
                store.destroy_key(key_id, force=True, reason="y" * random.choice([0, 5, 900]))
                gone.append(wrapped)
        data = files(tmp_path)
        # Header [21] and then the box: nonce [24], wrapped key [32]; not a piece of it is left.
        for wrapped in gone:
            assert wrapped[21:45] not in data
            assert wrapped[45:77] not in data
        tenant = place.sql(
            "SELECT wrapped FROM strongroom_keys k, strongroom_wrapped w "
            "WHERE k.key_id = w.key_id AND keyset = 'tenant 7' AND state <> 'destroyed'"
        )
        store.destroy_keyset("tenant 7")
        data = files(tmp_path)
        assert not any(wrapped[45:77] in data for (wrapped,) in tenant)
        store.check()
    assert len(gone) > 80


def test_destroying_beside_a_reader(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.create(busy_timeout=0.2) as store:
        key = store.get_current_key()
        store.rotate()
        ((wrapped,),) = place.sql("SELECT wrapped FROM strongroom_wrapped WHERE key_id = ?", key.id)
        reader = sqlite3.connect(place.path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM strongroom_store").fetchall()
        with pytest.raises(KeyStoreBusyError, match="erase_deleted"):
            store.destroy_key(key.id, force=True)
        assert store.get_key(key.id).state == "destroyed"
        assert wrapped in files(tmp_path)
        with pytest.raises(KeyStoreBusyError, match="erase_deleted"):
            store.erase_deleted()
        reader.close()
        store.erase_deleted()
        assert wrapped[45:77] not in files(tmp_path)


def files(directory: Path) -> bytes:
    return b"".join(p.read_bytes() for p in directory.iterdir() if p.name.startswith("keys.db"))
