# SPDX-License-Identifier: Apache-2.0
"""Running the claims' checks on one machine."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol

from kvmipa.backend.emulated.release import parse
from kvmipa.conformance.facts import Facts
from kvmipa.conformance.machine import look_at
from kvmipa.conformance.results import FAIL, PASS, SKIP, ClaimResult, Mismatch, Report
from kvmipa.conformance.target import SkipCheckError, Target
from kvmipa.system import Kvm
from kvmipa.trace.recorder import TracingBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmipa.conformance.claim import Claim
    from kvmipa.conformance.results import Machine


class Watcher(Protocol):
    """Somebody who waits, and is told as it goes on."""

    def starts(self, machine: Machine, claims: Sequence[Claim]) -> None:
        """The machine was looked at; these claims are to be checked."""

    def checks(self, claim: Claim) -> None:
        """The next one."""

    def checked(self, result: ClaimResult) -> None:
        """What came of it."""


class Nobody:
    """No Watcher."""

    def starts(self, machine: Machine, claims: Sequence[Claim]) -> None:
        """See Watcher."""

    def checks(self, claim: Claim) -> None:
        """See Watcher."""

    def checked(self, result: ClaimResult) -> None:
        """See Watcher."""


def run(kvm: Kvm, claims: Sequence[Claim], watcher: Watcher | None = None) -> Report:
    """Check the claims, each on a KVM of its own behind the same backend and device.

    Raises KvmError where the machine cannot be looked at; what a check raises is a failure of its claim.
    """
    from kvmipa import __version__

    watcher = watcher or Nobody()
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    facts = Facts.of(kvm)
    machine = look_at(kvm, facts)
    watcher.starts(machine, claims)
    results = []
    for claim in claims:
        watcher.checks(claim)
        results.append(check(claim, kvm, facts))
        watcher.checked(results[-1])
    return Report(
        version=__version__,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - clock, 3),
        machine=machine,
        results=tuple(results),
    )


def check(claim: Claim, kvm: Kvm, facts: Facts) -> ClaimResult:
    """Check one claim."""
    clock = time.perf_counter()
    backend = TracingBackend(kvm._backend)
    reason, observations, mismatches = "", 0, []
    if facts.release < parse(claim.since):
        reason = f"since Linux {claim.since}, and this is {facts.profile.release}"
    else:
        with Kvm(backend, kvm.device) as opened:
            target = Target(opened, facts)
            try:
                claim.check(target)
            except SkipCheckError as skip:
                reason = str(skip)
            except Exception as error:  # whatever it is, the other claims are checked
                target.mismatches.append(
                    Mismatch("the check", "it comes to its end", f"{type(error).__name__}: {error}")
                )
            observations, mismatches = target.observations, target.mismatches
    if not (reason or observations or mismatches):
        mismatches = [Mismatch("the check", "it looks at something", "it looked at nothing")]
    status = FAIL if mismatches else SKIP if reason else PASS
    return ClaimResult(
        id=claim.id,
        name=claim.name,
        kind=claim.kind,
        text=claim.text,
        source=claim.source,
        status=status,
        reason=reason if status == SKIP else "",
        observations=observations,
        mismatches=tuple(mismatches),
        seconds=round(time.perf_counter() - clock, 4),
        trace=backend.trace(facts.profile).text() if mismatches else None,
    )
