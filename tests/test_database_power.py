"""Power that fails in a rotation: its file calls replayed with what was unsynced lost.

Of each file the writes since its last fsync are kept, dropped or torn at 512 bytes (garbage only
inside the range that was written); of the directory the names since its last fsync. A sample in
`make test`; in `make sweep` at least 2,000 states of each mode.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest
from database_help import MODES
from fault_help import (
    CREATE,
    RENAME,
    SYNC,
    TRUNCATE,
    UNLINK,
    WRITE,
    Call,
    Faults,
    fresh,
    read_log,
)
from keystore_help import seeded
from test_database_faults import LEFT, LIBRARY, after, dead, faults, memory, place, templates

__all__ = ["dead", "faults", "memory", "place", "templates"]

SECTOR = 512
STATES = 2000
# SQLite makes it anew, and it is mapped, so that no call writes it.
TRANSIENT = "-shm"


class Disk:
    """What a disk may hold at any moment of a recorded run."""

    def __init__(self, directory: Path, log: list[Call], inodes: dict[int, str]) -> None:
        self.base = {name: (directory / name).read_bytes() for name in inodes.values()}
        self.steps: list[tuple[str, object, int, bytes]] = []
        objects: dict[int, str] = dict(inodes)
        made = 0
        for call in log:
            name = Path(call.path).name
            if name.endswith(TRANSIENT):
                continue
            if call.kind == CREATE:
                made += 1
                objects[call.inode] = f"#{made}"
                self.steps.append(("name", (name, f"#{made}"), 0, b""))
            elif call.kind == RENAME:
                self.steps.append(("rename", (name, Path(call.second).name), 0, b""))
            elif call.kind == UNLINK:
                self.steps.append(("unlink", (name,), 0, b""))
            elif call.kind == SYNC and call.path == str(directory):
                self.steps.append(("sync names", (), 0, b""))
            elif call.kind == SYNC:
                self.steps.append(("sync", objects[call.inode], 0, b""))
            elif call.kind == TRUNCATE:
                self.steps.append(("size", objects[call.inode], call.offset, b""))
            elif call.kind == WRITE:
                self.steps.append(("data", objects[call.inode], call.offset, call.data))

    def state(self, at: int, random: random.Random | None) -> dict[str, bytes]:
        """What is there if the power fails after so many steps; nothing is lost without random."""
        contents = {name: bytearray(data) for name, data in self.base.items()}
        pending: dict[object, list[tuple[str, int, bytes]]] = {}
        names = {name: name for name in self.base}
        unsynced: list[tuple[str, tuple[str, ...]]] = []
        for kind, what, offset, data in self.steps[:at]:
            if kind in ("data", "size"):
                pending.setdefault(what, []).append((kind, offset, data))
            elif kind == "sync":
                for step in pending.pop(what, []):
                    _apply(contents.setdefault(str(what), bytearray()), step)
            elif kind == "sync names":
                for operation in unsynced:
                    _rename(names, operation)
                unsynced = []
            else:
                unsynced.append((kind, what))  # type: ignore[arg-type]
        for what, steps in pending.items():
            if random is None:
                for step in steps:
                    _apply(contents.setdefault(str(what), bytearray()), step)
                continue
            keep = random.random()
            for step in steps:
                _lose(contents.setdefault(str(what), bytearray()), step, random, keep)
        # Mostly in order, as a journal of names keeps them; else any of them.
        if random is None:
            pass
        elif random.random() < 0.7:
            unsynced = unsynced[: random.randint(0, len(unsynced))]
        else:
            unsynced = [operation for operation in unsynced if random.random() < 0.5]
        for operation in unsynced:
            _rename(names, operation)
        return {name: bytes(contents.get(inode, b"")) for name, inode in names.items()}


def _apply(content: bytearray, step: tuple[str, int, bytes]) -> None:
    kind, offset, data = step
    if kind == "size":
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _lose(
    content: bytearray, step: tuple[str, int, bytes], random: random.Random, keep: float
) -> None:
    kind, offset, data = step
    fate = random.random()
    if fate < keep * 0.9:
        _apply(content, step)
    elif fate > 0.9 and kind == "data":
        # Torn: each sector new, old or garbage.
        for at in range(0, len(data), SECTOR):
            part = data[at : at + SECTOR]
            luck = random.random()
            if luck < 0.1:
                part = random.randbytes(len(part))
            if luck < 0.6:
                _apply(content, ("data", offset + at, part))


def _rename(names: dict[str, str], operation: tuple[str, tuple[str, ...]]) -> None:
    kind, values = operation
    if kind == "name":
        names[values[0]] = values[1]
    elif kind == "unlink":
        names.pop(values[0], None)
    elif values[0] in names:
        names[values[1]] = names.pop(values[0])


def record(faults: Faults, template: Path, to: Path, what: str) -> Disk:
    fresh(template, to)
    for stale in to.glob(f"*{TRANSIENT}"):
        stale.unlink()
    inodes = {path.stat().st_ino: path.name for path in to.iterdir()}
    log = faults.scratch / f"log.{to.name}"
    log.unlink(missing_ok=True)
    base = fresh(to, to.with_name(f"{to.name}-base"))
    outcome = faults.run(to, what, log=log)
    assert outcome.code == 0, outcome.stderr
    calls = [call._replace(path=call.path.replace(str(to), str(base), 1)) for call in read_log(log)]
    return Disk(base, calls, inodes)


def replay(
    faults: Faults, template: Path, to: Path, what: str, count: int, *, any_points: int
) -> list[str]:
    disk = record(faults, template, to, what)
    assert len(disk.steps) >= any_points
    random = seeded()
    seen: set[bytes] = set()
    bad = []
    tries = 0
    while len(seen) < count:
        tries += 1
        assert tries < 20 * count, f"only {len(seen)} different states"
        at = random.randint(1, len(disk.steps))
        files = disk.state(at, random)
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).digest()
        if digest in seen:
            continue
        seen.add(digest)
        put(files, to)
        problem = after(to, recover=what in LIBRARY)
        if problem:
            bad.append(f"after step {at} {disk.steps[at - 1][:2]}: {problem}")
    return bad


def put(files: dict[str, bytes], to: Path) -> None:
    shutil.rmtree(to)
    to.mkdir()
    for name, data in files.items():
        (to / name).write_bytes(data)
        (to / name).chmod(0o600)


@pytest.mark.parametrize(
    ("mode", "count"),
    [
        *(pytest.param(mode, 8, id=mode) for mode in ("delete", "wal+frames")),
        *(pytest.param(m, STATES, id=f"{m}-whole", marks=pytest.mark.sweep) for m in MODES),
    ],
)
def test_power_loss(
    faults: Faults, templates: dict[str, Path], place: Path, mode: str, count: int
) -> None:
    assert not replay(faults, templates[mode], place, "rotate", count, any_points=60)


@pytest.mark.parametrize("mode", ["delete", "wal", "wal+frames"])
def test_a_torn_first_page(
    faults: Faults, templates: dict[str, Path], place: Path, mode: str
) -> None:
    """It has the salt, without which nothing tells whose the journal is that makes it good."""
    disk = record(faults, templates[mode], place, "rotate")
    writes = [i for i, (*what, _, _) in enumerate(disk.steps) if what == ["data", "app.db"]]
    for at in (writes[0], writes[-1]):
        files = disk.state(at + 1, None)
        assert files["app.db-wal" if mode.startswith("wal") else "app.db-journal"]
        files["app.db"] = bytes(SECTOR) + files["app.db"][SECTOR:]
        put(files, place)
        assert after(place) == ""


@pytest.mark.parametrize("count", [3, pytest.param(STATES // 4, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("left", LEFT)
def test_power_loss_while_recovering(
    faults: Faults, dead: dict[str, Path], place: Path, left: str, count: int
) -> None:
    assert not replay(faults, dead[left], place, "recover", count, any_points=10)


def test_the_replay_finds_an_unsynced_rekey(
    faults: Faults, templates: dict[str, Path], place: Path
) -> None:
    assert replay(faults, templates["delete"], place, "unsynced", 25, any_points=10)
