# SPDX-License-Identifier: Apache-2.0
"""What the guest is told to do in a VM of N bits: below, at and above every size that means something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.payload.program import GIB, NO_MAPPING, NOWHERE, RAM, READONLY, SLOT_SIZE, UPPER_HALF, Command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Where in a slot the memory that is read and written starts; the rest are instructions to return.
DATA: Final = 0x800
# What is stored; by its bytes one sees which, and whether a sign was extended.
STORED: Final = 0x9192_9394_9596_9798
STORED_TOO: Final = 0x7172_7374_7576_7778

_LOADS: Final = ("ldrb", "ldrh", "ldr_w", "ldr")
_STORES: Final = ("strb", "strh", "str_w", "str")
_MORE_LOADS: Final = ("ldrsb_w", "ldrsb", "ldrsh_w", "ldrsh", "ldrsw", "ldur", "ldr_register", "ldr_xzr", "ldar")
_MORE_STORES: Final = ("str_xzr", "stlr")
# The CPU gives no syndrome of these (Arm ARM, ESR_EL2.ISV): KVM cannot tell user space what they are.
_PAIRS: Final = ("ldp", "stp")
_WRITE_BACK: Final = ("ldr_post", "ldr_pre", "str_post", "str_pre")
_VECTORS: Final = ("ldr_d", "str_d", "ldr_q")
_CACHE: Final = ("dc_civac", "dc_cvau", "ic_ivau")
# Unprivileged loads and stores, which stage 1 has no permission for.
_UNPRIVILEGED: Final = ("ldtr", "sttr")

_VALUES: Final = {
    **dict.fromkeys(
        (*_STORES, *_MORE_STORES, *_CACHE, "ldr_xzr", "stp", "str_d", "sttr", "prfm", "dc_zva", "fetch"), 0
    ),
    **dict.fromkeys(_WRITE_BACK, 2),
    "ldp": 3,
}

# PSCI and SMCCC (Arm DEN 0022, DEN 0028), with arguments: what does not stop the guest or tell of the host's errata.
_CALLS: Final = (
    (0x8400_0000,),  # PSCI_VERSION
    *((0x8400_000A, feature) for feature in (0x8400_0000, 0x8400_0001, 0xC400_0003, 0x8400_0008, 0x8400_000A)),
    *((0x8400_000A, feature) for feature in (0x8400_000E, 0x8400_0012, 0x8400_0015, 0x8000_0000, 0x8400_0005)),
    (0xC400_0003, 0),  # CPU_ON: this one is
    (0xC400_0003, 1),  # and there is no other
    (0xC400_0004, 0),  # AFFINITY_INFO
    (0xC400_0004, 1),
    (0xC400_0004, 0, 4),
    (0x8400_0005,),  # MIGRATE
    (0x8400_0006,),  # MIGRATE_INFO_TYPE
    (0xC400_000E,),  # SYSTEM_SUSPEND
    (0x8400_0012, 1),  # SYSTEM_RESET2 of an unknown kind
    (0x8000_0000,),  # SMCCC_VERSION
    (0x8000_0001, 0x8000_0000),  # SMCCC_ARCH_FEATURES
    (0xC500_0020, 0xC500_0021),  # PV_TIME_FEATURES
    (0xC500_0021,),  # PV_TIME_ST
    (0x8400_0050,),  # TRNG_VERSION
    (0x8600_FF01,),  # the hypervisor's UID
    (0xC123_4567,),  # nobody's
    (0xFFFF_FFFF_8400_0000,),  # of 64 bits the lower half counts
)

# Stage 1's table: entries that map what is to be tried somewhere else, and ones that are tables where no memory is.
_FIRST_WINDOW: Final = 8
_TABLE_NOWHERE: Final = 64
_TABLE_BEYOND: Final = 65
_BLOCK: Final = 0x701
_TABLE: Final = 3
# What stage 1 can put out: descriptors without LPA2 have 48 bits of address.
_STAGE1_BITS: Final = 48


@dataclass(frozen=True)
class Step:
    """A command, and the state that the guest does it in.

    stage1: "off", or where its addresses, instructions included, are once it is on: in the "lower" half or the "upper".
    ipa: what stage 1 makes of the command's address. nisv: KVM_CAP_ARM_NISV_TO_USER is enabled. may_hang: there are
    kernels that never let the guest go on.
    """

    command: Command
    stage1: str = "off"
    ipa: int | None = None
    nisv: bool = False
    may_hang: bool = False


@dataclass(frozen=True)
class Sizes:
    """Bits: of the VM's IPA space, of the host's limit, of the CPU's physical addresses."""

    ipa_bits: int
    limit: int
    pa_bits: int

    @property
    def top(self) -> int:
        """The last slot of the VM's IPA space."""
        return (1 << self.ipa_bits) - SLOT_SIZE

    @property
    def beyond(self) -> tuple[int, ...]:
        """At and above the VM's size, and below, at and above the others.

        >>> [hex(address) for address in Sizes(40, 44, 44).beyond]
        ['0x10000000000', '0x10000001238', '0xffffffff008', '0x100000000000', '0x100000001238']
        """
        ends = {1 << bits for bits in (self.ipa_bits, self.limit, self.pa_bits) if bits >= self.ipa_bits}
        below = {end - 0xFF8 for end in ends} - {(1 << self.ipa_bits) - 0xFF8}
        return tuple(sorted(below | ends | {end + 0x1238 for end in ends}))


def steps(sizes: Sizes, *, stage1: bool = True) -> Iterator[Step]:
    """Everything that the guest is told; stage1: also with its stage 1 on."""
    yield from _with_stage1_off(sizes)
    if stage1:
        yield from _with_stage1_on(sizes, nisv=False)
    yield from (Step(command, nisv=True) for command in _without_syndrome(sizes))
    if stage1:
        yield from _with_stage1_on(sizes, nisv=True)


# ---------------------------------------------------------------------------------------------- stage 1 off


def _with_stage1_off(sizes: Sizes) -> Iterator[Step]:
    for part in (_registers(), _calls(), _exceptions(sizes), _memory(sizes), _no_memory(), _beyond(sizes)):
        yield from map(Step, part)


def _registers() -> Iterator[Command]:
    yield from (Command(name) for name in ("current_el", "mpidr", "mmfr0", "sctlr"))


def _calls() -> Iterator[Command]:
    yield from (Command("hvc", x, 4) for x in _CALLS)
    for operation in ("hvc_1", "smc", "smc_1"):
        yield from (Command(operation, x, 4) for x in ((0x8400_0000,), (0x8000_0000,), (0xC123_4567, 1, 2, 3)))


def _exceptions(sizes: Sizes) -> Iterator[Command]:
    yield from (Command(name, values=0) for name in ("svc", "brk", "undefined", "pmcr"))
    yield from (Command(name, values=0, from_el=0) for name in ("svc", "brk", "undefined", "current_el", "hvc", "smc"))
    for address in (RAM + DATA, sizes.top + DATA, READONLY + DATA, NOWHERE + 0x120, 1 << sizes.ipa_bits):
        yield from (at(name, address, from_el=0) for name in ("ldr", "str", "fetch"))


def _memory(sizes: Sizes) -> Iterator[Command]:
    loads, stores = (*_LOADS, *_MORE_LOADS), (*_STORES, *_MORE_STORES)
    last = (1 << sizes.ipa_bits) - 8
    yield from (at(name, RAM + DATA) for name in loads)
    for address in (RAM + DATA + 0x100, sizes.top + DATA + 0x100):
        for name in (*stores, *_PAIRS, *_WRITE_BACK, *_VECTORS, *_UNPRIVILEGED):
            yield at(name, address)
            yield at("ldr", address)
        yield from (at(name, address) for name in (*_CACHE, "prfm", "fetch"))
    yield from (at(name, last) for name in ("ldr", "str", "ldr", "ldr_post"))
    for name in (*loads, *stores, *_PAIRS, *_WRITE_BACK, *_VECTORS, *_CACHE, "fetch"):
        yield at(name, READONLY + DATA + 0x100)
    yield at("ldr", READONLY + DATA + 0x100)


def _no_memory() -> Iterator[Command]:
    for name in (*_LOADS, *_MORE_LOADS, *_STORES, *_MORE_STORES, *_UNPRIVILEGED):
        yield at(name, NOWHERE + 0x128)
    for name in (*_PAIRS, *_WRITE_BACK, *_VECTORS, *_CACHE, "prfm", "fetch"):
        yield at(name, NOWHERE + 0xFF0)
    yield from (at(name, NO_MAPPING + 8) for name in ("ldr", "strb", "ldp", "str_post"))
    yield Command("read_d")


def _beyond(sizes: Sizes) -> Iterator[Command]:
    for address in sizes.beyond:
        for name in (*_LOADS, *_STORES, "ldrsw", *_PAIRS, "str_post", "ldr_d", *_CACHE, "prfm", "fetch"):
            yield at(name, address)


def _without_syndrome(sizes: Sizes) -> Iterator[Command]:
    for address in (READONLY + DATA, NOWHERE + 0xFF0, *sizes.beyond):
        for name in (*_PAIRS, *_WRITE_BACK, *_VECTORS, "ldr", "str"):
            yield at(name, address)


def at(name: str, address: int, from_el: int = 1) -> Command:
    """An operation on 8 bytes or less from there on; a fetch is from the start of the page."""
    values = _VALUES.get(name, 1)
    if name == "fetch":
        address &= ~0xFFF
    elif name in ("ldur", "str_pre"):
        address += 8
    elif name == "ldr_pre":
        address -= 8
    second = 0 if name.startswith("ldr_") else STORED
    return Command(name, (0, address, second, STORED_TOO), values, from_el)


# ---------------------------------------------------------------------------------------------- stage 1 on


def _with_stage1_on(sizes: Sizes, *, nisv: bool) -> Iterator[Step]:
    targets = [RAM, READONLY, NOWHERE, sizes.top, *sizes.beyond]
    blocks = sorted({target // GIB for target in targets if target < 1 << _STAGE1_BITS})
    windows = {block: number for number, block in enumerate(blocks, _FIRST_WINDOW)}
    yield Step(Command("stage1_on"), nisv=nisv)
    lower = (
        *(Command("map", (0, number, block * GIB | _BLOCK), 0) for block, number in windows.items()),
        Command("map", (0, _TABLE_NOWHERE, NOWHERE | _TABLE), 0),
        Command("map", (0, _TABLE_BEYOND, 1 << sizes.ipa_bits | _TABLE), 0),
        Command("sctlr"),
    )
    yield from (Step(command, "lower", nisv=nisv) for command in lower)
    accesses = _only_without_syndrome if nisv else _through_windows
    yield from accesses(sizes, windows, "lower")
    if not nisv:
        yield from (Step(at(name, _TABLE_NOWHERE * GIB), "lower") for name in ("ldr", "str", "fetch"))
        if sizes.ipa_bits < min(sizes.pa_bits, _STAGE1_BITS):
            yield Step(at("ldr", _TABLE_BEYOND * GIB), "lower", may_hang=True)
    yield Step(Command("move", (0, UPPER_HALF), 0), "lower", nisv=nisv)
    yield from accesses(sizes, windows, "upper")
    if not nisv:
        yield from (Step(Command(name, values=0), "upper") for name in ("svc", "brk", "undefined"))
        yield Step(Command("hvc", (0x8400_0000,), 4), "upper")
    yield Step(Command("move", (0, -UPPER_HALF % (1 << 64)), 0), "upper", nisv=nisv)
    yield Step(Command("stage1_off", values=0), "lower", nisv=nisv)
    yield Step(at("ldr", RAM + DATA), nisv=nisv)


def _through_windows(sizes: Sizes, windows: dict[int, int], half: str) -> Iterator[Step]:
    no_syndrome = (*_PAIRS, *_WRITE_BACK, *_VECTORS)
    for ipa in (RAM + DATA + 0x200, sizes.top + DATA + 0x200, READONLY + DATA + 0x200):
        yield from _window(windows, half, ipa, (*_LOADS, "ldrsb", *_STORES, "ldr", *no_syndrome, *_CACHE, "fetch"))
    yield from _window(windows, half, RAM + DATA + 0x240, ("dc_zva", "ldr", "ldxr", *_UNPRIVILEGED))
    yield from _window(windows, half, NOWHERE + 0xFF0, (*_LOADS, *_MORE_LOADS, *_STORES, *_MORE_STORES))
    yield from _window(windows, half, NOWHERE + 0xFF0, (*no_syndrome, *_CACHE, "prfm", "fetch"))
    for ipa in sizes.beyond:
        yield from _window(windows, half, ipa, ("ldr", "ldrb", "str", "strh", "ldrsw", "ldp", *_CACHE, "fetch"))


def _only_without_syndrome(sizes: Sizes, windows: dict[int, int], half: str) -> Iterator[Step]:
    for ipa in (READONLY + DATA, NOWHERE + 0xFF0, *sizes.beyond):
        yield from _window(windows, half, ipa, (*_PAIRS, "str_post", "ldr_d"), nisv=True)


def _window(
    windows: dict[int, int], half: str, ipa: int, names: Iterable[str], *, nisv: bool = False
) -> Iterator[Step]:
    if ipa // GIB not in windows:
        return
    virtual = windows[ipa // GIB] * GIB + ipa % GIB + (UPPER_HALF if half == "upper" else 0)
    for name in names:
        command = at(name, virtual)
        yield Step(command, half, ipa=ipa - virtual + command.x[1], nisv=nisv)
