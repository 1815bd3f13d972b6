"""Versioned encryption: messages that name their key, under the keys of a key store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Self

from strongroom import _native

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom.keys import KeyStore

__all__ = ["EncryptedPayload", "VersionedEncryption"]


class VersionedEncryption(_native.KeysetCipher):
    """Encrypts under a keyset's primary key, decrypts under any of its keys not destroyed.

    Values up to 65,536 bytes become records (92 bytes longer), longer ones envelopes, which
    `rotate_encryption` rewraps without touching their data. A key id is looked up in this keyset
    alone. What another process rotates is seen within the store's cache time, and a key id that is
    not known here is looked up at once.

    Safe to share between threads. Not picklable, not for a forked child: open the store there.

    Example:
        >>> with KeyStore.open("sqlite:///keys.db", FileMasterKey("master.key")) as store:
        ...     cipher = VersionedEncryption(store)
        ...     message = cipher.encrypt(b"value", b"table/42")
        ...     cipher.decrypt(message, b"table/42")
        b'value'
    """

    def __new__(cls, key_store: KeyStore, keyset: str = "default") -> Self:
        """Takes the keys of one keyset.

        Args:
            key_store: An open store; it stays the caller's to close.
            keyset: Name of a keyset with the purpose "data".

        Raises:
            KeyNotFoundError: There is no such keyset.
            KeyStateError: The keyset has another purpose.
            TypeError: `key_store` is no KeyStore; or `keyset` is no str: one keyset is named,
                never all.
        """
        if not isinstance(keyset, str):
            raise TypeError(f"keyset must be a str, not {type(keyset).__name__}")
        if not hasattr(key_store, "_keyring"):
            raise TypeError(f"key_store must be an open KeyStore, not {type(key_store).__name__}")
        return super().__new__(cls, key_store._keyring(keyset))

    def __init__(self, key_store: KeyStore, keyset: str = "default") -> None:
        """See `__new__`."""
        self.keyset = keyset
        # The keyring doesn't keep its store alive.
        self._key_store = key_store

    def __repr__(self) -> str:
        """Shows names and sizes alone."""
        return f"<VersionedEncryption keyset {self.keyset!r}>"


class EncryptedPayload:
    """A message taken apart, as far as it can be without a key.

    Attributes:
        version: Message version, 2.
        kind: "record" or "envelope".
        key_ids: Ids of the keys that the message names, 32 hex digits each.
        key_id: The first of them, or None where it names none (a passphrase's message).
        salt: The 24 bytes that are random for each message: a record's nonce, a stream's salt.
        ciphertext: What follows the salt: for a record ciphertext, tag and commitment, for an
            envelope commitment and chunks.
    """

    __slots__ = ("_data", "ciphertext", "key_ids", "kind", "salt", "version")

    _data: bytes
    version: int
    kind: str
    key_ids: tuple[str, ...]
    salt: bytes
    ciphertext: bytes

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """Takes a whole message apart.

        Args:
            data: A record or an envelope, any C-contiguous buffer.

        Raises:
            FormatError: The bytes are no whole record or envelope.
            UnsupportedVersionError: A version or kind that is not known here.
            TypeError: `data` is no buffer.
        """
        parsed: dict[str, Any] = _native.parse_message(data)
        if parsed["kind"] not in ("record", "envelope"):
            from strongroom.errors import FormatError

            raise FormatError(
                f"byte 3: the message is a {parsed['kind']}, not a record or an envelope"
            )
        self = cls.__new__(cls)
        self._data = bytes(data)
        self.version = parsed["version"]
        self.kind = parsed["kind"]
        self.key_ids = tuple(parsed["key_ids"])
        self.salt = parsed["salt"]
        start = parsed["header_length"] + (24 if self.kind == "record" else -32)
        self.ciphertext = self._data[start:]
        return self

    @property
    def key_id(self) -> str | None:
        """Id of the first key that the message names, or None."""
        return self.key_ids[0] if self.key_ids else None

    def to_bytes(self) -> bytes:
        """The message as it was given."""
        return self._data

    def __reduce__(self) -> NoReturn:
        """Refuses: messages travel as their bytes."""
        raise TypeError("an EncryptedPayload can't be pickled: pickle what to_bytes() returns")

    def __repr__(self) -> str:
        """Shows names and sizes alone."""
        return f"<EncryptedPayload {self.kind}, key {self.key_id}, {len(self._data)} bytes>"
