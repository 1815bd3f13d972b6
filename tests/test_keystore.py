"""Key stores: the whole API on a sound store, and what calls are refused."""

from __future__ import annotations

import copy
import datetime
import json
import os
import pickle
import re
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from keystore_help import UNKNOWN_ID, Clock, Place, clock, place, store
from strongroom import (
    FileMasterKey,
    Key,
    KeyNotFoundError,
    KeyStateError,
    KeyStore,
    KeyStoreBusyError,
    KeyStoreError,
    MasterKeyError,
    PassphraseMasterKey,
    VersionedEncryption,
)
from strongroom.keys import Policy, sql
from strongroom.keys.database import sqlite_path

__all__ = ["clock", "place", "store"]


def test_new_store(place: Place) -> None:
    with place.create() as store:
        assert store.keysets() == ["default"]
        key = store.get_current_key()
        assert re.fullmatch("[0-9a-f]{32}", key.id)
        assert (key.keyset, key.state, key.generation) == ("default", "active", 1)
        assert (key.purpose, key.reason, key.deactivated) == ("data", "", None)
        assert key.created == key.since == key.activated
        assert abs(key.created - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(hours=1)
        assert store.list_keys() == [key]
        assert store.url == place.shown
        assert (store.cache_seconds, store.read_only) == (300.0, False)
    with place.open() as store:
        assert store.get_current_key() == key
        assert store.get_key(key.id) == key


def test_create_never_touches_what_is_there(place: Place) -> None:
    place.create().close()
    before = place.copy()
    with pytest.raises((FileExistsError, KeyStoreError)):
        place.create()
    assert place.copy() == before


def test_keysets(store: KeyStore, place: Place) -> None:
    tenant = store.create_keyset("tenant/Ä 1")
    assert (tenant.state, tenant.keyset) == ("active", "tenant/Ä 1")
    database = store.create_keyset("db", purpose="database")
    assert database.purpose == "database"
    assert store.keysets() == ["db", "default", "tenant/Ä 1"]
    assert store.get_current_key("tenant/Ä 1") == tenant
    assert store.list_keys("db") == [database]
    assert len(store.list_keys()) == 3
    with place.open() as again:
        assert again.list_keys() == store.list_keys()


@pytest.mark.parametrize("name", ["default", "db"])
def test_a_keyset_is_made_once(store: KeyStore, name: str) -> None:
    store.create_keyset("db", purpose="database")
    with pytest.raises(KeyStoreError, match="there already"):
        store.create_keyset(name)
    assert len(store.list_keys()) == 2


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\x9f", "ä" * 128, "\ud800"])
def test_names_that_are_none(store: KeyStore, name: str) -> None:
    with pytest.raises(ValueError, match="keyset's name"):
        store.create_keyset(name)


def test_wrong_arguments(store: KeyStore, place: Place) -> None:
    with pytest.raises(ValueError, match="data, database, names, audit"):
        store.create_keyset("x", purpose="signing")
    with pytest.raises(TypeError):
        store.create_keyset(b"x")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.get_key(b"x" * 16)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.rotate(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="FileMasterKey"):
        KeyStore.create(place.other("b").url, b"x" * 32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seconds"):
        place.open(busy_timeout=-1)
    with pytest.raises(TypeError, match="seconds"):
        place.open(cache_seconds="1")
    with pytest.raises(ValueError, match="1024"):
        store.rotate(reason="x" * 1025)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.get_current_key("none"),
        lambda s: s.list_keys("none"),
        lambda s: s.generate_new_key("none"),
        lambda s: s.rotate("none"),
        lambda s: s._keyring("none"),
        lambda s: s.get_policy("none"),
        lambda s: s.set_policy("none", Policy()),
        lambda s: s.destroy_keyset("none"),
        lambda s: VersionedEncryption(s, "none"),
    ],
)
def test_unknown_keyset(store: KeyStore, call) -> None:
    with pytest.raises(KeyNotFoundError, match="no keyset named 'none'") as caught:
        call(store)
    assert caught.value.key_id is None


@pytest.mark.parametrize(
    "name",
    [
        "get_key",
        "activate_key",
        "retire_key",
        "suspend_key",
        "resume_key",
        "compromise_key",
        "destroy_key",
        "uses_of",
    ],
)
def test_unknown_key(store: KeyStore, name: str) -> None:
    with pytest.raises(KeyNotFoundError, match=UNKNOWN_ID) as caught:
        getattr(store, name)(UNKNOWN_ID)
    assert caught.value.key_id == UNKNOWN_ID
    assert str(caught.value)[0] not in "\"'"


def test_rotation(store: KeyStore) -> None:
    first = store.get_current_key()
    second = store.rotate()
    assert (second.state, second.generation) == ("active", 2)
    assert store.get_current_key() == second
    assert store.get_key(first.id).state == "deactivated"
    assert store.get_key(first.id).deactivated == second.activated
    assert [k.generation for k in store.list_keys()] == [1, 2]


def test_two_steps(store: KeyStore) -> None:
    first = store.get_current_key()
    new = store.generate_new_key()
    assert (new.state, new.generation, new.activated) == ("pre-active", 2, None)
    assert store.get_current_key() == first
    active = store.activate_key(new.id)
    assert active.state == "active"
    assert store.get_current_key() == new
    assert store.get_key(first.id).state == "deactivated"


def test_other_keysets_are_left_alone(store: KeyStore) -> None:
    other = store.create_keyset("other")
    store.rotate()
    assert store.get_current_key("other") == other
    assert store.rotate("other").generation == 2
    assert store.get_current_key().generation == 2


def test_messages_outlive_rotation(store: KeyStore, place: Place) -> None:
    cipher = VersionedEncryption(store)
    first = store.get_current_key()
    old = cipher.encrypt(b"value", b"context")
    second = store.rotate()
    new = cipher.encrypt(b"value", b"context")
    assert old[4:20].hex() == first.id
    assert new[4:20].hex() == second.id
    with place.open() as again:
        assert VersionedEncryption(again).decrypt(old, b"context") == b"value"
        assert VersionedEncryption(again).decrypt(new, b"context") == b"value"


def test_a_cipher_keeps_its_store(place: Place) -> None:
    cipher = VersionedEncryption(place.create())
    assert cipher.decrypt(cipher.encrypt(b"value")) == b"value"


def test_wrong_purpose(store: KeyStore) -> None:
    store.create_keyset("db", purpose="database")
    with pytest.raises(KeyStateError, match="purpose 'database'"):
        store._keyring("db")
    with pytest.raises(KeyStateError, match="purpose 'database'"):
        VersionedEncryption(store, "db")


def test_all_keysets_at_once(store: KeyStore) -> None:
    tenant = store.create_keyset("tenant")
    database = store.create_keyset("db", purpose="database")
    keyring = store._keyring(None)
    assert keyring is store._keyring(None)
    assert keyring.lookup(tenant.id) == "tenant"
    assert keyring.lookup(store.get_current_key().id) == "default"
    # Only keys for data, whoever asks.
    assert keyring.lookup(database.id) is None
    assert keyring.lookup(UNKNOWN_ID) is None
    with pytest.raises(KeyStateError):
        _ = keyring.primary_id


def test_an_id_of_another_keyset_is_unknown(store: KeyStore) -> None:
    store.create_keyset("tenant")
    message = VersionedEncryption(store, "tenant").encrypt(b"value")
    with pytest.raises(KeyNotFoundError):
        VersionedEncryption(store).decrypt(message)
    assert store._keyring("default").lookup(message[4:20].hex()) is None


def test_keys_are_unwrapped_once(store: KeyStore) -> None:
    keyring = store._keyring("default")
    _ = keyring.primary_id
    assert (store._material.hits, store._material.misses) == (0, 1)
    store.refresh()
    _ = keyring.primary_id
    assert (store._material.hits, store._material.misses) == (1, 1)
    store.rotate()
    _ = keyring.primary_id
    assert (store._material.hits, store._material.misses) == (2, 2)


def test_another_process_s_rotation_is_seen_in_time(place: Place, clock: Clock) -> None:
    with place.create() as here, place.open() as there:
        first = here.get_current_key()
        assert here.get_key(first.id).state == "active"
        second = there.rotate()
        clock.seconds += 299
        assert here.get_current_key() == first
        assert here.get_key(first.id).state == "active"
        # An unknown id is looked up at once, and then the rest is seen as well.
        assert here.get_key(second.id).state == "active"
        assert here.get_current_key() == second
        third = there.rotate()
        assert here.get_current_key() == second
        clock.seconds += 301
        assert here.get_current_key() == third
        fourth = there.rotate()
        here.refresh()
        assert here.get_current_key() == fourth


def test_ciphers_see_another_process_s_rotation(place: Place) -> None:
    with place.create(cache_seconds=0) as here, place.open() as there:
        keyring = here._keyring("default")
        assert keyring.primary_id == here.get_current_key().id
        assert keyring.primary_id == here.get_current_key().id
        assert there.rotate().id == keyring.primary_id
    other = place.other("b")
    with other.create() as here, other.open() as there:
        keyring = here._keyring("default")
        first = keyring.primary_id
        second = there.rotate().id
        assert keyring.primary_id == first
        message = VersionedEncryption(there).encrypt(b"value")
        assert VersionedEncryption(here).decrypt(message) == b"value"
        assert keyring.primary_id == second
        third = there.rotate().id
        here.refresh()
        assert keyring.primary_id == third


def test_a_process_may_keep_less_but_not_more(place: Place) -> None:
    place.create(cache_seconds=60).close()
    with place.open(cache_seconds=5) as store:
        assert store.cache_seconds == 5
    with place.open(cache_seconds=500) as store:
        assert store.cache_seconds == 60
    with place.open() as store:
        assert store.cache_seconds == 60


def test_retire(store: KeyStore) -> None:
    first = store.get_current_key()
    with pytest.raises(KeyStateError, match="rotate") as caught:
        store.retire_key(first.id)
    assert (caught.value.key_id, caught.value.state) == (first.id, "active")
    cipher = VersionedEncryption(store)
    message = cipher.encrypt(b"value")
    store.rotate()
    assert store.retire_key(first.id).state == "deactivated"
    assert store.retire_key(first.id).state == "deactivated"
    assert cipher.decrypt(message) == b"value"
    new = store.generate_new_key()
    with pytest.raises(KeyStateError, match="never used"):
        store.retire_key(new.id)


def test_destroy(store: KeyStore, clock: Clock) -> None:
    first = store.get_current_key()
    cipher = VersionedEncryption(store)
    message = cipher.encrypt(b"value")
    for force in (False, True):
        with pytest.raises(KeyStateError, match="primary"):
            store.destroy_key(first.id, force=force)
    store.rotate()
    clock.seconds += 299
    with pytest.raises(KeyStateError, match="another process may still encrypt"):
        store.destroy_key(first.id)
    assert cipher.decrypt(message) == b"value"
    clock.seconds += 1
    destroyed = store.destroy_key(first.id, reason="end of contract")
    assert (destroyed.state, destroyed.reason) == ("destroyed", "end of contract")
    assert store.get_key(first.id).state == "destroyed"
    with pytest.raises(KeyNotFoundError, match="destroyed") as caught:
        cipher.decrypt(message)
    assert caught.value.key_id == first.id
    with pytest.raises(KeyStateError, match="is destroyed"):
        store.destroy_key(first.id)


def test_destroy_by_force_and_before_use(store: KeyStore) -> None:
    new = store.generate_new_key()
    assert store.destroy_key(new.id).state == "destroyed"
    first = store.get_current_key()
    store.rotate()
    assert store.destroy_key(first.id, force=True).state == "destroyed"
    # The number of a destroyed key is not given again.
    assert store.rotate().generation == 4


def test_what_is_needed_is_not_destroyed(store: KeyStore, clock: Clock) -> None:
    first = store.get_current_key()
    store.rotate()
    clock.seconds += 1000
    store.register_use(first.id, "database /srv/a.db")
    store.register_use(first.id, "database /srv/a.db")
    store.register_use(first.id, "archive 7")
    assert store.uses_of(first.id) == ["archive 7", "database /srv/a.db"]
    with pytest.raises(KeyStateError, match=r"needed by .* and 1 more"):
        store.destroy_key(first.id)
    store.unregister_use(first.id, "archive 7")
    with pytest.raises(KeyStateError, match=r"needed by .database /srv/a\.db."):
        store.destroy_key(first.id)
    with pytest.raises(KeyStateError, match="needed by"):
        store.destroy_keyset("default")
    store.unregister_use(first.id, "database /srv/a.db")
    store.destroy_key(first.id)
    with pytest.raises(KeyStateError, match="destroyed"):
        store.register_use(first.id, "archive 8")


def test_destroy_keyset(store: KeyStore) -> None:
    store.create_keyset("tenant")
    store.rotate("tenant")
    cipher = VersionedEncryption(store, "tenant")
    message = cipher.encrypt(b"value")
    store.destroy_keyset("tenant", reason="left")
    assert store.keysets() == ["default"]
    assert {k.state for k in store.list_keys("tenant")} == {"destroyed"}
    with pytest.raises(KeyNotFoundError):
        cipher.decrypt(message)
    for call in (cipher.encrypt, lambda _: store.get_current_key("tenant")):
        with pytest.raises(KeyStateError):
            call(b"value")
    for change in (store.rotate, store.generate_new_key):
        with pytest.raises(KeyStateError, match="was destroyed on"):
            change("tenant")
    with pytest.raises(KeyStoreError, match="was destroyed"):
        store.create_keyset("tenant")
    store.destroy_keyset("tenant")
    store.check()


def test_policies(store: KeyStore, clock: Clock) -> None:
    day = 86_400
    first = store.create_keyset("p", policy=Policy(originator_seconds=30 * day))
    assert store.get_policy("p") == Policy(30 * day, None, False)
    assert store.get_policy() == Policy()
    assert store.rotate("p", if_due=True) == first
    clock.seconds += 30 * day
    second = store.rotate("p", if_due=True)
    assert second != first
    # Fifty machines at midnight: one key.
    assert {store.rotate("p", if_due=True) for _ in range(50)} == {second}
    assert {store.rotate("p", expected=first.id) for _ in range(50)} == {second}
    third = store.rotate("p", expected=second.id)
    assert third.generation == 3
    # A clock that was set back makes nothing due, and hinders nothing else.
    clock.seconds -= 3650 * day
    assert store.rotate("p", if_due=True) == third
    assert store.rotate("p").generation == 4


def test_an_enforced_policy_ends_encryption_not_decryption(place: Place, clock: Clock) -> None:
    with place.create(cache_seconds=0) as store:
        cipher = VersionedEncryption(store)
        message = cipher.encrypt(b"value")
        store.set_policy("default", Policy(originator_seconds=100, enforce=True))
        cipher.encrypt(b"value")
        clock.seconds += 101
        with pytest.raises(KeyStateError):
            cipher.encrypt(b"value")
        assert cipher.decrypt(message) == b"value"
        assert store.rotate(if_due=True).generation == 2
        assert cipher.decrypt(cipher.encrypt(b"value")) == b"value"


def test_what_is_due(store: KeyStore, clock: Clock) -> None:
    day = 86_400
    assert store.due()[:2] == ([], [])
    assert store.stats()["days_to_next_rotation"] is None
    store.create_keyset("p", policy=Policy(originator_seconds=30 * day, recipient_seconds=90 * day))
    first = store.get_current_key("p")
    clock.seconds += 29 * day
    assert store.due()[:2] == ([], [])
    assert store.stats()["days_to_next_rotation"] == pytest.approx(1)
    clock.seconds += 1 * day
    assert store.due()[:2] == (["p"], [])
    store.rotate("p", if_due=True)
    assert store.due()[:2] == ([], [])
    clock.seconds += 60 * day
    assert store.due()[:2] == (["p"], [first])
    store.rotate("p")
    store.destroy_key(first.id, force=True)
    assert store.due()[:2] == ([], [])
    stats = store.stats()
    assert (stats["keysets"], stats["keys_active"], stats["keys_deactivated"]) == (2, 2, 1)
    assert (stats["keys_destroyed"], stats["keys_pre_active"], stats["due_rotations"]) == (1, 0, 0)


def test_counts_of_calls(place: Place, tmp_path: Path) -> None:
    place.create().close()
    with place.open() as store:
        before = store.stats()
        cipher = VersionedEncryption(store)
        for _ in range(1000):
            cipher.encrypt(b"value")
        after = store.stats()
        assert after["master_calls"] == before["master_calls"]
        assert after["cache_misses"] == 1
        wrong = PassphraseMasterKey("wrong")
        with pytest.raises(MasterKeyError):
            KeyStore.open(place.url, wrong)
        place.open().close()
        assert store.stats()["master_calls"] == before["master_calls"] + 1  # type: ignore[operator]


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (Policy(0), ValueError),
        (Policy(-1), ValueError),
        (Policy(None, 10**12), ValueError),
        (Policy(1.5), TypeError),  # type: ignore[arg-type]
        (Policy(enforce=True), ValueError),
    ],
)
def test_policies_that_are_none(store: KeyStore, policy: Policy, error: type) -> None:
    with pytest.raises(error):
        store.set_policy("default", policy)
    with pytest.raises(error):
        store.create_keyset("p", policy=policy)
    assert store.keysets() == ["default"]


def test_closed(place: Place) -> None:
    store = place.create()
    cipher = VersionedEncryption(store)
    message = cipher.encrypt(b"value")
    key = store.get_current_key()
    store.close()
    store.close()
    for call in (
        store.keysets,
        store.get_current_key,
        store.list_keys,
        store.rotate,
        store.refresh,
        store.check,
        store.masters,
        store.erase_deleted,
        store.generate_new_key,
        store.__enter__,
        lambda: store.get_key(key.id),
        lambda: store.destroy_key(key.id),
        lambda: store.create_keyset("x"),
        lambda: store._keyring("default"),
        lambda: cipher.encrypt(b"value"),
        lambda: cipher.decrypt(message),
    ):
        with pytest.raises(KeyStoreError, match="closed"):
            call()
    assert "closed" in repr(store)


def test_read_only(place: Place) -> None:
    place.create().close()
    with place.open(read_only=True) as store:
        assert store.read_only
        key = store.get_current_key()
        assert store.list_keys() == [key]
        for call in (
            store.rotate,
            store.generate_new_key,
            lambda: store.create_keyset("x"),
            lambda: store.compromise_key(key.id),
            lambda: store.suspend_key(key.id, rotate=True),
            lambda: store.resume_key(key.id),
            lambda: store.retire_key(key.id),
            lambda: store.activate_key(key.id),
            lambda: store.destroy_key(key.id),
            lambda: store.schedule_destruction(key.id),
            lambda: store.cancel_destruction(key.id),
            lambda: store.destroy_keyset("default"),
            lambda: store.set_policy("default", Policy()),
            lambda: store.register_use(key.id, "archive"),
            lambda: store.unregister_use(key.id, "archive"),
            lambda: store.add_master(place.master),
            lambda: store.remove_master(place.master.key_id),
            lambda: store.rotate_master(place.master.key_id, place.master),
            lambda: store.lease_messages("ab" * 16, 1, 1),
            lambda: store.backup(place.directory / "backup.db"),
            store.flush_usage,
        ):
            with pytest.raises(KeyStoreError, match="read-only"):
                call()
    with place.open() as store:
        assert store.list_keys() == [key]


def test_masters(place: Place, tmp_path: Path) -> None:
    second = FileMasterKey.create(tmp_path / "second.key")
    phrase = PassphraseMasterKey("correct horse")
    with place.create() as store:
        key = store.get_current_key()
        added = store.add_master(second)
        assert (added.uri, added.key_id, added.recovery) == (second.uri, second.key_id, False)
        assert store.add_master(phrase, recovery=True).recovery
        with pytest.raises(KeyStoreError, match="already"):
            store.add_master(second)
        assert {m.uri for m in store.masters()} == {place.master.uri, second.uri, "passphrase:"}
    assert {m.mechanism for m in KeyStore.masters_of(place.url)} == {0, 5}
    for master in (second, PassphraseMasterKey("correct horse"), place.master):
        with KeyStore.open(place.url, master) as store:
            assert store.get_current_key() == key
    with place.open() as store:
        store.remove_master(place.master.key_id)
        with pytest.raises(KeyNotFoundError):
            store.remove_master(place.master.key_id)
        store.remove_master(second.key_id)
        (left,) = store.masters()
        with pytest.raises(KeyStoreError, match="last master"):
            store.remove_master(left.key_id)
    for master in (place.master, second):
        with pytest.raises(MasterKeyError, match="wrong master"):
            KeyStore.open(place.url, master)
    with KeyStore.open(place.url, phrase) as store:
        assert store.get_current_key() == key
        store.check()


def test_wrong_master(place: Place, tmp_path: Path) -> None:
    place.create().close()
    wrong = FileMasterKey.create(tmp_path / "wrong.key")
    with pytest.raises(MasterKeyError, match="wrong master") as caught:
        KeyStore.open(place.url, wrong)
    assert not caught.value.retryable
    with pytest.raises(MasterKeyError, match="wrong master"):
        KeyStore.open(place.url, PassphraseMasterKey("x"))
    other = place.other("b")
    KeyStore.create(other.url, PassphraseMasterKey("right")).close()
    with pytest.raises(MasterKeyError, match="wrong passphrase") as caught:
        KeyStore.open(other.url, PassphraseMasterKey("wrong"))
    assert not caught.value.retryable


class _Service:
    """A master of a third party, with what it may do wrong."""

    key_id = "5e" * 16
    uri = "service:test"

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.answer: object = None

    def wrap(self, key, context):
        if isinstance(self.answer, Exception):
            raise self.answer
        material = key.get()
        blob = b"blob " + context.encode()
        self.kept[blob] = bytes(material)
        material[:] = bytes(32)
        return self.answer if isinstance(self.answer, bytes) else blob

    def unwrap(self, blob, context):
        if isinstance(self.answer, Exception):
            raise self.answer
        assert blob == b"blob " + context.encode()
        return self.kept[blob] if self.answer is None else self.answer


def test_a_master_of_a_third_party(place: Place) -> None:
    service = _Service()
    with KeyStore.create(place.url, service) as store:
        key = store.get_current_key()
        assert store.masters()[0].mechanism == 4
    with KeyStore.open(place.url, service) as store:
        assert store.get_current_key() == key


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (bytes(32), "another key"),
        (b"x" * 31, "32 bytes"),
        (b"", "32 bytes"),
        ("text", "32 bytes"),
        (RuntimeError("boom"), "RuntimeError"),
        (MasterKeyError("throttled", retryable=True), "throttled"),
    ],
)
def test_a_master_that_fails(place: Place, answer: object, match: str) -> None:
    service = _Service()
    KeyStore.create(place.url, service).close()
    service.answer = answer
    with pytest.raises(MasterKeyError, match=match) as caught:
        KeyStore.open(place.url, service)
    assert caught.value.retryable is ("throttled" in match)


@pytest.mark.parametrize("answer", [b"", b"x" * 2049, RuntimeError("boom")])
def test_a_master_that_fails_at_first(place: Place, answer: object) -> None:
    service = _Service()
    service.answer = answer
    with pytest.raises(MasterKeyError):
        KeyStore.create(place.url, service)
    # Nothing was made, so that it can be tried again.
    service.answer = None
    KeyStore.create(place.url, service).close()


def test_nothing_secret_shows(store: KeyStore, place: Place) -> None:
    key = store.get_current_key()
    assert repr(key) == f"<Key {key.id} active>"
    assert repr(store) == f"<KeyStore {place.shown}>"
    for thing in (store, key, store._keyring("default")):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
        with pytest.raises(TypeError):
            copy.copy(thing)
        with pytest.raises(TypeError):
            copy.deepcopy(thing)
        with pytest.raises(TypeError):
            json.dumps(thing)
    with pytest.raises(TypeError):
        Key()
    with pytest.raises(AttributeError):
        key.state = "active"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del key.purpose


def test_keys_compare_by_id(store: KeyStore) -> None:
    key = store.get_current_key()
    store.rotate()
    assert store.get_key(key.id) == key
    assert store.get_key(key.id).state != key.state
    assert key != store.get_current_key()
    assert key != key.id
    assert len({key, store.get_key(key.id)}) == 1


def test_threads_share_a_store(store: KeyStore) -> None:
    failures: list[BaseException] = []
    cipher = VersionedEncryption(store)
    rotated: list[Key] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        try:
            start.wait()
            for index in range(10):
                if number < 3:
                    rotated.append(store.rotate())
                else:
                    value = b"%d %d" % (number, index)
                    assert cipher.decrypt(cipher.encrypt(value)) == value
                    store.refresh()
                    assert len(store.list_keys()) >= 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({key.id for key in rotated}) == 30
    assert [key.generation for key in store.list_keys()] == list(range(1, 32))
    store.check()


def test_times_of_a_clock_gone_wrong(place: Place, clock: Clock) -> None:
    clock.seconds = 250_000_000_000.0  # the year 9892
    with place.create() as store:
        clock.seconds *= 2
        late = store.rotate()
        assert late.created.year == 9999
        clock.seconds = -1e10
        early = store.rotate()
        assert (early.generation, early.created.year) == (3, 1653)
        assert store.get_current_key() == early
        VersionedEncryption(store).encrypt(b"value")


# What is particular to SQLite files


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("", ValueError),
        ("keys.db", ValueError),
        ("sqlite:keys.db", ValueError),
        ("sqlite://keys.db", ValueError),
        ("sqlite:///", ValueError),
        ("sqlite:///:memory:", ValueError),
        ("sqlite:///a\0b", ValueError),
        ("mysql://host/db", ValueError),
        (b"sqlite:///keys.db", TypeError),
        (Path("keys.db"), TypeError),
    ],
)
def test_urls_that_are_none(tmp_path: Path, url: str, error: type) -> None:
    master = FileMasterKey.create(tmp_path / "m")
    with pytest.raises(error):
        KeyStore.open(url, master)
    with pytest.raises(error):
        KeyStore.create(url, master)


def test_relative_and_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master = FileMasterKey.create(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///keys.db") == str(tmp_path / "keys.db")
    assert sqlite_path("sqlite:////srv/keys.db") == "/srv/keys.db"
    for name in ("keys.db", "a b?c#d%20e.db", "ü\n.db"):
        with KeyStore.create(f"sqlite:///{name}", master) as store:
            key = store.get_current_key()
        assert (tmp_path / name).is_file()
        with KeyStore.open(f"sqlite:///{tmp_path}/{name}", master) as store:
            assert store.get_current_key() == key


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        place = Place(tmp_path)
        with place.create() as store:
            store.rotate()
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes.pop("master.key") == 0o600
    assert set(modes) == {"keys.db", "keys.db-wal", "keys.db-shm"}
    assert set(modes.values()) == {0o600}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys.db", "master.key"]


def test_the_file_holds_no_key(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.create() as store:
        root = bytes(store._root.get())
        keys = [bytes(k.get()) for k in store._material.unwrap(store._load("default")).values()]
    data = place.path.read_bytes()
    for secret in (root, *keys):
        assert secret not in data
        assert secret.hex().encode() not in data


def test_pragmas(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.create() as store, store._database._connection() as connection:  # type: ignore[attr-defined]

        def pragma(name: str) -> object:
            return connection.execute(f"PRAGMA {name}").fetchone()[0]

        assert connection.isolation_level is None
        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2  # FULL
        assert pragma("secure_delete") == 1
        assert pragma("application_id") == int.from_bytes(b"SRKS", "big")


def test_create_beside_leftovers(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for suffix in ("-wal", "-shm", "-journal"):
        side = tmp_path / f"keys.db{suffix}"
        side.write_bytes(b"left")
        with pytest.raises(KeyStoreError, match="left over"):
            place.create()
        side.unlink()
    place.path.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        place.create()
    place.path.unlink()
    with pytest.raises(FileNotFoundError):
        KeyStore.create(f"sqlite:///{tmp_path}/none/keys.db", place.master)
    assert [p.name for p in tmp_path.iterdir()] == ["master.key"]


def test_not_a_store(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with pytest.raises(FileNotFoundError):
        place.open()
    place.path.mkdir()
    with pytest.raises(IsADirectoryError):
        place.open()
    place.path.rmdir()
    os.mkfifo(place.path)
    with pytest.raises(KeyStoreError, match="not a regular file"):
        place.open()
    place.path.unlink()
    for data in (b"", b"x", b"x" * 100, os.urandom(10_000)):
        place.path.write_bytes(data)
        with pytest.raises(KeyStoreError, match=r"not a key store|is empty|not a database"):
            place.open()
        with pytest.raises(KeyStoreError):
            KeyStore.masters_of(place.url)
        assert place.path.read_bytes() == data
    place.path.unlink()
    connection = sqlite3.connect(place.path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    data = place.path.read_bytes()
    with pytest.raises(KeyStoreError, match="not a key store"):
        place.open()
    assert place.path.read_bytes() == data
    assert {p.name for p in tmp_path.iterdir()} == {"keys.db", "master.key"}


def test_newer_schema(place: Place) -> None:
    place.create().close()
    place.sql("UPDATE strongroom_store SET schema_version = ?", sql.SCHEMA_VERSION + 1)
    before = place.copy()
    with pytest.raises(KeyStoreError, match="newer release"):
        place.open()
    with pytest.raises(KeyStoreError, match="newer release"):
        KeyStore.masters_of(place.url)
    assert place.copy() == before


def test_busy(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.create() as store, place.open(busy_timeout=0.1) as impatient:
        first = store.get_current_key()
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(KeyStoreBusyError, match="locked by another process"):
            impatient.rotate()
        # Reading goes on beside a writer.
        assert impatient.list_keys() == [first]
        other.execute("ROLLBACK")
        other.close()
        assert impatient.rotate().generation == 2


def test_waiting_for_a_lock_outlasts_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.create() as store:
        other = sqlite3.connect(place.path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        waiting = threading.Thread(target=store.rotate)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        other.execute("ROLLBACK")
        waiting.join()
        other.close()
        assert store.get_current_key().generation == 2


def test_rotate_returns_the_key_that_it_made(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store._write
    others: list[str] = []

    def overtaken(function: Any, landed: Any) -> Any:
        done: Any = write(function, landed)
        if not others:
            others.append("")
            # Another thread rotates after this one's commit, before it has looked at it.
            others[0] = store.rotate().id
        return done

    monkeypatch.setattr(store, "_write", overtaken)
    made = store.rotate().id
    assert made not in ("", others[0])
    assert store.get_current_key().id == others[0]
