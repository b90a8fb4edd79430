# SPDX-License-Identifier: Apache-2.0
"""Whether and how to build the C extension; everything else is in pyproject.toml.

KVMIPA_NATIVE=auto     build it where it can be built, else install without it and say why (the default)
KVMIPA_NATIVE=require  fail where it cannot be built (wheels, CI, machines whose /dev/kvm is to be used)
KVMIPA_NATIVE=skip     do not try

The extension is always declared, whether it will be built or not: so every sdist has its sources, and one command,
build_ext, always has the last word about what is in the package.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

PACKAGE = "kvmipa"
STATUS = "_native_status.json"
MODE = os.environ.get("KVMIPA_NATIVE") or "auto"
# What is built for: whoever cross-builds sets _PYTHON_HOST_PLATFORM, and sysconfig answers with that.
TARGET = sysconfig.get_platform()
REINSTALL = f"KVMIPA_NATIVE=require pip install --force-reinstall --no-cache-dir --no-deps {PACKAGE}"


class Missing(NamedTuple):
    """Why there is no extension, and what its user can do about that; a line each."""

    reason: str
    fix: str


def reason_not_to_try() -> Missing | None:
    """What is known before any compiler is called."""
    if MODE == "skip":
        return Missing("KVMIPA_NATIVE=skip was set", REINSTALL)
    if not TARGET.startswith("linux"):
        return Missing(
            f"/dev/kvm exists on Linux only, and this build is for {TARGET}",
            "use the emulated backend here, or install on arm64 Linux",
        )
    if importlib.util.find_spec("cffi") is None:
        return Missing("cffi is not installed where kvmipa is built", f"pip install cffi, then: {REINSTALL}")
    return None


def explain(failure: Exception, include_dirs: list[str]) -> Missing:
    """What a user can act on, instead of the compiler's command line."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        fix = "install a C compiler and Python's headers (Debian: apt install gcc python3-dev)"
        return Missing(f"no C compiler: {compiler!r} not found", f"{fix}, then: {REINSTALL}")
    if not any(Path(directory, "Python.h").exists() for directory in include_dirs):
        fix = "install Python's headers (Debian: apt install python3-dev)"
        return Missing(f"Python.h not found in {', '.join(include_dirs)}", f"{fix}, then: {REINSTALL}")
    reason = f"{type(failure).__name__}: {failure}".splitlines()[0][:300]
    return Missing(reason, f"see what the compiler said: {REINSTALL}")


class Distribution(setuptools.Distribution):
    """Carries from command to command why there is no extension; None where there is one."""

    native_missing: Missing | None = None


class BuildNative(build_ext):
    """Builds the extension, or records why it could not; leaves nothing of an earlier build that had another end."""

    distribution: Distribution

    def run(self) -> None:
        # Without a compiler, the base class may fail before it comes to an extension (macOS without its tools).
        if not self.distribution.native_missing:
            super().run()
        self.record(Path(PACKAGE) if self.inplace else Path(self.build_lib, PACKAGE))

    def build_extension(self, ext: setuptools.Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as failure:
            missing = explain(failure, self.include_dirs)
            if MODE == "require":
                raise SystemExit(f"kvmipa: KVMIPA_NATIVE=require, but {missing.reason}") from failure
            self.distribution.native_missing = missing

    def record(self, package: Path) -> None:
        """Leave the outcome in the package, where ``kvmipa doctor`` finds it."""
        missing = self.distribution.native_missing
        if missing:
            print(f"kvmipa: no native backend in this build: {missing.reason}", file=sys.stderr)
            print(f"kvmipa: the emulated backend works; for the native one: {missing.fix}", file=sys.stderr)
            for stale in package.glob("_native.*so"):
                stale.unlink()
        package.mkdir(parents=True, exist_ok=True)
        status = {"built": not missing, "missing": None, "fix": None, "target": TARGET}
        if missing:
            status |= {"missing": missing.reason, "fix": missing.fix}
        (package / STATUS).write_text(json.dumps(status) + "\n")

    def copy_extensions_to_source(self) -> None:
        if not self.distribution.native_missing:
            super().copy_extensions_to_source()

    def get_outputs(self) -> list[str]:
        return [] if self.distribution.native_missing else super().get_outputs()

    def get_output_mapping(self) -> dict[str, str]:
        return {} if self.distribution.native_missing else super().get_output_mapping()


class TagByContent(bdist_wheel):
    """Tags the wheel by what is inside: an extension that was not built must not make it a platform wheel."""

    distribution: Distribution

    def get_tag(self) -> tuple[str, str, str]:
        if not self.distribution.native_missing:
            return super().get_tag()
        self.root_is_pure = True
        return ("py3", "none", "any")


def stable_abi() -> str | None:
    """The oldest Python whose stable ABI the wheel keeps, as its tag; None where cffi keeps to no stable ABI."""
    if hasattr(sys, "gettotalrefcount"):  # a debug build of Python
        return None
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "cp315" if sys.version_info >= (3, 15) else None
    return "cp310"


def extension() -> dict[str, Any]:
    """The declaration of kvmipa._native as arguments of setup()."""
    if importlib.util.find_spec("cffi"):
        return {"cffi_modules": ["csrc/build_native.py:ffibuilder"]}
    # Not to be built, only for its files to be in the sdist.
    sources, others = (sorted(map(str, Path("csrc").glob(pattern))) for pattern in ("*.c", "*.[!c]*"))
    return {"ext_modules": [setuptools.Extension(f"{PACKAGE}._native", sources, depends=others)]}


if MODE not in ("auto", "require", "skip"):
    raise SystemExit(f"KVMIPA_NATIVE={MODE!r}: expected auto, require or skip")
Distribution.native_missing = reason_not_to_try()
if Distribution.native_missing and MODE == "require":
    raise SystemExit(f"kvmipa: KVMIPA_NATIVE=require, but {Distribution.native_missing.reason}")

abi = stable_abi()
setuptools.setup(
    distclass=Distribution,
    cmdclass={"build_ext": BuildNative, "bdist_wheel": TagByContent},
    options={"bdist_wheel": {"py_limited_api": abi}} if abi else {},
    **extension(),
)
