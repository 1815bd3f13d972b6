"""A few open connections, for threads to take in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from strongroom.errors import KeyStoreError

__all__ = ["Pool"]

IDLE_CONNECTIONS = 4


class _Connection(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Connection)


class Pool(Generic[C]):
    """Connections: one a thread at a time, kept for the next, at most four idle ones."""

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._idle: list[C] = []
        self._all: dict[int, C] = {}
        self._closed = False

    def take(self) -> tuple[C, bool]:
        """Return a connection, and whether it is a new one.

        Raises:
            KeyStoreError: The pool is closed.
        """
        with self._lock:
            if self._closed:
                raise KeyStoreError("the key store is closed")
            if self._idle:
                return self._idle.pop(), False
        connection = self._connect()
        with self._lock:
            self._all[id(connection)] = connection
        return connection, True

    def give(self, connection: C, *, sound: bool) -> None:
        """Take a connection back; one that isn't sound is closed."""
        with self._lock:
            keep = sound and not self._closed and len(self._idle) < IDLE_CONNECTIONS
            if keep:
                self._idle.append(connection)
            else:
                self._all.pop(id(connection), None)
        if not keep:
            connection.close()

    def close(self) -> None:
        """Close the idle connections now, the others when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in idle:
                self._all.pop(id(connection), None)
        for connection in idle:
            connection.close()

    def abandon(self) -> None:
        """In a forked child: never close the parent's connections, not even by the collector."""
        # Their descriptors carry locks that SQLite believes to hold, or a session of a server.
        # No lock is taken: a thread that isn't here may have held it.
        import ctypes

        for connection in self._all.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self._all = {}
        self._idle = []
        self._closed = True
