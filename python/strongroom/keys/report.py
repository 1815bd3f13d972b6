"""What is due, and figures for monitoring."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from strongroom.keys import policy
from strongroom.keys.key import Key
from strongroom.keys.keyset import Keyset
from strongroom.keys.states import STATES

__all__ = ["Due", "due", "figures"]

_DAY = 86_400 * 1_000_000


class Due(NamedTuple):
    """What the policies of a store ask for.

    Attributes:
        rotate: Names of the keysets whose primary's originator period has ended.
        reencrypt: Keys whose recipient period has ended: what they wrote is to be re-encrypted.
    """

    rotate: list[str]
    reencrypt: list[Key]


def due(keysets: Iterable[Keyset], now: int) -> Due:
    """Return what is due at a time, microseconds since 1970."""
    found = Due([], [])
    for keyset in keysets:
        rules = policy.load(keyset.head.policy)
        primary = keyset.primary
        if primary is not None and rules.is_due(primary, now):
            found.rotate.append(keyset.head.name)
        found.reencrypt.extend(
            Key._of(row, keyset.head.purpose)
            for row in keyset.in_order()
            if rules.is_stale(row, now)
        )
    return found


def figures(keysets: list[Keyset], now: int) -> dict[str, int | float | None]:
    """Return the figures that the store's content gives; see `KeyStore.stats`."""
    counts: dict[str, int | float | None] = {
        "keysets": sum(not keyset.head.destroyed for keyset in keysets)
    }
    for state in STATES:
        counts[f"keys_{state.replace('-', '_')}"] = sum(
            row.state == state for keyset in keysets for row in keyset.keys.values()
        )
    what = due(keysets, now)
    ends = [
        end
        for keyset in keysets
        if keyset.primary is not None
        and (end := policy.load(keyset.head.policy).ends(keyset.primary)) is not None
    ]
    counts["due_rotations"] = len(what.rotate)
    counts["due_reencryptions"] = len(what.reencrypt)
    counts["days_to_next_rotation"] = max(0.0, (min(ends) - now) / _DAY) if ends else None
    return counts
