# SPDX-License-Identifier: Apache-2.0
"""Where things are in struct kvm_run, the memory that a vCPU shares with KVM_RUN (kernel-device-spec 7)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from kvmipa.packing import fields_of


def offset_of(name: str, field: str) -> int:
    """Where a field of a struct of the ABI begins, in bytes.

    >>> offset_of("run", "exit_reason"), offset_of("exit_mmio", "is_write")
    (8, 20)
    """
    return next(found.offset for found in fields_of(name) if found.name == field)


# One byte: KVM_RUN comes back before the guest runs, after it has completed what an exit left open.
IMMEDIATE_EXIT: Final = offset_of("run", "immediate_exit")
EXIT_REASON: Final = offset_of("run", "exit_reason")
FLAGS: Final = offset_of("run", "flags")

# The union with what there is to know of an exit: one of the structs exit_*.
EXIT: Final = offset_of("run", "exit")
MMIO_DATA: Final = EXIT + offset_of("exit_mmio", "data")
MMIO_LEN: Final = EXIT + offset_of("exit_mmio", "len")

exit_reason: Final = Struct("=I").unpack_from
set_exit_reason: Final = Struct("=I").pack_into
exit_flags: Final = Struct("=H").unpack_from

#: Of an MMIO exit: phys_addr, data as a number, len, is_write. It is the exit that has to be fast: what makes KVM_RUN
#: (Backend.runner) has cleared the bytes of data that are not the access's.
mmio_fields: Final = Struct("=QQI?").unpack_from

#: Size in bytes -> what writes the answer of a load: (area, offset, value); struct.error for what does not fit.
ANSWERS: Final = {size: Struct(f"={letter}").pack_into for size, letter in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))}
