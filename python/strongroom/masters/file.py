"""A master key in a file: one line, `strongroom-master-key-1 ` and 64 hex digits, mode 0600."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from strongroom import _native
from strongroom.errors import MasterKeyError
from strongroom.masters import wrapped

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FileMasterKey"]

_PREFIX = b"strongroom-master-key-1 "
_LENGTH = len(_PREFIX) + 64
_DIGITS = b"0123456789abcdef"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)} | {
    digit: value for value, digit in enumerate(_DIGITS.upper())
}


class FileMasterKey:
    """A master key read from a file that its owner alone can read. Mechanism 00 of kind 04.

    The key is read at construction, into locked memory; the file may go away then.

    Attributes:
        path: Absolute path of the file.
        uri: `file:` and that path.
    """

    mechanism = wrapped.SOFTWARE

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
        self._key = _read(self.path)
        self._key_id = self._key.key_id
        self._process = _native.process_generation()

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Make a file with a new key, mode 0600 and durable, and return its master.

        Raises:
            FileExistsError: Something of that name is there.
            OSError: The file can't be made.
        """
        target = Path(_absolute(path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(target, flags, 0o600)
        line = bytearray()
        try:
            os.fchmod(descriptor, 0o600)
            with _native.MemoryLockedKey.generate() as key:
                material = key.get()
                try:
                    line = _line(material)
                finally:
                    material[:] = bytes(len(material))
            with memoryview(line) as view:
                done = 0
                while done < len(view):
                    done += os.write(descriptor, view[done:])
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                target.unlink()
            raise
        finally:
            line[:] = bytes(len(line))
            os.close(descriptor)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(target)

    @property
    def key_id(self) -> str:
        """The key's public name, 32 hex digits."""
        return self._key_id

    def wrap(self, key: _native.MemoryLockedKey | Buffer, context: str) -> bytes:
        """Wrap a key: KC-XAES-256-GCM, bound to the key id.

        Args:
            key: The key, a handle or 32 bytes.
            context: Its key id, 32 hex digits.

        Returns:
            The blob, 104 bytes.
        """
        if not isinstance(key, _native.MemoryLockedKey):
            # A view, for the constructor wipes a bytearray, and this one is the caller's.
            with memoryview(key) as view, _native.MemoryLockedKey(view.toreadonly()) as handle:
                return self.wrap(handle, context)
        return _native.seal_key(self._usable(), "master", key, self._associated_data(context))

    def unwrap(self, blob: bytes, context: str) -> _native.MemoryLockedKey:
        """Unwrap what `wrap` gave, under the same context.

        Raises:
            DecryptionError: The blob or the context was changed, or another key wrapped it.
        """
        return _native.open_key(self._usable(), "master", blob, self._associated_data(context))

    def _usable(self) -> _native.MemoryLockedKey:
        if self._process != _native.process_generation():
            raise MasterKeyError(
                "this master was opened before the process forked: open it again in the child"
            )
        return self._key

    def _associated_data(self, context: str) -> bytes:
        return wrapped.header(self.mechanism, self._key_id) + bytes.fromhex(context)

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<FileMasterKey {self._key_id} {self.path}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError("a FileMasterKey can't be pickled or copied: open it again in the child")


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
    line = bytearray(_LENGTH + 2)
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
        material = _parse(line, length)
        if material is None:
            raise MasterKeyError(
                f"{path} is not a master key: it must hold one line, "
                f"{_PREFIX.decode()!r} and 64 hex digits"
            )
        return _native.MemoryLockedKey(material)
    finally:
        line[:] = bytes(len(line))
        os.close(descriptor)


def _line(material: bytearray) -> bytearray:
    """Return the file's text. By hand: bytes.hex() would leave a copy that can't be wiped."""
    line = bytearray(_PREFIX) + bytearray(65)
    at = len(_PREFIX)
    for byte in material:
        line[at] = _DIGITS[byte >> 4]
        line[at + 1] = _DIGITS[byte & 15]
        at += 2
    line[at] = ord("\n")
    return line


def _parse(line: bytearray, length: int) -> bytearray | None:
    """Return the key's 32 bytes, or None if this is no key file."""
    end = bytes(line[_LENGTH:length])
    if length < _LENGTH or end not in (b"", b"\n") or not line.startswith(_PREFIX):
        return None
    material = bytearray(32)
    for index in range(32):
        at = len(_PREFIX) + 2 * index
        high, low = _VALUES.get(line[at]), _VALUES.get(line[at + 1])
        if high is None or low is None:
            material[:] = bytes(32)
            return None
        material[index] = high << 4 | low
    return material
