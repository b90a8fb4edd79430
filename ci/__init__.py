# SPDX-License-Identifier: Apache-2.0
"""What continuous integration runs, and the lab that boots real arm64 kernels."""
