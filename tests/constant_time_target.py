"""What test_constant_time.py runs under valgrind: secrets are marked as undefined memory, and each
branch or address that depends on them is an error that valgrind counts (ctgrind).

Run: constant_time_target.py HELPER.so, which is made of constant_time_helper.c. It prints JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import sys
from collections.abc import Callable

# All of it now: what is imported later, from bytecode, makes valgrind complain of Python.
from strongroom import DecryptionError, ParallelEncryption, SecureEncryption, hazmat

HELPER = ctypes.CDLL(sys.argv[1])
HELPER.errors.restype = ctypes.c_ulong
KEY = bytes(range(32))
NONCE = bytes(24)


def address(buffer: bytearray, at: int = 0) -> ctypes.c_void_p:
    """Where a byte of the buffer is."""
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(buffer)) + at)


def secret(buffer: bytearray, at: int, length: int) -> None:
    """Marks a part of the buffer."""
    HELPER.taint(address(buffer, at), ctypes.c_ulong(length))


def counted(work: Callable[[], object]) -> int:
    """How often valgrind complained meanwhile."""
    before = HELPER.errors()
    with contextlib.suppress(DecryptionError):
        work()
    return int(HELPER.errors() - before)


def comparisons(
    message: bytes, at: int, length: int, decrypt: Callable[[bytearray], object]
) -> list[int]:
    """The counts with this part right, with its first byte wrong, and with its last one wrong."""
    counts = []
    for wrong in (None, 0, length - 1):
        copy = bytearray(message)
        if wrong is not None:
            copy[at + wrong] ^= 1
        secret(copy, at, length)
        counts.append(counted(functools.partial(decrypt, copy)))
        HELPER.clear(address(copy), ctypes.c_ulong(len(copy)))
    return counts


def naive() -> list[int]:
    """A comparison that ends at the first byte that differs: what must not be like this."""

    def compare(left: bytearray) -> None:
        HELPER.naive(address(left), address(right), ctypes.c_ulong(32))

    right = bytearray(32)
    return comparisons(bytes(32), 0, 32, compare)


def main() -> None:
    """Counts, and prints."""
    assert HELPER.running(), "not under valgrind"
    found: dict[str, object] = {"nothing": counted(lambda: None), "naive": naive()}
    record, envelope = SecureEncryption(KEY), ParallelEncryption(KEY)
    for size in (10, 5000):
        data = bytes(size)
        message = record.encrypt(data)
        found[f"commitment of a record of {size}"] = comparisons(
            message, len(message) - 32, 32, record.decrypt
        )
        found[f"tag of a record of {size}"] = comparisons(
            message, len(message) - 48, 16, record.decrypt
        )
    message = envelope.encrypt_large(data)
    head = len(message) - 16 - len(data) - 56
    found["commitment of a slot"] = comparisons(message, head - 32, 32, envelope.decrypt_large)
    found["tag of a slot"] = comparisons(message, head - 48, 16, envelope.decrypt_large)
    found["tag of a chunk"] = comparisons(message, len(message) - 16, 16, envelope.decrypt_large)
    stream = hazmat.cobblestone_256_encrypt(KEY, data)
    found["commitment of a stream"] = comparisons(
        stream, 24, 32, lambda copy: hazmat.cobblestone_256_decrypt(KEY, copy)
    )

    key = bytearray(KEY)
    sealed = hazmat.kc_xaes_256_gcm_encrypt(KEY, NONCE, data)
    made: list[bytes] = []
    secret(key, 0, 32)
    for name, work in {
        "key of a record": lambda: made.append(SecureEncryption(key).encrypt(data)),
        "key of records": lambda: SecureEncryption(key).encrypt_many([data] * 50),
        "key of packed records": lambda: SecureEncryption(key).encrypt_packed(data, 50),
        "key of an envelope": lambda: ParallelEncryption(key).encrypt_large(data),
        "key of a box": lambda: hazmat.kc_xaes_256_gcm_encrypt(key, NONCE, data),
        "key of a box that opens": lambda: hazmat.kc_xaes_256_gcm_decrypt(key, NONCE, sealed),
    }.items():
        found[name] = counted(work)
    # The marks have gone all the way, or the counts of 0 say nothing.
    tag = bytearray(made[0][-48:-32])
    found["key's marks at the tag"] = counted(
        lambda: HELPER.naive(address(tag), address(tag), ctypes.c_ulong(16))
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
