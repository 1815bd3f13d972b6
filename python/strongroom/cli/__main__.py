"""`python -m strongroom.cli`, for where the console script is not on the path."""

from __future__ import annotations

from strongroom.cli import main

main()
