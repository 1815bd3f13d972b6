"""Where every part of the library says what it did. Without an audit log nothing happens here.

`report` is for the life of keys: call it while the change can still be undone, inside the
transaction and as its last step, so that the log's order is the store's and an event that can't be
sealed ends the operation (`strongroom.audit`, policy "closed"). What fails after it was reported is
reported again with the outcome "failure". Data operations are not reported one by one but counted.

`STRONGROOM_AUDIT=PATH` in the environment turns a log on: looked at when the first public name is
taken from the package, and at the first report.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes 10 ms to import.
    from collections.abc import Callable
    from typing import Protocol

    Field = str | int | float | bool | None

    class Sink(Protocol):
        """What an audit log offers to the rest of the library."""

        def event(self, name: str, outcome: str, fields: dict[str, Field]) -> None:
            """Seal one event, or raise AuditError."""


_sink: Sink | None = None
# Whether the environment was looked at, or somebody has decided without it.
_decided = False


def set_sink(sink: Sink | None) -> Sink | None:
    """Report to this sink from now on, and return the one before; None for none."""
    global _sink, _decided
    _decided = True
    before, _sink = _sink, sink
    return before


def decide() -> None:
    """Turn on the log that the environment names, once.

    Raises:
        AuditError: That log can't be written, or was changed.
    """
    global _decided
    if _decided:
        return
    import os

    path = os.environ.get("STRONGROOM_AUDIT")
    # Before the log is opened, which takes names from the package too.
    _decided = True
    if path:
        from strongroom.audit import enable

        try:
            enable(path)
        except BaseException:
            # Whoever goes on all the same is told again, at each report.
            _decided = False
            raise


def ignore_environment() -> None:
    """Turn on no log that the environment names: what is done is about that log, say."""
    global _decided
    _decided = True


def report(name: str, /, *, outcome: str = "success", **fields: Field) -> None:
    """Report an event in the life of a key.

    Args:
        name: The event's name, as in "key.rotated".
        outcome: "success" or "failure".
        fields: What belongs to it: key_id, keyset, reason, algorithm, purpose, error_type, ...;
            never a secret.

    Raises:
        AuditError: The event could not be sealed: the operation must not take place.
    """
    if not _decided:
        decide()
    if _sink is not None:
        _sink.event(name, outcome, fields)


def report_failure(name: str, /, **fields: Field) -> None:
    """Report a failure; that the log fails as well doesn't hide what is being raised."""
    import contextlib

    from strongroom.errors import AuditError, UnsupportedVersionError

    with contextlib.suppress(AuditError, UnsupportedVersionError):
        report(name, outcome="failure", **fields)


def count(
    operation: str,
    /,
    key_id: str | None,
    size: int,
    *,
    outcome: str = "success",
    messages: int = 1,
) -> None:
    """Count a data operation ("encrypt", "decrypt", ...) of `size` bytes of plaintext."""
    if not _decided:
        decide()
    # Figures of a key's use are kept without a log too: the core looks whether somebody wants them.
    (_tally or _find_tally())(operation, key_id, outcome, messages, size)


# Found once: an import statement in each call would cost more than the call.
_tally: Callable[[str, str | None, str, int, int], None] | None = None


def _find_tally() -> Callable[[str, str | None, str, int, int], None]:
    global _tally
    from strongroom._native import tally_count

    _tally = tally_count
    return tally_count
