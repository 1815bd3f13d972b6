"""Whether a change whose commit got no answer is in the database."""

from __future__ import annotations

from strongroom.keys.keyset import Keyset
from strongroom.keys.states import ACTIVE

__all__ = ["is_committed"]


def is_committed(there: Keyset, before: Keyset, after: Keyset) -> bool:
    """Tell whether a keyset was changed from `before` to `after`, others may have gone on since.

    A key that was added says it by its id, a change of state by a row that is as it was written, or
    by the moment at which a key became the primary. What changed no row of the keyset can't be
    told: it is done again, which then changes nothing.
    """
    if after is before or there.head.generation < after.head.generation:
        return False
    was, to_be, now = before.head, after.head, there.head
    if any(
        getattr(was, name) != getattr(to_be, name) != getattr(now, name)
        for name in ("policy", "database_id", "database_settings", "destroyed")
    ):
        return False
    for key_id, row in after.keys.items():
        known, found = before.keys.get(key_id), there.keys.get(key_id)
        if known == row:
            continue
        if found is None:
            return False
        if known is not None and found != row:
            promoted = row.state == ACTIVE and found.activated == row.activated
            if not promoted:
                return False
    return True
