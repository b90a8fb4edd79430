# SPDX-License-Identifier: Apache-2.0
"""Running the claims' checks on one machine."""

from __future__ import annotations

import errno
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol

from kvmipa.backend.emulated.release import has_come, parse
from kvmipa.conformance.facts import Facts
from kvmipa.conformance.machine import look_at
from kvmipa.conformance.results import FAIL, PASS, SKIP, ClaimResult, Mismatch, Report
from kvmipa.conformance.target import SkipCheckError, Target
from kvmipa.errors import GuestMemoryError
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

    After Ctrl-C the report has what was found until then, and names the claims that are missing. Raises KvmError where
    the machine cannot be looked at (and KeyboardInterrupt until it was); what a check raises is a failure of its claim.
    """
    from kvmipa import __version__

    watcher = watcher or Nobody()
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    facts = Facts.of(kvm)
    machine = look_at(kvm, facts)
    results: list[ClaimResult] = []
    try:
        watcher.starts(machine, claims)
        for claim in claims:
            watcher.checks(claim)
            results.append(check(claim, kvm, facts))
            watcher.checked(results[-1])
    except _InterruptedError as interrupted:
        if interrupted.found is not None:
            results.append(interrupted.found)
    except KeyboardInterrupt:
        pass
    return Report(
        version=__version__,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - clock, 3),
        machine=machine,
        results=tuple(results),
        missing=tuple(claim.name for claim in claims[len(results) :]),
    )


class _InterruptedError(BaseException):
    """Somebody interrupted a check. found: its failure, if it had one already."""

    def __init__(self, found: ClaimResult | None) -> None:
        super().__init__()
        self.found = found


def check(claim: Claim, kvm: Kvm, facts: Facts) -> ClaimResult:
    """Check one claim."""
    clock = time.perf_counter()
    if not has_come(_line(claim.since), facts.profile.release):
        return _result(claim, clock, reason=f"since Linux {claim.since}, and this is {facts.profile.release}")
    backend = TracingBackend(kvm._backend)
    reason, interrupted, target = "", False, None
    extra: tuple[Mismatch, ...] = ()
    try:
        with Kvm(backend, kvm.device) as opened:
            target = Target(opened, facts, calls=lambda: backend.noted)
            claim.check(target)
    except SkipCheckError as skip:
        reason = str(skip)
    except KeyboardInterrupt:
        interrupted = True
    except Exception as error:  # whatever it is, the other claims are checked
        reason = _without_means(error)
        if not reason:
            came = f"{type(error).__name__}: {error}"
            extra = (Mismatch("the check", "it comes to its end", came, after=backend.noted),)
    failed = extra or (target is not None and target.mismatches)
    trace = backend.trace(facts.profile).text() if failed else None
    result = _result(claim, clock, target, reason, extra=extra, trace=trace)
    if interrupted:
        raise _InterruptedError(result if failed else None)
    return result


def _without_means(error: Exception) -> str:
    """What the system has none left of, which says nothing about KVM; "": it is another error."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "there is no file descriptor left (RLIMIT_NOFILE: ulimit -n; fs.file-max)"
    if isinstance(error, GuestMemoryError) and error.errno == errno.ENOMEM:
        return f"there is no memory for a guest: {error.cause}"
    return ""


def _line(since: str) -> tuple[int, int]:
    return parse(since)[:2]


def _result(
    claim: Claim,
    clock: float,
    target: Target | None = None,
    reason: str = "",
    *,
    extra: tuple[Mismatch, ...] = (),
    trace: str | None = None,
) -> ClaimResult:
    observations = target.observations if target else 0
    mismatches = (*(target.mismatches if target else ()), *extra)
    if not (reason or observations or mismatches):
        mismatches = (Mismatch("the check", "it looks at something", "it looked at nothing"),)
    status = FAIL if mismatches else SKIP if reason else PASS
    return ClaimResult(
        id=claim.id,
        name=claim.name,
        kind=claim.kind,
        text=claim.text,
        source=claim.source,
        how=claim.how,
        rests_on=claim.rests_on,
        status=status,
        reason=reason if status == SKIP else "",
        observations=observations,
        mismatches=mismatches,
        seconds=round(time.perf_counter() - clock, 4),
        trace=trace,
    )
