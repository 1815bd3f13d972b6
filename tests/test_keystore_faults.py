"""R8: killed at file calls, a disk that fails, power lost: the store is the old or the new one.

SQLite files alone: a server's durability is the server's. `make sweep` takes every point.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import power_strace
import pytest
from keystore_help import seeded
from power import Disk, files_in
from power_strace import Trace, says_something
from strongroom import FileMasterKey, KeyStore, StrongroomError, VersionedEncryption
from strongroom.keys.base import _SEEN

WORK = """
import sys
from strongroom import FileMasterKey, KeyStore, StrongroomError
url, key_file, operation = sys.argv[1:]
try:
    if operation == "create":
        KeyStore.create(url, FileMasterKey(key_file)).close()
        print("done", flush=True)
        sys.exit()
    with KeyStore.open(url, FileMasterKey(key_file)) as store:
        first = store.get_current_key()
        spare = next((key for key in store.list_keys() if key.state == "deactivated"), None)
        waiting = next((key for key in store.list_keys() if key.state == "pre-active"), None)
        {
            "add": store.generate_new_key,
            "activate": lambda: store.activate_key(waiting.id),
            "keyset": lambda: store.create_keyset("new"),
            "rotate": store.rotate,
            "compromise": lambda: store.compromise_key(first.id, rotate=True),
            "suspend": lambda: store.suspend_key(spare.id),
            "destroy": lambda: store.destroy_key(spare.id, force=True),
            "destroy keyset": lambda: store.destroy_keyset("tenant"),
            "lease": lambda: store.lease_messages("ab" * 16, 10, 100),
            "master": lambda: store.remove_master(store.masters()[1].key_id),
        }[operation]()
        print("done", flush=True)
except (StrongroomError, OSError) as error:
    print("failed", type(error).__name__, flush=True)
"""
OPERATIONS = (
    "create",
    "add",
    "activate",
    "keyset",
    "rotate",
    "compromise",
    "suspend",
    "destroy",
    "destroy keyset",
    "lease",
    "master",
)
CALLS = ("pwrite64", "fsync", "fdatasync", "ftruncate", "unlink", "link", "linkat")
Shape = tuple[object, ...]


class Bench:
    """A store as it was before an operation, as often as it is wanted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.origin = directory / "origin"
        self.work = directory / "work"
        self.origin.mkdir()
        self.master = FileMasterKey.create(directory / "master.key")
        self.second = FileMasterKey.create(directory / "second.key")
        with KeyStore.create(f"sqlite:///{self.origin}/keys.db", self.master) as store:
            self.messages = [VersionedEncryption(store).encrypt(b"value")]
            self.old = store.get_current_key().id
            store.rotate()
            self.messages.append(VersionedEncryption(store).encrypt(b"value"))
            store.generate_new_key()
            store.create_keyset("tenant")
            store.add_master(self.second, recovery=True)
            self.root = store._root_id
        self.shapes: dict[str, tuple[Shape, Shape]] = {}

    @property
    def url(self) -> str:
        return f"sqlite:///{self.work}/keys.db"

    def reset(self, operation: str) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        if operation == "create":
            self.work.mkdir()
        else:
            shutil.copytree(self.origin, self.work)

    def run(self, operation: str, *options: str) -> str:
        """Do the operation in a process of its own; return what it said."""
        command = [sys.executable, "-c", WORK, self.url, str(self.master.path), operation]
        if options:
            command = ["strace", "-f", "-y", "-o", f"{self.directory}/log", *options, *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout.strip()

    def trace(self, operation: str) -> Trace:
        """The calls of an operation that goes through, as strace shows them."""
        self.reset(operation)
        assert self.run(operation, *power_strace.OPTIONS) == "done"
        trace = Trace.read(self.directory / "log", self.work)
        # No call that changed something was passed over.
        replayed = trace.disk(len(trace.lines), self.files_before(operation))
        assert replayed.content() == files_in(self.work)
        self.shapes[operation] = self._before(operation), self.shape()
        return trace

    def files_before(self, operation: str) -> dict[str, bytes]:
        return {} if operation == "create" else files_in(self.origin)

    def _before(self, operation: str) -> Shape:
        after = self.work.rename(self.directory / "after")
        self.reset(operation)
        before = self.shape()
        shutil.rmtree(self.work)
        after.rename(self.work)
        return before

    def shape(self) -> Shape:
        """What there is, without the names of new keys; the store is checked as a whole."""
        _SEEN.forget(self.root)
        if not (self.work / "keys.db").exists():
            return ("nothing",)
        with KeyStore.open(self.url, self.master) as store:
            store.check()
            keys = [(k.keyset, k.generation, k.state) for k in store.list_keys()]
            masters = len(store.masters())
            leased = store.leased_messages("ab" * 16)
            if store._root_id == self.root:
                cipher = VersionedEncryption(store)
                for message in self.messages:
                    if store.get_key(cipher_key(message)).state in ("active", "deactivated"):
                        assert cipher.decrypt(message) == b"value"
            store._given.clear()
            _SEEN.forget(store._root_id)
            return (*keys, masters, leased)

    def judge(self, operation: str, said: str, what: str) -> None:
        before, after = self.shapes[operation]
        found = self.shape()
        assert found in (before, after), what
        if said == "done":
            assert found == after, what
        # What is left behind stops nobody.
        if operation != "create":
            assert self.run("rotate") == "done"


def cipher_key(message: bytes) -> str:
    return message[4:20].hex()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"))


def points(bench: Bench, operation: str) -> Iterator[tuple[str, int]]:
    counts: dict[str, int] = {}
    for line in bench.trace(operation).lines:
        match = re.match(r"\d+ +(\w+)\(", line)
        if match and match[1] in CALLS:
            counts[match[1]] = counts.get(match[1], 0) + 1
    assert counts["pwrite64"] > 3
    assert counts.get("fsync", 0) + counts.get("fdatasync", 0) > 0
    for call, count in counts.items():
        for when in range(1, count + 1):
            yield call, when


def _paths(bench: Bench) -> list[str]:
    names = ("", "/keys.db", "/keys.db-wal", "/keys.db-shm", "/keys.db-journal")
    return [word for name in names for word in ("-P", f"{bench.work}{name}")]


def _kill(bench: Bench, operation: str, call: str, when: int) -> None:
    bench.reset(operation)
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}")
    # Creating goes through a temporary name, which -P can't know.
    said = bench.run(operation, *(() if operation == "create" else _paths(bench)), *inject)
    bench.judge(operation, said, f"{operation}: killed at {call} {when}")


def _fail(bench: Bench, operation: str, call: str, when: int, how: str) -> None:
    bench.reset(operation)
    error = "ENOSPC" if call == "pwrite64" else "EIO"
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}{how}")
    said = bench.run(operation, *(() if operation == "create" else _paths(bench)), *inject)
    assert said == "done" or re.fullmatch(r"failed (KeyStore(Busy)?Error|OSError)", said), said
    bench.judge(operation, said, f"{operation}: {error} at {call} {when}{how}")


def test_killed_and_failing_at_some_calls(bench: Bench) -> None:
    generator = seeded()
    for operation in OPERATIONS:
        every = list(points(bench, operation))
        call, when = generator.choice(every)
        _kill(bench, operation, call, when)
        failing = [point for point in every if point[0] in ("pwrite64", "fsync", "fdatasync")]
        call, when = generator.choice(failing)
        _fail(bench, operation, call, when, generator.choice(["", "+"]))


@pytest.mark.sweep
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_every_call(bench: Bench, operation: str) -> None:
    for call, when in list(points(bench, operation)):
        _kill(bench, operation, call, when)


@pytest.mark.sweep
@pytest.mark.parametrize("how", ["", "+"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_call_fails(bench: Bench, operation: str, how: str) -> None:
    for call, when in list(points(bench, operation)):
        if call in ("pwrite64", "fsync", "fdatasync"):
            _fail(bench, operation, call, when, how)


# --- Power lost.


def _shape_after_a_crash(bench: Bench, disk: Disk, generator: random.Random) -> Shape:
    bench.reset("create")
    for name, data in disk.crash(generator).items():
        (bench.work / name).write_bytes(data)
    return bench.shape()


def _lose_power(bench: Bench, operation: str, states: int, generator: random.Random) -> None:
    trace = bench.trace(operation)
    before, after = bench.shapes[operation]
    files = bench.files_before(operation)
    for _ in range(states):
        stop = generator.randrange(len(trace.lines) + 1)
        found = _shape_after_a_crash(bench, trace.disk(stop, files), generator)
        said = any(map(says_something, trace.lines[:stop]))
        allowed = (after,) if said or stop == len(trace.lines) else (before, after)
        assert found in allowed, f"{operation}: power lost after {stop} calls"


def _lose_power_after_the_answer(
    bench: Bench, operation: str, trace: Trace, states: int, generator: random.Random
) -> None:
    """All calls made up to the answer, and none after: the change is there in every state."""
    _, after = bench.shapes[operation]
    answer = next(n for n, line in enumerate(trace.lines) if says_something(line))
    files = bench.files_before(operation)
    for _ in range(states):
        found = _shape_after_a_crash(bench, trace.disk(answer, files), generator)
        assert found == after, operation


def test_power_lost_at_some_moments(bench: Bench) -> None:
    generator = seeded()
    for operation in OPERATIONS:
        _lose_power(bench, operation, 15, generator)


@pytest.mark.sweep
@pytest.mark.parametrize("operation", OPERATIONS)
def test_power_lost(bench: Bench, operation: str) -> None:
    _lose_power(bench, operation, 2000, seeded())


def test_what_was_acknowledged_survives_the_power(bench: Bench) -> None:
    generator = seeded()
    for operation in OPERATIONS:
        trace = bench.trace(operation)
        _lose_power_after_the_answer(bench, operation, trace, 8, generator)


@pytest.mark.parametrize("operation", ["create", "rotate"])
def test_the_replay_finds_a_missing_sync(bench: Bench, operation: str) -> None:
    """Without the syncs of the store's files a change that was acknowledged is lost."""
    trace = bench.trace(operation)
    lines = [line for line in trace.lines if " fdatasync(" not in line and " fsync(" not in line]
    with pytest.raises((AssertionError, StrongroomError)):
        _lose_power_after_the_answer(bench, operation, Trace(trace.folder, lines), 50, seeded())
