"""What a file shows without a key, as the core says it: `inspect` without its classes.

Apart from `_inspect`, since `dataclasses` would be the slowest import of a small decryption.
"""

import os

from strongroom import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Envelope header at its longest (FORMAT.md): no more of a file is read.
_HEADER_MAX = 5 + 16 * (3 + 4096) + 56


def parse_file(path: "str | os.PathLike[str]") -> "dict[str, Any]":
    """Return what `_native.parse_message` says of a file.

    Raises:
        FormatError: The file is no whole Strongroom message.
        UnsupportedVersionError: A version or kind that is not known here.
        OSError: The file can't be read.
    """
    with open(path, "rb") as file:
        head = file.read(_HEADER_MAX)
        length = os.fstat(file.fileno()).st_size
    return _native.parse_message(head, max(length, len(head)))
