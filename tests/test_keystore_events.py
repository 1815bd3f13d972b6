"""What a key store reports to an audit log: each change once, in order, in its transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import strongroom
from keystore_help import Clock, Place, clock, place, store
from strongroom import (
    AuditError,
    EnvelopeEncryption,
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
from strongroom.audit.catalogue import EVENTS, FIELDS
from strongroom.keys import Policy

__all__ = ["clock", "place", "store"]


class Sink:
    """A log that keeps what it is told, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.refuses: set[str] = set()

    def event(self, name: str, outcome: str, fields: dict[str, Any]) -> None:
        assert name in EVENTS
        assert fields.keys() <= FIELDS
        if name in self.refuses and outcome == "success":
            raise AuditError("the disk of the audit log is full")
        self.events.append((name, outcome, fields))

    def count(self, *_: object) -> None:
        raise AssertionError("nothing is counted here")

    def take(self) -> list[str]:
        """The names since the last call, those of failures with a mark."""
        names = [name if outcome == "success" else f"{name}!" for name, outcome, _ in self.events]
        self.events.clear()
        return names


@pytest.fixture
def sink(store: KeyStore) -> Iterator[Sink]:
    """A log that is opened after the store was made."""
    made = Sink()
    before = _events.set_sink(made)
    yield made
    _events.set_sink(before)


def test_a_life(store: KeyStore, sink: Sink) -> None:
    first = store.get_current_key()
    key = store.rotate(reason="yearly")
    assert [(n, f["key_id"], f["state"]) for n, _, f in sink.events] == [
        ("key.generated", key.id, "active"),
        ("key.rotated", key.id, "active"),
    ]
    fields = sink.events[1][2]
    assert fields == {
        "store": store._root_id,
        "key_id": key.id,
        "old_key_id": first.id,
        "new_key_id": key.id,
        "keyset": "default",
        "purpose": "data",
        "generation": 2,
        "state": "active",
        "reason": "yearly",
    }
    sink.take()
    store.suspend_key(first.id, reason="asked to")
    store.resume_key(first.id)
    store.compromise_key(first.id)
    store.destroy_key(first.id, force=True)
    assert [(n, f["key_id"], f["reason"]) for n, _, f in sink.events] == [
        ("key.suspended", first.id, "asked to"),
        ("key.resumed", first.id, ""),
        ("key.compromised", first.id, ""),
        ("key.destroyed", first.id, ""),
    ]
    assert [f["generation"] for _, _, f in sink.events] == [3, 4, 5, 6]
    sink.take()
    new = store.generate_new_key()
    store.activate_key(new.id)
    assert sink.take() == ["key.generated", "key.rotated"]
    store.compromise_key(new.id, rotate=True)
    assert sink.take() == ["key.compromised", "key.generated", "key.activated"]
    store.retire_key(key.id)
    assert sink.take() == []  # it was retired already: nothing was changed


def test_keysets_and_uses(store: KeyStore, sink: Sink) -> None:
    key = store.create_keyset("tenant")
    assert sink.take() == ["keyset.created", "key.generated", "key.activated"]
    for _ in range(2):
        store.set_policy("tenant", Policy(originator_seconds=86_400))
        store.register_use(key.id, "a customer's name")
    assert "a customer's name" not in str(sink.events)
    assert sink.take() == ["keyset.policy", "keyset.registered"]
    for _ in range(2):
        store.unregister_use(key.id, "a customer's name")
    assert sink.take() == ["keyset.unregistered"]
    store.destroy_keyset("tenant")
    store.destroy_keyset("tenant")
    assert sink.take() == ["key.destroyed", "keyset.destroyed"]


def test_masters(place: Place, store: KeyStore, sink: Sink) -> None:
    second = FileMasterKey.create(place.directory / "second")
    third = FileMasterKey.create(place.directory / "third")
    store.add_master(second, recovery=True)
    assert sink.events[0][2]["recovery"] is True
    store.rotate_master(second.key_id, third)
    store.remove_master(place.master.key_id)
    assert sink.take() == ["master.added", "master.rotated", "master.removed"]


def test_a_recovery_master_is_loud(place: Place, store: KeyStore, sink: Sink) -> None:
    second = FileMasterKey.create(place.directory / "second")
    store.add_master(second, recovery=True)
    sink.take()
    place.open().close()
    assert sink.take() == ["store.opened"]
    KeyStore.open(place.url, second).close()
    assert [(n, f["key_id"]) for n, _, f in sink.events] == [
        ("master.recovery_used", second.key_id),
        ("store.opened", second.key_id),
    ]
    assert EVENTS["master.recovery_used"].severity_id == max(e.severity_id for e in EVENTS.values())
    sink.refuses = {"master.recovery_used"}
    with pytest.raises(AuditError):
        KeyStore.open(place.url, second)


def test_a_recovery_master_is_loud_whatever_it_is_used_for(
    place: Place, store: KeyStore, sink: Sink
) -> None:
    second = FileMasterKey.create(place.directory / "second")
    store.add_master(second, recovery=True)
    store.backup(place.directory / "backup.db")
    sink.take()
    for name, master in (("one", place.master), ("two", second)):
        target = place.other(name)
        KeyStore.restore(place.directory / "backup.db", target.url, master)
        loud = ["master.recovery_used"] if master is second else []
        assert sink.take() == [*loud, "store.restored"]
    sink.refuses = {"master.recovery_used"}
    target = place.other("three")
    with pytest.raises(AuditError):
        KeyStore.restore(place.directory / "backup.db", target.url, second)
    assert sink.take() == []
    with pytest.raises((KeyStoreError, FileNotFoundError)):
        target.open()


def test_failures(place: Place, store: KeyStore, sink: Sink) -> None:
    with pytest.raises(MasterKeyError):
        KeyStore.open(place.url, FileMasterKey.create(place.directory / "stranger"))
    assert sink.take() == ["master.refused!"]

    class Away:
        key_id, uri = place.master.key_id, place.master.uri
        mechanism = 0

        def unwrap(self, blob: bytes, context: str) -> bytes:
            raise MasterKeyError("no network", retryable=True)

    with pytest.raises(MasterKeyError):
        KeyStore.open(place.url, Away())  # type: ignore[arg-type]
    assert sink.take() == ["master.unreachable!", "master.refused!"]
    place.sql("UPDATE strongroom_keys SET reason = 'x'")
    store.refresh()
    with pytest.raises(KeyStoreError, match="damaged"):
        store.rotate()
    assert sink.take() == ["store.damaged!"]


def test_limits(store: KeyStore, sink: Sink) -> None:
    store.lease_messages("ab" * 16, 900, 1000)
    assert sink.take() == []
    store.lease_messages("ab" * 16, 50, 1000)
    assert sink.take() == ["key.limit"]
    store.lease_messages("ab" * 16, 50, 1000)
    with pytest.raises(LimitError):
        store.lease_messages("ab" * 16, 50, 1000)
    assert sink.take() == ["key.limit!"]


def test_what_can_not_be_sealed_is_not_done(place: Place, store: KeyStore, sink: Sink) -> None:
    first = store.get_current_key()
    other = store.generate_new_key()
    second = FileMasterKey.create(place.directory / "second")
    store.lease_messages("ab" * 16, 5, 10)
    changes = {
        "key.rotated": store.rotate,
        "key.suspended": lambda: store.suspend_key(first.id),
        "key.compromised": lambda: store.compromise_key(first.id, rotate=True),
        "key.destroyed": lambda: store.destroy_key(other.id),
        "keyset.created": lambda: store.create_keyset("tenant"),
        "keyset.policy": lambda: store.set_policy("default", Policy(originator_seconds=9)),
        "keyset.registered": lambda: store.register_use(first.id, "archive"),
        "keyset.destroyed": lambda: store.destroy_keyset("default"),
        "master.added": lambda: store.add_master(second),
        "master.rotated": lambda: store.rotate_master(place.master.key_id, second),
        "key.limit": lambda: store.lease_messages("ab" * 16, 5, 10),
    }
    before = place.copy()
    for name, change in changes.items():
        sink.events.clear()
        sink.refuses = {name}
        with pytest.raises(AuditError):
            change()
        # What was sealed before it is taken back, in the log too.
        done = [n for n, outcome, _ in sink.events if outcome == "success"]
        undone = [n for n, outcome, _ in sink.events if outcome == "failure"]
        assert done == undone
        assert place.copy() == before, name
    sink.refuses = set()
    assert store.get_current_key() == first
    store.check()


def test_a_new_store(place: Place) -> None:
    made = Sink()
    before = _events.set_sink(made)
    try:
        place.create().close()
        assert made.take() == [
            "store.created",
            "keyset.created",
            "key.generated",
            "key.activated",
        ]
        made.refuses = {"key.activated"}
        other = place.other("other")
        with pytest.raises(AuditError):
            other.create()
        if place.kind == "sqlite":
            assert not other.path.exists()
    finally:
        _events.set_sink(before)


def test_a_change_that_is_refused_is_no_event(store: KeyStore, sink: Sink) -> None:
    with pytest.raises(KeyStateError):
        store.destroy_key(store.get_current_key().id)
    assert sink.take() == []


INTERFACES = ("record", "envelope", "many", "EnvelopeEncryption", "file")


def _message(store: KeyStore, kind: str, path: Path) -> Callable[..., object]:
    """Encrypt something, and return what decrypts it."""
    cipher = VersionedEncryption(store)
    if kind == "EnvelopeEncryption":
        envelopes = EnvelopeEncryption(None, store)
        message = envelopes.encrypt(b"value")
        return lambda **options: envelopes.decrypt(message, **options)
    if kind == "file":
        (path / "plain").write_bytes(b"value")
        strongroom.encrypt_file(path / "plain", path / "sealed", store)
        return lambda **options: strongroom.verify_file(path / "sealed", store, **options)
    message = cipher.encrypt(bytes(100_000) if kind == "envelope" else b"value")
    if kind == "many":
        return lambda **options: cipher.decrypt_many([message, message], **options)
    return lambda **options: cipher.decrypt(message, **options)


@pytest.mark.parametrize("kind", INTERFACES)
def test_each_use_of_a_compromised_key(
    store: KeyStore, sink: Sink, tmp_path: Path, kind: str
) -> None:
    decrypt = _message(store, kind, tmp_path)
    key = store.get_current_key()
    store.compromise_key(key.id, rotate=True)
    sink.take()
    with pytest.raises(KeyStateError, match="compromised"):
        decrypt()
    assert sink.take() == []
    for _ in range(2):
        decrypt(allow_compromised=True)
    uses = [fields for name, _, fields in sink.events if name == "key.compromised_use"]
    assert len(uses) == (4 if kind == "many" else 2)
    assert {(use["key_id"], use["keyset"]) for use in uses} == {(key.id, "default")}
    sink.refuses = {"key.compromised_use"}
    with pytest.raises(AuditError):
        decrypt(allow_compromised=True)


@pytest.mark.parametrize("kind", ["record", "envelope"])
def test_rewrapping_away_from_a_compromised_key_is_no_such_use(
    store: KeyStore, sink: Sink, kind: str
) -> None:
    cipher = VersionedEncryption(store)
    message = cipher.encrypt(bytes(100_000) if kind == "envelope" else b"value")
    store.compromise_key(store.get_current_key().id, rotate=True)
    sink.take()
    cipher.decrypt(cipher.rotate_encryption(message))
    assert sink.take() == []


@pytest.mark.parametrize("kind", INTERFACES)
def test_the_date_of_destruction_is_told(
    place: Place, tmp_path: Path, kind: str, clock: Clock
) -> None:
    clock.seconds = 1_798_675_200.0 + 60  # 2026-12-31
    with place.create() as store:
        decrypt = _message(store, kind, tmp_path)
        key = store.get_current_key()
        store.rotate()
        store.destroy_key(key.id, force=True)
        with pytest.raises(KeyNotFoundError, match=f"{key.id} was destroyed on 2026-12-31") as told:
            decrypt()
        assert told.value.key_id == key.id
