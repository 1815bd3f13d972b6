"""Exit codes, and the one place where an exception becomes a code and a sentence.

The numbers are a promise to scripts: docs/cli.md lists them, and they don't change.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from strongroom import errors

OK: Final = 0
OTHER: Final = 1
USAGE: Final = 2
SOME_FAILED: Final = 3  # of several items; each has said why
NOT_FOUND: Final = 10  # source, store, keyset or key
STORE_BUSY: Final = 11
MASTER_REFUSED: Final = 12  # wrong key file, wrong passphrase
NOT_AUTHENTIC: Final = 13
UNREACHABLE: Final = 14  # the provider of a master; the same call may work later
KEY_STATE: Final = 15
NOT_A_MESSAGE: Final = 16
UNSUPPORTED_VERSION: Final = 17
DATABASE_BUSY: Final = 18
ROTATION: Final = 19  # a rotation failed, or must be recovered
DATABASE: Final = 20  # damaged, no database, or under no key that is here
INTERRUPTED: Final = 130  # 128 + SIGINT; SIGHUP and SIGTERM: 129 and 143

# The first class that fits counts, so subclasses stand before their bases.
_CODES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (errors.UnsupportedVersionError, UNSUPPORTED_VERSION),
    (errors.FormatError, NOT_A_MESSAGE),
    (errors.DecryptionError, NOT_AUTHENTIC),
    (errors.AuditIntegrityError, NOT_AUTHENTIC),
    (errors.KeyNotFoundError, NOT_FOUND),
    (errors.KeyStateError, KEY_STATE),
    (errors.KeyStoreBusyError, STORE_BUSY),
    (errors.DatabaseBusyError, DATABASE_BUSY),
    (errors.DatabaseRecoveryError, ROTATION),
    (errors.RotationError, ROTATION),
    (errors.EncryptedDatabaseError, DATABASE),
    (FileNotFoundError, NOT_FOUND),
    (KeyboardInterrupt, INTERRUPTED),
)


class CliError(Exception):
    """A failure that the command line itself finds; its text is shown as it stands.

    Attributes:
        code: The exit code, one of this module's.
    """

    def __init__(self, message: str, code: int = OTHER) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: BaseException) -> int:
    """Return the exit code for an exception of the library, of the system or of this package."""
    if isinstance(error, CliError):
        return error.code
    if isinstance(error, (errors.MasterKeyError, errors.HSMError)):
        return UNREACHABLE if error.retryable else MASTER_REFUSED
    for cls, code in _CODES:
        if isinstance(error, cls):
            return code
    return OTHER


def sentence_of(error: BaseException) -> str:
    """Return one line that says to a person what went wrong, without the word "error".

    The text of an exception of this library is written to be shown. An OSError's own text shows
    paths by their repr and a number in brackets; here it becomes `PATH: No such file`.
    """
    from strongroom.cli.output import printable

    if isinstance(error, OSError) and error.strerror:
        text = printable(error.strerror)
        if error.filename is not None:
            return f"{printable(error.filename)}: {text}"
        return text
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    # What an argument of the library does, an option of the same name does here.
    text = re.sub(r"\b(force|allow_compromised)=True", _as_option, str(error))
    return printable(text) or type(error).__name__


def _as_option(argument: re.Match[str]) -> str:
    return "--" + argument[1].replace("_", "-")
