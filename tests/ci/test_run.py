# SPDX-License-Identifier: Apache-2.0
"""The parts of .ci/run that can go wrong unseen."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / ".ci" / "run"

pytestmark = pytest.mark.skipif(not RUN.exists(), reason=".ci is not part of this copy")


def shell(script: str, tools: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script after the definitions of .ci/run; its errors are in its output too."""
    path = f"{tools}:{os.environ['PATH']}" if tools else os.environ["PATH"]
    return subprocess.run(
        ["bash", "-c", f"source '{RUN}'\n{script}"],
        check=False,
        cwd=RUN.parents[1],
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def program(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return directory


def running(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status for a parent to fetch."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_readmes_commands_for_the_tests() -> None:
    done = shell("readme_tests")
    assert done.returncode == 0
    assert ".venv/bin/pip install -e '.[test]'" in done.stdout
    assert "pytest -n auto" in done.stdout
    assert "```" not in done.stdout


def test_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    tools = program(tmp_path, "python3", '[ "$1" = -V ] && echo Python 3.10.1 || exit 1')
    done = shell("main", tools)
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["bash: the lab needs Python 3.11 or newer; python3 is Python 3.10.1"]


def test_two_at_a_time_keep_their_output_apart(tmp_path: Path) -> None:
    tools = program(tmp_path, "python", 'for n in 1 2 3; do echo "$4 $n"; sleep 0.1; done; [ "$4" != bad ]')
    done = shell("lab_two_at_a_time test good1 bad 'good2 max' || echo FAILED", tools)
    blocks = {block.splitlines()[0]: block.splitlines()[1:] for block in done.stdout.split("\n--- ")[1:]}
    assert blocks["python -m ci.lab test good1"] == ["good1 1", "good1 2", "good1 3"]
    assert "python -m ci.lab test good2 max" in blocks
    assert blocks["python -m ci.lab test bad"][:3] == ["bad 1", "bad 2", "bad 3"]
    assert "FAILED" in done.stdout


def test_a_failed_step_ends_what_runs_in_the_background(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    tools = program(
        tmp_path, "python", f"sleep 600 & echo $! >'{pid_file}.new'; mv '{pid_file}.new' '{pid_file}'; wait"
    )
    done = shell(
        f"""
        scratch=$(mktemp -d -p '{tmp_path}' scratch.XXXX)
        trap finish EXIT
        fetch_material "$scratch/log"
        until [ -e '{pid_file}' ]; do sleep 0.05; done
        false
        """,
        tools,
    )
    assert done.returncode == 1
    assert not list(tmp_path.glob("scratch.*"))
    deadline = time.monotonic() + 10
    while running(int(pid_file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_copy_of_the_checkout_has_nothing_that_was_built(tmp_path: Path) -> None:
    done = shell(f"copy_checkout '{tmp_path}/copy'")
    if not (RUN.parents[1] / ".git").exists():
        pytest.skip("not a git checkout")
    assert done.returncode == 0, done.stdout
    copy = tmp_path / "copy"
    assert (copy / "README.md").exists()
    assert (copy / ".ci" / "run").stat().st_mode & 0o111
    assert not list(copy.rglob("*.so"))
