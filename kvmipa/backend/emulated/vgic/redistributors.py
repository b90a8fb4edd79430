# SPDX-License-Identifier: Apache-2.0
"""Regions of redistributors of a vGICv3, and how vCPUs get their frames (kernel-device-spec 2.5)."""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOSPC
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.backend.emulated.io_events import mmio_bus_is_full
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.vgic.frames import UNDEFINED, check_range, is_in_range, overlap, wraps

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic.controller import Vgic

# include/kvm/arm_vgic.h: KVM_VGIC_V3_REDIST_SIZE (two frames of 64K), KVM_VGIC_V3_DIST_SIZE; bytes.
REDISTRIBUTOR_SIZE: Final = 0x2_0000
DISTRIBUTOR_SIZE: Final = 0x1_0000
ALIGNMENT: Final = 0x1_0000


class RedistributorRegion:
    """A region of redistributors.

    count: how many it holds, 0 for the one that grows with the vCPUs; used: how many it has given away.
    """

    def __init__(self, index: int, base: int, count: int) -> None:
        self.index = index
        self.base = base
        self.count = count
        self.used = 0

    @property
    def is_full(self) -> bool:
        """Whether it has no frame left; the old kind never runs out (vgic_v3_redist_region_full)."""
        return bool(self.count) and self.used >= self.count


class Frame(NamedTuple):
    """A vCPU's place: the number of its redistributor in the region."""

    region: RedistributorRegion
    number: int


class Redistributors:
    """The regions of a vGICv3 in the order of their indices, which is that of their creation."""

    def __init__(self, vgic: Vgic) -> None:
        self._vgic = vgic
        self._vm = vgic.vm
        self.regions: list[RedistributorRegion] = []

    def region(self, index: int) -> RedistributorRegion | None:
        """The region of an index."""
        return next((region for region in self.regions if region.index == index), None)

    def size_of(self, count: int) -> int:
        """Bytes of a region; of the old kind, with the vCPUs that there are now."""
        return (count or len(self._vm.vcpus)) * REDISTRIBUTOR_SIZE

    def add(self, index: int, base: int, count: int) -> None:
        """A new region; count 0 is the old kind. vCPUs that have no frame get one."""
        known = self._vm.behaviour
        size = self.size_of(count) if count or known.device_range_includes_size else 0
        if not known.device_range_includes_size and not count and self.regions:
            raise RefusedError(EINVAL)
        if wraps(base, size):
            raise RefusedError(EINVAL)
        self._check_place(index, count)
        self._check_overlap(base, size, is_old_kind=not count)
        check_range(self._vm, UNDEFINED, base, ALIGNMENT, size)
        region = RedistributorRegion(index, base, count)
        self.regions.append(region)
        try:
            for vcpu in self._vm.vcpus:
                self.give_frame(vcpu)
        except RefusedError:
            if known.removes_failed_redistributors:
                self._remove(region)
            raise

    def _check_place(self, index: int, count: int) -> None:
        """Whether a region may come after those that there are."""
        if not self.regions:
            if index:
                raise RefusedError(EINVAL)
            return
        last = self.regions[-1]
        if self._vm.behaviour.device_range_includes_size:
            if not count:
                raise RefusedError(EINVAL if last.count else EEXIST)
            if index != last.index + 1:
                raise RefusedError(EINVAL)
        elif index != last.index + 1 or not last.count:
            raise RefusedError(EINVAL)

    def _check_overlap(self, base: int, size: int, *, is_old_kind: bool) -> None:
        """Only the old kind is compared with the distributor here (vgic_v3_alloc_redist_region)."""
        distributor = self._vgic.distributor_base
        in_the_way = (
            is_old_kind and distributor != UNDEFINED and overlap(base, size, distributor, DISTRIBUTOR_SIZE)
        ) or self._overlap_regions(base, size)
        if in_the_way:
            raise RefusedError(EINVAL)

    def _overlap_regions(self, base: int, size: int) -> bool:
        return any(overlap(base, size, region.base, self.size_of(region.count)) for region in self.regions)

    def give_frame(self, vcpu: Vcpu) -> None:
        """Give a vCPU its redistributor, if a region has room; none is no error (vgic_register_redist_iodev)."""
        if vcpu.frame is not None:
            return
        region = next((region for region in self.regions if not region.is_full), None)
        if region is None:
            return
        if not self.bases_are_good():
            raise RefusedError(EINVAL)
        if mmio_bus_is_full(self._vm):
            raise RefusedError(ENOSPC)
        vcpu.frame = Frame(region, region.used)
        region.used += 1

    def bases_are_good(self) -> bool:
        """Whether nothing overlaps, and (since 6.1) all is within the VM's IPA size (vgic_v3_check_base)."""
        distributor = self._vgic.distributor_base
        if distributor != UNDEFINED and wraps(distributor, DISTRIBUTOR_SIZE):
            return False
        for region in self.regions:
            size = self.size_of(region.count)
            if self._vm.behaviour.device_range_includes_size:
                if not is_in_range(self._vm, region.base, ALIGNMENT, size):
                    return False
            elif wraps(region.base, size):
                return False
        return distributor == UNDEFINED or not self._overlap_regions(distributor, DISTRIBUTOR_SIZE)

    def _remove(self, region: RedistributorRegion) -> None:
        self.regions.remove(region)
        for vcpu in self._vm.vcpus:
            if vcpu.frame is not None and vcpu.frame.region is region:
                vcpu.frame = None

    def is_last(self, vcpu: Vcpu) -> bool:
        """GICR_TYPER.Last of a vCPU: no redistributor follows it (vgic_mmio_vcpu_rdist_is_last)."""
        if vcpu.frame is None:
            return False
        region, number = vcpu.frame
        if number < region.used - 1:
            return False
        if region.count and number == region.count - 1:
            end = region.base + self.size_of(region.count)
            return not any(other.base == end and other.used for other in self.regions)
        return True
