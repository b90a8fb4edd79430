# SPDX-License-Identifier: Apache-2.0
"""The KVM ABI by name: requests, capabilities, constants and structs that csrc/kvm_abi.h declares.

Import the names from here; kvmipa/_abi_table.py is their generated home.

>>> hex(KVM_CREATE_VM), KVM_CAP_ARM_VM_IPA_SIZE
('0xae01', 165)
>>> request_name(0xae03), capability_name(165), capability_name(299)
('KVM_CHECK_EXTENSION', 'KVM_CAP_ARM_VM_IPA_SIZE', '299')
>>> ONE_REG.size
16
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from kvmipa._abi_table import *  # noqa: F403  the table is this module's content
from kvmipa._abi_table import CAPABILITIES, REQUESTS, STRUCTS

VCPU_INIT: Final = Struct(STRUCTS["vcpu_init"][0])
ONE_REG: Final = Struct(STRUCTS["one_reg"][0])


def request_name(request: int) -> str:
    """Name of an ioctl request, or its number in hexadecimal where kvmipa has no name for it."""
    for name, number in REQUESTS.items():
        if number == request:
            return name
    return hex(request)


def capability_name(cap: int) -> str:
    """Name of a capability, or its number where kvmipa has no name for it."""
    for name, number in CAPABILITIES.items():
        if number == cap:
            return name
    return str(cap)
