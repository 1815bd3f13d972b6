"""Power lost while an audit log is written (R2 of R19): no acknowledged record is lost with it.

The calls of a run are recorded by strace and replayed up to some moment. What was not synced then
may be on the disk, or not, or a part of it, or garbage in its place; so may names.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from strongroom import CryptoAuditLogger, audit

WORK = """
import sys, strongroom as s
with s.CryptoAuditLogger.open(sys.argv[1], rotate_bytes=3000) as log:
    for n in range(9):
        log.event('key.wrapped', 'success', {'key_id': sys.argv[2], 'count': n})
        sys.stdout.write(f'{n}\\n')
        sys.stdout.flush()
"""
CALLS = "write,fsync,fdatasync,ftruncate,rename,unlink,openat"
STRACE = ("strace", "-f", "-y", "-xx", "-s", "100000", "-e", f"trace={CALLS}")
RUN = "0" * 32


class Entry(NamedTuple):
    """A change of the directory: a name gets a file (a number), or none."""

    name: str
    file: int | None


class Disk:
    """What files hold and what of it is durable, as calls are replayed."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.numbers = itertools.count()
        self.names: dict[str, int] = {}
        self.durable_names: dict[str, int] = {}
        self.entries: list[list[Entry]] = []
        self.data: dict[int, bytearray] = {}
        self.durable: dict[int, bytearray] = {}
        self.pending: dict[int, list[tuple[int, bytes | None]]] = {}
        self.acknowledged = 0

    def replay(self, line: str) -> None:
        """Take one call in."""
        if re.search(r" write\(1<", line):
            self.acknowledged += 1
        elif match := re.search(r' write\(\d+<(.*?)>, "((?:\\x..)*)", \d+\) = (\d+)', line):
            written = bytes.fromhex(match[2].replace("\\x", ""))[: int(match[3])]
            self._write(match[1], written)
        elif match := re.search(r" ftruncate\(\d+<(.*?)>, (\d+)\) = 0", line):
            number = self.names[_text(match[1])]
            del self.data[number][int(match[2]) :]
            self.pending[number].append((int(match[2]), None))
        elif match := re.search(r" f(?:data)?sync\(\d+<(.*?)>\) = 0", line):
            self._sync(_text(match[1]))
        elif match := re.search(r' openat\(.*?, "(.*?)", (\S*O_CREAT\S*), .*\) = \d', line):
            name = _text(match[1])
            if name not in self.names:
                number = next(self.numbers)
                self.data[number], self.durable[number] = bytearray(), bytearray()
                self.pending[number] = []
                self._change([Entry(name, number)])
            elif "O_TRUNC" in match[2]:
                number = self.names[name]
                self.data[number].clear()
                self.pending[number].append((0, None))
        elif match := re.search(r' rename\("(.*?)", "(.*?)"\) = 0', line):
            old, new = _text(match[1]), _text(match[2])
            # One step, as file systems promise of it.
            self._change([Entry(new, self.names[old]), Entry(old, None)])
        elif match := re.search(r' unlink\("(.*?)"\) = 0', line):
            self._change([Entry(_text(match[1]), None)])

    def _write(self, path: str, written: bytes) -> None:
        number = self.names.get(_text(path))
        if number is not None:
            self.pending[number].append((len(self.data[number]), written))
            self.data[number] += written

    def _sync(self, path: str) -> None:
        if path == self.folder:
            self.durable_names = dict(self.names)
            self.entries.clear()
        elif path in self.names:
            number = self.names[path]
            self.durable[number] = bytearray(self.data[number])
            self.pending[number].clear()

    def _change(self, step: list[Entry]) -> None:
        self.entries.append(step)
        _enter(self.names, step)

    def crash(self, generator: random.Random, to: Path) -> None:
        """Write what the disk may hold if the power goes now."""
        names = dict(self.durable_names)
        for step in self.entries:
            if generator.random() < 0.5:
                _enter(names, step)
        for name, number in names.items():
            data = bytearray(self.durable[number])
            for at, written in self.pending[number]:
                kind = generator.choice(["kept", "dropped", "torn", "garbage"])
                if kind == "dropped":
                    continue
                if written is None:
                    del data[at:]
                    continue
                cut = len(written) if kind == "kept" else generator.randrange(len(written) + 1)
                rest = len(written) - cut
                junk = generator.randbytes(rest) if kind == "garbage" else b""
                data[at : at + len(written)] = bytes(max(0, at - len(data))) + written[:cut] + junk
            (to / Path(name).name).write_bytes(data)


def _enter(names: dict[str, int], step: list[Entry]) -> None:
    for name, number in step:
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


def _text(quoted: str) -> str:
    if "\\x" not in quoted:
        return quoted
    return bytes.fromhex(quoted.replace("\\x", "")).decode()


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The calls of one run, and the folder that they are about."""
    folder = tmp_path_factory.mktemp("power")
    trace = tmp_path_factory.mktemp("trace") / "calls"
    subprocess.run(
        [*STRACE, "-o", str(trace), sys.executable, "-c", WORK, str(folder / "log"), RUN],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    hexed = "".join(f"\\x{byte:02x}" for byte in str(folder).encode())
    lines = [
        line
        for line in trace.read_text().splitlines()
        if str(folder) in line or hexed in line or " write(1<" in line
    ]
    assert sum(" write(1<" in line for line in lines) == 9
    assert sum("rename(" in line for line in lines) > 20
    return folder, lines


class _Kept(random.Random):
    """All is on the disk that was written: what a kill leaves."""

    def random(self) -> float:
        return 0.0

    def choice(self, seq: Any) -> Any:
        return seq[0]


def lose_power(
    calls: tuple[Path, list[str]],
    to: Path,
    stop: int,
    seed: int,
    kind: type[random.Random] = random.Random,
) -> None:
    folder, lines = calls
    disk = Disk(folder)
    for line in lines[:stop]:
        disk.replay(line)
    to.mkdir()
    disk.crash(kind(seed), to)
    log = to / "log"
    context = f"power lost after {stop} of {len(lines)} calls, seed {seed}"
    try:
        if disk.acknowledged:
            audit.verify(log, index=False)
        with CryptoAuditLogger.open(log) as logger:
            logger.log_key_destruction("f" * 32)
        found = audit.verify(log, index=False)
    except Exception as error:
        raise AssertionError(context) from error
    assert (found.uncovered, found.torn) == (0, 0), context
    counts = [r.event["count"] for r in audit.records(log) if r.name == "key.wrapped"]
    assert counts[: disk.acknowledged] == list(range(disk.acknowledged)), context
    assert counts == list(range(len(counts))), context
    assert list(audit.records(log))[-1].name == "key.destroyed", context


def test_power_lost_at_some_moments(calls: tuple[Path, list[str]], tmp_path: Path) -> None:
    for number in range(60):
        seed = random.randrange(2**32)
        stop = random.Random(seed).randrange(len(calls[1]) + 1)
        lose_power(calls, tmp_path / str(number), stop, seed)


def test_stopped_after_every_call(calls: tuple[Path, list[str]], tmp_path: Path) -> None:
    """What lies between two names of a rotation reads as a whole log, too."""
    for stop in range(len(calls[1]) + 1):
        lose_power(calls, tmp_path / str(stop), stop, 0, _Kept)


@pytest.mark.sweep
def test_power_lost_after_every_call(calls: tuple[Path, list[str]], tmp_path: Path) -> None:
    for stop in range(len(calls[1]) + 1):
        for number in range(15):
            lose_power(calls, tmp_path / f"{stop}-{number}", stop, random.randrange(2**32))


def test_the_replay_finds_a_missing_sync(calls: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Without the syncs of the log's file some acknowledged record is lost, and this says so."""
    folder, lines = calls
    careless = (folder, [line for line in lines if " fdatasync(" not in line])
    found = 0
    for number in range(100):
        seed = random.randrange(2**32)
        stop = random.Random(seed).randrange(len(careless[1]) + 1)
        try:
            lose_power(careless, tmp_path / str(number), stop, seed)
        except AssertionError:
            found += 1
    assert found > 3
