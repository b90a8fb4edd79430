# SPDX-License-Identifier: Apache-2.0
"""Eventfds as interrupts and as the ends of writes (kernel-device-spec 4.8), on every kernel there is."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

import pytest

from kvmipa import IrqchipRoute, errors
from tests.device_asking import release_of
from tests.guests import DEVICE, OTHER_DEVICE, SPIN, STORES, GuestMachine
from tests.vgic_machine import VgicMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm, Vm

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="needs eventfd(2)")


@pytest.fixture
def event() -> Iterator[int]:
    """An eventfd that nobody waits for."""
    opened = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield opened
    os.close(opened)


@pytest.fixture
def other() -> Iterator[int]:
    """Another one."""
    opened = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield opened
    os.close(opened)


@pytest.fixture
def machine(kvm: Kvm, limit: int) -> Iterator[VgicMachine]:
    """A VM with two vCPUs and a vGICv3."""
    with VgicMachine(kvm, limit) as made:
        yield made


@pytest.fixture
def closed_fd() -> int:
    """A number of no descriptor, and too high to become another's soon."""
    fd = os.dup2(0, 700)
    os.close(fd)
    return fd


def signals(event: int) -> int:
    """How often an eventfd was signalled since."""
    try:
        return os.eventfd_read(event)
    except BlockingIOError:
        return 0


# ------------------------------------------------------------------------------------------------ irqfds


def test_irqfd_needs_a_vgic(vm: Vm, event: int) -> None:
    with pytest.raises(errors.NoVgicError) as caught:
        vm.add_irqfd(event, 3)
    assert (caught.value.errno, caught.value.ioctl) == (errno.EAGAIN, "KVM_IRQFD")


def test_irqfd_needs_an_initialised_vgic(kvm: Kvm, limit: int, event: int) -> None:
    with VgicMachine(kvm, limit, initialise=False) as machine, pytest.raises(errors.VgicNotInitialisedError) as caught:
        machine.vm.add_irqfd(event, 3)
    assert caught.value.errno == errno.EAGAIN


def test_irqfd_is_one_until_it_is_closed(machine: VgicMachine, event: int, other: int) -> None:
    vm = machine.vm
    with vm.add_irqfd(event, 3, resamplefd=other) as irqfd:
        assert (irqfd.eventfd, irqfd.gsi, irqfd.resamplefd, irqfd.closed) == (event, 3, other, False)
        with pytest.raises(errors.EventFdInUseError) as caught:
            vm.add_irqfd(event, 4)
        assert caught.value.errno == errno.EBUSY
    assert irqfd.closed
    irqfd.close()
    vm.add_irqfd(event, 4)
    vm.remove_irqfd(event, 3)
    with pytest.raises(errors.EventFdInUseError):
        vm.add_irqfd(event, 4)
    vm.remove_irqfd(event, 4)
    vm.add_irqfd(event, 4).close()


def test_irqfd_ends_with_its_eventfd(machine: VgicMachine) -> None:
    event = os.eventfd(0)
    with machine.vm.add_irqfd(event, 3):
        os.close(event)


def test_irqfd_takes_what_has_a_descriptor(machine: VgicMachine, event: int) -> None:
    with os.fdopen(os.dup(event), "rb", buffering=0) as file, machine.vm.add_irqfd(file, 3) as irqfd:
        assert irqfd.eventfd == file.fileno()


def test_irqfd_of_what_is_no_eventfd(machine: VgicMachine, event: int, closed_fd: int) -> None:
    vm = machine.vm
    with open(os.devnull) as null:  # noqa: PTH123  a descriptor
        for eventfd, code in ((closed_fd, errno.EBADF), (null, errno.EINVAL)):
            with pytest.raises(errors.NotAnEventFdError) as caught:
                vm.add_irqfd(eventfd, 3)
            assert caught.value.errno == code
            with pytest.raises(errors.NotAnEventFdError) as caught:
                vm.remove_irqfd(eventfd, 3)
            assert caught.value.errno == code
            with pytest.raises(errors.NotAnEventFdError) as caught:
                vm.add_irqfd(event, 3, resamplefd=eventfd)
            assert caught.value.errno == code


def test_what_does_not_fit_is_named(vm: Vm, event: int) -> None:
    with pytest.raises(OverflowError, match="eventfd=-1 does not fit 31 bits"):
        vm.add_irqfd(-1, 3)
    with pytest.raises(OverflowError, match=r"gsi=4294967296 does not fit 32 bits"):
        vm.add_irqfd(event, 1 << 32)
    with pytest.raises(TypeError, match="eventfd is an int, not str"):
        vm.add_ioeventfd("3", 0, 4)  # type: ignore[arg-type]
    with pytest.raises(OverflowError, match="datamatch=256 does not fit 8 bits"):
        vm.add_ioeventfd(event, 0, 1, datamatch=256)


def test_closed_vm_has_no_connections(machine: VgicMachine, event: int) -> None:
    vm = machine.vm
    irqfd, ioeventfd = vm.add_irqfd(event, 3), vm.add_ioeventfd(event, DEVICE, 4)
    vm.close()
    assert (irqfd.closed, ioeventfd.closed) == (True, True)
    irqfd.close()
    ioeventfd.close()
    for call in (
        lambda: vm.add_irqfd(event, 3),
        lambda: vm.add_ioeventfd(event, 0, 4),
        lambda: vm.remove_irqfd(event, 3),
    ):
        with pytest.raises(errors.ClosedError):
            call()
    with pytest.raises(errors.ClosedError), irqfd:
        pass


# ------------------------------------------------------------------------------------------------ ioeventfds


def test_ioeventfd_is_one_until_it_is_closed(vm: Vm, event: int, other: int) -> None:
    with vm.add_ioeventfd(event, DEVICE, 4, datamatch=7) as doorbell:
        assert (doorbell.guest_phys_addr, doorbell.size, doorbell.datamatch, doorbell.closed) == (DEVICE, 4, 7, False)
        with pytest.raises(errors.IoEventFdExistsError) as caught:
            vm.add_ioeventfd(other, DEVICE, 4)
        assert (caught.value.errno, caught.value.ioctl) == (errno.EEXIST, "KVM_IOEVENTFD")
        vm.add_ioeventfd(other, DEVICE, 4, datamatch=8).close()
        for wrong in ((other, DEVICE, 4, 7), (event, DEVICE, 2, 7), (event, DEVICE, 4, None), (event, DEVICE, 4, 8)):
            with pytest.raises(errors.NoSuchIoEventFdError) as gone:
                vm.remove_ioeventfd(*wrong[:3], datamatch=wrong[3])
            assert gone.value.errno == errno.ENOENT
    doorbell.close()
    vm.add_ioeventfd(other, DEVICE, 4)
    vm.remove_ioeventfd(other, DEVICE, 4)


@pytest.mark.parametrize(
    ("address", "size", "datamatch"),
    [(0, 3, None), (0, 16, None), ((1 << 64) - 4, 4, None), ((1 << 64) - 1, 1, None), (0, 0, 5)],
)
def test_write_that_cannot_be(vm: Vm, event: int, address: int, size: int, datamatch: int | None) -> None:
    with pytest.raises(errors.IoEventFdRangeError) as caught:
        vm.add_ioeventfd(event, address, size, datamatch=datamatch)
    assert caught.value.errno == errno.EINVAL


def test_ioeventfd_of_what_is_no_eventfd(vm: Vm, closed_fd: int) -> None:
    with open(os.devnull) as null:  # noqa: PTH123  a descriptor
        for eventfd, code in ((closed_fd, errno.EBADF), (null, errno.EINVAL)):
            for call in (vm.add_ioeventfd, vm.remove_ioeventfd):
                with pytest.raises(errors.NotAnEventFdError) as caught:
                    call(eventfd, 0, 4)
                assert caught.value.errno == code


def test_ioeventfd_whose_eventfd_was_closed_stays(vm: Vm, other: int) -> None:
    event = os.eventfd(0)
    doorbell = vm.add_ioeventfd(event, DEVICE, 4)
    os.close(event)
    with pytest.raises(errors.NotAnEventFdError):
        doorbell.close()
    with pytest.raises(errors.IoEventFdExistsError):
        vm.add_ioeventfd(other, DEVICE, 4)


def test_guests_writes_are_signals_and_no_exits(kvm: Kvm, event: int, other: int) -> None:
    # str w0, [x1] four times; of 8 bytes; of 4 bytes elsewhere.
    add = 0x11000400  # add w0, w0, #1
    with GuestMachine(kvm) as machine:
        vcpu = machine.vcpu([*[STORES[4], add] * 4, STORES[8], 0xB9000080, SPIN])
        vcpu.regs.x[0], vcpu.regs.x[4] = 1, OTHER_DEVICE
        machine.vm.add_ioeventfd(event, DEVICE, 4)
        with machine.vm.add_ioeventfd(other, OTHER_DEVICE, 4, datamatch=6):
            exit = vcpu.run(timeout=60)
        # Of another size, so it is nobody's.
        assert (exit.phys_addr, exit.size, exit.value) == (DEVICE, 8, 5)  # type: ignore[attr-defined]
        assert (signals(event), signals(other)) == (4, 0)
        # Of another value.
        with machine.vm.add_ioeventfd(other, OTHER_DEVICE, 4, datamatch=6):
            exit = vcpu.run(timeout=60)
        assert (exit.phys_addr, exit.value) == (OTHER_DEVICE, 5)  # type: ignore[attr-defined]
        assert (signals(event), signals(other)) == (0, 0)


def test_one_eventfd_may_be_an_irqfd_of_two_vms_before_7_3(kvm: Kvm, limit: int, event: int) -> None:
    with VgicMachine(kvm, limit) as first, VgicMachine(kvm, limit) as second:
        first.vm.add_irqfd(event, 3)
        if release_of(kvm) < (7, 3):
            second.vm.add_irqfd(event, 3)
        else:
            with pytest.raises(errors.EventFdInUseError):
                second.vm.add_irqfd(event, 3)


def test_signals_are_interrupts(machine: VgicMachine, event: int) -> None:
    """GSI 8 is SPI 40, and pending; the kernel does it in a thread of its own."""
    import time

    with machine.vm.add_irqfd(event, 8):
        os.eventfd_write(event, 1)
        end = time.monotonic() + 10
        while machine.distributor(0x204) != 1 << 8 and time.monotonic() < end:
            time.sleep(0.01)
        assert machine.distributor(0x204) == 1 << 8


def test_signals_go_where_the_routes_go_when_they_are_made(machine: VgicMachine, event: int, other: int) -> None:
    """GSI 8 is SPI 41, and GSI 9 none; the irqfd's end, and other routes, come after what was signalled before."""
    import time

    def pending_in_time(expected: int) -> int:
        end = time.monotonic() + 10
        while machine.distributor(0x204) != expected and time.monotonic() < end:
            time.sleep(0.01)
        return machine.distributor(0x204)

    machine.vm.set_gsi_routing([IrqchipRoute(8, 9)])
    with machine.vm.add_irqfd(other, 9), machine.vm.add_irqfd(event, 8):
        os.eventfd_write(other, 1)
        os.eventfd_write(event, 1)
        assert pending_in_time(1 << 9) == 1 << 9
        machine.vm.set_gsi_routing([IrqchipRoute(8, 10)])
        os.eventfd_write(event, 1)
    assert pending_in_time(3 << 9) == 3 << 9
    # The kernel took them.
    assert [select.select([fd], [], [], 0)[0] for fd in (event, other)] == [[], []]
