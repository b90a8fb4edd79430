# SPDX-License-Identifier: Apache-2.0
"""Taking a trace of what a program asks of a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmipa.backend.interposed import InterposedBackend
from kvmipa.recording import profile_as_json
from kvmipa.trace.file import Trace

if TYPE_CHECKING:
    from kvmipa.backend.emulated.host import HostProfile


class TracingBackend(InterposedBackend):
    """Notes every system call that goes through it."""

    def trace(self, profile: HostProfile) -> Trace:
        """What was noted, with the host that answered."""
        return Trace({"profile": profile_as_json(profile)}, ())
