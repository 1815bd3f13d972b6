"""What other parts of the library add to the bench: a module for each, named here.

Such a module has two functions:

- `jobs(scale, folder)` returns `runner.Job`s for the default engine, whose functions return
  `{"groups": {...}, "left_out": {...}}` as those of `works.py` do. A part that can't be measured
  here (no token, no server) is left out by name: `left_out` says why. `scale.quick` tells a quick
  run, which may take a second or two; a full one has some twenty for each part.
- `rows(make, document)` adds the part's rows by the methods of `targets.Rows`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Final

# Names of modules of this package, in the order of the report.
NAMES: Final[tuple[str, ...]] = ("tokens", "stores", "audit_log")


def modules() -> list[ModuleType]:
    """Import and return them."""
    return [importlib.import_module(f".{name}", __package__) for name in NAMES]
