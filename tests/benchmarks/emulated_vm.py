# SPDX-License-Identifier: Apache-2.0
"""The emulated kernel: creating and closing a VM, and asking a capability, through the public API."""

from __future__ import annotations

import platform

import kvmipa
from kvmipa.abi import KVM_CAP_ARM_VM_IPA_SIZE
from tests.benchmarks.timing import interleave, report, seconds_per_call

CALLS = 10_000
REPEATS = 9


def main() -> None:
    """Measure and report."""
    with kvmipa.open("emulated") as kvm:
        figures = interleave(
            {
                "create_vm(48) and close": lambda: seconds_per_call(lambda: kvm.create_vm(48).close(), CALLS),
                "check_extension": lambda: seconds_per_call(
                    lambda: kvm.check_extension(KVM_CAP_ARM_VM_IPA_SIZE), CALLS
                ),
            },
            REPEATS,
        )
    print(f"emulated kernel, Python {platform.python_version()}")
    report(figures, "us", 1e6, "create_vm(48) and close")


if __name__ == "__main__":
    main()
