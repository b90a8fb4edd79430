# SPDX-License-Identifier: Apache-2.0
"""Attributes that are a vGIC's registers (kernel-device-spec 2.8; vgic-mmio-v2.c, vgic-mmio-v3.c)."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT, ENXIO
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.icc_registers import ICC, read_icc, write_icc
from kvmipa.backend.emulated.requests import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic import Vgic

DIST: Final = abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS
CPU: Final = abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS
REDIST: Final = abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS
SYSREGS: Final = abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS
LEVELS: Final = abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO

_OFFSET: Final = 0xFFFF_FFFF
_WORD: Final = 0xFFFF_FFFF
_VCPU_SHIFT: Final = 32

# KVM_DEV_ARM_VGIC_LINE_LEVEL_INTID_MASK; what is above it is the kind of information, and 0 is the only one.
_LEVEL_IRQ: Final = 0x3FF

# Arm IHI 0069 (GICv3) and IHI 0048 (GICv2).
_CTLR_ENABLE_V2: Final = 1 << 0
_CTLR_ENABLE_V3: Final = 1 << 1
# Affinity routing, one security state.
_CTLR_FIXED_V3: Final = 1 << 4 | 1 << 6
_TYPER_LPIS: Final = 1 << 17
_TYPER_ID_BITS_SHIFT: Final = 19
# Product KVM, implementer Arm; the revision is between them.
_IIDR: Final = 0x4B00_043B
_IIDR_REVISION_SHIFT: Final = 12
_PIDR2: Final = 0xFFE8
_GICV3: Final = 0x3B
# The CPU interface of a vGICv2 names its architecture where the distributor has its revision.
_GICC_IIDR: Final = 0x04B2_043B

_GICR_CTLR_LPIS: Final = 1 << 0
# Revision 3: LPIs can be disabled again, and invalidated by register.
_GICR_CTLR_FIXED: Final = 1 << 1 | 1 << 2
_GICR_TYPER_LAST: Final = 1 << 4
_GICR_TYPER_LPIS: Final = 1 << 0


class Access(NamedTuple):
    """A register that is accessed. irq: the first interrupt that it is about, if it is about any."""

    vgic: Vgic
    vcpu: Vcpu
    offset: int
    irq: int


class Registers(NamedTuple):
    """Registers in a row. bits: of each interrupt, 0 where they are not about interrupts."""

    offset: int
    length: int
    read: Callable[[Access], int]
    write: Callable[[Access, int], None]
    bits: int = 0

    def access(self, vgic: Vgic, vcpu: Vcpu, offset: int) -> Access:
        """An access to one of them (VGIC_ADDR_TO_INTID)."""
        irq = (offset & self.bits * 128 - 1) * 8 // self.bits if self.bits else 0
        return Access(vgic, vcpu, offset, irq)


def _zero(_access: Access) -> int:
    return 0


def _ignore(_access: Access, _value: int) -> None:
    pass


def _ones(_access: Access) -> int:
    return _WORD


# ------------------------------------------------------------------------------------------------ interrupts


def _reads(what: str) -> Callable[[Access], int]:
    return lambda it: it.vgic.state.read_bits(it.vcpu, what, it.irq)


def _sets(what: str) -> Callable[[Access, int], None]:
    return lambda it, value: it.vgic.state.set_bits(it.vcpu, what, it.irq, value)


def _clears(what: str) -> Callable[[Access, int], None]:
    return lambda it, value: it.vgic.state.clear_bits(it.vcpu, what, it.irq, value)


def _writes(what: str) -> Callable[[Access, int], None]:
    return lambda it, value: it.vgic.state.write_bits(it.vcpu, what, it.irq, value)


def _write_group_v2(it: Access, value: int) -> None:
    if it.vgic.state.groups_are_writable:
        it.vgic.state.write_bits(it.vcpu, "group", it.irq, value)


def _read_pending_v2(it: Access) -> int:
    return it.vgic.state.read_bits(it.vcpu, "pending", it.irq) | it.vgic.state.read_levels(it.vcpu, it.irq)


def _set_pending_v2(it: Access, value: int) -> None:
    it.vgic.state.set_pending_v2(it.vcpu, it.irq, value)


def _clear_pending_v2(it: Access, value: int) -> None:
    it.vgic.state.clear_pending_v2(it.vcpu, it.irq, value)


def _send_sgi(it: Access, value: int) -> None:
    it.vgic.state.send_sgi(it.vcpu, value)


def _read_sources(it: Access) -> int:
    return it.vgic.state.read_sources(it.vcpu, it.offset & 0xF)


def _add_sources(it: Access, value: int) -> None:
    it.vgic.state.add_sources(it.vcpu, it.offset & 0xF, value)


def _remove_sources(it: Access, value: int) -> None:
    it.vgic.state.remove_sources(it.vcpu, it.offset & 0xF, value)


def _read_priorities(it: Access) -> int:
    return it.vgic.state.read_priorities(it.vcpu, it.irq)


def _write_priorities(it: Access, value: int) -> None:
    it.vgic.state.write_priorities(it.vcpu, it.irq, value)


def _read_triggers(it: Access) -> int:
    return it.vgic.state.read_triggers(it.vcpu, it.irq)


def _write_triggers(it: Access, value: int) -> None:
    it.vgic.state.write_triggers(it.vcpu, it.irq, value)


def _read_targets(it: Access) -> int:
    return it.vgic.state.read_targets(it.vcpu, it.irq)


def _write_targets(it: Access, value: int) -> None:
    it.vgic.state.write_targets(it.vcpu, it.irq, value)


def _read_route(it: Access) -> int:
    """The upper half is affinity level 3, which vGICs do not have."""
    return 0 if it.offset & 4 else it.vgic.state.read_route(it.vcpu, it.irq)


def _write_route(it: Access, value: int) -> None:
    if not it.offset & 4:
        it.vgic.state.write_route(it.vcpu, it.irq, value)


# ------------------------------------------------------------------------------------------------ distributors


def _iidr(vgic: Vgic) -> int:
    return _IIDR | vgic.state.revision << _IIDR_REVISION_SHIFT


def _write_iidr(vgic: Vgic, value: int) -> None:
    """Since 6.1 user space chooses between revisions 2 and 3."""
    revision = value >> _IIDR_REVISION_SHIFT & 0xF
    choices = (2, 3) if vgic.vm.behaviour.vgic_revision_3 else (2,)
    if (value ^ _iidr(vgic)) & ~(0xF << _IIDR_REVISION_SHIFT) or revision not in choices:
        raise RefusedError(EINVAL)
    vgic.state.revision = revision
    vgic.state.groups_are_writable = True


def _read_misc_v3(it: Access) -> int:
    vgic = it.vgic
    if it.offset == 0:
        return _CTLR_FIXED_V3 | (_CTLR_ENABLE_V3 if vgic.state.enabled else 0)
    if it.offset == 4:
        lpis, id_bits = (_TYPER_LPIS, 16) if vgic.vm.its_count else (0, 10)
        return (vgic.nr_irqs >> 5) - 1 | lpis | id_bits - 1 << _TYPER_ID_BITS_SHIFT
    return _iidr(vgic) if it.offset == 8 else 0


def _write_misc_v3(it: Access, value: int) -> None:
    vgic = it.vgic
    if it.offset == 0:
        vgic.state.enabled = bool(value & _CTLR_ENABLE_V3)
    elif it.offset == 8:
        _write_iidr(vgic, value)
    elif it.offset == 12 and value:
        # GICD_TYPER2 is 0 without a GICv4.1; it can be written only before initialisation, since 7.3 that can be.
        raise RefusedError(EBUSY if vgic.vm.behaviour.vgic_registers_before_init and vgic.initialised else EINVAL)


def _read_misc_v2(it: Access) -> int:
    vgic = it.vgic
    if it.offset == 0:
        return _CTLR_ENABLE_V2 if vgic.state.enabled else 0
    if it.offset == 4:
        return (vgic.nr_irqs >> 5) - 1 | len(vgic.vm.vcpus) - 1 << 5
    return _iidr(vgic)


def _write_misc_v2(it: Access, value: int) -> None:
    if it.offset == 0:
        it.vgic.state.enabled = bool(value & _CTLR_ENABLE_V2)
    elif it.offset == 8:
        _write_iidr(it.vgic, value)


def _read_identity(it: Access) -> int:
    return _GICV3 if it.offset & 0xFFFF == _PIDR2 else 0


def _per_irq(offset: int, bits: int, read: Callable[[Access], int], write: Callable[[Access, int], None]) -> Registers:
    return Registers(offset, bits * 128, read, write, bits)


def _shared(
    offset: int, bits: int, read: Callable[[Access], int], write: Callable[[Access, int], None]
) -> tuple[Registers, Registers]:
    """A vGICv3's: what would be of private interrupts is there, and 0."""
    private = bits * 4
    return (
        Registers(offset, private, _zero, _ignore, bits),
        Registers(offset + private, bits * 128 - private, read, write, bits),
    )


V3_DISTRIBUTOR: Final = (
    Registers(0x0, 16, _read_misc_v3, _write_misc_v3),
    Registers(0x10, 4, _ones, _ignore),
    *_shared(0x80, 1, _reads("group"), _writes("group")),
    *_shared(0x100, 1, _reads("enabled"), _sets("enabled")),
    *_shared(0x180, 1, _reads("enabled"), _clears("enabled")),
    *_shared(0x200, 1, _reads("pending"), _writes("pending")),
    *_shared(0x280, 1, _zero, _ignore),
    *_shared(0x300, 1, _reads("active"), _sets("active")),
    *_shared(0x380, 1, _reads("active"), _clears("active")),
    *_shared(0x400, 8, _read_priorities, _write_priorities),
    *_shared(0x800, 8, _zero, _ignore),
    *_shared(0xC00, 2, _read_triggers, _write_triggers),
    *_shared(0xD00, 1, _zero, _ignore),
    *_shared(0x6000, 64, _read_route, _write_route),
    Registers(0xFFD0, 48, _read_identity, _ignore),
)

V2_DISTRIBUTOR: Final = (
    Registers(0x0, 12, _read_misc_v2, _write_misc_v2),
    _per_irq(0x80, 1, _reads("group"), _write_group_v2),
    _per_irq(0x100, 1, _reads("enabled"), _sets("enabled")),
    _per_irq(0x180, 1, _reads("enabled"), _clears("enabled")),
    _per_irq(0x200, 1, _read_pending_v2, _set_pending_v2),
    _per_irq(0x280, 1, _read_pending_v2, _clear_pending_v2),
    _per_irq(0x300, 1, _reads("active"), _sets("active")),
    _per_irq(0x380, 1, _reads("active"), _clears("active")),
    _per_irq(0x400, 8, _read_priorities, _write_priorities),
    _per_irq(0x800, 8, _read_targets, _write_targets),
    _per_irq(0xC00, 2, _read_triggers, _write_triggers),
    Registers(0xF00, 4, _zero, _send_sgi),
    Registers(0xF10, 16, _read_sources, _remove_sources),
    Registers(0xF20, 16, _read_sources, _add_sources),
)


# ------------------------------------------------------------------------------------------------ redistributors


def _half(it: Access, value: int) -> int:
    return value >> (32 if it.offset & 4 else 0) & _WORD


def _read_gicr_ctlr(it: Access) -> int:
    return (_GICR_CTLR_LPIS if it.vcpu.lpis_enabled else 0) | (_GICR_CTLR_FIXED if it.vgic.state.revision > 2 else 0)


def _write_gicr_ctlr(it: Access, value: int) -> None:
    if it.vgic.vm.its_count:
        it.vcpu.lpis_enabled = bool(value & _GICR_CTLR_LPIS)


def _read_gicr_iidr(_it: Access) -> int:
    return _IIDR


def _read_gicr_typer(it: Access) -> int:
    vm, vcpu = it.vgic.vm, it.vcpu
    value = vcpu.affinity << 32 | vcpu.vcpu_id << 8 | (_GICR_TYPER_LPIS if vm.its_count else 0)
    if vm.behaviour.gicr_typer_tells_last and it.vgic.redistributors.is_last(vcpu):
        value |= _GICR_TYPER_LAST
    return _half(it, value)


def _read_propbaser(it: Access) -> int:
    return _half(it, it.vgic.state.propbaser)


def _write_propbaser(it: Access, value: int) -> None:
    it.vgic.state.write_propbaser(it.vcpu, 32 if it.offset & 4 else 0, value)


def _read_pendbaser(it: Access) -> int:
    return _half(it, it.vgic.state.read_pendbaser(it.vcpu))


def _write_pendbaser(it: Access, value: int) -> None:
    it.vgic.state.write_pendbaser(it.vcpu, 32 if it.offset & 4 else 0, value)


_SGI_FRAME: Final = 0x1_0000

# In the kernel's order, which is not that of the offsets: its search finds less than there is (GICR_STATUSR).
_RD_FRAME: Final = (
    Registers(0x0, 4, _read_gicr_ctlr, _write_gicr_ctlr),
    Registers(0x10, 4, _zero, _ignore),
    Registers(0x4, 4, _read_gicr_iidr, _ignore),
    Registers(0x8, 8, _read_gicr_typer, _ignore),
    Registers(0x14, 4, _zero, _ignore),
    Registers(0x70, 8, _read_propbaser, _write_propbaser),
    Registers(0x78, 8, _read_pendbaser, _write_pendbaser),
)
# GICR_INVLPIR, GICR_INVALLR, GICR_SYNCR: of revision 3.
_INVALIDATION: Final = (
    Registers(0xA0, 8, _zero, _ignore),
    Registers(0xB0, 8, _zero, _ignore),
    Registers(0xC0, 4, _zero, _ignore),
)
_REST: Final = (
    Registers(0xFFD0, 48, _read_identity, _ignore),
    Registers(_SGI_FRAME + 0x80, 4, _reads("group"), _writes("group")),
    Registers(_SGI_FRAME + 0x100, 4, _reads("enabled"), _sets("enabled")),
    Registers(_SGI_FRAME + 0x180, 4, _reads("enabled"), _clears("enabled")),
    Registers(_SGI_FRAME + 0x200, 4, _reads("pending"), _writes("pending")),
    Registers(_SGI_FRAME + 0x280, 4, _zero, _ignore),
    Registers(_SGI_FRAME + 0x300, 4, _reads("active"), _sets("active")),
    Registers(_SGI_FRAME + 0x380, 4, _reads("active"), _clears("active")),
    Registers(_SGI_FRAME + 0x400, 32, _read_priorities, _write_priorities, 8),
    Registers(_SGI_FRAME + 0xC00, 8, _read_triggers, _ignore, 2),
    Registers(_SGI_FRAME + 0xD00, 4, _zero, _ignore),
    Registers(_SGI_FRAME + 0xE00, 4, _zero, _ignore),
)
V3_REDISTRIBUTOR: Final = (*_RD_FRAME, *_REST)
V3_REDISTRIBUTOR_3: Final = (*_RD_FRAME, *_INVALIDATION, *_REST)


# ------------------------------------------------------------------------------------------------ CPU interface of v2


def _gicc(name: str, mask: int) -> tuple[Callable[[Access], int], Callable[[Access, int], None]]:
    def read(it: Access) -> int:
        return it.vcpu.gicc.get(name, 0)

    def write(it: Access, value: int) -> None:
        it.vcpu.gicc[name] = value & mask

    return read, write


def _read_gicc_iidr(_it: Access) -> int:
    return _GICC_IIDR


def _read_apr(it: Access) -> int:
    """Hardware with up to 32 groups has one."""
    return it.vcpu.gicc.get("apr", 0) if it.offset == _APR else 0


def _write_apr(it: Access, value: int) -> None:
    if it.offset == _APR:
        it.vcpu.gicc["apr"] = value


_APR: Final = 0xD0

# GICC_CTLR has two groups, AckCtl, FIQEn, CBPR and EOImode; masks and binary points as GICH_VMCR keeps them.
V2_CPU_INTERFACE: Final = (
    Registers(0x0, 4, *_gicc("ctlr", 0x21F)),
    Registers(0x4, 4, *_gicc("pmr", 0x1F)),
    Registers(0x8, 4, *_gicc("bpr", 0x7)),
    Registers(0x1C, 4, *_gicc("abpr", 0x7)),
    Registers(_APR, 16, _read_apr, _write_apr),
    Registers(0xFC, 4, _read_gicc_iidr, _ignore),
)
_DEACTIVATE: Final = Registers(0x1000, 4, _zero, _ignore)


# ------------------------------------------------------------------------------------------------ finding


def _table(vgic: Vgic, group: int) -> Sequence[Registers]:
    known = vgic.vm.behaviour
    if group == CPU:
        return (*V2_CPU_INTERFACE, _DEACTIVATE) if known.vgic_v2_deactivate else V2_CPU_INTERFACE
    if group == REDIST:
        return V3_REDISTRIBUTOR_3 if known.vgic_revision_3 else V3_REDISTRIBUTOR
    return V2_DISTRIBUTOR if vgic.model == "v2" else V3_DISTRIBUTOR


def _find(vgic: Vgic, vcpu: Vcpu, group: int, offset: int) -> tuple[Registers, Access] | None:
    """The register of 32 bits at an offset; none at odd ones, and none of interrupts that the VM does not have."""
    found = None if offset & 3 else search(_table(vgic, group), offset)
    if found is None:
        return None
    access = found.access(vgic, vcpu, offset)
    return None if found.bits and access.irq >= vgic.nr_irqs else (found, access)


def search(table: Sequence[Registers], offset: int) -> Registers | None:
    """Linux's bsearch (include/linux/bsearch.h), for what it finds in a table that is not sorted."""
    base, count = 0, len(table)
    while count:
        pivot = base + (count >> 1)
        it = table[pivot]
        if it.offset <= offset < it.offset + it.length:
            return it
        if offset >= it.offset:
            base = pivot + 1
            count -= 1
        count >>= 1
    return None


def _vcpu(vgic: Vgic, group: int, attr: int) -> Vcpu:
    """The vCPU that an attribute names: a vGICv2's by its id, a vGICv3's by affinity; a distributor needs any."""
    vcpus: Sequence[Vcpu] = vgic.vm.vcpus
    named = attr >> _VCPU_SHIFT
    if vgic.model == "v2":
        # KVM_DEV_ARM_VGIC_CPUID_MASK: eight bits.
        found = [vcpu for vcpu in vcpus if vcpu.vcpu_id == named & 0xFF]
    elif group == DIST:
        found = list(vcpus[:1])
    else:
        # Aff3 is in the uppermost byte here, and in bits 39:32 of MPIDR_EL1 (VGIC_TO_MPIDR).
        affinity = (named & 0xFF00_0000) << 8 | named & 0xFF_FFFF
        found = [vcpu for vcpu in vcpus if vcpu.affinity == affinity]
    if not found:
        raise RefusedError(EINVAL)
    return found[0]


# ------------------------------------------------------------------------------------------------ operations


def _prepare(vgic: Vgic, group: int, attr: int, address: int, *, writes: bool) -> tuple[Vcpu, int]:
    """Everything before the register: the vCPU, and the value that is to be written.

    A vGICv2 is initialised on the way, a vGICv3 has to be. Since 7.3 two registers need no initialisation.
    """
    known = vgic.vm.behaviour
    size = 8 if group == SYSREGS else 4
    value = 0
    if known.vgic_finds_vcpu_first:
        vcpu = _vcpu(vgic, group, attr)
        if writes and group != SYSREGS:
            value = int.from_bytes(user_memory.read(address, size), "little")
    else:
        if writes:
            value = int.from_bytes(user_memory.read(address, size), "little")
        vcpu = _vcpu(vgic, group, attr)
    if vgic.model == "v2":
        vgic.lazy_init()
    elif not vgic.initialised:
        needless = group == DIST and attr & _OFFSET in {0x8, 0xC} and known.vgic_registers_before_init
        if not needless:
            raise RefusedError(EBUSY)
    return vcpu, value


def get_register(vgic: Vgic, group: int, attr: int, address: int) -> int:
    """KVM_GET_DEVICE_ATTR; what is not there is 0."""
    vcpu, _ = _prepare(vgic, group, attr, address, writes=False)
    if group == SYSREGS:
        user_memory.write(address, read_icc(_sysreg(vgic, attr), vcpu).to_bytes(8, "little"))
        return 0
    if group == LEVELS:
        value = vgic.state.read_levels(vcpu, _level_irq(attr))
    else:
        found = _find(vgic, vcpu, group, attr & _OFFSET)
        value = found[0].read(found[1]) if found else 0
    user_memory.write(address, value.to_bytes(4, "little"))
    return 0


def set_register(vgic: Vgic, group: int, attr: int, address: int) -> int:
    """KVM_SET_DEVICE_ATTR; what is not there is not written."""
    vcpu, value = _prepare(vgic, group, attr, address, writes=True)
    if group == SYSREGS:
        if vgic.vm.behaviour.vgic_finds_vcpu_first:
            value = int.from_bytes(user_memory.read(address, 8), "little")
        write_icc(_sysreg(vgic, attr), vcpu, value)
    elif group == LEVELS:
        vgic.state.write_levels(vcpu, _level_irq(attr), value)
    else:
        found = _find(vgic, vcpu, group, attr & _OFFSET)
        if found:
            found[0].write(found[1], value)
    return 0


def has_register(vgic: Vgic, group: int, attr: int, _address: int) -> int:
    """KVM_HAS_DEVICE_ATTR."""
    if group == LEVELS:
        return -ENXIO if attr & _OFFSET & ~_LEVEL_IRQ else 0
    vcpu = _vcpu(vgic, group, attr)
    if group == SYSREGS:
        return 0 if attr & 0xFFFF in ICC else -ENXIO
    return 0 if _find(vgic, vcpu, group, attr & _OFFSET) else -ENXIO


def _level_irq(attr: int) -> int:
    irq = attr & _LEVEL_IRQ
    if attr & _OFFSET & ~_LEVEL_IRQ or irq % 32:
        raise RefusedError(EINVAL)
    return irq


def _sysreg(vgic: Vgic, attr: int) -> int:
    number = attr & 0xFFFF
    if number not in ICC:
        raise RefusedError(ENOENT if vgic.vm.behaviour.vgic_sysregs_are_found_late else ENXIO)
    return number
