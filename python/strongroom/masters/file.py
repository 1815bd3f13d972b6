"""A master key in a file: one line, `strongroom-master-key-1 ` and 64 hex digits, mode 0600."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Self

from strongroom import _native
from strongroom.errors import MasterKeyError
from strongroom.masters.software import (
    LINE_FORM,
    LINE_LENGTH,
    SoftwareMaster,
    new_line,
    parse_line,
)

__all__ = ["FileMasterKey"]


class FileMasterKey(SoftwareMaster):
    """A master key read from a file that its owner alone can read. Mechanism 00 of kind 04.

    The key is read at construction, into locked memory; the file may go away then.

    Attributes:
        path: Absolute path of the file.
        uri: `file:` and that path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the key.

        Args:
            path: The file. A symbolic link to one will do.

        Raises:
            FileNotFoundError: There is no such file.
            MasterKeyError: It has another text, another owner, or a mode that lets others at it.
        """
        self.path = _absolute(path)
        self.uri = f"file:{self.path}"
        super().__init__(_read(self.path))

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Make a file with a new key, mode 0600 and durable, and return its master.

        Raises:
            FileExistsError: Something of that name is there.
            OSError: The file can't be made.
        """
        target = _absolute(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(target, flags, 0o600)
        line = bytearray()
        try:
            os.fchmod(descriptor, 0o600)
            line = new_line()
            with memoryview(line) as view:
                done = 0
                while done < len(view):
                    done += os.write(descriptor, view[done:])
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(target)
            raise
        finally:
            line[:] = bytes(len(line))
            os.close(descriptor)
        directory = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(target)

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<FileMasterKey {self._key_id} {self.path}>"


def _absolute(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"the path of a master key must be text, not {type(name).__name__}")
    name = os.path.abspath(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError("the path of a master key must be UTF-8: a store keeps it") from None
    return name


def _read(path: str) -> _native.MemoryLockedKey:
    # O_NONBLOCK: a FIFO under that name must not hang the process.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    # One byte more than a line and its end, to see that nothing follows.
    line = bytearray(LINE_LENGTH + 2)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MasterKeyError(f"the master key {path} is not a regular file")
        if status.st_uid != os.geteuid():
            raise MasterKeyError(
                f"the master key {path} belongs to user {status.st_uid}, not to this one "
                f"({os.geteuid()}): its owner can read and replace it"
            )
        if status.st_mode & 0o077:
            raise MasterKeyError(
                f"the master key {path} has mode {stat.S_IMODE(status.st_mode):04o}: others can "
                "read or change it. If no one did, run chmod 600 on it; else replace it"
            )
        length = os.readv(descriptor, [line])
        material = parse_line(line, length)
        if material is None:
            raise MasterKeyError(f"{path} is not a master key: it must hold one line, {LINE_FORM}")
        return _native.MemoryLockedKey(material)
    finally:
        line[:] = bytes(len(line))
        os.close(descriptor)
