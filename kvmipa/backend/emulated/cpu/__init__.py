# SPDX-License-Identifier: Apache-2.0
"""The emulated CPU: the Unicorn engine, with every translation of an address made by kvmipa's own walkers.

It needs the extra ``kvmipa[cpu]``; nothing here is imported before a vCPU runs.
"""
