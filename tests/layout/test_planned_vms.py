# SPDX-License-Identifier: Apache-2.0
"""Plans against kernels: the VM of the planned size takes every slot of the map, one of a bit less does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kvmipa
from kvmipa import HostProfile
from kvmipa.errors import CreateVmError, SlotBeyondIpaSpaceError
from kvmipa.layout import DEVICE, MemoryMap, Region, largest_map, plan
from tests.layout.maps import GIB, maps

if TYPE_CHECKING:
    from kvmipa import Kvm
    from kvmipa.layout import Plan

# Hosts by limit and page size; the last ignores what it is asked for.
HOSTS = {
    32: HostProfile("6.12", id_aa64mmfr0_el1=0x1120),
    36: HostProfile("6.12", page_size=16384, id_aa64mmfr0_el1=0x200100001),
    40: HostProfile("6.12", id_aa64mmfr0_el1=0x1122),
    44: HostProfile("7.3", id_aa64mmfr0_el1=0x1124),
    48: HostProfile("6.12", id_aa64mmfr0_el1=0x1125),
    52: HostProfile("7.3", id_aa64mmfr0_el1=0x32310201126),
}

# A slot's memory need not be there; only its address counts, and two slots may have the same.
HVA = 0


def set_slots(kvm: Kvm, machine_type: int, planned: Plan) -> None:
    """Create a VM and give it the memory of a plan, as addresses only."""
    with kvm.create_vm_raw(machine_type) as vm:
        for number, slot in enumerate(planned.slots):
            vm.set_user_memory_region(number, slot.base, slot.size, HVA)


def check(kvm: Kvm, planned: Plan, last_page: bool = True) -> None:
    """The kernel accepts what fits, and refuses one bit less."""
    assert planned.machine_type is not None
    set_slots(kvm, planned.machine_type, planned)
    ignores_sizes = kvm.probe_machine_types([1]) == [0]
    needed = max((slot.end for slot in planned.slots), default=0) + (0 if last_page else planned.page_size)
    if planned.needed_bits == 32 or planned.limit is None or ignores_sizes or needed <= 1 << planned.needed_bits - 1:
        return
    with pytest.raises(SlotBeyondIpaSpaceError):
        set_slots(kvm, planned.machine_type - 1, planned)


# No more than these: a VM of 52 bits takes Linux 7.3 long to destroy (kernel-ipa-spec 6).
@pytest.mark.parametrize(("devices", "spare"), [(False, 1), (True, 0)])
def test_largest_ram_of_this_host_is_accepted(kvm: Kvm, devices: bool, spare: int) -> None:
    assert kvm.page_size
    others = MemoryMap([Region("low", 0, GIB, DEVICE)]) if devices else None
    found = largest_map(others, GIB, kvm.host_ipa_limit, kvm.page_size)
    smaller = found.resized("ram", found.ram_size - spare * kvm.page_size)
    check(kvm, plan(smaller, kvm.host_ipa_limit, kvm.page_size))


def test_a_page_more_than_the_largest_ram_is_refused_by_this_host(kvm: Kvm) -> None:
    assert kvm.page_size
    found = largest_map(None, GIB, kvm.host_ipa_limit, kvm.page_size)
    planned = plan(found.resized("ram", found.ram_size + kvm.page_size), kvm.host_ipa_limit, kvm.page_size)
    assert not planned.fits
    with pytest.raises(SlotBeyondIpaSpaceError):
        set_slots(kvm, planned.available_bits if kvm.host_ipa_limit else 0, planned)
    if kvm.host_ipa_limit and kvm.probe_machine_types([1]) != [0]:
        with pytest.raises(CreateVmError):
            kvm.create_vm(planned.needed_bits)


@pytest.mark.parametrize("bits", range(32, 53))
def test_every_size_is_planned_as_this_host_makes_it(kvm: Kvm, bits: int) -> None:
    assert kvm.page_size
    limit = kvm.host_ipa_limit
    memory_map = MemoryMap(
        [Region("low", GIB, 64 << 20), Region("top", (1 << bits) - (64 << 20), 64 << 20)]
        if bits > 32
        else [Region("low", GIB, 64 << 20)]
    )
    planned = plan(memory_map, limit, kvm.page_size)
    assert planned.needed_bits == bits
    if planned.fits:
        check(kvm, planned)
    elif limit is not None and kvm.probe_machine_types([1]) != [0]:
        assert kvm.probe_machine_types([bits]) != [0]


@pytest.mark.emulated
@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(sorted(HOSTS)))
def test_any_map_that_fits_is_accepted_by_the_emulated_kernel(data: st.DataObject, limit: int) -> None:
    host = HOSTS[limit]
    memory_map = data.draw(maps(host.page_size, max_bits=limit - 1))
    planned = plan(memory_map, limit, host.page_size)
    assume(len(planned.slots) < 500)
    with kvmipa.open("emulated", host=host) as kvm:
        assert kvm.host_ipa_limit == limit
        if planned.fits:
            check(kvm, planned)
        elif any(slot.end > 1 << limit for slot in planned.slots):
            with pytest.raises(SlotBeyondIpaSpaceError):
                set_slots(kvm, limit, planned)


@pytest.mark.emulated
def test_old_kernel_makes_what_is_planned_for_it() -> None:
    with kvmipa.open("emulated", host=HostProfile("4.19", id_aa64mmfr0_el1=0x1124)) as kvm:
        assert kvm.host_ipa_limit is None
        with pytest.raises(SlotBeyondIpaSpaceError):
            set_slots(kvm, 0, plan(largest_map(None, GIB, None), None))
        check(kvm, plan(largest_map(None, GIB, None, last_page=False), None, last_page=False))


@pytest.mark.emulated
@given(st.integers(32, 43), st.integers(0, 2), st.sampled_from([0, 4096]))
def test_kernel_that_keeps_the_last_page_free(bits: int, pages: int, low: int) -> None:
    with kvmipa.open("emulated", host=HostProfile("4.20", id_aa64mmfr0_el1=0x1124)) as kvm:
        top = (1 << bits) - pages * 4096 - (1 << 20)
        planned = plan(MemoryMap([Region("ram", top - low, (1 << 20) + low)]), 44, last_page=False)
        assert planned.needed_bits == bits + (not pages)
        check(kvm, planned, last_page=False)
