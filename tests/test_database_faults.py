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
from database_help import MODES, Vault
from fault_help import FAIL, KILL_GROUP, KILL_SELF, SYNC, Faults, Outcome, fresh
from keystore_help import seeded
from sqlcipher3 import dbapi2
from strongroom import StrongroomError
from strongroom.keys import base

# Fewer would be no sweep: a rotation makes more calls than this in every mode.
FEWEST_CALLS = 60
ROWS = 60


def cases(sampled: tuple[str, ...], count: int) -> list[Any]:
    """Modes with how many points to try: so many of these, and all of all under `sweep`."""
    return [
        *(pytest.param(mode, count, id=mode) for mode in sampled),
        *(pytest.param(mode, None, id=f"{mode}-whole", marks=pytest.mark.sweep) for mode in MODES),
    ]


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for mode in MODES:
        vault = Vault(tmp_path_factory.mktemp("templates") / mode.replace("+", "-"))
        with vault.create():
            vault.fill(mode, rows=ROWS)
        made[mode] = vault.directory
    return made


def after(directory: Path, recover: bool = True) -> str:
    """What is wrong after a fault and recover(); "" if exactly one live key opens all rows."""
    vault = Vault(directory)
    with vault.open() as store:
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
        problem = after(to, recover=what == "rotate")
        if problem:
            bad.append(f"call {at}, {outcome}: {problem}")
    return len(chosen), bad


@pytest.mark.parametrize(("mode", "count"), cases(MODES, 3))
def test_killed_at_every_call(
    faults: Faults, templates: dict[str, Path], tmp_path: Path, mode: str, count: int | None
) -> None:
    """Both processes at once, as `kill -9` of a service and its children, or a crash of both."""
    tried, bad = kill_sweep(faults, templates[mode], tmp_path / "v", "rotate", KILL_GROUP, count)
    assert not bad
    assert tried >= (count or FEWEST_CALLS)


@pytest.mark.parametrize(("mode", "count"), cases(("delete", "wal+frames"), 3))
def test_one_process_killed_at_every_call(
    faults: Faults, templates: dict[str, Path], tmp_path: Path, mode: str, count: int | None
) -> None:
    """The child alone, and its parent undoes or ends it; the parent alone, and the child dies."""
    tried, bad = kill_sweep(faults, templates[mode], tmp_path / "v", "rotate", KILL_SELF, count)
    assert not bad
    assert tried >= (count or FEWEST_CALLS)


def test_the_kill_sweep_finds_a_bare_rekey(
    faults: Faults, templates: dict[str, Path], tmp_path: Path
) -> None:
    _, bad = kill_sweep(faults, templates["delete"], tmp_path / "v", "bare", KILL_GROUP, 8)
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
        problem = after(to, recover=what == "rotate") or _unproven(outcome, code)
        if problem:
            bad.append(f"call {at}, {outcome}: {problem}")
    return len(chosen), bad


def _unproven(outcome: Outcome, code: int) -> str:
    """An fsync of the database that failed is never proven away."""
    name = Path(outcome.path).name
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
    tmp_path: Path,
    mode: str,
    count: int | None,
    code: int,
    for_ever: bool,
) -> None:
    tried, bad = error_sweep(faults, templates[mode], tmp_path / "v", "rotate", code, for_ever, 3)
    assert not bad
    assert tried >= (count or FEWEST_CALLS)


def test_the_error_sweep_finds_one_that_writes_on(
    faults: Faults, templates: dict[str, Path], tmp_path: Path
) -> None:
    _, bad = error_sweep(
        faults, templates["delete"], tmp_path / "v", "goes-on", errno.ENOSPC, False, 12
    )
    assert bad
