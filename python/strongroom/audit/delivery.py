"""What becomes of events that are sealed, and of new checkpoints: loggers, anchors, warnings."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from strongroom.audit.records import hand_over

if TYPE_CHECKING:
    import logging

__all__ = ["Anchor", "Delivery"]

Anchor = Callable[[bytes], object] | str | Sequence[str]

_ANCHOR_SECONDS: Final = 30


class Delivery:
    """Hands on what is sealed. Whatever fails here is a warning: the log has it already.

    Attributes:
        thread: The thread that seals data, in which nobody would catch a warning that a filter
            (`-W error`) makes an exception of; None while there is none.
    """

    def __init__(self, logger: logging.Logger | None, anchor: Anchor | None) -> None:
        self.logger = logger
        self._anchor = anchor
        self.thread: threading.Thread | None = None

    def deliver(self, made: Iterable[dict[str, Any]], checkpoint: bytes | None) -> None:
        """Give a new checkpoint to the anchor, and events to the logger."""
        if checkpoint is not None and self._anchor is not None:
            try:
                self._give(checkpoint)
            except Exception as error:
                self.warn(f"a checkpoint was not anchored: {error}")
        if self.logger is None:
            return
        for event in made:
            try:
                hand_over(self.logger, event)
            except Exception as error:
                self.warn(f"a sealed event could not be logged: {error}")

    def warn(self, text: str) -> None:
        """Warn, as of the library's caller."""
        if threading.current_thread() is not self.thread:
            warnings.warn(text, RuntimeWarning, stacklevel=_outside())
            return
        try:
            warnings.warn(text, RuntimeWarning, stacklevel=1)
        except Warning:
            # As the end of a thread is told, but this one goes on.
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self.thread)))

    def _give(self, checkpoint: bytes) -> None:
        if callable(self._anchor):
            self._anchor(checkpoint)
            return
        import subprocess

        assert self._anchor is not None  # noqa: S101 - looked at by the caller
        subprocess.run(  # noqa: S603  (the caller's own command)
            self._anchor,
            shell=isinstance(self._anchor, str),
            input=checkpoint,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=_ANCHOR_SECONDS,
        )


def _outside() -> int:
    """Return how many frames up from `Delivery.warn` the first one outside of the library is."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    own = __name__.partition(".")[0]
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == own:
        level, frame = level + 1, frame.f_back
    return level
