# SPDX-License-Identifier: Apache-2.0
"""From the bytes that an ioctl gets to a trace's value: structs by their fields, and what they point to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from kvmipa import abi
from kvmipa.trace.process_memory import mapping_of, read
from kvmipa.trace.session import KERNEL
from kvmipa.trace.values import Bytes, Struct, layout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kvmipa.trace.values import Value

#: Requests with a struct; the vCPU's and the VM's that share a number are told apart by _ON_A_VM.
STRUCT_OF: Final[dict[int, str]] = {
    abi.KVM_GET_DIRTY_LOG: "dirty_log",
    abi.KVM_SET_USER_MEMORY_REGION: "userspace_memory_region",
    abi.KVM_SET_USER_MEMORY_REGION2: "userspace_memory_region2",
    abi.KVM_IRQ_LINE: "irq_level",
    abi.KVM_IRQ_LINE_STATUS: "irq_level",
    abi.KVM_REGISTER_COALESCED_MMIO: "coalesced_mmio_zone",
    abi.KVM_UNREGISTER_COALESCED_MMIO: "coalesced_mmio_zone",
    abi.KVM_SET_GSI_ROUTING: "irq_routing",
    abi.KVM_IRQFD: "irqfd",
    abi.KVM_IOEVENTFD: "ioeventfd",
    abi.KVM_SET_SIGNAL_MASK: "signal_mask",
    abi.KVM_GET_MP_STATE: "mp_state",
    abi.KVM_SET_MP_STATE: "mp_state",
    abi.KVM_SET_GUEST_DEBUG: "guest_debug",
    abi.KVM_GET_VCPU_EVENTS: "vcpu_events",
    abi.KVM_SET_VCPU_EVENTS: "vcpu_events",
    abi.KVM_ENABLE_CAP: "enable_cap",
    abi.KVM_SIGNAL_MSI: "msi",
    abi.KVM_GET_ONE_REG: "one_reg",
    abi.KVM_SET_ONE_REG: "one_reg",
    abi.KVM_ARM_VCPU_INIT: "vcpu_init",
    abi.KVM_ARM_PREFERRED_TARGET: "vcpu_init",
    abi.KVM_GET_REG_LIST: "reg_list",
    abi.KVM_ARM_MTE_COPY_TAGS: "arm_copy_mte_tags",
    abi.KVM_ARM_SET_COUNTER_OFFSET: "arm_counter_offset",
    abi.KVM_ARM_GET_REG_WRITABLE_MASKS: "reg_mask_range",
    abi.KVM_CLEAR_DIRTY_LOG: "clear_dirty_log",
    abi.KVM_ARM_VCPU_FINALIZE: "u32",
    abi.KVM_CREATE_GUEST_MEMFD: "create_guest_memfd",
    abi.KVM_CREATE_DEVICE: "create_device",
    abi.KVM_SET_DEVICE_ATTR: "device_attr",
    abi.KVM_GET_DEVICE_ATTR: "device_attr",
    abi.KVM_HAS_DEVICE_ATTR: "device_attr",
}
_ON_A_VM: Final = {abi.KVM_ARM_SET_DEVICE_ADDR: "arm_device_addr"}

#: Fields that are addresses of user space: those that KVM reads or writes at once.
POINTERS: Final = {
    "one_reg": "addr",
    "device_attr": "addr",
    "dirty_log": "dirty_bitmap",
    "clear_dirty_log": "dirty_bitmap",
    "arm_copy_mte_tags": "addr",
    "reg_mask_range": "addr",
}

#: And of memory that guests use.
MEMORY: Final = ("userspace_memory_region", "userspace_memory_region2")

# Bytes behind a struct, by its first field: how many each has that it counts.
_TAILS: Final = {"irq_routing": layout_of("irq_routing_entry").size, "reg_list": 8, "signal_mask": 1}

# What an attribute points to, by the kind of descriptor and the group; 8 bytes where it is not said.
_U32: Final = 4
_ATTRIBUTES: Final = {
    ("vm", abi.KVM_ARM_VM_SMCCC_CTRL): layout_of("smccc_filter").size,
    ("vcpu", abi.KVM_ARM_VCPU_TIMER_CTRL): _U32,
    ("dev", abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS): _U32,
    ("dev", abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS): _U32,
    ("dev", abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS): _U32,
    ("dev", abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS): _U32,
    ("dev", abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO): _U32,
    ("dev", abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ): _U32,
}
# struct kvm_pmu_event_filter has 8 bytes; the others of the group are an int.
_PMU_FILTER: Final = 2

# Bytes of what other structs point to.
_SIZES: Final[dict[str, Callable[[Mapping[str, int]], int]]] = {
    # Bits 55:52 of an id: the logarithm of the size.
    "one_reg": lambda numbers: 1 << (numbers.get("id", 0) >> 52 & 0xF),
    # A tag for 16 bytes.
    "arm_copy_mte_tags": lambda numbers: numbers.get("length", 0) // 16,
    # KVM_ARM_GET_REG_WRITABLE_MASKS: 64 bits for each of 3 op1 x 8 CRm x 8 op2 registers.
    "reg_mask_range": lambda _numbers: 3 * 8 * 8 * 8,
    "clear_dirty_log": lambda numbers: (numbers.get("num_pages", 0) + 63) // 64 * 8,
}

#: All buffers of one operation together: an arena has a megabyte.
LARGEST: Final = 900_000

# On no machine does a process have memory below (vm.mmap_min_addr), or from here on (48 bits of address).
_LOWEST: Final = 0x1_0000
HIGHEST: Final = 1 << 48


class Surroundings(Protocol):
    """What values mean in a process: names of its descriptors and of its memory."""

    def descriptor(self, number: int, *, is_event: bool) -> str | int:
        """The name of a descriptor."""
        ...

    def memory(self, address: int, size: int) -> str | int:
        """Where memory for a guest is."""
        ...

    def kind(self, fd: int) -> str:
        """What a descriptor is: kvm, vm, vcpu, dev, or another word."""
        ...

    def bitmap_size(self, fd: int, slot: int) -> int:
        """The bytes of a slot's dirty bitmap."""
        ...


@dataclass
class Buffer:
    """Memory that the kernel may write to. before: what was in it; look: what is in it now, None if it is gone.

    address: 0 where it is a Python object's own.
    """

    before: bytes
    look: Callable[[], bytes | None]
    address: int = 0


class TooLargeError(Exception):
    """More than a trace's operation can have."""


class Argument:
    """One ioctl's argument: the value that stands for it, and the buffers behind it in a trace's order."""

    def __init__(self, surroundings: Surroundings, fd: int, request: int) -> None:
        self._around = surroundings
        self._fd = fd
        self._request = request
        self.buffers: list[Buffer] = []
        self.fields: Mapping[str, int] = {}

    def at(self, address: int) -> Value:
        """The value of an address; a bad one is a symbol."""
        name = self.struct_name
        size = layout_of(name).size if name else self._request >> 16 & 0x3FFF
        content = read(address, size)
        if content is None:
            return bad_pointer(address)
        if name in _TAILS:
            count = numbers_of(name, content).get(next(iter(layout_of(name).fields)), 0)
            assert isinstance(count, int)
            tail = read(address, size + _TAILS[name] * count) if count < LARGEST else None
            content = content if tail is None or len(tail) > LARGEST else tail
        length = len(content)
        return self._value(content, lambda: read(address, length), address)

    def of(self, buffer: bytearray) -> Value:
        """The value of a buffer."""
        return self._value(bytes(buffer), lambda: bytes(buffer))

    @property
    def struct_name(self) -> str | None:
        """The struct that the request takes."""
        if self._request in _ON_A_VM and self._around.kind(self._fd) == "vm":
            return _ON_A_VM[self._request]
        return STRUCT_OF.get(self._request)

    def _value(self, content: bytes, look: Callable[[], bytes | None], address: int = 0) -> Value:
        if len(content) > LARGEST:
            raise TooLargeError
        self.buffers.append(Buffer(content, look, address))
        name = self.struct_name
        if name is None:
            return Bytes(content)
        size = layout_of(name).size
        head = self._struct(name, content[:size])
        tail = content[size:]
        if not tail:
            return head
        if name == "irq_routing":
            entry = _TAILS[name]
            entries = [tail[at : at + entry] for at in range(0, len(tail), entry)]
            return (head, *(self._plain("irq_routing_entry", one) for one in entries))
        return (head, Bytes(tail))

    def _plain(self, name: str, content: bytes) -> Struct | Bytes:
        layout = layout_of(name)
        return Struct(name, numbers_of(name, content)) if len(content) == layout.size else Bytes(content)

    def _struct(self, name: str, content: bytes) -> Struct:
        fields: dict[str, Value | Sequence[Value]] = {**numbers_of(name, content)}
        numbers = {field: value for field, value in fields.items() if isinstance(value, int)}
        self.fields = numbers
        pointer = POINTERS.get(name)
        if pointer and pointer in numbers:
            fields[pointer] = self._pointed(name, numbers, numbers[pointer])
        if name in MEMORY and "userspace_addr" in numbers:
            fields["userspace_addr"] = self._around.memory(numbers["userspace_addr"], numbers.get("memory_size", 0))
        for field in _descriptor_fields(name, numbers):
            fields[field] = self._around.descriptor(numbers.get(field, 0), is_event=name != "userspace_memory_region2")
        return Struct(name, fields)

    def _pointed(self, name: str, numbers: Mapping[str, int], address: int) -> Value:
        """What a field points to."""
        size = self._size_of(name, numbers)
        if size > LARGEST:
            raise TooLargeError
        content = read(address, size)
        if content is None:
            return bad_pointer(address)
        self.buffers.append(Buffer(content, lambda: read(address, size), address))
        if self._request == abi.KVM_GET_ONE_REG and name == "one_reg":
            # Nothing but room: programs use the same again and again.
            content = self.buffers[-1].before = bytes(size)
        plain = {4: "u32", 8: "u64"}.get(size)
        if name == "device_attr" and size == layout_of("smccc_filter").size:
            plain = "smccc_filter"
        return self._plain(plain, content) if plain else Bytes(content)

    def _size_of(self, name: str, numbers: Mapping[str, int]) -> int:
        if name == "device_attr":
            return self._attribute_size(numbers)
        if name == "dirty_log":
            return self._around.bitmap_size(self._fd, numbers.get("slot", 0))
        return _SIZES[name](numbers)

    def _attribute_size(self, numbers: Mapping[str, int]) -> int:
        kind, group = self._around.kind(self._fd), numbers.get("group", 0)
        if (kind, group) == ("vcpu", abi.KVM_ARM_VCPU_PMU_V3_CTRL):
            return 8 if numbers.get("attr", 0) == _PMU_FILTER else _U32
        return _ATTRIBUTES.get((kind, group), 8)

    def wrote(self, *, but: slice | None = None, failed: bool) -> dict[str, str]:
        """What changed in the buffers, as kvmipa.trace.arena has it; a slice of the first one is left out."""
        found: dict[str, str] = {}
        for number, buffer in enumerate(self.buffers):
            before, now = buffer.before, buffer.look()
            if now is None or now == before or (failed and self._is_room(number)):
                continue
            if number == 0 and but:
                now = now[: but.start] + before[but] + now[but.stop :]
            differing = int.from_bytes(before, "little") ^ int.from_bytes(now, "little")
            if differing:
                first = ((differing & -differing).bit_length() - 1) // 8
                found[f"{number}+{first}"] = now[first : (differing.bit_length() + 7) // 8].hex()
        return found

    def is_in_readonly_memory(self) -> bool:
        """Whether the kernel could read all of it, and not write."""
        found = [mapping_of(buffer.address, 1) for buffer in self.buffers if buffer.address]
        return any(mapping is not None and mapping.protection == "ro" for mapping in found)

    def _is_room(self, number: int) -> bool:
        """Whether it is what KVM_GET_ONE_REG writes a value to: not where it fails."""
        return number == 1 and self._request == abi.KVM_GET_ONE_REG


def numbers_of(name: str, content: bytes) -> dict[str, int | list[Value]]:
    """The fields of a struct that are not 0.

    >>> numbers_of("irq_level", bytes([32, 0, 0, 0, 0, 0, 0, 0]))
    {'irq': 32}
    """
    found: dict[str, int | list[Value]] = {}
    for field, (offset, width, count, _) in layout_of(name).fields.items():
        part = content[offset : offset + width * count]
        if not part.strip(b"\0"):
            continue
        if count == 1:
            found[field] = int.from_bytes(part, "little")
        else:
            values: list[Value] = [int.from_bytes(part[at : at + width], "little") for at in range(0, len(part), width)]
            while not values[-1]:
                values.pop()
            found[field] = values
    return found


def _descriptor_fields(name: str, numbers: Mapping[str, int]) -> Sequence[str]:
    """The fields that are descriptors."""
    if name == "irqfd":
        return ("fd", "resamplefd") if numbers.get("flags", 0) & abi.KVM_IRQFD_FLAG_RESAMPLE else ("fd",)
    if name == "ioeventfd":
        return ("fd",)
    if name == "userspace_memory_region2" and numbers.get("flags", 0) & abi.KVM_MEM_GUEST_MEMFD:
        return ("guest_memfd",)
    return ()


def bad_pointer(address: int) -> str | int:
    """The symbol, or the number, of an address where nothing is mapped.

    >>> bad_pointer(0), bad_pointer(0x7f00_0000_0008), bad_pointer(0xffff_0000_0000_1000)
    ('null', 'unmapped+0x8', 'kernel+0x1000')
    """
    if not address:
        return "null"
    if KERNEL <= address < KERNEL + HIGHEST:
        return "kernel" + (f"+{address - KERNEL:#x}" if address > KERNEL else "")
    if address >= HIGHEST or address < _LOWEST:
        return address
    # Nothing depends on where it is, but for how it is aligned.
    return "unmapped" + (f"+{address % _LOWEST:#x}" if address % _LOWEST else "")
