"""A progress bar on stderr, only where stderr is a terminal and the work takes a while."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from strongroom.cli.output import Output

# rich takes 50 ms to import: what is done sooner than this is done before a bar would be seen.
_PATIENCE_SECONDS: Final = 0.3


class ProgressBar:
    """The callback `(done, total | None)` of the library's calls, and the bar that it moves.

    The library calls at most every 50 ms, from the calling thread, so the bar needs no thread of
    its own (which a fork would lose).
    """

    def __init__(self, output: Output, what: str) -> None:
        """Decide whether a bar will be shown at all.

        Args:
            output: With -q none is.
            what: The words in front of it.
        """
        self._what = what
        self._shown = not output.quiet and sys.stderr is not None and sys.stderr.isatty()
        self._start = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def close(self) -> None:
        """Take the bar away, before something else is printed and at the end."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, done: int, total: int | None) -> None:
        """Move the bar.

        Args:
            done: Bytes of plaintext that are done.
            total: All of them, or None where that is not known (a pipe).
        """
        if not self._shown:
            return
        if self._bar is None:
            if time.monotonic() - self._start < _PATIENCE_SECONDS:
                return
            self._bar = self._make()
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        assert self._task is not None  # noqa: S101 - set with the bar
        self._bar.update(self._task, completed=done, total=total)
        self._bar.refresh()

    @property
    def callback(self) -> ProgressBar | None:
        """Itself, or None where nothing will be shown, which saves the library the calls."""
        return self if self._shown else None

    @staticmethod
    def _make() -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        # Console honours NO_COLOR and TERM=dumb.
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
