# SPDX-License-Identifier: Apache-2.0
"""One fault: which calls it is about, which of them it meets, and what it does to them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from errno import EINVAL
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.errno_names import errno_name, errno_of
from kvmipa.fault_injection.calls import KINDS, NAMES
from kvmipa.machine_type import DEFAULT_IPA_BITS, MIN_IPA_BITS, SIZE_MASK

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.fault_injection.calls import Call

# include/linux/err.h: what the kernel can give back as an error.
MAX_ERRNO: Final = 4095

# Machine types have room for it, and no kernel allows more.
_MAX_IPA_BITS: Final = 52


class Fault:
    """Something that goes wrong; made by the methods of Faults.

    calls: how many calls it was about until now. fired: how many of them it met.
    """

    #: In the list of what happened.
    what: str
    #: The errno of the calls that it meets.
    error: int = 0

    def __init__(self, text: str, requests: frozenset[str]) -> None:
        self._text = text
        self.requests = requests
        self.calls = 0
        self.fired = 0

    def is_about(self, call: Call) -> bool:
        """Whether it counts this call."""
        return call.request in self.requests

    def meets(self, number: int) -> bool:
        """Whether it meets the how manieth of the calls that it is about, from 1."""
        return True

    def wait(self) -> bool:
        """Take time before the call; whether it did."""
        return False

    def answer(self, call: Call) -> int | None:
        """What the call returns without the kernel being asked; None: the kernel is asked."""
        return None

    def changed(self, call: Call, result: int) -> int:
        """What the call returns, of what the kernel answered."""
        return result

    @property
    def is_unused(self) -> bool:
        """Whether it met no call, so that a test which asked for it tested something else."""
        return not self.fired

    def __str__(self) -> str:
        """As it was asked for."""
        return self._text

    def __repr__(self) -> str:
        """As it was asked for, and what came of it."""
        return f"<{self._text}: fired {self.fired} times in {self.calls} calls>"


@dataclass(frozen=True)
class Which:
    """Some of the calls of a request; see Faults.fail() for the fields."""

    nth: int | None = None
    times: int | None = None
    after: int = 0
    on: str | None = None
    when: Callable[[Call], bool] | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if self.on is not None:
            known("kind of descriptor", self.on, KINDS)
        if self.nth is not None:
            _at_least("nth", self.nth, 1)
        if self.times is not None:
            _at_least("times", self.times, 1)
        _at_least("after", self.after, 0)
        if self.nth is not None and self.after:
            raise ValueError(f"nth={self.nth} and after={self.after}: both say where it begins")
        if self.when is not None and not callable(self.when):
            raise TypeError(f"when is a function of the call, not {self.when!r}")

    def has(self, call: Call) -> bool:
        """Whether a call of the request is among those that are counted."""
        if self.on not in {None, call.on}:
            return False
        if self.when is not None:
            return bool(self.when(call))
        return not call.own

    def meets(self, number: int) -> bool:
        """Whether the how manieth of them it is, from 1."""
        first = self.nth or self.after + 1
        count = 1 if self.nth and self.times is None else self.times
        return number >= first and (count is None or number < first + count)

    def __str__(self) -> str:
        """As keyword arguments, a comma before each."""
        given = {"nth": self.nth, "times": self.times, "after": self.after or None, "on": self.on}
        shown = "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)
        return shown + (", when=..." if self.when else "")


class _OfOneRequest(Fault):
    def __init__(self, text: str, request: str, which: Which) -> None:
        known("system call", request, NAMES)
        super().__init__(f"{text}{which})", frozenset({request}))
        self._which = which

    def is_about(self, call: Call) -> bool:
        return call.request in self.requests and self._which.has(call)

    def meets(self, number: int) -> bool:
        return self._which.meets(number)


class Failure(_OfOneRequest):
    """Calls fail with an errno."""

    what = "failed"

    def __init__(self, request: str, error: int | str, which: Which) -> None:
        self.error = _errno(error)
        super().__init__(f"fail({request}, {errno_name(self.error)}", request, which)

    def answer(self, call: Call) -> int:
        return -self.error


class Delay(_OfOneRequest):
    """Calls take longer."""

    def __init__(self, request: str, seconds: float, which: Which) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"seconds is a number, not {seconds!r}")
        if not 0 <= seconds <= TIMEOUT_MAX:
            raise ValueError(f"seconds={seconds!r}: expected a time from 0 on that can be waited for")
        self._seconds = seconds
        self.what = f"delayed by {seconds:g} s"
        super().__init__(f"delay({request}, {seconds:g}", request, which)

    def wait(self) -> bool:
        time.sleep(self._seconds)
        return True


class HostFault(Fault):
    """The host can do less: the capability says so, and what rests on it is refused."""

    def __init__(self, text: str, cap: int) -> None:
        requests = {"KVM_CHECK_EXTENSION", "KVM_ENABLE_CAP"}
        if cap == abi.KVM_CAP_ARM_VM_IPA_SIZE:
            requests.add("KVM_CREATE_VM")
        super().__init__(text, frozenset(requests))
        self.cap = cap

    def is_about(self, call: Call) -> bool:
        if call.request == "KVM_CREATE_VM":
            return call.request in self.requests
        asked = call.fields["cap"] if call.request == "KVM_ENABLE_CAP" else call.argument
        return call.request in self.requests and asked == self.cap

    @property
    def is_unused(self) -> bool:
        # The host may be so by itself: then it changes nothing.
        return not self.calls


class IpaLimit(HostFault):
    """The host's IPA limit is lower than it is."""

    what = "answered for an IPA limit that is lower"

    def __init__(self, bits: int) -> None:
        _at_least("bits", bits, MIN_IPA_BITS)
        if bits > _MAX_IPA_BITS:
            raise ValueError(f"bits={bits}: expected {MIN_IPA_BITS} to {_MAX_IPA_BITS}")
        super().__init__(f"limit_ipa({bits})", abi.KVM_CAP_ARM_VM_IPA_SIZE)
        self._bits = bits

    def answer(self, call: Call) -> int | None:
        if call.request != "KVM_CREATE_VM":
            return None
        size = call.argument & SIZE_MASK or DEFAULT_IPA_BITS
        return None if MIN_IPA_BITS <= size <= self._bits else -EINVAL

    def changed(self, call: Call, result: int) -> int:
        return min(result, self._bits) if call.request == "KVM_CHECK_EXTENSION" else result


class HiddenCapability(HostFault):
    """The host lacks a capability."""

    what = "answered for a host without the capability"

    def __init__(self, cap: int | str) -> None:
        number = _capability(cap)
        super().__init__(f"hide_capability({abi.capability_name(number)})", number)

    def answer(self, call: Call) -> int | None:
        if call.request == "KVM_CHECK_EXTENSION":
            return 0
        # kvm_arch_init_vm() of Linux 4.19: no machine type but 0.
        return -EINVAL if call.request == "KVM_ENABLE_CAP" or call.argument else None


# ------------------------------------------------------------------------------------------------ arguments


def known(what: str, name: str, names: tuple[str, ...]) -> None:
    if name in names:
        return
    from difflib import get_close_matches

    near = get_close_matches(str(name).upper(), names, n=3, cutoff=0.5)
    near = near or get_close_matches(str(name).lower(), names, n=3, cutoff=0.5) or list(names[:6])
    raise ValueError(f"no {what} is called {name!r}; near: {', '.join(near)}")


def _at_least(name: str, value: int | None, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {value!r}")
    if value < lowest:
        raise ValueError(f"{name}={value}: expected {lowest} or more")


def _errno(error: int | str) -> int:
    if isinstance(error, str):
        return errno_of(error)
    if not isinstance(error, int) or isinstance(error, bool):
        raise TypeError(f"an error is an errno or its name, not {error!r}")
    if not 0 < error <= MAX_ERRNO:
        raise ValueError(f"errno {error}: the kernel's are from 1 to {MAX_ERRNO}")
    return int(error)


def _capability(cap: int | str) -> int:
    if isinstance(cap, str):
        known("capability", cap, tuple(abi.CAPABILITIES))
        return abi.CAPABILITIES[cap]
    _at_least("cap", cap, 0)
    return cap
