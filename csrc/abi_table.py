# SPDX-License-Identifier: Apache-2.0
"""Writes kvmipa/_abi_table.py from csrc/kvm_abi.h: ``python csrc/abi_table.py``.

The table is committed, so that neither installing nor importing kvmipa needs a C parser. tests/test_abi.py fails where
the committed table is not what this program writes, and where the compiled extension sees other numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from struct import calcsize
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CSRC = Path(__file__).parent
TABLE = CSRC.parent / "kvmipa" / "_abi_table.py"

# asm-generic/ioctl.h: direction 31:30, size 29:16, type 15:8, number 7:0.
DIRECTIONS = {"IO": 0, "IOW": 1, "IOR": 2, "IOWR": 3}
KVMIO = 0xAE
FORMATS = {"uint8_t": "B", "uint16_t": "H", "uint32_t": "I", "uint64_t": "Q", "int16_t": "h", "int32_t": "i"}

HEADER = '''\
# SPDX-License-Identifier: Apache-2.0
"""Numbers and layouts of the KVM ABI. Written by csrc/abi_table.py from csrc/kvm_abi.h; do not edit."""

from typing import Final
'''


def macro_rows(source: str, macro: str) -> list[list[str]]:
    """The arguments of each X(...) in ``#define macro(X)``."""
    body = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*\n)", source)
    if body is None:
        raise ValueError(f"csrc/kvm_abi.h declares no {macro}")
    return [re.split(r"\s*,\s*", row) for row in re.findall(r"X\((.*)\)", body[1])]


def structs(source: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Format (of Python's struct module) and field names of each struct."""
    found = {}
    for name, body in re.findall(r"struct kvmipa_(\w+) \{\n(.*?)\};", source, re.DOTALL):
        fields = re.findall(r"(\w+) (\w+)(?:\[(\d+)\])?;", body)
        layout = "".join(f"{count}{FORMATS[kind]}" for kind, _, count in fields)
        if calcsize("@" + layout) != calcsize("=" + layout):
            raise ValueError(f"struct kvmipa_{name} has padding; declare it as fields")
        found[name] = ("=" + layout, tuple(field for _, field, _ in fields))
    return found


def request_number(direction: str, number: str, argument: str, sizes: dict[str, int]) -> int:
    """What _IO, _IOR, _IOW or _IOWR makes of these."""
    size = sizes[argument]
    return DIRECTIONS[direction] << 30 | size << 16 | KVMIO << 8 | int(number, 16)


def lines(source: str) -> Iterator[str]:
    """The lines of the table."""
    layouts = structs(source)
    sizes = {f"struct kvmipa_{name}": calcsize(layout) for name, (layout, _) in layouts.items()}
    sizes |= {"void": 0, "int": 4}
    requests = {
        name: request_number(direction, number, argument, sizes)
        for name, direction, number, argument in macro_rows(source, "KVMIPA_REQUESTS")
    }
    constants = {
        name: int(v, 0)
        for macro in ("KVMIPA_CONSTANTS", "KVMIPA_DEVICE_TYPES", "KVMIPA_SMCCC_ACTIONS", "KVMIPA_ARM64_CONSTANTS")
        for name, v in macro_rows(source, macro)
    }
    capabilities = {name: int(v, 0) for name, v in macro_rows(source, "KVMIPA_CAPABILITIES")}
    for title, names, style in (
        ("requests", requests, "0x{:08X}"),
        ("constants", constants, "0x{:X}"),
        ("capabilities", capabilities, "{}"),
    ):
        yield ""
        yield f"# {title}"
        for name, value in names.items():
            yield f"{name}: Final = {style.format(value)}"
    for name, table in (("REQUESTS", requests), ("CAPABILITIES", capabilities)):
        yield ""
        yield f"{name}: Final[dict[str, int]] = {{"
        yield from (f'    "{entry}": {entry},' for entry in table)
        yield "}"
    yield ""
    yield "# struct: format of Python's struct module, field names"
    yield "STRUCTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {"
    for name, (layout, fields) in layouts.items():
        quoted = ", ".join(f'"{field}"' for field in fields)
        yield f'    "{name}": ("{layout}", ({quoted},)),'
    yield "}"


def table() -> str:
    """The whole text of kvmipa/_abi_table.py."""
    source = (CSRC / "kvm_abi.h").read_text()
    return HEADER + "\n".join(lines(source)) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table())
