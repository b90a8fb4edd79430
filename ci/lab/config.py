# SPDX-License-Identifier: Apache-2.0
"""The lab's configuration: what lab.toml says, checked and typed."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ci.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.version_info >= (3, 11):
    from tomllib import TOMLDecodeError, loads
else:

    class TOMLDecodeError(ValueError):
        """The file is not TOML."""

    def loads(text: str) -> dict[str, Any]:
        raise LabError(f"the lab needs Python 3.11 or newer (tomllib); this is {sys.version.split()[0]}")


_T = TypeVar("_T", bound="_Table")
_V = TypeVar("_V")
CONFIG_FILE = Path(__file__).with_name("lab.toml")

# Names of interrupt controllers.
GICS = {name: name for name in ("default", "v2", "v3")}


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the file; its fields are the keys, and no others."""

    @classmethod
    def parse(cls: type[_T], where: str, table: Mapping[str, Any], **given: Any) -> _T:
        known = {field.name for field in fields(cls)} - given.keys()
        if unknown := table.keys() - known:
            raise LabError(f"{CONFIG_FILE.name}: [{where}] has unknown keys: {sorted(unknown)}")
        frozen = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
        try:
            return cls(**frozen, **given)
        except TypeError as error:
            raise LabError(f"{CONFIG_FILE.name}: [{where}]: {error}") from error


@dataclass(frozen=True, slots=True)
class Apt(_Table):
    """Which packages of which mirror."""

    architecture: str
    codenames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kernel(_Table):
    """One kernel, by the name that users give it; the exact release is known once it is in the cache."""

    name: str
    suite: str
    page_size: int
    pa_bits: int
    va_bits: int

    @property
    def package(self) -> str:
        """The package of the suite that it comes from."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class PackagedKernel(Kernel):
    """A kernel as Debian builds it: whatever the metapackage depends on."""

    metapackage: str

    @property
    def package(self) -> str:
        return self.metapackage


@dataclass(frozen=True, slots=True)
class BuiltKernel(Kernel):
    """A kernel that the lab builds from Debian's sources: allnoconfig and these fragments of a configuration."""

    source: str
    fragments: tuple[str, ...]

    @property
    def package(self) -> str:
        return self.source


@dataclass(frozen=True, slots=True)
class Build(_Table):
    """How kernels are built."""

    nice: int
    jobs: int
    cross_compile: str
    #: Programs that the build needs, and the packages that have them.
    programs: Mapping[str, str]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Cpu(_Table):
    """One of QEMU's CPU models."""

    name: str
    qemu: str


@dataclass(frozen=True, slots=True)
class Mode(_Table):
    """A choice of KVM's mode on the kernel's command line."""

    name: str
    append: str
    about: str


@dataclass(frozen=True, slots=True)
class Obstacle(_Table):
    """A set of configurations that cannot be booted, and why."""

    why: str
    kernels: tuple[str, ...] | None = None
    cpus: tuple[str, ...] | None = None
    modes: tuple[str, ...] | None = None

    def covers(self, kernel: str, cpu: str, mode: str) -> bool:
        pairs = ((self.kernels, kernel), (self.cpus, cpu), (self.modes, mode))
        return all(names is None or name in names for names, name in pairs)


@dataclass(frozen=True, slots=True)
class Machine(_Table):
    """The machine that QEMU emulates."""

    qemu: str
    qemu_package: str
    machine: str
    accel: str
    append: str
    memory: int
    smp: int
    timeout: int
    slots: int

    def with_gic(self, gic: str) -> Machine:
        """The machine with this interrupt controller."""
        if gic == "default":
            return self
        return replace(self, machine=re.sub(r"gic-version=\d", f"gic-version={gic[1:]}", self.machine))


@dataclass(frozen=True, slots=True)
class Root(_Table):
    """What the guest's root filesystem is made of."""

    packages: tuple[str, ...]
    leave_out: tuple[str, ...]
    prune: tuple[str, ...]
    busybox: tuple[str, ...]
    default_suite: str
    python_suites: Mapping[str, str]

    def suite_for(self, minor: str) -> str:
        """The suite whose Python has this minor version, or the default one."""
        return self.python_suites.get(minor, self.default_suite)


@dataclass(frozen=True, slots=True)
class Wheel(_Table):
    """How the arm64 wheel is built."""

    compiler: str
    compiler_package: str
    cflags: str
    platform: str


@dataclass(frozen=True, slots=True)
class Guest(_Table):
    """What a command finds around it in the guest."""

    work_dir: str
    files: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Configuration:
    """One kernel on one CPU in one mode: what a test runs on and a recording is of.

    gic: the machine's interrupt controller, "v2" or "v3"; "default": what [machine] says.
    """

    kernel: Kernel
    cpu: Cpu
    mode: Mode
    gic: str = "default"

    @property
    def name(self) -> str:
        mode = "" if self.mode.name == "default" else f"__{self.mode.name}"
        gic = "" if self.gic == "default" else f"__gic{self.gic}"
        return f"{self.kernel.name}__{self.cpu.name}{mode}{gic}"


@dataclass(frozen=True, slots=True)
class Lab:
    """The whole file."""

    apt: Apt
    suites: Mapping[str, tuple[str, ...]]
    kernels: Mapping[str, PackagedKernel]
    built_kernels: Mapping[str, BuiltKernel]
    build: Build
    cpus: Mapping[str, Cpu]
    modes: Mapping[str, Mode]
    obstacles: tuple[Obstacle, ...]
    machine: Machine
    root: Root
    wheel: Wheel
    guest: Guest
    test_command: tuple[str, ...]
    recorded: tuple[tuple[str, ...], ...]
    traced: tuple[tuple[str, ...], ...]

    @property
    def all_kernels(self) -> dict[str, Kernel]:
        """The kernels that are downloaded, and those that are built here."""
        return {**self.kernels, **self.built_kernels}

    def configuration(self, kernel: str, cpu: str, mode: str = "default", gic: str = "default") -> Configuration:
        """The configuration of these names, or an error that lists the names there are."""
        return Configuration(
            _named("kernel", self.all_kernels, kernel),
            _named("CPU", self.cpus, cpu),
            _named("mode", self.modes, mode),
            _named("interrupt controller", GICS, gic),
        )

    def obstacle(self, configuration: Configuration) -> str | None:
        """Why this configuration cannot be used, as far as is known."""
        names = (configuration.kernel.name, configuration.cpu.name, configuration.mode.name)
        return next((o.why for o in self.obstacles if o.covers(*names)), None)


def python_minor() -> str:
    """The interpreter's minor version, such as "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary."""
    try:
        return loads(path.read_text())
    except TOMLDecodeError as error:
        raise LabError(f"{path}: {error}") from error


def load(path: Path = CONFIG_FILE) -> Lab:
    """Read and check the configuration file."""
    data = read_toml(path)
    try:
        return _lab(data)
    except KeyError as error:
        raise LabError(f"{path}: there is no [{error.args[0]}]") from error


def _lab(data: Mapping[str, Any]) -> Lab:
    lab = Lab(
        apt=Apt.parse("apt", data["apt"]),
        suites={name: tuple(needs) for name, needs in data["suites"].items()},
        kernels=_tables(PackagedKernel, "kernels", data),
        built_kernels=_tables(BuiltKernel, "built_kernels", data),
        build=Build.parse("build", data["build"]),
        cpus=_tables(Cpu, "cpus", data),
        modes=_tables(Mode, "modes", data),
        obstacles=tuple(Obstacle.parse("obstacles", table) for table in data["obstacles"]),
        machine=Machine.parse("machine", data["machine"]),
        root=Root.parse("root", data["root"]),
        wheel=Wheel.parse("wheel", data["wheel"]),
        guest=Guest.parse("guest", data["guest"]),
        test_command=tuple(data["test"]["command"]),
        recorded=tuple(tuple(names) for names in data["record"]["configurations"]),
        traced=tuple(tuple(names) for names in data["trace"]["configurations"]),
    )
    _check_references(lab)
    return lab


def _tables(kind: type[_T], section: str, data: Mapping[str, Any]) -> dict[str, _T]:
    tables = data[section]
    return {name: kind.parse(f"{section}.{name}", tables[name], name=name) for name in tables}


def _check_references(lab: Lab) -> None:
    if both := lab.kernels.keys() & lab.built_kernels.keys():
        raise LabError(f"{CONFIG_FILE.name}: downloaded and built kernels have the same names: {sorted(both)}")
    for kernel in lab.all_kernels.values():
        _named("suite", lab.suites, kernel.suite)
    for listed in (*lab.recorded, *lab.traced):
        lab.configuration(*listed)
    for obstacle in lab.obstacles:
        for what, known, names in (
            ("kernel", lab.all_kernels, obstacle.kernels),
            ("CPU", lab.cpus, obstacle.cpus),
            ("mode", lab.modes, obstacle.modes),
        ):
            for name in names or ():
                _named(what, known, name)


def _named(what: str, table: Mapping[str, _V], name: str) -> _V:
    try:
        return table[name]
    except KeyError:
        raise LabError(f"no {what} is called {name!r}; there are {', '.join(table)}") from None
