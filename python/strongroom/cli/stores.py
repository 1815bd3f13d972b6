"""`strongroom store`: backup, restore, check, migrate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.output import Output, plural, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import get_master, kept_master, open_store, store_path, store_url

if TYPE_CHECKING:
    from strongroom.keys import BackupInfo, Restored


@click.group()
def store() -> None:
    """Back up, restore, check and migrate the key store."""


@store.command()
@click.argument("path", metavar="FILE", type=options.PATH, required=False)
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def backup(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    path: str | None,
) -> int:
    """Copy the store into a new file, beside whoever uses it; without FILE list the backups.

    The copy opens with the same masters: keep it, and them, where the store is not. Keys that wait
    for a backup become primaries.
    """
    with open_store(store, master, passphrase_source) as key_store:
        found = [key_store.backup(path)] if path is not None else key_store.backups()
        missing = int(key_store.stats()["not_backed_up"] or 0)
    for info in found:
        _show_backup(out, info, path)
    if path is None and not found:
        out.note("no backup was made of this store")
    if missing:
        out.note(f"{plural(missing, 'active key')} in no backup: `keys due` lists them")
    return exitcodes.OK


@store.command()
@click.argument("path", metavar="BACKUP", type=options.PATH)
@click.option(
    "--audit-log",
    metavar="LOG",
    type=options.PATH,
    help="The lost store's audit log: what was made, destroyed and compromised since.",
)
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def restore(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    path: str,
    audit_log: str | None,
) -> int:
    """Make the store anew out of a backup, where no store is: move what is left of it away first.

    Stop all programs that used the lost store before. Keysets with a counted key are rotated, and
    those keys write no more.
    """
    from strongroom.keys import KeyStore

    url = store_url(store)
    os.stat(path)
    kept = master or kept_master(f"sqlite:///{os.path.abspath(path)}")
    logged = []
    if audit_log is not None:
        from strongroom.keys.restore import read_log

        logged = read_log(audit_log)
    result = KeyStore.restore(path, url, get_master(kept, passphrase_source), logged=logged)
    if audit_log is None:
        out.note("without --audit-log nothing is known of what came after the backup")
    _show_restored(out, result, url)
    return exitcodes.OK


@store.command()
@click.option(
    "--generation",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Fail if the store is older than this, which was noted elsewhere.",
)
@click.option(
    "--audit-log",
    metavar="LOG",
    type=options.PATH,
    help="Fail if the store is older than this log knows it.",
)
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def check(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    generation: int,
    audit_log: str | None,
) -> int:
    """Read and authenticate all of the store, and show its generation, which only ever grows."""
    with open_store(store, master, passphrase_source, read_only=True) as key_store:
        logged = []
        if audit_log is not None:
            from strongroom.keys.restore import read_log

            logged = read_log(audit_log)
        key_store.check(generation=generation, logged=logged)
        now = key_store.generation()
        figures = key_store.stats()
        number = sum(int(n or 0) for name, n in figures.items() if name.startswith("keys_"))
        url = key_store.url
    out.record(
        "summary", status="ok", command="store check", store=url, generation=now, keys=number
    )
    out.line(f"{printable(url)}: {plural(number, 'key')}, generation {now}, nothing damaged")
    return exitcodes.OK


@store.command()
@click.option(
    "--backup",
    metavar="FILE",
    type=options.PATH,
    help="Where the store goes as it is now [default: beside it, with .schema-N].",
)
@options.passphrase_sources
@options.store
@options.common
@click.pass_obj
def migrate(
    out: Output,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
    backup: str | None,
) -> int:
    """Bring a store of an older release to this release's schema, after a backup of it.

    A store of a newer release is refused. Older releases can't read what was migrated.
    """
    from strongroom.keys import KeyStore

    url = store_url(store)
    version = KeyStore.schema_version(url)
    path = store_path(url)
    if backup is None and path is not None:
        backup = f"{path}.schema-{version}"
    if backup is None:
        raise click.UsageError("name the file for the backup: --backup FILE")
    provider = get_master(master or kept_master(url, any_schema=True), passphrase_source)
    done = KeyStore.migrate(url, provider, backup=backup)
    out.record(
        "summary",
        status="ok" if done else "current",
        command="store migrate",
        store=url,
        backup=backup if done else None,
    )
    if done:
        out.line(f"{printable(url)} is migrated; as it was before it is in {printable(backup)}")
    else:
        out.line(f"{printable(url)} has this release's schema: there is nothing to do")
    return exitcodes.OK


def _show_backup(out: Output, info: BackupInfo, path: str | None) -> None:
    created = info.created.isoformat(timespec="seconds")
    out.record(
        "backup",
        status="ok",
        path=path,
        backup=info.id,
        name=info.name,
        generation=info.generation,
        keys=info.keys,
        created=created,
    )
    out.line(
        f"{info.id}  {printable(info.name)}  {plural(info.keys, 'key')}, "
        f"generation {info.generation}, {created}"
    )


def _show_restored(out: Output, result: Restored, url: str) -> None:
    out.record(
        "summary",
        status="ok",
        command="store restore",
        store=url,
        generation=result.generation,
        keys=result.keys,
        lost=result.lost,
        destroyed=result.destroyed,
        compromised=result.compromised,
        rotated=result.rotated,
        counted=result.counted,
    )
    out.line(
        f"{printable(url)}: {plural(result.keys, 'key')} restored, generation {result.generation}"
    )
    for what, names in (
        ("made since and lost, with what they wrote", result.lost),
        ("destroyed since, and again", result.destroyed),
        ("compromised since, and marked again", result.compromised),
        ("rotated", result.rotated),
        ("counted, and at their end", result.counted),
    ):
        for name in names:
            out.line(f"{printable(name)}  {what}")
    out.note("programs that used the lost store must be started anew before they use this one")
