# SPDX-License-Identifier: Apache-2.0
"""What a guest sends arrives as it was sent, or is refused."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from ci.lab import channel

if TYPE_CHECKING:
    from collections.abc import Iterable

MESSAGES = [
    (channel.HELLO, b"{}"),
    (channel.STDOUT, b""),
    (channel.STDOUT, b"one\ntwo\r\n\x00\xff"),
    (channel.STDERR, channel.PREAMBLE + channel.LINE_PREFIX),
    (channel.RESULT, b"{'exit_status': 0}"),
]


def sent(messages: Iterable[tuple[bytes, bytes]], *, console: bool = False) -> bytes:
    data = bytearray()
    sender = channel.Sender(data.extend, console=console)
    for kind, payload in messages:
        sender.send(kind, payload)
    return bytes(data)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def received(reader: channel.PortReader | channel.ConsoleReader, data: bytes, size: int = 7) -> list[Any]:
    return [item for piece in pieces(data, size) for item in reader.feed(piece)]


@pytest.mark.parametrize("size", [1, 2, 13, 1 << 20])
def test_port(size: int) -> None:
    assert received(channel.PortReader(), sent(MESSAGES), size) == MESSAGES


def test_port_ignores_what_probing_sent() -> None:
    assert received(channel.PortReader(), b"\x00garbage\n" + sent(MESSAGES)) == MESSAGES


@pytest.mark.parametrize("console", [False, True])
def test_long_payloads_are_split(console: bool) -> None:
    reader = channel.ConsoleReader() if console else channel.PortReader()
    payload = os.urandom(3 * channel.MAX_PAYLOAD + 5)
    items = received(reader, sent([(channel.STDOUT, payload)], console=console), 4096)
    assert len(items) > 3
    frames = [item for item in items if isinstance(item, tuple)]
    assert {kind for kind, _ in frames} == {channel.STDOUT}
    assert b"".join(part for _, part in frames) == payload


@pytest.mark.parametrize("console", [False, True])
def test_files(console: bool) -> None:
    data = bytearray()
    channel.Sender(data.extend, console=console).send_file("a/b", b"contents" * 1000)
    reader = channel.ConsoleReader() if console else channel.PortReader()
    (kind, path), (data_kind, packed) = [item for item in received(reader, bytes(data)) if isinstance(item, tuple)]
    assert (kind, path, data_kind) == (channel.FILE, b"a/b", channel.DATA)
    assert zlib.decompress(packed) == b"contents" * 1000


def test_a_flipped_bit_is_found() -> None:
    good = sent(MESSAGES)
    start = len(channel.PREAMBLE)
    for at in range(start, len(good)):
        bad = bytearray(good)
        bad[at] ^= 1
        reader = channel.PortReader()
        try:
            frames = received(reader, bytes(bad), 1 << 20)
        except channel.CorruptError:
            continue
        # A length that grew: then the end is missing, which the reader shows as pending.
        assert len(frames) < len(MESSAGES)
        assert reader.pending


def test_a_lost_byte_is_found() -> None:
    good = sent(MESSAGES)
    at = good.index(b"two")
    with pytest.raises(channel.CorruptError):
        received(channel.PortReader(), good[:at] + good[at + 1 :])


def test_a_truncated_stream_is_pending() -> None:
    reader = channel.PortReader()
    assert received(reader, sent(MESSAGES)[:-1]) == MESSAGES[:-1]
    assert reader.pending


def test_console_keeps_the_kernels_lines() -> None:
    encoded = sent(MESSAGES, console=True).replace(b"\n", b"\r\n")
    middle = encoded.index(b"\r\n", 20) + 2
    data = b"[ 0.1] Booting\r\n" + encoded[:middle] + b"[ 9.9] a message\r\n" + encoded[middle:]
    items = received(channel.ConsoleReader(), data)
    assert [item for item in items if isinstance(item, tuple)] == MESSAGES
    assert b"".join(item for item in items if isinstance(item, bytes)) == b"[ 0.1] Booting\n\n[ 9.9] a message\n"


def test_console_line_broken_by_the_kernel_is_refused() -> None:
    encoded = sent([(channel.STDOUT, b"x" * 100)], console=True)
    with pytest.raises(channel.CorruptError):
        received(channel.ConsoleReader(), encoded[:40] + b"[ 9.9] oops\n" + encoded[40:])


def test_console_shows_an_unfinished_line() -> None:
    reader = channel.ConsoleReader()
    assert list(reader.feed(b"one\ntw")) == [b"one\n"]
    assert reader.rest() == b"tw"
