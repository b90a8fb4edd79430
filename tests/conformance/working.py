# SPDX-License-Identifier: Apache-2.0
"""What workers do in tests of many hosts; they import it, so that it is a module of its own."""

from __future__ import annotations

import os
import signal
import time

from kvmipa.conformance.many import HostRun
from tests.conformance.sample_reports import NAMES, report


def work(host: str, claims: tuple[str, ...] | None) -> HostRun:
    """What the host's name says."""
    what, _, rest = host.partition(":")
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exits":
        os._exit(3)
    if what == "hangs":
        time.sleep(600)
    if what == "raises":
        raise ValueError(rest)
    if what == "off":
        return HostRun(host, obstacle="kvm-arm.mode=none")
    if what == "interrupts":
        time.sleep(0.3)
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(600)
    failed = NAMES[1] if what == "fails" else ""
    return HostRun(host, report(host=host, failed=failed, model=",".join(claims or ("all",))))


def interrupted(host: str, claims: tuple[str, ...] | None) -> HostRun:
    """Ctrl-C while the second host is looked at in this process."""
    if host == "second":
        raise KeyboardInterrupt
    return work(host, claims)
