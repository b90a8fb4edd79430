# SPDX-License-Identifier: Apache-2.0
"""``kvmipa stage2``: the shape of a VM's stage-2 tables, as text, JSON or a picture."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kvmipa.cli.opening import open_kvm
from kvmipa.cli.output import headline, rows, shape_numbers

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output
    from kvmipa.stage2.geometry import Geometry
    from kvmipa.stage2.vtcr import Vtcr
    from kvmipa.vm import Vm

DESCRIPTION: Final = """\
Create a VM of N bits, show how the hardware translates its addresses, and close
it. The IPA is cut into an index for each level of tables, from the top, and an
offset in the page. KVM starts the walk as late as it can: up to 16 tables lie
side by side at the start level where that saves a level. The bits of the start
level are what the IPA size changes; the levels below are full tables.

On the emulated kernel VTCR_EL2, the register that says all this to the CPU, is
shown field by field; a real kernel does not tell it.
"""

EPILOG: Final = """\
exit status 1: the host makes no such VM (the error says why), or FILE cannot be
written (the text is shown all the same).

examples:
  kvmipa stage2                                      the kernel's default, 40 bits
  kvmipa --host apple-m1 stage2 --ipa-bits 36        on another machine
  kvmipa stage2 --ipa-bits 48 --svg stage2.svg       and a picture for a document
  kvmipa stage2 --ipa-bits 48 --svg - > stage2.svg   the picture alone
"""


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "stage2",
        parents=[common],
        help="draw the stage-2 tables of a VM of N bits: levels, index bits, VTCR_EL2",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ipa-bits", type=int, metavar="N", help="IPA size (default: the kernel's own, 40 bits)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture to FILE too, as SVG; -: to stdout")
    parser.set_defaults(run=run)


def run(arguments: Namespace, output: Output) -> int:
    """Create, draw, close."""
    from kvmipa.stage2 import picture

    with open_kvm(arguments) as kvm, kvm.create_vm(arguments.ipa_bits) as vm:
        reality, host = headline(kvm)
        shape, register = _seen(vm)
        asked = vm.ipa_bits
    if str(arguments.svg) == "-":
        print(picture.svg(shape, register), end="")
        return 0
    unwritten = _write(arguments.svg, picture.svg(shape, register)) if arguments.svg else None
    found = {
        "command": "stage2",
        "backend": kvm.backend,
        "host": host,
        "ipa_bits_asked": asked,
        "ipa_bits": shape.ipa_bits,
        "stage2": _shape(shape),
        "vtcr_el2": None if register is None else _register(register),
        "svg": str(arguments.svg) if arguments.svg and unwritten is None else None,
    }
    if unwritten is not None:
        found["svg_error"] = unwritten
    heading = [(reality.ljust(11), host)]
    if asked != shape.ipa_bits:
        heading.append(("asked for", f"{asked} bits; this host gives every VM its limit (pKVM)"))
    output.result(found, rows(heading) + "\n" + picture.picture(shape, register))
    if unwritten is None:
        return 0
    print(f"kvmipa: {unwritten}", file=sys.stderr)
    return 1


def _seen(vm: Vm) -> tuple[Geometry, Vtcr | None]:
    """The shape of the tables, and the register where it shows."""
    from kvmipa.errors import NotSupportedError
    from kvmipa.stage2 import Stage2

    try:
        seen = vm.stage2
    except NotSupportedError:
        return vm.geometry, None
    return seen.geometry, seen.vtcr_el2 if isinstance(seen, Stage2) else None


def _write(path: Path, text: str) -> str | None:
    """Write the file; what went wrong where that fails, for the rest is to be shown all the same."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"{path}: {error.strerror}: the picture is not written"
    return None


def _shape(shape: Geometry) -> dict[str, Any]:
    from kvmipa.stage2.picture import fields

    return shape_numbers(shape) | {
        "entries": shape.entries,
        "fields": [
            {
                "level": part.level,
                "high": part.high,
                "low": part.low,
                "entry_size": None if part.level is None else shape.entry_size(part.level),
            }
            for part in fields(shape)
        ],
    }


def _register(register: Vtcr) -> dict[str, Any]:
    return {"value": hex(register.value), "fields": dict(register.fields())}
