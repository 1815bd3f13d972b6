"""Messages in directories: what `inspect -r` shows and `keys register` notes in the store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strongroom._inspect import MessageInfo

__all__ = ["messages_in"]


def messages_in(directory: str) -> Iterator[tuple[str, MessageInfo | None]]:
    """Yield the messages below a directory, in the order of their paths.

    Symbolic links are not followed; devices, pipes and files that are no messages are left out.

    Yields:
        The path, and what the message says without a key; None if the file can't be read.

    Raises:
        OSError: The directory itself can't be read.
    """
    from strongroom._inspect import inspect
    from strongroom.errors import FormatError

    os.scandir(directory).close()
    for folder, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    continue
                yield path, inspect(path)
            except FormatError:
                continue
            except OSError:
                yield path, None
