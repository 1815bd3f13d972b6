"""The keyring's cache: what is kept of a load, and what is not."""

from __future__ import annotations

from strongroom._native import Keyring, KeysetCipher, MemoryLockedKey


def test_a_load_that_began_before_an_invalidation_is_not_kept():
    old, new = MemoryLockedKey.generate(), MemoryLockedKey.generate()
    loads = []

    def reload(_missing):
        loads.append(None)
        if len(loads) == 1:
            # Another thread changes the store after this load has read it.
            keyring.invalidate()
            return old.key_id, [(old.key_id, "active", "default", old, "")], 300.0, ""
        return new.key_id, [(new.key_id, "active", "default", new, "")], 300.0, ""

    keyring = Keyring(reload)
    assert keyring.primary_id == old.key_id
    assert keyring.primary_id == new.key_id
    assert keyring.primary_id == new.key_id
    assert len(loads) == 2


def test_an_older_load_does_not_replace_a_newer_one():
    old, new = MemoryLockedKey.generate(), MemoryLockedKey.generate()
    inner = []

    def reload(_missing):
        if not inner:
            inner.append(None)
            # A second thread begins and ends its load while this one is under way.
            assert keyring.primary_id == new.key_id
            return old.key_id, [(old.key_id, "active", "default", old, "")], 300.0, ""
        return new.key_id, [(new.key_id, "active", "default", new, "")], 300.0, ""

    keyring = Keyring(reload)
    assert keyring.primary_id == old.key_id
    assert keyring.primary_id == new.key_id


def test_what_is_kept_no_time_is_loaded_each_time():
    key = MemoryLockedKey.generate()
    loads = []

    def reload(_missing):
        loads.append(None)
        return key.key_id, [(key.key_id, "active", "default", key, "")], 0.0, ""

    cipher = KeysetCipher(Keyring(reload))
    for _ in range(3):
        cipher.encrypt(b"value")
    assert len(loads) == 3
