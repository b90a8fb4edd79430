# SPDX-License-Identifier: Apache-2.0
"""A kernel and an initramfs with kvmipa and a console shell, for others that boot machines: a lab's engine, a user."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.lab import kernel, overlay, programs, root, wheel
from ci.lab.cpio import Entry
from ci.lab.errors import LabError
from ci.lab.guest_init import MOUNTS

if TYPE_CHECKING:
    import argparse

    from ci.lab.cache import Cache
    from ci.lab.config import Configuration, Lab
    from ci.lab.cpio import Tree

KERNEL: Final = "Image"
INITRD: Final = "initrd.cpio"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``image`` to the lab's command line."""
    parser = commands.add_parser(
        "image", help="leave a kernel, and an initramfs with kvmipa and a shell on the console, in a directory"
    )
    parser.add_argument("kernel", metavar="KERNEL", help="such as 6.12 or 6.12-16k; see list")
    parser.add_argument("cpu", metavar="CPU", help="for the command line that is shown; such as max; see list")
    parser.add_argument("--mode", default="default", help="KVM's mode: default, nvhe, protected, nested, none")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"for {KERNEL} and {INITRD}")
    parser.set_defaults(run=_run)


def _run(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    configuration = lab.configuration(options.kernel, options.cpu, options.mode)
    export(lab, cache, configuration, options.output)
    print(shlex.join(command_line(lab, configuration, options.output)))
    return 0


def export(lab: Lab, cache: Cache, configuration: Configuration, directory: Path) -> None:
    """Write both files; LabError where the directory cannot be written."""
    fetched = kernel.fetch(lab, cache, configuration.kernel)
    guest_root = root.build(lab, cache)
    tree = wheel.installed(wheel.build(lab, cache), guest_root)
    if guest_root.compiles_here:
        tree |= root.bytecode(tree)
    tree |= overlay.kernel_config(fetched) | _init(lab)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(fetched.image, directory / KERNEL)
        overlay.initrd(guest_root, tree, directory)
    except OSError as error:
        raise LabError(f"{directory}: {error.strerror}") from error


def command_line(lab: Lab, configuration: Configuration, directory: Path) -> list[str]:
    """QEMU with the console on this terminal."""
    machine = lab.machine.with_gic(configuration.gic)
    append = " ".join(word for word in (machine.append, configuration.mode.append) if word)
    return [
        programs.find(machine.qemu, machine.qemu_package),
        *("-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio", "-monitor", "none"),
        *("-machine", machine.machine, "-accel", machine.accel),
        *("-cpu", configuration.cpu.qemu, "-smp", str(machine.smp), "-m", str(machine.memory)),
        *("-kernel", str(directory / KERNEL), "-initrd", str(directory / INITRD), "-append", append),
    ]


def _init(lab: Lab) -> Tree:
    """Process 1: a shell that has the console as its terminal; powers off when it ends."""
    mounts = "".join(
        f"busybox mkdir -p {target}; busybox mount -t {kind} {source} {target}\n" for source, target, kind in MOUNTS
    )
    environment = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in lab.guest.env.items())
    script = (
        f"#!/bin/busybox sh\n{mounts}{environment}export PS1='kvmipa# '\ncd /root\n"
        "busybox setsid busybox cttyhack busybox sh\n"
        "busybox poweroff -f\n"
    )
    return {"init": Entry.file(script.encode(), 0o755)}
