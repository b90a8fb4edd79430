# SPDX-License-Identifier: Apache-2.0
"""The lab and its tests need Python 3.11 (tomllib); kvmipa itself does not."""

import sys

collect_ignore_glob = ["test_lab_*.py"] if sys.version_info < (3, 11) else []
