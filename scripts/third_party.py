"""Writes THIRD-PARTY-LICENSES: the licences of all code that a built wheel holds.

Usage: python scripts/third_party.py [--check]

The crates are those that cargo links into the extension module, on any platform, at the versions of
Cargo.lock; their licence texts are the files in their packages. With --check nothing is written:
the exit code is 1 when the file is not what it would be.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "THIRD-PARTY-LICENSES"
NAMES = ("licen", "copying", "notice", "copyright", "unlicense")
SOURCES = (".c", ".cc", ".go", ".h", ".json", ".pl", ".py", ".rs", ".sh", ".toml")
RULE = "=" * 80
# The Rust standard library is linked into every extension and is no crate of Cargo.lock.
HEAD = """\
The wheels of Strongroom hold compiled code of the projects below; the source distribution holds
none of it. Made by scripts/third_party.py from Cargo.lock.

The Rust standard library is linked in too: Copyright (c) The Rust Project Contributors, licensed
under Apache-2.0 OR MIT; both texts stand below, under other projects.
"""


def linked_crates() -> list[dict[str, Any]]:
    """Return cargo's metadata of every crate that the extension module links, sorted by name."""
    output = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    metadata = json.loads(output)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    members = set(metadata["workspace_members"])
    todo = [i for i in members if packages[i]["name"] == "strongroom-python"]
    found: set[str] = set()
    while todo:
        here = todo.pop()
        if here in found:
            continue
        found.add(here)
        for dependency in nodes[here]["deps"]:
            # Kind null is a normal dependency; build scripts and tests are not in the wheel.
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            target = packages[dependency["pkg"]]["targets"][0]["kind"]
            if normal and "proc-macro" not in target:
                todo.append(dependency["pkg"])
    crates = [packages[i] for i in found - members]
    return sorted(crates, key=lambda crate: (crate["name"], crate["version"]))


def licence_texts(crate: dict[str, Any]) -> list[tuple[str, str]]:
    """Return name and text of each licence file in a crate's package, bundled C code included."""
    folder = Path(crate["manifest_path"]).parent
    texts = []
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and path.name.lower().startswith(NAMES)
            and path.suffix.lower() not in SOURCES
        ):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            text = "\n".join(line.rstrip() for line in lines).strip("\n")
            texts.append((str(path.relative_to(folder)), text))
    return texts


def document() -> str:
    """Return the whole file: a list of the crates, then each text once.

    Raises:
        SystemExit: A crate has no licence expression.
    """
    crates = linked_crates()
    by_text: dict[str, list[str]] = {}
    listing = []
    for crate in crates:
        name = f"{crate['name']} {crate['version']}"
        if not crate["license"]:
            sys.exit(f"third_party: {name} names no licence")
        listing.append(f"  {name:<32} {crate['license']}")
        for file, text in licence_texts(crate):
            by_text.setdefault(text, []).append(f"{name}: {file}")
    parts = [HEAD, "\n".join(listing) + "\n"]
    for text, users in sorted(by_text.items(), key=lambda item: item[1]):
        parts.append("\n".join([RULE, *users, RULE, "", text, ""]))
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write or check the file and return the exit code."""
    text = document()
    if arguments == ["--check"]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
            print("third_party: THIRD-PARTY-LICENSES is out of date: run `make licences`")
            return 1
        return 0
    if arguments:
        sys.exit("usage: third_party.py [--check]")
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
