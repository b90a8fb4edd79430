# SPDX-License-Identifier: Apache-2.0
"""The emulated kernel's stage 2 against tables that ci/lab read out of real kernels' VMs, descriptor by descriptor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa.access import Mapped
from kvmipa.backend.emulated import address_space
from kvmipa.backend.emulated.address_space import Mapping
from kvmipa.stage2 import Stage2
from kvmipa.stage2.descriptors import ACCESS_FLAG
from tests.stage2.test_stage2_samples import FILES, GIGANTIC, samples_in

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kvmipa.stage2.descriptors import Format
    from tests.stage2.test_stage2_samples import Sample, Slot

# What the recorded process had behind its slots.
FLAGS = {"device": {"pf"}, "hugetlb": {"ht"}, "blocks": {"hg"}}


def mapping_of(slot: Slot, page_size: int) -> Mapping:
    """As /proc/self/smaps had it: the blocks are a part of one larger mapping."""
    kind = slot.host_mapping
    shared, path = ("s", "/dev/mem") if kind == "device" else ("p", "")
    page = GIGANTIC if kind == "hugetlb" else page_size
    return Mapping(
        slot.hva, slot.hva + slot.size, f"rw-{shared}", 0, path, frozenset(FLAGS.get(kind, {"nh"})), page_size=page
    )


def attributes_of(form: Format, entries: Iterable[tuple[int, int, int]]) -> list[tuple[str, int, str]]:
    """IPA, level and all bits but those that are the host's own affair: where memory is, and whether it is young."""
    return [
        (hex(ipa), level, hex(descriptor & ~form.place(form.address(descriptor)) & ~ACCESS_FLAG))
        for ipa, level, descriptor in entries
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_vm_that_does_the_same_has_the_same_tables(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for sample in samples_in(path):
        print(path.stem, "type", sample.machine_type)
        with monkeypatch.context() as patch:
            check(sample, patch)


def check(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    by_address = {slot.hva: mapping_of(slot, sample.profile.page_size) for slot in sample.slots}
    monkeypatch.setattr(address_space, "backing", lambda start, _end, _block: (by_address[start],))
    monkeypatch.setattr(address_space, "mappings", lambda start, _end: (by_address[start],))
    monkeypatch.setattr(address_space, "was_written", lambda _address, _size: True)
    bits = (sample.machine_type,) if sample.machine_type else ()
    with kvmipa.open("emulated", host=sample.profile) as kvm, kvm.create_vm(*bits) as vm:
        for number, slot in enumerate(sample.slots):
            vm.set_user_memory_region(number, slot.gpa, slot.size, slot.hva, slot.flags)
        for kind, ipa in sample.accesses:
            assert isinstance(vm.access(ipa, kind), Mapped)
        stage2 = vm.stage2
        assert isinstance(stage2, Stage2)
        assert stage2.tables is not None
        assert stage2.vtcr_el2.value & ~(1 << 31) == sample.vtcr & ~(1 << 31)
        real = ((leaf.ipa, leaf.level, leaf.descriptor) for leaf in sample.leaves)
        assert attributes_of(sample.form, stage2.tables.descriptors()) == attributes_of(sample.form, real)
        assert stage2.table_pages == sample.geometry.concatenated_tables + len(sample.tables)
