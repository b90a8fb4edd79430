# SPDX-License-Identifier: Apache-2.0
"""A guest's result is believed only when all of it has arrived; else the report says how far it came."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from ci.lab import channel
from ci.lab.conversation import Conversation
from ci.lab.errors import GuestTimeoutError, LabError
from ci.lab.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELLO = (channel.HELLO, b"{'release': '6.12', 'uptime': 1.0}")


class Guest:
    """A conversation with a guest that says what a test wants."""

    def __init__(self, tmp_path: Path) -> None:
        self.conversation = Conversation(Listener(), tmp_path / "console.log", 60, tmp_path / "out")
        self.log = (tmp_path / "console.log").open("wb")
        self.conversation.start(self.log)
        self._port = io.BytesIO()
        self.sender = channel.Sender(self.conversation.on_port)

    def result(self, files: int = 0, status: int = 3) -> None:
        self.sender.send(channel.RESULT, repr({"exit_status": status, "timed_out": False, "files": files}).encode())

    def kernel(self, text: bytes) -> None:
        self.conversation.on_console(text)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.log.close()


def test_result_and_files(guest: Guest, tmp_path: Path) -> None:
    guest.kernel(b"[0.1] Linux\n")
    guest.sender.send(*HELLO)
    guest.sender.send_file("a/b", b"1" * 200_000)
    guest.sender.send_file("empty", b"")
    guest.result(files=2)
    result = guest.conversation.finish(ended=True)
    assert (result.exit_status, result.files, result.guest["release"]) == (3, ("a/b", "empty"), "6.12")
    assert (tmp_path / "out/a/b").read_bytes() == b"1" * 200_000
    assert (tmp_path / "out/empty").read_bytes() == b""
    assert result.console_path.read_bytes() == b"[0.1] Linux\n"


@pytest.mark.parametrize(
    ("console", "hello", "stage"),
    [
        (b"", False, "no output at all"),
        (b"[0.1] Linux\n", False, "init was not reached"),
        (b"[0.1] Linux\n", True, "the command was running"),
    ],
)
@pytest.mark.parametrize(("ended", "error"), [(True, LabError), (False, GuestTimeoutError)])
def test_stages(guest: Guest, console: bytes, hello: bool, stage: str, ended: bool, error: type[Exception]) -> None:
    guest.kernel(console)
    if hello:
        guest.sender.send(*HELLO)
    with pytest.raises(error, match=stage):
        guest.conversation.finish(ended)


def test_panic_is_named(guest: Guest) -> None:
    guest.kernel(b"[1.0] Kernel panic - not syncing: no\n" + b"trace\n" * 50)
    with pytest.raises(LabError, match=r"the kernel gave up: \[1\.0\] Kernel panic - not syncing: no"):
        guest.conversation.finish(ended=True)


def test_panic_is_named_once_whatever_its_words(guest: Guest) -> None:
    guest.kernel(
        b"Kernel panic - not syncing: pending\n" + b"t\n" * 50 + b"---[ end Kernel panic - not syncing: x ]---\n"
    )
    with pytest.raises(LabError) as caught:
        guest.conversation.finish(ended=True)
    named = [line for line in str(caught.value).splitlines() if line.startswith("the kernel gave up")]
    assert named == ["the kernel gave up: Kernel panic - not syncing: pending"]


def test_missing_file(guest: Guest) -> None:
    guest.sender.send(*HELLO)
    guest.result(files=1)
    with pytest.raises(LabError, match="1 files were sent, 0 arrived"):
        guest.conversation.finish(ended=True)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
def test_paths_stay_inside(guest: Guest, tmp_path: Path, path: str) -> None:
    guest.sender.send(*HELLO)
    guest.sender.send_file(path, b"x")
    with pytest.raises(LabError, match="corrupt"):
        guest.conversation.finish(ended=True)
    assert not (tmp_path / "x").exists()


def test_cut_off_file(guest: Guest) -> None:
    guest.sender.send(*HELLO)
    guest.sender.send(channel.FILE, b"a")
    guest.result(files=1)
    with pytest.raises(LabError, match="a is cut off"):
        guest.conversation.finish(ended=True)
