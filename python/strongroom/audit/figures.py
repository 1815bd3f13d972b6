"""What a report shows: added up from a log's records, one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from strongroom.audit.catalogue import DATA
from strongroom.audit.records import Record, fields_of

__all__ = ["Figures", "KeyLife", "Span", "collect"]

# What each event makes of its key.
_STATES: Final = {
    "key.generated": "pre-active",
    "key.imported": "pre-active",
    "key.activated": "active",
    "key.rotated": "active",
    "key.retired": "deactivated",
    "key.suspended": "suspended",
    "key.compromised": "compromised",
    "key.destroyed": "destroyed",
    "hsm.key.generated": "active",
    "hsm.key.rotated": "active",
    "hsm.key.imported": "active",
    "hsm.key.destroyed": "destroyed",
}
# More keys than a page can show: what comes later is counted, and the page says so.
MAX_KEYS: Final = 500
MAX_NOTABLE: Final = 100
_NOTABLE: Final = 3
# Without a policy in the log: NIST SP 800-57 part 1 gives a data key one to two years.
ORIGINATOR_DAYS: Final = 365


class Span(NamedTuple):
    """A time in one state.

    Attributes:
        state: The state.
        start: Its first moment, in milliseconds since 1970.
        end: Its last, or None while it lasts.
    """

    state: str
    start: int
    end: int | None


class KeyLife:
    """What a log tells of one key."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.keyset = ""
        self.spans: list[Span] = []
        self.operations: Counter[str] = Counter()
        self.bytes = 0
        self.failures: Counter[str] = Counter()
        self.last = 0

    @property
    def state(self) -> str:
        """Its state at the log's end; "" where the log does not tell."""
        return self.spans[-1].state if self.spans else ""

    def enter(self, state: str, at: int) -> None:
        """Begin a state."""
        if self.spans:
            last = self.spans[-1]
            if last.state == state:
                return
            self.spans[-1] = last._replace(end=max(at, last.start))
        self.spans.append(Span(state, at, None))


class Figures:
    """What a whole log adds up to."""

    def __init__(self) -> None:
        self.records = 0
        self.first = self.last = 0
        self.keys: dict[str, KeyLife] = {}
        self.keys_left_out: set[str] = set()
        self.days: dict[str, Counter[str]] = {}
        self.events: Counter[str] = Counter()
        self.notable: list[Record] = []
        self.notable_left_out = 0

    def add(self, record: Record) -> None:
        """Take one record in."""
        event = record.event
        name, at = record.name, int(event.get("time", 0))
        self.records += 1
        self.events[name] += 1
        self.first = min(self.first or at, at)
        self.last = max(self.last, at)
        if name.startswith("data.") or name.endswith("cryption.failed"):
            self._add_data(name, event, at)
        elif name.startswith(("key.", "hsm.key.")) and not record.failed:
            self._add_life(name, event, at)
        # Failures of data have a table of their own.
        is_data = event.get("class_uid") == DATA
        if event.get("severity_id", 1) >= _NOTABLE and not is_data:
            self.notable.append(record)
            if len(self.notable) > MAX_NOTABLE:
                del self.notable[0]
                self.notable_left_out += 1

    def due(self, now: int) -> list[tuple[KeyLife, int]]:
        """Return the keys that have been primary for long, with the days, longest first."""
        found = []
        for key in self.keys.values():
            if key.state == "active":
                days = (now - key.spans[-1].start) // 86_400_000
                found.append((key, days))
        return sorted(found, key=lambda pair: -pair[1])

    def failing(self) -> list[KeyLife]:
        """Return the keys that have failures, most first."""
        keys = [key for key in self.keys.values() if key.failures]
        return sorted(keys, key=lambda key: -key.failures.total())

    def _key(self, key_id: object) -> KeyLife | None:
        if not isinstance(key_id, str) or not key_id:
            return None
        key = self.keys.get(key_id)
        if key is None:
            if len(self.keys) >= MAX_KEYS:
                self.keys_left_out.add(key_id)
                return None
            key = self.keys[key_id] = KeyLife(key_id)
        return key

    def _add_data(self, name: str, event: dict[str, Any], at: int) -> None:
        count = event.get("count", 1)
        count = count if isinstance(count, int) else 1
        failed = name.endswith(".failed")
        day = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d")
        operation = "failed" if failed else str(event.get("operation", name.partition(".")[2]))
        self.days.setdefault(day, Counter())[operation] += count
        key = self._key(event.get("key_id"))
        if key is not None:
            key.last = max(key.last, at)
            if failed:
                key.failures[str(event.get("error_type", "unknown"))] += count
            else:
                key.operations[operation] += count
                size = event.get("bytes", 0)
                key.bytes += size if isinstance(size, int) else 0

    def _add_life(self, name: str, event: dict[str, Any], at: int) -> None:
        if name.endswith("key.rotated"):
            old = self._key(event.get("old_key_id"))
            if old is not None and old.state != "destroyed":
                old.enter("deactivated", at)
        key = self._key(event.get("new_key_id") or event.get("key_id"))
        if key is None:
            return
        key.keyset = str(event.get("keyset", key.keyset))
        key.last = max(key.last, at)
        state = _STATES.get(name)
        if name == "key.resumed":
            state = str(event.get("state", "active"))
        if state is not None:
            key.enter(state, at)


def collect(records: Iterable[Record]) -> Figures:
    """Add all records up."""
    figures = Figures()
    for record in records:
        figures.add(record)
    return figures


def sentence(record: Record) -> str:
    """Return what a notable record says, in a line."""
    more = fields_of(record.event)
    return ", ".join(f"{name} {value}" for name, value in sorted(more.items()))
