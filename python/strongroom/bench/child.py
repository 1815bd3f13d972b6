"""One job in a process of its own: reads it as JSON on stdin, writes its result on stdout.

It is started by its path, and gives its package a name of its own, so that the library that it
measures may be another revision than the one that this file lies in.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from typing import Any

PACKAGE = "strongroom_bench"


def load() -> None:
    """Make the folder of this file importable as the package `strongroom_bench`."""
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(
        PACKAGE, path, submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Run the job and print what it returned, with the build it ran on."""
    load()
    job: dict[str, Any] = json.load(sys.stdin)
    # What a peer prints must not get among the result.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = importlib.import_module(f"{PACKAGE}.{job['module']}")
    machine = importlib.import_module(f"{PACKAGE}.machine")
    arguments = dict(job["arguments"])
    if "pace" in arguments:
        measure = importlib.import_module(f"{PACKAGE}.measure")
        arguments["pace"] = measure.Pace(**arguments["pace"])
    result = getattr(module, job["work"])(**arguments)
    json.dump({**result, "build": machine.build()}, out)
    out.close()


if __name__ == "__main__":
    main()
