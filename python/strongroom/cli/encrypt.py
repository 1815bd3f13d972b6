"""`strongroom encrypt`: its options, and what they mean."""

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
@data.passphrase("Encrypt under a passphrase; no key store is needed, nor used unless named here.")
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
    with data.transfer("encrypt", context, **settings) as transfer:
        if recursive:
            return transfer.tree(sources, target)
        return transfer.each(named_targets(sources, target, add=suffix), transfer.encrypt)
