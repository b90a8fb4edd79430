# SPDX-License-Identifier: Apache-2.0
"""The examples, run as a user runs them, on every kernel that there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kvmipa
from tests.guests import require_cpu

if TYPE_CHECKING:
    from kvmipa import Kvm

HERE = Path(__file__).parent


def run(name: str, *arguments: str) -> tuple[int, str, str]:
    """An example's exit status, and what it printed."""
    command = [sys.executable, str(HERE / name), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_hello_prints_hello_or_says_that_the_host_is_too_small(kvm: Kvm, limit: int) -> None:
    if limit >= 48:
        require_cpu(kvm)
    status, printed, complaint = run("hello.py", kvm.backend)
    if limit >= 48:
        assert (status, printed, complaint) == (0, "hello\n", "")
    else:
        assert (status, printed) == (1, "")
        assert complaint == f"hello: a guest at 0x800000000000 takes 48 bits of IPA, this host's limit is {limit}\n"


def test_hello_takes_the_backend_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMIPA_HOST", "qemu-cortex-a53-p36-6.12-4k")
    with kvmipa.open() as kvm:
        limit = kvm.host_ipa_limit or 0
    if limit >= 48:
        pytest.skip("this machine's KVM has 48 bits")
    assert f"limit is {limit}" in run("hello.py")[2]


def test_hello_is_what_a_reader_has_time_for() -> None:
    assert len((HERE / "hello.py").read_text().splitlines()) <= 60
