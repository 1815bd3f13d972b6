"""A plugin of pytest for `make audited`: each test begins with the run's audit log on.

Tests of the audit log turn their own on and off in the process of the tests.
"""

from __future__ import annotations

import pytest
import witness
from strongroom import _events, audit


def pytest_runtest_setup(item: pytest.Item) -> None:
    if getattr(_events._sink, "path", None) != witness.LOG:
        audit.enable(witness.LOG)


def pytest_sessionfinish() -> None:
    """Say that this process was not killed: xdist's workers end without the exit handlers."""
    witness.tell(what="end")
