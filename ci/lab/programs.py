# SPDX-License-Identifier: Apache-2.0
"""The programs of other packages that the lab starts."""

from __future__ import annotations

import shutil

from ci.lab.errors import LabError


def find(name: str, package: str) -> str:
    """The path of a program, or an error that names the Debian package which has it."""
    path = shutil.which(name)
    if path is None:
        raise LabError(f"{name} is not here (Debian: apt install {package})")
    return path
