"""Backups: made beside writers, noted in the store, restored with what came after them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keystore_help import PLACES, Place, clock, place, seeded, store
from strongroom import (
    FileMasterKey,
    KeyNotFoundError,
    KeyStateError,
    KeyStore,
    KeyStoreError,
    LimitError,
    MasterKeyError,
    VersionedEncryption,
    _events,
)
from strongroom.keys import Policy
from strongroom.keys.base import _SEEN

__all__ = ["clock", "place", "store"]


@pytest.fixture
def log() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The successes that an audit log would hold."""
    kept: list[tuple[str, dict[str, Any]]] = []

    class Sink:
        def event(self, name: str, outcome: str, fields: dict[str, Any]) -> None:
            if outcome == "success":
                kept.append((name, fields))

        def count(self, *_: object) -> None:
            pass

    before = _events.set_sink(Sink())
    yield kept
    _events.set_sink(before)


def test_a_backup_is_a_store(place: Place, store: KeyStore, tmp_path: Path) -> None:
    store.create_keyset("tenant", policy=Policy(originator_seconds=60))
    store.lease_messages("ab" * 16, 10, 100)
    store.register_use(store.get_current_key().id, "archive")
    message = VersionedEncryption(store, "tenant").encrypt(b"value")
    path = tmp_path / "backup.db"
    made = store.backup(path)
    assert (made.name, made.keys) == ("backup.db", 2)
    assert store.backups() == [made]
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == sorted(
        {"backup.db", "master.key", *(["keys.db", "keys.db-wal", "keys.db-shm"])}
        if place.kind == "sqlite"
        else {"backup.db", "master.key"}
    )
    with KeyStore.open(f"sqlite:///{path}", place.master, read_only=True) as copy:
        assert copy.list_keys() == store.list_keys()
        assert copy.generation() == made.generation == store.generation()
        assert copy.leased_messages("ab" * 16) == 10
        assert VersionedEncryption(copy, "tenant").decrypt(message) == b"value"
        copy.check()
    # A medium that can't be written: nothing is made beside it.
    assert not list(tmp_path.glob("backup.db-*"))
    with pytest.raises(FileExistsError):
        store.backup(path)
    assert store.backups() == [made]


def test_which_keys_a_backup_holds(store: KeyStore, tmp_path: Path) -> None:
    first = store.get_current_key()
    assert store.due().back_up == [first]
    assert store.stats()["not_backed_up"] == 1
    one = store.backup(tmp_path / "1.db")
    assert store.due().back_up == []
    second = store.rotate()
    assert store.due().back_up == [second]
    two = store.backup(tmp_path / "2.db")
    assert store.due().back_up == []
    assert store.held_keys() == {first.id: one.id, second.id: two.id}
    assert store.backups() == [one, two]
    assert two.generation > one.generation


def test_what_is_damaged_is_not_backed_up(place: Place, store: KeyStore, tmp_path: Path) -> None:
    place.sql("UPDATE strongroom_keys SET reason = 'x'")
    with pytest.raises(KeyStoreError, match="damaged"):
        store.backup(tmp_path / "backup.db")
    assert not (tmp_path / "backup.db").exists()


def test_where_no_file_can_be(store: KeyStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.backup(tmp_path / "nowhere" / "backup.db")
    assert store.backups() == []


def test_promoted_after_a_backup(place: Place, store: KeyStore, tmp_path: Path) -> None:
    first = store.get_current_key()
    store.set_policy("default", Policy(promote="after-backup"))
    for _ in range(2):
        assert store.rotate() == first  # one key waits, not two
    (waiting,) = [key for key in store.list_keys() if key.state == "pre-active"]
    with pytest.raises(KeyStateError, match="no backup of the store holds"):
        store.activate_key(waiting.id)
    store.backup(tmp_path / "1.db")
    assert store.get_current_key() == waiting
    assert store.get_key(first.id).state == "deactivated"
    # The backup holds it, so what it writes from now on outlives the store.
    message = VersionedEncryption(store).encrypt(b"value")
    _SEEN.forget(store._root_id)
    with KeyStore.open(f"sqlite:///{tmp_path}/1.db", place.master, read_only=True) as copy:
        assert VersionedEncryption(copy).decrypt(message) == b"value"
    # A compromised primary can't wait.
    store.compromise_key(waiting.id, rotate=True)
    assert store.get_current_key() not in (first, waiting)
    # A key made before by hand, held and pre-active, is what a rotation takes.
    made = store.generate_new_key()
    store.set_policy("default", Policy())
    store.backup(tmp_path / "2.db")
    store.set_policy("default", Policy(promote="after-backup"))
    assert store.rotate() == made


def test_restored_into_either_database(store: KeyStore, place: Place, tmp_path: Path) -> None:
    cipher = VersionedEncryption(store)
    messages = [cipher.encrypt(b"value")]
    store.rotate()
    messages.append(cipher.encrypt(b"value"))
    made = store.backup(tmp_path / "backup.db")
    keys = store.list_keys()
    for kind in PLACES:
        (tmp_path / kind.kind).mkdir()
        other = kind(tmp_path / kind.kind)
        result = KeyStore.restore(tmp_path / "backup.db", other.url, place.master)
        assert result.generation == made.generation
        assert (result.keys, result.lost, result.rotated) == (2, [], [])
        with KeyStore.open(other.url, place.master) as restored:
            assert restored.list_keys() == keys
            assert VersionedEncryption(restored).decrypt_many(messages) == [b"value"] * 2
            restored.check()
            restored.rotate()
        # Never over what is there.
        with pytest.raises((FileExistsError, KeyStoreError)):
            KeyStore.restore(tmp_path / "backup.db", other.url, place.master)


def test_what_came_after_the_backup(
    place: Place, tmp_path: Path, log: list[tuple[str, dict[str, Any]]]
) -> None:
    with place.create() as store:
        cipher = VersionedEncryption(store)
        old = store.get_current_key()
        old_message = cipher.encrypt(b"old")
        store.create_keyset("leaked")
        leaked = store.get_current_key("leaked")
        store.create_keyset("quiet")
        quiet = store.get_current_key("quiet")
        pending = store.generate_new_key("quiet")
        store.lease_messages("ab" * 16, 10, 100)
        store.backup(tmp_path / "backup.db")
        # Since then:
        new = store.rotate()
        new_message = cipher.encrypt(b"new")
        store.destroy_key(old.id, force=True)
        store.compromise_key(leaked.id, rotate=True)
        replaced = store.get_current_key("leaked")
        store.destroy_key(pending.id)
        short_lived = store.generate_new_key("quiet")
        store.destroy_key(short_lived.id)
    before = len(log)
    other = place.other("restored")
    other.master = place.master
    result = KeyStore.restore(tmp_path / "backup.db", other.url, place.master, logged=log[:before])
    assert result.lost == [new.id, replaced.id]
    assert sorted(result.destroyed) == sorted([old.id, pending.id])
    assert result.compromised == [leaked.id]
    assert result.rotated == ["default", "leaked"]
    assert result.counted == ["ab" * 16]
    names = [name for name, _ in log[before:]]
    assert names[0] == "store.restored"
    assert names.count("key.destroyed") == 2
    with other.open() as store:
        store.check()
        assert store.get_key(leaked.id).state == "compromised"
        assert store.get_current_key("quiet") == quiet
        cipher = VersionedEncryption(store)
        with pytest.raises(KeyNotFoundError, match="destroyed on"):
            cipher.decrypt(old_message)
        with pytest.raises(KeyNotFoundError):
            cipher.decrypt(new_message)
        assert cipher.decrypt(cipher.encrypt(b"x")) == b"x"
        with pytest.raises(LimitError):
            store.lease_messages("ab" * 16, 1, 100)


def test_another_store_s_log_says_nothing(
    place: Place, tmp_path: Path, log: list[tuple[str, dict[str, Any]]]
) -> None:
    with place.create() as store:
        key = store.rotate()
        store.backup(tmp_path / "backup.db")
    foreign = [("key.destroyed", {"store": "00" * 16, "key_id": key.id})]
    other = place.other("restored")
    assert KeyStore.restore(tmp_path / "backup.db", other.url, place.master, logged=foreign)[
        2:
    ] == (*([],) * 5,)


def test_keysets_of_counted_keys_are_rotated(store: KeyStore, place: Place, tmp_path: Path) -> None:
    store.create_keyset("other")
    key = store.get_current_key()
    store.lease_messages(key.id, 10, 100)
    store.backup(tmp_path / "backup.db")
    other = place.other("restored")
    result = KeyStore.restore(tmp_path / "backup.db", other.url, place.master)
    assert (result.rotated, result.counted) == (["default"], [key.id])


def test_a_damaged_backup_is_refused(store: KeyStore, place: Place, tmp_path: Path) -> None:
    store.rotate()
    path = tmp_path / "backup.db"
    store.backup(path)
    whole = path.read_bytes()
    generator = seeded()
    other = place.other("restored")
    for tried in range(60):
        at = generator.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            KeyStore.restore(path, f"sqlite:///{tmp_path}/r{tried}.db", place.master)
        except (KeyStoreError, MasterKeyError):
            assert not (tmp_path / f"r{tried}.db").exists()
        else:
            # A byte that no row lies in.
            with KeyStore.open(f"sqlite:///{tmp_path}/r{tried}.db", place.master) as restored:
                assert restored.list_keys() == store.list_keys()
    path.write_bytes(whole)
    with pytest.raises(MasterKeyError):
        KeyStore.restore(path, other.url, FileMasterKey.create(tmp_path / "stranger"))


def test_a_backup_of_another_schema(store: KeyStore, place: Place, tmp_path: Path) -> None:
    store.backup(tmp_path / "backup.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as connection:
        connection.execute("UPDATE strongroom_store SET schema_version = 99")
        connection.commit()
    with pytest.raises(KeyStoreError, match="newer release"):
        KeyStore.restore(tmp_path / "backup.db", place.other("restored").url, place.master)


def test_an_older_copy_is_seen_by_its_generation(store: KeyStore) -> None:
    before = store.generation()
    store.check(generation=before)
    store.rotate()
    assert store.generation() > before
    with pytest.raises(KeyStoreError, match="older than it was"):
        store.check(generation=store.generation() + 1)


def test_read_only(place: Place, tmp_path: Path) -> None:
    place.create().close()
    with place.open(read_only=True) as store, pytest.raises(KeyStoreError, match="read-only"):
        store.backup(tmp_path / "backup.db")


def _churn(url: str, key_file: str, stop: Any) -> None:
    with KeyStore.open(url, FileMasterKey(key_file), busy_timeout=30) as store:
        before = None
        while not stop.is_set():
            key = store.rotate()
            if before is not None and store.get_key(before.id).state == "deactivated":
                store.destroy_key(before.id, force=True)
            before = key


def test_beside_writers(place: Place, tmp_path: Path) -> None:
    place.create().close()
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = [
        context.Process(target=_churn, args=(place.url, str(place.directory / "master.key"), stop))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    try:
        with place.open(busy_timeout=30) as store:
            while store.generation() < 10:  # they are at work
                store.refresh()
            for number in range(4):
                made = store.backup(tmp_path / f"{number}.db")
                _SEEN.forget(store._root_id)  # a later generation than the copy's
                with KeyStore.open(
                    f"sqlite:///{tmp_path}/{number}.db", place.master, read_only=True
                ) as copy:
                    copy.check(generation=made.generation)
    finally:
        stop.set()
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0, 0]
