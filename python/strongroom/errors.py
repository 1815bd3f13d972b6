"""The exceptions of Strongroom.

`TypeError`, `ValueError`, `BufferError` and `OSError` stay themselves. No message holds a key,
a PIN or plaintext. The Rust core raises these very classes.
"""

from __future__ import annotations

__all__ = [
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
]


class StrongroomError(Exception):
    """Base class of every exception that this package defines."""


class FormatError(StrongroomError, ValueError):
    """The bytes are not a Strongroom message, or not a whole one.

    Raised for what is visible without any key; the text says which bytes.
    """


class UnsupportedVersionError(FormatError):
    """The message begins as a Strongroom message, with a version or kind that is not known here."""


class DecryptionError(StrongroomError):
    """The message does not authenticate: wrong key, wrong associated data, or damaged bytes.

    Which of them it was is not told, on purpose; the text is always the same.

    Attributes:
        index: In a batch, the position of the first record that failed; else None.
    """

    TEXT = "decryption failed: wrong key, wrong associated data, or damaged message"

    def __init__(self, message: str = TEXT, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class LimitError(StrongroomError, ValueError):
    """A limit of the format would be passed, by the input's length or by the use of a key."""


class KeyNotFoundError(StrongroomError, KeyError):
    """No key of that id (or no keyset of that name) is here.

    The key may be retired or destroyed, belong to another keyset, or never have existed.

    Attributes:
        key_id: The id that was looked for, 32 hex digits, or None where a keyset was looked for.
    """

    def __init__(self, message: str, *, key_id: str | None = None) -> None:
        super().__init__(message)
        self.key_id = key_id

    def __str__(self) -> str:
        """The message as it is."""
        # KeyError's own __str__ is the repr of its argument, in quotes.
        return str(self.args[0])


class KeyStateError(StrongroomError):
    """The state of the key does not allow what was asked.

    Attributes:
        key_id: The key's id, 32 hex digits, or None where a keyset has no key to name.
        state: The key's state, as in `Key.state`, or None.
    """

    def __init__(
        self, message: str, *, key_id: str | None = None, state: str | None = None
    ) -> None:
        super().__init__(message)
        self.key_id = key_id
        self.state = state


class KeyStoreError(StrongroomError):
    """The key store can't be used: closed, damaged, of another version, or out of reach."""


class KeyStoreBusyError(KeyStoreError):
    """Another process held the key store's lock for longer than the busy timeout. Try again."""


class MasterKeyError(StrongroomError):
    """A master key could not wrap or unwrap.

    Attributes:
        retryable: Whether the same call may succeed later (a time-out, say), or not (a wrong key).
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class HSMError(StrongroomError):
    """A hardware security module, or its PKCS#11 library, refused or failed.

    Attributes:
        code: The CKR value that PKCS#11 gave, or None where it was not asked.
        retryable: Whether the same call may work later without anybody doing anything.
    """

    def __init__(self, message: str, *, code: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class RotationError(StrongroomError):
    """A rotation did not end.

    Attributes:
        journal: Path of the journal from which it is recovered, or None where nothing was begun.
    """

    def __init__(self, message: str, *, journal: str | None = None) -> None:
        super().__init__(message)
        self.journal = journal


class EncryptedDatabaseError(StrongroomError):
    """An encrypted database can't be opened, adopted or rotated; the text says why."""


class DatabaseBusyError(EncryptedDatabaseError):
    """Another connection or another process holds the database. Nothing was changed: try again."""


class DatabaseKeyError(EncryptedDatabaseError):
    """No key that is here opens the database: another key store's, another keyset's."""


class DatabaseCorruptError(EncryptedDatabaseError):
    """The right key is here and the file is damaged: restore it from a backup."""


class NotADatabaseError(EncryptedDatabaseError):
    """The file is no encrypted database: plain SQLite, empty, or something else."""


class DatabaseRecoveryError(EncryptedDatabaseError):
    """A rotation died, and what it left must be recovered by someone who may write.

    Attributes:
        journal: Path of the rotation's intent.
    """

    def __init__(self, message: str, *, journal: str | None = None) -> None:
        super().__init__(message)
        self.journal = journal


class KeyRotatedError(EncryptedDatabaseError):
    """The database's key was rotated while this connection was open: reconnect.

    Nothing that was committed is lost. It is a DB-API OperationalError as well.
    """


class AuditError(StrongroomError):
    """The audit log could not be written or read."""


class AuditIntegrityError(AuditError):
    """The audit log was changed.

    Attributes:
        sequence: The number of the first bad record, or None where it can't be named.
    """

    def __init__(self, message: str, *, sequence: int | None = None) -> None:
        super().__init__(message)
        self.sequence = sequence
