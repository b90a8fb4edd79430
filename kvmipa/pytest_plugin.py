# SPDX-License-Identifier: Apache-2.0
"""kvmipa's pytest plugin: a KVM for tests, the real one or that of any arm64 host, whose system calls can go wrong.

Installing kvmipa installs it, under the name ``kvmipa`` (``-p no:kvmipa`` leaves it out).

Fixtures, each for one test: ``kvm``, an open Kvm; ``kvm_vm``, a VM of 40 bits, or of the host's limit where that is
less; ``kvm_host``, the HostProfile of the host; ``kvm_faults``, the kvmipa.fault_injection.Faults that kvm has, and
every kvmipa.open() of the test; ``kvm_backend``, "native" or "emulated". During a test with one of them kvmipa.open()
without arguments gives the same kernel, also in processes that the test starts.

Options: ``--kvmipa-backend=auto|native|emulated``, with the meaning that they have for kvmipa.open(): a named backend
that is not there fails the tests, it skips none. ``--kvmipa-host=NAME[,NAME...]``, which can be repeated: every test
runs once on each of these hosts, which are emulated; ``all`` is every preset (``kvmipa hosts`` shows them). Without the
options the environment's KVMIPA_BACKEND and KVMIPA_HOST are used.

Markers: ``kvm_native`` and ``kvm_emulated``, for what only the real kernel or only an emulated one can show;
``kvm_min_ipa_bits(N)``, for what needs an IPA limit of N bits; ``kvm_exclusive``, for what must have the real KVM for
itself: no other test with these fixtures runs on this machine meanwhile, in whatever process. A marked test runs on the
session's kernels also where it has none of the fixtures. Under pytest-xdist exclusive tests are the group
"kvm-exclusive": with ``--dist loadgroup`` one worker has them all and the others need not wait (pytest-xdist 3.8.0
makes no groups under pytest 9.2; what is promised rests on locks).

In the configuration file ``kvmipa_unused_faults`` says what becomes of a test in which a fault met no call: "fail" (the
default), "warn" or "ignore".

This module is loaded into every session of whoever has kvmipa: all imports are where they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.fault_injection import Faults
    from kvmipa.pytest_support.kernels import Kernel, Kernels
    from kvmipa.system import Kvm
    from kvmipa.vm import Vm

_FIXTURE = "kvm_backend"
_GROUP = "kvm-exclusive"
_BACKENDS = ("auto", "native", "emulated")
_UNUSED = ("fail", "warn", "ignore")
_KERNELS = pytest.StashKey["Kernels"]()
# The kernels of tests that were collected, in whatever process.
_SEEN = pytest.StashKey["dict[str, None]"]()

_MARKERS = {
    "kvm_native": "what only the real kernel can show",
    "kvm_emulated": "what only an emulated kernel can show",
    "kvm_min_ipa_bits(N)": "needs a host whose IPA limit is N bits or more",
    "kvm_exclusive": "must have the real KVM alone",
}


# ------------------------------------------------------------------------------------------------ the session


def pytest_addoption(parser: pytest.Parser) -> None:
    """The choice of kernels."""
    group = parser.getgroup("kvmipa", "KVM on arm64 (kvmipa)")
    group.addoption(
        "--kvmipa-backend",
        choices=_BACKENDS,
        default="auto",
        help="the kernel that tests run on; auto (default): the real one where an arm64 KVM is, else the emulated one. "
        "A named backend that is not there fails the tests, it skips none.",
    )
    group.addoption(
        "--kvmipa-host",
        action="append",
        default=[],
        metavar="NAME[,NAME...]",
        help="run every test that takes a KVM on each of these emulated hosts; can be repeated; "
        "'all': every preset (see: kvmipa hosts). Example: --kvmipa-host=apple-m1,raspberry-pi-4",
    )
    parser.addini(
        "kvmipa_unused_faults",
        "what becomes of a test in which an injected fault met no call: fail, warn, ignore",
        default="fail",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Markers; and hosts that do not exist are refused before anything runs."""
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    config.stash[_SEEN] = {}
    if config.getini("kvmipa_unused_faults") not in _UNUSED:
        raise pytest.UsageError(
            f"kvmipa_unused_faults = {config.getini('kvmipa_unused_faults')}: expected {', '.join(_UNUSED)}"
        )
    if _is_explicit(config):
        _kernels(config)


def _is_explicit(config: pytest.Config) -> bool:
    """Whether the command line, or addopts, says which kernels there are."""
    return bool(config.getoption("--kvmipa-host") or config.getoption("--kvmipa-backend") != "auto")


def _kernels(config: pytest.Config) -> Kernels:
    """The session's kernels; made when somebody asks for one."""
    if _KERNELS not in config.stash:
        from kvmipa.pytest_support.kernels import Kernels, host_names

        try:
            hosts = host_names(config.getoption("--kvmipa-host"))
            config.stash[_KERNELS] = Kernels(config.getoption("--kvmipa-backend"), hosts)
        except ValueError as error:
            raise pytest.UsageError(f"kvmipa: {error}") from None
    return config.stash[_KERNELS]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Which kernels there are, where somebody chose them; else it is said when a test is found that asks for one."""
    if not _is_explicit(config):
        return None
    from kvmipa.pytest_support.kernels import in_words

    return f"kvmipa: {in_words(_kernels(config).usual)}"


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    """See pytest_report_header."""
    return None if _is_explicit(config) else _seen_in_words(config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the controller of pytest-xdist, which collects no tests: what a worker has seen."""
    node.config.stash[_SEEN].update(dict.fromkeys(getattr(node, "workeroutput", {}).get("kvmipa_kernels", ())))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist: see pytest_testnodedown."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        seen = session.config.stash[_SEEN]
        output["kvmipa_kernels"] = [*seen]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Under pytest-xdist there is no line after the collection."""
    if not _is_explicit(config) and getattr(config.option, "dist", "no") != "no":
        words = _seen_in_words(config)
        if words:
            terminalreporter.write_line(words)


def _seen_in_words(config: pytest.Config) -> str | None:
    seen = config.stash[_SEEN]
    if not seen:
        return None
    from kvmipa.pytest_support.kernels import Kernel, in_words

    return f"kvmipa: {in_words([Kernel('native') if name == 'native' else Kernel('emulated', name) for name in seen])}"


# ------------------------------------------------------------------------------------------------ the tests


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a kernel, or is marked for one, runs on each that there is."""
    test = metafunc.definition
    if _FIXTURE not in metafunc.fixturenames:
        if not any(True for name in _MARKERS for _ in test.iter_markers(name.partition("(")[0])):
            return
        # pytest_itemcollected() has it used.
        metafunc.fixturenames.append(_FIXTURE)
    found = _for_marks(metafunc.config, test)
    if isinstance(found, str):
        parameters = [pytest.param(None, marks=pytest.mark.skip(reason=found), id="none")]
    else:
        parameters = [pytest.param(one, marks=_group(metafunc.config, test, one), id=str(one)) for one in found]
        metafunc.config.stash[_SEEN].update(dict.fromkeys(map(str, found)))
    metafunc.parametrize(_FIXTURE, parameters, indirect=True, scope="function")


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that is marked, and asks for no kernel by a fixture."""
    callspec = getattr(item, "callspec", None)
    names = getattr(item, "fixturenames", None)
    if callspec is not None and names is not None and _FIXTURE in callspec.params and _FIXTURE not in names:
        names.insert(0, _FIXTURE)


def _for_marks(config: pytest.Config, node: pytest.Item | Any) -> Sequence[Kernel] | str:
    """The kernels of a test by its marks, or why it runs on none."""
    try:
        return _kernels(config).of(
            native=node.get_closest_marker("kvm_native") is not None,
            emulated=node.get_closest_marker("kvm_emulated") is not None,
        )
    except (ValueError, pytest.UsageError) as error:
        trouble = str(error)
    pytest.fail(f"{node.nodeid}: {trouble}", pytrace=False)


def _group(config: pytest.Config, node: pytest.Item | Any, kernel: Kernel) -> Sequence[pytest.MarkDecorator]:
    alone = kernel.backend == "native" and node.get_closest_marker("kvm_exclusive") is not None
    return (pytest.mark.xdist_group(_GROUP),) if alone and config.pluginmanager.has_plugin("xdist") else ()


def _min_ipa_bits(node: pytest.Item | Any) -> int:
    """The largest N of the markers kvm_min_ipa_bits(N); 0 where there is none."""
    found = 0
    for mark in node.iter_markers("kvm_min_ipa_bits"):
        if len(mark.args) != 1 or mark.kwargs or type(mark.args[0]) is not int or mark.args[0] < 1:
            pytest.fail("kvm_min_ipa_bits takes one number of bits, as kvm_min_ipa_bits(48)", pytrace=False)
        found = max(found, mark.args[0])
    return found


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """After the test, where it passed: its faults have to have met something."""
    faults: Faults | None = getattr(item, "funcargs", {}).get("kvm_faults")
    consequence = item.config.getini("kvmipa_unused_faults")
    if faults is None or consequence == "ignore":
        return
    trouble = faults.unused_in_words()
    if trouble and consequence == "warn":
        item.warn(pytest.PytestWarning(trouble))
    elif trouble:
        pytest.fail(trouble, pytrace=False)


# ------------------------------------------------------------------------------------------------ fixtures


@pytest.fixture
def kvm_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend that the test runs on, "native" or "emulated"; kvmipa.open() gives the same kernel."""
    kernel = _kernel_of(request)
    from contextlib import nullcontext

    from kvmipa.backend import DEVICE
    from kvmipa.errors import KvmError
    from kvmipa.pytest_support.exclusive import using
    from kvmipa.pytest_support.kernels import limit_of

    try:
        limit = limit_of(kernel)
    except KvmError as error:
        missing = str(error)
    else:
        missing = ""
    if missing:
        # Never a skip: a machine that has lost its KVM would look as if all were well.
        pytest.fail(f"the {kernel.backend} backend cannot be used: {missing}", pytrace=False)
    needed = _min_ipa_bits(request.node)
    if (limit or 0) < needed:
        pytest.skip(f"needs {needed} IPA bits, {kernel} has {limit or 'no choice of sizes'}")
    alone = request.node.get_closest_marker("kvm_exclusive") is not None
    turn = using(DEVICE, alone=alone) if kernel.backend == "native" else nullcontext()
    with pytest.MonkeyPatch.context() as environment, turn:
        environment.setenv("KVMIPA_BACKEND", kernel.backend)
        if kernel.host:
            environment.setenv("KVMIPA_HOST", kernel.host)
        else:
            environment.delenv("KVMIPA_HOST", raising=False)
        yield kernel.backend


def _kernel_of(request: pytest.FixtureRequest) -> Kernel:
    """A test's kernel: its parameter; the first of them where it takes none, as a unittest.TestCase's."""
    kernel: Kernel | None = getattr(request.node, "callspec", None) and request.node.callspec.params.get(_FIXTURE)
    if kernel is not None:
        return kernel
    found = _for_marks(request.config, request.node)
    if isinstance(found, str):
        pytest.skip(found)
    return found[0]


@pytest.fixture
def kvm(request: pytest.FixtureRequest, kvm_backend: str) -> Iterator[Kvm]:
    """An open Kvm; of a test that takes kvm_faults, with those."""
    if "kvm_faults" in request.fixturenames:
        opened = request.getfixturevalue("kvm_faults").open(kvm_backend)
    else:
        import kvmipa

        opened = kvmipa.open(kvm_backend)
    with opened:
        yield opened


@pytest.fixture
def kvm_host(request: pytest.FixtureRequest, kvm_backend: str) -> HostProfile:
    """The host that the test runs on, without faults; of a real one what it shows."""
    from kvmipa.pytest_support.kernels import profile_of

    return profile_of(_kernel_of(request))


@pytest.fixture
def kvm_vm(kvm: Kvm) -> Iterator[Vm]:
    """A VM of 40 bits, or of the host's limit where that is less."""
    limit = kvm.host_ipa_limit
    with kvm.create_vm(None if limit is None else min(limit, 40)) as vm:
        yield vm


@pytest.fixture
def kvm_faults(kvm_backend: str) -> Iterator[Faults]:
    """Faults that the kvm of the test has, and every kvmipa.open() in it; see kvmipa.fault_injection."""
    from kvmipa.fault_injection import Faults

    with Faults() as faults:
        yield faults
