"""The life of a key: every change in every state, and what each state lets a key do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from keystore_help import Clock, Place, clock, place, store
from strongroom import (
    Key,
    KeyNotFoundError,
    KeyStateError,
    KeyStore,
    StrongroomError,
    VersionedEncryption,
)
from strongroom.keys.base import _SEEN
from strongroom.keys.states import STATES, may_become

__all__ = ["clock", "place", "store"]

# The table of the docs, written out a second time.
NEXT = {
    "pre-active": {"active", "destroyed"},
    "active": {"deactivated", "suspended", "compromised"},
    "suspended": {"active", "deactivated", "compromised", "destroyed"},
    "deactivated": {"suspended", "compromised", "destroyed"},
    "compromised": {"destroyed"},
    "destroyed": set(),
}


def bring_to(store: KeyStore, state: str) -> tuple[Key, bytes | None]:
    """Return a key in a state, in a keyset that has a primary, and a message that it wrote."""
    if state == "pre-active":
        return store.generate_new_key(), None
    key = store.get_current_key()
    message = VersionedEncryption(store).encrypt(b"value")
    if state == "active":
        return key, message
    store.rotate()
    if state == "suspended":
        store.suspend_key(key.id)
    elif state == "compromised":
        store.compromise_key(key.id)
    elif state == "destroyed":
        store.destroy_key(key.id, force=True)
    assert store.get_key(key.id).state == state
    return store.get_key(key.id), message


def test_the_table() -> None:
    assert {state: set(entry.next) for state, entry in STATES.items()} == NEXT
    assert may_become("active", "deactivated")
    assert not may_become("destroyed", "active")


CHANGES: dict[str, tuple[Callable[[KeyStore, str], Key], dict[str, str]]] = {
    # What each method makes of a key in each state, where the keyset has a primary.
    "activate_key": (KeyStore.activate_key, {"pre-active": "active"}),
    "retire_key": (
        KeyStore.retire_key,
        {"suspended": "deactivated", "deactivated": "deactivated"},
    ),
    "suspend_key": (
        KeyStore.suspend_key,
        {"active": "suspended", "deactivated": "suspended"},
    ),
    "resume_key": (KeyStore.resume_key, {"suspended": "deactivated"}),
    "compromise_key": (
        KeyStore.compromise_key,
        dict.fromkeys(("active", "suspended", "deactivated"), "compromised"),
    ),
    "destroy_key": (
        lambda store, key_id: store.destroy_key(key_id, force=True),
        dict.fromkeys(("pre-active", "suspended", "deactivated", "compromised"), "destroyed"),
    ),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", CHANGES)
def test_every_change_in_every_state(store: KeyStore, method: str, state: str) -> None:
    change, results = CHANGES[method]
    key, _ = bring_to(store, state)
    before = {k.id: k.state for k in store.list_keys()}
    if state in results:
        assert change(store, key.id).state == results[state]
        assert store.list_keys() == [store.get_key(i) for i in before]
    else:
        with pytest.raises(KeyStateError) as caught:
            change(store, key.id)
        assert (caught.value.key_id, caught.value.state) == (key.id, state)
        assert {k.id: k.state for k in store.list_keys()} == before
    assert [k.state for k in store.list_keys()].count("active") <= 1
    store.check()


@pytest.mark.parametrize("state", ["suspended", "compromised"])
@pytest.mark.parametrize("rotate", [False, True])
def test_the_primary_leaves(store: KeyStore, state: str, rotate: bool) -> None:
    first = store.get_current_key()
    leave = store.suspend_key if state == "suspended" else store.compromise_key
    cipher = VersionedEncryption(store)
    left = leave(first.id, rotate=rotate, reason="laptop lost")
    assert (left.state, left.reason) == (state, "laptop lost")
    assert left.deactivated == left.since
    if rotate:
        assert store.get_current_key().generation == 2
        cipher.encrypt(b"value")
    else:
        for call in (store.get_current_key, lambda: cipher.encrypt(b"value")):
            with pytest.raises(KeyStateError):
                call()
        # Nothing is due where someone stopped it on purpose; asked for, it goes on.
        with pytest.raises(KeyStateError):
            store.rotate(if_due=True)
        assert store.rotate().generation == 2
    store.check()


def test_rotate_is_for_the_primary_alone(store: KeyStore) -> None:
    first = store.get_current_key()
    second = store.rotate()
    store.compromise_key(first.id, rotate=True)
    assert store.get_current_key() == second
    assert len(store.list_keys()) == 2


def test_resume_without_a_primary(store: KeyStore) -> None:
    first = store.get_current_key()
    store.suspend_key(first.id)
    with pytest.raises(KeyStateError, match="resume"):
        VersionedEncryption(store).decrypt(b"SR\x02\x01" + bytes.fromhex(first.id) + bytes(72))
    assert store.resume_key(first.id).state == "active"
    assert store.get_current_key() == first
    store.suspend_key(first.id)
    assert store.activate_key(first.id).state == "active"
    second = store.rotate()
    store.suspend_key(first.id)
    with pytest.raises(KeyStateError, match="another primary"):
        store.activate_key(first.id)
    assert store.resume_key(first.id).state == "deactivated"
    assert store.get_current_key() == second


@pytest.mark.parametrize("state", STATES)
def test_what_a_state_permits(store: KeyStore, state: str) -> None:
    key, message = bring_to(store, state)
    cipher = VersionedEncryption(store)
    encrypts = cipher.encrypt(b"value")[4:20].hex() == key.id
    assert encrypts == STATES[state].encrypts == (state == "active")
    if message is None:
        # What another process wrote that has promoted this key already.
        store.activate_key(key.id)
        message = cipher.encrypt(b"value")
    expected: dict[str, type[StrongroomError]] = {
        "suspended": KeyStateError,
        "compromised": KeyStateError,
        "destroyed": KeyNotFoundError,
    }
    for allowed in (False, True):
        error = expected.get(state)
        if state == "compromised" and allowed:
            error = None
        if error is None:
            assert cipher.decrypt(message, allow_compromised=allowed) == b"value"
            assert STATES[state].decrypts_if_allowed
        else:
            with pytest.raises(error) as caught:
                cipher.decrypt(message, allow_compromised=allowed)
            assert caught.value.key_id == key.id  # type: ignore[attr-defined]


def test_a_pre_active_key_decrypts(place: Place) -> None:
    """A process that hasn't seen the promotion yet reads what the promoted key wrote."""
    with place.create() as here, place.open() as there:
        new = here.generate_new_key()
        cipher = VersionedEncryption(here)
        cipher.encrypt(b"load what is there")
        there.activate_key(new.id)
        message = VersionedEncryption(there).encrypt(b"value")
        assert message[4:20].hex() == new.id
        assert here.get_key(new.id).state == "pre-active"
        assert cipher.decrypt(message) == b"value"


@pytest.mark.parametrize("size", [10, 100_000])
def test_messages_and_states_of_a_keyset(place: Place, size: int) -> None:
    """R20: what is written in each of four states of a keyset, opened in each."""
    value = b"v" * size
    states, messages = [], []
    with place.create(cache_seconds=0) as store:
        cipher = VersionedEncryption(store)

        def keep() -> None:
            states.append(place.copy())
            messages.append(cipher.encrypt(value))

        old = store.get_current_key()
        keep()  # the old key is the primary
        new = store.generate_new_key()
        keep()  # the new one is known, the old one still is the primary
        store.activate_key(new.id)
        keep()  # the new one is the primary
        store.suspend_key(old.id)
        keep()  # the old one is stopped
        assert [m[4:20].hex() if size == 10 else None for m in messages] == (
            [old.id, old.id, new.id, new.id] if size == 10 else [None] * 4
        )
    opened = {}
    for number, state in enumerate(states, 1):
        place.put_back(state)
        _SEEN.forget(store._root_id)
        with place.open() as then:
            for writer, message in enumerate(messages, 1):
                try:
                    opened[writer, number] = VersionedEncryption(then).decrypt(message) == value
                except (KeyNotFoundError, KeyStateError):
                    opened[writer, number] = False
        _SEEN.forget(store._root_id)
    by_old, by_new = (1, 2), (3, 4)
    assert {pair for pair, result in opened.items() if not result} == {
        *((writer, 4) for writer in by_old),
        *((writer, 1) for writer in by_new),
    }


def test_destroyed_before_the_cache_time_of_others(place: Place, clock: Clock) -> None:
    """What makes the waiting necessary: another process encrypts until its cache ends."""
    with place.create() as here, place.open() as there:
        cipher = VersionedEncryption(there)
        cipher.encrypt(b"loads")
        first = here.get_current_key()
        here.rotate()
        late = cipher.encrypt(b"value")
        assert late[4:20].hex() == first.id
        with pytest.raises(KeyStateError, match="force=True"):
            here.destroy_key(first.id)
        clock.seconds += 300
        here.destroy_key(first.id)
        # A clock set back does not shorten the time.
        second = here.get_current_key()
        here.rotate()
        clock.seconds -= 10_000
        with pytest.raises(KeyStateError):
            here.destroy_key(second.id)
