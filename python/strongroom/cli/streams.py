"""Pipes and files as the unbuffered binary streams that the library encrypts between."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator

from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output
from strongroom.cli.targets import PIPE
from strongroom.cli.wholefile import WholeFile


@contextlib.contextmanager
def streams(
    source: str, target: str | None, *, overwrite: bool, out: Output
) -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """Open a source and a target of which one at least is a pipe.

    Args:
        source: A path, or `-` for stdin.
        target: A path, or None for stdout.
        overwrite: Whether a target that is there may be replaced.
        out: Where it is said, on failure, that what went to stdout is not all.

    Raises:
        CliError: With --json, whose objects would mix with the data (usage).
        OSError: As `open`.
    """
    if target is None and out.json:
        raise CliError("--json and data on stdout exclude each other", exitcodes.USAGE)
    with contextlib.ExitStack() as stack:
        src = stack.enter_context(open_source(source))
        if target is not None:
            yield src, stack.enter_context(WholeFile(target, overwrite=overwrite)).open()
            return
        dst = stack.enter_context(io.FileIO(1, "wb", closefd=False))
        try:
            yield src, dst
        except BrokenPipeError:
            raise
        except BaseException:
            out.warn("the output is incomplete: what stands on stdout is not the whole of it")
            raise


def open_source(source: str) -> io.FileIO:
    """Open a file or, for `-`, stdin for reading.

    Raises:
        OSError: As `open`.
    """
    if source == PIPE:
        return io.FileIO(0, "rb", closefd=False)
    return open(source, "rb", buffering=0)


def refuse_terminal(target: str | None, *, asked: bool) -> None:
    """Refuse to write a message, which is no text, to a terminal unless -o - asks for it.

    Raises:
        CliError: Usage.
    """
    if target is None and not asked and sys.stdout is not None and sys.stdout.isatty():
        raise CliError(
            "a message is not for a terminal; give -o FILE, or -o - to see it anyway",
            exitcodes.USAGE,
        )
