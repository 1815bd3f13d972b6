"""A log of cryptographic operations that shows tampering.

`enable("audit.log")` is the one line that turns it on; `STRONGROOM_AUDIT=audit.log` in the
environment does it without one. docs/audit.md tells what it records and what it proves.
"""

from __future__ import annotations

import os
from typing import Any

from strongroom import _events, _native
from strongroom.audit.catalogue import EVENTS, Event
from strongroom.audit.logger import CryptoAuditLogger
from strongroom.audit.records import Record, matching, records
from strongroom.audit.signers import HSMSigner, KeysetSigner, Signer
from strongroom.audit.verification import (
    Verification,
    prove_consistency,
    prove_inclusion,
    verify,
)

__all__ = [
    "EVENTS",
    "CryptoAuditLogger",
    "Event",
    "HSMSigner",
    "KeysetSigner",
    "Record",
    "Signer",
    "Verification",
    "disable",
    "enable",
    "matching",
    "open_next",
    "prove_consistency",
    "prove_inclusion",
    "records",
    "verify",
]

_enabled: CryptoAuditLogger | None = None
_ours = False


def enable(log: str | os.PathLike[str] | CryptoAuditLogger, **options: Any) -> CryptoAuditLogger:  # noqa: ANN401
    """Record what the library does from now on, in this process and those that it forks.

    Args:
        log: The log's file, or a `CryptoAuditLogger`.
        options: For a file, those of `CryptoAuditLogger.open`.

    Returns:
        The log. One that was enabled before gets nothing more; it is closed if `enable` opened it.

    Raises:
        AuditError, AuditIntegrityError, UnsupportedVersionError: As `CryptoAuditLogger`.
    """
    global _enabled, _ours
    if isinstance(log, CryptoAuditLogger):
        new, ours = log, False
    else:
        new, ours = CryptoAuditLogger.open(log, **options), True
    if new is _enabled:
        return new
    disable()
    new._gather()
    _enabled, _ours = new, ours
    _events.set_sink(new)
    return new


def disable() -> None:
    """Record nothing more; seal what was counted. A log that `enable` opened is closed.

    Raises:
        AuditError: What was left could not be sealed.
    """
    global _enabled
    log, _enabled = _enabled, None
    _events.set_sink(None)
    if log is None or log._closed:
        return
    if _ours:
        log.close()
    else:
        log._stop_gathering()


def open_next(path: str | os.PathLike[str], **options: Any) -> str:  # noqa: ANN401
    """Begin a new log in the place of a damaged one, whose files all get other names.

    The new log has a key of its own and names the old one, its digest, and how far its checkpoint
    covered it.

    Args:
        path: The damaged log.
        options: Those of `CryptoAuditLogger.open`; a signer must be another than the old log's.

    Returns:
        The damaged log's new name.

    Raises:
        AuditError: The log is whole, or its files can't be renamed.
    """
    import hashlib

    from strongroom.audit.verification import describe_checkpoint, is_damaged
    from strongroom.errors import AuditError

    reason = is_damaged(path)
    if reason is None:
        raise AuditError(f"{os.fspath(path)} is not damaged: there is no need for another log")
    covered = describe_checkpoint(path)
    aside = os.fspath(_native.audit_set_aside(os.fspath(path)))
    digest = hashlib.sha256()
    if os.path.exists(aside):
        with open(aside, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    with CryptoAuditLogger.open(path, **options) as log:
        log.event(
            "log.continued",
            "success",
            {
                "previous_log": os.path.basename(aside),
                "sha256": digest.hexdigest(),
                "checkpoint": covered,
                "reason": reason,
            },
        )
    return aside
