"""Running the library over the files, trees and pipes that a data command names."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from strongroom.cli.output import Output
from strongroom.cli.progress import ProgressBar
from strongroom.cli.report import DOING, Report
from strongroom.cli.streams import open_source, refuse_terminal, streams
from strongroom.cli.targets import PIPE

if TYPE_CHECKING:
    from strongroom.cli.openers import Openers

# What a result line says of one file: the JSON object's fields.
Fields = dict[str, Any]
_DESCRIPTORS = 65_536


class Transfer:
    """One run of a data command, from the first file to the summary; a context manager."""

    def __init__(
        self,
        command: str,
        out: Output,
        openers: Openers,
        *,
        keyset: str,
        jobs: int | None,
        associated_data: bytes = b"",
        force: bool = False,
        dry_run: bool = False,
        copy: bool = False,
        suffix: str = "",
        to_terminal: bool = False,
        allow_compromised: bool = False,
    ) -> None:
        """Take what the command line says; nothing is opened yet.

        Args:
            command: encrypt, decrypt, verify or rewrap.
            out: Where to print.
            openers: The store and the passphrase; closed with this.
            keyset: --keyset.
            jobs: -j, or None.
            associated_data: Bound to each message.
            force: Replace targets.
            dry_run: Only say what would be done.
            copy: Rewrap by writing anew.
            suffix: Of encrypted files in a tree.
            to_terminal: `-o -` was written out.
            allow_compromised: Open what a compromised key may have written.
        """
        self._command = command
        self._out = out
        self._openers = openers
        self._keyset = keyset
        self._jobs = jobs
        self._associated_data = associated_data
        self._force = force
        self._dry_run = dry_run
        self._copy = copy
        self._suffix = suffix
        self._to_terminal = to_terminal
        # What only commands that read have.
        self._reading: Fields = (
            {"allow_compromised": allow_compromised} if command in ("decrypt", "verify") else {}
        )
        self._report = Report(command, out, dry_run=dry_run)
        self._bar = ProgressBar(out, DOING[command])

    def __enter__(self) -> Transfer:
        """Set the number of threads."""
        if self._jobs is not None:
            from strongroom.parallel import set_num_threads

            set_num_threads(self._jobs)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the progress bar away and close the store."""
        self._bar.close()
        self._openers.close()

    def each(
        self,
        pairs: Sequence[tuple[str, str | None]],
        one: Callable[[str, str | None], Fields],
    ) -> int:
        """Do each file; one that fails does not stop the others, a store that fails does.

        Args:
            pairs: Source and target of each, `-` for stdin and None for stdout.
            one: `encrypt`, `decrypt`, `verify` or `rewrap` of this class.

        Returns:
            The exit code: of a single file its own, of several 3 if any failed.
        """
        do = self._plan if self._dry_run else one
        for source, target in pairs:
            try:
                fields = do(source, target)
            except BrokenPipeError:
                raise  # Ours is the only pipe here: nobody reads stdout any more.
            except Exception as error:
                if error is self._openers.failure:
                    raise  # Every other file would fail for it too.
                self._bar.close()
                if len(pairs) == 1:
                    return self._out.failure(error, path=source)
                self._report.failed(source, target, error)
            else:
                self._bar.close()
                # A single encrypted or decrypted file says nothing, as cp does.
                self._report.item(source, target, **fields)
        return self._report.end(noted=len(pairs) > 1)

    def tree(self, sources: Sequence[str], target: str | None = None) -> int:
        """Do whole directories.

        Args:
            sources: Directories and files.
            target: The directory to write to; None where nothing is written elsewhere.

        Returns:
            The exit code: 3 if anything failed or was left out.
        """
        from strongroom import bulk

        settings: Fields = {
            "keyset": self._keyset,
            "jobs": self._jobs,
            "progress": self._bar.callback,
            "on_item": self._report.tree_item,
        }
        if self._command != "verify":
            settings["dry_run"] = self._dry_run
        if target is not None:
            settings |= {"suffix": self._suffix, "overwrite": self._force}
        settings["associated_data"] = self._associated_data
        if self._command == "rewrap":
            _raise_descriptors()
            key_store, settings["passphrase"] = self._openers.for_rewrapping()
            bulk.rewrap_tree(sources, key_store, copy=self._copy, **settings)
        elif self._command == "verify":
            reader, settings["passphrase"] = self._openers.for_reading()
            bulk.verify_tree(sources, reader, **settings, **self._reading)
        elif self._command == "decrypt":
            reader, settings["passphrase"] = self._openers.for_reading()
            bulk.decrypt_tree(sources, target or "", reader, **settings, **self._reading)
        else:
            writer, settings["passphrase"] = self._openers.for_writing()
            bulk.encrypt_tree(sources, target or "", writer, **settings)
        self._bar.close()
        return self._report.end(noted=True)

    def encrypt(self, source: str, target: str | None) -> Fields:
        """Encrypt one file or stdin."""
        refuse_terminal(target, asked=self._to_terminal)
        key_store, passphrase = self._openers.for_writing()
        settings = self._settings(passphrase)
        if source != PIPE and target is not None:
            from strongroom.files import encrypt_file

            done = encrypt_file(source, target, key_store, overwrite=self._force, **settings)
        else:
            from strongroom.files import encrypt_stream

            with streams(source, target, overwrite=self._force, out=self._out) as (src, dst):
                done = encrypt_stream(src, dst, key_store, **settings)
        return {"bytes_in": int(done), "bytes_out": _size(target), **self._seen(target)}

    def decrypt(self, source: str, target: str | None) -> Fields:
        """Decrypt one file or stdin."""
        key_store, passphrase = self._openers.for_reading(source)
        settings = self._settings(passphrase)
        if target is not None and not _is_streamed(source):
            from strongroom.files import decrypt_file

            settings["master"] = self._openers.file_master
            done = decrypt_file(source, target, key_store, overwrite=self._force, **settings)
        else:
            from strongroom.files import decrypt_stream

            with streams(source, target, overwrite=self._force, out=self._out) as (src, dst):
                done = decrypt_stream(src, dst, key_store, **settings)
        return {"bytes_in": _size(source), "bytes_out": int(done), **self._seen(source)}

    def verify(self, source: str, _: str | None) -> Fields:
        """Verify one file or stdin."""
        key_store, passphrase = self._openers.for_reading(source)
        settings = self._settings(passphrase)
        if not _is_streamed(source):
            from strongroom.files import verify_file

            settings["master"] = self._openers.file_master
            done = verify_file(source, key_store, **settings)
        else:
            from strongroom.files import decrypt_stream

            with (
                open_source(source) as src,
                open(os.devnull, "wb", buffering=0) as nowhere,
            ):
                done = decrypt_stream(src, nowhere, key_store, **settings)
        return {"bytes_in": _size(source), "bytes_out": int(done), **self._seen(source)}

    def rewrap(self, source: str, _: str | None) -> Fields:
        """Rewrap one file in place."""
        from strongroom.files import rewrap_file

        key_store, passphrase = self._openers.for_rewrapping()
        changed = rewrap_file(
            source,
            key_store,
            keyset=self._keyset,
            copy=self._copy,
            associated_data=self._associated_data,
            passphrase=passphrase,
        )
        fields = {"bytes_in": _size(source), "bytes_out": 0, **self._seen(source)}
        return {**fields, "status": "ok" if changed else "current"}

    def _settings(self, passphrase: str | bytes | None) -> Fields:
        return {
            "keyset": self._keyset,
            "associated_data": self._associated_data,
            "passphrase": passphrase,
            "progress": self._bar.callback,
            **self._reading,
        }

    def _seen(self, path: str | None) -> Fields:
        """Return what a message's file says without a key; nobody reads it but with --json."""
        if path is None or path == PIPE or not self._out.json:
            return {}
        from strongroom._inspect import inspect

        info = inspect(path)
        return {"key_ids": list(info.key_ids), "kind": info.kind, "version": info.version}

    def _plan(self, source: str, target: str | None) -> Fields:
        """Check what can be checked of one file without doing anything."""
        fields: Fields = {"bytes_in": _size(source)}
        if self._command != "encrypt" and source != PIPE:
            from strongroom._inspect import inspect

            info = inspect(source)
            fields |= self._seen(source)
            if self._command == "rewrap":
                current = self._openers.key_store.get_current_key(self._keyset)
                if list(info.key_ids) == [current.id]:
                    fields["status"] = "current"
        if target is not None and not self._force and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        return fields


def _is_streamed(source: str) -> bool:
    """Tell whether a source is read as a stream: a pipe, or a file that holds a record."""
    if source == PIPE:
        return True
    from strongroom._parse import parse_file

    return bool(parse_file(source)["kind"] == "record")


def _size(path: str | None) -> int | None:
    """Return a file's size in bytes, None for a pipe."""
    if path is None or path == PIPE:
        return None
    return os.stat(path).st_size


def _raise_descriptors() -> None:
    """Allow this process as many open files as it may have: groups are as large as that lets them.

    A library must not: `select` takes no descriptor above 1023, and nothing here selects.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
