"""A file that gets its name only when all of it is written and on the disk; for data from pipes.

Files that are made from files are the library's work, `strongroom.files`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
from types import TracebackType


class WholeFile:
    """The target of a stream: a temporary name in the same directory until the block ends well.

    On any exception the temporary file goes, and what had the name stays as it was.
    """

    def __init__(self, path: str, *, overwrite: bool) -> None:
        """Say what is wanted; nothing is opened yet.

        Args:
            path: The name that the file will have.
            overwrite: Whether it may replace a file that is there.
        """
        self._path = path
        self._overwrite = overwrite
        self._name = os.path.basename(path)
        self._temporary = f".strongroom-{os.urandom(8).hex()}.tmp"
        self._folder: int | None = None
        self._file: io.FileIO | None = None

    def __enter__(self) -> WholeFile:
        """Return self; nothing is opened yet.

        A signal may come between any two steps. What `open` makes is made inside the block, so
        that the block's end always comes after it.
        """
        return self

    def open(self) -> io.FileIO:
        """Make the temporary file and return it, unbuffered. To be called once, in the block.

        Raises:
            FileExistsError: The target is there, and not to be replaced.
            IsADirectoryError: The target is a directory.
            ValueError: The target is a device, a FIFO or a socket: no rename may replace those.
            OSError: As `os.open`.
        """
        folder = os.path.dirname(self._path) or "."
        # By descriptor, so that all of it happens in one directory, whatever is renamed.
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # The library's files have such temporary names too, and it tidies away those in directories
        # that no writer holds this lock on. Without it (NFS) the worst is a failure at the end.
        with contextlib.suppress(OSError):
            fcntl.flock(self._folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._check_target()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = io.FileIO(os.open(self._temporary, flags, 0o600, dir_fd=self._folder), "wb")
        return self._file

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the file its name if the block ended well, else remove it.

        Raises:
            FileExistsError: The target came into being meanwhile, and is not to be replaced.
            OSError: The disk is full or failed; nothing is left under either name.
        """
        if self._folder is None:
            return
        try:
            if error is None and self._file is not None:
                # Until it was authenticated nobody else was to read it.
                os.fchmod(self._file.fileno(), 0o666 & ~_umask())
                os.fsync(self._file.fileno())
                self._file.close()
                self._rename()
                os.fsync(self._folder)
        finally:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
            # By name: an interrupt may have come between its making and `self._file`.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._folder)
            os.close(self._folder)

    def _check_target(self) -> None:
        try:
            mode = os.lstat(self._name, dir_fd=self._folder).st_mode
        except FileNotFoundError:
            return
        import stat

        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._path)
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise ValueError(
                "the target is a device, a FIFO or a socket: only regular files are replaced"
            )
        if not self._overwrite:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path)

    def _rename(self) -> None:
        if not self._overwrite:
            try:
                # A link, unlike a rename, never replaces what came into being meanwhile.
                os.link(
                    self._temporary,
                    self._name,
                    src_dir_fd=self._folder,
                    dst_dir_fd=self._folder,
                    follow_symlinks=False,
                )
            except FileExistsError:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path) from None
            except OSError:
                # A file system without hard links: the best that is left.
                self._check_target()
            else:
                return
        os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)


def _umask() -> int:
    # There is no call that only reads it; no other thread here makes files.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
