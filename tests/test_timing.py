"""Times must not tell where a PIN or a key id differs: after dudect (Reparaz, Balasch and
Verbauwhede, "Dude, is my code constant time?", 2017). rust/core/tests/timing.rs is about tags and
commitments.

Statistics on a shared machine: `make sweep` runs them, `make test` doesn't.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from strongroom import HSMError, _native
from strongroom.hsm import pins

pytestmark = [pytest.mark.sweep, pytest.mark.alone]

# Welch's t above which two classes differ; 4.5 is usual, but not on a virtual machine.
T_MAX = 10.0
MEASUREMENTS = 1_000_000


def welch(work: Callable[[int], object], measurements: int = MEASUREMENTS) -> float:
    """Welch's t of the times of `work` on two classes of inputs, in an order without a pattern.

    Times above the 90th percentile are interrupts and neighbours, and are left out.
    """
    clock = time.perf_counter_ns
    bits = random.SystemRandom().getrandbits
    for number in range(1000):
        work(number % 2)
    times: tuple[list[int], list[int]] = ([], [])
    for _ in range(measurements):
        of = bits(1)
        began = clock()
        work(of)
        ended = clock()
        times[of].append(ended - began)
    limit = sorted(times[0] + times[1])[measurements * 9 // 10]
    means, errors = [], []
    for values in times:
        kept = [value for value in values if value <= limit]
        mean = sum(kept) / len(kept)
        means.append(mean)
        errors.append(sum((v - mean) ** 2 for v in kept) / (len(kept) - 1) / len(kept))
    return float(abs(means[0] - means[1]) / sum(errors) ** 0.5)


def is_constant(work: Callable[[int], object]) -> None:
    """In 3 of 3 runs."""
    for _ in range(3):
        t = welch(work)
        print(f"t = {t:.1f}")
        assert t < T_MAX


def flipped(data: bytes, at: int) -> bytearray:
    copy = bytearray(data)
    copy[at] ^= 1
    return copy


def test_a_naive_comparison_is_found() -> None:
    right = bytes(32)
    claimed = [flipped(right, at) for at in (0, 31)]

    def compare(of: int) -> bool:
        return all(a == b for a, b in zip(right, claimed[of], strict=True))

    assert welch(compare, MEASUREMENTS // 4) > 100


@pytest.mark.parametrize("length", [6, 64])
def test_a_pin_that_is_held(length: int) -> None:
    right = random.SystemRandom().randbytes(length)
    held = pins.HeldPin(bytearray(right))
    claimed = [flipped(right, at) for at in (0, length - 1)]
    assert held.equals(bytearray(right))
    assert not held.equals(claimed[0])
    is_constant(lambda of: held.equals(claimed[of]))


def test_a_pin_that_was_refused() -> None:
    token = ("timing", "1")
    refused = random.SystemRandom().randbytes(16)
    pins.remember_refused(token, bytearray(refused))
    claimed = [flipped(refused, at) for at in (0, 15)]
    with pytest.raises(HSMError):
        pins.check_not_refused(token, bytearray(refused))
    is_constant(lambda of: pins.check_not_refused(token, claimed[of]))


@pytest.mark.parametrize("known", [True, False])
def test_a_key_id(known: bool) -> None:
    """Of the same keyset as one that differs in its first or in its last byte, known or not."""
    one = random.SystemRandom().randbytes(16)
    others = [flipped(one, at).hex() for at in (0, 15)]
    ids = [one.hex(), *(others if known else [])]
    rows: list[Any] = [(key_id, "active", "default", None, "") for key_id in ids]
    ring = _native.Keyring(lambda missing: (ids[0], rows, 1e6, ""))
    assert ring.lookup(ids[0]) == "default"
    assert ring.lookup(others[0]) == ("default" if known else None)
    is_constant(lambda of: ring.lookup(others[of]))
