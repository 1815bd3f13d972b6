"""How long a keyset's keys are to be used: the cryptoperiods of NIST SP 800-57 part 1, 5.3."""

from __future__ import annotations

from typing import NamedTuple

from strongroom.keys.rows import KeyRow, damaged
from strongroom.keys.states import ACTIVE, DEACTIVATED, SUSPENDED

__all__ = ["AFTER_BACKUP", "Policy"]

AFTER_BACKUP = "after-backup"

_MICROSECONDS = 1_000_000
# A thousand years: more is a mistake of units.
_MOST = 1000 * 366 * 86_400


class Policy(NamedTuple):
    """The cryptoperiods of a keyset. Reading never depends on them.

    Attributes:
        originator_seconds: How long after a key became the primary the next rotation is due; None
            for no end.
        recipient_seconds: How long after a key became the primary what it wrote is to be
            re-encrypted under a newer one; None for no end.
        enforce: Refuse to encrypt under a primary whose originator period has ended.
        promote: "after-backup": a new key is pre-active until a backup of the store holds it, and
            `KeyStore.backup` makes it the primary. "" for at once.
    """

    originator_seconds: int | None = None
    recipient_seconds: int | None = None
    enforce: bool = False
    promote: str = ""

    def is_due(self, primary: KeyRow, now: int) -> bool:
        """Tell whether a keyset with this primary is due for a rotation; `now` in microseconds."""
        end = self.ends(primary)
        return end is not None and now >= end

    def ends(self, primary: KeyRow) -> int | None:
        """Return when the originator period of a primary ends, in microseconds since 1970."""
        if self.originator_seconds is None:
            return None
        return primary.activated + self.originator_seconds * _MICROSECONDS

    def is_stale(self, row: KeyRow, now: int) -> bool:
        """Tell whether what a key wrote is due for re-encryption."""
        if self.recipient_seconds is None or row.state not in (ACTIVE, DEACTIVATED, SUSPENDED):
            return False
        return now >= row.activated + self.recipient_seconds * _MICROSECONDS

    def _dump(self) -> str:
        """Return the policy as the store keeps it; no policy is the empty text.

        Raises:
            TypeError: A period is no whole number of seconds.
            ValueError: A period is not between a second and a thousand years.
        """
        for period in (self.originator_seconds, self.recipient_seconds):
            if period is None:
                continue
            if not isinstance(period, int) or isinstance(period, bool):
                raise TypeError("a period is a whole number of seconds")
            if not 1 <= period <= _MOST:
                raise ValueError("a period is between a second and a thousand years")
        if self.enforce and self.originator_seconds is None:
            raise ValueError("there is nothing to enforce without an originator period")
        if self.promote not in ("", AFTER_BACKUP):
            raise ValueError(f'promote is "" or "{AFTER_BACKUP}"')
        values = {k: v for k, v in self._asdict().items() if v}
        if not values:
            return ""
        import json

        return json.dumps(values, sort_keys=True, separators=(",", ":"))


def load(text: str) -> Policy:
    """Return the policy that `_dump` wrote.

    Raises:
        KeyStoreError: It is none of this release.
    """
    if not text:
        return Policy()
    import json

    try:
        policy = Policy(**json.loads(text))
        policy._dump()
    except (TypeError, ValueError):
        raise damaged("a keyset has a policy that this release doesn't know") from None
    return policy
