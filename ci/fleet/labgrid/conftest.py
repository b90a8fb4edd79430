# SPDX-License-Identifier: Apache-2.0
"""The machine at its shell, and one conformance run on it for all tests."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# One line of KTAP: "ok 3 kvmipa.size.default # SKIP"; what it says of a test stands in "#" lines before it.
RESULT = re.compile(r"(?P<ok>ok|not ok) \d+ kvmipa\.(?P<name>[\w.]+)(?P<skip> # SKIP)?\s*$")

# In seconds: a machine without hardware virtualisation of its own emulates what its guests do.
PATIENCE = 600


@pytest.fixture(scope="session")
def shell(strategy: Any) -> Iterator[Any]:
    """The machine's shell; the machine is off afterwards."""
    strategy.transition("shell")
    yield strategy.shell
    strategy.transition("off")


@pytest.fixture(scope="session")
def ktap(shell: Any) -> dict[str, tuple[str, str]]:
    """What ``kvmipa conform`` reported: by a claim's name "pass", "fail" or "skip", and what was said of it."""
    command = os.environ.get("KVMIPA_COMMAND", "kvmipa")
    lines, _, status = shell.run(f"{command} --backend native conform --ktap", timeout=PATIENCE)
    found = read_ktap(lines)
    assert found, f"exit status {status}, and no KTAP: {lines[-20:]}"
    return found


def read_ktap(lines: list[str]) -> dict[str, tuple[str, str]]:
    """The results of a KTAP report."""
    found: dict[str, tuple[str, str]] = {}
    said: list[str] = []
    for line in lines:
        result = RESULT.match(line)
        if result:
            status = "skip" if result["skip"] else "pass" if result["ok"] == "ok" else "fail"
            found[result["name"]] = (status, "\n".join(said))
            said = []
        elif line.startswith("1.."):
            said = []  # what stands before the plan is about the machine
        elif line.startswith("#"):
            said.append(line.removeprefix("# "))
    return found
