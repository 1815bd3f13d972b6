"""The file objects that `strongroom.open` returns."""

from __future__ import annotations

import io
import os
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom import _native
    from strongroom._file_keys import ByteCount, Path

__all__ = ["EncryptedReader", "EncryptedWriter"]


class EncryptedReader(io.RawIOBase):
    """An encrypted file, open for reading: unbuffered, seekable.

    What is read is authenticated chunk by chunk, and nothing else ever comes out. `pread` may be
    called from any number of threads at once; the position of `read` and `seek` is one for all, as
    in any file object. For many small reads one behind the other wrap it in `io.BufferedReader`.

    Attributes:
        name: The path that was given.
        mode: "rb".
        size: Bytes of plaintext, a ByteCount: with keyset and key id.
    """

    mode = "rb"

    def __init__(self, native: _native.FileReader, name: Path, size: ByteCount) -> None:
        """Wraps a native reader; use `strongroom.open`."""
        self._native = native
        self._position = 0
        self.name = name
        self.size = size

    @property
    def key_id(self) -> str | None:
        """The key that opened the file, 32 hex digits; None for a passphrase."""
        return self.size.key_id

    @property
    def keyset(self) -> str | None:
        """The keyset of that key; None for a passphrase."""
        return self.size.keyset

    def pread(self, n: int, offset: int) -> bytes:
        """Returns at most `n` bytes from `offset` on, fewer only at the end of the file.

        Raises:
            DecryptionError: A chunk does not authenticate.
            ValueError: A negative argument, or the file is closed.
            OSError: ESTALE where the file has become shorter; what the system says else.
        """
        if n < 0 or offset < 0:
            raise ValueError("n and offset must not be negative")
        return self._native.read(offset, n)

    def read(self, size: int | None = -1, /) -> bytes:
        """Returns at most `size` bytes from the position on; all for None or a negative number.

        Raises:
            DecryptionError, ValueError, OSError: As `pread`.
        """
        if size is None or size < 0:
            size = max(0, self.size - self._position)
        data = self._native.read(self._position, size)
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        """Returns all from the position on.

        Raises:
            DecryptionError, ValueError, OSError: As `pread`.
        """
        return self.read()

    def readinto(self, buffer: Buffer, /) -> int:
        """Fills a buffer from the position on and returns how much of it.

        Raises:
            DecryptionError: A chunk does not authenticate; the buffer is zeros then.
            ValueError, OSError: As `pread`.
        """
        count = self._native.readinto(self._position, buffer)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves the position, also past the end, and returns it.

        Raises:
            ValueError: Before the beginning, another `whence`, or the file is closed.
        """
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: int(self.size)}
        if whence not in base:
            raise ValueError(f"whence is {whence!r}: give 0, 1 or 2")
        position = base[whence] + offset
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def tell(self) -> int:
        """Returns the position."""
        self._check_open()
        return self._position

    def readable(self) -> bool:
        """True."""
        self._check_open()
        return True

    def seekable(self) -> bool:
        """True."""
        self._check_open()
        return True

    def write(self, data: Buffer, /) -> NoReturn:
        """Refuses."""
        raise io.UnsupportedOperation("not writable")

    def close(self) -> None:
        """Closes the file; reads that are under way in other threads end first."""
        if not self.closed:
            self._native.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def __repr__(self) -> str:
        """Shows the path and whether it is closed."""
        return f"<EncryptedReader {os.fsdecode(self.name)!r}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> NoReturn:
        """Refuses."""
        raise TypeError("an open encrypted file can't be pickled: open it again in the child")


class EncryptedWriter(io.RawIOBase):
    """An encrypted file in the making.

    It appears under its name when `close` succeeds, whole and synced, and not before. An exception
    inside a `with` block discards it, and so does the end of the object without `close`. Don't
    wrap it in `io.BufferedWriter`, which would close it after an exception too: small writes are
    gathered here as well.

    Attributes:
        name: The path that was given.
        mode: "wb" or "xb".
    """

    def __init__(self, native: _native.FileWriter, name: Path, mode: str) -> None:
        """Wraps a native writer; use `strongroom.open`."""
        self._native = native
        self._position = 0
        self.name = name
        self.mode = mode

    def write(self, data: Buffer, /) -> int:
        """Takes plaintext, all of it, and returns how many bytes that were.

        Raises:
            ValueError: The file is closed, or an earlier write has failed.
            OSError: What the system says; the file can only be discarded then.
        """
        count = self._native.write(data)
        self._position += count
        return count

    def read(self, size: int | None = -1, /) -> NoReturn:
        """Refuses."""
        raise io.UnsupportedOperation("not readable")

    def readinto(self, buffer: Buffer, /) -> NoReturn:
        """Refuses."""
        raise io.UnsupportedOperation("not readable")

    def tell(self) -> int:
        """Returns the bytes written so far."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return self._position

    def writable(self) -> bool:
        """True."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return True

    def close(self) -> None:
        """Writes the end, syncs the file and gives it its name. Twice is no error.

        Raises:
            FileExistsError: Mode "xb", and the name has come into use.
            ValueError: An earlier write has failed.
            OSError: What the system says. In all these cases the file is discarded.
        """
        if self.closed:
            return
        try:
            self._native.finish()
        finally:
            self._native.discard()
            super().close()

    def discard(self) -> None:
        """Closes without giving the file its name: nothing of it is left."""
        self._native.discard()
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes, or discards after an exception."""
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        """Discards what was not closed: only `close` says that it is whole."""
        if not self.closed:
            warnings.warn(f"unclosed {self!r} is discarded", ResourceWarning, stacklevel=2)
            self.discard()

    def __repr__(self) -> str:
        """Shows the path and whether it is closed."""
        return f"<EncryptedWriter {os.fsdecode(self.name)!r}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> NoReturn:
        """Refuses."""
        raise TypeError("an open encrypted file can't be pickled")
