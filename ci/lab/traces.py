# SPDX-License-Identifier: Apache-2.0
"""Traces of real kernels: the same operations on each. In the guest: ``python3 -m ci.lab.traces FILE HEADER``.

HEADER is a JSON object of what only the outside knows.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import kvmipa
from ci.lab.trace_list import descriptors, devices, devices_v2, interrupts, memory, vcpus
from ci.lab.trace_list.making import Host
from kvmipa.backend.native import NativeBackend
from kvmipa.recording import profile_as_json
from kvmipa.trace import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.trace import Operation, Trace

SUBJECTS: Final = (memory, devices, devices_v2, vcpus, interrupts, descriptors)


def operations(host: Host) -> Iterator[Operation]:
    """Everything that is done on a host."""
    for subject in SUBJECTS:
        yield from subject.operations(host)


def take(header_text: str) -> Trace:
    """Do them on the running kernel."""
    with kvmipa.open("native") as kvm:
        profile = kvmipa.HostProfile.of(kvm)
    header = {
        "release": platform.release(),
        "kernel": platform.version(),
        **json.loads(header_text),
        "profile": profile_as_json(profile),
    }
    return run(operations(Host.of(profile)), NativeBackend(), header)


if __name__ == "__main__":
    take(sys.argv[2]).write(Path(sys.argv[1]))
