"""The two files beside a database: the sidecar, a hint, and the intent, a rotation's journal.

Both are JSON with a MAC under the store's root. Nothing in them is bound to a path or an inode: a
directory that was copied or moved opens.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

__all__ = ["Intent", "Mac", "Sidecar", "Unreadable"]

# Makes the MAC of a document: its kind, its bytes.
Mac = Callable[[str, bytes], bytes]

_MOST = 1 << 20
# All other fields are text.
_NUMBERS = {"pages", "rows", "began"}


class Unreadable(Exception):
    """A document is missing, damaged, edited or another store's; the text says which."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class Sidecar(NamedTuple):
    """What a database's sidecar says.

    Attributes:
        database_id: Id of the database, 32 hex digits.
        keyset: Name of its keyset, "" for a bare key.
        key_id: The key that the file is under.
        settings: Its cipher settings, as `CipherSettings.dump` writes them.
    """

    database_id: str
    keyset: str
    key_id: str
    settings: str

    def dump(self, mac: Mac) -> bytes:
        """Return the file's bytes."""
        return _dump("database sidecar", self._asdict(), mac)

    @classmethod
    def load(cls, path: str, mac: Mac) -> Self:
        """Read a sidecar.

        Raises:
            Unreadable: It isn't there, or doesn't authenticate.
        """
        return cls(**_load("database sidecar", path, cls._fields, mac))


class Intent(NamedTuple):
    """What a rotation is about to do.

    Attributes:
        rotation: Id of the rotation, 32 hex digits.
        database_id: Id of the database.
        keyset: Name of its keyset.
        old_id: The key that the file was under.
        new_id: The key that it is to be under.
        primary_id: The keyset's primary when it began, "" for none.
        wrapped: The new key as the store holds it, in hex.
        settings: The cipher settings.
        pages: Page count.
        rows: How many rows all tables have.
        figures: Keyed digest of schema and rows of each table.
        journal_mode: "wal", or another.
        began: When, in microseconds since 1970.
    """

    rotation: str
    database_id: str
    keyset: str
    old_id: str
    new_id: str
    primary_id: str
    wrapped: str
    settings: str
    pages: int
    rows: int
    figures: str
    journal_mode: str
    began: int

    def dump(self, mac: Mac) -> bytes:
        """Return the file's bytes."""
        return _dump("database intent", self._asdict(), mac)

    @classmethod
    def load(cls, path: str, mac: Mac) -> Self:
        """Read an intent.

        Raises:
            Unreadable: It isn't there, or doesn't authenticate.
        """
        return cls(**_load("database intent", path, cls._fields, mac))


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _dump(kind: str, values: dict[str, Any], mac: Mac) -> bytes:
    values = {"format": 1, **values}
    values["mac"] = mac(kind, _canonical(values)).hex()
    return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"


def _load(kind: str, path: str, fields: tuple[str, ...], mac: Mac) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST)
    except FileNotFoundError:
        raise Unreadable("it is not there", missing=True) from None
    except OSError as error:
        raise Unreadable(f"it can't be read: {error.strerror}") from None
    try:
        values: dict[str, Any] = json.loads(data)
        tag = bytes.fromhex(values.pop("mac"))
        expected = mac(kind, _canonical(values))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise Unreadable("it is damaged") from None
    if not hmac.compare_digest(tag, expected):
        raise Unreadable("it was changed, or is of another key store")
    if values.pop("format", None) != 1:
        raise Unreadable("it is of another release")
    if values.keys() != set(fields) or any(
        type(values[name]) is not (int if name in _NUMBERS else str) for name in fields
    ):
        raise Unreadable("it is damaged")
    return values
