# SPDX-License-Identifier: Apache-2.0
"""The guest conformance program: an arm64 guest that tries what there is to try, and what real kernels made of it."""

from __future__ import annotations

from kvmipa.payload.driver import PayloadError, run_payload
from kvmipa.payload.transcript import Transcript

__all__ = ["PayloadError", "Transcript", "run_payload"]
