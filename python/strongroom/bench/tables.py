"""Tables of a document, as lists of cells: the terminal and the report draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import targets
from .works import ONE_THREAD, TWO_THREADS

Table = tuple[list[str], list[list[str]]]

ENGINE_NAMES = {"default": "default", "aes-gcm": "aes-gcm forced", "aws-lc": "aws-lc forced"}


def row_table(document: Mapping[str, Any]) -> Table:
    """Return the rows of the targets, with the forced engines' figures beside the default's."""
    others = [engine for engine in ("aes-gcm", "aws-lc") if engine in document["engines"]]
    beside = {
        engine: {(row.work, row.against): row.seen for row in targets.rows(document, engine)}
        for engine in others
    }
    headings = ["work", "against", "to reach", "seen", "verdict", "control", *others]
    table = []
    for row in targets.rows(document):
        control = "" if row.control is None else f"{row.control:.2f}"
        cells = [row.work, row.against, row.target, row.seen, row.verdict, control]
        cells += [beside[engine].get((row.work, row.against), "") for engine in others]
        table.append(cells)
    return headings, table


def group_table(group: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the contenders of one group, in the order in which they were given."""
    headings = ["contender", "median", "quartiles", "rate", "rounds"]
    table = []
    for name, found in group.items():
        rate = found["size"] / found["median"] if found["size"] else None
        table.append(
            [
                name,
                seconds(found["median"]),
                f"{seconds(found['low'])} to {seconds(found['high'])}",
                "" if rate is None else rate_words(rate),
                str(found["rounds"]),
            ]
        )
    return headings, table


def rate_table(document: Mapping[str, Any], work: str) -> Table:
    """Return the rates of all contenders at all sizes of one work, in GB/s, for every engine."""
    series = rates(document, work)
    sizes = sorted({size for points in series.values() for size, _ in points})
    table = []
    for name, points in series.items():
        at = dict(points)
        cells = [f"{at[size] / 1e9:.3g}" if size in at else "" for size in sizes]
        table.append([name, *cells])
    from .works import human

    return ["GB/s", *(human(size) for size in sizes)], table


def rates(document: Mapping[str, Any], work: str) -> dict[str, list[tuple[int, float]]]:
    """Return for each contender its rates in bytes a second by size, of "encrypt" or "decrypt"."""
    series: dict[str, list[tuple[int, float]]] = {}
    for engine, found in document["engines"].items():
        for group, contenders in found["groups"].items():
            words = group.split(" ")
            # "encrypt 64 KiB", not "encrypt file 1 GiB".
            if len(words) != 3 or words[0] != work or not words[1].isdigit():
                continue
            for name, measured in contenders.items():
                if name in (ONE_THREAD, TWO_THREADS):
                    continue
                ours = name.startswith("strongroom")
                if engine != "default" and not ours:
                    continue
                label = name if engine == "default" else f"{name}, {engine}"
                point = (measured["size"], measured["size"] / measured["median"])
                series.setdefault(label, []).append(point)
    for points in series.values():
        points.sort()
    return series


def memory_table(document: Mapping[str, Any]) -> Table:
    """Return the peaks over the idle interpreter, in MiB, by operation and size."""
    measured = document["memory"]
    operations = dict.fromkeys(name for peaks in measured.values() for name in peaks)

    def cell(peaks: Mapping[str, int], name: str) -> str:
        return f"{peaks[name] / (1 << 20):.1f}" if name in peaks else ""

    return ["MiB over idle", *measured], [
        [name, *(cell(peaks, name) for peaks in measured.values())] for name in operations
    ]


def held_up_table(document: Mapping[str, Any]) -> Table:
    """Return the longest pauses of another thread by call, in ms."""
    return ["call", "by us (GIL), ms", "in all, ms", "the call, ms", "runs"], [
        [
            name,
            *(f"{value[kind] * 1e3:.1f}" for kind in ("gil", "wall", "call")),
            f"{value['runs']:.0f}",
        ]
        for name, value in document["held_up"].items()
    ]


def summary(document: Mapping[str, Any]) -> str:
    """Return all of a document that a person reads on a terminal."""
    machine, build = document["machine"], document["build"]
    parts = [
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['system']}, {machine['file_system']}",
        f"engine {build['engine']}, {build['threads']} threads, profile {build['profile']}",
        ", ".join(
            f"{name} {version or 'not installed'}" for name, version in document["versions"].items()
        ),
    ]
    for work in ("encrypt", "decrypt"):
        parts += ["", f"{work} one buffer", plain(rate_table(document, work))]
    if document["memory"]:
        parts += ["", "peak memory", plain(memory_table(document))]
    if document["held_up"]:
        words = "another Python thread is held up for at most"
        parts += ["", words, plain(held_up_table(document))]
    headings, rows = row_table(document)
    # The forced engines' columns are for the report: a terminal is narrow.
    parts += ["", plain((headings[:6], [row[:6] for row in rows]))]
    if document["left_out"]:
        parts += ["", "left out:"]
        parts += [f"  {name}: {why}" for name, why in document["left_out"].items()]
    return "\n".join(parts)


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    headings, rows = table
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines)


def plain(table: Table) -> str:
    """Return a table in columns of spaces."""
    headings, rows = table
    every: Sequence[Sequence[str]] = [headings, *rows]
    widths = [max(len(line[i]) for line in every) for i in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in every
    )


def seconds(value: float) -> str:
    """Return a time with three digits and the unit that fits."""
    for factor, unit in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if value * factor < 999.5:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"


def rate_words(rate: float) -> str:
    """Return bytes a second with three digits."""
    return f"{rate / 1e9:.3g} GB/s" if rate >= 1e8 else f"{rate / 1e6:.3g} MB/s"
