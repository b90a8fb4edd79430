# SPDX-License-Identifier: Apache-2.0
"""Debian packages for arm64, by an apt state of the lab's own.

Of the machine's own package state nothing is changed, and two facts are read: which mirror it uses, and which keyring
that is signed with. KVMIPA_LAB_MIRROR names another mirror.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ci.lab.cache import Cache, progress
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ci.lab.config import Lab


#: Where Debian's package debian-archive-keyring, which other distributions have too, puts its keys.
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where packages come from, and the keyring that their index is signed with (None: the machine's default)."""

    uri: str
    keyring: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of an apt source list."""

    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: str | None


def parse_list(text: str) -> Iterator[Source]:
    """The entries of a one-line-style source list (``deb [options] uri suite components``)."""
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)(?:#.*)?", line)
        if match:
            options = dict(part.split("=", 1) for part in (match[1] or "").split() if "=" in part)
            yield Source(match[2], match[3], tuple(match[4].split()), options.get("signed-by"))


def parse_stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a Debian control file, with continuation lines joined and keys in lower case."""
    for block in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and key:
                fields[key] += "\n" + line.strip()
            elif ":" in line:
                key, value = line.split(":", 1)
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields:
            yield fields


def parse_sources(text: str) -> Iterator[Source]:
    """The entries of a deb822-style source list."""
    for fields in parse_stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        keyring = fields.get("signed-by")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, tuple(fields.get("components", "").split()), keyring)


def machine_sources(etc: Path = Path("/etc/apt")) -> Iterator[Source]:
    """Every package source of this machine."""
    parts = sorted((etc / "sources.list.d").glob("*"))
    for path in [etc / "sources.list", *parts]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            # Debian's own container images keep a deb822 file under the old name.
            text = path.read_text()
            old_style = path.suffix == ".list" and not re.search(r"^Types:", text, re.MULTILINE)
            yield from parse_list(text) if old_style else parse_sources(text)


def named_mirror(environment: Mapping[str, str]) -> Mirror | None:
    """The Debian mirror that KVMIPA_LAB_MIRROR names, if it names one."""
    uri = environment.get("KVMIPA_LAB_MIRROR")
    if not uri:
        return None
    keyring = environment.get("KVMIPA_LAB_KEYRING") or KEYRING
    if not Path(keyring).is_file():
        raise LabError(
            f"KVMIPA_LAB_MIRROR is set, and its packages cannot be verified without the keyring {keyring}: "
            "apt install debian-archive-keyring, or name another keyring in KVMIPA_LAB_KEYRING"
        )
    return Mirror(uri, str(Path(keyring).absolute()))


def find_mirror(sources: Iterable[Source], codenames: Sequence[str]) -> Mirror:
    """The Debian mirror among these sources."""
    for source in sources:
        if source.suite in codenames and "main" in source.components:
            keyring = source.keyring if source.keyring and source.keyring.startswith("/") else None
            return Mirror(source.uri, keyring)
    raise LabError(
        "no Debian mirror to take arm64 packages from: this machine's apt sources have none (one of the suites "
        f"{', '.join(codenames)} with the component main), and KVMIPA_LAB_MIRROR is not set. Set it to the URI of a "
        f"Debian mirror; its packages are verified with {KEYRING} (apt install debian-archive-keyring), or with the "
        "keyring that KVMIPA_LAB_KEYRING names"
    )


class Apt:
    """The packages of one suite (and those it needs beside it)."""

    def __init__(self, lab: Lab, cache: Cache, suite: str) -> None:
        self.suite = suite
        self._cache = cache
        self._architecture = lab.apt.architecture
        self._suites = (suite, *lab.suites[suite])
        self._codenames = lab.apt.codenames
        self._state = cache.directory("apt", suite)

    @contextlib.contextmanager
    def session(self) -> Iterator[Apt]:
        """Have the suite's index fetched, and the state to oneself."""
        with self._cache.lock(f"apt-{self.suite}"):
            self._prepare()
            progress(f"fetching the package index of {self.suite}")
            self._run("apt-get", "update", "--error-on=any")
            yield self

    def show(self, package: str) -> dict[str, str] | None:
        """The suite's own record of a package, or None where it has none."""
        result = self._try("apt-cache", "show", f"{package}/{self.suite}")
        return next(parse_stanzas(result.stdout), None) if result.returncode == 0 else None

    def resolve(self, packages: Iterable[str]) -> dict[str, str]:
        """Name and version of everything that these packages need on an empty system, themselves included."""
        simulated = self._run("apt-get", "install", "--simulate", "--no-install-recommends", *packages)
        return dict(re.findall(r"^Inst (\S+) \((\S+) ", simulated, re.MULTILINE))

    def download(self, versions: Mapping[str, str], into: Path) -> list[Path]:
        """Fetch these versions of these packages."""
        wanted = [f"{name}={version}" for name, version in versions.items()]
        result = self._try("apt-get", "download", *wanted, cwd=into)
        missing = [name for name in versions if not any(into.glob(f"{name}_*.deb"))]
        if result.returncode or missing:
            raise LabError(
                f"could not download {', '.join(missing or wanted)} of {self.suite}: the mirror's index names it, the "
                f"mirror may not have it any more (try again with a fresh index)\n{_tail(result.stderr)}"
            )
        return sorted(into.glob("*.deb"))

    def _prepare(self) -> None:
        mirror = named_mirror(os.environ) or find_mirror(machine_sources(), self._codenames)
        options = [f"arch={self._architecture}"]
        if mirror.keyring:
            options.append(f"signed-by={mirror.keyring}")
        lines = [f"deb [{' '.join(options)}] {mirror.uri} {suite} main\n" for suite in self._suites]
        (self._state / "sources.list").write_text("".join(lines))
        (self._state / "status").touch()
        (self._state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self._state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (self._state / "apt.conf").write_text(self._configuration())

    def _configuration(self) -> str:
        """How this machine reaches its mirrors (proxies, certificates), and nothing else of its configuration.

        The rest of it may have hooks, which would work on the machine's own state after an update of this one.
        """
        dump = self._call(["apt-config", "dump", "Acquire"], None)
        settings = {
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            # A machine may put up with unsigned mirrors; what the lab boots is verified whatever the machine does.
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowWeakRepositories": "false",
            "Acquire::AllowDowngradeToInsecureRepositories": "false",
            "Dir::Etc::Main": "/dev/null",
            "Dir::Etc::Parts": "/dev/null",
            "Dir::Etc::SourceList": self._state / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": self._state,
            "Dir::State::Lists": self._state / "lists",
            "Dir::State::status": self._state / "status",
            "Dir::Cache": self._state,
            "Dir::Cache::archives": self._state / "archives",
        }
        own = [f'{key} "{value}";\n' for key, value in settings.items()]
        return dump.stdout + "".join(own)

    def _run(self, *command: str) -> str:
        result = self._try(*command)
        if result.returncode:
            raise LabError(f"{shlex.join(command)} ({self.suite}) failed:\n{_tail(result.stderr)}")
        return result.stdout

    def _try(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        return self._call([program, "-q", *arguments], self._state / "apt.conf", cwd)

    @staticmethod
    def _call(argv: list[str], configuration: Path | None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        if configuration:
            environment["APT_CONFIG"] = str(configuration)
        try:
            return subprocess.run(
                argv, check=False, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
        except FileNotFoundError as error:
            raise LabError(f"{argv[0]} is not here: the lab takes its packages with Debian's apt") from error


def unpack(package: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The members of a package with their contents, names without the leading "./"; nothing of it is run."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    member.name = _member_path(package, member.name)
                    file = archive.extractfile(member) if member.isreg() else None
                    yield member, file.read() if file else b""
        except tarfile.TarError as error:
            raise LabError(f"{package.name} could not be unpacked: {error}") from error
        process.stdout.read()
    if process.returncode:
        raise LabError(f"{package.name} could not be unpacked")


def _member_path(package: Path, name: str) -> str:
    """A member's path inside whatever it is unpacked into; one that leads elsewhere is refused."""
    path = name.removeprefix("./")
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise LabError(f"{package.name} could not be unpacked: it has a member called {name!r}")
    return path.rstrip("/")


def _tail(text: str, lines: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
