"""The schema of the key store and every SQL statement, for SQLite and PostgreSQL alike.

Parameters are written `?`; a driver with another style translates. No statement holds a literal
question mark or per cent sign. No column is NULL: what isn't there is 0 or empty, so that a
row's MAC has one reading. Times are microseconds since 1970 UTC.

`SELECT_VERSION` is the one statement that every version of the schema, past and future, must
answer, so that old code can tell a newer store from a damaged one.
"""

# ruff: noqa: S608  (statements are put together from the constants below alone)

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SCHEMA_VERSION", "TABLES", "Column", "Table", "create_statements", "insert"]

SCHEMA_VERSION = 1


class Column(NamedTuple):
    """A column: its name, its kind ("int", "text" or "blob") and its constraint in SQL."""

    name: str
    kind: str
    constraint: str = ""


class Table(NamedTuple):
    """A table. Its last column is the row's MAC, over the table's name and all other columns."""

    name: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> str:
        """The columns' names in schema order, with commas."""
        return ", ".join(column.name for column in self.columns)


STORE = Table(
    "strongroom_store",
    (
        Column("id", "int", "PRIMARY KEY CHECK (id = 1)"),
        Column("schema_version", "int"),
        Column("root_id", "text"),
        Column("cache_seconds", "int"),
        Column("generation", "int"),
        Column("masters_digest", "blob"),
        Column("leases_digest", "blob"),
        Column("created", "int"),
        Column("mac", "blob"),
    ),
)
MASTERS = Table(
    "strongroom_masters",
    (
        Column("key_id", "text", "PRIMARY KEY"),
        Column("uri", "text"),
        Column("recovery", "int"),
        Column("wrapped", "blob"),
        Column("created", "int"),
        Column("mac", "blob"),
    ),
)
KEYSETS = Table(
    "strongroom_keysets",
    (
        Column("name", "text", "PRIMARY KEY"),
        Column("purpose", "text"),
        Column("primary_id", "text"),
        Column("generation", "int"),
        Column("digest", "blob"),
        Column("policy", "text"),
        # Of the purpose "database": the id of the one database that it belongs to, and that
        # database's cipher settings, which are nowhere else if its files are lost.
        Column("database_id", "text"),
        Column("database_settings", "text"),
        Column("created", "int"),
        Column("destroyed", "int"),
        Column("mac", "blob"),
    ),
)
KEYS = Table(
    "strongroom_keys",
    (
        Column("key_id", "text", "PRIMARY KEY"),
        Column("keyset", "text"),
        Column("version", "int"),
        Column("state", "text"),
        Column("since", "int"),
        Column("created", "int"),
        Column("activated", "int"),
        Column("deactivated", "int"),
        Column("reason", "text"),
        # The rotation of a database that made the key, until which it is no one else's.
        Column("rotation", "text"),
        # When `destroy_due` destroys it, 0 for never.
        Column("destroy_after", "int"),
        Column("mac", "blob"),
    ),
)
# The wrapped keys have a table of their own, because SQLite's secure_delete zeroes a deleted row
# where it is, not the copies that were left in a page's free space when rows moved between pages.
# Here none ever move: rows are appended, never deleted, and a destroyed key is overwritten by
# zeros of the same length.
WRAPPED = Table(
    "strongroom_wrapped",
    (
        Column("key_id", "text", "PRIMARY KEY"),
        Column("wrapped", "blob"),
        Column("mac", "blob"),
    ),
)
# What must outlive a key: databases keyed with it, files found under it. One row a use.
USES = Table(
    "strongroom_uses",
    (
        Column("id", "text", "PRIMARY KEY"),
        Column("key_id", "text"),
        Column("name", "text"),
        Column("created", "int"),
        Column("mac", "blob"),
    ),
)
# Statistics: how much a key was used. Not bound by the keyset's head: a lost or old row here
# changes no decision.
USAGE = Table(
    "strongroom_usage",
    (
        Column("key_id", "text", "PRIMARY KEY"),
        Column("last_day", "int"),
        Column("messages", "int"),
        Column("volume", "int"),
        Column("opened", "int"),
        Column("mac", "blob"),
    ),
)
# Messages granted of keys with a hard limit, tokens' keys too. Bound by the store's own row.
LEASES = Table(
    "strongroom_leases",
    (
        Column("key_id", "text", "PRIMARY KEY"),
        Column("spent", "int"),
        Column("most", "int"),
        Column("mac", "blob"),
    ),
)
# The backups that were made of the store, and of each key the first one that holds it. Not bound:
# a row that is lost here makes a key look as if no backup held it, which is the safe side.
BACKUPS = Table(
    "strongroom_backups",
    (
        Column("id", "text", "PRIMARY KEY"),
        Column("name", "text"),
        Column("generation", "int"),
        Column("number", "int"),
        Column("created", "int"),
        Column("mac", "blob"),
    ),
)
HELD = Table(
    "strongroom_held",
    (
        Column("key_id", "text", "PRIMARY KEY"),
        Column("backup", "text"),
        Column("mac", "blob"),
    ),
)
TABLES = (STORE, MASTERS, KEYSETS, KEYS, WRAPPED, USES, USAGE, LEASES, BACKUPS, HELD)
# The tables of older versions, for migrate.py.
OLD_TABLES: dict[int, tuple[Table, ...]] = {}

_INDEXES = (
    # Without these two, concurrent rotations under a driver's default transactions make two
    # primaries or two keys of one version, and no one is told.
    "CREATE UNIQUE INDEX strongroom_keys_version ON strongroom_keys (keyset, version)",
    "CREATE UNIQUE INDEX strongroom_keys_active ON strongroom_keys (keyset) WHERE state = 'active'",
    "CREATE INDEX strongroom_uses_key ON strongroom_uses (key_id)",
)


def create_statements(types: dict[str, str], tables: tuple[Table, ...] = TABLES) -> list[str]:
    """Return the statements that make an empty store.

    Args:
        types: The database's names of the kinds "int", "text" and "blob".
        tables: The schema's tables.
    """
    statements = []
    for table in tables:
        columns = ", ".join(
            f"{c.name} {types[c.kind]} NOT NULL {c.constraint}".rstrip() for c in table.columns
        )
        statements.append(f"CREATE TABLE {table.name} ({columns})")
    return [*statements, *_INDEXES]


def insert(table: Table) -> str:
    """Return the statement that inserts a whole row."""
    marks = ", ".join("?" for _ in table.columns)
    return f"INSERT INTO {table.name} ({table.names}) VALUES ({marks})"


def _update(table: Table) -> str:
    """An update of a whole row by its first column: every column in order, then the key."""
    assignments = ", ".join(f"{c.name} = ?" for c in table.columns)
    return f"UPDATE {table.name} SET {assignments} WHERE {table.columns[0].name} = ?"


def _select(table: Table, where: str = "") -> str:
    return f"SELECT {table.names} FROM {table.name} {where}".rstrip()


def _beside_keys(table: Table) -> str:
    """The rows of a table that has one row a key, of the keys of the keysets between two names."""
    columns = ", ".join(f"t.{c.name}" for c in table.columns)
    return (
        # CROSS JOIN, or SQLite might begin with all of the other table.
        f"SELECT {columns} FROM strongroom_keys k CROSS JOIN {table.name} t "
        "WHERE k.keyset > ? AND k.keyset <= ? AND t.key_id = k.key_id"
    )


SELECT_VERSION = "SELECT schema_version FROM strongroom_store WHERE id = 1"

SELECT_STORE = _select(STORE)
INSERT_STORE = insert(STORE)
UPDATE_STORE = _update(STORE)

SELECT_MASTERS = _select(MASTERS)
INSERT_MASTER = insert(MASTERS)
DELETE_MASTER = "DELETE FROM strongroom_masters WHERE key_id = ?"

SELECT_KEYSET = _select(KEYSETS, "WHERE name = ?")
INSERT_KEYSET = insert(KEYSETS)
UPDATE_KEYSET = _update(KEYSETS)

SELECT_KEYSET_OF_KEY = "SELECT keyset FROM strongroom_keys WHERE key_id = ?"
_SELECT_WHOLE_KEYS = (
    "SELECT "
    + ", ".join(f"k.{c.name}" for c in KEYS.columns)
    + ", "
    + ", ".join(f"w.{c.name}" for c in WRAPPED.columns)
    + " FROM strongroom_keys k LEFT JOIN strongroom_wrapped w ON w.key_id = k.key_id"
)
# The columns of a key, then those of its wrapping.
SELECT_KEYS = f"{_SELECT_WHOLE_KEYS} WHERE k.keyset = ?"
# Of the keysets after one name (the first parameter) up to another: in the order of the database,
# whatever that is, and the empty text comes before every name.
SELECT_KEYS_BETWEEN = f"{_SELECT_WHOLE_KEYS} WHERE k.keyset > ? AND k.keyset <= ?"
SELECT_KEYSET_AFTER = "SELECT keyset FROM strongroom_keys WHERE keyset > ? LIMIT 1"
INSERT_KEY = insert(KEYS)
UPDATE_KEY = _update(KEYS)
INSERT_WRAPPED = insert(WRAPPED)
UPDATE_WRAPPED = _update(WRAPPED)

SELECT_USES = _select(USES, "WHERE key_id = ?")
INSERT_USE = insert(USES)
DELETE_USE = "DELETE FROM strongroom_uses WHERE id = ?"

SELECT_USAGE = _select(USAGE, "WHERE key_id = ?")
SELECT_USAGE_BETWEEN = _beside_keys(USAGE)
INSERT_USAGE = insert(USAGE)
UPDATE_USAGE = _update(USAGE)

SELECT_LEASES = _select(LEASES)
INSERT_LEASE = insert(LEASES)
UPDATE_LEASE = _update(LEASES)

SELECT_BACKUPS = _select(BACKUPS)
INSERT_BACKUP = insert(BACKUPS)
SELECT_HELD = _select(HELD, "WHERE key_id = ?")
SELECT_HELD_BETWEEN = _beside_keys(HELD)
INSERT_HELD = insert(HELD) + " ON CONFLICT (key_id) DO NOTHING"


def select_first(table: Table) -> str:
    """Return the statement that reads the first so many rows, in the order of the first column."""
    return _select(table, f"ORDER BY {table.columns[0].name} LIMIT ?")


def select_next(table: Table) -> str:
    """Return the statement that reads, after a value of the first column, so many rows more."""
    first = table.columns[0].name
    return _select(table, f"WHERE {first} > ? ORDER BY {first} LIMIT ?")


def delete_all(table: Table) -> str:
    """Return the statement that empties a table."""
    return f"DELETE FROM {table.name}"
