# SPDX-License-Identifier: Apache-2.0
"""Many hosts at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from subprocess import PIPE

import pytest

from kvmipa import HostProfile
from kvmipa.backend.emulated.presets import RELEASES, every_host, machine_name, with_release
from kvmipa.cli.conform_many import comparison
from kvmipa.conformance.compare import compare
from kvmipa.conformance.many import (
    CONFORMS,
    ERROR,
    FAILS,
    NO_KVM,
    HostRun,
    ManyRuns,
    hosts_of,
    run_many,
)
from kvmipa.conformance.reports.html_matrix import matrix_html
from kvmipa.conformance.reports.matrix_text import comparison_text, many_text
from tests.conformance.working import interrupted, work

# ------------------------------------------------------------------------------------------------ which hosts


def test_all_is_every_machine_with_every_release_and_none_twice() -> None:
    hosts = every_host()
    assert len(set(hosts.values())) == len(hosts) > 200
    assert {host.release for host in hosts.values()} == set(RELEASES)
    machines = {machine_name(name)[0] for name in hosts}
    assert {machine_name(name)[0] for name in HostProfile.presets()} <= machines
    assert len({machine_name(name) for name in hosts}) == len(hosts)
    # Every preset is there, under its own name.
    assert set(HostProfile.presets()) <= set(hosts)


def test_every_host_of_all_is_a_host_that_the_command_line_knows() -> None:
    for name, host in every_host().items():
        assert HostProfile.preset(name) == host
    assert hosts_of(["all"]) == tuple(every_host())


def test_a_kernel_without_52_bits_is_built_for_48() -> None:
    moved = with_release(HostProfile.preset("qemu-max-6.12-4k"), "6.1")
    assert (moved.config_pa_bits, moved.config_va_bits, moved.ipa_limit) == (48, 48, 48)
    kept = with_release(HostProfile.preset("qemu-max-6.12-64k"), "6.1")
    assert (kept.config_pa_bits, kept.ipa_limit) == (52, 52)
    own = HostProfile.preset("apple-m1")
    assert with_release(own, own.release) is own


def test_a_kernel_without_pkvm_does_not_run_in_protected_mode() -> None:
    pkvm = HostProfile.preset("qemu-max-6.1-4k-pkvm")
    assert [with_release(pkvm, release).mode for release in ("5.10", "7.3")] == ["vhe", "protected"]
    # There it is what it is without the mode, and that is in the list already.
    assert {host.release for host in every_host().values() if host.mode == "protected"} == {"6.1", "6.12", "7.3"}


def test_the_source_of_a_moved_machine_is_not_that_of_the_preset() -> None:
    source = HostProfile.preset("qemu-max-6.12-4k@5.4").source
    assert source.endswith("Debian's 6.12 kernel; but with Linux 5.4, as kvmipa's table of releases has it")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("apple-m1@9.9", "kernel release '9.9'"),
        ("apple-m1@", "''"),
        ("aple-m1@5.10", "near: apple-m1"),
        ("aple-m1", "near: apple-m1"),
        ("@6.1", "no host preset"),
        ("", "no host preset"),
        ("all,,apple-m1", "no host preset ''"),
    ],
)
def test_what_is_no_host_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hosts_of([name])


def test_lists_have_each_host_once_in_their_order() -> None:
    assert hosts_of(["raspberry-pi-5,apple-m1", "raspberry-pi-5"]) == ("raspberry-pi-5", "apple-m1")


# ------------------------------------------------------------------------------------------------ running them


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_host_is_run_and_reported_in_order(jobs: int) -> None:
    seen: list[str] = []
    hosts = ["fails:a", "passes:b", "off:c", "raises:what went wrong", "passes:d"]
    many = run_many(hosts, ["C1", "C2"], jobs=jobs, work=work, done=lambda run: seen.append(run.host))
    assert [run.host for run in many.runs] == hosts
    assert sorted(seen) == sorted(hosts)
    assert [run.outcome for run in many.runs] == [FAILS, CONFORMS, NO_KVM, ERROR, CONFORMS]
    assert many.runs[1].report
    assert many.runs[1].report.machine.model == "C1,C2"
    assert many.runs[3].error == "ValueError: what went wrong"
    assert (many.jobs, many.missing, many.conform) == (jobs, (), False)


def test_a_worker_that_dies_costs_its_host_alone() -> None:
    many = run_many(["passes:a", "dies:b", "exits:c", "passes:d", "passes:e"], jobs=2, work=work)
    assert [run.outcome for run in many.runs] == [CONFORMS, ERROR, ERROR, CONFORMS, CONFORMS]
    assert many.runs[1].error.endswith("ended, by SIGKILL")
    assert many.runs[2].error.endswith("ended, with exit status 3")


def test_a_host_that_does_not_end_is_ended() -> None:
    many = run_many(["hangs:a", "passes:b", "passes:c"], jobs=2, work=work, patience=3)
    assert [run.outcome for run in many.runs] == [ERROR, CONFORMS, CONFORMS]
    assert many.runs[0].error == "it took more than 3 s"


def test_ctrl_c_keeps_what_has_come() -> None:
    many = run_many(["passes:a", "interrupts:b", "hangs:c", "passes:d"], jobs=2, work=work)
    assert [run.host for run in many.runs][:1] == ["passes:a"]
    assert {"interrupts:b", "hangs:c"} <= set(many.missing)
    assert not many.conform


def test_ctrl_c_of_a_terminal_goes_to_all_processes_and_only_one_says_so() -> None:
    words = [sys.executable, "-m", "kvmipa", "--host", "all", "conform", "--claim", "C1", "C5", "--jobs", "2"]
    with subprocess.Popen(words, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as process:
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    if process.returncode != 130:
        pytest.skip("all hosts were run before Ctrl-C came")
    assert err == ""
    assert "INCOMPLETE: interrupted" in out


def test_ctrl_c_in_one_process_keeps_what_has_come() -> None:
    many = run_many(["first", "second", "third"], jobs=1, work=interrupted)
    assert [run.host for run in many.runs] == ["first"]
    assert many.missing == ("second", "third")


def test_hosts_without_kvm_do_not_fail() -> None:
    assert run_many(["off:a", "passes:b"], jobs=1, work=work).conform


@pytest.mark.parametrize("jobs", [0, -1])
def test_there_is_one_job_at_least(jobs: int) -> None:
    with pytest.raises(ValueError, match="jobs"):
        run_many(["passes:a"], jobs=jobs, work=work)


def test_the_claims_are_run_on_emulated_hosts_of_several_releases() -> None:
    many = run_many(hosts_of(["qemu-cortex-a53-p36-5.10-4k@4.19,raspberry-pi-4"]), ["C1"], jobs=2)
    assert [run.outcome for run in many.runs] == [CONFORMS, CONFORMS]
    assert [(run.machine, run.release) for run in many.runs] == [
        ("qemu-cortex-a53-p36-4k", "4.19"),
        ("raspberry-pi-4", "6.12"),
    ]


def test_text_has_machines_by_release_and_why_there_is_no_report() -> None:
    hosts = ("raspberry-pi-4", "raspberry-pi-4@5.10", "apple-m1@5.10", "apple-m1@7.3")
    made = [work("passes", None).report, work("fails", None).report]
    runs = (
        HostRun(hosts[0], made[0]),
        HostRun(hosts[1], made[1]),
        HostRun(hosts[2], obstacle="no such pages"),
        HostRun(hosts[3], error="it broke"),
    )
    many = ManyRuns(runs, 1.5, 2, missing=("raspberry-pi-5",))
    shown = many_text(many, comparison(many))
    assert shown.startswith("EMULATED  4 hosts")
    assert "machine         5.10    6.12   7.3" in shown
    assert "raspberry-pi-4  3/1/0!  4/0/0" in shown
    assert "apple-m1        no KVM         error" in shown
    assert "NO KVM  apple-m1@5.10: no such pages" in shown
    assert "ERROR  apple-m1@7.3: it broke" in shown
    assert "on 1 of 2: raspberry-pi-4@5.10" in shown
    assert "INCOMPLETE: interrupted; 1 hosts were not run" in shown
    assert "1 of 4 hosts fail, 1 without KVM, 1 with errors; 7 checks passed, 1 failed, 0 skipped" in shown
    page = matrix_html(comparison(many))
    assert "1 claim fails on 1 of 2 machines. There is no report of 3 machines." in page
    assert '<td class="wrap">not run any more: interrupted</td>' in page


def test_no_runs_make_a_comparison_too() -> None:
    assert compare([]).same
    assert "All 0 claims came out the same." in comparison_text(compare([]))


def test_a_page_of_runs_without_a_report_is_not_green() -> None:
    made = work("passes", None).report
    runs = (HostRun("apple-m1", made), HostRun("raspberry-pi-4", error="it broke"))
    page = matrix_html(comparison(ManyRuns(runs, 1.0, 1)))
    assert '<p class="verdict skip">No claim fails on any machine. There is no report of 1 machine.' in page
