"""Runs the core's criterion benches and reads its estimates."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any


def run(root: Path) -> dict[str, dict[str, Any]]:
    """Run `cargo bench` of the core; return median seconds and bytes by name, in order of name.

    Where there is no cargo, nothing is returned, and the report says so.
    """
    if shutil.which("cargo") is None:
        return {}
    target = root / "target" / "criterion"
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(
        ["cargo", "bench", "--locked", "-q", "-p", "strongroom-core", "--bench", "core"],
        cwd=root,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return read(target)


def read(target: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(target.rglob("new/benchmark.json")):
        about = json.loads(path.read_text())
        estimates = json.loads(path.with_name("estimates.json").read_text())
        throughput = about["throughput"] or {}
        found[about["full_id"]] = {
            "seconds": estimates["median"]["point_estimate"] / 1e9,
            "size": throughput.get("Bytes", 0),
        }
    return found
