# SPDX-License-Identifier: Apache-2.0
"""VTCR_EL2 and the stage-2 tables of real kernels' VMs, read from the emulated CPU and the emulated machine's memory.

No ioctl shows them. ci.lab.stage2_sampler runs in the guest and keeps a VM of each size spinning until it was looked at
here, through QEMU's gdb stub. Nothing of kvmipa's own model of stage 2 is used: it is compared with the samples.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ci.lab.errors import LabError
from ci.lab.gdbstub import GdbStub
from ci.lab.listener import Terminal
from ci.lab.record import Attendant
from ci.lab.stage2_sampler import CODE, MAGIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from ci.lab.config import Configuration

# What is not tried, sizes and names of slots, by page size: a guest of QEMU 7.2 never executes its first instruction if
# its stage 2 starts at level 0 with 16K pages.
_LEFT_OUT: Final[dict[int, tuple[int | str, ...]]] = {16384: (52,)}
# And by kernel and mode: KVM_RUN is EINVAL where pKVM of 7.3 is to give a guest memory that is a device's.
_LEFT_OUT_OF: Final = {("7.3", "protected"): ("device",)}

# For the memory that the host maps by 1G; one CPU, which is looked at.
MACHINE: Final = {"smp": 1, "memory": 4096, "append": "hugepagesz=1G hugepages=1"}
# Between two looks: time for the guest's kernel to come to the next VM.
_PAUSE: Final = 0.05

# Arm ARM: SPSR_EL1.M of EL1 with SP_EL1, HCR_EL2.VM.
_MODE: Final = 0xF
_EL1H: Final = 0x5
_HCR_VM: Final = 1
# Arm ARM, VTCR_EL2: page shift by TG0; the start level is this less SL0.
_PAGE_SHIFT: Final = {0: 12, 1: 16, 2: 14}
_LEVEL_OF_SL0_0: Final = {12: 2, 14: 3, 16: 3}
_LAST_LEVEL: Final = 3


# ---------------------------------------------------------------------------------------------- one VM's tables


@dataclass(frozen=True, slots=True)
class Entry:
    """A descriptor that is not zero: the IPA that it begins at, its level, its 64 bits."""

    ipa: int
    level: int
    descriptor: int

    def as_json(self) -> list[Any]:
        """One element of a sample's "tables" or "leaves"."""
        return [hex(self.ipa), self.level, hex(self.descriptor)]

    def follows(self, other: Entry, distance: int) -> bool:
        """Whether it goes on where another one of the same level ends, in the IPA space and in memory."""
        return self == Entry(other.ipa + distance, other.level, other.descriptor + distance)


@dataclass(frozen=True, slots=True)
class Shape:
    """What VTCR_EL2 says of the tables below VTTBR_EL2 (Arm ARM, VTCR_EL2 and "Descriptor formats")."""

    vtcr_el2: int

    @property
    def page_shift(self) -> int:
        """log2 of the page size."""
        return _PAGE_SHIFT[self.vtcr_el2 >> 14 & 3]

    @property
    def start_level(self) -> int:
        """The level of the first lookup."""
        return _LEVEL_OF_SL0_0[self.page_shift] - (self.vtcr_el2 >> 6 & 3)

    @property
    def wide(self) -> bool:
        """Whether descriptors have 52-bit output addresses (DS)."""
        return bool(self.vtcr_el2 >> 32 & 1)

    def shift(self, level: int) -> int:
        """log2 of the bytes that one entry covers."""
        return self.page_shift + (_LAST_LEVEL - level) * (self.page_shift - 3)

    def entries(self, level: int) -> int:
        """Entries of a table; at the start level of all that are side by side."""
        if level == self.start_level:
            return 1 << (64 - (self.vtcr_el2 & 0x3F)) - self.shift(level)
        return 1 << self.page_shift - 3

    @property
    def address_bits(self) -> int:
        """The bits of a descriptor that are an address."""
        high = 50 if self.wide else 48
        return (1 << high) - (1 << self.page_shift) | (3 << 8 if self.wide else 0)

    def output_address(self, descriptor: int) -> int:
        """Where a descriptor points to."""
        address = descriptor & self.address_bits & ~(3 << 8)
        return address | ((descriptor >> 8 & 3) << 50 if self.wide else 0)


def base_address(vttbr_el2: int) -> int:
    """VTTBR_EL2.BADDR of tables below 2^48 bytes: VMID is above, CnP and the address's upper bits are below."""
    return vttbr_el2 & 0xFFFF_FFFF_FFC0


def entries(read: Callable[[int, int], bytes], vtcr_el2: int, vttbr_el2: int) -> Iterator[tuple[bool, Entry]]:
    """Every descriptor that is not zero, upper levels first, and whether it points to a table."""
    shape = Shape(vtcr_el2)

    def table(address: int, level: int, ipa: int) -> Iterator[tuple[bool, Entry]]:
        size = shape.entries(level) * 8
        data = read(address, size)
        for offset in range(0, size, 8):
            descriptor = int.from_bytes(data[offset : offset + 8], "little")
            if not descriptor:
                continue
            first = ipa + (offset // 8 << shape.shift(level))
            is_table = level < _LAST_LEVEL and descriptor & 3 == 3
            yield is_table, Entry(first, level, descriptor)
            if is_table:
                yield from table(shape.output_address(descriptor), level + 1, first)

    return table(base_address(vttbr_el2), shape.start_level, 0)


def runs(found: Iterable[Entry], shape: Shape) -> Iterator[list[Any]]:
    """Leaves as JSON; of those that follow one another only the first, and how many they are where it is not one."""
    run: list[Entry] = []
    for entry in found:
        if run and not entry.follows(run[-1], 1 << shape.shift(entry.level)):
            yield _run_as_json(run)
            run = []
        run.append(entry)
    if run:
        yield _run_as_json(run)


def _run_as_json(run: list[Entry]) -> list[Any]:
    return run[0].as_json() + ([len(run)] if len(run) > 1 else [])


# ---------------------------------------------------------------------------------------------- looking


def look(stub: GdbStub) -> int | None:
    """The machine type of the VM that spins in this moment; None where the CPU does something else."""
    at_el1 = stub.read_register("cpsr") & _MODE == _EL1H
    in_its_code = stub.read_register("pc") >> 12 == CODE >> 12
    if not (at_el1 and in_its_code and stub.read_register("x19") == MAGIC and stub.read_register("HCR_EL2") & _HCR_VM):
        return None
    return stub.read_register("x20")


def sample(stub: GdbStub) -> dict[str, Any]:
    """The registers and tables of the VM that runs."""
    vtcr_el2, vttbr_el2 = stub.read_register("VTCR_EL2"), stub.read_register("VTTBR_EL2")
    found = list(entries(stub.read_physical, vtcr_el2, vttbr_el2))
    return {
        "vtcr_el2": hex(vtcr_el2),
        "vttbr_el2": hex(vttbr_el2),
        "tables": [entry.as_json() for is_table, entry in found if is_table],
        "leaves": list(runs((entry for is_table, entry in found if not is_table), Shape(vtcr_el2))),
    }


class Watch(Terminal):
    """Looks at every VM of a guest while its command runs, in a thread of its own."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.samples: dict[int, dict[str, Any]] = {}
        #: Why it looks no longer: no more than the power-off where every VM was seen.
        self.error: Exception | None = None
        self._port = port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def begin(self) -> None:
        """See Listener."""
        super().begin()
        self._thread.start()

    def end(self) -> None:
        """See Listener; the machine goes on to its power-off, whatever the thread was about."""
        super().end()
        self._ended.set()
        # Bounded: until this returns nobody reads what the guest says, and a guest that has to wait answers no stub.
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        try:
            with GdbStub.connect(self._port) as stub:
                while not self._ended.is_set():
                    self._look(stub)
                    stub.resume()
                    time.sleep(_PAUSE)
                    stub.halt()
        except (LabError, OSError, ValueError) as error:
            self.error = error

    def _look(self, stub: GdbStub) -> None:
        machine_type = look(stub)
        if machine_type is None:
            return
        if machine_type not in self.samples:
            self.samples[machine_type] = sample(stub)
        stub.write_register("x21", 1)


# ---------------------------------------------------------------------------------------------- a configuration


class Looking(Attendant):
    """Looks at the VMs of a configuration's guest, and adds what it saw to what the guest says of them."""

    def __init__(self, configuration: Configuration) -> None:
        kernel, mode = configuration.kernel, configuration.mode
        left_out = [*_LEFT_OUT.get(kernel.page_size, ()), *_LEFT_OUT_OF.get((kernel.name, mode.name), ())]
        self._watch = Watch(port := _free_port())
        super().__init__({"left_out": left_out}, self._watch, port)

    def trouble(self) -> str:
        """See Attendant."""
        return f"; the gdb stub: {self._watch.error}" if self._watch.error else ""

    def finish(self, path: Path) -> None:
        """See Attendant."""
        header, *vms = map(json.loads, path.read_text().splitlines())
        lines = [header, *joined(vms, self._watch.samples)]
        path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def joined(vms: list[dict[str, Any]], samples: Mapping[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the guest says of each VM, and what was seen of it; LabError where one was not seen."""
    made = [vm["machine_type"] for vm in vms]
    if made != list(samples):
        raise LabError(f"the guest ran VMs of the types {made}, seen were {list(samples)}")
    for vm in vms:
        yield vm | samples[vm["machine_type"]]


def comparable(line: dict[str, Any]) -> dict[str, Any]:
    """What is the same each time a VM is sampled: all but where in memory its tables and its pages are."""
    shape = Shape(int(line["vtcr_el2"], 16))

    def at(ipa: str, level: int, descriptor: str, count: int = 1) -> Iterator[list[Any]]:
        attributes = int(descriptor, 16) & ~shape.address_bits
        for number in range(count):
            yield [hex(int(ipa, 16) + (number << shape.shift(level))), level, hex(attributes)]

    return {
        **{name: value for name, value in line.items() if name != "vttbr_el2"},
        "slots": [{name: slot[name] for name in slot if name != "hva_phase"} for slot in line["slots"]],
        **{name: [one for entry in line[name] for one in at(*entry)] for name in ("tables", "leaves")},
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
