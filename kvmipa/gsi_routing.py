# SPDX-License-Identifier: Apache-2.0
"""Where an irqfd's GSI leads, and messages that are interrupts: KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.causes.interrupts import gsi_routing_error, signal_msi_error
from kvmipa.interrupt_lines import has_vgic
from kvmipa.packing import PackedStruct, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvmipa.asking import Ask

_ROUTING: Final = PackedStruct("irq_routing")
_ENTRY: Final = PackedStruct("irq_routing_entry")
_MSI: Final = PackedStruct("msi")

_LOW_HALF: Final = 0xFFFF_FFFF


@dataclass(frozen=True)
class IrqchipRoute:
    """A GSI that raises a pin of the vGIC: pin 0 is SPI 32.

    >>> vars(IrqchipRoute(gsi=3, pin=8))
    {'gsi': 3, 'pin': 8, 'irqchip': 0}
    """

    gsi: int
    pin: int
    irqchip: int = 0

    def pack(self) -> bytearray:
        """As a struct kvm_irq_routing_entry."""
        return _ENTRY.pack(self.gsi, abi.KVM_IRQ_ROUTING_IRQCHIP, 0, 0, self.irqchip, self.pin)


@dataclass(frozen=True)
class MsiRoute:
    """A GSI that sends a message: what a device would write, and where; device_id: who that device is to the ITS.

    >>> hex(MsiRoute(gsi=3, address=0x808_0040, data=1, device_id=8).address)
    '0x8080040'
    """

    gsi: int
    address: int
    data: int
    device_id: int | None = None

    def pack(self) -> bytearray:
        """As a struct kvm_irq_routing_entry."""
        return _ENTRY.pack(
            self.gsi, abi.KVM_IRQ_ROUTING_MSI, _flags(self.device_id), 0, *_halves(self.address), self.data,
            0 if self.device_id is None else self.device_id,
        )  # fmt: skip


def set_routes(ask: Ask, routes: Iterable[IrqchipRoute | MsiRoute]) -> None:
    """KVM_SET_GSI_ROUTING: these routes in place of those that there were."""
    table = tuple(routes)
    argument = _ROUTING.pack(len(table), 0)
    for route in table:
        argument += route.pack()
    result = ask(abi.KVM_SET_GSI_ROUTING, argument)
    if result < 0:
        raise gsi_routing_error(-result, table)


def signal_msi(ask: Ask, address: int, data: int, device_id: int | None) -> bool:
    """KVM_SIGNAL_MSI: whether the interrupt was delivered."""
    argument = _MSI.pack(*_halves(address), data, _flags(device_id), 0 if device_id is None else device_id)
    result = ask(abi.KVM_SIGNAL_MSI, argument)
    if result < 0:
        sender = "" if device_id is None else f" of device {device_id:#x}"
        asked = f"an MSI{sender} with data {data:#x} to {address:#x}"
        raise signal_msi_error(-result, asked, device_id, has_vgic=has_vgic(ask))
    return bool(result)


def _flags(device_id: int | None) -> int:
    return 0 if device_id is None else abi.KVM_MSI_VALID_DEVID


def _halves(address: int) -> tuple[int, int]:
    number = unsigned("address", address, 64)
    return number & _LOW_HALF, number >> 32
