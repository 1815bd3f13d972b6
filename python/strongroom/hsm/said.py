"""An event of a key in a token, reported while what it tells of can still be undone."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from strongroom import _events

if TYPE_CHECKING:
    from strongroom._events import Field

__all__ = ["Said"]


class Said:
    """Reports an event once, however often the work is done again, and its failure after that."""

    def __init__(self, name: str, **fields: Field) -> None:
        """Take what is known before; `fields` may be added to."""
        self._name = name
        self._said = False
        self.fields = fields

    def __call__(self) -> None:
        """Report it, as the last step before it takes place.

        Raises:
            AuditError: It could not be sealed, so it must not take place.
        """
        if not self._said:
            _events.report(self._name, outcome="success", **self.fields)
            self._said = True

    def __enter__(self) -> Self:
        """Begin the work."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """If it did not take place after all, say that too."""
        if kind is not None and self._said:
            _events.report_failure(self._name, **self.fields, error_type=kind.__name__)
