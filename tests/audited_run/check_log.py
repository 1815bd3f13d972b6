"""Compares an audit log with what the witness saw: `python check_log.py LOG WITNESS`.

Every change of a key's state that a store committed is in the log exactly once, and a keyset's
changes are in it in the order of its generations. What was taken back is in it as well, and as
failed; what nobody committed is not, but for processes that were killed in between.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from strongroom import audit

# The events of a change to a state. A key that is made as the primary is told by two.
_TOLD = {
    "pre-active": {"key.generated"},
    "active": {"key.activated", "key.rotated", "key.resumed"},
    "deactivated": {"key.retired", "key.resumed", "old of key.rotated"},
    "suspended": {"key.suspended"},
    "compromised": {"key.compromised"},
    "destroyed": {"key.destroyed"},
}
_STATES = set().union(*_TOLD.values())


# Tests that write rows by the library's inner functions, which tell nothing.
_UNTOLD = {
    "tests/test_bench.py": "the bench fills a store with many keysets",
    "tests/test_keystore_many.py::test_memory_does_not_grow_with_the_store": "so does its fixture",
    "tests/test_keystore_many.py::test_no_statement_reads_a_whole_table": "so does its fixture",
}


class Place(NamedTuple):
    """One generation of a key."""

    store: str
    keyset: str
    generation: int
    key: str


class Seen:
    """What was committed, and what may have been."""

    def __init__(self, path: Path, log: str) -> None:
        self.done: dict[Place, list[tuple[str | None, str, str]]] = defaultdict(list)
        self.perhaps: set[Place] = set()
        self.elsewhere: Counter[str] = Counter()
        self.ended: set[int] = set()
        self.begun: set[int] = set()
        meant: dict[str, dict[str, Any]] = {}
        done = []
        for line in path.read_text().splitlines():
            said = json.loads(line)
            if said["what"] == "meant":
                meant[said["number"]] = said
            elif said["what"] == "done":
                done.append(meant.pop(said["number"]))
            else:
                (self.ended if said["what"] == "end" else self.begun).add(said["pid"])
        lost: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        for said in meant.values():
            for row in said["keys"]:
                place = _place(row)
                self.perhaps.add(place)
                lost[place.store, place.key][place.generation] = row[2]
        self._follow(done, lost, log)

    def _follow(
        self, done: list[dict[str, Any]], lost: dict[tuple[str, str], dict[int, str]], log: str
    ) -> None:
        """Take what was done; `lost` is what was perhaps: the answers to those commits were."""
        states: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        stores: set[str] = set()
        for said in done:
            test = said["test"].partition(" ")[0]
            copied = said["fresh"] and any(row[4] in stores for row in said["keys"])
            if said["fresh"]:
                stores |= {row[4] for row in said["keys"]}
            for row in said["keys"]:
                place, state = _place(row), row[2]
                life = states[place.store, place.key]
                if copied and state in life.values():
                    continue
                was = row[5]
                if was == "?" or (copied and was is None):
                    was = _before(place, life)
                    if was == state:
                        # A row that was written with something else in it.
                        continue
                    perhaps = lost[place.store, place.key]
                    if state in (_before(place, perhaps), perhaps.get(place.generation)):
                        self.perhaps.add(place)
                        continue
                    was = was or _before(place, perhaps)
                life[place.generation] = state
                if any(test.startswith(untold) for untold in _UNTOLD):
                    self.perhaps.add(place)
                    continue
                if said["log"] != log:
                    self.elsewhere[test] += 1
                    self.perhaps.add(place)
                    continue
                self.done[place].append((was, state, test))


def _before(place: Place, life: dict[int, str]) -> str | None:
    """The state in the generation before."""
    earlier = [generation for generation in life if generation < place.generation]
    return life[max(earlier)] if earlier else None


def _place(row: list[Any]) -> Place:
    key, keyset, _, generation, store, _ = row
    return Place(store, keyset, generation, key)


def main(log: str, witness: Path) -> int:
    """Compare them; return how many differences there are, and print each."""
    # What a process that was killed has left is set aside by the next one that opens the log.
    audit.CryptoAuditLogger.open(log).close()
    found = audit.verify(log)
    seen = Seen(witness, log)
    told: dict[Place, Counter[str]] = defaultdict(Counter)
    pids: dict[Place, set[int]] = defaultdict(set)
    order: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in audit.records(log):
        event = record.event
        if record.name not in _STATES or "generation" not in event or "store" not in event:
            continue
        where = (event["store"], event["keyset"], event["generation"])
        names = [(record.name, event["key_id"])]
        if record.name == "key.rotated":
            names.append(("old of key.rotated", event["old_key_id"]))
        for name, key in names:
            told[Place(*where, key)][name] += -1 if record.failed else 1
            pids[Place(*where, key)].add(event["actor"]["process"]["pid"])
        if not record.failed:
            order[where[:2]].append(where[2])
    problems = _compare(seen, told, pids)
    several = {(p.store, p.keyset) for p, changes in seen.done.items() if len(changes) > 1}
    several |= {(p.store, p.keyset) for p in seen.perhaps}
    ordered = 0
    for keyset, generations in order.items():
        if keyset not in several:
            ordered += 1
            if generations != sorted(generations):
                problems.append(f"keyset {keyset}: out of order: {generations}")
    for problem in problems:
        print(problem)
    changes = sum(map(len, seen.done.values()))
    others = sum(seen.elsewhere.values())
    print(
        f"{found.size:,} records, whole; {len(seen.begun):,} processes; {changes:,} changes of "
        f"keys in the log, each once; {ordered:,} keysets in order; {others:,} "
        f"changes in {len(seen.elsewhere)} tests with a log of their own; {len(problems)} problems"
    )
    if changes < 1000:
        print("too few changes were seen: the witness was not there")
        return 1
    return len(problems)


def _compare(seen: Seen, told: dict[Place, Counter[str]], pids: dict[Place, set[int]]) -> list[str]:
    problems = []
    for place in sorted(seen.done.keys() | told.keys()):
        names = +told[place]
        for was, state, test in seen.done.get(place, []):
            wanted = [{"key.generated"}] if was is None else []
            if state != "pre-active" or was is not None:
                wanted.append(_TOLD[state])
            for one_of in wanted:
                name = next((name for name in sorted(one_of) if names[name] > 0), None)
                if name is None:
                    problems.append(
                        f"{test}: {place}: {was} to {state} is not told: {dict(told[place])}"
                    )
                else:
                    names[name] -= 1
        for name in +names:
            killed = not pids[place] <= seen.ended
            if place not in seen.perhaps and not killed:
                problems.append(f"{place}: {name} is told, and nothing of it was committed")
    return problems


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1], Path(sys.argv[2])), 1))
