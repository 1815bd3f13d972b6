"""Records under one key, and secrets in locked memory.

What is protected and what can't be is in docs/memory.md.
"""

from __future__ import annotations

from strongroom._native import (
    MemoryLockedKey,
    MemoryStatus,
    SecureBuffer,
    SecureEncryption,
    generate_key,
    memory_status,
    reseed,
    set_memory_policy,
)

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes 10 ms to import.
    from types import TracebackType

    from typing_extensions import Buffer

__all__ = [
    "MemoryLockedKey",
    "MemoryStatus",
    "SecureBuffer",
    "SecureEncryption",
    "generate_key",
    "memory_status",
    "reseed",
    "secure_key_context",
    "set_memory_policy",
]


class secure_key_context:
    """Lends a key in locked memory for the time of a `with` statement.

    The statement's value is a read-only `memoryview` of 32 bytes in locked memory. They are wiped
    when it ends, by an exception too, and the view is released: its use raises ValueError.

    Args:
        key: Any buffer of 32 bytes, or a MemoryLockedKey. A bytearray is wiped as soon as the
            statement begins, since the key is in locked memory then. A MemoryLockedKey stays
            usable; what is wiped is the copy that the view shows.

    Raises:
        ValueError: `key` does not have 32 bytes.
        TypeError: `key` is no buffer.
        KeyStateError: `key` is a MemoryLockedKey that was destroyed.
        BufferError: At the end, when a slice or an array made of the view is alive. The bytes are
            wiped; their memory stays mapped until it goes. Where an exception ended the statement,
            that one is raised and this one noted in it.
    """

    __slots__ = ("_entered", "_key", "_lent")

    def __init__(self, key: Buffer | MemoryLockedKey) -> None:
        self._key: Buffer | MemoryLockedKey = key
        self._entered = False
        self._lent: MemoryLockedKey | None = None

    def __enter__(self) -> memoryview:
        """Copies the key into locked memory and lends a view of it."""
        if self._entered:
            raise ValueError("a secure_key_context is entered once")
        self._entered = True
        # The caller's object isn't held for longer than needed.
        key, self._key = self._key, b""
        # Through a view, so that it is a key of its own and not another handle of the caller's.
        self._lent = MemoryLockedKey(key.view() if isinstance(key, MemoryLockedKey) else key)
        return self._lent.view()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wipes the key and releases the view."""
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.__exit__(kind, error, traceback)
