"""Finds the CPython interpreters of this machine that the wheel supports."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MINORS = (11, 12, 13)
# Where version managers and images keep interpreters that are not on PATH.
PLACES = (
    "{PYENV_ROOT}/versions/*/bin/python3.{minor}",
    "{HOME}/.pyenv/versions/*/bin/python3.{minor}",
    "{HOME}/.local/share/uv/python/*/bin/python3.{minor}",
    "/opt/python/cp3{minor}-cp3{minor}/bin/python",
    "/usr/local/bin/python3.{minor}",
    "/usr/bin/python3.{minor}",
)
# An interpreter without ensurepip or with the GIL switched off at build time can't take part.
PROGRAM = """
import sys, sysconfig, ensurepip, venv
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(1)
print(sys.version_info.minor)
"""


def candidates(minor: int) -> list[Path]:
    """Return the files that may be CPython 3.MINOR, those on PATH first."""
    found = [
        Path(folder) / f"python3.{minor}" for folder in os.get_exec_path() if Path(folder).is_dir()
    ]
    for pattern in PLACES:
        place = pattern.format(
            minor=minor,
            HOME=Path.home(),
            PYENV_ROOT=os.environ.get("PYENV_ROOT", "/nonexistent"),
        )
        found += sorted(Path("/").glob(place.lstrip("/")))
    return [path for path in found if path.exists()]


def interpreters() -> dict[str, Path]:
    """Return one working interpreter for each supported version that is here: {"3.11": path}."""
    found: dict[str, Path] = {}
    for minor in MINORS:
        for path in candidates(minor):
            # A version manager's shim is there and fails when its version is not switched on.
            answer = subprocess.run(
                [path, "-I", "-c", PROGRAM], capture_output=True, text=True, check=False
            )
            if answer.returncode == 0 and answer.stdout.strip() == str(minor):
                found[f"3.{minor}"] = path
                break
    return found


if __name__ == "__main__":
    for version, path in interpreters().items():
        print(version, path)
