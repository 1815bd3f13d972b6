"""AES-GCM ciphertexts that authenticate under many keys at once: what key commitment is for.

GCM's tag is a polynomial in H = E(0), so n keys, each with its own nonce and associated data, give
n linear equations in the ciphertext's blocks: interpolation solves them (Dodis, Grubbs,
Ristenpart, Woodage, "Fast Message Franking", 2018; Len, Grubbs, Ristenpart, 2021).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from .constructions import aes_blocks, xor

BLOCK_LEN = 16
# SP 800-38D's R: x^128 = x^7 + x^2 + x + 1, the coefficient of x^0 in the first bit.
_R = 0xE1 << 120
_ONE = 1 << 127


class Target(NamedTuple):
    """One way in which the ciphertext is to open."""

    key: bytes
    nonce: bytes
    associated_data: bytes


def multiply(a: int, b: int) -> int:
    """The product in GCM's field."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & (2 * _ONE - 1)
        b = (b >> 1) ^ (_R if b & 1 else 0)
    return product


def invert(a: int) -> int:
    """The inverse in GCM's field: a to the power 2^128 - 2."""
    result = _ONE
    for _ in range(127):
        a = multiply(a, a)
        result = multiply(result, a)
    return result


def _invert_all(values: Sequence[int]) -> list[int]:
    # Montgomery's trick: one inversion and three products a value.
    before = [_ONE]
    for value in values:
        before.append(multiply(before[-1], value))
    rest = invert(before[-1])
    inverses = []
    for value, product in zip(reversed(values), reversed(before[:-1]), strict=True):
        inverses.append(multiply(rest, product))
        rest = multiply(rest, value)
    return inverses[::-1]


def _interpolate(points: Sequence[int], values: Sequence[int]) -> list[int]:
    """Coefficients, lowest first, of the polynomial with these values (Newton's form)."""
    count = len(points)
    pairs = list(combinations(range(count), 2))
    inverse = dict(zip(pairs, _invert_all([points[i] ^ points[j] for i, j in pairs]), strict=True))
    divided = list(values)
    for step in range(1, count):
        for i in range(count - 1, step - 1, -1):
            divided[i] = multiply(divided[i] ^ divided[i - 1], inverse[i - step, i])
    coefficients = [0] * count
    for i in range(count - 1, -1, -1):
        # coefficients * (x + points[i]) + divided[i]
        shifted = [0, *coefficients[:-1]]
        coefficients = [
            high ^ multiply(low, points[i]) for high, low in zip(shifted, coefficients, strict=True)
        ]
        coefficients[0] ^= divided[i]
    return coefficients


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK_LEN)


def _ghash(h: int, data: bytes) -> int:
    state = 0
    for i in range(0, len(data), BLOCK_LEN):
        state = multiply(state ^ int.from_bytes(data[i : i + BLOCK_LEN]), h)
    return state


def ciphertext(targets: Sequence[Target], length: int) -> bytes:
    """Ciphertext | tag that opens under every target, to other plaintexts.

    Args:
        targets: Keys with their nonces of 12 bytes and associated data.
        length: Of the plaintext: a multiple of 16, and at least 16 a target.
    """
    if length % BLOCK_LEN or length < BLOCK_LEN * len(targets):
        raise ValueError("one block a target is needed")
    # All blocks but one a target are random; the tag is random too.
    fixed = os.urandom(length - BLOCK_LEN * len(targets))
    tag = os.urandom(BLOCK_LEN)
    points, masks, wanted = [], [], []
    for target in targets:
        h = int.from_bytes(aes_blocks(target.key, bytes(BLOCK_LEN)))
        lengths = (8 * len(target.associated_data)).to_bytes(8) + (8 * length).to_bytes(8)
        rest = _pad(target.associated_data) + fixed + bytes(BLOCK_LEN * len(targets)) + lengths
        mask = aes_blocks(target.key, target.nonce + b"\x00\x00\x00\x01")
        points.append(h)
        masks.append(multiply(h, h))
        wanted.append(int.from_bytes(xor(tag, mask)) ^ _ghash(h, rest))
    # The free blocks enter as H^2 P(H): the block of lengths comes after them.
    values = [
        multiply(value, inverse) for value, inverse in zip(wanted, _invert_all(masks), strict=True)
    ]
    free = _interpolate(points, values)
    return fixed + b"".join(block.to_bytes(16) for block in reversed(free)) + tag
