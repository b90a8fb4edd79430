# SPDX-License-Identifier: Apache-2.0
"""A claim: one thing that KVM is said to keep, and how it is found out whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.conformance.target import Target

#: The kernel's API document promises it, or it is what every kernel that was looked at does.
CONTRACT: Final = "contract"
IMPLEMENTATION: Final = "implementation"


@dataclass(frozen=True)
class Claim:
    """One claim.

    id: "C5" as in kernel-ipa-spec 10, "V.." for the vGIC, "I.." for the implementation. name: dotted, the same for
    ever, for machines that read reports ("machine_type.valid_sizes"). text: the claim in one or two sentences. source:
    document and section, or the kernel's function. how: how it is tested, in a sentence. since: the first release that
    it is about. kind: CONTRACT or IMPLEMENTATION. guest: whether a guest has to run. rests_on: ids of claims whose
    failure makes this one fail too. check: looks, and tells the target what it expected and what came.
    """

    id: str
    name: str
    text: str
    source: str
    how: str
    check: Callable[[Target], None]
    kind: str = CONTRACT
    since: str = "4.20"
    guest: bool = False
    rests_on: tuple[str, ...] = ()
