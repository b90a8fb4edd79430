# SPDX-License-Identifier: Apache-2.0
"""Which kernels the tests run on: a test that takes ``kvm`` runs once on each."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest

import kvmipa
from kvmipa import running_kernel
from kvmipa.backend.emulated.release import parse
from kvmipa.pytest_support.kernels import host_names
from tests.guests import GuestMachine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvmipa import Kvm, Vm

# The options are those of kvmipa's own plugin, which pytest has by its entry point where kvmipa is installed with it.
_PLUGIN = "kvmipa.pytest_plugin"
pytest_plugins = ["pytester", *([] if _PLUGIN in sys.modules else [_PLUGIN])]

# A project of its own, which test_pytest_plugin_example.py runs.
collect_ignore = ["examples/vmm_project"]

# Under emulation of the CPU, time says nothing about the code.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# In seconds; under emulation of the CPU, too.
LONGEST_TEST = 300
ERROR_OUTPUT = pytest.StashKey[int]()

KERNEL_FIXTURES = {"kvm", "backend_name"}

# Beside the default host, whose limit is 52 bits: one on which the default size is refused, and one that ignores sizes.
EMULATED_HOSTS = ("", "qemu-cortex-a53-p36-6.12-4k", "qemu-max-6.12-4k-pkvm")


def pytest_configure(config: pytest.Config) -> None:
    """Markers that the collection gives by itself, and what the hooks need."""
    # Where standard error is captured, nobody would see what the hook below writes there.
    config.stash[ERROR_OUTPUT] = os.dup(2)
    config.addinivalue_line("markers", "kernel: asks a kernel, real or emulated (every test that takes a kvm)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the process, with what each thread was doing, where a test hangs: a guest that nothing ends runs for ever."""
    faulthandler.dump_traceback_later(LONGEST_TEST, exit=True, file=item.config.stash[ERROR_OUTPUT])
    yield
    faulthandler.cancel_dump_traceback_later()


def backends(config: pytest.Config) -> list[str]:
    """The backends that tests are run on; without a choice, more than the plugin's: every one that there is."""
    chosen = config.getoption("--kvmipa-backend")
    if chosen != "auto":
        return [chosen]
    if config.getoption("--kvmipa-host"):
        return ["emulated"]
    with kvmipa.open() as kvm:
        return ["native", "emulated"] if kvm.backend == "native" else ["emulated"]


def emulated_hosts(config: pytest.Config) -> Sequence[str]:
    """The hosts that are emulated."""
    return host_names(config.getoption("--kvmipa-host")) or EMULATED_HOSTS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks a kernel on every backend that it can run on."""
    if "backend_name" not in metafunc.fixturenames:
        return
    names = backends(metafunc.config)
    only = [name for name in ("native", "emulated") if metafunc.definition.get_closest_marker(name)]
    usable = [name for name in names if name in (only or names)]
    absent = [pytest.param(name, marks=pytest.mark.skip(f"needs the {name} backend")) for name in only if not usable]
    kernels = [
        f"{name}:{host}" if host else name
        for name in usable
        for host in (emulated_hosts(metafunc.config) if name == "emulated" else ("",))
    ]
    metafunc.parametrize("backend_name", kernels or absent, indirect=True)


def pytest_collection_finish() -> None:
    """Thousands of tests are objects that live to the end: no collection of garbage has to look at them."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks a kernel: the lab runs exactly that in its guests."""
    for item in items:
        if KERNEL_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("kernel")


def pytest_report_header(config: pytest.Config) -> str:
    """Say which kernels answer."""
    names = backends(config)
    real = f"REAL /dev/kvm, Linux {os.uname().release}" if "native" in names else "no arm64 KVM here"
    emulated = "; EMULATED" if "emulated" in names else ""
    return f"kvmipa: {real}{emulated}"


@pytest.fixture
def backend_name(request: pytest.FixtureRequest, no_environment: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend that a test runs on: kvmipa.open() with it gives the kernel that the test is about."""
    name, _, host = request.param.partition(":")
    if host:
        monkeypatch.setenv("KVMIPA_HOST", host)
    return str(name)


@pytest.fixture
def kvm(backend_name: str) -> Iterator[Kvm]:
    """An open Kvm: the test runs once on each kernel that there is."""
    with kvmipa.open(backend_name) as opened:
        yield opened


@pytest.fixture
def machine(kvm: Kvm) -> Iterator[GuestMachine]:
    """A VM with memory, and vCPUs that run what a test writes there."""
    with GuestMachine(kvm) as made:
        yield made


@pytest.fixture
def limit(kvm: Kvm) -> int:
    """The host's IPA limit in bits."""
    found = kvm.host_ipa_limit
    assert found is not None
    return found


@pytest.fixture
def vm(kvm: Kvm, limit: int) -> Iterator[Vm]:
    """A VM of 40 bits, or of the limit where that is less."""
    with kvm.create_vm(min(limit, 40)) as created:
        yield created


@pytest.fixture
def ignores_size(kvm: Kvm) -> bool:
    """Whether this is a pKVM host that gives every VM its limit, by what is known of it apart from its answers."""
    profile = kvm._backend.profile
    if profile is not None:
        return profile.mode == "protected"
    release = running_kernel.stable_release(os.uname().release, os.uname().version)
    return running_kernel.command_line_mode() == "protected" and parse(release) >= (6, 2, 0)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own choice of backend and host is not the tests'."""
    monkeypatch.delenv("KVMIPA_BACKEND", raising=False)
    monkeypatch.delenv("KVMIPA_HOST", raising=False)
