# SPDX-License-Identifier: Apache-2.0
"""The rule of QEMU's virt machine against QEMU itself: where it puts ECAM and PCIe window, and what it refuses."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from kvmipa.layout import Choice, Question, qemu_virt
from tests.layout.maps import ram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QEMU = shutil.which("qemu-system-aarch64")
pytestmark = pytest.mark.skipif(QEMU is None, reason="needs qemu-system-aarch64")

# Without KVM, virt_set_memmap takes the CPU's physical address bits for the limit.
CPUS = {40: "cortex-a53", 44: "cortex-a57"}
BEGIN_NODE, END_NODE, PROPERTY, END = 1, 2, 3, 9


def properties(blob: bytes) -> Iterator[tuple[str, str, bytes]]:
    """(node, property, value) of a flattened device tree."""
    place, strings = struct.unpack_from(">2I", blob, 8)
    node: list[str] = []
    while True:
        (token,) = struct.unpack_from(">I", blob, place)
        place += 4
        if token == BEGIN_NODE:
            end = blob.index(b"\0", place)
            node.append(blob[place:end].decode())
            place = end + 4 & ~3
        elif token == END_NODE:
            node.pop()
        elif token == PROPERTY:
            size, name = struct.unpack_from(">2I", blob, place)
            place += 8
            yield (
                "/".join(node),
                blob[strings + name : blob.index(b"\0", strings + name)].decode(),
                blob[place : place + size],
            )
            place = place + size + 3 & ~3
        elif token == END:
            return


def run(gib: int, limit: int, highmem: bool, blob: Path) -> str:
    """Errors of a QEMU that writes its device tree and ends."""
    found = subprocess.run(
        [
            str(QEMU),
            *("-nographic", "-nodefaults", "-cpu", CPUS[limit], "-m", f"{gib}G"),
            *("-object", f"memory-backend-ram,id=ram,size={gib}G,reserve=off"),
            *("-machine", f"virt,memory-backend=ram,dumpdtb={blob}{'' if highmem else ',highmem=off'}"),
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    return found.stderr if found.returncode else ""


def expected_windows(choice: Choice) -> tuple[int, int | None]:
    """Where the ECAM is, and the high PCIe window, or None."""
    bases = {region.name: region.base for region in choice.memory_map.regions}
    return bases.get("ecam", 0x3F000000), bases.get("pcie-window")


def windows(blob: bytes) -> tuple[int, int | None]:
    """The same from QEMU's device tree; a 64-bit window has the type 3 in its first cell."""
    pcie = {name: value for node, name, value in properties(blob) if "pcie@" in node}
    (ecam,) = struct.unpack_from(">Q", pcie["reg"])
    ranges = struct.iter_unpack(">IQQQ", pcie["ranges"])
    return ecam, next((base for kind, _, base, _ in ranges if kind >> 24 == 3), None)


@pytest.mark.parametrize("limit", CPUS)
@pytest.mark.parametrize("gib", [1, 255, 256, 300, 511, 512, 700, 1000, 1022, 1023, 1024, 1025, 3000])
def test_qemu_decides_as_its_rule_says(gib: int, limit: int, tmp_path: Path) -> None:
    compare(gib, limit, True, tmp_path / "virt.dtb")


@pytest.mark.parametrize("gib", [1, 3, 4, 64])
def test_qemu_without_highmem_decides_as_its_rule_says(gib: int, tmp_path: Path) -> None:
    compare(gib, 40, False, tmp_path / "virt.dtb")


def compare(gib: int, limit: int, highmem: bool, blob: Path) -> None:
    choice = qemu_virt(Question(ram(gib), limit), highmem=highmem)
    errors = run(gib, limit, highmem, blob)
    if choice.works:
        assert errors == ""
        assert windows(blob.read_bytes()) == expected_windows(choice)
        return
    said = re.search(r"Addressing limited to (\d+) bits, but memory exceeds it by (\d+) bytes", errors)
    assert said, errors
    assert choice.problem == (
        f"addressing is limited to {said[1]} bits, but memory exceeds it by {int(said[2]) >> 30} GiB"
    )
