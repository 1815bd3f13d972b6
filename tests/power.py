"""A disk whose power fails: what it may hold then, after some calls.

Of each file the writes since its last sync are kept, dropped, torn, or garbage lies in their place,
inside the range that was written; of the directory the names since its last sync. Who records the
calls of a run plays them to a Disk: power_strace.py those of strace, test_database_power.py those
of the preloaded library.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
# SQLite makes it anew, and it is mapped, so that no call writes it.
TRANSIENT = "-shm"


def files_in(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, for a disk to begin with."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.endswith(TRANSIENT)
    }


class Write(NamedTuple):
    """What a call did to a file; without data it set the size."""

    at: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.at :]
        content.extend(bytes(max(0, self.at - len(content))))
        if self.data is not None:
            content[self.at : self.at + len(self.data)] = self.data

    def tear(self, content: bytearray, generator: random.Random, sector: int) -> None:
        """Let a part of it be there: its beginning, or some of its sectors."""
        assert self.data is not None
        size = len(self.data)
        how = generator.choice(["cut", "a sector of garbage", "garbage to the end", "any sectors"])
        if how == "any sectors":
            for start in range(0, size, sector):
                part = self.data[start : start + sector]
                luck = generator.random()
                if luck < 0.1:
                    part = generator.randbytes(len(part))
                if luck < 0.6:
                    Write(self.at + start, part).apply(content)
            return
        cut = generator.randrange(0, size + 1, sector)
        end = {"cut": cut, "a sector of garbage": min(size, cut + sector)}.get(how, size)
        Write(self.at, self.data[:cut] + generator.randbytes(end - cut)).apply(content)


class File:
    """An inode: what it holds, what of that is durable, and the writes between."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[Write] = []

    def write(self, at: int, data: bytes) -> None:
        self._do(Write(at, data))

    def append(self, data: bytes) -> None:
        self._do(Write(len(self.content), data))

    def truncate(self, size: int) -> None:
        self._do(Write(size, None))

    def sync(self) -> None:
        self.durable = bytearray(self.content)
        self.pending.clear()

    def _do(self, write: Write) -> None:
        self.pending.append(write)
        write.apply(self.content)

    def crash(self, generator: random.Random, sector: int) -> bytes:
        content = bytearray(self.durable)
        # The disk of one file may be in a hurry, that of another may not.
        keep = generator.random()
        for write in self.pending:
            if generator.random() < keep:
                write.apply(content)
            elif write.data is not None and generator.random() < 0.5:
                write.tear(content, generator, sector)
        return bytes(content)


class NameChange(NamedTuple):
    """A step of the directory: a name goes, a file gets a name, or both at once."""

    old: str | None
    new: str | None
    file: File | None

    def apply(self, names: dict[str, File], by_name: bool = False) -> None:
        """Do it to some names; `by_name`, a rename moves whatever has the old name there."""
        file = self.file
        if by_name and self.old is not None and self.new is not None:
            file = names.get(self.old)
            if file is None:
                return
        if self.old is not None:
            names.pop(self.old, None)
        if self.new is not None:
            assert file is not None
            names[self.new] = file


class Disk:
    """One directory: its names, their files, and what of both is durable."""

    def __init__(self, files: Mapping[str, bytes] | None = None, *, sector: int = SECTOR) -> None:
        """Hold these files, all of them durable; writes are torn at multiples of `sector`."""
        self.sector = sector
        self.names = {name: File(content) for name, content in (files or {}).items()}
        self.durable = dict(self.names)
        self.unsynced: list[NameChange] = []

    def create(self, name: str) -> File:
        file = File()
        self._change(NameChange(None, name, file))
        return file

    def link(self, old: str, new: str) -> None:
        self._change(NameChange(None, new, self.names[old]))

    def rename(self, old: str, new: str) -> None:
        self._change(NameChange(old, new, self.names[old]))

    def unlink(self, name: str) -> None:
        assert name in self.names, name
        self._change(NameChange(name, None, None))

    def sync(self) -> None:
        """Make the names durable, as an fsync of the directory does."""
        self.durable = dict(self.names)
        self.unsynced.clear()

    def _change(self, change: NameChange) -> None:
        self.unsynced.append(change)
        change.apply(self.names)

    def content(self) -> dict[str, bytes]:
        """What is there if nothing is lost, as after a kill."""
        return {name: bytes(file.content) for name, file in self.names.items()}

    def crash(self, generator: random.Random) -> dict[str, bytes]:
        """What may be there if the power fails now."""
        names = dict(self.durable)
        by_name = generator.random() < 0.5
        # Mostly in order, as a journal of names keeps them; else any of them.
        if generator.random() < 0.7:
            kept = self.unsynced[: generator.randint(0, len(self.unsynced))]
        else:
            kept = [change for change in self.unsynced if generator.random() < 0.5]
        for change in kept:
            change.apply(names, by_name)
        # A file with two names is one file.
        held = {file: file.crash(generator, self.sector) for file in dict.fromkeys(names.values())}
        return {name: held[file] for name, file in names.items()}
