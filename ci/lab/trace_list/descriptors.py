# SPDX-License-Identifier: Apache-2.0
"""Descriptors with requests that are not their own, bad pointers, and capabilities (kernel-device-spec 4.7 and 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ci.lab.trace_list.devices import CTRL, ITS, V3, VFIO
from ci.lab.trace_list.making import (
    BAD_POINTERS,
    FILL,
    U64,
    Host,
    begin,
    check,
    device,
    enable,
    in_turn,
    region,
    set_attr,
    vcpu,
)
from kvmipa import abi
from kvmipa.trace import Begin, Bytes, Close, Ioctl, Map, Open, struct

if TYPE_CHECKING:
    from ci.lab.trace_list.making import Operations

# Requests that a vCPU answers from its registers, and KVM_RUN itself.
OF_A_VCPU: Final = frozenset((abi.KVM_RUN, abi.KVM_GET_ONE_REG, abi.KVM_SET_ONE_REG))

# kernel-device-spec 6, "never accepted on arm64", and requests with another size or direction.
_NOT_ON_ARM64: Final = (
    0xAE02, 0xAE05, 0xAE44, 0xAE45, 0xAE48, 0xAE62, 0xAE64, 0xAE71, 0xAE78, 0xAE86, 0xAE92, 0xAE9A, 0xAEA3, 0xAEAD,
    0xAEB7, 0xAEC3, 0xAEFF, 0x4020_AED2, 0xC040_AED5, 0x4020_AE47, 0x0020_AE46, 0x8020_AE46, 0x4028_AE46, 0x4018_AEE4,
    0x4020_AF46, 0x0, 0x5401, 0xFFFF_FFFF,
)  # fmt: skip
_BAD_POINTERS: Final = (*BAD_POINTERS, U64)

_CAPS_OF_STATE: Final = (
    abi.KVM_CAP_MAX_VCPUS,
    abi.KVM_CAP_MAX_VCPU_ID,
    abi.KVM_CAP_NR_VCPUS,
    abi.KVM_CAP_MSI_DEVID,
    abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE,
    abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES,
    abi.KVM_CAP_NR_MEMSLOTS,
    abi.KVM_CAP_ARM_VM_IPA_SIZE,
    abi.KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED,
    abi.KVM_CAP_GUEST_MEMFD,
)


def operations(host: Host) -> Operations:
    """All of them."""
    return in_turn(
        host,
        _foreign_requests,
        _bad_pointers,
        _closed,
        _no_descriptor,
        _capabilities,
        _enabling,
        _eager_split,
        _dirty_ring,
        _rest,
    )


def _everything(name: str) -> Operations:
    yield from begin(name)
    yield vcpu(0)
    yield device(V3, "gic0")
    yield device(ITS, "its0")
    yield device(VFIO, "vfio0")


def _foreign_requests(host: Host) -> Operations:
    kinds = {"kvm": "system", "vm0": "VM", "vcpu0": "vCPU", "gic0": "vGIC", "its0": "ITS", "vfio0": "VFIO"}
    # No descriptor for a VM that would need one: what stays is whether the request is known, and its argument good.
    for on, kind in kinds.items():
        yield from _everything(f"descriptors: requests on a {kind}")
        for name, number in abi.REQUESTS.items():
            if on != "vcpu0" or number not in OF_A_VCPU:
                yield Ioctl(on, name, "unmapped", new="new0")
        for number in _NOT_ON_ARM64:
            yield Ioctl(on, number, 0)


def _bad_pointers(host: Host) -> Operations:
    yield from _everything("descriptors: bad pointers")
    for where in _BAD_POINTERS:
        for name, number in abi.REQUESTS.items():
            if number >> 30 and number not in OF_A_VCPU - {abi.KVM_ARM_SET_DEVICE_ADDR}:
                yield Ioctl("vm0", name, where)


def _closed(host: Host) -> Operations:
    yield from begin("descriptors: closed ones")
    yield Close("vm0")
    for on in ("vm0", "closed", 0xFFFF_FFFF >> 1):
        yield check(abi.KVM_CAP_ARM_VM_IPA_SIZE, on)  # type: ignore[arg-type]
        yield Ioctl(on, "KVM_CREATE_VCPU", 0)
        yield Ioctl(on, "KVM_SET_USER_MEMORY_REGION", "kernel")
    yield Close("kvm")
    yield Ioctl("kvm", "KVM_GET_API_VERSION")
    yield Open("kvm")
    yield Ioctl("kvm", "KVM_GET_API_VERSION")


def _no_descriptor(host: Host) -> Operations:
    yield Begin("descriptors: none left")
    yield Open("kvm")
    for machine_type in (32, 40, 31, 1, 1 << 32):
        yield Ioctl("kvm", "KVM_CREATE_VM", machine_type, no_descriptor=True)
    yield Ioctl("kvm", "KVM_CREATE_VM", 32, new="vm0")
    yield Ioctl("vm0", "KVM_GET_STATS_FD", no_descriptor=True)
    fields = struct("create_guest_memfd", size=host.page_size)
    yield Ioctl("vm0", "KVM_CREATE_GUEST_MEMFD", fields, no_descriptor=True)
    yield Ioctl("vm0", "KVM_CREATE_GUEST_MEMFD", struct("create_guest_memfd", size=1), no_descriptor=True)
    yield Ioctl("vm0", "KVM_GET_STATS_FD", new="stats0")
    yield vcpu(0)
    yield Ioctl("vcpu0", "KVM_GET_STATS_FD", new="stats1")
    for on in ("stats0", "stats1"):
        yield Ioctl(on, "KVM_CHECK_EXTENSION", 0)
        yield Ioctl(on, "KVM_GET_STATS_FD")


def _capabilities(host: Host) -> Operations:
    for bits in host.sizes:
        yield from begin(f"descriptors: capabilities as the VM of {bits} bits changes", bits)
        for cap in _CAPS_OF_STATE:
            yield check(cap)
        yield region(0, 0, host.page_size)
        yield vcpu(0)
        yield device(V3, "gic0")
        for cap in _CAPS_OF_STATE:
            yield check(cap)
        yield device(ITS, "its0")
        yield set_attr("gic0", CTRL, 0)
        for cap in _CAPS_OF_STATE:
            yield check(cap)
        for cap in (1 << 32 | 165, 1 << 63, U64):
            yield check(cap)


def _enabling(host: Host) -> Operations:
    yield from begin("descriptors: KVM_ENABLE_CAP")
    yield check(abi.KVM_CAP_ENABLE_CAP_VM)
    for cap in (*range(0, 260), 1 << 16, 1 << 31, 0xFFFF_FFFF):
        if cap not in (abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE):
            yield enable(cap)
    for cap, *args in (
        (abi.KVM_CAP_HALT_POLL, 0xFFFF_FFFF),
        (abi.KVM_CAP_HALT_POLL, 1 << 32),
        (abi.KVM_CAP_HALT_POLL, U64),
        (abi.KVM_CAP_ARM_NISV_TO_USER, U64, U64, U64, U64),
        (abi.KVM_CAP_ARM_SYSTEM_SUSPEND, 1),
        (abi.KVM_CAP_ARM_MTE, 1),
        (abi.KVM_CAP_ARM_WRITABLE_IMP_ID_REGS, 1),
        (abi.KVM_CAP_ARM_SEA_TO_USER, 1),
    ):
        yield enable(cap, *args)
        yield enable(cap, *args, flags=1)
    yield vcpu(0)
    for cap in (abi.KVM_CAP_ARM_MTE, abi.KVM_CAP_ARM_WRITABLE_IMP_ID_REGS, abi.KVM_CAP_ARM_NISV_TO_USER):
        yield enable(cap)
    fields = struct("enable_cap", cap=abi.KVM_CAP_ARM_NISV_TO_USER, pad=[1, 2, 3])
    yield Ioctl("vm0", "KVM_ENABLE_CAP", fields)
    for where in _BAD_POINTERS:
        yield Ioctl("vm0", "KVM_ENABLE_CAP", where)
    yield enable(abi.KVM_CAP_ARM_NISV_TO_USER, on="vcpu0")
    yield enable(abi.KVM_CAP_ARM_NISV_TO_USER, on="kvm")


def _eager_split(host: Host) -> Operations:
    cap = abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE
    yield from begin("descriptors: the chunk size of eager splitting")
    sizes = (0, 1, 0x1000, 0x4000, 0x1_0000, 0x20_0000, 0x200_0000, 0x2000_0000, 1 << 30, 1 << 36, 1 << 39, 0x20_1000)
    for size in (*sizes, 0x3000, 1 << 63, U64):
        yield enable(cap, size)
        yield check(cap)
        yield enable(cap, size, flags=1)
    yield check(cap, "kvm")
    yield enable(cap, host.page_size)
    yield region(0, 0, host.page_size)
    for size in (0, host.page_size, 0x20_0000, 1):
        yield enable(cap, size)
    yield check(cap)
    yield region(0, 0, 0)
    yield enable(cap, 0)
    yield check(cap)


def _dirty_ring(host: Host) -> Operations:
    ring, bitmap = abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, abi.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
    page = host.page_size
    for size in (0, 1, 0x800, page, page + 16, 2 * page, 1 << 20, 1 << 21, 1 << 32 | page, 1 << 63):
        yield from begin(f"descriptors: a dirty ring of {size:#x}")
        yield enable(bitmap)
        yield Ioctl("vm0", "KVM_RESET_DIRTY_RINGS")
        yield check(ring)
        yield enable(ring, size)
        yield enable(ring, size, flags=1)
        yield Ioctl("vm0", "KVM_RESET_DIRTY_RINGS")
        yield region(0, 0, page, flags=abi.KVM_MEM_LOG_DIRTY_PAGES)
        yield Ioctl("vm0", "KVM_GET_DIRTY_LOG", struct("dirty_log", slot=0, dirty_bitmap=Bytes(b"\xa5" * 8)))
        yield Ioctl("vm0", "KVM_GET_DIRTY_LOG", struct("dirty_log", slot=99, dirty_bitmap="unmapped"))
        fields = struct("clear_dirty_log", slot=0, num_pages=1, dirty_bitmap=Bytes(bytes(8)))
        yield Ioctl("vm0", "KVM_CLEAR_DIRTY_LOG", fields)
        yield enable(bitmap)
        yield region(0, 0, 0)
        yield enable(bitmap, flags=1)
        yield enable(bitmap)
        yield region(0, 0, page, flags=abi.KVM_MEM_LOG_DIRTY_PAGES)
        yield Ioctl("vm0", "KVM_GET_DIRTY_LOG", struct("dirty_log", slot=0, dirty_bitmap=Bytes(b"\xa5" * 8)))
        yield check(ring)
    yield from begin("descriptors: a dirty ring after a vCPU")
    yield vcpu(0)
    yield enable(ring, page)
    yield enable(bitmap)


def _rest(host: Host) -> Operations:
    """Requests of a VM that belong to no other list."""
    yield from begin("descriptors: other requests of a VM")
    for offset, reserved in ((0, 0), (1, 0), (U64, 0), (0, 1), (0, U64)):
        fields = struct("arm_counter_offset", counter_offset=offset, reserved=reserved)
        yield Ioctl("vm0", "KVM_ARM_SET_COUNTER_OFFSET", fields)
    yield Ioctl("vm0", "KVM_ARM_PREFERRED_TARGET", struct("vcpu_init", target=FILL, features=[FILL] * 7))
    for fields in (
        struct("reg_mask_range", addr="unmapped"),
        struct("reg_mask_range", addr="unmapped", range=1),
        struct("reg_mask_range", addr="unmapped", reserved=[0, 1]),
    ):
        yield Ioctl("vm0", "KVM_ARM_GET_REG_WRITABLE_MASKS", fields)
    for fields in (
        struct("arm_copy_mte_tags", length=host.page_size, addr="mem0"),
        struct("arm_copy_mte_tags", length=1, addr="unmapped", flags=2),
    ):
        yield Ioctl("vm0", "KVM_ARM_MTE_COPY_TAGS", fields)
    yield Begin("descriptors: two VMs")
    yield Map("mem0", 0x1_0000)
    yield Open("kvm")
    yield Open("kvm1")
    yield Ioctl("kvm", "KVM_CREATE_VM", 32, new="vm0")
    yield Ioctl("kvm1", "KVM_CREATE_VM", 36, new="vm1")
    for on in ("vm0", "vm1"):
        yield region(0, 1 << 33, host.page_size, on=on)
        yield vcpu(0, f"vcpu_{on}", on)
        yield device(V3, f"gic_{on}", on=on)
    yield Close("vm0")
    yield region(1, 0, host.page_size, on="vm1")
    yield Close("kvm1")
    yield vcpu(1, on="vm1")
