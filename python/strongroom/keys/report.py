"""What is due, and figures for monitoring."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

from strongroom.keys import policy
from strongroom.keys.key import Key
from strongroom.keys.keyset import Keyset
from strongroom.keys.states import ACTIVE, PRE_ACTIVE, STATES

__all__ = ["Blocks", "Due", "due", "due_of", "exposition", "figures"]

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


# Keysets, and the ids of those of their keys that a backup holds.
Blocks = Iterable[tuple[Iterable[Keyset], Container[str]]]


def due(blocks: Blocks, now: int) -> Due:
    """Return what is due; `now` in microseconds since 1970."""
    found = Due([], [], [], [])
    for keysets, held in blocks:
        for keyset in keysets:
            more = due_of(keyset, held, now)
            found.rotate.extend(more.rotate)
            found.reencrypt.extend(more.reencrypt)
            found.destroy.extend(more.destroy)
            found.back_up.extend(more.back_up)
    return found


def due_of(keyset: Keyset, held: Container[str], now: int) -> Due:
    """Return what is due for one keyset."""
    found = Due([], [], [], [])
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


def figures(blocks: Blocks, now: int) -> dict[str, int | float | None]:
    """Return the figures that the store's content gives; see `KeyStore.stats`."""
    counts: dict[str, int | float | None] = {}
    keysets_left, end = 0, None
    states = dict.fromkeys(STATES, 0)
    what = {"due_rotations": 0, "due_reencryptions": 0, "due_destructions": 0, "not_backed_up": 0}
    for keysets, held in blocks:
        for keyset in keysets:
            keysets_left += not keyset.head.destroyed
            for row in keyset.keys.values():
                states[row.state] += 1
            now_due = due_of(keyset, held, now)
            what["due_rotations"] += len(now_due.rotate)
            what["due_reencryptions"] += len(now_due.reencrypt)
            what["due_destructions"] += len(now_due.destroy)
            what["not_backed_up"] += len(now_due.back_up)
            if keyset.primary is not None:
                ends = policy.load(keyset.head.policy).ends(keyset.primary)
                end = ends if end is None or (ends is not None and ends < end) else end
    counts["keysets"] = keysets_left
    counts |= {f"keys_{state.replace('-', '_')}": number for state, number in states.items()}
    counts |= what
    counts["days_to_next_rotation"] = None if end is None else max(0.0, (end - now) / _DAY)
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
