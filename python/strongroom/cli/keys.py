"""`strongroom keys`: what keys there are, what is due, and new ones.

The commands that change the state of a key are in key_states.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from strongroom.cli import exitcodes, key_records, key_states, options
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output, plural, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import open_store
from strongroom.errors import KeyStateError

if TYPE_CHECKING:
    from strongroom.keys import Policy


@click.group()
def keys() -> None:
    """List, make, rotate, retire and destroy keys."""


@keys.command("list")
@click.option("--keyset", metavar="NAME", help="The keys of this keyset [default: of all].")
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def list_(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    keyset: str | None,
) -> int:
    """List keys: id, keyset, state, generation and when they were made; with --json all of it."""
    with open_store(store, master, passphrase_source) as key_store:
        if out.json:
            backups = {backup.id: backup.name for backup in key_store.backups()}
            for report in key_store.inventory(keyset):
                key_records.record(out, report.key, **key_records.known(report, backups))
            return exitcodes.OK
        found = key_store.list_keys(keyset)
    out.table(
        ("KEY ID", "KEYSET", "STATE", "GENERATION", "CREATED"),
        [
            (
                key.id,
                printable(key.keyset),
                key.state,
                str(key.generation),
                key.created.isoformat(timespec="seconds"),
            )
            for key in found
        ],
    )
    return exitcodes.OK


@keys.command()
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def due(
    out: Output, store: str | None, master: str | None, passphrase_source: PassphraseSource
) -> int:
    """List the keys that something is due for: rotate, reencrypt, destroy, back up."""
    with open_store(store, master, passphrase_source) as key_store:
        backups = {backup.id: backup.name for backup in key_store.backups()}
        found = []
        for report in key_store.inventory():
            if report.due:
                found.append((report.key, report.due))
                key_records.record(out, report.key, **key_records.known(report, backups))
    if not found:
        out.note("nothing is due")
        return exitcodes.OK
    out.table(
        ("KEY ID", "KEYSET", "STATE", "DUE"),
        [(key.id, printable(key.keyset), key.state, ", ".join(reasons)) for key, reasons in found],
    )
    return exitcodes.OK


@keys.command()
@click.argument("directories", metavar="DIR...", nargs=-1, required=True, type=options.PATH)
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def register(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    directories: tuple[str, ...],
) -> int:
    """Note which keys the files in each DIR name, so that none of those is destroyed.

    Done again it brings the note up to date: a key that no file there names any more is free.
    """
    import os

    from strongroom.cli.found import messages_in

    failed = False
    with open_store(store, master, passphrase_source) as key_store:
        there = {key.id: key for key in key_store.list_keys() if key.state != "destroyed"}
        for directory in directories:
            use = f"files in {os.path.abspath(directory)}"
            counts: dict[str, int] = {}
            for path, info in messages_in(directory):
                if info is None:
                    failed = True
                    out.failure(OSError(5, "can't be read", path), type_="item", path=path)
                    continue
                for key_id in {*info.key_ids} & there.keys():
                    counts[key_id] = counts.get(key_id, 0) + 1
            for key_id, key in there.items():
                if key_id in counts:
                    key_store.register_use(key_id, use)
                    key_records.record(out, key, files=counts[key_id])
                    out.line(
                        f"{key_id}  {plural(counts[key_id], 'file')} in {printable(directory)}"
                    )
                elif not failed:
                    key_store.unregister_use(key_id, use)
    return exitcodes.SOME_FAILED if failed else exitcodes.OK


@keys.command()
@click.option("--metrics", is_flag=True, help="In the text format of Prometheus.")
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def stats(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    metrics: bool,
) -> int:
    """Show figures: keys by state, what is due, days to the next rotation, calls to masters."""
    with open_store(store, master, passphrase_source) as key_store:
        figures = key_store.stats()
        text = key_store.metrics() if metrics else ""
    if metrics:
        if out.json:
            raise click.UsageError("--metrics and --json exclude each other")
        out.line(text.rstrip("\n"))
        return exitcodes.OK
    out.record("stats", status="ok", figures=figures)
    width = max(map(len, figures))
    for name, value in figures.items():
        shown = "none" if value is None else f"{value:.1f}" if isinstance(value, float) else value
        out.line(f"{name.replace('_', ' ').ljust(width)}  {shown}")
    return exitcodes.OK


@keys.command()
@click.option("--create", is_flag=True, help="Make the keyset too; its first key is active.")
@click.option(
    "--purpose",
    type=click.Choice(("data", "database", "names", "audit")),
    default="data",
    show_default=True,
    help="With --create: what the keyset is for.",
)
@options.keyset
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def new(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    keyset: str,
    create: bool,
    purpose: str,
) -> int:
    """Make a new key, which encrypts nothing until `keys activate` makes it the primary."""
    if purpose != "data" and not create:
        raise click.UsageError("--purpose is the keyset's: it goes with --create")
    with open_store(store, master, passphrase_source) as key_store:
        if create:
            key = key_store.create_keyset(keyset, purpose=purpose)
        else:
            key = key_store.generate_new_key(keyset)
    key_records.show(out, key)
    return exitcodes.OK


@keys.command()
@click.option("--due", is_flag=True, help="Every keyset whose policy says that it is due.")
@click.option("--if-due", is_flag=True, help="Only if the keyset's policy says that it is due.")
@click.option("--expected", metavar="KEYID", help="Only if this is the primary.")
@options.reason
@options.keyset
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def rotate(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    keyset: str,
    due: bool,
    if_due: bool,
    expected: str | None,
    reason: str,
) -> int:
    """Make a new key and at once the primary; the old primary decrypts only from then on.

    Many machines may do it at once: with --due, --if-due or --expected they make one key. Where
    the keyset's policy says after-backup, the new key is pre-active until `store backup`.
    """
    if due and (if_due or expected is not None):
        raise click.UsageError("--due stands alone")
    with open_store(store, master, passphrase_source) as key_store:
        names = key_store.due().rotate if due else [keyset]
        failed = False
        for name in names:
            try:
                key = key_store.rotate(name, if_due=due or if_due, expected=expected, reason=reason)
            except KeyStateError as error:
                # A database's, say, whose file must change with its key: the others go on.
                if not due:
                    raise
                failed = True
                out.failure(error, type_="item")
                continue
            key_records.show(out, key)
    if due and not names:
        out.note("nothing is due")
    return exitcodes.SOME_FAILED if failed else exitcodes.OK


@keys.command()
@click.option("--originator", metavar="TIME", type=options.DURATION, help="A primary's time.")
@click.option("--recipient", metavar="TIME", type=options.DURATION, help="Until re-encryption.")
@click.option("--enforce", is_flag=True, help="Refuse to encrypt after a primary's time.")
@click.option("--promote", type=click.Choice(("at-once", "after-backup")), help="A new key.")
@click.option("--none", "no_policy", is_flag=True, help="No policy from now on.")
@options.keyset
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def policy(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    keyset: str,
    originator: int | None,
    recipient: int | None,
    enforce: bool,
    promote: str | None,
    no_policy: bool,
) -> int:
    """Show the policy of a keyset, or set it: what is not named is then not in it.

    TIME is a number with s, m, h, d or w, such as 90d.
    """
    given = originator is not None or recipient is not None or enforce or promote is not None
    if no_policy and given:
        raise click.UsageError("--none stands alone")
    with open_store(store, master, passphrase_source) as key_store:
        if given or no_policy:
            from strongroom.keys import Policy

            wanted = Policy(
                originator, recipient, enforce, "after-backup" if promote == "after-backup" else ""
            )
            try:
                key_store.set_policy(keyset, wanted)
            except ValueError as error:
                raise CliError(str(error), exitcodes.USAGE) from None
        found = key_store.get_policy(keyset)
    out.record("policy", status="ok", keyset=keyset, policy=found._asdict())
    out.line(f"{printable(keyset)}: {_words(found)}")
    return exitcodes.OK


def _words(policy: Policy) -> str:
    words = []
    if policy.originator_seconds is not None:
        words.append(f"a primary for {_days(policy.originator_seconds)}")
        if policy.enforce:
            words[-1] += ", enforced"
    if policy.recipient_seconds is not None:
        words.append(f"re-encryption after {_days(policy.recipient_seconds)}")
    if policy.promote:
        words.append(f"promoted {policy.promote.replace('-', ' a ')}")
    return "; ".join(words) or "no policy"


def _days(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    return plural(seconds, "second") if rest else plural(days, "day")


for command in key_states.COMMANDS:
    keys.add_command(command)
