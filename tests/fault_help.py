"""Runs a process with faults in its calls, by the preloaded library of database_faults.c."""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from strongroom.database import child, process

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
    """The library, compiled once, and a server of targets for each directory."""

    def __init__(self, scratch: Path) -> None:
        self.library = scratch / "faults.so"
        self.scratch = scratch
        source = _HERE / "database_faults.c"
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", str(self.library), str(source), "-ldl"], check=True)
        state = scratch / "state"
        state.write_bytes(bytes(4096))
        with state.open("r+b") as file:
            self._state = mmap.mmap(file.fileno(), 4096)
        self._servers: dict[Path, subprocess.Popen[str]] = {}

    def close(self) -> None:
        """End the servers."""
        for server in self._servers.values():
            server.communicate()

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
        """Run database_target.py on a directory, with the fault at the at-th call there.

        By a server that forks itself for each, since a sweep starts thousands; the child of the
        rotation is a new process in any case.
        """
        self._state[: _STATE.size] = _STATE.pack(0, at, action, error, for_ever, 0, 0, b"")
        if log is not None:
            server = self._serve(directory, log)
        else:
            if directory not in self._servers:
                self._servers[directory] = self._serve(directory)
            server = self._servers[directory]
        stderr = self.scratch / "stderr"
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps([str(directory), what, str(stderr)]) + "\n")
        server.stdin.flush()
        assert select.select([server.stdout], [], [], 120)[0], "it hangs"
        code = int(server.stdout.readline())
        if log is not None:
            server.communicate()
        values = _STATE.unpack(self._state[: _STATE.size])
        return Outcome(
            code,
            values[0],
            bool(values[5]),
            values[6],
            values[7].split(b"\0")[0].decode(),
            stderr.read_text(),
        )

    def _serve(self, directory: Path, log: Path | None = None) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "LD_PRELOAD": str(self.library),
            "FAULT_DIR": str(directory),
            "FAULT_STATE": str(self.scratch / "state"),
            "PYTHONPATH": os.pathsep.join([str(_HERE), *sys.path]),
        }
        if log is not None:
            environment["FAULT_LOG"] = str(log)
        return subprocess.Popen(
            [sys.executable, str(_HERE / "database_target.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


class Forked:
    """Stands for the started process of a rotation's child: a fork of this one.

    What it does is child.py's main(). For looking at what a fault has left, thousands of times:
    starting Python is nine tenths of that.
    """

    def __init__(self, *descriptors: int) -> None:
        (stdin, own_in), (own_out, stdout), (own_err, stderr) = (os.pipe() for _ in range(3))
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                for number, descriptor in enumerate((stdin, stdout, stderr)):
                    os.dup2(descriptor, number)
                kept = sorted({0, 1, 2, *descriptors})
                for low, high in itertools.pairwise([*kept, 1 << 16]):
                    os.closerange(low + 1, high)
                sys.stdin = os.fdopen(0, closefd=False)
                sys.stdout = os.fdopen(1, "w", closefd=False)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                code = child.main()
            finally:
                os._exit(code)
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
        self.stdin = os.fdopen(own_in, "wb")
        self.stdout, self.stderr = os.fdopen(own_out, "rb", 0), os.fdopen(own_err, "rb", 0)
        self.returncode: int | None = None

    def wait(self, _: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


@contextlib.contextmanager
def forked_children() -> Iterator[None]:
    """Let the children of rotations and recoveries in this process be forks of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_start", Forked)
        yield


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


@contextlib.contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A directory where an fsync costs nothing: faults are counted by calls, not by disks."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)
