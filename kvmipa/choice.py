# SPDX-License-Identifier: Apache-2.0
"""kvmipa.open: which kernel is meant, and the way to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from kvmipa import backend as seam
from kvmipa import causes, errors
from kvmipa.backend import DEVICE
from kvmipa.system import Kvm

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend import Backend
    from kvmipa.backend.emulated.host import HostProfile

CHOICES: Final = ("auto", *seam.NAMES)
DEFAULT_HOST: Final = "qemu-max-6.12-4k"

#: What is put before every backend that kvmipa.open() opens, the innermost first.
FRONTS: Final[list[Callable[[Backend], Backend]]] = []

ARM64_MACHINES: Final = ("aarch64", "aarch64_be", "arm64", "armv8l", "armv8b")


def open(
    backend: str = "auto", *, device: str | os.PathLike[str] = DEVICE, host: HostProfile | str | None = None
) -> Kvm:
    """The KVM of this machine, or an emulated one.

    backend: "native", "emulated", or "auto". Where it is "auto", the environment's KVMIPA_BACKEND decides if set; else
    a host asks for the emulated kernel and a device other than /dev/kvm for the native one; else it is native where an
    arm64 KVM answers, and emulated where there is none. On an arm64 machine whose /dev/kvm cannot be used, that is an
    error, and never a silent change to the emulation.

    device: path of the KVM device. host: a HostProfile or the name of a preset, to be emulated; the environment's
    KVMIPA_HOST if None, and a QEMU machine with 52-bit addresses if that is not set either.

    Where the environment has KVMIPA_TRACE, the name of a file, what is asked of the KVM is written there for kvmipa
    replay; of a second KVM to the file with .2 behind its name, and so on (kvmipa record sets it).

    Raises BackendUnavailableError (its subclasses name the cause), ValueError for an unknown backend or host; OSError
    where a trace cannot be written.

    >>> with open("emulated", host="raspberry-pi-4") as kvm:
    ...     kvm.host_ipa_limit
    44
    """
    kvm = _open(backend, os.fspath(device), host)
    trace = os.environ.get("KVMIPA_TRACE")
    if not trace:
        return kvm
    from kvmipa.trace.to_file import traced

    return traced(kvm, trace)


def _open(backend: str, device: str, host: HostProfile | str | None) -> Kvm:
    name = choose(backend, device, host)
    if name == "native":
        if host is not None:
            raise ValueError("host= is a machine to emulate; the native backend has the machine that it runs on")
        return open_native(device)
    if name == "emulated":
        return open_emulated(host, device)
    return open_what_answers(device)


def choose(backend: str, device: str, host: HostProfile | str | None) -> str:
    """The backend that the caller or the environment names; "auto" where neither does."""
    name = _known(backend, "backend")
    if name == "auto":
        name = _known(os.environ.get("KVMIPA_BACKEND") or "auto", "the environment's KVMIPA_BACKEND")
    if name == "auto" and host is not None:
        return "emulated"
    if name == "auto" and device != DEVICE:
        return "native"
    return name


def open_native(device: str) -> Kvm:
    """The KVM behind a device; errors name the cause."""
    from kvmipa.backend.native import NativeBackend

    return _behind_fronts(NativeBackend(), device)


def open_emulated(host: HostProfile | str | None, device: str = DEVICE) -> Kvm:
    """An emulated KVM; without a host the environment's, or the default."""
    from kvmipa.backend.emulated import EmulatedBackend
    from kvmipa.backend.emulated.host import HostProfile

    named = os.environ.get("KVMIPA_HOST") if host is None else None
    if named:
        try:
            host = HostProfile.preset(named)
        except ValueError as error:
            raise ValueError(f"the environment's KVMIPA_HOST: {error}") from None
    elif host is None:
        host = DEFAULT_HOST
    profile = HostProfile.preset(host) if isinstance(host, str) else host
    if not isinstance(profile, HostProfile):
        raise TypeError(f"host is a HostProfile, the name of a preset, or None, not {host!r}")
    return _behind_fronts(EmulatedBackend(profile), device)


def _behind_fronts(backend: Backend, device: str) -> Kvm:
    for front in FRONTS:
        backend = front(backend)
    return Kvm(backend, device)


def open_what_answers(device: str) -> Kvm:
    """Native if an arm64 KVM answers; emulated if nothing, or something else, does."""
    if not os.path.exists(device):  # noqa: PTH110  pathlib costs more than the rest of this import
        return open_emulated(None)
    try:
        kvm = open_native(device)
    except errors.QemuUserError:
        # qemu-aarch64 in user mode: the device is the host's, and no KVM is behind it.
        return open_emulated(None)
    except errors.BackendUnavailableError:
        if machine() in ARM64_MACHINES:
            raise
        return open_emulated(None)
    if kvm.is_arm64:
        return kvm
    kvm.close()
    if machine() in ARM64_MACHINES:
        raise causes.not_arm64_error(f"open {device}")
    return open_emulated(None)


def machine() -> str:
    """The machine's architecture, as uname -m names it; empty where there is no uname."""
    return os.uname().machine if hasattr(os, "uname") else ""


def _known(name: str, where: str) -> str:
    if name not in CHOICES:
        raise ValueError(f"{where} is {name!r}: expected {', '.join(CHOICES)}")
    return name
