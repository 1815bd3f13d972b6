"""A log of cryptographic operations that shows tampering."""

from __future__ import annotations
