"""Master keys: what wraps a store's root key. Each has a URI and a class behind one protocol."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from strongroom.masters.wrapped import MasterKeyProvider

if TYPE_CHECKING:
    from strongroom.masters.aws import AwsKmsMasterKey
    from strongroom.masters.file import FileMasterKey
    from strongroom.masters.keychain import KeyringMasterKey
    from strongroom.masters.passphrase import PassphraseMasterKey
    from strongroom.masters.pkcs11 import Pkcs11MasterKey
    from strongroom.masters.vault import VaultTransitMasterKey

__all__ = [
    "AwsKmsMasterKey",
    "FileMasterKey",
    "KeyringMasterKey",
    "MasterKeyProvider",
    "PassphraseMasterKey",
    "Pkcs11MasterKey",
    "VaultTransitMasterKey",
    "create_master",
    "open_master",
]

# Each provider's packages come in only with its class.
_HOMES = {
    "AwsKmsMasterKey": "aws",
    "FileMasterKey": "file",
    "KeyringMasterKey": "keychain",
    "PassphraseMasterKey": "passphrase",
    "Pkcs11MasterKey": "pkcs11",
    "VaultTransitMasterKey": "vault",
}


def open_master(uri: str, **secrets: object) -> MasterKeyProvider:
    """Return the master that a URI names.

    Args:
        uri: `file:PATH`, `passphrase:`, `keyring:SERVICE/NAME`, `awskms:///ARN` (or
            `awskms:///alias/NAME`), `vault:MOUNT/keys/NAME`, or a PKCS#11 URI (RFC 7512) such as
            `pkcs11:token=LABEL;object=master:NAME?module-path=PATH&pin-source=file:PATH`.
        secrets: What the URI doesn't hold: `passphrase=` (text or bytes) for `passphrase:`; for
            `pkcs11:` perhaps `pin=`, as for `Pkcs11MasterKey`.

    Raises:
        ValueError: The URI names no master that this release knows.
        TypeError: A secret is missing, or one is given that the master has no use for.
        MasterKeyError: The master is there and can't be used, or a package that it needs isn't
            installed; the text says what.
        FileNotFoundError: The key file isn't there.
    """
    name, arguments, keywords = _parse(uri, secrets)
    master: MasterKeyProvider = getattr(_module(name), name)(*arguments, **keywords)
    return master


def create_master(uri: str, **secrets: object) -> tuple[MasterKeyProvider, bool]:
    """Return the master that a URI names, and make its key where there is none.

    Only keys that this process makes itself, `file:` and `keyring:`, are made; those of a service
    are its administrator's to make.

    Args:
        uri: As for `open_master`.
        secrets: As for `open_master`.

    Returns:
        The master, and whether its key was made.

    Raises:
        ValueError, TypeError, MasterKeyError: As `open_master`.
        OSError: The key file can't be made.
    """
    name, arguments, keywords = _parse(uri, secrets)
    cls: Any = getattr(_module(name), name)
    if hasattr(cls, "create"):
        try:
            return cls.create(*arguments), True
        except FileExistsError:
            pass
    return cls(*arguments, **keywords), False


def _parse(uri: str, secrets: dict[str, object]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The class that a URI names, and what it is made from."""
    if not isinstance(uri, str):
        raise TypeError(f"a master's URI must be str, not {type(uri).__name__}")
    scheme, colon, rest = uri.partition(":")
    found: tuple[str, tuple[Any, ...]] | None = None
    if scheme == "passphrase" and colon and not rest:
        _expect(uri, secrets, {"passphrase"})
        return "PassphraseMasterKey", (secrets["passphrase"],), {}
    if scheme == "pkcs11" and rest:
        _expect(uri.partition("?")[0], secrets, set(), optional={"pin"})
        return "Pkcs11MasterKey", (uri,), secrets
    if scheme == "file" and rest:
        found = "FileMasterKey", (rest,)
    elif scheme == "keyring" and "/" in rest:
        service, _, name = rest.partition("/")
        found = "KeyringMasterKey", (service, name)
    elif scheme == "awskms" and rest.startswith("///") and rest != "///":
        found = "AwsKmsMasterKey", (rest[3:],)
    elif scheme == "vault" and "/keys/" in rest:
        found = "VaultTransitMasterKey", (rest,)
    if found is not None:
        _expect(uri, secrets, set())
        return *found, {}
    # The rest of the URI is not shown: someone may have written a passphrase there.
    raise ValueError(
        f"no master is known by a URI of this form ({scheme[:20]!r} ...): write file:PATH, "
        "passphrase:, keyring:SERVICE/NAME, awskms:///ARN, vault:MOUNT/keys/NAME or "
        "pkcs11:token=LABEL;object=master:NAME"
    )


def _expect(
    uri: str, secrets: dict[str, object], names: set[str], optional: Iterable[str] = ()
) -> None:
    for name in names - secrets.keys():
        raise TypeError(f"the master {uri} needs {name}=")
    for name in secrets.keys() - names - set(optional):
        raise TypeError(f"the master {uri} has no use for {name}=")


def _module(name: str) -> Any:  # noqa: ANN401 - a module
    return import_module(f"strongroom.masters.{_HOMES[name]}")


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(_module(name), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
