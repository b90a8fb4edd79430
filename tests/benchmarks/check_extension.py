# SPDX-License-Identifier: Apache-2.0
"""KVM_CHECK_EXTENSION on this machine's /dev/kvm, of whatever architecture: kvmipa, a C loop, and fcntl.ioctl.

It asks the one harmless question, and creates nothing.
"""

from __future__ import annotations

import fcntl
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import kvmipa
from kvmipa.abi import KVM_CAP_USER_MEMORY, KVM_CHECK_EXTENSION
from tests.benchmarks.timing import compile_c, interleave, report, seconds_per_call

CALLS = 60_000
REPEATS = 15


def main(program: Path | None) -> None:
    """Measure and report; the C program is compiled here where none is given."""
    with TemporaryDirectory() as scratch, kvmipa.open("native") as kvm:
        program = program or compile_c(Path(__file__).with_suffix(".c"), Path(scratch))
        fd = kvm.fileno()

        def c_loop() -> float:
            done = subprocess.run([program, str(CALLS)], capture_output=True, text=True, check=True)
            return float(done.stdout) * 1e-9

        figures = interleave(
            {
                "C": c_loop,
                "Kvm.check_extension": lambda: (
                    seconds_per_call(lambda: kvm.check_extension(KVM_CAP_USER_MEMORY), CALLS) - overhead
                ),
                "fcntl.ioctl": lambda: (
                    seconds_per_call(lambda: fcntl.ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), CALLS)
                    - overhead
                ),
            },
            REPEATS,
        )
    print(f"KVM_CHECK_EXTENSION, Python {platform.python_version()}, {CALLS} calls x {REPEATS}")
    report(figures, "ns", 1e9, "C")
    print()
    report({name: figures[name] for name in ("fcntl.ioctl", "Kvm.check_extension")}, "ns", 1e9, "fcntl.ioctl")


#: What the loop and its lambda cost by themselves.
overhead = min(seconds_per_call(lambda: None, CALLS) for _ in range(9))

if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
