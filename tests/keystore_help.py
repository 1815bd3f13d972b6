"""What the tests of key stores share: places to put one, and hands to change its rows with."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from strongroom import FileMasterKey, KeyStore

UNKNOWN_ID = "00" * 16


class Place:
    """A place for one store, its master, and a way past the library to its rows."""

    kind = "sqlite"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "keys.db"
        self.url = f"sqlite:///{self.path}"
        self.master = FileMasterKey.create(directory / "master.key")

    @property
    def shown(self) -> str:
        """The URL as it is shown, without a password."""
        return self.url

    def create(self, **options: Any) -> KeyStore:
        return KeyStore.create(self.url, self.master, **options)

    def open(self, **options: Any) -> KeyStore:
        return KeyStore.open(self.url, self.master, **options)

    def other(self, name: str) -> Self:
        """Another place of the same kind."""
        directory = self.directory / name
        directory.mkdir()
        return type(self)(directory)

    @contextlib.contextmanager
    def statements(self) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
        """A connection to the store's database, as someone who edits it would have one."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            yield lambda statement, *values: connection.execute(statement, values).fetchall()

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement."""
        with self.statements() as run:
            return run(statement, *values)

    def copy(self) -> Any:
        """Return all rows of all tables, to be put back."""
        with self.statements() as run:
            return {table: run(f"SELECT * FROM {table}") for table in TABLES}

    def put_back(self, copy: Any) -> None:
        with self.statements() as run:
            for table, rows in copy.items():
                run(f"DELETE FROM {table}")
                for row in rows:
                    run(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)


class PostgresPlace(Place):
    """A database of its own on the tests' server."""

    kind = "postgresql"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        from postgres_help import server

        self.server = server()
        self.url = self.server.new_database()

    @property
    def shown(self) -> str:
        return self.url.replace(f":{self.server.password}", "")

    @contextlib.contextmanager
    def statements(self) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:

            def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
                cursor = connection.execute(statement.replace("?", "%s"), values or None)
                return cursor.fetchall() if cursor.description else []

            yield run


TABLES = (
    "strongroom_store",
    "strongroom_masters",
    "strongroom_keysets",
    "strongroom_keys",
    "strongroom_wrapped",
    "strongroom_uses",
    "strongroom_usage",
    "strongroom_leases",
    "strongroom_backups",
    "strongroom_held",
)


PLACES = (Place, PostgresPlace)


@pytest.fixture(params=PLACES, ids=lambda kind: kind.kind)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for a store, of either kind."""
    made: Place = request.param(tmp_path)
    return made


@pytest.fixture
def store(place: Place) -> Iterator[KeyStore]:
    with place.create() as store:
        yield store


class Clock:
    """A clock that tests set: `ns` stands in for time.time_ns, calling it for time.monotonic."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def ns(self) -> int:
        return int(self.seconds * 1e9)

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(KeyStore, "_clock", staticmethod(clock.ns))
    monkeypatch.setattr(KeyStore, "_monotonic", staticmethod(clock))
    return clock


def seeded() -> random.Random:
    """A generator of its own in each run; the seed is printed, for a failure to be repeated."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)
