# SPDX-License-Identifier: Apache-2.0
"""The signal by which a thread is called back from the real kernel's KVM_RUN."""

from __future__ import annotations

import signal
from typing import Final

# A real-time signal, for programs have uses of their own for the others; of these not one of the first, which runtimes
# of other languages take (glibc's own are below SIGRTMIN). Other systems than Linux have none.
KICK_SIGNAL: Final[int] = getattr(signal, "SIGRTMIN", 34) + 9
