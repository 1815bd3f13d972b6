"""What a store reports to an audit log: each change inside its transaction, as its last step.

So an event that can't be sealed undoes the change. What was reported of a transaction that was
not committed is reported again, as failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from strongroom import _events, _native
from strongroom.keys.database import Database, Transaction
from strongroom.keys.key import moment
from strongroom.keys.keyset import Keyset
from strongroom.keys.rows import KeyRow, MasterRow
from strongroom.keys.states import ACTIVE, COMPROMISED, DEACTIVATED, DESTROYED, SUSPENDED

__all__ = ["Say", "say_changes", "say_opened", "say_recovery", "write"]

T = TypeVar("T")

ALGORITHM = "KC-XAES-256-GCM"
_NAMES = {
    ACTIVE: "key.activated",
    DEACTIVATED: "key.retired",
    SUSPENDED: "key.suspended",
    COMPROMISED: "key.compromised",
    DESTROYED: "key.destroyed",
}


class Say(Protocol):
    """Reports an event of the transaction under way."""

    def __call__(self, name: str, /, **fields: _events.Field) -> None:
        """Report it, or raise AuditError."""


def write(
    database: Database,
    store_id: str,
    function: Callable[[Transaction, Say], T],
    landed: Callable[[Transaction], bool],
) -> T:
    """Run a function in a transaction, as `Database.write` does, and report what it says.

    Args:
        database: The store's database.
        store_id: The id of the store's root key, which tells stores apart.
        function: What to do; its last step is to say what it did.
        landed: As for `Database.write`.

    Raises:
        AuditError: An event could not be sealed; nothing was changed.
    """
    said: list[tuple[str, dict[str, _events.Field]]] = []

    def say(name: str, /, **fields: _events.Field) -> None:
        _events.report(name, outcome="success", store=store_id, **fields)
        said.append((name, fields))

    def take_back(error_type: str) -> None:
        for name, fields in said:
            what = {**fields, "store": store_id, "error_type": error_type}
            _events.report_failure(name, **what)
        said.clear()

    def work(transaction: Transaction) -> T:
        take_back("not committed")
        return function(transaction, say)

    try:
        return database.write(work, landed)
    except BaseException as error:
        take_back(type(error).__name__)
        raise


def say_changes(say: Say, before: Keyset | None, after: Keyset) -> None:
    """Report what became of a keyset: every key that was made, every change of a state.

    A new primary in place of another is one event, "key.rotated", in which the old one retires.
    """
    head = after.head
    known = before.keys if before else {}

    def tell(name: str, row: KeyRow, **more: _events.Field) -> None:
        say(
            name,
            key_id=row.key_id,
            keyset=head.name,
            purpose=head.purpose,
            generation=head.generation,
            state=row.state,
            reason=row.reason,
            **more,
        )

    if before is None:
        say("keyset.created", keyset=head.name, purpose=head.purpose, generation=head.generation)
    old = before.primary if before else None
    new = after.primary
    rotated = (
        old is not None
        and new is not None
        and old.key_id != new.key_id
        and after.keys[old.key_id].state == DEACTIVATED
    )
    changed = [row for row in after.in_order() if known.get(row.key_id) != row]
    for row in changed:
        was = known.get(row.key_id)
        if was is None:
            tell("key.generated", row, algorithm=ALGORITHM)
        if row.state == ACTIVE and rotated and old is not None:
            tell("key.rotated", row, old_key_id=old.key_id, new_key_id=row.key_id)
        elif rotated and old is not None and row.key_id == old.key_id:
            continue
        elif row.state in _NAMES and (was is None or was.state != row.state):
            resumed = was is not None and was.state == SUSPENDED
            name = "key.resumed" if resumed and row.state in (ACTIVE, DEACTIVATED) else ""
            tell(name or _NAMES[row.state], row)
        if was is not None and row.state != DESTROYED and was.destroy_after != row.destroy_after:
            if row.destroy_after:
                when = moment(row.destroy_after).isoformat(timespec="seconds")
                tell("key.destruction_scheduled", row, detail=f"after {when}")
            else:
                tell("key.destruction_cancelled", row)
    if before is not None and before.head.policy != head.policy:
        say(
            "keyset.policy",
            keyset=head.name,
            purpose=head.purpose,
            generation=head.generation,
            detail=head.policy or "none",
        )
    if head.destroyed and before is not None and not before.head.destroyed:
        say("keyset.destroyed", keyset=head.name, purpose=head.purpose, generation=head.generation)


def say_opened(root: _native.MemoryLockedKey, master: MasterRow) -> None:
    """Report that a store was opened, and loudly if by a master that is kept for emergencies.

    Raises:
        AuditError: The event could not be sealed; then the store stays closed.
    """
    say_recovery(root, master)
    _events.report(
        "store.opened",
        store=root.key_id,
        key_id=master.key_id,
        master=master.uri,
        recovery=bool(master.recovery),
    )


def say_recovery(root: _native.MemoryLockedKey, master: MasterRow) -> None:
    """Report loudly that a root was unwrapped by a master that is kept for emergencies, if it was.

    Raises:
        AuditError: The event could not be sealed; then nothing is done with the root.
    """
    if master.recovery:
        _events.report(
            "master.recovery_used",
            store=root.key_id,
            key_id=master.key_id,
            master=master.uri,
            recovery=True,
        )
