"""`strongroom rewrap`: its options, and what they mean."""

# ruff: noqa: ANN401  (click calls with keywords of many types)

from __future__ import annotations

from typing import Any

import click

from strongroom.cli import data, options
from strongroom.cli.targets import check_sources


@click.command(cls=data.Command)
@data.sources
@data.recursive
@click.option("--copy", is_flag=True, help="Write each file anew and rename it: see the manual.")
@data.passphrase("Where the old key is compromised: the passphrase that opens the files too.")
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
    with data.transfer("rewrap", context, copy=copy, **settings) as transfer:
        if recursive:
            return transfer.tree(sources)
        return transfer.each([(source, None) for source in sources], transfer.rewrap)
