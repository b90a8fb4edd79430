# SPDX-License-Identifier: Apache-2.0
"""The benchmarks that need a real arm64 KVM, run in a guest, beside C programs built for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ci.lab import programs
from ci.lab.errors import LabError

BENCHMARKS = Path(__file__).parents[2] / "tests" / "benchmarks"

# Name of the benchmark -> where it finds its C program in the guest.
NAMES = {name: f"/usr/bin/{name}" for name in ("machine_type_sweep", "check_extension", "exits")}


def compile_program(name: str, compiler: str, compiler_package: str, directory: Path) -> Path:
    """A benchmark's C program for arm64, static: the guest has no compiler, and little else."""
    found = programs.find(compiler, compiler_package)
    program = directory / name
    argv = [found, "-O2", "-std=gnu11", "-static", "-o", str(program), str(BENCHMARKS / f"{name}.c")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{name}.c does not compile:\n{done.stderr}")
    return program


def command(name: str) -> list[str]:
    """What runs in the guest."""
    return ["python3", "-m", f"tests.benchmarks.{name}", NAMES[name]]
