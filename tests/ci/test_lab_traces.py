# SPDX-License-Identifier: Apache-2.0
"""The traces of real kernels: what is done on them."""

from __future__ import annotations

import sys

import pytest

from ci.lab import traces
from ci.lab.trace_list.making import Host
from kvmipa import HostProfile, abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.trace import Begin, Ioctl, Trace, replay, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are done on Linux")

HOSTS = ("qemu-max-5.10-4k", "qemu-cortex-a53-6.1-4k", "qemu-max-6.12-16k", "qemu-max-7.3-4k", "qemu-max-6.12-4k-pkvm")
VERSION_2 = HostProfile(release="6.12", gic="v2")


@pytest.mark.parametrize("name", HOSTS)
def test_what_is_done_replays_on_the_emulation(name: str) -> None:
    profile = HostProfile.preset(name)
    taken = run(traces.operations(Host.of(profile)), EmulatedBackend(profile))
    again = Trace.of_text(taken.text())
    assert again.text() == taken.text()
    assert [str(difference) for difference in replay(again, EmulatedBackend(profile))] == []


@pytest.mark.parametrize("name", HOSTS)
def test_vms_are_of_sizes_that_are_closed_soon(name: str) -> None:
    host = Host.of(HostProfile.preset(name))
    assert max(host.sizes) <= (44 if host.page_size == 4096 else 42)
    assert set(host.sizes) >= {32, 36, 40}
    assert host.top_size == (52 if name == "qemu-max-6.12-4k-pkvm" else min(host.limit, host.top_size))


def test_parts_have_names_of_their_own() -> None:
    names = [it.name for it in traces.operations(Host.of(VERSION_2)) if isinstance(it, Begin)]
    assert len(names) == len(set(names))


def test_gicv2_is_traced_where_there_is_one() -> None:
    def creations(profile: HostProfile) -> int:
        parts = (it.name for it in traces.operations(Host.of(profile)) if isinstance(it, Begin))
        return sum("GICv2" in name for name in parts)

    assert creations(VERSION_2) > 10
    assert creations(HostProfile(release="6.12")) == 0


def test_no_request_of_a_trace_runs_a_vcpu() -> None:
    requests = {
        it.number for it in traces.operations(Host.of(VERSION_2)) if isinstance(it, Ioctl) and "vcpu" in str(it.on)
    }
    assert requests
    assert abi.KVM_RUN not in requests
