"""The cipher settings of a SQLCipher database, which its file does not say."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, Self

from strongroom.errors import FormatError

__all__ = ["CipherSettings"]

_HMACS = ("HMAC_SHA512", "HMAC_SHA256", "HMAC_SHA1")
_KDFS = ("PBKDF2_HMAC_SHA512", "PBKDF2_HMAC_SHA256", "PBKDF2_HMAC_SHA1")
_SALT_BYTES = 16
# SQLite's own header is 100 bytes, of which SQLCipher needs the first 16 for nothing else.
_HEADER_MOST = 96


class CipherSettings(NamedTuple):
    """How SQLCipher lays out a database; the defaults are those of SQLCipher 4.

    Attributes:
        page_size: Bytes a page: a power of two from 512 to 65,536.
        hmac_algorithm: Of each page: "HMAC_SHA512", "HMAC_SHA256" or "HMAC_SHA1".
        kdf_algorithm: "PBKDF2_HMAC_SHA512", "PBKDF2_HMAC_SHA256" or "PBKDF2_HMAC_SHA1": it makes
            the pages' HMAC key, with a raw key too.
        plaintext_header: How many bytes at the file's beginning are in clear, a multiple of 16 up
            to 96 (iOS wants 32): 0 for none.
        salt: With a plaintext header, the salt that the file then hasn't: 32 hex digits, made
            anew where it is empty.
    """

    page_size: int = 4096
    hmac_algorithm: str = "HMAC_SHA512"
    kdf_algorithm: str = "PBKDF2_HMAC_SHA512"
    plaintext_header: int = 0
    salt: str = ""

    def checked(self) -> Self:
        """Return itself.

        Raises:
            ValueError: A setting is none that SQLCipher has.
        """
        size = self.page_size
        if type(size) is not int or not 512 <= size <= 65_536 or size & (size - 1):
            raise ValueError("page_size is a power of two from 512 to 65,536")
        if self.hmac_algorithm not in _HMACS:
            raise ValueError(f"hmac_algorithm is one of {', '.join(_HMACS)}")
        if self.kdf_algorithm not in _KDFS:
            raise ValueError(f"kdf_algorithm is one of {', '.join(_KDFS)}")
        header = self.plaintext_header
        if type(header) is not int or not 0 <= header <= _HEADER_MOST or header % 16:
            raise ValueError(f"plaintext_header is a multiple of 16 up to {_HEADER_MOST}")
        if not isinstance(self.salt, str) or not re.fullmatch("([0-9a-f]{32})?", self.salt):
            raise ValueError("salt is 32 lower-case hex digits")
        if self.salt and not header:
            raise ValueError("salt goes with a plaintext header: else it is in the file")
        return self

    def with_salt(self) -> Self:
        """Return the settings with a salt, if a plaintext header needs one and it has none."""
        import secrets

        if self.plaintext_header and not self.salt:
            return self._replace(salt=secrets.token_hex(_SALT_BYTES))
        return self

    def pragmas(self) -> list[str]:
        """Return the statements that set them, to be run after the key is set."""
        return [
            f"PRAGMA cipher_page_size = {self.page_size}",
            f"PRAGMA cipher_hmac_algorithm = {self.hmac_algorithm}",
            f"PRAGMA cipher_kdf_algorithm = {self.kdf_algorithm}",
            f"PRAGMA cipher_plaintext_header_size = {self.plaintext_header}",
        ]

    def dump(self) -> str:
        """Return them as JSON text, always the same for the same settings."""
        return json.dumps(self._asdict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> Self:
        """Read what `dump` wrote.

        Raises:
            FormatError: It is something else.
        """
        try:
            values: Any = json.loads(text)
            return cls(**values).checked()
        except (ValueError, TypeError):
            raise FormatError("the cipher settings of a database are not readable") from None
