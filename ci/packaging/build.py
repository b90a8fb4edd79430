# SPDX-License-Identifier: Apache-2.0
"""Builds kvmipa as pip would, by the build backend's own entry points, in a chosen environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: The working tree that this file is part of.
SOURCE = Path(__file__).parents[2]

_INPUTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "csrc", "kvmipa")
_GENERATED = ("__pycache__", "*.pyc", "*.so", "*.o", "*.egg-info", "_native.c", "_native_status.json", ".*")

# Of this process's environment, what must not reach a build that is to show something.
_NOT_INHERITED = ("KVMIPA_", "PYTHON", "_PYTHON", "CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")

_HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

Kind = Literal["wheel", "sdist", "editable"]


class CheckError(Exception):
    """Something that was promised is not so."""


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit status and all that it printed."""

    status: int
    output: str

    def check(self, what: str) -> Finished:
        """Refuse a failure."""
        if self.status:
            raise CheckError(f"{what} failed with status {self.status}:\n{self.output[-1500:]}")
        return self


@dataclass(frozen=True)
class Tools:
    """An interpreter, and a directory of packages for it: what build isolation would install, shared by all builds."""

    python: str
    packages: Path
    # Without site, the interpreter does not see what else happens to be installed for it.
    flags: tuple[str, ...] = ("-S",)

    @classmethod
    def install(cls, into: Path, requirements: Sequence[str], python: str = sys.executable) -> Tools:
        """Have pip put the packages there."""
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--only-binary=:all:"]
        run([*pip, "--target", str(into), *requirements], environment()).check(f"installing {', '.join(requirements)}")
        return cls(python, into)

    def build(self, kind: Kind, source: Path, into: Path, **settings: str) -> tuple[Finished, Path | None]:
        """Run the build backend in ``source``; what it printed, and the file that it made if it made one."""
        into.mkdir(parents=True, exist_ok=True)
        before = set(into.iterdir())
        command = [self.python, *self.flags, "-c", _HOOK, f"build_{kind}", str(into)]
        finished = run(command, environment(PYTHONPATH=str(self.packages)) | settings, cwd=source)
        made = sorted(set(into.iterdir()) - before)
        return finished, made[0] if made else None

    def wheel(self, source: Path, into: Path, **settings: str) -> tuple[str, Path]:
        """Build a wheel, which must work; what was printed, and the wheel."""
        finished, wheel = self.build("wheel", source, into, **settings)
        finished.check("building a wheel")
        if wheel is None:
            raise CheckError(f"the build made no wheel:\n{finished.output}")
        return finished.output, wheel

    def use(self, package: Path, *arguments: str) -> Finished:
        """Run Python with the kvmipa of the directory ``package``."""
        env = environment(PYTHONPATH=f"{package}{os.pathsep}{self.packages}")
        return run([self.python, *self.flags, *arguments], env, cwd=Path("/"))


def environment(**changes: str) -> dict[str, str]:
    """The environment of this process without what would decide a build."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    return {**inherited, "PYTHONDONTWRITEBYTECODE": "1", **changes}


def run(command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> Finished:
    """Run a command to its end."""
    result = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Finished(result.returncode, result.stdout)


def inputs(source: Path = SOURCE) -> dict[str, Path]:
    """The files that kvmipa is built from, by their path in the source tree; no others reach a build."""
    return {name: path for top in _INPUTS for name, path in _walk(source / top, top)}


def _walk(path: Path, name: str) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield name, path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if not any(fnmatchcase(child.name, pattern) for pattern in _GENERATED):
                yield from _walk(child, f"{name}/{child.name}")


def snapshot(into: Path, source: Path = SOURCE) -> Path:
    """A copy of what kvmipa is built from, as a fresh clone would have it."""
    for name, path in inputs(source).items():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return into


def unpack(wheel: Path, into: Path) -> Path:
    """The wheel's files, to be imported from there."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    return into
