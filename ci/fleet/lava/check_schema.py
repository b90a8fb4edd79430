# SPDX-License-Identifier: Apache-2.0
"""Whether LAVA's own library takes the job and the test definition (Debian: apt install lava-common).

Runs in the Python that has lava_common, which is usually the system's: /usr/bin/python3 ci/fleet/lava/check_schema.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from lava_common.schemas import validate
from lava_common.schemas.test import testdef

HERE = Path(__file__).parent


def main() -> int:
    """Check both files; 1 where one is refused, with what is wrong."""
    refused = 0
    for name, check in (("job.yaml", validate), ("kvmipa-conform.yaml", testdef.validate)):
        try:
            check(yaml.safe_load((HERE / name).read_text()))
        except Exception as error:
            print(f"{name}: {error}", file=sys.stderr)
            refused = 1
        else:
            print(f"{name}: accepted")
    return refused


if __name__ == "__main__":
    sys.exit(main())
