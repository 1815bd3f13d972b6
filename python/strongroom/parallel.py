"""Large values on all cores: envelopes under one key."""

from __future__ import annotations

from strongroom._native import (
    CHUNK_SIZE,
    ParallelEncryption,
    num_threads,
    set_num_threads,
)

__all__ = ["CHUNK_SIZE", "ParallelEncryption", "num_threads", "set_num_threads"]
