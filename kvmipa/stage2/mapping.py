# SPDX-License-Identifier: Apache-2.0
"""How large a piece KVM maps on a stage-2 fault, and with which permissions (user_mem_abort; kernel-ipa-spec 5.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvmipa.stage2.descriptors import MemoryType


@dataclass(frozen=True, slots=True)
class Rules:
    """How one kernel release differs from the others, by default the newest: kvmipa.backend.emulated.release has which.

    pfnmap_blocks: VM_PFNMAP memory is not always mapped by pages. blocks_on_permission_fault: a permission fault on a
    block keeps its size. remaps_other_sizes: a permission fault maps anew where the size differs, and does not only
    change the leaf that is there. device_blocks: device memory can be mapped by blocks. device_normal_nc: and as
    Normal-NC, where the VMA allows that. cacheable_pfnmap: a cacheable VM_PFNMAP VMA is ordinary memory on hosts with
    FWB and DIC.
    """

    pfnmap_blocks: bool = True
    blocks_on_permission_fault: bool = True
    remaps_other_sizes: bool = True
    device_blocks: bool = True
    device_normal_nc: bool = True
    cacheable_pfnmap: bool = True


NEWEST: Final = Rules()


@dataclass(frozen=True, slots=True)
class Backing:
    """A memory slot and what is behind the page of it that is faulted on.

    ipa, hva, size: of the slot, bytes. vma_size: bytes that the VMA maps by itself: the page size of hugetlbfs, the
    page otherwise. host_size: bytes that the host's own entry for the page maps (a transparent huge page has a PMD's).
    guest_memfd: the slot has its memory from there. logging: dirty logging is on, and the slot is not read-only.
    """

    ipa: int
    hva: int
    size: int
    page_size: int
    vma_size: int = 0
    host_size: int = 0
    logging: bool = False
    pfnmap: bool = False
    device: bool = False
    guest_memfd: bool = False

    def allows(self, size: int, hva: int) -> bool:
        """Whether a block of this size around an HVA can be mapped: same phase in IPA and HVA, and wholly inside.

        Source: fault_supports_stage2_huge_mapping.

        >>> slot = Backing(ipa=0x40000000, hva=0x7F0000200000, size=0x300000, page_size=4096)
        >>> slot.allows(1 << 21, 0x7F0000200000), slot.allows(1 << 21, 0x7F0000400000)
        (True, False)
        """
        if size == self.page_size:
            return True
        start = hva & -size
        return (self.ipa ^ self.hva) & size - 1 == 0 and start >= self.hva and start + size <= self.hva + self.size


def pmd_size(page_size: int) -> int:
    """Bytes of a level 2 block: 2M, 32M or 512M."""
    return page_size * page_size >> 3


def pud_size(page_size: int) -> int:
    """Bytes of a level 1 entry: 1G, 64G or 4T."""
    return pmd_size(page_size) * page_size >> 3


def mapping_size(
    backing: Backing,
    hva: int,
    rules: Rules = NEWEST,
    *,
    fault_block: int = 0,
    protected: bool = False,
    pkvm: bool = False,
) -> int:
    """Bytes that KVM maps for a fault at an HVA: a page, or a block (level 2; level 1 only with 4K pages).

    fault_block: on a permission fault, bytes that the leaf maps which was there; 0 on other faults. protected: a
    protected VM has pages only. pkvm: other VMs of a pKVM host have no blocks of level 1 (7.3).

    >>> slot = Backing(ipa=0x40000000, hva=0x7F0000000000, size=1 << 30, page_size=4096, host_size=1 << 21)
    >>> mapping_size(slot, 0x7F0000001000) == 1 << 21
    True
    """
    page = backing.page_size
    if protected or backing.guest_memfd:
        return page
    size, forced = _by_vma(backing, hva, rules, largest=pmd_size(page) if pkvm or page != 4096 else pud_size(page))
    if size == page and not forced and (rules.device_blocks or not backing.device):
        return _adjusted(backing, hva, rules, fault_block)
    return size


def _by_vma(backing: Backing, hva: int, rules: Rules, *, largest: int) -> tuple[int, bool]:
    """The size that the VMA asks for, as far as the slot allows it; and whether pages are forced.

    Hugetlbfs has PUD pages with 4K pages only (pud_sect_supported). Contiguous sizes are rounded down to PMD and page.
    """
    page = backing.page_size
    if backing.logging or (not rules.pfnmap_blocks and backing.pfnmap):
        return page, True
    asked = backing.vma_size or page
    for size in (pud_size(page), pmd_size(page)):
        if largest >= size and asked >= size and backing.allows(size, hva):
            return size, False
    return page, asked > page


def _adjusted(backing: Backing, hva: int, rules: Rules, fault_block: int) -> int:
    """Transparent huge pages; and a block whose permissions are relaxed stays one."""
    page, pmd = backing.page_size, pmd_size(backing.page_size)
    if rules.blocks_on_permission_fault and fault_block > page:
        return fault_block
    if backing.host_size >= pmd and backing.allows(pmd, hva):
        return pmd
    return page


@dataclass(frozen=True, slots=True)
class Access:
    """The access that faulted: a load where it is neither a write nor a fetch."""

    write: bool = False
    fetch: bool = False


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the new leaf allows."""

    readable: bool
    writable: bool
    executable: bool


def permissions(
    access: Access,
    *,
    host_writable: bool,
    logging: bool = False,
    device: bool = False,
    memory: MemoryType | None = None,
    dic: bool = False,
) -> Permissions | None:
    """Permissions that a fault leaves; None: a fetch from uncached memory, for which the guest gets an external abort.

    host_writable: the host's own page is, and the slot; logging, device: as Backing; memory: memory_type(), by default
    what it is without exceptions; dic: CTR_EL0.DIC, with which caches need no care before a page becomes executable.
    Reading is always allowed; writing where the host allows it and dirty logging, which leaves devices alone, need not
    see it; executing only after a fetch or with DIC. Source: user_mem_abort [6.12], kvm_s2_fault_compute_prot [7.3].

    >>> permissions(Access(), host_writable=True)
    Permissions(readable=True, writable=True, executable=False)
    """
    cached = not device if memory is None else memory is MemoryType.NORMAL
    if access.fetch and not cached:
        return None
    return Permissions(
        readable=True,
        writable=host_writable and (device or access.write or not logging),
        executable=cached and (access.fetch or dic),
    )


# Of every page of a protected VM (pkvm_mem_abort).
PROTECTED: Final = Permissions(readable=True, writable=True, executable=True)


def memory_type(
    *, device: bool, rules: Rules = NEWEST, uncached_allowed: bool = False, cacheable: bool = False
) -> MemoryType:
    """Memory type of the new leaf.

    device: as Backing; uncached_allowed: VM_ALLOW_ANY_UNCACHED; cacheable: the host's own mapping of the device is
    cacheable (see mappable()). Source: kvm_s2_fault_pin_pfn, kvm_s2_fault_compute_prot [7.3].

    >>> memory_type(device=True, uncached_allowed=True)
    <MemoryType.NORMAL_NC: 'Normal non-cacheable'>
    """
    if not device or (cacheable and rules.cacheable_pfnmap):
        return MemoryType.NORMAL
    return MemoryType.NORMAL_NC if uncached_allowed and rules.device_normal_nc else MemoryType.DEVICE


def mappable(*, device: bool, cacheable: bool, fwb_and_dic: bool, rules: Rules = NEWEST) -> bool:
    """Whether a fault can be served at all; else KVM_RUN fails with EFAULT.

    7.3 does not map a cacheable device where the host lacks FWB or DIC. Source: kvm_s2_fault_pin_pfn.
    """
    return fwb_and_dic or not (device and cacheable and rules.cacheable_pfnmap)
