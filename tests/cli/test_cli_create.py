# SPDX-License-Identifier: Apache-2.0
"""``kvmipa create``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Command


def test_vm_is_shown_with_its_shape(kvmipa: Command) -> None:
    shown = kvmipa("--host", "middle", "create", "--ipa-bits", "33")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out == (
        "EMULATED     middle: Linux 6.12, 4K pages, mode vhe\n"
        "created      33 bits (8 GiB), type 0x21\n"
        "stage 2      2 levels from level 2, 4K pages\n"
        "start level  8 concatenated tables, 32 KiB, 4096 entries\n"
        "index        L2: 12 bits (2 MiB an entry)  L3: 9 bits (4 KiB an entry)\n"
    )


@pytest.mark.parametrize("size", [[], ["--ipa-bits", "0"]])
def test_without_a_size_it_is_the_default(kvmipa: Command, size: list[str]) -> None:
    assert kvmipa("--host", "middle", "create", *size).rows["created"] == "40 bits (1 TiB), type 0x0"


def test_single_table_is_not_called_concatenated(kvmipa: Command) -> None:
    assert kvmipa("--host", "middle", "create", "--ipa-bits", "39").rows["start level"].startswith("one table, 4 KiB")


def test_json_has_the_shape_in_numbers(kvmipa: Command) -> None:
    assert kvmipa("create", "--ipa-bits", "33", "--host", "middle", "--json").json == {
        "schema": 1,
        "command": "create",
        "backend": "emulated",
        "host": "middle: Linux 6.12, 4K pages, mode vhe",
        "machine_type": "0x21",
        "ipa_bits_asked": 33,
        "ipa_bits": 33,
        "ipa_size": "0x200000000",
        "stage2": {
            "page_size": 4096,
            "levels": 2,
            "start_level": 2,
            "concatenated_tables": 8,
            "pgd_size": 32768,
            "index_bits": {"2": 12, "3": 9},
        },
    }


@pytest.mark.parametrize(
    ("host", "words", "kind", "available"),
    [
        ("narrow", [], "DefaultIpaSizeUnsupportedError", "32 to 36 bits, no default"),
        ("narrow", ["--ipa-bits", "40"], "IpaSizeTooLargeError", "32 to 36 bits, no default"),
        ("middle", ["--ipa-bits", "45"], "IpaSizeTooLargeError", "32 to 44 bits"),
        ("middle", ["--ipa-bits", "31"], "IpaSizeTooSmallError", "32 to 44 bits"),
        ("middle", ["--protected"], "ProtectedUnsupportedError", "32 to 44 bits"),
        ("old", ["--ipa-bits", "40"], "IpaSizeNotConfigurableError", "40 bits only"),
    ],
)
def test_size_that_the_host_refuses_is_a_no_with_its_cause(
    kvmipa: Command, host: str, words: list[str], kind: str, available: str
) -> None:
    shown = kvmipa("--json", "--host", host, "create", *words)
    assert shown.status == 1
    error = shown.json["error"]
    assert (error["class"], error["errno"]) == (kind, "EINVAL")
    assert error["available"].startswith(available)
    assert all(error[part] for part in ("message", "asked", "cause", "fix"))
    assert all(error[part] in shown.err for part in ("message", "asked", "available", "fix"))


@pytest.mark.parametrize("size", ["-1", "256", "296", str(1 << 64)])
@pytest.mark.parametrize("host", ["middle", "off"])
def test_size_that_no_host_could_have_is_wrong_usage(kvmipa: Command, size: str, host: str) -> None:
    shown = kvmipa("--host", host, "create", "--ipa-bits", size)
    assert (shown.status, shown.out) == (2, "")
    assert f"{size} bits" in shown.err


@pytest.mark.parametrize("size", ["forty", "40.0", "", "0x28"])
def test_size_that_is_no_number_is_wrong_usage(kvmipa: Command, size: str) -> None:
    shown = kvmipa("create", "--ipa-bits", size)
    assert (shown.status, shown.out) == (2, "")
    assert "--ipa-bits" in shown.err


def test_protected_vm_is_created_where_pkvm_runs(kvmipa: Command) -> None:
    found = kvmipa("--json", "--host", "pkvm", "create", "--protected").json
    assert found["machine_type"] == "0x80000000"


@pytest.mark.parametrize("size", ["12", "33", "60"])
def test_pkvm_host_says_that_it_ignores_the_size(kvmipa: Command, size: str) -> None:
    shown = kvmipa("--host", "pkvm", "create", "--ipa-bits", size)
    assert shown.status == 0
    assert shown.rows["created"].startswith("52 bits (4 PiB)")
    assert f"asked for {size}, but this pKVM host gives every VM its limit" in shown.rows["created"]
    found = kvmipa("--json", "--host", "pkvm", "create", "--ipa-bits", size).json
    assert (found["ipa_bits_asked"], found["ipa_bits"], found["stage2"]["levels"]) == (int(size), 52, 4)
