"""What rotations and recoveries under faults are tried on, and what may be wrong after them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from database_help import MODES, Vault
from database_rotations import die_after
from fault_help import Faults, forked_children, fresh, in_memory
from sqlcipher3 import dbapi2
from strongroom import StrongroomError
from strongroom.keys import base

ROWS = 60
# What is done by the library, and not by a control.
LIBRARY = ("rotate", "recover")


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
