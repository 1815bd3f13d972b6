"""Power that fails in a rotation: its file calls replayed with what was unsynced lost.

A sample in `make test`; in `make sweep` at least 2,000 states of each mode.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from database_help import MODES
from fault_help import (
    CREATE,
    KINDS,
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
from fault_places import LEFT, LIBRARY, after, dead, faults, memory, place, templates
from keystore_help import seeded
from power import SECTOR, TRANSIENT, Disk, files_in

__all__ = ["dead", "faults", "memory", "place", "templates"]

STATES = 2000


class Recorded:
    """The calls of a run as the preloaded library records them, and the files from before it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = files_in(directory)
        self.inodes = {path.stat().st_ino: path.name for path in directory.iterdir()}
        self.calls: list[Call] = []

    def take(self, log: Path) -> None:
        calls = read_log(log)
        self.calls = [call for call in calls if not call.path.endswith(TRANSIENT)]

    def disk(self, stop: int) -> Disk:
        """A disk after so many calls."""
        disk = Disk(self.files)
        files = {inode: disk.names[name] for inode, name in self.inodes.items()}
        for call in self.calls[:stop]:
            name = Path(call.path).name
            if call.kind == CREATE:
                files[call.inode] = disk.create(name)
            elif call.kind == RENAME:
                disk.rename(name, Path(call.second).name)
            elif call.kind == UNLINK:
                disk.unlink(name)
            elif call.kind == SYNC and call.path == str(self.directory):
                disk.sync()
            elif call.kind == SYNC:
                files[call.inode].sync()
            elif call.kind == TRUNCATE:
                files[call.inode].truncate(call.offset)
            else:
                assert call.kind == WRITE
                files[call.inode].write(call.offset, call.data)
        return disk


def record(faults: Faults, template: Path, to: Path, what: str) -> Recorded:
    fresh(template, to)
    for stale in to.glob(f"*{TRANSIENT}"):
        stale.unlink()
    recorded = Recorded(to)
    log = faults.scratch / f"log.{to.name}"
    log.unlink(missing_ok=True)
    outcome = faults.run(to, what, log=log)
    assert outcome.code == 0, outcome.stderr
    recorded.take(log)
    # No call that changed something was passed over.
    assert recorded.disk(len(recorded.calls)).content() == files_in(to)
    return recorded


def replay(
    faults: Faults,
    template: Path,
    to: Path,
    what: str,
    count: int,
    *,
    any_points: int,
    least: int | None = None,
) -> list[str]:
    """Return what went wrong in `count` different states, or in as many as twenty tries find."""
    recorded = record(faults, template, to, what)
    assert len(recorded.calls) >= any_points
    random = seeded()
    seen: set[bytes] = set()
    bad = []
    tries = 0
    while len(seen) < count and tries < 20 * count:
        tries += 1
        at = random.randint(1, len(recorded.calls))
        files = recorded.disk(at).crash(random)
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).digest()
        if digest in seen:
            continue
        seen.add(digest)
        put(files, to)
        problem = after(to, recover=what in LIBRARY)
        if problem:
            last = recorded.calls[at - 1]
            bad.append(f"after call {at}, {KINDS[last.kind]} of {last.path}: {problem}")
    assert len(seen) >= (count if least is None else least)
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


@pytest.mark.parametrize("each", [2, pytest.param(50, marks=pytest.mark.sweep)])
def test_power_loss_after_an_fsync_that_sqlite_passes_over(
    faults: Faults, templates: dict[str, Path], place: Path, each: int
) -> None:
    """That of the journal which it emptied, and so committed: reset_key says ok all the same."""
    recorded = record(faults, templates["delete"], place, "rotate")
    calls, journal = recorded.calls, str(place / "app.db-journal")
    (emptied,) = [
        number
        for number, call in enumerate(calls)
        if (call.kind, call.path) == (SYNC, journal) and calls[number - 1].kind == TRUNCATE
    ]
    del calls[emptied]
    random = seeded()
    for at in range(emptied, len(calls) + 1):
        for _ in range(each):
            put(recorded.disk(at).crash(random), place)
            assert after(place) == "", (at, calls[at - 1])


@pytest.mark.parametrize("mode", ["delete", "wal", "wal+frames"])
def test_a_torn_first_page(
    faults: Faults, templates: dict[str, Path], place: Path, mode: str
) -> None:
    """It has the salt, without which nothing tells whose the journal is that makes it good."""
    recorded = record(faults, templates[mode], place, "rotate")
    writes = [
        number
        for number, call in enumerate(recorded.calls)
        if call.kind == WRITE and call.path == str(place / "app.db")
    ]
    for at in (writes[0], writes[-1]):
        files = recorded.disk(at + 1).content()
        assert files["app.db-wal" if mode.startswith("wal") else "app.db-journal"]
        files["app.db"] = bytes(SECTOR) + files["app.db"][SECTOR:]
        put(files, place)
        assert after(place) == ""


@pytest.mark.parametrize("count", [3, pytest.param(STATES // 4, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("left", LEFT)
def test_power_loss_while_recovering(
    faults: Faults, dead: dict[str, Path], place: Path, left: str, count: int
) -> None:
    # The shortest makes so few calls that it has not 500 states.
    least = min(count, 300)
    assert not replay(faults, dead[left], place, "recover", count, any_points=10, least=least)


def test_the_replay_finds_an_unsynced_rekey(
    faults: Faults, templates: dict[str, Path], place: Path
) -> None:
    assert replay(faults, templates["delete"], place, "unsynced", 25, any_points=10)
