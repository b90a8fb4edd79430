# SPDX-License-Identifier: Apache-2.0
"""What differs between kernel releases, as data: one row for each change of behaviour."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final

OLDEST: Final = (4, 19)
NEWEST: Final = (7, 3)

# 4.20 was followed by 5.0, and so on.
LAST_MINOR: Final = {4: 20, 5: 19, 6: 19, 7: 3}

# A release named without its point release means the last one of its stable line.
LAST_POINT_RELEASE: Final = 1 << 30


@dataclass(frozen=True)
class Change:
    """A change of behaviour: since which release, and from which point release the older stable lines have it too."""

    name: str
    since: tuple[int, int]
    source: str
    backports: tuple[tuple[int, int, int], ...] = ()

    def applies(self, release: tuple[int, int, int]) -> bool:
        """Whether a release has it."""
        line, point = release[:2], release[2]
        return line >= self.since or any(line == stable[:2] and point >= stable[2] for stable in self.backports)


# Where a source says "between": the row holds the earliest release in which the change was read in a tree; the ones in
# between are not verified. Recordings of real kernels (tests/data) confirm the rows for 5.10, 6.1, 6.12 and 7.3.
CHANGES: Final = (
    Change("ipa_size", (4, 20), "kernel-ipa-spec 0.1: KVM_CAP_ARM_VM_IPA_SIZE and sizes in the machine type"),
    Change("host_independent_limit", (5, 10), "1.4: stage 2 has its own page-table code, no clamp by host VA and PA"),
    Change("checks_stage2_granule", (5, 10), "1.4: TGran*_2 read when KVM starts; first release between 5.5 and 5.10"),
    Change(
        "accepts_new_stage2_granules",
        (5, 12),
        "0.2: TGran*_2 values 3..7 are usable too [unverified: first release]",
        backports=((5, 10, 24),),
    ),
    Change(
        "rejects_unsupported_default",
        (5, 12),
        "0.2: commit 7d717558dd5e, March 2021; point releases of the stable lines from the changelogs [list]",
        backports=((5, 4, 106), (5, 10, 24)),
    ),
    Change(
        "caps_at_48_without_lpa2",
        (5, 15),
        "0.2: 4K and 16K stop at 48 bits; in 5.10.262 and 5.10.223, first point release unverified",
        backports=((5, 10, 223),),
    ),
    Change("mode_protected", (6, 1), "1.1: kvm-arm.mode does not exist in 5.10; first release in between unverified"),
    Change("mode_none", (6, 1), "1.1: as mode_protected"),
    Change("mode_nested", (6, 12), "1.8: first release in between unverified"),
    Change("descriptor_first", (6, 1), "2.4: the descriptor is reserved before the VM is built; between 5.10 and 6.1"),
    Change("ha_is_optional", (6, 1), "3.1: VTCR_EL2.HA only with CONFIG_ARM64_HW_AFDBM and without AC03_CPU_38"),
    Change("pkvm_ignores_size", (6, 2), "1.7: every VM of a pKVM host gets its limit; read in 6.12"),
    Change("lpa2", (6, 8), "1.4: 52 bits with 4K and 16K pages; merged for 6.8, read in 6.12"),
    Change("wide_4k_16k_kernels", (6, 9), "3.3: CONFIG_ARM64_PA_BITS_52 with 4K and 16K pages; read in 6.12"),
    Change("forgets_trace_requests", (6, 12), "1.3: KVM_TRACE_* are unknown requests; between 6.1 and 6.12"),
    Change("protected_type", (7, 3), "2.1: KVM_VM_TYPE_ARM_PROTECTED; after 6.12, read in 7.3"),
    Change(
        "nested_needs_gicv3",
        (7, 3),
        "kvm-arm.mode=nested with a GICv2: 7.3.4 says 'NV support requires GICv3' and has no /dev/kvm; 6.12.117 starts",
    ),
    Change("pkvm_reserves_vms", (7, 3), "2.3: a pKVM host has room for 255 VMs; read in 7.3"),
)


@dataclass(frozen=True)
class Behaviour:
    """Which changes a release has; CHANGES says what each means and where that is from."""

    ipa_size: bool
    host_independent_limit: bool
    checks_stage2_granule: bool
    accepts_new_stage2_granules: bool
    rejects_unsupported_default: bool
    caps_at_48_without_lpa2: bool
    mode_protected: bool
    mode_none: bool
    mode_nested: bool
    descriptor_first: bool
    ha_is_optional: bool
    pkvm_ignores_size: bool
    lpa2: bool
    wide_4k_16k_kernels: bool
    forgets_trace_requests: bool
    protected_type: bool
    nested_needs_gicv3: bool
    pkvm_reserves_vms: bool


def parse(release: str) -> tuple[int, int, int]:
    """The numbers of a release as uname or a package name gives it; what follows them is ignored.

    "5.10.0-32-arm64" is a distribution's name, with an ABI number where the point release would be: it stands for the
    last one of its stable line. Raises ValueError where it is no release from 4.19 to 7.3.

    >>> parse("6.12.117+deb13-arm64-16k"), parse("5.10.0"), parse("5.10.0-32-arm64") == parse("5.10")
    ((6, 12, 117), (5, 10, 0), True)
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+)(-\d)?)?", release) if isinstance(release, str) else None
    if match is None:
        raise ValueError(f"{release!r} is not a kernel release such as '6.12' or '5.10.223'")
    line = int(match[1]), int(match[2])
    if not OLDEST <= line <= NEWEST or line[1] > LAST_MINOR[line[0]]:
        raise ValueError(f"kernel release {release!r}: kvmipa knows Linux 4.19 to 7.3")
    abi_name = match[3] == "0" and match[4]
    return (*line, int(match[3]) if match[3] and not abi_name else LAST_POINT_RELEASE)


def nearest(release: str) -> str:
    """The release itself, or the newest one that kvmipa knows where it is newer than that.

    >>> nearest("6.12.117"), nearest("7.9.1")
    ('6.12.117', '7.3')
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) > NEWEST:
        return ".".join(map(str, NEWEST))
    return release


@lru_cache(maxsize=64)
def behaviour(release: str) -> Behaviour:
    """The behaviour of a release.

    >>> behaviour("5.10").rejects_unsupported_default, behaviour("5.10.0").rejects_unsupported_default
    (True, False)
    """
    numbers = parse(release)
    has = {change.name: change.applies(numbers) for change in CHANGES}
    return Behaviour(**{field.name: has[field.name] for field in fields(Behaviour)})
