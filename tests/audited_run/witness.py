"""Sees every change of a key's state where it is committed, without a look at the audit log.

`make audited` runs all tests with an audit log on, and this in each of their Python processes, also
those that tests start: it stands around the function of each driver that runs a transaction, reads
the rows of keys at its end by SQL of its own, and writes down what is new: before the COMMIT as
"meant", after it as "done". `check_log.py` compares that with the log.

WITNESS_FILE is where it writes, a line of JSON each; WITNESS_LOG the audit log.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.machinery
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

FILE = os.environ.get("WITNESS_FILE", "")
LOG = os.environ.get("WITNESS_LOG", "")

_DRIVERS = ("strongroom.keys.sqlite", "strongroom.keys.postgres")
_ROWS = (
    "SELECT k.key_id, k.keyset, k.state, s.generation, t.root_id FROM strongroom_keys k "
    "JOIN strongroom_keysets s ON s.name = k.keyset, strongroom_store t"
)
# PostgreSQL says itself which rows a transaction has written; others write at the same time.
_OWN = " WHERE k.xmin::text::bigint = txid_current() % 4294967296"
_numbers = itertools.count()


def install() -> None:
    """Begin to watch this process."""
    # Tests take variables of the library away from what they start; this is in every process.
    os.environ.setdefault("STRONGROOM_AUDIT", LOG)
    sys.meta_path.insert(0, _Finder())
    tell(what="begin")
    atexit.register(_tell_end)
    os.register_at_fork(after_in_child=lambda: tell(what="begin"))


def tell(**said: object) -> None:
    """Write a line, in one call: many processes do."""
    line = json.dumps({"pid": os.getpid(), **said}) + "\n"
    descriptor = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _tell_end() -> None:
    tell(what="end")


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _DRIVERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        loader: Any = spec and spec.loader
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                module._run = _watched(module._run)

            loader.exec_module = exec_module
        return spec


def _watched(run: Callable[..., Any]) -> Callable[..., Any]:
    def watched(connection: Any, begin: str, function: Callable[[Any], Any]) -> Any:
        if begin == "BEGIN" or "READ ONLY" in begin:
            return run(connection, begin, function)
        meant: dict[str, object] = {}

        def both(transaction: Any) -> Any:
            fresh = not _has_keys(connection)
            before = {row[0]: row[2] for row in _rows(connection)}
            result = function(transaction)
            # PostgreSQL shows the rows that were written, with no word of what they were.
            known = not _is_postgres(connection)
            keys = [
                [*row, before.get(row[0]) if known else "?"]
                for row in _rows(connection)
                if before.get(row[0]) != row[2]
            ]
            if keys:
                meant.update(
                    what="meant",
                    number=f"{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}",
                    # A store that is made, of new keys or of a backup's.
                    fresh=fresh,
                    keys=sorted(keys),
                    log=_log(),
                    test=os.environ.get("PYTEST_CURRENT_TEST", ""),
                )
                tell(**meant)
            return result

        result = run(connection, begin, both)
        if meant:
            tell(what="done", number=meant["number"])
        return result

    return watched


def _has_keys(connection: Any) -> bool:
    return _ask(connection, "SELECT 1 FROM strongroom_keys LIMIT 1") != []


def _rows(connection: Any) -> list[tuple[Any, ...]]:
    """Key id, keyset, state, generation of the keyset, store; of PostgreSQL's what is new."""
    own = _OWN if _is_postgres(connection) else ""
    return _ask(connection, _ROWS + own)


def _ask(connection: Any, query: str) -> list[tuple[Any, ...]]:
    if _is_postgres(connection):
        # An error would end the transaction.
        if connection.execute("SELECT to_regclass('strongroom_keys')").fetchone() == (None,):
            return []
        return connection.execute(query).fetchall()
    import sqlite3

    try:
        return connection.execute(query).fetchall()
    except sqlite3.Error:
        # No table yet, or one that a test has damaged.
        return []


def _is_postgres(connection: Any) -> bool:
    return type(connection).__module__.startswith("psycopg")


def _log() -> str | None:
    """The log to which this process reports now."""
    sink: Any = sys.modules["strongroom._events"]._sink
    return getattr(sink, "path", None)
