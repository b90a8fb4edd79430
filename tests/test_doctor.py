# SPDX-License-Identifier: Apache-2.0
"""The doctor: from facts about a machine to what is wrong, and what to do."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import abi, doctor, running_kernel
from kvmipa.backend import native
from kvmipa.doctor import Facts, Finding, diagnose, gather, usable

if TYPE_CHECKING:
    from pathlib import Path

HEALTHY = Facts(
    system="Linux",
    machine="aarch64",
    release="6.12.30",
    device_kind="node",
    open_errno=0,
    api_version=12,
    arm64=True,
    ipa_limit=44,
)


def a_host(**what: Any) -> Facts:
    return replace(HEALTHY, **what)


def absent(**what: Any) -> Facts:
    return a_host(device_kind="absent", open_errno=errno.ENOENT, api_version=None, arm64=None, ipa_limit=None, **what)


def refused(code: int, **what: Any) -> Facts:
    return a_host(open_errno=code, api_version=None, arm64=None, ipa_limit=None, **what)


def test_healthy_host_has_nothing_but_good_findings_in_order() -> None:
    findings = diagnose(HEALTHY)
    assert {finding.verdict for finding in findings} == {"ok"}
    assert [finding.subject for finding in findings] == [
        "architecture",
        "extension",
        "device",
        "permission",
        "KVM",
        "IPA size",
    ]
    assert findings[-1].text == "VMs of 32 to 44 bits"
    assert usable(findings)


PROBLEMS = {
    "x86": (a_host(machine="x86_64"), "architecture", "x86_64: an arm64 KVM needs an arm64 machine", "emulated"),
    "no uname": (a_host(machine=""), "architecture", "unknown: an arm64 KVM needs", "emulated"),
    "32-bit Arm": (a_host(machine="armv7l"), "architecture", "32-bit Arm", "emulated"),
    "32-bit personality": (a_host(machine="armv8l"), "architecture", "32-bit programs", "emulated"),
    "macOS": (a_host(system="macOS", machine="arm64"), "system", "macOS has no /dev/kvm", "emulated"),
    "32-bit process": (a_host(process_bits=32), "process", "32-bit programs", "64-bit Python"),
    "extension": (
        a_host(native_missing="it was not compiled: no C compiler", native_fix="KVMIPA_NATIVE=require pip install"),
        "extension",
        "missing: it was not compiled: no C compiler",
        "KVMIPA_NATIVE=require pip install",
    ),
    "device absent": (absent(), "device", "there is no /dev/kvm: the kernel was not started at EL2", "dmesg"),
    "device directory": (a_host(device_kind="directory"), "device", "/dev/kvm is a directory", "device node"),
    "device file": (a_host(device_kind="file"), "device", "/dev/kvm is a file", "device node"),
    "EL2": (
        absent(kernel_log=("kvm [1]: HYP mode not available",)),
        "device",
        "not started at EL2",
        "virtualization=on",
    ),
    "mode none": (absent(mode="none"), "device", "kvm-arm.mode=none switches KVM off", "boot without"),
    "mode none in the log": (
        absent(kernel_log=("kvm [1]: KVM disabled from command line",)),
        "device",
        "kvm-arm.mode=none switches KVM off",
        "boot without",
    ),
    "kernel without KVM": (absent(kvm_configured=False), "device", "no KVM (CONFIG_KVM)", "CONFIG_KVM=y"),
    "granule": (
        absent(kernel_log=("kvm [1]: PAGE_SIZE not supported at Stage-2, giving up",)),
        "device",
        "no pages of this kernel's size",
        "4K pages",
    ),
    "granule field": (
        absent(kernel_log=("kvm [1]: Unsupported value for TGRAN_2, giving up",)),
        "device",
        "no pages of this kernel's size",
        "4K pages",
    ),
    "other log": (
        absent(kernel_log=("kvm [1]: first", "kvm [1]: error initializing Hyp mode: -12")),
        "device",
        "the kernel's log says: kvm [1]: error initializing Hyp mode: -12",
        "dmesg",
    ),
    "permission": (
        refused(errno.EACCES, device_group="virt"),
        "permission",
        "may not open /dev/kvm; group virt may",
        "usermod -aG virt",
    ),
    "permission of root alone": (
        refused(errno.EACCES, device_group=None),
        "permission",
        "may not open /dev/kvm; no group may",
        "chgrp kvm /dev/kvm",
    ),
    "container": (refused(errno.EPERM), "permission", "may not open /dev/kvm", "container: pass the device"),
    "KVM did not start": (
        refused(errno.ENODEV, kernel_log=("kvm [1]: HYP mode not available",)),
        "device",
        "(the kernel was not started at EL2)",
        "virtualization=on",
    ),
    "no driver": (refused(errno.ENXIO, mode="none"), "device", "switches KVM off", "boot without"),
    "busy": (refused(errno.EBUSY), "device", f"cannot be opened: {os.strerror(errno.EBUSY)}", "dmesg"),
    "qemu-user": (a_host(api_version=-errno.ENOTTY, arm64=None), "KVM", "qemu-aarch64 (user mode)", "qemu-system"),
    "old qemu-user": (a_host(api_version=-errno.ENOSYS, arm64=None), "KVM", "qemu-aarch64 (user mode)", "qemu-system"),
    "another device": (
        a_host(kvm_node=False, device="/dev/null", api_version=-errno.ENOTTY, arm64=None),
        "KVM",
        "/dev/null is no KVM: KVM_GET_API_VERSION answers ENOTTY, not 12",
        "device node",
    ),
    "another version": (a_host(api_version=11), "KVM", "answers 11, not 12", "device node"),
    "another KVM": (a_host(arm64=False), "KVM", "this is not an arm64 KVM", "emulated"),
    "too old": (
        a_host(release="4.19.1", ipa_limit=None),
        "IPA size",
        "Linux 4.19.1 has no choice of IPA size",
        "Linux 4.20 or later",
    ),
}


@pytest.mark.parametrize(("facts", "subject", "text", "fix"), PROBLEMS.values(), ids=PROBLEMS)
def test_problem_is_named_with_what_to_do(facts: Facts, subject: str, text: str, fix: str) -> None:
    findings = diagnose(facts)
    problems = [finding for finding in findings if finding.verdict == "problem"]
    assert [(finding.subject, text in finding.text, fix in finding.fix) for finding in problems] == [
        (subject, True, True)
    ], problems
    assert not usable(findings)


@pytest.mark.parametrize(("facts", "subject", "text", "fix"), PROBLEMS.values(), ids=PROBLEMS)
def test_nothing_is_said_about_what_a_problem_hides(facts: Facts, subject: str, text: str, fix: str) -> None:
    findings = diagnose(facts)
    verdicts = [finding.verdict for finding in findings]
    after = findings[verdicts.index("problem") + 1 :]
    # What the extension is, is asked on every machine.
    assert [finding.subject for finding in after if finding.subject != "extension"] == (
        ["device"] if [finding.verdict for finding in after if finding.verdict == "note"] else []
    )
    assert "IPA size" not in {finding.subject for finding in after}


def test_reasons_for_no_device_are_in_the_order_of_certainty() -> None:
    log = ("kvm [1]: HYP mode not available",)
    everything = absent(mode="none", kvm_configured=False, kernel_log=log)
    assert "kvm-arm.mode=none" in diagnose(everything)[-1].text
    assert "CONFIG_KVM" in diagnose(replace(everything, mode=None))[-1].text
    assert "EL2" in diagnose(replace(everything, mode=None, kvm_configured=True))[-1].text


@pytest.mark.parametrize("mode", ["vhe", "nvhe", "nested", None])
def test_ordinary_mode_needs_no_note(mode: str | None) -> None:
    assert diagnose(a_host(mode=mode)) == diagnose(HEALTHY)


@pytest.mark.parametrize(("limit", "noted"), [(32, True), (36, True), (39, True), (40, False), (48, False)])
def test_limit_below_the_default_is_noted_and_no_problem(limit: int, noted: bool) -> None:
    findings = diagnose(a_host(ipa_limit=limit))
    notes = [finding.text for finding in findings if finding.verdict == "note"]
    assert bool(notes) == noted
    assert all("type 0 fails" in note for note in notes)
    assert usable(findings)


def test_protected_mode_is_noted_and_no_problem() -> None:
    findings = diagnose(a_host(mode="protected"))
    assert [finding.subject for finding in findings if finding.verdict == "note"] == ["mode"]
    assert "every VM gets the limit" in findings[-1].text
    assert usable(findings)


def test_foreign_kvm_is_noted_as_not_to_be_used() -> None:
    findings = diagnose(a_host(machine="x86_64", arm64=False, ipa_limit=None))
    assert findings[-1] == Finding(
        "device", "note", "/dev/kvm is a KVM, but not an arm64 one: kvmipa creates no VM there"
    )


class Asked:
    """In the place of NativeBackend: keeps what is asked, and answers what it is told to."""

    def __init__(self, **answers: int) -> None:
        self.answers = {"open": 5, "version": 12, "psci": 1, "limit": 44} | answers
        self.calls: list[tuple[object, ...]] = []

    def __call__(self) -> Asked:
        return self

    def open(self, path: str) -> int:
        self.calls.append(("open", path))
        return self.answers["open"]

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        self.calls.append((fd, request, argument))
        if request == abi.KVM_GET_API_VERSION:
            return self.answers["version"]
        assert request == abi.KVM_CHECK_EXTENSION
        return self.answers["psci" if argument == abi.KVM_CAP_ARM_PSCI else "limit"]

    def close(self, fd: int) -> None:
        self.calls.append(("close", fd))


def asked(monkeypatch: pytest.MonkeyPatch, **answers: int) -> Asked:
    backend = Asked(**answers)
    monkeypatch.setattr(native, "NativeBackend", backend)
    monkeypatch.setattr(native, "why_missing", lambda: None)
    return backend


def test_gathering_asks_two_questions_of_a_kvm_and_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = asked(monkeypatch)
    facts = gather("/dev/null")
    assert (facts.open_errno, facts.api_version, facts.arm64, facts.ipa_limit) == (0, 12, True, 44)
    assert backend.calls[:2] == [("open", "/dev/null"), (5, abi.KVM_GET_API_VERSION, 0)]
    assert {call[1] for call in backend.calls[2:-1]} == {abi.KVM_CHECK_EXTENSION}
    assert backend.calls[-1] == ("close", 5)


def test_gathering_asks_nothing_more_of_what_is_no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = asked(monkeypatch, version=-errno.ENOTTY)
    facts = gather("/dev/null")
    assert (facts.open_errno, facts.api_version, facts.arm64) == (0, -errno.ENOTTY, None)
    assert backend.calls == [("open", "/dev/null"), (5, abi.KVM_GET_API_VERSION, 0), ("close", 5)]


def test_gathering_keeps_why_the_device_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, open=-errno.EACCES)
    assert gather("/dev/null").open_errno == errno.EACCES


@pytest.mark.parametrize(("psci", "limit", "arm64", "found"), [(0, 0, False, None), (1, 0, True, None)])
def test_gathering_takes_0_for_no_capability(
    monkeypatch: pytest.MonkeyPatch, psci: int, limit: int, arm64: bool, found: int | None
) -> None:
    asked(monkeypatch, psci=psci, limit=limit)
    facts = gather("/dev/null")
    assert (facts.arm64, facts.ipa_limit) == (arm64, found)


def test_gathering_survives_a_missing_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_missing", lambda: "no compiler")
    monkeypatch.setattr(native, "how_to_get_it", lambda: "install one")
    facts = gather("/dev/null")
    assert facts.native_fix == "install one"
    assert (facts.native_missing, facts.device_kind, facts.open_errno) == ("no compiler", "node", None)


@pytest.mark.parametrize(("name", "kind"), [("directory", "directory"), ("file", "file"), ("absent", "absent")])
def test_gathering_sees_what_the_device_is(tmp_path: Path, name: str, kind: str) -> None:
    tmp_path.joinpath("directory").mkdir()
    tmp_path.joinpath("file").touch()
    assert gather(str(tmp_path / name)).device_kind == kind


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o620, 0o660, 0o666])
def test_group_is_named_only_if_it_may_open_the_device(tmp_path: Path, mode: int) -> None:
    device = tmp_path / "kvm"
    device.touch()
    if os.getuid() == 0:
        os.chown(device, 0, 54321)
    device.chmod(mode)
    expected = doctor._group_name(device.stat().st_gid) if mode & 0o060 == 0o060 else None
    assert gather(str(device)).device_group == expected


@pytest.mark.skipif(os.getuid() != 0, reason="makes a file of group root")
def test_nobody_is_told_to_join_group_root(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    os.chown(device, 0, 0)
    device.chmod(0o660)
    assert gather(str(device)).device_group is None


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("root=/dev/vda kvm-arm.mode=none quiet", "none"),
        ("kvm-arm.mode=protected\n", "protected"),
        ("kvm-arm.mode=none kvm-arm.mode=nvhe", "nvhe"),
        ("nokvm-arm.mode=none", None),
        ("quiet", None),
        (None, None),
    ],
)
def test_mode_is_read_off_the_kernels_command_line(
    monkeypatch: pytest.MonkeyPatch, line: str | None, mode: str | None
) -> None:
    read = running_kernel.read_text
    monkeypatch.setattr(running_kernel, "read_text", lambda path: line if path == "/proc/cmdline" else read(path))
    assert gather("/dev/null").mode == mode


@pytest.mark.parametrize(
    ("text", "configured"),
    [("CONFIG_KVM=y\n", True), ("CONFIG_KVM_ARM=y\n# CONFIG_KVM is not set\n", False), (None, None)],
)
def test_configuration_is_read_where_distributions_leave_it(
    monkeypatch: pytest.MonkeyPatch, text: str | None, configured: bool | None
) -> None:
    config = f"/boot/config-{os.uname().release}"
    read = running_kernel.read_text
    monkeypatch.setattr(running_kernel, "read_text", lambda path: text if path == config else read(path))
    monkeypatch.setattr(running_kernel, "_compressed_configuration", lambda: None)
    assert gather("/dev/null").kvm_configured is configured


@pytest.mark.parametrize(("platform", "system"), [("linux", "Linux"), ("darwin", "macOS"), ("win32", "Windows")])
def test_system_has_its_usual_name(monkeypatch: pytest.MonkeyPatch, platform: str, system: str) -> None:
    asked(monkeypatch)
    monkeypatch.setattr(sys, "platform", platform)
    assert gather("/dev/null").system == system


def test_this_machine_can_be_examined() -> None:
    facts = gather()
    assert facts.machine == os.uname().machine
    findings = diagnose(facts)
    assert findings
    assert all(finding.fix for finding in findings if finding.verdict == "problem")
    assert usable(findings) <= (facts.machine in ("aarch64", "arm64"))
