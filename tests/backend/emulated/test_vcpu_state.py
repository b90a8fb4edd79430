# SPDX-License-Identifier: Apache-2.0
"""What a vCPU has besides registers, as an engine that runs it sees it (kernel-device-spec 4.6)."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Any

import pytest

from ci.lab.register_recorder import CORE, PSCI, PSTATE, SYSTEM, Vcpu, packed
from kvmipa import abi
from kvmipa.backend.emulated import EmulatedBackend, pending_abort, vcpu_registers
from tests.backend.emulated.asking import RELEASES, host

if TYPE_CHECKING:
    from collections.abc import Iterator

PC, ELR_EL1, SPSR_EL1 = (CORE | abi.KVM_REG_SIZE_U64 | word for word in (64, 70, 72))
ESR_EL1, FAR_EL1, VBAR_EL1 = (SYSTEM | number for number in (0xC290, 0xC300, 0xC600))
POWER_OFF = 1 << abi.KVM_ARM_VCPU_POWER_OFF


@pytest.fixture
def vcpu(release: str) -> Iterator[Vcpu]:
    """A vCPU of each release that is initialised."""
    # 4.19 has no sizes.
    profile = host(release, id_aa64pfr0_el1=0x1000_0011)
    made = Vcpu(EmulatedBackend(profile), machine_type=0 if release == "4.19" else 32)
    made.init(PSCI)
    yield made
    made.close()


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each."""
    return str(request.param)


def inside(vcpu: Vcpu) -> Any:
    """The object behind the descriptor."""
    backend: Any = vcpu.backend
    return backend._descriptors.get(vcpu.fd).vcpu


def test_powered_off_vcpu_is_stopped(vcpu: Vcpu, release: str) -> None:
    states = []
    # Before 6.12 a feature cannot be left out again.
    for features in (PSCI, PSCI | POWER_OFF) if release in {"6.12", "7.3"} else (PSCI,):
        vcpu.init(features)
        states.append(vcpu.ask(abi.KVM_GET_MP_STATE, bytes(4))[1][0])
    assert states == [0, 5][: len(states)]
    assert inside(vcpu).mp_state == states[-1]


def test_debug_control_is_what_was_asked_for(vcpu: Vcpu) -> None:
    def ask(control: int, *registers: int) -> None:
        assert vcpu.ask(abi.KVM_SET_GUEST_DEBUG, pack("=II64Q", control, 0, *registers, *[0] * (64 - len(registers))))
        assert vcpu.ask(abi.KVM_SET_GUEST_DEBUG, pack("=II64Q", 4, 0, *[0] * 64))[0] == "EINVAL"

    found = []
    for control in (0, 1, 2, 3, 0x10001, 0x10000):
        ask(control)
        state = inside(vcpu).debug_control
        found.append((state.single_step, state.software_breakpoints))
    assert found == [(False, False)] * 3 + [(True, False), (False, True), (False, False)]
    ask(0x20001, *range(64))
    state = inside(vcpu).debug_control
    assert (state.bcr[0], state.bvr[0], state.wcr[0], state.wvr[15]) == (0, 16, 32, 63)


def test_signal_mask(vcpu: Vcpu) -> None:
    masks = []
    for data in (pack("=IQ", 8, 5), pack("=IQ", 4, 7)):
        vcpu.ask(abi.KVM_SET_SIGNAL_MASK, data)
        masks.append(inside(vcpu).signal_mask)
    vcpu.ask(abi.KVM_SET_SIGNAL_MASK, 0)
    assert [*masks, inside(vcpu).signal_mask] == [5, 5, None]


def test_serror_waits_with_its_syndrome(vcpu: Vcpu) -> None:
    found = []
    for fields in ({"serror_has_esr": 1, "serror_esr": 3}, {"serror_has_esr": 1, "serror_esr": 1 << 25}, {}):
        vcpu.ask(abi.KVM_SET_VCPU_EVENTS, packed("vcpu_events", serror_pending=1, **fields))
        found.append(inside(vcpu).events.serror_esr)
    assert found == [3, 3, 1 << 24]


@pytest.mark.parametrize(("pstate", "vector"), [(0x3C5, 0x200), (0x3C4, 0), (0x3C0, 0x400)])
def test_abort_goes_to_the_guests_vector(pstate: int, vector: int, vcpu: Vcpu, release: str) -> None:
    for register, value in {PC: 0x1000, PSTATE: pstate, VBAR_EL1: 0x8000}.items():
        vcpu.set(register, value)
    assert vcpu.ask(abi.KVM_SET_VCPU_EVENTS, packed("vcpu_events", ext_dabt_pending=1))[0] == 0
    waits = release in {"6.1", "6.12"}
    assert vcpu.get(PC) == (0x1000 if waits else 0x8000 + vector)
    vcpu_registers.loaded(inside(vcpu))
    vcpu_registers.loaded(inside(vcpu))
    assert [vcpu.get(register) for register in (PC, ELR_EL1, SPSR_EL1, PSTATE, FAR_EL1)] == [
        *(0x8000 + vector, 0x1000, pstate, 0x3C5, 0)
    ]
    syndrome = vcpu.get(ESR_EL1)
    assert isinstance(syndrome, int)
    assert syndrome & 0xFC00_003F == (0x9000_0010 if pstate == 0x3C0 else 0x9400_0010)


def test_exception_keeps_flags_and_sets_pan() -> None:
    made = Vcpu(EmulatedBackend(host("7.3")))
    made.init(PSCI)
    state = inside(made)
    # SCTLR_EL1 with SPAN 0 and DSSBS 1.
    state.registers.system[0xC080] = 1 << 44
    # With SS and IL, which go (Linux 6.12.117: 0x3C5 of 0x3003C5).
    made.set(PSTATE, 0xF030_03C5)
    pending_abort.inject_abort(state)
    assert made.get(PSTATE) == 0xF040_13C5
    made.close()
