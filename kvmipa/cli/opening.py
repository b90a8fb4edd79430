# SPDX-License-Identifier: Apache-2.0
"""The KVM that the global options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kvmipa
from kvmipa import causes

if TYPE_CHECKING:
    from argparse import Namespace

    from kvmipa.system import Kvm


def open_kvm(arguments: Namespace) -> Kvm:
    """Open it; NotArm64KvmError where it is another architecture's, for no command can use that."""
    kvm = kvmipa.open(arguments.backend, device=arguments.device, host=arguments.host)
    if not kvm.is_arm64:
        kvm.close()
        raise causes.not_arm64_error(f"an arm64 KVM at {arguments.device}")
    return kvm
