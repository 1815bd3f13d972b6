"""The command group, whose commands load when they are called, and the one handler of errors."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import IO, Any, Final, TextIO

import click

import strongroom
from strongroom.cli import exitcodes
from strongroom.cli.output import Output, naming_stdout

COMPLETION_VARIABLE: Final = "_STRONGROOM_COMPLETE"


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, not for its name.

    Attributes:
        lazy: For each command's name its module and attribute ("strongroom.cli.encrypt:encrypt")
            and the line that --help shows, in the order in which they are shown.
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]], **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which somebody meets them."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None for a name that is none."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for --help without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; it is cleaned up after as Ctrl-C is.

    Attributes:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"strongroom {strongroom.__version__}")
        context.exit()


@click.group(
    cls=LazyGroup,
    lazy={
        "init": ("strongroom.cli.init:init", "Make a key store and its master key."),
        "master": (
            "strongroom.cli.master:master",
            "List, add, remove, rotate and test the store's masters.",
        ),
        "keys": ("strongroom.cli.keys:keys", "List, make, rotate, retire and destroy keys."),
        "store": (
            "strongroom.cli.stores:store",
            "Back up, restore, check and migrate the key store.",
        ),
        "encrypt": ("strongroom.cli.encrypt:encrypt", "Encrypt files, trees or stdin."),
        "decrypt": ("strongroom.cli.decrypt:decrypt", "Decrypt files, trees or stdin."),
        "verify": ("strongroom.cli.verify:verify", "Check that messages authenticate."),
        "rewrap": ("strongroom.cli.rewrap:rewrap", "Bring files to the current key, in place."),
        "slots": ("strongroom.cli.slots:slots", "Let further keys and masters open a file."),
        "hsm": ("strongroom.cli.hsm:hsm", "Tokens and their keys: make, rotate, destroy, test."),
        "db": ("strongroom.cli.db:db", "Rotate, recover and adopt SQLCipher databases."),
        "inspect": ("strongroom.cli.inspect:inspect", "Show what a message says without a key."),
        "audit": (
            "strongroom.cli.audit:audit",
            "Verify, show and report an audit log.",
        ),
        "doctor": ("strongroom.cli.doctor:doctor", "Show engine, threads, memory and store."),
        "bench": ("strongroom.cli.bench:bench", "Measure this machine beside the peers."),
        "completion": ("strongroom.cli.completion:completion", "Print a shell's completion."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Encrypt files under keys that are made, used, rotated, retired and destroyed."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing but Ctrl-C in here is raised.

    Args:
        arguments: The words after the program's name; None for those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What can't be parsed must still be reported as it was asked for.
    flags = words[: words.index("--")] if "--" in words else words
    output = Output(json="--json" in flags, debug="--debug" in flags)
    try:
        _fill_standard_descriptors()
        _catch_signals()
        _show_warnings(output)
        code = _invoke(words, output)
        try:
            with naming_stdout():
                _flush(sys.stdout)
        except OSError as error:
            if code == exitcodes.OK or isinstance(error, BrokenPipeError):
                raise
            # What has failed for another reason keeps its code.
            output.warn(exitcodes.sentence_of(error))
    except BrokenPipeError as error:
        # Whoever read our output has seen enough (`| head`): nothing is left to be said.
        if output.debug:
            _say(output.failure, error)
        _abandon(1)
        code = exitcodes.OTHER
    except KeyboardInterrupt as error:
        code = 128 + error.number if isinstance(error, Terminated) else exitcodes.INTERRUPTED
        _say(output.interrupted, error, code)
    except Exception as error:
        code = exitcodes.code_of(error)
        _say(output.failure, error)
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            _flush(stream)
        except OSError:
            _abandon(number)
    return code


def _invoke(words: list[str], output: Output) -> int:
    if COMPLETION_VARIABLE in os.environ:
        from click.shell_completion import shell_complete

        instruction = os.environ[COMPLETION_VARIABLE]
        return shell_complete(cli, {}, "strongroom", COMPLETION_VARIABLE, instruction)
    # Not cli.main(): that turns an interrupt into click's Abort and a broken pipe into an exit.
    try:
        with cli.make_context("strongroom", words, obj=output) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.UsageError as error:
        _say(output.usage, error)
        return exitcodes.USAGE
    return code if isinstance(code, int) else exitcodes.OK


def _fill_standard_descriptors() -> None:
    """Take the numbers 0 to 2 that whoever started us has closed.

    Else the next file that is opened, the key store or a target, would get one of them, and be
    read as stdin or written to as stdout. What takes them fails as a closed descriptor does:
    stdin can't be read, stdout and stderr can't be written.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is what a new descriptor gets, and those below are in use.
            os.open(os.devnull, os.O_RDONLY if number else os.O_WRONLY)
    if sys.stdout is None:
        # What Python has where stdout was closed takes no text, and says nothing of it either.
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _catch_signals() -> None:
    """Let SIGTERM and SIGHUP end the process as Ctrl-C does: with nothing half left behind."""

    def end(number: int, _: FrameType | None) -> None:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        # One that is ignored (nohup) stays so.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def _show_warnings(output: Output) -> None:
    """Let a warning of the library (memory that could not be locked) look like our other notes."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        output.warn(f"warning: {message}")

    warnings.showwarning = show


def _say(how: Callable[..., object], *what: object) -> None:
    """Report what ended the command; that stdout is lost too changes nothing of it."""
    with contextlib.suppress(OSError):
        how(*what)


def _flush(stream: IO[str] | None) -> None:
    if stream is not None:
        stream.flush()


def _abandon(number: int) -> None:
    # The interpreter flushes what is left at exit and would complain again, with a code of its own.
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
