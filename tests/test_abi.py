# SPDX-License-Identifier: Apache-2.0
"""One declaration of the ABI: csrc/kvm_abi.h, the committed table and the compiled extension say the same."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from struct import calcsize
from typing import Any

import pytest

import kvmipa
from kvmipa import _abi_table
from kvmipa._abi_table import CAPABILITIES, REQUESTS, STRUCTS
from kvmipa.abi import capability_name, request_name
from kvmipa.backend.native import why_missing
from tests.requirements import skip_or_fail

GENERATOR = Path(__file__).parents[1] / "csrc" / "abi_table.py"
PACKAGE = Path(kvmipa.__file__).parent
REBUILD = (
    "kvmipa/_native was built from another csrc/kvm_abi.h: build it again (KVMIPA_NATIVE=require pip install -e .)"
)


@pytest.fixture(scope="module")
def native() -> Any:
    """The compiled extension."""
    missing = why_missing()
    if missing:
        skip_or_fail(f"there is no compiled extension: {missing}")
    from kvmipa import _native

    return _native


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    """The names of csrc/abi_table.py."""
    if not GENERATOR.exists():
        pytest.skip("there is no csrc/ here: the tests are run without the source tree")
    return runpy.run_path(str(GENERATOR))


def table_facts() -> dict[str, int]:
    """What the extension's kvmipa_facts should hold, worked out from Python's table."""
    facts = {name: value for name, value in vars(_abi_table).items() if isinstance(value, int)}
    for name, (layout, fields) in STRUCTS.items():
        facts[name] = calcsize(layout)
        kinds = re.findall(r"\d*[BHIQhi]", layout)
        for number, field in enumerate(fields):
            facts[f"{name}.{field}"] = calcsize("=" + "".join(kinds[:number]))
    return facts


def compiled_facts(native: Any) -> dict[str, int]:
    """The extension's kvmipa_facts up to its null name."""
    facts: dict[str, int] = {}
    while native.lib.kvmipa_facts[len(facts)].name:
        fact = native.lib.kvmipa_facts[len(facts)]
        name = native.ffi.string(fact.name).decode()
        assert name not in facts, f"{name} is there twice"
        facts[name] = fact.value
    return facts


def declared_names() -> dict[str, int | None]:
    """The names that kvmipa/_native.pyi declares in lib: the number of a function's arguments, None for a variable."""
    tree = ast.parse((PACKAGE / "_native.pyi").read_text())
    (lib,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_Lib")
    names: dict[str, int | None] = {}
    for node in lib.body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = len(node.args.posonlyargs) - 1  # without self
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = None
    return names


def test_the_committed_table_is_what_the_generator_writes(generator: dict[str, Any]) -> None:
    assert (PACKAGE / "_abi_table.py").read_text() == generator["table"](), "run: python csrc/abi_table.py"


def test_the_extension_has_the_numbers_and_layouts_of_the_table(native: Any) -> None:
    compiled, expected = compiled_facts(native), table_facts()
    differences = {
        name: (compiled.get(name), expected.get(name))
        for name in compiled.keys() | expected.keys()
        if compiled.get(name) != expected.get(name)
    }
    assert not differences, f"{REBUILD}; (compiled, table): {differences}"
    assert len(compiled) > len(REQUESTS) + len(CAPABILITIES) + len(STRUCTS)


def test_the_type_stub_declares_what_the_extension_has(native: Any) -> None:
    declared = declared_names()
    assert declared.keys() == set(dir(native.lib)), REBUILD
    for name, arguments in declared.items():
        if arguments is not None:
            assert len(native.ffi.typeof(getattr(native.lib, name)).args) == arguments, name


def test_no_two_names_have_one_number() -> None:
    assert len(set(CAPABILITIES.values())) == len(CAPABILITIES)
    # The descriptor decides what this number means.
    shared = {"KVM_ARM_SET_DEVICE_ADDR": REQUESTS["KVM_GET_ONE_REG"]}
    assert shared.items() <= REQUESTS.items()
    assert len(set(REQUESTS.values())) == len(REQUESTS) - len(shared)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        # Spelled out once, independently of the generator: what strace shows of QEMU and Firecracker on arm64.
        ("KVM_CREATE_VM", 0xAE01),
        ("KVM_CHECK_EXTENSION", 0xAE03),
        ("KVM_GET_ONE_REG", 0x4010AEAB),
        ("KVM_ARM_VCPU_INIT", 0x4020AEAE),
        ("KVM_ARM_PREFERRED_TARGET", 0x8020AEAF),
    ],
)
def test_requests_are_encoded_as_linux_does(name: str, number: int) -> None:
    assert REQUESTS[name] == number
    assert request_name(number) == name


def test_every_capability_has_its_name_back() -> None:
    assert all(capability_name(number) == name for name, number in CAPABILITIES.items())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    uint32_t a;\n    uint64_t b;\n", "struct kvmipa_x has padding"),
        ("    uint64_t a;\n    uint8_t b[3];\n    uint16_t c;\n", "struct kvmipa_x has padding"),
    ],
)
def test_the_generator_refuses_a_struct_with_padding(generator: dict[str, Any], body: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator["structs"](f"struct kvmipa_x {{\n{body}}};\n")


def test_the_generator_reads_arrays_and_all_integer_types(generator: dict[str, Any]) -> None:
    source = "struct kvmipa_x {\n    uint64_t a;\n    uint16_t b[3];\n    uint8_t c[2];\n};\n"
    assert generator["structs"](source) == {"x": ("=Q3H2B", ("a", "b", "c"))}


def test_the_generator_says_which_list_is_missing(generator: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="KVMIPA_REQUESTS"):
        generator["macro_rows"]("/* nothing */", "KVMIPA_REQUESTS")
