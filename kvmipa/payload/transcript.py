# SPDX-License-Identifier: Apache-2.0
"""Transcripts: what the guest conformance program was told, what the VMM saw of it, and what the guest reported."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa import json_lines
from kvmipa.payload.program import SLOT_SIZE, UPPER_HALF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kvmipa.payload.steps import Step

_KIND: Final = "kvmipa_transcript"
FORMAT: Final = 1

# ESR_EL1.EC of aborts and alignment faults: after others FAR_EL1 is UNKNOWN (Arm ARM, FAR_EL1).
_WITH_FAR: Final = (0x20, 0x21, 0x22, 0x24, 0x25)


class TakenException(NamedTuple):
    """An exception that the guest took: the vector's number, and the registers that tell of it."""

    vector: int
    esr: int
    far: int
    elr: int
    spsr: int


@dataclass(frozen=True)
class Outcome:
    """A step and what came of it.

    exits: what KVM_RUN came back with beside reports: ("mmio-load", address, size), ("mmio-store", address, size,
    value), ("nisv", esr_iss, fault_ipa), ("failed", errno's name), ("hangs",). exception: what the guest took, if it
    did. values: of x0 and on, afterwards.
    """

    step: Step
    exits: tuple[tuple[str | int, ...], ...] = ()
    exception: TakenException | None = None
    values: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The line as an object: addresses and registers as hexadecimal strings, what is as usual left out.

        The place of the exception is "instruction" where it is the step's own.
        """
        step, command = self.step, self.step.command
        line: dict[str, Any] = {"do": command.operation}
        if command.x:
            line["x"] = list(map(hex, command.x))
        if step.stage1 != "off":
            line["stage1"] = step.stage1
        if step.ipa is not None:
            line["ipa"] = hex(step.ipa)
        if not command.from_el:
            line["el"] = 0
        if step.nisv:
            line["nisv"] = True
        if self.exits:
            line["exits"] = [[it if isinstance(it, str) else hex(it) for it in one] for one in self.exits]
        if self.exception is not None:
            line["exception"] = self._exception_as_json(self.exception)
        if self.values:
            line["values"] = list(map(hex, self.values))
        return line

    def _exception_as_json(self, taken: TakenException) -> dict[str, Any]:
        instruction = self.step.command.address + (UPPER_HALF if self.step.stage1 == "upper" else 0)
        offset = taken.elr - instruction
        found = {"vector": taken.vector, "esr": hex(taken.esr), "spsr": hex(taken.spsr)}
        if taken.esr >> 26 & 0x3F in _WITH_FAR:
            found["far"] = hex(taken.far)
        # SVC's, BRK's and a trapped instruction's ELR_EL1 are of its own page; of a fetch it is the address.
        found["elr"] = f"instruction+{offset}" if 0 <= offset < SLOT_SIZE // 16 else hex(taken.elr)
        return found


@dataclass(frozen=True)
class Transcript:
    """What one guest did, in a VM of ipa_bits; end: what the VMM saw at last."""

    ipa_bits: int
    outcomes: tuple[Outcome, ...]
    end: tuple[str | int, ...]

    def lines(self) -> Iterator[dict[str, Any]]:
        """As JSON: each outcome, and the end."""
        for number, outcome in enumerate(self.outcomes):
            yield {"ipa_bits": self.ipa_bits, "step": number, **outcome.as_json()}
        yield {"ipa_bits": self.ipa_bits, "end": [it if isinstance(it, str) else hex(it) for it in self.end]}


def write(path: Path, header: dict[str, Any], transcripts: Iterable[Transcript]) -> None:
    """Write transcripts of one host as compressed JSON lines, the same bytes each time; header: how they were taken."""
    lines = chain([{_KIND: FORMAT, **header}], *(transcript.lines() for transcript in transcripts))
    path.write_bytes(gzip.compress(json_lines.text(lines).encode(), mtime=0))


def read(path: Path) -> tuple[dict[str, Any], dict[int, list[dict[str, Any]]]]:
    """The header, and the lines of each VM size; ValueError where the format is another one."""
    header, rest = json_lines.read(gzip.decompress(path.read_bytes()).decode().splitlines(), _KIND, FORMAT)
    found: dict[int, list[dict[str, Any]]] = {}
    for line in rest:
        found.setdefault(line["ipa_bits"], []).append(line)
    return header, found


def differences(
    recorded: Iterable[dict[str, Any]], found: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """The lines that are not the same.

    >>> list(differences([{"step": 0, "values": ["0x1"]}], [{"step": 0, "values": ["0x2"]}]))
    [({'step': 0, 'values': ['0x1']}, {'step': 0, 'values': ['0x2']})]
    """
    yield from ((one, other) for one, other in zip_longest(recorded, found) if one != other)
