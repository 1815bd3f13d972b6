"""What outlives a key: databases keyed with it, files found under it. They keep it alive."""

from __future__ import annotations

from strongroom import _native
from strongroom.errors import KeyStateError
from strongroom.keys import sql
from strongroom.keys.base import StoreBase, Uses
from strongroom.keys.database import Transaction
from strongroom.keys.keyset import Keyset
from strongroom.keys.rows import KeyRow, UseRow, sealed, verified
from strongroom.keys.states import DESTROYED

__all__ = ["RegisteredUses"]

_TEXT_BYTES = 1024


class RegisteredUses(StoreBase):
    """The methods of a `KeyStore` that note what needs a key."""

    def register_use(self, id: str, name: str) -> None:
        """Note that something (a database, an archive) needs a key, so that it isn't destroyed.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: It is destroyed.
        """
        if not isinstance(name, str) or not 1 <= len(name.encode()) <= _TEXT_BYTES:
            raise ValueError(f"the name of a use is 1 to {_TEXT_BYTES} bytes of text")
        row = sealed(self._root, UseRow(_use_id(id, name), id, name, self._now()))

        changed: list[bool] = []

        def plan(before: Keyset, transaction: Transaction) -> Keyset:
            key = before.key(id)
            if key.state == DESTROYED:
                raise KeyStateError(f"key {id} is destroyed", key_id=id, state=key.state)
            changed[:] = [not any(u.id == row.id for u in self._uses(id, transaction))]
            if changed[0]:
                transaction.execute(sql.INSERT_USE, row)
            return before

        self._change(
            self._keyset_name_of(id), plan, self._use_event("registered", id, name, changed)
        )

    def unregister_use(self, id: str, name: str) -> None:
        """Take back `register_use`; nothing if it was not registered."""
        changed: list[bool] = []

        def plan(before: Keyset, transaction: Transaction) -> Keyset:
            changed[:] = [any(u.name == name for u in self._uses(id, transaction))]
            transaction.execute(sql.DELETE_USE, (_use_id(id, name),))
            return before

        self._change(
            self._keyset_name_of(id), plan, self._use_event("unregistered", id, name, changed)
        )

    def uses_of(self, id: str) -> list[str]:
        """Return the names registered for a key, sorted."""
        self._keyset_name_of(id)
        return sorted(u.name for u in self._database.read(lambda t: self._uses(id, t)))

    def _refuse_used(self, row: KeyRow, transaction: Transaction) -> None:
        uses = self._uses(row.key_id, transaction)
        if uses:
            raise KeyStateError(
                f"key {row.key_id} is needed by {uses[0].name!r}"
                + (f" and {len(uses) - 1} more" if len(uses) > 1 else "")
                + ": re-encrypt that first, or destroy the key with force=True",
                key_id=row.key_id,
                state=row.state,
            )

    def _use_event(self, what: str, key_id: str, name: str, changed: list[bool]) -> Uses:
        # The name of a use may say more than an audit log should.
        named = _native.mac(self._root, "digest", name.encode())[:16].hex()
        fields = {"key_id": key_id, "object": named}
        return lambda _: [(f"keyset.{what}", fields)] if changed[0] else []

    def _uses(self, key_id: str, transaction: Transaction) -> list[UseRow]:
        # Dropping such a row is not noticed; who can drop it can drop the key as well.
        found = transaction.execute(sql.SELECT_USES, (key_id,))
        return [verified(self._root, UseRow, values) for values in found]


def _use_id(key_id: str, name: str) -> str:
    return _native.sha256(f"{key_id} {name}".encode()).hex()
