"""Installs a wheel or a source distribution into fresh environments and tries it there.

Usage: python scripts/try_package.py FILE

Takes every CPython 3.11 to 3.13 that this machine has. A source distribution is first built into a
wheel in an empty directory; what a wheel must hold is looked up in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pythons import interpreters

SMOKE = Path(__file__).with_name("smoke.py")
IN_WHEEL = (
    "strongroom/__init__.py",
    "strongroom/_native.abi3.so",
    "strongroom/_native.pyi",
    "strongroom/py.typed",
    ".dist-info/licenses/LICENSE-APACHE",
    ".dist-info/licenses/LICENSE-MIT",
    ".dist-info/licenses/THIRD-PARTY-LICENSES",
)


def run(*command: str | Path, cwd: Path) -> None:
    """Run a program in a directory; its output is shown.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(command, cwd=cwd, check=False)
    if done.returncode != 0:
        sys.exit(f"try_package: {' '.join(map(str, command))}: exit code {done.returncode}")


def build(sdist: Path, python: Path, folder: Path) -> Path:
    """Build a wheel from a source distribution, in a fresh environment and an empty directory."""
    venv = folder / "build"
    run(python, "-m", "venv", venv, cwd=folder)
    pip = venv / "bin" / "pip"
    run(pip, "wheel", "-q", "--no-deps", "-w", folder / "built", sdist, cwd=folder)
    (wheel,) = (folder / "built").glob("strongroom-*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Look for the files that a wheel must hold, and for files that it must not.

    Raises:
        SystemExit: One is missing or too many.
    """
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in IN_WHEEL:
        if not any(name.endswith(wanted) for name in names):
            sys.exit(f"try_package: {wheel.name} holds no {wanted}")
    for name in names:
        if not name.startswith(("strongroom/", "strongroom-")) or "__pycache__" in name:
            sys.exit(f"try_package: {wheel.name} holds {name}")


def main(package: Path) -> None:
    """Try one package on every interpreter.

    Raises:
        SystemExit: No interpreter is here, or a step failed.
    """
    package = package.resolve(strict=True)
    found = interpreters()
    if not found:
        sys.exit("try_package: no CPython 3.11 to 3.13 here")
    with tempfile.TemporaryDirectory(prefix="strongroom-package-") as name:
        folder = Path(name)
        wheel = package
        if package.suffix != ".whl":
            wheel = build(package, next(iter(found.values())), folder)
        check_contents(wheel)
        for version, python in found.items():
            venv = folder / f"venv-{version}"
            run(python, "-m", "venv", venv, cwd=folder)
            run(venv / "bin" / "pip", "install", "-q", wheel, cwd=folder)
            run(venv / "bin" / "python", "-I", SMOKE, cwd=folder)
            print(f"{package.name}: works on CPython {version}", flush=True)
    print(f"{package.name}: {package.stat().st_size:,} bytes, tried on {len(found)} interpreters")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: try_package.py FILE (exactly one)")
    main(Path(sys.argv[1]))
