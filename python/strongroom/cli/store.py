"""Which key store and which master a command means, and opening the one with the other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError

if TYPE_CHECKING:
    from strongroom.cli.passphrase import PassphraseSource
    from strongroom.keys import KeyStore
    from strongroom.masters import MasterKeyProvider

_SQLITE: Final = "sqlite:///"
_SCHEMES: Final = ("sqlite", "postgresql", "postgres")
PASSPHRASE: Final = "passphrase:"  # noqa: S105 - a URI
PKCS11: Final = "pkcs11:"


def default_path() -> str:
    """Return the path of the store that is used where none is named.

    It is $XDG_DATA_HOME/strongroom/keys.db; that variable counts only where it is an absolute
    path, as the XDG Base Directory Specification says, and is ~/.local/share otherwise.
    """
    home = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(home):
        home = os.path.expanduser("~/.local/share")
    return os.path.join(home, "strongroom", "keys.db")


def store_url(named: str | None) -> str:
    """Return the URL of the store: the one that was named, else the default.

    A bare path, which is what people type first, is taken as a SQLite file.

    Raises:
        CliError: It is a URL, and not of a store (usage).
    """
    if not named:
        return _SQLITE + default_path()
    scheme, separator, _ = named.partition("://")
    if separator and scheme not in _SCHEMES:
        raise CliError(
            f"not the URL of a key store: write {_SQLITE}PATH, a path, or postgresql://...",
            exitcodes.USAGE,
        )
    return named if "://" in named else _SQLITE + named


def store_path(url: str) -> str | None:
    """Return the path of a SQLite store's file, or None for a store of another kind."""
    return url.removeprefix(_SQLITE) if url.startswith(_SQLITE) else None


def get_master(uri: str, source: PassphraseSource, *, new: bool = False) -> MasterKeyProvider:
    """Open the master key that a URI names, asking for its passphrase where it is one.

    Args:
        uri: Such as `file:/etc/strongroom.key` or `passphrase:`.
        source: Where a passphrase comes from.
        new: The passphrase is a new one: a prompt asks twice.

    Raises:
        CliError: No passphrase to be had, or no such kind of master (usage).
        MasterKeyError: The master is not there, or not to be used.
    """
    if uri == PASSPHRASE:
        passphrase = source.get("Passphrase of the key store", confirm=new)
        from strongroom.masters import PassphraseMasterKey

        return PassphraseMasterKey(passphrase)
    from strongroom.masters import open_master

    try:
        return open_master(uri, **pin_of(uri, source))
    except ValueError as error:
        raise CliError(str(error), exitcodes.USAGE) from None


def pin_of(uri: str, source: PassphraseSource) -> dict[str, object]:
    """Return `pin=` for the master of a token whose URI has no pin-source; else nothing.

    Raises:
        ValueError: It is no PKCS#11 URI.
    """
    if not uri.startswith(PKCS11):
        return {}
    from strongroom.hsm.uri import Pkcs11Uri

    parts = Pkcs11Uri.parse(uri)
    if parts.pin_source is not None:
        return {}
    # Asked for when the token is there to take it.
    return {"pin": lambda: source.get(f"PIN of the token {parts.token or ''}".rstrip())}


def open_store(
    named: str | None,
    master: str | None,
    source: PassphraseSource,
    *,
    read_only: bool = False,
) -> KeyStore:
    """Open the key store that a command names, by the master it names or the store keeps.

    Args:
        named: --store, or None for the default.
        master: --master, or None for the URI that the store keeps.
        source: Where the passphrase of a `passphrase:` master comes from.
        read_only: Change nothing, and write no usage figures.

    Raises:
        CliError: There is no store there (not found).
        StrongroomError: As `KeyStore.open`.
    """
    url = store_url(named)
    path = store_path(url)
    # sqlite3 would otherwise be imported only to say the same, less well.
    if path is not None and not os.path.lexists(path):
        raise CliError(f"no key store at {path}; `strongroom init` makes one", exitcodes.NOT_FOUND)
    from strongroom.keys import KeyStore

    provider = get_master(master or kept_master(url), source)
    return KeyStore.open(url, provider, read_only=read_only)


def kept_master(url: str, *, any_schema: bool = False) -> str:
    """Return the URI of the master that a store keeps, the one to try first if it has several.

    Raises:
        StrongroomError: It is no store, or can't be read.
    """
    from strongroom.keys import KeyStore

    masters = KeyStore.masters_of(url, any_schema=any_schema)
    # One kept for emergencies comes last, and a person is asked only where nothing else opens it.
    return min(masters, key=lambda master: (master.recovery, master.uri == PASSPHRASE)).uri
