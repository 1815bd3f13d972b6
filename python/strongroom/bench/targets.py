"""The rows that this library is held to: work, peer, target, what was seen, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import files, further, process, works
from .peers import AESGCM, AESGCM_INTO, COBBLESTONE, TINK

REACHED: Final = "reached"
SHORT: Final = "short"
NO_VERDICT: Final = "control too low"
NOT_MEASURED: Final = "not measured"

# Two threads of a peer over one, in the same turns. Rows that use two cores hold from here on.
CONTROL_MIN: Final = 1.7
MIB: Final = 1 << 20

Groups = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        work: What is done.
        against: What it is measured against.
        target: What is to be reached, in words.
        seen: The figure, in words; "-" where there is none.
        value: The figure; None where there is none.
        verdict: One of this module's four words.
        control: Two threads of AESGCM over one, where the row uses two cores.
    """

    work: str
    against: str
    target: str
    seen: str
    value: float | None
    verdict: str
    control: float | None = None


def median(groups: Groups, group: str, name: str) -> float | None:
    """Return a contender's median in seconds, or None where it was not measured."""
    found = groups.get(group, {}).get(name)
    return None if found is None else float(found["median"])


def ratio(groups: Groups, group: str, above: str, below: str) -> float | None:
    """Return the ratio of two medians of one group, or None where one is not there."""
    over, under = median(groups, group, above), median(groups, group, below)
    return None if over is None or not under else over / under


def control_of(groups: Groups, group: str) -> float | None:
    """Return what two cores gave a peer in the turns of a group: 2 at best, 1 for nothing."""
    found = ratio(groups, group, works.ONE_THREAD, works.TWO_THREADS)
    return None if found is None else 2 * found


def rows(document: Mapping[str, Any], engine: str = "default") -> list[Row]:
    """Return all rows for one engine of a document, measured or not."""
    groups: Groups = document["engines"].get(engine, {}).get("groups", {})
    make = Rows(groups)
    for size, label, encrypt, decrypt in ((64, "64 B", 0.45, 0.85), (1024, "1 KiB", 0.55, 1.0)):
        del size
        for work, target in (("encrypt", encrypt), ("decrypt", decrypt)):
            group = f"{work} {label}"
            make.time(f"one record of {label}, {work}", group, works.RECORD, AESGCM, target)
    batch = _named(groups, "encrypt_many", "encrypt_many 100,000 x 256 B")
    back = _named(groups, "decrypt_many", "decrypt_many 100,000 x 256 B")
    loop, tink = f"loop over {AESGCM}", f"loop over {TINK}"
    make.speed(f"{batch}, list to list", batch, works.MANY, loop, 3.5)
    make.speed(f"{batch}, list to list", batch, works.MANY, tink, 4.5, goal=5)
    make.speed(f"{back}, list to list", back, works.MANY, loop, 2)
    make.speed(batch.replace("_many", "_packed"), batch, works.PACKED, loop, 6)
    make.speed("1 MiB, bytes to bytes", "encrypt 1 MiB", works.ENVELOPE, COBBLESTONE, 1.8)
    group = "encrypt 64 MiB"
    make.speed("64 MiB, bytes to new bytes", group, works.ENVELOPE, AESGCM, 4)
    make.speed("64 MiB, bytes to new bytes", group, works.ENVELOPE, COBBLESTONE, 4)
    make.into("64 MiB into a reused buffer", group, works.ENVELOPE_INTO, AESGCM_INTO, 1.3, 0.8)
    for work in ("encrypt", "decrypt"):
        group = _named(groups, f"{work} file", f"{work} file 1 GiB")
        name = f"{work}_file, {group.removeprefix(f'{work} file ')}, durable"
        make.time(name, group, files.LIBRARY, files.CP_SYNC, 1.2, two_cores=True)
        make.speed(name, group, files.LIBRARY, files.AGE, 2)
        if engine == "default":
            start = f"{work} {files.IN_MEMORY}"
            group = _named(groups, start, f"{start} 256 MiB")
            name = f"{work}_file, {group.removeprefix(f'{start} ')}, in memory and not on a disk"
            make.speed(name, group, files.LIBRARY, files.AGE, 2)
    for work in ("encrypt", "decrypt"):
        group = _named(groups, f"{work} tree", f"{work} tree 10,000 x 4 KiB")
        make.time(f"{group}, command", group, files.COMMAND, files.CP_TREE, 2.5, two_cores=True)
    group = _named(groups, "random reads", "random reads 1 GiB")
    make.difference(
        "4 KiB at random offsets through open()", group, files.OPEN_PREAD, files.PREAD, 15e-6, "us"
    )
    make.most(
        "chunks that such a read takes from the file",
        "two",
        document.get("chunks_read", {}).get(engine),
        2,
        "{:.2f}",
    )
    for work in ("encrypt", "decrypt"):
        group = f"keyset {work} 64 B"
        make.time(f"{work} of 64 B under a warm keyset", group, works.VERSIONED, works.RECORD, 1.3)
    got = median(groups, "get_key", works.GET_KEY)
    make.most("get_key, warm", "1 us", got, 1e-6, "{:.2f} us", 1e6)
    if engine == "default":
        _whole(make, document)
        for name, target in (
            (process.IMPORT, 0.030),
            (process.VERSION, 0.060),
            (process.COLD_DECRYPT, 0.100),
        ):
            make.difference(name, "start-up", name, process.BARE, target, "ms")
        for module in further.modules():
            module.rows(make, document)
    return make.rows


def _whole(make: Rows, document: Mapping[str, Any]) -> None:
    measured = document.get("memory", {})
    for size in measured or ("1 GiB",):
        peaks = measured.get(size, {})
        worst = max(peaks, key=peaks.__getitem__, default=None)
        name = f"peak memory of any file operation at {size}"
        name += f" (worst: {worst})" if worst else ""
        value = peaks[worst] if worst else None
        make.most(name, "64 MiB over idle", value, 64 * MIB, "{:.1f} MiB", 1 / MIB)
    held_up = document.get("held_up", {})
    control = held_up.get(process.HELD_UP_CONTROL)
    pauses = {name: value for name, value in held_up.items() if value is not control}
    for kind, words in (("gil", "by us (GIL)"), ("wall", "in all, waiting for a core included")):
        worst = max(pauses, key=lambda name: pauses[name][kind], default=None)
        name = f"another thread held up {words}" + (f" (worst: {worst})" if worst else "")
        value = pauses[worst][kind] if worst else None
        against = f"the control: {control[kind] * 1e3:.1f} ms" if control else ""
        make.most(name, "10 ms", value, 0.010, "{:.1f} ms", 1e3, against=against)


class Rows:
    """Collects the rows over the groups of one engine.

    Attributes:
        groups: What was measured, by group and contender.
        rows: Those so far.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.rows: list[Row] = []

    def time(
        self, work: str, group: str, ours: str, peer: str, target: float, *, two_cores: bool = False
    ) -> None:
        """Add a row: ours takes at most `target` of the peer's time."""
        value = ratio(self.groups, group, ours, peer)
        control = control_of(self.groups, group) if two_cores else None
        self._add(
            work,
            peer,
            f"at most {target:g} of its time",
            value,
            lambda x: x <= target,
            "{:.2f} of its time",
            control=control,
        )

    def speed(
        self,
        work: str,
        group: str,
        ours: str,
        peer: str,
        target: float,
        *,
        goal: float | None = None,
    ) -> None:
        """Add a row: ours is at least `target` times as fast as the peer."""
        value = ratio(self.groups, group, peer, ours)
        words = f"{target:g} times as fast" + (f" (goal {goal:g})" if goal else "")
        control = control_of(self.groups, group)
        self._add(work, peer, words, value, lambda x: x >= target, "{:.2f} times", control=control)

    def into(
        self, work: str, group: str, ours: str, peer: str, target: float, share: float
    ) -> None:
        """Add a row: as `speed`, or `share` of what two cores gave the peer, the lower counts."""
        value = ratio(self.groups, group, peer, ours)
        control = control_of(self.groups, group)
        bound = target if control is None else min(target, share * control)
        words = f"{target:g} times as fast, or {share:g} of the control"
        self._add(work, peer, words, value, lambda x: x >= bound, "{:.2f} times", control=control)

    def difference(
        self, work: str, group: str, ours: str, peer: str, target: float, unit: str
    ) -> None:
        """Add a row: ours takes at most `target` seconds more than the peer."""
        over, under = median(self.groups, group, ours), median(self.groups, group, peer)
        value = None if over is None or under is None else over - under
        factor = {"us": 1e6, "ms": 1e3}[unit]
        words = f"at most {target * factor:g} {unit} more"
        shown = "{:.1f} " + unit + " more"
        self._add(work, peer, words, value, lambda x: x <= target, shown, factor)

    def most(
        self,
        work: str,
        target: str,
        value: float | None,
        bound: float,
        shown: str,
        factor: float = 1,
        *,
        against: str = "",
    ) -> None:
        """Add a row: a figure of our own, times `factor` in `shown`, is at most `bound`."""
        self._add(work, against, f"at most {target}", value, lambda x: x <= bound, shown, factor)

    def _add(
        self,
        work: str,
        against: str,
        target: str,
        value: float | None,
        holds: Callable[[float], bool],
        shown: str,
        factor: float = 1,
        control: float | None = None,
    ) -> None:
        if value is None:
            seen, verdict = "-", NOT_MEASURED
        else:
            seen = shown.format(value * factor)
            if holds(value):
                verdict = REACHED
            elif control is not None and control < CONTROL_MIN:
                verdict = NO_VERDICT
            else:
                verdict = SHORT
        self.rows.append(Row(work, against, target, seen, value, verdict, control))


def _named(groups: Groups, start: str, otherwise: str) -> str:
    """Return the group whose name begins so: a quick run has another size in it."""
    return next((name for name in groups if name.startswith(f"{start} ")), otherwise)
