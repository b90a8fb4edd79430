# SPDX-License-Identifier: Apache-2.0
"""The guest's root filesystem: CPython, cffi and pytest from Debian, as one cpio archive.

The packages are unpacked, not installed: none of their scripts runs, and no arm64 program either, but for compiling
bytecode when the guest's Python is of another minor version than this one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import marshal
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ci.lab import cpio
from ci.lab.apt import Apt, unpack
from ci.lab.cache import Cache, progress
from ci.lab.config import Lab, python_minor
from ci.lab.cpio import Entry, Tree
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import CodeType

_USER_EMULATOR = "qemu-aarch64-static"
_INFO = "root.json"


@dataclass(frozen=True, slots=True)
class GuestRoot:
    """The root filesystem in the cache."""

    suite: str
    python: str
    packages: dict[str, str]
    directory: Path

    @property
    def archive(self) -> Path:
        return self.directory / "root.cpio"

    @property
    def library(self) -> Path:
        """The guest's pytest and what it needs, as a zip file of bytecode."""
        return self.directory / "library.zip"

    @property
    def site_packages(self) -> str:
        return f"usr/local/lib/python{self.python}/dist-packages"

    @property
    def compiles_here(self) -> bool:
        """Whether this interpreter's bytecode is the guest's."""
        return self.python == python_minor()


def cached(lab: Lab, cache: Cache) -> GuestRoot | None:
    """The root filesystem for this interpreter, if it was built before."""
    info = cache.read_json("root", _key(lab), _INFO)
    return None if info is None else GuestRoot(**info, directory=cache.path("root", _key(lab)))


def build(lab: Lab, cache: Cache, *, again: bool = False) -> GuestRoot:
    """The root filesystem for this interpreter, built where it is not in the cache."""
    suite = lab.root.suite_for(python_minor())

    def make(directory: Path) -> None:
        _make(lab, cache, suite, directory)

    cache.entry("root", _key(lab), make=make, again=again)
    root = cached(lab, cache)
    if root is None:
        raise LabError(f"the cached root filesystem of {suite} has no {_INFO}: build it again")
    return root


def _key(lab: Lab) -> str:
    """A name that changes with what lab.toml says of the root filesystem."""
    digest = hashlib.sha256(repr(lab.root).encode()).hexdigest()[:8]
    return f"{lab.root.suite_for(python_minor())}-python{python_minor()}-{digest}"


def _make(lab: Lab, cache: Cache, suite: str, directory: Path) -> None:
    with Apt(lab, cache, suite).session() as apt, cache.scratch() as scratch:
        versions = {
            name: version
            for name, version in apt.resolve(lab.root.packages).items()
            if not _matches(name, lab.root.leave_out)
        }
        progress(f"downloading {len(versions)} packages of {suite} for the root filesystem")
        tree = _unpack_all(apt.download(versions, scratch), lab.root.prune)
    minor = _python_of(tree)
    _compile(cache, tree, minor)
    tree |= _skeleton(lab.root.busybox)
    with (directory / "root.cpio").open("wb") as file:
        cpio.write(file, tree)
    _write_library(directory / "library.zip", tree)
    info = {"suite": suite, "python": minor, "packages": versions}
    (directory / _INFO).write_text(json.dumps(info, indent=2) + "\n")


def _unpack_all(debs: Iterable[Path], prune: Sequence[str]) -> Tree:
    tree: Tree = {}
    for deb in debs:
        for member, data in unpack(deb):
            path = _merged(member.name)
            if _matches(path, prune):
                continue
            permissions = member.mode & 0o7777
            if member.isreg():
                tree[path] = Entry.file(data, permissions)
            elif member.issym():
                tree[path] = Entry.symlink(member.linkname)
            elif member.islnk():
                tree[path] = tree[_merged(member.linkname.removeprefix("./"))]
    return tree


def _merged(path: str) -> str:
    """Where a path is once /bin, /sbin and /lib are links into /usr, as they are on every Debian system."""
    return re.sub(r"^(bin|sbin|lib)/", r"usr/\1/", path)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _skeleton(applets: Iterable[str]) -> Tree:
    return {
        **{name: Entry.symlink(f"usr/{name}") for name in ("bin", "sbin", "lib")},
        **{name: Entry.directory() for name in ("boot", "dev", "proc", "sys", "root", "out", "run")},
        **{f"usr/bin/{name}": Entry.symlink("busybox") for name in applets},
        "tmp": Entry.directory(0o1777),
        "dev/console": Entry.character_device(5, 1),
        "dev/null": Entry.character_device(1, 3, 0o666),
        "etc/passwd": Entry.file(b"root:x:0:0:root:/root:/bin/sh\n"),
        "etc/group": Entry.file(b"root:x:0:\n"),
    }


def _write_library(path: Path, tree: Tree) -> None:
    prefix = "usr/lib/python3/dist-packages/"
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in tree.items():
            if name.startswith(prefix) and name.endswith(".pyc"):
                # In a zip file bytecode is found only where its source would be.
                module = PurePosixPath(importlib.util.source_from_cache(name)).with_suffix(".pyc")
                archive.writestr(str(module).removeprefix(prefix), entry.data)


def _python_of(tree: Tree) -> str:
    target = tree["usr/bin/python3"].data.decode()
    match = re.fullmatch(r"python(3\.\d+)", target)
    if match is None:
        raise LabError(f"/usr/bin/python3 of the root filesystem is a link to {target}")
    return match[1]


# ---------------------------------------------------------------------------------------------- bytecode


def _compile(cache: Cache, tree: Tree, minor: str) -> None:
    """Add the bytecode of every module: compiling it in the guest would take most of a test run."""
    if minor == python_minor():
        progress("compiling the bytecode")
        tree |= bytecode(tree)
    elif emulator := shutil.which(_USER_EMULATOR):
        progress(f"compiling the bytecode of Python {minor} with {_USER_EMULATOR}: this takes minutes")
        tree |= _emulated_bytecode(cache, tree, minor, emulator)
    else:
        progress(
            f"no bytecode: the guest's Python is {minor}, this one is {python_minor()}, and there is no "
            f"{_USER_EMULATOR} (Debian: apt install qemu-user-static). Guests will be slow to start"
        )


def bytecode(tree: Tree) -> Tree:
    """The ``__pycache__`` files of the modules in the tree; tracebacks will show the guest's paths."""
    compiled: Tree = {}
    for path, entry in tree.items():
        if path.endswith(".py") and stat.S_ISREG(entry.mode):
            try:
                code: CodeType = compile(entry.data, f"/{path}", "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                continue
            compiled[importlib.util.cache_from_source(path)] = Entry.file(_pyc(entry.data, code))
    return compiled


def rewritten_tests(guest_root: GuestRoot, tree: Tree) -> Tree:
    """The cache files that the guest's pytest would make of the test modules in the tree.

    Rewriting assertions under emulation takes longer than running most of the tests.
    """
    sources = {
        path: entry.data
        for path, entry in tree.items()
        if fnmatchcase(PurePosixPath(path).name, "test_*.py") or PurePosixPath(path).name == "conftest.py"
    }
    script = Path(__file__).with_name("rewrite_tests.py")
    command = [sys.executable, "-ISB", str(script), str(guest_root.library)]
    result = subprocess.run(command, input=marshal.dumps(sources), capture_output=True, check=False)
    if result.returncode:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        progress(f"the tests are not compiled beforehand, and will be slow to start: {' '.join(last)}")
        return {}
    return {path: Entry.file(data) for path, data in marshal.loads(result.stdout).items()}


def _pyc(source: bytes, code: CodeType) -> bytes:
    # PEP 552: flags 1 is a hash-based file that is not checked against its source.
    unchecked_hash = (1).to_bytes(4, "little")
    header = importlib.util.MAGIC_NUMBER + unchecked_hash + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def _emulated_bytecode(cache: Cache, tree: Tree, minor: str, emulator: str) -> Tree:
    with cache.scratch() as scratch:
        _lay_out(tree | {"lib": Entry.symlink("usr/lib")}, scratch)
        python = [emulator, "-L", str(scratch), str(scratch / f"usr/bin/python{minor}"), "-I"]
        options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(scratch), "-p", "/"]
        sources = [str(scratch / path) for path in tree if path.endswith(".py")]
        # compileall's own workers would be programs of another architecture, which this machine does not start.
        workers = os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            for share in (sources[n::workers] for n in range(workers)):
                pool.submit(_run_quietly, [*python, "-m", "compileall", *options, "-i", "-"], "\n".join(share))
        return {
            str(path.relative_to(scratch)): Entry.file(path.read_bytes())
            for path in (scratch / "usr").rglob("__pycache__/*.pyc")
        }


def _run_quietly(command: Sequence[str], text: str) -> None:
    # The status says only that some file, such as a template, is not Python.
    subprocess.run(command, input=text.encode(), stdout=subprocess.DEVNULL, check=False)


def _expect_inside(target: Path, directory: Path) -> None:
    """Refuse to follow a package's links out of the directory, where they would be this machine's files."""
    if not target.resolve().is_relative_to(directory.resolve()):
        raise LabError(f"a package's {target.relative_to(directory)} leads out of the root filesystem by a link")


def _lay_out(tree: Tree, directory: Path) -> None:
    for path, entry in cpio.with_parents(tree).items():
        target = directory / path
        _expect_inside(target.parent if stat.S_ISLNK(entry.mode) else target, directory)
        if stat.S_ISDIR(entry.mode):
            target.mkdir(exist_ok=True)
        elif stat.S_ISLNK(entry.mode):
            target.symlink_to(entry.data.decode())
        else:
            target.write_bytes(entry.data)
            target.chmod(stat.S_IMODE(entry.mode))
