# SPDX-License-Identifier: Apache-2.0
"""Claims about a guest's accesses where no memory is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.conformance.claim import IMPLEMENTATION, Claim
from kvmipa.conformance.guest import came, fault_status, machine, name
from kvmipa.id_registers import PARANGE_BITS
from kvmipa.payload.program import NO_MAPPING, NOWHERE, SLOT_SIZE
from kvmipa.payload.session import ANSWER
from kvmipa.payload.steps import STORED, Step, at

if TYPE_CHECKING:
    from kvmipa.conformance.target import Target
    from kvmipa.payload.program import Command
    from kvmipa.payload.transcript import Outcome

_PLACE: Final = NOWHERE + 0x128
_LOADS: Final = {"ldrb": 1, "ldrh": 2, "ldr_w": 4, "ldr": 8}
_STORES: Final = {"strb": 1, "strh": 2, "str_w": 4, "str": 8}


# ------------------------------------------------------------------------------------------------ MMIO


def _mmio(on: Target) -> None:
    sizes = {**_LOADS, **_STORES}
    with machine(on) as it:
        for outcome in it.told([at(operation, _PLACE) for operation in sizes]):
            operation = outcome.step.command.operation
            size = sizes[operation]
            on.expect(name(outcome), _load(size) if operation in _LOADS else _store(size), came(outcome))


def _load(size: int) -> str:
    return f"MMIO load of {size} bytes at {_PLACE:#x}, x0 = {_low(ANSWER, size):#x}"


def _store(size: int) -> str:
    return f"MMIO store of {size} bytes at {_PLACE:#x}: {_low(STORED, size):#x}"


def _low(value: int, size: int) -> int:
    return value & (1 << 8 * size) - 1


# Bytes that are loaded, and bytes of the register that they are extended to.
_SIGNED_LOADS: Final = {"ldrsb_w": (1, 4), "ldrsb": (1, 8), "ldrsh_w": (2, 4), "ldrsh": (2, 8), "ldrsw": (4, 8)}


def _signed_loads(on: Target) -> None:
    with machine(on) as it:
        for outcome in it.told([at(operation, _PLACE) for operation in _SIGNED_LOADS]):
            loaded, register = _SIGNED_LOADS[outcome.step.command.operation]
            # Every part of the answer is a negative number.
            value = _low(ANSWER, loaded)
            if on.facts.has("mmio_loads_are_extended"):
                value = _low(value - (1 << 8 * loaded), register)
            on.expect(name(outcome), f"MMIO load of {loaded} bytes at {_PLACE:#x}, x0 = {value:#x}", came(outcome))


# ------------------------------------------------------------------------------------------------ no syndrome

_UNDESCRIBED: Final = {"ldp": "load", "stp": "store", "ldr_post": "load", "str_post": "store", "str_d": "store"}


def _no_syndrome(on: Target) -> None:
    commands = [at(operation, _PLACE) for operation in _UNDESCRIBED]
    with machine(on) as it:
        to_user = bool(it.vm.check_extension(abi.KVM_CAP_ARM_NISV_TO_USER))
        enabled = [Step(command, nisv=True) for command in commands] if to_user else []
        for outcome in it.told([*map(Step, commands), *enabled]):
            operation = outcome.step.command.operation
            if outcome.step.nisv:
                expected = f"KVM_EXIT_ARM_NISV, a {_UNDESCRIBED[operation]} in the page at {NOWHERE:#x}"
                on.expect(f"{name(outcome)}, with KVM_CAP_ARM_NISV_TO_USER", expected, _nisv(outcome))
            else:
                on.expect(name(outcome), "KVM_RUN fails with ENOSYS", fault_status(outcome))


def _nisv(outcome: Outcome) -> str:
    match outcome.exits:
        case (("nisv", int(iss), int(address)),):
            kind = "store" if iss >> 6 & 1 else "load"
            return f"KVM_EXIT_ARM_NISV, a {kind} in the page at {address & ~0xFFF:#x}"
    return fault_status(outcome)


# ------------------------------------------------------------------------------------------------ beyond the space


def _out_of_range(on: Target) -> None:
    profile = on.facts.profile
    limit = on.kvm.host_ipa_limit or 0
    cpu_bits = PARANGE_BITS.get(profile.id_aa64mmfr0_el1 & 0xF, 52)
    with machine(on) as it:
        ends = {1 << bits for bits in (it.ipa_bits, limit, cpu_bits) if bits >= it.ipa_bits}
        places = sorted(ends | {end + 0x1238 for end in ends} | {(1 << limit) - 0xFF8})
        outside = [place for place in places if place >= 1 << it.ipa_bits]
        commands = [at(operation, place) for place in outside for operation in ("ldr", "str", "fetch")]
        for outcome in it.told(commands):
            on.expect(name(outcome), _expected(on, outcome.step.command, limit, cpu_bits), fault_status(outcome))


def _expected(on: Target, command: Command, limit: int, cpu_bits: int) -> str:
    """Kernel-ipa-spec 5.3 (c), (c'), (c''), (d')."""
    operation, address = command.operation, command.x[1]
    kind = "instruction abort" if operation == "fetch" else "data abort"
    if address >> cpu_bits:
        return f"{kind}, FSC 0x00"
    if on.facts.has("injects_out_of_range"):
        return f"{kind}, FSC {0x00 if address >> limit else 0x10:#04x}"
    if operation == "fetch":
        return f"{kind}, FSC 0x10"
    if operation == "ldr":
        return f"MMIO load of 8 bytes at {address:#x}"
    return f"MMIO store of 8 bytes at {address:#x}: {STORED:#x}"


# ------------------------------------------------------------------------------------------------ no memory behind


def _fetch(on: Target) -> None:
    page = NOWHERE
    sign = 0xFFFF_FFFF << 32 if on.facts.has("esr_of_64_bits") and not on.facts.has("esr_is_unsigned") else 0
    with machine(on) as it:
        (outcome,) = it.told([at("fetch", page)])
        expected = f"instruction abort, ESR_EL1 {sign | 0x8600_0010:#x}, FAR_EL1 {page:#x}"
        on.expect(name(outcome), expected, came(outcome))


def _no_mapping(on: Target) -> None:
    with machine(on) as it:
        it.vm.set_user_memory_region(len(it.vm.memslots), NO_MAPPING, SLOT_SIZE, 0)
        for outcome in it.told([at(operation, NO_MAPPING) for operation in ("ldr", "strb", "ldp")]):
            on.expect(name(outcome), "KVM_RUN fails with EFAULT", fault_status(outcome))


CLAIMS: Final = (
    Claim(
        id="C15",
        name="guest.no_syndrome",
        text="An access outside memory that the CPU does not describe makes KVM_RUN fail with ENOSYS; where "
        "KVM_CAP_ARM_NISV_TO_USER is enabled it is KVM_EXIT_ARM_NISV, with the address.",
        source="api.rst 5 (KVM_EXIT_ARM_NISV), 7; kernel-ipa-spec 5.3 (b'), 5.4, 10 (C15)",
        how="A guest loads and stores pairs, with write-back and from a vector register, before and after enabling it.",
        since="4.19",
        guest=True,
        check=_no_syndrome,
    ),
    Claim(
        id="G1",
        name="guest.mmio",
        text="A load or store of 1, 2, 4 or 8 bytes where no memory is exits as MMIO with its address, its length and "
        "what is stored; the guest's register gets what user space answers.",
        source="api.rst 5 (KVM_EXIT_MMIO); kernel-ipa-spec 5.3 (b), 5.4",
        how="A guest does each of them; loads are answered with bytes that differ.",
        since="4.19",
        guest=True,
        check=_mmio,
    ),
    Claim(
        id="IG1",
        name="guest.out_of_range",
        text="Beyond its IPA space a guest's loads and stores are MMIO before Linux 5.18 or 5.19, and since then "
        "external aborts, at and above the host's limit address size faults; beyond PARange the CPU raises these.",
        source="kvm_handle_guest_abort; kernel-ipa-spec 5.3 (c) to (d'); of 4.20 to 5.4 inferred from patches",
        how="A guest loads, stores and executes below, at and above 2^N, 2^limit and 2^PARange.",
        kind=IMPLEMENTATION,
        since="4.20",
        guest=True,
        rests_on=("C6",),
        check=_out_of_range,
    ),
    Claim(
        id="IG2",
        name="guest.fetch_without_memory",
        text="An instruction fetch where no memory is never exits: the guest takes an external instruction abort, with "
        "the address; the upper half of ESR_EL1 is all ones in 6.1, and in some of the releases around it.",
        source="inject_abt64; kernel-ipa-spec 5.3 (d) and the registers below; of 4.19 to 5.4 inferred",
        how="A guest branches there.",
        kind=IMPLEMENTATION,
        since="4.19",
        guest=True,
        check=_fetch,
    ),
    Claim(
        id="IG3",
        name="guest.slot_without_mapping",
        text="In a slot behind which the process has nothing mapped, an access makes KVM_RUN fail with EFAULT.",
        source="user_mem_abort; kernel-ipa-spec 5.3 (a'); of 4.19 to 5.4 inferred",
        how="A slot is set at user address 0, and a guest loads and stores there.",
        kind=IMPLEMENTATION,
        since="4.19",
        guest=True,
        check=_no_mapping,
    ),
    Claim(
        id="IG4",
        name="guest.mmio_signed_loads",
        text="The answer to a load of a signed number is extended by its sign since Linux 7.3 at the latest; before, "
        "the bits above are zeros.",
        source="kvm_handle_mmio_return, vcpu_data_host_to_guest; recorded of 5.10 to 7.3, of 4.19 to 5.4 inferred",
        how="Each load of a signed number is answered with a negative one.",
        kind=IMPLEMENTATION,
        since="4.19",
        guest=True,
        rests_on=("G1",),
        check=_signed_loads,
    ),
)
