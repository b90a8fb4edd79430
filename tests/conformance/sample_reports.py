# SPDX-License-Identifier: Apache-2.0
"""Reports as tests need them: no run, and nothing of the claims that there are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kvmipa.conformance.results import FAIL, PASS, SKIP, ClaimResult, Machine, Mismatch, Report

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("system.api_version", "machine_type.valid_sizes", "memory.top_slot", "pkvm.size_ignored")

MACHINE = Machine(
    reality="EMULATED",
    host="some-board-6.12",
    model="some-board-6.12",
    kernel="6.12",
    architecture="aarch64",
    cpus=4,
    cpu="MIDR_EL1 0x414fd0b1",
    page_size=4096,
    parange_bits=44,
    host_ipa_limit=44,
    mode="vhe",
    gic="v3",
    sizes=(0, *range(32, 45)),
    source="a datasheet",
)


def result(name: str, status: str = PASS, *, came: str = "ok", **changes: Any) -> ClaimResult:
    """What came of a claim; where it failed, this instead of EINVAL."""
    number = NAMES.index(name) + 1 if name in NAMES else 99
    found = ClaimResult(
        id=f"C{number}",
        name=name,
        kind="contract",
        text=f"The text of {name}.",
        source="api.rst 4.2",
        status=status,
        reason="not on this host" if status == SKIP else "",
        observations=0 if status == SKIP else 7,
        mismatches=(Mismatch("KVM_CREATE_VM(53)", "EINVAL", came),) if status == FAIL else (),
        seconds=0.002,
        trace='{"kvmipa_trace": 1}\n' if status == FAIL else None,
    )
    return replace(found, **changes)


def report(
    *, claims: tuple[ClaimResult, ...] | None = None, failed: str = "", skipped: str = "", **machine: Any
) -> Report:
    """A report of a machine with these changes."""
    statuses = {failed: FAIL, skipped: SKIP}
    made = tuple(result(name, statuses.get(name, PASS)) for name in NAMES) if claims is None else claims
    return Report("0.5.0", "2026-11-24T20:00:00+00:00", 0.4, replace(MACHINE, **machine), made)


def save(path: Path, saved: Report) -> str:
    """Save a report as JSON; the file's name."""
    path.write_text(json.dumps(saved.as_json()), encoding="utf-8")
    return str(path)
