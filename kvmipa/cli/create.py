# SPDX-License-Identifier: Apache-2.0
"""``kvmipa create``: create one VM, and show its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvmipa.cli.opening import open_kvm
from kvmipa.cli.output import headline, rows, shape_numbers
from kvmipa.machine_type import MachineType, size_text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output
    from kvmipa.stage2.geometry import Geometry


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "create",
        parents=[common],
        help="create a VM of N bits, and show the shape of its stage 2",
        description="Create a VM, show the shape that its stage-2 tables have, and close it. Exit status 1 where the "
        "host makes no such VM; the error says why.",
    )
    parser.add_argument("--ipa-bits", type=int, metavar="N", help="IPA size (default: the kernel's own, 40 bits)")
    parser.add_argument("--protected", action="store_true", help="ask for a protected VM (pKVM, Linux 7.x)")
    parser.set_defaults(run=run)


def run(arguments: Namespace, output: Output) -> int:
    """Create, report, close."""
    machine_type = MachineType(arguments.ipa_bits, arguments.protected).encode()
    with open_kvm(arguments) as kvm, kvm.create_vm(arguments.ipa_bits, protected=arguments.protected) as vm:
        reality, host = headline(kvm)
        asked, shape = vm.ipa_bits, vm.geometry
    bits = shape.ipa_bits
    found = {
        "command": "create",
        "backend": kvm.backend,
        "host": host,
        "machine_type": hex(machine_type),
        "ipa_bits_asked": asked,
        "ipa_bits": bits,
        "ipa_size": hex(1 << bits),
        "stage2": _shape(shape),
    }
    created = f"{bits} bits ({size_text(1 << bits)}), type {machine_type:#x}"
    if bits != asked:
        created += f"; asked for {asked}, but this pKVM host gives every VM its limit"
    output.result(found, rows([(reality, host), ("created", created), *_shape_rows(shape)]))
    return 0


def _shape(shape: Geometry) -> dict[str, Any]:
    return shape_numbers(shape) | {
        "index_bits": {str(level): shape.index_bits(level) for level in range(shape.start_level, 4)},
    }


def _shape_rows(shape: Geometry) -> list[tuple[str, str]]:
    tables = f"{shape.concatenated_tables} concatenated tables" if shape.concatenated_tables > 1 else "one table"
    levels = "  ".join(
        f"L{level}: {shape.index_bits(level)} bits ({size_text(shape.entry_size(level))} an entry)"
        for level in range(shape.start_level, 4)
    )
    return [
        ("stage 2", f"{shape.levels} levels from level {shape.start_level}, {shape.page_size >> 10}K pages"),
        ("start level", f"{tables}, {size_text(shape.pgd_size)}, {shape.entries} entries"),
        ("index", levels),
    ]
