# SPDX-License-Identifier: Apache-2.0
"""Builds kvmipa in every situation that is promised to work, and looks at the results.

``python -m ci.packaging.check_install [--python PYTHON]... [WORDS]``: one line a case; WORDS chooses cases by their
titles. Needs a C compiler, and pip with an index to install the build's tools from.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from ci.lab.config import read_toml
from ci.packaging.behaviour import ask, expect_native
from ci.packaging.build import SOURCE, CheckError, Tools, snapshot, unpack
from ci.packaging.cases import CASES, Bench, Case, CaseSkippedError


class Report:
    """One line a case, and the count at the end."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0

    def line(self, title: str, bench: Bench, function: Case) -> str:
        """Run a case, and say how it went."""
        start = time.monotonic()
        try:
            word, text = "ok  ", function(bench)
            self.passed += 1
        except CaseSkippedError as why:
            if os.environ.get("KVMIPA_REQUIRE_COMPILER"):
                word, text = "FAIL", f"KVMIPA_REQUIRE_COMPILER is set, but {why}"
                self.failed += 1
            else:
                word, text = "skip", str(why)
                self.skipped += 1
        except CheckError as failure:
            word, text = "FAIL", str(failure)
            self.failed += 1
        return f"{word} {title}: {text} ({time.monotonic() - start:.1f} s)"


def others(pythons: list[str]) -> dict[str, Case]:
    """Cases for other interpreters: this one's abi3 wheel is used by them."""

    def use(python: str) -> Case:
        def function(bench: Bench) -> str:
            _, wheel = bench.tools.wheel(snapshot(bench.path("source")), bench.path("dist"), KVMIPA_NATIVE="require")
            tools = Tools.install(bench.path("packages"), ["cffi"], python)
            expect_native(ask(tools, unpack(wheel, bench.path("site"))))
            return wheel.name

        return function

    return {f"the wheel of this Python, used by {python}": use(python) for python in pythons}


def main(arguments: list[str]) -> int:
    """Run the cases; 0 where all are as promised."""
    parser = argparse.ArgumentParser(prog="python -m ci.packaging.check_install", description=__doc__)
    parser.add_argument("--python", action="append", default=[], help="another that the wheel is to work in")
    parser.add_argument("words", nargs="*", help="cases whose title has one of these (default: all)")
    options = parser.parse_args(arguments)
    everything = CASES | others(options.python)
    chosen = {k: v for k, v in everything.items() if not options.words or any(w in k for w in options.words)}
    requirements = tuple(read_toml(SOURCE / "pyproject.toml")["build-system"]["requires"])
    report = Report()
    with TemporaryDirectory(prefix="kvmipa-install-") as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        tools = Tools.install(Path(name, "tools"), requirements)
        benches = [Bench(Path(name, str(number)), tools, requirements) for number, _ in enumerate(chosen)]
        for line in pool.map(report.line, chosen, benches, chosen.values()):
            print(line, flush=True)
    print(f"{report.passed} passed, {report.failed} failed, {report.skipped} skipped")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
