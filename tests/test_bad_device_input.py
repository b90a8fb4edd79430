# SPDX-License-Identifier: Apache-2.0
"""What does not fit a request on devices and vCPUs: refused before the kernel is asked, naming the field."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import device
from tests.device_asking import ADDR, DIST, NR_IRQS, REGION, TIMER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm, Vcpu, Vgic, Vm

CANARY = b"\xa5" * 64


@pytest.fixture
def vm(kvm: Kvm) -> Iterator[Vm]:
    """A VM of 36 bits."""
    with kvm.create_vm(36) as made:
        yield made


@pytest.fixture
def vcpu(vm: Vm) -> Iterator[Vcpu]:
    """A vCPU of it."""
    with vm.create_vcpu(0) as made:
        yield made


@pytest.fixture
def vgic(vm: Vm) -> Iterator[Vgic]:
    """A vGICv3 of it."""
    if not vm.has_device_type("vgic-v3"):
        pytest.skip("the host has no GICv3")
    with vm.create_device("vgic-v3") as made:
        assert isinstance(made, device.Vgic)
        yield made


def wrong(bits: int, *more: tuple[Any, type[Exception]]) -> list[Any]:
    """Values that a field of so many bits does not have, and what they raise."""
    values = [(-1, OverflowError), (1 << bits, OverflowError), (1 << 64, OverflowError), (1.5, TypeError), *more]
    return [pytest.param(*value, id=str(value[0])) for value in values]


TEXT = ("a", TypeError)
NOTHING = (None, TypeError)


@pytest.mark.parametrize(("value", "kind"), wrong(32, ("a", ValueError), NOTHING))
def test_type_of_a_device(vm: Vm, value: Any, kind: type[Exception]) -> None:
    for ask in (vm.create_device, vm.has_device_type):
        with pytest.raises(kind):
            ask(value)


@pytest.mark.parametrize(("value", "kind"), wrong(32, TEXT, NOTHING))
def test_flags_of_a_device(vm: Vm, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="flags"):
        vm.create_device("vgic-v3", flags=value)


@pytest.mark.parametrize(("value", "kind"), wrong(64, TEXT, NOTHING))
def test_address_of_a_device(vm: Vm, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="addr"):
        vm.set_device_addr(0, value)
    with pytest.raises(kind, match="id"):
        vm.set_device_addr(value, 0)


@pytest.mark.parametrize(("value", "kind"), wrong(32, TEXT, NOTHING))
def test_id_of_a_vcpu_is_never_masked(vm: Vm, value: Any, kind: type[Exception]) -> None:
    # Up to 6.1, the kernel takes the lower half (kvm_vm_ioctl_create_vcpu of virt/kvm/kvm_main.c has a u32).
    with pytest.raises(kind, match="vcpu_id"):
        vm.create_vcpu(value)
    vm.create_vcpu(0).close()


@pytest.mark.parametrize(
    ("value", "kind"),
    wrong(32, TEXT, ((3,), TypeError), (None, TypeError)),
)
def test_features_of_a_vcpu(vcpu: Vcpu, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        vcpu.init(value)
    vcpu.init()


@pytest.mark.parametrize(("value", "kind"), wrong(32, TEXT))
def test_target_of_a_vcpu(vcpu: Vcpu, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="target"):
        vcpu.init(target=value)


@pytest.mark.parametrize("field", ["group", "attr", "addr"])
@pytest.mark.parametrize(("value", "kind"), wrong(64, TEXT, NOTHING))
def test_numbers_of_an_attribute(vcpu: Vcpu, field: str, value: Any, kind: type[Exception]) -> None:
    numbers = {"group": TIMER, "attr": 0, "addr": 0, field: value}
    for ask in (vcpu.set_attr_raw, vcpu.get_attr_raw):
        with pytest.raises(kind, match=field):
            ask(*numbers.values())
    if field != "addr":
        for request in (vcpu.set_attr, vcpu.get_attr, vcpu.has_attr):
            with pytest.raises(kind, match=field):
                request(numbers["group"], numbers["attr"])


@pytest.mark.parametrize("value", [1 << 32, (1 << 64) - 1])
def test_group_of_an_attribute_has_32_bits(vcpu: Vcpu, value: int) -> None:
    with pytest.raises(OverflowError, match=f"group={value} does not fit 32 bits"):
        vcpu.has_attr(value, 0)


@pytest.mark.parametrize("size", [0, -1, 65, 1 << 64])
def test_size_that_no_value_has(vgic: Vgic, size: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 64 bytes, not {size}"):
        vgic.get_attr(ADDR, DIST, size)
    with pytest.raises(ValueError, match=f"1 to 64 bytes, not {size}"):
        vgic.set_attr(NR_IRQS, 0, 64, size=size)
    assert vgic.nr_irqs == 32


@pytest.mark.parametrize(("value", "kind"), [(-1, OverflowError), (1 << 32, OverflowError), TEXT, (1.5, TypeError)])
def test_number_that_the_value_does_not_have(vgic: Vgic, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="value"):
        vgic.set_attr(NR_IRQS, 0, value, size=4)
    with pytest.raises(kind, match="given"):
        vgic.get_attr(ADDR, REGION, 4, given=value)


@pytest.mark.parametrize("index", [4096, -1, -4095, 1 << 32])
def test_index_of_a_region_is_never_masked(vgic: Vgic, index: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 4095, not {index}"):
        vgic.add_redistributor_region(0x900_0000, 1, index=index)
    assert vgic.redistributor_regions == []


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Puts something behind the memory of each value: the areas, as (memory, length of the value's)."""
    areas: list[Any] = []

    def address_of(buffer: bytearray) -> int:
        area = ctypes.create_string_buffer(bytes(buffer) + CANARY, len(buffer) + len(CANARY))
        areas.append((area, len(buffer)))
        return ctypes.addressof(area)

    monkeypatch.setattr(device, "address_of", address_of)
    return areas


@pytest.mark.parametrize("size", [1, 2, 4, 7, 8, 64])
def test_kernel_writes_nothing_behind_a_value_that_is_too_short(vgic: Vgic, behind: list[Any], size: int) -> None:
    vgic.get_attr(ADDR, DIST, size)
    ((area, length),) = behind
    # It was written: the address is not set, which is 2^64 - 1.
    assert area.raw[:8] == b"\xff" * 8
    assert area.raw[length:] == CANARY


@pytest.mark.parametrize("content", [b"", b"\0", b"\0\0\x80\x08"])
def test_short_bytes_are_padded_with_zeros(vgic: Vgic, behind: list[Any], content: bytes) -> None:
    vgic.set_attr(ADDR, DIST, content)
    ((area, length),) = behind
    assert area.raw[:length] == content.ljust(64, b"\0")
    assert vgic.get_attr(ADDR, DIST) is not None


def test_lower_bytes_of_a_value(vgic: Vgic) -> None:
    vgic.set_distributor(0x1234_0000)
    found = [vgic.get_attr(ADDR, DIST, size) for size in (1, 3, 4, 8, 64)]
    assert found == [0, 0x34_0000, 0x1234_0000, 0x1234_0000, 0x1234_0000]
