# SPDX-License-Identifier: Apache-2.0
"""What a real VM's stage 2 shows: the files that its kernel has in debugfs. Run for real on the lab's built kernels."""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING

import pytest

from kvmipa import errors
from kvmipa.backend import native
from kvmipa.stage2.debugfs import ShownStage2
from kvmipa.stage2.geometry import Geometry

if TYPE_CHECKING:
    from pathlib import Path

    import kvmipa

DUMP = """---[ Guest IPA ]---
0x0000000000000000-0x0000000000200000           2M 2   R W X AF BLK
0x0000000000200000-0x0000000040000000        1022M 2
"""


def backend() -> native.NativeBackend:
    """The backend without its extension, which this part of it does not use."""
    return object.__new__(native.NativeBackend)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VM's directory, as the thread that runs the test would have made it."""
    monkeypatch.setattr(native, "DEBUGFS", str(tmp_path))
    found = tmp_path / f"{threading.get_native_id()}-7"
    found.mkdir()
    return found


def fill(directory: Path, ipa_bits: int, levels: int) -> None:
    (directory / "ipa_range").write_text(f"{ipa_bits}\n")
    (directory / "stage2_levels").write_text(f"{levels}\n")
    (directory / "stage2_page_tables").write_text(DUMP)


def test_shape_and_mappings_are_the_files(directory: Path) -> None:
    levels = Geometry(mmap.PAGESIZE, 40).levels
    fill(directory, 40, levels)
    shown = backend().stage2(7)
    assert (shown.levels, shown.geometry.ipa_bits, shown.dump()) == (levels, 40, DUMP)
    assert [(run.start, run.end, run.level) for run in shown.mappings()] == [(0, 0x200000, 2)]


def test_a_vm_of_a_thread_that_has_ended_is_found_by_its_descriptor(directory: Path) -> None:
    fill(directory.rename(directory.parent / "1-7"), 40, Geometry(mmap.PAGESIZE, 40).levels)
    assert backend().stage2(7).geometry.ipa_bits == 40


def test_another_vms_directory_is_not_taken(directory: Path) -> None:
    fill(directory, 40, 3)
    with pytest.raises(errors.NotSupportedError, match="CONFIG_PTDUMP_STAGE2_DEBUGFS"):
        backend().stage2(8)


def test_kernels_without_the_files_say_what_would_be_needed(directory: Path) -> None:
    with pytest.raises(errors.NotSupportedError, match="ipa_range"):
        backend().stage2(7)


def test_levels_that_are_not_those_of_the_size_are_noticed(directory: Path) -> None:
    fill(directory, 40, 4)
    with pytest.raises(AssertionError, match="4 levels"):
        backend().stage2(7)


@pytest.mark.native
def test_a_real_vm_shows_its_own_shape_or_says_why_not(kvm: kvmipa.Kvm) -> None:
    with kvm.create_vm(40 if (kvm.host_ipa_limit or 40) >= 40 else 32) as vm:
        try:
            shown = vm.stage2
        except errors.NotSupportedError:
            return
        assert isinstance(shown, ShownStage2)
        assert shown.geometry == vm.geometry
        assert list(shown.mappings()) == []
