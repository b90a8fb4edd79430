# SPDX-License-Identifier: Apache-2.0
"""From the errno of a device's or a vCPU's request, its arguments and what is set to the error that names the cause.

kernel-device-spec 1 to 4: E2BIG, EEXIST and EINVAL of an address depend on the release; what is asked for and what is
there say more.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi, errors
from kvmipa.abi import request_name
from kvmipa.causes import closed_error, other_process_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kvmipa.errors import KvmError
    from kvmipa.vm import Vm

    # An attribute's value by group, number, size in bytes and what is in its memory before; None where there is none.
    Ask = Callable[[int, int, int, int], int | None]

_ADDRESSES: Final = 1 << 64
_UNDEFINED: Final = _ADDRESSES - 1

ADDR: Final = abi.KVM_DEV_ARM_VGIC_GRP_ADDR
NR_IRQS: Final = abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS
CTRL: Final = abi.KVM_DEV_ARM_VGIC_GRP_CTRL
MAINT_IRQ: Final = abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ
REDIST: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST
REGION: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION

_REGISTER_GROUPS: Final = frozenset(
    (
        abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
        abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS,
        abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
        abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
        abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
    )
)

REDISTRIBUTOR_SIZE: Final = 0x2_0000
_MOST_REGIONS: Final = 256
_REGION_INDEX: Final = 0xFFF
_REGION_BASE: Final = 0x000F_FFFF_FFFF_0000
_REGION_COUNT_SHIFT: Final = 52

_LOG: Final = "look at the kernel log"


class Known(NamedTuple):
    """What is known of the VM that a device is of. ipa_bits: asked for only where it matters; vcpus: their ids."""

    ipa_bits: Callable[[], int]
    vcpus: Collection[int]


class Frames(NamedTuple):
    """What an address is of, its alignment and its size, in bytes."""

    name: str
    alignment: int
    size: int


FRAMES: Final = {
    abi.KVM_VGIC_V2_ADDR_TYPE_DIST: Frames("the distributor", 0x1000, 0x1000),
    abi.KVM_VGIC_V2_ADDR_TYPE_CPU: Frames("the CPU interface", 0x1000, 0x2000),
    abi.KVM_VGIC_V3_ADDR_TYPE_DIST: Frames("the distributor", 0x1_0000, 0x1_0000),
    REDIST: Frames("the redistributors", 0x1_0000, REDISTRIBUTOR_SIZE),
    abi.KVM_VGIC_ITS_ADDR_TYPE: Frames("the ITS", 0x1_0000, 0x2_0000),
    REGION: Frames("the redistributors", 0x1_0000, REDISTRIBUTOR_SIZE),
}


class Cause(NamedTuple):
    """What an error says."""

    kind: type[KvmError]
    cause: str
    available: str
    fix: str


def regions(ask: Ask) -> list[tuple[int, int]]:
    """Base and count of each region of redistributors that a vGICv3 has; count 0 for the one that grows."""
    found = []
    for index in range(_MOST_REGIONS):
        value = ask(ADDR, REGION, 8, index)
        if value is None:
            break
        found.append((value & _REGION_BASE, value >> _REGION_COUNT_SHIFT))
    return found


# ------------------------------------------------------------------------------------------------ a device's attributes


@dataclass(frozen=True)
class DeviceAttempt:
    """An attribute of a device that was asked for, and the value that it was to have, if that is a number."""

    request: int
    device_type: int
    group: int
    attr: int
    value: int | None
    known: Known
    ask: Ask

    def error(self, code: int) -> KvmError:
        """Why it failed with errno ``code``."""
        ioctl = request_name(self.request)
        common = _common_error(code, "Device", ioctl)
        if common is not None:
            return common
        found = self._cause(code) or Cause(errors.DeviceError, os.strerror(code), "", _LOG)
        kind, cause, available, fix = found
        return kind(code, cause=cause, asked=self._asked, available=available, fix=fix, ioctl=ioctl)

    @property
    def _asked(self) -> str:
        value = "" if self.value is None else f", {self.value:#x}"
        return f"attribute {self.attr:#x} of group {self.group}{value}"

    def _cause(self, code: int) -> Cause | None:
        if code == errno.ENXIO or (code == errno.ENODEV and self.group == ADDR):
            return Cause(
                errors.NoSuchAttributeError,
                f"this device has no attribute {self.attr:#x} in group {self.group}",
                "what has_attr() says",
                "ask has_attr() before; some attributes need a newer kernel",
            )
        if code == errno.EFAULT:
            return _BAD_POINTER
        if self.group == ADDR:
            return self._address_cause(code)
        if self.group == NR_IRQS:
            return self._nr_irqs_cause(code)
        if self.group in _REGISTER_GROUPS:
            return self._register_cause(code)
        return _BUSY.get(self.group) if code == errno.EBUSY else None

    def _register_cause(self, code: int) -> Cause | None:
        if code == errno.EBUSY:
            return Cause(
                errors.VgicNotInitialisedError,
                "the vGIC is not initialised, or a vCPU is running",
                "registers once it is",
                "call init() after all vCPUs are made, and stop these",
            )
        if code == errno.ENOENT:
            return Cause(errors.NoSuchAttributeError, "there is no such system register", "", "ask has_attr() before")
        if code == errno.EINVAL and not self._names_a_vcpu:
            return Cause(
                errors.NoSuchVcpuError,
                "the attribute is of a vCPU that there is not",
                f"vCPUs {sorted(self.known.vcpus) or '(none)'}",
                "create the vCPU first; a vGICv3's is named by its affinity, which it has once it is initialised",
            )
        return None

    @property
    def _names_a_vcpu(self) -> bool:
        return bool(self.known.vcpus) and self.ask(self.group, self.attr, 8, 0) is not None

    def _nr_irqs_cause(self, code: int) -> Cause | None:
        if code == errno.EINVAL:
            return Cause(
                errors.NrIrqsError,
                f"a vGIC cannot have {self.value} interrupts",
                "multiples of 32 from 64 to 992 (32 of them are not SPIs)",
                "take the next one; 1024 is not among them",
            )
        if code == errno.EBUSY:
            return Cause(
                errors.NrIrqsAlreadySetError,
                "the number of interrupts is set already",
                f"{self.ask(NR_IRQS, 0, 4, 0)} interrupts",
                "set it once, before init()",
            )
        return None

    # ---------------------------------------------------------------------------------------- addresses

    def _address_cause(self, code: int) -> Cause | None:
        if code == errno.ENOENT:
            return Cause(
                errors.RedistributorRegionError, "there is no such region", self._regions_text, "add the region first"
            )
        if self.value is None or self.attr not in FRAMES:
            return None
        if code == errno.E2BIG:
            return self._beyond()
        if code == errno.EEXIST:
            return self._already_set()
        if code == errno.EINVAL:
            return self._bad_region() if self.attr == REGION else self._bad_address()
        return None

    @property
    def _frames(self) -> Frames:
        name, alignment, size = FRAMES[self.attr]
        if self.attr == REGION:
            size *= (self.value or 0) >> _REGION_COUNT_SHIFT
        elif self.attr == REDIST:
            size *= max(len(self.known.vcpus), 1)
        return Frames(name, alignment, size)

    @property
    def _base(self) -> int:
        value = self.value or 0
        return value & _REGION_BASE if self.attr == REGION else value

    def _beyond(self) -> Cause:
        name, _, size = self._frames
        end, bits = self._base + size, self.known.ipa_bits()
        enough = (end - 1).bit_length()
        return Cause(
            errors.DeviceBeyondIpaSpaceError,
            f"{name} would end {end - (1 << bits):#x} bytes beyond the VM's IPA space of 2^{bits} bytes",
            f"addresses up to {(1 << bits) - size:#x}",
            f"use a lower address, or a VM of {enough} bits (if the host's limit is not below)",
        )

    def _already_set(self) -> Cause:
        return Cause(
            errors.AddressAlreadySetError,
            f"{self._frames.name} has an address already, which stays",
            self._regions_text if self.attr in {REDIST, REGION} else f"{self.ask(ADDR, self.attr, 8, 0) or 0:#x}",
            "set each address once",
        )

    def _bad_address(self) -> Cause | None:
        name, alignment, size = self._frames
        if self._base % alignment:
            return Cause(
                errors.MisalignedDeviceAddressError,
                f"{self._base:#x} is not a multiple of {alignment:#x}",
                f"multiples of {alignment >> 10}K for {name}, whatever the host's pages",
                f"use {self._base - self._base % alignment:#x} or {self._base - self._base % alignment + alignment:#x}",
            )
        if self._base + size >= _ADDRESSES:
            return self._beyond()
        if self.attr != REDIST:
            return None
        there = regions(self.ask)
        if there and there[0][1]:
            return Cause(
                errors.RedistributorRegionError,
                "the redistributors have regions of their own",
                self._regions_text,
                "add another region",
            )
        return self._already_set() if there else self._overlap()

    def _bad_region(self) -> Cause | None:
        value = self.value or 0
        count, index, there = value >> _REGION_COUNT_SHIFT, value & _REGION_INDEX, regions(self.ask)
        if not count or value & ~_REGION_BASE & 0xF000:
            return Cause(
                errors.RedistributorRegionError,
                "a region without frames" if not count else "bits 15:12 of a region have to be 0",
                "1 to 4095 redistributors a region",
                "give count the number of vCPUs that the region is for",
            )
        if index != len(there) or (there and not there[-1][1]):
            return Cause(
                errors.RedistributorRegionError,
                f"region {index} is not the next one",
                self._regions_text,
                "number regions from 0, without gaps, and do not mix them with set_redistributors()",
            )
        return self._overlap()

    def _overlap(self) -> Cause:
        distributor = self.ask(ADDR, abi.KVM_VGIC_V3_ADDR_TYPE_DIST, 8, 0)
        where = "not set" if distributor in {None, _UNDEFINED} else f"at {distributor:#x}"
        return Cause(
            errors.DeviceOverlapError,
            "redistributors and distributor, or two regions, overlap",
            f"the distributor is {where}; {self._regions_text}",
            "keep 64K for the distributor and 128K for each vCPU apart",
        )

    @property
    def _regions_text(self) -> str:
        there = [f"{base:#x} for {count or 'all'}" for base, count in regions(self.ask)]
        return f"regions at {', '.join(there)}" if there else "no region of redistributors"


_BAD_POINTER: Final = Cause(
    errors.AttributePointerError,
    "the kernel cannot use the memory of the attribute's value",
    "memory that this process can read and write",
    "pass the value itself: set_attr() and get_attr() make the memory",
)
_BUSY: Final = {
    CTRL: Cause(
        errors.DeviceError, "a vCPU is running, or one is being made", "", "stop all vCPUs of the VM, then try again"
    ),
    MAINT_IRQ: Cause(
        errors.VgicInitialisedError, "the vGIC is initialised", "the interrupt that it has", "set it before init()"
    ),
}


# ------------------------------------------------------------------------------------------------ creation


def create_device_error(code: int, device_type: int, label: str, vcpus: int) -> KvmError:
    """Why KVM_CREATE_DEVICE refused a type."""
    common = _common_error(code, "Vm", "KVM_CREATE_DEVICE", device_type)
    if common is not None:
        return common
    is_vgic = device_type in {abi.KVM_DEV_TYPE_ARM_VGIC_V2, abi.KVM_DEV_TYPE_ARM_VGIC_V3}
    causes = _VGIC_CREATION if is_vgic else _DEVICE_CREATION
    found = causes.get(code) or _DEVICE_CREATION.get(code) or Cause(errors.DeviceError, os.strerror(code), "", _LOG)
    kind, cause, available, fix = found
    facts = {"label": label, "vcpus": vcpus}
    return kind(
        code,
        cause=cause.format(**facts),
        asked=f"a device {label}",
        available=available.format(**facts),
        fix=fix.format(**facts),
        ioctl="KVM_CREATE_DEVICE",
        argument=device_type,
    )


_NO_SUCH_TYPE: Final = Cause(
    errors.DeviceTypeUnsupportedError,
    "this host has no device {label}",
    "what Vm.has_device_type() says: a GICv3 host has vgic-v3 and vgic-its, a GICv2 host vgic-v2",
    "ask for the vGIC that the host has",
)
_NO_DESCRIPTOR: Final = "close what is no longer used, or raise RLIMIT_NOFILE (ulimit -n)"
_DEVICE_CREATION: Final = {
    errno.ENODEV: _NO_SUCH_TYPE,
    errno.ENXIO: _NO_SUCH_TYPE,
    errno.EBUSY: Cause(
        errors.DeviceExistsError, "the VM has a device {label} already", "one for each VM", "use the one that there is"
    ),
    errno.EMFILE: Cause(errors.DeviceError, "this process has no file descriptor left", "", _NO_DESCRIPTOR),
    errno.EFAULT: Cause(
        errors.DeviceError,
        "the device was made, but its descriptor could not be written",
        "",
        "pass memory of your own",
    ),
}
_VGIC_CREATION: Final = {
    errno.EEXIST: Cause(
        errors.VgicExistsError,
        "the VM has a vGIC already, for good",
        "one vGIC for each VM, of whatever model",
        "keep its handle, or create another VM",
    ),
    errno.EBUSY: Cause(
        errors.VcpuHasRunError,
        "a vCPU has run, or is running",
        "a vGIC for VMs whose vCPUs have not run",
        "create the vGIC before the first run",
    ),
    errno.E2BIG: Cause(
        errors.TooManyVcpusError,
        "the VM has {vcpus} vCPUs, more than this vGIC can have",
        "8 with a vGICv2, 512 with a vGICv3",
        "create fewer vCPUs, or another vGIC",
    ),
}


def device_addr_error(code: int, identity: int, address: int, ipa_bits: Callable[[], int]) -> KvmError:
    """Why KVM_ARM_SET_DEVICE_ADDR refused an address."""
    ioctl = "KVM_ARM_SET_DEVICE_ADDR"
    common = _common_error(code, "Vm", ioctl, identity)
    if common is not None:
        return common
    asked = f"address {address:#x} for device and address type {identity:#x}"
    if code in {errno.ENODEV, errno.ENXIO}:
        return errors.NoSuchAttributeError(
            code,
            cause="the VM has no vGICv2, or this device no such address",
            asked=asked,
            available="0 (distributor) and 1 (CPU interface) of a vGICv2",
            fix="use Vgic.set_distributor() and its like, which every vGIC has",
            ioctl=ioctl,
            argument=identity,
        )
    attempt = DeviceAttempt(
        abi.KVM_SET_DEVICE_ATTR, 0, ADDR, identity & 0xFFFF, address, Known(ipa_bits, ()), lambda *_: None
    )
    error = attempt.error(code)
    error.asked, error.ioctl, error.argument = asked, ioctl, identity
    return error


def create_vcpu_error(code: int, vcpu_id: int, vm: Vm, ids: Collection[int]) -> KvmError:
    """Why KVM_CREATE_VCPU refused an id; ``ids`` are those that this handle has made."""
    ioctl = "KVM_CREATE_VCPU"
    common = _common_error(code, "Vm", ioctl, vcpu_id)
    if common is not None:
        return common
    kind, cause, available, fix = _vcpu_cause(code, vcpu_id, vm, ids)
    return kind(code, cause=cause, asked=f"vCPU {vcpu_id}", available=available, fix=fix, ioctl=ioctl, argument=vcpu_id)


def _vcpu_cause(code: int, vcpu_id: int, vm: Vm, ids: Collection[int]) -> Cause:
    if code != errno.EINVAL:
        return _VCPU_CREATION.get(code) or Cause(errors.VcpuError, os.strerror(code), "", _LOG)
    last = vm.check_extension(abi.KVM_CAP_MAX_VCPU_ID) or vm.check_extension(abi.KVM_CAP_MAX_VCPUS)
    most = vm.check_extension(abi.KVM_CAP_MAX_VCPUS)
    if vcpu_id >= last:
        return Cause(
            errors.VcpuIdError,
            f"vCPU id {vcpu_id} is beyond the last one",
            f"ids 0 to {last - 1} (KVM_CAP_MAX_VCPU_ID; 8 with a vGICv2)",
            "use a smaller id; ids may have gaps",
        )
    if len(ids) >= most:
        return Cause(
            errors.TooManyVcpusError,
            f"the VM has {len(ids)} vCPUs already",
            f"{most} (KVM_CAP_MAX_VCPUS)",
            "create no more, or another VM",
        )
    return Cause(
        errors.DeviceOverlapError,
        "the redistributors, with the vCPU's, would be on the distributor, on each other or beyond the IPA space",
        f"128K for each of {len(ids) + 1} vCPUs",
        "place distributor and redistributors apart, and with room for all vCPUs, before they are made",
    )


_VCPU_CREATION: Final = {
    errno.EEXIST: Cause(
        errors.VcpuExistsError,
        "the VM has a vCPU of this id, whose descriptor may be closed",
        "ids that were not used",
        "keep the handle, or take another id",
    ),
    errno.EBUSY: Cause(
        errors.VgicInitialisedError,
        "the vGIC is initialised: the VM's vCPUs are all that it will have",
        "the vCPUs that there are",
        "create all vCPUs, then call Vgic.init()",
    ),
    errno.EMFILE: Cause(errors.VcpuError, "this process has no file descriptor left", "", _NO_DESCRIPTOR),
    errno.ENOSPC: Cause(
        errors.VcpuError, "the VM has more than 1000 devices on its MMIO bus", "1000", "remove coalesced zones"
    ),
}


# ------------------------------------------------------------------------------------------------ vCPUs


# Feature bit -> the capability by which a host says that it has it.
_FEATURE_CAPABILITIES: Final = {
    abi.KVM_ARM_VCPU_EL1_32BIT: abi.KVM_CAP_ARM_EL1_32BIT,
    abi.KVM_ARM_VCPU_PMU_V3: abi.KVM_CAP_ARM_PMU_V3,
    abi.KVM_ARM_VCPU_SVE: abi.KVM_CAP_ARM_SVE,
    abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS: abi.KVM_CAP_ARM_PTRAUTH_ADDRESS,
    abi.KVM_ARM_VCPU_PTRAUTH_GENERIC: abi.KVM_CAP_ARM_PTRAUTH_GENERIC,
}


def init_error(code: int, features: int, target: int, vm: Vm) -> KvmError:
    """Why KVM_ARM_VCPU_INIT refused features or a target."""
    ioctl = "KVM_ARM_VCPU_INIT"
    common = _common_error(code, "Vcpu", ioctl)
    if common is not None:
        return common
    kind, cause, available, fix = _init_cause(code, features, target, vm)
    asked = f"features {features:#x} on target {target}"
    return kind(code, cause=cause, asked=asked, available=available, fix=fix, ioctl=ioctl)


def _init_cause(code: int, features: int, target: int, vm: Vm) -> Cause:
    if code == errno.ENOENT:
        return Cause(
            errors.VcpuFeatureError,
            f"this kernel does not know one of the features {features:#x}",
            "bits 0 to 6, since 7.3 up to 9",
            "ask for features that check_extension() has",
        )
    if code != errno.EINVAL:
        return Cause(errors.VcpuError, os.strerror(code), "", _LOG)
    preferred = vm.preferred_target()
    if target not in {preferred, _GENERIC_TARGET}:
        return Cause(
            errors.VcpuTargetError, f"target {target} is not this host's CPU", f"{preferred}", "leave target to init()"
        )
    missing = [bit for bit, cap in _FEATURE_CAPABILITIES.items() if features >> bit & 1 and not vm.check_extension(cap)]
    if missing:
        return Cause(
            errors.VcpuFeatureError,
            f"this host does not have feature {', '.join(map(str, missing))}",
            "what check_extension() says of the features' capabilities",
            "leave it out",
        )
    return Cause(
        errors.VcpuFeatureError,
        "these features do not go with each other, or with those of this VM's other vCPUs or of an earlier init()",
        "both kinds of pointer authentication or none; the same features for all vCPUs (since 6.12)",
        "initialise all vCPUs of a VM alike",
    )


_GENERIC_TARGET: Final = 5


class VcpuAttempt(NamedTuple):
    """An attribute of a vCPU that was asked for, and the value that it was to have, if that is a number."""

    request: int
    group: int
    attr: int
    value: int | None

    def error(self, code: int) -> KvmError:
        """Why it failed with errno ``code``."""
        ioctl = request_name(self.request)
        common = _common_error(code, "Vcpu", ioctl)
        if common is not None:
            return common
        kind, cause, available, fix = self._cause(code) or Cause(errors.VcpuError, os.strerror(code), "", _LOG)
        value = "" if self.value is None else f", {self.value:#x}"
        asked = f"attribute {self.attr:#x} of group {self.group}{value}"
        return kind(code, cause=cause, asked=asked, available=available, fix=fix, ioctl=ioctl)

    def _cause(self, code: int) -> Cause | None:
        if code == errno.EFAULT:
            return _BAD_POINTER
        found = _VCPU_ATTRIBUTES.get((self.group, code))
        if code == errno.EINVAL and self.value is not None:
            if self.group == abi.KVM_ARM_VCPU_PVTIME_CTRL:
                return _MISALIGNED_TIME if self.value % 64 else found
            if self.group == abi.KVM_ARM_VCPU_TIMER_CTRL and not 16 <= self.value < 32:
                return _NO_PPI
        return found or (_NO_ATTRIBUTE if code in {errno.ENXIO, errno.ENODEV} else None)


_NO_ATTRIBUTE: Final = Cause(
    errors.NoSuchAttributeError,
    "the vCPU has no such attribute, or not with its features",
    "what has_attr() says",
    "ask has_attr() before; the PMU's need init() with the feature PMU_V3",
)
_MISALIGNED_TIME: Final = Cause(
    errors.MisalignedDeviceAddressError, "the address is not a multiple of 64", "multiples of 64", "align it"
)
_NO_PPI: Final = Cause(
    errors.InterruptNumberError, "a timer's interrupt is a PPI", "16 to 31", "use one that no other timer has"
)
_VCPU_ATTRIBUTES: Final[dict[tuple[int, int], Cause]] = {
    (abi.KVM_ARM_VCPU_PVTIME_CTRL, errno.EEXIST): Cause(
        errors.AddressAlreadySetError, "the vCPU has such an address already, which stays", "", "set it once"
    ),
    (abi.KVM_ARM_VCPU_PVTIME_CTRL, errno.EINVAL): Cause(
        errors.NoMemoryThereError,
        "there is no memory that the guest can write at this address",
        "slots that are not read-only",
        "add memory there first",
    ),
    (abi.KVM_ARM_VCPU_TIMER_CTRL, errno.EINVAL): Cause(
        errors.NoVgicError, "the VM has no vGIC", "", "create the vGIC before"
    ),
    (abi.KVM_ARM_VCPU_TIMER_CTRL, errno.EBUSY): Cause(
        errors.VcpuError, "the timers' interrupts are in use: a vCPU has run", "", "set them before the first run"
    ),
    (abi.KVM_ARM_VCPU_PMU_V3_CTRL, errno.EINVAL): Cause(
        errors.InterruptNumberError,
        "not an interrupt that the PMU can have, or the VM has no vGIC",
        "one PPI (16 to 31) for all vCPUs, or an SPI for each",
        "create the vGIC before, and use the same PPI everywhere",
    ),
    (abi.KVM_ARM_VCPU_PMU_V3_CTRL, errno.EBUSY): Cause(
        errors.VcpuError, "the PMU is initialised, or this is set", "", "set it once, before the PMU's initialisation"
    ),
}


def _common_error(code: int, what: str, ioctl: str, argument: int = 0) -> KvmError | None:
    """What every descriptor of a VM answers when it is closed, or another process's."""
    if code == errno.EBADF:
        return closed_error(what, ioctl)
    return other_process_error(what, ioctl, argument) if code == errno.EIO else None
