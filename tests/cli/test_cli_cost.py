# SPDX-License-Identifier: Apache-2.0
"""What it costs to start the command line: on boards, and with the CPU emulated, each import is felt."""

from __future__ import annotations

from tests.test_imports import in_a_new_process, modules_after

PARSER = "import kvmipa.cli; kvmipa.cli.parser()"


def test_command_line_brings_nothing_that_only_some_commands_need() -> None:
    loaded = modules_after(PARSER)
    packages = {name.split(".")[0] for name in loaded}
    assert (
        packages & {"cffi", "_cffi_backend", "pytest", "hypothesis", "rich", "unicorn", "xml", "multiprocessing"}
        == set()
    )
    assert packages & {"asyncio", "concurrent", "difflib", "html", "http", "json", "logging", "subprocess"} == set()
    parts = ("backend.emulated", "backend.native", "conformance", "doctor", "layout", "payload", "stage2", "trace")
    heavy = tuple(f"kvmipa.{part}" for part in parts)
    assert {name for name in loaded if name.startswith(heavy)} == set()


def test_command_line_costs_little_more_than_what_it_needs_of_the_standard_library() -> None:
    # As in tests/test_imports.py: the best of several, in relation. Of 60 ms where Python itself starts in 15.
    program = (
        "from time import process_time as now; start = now()\n"
        "import argparse, dataclasses, enum, re, typing; there = now()\n"
        f"{PARSER}; end = now(); import json; print(json.dumps([end - there, there - start]))"
    )
    runs = [in_a_new_process(program) for _ in range(5)]
    own, standard_library = (min(column) for column in zip(*runs, strict=True))
    assert own < 4 * standard_library
