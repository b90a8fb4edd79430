# SPDX-License-Identifier: Apache-2.0
"""Routes of GSIs, and MSIs (kernel-device-spec 4.8), on every kernel there is."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

import pytest

from kvmipa import IrqchipRoute, MsiRoute, errors
from kvmipa.gsi_routing import signal_msi
from tests.vgic_machine import ITS, VgicMachine

if TYPE_CHECKING:
    from kvmipa import Kvm, Vm

TRANSLATER = ITS + 0x1_0040


def test_routes_need_no_vgic(vm: Vm) -> None:
    vm.set_gsi_routing([])
    vm.set_gsi_routing(IrqchipRoute(gsi, gsi % 988) for gsi in range(4096))
    vm.set_gsi_routing(
        [IrqchipRoute(4095, 987), MsiRoute(0, (1 << 64) - 1, 0xFFFF_FFFF, 0xFFFF_FFFF), MsiRoute(1, 0, 0)]
    )


def test_struct_has_each_part_in_its_place() -> None:
    # gsi, type, flags, pad, then irqchip and pin, or the address's halves, data and device (kernel-device-spec 7).
    layout = "=12I"
    assert struct.unpack(layout, IrqchipRoute(3, 8).pack()) == (3, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    message = MsiRoute(4, 0x1_2345_6789_ABCD, 5, device_id=6)
    assert struct.unpack(layout, message.pack()) == (4, 2, 1, 0, 0x6789_ABCD, 0x1_2345, 5, 6, 0, 0, 0, 0)
    assert struct.unpack(layout, MsiRoute(4, 0, 5).pack())[2] == 0


def test_msi_has_each_part_in_its_place() -> None:
    asked: list[tuple[int, ...]] = []

    def ask(_request: int, argument: bytearray) -> int:
        asked.append(struct.unpack("=5I12x", argument))
        return len(asked) % 2

    assert signal_msi(ask, 0x1_2345_6789_ABCD, 5, 6) is True
    assert signal_msi(ask, 0, 5, None) is False
    assert asked == [(0x6789_ABCD, 0x1_2345, 5, 1, 6), (0, 0, 5, 0, 0)]


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ([IrqchipRoute(gsi, 0) for gsi in range(4097)], "4097 routes are too many"),
        ([MsiRoute(1, 0, 0), IrqchipRoute(1, 0)], "GSI 1 has a route already"),
        ([IrqchipRoute(4096, 0)], "GSI 4096 is beyond the last one"),
        ([MsiRoute(0, 0, 0), IrqchipRoute(1, 988)], "no such pin"),
        ([IrqchipRoute(1, 0, irqchip=1)], "irqchip 0 alone"),
    ],
)
def test_route_that_is_refused(vm: Vm, routes: list[IrqchipRoute | MsiRoute], words: str) -> None:
    with pytest.raises(errors.GsiRouteError) as caught:
        vm.set_gsi_routing(routes)
    assert (caught.value.errno, caught.value.ioctl) == (errno.EINVAL, "KVM_SET_GSI_ROUTING")
    assert words in caught.value.cause


def test_what_does_not_fit_is_named(vm: Vm) -> None:
    with pytest.raises(OverflowError, match="address=18446744073709551616 does not fit 64 bits"):
        vm.set_gsi_routing([MsiRoute(0, 1 << 64, 0)])
    with pytest.raises(OverflowError, match="gsi=-1 does not fit 32 bits"):
        vm.set_gsi_routing([IrqchipRoute(-1, 0)])
    with pytest.raises(OverflowError, match="data=4294967296 does not fit 32 bits"):
        vm.signal_msi(0, 1 << 32)


def refused(vm: Vm, *message: int) -> errors.KvmError:
    with pytest.raises(errors.InterruptError) as caught:
        vm.signal_msi(*message)
    assert caught.value.ioctl == "KVM_SIGNAL_MSI"
    return caught.value


def test_msi_needs_a_vgic(vm: Vm) -> None:
    error = refused(vm, TRANSLATER, 0, 0)
    assert (type(error), error.errno) == (errors.NoVgicError, errno.EINVAL)


def test_msi_needs_an_its(kvm: Kvm, limit: int) -> None:
    with VgicMachine(kvm, limit) as machine:
        error = refused(machine.vm, TRANSLATER, 0, 0)
    assert (type(error), error.errno) == (errors.NoItsError, errno.ENODEV)


def test_msi_to_an_its(kvm: Kvm, limit: int) -> None:
    with VgicMachine(kvm, limit, its=True) as machine:
        error = refused(machine.vm, TRANSLATER, 0)
        assert (type(error), error.errno) == (errors.MsiDeviceIdError, errno.EINVAL)
        error = refused(machine.vm, TRANSLATER + 0x10_0000, 0, 5)
        assert (type(error), error.errno) == (errors.NoItsError, errno.EINVAL)
        assert "at this address" in error.cause
        error = refused(machine.vm, TRANSLATER, 0, 5)
        assert (type(error), error.errno) == (errors.ItsOffError, errno.EBUSY)


def test_closed_vm(vm: Vm) -> None:
    vm.close()
    with pytest.raises(errors.ClosedError):
        vm.set_gsi_routing([])
    with pytest.raises(errors.ClosedError):
        vm.signal_msi(0, 0, 0)
