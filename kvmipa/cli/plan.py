# SPDX-License-Identifier: Apache-2.0
"""``kvmipa plan``: the smallest IPA size for a memory map, what does not fit, and what other VMMs would choose."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from kvmipa.cli.output import Output
    from kvmipa.layout import MemoryMap, Plan, Region
    from kvmipa.system import Kvm

DESCRIPTION: Final = """\
Find the smallest IPA size that holds a guest's memory map, and the machine type to
pass to KVM_CREATE_VM for it; say what does not fit under the host's limit and by how
much, how much RAM would, how the stage-2 tables change with the size, and what other
VMMs would choose for this much RAM.

Without RAM it answers how much the host can hold. The host is the one at hand (as for
all commands: real, or emulated with --host), or just a limit, with --limit.
"""

EPILOG: Final = """\
sizes and addresses: 64G, 1.5GiB, 512M, 2T, 65536, 0x40000000; units are powers of two.

FILE.json, with as many regions as there are; kind is ram (where it is missing), rom or
device; FILE.toml has [[regions]] with the same keys (Python 3.11 or newer):
  {"regions": [{"name": "flash", "base": 0, "size": "128M", "kind": "rom"},
               {"name": "uart", "base": "0x9000000", "size": "4K", "kind": "device"},
               {"name": "ram", "base": "1G", "size": "64G", "kind": "ram"}]}

exit status: 0 it fits (with --strategy NAME: under that rule), 1 it does not, 2 wrong
usage or a map that makes no sense.

examples:
  kvmipa plan --limit 36                            how much memory can I give a guest?
  kvmipa plan --ram 64G --limit 36                  and why does QEMU refuse 64 GiB?
  kvmipa plan --ram 64G --device window@512G+512G   on the host at hand
  kvmipa --host apple-m1 plan --ram 64G --json      on another one, for a program
  kvmipa plan --ram 1000G --limit 40 --strategy qemu-virt
  kvmipa plan --map guest.toml --limit 48 --page-size 16K
"""

RAM_BASE: Final = "1G"
# A region is a hundred bytes; a device that never ends would fill the memory.
_MAX_MAP_SIZE: Final = 1 << 20
ALL: Final = "all"
STRATEGY_NAMES: Final = (
    "minimum",
    "qemu-virt",
    "qemu-virt-highmem-off",
    "kvmtool",
    "host-maximum",
    "crosvm",
    "cloud-hypervisor",
    "firecracker",
    "default",
)


class Host(NamedTuple):
    """The host that is planned for.

    reality: REAL, EMULATED, or LIMIT where only that was given. backend: None then. kernel: what the kernel answers to
    the machine types asked, 0 or an errno. size_ignored: every VM gets the limit.
    """

    reality: str
    text: str
    backend: str | None
    kernel: dict[int, int]
    size_ignored: bool = False


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command; its --device is the guest's, and the KVM device's path stands before the command."""
    from kvmipa.cli import common_options

    parser = commands.add_parser(
        "plan",
        parents=[common_options("backend", "host", "json")],
        help="the smallest IPA size for a memory map, what does not fit, what other VMMs choose",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    guest = parser.add_argument_group("the guest")
    guest.add_argument("--ram", metavar="SIZE", help="its RAM; without it: as much as fits")
    guest.add_argument("--ram-base", metavar="ADDRESS", help=f"where that starts (default: {RAM_BASE})")
    guest.add_argument(
        "--device",
        dest="guest_devices",
        metavar="NAME@BASE+SIZE",
        action="append",
        default=[],
        help="addresses that the guest must reach; may be repeated",
    )
    guest.add_argument(
        "--map", dest="map_file", metavar="FILE", help="regions from a file, JSON or .toml; -: from stdin"
    )
    host = parser.add_argument_group("the host, where no KVM is to be asked")
    host.add_argument(
        "--limit", type=int, metavar="N", help="its IPA limit in bits, 32 to 52; 0: Linux before 4.20, always 40 bits"
    )
    host.add_argument("--page-size", metavar="SIZE", help="its pages: 4K (default), 16K or 64K")
    parser.add_argument(
        "--strategy",
        choices=(*STRATEGY_NAMES, ALL),
        default=ALL,
        metavar="NAME",
        help=f"whose rule to show, and to draw the map of: {', '.join(STRATEGY_NAMES)}; or {ALL} (default)",
    )
    parser.set_defaults(run=run)


def run(arguments: Namespace, output: Output) -> int:
    """Plan and report."""
    from kvmipa.cli.plan_report import Answer, as_json, as_text, strategies_asked
    from kvmipa.layout import MemoryMap, largest_map, parse_size, plan

    regions = _regions(arguments)
    ram_base = parse_size(arguments.ram_base or RAM_BASE, "--ram-base")
    how_much = not any(region.kind == "ram" for region in regions)

    def planned(limit: int | None, page_size: int, last_page: bool) -> Plan:
        if not how_much:
            return plan(MemoryMap(regions), limit, page_size, last_page=last_page)
        others = MemoryMap(regions) if regions else None
        whole = largest_map(others, ram_base, limit, page_size, last_page=last_page)
        return plan(whole, limit, page_size, last_page=last_page)

    found, host = _on_host(arguments, planned)
    asked = strategies_asked(arguments.strategy, found, how_much=how_much, ram_base=ram_base)
    answer = Answer(found, host, asked, how_much, None if arguments.strategy == ALL else arguments.strategy)
    output.result(as_json(answer), "" if output.as_json else as_text(answer))
    works = found.fits if answer.only is None else asked[0].choice.works
    return 0 if works else 1


def _on_host(arguments: Namespace, planned: Callable[[int | None, int, bool], Plan]) -> tuple[Plan, Host]:
    """The plan, for a limit as given or for a KVM, which is asked whether it agrees."""
    from kvmipa.cli import UsageError
    from kvmipa.layout import check_limit, parse_size

    if arguments.limit is not None:
        if arguments.host is not None or arguments.backend != "auto":
            raise UsageError("--limit says all about the host; --host and --backend are for asking a KVM instead")
        limit = check_limit(arguments.limit or None)
        page_size = parse_size(arguments.page_size or "4K", "--page-size")
        text = f"{limit} bits, as given" if limit else "none: a kernel before 4.20, as given"
        return planned(limit, page_size, True), Host("LIMIT", text, None, {})
    if arguments.page_size is not None:
        raise UsageError("--page-size goes with --limit; a host has the page size that its kernel was built for")
    from kvmipa.cli.opening import open_kvm
    from kvmipa.cli.output import headline

    with open_kvm(arguments) as kvm:
        found: Plan = planned(kvm.host_ipa_limit, kvm.page_size or 4096, _takes_last_page(kvm))
        types = sorted({0, 1, *([found.needed_bits] if kvm.host_ipa_limit else [])})
        kernel = dict(zip(types, kvm.probe_machine_types(types), strict=True))
        reality, text = headline(kvm)
        ignored = kernel.pop(1) == 0
        return found, Host(reality, text, kvm.backend, kernel, ignored)


def _takes_last_page(kvm: Kvm) -> bool:
    """Whether a memory slot may end where a VM's addresses end; asked with a page that need not be there."""
    from kvmipa.errors import SlotBeyondIpaSpaceError
    from kvmipa.machine_type import MIN_IPA_BITS

    page_size = kvm.page_size or 4096
    with kvm.create_vm(kvm.host_ipa_limit and MIN_IPA_BITS) as vm:
        try:
            vm.set_user_memory_region(0, (1 << vm.ipa_bits) - page_size, page_size, 0)
        except SlotBeyondIpaSpaceError:
            return False
    return True


def _regions(arguments: Namespace) -> list[Region]:
    """What the command line says of the guest."""
    from kvmipa.cli import UsageError
    from kvmipa.layout import Region, device_of, parse_size

    regions = [] if arguments.map_file is None else list(_read(arguments.map_file).regions)
    regions += [device_of(text) for text in arguments.guest_devices]
    if arguments.ram is not None:
        base = parse_size(arguments.ram_base or RAM_BASE, "--ram-base")
        regions.append(Region("ram", base, parse_size(arguments.ram, "--ram")))
    elif arguments.ram_base is not None and any(region.kind == "ram" for region in regions):
        raise UsageError("--ram-base is for --ram, or for as much RAM as fits; the map has RAM of its own")
    return regions


def _read(name: str) -> MemoryMap:
    """The map in a file; LayoutError where it cannot be read, or is none."""
    import json
    import sys
    from contextlib import nullcontext
    from pathlib import Path

    from kvmipa.layout import LayoutError, memory_map_of

    if not name:
        raise LayoutError("--map: a file without a name")
    form, decode = ("TOML", _toml_decoder(name)) if name.lower().endswith(".toml") else ("JSON", json.loads)
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            content = file.read(_MAX_MAP_SIZE + 1)
    except OSError as error:
        raise LayoutError(f"{name}: {error.strerror}") from None
    if len(content) > _MAX_MAP_SIZE:
        raise LayoutError(f"{name}: larger than {_MAX_MAP_SIZE >> 20} MiB, and no memory map is")
    try:
        document = decode(content.decode())
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{name}: no {form}: {error}") from None
    try:
        return memory_map_of(document)
    except LayoutError as error:
        raise LayoutError(f"{name}: {error}") from None


def _toml_decoder(name: str) -> Callable[[str], object]:
    from importlib import import_module

    from kvmipa.layout import LayoutError

    try:
        decoder: Callable[[str], object] = import_module("tomllib").loads
    except ImportError:
        raise LayoutError(f"{name}: reading TOML needs Python 3.11; write the map as JSON") from None
    return decoder
