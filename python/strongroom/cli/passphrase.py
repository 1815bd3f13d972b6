"""Where a passphrase comes from: a file, a command, a descriptor, or a prompt; never an argument.

Arguments are seen by every user of the machine in the list of processes, and kept by shells.
"""

from __future__ import annotations

import io
from typing import Final, NamedTuple

from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError

# FORMAT.md: a passphrase is 1 to 4,096 bytes.
MAX_PASSPHRASE: Final = 4096
# ... and one newline, of at most two bytes.
_MAX_READ: Final = MAX_PASSPHRASE + 2


class PassphraseSource(NamedTuple):
    """The three options that name a source; at most one of them is set.

    Attributes:
        file: Path of a file that holds it.
        command: A command line that prints it, split as a shell would, run without one.
        fd: A descriptor to read it from, to its end.
    """

    file: str | None = None
    command: str | None = None
    fd: int | None = None

    def __bool__(self) -> bool:
        """Whether a source was named."""
        return self.file is not None or self.command is not None or self.fd is not None

    def get(self, prompt: str, *, confirm: bool = False) -> str | bytes:
        """Read the passphrase from the source that was named, else ask for it on the terminal.

        Args:
            prompt: What is asked for, such as "Passphrase".
            confirm: Ask twice, for a passphrase that is new.

        Returns:
            Text where it is UTF-8 (the library brings it to one normal form, so that what was
            typed equals what stands in a file), else the bytes as they are.

        Raises:
            CliError: Usage: none given, too long, no terminal to ask on, or not the same twice.
            OSError: The file or descriptor can't be read.
        """
        if self.file is not None:
            # pathlib costs start-up, and `open` takes the name as it is.
            with open(self.file, "rb") as file:
                return _checked(file.read(_MAX_READ + 1), self.file)
        if self.fd is not None:
            with io.FileIO(self.fd, closefd=False) as raw, io.BufferedReader(raw) as file:
                return _checked(file.read(_MAX_READ + 1), f"file descriptor {self.fd}")
        if self.command is not None:
            return _checked(_run(self.command), "the passphrase command")
        from strongroom.cli.terminal import ask_passphrase

        return ask_passphrase(prompt, confirm=confirm)


def _run(command: str) -> bytes:
    import shlex
    import subprocess

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise CliError(f"--passphrase-command: {error}", exitcodes.USAGE) from None
    if not words:
        raise CliError("--passphrase-command: no command", exitcodes.USAGE)
    # stdin may be the data to encrypt. stderr stays, for the command's own complaints.
    with subprocess.Popen(  # noqa: S603 - running the user's command is the purpose
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        text = process.stdout.read(_MAX_READ + 1)
        process.stdout.close()
    # A command that said too much may have died of the closed pipe: the length is the news then.
    if process.returncode != 0 and len(text) <= _MAX_READ:
        raise CliError(f"the passphrase command failed with exit status {process.returncode}")
    return text


def _checked(text: bytes, source: str) -> str | bytes:
    for newline in (b"\r\n", b"\n"):
        if text.endswith(newline):
            text = text[: -len(newline)]
            break
    if not text:
        raise CliError(f"the passphrase in {source} is empty", exitcodes.USAGE)
    if len(text) > MAX_PASSPHRASE:
        raise CliError(
            f"the passphrase in {source} is longer than {MAX_PASSPHRASE} bytes", exitcodes.USAGE
        )
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text
