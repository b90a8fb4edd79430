# SPDX-License-Identifier: Apache-2.0
"""Every trace of a real kernel, replayed on the emulation of the same host: no difference is allowed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kvmipa import abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.trace import Begin, Ioctl, Step, Trace, replay

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are done on Linux")

DATA = Path(__file__).parent / "data"
TRACES = sorted((DATA / "traces").glob("*.jsonl.gz"))
REGRESSIONS = sorted((DATA / "traces" / "regressions").glob("*.jsonl"))

# What a vCPU answers to these comes from a run or from its registers, which are not in traces.
OF_A_VCPU = {"KVM_RUN", "KVM_GET_ONE_REG", "KVM_SET_ONE_REG"}

# A trace of each page size, release and GIC.
COVERED = ("5.10__max", "6.1__max", "6.12__max", "6.12-16k__max", "6.12-64k-lab__max", "7.3__max", "6.12__max__gicv2")

# Requests that every kernel has and that a VM can make good use of before it runs.
SUCCEED = {
    *("KVM_CREATE_VM", "KVM_CREATE_VCPU", "KVM_CREATE_DEVICE", "KVM_SET_USER_MEMORY_REGION", "KVM_IOEVENTFD"),
    *("KVM_IRQFD", "KVM_IRQ_LINE", "KVM_SET_GSI_ROUTING", "KVM_GET_DIRTY_LOG", "KVM_CLEAR_DIRTY_LOG"),
    *("KVM_SET_DEVICE_ATTR", "KVM_GET_DEVICE_ATTR", "KVM_HAS_DEVICE_ATTR", "KVM_ENABLE_CAP", "KVM_ARM_VCPU_INIT"),
}


def name_of(path: object) -> str:
    """A trace's name; pytest asks it of its own placeholder too, where there are no traces."""
    return path.name.partition(".jsonl")[0] if isinstance(path, Path) else "none"


@pytest.mark.parametrize("path", [*TRACES, *REGRESSIONS], ids=name_of)
def test_emulation_does_as_the_real_kernel_did(path: Path) -> None:
    trace = Trace.read(path)
    assert [str(difference) for difference in replay(trace, EmulatedBackend(trace.profile))] == []


def test_every_recorded_configuration_is_traced() -> None:
    recorded = {path.stem for path in (DATA / "recordings").glob("*.jsonl")}
    assert recorded <= {name_of(path) for path in TRACES}


@pytest.mark.parametrize("name", COVERED)
def test_trace_covers_every_request_and_subject(name: str) -> None:
    trace = Trace.read(DATA / "traces" / f"{name}.jsonl.gz")
    done = [step for step in trace.steps if isinstance(step.operation, Ioctl)]
    requests = {step.operation.number for step in done if isinstance(step.operation, Ioctl)}
    assert {number for name, number in abi.REQUESTS.items() if name not in OF_A_VCPU} <= requests
    good = {request_of(step) for step in done if isinstance(step.result.value, str) or step.result.value >= 0}
    assert good >= SUCCEED
    parts = {operation.name.partition(":")[0] for operation in trace.operations if isinstance(operation, Begin)}
    assert parts == {"memory", "devices", "vcpus", "interrupts", "descriptors"}
    assert len(trace.steps) > 5000


def request_of(step: Step) -> str:
    """The name of a step's request."""
    assert isinstance(step.operation, Ioctl)
    return abi.request_name(step.operation.number)
