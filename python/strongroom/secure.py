"""Records under one key, and keys in locked memory."""

from __future__ import annotations

from strongroom._native import MemoryLockedKey, SecureEncryption, generate_key, reseed

__all__ = ["MemoryLockedKey", "SecureEncryption", "generate_key", "reseed"]
