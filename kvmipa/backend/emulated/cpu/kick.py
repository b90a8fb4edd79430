# SPDX-License-Identifier: Apache-2.0
"""What other threads want of a CPU, and how that reaches it in the guest (kvm_vcpu_kick; vcpu->mode, vcpu->requests).

Unicorn's "stop" has no effect before it executes: whoever has to see a CPU stop tries until it has.
"""

from __future__ import annotations

from threading import Event, get_ident
from time import sleep
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.cpu.engine import Engine

# How often somebody who wants a CPU to stop tries, in seconds: it may not have started yet.
_PAUSE: Final = 0.00005


class Kicks:
    """Where a CPU is, and what it is asked to look at before it goes on.

    kicked: KVM_RUN is to return EINTR. thread: the one that is in KVM_RUN. engine: its, once it has one.
    in_guest: in Unicorn's hands, where it may use translations and code that it has seen; in_callback: it has the VM's
    lock or waits for it, and looks at stale before it goes on. asked_to_stop: what Unicorn did not stop for by itself.
    stale, stale_code: translations and code that it has are not to be used.
    """

    engine: Engine

    def __init__(self) -> None:
        self.kicked = False
        self.thread: int | None = None
        self.in_guest = False
        self.in_callback = False
        self.asked_to_stop = False
        self.stale = True
        self.stale_code = False
        # Somebody who waits is to look whether it still has to.
        self.wakes = Event()

    def wake(self) -> None:
        """Have it look whether it still has to wait."""
        self.wakes.set()

    def interrupt_guest(self) -> None:
        """Have it look again at what it is to do; it goes on by itself. It may still be in the guest for a moment."""
        self.asked_to_stop = True
        if self.in_guest:
            self.engine.stop()
        self.wake()

    def kick(self) -> None:
        """Have the KVM_RUN that is in progress return EINTR; it has left the guest then."""
        if self.thread is not None:
            self.kicked = True
            self.wake()
            self._stop_until(lambda: not self.kicked)

    def _stop_until(self, done: Callable[[], bool]) -> None:
        while self.in_guest and not done():
            self.asked_to_stop = True
            self.engine.stop()
            if self.thread == get_ident():
                return
            sleep(_PAUSE)

    def forget_translations(self) -> None:
        """Translations have changed: what it has of them is not used any more, when this returns.

        The VM's lock is held: a callback that waits for it has them looked at after it.
        """
        self.stale = True
        if self.in_guest:
            self._stop_until(lambda: self.in_callback or not self.stale)

    def translations_stale(self) -> None:
        """Another vCPU has invalidated translations of stage 1: they are asked for anew as soon as it can be had."""
        self.stale = True
        if self.in_guest:
            self.interrupt_guest()

    def forget_code(self) -> None:
        """Code has changed, or may have."""
        self.stale_code = True
        if self.in_guest:
            self.interrupt_guest()
