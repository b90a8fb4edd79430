# SPDX-License-Identifier: Apache-2.0
"""``kvmipa replay``: run a trace on a kernel and show what it answers differently."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.cli.output import Output
    from kvmipa.system import Kvm
    from kvmipa.trace.reading import Loaded
    from kvmipa.trace.replaying import Outcome

SAME: Final = 0
DIFFERENT: Final = 1
SHOWN: Final = 20

_DESCRIPTION: Final = """\
Do again what a trace says, on this machine's KVM or on an emulated one, and show what is answered differently. Traces
are written by kvmipa record, and by kvmipa conform of what failed; logs of strace are read as traces too, as far as
they show the arguments.
"""

_EPILOG: Final = """\
The kernel is chosen as by the other commands, but for the emulated machine: without --host it is the one that the
trace was taken on (KVMIPA_HOST, or the default, where the trace does not say), and the output says which.

Of a file that ends in the middle (a program was killed, a disk was full) all is done that is whole, and the output says
that it was cut. A trace is foreign input: it opens the KVM device and nothing else, its areas of memory are limited,
and a guest does not run whose memory is more than these.

exit status:
  0  no difference
  1  differences, or the KVM could not be opened
  2  wrong usage, or no trace
  3  the backend that was asked for is not available here (kvmipa doctor says why)

examples:
  kvmipa replay kvmipa-trace.jsonl                    on this machine, or as it was
  kvmipa replay C5.trace --host raspberry-pi-4        would a Raspberry Pi 4 answer the same?
  kvmipa replay --backend native --json vmm.jsonl.gz  on this machine's KVM
  strace -f -o qemu.log -e trace=openat,ioctl,close,mmap,eventfd2 qemu-system-aarch64 -accel kvm ...
  kvmipa replay qemu.log --host apple-m1              would QEMU get the same answers on an Apple M1?
"""


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "replay",
        parents=[common],
        help="run a trace on a kernel and show what it answers differently",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", metavar="TRACE", help="the file, compressed by gzip or not")
    parser.add_argument("--all", action="store_true", help=f"show every difference, and not the first {SHOWN}")
    parser.set_defaults(run=run)


def run(arguments: Namespace, output: Output) -> int:
    """Replay it."""
    from pathlib import Path

    from kvmipa.trace.reading import NotATraceError, load
    from kvmipa.trace.replaying import replay

    loaded = load(Path(arguments.trace))
    try:
        kvm, why = _open(arguments, loaded)
        with kvm:
            backend, headline = kvm._backend, _headline(kvm)
        outcome = replay(loaded, backend, arguments.device)
    except NotATraceError as error:
        raise NotATraceError(f"{arguments.trace}: {error}") from None
    shown = outcome.differences if arguments.all else outcome.differences[:SHOWN]
    found = {
        "command": "replay",
        "trace": arguments.trace,
        "backend": kvm.backend,
        "host": headline[1],
        "host_is": why,
        "operations": len(loaded.trace.steps),
        "cut": loaded.cut or None,
        "notes": loaded.notes,
        "skipped": dict(loaded.skipped),
        "differences": [one.as_json() for one in outcome.differences],
        "consequences": outcome.consequences,
    }
    output.result(found, "\n".join(_text(headline, why, loaded, outcome, shown)))
    return DIFFERENT if outcome.differences else SAME


def _open(arguments: Namespace, loaded: Loaded) -> tuple[Kvm, str]:
    """The KVM, and why it is this host."""
    import os

    import kvmipa
    from kvmipa.choice import choose
    from kvmipa.cli.opening import open_kvm

    if arguments.host is not None:
        return open_kvm(arguments), "as --host has it"
    name = choose(arguments.backend, arguments.device, None)
    if name == "auto":
        kvm = open_kvm(arguments)
        if kvm.backend == "native":
            return kvm, "this machine"
        kvm.close()
    elif name == "native":
        return open_kvm(arguments), "this machine"
    profile = _profile_of(loaded)
    if profile is not None:
        return kvmipa.open("emulated", device=arguments.device, host=profile), "the host of the trace"
    why = "as KVMIPA_HOST has it" if os.environ.get("KVMIPA_HOST") else "the default; --host chooses another"
    return kvmipa.open("emulated", device=arguments.device), f"{why}: the trace does not say its host"


def _profile_of(loaded: Loaded) -> HostProfile | None:
    from kvmipa.trace.reading import NotATraceError

    if "profile" not in loaded.trace.header:
        return None
    try:
        return loaded.trace.profile
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise NotATraceError(f"line 1: the host's profile is none: {error}") from None


def _headline(kvm: Kvm) -> tuple[str, str]:
    from kvmipa.cli.output import headline

    return headline(kvm)


def _text(headline: tuple[str, str], why: str, loaded: Loaded, outcome: Outcome, shown: Sequence[Any]) -> Sequence[str]:
    lines = [f"{headline[0]}  {headline[1]} ({why})"]
    if loaded.cut:
        lines.append(f"cut       {loaded.cut}: the {len(loaded.trace.steps)} operations before it are done")
    lines += [f"note      {note}" for note in loaded.notes]
    lines += [f"skipped   {count} x {what}" for what, count in loaded.skipped]
    for one in shown:
        lines += ["", f"line {one.line}: {one.words}", f"  {one.call}"]
    count, left = len(outcome.differences), len(outcome.differences) - len(shown)
    if left:
        lines += ["", f"and {left} more; --all shows them"]
    if outcome.consequences:
        lines += ["", f"{outcome.consequences} more are consequences: what they work on was not made here"]
    if shown:
        lines.append("")
    verdict = "no difference" if not count else f"{count} difference{'s' * (count > 1)}"
    total = len(loaded.trace.steps)
    lines.append(f"{verdict} in {total} operation{'s' * (total != 1)}")
    return lines
