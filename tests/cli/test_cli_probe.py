# SPDX-License-Identifier: Apache-2.0
"""``kvmipa probe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("host", "limit", "default", "accepted"),
    [
        ("wide", "52 bits (4 PiB)", "40 bits (type 0)", "0, 32..52"),
        ("middle", "44 bits (16 TiB)", "40 bits (type 0)", "0, 32..44"),
        (
            "narrow",
            "36 bits (64 GiB)",
            "none: type 0 means 40 bits, which is above the limit; a VMM must name a size",
            "32..36",
        ),
        ("old", "not configurable (no KVM_CAP_ARM_VM_IPA_SIZE)", "40 bits (type 0)", "0"),
        (
            "pkvm",
            "52 bits (4 PiB)",
            "52 bits: this pKVM host gives every VM its limit, whatever the type says",
            "0..255",
        ),
    ],
)
def test_host_is_shown_with_what_it_can(kvmipa: Command, host: str, limit: str, default: str, accepted: str) -> None:
    shown = kvmipa("--host", host, "probe")
    assert shown.status == 0
    assert not shown.err
    assert shown.out.startswith(f"EMULATED        {host}: Linux ")
    rows = shown.rows
    assert (rows["IPA limit"], rows["default size"], rows["types accepted"]) == (limit, default, accepted)
    assert rows["why"]


def test_first_line_says_which_kernel_and_host(kvmipa: Command) -> None:
    assert kvmipa("--host", "narrow", "probe").rows["EMULATED"] == "narrow: Linux 6.12, 16K pages, mode vhe"
    assert kvmipa("--host", "narrow", "probe").rows["page size"] == "16384 bytes"


def test_json_has_numbers_and_not_their_text(kvmipa: Command) -> None:
    found = kvmipa("--json", "--host", "narrow", "probe").json
    why = found.pop("why")
    assert isinstance(why, str)
    assert why
    assert found == {
        "schema": 1,
        "command": "probe",
        "backend": "emulated",
        "host": "narrow: Linux 6.12, 16K pages, mode vhe",
        "api_version": 12,
        "host_ipa_limit": 36,
        "page_size": 16384,
        "machine_types_accepted": [32, 33, 34, 35, 36],
    }


def test_json_of_a_host_without_the_capability_is_null(kvmipa: Command) -> None:
    found = kvmipa("--json", "--host", "old", "probe").json
    assert (found["host_ipa_limit"], found["machine_types_accepted"]) == (None, [0])


def test_host_whose_kvm_does_not_start_is_unavailable(kvmipa: Command) -> None:
    shown = kvmipa("--host", "off", "probe")
    assert (shown.status, shown.out) == (3, "")
    assert "the emulated machine has no /dev/kvm" in shown.err
