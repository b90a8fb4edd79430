# SPDX-License-Identifier: Apache-2.0
"""The example project, tested as its own authors would: from its directory, with the plugin as it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.guests import require_engine

PROJECT = Path(__file__).parent / "examples" / "vmm_project"
HOSTS = ("apple-m1", "raspberry-pi-4", "qemu-max-6.12-4k-pkvm")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy that nothing of ours is around."""
    require_engine()
    return Path(shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__")))


def run_tests(project: Path, *options: str) -> tuple[dict[str, int], str]:
    """How many tests came out how, and all that was printed."""
    plugin = () if entry_points(group="pytest11", name="kvmipa") else ("-p", "kvmipa.pytest_plugin")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugin, *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "KVMIPA"))}
    done = subprocess.run(
        command, cwd=project, env=environment, check=False, capture_output=True, text=True, timeout=240
    )
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1])}
    return {kind: counts[kind] for kind in ("passed", "failed", "skipped", "error", "errors") if kind in counts}, (
        done.stdout + done.stderr
    )


def test_project_passes_on_the_usual_host(project: Path) -> None:
    counts, printed = run_tests(project, "--kvmipa-backend=emulated")
    assert counts == {"passed": 10}, printed
    assert "kvmipa: EMULATED qemu-max-6.12-4k" in printed


@pytest.mark.skipif(not entry_points(group="pytest11", name="xdist"), reason="needs pytest-xdist")
def test_project_passes_on_several_hosts_in_parallel(project: Path) -> None:
    counts, printed = run_tests(project, "-n2", "-rs", *(f"--kvmipa-host={host}" for host in HOSTS))
    assert counts == {"passed": 26, "skipped": 4}, printed
    assert "needs 48 IPA bits, apple-m1 has 36" in printed


def test_project_notices_an_error_path_that_is_gone(project: Path) -> None:
    source = project / "tiny_vmm.py"
    text = source.read_text()
    broken = text.replace(
        "except errors.OutOfMemoryError:\n        if size is None", "except ZeroDivisionError:\n        if size is None"
    )
    assert broken != text
    source.write_text(broken)
    counts, printed = run_tests(project, "--kvmipa-backend=emulated")
    assert counts == {"passed": 9, "failed": 1}, printed
    assert "test_small_vm_is_made_where_there_is_no_memory_for_a_large_one" in printed


def test_readme_names_what_the_tests_do() -> None:
    table = [line for line in (PROJECT / "README.md").read_text().splitlines() if line.startswith("|")]
    tests = (PROJECT / "test_tiny_vmm.py").read_text()
    for method in re.findall(r"kvm_faults\.(\w+)\(", "\n".join(table)):
        assert f"kvm_faults.{method}(" in tests
    assert len(table) >= 8
