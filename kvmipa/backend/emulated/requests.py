# SPDX-License-Identifier: Apache-2.0
"""What the descriptors of the emulated kernel share: tables of requests, and how a request is refused."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from kvmipa.backend.emulated.capabilities import first_release
from kvmipa.backend.emulated.release import OLDEST, parse
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

    needs: the capability that announces it, where one does: it is as old as that. since: its first release, where no
    capability has it. of_arm: the architecture answers it, and so a pKVM host may not (kvm_arch_vm_ioctl).
    """

    number: int
    handler: Handler
    needs: int | None = None
    since: tuple[int, int] | None = None
    of_arm: bool = False

    @property
    def first_release(self) -> tuple[int, int]:
        """The first release that has it."""
        if self.since is not None:
            return self.since
        return OLDEST if self.needs is None else first_release(self.needs)


@lru_cache(maxsize=256)
def handlers(rows: tuple[Request, ...], release: str) -> dict[int, Handler]:
    """Request number -> handler, of a release."""
    line = parse(release)[:2]
    return {row.number: row.handler for row in rows if row.first_release <= line}


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
