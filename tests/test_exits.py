# SPDX-License-Identifier: Apache-2.0
"""The classes of exits: what they show, how they match."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest

from kvmipa import (
    FailEntry,
    Hypercall,
    Interrupted,
    Mmio,
    SystemEvent,
    SystemEventType,
    Unknown,
    errors,
)
from tests.test_exit_decoding import CASES

if TYPE_CHECKING:
    from kvmipa import Exit


def test_access_is_what_it_is() -> None:
    load, store = Mmio(0x1000, 4), Mmio(0x1000, 4, is_write=True, value=0)
    assert load == Mmio(0x1000, 4)
    assert load != store
    assert load != (0x1000, 0, 4, False, None)
    assert len({load, store, Mmio(0x1000, 4), Mmio(0x1000, 8)}) == 3
    assert repr(store) == "Mmio(phys_addr=0x1000, size=4, is_write=True, value=0x0)"
    assert repr(load) == "Mmio(phys_addr=0x1000, size=4, is_write=False)"
    for answer in (load.abort, lambda: load.reply(1)):
        with pytest.raises(errors.MmioAnsweredError, match="no vCPU waits"):
            answer()


@pytest.mark.parametrize("exit", [case[3] for case in CASES], ids=str)
def test_exits_are_not_changed(exit: Exit) -> None:
    name = "phys_addr" if isinstance(exit, Mmio) else "anything"
    with pytest.raises((AttributeError, TypeError)):
        setattr(exit, name, 1)
    assert pickle.loads(pickle.dumps(exit)) == exit


def what(exit: Exit) -> str:
    """What a program makes of an exit."""
    match exit:
        case Mmio(address, size, True, value):
            return f"store {address:#x} {size} {value}"
        case Mmio(phys_addr=address, size=size):
            return f"load {address:#x} {size}"
        case SystemEvent(SystemEventType.SHUTDOWN):
            return "off"
        case SystemEvent(type=kind, data=(first, *_)):
            return f"event {kind} {first}"
        case Hypercall(nr=number, is_smc=True):
            return f"smc {number}"
        case Hypercall(number):
            return f"hvc {number}"
        case Interrupted(kicked=True):
            return "kicked"
        case Interrupted(timed_out=True):
            return "late"
        case Unknown(reason):
            return f"? {reason}"
        case _:
            return type(exit).__name__


@pytest.mark.parametrize(
    ("exit", "expected"),
    [
        (Mmio(0x10, 4, is_write=True, value=5), "store 0x10 4 5"),
        (Mmio(0x10, 4), "load 0x10 4"),
        (SystemEvent(1), "off"),
        (SystemEvent(2, (1,)), "event 2 1"),
        (Hypercall(7, 1), "smc 7"),
        (Hypercall(7, 2), "hvc 7"),
        (Interrupted(kicked=True), "kicked"),
        (Interrupted(timed_out=True), "late"),
        (Interrupted(), "Interrupted"),
        (Unknown(77), "? 77"),
        (FailEntry(1, 2), "FailEntry"),
    ],
)
def test_exits_match(exit: Exit, expected: str) -> None:
    assert what(exit) == expected


def test_flags_of_a_hypercall() -> None:
    assert [(Hypercall(0, flags).is_smc, Hypercall(0, flags).is_16bit) for flags in range(4)] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]


def test_reply_to_a_call_that_no_vcpu_waits_with() -> None:
    with pytest.raises(errors.MmioAnsweredError, match="no vCPU waits"):
        Hypercall(0, 0).reply(0)
    for values in ((1 << 64,), (0, 0, -(1 << 63) - 1), (0, 0, 0, 1 << 64)):
        with pytest.raises(OverflowError, match=f"x{len(values) - 1}=.* does not fit 64 bits"):
            Hypercall(0, 0).reply(*values)
    with pytest.raises(TypeError, match="x1 is an int, not float"):
        Hypercall(0, 0).reply(0, 1.0)  # type: ignore[arg-type]


def test_access_is_made_in_the_order_of_its_pattern() -> None:
    exit = Mmio(0x900_0000, 4, True, 0x41)
    assert (exit.phys_addr, exit.size, exit.is_write, exit.value) == (0x900_0000, 4, True, 0x41)
    assert exit == Mmio(phys_addr=0x900_0000, size=4, is_write=True, value=0x41)
    assert tuple(getattr(exit, name) for name in Mmio.__match_args__) == (0x900_0000, 4, True, 0x41)
    assert Mmio(*(getattr(exit, name) for name in Mmio.__match_args__)) == exit
    assert copy.copy(exit) == copy.deepcopy(exit) == exit
