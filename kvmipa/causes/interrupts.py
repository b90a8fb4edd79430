# SPDX-License-Identifier: Apache-2.0
"""Why an interrupt line, a route or an MSI was refused (kernel-device-spec 4.8)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.causes import Cause, handle_error, unnamed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kvmipa.errors import KvmError
    from kvmipa.gsi_routing import IrqchipRoute, MsiRoute
    from kvmipa.interrupt_lines import IrqLine

# What KVM_SET_GSI_ROUTING takes: KVM_MAX_IRQ_ROUTES, KVM_IRQCHIP_NUM_PINS (1020 - 32), KVM_NR_IRQCHIPS.
MAX_ROUTES: Final = 4096
PINS: Final = 988
IRQCHIPS: Final = 1

NO_VGIC: Final = Cause(
    errors.NoVgicError, "the VM has no vGIC", "VMs with one", 'create one first: Vm.create_device("vgic-v3")'
)
VGIC_NOT_READY: Final = Cause(
    errors.VgicNotInitialisedError,
    "the vGIC is not initialised",
    "initialised ones; a vGICv2 is when its first line changes",
    "place it, create all vCPUs, then call Vgic.init()",
)


# ------------------------------------------------------------------------------------------------ lines


def bad_line_number(line: IrqLine, numbers: range) -> KvmError:
    """A number that a kind of line does not have; KVM was not asked."""
    found = Cause(
        errors.InterruptNumberError,
        f"{line.number} is not the number of a {line.kind.name}{' line' if line.kind.name == 'CPU' else ''}",
        f"{numbers.start} to {numbers.stop - 1}",
        "name the interrupt by its INTID: spi(32) is a GIC's first shared one",
    )
    return found.error(errno.EINVAL, asked=str(line), ioctl="KVM_IRQ_LINE")


def irq_line_error(code: int, line: IrqLine, vcpu_ids: Collection[int], *, has_vgic: bool) -> KvmError:
    """Why KVM_IRQ_LINE refused a line; vcpu_ids are of the vCPUs that this handle has made."""
    ioctl = "KVM_IRQ_LINE"
    common = handle_error(code, "Vm", ioctl)
    if common is not None:
        return common
    return _line_cause(code, line, vcpu_ids, has_vgic).error(code, asked=str(line), ioctl=ioctl)


def _line_cause(code: int, line: IrqLine, vcpu_ids: Collection[int], has_vgic: bool) -> Cause:
    if code == errno.ENXIO:
        return _VGIC_OWNS_LINES if has_vgic else NO_VGIC
    if code == errno.EBUSY:
        return VGIC_NOT_READY
    if code != errno.EINVAL:
        return unnamed(code, errors.InterruptError)
    if line.kind.name == "SPI":
        return _NO_SUCH_SPI.filled(number=line.number)
    return _NO_SUCH_VCPU.filled(vcpu=line.vcpu, ids=", ".join(map(str, sorted(vcpu_ids))) or "none")


_VGIC_OWNS_LINES: Final = Cause(
    errors.VgicOwnsLinesError,
    "the VM has a vGIC, which drives the lines of its CPUs",
    "SPIs and PPIs",
    "use IrqLine.spi() or IrqLine.ppi()",
)
_NO_SUCH_SPI: Final = Cause(
    errors.InterruptNumberError,
    "the vGIC has no interrupt {number}",
    "32 up to Vgic.nr_irqs, which is 256 where nobody sets it",
    "set Vgic.nr_irqs before Vgic.init(), or use a smaller number",
)
_NO_SUCH_VCPU: Final = Cause(
    errors.NoSuchVcpuError,
    "the VM has no vCPU {vcpu}",
    "the vCPUs' ids ({ids}); before Linux 6.12 their places in the order of their creation, from 0 on",
    "create the vCPU first, or name another one",
)


# ------------------------------------------------------------------------------------------------ routes and MSIs


def gsi_routing_error(code: int, routes: Sequence[IrqchipRoute | MsiRoute]) -> KvmError:
    """Why KVM_SET_GSI_ROUTING refused a table."""
    ioctl = "KVM_SET_GSI_ROUTING"
    common = handle_error(code, "Vm", ioctl)
    if common is not None:
        return common
    found = _route_cause(routes) if code == errno.EINVAL else unnamed(code, errors.InterruptError)
    return found.error(code, asked=f"{len(routes)} routes", ioctl=ioctl)


def _route_cause(routes: Sequence[IrqchipRoute | MsiRoute]) -> Cause:
    available = f"{MAX_ROUTES} routes, one for each GSI below that, to pins 0 to {PINS - 1} or to MSIs"
    if len(routes) > MAX_ROUTES:
        return Cause(errors.GsiRouteError, f"{len(routes)} routes are too many", available, "set fewer")
    seen: set[int] = set()
    for route in routes:
        why = _wrong_with(route, seen)
        if why:
            return Cause(errors.GsiRouteError, f"{route}: {why}", available, "leave it out, or change it")
        seen.add(route.gsi)
    return unnamed(errno.EINVAL, errors.GsiRouteError, available)


def _wrong_with(route: IrqchipRoute | MsiRoute, seen: set[int]) -> str:
    if route.gsi >= MAX_ROUTES:
        return f"GSI {route.gsi} is beyond the last one"
    if route.gsi in seen:
        return f"GSI {route.gsi} has a route already"
    if getattr(route, "irqchip", 0) >= IRQCHIPS:
        return "there is irqchip 0 alone"
    return "the vGIC has no such pin" if getattr(route, "pin", 0) >= PINS else ""


def signal_msi_error(code: int, asked: str, device_id: int | None, *, has_vgic: bool) -> KvmError:
    """Why KVM_SIGNAL_MSI refused a message."""
    ioctl = "KVM_SIGNAL_MSI"
    common = handle_error(code, "Vm", ioctl)
    if common is not None:
        return common
    found = _MSI.get(code) or unnamed(code, errors.InterruptError)
    if code == errno.EINVAL:
        found = NO_VGIC if not has_vgic else _NO_DEVICE_ID if device_id is None else _NO_ITS_THERE
    return found.error(code, asked=asked, ioctl=ioctl)


_MSI: Final = {
    errno.ENODEV: Cause(
        errors.NoItsError,
        "the VM has no ITS, to which MSIs are sent",
        "VMs with one, on hosts with a GICv3",
        'create one and place it: Vm.create_device("vgic-its"), Its.set_address(), Its.init()',
    ),
    errno.EBUSY: Cause(
        errors.ItsOffError,
        "the guest has not switched the ITS on",
        "ITSes that a guest's driver has set up (GITS_CTLR.Enabled)",
        "send MSIs once the guest asks for them",
    ),
}
_NO_DEVICE_ID: Final = Cause(
    errors.MsiDeviceIdError,
    "an MSI to an ITS needs the id of the device that sends it",
    "device_id=...",
    "pass the device's requester id",
)
_NO_ITS_THERE: Final = Cause(
    errors.NoItsError,
    "there is no ITS at this address",
    "an initialised ITS's translation register: its address + 0x10040",
    "send it to GITS_TRANSLATER of an ITS that is placed and initialised",
)
