# SPDX-License-Identifier: Apache-2.0
"""The native backend on what is not an arm64 KVM: refusals that explain themselves, and nothing done to other KVMs."""

from __future__ import annotations

import errno
import os
import platform
from array import array
from typing import TYPE_CHECKING, Any

import pytest

import kvmipa
from kvmipa import Kvm, abi, errors
from kvmipa.backend import native
from kvmipa.backend.native import NativeBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

needs_extension = pytest.mark.skipif(native.why_missing() is not None, reason=f"extension: {native.why_missing()}")

# Another architecture's KVM is asked these, and nothing else.
PERMITTED = {abi.KVM_GET_API_VERSION, abi.KVM_CHECK_EXTENSION}

NOBODY = 65534


class GuardedBackend(NativeBackend):
    """The native backend, which keeps what it was asked and sends on only what is permitted."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[int] = []
        self._send = self.ioctl
        self.ioctl = self._guarded

    def _guarded(self, fd: int, request: int, argument: int) -> int:
        self.requests.append(request)
        return self._send(fd, request, argument) if request in PERMITTED else -errno.EPERM

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        self.requests.append(request)
        return -errno.EPERM

    def sweep_machine_types(self, fd: int, types: Any, /) -> list[int]:
        self.requests.append(abi.KVM_CREATE_VM)
        return [errno.EPERM] * len(types)


@pytest.fixture
def foreign() -> Iterator[Kvm]:
    """This machine's own KVM, where it is another architecture's."""
    if platform.machine() in ("aarch64", "arm64") or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("needs the KVM of another architecture than arm64")
    if native.why_missing():
        pytest.skip("needs kvmipa's compiled extension")
    with Kvm(GuardedBackend()) as kvm:
        yield kvm


@needs_extension
@pytest.mark.parametrize(
    ("name", "expected", "code", "cause"),
    [
        ("directory", errors.NotKvmError, errno.EISDIR, "is a directory"),
        ("absent", errors.DeviceNotFoundError, errno.ENOENT, "there is no"),
        ("file/below", errors.BackendUnavailableError, errno.ENOTDIR, "cannot be opened"),
        ("file", errors.NotKvmError, errno.ENOTTY, "is not a KVM device"),
        ("/dev/null", errors.NotKvmError, errno.ENOTTY, "/dev/null is not a KVM device"),
    ],
)
def test_path_that_is_not_kvm_is_told_apart(
    tmp_path: Path, name: str, expected: type[errors.KvmError], code: int, cause: str
) -> None:
    tmp_path.joinpath("directory").mkdir()
    tmp_path.joinpath("file").touch()
    with pytest.raises(expected, match=cause) as caught:
        kvmipa.open("native", device=tmp_path / name)
    assert type(caught.value) is expected
    assert caught.value.errno == code
    assert caught.value.fix


def run_unprivileged(check: Callable[[], None]) -> None:
    """Run in a child that has given up being root; fails with what the child raised."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            check()
        except BaseException as failure:
            os.write(write, repr(failure).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        failure_text = pipe.read().decode()
    os.waitpid(child, 0)
    assert not failure_text


@needs_extension
def test_device_that_this_user_may_not_open_is_a_permission_error(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0)

    def check() -> None:
        with pytest.raises(PermissionError, match="this user may not open") as caught:
            kvmipa.open("native", device=device)
        assert type(caught.value) is errors.DevicePermissionError
        assert caught.value.errno == errno.EACCES
        assert "usermod -aG kvm" in caught.value.fix

    run_unprivileged(check)


def test_foreign_kvm_opens_and_says_what_it_is(foreign: Kvm) -> None:
    assert (foreign.backend, foreign.api_version, foreign.is_arm64) == ("native", 12, False)
    assert (foreign.host_ipa_limit, foreign.page_size) == (None, None)
    assert "not an arm64 KVM" in repr(foreign)


def test_foreign_kvm_answers_check_extension(foreign: Kvm) -> None:
    assert foreign.check_extension(abi.KVM_CAP_ARM_VM_IPA_SIZE) == 0
    assert foreign.check_extension(abi.KVM_CAP_MAX_VCPUS) > 0
    assert foreign.check_extension((1 << 64) - 1) == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda kvm: kvm.create_vm(),
        lambda kvm: kvm.create_vm(40),
        lambda kvm: kvm.create_vm(40, protected=True),
        lambda kvm: kvm.create_vm_raw(0),
        lambda kvm: kvm.create_vm_raw(1 << 63),
        lambda kvm: kvm.probe_machine_types([0]),
        lambda kvm: kvm.probe_machine_types([]),
        kvmipa.HostProfile.of,
    ],
    ids=["default", "40", "protected", "raw 0", "raw 2**63", "probe", "probe nothing", "profile"],
)
def test_foreign_kvm_is_never_asked_for_a_vm(foreign: Kvm, use: Callable[[Kvm], object]) -> None:
    with pytest.raises(errors.NotArm64KvmError, match="not an arm64 KVM") as caught:
        use(foreign)
    assert (caught.value.errno, bool(caught.value.fix)) == (errno.ENODEV, True)
    backend = foreign._backend
    assert isinstance(backend, GuardedBackend)
    assert backend.requests
    assert set(backend.requests) <= PERMITTED


def test_closed_foreign_kvm_is_closed(foreign: Kvm) -> None:
    foreign.close()
    with pytest.raises(errors.ClosedError):
        foreign.check_extension(0)


@needs_extension
def test_bad_descriptor_is_ebadf_and_raises_nothing() -> None:
    backend = NativeBackend()
    assert backend.ioctl(-1, abi.KVM_GET_API_VERSION, 0) == -errno.EBADF
    assert backend.ioctl_buffer(-1, abi.KVM_GET_ONE_REG, bytearray(16)) == -errno.EBADF
    assert list(backend.sweep_machine_types(-1, array("Q", [0, 40, 1 << 63]))) == [errno.EBADF] * 3


@needs_extension
def test_opened_device_is_not_inherited_by_other_programs() -> None:
    backend = NativeBackend()
    fd = backend.open(os.devnull)
    try:
        assert not os.get_inheritable(fd)
    finally:
        backend.close(fd)


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ("no C compiler", "not compiled when kvmipa was installed: no C compiler"),
        (None, "cannot be imported: wrong ELF class"),
    ],
)
def test_missing_extension_says_why_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, recorded: str | None, words: str
) -> None:
    monkeypatch.setattr(native, "_import_failure", ImportError("wrong ELF class"))
    monkeypatch.setattr(native, "_recorded", {"missing": recorded}.get)
    with pytest.raises(errors.NativeMissingError, match=words) as caught:
        kvmipa.open("native")
    assert caught.value.errno == errno.ENOSYS
    assert "KVMIPA_NATIVE=require pip install" in caught.value.fix
    assert caught.value.available == "the emulated backend"


@pytest.mark.parametrize("text", ["", "{", '{"missing": null}', "{}", '{"missing": 3}', None])
def test_broken_install_record_is_no_second_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    module = tmp_path / "kvmipa" / "backend" / "native.py"
    module.parent.mkdir(parents=True)
    if text is not None:
        tmp_path.joinpath("kvmipa", "_native_status.json").write_text(text)
    monkeypatch.setattr(native, "__file__", str(module))
    monkeypatch.setattr(native, "_import_failure", ImportError("No module named 'kvmipa._native'"))
    assert native.why_missing() == "it cannot be imported: No module named 'kvmipa._native'"


def test_install_record_is_what_the_error_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tmp_path / "kvmipa" / "backend" / "native.py"
    module.parent.mkdir(parents=True)
    tmp_path.joinpath("kvmipa", "_native_status.json").write_text('{"missing": "no C compiler (cc)"}')
    monkeypatch.setattr(native, "__file__", str(module))
    monkeypatch.setattr(native, "_import_failure", ImportError("No module named 'kvmipa._native'"))
    assert native.why_missing() == "it was not compiled when kvmipa was installed: no C compiler (cc)"
