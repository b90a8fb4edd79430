# SPDX-License-Identifier: Apache-2.0
"""The compilers that the tests of the C run with."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.requirements import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}")

# With Debian's package of each.
COMPILERS = {"gcc": "gcc", "clang": "clang", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu"}


@dataclass(frozen=True)
class Compiler:
    """A C compiler that is here."""

    name: str

    @property
    def for_arm64(self) -> bool:
        """Whether it compiles for arm64."""
        return "__aarch64__" in self._run("-dM", "-E", "-xc", os.devnull).stdout

    def compile(self, source: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Compile a file of csrc/, every warning being an error; the object is thrown away."""
        return self._run(*FLAGS, *flags, "-c", "-o", os.devnull, str(CSRC / source))

    def program(self, path: Path, main: str, source: str, *flags: str) -> Path:
        """Make a program of a main() and a file of csrc/."""
        path.with_suffix(".c").write_text(main)
        result = self._run(*FLAGS, *flags, "-o", str(path), f"{path}.c", str(CSRC / source))
        assert result.returncode == 0, result.stderr
        return path

    def header(self, name: str) -> str:
        """The text of what this compiler includes as <name>; skips the test where there is none."""
        result = self._run("-M", "-xc", "-include", name, os.devnull)
        found = [word for word in result.stdout.split() if word.endswith(f"/{name}")]
        if result.returncode or not found:
            skip_or_fail(f"{self.name} has no <{name}> (Debian: linux-libc-dev, linux-libc-dev-arm64-cross)")
        return Path(found[0]).read_text()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # The tests read the messages, which are not to be translated.
        env = os.environ | {"LC_ALL": "C"}
        return subprocess.run([self.name, *arguments], check=False, capture_output=True, text=True, env=env)


def find(name: str) -> Compiler:
    """A compiler by its name; skips the test where it is missing."""
    if not CSRC.is_dir():
        pytest.skip("there is no csrc/ here: the tests are run without the source tree")
    if shutil.which(name) is None:
        skip_or_fail(f"{name} is not here (Debian: apt install {COMPILERS[name]})")
    return Compiler(name)


@pytest.fixture(params=COMPILERS)
def compiler(request: pytest.FixtureRequest) -> Compiler:
    """Each compiler that there is."""
    return find(request.param)


@pytest.fixture
def host_compiler() -> Compiler:
    """The compiler whose programs run here."""
    return find("gcc")


@pytest.fixture
def arm64_compiler() -> Compiler:
    """The compiler for arm64, with arm64's headers."""
    return find("aarch64-linux-gnu-gcc")


@pytest.fixture
def install_header(tmp_path: Path) -> Callable[[str, str], str]:
    """Put a header before the system's: takes its name and text, gives the compiler's flag."""

    def install(name: str, text: str) -> str:
        path = tmp_path / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return f"-I{tmp_path / 'include'}"

    return install
