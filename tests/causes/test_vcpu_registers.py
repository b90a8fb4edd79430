# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of a register's request becomes, and what it says."""

from __future__ import annotations

import errno
import re

import pytest

from kvmipa import HostProfile, Reg, errors
from kvmipa.causes.vcpu_registers import _NEEDS, _VALUES, RegisterAttempt, finalize_error, reg_list_error, release_of
from kvmipa.registers import IDS
from kvmipa.vcpu import VcpuFeature
from tests.causes.naming import assert_names

PSCI, SVE, PMU = VcpuFeature.PSCI_0_2, VcpuFeature.SVE, VcpuFeature.PMU_V3
CORE = 0x6030_0000_0010_0000


def read(register: str | int, features: int | None = PSCI) -> RegisterAttempt:
    return RegisterAttempt(Reg.of(register), None, features, "6.12.117")


def write(register: str | int, value: int = 7, features: int | None = PSCI) -> RegisterAttempt:
    return read(register, features)._replace(value=value)


@pytest.mark.parametrize(
    ("attempt", "code", "kind", "cause", "fix"),
    [
        (read("PC", None), errno.ENOEXEC, errors.VcpuNotInitialisedError, "is not initialised", "call init() first"),
        (read("Z0", SVE), errno.EPERM, errors.SveNotFinalisedError, "not final", "call finalize() after init()"),
        (write("SVE_VLS", 1, SVE), errno.EPERM, errors.SveFinalisedError, "are final", "between init() and finalize()"),
        (read("SVE_VLS", SVE), errno.EPERM, errors.SveNotFinalisedError, "not final", "call finalize()"),
        (write("STD_BMAP"), errno.EBUSY, errors.RegisterFrozenError, "STD_BMAP stays", "and the first run"),
        (write("ID_AA64PFR0_EL1"), errno.EBUSY, errors.RegisterFrozenError, "ID_AA64PFR0_EL1 stays", "the first run"),
        # ENOENT
        (read("ESR_EL2"), errno.ENOENT, errors.NoSuchRegisterError, "a guest hypervisor's", "VcpuFeature.HAS_EL2"),
        (read("DACR32_EL2"), errno.ENOENT, errors.NoSuchRegisterError, "it is of AArch32", "32-bit guests"),
        (read("PMCR_EL0"), errno.ENOENT, errors.NoSuchRegisterError, "it is the PMU's", "VcpuFeature.PMU_V3"),
        (read("PMCR_EL0", PMU), errno.ENOENT, errors.NoSuchRegisterError, "PMCR_EL0 on Linux 6.12.117", "reg_list()"),
        (read("PMSCR_EL1"), errno.ENOENT, errors.NoSuchRegisterError, "PMSCR_EL1 on Linux 6.12.117", "reg_list()"),
        (read("ZCR_EL1"), errno.ENOENT, errors.NoSuchRegisterError, "it is SVE's", "VcpuFeature.SVE"),
        (read("P3"), errno.ENOENT, errors.NoSuchRegisterError, "it is SVE's", "VcpuFeature.SVE"),
        (read("APGAKEYHI_EL1"), errno.ENOENT, errors.NoSuchRegisterError, "pointer authentication", "PTRAUTH_GENERIC"),
        (read("TFSRE0_EL1"), errno.ENOENT, errors.NoSuchRegisterError, "memory tagging", "KVM_CAP_ARM_MTE"),
        (read("CCSIDR_9"), errno.ENOENT, errors.NoSuchRegisterError, "no such cache", "CLIDR_EL1"),
        (read("ICC_SRE_EL1"), errno.ENOENT, errors.NoSuchRegisterError, "the vGIC's", "ask the vGIC"),
        (read(CORE | 300), errno.ENOENT, errors.NoSuchRegisterError, "index 300", "kvmipa.Reg"),
        (read(0x6020_0000_0013_C080), errno.ENOENT, errors.NoSuchRegisterError, "4 bytes", "kvmipa.Reg"),
        # EINVAL
        (read(CORE | 3), errno.EINVAL, errors.RegisterIdError, "within X1, which begins at 2", "kvmipa.Reg.X1"),
        (read(CORE | 215), errno.EINVAL, errors.RegisterIdError, "within FPCR, which begins at 213", "kvmipa.Reg.FPCR"),
        (read(CORE | 212), errno.EINVAL, errors.RegisterIdError, "FPSR has 8 bytes, but it has 4", "kvmipa.Reg.FPSR"),
        (read(1), errno.EINVAL, errors.RegisterIdError, "0x1 is not the id", "kvmipa.Reg"),
        (read("V1", SVE), errno.EINVAL, errors.RegisterIdError, "has no V1", "Z register of the same number"),
        (read(0x6030_0000_0015_0000), errno.EINVAL, errors.RegisterIdError, "of SVE", "kvmipa.Reg"),
        (write("PSTATE"), errno.EINVAL, errors.RegisterValueError, "bits 4:0 of PSTATE", "0x3c5"),
        (write("PSCI_VERSION"), errno.EINVAL, errors.RegisterValueError, "version of PSCI", "VcpuFeature.PSCI_0_2"),
        (write("SMCCC_ARCH_WORKAROUND_2"), errno.EINVAL, errors.RegisterValueError, "_WORKAROUND_2 would", "lower it"),
        (write("VENDOR_HYP_BMAP_2"), errno.EINVAL, errors.RegisterValueError, "VENDOR_HYP_BMAP_2 is of", "clear"),
        (write("SVE_VLS", 2, SVE), errno.EINVAL, errors.RegisterValueError, "vector lengths", "from the top"),
        (write("CCSIDR_0"), errno.EINVAL, errors.InvariantRegisterError, "geometry of a cache", "read it"),
        (write("CTR_EL0"), errno.EINVAL, errors.InvariantRegisterError, "CTR_EL0 says what", "lower fields only"),
        (write("S3_0_C0_C7_7"), errno.EINVAL, errors.InvariantRegisterError, "S3_0_C0_C7_7 says", "lower fields only"),
        (write("SCTLR_EL1"), errno.EINVAL, errors.RegisterValueError, "SCTLR_EL1 cannot have", "read it"),
        # others
        (read("X0"), errno.EINVAL, errors.RegisterError, "Invalid argument", "kernel log"),
        (read("X0"), errno.ENOMEM, errors.RegisterError, "memory", "kernel log"),
        (read("X0"), errno.EBADF, errors.ClosedError, "this Vcpu is closed", "with block"),
        (read("X0"), errno.EIO, errors.OtherProcessError, "this Vcpu belongs", "after fork"),
    ],
    ids=lambda value: str(value.register) if isinstance(value, RegisterAttempt) else None,
)
def test_register_that_was_refused(
    attempt: RegisterAttempt, code: int, kind: type[errors.KvmError], cause: str, fix: str
) -> None:
    error = attempt.error(code)
    ioctl = "KVM_GET_ONE_REG" if attempt.value is None else "KVM_SET_ONE_REG"
    assert_names(error, kind, code, ioctl)
    assert error.argument == (None if kind is errors.ClosedError else attempt.register)
    assert cause in error.cause
    assert fix in error.fix
    assert "{" not in str(error)


def test_message_says_what_was_asked() -> None:
    assert str(write("SCTLR_EL1", 0x30).error(errno.EINVAL)) == (
        "SCTLR_EL1 cannot have this value (KVM_SET_ONE_REG(0x603000000013c080): EINVAL)\n"
        "  asked:     SCTLR_EL1 = 0x30\n"
        "  fix:       read it, and change what is to be another"
    )
    assert read("HCR_EL2").error(errno.ENOENT).asked == "HCR_EL2"


def test_names_that_are_explained_are_names() -> None:
    """A pattern that fits no register explains nothing."""
    for pattern in [*(need.names for need in _NEEDS), *(names for names, _ in _VALUES)]:
        assert [name for name in IDS if re.fullmatch(pattern, name)], pattern


@pytest.mark.parametrize(
    ("feature", "code", "kind", "words"),
    [
        (4, errno.EINVAL, errors.VcpuFeatureError, "no SVE"),
        (3, errno.EINVAL, errors.VcpuFeatureError, "feature 3 is none"),
        (4, errno.EPERM, errors.SveFinalisedError, "finalize() was called"),
        (4, errno.ENOEXEC, errors.VcpuNotInitialisedError, "not initialised"),
        (4, errno.EBADF, errors.ClosedError, "this Vcpu is closed"),
        (4, errno.ENOMEM, errors.VcpuError, "memory"),
    ],
)
def test_feature_that_was_not_finalised(feature: int, code: int, kind: type[errors.KvmError], words: str) -> None:
    error = finalize_error(code, feature)
    assert_names(error, kind, code, "KVM_ARM_VCPU_FINALIZE", words)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOEXEC, errors.VcpuNotInitialisedError),
        (errno.EPERM, errors.SveNotFinalisedError),
        (errno.E2BIG, errors.RegisterError),
        (errno.EIO, errors.OtherProcessError),
    ],
)
def test_list_that_was_not_given(code: int, kind: type[errors.KvmError]) -> None:
    error = reg_list_error(code)
    assert_names(error, kind, code, "KVM_GET_REG_LIST")


def test_release_is_the_answering_kernels() -> None:
    assert release_of(HostProfile.preset("qemu-max-6.12-4k")) == "6.12"
    assert re.match(r"\d+\.\d+", release_of(None))
