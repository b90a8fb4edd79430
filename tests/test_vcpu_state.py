# SPDX-License-Identifier: Apache-2.0
"""What a vCPU is besides its registers, on either kernel (kernel-device-spec 4.3, 4.6)."""

from __future__ import annotations

import dataclasses
import errno
import signal
import struct
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import GuestDebug, MpState, VcpuEvents, abi, errors
from kvmipa.vcpu import Vcpu, VcpuFeature
from tests.device_asking import point_release_of, release_of
from tests.test_device import refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm, Vm


@pytest.fixture
def vcpu(vm: Vm) -> Iterator[Vcpu]:
    """A vCPU that is initialised, without features but PSCI."""
    with vm.create_vcpu(0) as created:
        created.init()
        yield created


class Recording:
    """A backend that keeps the struct that it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bytes]] = []

    def ioctl_buffer(self, _fd: int, request: int, buffer: bytearray) -> int:
        self.asked.append((request, bytes(buffer)))
        return 0

    def ioctl(self, _fd: int, request: int, argument: int) -> int:
        self.asked.append((request, argument.to_bytes(8, "little")))
        return 0


@pytest.fixture
def recorded(vcpu: Vcpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, bytes]]]:
    """What the vCPU's requests send."""
    recording = Recording()
    with monkeypatch.context() as patch:
        patch.setattr(vcpu, "_backend", recording)
        yield recording.asked


# ------------------------------------------------------------------------------------------------ whether it runs


def test_state_is_what_init_and_the_caller_make_it(vm: Vm) -> None:
    with vm.create_vcpu(0) as vcpu:
        vcpu.init(VcpuFeature.PSCI_0_2 | VcpuFeature.POWER_OFF)
        assert vcpu.mp_state is MpState.STOPPED
        vcpu.mp_state = MpState.RUNNABLE
        assert vcpu.mp_state is MpState.RUNNABLE


def test_suspended_came_after_5_10(kvm: Kvm, vcpu: Vcpu) -> None:
    if release_of(kvm) >= (6, 1):
        vcpu.mp_state = MpState.SUSPENDED
        assert vcpu.mp_state is MpState.SUSPENDED
    else:
        with refused(errors.MpStateError, errno.EINVAL, "SUSPENDED since Linux 6.1", "state 10"):
            vcpu.mp_state = MpState.SUSPENDED


@pytest.mark.parametrize("state", [1, 4, 0xFFFF_FFFF])
def test_state_that_arm64_does_not_have(vcpu: Vcpu, state: Any) -> None:
    with refused(errors.MpStateError, errno.EINVAL, "KVM_SET_MP_STATE", f"state {state}", "use one of kvmipa.MpState"):
        vcpu.mp_state = state
    assert vcpu.mp_state is MpState.RUNNABLE


def test_state_that_is_no_number_of_32_bits(vcpu: Vcpu) -> None:
    bad: Any
    for bad in (-1, 1 << 32):
        with pytest.raises(OverflowError, match=f"mp_state={bad}"):
            vcpu.mp_state = bad
    for bad in (None, "stopped"):
        with pytest.raises(TypeError, match="mp_state is an int"):
            vcpu.mp_state = bad


# ------------------------------------------------------------------------------------------------ events


def has_ras(vm: Vm) -> bool:
    return vm.check_extension(abi.KVM_CAP_ARM_INJECT_SERROR_ESR) > 0


def test_events_are_what_was_made_pending(vm: Vm, vcpu: Vcpu) -> None:
    # That an SError has a syndrome is said of the host, also where none is pending.
    assert vcpu.events == VcpuEvents(serror_has_esr=has_ras(vm))
    vcpu.events = VcpuEvents(serror_pending=True)
    assert vcpu.events.serror_pending
    # Only the guest can make it go away.
    vcpu.events = VcpuEvents()
    assert vcpu.events.serror_pending


def test_syndrome_of_an_serror_needs_ras(vm: Vm, vcpu: Vcpu) -> None:
    wanted = VcpuEvents(serror_pending=True, serror_has_esr=True, serror_esr=0x11)
    if has_ras(vm):
        vcpu.events = wanted
        assert vcpu.events == wanted
        with refused(errors.VcpuEventsError, errno.EINVAL, "has 25 bits", "0 to 0x1ffffff"):
            vcpu.events = dataclasses.replace(wanted, serror_esr=1 << 25)
    else:
        with refused(errors.VcpuEventsError, errno.EINVAL, "no RAS", "KVM_CAP_ARM_INJECT_SERROR_ESR"):
            vcpu.events = wanted


def test_external_abort_is_taken_at_once(vcpu: Vcpu) -> None:
    vcpu.events = VcpuEvents(ext_dabt_pending=True)
    assert not vcpu.events.ext_dabt_pending


def test_events_before_init(kvm: Kvm, vm: Vm) -> None:
    release = point_release_of(kvm)
    if (6, 1, 176) < release < (6, 1, 192):
        pytest.skip("in which point release of 6.1 this changed is not known: between 6.1.176 and 6.1.192")
    with vm.create_vcpu(0) as vcpu:
        if release <= (6, 1, 176):
            assert vcpu.events == VcpuEvents(serror_has_esr=has_ras(vm))
        else:
            with refused(errors.VcpuNotInitialisedError, errno.ENOEXEC, "KVM_GET_VCPU_EVENTS", "call init() first"):
                _ = vcpu.events
            with refused(errors.VcpuNotInitialisedError, errno.ENOEXEC, "KVM_SET_VCPU_EVENTS"):
                vcpu.events = VcpuEvents()


def test_events_that_are_none(vcpu: Vcpu) -> None:
    bad: Any = {"serror_pending": True}
    with pytest.raises(TypeError, match="events are VcpuEvents, not dict"):
        vcpu.events = bad
    for esr in (-1, 1 << 64):
        with pytest.raises(OverflowError, match="serror_esr"):
            vcpu.events = VcpuEvents(True, True, esr)


def test_struct_of_events(vcpu: Vcpu, recorded: list[tuple[int, bytes]]) -> None:
    vcpu.events = VcpuEvents(serror_pending=True, serror_has_esr=False, serror_esr=0x1234, ext_dabt_pending=True)
    assert recorded == [(abi.KVM_SET_VCPU_EVENTS, struct.pack("=BBB5xQ48x", 1, 0, 1, 0x1234))]


# ------------------------------------------------------------------------------------------------ debugging


def test_guest_is_debugged_as_asked(vcpu: Vcpu) -> None:
    vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP | GuestDebug.USE_SW_BP)
    vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.USE_HW, bcr=[0x1E7], bvr=[0x4000_0000])
    vcpu.set_guest_debug(0)
    with refused(errors.GuestDebugError, errno.EINVAL, "a flag", "control 0x5", "kvmipa.GuestDebug"):
        vcpu.set_guest_debug(5)


def test_struct_of_debugging(vcpu: Vcpu, recorded: list[tuple[int, bytes]]) -> None:
    vcpu.set_guest_debug(GuestDebug.ENABLE, bcr=[1, 2], bvr=[3], wcr=range(16), wvr=(5,))
    registers = [1, 2, *[0] * 14, 3, *[0] * 15, *range(16), 5, *[0] * 15]
    assert recorded == [(abi.KVM_SET_GUEST_DEBUG, struct.pack("=II64Q", 1, 0, *registers))]


def test_more_registers_than_there_are(vcpu: Vcpu) -> None:
    with pytest.raises(ValueError, match="wcr has 17 values: there are 16 registers at most"):
        vcpu.set_guest_debug(GuestDebug.ENABLE, wcr=[0] * 17)
    with pytest.raises(OverflowError, match=r"bvr\[1\]=-1"):
        vcpu.set_guest_debug(GuestDebug.ENABLE, bvr=[0, -1])
    with pytest.raises(OverflowError, match="control=4294967296"):
        vcpu.set_guest_debug(1 << 32)
    control: Any = "all"
    with pytest.raises(TypeError, match="control is an int"):
        vcpu.set_guest_debug(control)


# ------------------------------------------------------------------------------------------------ signals


def test_signals_are_blocked_or_as_they_were(vcpu: Vcpu) -> None:
    vcpu.set_signal_mask([signal.SIGALRM])
    vcpu.set_signal_mask([])
    vcpu.set_signal_mask(None)


def test_struct_of_signals(vcpu: Vcpu, recorded: list[tuple[int, bytes]]) -> None:
    vcpu.set_signal_mask({signal.SIGALRM, 64, 1})
    vcpu.set_signal_mask(None)
    assert recorded == [
        (abi.KVM_SET_SIGNAL_MASK, struct.pack("=IQ", 8, 1 << 13 | 1 << 63 | 1)),
        (abi.KVM_SET_SIGNAL_MASK, bytes(8)),
    ]


@pytest.mark.parametrize("number", [0, 65, -1])
def test_number_of_no_signal(vcpu: Vcpu, number: int) -> None:
    with pytest.raises(ValueError, match=f"signal {number}: they are 1 to 64"):
        vcpu.set_signal_mask([number])


def test_closed_vcpu_says_so(vm: Vm) -> None:
    vcpu = vm.create_vcpu(0)
    vcpu.close()
    for ask in (
        lambda: vcpu.mp_state,
        lambda: setattr(vcpu, "mp_state", 0),
        lambda: vcpu.events,
        lambda: setattr(vcpu, "events", VcpuEvents()),
        lambda: vcpu.set_guest_debug(0),
        lambda: vcpu.set_signal_mask(None),
        lambda: vcpu.set_signal_mask([]),
    ):
        with refused(errors.ClosedError, errno.EBADF, "this Vcpu is closed"):
            ask()
