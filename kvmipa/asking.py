# SPDX-License-Identifier: Apache-2.0
"""How the modules of a handle's subjects ask its kernel, without the handle."""

from __future__ import annotations

from collections.abc import Callable

#: A request with a struct on the handle's descriptor: its result, or -errno.
Ask = Callable[[int, bytearray], int]

#: What the handle answers for a capability.
AskCapability = Callable[[int], int]
