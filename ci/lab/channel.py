# SPDX-License-Identifier: Apache-2.0
"""How a guest sends its output, its files and its exit status to the host.

Both ends import this module: the host to read, the guest's init to write. It therefore needs little of the library, and
nothing of the lab.

A stream of frames, each protected by a checksum. On a serial port of their own the frames go as they are, after a
preamble. Where the kernel has no driver for that port, they go to the console, each as one line of base64 between the
kernel's messages.
"""

from __future__ import annotations

import binascii
import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Kinds of frames: the guest's init is there; output of the command; a file's path, and its compressed contents; the
#: end. The payload of the first and the last is a dictionary as a Python literal: json would take the guest 0.2 s to
#: import.
HELLO, STDOUT, STDERR, FILE, DATA, RESULT = b"H", b"O", b"E", b"F", b"D", b"R"

PREAMBLE = b"\n[kvmipa-lab]\n"
LINE_PREFIX = b"[kvmipa-lab] "

_HEADER = struct.Struct("<2scII")
_MAGIC = b"\xf0\x9f"
#: No frame is larger; a length beyond it is garbage on the line.
MAX_PAYLOAD = 1 << 16
#: A line of the console stays below the size of a terminal's input and output buffers.
_LINE_PAYLOAD = 2048


class CorruptError(Exception):
    """What arrived is not what a guest sends."""


def encode(kind: bytes, payload: bytes) -> bytes:
    """One frame."""
    return _HEADER.pack(_MAGIC, kind, len(payload), zlib.crc32(kind + payload)) + payload


def _decode(data: bytes | bytearray, at: int) -> tuple[bytes, bytes, int] | None:
    """The frame at this offset and the offset after it, or None where it is not complete."""
    if len(data) - at < _HEADER.size:
        return None
    magic, kind, length, checksum = _HEADER.unpack_from(data, at)
    if magic != _MAGIC or length > MAX_PAYLOAD:
        raise CorruptError("garbage where a frame should start")
    start = at + _HEADER.size
    if len(data) < start + length:
        return None
    payload = bytes(data[start : start + length])
    if zlib.crc32(kind + payload) != checksum:
        raise CorruptError(f"the checksum of a frame of {length} bytes is wrong")
    return kind, payload, start + length


class Sender:
    """The guest's end. `write` is called with bytes for the port, or with whole lines for the console."""

    def __init__(self, write: Callable[[bytes], object], *, console: bool = False) -> None:
        self._write = write
        self._console = console
        write(b"\n" if console else PREAMBLE)

    def send(self, kind: bytes, payload: bytes) -> None:
        """Send one payload, as several frames if it is long (only STDOUT, STDERR and DATA may be)."""
        size = _LINE_PAYLOAD if self._console else MAX_PAYLOAD
        for at in range(0, len(payload) or 1, size):
            frame = encode(kind, payload[at : at + size])
            if self._console:
                frame = LINE_PREFIX + binascii.b2a_base64(frame)
            self._write(frame)

    def send_file(self, path: str, data: bytes) -> None:
        """Send one file."""
        self.send(FILE, path.encode("utf-8", "surrogateescape"))
        self.send(DATA, zlib.compress(data, 1))


class PortReader:
    """The host's end of the port."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._started = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The frames that are complete with this data, as (kind, payload)."""
        self._buffer += data
        if not self._started:
            # Probing for the port may have sent a few characters.
            at = self._buffer.find(PREAMBLE)
            if at < 0:
                return
            del self._buffer[: at + len(PREAMBLE)]
            self._started = True
        while (frame := _decode(self._buffer, 0)) is not None:
            kind, payload, end = frame
            del self._buffer[:end]
            yield kind, payload

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame there are."""
        return len(self._buffer) if self._started else 0


class ConsoleReader:
    """The host's end of the console: separates the frames from what the kernel says."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes] | bytes]:
        """The complete lines: bytes where they are the console's own, (kind, payload) where they are frames."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            before, found, encoded = line.rstrip(b"\r").partition(LINE_PREFIX)
            if before or not found:
                yield line.rstrip(b"\r") + b"\n"
            if found:
                yield self._frame(encoded)

    def rest(self) -> bytes:
        """What came after the last line."""
        return self._buffer

    @staticmethod
    def _frame(encoded: bytes) -> tuple[bytes, bytes]:
        try:
            raw = binascii.a2b_base64(encoded)
        except binascii.Error as error:
            raise CorruptError(f"a line of the console is broken ({error})") from error
        frame = _decode(raw, 0)
        if frame is None:
            raise CorruptError("a line of the console is cut off")
        return frame[:2]
