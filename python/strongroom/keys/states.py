"""The states of a key, after NIST SP 800-57 part 1, section 7: one table for code and docs.

| state | encrypts | decrypts | next |
|---|---|---|---|
| pre-active | no | yes: another process may have made it the primary already | active, destroyed |
| active | yes | yes | deactivated (by a new primary only), suspended, compromised |
| suspended | no | no | active if there is no primary, else deactivated; compromised, destroyed |
| deactivated | no | yes | suspended, compromised, destroyed |
| compromised | no | only where the caller allows it | destroyed |
| destroyed | no | no, its bytes are gone | none |

At most one key of a keyset is active: its primary.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ACTIVE",
    "COMPROMISED",
    "DEACTIVATED",
    "DESTROYED",
    "PRE_ACTIVE",
    "STATES",
    "SUSPENDED",
    "State",
    "may_become",
]

PRE_ACTIVE = "pre-active"
ACTIVE = "active"
SUSPENDED = "suspended"
DEACTIVATED = "deactivated"
COMPROMISED = "compromised"
DESTROYED = "destroyed"


class State(NamedTuple):
    """What a state permits.

    Attributes:
        encrypts: Whether a key in this state may encrypt data or wrap keys.
        decrypts: Whether it may decrypt and unwrap without more ado.
        decrypts_if_allowed: Whether it may when the caller says `allow_compromised=True`.
        has_material: Whether the store holds the wrapped key.
        next: The states that may follow.
    """

    encrypts: bool
    decrypts: bool
    decrypts_if_allowed: bool
    has_material: bool
    next: frozenset[str]


STATES: dict[str, State] = {
    PRE_ACTIVE: State(False, True, True, True, frozenset({ACTIVE, DESTROYED})),
    ACTIVE: State(True, True, True, True, frozenset({DEACTIVATED, SUSPENDED, COMPROMISED})),
    SUSPENDED: State(
        False, False, False, True, frozenset({ACTIVE, DEACTIVATED, COMPROMISED, DESTROYED})
    ),
    DEACTIVATED: State(False, True, True, True, frozenset({SUSPENDED, COMPROMISED, DESTROYED})),
    COMPROMISED: State(False, False, True, True, frozenset({DESTROYED})),
    DESTROYED: State(False, False, False, False, frozenset()),
}


def may_become(state: str, new: str) -> bool:
    """Tell whether a key in `state` may go to the state `new`."""
    return new in STATES[state].next
