"""How much each key was used: statistics, which decide nothing.

The core adds up messages and bytes by key for the whole process. A store takes from that what
concerns its own keys, and adds it to their rows when it is closed and when it reads a keyset again,
at most once in `FLUSH_SECONDS`. What a process that is killed had not written is lost.
"""

from __future__ import annotations

import contextlib
import threading
from typing import NamedTuple

from strongroom import _native
from strongroom.errors import KeyStoreError
from strongroom.keys import sql
from strongroom.keys.base import StoreBase
from strongroom.keys.database import Transaction
from strongroom.keys.rows import UsageRow, sealed, verified

__all__ = ["Usage", "UsageFigures", "figures_of"]

FLUSH_SECONDS = 60
# So long does a store that is closed wait for others that write: often they are closed too.
CLOSE_SECONDS = 2.0
_DAY = 86_400 * 1_000_000
_MOST = 2**63 - 1


class UsageFigures(NamedTuple):
    """How much a key was used, as all processes have written it down so far.

    Attributes:
        messages: Messages written under it.
        volume: Their plaintext in bytes.
        opened: Messages opened, verified or rewrapped.
        last_day: The last day of any use, "2026-01-31" in UTC, or None.
    """

    messages: int = 0
    volume: int = 0
    opened: int = 0
    last_day: str | None = None


class _Told:
    """What this process has told each store so far, by the id of the store's root."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._process = _native.process_generation()
        self._stores: dict[str, dict[str, tuple[int, int, int]]] = {}

    def take(self, store_id: str, totals: dict[str, _Total]) -> dict[str, _Total]:
        """Return what is new in some totals, and count it as told."""
        if self._process != _native.process_generation():
            # In a forked child the core begins at zero; the lock may be held by nobody.
            self._reset()
        with self._lock:
            told = self._stores.setdefault(store_id, {})
            new = {}
            for key_id, total in totals.items():
                before = told.get(key_id, (0, 0, 0))
                difference = tuple(a - b for a, b in zip(total[:3], before, strict=True))
                if any(difference):
                    told[key_id] = total[:3]
                    new[key_id] = (*difference, total[3])
            return new  # type: ignore[return-value]

    def give_back(self, store_id: str, new: dict[str, _Total]) -> None:
        """Take back what could not be written."""
        with self._lock:
            told = self._stores.setdefault(store_id, {})
            for key_id, difference in new.items():
                before = told.get(key_id, (0, 0, 0))
                told[key_id] = tuple(  # type: ignore[assignment]
                    a - b for a, b in zip(before, difference[:3], strict=True)
                )


# Messages, bytes, opened, day of the last use.
_Total = tuple[int, int, int, int]
_TOLD = _Told()


class Usage(StoreBase):
    """The methods of a `KeyStore` that tell how much its keys are used."""

    def usage_of(self, id: str) -> UsageFigures:
        """Return how much a key was used, as far as processes have written it down.

        Raises:
            KeyNotFoundError: There is no such key.
        """
        self._keyset_name_of(id)
        found = self._database.read(lambda t: t.execute(sql.SELECT_USAGE, (id,)))
        return figures_of(verified(self._root, UsageRow, found[0])) if found else UsageFigures()

    def flush_usage(self) -> None:
        """Write down now what this process counted; a store does that by itself, late.

        Raises:
            KeyStoreError: It could not be written; it is kept for the next time.
        """
        self._check()
        self._check_writable()
        self._flush_usage()

    def _count_from_now(self) -> None:
        """Begin to count: what came before this store was opened is none of its business."""
        if not self._database.read_only:
            _native.tally_enable_usage()
            self._flushed = self._monotonic()

    def _flush_usage_if_due(self) -> None:
        if self._database.read_only or self._monotonic() < self._flushed + FLUSH_SECONDS:
            return
        # Somebody waits for a keyset: a busy store is not waited for, and no failure matters.
        with contextlib.suppress(KeyStoreError):
            self._flush_usage(patience=0)

    def _flush_at_end(self) -> None:
        if not self._database.read_only:
            with contextlib.suppress(KeyStoreError):
                self._flush_usage(patience=CLOSE_SECONDS)

    def _flush_usage(self, *, patience: float | None = None) -> None:
        self._flushed = self._monotonic()
        if not self._sound:
            return
        # The keys that this store has given out; others' are another store's.
        totals = {i: total for i, total in _totals().items() if i in self._given}
        new = _TOLD.take(self._root_id, totals)
        if not new:
            return

        def work(transaction: Transaction) -> None:
            for key_id, (messages, volume, opened, day) in sorted(new.items()):
                statement = sql.SELECT_USAGE + transaction.for_update
                found = transaction.execute(statement, (key_id,))
                row = (
                    verified(self._root, UsageRow, found[0])
                    if found
                    else UsageRow(key_id, 0, 0, 0, 0)
                )
                row = row._replace(
                    last_day=max(row.last_day, day),
                    messages=min(row.messages + messages, _MOST),
                    volume=min(row.volume + volume, _MOST),
                    opened=min(row.opened + opened, _MOST),
                )
                values = sealed(self._root, row)
                if found:
                    transaction.execute(sql.UPDATE_USAGE, (*values, key_id))
                else:
                    transaction.execute(sql.INSERT_USAGE, values)

        try:
            # A lost answer counts as written: nothing depends on it.
            self._database.write(work, lambda _: True, patience=patience)
        except BaseException:
            _TOLD.give_back(self._root_id, new)
            raise


def _totals() -> dict[str, _Total]:
    totals: dict[str, _Total] = {}
    for key_id, operation, outcome, messages, size, _, last in _native.tally_snapshot():
        if key_id is None or outcome != "success":
            continue
        written, volume, opened, day = totals.get(key_id, (0, 0, 0, 0))
        if operation == "encrypt":
            written, volume = written + messages, volume + size
        else:
            opened += messages
        totals[key_id] = (written, volume, opened, max(day, last // _DAY))
    return totals


def figures_of(row: UsageRow) -> UsageFigures:
    """Return what a row says."""
    from strongroom.keys.key import moment

    day = f"{moment(row.last_day * _DAY):%Y-%m-%d}" if row.last_day else None
    return UsageFigures(row.messages, row.volume, row.opened, day)
