"""What was measured on what: the machine, the versions, the build."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import Any

import strongroom

from .peers import versions


def describe(folder: str) -> dict[str, Any]:
    """Return machine, versions and build as JSON can hold them.

    Args:
        folder: Where files are written, for its file system.
    """
    return {
        "machine": {
            "cpu": _cpu(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "transparent_huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "file_system": _file_system(folder),
            "load_before": os.getloadavg()[0],
        },
        "versions": {
            "strongroom": strongroom.__version__,
            "python": platform.python_version(),
            **versions(),
            **command_versions(),
        },
        "build": build(),
    }


def processor_times() -> tuple[int, int] | None:
    """Return ticks that the host of a virtual machine took away, and all ticks, since the start."""
    # user nice system idle iowait irq softirq steal; guest times are in the first two.
    line = (_read("/proc/stat") or "").partition("\n")[0].split()
    if len(line) < 9:
        return None
    ticks = [int(word) for word in line[1:9]]
    return ticks[7], sum(ticks)


def build() -> dict[str, Any]:
    """Return the engine, the CPU features that matter, and the profile of the extension."""
    from strongroom import _native

    status = _native.engine_status()
    # An older revision beside which this harness runs doesn't know its profile.
    profile = getattr(_native, "build_profile", lambda: "unknown")()
    return {
        "engine": status["engine"],
        "forced": status["forced"],
        "cpu_features": [name for name, has in status["cpu_features"].items() if has],
        "profile": profile,
        "threads": strongroom.num_threads(),
    }


def command_versions() -> dict[str, str | None]:
    """Return the versions of the commands that files are measured against."""
    return {
        "age": _first_line("age", "--version"),
        "openssl": _first_line("openssl", "version"),
        "cp": _first_line("cp", "--version"),
    }


def _first_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return (done.stdout or done.stderr).strip().split("\n")[0]


def _cpu() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: str) -> str:
    # The longest mount point that the folder is under.
    best, found = "", "unknown"
    real = os.path.realpath(folder)
    for line in (_read("/proc/self/mounts") or "").splitlines():
        source, point, kind, *_ = line.split(" ")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, found = point, f"{kind} on {os.path.basename(source)}"
    return found


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
