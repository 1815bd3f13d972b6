"""Trees of files.

`SRC/a/b` goes to `DST/a/b` with the suffix put on or taken off. Directories are walked by open
descriptors and no symbolic link is ever followed below a source or a target, so that nothing
outside of them is read or written, whatever is renamed meanwhile. Files are done in groups: under
temporary names, then one sync of the file system, then their names, then one more sync.

A run that was killed is simply started again. What it left under temporary names is removed when
a directory is next written to, and targets that are complete are recognised and reported as
"current": same mtime as the source, the length that goes with it, and a message that opens with
the same keyset, passphrase and associated data, each that is given. Anything else that is there is
a FileExistsError of that file, unless `overwrite` is set.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from strongroom import _events
from strongroom._file_keys import Path, file_keys
from strongroom._tree import Walk
from strongroom._tree_parts import ItemResult, TreeReport

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom._file_keys import Progress
    from strongroom.keys import KeyStore

__all__ = [
    "ItemResult",
    "TreeReport",
    "decrypt_tree",
    "encrypt_tree",
    "rewrap_tree",
    "verify_tree",
]

OnItem = Callable[[ItemResult], object]
"""Called on the calling thread for each file once it is done."""

Sources = Path | Iterable[Path]
"""One directory or file, or several."""


def encrypt_tree(
    sources: Sources,
    target: Path,
    key_store: KeyStore | None = None,
    *,
    keyset: str = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    suffix: str = ".srm",
    overwrite: bool = False,
    jobs: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    on_item: OnItem | None = None,
) -> TreeReport:
    """Encrypts directories into another one.

    Mode bits and mtimes of files and directories are kept, symbolic links are made again as they
    are, empty directories too. FIFOs, sockets and devices are skipped and reported. Hard links
    become files of their own.

    Args:
        sources: A directory, whose contents go to `target` itself; or several directories or
            files, which keep their base names there.
        target: A directory; made if its parent is there.
        key_store: Where the keyset is; None where there is a passphrase alone.
        keyset: Its primary key is used.
        associated_data: At most 65,535 bytes, the same for all files.
        passphrase: Opens the files as well. Argon2id runs once for all of them.
        suffix: What names of files get.
        overwrite: Replace files that are there.
        jobs: Threads; None for those of `set_num_threads`.
        dry_run: Report what would be done, and do nothing.
        progress: Called with the bytes of plaintext done and None, at most every 50 ms.
        on_item: Called for each file, and for whatever else is skipped or fails.

    Returns:
        Counts. A file that fails does not stop the others and raises nothing.

    Raises:
        FileNotFoundError: A source, or the parent of the target, is not there.
        NotADirectoryError: The target is there and is no directory.
        ValueError: Source and target are the same directory, a source is a symbolic link, two
            sources have one base name, or the suffix is empty or has a slash.
        KeyNotFoundError, KeyStateError: As for `encrypt_file`.
        KeyboardInterrupt: And whatever `progress` and `on_item` raise: files that have their names
            by then keep them, and no temporary file is left.
    """
    with file_keys(key_store, keyset, passphrase, writes=True) as keys:
        walk = Walk("encrypt", keys, associated_data, jobs, progress, on_item, dry_run=dry_run)
        to = functools.partial(walk.to, overwrite=overwrite)
        return _told("encrypt", keyset, dry_run, to, _paths(sources), os.fsdecode(target), suffix)


def decrypt_tree(
    sources: Sources,
    target: Path,
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    suffix: str = ".srm",
    overwrite: bool = False,
    jobs: int | None = None,
    dry_run: bool = False,
    allow_compromised: bool = False,
    progress: Progress | None = None,
    on_item: OnItem | None = None,
) -> TreeReport:
    """Decrypts directories into another one: `encrypt_tree` the other way round.

    Files whose names don't end in `suffix` are skipped and reported.

    Args:
        sources: As for `encrypt_tree`.
        target: As for `encrypt_tree`.
        key_store: Where the keyset is; None where there is a passphrase alone.
        keyset: Its keys are tried; None for those of all keysets.
        associated_data: The bytes that the files were encrypted with.
        passphrase: One that may open them. Argon2id runs once for each salt that they have.
        suffix: What names of files lose.
        overwrite: Replace files that are there.
        jobs: Threads; None for those of `set_num_threads`.
        dry_run: Report what would be done, and do nothing.
        allow_compromised: As for `decrypt_file`.
        progress: As for `encrypt_tree`.
        on_item: As for `encrypt_tree`.

    Returns:
        Counts. A file that fails does not stop the others and raises nothing.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError, KeyboardInterrupt: As `encrypt_tree`.
        KeyNotFoundError: There is no such keyset.
    """
    with file_keys(key_store, keyset, passphrase, allow_compromised=allow_compromised) as keys:
        walk = Walk("decrypt", keys, associated_data, jobs, progress, on_item, dry_run=dry_run)
        to = functools.partial(walk.to, overwrite=overwrite)
        return _told("decrypt", keyset, dry_run, to, _paths(sources), os.fsdecode(target), suffix)


def verify_tree(
    sources: Sources,
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    suffix: str | None = None,
    jobs: int | None = None,
    allow_compromised: bool = False,
    progress: Progress | None = None,
    on_item: OnItem | None = None,
) -> TreeReport:
    """Authenticates every file of directories and writes nothing.

    Args:
        sources: Directories and files.
        key_store: Where the keyset is; None where there is a passphrase alone.
        keyset: Its keys are tried; None for those of all keysets.
        associated_data: The bytes that the files were encrypted with.
        passphrase: One that may open them.
        suffix: Skip and report files whose names don't end in it; None for all files.
        jobs: Threads; None for those of `set_num_threads`.
        allow_compromised: As for `decrypt_file`.
        progress: As for `encrypt_tree`.
        on_item: As for `encrypt_tree`.

    Returns:
        Counts. A file that fails does not stop the others and raises nothing.

    Raises:
        FileNotFoundError: A source is not there.
        ValueError: A source is a symbolic link.
        KeyNotFoundError: There is no such keyset.
    """
    with file_keys(key_store, keyset, passphrase, allow_compromised=allow_compromised) as keys:
        walk = Walk("verify", keys, associated_data, jobs, progress, on_item)
        return _told("verify", keyset, False, walk.over, _paths(sources), suffix)


def rewrap_tree(
    sources: Sources,
    key_store: KeyStore,
    *,
    keyset: str = "default",
    copy: bool = False,
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    suffix: str | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    on_item: OnItem | None = None,
) -> TreeReport:
    """Puts every file of directories under the primary key of its keyset, as `rewrap_file` does.

    Each of the four writes of a rewrap in place is made to all files of a group, whose locks are
    held meanwhile, and then synced; so the order is for each file what it is for one alone.

    Args:
        sources: Directories and files.
        key_store: Where the keyset is.
        keyset: Whose keys open the files, and whose primary is to.
        copy: As for `rewrap_file`.
        associated_data: As for `rewrap_file`.
        passphrase: As for `rewrap_file`.
        suffix: Skip and report files whose names don't end in it; None for all files.
        jobs: Threads; None for those of `set_num_threads`.
        dry_run: Report what would be done, and do nothing.
        progress: As for `encrypt_tree`.
        on_item: As for `encrypt_tree`.

    Returns:
        Counts; "current" are those that were under the primary key alone already.

    Raises:
        FileNotFoundError: A source is not there.
        ValueError: A source is a symbolic link.
        KeyNotFoundError, KeyStateError: As for `encrypt_file`.
    """
    with file_keys(key_store, keyset, passphrase, rewraps=True) as keys:
        walk = Walk(
            "rewrap", keys, associated_data, jobs, progress, on_item, dry_run=dry_run, copy=copy
        )
        return _told("rewrap", keyset, dry_run, walk.over, _paths(sources), suffix)


def _paths(sources: Sources) -> list[str]:
    if isinstance(sources, str | bytes | os.PathLike):
        return [os.fsdecode(sources)]
    return [os.fsdecode(source) for source in sources]


def _told(
    work: str,
    keyset: str | None,
    dry_run: bool,
    run: Callable[..., TreeReport],
    *arguments: object,
) -> TreeReport:
    """Run a walk; an audit log is told when it begins and what came of it, without any path."""
    if dry_run:
        return run(*arguments)
    _events.report("bulk.started", operation=work, keyset=keyset)
    try:
        report = run(*arguments)
    except BaseException as error:
        kind = type(error).__name__
        _events.report_failure("bulk.ended", operation=work, keyset=keyset, error_type=kind)
        raise
    _events.report(
        "bulk.ended",
        outcome="failure" if report.failed else "success",
        operation=work,
        keyset=keyset,
        count=report.ok + report.current + report.skipped + report.failed,
        failed=report.failed,
        bytes=report.bytes_in,
    )
    return report
