"""Faults H1 to H5: a chosen CKR value at each call of a normal use, once and for ever."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bad_input import seeded
from hsm_help import SHIM, SOFTHSM, tokens

# Lost sessions and objects (H3), devices that are gone (H4), exhaustion (H5), a PIN that is wrong
# (H1), locked, expired or not there (H2).
LOST = [0xB3, 0x101, 0x82, 0x190]
GONE = [0xE0, 0x32, 0x30, 0x31]
EXHAUSTED = [0xB1, 0x02]
REFUSED = [0xA0, 0xA4, 0xA3, 0x102]
CODES = LOST + GONE + EXHAUSTED + REFUSED
GENERAL_ERROR = 0x05
SECONDS = 1.0
LOGIN = "C_Login"
SAMPLE = 60


def matrix(*points: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "hsm_matrix.py", str(SHIM), *points],
        capture_output=True,
        text=True,
        env={**os.environ, **tokens().environment, "SHIM_MODULE": SOFTHSM},
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # What python-pkcs11 prints from a destructor, say.
    assert not done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@functools.cache
def calls() -> list[str]:
    (found,) = matrix()
    return list(found)


def every_point() -> list[tuple[int, int, int]]:
    return [(c, at, f) for c in CODES for at in range(1, len(calls()) + 1) for f in (0, 1)]


def check(results: list[Any]) -> None:
    bad = []
    for result in results:
        outcome, call = result["outcome"], result["call"]
        wrong = []
        # SoftHSM says GENERAL_ERROR of a wrong tag: nothing tells the two apart.
        may_look_damaged = result["code"] == GENERAL_ERROR and call in (
            "C_DecryptInit",
            "C_Decrypt",
        )
        if outcome not in ("right", "HSMError") and not (
            outcome == "DecryptionError" and may_look_damaged
        ):
            wrong.append("no result and no typed error")
        if outcome == "HSMError" and result["seconds"] > SECONDS:
            wrong.append("slow")
        if result["code"] in REFUSED and outcome == "HSMError" and call == LOGIN:
            if "refused this PIN before" not in result["again"]:
                wrong.append("a PIN that was refused is sent again")
        elif result["again"] != "right":
            wrong.append("does not work again")
        if result["code"] in LOST + GONE and not result["forever"] and outcome != "right":
            wrong.append("did not recover")
        if result["code"] in REFUSED and call == LOGIN and result["logins"] > 1:
            wrong.append("the PIN was sent again")
        if wrong:
            bad.append((wrong, result))
    assert not bad, "\n".join(map(str, bad[:40])) + f"\n{len(bad)} of {len(results)}"


def run(points: list[tuple[int, int, int]]) -> None:
    check(matrix(*(f"{code}:{at}:{forever}" for code, at, forever in points)))


def test_a_normal_use_makes_these_calls() -> None:
    found = calls()
    assert {"C_Initialize", "C_OpenSession", "C_Login", "C_FindObjects", "C_EncryptInit",
            "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_GenerateRandom", "C_GetAttributeValue",
            "C_CloseSession", "C_Logout"} <= set(found)  # fmt: skip
    assert found.count("C_Login") == 1
    # Four messages and a wrapped key: a nonce each.
    assert found.count("C_GenerateRandom") == 5


def test_a_sample_of_the_matrix() -> None:
    run(seeded().sample(every_point(), SAMPLE))


@pytest.mark.sweep
@pytest.mark.parametrize("code", CODES, ids=hex)
def test_the_whole_matrix(code: int) -> None:
    run([point for point in every_point() if point[0] == code])


@pytest.mark.sweep
def test_general_error_at_every_call() -> None:
    run([(GENERAL_ERROR, at, f) for at in range(1, len(calls()) + 1) for f in (0, 1)])
