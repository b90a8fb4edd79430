# SPDX-License-Identifier: Apache-2.0
"""The saboteurs by the claims that they break: a module for each subject, which has a tuple SABOTAGES."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.conformance.sabotage import Sabotage


def _merged() -> dict[str, list[Sabotage]]:
    found: dict[str, list[Sabotage]] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        for sabotage in import_module(f"{__name__}.{module}").SABOTAGES:
            found.setdefault(sabotage.claim, []).append(sabotage)
    return found


#: Claim id -> what breaks it.
SABOTAGES: Final = _merged()
