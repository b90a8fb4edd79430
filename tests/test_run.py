# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN: exits, answers, errors by cause, timeouts, signals."""

from __future__ import annotations

import errno
import gc
import pickle
import random
import signal
import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import (
    Debug,
    GuestDebug,
    Hypercall,
    Interrupted,
    IrqLine,
    Mmio,
    MmioBus,
    MpState,
    Nisv,
    SmcccAction,
    SystemEvent,
    SystemEventType,
    VcpuEvents,
    VcpuFeature,
    abi,
    errors,
)
from tests.device_asking import release_of
from tests.guests import (
    BACK,
    BRK,
    CODE,
    DEVICE,
    HVC,
    LDP,
    LOAD_FOR_EVER,
    LOADS,
    NOP,
    OTHER_DEVICE,
    SPIN,
    STORE_AND_LOAD,
    STORE_X2,
    STORES,
    VECTORS,
    WFI,
    GuestMachine,
    require_engine,
)
from tests.test_device import refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa import Exit, Kvm, Vcpu, Vm
    from kvmipa.device import Device

# No test waits that long; a guest that is not stopped fails its test, and does not hang it.
LONG = 60.0


def load(exit: Exit) -> Mmio:
    """The exit, which has to be a load."""
    assert isinstance(exit, Mmio)
    assert not exit.is_write
    return exit


# ------------------------------------------------------------------------------------------------ accesses


@pytest.mark.parametrize("size", STORES)
def test_store(size: int, machine: GuestMachine) -> None:
    vcpu = machine.vcpu([STORES[8], STORES[size], SPIN])
    vcpu.regs.x[0] = 0x1122_3344_5566_7788
    # The bytes of the first are behind those of the second.
    assert vcpu.run() == Mmio(DEVICE, 8, is_write=True, value=0x1122_3344_5566_7788)
    vcpu.regs.x[0] = 0x99AA_BBCC_DDEE_FF00
    exit = vcpu.run(timeout=LONG)
    value = 0x99AA_BBCC_DDEE_FF00 & (1 << 8 * size) - 1
    assert exit == Mmio(DEVICE, size, is_write=True, value=value)
    assert isinstance(exit, Mmio)
    assert (exit.data, exit.value, exit.is_write) == (value.to_bytes(size, "little"), value, True)


@pytest.mark.parametrize("size", LOADS)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_load_gets_its_reply(size: int, as_bytes: bool, machine: GuestMachine) -> None:
    vcpu = machine.vcpu([LOADS[size], STORE_X2, SPIN])
    vcpu.regs.x[2], vcpu.regs.x[4] = 2**64 - 1, OTHER_DEVICE
    exit = load(vcpu.run(timeout=LONG))
    assert (exit.phys_addr, exit.size, exit.value, exit.data) == (DEVICE, size, 0, b"")
    assert vcpu.unanswered is exit
    value = 0xF1E2_D3C4_B5A6_9788 & (1 << 8 * size) - 1
    exit.reply(value.to_bytes(size, "little") if as_bytes else value)
    assert vcpu.unanswered is None
    assert vcpu.run(timeout=LONG) == Mmio(OTHER_DEVICE, 8, is_write=True, value=value)


def test_replies_that_cannot_be(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([LOADS[2], STORES[4], SPIN])
    exit = load(vcpu.run(timeout=LONG))
    for value in (-1, 0x1_0000, 1 << 70):
        with pytest.raises(OverflowError, match=r"value=.* does not fit 16 bits"):
            exit.reply(value)
    for data in (b"", b"1", b"123"):
        with pytest.raises(ValueError, match=f"loads 2 bytes, and the reply has {len(data)}"):
            exit.reply(data)
    with pytest.raises(TypeError, match="value is an int, not float"):
        exit.reply(1.0)  # type: ignore[arg-type]
    exit.reply(1)
    with refused(errors.MmioAnsweredError, errno.EINVAL, "this load was answered"):
        exit.reply(1)
    store = vcpu.run(timeout=LONG)
    assert isinstance(store, Mmio)
    with refused(errors.MmioAnsweredError, errno.EINVAL, "the guest stored, and waits for no answer"):
        store.reply(1)
    with refused(errors.MmioAnsweredError, errno.EINVAL, "has run on since"):
        exit.reply(1)


def test_load_that_is_not_answered_is_not_run_over(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([LOADS[4], STORE_X2, SPIN])
    vcpu.regs.x[4] = OTHER_DEVICE
    exit = load(vcpu.run(timeout=LONG))
    for go_on in (vcpu.run, vcpu.complete, partial(vcpu.run, timeout=0), partial(vcpu.run_until, Mmio)):
        with refused(errors.MmioNotAnsweredError, errno.EAGAIN, "Vcpu.unanswered", "phys_addr=0x10000000"):
            go_on()
    exit.reply(5)
    assert vcpu.run(timeout=LONG) == Mmio(OTHER_DEVICE, 8, is_write=True, value=5)


def test_looking_at_the_load_that_waits_changes_nothing(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(LOAD_FOR_EVER)
    exit = load(vcpu.run(timeout=LONG))
    assert vcpu.unanswered is vcpu.unanswered is exit
    with refused(errors.MmioNotAnsweredError, errno.EAGAIN):
        vcpu.run()


def test_complete_finishes_a_load_and_enters_no_guest(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([LOADS[4], STORE_X2, SPIN])
    vcpu.regs.x[2], vcpu.regs.x[4] = 77, OTHER_DEVICE
    load(vcpu.run(timeout=LONG)).reply(5)
    assert (vcpu.regs.x[2], vcpu.regs.pc) == (77, CODE)
    for _ in range(2):
        vcpu.complete()
        assert (vcpu.regs.x[2], vcpu.regs.pc) == (5, CODE + 4)
    assert vcpu.run(timeout=LONG) == Mmio(OTHER_DEVICE, 8, is_write=True, value=5)
    vcpu.complete()
    assert vcpu.regs.pc == CODE + 8


# 5.10 finishes an access that was aborted: a register is loaded, and the vector's first instruction skipped.
VECTOR = (NOP, 0xF9000085, SPIN)  # nop; str x5, [x4]; b .


def with_vectors(machine: GuestMachine, *words: int) -> Vcpu:
    """A vCPU whose exceptions store 55 to OTHER_DEVICE."""
    vcpu = machine.vcpu([*words, SPIN])
    machine.write(VECTOR, VECTORS + 0x200)
    vcpu.regs.x[2], vcpu.regs.x[4], vcpu.regs.x[5] = 77, OTHER_DEVICE, 55
    vcpu.set("vbar_el1", VECTORS)
    return vcpu


def test_load_is_aborted(machine: GuestMachine, kvm: Kvm) -> None:
    vcpu = with_vectors(machine, LOADS[4])
    exit = load(vcpu.run(timeout=LONG))
    exit.abort()
    with refused(errors.MmioAnsweredError, errno.EINVAL):
        exit.reply(1)
    assert vcpu.run(timeout=LONG) == Mmio(OTHER_DEVICE, 8, is_write=True, value=55)
    assert (vcpu.get("elr_el1"), vcpu.get("esr_el1") & 0xFC00_003F) == (CODE, 0x9400_0010)
    assert vcpu.regs.x[2] == (77 if release_of(kvm) >= (6, 1) else 0)


def test_store_is_aborted_by_hand(machine: GuestMachine) -> None:
    vcpu = with_vectors(machine, STORES[4])
    assert isinstance(vcpu.run(timeout=LONG), Mmio)
    vcpu.events = VcpuEvents(ext_dabt_pending=True)
    assert vcpu.run(timeout=LONG) == Mmio(OTHER_DEVICE, 8, is_write=True, value=55)
    assert vcpu.get("elr_el1") == CODE


def test_exit_of_a_closed_vcpu_is_not_answered(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(LOAD_FOR_EVER)
    exit = load(vcpu.run(timeout=LONG))
    vcpu.close()
    for answer in (partial(exit.reply, 1), exit.abort):
        with refused(errors.ClosedError, errno.EBADF):
            answer()
    assert vcpu.unanswered is None


# ------------------------------------------------------------------------------------------------ other exits


@pytest.mark.parametrize(
    ("call", "kind"), [(0x8400_0008, SystemEventType.SHUTDOWN), (0x8400_0009, SystemEventType.RESET)]
)
def test_system_event(call: int, kind: SystemEventType, machine: GuestMachine, kvm: Kvm) -> None:
    vcpu = machine.vcpu([HVC, SPIN])
    vcpu.regs.x[0] = call
    exit = vcpu.run(timeout=LONG)
    assert exit == SystemEvent(kind, (0,) if release_of(kvm) >= (5, 19) else ())
    assert vcpu.mp_state == MpState.STOPPED


def test_call_that_is_forwarded_is_answered_in_registers(machine: GuestMachine, kvm: Kvm) -> None:
    if release_of(kvm) < (6, 4):
        pytest.skip("the kernel has no SMCCC filter")
    machine.vm.set_smccc_filter(0xC600_0000, 1, SmcccAction.FORWARD)
    vcpu = machine.vcpu([HVC, STORES[8], SPIN])
    vcpu.regs.x[0] = 0xC600_0000
    exit = vcpu.run(timeout=LONG)
    assert exit == Hypercall(0xC600_0000, 0)
    assert isinstance(exit, Hypercall)
    exit.reply(-1, 2, 3)
    assert list(vcpu.regs.x[:4]) == [2**64 - 1, 2, 3, 0]
    for values in ((1 << 64,), (7, 8, 1 << 64)):
        with pytest.raises(OverflowError):
            exit.reply(*values)
    # None is set where one cannot be.
    assert list(vcpu.regs.x[:4]) == [2**64 - 1, 2, 3, 0]
    assert pickle.loads(pickle.dumps(exit)) == exit
    exit.reply(5, DEVICE)
    assert vcpu.run(timeout=LONG) == Mmio(DEVICE, 8, is_write=True, value=5)
    with refused(errors.MmioAnsweredError, errno.EINVAL, "the vCPU has run on since this call"):
        exit.reply(9)
    assert vcpu.regs.x[0] == 5


@pytest.mark.parametrize("ends", ["kick", "complete", "another call", "close"])
def test_call_is_answered_before_the_next_run(ends: str, machine: GuestMachine, kvm: Kvm) -> None:
    if release_of(kvm) < (6, 4):
        pytest.skip("the kernel has no SMCCC filter")
    machine.vm.set_smccc_filter(0xC600_0000, 1, SmcccAction.FORWARD)
    vcpu = machine.vcpu([HVC, HVC, SPIN])
    vcpu.regs.x[0] = 0xC600_0000
    exit = vcpu.run(timeout=LONG)
    assert isinstance(exit, Hypercall)
    if ends == "kick":
        vcpu.kick()
        assert vcpu.run() == Interrupted(kicked=True)
    elif ends == "complete":
        vcpu.complete()
    elif ends == "another call":
        assert vcpu.run(timeout=LONG) == exit
    else:
        vcpu.close()
    expected = (errors.ClosedError, errno.EBADF) if ends == "close" else (errors.MmioAnsweredError, errno.EINVAL)
    with refused(*expected):
        exit.reply(9)
    assert ends == "close" or vcpu.regs.x[0] == 0xC600_0000


def test_instruction_that_is_not_described(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([LDP, SPIN])
    with refused(errors.InstructionNotDescribedError, errno.ENOSYS, "KVM_CAP_ARM_NISV_TO_USER"):
        vcpu.run(timeout=LONG)
    machine.vm.enable_cap(abi.KVM_CAP_ARM_NISV_TO_USER)
    exit = vcpu.run(timeout=LONG)
    assert isinstance(exit, Nisv)
    assert exit.fault_ipa == DEVICE
    assert vcpu.regs.pc == CODE


def test_an_error_of_a_run_keeps_nothing_mapped(kvm: Kvm) -> None:
    gc.collect()
    gc.disable()
    try:
        with GuestMachine(kvm) as machine:
            vcpu = machine.vcpu([LDP, SPIN])
            with suppress(errors.InstructionNotDescribedError):
                vcpu.run(timeout=LONG)
            running = weakref.ref(vcpu._running)
        del vcpu, machine
        assert running() is None, "the kernel has the VM as long as its run area is mapped"
    finally:
        gc.enable()


def test_a_closed_vcpu_keeps_nothing_mapped(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([STORES[4], SPIN])
    assert isinstance(vcpu.run(timeout=LONG), Mmio)
    assert vcpu._running is not None
    area = weakref.ref(vcpu._running.area)
    vcpu.close()
    assert area() is None, "the kernel has the VM as long as its run area is mapped"
    with refused(errors.ClosedError, errno.EBADF):
        vcpu.run()


def test_debug_exits(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([BRK, SPIN])
    vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.USE_SW_BP)
    exit = vcpu.run(timeout=LONG)
    assert exit == Debug(0xF200_0003, None)
    assert vcpu.regs.pc == CODE
    vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)
    vcpu.regs.pc = CODE + 4
    exit = vcpu.run(timeout=LONG)
    assert isinstance(exit, Debug)
    assert exit.exception_class == 0x32


def test_steps_are_passed_over_where_something_else_is_wanted(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([NOP, NOP, STORES[4], SPIN])
    vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)
    assert isinstance(vcpu.run_until(timeout=LONG), Debug)
    assert isinstance(vcpu.run_until(Mmio, timeout=LONG), Mmio)


# ------------------------------------------------------------------------------------------------ errors


def test_vcpu_that_is_not_initialised(machine: GuestMachine) -> None:
    with machine.vm.create_vcpu(0) as vcpu, refused(errors.VcpuNotInitialisedError, errno.ENOEXEC, "Vcpu.init()"):
        vcpu.run()


def test_vcpu_that_is_closed(machine: GuestMachine) -> None:
    first, second = machine.vcpu([STORES[4], SPIN]), machine.vcpu([SPIN], CODE + 0x100)
    first.run(timeout=LONG)
    first.close()
    second.close()
    for vcpu in (first, second):
        uses = (vcpu.run, partial(vcpu.run, timeout=1), partial(vcpu.run_until, Mmio), vcpu.complete)
        for use in uses:
            with refused(errors.ClosedError, errno.EBADF, "this Vcpu is closed"):
                use()
        vcpu.kick()


def test_memory_that_is_not_mapped(machine: GuestMachine) -> None:
    machine.vm.set_user_memory_region(5, 0x8000_0000, 0x1_0000, 0)
    vcpu = machine.vcpu([LOADS[4], SPIN])
    vcpu.regs.x[1] = 0x8000_0000
    with refused(errors.GuestMemoryGoneError, errno.EFAULT, "keep the memory of a slot mapped"):
        vcpu.run(timeout=LONG)


def test_vgic_that_has_no_address_kills_the_vm_since_6_1(machine: GuestMachine, kvm: Kvm) -> None:
    if not machine.vm.has_device_type("vgic-v3"):
        pytest.skip("the host has no GICv3")
    with machine.vm.create_device("vgic-v3"):
        vcpu, other = machine.vcpu([SPIN]), machine.vcpu([SPIN], CODE + 0x100)
        with refused(errors.VgicNotPlacedError, errno.ENXIO, "has no address"):
            vcpu.run(timeout=LONG)
        if release_of(kvm) >= (6, 1):
            for again in (vcpu, other):
                with refused(errors.VmDeadError, errno.EIO, "has no address"):
                    again.run(timeout=LONG)


# Request -> its use, of a VM, a vCPU and the vGIC.
USES_OF_A_DEAD_VM: dict[str, Callable[[Vm, Vcpu, Device], object]] = {
    "KVM_CHECK_EXTENSION": lambda vm, _vcpu, _vgic: vm.check_extension(abi.KVM_CAP_ARM_VM_IPA_SIZE),
    "KVM_ENABLE_CAP": lambda vm, _vcpu, _vgic: vm.enable_cap(abi.KVM_CAP_ARM_NISV_TO_USER),
    "KVM_CREATE_VCPU": lambda vm, _vcpu, _vgic: vm.create_vcpu(7),
    "KVM_CREATE_DEVICE": lambda vm, _vcpu, _vgic: vm.has_device_type("vfio"),
    "KVM_CREATE_IRQCHIP": lambda vm, _vcpu, _vgic: vm.create_irqchip(),
    "KVM_ARM_SET_DEVICE_ADDR": lambda vm, _vcpu, _vgic: vm.set_device_addr(0, 0),
    "KVM_ARM_PREFERRED_TARGET": lambda vm, _vcpu, _vgic: vm.preferred_target(),
    "KVM_SET_USER_MEMORY_REGION": lambda vm, _vcpu, _vgic: vm.set_user_memory_region(5, 0x8000_0000, 0, 0),
    "KVM_GET_DIRTY_LOG": lambda vm, _vcpu, _vgic: vm.memslots[0].dirty_log(),
    "KVM_CREATE_GUEST_MEMFD": lambda vm, _vcpu, _vgic: vm.create_guest_memfd(0x1_0000),
    "KVM_RESET_DIRTY_RINGS": lambda vm, _vcpu, _vgic: vm.reset_dirty_rings(),
    "KVM_IRQ_LINE": lambda vm, _vcpu, _vgic: vm.irq_line(IrqLine.spi(40), True),
    "KVM_IRQFD": lambda vm, _vcpu, _vgic: vm.add_irqfd(0, 3),
    "KVM_IOEVENTFD": lambda vm, _vcpu, _vgic: vm.add_ioeventfd(0, DEVICE, 4),
    "KVM_SET_GSI_ROUTING": lambda vm, _vcpu, _vgic: vm.set_gsi_routing([]),
    "KVM_SIGNAL_MSI": lambda vm, _vcpu, _vgic: vm.signal_msi(DEVICE, 1),
    "KVM_REGISTER_COALESCED_MMIO": lambda vm, _vcpu, _vgic: vm.add_coalesced_mmio(DEVICE, 8),
    "KVM_ARM_SET_COUNTER_OFFSET": lambda vm, _vcpu, _vgic: vm.set_counter_offset(1),
    "KVM_ARM_MTE_COPY_TAGS": lambda vm, _vcpu, _vgic: vm.read_memory_tags(CODE, 0x1000),
    "KVM_ARM_GET_REG_WRITABLE_MASKS": lambda vm, _vcpu, _vgic: vm.writable_masks(),
    "KVM_GET_STATS_FD of the VM": lambda vm, _vcpu, _vgic: vm.stats(),
    "KVM_GET_STATS_FD": lambda _vm, vcpu, _vgic: vcpu.stats(),
    "KVM_RUN": lambda _vm, vcpu, _vgic: vcpu.run(timeout=LONG),
    "KVM_ARM_VCPU_INIT": lambda _vm, vcpu, _vgic: vcpu.init(target=0),
    "KVM_ARM_VCPU_FINALIZE": lambda _vm, vcpu, _vgic: vcpu.finalize(),
    "KVM_GET_ONE_REG": lambda _vm, vcpu, _vgic: vcpu.regs.pc,
    "KVM_SET_ONE_REG": lambda _vm, vcpu, _vgic: vcpu.set("pc", 0),
    "KVM_GET_REG_LIST": lambda _vm, vcpu, _vgic: vcpu.reg_list(),
    "KVM_GET_MP_STATE": lambda _vm, vcpu, _vgic: vcpu.mp_state,
    "KVM_GET_VCPU_EVENTS": lambda _vm, vcpu, _vgic: vcpu.events,
    "KVM_SET_GUEST_DEBUG": lambda _vm, vcpu, _vgic: vcpu.set_guest_debug(0),
    "KVM_HAS_DEVICE_ATTR": lambda _vm, vcpu, _vgic: vcpu.has_attr(0, 0),
    "KVM_GET_DEVICE_ATTR": lambda _vm, _vcpu, vgic: vgic.get_attr(0, 2),
    "KVM_SET_DEVICE_ATTR": lambda _vm, _vcpu, vgic: vgic.set_attr(0, 2, 0x800_0000),
}


def test_dead_vm_is_named_by_all_that_is_asked_of_it(machine: GuestMachine, kvm: Kvm) -> None:
    if not machine.vm.has_device_type("vgic-v3"):
        pytest.skip("the host has no GICv3")
    with machine.vm.create_device("vgic-v3") as vgic:
        vcpu = machine.vcpu([SPIN])
        with pytest.raises(errors.VgicNotPlacedError):
            vcpu.run(timeout=LONG)
        assert (vgic.died_of is not None) == (machine.vm.died_of is not None) == (release_of(kvm) >= (6, 1))
        for name, use in USES_OF_A_DEAD_VM.items() if machine.vm.died_of else ():
            with refused(errors.VmDeadError, errno.EIO, "the VM is dead", "has no address", name.partition(" ")[0]):
                use(machine.vm, vcpu, vgic)


@pytest.mark.emulated
def test_dead_vm_is_named_by_what_only_the_emulation_has(machine: GuestMachine) -> None:
    with machine.vm.create_device("vgic-v3"):
        with pytest.raises(errors.VgicNotPlacedError):
            machine.vcpu([SPIN]).run(timeout=LONG)
        with pytest.raises(errors.VmDeadError) as caught:
            machine.vm.access(0)
        assert caught.value.asked == "Vm.access()"
        with pytest.raises(errors.VmDeadError) as caught:
            _ = machine.vm.stage2
        assert caught.value.asked == "Vm.stage2"


@pytest.mark.parametrize(("host", "dies"), [("qemu-max-5.10-4k", False), ("qemu-max-6.1-4k", True)])
def test_failed_first_run_kills_no_vm_before_6_1(host: str, dies: bool) -> None:
    require_engine()
    with kvmipa.open("emulated", host=host) as kvm, GuestMachine(kvm) as machine:
        with machine.vm.create_device("vgic-v3") as vgic, pytest.raises(errors.VgicNotPlacedError):
            machine.vcpu([SPIN]).run(timeout=LONG)
        assert [one.died_of is not None for one in (machine.vm, *machine.vcpus)] == [dies] * 2
        assert vgic.closed


def test_vgic_that_is_not_initialised(machine: GuestMachine) -> None:
    if not machine.vm.has_device_type("vgic-v3"):
        pytest.skip("the host has no GICv3")
    with machine.vm.create_device("vgic-v3") as vgic:
        vgic.set_attr(0, 2, 0x800_0000)
        vgic.set_attr(0, 5, 0x900_0000 | 8 << 52)
        vcpu = machine.vcpu([SPIN])
        with refused(errors.VgicNotInitialisedError, errno.EBUSY, "Vgic.init()"):
            vcpu.run(timeout=LONG)


def test_sve_that_is_not_finalised(machine: GuestMachine) -> None:
    if not machine.vm.check_extension(abi.KVM_CAP_ARM_SVE):
        pytest.skip("the host has no SVE")
    with machine.vm.create_vcpu(0) as vcpu:
        vcpu.init(VcpuFeature.PSCI_0_2 | VcpuFeature.SVE)
        with refused(errors.SveNotFinalisedError, errno.EPERM, "finalize()"):
            vcpu.run()


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_timeout_that_is_none(timeout: float, machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    for use in (vcpu.run, vcpu.run_until):
        with pytest.raises(ValueError, match="number of seconds, from 0 on"):
            use(timeout=timeout)


# ------------------------------------------------------------------------------------------------ time and signals


@pytest.mark.parametrize("instruction", [SPIN, WFI])
def test_timeout_ends_a_guest_that_does_not_exit(instruction: int, machine: GuestMachine) -> None:
    vcpu = machine.vcpu([instruction, BACK[1]])
    # The emulated CPU may have a thread that the process keeps.
    vcpu.run(timeout=0.01)
    threads = threading.active_count()
    start = time.monotonic()
    assert vcpu.run(timeout=0.2) == Interrupted(timed_out=True)
    assert time.monotonic() - start >= 0.2
    assert vcpu.run_until(timeout=0.1) == Interrupted(timed_out=True)
    assert threading.active_count() <= threads


def test_timeout_of_zero_finishes_the_exit_and_enters_no_guest(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(STORE_AND_LOAD)
    assert isinstance(vcpu.run(timeout=LONG), Mmio)
    assert vcpu.run(timeout=0) == Interrupted(timed_out=True)
    assert vcpu.regs.pc == CODE + 4
    assert isinstance(vcpu.run(timeout=LONG), Mmio)


def test_timeout_that_is_not_reached_leaves_nothing_behind(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([STORES[4], BACK[1]])
    vcpu.run(timeout=LONG)
    threads = threading.active_count()
    for timeout in [0.0001] * 30 + [10.0] * 5 + [float("inf")]:
        exit = vcpu.run(timeout=timeout)
        assert isinstance(exit, Mmio) or exit == Interrupted(timed_out=True)
        assert isinstance(vcpu.run(), Mmio)
    assert threading.active_count() <= threads


def test_timeout_ends_a_guest_whose_devices_keep_it_busy(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(STORE_AND_LOAD)
    bus = MmioBus()
    bus.add(DEVICE, 4, Memory())
    assert vcpu.run_until(bus=bus, timeout=0.2) == Interrupted(timed_out=True)


class ComeBackError(Exception):
    """What a signal handler raises."""


def test_signal_handler_of_python_runs(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    called = []
    with signals(lambda *_: called.append(1)):
        assert vcpu.run(timeout=LONG) == Interrupted()
    assert called == [1]


def test_signals_do_not_end_run_until_unless_they_are_wanted(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    called = []
    with signals(lambda *_: called.append(1), interval=0.02):
        assert vcpu.run_until(timeout=0.5) == Interrupted(timed_out=True)
        assert len(called) > 1
        assert vcpu.run_until(Interrupted, timeout=LONG) == Interrupted()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ComeBackError])
def test_signal_handler_that_raises_ends_the_run(error: type[BaseException], machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])

    def raise_it(*_arguments: object) -> None:
        raise error

    for run in (vcpu.run, partial(vcpu.run, timeout=LONG), partial(vcpu.run_until, timeout=LONG)):
        with signals(raise_it), pytest.raises(error):
            run()
    # Nothing is left of it.
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)
    in_another: list[Exit] = []
    thread = threading.Thread(target=lambda: in_another.append(vcpu.run(timeout=0.05)))
    thread.start()
    thread.join(LONG)
    assert in_another == [Interrupted(timed_out=True)]


def come_back(*_arguments: object) -> None:
    """A signal handler."""
    raise ComeBackError


class Stores:
    """A guest that stores 1, 2, 3, ... and what is made of it, where signals interrupt at any time."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.exit: Exit | None = None

    def take(self) -> None:
        """Look at an exit once; what is interrupted is done again."""
        if isinstance(self.exit, Mmio) and self.exit.value not in self.stored[-1:]:
            self.stored.append(self.exit.value)
        self.exit = None


@pytest.mark.parametrize("until", [False, True])
def test_exit_that_comes_with_a_signal_that_raises_is_not_lost(until: bool, machine: GuestMachine) -> None:
    vcpu = machine.vcpu([0x91000442, 0xF9000022, BACK[2]])  # add x2, x2, #1; str x2, [x1]
    vcpu.regs.x[2] = 0
    run = vcpu.run_until if until else vcpu.run
    seen = Stores()
    # What is imported with the first run cannot be interrupted so.
    seen.exit = run(timeout=LONG)
    seen.take()
    moments = random.Random(4)
    sent = raised = 0
    deadline = time.monotonic() + 2
    with signals(come_back, interval=0.0):
        while time.monotonic() < deadline:
            sent += 1
            try:
                # One at a time: a signal while another's exception is on its way is more than is promised.
                signal.setitimer(signal.ITIMER_REAL, 0.002 + moments.random() * 0.006)
                while time.monotonic() < deadline:
                    if seen.exit is None:
                        seen.exit = run()
                    seen.take()
            except ComeBackError:
                raised += 1
    seen.take()
    assert sent - 1 <= raised <= sent
    assert raised > 10
    assert seen.stored == list(range(1, len(seen.stored) + 1))
    assert len(seen.stored) > 10


class signals:
    """Send this thread a signal after a while, or again and again, whose handler this is."""

    def __init__(self, function: Callable[..., None], interval: float = 0.0) -> None:
        self.function, self.interval = function, interval

    def __enter__(self) -> None:
        self.old = signal.signal(signal.SIGALRM, self.function)
        signal.setitimer(signal.ITIMER_REAL, self.interval or 0.1, self.interval)

    def __exit__(self, *_raised: object) -> None:
        while True:
            try:
                signal.signal(signal.SIGALRM, signal.SIG_IGN)
                break
            except (ComeBackError, KeyboardInterrupt):
                continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.old)


# ------------------------------------------------------------------------------------------------ devices


class Memory:
    """A device that loads what was stored."""

    def __init__(self) -> None:
        self.content: dict[int, int] = {}
        self.accesses: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.accesses.append((offset, size))
        return self.content.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append((offset, size, value))
        self.content[offset] = value


def test_devices_answer(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([STORES[4], LOADS[4], STORE_X2, HVC, SPIN])
    vcpu.regs.x[0], vcpu.regs.x[1], vcpu.regs.x[4] = 0x8400_0008, DEVICE + 8, OTHER_DEVICE
    bus, first, second = MmioBus(), Memory(), Memory()
    bus.add(DEVICE, 0x1000, first)
    bus.add(OTHER_DEVICE, 0x1000, second)
    exit = vcpu.run_until(SystemEvent, bus=bus, timeout=LONG)
    assert isinstance(exit, SystemEvent)
    assert first.accesses == [(8, 4, 0x8400_0008), (8, 4)]
    assert second.accesses == [(0, 8, 0x8400_0008)]


def test_access_that_no_device_takes_is_returned(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([STORES[8], LOADS[8], HVC, SPIN])
    bus, device = MmioBus(), Memory()
    bus.add(DEVICE + 8, 0x100, device)
    # Not all of it is the device's.
    vcpu.regs.x[1] = DEVICE + 4
    assert vcpu.run_until(bus=bus, timeout=LONG) == Mmio(DEVICE + 4, 8, is_write=True, value=0)
    exit = load(vcpu.run_until(bus=bus, timeout=LONG))
    vcpu.regs.x[0] = 0x8400_0008
    exit.reply(0)
    assert isinstance(vcpu.run_until(bus=bus, timeout=LONG), SystemEvent)
    assert device.accesses == []


def test_ranges_change_while_the_guest_runs(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(STORE_AND_LOAD)
    bus = MmioBus()

    class Leaving(Memory):
        """A device that is replaced after its third access."""

        def write(self, offset: int, size: int, value: int) -> None:
            super().write(offset, size, value)
            if len(self.accesses) == 3:
                bus.remove(DEVICE)
                bus.add(DEVICE - 8, 12, last)

    class Ending(Memory):
        """A device that goes away at its second access, and leaves nothing."""

        def write(self, offset: int, size: int, value: int) -> None:
            super().write(offset, size, value)
            bus.remove(DEVICE - 8)

    first, last = Leaving(), Ending()
    bus.add(DEVICE, 4, first)
    vcpu.regs.x[0] = 5
    assert load(vcpu.run_until(bus=bus, timeout=LONG)) == Mmio(DEVICE, 4)
    assert first.accesses == [(0, 4, 5), (0, 4), (0, 4, 5)]
    # Its load found the new device, whose store took that away.
    assert last.accesses == [(8, 4), (8, 4, 5)]


def test_what_is_wanted_ends_it_before_a_device_sees_it(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(STORE_AND_LOAD)
    bus, device = MmioBus(), Memory()
    bus.add(DEVICE, 0x100, device)
    seen: list[Exit] = []

    def third(exit: Exit) -> bool:
        seen.append(exit)
        return len(seen) == 3

    assert isinstance(vcpu.run_until(third, bus=bus, timeout=LONG), Mmio)
    assert len(device.accesses) == 2
    load(vcpu.run_until(Mmio, bus=bus, timeout=LONG)).reply(0)
    assert len(device.accesses) == 2
    for wanted in (3, int, "Mmio", Mmio(1, 1)):
        with pytest.raises(TypeError, match="neither a type of exits nor a function"):
            vcpu.run_until(wanted, bus=bus)  # type: ignore[arg-type]


class Broken(Memory):
    """A device that reads what it is told to."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def read(self, offset: int, size: int) -> int:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize("answer", [-1, 1 << 32, 1.0, None, "1"])
def test_device_that_reads_what_is_no_answer(answer: object, machine: GuestMachine) -> None:
    vcpu = machine.vcpu([LOADS[4], STORE_X2, SPIN])
    vcpu.regs.x[4] = OTHER_DEVICE
    bus = MmioBus()
    bus.add(DEVICE, 0x100, Broken(answer))
    with refused(errors.MmioDeviceError, errno.EINVAL, "0 to 0xffffffff", "Broken.read"):
        vcpu.run_until(bus=bus, timeout=LONG)
    assert_answered_by_hand(vcpu)


def test_device_that_raises(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([LOADS[4], STORE_X2, SPIN])
    vcpu.regs.x[4] = OTHER_DEVICE
    bus = MmioBus()
    bus.add(DEVICE, 0x100, Broken(ComeBackError()))
    with pytest.raises(ComeBackError):
        vcpu.run_until(bus=bus, timeout=LONG)
    assert_answered_by_hand(vcpu)


def assert_answered_by_hand(vcpu: Vcpu) -> None:
    """Nothing is lost where a device failed."""
    assert vcpu.unanswered == Mmio(DEVICE, 4)
    vcpu.unanswered.reply(9)
    assert vcpu.run(timeout=LONG) == Mmio(OTHER_DEVICE, 8, is_write=True, value=9)
