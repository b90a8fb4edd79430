# SPDX-License-Identifier: Apache-2.0
"""MMIO: accesses that user space, or an ioeventfd, answers for (io_mem_abort, kvm_handle_mmio_return)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.cpu import instructions

if TYPE_CHECKING:
    from kvmipa.access import MmioExit
    from kvmipa.backend.emulated.cpu.instructions import Transfer
    from kvmipa.backend.emulated.cpu.processor import Processor

# kvm_run.mmio, and the data in it.
_LAYOUT: Final = Struct("=QQIB")
_DATA: Final = Struct("=Q")
_DATA_AT: Final = 8


def _turned(value: int, size: int) -> int:
    """The bytes of a big-endian guest the other way round (vcpu_data_guest_to_host, vcpu_data_host_to_guest).

    >>> hex(_turned(0x1122, 2))
    '0x2211'
    """
    return int.from_bytes((value & (1 << 8 * size) - 1).to_bytes(size, "little"), "big")


class Mmio:
    """The MMIO exits of one CPU, of which one may be open: user space has it, and the instruction is not done."""

    def __init__(self, cpu: Processor) -> None:
        self._cpu = cpu
        self._transfer: Transfer | None = None
        # Where the guest goes on, once the register is written.
        self._behind: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether an exit is to be completed."""
        return self._transfer is not None

    def exit(self, found: MmioExit, transfer: Transfer) -> int | None:
        """Have it answered: KVM_EXIT_MMIO, or None where the kernel has done it."""
        cpu = self._cpu
        address, size, is_write = found
        value = 0
        if is_write:
            value = self._stored(transfer)
            if cpu.translation.is_big_endian:
                value = _turned(value, size)
            if "io_events" in cpu.vm.__dict__ and self._taken(address, value.to_bytes(8, "little")[:size]):
                return None
        self._transfer, self._behind = transfer, None
        cpu.vcpu.counters.count("mmio_exit_user")
        return cpu.area.exit(abi.KVM_EXIT_MMIO, _LAYOUT, address, value, size, is_write)

    def _stored(self, transfer: Transfer) -> int:
        if transfer.register == instructions.XZR:
            return 0
        return self._cpu.engine.x(transfer.register) & (1 << 8 * transfer.size) - 1

    def _taken(self, address: int, data: bytes) -> bool:
        """Whether an ioeventfd, or the ring of coalesced MMIO, has it."""
        cpu = self._cpu
        with cpu.vm.lock:
            taken = cpu.vm.io_events.write(address, len(data), data)
        if taken:
            cpu.vcpu.counters.count("mmio_exit_kernel")
            cpu.skip()
        return bool(taken)

    def complete(self) -> bool:
        """Finish the instruction of the open exit: its register, and behind it (kvm_handle_mmio_return).

        False: an abort is pending instead.
        """
        cpu, transfer = self._cpu, self._transfer
        if transfer is None or cpu.vcpu.exception_pending:
            self.drop()
            return False
        if not transfer.store:
            extends = not transfer.signed or cpu.vm.behaviour.mmio_loads_are_extended
            answer = cpu.area.answer(_DATA, _DATA_AT)
            if cpu.translation.is_big_endian:
                answer = _turned(answer, transfer.size)
            cpu.engine.set_x(transfer.register, transfer.loaded(answer, extends=extends))
        # Once, also if a signal handler raises in between, and it is done again.
        if self._behind is None:
            self._behind = cpu.engine.pc + instructions.SIZE
        cpu.engine.pc = self._behind
        self.drop()
        return True

    def drop(self) -> None:
        """No exit is open any more."""
        self._transfer = self._behind = None
