"""Puts the main plot and table of a document between two marks of README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strongroom.bench import tables, targets

BEGIN = "<!-- make bench writes from here -->"
END = "<!-- to here -->"


class NoMarks(ValueError):
    """The text has not exactly one of each mark, in their order."""


def refresh(text: str, document: Mapping[str, Any]) -> str:
    """Return `text` with what stood between the marks replaced.

    Raises:
        NoMarks: There is no such place, or more than one.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise NoMarks(f"{BEGIN} and {END} must each stand there once, in this order")
    return f"{before}{BEGIN}\n\n{block(document)}\n\n{END}{after}"


def block(document: Mapping[str, Any]) -> str:
    """Return the plot, the rows that were measured, and what they were measured on."""
    machine, versions = document["machine"], document["versions"]
    rows = [
        [row.work, row.against or "-", row.seen, row.target, _control(row)]
        for row in targets.rows(document)
        if row.value is not None
    ]
    peers = ", ".join(
        f"{name} {version}"
        for name, version in versions.items()
        if version and name not in ("strongroom", "python", "cp")
    )
    return "\n\n".join(
        [
            "![Throughput against size, ours and each peer's](benches/encrypt.svg)",
            tables.markdown((["work", "against", "seen", "to reach", "control"], rows)),
            f"One run of `make bench` on {machine['cpu']}, {machine['cpus']} CPUs, "
            f"{machine['system']}, CPython {versions['python']}; {peers}. Ratios are of medians of "
            "the same turns. The control is what two threads of AESGCM gave over one in those "
            "turns: rows that use two cores mean little where it is under "
            f"{targets.CONTROL_MIN:g}. All of it: [benches/REPORT.md](benches/REPORT.md).",
        ]
    )


def _control(row: targets.Row) -> str:
    return "" if row.control is None else f"{row.control:.2f}"
