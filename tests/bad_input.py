"""What the tests of bad input share: the refusals that are allowed, and seeded randomness."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator

import strongroom
from independent import constructions as c

# F1 of the fault list: around the chunk's length, a record's, and a dozen chunks.
LENGTHS = [0, 1, 100, 16_383, 16_384, 16_385, 65_536, 200_000]
REFUSALS = (
    strongroom.FormatError,
    strongroom.DecryptionError,
    strongroom.LimitError,
    strongroom.KeyNotFoundError,
)
DECRYPTION_TEXT = "decryption failed: wrong key, wrong associated data, or damaged message"

Decrypt = Callable[[bytes | bytearray | memoryview], bytes]


def seeded() -> random.Random:
    """A generator of its own seed in each run; pytest shows what a failed test printed."""
    seed = os.environ.get("STRONGROOM_TEST_SEED") or os.urandom(8).hex()
    print(f"STRONGROOM_TEST_SEED={seed}")
    return random.Random(seed)


def refusal(decrypt: Decrypt, message: bytes | bytearray | memoryview) -> Exception:
    """The refusal of `message`; AssertionError if it decrypts.

    Whatever is not a refusal goes through: a Rust panic reaches Python as a BaseException.
    """
    try:
        plaintext = decrypt(message)
    except REFUSALS as caught:
        error = caught
    else:
        raise AssertionError(f"decrypted to {len(plaintext)} bytes")
    if isinstance(error, strongroom.DecryptionError):
        # It needed the key: one text, and nothing behind it that says more.
        assert str(error) == DECRYPTION_TEXT
        assert error.__cause__ is None
        assert error.__context__ is None
    return error


def refused_all(
    decrypt: Decrypt, messages: Iterable[bytes | bytearray | memoryview]
) -> set[type[Exception]]:
    """Asserts that each message is refused; the classes of the refusals."""
    return {type(refusal(decrypt, message)) for message in messages}


def flip_each(message: bytes, bits: Iterable[int]) -> Iterator[bytearray]:
    """The message with each of the bits flipped in turn, in one buffer."""
    changed = bytearray(message)
    for bit in bits:
        changed[bit // 8] ^= 0x80 >> bit % 8
        yield changed
        changed[bit // 8] ^= 0x80 >> bit % 8
    assert changed == message


def bits_of(start: int, stop: int) -> range:
    """The numbers of all bits of the bytes from `start` to before `stop`."""
    return range(8 * max(start, 0), 8 * stop)


def split_chunks(message: bytes, chunks_at: int) -> list[bytes]:
    """The sealed chunks of an envelope."""
    return [
        message[at : at + c.SEALED_CHUNK_LEN]
        for at in range(chunks_at, len(message), c.SEALED_CHUNK_LEN)
    ]
