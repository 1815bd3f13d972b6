"""Walking trees, for `strongroom.bulk`: by open directories, in groups of files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from strongroom import _native
from strongroom._tree_parts import (
    SKIPPED_TYPES,
    Directory,
    ItemResult,
    Status,
    TreeReport,
    identity,
    is_link,
    limits,
    mode_of,
    named,
    opened,
    replace_by_link,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom._file_keys import Keys, Progress

__all__ = ["Walk"]


_TOO_DEEP = "deeper than descriptors reach: raise the limit of open files"


class Walk:
    """One run over trees."""

    def __init__(
        self,
        work: Literal["encrypt", "decrypt", "verify", "rewrap"],
        keys: Keys,
        associated_data: Buffer,
        jobs: int | None,
        progress: Progress | None,
        on_item: Callable[[ItemResult], object] | None,
        *,
        dry_run: bool = False,
        copy: bool = False,
    ) -> None:
        """Takes what the functions of `strongroom.bulk` are given.

        Raises:
            ValueError: `jobs` is less than 1.
        """
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs is {jobs}: give 1 or more, or None")
        self._work = work
        self._keys = keys
        self._associated_data = associated_data
        self._workers = jobs
        self._progress = progress
        self._on_item = on_item
        self._dry_run = dry_run
        self._copy = copy
        self._suffix = ""
        self._overwrite = False
        self._target_root: tuple[int, int] | None = None
        self._report = TreeReport()
        self._done = 0
        self._jobs: list[tuple[_native.Folder, bytes, _native.Folder, bytes]] = []
        self._names: list[tuple[str, str | None]] = []
        self._left: list[Directory] = []
        self._writes = work in ("encrypt", "decrypt")
        self._most_files, self._most_directories = limits(work)

    def to(self, sources: list[str], target: str, suffix: str, *, overwrite: bool) -> TreeReport:
        """Writes to a target.

        Raises:
            FileNotFoundError, NotADirectoryError, ValueError: As `bulk.encrypt_tree`.
        """
        if not suffix or "/" in suffix:
            raise ValueError("the suffix must not be empty and has no slash")
        self._suffix = suffix
        self._overwrite = overwrite
        bases = [os.path.basename(os.path.abspath(source)) for source in sources]
        if len(set(bases)) < len(bases):
            raise ValueError("two sources have the same base name, and would be mixed")
        modes = [mode_of(source) for source in sources]
        if not self._dry_run:
            with contextlib.suppress(FileExistsError):
                single = len(sources) == 1 and stat.S_ISDIR(modes[0])
                os.mkdir(target, 0o700 if single else 0o777)
        root = None
        if os.path.lexists(target) or not self._dry_run:
            root = named(lambda: _native.Folder(target), target)
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            if root is not None:
                stack.callback(root.close)
                self._target_root = identity(root)
                if not self._dry_run:
                    root.begin_writing()
            for source, base, mode in zip(sources, bases, modes, strict=True):
                if not stat.S_ISDIR(mode):
                    self._single(source, root, target)
                elif len(sources) == 1:
                    # Closed with the directory: a second description, so that the lock stays.
                    own = None if root is None else _native.Folder(target)
                    self._tree(Directory(opened(source), source, own, target))
                else:
                    within = os.path.dirname(source)
                    above = Directory(opened(source), within, root, target)
                    made = self._make(above, base, os.path.join(target, base))
                    if made is False:
                        above.source.close()
                        continue
                    path = os.path.join(target, base)
                    self._tree(Directory(above.source, source, made, path))
            self._flush()
        return self._report

    def over(self, sources: list[str], suffix: str | None) -> TreeReport:
        """Reads, or rewraps in place.

        Raises:
            FileNotFoundError, ValueError: As `bulk.verify_tree`.
        """
        self._suffix = suffix or ""
        modes = [mode_of(source) for source in sources]
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            for source, mode in zip(sources, modes, strict=True):
                if stat.S_ISDIR(mode):
                    self._tree(Directory(opened(source), source, None, ""))
                else:
                    self._single(source, None, "")
            self._flush()
        return self._report

    def _single(self, source: str, root: _native.Folder | None, target: str) -> None:
        above, name = os.path.split(source)
        directory = Directory(opened(above or "."), above, None, target)
        directory.target = root
        self._file(directory, name)
        # The root is not this directory's to close.
        self._left.append(Directory(directory.source, "", None, ""))

    def _tree(self, top: Directory) -> None:
        if self._target_root is not None and identity(top.source) == self._target_root:
            top.close()
            raise ValueError(f"{top.path!r} is source and target at once")
        stack = [top]
        try:
            self._list(top)
            while stack:
                directory = stack[-1]
                if directory.below:
                    name = directory.below.pop()
                    if len(stack) >= self._most_directories:
                        path = os.path.join(directory.path, name)
                        self._failed(path, None, OSError(errno.EMFILE, _TOO_DEEP), path)
                        continue
                    child = self._enter(directory, name)
                    if child is not None:
                        stack.append(child)
                        self._list(child)
                    continue
                self._left.append(stack.pop())
                if len(self._left) + len(stack) >= self._most_directories:
                    self._flush()
        finally:
            self._left += stack

    def _enter(self, directory: Directory, name: str) -> Directory | None:
        path = os.path.join(directory.path, name)
        target_path = os.path.join(directory.target_path, name) if self._writes else ""
        try:
            source = directory.source.child(os.fsencode(name))
        except OSError as error:
            self._failed(path, None, error, path)
            return None
        if self._target_root is not None and identity(source) == self._target_root:
            source.close()
            self._skipped(path, None, "it is the target")
            return None
        target = self._make(directory, name, target_path) if self._writes else None
        if target is False:
            source.close()
            return None
        return Directory(source, path, target, target_path)

    def _make(
        self, directory: Directory, name: str, target_path: str
    ) -> _native.Folder | Literal[False] | None:
        """Makes or opens a directory of the target.

        Returns:
            None in a dry run where there is none; False where it failed.
        """
        above = directory.target
        if above is None:
            return None
        path = os.path.join(directory.path, name)
        try:
            if not self._dry_run:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=above.fileno())
            made = above.child(os.fsencode(name))
            if not self._dry_run:
                made.begin_writing()
        except FileNotFoundError as error:
            if self._dry_run:
                return None
            self._failed(path, target_path, error, target_path)
            return False
        except OSError as error:
            self._failed(path, target_path, error, target_path)
            return False
        return made

    def _list(self, directory: Directory) -> None:
        """Takes up the files of a directory, and notes its directories."""
        try:
            if self._work == "rewrap" and not self._dry_run:
                # One that writes anew leaves a temporary file here when it is killed.
                directory.source.begin_writing()
            with os.scandir(directory.source.fileno()) as entries:
                # A rewrap that writes anew renames in here: what is read must be settled before.
                found: Iterator[os.DirEntry[str]] | list[os.DirEntry[str]] = entries
                if self._work == "rewrap":
                    found = list(entries)
                for entry in found:
                    self._entry(directory, entry)
        except OSError as error:
            self._failed(directory.path, None, error, directory.path)

    def _entry(self, directory: Directory, entry: os.DirEntry[str]) -> None:
        name = entry.name
        if entry.is_symlink():
            if self._writes:
                self._link(directory, name)
        elif entry.is_dir(follow_symlinks=False):
            directory.below.append(name)
        elif entry.is_file(follow_symlinks=False):
            self._file(directory, name)
        else:
            path = os.path.join(directory.path, name)
            try:
                kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
            except OSError as error:
                self._failed(path, None, error, path)
                return
            self._skipped(path, None, SKIPPED_TYPES.get(kind, "no regular file"))

    def _file(self, directory: Directory, name: str) -> None:
        path = os.path.join(directory.path, name)
        source_name = os.fsencode(name)
        if _native.is_temporary_name(source_name):
            self._skipped(path, None, "a temporary file of a run that was interrupted")
            return
        suffix = self._suffix
        if self._work == "encrypt":
            target_name = name + suffix
        elif suffix and not name.endswith(suffix):
            self._skipped(path, None, f"its name does not end in {suffix}")
            return
        else:
            target_name = name.removesuffix(suffix)
            if target_name in ("", ".", ".."):
                self._skipped(path, None, f"its name without {suffix} is no name of a file")
                return
        target_path = os.path.join(directory.target_path, target_name) if self._writes else None
        if self._dry_run:
            self._plan(directory, name, target_name, path, target_path)
            return
        target = directory.target or directory.source
        self._jobs.append((directory.source, source_name, target, os.fsencode(target_name)))
        self._names.append((path, target_path))
        if len(self._jobs) >= self._most_files:
            self._flush()

    def _plan(
        self, directory: Directory, name: str, target_name: str, path: str, target_path: str | None
    ) -> None:
        try:
            source = os.stat(name, dir_fd=directory.source.fileno(), follow_symlinks=False)
        except OSError as error:
            self._failed(path, target_path, error, path)
            return
        there = None
        if directory.target is not None and not self._overwrite:
            with contextlib.suppress(OSError):
                there = os.stat(
                    target_name, dir_fd=directory.target.fileno(), follow_symlinks=False
                )
        if there is not None and there.st_mtime_ns != source.st_mtime_ns:
            exists = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._failed(path, target_path, exists, target_path)
            return
        status: Status = "ok" if there is None else "current"
        self._item(ItemResult(path, target_path, status, bytes_in=source.st_size))

    def _link(self, directory: Directory, name: str) -> None:
        """Makes a symbolic link again as it is."""
        if self._dry_run or directory.target is None:
            return
        path = os.path.join(directory.path, name)
        target_path = os.path.join(directory.target_path, name)
        source, target = directory.source.fileno(), directory.target.fileno()
        try:
            text = os.readlink(name, dir_fd=source)
            times = os.stat(name, dir_fd=source, follow_symlinks=False)
            try:
                os.symlink(text, name, dir_fd=target)
            except FileExistsError:
                # The same link may be that of a run that was killed before it set the times.
                same = is_link(name, target, text)
                if not same and not self._overwrite:
                    raise
                if not same:
                    replace_by_link(text, name, target)
            ns = (times.st_atime_ns, times.st_mtime_ns)
            os.utime(name, ns=ns, dir_fd=target, follow_symlinks=False)
        except OSError as error:
            self._failed(path, target_path, error, target_path)

    def _flush(self) -> None:
        """Does the group that has gathered, and closes the directories that are complete."""
        jobs, names, left = self._jobs, self._names, self._left
        folders = [
            (directory.target, directory.source)
            for directory in left
            if directory.target is not None and not self._dry_run
        ]
        if jobs or folders:
            done, tell = self._done, self._progress
            results = _native.file_batch(
                self._work,
                jobs,
                folders,
                self._keys.native,
                self._associated_data,
                overwrite=self._overwrite,
                copy=self._copy,
                workers=self._workers,
                progress=None if tell is None else lambda more, _: tell(done + more, None),
            )
            self._jobs, self._names = [], []
            for (path, target_path), result in zip(names, results, strict=True):
                self._result(path, target_path, result)
        self._left = []
        for directory in left:
            directory.close()

    def _result(
        self,
        path: str,
        target_path: str | None,
        result: tuple[int, int, str | None, bool] | tuple[Exception, bool],
    ) -> None:
        if len(result) == 2:
            error, of_target = result
            self._failed(path, target_path, error, target_path if of_target else path)
            return
        plaintext, message, key_id, current = result
        self._done += plaintext
        bytes_in, bytes_out = message, plaintext
        if self._work == "encrypt":
            bytes_in, bytes_out = plaintext, message
        elif self._work == "rewrap":
            bytes_out = 0
        self._item(
            ItemResult(
                path,
                target_path,
                "current" if current else "ok",
                bytes_in,
                0 if current else bytes_out,
                [] if key_id is None else [key_id],
                "envelope",
            )
        )

    def _skipped(self, path: str, target: str | None, reason: str) -> None:
        self._item(ItemResult(path, target, "skipped", reason=reason))

    def _failed(self, path: str, target: str | None, error: Exception, name: str | None) -> None:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = name
            error.filename2 = None
        self._item(ItemResult(path, target, "failed", error=error))

    def _item(self, item: ItemResult) -> None:
        report = self._report
        setattr(report, item.status, getattr(report, item.status) + 1)
        report.bytes_in += item.bytes_in
        report.bytes_out += item.bytes_out
        if self._on_item is not None:
            self._on_item(item)

    def _close(self) -> None:
        for directory in self._left:
            directory.close()
