# SPDX-License-Identifier: Apache-2.0
"""Operations of a random trace with something wrong in them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ci.lab.fuzz_state import State
from kvmipa.trace import Ioctl, Struct
from kvmipa.trace.values import layout_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.trace.values import Place

# An address in these is used by the kernel in the call: always a symbol, for what a number stands for is the process's
# own business.
_POINTERS: Final = frozenset(
    (
        ("device_attr", "addr"),
        ("dirty_log", "dirty_bitmap"),
        ("clear_dirty_log", "dirty_bitmap"),
        ("reg_mask_range", "addr"),
        ("arm_copy_mte_tags", "addr"),
        ("one_reg", "addr"),
    )
)
# These are numbers of descriptors, which are the process's own business likewise.
_DESCRIPTORS: Final = frozenset(("fd", "resamplefd", "guest_memfd"))
_BAD_POINTERS: Final = ("null", "unmapped", "kernel", "mem0", "mem0+0x3fffc", "mem0-0x8")


class Spoiler(State):
    """Spoils operations."""

    def _spoil(self, made: Ioctl) -> Ioctl:
        return self._pick(_SPOILERS)(self, made)

    def _spoil_argument(self, made: Ioctl) -> Ioctl:
        argument = made.argument
        if isinstance(argument, Struct):
            return replace(made, argument=self._spoil_struct(argument))
        if isinstance(argument, int):
            return replace(made, argument=self._pick((self._number(), argument ^ 1 << self._below(64))))
        if isinstance(argument, tuple):
            pieces = list(argument)
            at = self._below(len(pieces))
            if isinstance(piece := pieces[at], Struct):
                pieces[at] = self._spoil_struct(piece)
            return replace(made, argument=tuple(pieces))
        return made

    def _spoil_pointer(self, made: Ioctl) -> Ioctl:
        return replace(made, argument=self._pick(_BAD_POINTERS)) if made.number >> 30 else self._spoil_argument(made)

    def _spoil_descriptor(self, made: Ioctl) -> Ioctl:
        vm = self._vm
        return replace(made, on=self._pick(("kvm", vm.name, "closed", *vm.vcpus, *vm.devices)))

    def _spoil_table(self, made: Ioctl) -> Ioctl:
        return replace(made, no_descriptor=True)

    def _spoil_request(self, made: Ioctl) -> Ioctl:
        return replace(made, request=made.number ^ self._pick((1 << 30, 1 << 31, 1 << 16, 1 << 20, 1, 2, 0x100)))

    def _spoil_struct(self, found: Struct) -> Struct:
        fields: dict[str, Any] = dict(found.fields)
        places = layout_of(found.name).fields
        names = list(places)
        for _ in range(1 + (self._random() < 0.3)):
            name = self._pick(names)
            fields[name] = self._spoil_field(found.name, name, places[name], fields.get(name, 0))
        return Struct(found.name, fields)

    def _spoil_field(self, of: str, name: str, place: Place, value: Any) -> Any:
        count, mask = place.number, place.mask
        if (of, name) in _POINTERS:
            if isinstance(value, Struct) and self._random() < 0.7:
                return self._spoil_struct(value)
            return self._pick(_BAD_POINTERS)
        if name in _DESCRIPTORS:
            return self._pick(("closed", "kvm", self._vm.name, 0xFFFF_FFFF, *self._eventfds, *self._vm.memfds))
        if isinstance(value, (list, tuple)) or count > 1:
            values = list(value) if isinstance(value, (list, tuple)) else []
            at = self._below(min(count, 8))
            values += [0] * (at + 1 - len(values))
            values[at] = self._number() & mask
            return values
        if not isinstance(value, int) or self._random() < 0.5:
            return self._number() & mask
        return (value ^ 1 << self._below(mask.bit_length())) & mask


_SPOILERS: Final[tuple[Callable[[Spoiler, Ioctl], Ioctl], ...]] = (
    *(Spoiler._spoil_argument,) * 8,
    *(Spoiler._spoil_pointer,) * 2,
    Spoiler._spoil_descriptor,
    Spoiler._spoil_table,
    Spoiler._spoil_request,
)
