"""Forks of the tests' process, and the user that has no rights."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable

NOBODY = 65534


def in_a_child(function: Callable[[], object]) -> None:
    """Run a function in a fork of this process that ends as an interpreter does."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException as error:
            traceback.print_exception(error)
        finally:
            # sys.exit would run pytest's own ends; this runs what frees objects.
            with contextlib.suppress(BaseException):
                sys.stderr.flush()
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
