# SPDX-License-Identifier: Apache-2.0
"""The situations in which kvmipa is built, and what each must come to."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ci.lab import config
from ci.lab.cache import Cache
from ci.lab.errors import LabError
from ci.lab.wheel import cross_settings
from ci.packaging.behaviour import (
    ask,
    expect,
    expect_log,
    expect_native,
    expect_pure,
    expect_pure_wheel,
    expect_wheel,
)
from ci.packaging.build import Tools, environment, run, snapshot, unpack

PURE = "py3-none-any"
NOWHERE = "no-such-compiler"
HINT = "KVMIPA_NATIVE=require pip install"


class CaseSkippedError(Exception):
    """The case needs something that is not on this machine."""


@dataclass(frozen=True)
class Bench:
    """Where one case works: a directory of its own, and the tools that all share."""

    directory: Path
    tools: Tools
    requirements: tuple[str, ...]

    def source(self) -> Path:
        """A fresh copy of the source tree."""
        return snapshot(self.directory / "source")

    def path(self, name: str) -> Path:
        """A path for something that the case makes."""
        return self.directory / name


#: A case does its checks and returns a word about what it made.
Case: TypeAlias = Callable[[Bench], str]
CASES: dict[str, Case] = {}


def case(title: str) -> Callable[[Case], Case]:
    """Register a case."""

    def register(function: Case) -> Case:
        CASES[title] = function
        return function

    return register


def native_tag() -> str:
    """The tag of this machine's native wheel."""
    return f"cp310-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def pure_wheel(bench: Bench, *words: str, **settings: str) -> str:
    """Build a wheel that must come out pure, for the reason with these words."""
    log, wheel = bench.tools.wheel(bench.source(), bench.path("dist"), **settings)
    expect_log(log, "no native backend in this build", *words)
    expect_pure_wheel(bench.tools, wheel, bench.path("site"), *words)
    return wheel.name


def refused(bench: Bench, *words: str, **settings: str) -> str:
    """Build what must be refused, with these words."""
    finished, made = bench.tools.build("wheel", bench.source(), bench.path("dist"), **settings)
    expect(finished.status != 0 and made is None, f"the build should fail, and made {made}")
    expect_log(finished.output, *words)
    return "refused"


@case("auto, with a compiler")
def auto(bench: Bench) -> str:
    """The ordinary case."""
    _, wheel = bench.tools.wheel(bench.source(), bench.path("dist"))
    expect_wheel(wheel, native_tag())
    expect_native(ask(bench.tools, unpack(wheel, bench.path("site"))))
    return wheel.name


@case("auto, CC names no compiler")
def auto_wrong_compiler(bench: Bench) -> str:
    """The reason names what was looked for."""
    return pure_wheel(bench, f"no C compiler: '{NOWHERE}' not found", CC=NOWHERE)


@case("auto, no compiler in PATH")
def auto_no_compiler(bench: Bench) -> str:
    """A machine without gcc."""
    return pure_wheel(bench, "no C compiler: ", PATH=str(bench.path("nothing")))


@case("auto, a compiler that fails")
def auto_broken_compiler(bench: Bench) -> str:
    """Neither the compiler nor Python.h is missing, so the reason is the failure itself."""
    return pure_wheel(bench, "CompileError", CC="false")


@case("auto, no Python.h")
def auto_no_headers(bench: Bench) -> str:
    """A Python installed without its headers: this one, seen from a prefix that has only its library.

    The build looks where Python's own configuration says, and then below the prefix.
    """
    library, prefix = Path(sysconfig.get_path("stdlib")), bench.path("prefix")
    (prefix / library.parent.name).mkdir(parents=True)
    (prefix / library.parent.name / library.name).symlink_to(library)
    missing = str(prefix / "include")
    configuration = sysconfig.get_config_vars() | {"INCLUDEPY": missing, "CONFINCLUDEPY": missing}
    (prefix / "no_headers.py").write_text(f"build_time_vars = {configuration!r}\n")
    return pure_wheel(
        bench,
        f"Python.h not found in {missing}",
        PYTHONHOME=str(prefix),
        PYTHONPATH=f"{prefix}{os.pathsep}{bench.tools.packages}",
        _PYTHON_SYSCONFIGDATA_NAME="no_headers",
    )


@case("auto, for macOS")
def auto_macos(bench: Bench) -> str:
    """No compiler is called for a system without /dev/kvm."""
    return pure_wheel(bench, "Linux only", "macosx-14.0-arm64", CC=NOWHERE, _PYTHON_HOST_PLATFORM="macosx-14.0-arm64")


@case("auto, cffi not there to build with")
def auto_no_cffi(bench: Bench) -> str:
    """Without build isolation, what builds may lack cffi: then setuptools would only warn, and build nothing."""
    packages = bench.path("no-cffi")
    shutil.copytree(bench.tools.packages, packages, ignore=shutil.ignore_patterns("cffi", "cffi-*", "_cffi_backend*"))
    tools = Tools(bench.tools.python, packages)
    log, wheel = tools.wheel(bench.source(), bench.path("dist"))
    expect_log(log, "cffi is not installed")
    expect_pure_wheel(bench.tools, wheel, bench.path("site"), "cffi is not installed")
    return wheel.name


@case("skip")
def skip(bench: Bench) -> str:
    """Asked for."""
    return pure_wheel(bench, "KVMIPA_NATIVE=skip was set", KVMIPA_NATIVE="skip")


@case("require, no compiler")
def require_no_compiler(bench: Bench) -> str:
    """What CI and the wheels are built with."""
    return refused(bench, f"require, but no C compiler: '{NOWHERE}' not found", KVMIPA_NATIVE="require", CC=NOWHERE)


@case("require, for macOS")
def require_macos(bench: Bench) -> str:
    """There is nothing to require."""
    return refused(bench, "Linux only", KVMIPA_NATIVE="require", _PYTHON_HOST_PLATFORM="macosx-14.0-arm64")


@case("a mode that there is not")
def typo(bench: Bench) -> str:
    """A typo must not become one of the modes."""
    return refused(bench, "'requires': expected auto, require or skip", KVMIPA_NATIVE="requires")


@case("require, with the oldest build tools allowed")
def oldest_tools(bench: Bench) -> str:
    """The lower bounds of build-system.requires."""
    if sys.version_info >= (3, 14):
        raise CaseSkippedError("the oldest cffi allowed has no wheel for this Python")
    oldest = [requirement.replace(">=", "==") + ".*" for requirement in bench.requirements]
    tools = Tools.install(bench.path("oldest"), oldest)
    _, wheel = tools.wheel(bench.source(), bench.path("dist"), KVMIPA_NATIVE="require")
    expect_wheel(wheel, native_tag())
    expect_native(ask(tools, unpack(wheel, bench.path("site"))))
    return wheel.name


@case("sdist, and the wheel of it")
def sdist(bench: Bench) -> str:
    """An sdist has the C wherever it is made, and nothing that a build left in the tree."""
    source = bench.source()
    bench.tools.build("editable", source, bench.path("editable"))[0].check("an editable build")
    finished, archive = bench.tools.build("sdist", source, bench.path("dist"), KVMIPA_NATIVE="skip")
    finished.check("building an sdist")
    assert archive is not None
    with tarfile.open(archive) as tar:
        generated = [n for n in tar.getnames() if n.endswith((".so", ".o", "._native.c", "_native_status.json"))]
        expect(not generated, f"generated files in {archive.name}: {generated}")
        tar.extractall(bench.path("unpacked"))
    (root,) = bench.path("unpacked").iterdir()
    _, wheel = bench.tools.wheel(root, bench.path("wheel"), KVMIPA_NATIVE="require")
    expect_wheel(wheel, native_tag())
    return archive.name


@case("pure after native in one tree")
def leftovers(bench: Bench) -> str:
    """build/ of an earlier build is still there: its extension must not get into the pure wheel."""
    source = bench.source()
    bench.tools.wheel(source, bench.path("first"))
    _, skipped = bench.tools.wheel(source, bench.path("second"), KVMIPA_NATIVE="skip")
    expect_wheel(skipped, PURE)
    bench.tools.wheel(source, bench.path("third"))
    touch(source / "csrc" / "kvmipa_native.c")
    _, failed = bench.tools.wheel(source, bench.path("fourth"), CC=NOWHERE)
    expect_pure_wheel(bench.tools, failed, bench.path("site"), "no C compiler")
    return failed.name


@case("editable: native, failing, native, skip")
def editable(bench: Bench) -> str:
    """The package is used where it lies, so each install must undo what an earlier one left in it."""
    source = bench.source()
    for settings, words in (
        ({"KVMIPA_NATIVE": "require"}, None),
        ({"CC": NOWHERE}, "no C compiler"),
        ({"KVMIPA_NATIVE": "require"}, None),
        ({"KVMIPA_NATIVE": "skip"}, "KVMIPA_NATIVE=skip was set"),
    ):
        touch(source / "csrc" / "kvmipa_native.c")
        bench.tools.build("editable", source, bench.path("dist"), **settings)[0].check(f"an editable build, {settings}")
        answer = ask(bench.tools, source)
        expect_pure(answer, words) if words else expect_native(answer)
    return "each undoes the one before"


@case("cross-compiled for arm64")
def cross(bench: Bench) -> str:
    """The wheel for the boards, made on another machine."""
    try:
        settings = cross_settings(config.load(), Cache())
    except LabError as error:
        raise CaseSkippedError(str(error)) from error
    _, wheel = bench.tools.wheel(bench.source(), bench.path("dist"), **settings)
    expect_wheel(wheel, "cp310-abi3-linux_aarch64")
    return wheel.name


@case("pip install, no compiler")
def pip_install(bench: Bench) -> str:
    """The whole way, with build isolation: pip's log says what is missing, and nothing but cffi comes along."""
    source = bench.source()
    venv = bench.path("venv")
    run([sys.executable, "-m", "venv", str(venv)], environment()).check("making a virtual environment")
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    log = run([*pip, "install", "-v", str(source)], environment(PATH=str(bench.path("nothing")))).check("pip").output
    expect_log(log, "no native backend in this build: no C compiler", HINT)
    expect_pure(ask(Tools(python, bench.path("nothing"), flags=()), bench.path("nothing")), "no C compiler")
    frozen = run([*pip, "freeze"], environment()).check("pip freeze").output
    names = {line.split("==")[0].split(" @ ")[0] for line in frozen.splitlines()}
    expect(names == {"kvmipa", "cffi", "pycparser"}, f"installed with kvmipa: {sorted(names)}")
    return "py3-none-any, cffi and its pycparser"


def touch(path: Path) -> None:
    """Make a source newer than what was built of it, whatever the file system's resolution."""
    later = time.time() + 2
    os.utime(path, (later, later))
