"""What a walk over a tree is made of, for `strongroom._tree`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from strongroom import _native

Status = Literal["ok", "current", "skipped", "failed"]

# A sync costs tens of milliseconds whatever is synced, so groups are large. They hold the names of
# their files, and the descriptors of their directories.
_GROUP_FILES = 10_000
SKIPPED_TYPES = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(slots=True)
class ItemResult:
    """What came of a file of a tree.

    Attributes:
        path: The source.
        target: The file that was to be written, or None.
        status: "ok"; "current" where nothing was to be done; "skipped"; "failed".
        bytes_in: Bytes read: plaintext to encrypt, else the message.
        bytes_out: Bytes written: the message, or plaintext.
        key_ids: The key that it is under, or that opened it, 32 hex digits; empty for a passphrase.
        kind: "envelope" for a file that was read or written, else None.
        error: What failed, or None.
        reason: Why it was skipped, or None.
    """

    path: str | bytes
    target: str | bytes | None
    status: Status
    bytes_in: int = 0
    bytes_out: int = 0
    key_ids: list[str] = field(default_factory=list)
    kind: str | None = None
    error: BaseException | None = None
    reason: str | None = None


@dataclass(slots=True)
class TreeReport:
    """What came of a tree.

    Attributes:
        ok: Files done.
        current: Files to which nothing was to be done.
        skipped: Files, FIFOs, sockets and devices that were left out.
        failed: Files and directories that failed.
        bytes_in: Sum over the files that were done.
        bytes_out: The same.
    """

    ok: int = 0
    current: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Directory:
    """A directory of a source, and the one that it is written to.

    Attributes:
        source: What is read.
        path: Its path.
        target: What is written, or None.
        target_path: Its path.
        below: Names of directories in it that are still to be walked.
    """

    __slots__ = ("below", "path", "source", "target", "target_path")

    def __init__(
        self, source: _native.Folder, path: str, target: _native.Folder | None, target_path: str
    ) -> None:
        """Takes both, open, and what they are called in reports."""
        self.source = source
        self.path = path
        self.target = target
        self.target_path = target_path
        self.below: list[str] = []

    def close(self) -> None:
        """Closes both. Twice is no error."""
        self.source.close()
        if self.target is not None:
            self.target.close()


def limits(work: str) -> tuple[int, int]:
    """Returns how many files and directories a group may have, by the descriptors there are."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if soft == resource.RLIM_INFINITY else soft
    files = _GROUP_FILES
    if work == "rewrap":
        # Each file of a group is open, with its lock.
        return max(1, min(files, most // 2)), max(1, most // 8)
    return files, max(1, most // 4)


def mode_of(source: str) -> int:
    """Returns the mode of a source that was named.

    Raises:
        ValueError: It is a symbolic link.
        FileNotFoundError: It is not there.
    """
    mode = os.lstat(source).st_mode
    if stat.S_ISLNK(mode):
        raise ValueError(f"{source!r} is a symbolic link: name what it points to")
    return mode


def opened(path: str) -> _native.Folder:
    """Opens a directory; an error names it."""
    return named(lambda: _native.Folder(path), path)


def named(call: Callable[[], _native.Folder], path: str) -> _native.Folder:
    """Makes a folder; an error names the path."""
    try:
        return call()
    except OSError as error:
        error.filename = path
        raise


def identity(folder: _native.Folder) -> tuple[int, int]:
    """Returns what tells a directory from all others."""
    found = os.fstat(folder.fileno())
    return found.st_dev, found.st_ino


def is_link(name: str, directory: int, text: str) -> bool:
    """Tells whether a symbolic link of this text is there."""
    try:
        return os.readlink(name, dir_fd=directory) == text
    except OSError:
        return False


def replace_by_link(text: str, name: str, directory: int) -> None:
    """Puts a symbolic link in the place of what has the name, at once."""
    temporary = f".strongroom-{os.urandom(8).hex()}.tmp"
    os.symlink(text, temporary, dir_fd=directory)
    try:
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise
