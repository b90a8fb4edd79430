# SPDX-License-Identifier: Apache-2.0
"""Which kernels a session's tests run on, and which of them a test can."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

from kvmipa import choice, errors
from kvmipa.backend import DEVICE
from kvmipa.backend.emulated.host import HostProfile
from kvmipa.causes import not_arm64_error
from kvmipa.system import Kvm

if TYPE_CHECKING:
    from collections.abc import Sequence

# So many hosts are named.
_SHOWN: Final = 4

#: As a host: every preset.
ALL: Final = "all"


@dataclass(frozen=True)
class Kernel:
    """A kernel that tests run on. backend: "native" or "emulated"; host: the preset that is emulated, "" for native."""

    backend: str
    host: str = ""

    def __str__(self) -> str:
        """In a test's id.

        >>> str(Kernel("native")), str(Kernel("emulated", "apple-m1"))
        ('native', 'apple-m1')
        """
        return self.host or self.backend


def host_names(given: Sequence[str]) -> list[str]:
    """The hosts of the option's values, each a list with commas or ALL; ValueError for what is no host.

    >>> host_names(["apple-m1,raspberry-pi-4", "apple-m1"])
    ['apple-m1', 'raspberry-pi-4']
    """
    names = [name.strip() for value in given for name in value.split(",")]
    found: dict[str, None] = {}
    for name in names:
        if name == ALL:
            found |= dict.fromkeys(HostProfile.presets())
            continue
        _require_kvm(name)
        found[name] = None
    return list(found)


def _require_kvm(name: str) -> None:
    profile = HostProfile.preset(name)
    if not profile.starts_kvm:
        raise ValueError(f"host {name!r} has no /dev/kvm: {profile.obstacle}")


class Kernels:
    """A session's kernels. backend: of the option; hosts: of the option, already looked up.

    The environment's KVMIPA_BACKEND and KVMIPA_HOST are used as kvmipa.open() uses them.
    """

    def __init__(self, backend: str, hosts: Sequence[str]) -> None:
        named = choice.choose(backend, DEVICE, None)
        if hosts and named == "native":
            raise ValueError("a host is a machine to emulate; the native backend has the machine that it runs on")
        self._named = "emulated" if hosts and named == "auto" else named
        self._may_choose = named == "auto"
        self.emulated = [Kernel("emulated", host) for host in hosts or [self._default_host()]]

    @staticmethod
    def _default_host() -> str:
        name = os.environ.get("KVMIPA_HOST") or choice.DEFAULT_HOST
        try:
            _require_kvm(name)
        except ValueError as error:
            raise ValueError(f"the environment's KVMIPA_HOST: {error}") from None
        return name

    @cached_property
    def _real_is_meant(self) -> bool:
        """Whether kvmipa.open() is about the real kernel here, also where it fails: that is an error of the machine."""
        try:
            # Not choice.open(), which would leave a trace of it where the environment asks for traces.
            with choice.open_what_answers(DEVICE) as kvm:
                return kvm.backend == "native"
        except errors.BackendUnavailableError:
            return True
        except ValueError:
            # KVMIPA_HOST, which the option outdoes, is no host: it was looked up because no KVM answers.
            return False

    @property
    def usual(self) -> list[Kernel]:
        """What a test without a mark runs on."""
        is_native = self._named == "native" or (self._named == "auto" and self._real_is_meant)
        return [Kernel("native")] if is_native else self.emulated

    def of(self, *, native: bool, emulated: bool) -> list[Kernel] | str:
        """What a test with these marks runs on; why it cannot run, where it cannot."""
        if native and emulated:
            raise ValueError("a test cannot need the real kernel and the emulated one")
        if native and self._may_choose:
            return [Kernel("native")] if self._real_is_meant else "needs the real kernel: no arm64 KVM is here"
        if emulated and self._may_choose:
            return self.emulated
        needed = "native" if native else "emulated" if emulated else self._named
        if needed != self._named:
            return f"needs the {needed} backend: this session's is {self._named}"
        return self.usual


@cache
def limit_of(kernel: Kernel) -> int | None:
    """The IPA limit; BackendUnavailableError, NotArm64KvmError where the kernel is not there."""
    if kernel.backend == "emulated":
        return HostProfile.preset(kernel.host).ipa_limit
    with real_kvm() as kvm:
        return kvm.host_ipa_limit


@cache
def profile_of(kernel: Kernel) -> HostProfile:
    """The host; of a real one what it shows. BackendUnavailableError where it is not there."""
    if kernel.backend == "emulated":
        return HostProfile.preset(kernel.host)
    with real_kvm() as kvm:
        return HostProfile.of(kvm)


def real_kvm() -> Kvm:
    """The machine's KVM, without what may stand before it; NotArm64KvmError where it is another one."""
    from kvmipa.backend.native import NativeBackend

    kvm = Kvm(NativeBackend())
    if not kvm.is_arm64:
        kvm.close()
        raise not_arm64_error(f"test on {DEVICE}")
    return kvm


def in_words(kernels: Sequence[Kernel]) -> str:
    """The kernels, as a line of the session's header."""
    hosts = [kernel for kernel in kernels if kernel.backend == "emulated"]
    parts = [_real_in_words() for kernel in kernels if kernel.backend == "native"]
    if len(hosts) == 1:
        parts.append(f"EMULATED {hosts[0]}, Linux {profile_of(hosts[0]).release}, {_limit_in_words(hosts[0])}")
    elif hosts:
        names = ", ".join(map(str, hosts[:_SHOWN])) + (", ..." if len(hosts) > _SHOWN else "")
        parts.append(f"EMULATED, {len(hosts)} hosts: {names}")
    return "; ".join(parts)


def _real_in_words() -> str:
    try:
        limit = _limit_in_words(Kernel("native"))
    except errors.KvmError as error:
        return f"REAL {DEVICE}, which cannot be used: {str(error).splitlines()[0]}"
    return f"REAL {DEVICE}, Linux {os.uname().release} {os.uname().machine}, {limit}"


def _limit_in_words(kernel: Kernel) -> str:
    limit = limit_of(kernel)
    return "no choice of IPA sizes" if limit is None else f"IPA limit {limit} bits"
