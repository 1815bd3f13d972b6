"""Where the keys of a database come from: a keyset of a store, or one bare key."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from strongroom import _native
from strongroom.errors import KeyStateError
from strongroom.keys import KeyStore
from strongroom.keys.bound import by_age
from strongroom.keys.keyset import Keyset
from strongroom.keys.states import ACTIVE

__all__ = ["BareSource", "Candidate", "Source", "StoreSource", "source_of"]


class Candidate(NamedTuple):
    """A key that may be the file's."""

    key_id: str
    state: str


class Source(Protocol):
    """What `EncryptedDatabase` asks of where the keys are."""

    keyset: str

    def refresh(self) -> None:
        """Forget what was read of the store."""

    def mac(self, kind: str, data: bytes) -> bytes:
        """Return the MAC of a document beside the database."""

    def candidates(self, first: str) -> list[Candidate]:
        """Return the keys to try: `first`, the primary, then newest first."""

    def secret(self, key_id: str) -> bytearray:
        """Return a key's raw key, to be wiped."""

    def state_of(self, key_id: str) -> str | None:
        """Return a key's state, None if it isn't here."""

    @property
    def primary_id(self) -> str:
        """The primary, "" for none."""

    @property
    def database_id(self) -> str:
        """The database that the keys belong to, "" for none yet."""

    @property
    def settings(self) -> str:
        """That database's cipher settings, "" where they are not known here."""

    def bind(self, database_id: str, settings: str) -> None:
        """Make the keys this database's."""


class StoreSource:
    """A keyset of a key store."""

    def __init__(self, store: KeyStore, keyset: str) -> None:
        self.store = store
        self.keyset = keyset

    def rows(self) -> Keyset:
        """Return the keyset, as it was at most the store's cache time ago."""
        return self.store._database_keyset(self.keyset, cached=True)

    def refresh(self) -> None:
        """See `Source`."""
        self.store._database_keyset(self.keyset)

    def mac(self, kind: str, data: bytes) -> bytes:
        """See `Source`."""
        return self.store._document_mac(kind, [data])

    def candidates(self, first: str) -> list[Candidate]:
        """See `Source`."""
        rows = sorted(by_age(self.rows()), key=lambda row: row.key_id != first)
        return [Candidate(row.key_id, row.state) for row in rows]

    def secret(self, key_id: str) -> bytearray:
        """See `Source`."""
        return self.store._database_secret(self.rows(), key_id)

    def state_of(self, key_id: str) -> str | None:
        """See `Source`."""
        row = self.rows().keys.get(key_id)
        return row.state if row else None

    @property
    def primary_id(self) -> str:
        """See `Source`."""
        return self.rows().head.primary_id

    @property
    def database_id(self) -> str:
        """See `Source`."""
        return self.rows().head.database_id

    @property
    def settings(self) -> str:
        """See `Source`."""
        return self.rows().head.database_settings

    def bind(self, database_id: str, settings: str) -> None:
        """See `Source`."""
        self.store._bind_database(self.keyset, database_id, settings)

    def usable(self) -> None:
        """Look that there is a primary for a new database.

        Raises:
            KeyStateError: There is none.
        """
        if not self.primary_id:
            raise KeyStateError(f"keyset {self.keyset!r} has no active key for a new database")


class BareSource:
    """One key outside any store: nothing to rotate to."""

    keyset = ""
    database_id = ""
    settings = ""

    def __init__(self, key: _native.MemoryLockedKey) -> None:
        self._key = key
        self.primary_id = key.key_id

    def refresh(self) -> None:
        """See `Source`."""

    def mac(self, kind: str, data: bytes) -> bytes:
        """See `Source`."""
        return _native.mac(self._key, "store mac", kind.encode() + b"\0" + data)[:32]

    def candidates(self, first: str) -> list[Candidate]:
        """See `Source`."""
        return [Candidate(self.primary_id, ACTIVE)]

    def secret(self, key_id: str) -> bytearray:
        """See `Source`."""
        return _native.derive(self._key, "database")

    def state_of(self, key_id: str) -> str | None:
        """See `Source`."""
        return ACTIVE if key_id == self.primary_id else None

    def bind(self, database_id: str, settings: str) -> None:
        """See `Source`."""


def source_of(key_or_key_store: object, keyset: str) -> StoreSource | BareSource:
    """Return where a caller's keys come from.

    Raises:
        TypeError: It is neither a key nor a store.
        ValueError: A bare key has not 32 bytes.
    """
    if isinstance(key_or_key_store, KeyStore):
        return StoreSource(key_or_key_store, keyset)
    # A copy of our own: the caller may destroy his.
    return BareSource(_native.MemoryLockedKey(key_or_key_store))  # type: ignore[arg-type]
