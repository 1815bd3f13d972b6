"""`strongroom completion`: the shell's side of completion."""

from __future__ import annotations

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.output import Output

_HOW_TO = {
    "bash": 'eval "$(strongroom completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(strongroom completion zsh)"   in ~/.zshrc',
    "fish": "strongroom completion fish > ~/.config/fish/completions/strongroom.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_HOW_TO)))
@options.unaudited
@click.pass_obj
def completion(out: Output, shell: str) -> int:
    """Print the completion script of a shell, to be evaluated in its start-up file."""
    from click.shell_completion import get_completion_class

    from strongroom.cli.app import COMPLETION_VARIABLE, cli

    cls = get_completion_class(shell)
    assert cls is not None  # noqa: S101 - click has the three of _HOW_TO
    script = cls(cli, {}, "strongroom", COMPLETION_VARIABLE).source()
    out.record("item", status="ok", kind="completion", shell=shell, script=script)
    out.line(script.rstrip("\n"))
    if not out.json:
        import sys

        if sys.stdout is not None and sys.stdout.isatty():
            out.note(f"to use it: {_HOW_TO[shell]}")
    return exitcodes.OK
