# SPDX-License-Identifier: Apache-2.0
"""The order of this process's memory accesses, where the kernel is on the other side."""

from __future__ import annotations

from threading import Lock


def fence() -> None:
    """What was read before is read before what comes after, on CPUs as well that do it in another order (arm64).

    A lock's release is after all that came before it, and its acquisition is before all that follows; that a release is
    before the acquisition that follows makes the two a full barrier (Arm ARM B2.3: Load-Acquire, Store-Release). Python
    has no other one.

    >>> fence()
    """
    lock = Lock()
    for _ in range(2):
        with lock:
            pass
