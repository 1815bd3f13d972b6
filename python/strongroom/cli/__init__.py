"""The command line: `strongroom init | keys | encrypt | decrypt | verify | rewrap | ...`.

It parses, calls the library, prints, and turns exceptions into exit codes; it holds no
cryptography and walks no directories. docs/cli.md is its manual.
"""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]

# Of objects more than there were. A command that imports what it needs and ends makes fewer: it
# takes a fifth longer where cycles are looked for among them, again and again and once more at the
# end.
_GARBAGE = 100_000


def main() -> None:
    """Run the command line on `sys.argv` and leave the process with an exit code.

    This is the console script's entry. What is imported before it costs every command's
    start-up, so the rest of the package comes in here, where Ctrl-C is already caught.

    Raises:
        SystemExit: Always, with one of `strongroom.cli.exitcodes`.
    """
    gc.set_threshold(_GARBAGE)
    try:
        if sys.argv[1:] == ["--version"] and _say_version():
            raise SystemExit(0)
        from strongroom.cli.app import run

        code = run()
    except KeyboardInterrupt:
        code = 130
    finally:
        # Files and stores are closed by now, and keys are wiped wherever they are.
        gc.freeze()
    raise SystemExit(code)


def _say_version() -> bool:
    """Answer the one question that needs no parser, or return False where that fails.

    Importing click takes longer than all else that `strongroom --version` does. Where the
    extension does not load, or stdout is closed, full or a broken pipe, `run` says so as it does
    for any command.
    """
    try:
        from strongroom import __version__

        sys.stdout.write(f"strongroom {__version__}\n")
        sys.stdout.flush()
    except Exception:
        return False
    return True
