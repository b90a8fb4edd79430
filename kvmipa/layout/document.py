# SPDX-License-Identifier: Apache-2.0
"""A memory map as JSON or TOML has it: {"regions": [{"name": "ram", "base": "1G", "size": "64G", "kind": "ram"}]}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvmipa.layout.errors import LayoutError
from kvmipa.layout.regions import DEVICE, RAM, MemoryMap, Region
from kvmipa.layout.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS: Final = ("name", "base", "size", "kind")


def memory_map_of(document: object) -> MemoryMap:
    """The map that a decoded JSON or TOML document describes.

    It has one key, "regions": a list of tables with name, base and size (bytes, or text as parse_size() reads it), and
    kind ("ram", "rom" or "device"; "ram" where it is missing). Raises LayoutError, which says where.

    >>> memory_map_of({"regions": [{"name": "ram", "base": "1G", "size": "64G"}]}).regions
    (Region(name='ram', base=1073741824, size=68719476736, kind='ram'),)
    """
    found = _table(document, ("regions",), ("regions",), "the memory map")
    listed = found["regions"]
    if not isinstance(listed, list):
        raise LayoutError(f"regions: a list is wanted, not {listed!r}")
    return MemoryMap(_region(entry, f"regions[{number}]") for number, entry in enumerate(listed))


def _region(entry: object, where: str) -> Region:
    found = _table(entry, _KEYS, _KEYS[:3], where)
    if not isinstance(found["name"], str):
        raise LayoutError(f"{where}: its name is text, not {found['name']!r}")
    base, size = (parse_size(found[key], f"{where} ({found['name']}): {key}") for key in ("base", "size"))
    return Region(found["name"], base, size, found.get("kind", RAM))


def _table(entry: object, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise LayoutError(f"{where}: a table with {', '.join(known)} is wanted, not {entry!r}")
    unknown = [str(key) for key in entry if key not in known]
    if unknown:
        raise LayoutError(f"{where}: no key {', '.join(unknown)}; there are {', '.join(known)}")
    missing = [key for key in needed if key not in entry]
    if missing:
        raise LayoutError(f"{where}: {', '.join(missing)} is missing")
    return entry


def device_of(text: str) -> Region:
    """A device as a command line has it: name@base+size.

    >>> device_of("pcie-window@512G+512G")
    Region(name='pcie-window', base=549755813888, size=549755813888, kind='device')
    """
    name, at, rest = text.partition("@")
    base, plus, size = rest.partition("+")
    if not (name and at and base and plus and size):
        path = "; the KVM device's path stands before the command" if text.startswith("/") else ""
        raise LayoutError(f"device {text!r}: it is written name@base+size, for example uart@0x9000000+4K{path}")
    return Region(name, parse_size(base, f"device {name}: base"), parse_size(size, f"device {name}: size"), DEVICE)
