"""Files: whole, in place, at any offset, and as they pass through a pipe.

A file that is written has a temporary name in its target directory until all of it is there, and
authenticated where it is decrypted; then it is synced and gets its name in one step. On any
failure or interruption nothing is left under either name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, overload

from strongroom import _native
from strongroom._file_keys import ByteCount, file_keys
from strongroom._file_slots import add_slot, remove_slots, rewrap_master_slots
from strongroom._file_streams import decrypt_stream, encrypt_stream

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom._file_keys import Path, Progress
    from strongroom._file_objects import EncryptedReader, EncryptedWriter
    from strongroom.keys import KeyStore
    from strongroom.masters import MasterKeyProvider

__all__ = [
    "ByteCount",
    "add_slot",
    "decrypt_file",
    "decrypt_stream",
    "encrypt_file",
    "encrypt_stream",
    "open",
    "remove_slots",
    "rewrap_file",
    "rewrap_master_slots",
    "verify_file",
]


def encrypt_file(
    src: Path,
    dst: Path,
    key_store: KeyStore | None = None,
    *,
    keyset: str = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ByteCount:
    """Encrypts a file. The new file keeps mode bits and mtime of the old one, which stays.

    Args:
        src: A regular file.
        dst: The file to write.
        key_store: Where the keyset is; None where there is a passphrase alone.
        keyset: Its primary key is used.
        associated_data: At most 65,535 bytes that decrypting needs again.
        passphrase: 1 to 4,096 bytes, text as NFC and UTF-8, that opens the file as well.
        overwrite: Replace a file that is there.
        progress: Called at most every 50 ms; an exception in it ends the call.

    Returns:
        Bytes of plaintext.

    Raises:
        FileNotFoundError: There is no source, or no directory for the target.
        FileExistsError: The target is there, and `overwrite` is false.
        IsADirectoryError: One of them is a directory.
        shutil.SameFileError: They are the same file.
        ValueError: The source is a symbolic link, a device, a FIFO or a socket; or neither a key
            store nor a passphrase is given.
        OSError: ESTALE where the source changes while it is read; what the system says else.
        KeyNotFoundError: There is no such keyset.
        KeyStateError: The keyset has no primary key.
    """
    with file_keys(key_store, keyset, passphrase, writes=True) as keys:
        plaintext, _, key_id = _native.file_encrypt(
            _path(src), _path(dst), keys.native, associated_data, overwrite, progress
        )
        return keys.count(plaintext, key_id)


def decrypt_file(
    src: Path,
    dst: Path,
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    overwrite: bool = False,
    allow_compromised: bool = False,
    progress: Progress | None = None,
    master: MasterKeyProvider | None = None,
) -> ByteCount:
    """Decrypts a file. All of it is authenticated before anything has the target's name.

    Args:
        src: A file that `encrypt_file`, `open` or `encrypt_stream` wrote.
        dst: The file to write; it gets the source's mode bits and mtime.
        key_store: Where the keyset is; None where there is a passphrase alone.
        keyset: Its keys are tried; None for those of all keysets, and the result says which.
        associated_data: The bytes that it was encrypted with.
        passphrase: One that may open it.
        overwrite: Replace a file that is there.
        allow_compromised: Take a key whose state is compromised: who has it can have written this.
        progress: Called at most every 50 ms; an exception in it ends the call.
        master: One that opens the file by a slot with its KEK (`add_slot`).

    Returns:
        Bytes of plaintext, with keyset and key id.

    Raises:
        FormatError: The source is no whole message of this kind.
        KeyNotFoundError: No key that it names is here.
        DecryptionError: It does not authenticate.
        KeyStateError: Its key is suspended or compromised.
        LimitError: Its passphrase slots cost more than is read.
        OSError: As for `encrypt_file`, all of them.
    """
    with file_keys(
        key_store, keyset, passphrase, allow_compromised=allow_compromised, master=master
    ) as keys:
        plaintext, _, key_id = _native.file_decrypt(
            _path(src), _path(dst), keys.native, associated_data, overwrite, progress
        )
        return keys.count(plaintext, key_id)


def verify_file(
    src: Path,
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    allow_compromised: bool = False,
    progress: Progress | None = None,
    master: MasterKeyProvider | None = None,
) -> ByteCount:
    """Authenticates all of a file and writes nothing. As `decrypt_file` else.

    Returns:
        Bytes of plaintext, with keyset and key id.

    Raises:
        FormatError, KeyNotFoundError, DecryptionError, KeyStateError, LimitError, OSError: As for
            `decrypt_file`.
    """
    with file_keys(
        key_store, keyset, passphrase, allow_compromised=allow_compromised, master=master
    ) as keys:
        plaintext, _, key_id = _native.file_verify(
            _path(src), keys.native, associated_data, progress
        )
        return keys.count(plaintext, key_id)


def rewrap_file(
    path: Path,
    key_store: KeyStore,
    *,
    keyset: str = "default",
    copy: bool = False,
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
) -> bool:
    """Puts a file under the primary key of its keyset, by its slots alone.

    The slots are changed in place, under an exclusive lock (`flock`), in an order in which the old
    or the new key opens the file at every moment. Where they don't fit, the file is written anew
    and renamed. The mode is kept, and the mtime is not: backups must see the new slot. A file
    whose old key is compromised is encrypted anew, under a new DEK: rewrapping is not revoking.

    Args:
        path: A file that is encrypted.
        key_store: Where the keyset is.
        keyset: Whose keys open it, and whose primary is to.
        copy: Write anew and rename in any case: for storage on which a write can damage bytes
            beside those written.
        associated_data: Needed only where the file is encrypted anew.
        passphrase: The same, where the file opens with a passphrase too.

    Returns:
        False where the file was under the primary key alone already.

    Raises:
        FormatError: The file is no whole message of this kind.
        KeyNotFoundError: No slot is of this keyset; or the file must be encrypted anew, and also
            opens with something that is not here.
        DecryptionError: No slot opens; the file is left as it was.
        OSError: What the system says.
    """
    with file_keys(key_store, keyset, passphrase, rewraps=True) as keys:
        return _native.file_rewrap(_path(path), keys.native, associated_data, copy)


@overload
def open(
    file: Path,
    mode: Literal["rb"] = "rb",
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    allow_compromised: bool = False,
) -> EncryptedReader: ...
@overload
def open(
    file: Path,
    mode: Literal["wb", "xb"],
    key_store: KeyStore | None = None,
    *,
    keyset: str = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
) -> EncryptedWriter: ...
@overload
def open(
    file: Path,
    mode: str,
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    allow_compromised: bool = False,
) -> EncryptedReader | EncryptedWriter: ...
def open(
    file: Path,
    mode: str = "rb",
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    allow_compromised: bool = False,
) -> EncryptedReader | EncryptedWriter:
    """Opens an encrypted file as an unbuffered binary file object.

    Args:
        file: Its path.
        mode: "rb" for an `EncryptedReader`, which is seekable; "wb" for an `EncryptedWriter` that
            replaces what has the name, "xb" for one that does not.
        key_store: Where the keyset is; None where there is a passphrase alone.
        keyset: To read, None for all keysets.
        associated_data: As for `encrypt_file`.
        passphrase: As for `encrypt_file`.
        allow_compromised: As for `decrypt_file`.

    Raises:
        FormatError, KeyNotFoundError, DecryptionError, KeyStateError, LimitError: As for
            `decrypt_file`; a file that was cut fails here and not at its end.
        FileExistsError: Mode "xb", and the file is there.
        ValueError: Another mode.
        OSError: What the system says.
    """
    from strongroom._file_objects import EncryptedReader, EncryptedWriter

    if mode == "rb":
        with file_keys(key_store, keyset, passphrase, allow_compromised=allow_compromised) as keys:
            reader = _native.FileReader(_path(file), keys.native, associated_data)
            return EncryptedReader(reader, file, keys.count(reader.size, reader.key_id))
    if mode in ("wb", "xb"):
        with file_keys(key_store, keyset, passphrase, writes=True) as keys:
            path = _path(file)
            writer = _native.FileWriter(path, keys.native, associated_data, mode == "wb")
            return EncryptedWriter(writer, file, mode)
    raise ValueError(f"mode is {mode!r}: give 'rb', 'wb' or 'xb'")


def _path(path: Path) -> str:
    return os.fsdecode(path)
