"""A plugin of pytest for `make audited`: each test begins with the run's audit log on.

Tests of the audit log turn their own on and off in the process of the tests.
"""

from __future__ import annotations

import pytest
import witness
from strongroom import _events, audit

LEFT_OUT = {
    "test_off_counts_nothing": "it is about a process without a log",
    "test_off_it_is_not_imported": "it is about a process without a log",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what can't be with a log on."""
    out = [item for item in items if item.name in LEFT_OUT]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item.name not in LEFT_OUT]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if getattr(_events._sink, "path", None) != witness.LOG:
        audit.enable(witness.LOG)


def pytest_sessionfinish() -> None:
    """Say that this process was not killed: xdist's workers end without the exit handlers."""
    witness.tell(what="end")
