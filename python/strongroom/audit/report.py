"""One HTML page about a log: no script, no network, light and dark, for screens of any width."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple

from strongroom.audit import figures as adding
from strongroom.audit.catalogue import EVENTS
from strongroom.audit.figures import Figures, KeyLife, collect, sentence
from strongroom.audit.page import STATES, page, tile
from strongroom.audit.records import records
from strongroom.audit.verification import verify
from strongroom.errors import AuditIntegrityError

__all__ = ["Written", "write_report"]

_DAYS: Final = 60
_OPERATIONS: Final = ("encrypt", "decrypt", "rewrap", "verify", "failed")


class Written(NamedTuple):
    """What a report tells of.

    Attributes:
        records: Records of the log.
        keys: Keys that it names.
        whole: The log verified.
    """

    records: int
    keys: int
    whole: bool


def write_report(
    log: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    vkey: str | None = None,
    now: datetime | None = None,
) -> Written:
    """Verify a log and write the page.

    Args:
        log: The log's newest file.
        path: Where the page goes; a file there is replaced.
        vkey: As for `verify`.
        now: The moment that "due" is counted to; None for this one.

    Raises:
        AuditError: The log can't be read. One that was changed is reported all the same, and the
            page says so first.
    """
    moment = now or datetime.now(UTC)
    verdict, limits, whole = _verdict(log, vkey)
    figures = collect(records(log))
    body = "".join(
        (
            _head(log, moment, verdict, limits, whole, figures),
            _due(figures, moment),
            _timelines(figures),
            _operations(figures),
            _failures(figures),
            _notable(figures),
            _events(figures),
        )
    )
    temporary = f"{os.fspath(path)}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(page(f"Audit report of {os.path.basename(os.fspath(log))}", body))
    os.replace(temporary, path)
    return Written(figures.records, len(figures.keys) + len(figures.keys_left_out), whole)


def _verdict(log: str | os.PathLike[str], vkey: str | None) -> tuple[str, list[str], bool]:
    try:
        found = verify(log, vkey=vkey, index=False)
    except AuditIntegrityError as error:
        return str(error), [], False
    text = f"{found.size - found.first:,} records verified, {found.covered:,} under a checkpoint"
    return text, found.limits(), True


def _head(
    log: str | os.PathLike[str],
    now: datetime,
    verdict: str,
    limits: list[str],
    whole: bool,
    figures: Figures,
) -> str:
    operations = sum((days for days in figures.days.values()), Counter[str]())
    failed = operations.pop("failed", 0)
    active = sum(key.state == "active" for key in figures.keys.values())
    known = "".join(f"<li>{escape(text)}</li>" for text in limits)
    return (
        f"<header><h1>Audit report</h1><p class=sub><code>{escape(os.fspath(log))}</code>, made "
        f"{_text(now)}; records from {_day(figures.first)} to {_day(figures.last)}</p></header>"
        f'<section class="verdict {"good" if whole else "bad"}" aria-label="Verification">'
        f"<h2>{'The log is whole' if whole else 'The log was changed'}</h2>"
        f"<p>{escape(verdict)}</p>"
        + (f"<details><summary>What this can't know</summary><ul>{known}</ul></details>" * whole)
        + "</section><div class=tiles>"
        + tile("Records", f"{figures.records:,}")
        + tile("Keys", f"{len(figures.keys) + len(figures.keys_left_out):,}", f"{active} active")
        + tile("Operations", f"{operations.total():,}")
        + tile("Failures", f"{failed:,}", bad=failed > 0)
        + "</div>"
    )


def _due(figures: Figures, now: datetime) -> str:
    rows = []
    for key, days in figures.due(int(now.timestamp() * 1000))[:30]:
        late = days >= adding.ORIGINATOR_DAYS
        left = adding.ORIGINATOR_DAYS - days
        word = "due now" if late else f"in {left} days"
        rows.append(
            f"<tr><td>{_id(key)}<td>{escape(key.keyset)}<td class=n>{days:,}"
            f'<td><span class="badge {"warn" if late else ""}">{word}</span>'
        )
    return _section(
        "due",
        "Due for rotation",
        f"Primary keys, by how long they have been in use, against {adding.ORIGINATOR_DAYS} days "
        "(NIST SP 800-57); what your store's policies ask for, <code>strongroom keys due</code> "
        "tells.",
        _table(("Key", "Keyset", "Days in use", "Rotation"), rows, "No active key is in this log."),
    )


def _timelines(figures: Figures) -> str:
    keys = [key for key in figures.keys.values() if key.spans]
    keys.sort(key=lambda key: (key.keyset, key.spans[0].start))
    first, last = figures.first, max(figures.last, figures.first + 1)
    legend = "".join(f'<li><i class="s-{css}"></i>{name}</li>' for name, css in STATES.items())
    rows = []
    for key in keys:
        bars = []
        for state, start, end in key.spans:
            left = 100 * (start - first) / (last - first)
            # A state of seconds in a log of years still shows.
            width = max(100 * ((last if end is None else end) - start) / (last - first), 0.6)
            left = min(left, 100 - width)
            title = f"{state} from {_stamp(start)}" + (f" to {_stamp(end)}" if end else "")
            bars.append(
                f'<i class="s-{STATES[state]}" style="left:{left:.2f}%;width:{width:.2f}%" '
                f'title="{title}"></i>'
            )
        told = "; ".join(f"{state} from {_stamp(start)}" for state, start, _ in key.spans)
        rows.append(
            f"<tr><td>{_id(key)}<td>{escape(key.keyset)}"
            f'<td><div class=lane role=img aria-label="{escape(told)}">{"".join(bars)}</div>'
            f"<td>{escape(key.state)}"
        )
    note = _left_out(len(figures.keys_left_out), "further keys are left out")
    return _section(
        "keys",
        "Keys and their states",
        f"From {_day(figures.first)} (left) to {_day(figures.last)} (right).{note}"
        f"</p><ul class=legend>{legend}</ul><p>",
        _table(
            ("Key", "Keyset", "States", "Now"),
            rows,
            "No event in the life of a key is in this log.",
            "wide",
        ),
    )


def _operations(figures: Figures) -> str:
    days = sorted(figures.days)[-_DAYS:]
    highest = max((figures.days[day].total() for day in days), default=0)
    columns = []
    for day in days:
        counts = figures.days[day]
        parts = "".join(
            f'<i class="o-{name}" style="height:{100 * counts[name] / highest:.2f}%"></i>'
            for name in reversed(_OPERATIONS)
            if counts[name]
        )
        told = ", ".join(f"{counts[name]:,} {name}" for name in _OPERATIONS if counts[name])
        columns.append(f'<li title="{day}: {told}">{parts}</li>')
    rows = [
        f"<tr><td>{day}"
        + "".join(f"<td class=n>{figures.days[day][name]:,}" for name in _OPERATIONS)
        for day in reversed(days)
    ]
    legend = "".join(f'<li><i class="o-{name}"></i>{name}</li>' for name in _OPERATIONS)
    chart = (
        f"<ul class=legend>{legend}</ul><p class=axis>most on a day: {highest:,}</p>"
        f"<ol class=chart aria-hidden=true>{''.join(columns)}</ol>"
        f"<p class=ends><span>{days[0]}</span><span>{days[-1]}</span></p>"
        if days
        else ""
    )
    table = _table(("Day", *_OPERATIONS), rows, "No operation on data is in this log.")
    if days:
        table = f"<details><summary>The figures</summary>{table}</details>"
    note = _left_out(len(figures.days) - len(days), "earlier days are left out")
    return _section("operations", "Operations a day", f"Days in UTC.{note}", chart + table)


def _failures(figures: Figures) -> str:
    rows = []
    for key in figures.failing()[:50]:
        total = key.failures.total()
        share = 100 * total / (total + key.operations.total())
        part = f"{share:.1f} %" if share >= 0.1 else "under 0.1 %"
        kinds = ", ".join(f"{name} {count:,}" for name, count in key.failures.most_common())
        rows.append(f"<tr><td>{_id(key)}<td class=n>{total:,}<td class=n>{part}<td>{escape(kinds)}")
    return _section(
        "failures",
        "Failures by key",
        "A message that did not open under a key: damaged, of another context, or of another key.",
        _table(("Key", "Failures", "Of its calls", "Kinds"), rows, "None."),
    )


def _notable(figures: Figures) -> str:
    rows = [
        f"<tr><td class=n>{record.seq}<td class=t>{escape(record.time[:19])}Z"
        f"<td><b>{escape(record.name)}</b>{' <span class=badge>failed</span>' * record.failed}"
        f"<td class=long>{escape(sentence(record))}"
        for record in reversed(figures.notable)
    ]
    note = _left_out(figures.notable_left_out, "earlier ones are left out")
    return _section(
        "notable",
        "Worth a look",
        f"Events of medium severity and above, newest first.{note}",
        _table(("Record", "Time", "Event", "What it says"), rows, "None."),
    )


def _events(figures: Figures) -> str:
    rows = [
        f"<tr><td>{escape(name)}<td class=n>{count:,}"
        f"<td>{escape(EVENTS[name].text if name in EVENTS else '')}"
        for name, count in figures.events.most_common()
    ]
    return _section(
        "events", "All events", "", _table(("Event", "Records", "Meaning"), rows, "None.")
    )


def _section(anchor: str, title: str, text: str, content: str) -> str:
    return (
        f"<section aria-labelledby={anchor}><h2 id={anchor}>{title}</h2>"
        f"<p class=sub>{text}</p>{content}</section>"
    )


def _table(headings: Iterable[str], rows: list[str], empty: str, css: str = "") -> str:
    if not rows:
        return f"<p>{empty}</p>"
    head = "".join(f"<th scope=col>{heading}" for heading in headings)
    # The region scrolls by itself on a narrow screen, and with the keyboard too.
    return (
        f'<div class=scroll tabindex=0 role=region aria-label="Table"><table class="{css}">'
        f"<thead><tr>{head}<tbody>{''.join(rows)}</table></div>"
    )


def _id(key: KeyLife) -> str:
    short = key.key_id if len(key.key_id) <= 12 else f"{key.key_id[:12]}…"
    return f'<code title="{escape(key.key_id)}">{escape(short)}</code>'


def _left_out(count: int, text: str) -> str:
    return f" {count:,} {text}." if count > 0 else ""


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _stamp(milliseconds: int) -> str:
    return _text(datetime.fromtimestamp(milliseconds / 1000, UTC))


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")
