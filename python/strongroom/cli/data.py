"""What `encrypt`, `decrypt`, `verify` and `rewrap` have in common: options, and their meaning."""

# ruff: noqa: ANN401  (click calls with keywords of many types)

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import click

from strongroom.cli import options
from strongroom.cli.openers import Openers
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.targets import PIPE
from strongroom.cli.transfer import Transfer

sources = click.argument("sources", metavar="FILE...", nargs=-1, required=True, type=options.PATH)
recursive = click.option("-r", "--recursive", is_flag=True, help="Take whole directories.")
target = click.option(
    "-o",
    "--output",
    "target",
    metavar="PATH",
    type=options.PATH,
    help="Write here, - for stdout; with -r or several FILEs a directory.",
)
suffix = click.option(
    "--suffix", default=".srm", show_default=True, help="What an encrypted file's name ends in."
)
force = click.option("-f", "--force", is_flag=True, help="Replace targets that are there.")
allow_compromised = click.option(
    "--allow-compromised",
    is_flag=True,
    help="Open under a compromised key too: whoever has it can have written this.",
)


with_master = click.option(
    "--with-master",
    metavar="URI",
    help="Open by this master, which has a slot in the file itself; no key store is needed.",
)


class Command(click.Command):
    """A command whose short options are found at once: scripts run it for each file.

    click looks for `-o` among the long options first. Where it isn't there, it imports difflib and
    searches for what may have been meant, which nobody sees, since the short options come next:
    4 ms for each.
    """

    def make_parser(self, ctx: click.Context) -> Any:
        """Return click's parser, with the short options among the long ones too."""
        parser: Any = super().make_parser(ctx)
        # No interface of click's: where it is gone, only the time is lost.
        with contextlib.suppress(AttributeError):
            parser._long_opt.update(parser._short_opt)
        return parser


def passphrase(text: str) -> Callable[[options.F], options.F]:
    """Return the option -p with this help."""
    return click.option("-p", "--passphrase", "with_passphrase", is_flag=True, help=text)


passphrase_if_asked = passphrase(
    "Open with a passphrase. Files made with -p ask for it without this, pipes do not."
)


def transfer(
    command: str,
    context: click.Context,
    /,
    *,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    with_passphrase: bool = False,
    with_master: str | None = None,
    **settings: Any,
) -> Transfer:
    """Return the work of a command, whose other options have their meaning there.

    Raises:
        click.UsageError: Options that exclude each other.
    """
    if with_master is not None and (
        context.params.get("recursive") or PIPE in context.params.get("sources", ())
    ):
        raise click.UsageError("--with-master opens files, one by one: no pipes, and not with -r")
    if passphrase_source.fd == 0 and PIPE in context.params.get("sources", ()):
        raise click.UsageError("stdin can't be the data and the passphrase")
    openers = Openers(
        context,
        store=store,
        master=master,
        passphrase_source=passphrase_source,
        with_passphrase=with_passphrase,
        with_master=with_master,
    )
    return Transfer(command, context.obj, openers, **settings)
