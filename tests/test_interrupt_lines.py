# SPDX-License-Identifier: Apache-2.0
"""Interrupt lines through the public methods (kernel-device-spec 4.8), on every kernel there is."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import IrqKind, IrqLine, errors
from tests.vgic_machine import VgicMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm, Vm


@pytest.fixture
def machine(kvm: Kvm, limit: int) -> Iterator[VgicMachine]:
    """A VM with two vCPUs and a vGICv3."""
    with VgicMachine(kvm, limit) as made:
        yield made


def refused(vm: Vm, line: IrqLine) -> errors.KvmError:
    """The error with which a line is refused."""
    with pytest.raises(errors.InterruptError) as caught:
        vm.irq_line(line, True)
    assert caught.value.ioctl == "KVM_IRQ_LINE"
    assert str(line) in str(caught.value)
    return caught.value


def numbers(kind: IrqKind) -> st.SearchStrategy[int]:
    return st.integers(kind.numbers.start, kind.numbers.stop - 1)


@given(
    st.sampled_from(IrqKind).flatmap(
        lambda kind: st.builds(IrqLine, st.just(kind), numbers(kind), st.integers(0, 4095))
    )
)
def test_field_has_each_part_in_its_place(line: IrqLine) -> None:
    irq = line.encode()
    assert IrqLine.decode(irq) == line
    assert (irq & 0xFFFF, irq >> 16 & 0xFF, irq >> 24 & 0xF, irq >> 28) == (
        line.number,
        line.vcpu & 0xFF,
        line.kind,
        line.vcpu >> 8,
    )


@pytest.mark.parametrize(
    "line",
    [IrqLine.spi(31), IrqLine.spi(1020), IrqLine.ppi(15), IrqLine.ppi(32), IrqLine(IrqKind.CPU, 2)],
)
def test_number_of_another_kind_is_refused_before_kvm_is_asked(line: IrqLine) -> None:
    with pytest.raises(errors.InterruptNumberError) as caught:
        line.encode()
    assert caught.value.errno == errno.EINVAL
    assert isinstance(caught.value, ValueError)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(OverflowError, match="vcpu=4096 does not fit 12 bits"):
        IrqLine.ppi(20, vcpu=4096).encode()
    with pytest.raises(OverflowError, match="number=65536 does not fit 16 bits"):
        IrqLine.spi(65536).encode()
    with pytest.raises(TypeError, match="number is an int, not str"):
        IrqLine(IrqKind.SPI, "32").encode()  # type: ignore[arg-type]


def test_without_a_vgic_a_cpus_own_lines_are_all_there_is(vm: Vm) -> None:
    with vm.create_vcpu(0):
        for line in (IrqLine.cpu_irq(), IrqLine.cpu_fiq()):
            for level in (True, True, False, False):
                vm.irq_line(line, level)
        for line in (IrqLine.spi(40), IrqLine.ppi(20)):
            error = refused(vm, line)
            assert (type(error), error.errno) == (errors.NoVgicError, errno.ENXIO)
        error = refused(vm, IrqLine.cpu_irq(vcpu=7))
        assert (type(error), error.errno) == (errors.NoSuchVcpuError, errno.EINVAL)
        assert "no vCPU 7" in error.cause
        assert "(0)" in error.available


def test_lines_of_a_vgic(machine: VgicMachine) -> None:
    vm = machine.vm
    for line in (IrqLine.spi(40), IrqLine.ppi(20), IrqLine.ppi(20, vcpu=1)):
        for level in (True, True, False):
            vm.irq_line(line, level)
    error = refused(vm, IrqLine.cpu_irq())
    assert (type(error), error.errno) == (errors.VgicOwnsLinesError, errno.ENXIO)
    error = refused(vm, IrqLine.spi(64))
    assert (type(error), error.errno) == (errors.InterruptNumberError, errno.EINVAL)
    error = refused(vm, IrqLine.ppi(20, vcpu=2))
    assert (type(error), error.errno) == (errors.NoSuchVcpuError, errno.EINVAL)


def test_raised_line_is_pending_in_the_vgic(machine: VgicMachine) -> None:
    # GICD_ISPENDR1: SPIs are triggered by their edge until a guest says otherwise.
    line, pending = IrqLine.spi(40), 0x204
    assert machine.distributor(pending) == 0
    machine.vm.irq_line(line, False)
    assert machine.distributor(pending) == 0
    machine.vm.irq_line(line, True)
    assert machine.distributor(pending) == 1 << 8
    machine.vm.irq_line(line, False)
    assert machine.distributor(pending) == 1 << 8


def test_vgic_that_is_not_initialised(kvm: Kvm, limit: int) -> None:
    with VgicMachine(kvm, limit, initialise=False) as machine:
        error = refused(machine.vm, IrqLine.spi(40))
        assert (type(error), error.errno) == (errors.VgicNotInitialisedError, errno.EBUSY)


def test_closed_vm(vm: Vm) -> None:
    vm.close()
    with pytest.raises(errors.ClosedError):
        vm.irq_line(IrqLine.spi(40), True)
