# SPDX-License-Identifier: Apache-2.0
"""Interrupts from user space (kernel-device-spec 4.8): on every kernel there is, and on vGICs of each release."""

from __future__ import annotations

import gc
import os
from errno import EAGAIN, EBADF, EBUSY, EFAULT, EINVAL, ENODEV, ENXIO
from typing import TYPE_CHECKING

import pytest

from tests.backend.emulated.asking import SPECIFIED, Kernel, host
from tests.backend.emulated.vm_asking import (
    CPU,
    ITS,
    KVM_CREATE_VCPU,
    KVM_IRQ_LINE,
    KVM_IRQ_LINE_STATUS,
    KVM_IRQFD,
    KVM_SET_GSI_ROUTING,
    KVM_SIGNAL_MSI,
    PPI,
    SPI,
    V3,
    Asked,
    emulated,
    give_vcpus,
    needs_eventfd,
    of,
    state,
    vgic,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm

DEASSIGN, RESAMPLE = 1, 2
DIST, REDIST, ITS_AT = 0x800_0000, 0x80A_0000, 0x808_0000


@pytest.fixture
def vm(kvm: Kvm, limit: int) -> Iterator[Asked]:
    """A VM on each kernel."""
    with kvm.create_vm(min(limit, 40)) as created:
        yield of(created)


@pytest.fixture
def with_vgic(vm: Asked) -> Iterator[Asked]:
    """A VM with two vCPUs and an initialised vGICv3 of 64 interrupts, on each kernel whose host has a GICv3."""
    device = vm.device(V3)
    if device == -ENODEV:
        pytest.skip("the host has no GICv3")
    assert device >= 0
    vcpus = [vm.value(KVM_CREATE_VCPU, number) for number in (0, 1)]
    assert vm.attribute(device, 3, 0, 64) == 0
    assert vm.attribute(device, 0, 2, DIST) == 0
    assert vm.attribute(device, 0, 3, REDIST) == 0
    assert vm.attribute(device, 4, 0) == 0
    yield vm
    for fd in (*vcpus, device):
        vm.backend.close(fd)


@pytest.fixture
def eventfds() -> Iterator[list[int]]:
    """Three eventfds; a test that closes one takes it out."""
    opened = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(3)]
    yield opened
    for fd in opened:
        os.close(fd)


# ------------------------------------------------------------------------------------------------ any kernel


@pytest.mark.parametrize("request_number", [KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS, KVM_IRQFD, KVM_SIGNAL_MSI])
@pytest.mark.parametrize("address", [0, 8, (1 << 64) - 8])
def test_bad_pointer_comes_first(vm: Asked, request_number: int, address: int) -> None:
    assert vm.value(request_number, address) == -EFAULT


def test_line_without_a_vgic(vm: Asked) -> None:
    assert vm.line(CPU, 0) == -EINVAL
    assert {vm.line(SPI, number) for number in (0, 32, 1024)} == {-ENXIO}
    assert {vm.line(PPI, number) for number in (0, 16, 1024)} == {-ENXIO}
    assert {vm.line(kind, 32) for kind in range(3, 16)} == {-EINVAL}


@pytest.mark.parametrize("line", [KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS])
def test_line_of_a_vgic(with_vgic: Asked, line: int) -> None:
    def ask(kind: int, number: int, vcpu: int = 0) -> int:
        return with_vgic.line(kind, number, vcpu, request=line)

    assert ask(CPU, 0) == -ENXIO
    assert [ask(SPI, number) for number in (0, 31, 32, 63, 64, 65535)] == [-EINVAL, -EINVAL, 0, 0, -EINVAL, -EINVAL]
    assert [ask(PPI, number) for number in (15, 16, 31, 32)] == [-EINVAL, 0, 0, -EINVAL]
    assert [ask(PPI, 16, vcpu) for vcpu in (0, 1, 2, 256)] == [0, 0, -EINVAL, -EINVAL]


def test_irqfd_needs_a_vgic_before_it_looks_at_the_eventfd(vm: Asked) -> None:
    assert (vm.irqfd(-1), vm.irqfd(-1, flags=RESAMPLE)) == (-EAGAIN, -EAGAIN)
    assert {vm.irqfd(-1, flags=flags) for flags in (4, 5, 8, 1 << 31)} == {-EINVAL}
    assert vm.irqfd(-1, flags=DEASSIGN) == -EBADF


@needs_eventfd
def test_ending_an_irqfd_that_is_not_there_is_no_error(vm: Asked, eventfds: list[int]) -> None:
    assert vm.irqfd(eventfds[0], flags=DEASSIGN) == 0
    with open(os.devnull) as file:  # noqa: PTH123  a descriptor that is no eventfd
        assert vm.irqfd(file.fileno(), flags=DEASSIGN) == -EINVAL


@needs_eventfd
def test_eventfd_is_one_irqfd_at_a_time(with_vgic: Asked, eventfds: list[int]) -> None:
    vm, (first, second, third) = with_vgic, eventfds
    duplicate = os.dup(first)
    assert (vm.irqfd(first, 5000), vm.irqfd(second, 5000)) == (0, 0)
    assert (vm.irqfd(first, 6), vm.irqfd(duplicate, 6)) == (-EBUSY, -EBUSY)
    assert vm.irqfd(first, 6, RESAMPLE, -1) == -EBADF
    assert (vm.irqfd(first, 6, DEASSIGN), vm.irqfd(first, 6)) == (0, -EBUSY)
    assert (vm.irqfd(duplicate, 5000, DEASSIGN), vm.irqfd(first, 6)) == (0, 0)
    assert vm.irqfd(third, 9, RESAMPLE, second) == 0
    os.close(duplicate)


@needs_eventfd
def test_irqfd_ends_with_its_eventfd(with_vgic: Asked) -> None:
    for _ in range(3):
        fd = os.eventfd(0, 0)
        duplicate = os.dup(fd)
        assert with_vgic.irqfd(fd, 1) == 0
        os.close(fd)
        assert with_vgic.irqfd(duplicate, 1) == -EBUSY
        os.close(duplicate)


@pytest.mark.parametrize("kind", range(7))
def test_route_of_each_type(vm: Asked, kind: int) -> None:
    assert vm.route((0, kind)) == (0 if kind in {1, 2} else -EINVAL)
    assert vm.route((0, kind, 1)) == (0 if kind == 2 else -EINVAL)
    assert vm.route((0, kind, 2)) == -EINVAL


def test_routes_and_their_limits(vm: Asked) -> None:
    assert (vm.route(), vm.route(flags=1), vm.route(nr=4097)) == (0, -EINVAL, -EINVAL)
    assert (vm.route((4095, 1)), vm.route((4096, 1))) == (0, -EINVAL)
    assert (vm.route((1, 1, 0, 0, 0, 987)), vm.route((1, 1, 0, 0, 0, 988)), vm.route((1, 1, 0, 0, 1, 0))) == (
        0,
        -EINVAL,
        -EINVAL,
    )
    assert {vm.route((1, first), (1, second)) for first in (1, 2) for second in (1, 2)} == {-EINVAL}
    assert vm.route((1, 1, 0, 0, 0, 5), (2, 1, 0, 0, 0, 5)) == 0
    assert vm.route(*((gsi, 1, 0, 0, 0, gsi % 988) for gsi in range(4096))) == 0
    assert vm.value(KVM_SET_GSI_ROUTING, 8) == -EFAULT


def test_msi_without_its(vm: Asked) -> None:
    assert (vm.msi(flags=0), vm.msi(flags=1), vm.msi(flags=2)) == (-EINVAL, -EINVAL, -EINVAL)


def test_msi_with_a_vgic_but_no_its(with_vgic: Asked) -> None:
    assert [with_vgic.msi(flags=flags) for flags in range(4)] == [-ENODEV, -ENODEV, -EINVAL, -EINVAL]


def test_msi_reaches_an_its_by_all_of_its_frames_but_a_new_one_is_off(with_vgic: Asked) -> None:
    its = with_vgic.device(ITS)
    assert its >= 0
    assert with_vgic.msi(ITS_AT, flags=1) == -EINVAL
    assert with_vgic.attribute(its, 0, 4, ITS_AT) == 0
    seen = {at: with_vgic.msi(at, flags=1) for at in (ITS_AT - 1, ITS_AT, ITS_AT + 0x1_0040, ITS_AT + 0x1_FFFF, REDIST)}
    assert list(seen.values()) == [-EINVAL, -EBUSY, -EBUSY, -EBUSY, -EINVAL]
    assert with_vgic.msi(ITS_AT, flags=0) == -EINVAL
    with_vgic.backend.close(its)


# ------------------------------------------------------------------------------------------------ each release


@pytest.mark.parametrize("release", SPECIFIED)
def test_cpu_line_names_the_vcpu_by_id_since_6_12(release: str) -> None:
    with emulated(release) as vm:
        give_vcpus(vm, 0, 511)
        found = {number for number in range(1024) if vm.line(CPU, 1, number) == 0}
        assert found == ({0, 511} if release in {"6.12", "7.3"} else {0, 1})
        assert vm.line(CPU, 2, 0) == -EINVAL


@pytest.mark.parametrize("release", SPECIFIED)
def test_uninitialised_vgicv3_is_noticed_first_since_7_3(release: str) -> None:
    first = release == "7.3"
    with emulated(release) as vm:
        give_vcpus(vm, 0)
        state(vm).vgic = vgic(initialised=False)
        assert vm.line(SPI, 31) == (-EBUSY if first else -EINVAL)
        assert vm.line(PPI, 32) == (-EBUSY if first else -EINVAL)
        assert vm.line(PPI, 16, 9) == (-EBUSY if first else -EINVAL)
        assert (vm.line(SPI, 5000), vm.line(PPI, 16), vm.irqfd(-1)) == (-EBUSY, -EBUSY, -EAGAIN)


@pytest.mark.parametrize(
    ("kind", "number", "inits"), [(SPI, 31, ("7.3",)), (PPI, 15, ("7.3",)), (SPI, 2000, SPECIFIED)]
)
@pytest.mark.parametrize("release", SPECIFIED)
def test_line_that_is_refused_may_initialise_a_vgicv2(
    release: str, kind: int, number: int, inits: tuple[str, ...]
) -> None:
    with emulated(release, gic="v2") as vm:
        give_vcpus(vm, 0)
        state(vm).vgic = vgic("v2", initialised=False)
        assert vm.line(kind, number) == -EINVAL
        assert state(vm).vgic.initialised == (release in inits)


@pytest.mark.parametrize(("release", "result"), [("5.10", 0), ("6.1", -EINVAL), ("6.12", 0), ("7.3", 0)])
def test_ppi_of_a_vcpu_whose_id_is_no_index(release: str, result: int) -> None:
    by_id = release in {"6.12", "7.3"}
    with emulated(release) as vm:
        give_vcpus(vm, 0, 5)
        state(vm).vgic = vgic()
        assert vm.line(PPI, 16, 5 if by_id else 1) == result
        levels = {(PPI, 5 if by_id else 0, 16): True} if result == 0 else {}
        assert state(vm).interrupts.levels == levels


def test_level_is_remembered() -> None:
    with emulated() as vm:
        state(vm).vgic = vgic()
        vm.line(SPI, 40, level=7)
        assert state(vm).interrupts.levels == {(SPI, None, 40): True}
        vm.line(SPI, 40, level=0)
        assert state(vm).interrupts.levels == {(SPI, None, 40): False}


@needs_eventfd
@pytest.mark.parametrize("release", SPECIFIED)
def test_eventfd_is_one_irqfd_in_all_vms_since_7_3(release: str, eventfds: list[int]) -> None:
    kernel = Kernel(host(release))
    vms = [Asked(kernel.backend, kernel.create()) for _ in range(2)]
    for vm in vms:
        state(vm).vgic = vgic()
    assert (vms[0].irqfd(eventfds[0]), vms[0].irqfd(eventfds[1], flags=DEASSIGN)) == (0, 0)
    assert vms[1].irqfd(eventfds[0]) == (-EBUSY if release == "7.3" else 0)
    kernel.close()


@needs_eventfd
def test_eventfds_are_told_apart_from_other_files(eventfds: list[int]) -> None:
    with emulated() as vm:
        state(vm).vgic = vgic()
        assert (vm.irqfd(-1), vm.irqfd(vm.fd), vm.irqfd(eventfds[0])) == (-EBADF, -EINVAL, 0)


@needs_eventfd
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")  # noqa: PTH112
def test_nothing_is_left_open_behind_a_vm(eventfds: list[int]) -> None:
    # What earlier tests left for the collector is not this VM's.
    gc.collect()
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with emulated() as vm:
        state(vm).vgic = vgic()
        vm.irqfd(eventfds[0])
        vm.ioeventfd(eventfds[0])
    del vm
    gc.collect()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_msi_of_an_its_that_a_guest_has_set_up_is_blocked_where_nothing_is_mapped() -> None:
    with emulated() as vm:
        state(vm).vgic = vgic()
        assert vm.device(ITS) >= 0
        (its,) = state(vm).itses
        its.base, its.is_on_bus, its.enabled = ITS_AT, True, True
        found = {at: vm.msi(at, flags=1) for at in (ITS_AT - 1, ITS_AT, ITS_AT + 0x1_FFFF, ITS_AT + 0x2_0000)}
        assert list(found.values()) == [-EINVAL, 0, 0, -EINVAL]
