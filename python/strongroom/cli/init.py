"""`strongroom init`: a new key store, and its master key."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.output import Output, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import PASSPHRASE, default_path, get_master, store_path, store_url

if TYPE_CHECKING:
    from strongroom.masters import MasterKeyProvider

_FILE = "file:"


@click.command()
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def init(
    out: Output, store: str | None, master: str | None, passphrase_source: PassphraseSource
) -> int:
    """Make a key store with the keyset "default" and its first key.

    For --master file:PATH the key file is made too, unless it is there: then its key is used.
    Without --master the store gets a passphrase, asked for twice.
    """
    url = store_url(store)
    path = store_path(url)
    if path is not None and os.path.lexists(path):
        raise FileExistsError(17, "there is something there already; nothing was changed", path)
    made_file, provider = _master(master or PASSPHRASE, passphrase_source)
    try:
        if path == default_path():
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _create(out, url, provider)
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
    out.note(_warning(provider.uri))
    return exitcodes.OK


def _master(uri: str, source: PassphraseSource) -> tuple[str | None, MasterKeyProvider]:
    """Return the path of the key file if one was made, and the master."""
    if not uri.startswith(_FILE):
        return None, get_master(uri, source, new=True)
    from strongroom.masters import FileMasterKey

    path = os.path.abspath(uri.removeprefix(_FILE))
    try:
        return path, FileMasterKey.create(path)
    except FileExistsError:
        return None, FileMasterKey(path)


def _create(out: Output, url: str, provider: MasterKeyProvider) -> None:
    from strongroom.keys import KeyStore

    with KeyStore.create(url, provider) as key_store:
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
    out.line(f"key store {printable(path or url)}, master {printable(provider.uri)}")
    out.line(f"{key.id}  {key.keyset}  {key.state}")


def _warning(uri: str) -> str:
    what = "the passphrase"
    if uri.startswith(_FILE):
        what = f"the key file {printable(uri.removeprefix(_FILE))}"
    elif uri != PASSPHRASE:
        what = f"the master key {printable(uri)}"
    return (
        f"keep a copy of {what} in a safe place, and of the store: if {what} is lost, everything "
        "encrypted under this store is lost, for ever and for everybody"
    )
