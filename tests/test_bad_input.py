# SPDX-License-Identifier: Apache-2.0
"""What is no machine type, no size and no capability: the same errors on every kernel, and nothing reaches it."""

from __future__ import annotations

import errno
from enum import IntEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import MachineType, errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm

NO_INTEGERS = [True, False, 40.0, float("nan"), "40", b"40", [40], (), range(3), Fraction(40), 40j]
NO_SIZES = [-1, -40, 256, 296, 1 << 31, 1 << 32, 1 << 64, -(1 << 64)]
NO_64_BITS = [-1, -(1 << 63), 1 << 64, 1 << 100]


class Size(IntEnum):
    """An int that is not exactly an int."""

    DEFAULT = 0
    SMALLEST = 32
    TOO_WIDE = 296


def naming(values: list[Any]) -> list[Any]:
    return [pytest.param(value, id=f"{type(value).__name__} {value}") for value in values]


class Sent:
    """What went to the kernel."""

    def __init__(self) -> None:
        self.types: list[int] = []


@pytest.fixture
def sent(kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Keeps what a Kvm sends; nothing of it arrives."""
    seen = Sent()

    def keep_ioctl(_fd: int, _request: int, argument: int) -> int:
        seen.types.append(argument)
        return -errno.EINVAL

    def keep_sweep(_fd: int, types: list[int]) -> list[int]:
        seen.types += types
        return [errno.EINVAL] * len(types)

    monkeypatch.setattr(kvm, "_ioctl", keep_ioctl)
    monkeypatch.setattr(kvm._backend, "sweep_machine_types", keep_sweep)
    return seen


@pytest.fixture
def size(kvm: Kvm) -> Size:
    """A size that this kernel makes."""
    return Size.DEFAULT if kvm.host_ipa_limit is None else Size.SMALLEST


@pytest.mark.parametrize("value", naming(NO_INTEGERS))
def test_create_vm_of_what_is_no_int_is_a_type_error(kvm: Kvm, sent: Sent, value: Any) -> None:
    with pytest.raises(TypeError, match="ipa_bits is a number of bits"):
        kvm.create_vm(value)
    assert sent.types == []


@pytest.mark.parametrize("value", naming([*NO_SIZES, Size.TOO_WIDE]))
def test_create_vm_of_what_does_not_fit_the_low_byte_is_never_masked(kvm: Kvm, sent: Sent, value: int) -> None:
    with pytest.raises(errors.InvalidIpaSizeError) as caught:
        kvm.create_vm(value)
    assert isinstance(caught.value, ValueError)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.asked == f"{int(value)} bits"
    assert sent.types == []


def test_mask_of_others_is_explained() -> None:
    with pytest.raises(errors.InvalidIpaSizeError) as caught:
        MachineType(296)
    assert "masked to its low byte this would have been 40 bits" in caught.value.fix


@pytest.mark.parametrize("value", [256, -216, -1])
def test_nothing_is_said_of_a_mask_that_gives_no_size(value: int) -> None:
    with pytest.raises(errors.InvalidIpaSizeError) as caught:
        MachineType(value)
    assert "masked" not in caught.value.fix


@pytest.mark.parametrize("value", naming([*NO_INTEGERS, None]))
def test_create_vm_raw_of_what_is_no_int_is_a_type_error(kvm: Kvm, sent: Sent, value: Any) -> None:
    with pytest.raises(TypeError, match="a machine type is an int of 64 bits"):
        kvm.create_vm_raw(value)
    assert sent.types == []


@pytest.mark.parametrize("value", naming(NO_64_BITS))
def test_create_vm_raw_of_what_has_not_64_bits_is_an_overflow_error(kvm: Kvm, sent: Sent, value: int) -> None:
    with pytest.raises(OverflowError, match=r"64 bits; -?0x[0-9a-f]+ does not fit"):
        kvm.create_vm_raw(value)
    assert sent.types == []


@pytest.mark.parametrize("value", [1 << 63, (1 << 64) - 1, 256, 31])
def test_create_vm_raw_sends_every_64_bit_number_as_it_is(kvm: Kvm, sent: Sent, value: int) -> None:
    with pytest.raises(errors.CreateVmError):
        kvm.create_vm_raw(value)
    # To name the cause, the host is asked once whether it ignores sizes (type 1).
    assert sent.types == [value, 1]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        *((value, TypeError) for value in (True, 40.0, "40", None, [40])),
        *((value, OverflowError) for value in NO_64_BITS),
    ],
    ids=str,
)
@pytest.mark.parametrize("as_iterable", [list, iter, tuple], ids=["list", "iterator", "tuple"])
def test_probe_tries_nothing_where_one_type_is_bad(
    kvm: Kvm, sent: Sent, bad: Any, expected: type[Exception], as_iterable: Any
) -> None:
    with pytest.raises(expected, match="a machine type is an int of 64 bits"):
        kvm.probe_machine_types(as_iterable([0, 40, bad, 40]))
    assert sent.types == []


@pytest.mark.parametrize("value", [None, 40, 40.0])
def test_probe_of_what_cannot_be_iterated_is_a_type_error(kvm: Kvm, sent: Sent, value: Any) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        kvm.probe_machine_types(value)
    assert sent.types == []


def test_probe_of_text_is_a_type_error(kvm: Kvm, sent: Sent) -> None:
    with pytest.raises(TypeError, match="not '4'"):
        kvm.probe_machine_types("40")  # type: ignore[arg-type]
    assert sent.types == []


def test_probe_of_a_failing_iterable_tries_nothing(kvm: Kvm, sent: Sent) -> None:
    def failing() -> Iterator[int]:
        yield 0
        raise LookupError("no more types")

    with pytest.raises(LookupError, match="no more types"):
        kvm.probe_machine_types(failing())
    assert sent.types == []


def test_probe_of_nothing_is_nothing(kvm: Kvm) -> None:
    assert kvm.probe_machine_types([]) == []


NO_CAPABILITIES = [
    *((value, TypeError) for value in (1.0, float("inf"), "165", b"165", None, [165], range(3), 1j)),
    *((value, OverflowError) for value in NO_64_BITS),
]


@pytest.mark.parametrize(("value", "expected"), NO_CAPABILITIES, ids=lambda value: str(value)[:24])
def test_check_extension_of_what_is_no_64_bit_int_is_refused(kvm: Kvm, value: Any, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        kvm.check_extension(value)


@pytest.mark.parametrize(("value", "expected"), NO_CAPABILITIES, ids=lambda value: str(value)[:24])
def test_check_extension_of_a_vm_refuses_the_same(kvm: Kvm, size: Size, value: Any, expected: type[Exception]) -> None:
    with kvm.create_vm(size) as vm, pytest.raises(expected):
        vm.check_extension(value)


def test_int_of_a_subclass_is_an_int(kvm: Kvm, size: Size) -> None:
    with kvm.create_vm(size) as vm:
        assert vm.ipa_bits == (size or 40)
    with kvm.create_vm_raw(size) as vm:
        assert vm.ipa_bits == (size or 40)
    assert kvm.probe_machine_types([size, size]) == [0, 0]
    assert kvm.check_extension(size) == kvm.check_extension(int(size))


def test_bad_input_leaves_the_handle_usable(kvm: Kvm, size: Size) -> None:
    for value in (-1, True, "40"):
        with pytest.raises((TypeError, ValueError)):
            kvm.create_vm(value)  # type: ignore[arg-type]
    with kvm.create_vm(size) as vm:
        assert not vm.closed


@pytest.mark.parametrize("value", naming(NO_INTEGERS))
def test_machine_type_of_what_is_no_int_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="ipa_bits is a number of bits"):
        MachineType(value)


@pytest.mark.parametrize("value", naming([*NO_SIZES, Size.TOO_WIDE]))
def test_machine_type_of_what_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(errors.InvalidIpaSizeError):
        MachineType(value)


@pytest.mark.parametrize("value", naming([*NO_INTEGERS, None]))
def test_decoding_what_is_no_int_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="a machine type is an int of 64 bits"):
        MachineType.decode(value)


@pytest.mark.parametrize("value", naming(NO_64_BITS))
def test_decoding_what_has_not_64_bits_is_an_overflow_error(value: int) -> None:
    with pytest.raises(OverflowError, match="does not fit"):
        MachineType.decode(value)


@pytest.mark.parametrize("value", [None, 0, Size.DEFAULT])
def test_no_size_is_the_default(value: int | None) -> None:
    assert MachineType(value) == MachineType()
    assert MachineType(value).encode() == 0
