# SPDX-License-Identifier: Apache-2.0
"""Random traces, the same ones wherever they are made: from a seed, a number, and what the host is like.

Most operations are what a VMM could do next, by a guess at what the ones before have made; the others are such an
operation with something wrong in it.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

from ci.lab.fuzz_limits import Limits
from ci.lab.fuzz_spoiler import Spoiler
from ci.lab.fuzz_state import Guess
from ci.lab.trace_list.devices import ADDR, CTRL, DIST, ITS, ITS_ADDR, NR_IRQS, REDIST, REGION, V2, V3, VFIO, redist
from ci.lab.trace_list.interrupts import ioeventfd, irq, irq_line, irqfd, msi, routing, zone
from ci.lab.trace_list.making import U64, check, device, enable, get_attr, has_attr, region, set_attr, vcpu
from ci.lab.trace_list.memory import LOG, MEMFD, READONLY, clear_log, create_memfd, get_log, region2
from ci.lab.trace_list.vcpus import PMU, PVTIME, SMCCC, TIMER, init, smccc_filter
from kvmipa import abi
from kvmipa.trace import Bytes, Close, EventFd, Ioctl, Map, Open, Protect, Struct, Unmap, Write, struct, u32, u64

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.lab.trace_list.making import Host
    from kvmipa.trace import Operation
    from kvmipa.trace.values import Value

LENGTHS: Final = (40, 90)

# How often an operation is spoilt.
_SPOILT: Final = 0.35


# Capabilities whose answer the state of a VM may change, and that can be enabled.
_CAPS: Final = (
    abi.KVM_CAP_MAX_VCPUS,
    abi.KVM_CAP_MAX_VCPU_ID,
    abi.KVM_CAP_MSI_DEVID,
    abi.KVM_CAP_ARM_VM_IPA_SIZE,
    abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE,
    abi.KVM_CAP_NR_MEMSLOTS,
    abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
)
_ENABLED: Final = (
    (abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, (0, 1, 3)),
    (abi.KVM_CAP_HALT_POLL, (0, 0xFFFF_FFFF)),
    (abi.KVM_CAP_ARM_NISV_TO_USER, (0,)),
    (abi.KVM_CAP_ARM_SYSTEM_SUSPEND, (0,)),
    (abi.KVM_CAP_ARM_MTE, (0,)),
    (abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, (0x1000, 0x4000, 0x10000, 0x400)),
    (abi.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, (0,)),
    (abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, (0, 0x1000, 0x4000, 0x20_0000, 0x200_0000, 1 << 30)),
    (abi.KVM_CAP_ARM_WRITABLE_IMP_ID_REGS, (0,)),
    (abi.KVM_CAP_ARM_SEA_TO_USER, (0,)),
)


def trace(seed: int, number: int, host: Host) -> list[Operation]:
    """The operations of one trace."""
    return Generator(Random(seed << 32 | number), host).trace()


class Generator(Spoiler, Limits):
    """Makes one trace."""

    def __init__(self, random: Random, host: Host) -> None:
        super().__init__(random, host)
        self._gic = V2 if host.gic == "v2" else V3

    def trace(self) -> list[Operation]:
        """All operations."""
        length = LENGTHS[0] + self._below(LENGTHS[1] - LENGTHS[0])
        found: list[Operation] = [Map("mem0", 0x4_0000), Open("kvm"), self._new_vm()]
        # The kinds that this trace is about: deep states need more than one operation of a kind.
        chosen = [self._pick(_KINDS) for _ in range(3 + self._below(6))]
        while len(found) < length:
            kind = self._pick(chosen) if self._random() < 0.8 else self._pick(_KINDS)
            self._vm = self._pick(self._vms)
            operation = kind(self)
            if isinstance(operation, Ioctl):
                if self._random() < _SPOILT:
                    operation = self._spoil(operation)
                operation = self._bearable(operation)
            found.append(operation)
        return found

    # ------------------------------------------------------------------------------------------ system

    def _new_vm(self) -> Operation:
        bits = self._pick((0, 32, 33, 36, 36, 40, 40, self._most, self._most))
        vm = Guess(f"vm{len(self._vms)}", bits or 40)
        self._vms.append(vm)
        return Ioctl("kvm", "KVM_CREATE_VM", bits, new=vm.name)

    def _another_vm(self) -> Operation:
        return self._new_vm() if len(self._vms) < 2 else self._check()

    def _check(self) -> Operation:
        cap = self._pick(_CAPS) if self._random() < 0.8 else self._below(260)
        return check(cap, "kvm" if self._random() < 0.1 else self._vm.name)

    def _enable(self) -> Operation:
        cap, values = self._pick(_ENABLED)
        return enable(cap, self._pick(values), on=self._vm.name)

    def _close(self) -> Operation:
        vm = self._vm
        names = [*vm.vcpus, *vm.devices, *vm.memfds, *self._eventfds]
        if self._random() < 0.05:
            names.append(vm.name)
        if not names or self._random() < 0.5:
            return self._check()
        return Close(self._pick(names))

    def _unknown(self) -> Operation:
        vm = self._vm
        on = self._pick(("kvm", vm.name, *vm.vcpus, *vm.devices))
        number = self._pick(list(abi.REQUESTS.values())) if self._random() < 0.5 else 0xAE00 | self._below(256)
        if self._random() < 0.2:
            number = self._below(4) << 30 | self._below(64) << 16 | number & 0xFFFF
        return Ioctl(on, number, self._pick(("null", "unmapped", "kernel")), new=self._name("new"))

    def _other_requests(self) -> Operation:
        vm = self._vm
        on = self._pick((vm.name, vm.name, *vm.vcpus))
        offset = struct("arm_counter_offset", counter_offset=self._number())
        address = struct("arm_device_addr", id=self._pick((0, 0, 1, 1, 2, 3, 5)), addr=self._frame())
        return self._pick(
            (
                Ioctl(on, "KVM_GET_STATS_FD", new=self._name("stats")),
                Ioctl(vm.name, "KVM_ARM_SET_COUNTER_OFFSET", offset),
                Ioctl(vm.name, "KVM_ARM_PREFERRED_TARGET", struct("vcpu_init", target=9, features=[1, 2])),
                Ioctl(vm.name, "KVM_RESET_DIRTY_RINGS"),
                Ioctl(vm.name, "KVM_CREATE_IRQCHIP", self._below(2)),
                Ioctl(vm.name, "KVM_ARM_SET_DEVICE_ADDR", address),
            )
        )

    # ------------------------------------------------------------------------------------------ memory

    def _process_memory(self) -> Operation:
        choice = self._below(4)
        name = self._pick(("mem0", "mem1", "mem2"))
        if choice == 0:
            return Map(name, 0x4_0000, self._pick(("rw", "rw", "ro", "none")))
        if choice == 1:
            return Protect(name, self._pick(("rw", "rw", "ro", "none")))
        if choice == 2 and name != "mem0":
            return Unmap(name)
        return Write(f"{name}+{self._below(64) * 64:#x}", self._region_fields())

    def _region_fields(self) -> Struct:
        fields = self._memslot().argument
        assert isinstance(fields, Struct)
        return self._bearable_region(fields.name, fields.fields)

    def _from_memory(self) -> Operation:
        request = self._pick(("KVM_SET_USER_MEMORY_REGION", "KVM_CREATE_DEVICE", "KVM_IRQ_LINE", "KVM_ENABLE_CAP"))
        where = f"{self._pick(('mem0', 'mem1'))}+{self._below(64) * 64:#x}"
        return Ioctl(self._vm.name, request, where)

    def _gpa(self) -> int:
        top = 1 << self._vm.bits
        choice = self._below(6)
        if choice < 2 and self._vm.slots:
            gpa, size, _, _ = self._pick(list(self._vm.slots.values()))
            return (gpa + self._pick((0, size, -size, self._page, -self._page))) & U64
        if choice < 4:
            return self._below(64) * 0x1000_0000 + self._below(4) * self._page
        return max(0, top - self._below(5) * self._page * self._pick((1, 1, 2, 16)))

    def _size(self) -> int:
        choice = self._below(12)
        if choice == 0:
            return 1 << self._vm.bits
        if choice == 1:
            return self._page << self._below(12)
        return self._page * (1 + self._below(8))

    def _hva(self) -> Value:
        if self._random() < 0.8:
            return f"{self._pick(('mem0', 'mem1', 'mem2'))}+{self._below(4) * 0x1_0000:#x}"
        if self._random() < 0.5:
            return self._pick(("null", "unmapped"))
        return (1 << self._pick((48, self._host.va_bits))) - self._page

    def _memslot(self) -> Ioctl:
        vm = self._vm
        choice = self._below(10)
        if choice < 5 or not vm.slots:
            slot = self._pick((0, 1, 2, 3, 4, 5, 511, 32766))
            found = (self._gpa(), self._size(), self._hva(), self._pick((0, 0, 0, LOG, READONLY, LOG | READONLY)))
        else:
            slot = self._pick(list(vm.slots))
            gpa, size, hva, flags = vm.slots[slot]
            if choice == 5:
                vm.slots.pop(slot)
                return region(slot, gpa, 0, hva, flags & LOG, on=vm.name)
            if choice < 8:
                gpa = self._gpa()
            if choice > 6:
                flags ^= LOG
            if self._random() < 0.1:
                size, hva = self._size(), self._hva()
            found = (gpa, size, hva, flags)
        gpa, size, hva, flags = found
        vm.slots[slot] = found
        return region(slot, gpa, size, hva, flags, on=vm.name)

    def _dirty_log(self) -> Operation:
        vm = self._vm
        logged = [slot for slot, found in vm.slots.items() if found[3] & LOG] or list(vm.slots) or [0]
        slot = self._pick(logged)
        pages = vm.slots.get(slot, (0, self._page, 0, 0))[1] // self._page
        if self._random() < 0.5:
            return get_log(slot, Bytes(b"\xa5" * 32), vm.name)
        first = self._pick((0, 0, 64))
        return clear_log(slot, first, max(0, pages - first) & 0xFFFF_FFFF, Bytes(b"\xff" * 32), vm.name)

    def _guest_memfd(self) -> Operation:
        vm = self._vm
        if self._random() < 0.4 or not vm.memfds:
            name = self._name("memfd")
            vm.memfds.append(name)
            return replace(create_memfd(16 * self._page, self._below(4), name), on=vm.name)
        slot = 8 + self._below(3)
        pages = 1 + self._below(4)
        flags = MEMFD if self._random() < 0.9 else 0
        offset = self._below(16) * self._page
        memfd = self._pick(vm.memfds)
        made = region2(slot, self._gpa(), pages * self._page, self._hva(), flags, memfd=memfd, offset=offset)
        return replace(made, on=vm.name)

    # ------------------------------------------------------------------------------------------ vCPUs

    def _vcpu(self) -> Operation:
        vm = self._vm
        number = len(vm.vcpus) if self._random() < 0.7 else self._pick((0, 1, 7, 255, 510, 511, 512))
        name = f"vcpu{vm.name[2:]}.{number}"
        if name in vm.vcpus:
            return vcpu(number, self._name("twin"), vm.name)
        vm.vcpus.append(name)
        return vcpu(number, name, vm.name)

    def _how(self) -> Callable[[str, int, int, Struct], Ioctl]:
        choice = self._random()
        return set_attr if choice < 0.6 else get_attr if choice < 0.8 else has_attr

    def _vcpu_attribute(self) -> Operation:
        vm = self._vm
        if not vm.vcpus:
            return self._vcpu()
        on = self._pick(vm.vcpus)
        if self._random() < 0.4:
            features = self._pick((0, 4, 4, 4, 0xC, 0xC, 1, 2, 0x14, 0x60, 0x68, 0x80, 1 << self._below(12)))
            return init(on, features)
        how = self._how()
        choice = self._below(5)
        if choice == 0:
            return how(on, PMU, self._below(5), u32(self._pick((23, 16, 31, 32))))
        if choice < 3:
            return how(on, TIMER, self._below(4), u32(self._pick((16, 20, 26, 27, 28, 30, 31))))
        gpa = self._pick(list(vm.slots.values()))[0] if vm.slots else self._gpa()
        return how(on, PVTIME, 0, u64((gpa + self._below(4) * 64) & U64))

    def _vm_attribute(self) -> Operation:
        base = self._pick((0x8400_0000, 0x8400_0010, 0xC400_0000, 0x8000_0000, 0xC001_0000, 0))
        fields = smccc_filter(base + self._below(8), 1 + self._below(8), self._below(3))
        return self._how()(self._vm.name, SMCCC, 0, fields)

    # ------------------------------------------------------------------------------------------ devices

    def _device(self) -> Operation:
        vm = self._vm
        kind = self._pick((self._gic, self._gic, self._gic, ITS, ITS, VFIO, V2, V3))
        name = f"{ {V3: 'gic', ITS: 'its', VFIO: 'vfio', V2: 'old'}[kind] }{vm.name[2:]}".replace(" ", "")
        if name in vm.devices:
            name = self._name("device")
        flags = 1 if self._random() < 0.05 else 0
        if not flags and (kind == ITS or not vm.of(kind)):
            vm.devices[name] = kind
        return device(kind, name, flags, vm.name)

    def _vgic(self) -> Operation:
        vm = self._vm
        gics = vm.of(self._gic)
        if not gics:
            vm.devices[name := f"gic{vm.name[2:]}"] = self._gic
            return device(self._gic, name, 0, vm.name)
        return self._pick(_VGIC)(self, self._pick(gics))

    def _frame(self) -> int:
        top = 1 << self._vm.bits
        return self._pick((0x800_0000, 0x80A_0000, 0x900_0000, 0x1_0000_0000, top - 0x1_0000, top - 0x4_0000, top))

    def _vgic_address(self, on: str) -> Ioctl:
        if self._gic == V2:
            return set_attr(on, ADDR, self._below(2), u64(self._frame() + self._below(4) * 0x1000))
        return set_attr(on, ADDR, self._pick((DIST, REDIST)), u64(self._frame()))

    def _vgic_region(self, on: str) -> Ioctl:
        value = redist(self._below(4), self._frame(), self._pick((1, 1, 2, 3, 16, 4095)))
        return set_attr(on, ADDR, REGION, u64(value))

    def _vgic_interrupts(self, on: str) -> Ioctl:
        return set_attr(on, NR_IRQS, 0, u32(self._pick((64, 96, 256, 992, 1023, 32))))

    def _vgic_control(self, on: str) -> Ioctl:
        return set_attr(on, CTRL, self._pick((0, 0, 0, 3)))

    def _vgic_ask(self, on: str) -> Ioctl:
        group, attr = self._pick(((ADDR, DIST), (ADDR, REDIST), (ADDR, REGION), (NR_IRQS, 0), (CTRL, 0), (9, 0)))
        if self._random() < 0.7:
            return get_attr(on, group, attr, u64(self._below(5)))
        return has_attr(on, *self._pick(((group, attr), (self._below(11), self._below(8)))))

    def _vgic_register(self, on: str) -> Ioctl:
        group = self._pick((1, 1, 5, 6, 7) if self._gic == V3 else (1, 1, 2))
        attr = self._pick(_REGISTERS[group]) + self._pick((0, 0, 0, 4, 8)) * (group not in (6, 7))
        attr |= self._pick((0, 0, 0, 1, 2)) << 32
        if self._random() < 0.5:
            return get_attr(on, group, attr, u64(self._number()))
        return set_attr(on, group, attr, u64(self._pick((0, 1, 0xFF, 0xFFFF_FFFF, self._number()))))

    def _vgic_maintenance(self, on: str) -> Ioctl:
        return set_attr(on, 9, 0, u32(self._pick((16, 25, 31, 32))))

    def _its(self) -> Operation:
        vm = self._vm
        found = vm.of(ITS)
        if not found:
            vm.devices[name := f"its{vm.name[2:]}"] = ITS
            return device(ITS, name, 0, vm.name)
        on, top = self._pick(found), 1 << vm.bits
        choice = self._below(6)
        if choice < 3:
            return set_attr(on, ADDR, ITS_ADDR, u64(self._pick((0x810_0000, 0x820_0000, top - 0x2_0000, top))))
        if choice == 3:
            return get_attr(on, ADDR, ITS_ADDR)
        if choice == 4:
            return set_attr(on, CTRL, self._pick((0, 0, 3, 5)))
        if self._random() < 0.3:
            return has_attr(on, self._pick((0, 4, 8)), self._below(8))
        how = get_attr if self._random() < 0.5 else set_attr
        return how(on, 8, self._pick(_ITS_REGISTERS), u64(self._pick((0, self._number()))))

    # ------------------------------------------------------------------------------------------ interrupts

    def _line(self) -> Operation:
        kind = self._pick((0, 1, 1, 1, 2, 2, 3))
        number = self._pick({0: (0, 1), 2: (16, 20, 27, 31)}.get(kind, (32, 33, 63, 95, 96, 255, 256, 991, 992)))
        made = irq_line(
            irq(kind, number, self._pick((0, 0, 0, 1, 2))),
            self._below(2),
            self._pick(("KVM_IRQ_LINE", "KVM_IRQ_LINE_STATUS")),
        )
        return replace(made, on=self._vm.name)

    def _eventfd(self) -> str | None:
        if self._eventfds and (len(self._eventfds) > 2 or self._random() < 0.7):
            return self._pick(self._eventfds)
        return None

    def _new_eventfd(self) -> Operation:
        self._eventfds.append(name := f"eventfd{len(self._eventfds)}")
        return EventFd(name)

    def _irqfd(self) -> Operation:
        name = self._eventfd()
        if name is None:
            return self._new_eventfd()
        flags = self._pick((0, 0, 0, 1, 1, 2))
        return replace(irqfd(name, self._below(8), flags, self._pick(self._eventfds)), on=self._vm.name)

    def _ioeventfd(self) -> Operation:
        vm, name = self._vm, self._eventfd()
        if name is None:
            return self._new_eventfd()
        if vm.bus and self._random() < 0.5:
            made = self._pick(vm.bus)
            fields: Any = made.argument
            return replace(made, argument=Struct("ioeventfd", {**fields.fields, "flags": fields.fields["flags"] ^ 4}))
        where = self._pick((0x1000, 0x1008, 0x2000, 1 << vm.bits))
        made = ioeventfd(where, self._pick((0, 1, 2, 4, 8)), name, self._pick((0, 0, 1, 1, 2)), match=self._below(3))
        made = replace(made, on=vm.name)
        vm.bus.append(made)
        return made

    def _routing(self) -> Operation:
        entries: list[tuple[int, int, int, list[Value]]] = []
        for number in range(self._below(4)):
            if self._random() < 0.6:
                entries.append((number, 1, 0, [0, self._pick((0, 1, 31, 63, 987, 988))]))
            else:
                entries.append((number, 2, self._below(2), [0x811_0040, 0, number, 0]))
        return replace(routing(*entries), on=self._vm.name)

    def _msi(self) -> Operation:
        where = self._pick((0x811_0040, 0x821_0040, 0x811_0000))
        return replace(msi(where, flags=self._pick((0, 1, 1)), devid=self._below(3)), on=self._vm.name)

    def _zone(self) -> Operation:
        where, size = self._pick((0, 0x1000, 1 << self._vm.bits)), self._pick((1, 8, 0x1000))
        return replace(zone(where, size, self._below(2), register=self._random() < 0.6), on=self._vm.name)


# The kinds of operations, as often as they are to be chosen.
_KINDS: Final[tuple[Callable[[Generator], Operation], ...]] = (
    *(Generator._memslot,) * 8,
    *(Generator._vgic,) * 8,
    *(Generator._vcpu,) * 3,
    *(Generator._vcpu_attribute,) * 3,
    *(Generator._its,) * 2,
    *(Generator._line,) * 2,
    *(Generator._irqfd,) * 2,
    *(Generator._ioeventfd,) * 2,
    *(Generator._dirty_log,) * 2,
    *(Generator._guest_memfd,) * 2,
    *(Generator._enable,) * 2,
    *(Generator._check,) * 2,
    Generator._device,
    Generator._vm_attribute,
    Generator._routing,
    Generator._msi,
    Generator._zone,
    Generator._process_memory,
    Generator._from_memory,
    Generator._other_requests,
    Generator._unknown,
    Generator._close,
    Generator._another_vm,
)

# Registers that a vGIC has, by group: offsets, encodings of ICC registers, and interrupts (Arm IHI 0069).
_REGISTERS: Final = {
    1: (
        0x0,
        0x4,
        0x8,
        0x80,
        0x100,
        0x180,
        0x200,
        0x280,
        0x300,
        0x380,
        0x400,
        0x420,
        0x800,
        0xC00,
        0xC08,
        0x6100,
        0xFFE8,
    ),
    2: (0x0, 0x4, 0x8, 0x1C, 0xD0, 0xFC),
    5: (0x0, 0x4, 0x8, 0x14, 0x70, 0x78, 0x1_0080, 0x1_0100, 0x1_0180, 0x1_0200, 0x1_0280, 0x1_0400, 0x1_0C00, 0xFFE8),
    6: (0xC230, 0xC643, 0xC644, 0xC648, 0xC663, 0xC664, 0xC665, 0xC666, 0xC667, 0xC649, 0x1234),
    7: (0, 32, 64, 33, 0x400, 0x420),
}
_ITS_REGISTERS: Final = (0x0, 0x4, 0x8, 0x80, 0x88, 0x90, 0x100, 0x108, 0x138, 0x140, 0xFFE8, 0x84)

_VGIC: Final[tuple[Callable[[Generator, str], Ioctl], ...]] = (
    *(Generator._vgic_address,) * 4,
    *(Generator._vgic_region,) * 3,
    *(Generator._vgic_ask,) * 4,
    *(Generator._vgic_register,) * 3,
    Generator._vgic_interrupts,
    Generator._vgic_control,
    Generator._vgic_maintenance,
)
