# SPDX-License-Identifier: Apache-2.0
"""``kvmipa replay``: which kernel it is, what is shown, and what is refused."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are done on Linux")

LOG = Path(__file__).parents[1] / "data" / "strace" / "qemu-10.0-virt-600g__6.12__max.log.gz"

TRACE = """\
{"kvmipa_trace":1,"profile":{"name":"of the trace","release":"6.12","id_aa64mmfr0_el1":"0x1124"}}
{"open":"kvm","result":"new"}
{"ioctl":"KVM_CHECK_EXTENSION","on":"kvm","argument":165,"result":44}
{"ioctl":"KVM_CREATE_VM","on":"kvm","argument":44,"new":"vm0","result":"new"}
{"ioctl":"KVM_CHECK_EXTENSION","on":"vm0","argument":165,"result":44}
{"note":"something is not here"}
{"close":"vm0"}
"""


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("KVMIPA_HOST", "KVMIPA_BACKEND", "KVMIPA_TRACE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "t.jsonl"
    path.write_text(TRACE)
    return str(path)


def test_host_of_the_trace_is_the_one_that_is_emulated(kvmipa: Command, trace: str) -> None:
    shown = kvmipa("replay", trace, "--backend", "emulated")
    assert shown.status == 0
    assert shown.out == (
        "EMULATED  of the trace: Linux 6.12, 4K pages, mode vhe (the host of the trace)\n"
        "note      something is not here\n"
        "no difference in 6 operations\n"
    )


def test_differences_are_told_in_words_with_their_lines(kvmipa: Command, trace: str) -> None:
    shown = kvmipa("replay", trace, "--host", "narrow")
    assert shown.status == 1
    assert "(as --host has it)" in shown.out
    assert "line 3: it returned 44, and here it returns 36\n" in shown.out
    assert "line 4: it made a descriptor, and here it fails with EINVAL\n" in shown.out
    assert "  ioctl(kvm, KVM_CREATE_VM, 44) = vm0\n" in shown.out
    assert "1 more are consequences" in shown.out
    assert shown.out.endswith("2 differences in 6 operations\n")


def test_json_has_all_of_it(kvmipa: Command, trace: str) -> None:
    found = kvmipa("replay", trace, "--host", "narrow", "--json").json
    assert (found["command"], found["backend"], found["operations"]) == ("replay", "emulated", 6)
    assert found["notes"] == ["something is not here"]
    assert [one["line"] for one in found["differences"]] == [3, 4]
    assert found["differences"][1]["expected"] == {"result": "new", "wrote": {}}
    assert found["differences"][1]["came"] == {"result": "EINVAL", "wrote": {}}
    assert (found["consequences"], found["cut"]) == (1, None)


def test_only_the_first_differences_are_shown(kvmipa: Command, trace: str) -> None:
    wrong = '{"ioctl":"KVM_GET_API_VERSION","on":"kvm","result":1}\n'
    Path(trace).write_text(TRACE + wrong * 30)
    shown = kvmipa("replay", trace, "--backend", "emulated")
    assert shown.out.count("and here it returns 12") == 20
    assert "and 10 more; --all shows them" in shown.out
    assert kvmipa("replay", trace, "--backend", "emulated", "--all").out.count("and here it returns 12") == 30


def test_trace_that_was_cut_is_done_and_that_is_said(kvmipa: Command, trace: str) -> None:
    Path(trace).write_text(TRACE[:-5])
    shown = kvmipa("replay", trace, "--backend", "emulated")
    assert shown.status == 0
    assert "cut       line 7, the last one, ends in the middle: the 5 operations before it are done" in shown.out
    Path(trace).write_bytes(gzip.compress((TRACE + '{"note":"x"}\n' * 900).encode())[:-12])
    shown = kvmipa("replay", trace, "--backend", "emulated")
    assert "the compressed file ends in the middle" in shown.out


def test_log_of_strace_is_recognised(kvmipa: Command) -> None:
    found = kvmipa("replay", str(LOG), "--backend", "emulated", "--json").json
    assert "the default; --host chooses another: the trace does not say its host" in found["host_is"]
    assert found["skipped"]["KVM_RUN: a log has no registers and no memory"] == 3
    shown = kvmipa("replay", str(LOG), "--host", "wide")
    assert "skipped   3 x KVM_RUN" in shown.out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        ("hello\n", "no trace: its first line has no 'kvmipa_trace'"),
        ('{"kvmipa_trace": 7}\n', "a newer one wrote it"),
        ('{"kvmipa_trace":1,"profile":{"mode":"odd"}}\n', "line 1: the host's profile is none: mode='odd'"),
        ('{"kvmipa_trace":1,"profile":{"registers":7}}\n', "line 1: the host's profile is none"),
        ('{"kvmipa_trace":1}\n{"dance":1}\n{}\n', "line 2: no operation is called 'dance'"),
        ('{"kvmipa_trace":1}\n{"map":"mem0","size":"0x7000000000000","protection":"rw"}\n', "line 2: area mem0"),
    ],
)
def test_what_is_no_trace_is_refused(kvmipa: Command, trace: str, content: str, expected: str) -> None:
    Path(trace).write_text(content)
    shown = kvmipa("replay", trace, "--backend", "emulated")
    assert (shown.status, shown.out) == (2, "")
    assert expected in shown.err


def test_wrong_usage(kvmipa: Command, trace: str) -> None:
    assert kvmipa("replay").status == 2
    shown = kvmipa("replay", trace, "--host", "nowhere")
    assert shown.status == 2
    assert "nowhere" in shown.err
    shown = kvmipa("replay", trace + ".missing")
    assert shown.status == 1
    assert "No such file" in shown.err
    assert kvmipa("replay", str(Path(trace).parent)).status == 1
