# SPDX-License-Identifier: Apache-2.0
"""``kvmipa probe``: what this host's KVM can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvmipa.cli.opening import open_kvm
from kvmipa.cli.output import headline, rows, runs
from kvmipa.cli.probing import probe_types
from kvmipa.errors import KvmError
from kvmipa.machine_type import DEFAULT_IPA_BITS, size_text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output
    from kvmipa.system import Kvm


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "probe",
        parents=[common],
        help="backend, IPA limit, sizes accepted, page size, and why",
        description="Ask the host's IPA limit, try to create a VM of each size, and say why the limit is what it is.",
    )
    parser.set_defaults(run=run)


def run(arguments: Namespace, output: Output) -> int:
    """Probe and report."""
    with open_kvm(arguments) as kvm:
        reality, host = headline(kvm)
        low_types = range(0x100)
        answers = zip(low_types, probe_types(kvm, low_types), strict=True)
        accepted = [size for size, failed in answers if not failed]
        why = _why(kvm)
        found = {
            "command": "probe",
            "backend": kvm.backend,
            "host": host,
            "api_version": kvm.api_version,
            "host_ipa_limit": kvm.host_ipa_limit,
            "page_size": kvm.page_size,
            "machine_types_accepted": accepted,
            "why": why,
        }
        table = rows(
            (
                (reality, host),
                ("IPA limit", _limit_text(kvm.host_ipa_limit)),
                ("default size", _default_text(accepted, kvm.host_ipa_limit)),
                ("types accepted", runs(accepted)),
                ("page size", f"{kvm.page_size} bytes"),
                ("why", why),
            )
        )
    output.result(found, table)
    return 0


def _limit_text(limit: int | None) -> str:
    if limit is None:
        return "not configurable (no KVM_CAP_ARM_VM_IPA_SIZE)"
    return f"{limit} bits ({size_text(1 << limit)})"


def _default_text(accepted: list[int], limit: int | None) -> str:
    if 0 not in accepted:
        return "none: type 0 means 40 bits, which is above the limit; a VMM must name a size"
    if 1 in accepted:
        return f"{limit} bits: this pKVM host gives every VM its limit, whatever the type says"
    return f"{DEFAULT_IPA_BITS} bits (type 0)"


def _why(kvm: Kvm) -> str:
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.why import explain_limit

    try:
        profile = HostProfile.of(kvm)
        if profile.ipa_limit != kvm.host_ipa_limit:
            return f"not known: by the ID registers that a vCPU shows it would be {profile.ipa_limit} bits"
        return explain_limit(profile)
    except (KvmError, ValueError) as error:
        return f"not known: {str(error).splitlines()[0]}"
