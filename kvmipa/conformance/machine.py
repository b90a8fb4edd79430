# SPDX-License-Identifier: Apache-2.0
"""What a report says of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kvmipa import running_kernel
from kvmipa.conformance.results import Machine
from kvmipa.id_registers import PARANGE_BITS, field

if TYPE_CHECKING:
    from kvmipa.conformance.facts import Facts
    from kvmipa.system import Kvm


def look_at(kvm: Kvm, facts: Facts) -> Machine:
    """Ask the kernel, and where that is a real one the machine around it."""
    profile = facts.profile
    uname = os.uname()
    parange = field("ID_AA64MMFR0_EL1", "PARange", profile.id_aa64mmfr0_el1)
    sizes = tuple(size for size, failed in enumerate(kvm.probe_machine_types(range(256))) if not failed)
    return Machine(
        reality="REAL" if facts.real else "EMULATED",
        host=kvm.device if facts.real else profile.name or "custom host",
        model=_model() if facts.real else profile.name,
        kernel=f"{uname.release} {uname.version}" if facts.real else profile.release,
        architecture=uname.machine if facts.real else "aarch64",
        cpus=profile.cpus,
        cpu=f"MIDR_EL1 {profile.midr_el1:#x}" if profile.midr_el1 else "",
        page_size=profile.page_size,
        parange_bits=PARANGE_BITS.get(parange),
        host_ipa_limit=kvm.host_ipa_limit,
        mode=profile.mode,
        gic=profile.gic,
        sizes=sizes,
        source=profile.source,
    )


def _model() -> str:
    """The board's name: the device tree's, or the firmware's."""
    for path in ("/proc/device-tree/model", "/sys/class/dmi/id/product_name"):
        text = running_kernel.read_text(path)
        if text and text.strip("\0 \n"):
            return text.strip("\0 \n")
    return ""
