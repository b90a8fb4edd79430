# SPDX-License-Identifier: Apache-2.0
"""Why there is, or is not, a usable arm64 KVM on this machine: facts gathered first, then judged by a pure function."""

from __future__ import annotations

import errno
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from kvmipa import running_kernel
from kvmipa.backend import DEVICE
from kvmipa.causes.system import is_kvm_node

if TYPE_CHECKING:
    from collections.abc import Iterator

EMULATED_WORKS: Final = "the emulated backend works here all the same: kvmipa --backend emulated probe"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: fine, a problem with what to do about it, or a note."""

    subject: str
    verdict: Literal["ok", "problem", "note"]
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Facts:
    """What the machine shows. None: it does not show it, or it was not reached.

    kvm_node: the device is the node that the kernel gives KVM. device_group: the group whose members may open it.
    open_errno: of opening it, 0 where that went well. api_version, arm64, ipa_limit: what answered; a negative
    api_version is -errno. kernel_log: the log's lines about KVM. kvm_configured: CONFIG_KVM of the running kernel.
    """

    system: str
    machine: str
    release: str = ""
    process_bits: int = 64
    native_missing: str | None = None
    native_fix: str = ""
    device: str = DEVICE
    device_kind: Literal["absent", "directory", "file", "node"] = "absent"
    kvm_node: bool = True
    device_group: str | None = "kvm"
    open_errno: int | None = None
    api_version: int | None = None
    arm64: bool | None = None
    ipa_limit: int | None = None
    mode: str | None = None
    kernel_log: tuple[str, ...] | None = None
    kvm_configured: bool | None = None


def diagnose(facts: Facts) -> list[Finding]:
    """The findings in the order in which things have to be right; what depends on a problem is left out."""
    found = [*_architecture(facts), *_extension(facts)]
    if not usable(found):
        return found + list(_foreign_device(facts))
    for check in (_device, _opening, _answers, _limit):
        found += check(facts)
        if not usable(found):
            break
    return found


def usable(findings: list[Finding]) -> bool:
    """Whether nothing stands between this process and an arm64 KVM."""
    return all(finding.verdict != "problem" for finding in findings)


def _architecture(facts: Facts) -> Iterator[Finding]:
    if facts.system != "Linux":
        yield Finding("system", "problem", f"{facts.system} has no /dev/kvm", EMULATED_WORKS)
        return
    if facts.machine not in ("aarch64", "aarch64_be", "arm64"):
        text = f"{facts.machine or 'unknown'}: an arm64 KVM needs an arm64 machine"
        if facts.machine.startswith("armv"):
            text = f"{facts.machine}: KVM left 32-bit Arm with Linux 5.7, and refuses 32-bit programs on arm64"
        yield Finding("architecture", "problem", text, EMULATED_WORKS)
        return
    yield Finding("architecture", "ok", f"{facts.machine}, Linux {facts.release}")
    if facts.process_bits != 64:
        yield Finding("process", "problem", "KVM refuses 32-bit programs on arm64 (ENODEV)", "use a 64-bit Python")


def _extension(facts: Facts) -> Iterator[Finding]:
    if facts.native_missing is None:
        yield Finding("extension", "ok", "kvmipa's compiled extension is there")
        return
    yield Finding(
        "extension",
        "problem",
        f"kvmipa's compiled extension is missing: {facts.native_missing}",
        facts.native_fix,
    )


def _foreign_device(facts: Facts) -> Iterator[Finding]:
    """What a KVM of another architecture is, where there is one to be taken for ours."""
    if facts.api_version == 12 and not facts.arm64:
        yield Finding("device", "note", f"{facts.device} is a KVM, but not an arm64 one: kvmipa creates no VM there")


def _device(facts: Facts) -> Iterator[Finding]:
    if facts.device_kind == "node":
        yield Finding("device", "ok", f"{facts.device} is there")
        return
    if facts.device_kind != "absent":
        yield Finding("device", "problem", f"{facts.device} is a {facts.device_kind}", "name the device node of KVM")
        return
    off, fix = _why_kvm_is_off(facts)
    yield Finding("device", "problem", f"there is no {facts.device}: {off}", fix)


def _why_kvm_is_off(facts: Facts) -> tuple[str, str]:
    """Why KVM did not start, and what to do; from the kernel's log where it can be read (kernel-ipa-spec 1.1)."""
    log = "\n".join(facts.kernel_log or ())
    if facts.mode == "none" or "KVM disabled from command line" in log:
        return "kvm-arm.mode=none switches KVM off", "boot without kvm-arm.mode=none"
    if facts.kvm_configured is False:
        return "this kernel has no KVM (CONFIG_KVM)", "run a kernel built with CONFIG_KVM=y"
    if "HYP mode not available" in log:
        return (
            "the kernel was not started at EL2",
            "a virtual machine needs nested virtualisation (QEMU: -M virt,virtualization=on); on a board, firmware "
            "that starts the kernel at EL2",
        )
    if "not supported at Stage-2" in log or "TGRAN_2" in log:
        return "the CPU's stage 2 has no pages of this kernel's size", "run a kernel with 4K pages"
    if log:
        return "the kernel's log says: " + log.splitlines()[-1], "look at: dmesg | grep -i kvm"
    return (
        "the kernel was not started at EL2, has no KVM, or was told kvm-arm.mode=none",
        "look at: dmesg | grep -i -e kvm -e 'hyp mode' (as root), and /proc/cmdline",
    )


def _opening(facts: Facts) -> Iterator[Finding]:
    code = facts.open_errno or 0
    if not code:
        yield Finding("permission", "ok", f"this user may open {facts.device}")
        return
    if code in (errno.EACCES, errno.EPERM):
        if facts.device_group is None:
            who = "no group may either"
            fix = f"sudo chgrp kvm {facts.device} && sudo chmod 660 {facts.device}, sudo usermod -aG kvm $USER"
        else:
            who = f"group {facts.device_group} may"
            fix = f"sudo usermod -aG {facts.device_group} $USER"
        yield Finding(
            "permission",
            "problem",
            f"this user may not open {facts.device}; {who}",
            f"{fix}, then log in again; in a container: pass the device",
        )
        return
    off, fix = _why_kvm_is_off(facts)
    text = f"{facts.device} cannot be opened: {os.strerror(code)}"
    yield Finding("device", "problem", text + (f" ({off})" if code in (errno.ENODEV, errno.ENXIO) else ""), fix)


def _answers(facts: Facts) -> Iterator[Finding]:
    version = facts.api_version or 0
    if -version in (errno.ENOSYS, errno.ENOTTY) and facts.kvm_node:
        yield Finding(
            "KVM",
            "problem",
            f"{facts.device} opens, but answers no KVM ioctl: this program runs under qemu-aarch64 (user mode)",
            "boot a kernel under qemu-system-aarch64 -M virt,virtualization=on; or use the emulated backend",
        )
    elif version != 12:
        answer = errno.errorcode.get(-version, str(version))
        text = f"{facts.device} is no KVM: KVM_GET_API_VERSION answers {answer}, not 12"
        yield Finding("KVM", "problem", text, "name the device node of KVM")
    elif not facts.arm64:
        yield Finding("KVM", "problem", "this is not an arm64 KVM", EMULATED_WORKS)
    else:
        yield Finding("KVM", "ok", "an arm64 KVM answers, API version 12")


def _limit(facts: Facts) -> Iterator[Finding]:
    if facts.ipa_limit is None:
        yield Finding(
            "IPA size",
            "problem",
            f"Linux {facts.release} has no choice of IPA size: every VM has 40 bits",
            "run Linux 4.20 or later",
        )
        return
    yield Finding("IPA size", "ok", f"VMs of 32 to {facts.ipa_limit} bits")
    if facts.ipa_limit < 40:
        yield Finding(
            "IPA size", "note", "the default of 40 bits is above the limit: type 0 fails, a VMM has to name a size"
        )
    if facts.mode == "protected":
        yield Finding(
            "mode", "note", "kvm-arm.mode=protected: since Linux 6.2 every VM gets the limit, whatever size it asks for"
        )


def gather(device: str = DEVICE) -> Facts:
    """Look at this machine: nothing is created, and nothing is sent to KVM but questions."""
    release = os.uname().release if hasattr(os, "uname") else ""
    configuration = running_kernel.configuration(release)
    return Facts(
        system={"linux": "Linux", "darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform),
        machine=os.uname().machine if hasattr(os, "uname") else "",
        release=release,
        process_bits=64 if sys.maxsize > 1 << 32 else 32,
        device=device,
        mode=running_kernel.command_line_mode(),
        kernel_log=running_kernel.log_about_kvm(),
        kvm_configured=None if configuration is None else configuration.get("CONFIG_KVM") == "y",
        **_device_state(device),  # type: ignore[arg-type]
        **_ask(device),  # type: ignore[arg-type]
    )


def _device_state(device: str) -> dict[str, object]:
    try:
        found = Path(device).stat()
    except OSError:
        return {"device_kind": "absent"}
    kind = "node" if stat.S_ISCHR(found.st_mode) else "directory" if stat.S_ISDIR(found.st_mode) else "file"
    may = found.st_gid and found.st_mode & stat.S_IRGRP and found.st_mode & stat.S_IWGRP
    group = _group_name(found.st_gid) if may else None
    return {"device_kind": kind, "kvm_node": is_kvm_node(device), "device_group": group}


def _group_name(gid: int) -> str:
    try:
        import grp

        return grp.getgrgid(gid).gr_name
    except (ImportError, KeyError):
        return str(gid)


def _ask(device: str) -> dict[str, object]:
    """What opening the device and asking it brings."""
    from kvmipa import abi
    from kvmipa.backend.native import NativeBackend, how_to_get_it, why_missing

    missing = why_missing()
    if missing:
        return {"native_missing": missing, "native_fix": how_to_get_it()}
    if sys.maxsize < 1 << 32:
        return {}
    backend = NativeBackend()
    fd = backend.open(device)
    if fd < 0:
        return {"open_errno": -fd}
    try:
        version = backend.ioctl(fd, abi.KVM_GET_API_VERSION, 0)
        if version != abi.KVM_API_VERSION:
            return {"open_errno": 0, "api_version": version}
        arm64 = backend.ioctl(fd, abi.KVM_CHECK_EXTENSION, abi.KVM_CAP_ARM_PSCI) == 1
        limit = backend.ioctl(fd, abi.KVM_CHECK_EXTENSION, abi.KVM_CAP_ARM_VM_IPA_SIZE)
        return {
            "open_errno": 0,
            "api_version": version,
            "arm64": arm64,
            "ipa_limit": limit if limit > 0 else None,
        }
    finally:
        backend.close(fd)
