"""The second master of a store: what `init --recovery` and `master add --recovery` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import PASSPHRASE, pin_of
from strongroom.cli.terminal import ask_passphrase, on_terminal

if TYPE_CHECKING:
    from strongroom.masters import MasterKeyProvider

__all__ = ["new_master", "offered_recovery"]


def new_master(
    uri: str, passphrase_file: str | None, prompt: str
) -> tuple[MasterKeyProvider, bool]:
    """Open the master that a store is to get, and make its key where that is ours to make.

    Args:
        uri: The master's URI.
        passphrase_file: Where a new passphrase, or the PIN of a token, stands; None to ask for it.
        prompt: What is asked for.

    Returns:
        The master, and whether a key was made for it.

    Raises:
        CliError: No passphrase to be had, or no such kind of master (usage).
        MasterKeyError, OSError: As `create_master`.
    """
    if uri == PASSPHRASE:
        from strongroom.masters import PassphraseMasterKey

        source = PassphraseSource(file=passphrase_file)
        return PassphraseMasterKey(source.get(prompt, confirm=True)), False
    from strongroom.masters import create_master

    try:
        return create_master(uri, **pin_of(uri, PassphraseSource(file=passphrase_file)))
    except ValueError as error:
        raise CliError(str(error), exitcodes.USAGE) from None


def offered_recovery() -> MasterKeyProvider | None:
    """Ask the person at the terminal, if there is one, for a recovery passphrase.

    Raises:
        CliError: Usage: not the same twice.
    """
    if not on_terminal():
        return None
    text = ask_passphrase(
        "Recovery passphrase, to be kept apart from this machine (Enter for none)",
        confirm=True,
        optional=True,
    )
    if not text:
        return None
    from strongroom.masters import PassphraseMasterKey

    return PassphraseMasterKey(text)
