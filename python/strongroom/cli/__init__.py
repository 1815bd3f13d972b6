"""The command line: `strongroom init | keys | encrypt | decrypt | verify | rewrap | ...`.

It parses, calls the library, prints, and turns exceptions into exit codes; it holds no
cryptography and walks no directories. docs/cli.md is its manual.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line on `sys.argv` and leave the process with an exit code.

    This is the console script's entry. What is imported before it costs every command's
    start-up, so the rest of the package comes in here, where Ctrl-C is already caught.

    Raises:
        SystemExit: Always, with one of `strongroom.cli.exitcodes`.
    """
    try:
        from strongroom.cli.app import run

        code = run()
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)
