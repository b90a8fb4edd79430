# SPDX-License-Identifier: Apache-2.0
"""Saboteurs of claims about /dev/kvm itself, and about what can be asked of it and of a VM."""

from __future__ import annotations

from dataclasses import fields
from errno import EINVAL, ENOTTY
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvmipa import abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.backend.emulated.host import HostProfile
from kvmipa.backend.interposed import InterposedBackend
from tests.conformance.sabotage import Capability, Sabotage, Saboteur

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend import Backend
    from tests.conformance.sabotage import Change

    Send = Callable[[Any], int]

_LIMIT: Final = abi.KVM_CAP_ARM_VM_IPA_SIZE
_MSI: Final = abi.KVM_CAP_MSI_DEVID
_SPLIT: Final = abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE


def _request(number: int, change: Change) -> Callable[[Backend], Backend]:
    return partial(Saboteur, requests={number: change})


# ------------------------------------------------------------------------------------------------ versions and sizes


def _any_argument(_kernel: Saboteur, _fd: int, _argument: int, send: Send) -> int:
    return send(0)


def _another_later(number: int, other: int) -> Change:
    """Kvm itself asks once, and would not open."""

    def change(kernel: Saboteur, fd: int, argument: int, send: Send) -> int:
        again = kernel.asked.get((fd, number))
        return other if again and not argument else send(argument)

    return change


def _enotty(_kernel: Saboteur, _fd: int, _argument: int, _send: Send) -> int:
    return -ENOTTY


# ------------------------------------------------------------------------------------------------ capabilities


def _says(cap: int, answer: int, *, of_vm: bool | None = None) -> Callable[[Backend], Backend]:
    """KVM_CHECK_EXTENSION has this answer, of a VM (True), of /dev/kvm (False), or of both."""

    def change(kernel: Saboteur, fd: int, asked: int, send: Send) -> int:
        told = asked == cap and of_vm in {None, fd in kernel.types}
        return answer if told else send(asked)

    return _request(abi.KVM_CHECK_EXTENSION, change)


def _capability(change: Change) -> Callable[[Backend], Backend]:
    return partial(Saboteur, capability=change)


def _any_size(_kernel: Saboteur, _fd: int, asked: Capability, send: Send) -> int:
    result = send(asked)
    # Odd sizes are refused because of another rule, that no slot exists.
    return 0 if asked.number == _SPLIT and asked.value == 0x2000 else result


def _some_sizes(_kernel: Saboteur, _fd: int, asked: Capability, send: Send) -> int:
    return -EINVAL if asked == Capability(_SPLIT, 1 << 30) else send(asked)


def _at_any_time(kernel: Saboteur, fd: int, asked: Capability, send: Send) -> int:
    has_memory = any(vm == fd for vm, _ in kernel.slots)
    return 0 if asked.number == _SPLIT and has_memory else send(asked)


def _forgotten(_kernel: Saboteur, _fd: int, asked: Capability, send: Send) -> int:
    return 0 if asked.number == _SPLIT and asked.value else send(asked)


# ------------------------------------------------------------------------------------------------ the limit


class _OfFortyEightBits(HostProfile):
    """A host whose kernel does not compute its limit from the CPU."""

    ipa_limit = property(lambda _self: 48)


class _LimitedKernel(InterposedBackend):
    """It says what the host is, and answers as if it had a limit of 48 bits."""

    def __init__(self, behind: Backend) -> None:
        profile = behind.profile
        assert profile is not None
        limited = _OfFortyEightBits(**{one.name: getattr(profile, one.name) for one in fields(profile)})
        super().__init__(EmulatedBackend(limited))
        self._shown = profile

    @property
    def profile(self) -> HostProfile:
        """See Backend."""
        return self._shown


SABOTAGES: Final = (
    Sabotage("C1", "the API version is told whatever the argument", _request(abi.KVM_GET_API_VERSION, _any_argument)),
    Sabotage("C1", "it is 13", _request(abi.KVM_GET_API_VERSION, _another_later(abi.KVM_GET_API_VERSION, 13))),
    Sabotage("C6", "a VM says another limit than /dev/kvm", _says(_LIMIT, 48, of_vm=True)),
    Sabotage("C6", "/dev/kvm says another limit than a VM", _says(_LIMIT, 48, of_vm=False)),
    Sabotage("C6", "the limit that is told is too small", _says(_LIMIT, 48)),
    Sabotage("C6", "the limit that is told is too large", _says(_LIMIT, 53)),
    Sabotage("C6", "no limit is told", _says(_LIMIT, 0)),
    Sabotage("C16", "a VM cannot be asked for what depends on it", _says(_MSI, -EINVAL, of_vm=True)),
    Sabotage("C16", "a VM says that it has an ITS", _says(_MSI, 1, of_vm=True)),
    Sabotage("C16", "a VM says that it has no ITS", _says(_MSI, 0, of_vm=True)),
    Sabotage("C16", "a VM does not say what /dev/kvm does", _says(abi.KVM_CAP_ONE_REG, 0, of_vm=True)),
    Sabotage("C16", "there is no such capability", _says(abi.KVM_CAP_CHECK_EXTENSION_VM, 0)),
    Sabotage("C17", "a size that is no block's is taken", _capability(_any_size)),
    Sabotage("C17", "a size that is a block's is refused", _capability(_some_sizes)),
    Sabotage("C17", "it can be enabled with memory there", _capability(_at_any_time)),
    Sabotage("C17", "it does nothing", _capability(_forgotten)),
    Sabotage("C17", "it is not 0 at first", _says(_SPLIT, 1 << 21, of_vm=True)),
    Sabotage("C17", "other block sizes are told", _says(abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES, 0x20_1000)),
    Sabotage("I1", "/dev/kvm answers for VMs", _says(_MSI, 0, of_vm=False)),
    Sabotage("I2", "the limit is not computed from the CPU", _LimitedKernel),
    Sabotage("I3", "it is told whatever the argument", _request(abi.KVM_GET_VCPU_MMAP_SIZE, _any_argument)),
    Sabotage(
        "I3",
        "the area has three pages",
        _request(abi.KVM_GET_VCPU_MMAP_SIZE, _another_later(abi.KVM_GET_VCPU_MMAP_SIZE, 0x3000)),
    ),
    Sabotage("I4", "an unknown request is ENOTTY", _request(0xAEFE, _enotty)),
)
