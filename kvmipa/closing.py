# SPDX-License-Identifier: Apache-2.0
"""Things that are closed at the end of a ``with`` block."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Closing:
    """What close() ends; a context manager."""

    def close(self) -> None:
        """Close it."""
        raise NotImplementedError

    def _require_open(self) -> None:
        """ClosedError once closed."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """The thing itself; ClosedError once closed."""
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, however the block ended."""
        self.close()
