# SPDX-License-Identifier: Apache-2.0
"""The client of QEMU's gdb stub, against a stub that speaks as QEMU's does; and what is read through it."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ci.lab import stage2_sampler, stage2_samples
from ci.lab.errors import LabError
from ci.lab.gdbstub import GdbStub, GdbStubError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# As QEMU has it: a prefix that is not declared, numbers only where they do not follow from the order.
DOCUMENTS = {
    "target.xml": '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>'
    '<xi:include href="core.xml"/><xi:include href="system-registers.xml"/></target>',
    "core.xml": '<feature name="core"><reg name="x0" bitsize="64"/><reg name="pc" bitsize="64"/>'
    '<reg name="cpsr" bitsize="32" regnum="33"/></feature>',
    "system-registers.xml": '<feature name="sys"><reg name="HCR_EL2" bitsize="64"/>'
    + "".join(f'<reg name="R{n}" bitsize="64"/>' for n in range(60))
    + '<reg name="VTCR_EL2" bitsize="64" regnum="200"/></feature>',
}


class Stub(threading.Thread):
    """The other end: registers by number, physical memory, and QEMU's manners."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self.connection = connection
        self.registers: dict[int, bytes] = {0: bytes(8), 1: bytes(8), 33: bytes(4), 34: bytes(8), 200: bytes(8)}
        self.memory = bytearray(range(256)) * 40
        self.physical = False
        self.running = False
        self.asked: list[bytes] = []
        self.damage = False

    def run(self) -> None:
        # A client that leaves does not wait for what is still on its way.
        with contextlib.suppress(BrokenPipeError):
            self.speak()

    def speak(self) -> None:
        self.send(b"T05thread:01;")
        buffer = b""
        while data := self.receive():
            buffer += data
            while match := re.match(rb"\+*(\x03|\$([^#]*)#(..))", buffer):
                buffer = buffer[match.end() :]
                self.handle(match)

    def receive(self) -> bytes:
        try:
            return self.connection.recv(4096)
        except OSError:
            return b""

    def handle(self, match: re.Match[bytes]) -> None:
        if match[1] == b"\x03":
            assert self.running
            self.running = False
            self.send(b"T02thread:01;")
            return
        assert int(match[3], 16) == sum(match[2]) & 0xFF
        self.asked.append(match[2])
        self.connection.sendall(b"+")
        answer = self.answer(match[2])
        if answer is not None:
            self.send(answer)

    def send(self, data: bytes) -> None:
        escaped = re.sub(rb"[#$}*]", lambda match: bytes((ord("}"), match[0][0] ^ 0x20)), data)
        checksum = sum(escaped) + self.damage & 0xFF
        self.connection.sendall(b"$%s#%02x" % (escaped, checksum))

    def answer(self, command: bytes) -> bytes | None:
        text = command.decode()
        if text in ("c", "D"):
            self.running = True
            return None if text == "c" else b"OK"
        if text == "Qqemu.PhyMemMode:1":
            self.physical = True
            return b"OK"
        if match := re.fullmatch(r"qXfer:features:read:(.*):(\w+),(\w+)", text):
            # Small pieces, so that documents come in several.
            document, start = DOCUMENTS[match[1]].encode(), int(match[2], 16)
            end = start + min(int(match[3], 16), 100)
            return (b"m" if end < len(document) else b"l") + document[start:end]
        if match := re.fullmatch(r"p(\w+)", text):
            found = self.registers.get(int(match[1], 16))
            return found.hex().encode() if found else b"E14"
        if match := re.fullmatch(r"P(\w+)=(\w+)", text):
            self.registers[int(match[1], 16)] = bytes.fromhex(match[2])
            return b"OK"
        if match := re.fullmatch(r"m(\w+),(\w+)", text):
            start, size = int(match[1], 16), int(match[2], 16)
            # QEMU's packets end at 4096 characters.
            return b"E22" if 2 * size > 4096 - 5 else self.memory[start : start + size].hex().encode()
        return b""


@pytest.fixture
def connected() -> Iterator[tuple[GdbStub, Stub]]:
    here, there = socket.socketpair()
    other = Stub(there)
    other.start()
    stub = GdbStub(here, timeout=5)
    yield stub, other
    here.close()
    there.shutdown(socket.SHUT_RDWR)
    other.join()
    there.close()


def test_registers_are_found_by_name_wherever_the_description_puts_them(connected: tuple[GdbStub, Stub]) -> None:
    stub, _ = connected
    numbers = stub.registers
    assert [numbers[name] for name in ("x0", "pc", "cpsr", "HCR_EL2", "R59", "VTCR_EL2")] == [0, 1, 33, 34, 94, 200]


def test_registers_are_little_endian_and_of_any_size(connected: tuple[GdbStub, Stub]) -> None:
    stub, other = connected
    other.registers[200] = bytes.fromhex("90352e8001000000")
    other.registers[33] = bytes.fromhex("c5030060")
    assert hex(stub.read_register("VTCR_EL2")) == "0x1802e3590"
    assert hex(stub.read_register("cpsr")) == "0x600003c5"


def test_register_that_is_written_is_read_again(connected: tuple[GdbStub, Stub]) -> None:
    stub, other = connected
    stub.write_register("x0", 0x0123456789ABCDEF)
    assert other.registers[0] == bytes.fromhex("efcdab8967452301")
    assert stub.read_register("x0") == 0x0123456789ABCDEF


def test_register_that_the_cpu_does_not_have_is_an_error_that_names_it(connected: tuple[GdbStub, Stub]) -> None:
    stub, _ = connected
    with pytest.raises(GdbStubError, match="VTTBR_EL3"):
        stub.read_register("VTTBR_EL3")


def test_memory_is_physical_and_longer_than_a_packet(connected: tuple[GdbStub, Stub]) -> None:
    stub, other = connected
    assert stub.read_physical(3, 9000) == bytes(other.memory[3:9003])
    assert other.physical
    assert other.asked.index(b"Qqemu.PhyMemMode:1") < next(n for n, text in enumerate(other.asked) if text[:1] == b"m")


def test_memory_that_is_not_there_is_an_error(connected: tuple[GdbStub, Stub]) -> None:
    stub, other = connected
    with pytest.raises(GdbStubError, match="bytes were asked for"):
        stub.read_physical(len(other.memory) - 4, 8)


def test_stop_reply_that_nobody_asked_for_is_not_taken_for_an_answer(connected: tuple[GdbStub, Stub]) -> None:
    stub, other = connected
    other.registers[1] = (0x10040).to_bytes(8, "little")
    other.send(b"T05thread:01;")
    assert stub.read_register("pc") == 0x10040


def test_machine_stops_and_goes_on(connected: tuple[GdbStub, Stub]) -> None:
    stub, other = connected
    for _ in range(3):
        stub.read_register("pc")
        stub.resume()
        stub.halt()
        assert not other.running
        assert stub.read_register("x0") == 0


def test_machine_goes_on_when_the_client_leaves() -> None:
    here, there = socket.socketpair()
    other = Stub(there)
    other.start()
    with GdbStub(here, timeout=5) as stub:
        stub.read_register("pc")
        assert not other.running
    other.join(timeout=5)
    assert other.running
    there.close()


def test_damaged_packet_is_refused(connected: tuple[GdbStub, Stub]) -> None:
    stub, other = connected
    stub.read_register("pc")
    other.damage = True
    with pytest.raises(GdbStubError, match="damaged"):
        stub.read_register("pc")


def test_escaped_bytes_are_themselves_again(connected: tuple[GdbStub, Stub], monkeypatch: pytest.MonkeyPatch) -> None:
    stub, _ = connected
    name = "a#b$c}d*e"
    monkeypatch.setitem(DOCUMENTS, "core.xml", f'<feature><reg name="{name}"/></feature>')
    assert stub.registers[name] == 0


def test_end_of_the_machine_is_an_error(connected: tuple[GdbStub, Stub]) -> None:
    stub, other = connected
    stub.read_register("pc")
    other.send(b"W00")
    with pytest.raises(GdbStubError, match="ended"):
        stub.read_register("pc")


def test_port_without_a_stub_is_an_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(GdbStubError, match="no gdb stub"):
            GdbStub.connect(unused.getsockname()[1], timeout=5)


# ---------------------------------------------------------------------------------------------- what is read


def reader(words: dict[int, int]) -> Callable[[int, int], bytes]:
    def read(address: int, size: int) -> bytes:
        return b"".join(words.get(at, 0).to_bytes(8, "little") for at in range(address, address + size, 8))

    return read


def test_tables_are_followed_from_the_start_level_to_pages_and_blocks() -> None:
    # 4K, 36 bits: level 1, one table of 64 entries in use; a VMID, and CnP.
    words = {0x8000 + 63 * 8: 0x9003, 0x9000: 0x4020_07FD, 0x9008: 0xA003, 0xA000 + 511 * 8: 0x5000_07FF}
    found = list(stage2_samples.entries(reader(words), 0x8029355C, 0x0001_0000_0000_8001))
    base = 63 << 30
    assert [(is_table, *entry.as_json()) for is_table, entry in found] == [
        (True, hex(base), 1, "0x9003"),
        (False, hex(base), 2, "0x402007fd"),
        (True, hex(base + (1 << 21)), 2, "0xa003"),
        (False, hex(base + (1 << 21) + 511 * 4096), 3, "0x500007ff"),
    ]


def test_concatenated_tables_are_read_to_their_end() -> None:
    # 16K, 51 bits, 52-bit addresses: level 1, 16 tables of 2048 entries.
    words = {0x40000 + 8 * ((16 << 11) - 1): 0x1_0000_0003 | 2 << 8, (2 << 50) + 0x1_0000_0000: 0x7D9}
    found = list(stage2_samples.entries(reader(words), 0x1802EB58D, 0x40000))
    assert [(is_table, entry.level) for is_table, entry in found] == [(True, 1), (False, 2)]
    assert found[1][1].ipa == (1 << 51) - (1 << 36)


@pytest.mark.parametrize("page_size", [4096, 16384])
@pytest.mark.parametrize("ipa_bits", [32, 33, 40, 48, 52])
def test_slots_are_apart_and_every_access_is_in_one(page_size: int, ipa_bits: int) -> None:
    slots = sorted(stage2_sampler.slots(ipa_bits, page_size), key=lambda slot: slot.gpa)
    for slot in slots:
        assert slot.gpa % page_size == slot.size % page_size == 0
    for one, next_one in pairwise(slots):
        assert one.gpa + one.size <= next_one.gpa
    assert slots[-1].gpa + slots[-1].size == 1 << ipa_bits
    assert slots[0].gpa > stage2_sampler.EXIT + page_size
    for access in stage2_sampler.accesses(ipa_bits, page_size):
        assert any(slot.gpa <= access.ipa < slot.gpa + slot.size for slot in slots), access


def test_program_fits_its_page() -> None:
    for ipa_bits in (32, 52):
        program = stage2_sampler.code(stage2_sampler.accesses(ipa_bits, 4096), ipa_bits)
        assert len(program) <= 4096


def test_vm_that_was_not_seen_is_an_error() -> None:
    vms = [{"machine_type": 0}, {"machine_type": 32}]
    assert list(stage2_samples.joined(vms, {0: {"vtcr_el2": "0x1"}, 32: {"vtcr_el2": "0x2"}})) == [
        {"machine_type": 0, "vtcr_el2": "0x1"},
        {"machine_type": 32, "vtcr_el2": "0x2"},
    ]
    with pytest.raises(LabError, match=r"\[0, 32\].*\[32\]"):
        list(stage2_samples.joined(vms, {32: {}}))


def test_leaves_that_follow_one_another_are_written_once_with_their_number() -> None:
    block = 1 << 21
    leaves = [stage2_samples.Entry(n * block, 2, 0x8000_07FD + n * block) for n in range(3)]
    leaves += [stage2_samples.Entry(3 * block, 3, 0x8060_07FF), stage2_samples.Entry(3 * block + 4096, 3, 0x8070_07FF)]
    assert list(stage2_samples.runs(leaves, stage2_samples.Shape(0x8029355C))) == [
        ["0x0", 2, "0x800007fd", 3],
        ["0x600000", 3, "0x806007ff"],
        ["0x601000", 3, "0x807007ff"],
    ]
    assert list(stage2_samples.runs([], stage2_samples.Shape(0x8029355C))) == []
