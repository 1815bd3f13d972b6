"""Application-layer encryption at the speed of the memory bus, with the whole life of a key.

Everything public is importable from here; what is heavy loads at its first use (PEP 562).
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes 10 ms to import.
    from strongroom import audit, bulk, database, errors, files, hazmat, hsm, keys, masters
    from strongroom._inspect import MessageInfo, SlotInfo, inspect
    from strongroom._native import __version__
    from strongroom.audit import CryptoAuditLogger
    from strongroom.database import CipherSettings, DatabaseKeyRotation, EncryptedDatabase
    from strongroom.envelope import EnvelopeEncryption
    from strongroom.errors import (
        AuditError,
        AuditIntegrityError,
        DatabaseBusyError,
        DatabaseCorruptError,
        DatabaseKeyError,
        DatabaseRecoveryError,
        DecryptionError,
        EncryptedDatabaseError,
        FormatError,
        HSMError,
        KeyNotFoundError,
        KeyRotatedError,
        KeyStateError,
        KeyStoreBusyError,
        KeyStoreError,
        LimitError,
        MasterKeyError,
        NotADatabaseError,
        RotationError,
        StrongroomError,
        UnsupportedVersionError,
    )
    from strongroom.files import (
        decrypt_file,
        encrypt_file,
        open,
        rewrap_file,
        verify_file,
    )
    from strongroom.hsm import HSMKeyManager
    from strongroom.keys import Key, KeyStore, Policy
    from strongroom.masters import (
        AwsKmsMasterKey,
        FileMasterKey,
        KeyringMasterKey,
        MasterKeyProvider,
        PassphraseMasterKey,
        Pkcs11MasterKey,
        VaultTransitMasterKey,
    )
    from strongroom.parallel import (
        CHUNK_SIZE,
        ParallelEncryption,
        num_threads,
        set_num_threads,
    )
    from strongroom.secure import (
        MemoryLockedKey,
        MemoryStatus,
        SecureBuffer,
        SecureEncryption,
        generate_key,
        memory_status,
        reseed,
        secure_key_context,
        set_memory_policy,
    )
    from strongroom.versioned import EncryptedPayload, VersionedEncryption

_HOMES = {
    # The extension refuses a wrong STRONGROOM_ENGINE when it loads; the command line is there by
    # then, and says so in a sentence.
    "__version__": "strongroom._native",
    "CryptoAuditLogger": "strongroom.audit",
    "audit": "strongroom.audit",
    "bulk": "strongroom.bulk",
    "database": "strongroom.database",
    "errors": "strongroom.errors",
    "files": "strongroom.files",
    "hazmat": "strongroom.hazmat",
    "hsm": "strongroom.hsm",
    "HSMKeyManager": "strongroom.hsm",
    "keys": "strongroom.keys",
    "masters": "strongroom.masters",
    **dict.fromkeys(
        ("CipherSettings", "DatabaseKeyRotation", "EncryptedDatabase"), "strongroom.database"
    ),
    **dict.fromkeys(("MessageInfo", "SlotInfo", "inspect"), "strongroom._inspect"),
    "EnvelopeEncryption": "strongroom.envelope",
    **dict.fromkeys(
        (
            "AuditError",
            "AuditIntegrityError",
            "DatabaseBusyError",
            "DatabaseCorruptError",
            "DatabaseKeyError",
            "DatabaseRecoveryError",
            "DecryptionError",
            "EncryptedDatabaseError",
            "FormatError",
            "HSMError",
            "KeyNotFoundError",
            "KeyRotatedError",
            "KeyStateError",
            "KeyStoreBusyError",
            "KeyStoreError",
            "LimitError",
            "MasterKeyError",
            "NotADatabaseError",
            "RotationError",
            "StrongroomError",
            "UnsupportedVersionError",
        ),
        "strongroom.errors",
    ),
    **dict.fromkeys(
        ("decrypt_file", "encrypt_file", "open", "rewrap_file", "verify_file"),
        "strongroom.files",
    ),
    **dict.fromkeys(("Key", "KeyStore", "Policy"), "strongroom.keys"),
    **dict.fromkeys(
        (
            "AwsKmsMasterKey",
            "FileMasterKey",
            "KeyringMasterKey",
            "MasterKeyProvider",
            "PassphraseMasterKey",
            "Pkcs11MasterKey",
            "VaultTransitMasterKey",
        ),
        "strongroom.masters",
    ),
    **dict.fromkeys(
        ("CHUNK_SIZE", "ParallelEncryption", "num_threads", "set_num_threads"),
        "strongroom.parallel",
    ),
    **dict.fromkeys(
        (
            "MemoryLockedKey",
            "MemoryStatus",
            "SecureBuffer",
            "SecureEncryption",
            "generate_key",
            "memory_status",
            "reseed",
            "secure_key_context",
            "set_memory_policy",
        ),
        "strongroom.secure",
    ),
    **dict.fromkeys(("EncryptedPayload", "VersionedEncryption"), "strongroom.versioned"),
}

__all__ = [
    "CHUNK_SIZE",
    "AuditError",
    "AuditIntegrityError",
    "AwsKmsMasterKey",
    "CipherSettings",
    "CryptoAuditLogger",
    "DatabaseBusyError",
    "DatabaseCorruptError",
    "DatabaseKeyError",
    "DatabaseKeyRotation",
    "DatabaseRecoveryError",
    "DecryptionError",
    "EncryptedDatabase",
    "EncryptedDatabaseError",
    "EncryptedPayload",
    "EnvelopeEncryption",
    "FileMasterKey",
    "FormatError",
    "HSMError",
    "HSMKeyManager",
    "Key",
    "KeyNotFoundError",
    "KeyRotatedError",
    "KeyStateError",
    "KeyStore",
    "KeyStoreBusyError",
    "KeyStoreError",
    "KeyringMasterKey",
    "LimitError",
    "MasterKeyError",
    "MasterKeyProvider",
    "MemoryLockedKey",
    "MemoryStatus",
    "MessageInfo",
    "NotADatabaseError",
    "ParallelEncryption",
    "PassphraseMasterKey",
    "Pkcs11MasterKey",
    "Policy",
    "RotationError",
    "SecureBuffer",
    "SecureEncryption",
    "SlotInfo",
    "StrongroomError",
    "UnsupportedVersionError",
    "VaultTransitMasterKey",
    "VersionedEncryption",
    "__version__",
    "audit",
    "bulk",
    "database",
    "decrypt_file",
    "encrypt_file",
    "errors",
    "files",
    "generate_key",
    "hazmat",
    "hsm",
    "inspect",
    "keys",
    "masters",
    "memory_status",
    "num_threads",
    "open",
    "reseed",
    "rewrap_file",
    "secure_key_context",
    "set_memory_policy",
    "set_num_threads",
    "verify_file",
]


# What says nothing to a log, or is the log itself.
_WITHOUT_LOG = frozenset(("__version__", "errors", "audit", "CryptoAuditLogger"))


# Hidden from type checkers, to which it would make every name a name of this module.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Loads the home of a public name."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name not in _WITHOUT_LOG:
            from strongroom import _events

            # STRONGROOM_AUDIT in the environment: before the first use of anything.
            _events.decide()
        module = importlib.import_module(home)
        value = module if home == f"{__name__}.{name}" else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
