# SPDX-License-Identifier: Apache-2.0
"""Names of errno, as the kernel's sources have them."""

from __future__ import annotations

import errno


def errno_name(code: int) -> str:
    """The name of an errno; its number where there is none.

    On Linux ENOTSUP, the C library's name, is EOPNOTSUPP; Python's table has the former, and the kernel the latter.

    >>> errno_name(22), errno_name(99999)
    ('EINVAL', '99999')
    """
    return "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode.get(code, str(code))


def errno_of(name: str) -> int:
    """The errno of a name; ValueError where this system has none.

    >>> errno_of("EINVAL")
    22
    """
    code = getattr(errno, name, None)
    if not isinstance(code, int):
        raise ValueError(f"no errno is called {name!r}")
    return code
