"""What the pytest-benchmark suites share: peers by name, versions in the JSON, small sizes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from strongroom.bench import machine, peers, works
from strongroom.bench.measure import Contender

OURS = [works.RECORD, works.RECORD_INTO, works.ENVELOPE, works.ENVELOPE_INTO]
NAMES = [*OURS, *(peer.name for peer in peers.PEERS)]
# A round of the slowest peer takes longer than this at once; pytest-benchmark makes five anyway.
SECONDS = 0.1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="one small size a suite")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["strongroom"] = machine.describe(tempfile.gettempdir())


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Contender, str], None]:
    """Time one contender in a group, with its rate beside it."""

    def run(contender: Contender, group: str) -> None:
        benchmark.group = group
        benchmark.extra_info["bytes"] = contender.size
        benchmark._max_time = SECONDS
        benchmark._warmup = False
        benchmark(function_of(contender))

    if request.config.getoption("--quick"):
        benchmark._min_rounds = 2
    return run


def function_of(contender: Contender) -> Callable[[], object]:
    """Make a function of what `timeit` would run, without a closure's cells in the way."""
    names = dict(contender.names)
    body = "; ".join(part.strip() for part in contender.stmt.split(";"))
    exec(f"def operation():\n    {body}\n", names)
    function: Callable[[], object] = names["operation"]
    return function


@cache
def _data(size: int) -> bytes:
    return os.urandom(size)


def pair(name: str, size: int) -> tuple[Contender, Contender]:
    """Return encrypt and decrypt of one contender; skip, by name, what can't take part."""
    data = _data(size)
    if name in OURS:
        for both in works.ours(data):
            if both[0].name == name:
                return both
        pytest.skip(f"{name}: not for {works.human(size)}")
    peer = next(peer for peer in peers.PEERS if peer.name == name)
    why = peer.missing()
    if why is not None:
        pytest.skip(f"left out: {name}: {why}")
    if size > peer.largest:
        pytest.skip(f"left out: {name} above {works.human(peer.largest)}")
    return peer.contenders(data)


def skip_large(request: pytest.FixtureRequest, size: int, largest: int = 1024) -> None:
    if request.config.getoption("--quick") and size > largest:
        pytest.skip("a quick run")
