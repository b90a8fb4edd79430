# SPDX-License-Identifier: Apache-2.0
"""Many VMs, one after the other, and vCPUs that are closed while they run."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kvmipa import errors, exits, turn
from tests.backend.emulated.cpu.guests import NO_ENGINE, NOWHERE, guest, run_in_thread
from tests.forking import in_child, needs_fork

pytest.importorskip("unicorn", reason=NO_ENGINE)

STORE = (0xF9000001,)  # str x1, [x0]
LOOP = (0x14000000,)  # b .
VMS = 1000


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  the number is all that counts


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("\n")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_thousand_vms_leave_nothing_behind() -> None:
    def once() -> None:
        with guest(STORE) as it:
            it.vcpu.regs.x[0] = NOWHERE
            assert isinstance(it.vcpu.run(), exits.Mmio)

    for _ in range(100):
        once()
    gc.collect()
    before = (descriptors(), threading.active_count(), mappings(), resident_pages())
    for _ in range(VMS):
        once()
    gc.collect()
    after = (descriptors(), threading.active_count(), mappings(), resident_pages())
    assert after[:2] == before[:2]
    assert after[2] <= before[2] + 20
    assert after[3] * 4096 <= before[3] * 4096 + (16 << 20)


def test_a_vcpu_that_is_closed_while_it_runs_comes_back() -> None:
    with guest(LOOP) as it:
        thread, found = run_in_thread(it)
        time.sleep(0.1)
        it.vcpu.close()
        thread.join(5)
        assert len(found) == 1
        assert isinstance(found[0], errors.ClosedError)


def test_the_descriptor_alone_may_go_while_it_runs() -> None:
    with guest(LOOP) as it:
        backend, fd = it.vcpu._backend, it.vcpu.fileno()
        area = backend.mmap(fd, 4096)
        assert not isinstance(area, int)
        file = backend._descriptors.get(fd)  # type: ignore[attr-defined]
        enter = backend.runner(fd, area, turn.new())
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(enter()))
        thread.start()
        time.sleep(0.1)
        backend.close(fd)
        file.kick()
        thread.join(5)
        assert found == [-4]
        assert not file.vcpu.processor.has_engine


@needs_fork
def test_a_child_after_fork_has_nobody_to_kick() -> None:
    with guest(LOOP) as it:
        thread, found = run_in_thread(it)
        time.sleep(0.1)
        file = it.vcpu._backend._descriptors.get(it.vcpu.fileno())  # type: ignore[attr-defined]

        def ask() -> int:
            # It would wait for ever.
            signal.alarm(5)
            file.kick()
            file.close()
            return 1

        assert in_child(ask) == 1
        assert not found
        it.vcpu.kick()
        thread.join(5)
        assert found == [exits.Interrupted(kicked=True, timed_out=False)]
