"""`strongroom master`: list, add, remove, rotate, test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from strongroom import _events
from strongroom.cli import exitcodes, options
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.second import new_master
from strongroom.cli.store import PASSPHRASE, get_master, open_store, store_url
from strongroom.cli.terminal import ask_yes

if TYPE_CHECKING:
    from collections.abc import Callable

    from strongroom.keys import KeyStore
    from strongroom.keys.root import MasterInfo

_OLD_COPIES = (
    "who has that master and an old copy of the store still opens that copy: "
    "rotate the keysets if it may be in other hands"
)
_OURS = ("file:", "keyring:")


@click.group()
def master() -> None:
    """List, add, remove, rotate and test the masters that open a store."""


def _new_passphrase(command: Callable[..., int]) -> Callable[..., int]:
    return click.option(
        "--new-passphrase-file",
        metavar="PATH",
        type=options.PATH,
        help="Take a new master's passphrase from this file, not from a question.",
    )(command)


@master.command("list")
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def list_(
    out: Output, store: str | None, master: str | None, passphrase_source: PassphraseSource
) -> int:
    """List the masters, authenticated."""
    with open_store(store, master, passphrase_source) as key_store:
        found = key_store.masters()
    for info in found:
        _record(out, info)
    out.table(
        ("MASTER KEY ID", "RECOVERY", "CREATED", "URI"),
        [
            (
                info.key_id,
                "yes" if info.recovery else "no",
                info.created.isoformat(timespec="seconds"),
                printable(info.uri),
            )
            for info in found
        ],
    )
    return exitcodes.OK


@master.command()
@click.argument("uri", metavar="URI")
@click.option("--recovery", is_flag=True, help="It is kept for emergencies.")
@_new_passphrase
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def add(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    uri: str,
    recovery: bool,
    new_passphrase_file: str | None,
) -> int:
    """Let one more master open the store.

    For file: and keyring: the key is made, unless it is there: then it is used.
    """
    with open_store(store, master, passphrase_source) as key_store:
        provider, made = new_master(uri, new_passphrase_file, "New passphrase")
        info = key_store.add_master(provider, recovery=recovery)
    if not made and uri.startswith(_OURS):
        out.note(f"the key in {printable(uri)} was there and is used")
    return _show(out, info, "opens the store")


@master.command()
@click.argument("uri", metavar="URI|ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def remove(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    uri: str,
    yes: bool,
) -> int:
    """Take a master away, by its URI or its id; never the last one."""
    with open_store(store, master, passphrase_source) as key_store:
        info = _find(key_store, uri)
        if len(key_store.masters()) > 1:
            question = f"Remove the master {printable(info.uri)} ({info.key_id})?"
            if not yes and not ask_yes(question):
                raise CliError("nothing was changed")
        key_store.remove_master(info.key_id)
    _show(out, info, "is removed")
    out.note(_OLD_COPIES)
    return exitcodes.OK


@master.command()
@click.argument("uri", metavar="URI|ID")
@click.option("--to", metavar="URI", help="The master that takes its place.")
@_new_passphrase
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def rotate(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    uri: str,
    to: str | None,
    new_passphrase_file: str | None,
) -> int:
    """Put another master in a master's place; a service's own, brought under its newest key.

    Without --to the master stays: Vault and KMS wrap the root anew, inside, under the newest
    version of their key, and a passphrase is replaced by a new one. A key file or a key in the
    keychain needs --to, with a name that is not taken.
    """
    with open_store(store, master, passphrase_source) as key_store:
        info = _find(key_store, uri)
        if to is None and info.uri.startswith(_OURS):
            raise click.UsageError(f"--to names the key that replaces {printable(info.uri)}")
        provider, made = new_master(to or info.uri, new_passphrase_file, "New passphrase")
        if to is not None and not made and to.startswith(_OURS):
            out.note(f"the key in {printable(to)} was there and is used")
        new = key_store.rotate_master(info.key_id, provider)
    _show(out, new, "opens the store")
    out.note(_OLD_COPIES)
    return exitcodes.OK


@master.command()
@click.argument("uri", metavar="URI")
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def test(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    uri: str,
) -> int:
    """Open the store by this one master, authenticate its head, and change nothing."""
    from strongroom.keys import KeyStore

    if master is not None and master != uri:
        raise click.UsageError(
            "`master test` takes the one master that it tests: leave out --master"
        )
    provider = get_master(uri, passphrase_source)
    with KeyStore.open(store_url(store), provider, read_only=True) as key_store:
        # Not by URI or id: passphrases share a URI, and a service's key may have several names.
        used = key_store._opened_by
        opened = next(info for info in key_store.masters() if info.key_id == used)
    _events.report(
        "master.tested", key_id=opened.key_id, master=opened.uri, recovery=opened.recovery
    )
    return _show(out, opened, "opens the store")


def _find(key_store: KeyStore, named: str) -> MasterInfo:
    """The master of a URI or an id.

    Raises:
        CliError: There is none, or there are several of that URI.
    """
    found = [info for info in key_store.masters() if named in (info.key_id, info.uri)]
    if not found and named.startswith("file:"):
        import os

        path = "file:" + os.path.abspath(named.removeprefix("file:"))
        found = [info for info in key_store.masters() if info.uri == path]
    if not found:
        raise CliError(
            f"{printable(named)} is no master of this store; `master list` shows them",
            exitcodes.NOT_FOUND,
        )
    if len(found) > 1:
        ids = ", ".join(info.key_id for info in found)
        what = "passphrases" if named == PASSPHRASE else "masters of this URI"
        raise CliError(f"the store has several {what}: name one by its id: {ids}", exitcodes.USAGE)
    return found[0]


def _show(out: Output, info: MasterInfo, what: str) -> int:
    _record(out, info)
    marked = " (recovery)" if info.recovery else ""
    out.line(f"{info.key_id}  {printable(info.uri)}{marked}  {what}")
    return exitcodes.OK


def _record(out: Output, info: MasterInfo) -> None:
    out.record(
        "master",
        status="ok",
        key_ids=[info.key_id],
        master=info.uri,
        recovery=info.recovery,
        mechanism=info.mechanism,
        created=info.created.isoformat(timespec="seconds"),
    )
