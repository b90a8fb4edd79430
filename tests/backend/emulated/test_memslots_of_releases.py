# SPDX-License-Identifier: Apache-2.0
"""The tests of memory slots that real kernels run too, on emulated hosts of other releases and page sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import HostProfile
from tests.test_memslots import *  # noqa: F403  its tests run here, with this module's kvm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm

LPA2 = 0x32310201126
NO_LPA2 = 0x1125

HOSTS = {
    "5.10": HostProfile("5.10", id_aa64mmfr0_el1=NO_LPA2),
    "6.1-64k": HostProfile("6.1", page_size=65536, id_aa64mmfr0_el1=NO_LPA2),
    "6.1-pkvm": HostProfile("6.1", mode="protected", id_aa64mmfr0_el1=NO_LPA2),
    "6.12-16k": HostProfile("6.12", page_size=16384, id_aa64mmfr0_el1=LPA2),
    "7.3": HostProfile("7.3", id_aa64mmfr0_el1=LPA2),
    "7.3-16k": HostProfile("7.3", page_size=16384, id_aa64mmfr0_el1=LPA2),
    "7.3-64k": HostProfile("7.3", page_size=65536, id_aa64mmfr0_el1=LPA2),
    "7.3-pkvm": HostProfile("7.3", mode="protected", id_aa64mmfr0_el1=LPA2),
}


@pytest.fixture(params=list(HOSTS))
def kvm(request: pytest.FixtureRequest) -> Iterator[Kvm]:
    """One of these hosts; where only the real kernel is wanted, none."""
    if request.config.getoption("--kvmipa-backend") == "native":
        pytest.skip("needs the emulated backend")
    with kvmipa.open("emulated", host=HOSTS[request.param]) as opened:
        yield opened
