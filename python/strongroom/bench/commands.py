"""Running commands, ours and the peers', and the files that they work on."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_BLOCK: Final = 1 << 24


class CommandFailed(RuntimeError):
    """A command of a bench ended with another code than 0."""


def ours() -> list[str]:
    """Return the words that start the `strongroom` command of this interpreter."""
    script = Path(sys.executable).with_name("strongroom")
    return [str(script)] if script.exists() else [sys.executable, "-m", "strongroom.cli"]


def found(name: str) -> str | None:
    """Return the path of a command, None where there is none."""
    return shutil.which(name)


def run(words: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run a command to its end with nothing on stdin and its stdout thrown away.

    By posix_spawn, which costs the same whatever this process has in memory.

    Raises:
        CommandFailed: It ended with another code than 0, or by a signal.
    """
    null = os.devnull
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
    ]
    pid = os.posix_spawnp(
        words[0], list(words), os.environ if env is None else dict(env), file_actions=actions
    )
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise CommandFailed(f"{' '.join(words)}: ended with {code}")


def write_random(path: Path, size: int) -> None:
    """Write a file of `size` bytes that don't compress and are in the page cache afterwards."""
    block = os.urandom(min(size, _BLOCK))
    with open(path, "wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())


def write_tree(root: Path, count: int, size: int) -> None:
    """Write `count` files of `size` bytes below `root`, a hundred a directory, and sync them."""
    for i in range(count):
        folder = root / f"d{i // 100:04}"
        if i % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"f{i:06}.bin").write_bytes(os.urandom(size))
    os.sync()


def remove(path: Path) -> None:
    """Remove a file or a tree, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Remove a file, and wait for what the disk still has to do for it and for others.

    Whoever syncs next would pay for that: for the blocks given back (a file system mounted with
    `discard` tells the disk then), and for what somebody wrote and did not sync.
    """
    remove(path)
    os.sync()


def set_aside(path: Path) -> None:
    """Give a tree another name beside its own, if it is there, and sync what was not.

    Who removes ten thousand files slows down whoever makes new ones: ext4 without a journal passes
    over each inode that was freed in the last minutes, one by one.
    """
    if path.exists():
        path.rename(tempfile.mkdtemp(prefix=f"{path.name}-", dir=path.parent))
    os.sync()


class Store:
    """A key store of its own in a folder, for the library and for the command line."""

    def __init__(self, folder: Path) -> None:
        self.master = folder / "master.key"
        self.url = f"sqlite:///{folder}/keys.db"
        self.env = {k: v for k, v in os.environ.items() if k != "STRONGROOM_MASTER"}
        self.env["STRONGROOM_STORE"] = self.url
        run([*ours(), "init", "-q", "--master", f"file:{self.master}"], self.env)
