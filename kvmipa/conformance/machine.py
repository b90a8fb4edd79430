# SPDX-License-Identifier: Apache-2.0
"""What a report says of the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kvmipa import running_kernel
from kvmipa.cli.output import runs
from kvmipa.conformance.cpu_names import cpu_name
from kvmipa.conformance.results import Machine
from kvmipa.id_registers import PARANGE_BITS, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvmipa.conformance.facts import Facts
    from kvmipa.system import Kvm

#: Where the kernel shows its CPUs.
CPUS: Final = Path("/sys/devices/system/cpu")
# The device tree's, or the firmware's.
_MODELS: Final = ("/proc/device-tree/model", "/sys/class/dmi/id/product_name")


def look_at(kvm: Kvm, facts: Facts) -> Machine:
    """Ask the kernel, and where that is a real one the machine around it."""
    profile = facts.profile
    uname = os.uname()
    midrs = midrs_of(CPUS) if facts.real else {}
    if not midrs and profile.midr_el1:
        midrs = dict.fromkeys(range(profile.cpus), profile.midr_el1)
    return Machine(
        reality="REAL" if facts.real else "EMULATED",
        host=kvm.device if facts.real else profile.name or "custom host",
        model=_model() if facts.real else profile.name,
        kernel=f"{uname.release} {uname.version}" if facts.real else profile.release,
        architecture=uname.machine if facts.real else "aarch64",
        cpus=profile.cpus,
        cpu=describe_cpus(midrs),
        page_size=profile.page_size,
        parange_bits=PARANGE_BITS.get(field("ID_AA64MMFR0_EL1", "PARange", profile.id_aa64mmfr0_el1)),
        host_ipa_limit=kvm.host_ipa_limit,
        mode=profile.effective_mode,
        gic=profile.gic,
        sizes=facts.accepted_types(kvm),
        source=profile.source,
        cpu_set=_cpu_set() if facts.real else "",
        transparent_hugepages=profile.thp,
    )


def midrs_of(cpus: Path) -> dict[int, int]:
    """MIDR_EL1 of each CPU that shows it: of those that are online.

    The limit is the least of all CPUs' (kernel-ipa-spec 3), so a report names each kind.
    """
    found = {}
    for file in cpus.glob("cpu[0-9]*/regs/identification/midr_el1"):
        text = running_kernel.read_text(str(file))
        if text and re.fullmatch(r"(0x)?[0-9a-f]+", text.strip()):
            found[int(file.parts[-4].removeprefix("cpu"))] = int(text, 16)
    return dict(sorted(found.items()))


def describe_cpus(midrs: Mapping[int, int]) -> str:
    """The kinds of CPU, and where there are several, which CPUs are of which.

    >>> describe_cpus({0: 0x410FD034, 1: 0x410FD034})
    'Arm Cortex-A53 r0p4'
    >>> describe_cpus({0: 0x410FD034, 1: 0x410FD082, 2: 0x410FD034})
    'Arm Cortex-A53 r0p4 (0, 2); Arm Cortex-A72 r0p2 (1)'
    """
    kinds: dict[str, list[int]] = {}
    for cpu, midr in midrs.items():
        kinds.setdefault(cpu_name(midr), []).append(cpu)
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{name} ({runs(cpus)})" for name, cpus in kinds.items())


def _cpu_set() -> str:
    online = (running_kernel.read_text(str(CPUS / "online")) or "").strip()
    own = runs(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ""
    if not online:
        return own
    online = online.replace("-", "..").replace(",", ", ")
    return online if own in ("", online) else f"{online}; this run: {own}"


def _model() -> str:
    for path in _MODELS:
        text = running_kernel.read_text(path)
        if text and text.strip("\0 \n"):
            return text.strip("\0 \n")
    return ""
