"""Rotations that are killed, or whose calls fail, at every call that changes a file.

A sample in `make test`, the seed printed; every point in `make sweep`. Each sweep has a control, a
way of rotating that loses data, which must be found out.
"""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from database_help import MODES, Vault
from fault_help import (
    FAIL,
    KILL_GROUP,
    KILL_SELF,
    SYNC,
    Faults,
    Outcome,
    forked_children,
    fresh,
    in_memory,
)
from keystore_help import seeded
from sqlcipher3 import dbapi2
from strongroom import StrongroomError
from strongroom.keys import base
from test_database_others import die_after

# Fewer would be no sweep: a rotation makes more calls than this in every mode.
FEWEST_CALLS = 60
ROWS = 60
# What is done by the library, and not by a control.
LIBRARY = ("rotate", "recover")


def cases(sampled: tuple[str, ...], count: int) -> list[Any]:
    """Modes with how many points to try: so many of these, and all of all under `sweep`."""
    return [
        *(pytest.param(mode, count, id=mode) for mode in sampled),
        *(pytest.param(mode, None, id=f"{mode}-whole", marks=pytest.mark.sweep) for mode in MODES),
    ]


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with contextlib.closing(Faults(tmp_path_factory.mktemp("faults"))) as made:
        yield made


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with in_memory(tmp_path_factory.mktemp("memory")) as directory:
        yield directory


@pytest.fixture
def place(memory: Path) -> Iterator[Path]:
    """Where a vault under faults is put, again and again."""
    directory = memory / "v"
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def templates(memory: Path) -> dict[str, Path]:
    made = {}
    for mode in MODES:
        vault = Vault(memory / f"template-{mode}")
        with vault.create():
            vault.fill(mode, rows=ROWS)
        made[mode] = vault.directory
    return made


# What a rotation leaves that dies after a step, and what is done to that.
LEFT = {
    "before reset_key": (6, "delete"),
    "after reset_key": (7, "wal+frames"),
    "first page damaged": (8, "delete"),
    "first page damaged, wal": (8, "wal"),
    "new key destroyed": (9, "delete"),
    "new key destroyed, wal": (7, "wal+frames"),
}


@pytest.fixture(scope="module")
def dead(templates: dict[str, Path], memory: Path) -> dict[str, Path]:
    """Vaults in which a rotation died."""
    made = {}
    for number, (left, (step, mode)) in enumerate(LEFT.items()):
        vault = Vault(fresh(templates[mode], memory / f"dead-{number}"))
        with vault.open() as store:
            base._SEEN.forget(store._root_id)
            die_after(vault, step)
            if left.startswith("first page damaged"):
                data = bytearray(vault.path.read_bytes())
                data[200] ^= 1
                vault.path.write_bytes(data)
            if left.startswith("new key destroyed"):
                store.destroy_key(vault.key_states()[-1][0], force=True)
        made[left] = vault.directory
    return made


def after(directory: Path, recover: bool = True) -> str:
    """What is wrong after a fault and recover(); "" if exactly one live key opens all rows."""
    vault = Vault(directory)
    with forked_children(), vault.open() as store:
        base._SEEN.forget(store._root_id)
        try:
            if recover:
                vault.rotation(busy_timeout=5.0).recover()
                again = vault.rotation(busy_timeout=5.0).recover().found
                if again != "nothing":
                    return f"recovered again: {again}"
            live = vault.live_keys()
            states = dict(vault.key_states())
            if len(live) != 1:
                return f"{len(live)} keys open it"
            if recover and states[live[0]] != "active":
                return f"the key that opens it is {states[live[0]]}"
            if recover and "pre-active" in states.values():
                return "a pre-active key is left"
            if vault.count() != ROWS:
                return "rows are missing"
            left = vault.beside() - {"-wal", "-shm", "-journal"}
            if recover and left:
                return f"left behind: {left}"
            store.check()
        except (StrongroomError, UserWarning, AssertionError, dbapi2.Error) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def calls_of(faults: Faults, template: Path, to: Path, what: str = "rotate") -> int:
    outcome = faults.run(fresh(template, to), what)
    assert outcome.code == 0, outcome.stderr
    assert outcome.calls >= (FEWEST_CALLS if what == "rotate" else 10)
    return outcome.calls


def points(random: random.Random, calls: int, count: int | None) -> list[int]:
    """All points, or a sample with one from each part of the course."""
    if count is None:
        return list(range(1, calls + 1))
    step = calls / count
    return [min(calls, int(step * i + random.random() * step) + 1) for i in range(count)]


def kill_sweep(
    faults: Faults, template: Path, to: Path, what: str, action: int, count: int | None
) -> tuple[int, list[str]]:
    calls = calls_of(faults, template, to, what)
    bad = []
    chosen = points(seeded(), calls, count)
    for at in chosen:
        outcome = faults.run(fresh(template, to), what, at=at, action=action)
        assert outcome.fired
        problem = after(to, recover=what in LIBRARY)
        if problem:
            bad.append(f"call {at}, {outcome}: {problem}")
    print(f"{len(chosen)} of {calls} calls")
    return len(chosen), bad


@pytest.mark.parametrize(("mode", "count"), cases(MODES, 3))
def test_killed_at_every_call(
    faults: Faults, templates: dict[str, Path], place: Path, mode: str, count: int | None
) -> None:
    """Both processes at once, as `kill -9` of a service and its children, or a crash of both."""
    tried, bad = kill_sweep(faults, templates[mode], place, "rotate", KILL_GROUP, count)
    assert not bad
    assert tried >= (count or FEWEST_CALLS)


@pytest.mark.parametrize(("mode", "count"), cases(("delete", "wal+frames"), 3))
def test_one_process_killed_at_every_call(
    faults: Faults, templates: dict[str, Path], place: Path, mode: str, count: int | None
) -> None:
    """The child alone, and its parent undoes or ends it; the parent alone, and the child dies."""
    tried, bad = kill_sweep(faults, templates[mode], place, "rotate", KILL_SELF, count)
    assert not bad
    assert tried >= (count or FEWEST_CALLS)


@pytest.mark.parametrize("count", [2, pytest.param(None, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("left", LEFT)
def test_recovering_killed_at_every_call(
    faults: Faults, dead: dict[str, Path], place: Path, left: str, count: int | None
) -> None:
    tried, bad = kill_sweep(faults, dead[left], place, "recover", KILL_GROUP, count)
    assert not bad
    assert tried >= (count or 10)


@pytest.mark.parametrize("count", [2, pytest.param(None, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("left", LEFT)
def test_errors_at_every_call_of_recovering(
    faults: Faults, dead: dict[str, Path], place: Path, left: str, code: int, count: int | None
) -> None:
    tried, bad = error_sweep(faults, dead[left], place, "recover", code, False, count)
    assert not bad
    assert tried >= (count or 10)


def test_the_kill_sweep_finds_a_bare_rekey(
    faults: Faults, templates: dict[str, Path], place: Path
) -> None:
    _, bad = kill_sweep(faults, templates["delete"], place, "bare", KILL_GROUP, 8)
    assert bad


def error_sweep(
    faults: Faults,
    template: Path,
    to: Path,
    what: str,
    code: int,
    for_ever: bool,
    count: int | None,
) -> tuple[int, list[str]]:
    calls = calls_of(faults, template, to, what)
    bad = []
    chosen = points(seeded(), calls, count)
    for at in chosen:
        outcome = faults.run(
            fresh(template, to), what, at=at, action=FAIL, error=code, for_ever=for_ever
        )
        assert outcome.fired
        problem = after(to, recover=what in LIBRARY) or _unproven(outcome, code)
        if problem:
            bad.append(f"call {at}, {outcome}: {problem}")
    print(f"{len(chosen)} of {calls} calls")
    return len(chosen), bad


def _unproven(outcome: Outcome, code: int) -> str:
    """An fsync of the database that failed is never proven away.

    That of a journal without a name is nobody's: SQLite makes it when it closes one that was empty.
    Nor is that of an empty one, whose name goes durably before the proof.
    """
    name = Path(outcome.path).name
    if name.startswith("app.db-journal (deleted)") or name == "app.db-journal (empty)":
        return ""
    if (
        code == errno.EIO
        and outcome.kind == SYNC
        and name.startswith("app.db")
        and not outcome.code
    ):
        return "an fsync failed, and the rotation said ok"
    return ""


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for-ever"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize(("mode", "count"), cases(("delete", "wal+frames"), 2))
def test_errors_at_every_call(
    faults: Faults,
    templates: dict[str, Path],
    place: Path,
    mode: str,
    count: int | None,
    code: int,
    for_ever: bool,
) -> None:
    tried, bad = error_sweep(faults, templates[mode], place, "rotate", code, for_ever, count)
    assert not bad
    assert tried >= (count or FEWEST_CALLS)


def test_the_error_sweep_finds_one_that_writes_on(
    faults: Faults, templates: dict[str, Path], place: Path
) -> None:
    _, bad = error_sweep(faults, templates["delete"], place, "goes-on", errno.ENOSPC, False, 12)
    assert bad
