# SPDX-License-Identifier: Apache-2.0
"""What only the first KVM_RUN of a vCPU looks at, and what it leaves behind (kernel-device-spec 2.9)."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kvmipa import abi
from tests.backend.emulated.cpu.guests import RELEASES, Guest, guest, host

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOP = (0x14000000,)  # b .
V2, V3 = 5, 7
ADDR, CTRL = 0, 4
DIST, REDIST, V2_DIST, V2_CPU = 2, 3, 0, 1
V3_FRAMES = {DIST: 0x800_0000, REDIST: 0x80A_0000}


@contextmanager
def with_vgic(release: str, model: str = "v3") -> Iterator[Guest]:
    with guest(LOOP, release=release, profile=host(release, gic=model)) as it:
        yield it


def add_vgic(it: Guest, kind: int, frames: dict[int, int], *, is_initialised: bool = False) -> None:
    vgic = it.vm.create_device(kind)
    for frame, address in frames.items():
        vgic.set_attr(ADDR, frame, address)
    if is_initialised:
        vgic.set_attr(CTRL, 0, None)


def run(it: Guest) -> int:
    """KVM_RUN that does not enter the guest: -EINTR where nothing is wrong."""
    backend, fd = it.vcpu._backend, it.vcpu.fileno()
    area = backend.mmap(fd, 4096)
    assert not isinstance(area, int)
    area[1] = 1
    return backend.ioctl(fd, abi.KVM_RUN, 0)


@pytest.mark.parametrize("release", RELEASES)
def test_a_vgic_without_addresses_kills_the_vm_but_not_on_5_10(release: str) -> None:
    with with_vgic(release) as it:
        it.vm.create_device(V3)
        assert run(it) == -errno.ENXIO
        expected = -errno.EINTR if release == "5.10" else -errno.EIO
        assert run(it) == expected
        found = it.vm._backend.ioctl(it.vm.fileno(), abi.KVM_CHECK_EXTENSION, 165)
        assert found == (48 if release == "5.10" else -errno.EIO)


@pytest.mark.parametrize("release", RELEASES)
def test_a_vgic_that_is_not_initialised_is_busy(release: str) -> None:
    with with_vgic(release) as it:
        add_vgic(it, V3, V3_FRAMES)
        assert run(it) == -errno.EBUSY


@pytest.mark.parametrize("release", RELEASES)
def test_a_vgic_that_is_ready_lets_it_run(release: str) -> None:
    with with_vgic(release) as it:
        add_vgic(it, V3, V3_FRAMES, is_initialised=True)
        assert run(it) == run(it) == -errno.EINTR


@pytest.mark.parametrize("release", RELEASES)
def test_a_vgic_v2_is_initialised_by_the_run(release: str) -> None:
    with with_vgic(release, "v2") as it:
        add_vgic(it, V2, {V2_DIST: 0x800_0000, V2_CPU: 0x801_0000})
        assert run(it) == -errno.EINTR


@pytest.mark.parametrize("release", RELEASES)
def test_frames_of_a_vgic_v2_that_overlap_are_refused(release: str) -> None:
    with with_vgic(release, "v2") as it:
        add_vgic(it, V2, {V2_DIST: 0x800_1000, V2_CPU: 0x800_0000})
        assert run(it) == -errno.EINVAL


def test_a_run_that_is_no_run_counts_as_one() -> None:
    with with_vgic("6.12") as it:
        assert run(it) == -errno.EINTR
        assert (
            it.vm._backend.ioctl_buffer(
                it.vm.fileno(), abi.KVM_CREATE_DEVICE, bytearray(V3.to_bytes(4, "little") + bytes(8))
            )
            == -errno.EBUSY
        )


@pytest.mark.parametrize("release", RELEASES)
def test_timers_with_one_interrupt_do_not_run_and_kill_nothing(release: str) -> None:
    with with_vgic(release) as it:
        add_vgic(it, V3, V3_FRAMES, is_initialised=True)
        it.vcpu.set_attr(1, 0, 20)
        it.vcpu.set_attr(1, 1, 20)
        assert run(it) == -errno.EINVAL
        assert run(it) == (-errno.EINTR if release == "5.10" else -errno.EINVAL)
