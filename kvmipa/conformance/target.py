# SPDX-License-Identifier: Apache-2.0
"""What a check talks to: a KVM, what is known of its host, and somebody who notes what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from kvmipa.conformance.results import Mismatch
from kvmipa.errno_names import errno_name
from kvmipa.errors import DescriptorLimitError
from kvmipa.machine_type import MIN_IPA_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kvmipa.conformance.facts import Facts
    from kvmipa.system import Kvm
    from kvmipa.vm import Vm

#: What comes of a call that goes well, and what is expected of one that fails in whatever way.
OK: Final = "ok"
AN_ERROR: Final = "an error"


class SkipCheckError(Exception):
    """A check cannot be done here; the reason is a clause."""


class Target:
    """One check's KVM, opened for it alone.

    observations: how many answers were compared. mismatches: those that were not as expected. calls: counts the system
    calls that were made so far.
    """

    def __init__(self, kvm: Kvm, facts: Facts, calls: Callable[[], int] | None = None) -> None:
        self.kvm = kvm
        self.facts = facts
        self.observations = 0
        self.mismatches: list[Mismatch] = []
        self._calls = calls

    # ------------------------------------------------------------------------------------------ verdicts

    def expect(self, what: str, expected: object, came: object, after: int | None = None) -> bool:
        """Compare an answer with the expected one; whether they are the same. The check goes on in any case.

        after: how many system calls had been made when it came; None: as many as up to now.
        """
        self.observations += 1
        if expected == came:
            return True
        if after is None and self._calls is not None:
            after = self._calls()
        self.mismatches.append(Mismatch(what, str(expected), str(came), after))
        return False

    def expect_answer(self, what: str, expected: str, call: Callable[[], object]) -> bool:
        """Compare what comes of a call: OK, or the name of the errno that it fails with."""
        return self.expect(what, expected, answer(call, out_of_descriptors=expected != OK))

    def expect_error(self, what: str, call: Callable[[], object]) -> bool:
        """A call fails, with whatever errno: that is all that is promised."""
        came = answer(call)
        return self.expect(what, AN_ERROR, came if came == OK else AN_ERROR)

    def expect_types(self, expected: Mapping[int, str], name: Callable[[int], str] = hex) -> None:
        """Compare what KVM_CREATE_VM of each machine type comes to: OK, AN_ERROR, or the name of an errno."""
        before = self._calls() if self._calls else None
        answers = self.kvm.probe_machine_types(expected)
        for number, (machine_type, failed) in enumerate(zip(expected, answers, strict=True), 1):
            came = answered(-failed)
            if expected[machine_type] == AN_ERROR and failed:
                came = AN_ERROR
            # Each of them is a system call of its own; the failed one is not the last.
            after = None if before is None else before + number
            self.expect(f"KVM_CREATE_VM of machine type {name(machine_type)}", expected[machine_type], came, after)

    def skip(self, reason: str) -> NoReturn:
        """End the check without a verdict."""
        raise SkipCheckError(reason)

    # ------------------------------------------------------------------------------------------ VMs

    def require_sizes(self) -> int:
        """The host's IPA limit; skips the check where KVM has no sizes to choose from."""
        if not self.facts.has("ipa_size"):
            self.skip(f"Linux {self.facts.profile.release} has no IPA sizes to choose from (since 4.20)")
        limit = self.kvm.host_ipa_limit
        # A kernel that has sizes and does not say so breaks the claims about them.
        return 0 if limit is None else limit

    def small_vm(self) -> Vm:
        """A VM for whatever does not depend on its size: of the smallest, which is soon destroyed."""
        return self.kvm.create_vm(MIN_IPA_BITS if self.kvm.host_ipa_limit else None)

    def space_bits(self, vm: Vm) -> int:
        """Of the space that KVM takes memory in: the VM's, or of a pKVM host the limit (kernel-ipa-spec 1.7)."""
        limit = self.kvm.host_ipa_limit
        return limit if limit is not None and self.facts.ignores_size else vm.ipa_bits

    def affordable_sizes(self, sizes: Iterable[int]) -> list[int]:
        """Sizes of VMs that this host has and destroys in a while, in order; the first of those given matter most."""
        limit = self.require_sizes()
        usable = dict.fromkeys(size for size in sizes if MIN_IPA_BITS <= size <= limit)
        return sorted(self.facts.affordable(usable, lambda size: size, limit))


def answer(call: Callable[[], object], *, out_of_descriptors: bool = True) -> str:
    """What comes of a call: OK, or the name of an errno.

    A handle that the call makes is closed. out_of_descriptors: that the process has none left is such an answer;
    otherwise it is raised, for it is nothing that KVM says.

    >>> answer(lambda: 1), answer(lambda: open("/"))
    ('ok', 'EISDIR')
    """
    try:
        made = call()
    except OSError as error:
        if error.errno is None or (isinstance(error, DescriptorLimitError) and not out_of_descriptors):
            raise
        return errno_name(error.errno)
    close = getattr(made, "close", None)
    if close is not None:
        close()
    return OK


def answered(result: int) -> str:
    """The same of a request's result as the kernel gives it: OK, or the name of an errno.

    >>> answered(5), answered(-22)
    ('ok', 'EINVAL')
    """
    return OK if result >= 0 else errno_name(-result)


def number(call: Callable[[], int]) -> int | str:
    """The number that a call gives, or the name of the errno that it fails with.

    >>> number(lambda: 52)
    52
    """
    found: list[int] = []
    came = answer(lambda: found.append(call()))
    return found[0] if found else came
