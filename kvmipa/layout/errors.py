# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a question about a memory map."""

from __future__ import annotations


class LayoutError(ValueError):
    """A memory map, a size or a limit that makes no sense: nothing that any host could answer."""
