"""What happens to keys: made, activated, rotated, suspended, retired, destroyed, and needed."""

from __future__ import annotations

from collections.abc import Callable

from strongroom.errors import KeyStateError
from strongroom.keys import policy as policies
from strongroom.keys import sql
from strongroom.keys.base import Plan
from strongroom.keys.database import Transaction
from strongroom.keys.key import Key, moment
from strongroom.keys.keyset import DEFAULT_KEYSET, Keyset
from strongroom.keys.rows import HeldRow, KeyRow, verified
from strongroom.keys.states import DESTROYED, PRE_ACTIVE
from strongroom.keys.uses import RegisteredUses

__all__ = ["Lifecycle", "primary_of"]

_TEXT_BYTES = 1024
_MICROSECONDS = 1_000_000
WAITING_SECONDS = 7 * 86_400
_MOST_WAITING = 3650 * 86_400


class Lifecycle(RegisteredUses):
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
            KeyStateError: Its state doesn't allow it, or its policy wants a backup first.
        """
        _check_reason(reason)

        def plan(before: Keyset, transaction: Transaction) -> Keyset:
            rules = policies.load(before.head.policy)
            waits = rules.promote == policies.AFTER_BACKUP and before.key(id).state == PRE_ACTIVE
            if waits and not self._is_held(id, transaction):
                raise KeyStateError(
                    f"no backup of the store holds key {id}, and the policy of keyset "
                    f"{before.head.name!r} wants one first: make it by KeyStore.backup",
                    key_id=id,
                    state=PRE_ACTIVE,
                )
            return before.activated(id, self._now(), reason)

        return self._apply(self._keyset_name_of(id), id, plan)

    def rotate(
        self,
        keyset: str = DEFAULT_KEYSET,
        *,
        if_due: bool = False,
        expected: str | None = None,
        reason: str = "",
    ) -> Key:
        """Make a new key the primary in one step, and return the primary.

        Where the policy says `promote="after-backup"`, the new key stays pre-active until a backup
        holds it: the primary that is returned is the old one. Done again before that, it makes no
        further key.

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

        def plan(before: Keyset, transaction: Transaction) -> Keyset:
            if expected is not None and before.head.primary_id != expected:
                return before
            now = self._now()
            if if_due:
                primary = before.primary
                rules = policies.load(before.head.policy)
                if primary is None or not rules.is_due(primary, now):
                    return before
            if policies.load(before.head.policy).promote == policies.AFTER_BACKUP:
                return self._rotated_after_backup(before, transaction, new_id, wrapped, reason)
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
        return self._destroy(id, force, reason)

    def _destroy(self, id: str, force: bool, reason: str, *, due: bool = False) -> Key:
        _check_reason(reason)

        def plan(before: Keyset, transaction: Transaction) -> Keyset:
            # Somebody may have taken it back meanwhile.
            if due and not 0 < before.key(id).destroy_after <= self._now():
                return before
            after = before.destroyed(id, self._now(), reason)
            if not force:
                _refuse_rotating(before.key(id))
                self._refuse_early(before.key(id))
                self._refuse_used(before.key(id), transaction)
            return after

        key = self._apply(self._keyset_name_of(id), id, plan)
        self._erase(key.keyset)
        return key

    def schedule_destruction(
        self, id: str, *, after_seconds: int = WAITING_SECONDS, reason: str = ""
    ) -> Key:
        """Have a key destroyed by `destroy_due` after a time; until then it is what it is.

        It goes on decrypting: suspend it too, to learn who still needs it. `cancel_destruction`
        takes it back.

        Args:
            id: The key, not the primary.
            after_seconds: How long to wait, 0 to 315,360,000 (ten years).
            reason: What to keep as the reason, at most 1,024 bytes.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: It is the primary, or destroyed, or of a database's rotation that did
                not end, or something registered needs it.
        """
        _check_reason(reason)
        if not isinstance(after_seconds, int) or isinstance(after_seconds, bool):
            raise TypeError("after_seconds is a whole number of seconds")
        if not 0 <= after_seconds <= _MOST_WAITING:
            raise ValueError("after_seconds is from 0 to 315,360,000 (ten years)")

        def plan(before: Keyset, transaction: Transaction) -> Keyset:
            after = self._now() + after_seconds * _MICROSECONDS
            _refuse_rotating(before.key(id))
            changed = before.to_be_destroyed(id, after, reason)
            self._refuse_used(before.key(id), transaction)
            return changed

        return self._apply(self._keyset_name_of(id), id, plan)

    def cancel_destruction(self, id: str, *, reason: str = "") -> Key:
        """Take `schedule_destruction` back; nothing if it was not to be destroyed.

        Raises:
            KeyNotFoundError: There is no such key.
            KeyStateError: It was destroyed.
        """
        _check_reason(reason)
        return self._apply(self._keyset_name_of(id), id, lambda k, _: k.kept(id, reason))

    def destroy_due(self, *, reason: str = "") -> tuple[list[Key], list[KeyStateError]]:
        """Destroy the keys whose waiting time is over.

        Args:
            reason: What to keep as the reason; "" keeps the one given when it was scheduled.

        Returns:
            The keys that were destroyed, and what was said of those that may not be now.
        """
        _check_reason(reason)
        done, refused = [], []
        due = [
            row
            for keyset in self._all()
            for row in keyset.in_order()
            if 0 < row.destroy_after <= self._now()
        ]
        for row in due:
            try:
                done.append(self._destroy(row.key_id, False, reason or row.reason, due=True))
            except KeyStateError as error:
                refused.append(error)
        return [key for key in done if key.state == DESTROYED], refused

    def erase_deleted(self) -> None:
        """Overwrite in the store's files what destroyed keys left there; `destroy_key` does it.

        Raises:
            KeyStoreBusyError: Another process reads the store.
        """
        self._check()
        self._database.erase()

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

    def _rotated_after_backup(
        self, before: Keyset, transaction: Transaction, new_id: str, wrapped: bytes, reason: str
    ) -> Keyset:
        waiting = [row for row in before.in_order() if row.state == PRE_ACTIVE]
        held = [row for row in waiting if self._is_held(row.key_id, transaction)]
        if held:
            return before.activated(held[-1].key_id, self._now(), reason)
        return before if waiting else before.with_key(new_id, wrapped, self._now())

    def _is_held(self, key_id: str, transaction: Transaction) -> bool:
        found = transaction.execute(sql.SELECT_HELD, (key_id,))
        return bool(found) and bool(verified(self._root, HeldRow, found[0]))

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


def _check_reason(reason: str) -> None:
    if not isinstance(reason, str):
        raise TypeError(f"a reason must be str, not {type(reason).__name__}")
    if len(reason.encode()) > _TEXT_BYTES or "\0" in reason:
        raise ValueError(f"a reason is at most {_TEXT_BYTES} bytes of text")
