"""Throughput against size, both axes logarithmic, as SVG; PNG where matplotlib is installed.

Readable in black and white: a series is told by its dashes, its marks and its label at the end of
the line, and only ours are drawn heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from .tables import rates
from .works import ENVELOPE, RECORD, human

Series = Mapping[str, Sequence[tuple[int, float]]]

_WIDTH: Final = 960
_HEIGHT: Final = 560
_LEFT: Final = 70
_RIGHT: Final = 210
_TOP: Final = 46
_BOTTOM: Final = 56
_FONT: Final = 13
_LABEL_STEP: Final = 16

_DASHES: Final = ("5 5", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 4", "6 2 1 2 1 2")
_OURS: Final = (RECORD, ENVELOPE)


class PlotError(ValueError):
    """The plot can't be written as that name asks."""


def series_of(document: Mapping[str, Any], work: str) -> dict[str, list[tuple[int, float]]]:
    """Return the series of a plot: ours with new outputs, on the default engine, and the peers."""
    every = rates(document, work)
    first = {name: every[name] for name in _OURS if name in every}
    peers = {name: points for name, points in every.items() if not name.startswith("strongroom")}
    return first | peers


def write(document: Mapping[str, Any], path: str | Path, work: str = "encrypt") -> None:
    """Write the plot of one work.

    Args:
        document: A document of `runner.run`.
        path: Where to, with the suffix .svg or .png.
        work: "encrypt" or "decrypt".

    Raises:
        PlotError: Another suffix, .png without matplotlib, or nothing to plot.
    """
    path = Path(path)
    series = series_of(document, work)
    if not series:
        raise PlotError(f"nothing was measured that a plot of {work!r} could show")
    title = f"{work} one buffer, GB/s against bytes"
    check(path)
    if path.suffix.lower() == ".svg":
        path.write_text(svg(series, title, _caption(document)), encoding="utf-8")
    else:
        _png(series, title, _caption(document), path)


def check(path: str | Path) -> None:
    """Raise PlotError if a plot of that name can't be written, before anything is measured."""
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        try:
            import matplotlib  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
        except ImportError:
            raise PlotError(
                "a .png plot needs matplotlib (pip install matplotlib); .svg needs nothing"
            ) from None
    elif suffix != ".svg":
        raise PlotError(f"{path}: a plot is written as .svg or .png")


def svg(series: Series, title: str, caption: str) -> str:
    """Return the plot as SVG text.

    Args:
        series: For each name points of (bytes, bytes a second), in order of size.
        title: The line above.
        caption: The line below.
    """
    sizes = sorted({size for points in series.values() for size, _ in points})
    every = [rate for points in series.values() for _, rate in points]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    first, last = math.log2(sizes[0]), math.log2(sizes[-1])
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(size: float) -> float:
        return _LEFT + width * (math.log2(size) - first) / ((last - first) or 1)

    def y(rate: float) -> float:
        return _TOP + height * (high - math.log10(rate)) / ((high - low) or 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="{_FONT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 26, title, size=16, weight="bold"),
        _text(_LEFT, _HEIGHT - 10, caption, size=11, fill="#555"),
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(_line(_LEFT, at, _LEFT + width, at, "#ccc"))
        parts.append(_text(_LEFT - 8, at + 4, _rate_label(power), anchor="end"))
        for digit in range(2, 10) if power < high else ():
            at = y(digit * 10.0**power)
            parts.append(_line(_LEFT, at, _LEFT + width, at, "#f0f0f0"))
    for size in sizes:
        at = x(size)
        parts.append(_line(at, _TOP, at, _TOP + height, "#e4e4e4"))
        parts.append(_text(at, _TOP + height + 20, human(size), anchor="middle", size=11))
    parts.append(_line(_LEFT, _TOP, _LEFT, _TOP + height, "#000"))
    parts.append(_line(_LEFT, _TOP + height, _LEFT + width, _TOP + height, "#000"))
    labels = []
    # Ours last, so that they lie on top.
    for number, (name, points) in reversed(list(enumerate(series.items()))):
        ours = name in _OURS
        colour = "#000" if ours else "#555"
        dash = "none" if ours else _DASHES[number % len(_DASHES)]
        places = [(x(size), y(rate)) for size, rate in points]
        drawn = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{colour}" '
            f'stroke-width="{3 if ours else 1.3}" stroke-dasharray="{dash}"/>'
        )
        parts += [_mark(number, px, py, colour) for px, py in places]
        labels.append((places[-1][1], places[-1][0], name, number, ours))
    parts += _labels(labels, _LEFT + width, _TOP + height)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _labels(
    labels: list[tuple[float, float, str, int, bool]], right: float, bottom: float
) -> list[str]:
    """Write each series' name beside the end of its line, moved apart where they would touch."""
    labels.sort()
    places: list[float] = []
    for at, *_ in labels:
        places.append(max(at, places[-1] + _LABEL_STEP) if places else at)
    limit = bottom
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], limit)
        limit = places[i] - _LABEL_STEP
    parts = []
    for place, (at, end, name, number, ours) in zip(places, labels, strict=True):
        colour = "#000" if ours else "#555"
        parts.append(_line(end + 6, at, right + 20, place, "#bbb"))
        parts.append(_mark(number, right + 28, place, colour))
        weight = "bold" if ours else "normal"
        parts.append(_text(right + 38, place + 4, name, weight=weight))
    return parts


def _mark(number: int, x: float, y: float, colour: str) -> str:
    """Return one of ten marks, full or hollow."""
    fill = colour if number % 2 == 0 else "#fff"
    style = f'fill="{fill}" stroke="{colour}" stroke-width="1.3"'
    shape = number // 2 % 5
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {style}/>'
    if shape == 1:
        return f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" {style}/>'
    if shape == 4:
        points = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"
    else:
        tip, base = (y - 4.6, y + 3.4) if shape == 2 else (y + 4.6, y - 3.4)
        points = f"{x:.1f},{tip:.1f} {x - 4.4:.1f},{base:.1f} {x + 4.4:.1f},{base:.1f}"
    return f'<polygon points="{points}" {style}/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = _FONT,
    weight: str = "normal",
    fill: str = "#000",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{fill}">{escape(text)}</text>'
    )


def _rate_label(power: int) -> str:
    for least, unit in ((9, "GB/s"), (6, "MB/s"), (3, "kB/s")):
        if power >= least:
            return f"{10 ** (power - least)} {unit}"
    return f"{10**power} B/s"


def _caption(document: Mapping[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs; strongroom {versions['strongroom']}, "
        f"cryptography {versions['cryptography']}, CPython {versions['python']}; medians of one run"
    )


def _png(series: Series, title: str, caption: str, path: Path) -> None:
    from importlib import import_module

    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(9.6, 5.6))
    marks = "ooss^^vvDD"
    for number, (name, points) in enumerate(series.items()):
        ours = name in _OURS
        axes.plot(
            [size for size, _ in points],
            [rate / 1e9 for _, rate in points],
            label=name,
            color="black" if ours else "0.4",
            linewidth=2.6 if ours else 1.1,
            linestyle="-" if ours else (0, _pattern(number)),
            marker=marks[number % len(marks)],
            markerfacecolor="white" if number % 2 else None,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylabel("GB/s")
    sizes = sorted({size for points in series.values() for size, _ in points})
    axes.set_xticks(sizes, [human(size) for size in sizes], rotation=30)
    axes.set_title(title)
    axes.grid(visible=True, which="both", color="0.9")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.text(0.01, 0.01, caption, fontsize=7, color="0.3")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def _pattern(number: int) -> tuple[float, ...]:
    dashes = _DASHES[number % len(_DASHES)]
    return tuple(float(part) for part in dashes.split()) if dashes else (1.0, 0.0)
