"""Jobs on key stores: rotating beside its fsyncs, rewrapping, and stores of many keysets."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import strongroom
from strongroom.keys import keyset as keysets
from strongroom.keys.store import _new_keyset

from .measure import Contender, Pace, interleave

ROTATE: Final = "strongroom rotate"
SYNC: Final = "write and fdatasync of as much"
REWRAP: Final = "strongroom rewrap_file"
SYNCS: Final = "its writes and fsyncs alone"
TREE: Final = "strongroom bulk rewrap"
BARE: Final = "the same writes and syncs alone"
ANEW: Final = "strongroom bulk decrypt, encrypt"
# Offset and length of the writes to a slot, each to be durable before the next.
_WRITES: Final = ((8, 120), (5, 1), (5, 1), (8, 120))
OPEN: Final = "open"
COLD: Final = "look up, cold"
CACHED: Final = "look up, cached"
MIB: Final = 1 << 20
# How many keysets a store of many has beside one of few; 1,000,000 take two minutes to make.
FEW: Final = 1_000
MANY: Final = int(os.environ.get("STRONGROOM_BENCH_KEYSETS", "100000"))
# Files of 1 MiB in the tree that is rewrapped; 10,000 take 30 GB and some minutes.
FILES: Final = int(os.environ.get("STRONGROOM_BENCH_FILES", "1000"))
MEMORY: Final = "/dev/shm"  # noqa: S108 - made private by tempfile


def jobs(scale: Any, folder: str) -> list[Any]:  # noqa: ANN401 - runner's, which imports this
    """Return the jobs."""
    from .runner import DEFAULT, Job

    pace = {
        "slice_seconds": scale.slice_seconds,
        "budget_seconds": scale.budget_seconds,
        "rounds_min": scale.rounds_min,
        "rounds_max": scale.rounds_max,
    }
    many = FEW * 10 if scale.quick else MANY
    trees = 20 if scale.quick else FILES
    return [
        Job("keysets", DEFAULT, "stores", "many", {"folder": folder, "pace": pace, "count": many}),
        Job(
            "rotation", DEFAULT, "stores", "rotation",
            {"folder": folder, "pace": pace, "files": trees},
        ),
    ]  # fmt: skip


def rows(make: Any, document: Any) -> None:  # noqa: ANN401 - targets.Rows
    """Add the rows."""
    make.difference("rotating a keyset in SQLite", "store rotate", ROTATE, SYNC, 0.020, "ms")
    make.difference("rewrapping a file of 64 MiB", "rewrap 64 MiB", REWRAP, SYNCS, 0.001, "ms")
    alone = make.groups.get("rewrap 64 MiB in memory", {}).get(REWRAP)
    make.most(
        "rewrapping a file of 64 MiB, its syncs left out",
        "1 ms",
        alone and alone["median"],
        0.001,
        "{:.2f} ms",
        1e3,
    )
    tree = next((name for name in make.groups if name.startswith("rewrap tree ")), "rewrap tree")
    files = tree.removeprefix("rewrap tree ")
    make.speed(f"rewrapping {files}, durable", tree, TREE, ANEW, 100)
    # What the disk and the kernel take for it; the rest is ours.
    make.time(f"rewrapping {files}, durable", tree, TREE, BARE, 1.5)
    for group, found in make.groups.items():
        if not group.startswith("keysets "):
            continue
        what = group.removeprefix("keysets ")
        few, many = (found[name]["median"] for name in sorted(found, key=_number))
        count = _number(max(found, key=_number))
        bound = math.log(count) / math.log(FEW)
        make.most(
            f"{what} in {count:,} keysets beside {FEW:,}",
            f"{bound:.2f} times, as log n",
            many / few,
            bound,
            "{:.2f} times",
        )


def rotation(folder: str, pace: Pace, files: int) -> dict[str, Any]:
    """Time rotating and rewrapping, beside what the disk takes for it."""
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        with _store(directory, 0) as store:
            groups = {
                "store rotate": _rotate(store, directory, pace),
                "rewrap 64 MiB": _rewrap(store, directory, pace),
                f"rewrap tree {files:,} x 1 MiB": _tree(store, directory, pace, files),
            }
            left_out = {}
            if os.access(MEMORY, os.W_OK):
                groups["rewrap 64 MiB in memory"] = _without_syncs(store, pace)
            else:
                left_out["rewrap 64 MiB in memory"] = f"{MEMORY} is not there"
        return {"groups": groups, "left_out": left_out}


def many(folder: str, pace: Pace, count: int) -> dict[str, Any]:
    """Time opening and looking up in a store of few and in one of many keysets."""
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        contenders: dict[str, list[Contender]] = {OPEN: [], COLD: [], CACHED: []}
        stores = []
        for number in (FEW, count):
            inside = os.path.join(directory, str(number))
            os.mkdir(inside)
            store = _store(inside, number)
            stores.append(store)
            name = f"{number:,} keysets"
            key_id = store.get_current_key(f"tenant {number // 2}").id
            for what, call in _calls(inside, store, key_id).items():
                contenders[what].append(Contender(name, "call()", {"call": call}))
        groups = {f"keysets {what}": interleave(both, pace) for what, both in contenders.items()}
        for store in stores:
            store.close()
        return {"groups": groups, "left_out": {}}


def _calls(
    directory: str, store: strongroom.KeyStore, key_id: str
) -> dict[str, Callable[[], object]]:
    master = strongroom.FileMasterKey(f"{directory}/master.key")

    def opened() -> None:
        strongroom.KeyStore.open(store.url, master).close()

    def cold() -> None:
        store.refresh()
        store.get_key(key_id)

    return {OPEN: opened, COLD: cold, CACHED: lambda: store.get_key(key_id)}


def _store(directory: str, count: int) -> strongroom.KeyStore:
    """Make a store with `count` further keysets, in one transaction."""
    master = strongroom.FileMasterKey.create(f"{directory}/master.key")
    store = strongroom.KeyStore.create(f"sqlite:///{directory}/keys.db", master)
    root, now = store._root, store._now()

    def fill(transaction: Any) -> None:  # noqa: ANN401
        # Ids are random: with the usual cache each page would be written again and again, and
        # gigabytes of them would wait for the disk while the figures are taken.
        transaction.execute("PRAGMA cache_size = -2000000")
        for number in range(count):
            new = _new_keyset(root, f"tenant {number}", "data", "", now)
            keysets.save(transaction, root, None, new)
        transaction.execute("PRAGMA cache_size = -2000")

    if count:
        store._database.write(fill, lambda _: True)
    return store


def _rotate(store: strongroom.KeyStore, directory: str, pace: Pace) -> dict[str, Any]:
    # A commit appends its pages to the WAL and syncs that once: five pages or so.
    descriptor = os.open(f"{directory}/beside", os.O_RDWR | os.O_CREAT)
    names = {"rotate": _rotates(store), "os": os, "fd": descriptor, "data": bytes(5 * 4120)}
    sync = "os.pwrite(fd, data, os.fstat(fd).st_size); os.fdatasync(fd)"
    found = interleave([Contender(ROTATE, "rotate()", names), Contender(SYNC, sync, names)], pace)
    os.close(descriptor)
    return found


def _rotates(store: strongroom.KeyStore) -> Callable[[], None]:
    # A keyset of ten keys at most, as one that is looked after has.
    kept: list[int] = [0, 0]

    def rotate() -> None:
        if kept[0] % 10 == 0:
            kept[1] += 1
            store.create_keyset(f"rotated {kept[1]}")
        kept[0] += 1
        store.rotate(f"rotated {kept[1]}")

    return rotate


def _rewrap(store: strongroom.KeyStore, directory: str, pace: Pace) -> dict[str, Any]:
    path = _sealed(store, directory)

    def syncs() -> None:
        descriptor = os.open(path, os.O_RDWR)
        for at, length in _WRITES:
            data = os.pread(descriptor, length, at)
            os.pwrite(descriptor, data, at)
            os.fsync(descriptor)
        os.close(descriptor)

    names = {"rewrap": lambda: strongroom.rewrap_file(path, store), "syncs": syncs}
    found = interleave(
        [
            Contender(REWRAP, "rewrap()", names, before=lambda: _new_primary(store)),
            Contender(SYNCS, "syncs()", names),
        ],
        replace(pace, slice_seconds=0),
    )
    os.unlink(path)
    return found


def _without_syncs(store: strongroom.KeyStore, pace: Pace) -> dict[str, Any]:
    # On a file system in memory a sync has nothing to do.
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        path = _sealed(store, directory)
        names = {"rewrap": lambda: strongroom.rewrap_file(path, store)}
        contender = Contender(REWRAP, "rewrap()", names, before=lambda: _new_primary(store))
        return interleave([contender], replace(pace, slice_seconds=0))


def _sealed(store: strongroom.KeyStore, directory: str) -> str:
    plain, path = f"{directory}/plain", f"{directory}/sealed"
    with open(plain, "wb") as file:
        file.write(bytes(64 * MIB))
    strongroom.encrypt_file(plain, path, store)
    os.unlink(plain)
    return path


def _new_primary(store: strongroom.KeyStore) -> None:
    """Rotate, and have the new key at hand as it is from the second file on."""
    store.rotate()
    strongroom.VersionedEncryption(store).encrypt(b"")


def _tree(store: strongroom.KeyStore, directory: str, pace: Pace, files: int) -> dict[str, Any]:
    from strongroom import bulk

    plain, sealed, new = (f"{directory}/{name}" for name in ("plain", "sealed", "new"))
    os.mkdir(plain)
    for number in range(files):
        with open(f"{plain}/{number}", "wb") as file:
            file.write(os.urandom(MIB))
    bulk.encrypt_tree(plain, sealed, store)

    def before() -> None:
        _new_primary(store)
        for path in (plain, new):
            shutil.rmtree(path, ignore_errors=True)
        # What these leave to be written is nobody's below.
        os.sync()

    def rewrap() -> None:
        report = bulk.rewrap_tree(sealed, store)
        if report.ok != files:
            raise RuntimeError(f"nothing was measured: {report}")

    def anew() -> None:
        bulk.decrypt_tree(sealed, plain, store)
        bulk.encrypt_tree(plain, new, store)

    def bare() -> None:
        for at, length in _WRITES:
            for name in os.listdir(sealed):
                descriptor = os.open(f"{sealed}/{name}", os.O_RDWR)
                os.pwrite(descriptor, os.pread(descriptor, length, at), at)
                os.close(descriptor)
            os.sync()

    names = {"rewrap": rewrap, "anew": anew, "bare": bare}
    return interleave(
        [
            Contender(TREE, "rewrap()", names, before=before),
            Contender(BARE, "bare()", names, before=before),
            Contender(ANEW, "anew()", names, before=before),
        ],
        replace(pace, slice_seconds=0, rounds_min=min(pace.rounds_min, 3)),
    )


def _number(name: str) -> int:
    return int(name.split()[0].replace(",", ""))
