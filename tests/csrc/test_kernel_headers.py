# SPDX-License-Identifier: Apache-2.0
"""csrc/ compiles against the kernel headers of any release, and against none that disagree with it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from kvmipa import _abi_table
from kvmipa._abi_table import CAPABILITIES, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.csrc.conftest import Compiler

    InstallHeader = Callable[[str, str], str]

NATIVE = "kvmipa_native.c"
CHECK = "kvm_abi_check.c"
KVM_H = "linux/kvm.h"
CONSTANTS = {
    name: value
    for name, value in vars(_abi_table).items()
    if isinstance(value, int) and name not in REQUESTS and name not in CAPABILITIES
}
# Each architecture's headers have a number of their own for these.
OF_EACH_ARCHITECTURE = {"KVM_COALESCED_MMIO_PAGE_OFFSET", "KVM_DIRTY_LOG_PAGE_OFFSET"}
NUMBERS = CONSTANTS | CAPABILITIES
# Requests that carry no struct, for which each architecture's headers have a number.
PLAIN_REQUESTS = {name for name, number in REQUESTS.items() if number >> 30 == 0}

# include/uapi/linux/kvm.h of 4.19 ends with KVM_CAP_MSR_PLATFORM_INFO, and has no machine type for arm64.
LAST_CAPABILITY_OF_4_19 = 159


def definitions(header: str) -> dict[str, str]:
    """The one-line macros without arguments of a header."""
    return dict(re.findall(r"^#define[ \t]+(\w+)[ \t]+(\S.*)$", header, re.MULTILINE))


def without(header: str, names: set[str]) -> str:
    """A header from which the macros with these names are gone, with all their lines."""
    macro = re.compile(r"^#define[ \t]+(\w+)(?:.*\\\n)*.*\n", re.MULTILINE)
    return macro.sub(lambda match: "" if match[1] in names else match[0], header)


def replaced(header: str, values: dict[str, str]) -> str:
    """A header that gives these names other values, whatever it says before."""
    return header + "".join(f"#undef {name}\n#define {name} {value}\n" for name, value in values.items())


def older_than_4_20(header: str) -> str:
    """A header without what 4.20 and later releases added to the names that kvmipa uses."""
    capabilities = {
        name
        for name, value in definitions(header).items()
        if name.startswith("KVM_CAP_") and re.match(r"\d+\b", value) and int(value.split()[0]) > LAST_CAPABILITY_OF_4_19
    }
    types = {name for name in re.findall(r"^#define[ \t]+(\w+)", header, re.MULTILINE) if "VM_TYPE_ARM" in name}
    return without(header, capabilities | types)


# What 6.8 has and older headers have not, of the structs that are compared: include/uapi/linux/kvm.h, asm/kvm.h.
STRUCTS_OF_6_8 = """
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
struct kvm_userspace_memory_region2 {
    __u32 slot, flags;
    __u64 guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
    __u32 guest_memfd, pad1;
    __u64 pad2[14];
};
struct kvm_create_guest_memfd { __u64 size, flags, reserved[6]; };
"""
ARM64_STRUCTS_OF_6_8 = """
#define KVM_ARM_VM_SMCCC_FILTER 0
enum kvm_smccc_filter_action { KVM_SMCCC_FILTER_HANDLE, KVM_SMCCC_FILTER_DENY, KVM_SMCCC_FILTER_FWD_TO_USER };
struct kvm_smccc_filter { __u32 base, nr_functions; __u8 action, pad[15]; };
struct kvm_arm_counter_offset { __u64 counter_offset, reserved; };
struct reg_mask_range { __u64 addr; __u32 range, reserved[13]; };
"""


def as_of_6_8(header: str, arm64_header: str) -> tuple[str, str]:
    """Headers with what 6.8 added to the structs that are compared."""
    if "KVM_SET_USER_MEMORY_REGION2" not in header:
        header = re.sub(r"__u32 longmode;\s*__u32 pad;", "__u64 flags;", header)
        header = header.replace(
            "char padding[256];", "struct { __u64 flags, gpa, size; } memory_fault; char padding[256];", 1
        )
        header += STRUCTS_OF_6_8
    return header, arm64_header if "reg_mask_range" in arm64_header else arm64_header + ARM64_STRUCTS_OF_6_8


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), []),
        (("KVM_SMCCC_FILTER_DENY,", "KVM_SMCCC_FILTER_DENY = 9,"), ["KVM_SMCCC_FILTER_DENY", "FWD_TO_USER"]),
        (("__u64 addr; __u32 range", "__u32 range; __u64 addr; __u32 more"), ["reg_mask_range"]),
    ],
    ids=["as they are", "another action", "another struct"],
)
def test_what_came_up_to_6_8_is_compared(
    arm64_compiler: Compiler, install_header: InstallHeader, change: tuple[str, str], expected: list[str]
) -> None:
    header, arm64_header = as_of_6_8(arm64_compiler.header(KVM_H), arm64_compiler.header("asm/kvm.h"))
    if change[0] not in arm64_header:
        pytest.skip("these headers are not older than 6.8")
    flags = install_header(KVM_H, header), install_header("asm/kvm.h", arm64_header.replace(*change))
    result = arm64_compiler.compile(CHECK, *flags)
    assert (result.returncode != 0) == bool(expected), result.stderr
    assert not [name for name in expected if name not in result.stderr]


@pytest.mark.parametrize("source", [NATIVE, CHECK])
def test_it_compiles_against_the_systems_headers(compiler: Compiler, source: str) -> None:
    compiler.header(KVM_H)
    result = compiler.compile(source)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("source", [NATIVE, CHECK])
def test_it_compiles_without_kernel_headers(compiler: Compiler, source: str) -> None:
    result = compiler.compile(source, "-DKVMIPA_NO_KERNEL_HEADERS")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("source", [NATIVE, CHECK])
def test_it_compiles_against_headers_older_than_4_20(
    compiler: Compiler, install_header: InstallHeader, source: str
) -> None:
    old = older_than_4_20(compiler.header(KVM_H))
    known = NUMBERS.keys() & definitions(old).keys()
    assert "KVM_CAP_ARM_INJECT_SERROR_ESR" in known
    assert not known & {"KVM_CAP_ARM_VM_IPA_SIZE", "KVM_CAP_COALESCED_PIO", "KVM_VM_TYPE_ARM_IPA_SIZE_MASK"}
    result = compiler.compile(source, install_header(KVM_H, old))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("source", [NATIVE, CHECK])
def test_it_compiles_against_headers_newer_than_7_3(
    compiler: Compiler, install_header: InstallHeader, source: str
) -> None:
    header = compiler.header(KVM_H)
    values = {name: hex(value) for name, value in NUMBERS.items()}
    # Written as 7.3 writes them, and followed by names that no release has yet.
    values |= {"KVM_VM_TYPE_ARM_PROTECTED": "(1UL << 31)", "KVM_VM_TYPE_ARM_IPA_SIZE_MASK": "0xffULL"}
    values |= {"KVM_CAP_OF_THE_FUTURE": "999", "KVM_VM_TYPE_ARM_OF_THE_FUTURE": "(1UL << 30)"}
    result = compiler.compile(source, install_header(KVM_H, replaced(header, values)))
    assert result.returncode == 0, result.stderr


def test_every_number_that_the_headers_know_is_compared(compiler: Compiler, install_header: InstallHeader) -> None:
    header = compiler.header(KVM_H)
    compared = (NUMBERS.keys() & definitions(header).keys()) | (
        REQUESTS.keys() if compiler.for_arm64 else PLAIN_REQUESTS
    )
    if not compiler.for_arm64:
        compared -= OF_EACH_ARCHITECTURE
    assert {"KVM_CAP_ARM_VM_IPA_SIZE", "KVM_CREATE_VM", "KVM_API_VERSION"} <= compared
    changed = replaced(header, dict.fromkeys(compared, "0x7fff1234"))
    flags = [install_header(KVM_H, changed), "-ferror-limit=0" if compiler.name == "clang" else "-fmax-errors=0"]
    result = compiler.compile(CHECK, *flags)
    assert result.returncode != 0
    named = set(re.findall(r"\bKVM_\w+", result.stderr))
    assert compared <= named, f"not compared, or not named in the message: {sorted(compared - named)}"


@pytest.mark.parametrize("name", ["KVM_CAP_ARM_VM_IPA_SIZE", "KVM_VM_TYPE_ARM_IPA_SIZE_MASK", "KVM_CREATE_VM"])
def test_one_number_that_disagrees_stops_the_build_and_is_named(
    compiler: Compiler, install_header: InstallHeader, name: str
) -> None:
    header = compiler.header(KVM_H)
    result = compiler.compile(CHECK, install_header(KVM_H, replaced(header, {name: "0x7f"})))
    assert result.returncode != 0
    assert name in result.stderr
    others = (NUMBERS.keys() | REQUESTS.keys()) - {name}
    assert not [other for other in others if re.search(rf"\b{other}\b", result.stderr)]


def test_a_struct_with_its_fields_swapped_stops_the_build(compiler: Compiler, install_header: InstallHeader) -> None:
    header = compiler.header(KVM_H)
    swapped, count = re.subn(r"(struct kvm_one_reg \{\n)(\s*__u64 id;\n)(\s*__u64 addr;\n)", r"\1\3\2", header, count=1)
    assert count == 1
    result = compiler.compile(CHECK, install_header(KVM_H, swapped))
    assert result.returncode != 0
    assert "one_reg" in result.stderr


def test_an_arm64_struct_of_another_size_stops_the_build(
    arm64_compiler: Compiler, install_header: InstallHeader
) -> None:
    header = arm64_compiler.header("asm/kvm.h")
    grown, count = re.subn(r"__u32 features\[7\];", "__u32 features[8];", header)
    assert count == 1
    result = arm64_compiler.compile(CHECK, install_header("asm/kvm.h", grown))
    assert result.returncode != 0
    assert '"vcpu_init"' in result.stderr


@pytest.mark.parametrize(("flags", "expected"), [((), "1"), (("-DKVMIPA_NO_KERNEL_HEADERS",), "0")])
def test_the_extension_knows_whether_it_was_compared(
    host_compiler: Compiler, tmp_path: Path, flags: tuple[str, ...], expected: str
) -> None:
    host_compiler.header(KVM_H)
    main = (
        '#include <stdio.h>\n#include "kvmipa_native.h"\n'
        'int main(void) { printf("%d", kvmipa_checked_against_kernel_headers); return 0; }\n'
    )
    program = host_compiler.program(tmp_path / "main", main, CHECK, *flags)
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == expected
