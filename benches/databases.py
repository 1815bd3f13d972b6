"""Rotating a database beside a bare `PRAGMA rekey` and a copy of the file, into DATABASES.md.

    python -m benches.databases [--mib 64,512] [--rounds 3] [--report FILE]

In each round the contenders take turns on fresh copies of one database, another one first each
time, and the ratio is the median of the rounds' ratios: of rotate_key, all thirteen steps, over the
sum of a bare rekey (reset_key, in WAL mode with wal_checkpoint(TRUNCATE)) and of a copy with fsync.
The figures of a shared machine; the page cache is warm.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2
from strongroom import DatabaseKeyRotation, EncryptedDatabase, FileMasterKey, KeyStore
from strongroom.database import RotationReport
from strongroom.keys import base

HERE = Path(__file__).parent
# What a rotation may take, as times a bare rekey and a copy, by MiB and journal mode.
LIMITS = {(64, "delete"): 2.5, (64, "wal"): 3.0, (512, "delete"): 2.5, (512, "wal"): 2.5}
MEMORY_MIB = 64
READER = """
import sys, time
from pathlib import Path
from strongroom import EncryptedDatabase, FileMasterKey, KeyRotatedError, KeyStore
folder = Path(sys.argv[1])
store = KeyStore.open(f"sqlite:///{folder}/keys.db", FileMasterKey(folder / "master.key"))
database = EncryptedDatabase(folder / "app.db", store)
connection, longest, end = None, 0.0, time.monotonic()
print("ready", flush=True)
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        if connection is None:
            connection = database.connect(timeout=600.0)
        connection.execute("SELECT data FROM rows WHERE id = 1").fetchone()
    except KeyRotatedError:
        connection = None
        continue
    # In WAL mode a connection that has read holds the file, so the reader has none meanwhile.
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        connection.close()
        connection = None
    now = time.monotonic()
    longest, end = max(longest, now - end), now
print(longest, flush=True)
"""


class Place:
    """A store and a database of a size, copied anew for each turn."""

    def __init__(self, folder: Path, mib: int, mode: str) -> None:
        self.template = folder / "template"
        self.work = folder / "work"
        self.template.mkdir(parents=True)
        master = FileMasterKey.create(self.template / "master.key")
        with KeyStore.create(f"sqlite:///{self.template}/keys.db", master) as store:
            store.create_keyset("database", purpose="database")
            database = EncryptedDatabase(self.template / "app.db", store)
            with contextlib.closing(database.connect(isolation_level=None)) as connection:
                connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
                connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
                for _ in range(mib):
                    connection.execute("BEGIN")
                    rows = [(os.urandom(900),) for _ in range(1040)]
                    connection.executemany("INSERT INTO rows (data) VALUES (?)", rows)
                    connection.execute("COMMIT")
        self.mode = mode
        self.size = (self.template / "app.db").stat().st_size

    @contextlib.contextmanager
    def fresh(self) -> Iterator[tuple[KeyStore, Path]]:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.template, self.work)
        os.sync()
        url = f"sqlite:///{self.work}/keys.db"
        with KeyStore.open(url, FileMasterKey(self.work / "master.key")) as store:
            # Each turn's store is a copy that this process has seen a later state of.
            base._SEEN.forget(store._root_id)
            yield store, self.work / "app.db"

    def rotate(self) -> tuple[float, RotationReport]:
        with self.fresh() as (store, path):
            start = time.perf_counter()
            report = DatabaseKeyRotation(path, store).rotate_key()
            assert report is not None
            return time.perf_counter() - start, report

    def rekey(self) -> float:
        with self.fresh() as (store, path):
            connection = EncryptedDatabase(path, store).connect(isolation_level=None)
            start = time.perf_counter()
            # By the class below: our own connections refuse it.
            dbapi2.Connection.reset_key(connection, b"x'" + os.urandom(32).hex().encode() + b"'")
            if self.mode == "wal":
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            seconds = time.perf_counter() - start
            connection.close()
        return seconds

    def copy(self) -> float:
        with self.fresh() as (_, path):
            start = time.perf_counter()
            shutil.copyfile(path, path.with_suffix(".copy"))
            with path.with_suffix(".copy").open("rb") as file:
                os.fsync(file.fileno())
            return time.perf_counter() - start

    def reader_waits(self) -> tuple[float, float]:
        """The longest that a reader waited during a rotation, and the exclusive part."""
        with self.fresh() as (store, path):
            reader = subprocess.Popen(
                [sys.executable, "-c", READER, str(self.work)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert reader.stdout is not None
            reader.stdout.readline()
            report = DatabaseKeyRotation(path, store, busy_timeout=120.0).rotate_key()
            said, _ = reader.communicate("\n")
            assert report is not None
            return float(said), report.exclusive_seconds


def peaks_mib() -> list[float]:
    """The largest resident size so far of this process, and of any child."""
    return [
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]


def measure(folder: Path, mib: int, mode: str, rounds: int) -> dict[str, Any]:
    place = Place(folder / f"{mib}-{mode}", mib, mode)
    works = {"rotate": place.rotate, "rekey": place.rekey, "copy": place.copy}
    found: dict[str, list[float]] = {name: [] for name in works}
    reports: list[RotationReport] = []
    for turn in range(rounds):
        names = list(works)
        for name in names[turn % 3 :] + names[: turn % 3]:
            result: Any = works[name]()
            if name == "rotate":
                result, report = result
                reports.append(report)
            found[name].append(result)
    ratios = [
        rotate / (rekey + copy)
        for rotate, rekey, copy in zip(*(found[n] for n in works), strict=True)
    ]
    waited, exclusive = place.reader_waits()
    shutil.rmtree(folder / f"{mib}-{mode}")
    steps = {
        step: statistics.median(report.steps[step] for report in reports) for step in range(1, 14)
    }
    return {
        "mib": mib,
        "mode": mode,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        **{name: statistics.median(values) for name, values in found.items()},
        "steps": steps,
        "waited": waited,
        "exclusive": exclusive,
    }


def memory(mib: int, mode: str) -> float:
    """How much more a rotation of this size takes at its peak than one of 1 MiB, in MiB."""
    code = (
        "import sys, tempfile\n"
        "from pathlib import Path\n"
        "from benches.databases import Place, peaks_mib\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    Place(Path(folder) / 'a', 1, sys.argv[2]).rotate()\n"
        "    before = peaks_mib()\n"
        "    Place(Path(folder) / 'b', int(sys.argv[1]), sys.argv[2]).rotate()\n"
        "    print(max(b - a for a, b in zip(before, peaks_mib(), strict=True)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(mib), mode],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=HERE.parent,
    )
    return float(done.stdout)


def render(rows: list[dict[str, Any]], peaks: dict[str, float], rounds: int) -> str:
    """The report, in Markdown."""
    lines = [
        "# Rotating databases",
        "",
        "Written by `make bench-databases`: " + " ".join((__doc__ or "").split("\n\n")[2].split()),
        "",
        f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python "
        f"{platform.python_version()}; {rounds} rounds; load at the end "
        f"{os.getloadavg()[0]:.1f}.",
        "",
        "| MiB | journal | rotate_key s | rekey s | copy s | ratio | at most | each round |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = LIMITS.get((row["mib"], row["mode"]))
        each = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        lines.append(
            f"| {row['mib']} | {row['mode']} | {row['rotate']:.2f} | {row['rekey']:.2f} | "
            f"{row['copy']:.2f} | {row['ratio']:.2f} | {limit or ''} | {each} |"
        )
    lines += [
        "",
        "Seconds of each step (docs/databases.md), medians; step 7 is reset_key:",
        "",
        "| MiB | journal | " + " | ".join(map(str, range(1, 14))) + " | reader waited | alone |",
        "|---" * 17 + "|",
    ]
    for row in rows:
        steps = " | ".join(f"{row['steps'][step]:.2f}" for step in range(1, 14))
        lines.append(
            f"| {row['mib']} | {row['mode']} | {steps} | {row['waited']:.2f} | "
            f"{row['exclusive']:.2f} |"
        )
    lines += ["", "Peak memory over a rotation of 1 MiB, either process:", ""]
    lines += [f"- {name}: {mib:.1f} MiB (at most {MEMORY_MIB})" for name, mib in peaks.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.databases", description=__doc__)
    parser.add_argument("--mib", default="64,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", default=str(HERE / "DATABASES.md"))
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.mib.split(",")]
    rows, peaks = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for mib in sizes:
            for mode in ("delete", "wal"):
                rows.append(measure(Path(folder), mib, mode, arguments.rounds))
                peaks[f"{mib} MiB, {mode}"] = memory(mib, mode)
                text = render(rows, peaks, arguments.rounds)
                Path(arguments.report).write_text(text)
    print(text)
    over = [r for r in rows if r["ratio"] > LIMITS.get((r["mib"], r["mode"]), 1e9)]
    return 1 if over or max(peaks.values()) > MEMORY_MIB else 0


if __name__ == "__main__":
    sys.exit(main())
