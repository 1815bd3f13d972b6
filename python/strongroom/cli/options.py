"""Options that several commands share."""

# ruff: noqa: ANN401  (click calls with keywords of many types)

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output
from strongroom.cli.passphrase import PassphraseSource

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _ParamType = click.ParamType[int]
else:  # Older releases of click know no type there.
    _ParamType = click.ParamType

# The format's limit on the caller's associated data, in bytes.
_MAX_ASSOCIATED_DATA: Final = 65_535

# A name as the system gives it: no check by click, whose wording differs from the library's and
# for whom one file that can't be read is a wrong command line.
PATH: Final = click.Path(readable=False)


def common(command: F, *, audited: bool = True) -> F:
    """Add --json, -q and --debug, and --audit; the command gets an `Output` as `out`.

    Args:
        command: The command.
        audited: Whether what it does is recorded in the log that --audit or STRONGROOM_AUDIT
            names: not where the log itself is what the command is about.
    """

    def set_on_output(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
        def callback(context: click.Context, _: click.Parameter, value: bool) -> None:
            if value:
                setattr(context.find_object(Output), name, True)

        return callback

    for flags, name, text in (
        (("--debug",), "debug", "Show tracebacks."),
        (("-q", "--quiet"), "quiet", "No notes and no progress on stderr; failures still show."),
        (("--json",), "json", "One JSON object a line on stdout, and nothing else there."),
    ):
        command = click.option(
            *flags,
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=set_on_output(name),
            help=text,
        )(command)
    if audited:
        command = click.option(
            "--audit",
            metavar="PATH",
            envvar="STRONGROOM_AUDIT",
            type=PATH,
            expose_value=False,
            callback=_record,
            help="Record what is done in this audit log.",
        )(command)
    return command


def unaudited(command: F) -> F:
    """`common` for commands that change nothing, or that are about the audit log itself."""
    import functools

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        from strongroom import _events

        _events.ignore_environment()
        return command(*args, **kwargs)

    result: Any = called
    common(result, audited=False)
    unrecorded: F = result
    return unrecorded


def _record(context: click.Context, _: click.Parameter, path: str | None) -> None:
    if not path or context.resilient_parsing:
        return
    from strongroom import audit

    audit.enable(path)
    # Its last checkpoint belongs to the command: where that can't be written, the command fails.
    context.find_root().call_on_close(audit.disable)


def store(command: F) -> F:
    """Add --store and --master; the command gets both, None where they are not given."""
    command = click.option(
        "--master",
        metavar="URI",
        envvar="STRONGROOM_MASTER",
        help="The master key, such as file:PATH or passphrase: [default: what the store keeps].",
    )(command)
    return click.option(
        "--store",
        metavar="URL",
        envvar="STRONGROOM_STORE",
        help="The key store [default: sqlite:/// and $XDG_DATA_HOME/strongroom/keys.db].",
    )(command)


def reason(command: F) -> F:
    """Add --reason, by default none."""
    return click.option(
        "--reason", metavar="TEXT", default="", help="Why, for the store and the audit log."
    )(command)


class _Duration(_ParamType):
    """A number of seconds, or of s, m, h, d or w."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number, unit = (value[:-1], value[-1]) if value and value[-1] in _UNITS else (value, "s")
        if not (number.isascii() and number.isdigit() and len(number) <= 12):
            self.fail(f"{value!r} is no time: write 90s, 15m, 12h, 30d or 4w", param, ctx)
        return int(number) * _UNITS[unit]


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
DURATION: Final = _Duration()


def keyset(command: F) -> F:
    """Add --keyset, by default the keyset "default"."""
    return click.option(
        "--keyset", metavar="NAME", default="default", show_default=True, help="The keyset."
    )(command)


def passphrase_sources(command: F) -> F:
    """Add the three sources of a passphrase; the command gets one `passphrase_source`."""
    import functools

    @functools.wraps(command)
    def collected(
        *args: Any,
        passphrase_file: str | None,
        passphrase_command: str | None,
        passphrase_fd: int | None,
        **kwargs: Any,
    ) -> Any:
        source = PassphraseSource(passphrase_file, passphrase_command, passphrase_fd)
        if sum(value is not None for value in source) > 1:
            raise click.UsageError(
                "--passphrase-file, --passphrase-command and --passphrase-fd exclude each other"
            )
        return command(*args, passphrase_source=source, **kwargs)

    wrapped: Any = collected
    for option in (
        click.option(
            "--passphrase-fd",
            metavar="N",
            type=click.IntRange(min=0),
            help="Read the passphrase from this descriptor, to its end.",
        ),
        click.option(
            "--passphrase-command",
            metavar="COMMAND",
            help="Take the passphrase from what this command prints.",
        ),
        click.option(
            "--passphrase-file",
            metavar="PATH",
            type=PATH,
            help="Take the passphrase from this file.",
        ),
    ):
        wrapped = option(wrapped)
    result: F = wrapped
    return result


def associated_data(command: F) -> F:
    """Add --associated-data and its -file; the command gets one `associated_data` of bytes."""
    import functools

    @functools.wraps(command)
    def read(
        *args: Any,
        associated_data: str | None,
        associated_data_file: str | None,
        **kwargs: Any,
    ) -> Any:
        if associated_data is not None and associated_data_file is not None:
            raise click.UsageError(
                "--associated-data and --associated-data-file exclude each other"
            )
        data = b""
        if associated_data is not None:
            import os

            # The bytes that were typed, whatever the locale: arguments come through fsdecode.
            data = os.fsencode(associated_data)
        elif associated_data_file is not None:
            with open(associated_data_file, "rb") as file:
                data = file.read(_MAX_ASSOCIATED_DATA + 1)
        if len(data) > _MAX_ASSOCIATED_DATA:
            raise CliError(
                f"associated data is longer than {_MAX_ASSOCIATED_DATA:,} bytes", exitcodes.USAGE
            )
        return command(*args, associated_data=data, **kwargs)

    wrapped: Any = click.option(
        "--associated-data-file",
        metavar="PATH",
        type=PATH,
        help="Bind the bytes of this file to the message.",
    )(read)
    wrapped = click.option(
        "--associated-data",
        metavar="TEXT",
        help="Bind this text to the message: decrypting needs the same.",
    )(wrapped)
    result: F = wrapped
    return result


def jobs(command: F) -> F:
    """Add -j."""
    return click.option(
        "-j",
        "--jobs",
        metavar="N",
        # The most that set_num_threads takes.
        type=click.IntRange(1, 1024),
        help="Work on this many files at once [default: the CPUs].",
    )(command)


def dry_run(command: F) -> F:
    """Add --dry-run."""
    return click.option(
        "--dry-run", is_flag=True, help="Say what would be done and do none of it."
    )(command)
