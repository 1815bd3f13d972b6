"""The calls of a run as strace records them, played to a disk of power.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from power import SECTOR, TRANSIENT, Disk

# All that changes a file or a name, also what nobody makes here yet: play() says what it can't do.
# (`?`: not every machine has each.) `strace -f -y` is taken for granted.
CALLS = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "sendfile"),
    *("fsync", "fdatasync", "syncfs", "truncate", "ftruncate", "fallocate"),
    *("open", "openat", "openat2", "creat", "link", "linkat"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat"),
)
OPTIONS = ("-xx", "-s", "1000000", "-e", "trace=" + ",".join(f"?{c}" for c in CALLS))
_CALL = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+)")


class Trace(NamedTuple):
    """What a run did in one folder, a call a line; what it said on standard output lies between."""

    folder: Path
    lines: list[str]

    @classmethod
    def read(cls, log: Path, folder: Path) -> Trace:
        return cls(
            folder,
            [line for line in whole_calls(log) if is_about(line, folder) or says_something(line)],
        )

    def disk(
        self, stop: int, files: Mapping[str, bytes] | None = None, *, sector: int = SECTOR
    ) -> Disk:
        """A disk with the files from before the run, after so many calls."""
        disk = Disk(files, sector=sector)
        for line in self.lines[:stop]:
            play(disk, self.folder, line)
        return disk


def whole_calls(log: Path) -> list[str]:
    """What strace saw, a call a line.

    It splits a call in two where another thread made one meanwhile; that call counts where it
    ended.
    """
    found, begun = [], {}
    for line in log.read_text().splitlines():
        process, _, text = line.partition(" ")
        if text.endswith(" <unfinished ...>"):
            begun[process] = line.removesuffix(" <unfinished ...>")
        elif match := re.match(r" *<\.\.\. \w+ resumed>(.*)", text):
            found.append(begun.pop(process) + match[1])
        else:
            found.append(line)
    return found


def is_about(line: str, folder: Path) -> bool:
    """Whether the call names something in the folder, in strace's -xx or as it is."""
    hexed = "".join(f"\\x{byte:02x}" for byte in str(folder).encode())
    return hexed in line or str(folder) in line


def says_something(line: str) -> bool:
    return re.match(r"\d+ +write\(1<", line) is not None


def play(disk: Disk, folder: Path, line: str) -> None:
    """Make one call, in the notation of OPTIONS."""
    match = _CALL.match(line)
    assert match, line
    call, arguments, result = match[1], match[2], int(match[3])
    if result < 0 or says_something(line):
        return
    strings = [_bytes(text) for text in re.findall(r'"((?:\\x..)*)"', arguments)]
    if opened := re.match(r"\d+<((?:\\x..)*)>", arguments):
        _use(disk, folder, call, _bytes(opened[1]).decode(), strings, arguments, result)
        return
    paths = [Path(text.decode()) for text in strings]
    assert all(path.parent == folder for path in paths) or paths == [folder], line
    names = [path.name for path in paths]
    if any(name.endswith(TRANSIENT) for name in names) or paths == [folder]:
        return
    if call in ("open", "openat"):
        if "O_CREAT" in arguments and names[0] not in disk.names:
            disk.create(names[0])
        elif "O_TRUNC" in arguments:
            disk.names[names[0]].truncate(0)
    elif call.startswith("rename"):
        disk.rename(*names)
    elif call.startswith("link"):
        disk.link(*names)
    elif call.startswith("unlink"):
        disk.unlink(*names)
    else:
        raise AssertionError(f"what does it change? {line}")


def _use(
    disk: Disk,
    folder: Path,
    call: str,
    path: str,
    strings: list[bytes],
    arguments: str,
    result: int,
) -> None:
    """Make a call on an open file or on the folder."""
    number = int(arguments.rpartition(", ")[2]) if ", " in arguments else 0
    if path == str(folder):
        assert call in ("fsync", "fdatasync"), (call, arguments)
        disk.sync()
        return
    if path.endswith(TRANSIENT):
        return
    file = disk.names[Path(path).name]
    if call in ("fsync", "fdatasync"):
        file.sync()
    elif call == "ftruncate":
        file.truncate(number)
    elif call == "pwrite64":
        file.write(number, strings[0][:result])
    elif call == "write":
        # Nothing here seeks: a log is appended to, and what is new is written from its beginning.
        file.append(strings[0][:result])
    else:
        raise AssertionError(f"what does it change? {call}({arguments})")


def _bytes(hexed: str) -> bytes:
    return bytes.fromhex(hexed.replace("\\x", ""))
