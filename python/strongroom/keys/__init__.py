"""Key stores: see `KeyStore` and docs/keys.md."""

from __future__ import annotations

from strongroom.keys.backup import BackupInfo
from strongroom.keys.key import Key
from strongroom.keys.looking import KeyReport
from strongroom.keys.policy import Policy
from strongroom.keys.report import Due
from strongroom.keys.restore import Restored
from strongroom.keys.root import MasterInfo
from strongroom.keys.store import KeyStore
from strongroom.keys.usage import UsageFigures

__all__ = [
    "BackupInfo",
    "Due",
    "Key",
    "KeyReport",
    "KeyStore",
    "MasterInfo",
    "Policy",
    "Restored",
    "UsageFigures",
]
