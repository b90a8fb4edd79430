# SPDX-License-Identifier: Apache-2.0
"""A process without a free descriptor: the emulated kernel needs none for what a real one needs none for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from errno import EBUSY, EMFILE, ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.backend.emulated.asking import SPECIFIED, needs_rlimit
from tests.backend.emulated.vm_asking import V3, Asked, emulated, needs_eventfd

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
DEASSIGN = 4
CTRL = 4
GIVES_A_DESCRIPTOR = {
    *("system KVM_CREATE_VM", "vm KVM_CREATE_VCPU", "vm KVM_CREATE_DEVICE", "vm KVM_CREATE_GUEST_MEMFD"),
    *("vm KVM_GET_STATS_FD", "vcpu KVM_GET_STATS_FD"),
}


def every_request(release: str, descriptors: str) -> Any:
    """What a new process gets."""
    command = [sys.executable, "-m", "tests.backend.emulated.every_request", release, descriptors]
    run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@needs_rlimit
@needs_eventfd
@pytest.mark.parametrize("release", SPECIFIED)
def test_requests_answer_as_with_descriptors(release: str) -> None:
    free, none = every_request(release, "free"), every_request(release, "none")
    assert free["unasked"] == []
    for name, expected in free["results"].items():
        if expected == 0 and name.partition(" ")[2] in GIVES_A_DESCRIPTOR:
            expected = -EMFILE  # noqa: PLW2901
        assert (name, none["results"][name]) == (name, expected)


@pytest.fixture
def vm() -> Iterator[Asked]:
    """A VM of the emulated kernel."""
    with emulated() as asked:
        yield asked


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Descriptors that are closed at the end."""
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)


class NoneFree:
    """No descriptor is free inside of it."""

    def __enter__(self) -> None:
        import resource

        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, self._limits[1]))
        try:
            while True:
                self._taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass

    def __exit__(self, *_: object) -> None:
        import resource

        for fd in self._taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


def eventfd(fds: list[int]) -> int:
    """An eventfd that is closed at the end."""
    fds.append(os.eventfd(0, os.EFD_CLOEXEC))
    return fds[-1]


@needs_rlimit
@needs_eventfd
@pytest.mark.parametrize("without", ["assign", "deassign", "both"])
def test_ioeventfd_goes_by_its_number(without: str, vm: Asked, fds: list[int]) -> None:
    fd, other = eventfd(fds), eventfd(fds)
    if without == "deassign":
        assert vm.ioeventfd(fd) == 0
    with NoneFree():
        if without != "deassign":
            assert vm.ioeventfd(fd) == 0
        if without != "assign":
            assert [vm.ioeventfd(one, flags=DEASSIGN) for one in (other, fd, fd)] == [-ENOENT, 0, -ENOENT]
    if without == "assign":
        assert [vm.ioeventfd(one, flags=DEASSIGN) for one in (other, fd, fd)] == [-ENOENT, 0, -ENOENT]


@needs_rlimit
@needs_eventfd
def test_another_eventfd_of_the_same_number_is_another(vm: Asked, fds: list[int]) -> None:
    fd = eventfd(fds)
    assert vm.ioeventfd(fd) == 0
    kept, other = os.dup(fd), os.eventfd(0, os.EFD_CLOEXEC)
    fds.append(kept)
    os.dup2(other, fd)
    os.close(other)
    with NoneFree():
        assert vm.ioeventfd(fd, flags=DEASSIGN) == -ENOENT
    assert vm.ioeventfd(kept, flags=DEASSIGN) == 0


@needs_rlimit
@needs_eventfd
def test_irqfd_goes_by_its_number(vm: Asked, fds: list[int]) -> None:
    fd = eventfd(fds)
    gic = vm.device(V3)
    assert vm.attribute(gic, CTRL, 0) == 0
    assert vm.irqfd(fd) == 0
    with NoneFree():
        assert [vm.irqfd(fd), vm.irqfd(fd, flags=1), vm.irqfd(fd)] == [-EBUSY, 0, 0]
    assert [vm.irqfd(fd), vm.irqfd(fd, flags=1), vm.irqfd(fd)] == [-EBUSY, 0, 0]
