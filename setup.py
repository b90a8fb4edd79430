# SPDX-License-Identifier: Apache-2.0
"""Whether and how to build the C extension; everything else is in pyproject.toml.

KVMIPA_NATIVE=auto     build it where it can be built, else install without it and say why (the default)
KVMIPA_NATIVE=require  fail where it cannot be built (wheels, CI, machines whose /dev/kvm is to be used)
KVMIPA_NATIVE=skip     do not try
"""

import json
import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

MODE = os.environ.get("KVMIPA_NATIVE", "auto")
# Set by whoever cross-builds; sysconfig knows only the machine that builds.
TARGET = os.environ.get("_PYTHON_HOST_PLATFORM", sysconfig.get_platform())
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
STATUS = "_native_status.json"


def stable_abi():
    """The oldest Python whose stable ABI the wheel keeps, as its tag; None where there is no stable ABI."""
    if not FREE_THREADED:
        return "cp310"
    return "cp315" if sys.version_info >= (3, 15) else None


def reason_not_to_try():
    if MODE not in ("auto", "require", "skip"):
        raise SystemExit(f"KVMIPA_NATIVE={MODE!r}: expected auto, require or skip")
    if MODE == "skip":
        return "KVMIPA_NATIVE=skip was set"
    if not TARGET.startswith("linux"):
        return f"/dev/kvm exists on Linux only, and this build is for {TARGET}"
    return None


def explain(failure):
    """One line that a user can act on, instead of the compiler's command line."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"no C compiler: {compiler!r} not found"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        return f"Python.h not found in {headers}"
    return f"{type(failure).__name__}: {failure}".splitlines()[0][:300]


class Distribution(setuptools.Distribution):
    """Carries from command to command why there is no extension; None where there is one."""

    native_missing = None


def write_status(command, package):
    """Leave the reason in the package, where ``kvmipa doctor`` finds it."""
    missing = command.distribution.native_missing
    if missing:
        print(f"kvmipa: no native backend in this build: {missing}", file=sys.stderr)
    package.mkdir(parents=True, exist_ok=True)
    status = {"built": not missing, "missing": missing, "target": TARGET}
    (package / STATUS).write_text(json.dumps(status) + "\n")


class BuildPython(build_py):
    """Records the reason where the extension is not even tried: then build_ext does not run."""

    def run(self):
        super().run()
        if self.distribution.native_missing:
            write_status(self, Path("kvmipa") if self.editable_mode else Path(self.build_lib, "kvmipa"))


class BuildNative(build_ext):
    """Builds the extension, or records why it could not."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as failure:
            if MODE == "require":
                raise
            self.distribution.native_missing = explain(failure)

    def copy_extensions_to_source(self):
        if not self.distribution.native_missing:
            super().copy_extensions_to_source()

    def run(self):
        super().run()
        write_status(self, Path("kvmipa") if self.inplace else Path(self.build_lib, "kvmipa"))


class TagByContent(bdist_wheel):
    """Tags the wheel by what is inside: an extension that was not built must not make it a platform wheel."""

    def get_tag(self):
        if not self.distribution.native_missing:
            return super().get_tag()
        self.root_is_pure = True
        return ("py3", "none", "any")


Distribution.native_missing = reason_not_to_try()
if Distribution.native_missing and MODE == "require":
    raise SystemExit(f"kvmipa: KVMIPA_NATIVE=require, but {Distribution.native_missing}")

arguments = {}
if not Distribution.native_missing:
    arguments["cffi_modules"] = ["csrc/build_native.py:ffibuilder"]
    if stable_abi():
        arguments["options"] = {"bdist_wheel": {"py_limited_api": stable_abi()}}

setuptools.setup(
    distclass=Distribution,
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative, "bdist_wheel": TagByContent},
    **arguments,
)
