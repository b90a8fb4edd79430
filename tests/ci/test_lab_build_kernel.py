# SPDX-License-Identifier: Apache-2.0
"""Kernels that the lab builds: configured as lab.toml says, and in the cache like those that are downloaded."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.lab import __main__ as main
from ci.lab import build_kernel, config, kernel, record
from ci.lab.cache import Cache
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "6.12-64k-lab"
RELEASE = "6.12.99-64k-lab"

# A make that knows the two calls of a build. Its last argument is what to make; `broken` decides what goes wrong.
MAKE = r"""#!/bin/sh
for word; do
    case $word in O=*) out=${word#O=};; KCONFIG_ALLCONFIG=*) fragment=${word#*=};; esac
    target=$word
done
cd "$out" || exit
echo "$*" >> calls
case $target in
allnoconfig)
    cp "$fragment" .config
    if [ "%(broken)s" = configuration ]; then sed -i /CONFIG_KSM=y/d .config; fi
    echo CONFIG_ARM64_VA_BITS=52 >> .config
    echo CONFIG_ARM64_PA_BITS=52 >> .config;;
Image)
    if [ "%(broken)s" = compiler ]; then echo "kvm.c: error: no such thing"; exit 2; fi
    mkdir -p arch/arm64/boot include/generated
    printf '%%56sARM\144' '' > arch/arm64/boot/Image
    echo "#define UTS_RELEASE \"$KBUILD_BUILD_HOST-%(release)s\"" > include/generated/utsrelease.h;;
esac
"""


@pytest.fixture(scope="module")
def lab() -> config.Lab:
    return config.load()


@pytest.fixture
def cache(tmp_path: Path, lab: config.Lab) -> Cache:
    """A cache with sources in it: none are downloaded."""
    cache = Cache(tmp_path / "cache")
    source = cache.directory("sources", lab.built_kernels[NAME].source)
    (source / "Makefile").touch()
    (source / ".lab.json").write_text(json.dumps({"package": "linux-source-6.12", "version": "6.12.99-1"}))
    return cache


def install_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str = "") -> None:
    """Programs that do next to nothing, in front of the machine's own."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name in config.load().build.programs:
        (programs / name).write_text("#!/bin/sh\n")
    (programs / "make").write_text(MAKE % {"broken": broken, "release": RELEASE})
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


# ---------------------------------------------------------------------------------------------- the data


def test_built_kernels_are_of_both_page_sizes_and_releases(lab: config.Lab) -> None:
    sizes = {name: item.page_size for name, item in lab.built_kernels.items()}
    assert sizes == {"6.12-lab": 4096, "6.12-64k-lab": 65536, "7.3-lab": 4096, "7.3-64k-lab": 65536}


def test_built_kernels_are_configurations_like_others(lab: config.Lab) -> None:
    assert lab.configuration(NAME, "max").name == f"{NAME}__max"


def test_the_same_name_for_two_kernels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(config.CONFIG_FILE.read_text().replace('[built_kernels."6.12-lab"]', '[built_kernels."6.12"]'))
    with pytest.raises(LabError, match=r"same names: \['6\.12'\]"):
        config.load(path)


@pytest.mark.parametrize("name", config.load().built_kernels)
def test_fragments_name_every_symbol_once(lab: config.Lab, name: str) -> None:
    symbols = re.findall(r"^(CONFIG_\w+)=", build_kernel.fragment(lab.built_kernels[name]), re.MULTILINE)
    assert len(symbols) == len(set(symbols))
    assert {"CONFIG_KVM", "CONFIG_PTDUMP_STAGE2_DEBUGFS", "CONFIG_SERIAL_8250_PCI"} <= set(symbols)


def test_sizes_come_from_the_data(lab: config.Lab) -> None:
    item = dataclasses.replace(lab.built_kernels[NAME], page_size=16384, pa_bits=48, va_bits=47)
    lines = build_kernel.fragment(item).splitlines()
    expected = ["CONFIG_ARM64_16K_PAGES=y", "CONFIG_ARM64_PA_BITS_48=y", "CONFIG_ARM64_VA_BITS_47=y"]
    assert lines[-4:] == [*expected, 'CONFIG_LOCALVERSION="-64k-lab"']


# ---------------------------------------------------------------------------------------------- the build


def test_a_built_kernel_is_in_the_cache_like_others(
    lab: config.Lab, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_make(tmp_path, monkeypatch)
    item = lab.built_kernels[NAME]
    built = build_kernel.build(lab, cache, item)
    assert built == kernel.cached(cache, item) == kernel.fetch(lab, cache, item)
    assert (built.release, built.version) == (f"lab-{RELEASE}", "6.12.99-1")
    assert built.packages == ("linux-source-6.12",)
    assert built.image.read_bytes()[56:] == b"ARM\x64"
    assert "CONFIG_ARM64_64K_PAGES=y" in built.config.read_text()


def test_it_is_compiled_for_arm64_beside_other_work(
    lab: config.Lab, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_make(tmp_path, monkeypatch)
    build_kernel.build(lab, cache, lab.built_kernels[NAME])
    configured, compiled = (cache.path("builds", NAME, "calls")).read_text().splitlines()
    for call in (configured, compiled):
        assert "ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-" in call
        assert re.search(r"KBUILD_BUILD_TIMESTAMP=\d{4}-\d\d-\d\d ", call)
    assert compiled.endswith("-j2 Image")


@pytest.mark.parametrize(
    ("broken", "message"),
    [("configuration", "CONFIG_KSM=y had no effect"), ("compiler", r"failed(?s:.*)kvm\.c: error: no such thing")],
)
def test_a_failed_build_says_why_and_leaves_the_kernel_that_was_there(
    lab: config.Lab, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, message: str
) -> None:
    install_make(tmp_path, monkeypatch)
    item = lab.built_kernels[NAME]
    before = build_kernel.build(lab, cache, item)
    install_make(tmp_path, monkeypatch, broken)
    with pytest.raises(LabError, match=message):
        build_kernel.build(lab, cache, item)
    assert kernel.cached(cache, item) == before
    assert before.image.exists()


def test_a_kernel_of_other_sizes_than_lab_toml_says_is_refused(
    lab: config.Lab, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_make(tmp_path, monkeypatch)
    item = dataclasses.replace(lab.built_kernels[NAME], pa_bits=48)
    with pytest.raises(LabError, match=r"'pa_bits': 48.*'pa_bits': 52"):
        build_kernel.build(lab, cache, item)


def test_missing_programs_are_named_with_their_packages(
    lab: config.Lab, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_make(tmp_path, monkeypatch)
    (tmp_path / "bin" / "flex").unlink()
    (tmp_path / "bin" / "xz").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(LabError, match=r"needs flex, xz.*apt install flex xz-utils"):
        build_kernel.build(lab, cache, lab.built_kernels[NAME])


# ---------------------------------------------------------------------------------------------- the sources


@dataclasses.dataclass
class Packages:
    """A suite with one source package."""

    deb: Path
    suite: str = "trixie"

    def show(self, package: str) -> dict[str, str] | None:
        return {"version": "6.12.99-1"} if package == "linux-source-6.12" else None

    def download(self, versions: Mapping[str, str], into: Path) -> list[Path]:
        assert versions == {"linux-source-6.12": "6.12.99-1"}
        return [Path(shutil.copy(self.deb, into))]


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: linux-source-6.12\nVersion: 6.12.99-1\nArchitecture: all\nMaintainer: nobody\nDescription: sources\n"
    )
    source = tmp_path / "linux-source-6.12"
    source.mkdir()
    (source / "Makefile").write_text("VERSION = 6\n")
    target = tree / "usr" / "src"
    target.mkdir(parents=True)
    subprocess.run(["tar", "-C", tmp_path, "-cJf", target / "linux-source-6.12.tar.xz", source.name], check=True)
    deb = tmp_path / "linux-source.deb"
    subprocess.run(["dpkg-deb", "--build", tree, deb], check=True, capture_output=True)
    return Packages(deb)


def test_sources_are_unpacked_with_their_version(packages: Packages, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    build_kernel._make_source(packages, "linux-source-6.12", into)  # type: ignore[arg-type]
    assert sorted(path.name for path in into.iterdir()) == [".lab.json", "Makefile"]
    assert json.loads((into / ".lab.json").read_text())["version"] == "6.12.99-1"


def test_a_source_package_that_is_gone_is_named(packages: Packages, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"trixie has no package linux-source-6\.13"):
        build_kernel._make_source(packages, "linux-source-6.13", tmp_path)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- the command line


def test_a_kernel_that_is_not_built_is_not_built_by_the_way(lab: config.Lab, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=rf"python -m ci\.lab build-kernel {NAME}"):
        kernel.fetch(lab, Cache(tmp_path), lab.built_kernels[NAME])


def test_fetch_without_names_leaves_built_kernels_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def fetch(lab: config.Lab, cache: Cache, item: config.Kernel, *, again: bool) -> kernel.FetchedKernel:
        asked.append(item.name)
        return kernel.FetchedKernel(item.name, "release", "version", (), tmp_path)

    monkeypatch.setattr(kernel, "fetch", fetch)
    assert main.main(["fetch"]) == 0
    assert "6.12" in asked
    assert NAME not in asked
    assert f"build-kernel {NAME}" in capsys.readouterr().out


def test_record_without_names_takes_what_is_built(
    lab: config.Lab, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = [lab.configuration(name, "max") for name in lab.all_kernels]
    listed = {it.kernel.name for it in record._available(every, lab, cache)}
    assert listed == set(lab.kernels)
    assert f"build-kernel {NAME}" in capsys.readouterr().err
    install_make(tmp_path, monkeypatch)
    build_kernel.build(lab, cache, lab.built_kernels[NAME])
    assert {it.kernel.name for it in record._available(every, lab, cache)} == {*lab.kernels, NAME}


def test_a_kernel_that_debian_has_is_not_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_kernel, "build", lambda *_, **__: pytest.fail("something was built"))
    assert main.main(["build-kernel", NAME, "6.12"]) == main.EXIT_LAB
    assert "6.12 is not among the kernels that are built here: 6.12-lab" in capsys.readouterr().err
