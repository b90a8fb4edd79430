# SPDX-License-Identifier: Apache-2.0
"""Device: the descriptors of what KVM emulates for a VM; the vGIC and its ITS."""

from __future__ import annotations

import operator
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Final

from kvmipa import abi
from kvmipa.buffers import address_of
from kvmipa.handle import Handle
from kvmipa.packing import PackedStruct, unsigned

if TYPE_CHECKING:
    from kvmipa.backend import Backend
    from kvmipa.causes.device_addresses import DeviceFacts
    from kvmipa.errors import KvmError

_ATTR: Final = PackedStruct("device_attr")

# The kernel writes as much as the attribute has, whatever was asked for: this is more than any has (device-spec 2, 3).
_LARGEST_VALUE: Final = 64

# Of a region of redistributors: what its field has room for.
_MOST_FRAMES: Final = abi.KVM_VGIC_V3_RDIST_COUNT_MASK >> abi.KVM_VGIC_V3_RDIST_COUNT_SHIFT


class DeviceType(IntEnum):
    """Types of devices that arm64 has: KVM_DEV_TYPE_*.

    >>> DeviceType.named("vgic-v3") is DeviceType.VGIC_V3
    True
    """

    VFIO = abi.KVM_DEV_TYPE_VFIO
    VGIC_V2 = abi.KVM_DEV_TYPE_ARM_VGIC_V2
    VGIC_V3 = abi.KVM_DEV_TYPE_ARM_VGIC_V3
    VGIC_ITS = abi.KVM_DEV_TYPE_ARM_VGIC_ITS

    @classmethod
    def named(cls, name: str) -> DeviceType:
        """The type of a name such as "vgic-v3"; ValueError for an unknown one."""
        for kind in cls:
            if kind.label == name:
                return kind
        raise ValueError(f"no device type {name!r}: {', '.join(kind.label for kind in cls)}")

    @property
    def label(self) -> str:
        """Its name, as named() takes it."""
        return self.name.lower().replace("_", "-")


class AttributeHandle(Handle):
    """A descriptor with attributes: a device's or a vCPU's.

    An attribute is two numbers, its group (32 bits) and its own (64 bits); KVM reads or writes its value in memory.
    """

    def set_attr(self, group: int, attr: int, value: bytes | int | None = None, *, size: int = 8) -> None:
        """KVM_SET_DEVICE_ATTR: set an attribute to a number of ``size`` bytes, to bytes, or (None) without a value.

        size: 1 to 64. Raises what set_attr_raw() does; OverflowError for a number that does not fit, ValueError for a
        size that no value has.
        """
        if value is None:
            self.set_attr_raw(group, attr)
            return
        content = value if isinstance(value, bytes) else _bytes_of("value", value, size)
        number = None if isinstance(value, bytes) else operator.index(value)
        buffer = _room_for(content)
        self._attribute(abi.KVM_SET_DEVICE_ATTR, group, attr, address_of(buffer), number)

    def get_attr(self, group: int, attr: int, size: int = 8, *, given: int = 0) -> int:
        """KVM_GET_DEVICE_ATTR: an attribute's value, a number of ``size`` bytes.

        size: 1 to 64; of an attribute that is larger, these are its lower bytes. given: what is in that memory before;
        a few attributes read there what is asked for. Raises what get_attr_raw() does; OverflowError for a ``given``
        that does not fit, ValueError for a size that no value has.
        """
        buffer = _room_for(_bytes_of("given", given, size))
        self._attribute(abi.KVM_GET_DEVICE_ATTR, group, attr, address_of(buffer), None)
        return int.from_bytes(buffer[:size], "little")

    def has_attr(self, group: int, attr: int) -> bool:
        """KVM_HAS_DEVICE_ATTR: whether there is such an attribute.

        Raises NoSuchVcpuError for a register of a vCPU that is not there, and what set_attr_raw() does otherwise.
        """
        from kvmipa.errors import NoSuchAttributeError

        try:
            self._attribute(abi.KVM_HAS_DEVICE_ATTR, group, attr, 0, None)
        except NoSuchAttributeError:
            return False
        return True

    def set_attr_raw(self, group: int, attr: int, address: int = 0) -> None:
        """KVM_SET_DEVICE_ATTR with the address of the value, unchecked.

        Raises a DeviceError or VcpuError whose class is the cause; ClosedError, OtherProcessError.
        """
        self._attribute(abi.KVM_SET_DEVICE_ATTR, group, attr, address, None)

    def get_attr_raw(self, group: int, attr: int, address: int) -> None:
        """KVM_GET_DEVICE_ATTR with the address that the value is written to, unchecked.

        Raises a DeviceError or VcpuError whose class is the cause; ClosedError, OtherProcessError.
        """
        self._attribute(abi.KVM_GET_DEVICE_ATTR, group, attr, address, None)

    def _attribute(self, request: int, group: int, attr: int, address: int, value: int | None) -> None:
        result = self._request(request, group, attr, address)
        if result < 0:
            raise self.refused(self._attribute_error(-result, request, group, attr, value))

    def _request(self, request: int, group: int, attr: int, address: int) -> int:
        return self._backend.ioctl_buffer(self._fd, request, _ATTR.pack(0, group, attr, address))

    def _attribute_error(self, code: int, request: int, group: int, attr: int, value: int | None) -> KvmError:
        raise NotImplementedError

    def _ask(self, group: int, attr: int, size: int = 8, given: int = 0) -> int | None:
        """An attribute's value, None where KVM does not give it: for working out a cause."""
        buffer = _room_for(_bytes_of("given", given, size))
        result = self._request(abi.KVM_GET_DEVICE_ATTR, group, attr, address_of(buffer))
        return None if result < 0 else int.from_bytes(buffer[:size], "little")


def _bytes_of(name: str, number: int, size: int) -> bytes:
    """A value as it is in memory."""
    if not 1 <= operator.index(size) <= _LARGEST_VALUE:
        raise ValueError(f"a value has 1 to {_LARGEST_VALUE} bytes, not {size}")
    return unsigned(name, number, 8 * size).to_bytes(size, "little")


def _room_for(content: bytes) -> bytearray:
    """Memory for a value, with as much room as any attribute has."""
    return bytearray(content.ljust(_LARGEST_VALUE, b"\0"))


class Device(AttributeHandle):
    """A device of a VM; made by Vm.create_device().

    It keeps working when the Vm that made it is closed. device_type: its number, a DeviceType where it has a name.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_device("vgic-v3") as vgic:
    ...     vgic.has_attr(0, 2), vgic.get_attr(0, 2) == 2**64 - 1
    (True, True)
    """

    kind = "Device"

    def __init__(self, backend: Backend, fd: int, device_type: int, known: DeviceFacts) -> None:
        super().__init__(backend, fd)
        self.device_type = device_type
        self._known = known

    def _attribute_error(self, code: int, request: int, group: int, attr: int, value: int | None) -> KvmError:
        from kvmipa.causes.device_attributes import DeviceAttempt

        return DeviceAttempt(request, group, attr, value, self.closed, self.device_type, self._known, self._ask).error(
            code
        )

    def _address(self, kind: int) -> int | None:
        found = self.get_attr(abi.KVM_DEV_ARM_VGIC_GRP_ADDR, kind)
        return None if found == abi.VGIC_ADDR_UNDEF else found

    def __repr__(self) -> str:
        """Backend, type and state."""
        state = "closed" if self.closed else f"fd={self._fd}"
        label = self.device_type.label if isinstance(self.device_type, DeviceType) else str(self.device_type)
        return f"<kvmipa.{type(self).__name__} {self.backend} {label} {state}>"


class Vgic(Device):
    """A VM's interrupt controller, a vGICv2 or vGICv3.

    Addresses are the guest's, in bytes; once set, each stays.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_device("vgic-v3") as vgic:
    ...     vgic.set_distributor(0x800_0000)
    ...     vgic.add_redistributor_region(0x80a_0000, 8)
    ...     vcpu = vm.create_vcpu(0)
    ...     vgic.nr_irqs = 128
    ...     vgic.init()
    ...     vgic.distributor, vgic.nr_irqs
    ...     vcpu.close()
    (134217728, 128)
    """

    kind = "Vgic"

    _distributors: ClassVar[dict[int, int]] = {
        DeviceType.VGIC_V2: abi.KVM_VGIC_V2_ADDR_TYPE_DIST,
        DeviceType.VGIC_V3: abi.KVM_VGIC_V3_ADDR_TYPE_DIST,
    }

    @property
    def distributor(self) -> int | None:
        """The distributor's address; None while it is not set."""
        return self._address(self._distributors[self.device_type])

    def set_distributor(self, address: int) -> None:
        """Where the distributor is: 64K on a boundary of 64K, of a vGICv2 4K on one of 4K.

        Raises DeviceBeyondIpaSpaceError, MisalignedDeviceAddressError, AddressAlreadySetError. That the
        redistributors are in the same place is found later: with the next vCPU or region, or when a vCPU runs.
        """
        self.set_attr(abi.KVM_DEV_ARM_VGIC_GRP_ADDR, self._distributors[self.device_type], address)

    def set_cpu_interface(self, address: int) -> None:
        """Where the CPU interface of a vGICv2 is: 8K on a boundary of 4K. Raises as set_distributor()."""
        self.set_attr(abi.KVM_DEV_ARM_VGIC_GRP_ADDR, abi.KVM_VGIC_V2_ADDR_TYPE_CPU, address)

    def set_redistributors(self, address: int) -> None:
        """Where the redistributors of a vGICv3 are, 128K for each vCPU: one region, which grows with their number.

        Whether those to come fit is found when they are made. Raises as set_distributor(), and DeviceOverlapError.
        """
        self.set_attr(abi.KVM_DEV_ARM_VGIC_GRP_ADDR, abi.KVM_VGIC_V3_ADDR_TYPE_REDIST, address)

    def add_redistributor_region(self, base: int, count: int, index: int | None = None) -> None:
        """A place for ``count`` redistributors of 128K each; regions follow each other from index 0 (None: the next).

        Raises RedistributorRegionError, DeviceBeyondIpaSpaceError, DeviceOverlapError; ValueError for what does not
        fit the attribute: a base off a boundary of 64K or beyond 2^52, a count or an index above 4095.
        """
        if base & ~abi.KVM_VGIC_V3_RDIST_BASE_MASK or not 0 <= count <= _MOST_FRAMES:
            raise ValueError(
                f"a region is at a multiple of 64K below 2^52 and has up to 4095 frames: {base:#x}, {count}"
            )
        where = len(self.redistributor_regions) if index is None else index
        if not 0 <= where <= abi.KVM_VGIC_V3_RDIST_INDEX_MASK:
            raise ValueError(f"a region's index is from 0 to {abi.KVM_VGIC_V3_RDIST_INDEX_MASK}, not {where}")
        value = where | base | count << abi.KVM_VGIC_V3_RDIST_COUNT_SHIFT
        self.set_attr(abi.KVM_DEV_ARM_VGIC_GRP_ADDR, abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, value)

    @property
    def redistributor_regions(self) -> list[tuple[int, int]]:
        """Base and count of each region in order; count 0 for the one of set_redistributors()."""
        from kvmipa.causes.device_addresses import regions

        return regions(self._ask)

    @property
    def nr_irqs(self) -> int:
        """The number of interrupts, SGIs and PPIs among them: 32 while it is not set, 256 where init() chose it."""
        return self.get_attr(abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 4)

    @nr_irqs.setter
    def nr_irqs(self, number: int) -> None:
        self.set_attr(abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, number, size=4)

    def init(self) -> None:
        """Initialise it: its number of interrupts and the VM's number of vCPUs are final from then on.

        A vGICv3 needs this before a vCPU runs. Doing it twice does nothing.
        """
        self.set_attr(abi.KVM_DEV_ARM_VGIC_GRP_CTRL, abi.KVM_DEV_ARM_VGIC_CTRL_INIT)


class Its(Device):
    """An interrupt translation service, which turns a device's messages into interrupts of a vGICv3.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_device("vgic-its") as its:
    ...     its.set_its_address(0x808_0000)
    ...     hex(its.its_address)
    '0x8080000'
    """

    kind = "Its"

    @property
    def its_address(self) -> int | None:
        """Its address; None while it is not set."""
        return self._address(abi.KVM_VGIC_ITS_ADDR_TYPE)

    def set_its_address(self, address: int) -> None:
        """Where its frames are: 128K on a boundary of 64K. Raises as Vgic.set_distributor()."""
        self.set_attr(abi.KVM_DEV_ARM_VGIC_GRP_ADDR, abi.KVM_VGIC_ITS_ADDR_TYPE, address)

    def init(self) -> None:
        """KVM_DEV_ARM_VGIC_CTRL_INIT, which an ITS has as well and which does nothing."""
        self.set_attr(abi.KVM_DEV_ARM_VGIC_GRP_CTRL, abi.KVM_DEV_ARM_VGIC_CTRL_INIT)


_CLASSES: Final[dict[int, type[Device]]] = {
    DeviceType.VGIC_V2: Vgic,
    DeviceType.VGIC_V3: Vgic,
    DeviceType.VGIC_ITS: Its,
}


def type_of(kind: int | str) -> int:
    """The number of a type that is given by number or name; a DeviceType where it has a name."""
    if isinstance(kind, str):
        return DeviceType.named(kind)
    number = operator.index(kind)
    return DeviceType(number) if number in DeviceType._value2member_map_ else number


def opened(backend: Backend, fd: int, device_type: int, known: DeviceFacts) -> Device:
    """The handle of a new device's descriptor."""
    return _CLASSES.get(device_type, Device)(backend, fd, device_type, known)
