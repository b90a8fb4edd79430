# SPDX-License-Identifier: Apache-2.0
"""Instruction words as the assembler makes them, and what the emulated CPU takes them for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.backend.emulated.cpu.instructions import XZR, call, decode, system_instruction

PC = 0x4000_0000
X = [0x1000 * (number + 1) for number in range(31)]
SP = 0x7777_0000


class Registers:
    """Each of them has a value of its own."""

    sp = SP

    @staticmethod
    def x(number: int) -> int:
        return X[number]


CPU: Any = Registers()

DESCRIBED = (
    0xF9400041,  # ldr x1, [x2]
    0xB9400841,  # ldr w1, [x2, #8]
    0x39400C41,  # ldrb w1, [x2, #3]
    0x39C00041,  # ldrsb w1, [x2]
    0x79800441,  # ldrsh x1, [x2, #2]
    0xB9800441,  # ldrsw x1, [x2, #4]
    0xF9000BFF,  # str xzr, [sp, #16]
    0x79000C41,  # strh w1, [x2, #6]
    0xF85F7041,  # ldur x1, [x2, #-9]
    0xF8408841,  # ldtr x1, [x2, #8]
    0x38000841,  # sttrb w1, [x2]
    0xF8636841,  # ldr x1, [x2, x3]
    0xB8637841,  # ldr w1, [x2, x3, lsl #2]
    0x3863C841,  # ldrb w1, [x2, w3, sxtw]
    0x58000041,  # ldr x1, .+8
    0x98FFFFE1,  # ldrsw x1, .-4
    0xC8DFFC41,  # ldar x1, [x2]
    0x089FFC41,  # stlrb w1, [x2]
    0xB8BFC041,  # ldapr w1, [x2]
    0x199FF041,  # ldapursb x1, [x2, #-1]
    0x99005041,  # stlur w1, [x2, #5]
)
# Store, size, signed, 64 bits, register, address, unprivileged.
EXPECTED = [
    (False, 8, False, True, 1, X[2], False),
    (False, 4, False, False, 1, X[2] + 8, False),
    (False, 1, False, False, 1, X[2] + 3, False),
    (False, 1, True, False, 1, X[2], False),
    (False, 2, True, True, 1, X[2] + 2, False),
    (False, 4, True, True, 1, X[2] + 4, False),
    (True, 8, False, True, XZR, SP + 16, False),
    (True, 2, False, False, 1, X[2] + 6, False),
    (False, 8, False, True, 1, X[2] - 9, False),
    (False, 8, False, True, 1, X[2] + 8, True),
    (True, 1, False, False, 1, X[2], True),
    (False, 8, False, True, 1, X[2] + X[3], False),
    (False, 4, False, False, 1, X[2] + 4 * X[3], False),
    (False, 1, False, False, 1, X[2] + X[3], False),
    (False, 8, False, True, 1, PC + 8, False),
    (False, 4, True, True, 1, PC - 4, False),
    (False, 8, False, True, 1, X[2], False),
    (True, 1, False, False, 1, X[2], False),
    (False, 4, False, False, 1, X[2], False),
    (False, 1, True, True, 1, X[2] - 1, False),
    (True, 4, False, False, 1, X[2] + 5, False),
]


@pytest.mark.parametrize(("word", "expected"), list(zip(DESCRIBED, EXPECTED, strict=True)))
def test_a_load_or_store_of_one_register_is_described(word: int, expected: tuple[Any, ...]) -> None:
    found = decode(word)
    assert found is not None
    assert found.described
    shown = (found.store, found.size, found.signed, found.wide, found.register, found.address(CPU, PC))
    assert (*shown, found.unprivileged) == expected


NOT_DESCRIBED = (
    0xF8408441,  # ldr x1, [x2], #8
    0xF8408C41,  # ldr x1, [x2, #8]!
    0x38001441,  # strb w1, [x2], #1
    0xA9410C41,  # ldp x1, x3, [x2, #16]
    0x293F0C41,  # stp w1, w3, [x2, #-8]
    0xA8C10C41,  # ldp x1, x3, [x2], #16
    0xA9BF0C41,  # stp x1, x3, [x2, #-16]!
    0x69400C41,  # ldpsw x1, x3, [x2]
    0xA8400C41,  # ldnp x1, x3, [x2]
    0xFD400441,  # ldr d1, [x2, #8]
    0x3D800441,  # str q1, [x2, #16]
    0x9C000081,  # ldr q1, .+16
    0xBC403041,  # ldur s1, [x2, #3]
    0x3CE37841,  # ldr q1, [x2, x3, lsl #4]
    0xAD410C41,  # ldp q1, q3, [x2, #32]
    0xC85F7C41,  # ldxr x1, [x2]
    0xC8037C41,  # stxr w3, x1, [x2]
    0xC87F8C41,  # ldaxp x1, x3, [x2]
    0xC8E1FC43,  # casal x1, x3, [x2]
    0x48247C46,  # casp x4, x5, x6, x7, [x2]
    0xF8210043,  # ldadd x1, x3, [x2]
    0x38218043,  # swpb w1, w3, [x2]
    0x4C407041,  # ld1 {v1.16b}, [x2]
    0x0C9F0041,  # st4 {v1.8b, v2.8b, v3.8b, v4.8b}, [x2], #32
    0xD50B7422,  # dc zva, x2
)
PLACES = [
    *((False, X[2]), (False, X[2] + 8), (True, X[2])),
    *((False, X[2] + 16), (True, X[2] - 8), (False, X[2]), (True, X[2] - 16), (False, X[2]), (False, X[2])),
    *((False, X[2] + 8), (True, X[2] + 16), (False, PC + 16), (False, X[2] + 3), (False, X[2] + 16 * X[3])),
    *((False, X[2] + 32), (False, X[2]), (True, X[2]), (False, X[2]), (False, X[2]), (False, X[2])),
    *((False, X[2]), (False, X[2]), (False, X[2]), (True, X[2]), (True, X[2])),
]


@pytest.mark.parametrize(("word", "place"), list(zip(NOT_DESCRIBED, PLACES, strict=True)))
def test_others_are_not_and_have_an_address(word: int, place: tuple[bool, int]) -> None:
    found = decode(word)
    assert found is not None
    assert not found.described
    assert (found.store, found.address(CPU, PC)) == place


OTHERS = (
    0x8B030041,  # add x1, x2, x3
    0xF9800040,  # prfm pldl1keep, [x2]
    0xF8800040,  # prfum pldl1keep, [x2]
    0x14000000,  # b .
    0xD50B7E22,  # dc civac, x2
    0x1E632841,  # fadd d1, d2, d3
    0xD5380001,  # mrs x1, midr_el1
)


@pytest.mark.parametrize("word", OTHERS)
def test_what_does_not_access_memory_is_none(word: int) -> None:
    assert decode(word) is None


@given(st.integers(0, (1 << 32) - 1))
def test_no_word_is_too_strange(word: int) -> None:
    found = decode(word)
    if found is not None:
        assert 0 <= found.address(CPU, PC) < 1 << 64
        assert found.size in {1, 2, 4, 8, 16, 32, 64, 128}
        if found.described:
            assert found.size <= 8
    call(word)
    system_instruction(word)


def test_calls_have_their_immediate() -> None:
    words = (0xD4000061, 0xD4000002, 0xD4000023, 0xD42000E0, 0xD4400000, 0xD65F03C0)
    expected = [("svc", 3), ("hvc", 0), ("smc", 1), ("brk", 7), ("hlt", 0), None]
    assert [call(word) for word in words] == expected
