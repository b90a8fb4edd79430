# SPDX-License-Identifier: Apache-2.0
"""Refuses a wheel whose name says something else than its content: ``python -m ci.packaging.check_wheel WHEEL...``.

Installers believe the name. A wheel named for the machine that built it, with another machine's code or none inside,
installs without a word and fails at its first use.
"""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MODULE = "kvmipa/_native."
STATUS = "kvmipa/_native_status.json"
STABLE_ABIS = {"abi3", "abi3t"}
NATIVE_SUFFIXES = (".so", ".pyd", ".dylib", ".dll")
ELF_MAGIC = b"\x7fELF"


class Machine(NamedTuple):
    """What an ELF header says about where its code runs (elf.h: EI_CLASS in bits, EI_DATA, e_machine)."""

    bits: int
    byte_order: str
    number: int


#: By the ending of a platform tag, which is the architecture as uname -m names it.
MACHINES = {
    "x86_64": Machine(64, "little", 62),
    "aarch64": Machine(64, "little", 183),
    "i686": Machine(32, "little", 3),
    "armv7l": Machine(32, "little", 40),
    "ppc64le": Machine(64, "little", 21),
    "riscv64": Machine(64, "little", 243),
    "loongarch64": Machine(64, "little", 258),
    "s390x": Machine(64, "big", 22),
}


class Tag(NamedTuple):
    """The tags of a wheel's name; each can be several, joined by dots."""

    python: str
    abi: str
    platform: str

    @property
    def pure(self) -> bool:
        """Whether the name promises to run anywhere."""
        return self.platform == "any"


def tag_of(wheel: Path) -> Tag:
    """The tags in a wheel's file name."""
    parts = wheel.name.removesuffix(".whl").split("-")
    if wheel.suffix != ".whl" or len(parts) not in (5, 6):
        raise ValueError(f"{wheel.name} is not the name of a wheel")
    return Tag(*parts[-3:])


def defects(wheel: Path) -> list[str]:
    """Everything that is wrong with a wheel, a line each; empty where its name and its content agree."""
    tag = tag_of(wheel)
    try:
        with zipfile.ZipFile(wheel) as archive:
            files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    except (OSError, zipfile.BadZipFile) as failure:
        return [f"cannot be read: {failure}"]
    native = {name: data for name, data in files.items() if is_native(name, data)}
    return [*_content(tag, native), *_metadata(tag, files), *_status(tag, files, built=bool(native))]


def is_native(name: str, data: bytes) -> bool:
    """Whether a file is code of one machine: by its name or by its first bytes."""
    return name.endswith(NATIVE_SUFFIXES) or ".so." in PurePosixPath(name).name or data.startswith(ELF_MAGIC)


def elf_machine(data: bytes) -> Machine | None:
    """What the ELF header of this file says; None where it has none."""
    if len(data) < 20 or not data.startswith(ELF_MAGIC) or data[4] not in (1, 2) or data[5] not in (1, 2):
        return None
    little = data[5] == 1
    (number,) = struct.unpack_from("<H" if little else ">H", data, 18)
    return Machine(32 * data[4], "little" if little else "big", number)


def architectures(platform: str) -> set[str]:
    """The architectures that a platform tag names; an unknown one is the whole tag."""
    known = sorted(MACHINES, key=len, reverse=True)
    return {next((name for name in known if part.endswith(f"_{name}")), part) for part in platform.split(".")}


def _content(tag: Tag, native: Mapping[str, bytes]) -> Iterator[str]:
    """What the platform and ABI tags and the compiled files say about each other."""
    if tag.pure:
        yield from (f"{name} is native code in a wheel for any platform" for name in native)
        if tag.abi != "none":
            yield f"ABI tag {tag.abi!r} in a wheel for any platform"
        return
    if not any(name.startswith(MODULE) for name in native):
        yield f"no {MODULE}*.so in a wheel for {tag.platform}: without native code it should be py3-none-any"
    for part in tag.platform.split("."):
        if not part.startswith(("linux_", "manylinux", "musllinux_")):
            yield f"platform tag {part!r}: kvmipa has native code for Linux only"
    for name, data in native.items():
        yield from _machine(name, data, architectures(tag.platform))
        if name.startswith(MODULE):
            yield from _abi(name, set(tag.abi.split(".")))


def _machine(name: str, data: bytes, names: Iterable[str]) -> Iterator[str]:
    found = elf_machine(data)
    if found is None:
        yield f"{name} is not an ELF file"
        return
    words = f"e_machine {found.number}, {found.bits} bits, {found.byte_order}-endian"
    for name_of_tag in sorted(names):
        if name_of_tag not in MACHINES:
            yield f"architecture {name_of_tag!r} of the platform tag is not in MACHINES"
        elif found != MACHINES[name_of_tag]:
            yield f"{name} is not for {name_of_tag}: {words}"


def _abi(name: str, abis: set[str]) -> Iterator[str]:
    """Python picks an extension by its suffix, pip picks the wheel by its tag."""
    suffix = name.removeprefix(MODULE).removesuffix(".so")
    if abis & STABLE_ABIS and suffix not in abis:
        yield f"{name} does not have the suffix of the ABI tag {'.'.join(sorted(abis))!r}"
    elif suffix in STABLE_ABIS - abis:
        yield f"{name} keeps the stable ABI, and the ABI tag is {'.'.join(sorted(abis))!r}"


def _metadata(tag: Tag, files: Mapping[str, bytes]) -> Iterator[str]:
    """The file WHEEL repeats the tags, and decides where the files are installed."""
    found = [data for name, data in files.items() if name.endswith(".dist-info/WHEEL") and name.count("/") == 1]
    if len(found) != 1:
        yield f"{len(found)} files .dist-info/WHEEL"
        return
    headers = HeaderParser().parsestr(found[0].decode())
    named = {f"{p}-{a}-{s}" for p in tag.python.split(".") for a in tag.abi.split(".") for s in tag.platform.split(".")}
    if set(headers.get_all("Tag", [])) != named:
        yield f"the file WHEEL has the tags {sorted(headers.get_all('Tag', []))}"
    if (headers["Root-Is-Purelib"] == "true") != tag.pure:
        yield f"the file WHEEL has Root-Is-Purelib: {headers['Root-Is-Purelib']}"


def _status(tag: Tag, files: Mapping[str, bytes], *, built: bool) -> Iterator[str]:
    """``kvmipa doctor`` believes the status file."""
    try:
        status: dict[str, Any] = json.loads(files[STATUS])
        said, missing, target = status["built"], status["missing"], status["target"]
    except KeyError as failure:
        yield f"{failure.args[0]!r} is missing from {STATUS if STATUS in files else 'the wheel'}"
        return
    except ValueError as failure:
        yield f"{STATUS} is not JSON: {failure}"
        return
    if said is not built:
        yield f"{STATUS} says built: {json.dumps(said)}, and the wheel has {'' if built else 'no '}native code"
    if bool(missing) is bool(said):
        yield f"{STATUS} says built: {json.dumps(said)}, missing: {json.dumps(missing)}"
    if not tag.pure and not any(str(target).endswith(name) for name in architectures(tag.platform)):
        yield f"{STATUS} says that the target was {target}, and the wheel is for {tag.platform}"


def main(arguments: list[str]) -> int:
    """Check each wheel; 0 where all are right, 1 where one is not, 2 where there is none to check."""
    if not arguments:
        print("usage: python -m ci.packaging.check_wheel WHEEL...", file=sys.stderr)
        return 2
    failed = 0
    for wheel in map(Path, arguments):
        try:
            found = defects(wheel)
        except ValueError as failure:
            found = [str(failure)]
        failed += bool(found)
        print(f"{'bad' if found else 'ok '}  {wheel.name}")
        for line in found:
            print(f"     {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
