"""Master keys whose bytes come into this process: mechanism 00 of kind 04."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from strongroom import _native
from strongroom.errors import MasterKeyError
from strongroom.masters import wrapped

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LINE_FORM", "LINE_LENGTH", "SoftwareMaster", "new_line", "parse_line"]

_PREFIX = b"strongroom-master-key-1 "
LINE_LENGTH = len(_PREFIX) + 64
"""Bytes of the line that a key is kept as, without its end."""
LINE_FORM = f"{_PREFIX.decode()!r} and 64 hex digits"
_DIGITS = b"0123456789abcdef"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)} | {
    digit: value for value, digit in enumerate(_DIGITS.upper())
}


class SoftwareMaster:
    """Wraps by KC-XAES-256-GCM under a key in locked memory."""

    mechanism = wrapped.SOFTWARE

    def __init__(self, key: _native.MemoryLockedKey) -> None:
        """Take the key."""
        self._key = key
        self._key_id = key.key_id
        self._process = _native.process_generation()

    @property
    def key_id(self) -> str:
        """The key's public name, 32 hex digits."""
        return self._key_id

    def wrap(self, key: _native.MemoryLockedKey | Buffer, context: str) -> bytes:
        """Wrap a key: KC-XAES-256-GCM, bound to the key id.

        Args:
            key: The key, a handle or 32 bytes.
            context: Its key id, 32 hex digits.

        Returns:
            The blob, 104 bytes.
        """
        if not isinstance(key, _native.MemoryLockedKey):
            # A view, for the constructor wipes a bytearray, and this one is the caller's.
            with memoryview(key) as view, _native.MemoryLockedKey(view.toreadonly()) as handle:
                return self.wrap(handle, context)
        return _native.seal_key(self._usable(), "master", key, self._associated_data(context))

    def unwrap(self, blob: bytes, context: str) -> _native.MemoryLockedKey:
        """Unwrap what `wrap` gave, under the same context.

        Raises:
            DecryptionError: The blob or the context was changed, or another key wrapped it.
        """
        return _native.open_key(self._usable(), "master", blob, self._associated_data(context))

    def _usable(self) -> _native.MemoryLockedKey:
        if self._process != _native.process_generation():
            raise MasterKeyError(
                "this master was opened before the process forked: open it again in the child"
            )
        return self._key

    def _associated_data(self, context: str) -> bytes:
        return wrapped.header(self.mechanism, self._key_id) + bytes.fromhex(context)

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError(
            f"a {type(self).__name__} can't be pickled or copied: open it again in the child"
        )


def new_line() -> bytearray:
    """Return a new key as the line that keeps it, with its end, for the caller to wipe."""
    with _native.MemoryLockedKey.generate() as key:
        material = key.get()
        try:
            return _line(material)
        finally:
            material[:] = bytes(len(material))


def _line(material: bytearray) -> bytearray:
    """Return the text of a key. By hand: bytes.hex() would leave a copy that can't be wiped."""
    line = bytearray(_PREFIX) + bytearray(65)
    at = len(_PREFIX)
    for byte in material:
        line[at] = _DIGITS[byte >> 4]
        line[at + 1] = _DIGITS[byte & 15]
        at += 2
    line[at] = ord("\n")
    return line


def parse_line(line: bytearray, length: int) -> bytearray | None:
    """Return the 32 bytes of the key that the first `length` bytes keep, or None."""
    end = bytes(line[LINE_LENGTH:length])
    if length < LINE_LENGTH or end not in (b"", b"\n") or not line.startswith(_PREFIX):
        return None
    material = bytearray(32)
    for index in range(32):
        at = len(_PREFIX) + 2 * index
        high, low = _VALUES.get(line[at]), _VALUES.get(line[at + 1])
        if high is None or low is None:
            material[:] = bytes(32)
            return None
        material[index] = high << 4 | low
    return material
