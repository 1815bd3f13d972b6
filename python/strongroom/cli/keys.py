"""`strongroom keys`: list, new, activate, rotate, retire, destroy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import open_store
from strongroom.cli.terminal import ask_yes

if TYPE_CHECKING:
    from strongroom.keys import Key


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
    """List keys: id, keyset, state, generation and when they were made."""
    with open_store(store, master, passphrase_source) as key_store:
        found = key_store.list_keys(keyset)
    for key in found:
        _record(out, key)
    out.table(
        ("KEY ID", "KEYSET", "STATE", "GENERATION", "CREATED"),
        [
            (key.id, printable(key.keyset), key.state, str(key.generation), _time(key))
            for key in found
        ],
    )
    return exitcodes.OK


@keys.command()
@click.option("--create", is_flag=True, help="Make the keyset too; its first key is active.")
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
) -> int:
    """Make a new key, which encrypts nothing until `keys activate` makes it the primary."""
    with open_store(store, master, passphrase_source) as key_store:
        key = key_store.create_keyset(keyset) if create else key_store.generate_new_key(keyset)
    _show(out, key)
    return exitcodes.OK


@keys.command()
@click.argument("key_id", metavar="KEYID")
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
) -> int:
    """Make a new key the primary of its keyset; the old primary decrypts only from then on."""
    with open_store(store, master, passphrase_source) as key_store:
        _show(out, key_store.activate_key(key_id))
    return exitcodes.OK


@keys.command()
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
) -> int:
    """Make a new key and at once the primary; the old primary decrypts only from then on."""
    with open_store(store, master, passphrase_source) as key_store:
        _show(out, key_store.rotate(keyset))
    return exitcodes.OK


@keys.command()
@click.argument("key_id", metavar="KEYID")
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
) -> int:
    """Deactivate a key that is not the primary: it decrypts, and encrypts no more."""
    with open_store(store, master, passphrase_source) as key_store:
        _show(out, key_store.retire_key(key_id))
    return exitcodes.OK


@keys.command()
@click.argument("key_id", metavar="KEYID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also where the store would refuse it for now.")
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def destroy(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    key_id: str,
    yes: bool,
    force: bool,
) -> int:
    """Erase a key for ever: what only it opens is lost.

    Erasing does not reach backups, snapshots and flash. It is final when the master that wrapped
    the key is gone too: who has an old copy of the store and its master still has the key.
    """
    with open_store(store, master, passphrase_source) as key_store:
        key = key_store.get_key(key_id)
        question = f"Destroy key {key.id} of keyset {printable(key.keyset)} ({key.state}) for ever?"
        if not yes and not ask_yes(question):
            raise CliError("nothing was changed")
        key_store.destroy_key(key.id, force=force)
    out.record("key", status="ok", key_ids=[key.id], keyset=key.keyset, state="destroyed")
    out.line(f"{key.id}  {printable(key.keyset)}  destroyed")
    out.note(
        "backups, snapshots and old copies of the store may still hold the key, "
        "for whoever has their master"
    )
    return exitcodes.OK


def _show(out: Output, key: Key) -> None:
    _record(out, key)
    out.line(f"{key.id}  {printable(key.keyset)}  {key.state}")


def _record(out: Output, key: Key) -> None:
    out.record(
        "key",
        status="ok",
        key_ids=[key.id],
        keyset=key.keyset,
        state=key.state,
        generation=key.generation,
        created=_time(key),
    )


def _time(key: Key) -> str:
    return key.created.isoformat(timespec="seconds")
