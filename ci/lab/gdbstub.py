# SPDX-License-Identifier: Apache-2.0
"""A client of QEMU's gdb stub: registers by name, guest physical memory, stop and go.

Protocol: the GDB manual's appendix "Remote Serial Protocol"; QEMU's own packet is Qqemu.PhyMemMode (docs/system/gdb).
"""

from __future__ import annotations

import contextlib
import socket
import xml.etree.ElementTree as ET
from functools import cached_property
from typing import TYPE_CHECKING, Final

from ci.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

# QEMU's packets hold 4096 characters, two for each byte of memory.
_CHUNK: Final = 2000
_INTERRUPT: Final = b"\x03"
_STOPPED: Final = (b"T", b"S")
_ENDED: Final = (b"W", b"X")


class GdbStubError(LabError):
    """The stub answered with an error, with something else than was asked for, or not at all."""


class GdbStub:
    """The stub at the other end of a connected socket; a context manager that lets the machine go on at its end.

    QEMU stops the machine when a client connects, and says so without having been asked; whichever of its stop replies
    is not awaited is passed over.
    """

    def __init__(self, connection: socket.socket, timeout: float = 30.0) -> None:
        self._connection = connection
        self._connection.settimeout(timeout)
        self._received = bytearray()

    @classmethod
    def connect(cls, port: int, timeout: float = 30.0) -> GdbStub:
        """Connect to a stub on this machine, and stop the machine that it is part of."""
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout)
        except OSError as error:
            raise GdbStubError(f"no gdb stub on port {port}: {error}") from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connection, timeout)

    def __enter__(self) -> GdbStub:
        """The stub."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Let the machine, which has to be stopped, go on, and disconnect.

        A client that only closes the connection leaves the machine stopped; one that closes it before the answer has
        come may take its last packet back with it.
        """
        with contextlib.suppress(GdbStubError):
            self._expect_ok(b"D")
        self._connection.close()

    # ------------------------------------------------------------------------------------------ stop and go

    def halt(self) -> None:
        """Stop the machine, and wait until it has stopped."""
        self._transfer(_INTERRUPT)
        self._wait_for_stop()

    def resume(self) -> None:
        """Let the machine go on."""
        self._send(b"c")

    def _wait_for_stop(self) -> None:
        reply = self._receive()
        if not reply.startswith(_STOPPED):
            raise GdbStubError(f"the machine was to stop, and the gdb stub says {reply!r}")

    # ------------------------------------------------------------------------------------------ registers

    @cached_property
    def registers(self) -> Mapping[str, int]:
        """The numbers of all registers, by the names in the target description.

        A register without a number has the one after its predecessor's (GDB manual, "Target Description Format").
        """
        numbers: dict[str, int] = {}
        following = 0
        for register in self._described("target.xml"):
            number = int(register.get("regnum", following))
            # A vector register and its aliases may share a name with nothing that is asked for here: the first stays.
            numbers.setdefault(register.get("name", ""), number)
            following = number + 1
        return numbers

    def _described(self, document: str) -> list[ET.Element]:
        # QEMU does not declare the prefix, so to a parser the document is none.
        text = self._read_document(document).replace("<xi:include", "<include")
        found = []
        try:
            root = ET.fromstring(text)
        except ET.ParseError as error:
            raise GdbStubError(f"the gdb stub's {document} cannot be read: {error}") from error
        for element in root.iter():
            if element.tag == "include":
                found += self._described(element.get("href", ""))
            elif element.tag == "reg":
                found.append(element)
        return found

    def _read_document(self, name: str) -> str:
        text = bytearray()
        while True:
            reply = self._ask(b"qXfer:features:read:%s:%x,%x" % (name.encode(), len(text), _CHUNK))
            if reply[:1] not in (b"m", b"l"):
                raise GdbStubError(f"the gdb stub has no {name}: {reply!r}")
            text += reply[1:]
            if reply.startswith(b"l"):
                return text.decode()

    def read_register(self, name: str) -> int:
        """A register of the stopped CPU."""
        return int.from_bytes(self._read_bytes(b"p%x" % self._number(name)), "little")

    def write_register(self, name: str, value: int, size: int = 8) -> None:
        """Write a register, of this many bytes, of the stopped CPU."""
        self._expect_ok(b"P%x=%s" % (self._number(name), value.to_bytes(size, "little").hex().encode()))

    def _number(self, name: str) -> int:
        if name not in self.registers:
            raise GdbStubError(f"this machine's CPU has no register {name}, or QEMU does not show it")
        return self.registers[name]

    # ------------------------------------------------------------------------------------------ memory

    def read_physical(self, address: int, size: int) -> bytes:
        """Memory by its physical address in the machine, whatever the CPU's own translation is."""
        self._expect_ok(b"Qqemu.PhyMemMode:1")
        data = bytearray()
        while len(data) < size:
            length = min(_CHUNK, size - len(data))
            part = self._read_bytes(b"m%x,%x" % (address + len(data), length))
            if len(part) != length:
                raise GdbStubError(f"{length} bytes were asked for at {address:#x}, {len(part)} came")
            data += part
        return bytes(data)

    # ------------------------------------------------------------------------------------------ packets

    def _read_bytes(self, command: bytes) -> bytes:
        reply = self._ask(command)
        try:
            return bytes.fromhex(reply.decode())
        except ValueError as error:
            raise GdbStubError(f"the gdb stub answers {command!r} with {reply!r}") from error

    def _expect_ok(self, command: bytes) -> None:
        reply = self._ask(command)
        if reply != b"OK":
            raise GdbStubError(f"the gdb stub answers {command!r} with {reply!r}")

    def _ask(self, command: bytes) -> bytes:
        self._send(command)
        while True:
            reply = self._receive()
            # No answer to a question begins with these letters: it is the stop reply that nobody asked for.
            if not reply.startswith(_STOPPED):
                return reply

    def _send(self, data: bytes) -> None:
        self._transfer(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _transfer(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise GdbStubError(f"the connection to the gdb stub broke: {error}") from error

    def _receive(self) -> bytes:
        """The next packet's contents; acknowledgements are passed over, the packet is acknowledged."""
        while self._next_byte() != ord("$"):
            pass
        raw = bytearray()
        while (byte := self._next_byte()) != ord("#"):
            raw.append(byte)
        checksum = bytes((self._next_byte(), self._next_byte()))
        if sum(raw) & 0xFF != int(checksum, 16):
            raise GdbStubError(f"a damaged packet from the gdb stub: {bytes(raw)!r}")
        self._transfer(b"+")
        if raw.startswith(_ENDED):
            raise GdbStubError("the machine has ended")
        return _unescaped(raw)

    def _next_byte(self) -> int:
        if not self._received:
            try:
                data = self._connection.recv(1 << 16)
            except OSError as error:
                raise GdbStubError(f"no answer from the gdb stub: {error}") from error
            if not data:
                raise GdbStubError("the gdb stub has closed the connection")
            self._received += data
            self._received.reverse()
        return self._received.pop()


def _unescaped(raw: bytearray) -> bytes:
    """The bytes that a packet stands for: "}" before a byte flips its bit 5 (GDB manual, "Overview")."""
    data = bytearray()
    flip = 0
    for byte in raw:
        if byte == ord("}") and not flip:
            flip = 0x20
        else:
            data.append(byte ^ flip)
            flip = 0
    return bytes(data)
