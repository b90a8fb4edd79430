# SPDX-License-Identifier: Apache-2.0
"""The lab's data says what it should, and mistakes in it are found."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from ci.lab import config, kernel
from ci.lab.cache import Cache
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def lab() -> config.Lab:
    return config.load()


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = config.CONFIG_FILE.read_text()
    assert old in text
    path = tmp_path / "lab.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_kernels(lab: config.Lab) -> None:
    assert list(lab.kernels) == ["5.10", "6.1", "6.12", "6.12-16k", "7.3", "7.3-16k"]
    assert {item.page_size for item in lab.kernels.values() if item.name.endswith("16k")} == {16384}


def test_names_of_configurations(lab: config.Lab) -> None:
    assert lab.configuration("6.12", "max").name == "6.12__max"
    assert lab.configuration("6.12-16k", "max", "protected").name == "6.12-16k__max__protected"


@pytest.mark.parametrize("names", [("6.13", "max", "default"), ("6.12", "pentium", "default"), ("6.12", "max", "fast")])
def test_unknown_names_are_told_the_known_ones(lab: config.Lab, names: tuple[str, ...]) -> None:
    with pytest.raises(LabError, match=r"there are .*(6\.12-16k|cortex-a57|protected)"):
        lab.configuration(*names)


@pytest.mark.parametrize(
    ("names", "blocked"),
    [
        (("6.12-16k", "cortex-a57"), True),
        (("6.12-16k", "cortex-a76"), False),
        (("6.12", "cortex-a57"), False),
        (("5.10", "max", "nvhe"), True),
        (("5.10", "max"), False),
        (("7.3", "cortex-a57", "protected"), True),
        (("7.3", "max", "protected"), False),
    ],
)
def test_obstacles(lab: config.Lab, names: tuple[str, ...], blocked: bool) -> None:
    assert bool(lab.obstacle(lab.configuration(*names))) == blocked


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("page_size = 4096\n", "page_sice = 4096\n", r"\[kernels\.5\.10\] has unknown keys: \['page_sice'\]"),
        ("page_size = 4096\n", "", r"\[kernels\.5\.10\].*page_size"),
        ('suite = "trixie"', 'suite = "potato"', "no suite is called 'potato'"),
        ("[machine]", "[maschine]", r"there is no \[machine\]"),
        ("[machine]", "[machine", "lab.toml"),
    ],
)
def test_mistakes_are_found(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        config.load(changed(tmp_path, old, new))


def test_python_suites(lab: config.Lab) -> None:
    assert lab.root.suite_for("3.11") == "bookworm"
    assert lab.root.suite_for("3.99") == lab.root.default_suite


def test_kernel_configuration_is_read() -> None:
    text = (
        "CONFIG_ARM64_16K_PAGES=y\n# CONFIG_ARM64_4K_PAGES is not set\n"
        "CONFIG_ARM64_VA_BITS=52\nCONFIG_ARM64_PA_BITS=48\n"
    )
    assert kernel.describe_config(text) == {"page_size": 16384, "pa_bits": 48, "va_bits": 52}


@pytest.mark.parametrize("change", [{"suite": "forky"}, {"metapackage": "linux-image-arm64-16k"}])
def test_a_kernel_from_elsewhere_is_another_one(lab: config.Lab, tmp_path: Path, change: dict[str, str]) -> None:
    cache = Cache(tmp_path)
    item = lab.kernels["6.12"]
    info = {"name": "6.12", "release": "6.12.1", "version": "1", "packages": ["image"]}
    (cache.directory("kernels", kernel._key(item)) / "kernel.json").write_text(json.dumps(info))
    fetched = kernel.cached(cache, item)
    assert fetched is not None
    assert fetched.packages == ("image",)
    assert kernel.cached(cache, dataclasses.replace(item, **change)) is None  # type: ignore[arg-type]
