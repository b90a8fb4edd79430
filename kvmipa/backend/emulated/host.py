# SPDX-License-Identifier: Apache-2.0
"""HostProfile: the machine and the kernel to emulate."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.release import Behaviour, behaviour
from kvmipa.id_registers import field as id_field
from kvmipa.machine_type import DEFAULT_IPA_BITS, MIN_IPA_BITS, TypeRules
from kvmipa.stage2 import ipa_limit as arm
from kvmipa.stage2.geometry import PAGE_SIZES, Geometry
from kvmipa.stage2.vtcr import Vtcr, vtcr_el2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvmipa.system import Kvm

THP: Final = ("always", "madvise", "never")
MODES: Final = ("vhe", "nvhe", "protected", "nested", "none")
GICS: Final = ("v2", "v3")

# arch/arm64/Kconfig: CONFIG_ARM64_VA_BITS by page size.
VA_BITS: Final = {4096: (39, 48, 52), 16384: (36, 47, 48, 52), 65536: (42, 48, 52)}

# The one erratum that changes stage 2: Ampere One's access flag cannot be trusted (kernel-ipa-spec 1.9).
AC03_CPU_38: Final = "AC03_CPU_38"


@dataclass(frozen=True)
class HostProfile:
    """An arm64 machine and the kernel that runs on it: all that the emulated KVM's answers depend on.

    release: "4.19" to "7.3"; without a point release the last one of the stable line. page_size: bytes. id_aa64*: the
    registers as the kernel sanitised them over all CPUs, 64-bit values. pa_bits, va_bits: CONFIG_ARM64_PA_BITS (48 or
    52) and CONFIG_ARM64_VA_BITS; None takes the largest PA and the usual VA that the release has for the page size.
    mode: how KVM runs; a mode that the release does not know is ignored by it, as kvm-arm.mode is. gic: "v2" or "v3"
    with virtualisation, None without. cpus: online CPUs. fwb: FEAT_S2FWB; dic: CTR_EL0.DIC; hw_afdbm:
    CONFIG_ARM64_HW_AFDBM. thp: transparent huge pages, as /sys/kernel/mm/transparent_hugepage/enabled has them.
    registers: more of the host's, as a vCPU with every feature has them at first, by the id of KVM_GET_ONE_REG; they
    come before the fields. name, source: of a preset: what it is called and where its numbers are from.

    Raises ValueError for what no such machine or kernel has, TypeError for values of the wrong type.

    >>> HostProfile(release="6.1", id_aa64mmfr0_el1=0x1124).ipa_limit
    44
    """

    release: str = "6.12"
    page_size: int = 4096
    id_aa64mmfr0_el1: int = 0x32310201126
    id_aa64mmfr1_el1: int = 0x20
    pa_bits: int | None = None
    va_bits: int | None = None
    mode: str = "vhe"
    gic: str | None = "v3"
    cpus: int = 2
    fwb: bool = True
    dic: bool = False
    hw_afdbm: bool = True
    errata: frozenset[str] = frozenset()
    thp: str = "always"
    midr_el1: int = 0
    id_aa64pfr0_el1: int = 0x11
    id_aa64pfr1_el1: int = 0
    id_aa64dfr0_el1: int = 0x6
    id_aa64isar1_el1: int = 0
    id_aa64isar2_el1: int = 0
    registers: Mapping[int, int] = field(default_factory=dict, hash=False)
    name: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check every field."""
        behaviour(self.release)
        _one_of("page_size", self.page_size, PAGE_SIZES)
        _one_of("mode", self.mode, MODES)
        _one_of("gic", self.gic, (*GICS, None))
        _one_of("thp", self.thp, THP)
        for name in self.__dataclass_fields__:
            if name.startswith("id_aa64"):
                _within(name, getattr(self, name), 0, (1 << 64) - 1)
        _within("midr_el1", self.midr_el1, 0, (1 << 64) - 1)
        _within("cpus", self.cpus, 1, 4096)
        for name in ("fwb", "dic", "hw_afdbm"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is True or False, not {getattr(self, name)!r}")
        self._check_open_field("pa_bits", self._pa_choices)
        self._check_open_field("va_bits", self._va_choices)
        object.__setattr__(self, "errata", frozenset(self.errata))
        object.__setattr__(self, "registers", MappingProxyType(dict(self.registers)))
        for register, content in self.registers.items():
            _within("registers", register, 0, (1 << 64) - 1)
            _within(f"registers[{register:#x}]", content, 0, (1 << 2048) - 1)
        unknown = self.errata - {AC03_CPU_38}
        if unknown:
            raise ValueError(f"errata {sorted(unknown)}: kvmipa knows {AC03_CPU_38}")

    def _check_open_field(self, name: str, allowed: tuple[int, ...]) -> None:
        value = getattr(self, name)
        if value is not None and (value not in allowed or isinstance(value, float)):
            raise ValueError(
                f"{name}={value!r}: Linux {self.release} with pages of {self.page_size} bytes has "
                f"{' or '.join(map(str, allowed))}"
            )

    @property
    def behaviour(self) -> Behaviour:
        """What sets the kernel's release apart."""
        return behaviour(self.release)

    @property
    def effective_mode(self) -> str:
        """The mode that the kernel runs in: a kvm-arm.mode that it does not know, it ignores."""
        known = self.behaviour
        understood = {"protected": known.mode_protected, "none": known.mode_none, "nested": known.mode_nested}
        return self.mode if understood.get(self.mode, True) else "vhe"

    @property
    def pkvm(self) -> bool:
        """Whether the kernel runs in protected mode."""
        return self.effective_mode == "protected"

    @property
    def lpa2(self) -> bool:
        """Whether stage 2 uses LPA2: CPU, page size and release have it."""
        return self.behaviour.lpa2 and arm.lpa2(self.id_aa64mmfr0_el1, self.page_size)

    @property
    def obstacle(self) -> str | None:
        """Why KVM does not start, so that there is no /dev/kvm; None where it does (kernel-ipa-spec 1.1)."""
        known = self.behaviour
        if self.effective_mode == "none":
            return "kvm-arm.mode=none"
        granule = arm.stage2_granule_value(self.id_aa64mmfr0_el1, self.page_size)
        if known.checks_stage2_granule and granule not in arm.USABLE_GRANULES[known.accepts_new_stage2_granules]:
            return f"stage 2 has no {self.page_size >> 10}K pages on this CPU (ID_AA64MMFR0_EL1.TGran*_2)"
        if self.effective_mode == "nested" and self.gic != "v3" and known.nested_needs_gicv3:
            return "kvm-arm.mode=nested needs a GICv3"
        return None

    @property
    def starts_kvm(self) -> bool:
        """Whether there is a /dev/kvm."""
        return self.obstacle is None

    @property
    def config_pa_bits(self) -> int:
        """CONFIG_ARM64_PA_BITS: pa_bits, or the largest that the release has for the page size."""
        return self.pa_bits or self._pa_choices[-1]

    @property
    def config_va_bits(self) -> int:
        """CONFIG_ARM64_VA_BITS: va_bits, or the usual one."""
        return self.va_bits or (52 if self.behaviour.wide_4k_16k_kernels else 48)

    @property
    def _pa_choices(self) -> tuple[int, ...]:
        wide = self.page_size == 65536 or self.behaviour.wide_4k_16k_kernels
        return (48, 52) if wide else (48,)

    @property
    def _va_choices(self) -> tuple[int, ...]:
        wide = self.page_size == 65536 or self.behaviour.wide_4k_16k_kernels
        return VA_BITS[self.page_size] if wide else tuple(bits for bits in VA_BITS[self.page_size] if bits < 52)

    @property
    def mmfr0(self) -> int:
        """ID_AA64MMFR0_EL1 as stage 2 reads it: before 5.10 PARange had three bits (kernel-ipa-spec 1.4, 3.3)."""
        return self.id_aa64mmfr0_el1 if self.behaviour.host_independent_limit else self.id_aa64mmfr0_el1 & ~0x8

    @property
    def ipa_limit(self) -> int | None:
        """What KVM_CAP_ARM_VM_IPA_SIZE answers, in bits; None: no such capability, or no /dev/kvm.

        >>> HostProfile(mode="none").ipa_limit is None
        True
        """
        known = self.behaviour
        if not (known.ipa_size and self.starts_kvm):
            return None
        pa_bits = self.config_pa_bits
        if not known.host_independent_limit:
            return arm.legacy_ipa_limit(self.mmfr0, self.page_size, pa_bits=pa_bits, va_bits=self.config_va_bits)
        return arm.ipa_limit(
            self.mmfr0, self.page_size, pa_bits=pa_bits, has_lpa2=self.lpa2, cap_48=known.caps_at_48_without_lpa2
        )

    @property
    def type_rules(self) -> TypeRules:
        """How KVM_CREATE_VM judges machine types here."""
        known = self.behaviour
        return TypeRules(
            limit=self.ipa_limit,
            checks_default=known.rejects_unsupported_default,
            protected_bit=known.protected_type,
            pkvm=self.pkvm,
            size_ignored=self.pkvm and known.pkvm_ignores_size,
        )

    def vtcr_el2(self, ipa_bits: int) -> int:
        """The VTCR_EL2 that a VM of ipa_bits runs with.

        Raises ValueError where this host makes no such VM.

        >>> hex(HostProfile.preset("qemu-cortex-a57-6.12-4k").vtcr_el2(44))
        '0x80243594'
        """
        limit = self.ipa_limit
        if limit is None:
            raise ValueError(f"Linux {self.release} in mode {self.mode!r} has no IPA sizes to choose from")
        if self.type_rules.size_ignored and ipa_bits != limit:
            raise ValueError(f"this pKVM host gives every VM its limit of {limit} IPA bits, never {ipa_bits}")
        legacy_default = ipa_bits == DEFAULT_IPA_BITS and not self.behaviour.rejects_unsupported_default
        if not MIN_IPA_BITS <= ipa_bits <= limit and not legacy_default:
            raise ValueError(f"this host makes VMs of 32 to {limit} IPA bits, not {ipa_bits}")
        return self.stage2_register(ipa_bits).value

    def stage2_register(self, ipa_bits: int) -> Vtcr:
        """VTCR_EL2 of a VM of ipa_bits, whether or not this host would make one."""
        known = self.behaviour
        ps = arm.clamped_parange(self.mmfr0, self.page_size, pa_bits=self.config_pa_bits, has_lpa2=self.lpa2)
        if self.type_rules.size_ignored:
            # The guest runs with the host's own register: its input size is the clamped PARange, which is below the
            # limit with 64K pages and a 48-bit kernel on a 52-bit CPU, and nowhere else (kernel-ipa-spec 1.7).
            ipa_bits = min(ipa_bits, arm.parange_bits(ps, self.config_pa_bits))
        return vtcr_el2(
            Geometry(self.page_size, ipa_bits),
            ps=ps,
            vmid_16bit=id_field("ID_AA64MMFR1_EL1", "VMIDBits", self.id_aa64mmfr1_el1) == 2,
            ha=not known.ha_is_optional or (self.hw_afdbm and AC03_CPU_38 not in self.errata),
            ds=self.lpa2,
        )

    @staticmethod
    def presets() -> Mapping[str, HostProfile]:
        """The machines and kernels that kvmipa knows by name."""
        from kvmipa.backend.emulated.presets import presets

        return presets()

    @classmethod
    def preset(cls, name: str) -> HostProfile:
        """A preset by its name, "PRESET@RELEASE" with another kernel; ValueError, with near names, where there is none.

        >>> HostProfile.preset("apple-m1@5.10").release
        '5.10'
        """
        from kvmipa.backend.emulated.presets import AT, with_release

        known = cls.presets()
        machine, at, release = str(name).partition(AT)
        if at and machine in known:
            return with_release(known[machine], release)
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(str(name), known, n=3, cutoff=0.4) or sorted(known)[:3]
            raise ValueError(f"no host preset {name!r}; near: {', '.join(near)} (all of them: kvmipa hosts)")
        return known[name]

    @classmethod
    def of(cls, kvm: Kvm) -> HostProfile:
        """The profile of the host behind an open Kvm, as far as it shows.

        On the native backend a VM and a vCPU are made for a moment: ID registers are read through them. What a host
        does not show keeps its default. Raises KvmError where KVM refuses that.
        """
        from kvmipa.backend.emulated.reading import read_profile

        return read_profile(kvm)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed or isinstance(value, (bool, float)):
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def _within(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name}={value:#x}: expected {low} to {high:#x}")
