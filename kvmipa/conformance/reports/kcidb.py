# SPDX-License-Identifier: Apache-2.0
"""A report as KernelCI's database takes it: JSON of KCIDB's schema 5.3, a test for each claim.

Source: kcidb-io, kcidb_io/schema/v05_03.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from kvmipa.conformance.reports import words
from kvmipa.conformance.reports.system_calls import before
from kvmipa.conformance.results import FAIL, PASS, SKIP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.results import ClaimResult, Report

_VERSION: Final = {"major": 5, "minor": 3}
_STATUS: Final = {PASS: "PASS", FAIL: "FAIL", SKIP: "SKIP"}
_MISSING: Final = "MISS"
# What its log_excerpt may have.
_LONGEST: Final = 16384


def kcidb(report: Report, *, origin: str = "kvmipa", build_id: str | None = None) -> str:
    """The whole report.

    origin: who submits it. build_id: the build, in the database, that the machine runs; None: one is described beside
    the tests, by no more than the kernel's name. Raises ValueError for an origin that KCIDB does not take.
    """
    check_ids(origin, build_id)
    run = hashlib.sha256(json.dumps(report.as_json()["machine"] | {"at": report.started}).encode()).hexdigest()[:16]
    # As the kernel's own build calls it.
    architecture = "arm64" if report.machine.architecture == "aarch64" else report.machine.architecture
    found: dict[str, Any] = {"version": _VERSION}
    if build_id is None:
        kernel = re.sub(r"[^A-Za-z0-9._+-]", "_", report.machine.kernel.split(" ")[0])
        checkout, build_id = f"{origin}:{kernel}", f"{origin}:{kernel}-{architecture}"
        found["checkouts"] = [{"id": checkout, "origin": origin, "comment": f"Linux {report.machine.kernel}"}]
        found["builds"] = [{"id": build_id, "checkout_id": checkout, "origin": origin, "architecture": architecture}]
    common = {"build_id": build_id, "origin": origin, "environment": _environment(report)}
    found["tests"] = [
        *(
            {"id": f"{origin}:kvmipa-{run}-{result.name}", **common, **_test(report, result)}
            for result in report.results
        ),
        *(
            {"id": f"{origin}:kvmipa-{run}-{name}", **common, "path": f"{words.PREFIX}.{name}", "status": _MISSING}
            for name in report.missing
        ),
    ]
    return json.dumps(found, indent=2)


def check_ids(origin: str, build_id: str | None) -> None:
    """Raises ValueError for what KCIDB does not take.

    >>> check_ids("my_lab", "maestro:6743")
    >>> check_ids("My Lab", None)
    Traceback (most recent call last):
        ...
    ValueError: origin 'My Lab': KCIDB takes lower-case letters, digits and underscores
    """
    if not re.fullmatch(r"[a-z0-9_]+", origin):
        raise ValueError(f"origin {origin!r}: KCIDB takes lower-case letters, digits and underscores")
    if build_id is not None and not re.fullmatch(r"[a-z0-9_]+:.+", build_id):
        raise ValueError(f"build {build_id!r}: KCIDB has them as ORIGIN:ID")


def _environment(report: Report) -> dict[str, Any]:
    machine = report.machine
    return {
        "comment": words.headline(report),
        "misc": {
            "kvmipa": report.version,
            "reality": machine.reality,
            "model": machine.model,
            "cpu": machine.cpu,
            "cpu_set": machine.cpu_set,
            "page_size": machine.page_size,
            "parange_bits": machine.parange_bits,
            "host_ipa_limit": machine.host_ipa_limit,
            "machine_types": list(machine.sizes),
            "mode": machine.mode,
            "gic": machine.gic,
        },
    }


def _test(report: Report, result: ClaimResult) -> dict[str, Any]:
    test: dict[str, Any] = {
        "path": f"{words.PREFIX}.{result.name}",
        "status": _STATUS[result.status],
        "comment": f"{result.id}: {result.text}",
        "start_time": report.started,
        "duration": result.seconds,
        "misc": {"kind": result.kind, "source": result.source, "answers": result.observations},
    }
    if result.status == SKIP:
        test["misc"]["reason"] = result.reason
    if result.status == FAIL:
        test["log_excerpt"] = "\n".join(_log(result))[:_LONGEST]
    return test


def _log(result: ClaimResult) -> Iterator[str]:
    yield from map(words.difference, result.mismatches)
    yield from before(result.mismatches, result)
