"""`strongroom verify`: its options, and what they mean."""

# ruff: noqa: ANN401  (click calls with keywords of many types)

from __future__ import annotations

from typing import Any

import click

from strongroom.cli import data, options
from strongroom.cli.targets import check_sources


@click.command(cls=data.Command)
@data.sources
@data.recursive
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
@options.common
@click.pass_context
def verify(
    context: click.Context, /, sources: tuple[str, ...], recursive: bool, **settings: Any
) -> int:
    """Check that each FILE authenticates, all of it, and write nothing; - is stdin."""
    check_sources(sources, recursive=recursive)
    with data.transfer("verify", context, **settings) as transfer:
        if recursive:
            return transfer.tree(sources)
        return transfer.each([(source, None) for source in sources], transfer.verify)
