"""Keysets that belong to a database: what rotations may do to them, and no one else."""

from __future__ import annotations

import pytest
from keystore_help import Place, place, store
from strongroom import KeyStateError, KeyStore, KeyStoreError

__all__ = ["place", "store"]

DATABASE, ROTATION = "aa" * 16, "bb" * 16


@pytest.fixture
def old(store: KeyStore) -> str:
    """The active key of the keyset `d`, which belongs to DATABASE."""
    key = store.create_keyset("d", purpose="database")
    store._bind_database("d", DATABASE, "{}")
    return key.id


def _new(store: KeyStore, old: str, rotation: str = ROTATION) -> str:
    keyset = store._add_rotation_key("d", DATABASE, rotation, old, old)
    return keyset.in_order()[-1].key_id


def test_promoted_once(place: Place, store: KeyStore, old: str) -> None:
    new = _new(store, old)
    assert store.get_key(new).state == "pre-active"
    secrets = [bytes(store._database_secret(store._load("d"), i)) for i in (old, new)]
    assert len(set(secrets)) == 2
    for _ in range(2):
        store._promote_rotation_key("d", ROTATION, new, old)
    assert [(k.id, k.state) for k in store.list_keys("d")] == [
        (old, "deactivated"),
        (new, "active"),
    ]
    with pytest.raises(KeyStateError, match="no rotation may discard"):
        store._discard_rotation_key("d", ROTATION, new)
    with place.open() as again:
        assert bytes(again._database_secret(again._load("d"), new)) == secrets[1]
        assert again._load("d").head.database_settings == "{}"
    store.check()


def test_discarded(store: KeyStore, old: str) -> None:
    new = _new(store, old)
    with pytest.raises(KeyStateError, match="recover"):
        store.destroy_key(new)
    with pytest.raises(KeyStateError, match="no rotation may discard"):
        store._discard_rotation_key("d", "cc" * 16, new)
    for _ in range(2):
        store._discard_rotation_key("d", ROTATION, new)
    with pytest.raises(KeyStateError):
        store._promote_rotation_key("d", ROTATION, new, old)
    assert store.get_current_key("d").id == old


def test_another_primary(store: KeyStore, old: str) -> None:
    first, second = _new(store, old), _new(store, old, "cc" * 16)
    store._promote_rotation_key("d", "cc" * 16, second, old)
    with pytest.raises(KeyStateError, match="another primary"):
        store._promote_rotation_key("d", ROTATION, first, old)
    with pytest.raises(KeyStateError, match="changed by another process"):
        store._add_rotation_key("d", DATABASE, ROTATION, old, old)
    assert store.get_current_key("d").id == second


def test_put_back(store: KeyStore, old: str) -> None:
    new = _new(store, old)
    wrapped = store._load("d").wrapped[new]
    assert store._restore_rotation_key("d", ROTATION, new, wrapped).key(new).state == "pre-active"
    with pytest.raises(KeyStoreError):
        store._restore_rotation_key("d", ROTATION, old, wrapped)


def test_one_database_a_keyset(store: KeyStore, old: str) -> None:
    store._bind_database("d", DATABASE, "{}")
    with pytest.raises(KeyStateError, match="keyset="):
        store._bind_database("d", "cc" * 16, "{}")
    with pytest.raises(KeyStateError, match="purpose"):
        store._bind_database("default", DATABASE, "{}")
    for change in (
        lambda: store.rotate("d"),
        lambda: store.generate_new_key("d"),
        lambda: store.compromise_key(old, rotate=True),
    ):
        with pytest.raises(KeyStateError, match="strongroom db rotate"):
            change()
    with pytest.raises(KeyStateError, match="belongs to a database"):
        store.destroy_keyset("d")
    new = _new(store, old)
    with pytest.raises(KeyStateError, match="strongroom db rotate"):
        store.activate_key(new)
    store.destroy_keyset("d", force=True)
    with pytest.raises(KeyStateError, match="destroyed"):
        store._database_keyset("d")
