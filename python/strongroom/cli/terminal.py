"""Asking the person at the terminal."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Final

from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError

_TTY: Final = "/dev/tty"
_LOOK_SECONDS: Final = 0.1


def on_terminal() -> bool:
    """Whether somebody is there to be asked.

    Questions go to /dev/tty, so that stdin or stdout may be a pipe; but where neither stdin nor
    stderr is a terminal this is a script, and must not hang on a question.
    """
    if not any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        return False
    try:
        os.close(os.open(_TTY, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def ask_yes(question: str) -> bool:
    """Ask a question that only "y" or "yes" answers with yes.

    Raises:
        CliError: Usage: there is no terminal.
    """
    if not on_terminal():
        raise CliError("there is no terminal to ask on; --yes answers", exitcodes.USAGE)
    try:
        answer = _ask(f"{question} [y/N]: ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def ask_passphrase(prompt: str, *, confirm: bool, optional: bool = False) -> str:
    """Ask for a passphrase without showing it.

    Args:
        prompt: What is asked for.
        confirm: Ask twice.
        optional: Nothing typed is an answer too: the empty text.

    Raises:
        CliError: Usage: there is no terminal, nothing was typed, or not the same twice.
    """
    if not on_terminal():
        raise CliError(
            "a passphrase is needed and there is no terminal to ask on; "
            "give --passphrase-file, --passphrase-command or --passphrase-fd",
            exitcodes.USAGE,
        )
    try:
        first = _ask(f"{prompt}: ", hidden=True)
        if not first and optional:
            return first
        if not first:
            raise CliError("no passphrase given", exitcodes.USAGE)
        if confirm and _ask(f"{prompt} again: ", hidden=True) != first:
            raise CliError("the two passphrases are not the same", exitcodes.USAGE)
    except EOFError:
        raise CliError("no passphrase given", exitcodes.USAGE) from None
    return first


def _ask(question: str, *, hidden: bool = False) -> str:
    """Ask on the terminal and return the line that is typed, without its end.

    Like getpass, which reads as soon as it has asked: a signal that comes just before a read
    begins is looked at only when that ends, and Ctrl-C would do nothing.

    Raises:
        CliError: Usage: what was typed is no text.
        EOFError: The line ended before it began (Ctrl-D).
    """
    with (
        open(_TTY, "r+b", buffering=0) as terminal,
        io.TextIOWrapper(terminal, write_through=True) as text,
        _hidden(terminal) if hidden else contextlib.nullcontext(),
    ):
        text.write(question)
        while not select.select([terminal], [], [], _LOOK_SECONDS)[0]:
            pass
        try:
            line = text.readline()
        except UnicodeDecodeError:
            raise CliError(f"what was typed is not {text.encoding}", exitcodes.USAGE) from None
        if hidden:
            text.write("\n")
    if not line:
        raise EOFError
    return line.removesuffix("\n")


@contextlib.contextmanager
def _hidden(terminal: io.FileIO) -> Iterator[None]:
    """Have the terminal not show what is typed, and forget what was typed before or after."""
    import termios

    before = termios.tcgetattr(terminal)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
