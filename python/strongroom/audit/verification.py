"""Verification and proofs: the core's, with words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from strongroom import _native
from strongroom.errors import AuditError, AuditIntegrityError, StrongroomError

__all__ = ["Verification", "prove_consistency", "prove_inclusion", "verify"]

Progress = Callable[[int, int | None], object]


class Verification(NamedTuple):
    """What a verification found in a log that is whole.

    Attributes:
        first: Number of the first record that is there: more than 0 where old files were pruned.
        size: Records since the first one ever.
        covered: Those of them that a checkpoint covers. Those behind it are in one chain, and
            whoever can write the log could replace them, or cut them off.
        torn: Bytes of a torn tail, which the next writer sets aside.
        bytes: What was read.
        files: How many files that was.
        seconds: How long it took.
        own_key: The public key was the caller's. Else it was the one beside the log, which shows
            accidents and strangers, not somebody who could write it and the log's key.
        unchecked: Checkpoints of the caller's that lie before the first record that is there.
        indexed: The index for proofs is up to date.
    """

    first: int
    size: int
    covered: int
    torn: int
    bytes: int
    files: int
    seconds: float
    own_key: bool
    unchecked: list[str]
    indexed: bool

    @property
    def uncovered(self) -> int:
        """Records that no checkpoint covers."""
        return self.size - self.covered

    def limits(self) -> list[str]:
        """Say what this verification can't know, a sentence each."""
        said = []
        if not self.own_key:
            said.append(
                "the key was found beside the log: this shows accidents and strangers, not "
                "somebody who could write the log's .key and .vkey (give yours)"
            )
        if self.uncovered:
            said.append(f"no checkpoint covers the last {self.uncovered} records")
        if self.first:
            said.append(f"records 0 to {self.first - 1} were pruned: their roots alone are known")
        if self.torn:
            said.append(f"the last {self.torn} bytes are torn, as a writer leaves them that dies")
        said += [f"checkpoint {name} is of pruned records" for name in self.unchecked]
        said.append(
            "a cut or an older copy, with its own older checkpoint, shows only against a "
            "checkpoint that was kept elsewhere"
        )
        return said


def verify(
    path: str | os.PathLike[str],
    *,
    vkey: str | None = None,
    checkpoints: Iterable[str | os.PathLike[str]] = (),
    index: bool = True,
    progress: Progress | None = None,
) -> Verification:
    """Verify a log: each record's form, number and chain, the signatures and the roots.

    Memory does not grow with the log. Writers may go on meanwhile.

    Args:
        path: The log's newest file; rotated ones are found beside it.
        vkey: The log's public key, as kept elsewhere; None takes the one beside the log.
        checkpoints: Files of checkpoints that were kept elsewhere: all must hold.
        index: Build or extend the index for proofs (`LOG.tiles`) on the way.
        progress: Called with the bytes done, at most 20 times a second.

    Returns:
        What was found.

    Raises:
        AuditIntegrityError: The log was changed; `sequence` is the first bad record, where that can
            be named.
        AuditError: The log or its checkpoint is missing, or can't be read.
        UnsupportedVersionError: A newer version of this package made it.
        FileNotFoundError: There is no such log, or checkpoint file.
    """
    known = []
    for name in checkpoints:
        with open(name, "rb") as file:
            known.append((os.fspath(name), file.read()))
    found = _native.audit_verify(os.fspath(path), vkey, known, index=index, progress=progress)
    damage = found.pop("damage")
    if damage is not None:
        sequence, text = damage
        raise AuditIntegrityError(f"{os.fspath(path)}: {text}", sequence=sequence)
    return Verification(own_key=vkey is not None, **found)


def prove_inclusion(
    path: str | os.PathLike[str],
    seq: int,
    *,
    vkey: str | None = None,
    progress: Progress | None = None,
) -> tuple[bytes, bytes]:
    """Prove that a record is in the log that the newest checkpoint covers.

    Args:
        path: The log's newest file.
        seq: The record's number.
        vkey: As for `verify`.
        progress: As for `verify`; an index that is missing is made first.

    Returns:
        The proof (c2sp.org/tlog-proof, with the checkpoint) and the record's line, whose SHA-256
        behind a byte 00 is the leaf.

    Raises:
        ValueError: No checkpoint covers that record yet.
        AuditIntegrityError, AuditError: As `verify`.
    """
    if seq < 0:
        raise ValueError("records are numbered from 0 on")
    return _native.audit_prove(os.fspath(path), seq, vkey, progress=progress)


def prove_consistency(
    path: str | os.PathLike[str],
    older: bytes,
    *,
    vkey: str | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Prove that the log of an older checkpoint is the beginning of the newest one's.

    Args:
        path: The log's newest file.
        older: The older checkpoint.
        vkey: As for `verify`.
        progress: As for `prove_inclusion`.

    Returns:
        "old" and its size, the hashes, an empty line, the newest checkpoint: what
        c2sp.org/tlog-witness asks for.

    Raises:
        AuditIntegrityError: It is not: the log was cut or rewritten.
        AuditError: As `verify`.
    """
    return _native.audit_prove_consistency(os.fspath(path), older, vkey, progress=progress)


def is_damaged(path: str | os.PathLike[str]) -> str | None:
    """Say what is wrong with a log; None for one that is whole."""
    try:
        verify(path, index=False)
    except (AuditError, StrongroomError) as error:
        return str(error)
    return None


def describe_checkpoint(path: str | os.PathLike[str]) -> str | None:
    """Return the text of a log's newest checkpoint, as it stands; None where there is none."""
    with contextlib.suppress(OSError), open(f"{os.fspath(path)}.checkpoint", "rb") as file:
        return file.read(4096).decode("utf-8", "replace")
    return None
