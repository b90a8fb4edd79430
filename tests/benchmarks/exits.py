# SPDX-License-Identifier: Apache-2.0
"""MMIO exits per second: Vcpu.run(), and run_until() with a device, against a plain C loop; latency of a kick.

``python -m ci.lab bench KERNEL CPU --benchmark exits`` runs it in a guest, with the C program built for it. On the
emulated kernel (``python -m tests.benchmarks.exits --emulated``) there is no C to compare with.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import kvmipa
from kvmipa import Interrupted, Mmio, MmioBus
from tests.benchmarks.timing import compile_c, interleave, report
from tests.guests import DEVICE, SPIN, STORE_AND_LOAD, GuestMachine

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 1.0
REPEATS = 7
WARM_UP = 1000
KICKS = 1000


class Register:
    """A device: a number."""

    def __init__(self) -> None:
        self.value = 0
        self.exits = 0
        self.enough = sys.maxsize

    def read(self, _offset: int, _size: int) -> int:
        self.exits += 1
        return 7

    def write(self, _offset: int, _size: int, value: int) -> None:
        self.exits += 1
        self.value = value


def by_run(machine: GuestMachine) -> Callable[[], float]:
    """Seconds of an exit that run() returns and a program looks at."""
    vcpu = machine.vcpu(STORE_AND_LOAD)

    stored = 0

    def handle(exits: int) -> None:
        nonlocal stored
        for _ in range(exits):
            exit = vcpu.run()
            if not isinstance(exit, Mmio) or exit.phys_addr != DEVICE or exit.size != 4:
                raise AssertionError(exit)
            if exit.is_write:
                stored = exit.value
            else:
                exit.reply(7)

    handle(WARM_UP)

    def measure() -> float:
        done, start = 0, time.perf_counter()
        while (now := time.perf_counter()) - start < SECONDS:
            handle(100)
            done += 100
        return (now - start) / done

    return measure


def by_run_until(machine: GuestMachine) -> Callable[[], float]:
    """Seconds of an exit that a device on a bus answers."""
    vcpu = machine.vcpu(STORE_AND_LOAD)
    bus, register = MmioBus(), Register()
    bus.add(DEVICE, 0x1000, register)

    def measure() -> float:
        before, start = register.exits, time.perf_counter()
        vcpu.run_until(bus=bus, timeout=SECONDS)
        return (time.perf_counter() - start) / (register.exits - before)

    measure()
    return measure


def kick_latencies(machine: GuestMachine) -> list[float]:
    """Seconds from kick() in one thread to the end of run() in another, sorted."""
    vcpu = machine.vcpu([SPIN])
    times: list[float] = []

    def run() -> None:
        while len(times) <= KICKS:
            exit = vcpu.run()
            times.append(time.perf_counter())
            assert exit == Interrupted(kicked=True), exit

    runner = threading.Thread(target=run, daemon=True)
    runner.start()
    latencies = []
    for number in range(KICKS + 1):
        time.sleep(0.001)
        start = time.perf_counter()
        vcpu.kick()
        while len(times) <= number:
            time.sleep(0)
        latencies.append(times[number] - start)
    runner.join()
    return sorted(latencies[1:])


def main(program: Path | None, backend: str) -> None:
    """Measure and report; the C program is compiled here where none is given."""
    with TemporaryDirectory() as scratch, kvmipa.open(backend) as kvm:
        runs: dict[str, Callable[[], float]] = {}
        if backend == "native":
            c_program = program or compile_c(Path(__file__).with_suffix(".c"), Path(scratch))

            def c_loop() -> float:
                done = subprocess.run([c_program, str(SECONDS)], capture_output=True, text=True, check=True)
                return 1 / float(done.stdout)

            runs["C"] = c_loop
        with GuestMachine(kvm) as first, GuestMachine(kvm) as second, GuestMachine(kvm) as third:
            runs |= {"Vcpu.run": by_run(first), "Vcpu.run_until, a device": by_run_until(second)}
            figures = interleave(runs, REPEATS)
            latencies = kick_latencies(third)
    against = next(iter(figures))
    report(figures, "us", 1e6, against)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, seconds in medians.items():
        print(f"{name}: {1 / seconds:,.0f} exits/s, {medians[against] / seconds:.2f} x {against}")
    median, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    print(f"kick: median {median * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us, most {latencies[-1] * 1e6:.0f} us of {KICKS}")


if __name__ == "__main__":
    given = sys.argv[1:]
    emulated = "--emulated" in given
    paths = [Path(word) for word in given if not word.startswith("-")]
    main(paths[0] if paths else None, "emulated" if emulated else "native")
