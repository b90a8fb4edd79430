# SPDX-License-Identifier: Apache-2.0
"""``kvmipa doctor``: why is there no usable KVM here, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output

MARKS: Final = {"ok": "ok     ", "problem": "PROBLEM", "note": "note   "}


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="why is there no usable KVM here, and what to do",
        description="Look at architecture, kernel, device node, permission and KVM's own answers, and say what to do. "
        "Nothing is created or changed. Exit status 0 where the native backend is usable, else 1.",
    )
    parser.set_defaults(run=run)


def run(arguments: Namespace, output: Output) -> int:
    """Examine and report."""
    from dataclasses import asdict

    from kvmipa.doctor import diagnose, gather, usable

    findings = diagnose(gather(arguments.device))
    healthy = usable(findings)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.verdict]}  {finding.subject}: {finding.text}")
        if finding.fix:
            lines.append(f"         -> {finding.fix}")
    lines.append("the native backend is usable" if healthy else "the native backend is not usable here")
    found = {"command": "doctor", "native_usable": healthy, "findings": [asdict(finding) for finding in findings]}
    output.result(found, "\n".join(lines))
    return 0 if healthy else 1
