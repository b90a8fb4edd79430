# SPDX-License-Identifier: Apache-2.0
"""``kvmipa type``: the argument of KVM_CREATE_VM, encoded, decoded, explained. Asks no KVM."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any

from kvmipa.cli.output import rows
from kvmipa.machine_type import MachineType, explain

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command and its three parts."""
    parser = commands.add_parser(
        "type",
        parents=[common],
        help="encode, decode or explain a machine type (the argument of KVM_CREATE_VM)",
        description="The machine type is the 64-bit argument of KVM_CREATE_VM: the IPA size in bits 7:0 (0: the "
        "default of 40), and bit 31 for a protected VM.",
    )
    parts = parser.add_subparsers(title="parts", metavar="PART", required=True)
    encode = parts.add_parser(
        "encode",
        parents=[common],
        help="from an IPA size to the machine type",
        description="Print the machine type that asks for a VM of N bits. Any N that fits bits 7:0 has one; whether "
        "it is accepted is the host's to say (kvmipa create).",
    )
    encode.add_argument("ipa_bits", type=int, metavar="N", help="IPA size in bits; 0: the default")
    encode.add_argument("--protected", action="store_true", help="a protected VM (pKVM, Linux 7.x)")
    encode.set_defaults(run=run_encode)
    for name, function, text, more in (
        (
            "decode",
            run_decode,
            "from a machine type to the IPA size",
            "Print IPA size and protection of a machine type. Exit status 1 where it has bits set that no kernel "
            "gives a meaning.",
        ),
        (
            "explain",
            run_explain,
            "any 64-bit argument in words, also one that no kernel accepts",
            "Say what each part of a machine type means, and what kernels make of it.",
        ),
    ):
        part = parts.add_parser(name, parents=[common], help=text, description=more)
        part.add_argument("machine_type", type=unsigned_long, metavar="TYPE", help="64-bit number, such as 0x28 or 40")
        part.set_defaults(run=function)


def unsigned_long(text: str) -> int:
    """A 64-bit number in any base that Python reads."""
    try:
        number = int(text, 0)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number (40, 0x28 ...)") from None
    if not 0 <= number < 1 << 64:
        raise ArgumentTypeError(f"{text} does not fit 64 bits without a sign")
    return number


def run_encode(arguments: Namespace, output: Output) -> int:
    """Print the number."""
    machine_type = MachineType(arguments.ipa_bits, arguments.protected).encode()
    output.result({"command": "type encode", "machine_type": hex(machine_type)}, hex(machine_type))
    return 0


def run_decode(arguments: Namespace, output: Output) -> int:
    """Print size and protection; exit status 1 where other bits are set."""
    decoded = MachineType.decode(arguments.machine_type)
    found = {"command": "type decode", "ipa_bits": decoded.ipa_bits, "protected": decoded.protected}
    size = f"{decoded.ipa_bits} bits" if decoded.ipa_bits else "the default (40 bits)"
    output.result(found, rows((("IPA size", size), ("protected", "yes" if decoded.protected else "no"))))
    return 0


def run_explain(arguments: Namespace, output: Output) -> int:
    """Print every part."""
    text = explain(arguments.machine_type)
    found = {"command": "type explain", "machine_type": hex(arguments.machine_type), "lines": text.splitlines()[1:]}
    output.result(found | {"lines": [line.strip() for line in found["lines"]]}, text)
    return 0
