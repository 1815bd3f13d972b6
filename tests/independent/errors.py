"""The refusals of FORMAT.md, as classes that mirror the names of the package's own."""

from __future__ import annotations


class FormatError(ValueError):
    """The bytes are not a message, or not a whole one: visible without a key."""


class UnsupportedVersionError(FormatError):
    """The message begins as one of ours, with a version or kind that is not known."""


class DecryptionError(Exception):
    """Something that needed a key did not authenticate."""


class LimitError(ValueError):
    """A limit of the format would be passed."""


class KeyNotFoundError(KeyError):
    """No key, passphrase or master that was given fits what the message names.

    Attributes:
        key_ids: The 16-byte ids that the message names, in its order.
    """

    def __init__(self, key_ids: tuple[bytes, ...]) -> None:
        super().__init__("no key for " + ", ".join(key_id.hex() for key_id in key_ids))
        self.key_ids = key_ids


class MasterKeyError(Exception):
    """The master is not the one that wrapped the key, or the passphrase is wrong."""
