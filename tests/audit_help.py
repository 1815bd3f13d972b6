"""Help for the tests of the audit log: a place for one, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from strongroom import _native, audit

KEY = "00112233445566778899aabbccddeeff"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture(autouse=True)
def nothing_enabled() -> Iterator[None]:
    # What a key store counted in an earlier test would be this one's log's.
    _native.tally_take()
    yield
    audit.disable()


def names(path: Path) -> list[str]:
    return [record.name for record in audit.records(path)]
