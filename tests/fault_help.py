"""Runs a process with faults in its calls, by the preloaded library of database_faults.c."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

KILL_GROUP, KILL_SELF, FAIL = 1, 2, 3
WRITE, SYNC, TRUNCATE, RENAME, UNLINK, CREATE, COPY = range(1, 8)
KINDS = ("", "write", "sync", "truncate", "rename", "unlink", "create", "copy")
_STATE = struct.Struct("7q200s")
_HEAD = struct.Struct("7q")
_HERE = Path(__file__).parent


class Outcome(NamedTuple):
    """How a run ended."""

    code: int
    calls: int
    fired: bool
    kind: int
    path: str
    stderr: str

    def __str__(self) -> str:
        return (
            f"{KINDS[self.kind]} of {Path(self.path).name}, exit {self.code}: {self.stderr[-300:]}"
        )


class Call(NamedTuple):
    """A recorded call."""

    kind: int
    inode: int
    offset: int
    path: str
    second: str
    data: bytes


class Faults:
    """The library, compiled once a test session."""

    def __init__(self, scratch: Path) -> None:
        self.library = scratch / "faults.so"
        self.scratch = scratch
        source = _HERE / "database_faults.c"
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", str(self.library), str(source), "-ldl"], check=True)

    def run(
        self,
        directory: Path,
        what: str,
        *,
        at: int = 0,
        action: int = 0,
        error: int = 0,
        for_ever: bool = False,
        log: Path | None = None,
    ) -> Outcome:
        """Run database_target.py on a directory, with the fault at the at-th call there."""
        state = self.scratch / f"state.{os.getpid()}"
        state.write_bytes(_STATE.pack(0, at, action, error, for_ever, 0, 0, b"").ljust(4096, b"\0"))
        environment = {
            **os.environ,
            "LD_PRELOAD": str(self.library),
            "FAULT_DIR": str(directory),
            "FAULT_STATE": str(state),
            "PYTHONPATH": os.pathsep.join([str(_HERE), *sys.path]),
        }
        if log is not None:
            environment["FAULT_LOG"] = str(log)
        done = subprocess.run(
            [sys.executable, str(_HERE / "database_target.py"), str(directory), what],
            env=environment,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=120,
        )
        with state.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as view:
            values = _STATE.unpack(view[: _STATE.size])
        return Outcome(
            done.returncode,
            values[0],
            bool(values[5]),
            values[6],
            values[7].split(b"\0")[0].decode(),
            done.stderr,
        )


def read_log(path: Path) -> Iterator[Call]:
    """The recorded calls of a run, in order."""
    data = memoryview(path.read_bytes())
    at = 0
    while at < len(data):
        kind, inode, offset, _, first, second, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        a, b, c = at + first, at + first + second, at + first + second + size
        yield Call(
            kind,
            inode,
            offset,
            bytes(data[at:a]).decode(),
            bytes(data[a:b]).decode(),
            bytes(data[b:c]),
        )
        at = c


def fresh(template: Path, to: Path) -> Path:
    """Copy a directory anew."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(template, to)
    return to
