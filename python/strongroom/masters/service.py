"""What masters that are services over a network have in common."""

from __future__ import annotations

import hashlib
from importlib import import_module
from types import ModuleType
from typing import Final, NoReturn

from strongroom.errors import MasterKeyError
from strongroom.masters import wrapped

__all__ = ["ATTEMPTS", "CONNECT_SECONDS", "READ_SECONDS", "ServiceMaster", "load", "service_key_id"]

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 10.0
ATTEMPTS: Final = 3
"""Calls that a service's own client makes before it gives up, the first one included."""


class ServiceMaster:
    """A master whose key never leaves its service: mechanism 04 of kind 04."""

    mechanism = wrapped.SERVICE

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError(
            f"a {type(self).__name__} can't be pickled or copied: open it again in the child"
        )


def service_key_id(full_name: str) -> str:
    """Return the id of a service's key: SHA-256(its full name, UTF-8)[:16]."""
    return hashlib.sha256(full_name.encode()).digest()[:16].hex()


def load(module: str, extra: str, what: str) -> ModuleType:
    """Import a package that an extra installs.

    Raises:
        MasterKeyError: It isn't installed; the text says how it is.
    """
    try:
        return import_module(module)
    except ImportError:
        raise MasterKeyError(
            f"{what} needs the package {module.partition('.')[0]}: "
            f"pip install 'strongroom[{extra}]'"
        ) from None
