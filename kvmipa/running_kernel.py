# SPDX-License-Identifier: Apache-2.0
"""What the running kernel says of itself outside KVM: its release, command line, configuration and log."""

from __future__ import annotations

import os
import re
from pathlib import Path


def stable_release(release: str, version: str) -> str:
    """The kernel's stable release, from what uname -r and uname -v say.

    Distributions put an ABI number of their own into uname -r, with a point release of 0 whatever stable release they
    are at. Debian says that one in uname -v; of another's it is only known that they follow the stable line.

    >>> stable_release("5.10.0-32-arm64", "#1 SMP Debian 5.10.223-1 (2024-08-10)")
    '5.10.223'
    >>> stable_release("6.8.0-31-generic", "#31-Ubuntu SMP PREEMPT_DYNAMIC"), stable_release("7.3.4-lab", "#1 SMP")
    ('6.8', '7.3.4')
    """
    debian = re.search(r"Debian (?:\d+:)?(\d+\.\d+\.\d+)", version)
    if debian:
        return debian[1]
    numbers = re.match(r"(\d+\.\d+)(?:\.(\d+))?(-\d)?", release)
    if numbers is None:
        return release
    line, point, abi = numbers.groups()
    return line if point is None or (abi and point == "0") else f"{line}.{point}"


def command_line_mode() -> str | None:
    """The kvm-arm.mode of the command line; of several the kernel takes the last."""
    modes = re.findall(r"\bkvm-arm\.mode=(\w+)", read_text("/proc/cmdline") or "")
    return modes[-1] if modes else None


def configuration(release: str) -> dict[str, str] | None:
    """CONFIG_* options that are set, from where distributions leave them; None where there is no such file.

    release: as uname -r has it.
    """
    text = read_text(f"/boot/config-{release}")
    if text is None:
        text = _compressed_configuration()
    if text is None:
        return None
    options = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {option: value for option, separator, value in options if separator}


def _compressed_configuration() -> str | None:
    import gzip

    try:
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode(errors="replace")
    except OSError:
        return None


def log_about_kvm() -> tuple[str, ...] | None:
    """The kernel log's lines about KVM; None where this user may not read it."""
    if not hasattr(os, "O_NONBLOCK"):
        return None
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    lines = []
    try:
        while True:
            try:
                record = os.read(fd, 8192).decode(errors="replace")
            except BrokenPipeError:
                continue  # an old record was overwritten meanwhile; the next read goes on after it
            except OSError:
                break
            message = record.partition(";")[2].partition("\n")[0]
            if re.search(r"\bkvm\b|hyp mode", message, re.IGNORECASE):
                lines.append(message)
    finally:
        os.close(fd)
    return tuple(lines)


def read_text(path: str) -> str | None:
    """A file's text; None where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None
