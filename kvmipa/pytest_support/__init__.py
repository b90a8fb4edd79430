# SPDX-License-Identifier: Apache-2.0
"""What the pytest plugin does where a test asks for a kernel; no other session imports it."""
