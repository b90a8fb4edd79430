# SPDX-License-Identifier: Apache-2.0
"""The command line of the lab."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ci.lab import build_kernel, config, fuzz, guest_commands, image, kernel, qemu, record, root, wheel
from ci.lab.cache import Cache
from ci.lab.errors import GuestTimeoutError, LabError
from ci.lab.guest_commands import EXIT_TIMEOUT
from ci.lab.kinds import KINDS
from ci.packaging.build import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from ci.lab.config import Lab

# As git bisect has it: it cannot be mistaken for the status of an ordinary command.
EXIT_LAB = 125
# 128 + SIGTERM, as a shell has it.
EXIT_TERMINATED = 143

DESCRIPTION = """\
Boot real arm64 Linux kernels that have a working /dev/kvm under qemu-system-aarch64, and run a command in the guest.
No hardware virtualisation is used, and nothing is installed on this machine.
"""

EPILOG = """\
examples:
  python -m ci.lab list                                 what there is, and what is in the cache
  python -m ci.lab fetch                                download all kernels that Debian has
  python -m ci.lab build-kernel 6.12-64k-lab            build one that it does not have
  python -m ci.lab test 6.12 max                        the test suite on Linux 6.12, QEMU's largest CPU
  python -m ci.lab test 6.1 cortex-a57 -- -k memslot    a part of it on an older kernel and a smaller CPU
  python -m ci.lab record --check 6.12 max              does that kernel still answer as recorded?
  python -m ci.lab trace 6.12 max                       what it answers to VMs, memory, devices and vCPUs
  python -m ci.lab transcripts 6.12 max                 what comes of the guest conformance program there
  python -m ci.lab ptdump 6.12-lab max                  what its debugfs shows of stage 2
  python -m ci.lab fuzz 7.3 max --operations 200000     random operations, there and on the emulation
  python -m ci.lab bench 6.12 max                       the machine-type sweep, Python against C
  python -m ci.lab bench 6.12 max --benchmark exits     MMIO exits per second, Python against C; latency of a kick
  python -m ci.lab conform 6.12 max --out reports      kvmipa conform there, and its reports
  python -m ci.lab image 6.12 max --output DIR          a kernel and an initramfs for another engine to boot
  python -m ci.lab run 6.12 max --mode protected -- kvmipa doctor
  python -m ci.lab run 7.3 max --out results --no-wheel -- sh -c 'dmesg > /out/dmesg'
  python -m ci.lab run 6.12 max --copy probe.py:/probe.py -- python3 /probe.py

Whatever a command needs (kernel, root filesystem, wheel) is downloaded and built first if it is not in the cache, which
is $KVMIPA_LAB_CACHE, or kvmipa-lab in the user's cache directory. Debian packages come from the mirror that this
machine's apt uses, or from $KVMIPA_LAB_MIRROR, the URI of a Debian mirror: machines that are not Debian have to name
one. Its packages are verified with $KVMIPA_LAB_KEYRING, or with debian-archive-keyring's
(apt install debian-archive-keyring).

exit status of run and test: the command's own (128 + n where signal n ended it), 124 where its time was up,
125 where the lab itself failed.

needs: Python 3.11, qemu-system-aarch64, apt and dpkg-deb, and for the wheel gcc-aarch64-linux-gnu
(Debian: apt install qemu-system-arm gcc-aarch64-linux-gnu).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        with _ended_by_sigterm():
            status: int = options.run(config.load(), Cache(), options)
    except GuestTimeoutError as error:
        print(f"lab: {error}", file=sys.stderr)
        return EXIT_TIMEOUT
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return EXIT_LAB
    except KeyboardInterrupt:
        return 130
    return status


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise SystemExit: its default action would end the lab and leave its QEMU running."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    # A second one would break off the cleaning up after the first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    qemu.STOPPING.set()
    raise SystemExit(EXIT_TERMINATED)


# ---------------------------------------------------------------------------------------------- the parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, and in `command` what follows the first --.

    argparse has no notion of that: it would read on for options of its own in the guest's command.
    """
    parser = _parser()
    own, command = list(arguments), []
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
    options = parser.parse_args(own)
    if options.run not in guest_commands.TAKE_COMMAND and command:
        parser.error("only run, test and conform take a command after --")
    if options.run is guest_commands.run and not command:
        parser.error("run takes a command after --")
    options.command = command
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ci.lab",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    listing = commands.add_parser("list", help="the configurations, and what is in the cache")
    listing.set_defaults(run=_list)

    fetch = commands.add_parser("fetch", help="download kernels")
    fetch.add_argument("kernels", nargs="*", metavar="KERNEL", help="default: all that are downloaded")
    fetch.add_argument("--again", action="store_true", help="look for a newer version also where one is in the cache")
    fetch.set_defaults(run=_fetch)

    building = commands.add_parser("build-kernel", help="build a kernel that Debian does not have, from its sources")
    building.add_argument("kernels", nargs="+", metavar="KERNEL", help="such as 6.12-64k-lab; see list")
    building.add_argument(
        "--again", action="store_true", help="look for newer sources also where some are in the cache"
    )
    building.set_defaults(run=_build_kernel)

    making_root = commands.add_parser("root", help="build the guest's root filesystem")
    making_root.add_argument("--again", action="store_true", help="build it anew, from today's packages")
    making_root.set_defaults(run=_root)

    making_wheel = commands.add_parser("wheel", help="cross-build the arm64 wheel of the working tree")
    making_wheel.add_argument("--source", type=Path, default=SOURCE, metavar="DIR", help="another source tree")
    making_wheel.set_defaults(run=_wheel)

    image.add_command(commands)
    guest_commands.add_commands(commands)
    for kind in KINDS:
        record.add_command(kind, commands)
    fuzz.add_command(commands)
    return parser


# ---------------------------------------------------------------------------------------------- the subcommands


def _list(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    print(f"cache: {cache.root}")
    guest_root = root.cached(lab, cache)
    print(f"root:  {_describe_root(guest_root)}")
    print("\nkernels")
    for item in lab.all_kernels.values():
        fetched = kernel.cached(cache, item)
        absent = "not built" if item.name in lab.built_kernels else "not fetched"
        state = f"{fetched.release} ({fetched.version})" if fetched else absent
        print(f"  {item.name:12} {item.page_size // 1024:2}K pages, {item.pa_bits}-bit PA  {item.suite:17} {state}")
    print("\nCPUs")
    for cpu in lab.cpus.values():
        print(f"  {cpu.name:14} -cpu {cpu.qemu}")
    print("\nmodes")
    for mode in lab.modes.values():
        print(f"  {mode.name:14} {mode.about}")
    print("\nwhat does not work")
    for obstacle in lab.obstacles:
        names = (obstacle.kernels, obstacle.cpus, obstacle.modes)
        which = " x ".join(",".join(group) for group in names if group is not None)
        print(f"  {which}:\n      {obstacle.why}")
    return 0


def _describe_root(guest_root: root.GuestRoot | None) -> str:
    if guest_root is None:
        return "not built"
    size = guest_root.archive.stat().st_size / 1e6
    return f"{guest_root.suite}, Python {guest_root.python}, {size:.0f} MB"


def _fetch(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    for name in options.kernels:
        lab.configuration(name, next(iter(lab.cpus)))
    failed = False
    for name in options.kernels or lab.kernels:
        try:
            fetched = kernel.fetch(lab, cache, lab.all_kernels[name], again=options.again)
        except LabError as error:
            print(f"lab: {name}: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{name:12} {fetched.release:30} {fetched.image}")
    for item in lab.built_kernels.values() if not options.kernels else ():
        print(f"{item.name:12} {kernel.how_to_build(item)}")
    return EXIT_LAB if failed else 0


def _build_kernel(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    for name in options.kernels:
        if name not in lab.built_kernels:
            raise LabError(f"{name} is not among the kernels that are built here: {', '.join(lab.built_kernels)}")
    for name in options.kernels:
        built = build_kernel.build(lab, cache, lab.built_kernels[name], again=options.again)
        print(f"{name:12} {built.release:30} {built.image}")
    return 0


def _root(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    guest_root = root.build(lab, cache, again=options.again)
    print(f"{_describe_root(guest_root)}: {guest_root.archive}")
    return 0


def _wheel(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    print(wheel.build(lab, cache, options.source))
    return 0


if __name__ == "__main__":
    sys.exit(main())
