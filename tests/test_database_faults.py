"""Rotations that are killed, or whose calls fail, at every call that changes a file.

A sample in `make test`, the seed printed; every point in `make sweep`. Each sweep has a control, a
way of rotating that loses data, which must be found out.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest
from database_help import MODES
from fault_help import (
    FAIL,
    KILL_GROUP,
    KILL_SELF,
    SYNC,
    Faults,
    Outcome,
    fresh,
)
from fault_places import LEFT, LIBRARY, after, dead, faults, memory, place, templates
from keystore_help import seeded

__all__ = ["dead", "faults", "memory", "place", "templates"]

# Fewer would be no sweep: a rotation makes more calls than this in every mode.
FEWEST_CALLS = 60


def cases(sampled: tuple[str, ...], count: int) -> list[Any]:
    """Modes with how many points to try: so many of these, and all of all under `sweep`."""
    return [
        *(pytest.param(mode, count, id=mode) for mode in sampled),
        *(pytest.param(mode, None, id=f"{mode}-whole", marks=pytest.mark.sweep) for mode in MODES),
    ]


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
    # The last 12 of its 108 calls are those that lose it; of so many parts one lies among them.
    _, bad = kill_sweep(faults, templates["delete"], place, "bare", KILL_GROUP, 12)
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
    # Of its 107 calls 11 in a row do harm; of so many parts one lies among them.
    _, bad = error_sweep(faults, templates["delete"], place, "goes-on", errno.ENOSPC, False, 24)
    assert bad
