"""The store in a PostgreSQL database, through psycopg 3 (the extra `postgres`).

A reader sees one state of the store by REPEATABLE READ. A writer locks the row of what it
changes first (`Transaction.for_update`) and then, at READ COMMITTED, reads what is committed.
Connections are in autocommit mode: every BEGIN and COMMIT is written here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from strongroom.errors import KeyStoreBusyError, KeyStoreError
from strongroom.keys import sql
from strongroom.keys.database import Backoff, Transaction
from strongroom.keys.pool import Pool

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresDatabase", "create_tables"]

T = TypeVar("T")

TYPES = {"int": "BIGINT", "text": "TEXT", "blob": "BYTEA"}
CONNECT_SECONDS = 10
# Up to this size destroying a key rewrites the table of wrapped keys: some hundred thousand keys,
# and less than a second under its lock. Above, VACUUM FULL is the administrator's to run.
REWRITE_BYTES = 64 * 1024 * 1024

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_EXISTS = "SELECT to_regclass('strongroom_store') IS NOT NULL"

# SQLSTATEs: what to wait for, and what to do again.
_LOCKED = ("55P03",)  # lock_not_available
_AGAIN = (
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "23505",  # unique_violation: another process made the same row first, and is looked at then
)


class _Transaction:
    for_update = " FOR UPDATE"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(_marked(statement), values)
        return cursor.fetchall() if cursor.description else []


class _AnswerLostError(Exception):
    """The connection broke during COMMIT."""


class PostgresDatabase:
    """A store's database on a server. See `Database` for the methods."""

    def __init__(self, url: str, *, busy_timeout: float, read_only: bool) -> None:
        _driver()
        self.url = _shown(url)
        self.read_only = read_only
        self._busy_timeout = busy_timeout
        self._pool: Pool[psycopg.Connection[Any]] = Pool(
            lambda: _connect(url, busy_timeout, read_only)
        )

    def schema_version(self) -> int:
        """See `Database`."""

        def look(transaction: Transaction) -> int:
            if transaction.execute(_EXISTS) != [(True,)]:
                raise KeyStoreError(f"{self.url} holds no key store")
            rows = transaction.execute(sql.SELECT_VERSION)
            version = rows[0][0] if rows else None
            if type(version) is not int:
                raise KeyStoreError(f"the key store {self.url} is damaged: it has no version")
            if version > sql.SCHEMA_VERSION:
                raise KeyStoreError(
                    f"{self.url} has schema {version}, made by a newer release; this one reads "
                    f"up to {sql.SCHEMA_VERSION}: update strongroom on this machine"
                )
            if version != sql.SCHEMA_VERSION and version not in sql.OLD_TABLES:
                raise KeyStoreError(f"the key store {self.url} is damaged: its version is none")
            return version

        return self.read(look)

    def read(self, function: Callable[[Transaction], T]) -> T:
        """See `Database`."""
        return self._attempts(lambda connection: _run(connection, _READ, function))

    def write(
        self,
        function: Callable[[Transaction], T],
        landed: Callable[[Transaction], bool],
        *,
        patience: float | None = None,
    ) -> T:
        """See `Database`."""
        if self.read_only:
            raise KeyStoreError("the key store was opened read-only")
        done: list[T] = []

        def work(transaction: Transaction) -> T:
            done[:] = [function(transaction)]
            return done[0]

        backoff = Backoff(self._busy_timeout)
        while True:
            try:
                return self._attempts(lambda connection: _run(connection, _WRITE, work), patience)
            except _AnswerLostError as lost:
                # Whether it was committed is looked up; if not, the same work is done again. A
                # key that was made for it is not made anew.
                try:
                    there = self.read(landed)
                except KeyStoreError as error:
                    raise KeyStoreError(
                        f"the key store {self.url} was lost while it committed, so whether the "
                        f"change was made is not known: look before doing it again ({error})"
                    ) from error
                if there:
                    return done[0]
                if not backoff.again():
                    raise KeyStoreError(
                        f"the key store {self.url} was lost whenever it committed, for more than "
                        f"{self._busy_timeout:g} s; nothing was changed so far"
                    ) from lost

    def rebuild(self, function: Callable[[Transaction], T]) -> T:
        """See `Database`."""
        return self.write(function, lambda _: False)

    def erase(self) -> None:
        """See `Database`: the server's own log and its archives keep what they have."""

        def vacuum(connection: psycopg.Connection[Any]) -> None:
            (row,) = connection.execute("SELECT pg_total_relation_size('strongroom_wrapped')")
            full = "FULL " if row[0] <= REWRITE_BYTES else ""
            connection.execute(f"VACUUM {full}strongroom_wrapped")

        try:
            self._attempts(vacuum)
        except KeyStoreBusyError:
            raise KeyStoreBusyError(
                "another process reads the key store, so the bytes of the destroyed key are "
                "still in its table's free space: call KeyStore.erase_deleted() again later"
            ) from None

    def check(self) -> None:
        """See `Database`: a server looks after its own pages."""

    def create_statements(self) -> list[str]:
        """See `Database`."""
        return sql.create_statements(TYPES)

    def close(self) -> None:
        """See `Database`."""
        self._pool.close()

    def abandon(self) -> None:
        """See `Database`."""
        self._pool.abandon()

    def _attempts(
        self, function: Callable[[psycopg.Connection[Any]], T], patience: float | None = None
    ) -> T:
        import psycopg

        backoff = Backoff(self._busy_timeout, patience)
        while True:
            connection, new = self._pool.take()
            try:
                return function(connection)
            except psycopg.Error as error:
                # A connection that lay idle may have been closed by the server long ago.
                if connection.broken and not new:
                    continue
                if error.sqlstate in _AGAIN and backoff.again():
                    continue
                if error.sqlstate in _LOCKED or error.sqlstate in _AGAIN:
                    raise KeyStoreBusyError(
                        f"the key store {self.url} is locked by another process, "
                        f"for more than {self._busy_timeout:g} s; try again"
                    ) from None
                raise KeyStoreError(f"the key store {self.url} failed: {_text(error)}") from error
            finally:
                idle = psycopg.pq.TransactionStatus.IDLE
                self._pool.give(connection, sound=connection.info.transaction_status == idle)


def create_tables(url: str, fill: Callable[[Transaction], None], *, busy_timeout: float) -> None:
    """Make a store's tables in a database and fill them, in one transaction.

    Raises:
        KeyStoreError: The database holds a store, or can't be reached.
    """
    driver = _driver()
    shown = _shown(url)

    def make(transaction: Transaction) -> None:
        if transaction.execute(_EXISTS) == [(True,)]:
            raise KeyStoreError(f"{shown} holds a key store already")
        for statement in sql.create_statements(TYPES):
            transaction.execute(statement)
        fill(transaction)

    connection = _connect(url, busy_timeout, False)
    try:
        _run(connection, _WRITE, make)
    except driver.errors.UniqueViolation:
        raise KeyStoreError(f"{shown} holds a key store already") from None
    except _AnswerLostError as error:
        raise KeyStoreError(f"the key store {shown} may have been made: open it") from error
    except driver.Error as error:
        raise KeyStoreError(f"the key store {shown} failed: {_text(error)}") from error
    finally:
        connection.close()


def _connect(url: str, busy_timeout: float, read_only: bool) -> psycopg.Connection[Any]:
    driver = _driver()
    try:
        connection: psycopg.Connection[Any] = driver.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="strongroom",
            client_encoding="UTF8",
            # Prepared statements break behind some poolers, and gain nothing here.
            prepare_threshold=None,
        )
    except driver.Error as error:
        raise KeyStoreError(
            f"the key store {_shown(url)} can't be reached: {_text(error)}"
        ) from None
    try:
        # 0 would wait for ever.
        connection.execute(f"SET lock_timeout = {max(1, round(busy_timeout * 1000))}")
        connection.execute("SET synchronous_commit = on")
        if read_only:
            connection.execute("SET default_transaction_read_only = on")
    except BaseException:
        connection.close()
        raise
    return connection


def _driver() -> ModuleType:
    try:
        import psycopg
    except ImportError:
        raise KeyStoreError(
            "a key store in PostgreSQL needs psycopg: pip install 'strongroom[postgres]'"
        ) from None
    return psycopg


def _run(
    connection: psycopg.Connection[Any], begin: str, function: Callable[[Transaction], T]
) -> T:
    import psycopg

    connection.execute(begin)
    try:
        result = function(_Transaction(connection))
    except BaseException:
        if not connection.broken:
            connection.execute("ROLLBACK")
        raise
    try:
        connection.execute("COMMIT")
    except psycopg.Error as error:
        if not connection.broken:
            raise
        if begin == _WRITE:
            raise _AnswerLostError from error
        # What was read was read.
    return result


@functools.cache
def _marked(statement: str) -> str:
    return statement.replace("?", "%s")


def _shown(url: str) -> str:
    """Return a URL without what may be secret in it."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = [(k, v) for k, v in parse_qsl(parts.query) if k not in ("password", "sslpassword")]
    netloc = f"{user.partition(':')[0]}{at}{host}"
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query), ""))


def _text(error: psycopg.Error) -> str:
    # The server's message in one line; its details may quote rows.
    return error.diag.message_primary or " ".join(str(error).split())
