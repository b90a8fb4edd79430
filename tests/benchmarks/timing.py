# SPDX-License-Identifier: Apache-2.0
"""Timing of short things against each other: interleaved repeats, the minimum and the median of each."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def compile_c(source: Path, directory: Path, compiler: str | None = None, *options: str) -> Path:
    """A program from one C file."""
    name = compiler or (sysconfig.get_config_var("CC") or "cc").split()[0]
    found = shutil.which(name) or shutil.which("cc")
    if found is None:
        sys.exit(f"this benchmark compares with C, and there is no compiler ({name})")
    program = directory / source.stem
    subprocess.run([found, "-O2", "-std=gnu11", *options, "-o", program, source], check=True)
    return program


def interleave(runs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Each thing's own figure, taken in turn, so that a machine that changes speed changes it for all."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            figures[name].append(run())
    return figures


def seconds_per_call(work: Callable[[], object], calls: int) -> float:
    """Wall time of one call, the loop's own included."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def report(figures: Mapping[str, list[float]], unit: str, scale: float, against: str) -> None:
    """A line for each: minimum, median, and the ratio of the medians to one of them."""
    base = statistics.median(figures[against])
    print(f"{'':<44} {'minimum':>10} {'median':>10}   ratio to {against}")
    for name, values in figures.items():
        low, middle = min(values) * scale, statistics.median(values) * scale
        ratio = statistics.median(values) / base
        print(f"{name:<44} {low:>7.2f} {unit} {middle:>7.2f} {unit}   {ratio:.2f}")


__all__ = ["Path", "TemporaryDirectory", "compile_c", "interleave", "report", "seconds_per_call"]
