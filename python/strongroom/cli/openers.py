"""What opens the messages of one command: the key store, a passphrase, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import get_master, open_store
from strongroom.cli.targets import PIPE

if TYPE_CHECKING:
    from strongroom.keys import KeyStore
    from strongroom.masters import MasterKeyProvider

Pair = tuple["KeyStore | None", "str | bytes | None"]


class Openers:
    """The key store and the passphrase, each opened or asked for when it is first needed.

    Attributes:
        failure: What was raised because one of them is not to be had, which concerns no file in
            particular; else None.
    """

    def __init__(
        self,
        context: click.Context,
        *,
        store: str | None,
        master: str | None,
        passphrase_source: PassphraseSource,
        with_passphrase: bool,
        with_master: str | None = None,
    ) -> None:
        """Take what the command line says.

        Args:
            context: Of the command, which knows what was typed and what came from elsewhere.
            store: --store.
            master: --master.
            passphrase_source: With -p the source of the message's passphrase, else the store's.
            with_passphrase: -p.
            with_master: --with-master.
        """
        self._named = store
        self._master = master
        self._source = passphrase_source
        self._with_passphrase = with_passphrase
        # -p alone needs no store, even if the environment names one; what stands beside it on the
        # command line is meant.
        self._with_master = with_master
        self._with_store = not (with_passphrase or with_master) or any(
            context.get_parameter_source(name) is ParameterSource.COMMANDLINE
            for name in ("store", "keyset", "master")
        )
        self.failure: Exception | None = None
        self._key_store: KeyStore | None = None
        self._passphrase: str | bytes | None = None
        self._file_master: MasterKeyProvider | None = None

    @property
    def file_master(self) -> MasterKeyProvider | None:
        """The master that has slots in the files themselves, opened at the first use, or None.

        Raises:
            CliError, MasterKeyError: As `get_master`.
        """
        if self._file_master is None and self._with_master is not None:
            try:
                self._file_master = get_master(self._with_master, PassphraseSource())
            except Exception as error:
                self.failure = error
                raise
        return self._file_master

    def close(self) -> None:
        """Close the store and let go of the passphrase. Closing twice is allowed."""
        self._passphrase = None
        if self._key_store is not None:
            self._key_store.close()
            self._key_store = None

    @property
    def key_store(self) -> KeyStore:
        """The store, opened at the first use.

        Raises:
            StrongroomError: As `open_store`.
        """
        if self._key_store is None:
            # With -p the source that was named is the message's; the store's passphrase is asked.
            source = PassphraseSource() if self._with_passphrase else self._source
            try:
                self._key_store = open_store(self._named, self._master, source)
            except Exception as error:
                self.failure = error
                raise
        return self._key_store

    def for_writing(self) -> Pair:
        """Return the store and the passphrase to encrypt under; a new passphrase is asked twice."""
        return self._pair(new=True)

    def for_reading(self, path: str | None = None) -> Pair:
        """Return the store and the passphrase to open a message with.

        Args:
            path: The message's file. If only a passphrase opens it, then one is asked for, as if
                -p had been said. None for a pipe or a tree.

        Raises:
            FormatError: The file is not a message.
            OSError: The file can't be read.
        """
        alone = self._with_passphrase or self._with_master is not None
        if path is not None and path != PIPE and not alone:
            from strongroom._parse import parse_file

            kinds = {slot["kind"] for slot in parse_file(path).get("slots", ())}
            if "passphrase" in kinds and not kinds & {"keyset", "master"}:
                return None, self._get_passphrase(new=False)
        return self._pair(new=False)

    def for_rewrapping(self) -> tuple[KeyStore, str | bytes | None]:
        """Return the store and, with -p, the passphrase that opens the messages too."""
        return self.key_store, self._get_passphrase(new=False) if self._with_passphrase else None

    def _pair(self, *, new: bool) -> Pair:
        key_store = self.key_store if self._with_store else None
        return key_store, self._get_passphrase(new=new) if self._with_passphrase else None

    def _get_passphrase(self, *, new: bool) -> str | bytes:
        if self._passphrase is None:
            try:
                self._passphrase = self._source.get("Passphrase", confirm=new)
            except Exception as error:
                self.failure = error
                raise
        return self._passphrase
