# SPDX-License-Identifier: Apache-2.0
"""Machines and kernels by name, each with where its numbers are from."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kvmipa.backend.emulated.host import HostProfile
from kvmipa.id_registers import with_field

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# QEMU 7.2's CPU models as Linux 6.12 sanitises them, read through a vCPU (tests/data/recordings/6.12__*.jsonl; the
# Cortex-A76's in 6.12-16k__cortex-a76.jsonl). The lab has one CPU, and a GICv3.
QEMU_CPUS: Final[dict[str, dict[str, Any]]] = {
    "max": {
        "id_aa64mmfr0_el1": 0x323_1020_1126,
        "id_aa64mmfr1_el1": 0x110_1021_1122,
        "id_aa64pfr0_el1": 0x1101_0011_2111_0222,
        "id_aa64pfr1_el1": 0x21,
        "id_aa64dfr0_el1": 0x1030_5609,
        "id_aa64isar1_el1": 0x11_1111_1021_1102,
        "fwb": True,
        "mode": "vhe",
    },
    "max-nolpa2": {
        "id_aa64mmfr0_el1": 0x222_0010_1126,
        "id_aa64mmfr1_el1": 0x110_1021_1122,
        "id_aa64pfr0_el1": 0x1101_0011_2111_0222,
        "id_aa64pfr1_el1": 0x21,
        "id_aa64dfr0_el1": 0x1030_5609,
        "id_aa64isar1_el1": 0x11_1111_1021_1102,
        "fwb": True,
        "mode": "vhe",
    },
    "cortex-a35": {
        "id_aa64mmfr0_el1": 0x10_1122,
        "id_aa64mmfr1_el1": 0,
        "id_aa64pfr0_el1": 0x1100_0000_0100_0222,
        "id_aa64dfr0_el1": 0x1030_5106,
        "fwb": False,
        "mode": "nvhe",
    },
    "cortex-a53": {
        "midr_el1": 0x410F_D034,
        "id_aa64mmfr0_el1": 0x1122,
        "id_aa64mmfr1_el1": 0,
        "id_aa64pfr0_el1": 0x1100_0000_0100_0222,
        "id_aa64dfr0_el1": 0x1030_5106,
        "fwb": False,
        "mode": "nvhe",
    },
    "cortex-a57": {
        "midr_el1": 0x411F_D070,
        "id_aa64mmfr0_el1": 0x1124,
        "id_aa64mmfr1_el1": 0,
        "id_aa64pfr0_el1": 0x1000_0000_0100_0222,
        "id_aa64dfr0_el1": 0x1030_5106,
        "fwb": False,
        "mode": "nvhe",
    },
    "cortex-a72": {
        "id_aa64mmfr0_el1": 0x1124,
        "id_aa64mmfr1_el1": 0,
        "id_aa64pfr0_el1": 0x1000_0000_0100_0222,
        "id_aa64dfr0_el1": 0x1030_5106,
        "fwb": False,
        "mode": "nvhe",
    },
    "cortex-a76": {
        "id_aa64mmfr0_el1": 0x10_1122,
        "id_aa64mmfr1_el1": 0x1021_2122,
        "id_aa64pfr0_el1": 0x1100_0000_1111_0112,
        "id_aa64pfr1_el1": 0x10,
        "id_aa64dfr0_el1": 0x1030_5408,
        "id_aa64isar1_el1": 0x10_0001,
        "fwb": False,
        "mode": "vhe",
    },
    "a64fx": {
        "id_aa64mmfr0_el1": 0x1122,
        "id_aa64mmfr1_el1": 0x1121_2100,
        "id_aa64pfr0_el1": 0x1_0111_0111,
        "id_aa64dfr0_el1": 0x1030_5408,
        "id_aa64isar1_el1": 0x1_0001,
        "fwb": False,
        "mode": "vhe",
    },
    "neoverse-n1": {
        "id_aa64mmfr0_el1": 0x10_1125,
        "id_aa64mmfr1_el1": 0x1021_2122,
        "id_aa64pfr0_el1": 0x1100_0000_1111_0112,
        "id_aa64pfr1_el1": 0x20,
        "id_aa64dfr0_el1": 0x1030_5408,
        "id_aa64isar1_el1": 0x10_0001,
        "fwb": False,
        "mode": "vhe",
    },
}

# The 16K granule is not in these models, so a 16K kernel does not boot on them.
NO_16K: Final = frozenset(("cortex-a53", "cortex-a57", "cortex-a72", "a64fx"))

# Release, page size, CONFIG_ARM64_PA_BITS, CONFIG_ARM64_VA_BITS of Debian's arm64 kernels (their configuration files);
# and of one with 64K pages, which the lab builds from Debian's sources.
KERNELS: Final = (
    ("5.10", 4096, 48, 48),
    ("6.1", 4096, 48, 48),
    ("6.12", 4096, 52, 52),
    ("6.12", 16384, 52, 52),
    ("6.12", 65536, 52, 52),
    ("7.3", 4096, 52, 52),
    ("7.3", 16384, 52, 52),
)

# Limits that no CPU model of QEMU has: a Cortex-A53 with another PARange. Such models were booted with these kernels
# and gave limits of 32, 36 and 42 bits.
PARANGES: Final = {"p32": 0, "p36": 1, "p42": 3}

BOARDS: Final[dict[str, dict[str, Any]]] = {
    "raspberry-pi-4": {
        **QEMU_CPUS["cortex-a72"],
        "release": "6.12",
        "gic": "v2",
        "cpus": 4,
        "source": "4 Cortex-A72 (registers of QEMU's model, recording 6.12__cortex-a72) with a GIC-400",
    },
    "raspberry-pi-5": {
        **QEMU_CPUS["cortex-a76"],
        "release": "6.12",
        "page_size": 16384,
        "gic": "v2",
        "cpus": 4,
        "source": "4 Cortex-A76 (registers of QEMU's model, recording 6.12-16k__cortex-a76) with a GIC-400; 16K pages",
    },
    "apple-m1": {
        "id_aa64mmfr0_el1": 0x1212_0F10_0001,
        "id_aa64mmfr1_el1": 0x1121_2100,
        "id_aa64pfr0_el1": 0x1101_0000_1011_0111,
        "id_aa64pfr1_el1": 0x20,
        "id_aa64dfr0_el1": 0x1030_5F09,
        "id_aa64isar1_el1": 0x111_1021_1202,
        "fwb": True,
        "dic": False,
        "release": "6.12",
        "page_size": 16384,
        "pa_bits": 48,
        "va_bits": 48,
        "cpus": 8,
        "source": "registers (FWB and DIC too): VirtualBox's CPU database, Apple M1; 16K pages: Asahi Linux",
    },
}

# What ``kvmipa conform --host all`` runs each machine with: the ends of what kvmipa knows, every long-term kernel whose
# behaviour differs from its neighbours', and 4.20, which brought IPA sizes.
RELEASES: Final = ("4.19", "4.20", "5.4", "5.10", "6.1", "6.12", "7.3")

# Between a preset's name and a release that takes the place of its own.
AT: Final = "@"


@lru_cache(maxsize=1)
def presets() -> Mapping[str, HostProfile]:
    """Every preset by its name."""
    found = {profile.name: profile for profile in (*_qemu(), *_qemu_pkvm(), *_other_paranges(), *_boards())}
    return MappingProxyType(found)


def _qemu() -> Iterator[HostProfile]:
    for release, page_size, pa_bits, va_bits in KERNELS:
        kernel = {"release": release, "page_size": page_size, "pa_bits": pa_bits, "va_bits": va_bits}
        for cpu, registers in QEMU_CPUS.items():
            if page_size != 16384 or cpu not in NO_16K:
                yield _in_the_lab(cpu, f"QEMU's {cpu} (recorded)", kernel | registers)


def _qemu_pkvm() -> Iterator[HostProfile]:
    for release, bits in (("6.1", 48), ("6.12", 52)):
        kernel = {"release": release, "page_size": 4096, "pa_bits": bits, "va_bits": bits}
        yield _in_the_lab("max", "QEMU's max (recorded)", kernel | QEMU_CPUS["max"] | {"mode": "protected"})


def _other_paranges() -> Iterator[HostProfile]:
    for name, parange in PARANGES.items():
        registers = dict(QEMU_CPUS["cortex-a53"])
        registers["id_aa64mmfr0_el1"] = with_field(
            "ID_AA64MMFR0_EL1", "PARange", registers["id_aa64mmfr0_el1"], parange
        )
        for release, bits in (("5.10", 48), ("6.1", 48), ("6.12", 52), ("7.3", 52)):
            kernel = {"release": release, "page_size": 4096, "pa_bits": bits, "va_bits": bits}
            yield _in_the_lab(f"cortex-a53-{name}", f"QEMU's cortex-a53 with PARange {parange}", kernel | registers)


def _in_the_lab(cpu: str, machine: str, fields: dict[str, Any]) -> HostProfile:
    """A machine as the lab has it: one CPU, and one of the lab's kernels."""
    pkvm = "-pkvm" if fields["mode"] == "protected" else ""
    built = "a build with 64K pages of Debian's" if fields["page_size"] == 65536 else "Debian's"
    return HostProfile(
        name=f"qemu-{cpu}-{fields['release']}-{fields['page_size'] >> 10}k{pkvm}",
        source=f"{machine}, {built} {fields['release']} kernel{' in protected mode' if pkvm else ''}",
        cpus=1,
        **fields,
    )


def _boards() -> Iterator[HostProfile]:
    for name, fields in BOARDS.items():
        yield HostProfile(name=name, **fields)


def with_release(machine: HostProfile, release: str) -> HostProfile:
    """A machine with another kernel release; sizes and a mode that the release does not have become those that it has.

    Raises ValueError for what is no release.

    >>> moved = with_release(HostProfile.preset("qemu-max-6.12-4k"), "5.10")
    >>> moved.name, moved.config_pa_bits, moved.ipa_limit
    ('qemu-max-6.12-4k@5.10', 48, 48)
    """
    if release == machine.release:
        return machine
    of_release = HostProfile(release=release, page_size=machine.page_size, mode=machine.mode)
    return replace(
        machine,
        release=release,
        name=f"{machine.name}{AT}{release}",
        source=f"{machine.source}; but with Linux {release}, as kvmipa's table of releases has it",
        mode=of_release.effective_mode,
        pa_bits=min(machine.config_pa_bits, of_release.config_pa_bits),
        va_bits=min(machine.config_va_bits, of_release.config_va_bits),
    )


@lru_cache(maxsize=1)
def every_host() -> Mapping[str, HostProfile]:
    """Every machine of the presets with every release of RELEASES, by release; no two of them are the same.

    One that is a preset has the preset's name, the others "PRESET@RELEASE".

    >>> hosts = every_host()
    >>> len(hosts) == len(set(hosts.values())), "qemu-max-6.12-4k" in hosts, "apple-m1@5.4" in hosts
    (True, True, True)
    """
    found: dict[HostProfile, HostProfile] = {}
    for release in RELEASES:
        at_home = (machine for machine in presets().values() if machine.release == release)
        moved = (with_release(machine, release) for machine in presets().values() if machine.release != release)
        for host in (*at_home, *moved):
            found.setdefault(host, host)
    return MappingProxyType({host.name: host for host in found.values()})


@cache
def machine_name(host: str) -> tuple[str, str]:
    """The machine and the release of a host: the name of a preset without its release, and that.

    A kernel for fewer address bits than the release can have is another machine: "-pa48".

    >>> machine_name("qemu-max-5.10-4k@6.1"), machine_name("qemu-max-5.10-4k@7.3")
    (('qemu-max-4k', '6.1'), ('qemu-max-4k-pa48', '7.3'))
    """
    profile = HostProfile.preset(host)
    base = host.partition(AT)[0]
    name = base.replace(f"-{presets()[base].release}-", "-")
    widest = HostProfile(release=profile.release, page_size=profile.page_size).config_pa_bits
    narrow = f"-pa{profile.config_pa_bits}" if name != base and profile.config_pa_bits < widest else ""
    return name + narrow, profile.release
