# SPDX-License-Identifier: Apache-2.0
"""What is in a guest beside the root filesystem: all that belongs to one run alone."""

from __future__ import annotations

import marshal
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.lab import cpio, root, wheel
from ci.lab.cpio import Entry, Tree
from ci.lab.errors import LabError
from ci.packaging.build import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ci.lab.config import Lab
    from ci.lab.kernel import FetchedKernel
    from ci.lab.root import GuestRoot

_MARSHAL_FORMAT = 2
_IGNORED = frozenset({"__pycache__", ".pytest_cache", ".hypothesis"})


@dataclass(frozen=True, slots=True)
class Job:
    """What the guest's init is to do."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    #: "auto", "port" or "console": how to answer.
    channel: str
    #: By the guest's clock, which starts with its kernel.
    deadline: float

    def marshalled(self) -> bytes:
        return marshal.dumps(asdict(self), _MARSHAL_FORMAT)


def build(lab: Lab, guest_root: GuestRoot, job: Job, files: Mapping[str, Path], wheel_file: Path | None) -> Tree:
    """The files of one run: init and its job, the working tree's, the caller's, and the wheel's."""
    tree = _init() | {"lab/job": Entry.file(job.marshalled())}
    for name in lab.guest.files:
        tree |= _copied(SOURCE / name, f"{lab.guest.work_dir}/{name}", missing_ok=True)
    for guest_path, host_path in files.items():
        tree |= _copied(host_path, guest_path)
    if wheel_file is not None:
        tree |= wheel.installed(wheel_file, guest_root)
    if guest_root.compiles_here:
        tree |= root.bytecode(tree) | root.rewritten_tests(guest_root, tree)
    for directory in (lab.guest.work_dir, job.cwd):
        tree.setdefault(directory.strip("/"), Entry.directory())
    return tree


def kernel_config(fetched: FetchedKernel) -> Tree:
    """The kernel's configuration where distributions keep it."""
    return {f"boot/config-{fetched.release}": Entry.file(fetched.config.read_bytes())}


def _init() -> Tree:
    """The guest's init and the modules of the lab that it imports."""
    start = (
        "#!/usr/bin/python3 -ISBu\n"
        "import sys\n"
        "sys.path.insert(0, '/lab')\n"
        "from ci.lab import guest_init\n"
        "guest_init.main()\n"
    )
    here = Path(__file__).parent
    return {
        "init": Entry.file(start.encode(), 0o755),
        "lab/ci/__init__.py": Entry.file(b""),
        "lab/ci/lab/__init__.py": Entry.file(b""),
        "lab/ci/lab/channel.py": Entry.file((here / "channel.py").read_bytes()),
        "lab/ci/lab/guest_init.py": Entry.file((here / "guest_init.py").read_bytes()),
    }


def _copied(source: Path, guest_path: str, *, missing_ok: bool = False) -> Tree:
    """A file or a directory of this machine, by its paths in the guest."""
    target = guest_path.strip("/")
    if source.is_file():
        return {target: Entry.file(source.read_bytes(), 0o755 if os.access(source, os.X_OK) else 0o644)}
    if source.is_dir():
        tree: Tree = {target: Entry.directory()}
        for child in source.iterdir():
            if child.name not in _IGNORED and not child.name.endswith(".so"):
                tree |= _copied(child, f"{target}/{child.name}")
        return tree
    if missing_ok:
        return {}
    raise LabError(f"{source} does not exist, and was to be copied to {guest_path}")


def initrd(guest_root: GuestRoot, overlay: Tree, directory: Path) -> Path:
    """One file for QEMU: Linux unpacks archives that follow one another as if they were one."""
    path = directory / "initrd.cpio"
    with path.open("wb") as file:
        with guest_root.archive.open("rb") as base:
            shutil.copyfileobj(base, file, 1 << 20)
        cpio.write(file, overlay)
    return path


def parse_copies(copies: Iterable[str]) -> dict[str, Path]:
    """``HOST:GUEST`` as run_in_guest takes it."""
    files = {}
    for copy in copies:
        host, colon, guest = copy.rpartition(":")
        if not colon or not host or not guest.startswith("/"):
            raise LabError(f"--copy {copy}: expected HOST:GUEST, with an absolute path in the guest")
        files[guest] = Path(host)
    return files
