# SPDX-License-Identifier: Apache-2.0
"""What is known of a host apart from the answers that are judged, and which rules it is therefore judged by."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.release import parse
from kvmipa.machine_type import DEFAULT_IPA_BITS, MIN_IPA_BITS, SIZE_MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.system import Kvm

    Asked = TypeVar("Asked")

# Seconds that a check may spend on destroying VMs, all together.
_AFFORDABLE: Final = 3.0

# kernel-ipa-spec 6: since 7.3 destroying a VM takes a step for each block of so many bits, by page size. As many steps
# as these are long enough to be measured, and soon over.
_STEP_BITS: Final = {4096: 30, 16384: 25, 65536: 29}
_MEASURED_STEPS_BITS: Final = 14


@dataclass(frozen=True)
class Facts:
    """A host. real: not emulated. profile: the machine and its kernel, as HostProfile.of() reads them.

    step_seconds: how long destroying a VM takes for each block of its space; 0 where it does not depend on the size.
    """

    real: bool
    profile: HostProfile
    step_seconds: float = 0.0

    @classmethod
    def of(cls, kvm: Kvm) -> Facts:
        """Read them; raises KvmError where KVM does not let a vCPU be looked at."""
        from kvmipa.backend.emulated.host import HostProfile

        real, profile = kvm.backend == "native", HostProfile.of(kvm)
        slow = real and profile.behaviour.destroys_by_blocks and kvm.host_ipa_limit is not None
        return cls(real, profile, _measure(kvm, profile) if slow else 0.0)

    @property
    def release(self) -> tuple[int, int, int]:
        """The kernel's release."""
        return parse(self.profile.release)

    def has(self, change: str) -> bool:
        """Whether the release has a change of behaviour: a row of kvmipa.backend.emulated.release.Behaviour."""
        return bool(getattr(self.profile.behaviour, change))

    @property
    def ignores_size(self) -> bool:
        """Whether this is a pKVM host that gives every VM its limit (kernel-ipa-spec 1.7)."""
        return self.profile.type_rules.size_ignored

    def seconds_to_destroy(self, ipa_bits: int) -> float:
        """How long destroying a VM of this size is going to take; 0: not worth a thought.

        >>> from kvmipa import HostProfile
        >>> Facts(True, HostProfile("7.3"), step_seconds=1e-6).seconds_to_destroy(50)
        1.048576
        """
        return self.step_seconds * (1 << max(ipa_bits - _STEP_BITS[self.profile.page_size], 0))

    def affordable(self, asked: Iterable[Asked], bits: Callable[[Asked], int], limit: int | None) -> list[Asked]:
        """What can be asked of this host without VMs being destroyed for longer than a few seconds; in its order.

        asked: the most important ones first. bits: the IPA size of the VM that one of them makes, 0 where it makes
        none. limit: the host's, which all VMs of a pKVM host have.
        """
        left = _AFFORDABLE
        found = []
        for one in asked:
            size = bits(one)
            if size and self.ignores_size:
                size = limit or DEFAULT_IPA_BITS
            took = self.seconds_to_destroy(size) if size else 0.0
            if took <= left:
                left -= took
                found.append(one)
        return found

    def accepted_types(self, kvm: Kvm) -> tuple[int, ...]:
        """The machine types below 256 that make a VM.

        Each is tried, but for those whose VMs would take long to destroy: of them is believed what the limit says.
        """
        limit = kvm.host_ipa_limit

        def bits(machine_type: int) -> int:
            if limit is None:
                return 0 if machine_type else DEFAULT_IPA_BITS
            size = machine_type or DEFAULT_IPA_BITS
            return size if self.ignores_size or MIN_IPA_BITS <= size <= limit else 0

        tried = self.affordable(range(SIZE_MASK + 1), bits, limit)
        refused = {one for one, failed in zip(tried, kvm.probe_machine_types(tried), strict=True) if failed}
        return tuple(one for one in range(SIZE_MASK + 1) if one not in refused)


def _measure(kvm: Kvm, profile: HostProfile) -> float:
    """Seconds for each step, by a VM of the least size that lasts; of a pKVM host all VMs have the limit."""
    limit = kvm.host_ipa_limit or DEFAULT_IPA_BITS
    step_bits = _STEP_BITS[profile.page_size]
    bits = min(limit, step_bits + _MEASURED_STEPS_BITS)
    vm = kvm.create_vm(bits)
    clock = time.perf_counter()
    vm.close()
    took = time.perf_counter() - clock
    return took / (1 << max((limit if profile.type_rules.size_ignored else bits) - step_bits, 0))
