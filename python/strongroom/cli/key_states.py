"""`strongroom keys`: the commands that change the state of a key, or destroy it."""

from __future__ import annotations

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.exitcodes import SOME_FAILED, CliError
from strongroom.cli.key_records import show
from strongroom.cli.output import Output, plural, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import open_store
from strongroom.cli.terminal import ask_yes

_COPIES = (
    "backups, snapshots and old copies of the store may still hold the key, "
    "for whoever has their master"
)


@click.command()
@click.argument("key_id", metavar="KEYID")
@options.reason
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def activate(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    key_id: str,
    reason: str,
) -> int:
    """Make a new key the primary of its keyset; the old primary decrypts only from then on."""
    with open_store(store, master, passphrase_source) as key_store:
        show(out, key_store.activate_key(key_id, reason=reason))
    return exitcodes.OK


@click.command()
@click.argument("key_id", metavar="KEYID")
@options.reason
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def retire(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    key_id: str,
    reason: str,
) -> int:
    """Deactivate a key that is not the primary: it decrypts, and encrypts no more."""
    with open_store(store, master, passphrase_source) as key_store:
        show(out, key_store.retire_key(key_id, reason=reason))
    return exitcodes.OK


@click.command()
@click.argument("key_id", metavar="KEYID")
@click.option("--rotate", is_flag=True, help="Of the primary: make a new one at the same time.")
@options.reason
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def suspend(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    key_id: str,
    reason: str,
    rotate: bool,
) -> int:
    """Stop all use of a key, until `keys resume`."""
    with open_store(store, master, passphrase_source) as key_store:
        show(out, key_store.suspend_key(key_id, rotate=rotate, reason=reason))
    return exitcodes.OK


@click.command()
@click.argument("key_id", metavar="KEYID")
@options.reason
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def resume(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    key_id: str,
    reason: str,
) -> int:
    """Take a suspended key back: as the primary if the keyset has none, else deactivated."""
    with open_store(store, master, passphrase_source) as key_store:
        show(out, key_store.resume_key(key_id, reason=reason))
    return exitcodes.OK


@click.command()
@click.argument("key_id", metavar="KEYID")
@click.option("--rotate", is_flag=True, help="Of the primary: make a new one at the same time.")
@options.reason
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def compromise(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    key_id: str,
    reason: str,
    rotate: bool,
) -> int:
    """Mark a key as known to others: it encrypts no more, and decrypts only where allowed."""
    with open_store(store, master, passphrase_source) as key_store:
        show(out, key_store.compromise_key(key_id, rotate=rotate, reason=reason))
    return exitcodes.OK


@click.command()
@click.argument("key_id", metavar="KEYID")
@options.reason
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def undestroy(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    key_id: str,
    reason: str,
) -> int:
    """Take `keys destroy` back, while the key still waits."""
    with open_store(store, master, passphrase_source) as key_store:
        show(out, key_store.cancel_destruction(key_id, reason=reason))
    return exitcodes.OK


@click.command()
@click.argument("key_id", metavar="KEYID", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--after",
    metavar="TIME",
    type=options.DURATION,
    help="How long the key waits; 0 for now [default: 7d].",
)
@click.option("--force", is_flag=True, help="Now, even where the store would refuse it.")
@click.option("--due", is_flag=True, help="Destroy the keys whose time is over.")
@options.reason
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def destroy(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    key_id: str | None,
    yes: bool,
    after: int | None,
    force: bool,
    due: bool,
    reason: str,
) -> int:
    """Erase a key for ever, after a time in which `keys undestroy` keeps it.

    Until then it goes on decrypting: suspend it too, to learn who still needs it. When the time is
    over, `keys destroy --due` destroys it, from cron for instance. TIME is a number with s, m, h,
    d or w, such as 30d.

    Erasing does not reach backups, snapshots and flash. It is final when the master that wrapped
    the key is gone too: who has an old copy of the store and its master still has the key.
    """
    if due != (key_id is None) or (due and (after is not None or force)):
        raise click.UsageError("name one key, or say --due alone")
    if force and after:
        raise click.UsageError("--force is for now: it waits for no one")
    with open_store(store, master, passphrase_source) as key_store:
        if key_id is None:
            gone, refused = key_store.destroy_due(reason=reason)
            for error in refused:
                out.failure(error, type_="item")
        else:
            key = key_store.get_key(key_id)
            now = force or after == 0
            question = f"key {key.id} of keyset {printable(key.keyset)} ({key.state}) for ever?"
            if now and not yes and not ask_yes(f"Destroy {question}"):
                raise CliError("nothing was changed")
            refused = []
            if now:
                gone = [key_store.destroy_key(key.id, force=force, reason=reason)]
            else:
                wait = {} if after is None else {"after_seconds": after}
                show(out, key_store.schedule_destruction(key.id, reason=reason, **wait))
                out.note("`keys undestroy` keeps it; `keys destroy --due` destroys it in time")
                return exitcodes.OK
    for key in gone:
        show(out, key)
    if gone:
        out.note(_COPIES)
    elif not refused:
        out.note("nothing is due")
    return SOME_FAILED if refused else exitcodes.OK


@click.command("destroy-keyset")
@click.argument("name", metavar="KEYSET")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Even if something registered needs one of its keys.")
@options.reason
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def destroy_keyset(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    name: str,
    yes: bool,
    force: bool,
    reason: str,
) -> int:
    """Erase all keys of a keyset now and for ever: of a tenant that leaves, say."""
    with open_store(store, master, passphrase_source) as key_store:
        number = len(key_store.list_keys(name))
        question = f"Destroy keyset {printable(name)} and its {plural(number, 'key')} for ever?"
        if not yes and not ask_yes(question):
            raise CliError("nothing was changed")
        key_store.destroy_keyset(name, reason=reason, force=force)
        for key in key_store.list_keys(name):
            show(out, key)
    out.note(_COPIES)
    return exitcodes.OK


COMMANDS = (activate, retire, suspend, resume, compromise, destroy, undestroy, destroy_keyset)
