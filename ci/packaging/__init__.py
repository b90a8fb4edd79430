# SPDX-License-Identifier: Apache-2.0
"""What is promised about installing kvmipa, and the checks of it."""
