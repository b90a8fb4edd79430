# SPDX-License-Identifier: Apache-2.0
"""Tests of kvmipa.trace: taking traces, reading them, and what they are made of."""
