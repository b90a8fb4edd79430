# SPDX-License-Identifier: Apache-2.0
"""The arm64 wheel of the working tree, cross-compiled on this machine."""

from __future__ import annotations

import configparser
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ci.lab.apt import Apt, unpack
from ci.lab.cache import Cache, progress
from ci.lab.config import Lab, Wheel, python_minor, read_toml
from ci.lab.cpio import Entry, Tree
from ci.lab.errors import LabError
from ci.packaging import check_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.lab.root import GuestRoot

#: The working tree that the lab is part of.
SOURCE = Path(__file__).parents[2]


def build(lab: Lab, cache: Cache, source: Path = SOURCE) -> Path:
    """The wheel of this source tree as it stands, built where its like is not in the cache."""
    recipe = lab.wheel
    inputs = dict(_inputs(recipe, source))
    if "setup.py" not in inputs and "pyproject.toml" not in inputs:
        raise LabError(f"{source} has neither setup.py nor pyproject.toml: nothing to build")
    compiler = _compiler_version(recipe)

    def make(directory: Path) -> None:
        headers = _headers(lab, cache)
        requirements = read_toml(source / "pyproject.toml")["build-system"]["requires"]
        _make(recipe, inputs, headers, _build_environment(cache, requirements), directory)

    entry = cache.entry("wheels", _key(inputs, compiler), make=make)
    return next(entry.glob("*.whl"))


def _inputs(recipe: Wheel, source: Path) -> Iterator[tuple[str, Path]]:
    """The files that a wheel is made from, by their path in the source tree; no others reach the build."""
    for name in recipe.inputs:
        yield from _walk(source / name, name, recipe.ignore)


def _walk(path: Path, name: str, ignore: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield name, path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if not any(fnmatchcase(child.name, pattern) for pattern in ignore):
                yield from _walk(child, f"{name}/{child.name}", ignore)


def _key(inputs: dict[str, Path], compiler: str) -> str:
    digest = hashlib.sha256(f"{compiler}\n{python_minor()}\n".encode())
    for name, path in inputs.items():
        digest.update(f"{name}\n{path.stat().st_mode & 0o111}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _compiler_version(recipe: Wheel) -> str:
    if shutil.which(recipe.compiler) is None:
        raise LabError(
            f"{recipe.compiler} is not here, and the arm64 wheel is compiled with it "
            f"(Debian: apt install {recipe.compiler_package})"
        )
    result = subprocess.run([recipe.compiler, "-dumpfullversion"], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def _headers(lab: Lab, cache: Cache) -> Path | None:
    """Python's arm64 headers for this interpreter's version; None where no suite has them."""
    suite = lab.root.python_suites.get(python_minor())
    if suite is None:
        # The extension keeps to the stable ABI, and arm64 is LP64 and little-endian too: this machine's headers agree.
        progress(f"no suite has Python {python_minor()} for arm64; compiling with this machine's headers")
        return None
    package = f"libpython{python_minor()}-dev"

    def make(directory: Path) -> None:
        with Apt(lab, cache, suite).session() as apt, cache.scratch() as scratch:
            record = apt.show(package)
            if record is None:
                raise LabError(f"{suite} has no {package}")
            progress(f"downloading {package} {record['version']}")
            for deb in apt.download({package: record["version"]}, scratch):
                _extract_headers(deb, directory)

    return cache.entry("headers", suite, make=make)


def _extract_headers(deb: Path, directory: Path) -> None:
    prefix = "usr/include/"
    for member, data in unpack(deb):
        if member.isreg() and member.name.startswith(prefix):
            target = directory / member.name.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def _build_environment(cache: Cache, requirements: list[str]) -> Path:
    """The interpreter of a virtual environment that has what the build needs.

    Build isolation of pip or build cannot be used: they would take this build's _PYTHON_HOST_PLATFORM for their own
    platform, and install arm64 libraries for the x86 interpreter.
    """
    key = hashlib.sha256("\n".join([sys.executable, sys.version, *requirements]).encode()).hexdigest()[:16]

    def make(directory: Path) -> None:
        progress(f"making a build environment with {', '.join(requirements)}")
        command = [sys.executable, "-m", "pip", "--quiet", "install", "--target", str(directory), *requirements]
        _run(command, "pip")

    return cache.entry("build-environments", key, make=make)


def _make(recipe: Wheel, inputs: dict[str, Path], headers: Path | None, tools: Path, directory: Path) -> None:
    source = directory / "source"
    for name, path in inputs.items():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    progress("cross-compiling the arm64 wheel")
    include = [headers / f"python{python_minor()}", headers] if headers else [sysconfig.get_path("include")]
    environment = {
        **os.environ,
        "CC": recipe.compiler,
        "LDSHARED": f"{recipe.compiler} -shared",
        "CFLAGS": " ".join([*(f"-I{path}" for path in include), "-O2", "-g0"]),
        "_PYTHON_HOST_PLATFORM": recipe.platform,
        "KVMIPA_NATIVE": "require",
        "PYTHONPATH": str(tools),
        "SOURCE_DATE_EPOCH": "315532800",  # the first date that a zip archive can hold
    }
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    _run([sys.executable, "-c", script, str(directory)], "the build", cwd=source, env=environment)
    shutil.rmtree(source)
    check(next(directory.glob("*.whl")))


def _run(command: list[str], what: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
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
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-25:])
        raise LabError(f"{what} failed:\n{tail}")


def check(wheel: Path) -> None:
    """Refuse a wheel whose tag and contents do not agree, or that is not arm64's."""
    problems = check_wheel.defects(wheel)
    if not wheel.stem.endswith("aarch64"):
        problems.append("an arm64 wheel was to be built")
    if problems:
        raise LabError(f"{wheel.name}: {'; '.join(problems)}")


def installed(wheel: Path, root: GuestRoot) -> Tree:
    """The wheel's files where an installation puts them, with the commands that it declares."""
    tree: Tree = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith("/"):
                tree[f"{root.site_packages}/{name}"] = Entry.file(archive.read(name))
            if name.endswith(".dist-info/entry_points.txt"):
                tree |= _commands(archive.read(name).decode())
    return tree


def _commands(entry_points: str) -> Tree:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(entry_points)
    scripts = parser["console_scripts"] if parser.has_section("console_scripts") else {}
    tree: Tree = {}
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        text = f"#!/usr/bin/python3\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        tree[f"usr/local/bin/{name}"] = Entry.file(text.encode(), 0o755)
    return tree
