# SPDX-License-Identifier: Apache-2.0
"""``kvmipa type``: no KVM is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import kvmipa as library

if TYPE_CHECKING:
    from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a KVM is opened."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a KVM was opened")

    monkeypatch.setattr(library, "open", never)


@pytest.mark.parametrize(
    ("words", "machine_type"),
    [
        (["0"], "0x0"),
        (["40"], "0x28"),
        (["52"], "0x34"),
        (["255"], "0xff"),
        (["40", "--protected"], "0x80000028"),
        (["0", "--protected"], "0x80000000"),
    ],
)
def test_encode(kvmipa: Command, words: list[str], machine_type: str) -> None:
    shown = kvmipa("type", "encode", *words)
    assert (shown.status, shown.out, shown.err) == (0, f"{machine_type}\n", "")
    assert kvmipa("--json", "type", "encode", *words).json == {
        "schema": 1,
        "command": "type encode",
        "machine_type": machine_type,
    }


@pytest.mark.parametrize("size", ["-1", "256", "296"])
def test_encode_of_what_does_not_fit_is_wrong_usage(kvmipa: Command, size: str) -> None:
    shown = kvmipa("type", "encode", size)
    assert (shown.status, shown.out) == (2, "")
    assert "does not fit the machine type's low byte" in shown.err


@pytest.mark.parametrize(
    ("number", "size", "protected", "bits"),
    [
        ("0", "the default (40 bits)", "no", None),
        ("40", "40 bits", "no", 40),
        ("0x28", "40 bits", "no", 40),
        ("0o50", "40 bits", "no", 40),
        ("0b101000", "40 bits", "no", 40),
        ("0x80000030", "48 bits", "yes", 48),
    ],
)
def test_decode(kvmipa: Command, number: str, size: str, protected: str, bits: int | None) -> None:
    shown = kvmipa("type", "decode", number)
    assert (shown.status, shown.rows) == (0, {"IPA size": size, "protected": protected})
    found = kvmipa("--json", "type", "decode", number).json
    assert (found["ipa_bits"], found["protected"]) == (bits, protected == "yes")


def test_decode_of_reserved_bits_is_a_no(kvmipa: Command) -> None:
    shown = kvmipa("--json", "type", "decode", "0x100000128")
    assert shown.status == 1
    error = shown.json["error"]
    assert (error["class"], error["errno"]) == ("ReservedTypeBitsError", "EINVAL")
    assert error["cause"] == "machine type bits 8, 32 have no meaning"


def test_explain(kvmipa: Command) -> None:
    shown = kvmipa("type", "explain", "0x80000128")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out == (
        "0x80000128\n"
        "  bits 7:0   0x28: a guest physical address space of 40 bits (1 TiB)\n"
        "  bit 31     1: a protected VM (Linux 7.x in kvm-arm.mode=protected)\n"
        "  reserved   bit 8 has no meaning: refused by every kernel (EINVAL)\n"
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0", "the kernel's default, 40 bits"),
        ("31", "below the minimum of 32"),
        ("33", "of 33 bits (8 GiB)"),
        ("53", "above every host's limit"),
        (str((1 << 64) - 1), "bits 8, 9, 10, 11"),
    ],
)
def test_explain_has_words_for_every_number(kvmipa: Command, number: str, words: str) -> None:
    shown = kvmipa("type", "explain", number)
    assert shown.status == 0
    assert words in shown.out


def test_explain_in_json_has_a_line_for_each_part(kvmipa: Command) -> None:
    found = kvmipa("type", "explain", "40", "--json").json
    assert found["machine_type"] == "0x28"
    assert [line.split("  ")[0] for line in found["lines"]] == ["bits 7:0", "bit 31"]


@pytest.mark.parametrize("part", ["decode", "explain"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("x", "is not a number"),
        ("", "is not a number"),
        ("40.0", "is not a number"),
        ("-1", "does not fit 64 bits"),
        (str(1 << 64), "does not fit 64 bits"),
        ("0x1_0000_0000_0000_0000", "does not fit 64 bits"),
    ],
)
def test_what_is_no_64_bit_number_is_wrong_usage(kvmipa: Command, part: str, number: str, words: str) -> None:
    shown = kvmipa("type", part, number)
    assert (shown.status, shown.out) == (2, "")
    assert words in shown.err


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "type", "encode", "40"],
        ["type", "--json", "encode", "40"],
        ["type", "encode", "--json", "40"],
        ["type", "encode", "40", "--json"],
    ],
)
def test_json_may_stand_anywhere(kvmipa: Command, words: list[str]) -> None:
    assert kvmipa(*words).json["machine_type"] == "0x28"
