"""Master keys: what wraps a store's root key. Each has a URI and a class behind one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strongroom.masters.wrapped import MasterKeyProvider

if TYPE_CHECKING:
    from strongroom.masters.file import FileMasterKey
    from strongroom.masters.passphrase import PassphraseMasterKey

__all__ = ["FileMasterKey", "MasterKeyProvider", "PassphraseMasterKey", "open_master"]


def open_master(uri: str, **secrets: object) -> MasterKeyProvider:
    """Return the master that a URI names.

    Args:
        uri: `file:PATH` or `passphrase:`.
        secrets: What the URI doesn't hold: `passphrase=` (text or bytes) for `passphrase:`.

    Raises:
        ValueError: The URI names no master that this release knows.
        TypeError: A secret is missing, or one is given that the master has no use for.
        MasterKeyError: The master is there and can't be used; the text says why.
        FileNotFoundError: The key file isn't there.
    """
    if not isinstance(uri, str):
        raise TypeError(f"a master's URI must be str, not {type(uri).__name__}")
    scheme, colon, rest = uri.partition(":")
    if scheme == "file" and rest:
        _expect(uri, secrets, set())
        from strongroom.masters.file import FileMasterKey

        return FileMasterKey(rest)
    if scheme == "passphrase" and colon and not rest:
        _expect(uri, secrets, {"passphrase"})
        from strongroom.masters.passphrase import PassphraseMasterKey

        return PassphraseMasterKey(secrets["passphrase"])  # type: ignore[arg-type]
    # The rest of the URI is not shown: someone may have written a passphrase there.
    raise ValueError(
        f"no master is known by a URI of this form ({scheme[:20]!r} ...): "
        "write file:PATH or passphrase:"
    )


def _expect(uri: str, secrets: dict[str, object], names: set[str]) -> None:
    for name in names - secrets.keys():
        raise TypeError(f"the master {uri} needs {name}=")
    for name in secrets.keys() - names:
        raise TypeError(f"the master {uri} has no use for {name}=")


def __getattr__(name: str) -> object:
    if name == "FileMasterKey":
        from strongroom.masters.file import FileMasterKey

        return FileMasterKey
    if name == "PassphraseMasterKey":
        from strongroom.masters.passphrase import PassphraseMasterKey

        return PassphraseMasterKey
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
