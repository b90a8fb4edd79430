# SPDX-License-Identifier: Apache-2.0
"""Kernels that no distribution builds, from Debian's source package: 64K pages, stage 2 page tables in debugfs.

In the cache, sources/ holds the unpacked source packages, builds/ the directories that the compiler works in (kept, so
that a second build compiles what has changed), and kernels/ what came of it, like a kernel that was downloaded.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ci.lab import kernel
from ci.lab.apt import Apt, unpack
from ci.lab.cache import Cache, progress
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.lab.config import Build, BuiltKernel, Lab
    from ci.lab.kernel import FetchedKernel

FRAGMENTS = Path(__file__).with_name("kernel_fragments")
_SOURCE_INFO = ".lab.json"
_IMAGE = Path("arch/arm64/boot/Image")


def build(lab: Lab, cache: Cache, wanted: BuiltKernel, *, again: bool = False) -> FetchedKernel:
    """Build a kernel into the cache, in place of one that is there; `again` to have the newest sources first.

    Raises LabError where a program is missing, a line of the configuration has no effect, or the compiler fails.
    """
    _check_programs(lab.build)
    source = fetch_source(lab, cache, wanted, again=again)

    def make(directory: Path) -> None:
        _make(lab.build, wanted, source, work, directory)

    with cache.lock(f"build-{wanted.name}"):
        work = cache.directory("builds", wanted.name)
        cache.entry(*kernel.entry(wanted), make=make, again=True)
    return kernel.fetch(lab, cache, wanted)


def _check_programs(build: Build) -> None:
    missing = {name: package for name, package in build.programs.items() if shutil.which(name) is None}
    if missing:
        packages = " ".join(dict.fromkeys(missing.values()))
        raise LabError(
            f"building a kernel needs {', '.join(missing)}, which are not here (Debian: apt install {packages})"
        )


# ---------------------------------------------------------------------------------------------- the sources


def fetch_source(lab: Lab, cache: Cache, wanted: BuiltKernel, *, again: bool = False) -> Path:
    """The unpacked source package, downloaded where it is not in the cache."""

    def make(directory: Path) -> None:
        with Apt(lab, cache, wanted.suite).session() as apt:
            _make_source(apt, wanted.source, directory)

    return cache.entry("sources", wanted.source, make=make, again=again)


def _make_source(apt: Apt, package: str, directory: Path) -> None:
    record = apt.show(package)
    if record is None:
        raise LabError(f"{apt.suite} has no package {package}")
    progress(f"downloading {package} {record['version']}")
    (deb,) = apt.download({package: record["version"]}, directory)
    archive = directory / f"{package}.tar.xz"
    archive.write_bytes(_archive(deb, f"usr/src/{archive.name}"))
    deb.unlink()
    progress(f"unpacking {archive.name}")
    log = directory / "log"
    _command(["tar", "-xf", str(archive), "--strip-components=1", "-C", str(directory)], log)
    archive.unlink()
    log.unlink()
    info = {"package": package, "version": record["version"]}
    (directory / _SOURCE_INFO).write_text(json.dumps(info) + "\n")


def _archive(deb: Path, name: str) -> bytes:
    for member, data in unpack(deb):
        if member.name == name and member.isreg():
            return data
    raise LabError(f"{deb.name} has no {name} where it used to be")


# ---------------------------------------------------------------------------------------------- the configuration


def fragment(wanted: BuiltKernel) -> str:
    """What the configuration has beside allnoconfig.

    Symbols of the page size and of the address sizes: arch/arm64/Kconfig.
    """
    lines = [(FRAGMENTS / f"{name}.config").read_text() for name in wanted.fragments]
    lines += [
        f"CONFIG_ARM64_{wanted.page_size // 1024}K_PAGES=y\n",
        f"CONFIG_ARM64_PA_BITS_{wanted.pa_bits}=y\n",
        f"CONFIG_ARM64_VA_BITS_{wanted.va_bits}=y\n",
        f'CONFIG_LOCALVERSION="{local_version(wanted.name)}"\n',
    ]
    return "".join(lines)


def local_version(name: str) -> str:
    """What follows the version in ``uname -r``.

    >>> local_version("6.12-64k-lab")
    '-64k-lab'
    """
    return name[name.index("-") :] if "-" in name else ""


def without_effect(wanted: str, configuration: str) -> list[str]:
    r"""The lines of a fragment that are not in the configuration that came of it: a symbol is gone, or needs another.

    >>> without_effect("CONFIG_KVM=y\nCONFIG_AIO=y\n", "CONFIG_KVM=y\n# CONFIG_AIO is not set\n")
    ['CONFIG_AIO=y']
    """
    there = set(configuration.splitlines())
    return [line for line in wanted.splitlines() if line.startswith("CONFIG_") and line not in there]


# ---------------------------------------------------------------------------------------------- the build


def _make(build: Build, wanted: BuiltKernel, source: Path, work: Path, directory: Path) -> None:
    info = json.loads((source / _SOURCE_INFO).read_text())
    compile_kernel(build, wanted, source, work)
    shutil.copyfile(work / _IMAGE, directory / "vmlinuz")
    shutil.copyfile(work / ".config", directory / "config")
    kernel.finish(wanted, directory, release(work), info["version"], [info["package"]])


def compile_kernel(build: Build, wanted: BuiltKernel, source: Path, work: Path) -> None:
    """Configure and compile in the directory `work`; what the compiler says goes into its file log."""
    text = fragment(wanted)
    path, log = work / "fragment", work / "log"
    path.write_text(text)
    log.write_text("")
    make = _make_command(build, source, work)
    progress(f"configuring {wanted.name}")
    _command([*make, f"KCONFIG_ALLCONFIG={path}", "allnoconfig"], log, build)
    if lines := without_effect(text, (work / ".config").read_text()):
        raise LabError(
            f"kernel {wanted.name}: {', '.join(lines)} had no effect: {source.name} has the symbol no longer, or it "
            f"depends on another; change {', '.join(f'{name}.config' for name in wanted.fragments)} in {FRAGMENTS.name}"
        )
    progress(f"compiling {wanted.name}: this takes minutes; log: {log}")
    started = time.monotonic()
    _command([*make, f"-j{build.jobs}", "Image"], log, build)
    progress(f"{wanted.name} compiled in {time.monotonic() - started:.0f} s")


def _make_command(build: Build, source: Path, work: Path) -> list[str]:
    # The date of the sources, and not of the build, which would tell two builds of the same apart.
    date = time.strftime("%Y-%m-%d", time.gmtime((source / "Makefile").stat().st_mtime))
    return [
        *("nice", "-n", str(build.nice), "make", "-C", str(source), f"O={work}"),
        *("ARCH=arm64", f"CROSS_COMPILE={build.cross_compile}", f"KBUILD_BUILD_TIMESTAMP={date}"),
    ]


def release(work: Path) -> str:
    """What ``uname -r`` will say."""
    text = (work / "include/generated/utsrelease.h").read_text()
    match = re.search(r'#define UTS_RELEASE "([^"]+)"', text)
    if match is None:
        raise LabError(f"the build in {work} names no release")
    return match[1]


def _command(argv: Sequence[str], log: Path, build: Build | None = None) -> None:
    """Run a command, what it says at the end of the log; LabError with its last lines where it fails."""
    environment = {**os.environ, **(build.env if build else {}), "LC_ALL": "C.UTF-8"}
    with log.open("a") as file:
        result = subprocess.run(
            argv, check=False, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    if result.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise LabError(f"{shlex.join(argv)} failed (log: {log}):\n{last}")
