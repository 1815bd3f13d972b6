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

import pytest
from keystore_help import seeded
from strongroom import FileMasterKey, KeyStore, VersionedEncryption
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
CALLS = "pwrite64,fsync,fdatasync,ftruncate,unlink,link,linkat"
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

    def trace(self, operation: str) -> list[str]:
        """The calls of an operation that goes through, as strace shows them."""
        self.reset(operation)
        assert self.run(operation, "-x", "-s", "99999", "-e", f"trace={CALLS},openat") == "done"
        self.shapes[operation] = self._before(operation), self.shape()
        return [line for line in self.calls() if str(self.work) in line]

    def calls(self) -> list[str]:
        """What strace saw, a call a line.

        It splits a call in two where another thread made one meanwhile; that call counts where it
        ended.
        """
        found, begun = [], {}
        for line in (self.directory / "log").read_text().splitlines():
            process, _, text = line.partition(" ")
            if text.endswith(" <unfinished ...>"):
                begun[process] = line.removesuffix(" <unfinished ...>")
            elif match := re.match(r" *<\.\.\. \w+ resumed>(.*)", text):
                found.append(begun.pop(process) + match[1])
            else:
                found.append(line)
        return found

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
    for line in bench.trace(operation):
        if match := re.match(r"\d+ +(\w+)\(", line):
            counts[match[1]] = counts.get(match[1], 0) + 1
    counts.pop("openat", None)
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


class Disk:
    """What files hold and what of it is durable, as calls are replayed."""

    def __init__(self, origin: Path, work: Path) -> None:
        self.work = work
        # By path: the durable bytes, and the writes since the last sync of the file.
        self.files: dict[str, bytearray] = {}
        self.pending: dict[str, list[tuple[int, bytes | None]]] = {}
        # Names that are durable; names made or taken away since the directory's last sync.
        self.named: set[str] = set()
        self.renamed: list[tuple[str, str | None]] = []
        for path in origin.iterdir():
            name = f"{work}/{path.name}"
            self.files[name] = bytearray(path.read_bytes())
            self.named.add(name)
        # A hard link is one file under two names.
        self.links: dict[str, str] = {}

    def _file(self, path: str) -> str:
        return self.links.get(path, path)

    def replay(self, line: str) -> bool:
        """Take one call in; whether it was one that changes something."""
        if match := re.search(r'pwrite64\(\d+<(.*?)>, "((?:\\x..)*)", \d+, (\d+)\) = \d', line):
            data = bytes.fromhex(match[2].replace("\\x", ""))
            self.pending.setdefault(self._file(match[1]), []).append((int(match[3]), data))
        elif match := re.search(r"ftruncate\(\d+<(.*?)>, (\d+)\) = 0", line):
            self.pending.setdefault(self._file(match[1]), []).append((int(match[2]), None))
        elif match := re.search(r"f(?:data)?sync\(\d+<(.*?)>\) = 0", line):
            if match[1] == str(self.work):
                for name, what in self.renamed:
                    self.named.discard(name) if what is None else self.named.add(name)
                self.renamed.clear()
            else:
                name = self._file(match[1])
                held = self.files.setdefault(name, bytearray())
                for write in self.pending.pop(name, []):
                    _apply(held, *write)
        elif match := re.search(r'openat\(.*, "(.*?)", (\S*O_CREAT\S*), .*\) = \d', line):
            name = _text(match[1])
            if name not in self.files:
                self.files[name] = bytearray()
                self.renamed.append((name, name))
        elif match := re.search(r'link(?:at)?\(.*?"(.*?)".*?"(.*?)".*\) = 0', line):
            old, new = _text(match[1]), _text(match[2])
            self.links[new] = self._file(old)
            self.renamed.append((new, new))
        elif match := re.search(r'unlink\("(.*?)"\) = 0', line):
            self.renamed.append((_text(match[1]), None))
        else:
            return False
        return True

    def crash(self, generator: random.Random) -> dict[str, bytes]:
        """What the disk may hold if the power goes now, by name."""
        names = set(self.named)
        for name, what in self.renamed:
            if generator.random() < 0.5:
                names.discard(name) if what is None else names.add(name)
        state = {}
        for name in names:
            # The index of a WAL is made anew.
            if name.endswith("-shm"):
                continue
            file = self._file(name)
            data = bytearray(self.files.get(file, b""))
            for at, written in self.pending.get(file, []):
                kind = generator.choice(["kept", "dropped", "torn", "garbage"])
                if kind == "dropped":
                    continue
                if written is None or kind == "kept":
                    _apply(data, at, written)
                    continue
                cut = generator.randrange(0, len(written) + 1, 512)
                _apply(data, at, written[:cut])
                if kind == "garbage":
                    end = min(len(written), cut + 512)
                    _apply(data, at + cut, generator.randbytes(end - cut))
            state[name] = bytes(data)
        return state


def _apply(data: bytearray, at: int, written: bytes | None) -> None:
    if written is None:
        del data[at:]
        return
    if len(data) < at:
        data.extend(bytes(at - len(data)))
    data[at : at + len(written)] = written


def _text(quoted: str) -> str:
    return bytes.fromhex(quoted.replace("\\x", "")).decode() if "\\x" in quoted else quoted


def _lose_power(bench: Bench, operation: str, states: int, generator: random.Random) -> None:
    calls = bench.trace(operation)
    before, after = bench.shapes[operation]
    origin = bench.directory / "origin"
    empty = bench.directory / "empty"
    empty.mkdir(exist_ok=True)
    seen = set()
    for _ in range(states):
        disk = Disk(empty if operation == "create" else origin, bench.work)
        stop = generator.randrange(len(calls) + 1)
        changes = sum(disk.replay(line) for line in calls[:stop])
        bench.reset("create")
        for name, data in disk.crash(generator).items():
            Path(name).write_bytes(data)
        found = bench.shape()
        assert found in (before, after), f"{operation}: power lost after {changes} calls"
        seen.add(found)
        if stop == len(calls):
            assert found == after
    assert seen <= {before, after}


def test_power_lost_at_some_moments(bench: Bench) -> None:
    generator = seeded()
    for operation in OPERATIONS:
        _lose_power(bench, operation, 15, generator)


@pytest.mark.sweep
@pytest.mark.parametrize("operation", OPERATIONS)
def test_power_lost(bench: Bench, operation: str) -> None:
    _lose_power(bench, operation, 2000, seeded())


def test_what_was_acknowledged_survives_the_power(bench: Bench) -> None:
    """All calls made up to the answer, and none after: the change is there in every state."""
    generator = seeded()
    for operation in OPERATIONS:
        bench.reset(operation)
        said = bench.run(
            operation, "-x", "-s", "99999", "-e", f"trace={CALLS},openat,write", "-e", "signal=none"
        )
        assert said == "done"
        lines = bench.calls()
        answer = next(n for n, line in enumerate(lines) if re.search(r" write\(1<", line))
        calls = [line for line in lines[:answer] if str(bench.work) in line]
        bench.trace(operation)
        _, after = bench.shapes[operation]
        empty = bench.directory / "empty"
        empty.mkdir(exist_ok=True)
        for _ in range(8):
            disk = Disk(empty if operation == "create" else bench.origin, bench.work)
            for line in calls:
                disk.replay(line)
            bench.reset("create")
            for name, data in disk.crash(generator).items():
                Path(name).write_bytes(data)
            assert bench.shape() == after, operation
