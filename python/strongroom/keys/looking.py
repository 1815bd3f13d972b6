"""What a store says of all of its keys: lists, figures, what is due; some keysets at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from strongroom.keys import policy as policies
from strongroom.keys import report, sql
from strongroom.keys.backup import Backups
from strongroom.keys.database import Transaction
from strongroom.keys.key import Key
from strongroom.keys.keyset import Keyset
from strongroom.keys.policy import Policy
from strongroom.keys.reading import Block, beside
from strongroom.keys.report import Due
from strongroom.keys.rows import HeldRow, UsageRow, verified
from strongroom.keys.usage import Usage, UsageFigures, figures_of
from strongroom.masters import wrapped

__all__ = ["KeyReport", "Looking"]

# By key id: the backup that holds it, and its use.
_Beside = tuple[dict[str, HeldRow], dict[str, UsageRow]]


class KeyReport(NamedTuple):
    """A key, and what the store knows of it beside.

    Attributes:
        key: The key.
        policy: That of its keyset.
        due: What is due for it: "rotate", "reencrypt", "destroy", "back up".
        usage: How much it was used.
        backup: Id of the first backup that holds it, or None.
    """

    key: Key
    policy: Policy
    due: list[str]
    usage: UsageFigures
    backup: str | None


class Looking(Backups, Usage):
    """The methods of a `KeyStore` that look at all keys."""

    def keysets(self) -> list[str]:
        """Return the names of the keysets that were not destroyed, sorted."""
        return sorted(k.head.name for k in self._all() if not k.head.destroyed)

    def list_keys(self, keyset: str | None = None) -> list[Key]:
        """Return the keys of a keyset, or of all, from the database, oldest first in each.

        Raises:
            KeyNotFoundError: There is no such keyset.
        """
        if keyset is not None:
            return _keys_of(self._load(keyset))
        found = {k.head.name: _keys_of(k) for k in self._all()}
        return [key for name in sorted(found) for key in found[name]]

    def inventory(self, keyset: str | None = None) -> Iterator[KeyReport]:
        """Give the keys of a keyset, or of all, one by one with what is known of each.

        Of all keysets a thousand are in memory at a time, as they were at one moment; they come in
        the database's order, the keys of each oldest first.

        Raises:
            KeyNotFoundError: There is no such keyset.
        """
        now = self._now()
        if keyset is None:
            for keysets, known in self._blocks(self._beside):
                for each in keysets:
                    yield from _reports(each, known, now)
            return
        found = self._load(keyset)
        yield from _reports(found, self._read(lambda t: self._beside_one(t, found)), now)

    def due(self) -> Due:
        """Return what is due now: rotations, re-encryptions, destructions, a backup."""
        return report.due(self._with_held(), self._now())

    def stats(self) -> dict[str, int | float | None]:
        """Return figures for monitoring, from the whole database and of this process.

        Returns:
            `keysets`; `keys_` and each state; `due_rotations`, `due_reencryptions`,
            `due_destructions`, `not_backed_up` keys;
            `days_to_next_rotation`, None without policies; `cache_hits` and `cache_misses` of
            unwrapped keys in this store; `master_calls` and `master_failures` of this process.
        """
        return {
            **report.figures(self._with_held(), self._now()),
            "cache_hits": self._material.hits,
            "cache_misses": self._material.misses,
            "master_calls": wrapped.COUNTS["calls"],
            "master_failures": wrapped.COUNTS["failures"],
        }

    def metrics(self) -> str:
        """Return `stats` as text in the exposition format of Prometheus."""
        return report.exposition(self.stats())

    def _with_held(self) -> Iterator[tuple[list[Keyset], dict[str, HeldRow]]]:
        return self._blocks(lambda t, block: beside(t, self._root, block, HeldRow))

    def _beside(self, transaction: Transaction, block: Block) -> _Beside:
        return (
            beside(transaction, self._root, block, HeldRow),
            beside(transaction, self._root, block, UsageRow),
        )

    def _beside_one(self, transaction: Transaction, keyset: Keyset) -> _Beside:
        held, usage = {}, {}
        for key_id in keyset.keys:
            for values in transaction.execute(sql.SELECT_HELD, (key_id,)):
                held[key_id] = verified(self._root, HeldRow, values)
            for values in transaction.execute(sql.SELECT_USAGE, (key_id,)):
                usage[key_id] = verified(self._root, UsageRow, values)
        return held, usage


def _reports(keyset: Keyset, known: _Beside, now: int) -> Iterator[KeyReport]:
    held, usage = known
    due = report.due_of(keyset, held, now)
    due_ids = {
        "rotate": {keyset.head.primary_id} if due.rotate else set(),
        "reencrypt": {key.id for key in due.reencrypt},
        "destroy": {key.id for key in due.destroy},
        "back up": {key.id for key in due.back_up},
    }
    rules = policies.load(keyset.head.policy)
    for key in _keys_of(keyset):
        yield KeyReport(
            key,
            rules,
            [what for what, ids in due_ids.items() if key.id in ids],
            figures_of(usage[key.id]) if key.id in usage else UsageFigures(),
            held[key.id].backup if key.id in held else None,
        )


def _keys_of(keyset: Keyset) -> list[Key]:
    return [Key._of(row, keyset.head.purpose) for row in keyset.in_order()]
