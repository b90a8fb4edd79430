# SPDX-License-Identifier: Apache-2.0
"""Each claim is a test: what the machine's own run said of it."""

from __future__ import annotations

import pytest

from kvmipa.conformance.claims import CLAIMS


def test_the_machine_reports_every_claim(ktap: dict[str, tuple[str, str]]) -> None:
    assert set(ktap) == {claim.name for claim in CLAIMS}, "another kvmipa is installed on the machine"


@pytest.mark.parametrize("name", [claim.name for claim in CLAIMS])
def test_claim(ktap: dict[str, tuple[str, str]], name: str) -> None:
    status, said = ktap.get(name, ("skip", "the machine's kvmipa does not know this claim"))
    if status == "skip":
        pytest.skip(said)
    assert status == "pass", said
