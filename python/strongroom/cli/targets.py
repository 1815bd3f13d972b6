"""Where the result of each named file goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import click

PIPE: Final = "-"


def check_sources(
    sources: Sequence[str],
    *,
    recursive: bool,
    target: str | None = None,
    needs_target: bool = False,
    pipes: bool = True,
    suffix: str | None = None,
) -> None:
    """Refuse combinations of sources and target that mean nothing.

    Raises:
        click.UsageError: Says which.
    """
    if PIPE in sources and not pipes:
        raise click.UsageError("stdin can't be changed in place")
    if PIPE in sources and len(sources) > 1:
        raise click.UsageError("- (stdin) must be the only FILE")
    if recursive and (PIPE in sources or target == PIPE):
        raise click.UsageError("-r works on directories, not on stdin or stdout")
    if recursive and needs_target and target is None:
        raise click.UsageError("-r needs -o, the directory to write to")
    if suffix is not None and (not suffix or "/" in suffix):
        raise click.UsageError("--suffix must not be empty and has no /")
    if any(not source for source in sources):
        raise click.UsageError("a FILE's name can't be empty")
    bases = {os.path.basename(os.path.abspath(source)) for source in sources}
    if recursive and needs_target and len(bases) < len(sources):
        raise click.UsageError("two FILEs have the same base name, and would be mixed")


def named_targets(
    sources: Sequence[str], target: str | None, *, add: str = "", remove: str = ""
) -> list[tuple[str, str | None]]:
    """Return each source with the path that it is written to, None for stdout.

    Args:
        sources: Names of files, or `-` alone.
        target: What -o says, or None: beside the source.
        add: The suffix that the name gets.
        remove: The suffix that the name loses.

    Raises:
        click.UsageError: A name has not the suffix to remove, two sources would go to one
            target, or several sources have a target that is no directory.
    """
    if target is not None and len(sources) == 1:
        return [(sources[0], None if target == PIPE else target)]
    if list(sources) == [PIPE]:
        return [(PIPE, None)]
    if target is not None and not os.path.isdir(target):
        raise click.UsageError("with several FILEs, -o must be a directory that is there")
    pairs: list[tuple[str, str | None]] = []
    for source in sources:
        name = source + add
        if remove:
            name = source.removesuffix(remove)
            if name == source or os.path.basename(name) == "":
                raise click.UsageError(f"{source}: the name does not end in {remove}: give -o")
        if target is not None:
            name = os.path.join(target, os.path.basename(name))
        pairs.append((source, name))
    if len({name for _, name in pairs}) < len(pairs):
        raise click.UsageError("two FILEs would be written to one target")
    return pairs
