"""Messages of a token's key are counted: 2^32 and no more, across processes with a key store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hsm_help import Backend, label
from hsm_help import softhsm as softhsm
from strongroom import FileMasterKey, KeyStore, MemoryLockedKey
from strongroom.errors import LimitError
from strongroom.hsm import counts

LIMIT = 2**32


def test_the_numbers() -> None:
    assert (counts.MAX_MESSAGES, counts.LEASE) == (LIMIT, 2**20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with KeyStore.create(
        f"sqlite:///{tmp_path}/keys.db", FileMasterKey.create(tmp_path / "master.key")
    ) as store:
        yield store


def test_in_this_process(softhsm: Backend) -> None:
    with softhsm.open() as one, softhsm.open() as two, MemoryLockedKey.generate() as key:
        data, master = one.generate_key(label()), one.generate_key(label("master:"))
        for key_id, call in (
            (data, lambda hsm: hsm.encrypt(data, b"x")),
            (master, lambda hsm: hsm.wrap_key(master, key)),
        ):
            call(one)
            call(two)
            assert next(counts._written[key_id]) == 2
            counts._written[key_id] = itertools.count(LIMIT - 1)
            call(one)
            for hsm in (one, two):
                with pytest.raises(LimitError, match="rotate"):
                    call(hsm)
        # What was written is still read.
        assert one.find(one.get_key(data).label) == data


def test_in_a_store(softhsm: Backend, store: KeyStore) -> None:
    with softhsm.open(key_store=store) as hsm:
        key_id = hsm.generate_key(label())
        store.lease_messages(key_id, LIMIT - 3, LIMIT)
        for _ in range(3):
            hsm.encrypt(key_id, b"x")
        for _ in range(2):
            with pytest.raises(LimitError):
                hsm.encrypt(key_id, b"x")
        new = hsm.rotate(hsm.get_key(key_id).label)
        assert hsm.encrypt(new, b"x")


def test_by_leases_across_processes(softhsm: Backend, store: KeyStore, tmp_path: Path) -> None:
    with softhsm.open(key_store=store) as hsm:
        key_id = hsm.generate_key(label())
        for _ in range(10):
            hsm.encrypt(key_id, b"x")
    softhsm.python(
        """
with KeyStore.open(arguments[0], FileMasterKey(arguments[1])) as store:
    with open_manager(key_store=store, pin=lambda: PIN) as hsm:
        hsm.encrypt(arguments[2], b"x")
        if os.fork() == 0:
            # What the parent leased is not the child's.
            with KeyStore.open(arguments[0], FileMasterKey(arguments[1])) as own:
                with open_manager(key_store=own, pin=lambda: PIN) as other:
                    other.encrypt(arguments[2], b"x")
            os._exit(0)
        assert os.wait()[1] == 0
""",
        f"sqlite:///{tmp_path}/keys.db",
        tmp_path / "master.key",
        key_id,
    )
    # Three processes took a lease each.
    assert store.lease_messages(key_id, LIMIT, LIMIT) == LIMIT - 3 * counts.LEASE


def test_no_lease_for_a_key_that_is_not_there(softhsm: Backend, store: KeyStore) -> None:
    with softhsm.open(key_store=store) as hsm:
        with pytest.raises(KeyError):
            hsm.encrypt("00000001" + "ab" * 12, b"x")
    assert store.lease_messages("00000001" + "ab" * 12, LIMIT, LIMIT) == LIMIT
