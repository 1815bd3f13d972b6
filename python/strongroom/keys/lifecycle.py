"""What happens to keys: made, activated, rotated, suspended, retired, destroyed, and needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from strongroom import _native
from strongroom.errors import KeyStateError
from strongroom.keys import policy as policies
from strongroom.keys import sql
from strongroom.keys.base import Plan, StoreBase, Uses
from strongroom.keys.database import Transaction
from strongroom.keys.key import Key, moment
from strongroom.keys.keyset import DEFAULT_KEYSET, Keyset
from strongroom.keys.rows import KeyRow, UseRow, sealed, verified
from strongroom.keys.states import DESTROYED, PRE_ACTIVE

__all__ = ["Lifecycle", "primary_of"]

_TEXT_BYTES = 1024
_MICROSECONDS = 1_000_000


class Lifecycle(StoreBase):
    """The methods of a `KeyStore` that change keys."""

    def destroy_keyset(self, name: str, *, reason: str = "", force: bool = False) -> None:
        """Destroy all keys of a keyset, the primary too: what they wrote is lost for ever.

        Args:
            name: The keyset; the name stays taken.
            reason: What to keep as the reason, at most 1,024 bytes.
            force: Also while something registered still needs one of the keys.

        Raises:
            KeyNotFoundError: There is no such keyset.
            KeyStateError: Something registered needs one of its keys.
        """
        _check_reason(reason)

        def plan(before: Keyset, transaction: Transaction) -> Keyset:
            if before.head.destroyed:
                return before
            if not force:
                if before.head.database_id:
                    raise KeyStateError(
                        f"keyset {name!r} belongs to a database, which nothing would open any "
                        "more: force=True destroys it all the same"
                    )
                for row in before.keys.values():
                    self._refuse_used(row, transaction)
            return before.all_destroyed(self._now(), reason)

        self._change(name, plan)
        self._erase(name)

    def generate_new_key(self, keyset: str = DEFAULT_KEYSET) -> Key:
        """Make a key that is pre-active: known everywhere before `activate_key` makes it primary.

        Raises:
            KeyNotFoundError: There is no such keyset.
        """
        key_id, wrapped = self._new_key()
        return self._apply(
            keyset,
            key_id,
            lambda before, _: before.with_key(key_id, wrapped, self._now()),
        )

    def activate_key(self, id: str, *, reason: str = "") -> Key:
        """Make a pre-active key the primary of its keyset; the old primary is deactivated.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: Its state doesn't allow it.
        """
        return self._transition(id, reason, lambda k, now: k.activated(id, now, reason))

    def rotate(
        self,
        keyset: str = DEFAULT_KEYSET,
        *,
        if_due: bool = False,
        expected: str | None = None,
        reason: str = "",
    ) -> Key:
        """Make a new key the primary in one step, and return the primary.

        Args:
            keyset: The keyset.
            if_due: Only if its policy says that a rotation is due.
            expected: Only if the primary still is the key of this id. Both are looked at again
                under the lock, so that many machines that rotate at once make one key.
            reason: What to keep as the reason, at most 1,024 bytes.

        Raises:
            KeyNotFoundError: There is no such keyset.
            KeyStateError: Nothing was to be done, and there is no primary to return.
        """
        _check_reason(reason)
        new_id, wrapped = self._new_key()

        def plan(before: Keyset, _: Transaction) -> Keyset:
            if expected is not None and before.head.primary_id != expected:
                return before
            now = self._now()
            if if_due:
                primary = before.primary
                rules = policies.load(before.head.policy)
                if primary is None or not rules.is_due(primary, now):
                    return before
            return before.with_key(new_id, wrapped, now).activated(new_id, now, reason)

        after = self._change(keyset, plan)
        return Key._of(primary_of(after), after.head.purpose)

    def retire_key(self, id: str, *, reason: str = "") -> Key:
        """Deactivate a key: it decrypts, and encrypts no more. Done twice, it does nothing.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: It is the primary (rotate, and it is retired), or its state forbids it.
        """
        return self._transition(id, reason, lambda k, now: k.retired(id, now, reason))

    def suspend_key(self, id: str, *, rotate: bool = False, reason: str = "") -> Key:
        """Stop all use of a key until `resume_key`.

        Args:
            id: The key. Suspending the primary leaves the keyset without one, unless:
            rotate: makes a new primary in the same transaction.
            reason: What to keep as the reason, at most 1,024 bytes.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: Its state doesn't allow it.
        """
        return self._transition(id, reason, lambda k, now: k.suspended(id, now, reason), rotate)

    def resume_key(self, id: str, *, reason: str = "") -> Key:
        """Take a suspended key back: as the primary if the keyset has none, else deactivated.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: It is not suspended.
        """
        return self._transition(id, reason, lambda k, now: k.resumed(id, now, reason))

    def compromise_key(self, id: str, *, rotate: bool = False, reason: str = "") -> Key:
        """Mark a key as known to others: it decrypts only where the caller says so.

        Args:
            id: The key. If it is the primary, the keyset is left without one, unless:
            rotate: makes a new primary in the same transaction.
            reason: What to keep as the reason, at most 1,024 bytes.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: Its state doesn't allow it.
        """
        return self._transition(id, reason, lambda k, now: k.compromised(id, now, reason), rotate)

    def destroy_key(self, id: str, *, force: bool = False, reason: str = "") -> Key:
        """Erase a key's wrapped bytes from the store: what it wrote can't be read any more.

        Backups, snapshots and flash keep what they have: destruction is final when the master
        that wrapped the root then is gone too.

        Args:
            id: The key.
            force: Also before the cache time has passed since the key ceased to be the primary
                (another process may still encrypt under its copy), and while something
                registered needs it.
            reason: What to keep as the reason, at most 1,024 bytes.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: It is the primary, in force or not; or it is too early; or needed.
            KeyStoreBusyError: If it says that bytes are left: the key is destroyed, and its
                bytes go at the next `erase_deleted`.
        """
        _check_reason(reason)

        def plan(before: Keyset, transaction: Transaction) -> Keyset:
            after = before.destroyed(id, self._now(), reason)
            if not force:
                _refuse_rotating(before.key(id))
                self._refuse_early(before.key(id))
                self._refuse_used(before.key(id), transaction)
            return after

        key = self._apply(self._keyset_name_of(id), id, plan)
        self._erase(key.keyset)
        return key

    def erase_deleted(self) -> None:
        """Overwrite in the store's files what destroyed keys left there; `destroy_key` does it.

        Raises:
            KeyStoreBusyError: Another process reads the store.
        """
        self._check()
        self._database.erase()

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

    def _transition(
        self,
        key_id: str,
        reason: str,
        step: Callable[[Keyset, int], Keyset],
        rotate: bool = False,
    ) -> Key:
        """Take a key to another state, with a new primary behind it if that leaves none."""
        _check_reason(reason)
        new_id, wrapped = self._new_key() if rotate else ("", b"")

        def plan(before: Keyset, _: Transaction) -> Keyset:
            now = self._now()
            after = step(before, now)
            if rotate and before.primary is not None and after.primary is None:
                after = after.with_key(new_id, wrapped, now).activated(new_id, now, reason)
            return after

        return self._apply(self._keyset_name_of(key_id), key_id, plan)

    def _apply(self, name: str, key_id: str, plan: Plan) -> Key:
        after = self._change(name, plan)
        return Key._of(after.key(key_id), after.head.purpose)

    def _new_key(self) -> tuple[str, bytes]:
        # Made and wrapped before any transaction: nothing slow happens under the lock.
        self._check()
        self._check_writable()
        return self._material.wrap_new()

    def _erase(self, name: str) -> None:
        self._material.forget(name)
        self._database.erase()

    def _refuse_early(self, row: KeyRow) -> None:
        if not row.deactivated:
            return
        allowed = row.deactivated + self._row.cache_seconds * _MICROSECONDS
        if self._now() < allowed:
            raise KeyStateError(
                f"key {row.key_id} was the primary until {moment(row.deactivated):%Y-%m-%d %H:%M} "
                "UTC, and another process may still encrypt under its cached copy: destroy it "
                f"after {moment(allowed):%Y-%m-%d %H:%M:%S} UTC, or with force=True",
                key_id=row.key_id,
                state=row.state,
            )

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


def primary_of(keyset: Keyset) -> KeyRow:
    """Return the row of a keyset's primary.

    Raises:
        KeyStateError: It has none.
    """
    primary = keyset.primary
    if primary is None:
        raise KeyStateError(
            f"keyset {keyset.head.name!r} has no active key: "
            + (
                "it was destroyed"
                if keyset.head.destroyed
                else "rotate it, or resume or activate one of its keys"
            )
        )
    return primary


def _refuse_rotating(row: KeyRow) -> None:
    if row.rotation and row.state == PRE_ACTIVE:
        raise KeyStateError(
            f"key {row.key_id} was made by a rotation of a database, which may be under it "
            "already: DatabaseKeyRotation.recover (`strongroom db recover`) settles that",
            key_id=row.key_id,
            state=row.state,
        )


def _use_id(key_id: str, name: str) -> str:
    return hashlib.sha256(f"{key_id} {name}".encode()).hexdigest()


def _check_reason(reason: str) -> None:
    if not isinstance(reason, str):
        raise TypeError(f"a reason must be str, not {type(reason).__name__}")
    if len(reason.encode()) > _TEXT_BYTES or "\0" in reason:
        raise ValueError(f"a reason is at most {_TEXT_BYTES} bytes of text")
