# SPDX-License-Identifier: Apache-2.0
"""A line that shows how far a run is, made with rich."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class RichLine:
    """A bar on standard error; nothing of it stays."""

    def __init__(self) -> None:
        # No thread that refreshes it: beside a VM that is being checked there is nothing else in the process.
        self._progress = Progress(
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=None)

    def show(self, done: int, total: int, failed: int, what: str) -> None:
        """Replace the line."""
        fails = f"{failed} failed, " if failed else ""
        self._progress.update(self._task, completed=done, total=total, description=f"{fails}{what}")
        self._progress.start()
        self._progress.refresh()

    def clear(self) -> None:
        """Remove the line."""
        self._progress.stop()
