"""What is due, and figures for monitoring."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

from strongroom.keys import policy
from strongroom.keys.key import Key
from strongroom.keys.keyset import Keyset
from strongroom.keys.states import ACTIVE, PRE_ACTIVE, STATES

__all__ = ["Due", "due", "exposition", "figures"]

_DAY = 86_400 * 1_000_000


class Due(NamedTuple):
    """What the policies of a store, and the times of its keys, ask for.

    Attributes:
        rotate: Names of the keysets whose primary's originator period has ended.
        reencrypt: Keys whose recipient period has ended: what they wrote is to be re-encrypted.
        destroy: Keys whose waiting time before destruction is over.
        back_up: Active and pre-active keys that no backup of the store holds.
    """

    rotate: list[str]
    reencrypt: list[Key]
    destroy: list[Key]
    back_up: list[Key]


def due(keysets: Iterable[Keyset], held: Container[str], now: int) -> Due:
    """Return what is due.

    Args:
        keysets: All keysets.
        held: Ids of the keys that a backup holds.
        now: The time, in microseconds since 1970.
    """
    found = Due([], [], [], [])
    for keyset in keysets:
        rules = policy.load(keyset.head.policy)
        primary = keyset.primary
        if primary is not None and rules.is_due(primary, now):
            found.rotate.append(keyset.head.name)
        for row in keyset.in_order():
            key = Key._of(row, keyset.head.purpose)
            if rules.is_stale(row, now):
                found.reencrypt.append(key)
            if 0 < row.destroy_after <= now:
                found.destroy.append(key)
            if row.state in (ACTIVE, PRE_ACTIVE) and row.key_id not in held:
                found.back_up.append(key)
    return found


def figures(keysets: list[Keyset], held: Container[str], now: int) -> dict[str, int | float | None]:
    """Return the figures that the store's content gives; see `KeyStore.stats`."""
    counts: dict[str, int | float | None] = {
        "keysets": sum(not keyset.head.destroyed for keyset in keysets)
    }
    for state in STATES:
        counts[f"keys_{state.replace('-', '_')}"] = sum(
            row.state == state for keyset in keysets for row in keyset.keys.values()
        )
    what = due(keysets, held, now)
    ends = [
        end
        for keyset in keysets
        if keyset.primary is not None
        and (end := policy.load(keyset.head.policy).ends(keyset.primary)) is not None
    ]
    counts["due_rotations"] = len(what.rotate)
    counts["due_reencryptions"] = len(what.reencrypt)
    counts["due_destructions"] = len(what.destroy)
    counts["not_backed_up"] = len(what.back_up)
    counts["days_to_next_rotation"] = max(0.0, (min(ends) - now) / _DAY) if ends else None
    return counts


# Of this process, and only ever growing; all other figures are states of the store.
_COUNTERS = ("cache_hits", "cache_misses", "master_calls", "master_failures")


def exposition(stats: dict[str, int | float | None]) -> str:
    """Return figures in the text format that Prometheus reads, version 0.0.4.

    Keys by state are one metric with a label; what is not known (`None`) is left out.
    """
    lines = ["# HELP strongroom_keys Keys of the store by state.", "# TYPE strongroom_keys gauge"]
    for state in STATES:
        value = stats[f"keys_{state.replace('-', '_')}"]
        lines.append(f'strongroom_keys{{state="{state}"}} {value}')
    for name, value in stats.items():
        if value is None or name.startswith("keys_"):
            continue
        counter = name in _COUNTERS
        metric = f"strongroom_{name}_total" if counter else f"strongroom_{name}"
        lines += [
            f"# HELP {metric} {_HELP[name]}",
            f"# TYPE {metric} {'counter' if counter else 'gauge'}",
            f"{metric} {value}",
        ]
    return "\n".join(lines) + "\n"


_HELP = {
    "keysets": "Keysets of the store that were not destroyed.",
    "due_rotations": "Keysets whose primary is due for rotation.",
    "due_reencryptions": "Keys whose messages are due for re-encryption.",
    "due_destructions": "Keys whose waiting time before destruction is over.",
    "not_backed_up": "Active and pre-active keys that no backup holds.",
    "days_to_next_rotation": "Days until the next keyset is due.",
    "cache_hits": "Keys that were found unwrapped in this process.",
    "cache_misses": "Keys that this process had to unwrap.",
    "master_calls": "Calls to masters by this process.",
    "master_failures": "Calls to masters by this process that failed.",
}
