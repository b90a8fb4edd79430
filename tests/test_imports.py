# SPDX-License-Identifier: Apache-2.0
"""What an import brings along and costs, and whether every public name explains itself."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import kvmipa

PACKAGE = Path(kvmipa.__file__).parent

# The pure core: functions of their arguments, on any machine.
PURE_NAMES = ("machine_type", "id_registers", "system_registers")
PURE_PACKAGES = ("layout", "stage2")
PURE = sorted(
    [
        *(PACKAGE / f"{name}.py" for name in PURE_NAMES),
        *(path for name in PURE_PACKAGES for path in PACKAGE.glob(f"{name}/*.py")),
    ]
)
PURE_MODULES = {
    "kvmipa._abi_table",
    "kvmipa.errors",
    *(f"kvmipa.{name}" for name in PURE_PACKAGES),
    *(f"kvmipa.{name}" for name in PURE_NAMES),
}
PURE_STANDARD_LIBRARY = {
    "__future__",
    "array",
    "collections",
    "dataclasses",
    "enum",
    "errno",
    "functools",
    "itertools",
    "math",
    "struct",
    "typing",
    "typing_extensions",
}


def in_a_new_process(program: str) -> object:
    """What a program prints, as JSON."""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    return json.loads(run.stdout)


def modules_after(statement: str) -> set[str]:
    """The modules that a statement imports in a new process."""
    found = in_a_new_process(
        f"import sys; before = set(sys.modules)\n{statement}\n"
        "after = sorted(set(sys.modules) - before)\nimport json; print(json.dumps(after))"
    )
    assert isinstance(found, list)
    return set(found)


def test_import_brings_nothing_that_is_not_needed_at_once() -> None:
    assert {name for name in modules_after("import kvmipa") if name.startswith("kvmipa.")} == set()
    loaded = modules_after("import kvmipa; kvmipa.open")
    not_needed = {
        "_cffi_backend",
        "argparse",
        "cffi",
        "ctypes",
        "difflib",
        "hypothesis",
        "json",
        "kvmipa._native",
        "kvmipa.abi",
        "kvmipa.backend.emulated",
        "kvmipa.backend.native",
        "kvmipa.cli",
        "kvmipa.doctor",
        "kvmipa.recording",
        "kvmipa.stage2",
        "pycparser",
        "pytest",
        "subprocess",
    }
    assert "kvmipa.system" in loaded
    assert loaded & not_needed == set()
    # The causes of what has not failed yet are most of the package.
    assert {name for name in loaded if name.startswith("kvmipa.causes.")} == {"kvmipa.causes.system"}


def test_emulated_backend_needs_nothing_of_the_native_one() -> None:
    loaded = modules_after("import kvmipa; kvmipa.open('emulated').create_vm(40).close()")
    assert "kvmipa.backend.emulated" in loaded
    assert loaded & {"kvmipa.backend.native", "kvmipa._native", "_cffi_backend", "cffi", "pycparser", "ctypes"} == set()


def test_emulated_backend_needs_nothing_that_only_unix_has() -> None:
    found = in_a_new_process(
        "import os; del os.O_CLOEXEC, os.uname\n"
        "import kvmipa, json\n"
        "with kvmipa.open('emulated') as kvm, kvm.create_vm(40) as vm: print(json.dumps(vm.ipa_bits))"
    )
    assert found == 40


def test_native_backend_brings_no_compiler_and_no_emulation() -> None:
    loaded = modules_after("import kvmipa.backend.native")
    assert loaded & {"cffi", "cffi.api", "pycparser", "setuptools", "kvmipa.backend.emulated"} == set()


def test_import_costs_little_more_than_what_it_needs_of_the_standard_library() -> None:
    # Seconds say nothing about other machines, and one run nothing about this one: the best of several, in relation.
    program = (
        "from time import perf_counter as now; start = now()\n"
        "import dataclasses, enum, typing, warnings; there = now()\n"
        "import kvmipa; kvmipa.open; import json; print(json.dumps([now() - there, there - start]))"
    )
    runs = [in_a_new_process(program) for _ in range(5)]
    own, standard_library = (min(column) for column in zip(*runs, strict=True))
    assert own < 4 * standard_library


def imports(path: Path) -> set[str]:
    """The modules that a file's own import statements name, except those for type checkers only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module
            names |= {f"kvmipa.{alias.name}" for alias in node.names} if node.module == "kvmipa" else {node.module}
    return names


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pure_core_imports_neither_the_system_nor_a_backend(path: Path) -> None:
    foreign = {
        name
        for name in imports(path)
        if name.split(".")[0] not in PURE_STANDARD_LIBRARY and ".".join(name.split(".")[:2]) not in PURE_MODULES
    }
    assert foreign == set()


def test_pure_core_is_where_it_is_looked_for() -> None:
    assert len(PURE) >= 6
    assert all(path.is_file() for path in PURE)


@pytest.mark.parametrize("name", kvmipa.__all__)
def test_public_name_is_there_and_can_be_completed(name: str) -> None:
    assert getattr(kvmipa, name) is getattr(kvmipa, name)
    assert name in dir(kvmipa)


def test_every_public_name_is_announced() -> None:
    public = {
        name for name, value in vars(kvmipa).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public - {"annotations", "TYPE_CHECKING", "Any"} <= set(kvmipa.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'kvmipa' has no attribute 'HostProfil'"):
        kvmipa.HostProfil  # noqa: B018


PUBLIC = [name for name in kvmipa.__all__ if not name.startswith("__")]
CLASSES = [name for name in PUBLIC if inspect.isclass(getattr(kvmipa, name))]


@pytest.mark.parametrize("name", ["", *PUBLIC])
def test_public_name_explains_itself_with_an_example(name: str) -> None:
    thing = getattr(kvmipa, name) if name else kvmipa
    assert ">>> " in (inspect.getdoc(thing) or "")


def members(name: str) -> list[str]:
    """The methods and properties that a public class shows."""
    cls = getattr(kvmipa, name)
    return [
        f"{name}.{member}"
        for member, value in inspect.getmembers(cls)
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
        and not inspect.ismethoddescriptor(value)
    ]


MEMBERS = [member for name in CLASSES for member in members(name)]


@pytest.mark.parametrize("member", MEMBERS)
def test_public_member_explains_itself(member: str) -> None:
    name, _, attribute = member.partition(".")
    assert len((inspect.getdoc(getattr(getattr(kvmipa, name), attribute)) or "").split()) >= 3


def test_members_are_found() -> None:
    assert {"Kvm.create_vm", "Kvm.close", "Kvm.host_ipa_limit", "Vm.stage2", "HostProfile.of"} <= set(MEMBERS)


def test_package_is_typed() -> None:
    assert PACKAGE.joinpath("py.typed").is_file()
