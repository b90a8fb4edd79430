# SPDX-License-Identifier: Apache-2.0
"""``kvmipa sweep``: try every machine type, and show runs of equal answers."""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL
from os import strerror
from typing import TYPE_CHECKING, Any, Final

from kvmipa.cli.opening import open_kvm
from kvmipa.cli.output import columns, headline
from kvmipa.cli.probing import probe_types
from kvmipa.errno_names import errno_name
from kvmipa.machine_type import DEFAULT_IPA_BITS, MIN_IPA_BITS, PROTECTED_BIT, TypeRules, Verdict

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from kvmipa.cli.output import Output
    from kvmipa.system import Kvm

LOW_TYPES: Final = range(0x200)
HIGH_BITS: Final = range(8, 64)


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sweep",
        parents=[common],
        help="try every machine type, and show runs of equal answers",
        description="Create and close a VM of every machine type from 0 to 0x1ff, and of each higher bit alone and "
        "with a good size. On Linux 7.3 the close of a large VM takes time: about a second on a 52-bit host.",
    )
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Run:
    """Neighbouring questions with one answer."""

    what: str
    first: int
    last: int
    errno: int
    meaning: str


def run(arguments: Namespace, output: Output) -> int:
    """Sweep and report."""
    with open_kvm(arguments) as kvm:
        reality, host = headline(kvm)
        good = min(kvm.host_ipa_limit or DEFAULT_IPA_BITS, DEFAULT_IPA_BITS)
        found = [
            *_runs(kvm, "type", list(LOW_TYPES), list(LOW_TYPES)),
            *_runs(kvm, "bit", list(HIGH_BITS), [1 << bit for bit in HIGH_BITS]),
            *_runs(kvm, f"bit, with {good} bits", list(HIGH_BITS), [1 << bit | good for bit in HIGH_BITS]),
        ]
        result = {
            "command": "sweep",
            "backend": kvm.backend,
            "host": host,
            "host_ipa_limit": kvm.host_ipa_limit,
            "runs": [
                {
                    "what": one.what,
                    "first": one.first,
                    "last": one.last,
                    "result": _answer(one.errno),
                    "meaning": one.meaning,
                }
                for one in found
            ],
        }
    table = columns(("what", "from", "to", "answer", "meaning"), [_cells(one) for one in found])
    output.result(result, f"{reality}  {host}\n{table}")
    return 0


def _runs(kvm: Kvm, what: str, numbers: list[int], types: list[int]) -> Iterator[Run]:
    """Runs of numbers whose machine types have one answer and one meaning."""
    rules = TypeRules(kvm.host_ipa_limit, protected_bit=True, size_ignored=kvm.ignores_size)
    current: Run | None = None
    for number, machine_type, failed in zip(numbers, types, probe_types(kvm, types), strict=True):
        meaning = _meaning(rules, machine_type, failed)
        if current and (current.errno, current.meaning) == (failed, meaning):
            current = Run(what, current.first, number, failed, meaning)
            continue
        if current:
            yield current
        current = Run(what, number, number, failed, meaning)
    if current:
        yield current


def _meaning(rules: TypeRules, machine_type: int, failed: int) -> str:
    if failed:
        verdict = rules.judge(machine_type)
        named = failed == EINVAL and verdict is not Verdict.ACCEPTED
        return verdict.value if named else strerror(failed)
    if machine_type & PROTECTED_BIT:
        return "a protected VM"
    if rules.size_ignored:
        return f"a VM of {rules.limit} bits: pKVM ignores the size"
    if machine_type == 0:
        return f"the default, {DEFAULT_IPA_BITS} bits"
    return f"the IPA size, from {MIN_IPA_BITS} to {rules.limit} bits"


def _answer(failed: int) -> str:
    return errno_name(failed) if failed else "ok"


def _cells(one: Run) -> tuple[str, str, str, str, str]:
    first, last = (f"{one.first:#x}", f"{one.last:#x}") if one.what == "type" else (str(one.first), str(one.last))
    return one.what, first, "" if first == last else last, _answer(one.errno), one.meaning
