# SPDX-License-Identifier: Apache-2.0
"""Fault injection: system calls that go wrong where a test wants them to, on either kernel.

A VMM's error paths are hard to reach: memory has to run out, a signal to come, the host to be a smaller one. Here the
system calls between kvmipa and KVM fail instead, before the kernel sees them, with the kernel's own errno; what is
raised is therefore what kvmipa raises for the real thing.

>>> import errno, kvmipa
>>> with Faults() as faults:
...     _ = faults.fail("KVM_CREATE_VM", errno.ENOMEM, nth=2)
...     with kvmipa.open("emulated") as kvm, kvm.create_vm(40):
...         try:
...             kvm.create_vm(40)
...         except kvmipa.errors.OutOfMemoryError as error:
...             print(error.cause)
the kernel could not allocate the VM
>>> print(*faults.injected)
KVM_CREATE_VM(0x28), call 2: failed with ENOMEM

In a pytest test the fixture ``kvm_faults`` is a Faults that its ``kvm`` has, see kvmipa.pytest_plugin.
"""

from __future__ import annotations

from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from kvmipa import abi, choice
from kvmipa.fault_injection.calls import KINDS, NAMES, Call, Injection
from kvmipa.fault_injection.faults import Delay, Failure, Fault, HiddenCapability, HostFault, IpaLimit, Which
from kvmipa.fault_injection.injector import FaultInjector

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend import Backend
    from kvmipa.system import Kvm

__all__ = ["KINDS", "NAMES", "Call", "Fault", "FaultInjector", "Faults", "Injection"]


class Faults:
    """What goes wrong, as a list that can grow at any time, and what of it happened.

    Three ways to a Kvm that has them: open(), which is kvmipa.open() with them; ``with faults:``, in which every
    kvmipa.open() of the process has them; and Kvm(FaultInjector(backend, faults)). Of each call the first fault that
    answers it does; all that are about it count it. Threads may share one.
    """

    def __init__(self) -> None:
        self._faults: tuple[Fault, ...] = ()
        self._requests: frozenset[str] = frozenset()
        self._injected: list[Injection] = []
        self._lock = Lock()
        self._kvms: WeakSet[Kvm] = WeakSet()
        self.injectors: WeakSet[FaultInjector] = WeakSet()
        # The thread that has Kvms ask for the limit again, which nobody is to count.
        self._asking: int | None = None

    # -------------------------------------------------------------------------------------------- what goes wrong

    def fail(
        self,
        request: str,
        error: int | str,
        *,
        nth: int | None = None,
        times: int | None = None,
        after: int = 0,
        on: str | None = None,
        when: Callable[[Call], bool] | None = None,
    ) -> Fault:
        """System calls fail with an errno, and the kernel does not see them.

        request: the name of an ioctl, "open" or "mmap" (NAMES has all). error: an errno, or its name. nth: only the
        nth call from now on, from 1; times: so many, from the nth or the first; after: not before so many calls; none
        of these: every call. on: only on this kind of descriptor (KINDS). when: only calls for which this function of
        the Call is true; the others are not counted.

        The calls are those that strace would show: kvmipa tries KVM_CREATE_VM up to 8 times where it fails with EINTR,
        and each counts. Its own question whether a host ignores sizes (machine type 1) does not, unless ``when`` says
        so. A KVM_RUN that fails with EINTR is no exception but an Interrupted exit, as with a signal.

        Raises ValueError for names that there are not, with those near to them, and for numbers out of range.

        >>> faults = Faults()
        >>> faults.fail("KVM_SET_USER_MEMORY_REGION", "ENOMEM", when=lambda call: call.fields["slot"] == 1)
        <fail(KVM_SET_USER_MEMORY_REGION, ENOMEM, when=...): fired 0 times in 0 calls>
        >>> faults.fail("KVM_CREATEVM", "ENOMEM")
        Traceback (most recent call last):
        ...
        ValueError: no system call is called 'KVM_CREATEVM'; near: KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_DEVICE
        """
        return self._add(Failure(request, error, Which(nth, times, after, on, when)))

    def delay(
        self,
        request: str,
        seconds: float,
        *,
        nth: int | None = None,
        times: int | None = None,
        after: int = 0,
        on: str | None = None,
        when: Callable[[Call], bool] | None = None,
    ) -> Fault:
        """System calls take longer; the kernel answers them, or a fault that makes them fail. Arguments: as fail().

        >>> Faults().delay("KVM_CREATE_VM", 0.1, times=2)
        <delay(KVM_CREATE_VM, 0.1, times=2): fired 0 times in 0 calls>
        """
        return self._add(Delay(request, seconds, Which(nth, times, after, on, when)))

    def limit_ipa(self, bits: int) -> Fault:
        """The host's IPA limit is ``bits``, from 32 to 52, where it is not lower by itself.

        KVM_CAP_ARM_VM_IPA_SIZE says so on both descriptors, and KVM_CREATE_VM refuses what is larger with EINVAL: also
        the default, which is 40 bits (as every kernel since 5.11 does, kernel-ipa-spec 1.2). A Kvm that open() or of()
        gave knows it at once. A pKVM host, which gives every VM its limit, no longer takes every size; its VMs are as
        large as ever.

        Raises RuntimeError where a Kvm of another making is open and has asked for the limit already.

        >>> faults = Faults()
        >>> with faults.open("emulated") as kvm:
        ...     before = kvm.host_ipa_limit
        ...     _ = faults.limit_ipa(36)
        ...     before, kvm.host_ipa_limit, kvm.probe_machine_types([0, 36, 37])
        (52, 36, [22, 0, 22])
        """
        return self._add_of_host(IpaLimit(bits))

    def hide_capability(self, cap: int | str) -> Fault:
        """The host lacks a capability: KVM_CHECK_EXTENSION says 0, KVM_ENABLE_CAP refuses it with EINVAL.

        cap: its number, or its name. Without KVM_CAP_ARM_VM_IPA_SIZE there is no machine type but 0, as before Linux
        4.20. What else rests on a capability can be made to fail() beside this. Raises ValueError for a name that there
        is not; RuntimeError as limit_ipa().

        >>> faults = Faults()
        >>> _ = faults.hide_capability("KVM_CAP_ARM_VM_IPA_SIZE")
        >>> with faults.open("emulated") as kvm:
        ...     kvm.host_ipa_limit, kvm.probe_machine_types([0, 40])
        (None, [0, 22])
        """
        return self._add_of_host(HiddenCapability(cap))

    def remove(self, *faults: Fault) -> None:
        """No more of these; without arguments, of any. What happened stays in the list.

        Raises ValueError for one that is not there.
        """
        gone = faults or self._faults
        strange = [fault for fault in gone if fault not in self._faults]
        if strange:
            raise ValueError(f"{strange[0]} is not among the faults")
        with self._lock:
            self._set(tuple(fault for fault in self._faults if fault not in gone))
        self._ask_again()

    # -------------------------------------------------------------------------------------------- what happened

    @property
    def injected(self) -> tuple[Injection, ...]:
        """What the faults did, in order."""
        return tuple(self._injected)

    @property
    def unused(self) -> tuple[Fault, ...]:
        """The faults that met no call: a test that relies on them tests something else."""
        return tuple(fault for fault in self._faults if fault.is_unused)

    def require_used(self) -> None:
        """AssertionError, which names them, where faults met no call.

        >>> faults = Faults()
        >>> _ = faults.fail("KVM_CREATE_VCPU", "ENOMEM", nth=3)
        >>> faults.require_used()
        Traceback (most recent call last):
        ...
        AssertionError: faults that met no call: fail(KVM_CREATE_VCPU, ENOMEM, nth=3), which saw 0 calls
        """
        trouble = self.unused_in_words()
        if trouble:
            raise AssertionError(trouble)

    def unused_in_words(self) -> str:
        """A line on the faults that met no call; empty where there are none."""
        left = [f"{fault}, which saw {fault.calls} call{'s' * (fault.calls != 1)}" for fault in self.unused]
        return f"faults that met no call: {'; '.join(left)}" if left else ""

    # -------------------------------------------------------------------------------------------- whom they meet

    def open(self, backend: str = "auto", **how: Any) -> Kvm:
        """kvmipa.open() with these faults; the arguments are its own."""
        if self._put_before in choice.FRONTS:
            kvm = choice.open(backend, **how)
        else:
            with self:
                kvm = choice.open(backend, **how)
        self._kvms.add(kvm)
        return kvm

    @classmethod
    def of(cls, kvm: Kvm) -> Faults:
        """The faults that an open Kvm has; ValueError where it has none.

        >>> faults = Faults()
        >>> with faults.open("emulated") as kvm:
        ...     Faults.of(kvm) is faults
        True
        """
        found = _of(kvm._backend)
        if found is not None:
            found._kvms.add(kvm)
            return found
        raise ValueError(f"{kvm!r} was opened without faults: use Faults.open(), or kvmipa.open() in a 'with faults:'")

    def __enter__(self) -> Faults:
        """Every kvmipa.open() of this process has them, until the end of the block."""
        choice.FRONTS.append(self._put_before)
        return self

    def __exit__(self, *_raised: object) -> None:
        """What is open keeps them."""
        choice.FRONTS.remove(self._put_before)

    def _put_before(self, backend: Backend) -> Backend:
        return backend if _of(backend, self) else FaultInjector(backend, self)

    # -------------------------------------------------------------------------------------------- for FaultInjector

    def concern(self, request: str) -> bool:
        """Whether a fault may be about a request of this name."""
        return request in self._requests

    def meet(self, call: Call, ask: Callable[[], int], *, fail: Callable[[int], int] | None = None) -> int:
        """What a call returns: a fault's answer, or the kernel's, which ``ask`` gets, as faults change it.

        fail: what makes a fault's answer the call's.
        """
        met = self._met(call)
        for fault, number in met:
            if fault.wait():
                self._note(fault, call, number)
        for fault, number in met:
            answer = fault.answer(call)
            if answer is not None:
                self._note(fault, call, number, max(-answer, 0))
                return answer if fail is None else fail(answer)
        result = ask()
        for fault, number in met:
            changed = fault.changed(call, result)
            if changed != result:
                self._note(fault, call, number)
                result = changed
        return result

    def _met(self, call: Call) -> list[tuple[Fault, int]]:
        """The faults that meet a call, and the how manieth of their calls it is."""
        about = [fault for fault in self._faults if fault.is_about(call)]
        if self._asking == get_ident():
            return [(fault, 0) for fault in about if isinstance(fault, HostFault)]
        with self._lock:
            for fault in about:
                fault.calls += 1
            return [(fault, fault.calls) for fault in about if fault.meets(fault.calls)]

    def _note(self, fault: Fault, call: Call, number: int, error: int = 0) -> None:
        if number:
            with self._lock:
                fault.fired += 1
                self._injected.append(Injection(call, number, fault.what, error))

    def _add(self, fault: Fault) -> Fault:
        with self._lock:
            self._set((*self._faults, fault))
        return fault

    def _add_of_host(self, fault: HostFault) -> Fault:
        """Add what Kvm asks for when it is opened."""
        known = {kvm.fileno() for kvm in self._kvms if not kvm.closed}
        if fault.cap == abi.KVM_CAP_ARM_VM_IPA_SIZE and any(one.systems() - known for one in self.injectors):
            raise RuntimeError(
                f"{fault}: a Kvm is open that has asked for the limit already; say this before kvmipa.open(), or open "
                "it with Faults.open(), or name it with Faults.of()"
            )
        self._add(fault)
        self._ask_again()
        return fault

    def _set(self, faults: tuple[Fault, ...]) -> None:
        self._faults = faults
        self._requests = frozenset().union(*(fault.requests for fault in faults))

    def _ask_again(self) -> None:
        """Have the Kvms know a limit that is another one now."""
        self._asking = get_ident()
        try:
            for kvm in self._kvms:
                if not kvm.closed:
                    kvm._ask_limit()
        finally:
            self._asking = None

    def __repr__(self) -> str:
        """Every fault, and what came of it."""
        return f"<kvmipa.fault_injection.Faults: {', '.join(map(repr, self._faults)) or 'none'}>"


def _of(backend: Backend | None, faults: Faults | None = None) -> Faults | None:
    """The faults of a backend, the outermost ones, or these; None where it has none."""
    while backend is not None:
        if isinstance(backend, FaultInjector) and faults in {None, backend.faults}:
            return backend.faults
        backend = getattr(backend, "behind", None)
    return None
