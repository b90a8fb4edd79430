# SPDX-License-Identifier: Apache-2.0
"""The recipes for laboratories' engines, as far as they can be tried without their machines."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa.conformance.claims import CLAIMS
from tests.requirements import skip_or_fail

if TYPE_CHECKING:
    from types import ModuleType

FLEET = Path(__file__).parents[2] / "ci/fleet"
CONFORM = FLEET / "lava/conform.sh"


def python_with_lava() -> str:
    for python in (sys.executable, "/usr/bin/python3"):
        if Path(python).exists():
            found = subprocess.run([python, "-c", "import lava_common, yaml"], capture_output=True, check=False)
            if found.returncode == 0:
                return python
    return skip_or_fail("no Python here has LAVA's library (Debian: apt install lava-common)")


def test_lava_s_own_library_takes_the_job_and_the_test_definition() -> None:
    check = [python_with_lava(), str(FLEET / "lava/check_schema.py")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["job.yaml: accepted", "kvmipa-conform.yaml: accepted"], done.stderr
    assert done.returncode == 0


def told_to_lava(tmp_path: Path, kvmipa: str) -> tuple[dict[str, str], int]:
    """What conform.sh tells LAVA, where ``kvmipa`` is the shell script that is given."""
    commands = tmp_path / "bin"
    commands.mkdir()
    told = tmp_path / "told"
    for name, script in (("kvmipa", kvmipa), ("lava-test-case", f'echo "$@" >>{told}')):
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
    environment.pop("KVMIPA", None)
    done = subprocess.run(["sh", str(CONFORM)], env=environment, capture_output=True, check=False)
    lines = told.read_text().splitlines() if told.exists() else []
    return {line.split(" --result ")[0]: line.split(" --result ")[1] for line in lines}, done.returncode


def test_lava_is_told_of_every_claim(tmp_path: Path) -> None:
    kvmipa = f'shift 2; exec {sys.executable} -m kvmipa --host apple-m1 "$@"'
    told, status = told_to_lava(tmp_path, kvmipa)
    assert status == 0
    assert set(told) == {f"kvmipa.{claim.name}" for claim in CLAIMS} | {"kvmipa.run"}
    assert set(told.values()) == {"pass", "skip"}
    assert told["kvmipa.run"] == told["kvmipa.system.api_version"] == "pass"


def test_lava_is_told_of_failures_and_skips(tmp_path: Path) -> None:
    ktap = r"KTAP version 1\n1..3\nok 1 kvmipa.a\n# the reason\nok 2 kvmipa.b # SKIP\nnot ok 3 kvmipa.c\n"
    told, _ = told_to_lava(tmp_path, f"printf '{ktap}'; exit 1")
    assert told == {"kvmipa.a": "pass", "kvmipa.b": "skip", "kvmipa.c": "fail", "kvmipa.run": "pass"}


def test_a_machine_without_kvm_fails_lava_s_run(tmp_path: Path) -> None:
    told, _ = told_to_lava(tmp_path, "exit 3")
    assert told == {"kvmipa.run": "fail"}


@pytest.fixture
def labgrid_recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("labgrid_recipe", FLEET / "labgrid/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_labgrid_s_tests_read_every_claim_of_a_real_report(labgrid_recipe: Any) -> None:
    command = [sys.executable, "-m", "kvmipa", "--host", "apple-m1", "conform", "--ktap"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = labgrid_recipe.read_ktap(lines)
    assert set(found) == {claim.name for claim in CLAIMS}
    assert {status for status, _ in found.values()} == {"pass", "skip"}
    assert all(said for status, said in found.values() if status == "skip"), "a skip says why"


def test_labgrid_s_tests_read_failures(labgrid_recipe: Any) -> None:
    lines = [
        "KTAP version 1",
        "# EMULATED  apple-m1",
        "1..2",
        "# expected EINVAL",
        "not ok 1 kvmipa.a.b",
        "ok 2 kvmipa.c # SKIP",
    ]
    assert labgrid_recipe.read_ktap(lines) == {"a.b": ("fail", "expected EINVAL"), "c": ("skip", "")}


def test_the_script_for_lava_is_for_any_shell() -> None:
    checker = shutil.which("dash")
    if checker is None:
        skip_or_fail("there is no dash here")
    subprocess.run([checker, "-n", str(CONFORM)], check=True)
