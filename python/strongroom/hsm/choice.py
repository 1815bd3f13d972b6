"""Which of a module's tokens is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strongroom.errors import HSMError

if TYPE_CHECKING:
    from strongroom.hsm.binding import Slot

__all__ = ["Choice"]


class Choice:
    """Which token is meant: each of what is not None must be the token's."""

    def __init__(
        self,
        *,
        slot_id: int | None = None,
        label: str | None = None,
        serial: str | None = None,
        manufacturer: str | None = None,
        model: str | None = None,
    ) -> None:
        """Take what is asked for."""
        self._wanted = {
            "slot_id": slot_id,
            "label": label,
            "serial": serial,
            "manufacturer": manufacturer,
            "model": model,
        }

    def among(self, slots: list[Slot], where: str) -> Slot | None:
        """Return the one slot that fits, or None.

        Raises:
            HSMError: Several do.
        """
        found = [
            slot
            for slot in slots
            if all(v is None or getattr(slot, n) == v for n, v in self._wanted.items())
            # Every SoftHSM shows a blank one behind the others: it is meant only if it is named.
            and (slot.initialized or self._wanted["slot_id"] is not None)
        ]
        if len(found) > 1:
            names = ", ".join(f"slot {slot.slot_id} ({slot.label!r})" for slot in found)
            raise HSMError(f"{where} has several tokens: {names}; name one by slot or token_label")
        return found[0] if found else None

    def __str__(self) -> str:
        """Say what was asked for."""
        parts = [f"{n.replace('_id', '')} {v!r}" for n, v in self._wanted.items() if v is not None]
        return "a token with " + " and ".join(parts) if parts else "an initialised token"
