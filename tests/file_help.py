"""Help for the tests of files and trees: a store, seeds, trees, directories on a small disk."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from strongroom import FileMasterKey, KeyStore

LONG = os.environ.get("STRONGROOM_LONG") == "1"
"""Whether the variants that take minutes run: 200 kills, 10,000 swaps, files of gigabytes."""

CHUNK = 16_384
PIECE = 8 * CHUNK
"""Plaintext of a chunk, and of what a worker takes at a time, but of files over `SHORT_MAX` that
are encrypted."""

SHORT_MAX = 8 << 20

LENGTHS = (
    0,
    1,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    PIECE - 1,
    PIECE,
    PIECE + 1,
    3 * PIECE,
    1_000_003,
    SHORT_MAX,
    SHORT_MAX + 1,
    9 << 20,
)


def make_store(directory: Path) -> KeyStore:
    """A new store in a directory, opened. `open_store` opens it in another process."""
    master = FileMasterKey.create(str(directory / "master.key"))
    return KeyStore.create(f"sqlite:///{directory}/keys.db", master)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    """A new store beside what a test works on."""
    keys = tmp_path / "keys"
    keys.mkdir()
    with make_store(keys) as made:
        yield made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty directory."""
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def open_store(directory: str | Path) -> KeyStore:
    return KeyStore.open(f"sqlite:///{directory}/keys.db", FileMasterKey(f"{directory}/master.key"))


def seeded() -> random.Random:
    """A generator whose seed is printed, so that a failure can be repeated: STRONGROOM_SEED."""
    seed = int(os.environ.get("STRONGROOM_SEED") or random.SystemRandom().randrange(2**32))
    print(f"STRONGROOM_SEED={seed}")
    return random.Random(seed)


def leftovers(*directories: Path) -> list[str]:
    """Temporary files anywhere below."""
    return [str(path) for top in directories for path in top.rglob(".strongroom-*")]


def child_environment() -> dict[str, str]:
    """For Python processes that import the tests' modules, and the package that this one has."""
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run_python(code: str, *arguments: object, **settings: Any) -> Any:
    """A Python process that runs `code` with arguments, its output piped."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def make_tree(top: Path, rng: random.Random, *, files: int = 60, special: bool = False) -> None:
    """A tree with what real ones have: odd names and modes, links, empty files and directories."""
    top.mkdir()
    directories = [top]
    for number in range(max(3, files // 8)):
        parent = rng.choice(directories)
        directory = parent / f"d{number}"
        directory.mkdir()
        directories.append(directory)
    odd = ["-leading", "new\nline", "sp ace", "ü", ".hidden", "x" * 251, os.fsdecode(b"\xff\xfe")]
    for number in range(files):
        name = odd[number] if number < len(odd) else f"f{number}"
        path = rng.choice(directories) / name
        size = rng.choice((0, 1, 100, 4096, CHUNK, CHUNK + 1, 40_000, rng.randrange(300_000)))
        path.write_bytes(rng.randbytes(size))
        path.chmod(rng.choice((0o644, 0o600, 0o755, 0o400, 0o444)))
        when = rng.randrange(10**9, 17 * 10**8) * 10**9 + rng.randrange(10**9)
        os.utime(path, ns=(when, when))
    (top / "empty").mkdir()
    (top / "link").symlink_to("f20")
    (top / "dangling").symlink_to("/nonexistent/file")
    (top / "loop").symlink_to(".")
    if special:
        os.mkfifo(top / "fifo")
        sock = socket.socket(socket.AF_UNIX)
        here = os.open(".", os.O_RDONLY)
        os.chdir(top)  # The name of a socket has at most 108 bytes.
        sock.bind("socket")
        os.fchdir(here)
        os.close(here)
        sock.close()
    for directory in reversed(directories):
        directory.chmod(rng.choice((0o755, 0o700, 0o750)))
        when = rng.randrange(10**9, 17 * 10**8) * 10**9
        os.utime(directory, ns=(when, when))


def snapshot(top: Path, *, times: bool = True) -> dict[str, tuple[object, ...]]:
    """All that is to be kept of a tree, by path."""
    seen: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files, "."]:
            path = os.path.normpath(os.path.join(directory, name))
            state = os.lstat(path)
            content: object = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            mtime = state.st_mtime_ns if times else 0
            mode = 0 if os.path.islink(path) else state.st_mode
            seen[os.path.relpath(path, top)] = (mode, mtime, content)
    return seen


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A tmpfs of that size, in a mount namespace of its own where that is all we may have."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
