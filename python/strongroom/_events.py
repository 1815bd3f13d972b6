"""Where every part of the library says what it did. Without an audit log nothing happens here.

`report` is for the life of keys: call it while the change can still be undone, inside the
transaction and as its last step, so that the log's order is the store's and an event that can't be
sealed ends the operation (`strongroom.audit`, policy "closed"). What fails after it was reported is
reported again with the outcome "failure". Data operations are not reported one by one but counted.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes 10 ms to import.
    from typing import Protocol

    Field = str | int | float | bool | None

    class Sink(Protocol):
        """What an audit log offers to the rest of the library."""

        def event(self, name: str, outcome: str, fields: dict[str, Field]) -> None:
            """Seal one event, or raise AuditError."""

        def count(
            self,
            operation: str,
            key_id: str | None,
            size: int,
            outcome: str,
            messages: int,
            fields: dict[str, Field],
        ) -> None:
            """Add to the figures of a data operation."""


_sink: Sink | None = None


def set_sink(sink: Sink | None) -> Sink | None:
    """Report to this sink from now on, and return the one before; None for none."""
    global _sink
    before, _sink = _sink, sink
    return before


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
    if _sink is not None:
        _sink.event(name, outcome, fields)


def report_failure(name: str, /, **fields: Field) -> None:
    """Report a failure; that the log fails as well doesn't hide what is being raised."""
    import contextlib

    from strongroom.errors import AuditError

    with contextlib.suppress(AuditError):
        report(name, outcome="failure", **fields)


def count(
    operation: str,
    /,
    key_id: str | None,
    size: int,
    *,
    outcome: str = "success",
    messages: int = 1,
    **fields: Field,
) -> None:
    """Count a data operation ("encrypt", "decrypt", ...) of `size` bytes of plaintext."""
    if _sink is not None:
        _sink.count(operation, key_id, size, outcome, messages, fields)
