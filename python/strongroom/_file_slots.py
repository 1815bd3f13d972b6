"""Slots of files: what else than the key that it was written under opens a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from strongroom import _native
from strongroom._file_keys import file_keys

# kind [1] | length [2] before a slot's body, and the KEK's id at its beginning.
_SLOT_HEAD = 3
_KEK_ID = 16

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom._file_keys import Path
    from strongroom.keys import KeyStore
    from strongroom.masters import MasterKeyProvider

__all__ = ["add_slot", "remove_slots", "rewrap_master_slots"]


def add_slot(
    path: Path,
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    passphrase: str | Buffer | None = None,
    master: MasterKeyProvider | None = None,
    new_keyset: str | None = None,
    new_passphrase: str | Buffer | None = None,
    new_master: MasterKeyProvider | None = None,
    copy: bool = False,
) -> bool:
    """Lets one more key, passphrase or master open a file; its data stays as it is.

    An empty slot of the right length is filled in place, under an exclusive lock (`flock`) and in
    an order in which the file opens at every moment; else the file is written anew and renamed.

    Args:
        path: A file that is encrypted.
        key_store: Where the keysets are.
        keyset: Its keys open the file; None for those of all keysets.
        passphrase: One that opens the file.
        master: One that opens the file, by a slot with its KEK.
        new_keyset: Whose primary key is to open it too.
        new_passphrase: One that is to open it too.
        new_master: One that is to open it too, by a new KEK that it wraps.
        copy: Write anew and rename in any case.

    Returns:
        False where the primary key of `new_keyset` opens the file already.

    Raises:
        ValueError: Not just one of the three new ones is given, or nothing that opens the file.
        LimitError: The file has 16 slots.
        FormatError, KeyNotFoundError, KeyStateError, DecryptionError, MasterKeyError: The file is
            none, or does not open; it is left as it was.
        OSError: What the system says.
    """
    if sum(new is not None for new in (new_keyset, new_passphrase, new_master)) != 1:
        raise ValueError("give one of new_keyset, new_passphrase and new_master")
    name = os.fsdecode(path)
    with file_keys(key_store, keyset, passphrase, master=master) as keys:
        if new_keyset is not None:
            if key_store is None:
                raise ValueError("new_keyset needs the key store that it is in")
            keyring = key_store._keyring(new_keyset)
            return _native.file_slot_add(name, keys.native, keyring=keyring, copy=copy)
        if new_master is not None:
            from strongroom.masters.wrapped import PASSPHRASE, say, wrap_with

            if getattr(new_master, "mechanism", None) == PASSPHRASE:
                raise ValueError("a passphrase has slots of its own: give new_passphrase")
            with _native.MemoryLockedKey.generate() as key:
                kek = key, wrap_with(new_master, key)
                say("key.wrapped", new_master, kek[1], key.key_id)
                return _native.file_slot_add(name, keys.native, kek=kek, copy=copy)
        from strongroom.masters.passphrase import PassphraseMasterKey

        assert new_passphrase is not None  # noqa: S101 - one of three is given
        made = PassphraseMasterKey(new_passphrase)
        try:
            own = made._own
            new = made._key(own), (own.memory_kib, own.passes, own.lanes, own.salt)
            return _native.file_slot_add(name, keys.native, passphrase=new, copy=copy)
        finally:
            made.close()


def rewrap_master_slots(
    path: Path,
    master: MasterKeyProvider,
    *,
    new_master: MasterKeyProvider | None = None,
    copy: bool = False,
) -> int:
    """Puts a new KEK in the place of those that a master wrapped; the file's data stays as it is.

    The new slot is there before an old one goes: after a crash the file opens, and the call is
    made again. Rewrapping is not revoking.

    Args:
        path: A file that is encrypted.
        master: The one that wrapped the KEKs of the slots that go.
        new_master: The one that wraps the new KEK; None for the same, under its newest version.
        copy: Write anew and rename: for storage on which a write can damage bytes beside it.

    Returns:
        How many slots went.

    Raises:
        KeyNotFoundError: The file has no slot of this master; it is left as it was.
        ValueError, LimitError, FormatError, DecryptionError, MasterKeyError, OSError: As for
            `add_slot`.
    """
    from strongroom._inspect import inspect
    from strongroom.errors import KeyNotFoundError
    from strongroom.masters import wrapped

    own = []
    name = os.fsdecode(path)
    with open(name, "rb") as file:
        for slot in inspect(name).slots:
            if slot.kind != "master" or slot.key_id is None:
                continue
            # The slot's body: KEK's id [16] | length [2] | wrapped key (FORMAT.md, slot kind 03).
            file.seek(slot.offset + _SLOT_HEAD + _KEK_ID)
            length = int.from_bytes(file.read(2), "big")
            parts = wrapped.parse(file.read(length))
            if wrapped.wrapped_by(master, parts.mechanism, parts.wrapping_id) is not None:
                own.append(slot.key_id)
    if not own:
        raise KeyNotFoundError(f"the file has no slot of the master {master.uri}")
    new = master if new_master is None else new_master
    add_slot(path, master=master, new_master=new, copy=copy)
    return sum(remove_slots(path, master=new, key_id=kek_id, copy=copy) for kek_id in own)


def remove_slots(
    path: Path,
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    passphrase: str | Buffer | None = None,
    master: MasterKeyProvider | None = None,
    key_id: str | None,
    copy: bool = False,
) -> int:
    """Takes slots away from a file, if what is given opens it by another one.

    Who has opened a slot before may have kept the DEK: encrypt anew to end that.

    Args:
        path: A file that is encrypted.
        key_store: As for `add_slot`.
        keyset: As for `add_slot`.
        passphrase: As for `add_slot`.
        master: As for `add_slot`.
        key_id: The keyset key or KEK whose slots go, 32 hex digits as `inspect` shows them; None
            for those of all passphrases.
        copy: Write anew and rename: for storage on which a write can damage bytes beside it.

    Returns:
        How many slots are gone.

    Raises:
        KeyNotFoundError: There is no such slot; or no other one is of what is given.
        ValueError, FormatError, KeyStateError, DecryptionError, MasterKeyError, OSError: As for
            `add_slot`; the file is left as it was.
    """
    with file_keys(key_store, keyset, passphrase, master=master) as keys:
        return _native.file_slot_remove(os.fsdecode(path), keys.native, key_id, copy)
