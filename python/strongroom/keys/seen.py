"""What this process has seen of each store, so that an older copy put back is noticed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from strongroom.keys.rows import KeysetRow

__all__ = ["Seen", "newest_logged"]

_GENERATION_LENGTH = 8


class Seen:
    """The newest generation of each keyset that this process has seen, of all stores.

    A whole keyset or store that was put back authenticates; only someone who remembers a later
    generation can tell. The stores are told apart by their root key's id.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Generation [8] and MAC in one object: there may be a million of them.
        self._stores: dict[str, dict[str, bytes]] = {}

    def get(self, root_id: str, name: str) -> tuple[int, bytes] | None:
        """Return the newest generation seen and its head's MAC, None if none was."""
        newest = self._stores.get(root_id, {}).get(name)
        return None if newest is None else (_generation(newest), newest[_GENERATION_LENGTH:])

    def names(self, root_id: str) -> set[str]:
        """Return the names of the keysets that were seen of a store."""
        with self._lock:
            return set(self._stores.get(root_id, ()))

    def record(self, root_id: str, head: KeysetRow) -> None:
        """Remember a head that was read outside a transaction, or committed in one."""
        with self._lock:
            heads = self._stores.setdefault(root_id, {})
            newest = heads.get(head.name)
            if newest is None or _generation(newest) < head.generation:
                heads[head.name] = head.generation.to_bytes(_GENERATION_LENGTH, "big") + head.mac

    def forget(self, root_id: str) -> None:
        """Forget a store, which the caller knows to have been restored from a backup."""
        with self._lock:
            self._stores.pop(root_id, None)


def _generation(newest: bytes) -> int:
    return int.from_bytes(newest[:_GENERATION_LENGTH], "big")


def newest_logged(
    root_id: str, logged: Iterable[tuple[str, Mapping[str, object]]]
) -> dict[str, int]:
    """Return the newest generation of each keyset that a log's events tell of."""
    newest: dict[str, int] = {}
    for name, fields in logged:
        keyset, generation = fields.get("keyset"), fields.get("generation")
        if name == "store.restored" and fields.get("store") == root_id:
            # Older than it was, and known to be.
            newest.clear()
        elif (
            fields.get("store") == root_id
            and isinstance(keyset, str)
            and isinstance(generation, int)
        ):
            newest[keyset] = max(newest.get(keyset, 0), generation)
    return newest
