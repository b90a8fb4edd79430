# SPDX-License-Identifier: Apache-2.0
"""Memory slots of the emulated kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvmipa.backend.emulated.requests import Request

# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = ()
