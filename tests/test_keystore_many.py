"""Stores of many keysets: read some at a time, whole all the same, by statements with indexes."""

from __future__ import annotations

import contextlib
import sqlite3
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from keystore_help import Clock, Place, clock, place, store
from strongroom import (
    FileMasterKey,
    KeyNotFoundError,
    KeyStore,
    KeyStoreError,
    VersionedEncryption,
)
from strongroom.keys import Policy, reading, sql
from strongroom.keys import keyset as keysets
from strongroom.keys.base import _SEEN
from strongroom.keys.store import _new_keyset

__all__ = ["clock", "place", "store"]

NAMES = ["a", "B", "ä", "a/b", "default", "tenant 1", "tenant 10", "tenant 2", "Ω"]


@pytest.fixture(params=[1, 3, 1000])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many keysets are read at a time."""
    monkeypatch.setattr(reading, "BLOCK", request.param)
    return int(request.param)


def fill(store: KeyStore) -> None:
    for name in NAMES:
        if name != "default":
            store.create_keyset(name)


def test_all_are_met_once(block: int, place: Place, store: KeyStore, tmp_path: Path) -> None:
    fill(store)
    old = store.rotate("B")
    new = store.rotate("B")
    store.destroy_keyset("a/b")
    left = sorted(set(NAMES) - {"a/b"})
    assert store.keysets() == left
    assert [key.keyset for key in store.list_keys()] == sorted([*NAMES, "B", "B"])
    assert [key.generation for key in store.list_keys() if key.keyset == "B"] == [1, 2, 3]
    reports = list(store.inventory())
    assert sorted(r.key.id for r in reports) == sorted(key.id for key in store.list_keys())
    assert {r.key.id for r in reports if r.due} == {store.get_current_key(n).id for n in left}
    assert store.generation() == 1 + len(NAMES) + 2 + 1
    made = store.backup(tmp_path / "backup.db")
    assert (made.keys, made.generation) == (len(NAMES) + 1, store.generation())
    assert store.held_keys().keys() == {
        key.id for key in store.list_keys() if key.state != "destroyed"
    }
    assert store.due() == ([], [], [], [])
    by_id = {r.key.id: r for r in store.inventory()}
    assert by_id[new.id].backup == made.id
    assert by_id[new.id].due == []
    assert [r.key for r in store.inventory("B")] == store.list_keys("B")
    assert {r.backup for r in store.inventory("B")} == {made.id}
    with pytest.raises(KeyNotFoundError):
        next(store.inventory("none"))
    VersionedEncryption(store, "B").encrypt(b"value")
    store.flush_usage()
    used = {r.key.id: r.usage.messages for r in store.inventory() if r.usage.messages}
    assert used == {new.id: 1}
    assert {r.key.id: r.usage.messages for r in store.inventory("B")} == {
        store.list_keys("B")[0].id: 0,
        old.id: 0,
        new.id: 1,
    }
    stats = store.stats()
    assert (stats["keysets"], stats["keys_active"], stats["keys_destroyed"]) == (len(left), 8, 1)
    store.check()
    # The backup is the same store.
    target = place.other("restored")
    restored = KeyStore.restore(tmp_path / "backup.db", target.url, place.master)
    assert (restored.keys, restored.generation, restored.lost) == (made.keys, made.generation, [])
    with KeyStore.open(target.url, place.master) as copy:
        assert copy.list_keys() == store.list_keys()
        copy.check()


def test_figures_and_what_is_due(block: int, store: KeyStore, clock: Clock) -> None:
    fill(store)
    soon, later = Policy(originator_seconds=86_400), Policy(originator_seconds=5 * 86_400)
    store.set_policy("Ω", later)
    assert store.stats()["days_to_next_rotation"] == pytest.approx(5)
    store.set_policy("a", soon)
    store.set_policy("ä", soon)
    assert store.stats()["days_to_next_rotation"] == pytest.approx(1)
    clock.seconds += 2 * 86_400
    assert sorted(store.due().rotate) == ["a", "ä"]
    figures = store.stats()
    assert figures["due_rotations"] == 2
    assert figures["days_to_next_rotation"] == 0
    assert figures["not_backed_up"] == len(NAMES)
    spare = store.get_current_key("tenant 1")
    store.rotate("tenant 1")
    store.schedule_destruction(spare.id, after_seconds=0)
    clock.seconds += 400
    assert store.destroy_due() == ([store.get_key(spare.id)], [])


DAMAGE: dict[str, str] = {
    "the first head": "DELETE FROM strongroom_keysets WHERE name = 'B'",
    "a head": "DELETE FROM strongroom_keysets WHERE name = 'default'",
    "the last head": "DELETE FROM strongroom_keysets WHERE name = 'Ω'",
    "all heads": "DELETE FROM strongroom_keysets",
    "a key": "DELETE FROM strongroom_keys WHERE keyset = 'tenant 10'",
    "a key's keyset": "UPDATE strongroom_keys SET keyset = 'x', version = 7 WHERE keyset = 'a'",
    "a key that another keyset names": (
        "UPDATE strongroom_keys SET keyset = 'Ω', version = 7, state = 'deactivated' "
        "WHERE keyset = 'a'"
    ),
    "a head's name": "UPDATE strongroom_keysets SET name = 'zz' WHERE name = 'a'",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_seen(
    block: int, place: Place, store: KeyStore, tmp_path: Path, name: str
) -> None:
    fill(store)
    place.sql(DAMAGE[name])
    calls: list[Callable[[], object]] = [
        store.list_keys,
        store.keysets,
        store.due,
        store.stats,
        store.generation,
        store.check,
        store.destroy_due,
        lambda: list(store.inventory()),
        lambda: store.backup(tmp_path / "backup.db"),
    ]
    for call in calls:
        _SEEN.forget(store._root_id)
        with pytest.raises(KeyStoreError, match="damaged"):
            call()
    assert not (tmp_path / "backup.db").exists()
    assert place.sql("SELECT * FROM strongroom_backups") == []


@pytest.mark.parametrize("table", [sql.USES, sql.USAGE, sql.HELD, sql.BACKUPS, sql.WRAPPED])
def test_rows_that_nothing_binds_are_looked_at_too(
    place: Place, store: KeyStore, tmp_path: Path, table: sql.Table
) -> None:
    store.register_use(store.get_current_key().id, "archive")
    VersionedEncryption(store).encrypt(b"value")
    store.flush_usage()
    store.backup(tmp_path / "1.db")
    last = table.columns[-2].name
    change = {"int": f"{last} + 1", "text": f"{last} || 'x'"}.get(table.columns[-2].kind)
    new = change or {"sqlite": "x'00'", "postgresql": "'\\x00'"}[place.kind]
    place.sql(f"UPDATE {table.name} SET {last} = {new}")
    for call in (store.check, lambda: store.backup(tmp_path / "2.db")):
        with pytest.raises(KeyStoreError, match="damaged"):
            call()
    assert not (tmp_path / "2.db").exists()


def test_one_that_was_seen_and_is_gone(block: int, place: Place, store: KeyStore) -> None:
    """Whole, with its keys: no digest misses it, and this process does."""
    fill(store)
    place.sql("DELETE FROM strongroom_keys WHERE keyset = 'tenant 1'")
    place.sql("DELETE FROM strongroom_keysets WHERE name = 'tenant 1'")
    store.refresh()
    for call in (store.list_keys, store.due, store.check):
        with pytest.raises(KeyStoreError, match="'tenant 1' is missing"):
            call()


def test_an_index_that_goes_round(place: Place, store: KeyStore) -> None:
    """A reading ends, whatever a database says comes next."""

    class Round:
        for_update = ""

        def __init__(self, inside: Any) -> None:
            self._inside = inside

        def execute(self, statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
            if statement == sql.select_next(sql.KEYSETS):
                statement, values = sql.select_first(sql.KEYSETS), values[1:]
            found: list[tuple[Any, ...]] = self._inside.execute(statement, values)
            return found

    def read(transaction: Any) -> list[reading.Block]:
        return list(reading.load_each(Round(transaction), store._root))

    with pytest.raises(KeyStoreError, match="no order"):
        store._database.read(read)


# --- Memory and plans.

MANY = 1500
# A keyset with its rows takes about 3 KiB: all of them would be 4.5 MiB.
MOST = 2 << 20


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyStore]:
    monkeypatch.setattr(reading, "BLOCK", 200)
    with Place(tmp_path).create() as store:
        root, now = store._root, store._now()

        def work(transaction: Any) -> None:
            for number in range(MANY):
                new = _new_keyset(root, f"tenant {number}", "data", "", now)
                keysets.save(transaction, root, None, new)

        store._database.write(work, lambda _: True)
        yield store


def peak(call: Callable[[], object]) -> int:
    """The most bytes that Python had at a time beyond those before the call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_store(many: KeyStore, tmp_path: Path) -> None:
    many.stats()  # What this process remembers of each keyset, a hundred bytes or so.
    calls: dict[str, Callable[[], object]] = {
        "stats": many.stats,
        "generation": many.generation,
        "check": many.check,
        "inventory": lambda: deque(many.inventory(), maxlen=0),
        "backup": lambda: many.backup(tmp_path / "backup.db"),
        "destroy_due": many.destroy_due,
        "due": many.due,
        "restore": lambda: KeyStore.restore(
            tmp_path / "backup.db",
            f"sqlite:///{tmp_path}/restored.db",
            FileMasterKey(tmp_path / "master.key"),
        ),
    }
    found = {name: peak(call) for name, call in calls.items()}
    print({name: f"{size / 1024:,.0f} KiB" for name, size in found.items()})
    assert max(found.values()) < MOST, found
    # The measure sees a store that is in memory whole.
    assert peak(lambda: list(many._all())) > MOST


def test_no_statement_reads_a_whole_table(many: KeyStore, tmp_path: Path) -> None:
    some = [
        (sql.SELECT_KEYSET, ("a",)),
        (sql.SELECT_KEYSET_OF_KEY, ("a",)),
        (sql.SELECT_KEYS, ("a",)),
        (sql.SELECT_KEYS_BETWEEN, ("a", "b")),
        (sql.SELECT_KEYSET_AFTER, ("a",)),
        (sql.SELECT_HELD_BETWEEN, ("a", "b")),
        (sql.SELECT_USAGE_BETWEEN, ("a", "b")),
        (sql.SELECT_USES, ("a",)),
        *((sql.select_next(table), ("a", 1)) for table in sql.TABLES),
    ]
    with contextlib.closing(sqlite3.connect(tmp_path / "keys.db")) as connection:
        for statement, values in some:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
            told = [step for *_, step in plan]
            assert told
            assert not any("SCAN" in t or "TEMP B-TREE" in t for t in told), statement
        for table in sql.TABLES:
            statement = f"EXPLAIN QUERY PLAN {sql.select_first(table)}"
            told = [step for *_, step in connection.execute(statement, (1,))]
            assert not any("TEMP B-TREE" in t for t in told), statement
