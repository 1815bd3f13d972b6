"""The root key of a store, and the masters that open it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from strongroom import _events, _native
from strongroom.errors import DecryptionError, FormatError, MasterKeyError
from strongroom.keys import sql
from strongroom.keys.database import Transaction
from strongroom.keys.key import moment
from strongroom.keys.rows import MasterRow, StoreRow, damaged, digest, sealed, verified
from strongroom.masters import wrapped
from strongroom.masters.wrapped import MasterKeyProvider

__all__ = [
    "Head",
    "MasterInfo",
    "check_master",
    "describe",
    "has_master",
    "has_wrapping",
    "info",
    "locked",
    "master_row",
    "new_rows",
    "open_root",
    "read_head",
    "save",
    "verify_head",
]

_URI_BYTES = 4096


class MasterInfo(NamedTuple):
    """A master as a store knows it.

    Attributes:
        uri: What `open_master` takes.
        key_id: The master key's id, 32 hex digits.
        mechanism: The mechanism byte of kind 04 (FORMAT.md).
        recovery: Whether it is kept for emergencies.
        created: When it was added, in UTC.
    """

    uri: str
    key_id: str
    mechanism: int
    recovery: bool
    created: datetime


class Head:
    """The store's row and its masters' rows, as read: not authenticated until `verify_head`."""

    __slots__ = ("masters", "store")

    def __init__(self, store: tuple[object, ...], masters: list[tuple[object, ...]]) -> None:
        self.store = store
        self.masters = masters


def read_head(transaction: Transaction, *, lock: bool = False) -> Head:
    """Read the store's row and its masters.

    Raises:
        KeyStoreError: They aren't there.
    """
    statement = sql.SELECT_STORE + (transaction.for_update if lock else "")
    stores = transaction.execute(statement)
    if len(stores) != 1:
        raise damaged("the store's own row is missing")
    return Head(stores[0], transaction.execute(sql.SELECT_MASTERS))


def describe(head: Head) -> list[MasterInfo]:
    """Return what a store says of its masters, before anything is authenticated."""
    return [info(row) for row in _loose_masters(head)]


def open_root(master: MasterKeyProvider, head: Head) -> tuple[_native.MemoryLockedKey, MasterRow]:
    """Unwrap the store's root key by one of its masters.

    Returns:
        The root, and the row of the master that opened it, which `verify_head` authenticates.

    Raises:
        MasterKeyError: It is none of the store's masters (a wrong key or passphrase), or refused.
        KeyStoreError: It is one, but the wrapped root was changed.
        LimitError: A passphrase's cost in the store is above what the format allows.
        TypeError: It is no master.
    """
    # Not the whole protocol: to look at a passphrase's key_id is a run of Argon2id.
    if not hasattr(master, "unwrap"):
        raise _no_master(master)
    root_id = _text(head.store, sql.STORE, "root_id")
    refusal: MasterKeyError | None = None
    for row in _loose_masters(head):
        try:
            mechanism, wrapping_id, _ = wrapped.parse(row.wrapped)
            if hasattr(master, "version"):
                if wrapped.wrapped_by(master, mechanism, wrapping_id) is None:
                    continue
            elif mechanism != getattr(master, "mechanism", wrapped.SERVICE) or (
                mechanism != wrapped.PASSPHRASE and wrapping_id != master.key_id
            ):
                continue
            return wrapped.unwrap_with(master, row.wrapped, root_id), row
        except MasterKeyError as error:
            refusal = error
        except (DecryptionError, FormatError, ValueError) as error:
            if isinstance(error, ValueError) and not isinstance(error, FormatError):
                raise
            raise damaged(f"the root key wrapped by {row.uri!r} does not open") from None
    _events.report_failure("master.refused", master=master.uri, store=root_id)
    if refusal is not None:
        raise refusal
    known = ", ".join(row.uri for row in _loose_masters(head)) or "none"
    raise MasterKeyError(
        f"wrong master: {master.uri} (key id {master.key_id}) does not open this store; "
        f"its masters are: {known}"
    )


def verify_head(root: _native.MemoryLockedKey, head: Head) -> tuple[StoreRow, list[MasterRow]]:
    """Authenticate the store's row and its masters.

    Raises:
        KeyStoreError: A row was edited, added, dropped or put back.
    """
    store = verified(root, StoreRow, head.store)
    masters = [verified(root, MasterRow, values) for values in head.masters]
    if store.root_id != root.key_id or store.schema_version != sql.SCHEMA_VERSION:
        raise damaged("the store's own row is another store's")
    if digest(masters) != store.masters_digest:
        raise damaged("its masters are not those that its own row names")
    return store, masters


def locked(
    transaction: Transaction, root: _native.MemoryLockedKey
) -> tuple[StoreRow, list[MasterRow]]:
    """Read and authenticate the head of a store, and keep others off it until the commit."""
    return verify_head(root, read_head(transaction, lock=True))


def save(
    transaction: Transaction,
    root: _native.MemoryLockedKey,
    store: StoreRow,
    masters: list[MasterRow],
) -> None:
    """Write the store's row for a new set of masters."""
    row = sealed(
        root,
        store._replace(generation=store.generation + 1, masters_digest=digest(masters)),
    )
    transaction.execute(sql.UPDATE_STORE, (*row, row.id))


def has_master(key_id: str, *, present: bool) -> Callable[[Transaction], bool]:
    """Return a function that tells whether a master is there, or isn't."""

    def landed(transaction: Transaction) -> bool:
        rows = read_head(transaction).masters
        return any(row[0] == key_id for row in rows) is present

    return landed


def has_wrapping(data: bytes) -> Callable[[Transaction], bool]:
    """Return a function that tells whether the root is there wrapped like this."""

    def landed(transaction: Transaction) -> bool:
        return any(data in row for row in read_head(transaction).masters)

    return landed


def new_rows(
    root: _native.MemoryLockedKey, master: MasterKeyProvider, cache_seconds: int, now: int
) -> tuple[StoreRow, MasterRow]:
    """Wrap a new root by a store's first master, and return the two rows."""
    row = master_row(root, master, now, recovery=False)
    store = StoreRow(
        1, sql.SCHEMA_VERSION, root.key_id, cache_seconds, 1, digest([row]), digest([]), now
    )
    return sealed(root, store), row


def master_row(
    root: _native.MemoryLockedKey,
    master: MasterKeyProvider,
    now: int,
    *,
    recovery: bool,
    replaces: bytes | None = None,
) -> MasterRow:
    """Wrap the root by a master and return its row.

    Args:
        root: The store's root key.
        master: The master.
        now: The time, in microseconds.
        recovery: Whether it is kept for emergencies.
        replaces: The root as the same master wraps it so far: a service brings that under its
            newest key by itself.

    Raises:
        MasterKeyError: The master refused.
        TypeError: It is no master.
    """
    check_master(master)
    if replaces is None:
        data = wrapped.wrap_with(master, root)
    else:
        data = wrapped.rewrap_with(master, replaces, root)
    uri = master.uri
    if not isinstance(uri, str) or len(uri.encode()) > _URI_BYTES:
        raise MasterKeyError(f"a master's uri is text of at most {_URI_BYTES} bytes")
    key_id = wrapped.parse(data).wrapping_id
    return sealed(root, MasterRow(key_id, uri, int(recovery), data, now))


def check_master(master: object) -> None:
    """Look that an object is a master.

    Raises:
        TypeError: It isn't.
    """
    if not isinstance(master, MasterKeyProvider):
        raise _no_master(master)


def _no_master(master: object) -> TypeError:
    return TypeError(
        "a master needs key_id, uri, wrap and unwrap: use FileMasterKey, PassphraseMasterKey "
        f"or open_master(uri), not {type(master).__name__}"
    )


def info(row: MasterRow) -> MasterInfo:
    """Return what a master's row says."""
    try:
        mechanism = wrapped.parse(row.wrapped).mechanism
    except FormatError:
        raise damaged(f"the root key wrapped by {row.uri!r} is no wrapped key") from None
    return MasterInfo(row.uri, row.key_id, mechanism, bool(row.recovery), moment(row.created))


def _loose_masters(head: Head) -> list[MasterRow]:
    """The masters' rows before the root is there to authenticate them: types are checked."""
    types = {"int": int, "text": str, "blob": bytes}
    rows = []
    for values in head.masters:
        for column, value in zip(sql.MASTERS.columns, values, strict=True):
            if type(value) is not types[column.kind]:
                raise damaged(f"column {column.name} of a master's row has another type")
        rows.append(MasterRow(*values))  # type: ignore[arg-type]
    return rows


def _text(values: tuple[object, ...], table: sql.Table, name: str) -> str:
    value = values[[column.name for column in table.columns].index(name)]
    if not isinstance(value, str) or len(value) != 32:
        raise damaged(f"column {name} of the store's own row is no key id")
    return value
