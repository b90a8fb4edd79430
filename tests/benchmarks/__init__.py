# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: no part of the test run; each prints figures and ratios. ``python -m tests.benchmarks.NAME``."""
