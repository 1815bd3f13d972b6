"""What is done to the database's own file: in a process of its own, see child.py.

There nothing opens the main file but SQLCipher, except the backup's descriptor, which is opened
before SQLite takes its lock and closed after it is gone: closing any other descriptor of the file
would drop the lock in silence. Nothing here knows of key stores, and no key is on record.
"""

# ruff: noqa: ANN401  (connections of sqlcipher3, which has no types)

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from strongroom.database import driver
from strongroom.database.journals import page_is_authentic
from strongroom.database.places import Places, own_as_database, size_of, sync_directory
from strongroom.database.settings import CipherSettings

__all__ = ["Busy", "Figures", "Proof", "Secrets", "exclusive", "figures_of", "prove"]

# How long one try waits for readers: then it lets go, and those who wait for us go on.
_TRY_SECONDS = 0.5
PAUSE_SECONDS = 0.001
_FICLONE = 0x40049409
_COPY = 1 << 26
# The bytes of SQLite's locks: PENDING, RESERVED and the 510 SHARED ones.
_LOCK_START, _LOCK_LENGTH = 0x40000000, 512


class Busy(Exception):
    """Another connection holds the database."""


class Proof(Exception):
    """The file is not what it must be; the text says in what."""


class Secrets:
    """The raw keys of a rotation and the key of its figures, wiped at the end."""

    def __init__(self, old: bytearray, new: bytearray, figures: bytearray) -> None:
        self.old = old
        self.new = new
        self.figures = figures

    def wipe(self) -> None:
        """Overwrite all."""
        for secret in (self.old, self.new, self.figures):
            driver.wipe(secret)


class Figures(NamedTuple):
    """What a rotation must leave as it was.

    Attributes:
        pages: Page count.
        rows: How many rows all tables have.
        digest: Keyed digest over the schema and each table's rows.
    """

    pages: int
    rows: int
    digest: str


def exclusive(
    places: Places, secret: bytearray, settings: CipherSettings, timeout: float
) -> Any | None:
    """Open the one connection that holds the exclusive lock until it is closed.

    Hot journals are rolled back and a WAL is recovered by then.

    Returns:
        The connection; None if the key doesn't open the first page.

    Raises:
        Busy: Others held the database for longer than `timeout` seconds.
    """
    if not driver.header_fits(places.database, settings):
        return None
    deadline = time.monotonic() + timeout
    while True:
        connection = driver.open_with(
            places.database, secret, settings, timeout=0, isolation_level=None
        )
        try:
            connection.execute("PRAGMA synchronous = EXTRA")
            begin_exclusive(connection, deadline)
            driver.read_first_page(connection, settings)
            connection.execute("COMMIT")
        except BaseException as error:
            connection.close()
            code = driver.code_of(error)
            if driver.is_refusal(error, settings):
                return None
            if code not in (driver.BUSY, driver.LOCKED):
                raise
            if time.monotonic() >= deadline:
                raise Busy from None
            time.sleep(PAUSE_SECONDS)
        else:
            return connection


def begin_exclusive(connection: Any, deadline: float) -> None:
    """Begin a transaction on a connection that nothing read on, whose lock outlasts it.

    SQLite's own waiting, up to 100 ms between two looks, never meets a gap of a writer's that does
    not pause: so the connection has a timeout of 0, and who calls tries again with a new one.
    """
    # Before anything reads: later, the lock would be given up after each transaction.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    # The writers' lock, at once or not at all; it is kept after the COMMIT. Then readers are waited
    # for, and no new ones get in meanwhile.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("COMMIT")
    left = max(0.0, min(_TRY_SECONDS, deadline - time.monotonic()))
    connection.execute(f"PRAGMA busy_timeout = {int(left * 1000)}").fetchone()
    connection.execute("BEGIN EXCLUSIVE")


def settle_journal(places: Places, connection: Any) -> str:
    """Bring the WAL into the main file, or have the journal emptied; return the journal's mode.

    Raises:
        Busy: The WAL could not be emptied.
    """
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        empty_wal(connection)
        return "wal"
    # PERSIST would keep every page under the old key.
    (set_to,) = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
    if set_to != "truncate":
        raise Proof(f"the journal's mode stays {set_to!r}")
    return str(mode)


def empty_wal(connection: Any) -> None:
    """Write all of the WAL to the main file and truncate it.

    Raises:
        Busy: Another connection is in the way.
    """
    if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() != (0, 0, 0):
        raise Busy


def figures_of(connection: Any, key: bytearray) -> Figures:
    """Count pages, and the rows of each table, and digest that with the schema.

    Names of tables are not to be read beside the database, so the digest is keyed.
    """
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    schema = connection.execute(
        "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master ORDER BY type, name"
    ).fetchall()
    head = [
        connection.execute(f"PRAGMA {name}").fetchone()
        for name in ("user_version", "application_id", "encoding", "auto_vacuum")
    ]
    counts: dict[str, int] = {}
    for kind, name, _, rootpage, _ in schema:
        # Virtual tables have no root page; what they keep is in tables that do.
        if kind == "table" and rootpage:
            quoted = name.replace('"', '""')
            (counts[name],) = connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()  # noqa: S608
    text = json.dumps([head, schema, counts], default=repr).encode()
    digest = hmac.new(key, text, hashlib.sha256).hexdigest()
    return Figures(pages, sum(counts.values()), digest)


def check_pages(connection: Any) -> None:
    """Check every page's HMAC, then SQLite's structures.

    Raises:
        Proof: Something is damaged.
    """
    check_macs(connection)
    check_structure(connection)


def check_structure(connection: Any) -> None:
    """Let SQLite check its structures.

    Raises:
        Proof: They are damaged.
    """
    if connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
        raise Proof("integrity_check found damage in it")


def check_macs(connection: Any) -> None:
    """Check every page's HMAC.

    Raises:
        Proof: One does not authenticate.
    """
    found = connection.execute("PRAGMA cipher_integrity_check").fetchall()
    if found:
        raise Proof(f"cipher_integrity_check found {len(found)} damaged pages in it")


def prove(
    path: str,
    secret: bytearray,
    settings: CipherSettings,
    key: bytearray,
    figures: Figures | None,
) -> None:
    """Look at a main file alone, by a fresh connection: whole, authentic, and as it was.

    Args:
        path: The file.
        secret: The key that must open it.
        settings: Its cipher settings.
        key: The key of the figures.
        figures: What it must hold; None where it may have been written since.

    Raises:
        Proof: It isn't.
    """
    # The file is read twice at once, by two connections: SQLCipher works without the GIL.
    with beside(lambda: prove_macs(path, secret, settings)):
        connection = driver.try_open(path, secret, settings, immutable=True, isolation_level=None)
        if connection is None:
            raise Proof("it does not open under the key that it must be under")
        with contextlib.closing(connection):
            if figures is not None:
                _compare(figures_of(connection, key), figures)
            check_structure(connection)


def _compare(found: Figures, figures: Figures) -> None:
    if found.pages != figures.pages:
        raise Proof(f"it has {found.pages} pages and had {figures.pages}")
    if found.rows != figures.rows:
        raise Proof(f"its tables have {found.rows} rows and had {figures.rows}")
    if found.digest != figures.digest:
        raise Proof("its schema, or the rows of a table, are not what they were")


def prove_macs(path: str, secret: bytearray, settings: CipherSettings) -> None:
    """Look at the HMACs of a main file alone.

    Raises:
        Proof: One does not authenticate, or the key is another one.
    """
    connection = driver.try_open(path, secret, settings, immutable=True, isolation_level=None)
    if connection is None:
        raise Proof("it does not open under the key that it must be under")
    with contextlib.closing(connection):
        check_macs(connection)


@contextlib.contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Run something in a thread beside the block, and wait for it; what it raised comes second."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]


def prove_refused(path: str, secret: bytearray, settings: CipherSettings) -> None:
    """Look that a key does not open a main file.

    Raises:
        Proof: It does.
    """
    connection = driver.try_open(path, secret, settings, immutable=True)
    if connection is not None:
        connection.close()
        raise Proof("it still opens under the old key")


def prove_no_journal(places: Places) -> None:
    """Look that neither journal holds anything.

    Raises:
        Proof: One does.
    """
    for path in (places.wal, places.journal):
        if size_of(path):
            raise Proof(f"{path} is not empty")


def first_page_is_authentic(descriptor: int, secret: bytearray, settings: CipherSettings) -> bool:
    """Look at the HMAC of the first page by ourselves, after SQLCipher refused it.

    A file is written over only where no key could have opened it since.
    """
    page = os.pread(descriptor, settings.page_size, 0)
    salt = bytes.fromhex(settings.salt) if settings.salt else page[:16]
    return page_is_authentic(page, 1, secret, settings, salt)


def copy_main_file(places: Places, source: int, size: int) -> None:
    """Make the backup: the very bytes of the main file, durable before it has its name."""
    temporary = f"{places.backup}.tmp"
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(temporary, flags, 0o600)
    try:
        own_as_database(places, target)
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:
            for offset, data in _pieces(source, target, size):
                _write(target, data, offset)
        if os.fstat(target).st_size != size:
            raise Proof(f"the backup has {os.fstat(target).st_size} bytes in place of {size}")
        os.fsync(target)
    finally:
        os.close(target)
    os.rename(temporary, places.backup)
    sync_directory(places.directory)


def _pieces(source: int, target: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Copy inside the kernel, and give out what it won't copy."""
    done, inside = 0, True
    while done < size:
        if inside:
            try:
                count = os.copy_file_range(source, target, min(_COPY, size - done), done, done)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG):
                    raise
                inside = False
                continue
            if count:
                done += count
                continue
        data = os.pread(source, 1 << 20, done)
        if not data:
            return
        yield done, data
        done += len(data)


def _write(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(target, view, offset)
        view, offset = view[count:], offset + count


def restore(places: Places, target: int, page_size: int) -> None:
    """Write the backup over the main file in place, never by rename; both journals go aside.

    Others may have the file open: they would go on writing to one that has no name. The first page
    comes last: until it is there no key opens the file, so that after a crash in here it is done
    again.

    Raises:
        Busy: Another connection holds the database.
    """
    try:
        fcntl.lockf(target, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_LENGTH, _LOCK_START)
    except (BlockingIOError, PermissionError):
        raise Busy from None
    for path in (places.wal, places.journal):
        if os.path.lexists(path):
            os.rename(path, f"{places.backup}.aside{path[len(places.database) :]}")
    sync_directory(places.directory)
    source = os.open(places.backup, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(source).st_size
        _write(target, bytes(page_size), 0)
        os.fsync(target)
        offset = page_size
        while offset < size:
            data = os.pread(source, 1 << 20, offset)
            _write(target, data, offset)
            offset += len(data)
        os.ftruncate(target, size)
        os.fsync(target)
        _write(target, os.pread(source, page_size, 0), 0)
        os.fsync(target)
    finally:
        os.close(source)
