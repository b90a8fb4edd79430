# SPDX-License-Identifier: Apache-2.0
"""A vCPU's registers on either kernel: by name, by id and as attributes (kernel-device-spec 4.3, 4.5)."""

from __future__ import annotations

import ctypes
import errno
import signal
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import Reg, abi, errors
from kvmipa.id_registers import FIELDS, decode
from kvmipa.registers import IDS, RegKind
from kvmipa.vcpu import Vcpu, VcpuFeature
from kvmipa.vcpu_registers import OneRegister
from tests.device_asking import release_of
from tests.test_device import refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm, Vm

PSCI = VcpuFeature.PSCI_0_2
ALL_ONES = (1 << 64) - 1


@pytest.fixture
def vcpu(vm: Vm) -> Iterator[Vcpu]:
    """A vCPU that is initialised, without features but PSCI."""
    with vm.create_vcpu(0) as created:
        created.init()
        yield created


def everything(vm: Vm) -> int:
    """All features that this host has for a guest without an EL2."""
    features = {
        abi.KVM_CAP_ARM_PMU_V3: VcpuFeature.PMU_V3,
        abi.KVM_CAP_ARM_SVE: VcpuFeature.SVE,
        abi.KVM_CAP_ARM_PTRAUTH_ADDRESS: VcpuFeature.PTRAUTH_ADDRESS | VcpuFeature.PTRAUTH_GENERIC,
    }
    return PSCI | sum(feature for cap, feature in features.items() if vm.check_extension(cap))


@pytest.fixture
def full(vm: Vm) -> Iterator[Vcpu]:
    """A vCPU with all features, finalised."""
    with vm.create_vcpu(0) as created:
        features = everything(vm)
        created.init(features)
        if features & VcpuFeature.SVE:
            created.finalize()
        yield created


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("name", ["X0", "X30", "SP", "PC", "SP_EL1", "ELR_EL1", "TPIDR_EL0", "TTBR0_EL1", "FAR_EL1"])
def test_what_was_written_is_read(vcpu: Vcpu, name: str) -> None:
    reg = Reg.parse(name)
    for value in (0, 1 << 63, 0x0123_4567_89AB_CDE0, ALL_ONES):
        vcpu.set(reg, value)
        assert [vcpu.get(which) for which in (reg, name.lower(), reg.id)] == [value] * 3


def test_registers_of_other_sizes(vcpu: Vcpu) -> None:
    vcpu.set(Reg.V7, 1 << 127 | 5)
    vcpu.set(Reg.FPSR, 0x0800_009F)
    assert (vcpu.get(Reg.V7), vcpu.get(Reg.V6), vcpu.get(Reg.FPSR)) == (1 << 127 | 5, 0, 0x0800_009F)


def test_registers_after_init(vcpu: Vcpu) -> None:
    regs = vcpu.regs
    assert (regs.pc, regs.pstate, regs.mpidr_el1, regs.vbar_el1) == (0, 0x3C5, 1 << 31, 0)
    assert regs.x[:] == [0] * 31
    assert regs.sctlr_el1 & 1 == 0


def test_view_reads_and_writes(vcpu: Vcpu) -> None:
    regs = vcpu.regs
    regs.pc, regs.sp, regs.sp_el1 = 0x4000_0000, 0x10, 0x20
    regs.x[3] = 33
    regs.x[-1] = 30
    regs.v[31] = 1 << 100
    regs.vbar_el1 = 0x800
    assert [vcpu.get(reg) for reg in (Reg.PC, Reg.SP, Reg.SP_EL1)] == [0x4000_0000, 0x10, 0x20]
    assert (regs.x[3], regs.lr, regs.x[2:5], regs.v[31], regs.sp_el0) == (33, 30, [0, 33, 0], 1 << 100, 0x10)
    assert list(regs.x) == [0, 0, 0, 33, *[0] * 26, 30]
    assert (len(regs.x), len(regs.v), vcpu.get("VBAR_EL1")) == (31, 32, 0x800)


def test_view_of_what_there_is_not(vcpu: Vcpu) -> None:
    regs: Any = vcpu.regs
    with pytest.raises(AttributeError, match=r"'sctrl_el1'.*did you mean SCTLR_EL1"):
        _ = regs.sctrl_el1
    with pytest.raises(AttributeError, match="did you mean"):
        regs.pcc = 1
    with pytest.raises(IndexError, match=r"x\[31\]: they are 0 to 30"):
        _ = regs.x[31]
    with pytest.raises(IndexError, match="they are 0 to 31"):
        regs.v[32] = 1
    with pytest.raises(AttributeError):
        regs.x = 1
    assert not hasattr(regs, "_private")
    assert {"pc", "x", "sctlr_el1"} <= set(dir(regs))
    assert "Vcpu" in repr(regs)
    assert "x[30]" in repr(regs.x)


# ------------------------------------------------------------------------------------------------ the list


def has_a_name(reg: Reg) -> bool:
    """Or is an ID register that is not allocated: those have none in the architecture, and KVM lists them."""
    return reg.name in IDS or (reg.encoding is not None and reg.encoding[:3] == (3, 0, 0) and 1 <= reg.encoding[3] <= 7)


def test_every_register_that_the_kernel_lists_has_a_name_and_a_value(full: Vcpu) -> None:
    listed = full.reg_list()
    assert [hex(reg) for reg in listed if not has_a_name(reg)] == []
    assert len(set(listed)) == len(listed) > 200
    assert {Reg.X0, Reg.PC, Reg.SCTLR_EL1, Reg.ID_AA64MMFR0_EL1, Reg.PSCI_VERSION} <= set(listed)
    assert {reg.kind for reg in listed} <= set(RegKind) - {RegKind.UNKNOWN}
    for reg in listed:
        assert 0 <= full.get(reg) < 1 << 8 * reg.size


def test_list_is_asked_for_again_with_the_room_that_the_kernel_names(
    vcpu: Vcpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvmipa import vcpu_state

    expected = vcpu.reg_list()
    for room in (0, 1, len(expected) - 1, len(expected), len(expected) + 1):
        monkeypatch.setattr(vcpu_state, "_REGISTERS", room)
        assert vcpu.reg_list() == expected


def test_list_that_grows_every_time_comes_to_an_end(vcpu: Vcpu, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = []

    class Growing:
        def ioctl_buffer(self, _fd: int, _request: int, buffer: bytearray) -> int:
            rooms.append(struct.unpack_from("=Q", buffer)[0])
            struct.pack_into("=Q", buffer, 0, rooms[-1] + 1)
            return -errno.E2BIG

    monkeypatch.setattr(vcpu, "_backend", Growing())
    with pytest.raises(errors.RegisterError) as caught:
        vcpu.reg_list()
    assert caught.value.errno == errno.E2BIG
    assert rooms == list(range(rooms[0], rooms[0] + len(rooms)))
    assert 2 < len(rooms) < 20
    monkeypatch.undo()


def test_id_registers_are_decoded(full: Vcpu) -> None:
    for name in FIELDS:
        # Some are hidden, or of later kernels.
        if Reg.parse(name) in full.reg_list():
            found = decode(Reg.parse(name), full.get(name))
            assert found.value == full.get(name)
            assert found.reserved & ~(1 << 31) == 0
    assert decode(Reg.ID_AA64PFR0_EL1, full.get(Reg.ID_AA64PFR0_EL1)).fields["EL1"] in (1, 2)


# ------------------------------------------------------------------------------------------------ timers, firmware


def test_compare_value_of_the_virtual_timer_is_not_its_counter(vcpu: Vcpu) -> None:
    vcpu.regs.cntv_cval_el0 = 0x1234_5678_9ABC
    assert vcpu.regs.cntv_cval_el0 == 0x1234_5678_9ABC
    first = vcpu.regs.cntvct_el0
    assert vcpu.regs.cntvct_el0 >= first != 0x1234_5678_9ABC


def test_firmware_registers(kvm: Kvm, vcpu: Vcpu) -> None:
    assert vcpu.get(Reg.PSCI_VERSION) >= 0x1_0000
    vcpu.set(Reg.PSCI_VERSION, 2)
    assert vcpu.get("psci_version") == 2
    with refused(errors.RegisterValueError, errno.EINVAL, "not a version of PSCI", "PSCI_VERSION = 0x1\n"):
        vcpu.set(Reg.PSCI_VERSION, 1)
    if release_of(kvm) < (6, 1):
        with refused(errors.NoSuchRegisterError, errno.ENOENT, "came after Linux 5.10", "run a newer kernel"):
            vcpu.get(Reg.STD_BMAP)
    else:
        vcpu.set(Reg.STD_BMAP, 0)
        assert vcpu.get(Reg.STD_BMAP) == 0
        with refused(errors.RegisterValueError, errno.EINVAL, "a bit of STD_BMAP is of a hypercall"):
            vcpu.set(Reg.STD_BMAP, 1 << 63)


# ------------------------------------------------------------------------------------------------ SVE


def with_sve(vm: Vm) -> Vcpu:
    if not vm.check_extension(abi.KVM_CAP_ARM_SVE):
        pytest.skip("this host has no SVE")
    vcpu = vm.create_vcpu(0)
    vcpu.init(PSCI | VcpuFeature.SVE)
    return vcpu


def test_vectors_of_sve(vm: Vm) -> None:
    with with_sve(vm) as vcpu:
        with refused(errors.SveNotFinalisedError, errno.EPERM, "its vector lengths are not final", "call finalize()"):
            vcpu.get(Reg.Z0)
        with refused(errors.SveNotFinalisedError, errno.EPERM, "KVM_GET_REG_LIST", "call finalize()"):
            vcpu.reg_list()
        lengths = vcpu.get(Reg.SVE_VLS)
        vcpu.set(Reg.SVE_VLS, lengths)
        with refused(errors.RegisterValueError, errno.EINVAL, "exactly these vector lengths"):
            vcpu.set(Reg.SVE_VLS, 0)
        vcpu.finalize(VcpuFeature.SVE)
        size = lengths.bit_length() * 128
        vcpu.regs.z[5] = (1 << size) - 1
        vcpu.regs.p[15] = 0xAA55
        assert (vcpu.regs.z[5], vcpu.regs.p[15]) == ((1 << size) - 1, 0xAA55)
        assert vcpu.get(Reg.SVE_VLS) == lengths
        assert {Reg.Z0, Reg.P0, Reg.FFR, Reg.SVE_VLS} <= set(vcpu.reg_list())
        with refused(errors.RegisterIdError, errno.EINVAL, "has no V5", "Z register"):
            vcpu.get(Reg.V5)
        with refused(errors.SveFinalisedError, errno.EPERM, "are final", "SVE_VLS"):
            vcpu.set(Reg.SVE_VLS, lengths)
        with refused(errors.SveFinalisedError, errno.EPERM, "KVM_ARM_VCPU_FINALIZE", "feature 4"):
            vcpu.finalize()


def test_vcpu_without_sve(vcpu: Vcpu) -> None:
    with refused(errors.NoSuchRegisterError, errno.ENOENT, "Z0", "it is SVE's", "init() with VcpuFeature.SVE"):
        vcpu.get(Reg.Z0)
    with refused(errors.VcpuFeatureError, errno.EINVAL, "has no SVE"):
        vcpu.finalize()
    with refused(errors.VcpuFeatureError, errno.EINVAL, "feature 9 is none that is made final"):
        vcpu.finalize(VcpuFeature.PMU_V3_STRICT)
    for several in (VcpuFeature(0), VcpuFeature.SVE | VcpuFeature.PMU_V3):
        with pytest.raises(ValueError, match="is not one feature"):
            vcpu.finalize(several)
    with pytest.raises(TypeError, match="a feature is a VcpuFeature, not int"):
        vcpu.finalize(4)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ errors


def test_before_init_there_are_no_registers(vm: Vm) -> None:
    with vm.create_vcpu(0) as vcpu:
        for ask in (
            lambda: vcpu.get(Reg.PC),
            lambda: vcpu.set(Reg.PC, 1),
            lambda: vcpu.regs.x[0],
            vcpu.reg_list,
            vcpu.finalize,
        ):
            with refused(errors.VcpuNotInitialisedError, errno.ENOEXEC, "is not initialised", "call init() first"):
                ask()


def test_register_that_the_vcpu_does_not_have(vcpu: Vcpu) -> None:
    with refused(errors.NoSuchRegisterError, errno.ENOENT, "no register HCR_EL2 on Linux", "VcpuFeature.HAS_EL2"):
        vcpu.get(Reg.HCR_EL2)
    with refused(errors.NoSuchRegisterError, errno.ENOENT, "APIAKEYLO_EL1", "PTRAUTH_ADDRESS"):
        vcpu.get(Reg.APIAKEYLO_EL1)
    with refused(errors.NoSuchRegisterError, errno.ENOENT, "ICC_PMR_EL1", "it is the vGIC's"):
        vcpu.set(Reg.ICC_PMR_EL1, 0)
    with refused(errors.NoSuchRegisterError, errno.ENOENT, "S3_7_C15_C15_7", "what reg_list() has"):
        vcpu.get("s3_7_c15_c15_7")


def test_register_that_came_with_a_later_release(kvm: Kvm, vcpu: Vcpu) -> None:
    if release_of(kvm) >= (7, 3):
        assert vcpu.get(Reg.VENDOR_HYP_BMAP_2) == 0
    else:
        words = ("no register VENDOR_HYP_BMAP_2 on Linux", "came after Linux 6.12", "run a newer kernel, such as 7.3")
        with refused(errors.NoSuchRegisterError, errno.ENOENT, *words):
            vcpu.get(Reg.VENDOR_HYP_BMAP_2)


CORE = 0x6030_0000_0010_0000


@pytest.mark.parametrize(
    ("id", "error", "code", "words"),
    [
        (CORE | 1, errors.RegisterIdError, errno.EINVAL, "no core register begins at index 1: that is within X0"),
        (CORE | 85, errors.RegisterIdError, errno.EINVAL, "index 85: that is within V0, which begins at 84"),
        (CORE - (1 << 52), errors.RegisterIdError, errno.EINVAL, "says that X0 has 4 bytes, but it has 8"),
        (CORE | 84, errors.RegisterIdError, errno.EINVAL, "says that V0 has 8 bytes, but it has 16"),
        (CORE | 500, errors.NoSuchRegisterError, errno.ENOENT, "no core register is at index 500"),
        (0x4030_0000_0010_0000, errors.RegisterIdError, errno.EINVAL, "not the id of an arm64 register"),
        (CORE | 1 << 32, errors.RegisterIdError, errno.EINVAL, "not the id of an arm64 register"),
        (0x6020_0000_0013_C080, errors.NoSuchRegisterError, errno.ENOENT, "says 4 bytes, and they have 8"),
        (0x60F0_0000_0013_C080, errors.NoSuchRegisterError, errno.ENOENT, "says 32768 bytes"),
        (0x6020_0000_0011_000E, errors.NoSuchRegisterError, errno.ENOENT, "no register 0x602000000011000e"),
        (0x6030_0000_0014_0009, errors.NoSuchRegisterError, errno.ENOENT, "no register 0x6030000000140009"),
        (0x6030_0000_0015_0000, errors.RegisterIdError, errno.EINVAL, "not the id of a register of SVE"),
        (0x6030_0000_0099_0000, errors.NoSuchRegisterError, errno.ENOENT, "0x6030000000990000"),
        (0, errors.RegisterIdError, errno.EINVAL, "0x0 is not the id"),
        (ALL_ONES, errors.RegisterIdError, errno.EINVAL, "is not the id"),
    ],
    ids=lambda value: hex(value) if isinstance(value, int) else None,
)
def test_id_that_is_no_registers(vcpu: Vcpu, id: int, error: type[errors.KvmError], code: int, words: str) -> None:
    with refused(error, code, words):
        vcpu.get(id)


def test_value_that_a_register_cannot_have(vcpu: Vcpu) -> None:
    with refused(errors.RegisterValueError, errno.EINVAL, "mode of bits 4:0", "PSTATE = 0x1f"):
        vcpu.set(Reg.PSTATE, 0x1F)
    # PARange 7 is reserved.
    value = vcpu.get(Reg.ID_AA64MMFR0_EL1) | 7
    with refused(errors.InvariantRegisterError, errno.EINVAL, "ID_AA64MMFR0_EL1 says what the host is", f"{value:#x}"):
        vcpu.set(Reg.ID_AA64MMFR0_EL1, value)
    vcpu.set(Reg.ID_AA64MMFR0_EL1, vcpu.get(Reg.ID_AA64MMFR0_EL1))


def test_what_the_guest_may_have_seen_stays(kvm: Kvm, vcpu: Vcpu) -> None:
    release = release_of(kvm)
    # The guest is not entered, but from then on the vCPU has run.
    vcpu.run(timeout=0)
    if release >= (6, 1):
        with refused(
            errors.RegisterFrozenError, errno.EBUSY, "STD_BMAP stays as it is", "between init() and the first"
        ):
            vcpu.set(Reg.STD_BMAP, 0)
    if release >= (6, 12):
        value = vcpu.get(Reg.ID_AA64MMFR0_EL1)
        with refused(errors.RegisterFrozenError, errno.EBUSY, "ID_AA64MMFR0_EL1 stays as it is"):
            vcpu.set(Reg.ID_AA64MMFR0_EL1, value & ~0xF)
        vcpu.set(Reg.ID_AA64MMFR0_EL1, value)
    vcpu.set(Reg.X0, 1)


@pytest.mark.parametrize(
    ("name", "value", "bits"),
    [("X0", 1 << 64, 64), ("PC", -1, 64), ("FPSR", 1 << 32, 32), ("V0", 1 << 128, 128), ("V0", -1, 128)],
)
def test_value_that_does_not_fit(vcpu: Vcpu, name: str, value: int, bits: int) -> None:
    with pytest.raises(OverflowError, match=f"{name}={value} does not fit {bits} bits"):
        vcpu.set(name, value)
    assert vcpu.get(name) == 0


@pytest.mark.parametrize("name", ["X0", "V0", "FPCR"])
@pytest.mark.parametrize("value", [1.0, "1", None, b"1"])
def test_value_that_is_no_int(vcpu: Vcpu, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} is an int, not {type(value).__name__}"):
        vcpu.set(name, value)


def test_what_stands_for_no_register(vcpu: Vcpu) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        vcpu.get("sctlr")
    with pytest.raises(OverflowError, match="64 bits"):
        vcpu.get(1 << 64)
    with pytest.raises(TypeError, match="a Reg, an id or a name"):
        vcpu.get(None)  # type: ignore[arg-type]


def test_closed_vcpu_says_so(vm: Vm) -> None:
    vcpu = vm.create_vcpu(0)
    vcpu.init()
    regs = vcpu.regs
    vcpu.close()
    for ask in (lambda: vcpu.get(Reg.PC), lambda: regs.pc, lambda: regs.x[0], vcpu.reg_list, vcpu.finalize):
        with refused(errors.ClosedError, errno.EBADF, "this Vcpu is closed"):
            ask()


def test_init_again_puts_the_registers_back(vcpu: Vcpu) -> None:
    vcpu.regs.pc, vcpu.regs.x[5] = 0x1000, 5
    vcpu.init()
    assert (vcpu.regs.pc, vcpu.regs.x[5]) == (0, 0)


# ------------------------------------------------------------------------------------------------ threads


def test_threads_and_signal_handlers_do_not_get_each_others_values(vcpu: Vcpu) -> None:
    wrong: list[tuple[int, int]] = []

    def hammer(number: int) -> None:
        reg = Reg.parse(f"x{number}")
        for count in range(300):
            value = number << 32 | count
            vcpu.set(reg, value)
            found = vcpu.get(reg)
            if found != value:
                wrong.append((value, found))

    def interrupt(_number: int, _frame: object) -> None:
        vcpu.set(Reg.X20, vcpu.get(Reg.X20) + 1)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        hammer(4)
        for thread in threads:
            thread.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert wrong == []


def test_request_within_a_request_has_memory_of_its_own() -> None:
    """As a signal handler's, between what one has asked and what it reads."""
    values = {Reg.X0.id: 11, Reg.X1.id: 22}
    found: list[int] = []

    def ioctl(_fd: int, _request: int, address: int) -> int:
        number, where = struct.unpack("=QQ", ctypes.string_at(address, 16))
        ctypes.c_uint64.from_address(where).value = values[number]
        if number == Reg.X0:
            found.append(access.get(3, Reg.X1))
        return 0

    access = OneRegister(ioctl)
    assert [access.get(3, Reg.X0), *found] == [11, 22]
    assert [access.get(3, Reg.X0), access.get(3, Reg.X1)] == [11, 22]


def test_memory_is_used_again() -> None:
    """Finding out the address of new memory would cost more than the request."""
    access = OneRegister(lambda _fd, request, _address: 0 if request == abi.KVM_SET_ONE_REG else -errno.EINVAL)
    access.set(3, Reg.X0, 1)
    [(memory, _)] = access._spare
    for reg in (Reg.X0, Reg.V0, Reg.FPSR, Reg.Z0):
        assert access.get(3, reg) == -errno.EINVAL
        assert [spare for spare, _ in access._spare] == [memory]
        with pytest.raises(OverflowError):
            access.set(3, reg, -1)
        assert access.set(3, reg, 1) == 0
    assert [spare is memory for spare, _ in access._spare] == [True]


@pytest.mark.parametrize("log2", range(16))
def test_kernel_that_writes_as_much_as_an_id_says_writes_into_the_memory(log2: int) -> None:
    reg = Reg(0x6000_0000_0013_0000 | log2 << 52)
    filled = b"\xa5" * (1 << log2)

    def ioctl(_fd: int, request: int, address: int) -> int:
        _, where = struct.unpack("=QQ", ctypes.string_at(address, 16))
        if request == abi.KVM_GET_ONE_REG:
            ctypes.memmove(where, filled, len(filled))
        else:
            assert ctypes.string_at(where, 1 << log2) == filled
        return 0

    access = OneRegister(ioctl)
    value = int.from_bytes(filled, "little")
    for _ in range(2):
        assert access.get(3, reg) == value
        assert access.set(3, reg, value) == 0
