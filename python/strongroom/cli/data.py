"""`strongroom encrypt`, `decrypt`, `verify` and `rewrap`: their options, and what they mean."""

# ruff: noqa: ANN401  (click calls with keywords of many types)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from strongroom.cli import options
from strongroom.cli.openers import Openers
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.targets import PIPE, check_sources, named_targets
from strongroom.cli.transfer import Transfer

_sources = click.argument("sources", metavar="FILE...", nargs=-1, required=True, type=options.PATH)
_recursive = click.option("-r", "--recursive", is_flag=True, help="Take whole directories.")
_target = click.option(
    "-o",
    "--output",
    "target",
    metavar="PATH",
    type=options.PATH,
    help="Write here, - for stdout; with -r or several FILEs a directory.",
)
_suffix = click.option(
    "--suffix", default=".srm", show_default=True, help="What an encrypted file's name ends in."
)
_force = click.option("-f", "--force", is_flag=True, help="Replace targets that are there.")
_allow_compromised = click.option(
    "--allow-compromised",
    is_flag=True,
    help="Open under a compromised key too: whoever has it can have written this.",
)


_with_master = click.option(
    "--with-master",
    metavar="URI",
    help="Open by this master, which has a slot in the file itself; no key store is needed.",
)


def _passphrase(text: str) -> Callable[[options.F], options.F]:
    return click.option("-p", "--passphrase", "with_passphrase", is_flag=True, help=text)


@click.command()
@_sources
@_target
@_recursive
@_suffix
@_force
@_passphrase("Encrypt under a passphrase; no key store is needed, nor used unless named here.")
@options.passphrase_sources
@options.associated_data
@options.keyset
@options.store
@options.jobs
@options.dry_run
@options.common
@click.pass_context
def encrypt(
    context: click.Context,
    /,
    sources: tuple[str, ...],
    target: str | None,
    recursive: bool,
    suffix: str,
    **settings: Any,
) -> int:
    """Encrypt each FILE to FILE.srm beside it, or to what -o says; - is stdin, to stdout.

    The sources stay. With -r, SRC/a/b becomes DST/a/b.srm, where DST is what -o says.
    """
    check_sources(sources, recursive=recursive, target=target, needs_target=True, suffix=suffix)
    settings |= {"suffix": suffix, "to_terminal": target == PIPE}
    with _transfer("encrypt", context, **settings) as transfer:
        if recursive:
            return transfer.tree(sources, target)
        return transfer.each(named_targets(sources, target, add=suffix), transfer.encrypt)


@click.command()
@_sources
@_target
@_recursive
@_suffix
@_force
@_passphrase("Open with a passphrase. Files made with -p ask for it without this, pipes do not.")
@options.passphrase_sources
@options.associated_data
@_allow_compromised
@_with_master
@options.keyset
@options.store
@options.jobs
@options.dry_run
@options.common
@click.pass_context
def decrypt(
    context: click.Context,
    /,
    sources: tuple[str, ...],
    target: str | None,
    recursive: bool,
    suffix: str,
    **settings: Any,
) -> int:
    """Decrypt each FILE.srm to FILE beside it, or to what -o says; - is stdin, to stdout.

    The sources stay. A file gets its name only when all of it has authenticated. To stdout each
    chunk comes once it has: on exit code 13 what came is true and is not all. With -r files
    without the suffix are left out, which is exit code 3.
    """
    check_sources(sources, recursive=recursive, target=target, needs_target=True, suffix=suffix)
    if target == PIPE and settings["with_master"] is not None:
        raise click.UsageError("--with-master opens files, and writes files: name one by -o")
    with _transfer("decrypt", context, suffix=suffix, **settings) as transfer:
        if recursive:
            return transfer.tree(sources, target)
        return transfer.each(named_targets(sources, target, remove=suffix), transfer.decrypt)


@click.command()
@_sources
@_recursive
@_passphrase("Open with a passphrase. Files made with -p ask for it without this, pipes do not.")
@options.passphrase_sources
@options.associated_data
@_allow_compromised
@_with_master
@options.keyset
@options.store
@options.jobs
@options.common
@click.pass_context
def verify(
    context: click.Context, /, sources: tuple[str, ...], recursive: bool, **settings: Any
) -> int:
    """Check that each FILE authenticates, all of it, and write nothing; - is stdin."""
    check_sources(sources, recursive=recursive)
    with _transfer("verify", context, **settings) as transfer:
        if recursive:
            return transfer.tree(sources)
        return transfer.each([(source, None) for source in sources], transfer.verify)


@click.command()
@_sources
@_recursive
@click.option("--copy", is_flag=True, help="Write each file anew and rename it: see the manual.")
@_passphrase("Where the old key is compromised: the passphrase that opens the files too.")
@options.passphrase_sources
@options.associated_data
@options.keyset
@options.store
@options.jobs
@options.dry_run
@options.common
@click.pass_context
def rewrap(
    context: click.Context,
    /,
    sources: tuple[str, ...],
    recursive: bool,
    copy: bool,
    **settings: Any,
) -> int:
    """Bring each FILE to the keyset's current key, in place: a slot changes, the data does not.

    This does not revoke: whoever opened the file before can still read it. A file whose old key
    is compromised is encrypted anew instead, and that needs its associated data.
    """
    check_sources(sources, recursive=recursive, pipes=False)
    with _transfer("rewrap", context, copy=copy, **settings) as transfer:
        if recursive:
            return transfer.tree(sources)
        return transfer.each([(source, None) for source in sources], transfer.rewrap)


def _transfer(
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
