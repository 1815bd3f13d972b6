"""SQLCipher databases whose keys come from a key store, and the rotation of those keys."""

from __future__ import annotations

from strongroom.database.adopt import AdoptReport, adopt_database
from strongroom.database.encrypted import EncryptedDatabase
from strongroom.database.recovery import Recovery
from strongroom.database.rotation import (
    DatabaseKeyRotation,
    DatabaseStatus,
    Progress,
    RotationReport,
    VerifyReport,
)
from strongroom.database.settings import CipherSettings

__all__ = [
    "AdoptReport",
    "CipherSettings",
    "DatabaseKeyRotation",
    "DatabaseStatus",
    "EncryptedDatabase",
    "Progress",
    "Recovery",
    "RotationReport",
    "VerifyReport",
    "adopt_database",
]
