"""A method for each of the commoner events."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strongroom._events import Field

__all__ = ["EventMethods"]


class EventMethods:
    """The methods of an audit trail; each seals one event, as `event` does.

    Raises:
        AuditError: As `CryptoAuditLogger.event`.
    """

    def event(self, name: str, outcome: str, fields: dict[str, Field]) -> None:
        """Seal an event."""
        raise NotImplementedError

    def log_key_generation(self, key_id: str, algorithm: str, purpose: str) -> None:
        """Record that a key was made."""
        self.event(
            "key.generated",
            "success",
            {"key_id": key_id, "algorithm": algorithm, "purpose": purpose},
        )

    def log_key_rotation(self, old_key_id: str, new_key_id: str, reason: str) -> None:
        """Record that a new primary key took the old one's place."""
        self.event(
            "key.rotated",
            "success",
            {"old_key_id": old_key_id, "new_key_id": new_key_id, "reason": reason},
        )

    def log_decryption_failure(self, key_id: str | None, error_type: str) -> None:
        """Record that a message did not open; `error_type` is the exception's class."""
        self.event("decryption.failed", "failure", {"key_id": key_id, "error_type": error_type})

    def log_key_activation(self, key_id: str, reason: str = "") -> None:
        """Record that a key became its keyset's primary."""
        self.event("key.activated", "success", {"key_id": key_id, "reason": reason})

    def log_key_retirement(self, key_id: str, reason: str = "") -> None:
        """Record that a key decrypts only, from now on."""
        self.event("key.retired", "success", {"key_id": key_id, "reason": reason})

    def log_key_suspension(self, key_id: str, reason: str = "") -> None:
        """Record that a key was suspended."""
        self.event("key.suspended", "success", {"key_id": key_id, "reason": reason})

    def log_key_compromise(self, key_id: str, reason: str = "") -> None:
        """Record that a key is known to others, or may be."""
        self.event("key.compromised", "success", {"key_id": key_id, "reason": reason})

    def log_key_destruction(self, key_id: str, reason: str = "") -> None:
        """Record that a key was destroyed."""
        self.event("key.destroyed", "success", {"key_id": key_id, "reason": reason})

    def log_key_wrapping(self, key_id: str, wrapping_key_id: str) -> None:
        """Record that a key was wrapped under another."""
        self.event("key.wrapped", "success", {"key_id": key_id, "wrapping_key_id": wrapping_key_id})

    def log_key_unwrapping(self, key_id: str, wrapping_key_id: str) -> None:
        """Record that a key was unwrapped."""
        self.event(
            "key.unwrapped", "success", {"key_id": key_id, "wrapping_key_id": wrapping_key_id}
        )

    def log_key_rewrapping(self, key_id: str, wrapping_key_id: str) -> None:
        """Record that a key was wrapped anew, under another key than before."""
        self.event(
            "key.rewrapped", "success", {"key_id": key_id, "wrapping_key_id": wrapping_key_id}
        )

    def log_key_export(self, key_id: str, reason: str = "") -> None:
        """Record that a key left the store."""
        self.event("key.exported", "success", {"key_id": key_id, "reason": reason})

    def log_key_import(self, key_id: str, reason: str = "") -> None:
        """Record that a key came into the store."""
        self.event("key.imported", "success", {"key_id": key_id, "reason": reason})

    def log_store_opened(self, store: str, master: str) -> None:
        """Record that a key store was opened, and by which master."""
        self.event("store.opened", "success", {"store": store, "master": master})

    def log_master_unreachable(self, master: str, error_type: str) -> None:
        """Record that a master key could not be asked."""
        self.event("master.unreachable", "failure", {"master": master, "error_type": error_type})

    def log_database_rotation_step(
        self, database: str, step: int, steps: int, detail: str = ""
    ) -> None:
        """Record one step of a database's rotation."""
        self.event(
            "database.rotation.step",
            "success",
            {"database": database, "step": step, "steps": steps, "detail": detail},
        )

    def log_hsm_session(self, token: str) -> None:
        """Record that a session with a token was opened."""
        self.event("hsm.session.opened", "success", {"token": token})

    def log_bulk_start(self, operation: str, count: int | None = None) -> None:
        """Record that a run over many files or objects began."""
        self.event("bulk.started", "success", {"operation": operation, "count": count})

    def log_bulk_end(self, operation: str, count: int, failed: int = 0) -> None:
        """Record that a run over many files or objects ended, and how many failed."""
        self.event(
            "bulk.ended",
            "failure" if failed else "success",
            {"operation": operation, "count": count, "failed": failed},
        )
