"""What a rotation and a look at a database give back."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DatabaseStatus", "Progress", "RotationReport", "VerifyReport"]


class Progress(NamedTuple):
    """How far a rotation is.

    Attributes:
        stage: "backup", "rekey" or "proof".
        done: Pages rewritten.
        total: Pages of the database.
        rate: Pages a second, 0.0 while it isn't known.
        seconds_left: Of the rewriting; None while it isn't known.
    """

    stage: str
    done: int
    total: int
    rate: float
    seconds_left: float | None


class RotationReport(NamedTuple):
    """What a rotation did.

    Attributes:
        path: The database, links resolved.
        keyset: Its keyset.
        old_key_id: The key that it was under.
        new_key_id: The key that it is under.
        pages: Page count.
        page_size: Bytes a page.
        rows: Rows of all tables.
        journal_mode: "wal", "delete", ...
        seconds: From the lock to the end.
        exclusive_seconds: How long no other connection could read.
        steps: Seconds each step took, by its number.
        recovered: What was recovered before: see `Recovery.found`.
        backup: Path of the backup if it was kept, else None.
    """

    path: str
    keyset: str
    old_key_id: str
    new_key_id: str
    pages: int
    page_size: int
    rows: int
    journal_mode: str
    seconds: float
    exclusive_seconds: float
    steps: dict[int, float]
    recovered: str
    backup: str | None


class DatabaseStatus(NamedTuple):
    """What is known of a database without waiting for anyone.

    Attributes:
        path: The database, links resolved.
        keyset: Its keyset.
        database_id: Its id, "" while it is bound to no keyset.
        state: "ok"; "recover": a rotation died; "rotating": one is under way; "read-only": it is
            under a deactivated key; "refused": see `detail`.
        key_id: The key that its sidecar names, or that opened it.
        key_state: That key's state.
        since: When that key came to be, in seconds since 1970; 0.0 if it isn't known.
        due: Whether the keyset's policy asks for a rotation.
        size: Bytes, with the write-ahead log.
        needed: Free bytes that a rotation needs.
        free: Free bytes that are there.
        sidecar: Whether the sidecar is there and right.
        backups: Backups that lie beside it.
        detail: What is wrong, in a sentence, or "".
    """

    path: str
    keyset: str
    database_id: str
    state: str
    key_id: str
    key_state: str
    since: float
    due: bool
    size: int
    needed: int
    free: int
    sidecar: bool
    backups: list[str]
    detail: str


class VerifyReport(NamedTuple):
    """What was verified.

    Attributes:
        path: The database, links resolved.
        key_id: The key that opens it.
        pages: Pages whose HMAC and structure are right.
        tables: How many tables it has.
        refused: How many other keys of the keyset were tried, and did not open it.
    """

    path: str
    key_id: str
    pages: int
    tables: int
    refused: int
