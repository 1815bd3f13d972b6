"""Rewrapping groups of files: each file opens by its old or its new slot, whatever happens."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import strongroom
from file_help import LONG, child_environment, leftovers, run_python, seeded, store
from strongroom.bulk import encrypt_tree, rewrap_tree

__all__ = ["store"]

SLOT = 120
FILES = 6

REWRAP = """
import sys
from strongroom import bulk
from file_help import open_store
with open_store(sys.argv[1]) as store:
    store.get_current_key()
    try:
        report = bulk.rewrap_tree(sys.argv[2], store, jobs=1)
    except OSError as error:
        sys.exit(error.errno)
    sys.exit(100 + report.failed)
"""

MANY = """
import sys
from strongroom import bulk
from file_help import open_store
with open_store(sys.argv[1]) as store:
    for _ in range(12):
        store.rotate()
        assert bulk.rewrap_tree(sys.argv[2], store).failed == 0
"""


@pytest.fixture
def sealed(store, tmp_path):
    """A tree of some files that wait for a rewrap."""
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.mkdir()
    for number in range(FILES):
        (plain / str(number)).write_bytes(b"data" * number * 5000)
    encrypt_tree(plain, sealed, store)
    store.rotate()
    return sealed


def strace(log: Path, keys: Path, sealed: Path, *options: str) -> int:
    command = ["strace", "-f", "-y", "-o", log, *options, sys.executable, "-c", REWRAP]
    done = subprocess.run(
        [*map(str, command), str(keys), str(sealed)],
        env=child_environment(),
        capture_output=True,
        check=False,
    )
    return done.returncode


def paths_of(sealed: Path) -> list[Path]:
    found = sorted(sealed.iterdir())
    assert len(found) == FILES
    return found


def key_of(path: Path, store: strongroom.KeyStore) -> str | None:
    return strongroom.verify_file(path, store).key_id


def spare_of(path: Path) -> bytes:
    (spare,) = (slot for slot in strongroom.inspect(path).slots if slot.kind == "empty")
    return path.read_bytes()[spare.offset + 3 : spare.offset + 3 + spare.length]


def finish(sealed: Path, store: strongroom.KeyStore) -> None:
    """What a run afterwards makes of it: as if nothing had happened."""
    new = store.get_current_key().id
    assert rewrap_tree(sealed, store).failed == 0
    for path in paths_of(sealed):
        assert key_of(path, store) == new
        assert spare_of(path) == bytes(SLOT)
    report = rewrap_tree(sealed, store)
    assert (report.current, report.ok, report.failed) == (FILES, 0, 0)
    assert not leftovers(sealed)


def test_every_crash_and_every_torn_write_of_a_group(store, sealed, tmp_path):
    """Between two syncs each write to each file may be there, not there, or there in part."""
    rng = seeded()
    paths = paths_of(sealed)
    new = store.get_current_key().id
    before = {path: path.read_bytes() for path in paths}
    log = tmp_path / "log"
    options = ("-x", "-s", "9999", "-e", "trace=pwrite64,fsync,fdatasync,syncfs")
    assert strace(log, tmp_path / "keys", sealed, *options) == 100
    steps: list[dict[Path, tuple[int, bytes]]] = [{}]
    for line in log.read_text().splitlines():
        if f"<{sealed}" not in line or "resumed>" in line:
            continue
        if "sync" in line:
            steps.append({})
            continue
        found = re.search(r'pwrite64\(\d+<(.*?)>, "((?:\\x..)*)", \d+, (\d+)', line)
        assert found, line
        assert Path(found[1]) not in steps[-1]
        data = bytes.fromhex(found[2].replace("\\x", ""))
        steps[-1][Path(found[1])] = int(found[3]), data
    assert steps.pop() == {}
    assert [sorted(step) for step in steps] == [paths] * 4

    durable = {path: bytearray(data) for path, data in before.items()}
    opened: set[str | None] = set()
    for step in steps:
        for _ in range(40 if LONG else 15):
            for path, (offset, data) in step.items():
                kept = bytes(durable[path][offset : offset + len(data)])
                cut = rng.randrange(len(data) + 1)
                low, high = sorted(rng.randrange(len(data) + 1) for _ in range(2))
                state = rng.choice(
                    [
                        kept,
                        data,
                        data[:cut] + kept[cut:],
                        kept[:cut] + data[cut:],
                        # Garbage in place of a kind byte is a slot of a kind that is not known,
                        # which is not ours to empty; the file opens by the other one.
                        data[:low] + rng.randbytes(high - low) + data[high:]
                        if len(data) > 1
                        else kept,
                    ]
                )
                crashed = bytearray(durable[path])
                crashed[offset : offset + len(data)] = state
                path.write_bytes(crashed)
            opened |= {key_of(path, store) for path in paths}
            finish(sealed, store)
        for path, (offset, data) in step.items():
            durable[path][offset : offset + len(data)] = data
    assert len(opened) == 2
    assert new in opened
    # Count, lengths, prefix and chunks were never written.
    for path in paths:
        assert durable[path][5 + 2 * (3 + SLOT) :] == before[path][5 + 2 * (3 + SLOT) :]
        assert durable[path][4] == before[path][4]


def only(sealed: Path, call: str, what: str) -> list[str]:
    """Options that tamper with a call on these files; the key store has calls of its own."""
    options = ["-e", f"trace={call}", "-e", f"inject={call}:{what}"]
    for path in (sealed, *paths_of(sealed)):
        options += ["-P", str(path)]
    return options


def test_a_group_killed_and_done_again(store, sealed, tmp_path):
    points = list(range(1, 4 * FILES + 1))
    points = points if LONG else [*points[::FILES], *seeded().sample(points, 3)]
    keys: set[str | None] = set()
    for when in points:
        options = only(sealed, "pwrite64", f"signal=KILL:when={when}")
        # strace ends by the signal that ended its child.
        assert strace(tmp_path / "log", tmp_path / "keys", sealed, *options) == -9
        keys |= {key_of(path, store) for path in paths_of(sealed)}
        finish(sealed, store)
        store.rotate()
    assert len(keys) > 2


@pytest.mark.parametrize("step", range(4))
def test_a_disk_that_can_not_sync_a_group(store, sealed, tmp_path, step):
    # Killed when the earlier steps were durable; each sync is its own thread's first.
    if step:
        kill = only(sealed, "pwrite64", f"signal=KILL:when={step * FILES + 1}")
        assert strace(tmp_path / "log", tmp_path / "keys", sealed, *kill) == -9
    fail = only(sealed, "syncfs", "error=EIO:when=1")
    assert strace(tmp_path / "log", tmp_path / "keys", sealed, *fail) == errno.EIO
    for path in paths_of(sealed):
        assert key_of(path, store)
    finish(sealed, store)


def test_one_file_that_can_not_be_written_does_not_stop_the_others(store, sealed, tmp_path):
    first, *others = paths_of(sealed)
    for when in (1, 2, 3, 4):
        old, new = key_of(first, store), store.get_current_key().id
        options = ["-e", "trace=pwrite64", "-P", str(first)]
        options += ["-e", f"inject=pwrite64:error=EIO:when={when}"]
        assert strace(tmp_path / "log", tmp_path / "keys", sealed, *options) == 101
        for path in others:
            assert key_of(path, store) == new
        assert key_of(first, store) in (old, new)
        finish(sealed, store)
        store.rotate()


def test_more_files_than_descriptors(store, tmp_path):
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.mkdir()
    for number in range(150):
        (plain / str(number)).write_bytes(b"x")
    encrypt_tree(plain, sealed, store)
    new = store.rotate().id
    code = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n" + REWRAP
    child = run_python(code, tmp_path / "keys", sealed)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 100, err
    assert {key_of(path, store) for path in sealed.iterdir()} == {new}


def test_many_runs_over_one_tree_at_once(store, sealed, tmp_path):
    """Two that used the same empty slot would blank the only wrap."""
    children = [run_python(MANY, tmp_path / "keys", sealed) for _ in range(4)]
    for child in children:
        _, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
    store.refresh()
    finish(sealed, store)
