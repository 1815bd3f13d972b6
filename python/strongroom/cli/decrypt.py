"""`strongroom decrypt`: its options, and what they mean."""

# ruff: noqa: ANN401  (click calls with keywords of many types)

from __future__ import annotations

from typing import Any

import click

from strongroom.cli import data, options
from strongroom.cli.targets import PIPE, check_sources, named_targets


@click.command(cls=data.Command)
@data.sources
@data.target
@data.recursive
@data.suffix
@data.force
@data.passphrase(
    "Open with a passphrase. Files made with -p ask for it without this, pipes do not."
)
@options.passphrase_sources
@options.associated_data
@data.allow_compromised
@data.with_master
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
    with data.transfer("decrypt", context, suffix=suffix, **settings) as transfer:
        if recursive:
            return transfer.tree(sources, target)
        return transfer.each(named_targets(sources, target, remove=suffix), transfer.decrypt)
