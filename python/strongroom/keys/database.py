"""Which database a URL names, and what the store asks of one.

A driver runs a function in a transaction and gives it a `Transaction`. It may run it again when
the database was busy, so the function keeps its effects to the transaction and its result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Backoff", "Database", "Transaction", "create", "open_database", "sqlite_path"]

T = TypeVar("T")

_FORMS = "sqlite:///path/to/keys.db or postgresql://user@host/database"


class Transaction(Protocol):
    """What a driver hands to a function that it runs."""

    # What a SELECT needs at its end to lock the rows that it reads until the commit.
    for_update: str

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement of `keys/sql.py` and return its rows, if it has any."""


class Database(Protocol):
    """A database that holds a store; safe to share between threads."""

    url: str
    read_only: bool

    def schema_version(self) -> int:
        """Return the store's schema version after looking that the tables are those of a store.

        Raises:
            KeyStoreError: It is no store, or one of a schema that this code doesn't know.
        """

    def read(self, function: Callable[[Transaction], T]) -> T:
        """Run a function in a read-only transaction that sees one state of the store."""

    def write(
        self,
        function: Callable[[Transaction], T],
        landed: Callable[[Transaction], bool],
        *,
        patience: float | None = None,
    ) -> T:
        """Run a function in a transaction that excludes other writers, and commit it durably.

        Args:
            function: What to do.
            landed: Tells, in a new transaction, whether the commit took place, for the case that
                the database's answer to it was lost.
            patience: Wait for others' locks for so many seconds at most; None: for as long as the
                busy timeout says.
        """

    def erase(self) -> None:
        """Overwrite what deleted rows left in the database's own files, as far as it can."""

    def rebuild(self, function: Callable[[Transaction], T]) -> T:
        """Run a function that drops the store's tables and makes them anew, as one transaction."""

    def check(self) -> None:
        """Run the database's own check over the whole store, if it has one.

        Raises:
            KeyStoreError: It found damage.
        """

    def create_statements(self) -> list[str]:
        """Return the statements that make the tables in this database's dialect."""

    def close(self) -> None:
        """Close what is idle now and the rest when its transaction ends."""

    def abandon(self) -> None:
        """Called in a forked child: make sure that nothing inherited is ever closed or used."""


class Backoff:
    """Waits between tries at a lock: from 1 ms to 25 ms, at random, until a deadline.

    Sleeping here, not in the database's own busy handler, is what lets Ctrl-C through.
    """

    def __init__(self, seconds: float, at_most: float | None = None) -> None:
        """Begin; `at_most` is a shorter time that one call has."""
        wait = seconds if at_most is None else min(seconds, at_most)
        self._deadline = time.monotonic() + wait
        self._step = 0.001

    def again(self) -> bool:
        """Sleep a while and return True, or return False when the time is up."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            return False
        import random

        time.sleep(min(left, self._step * random.uniform(0.5, 1.0)))  # noqa: S311
        self._step = min(self._step * 2, 0.025)
        return True


def sqlite_path(url: str) -> str | None:
    """Return the absolute path that an sqlite URL names, None for a URL of another scheme.

    Raises:
        TypeError: `url` is no text.
        ValueError: It is no URL of a store, or names no file.
    """
    if not isinstance(url, str):
        raise TypeError(f"a key store's URL must be str, not {type(url).__name__}")
    scheme, colon, rest = url.partition(":")
    if scheme in ("postgresql", "postgres") and rest.startswith("//"):
        return None
    if scheme != "sqlite" or not colon:
        raise ValueError(f"not the URL of a key store; write {_FORMS}")
    if not rest.startswith("///") or len(rest) == len("///"):
        raise ValueError("an sqlite URL has three slashes before the path: sqlite:///keys.db")
    path = rest[len("///") :]
    if path == ":memory:":
        raise ValueError("a key store in memory would lose its keys: name a file")
    if "\0" in path:
        raise ValueError("a path can't hold a zero byte")
    return os.path.abspath(path)


def open_database(url: str, *, busy_timeout: float, read_only: bool) -> Database:
    """Return the database that holds the store at `url`, without reading it yet.

    Raises:
        FileNotFoundError: There is no file of that name.
        KeyStoreError: What is there can't be opened.
    """
    path = sqlite_path(url)
    if path is not None:
        from strongroom.keys.sqlite import SqliteDatabase

        return SqliteDatabase(path, busy_timeout=busy_timeout, read_only=read_only)
    from strongroom.keys.postgres import PostgresDatabase

    return PostgresDatabase(url, busy_timeout=busy_timeout, read_only=read_only)


def create(url: str, fill: Callable[[Transaction], None], *, busy_timeout: float) -> None:
    """Make the tables of a store at `url` and fill them, all or nothing.

    Raises:
        FileExistsError: A file of that name is there, whatever it holds.
        KeyStoreError: The PostgreSQL database holds a store; or it can't be made.
    """
    path = sqlite_path(url)
    if path is not None:
        from strongroom.keys.sqlite import create_file

        create_file(path, fill)
        return
    from strongroom.keys.postgres import create_tables

    create_tables(url, fill, busy_timeout=busy_timeout)
