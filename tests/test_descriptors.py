# SPDX-License-Identifier: Apache-2.0
"""No descriptor leaks, however a creation ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import errors

if TYPE_CHECKING:
    from kvmipa import Kvm

DESCRIPTORS = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="needs Linux's /proc/self/fd")

CREATIONS = 10_000


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(DESCRIPTORS.iterdir()))


def test_10000_failing_and_succeeding_creations_leave_nothing_open(kvm: Kvm, backend_name: str) -> None:
    before = open_descriptors()
    # A creation takes a real kernel under emulation milliseconds; refusals are as quick as everywhere.
    succeeding = CREATIONS // 2 if backend_name == "emulated" else 500
    for _ in range(succeeding):
        kvm.create_vm(32).close()
    for _ in range(CREATIONS - succeeding):
        with pytest.raises(errors.ReservedTypeBitsError):
            kvm.create_vm_raw(1 << 40)
    assert open_descriptors() == before


def test_sweep_leaves_nothing_open(kvm: Kvm) -> None:
    before = open_descriptors()
    kvm.probe_machine_types([32, 1 << 40, 33] * 100)
    assert open_descriptors() == before


def test_failing_open_leaves_nothing_open() -> None:
    before = open_descriptors()
    for _ in range(100):
        with pytest.raises(errors.BackendUnavailableError):
            kvmipa.open("emulated", host=kvmipa.HostProfile(mode="none"))
        if sys.platform == "linux":
            with pytest.raises(errors.BackendUnavailableError):
                kvmipa.open("native", device=os.devnull)
    assert open_descriptors() == before
