"""Keysets of the purpose "database": each belongs to one database, whose file is under its primary.

A rotation adds a pre-active key of its own, rewrites the file, and makes that key the primary; or
it takes the key away again. Who may do which is settled here, in one transaction each;
`strongroom.database` does the rest.
"""

from __future__ import annotations

from strongroom import _native
from strongroom.errors import KeyStateError
from strongroom.keys.base import StoreBase
from strongroom.keys.database import Transaction
from strongroom.keys.keyset import Keyset
from strongroom.keys.rows import KeyRow, row_mac
from strongroom.keys.states import DESTROYED, PRE_ACTIVE, STATES

__all__ = ["BoundKeysets", "by_age"]


class BoundKeysets(StoreBase):
    """The part of a `KeyStore` that `strongroom.database` alone uses."""

    def _database_keyset(self, name: str, *, cached: bool = False) -> Keyset:
        """Read a keyset of the purpose "database", anew or as it was within the cache time.

        Raises:
            KeyNotFoundError: There is no such keyset.
            KeyStateError: Its purpose is another one, or it was destroyed.
        """
        keyset = self._current(name) if cached else self._load(name)
        _for_database(keyset)
        return keyset

    def _database_secret(self, keyset: Keyset, key_id: str) -> bytearray:
        """Return the raw key, 32 bytes, that a key of a keyset gives a database; to be wiped.

        Suspended keys too: that one can't be used is to be said only where it is the right one.

        Raises:
            KeyNotFoundError: The keyset has no such key.
            KeyStateError: It is destroyed.
        """
        row = keyset.key(key_id)
        if not STATES[row.state].has_material:
            raise KeyStateError(f"key {key_id} is {row.state}", key_id=key_id, state=row.state)
        return self._wrapped_secret(key_id, keyset.wrapped[key_id])

    def _wrapped_secret(self, key_id: str, wrapped: bytes) -> bytearray:
        """Return the raw key, 32 bytes, of a key as the store wraps it; to be wiped.

        Raises:
            KeyStoreError: It is no key that this store wrapped.
        """
        with self._material._open(key_id, wrapped) as key:
            return _native.derive(key, "database")

    def _figures_key(self, rotation: str) -> bytearray:
        """Return the key, 32 bytes, of the digest that a rotation keeps of schema and rows."""
        self._check()
        return bytearray(_native.mac(self._root, "digest", f"database {rotation}".encode())[:32])

    def _bind_database(self, name: str, database_id: str, settings: str) -> Keyset:
        """Make a keyset the one of this database; done again, it does nothing.

        Raises:
            KeyStateError: It belongs to another database.
        """

        def plan(before: Keyset, _: Transaction) -> Keyset:
            _for_database(before)
            if before.head.database_id == database_id:
                return before
            if before.head.database_id:
                raise _others(name)
            return before.bound(database_id, settings)

        self._check_writable()
        return self._change(name, plan)

    def _add_rotation_key(
        self, name: str, database_id: str, rotation: str, old_id: str, primary_id: str
    ) -> Keyset:
        """Add a pre-active key that belongs to one rotation of one database, and return all.

        Args:
            name: The keyset.
            database_id: The database.
            rotation: The rotation's id.
            old_id: The key that the file is under.
            primary_id: The keyset's primary as the caller knows it, "" for none.

        Raises:
            KeyStateError: It belongs to another database, or was changed meanwhile.
        """
        self._check()
        self._check_writable()
        new_id, wrapped = self._material.wrap_new()

        def plan(before: Keyset, _: Transaction) -> Keyset:
            _for_database(before)
            if before.head.database_id != database_id:
                raise _others(name)
            if before.head.primary_id != primary_id or before.key(old_id).state == DESTROYED:
                raise KeyStateError(
                    f"the keys of keyset {name!r} were changed by another process: try again"
                )
            return before.with_key(new_id, wrapped, self._now(), rotation)

        return self._change(name, plan)

    def _wrapped_rotation_key(self, name: str, new_id: str) -> bytes:
        """Return the wrapped bytes of a rotation's key, read anew.

        Raises:
            KeyStateError: It was destroyed meanwhile.
        """
        keyset = self._load(name)
        if keyset.key(new_id).state == DESTROYED:
            raise _destroyed(new_id)
        return keyset.wrapped[new_id]

    def _restore_rotation_key(
        self, name: str, rotation: str, new_id: str, wrapped: bytes
    ) -> Keyset:
        """Put a rotation's key back into a store that was restored from before it was made.

        Raises:
            KeyStoreError: It is no key that this store wrapped.
        """
        self._check()
        self._material._open(new_id, wrapped).destroy()

        def plan(before: Keyset, _: Transaction) -> Keyset:
            _for_database(before)
            if new_id in before.keys:
                return before
            return before.with_key(new_id, wrapped, self._now(), rotation)

        return self._change(name, plan)

    def _promote_rotation_key(
        self, name: str, rotation: str, new_id: str, primary_id: str | None
    ) -> Keyset:
        """Make a rotation's key the primary and deactivate the old one; again, it does nothing.

        Args:
            name: The keyset.
            rotation: The rotation that made the key.
            new_id: The key.
            primary_id: Only if this still is the primary, "" for none; None for any.

        Raises:
            KeyStateError: The primary is another one by now, or the key is not pre-active.
        """

        def plan(before: Keyset, _: Transaction) -> Keyset:
            if before.head.primary_id == new_id:
                return before
            # The old primary may have been suspended or compromised meanwhile: then there is none,
            # and the file is under the new key already.
            if primary_id is not None and before.head.primary_id not in (primary_id, ""):
                raise KeyStateError(
                    f"keyset {name!r} got another primary while its database was rotated",
                    key_id=before.head.primary_id,
                )
            if before.key(new_id).state == DESTROYED:
                raise _destroyed(new_id)
            return before.activated(new_id, self._now(), "database rotated", rotation=rotation)

        return self._change(name, plan)

    def _settle_rotation_key(
        self, name: str, rotation: str, new_id: str, primary_id: str
    ) -> Keyset:
        """Give the key that a dead rotation left its file under the state that fits it.

        It becomes the primary, as `_promote_rotation_key` says. Where a copy of the database was
        rotated meanwhile, with the same store, the primary is that one's: this key then is
        deactivated, or what it was made since, and its file is read-only until it is rotated.

        Args:
            name: The keyset.
            rotation: The rotation that made the key.
            new_id: The key.
            primary_id: The primary when the rotation began, "" for none.

        Raises:
            KeyStateError: It was destroyed meanwhile.
        """

        def plan(before: Keyset, _: Transaction) -> Keyset:
            row = before.key(new_id)
            if row.state == DESTROYED:
                raise _destroyed(new_id)
            if row.state != PRE_ACTIVE:
                return before
            now, reason = self._now(), "database rotated"
            if before.head.primary_id in (primary_id, ""):
                return before.activated(new_id, now, reason, rotation=rotation)
            return before.superseded(new_id, now, reason, rotation=rotation)

        return self._change(name, plan)

    def _discard_rotation_key(self, name: str, rotation: str, new_id: str) -> Keyset:
        """Destroy a rotation's pre-active key, which is under no file; again, it does nothing.

        Raises:
            KeyStateError: It is not that rotation's, or no longer pre-active.
        """

        def plan(before: Keyset, _: Transaction) -> Keyset:
            row = before.keys.get(new_id)
            if row is None or row.state == DESTROYED:
                return before
            if row.rotation != rotation or row.state != PRE_ACTIVE:
                raise KeyStateError(
                    f"key {new_id} is {row.state}, so no rotation may discard it",
                    key_id=new_id,
                    state=row.state,
                )
            return before.destroyed(new_id, self._now(), "database rotation undone")

        keyset = self._change(name, plan)
        self._material.forget(name)
        return keyset

    def _document_mac(self, kind: str, values: list[int | str | bytes]) -> bytes:
        """Return a MAC, 32 bytes, under the root for a file beside a database.

        `kind` stands where a row's MAC has the name of its table: no table is named so.
        """
        self._check()
        return row_mac(self._root, kind, values)


def _for_database(keyset: Keyset) -> None:
    if keyset.head.purpose != "database":
        raise KeyStateError(
            f"keyset {keyset.head.name!r} has the purpose {keyset.head.purpose!r}: make one with "
            'create_keyset(name, purpose="database")'
        )
    if keyset.head.destroyed:
        raise KeyStateError(f"keyset {keyset.head.name!r} was destroyed")


def _others(name: str) -> KeyStateError:
    return KeyStateError(
        f"keyset {name!r} belongs to another database: a keyset is one database's, so make "
        f'another one, create_keyset("{name}/NAME", purpose="database"), and name it with keyset='
    )


def _destroyed(key_id: str) -> KeyStateError:
    return KeyStateError(
        f"key {key_id} was destroyed while its rotation was at work: somebody forced that, or a "
        "copy of the database was recovered with the same key store",
        key_id=key_id,
        state=DESTROYED,
    )


def by_age(keyset: Keyset) -> list[KeyRow]:
    """Return the keys that have material, the primary first, then newest first."""
    rows = [row for row in keyset.keys.values() if STATES[row.state].has_material]
    return sorted(rows, key=lambda row: (row.key_id != keyset.head.primary_id, -row.version))
