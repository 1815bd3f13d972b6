"""Trees under faults: killed at any moment, raced, changed while they are read."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import strongroom
from file_help import (
    LONG,
    child_environment,
    leftovers,
    make_tree,
    open_store,
    run_python,
    seeded,
    snapshot,
    store,
    work,
)
from strongroom.bulk import ItemResult, decrypt_tree, encrypt_tree, rewrap_tree, verify_tree

__all__ = ["store", "work"]

RUN = """
import sys, signal, strongroom
from strongroom import bulk
from file_help import open_store
signal.signal(signal.SIGINT, signal.default_int_handler)
work, keys, *paths = sys.argv[1:]
with open_store(keys) as store:
    store.get_current_key()
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        run = getattr(bulk, work + "_tree")
        report = run(paths[0], *paths[1:], store)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    else:
        print("done", report.failed, flush=True)
"""


def start(*arguments: object) -> Any:
    child = run_python(RUN, *arguments, stdin=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    return child


class Killer:
    """Kills runs at moments that the seed says."""

    def __init__(self, rng, longest: float) -> None:
        self.rng = rng
        self.longest = longest
        self.killed = 0

    def run(self, *arguments: object) -> bool:
        """Runs until such a moment, then kills -9. Whether it was killed at work."""
        # Leaving closes stdin, which `communicate` leaves open where its time was over at once.
        with start(*arguments) as child:
            try:
                out, err = child.communicate("go\n", timeout=self.rng.random() * self.longest)
            except subprocess.TimeoutExpired:
                child.kill()
                self.killed += 1
                # Runs take as long as what is left to do and what else this machine does.
                self.longest *= 1.2
                return True
        assert out == "done 0\n", err
        self.longest /= 1.5
        return False


def seconds_of_a_run(*arguments: object) -> float:
    import time

    with start(*arguments) as child:
        begin = time.monotonic()
        out, err = child.communicate("go\n")
    assert out == "done 0\n", err
    return time.monotonic() - begin


def test_killed_at_random_moments(store, work, tmp_path):
    """R13. Whatever stands under a final name is whole; a run afterwards does the rest."""
    rng = seeded()
    source, sealed, back = work / "source", work / "sealed", work / "back"
    make_tree(source, rng, files=10_000 if LONG else 400)
    before = snapshot(source)
    total = sum(1 for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    keys = tmp_path / "keys"
    killer = Killer(rng, seconds_of_a_run("encrypt", keys, source, work / "timed"))
    shutil.rmtree(work / "timed")
    for _ in range(200 if LONG else 12):
        if killer.run("encrypt", keys, source, sealed):
            if sealed.exists():
                report = verify_tree(sealed, store, suffix=".srm")
                assert report.failed == 0
                assert report.ok <= total
            assert snapshot(source) == before
        elif rng.random() < 0.5:
            shutil.rmtree(sealed)
    report = encrypt_tree(source, sealed, store)
    assert (report.ok + report.current, report.failed) == (total, 0)
    assert not leftovers(work)

    for _ in range(200 if LONG else 6):
        if killer.run("decrypt", keys, sealed, back):
            for path in back.rglob("*"):
                if ".strongroom-" not in path.name and path.is_file() and not path.is_symlink():
                    assert path.read_bytes() == (source / path.relative_to(back)).read_bytes()
    report = decrypt_tree(sealed, back, store)
    assert (report.ok + report.current, report.failed) == (total, 0)
    assert snapshot(back) == before

    for _ in range(200 if LONG else 8):
        store.rotate()
        killer.run("rewrap", keys, sealed)
        assert verify_tree(sealed, store).ok == total
    assert rewrap_tree(sealed, store).failed == 0
    assert rewrap_tree(sealed, store).current == total
    assert verify_tree(sealed, store).ok == total
    assert not leftovers(work)
    print(f"{killer.killed} killed at work")
    assert killer.killed >= 8


@pytest.mark.parametrize("call", ["renameat2", "openat", "pwrite64", "futimens", "syncfs"])
def test_killed_at_a_call(store, work, tmp_path, call):
    """The same at the calls that matter, one after the other."""
    source, sealed = work / "source", work / "sealed"
    make_tree(source, seeded(), files=20)
    before = snapshot(source)
    name = "utimensat" if call == "futimens" else call
    last = 1 if call == "syncfs" else 10
    for when in {1, 2, last // 2 + 1, last}:
        environment = child_environment()
        subprocess.run(
            [
                *("strace", "-f", "-o", "/dev/null", "-P", sealed, "-y", "-e", f"trace={name}"),
                *("-e", f"inject={name}:signal=KILL:when={when}"),
                *(sys.executable, "-c", RUN, "encrypt", tmp_path / "keys", source, sealed),
            ],
            env=environment,
            input="go\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if sealed.exists():
            assert verify_tree(sealed, store, suffix=".srm").failed == 0
        assert snapshot(source) == before
    report = encrypt_tree(source, sealed, store)
    assert (report.ok + report.current, report.failed) == (20, 0)
    assert not leftovers(work)
    decrypt_tree(sealed, work / "back", store)
    assert snapshot(work / "back") == before


def test_ctrl_c(store, work, tmp_path):
    rng = seeded()
    source, sealed = work / "source", work / "sealed"
    make_tree(source, rng, files=300)
    (source / "long").write_bytes(bytes(300 << 20))
    interrupted = 0
    for _ in range(5):
        child = start("encrypt", tmp_path / "keys", source, sealed)
        child.stdin.write("go\n")
        child.stdin.flush()
        while child.poll() is None and not leftovers(sealed):
            pass
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
        interrupted += out == "interrupted\n"
        assert out in ("interrupted\n", "done 0\n"), err
        assert not leftovers(work)
        if sealed.exists():
            assert verify_tree(sealed, store).failed == 0
        shutil.rmtree(sealed, ignore_errors=True)
    assert interrupted >= 1


def test_stale_files_of_a_dead_run_go_and_those_of_a_live_one_stay(store, work, tmp_path):
    source, sealed = work / "source", work / "sealed"
    make_tree(source, seeded(), files=10)
    encrypt_tree(source, sealed, store)
    stale = sealed / ".strongroom-0123456789abcdef.tmp"
    stale.write_text("left by a run that was killed")
    other = sealed / ".strongroom-notes.tmp"
    other.write_text("not ours")
    writer = strongroom.open(sealed / "live.srm", "wb", store)
    writer.write(bytes(1 << 20))
    before = {str(path) for path in sealed.glob(".strongroom-*")}
    encrypt_tree(source, sealed, store)
    assert {str(path) for path in sealed.glob(".strongroom-*")} == before, "a live one is here"
    writer.close()
    encrypt_tree(source, sealed, store)
    assert [path.name for path in sealed.glob(".strongroom-*")] == [other.name]
    assert strongroom.verify_file(sealed / "live.srm", store) == 1 << 20


# --- R14: races.

SWAP = """
import os, sys
directory, outside, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
aside = directory + ".aside"
print("ready", flush=True)
for _ in range(count):
    try:
        os.rename(directory, aside)
    except FileNotFoundError:
        continue  # Not made yet.
    os.symlink(outside, directory)
    os.unlink(directory)
    os.rename(aside, directory)
"""


@contextmanager
def swapping(directory: Path, outside: Path) -> Iterator[Any]:
    """Another process that swaps a directory for a link, again and again."""
    child = run_python(SWAP, directory, outside, 10_000_000)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    try:
        yield child
    finally:
        child.kill()
        child.communicate()
        if directory.is_symlink():
            directory.unlink()
        aside = directory.with_name(directory.name + ".aside")
        if aside.exists() and not directory.exists():
            aside.rename(directory)


@pytest.mark.parametrize("where", ["source", "target"])
def test_a_directory_swapped_for_a_link(store, work, where):
    """Nothing outside the roots is read or written, whenever the swap comes."""
    outside = work / "outside"
    (outside / "sub").mkdir(parents=True)
    source = work / "source"
    (source / "swapped" / "sub").mkdir(parents=True)
    for number in range(12):
        for directory in ("", "sub"):
            (outside / directory / f"f{number}").write_text("SECRET")
            (source / "swapped" / directory / f"f{number}").write_text("public")
    for number in range(40):
        # Others, so that time passes between the listing of a directory and its opening.
        (source / f"d{number}").mkdir()
    before = snapshot(outside)
    seen: set[str] = set()
    rounds = 1000 if LONG else 10
    raced = 0
    for number in range(rounds):
        sealed = work / f"sealed{number}"
        if where == "target":
            (sealed / "swapped").mkdir(parents=True)
        directory = (source if where == "source" else sealed) / "swapped"
        items: list[ItemResult] = []
        with swapping(directory, outside):
            report = encrypt_tree(source, sealed, store, on_item=items.append)
        raced += report.failed > 0
        for item in items:
            if item.error is not None:
                assert isinstance(item.error, OSError)
                seen.add(errno.errorcode[item.error.errno or 0])
        for path in sealed.rglob("*.srm"):
            if path.is_file():
                with strongroom.open(path, "rb", store) as file:
                    assert file.read() == b"public", "something outside was read"
        assert snapshot(outside) == before, "something outside was written"
        shutil.rmtree(sealed)
    print(f"{raced} of {rounds} runs met the swap: {sorted(seen)}")


@pytest.mark.parametrize("moment", ["before it is entered", "while it is listed"])
@pytest.mark.parametrize("where", ["source", "target"])
def test_a_directory_swapped_at_the_worst_moment(store, work, where, moment):
    """The same, not left to chance: a FIFO is reported when the directory that it is in is listed,
    and all names of a small directory were read from the disk by then."""
    outside, source, sealed = work / "outside", work / "source", work / "sealed"
    swapped = source / "swapped"
    for directory, text in ((outside / "sub", "SECRET"), (swapped / "sub", "public")):
        directory.mkdir(parents=True)
        (directory / "file").write_text(text)
        (directory.parent / "file").write_text(text)
    os.mkfifo((source if moment.startswith("before") else swapped) / "fifo")
    if where == "target":
        (sealed / "swapped").mkdir(parents=True)
    before = snapshot(outside)
    directory = (source if where == "source" else sealed) / "swapped"
    swaps = []

    def swap(item: ItemResult) -> None:
        if item.status == "skipped":
            directory.rename(directory.with_name("aside"))
            directory.symlink_to(outside)
            swaps.append(item.path)

    encrypt_tree(source, sealed, store, on_item=swap)
    assert len(swaps) == 1
    assert snapshot(outside) == before, "something outside was written"
    for path in work.rglob("*.srm"):
        with strongroom.open(path, "rb", store) as file:
            assert file.read() == b"public", "something outside was read"


def test_links_in_the_target_are_not_followed(store, work):
    source, sealed, outside = work / "source", work / "sealed", work / "outside"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("x")
    (source / "file").write_text("x")
    outside.mkdir()
    (outside / "file.srm").write_text("precious")
    sealed.mkdir()
    (sealed / "sub").symlink_to(outside)
    (sealed / "file.srm").symlink_to(outside / "file.srm")
    before = snapshot(outside)
    for overwrite in (False, True):
        items: list[ItemResult] = []
        report = encrypt_tree(source, sealed, store, overwrite=overwrite, on_item=items.append)
        assert snapshot(outside) == before
        assert report.failed == (1 if overwrite else 2)
        assert (sealed / "sub").is_symlink()
    assert not (sealed / "file.srm").is_symlink()
    assert strongroom.verify_file(sealed / "file.srm", store) == 1


# --- R15: sources that change.

CHANGE = """
import os, random, sys
rng = random.Random(int(sys.argv[2]))
paths = [os.path.join(sys.argv[1], name) for name in os.listdir(sys.argv[1])]
print("ready", flush=True)
while True:
    with open(rng.choice(paths), "r+b") as file:
        if rng.random() < 0.5:
            file.truncate(rng.randrange(200_000))
        else:
            file.seek(0, 2)
            file.write(rng.randbytes(rng.randrange(50_000)))
"""


def test_sources_that_change_while_they_are_read(store, work):
    """R15: an error or a message that opens, never one that does not."""
    rng = seeded()
    source = work / "source"
    source.mkdir()
    for number in range(10):
        (source / f"f{number}").write_bytes(rng.randbytes(150_000))
    child = run_python(CHANGE, source, rng.randrange(1000))
    assert child.stdout.readline() == "ready\n"
    stale = whole = 0
    try:
        for number in range(100 if LONG else 25):
            sealed = work / f"sealed{number}"
            items: list[ItemResult] = []
            encrypt_tree(source, sealed, store, on_item=items.append)
            for item in items:
                if item.error is not None:
                    assert isinstance(item.error, OSError), item.error
                    assert item.error.errno == errno.ESTALE
                    assert not os.path.lexists(str(item.target))
                    stale += 1
            report = verify_tree(sealed, store)
            assert report.failed == 0
            whole += report.ok
            assert not leftovers(sealed)
            shutil.rmtree(sealed)
    finally:
        child.kill()
        child.communicate()
    print(f"{stale} changed, {whole} whole")
    assert whole > 0


# --- The order of a rewrap, in a group too.


def test_each_step_of_a_group_is_synced_before_the_next(store, work, tmp_path):
    sealed = work / "sealed"
    make_tree(work / "source", seeded(), files=12)
    encrypt_tree(work / "source", sealed, store)
    total = sum(path.is_file() and not path.is_symlink() for path in sealed.rglob("*"))
    store.rotate()
    log = tmp_path / "log"
    environment = child_environment()
    done = subprocess.run(
        [
            *("strace", "-f", "-o", log, "-y", "-e", "trace=pwrite64,syncfs,flock"),
            *(sys.executable, "-c", RUN, "rewrap", tmp_path / "keys", sealed),
        ],
        env=environment,
        input="go\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "done 0" in done.stdout
    steps: list[int] = [0]
    for line in log.read_text().splitlines():
        if f"<{sealed}" not in line:
            continue
        if "pwrite64(" in line:
            steps[-1] += 1
        elif "syncfs(" in line:
            steps.append(0)
    assert steps == [total] * 4 + [0]


def test_two_runs_at_once(store, work, tmp_path):
    """One of them makes each file; the other finds it current, or there. Nothing is lost."""
    source, sealed = work / "source", work / "sealed"
    make_tree(source, seeded(), files=150)
    children = [start("encrypt", tmp_path / "keys", source, sealed) for _ in range(3)]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    outs = [child.communicate(timeout=120) for child in children]
    assert all(out.startswith("done") for out, _ in outs), outs
    report = encrypt_tree(source, sealed, store)
    assert (report.ok + report.current, report.failed) == (150, 0)
    decrypt_tree(sealed, work / "back", store)
    assert snapshot(work / "back") == snapshot(source)
    assert not leftovers(work)
    with open_store(tmp_path / "keys") as own:
        assert verify_tree(sealed, own).ok == 150
