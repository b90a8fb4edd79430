# SPDX-License-Identifier: Apache-2.0
"""Callbacks of a guest and requests of other threads: neither waits for the other while it has what that needs."""

from __future__ import annotations

import threading
import time

import pytest

import kvmipa
from kvmipa import exits
from tests.backend.emulated.cpu.guests import NO_ENGINE, SIZE, guest, msr, run_in_thread

pytest.importorskip("unicorn", reason=NO_ENGINE)

AT = msr(1, 0, 7, 8, 0, 0)
COMPARATOR = msr(3, 3, 14, 3, 2, 0)
BREAKPOINT = msr(2, 0, 0, 0, 4, 0)
BACK = 0x17FFFFFC  # b .-16


@pytest.mark.parametrize("word", [AT, COMPARATOR, BREAKPOINT], ids=["at", "cntv_cval", "dbgbvr0"])
def test_slots_come_and_go_while_the_guest_is_in_system_instructions(word: int) -> None:
    with guest((word, word, word, word, BACK)) as it:
        runner, found = run_in_thread(it)
        other = kvmipa.GuestMemory(SIZE)
        done = threading.Event()

        def change() -> None:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                it.vm.add_memory(0x5000_0000, other).delete()
            done.set()

        changer = threading.Thread(target=change, daemon=True)
        changer.start()
        assert done.wait(10), "the thread that deletes slots waits for the guest, and the guest for it"
        changer.join()
        assert not found
        it.vcpu.kick()
        runner.join(5)
        assert found == [exits.Interrupted(kicked=True, timed_out=False)]
