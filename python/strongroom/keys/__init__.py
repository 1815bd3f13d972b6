"""Key stores: see `KeyStore` and docs/keys.md."""

from __future__ import annotations

from strongroom.keys.key import Key
from strongroom.keys.policy import Policy
from strongroom.keys.report import Due
from strongroom.keys.root import MasterInfo
from strongroom.keys.store import KeyStore

__all__ = ["Due", "Key", "KeyStore", "MasterInfo", "Policy"]
