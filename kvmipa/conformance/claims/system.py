# SPDX-License-Identifier: Apache-2.0
"""Claims about /dev/kvm itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.abi import KVM_API_VERSION, KVM_GET_API_VERSION
from kvmipa.conformance.claim import Claim
from kvmipa.errno_names import errno_name

if TYPE_CHECKING:
    from kvmipa.conformance.target import Target


def _api_version(on: Target) -> None:
    on.expect("KVM_GET_API_VERSION", KVM_API_VERSION, on.kvm.api_version)
    refused = on.kvm._ioctl(on.kvm.fileno(), KVM_GET_API_VERSION, 1)
    on.expect("KVM_GET_API_VERSION with an argument of 1", "EINVAL", errno_name(-refused) if refused < 0 else refused)


CLAIMS: Final = (
    Claim(
        id="C1",
        name="system.api_version",
        text="The API version is 12, and a program may rely on the basic ioctls that come with it.",
        source="api.rst 4.1; kernel-ipa-spec 1.3",
        how="KVM_GET_API_VERSION is asked, with no argument and with one.",
        since="4.19",
        check=_api_version,
    ),
)
