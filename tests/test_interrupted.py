# SPDX-License-Identifier: Apache-2.0
"""EINTR: KVM_CREATE_VM gives up for signals, and is tried again, a bounded number of times."""

from __future__ import annotations

import errno
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from kvmipa import HostProfile, errors
from kvmipa.abi import KVM_CREATE_VM
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.system import EINTR_ATTEMPTS, Kvm

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    import kvmipa


class InterruptedBackend(EmulatedBackend):
    """A kernel whose KVM_CREATE_VM is interrupted so many times before each VM, and whose sweeps do so many types."""

    def __init__(self, interruptions: int, per_sweep: int = 1000) -> None:
        super().__init__(HostProfile())
        self.interruptions = self.left = interruptions
        self.per_sweep = per_sweep
        self.calls = 0

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        """An ioctl that may be interrupted."""
        if request != KVM_CREATE_VM:
            return super().ioctl(fd, request, argument)
        self.calls += 1
        if self.left:
            self.left -= 1
            return -errno.EINTR
        self.left = self.interruptions
        return super().ioctl(fd, request, argument)

    def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
        """A sweep that comes back early, or empty."""
        if self.left:
            self.left -= 1
            return []
        self.left = self.interruptions
        return [0] * len(types[: self.per_sweep])


def test_interrupted_creation_is_tried_again() -> None:
    backend = InterruptedBackend(EINTR_ATTEMPTS - 1)
    with Kvm(backend) as kvm, kvm.create_vm(40) as vm:
        assert vm.ipa_bits == 40
    assert backend.calls == EINTR_ATTEMPTS


def test_creation_that_is_always_interrupted_ends() -> None:
    backend = InterruptedBackend(10_000)
    with Kvm(backend) as kvm, pytest.raises(errors.CreateVmInterruptedError) as caught:
        kvm.create_vm(40)
    assert caught.value.errno == errno.EINTR
    assert backend.calls == EINTR_ATTEMPTS


def test_interruption_is_no_answer_to_whether_sizes_are_ignored() -> None:
    with Kvm(InterruptedBackend(EINTR_ATTEMPTS - 1)) as kvm:
        assert kvm.ignores_size is False
    with Kvm(InterruptedBackend(10_000)) as kvm, pytest.raises(errors.CreateVmInterruptedError):
        kvm.ignores_size  # noqa: B018


@pytest.mark.parametrize("per_sweep", [1, 3, 1000])
def test_sweep_goes_on_where_it_was_interrupted(per_sweep: int) -> None:
    with Kvm(InterruptedBackend(EINTR_ATTEMPTS - 1, per_sweep)) as kvm:
        assert kvm.probe_machine_types(range(32, 42)) == [0] * 10


def test_sweep_that_is_always_interrupted_ends() -> None:
    with Kvm(InterruptedBackend(10_000)) as kvm, pytest.raises(errors.CreateVmInterruptedError):
        kvm.probe_machine_types([40])


def test_signals_do_not_disturb_a_sweep(kvm: kvmipa.Kvm) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signal handlers run in the main thread")
    # Some creations are interrupted, but none can be always: the interval is a few times what one takes here.
    start = time.perf_counter()
    kvm.probe_machine_types([32] * 20)
    interval = max(0.001, (time.perf_counter() - start) / 4)
    seen = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        types = [32, 1 << 40] * 200
        assert kvm.probe_machine_types(types) == [0, errno.EINVAL] * 200
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
