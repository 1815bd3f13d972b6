"""`strongroom audit`: what an audit log holds, and whether it is whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output, human_bytes, plural, printable

if TYPE_CHECKING:
    from strongroom.audit import Record

_AGO: Final = re.compile(r"(\d+)([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.group()
def audit() -> None:
    """Verify, show, prove and report what an audit log holds.

    LOG is the log's newest file; the rotated ones are found beside it.
    """


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--until", metavar="TIME", help="Before this time, as --since."),
        click.option(
            "--since",
            metavar="TIME",
            help="From this time on: 2026-11-25, 2026-11-25T13:00, or 90m, 24h, 7d ago.",
        ),
        click.option("--outcome", type=click.Choice(["success", "failure"]), help="How it ended."),
        click.option(
            "--event", metavar="NAME", help="An event or its beginning: key, key.rotated."
        ),
        click.option("--key", metavar="ID", help="A key's id, or the beginning of one."),
    ):
        command = option(command)
    return command


_log = click.argument("log", type=options.PATH, envvar="STRONGROOM_AUDIT")
_vkey = click.option(
    "--vkey",
    metavar="KEY|FILE",
    help="The log's public key as you know it [default: the one beside the log].",
)


@audit.command()
@_log
@_vkey
@click.option(
    "--checkpoint",
    "checkpoints",
    metavar="FILE",
    type=options.PATH,
    multiple=True,
    help="A checkpoint that was kept elsewhere; again for more.",
)
@options.unaudited
@click.pass_obj
def verify(out: Output, log: str, vkey: str | None, checkpoints: tuple[str, ...]) -> int:
    """Check every record, the chain and the tree against the signed checkpoints."""
    from strongroom import audit as library
    from strongroom.errors import AuditIntegrityError

    try:
        found = library.verify(log, vkey=_key(vkey), checkpoints=checkpoints)
    except AuditIntegrityError as error:
        code = out.failure(error, path=log)
        if error.sequence is not None:
            out.note(f"the first bad record is {error.sequence}")
        return code
    limits = found.limits()
    out.record(
        "summary",
        path=log,
        status="ok",
        command="audit",
        bytes_in=found.bytes,
        records=found.size - found.first,
        first=found.first,
        covered=found.covered,
        uncovered=found.uncovered,
        torn=found.torn,
        files=found.files,
        own_key=found.own_key,
        limits=limits,
    )
    count = plural(found.size - found.first, "record")
    out.line(
        f"{printable(log)}: {count} in {plural(found.files, 'file')} ({human_bytes(found.bytes)}), "
        f"{found.covered - found.first} covered by a checkpoint"
    )
    if found.torn:
        out.line(
            f"torn: the last {found.torn} bytes are no record; the next writer sets them aside"
        )
    for sentence in limits:
        out.note(sentence)
    return exitcodes.OK


@audit.command()
@_log
@click.option("-n", "--lines", "count", type=click.IntRange(min=0), default=10, show_default=True)
@_filters
@options.unaudited
@click.pass_obj
def tail(out: Output, /, log: str, count: int, **filters: str | None) -> int:
    """Show the last records, oldest first."""
    from collections import deque

    from strongroom.audit.records import last_records

    if any(filters.values()):
        _show(out, log, deque(_matching(log, filters), maxlen=count))
    else:
        _show(out, log, last_records(log, count))
    return exitcodes.OK


@audit.command()
@_log
@_filters
@options.unaudited
@click.pass_obj
def query(out: Output, /, log: str, **filters: str | None) -> int:
    """Show the records that fit; with --json one JSON object a line."""
    found = _matching(log, filters)
    _show(out, log, found if out.json else list(found))
    return exitcodes.OK


@audit.command()
@_log
@click.argument("sequence", type=click.IntRange(min=0), required=False)
@_vkey
@click.option(
    "--since-checkpoint",
    "older",
    metavar="FILE",
    type=options.PATH,
    help="Prove instead that the log of this older checkpoint is the beginning of today's.",
)
@click.option("-o", "--output", "target", metavar="FILE", type=options.PATH, help="Write it there.")
@options.unaudited
@click.pass_obj
def prove(
    out: Output,
    log: str,
    sequence: int | None,
    vkey: str | None,
    older: str | None,
    target: str | None,
) -> int:
    """Prove to others that record SEQUENCE is in the log, or that the log only grew.

    The proof is in the format of c2sp.org/tlog-proof (inclusion), or what c2sp.org/tlog-witness
    asks a witness for (consistency), and names the checkpoint that it holds for.
    """
    from strongroom import audit as library

    if (sequence is None) == (older is None):
        raise click.UsageError("give a record's number, or --since-checkpoint")
    line: bytes | None = None
    if older is not None:
        with open(older, "rb") as file:
            note = file.read()
        proof = library.prove_consistency(log, note, vkey=_key(vkey))
    else:
        try:
            proof, line = library.prove_inclusion(log, sequence or 0, vkey=_key(vkey))
        except ValueError as error:
            raise CliError(str(error), exitcodes.NOT_FOUND) from None
    if target is not None:
        with open(target, "wb") as file:
            file.write(proof)
    out.record(
        "item",
        path=log,
        target=target,
        status="ok",
        sequence=sequence,
        proof=proof.decode(),
        record=None if line is None else line.decode(),
    )
    if target is None:
        out.line(proof.decode().rstrip("\n"))
    if line is not None:
        out.note(f"the record: {line.decode()}")
    return exitcodes.OK


@audit.command()
@_log
@_vkey
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=options.PATH,
    help="Write the page there [default: LOG.html].",
)
@options.unaudited
@click.pass_obj
def report(out: Output, log: str, vkey: str | None, target: str | None) -> int:
    """Write one HTML page: keys and their states over time, operations, failures, what is due."""
    from strongroom.audit.report import write_report

    path = target or f"{log}.html"
    found = write_report(log, path, vkey=_key(vkey))
    out.record("item", path=log, target=path, status="ok", records=found.records)
    out.line(f"{printable(path)}: {plural(found.records, 'record')} of {plural(found.keys, 'key')}")
    return exitcodes.OK if found.whole else exitcodes.NOT_AUTHENTIC


@audit.command("open-next")
@_log
@options.unaudited
@click.pass_obj
def open_next(out: Output, log: str) -> int:
    """Begin a new log in the place of a damaged one, which keeps its files under other names."""
    from strongroom import audit as library

    aside = library.open_next(log)
    out.record("item", path=log, target=aside, status="ok")
    out.line(f"{printable(log)}: a new log; the damaged one is {printable(aside)}")
    return exitcodes.OK


def _key(text: str | None) -> str | None:
    """Return a public key that was given as itself or as a file."""
    if text is None or not os.path.exists(text):
        return text
    with open(text, encoding="utf-8", errors="replace") as file:
        return file.read(4096)


def _matching(log: str, filters: dict[str, str | None]) -> Iterable[Record]:
    from strongroom.audit import matching, records

    times = {name: _time(filters.pop(name)) for name in ("since", "until")}
    fits = matching(**filters, **times)
    wanted = None
    # Most lines are passed over without being parsed.
    words = [word.encode() for word in (filters["key"], filters["event"]) if word]
    if words:

        def has_words(line: bytes) -> bool:
            return all(word in line for word in words)

        wanted = has_words
    return (record for record in records(log, wanted=wanted) if fits(record))


def _time(text: str | None) -> str | None:
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            count, unit = ago.groups()
            at = datetime.now(UTC) - timedelta(**{_UNITS[unit]: int(count)})
        else:
            at = datetime.fromisoformat(text)
            at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        return at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"{printable(text)!r} is no time: write 2026-11-25, 2026-11-25T13:00 or 24h"
        ) from None


def _show(out: Output, log: str, found: Iterable[Record]) -> None:
    from strongroom.audit.records import fields_of

    if out.json:
        for record in found:
            key = record.event.get("key_id") or record.event.get("new_key_id")
            out.record(
                "event",
                path=log,
                status="failed" if record.failed else "ok",
                key_ids=[key] if isinstance(key, str) and len(key) == 32 else None,
                sequence=record.seq,
                event=record.event,
            )
        return
    rows = []
    for record in found:
        more = fields_of(record.event)
        key = more.pop("key_id", more.pop("new_key_id", ""))
        text = " ".join(f"{name}={value}" for name, value in sorted(more.items()))
        outcome = "failure" if record.failed else "success"
        rows.append(
            [str(record.seq), record.time, record.name, outcome, printable(key), printable(text)]
        )
    out.table(["seq", "time", "event", "outcome", "key", "fields"], rows)
