"""Asking the person at the terminal."""

from __future__ import annotations

import os
import select
import sys
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
    terminal = os.open(_TTY, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(terminal, f"{question} [y/N]: ".encode())
        # A signal that comes just before a read begins is looked at only when that ends.
        while not select.select([terminal], [], [], _LOOK_SECONDS)[0]:
            pass
        answer = os.read(terminal, 1024)
    finally:
        os.close(terminal)
    return answer.strip().lower() in (b"y", b"yes")


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
    from getpass import getpass

    try:
        first = getpass(f"{prompt}: ")
        if not first and optional:
            return first
        if not first:
            raise CliError("no passphrase given", exitcodes.USAGE)
        if confirm and getpass(f"{prompt} again: ") != first:
            raise CliError("the two passphrases are not the same", exitcodes.USAGE)
    except EOFError:
        raise CliError("no passphrase given", exitcodes.USAGE) from None
    return first
