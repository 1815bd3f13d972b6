"""Prints what pyproject.toml requires, one requirement a line, for `pip install -r`.

Usage: python scripts/requirements.py NAME...

Each NAME is an extra or a dependency group of pyproject.toml. The package's own dependencies and
the build backend always come with them. pip itself would build the package to learn the extras.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements(names: list[str]) -> list[str]:
    """Return the requirement strings of the package with the given extras and groups, sorted.

    Raises:
        SystemExit: A name is neither an extra nor a dependency group.
    """
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups: dict[str, list[str]] = {
        **data["project"]["optional-dependencies"],
        **data["dependency-groups"],
    }
    found = {*data["build-system"]["requires"], *data["project"]["dependencies"]}
    for name in names:
        if name not in groups:
            sys.exit(f"requirements: no extra or group {name!r}; there are {', '.join(groups)}")
        # An extra that names the package itself ("strongroom[aws,vault]") stands for those extras.
        for line in groups[name]:
            if line.startswith("strongroom["):
                found.update(requirements(line[len("strongroom[") : -1].split(",")))
            else:
                found.add(line)
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
