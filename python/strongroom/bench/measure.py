"""Interleaved timing: contenders take turns, and nobody is always first."""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

# More rounds than this don't move a median that the neighbours of a shared machine move.
ROUNDS_MAX: Final = 41


@dataclass
class Contender:
    """One way to do the work of a group.

    Attributes:
        name: As it stands in tables.
        stmt: What is timed, one operation: Python source without closures or attribute look-ups
            that the work doesn't need.
        names: The globals of `stmt`.
        size: Bytes of plaintext that one operation handles; 0 where a rate has no meaning.
        before: Called before each slice, outside the timing.
    """

    name: str
    stmt: str
    names: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    before: Callable[[], None] | None = None


@dataclass
class Pace:
    """How long a group may take.

    Attributes:
        slice_seconds: One turn of a contender: as many operations as fit, at least one; 0 for
            one operation a turn, whatever it takes. Where one fills a turn, one that isn't timed
            goes before it. With 0, a round goes before that isn't counted, unless the least rounds
            would take twice the budget.
        warm: With 0 too, one that isn't timed goes before each, unless as above.
        budget_seconds: All turns of a group; fewer rounds where it runs out.
        rounds_min: Rounds that are made whatever the budget says.
        rounds_max: The most rounds.
    """

    slice_seconds: float = 0.01
    budget_seconds: float = 5.0
    rounds_min: int = 5
    rounds_max: int = ROUNDS_MAX
    warm: bool = False


def interleave(contenders: Sequence[Contender], pace: Pace) -> dict[str, dict[str, Any]]:
    """Time all contenders in turns and return each one's statistics, in seconds an operation.

    There is no pause between turns: an idle core clocks down, and wakes slowly. Garbage collection
    is off while an operation is timed, as `timeit` does it, for all alike.

    Raises:
        Exception: What an operation raised, with the contender's name noted in it.
    """
    timers = [timeit.Timer(c.stmt, globals=c.names) for c in contenders]
    counts, firsts = [], []
    started = time.perf_counter()
    for contender, timer in zip(contenders, timers, strict=True):
        try:
            count, first = _calibrate(contender, timer, pace.slice_seconds)
        except Exception as error:
            error.add_note(f"contender: {contender.name}")
            raise
        counts.append(count)
        firsts.append(first)
    samples: list[list[float]] = [[] for _ in contenders]
    rounds = 0
    warm = pace.warm or pace.slice_seconds > 0
    if not pace.slice_seconds and sum(firsts) * pace.rounds_min > 2 * pace.budget_seconds:
        samples, rounds, warm = [[first] for first in firsts], 1, False
    else:
        started = time.perf_counter()
    while rounds < pace.rounds_max:
        for i in order(len(contenders), rounds):
            before = contenders[i].before or _nothing
            # Memory that lay free for a second may be the host's again: who gets it first pays.
            if counts[i] == 1 and warm:
                before()
                timers[i].timeit(1)
            before()
            samples[i].append(timers[i].timeit(counts[i]) / counts[i])
        rounds += 1
        spent = time.perf_counter() - started
        if rounds >= pace.rounds_min and spent + spent / rounds > pace.budget_seconds:
            break
    return {
        contender.name: {"size": contender.size, **statistics_of(times)}
        for contender, times in zip(contenders, samples, strict=True)
    }


def _nothing() -> None:
    pass


def order(count: int, turn: int) -> Iterator[int]:
    """Yield who goes when in round `turn`: another first each time, backwards in odd rounds.

    Backwards, since by rotation alone each would always follow the same neighbour and find the
    caches and the heap that it left.
    """
    for i in range(count):
        at = (i + turn // 2) % count
        yield count - 1 - at if turn % 2 else at


def statistics_of(times: Sequence[float]) -> dict[str, Any]:
    """Return median, quartiles, best and all samples of times in seconds."""
    if len(times) > 1:
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    else:
        low = high = times[0]
    return {
        "median": statistics.median(times),
        "low": low,
        "high": high,
        "best": min(times),
        "rounds": len(times),
        "samples": [float(f"{t:.6g}") for t in times],
    }


def _calibrate(contender: Contender, timer: timeit.Timer, seconds: float) -> tuple[int, float]:
    """Return how many operations fill so many seconds, and how long the last one took."""
    # The first call pays for what is made once; the second tells how long one takes.
    for _ in range(2 if seconds else 1):
        if contender.before is not None:
            contender.before()
        taken = timer.timeit(1)
    if taken < seconds:
        trial = max(1, int(seconds / taken / 4))
        if contender.before is not None:
            contender.before()
        taken = timer.timeit(trial) / trial
    return max(1, round(seconds / taken)), taken
