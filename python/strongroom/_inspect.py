"""What a message shows without a key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strongroom import _native
from strongroom._parse import parse_file

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MessageInfo", "SlotInfo", "inspect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotInfo:
    """One slot of an envelope. What it says is not authenticated.

    Attributes:
        kind: "keyset", "passphrase", "master", "empty", or "unknown XX".
        offset: Where its kind byte stands in the message.
        length: Bytes of its body.
        key_id: The key or KEK that opens it, 32 hex digits, or None.
        memory_kib: Argon2id's memory of a passphrase slot, in KiB, or None.
        passes: Argon2id's passes, or None.
        lanes: Argon2id's lanes, or None.
    """

    kind: str
    offset: int
    length: int
    key_id: str | None = None
    memory_kib: int | None = None
    passes: int | None = None
    lanes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageInfo:
    """What a message shows without a key. None of it is authenticated.

    Attributes:
        kind: "record", "envelope", "token" or "wrapped key".
        version: Message version, 2.
        key_ids: Ids of the keys that the message names, 32 hex digits each.
        length: Bytes of the message.
        plaintext_length: Bytes of its plaintext, or None for a wrapped key.
        salt: The bytes that are random for each message, or None for a wrapped key.
        slots: The slots of an envelope, in their order; else empty.
        mechanism: Mechanism byte of a wrapped key, else None.
    """

    kind: str
    version: int
    key_ids: tuple[str, ...]
    length: int
    plaintext_length: int | None = None
    salt: bytes | None = None
    slots: tuple[SlotInfo, ...] = ()
    mechanism: int | None = None


def inspect(data_or_path: Buffer | str | os.PathLike[str]) -> MessageInfo:
    """Tells what a message shows to anyone, without a key.

    Args:
        data_or_path: A whole message as a buffer, or the path of a file (str or PathLike) of
            which at most 65,645 bytes are read.

    Returns:
        Kind, version, key ids, lengths and slots: as written there, not authenticated.

    Raises:
        FormatError: The bytes are no whole Strongroom message.
        UnsupportedVersionError: A version or kind that is not known here.
        OSError: The file can't be read.
    """
    if isinstance(data_or_path, str | os.PathLike):
        parsed = parse_file(data_or_path)
    else:
        parsed = _native.parse_message(data_or_path)
    return _message_info(parsed)


def _message_info(parsed: dict[str, Any]) -> MessageInfo:
    fields = ("offset", "length", "key_id", "memory_kib", "passes", "lanes")
    slots = tuple(
        SlotInfo(kind=slot["kind"], **{name: slot[name] for name in fields if name in slot})
        for slot in parsed.get("slots", ())
    )
    return MessageInfo(
        kind=parsed["kind"],
        version=parsed["version"],
        key_ids=tuple(parsed["key_ids"]),
        length=parsed["length"],
        plaintext_length=parsed.get("plaintext_length"),
        salt=parsed.get("salt"),
        slots=slots,
        mechanism=parsed.get("mechanism"),
    )
