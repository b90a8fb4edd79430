# SPDX-License-Identifier: Apache-2.0
"""All machine types of the low byte, created and closed: kvmipa against a C program that does the same.

It needs an arm64 KVM: ``python -m ci.lab bench KERNEL CPU`` runs it in a guest, with the C program built for it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.timing import compile_c, interleave, report

REPEATS = 31
FIRST, LAST = 0, 0xFF

# A program of its own, as the C one is: KVM_CREATE_VM takes the lock of every mapping of the process that calls it.
# As there, the second sweep is timed.
PYTHON = f"""
import time, kvmipa
with kvmipa.open("native") as kvm:
    kvm.probe_machine_types(range({FIRST}, {LAST + 1}))
    start = time.perf_counter()
    results = kvm.probe_machine_types(range({FIRST}, {LAST + 1}))
    print(time.perf_counter() - start, results.count(0))
"""


def main(program: Path | None) -> None:
    """Measure and report; the C program is compiled here where none is given."""
    with TemporaryDirectory() as scratch:
        c_program = program or compile_c(Path(__file__).with_suffix(".c"), Path(scratch))
        accepted = set()

        def run(command: list[str]) -> float:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, number = done.stdout.split()
            accepted.add(number)
            return float(seconds)

        figures = interleave(
            {
                "C": lambda: run([str(c_program), str(FIRST), str(LAST)]),
                "Kvm.probe_machine_types": lambda: run([sys.executable, "-c", PYTHON]),
            },
            REPEATS,
        )
    print(f"machine types {FIRST:#x} to {LAST:#x}, {' or '.join(accepted)} accepted, {REPEATS} times each")
    report(figures, "ms", 1e3, "C")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
