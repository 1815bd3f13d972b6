"""Rotations that stop after a step, or die there, and the steps to try."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from database_help import Vault
from strongroom import DatabaseKeyRotation
from strongroom.database.rotation import _Course


class Stopped(DatabaseKeyRotation):
    """A rotation that stops after a step, until it is let on, or dies there."""

    at = 0
    dies = False

    def _after(self, course: _Course, number: int) -> None:
        super()._after(course, number)
        if number == self.at:
            if self.dies:
                raise KeyboardInterrupt
            self.reached.set()
            assert self.go.wait(60)

    def start(self, at: int) -> None:
        self.at = at
        self.reached, self.go = threading.Event(), threading.Event()
        self.outcome: list[Any] = []

        def run() -> None:
            try:
                self.outcome.append(self.rotate_key())
            except BaseException as error:
                self.outcome.append(error)
            self.reached.set()

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.reached.wait(60)


def die_after(vault: Vault, step: int) -> None:
    rotation = Stopped(vault.path, vault.store)
    rotation.at, rotation.dies = step, True
    with pytest.raises(KeyboardInterrupt):
        rotation.rotate_key()


def steps(every: range, *sampled: int) -> list[Any]:
    """Steps to die after: some in `make test`, all in `make sweep`."""
    return [
        step if step in sampled else pytest.param(step, marks=pytest.mark.sweep) for step in every
    ]
