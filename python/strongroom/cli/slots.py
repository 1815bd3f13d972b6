"""`strongroom slots`: add, remove, rewrap."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.output import Output, plural, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import PASSPHRASE, get_master, open_store

if TYPE_CHECKING:
    from collections.abc import Callable


@click.group()
def slots() -> None:
    """Let further keysets, passphrases and masters open a file, or no longer.

    The data stays as it is. `strongroom inspect` shows a file's slots. What opens the file is the
    store's keyset, the passphrase that --with-passphrase-file holds, or the master --with-master.
    """


def _opening(command: Callable[..., int]) -> Callable[..., int]:
    for option in (
        click.option(
            "--copy", is_flag=True, help="Write the file anew, for storage that tears writes."
        ),
        click.option(
            "--with-passphrase-file",
            metavar="PATH",
            type=options.PATH,
            help="Open the file by the passphrase in this file.",
        ),
        click.option("--with-master", metavar="URI", help="Open the file by this master."),
        click.option("--no-store", is_flag=True, help="Open the file without the key store."),
    ):
        command = option(command)
    return command


@slots.command()
@click.argument("file", metavar="FILE", type=options.PATH)
@click.option("--for-keyset", metavar="NAME", help="The primary key of this keyset is to open it.")
@click.option("--for-master", metavar="URI", help="This master is to open it.")
@click.option(
    "--for-passphrase-file",
    metavar="PATH",
    type=options.PATH,
    help="The passphrase in this file is to open it.",
)
@_opening
@options.keyset
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def add(
    out: Output,
    /,
    file: str,
    for_keyset: str | None,
    for_master: str | None,
    for_passphrase_file: str | None,
    **opening: Any,  # noqa: ANN401 - what _opened takes
) -> int:
    """Let one more key, passphrase or master open FILE."""
    if sum(new is not None for new in (for_keyset, for_master, for_passphrase_file)) != 1:
        raise click.UsageError("give one of --for-keyset, --for-master, --for-passphrase-file")
    from strongroom.files import add_slot

    with ExitStack() as stack:
        by = _opened(stack, **opening)
        new: dict[str, Any] = {"new_keyset": for_keyset}
        if for_passphrase_file is not None:
            new["new_passphrase"] = _from_file(for_passphrase_file)
        if for_master is not None:
            if for_master == PASSPHRASE:
                raise click.UsageError("a passphrase comes by --for-passphrase-file")
            new["new_master"] = get_master(for_master, PassphraseSource())
        added = add_slot(file, **by, **new)
    out.record("item", path=file, status="ok" if added else "current")
    out.line(f"{printable(file)}  {'slot added' if added else 'that key opens it already'}")
    return exitcodes.OK


@slots.command()
@click.argument("file", metavar="FILE", type=options.PATH)
@click.option("--key", metavar="ID", help="The slots of this key or KEK go, as inspect shows it.")
@click.option("--passphrases", is_flag=True, help="The slots of all passphrases go.")
@_opening
@options.keyset
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def remove(
    out: Output,
    /,
    file: str,
    key: str | None,
    passphrases: bool,
    **opening: Any,  # noqa: ANN401 - what _opened takes
) -> int:
    """Take slots away from FILE, if what is given opens it without them."""
    if (key is not None) is passphrases:
        raise click.UsageError("give one of --key and --passphrases")
    from strongroom.files import remove_slots

    with ExitStack() as stack:
        count = remove_slots(file, **_opened(stack, **opening), key_id=key)
    out.record("item", path=file, status="ok")
    out.line(f"{printable(file)}  {plural(count, 'slot')} removed")
    out.note("who once opened the file may have kept its key: encrypt it anew to end that")
    return exitcodes.OK


@slots.command()
@click.argument("file", metavar="FILE", type=options.PATH)
@click.option("--with-master", metavar="URI", required=True, help="Whose slots are replaced.")
@click.option("--to-master", metavar="URI", help="Whose slot comes in their place [default: same].")
@click.option("--copy", is_flag=True, help="Write the file anew, for storage that tears writes.")
@options.common
@click.pass_obj
def rewrap(out: Output, file: str, with_master: str, to_master: str | None, copy: bool) -> int:
    """Put a new KEK in the place of those that a master wrapped, or that of another master."""
    from strongroom.files import rewrap_master_slots

    source = PassphraseSource()
    new = None if to_master is None else get_master(to_master, source)
    count = rewrap_master_slots(file, get_master(with_master, source), new_master=new, copy=copy)
    out.record("item", path=file, status="ok")
    out.line(f"{printable(file)}  {plural(count, 'slot')} replaced")
    return exitcodes.OK


def _opened(
    stack: ExitStack,
    *,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    keyset: str,
    no_store: bool,
    with_master: str | None,
    with_passphrase_file: str | None,
    copy: bool,
) -> dict[str, Any]:
    """The arguments of `add_slot` and `remove_slots` that say what opens the file."""
    by: dict[str, Any] = {"keyset": keyset, "copy": copy}
    if not no_store:
        by["key_store"] = stack.enter_context(open_store(store, master, passphrase_source))
    if with_passphrase_file is not None:
        by["passphrase"] = _from_file(with_passphrase_file)
    if with_master is not None:
        by["master"] = get_master(with_master, passphrase_source)
    return by


def _from_file(path: str) -> str | bytes:
    return PassphraseSource(file=path).get("")
