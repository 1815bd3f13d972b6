"""Many processes on one store: rotating at once, killed in the middle, forked, without rights."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keystore_help import Place, place, seeded
from process_help import NOBODY, in_a_child
from strongroom import (
    FileMasterKey,
    KeyStore,
    KeyStoreBusyError,
    KeyStoreError,
    MasterKeyError,
    PassphraseMasterKey,
    VersionedEncryption,
)

__all__ = ["place"]

ROTATORS = 8
WRITERS = 4
ROTATIONS = 5  # each, in `make test`; 50 in `make sweep`
KILLS = 25  # in `make test`; 200 in `make sweep`


def _open(url: str, key_file: str, **options: Any) -> KeyStore:
    return KeyStore.open(url, FileMasterKey(key_file), **options)


def _rotate(url: str, key_file: str, count: int, start: Any, results: Any) -> None:
    with _open(url, key_file, busy_timeout=30) as store:
        start.wait()
        results.put([store.rotate().id for _ in range(count)])


def _rotate_impatiently(url: str, key_file: str, count: int, start: Any, results: Any) -> None:
    made, refused = [], 0
    with _open(url, key_file, busy_timeout=0) as store:
        start.wait()
        for _ in range(count):
            try:
                made.append(store.rotate().id)
            except KeyStoreBusyError:
                refused += 1
    results.put((made, refused))


def _write(url: str, key_file: str, start: Any, stop: Any, results: Any) -> None:
    with _open(url, key_file, busy_timeout=30, cache_seconds=0) as store:
        cipher = VersionedEncryption(store)
        start.wait()
        messages = [cipher.encrypt(b"value")]
        while not stop.is_set():
            messages.append(cipher.encrypt(b"value"))
        results.put(messages)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_rotating_at_once(place: Place, method: str) -> None:
    _rotating_at_once(place, method, ROTATIONS)


@pytest.mark.sweep
def test_fifty_rotations_each(place: Place) -> None:
    _rotating_at_once(place, "spawn", 50)


def test_without_waiting(place: Place) -> None:
    """With a busy timeout of 0: done, or cleanly refused; and what was acknowledged is there."""
    context: Any = multiprocessing.get_context("spawn")
    place.create().close()
    start, rotated = context.Barrier(ROTATORS), context.Queue()
    arguments = (place.url, place.master.path, 20, start, rotated)
    processes = [
        context.Process(target=_rotate_impatiently, args=arguments) for _ in range(ROTATORS)
    ]
    for process in processes:
        process.start()
    answers = [rotated.get(timeout=120) for _ in range(ROTATORS)]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    ids = [key_id for made, _ in answers for key_id in made]
    assert len(set(ids)) == len(ids) >= 1
    assert sum(refused for _, refused in answers) > 0
    with place.open() as store:
        assert {key.id for key in store.list_keys()[1:]} == set(ids)
        assert [k.generation for k in store.list_keys()] == list(range(1, len(ids) + 2))
        store.check()


def test_one_rotator_is_killed(place: Place) -> None:
    """The lock of a dead process is given back, and what it had acknowledged is kept."""
    context: Any = multiprocessing.get_context("spawn")
    place.create().close()
    random = seeded()
    start, rotated = context.Barrier(ROTATORS), context.Queue()
    arguments = (place.url, place.master.path)
    command = [sys.executable, "-c", CHURN, *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    processes = [
        context.Process(target=_rotate, args=(*arguments, ROTATIONS, start, rotated))
        for _ in range(ROTATORS - 1)
    ]
    for process in processes:
        process.start()
    with child:
        assert child.stdout is not None
        told = [child.stdout.readline().strip() for _ in range(random.randrange(3, 12))]
        start.wait()
        child.kill()
        told += child.stdout.read().split()
    ids = [key_id for _ in processes for key_id in rotated.get(timeout=120)]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    with place.open() as store:
        there = {key.id for key in store.list_keys()}
        assert set(ids) | set(told) <= there
        store.check()


def _rotating_at_once(place: Place, method: str, count: int) -> None:
    context: Any = multiprocessing.get_context(method)
    arguments = (place.url, place.master.path)
    place.create().close()
    start = context.Barrier(ROTATORS + WRITERS)
    stop = context.Event()
    rotated, written = context.Queue(), context.Queue()
    processes = [
        *(
            context.Process(target=_rotate, args=(*arguments, count, start, rotated))
            for _ in range(ROTATORS)
        ),
        *(
            context.Process(target=_write, args=(*arguments, start, stop, written))
            for _ in range(WRITERS)
        ),
    ]
    for process in processes:
        process.start()
    try:
        ids = [key_id for _ in range(ROTATORS) for key_id in rotated.get(timeout=300)]
        stop.set()
        messages = [m for _ in range(WRITERS) for m in written.get(timeout=120)]
    finally:
        stop.set()
        for process in processes:
            process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    assert len(set(ids)) == ROTATORS * count
    with place.open() as store:
        keys = store.list_keys()
        assert [key.generation for key in keys] == list(range(1, ROTATORS * count + 2))
        assert {key.id for key in keys[1:]} == set(ids)
        assert [key.state for key in keys] == ["deactivated"] * (len(keys) - 1) + ["active"]
        cipher = VersionedEncryption(store)
        assert set(cipher.decrypt_many(messages)) == {b"value"}
        store.check()


def test_one_rotation_for_all_who_expect_the_same_primary(place: Place) -> None:
    context = multiprocessing.get_context("fork")
    with place.create() as store:
        first = store.get_current_key()
    results = context.Queue()

    def work() -> None:
        with _open(place.url, place.master.path, busy_timeout=30) as store:
            results.put(store.rotate(expected=first.id).id)

    processes = [context.Process(target=work) for _ in range(6)]
    for process in processes:
        process.start()
    ids = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
    with place.open() as store:
        assert ids == {store.get_current_key().id}
        assert len(store.list_keys()) == 2


CHURN = """
import sys
from strongroom import FileMasterKey, KeyStore
with KeyStore.open(sys.argv[1], FileMasterKey(sys.argv[2]), cache_seconds=0) as store:
    while True:
        key = store.rotate()
        print(key.id, flush=True)
        new = store.generate_new_key()
        print(new.id, flush=True)
        store.activate_key(new.id)
        store.destroy_key(key.id, force=True)
"""


def test_killed_at_any_moment(place: Place) -> None:
    _killed_at_any_moment(place, KILLS)


@pytest.mark.sweep
def test_killed_at_many_moments(place: Place) -> None:
    _killed_at_any_moment(place, 200)


def _killed_at_any_moment(place: Place, kills: int) -> None:
    """What was acknowledged is there; the store is sound; one primary; the next goes on."""
    with place.create() as store:
        message = VersionedEncryption(store).encrypt(b"value")
    random = seeded()
    acknowledged: list[str] = []
    for _ in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-c", CHURN, place.url, place.master.path],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        acknowledged.append(child.stdout.readline().strip())
        # Some rotations take place in this time, and then one is torn.
        time.sleep(random.uniform(0, 0.03))
        child.kill()
        acknowledged += child.stdout.read().split("\n")[:-1]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        with place.open(busy_timeout=30) as store:
            keys = {key.id: key for key in store.list_keys()}
            states = [key.state for key in keys.values()]
            assert states.count("active") == 1
            assert set(acknowledged) <= keys.keys()
            assert VersionedEncryption(store).decrypt(message) == b"value"
            store.check()
    assert len(acknowledged) > kills


CREATE = """
import sys
from strongroom import FileMasterKey, KeyStore
master = FileMasterKey(sys.argv[2])
print("ready", flush=True)
KeyStore.create(sys.argv[1], master).close()
"""


def test_killed_while_creating(tmp_path: Path) -> None:
    """The store is there and whole, or not there."""
    random = seeded()
    there = 0
    for number in range(KILLS):
        place = Place(tmp_path).other(str(number)) if number else Place(tmp_path)
        child = subprocess.Popen(
            [sys.executable, "-c", CREATE, place.url, place.master.path], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(random.uniform(0, 0.04))
        child.kill()
        child.wait()
        child.stdout.close()
        (tmp_path / "master.key").unlink(missing_ok=True)
        if place.path.exists():
            there += 1
            place.open().close()
        else:
            place.create().close()
    print(f"{there} of {KILLS} were made before the kill")


def test_a_forked_child(place: Place) -> None:
    with place.create() as store:
        cipher = VersionedEncryption(store)
        message = cipher.encrypt(b"value")
        key = store.get_current_key()

        def child() -> None:
            for call in (
                store.get_current_key,
                store.list_keys,
                store.rotate,
                store.refresh,
                store.keysets,
                store.check,
                store.__enter__,
                lambda: store.get_key(key.id),
                lambda: store._keyring("default"),
                lambda: cipher.decrypt(message),
                lambda: cipher.encrypt(b"value"),
            ):
                with pytest.raises(KeyStoreError, match="open it again"):
                    call()
            with pytest.raises(TypeError, match="open it again in the child"):
                pickle.dumps(store)
            assert repr(store)
            store.close()
            with pytest.raises(MasterKeyError, match="open it again"):
                place.open()
            with _open(place.url, place.master.path) as own:
                assert VersionedEncryption(own).decrypt(message) == b"value"
                own.rotate()

        in_a_child(child)
        assert cipher.decrypt(message) == b"value"
        store.refresh()
        assert store.get_current_key().generation == 2
        assert store.rotate().generation == 3


def test_a_forked_child_that_drops_everything(place: Place) -> None:
    """The parent's transaction outlives a child that closes, collects and exits as usual."""
    with place.create() as store:
        inside, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            def wait(transaction: Any) -> None:
                transaction.execute("UPDATE strongroom_keysets SET created = created")
                inside.set()
                go_on.wait()

            store._database.write(wait, lambda _: True)

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()

        def child() -> None:
            store.close()
            store.__dict__.clear()
            gc.collect()

        in_a_child(child)
        # The lock still is the parent's.
        with (
            KeyStore.open(place.url, place.master, busy_timeout=0.1) as other,
            pytest.raises(KeyStoreError, match="locked"),
        ):
            other.rotate()
        go_on.set()
        thread.join()
        assert store.rotate().generation == 2
        store.check()


def test_inherited_connections_are_never_closed(tmp_path: Path) -> None:
    """SQLite must not be called for them in the child, not even by the collector."""
    place = Place(tmp_path)
    store = place.create()
    store.list_keys()

    def child() -> None:
        before = _open_files(place)
        assert before > 0
        store.close()
        store.__dict__.clear()
        gc.collect()
        assert _open_files(place) == before

    in_a_child(child)
    store.close()


def _open_files(place: Place) -> int:
    links = Path("/proc/self/fd").iterdir()
    names = [os.readlink(link) for link in links if link.is_symlink()]
    return sum(name.startswith(str(place.path)) for name in names)


def test_a_child_that_exits_by_the_interpreter_s_end(place: Place) -> None:
    """A whole interpreter's end, where module globals are freed, beside a parent that goes on."""
    place.create().close()
    script = """
import os, sys
from strongroom import FileMasterKey, KeyStore
store = KeyStore.open(sys.argv[1], FileMasterKey(sys.argv[2]))
store.rotate()
pid = os.fork()
if pid == 0:
    try:
        store.rotate()
    except Exception as error:
        print(type(error).__name__)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert store.rotate().generation == 3
store.check()
print("parent ok")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, place.url, place.master.path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:2] == ["KeyStoreError", "parent ok"], done.stderr
    assert done.stderr == ""


def test_masters_in_a_forked_child(tmp_path: Path) -> None:
    place = Place(tmp_path)
    phrase = PassphraseMasterKey("correct horse")
    KeyStore.create(place.url, phrase).close()

    def child() -> None:
        with pytest.raises(MasterKeyError, match="open it again"):
            KeyStore.open(place.url, phrase)
        KeyStore.open(place.url, PassphraseMasterKey("correct horse")).close()

    in_a_child(child)
    KeyStore.open(place.url, phrase).close()


# What is particular to SQLite files: rights. Root passes over modes, so a child drops its uid.


@pytest.fixture
def shared() -> Iterator[Place]:
    """A store in a directory of its own, of another user where this is root."""
    # pytest's own directories let no other user through.
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "store").mkdir()
        place = Place(directory / "store")
        place.create().close()
        key_file = directory / "master.key"
        key_file.write_bytes(Path(place.master.path).read_bytes())
        key_file.chmod(0o600)
        directory.chmod(0o755)
        if os.getuid() == 0:
            for path in (directory / "store", place.path, key_file):
                os.chown(path, NOBODY, NOBODY)
        yield place
        place.directory.chmod(0o700)


def _use_as_nobody(place: Place) -> str:
    """Open and rotate in a child that is not root, and return what came of it."""
    results = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            with _open(place.url, str(place.directory.parent / "master.key")) as store:
                store.list_keys()
                store.rotate()
            results.put("rotated")
        except (KeyStoreError, OSError) as error:
            results.put(f"{type(error).__name__}: {error}")

    in_a_child(child)
    return str(results.get())


def test_with_all_rights(shared: Place) -> None:
    assert _use_as_nobody(shared) == "rotated"


@pytest.mark.parametrize(
    ("file_mode", "directory_mode"), [(0o400, 0o700), (0o600, 0o500), (0o400, 0o500)]
)
def test_without_the_right_to_write(shared: Place, file_mode: int, directory_mode: int) -> None:
    before = shared.path.read_bytes()
    shared.path.chmod(file_mode)
    shared.directory.chmod(directory_mode)
    said = _use_as_nobody(shared)
    assert said.startswith("KeyStoreError")
    assert "read-only" in said or "must be able to read and write" in said
    assert shared.path.read_bytes() == before


def test_without_the_right_to_read(shared: Place) -> None:
    shared.path.chmod(0)
    assert _use_as_nobody(shared).startswith("KeyStoreError")


WATCH = """
import sys, time
from strongroom import FileMasterKey, KeyStateError, KeyStore, VersionedEncryption
url, key_file, seconds = sys.argv[1:]
with KeyStore.open(url, FileMasterKey(key_file), cache_seconds=float(seconds)) as store:
    cipher = VersionedEncryption(store)
    message = cipher.encrypt(b"value")
    print("ready", flush=True)
    while True:
        try:
            cipher.decrypt(message)
        except KeyStateError as error:
            print(time.clock_gettime(time.CLOCK_MONOTONIC), error.state, flush=True)
            break
"""


def test_a_change_of_state_elsewhere_is_honoured_in_time(place: Place) -> None:
    """Another process decrypts all the while; within its cache time it does so no more."""
    with place.create() as store:
        seconds = 1.0
        command = [sys.executable, "-c", WATCH, place.url, str(place.master.path), str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            store.suspend_key(store.get_current_key().id)
            changed = time.clock_gettime(time.CLOCK_MONOTONIC)
            noticed, state = child.stdout.readline().split()
            assert child.wait() == 0
        assert state == "suspended"
        # Half as much again for a machine that does other things.
        assert float(noticed) - changed < 1.5 * seconds + 1
