"""The bytes of a token's messages, kind 03, and of the keys that come out of one (FORMAT.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from strongroom import _native
from strongroom.errors import FormatError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MAGIC", "MAX_ASSOCIATED_DATA", "MAX_PLAINTEXT", "as_bytes", "key_of", "refuse"]

MAGIC = b"SR\x02\x03"
MAX_PLAINTEXT = 65_536
MAX_ASSOCIATED_DATA = 65_535
KEY_LEN = 32


def key_of(value: bytearray | None) -> _native.MemoryLockedKey | None:
    """Move what was unwrapped into locked memory; None: it has another length than a key."""
    if value is None:
        return None
    try:
        return _native.MemoryLockedKey(value) if len(value) == KEY_LEN else None
    finally:
        value[:] = bytes(len(value))


def as_bytes(data: Buffer, name: str) -> bytes:
    """Return a copy of an argument that is any buffer; TypeError names it where it is none."""
    try:
        # ctypes and python-pkcs11 take `bytes` alone.
        return bytes(memoryview(data))
    except TypeError:
        raise TypeError(f"{name} must be a bytes-like object, not {type(data).__name__}") from None


def refuse(message: bytes) -> NoReturn:
    """Raise what FORMAT.md says of bytes that are no message of kind 03."""
    _native.parse_message(message)
    raise FormatError(
        "not a token's message (kind 03)"
        if message[:4] != MAGIC
        else f"a token's message has 48 to {MAX_PLAINTEXT + 48:,} bytes, this one {len(message):,}"
    )
