# SPDX-License-Identifier: Apache-2.0
"""Interrupts from user space: lines, irqfds, GSI routes and MSIs of the emulated kernel (kernel-device-spec 4.8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EAGAIN, EBUSY, EINVAL, ENODEV, ENXIO
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.eventfds import eventfd
from kvmipa.backend.emulated.requests import RefusedError, Request
from kvmipa.backend.emulated.vgic.limits import FIRST_PPI, PRIVATE_IRQS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvmipa.backend.emulated.eventfds import EventFds
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic.controller import Vgic
    from kvmipa.backend.emulated.vm import VirtualMachine

_IRQ_LEVEL: Final = Struct(abi.STRUCTS["irq_level"][0])
_IRQFD: Final = Struct(abi.STRUCTS["irqfd"][0])
_ROUTING: Final = Struct(abi.STRUCTS["irq_routing"][0])
_ROUTE: Final = Struct(abi.STRUCTS["irq_routing_entry"][0])
_MSI: Final = Struct(abi.STRUCTS["msi"][0])

# arch/arm64/include/uapi/asm/kvm.h: KVM_ARM_IRQ_TYPE_*, and the two lines of a CPU.
CPU, SPI, PPI = range(3)
_CPU_LINES: Final = 2

# include/uapi/linux/kvm.h: KVM_IRQFD_FLAG_*, KVM_IRQ_ROUTING_*, KVM_MSI_VALID_DEVID.
DEASSIGN: Final = 1 << 0
RESAMPLE: Final = 1 << 1
TO_IRQCHIP: Final = 1
TO_MSI: Final = 2
VALID_DEVID: Final = 1 << 0

# KVM_MAX_IRQ_ROUTES, KVM_IRQCHIP_NUM_PINS (1020 - 32), KVM_NR_IRQCHIPS.
MAX_ROUTES: Final = 4096
PINS: Final = 988
_IRQCHIPS: Final = 1


@dataclass
class Interrupts:
    """What user space has asked of a VM's interrupts.

    levels: (type, vCPU id or None, number) -> the level last given to a line that exists; routes: as they were given,
    which is what the kernel keeps until the vGIC's initialisation replaces them.
    """

    levels: dict[tuple[int, int | None, int], bool] = field(default_factory=dict)
    routes: tuple[tuple[int, ...], ...] = ()


# ------------------------------------------------------------------------------------------------ lines


def irq_line(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_IRQ_LINE."""
    irq, level = _IRQ_LEVEL.unpack(user_memory.read(argument, _IRQ_LEVEL.size))
    # vcpu2[31:28] and vcpu[23:16] are one number.
    vcpu = (irq >> 28 << 8) + (irq >> 16 & 0xFF)
    kind, number = irq >> 24 & 0xF, irq & 0xFFFF
    setter = _SETTERS.get(kind)
    if setter is None:
        return -EINVAL
    owner = setter(vm, vcpu, number)
    vm.interrupts.levels[kind, owner, number] = bool(level)
    # Without a vGIC, only a CPU's own line is left.
    if vm.vgic is not None:
        target = next((one for one in vm.vcpus if one.vcpu_id == owner), None)
        vm.vgic.line_changed(target, number, level=bool(level))
    return 0


def irq_line_status(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_IRQ_LINE_STATUS: the same, and the struct is copied back as it came."""
    result = irq_line(vm, argument)
    if not result:
        user_memory.write(argument, user_memory.read(argument, _IRQ_LEVEL.size))
    return result


def _cpu_line(vm: VirtualMachine, vcpu: int, number: int) -> int | None:
    if vm.vgic is not None:
        raise RefusedError(ENXIO)
    target = _vcpu(vm, vcpu)
    if number >= _CPU_LINES:
        raise RefusedError(EINVAL)
    return target.vcpu_id


def _spi(vm: VirtualMachine, _vcpu_number: int, number: int) -> int | None:
    """Since 7.3 the vGIC has to be ready before the number is looked at, until then after."""
    vgic = _vgic(vm)
    if vm.behaviour.irq_line_readies_vgic_first:
        _ready(vgic)
    if number < PRIVATE_IRQS:
        raise RefusedError(EINVAL)
    _ready(vgic)
    if number >= vgic.nr_irqs:
        raise RefusedError(EINVAL)
    return None


def _ppi(vm: VirtualMachine, vcpu: int, number: int) -> int | None:
    vgic = _vgic(vm)
    if vm.behaviour.irq_line_readies_vgic_first:
        _ready(vgic)
    target = _vcpu(vm, vcpu)
    if not FIRST_PPI <= number < PRIVATE_IRQS:
        raise RefusedError(EINVAL)
    _ready(vgic)
    return target.vcpu_id if vm.behaviour.ppi_goes_to_vcpu_found else _vcpu_at(vm, target.vcpu_id).vcpu_id


_SETTERS: Final[dict[int, Callable[[VirtualMachine, int, int], int | None]]] = {CPU: _cpu_line, SPI: _spi, PPI: _ppi}


def _vcpu(vm: VirtualMachine, number: int) -> Vcpu:
    """The vCPU that a line names: by its id, before 6.12 by the order of creation."""
    if vm.behaviour.irq_line_names_vcpu_by_id:
        found = [vcpu for vcpu in vm.vcpus if vcpu.vcpu_id == number]
    else:
        found = [*vm.vcpus[number : number + 1]]
    if not found:
        raise RefusedError(EINVAL)
    return found[0]


def _vcpu_at(vm: VirtualMachine, index: int) -> Vcpu:
    """The vCPU of an index: a wrong one is refused, or taken for 0 (kvm_get_vcpu)."""
    if index < len(vm.vcpus):
        return vm.vcpus[index]
    if vm.behaviour.vcpu_index_is_checked:
        raise RefusedError(EINVAL)
    return vm.vcpus[0]


def _vgic(vm: VirtualMachine) -> Vgic:
    if vm.vgic is None:
        raise RefusedError(ENXIO)
    return vm.vgic


def _ready(vgic: Vgic) -> None:
    """A GICv2 initialises itself when it is first needed; others are refused until user space did (vgic_lazy_init)."""
    if vgic.initialised:
        return
    if vgic.model != "v2":
        raise RefusedError(EBUSY)
    vgic.lazy_init()


# ------------------------------------------------------------------------------------------------ irqfds


def irqfd(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_IRQFD; the gsi is not looked at (kvm_irqfd in virt/kvm/eventfd.c)."""
    fd, gsi, flags, resample_fd, *_ = _IRQFD.unpack(user_memory.read(argument, _IRQFD.size))
    if flags & ~(DEASSIGN | RESAMPLE):
        return -EINVAL
    identity = _identity(vm, fd, assign=not flags & DEASSIGN)
    take_signals(vm)
    with vm.descriptors.eventfd_lock:
        if flags & DEASSIGN:
            _deassign(vm.eventfds, fd, identity, gsi)
            return 0
        if flags & RESAMPLE:
            eventfd(resample_fd)
        return _assign(vm, fd, identity, gsi)


def take_signals(vm: VirtualMachine) -> None:
    """Make pending what irqfds were signalled for (irqfd_inject: the line rises, and falls).

    A real kernel does it when an eventfd is signalled, which nobody tells this one: it looks before something can show.
    """
    with vm.descriptors.eventfd_lock:
        gsis = vm.eventfds.signalled()
    pins = {gsi: pin for gsi, kind, _flags, _pad, _chip, pin, *_ in vm.interrupts.routes if kind == TO_IRQCHIP}
    for gsi in gsis:
        irq = PRIVATE_IRQS + pins.get(gsi, PINS)
        if vm.vgic is not None and irq < vm.vgic.nr_irqs:
            vm.vgic.line_changed(None, irq, level=True)


def _assign(vm: VirtualMachine, fd: int, identity: int, gsi: int) -> int:
    for eventfds in _in_the_way(vm):
        eventfds.refresh()
        if any(eventfds.is_to(held, fd, identity) for held, _ in eventfds.irqfds):
            return -EBUSY
    held = vm.eventfds.hold(fd)
    vm.eventfds.irqfds.append((held, gsi))
    return 0


def _deassign(eventfds: EventFds, fd: int, identity: int, gsi: int) -> None:
    eventfds.refresh()
    eventfds.irqfds = [
        (held, of_gsi) for held, of_gsi in eventfds.irqfds if of_gsi != gsi or not eventfds.is_to(held, fd, identity)
    ]


def _identity(vm: VirtualMachine, fd: int, *, assign: bool) -> int:
    """The eventfd; without a vGIC that is ready there is no looking at it (kvm_arch_intc_initialized)."""
    if assign and (vm.vgic is None or not vm.vgic.initialised):
        raise RefusedError(EAGAIN)
    return eventfd(fd)


def _in_the_way(vm: VirtualMachine) -> Iterable[EventFds]:
    """Whose irqfds an eventfd must not have: the VM's, and since 7.3 those of all VMs (one priority waiter each)."""
    if not vm.behaviour.irqfd_is_exclusive:
        return (vm.eventfds,)
    others = (one for file in vm.descriptors.files() if (one := getattr(file, "vm", None)) is not None)
    return {id(one): one.eventfds for one in (vm, *others)}.values()


# ------------------------------------------------------------------------------------------------ routes and MSIs


def set_gsi_routing(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_SET_GSI_ROUTING: a new table in place of the old one; no irqchip is needed (kvm_set_irq_routing)."""
    nr, flags = _ROUTING.unpack(user_memory.read(argument, _ROUTING.size))
    if nr > MAX_ROUTES or flags:
        return -EINVAL
    entries = user_memory.read(argument, _ROUTING.size + nr * _ROUTE.size)[_ROUTING.size :]
    routes = tuple(_ROUTE.iter_unpack(entries))
    if len({route[0] for route in routes}) < nr or not all(_is_route(route) for route in routes):
        return -EINVAL
    take_signals(vm)
    vm.interrupts.routes = routes
    return 0


def _is_route(route: tuple[int, ...]) -> bool:
    """Whether KVM takes a route on its own; each gsi has one, for there is one irqchip."""
    gsi, kind, flags, _pad, chip, pin = route[:6]
    if gsi >= MAX_ROUTES:
        return False
    if kind == TO_MSI:
        return not flags & ~VALID_DEVID
    return kind == TO_IRQCHIP and not flags and chip < _IRQCHIPS and pin < PINS


def signal_msi(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_SIGNAL_MSI: 1 where it was delivered, 0 where the guest blocks it."""
    low, high, _data, flags, _devid, *_ = _MSI.unpack(user_memory.read(argument, _MSI.size))
    if vm.vgic is None or flags & ~VALID_DEVID:
        return -EINVAL
    if not vm.itses:
        return -ENODEV
    if not flags & VALID_DEVID:
        return -EINVAL
    its = next((its for its in vm.itses if its.is_at(high << 32 | low)), None)
    if its is None:
        return -EINVAL
    # Only a guest that runs sets an ITS up: until then it is off (vgic_its_resolve_lpi).
    return 0 if its.enabled else -EBUSY


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_IRQ_LINE, irq_line),
    Request(abi.KVM_IRQ_LINE_STATUS, irq_line_status),
    Request(abi.KVM_IRQFD, irqfd),
    Request(abi.KVM_SET_GSI_ROUTING, set_gsi_routing),
    Request(abi.KVM_SIGNAL_MSI, signal_msi),
)
