# SPDX-License-Identifier: Apache-2.0
"""What a random trace is made from: chance, the host, and a guess at what the operations so far have made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ci.lab.trace_list.making import U64

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from ci.lab.trace_list.making import Host
    from kvmipa.trace import Ioctl
    from kvmipa.trace.values import Value

T = TypeVar("T")


@dataclass
class Guess:
    """What a VM may be like by now."""

    name: str
    bits: int
    slots: dict[int, tuple[int, int, Value, int]] = field(default_factory=dict)
    vcpus: list[str] = field(default_factory=list)
    devices: dict[str, int] = field(default_factory=dict)
    memfds: list[str] = field(default_factory=list)
    bus: list[Ioctl] = field(default_factory=list)

    def of(self, kind: int) -> list[str]:
        """Its devices of a type."""
        return [name for name, found in self.devices.items() if found == kind]


class State:
    """Of one trace."""

    def __init__(self, random: Random, host: Host) -> None:
        # Only random() is the same in every Python.
        self._random = random.random
        self._host = host
        self._page = host.page_size
        self._vms: list[Guess] = []
        self._vm = Guess("vm0", 36)
        self._names = 0
        self._eventfds: list[str] = []
        # A VM of this size is closed soon; see Host.sizes.
        self._most = host.top_size if host.release < (7, 0) and host.page_size == 4096 else min(host.top_size, 42)

    def _below(self, end: int) -> int:
        return int(self._random() * end)

    def _pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._random() * len(choices))]

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def _number(self) -> int:
        """A number that has something about it."""
        bits = self._vm.bits
        base = self._pick(
            (0, 1, 2, 16, 31, 32, 64, 0x1000, 0x4000, 0x1_0000, self._page, 1 << 16, 1 << 31, 1 << 32, 1 << bits,
             1 << bits, 1 << 40, 1 << 44, 1 << 47, 1 << 48, 1 << 52, 1 << 55, 1 << 56, 1 << 63, 1 << 64,
             self._page << 31, self._page << 20, 1 << self._host.va_bits, 1 << self._below(64))
        )  # fmt: skip
        away = self._pick((0, 0, 0, 1, -1, self._page, -self._page, -2 * self._page, 0x1_0000, -0x1_0000, -0x2_0000))
        return (base + away) & U64
