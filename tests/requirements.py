# SPDX-License-Identifier: Apache-2.0
"""What a test needs that a machine may not have: it is skipped there, but CI has to have everything."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, or fail it where KVMIPA_REQUIRE_COMPILER is set."""
    if os.environ.get("KVMIPA_REQUIRE_COMPILER"):
        pytest.fail(f"KVMIPA_REQUIRE_COMPILER is set, but {reason}")
    pytest.skip(reason)


def need(module: str) -> Any:
    """A module of the extra "dev"; without it the test is skipped, or fails if KVMIPA_REQUIRE_DEV is set.

    .ci/run runs the test files that import this once more with that set.
    """
    try:
        return import_module(module)
    except ImportError as error:
        reason = f"{module} is not installed: {error}"
    if os.environ.get("KVMIPA_REQUIRE_DEV"):
        pytest.fail(f"KVMIPA_REQUIRE_DEV is set, but {reason}")
    pytest.skip(reason)
