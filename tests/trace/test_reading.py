# SPDX-License-Identifier: Apache-2.0
"""Files that are traces, nearly traces and no traces; and what a trace of somebody else's must not do."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from kvmipa import HostProfile
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.fault_injection import FaultInjector, Faults
from kvmipa.trace import Session, reading
from kvmipa.trace.reading import Loaded, NotATraceError, load
from kvmipa.trace.replaying import Outcome, replay
from kvmipa.trace.values import from_json
from tests.guests import require_engine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are done on Linux")

GUESTS = Path(__file__).parents[1] / "data" / "traces" / "guests"
HEADER = '{"kvmipa_trace":1}\n'
OPEN = '{"open":"kvm","result":"new"}\n'
VERSION = '{"ioctl":"KVM_GET_API_VERSION","on":"kvm","result":12}\n'
VM = '{"ioctl":"KVM_CREATE_VM","on":"kvm","argument":36,"new":"vm0","result":"new"}\n'
VCPU = '{"ioctl":"KVM_CREATE_VCPU","on":"vm0","new":"vcpu0","result":"new"}\n{"mmap":"vcpu0","pages":2}\n'
START = HEADER + OPEN + VM
MAP_AND_WRITE_BEFORE = '{"map":"mem0","size":64,"protection":"rw"}\n{"write":"mem0-0x10","data":{"hex":"ff"}}\n'


def loaded(tmp_path: Path, content: str | bytes) -> Loaded:
    path = tmp_path / "trace"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(path)


def replayed(tmp_path: Path, content: str) -> Outcome:
    return replay(loaded(tmp_path, content), EmulatedBackend(HostProfile(release="6.12")), "/dev/kvm")


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("path", sorted(GUESTS.glob("*.gz")), ids=lambda path: path.name.partition(".jsonl")[0])
def test_guest_of_a_real_kernel_does_the_same_on_the_emulation(path: Path) -> None:
    require_engine()
    found = load(path)
    outcome = replay(found, EmulatedBackend(found.trace.profile), "/dev/kvm")
    assert [one.words for one in outcome.differences] == []
    assert "probe" in path.name or any(step.operation.as_json().get("run") for step in found.trace.steps)


def test_last_line_that_ends_in_the_middle_is_left_out(tmp_path: Path) -> None:
    found = loaded(tmp_path, HEADER + OPEN + VERSION[:-20])
    assert found.cut == "line 3, the last one, ends in the middle"
    assert len(found.trace.steps) == 1
    assert replay(found, EmulatedBackend(HostProfile()), "/dev/kvm").differences == []


def test_compressed_file_that_ends_in_the_middle_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    import random

    # What cannot be compressed well, so that half a file has something.
    numbers = random.Random(1)
    text = HEADER + OPEN + "".join(f'{{"note":"{numbers.getrandbits(256):x}"}}\n' for _ in range(400))
    found = loaded(tmp_path, gzip.compress(text.encode())[:-4000])
    assert found.cut == "the compressed file ends in the middle"
    assert 100 < len(found.trace.steps) < 401


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    outcome = replayed(tmp_path, HEADER + OPEN + "\n" + VERSION.replace("12}", "13}"))
    assert [(one.line, one.words) for one in outcome.differences] == [(4, "it returned 13, and here it returns 12")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"hello\n", "no trace: its first line has no 'kvmipa_trace'"),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "no trace: its first line has no"),
        (b"[1, 2]\n", "no trace"),
        (b'{"kvmipa_recording": 1}\n', "it is a recording of kvmipa's test data"),
        (b'{\n  "schema": 1,\n', "kvmipa conform --traces DIR"),
        (b'{"kvmipa_trace": 2}\n', "of format 2, and this kvmipa reads format 1: a newer one wrote it"),
        (b'{"kvmipa_trace": "x"}\n', "of format 'x', which there is not"),
        (b'{"kvmipa_trace": 1, "profile": 7}\n', "line 1: the profile is no object"),
        (b"\x1f\x8b\x08\x00garbage and more of it", "compressed, and damaged"),
        (gzip.compress(b"x", mtime=0)[:10], "what could be decompressed of it is empty"),
        ((HEADER + '{"open":\n' + OPEN).encode(), "line 2 is not JSON"),
        ((HEADER + "[" * 100_000 + "\n" + OPEN).encode(), "line 2 is not JSON"),
        ((HEADER + "7\n").encode(), "line 2: no operation: '7'"),
        ((HEADER + "{}\n").encode(), "line 2: no operation is called ''"),
        ((HEADER + '{"dance":"vm0"}\n').encode(), "line 2: no operation is called 'dance'"),
    ],
)
def test_what_is_no_trace_is_refused_with_the_reason(tmp_path: Path, content: bytes, expected: str) -> None:
    with pytest.raises(NotATraceError) as raised:
        loaded(tmp_path, content)
    assert str(raised.value).startswith(f"{tmp_path / 'trace'}: ")
    assert expected in str(raised.value)


def test_what_decompresses_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST", 1 << 20)
    with pytest.raises(NotATraceError, match="larger than 1 MiB"):
        loaded(tmp_path, gzip.compress(bytes(2 << 20)))
    piece = '{"map":"mem0","size":4096,"protection":"rw"}\n' + '{"write":"mem0","data":{"zeros":1000000}}\n' * 2
    with pytest.raises(NotATraceError, match="line 4: more than 1 MiB of data"):
        loaded(tmp_path, HEADER + piece)


# ------------------------------------------------------------------------------------------------ foreign input


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"ioctl": "KVM_DANCE", "on": "kvm"}, "no request is called 'KVM_DANCE'"),
        ({"ioctl": "KVM_CREATE_VM", "on": 3}, "descriptor 3 may be another than the trace's"),
        ({"ioctl": "KVM_CREATE_VM", "on": "a b"}, "no descriptor can be called 'a b'"),
        ({"ioctl": "KVM_CREATE_VM", "on": ["kvm"]}, "no descriptor can be called ['kvm']"),
        ({"ioctl": "KVM_CREATE_VM", "on": "kvm", "new": {}, "result": "new"}, "no descriptor can be called {}"),
        ({"ioctl": "KVM_GET_MP_STATE", "on": "vcpu0", "argument": "0x400000"}, "may be this process's own memory"),
        (
            {"ioctl": "KVM_GET_ONE_REG", "on": "vcpu0", "argument": {"struct": "one_reg", "addr": "0x7f0000000000"}},
            "may be this process's own memory",
        ),
        ({"ioctl": "KVM_CREATE_VM", "on": "kvm", "argument": "mem0+8"}, "not a symbol: 'mem0+8'"),
        ({"ioctl": "KVM_CREATE_VM", "on": "kvm", "argument": {"struct": "nothing"}}, "no struct is called 'nothing'"),
        ({"ioctl": "KVM_CREATE_VM", "on": "kvm", "argument": {"other": 1}}, "no value: {'other': 1}"),
        ({"ioctl": "KVM_CREATE_VM", "on": "kvm", "result": "EWHAT"}, "EWHAT"),
        ({"ioctl": "KVM_CREATE_VM"}, "'on' is missing, or unknown"),
        ({"map": "stack", "size": 4096, "protection": "rw"}, "an area's name begins with mem"),
        ({"map": "mem0", "size": 4096, "protection": "rwx"}, "protection 'rwx': it is rw, ro or none"),
        ({"map": "mem0", "size": "much", "protection": "rw"}, "a number, not 'much'"),
        ({"write": "mem0", "data": "mem1"}, "data is what lies in a buffer"),
        ({"write": "mem0", "data": {"zeros": 1 << 40}}, "data of 1099511627776 bytes"),
        ({"write": "mem0", "data": {"zlib": "eJwrSS0uAQAEXQHB", "size": 3}}, "that should have 3 bytes has more"),
        ({"write": "mem0", "data": {"zlib": "AAAA", "size": 3}}, "cannot be decompressed"),
        ({"mmap": "vcpu0", "pages": 0}, "0 pages"),
        ({"mmap": "vcpu0", "pages": 2, "first": -1}, "2 pages from page -1 on"),
        ({"run": "vcpu0", "interrupted": 1e9}, "interrupted after"),
        ({"run": "vcpu0", "before": {"x": "00"}}, "line 2"),
        ({"run": "vcpu0", "before": []}, "not as operations are written"),
        ({"open": {"path": "/etc/passwd"}}, "a name is text"),
        ({"open": "kvm", "result": [1]}, "no result: [1]"),
        ({"open": "kvm", "result": "new", "wrote": 5}, "nothing that was written: 5"),
        ({"ioctl": "KVM_CREATE_VM", "on": "kvm", "argument": 40.5}, "no value: 40.5"),
        ({"ioctl": "KVM_CREATE_VM", "on": "kvm", "argument": None}, "no value: None"),
        ({"ioctl": ["KVM_CREATE_VM"], "on": "kvm"}, "line 2"),
        ({"close": 3}, "a name is text, not 3"),
    ],
)
def test_operation_that_must_not_be_is_refused_with_its_line(
    tmp_path: Path, line: dict[str, object], expected: str
) -> None:
    with pytest.raises(NotATraceError) as raised:
        loaded(tmp_path, HEADER + json.dumps(line) + "\n" + OPEN)
    assert "line 2" in str(raised.value)
    assert expected in str(raised.value)


def test_device_is_the_only_path_that_is_opened(tmp_path: Path) -> None:
    outcome = replayed(tmp_path, HEADER + '{"open":"/etc/passwd","result":"new"}\n')
    assert outcome.differences == []


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        ('"memory_size":4096,"userspace_addr":"0x555555554000"', "slot 0 has 0x1000 bytes from 0x555555554000 on"),
        ('"memory_size":"0x10000000000","userspace_addr":"mem0"', "slot 0 has 0x10000000000 bytes"),
        ('"memory_size":"0x1000000","userspace_addr":"unmapped"', "slot 0 has 0x1000000 bytes from 0x100000 on"),
    ],
)
def test_guest_that_could_write_to_the_process_does_not_run(tmp_path: Path, slot: str, expected: str) -> None:
    region = (
        '{"ioctl":"KVM_SET_USER_MEMORY_REGION","on":"vm0","argument":'
        f'{{"struct":"userspace_memory_region",{slot}}}}}\n'
    )
    area = '{"map":"mem0","size":4096,"protection":"rw"}\n'
    text = START.replace('"argument":36', '"argument":48') + area + region + VCPU + '{"run":"vcpu0","result":6}\n'
    with pytest.raises(NotATraceError, match="line 8: vcpu0 does not run") as raised:
        replayed(tmp_path, text)
    assert expected in str(raised.value)


def test_guest_whose_memory_was_unmapped_does_not_run(tmp_path: Path) -> None:
    region = (
        '{"map":"mem0","size":4096,"protection":"rw"}\n'
        '{"ioctl":"KVM_SET_USER_MEMORY_REGION","on":"vm0","argument":{"struct":"userspace_memory_region",'
        '"memory_size":4096,"userspace_addr":"mem0"},"result":0}\n{"unmap":"mem0"}\n'
    )
    with pytest.raises(NotATraceError, match="mem0 was unmapped while the VM had slots"):
        replayed(tmp_path, START + region + VCPU + '{"run":"vcpu0","result":6}\n')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"ioctl":"KVM_RUN","on":"vcpu0","result":0}', "KVM_RUN is no ioctl in a trace"),
        ('{"ioctl":"KVM_RUN","on":"vcpu0","argument":"null","result":0}', "KVM_RUN is no ioctl in a trace"),
        ('{"run":"vcpu0","before":{"4000":"00"},"result":6}', "1 bytes at 4000"),
        ('{"map":"mem0","size":"0x100000000000","protection":"rw"}', "area mem0: size 0x100000000000"),
        ('{"ioctl":"KVM_GET_MP_STATE","on":"vcpu0","argument":"unmapped+0x300000"}', "this process's own memory"),
        ('{"ioctl":"KVM_GET_MP_STATE","on":"vcpu0","argument":"vcpu0+0x400000"}', "this process's own memory"),
        ('{"ioctl":"KVM_GET_MP_STATE","on":"vcpu0","argument":"kernel-0xfffe900000000000"}', "own memory"),
        ('{"ioctl":"KVM_CREATE_VM","on":"kvm","argument":"-0x1"}', "does not fit"),
    ],
)
def test_what_shows_only_when_it_is_done_has_its_line_too(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(NotATraceError, match="line 6") as raised:
        replayed(tmp_path, START + VCPU + line + "\n")
    assert expected in str(raised.value)


def test_what_the_process_has_not_is_no_difference(tmp_path: Path) -> None:
    import resource

    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, descriptors[1]))
    try:
        with pytest.raises(OSError, match=r"line \d+: Too many open files"):
            replayed(tmp_path, HEADER + "".join(f'{{"eventfd":"e{one}","result":"new"}}\n' for one in range(100)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)


def test_nothing_is_written_before_an_area(tmp_path: Path) -> None:
    with Session(EmulatedBackend(HostProfile())) as session:
        for step in loaded(tmp_path, HEADER + MAP_AND_WRITE_BEFORE).trace.steps:
            session.do(step.operation)
        assert session._areas.peek(session._areas.address_of("mem0", otherwise=0), 64) == bytes(64)


def test_answer_that_is_longer_than_its_room_ends_at_a_wall(tmp_path: Path) -> None:
    # The dirty log of 2**31 - 1 pages has 256 MiB.
    lines = (
        '{"ioctl":"KVM_SET_USER_MEMORY_REGION","on":"vm0","argument":{"struct":"userspace_memory_region","flags":1,'
        '"memory_size":"0x7fffffff000","userspace_addr":"mem0"},"result":0}\n'
        '{"ioctl":"KVM_GET_DIRTY_LOG","on":"vm0","argument":{"struct":"dirty_log","dirty_bitmap":{"struct":"u64"}},'
        '"result":"EFAULT"}\n'
    )
    area = '{"map":"mem0","size":4096,"protection":"rw","room":"0x80000000000"}\n'
    outcome = replayed(tmp_path, START.replace('"argument":36', '"argument":48') + area + lines)
    assert [one.words for one in outcome.differences] == []


def test_consequences_of_a_difference_are_counted_and_not_listed(tmp_path: Path) -> None:
    text = START.replace('"argument":36', '"argument":53') + VCPU + '{"run":"vcpu0","result":6}\n' + VERSION
    outcome = replayed(tmp_path, text)
    assert [one.line for one in outcome.differences] == [3]
    assert outcome.consequences == 3


def test_consequences_of_a_second_kvm_that_is_not_there_are_counted_too(tmp_path: Path) -> None:
    second = (OPEN + VERSION).replace('"kvm"', '"kvm1"')
    with Faults() as faults:
        faults.fail("open", "EMFILE", nth=2)
        backend = FaultInjector(EmulatedBackend(HostProfile()), faults)
        outcome = replay(loaded(tmp_path, HEADER + OPEN + second + VERSION), backend, "/dev/kvm")
    assert [one.line for one in outcome.differences] == [3]
    assert outcome.consequences == 1


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("found", [{"zeros": 70}, {"hex": "00ff"}, {"zlib": "eJwDAAAAAAE=", "size": 0}])
def test_bytes_are_read_in_every_form(found: dict[str, object]) -> None:
    assert len(from_json(found).content) == found.get("zeros", found.get("size", 2))  # type: ignore[union-attr]
