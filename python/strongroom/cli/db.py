"""`strongroom db`: rotate, recover, status, verify, adopt; of many databases each on its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output, human_bytes, plural, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.progress import ProgressBar
from strongroom.cli.store import open_store

if TYPE_CHECKING:
    from strongroom.database import DatabaseKeyRotation, Progress
    from strongroom.keys import KeyStore

# What a command does with one database: prints its line, and returns whether all is well.
Work = Callable[[Output, "KeyStore", str, str], bool]

_DEFAULT_KEYSET: Final = "database"
_GLOB: Final = "*?["


@click.group()
def db() -> None:
    """Rotate, recover, verify and adopt SQLCipher databases.

    PATH may be a pattern in quotes ('/srv/*.db'); with many databases each has a keyset of its
    own, as --keyset 'database/{stem}' names them: {stem} is the file's name without its suffix,
    {name} with it. One that fails does not stop the others; the exit code is 3 then.
    """


def _databases(*, timeout: bool) -> Callable[[Any], Any]:
    """Add the options that name databases, their keyset, and the store."""

    def decorate(command: Any) -> Any:  # noqa: ANN401 - click's
        @wraps(command)
        def run(
            out: Output,
            store: str | None,
            master: str | None,
            passphrase_source: PassphraseSource,
            paths: tuple[str, ...],
            list_: str | None,
            keyset: str,
            **settings: Any,  # noqa: ANN401 - the command's own options
        ) -> int:
            named = _named(paths, list_)
            work: Work = command(out, **settings)
            with open_store(store, master, passphrase_source) as key_store:
                return _each(out, key_store, named, keyset, work)

        wrapped: Any = run
        if timeout:
            wrapped = click.option(
                "--busy-timeout",
                metavar="SECONDS",
                type=click.FloatRange(min=0),
                default=30.0,
                show_default=True,
                help="How long to wait for other connections.",
            )(wrapped)
        wrapped = click.option(
            "--keyset",
            metavar="NAME",
            default=_DEFAULT_KEYSET,
            show_default=True,
            help="The database's keyset; {stem} and {name} stand for its file's.",
        )(wrapped)
        wrapped = click.option(
            "--list",
            "list_",
            metavar="FILE",
            type=options.PATH,
            help="Further databases, one a line; - for stdin.",
        )(wrapped)
        wrapped = click.argument("paths", metavar="PATH...", nargs=-1, type=options.PATH)(wrapped)
        wrapped = options.passphrase_sources(wrapped)
        wrapped = options.store(wrapped)
        wrapped = options.common(wrapped)
        return db.command(name=command.__name__, help=command.__doc__)(click.pass_obj(wrapped))

    return decorate


@_databases(timeout=True)
def rotate(out: Output, busy_timeout: float, if_due: bool, keep_backup: float, force: bool) -> Work:
    """Bring databases under a new key; a rotation that died is recovered first."""

    def work(out: Output, store: KeyStore, path: str, keyset: str) -> bool:
        bar = ProgressBar(out, f"rotating {printable(path)}")
        progress = _bytes_of(bar) if bar.callback else None
        rotation = _rotation(
            store, path, keyset, busy_timeout=busy_timeout, force=force, progress=progress
        )
        try:
            report = rotation.rotate_key(if_due=if_due, keep_backup=keep_backup)
        finally:
            bar.close()
        if report is None:
            out.record("database", path=path, status="current", keyset=keyset)
            out.line(f"{printable(path)}: not due")
            return True
        out.record(
            "database",
            path=path,
            target=report.path,
            status="ok",
            keyset=keyset,
            key_ids=[report.new_key_id],
            old_key_id=report.old_key_id,
            pages=report.pages,
            rows=report.rows,
            journal_mode=report.journal_mode,
            seconds=round(report.seconds, 3),
            exclusive_seconds=round(report.exclusive_seconds, 3),
            recovered=report.recovered,
            backup=report.backup,
        )
        size = human_bytes(report.pages * report.page_size)
        out.line(
            f"{_shown(path, report.path)}: under key {report.new_key_id}; {size} in "
            f"{report.seconds:.1f} s, {report.exclusive_seconds:.1f} s of them alone"
        )
        return True

    return work


@_databases(timeout=True)
def recover(out: Output, busy_timeout: float) -> Work:
    """Settle what a rotation that died has left; done again, it does nothing."""

    def work(out: Output, store: KeyStore, path: str, keyset: str) -> bool:
        found = _rotation(store, path, keyset, busy_timeout=busy_timeout).recover()
        nothing = found.found == "nothing"
        out.record(
            "database",
            path=path,
            target=found.path,
            status="current" if nothing else "ok",
            keyset=keyset,
            key_ids=[found.key_id],
            recovered=found.found,
        )
        said = "nothing to recover" if nothing else f"recovered ({found.found})"
        out.line(f"{_shown(path, found.path)}: {said}, under key {found.key_id}")
        return True

    return work


@_databases(timeout=False)
def status(out: Output) -> Work:
    """Show key, size and state; exit code 3 or 1 if a database needs a hand."""

    def work(out: Output, store: KeyStore, path: str, keyset: str) -> bool:
        found = _rotation(store, path, keyset).status()
        well = found.state in ("ok", "rotating")
        out.record(
            "database",
            path=path,
            target=found.path,
            status="ok" if well else "failed",
            keyset=keyset,
            key_ids=[found.key_id] if found.key_id else None,
            state=found.state,
            key_state=found.key_state or None,
            since=round(found.since, 3),
            due=found.due,
            bytes_in=found.size,
            needed=found.needed,
            free=found.free,
            sidecar=found.sidecar,
            backups=found.backups,
            message=found.detail or None,
        )
        due = ", rotation due" if found.due else ""
        out.line(
            f"{_shown(path, found.path)}: {found.state}{due}, {human_bytes(found.size)}, under key "
            f"{found.key_id or 'unknown'} ({found.key_state or 'unknown'})"
        )
        if found.detail:
            out.warn(f"{printable(path)}: {printable(found.detail)}")
        return well

    return work


@_databases(timeout=True)
def verify(out: Output, busy_timeout: float) -> Work:
    """Read databases whole: every page's HMAC, SQLite's structures, and one key alone."""

    def work(out: Output, store: KeyStore, path: str, keyset: str) -> bool:
        found = _rotation(store, path, keyset, busy_timeout=busy_timeout).verify()
        out.record(
            "database",
            path=path,
            target=found.path,
            status="ok",
            keyset=keyset,
            key_ids=[found.key_id],
            pages=found.pages,
            tables=found.tables,
        )
        out.line(
            f"{_shown(path, found.path)}: {plural(found.pages, 'page')} whole, under key "
            f"{found.key_id}"
        )
        return True

    return work


@_databases(timeout=True)
def adopt(
    out: Output,
    busy_timeout: float,
    create: bool,
    database_passphrase_file: str | None,
    ask: bool,
    keep_original: bool,
    force: bool,
) -> Work:
    """Bring plain SQLite databases, or those under a passphrase, under a key of the store.

    Offline: stop what uses them first.
    """
    passphrase = None
    if ask or database_passphrase_file is not None:
        source = PassphraseSource(file=database_passphrase_file)
        passphrase = source.get("Passphrase of the database")

    def work(out: Output, store: KeyStore, path: str, keyset: str) -> bool:
        from strongroom.database import adopt_database

        if create and keyset not in store.keysets():
            store.create_keyset(keyset, purpose="database")
        report = adopt_database(
            path,
            store,
            keyset=keyset,
            passphrase=passphrase,
            busy_timeout=busy_timeout,
            keep_original=keep_original,
            force=force,
        )
        out.record(
            "database",
            path=path,
            target=report.path,
            status="ok",
            keyset=keyset,
            key_ids=[report.key_id],
            tables=report.tables,
            rows=report.rows,
            backup=report.original,
        )
        out.line(f"{_shown(path, report.path)}: under key {report.key_id} of {printable(keyset)}")
        return True

    return work


def _option(command: click.Command, *flags: str, **settings: Any) -> None:  # noqa: ANN401
    command.params.append(click.Option(flags, **settings))


_option(rotate, "--if-due", is_flag=True, help="Only where the keyset's policy says so.")
_option(
    rotate,
    "--keep-backup",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Keep the backup, which is under the old key, for so long.",
)
_option(rotate, "--force", is_flag=True, help="Also on a network file system.")
_option(adopt, "--create", is_flag=True, help="Make the keyset, where there is none.")
_option(
    adopt,
    "--database-passphrase-file",
    metavar="PATH",
    type=options.PATH,
    help="Take the database's passphrase from this file.",
)
_option(adopt, "--ask", is_flag=True, help="Ask for the database's passphrase.")
_option(adopt, "--keep-original", is_flag=True, help="Leave the original, NAME.srm.original.")
_option(adopt, "--force", is_flag=True, help="Though other processes have it open.")


def _named(paths: tuple[str, ...], list_: str | None) -> list[str]:
    """Return the databases that were named, each once."""
    found: list[str] = []
    for path in paths:
        import glob
        import os

        # A file of that very name comes before the pattern.
        if any(sign in path for sign in _GLOB) and not os.path.lexists(path):
            matches = sorted(name for name in glob.glob(path, recursive=True))
            if not matches:
                raise CliError(f"no file fits {printable(path)}", exitcodes.NOT_FOUND)
            found += matches
        else:
            found.append(path)
    if list_ is not None:
        with sys.stdin if list_ == "-" else open(list_) as lines:
            found += [line.rstrip("\n") for line in lines if line.strip()]
    if not found:
        raise click.UsageError("name a database, a pattern in quotes, or a --list")
    return list(dict.fromkeys(found))


def _each(out: Output, store: KeyStore, paths: list[str], keyset: str, work: Work) -> int:
    if len(paths) > 1 and "{" not in keyset:
        raise click.UsageError(
            "a keyset is one database's: with several name them by --keyset 'database/{stem}'"
        )
    failed = 0
    for path in paths:
        own = _keyset_of(path, keyset)
        try:
            failed += not work(out, store, path, own)
        except Exception as error:
            if len(paths) == 1:
                raise
            failed += 1
            out.failure(error, type_="item", path=path)
    if len(paths) > 1:
        out.note(f"{plural(len(paths) - failed, 'database')} well, {failed} not")
        return exitcodes.SOME_FAILED if failed else exitcodes.OK
    return exitcodes.OTHER if failed else exitcodes.OK


def _keyset_of(path: str, keyset: str) -> str:
    import os

    name = os.path.basename(path)
    return keyset.replace("{stem}", os.path.splitext(name)[0]).replace("{name}", name)


def _rotation(store: KeyStore, path: str, keyset: str, **settings: Any) -> DatabaseKeyRotation:  # noqa: ANN401
    from strongroom.database import DatabaseKeyRotation

    return DatabaseKeyRotation(path, store, keyset=keyset, **settings)


def _bytes_of(bar: ProgressBar) -> Callable[[Progress], None]:
    def progress(at: Progress) -> None:
        if at.total:
            # The bar counts bytes; most databases have pages of 4 KiB.
            bar(at.done * 4096, at.total * 4096)

    return progress


def _shown(path: str, real: str) -> str:
    import os

    link = os.path.abspath(path) != real
    return f"{printable(path)} -> {printable(real)}" if link else printable(path)
