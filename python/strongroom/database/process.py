"""The parent's side of child.py: starting it, giving it keys, following it, ending it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from strongroom.database.places import FileLock, Places
from strongroom.errors import EncryptedDatabaseError

__all__ = ["Failure", "Worker"]

_TICK_SECONDS = 0.1


class Failure(Exception):
    """What the child could not do.

    Attributes:
        kind: "busy", "proof", "sqlite", "os", or "died".
        code: SQLite's primary error code, or an errno.
    """

    def __init__(self, kind: str, text: str, code: int = 0, path: str | None = None) -> None:
        super().__init__(f"{path}: {text}" if path else text)
        self.kind = kind
        self.code = code


class Worker:
    """A child at work on one database; kill it at any moment."""

    def __init__(
        self,
        operation: str,
        places: Places,
        settings: str,
        lock: FileLock,
        *,
        timeout: float,
        candidates: int = 0,
        figures: tuple[int, int, str] | None = None,
        check: bool = False,
        undo: bool = False,
        salt: str = "",
        passphrase: int = -1,
    ) -> None:
        if not sys.executable:
            raise EncryptedDatabaseError("there is no Python to run: sys.executable is empty")
        self._buffer = b""
        reading, self._pipe = os.pipe()
        try:
            # The child has the lock too: it is held until both are gone.
            self._process = _start(reading, lock.descriptor)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)
        self._send(
            json.dumps(
                {
                    "operation": operation,
                    "path": places.database,
                    "settings": settings,
                    "timeout": timeout,
                    "candidates": candidates,
                    "figures": figures,
                    "check": check,
                    "undo": undo,
                    "salt": salt,
                    "passphrase": passphrase,
                    "parent": os.getpid(),
                    "pipe": reading,
                }
            )
        )

    def __enter__(self) -> Self:
        """Return the worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child, whatever it does."""
        self.kill()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def give(self, secrets: Iterable[bytearray]) -> None:
        """Hand raw keys over and wipe them here."""
        for secret in secrets:
            try:
                # Less than PIPE_BUF, so never in parts.
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._pipe, secret)
            finally:
                secret[:] = bytes(len(secret))

    def go(self) -> None:
        """Let the child on to its next step."""
        self._send("go")

    def _send(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101  (a pipe, see above)
        # If it died, reading says so.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(line.encode() + b"\n")
            stdin.flush()

    def answer(self, tick: Callable[[], None] | None = None) -> dict[str, Any]:
        """Return the child's next line.

        Args:
            tick: Called a few times a second while it works.

        Raises:
            Failure: It failed, or died.
        """
        line = self._line(tick)
        values: dict[str, Any] = json.loads(line)
        if "error" in values:
            raise Failure(
                values["error"], values["text"], values.get("code") or 0, values.get("path")
            )
        return values

    def _line(self, tick: Callable[[], None] | None) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101
        descriptor = stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._buffer:
            # Not select(), which can't wait for a descriptor above 1,023.
            if not poll.poll(_TICK_SECONDS * 1000):
                if tick is not None:
                    tick()
                continue
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise self._death()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> Failure:
        code = self._process.wait()
        stderr = self._process.stderr
        assert stderr is not None  # noqa: S101
        said = stderr.read().decode(errors="replace").strip().splitlines()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return Failure("died", f"its process {how}" + (f": {said[-1]}" if said else ""), code)

    def finish(self) -> None:
        """Wait for the child's own end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self.kill()

    def kill(self) -> None:
        """End the child at once. Done twice, it does nothing."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                # What was not flushed to a dead child is lost, and that is meant.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _start(*descriptors: int) -> subprocess.Popen[bytes]:
    # -P: no module is taken from the current directory.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "strongroom.database.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    home = str(Path(__file__).resolve().parents[2])
    paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def pages_done(places: Places, journal_mode: str, page_size: int) -> int:
    """Return how many pages a rekey has written, by the growth of its journal."""
    path, more = (places.wal, 24) if journal_mode == "wal" else (places.journal, 8)
    try:
        return max(0, os.stat(path).st_size - 32) // (page_size + more)
    except OSError:
        return 0


def now() -> int:
    """Return the time, in microseconds since 1970."""
    return time.time_ns() // 1000
