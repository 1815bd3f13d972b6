"""Leases of messages: never one too many written, by many processes, killed ones too."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import pytest
from keystore_help import Place, place, seeded, store
from strongroom import FileMasterKey, KeyStore, KeyStoreError, LimitError

__all__ = ["place", "store"]

KEY = "ab" * 16
OTHER = "cd" * 16


def test_up_to_the_limit_and_no_further(store: KeyStore) -> None:
    assert store.leased_messages(KEY) == 0
    assert store.lease_messages(KEY, 60, 100) == 60
    assert store.lease_messages(KEY, 60, 100) == 40
    for _ in range(2):
        with pytest.raises(LimitError, match="all the 100 messages"):
            store.lease_messages(KEY, 1, 100)
    assert store.leased_messages(KEY) == 100
    # Each key has its own.
    assert store.lease_messages(OTHER, 2**32, 2**32) == 2**32
    assert store.leased_messages(KEY) == 100
    store.check()


def test_at_the_last_one_of_a_token_s_key(store: KeyStore) -> None:
    assert store.lease_messages(KEY, 2**32 - 1, 2**32) == 2**32 - 1
    assert store.lease_messages(KEY, 1000, 2**32) == 1
    with pytest.raises(LimitError):
        store.lease_messages(KEY, 1000, 2**32)


def test_a_smaller_limit_than_before(store: KeyStore) -> None:
    store.lease_messages(KEY, 60, 100)
    with pytest.raises(LimitError):
        store.lease_messages(KEY, 1, 60)


def test_durable(place: Place) -> None:
    with place.create() as store:
        store.lease_messages(KEY, 60, 100)
    with place.open(read_only=True) as store:
        assert store.leased_messages(KEY) == 60
        with pytest.raises(KeyStoreError, match="read-only"):
            store.lease_messages(KEY, 1, 100)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("", 1, 1), ValueError),
        (("AB" * 16, 1, 1), ValueError),
        ((KEY + "\n", 1, 1), ValueError),
        ((b"ab" * 16, 1, 1), TypeError),
        ((KEY, 0, 1), ValueError),
        ((KEY, -1, 1), ValueError),
        ((KEY, 1, 0), ValueError),
        ((KEY, 1, 2**63), ValueError),
        ((KEY, True, 1), TypeError),
        ((KEY, 1.0, 1), TypeError),
    ],
)
def test_bad_arguments(store: KeyStore, arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        store.lease_messages(*arguments)


@pytest.mark.parametrize(
    "edit",
    [
        f"UPDATE strongroom_leases SET spent = 1 WHERE key_id = '{KEY}'",
        f"DELETE FROM strongroom_leases WHERE key_id = '{KEY}'",
        "DELETE FROM strongroom_leases",
        f"UPDATE strongroom_leases SET key_id = '{'ef' * 16}' WHERE key_id = '{KEY}'",
    ],
)
def test_counts_changed_by_hand(place: Place, edit: str) -> None:
    with place.create() as store:
        store.lease_messages(KEY, 60, 100)
        store.lease_messages(OTHER, 60, 100)
        place.sql(edit)
        for call in (
            lambda: store.lease_messages(KEY, 1, 100),
            lambda: store.leased_messages(KEY),
            store.check,
        ):
            with pytest.raises(KeyStoreError, match="damaged"):
                call()


def test_a_count_put_back_by_itself(place: Place) -> None:
    with place.create() as store:
        store.lease_messages(KEY, 60, 100)
        (old,) = place.sql("SELECT spent, mac FROM strongroom_leases")
        store.lease_messages(KEY, 40, 100)
        place.sql("UPDATE strongroom_leases SET spent = ?, mac = ?", *old)
        with pytest.raises(KeyStoreError, match="damaged"):
            store.lease_messages(KEY, 1, 100)


def _take(url: str, key_file: str, barrier: Any, results: Any, sizes: list[int]) -> None:
    with KeyStore.open(url, FileMasterKey(key_file), busy_timeout=30) as store:
        barrier.wait()
        for size in sizes:
            try:
                results.put((os.getpid(), store.lease_messages(KEY, size, 1000)))
            except LimitError:
                results.put((os.getpid(), 0))
                return


def test_eight_processes(place: Place) -> None:
    """All of the limit is granted, to the last message, and none twice."""
    place.create().close()
    generator = seeded()
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(8), context.Queue()
    processes = []
    for _ in range(8):
        sizes = [generator.randrange(1, 60) for _ in range(40)]
        arguments = (place.url, str(place.directory / "master.key"), barrier, results, sizes)
        processes.append(context.Process(target=_take, args=arguments))
    for process in processes:
        process.start()
    granted, ended = [], 0
    while ended < 8:
        _, size = results.get(timeout=60)
        granted.append(size)
        ended += size == 0
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sum(granted) == 1000
    with place.open() as store:
        assert store.leased_messages(KEY) == 1000


def _take_for_ever(url: str, key_file: str, pipe: Any) -> None:
    with KeyStore.open(url, FileMasterKey(key_file), busy_timeout=30) as store:
        while True:
            pipe.send(store.lease_messages(KEY, 7, 2**32))


def test_killed_at_any_moment(place: Place) -> None:
    """What was acknowledged is in the store; at most one lease more is, of the one killed."""
    place.create().close()
    generator = seeded()
    context = multiprocessing.get_context("spawn")
    told = 0
    for kills in range(1, 6):
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(
            target=_take_for_ever, args=(place.url, str(place.directory / "master.key"), writer)
        )
        process.start()
        writer.close()
        for _ in range(generator.randrange(1, 30)):
            told += reader.recv()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while True:
            try:
                told += reader.recv()
            except EOFError:
                break
        with place.open() as store:
            spent = store.leased_messages(KEY)
            store.check()
        assert told <= spent <= told + 7 * kills
