# SPDX-License-Identifier: Apache-2.0
"""The wheel guard finds each way in which a wheel can be something else than its name says."""

from __future__ import annotations

import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from ci.packaging import check_wheel
from ci.packaging.check_wheel import Machine, defects

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Files: TypeAlias = "Mapping[str, bytes | None]"

X86 = "cp310-abi3-linux_x86_64"
ARM = "cp310-abi3-manylinux2014_aarch64.manylinux_2_17_aarch64"
PURE = "py3-none-any"
MODULE = "kvmipa/_native.abi3.so"
STATUS = "kvmipa/_native_status.json"
WHEEL = "kvmipa-0.1.0.dist-info/WHEEL"


def elf(architecture: str) -> bytes:
    """The first bytes of a shared library for an architecture."""
    bits, byte_order, number = check_wheel.MACHINES[architecture]
    little = byte_order == "little"
    ident = b"\x7fELF" + bytes([bits // 32, 1 if little else 2, 1]) + bytes(9)
    return ident + struct.pack("<HH" if little else ">HH", 3, number) + bytes(40)


def status(**changes: Any) -> bytes:
    """The status file of a native x86 build, changed."""
    return json.dumps({"built": True, "missing": None, "target": "linux-x86_64"} | changes).encode()


def metadata(tag: str, purelib: str = "false") -> bytes:
    """The file WHEEL with each combination of these tags."""
    python, abi, platforms = tag.split("-")
    tags = "".join(f"Tag: {python}-{abi}-{platform}\n" for platform in platforms.split("."))
    return f"Wheel-Version: 1.0\nRoot-Is-Purelib: {purelib}\n{tags}\n".encode()


GOOD: dict[str, Files] = {
    X86: {MODULE: elf("x86_64"), STATUS: status(), WHEEL: metadata(X86)},
    ARM: {MODULE: elf("aarch64"), STATUS: status(target="linux-aarch64"), WHEEL: metadata(ARM)},
    PURE: {STATUS: status(built=False, missing="no C compiler"), WHEEL: metadata(PURE, "true")},
}


def make(directory: Path, tag: str, changes: Files, base: str | None = None) -> Path:
    """A good wheel with some files changed (None: left out), named with a tag."""
    wheel = directory / f"kvmipa-0.1.0-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in {"kvmipa/__init__.py": b"", **GOOD[base or tag], **changes}.items():
            if data is not None:
                archive.writestr(name, data)
    return wheel


@pytest.mark.parametrize("tag", GOOD)
def test_a_wheel_that_is_what_its_name_says_has_no_defect(tmp_path: Path, tag: str) -> None:
    assert defects(make(tmp_path, tag, {})) == []


@pytest.mark.parametrize("architecture", check_wheel.MACHINES)
def test_every_architecture_is_told_from_every_other(tmp_path: Path, architecture: str) -> None:
    tag = f"cp310-abi3-linux_{architecture}"
    files = {STATUS: status(target=f"linux-{architecture}"), WHEEL: metadata(tag)}
    assert defects(make(tmp_path, tag, {MODULE: elf(architecture)} | files, X86)) == []
    for other in check_wheel.MACHINES.keys() - {architecture}:
        found = defects(make(tmp_path, tag, {MODULE: elf(other)} | files, X86))
        assert [line.split(":")[0] for line in found] == [f"{MODULE} is not for {architecture}"], other


@pytest.mark.parametrize(
    ("tag", "changes", "expected"),
    [
        pytest.param(X86, {MODULE: elf("aarch64")}, f"{MODULE} is not for x86_64: e_machine 183", id="other-machine"),
        pytest.param(ARM, {MODULE: elf("x86_64")}, f"{MODULE} is not for aarch64: e_machine 62", id="build-machine"),
        pytest.param(ARM, {MODULE: b"\xcf\xfa\xed\xfe" + bytes(60)}, f"{MODULE} is not an ELF file", id="mach-o"),
        pytest.param(ARM, {MODULE: b"\x7fELF\x02"}, f"{MODULE} is not an ELF file", id="cut-short"),
        pytest.param(X86, {"kvmipa/tool": elf("aarch64")}, "kvmipa/tool is not for x86_64", id="second-file"),
        pytest.param(
            X86, {MODULE: None, STATUS: status()}, "no kvmipa/_native.*.so in a wheel for linux_x86_64", id="empty"
        ),
        pytest.param(PURE, {MODULE: elf("x86_64")}, f"{MODULE} is native code in a wheel for any", id="not-pure"),
        pytest.param(PURE, {"kvmipa/x.so.1": b""}, "kvmipa/x.so.1 is native code in a wheel", id="versioned"),
        pytest.param(PURE, {"kvmipa/x": elf("x86_64")}, "kvmipa/x is native code in a wheel", id="hidden"),
        pytest.param(
            X86,
            {MODULE: None, "kvmipa/_native.cpython-311-x86_64-linux-gnu.so": elf("x86_64")},
            "kvmipa/_native.cpython-311-x86_64-linux-gnu.so does not have the suffix of the ABI tag 'abi3'",
            id="suffix-of-one-python",
        ),
        pytest.param(X86, {STATUS: None}, f"'{STATUS}' is missing from the wheel", id="no-status"),
        pytest.param(X86, {STATUS: b"{}"}, f"'built' is missing from {STATUS}", id="status-without-keys"),
        pytest.param(X86, {STATUS: b"{"}, f"{STATUS} is not JSON", id="status-cut-short"),
        pytest.param(
            X86, {STATUS: status(built=False, missing="x")}, "built: false, and the wheel has native", id="denied"
        ),
        pytest.param(PURE, {STATUS: status()}, "built: true, and the wheel has no native code", id="boast"),
        pytest.param(
            PURE, {STATUS: status(built=False)}, "says built: false, missing: null", id="status-without-reason"
        ),
        pytest.param(
            ARM,
            {STATUS: status()},
            "says that the target was linux-x86_64, and the wheel is for manylinux2014",
            id="target",
        ),
        pytest.param(X86, {WHEEL: None}, "0 files .dist-info/WHEEL", id="no-metadata"),
        pytest.param(
            X86, {WHEEL: metadata(ARM)}, "the file WHEEL has the tags ['cp310-abi3-manylinux", id="other-tags"
        ),
        pytest.param(X86, {WHEEL: metadata(X86, "true")}, "has Root-Is-Purelib: true", id="purelib"),
    ],
)
def test_each_defect_is_named(tmp_path: Path, tag: str, changes: Files, expected: str) -> None:
    found = defects(make(tmp_path, tag, changes))
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        pytest.param(
            "cp311-cp311-linux_x86_64", f"{MODULE} keeps the stable ABI, and the ABI tag is 'cp311'", id="abi"
        ),
        pytest.param("py3-none-linux_x86_64", "keeps the stable ABI, and the ABI tag is 'none'", id="no-abi"),
        pytest.param("cp310-abi3-any", "ABI tag 'abi3' in a wheel for any platform", id="abi-anywhere"),
        pytest.param(
            "cp310-abi3-macosx_14_0_x86_64", "platform tag 'macosx_14_0_x86_64': kvmipa has native code", id="macos"
        ),
        pytest.param(
            "cp310-abi3-linux_sparc64", "architecture 'linux_sparc64' of the platform tag is not", id="unknown"
        ),
        pytest.param(
            "cp310-abi3-manylinux_2_17_x86_64.manylinux_2_17_aarch64", "is not for aarch64", id="two-architectures"
        ),
    ],
)
def test_a_native_x86_wheel_under_another_name_is_refused(tmp_path: Path, tag: str, expected: str) -> None:
    found = defects(make(tmp_path, tag, {WHEEL: metadata(tag)}, X86))
    assert any(expected in line for line in found), found


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"kvmipa-0.1.0-{X86}.whl").write_bytes(b"not a zip archive")
    assert defects(tmp_path / f"kvmipa-0.1.0-{X86}.whl") == ["cannot be read: File is not a zip file"]
    with pytest.raises(ValueError, match="not the name of a wheel"):
        defects(tmp_path / "kvmipa.zip")


def test_a_big_endian_header_is_read_as_one() -> None:
    assert check_wheel.elf_machine(elf("s390x")) == Machine(64, "big", 22)


def test_the_exit_status_tells_ci(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(make(tmp_path, X86, {}))
    bad = str(make(tmp_path, PURE, {MODULE: elf("x86_64")}))
    assert check_wheel.main([good]) == 0
    assert check_wheel.main([good, bad]) == 1
    assert check_wheel.main([]) == 2
    assert f"bad  kvmipa-0.1.0-{PURE}.whl" in capsys.readouterr().out
