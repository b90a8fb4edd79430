# SPDX-License-Identifier: Apache-2.0
"""The guest conformance program: the binary is the source's, and the numbers that Python has are those in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kvmipa.payload import program
from kvmipa.payload.program import Command
from kvmipa.payload.steps import Sizes, steps
from tests.requirements import skip_or_fail

SOURCE = Path(program.__file__).with_name("conformance.S")
TOOLS = [f"aarch64-linux-gnu-{tool}" for tool in ("as", "ld", "objcopy", "nm")]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source, assembled by the commands that its comment has."""
    if not all(map(shutil.which, TOOLS)):
        skip_or_fail("there are no binutils for arm64 (Debian: binutils-aarch64-linux-gnu)")
    directory = tmp_path_factory.mktemp("assembled")
    shutil.copyfile(SOURCE, directory / SOURCE.name)
    commands = re.findall(r"^//   (aarch64-linux-gnu-.*)$", SOURCE.read_text(), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        subprocess.run(command.split(), check=True, cwd=directory)
    return directory


def test_the_binary_is_what_the_source_assembles_to(linked: Path) -> None:
    assert program.image() == (linked / "conformance.bin").read_bytes()


def test_the_operations_are_where_python_says(linked: Path) -> None:
    symbols = run("aarch64-linux-gnu-nm", linked / "conformance.elf")
    start = int(re.search(r"^(\w+) t operations$", symbols, re.MULTILINE)[1], 16)  # type: ignore[index]
    assert Command(program.OPERATIONS[0]).address == program.IMAGE + start
    assert Command(program.OPERATIONS[-1]).address == program.IMAGE + start + 16 * (len(program.OPERATIONS) - 1)


def test_the_operations_are_those_of_the_source_in_its_order() -> None:
    assert tuple(re.findall(r"^\s+op\s+(\w+)\s+\w", SOURCE.read_text(), re.MULTILINE)) == program.OPERATIONS


def test_each_operation_of_the_binary_is_its_own() -> None:
    image = program.image()
    places = [Command(name).address - program.IMAGE for name in program.OPERATIONS]
    assert len({image[place : place + 4] for place in places}) == len(program.OPERATIONS)


def test_a_loads_command_is_four_registers_and_what_to_report() -> None:
    packed = Command("ldr", (1, 0x5000_0000, 3), values=2, from_el=0).packed()
    assert packed.hex() == (
        "03000000" "02010000" "0100000000000000" "0000005000000000" "0300000000000000" + "00" * 32
    )  # fmt: skip


@pytest.mark.parametrize(("ipa_bits", "limit", "pa_bits"), [(32, 48, 52), (40, 40, 40), (36, 44, 44), (52, 52, 52)])
def test_every_list_of_steps_fits_its_slot(ipa_bits: int, limit: int, pa_bits: int) -> None:
    asked = list(steps(Sizes(ipa_bits, limit, pa_bits)))
    assert 400 < len(asked) <= program.MAX_COMMANDS


def test_every_operation_is_used() -> None:
    assert {step.command.operation for step in steps(Sizes(40, 44, 48))} == set(program.OPERATIONS)


def test_every_size_is_tried_below_at_and_above() -> None:
    addresses = {step.command.x[1] for step in steps(Sizes(40, 44, 48)) if len(step.command.x) == 4}
    for bits in (40, 44, 48):
        assert addresses & set(range((1 << bits) - 0x1000, 1 << bits))
        assert {1 << bits, (1 << bits) + 0x1238} <= addresses


def test_without_stage_1_nothing_turns_it_on() -> None:
    assert {step.stage1 for step in steps(Sizes(40, 44, 48), stage1=False)} == {"off"}
    assert not any(step.command.operation == "stage1_on" for step in steps(Sizes(40, 44, 48), stage1=False))


def test_with_stage_1_on_no_address_is_its_own_ipa() -> None:
    moved = [step for step in steps(Sizes(40, 44, 48)) if step.ipa is not None]
    assert {step.stage1 for step in moved} == {"lower", "upper"}
    assert all(step.command.x[1] != step.ipa for step in moved)
    assert all((step.command.x[1] >> 63 == 1) == (step.stage1 == "upper") for step in moved)
