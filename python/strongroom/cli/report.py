"""What a data command says of each file, and at the end of all."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output, human_bytes, plural, printable

if TYPE_CHECKING:
    from strongroom.bulk import ItemResult

# What is said of a file that a command has done.
DONE: Final = {
    "encrypt": "encrypted",
    "decrypt": "decrypted",
    "verify": "verified",
    "rewrap": "rewrapped",
}
# What a progress bar says while it works.
DOING: Final = {
    "encrypt": "encrypting",
    "decrypt": "decrypting",
    "verify": "verifying",
    "rewrap": "rewrapping",
}
STATUSES: Final = ("ok", "current", "skipped", "failed")


class Report:
    """The items of one data command: printed as they come, counted for the summary."""

    def __init__(self, command: str, out: Output, *, dry_run: bool) -> None:
        """Begin; the summary's seconds count from here.

        Args:
            command: encrypt, decrypt, verify or rewrap.
            out: Where to print.
            dry_run: Nothing is done, and each item is one that would be.
        """
        self._command = command
        self._out = out
        self._dry_run = dry_run
        self._counts: Counter[str] = Counter()
        self._bytes_in = 0
        self._bytes_out = 0
        self._start = time.monotonic()

    def item(
        self,
        source: str | bytes,
        target: str | bytes | None,
        *,
        status: str = "ok",
        named: bool = True,
        **fields: Any,  # noqa: ANN401 - whatever the schema has
    ) -> None:
        """Report a file that is done.

        Args:
            source: Its path, or `-`.
            target: Where its result went; None for stdout or where nothing goes elsewhere.
            status: ok, or current: nothing was to be done.
            named: The file was named, not found in a tree: then a line is printed for it.
            **fields: Further fields of the JSON object: bytes_in, bytes_out, key_ids, kind...
        """
        self._counts[status] += 1
        self._bytes_in += fields.get("bytes_in") or 0
        self._bytes_out += fields.get("bytes_out") or 0
        planned = self._dry_run and status == "ok"
        said = "planned" if planned else status
        self._out.record("item", path=source, target=target, status=said, **fields)
        if self._out.quiet or not (named or self._dry_run):
            return
        name = printable(source)
        if self._dry_run and target is not None:
            self._out.line(f"{name} -> {printable(target)}")
        elif planned:
            self._out.line(f"{name}: would be {DONE[self._command]}")
        elif self._command == "verify":
            self._out.line(f"{name}: ok")
        elif self._command == "rewrap":
            self._out.line(f"{name}: {'rewrapped' if status == 'ok' else 'current already'}")

    def skipped(self, source: str | bytes, target: str | bytes | None, reason: str) -> None:
        """Report a file that was left out."""
        self._counts["skipped"] += 1
        self._out.record("item", path=source, target=target, status="skipped", message=reason)
        self._out.warn(f"{printable(source)}: skipped: {reason}")

    def failed(self, source: str | bytes, target: str | bytes | None, error: BaseException) -> None:
        """Report one of several files that failed."""
        self._counts["failed"] += 1
        self._out.failure(error, type_="item", path=source, target=target)

    def tree_item(self, item: ItemResult) -> None:
        """Report what the library says of a file of a tree; its `on_item`."""
        if item.status == "failed":
            self.failed(item.path, item.target, item.error or CliError(item.reason or "failed"))
        elif item.status == "skipped":
            self.skipped(item.path, item.target, item.reason or "left out")
        else:
            self.item(
                item.path,
                item.target,
                status=item.status,
                named=False,
                bytes_in=item.bytes_in,
                bytes_out=item.bytes_out,
                key_ids=list(item.key_ids),
                kind=item.kind,
                # The one version that this release writes and reads.
                version=None if item.kind is None else 2,
            )

    def end(self, *, noted: bool) -> int:
        """Print the summary.

        Args:
            noted: Also for people, on stderr; of a single file there is nothing to sum up.

        Returns:
            The exit code: 3 if any failed or was skipped.
        """
        seconds = time.monotonic() - self._start
        incomplete = bool(self._counts["failed"] or self._counts["skipped"])
        counts = {status: self._counts[status] for status in STATUSES}
        self._out.record(
            "summary",
            status="failed" if incomplete else "ok",
            command=self._command,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            counts=counts,
            dry_run=self._dry_run,
            seconds=round(seconds, 3),
        )
        if noted:
            done = f"would be {DONE[self._command]}" if self._dry_run else DONE[self._command]
            words = [f"{plural(counts['ok'], 'file')} {done}"]
            words += [f"{counts[name]} {name}" for name in STATUSES[1:] if counts[name]]
            size = human_bytes(self._bytes_in)
            self._out.note(f"{', '.join(words)}; {size} in {seconds:.1f} s")
        return exitcodes.SOME_FAILED if incomplete else exitcodes.OK
