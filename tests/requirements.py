# SPDX-License-Identifier: Apache-2.0
"""What a test needs that a machine may not have: it is skipped there, but CI has to have everything."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, or fail it where KVMIPA_REQUIRE_COMPILER is set."""
    if os.environ.get("KVMIPA_REQUIRE_COMPILER"):
        pytest.fail(f"KVMIPA_REQUIRE_COMPILER is set, but {reason}")
    pytest.skip(reason)
