"""Encrypts a real directory tree under a fresh key store and brings it back; `make demo`.

Drives the command line as a user would: init, encrypt -r, verify -r, keys rotate, rewrap -r,
decrypt -r; then compares what came back with what went in, byte by byte. Prints one line a step
and, only if all is the same, `demo: N files, X bytes, identical`; the exit code is 0 only then.

The tree is copied into a temporary directory (TMPDIR) first: Python's library folder and the cargo
registry's sources where there are any, odd names, modes and links, filled up to 1 GiB by one file
of random bytes. DEMO_SOURCE names another folder to take instead of the libraries; nothing is
filled up then. DEMO_KEEP=1 leaves the temporary directory.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
TREE_SIZE = GIB
# Libraries are taken up to this size, so that the random file is never less than an eighth.
LIBRARIES_SIZE = 896 * MIB
# Of each of the libraries: what takes time is the files, and some thousands show it.
LIBRARY_FILES = 8000
# Three trees, and what the file system needs for tens of thousands of files in each.
FREE_NEEDED = 4 * GIB
CHUNK = 16384
MAGIC = b"SR\x02\x02"


class DemoError(Exception):
    """A step went wrong; the text says which and how."""


class Strongroom:
    """The command line, with a store and a master key in one temporary directory."""

    def __init__(self, folder: Path) -> None:
        command = shutil.which("strongroom", path=str(Path(sys.executable).parent))
        if command is None:
            raise DemoError("the command `strongroom` is not installed beside this Python")
        self.command = command
        self.store = folder / "keys.db"
        self.master = folder / "master.key"
        self.env = {**os.environ, "STRONGROOM_STORE": f"sqlite:///{self.store}", "NO_COLOR": "1"}
        self.env.pop("STRONGROOM_MASTER", None)

    def __call__(self, *arguments: str) -> tuple[list[dict[str, object]], float]:
        """Run one command with --json.

        Returns:
            The objects that it printed, and the seconds that it took, start of Python included.

        Raises:
            DemoError: It did not exit 0.
        """
        begin = time.perf_counter()
        # A file for stderr: a pipe that nobody reads while stdout is read would block.
        with tempfile.TemporaryFile() as errors:
            with subprocess.Popen(
                [self.command, *arguments, "--json"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            ) as process:
                assert process.stdout is not None
                objects = [json.loads(line) for line in process.stdout]
            seconds = time.perf_counter() - begin
            if process.returncode != 0:
                errors.seek(0)
                failed = [
                    o for o in objects if o.get("type") == "error" or o.get("status") == "failed"
                ]
                raise DemoError(
                    f"strongroom {' '.join(arguments)}: exit code {process.returncode}\n"
                    + errors.read().decode(errors="replace")
                    + "".join(f"{o}\n" for o in failed[:10])
                )
        return objects, seconds


def report(step: str, files: int, size: int, seconds: float, note: str = "") -> None:
    """Print the line of one step; the rate is decimal megabytes."""
    rate = f"{size / seconds / 1e6:9.1f} MB/s" if seconds > 0 else ""
    print(f"{step:<8} {files:>7,} files {size:>14,} bytes {seconds:8.2f} s {rate}  {note}".rstrip())
    sys.stdout.flush()


def walk(folder: bytes) -> Iterator[os.DirEntry[bytes]]:
    """Yield every entry below a folder, in order of names, folders before what is in them.

    Names are bytes: they need not be text. Links are not followed.
    """
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)


def copy_tree(source: Path, target: Path, limit: int, most: int = sys.maxsize) -> int:
    """Copy at most so many bytes and files, folders and links, with modes and times.

    What can't be read, and what is neither file, folder nor link, is left out.

    Returns:
        The bytes of the files that were copied.
    """
    taken = 0
    target.mkdir()
    base, to = os.fsencode(source), os.fsencode(target)
    for entry in walk(base):
        place = os.path.join(to, os.path.relpath(entry.path, base))
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
        elif entry.is_dir(follow_symlinks=False):
            os.mkdir(place)
        elif entry.is_file(follow_symlinks=False) and os.access(entry.path, os.R_OK):
            size = entry.stat(follow_symlinks=False).st_size
            if taken + size <= limit and most > 0:
                most -= 1
                shutil.copy2(entry.path, place)
                taken += size
    return taken


def odd_things(folder: Path) -> None:
    """Make files and links with the names, sizes, modes and times that break careless programs."""
    folder.mkdir()
    base = os.fsencode(folder)
    names = [
        b"-rf",
        b"--help",
        b" leading and trailing ",
        b"new\nline",
        b"tab\tand\\backslash",
        b"quote'\"`$HOME`",
        b"not utf-8: \xff\xfe\x80",
        "Grüße, 世界, 🔐".encode(),
        b".hidden",
        b"already.srm",
        b"*?[a]",
        b"x" * 251,  # With the suffix of 4 bytes it is as long as a name may be.
    ]
    for number, name in enumerate(names):
        Path(os.fsdecode(os.path.join(base, name))).write_bytes(secrets.token_bytes(number * 37))
    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 4 * CHUNK + 1, 1 << 20):
        (folder / f"{size} bytes").write_bytes(secrets.token_bytes(size))
    for mode in (0o400, 0o444, 0o600, 0o640, 0o755, 0o777):
        path = folder / f"mode {mode:o}"
        path.write_bytes(b"mode")
        path.chmod(mode)
    old = folder / "from 1999"
    old.write_bytes(b"old")
    os.utime(old, ns=(0, 946_684_799_123_456_789))
    (folder / "empty folder").mkdir()
    (folder / "link to a file").symlink_to("1 bytes")
    (folder / "link to a folder").symlink_to("empty folder", target_is_directory=True)
    (folder / "link to nothing").symlink_to("/nonexistent/target")
    (folder / "link to itself").symlink_to("link to itself")
    os.link(folder / "1 bytes", folder / "hard link")
    deep = folder
    for _ in range(40):
        deep = deep / "deep"
        deep.mkdir()
    (deep / "down here").write_bytes(b"deep")


def make_tree(plain: Path) -> str:
    """Make the tree to encrypt and return a few words on what is in it."""
    plain.mkdir()
    chosen = os.environ.get("DEMO_SOURCE")
    if chosen:
        copy_tree(Path(chosen), plain / "source", sys.maxsize)
        odd_things(plain / "odd")
        return f"{chosen}, odd names"
    room = LIBRARIES_SIZE
    words = "Python's library"
    room -= copy_tree(Path(sysconfig.get_path("stdlib")), plain / "python", room, LIBRARY_FILES)
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry" / "src"
    if cargo.is_dir():
        room -= copy_tree(cargo, plain / "cargo", room, LIBRARY_FILES)
        words += ", cargo's sources"
    odd_things(plain / "odd")
    rest = TREE_SIZE - measure(plain)[1]
    with (plain / "random").open("wb") as out:
        while rest > 0:
            rest -= out.write(secrets.token_bytes(min(rest, MIB)))
    return f"{words}, odd names, one random file"


def measure(folder: Path) -> tuple[int, int]:
    """Return the number and the bytes of the regular files below a folder."""
    files = size = 0
    for entry in walk(os.fsencode(folder)):
        if entry.is_file(follow_symlinks=False):
            files += 1
            size += entry.stat(follow_symlinks=False).st_size
    return files, size


def check_encrypted(plain: Path, sealed: Path, *, rewrapped: bool) -> None:
    """Check that every plain file has its envelope, and that nothing else is there.

    Mode and time of modification are those of the plain file, but a rewrap sets the time: backups
    must see the new slot.

    Raises:
        DemoError: A file is missing, too many, or not what it should be.
    """
    base, to = os.fsencode(plain), os.fsencode(sealed)
    expected = 0
    for entry in walk(base):
        if not entry.is_file(follow_symlinks=False):
            continue
        expected += 1
        here = entry.stat(follow_symlinks=False)
        place = os.path.join(to, os.path.relpath(entry.path, base)) + b".srm"
        with open(place, "rb") as file:
            there = os.fstat(file.fileno())
            if file.read(len(MAGIC)) != MAGIC or there.st_size <= here.st_size:
                raise DemoError(f"{place!r} is not an envelope of its plaintext")
        if there.st_mode != here.st_mode:
            raise DemoError(f"{place!r} has mode {there.st_mode:o}, not {here.st_mode:o}")
        if (there.st_mtime_ns == here.st_mtime_ns) == rewrapped:
            raise DemoError(f"{place!r} has the wrong time of modification")
    found = measure(sealed)[0]
    if found != expected:
        raise DemoError(f"{found} files in the encrypted tree, {expected} expected")


def same_bytes(one: bytes, other: bytes) -> bool:
    """Compare two files byte by byte."""
    with open(one, "rb", buffering=0) as a, open(other, "rb", buffering=0) as b:
        while True:
            x, y = a.read(MIB), b.read(MIB)
            if x != y:
                return False
            if not x:
                return True


def compare(plain: Path, back: Path) -> tuple[int, int]:
    """Compare two trees: names, types, link targets, contents and modes of files.

    Returns:
        The number and the bytes of the files compared.

    Raises:
        DemoError: At the first difference, which it names.
    """
    files = size = 0
    base, to = os.fsencode(plain), os.fsencode(back)
    names = set()
    for entry in walk(base):
        name = os.path.relpath(entry.path, base)
        names.add(name)
        other = os.path.join(to, name)
        try:
            here, there = entry.stat(follow_symlinks=False), os.lstat(other)
        except FileNotFoundError:
            raise DemoError(f"{name!r} did not come back") from None
        if stat.S_IFMT(here.st_mode) != stat.S_IFMT(there.st_mode):
            raise DemoError(f"{name!r} came back as another type of file")
        if entry.is_symlink():
            if os.readlink(entry.path) != os.readlink(other):
                raise DemoError(f"{name!r} points elsewhere")
        elif entry.is_file(follow_symlinks=False):
            if not same_bytes(entry.path, other):
                raise DemoError(f"{name!r} has other contents")
            if here.st_mode != there.st_mode:
                raise DemoError(f"{name!r} has mode {there.st_mode:o}, not {here.st_mode:o}")
            files += 1
            size += here.st_size
    for entry in walk(to):
        if os.path.relpath(entry.path, to) not in names:
            raise DemoError(f"{entry.path!r} came out of nowhere")
    return files, size


def items(objects: list[dict[str, object]], *statuses: str) -> list[dict[str, object]]:
    """Pick the item lines with one of the given statuses."""
    return [o for o in objects if o.get("type") == "item" and o.get("status") in statuses]


def expect(step: str, found: int, files: int) -> None:
    """Check the number of files that a step says it handled.

    Raises:
        DemoError: It is another one.
    """
    if found != files:
        raise DemoError(f"{step} handled {found} files of {files}")


def free_or_stop(folder: Path) -> None:
    """Stop unless the folder's file system has room for three trees.

    Raises:
        DemoError: It has not; the text says how much it needs.
    """
    chosen = os.environ.get("DEMO_SOURCE")
    # A quarter of the default's need a tree, and 64 MiB for the odd things.
    needed = 4 * measure(Path(chosen))[1] + 64 * MIB if chosen else FREE_NEEDED
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DemoError(
            f"{folder} has {free / GIB:.1f} GiB free and {needed / GIB:.1f} GiB are needed;"
            " set TMPDIR to another folder"
        )


def run(folder: Path) -> None:
    """Do all steps in an empty folder.

    Raises:
        DemoError: One of them went wrong.
    """
    free_or_stop(folder)
    plain, sealed, back = folder / "plain", folder / "sealed", folder / "back"
    begin = time.perf_counter()
    words = make_tree(plain)
    files, size = measure(plain)
    report("tree", files, size, time.perf_counter() - begin, words)

    strongroom = Strongroom(folder)
    _, seconds = strongroom("init", "--master", f"file:{strongroom.master}")
    made = [strongroom.store, strongroom.master]
    report("init", len(made), sum(p.stat().st_size for p in made), seconds, "key store, master key")

    objects, seconds = strongroom("encrypt", "-r", str(plain), "-o", str(sealed))
    expect("encrypt", len(items(objects, "ok")), files)
    check_encrypted(plain, sealed, rewrapped=False)
    report("encrypt", files, size, seconds)

    objects, seconds = strongroom("verify", "-r", str(sealed))
    expect("verify", len(items(objects, "ok")), files)
    report("verify", files, size, seconds)

    objects, seconds = strongroom("keys", "rotate")
    keys = [o for o in objects if o.get("type") == "key"]
    report("rotate", 1, strongroom.store.stat().st_size, seconds, f"{len(keys)} new primary key")

    objects, seconds = strongroom("rewrap", "-r", str(sealed))
    expect("rewrap", len(items(objects, "ok")), files)
    check_encrypted(plain, sealed, rewrapped=True)
    report("rewrap", files, size, seconds, "slots only")
    objects, _ = strongroom("rewrap", "-r", str(sealed))
    expect("rewrap done again", len(items(objects, "current", "skipped")), files)

    objects, seconds = strongroom("decrypt", "-r", str(sealed), "-o", str(back))
    expect("decrypt", len(items(objects, "ok")), files)
    report("decrypt", files, size, seconds)

    begin = time.perf_counter()
    same = compare(plain, back)
    report("compare", *same, time.perf_counter() - begin)
    if same != (files, size):
        raise DemoError("the tree changed while the demo ran")
    print(f"demo: {files:,} files, {size:,} bytes, identical")


def main() -> int:
    """Run the demo in a temporary directory and return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="strongroom-demo-"))
    try:
        run(folder)
    except DemoError as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    finally:
        if os.environ.get("DEMO_KEEP") != "1":
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
