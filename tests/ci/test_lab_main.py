# SPDX-License-Identifier: Apache-2.0
"""The command line leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ci.lab import __main__ as lab

if TYPE_CHECKING:
    from pathlib import Path


TERMINATED = """
import dataclasses, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ci.lab import __main__ as main, qemu

def run(lab):
    machine = dataclasses.replace(lab.machine, qemu=sys.argv[1])
    boot = qemu.Boot("max", Path("image"), Path("initrd"), "", 1, 1)
    nothing = lambda data: None
    qemu.run(machine, boot, on_console=nothing, on_port=nothing, deadline=lambda: time.monotonic() + 60)

def command(lab, cache, options):
    if sys.argv[2] == "main":
        run(lab)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run, lab).result()

main._list = command
sys.exit(main.main(["list"]))
"""


@pytest.mark.parametrize("thread", ["main", "another"])
def test_sigterm_ends_qemu_too(tmp_path: Path, thread: str) -> None:
    qemu, pid_file = tmp_path / "qemu", tmp_path / "pid"
    qemu.write_text(f"#!/bin/sh\necho $$ > {pid_file}.new\nmv {pid_file}.new {pid_file}\nexec sleep 60\n")
    qemu.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", TERMINATED, str(qemu), thread]) as process:
        until = time.monotonic() + 20
        while not pid_file.exists() and time.monotonic() < until:
            time.sleep(0.02)
        # Past Popen, which returns when the script has started.
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == lab.EXIT_TERMINATED
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_whatever_keeps_a_command_from_starting_ends_only_the_child() -> None:
    job = {"cwd": "/", "argv": ["nul\0", "x"], "env": {}}
    script = (
        f"from ci.lab import guest_init\ntry:\n    guest_init._exec({job!r}, 1, 2)\nfinally:\n    print('power off')"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (127, b"")
    assert result.stderr.startswith(b"init: nul\0: ValueError")
