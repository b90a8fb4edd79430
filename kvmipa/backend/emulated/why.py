# SPDX-License-Identifier: Apache-2.0
"""Why a host has the IPA limit that it has, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmipa.id_registers import field
from kvmipa.stage2 import ipa_limit as arm

if TYPE_CHECKING:
    from kvmipa.backend.emulated.host import HostProfile


def explain_limit(host: HostProfile) -> str:
    """One or two clauses: what the CPU has, and what the kernel makes of it.

    >>> from kvmipa import HostProfile
    >>> explain_limit(HostProfile.preset("qemu-max-6.12-4k"))
    'PARange is 52 bits; LPA2 at both stages lets 4K pages reach 52'
    """
    if host.obstacle:
        return f"{host.obstacle}: KVM does not start"
    if not host.behaviour.ipa_size:
        return "the kernel is older than 4.20: every VM has 40 bits"
    parange = field(arm.MMFR0, "PARange", host.mmfr0)
    cpu_bits = arm.parange_bits(parange, host.config_pa_bits)
    if parange in arm.KERNEL_PARANGE_BITS:
        cpu = f"PARange is {cpu_bits} bits"
    else:
        cpu = f"PARange {parange} is reserved, so the kernel takes its own {cpu_bits} bits"
    return cpu + _kernel(host, cpu_bits)


def _kernel(host: HostProfile, cpu_bits: int) -> str:
    """What the kernel makes of the CPU's bits; nothing where it takes them as they are."""
    if host.lpa2 and host.ipa_limit == 52:
        return f"; LPA2 at both stages lets {_pages(host)} pages reach 52"
    if host.ipa_limit == cpu_bits:
        return ""
    if not host.behaviour.host_independent_limit:
        return "; before 5.10 the host's own address sizes bound stage 2 as well"
    return f"; {_pages(host)} pages without LPA2 stop at 48{_why_no_lpa2(host)}"


def _why_no_lpa2(host: HostProfile) -> str:
    if not host.behaviour.lpa2 and arm.lpa2(host.id_aa64mmfr0_el1, host.page_size):
        return " (this CPU has LPA2, but KVM uses it since Linux 6.8 only)"
    return ""


def _pages(host: HostProfile) -> str:
    return f"{host.page_size >> 10}K"
