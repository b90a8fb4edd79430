# SPDX-License-Identifier: Apache-2.0
"""Eventfds of the process as a VM's interrupts and as the ends of its writes: KVM_IRQFD, KVM_IOEVENTFD.

kernel-device-spec 4.8. With them neither side has to wait for the other: no exit, and no request.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from kvmipa import abi
from kvmipa.causes import closed_error
from kvmipa.causes.event_fds import IoEventFdAttempt, IrqfdAttempt
from kvmipa.closing import Closing
from kvmipa.errors import NotAnEventFdError
from kvmipa.interrupt_lines import has_vgic
from kvmipa.packing import PackedStruct, unsigned

if TYPE_CHECKING:
    from kvmipa.asking import Ask
    from kvmipa.vm import Vm

    class HasFileno(Protocol):
        """What has a descriptor."""

        def fileno(self) -> int:
            """Its number."""
            ...

    EventFd = int | HasFileno

_IRQFD: Final = PackedStruct("irqfd")
_IOEVENTFD: Final = PackedStruct("ioeventfd")


def descriptor_of(name: str, eventfd: EventFd) -> int:
    """The number of a descriptor; TypeError, OverflowError for what cannot be one."""
    number = eventfd.fileno() if hasattr(eventfd, "fileno") else eventfd
    # The kernel's is an int, and not negative.
    return unsigned(name, number, 31)


class _Connection(Closing):
    """An eventfd that is connected with a VM until close()."""

    what = ""

    def __init__(self, vm: Vm, eventfd: int) -> None:
        self._vm = vm
        self.eventfd = eventfd
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether close() was called, or the Vm is closed: nobody can take it apart any more then."""
        return self._closed or self._vm.closed

    def _require_open(self) -> None:
        if self.closed:
            raise closed_error(type(self).__name__)

    def _state(self) -> str:
        return "closed" if self.closed else f"eventfd={self.eventfd}"


class Irqfd(_Connection):
    """An eventfd whose signals are an interrupt; made by Vm.add_irqfd().

    It is as good as its arguments: it may be dropped. It ends with close(), at the end of a ``with`` block, with the
    last descriptor of its eventfd, or with the VM. eventfd, resamplefd: numbers. gsi: as given.

    >>> import kvmipa, os
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_device("vgic-v3") as vgic:
    ...     vgic.set_distributor(0x800_0000)
    ...     vgic.add_redistributor_region(0x80a_0000, 1)
    ...     vcpu = vm.create_vcpu(0)
    ...     vgic.init()
    ...     event = os.eventfd(0)
    ...     with vm.add_irqfd(event, 3) as irqfd:
    ...         irqfd.gsi, irqfd.closed
    ...     os.close(event)
    ...     vcpu.close()
    (3, False)
    """

    def __init__(self, vm: Vm, eventfd: int, gsi: int, resamplefd: int | None) -> None:
        super().__init__(vm, eventfd)
        self.gsi = gsi
        self.resamplefd = resamplefd

    def close(self) -> None:
        """Take it apart, if the eventfd is still there: an irqfd ends with that; closing twice does nothing."""
        if self.closed:
            return
        self._closed = True
        with suppress(NotAnEventFdError):
            self._vm.remove_irqfd(self.eventfd, self.gsi)

    def __repr__(self) -> str:
        """GSI and state."""
        return f"<kvmipa.Irqfd gsi={self.gsi} {self._state()}>"


class GuestWrite(NamedTuple):
    """A guest's write: where, of how many bytes (0: of any), and of which value (None: of any)."""

    guest_phys_addr: int
    size: int
    datamatch: int | None


class IoEventFd(_Connection):
    """An eventfd that a guest's writes signal; made by Vm.add_ioeventfd().

    It is as good as its arguments: it may be dropped. It ends with close(), at the end of a ``with`` block, or with the
    VM. eventfd: its number. guest_phys_addr, size: bytes; datamatch: None for any value.

    >>> import kvmipa, os
    >>> event = os.eventfd(0)
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
    ...     with vm.add_ioeventfd(event, 0x900_0000, 4, datamatch=1) as doorbell:
    ...         doorbell.guest_phys_addr, doorbell.size, doorbell.datamatch, doorbell.closed
    (150994944, 4, 1, False)
    >>> os.close(event)
    """

    def __init__(self, vm: Vm, eventfd: int, write: GuestWrite) -> None:
        super().__init__(vm, eventfd)
        self.guest_phys_addr, self.size, self.datamatch = write

    def close(self) -> None:
        """Take it apart; closing twice does nothing.

        Raises NotAnEventFdError or NoSuchIoEventFdError where the eventfd was closed before: the kernel finds it by its
        descriptor, and keeps it, and the address, until the VM ends.
        """
        if self.closed:
            return
        self._closed = True
        self._vm.remove_ioeventfd(self.eventfd, self.guest_phys_addr, self.size, datamatch=self.datamatch)

    def __repr__(self) -> str:
        """What is written, and the state."""
        match = "" if self.datamatch is None else f" datamatch={self.datamatch:#x}"
        return f"<kvmipa.IoEventFd {self.guest_phys_addr:#x} size={self.size}{match} {self._state()}>"


# ------------------------------------------------------------------------------------------------ requests


def assign_irqfd(ask: Ask, vm: Vm, eventfd: EventFd, gsi: int, resamplefd: EventFd | None) -> Irqfd:
    """KVM_IRQFD."""
    fd = descriptor_of("eventfd", eventfd)
    resample = None if resamplefd is None else descriptor_of("resamplefd", resamplefd)
    flags = 0 if resample is None else abi.KVM_IRQFD_FLAG_RESAMPLE
    result = ask(abi.KVM_IRQFD, _IRQFD.pack(fd, gsi, flags, resample or 0))
    if result < 0:
        raise IrqfdAttempt(fd, gsi, resample, vm.closed).error(-result, has_vgic=has_vgic(ask))
    return Irqfd(vm, fd, gsi, resample)


def deassign_irqfd(ask: Ask, vm: Vm, eventfd: EventFd, gsi: int) -> None:
    """KVM_IRQFD with KVM_IRQFD_FLAG_DEASSIGN."""
    fd = descriptor_of("eventfd", eventfd)
    result = ask(abi.KVM_IRQFD, _IRQFD.pack(fd, gsi, abi.KVM_IRQFD_FLAG_DEASSIGN))
    if result < 0:
        raise IrqfdAttempt(fd, gsi, None, vm.closed).error(-result, has_vgic=has_vgic(ask))


def assign_ioeventfd(ask: Ask, vm: Vm, eventfd: EventFd, write: GuestWrite) -> IoEventFd:
    """KVM_IOEVENTFD."""
    return IoEventFd(vm, _ioeventfd(ask, vm, eventfd, write, 0), write)


def deassign_ioeventfd(ask: Ask, vm: Vm, eventfd: EventFd, write: GuestWrite) -> None:
    """KVM_IOEVENTFD with KVM_IOEVENTFD_FLAG_DEASSIGN."""
    _ioeventfd(ask, vm, eventfd, write, abi.KVM_IOEVENTFD_FLAG_DEASSIGN)


def _ioeventfd(ask: Ask, vm: Vm, eventfd: EventFd, write: GuestWrite, flags: int) -> int:
    fd = descriptor_of("eventfd", eventfd)
    guest_phys_addr, size, datamatch = write
    if datamatch is not None:
        # The kernel compares all 64 bits with what the guest wrote: it would never be signalled.
        unsigned("datamatch", datamatch, 8 * size if size in {1, 2, 4, 8} else 64)
        flags |= abi.KVM_IOEVENTFD_FLAG_DATAMATCH
    result = ask(abi.KVM_IOEVENTFD, _IOEVENTFD.pack(datamatch or 0, guest_phys_addr, size, fd, flags))
    if result < 0:
        raise IoEventFdAttempt(fd, guest_phys_addr, size, datamatch, vm.closed).error(-result)
    return fd
