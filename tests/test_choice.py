# SPDX-License-Identifier: Apache-2.0
"""kvmipa.open: which kernel answers, on machines of every kind."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import abi, choice, errors
from kvmipa.backend import native

if TYPE_CHECKING:
    from collections.abc import Callable

ARM64 = "aarch64"
X86 = "x86_64"


@dataclass
class Machine:
    """A machine as kvmipa.open() finds it: is there a device, does it open, and what does it answer?"""

    architecture: str = ARM64
    device: bool = True
    extension: bool = True
    opens: int = 100
    api_version: int = abi.KVM_API_VERSION
    psci: int = 1
    opened: list[str] = field(default_factory=list)
    left_open: set[int] = field(default_factory=set)

    name = "native"

    def __call__(self) -> Machine:
        """In the place of the class NativeBackend."""
        if not self.extension:
            raise errors.NativeMissingError(errno.ENOSYS, cause="kvmipa's compiled extension is missing")
        return self

    def open(self, path: str) -> int:
        self.opened.append(path)
        if self.opens > 0:
            self.left_open.add(self.opens)
        return self.opens

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        assert fd in self.left_open
        if request == abi.KVM_GET_API_VERSION:
            return self.api_version
        if request == abi.KVM_GET_VCPU_MMAP_SIZE:
            return 2 * 16384
        assert request == abi.KVM_CHECK_EXTENSION
        return {abi.KVM_CAP_ARM_PSCI: self.psci, abi.KVM_CAP_ARM_VM_IPA_SIZE: 36 * self.psci}[argument]

    def close(self, fd: int) -> None:
        self.left_open.remove(fd)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], Machine]:
    """Go to a machine."""

    def go(machine: Machine) -> Machine:
        exists = os.path.exists
        monkeypatch.setattr(native, "NativeBackend", machine)
        monkeypatch.setattr(choice, "machine", lambda: machine.architecture)
        monkeypatch.setattr(os.path, "exists", lambda path: machine.device if path == "/dev/kvm" else exists(path))
        return machine

    return go


@pytest.fixture
def board(on: Callable[[Machine], Machine]) -> Machine:
    """An arm64 machine whose KVM works."""
    return on(Machine())


def test_auto_is_the_real_kernel_on_an_arm64_machine(board: Machine) -> None:
    with kvmipa.open() as kvm:
        assert (kvm.backend, kvm.host_ipa_limit, kvm.page_size) == ("native", 36, 16384)
    assert not board.left_open


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(Machine(device=False), id="arm64 without /dev/kvm"),
        pytest.param(Machine(api_version=-errno.ENOSYS), id="qemu-user before 8.0"),
        pytest.param(Machine(api_version=-errno.ENOTTY), id="qemu-user"),
        pytest.param(Machine(X86, device=False), id="x86 without /dev/kvm"),
        pytest.param(Machine(X86, psci=0), id="x86 with its own KVM"),
        pytest.param(Machine(X86, opens=-errno.EACCES), id="x86 with a KVM of others"),
        pytest.param(Machine(X86, opens=-errno.ENODEV), id="x86 with KVM off"),
        pytest.param(Machine(X86, opens=-errno.EISDIR), id="x86 with a directory"),
        pytest.param(Machine(X86, api_version=11), id="x86 with something else"),
        pytest.param(Machine(X86, extension=False), id="x86 without the extension"),
        pytest.param(Machine("riscv64", psci=0), id="riscv64 with its own KVM"),
        pytest.param(Machine("", device=False), id="no uname"),
    ],
)
def test_auto_is_the_emulated_kernel_where_there_is_no_arm64_kvm(
    on: Callable[[Machine], Machine], machine: Machine
) -> None:
    on(machine)
    with kvmipa.open() as kvm:
        assert (kvm.backend, kvm.host_ipa_limit) == ("emulated", 52)
    assert not machine.left_open


@pytest.mark.parametrize("architecture", [ARM64, "aarch64_be", "arm64", "armv8l"])
@pytest.mark.parametrize(
    ("trouble", "expected", "cause"),
    [
        ({"opens": -errno.EACCES}, errors.DevicePermissionError, "may not open"),
        ({"opens": -errno.EPERM}, errors.DevicePermissionError, "may not open"),
        ({"opens": -errno.ENODEV}, errors.DeviceNotFoundError, "no KVM behind it"),
        ({"opens": -errno.ENXIO}, errors.DeviceNotFoundError, "no KVM behind it"),
        ({"opens": -errno.EISDIR}, errors.NotKvmError, "is a directory"),
        ({"opens": -errno.EMFILE}, errors.DescriptorLimitError, "no file descriptor left"),
        ({"extension": False}, errors.NativeMissingError, "extension is missing"),
        ({"api_version": -errno.EINVAL}, errors.NotKvmError, "not a KVM device"),
        ({"api_version": 11}, errors.ApiVersionError, "version is 11"),
        ({"psci": 0}, errors.NotArm64KvmError, "not an arm64 KVM"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_trouble_on_an_arm64_machine_is_an_error_and_never_the_emulation(
    on: Callable[[Machine], Machine],
    architecture: str,
    trouble: dict[str, int],
    expected: type[errors.KvmError],
    cause: str,
) -> None:
    machine = on(Machine(architecture, **trouble))  # type: ignore[arg-type]
    with pytest.raises(expected, match=cause) as caught:
        kvmipa.open()
    assert type(caught.value) is expected
    assert not machine.left_open


@pytest.mark.parametrize("architecture", [ARM64, X86])
def test_explicit_backend_is_never_replaced(on: Callable[[Machine], Machine], architecture: str) -> None:
    machine = on(Machine(architecture, opens=-errno.ENOENT))
    with pytest.raises(errors.DeviceNotFoundError):
        kvmipa.open("native")
    with kvmipa.open("emulated") as kvm:
        assert kvm.backend == "emulated"
    assert machine.opened == ["/dev/kvm"]


def test_explicit_native_opens_another_architectures_kvm(on: Callable[[Machine], Machine]) -> None:
    on(Machine(X86, psci=0))
    with kvmipa.open("native") as kvm:
        assert (kvm.backend, kvm.is_arm64, kvm.host_ipa_limit, kvm.page_size) == ("native", False, None, None)


@pytest.mark.parametrize("name", ["", "Native", "kvm", "mock", " emulated", None, 0])
def test_unknown_backend_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="expected auto, native, emulated"):
        kvmipa.open(name)


@pytest.mark.parametrize("name", ["native", "emulated"])
@pytest.mark.usefixtures("board")
def test_environment_chooses_where_the_caller_does_not(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KVMIPA_BACKEND", name)
    for asked, expected in (("auto", name), ("native", "native"), ("emulated", "emulated")):
        with kvmipa.open(asked) as kvm:
            assert kvm.backend == expected


@pytest.mark.parametrize("name", ["", "auto"])
@pytest.mark.usefixtures("board")
def test_environment_that_names_no_backend_changes_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KVMIPA_BACKEND", name)
    with kvmipa.open() as kvm:
        assert kvm.backend == "native"


def test_environment_with_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMIPA_BACKEND", "hardware")
    with pytest.raises(ValueError, match=r"KVMIPA_BACKEND is 'hardware': expected auto, native, emulated"):
        kvmipa.open()


def test_environment_with_the_native_backend_is_not_replaced(
    on: Callable[[Machine], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(Machine(X86, device=False, opens=-errno.ENOENT))
    monkeypatch.setenv("KVMIPA_BACKEND", "native")
    with pytest.raises(errors.DeviceNotFoundError):
        kvmipa.open()


@pytest.mark.parametrize("host", ["raspberry-pi-4", kvmipa.HostProfile(id_aa64mmfr0_el1=0x1124)])
@pytest.mark.usefixtures("board")
def test_host_asks_for_the_emulated_kernel(host: kvmipa.HostProfile | str) -> None:
    with kvmipa.open(host=host) as kvm:
        assert (kvm.backend, kvm.host_ipa_limit) == ("emulated", 44)


@pytest.mark.usefixtures("board")
def test_host_is_refused_with_the_native_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="host= is a machine to emulate"):
        kvmipa.open("native", host="raspberry-pi-4")
    monkeypatch.setenv("KVMIPA_BACKEND", "native")
    with pytest.raises(ValueError, match="host= is a machine to emulate"):
        kvmipa.open(host="raspberry-pi-4")


@pytest.mark.parametrize(
    ("environment", "argument", "limit"),
    [
        (None, None, 52),
        ("", None, 52),
        ("raspberry-pi-4", None, 44),
        ("raspberry-pi-4", "qemu-max-6.12-4k", 52),
        ("no-such-host", "qemu-max-6.12-4k", 52),
    ],
)
def test_host_is_the_argument_or_the_environments_or_the_default(
    monkeypatch: pytest.MonkeyPatch, environment: str | None, argument: str | None, limit: int
) -> None:
    if environment is not None:
        monkeypatch.setenv("KVMIPA_HOST", environment)
    with kvmipa.open("emulated", host=argument) as kvm:
        assert kvm.host_ipa_limit == limit


def test_unknown_host_is_refused_with_the_names_near_it() -> None:
    with pytest.raises(ValueError, match=r"no host preset 'rasberry-pi4'; near: .*raspberry-pi-4.*kvmipa hosts"):
        kvmipa.open(host="rasberry-pi4")


@pytest.mark.parametrize("name", ["", "?"])
def test_host_that_is_near_nothing_still_gets_examples(name: str) -> None:
    with pytest.raises(ValueError, match=r"near: \w"):
        kvmipa.open("emulated", host=name)


def test_unknown_host_of_the_environment_says_where_it_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMIPA_HOST", "rasberry")
    with pytest.raises(
        ValueError, match=r"environment's KVMIPA_HOST: no host preset 'rasberry'; near: .*raspberry-pi-4"
    ):
        kvmipa.open("emulated")


@pytest.mark.parametrize("host", [44, b"raspberry-pi-4", kvmipa.HostProfile])
def test_host_of_a_wrong_type_is_a_type_error(host: str) -> None:
    with pytest.raises(TypeError, match="HostProfile, the name of a preset, or None"):
        kvmipa.open("emulated", host=host)


@pytest.mark.parametrize("device", ["/dev/other", Path("/dev/other")])
def test_other_device_asks_for_the_native_backend(
    on: Callable[[Machine], Machine], device: str | os.PathLike[str]
) -> None:
    machine = on(Machine(X86))
    with kvmipa.open(device=device) as kvm:
        assert kvm.backend == "native"
    assert machine.opened == ["/dev/other"]


def test_path_object_is_the_path_that_it_names(on: Callable[[Machine], Machine]) -> None:
    on(Machine(X86, psci=0))
    with kvmipa.open(device=Path("/dev/kvm")) as kvm:
        assert kvm.backend == "emulated"


def test_device_of_a_wrong_type_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        kvmipa.open(device=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "mode"),
    [pytest.param("/dev/other", "vhe", id="other device"), pytest.param("/dev/kvm", "none", id="off")],
)
def test_emulated_machine_without_a_device_does_not_send_the_user_to_the_emulation(device: str, mode: str) -> None:
    with pytest.raises(errors.DeviceNotFoundError, match="the emulated machine has no " + device) as caught:
        kvmipa.open("emulated", device=device, host=kvmipa.HostProfile(mode=mode))
    assert "emulate a host whose KVM starts" in caught.value.fix
    assert caught.value.errno == errno.ENOENT


def test_architecture_is_what_uname_says() -> None:
    assert choice.machine() == os.uname().machine


def test_machine_without_uname_has_no_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "uname")
    assert choice.machine() == ""
