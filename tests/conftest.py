"""What all tests share: the skip policy, hypothesis' settings, both engines.

Skip policy: with --no-skips (`make test`) a skipped test fails, whether it skips itself, is marked,
or its module does. What can't run on some machine is listed in ALLOWED_SKIPS with the condition
under which it can't and why; anywhere else the skip is an error.
"""

from __future__ import annotations

import fnmatch
import os
import signal
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import hypothesis
import pytest


class AllowedSkip(NamedTuple):
    """One exception to the skip policy."""

    pattern: str
    """Node ids that may skip, as a shell pattern: `tests/test_x.py::test_y*`."""
    cannot_run: Callable[[], bool]
    """Says whether the part can't run on this machine."""
    why: str


ALLOWED_SKIPS: list[AllowedSkip] = []

# What a shell starts in the background ignores these, and so would all that tests start.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# A deadline measures how busy the machine is. `print_blob` is what repeats a failure.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, max_examples=100)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failure")


def _refuse_skip(report: Any) -> None:
    # An expected failure is reported as a skip too; `wasxfail` tells them apart.
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    for allowed in ALLOWED_SKIPS:
        if fnmatch.fnmatch(report.nodeid, allowed.pattern) and allowed.cannot_run():
            return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = (
        f"skipped, and nothing in ALLOWED_SKIPS (tests/conftest.py) says why: {reason}"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: Any
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("--no-skips"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if collector.config.getoption("--no-skips"):
        _refuse_skip(report)
    return report
