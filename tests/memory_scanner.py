"""Looks for secrets in another process's memory, through /proc/PID/mem.

The searched process is a script that stops at checkpoints: see `Target` and `memory_target.py`.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from independent import constructions

TARGET = Path(__file__).with_name("memory_target.py")
_STEP = 4 << 20
_ARENA_FLAGS = {"lo", "dd"}


class Region(NamedTuple):
    """A line of /proc/PID/smaps."""

    start: int
    end: int
    name: str
    flags: frozenset[str]

    @property
    def is_arena(self) -> bool:
        """Locked, left out of dumps, and wiped or not there after a fork."""
        return self.flags >= _ARENA_FLAGS and bool(self.flags & {"wf", "dc"})


class Hit(NamedTuple):
    """A place where something was found."""

    what: str
    address: int
    region: Region

    def __repr__(self) -> str:
        return f"<{self.what} at {self.address:x} in {self.region.name or 'anonymous'}>"


def regions(pid: int) -> Iterator[Region]:
    """The readable mappings of a process."""
    head = None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)", line):
            head = found
        elif line.startswith("VmFlags:") and head is not None and "r" in head[3]:
            flags = frozenset(line.split()[1:])
            yield Region(int(head[1], 16), int(head[2], 16), head[4], flags)


def patterns(name: str, key: bytes) -> dict[str, bytes]:
    """What would give a key away: itself, its halves, its texts, HMAC's first blocks of it.

    The first two round keys of an AES-256 schedule are the key itself.
    """
    half = len(key) // 2
    text, coded = key.hex().encode(), base64.b64encode(key)
    return {
        f"{name}": key,
        f"{name}, first half": key[:half],
        f"{name}, second half": key[half:],
        f"{name}, hex": text[:half],
        f"{name}, hex end": text[-half:],
        f"{name}, base64": coded[:half],
        f"{name}, inner pad": bytes(byte ^ 0x36 for byte in key),
        f"{name}, outer pad": bytes(byte ^ 0x5C for byte in key),
    }


def key_patterns(name: str, key: bytes) -> dict[str, bytes]:
    """The patterns of a key and of the keys that are derived from it for boxes."""
    found = patterns(name, key)
    for label in ("record", "wrap", "master", "passphrase", "store mac"):
        derived = constructions.derive(key, label)
        found |= {f"{name}'s {label} key": derived, f"{name}'s {label} key, end": derived[16:]}
        subkey = constructions.cmac_subkey(derived)
        found[f"{name}'s {label} key, CMAC subkey"] = subkey
    return found


def dek_patterns(name: str, dek: bytes, salt: bytes, context: bytes) -> dict[str, bytes]:
    """The patterns of an envelope's DEK and its stream key."""
    keys = constructions.stream_keys(dek, salt, context)
    return patterns(name, dek) | patterns(f"{name}'s stream key", keys.key)


def record_patterns(name: str, key: bytes, message: bytes) -> dict[str, bytes]:
    """The patterns of the key of one record, which opens nothing else."""
    box_key = constructions.derive(key, "record")
    return patterns(name, constructions.box_keys(box_key, message[20:44]).gcm_key)


def scan(pid: int, wanted: dict[str, bytes]) -> list[Hit]:
    """Every place of every pattern in all readable memory of the process."""
    overlap = max(map(len, wanted.values())) - 1
    hits = []
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for region in regions(pid):
            if region.name in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                continue
            tail = b""
            for start in range(region.start, region.end, _STEP):
                try:
                    data = os.pread(memory, min(_STEP, region.end - start), start)
                except OSError:
                    # Pages of memfd_secret: the kernel itself can't read them.
                    tail = b""
                    continue
                whole = tail + data
                for what, pattern in wanted.items():
                    at = whole.find(pattern)
                    while at >= 0:
                        hits.append(Hit(what, start - len(tail) + at, region))
                        at = whole.find(pattern, at + 1)
                tail = whole[-overlap:]
    finally:
        os.close(memory)
    return sorted(set(hits), key=lambda hit: hit.address)


class Target:
    """A process that runs a scenario of memory_target.py and stops at its checkpoints."""

    def __init__(self, scenario: str, folder: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(TARGET), scenario, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
        )
        self.pid = self._process.pid

    def wait_for(self, checkpoint: str) -> None:
        """Lets it run to the next checkpoint, which must be this one."""
        process = self._process
        assert process.stdout is not None
        self.proceed()
        line = process.stdout.readline().decode().strip()
        assert line == checkpoint, f"{line!r} instead of checkpoint {checkpoint!r}"

    def run_to(self, checkpoint: str) -> None:
        """Lets it run on through its checkpoints until this one."""
        assert self._process.stdout is not None
        line = ""
        while line != checkpoint:
            self.proceed()
            line = self._process.stdout.readline().decode().strip()
            assert line, f"the process ended before checkpoint {checkpoint!r}"

    def proceed(self) -> None:
        """Lets it run on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def finish(self) -> int:
        """Lets it run to its end; its exit code."""
        process = self._process
        self.proceed()
        return process.wait(60)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
