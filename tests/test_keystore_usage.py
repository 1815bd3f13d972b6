"""Usage figures: what all processes did, by key; and keys that wait for their destruction."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
from keystore_help import Clock, Place, clock, place, store
from strongroom import (
    FileMasterKey,
    KeyNotFoundError,
    KeyStateError,
    KeyStore,
    VersionedEncryption,
    _native,
)
from strongroom.keys.database import Backoff
from strongroom.keys.usage import FLUSH_SECONDS

__all__ = ["clock", "place", "store"]


def test_messages_bytes_and_the_day(place: Place) -> None:
    with place.create() as store:
        key = store.get_current_key()
        assert store.usage_of(key.id) == (0, 0, 0, None)
        cipher = VersionedEncryption(store)
        messages = [cipher.encrypt(bytes(100)) for _ in range(5)]
        cipher.encrypt(bytes(100_000))
        cipher.decrypt_many(messages[:3])
        store.flush_usage()
        used = store.usage_of(key.id)
        assert used[:3] == (6, 100_500, 3)
        assert used.last_day is not None
        store.flush_usage()
        assert store.usage_of(key.id) == used
        new = store.rotate()
        cipher.encrypt(b"x")
    with place.open() as store:
        # Closing wrote it down.
        assert store.usage_of(new.id)[:3] == (1, 1, 0)
        assert store.usage_of(key.id) == used
        with pytest.raises(KeyNotFoundError):
            store.usage_of("00" * 16)


def test_two_handles_of_one_process_count_once(place: Place) -> None:
    with place.create() as one, place.open() as two:
        key = one.get_current_key()
        VersionedEncryption(one).encrypt(b"x")
        VersionedEncryption(two).encrypt(b"x")
        one.flush_usage()
        two.flush_usage()
        one.flush_usage()
        assert one.usage_of(key.id).messages == 2


def test_written_down_at_most_each_minute(place: Place, clock: Clock) -> None:
    with place.create() as store:
        key = store.get_current_key()
        cipher = VersionedEncryption(store)
        for seconds, told in ((0, 0), (FLUSH_SECONDS - 1, 0), (1, 2), (1, 2), (FLUSH_SECONDS, 4)):
            clock.seconds += seconds
            store.refresh()  # the next call reads the keyset
            cipher.encrypt(b"x")
            with place.open(read_only=True) as reader:
                assert reader.usage_of(key.id).messages == told


def test_a_busy_store_is_not_waited_for(place: Place, clock: Clock) -> None:
    with place.create(busy_timeout=60) as store:
        key = store.get_current_key()
        cipher = VersionedEncryption(store)
        cipher.encrypt(b"x")
        store.flush_usage()
        cipher.encrypt(b"x")
        clock.seconds += FLUSH_SECONDS + 1
        store.refresh()

        def held(transaction: Any) -> None:
            transaction.execute("SELECT * FROM strongroom_usage" + transaction.for_update)
            if place.kind == "sqlite":
                cipher.encrypt(b"x")

        store._database.write(held, lambda _: True)
        cipher.encrypt(b"x")
        store.flush_usage()
        assert store.usage_of(key.id).messages == (4 if place.kind == "sqlite" else 3)


def test_read_only_stores_write_nothing(place: Place) -> None:
    with place.create() as store:
        key = store.get_current_key()
        message = VersionedEncryption(store).encrypt(b"x")
        store.flush_usage()
        before = place.copy()
        with place.open(read_only=True) as reader:
            VersionedEncryption(reader).decrypt(message)
        assert place.copy() == before
        assert store.usage_of(key.id).opened == 0


def _use(url: str, key_file: str, count: int) -> None:
    with KeyStore.open(url, FileMasterKey(key_file), busy_timeout=30) as store:
        cipher = VersionedEncryption(store)
        for _ in range(count):
            cipher.encrypt(bytes(10))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_processes_add_up(place: Place, method: Any) -> None:
    with place.create() as store:
        VersionedEncryption(store).encrypt(bytes(10))
        key = store.get_current_key()
        context = multiprocessing.get_context(method)
        arguments = (place.url, str(place.directory / "master.key"), 50)
        processes = [context.Process(target=_use, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        store.flush_usage()
        assert store.usage_of(key.id)[:2] == (201, 2010)


def test_closing_waits_for_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, release = threading.Event(), threading.Event()
    again = Backoff.again

    def waits(self: Backoff) -> bool:
        release.set()
        return again(self)

    def work(transaction: Any) -> None:
        held.set()
        assert release.wait(30)

    place = Place(tmp_path)
    with place.create() as store:
        key = store.get_current_key()
        other = place.open()
        VersionedEncryption(other).encrypt(b"x")
        holder = threading.Thread(target=lambda: store._database.write(work, lambda _: True))
        holder.start()
        assert held.wait(30)
        monkeypatch.setattr(Backoff, "again", waits)
        other.close()
        holder.join()
        assert store.usage_of(key.id).messages == 1


def test_figures_are_figures(place: Place, store: KeyStore) -> None:
    """An edited row is seen, and stops nothing but its own showing."""
    cipher = VersionedEncryption(store)
    cipher.encrypt(b"x")
    store.flush_usage()
    place.sql("UPDATE strongroom_usage SET messages = 7")
    cipher.encrypt(b"x")
    with pytest.raises(Exception, match="damaged"):
        store.usage_of(store.get_current_key().id)
    place.sql("DELETE FROM strongroom_usage")
    store.check()
    assert _native.tally_snapshot()


def test_waiting_for_destruction(store: KeyStore, clock: Clock) -> None:
    cipher = VersionedEncryption(store)
    message = cipher.encrypt(b"value")
    key = store.get_current_key()
    with pytest.raises(KeyStateError, match="primary"):
        store.schedule_destruction(key.id)
    store.rotate()
    waiting = store.schedule_destruction(key.id, after_seconds=3600, reason="tenant left")
    assert waiting.state == "deactivated"
    assert waiting.destroy_after is not None
    assert waiting.destroy_after.timestamp() == clock.seconds + 3600
    # Until then it decrypts, as ever.
    assert cipher.decrypt(message) == b"value"
    clock.seconds += 3599
    assert store.due().destroy == []
    assert store.destroy_due() == ([], [])
    clock.seconds += 1
    assert store.due().destroy == [key]
    assert store.stats()["due_destructions"] == 1
    assert store.destroy_due() == ([key], [])
    gone = store.get_key(key.id)
    assert (gone.state, gone.reason, gone.destroy_after) == ("destroyed", "tenant left", None)
    with pytest.raises(KeyStateError, match="destroyed on"):
        store.cancel_destruction(key.id)


def test_taken_back(store: KeyStore, clock: Clock) -> None:
    key = store.get_current_key()
    store.rotate()
    store.schedule_destruction(key.id, after_seconds=10)
    for _ in range(2):
        assert store.cancel_destruction(key.id).destroy_after is None
    clock.seconds += 400
    assert store.destroy_due() == ([], [])
    assert store.get_key(key.id).state == "deactivated"


def test_what_is_to_be_destroyed_is_no_primary(store: KeyStore) -> None:
    waiting = store.generate_new_key()
    store.schedule_destruction(waiting.id)
    with pytest.raises(KeyStateError, match="undestroy"):
        store.activate_key(waiting.id)
    first = store.get_current_key()
    store.suspend_key(first.id)
    store.schedule_destruction(first.id)
    with pytest.raises(KeyStateError, match="undestroy"):
        store.resume_key(first.id)
    store.cancel_destruction(first.id)
    assert store.resume_key(first.id).state == "active"


def test_what_is_needed_waits_on(store: KeyStore, clock: Clock) -> None:
    key = store.get_current_key()
    store.rotate()
    store.schedule_destruction(key.id, after_seconds=0)
    # At once would be too early: another process may encrypt under its cached copy.
    assert store.due().destroy == [key]
    done, refused = store.destroy_due()
    assert done == []
    assert [error.key_id for error in refused] == [key.id]
    clock.seconds += 301
    store.register_use(key.id, "archive")
    assert store.destroy_due()[0] == []
    with pytest.raises(KeyStateError, match="archive"):
        store.schedule_destruction(key.id)
    store.unregister_use(key.id, "archive")
    assert store.destroy_due() == ([key], [])


@pytest.mark.parametrize(
    ("after", "error"),
    [(-1, ValueError), (1.5, TypeError), (True, TypeError), (10**12, ValueError)],
)
def test_times_that_are_none(store: KeyStore, after: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        store.schedule_destruction(store.generate_new_key().id, after_seconds=after)
