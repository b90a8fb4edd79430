# SPDX-License-Identifier: Apache-2.0
"""What ``import kvmipa`` and the command line cost, in fresh interpreters."""

from __future__ import annotations

import platform
import subprocess
import sys

from tests.benchmarks.timing import interleave, report

REPEATS = 15
STATEMENTS = {
    "import kvmipa": "import kvmipa",
    "import kvmipa, HostProfile": "import kvmipa; kvmipa.HostProfile",
    "import kvmipa.backend.native": "import kvmipa.backend.native",
    "import kvmipa.cli": "import kvmipa.cli",
    "import kvmipa.cli, and its parser": "import kvmipa.cli; kvmipa.cli.parser()",
}


def cost(statement: str) -> float:
    """Seconds of a statement in an interpreter that has just started."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Measure and report."""
    runs = {name: (lambda statement=statement: cost(statement)) for name, statement in STATEMENTS.items()}
    print(f"Python {platform.python_version()}")
    report(interleave(runs, REPEATS), "ms", 1e3, "import kvmipa")


if __name__ == "__main__":
    main()
