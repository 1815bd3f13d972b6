"""Power lost while an audit log is written (R2 of R19): no acknowledged record is lost with it.

The calls of a run are recorded by strace and replayed up to some moment. What was not synced then
may be on the disk, or not, or a part of it, or garbage in its place; so may names.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import power_strace
import pytest
from power import files_in
from power_strace import Trace, says_something
from strongroom import CryptoAuditLogger, audit

WORK = """
import sys, strongroom as s
with s.CryptoAuditLogger.open(sys.argv[1], rotate_bytes=3000) as log:
    for n in range(9):
        log.event('key.wrapped', 'success', {'key_id': sys.argv[2], 'count': n})
        sys.stdout.write(f'{n}\\n')
        sys.stdout.flush()
"""
RUN = "0" * 32


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    folder = tmp_path_factory.mktemp("power")
    log = tmp_path_factory.mktemp("trace") / "calls"
    options = [*power_strace.OPTIONS, "-o", str(log)]
    subprocess.run(
        ["strace", "-f", "-y", *options, sys.executable, "-c", WORK, str(folder / "log"), RUN],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    trace = Trace.read(log, folder)
    assert sum(map(says_something, trace.lines)) == 9
    assert sum(" rename(" in line for line in trace.lines) > 10
    # No call that changed something was passed over.
    assert trace.disk(len(trace.lines)).content() == files_in(folder)
    return trace


def lose_power(trace: Trace, to: Path, stop: int, seed: int | None) -> None:
    """Open what is left if the power fails after some calls; without a seed, nothing is lost."""
    # The log is text, of which any byte may be the last that was written.
    disk = trace.disk(stop, sector=1)
    files = disk.content() if seed is None else disk.crash(random.Random(seed))
    acknowledged = sum(map(says_something, trace.lines[:stop]))
    to.mkdir()
    for name, data in files.items():
        (to / name).write_bytes(data)
    log = to / "log"
    context = f"power lost after {stop} of {len(trace.lines)} calls, seed {seed}"
    try:
        if acknowledged:
            audit.verify(log, index=False)
        with CryptoAuditLogger.open(log) as logger:
            logger.log_key_destruction("f" * 32)
        found = audit.verify(log, index=False)
    except Exception as error:
        raise AssertionError(context) from error
    assert (found.uncovered, found.torn) == (0, 0), context
    counts = [r.event["count"] for r in audit.records(log) if r.name == "key.wrapped"]
    assert counts[:acknowledged] == list(range(acknowledged)), context
    assert counts == list(range(len(counts))), context
    assert list(audit.records(log))[-1].name == "key.destroyed", context


def test_power_lost_at_some_moments(trace: Trace, tmp_path: Path) -> None:
    for number in range(60):
        seed = random.randrange(2**32)
        stop = random.Random(seed).randrange(len(trace.lines) + 1)
        lose_power(trace, tmp_path / str(number), stop, seed)


def test_stopped_after_every_call(trace: Trace, tmp_path: Path) -> None:
    """What lies between two names of a rotation reads as a whole log, too."""
    for stop in range(len(trace.lines) + 1):
        lose_power(trace, tmp_path / str(stop), stop, None)


@pytest.mark.sweep
def test_power_lost_after_every_call(trace: Trace, tmp_path: Path) -> None:
    for stop in range(len(trace.lines) + 1):
        for number in range(15):
            lose_power(trace, tmp_path / f"{stop}-{number}", stop, random.randrange(2**32))


def test_the_replay_finds_a_missing_sync(trace: Trace, tmp_path: Path) -> None:
    """Without the syncs of the log's file some acknowledged record is lost, and this says so."""
    lines = [line for line in trace.lines if " fdatasync(" not in line]
    careless = Trace(trace.folder, lines)
    found = 0
    for number in range(100):
        seed = random.randrange(2**32)
        stop = random.Random(seed).randrange(len(lines) + 1)
        try:
            lose_power(careless, tmp_path / str(number), stop, seed)
        except AssertionError:
            found += 1
    assert found > 3
