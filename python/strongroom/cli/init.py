"""`strongroom init`: a new key store, and its master key."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.output import Output, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.second import new_master, offered_recovery
from strongroom.cli.store import PASSPHRASE, PKCS11, default_path, get_master, store_path, store_url

if TYPE_CHECKING:
    from strongroom.masters import MasterKeyProvider

_FILE = "file:"


@click.command()
@click.option(
    "--recovery",
    metavar="URI",
    help="A second master, for emergencies [default: a passphrase, where somebody can be asked].",
)
@click.option("--no-recovery", is_flag=True, help="One master alone, without a question.")
@click.option(
    "--recovery-passphrase-file",
    metavar="PATH",
    type=options.PATH,
    help="Take the recovery passphrase from this file.",
)
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def init(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    recovery: str | None,
    no_recovery: bool,
    recovery_passphrase_file: str | None,
) -> int:
    """Make a key store with the keyset "default" and its first key.

    For --master file:PATH or keyring:SERVICE/NAME the key is made too, unless it is there: then it
    is used. Without --master the store gets a passphrase, asked for twice. A second master, kept
    apart, opens the store when the first one is lost.
    """
    if recovery_passphrase_file is not None:
        recovery = recovery or PASSPHRASE
    if no_recovery and recovery is not None:
        raise click.UsageError("--recovery and --no-recovery exclude each other")
    url = store_url(store)
    path = store_path(url)
    if path is not None and os.path.lexists(path):
        raise FileExistsError(17, "there is something there already; nothing was changed", path)
    made_file, provider = _master(master or PASSPHRASE, passphrase_source)
    try:
        second = None
        if recovery is not None:
            second, _ = new_master(recovery, recovery_passphrase_file, "Recovery passphrase")
        elif not no_recovery:
            second = offered_recovery()
        if path == default_path():
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _create(out, url, provider, second)
    except BaseException as error:
        # A key file without a store would make the next try use it unasked. Where the store
        # came into being after all, the file is its only way in, and stays.
        made_store = not isinstance(error, ValueError) if path is None else os.path.lexists(path)
        if made_file is not None and not made_store:
            with contextlib.suppress(OSError):
                os.unlink(made_file)
        raise
    if made_file is None and provider.uri.startswith(_FILE):
        out.note(f"the key in {printable(provider.uri.removeprefix(_FILE))} was there and is used")
    out.note(_warning(provider.uri, second is not None or no_recovery))
    return exitcodes.OK


def _master(uri: str, source: PassphraseSource) -> tuple[str | None, MasterKeyProvider]:
    """Return the path of the key file if one was made, and the master."""
    if uri == PASSPHRASE or uri.startswith(PKCS11):
        return None, get_master(uri, source, new=True)
    if not uri.startswith(_FILE):
        return None, new_master(uri, None, "")[0]
    from strongroom.masters import FileMasterKey

    path = os.path.abspath(uri.removeprefix(_FILE))
    try:
        return path, FileMasterKey.create(path)
    except FileExistsError:
        return None, FileMasterKey(path)


def _create(
    out: Output, url: str, provider: MasterKeyProvider, second: MasterKeyProvider | None
) -> None:
    from strongroom.keys import KeyStore

    with KeyStore.create(url, provider) as key_store:
        if second is not None:
            key_store.add_master(second, recovery=True)
        key = key_store.get_current_key()
    path = store_path(url)
    out.record(
        "key",
        path=path,
        status="ok",
        key_ids=[key.id],
        keyset=key.keyset,
        state=key.state,
        generation=key.generation,
        created=key.created.isoformat(timespec="seconds"),
    )
    out.record("summary", path=path, status="ok", command="init", store=url, master=provider.uri)
    recovery = f", for recovery {printable(second.uri)}" if second is not None else ""
    out.line(f"key store {printable(path or url)}, master {printable(provider.uri)}{recovery}")
    out.line(f"{key.id}  {key.keyset}  {key.state}")


def _warning(uri: str, has_second: bool) -> str:
    what = "the passphrase"
    if uri.startswith(_FILE):
        what = f"the key file {printable(uri.removeprefix(_FILE))}"
    elif uri != PASSPHRASE:
        what = f"the master key {printable(uri)}"
    second = (
        ""
        if has_second
        else (
            "; there is no second master: `strongroom master add --recovery passphrase:` adds one"
        )
    )
    return (
        f"keep a copy of {what} in a safe place, and of the store: if {what} is lost, everything "
        f"encrypted under this store is lost, for ever and for everybody{second}"
    )
