"""Where a database's files are, and the durable writing and the lock of those beside it.

Nothing here opens the database's own file: any open() and close() of it in a process drops the
locks that SQLite holds on it there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple, NoReturn, Self

from strongroom.errors import DatabaseBusyError, EncryptedDatabaseError, NotADatabaseError

__all__ = [
    "FileLock",
    "Places",
    "holders",
    "locate",
    "network_file_system",
    "refuse_mounted",
    "refuse_unsuitable",
]

_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs",
    "fuse.juicefs", "fuse.moosefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2", "gpfs",
    "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs", "vboxsf",
}  # fmt: skip


class Places(NamedTuple):
    """The paths of a database and of what lies beside it.

    Attributes:
        given: The path as the caller gave it.
        database: The file, after links are resolved.
        sidecar: The hint: which key, which settings.
        lock: Held by whoever opens or rotates; never deleted.
        intent: There while a rotation is under way, or died.
        backup: The database before the rotation.
        wal: SQLite's write-ahead log.
        journal: SQLite's rollback journal.
    """

    given: str
    database: str
    sidecar: str
    lock: str
    intent: str
    backup: str
    wal: str
    journal: str

    @property
    def directory(self) -> str:
        """The directory of all of them."""
        return os.path.dirname(self.database)

    def size(self) -> int:
        """Return the size of the database with its write-ahead log, in bytes."""
        return sum(size_of(path) for path in (self.database, self.wal))


def locate(path: str | os.PathLike[str]) -> Places:
    """Return the places of a database, links resolved.

    Raises:
        TypeError: It is no path, or one in bytes.
        ValueError: It is no path of a file.
    """
    given = os.fspath(path)
    if not isinstance(given, str):
        raise TypeError("the path of a database is str, or an object with a path in str")
    if not given or given == ":memory:" or "\0" in given:
        raise ValueError("name the file of the database")
    real = os.path.realpath(given)
    beside = f"{real}.srm"
    return Places(
        given,
        real,
        f"{beside}.json",
        f"{beside}.lock",
        f"{beside}.rotate",
        f"{beside}.backup",
        f"{real}-wal",
        f"{real}-journal",
    )


def size_of(path: str) -> int:
    """Return a file's size, 0 if it isn't there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def refuse_unsuitable(places: Places) -> os.stat_result:
    """Look at the file's kind without opening it.

    Raises:
        FileNotFoundError: It isn't there.
        IsADirectoryError: It is a directory.
        NotADatabaseError: It is empty, or no regular file.
        EncryptedDatabaseError: It has a second name.
    """
    status = os.stat(places.database)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), places.database)
    if not stat.S_ISREG(status.st_mode):
        raise NotADatabaseError(f"{places.database} is not a regular file")
    if status.st_nlink > 1:
        raise EncryptedDatabaseError(
            f"{places.database} has {status.st_nlink} names (hard links): each would have a "
            "journal of its own, and one of them could destroy it; leave it one name"
        )
    if status.st_size == 0:
        raise NotADatabaseError(
            f"{places.database} is empty, so any key would open it: remove it, and connect() "
            "makes a new one, or restore it from a backup"
        )
    return status


def refuse_mounted(places: Places) -> None:
    """Look that the file lies in its directory, not on another file system or elsewhere on this.

    Raises:
        EncryptedDatabaseError: It is a mount point of its own.
    """
    if mounted_by_itself(places.database):
        raise EncryptedDatabaseError(
            f"{places.database} is mounted by itself, as containers do with single files: its "
            "journal and its backup would lie in another place than it; mount its directory, or do "
            "it where the file really lies"
        )


def network_file_system(path: str) -> str | None:
    """Return the type of the network file system that a path is on, None if it is on none."""
    kind = file_system_of(path)
    return kind if kind in _NETWORK else None


def file_system_of(path: str) -> str | None:
    """Return the type of the file system that a path is on, None if it can't be told."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((kind for number, _, kind in _mounts() if number == wanted), None)


def mounted_by_itself(path: str) -> bool:
    """Tell whether a file, its links resolved, is a mount point: it has another name elsewhere."""
    # What stands in mountinfo has blanks, tabs, newlines and backslashes as \040 and so on.
    octal = re.sub(rb"[ \t\n\\]", lambda m: b"\\%03o" % m[0][0], os.fsencode(path))
    return any(point == octal for _, point, _ in _mounts())


def _mounts() -> list[tuple[str, bytes, str]]:
    """Return device number, mount point and type of what is mounted, as far as it can be read."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            left, _, right = line.partition(b" - ")
            fields = left.split(b" ")
            found.append((fields[2].decode(), fields[4], right.split(b" ")[0].decode()))
    return found


def holders(path: str) -> list[str]:
    """Return the processes that have a file open, as "pid 123 (name)", as far as /proc shows."""
    try:
        wanted = os.stat(path)
    except FileNotFoundError:
        return []
    found = []
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        with contextlib.suppress(OSError):
            descriptors = f"/proc/{process}/fd"
            for name in os.listdir(descriptors):
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.stat(f"{descriptors}/{name}"), wanted):
                        comm = Path(f"/proc/{process}/comm").read_text().strip()
                        found.append(f"pid {process} ({comm})")
                        break
    return sorted(found)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(places: Places, path: str, data: bytes) -> None:
    """Put a whole file in place of another, durably; the caller holds the exclusive lock."""
    temporary = f"{path}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        own_as_database(places, descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    sync_directory(places.directory)


def remove_durably(places: Places, *paths: str) -> None:
    """Remove files that may not be there, and make that durable."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    sync_directory(places.directory)


def own_as_database(places: Places, descriptor: int) -> None:
    """Give a new file the owner and the mode of the database, as SQLite does for its journals."""
    try:
        status = os.stat(places.database)
    except FileNotFoundError:
        return
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o666)
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, status.st_uid, status.st_gid)


_OPEN: set[int] = set()


class FileLock:
    """The lock of a database: shared by those who open it, exclusive for who rotates it."""

    def __init__(self, places: Places, descriptor: int) -> None:
        self._places = places
        self.descriptor = descriptor

    @classmethod
    def take(cls, places: Places, *, exclusive: bool, timeout: float) -> Self:
        """Take the lock, making its file if need be.

        Raises:
            DatabaseBusyError: Another held it for longer than `timeout` seconds.
            OSError: The file can't be made.
        """
        # flock works on a descriptor for reading too, which others' lock files may be to us.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(places.lock, flags)
        except FileNotFoundError:
            descriptor = os.open(places.lock, flags | os.O_CREAT, 0o600)
            own_as_database(places, descriptor)
        _OPEN.add(descriptor)
        lock = cls(places, descriptor)
        # Not at the top: the child of a rotation starts without the key store's modules.
        from strongroom.keys.database import Backoff

        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        backoff = Backoff(timeout)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not backoff.again():
                        lock._busy(exclusive)
                else:
                    return lock
        except BaseException:
            lock.release()
            raise

    def _busy(self, exclusive: bool) -> NoReturn:
        others = ", ".join(
            h for h in holders(self._places.lock) if h.split()[1] != str(os.getpid())
        )
        raise DatabaseBusyError(
            f"{self._places.database} is being "
            + ("opened or rotated" if exclusive else "rotated")
            + " by another process"
            + (f" ({others})" if others else "")
            + "; nothing was changed, try again"
        )

    @property
    def rotation(self) -> str:
        """The id of the last rotation that began under this lock, or ""."""
        data = os.pread(self.descriptor, 64, 0)
        return data.decode("ascii", "replace")

    @rotation.setter
    def rotation(self, value: str) -> None:
        # By a descriptor of its own: flock's may be for reading alone. It is no journal, only
        # whose pre-active key it was if a rotation died before its intent was there.
        descriptor = os.open(self._places.lock, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(descriptor, value.encode(), 0)
            # Before the key is in the store, or a power failure would leave that nobody's.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(self._places.directory)

    def release(self) -> None:
        """Give the lock up, for a forked child that has the descriptor too."""
        if self.descriptor < 0:
            return
        descriptor, self.descriptor = self.descriptor, -1
        _OPEN.discard(descriptor)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def __enter__(self) -> Self:
        """Return the lock itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock up."""
        self.release()


def _after_fork() -> None:
    # A child that lives on would else hold a lock that its parent believes to have.
    for descriptor in _OPEN:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _OPEN.clear()


os.register_at_fork(after_in_child=_after_fork)
