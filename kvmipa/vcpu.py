# SPDX-License-Identifier: Apache-2.0
"""Vcpu: the descriptor of one virtual CPU."""

from __future__ import annotations

import os
from contextlib import suppress
from enum import IntFlag
from struct import Struct
from threading import RLock
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.device import AttributeHandle
from kvmipa.errors import ClosedError
from kvmipa.packing import PackedStruct
from kvmipa.registers import Reg
from kvmipa.vcpu_registers import OneRegister, Registers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kvmipa.backend import Backend
    from kvmipa.coalesced_mmio import CoalescedWrite
    from kvmipa.dirty_ring import DirtyRing
    from kvmipa.errors import KvmError
    from kvmipa.exits import Exit, Mmio
    from kvmipa.mmio_bus import MmioBus
    from kvmipa.running import Running
    from kvmipa.statistics import Statistic, StatisticsFile
    from kvmipa.vcpu_state import MpState, VcpuEvents
    from kvmipa.vm import Vm

_INIT: Final = PackedStruct("vcpu_init")
_FEATURE_NUMBER: Final = Struct("=i")

# Held where a descriptor is mapped for the first time: two threads may be the first, and another may close it. No
# signal handler waits for its own thread, and a child of fork() has it free.
_MAPPING: Final = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_MAPPING.acquire, after_in_parent=_MAPPING.release, after_in_child=_MAPPING.release)


class VcpuFeature(IntFlag):
    """What KVM_ARM_VCPU_INIT can be asked for: the first of its seven words of features, the others have none.

    HAS_EL2, HAS_EL2_E2H0 and PMU_V3_STRICT are of Linux 7.3.

    >>> hex(VcpuFeature.PSCI_0_2 | VcpuFeature.SVE)
    '0x14'
    """

    POWER_OFF = 1 << abi.KVM_ARM_VCPU_POWER_OFF
    EL1_32BIT = 1 << abi.KVM_ARM_VCPU_EL1_32BIT
    PSCI_0_2 = 1 << abi.KVM_ARM_VCPU_PSCI_0_2
    PMU_V3 = 1 << abi.KVM_ARM_VCPU_PMU_V3
    SVE = 1 << abi.KVM_ARM_VCPU_SVE
    PTRAUTH_ADDRESS = 1 << abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS
    PTRAUTH_GENERIC = 1 << abi.KVM_ARM_VCPU_PTRAUTH_GENERIC
    HAS_EL2 = 1 << abi.KVM_ARM_VCPU_HAS_EL2
    HAS_EL2_E2H0 = 1 << abi.KVM_ARM_VCPU_HAS_EL2_E2H0
    PMU_V3_STRICT = 1 << abi.KVM_ARM_VCPU_PMU_V3_STRICT


def _number_of(feature: VcpuFeature) -> int:
    """The number that KVM has for one feature: which bit it is."""
    if not isinstance(feature, VcpuFeature):
        raise TypeError(f"a feature is a VcpuFeature, not {type(feature).__name__}")
    if int(feature).bit_count() != 1:
        raise ValueError(f"{feature!r} is not one feature")
    return feature.bit_length() - 1


class Vcpu(AttributeHandle):
    """A virtual CPU; made by Vm.create_vcpu().

    It keeps working when the Vm that made it is closed. vcpu_id: what Vm.create_vcpu() was given.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
    ...     vcpu.init()
    ...     vcpu.get_attr(1, 0, 4)
    27
    """

    kind = "Vcpu"

    # Mapped when somebody looks at them.
    _coalesced: memoryview | None = None
    _dirty_ring: DirtyRing | None = None
    _running: Running | None = None

    def __init__(self, backend: Backend, fd: int, vm: Vm, vcpu_id: int, target: int | None) -> None:
        super().__init__(backend, fd)
        self._vm = vm
        self.vcpu_id = vcpu_id
        self._target = target
        self._features: int | None = None
        self._one_register = OneRegister(backend.ioctl)

    def init(self, features: int = VcpuFeature.PSCI_0_2, target: int | None = None) -> None:
        """KVM_ARM_VCPU_INIT: give the vCPU its features and its registers their first values; again resets it.

        features: VcpuFeature members, or-ed; since 6.12 all vCPUs of a VM have the same (POWER_OFF aside).
        target: the CPU's number, None for the one that the Vm names (KVM_ARM_PREFERRED_TARGET).

        Raises VcpuFeatureError, VcpuTargetError; TypeError, OverflowError for what does not fit 32 bits; ClosedError,
        OtherProcessError.
        """
        chosen = self._preferred_target() if target is None else target
        result = self._backend.ioctl_buffer(self._fd, abi.KVM_ARM_VCPU_INIT, _INIT.pack(chosen, features))
        if result < 0:
            from kvmipa.causes.vcpus import InitAttempt

            ask = None if self._vm.closed else self._vm.check_extension
            raise self.refused(InitAttempt(features, chosen, self._target, ask).error(-result))
        self._features = features

    def _preferred_target(self) -> int:
        # Where the VM named none when the vCPU was made, it is asked again, and says why.
        return self._vm.preferred_target() if self._target is None else self._target

    # -------------------------------------------------------------------------------------------- registers

    @property
    def regs(self) -> Registers:
        """Its registers as attributes: regs.pc, regs.x[0], regs.sctlr_el1; they can be read and assigned to."""
        return Registers(self)

    def get(self, register: Reg | int | str) -> int:
        """KVM_GET_ONE_REG: a register's value. register: one of Reg, an id, or a name.

        While the vCPU runs in another thread, this waits until it does not. Raises NoSuchRegisterError,
        RegisterIdError, VcpuNotInitialisedError, SveNotFinalisedError; ValueError for a name that is none, TypeError,
        OverflowError for what is no id; ClosedError, OtherProcessError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     vcpu.init()
        ...     hex(vcpu.get(kvmipa.Reg.PSTATE)), hex(vcpu.get("mpidr_el1"))
        ('0x3c5', '0x80000000')
        """
        reg = register if type(register) is Reg else Reg.of(register)
        value = self._one_register.get(self._fd, reg)
        if value < 0:
            raise self._register_error(-value, reg, None)
        return value

    def set(self, register: Reg | int | str, value: int) -> None:
        """KVM_SET_ONE_REG: change a register. register: as for get(); value: without a sign.

        Raises TypeError, OverflowError for a value that is no int or does not fit the register; RegisterValueError,
        InvariantRegisterError, RegisterFrozenError, SveFinalisedError, and what get() does.
        """
        reg = register if type(register) is Reg else Reg.of(register)
        result = self._one_register.set(self._fd, reg, value)
        if result < 0:
            raise self._register_error(-result, reg, value)

    def reg_list(self) -> list[Reg]:
        """KVM_GET_REG_LIST: the registers that it has, in the kernel's order.

        Raises VcpuNotInitialisedError, SveNotFinalisedError; ClosedError, OtherProcessError.
        """
        from kvmipa.vcpu_state import get_reg_list

        found = get_reg_list(self._backend, self._fd)
        if isinstance(found, int):
            from kvmipa.causes.vcpu_registers import reg_list_error

            raise self.refused(reg_list_error(-found))
        return [Reg(register) for register in found]

    def finalize(self, feature: VcpuFeature = VcpuFeature.SVE) -> None:
        """KVM_ARM_VCPU_FINALIZE: from now on SVE's vector lengths (Reg.SVE_VLS) stay, and its registers are there.

        Raises VcpuFeatureError for a feature that is not to be finalised or that the vCPU lacks, SveFinalisedError the
        second time, VcpuNotInitialisedError; TypeError for what is no VcpuFeature, ValueError for none or several;
        ClosedError, OtherProcessError.
        """
        number = _number_of(feature)
        buffer = bytearray(_FEATURE_NUMBER.pack(number))
        result = self._backend.ioctl_buffer(self._fd, abi.KVM_ARM_VCPU_FINALIZE, buffer)
        if result < 0:
            from kvmipa.causes.vcpu_registers import finalize_error

            raise self.refused(finalize_error(-result, number))

    def _register_error(self, code: int, reg: Reg, value: int | None) -> KvmError:
        from kvmipa.causes.vcpu_registers import RegisterAttempt, release_of

        attempt = RegisterAttempt(reg, value, self._features, release_of(self._backend.profile))
        return self.refused(attempt.error(code))

    # -------------------------------------------------------------------------------------------- state

    @property
    def mp_state(self) -> MpState:
        """Whether it runs when it is asked to (KVM_GET_MP_STATE); it can be assigned to (KVM_SET_MP_STATE).

        Raises MpStateError for a state that this kernel does not have; ClosedError, OtherProcessError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     vcpu.init()
        ...     vcpu.mp_state = kvmipa.MpState.STOPPED
        ...     vcpu.mp_state.name
        'STOPPED'
        """
        from kvmipa.vcpu_state import MpState, get_mp_state

        found = get_mp_state(self._backend, self._fd)
        if found < 0:
            raise self._state_error(-found, abi.KVM_GET_MP_STATE, "whether the vCPU runs")
        return MpState(found)

    @mp_state.setter
    def mp_state(self, state: int) -> None:
        from kvmipa.vcpu_state import set_mp_state

        result = set_mp_state(self._backend, self._fd, state)
        if result < 0:
            raise self._state_error(-result, abi.KVM_SET_MP_STATE, f"state {int(state)}", int(state))

    @property
    def events(self) -> VcpuEvents:
        """What the guest takes as soon as it runs (KVM_GET_VCPU_EVENTS); it can be assigned to (KVM_SET_VCPU_EVENTS).

        Raises VcpuEventsError, VcpuNotInitialisedError (not before late 6.1); TypeError, OverflowError; ClosedError,
        OtherProcessError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     vcpu.init()
        ...     vcpu.events = kvmipa.VcpuEvents(serror_pending=True)
        ...     vcpu.events.serror_pending
        True
        """
        from kvmipa.vcpu_state import get_events

        found = get_events(self._backend, self._fd)
        if isinstance(found, int):
            raise self._state_error(-found, abi.KVM_GET_VCPU_EVENTS, "the vCPU's pending events")
        return found

    @events.setter
    def events(self, events: VcpuEvents) -> None:
        from kvmipa.vcpu_state import set_events

        result = set_events(self._backend, self._fd, events)
        if result < 0:
            from kvmipa.causes.vcpu_state import events_error

            raise self.refused(events_error(-result, events))

    def set_guest_debug(
        self,
        control: int,
        *,
        bcr: Sequence[int] = (),
        bvr: Sequence[int] = (),
        wcr: Sequence[int] = (),
        wvr: Sequence[int] = (),
    ) -> None:
        """KVM_SET_GUEST_DEBUG: how the guest is debugged. control: members of GuestDebug, or-ed; 0: not at all.

        bcr, bvr, wcr, wvr: DBGBCRn_EL1 and so on, up to 16 each, for GuestDebug.USE_HW. Raises GuestDebugError for
        other flags, ValueError for more registers; TypeError, OverflowError; ClosedError, OtherProcessError.
        """
        from kvmipa.vcpu_state import set_guest_debug

        registers = {"bcr": bcr, "bvr": bvr, "wcr": wcr, "wvr": wvr}
        result = set_guest_debug(self._backend, self._fd, control, registers)
        if result < 0:
            raise self._state_error(-result, abi.KVM_SET_GUEST_DEBUG, f"control {int(control):#x}")

    def set_signal_mask(self, signals: Iterable[int] | None) -> None:
        """KVM_SET_SIGNAL_MASK: the signals that are blocked while the vCPU runs, instead of the thread's; None: these.

        Raises ValueError for what is not from 1 to 64; ClosedError, OtherProcessError.
        """
        from kvmipa.vcpu_state import set_signal_mask

        result = set_signal_mask(self._backend, self._fd, signals)
        if result < 0:
            raise self._state_error(-result, abi.KVM_SET_SIGNAL_MASK, "other signals")

    def _state_error(self, code: int, request: int, asked: str, argument: int | None = None) -> KvmError:
        from kvmipa.causes.vcpu_state import state_error

        return self.refused(state_error(code, request, asked, argument))

    # -------------------------------------------------------------------------------------------- running

    def run(self, *, timeout: float | None = None) -> Exit:
        """KVM_RUN: run the guest until something has to be done for it; what that is, is a class of kvmipa.exits.

        timeout: seconds, after which it is Interrupted(timed_out=True); 0 enters the guest not at all. A signal for the
        thread ends it as Interrupted(); its Python handler has run then, and where that raises an exception, as
        KeyboardInterrupt, run() does. An exit that came at the same time is what the next run() returns. Other threads
        of Python run while the guest does.

        Raises VcpuBusyError while another thread runs it; MmioNotAnsweredError where the last exit was a load that was
        not answered; VcpuNotInitialisedError, SveNotFinalisedError; InstructionNotDescribedError, GuestMemoryGoneError,
        IllegalGuestStateError; of the VM's first run FirstRunError, VgicNotPlacedError, VgicNotInitialisedError, which
        since Linux 6.1 kill the VM, and VmDeadError then; ValueError for a timeout that is none; ClosedError also where
        it is closed meanwhile; OtherProcessError. Source: kernel-device-spec 4.4.
        """
        running = self._running or self._start_running()
        if timeout is None:
            return running.run()
        return running.within(timeout, running.run)

    def run_until(
        self,
        *wanted: type[Exit] | Callable[[Exit], bool],
        bus: MmioBus | None = None,
        timeout: float | None = None,
    ) -> Exit:
        """Run the guest, have the devices of ``bus`` answer it, and return the first exit that is left.

        wanted: types of exits, or functions of one that say whether it ends this; it ends it before a device sees it.
        What is not wanted ends it as well, unless it can go on by itself: accesses that a device took, signals for the
        thread, and, where something is wanted, single steps. An access that no device takes is returned, as is what
        kick() and timeout (seconds for the whole) make, Interrupted.

        Raises what run() does; what a device raises, after which Vcpu.unanswered is the load that it was asked for;
        MmioDeviceError for what it returns, where that is no number of so many bytes; TypeError for what cannot be
        wanted.
        """
        from kvmipa.running import condition

        wants = condition(wanted)
        running = self._running or self._start_running()
        if timeout is None:
            return running.run_until(wants, bus)
        return running.within(timeout, lambda deadline: running.run_until(wants, bus, deadline))

    def kick(self) -> None:
        """End the KVM_RUN that a thread is in, or the next one, as Interrupted(kicked=True); from any thread.

        Several kicks before that are one. It is a signal (kvmipa.kick_signal) to the thread, if there is one. A thread
        that runs a vCPU for the first time unblocks it; one that blocks it again, or a vCPU whose set_signal_mask() has
        it, is not kicked before its next exit. A closed vCPU is not kicked, nor is another process's.

        Raises KickSignalError where the process ignores the signal, or has no room for it.
        """
        with suppress(ClosedError):
            (self._running or self._start_running()).kick()

    def complete(self) -> None:
        """Have KVM finish the last exit without running on: registers are then as after the guest's access.

        Until the next run() the kernel has neither a load's reply nor the address of the next instruction. Raises what
        run() does.
        """
        (self._running or self._start_running()).complete()

    @property
    def unanswered(self) -> Mmio | None:
        """The guest's load that waits for reply() or abort(): the last exit, if it is one."""
        return None if self._running is None else self._running.open_load

    def _start_running(self) -> Running:
        from kvmipa.running import start

        with _MAPPING:
            if self._running is None:
                self._running = start(self, self._backend, self.fileno(), self._vm)
                self._require_mapped()
            return self._running

    def _require_mapped(self) -> None:
        """ClosedError where a signal handler closed it meanwhile: what was mapped may be another's, or nobody's."""
        if self.closed:
            self._before_close()
        self.fileno()

    def _before_close(self) -> None:
        with _MAPPING:
            # The kernel keeps the VM as long as they are mapped.
            running, ring = self._running, self._dirty_ring
            self._coalesced = self._dirty_ring = None
        if running is not None:
            running.stop()
        if ring is not None:
            ring.let_go()

    # -------------------------------------------------------------------------------------------- attributes

    def set_pvtime_ipa(self, address: int) -> None:
        """Where the guest reads how long it did not run: a guest address of 64 bytes, on a boundary of 64.

        It has to be in a slot that is not read-only, and stays. Raises MisalignedDeviceAddressError,
        AddressAlreadySetError, NoMemoryThereError; NoSuchAttributeError where the host does not count that.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     slot = vm.add_memory(0x4000_0000, kvmipa.GuestMemory(1 << 16))
        ...     vcpu.set_pvtime_ipa(0x4000_0040)
        """
        self.set_attr(abi.KVM_ARM_VCPU_PVTIME_CTRL, abi.KVM_ARM_VCPU_PVTIME_IPA, address)

    def coalesced_writes(self) -> list[CoalescedWrite]:
        """The guest's writes that KVM collected (Vm.add_coalesced_mmio()), oldest first; it no longer has them then.

        They are the whole VM's, whichever vCPU is asked, in the order in which they were made. Raises
        CoalescedMmioError where the ring cannot be mapped; ClosedError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     vm.add_coalesced_mmio(0x900_0000, 0x1000)
        ...     vcpu.coalesced_writes()
        []
        """
        from kvmipa import coalesced_mmio

        ring = self._coalesced
        if ring is None:
            with _MAPPING:
                ring = self._coalesced = coalesced_mmio.map_ring(self._backend, self.fileno(), self._vm.page_size)
                self._require_mapped()
        return coalesced_mmio.drain(ring)

    @property
    def dirty_ring(self) -> DirtyRing:
        """The pages that this vCPU wrote (Vm.enable_dirty_ring()).

        Raises DirtyRingOffError where the VM has none; ClosedError.
        """
        from kvmipa import dirty_ring

        ring = self._dirty_ring
        if ring is None:
            with _MAPPING:
                ring = self._dirty_ring
                if ring is None:
                    ring = self._dirty_ring = dirty_ring.map_ring(self._backend, self.fileno(), self._vm)
                    self._require_mapped()
        return ring

    def open_stats(self) -> StatisticsFile:
        """What KVM counts of this vCPU, to be read again and again: KVM_GET_STATS_FD (Linux 5.14).

        Raises NotSupportedError before that; StatisticsError; ClosedError, OtherProcessError.
        """
        from kvmipa.statistics import open_statistics

        return open_statistics(self._backend, self._fd, "Vcpu", self._held)

    def stats(self) -> dict[str, Statistic]:
        """What KVM has counted of this vCPU so far, by name; raises as open_stats().

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     vcpu.stats()["exits"].value
        0
        """
        with self.open_stats() as file:
            return file.read()

    def _attribute_error(self, code: int, request: int, group: int, attr: int, value: int | None) -> KvmError:
        from kvmipa.causes.vcpu_attributes import VcpuAttempt

        return VcpuAttempt(request, group, attr, value, self.closed).error(code)

    def __repr__(self) -> str:
        """Backend, id and state."""
        state = "closed" if self.closed else f"fd={self._fd}"
        return f"<kvmipa.Vcpu {self.backend} id={self.vcpu_id} {state}>"
