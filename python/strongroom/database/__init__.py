"""SQLCipher databases whose keys come from a key store, and the rotation of those keys."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from strongroom.database.adopt import AdoptReport, adopt_database
    from strongroom.database.encrypted import EncryptedDatabase
    from strongroom.database.recovery import Recovery
    from strongroom.database.reports import (
        DatabaseStatus,
        Progress,
        RotationReport,
        VerifyReport,
    )
    from strongroom.database.rotation import DatabaseKeyRotation
    from strongroom.database.settings import CipherSettings

# Loaded at the first use: the child of a rotation, a module in here, needs none of them.
_HOMES = {
    "AdoptReport": "adopt",
    "CipherSettings": "settings",
    "DatabaseKeyRotation": "rotation",
    "DatabaseStatus": "reports",
    "EncryptedDatabase": "encrypted",
    "Progress": "reports",
    "Recovery": "recovery",
    "RotationReport": "reports",
    "VerifyReport": "reports",
    "adopt_database": "adopt",
}

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

# Hidden from type checkers, to which it would make every name a name of this module.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Loads the home of a public name."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
