# SPDX-License-Identifier: Apache-2.0
"""The kernels: from the name of a metapackage to an image that QEMU can start."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.lab.apt import Apt, unpack
from ci.lab.cache import Cache, progress
from ci.lab.config import PackagedKernel
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

    from ci.lab.config import Kernel, Lab

# Documentation/arch/arm64/booting.rst: "ARM\x64" at offset 56 of a raw image.
_IMAGE_MAGIC = (56, b"ARM\x64")
_INFO = "kernel.json"


@dataclass(frozen=True, slots=True)
class FetchedKernel:
    """A kernel in the cache; `release` is what ``uname -r`` says in the guest."""

    name: str
    release: str
    version: str
    packages: tuple[str, ...]
    directory: Path

    @property
    def image(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def config(self) -> Path:
        return self.directory / "config"


def cached(cache: Cache, kernel: Kernel) -> FetchedKernel | None:
    """The kernel, if it was fetched or built before."""
    info = cache.read_json(*entry(kernel), _INFO)
    if info is None:
        return None
    return FetchedKernel(**{**info, "packages": tuple(info["packages"])}, directory=cache.path(*entry(kernel)))


def fetch(lab: Lab, cache: Cache, kernel: Kernel, *, again: bool = False) -> FetchedKernel:
    """The kernel, downloaded where it is not in the cache, or `again` to have the newest.

    A kernel that the lab builds is only looked for: its making is asked for by name.
    """
    if not isinstance(kernel, PackagedKernel):
        return _built(cache, kernel)

    def make(directory: Path) -> None:
        with Apt(lab, cache, kernel.suite).session() as apt:
            _make(apt, kernel, directory)

    cache.entry(*entry(kernel), make=make, again=again)
    fetched = cached(cache, kernel)
    if fetched is None:
        raise LabError(f"the cached kernel {kernel.name} has no {_INFO}: fetch it again")
    return fetched


def how_to_build(kernel: Kernel) -> str:
    """What to do for a kernel that is not downloaded."""
    return f"built here, and not downloaded: python -m ci.lab build-kernel {kernel.name}"


def _built(cache: Cache, kernel: Kernel) -> FetchedKernel:
    found = cached(cache, kernel)
    if found is None:
        raise LabError(f"the kernel {kernel.name} is not in the cache; it is {how_to_build(kernel)}")
    return found


def entry(kernel: Kernel) -> tuple[str, str]:
    """Where in the cache a kernel is."""
    return "kernels", _key(kernel)


def _key(kernel: Kernel) -> str:
    """A name that changes with what lab.toml says of where the kernel comes from."""
    return f"{kernel.name}-{kernel.suite}-{kernel.package}"


def _make(apt: Apt, kernel: PackagedKernel, directory: Path) -> None:
    release, version = _resolve(apt, kernel)
    packages = _packages(apt, release)
    progress(f"downloading {' '.join(packages)} {version}")
    debs = apt.download(dict.fromkeys(packages, version), directory)
    for deb in debs:
        _extract(deb, release, directory)
        deb.unlink()
    finish(kernel, directory, release, version, packages)


def finish(kernel: Kernel, directory: Path, release: str, version: str, packages: list[str]) -> None:
    """Check a new kernel's image and configuration, and write down what it is."""
    _check(kernel, directory)
    info = {"name": kernel.name, "release": release, "version": version, "packages": packages}
    (directory / _INFO).write_text(json.dumps(info, indent=2) + "\n")


def _resolve(apt: Apt, kernel: PackagedKernel) -> tuple[str, str]:
    """The release and package version that the metapackage depends on."""
    record = apt.show(kernel.metapackage)
    if record is None:
        raise LabError(f"{apt.suite} has no package {kernel.metapackage} (kernel {kernel.name})")
    depends = record.get("depends", "")
    match = re.search(r"\blinux-image-(\d\S*) \(= ([^)]+)\)", depends)
    if match is None:
        raise LabError(f"{kernel.metapackage} of {apt.suite} names no kernel: Depends: {depends}")
    return match[1], match[2]


def _packages(apt: Apt, release: str) -> list[str]:
    """The packages that hold the image and its configuration.

    Since 7.x the package called linux-image is empty; the image is in linux-binary and the configuration in linux-base.
    """
    for packages in ([f"linux-binary-{release}", f"linux-base-{release}"], [f"linux-image-{release}"]):
        if all(apt.show(package) for package in packages):
            return packages
    raise LabError(f"{apt.suite} names linux-image-{release} but does not have it: it is gone from the mirror")


def _extract(deb: Path, release: str, directory: Path) -> None:
    wanted = {
        f"boot/vmlinuz-{release}": "vmlinuz",
        f"boot/config-{release}": "config",
        f"usr/lib/modules/{release}/vmlinuz": "vmlinuz",
        f"usr/lib/modules/{release}/config": "config",
    }
    for member, data in unpack(deb):
        if member.name in wanted and member.isreg():
            (directory / wanted[member.name]).write_bytes(data)


def _check(kernel: Kernel, directory: Path) -> None:
    for name in ("vmlinuz", "config"):
        if not (directory / name).exists():
            raise LabError(f"{kernel.package} gave kernel {kernel.name} no {name} where it used to be")
    offset, magic = _IMAGE_MAGIC
    with (directory / "vmlinuz").open("rb") as file:
        file.seek(offset)
        if file.read(len(magic)) != magic:
            raise LabError(f"kernel {kernel.name} is not a raw arm64 image; QEMU's -kernel wants one")
    found = describe_config((directory / "config").read_text())
    expected = {"page_size": kernel.page_size, "pa_bits": kernel.pa_bits, "va_bits": kernel.va_bits}
    if found != expected:
        raise LabError(f"kernel {kernel.name}: lab.toml says {expected}, its configuration says {found}")


def describe_config(text: str) -> dict[str, int]:
    """Page size and address sizes from a kernel's configuration file."""
    values = dict(re.findall(r"^(CONFIG_ARM64_\w+)=(\w+)$", text, re.MULTILINE))
    kilobytes = next((size for size in (4, 16, 64) if values.get(f"CONFIG_ARM64_{size}K_PAGES") == "y"), 0)
    return {
        "page_size": kilobytes * 1024,
        "pa_bits": int(values.get("CONFIG_ARM64_PA_BITS", 0)),
        "va_bits": int(values.get("CONFIG_ARM64_VA_BITS", 0)),
    }
