"""Jobs on the audit log: counting, sealing, verifying, proving."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Final

import strongroom
from strongroom import _native, audit

from .measure import Contender, Pace, interleave, statistics_of
from .process import PEAK

OFF: Final = "no audit log"
COUNTED: Final = "counted for the audit log"
OURS: Final = "strongroom audit"
SYNCS: Final = "the same writes and syncs in Python"
_KEY: Final = "00112233445566778899aabbccddeeff"
# Of one call of `pump`: what gathers in half a second of 200,000 calls.
_BATCH: Final = 100_000
_ROUNDS: Final = 7
_MIB: Final = 1 << 20
# Records of the log; ten million take 6 GB of disk and two minutes.
RECORDS: Final = int(os.environ.get("STRONGROOM_BENCH_AUDIT_RECORDS", "1000000"))
_LARGE: Final = 2_000_000
_MEMORY: Final = f"""
import sys
{PEAK}
from strongroom import audit
audit.verify
before = peak()
audit.verify(sys.argv[1], index=False)
print(peak() - before)
"""


def jobs(scale: Any, folder: str) -> list[Any]:  # noqa: ANN401 - runner's, which imports this
    """Return the job."""
    from .runner import DEFAULT, Job

    pace = {
        "slice_seconds": scale.slice_seconds,
        "budget_seconds": scale.budget_seconds,
        "rounds_min": scale.rounds_min,
        "rounds_max": scale.rounds_max,
    }
    records = 50_000 if scale.quick else RECORDS
    arguments = {"folder": folder, "pace": pace, "records": records}
    return [Job("audit log", DEFAULT, "audit_log", "run", arguments)]


def rows(make: Any, document: Any) -> None:  # noqa: ANN401 - targets.Rows
    """Add the rows."""
    groups = make.groups

    def of(group: str) -> float | None:
        found = groups.get(group, {}).get(OURS)
        return None if found is None else float(found["median"])

    make.difference("a counted call, 64 B encrypt", "audit counted", COUNTED, OFF, 1e-6, "us")
    for group, what, rate in (
        ("audit sealed", "a record of each call, sealed in the core", 200_000),
        ("audit verified", "verifying an audit log", 300_000),
    ):
        bound, shown = f"{1e6 / rate:.2f} us a record", "{:.2f} us a record"
        make.most(f"{what} ({rate:,}/s)", bound, of(group), 1 / rate, shown, 1e6)
    make.most("an inclusion proof", "50 ms", of("audit proof"), 0.050, "{:.2f} ms", 1e3)
    memory = of("audit memory")
    make.most("memory of verifying", "32 MiB more", memory, 32 * _MIB, "{:.1f} MiB", 1 / _MIB)
    make.time("a key event, on disk and under a checkpoint", "audit key event", OURS, SYNCS, 1.5)


def run(folder: str, pace: Pace, records: int) -> dict[str, Any]:
    """Time all of it on a log of so many records."""
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        path = os.path.join(directory, "log")
        groups = {"audit counted": _counted(pace)}
        with audit.CryptoAuditLogger.open(path, data="each") as log:
            groups["audit sealed"] = {OURS: _sealed(log, records)}
            groups["audit key event"] = _key_events(log, directory, pace)
        size = audit.verify(path).size
        rounds = _ROUNDS if size < _LARGE else 2
        verified = [audit.verify(path, index=False).seconds / size for _ in range(rounds)]
        groups["audit verified"] = {OURS: {"size": 0, **statistics_of(verified)}}
        places = [size * place // _ROUNDS for place in range(_ROUNDS)]
        proofs = [_timed(functools.partial(audit.prove_inclusion, path, at)) for at in places]
        groups["audit proof"] = {OURS: {"size": 0, **statistics_of(proofs)}}
        grown = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _MEMORY, path], check=True, capture_output=True, text=True
        )
        groups["audit memory"] = {OURS: {"size": 0, **statistics_of([float(grown.stdout)])}}
    return {"groups": groups, "left_out": {}}


def _counted(pace: Pace) -> dict[str, Any]:
    cipher = strongroom.SecureEncryption(strongroom.generate_key())
    names = {"encrypt": cipher.encrypt, "value": bytes(64)}
    found = interleave(
        [
            Contender(name, "encrypt(value)", names, 64, _switch(on))
            for name, on in ((OFF, False), (COUNTED, True))
        ],
        pace,
    )
    _native.tally_gather(False, False)
    _native.tally_take()
    return found


def _switch(on: bool) -> Callable[[], None]:
    return lambda: _native.tally_gather(on, False)


def _sealed(log: audit.CryptoAuditLogger, records: int) -> dict[str, Any]:
    native = log._log()
    _native.tally_gather(False, True)
    times = []
    for _ in range(max(1, records // _BATCH)):
        for _ in range(min(records, _BATCH)):
            _native.tally_count("encrypt", _KEY, "success", 1, 64)
        started = time.perf_counter()
        sealed = native.pump(False)[0]
        times.append((time.perf_counter() - started) / sealed)
    _native.tally_gather(False, False)
    return {"size": 0, **statistics_of(times)}


def _key_events(log: audit.CryptoAuditLogger, directory: str, pace: Pace) -> dict[str, Any]:
    plain = os.open(os.path.join(directory, "plain"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    place = os.open(directory, os.O_RDONLY)
    new, old = (os.path.join(directory, name) for name in ("checkpoint.new", "checkpoint"))

    def by_hand() -> None:
        os.write(plain, bytes(600))
        os.fdatasync(plain)
        with open(new, "wb") as file:
            file.write(bytes(250))
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, old)
        os.fsync(place)

    try:
        return interleave(
            [
                Contender(OURS, "seal(key, 'bench')", {"seal": log.log_key_export, "key": _KEY}),
                Contender(SYNCS, "by_hand()", {"by_hand": by_hand}),
            ],
            pace,
        )
    finally:
        os.close(plain)
        os.close(place)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
