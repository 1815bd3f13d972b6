"""Jobs on key stores: rotating beside its fsyncs, rewrapping, and stores of many keysets."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable
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
ANEW: Final = "strongroom bulk decrypt, encrypt"
OPEN: Final = "open"
COLD: Final = "look up, cold"
CACHED: Final = "look up, cached"
MIB: Final = 1 << 20
# How many keysets a store of many has beside one of few; 1,000,000 take two minutes to make.
FEW: Final = 1_000
MANY: Final = int(os.environ.get("STRONGROOM_BENCH_KEYSETS", "100000"))


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
    trees = 20 if scale.quick else 200
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
    make.speed("rewrapping files of 1 MiB", "rewrap tree", TREE, ANEW, 100)
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
                "rewrap tree": _tree(store, directory, pace, files),
            }
        return {"groups": groups, "left_out": {}}


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
        for number in range(count):
            new = _new_keyset(root, f"tenant {number}", "data", "", now)
            keysets.save(transaction, root, None, new)

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
    plain, path = f"{directory}/plain", f"{directory}/sealed"
    with open(plain, "wb") as file:
        file.write(bytes(64 * MIB))
    strongroom.encrypt_file(plain, path, store)
    os.unlink(plain)
    # The two names of one file, each under another keyset: every call has something to do.
    store.create_keyset("other")
    turn = [0]

    def rewrap() -> None:
        store.rotate()
        strongroom.rewrap_file(path, store)

    def syncs() -> None:
        store.rotate()
        turn[0] += 1
        descriptor = os.open(path, os.O_RDWR)
        for at, length in ((8, 120), (5, 1), (5, 1), (8, 120)):
            data = os.pread(descriptor, length, at)
            os.pwrite(descriptor, data, at)
            os.fsync(descriptor)
        os.close(descriptor)

    names = {"rewrap": rewrap, "syncs": syncs}
    found = interleave(
        [Contender(REWRAP, "rewrap()", names), Contender(SYNCS, "syncs()", names)], pace
    )
    os.unlink(path)
    return found


def _tree(store: strongroom.KeyStore, directory: str, pace: Pace, files: int) -> dict[str, Any]:
    from strongroom import bulk

    plain, sealed = f"{directory}/tree", f"{directory}/tree.srm"
    os.mkdir(plain)
    for number in range(files):
        with open(f"{plain}/{number}", "wb") as file:
            file.write(os.urandom(MIB))
    bulk.encrypt_tree(plain, sealed, store)
    shutil.rmtree(plain)

    def rewrap() -> None:
        store.rotate()
        bulk.rewrap_tree(sealed, store)

    def anew() -> None:
        store.rotate()
        bulk.decrypt_tree(sealed, plain, store)
        bulk.encrypt_tree(plain, f"{sealed}.new", store)
        shutil.rmtree(plain)
        shutil.rmtree(f"{sealed}.new")

    names = {"rewrap": rewrap, "anew": anew}
    return interleave([Contender(TREE, "rewrap()", names), Contender(ANEW, "anew()", names)], pace)


def _number(name: str) -> int:
    return int(name.split()[0].replace(",", ""))
