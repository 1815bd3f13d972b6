"""What a rotation looks at before it begins: kind of the file, where it lies, rights, room."""

from __future__ import annotations

import os

from strongroom.database import places as files
from strongroom.database.places import Places
from strongroom.database.sources import StoreSource
from strongroom.errors import EncryptedDatabaseError

__all__ = ["check_before", "check_room", "free", "needed"]

_SPARE_BYTES = 1 << 20


def check_before(places: Places, source: StoreSource, *, force: bool) -> None:
    """Look that a database may be rotated where it is.

    Raises:
        FileNotFoundError: It isn't there.
        IsADirectoryError: It is a directory.
        NotADatabaseError: It is empty, or no regular file.
        EncryptedDatabaseError: A hard link, a file that is mounted by itself, a network file
            system, no rights, a store that is read-only.
    """
    files.refuse_unsuitable(places)
    files.refuse_mounted(places)
    kind = files.network_file_system(places.database)
    if kind and not force:
        raise EncryptedDatabaseError(
            f"{places.database} is on a network file system ({kind}), whose locks may not "
            "hold: rotate it on the machine that has the disk, or with force=True"
        )
    for path in (places.directory, places.database):
        if not os.access(path, os.W_OK):
            raise EncryptedDatabaseError(
                f"{path} can't be written by this user; nothing was changed"
            )
    if source.store.read_only:
        raise EncryptedDatabaseError("the key store was opened read-only")


def check_room(places: Places, what: str = "a rotation of") -> None:
    """Look that there is room for a rotation, or for taking a database over.

    Raises:
        EncryptedDatabaseError: There isn't; the text has both figures.
    """
    wanted, there = needed(places), free(places)
    if there < wanted:
        raise EncryptedDatabaseError(
            f"{what} {places.database} needs {wanted} bytes of free disk, twice its size and "
            f"1 MiB, and {there} are there; nothing was changed"
        )


def needed(places: Places) -> int:
    """Return how many free bytes a rotation needs: for the backup, and for the journal."""
    return 2 * places.size() + _SPARE_BYTES


def free(places: Places) -> int:
    """Return how many free bytes there are for it."""
    disk = os.statvfs(places.directory)
    return disk.f_bavail * disk.f_frsize
