# SPDX-License-Identifier: Apache-2.0
"""Running checks: what a report has of one that fails, breaks off, looks at nothing, or is interrupted."""

from __future__ import annotations

import errno
import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvmipa import HostProfile, Kvm, abi, errors
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.conformance.claim import Claim
from kvmipa.conformance.claims import CLAIMS
from kvmipa.conformance.facts import Facts
from kvmipa.conformance.results import FAIL, PASS, SKIP
from kvmipa.conformance.runner import Nobody, run
from tests.conformance.sabotage import Saboteur

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa.conformance.results import ClaimResult
    from kvmipa.conformance.target import Target


@pytest.fixture
def host() -> Iterator[Kvm]:
    """An emulated one."""
    with Kvm(EmulatedBackend(HostProfile())) as kvm:
        yield kvm


def claim(check: Callable[[Target], None], name: str = "a.claim", since: str = "4.19") -> Claim:
    """A claim with this check."""
    return Claim("X1", name, "It is so.", "nowhere", "It is looked at.", check, since=since)


def good(on: Target) -> None:
    """Keeps what it says."""
    on.expect("one", 1, 1)


def bad(on: Target) -> None:
    """Leaves a VM open, too."""
    vm = on.kvm.create_vm(40)
    vm.set_user_memory_region(0, 0, 0x1000, 0)
    on.expect("one", 1, 2)
    vm.close()


def forgets(on: Target) -> None:
    """Does not close what it makes."""
    on.expect("a VM's size", 40, on.kvm.create_vm(40).ipa_bits)


def result(kvm: Kvm, check: Callable[[Target], None]) -> ClaimResult:
    """What comes of one check."""
    (found,) = run(kvm, [claim(check)]).results
    return found


# ------------------------------------------------------------------------------------------------ verdicts


def test_a_failure_has_both_answers_and_the_system_calls_before(host: Kvm) -> None:
    """And says after how many of them it was noticed."""
    found = result(host, bad)
    (mismatch,) = found.mismatches
    assert (found.status, mismatch.expected, mismatch.came) == (FAIL, "1", "2")
    assert found.trace is not None
    lines = found.trace.splitlines()[1:]
    assert mismatch.after is not None
    assert any("KVM_SET_USER_MEMORY_REGION" in line for line in lines[: mismatch.after])
    assert '"close"' in lines[mismatch.after]


def test_only_failures_have_a_trace(host: Kvm) -> None:
    """Reports stay small."""
    assert result(host, good).trace is None


def test_what_a_check_raises_is_a_failure(host: Kvm) -> None:
    """With what it had found before."""

    def breaks(on: Target) -> None:
        on.expect("one", 1, 2)
        on.kvm.create_vm(31)

    found = result(host, breaks)
    assert found.status == FAIL
    assert [mismatch.expected for mismatch in found.mismatches] == ["1", "it comes to its end"]
    assert "IpaSizeTooSmallError" in found.mismatches[1].came
    assert found.trace


def test_a_check_that_looks_at_nothing_fails(host: Kvm) -> None:
    """It would pass on every kernel."""
    assert result(host, lambda _on: None).status == FAIL


def test_a_mismatch_is_not_skipped(host: Kvm) -> None:
    """What was found before the check found that it cannot go on."""

    def skips(on: Target) -> None:
        on.expect("one", 1, 2)
        on.skip("there is no more")

    assert result(host, skips).status == FAIL


@pytest.mark.parametrize(
    ("release", "since", "status"),
    [("5.10", "5.11", SKIP), ("5.10.223", "5.10", PASS), ("5.10", "5.10", PASS), ("4.20", "4.20", PASS)],
)
def test_a_claim_is_about_releases_from_one_on(release: str, since: str, status: str) -> None:
    """All point releases of it."""
    with Kvm(EmulatedBackend(HostProfile(release))) as kvm:
        (found,) = run(kvm, [claim(good, since=since)]).results
    assert found.status == status


# ------------------------------------------------------------------------------------------------ interruption


def interrupts(on: Target) -> None:
    """As Ctrl-C does."""
    on.expect("one", 1, 1)
    raise KeyboardInterrupt


def interrupts_late(on: Target) -> None:
    """After it found something."""
    on.expect("one", 1, 2)
    raise KeyboardInterrupt


def test_an_interrupted_run_reports_what_it_has(host: Kvm) -> None:
    """The claim that was being checked is missing, and those behind it."""
    claims = [claim(good, "a.first"), claim(interrupts, "a.second"), claim(good, "a.third")]
    report = run(host, claims)
    assert [found.name for found in report.results] == ["a.first"]
    assert report.missing == ("a.second", "a.third")


def test_a_failure_that_was_found_is_kept(host: Kvm) -> None:
    """It is one, whatever would have come after it."""
    report = run(host, [claim(interrupts_late, "a.first"), claim(good, "a.second")])
    assert [(found.name, found.status) for found in report.results] == [("a.first", FAIL)]
    assert report.missing == ("a.second",)


def test_a_watcher_may_interrupt_too(host: Kvm) -> None:
    """Signals come at any time."""

    class Impatient(Nobody):
        def checked(self, result: ClaimResult) -> None:
            raise KeyboardInterrupt

    report = run(host, [claim(good, "a.first"), claim(good, "a.second")], Impatient())
    assert [found.name for found in report.results] == ["a.first"]
    assert report.missing == ("a.second",)


def test_a_whole_run_misses_nothing(host: Kvm) -> None:
    """Nothing was interrupted."""
    assert run(host, [claim(good)]).missing == ()


# ------------------------------------------------------------------------------------------------ hosts


def test_a_kvm_of_another_version_is_not_looked_at() -> None:
    """It is an error before any claim, with its cause."""
    other = Saboteur(EmulatedBackend(HostProfile()), requests={abi.KVM_GET_API_VERSION: lambda *_: 13})
    with pytest.raises(errors.ApiVersionError):
        Kvm(other)


def test_a_machine_that_cannot_be_looked_at_is_an_error(host: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to report on."""

    def refuses(kvm: Kvm) -> HostProfile:
        raise errors.KvmError(errno.EIO, cause="KVM did not let a vCPU be looked at", asked="", available="", fix="")

    monkeypatch.setattr(HostProfile, "of", refuses)
    with pytest.raises(errors.KvmError, match="did not let a vCPU be looked at"):
        run(host, [claim(good)])


def test_a_kernel_that_makes_no_vm_fails_with_the_cause() -> None:
    """It is reported on all the same."""
    refused = Saboteur(EmulatedBackend(HostProfile()), requests={abi.KVM_CREATE_VM: lambda *_: -errno.ENOMEM})
    with Kvm(refused) as kvm:
        report = run(kvm, [claim(bad)])
    assert report.machine.sizes == ()
    assert report.results[0].status == FAIL
    assert report.results[0].mismatches[0].came.startswith("OutOfMemoryError: ")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("name", ["C2", "C4", "C8"])
def test_what_the_system_has_none_left_of_is_no_failure_of_kvm(code: int, name: str) -> None:
    """Descriptors: of the VM itself, and of a vCPU that is expected to be made."""
    (one,) = (one for one in CLAIMS if one.id == name)
    request = abi.KVM_CREATE_VCPU if name == "C2" else abi.KVM_CREATE_VM
    with Kvm(Saboteur(EmulatedBackend(HostProfile()), requests={request: lambda *_: -code})) as kvm:
        (found,) = run(kvm, [one]).results
    assert (found.status, "RLIMIT_NOFILE" in found.reason) == (SKIP, True)


def test_a_wrong_answer_is_one_whatever_it_is(host: Kvm) -> None:
    """Where another error was expected, too few descriptors are a mismatch like any other."""

    def refuses() -> None:
        raise errors.DescriptorLimitError(errno.EMFILE, cause="none left", asked="", available="", fix="")

    def check(on: Target) -> None:
        on.expect_answer("it", "EINVAL", refuses)

    found = result(host, check)
    assert [(one.expected, one.came) for one in found.mismatches] == [("EINVAL", "EMFILE")]


def test_a_process_without_memory_for_a_guest_does_not_blame_kvm(host: Kvm) -> None:
    """The system said no, before any request."""

    def check(on: Target) -> None:
        raise errors.GuestMemoryError(errno.ENOMEM, cause="the system does not map it", asked="", available="", fix="")

    found = result(host, check)
    assert (found.status, found.reason) == (SKIP, "there is no memory for a guest: the system does not map it")


def test_a_wrong_answer_in_a_sweep_is_shown_by_its_own_system_call() -> None:
    """Not by the last ones of the sweep."""

    def takes(_kernel: Saboteur, _fd: int, machine_type: int, send: Callable[[int], int]) -> int:
        return send(40 if machine_type == 77 else machine_type)

    (sizes,) = (one for one in CLAIMS if one.id == "C5")
    with Kvm(Saboteur(EmulatedBackend(HostProfile()), requests={abi.KVM_CREATE_VM: takes})) as kvm:
        (found,) = run(kvm, [sizes]).results
    (mismatch,) = found.mismatches
    assert mismatch.after is not None
    assert found.trace is not None
    assert '"argument":77' in found.trace.splitlines()[mismatch.after]


def open_files() -> set[str]:
    """The process's descriptors."""
    # An emulated VM's epoll goes with its cycles; the thread that waits for signals closes its end when it sees that
    # the last vCPU is closed.
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "kvmipa signals":
            thread.join(10)
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: one.id)
def test_no_check_leaves_a_descriptor_open(one: Claim, host: Kvm) -> None:
    """Not on a kernel that keeps the claim, nor on one where every answer is unexpected."""
    run(host, [one])
    before = open_files()
    run(host, [one])
    assert open_files() == before
    with Kvm(Saboteur(EmulatedBackend(HostProfile()), region=lambda *_: -errno.EIO, attribute=lambda *_: 0)) as kvm:
        before = open_files()
        run(kvm, [one])
        assert open_files() == before


def test_a_check_that_forgets_a_vm_does_not_leave_it_open(host: Kvm) -> None:
    """Every check has a KVM of its own, and nothing else of this process is touched."""
    before = open_files()
    with pytest.warns(ResourceWarning):
        run(host, [claim(forgets)])
    assert open_files() == before


# ------------------------------------------------------------------------------------------------ slow hosts

SLOW = Facts(real=True, profile=HostProfile("7.3", page_size=16384), step_seconds=50 / (1 << 27))


def test_vms_that_take_long_to_destroy_are_few() -> None:
    """A host on which one of 52 bits takes 50 s, as an emulated one with 16K pages does."""
    assert SLOW.seconds_to_destroy(52) == 50
    chosen = SLOW.affordable(range(32, 53), lambda size: size, 52)
    assert chosen == list(range(32, 47))
    assert sum(map(SLOW.seconds_to_destroy, chosen)) <= 3


def test_what_makes_no_vm_costs_nothing() -> None:
    """It is asked on every host."""
    assert SLOW.affordable(range(256), lambda _size: 0, 52) == list(range(256))


def test_every_vm_of_a_pkvm_host_takes_as_long_as_its_limit() -> None:
    """Only a few are made then; all, where the size does not matter."""
    pkvm = replace(SLOW, profile=HostProfile("7.3", mode="protected"), step_seconds=1 / (1 << 22))
    assert pkvm.affordable(range(32, 53), lambda size: size, 52) == [32, 33, 34]
    assert len(replace(pkvm, step_seconds=0.0).affordable(range(32, 53), lambda size: size, 52)) == 21


def test_what_is_not_tried_is_as_the_limit_says() -> None:
    """A report has the types that make a VM, also of a host on which not all can be tried."""
    for host in (
        "qemu-max-7.3-16k",
        "qemu-cortex-a53-p36-7.3-4k",
        "qemu-max-6.12-4k-pkvm@7.3",
        "qemu-max-6.12-4k@4.19",
    ):
        profile = HostProfile.preset(host)
        with Kvm(EmulatedBackend(profile)) as kvm:
            tried = Facts(real=False, profile=profile).accepted_types(kvm)
            assert tried == tuple(one for one, failed in enumerate(kvm.probe_machine_types(range(256))) if not failed)
            slow = Facts(real=True, profile=profile, step_seconds=1.0)
            assert slow.accepted_types(kvm) == tried
