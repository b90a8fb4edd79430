# SPDX-License-Identifier: Apache-2.0
"""VMs of emulated hosts of each release, asked directly about devices and vCPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kvmipa
from tests.backend.emulated.asking import host
from tests.device_asking import CTRL, INIT, SET, V3, Machine

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

SINCE_6_1 = {"6.1", "6.12", "7.3"}


def machine(release: str = "6.12", bits: int | None = 36, **more: Any) -> AbstractContextManager[Machine]:
    """A VM of the emulated kernel."""
    return Machine(kvmipa.open("emulated", host=host(release, **more)), bits if release != "4.19" else None)


def initialised(on: Machine, vcpus: int = 1, kind: int = V3) -> int:
    """A vGIC that is initialised, with vCPUs that are."""
    gic = on.create(kind)
    for number in range(vcpus):
        assert on.init(on.vcpu(number)) == 0
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    return gic
