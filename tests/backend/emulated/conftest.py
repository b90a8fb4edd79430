# SPDX-License-Identifier: Apache-2.0
"""VMs of the emulated kernel of every release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.backend.emulated.asking import RELEASES
from tests.backend.emulated.machines import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.device_asking import Machine


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each release that behaves in its own way."""
    return str(request.param)


@pytest.fixture
def on(release: str) -> Iterator[Machine]:
    """A VM of each on a host with a GICv3."""
    with machine(release) as made:
        yield made


@pytest.fixture
def on_v2(release: str) -> Iterator[Machine]:
    """A VM of each on a host with a GICv2."""
    with machine(release, gic="v2") as made:
        yield made
