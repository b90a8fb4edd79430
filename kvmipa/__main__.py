# SPDX-License-Identifier: Apache-2.0
"""``python -m kvmipa``."""

import sys

from kvmipa.cli import main

sys.exit(main())
