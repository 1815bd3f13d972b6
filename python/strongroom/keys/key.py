"""The handle of a key: what is known of it, never its material."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NoReturn

from strongroom.keys.rows import KeyRow

__all__ = ["Key", "moment"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(microseconds: int) -> datetime:
    """Return the time of a column, microseconds since 1970, in UTC.

    A time outside the years 1 to 9999, from a clock set wrong, is given as the nearest inside:
    nothing but its showing depends on it.
    """
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return (datetime.max if microseconds > 0 else datetime.min).replace(tzinfo=UTC)


class Key:
    """A key of a key store, as it was when this handle was made.

    It holds no material and does not change: ask the store again for the key's present state.
    Two handles are equal if they name the same key.

    Attributes:
        id: Key id, 32 lower-case hex digits.
        keyset: Name of the keyset.
        purpose: The keyset's purpose: "data", "database", "names" or "audit".
        state: "pre-active", "active" (the primary), "suspended", "deactivated", "compromised" or
            "destroyed".
        generation: The key's number in its keyset: 1 for the first, one more for each next.
        created: When it was made, in UTC.
        since: When it came into its state, in UTC.
        activated: When it became the primary, or None.
        deactivated: When it last ceased to be the primary, or None.
        destroy_after: When `destroy_due` destroys it, or None.
        reason: What was said at the last change of state, or "".
    """

    __slots__ = ("_row", "purpose")

    _row: KeyRow
    purpose: str

    def __init__(self) -> None:
        raise TypeError("a Key comes from a KeyStore: get_key, get_current_key, list_keys")

    @classmethod
    def _of(cls, row: KeyRow, purpose: str) -> Key:
        key = object.__new__(cls)
        object.__setattr__(key, "_row", row)
        object.__setattr__(key, "purpose", purpose)
        return key

    @property
    def id(self) -> str:
        """See the class."""
        return self._row.key_id

    @property
    def keyset(self) -> str:
        """See the class."""
        return self._row.keyset

    @property
    def state(self) -> str:
        """See the class."""
        return self._row.state

    @property
    def generation(self) -> int:
        """See the class."""
        return self._row.version

    @property
    def created(self) -> datetime:
        """See the class."""
        return moment(self._row.created)

    @property
    def since(self) -> datetime:
        """See the class."""
        return moment(self._row.since)

    @property
    def activated(self) -> datetime | None:
        """See the class."""
        return moment(self._row.activated) if self._row.activated else None

    @property
    def deactivated(self) -> datetime | None:
        """See the class."""
        return moment(self._row.deactivated) if self._row.deactivated else None

    @property
    def destroy_after(self) -> datetime | None:
        """See the class."""
        return moment(self._row.destroy_after) if self._row.destroy_after else None

    @property
    def reason(self) -> str:
        """See the class."""
        return self._row.reason

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: a handle doesn't change."""
        raise AttributeError("a Key is read-only: change it through its KeyStore")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: a handle doesn't change."""
        raise AttributeError("a Key is read-only: change it through its KeyStore")

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<Key {self.id} {self.state}>"

    def __eq__(self, other: object) -> bool:
        """Tell whether both name the same key."""
        return self.id == other.id if isinstance(other, Key) else NotImplemented

    def __hash__(self) -> int:
        """Hash the key's id."""
        return hash(self.id)

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError(
            "a Key can't be pickled or copied: send its id, and open the store again over there"
        )
