# SPDX-License-Identifier: Apache-2.0
"""The VM's interrupt controller: vGICv2 or vGICv3, its addresses and its attributes (kernel-device-spec 1.2, 2)."""

from __future__ import annotations

from errno import E2BIG, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ENXIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.frames import UNDEFINED, check_range
from kvmipa.backend.emulated.redistributors import DISTRIBUTOR_SIZE, Redistributors
from kvmipa.backend.emulated.requests import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic_state import VgicState
    from kvmipa.backend.emulated.vm import VirtualMachine

# include/kvm/arm_vgic.h: VGIC_V2_MAX_CPUS, VGIC_V3_MAX_CPUS.
MAX_VCPUS: Final = {"v2": 8, "v3": 512}

# include/kvm/arm_vgic.h: VGIC_NR_PRIVATE_IRQS, VGIC_NR_IRQS_LEGACY, VGIC_MAX_RESERVED.
PRIVATE_IRQS: Final = 32
FIRST_PPI: Final = 16
DEFAULT_IRQS: Final = 256
MOST_IRQS: Final = 1023
FEWEST_IRQS: Final = 64

# KVM_IRQ_ROUTING_IRQCHIP of include/uapi/linux/kvm.h.
_TO_IRQCHIP: Final = 1


class Address(NamedTuple):
    """An address that is set by one number; alignment and size in bytes."""

    model: str
    name: str
    alignment: int
    size: int


ADDRESSES: Final[dict[int, Address]] = {
    abi.KVM_VGIC_V2_ADDR_TYPE_DIST: Address("v2", "distributor_base", 0x1000, 0x1000),
    abi.KVM_VGIC_V2_ADDR_TYPE_CPU: Address("v2", "cpu_interface_base", 0x1000, 0x2000),
    abi.KVM_VGIC_V3_ADDR_TYPE_DIST: Address("v3", "distributor_base", 0x1_0000, DISTRIBUTOR_SIZE),
}
_REDISTRIBUTORS: Final = (abi.KVM_VGIC_V3_ADDR_TYPE_REDIST, abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION)

# KVM_VGIC_V3_RDIST_*_MASK: index[11:0], flags[15:12], base[51:16], count[63:52].
_INDEX: Final = 0xFFF
_FLAGS: Final = 0xF000
_BASE: Final = 0x000F_FFFF_FFFF_0000
_COUNT_SHIFT: Final = 52


class Vgic:
    """A vGIC. distributor_base, cpu_interface_base: addresses, UNDEFINED where they are not set.

    model: "v2" or "v3". nr_spis: 0 until it is set, or initialisation sets the default. maintenance_irq: of guests
    with an EL2 (7.3).
    """

    gettable = True
    was_opened = False

    def __init__(self, vm: VirtualMachine, model: str) -> None:
        self.vm = vm
        self.model = model
        self.initialised = False
        self.nr_spis = 0
        self.distributor_base = UNDEFINED
        self.cpu_interface_base = UNDEFINED
        self.redistributors = Redistributors(self)
        self.maintenance_irq = 0
        self._state: VgicState | None = None

    @property
    def nr_irqs(self) -> int:
        """SGIs, PPIs and SPIs: 32 while the number of SPIs is not set."""
        return PRIVATE_IRQS + self.nr_spis

    @property
    def io_devices(self) -> int:
        """How many devices it has on the MMIO bus: redistributors and ITSes. The distributor comes with a run."""
        return sum(vcpu.frame is not None for vcpu in self.vm.vcpus) + sum(
            its.base is not None for its in self.vm.itses
        )

    @property
    def state(self) -> VgicState:
        """What is in its registers."""
        if self._state is None:
            from kvmipa.backend.emulated.vgic_state import VgicState

            self._state = VgicState(self)
        return self._state

    def vcpu_created(self, vcpu: Vcpu) -> None:
        """A vCPU is being made, and is not among the VM's yet (kvm_vgic_vcpu_init)."""
        if self.model == "v3":
            self.redistributors.give_frame(vcpu)

    def lazy_init(self) -> None:
        """Initialise it unless it is."""
        if self.initialised:
            return
        self.nr_spis = self.nr_spis or DEFAULT_IRQS - PRIVATE_IRQS
        self.initialised = True
        # kvm_vgic_setup_default_irq_routing: every gsi is the pin of its number.
        rest = (0,) * 6
        self.vm.interrupts.routes = tuple((gsi, _TO_IRQCHIP, 0, 0, 0, gsi, *rest) for gsi in range(self.nr_spis))

    def line_changed(self, vcpu: Vcpu | None, irq: int, *, level: bool) -> None:
        """KVM_IRQ_LINE gave a line a level: one that reacts to edges is pending then (kvm_vgic_inject_irq).

        vcpu: of a private interrupt.
        """
        owner = vcpu or self.vm.vcpus[0] if self.vm.vcpus else None
        if level and owner is not None and self.state.read_bits(owner, "edge", irq & ~31) >> irq % 32 & 1:
            self.state.set_bits(owner, "pending", irq & ~31, 1 << irq % 32)

    # ---------------------------------------------------------------------------------------- attributes

    def set_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_SET_DEVICE_ATTR."""
        operation = self._group(group).set
        return -ENXIO if operation is None else operation(self, group, attr, address)

    def get_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_GET_DEVICE_ATTR."""
        operation = self._group(group).get
        return -ENXIO if operation is None else operation(self, group, attr, address)

    def has_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_HAS_DEVICE_ATTR: neither addresses nor values are looked at."""
        return self._group(group).has(self, group, attr, address)

    def _group(self, group: int) -> Group:
        found = GROUPS.get(group)
        if found is None or self.model not in found.models:
            return NO_GROUP
        if group == abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ and not self.vm.behaviour.vgic_maintenance_irq:
            return NO_GROUP
        return found

    # ---------------------------------------------------------------------------------------- addresses

    def set_address(self, kind: int, value: int) -> None:
        """Set one; ENODEV where this model has no such address."""
        known = ADDRESSES.get(kind)
        if known is not None:
            self._needs(known.model)
            check_range(self.vm, getattr(self, known.name), value, known.alignment, known.size)
            setattr(self, known.name, value)
        elif kind in _REDISTRIBUTORS:
            self._needs("v3")
            self._add_redistributors(kind, value)
        else:
            raise RefusedError(ENODEV)

    def _needs(self, model: str) -> None:
        if self.model != model:
            raise RefusedError(ENODEV)

    def _add_redistributors(self, kind: int, value: int) -> None:
        if kind == abi.KVM_VGIC_V3_ADDR_TYPE_REDIST:
            self.redistributors.add(0, value, 0)
            return
        count = value >> _COUNT_SHIFT
        if not count or value & _FLAGS:
            raise RefusedError(EINVAL)
        # The kernel keeps the index in a byte.
        self.redistributors.add(value & _INDEX & 0xFF, value & _BASE, count)

    def address(self, kind: int, asked: int) -> int:
        """What is set, or UNDEFINED; ``asked`` holds the index of a region."""
        known = ADDRESSES.get(kind)
        if known is not None:
            self._needs(known.model)
            return int(getattr(self, known.name))
        if kind not in _REDISTRIBUTORS:
            raise RefusedError(ENODEV)
        self._needs("v3")
        regions = self.redistributors
        if kind == abi.KVM_VGIC_V3_ADDR_TYPE_REDIST:
            return regions.regions[0].base if regions.regions else UNDEFINED
        index = asked & _INDEX & 0xFF
        region = regions.region(index)
        if region is None:
            raise RefusedError(ENOENT)
        return index | region.base | region.count << _COUNT_SHIFT


def create_vgic(vm: VirtualMachine, model: str, *, host_can: bool = True) -> Vgic:
    """The VM's vGIC, of which there is one for ever (kvm_vgic_create; kernel-device-spec 1.2).

    host_can: whether the host emulates this model, which KVM_CREATE_DEVICE has looked at before.
    """
    obstacles = ((vm.vgic is not None, EEXIST), (not host_can, ENODEV))
    for is_there, errno in obstacles[::-1] if vm.behaviour.vgic_needs_host_first else obstacles:
        if is_there:
            raise RefusedError(errno)
    if any(vcpu.has_run for vcpu in vm.vcpus):
        raise RefusedError(EBUSY)
    # What is too much stays so: the VM has no more vCPUs than this from here on.
    vm.max_vcpus = MAX_VCPUS[model]
    if len(vm.vcpus) > vm.max_vcpus:
        raise RefusedError(E2BIG)
    vgic = vm.vgic = Vgic(vm, model)
    return vgic


def set_legacy_address(vm: VirtualMachine, kind: int, address: int) -> int:
    """KVM_ARM_SET_DEVICE_ADDR: before 6.1 also the addresses of a vGICv3; ENODEV stays ENODEV here (1.5)."""
    if vm.vgic is None:
        return -ENODEV
    known = ADDRESSES.get(kind)
    if vm.behaviour.legacy_address_is_v2_only and (known is None or known.model != "v2"):
        return -ENODEV
    vm.vgic.set_address(kind, address)
    return 0


# ------------------------------------------------------------------------------------------------ groups


class Group(NamedTuple):
    """A group of attributes: the models that have it, and its operations on a vGIC."""

    models: tuple[str, ...]
    set: Callable[[Vgic, int, int, int], int] | None
    get: Callable[[Vgic, int, int, int], int] | None
    has: Callable[[Vgic, int, int, int], int]


def _no_attr(_vgic: Vgic, _group: int, _attr: int, _address: int) -> int:
    return -ENXIO


def _yes(_vgic: Vgic, _group: int, _attr: int, _address: int) -> int:
    return 0


def _set_address(vgic: Vgic, _group: int, kind: int, address: int) -> int:
    value = _u64(address)
    try:
        vgic.set_address(kind, value)
    except RefusedError as refused:
        # vgic_set_common_attr.
        return -(ENXIO if refused.code == ENODEV else refused.code)
    return 0


def _get_address(vgic: Vgic, _group: int, kind: int, address: int) -> int:
    reads = kind == abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION or not vgic.vm.behaviour.vgic_get_address_only_writes
    asked = _u64(address) if reads else 0
    try:
        value = vgic.address(kind, asked)
    except RefusedError as refused:
        return -(ENXIO if refused.code == ENODEV else refused.code)
    user_memory.write(address, value.to_bytes(8, "little"))
    return 0


def _has_address(vgic: Vgic, _group: int, kind: int, _address: int) -> int:
    known = ADDRESSES.get(kind)
    model = known.model if known else "v3" if kind in _REDISTRIBUTORS else None
    return 0 if model == vgic.model else -ENXIO


def _set_nr_irqs(vgic: Vgic, _group: int, _attr: int, address: int) -> int:
    """The largest number that is a multiple of 32 and not above 1023 is 992."""
    number = _u32(address)
    if not FEWEST_IRQS <= number <= MOST_IRQS or number % 32:
        return -EINVAL
    if vgic.nr_spis:
        return -EBUSY
    vgic.nr_spis = number - PRIVATE_IRQS
    return 0


def _get_nr_irqs(vgic: Vgic, _group: int, _attr: int, address: int) -> int:
    user_memory.write(address, vgic.nr_irqs.to_bytes(4, "little"))
    return 0


def _control(vgic: Vgic, _group: int, attr: int, _address: int) -> int:
    if attr == abi.KVM_DEV_ARM_VGIC_CTRL_INIT:
        vgic.lazy_init()
        return 0
    if attr == abi.KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES and vgic.model == "v3":
        # Without an LPI, which only a guest that runs maps, there is nothing to save.
        refused = not vgic.initialised and vgic.vm.behaviour.save_pending_needs_init
        return -ENXIO if refused else 0
    return -ENXIO


def _has_control(vgic: Vgic, _group: int, attr: int, _address: int) -> int:
    known = {abi.KVM_DEV_ARM_VGIC_CTRL_INIT}
    if vgic.model == "v3":
        known.add(abi.KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES)
    return 0 if attr in known else -ENXIO


def _set_maintenance_irq(vgic: Vgic, _group: int, _attr: int, address: int) -> int:
    number = _u32(address)
    if vgic.initialised:
        return -EBUSY
    if not FIRST_PPI <= number < PRIVATE_IRQS:
        return -EINVAL
    vgic.maintenance_irq = number
    return 0


def _get_maintenance_irq(vgic: Vgic, _group: int, _attr: int, address: int) -> int:
    user_memory.write(address, vgic.maintenance_irq.to_bytes(4, "little"))
    return 0


def _u32(address: int) -> int:
    return int.from_bytes(user_memory.read(address, 4), "little")


def _u64(address: int) -> int:
    return int.from_bytes(user_memory.read(address, 8), "little")


def _registers(name: str) -> Any:
    """An operation of the module of registers, which is imported when one is first touched."""

    def operation(vgic: Vgic, group: int, attr: int, address: int) -> int:
        from kvmipa.backend.emulated import vgic_registers

        return int(getattr(vgic_registers, name)(vgic, group, attr, address))

    return operation


_OF_REGISTERS: Final = (_registers("set_register"), _registers("get_register"), _registers("has_register"))

NO_GROUP: Final = Group((), None, None, _no_attr)
GROUPS: Final[dict[int, Group]] = {
    abi.KVM_DEV_ARM_VGIC_GRP_ADDR: Group(("v2", "v3"), _set_address, _get_address, _has_address),
    abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS: Group(("v2", "v3"), *_OF_REGISTERS),
    abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS: Group(("v2",), *_OF_REGISTERS),
    abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS: Group(("v2", "v3"), _set_nr_irqs, _get_nr_irqs, _yes),
    abi.KVM_DEV_ARM_VGIC_GRP_CTRL: Group(("v2", "v3"), _control, None, _has_control),
    abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS: Group(("v3",), *_OF_REGISTERS),
    abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS: Group(("v3",), *_OF_REGISTERS),
    abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO: Group(("v3",), *_OF_REGISTERS),
    abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ: Group(("v3",), _set_maintenance_irq, _get_maintenance_irq, _yes),
}
