# SPDX-License-Identifier: Apache-2.0
"""All machine types of the low byte, created and closed: kvmipa against a C program that does the same.

It needs an arm64 KVM: ``python -m ci.lab bench KERNEL CPU`` runs it in a guest, with the C program built for it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import kvmipa
from tests.benchmarks.timing import compile_c, interleave, report

REPEATS = 9
FIRST, LAST = 0, 0xFF


def main(program: Path | None) -> None:
    """Measure and report; the program is compiled here where none is given."""
    with TemporaryDirectory() as scratch, kvmipa.open("native") as kvm:
        program = program or compile_c(Path(__file__).with_suffix(".c"), Path(scratch))

        def c_program() -> float:
            done = subprocess.run([program, str(FIRST), str(LAST)], capture_output=True, text=True, check=True)
            return float(done.stdout.split()[0])

        def python() -> float:
            start = time.perf_counter()
            kvm.probe_machine_types(range(FIRST, LAST + 1))
            return time.perf_counter() - start

        # The first VM of a boot pays for what the kernel allocates once.
        python()
        figures = interleave({"C": c_program, "Kvm.probe_machine_types": python}, REPEATS)
        print(f"machine types {FIRST:#x} to {LAST:#x}, limit {kvm.host_ipa_limit} bits, {REPEATS} times each")
    report(figures, "ms", 1e3, "C")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
