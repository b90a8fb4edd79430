# SPDX-License-Identifier: Apache-2.0
"""What is known of a host apart from the answers that are judged, and which rules it is therefore judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmipa.backend.emulated.release import parse

if TYPE_CHECKING:
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.system import Kvm


@dataclass(frozen=True)
class Facts:
    """A host. real: not emulated. profile: the machine and its kernel, as HostProfile.of() reads them."""

    real: bool
    profile: HostProfile

    @classmethod
    def of(cls, kvm: Kvm) -> Facts:
        """Read them; raises KvmError where KVM does not let a vCPU be looked at."""
        from kvmipa.backend.emulated.host import HostProfile

        return cls(kvm.backend == "native", HostProfile.of(kvm))

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
