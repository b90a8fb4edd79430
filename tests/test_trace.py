# SPDX-License-Identifier: Apache-2.0
"""Traces: what an operation means, what is kept of its result, and replaying it on another kernel."""

from __future__ import annotations

import gzip
import os
import sys
from errno import EBADF, EEXIST, EFAULT, EINVAL, EMFILE
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import HostProfile, abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.trace import (
    NEW,
    Begin,
    Bytes,
    Close,
    EventFd,
    Ioctl,
    Map,
    Open,
    Operation,
    Protect,
    Result,
    Session,
    Step,
    Struct,
    Trace,
    Unmap,
    Write,
    replay,
    run,
    struct,
    u32,
    u64,
)
from kvmipa.trace.areas import ALIGNMENT, Areas
from kvmipa.trace.file import Difference
from kvmipa.trace.operations import operation_from_json
from kvmipa.trace.values import as_json, from_json, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm
    from kvmipa.trace.values import Value

# Areas are mapped, and descriptors counted, as Linux has it.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are done on Linux")

PAGE = 4096
# A page of every kernel, or several.
LARGEST_PAGE = 0x1_0000

START: tuple[Operation, ...] = (
    Map("mem0", 0x1_0000),
    Open("kvm"),
    Ioctl("kvm", "KVM_CREATE_VM", 36, new="vm0"),
)


def region(argument: Value = 0, **fields: Any) -> Ioctl:
    """A memory slot: one page at 0, unless told otherwise."""
    given: dict[str, Any] = {"memory_size": PAGE, "userspace_addr": "mem0"} | fields
    return Ioctl("vm0", "KVM_SET_USER_MEMORY_REGION", argument or struct("userspace_memory_region", **given))


@pytest.fixture
def backend() -> EmulatedBackend:
    return EmulatedBackend(HostProfile(release="6.12"))


@pytest.fixture
def session(backend: EmulatedBackend) -> Iterator[Session]:
    with Session(backend) as started:
        for operation in START:
            started.do(operation)
        yield started


def value(session: Session, operation: Operation) -> int | str:
    return session.do(operation).value


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208  names, not paths


# ------------------------------------------------------------------------------------------------ descriptors


def test_new_descriptor_is_named_and_its_number_is_not_kept(session: Session) -> None:
    assert value(session, Ioctl("vm0", "KVM_CREATE_VM")) == -EINVAL
    assert value(session, Ioctl("kvm", "KVM_CREATE_VM", 36, new="vm1")) == NEW
    assert value(session, Ioctl("vm1", "KVM_CHECK_EXTENSION", abi.KVM_CAP_CHECK_EXTENSION_VM)) == 1


def test_name_that_stands_for_nothing_is_no_descriptor(session: Session) -> None:
    assert value(session, Ioctl("closed", "KVM_CHECK_EXTENSION")) == -EBADF
    session.do(Close("vm0"))
    assert value(session, Ioctl("vm0", "KVM_CHECK_EXTENSION")) == -EBADF
    assert value(session, Close("vm0")) == 0
    assert value(session, Ioctl(-1, "KVM_CHECK_EXTENSION")) == -EBADF


def test_name_that_is_used_again_closes_the_descriptor_before(session: Session) -> None:
    before = len(open_descriptors())
    session.do(Ioctl("kvm", "KVM_CREATE_VM", 32, new="vm0"))
    assert len(open_descriptors()) == before


def test_descriptor_without_a_name_is_closed_at_once(session: Session) -> None:
    before = open_descriptors()
    assert value(session, Ioctl("kvm", "KVM_CREATE_VM", 32)) == NEW
    assert open_descriptors() == before


def test_nothing_stays_open_or_mapped(backend: EmulatedBackend) -> None:
    before, mapped = open_descriptors(), Path("/proc/self/maps").read_text().count("\n")
    with Session(backend) as started:
        for operation in (*START, EventFd("eventfd0"), Map("mem1", PAGE, "ro")):
            started.do(operation)
        assert open_descriptors() != before
    assert open_descriptors() == before
    # The allocator may have mapped something meanwhile.
    assert Path("/proc/self/maps").read_text().count("\n") <= mapped + 2


def test_begin_is_a_new_start(session: Session) -> None:
    session.do(region())
    session.do(Begin("again"))
    assert value(session, Ioctl("vm0", "KVM_CHECK_EXTENSION")) == -EBADF
    for operation in START:
        session.do(operation)
    assert value(session, region(slot=1)) == 0


def test_no_descriptor_means_that_none_is_left(session: Session) -> None:
    made = Ioctl("kvm", "KVM_CREATE_VM", 32, new="vm1", no_descriptor=True)
    assert value(session, made) == -EMFILE
    assert value(session, Ioctl("kvm", "KVM_CREATE_VM", 32, new="vm1")) == NEW


def test_name_of_a_descriptor_is_its_number_in_a_struct(session: Session, backend: EmulatedBackend) -> None:
    session.do(EventFd("eventfd0"))
    fields = struct("ioeventfd", addr=0x1000, len=4, fd="eventfd0")
    assert value(session, Ioctl("vm0", "KVM_IOEVENTFD", fields)) == 0
    fields = struct("ioeventfd", addr=0x2000, len=4, fd="closed")
    assert value(session, Ioctl("vm0", "KVM_IOEVENTFD", fields)) == -EBADF


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("where", ["null", "unmapped", "kernel", "mem0-0x8", "mem0+0x10000", "mem0+0xfff8", "mem7"])
def test_bad_pointer_is_efault(session: Session, where: str) -> None:
    assert value(session, region(where)) == -EFAULT


def test_protection_of_an_area_is_real(session: Session) -> None:
    session.do(Write("mem0+0x100", struct("userspace_memory_region", memory_size=PAGE)))
    for protection, expected in (("none", -EFAULT), ("ro", 0), ("rw", 0)):
        session.do(Protect("mem0", protection))
        assert value(session, region("mem0+0x100")) == expected
    session.do(Unmap("mem0"))
    assert value(session, region("mem0+0x100")) == -EFAULT


def test_area_that_cannot_be_written_is_left_as_it_is(session: Session) -> None:
    session.do(Write("mem0+0x100", struct("userspace_memory_region", memory_size=PAGE)))
    session.do(Protect("mem0", "ro"))
    session.do(Write("mem0+0x100", Bytes(b"\xff" * 32)))
    assert value(session, region("mem0+0x100")) == 0


def test_write_into_what_is_not_mapped_does_nothing(session: Session) -> None:
    for where in ("mem7+0x0", "mem0+0xfffff"):
        assert value(session, Write(where, u64(1))) == 0


@given(size=st.integers(1, 5 * PAGE))
def test_areas_are_aligned_for_every_page_size(size: int) -> None:
    areas = Areas()
    areas.map("mem0", size, "rw")
    try:
        assert areas.address_of("mem0", otherwise=1) % ALIGNMENT == 0
        areas.write("mem0", 0, b"\xff" * size)
        assert areas.peek(areas.address_of("mem0", otherwise=1), size) == b"\xff" * size
    finally:
        areas.unmap_all()
    assert areas.address_of("mem0", otherwise=1) == 1


def test_symbol_that_is_none_is_refused(session: Session) -> None:
    with pytest.raises(ValueError, match="not a symbol"):
        session.do(region("mem0+12"))


# ------------------------------------------------------------------------------------------------ buffers


class Writing:
    """A kernel that writes a byte behind the first eight of its argument, wherever the argument points."""

    name = "emulated"
    profile = None

    def __init__(self, at: int, content: bytes) -> None:
        self.at, self.content = at, content

    def open(self, path: str) -> int:
        return 1 << 20

    def close(self, fd: int) -> None:
        pass

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        import ctypes

        ctypes.memmove(argument + self.at, self.content, len(self.content))
        return 0


def written(at: int, content: bytes, argument: Value) -> dict[str, str]:
    with Session(Writing(at, content)) as started:  # type: ignore[arg-type]
        return started.do(Ioctl("kvm", "KVM_GET_DIRTY_LOG", argument)).wrote


class Devices(Writing):
    """A kernel that makes devices, at any address that can be read and written."""

    def __init__(self, result: int = 0, number: int | None = None) -> None:
        self.result, self.number = result, number
        self.closed: list[int] = []

    def close(self, fd: int) -> None:
        self.closed.append(fd)
        if fd < 1 << 20:
            os.close(fd)

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        import ctypes

        if not ctypes.string_at(argument, 12)[8] & abi.KVM_CREATE_DEVICE_TEST:
            new = os.open(os.devnull, os.O_RDONLY)
            if self.result == 0:
                ctypes.memmove(argument + 4, (self.number or new).to_bytes(4, "little"), 4)
        return self.result


def created(kernel: Devices, argument: Value) -> Result:
    with Session(kernel) as started:  # type: ignore[arg-type]
        started.do(Map("mem0", PAGE))
        return started.do(Ioctl("vm0", "KVM_CREATE_DEVICE", argument, new="dev0"))


def test_descriptor_of_a_device_is_new_and_its_number_is_not_kept() -> None:
    before = open_descriptors()
    kernel = Devices()
    assert created(kernel, struct("create_device", type=7, fd=0xA5)) == Result(NEW, {})
    assert created(kernel, "mem0") == Result(NEW, {})
    assert len(kernel.closed) == 2
    assert open_descriptors() == before


def test_test_for_a_device_makes_none() -> None:
    kernel = Devices()
    assert created(kernel, struct("create_device", type=7, fd=0xA5, flags=1)) == Result(0, {})
    assert kernel.closed == []


def test_device_whose_descriptor_could_not_be_told_is_closed_at_the_end() -> None:
    before = open_descriptors()
    kernel = Devices(result=-EFAULT)
    assert created(kernel, "mem0") == Result(-EFAULT, {"descriptor": "left open"})
    assert len(kernel.closed) == 1
    assert open_descriptors() == before


def test_what_changes_in_a_buffer_is_kept() -> None:
    two_buffers = struct("device_attr", group=1, addr=u64(0))
    assert written(4, b"\x07\x00\x08", two_buffers) == {"0+4": "070008"}
    # The second buffer is behind the first, whose 24 bytes take 32.
    assert written(33, b"\xff", two_buffers) == {"1+1": "ff"}
    assert written(0, b"", two_buffers) == {}
    assert written(4, b"\x01\x00\x00\x00", two_buffers) == {}


def test_write_behind_a_buffer_is_seen() -> None:
    assert written(8, b"\xff", u64(0)) == {"0+8": "ff"}


def test_one_operation_leaves_nothing_to_the_next() -> None:
    with Session(Writing(5000, b"\xff")) as started:  # type: ignore[arg-type]
        log = Ioctl("kvm", "KVM_GET_DIRTY_LOG", u64(0))
        assert started.do(log) == Result(0, {})
        assert started.do(Ioctl("kvm", "KVM_GET_DIRTY_LOG", Bytes(bytes(5001)))).wrote == {"0+5000": "ff"}
        assert started.do(Ioctl("kvm", "KVM_GET_DIRTY_LOG", Bytes(bytes(6000)))).wrote == {"0+5000": "ff"}


def number(value: Value) -> int:
    assert isinstance(value, int)
    return value


def test_struct_is_packed_as_the_abi_has_it() -> None:
    fields = struct("enable_cap", cap=7, args=[1, 2])
    assert fields.pack(number) == (7).to_bytes(8, "little") + b"".join(n.to_bytes(8, "little") for n in (1, 2)) + bytes(
        80
    )
    assert fields.size == 104
    assert struct("userspace_memory_region2", pad2=[1] * 99).pack(number)[-8:] == b"\x01" + bytes(7)
    assert len(struct("userspace_memory_region2", pad2=[1] * 99).pack(number)) == 160
    assert struct("ioeventfd", fd=-1).pack(number)[20:24] == b"\xff" * 4
    assert struct("irq_level", irq=1 << 40 | 3).pack(number)[:4] == b"\x03\x00\x00\x00"


@pytest.mark.parametrize("name", sorted(abi.STRUCTS))
def test_layout_is_of_the_structs_size(name: str) -> None:
    import struct as codec

    assert layout_of(name).size == codec.calcsize(abi.STRUCTS[name][0])
    places = list(layout_of(name).fields.values())
    ends = [place.offset + place.width * place.number for place in places]
    assert [place.offset for place in places] == [0, *ends[:-1]]


def test_unknown_struct_and_field_are_refused() -> None:
    with pytest.raises(ValueError, match="no struct is called 'region'"):
        struct("region")
    with pytest.raises(ValueError, match="struct irq_level has no field lvl"):
        struct("irq_level", lvl=1)


# ------------------------------------------------------------------------------------------------ files

EVERY_OPERATION: tuple[Operation, ...] = (
    Begin("everything"),
    *START,
    EventFd("eventfd0"),
    Protect("mem0", "ro"),
    Write("mem0+0x10", (u32(1), Bytes(b"\x01\x02"))),
    Ioctl(7, 0xAEFF, 1 << 63),
    Ioctl("vm0", "KVM_GET_DEVICE_ATTR", struct("device_attr", group=3, addr=u32(0)), no_descriptor=True),
    Ioctl("vm0", "KVM_SET_GSI_ROUTING", (struct("irq_routing", nr=1), struct("irq_routing_entry", u=[1, "null"]))),
    region(userspace_addr="mem0+0x1000", slot=65536),
    Unmap("mem0"),
    Close("vm0"),
)


def test_every_operation_survives_its_json() -> None:
    for operation in EVERY_OPERATION:
        assert operation_from_json(operation.as_json()) == operation


def test_trace_survives_its_file(backend: EmulatedBackend, tmp_path: Path) -> None:
    trace = run(EVERY_OPERATION, backend, {"lab": {"cpu": "max"}})
    for name in ("trace.jsonl", "trace.jsonl.gz"):
        trace.write(tmp_path / name)
        assert Trace.read(tmp_path / name) == trace
    assert gzip.decompress((tmp_path / "trace.jsonl.gz").read_bytes()).decode() == trace.text()
    assert trace.profile == backend.profile
    assert trace.header["lab"] == {"cpu": "max"}


def test_profile_may_have_fields_that_are_not_known_yet(backend: EmulatedBackend) -> None:
    trace = run([], backend)
    newer = Trace({"profile": {**trace.header["profile"], "colour": "blue"}}, ())
    assert newer.profile == backend.profile


def test_compressed_file_has_the_same_bytes_each_time(backend: EmulatedBackend, tmp_path: Path) -> None:
    run(START, backend).write(tmp_path / "trace.gz")
    # The time of RFC 1952's header.
    assert (tmp_path / "trace.gz").read_bytes()[4:8] == bytes(4)


@given(number=st.integers(0, (1 << 64) - 1))
def test_numbers_survive_their_json(number: int) -> None:
    assert from_json(as_json(number)) == number
    assert from_json(as_json(struct("one_reg", id=number))) == struct("one_reg", id=number)


@pytest.mark.parametrize("line", ['{"kvmipa_trace": 2}', '{"kvmipa_recording": 1}', "[]", ""])
def test_other_formats_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a kvmipa trace of format 1"):
        Trace.of_text(line)


def test_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="no operation is called 'dance'"):
        operation_from_json({"dance": "vm0"})


def test_result_is_in_the_kernels_words(backend: EmulatedBackend) -> None:
    trace = run([*START, region(), region(), region(slot=1), Ioctl("kvm", "KVM_GET_API_VERSION")], backend)
    lines = trace.text().splitlines()
    assert '"result":"new"' in lines[3]
    assert '"result":0}' in lines[4]
    assert '"result":"EEXIST"' in lines[6]
    assert '"result":12' in lines[7]


# ------------------------------------------------------------------------------------------------ replaying


def test_trace_replays_on_the_kernel_it_was_taken_on(kvm: Kvm) -> None:
    pages = [region(slot=slot, memory_size=LARGEST_PAGE) for slot in (0, 1)]
    operations = [*START, *pages, region("kernel"), Ioctl("closed", "KVM_RUN")]
    trace = run(operations, kvm._backend)
    assert list(replay(trace, kvm._backend)) == []
    assert [step.result.value for step in trace.steps[-3:]] == [-EEXIST, -EFAULT, -EBADF]


def test_difference_is_told_with_its_place(backend: EmulatedBackend) -> None:
    trace = run([Begin("part"), *START, region()], backend)
    wrong = Step(trace.steps[-1].operation, Result(-EEXIST, {}))
    other = Trace(trace.header, (*trace.steps[:-1], wrong))
    found = list(replay(other, backend))
    assert found == [Difference(4, "part", wrong, Result(0, {}))]
    assert str(found[0]).startswith("part, step 4: {")
    assert str(found[0]).endswith("but now {'result': 0}")


def test_what_was_written_is_compared(backend: EmulatedBackend) -> None:
    trace = run([*START, region()], backend)
    wrong = Step(trace.steps[-1].operation, Result(0, {"0+0": "ff"}))
    assert len(list(replay(Trace(trace.header, (*trace.steps[:-1], wrong)), backend))) == 1


def test_struct_values_are_compared_by_content() -> None:
    assert struct("irq_level", irq=1) == Struct("irq_level", {"irq": 1})
    assert struct("irq_level", irq=1) != struct("irq_level", irq=2)
