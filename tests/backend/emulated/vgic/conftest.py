# SPDX-License-Identifier: Apache-2.0
"""A vGICv3 of every release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.device_asking import V3

if TYPE_CHECKING:
    from tests.device_asking import Machine


@pytest.fixture
def gic(on: Machine) -> int:
    """The VM's vGICv3."""
    return on.create(V3)
