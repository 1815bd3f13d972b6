"""One call on one buffer, by work and size; contenders are parameters."""

from __future__ import annotations

import pytest
from strongroom.bench.works import human

from benches.conftest import NAMES, pair, skip_large

SIZES = (64, 1 << 10, 1 << 16, 1 << 20, 1 << 24)


@pytest.mark.parametrize("contender", NAMES)
@pytest.mark.parametrize("size", SIZES, ids=human)
def test_encrypt(request, measure, contender, size):
    skip_large(request, size)
    measure(pair(contender, size)[0], f"encrypt {human(size)}")


@pytest.mark.parametrize("contender", NAMES)
@pytest.mark.parametrize("size", SIZES, ids=human)
def test_decrypt(request, measure, contender, size):
    skip_large(request, size)
    measure(pair(contender, size)[1], f"decrypt {human(size)}")
