# SPDX-License-Identifier: Apache-2.0
"""The system calls of a trace, as people read them."""

from __future__ import annotations

import json

import pytest

from kvmipa.conformance.reports.system_calls import calls, excerpt


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            {
                "run": "vcpu0",
                "result": 6,
                "wrote": {"exit": {"kind": "Mmio", "is_write": False, "phys_addr": "0xa000020", "size": 8}},
            },
            "KVM_RUN(vcpu0) = 6, exit Mmio{is_write=False, phys_addr=0xa000020, size=8}",
        ),
        ({"run": "vcpu0", "result": "EFAULT"}, "KVM_RUN(vcpu0) = EFAULT"),
        ({"write": "mem1+0x10", "data": {"zlib": "eJztWU" * 99, "size": 5268}}, "write(mem1+0x10, (5268 bytes)) = 0"),
        (
            {"write": "mem1+0x10", "data": {"hex": "ab" * 104}},
            f"write(mem1+0x10, {'ab' * 32}... (104 bytes)) = 0",
        ),
        (
            {"ioctl": "KVM_GET_DIRTY_LOG", "on": "vm0", "argument": {"struct": "dirty_log"}, "wrote": {"1+0": "21"}},
            "ioctl(vm0, KVM_GET_DIRTY_LOG, dirty_log{}) = 0, wrote 1+0: 21",
        ),
        (
            {"ioctl": "KVM_CREATE_VM", "on": "kvm", "argument": 31, "result": "new"},
            "ioctl(kvm, KVM_CREATE_VM, 31) = ok",
        ),
        ({"close": "vm0"}, "close(vm0) = 0"),
        ({"note": "it is cut"}, "# it is cut"),
    ],
)
def test_a_call_is_a_line(line: dict[str, object], expected: str) -> None:
    assert calls(f'{{"kvmipa_trace":1}}\n{json.dumps(line)}\n') == [expected]


@pytest.mark.parametrize(
    ("total", "after", "expected"),
    [
        (3, [], ["0", "1", "2"]),
        (14, [], ["0", "1", "2", "(2 calls)", *map(str, range(5, 14))]),
        (9, [2, 9], ["0", "1", "(1 call)", *map(str, range(3, 9))]),
        (0, [4], []),
    ],
)
def test_an_excerpt_has_what_matters(total: int, after: list[int], expected: list[str]) -> None:
    assert list(excerpt([str(number) for number in range(total)], after)) == expected
