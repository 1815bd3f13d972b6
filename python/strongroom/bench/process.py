"""Jobs about whole processes: start-up, peak memory, how long another thread is held up."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import strongroom

from . import commands
from .measure import Contender, Pace, interleave
from .works import human

BARE: Final = "python -c pass"
IMPORT: Final = "import strongroom"
VERSION: Final = "strongroom --version"
COLD_DECRYPT: Final = "strongroom decrypt, one small file"
HELD_UP_CONTROL: Final = "control: AESGCM into, two threads"

# Where the system counts for the process alone, every pause may have been the GIL's.
_THREAD: Final[int] = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_SMALL: Final = 1000
_PIECE: Final = 1 << 20
# A pause of the ticking thread that is looked at. Below it, reading the counters would be felt.
_GAP_NS: Final = 200_000
# What a call may hold another thread up for, and how often it is asked again after more. A pause
# that is the call's own comes back each time; one in which the host stopped a thread that had the
# GIL does not.
_HELD_MAX: Final = 0.01
_HELD_RUNS: Final = 5
# How long the control works for 1 GiB.
_CONTROL_SECONDS: Final = 5.0

# The kernel's high-water mark of this process's own pages. (ru_maxrss begins with that of whoever
# started it.)
PEAK: Final = """
def peak():
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith('VmHWM'))
"""
# Run in an interpreter of its own, which prints how far its peak rose above itself idle.
_MEMORY: Final = f"""
import sys
{PEAK}
import strongroom
idle = peak()
plain, sealed, out, url, master, piece = sys.argv[1:]
piece = int(piece)
keys = strongroom.KeyStore.open(url, strongroom.FileMasterKey(master))
OPERATION
print(peak() - idle)
"""

ENCRYPT_FILE: Final = "encrypt_file"
_OPERATIONS: Final = {
    # First: the others work on what it makes.
    ENCRYPT_FILE: "strongroom.encrypt_file(plain, out, keys)",
    "decrypt_file": "strongroom.decrypt_file(sealed, out, keys)",
    "verify_file": "strongroom.verify_file(sealed, keys)",
    "open and read": """
with strongroom.open(sealed, key_store=keys) as file:
    while file.read(piece):
        pass
""",
    "open and write": """
with open(plain, 'rb') as source, strongroom.open(out, 'wb', key_store=keys) as file:
    while data := source.read(piece):
        file.write(data)
""",
    "command encrypt": """
from strongroom.cli.app import run
assert run(['encrypt', '-q', '--store', url, plain, '-o', out]) == 0
""",
    "command decrypt": """
from strongroom.cli.app import run
assert run(['decrypt', '-q', '--store', url, sealed, '-o', out]) == 0
""",
    # Last: it changes the file.
    "rotate and rewrap_file": """
keys.rotate()
assert strongroom.rewrap_file(sealed, keys)
""",
}


_HUGE: Final = 4 << 30
_HUGE_OPERATIONS: Final = (ENCRYPT_FILE, "decrypt_file", "verify_file", "open and read")


def startup(folder: str, pace: Pace) -> dict[str, Any]:
    """Time whole processes from their start to their end."""
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-", dir=folder) as name:
        work = Path(name)
        store = commands.Store(work)
        plain, sealed, out = work / "plain", work / "plain.srm", work / "out"
        commands.write_random(plain, _SMALL)
        ours = commands.ours()
        commands.run([*ours, "encrypt", "-q", str(plain)], store.env)
        every = {
            BARE: [sys.executable, "-c", "pass"],
            IMPORT: [sys.executable, "-c", "import strongroom"],
            VERSION: [*ours, "--version"],
            COLD_DECRYPT: [*ours, "decrypt", "-q", str(sealed), "-o", str(out)],
        }
        contenders = [
            Contender(
                label,
                "run(words, env)",
                {"run": commands.run, "words": words, "env": store.env},
                before=lambda: commands.remove(out),
            )
            for label, words in every.items()
        ]
        return {"groups": {"start-up": interleave(contenders, pace)}, "left_out": {}}


def memory(size: int, folder: str) -> dict[str, Any]:
    """Measure the peak of each file operation over the idle interpreter with the package imported.

    Of a file above 4 GiB, which is sparse, the four operations that differ by size; where there is
    no room for it and two results, it is left out.

    Returns:
        `memory`: for each operation bytes by the kernel's own high-water mark (VmHWM).
    """
    if not Path("/proc/self/status").exists():
        return {"groups": {}, "left_out": {"memory": "the kernel has no /proc/self/status"}}
    huge = size > _HUGE
    if shutil.disk_usage(folder).free < 3 * size:
        return {"groups": {}, "left_out": {f"memory at {human(size)}": "too little room on disk"}}
    found = {}
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-", dir=folder) as name:
        work = Path(name)
        store = commands.Store(work)
        plain, sealed, out = work / "plain", work / "sealed.srm", work / "out"
        if huge:
            plain.touch()
            os.truncate(plain, size)
        else:
            commands.write_random(plain, size)
        paths = [str(plain), str(sealed), str(out), store.url, str(store.master), str(_PIECE)]
        for operation, source in _OPERATIONS.items():
            if huge and operation not in _HUGE_OPERATIONS:
                continue
            commands.remove(out)
            script = _MEMORY.replace("OPERATION", source)
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-c", script, *paths],
                env=store.env,
                check=True,
                capture_output=True,
                text=True,
            )
            found[operation] = int(done.stdout.split()[-1])
            if operation == ENCRYPT_FILE:
                out.replace(sealed)
    return {"groups": {}, "left_out": {}, "memory": {human(size): found}}


class _Ticker(threading.Thread):
    """Another Python thread, that wants to run all the time and notes when it could not.

    Attributes:
        gaps: Begin and end of each, nanoseconds of it in which it waited for a core, and whether
            it gave its core up: else it did not wait for the GIL, but was stopped by the host.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gaps: list[tuple[int, int, int, bool]] = []
        self.done = False

    def run(self) -> None:
        waited, gave_up = _waited_for_a_core(), _gave_up_its_core()
        last = time.perf_counter_ns()
        while not self.done:
            # Before the clock: what happens between the two is in the gap that begins there.
            before = _gave_up_its_core()
            now = time.perf_counter_ns()
            if now - last > _GAP_NS:
                total, after = _waited_for_a_core(), _gave_up_its_core()
                self.gaps.append((last, now, total - waited, after > gave_up))
                waited, before = total, after
                now = time.perf_counter_ns()
            last, gave_up = now, before


def held_up(total: int, folder: str) -> dict[str, Any]:
    """Measure the longest pause of another Python thread while each large call runs.

    Such a thread waits for the GIL, which is ours to give, and for a core, which is the kernel's:
    with a worker on each core it is one thread too many. Both are measured, the wait for a core
    by the kernel's count (schedstat), and a control shows what two threads of a peer do to it. A
    pause in which it gave up no core was the machine's host's.
    A call that was above 10 ms is made again, up to five times in all, and its best run counts.

    Args:
        total: Bytes that each call handles.
        folder: Where there is room for a file of that size and its encrypted form.

    Returns:
        `held_up`: for each call seconds: "wall", the longest pause; "gil", the longest after what
        that pause spent waiting for a core was taken off; "call", how long the call took; "runs",
        how many there were.
    """
    data = b"\x5a" * total
    record = strongroom.SecureEncryption(strongroom.generate_key())
    envelope = strongroom.ParallelEncryption(strongroom.generate_key())
    out = bytearray(envelope.encrypted_size(total))
    found: dict[str, dict[str, float]] = {}

    def measure(
        name: str,
        call: Callable[..., Any],
        *arguments: object,
        before: Callable[[], object] | None = None,
    ) -> Any:  # noqa: ANN401
        for runs in range(1, _HELD_RUNS + 1):
            if before is not None:
                before()
            result, seen = once(call, *arguments)
            seen["runs"] = runs
            if name not in found or seen["gil"] < found[name]["gil"]:
                found[name] = seen
            found[name]["runs"] = runs
            if found[name]["gil"] <= _HELD_MAX:
                break
        return result

    def once(call: Callable[..., Any], *arguments: object) -> tuple[Any, dict[str, float]]:
        ticker = _Ticker()
        ticker.start()
        # So that it ticks when the call begins.
        time.sleep(0.05)
        start = time.perf_counter_ns()
        result = call(*arguments)
        end = time.perf_counter_ns()
        ticker.done = True
        ticker.join()
        inside = [gap for gap in ticker.gaps if gap[1] > start and gap[0] < end]
        return result, {
            "wall": max((b - a for a, b, *_ in inside), default=0) / 1e9,
            "gil": max((max(0, b - a - waited) for a, b, waited, gil in inside if gil), default=0)
            / 1e9,
            "call": (end - start) / 1e9,
        }

    _peer_held_up(measure, data)
    message = measure("encrypt_large", envelope.encrypt_large, data)
    measure("decrypt_large", envelope.decrypt_large, message)
    measure("encrypt_large_into", envelope.encrypt_large_into, data, out)
    measure("decrypt_large_into", envelope.decrypt_large_into, message, out)
    message = measure("encrypt, one record", record.encrypt, data)
    measure("decrypt, one record", record.decrypt, message)
    message = measure("encrypt_packed, 256 B", record.encrypt_packed, data, 256)
    measure("decrypt_packed, 256 B", record.decrypt_packed, message, 256)
    del message
    for size in (256, 65_536):
        values = [data[i : i + size] for i in range(0, total, size)]
        sealed = measure(f"encrypt_many, {human(size)}", record.encrypt_many, values)
        del values
        opened = measure(f"decrypt_many, {human(size)}", record.decrypt_many, sealed)
        del sealed, opened
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-", dir=folder) as name:
        work = Path(name)
        store = commands.Store(work)
        plain, sealed, back = work / "plain", work / "sealed.srm", work / "back"
        plain.write_bytes(data)
        with strongroom.KeyStore.open(store.url, strongroom.FileMasterKey(store.master)) as keys:
            arguments: tuple[object, ...] = (plain, sealed, keys)
            measure(
                "encrypt_file",
                strongroom.encrypt_file,
                *arguments,
                before=lambda: commands.remove(sealed),
            )
            arguments = (sealed, back, keys)
            measure(
                "decrypt_file",
                strongroom.decrypt_file,
                *arguments,
                before=lambda: commands.remove(back),
            )
            versioned = strongroom.VersionedEncryption(keys)
            # What it holds the GIL for is the same for each record: an eighth shows it.
            values = [data[i : i + 256] for i in range(0, total // 8, 256)]
            sealed = versioned.encrypt_many(values)
            del values
            measure("rotate_many, 256 B, an eighth", versioned.rotate_many, sealed)
    return {"groups": {}, "left_out": {}, "held_up": found}


def _peer_held_up(measure: Callable[..., Any], data: bytes) -> None:
    """What a peer that drops the GIL for its whole call does, on as many cores."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    half = len(data) // 2
    view = memoryview(data)
    outs = [bytearray(half + 16), bytearray(half + 16)]
    encrypt = AESGCM(bytes(32)).encrypt_into

    def call() -> None:
        # Our calls on small records take as long: who looks longer sees longer pauses.
        end = time.monotonic() + _CONTROL_SECONDS * min(1.0, len(data) / 2**30)
        while time.monotonic() < end:
            other = threading.Thread(target=encrypt, args=(bytes(12), view[half:], None, outs[1]))
            other.start()
            encrypt(bytes(12), view[:half], None, outs[0])
            other.join()

    measure(HELD_UP_CONTROL, call)


def _gave_up_its_core() -> int:
    """How often this thread gave up its core to wait for something."""
    return resource.getrusage(_THREAD).ru_nvcsw


def _waited_for_a_core() -> int:
    """Nanoseconds that this thread was ready to run and did not; 0 where nobody counts it."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
