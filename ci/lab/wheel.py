# SPDX-License-Identifier: Apache-2.0
"""The arm64 wheel of the working tree, cross-compiled on this machine."""

from __future__ import annotations

import configparser
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from typing import TYPE_CHECKING

from ci.lab import programs
from ci.lab.apt import Apt, unpack
from ci.lab.cache import Cache, progress
from ci.lab.config import Lab, Wheel, python_minor, read_toml
from ci.lab.cpio import Entry, Tree
from ci.lab.errors import LabError
from ci.packaging import check_wheel
from ci.packaging.build import SOURCE, CheckError, Tools, inputs, snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ci.lab.root import GuestRoot

_KEPT = 20


def build(lab: Lab, cache: Cache, source: Path = SOURCE) -> Path:
    """The wheel of this source tree as it stands, built where its like is not in the cache."""
    files = inputs(source)
    if not {"setup.py", "pyproject.toml"} <= files.keys():
        raise LabError(f"{source} is not kvmipa's source tree: it has no setup.py, or no pyproject.toml")

    def make(directory: Path) -> None:
        try:
            _make(lab, cache, source, directory)
        except CheckError as error:
            raise LabError(str(error)) from error

    entry = cache.entry("wheels", _key(lab.wheel, files, _compiler_version(lab.wheel)), make=make)
    entry.touch()
    cache.keep_newest("wheels", _KEPT)
    return next(entry.glob("*.whl"))


def _key(recipe: Wheel, files: Mapping[str, Path], compiler: str) -> str:
    digest = hashlib.sha256(f"{recipe!r}\n{compiler}\n{python_minor()}\n".encode())
    for name, path in files.items():
        digest.update(f"{name}\n{path.stat().st_mode & 0o111}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _compiler_version(recipe: Wheel) -> str:
    compiler = programs.find(recipe.compiler, recipe.compiler_package)
    return subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


def _make(lab: Lab, cache: Cache, source: Path, directory: Path) -> None:
    settings = cross_settings(lab, cache)
    tools = build_tools(cache, read_toml(source / "pyproject.toml")["build-system"]["requires"])
    progress("cross-compiling the arm64 wheel")
    copy = snapshot(directory / "source", source)
    # The epoch is the first date that a zip archive can hold.
    _, wheel = tools.wheel(copy, directory, SOURCE_DATE_EPOCH="315532800", **settings)
    shutil.rmtree(copy)
    check(wheel)


def cross_settings(lab: Lab, cache: Cache) -> dict[str, str]:
    """The environment in which the build backend builds for arm64."""
    recipe = lab.wheel
    programs.find(recipe.compiler, recipe.compiler_package)
    include = headers(lab, cache)
    (python,) = include.glob("python3.*")
    return {
        "CC": recipe.compiler,
        "LDSHARED": f"{recipe.compiler} -shared",
        "CFLAGS": f"-I{python} -I{include} {recipe.cflags}",
        "_PYTHON_HOST_PLATFORM": recipe.platform,
        "KVMIPA_NATIVE": "require",
    }


def headers(lab: Lab, cache: Cache) -> Path:
    """A directory with python3.N, the arm64 headers of a suite's Python.

    N is this interpreter's where a suite has it. Any other does too, for the extension keeps to the limited API; this
    machine's own headers may not: Debian's include the file of the architecture that is compiled for.
    """
    suite = lab.root.suite_for(python_minor())

    def make(directory: Path) -> None:
        with Apt(lab, cache, suite).session() as apt, cache.scratch() as scratch:
            package, version = _headers_package(apt)
            progress(f"downloading {package} {version}")
            for deb in apt.download({package: version}, scratch):
                _extract_headers(deb, directory)

    return cache.entry("headers", suite, make=make)


def _headers_package(apt: Apt) -> tuple[str, str]:
    """The package with the headers of the suite's Python, and its version."""
    depends = (apt.show("libpython3-dev") or {}).get("depends", "")
    match = re.search(r"\blibpython3\.\d+-dev\b", depends)
    record = apt.show(match[0]) if match else None
    if match is None or record is None:
        raise LabError(f"{apt.suite} has no headers of Python: libpython3-dev depends on {depends or 'nothing'}")
    return match[0], record["version"]


def _extract_headers(deb: Path, directory: Path) -> None:
    prefix = "usr/include/"
    for member, data in unpack(deb):
        if member.isreg() and member.name.startswith(prefix):
            target = directory / member.name.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def build_tools(cache: Cache, requirements: Sequence[str]) -> Tools:
    """What the build needs, for this interpreter and all that are like it, such as those of other environments.

    Build isolation of pip or build cannot be used: they would take this build's _PYTHON_HOST_PLATFORM for their own
    platform, and install arm64 libraries for the x86 interpreter.
    """
    like = [platform.python_version(), sysconfig.get_platform(), str(sysconfig.get_config_var("EXT_SUFFIX"))]
    key = hashlib.sha256("\n".join([*like, *requirements]).encode()).hexdigest()[:16]

    def make(directory: Path) -> None:
        progress(f"making a build environment with {', '.join(requirements)}")
        Tools.install(directory, requirements)

    return Tools(sys.executable, cache.entry("build-environments", key, make=make))


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
