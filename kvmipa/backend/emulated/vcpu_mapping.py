# SPDX-License-Identifier: Apache-2.0
"""What is behind the run area in a vCPU's descriptor: the ring of collected writes, and the dirty ring.

kvm_vcpu_fault in virt/kvm/kvm_main.c. The kernel maps any range and has SIGBUS where there is nothing; here such a
range is EINVAL.
"""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING

from kvmipa import abi
from kvmipa.backend.emulated.dirty_ring import ring_of

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vcpu import Vcpu


def map_behind_run_area(vcpu: Vcpu, size: int, offset: int) -> memoryview | int:
    """The bytes of a range that begins behind the first page, shared by all who map it, or -EINVAL."""
    vm = vcpu.vm
    page_size = vm.profile.page_size
    with vm.lock:
        if offset == abi.KVM_COALESCED_MMIO_PAGE_OFFSET * page_size:
            area = vm.io_events.ring.area
        elif offset == abi.KVM_DIRTY_LOG_PAGE_OFFSET * page_size and (ring := ring_of(vcpu)) is not None:
            area = ring.area
        else:
            return -EINVAL
    return area[:size] if 0 < size <= len(area) else -EINVAL
