# SPDX-License-Identifier: Apache-2.0
"""What the descriptors of the emulated kernel share: tables of requests, and how a request is refused."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from kvmipa.backend.emulated import capabilities
from kvmipa.backend.emulated.release import behaviour
from kvmipa.backend.emulated.user_memory import BadAddressError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

    # Answers a request on the object behind the descriptor: the result, or -errno.
    Handler = Callable[[Any, Argument], int]


class RefusedError(Exception):
    """A request fails with this errno, from wherever its checks are made."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Request:
    """A request that a kind of descriptor knows.

    needs: the capability that announces it, where one does: it is as old as that. brought_by: the field of Behaviour
    that stands for its first release, where no capability does. of_arm: the architecture answers it, and so a pKVM host
    may not (kvm_arch_vm_ioctl).
    """

    number: int
    handler: Handler
    needs: int | None = None
    brought_by: str | None = None
    of_arm: bool = False

    def known_to(self, release: str) -> bool:
        """Whether a release has it."""
        if self.needs is not None and not capabilities.known_to(release, self.needs):
            return False
        return self.brought_by is None or getattr(behaviour(release), self.brought_by)


@lru_cache(maxsize=256)
def handlers(rows: tuple[Request, ...], release: str) -> dict[int, Handler]:
    """Request number -> handler, of a release."""
    return {row.number: row.handler for row in rows if row.known_to(release)}


def answer(handler: Handler, target: object, argument: Argument) -> int:
    """The handler's result; EFAULT for a bad pointer, and the errno with which it was refused."""
    try:
        return handler(target, argument)
    except BadAddressError:
        return -errno.EFAULT
    except RefusedError as refused:
        return -refused.code


class VmBoundFile:
    """A descriptor of a VM, or of a vCPU or device of one.

    What comes before and around a request is the same for all of them (kvm_vm_ioctl, kvm_vcpu_ioctl and
    kvm_device_ioctl in virt/kvm/kvm_main.c).
    """

    # On arm64 a VM and a vCPU do not say ENOTTY.
    UNKNOWN_REQUEST: ClassVar[int] = errno.EINVAL

    def __init__(self, vm: VirtualMachine, target: object, known: dict[int, Handler]) -> None:
        self.vm = vm
        self._target = target
        self._handlers = known

    def ioctl(self, request: int, argument: Argument, /) -> int:
        """Answer one request: the result, or -errno."""
        vm = self.vm
        if vm.out_of_reach:
            return -errno.EIO
        handler = self._handlers.get(request)
        if handler is None:
            return -self.UNKNOWN_REQUEST
        with vm.lock:
            return answer(handler, self._target, argument)
