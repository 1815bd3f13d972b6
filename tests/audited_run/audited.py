"""A plugin of pytest for `make audited`: each test begins with the run's audit log on.

Tests of the audit log turn their own on and off in the process of the tests.
"""

from __future__ import annotations

import pytest
import witness
from strongroom import _events, audit

_WITHOUT = "it is about a process without a log"
_USER = "it becomes a user who may not write the run's log"
LEFT_OUT = {
    "test_off_counts_nothing": _WITHOUT,
    "test_off_it_is_not_imported": _WITHOUT,
    "test_no_log_no_cost": _WITHOUT,
    "test_version_imports_no_parser": _WITHOUT,
    "test_start_up_imports_nothing_heavy": _WITHOUT,
    "test_decrypt_imports_no_more_than_it_needs": _WITHOUT,
    "test_read_only": _USER,
    "test_with_all_rights": _USER,
    "test_without_rights": _USER,
    "test_without_the_right_to_write": _USER,
    "test_a_limit_on_the_size_of_files": "the run's log is larger than its limit",
    "test_comparisons_and_keys": "valgrind counts what Python does for the log",
    "test_stopped_after_every_call": "as the next",
    "test_power_lost_at_some_moments": "it replays the calls of a process with one log",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what can't be with a log on."""
    out = [item for item in items if _function_of(item) in LEFT_OUT]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if _function_of(item) not in LEFT_OUT]


def _function_of(item: pytest.Item) -> str:
    return item.name.partition("[")[0]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if getattr(_events._sink, "path", None) != witness.LOG:
        audit.enable(witness.LOG)


def pytest_sessionfinish() -> None:
    """Say that this process was not killed: xdist's workers end without the exit handlers."""
    witness.tell(what="end")
