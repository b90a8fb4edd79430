# SPDX-License-Identifier: Apache-2.0
"""Boot a kernel, run one command in it, and take home what came of it."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ci.lab import config, kernel, overlay, qemu, root
from ci.lab.cache import Cache
from ci.lab.conversation import Conversation, GuestResult
from ci.lab.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.lab.config import Configuration, Lab, Machine

_KEPT_LOGS = 50


def run_in_guest(
    configuration: Configuration,
    command: Sequence[str],
    *,
    files: Mapping[str, Path] | None = None,
    wheel_file: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    memory: int | None = None,
    smp: int | None = None,
    timeout: float | None = None,
    append: str = "",
    out_dir: Path | None = None,
    gdb_port: int | None = None,
    channel_kind: str = "auto",
    listener: Listener | None = None,
    lab: Lab | None = None,
    cache: Cache | None = None,
) -> GuestResult:
    """Boot this configuration, run the command in it, and power it off.

    `files` maps paths in the guest to files or directories here; `wheel_file` is installed in the guest. Files that the
    command leaves in /out arrive in `out_dir`. A kernel and a root filesystem that are not in the cache are made first.
    A command that fails is no error; a guest that does not come to its end is (LabError, GuestTimeoutError).
    """
    lab = lab or config.load()
    cache = cache or Cache()
    machine = lab.machine.with_gic(configuration.gic)
    timeout = timeout or machine.timeout
    fetched = kernel.fetch(lab, cache, configuration.kernel)
    guest_root = root.build(lab, cache)
    job = overlay.Job(
        argv=list(command),
        cwd=cwd or lab.guest.work_dir,
        env={**lab.guest.env, **(env or {})},
        channel=channel_kind,
        deadline=timeout,
    )
    tree = overlay.build(lab, guest_root, job, files or {}, wheel_file) | overlay.kernel_config(fetched)
    words = (machine.append, configuration.mode.append, append)
    with tempfile.TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        boot = qemu.Boot(
            cpu=configuration.cpu.qemu,
            image=fetched.image,
            initrd=overlay.initrd(guest_root, tree, Path(scratch)),
            append=" ".join(word for word in words if word),
            memory=memory or machine.memory,
            smp=smp or machine.smp,
            gdb_port=gdb_port,
        )
        with cache.slot(machine.slots):
            log_path = _log_path(cache, configuration)
            return _converse(machine, boot, Conversation(listener or Listener(), log_path, timeout, out_dir))


def _converse(machine: Machine, boot: qemu.Boot, conversation: Conversation) -> GuestResult:
    with conversation.log_path.open("wb") as log:
        conversation.start(log)
        ended = qemu.run(
            machine,
            boot,
            on_console=conversation.on_console,
            on_port=conversation.on_port,
            deadline=conversation.deadline,
        )
    return conversation.finish(ended)


def _log_path(cache: Cache, configuration: Configuration) -> Path:
    cache.keep_newest("logs", _KEPT_LOGS)
    return cache.directory("logs") / f"{configuration.name}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
