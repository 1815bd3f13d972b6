"""What the commands print: lines, tables, and with --json one object a line.

Results go to stdout, all else to stderr. With --json stdout holds JSON alone, as
json-output.schema.json in this directory says. rich comes in only to draw a table on a terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

from strongroom.cli import exitcodes

if TYPE_CHECKING:
    import click

# Every object has these, null where they say nothing, so that `jq .path` works on each line.
COMMON_FIELDS: Final = (
    "path",
    "status",
    "bytes_in",
    "bytes_out",
    "key_ids",
    "kind",
    "version",
)


class Output:
    """Where one run of the command line prints to, and how.

    Attributes:
        json: One JSON object a line on stdout, and nothing else there.
        quiet: No notes and no progress on stderr; failures still come.
        debug: Tracebacks on stderr.
    """

    def __init__(self, *, json: bool = False, debug: bool = False) -> None:
        self.json = json
        self.quiet = False
        self.debug = debug

    def line(self, text: str) -> None:
        """Print a line of result on stdout; nothing with --json.

        Raises:
            OSError: It is closed, full or a pipe that nobody reads.
        """
        if not self.json:
            with naming_stdout():
                _write(sys.stdout, text)

    def note(self, text: str) -> None:
        """Print a line on stderr that -q silences."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Print a line on stderr."""
        _write_error(f"strongroom: {text}")

    def record(self, type_: str, **fields: object) -> None:
        """Print one JSON object on stdout; nothing without --json.

        Args:
            type_: item, key, summary, error or doctor.
            **fields: What it says. A path is `str`, `bytes` or a PathLike and becomes a str; where
                its bytes are not UTF-8, they stand in base64 in a further field `..._base64`.

        Raises:
            OSError: As `line`.
        """
        if not self.json:
            return
        from json import dumps

        whole: dict[str, Any] = {"type": type_, **dict.fromkeys(COMMON_FIELDS)}
        for name, value in fields.items():
            whole[name] = value
            if name in ("path", "target"):
                whole |= _path_fields(name, value)
        with naming_stdout():
            _write(sys.stdout, dumps(whole))
            # A reader of the pipe sees each object when it is due, not when a buffer is full.
            if sys.stdout is not None:
                sys.stdout.flush()

    def failure(
        self,
        error: BaseException,
        *,
        type_: str = "error",
        path: str | bytes | None = None,
        target: str | bytes | None = None,
    ) -> int:
        """Report a failure, on stderr and with --json on stdout too.

        Args:
            error: What was raised.
            type_: error where it ends the command, item where others may go on.
            path: The file it is about; where None, what an OSError says.
            target: Where that file's result would have gone.

        Returns:
            The exit code that stands for the error.

        Raises:
            BrokenPipeError: Nobody reads stdout any more.
        """
        code = exitcodes.code_of(error)
        text = exitcodes.sentence_of(error)
        fields: dict[str, Any] = {"path": path, "code": code, "message": text}
        if path is None:
            fields["path"] = getattr(error, "filename", None)
        if target is not None:
            fields["target"] = target
        if self.debug:
            _print_traceback(error)
        if path is not None and getattr(error, "filename", None) is None:
            text = f"{printable(path)}: {text}"
        self.warn(text)
        try:
            # That stdout takes nothing need not be written there.
            if not isinstance(error, _StdoutError):
                self.record(type_, status="failed", error=type(error).__name__, **fields)
        except BrokenPipeError:
            raise
        except OSError as lost:
            # What failed first keeps its code.
            self.warn(exitcodes.sentence_of(lost))
        return code

    def usage(self, error: click.UsageError) -> None:
        """Report what is wrong with the command line itself.

        Raises:
            OSError: As `line`.
        """
        # A group without a command has its whole help as the message.
        bare = type(error).__name__ == "NoArgsIsHelpError"
        message = "a command is missing" if bare else printable(error.format_message())
        if bare and error.ctx is not None:
            _write_error(error.ctx.get_help())
        elif error.ctx is not None:
            _write_error(error.ctx.get_usage())
            _write_error(f"Try '{error.ctx.command_path} --help' for help.")
        self.warn(message)
        self.record(
            "error",
            status="failed",
            code=exitcodes.USAGE,
            error="UsageError",
            message=message,
        )

    def interrupted(self, error: BaseException, code: int) -> None:
        """Report that a signal ended the command, after what it began was cleaned up.

        Raises:
            OSError: As `line`.
        """
        if self.debug:
            _print_traceback(error)
        self.warn("interrupted")
        self.record(
            "error", status="failed", code=code, error="KeyboardInterrupt", message="interrupted"
        )

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows on stdout, as a table on a terminal and in plain columns elsewhere."""
        if self.json:
            return
        if sys.stdout is not None and sys.stdout.isatty():
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text

            table = Table(box=None, pad_edge=False, header_style="bold")
            for heading in headings:
                table.add_column(heading, no_wrap=True)
            for row in rows:
                # A Text, since rich would read [...] in a str as markup.
                table.add_row(*(Text(cell) for cell in row))
            console = Console()
            # rich would cut a key id to fit a narrow terminal; let the terminal wrap it instead.
            unbounded = console.options.update_width(10_000)
            console.width = max(console.width, console.measure(table, options=unbounded).maximum)
            console.print(table)
            return
        every = [headings, *rows]
        widths = [max(len(row[i]) for row in every) for i in range(len(headings))]
        for row in every:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.line("  ".join(cells).rstrip())


class _StdoutError(OSError):
    """Stdout is closed or full."""


@contextlib.contextmanager
def naming_stdout() -> Iterator[None]:
    """Say in the error of a write whose it is: a full disk is told apart from the target's."""
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise _StdoutError(error.errno, error.strerror, "standard output") from None


def printable(text: object) -> str:
    r"""Return a path or a text in a form that a terminal shows and does not obey.

    Control characters (a file may be named `\x1b[2J`), separators of lines and bytes that are not
    UTF-8 come as backslash escapes.
    """
    if isinstance(text, bytes):
        # A lone surrogate stands for each byte that isn't UTF-8, as in every name from the system.
        text = os.fsdecode(text)
    elif isinstance(text, os.PathLike):
        text = os.fsdecode(os.fspath(text))
    text = str(text)
    if text.isprintable():
        return text
    return "".join(_escaped(c) for c in text)


def human_bytes(count: int) -> str:
    """Return a count of bytes as people read it, in units of 1000."""
    if count < 1000:
        return f"{count} B"
    units = ["kB", "MB", "GB", "TB", "PB"]
    value = count / 1000
    # What would be shown as 1000.0 is shown as 1.0 of the next unit.
    while value >= 999.95 and len(units) > 1:
        units.pop(0)
        value /= 1000
    return f"{value:.1f} {units[0]}"


def plural(count: int, thing: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def _path_fields(name: str, value: object) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    raw = os.fsencode(value) if isinstance(value, (str, bytes, os.PathLike)) else b""
    try:
        return {name: raw.decode("utf-8")}
    except UnicodeDecodeError:
        from base64 import b64encode

        return {
            name: raw.decode("utf-8", "replace"),
            f"{name}_base64": b64encode(raw).decode("ascii"),
        }


def _write_error(text: str) -> None:
    # Where nobody can be told, the exit code still says it; the command's work is not undone.
    with contextlib.suppress(OSError):
        _write(sys.stderr, text)


def _print_traceback(error: BaseException) -> None:
    import traceback

    with contextlib.suppress(OSError):
        traceback.print_exception(error)


def _write(stream: IO[str] | None, text: str) -> None:
    if stream is None:  # closed by whoever started us
        return
    try:
        stream.write(text + "\n")
    except UnicodeEncodeError:
        # A terminal in a locale without these characters: their escapes, and never a traceback.
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
