"""SQLite's two journals beside a database, and whether they are its own.

SQLite writes a hot rollback journal, and the frames of a write-ahead log, over the database that
has the name, without a look at whose they are. One of another database, or of a plain one, would so
destroy it at the first open. The first page that SQLite would take is looked at here before: where
it is under no key of the database, SQLite doesn't get to see the journal. The pages behind it have
SQLite's checksums alone. (The layouts are those of "Database File Format", sections 3 and 4, and of
SQLCipher's pages: an IV and an HMAC at their end.)
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from strongroom.database.places import Places
from strongroom.database.settings import CipherSettings
from strongroom.errors import EncryptedDatabaseError

if TYPE_CHECKING:
    # The child, which needs page_is_authentic alone, starts without key stores.
    from strongroom.database.sources import Source

__all__ = ["page_is_authentic", "refuse_foreign"]

_IV = 16
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_JOURNAL_HEADER = struct.Struct(">8sIIIII")
_WAL_HEADER = struct.Struct(">IIII8sII")
_WAL_FRAME = struct.Struct(">II8sII")
_WAL_MAGICS = {0x377F0682: "<", 0x377F0683: ">"}
_PAGE_SIZES = {1 << bits for bits in range(9, 17)}

_SECTOR_SIZES = {1 << bits for bits in range(5, 17)}
_PAGE_1 = (1).to_bytes(4, "big")
_SALT = 16


class NoKeyError(EncryptedDatabaseError):
    """Neither the database nor its journal is under a key that is here."""


def refuse_foreign(
    places: Places,
    settings: CipherSettings,
    source: Source,
    more: Callable[[], bytearray] | None = None,
) -> str:
    """Look that what SQLite would write over a database is under one of its keys.

    A journal of a writer at work is looked at too, and is whole as far as its checksums say.

    Args:
        places: The database.
        settings: Its cipher settings.
        source: Its keys.
        more: Gives a raw key that the source may not have any more.

    Returns:
        The salt as 32 hex digits, where the file has lost it: its first page was torn while a
        write-ahead log was brought in. That has the page, and SQLCipher asks the file alone. ""
        where nothing is wrong.

    Raises:
        EncryptedDatabaseError: A journal is another database's.
        NoKeyError: It is under none of these keys, but neither is the database itself.
    """
    from strongroom.database import driver

    lost = ""
    for path, kind in ((places.journal, _Journal), (places.wal, _Wal)):
        # What can't be read, SQLite can't read either.
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                salt = _own_salt(kind(descriptor), places, settings, source, more)
            finally:
                os.close(descriptor)
            if salt is None and not any(
                driver.opens_alone(places.database, give, settings) for give in _gives(source, more)
            ):
                raise NoKeyError(f"neither it nor {path} is under a key that is here")
            if salt is None:
                raise EncryptedDatabaseError(
                    f"{path} is another database's, for it is under no key of {places.database}, "
                    "which SQLite would destroy by it; nothing was touched: move that file away, "
                    "or put the database back that belongs to it"
                )
            lost = salt or lost
    return lost


def _own_salt(
    file: _Journal | _Wal,
    places: Places,
    settings: CipherSettings,
    source: Source,
    more: Callable[[], bytearray] | None,
) -> str | None:
    """Return the salt that only the journal has, or ""; None if it is under no key."""
    from strongroom.database import driver

    first = file.first()
    if first is None:
        return ""

    def salts() -> Iterator[tuple[bytes, str]]:
        if settings.salt:
            yield bytes.fromhex(settings.salt), ""
            return
        with contextlib.suppress(driver.Error):
            yield driver.salt_of(places.database, settings), ""
        for salt in file.salts():
            yield salt, salt.hex()

    number, page = first
    for salt, lost in salts():
        for give in _gives(source, more):
            secret = give()
            try:
                if page_is_authentic(page, number, secret, settings, salt):
                    return lost
            finally:
                driver.wipe(secret)
    return None


def _gives(source: Source, more: Callable[[], bytearray] | None) -> list[Callable[[], bytearray]]:
    gives = [partial(source.secret, candidate.key_id) for candidate in source.candidates("")]
    return [*gives, *([more] if more else [])]


def page_is_authentic(
    page: bytes, number: int, secret: bytearray, settings: CipherSettings, salt: bytes
) -> bool:
    """Look at a page's HMAC by ourselves.

    The page ends in its IV and its HMAC, padded to the cipher's block; the HMAC is over the rest
    (of page 1 from the salt or the plaintext header on), the IV, and the page's number,
    little-endian.
    """
    name = settings.hmac_algorithm.removeprefix("HMAC_").lower()
    kdf = settings.kdf_algorithm.removeprefix("PBKDF2_HMAC_").lower()
    size = hashlib.new(name).digest_size
    reserve = (_IV + size + 15) // 16 * 16
    if len(page) != settings.page_size or settings.page_size <= reserve:
        return False
    mac_key = hashlib.pbkdf2_hmac(kdf, secret, bytes(byte ^ 0x3A for byte in salt), 2, 32)
    begin = (settings.plaintext_header or 16) if number == 1 else 0
    covered = page[begin : len(page) - reserve + _IV]
    tag = hmac.new(mac_key, covered + number.to_bytes(4, "little"), name).digest()
    at = len(page) - reserve + _IV
    return hmac.compare_digest(tag, page[at : at + size])


class _Journal:
    """A rollback journal: headers, each with records behind it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def first(self) -> tuple[int, bytes] | None:
        """Return number and bytes of the first page that SQLite would write back, if it is hot."""
        header = self._header(0)
        if header is None:
            return None
        _, nonce, sector, size = header
        record = os.pread(self._descriptor, size + 8, sector)
        if len(record) != size + 8:
            return None
        page = record[4:-4]
        checksum = (nonce + sum(page[at] for at in range(size - 200, 0, -200))) & 0xFFFFFFFF
        # A writer at work may have begun anew meanwhile.
        if checksum != int.from_bytes(record[-4:], "big") or self._header(0) != header:
            return None
        return int.from_bytes(record[:4], "big"), page

    def salts(self) -> Iterator[bytes]:
        """Return what page 1 begins with, wherever it stands."""
        at = 0
        while header := self._header(at):
            count, _, sector, size = header
            at += sector
            for _ in range(count):
                data = os.pread(self._descriptor, 4 + _SALT, at)
                if len(data) < 4 + _SALT:
                    return
                if data[:4] == _PAGE_1:
                    yield data[4:]
                at += size + 8
            at = -(-at // sector) * sector

    def _header(self, at: int) -> tuple[int, int, int, int] | None:
        data = os.pread(self._descriptor, _JOURNAL_HEADER.size, at)
        if len(data) != _JOURNAL_HEADER.size:
            return None
        magic, count, nonce, _, sector, size = _JOURNAL_HEADER.unpack(data)
        right = magic == _JOURNAL_MAGIC and size in _PAGE_SIZES and sector in _SECTOR_SIZES
        return (count, nonce, sector, size) if right and count else None


class _Wal:
    """A write-ahead log: a header, and frames that fit it as far as they are of this round."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size, self._salts = 0, b""

    def first(self) -> tuple[int, bytes] | None:
        """Return number and bytes of the page of the first frame, if that is valid."""
        header = os.pread(self._descriptor, _WAL_HEADER.size, 0)
        if len(header) != _WAL_HEADER.size:
            return None
        magic, _, self._size, _, self._salts, *given = _WAL_HEADER.unpack(header)
        order = _WAL_MAGICS.get(magic)
        if order is None or self._size not in _PAGE_SIZES:
            return None
        sums = _checksum(header[:24], order, (0, 0))
        frame = os.pread(self._descriptor, _WAL_FRAME.size + self._size, _WAL_HEADER.size)
        if [*sums] != given or len(frame) != _WAL_FRAME.size + self._size:
            return None
        number, _, salts, *given = _WAL_FRAME.unpack_from(frame)
        page = frame[_WAL_FRAME.size :]
        if salts != self._salts or [*_checksum(frame[:8] + page, order, sums)] != given:
            return None
        return number, page

    def salts(self) -> Iterator[bytes]:
        """Return what page 1 begins with, wherever it stands."""
        at = _WAL_HEADER.size
        while len(data := os.pread(self._descriptor, _WAL_FRAME.size + _SALT, at)) == 40:
            if data[8:16] != self._salts:
                return
            if data[:4] == _PAGE_1:
                yield data[_WAL_FRAME.size :]
            at += _WAL_FRAME.size + self._size


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second
