# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, as a project sees it that has kvmipa installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

from kvmipa import HostProfile
from kvmipa.pytest_support.exclusive import using

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]

xdist = pytest.mark.skipif(not entry_points(group="pytest11", name="xdist"), reason="needs pytest-xdist")
locks = pytest.mark.skipif(sys.platform != "linux", reason="the locks are Linux's")

# An arm64 machine with a KVM of its own, as far as kvmipa sees; in a conftest.py, so that pytest-xdist's workers are
# there too. The lock is on a file.
BOARD = """
import os
from kvmipa import HostProfile, backend, choice, errors
from kvmipa.backend import emulated, interposed, native
from kvmipa.pytest_support import kernels

class Board(interposed.InterposedBackend):
    name = "native"
    profile = None

    def __init__(self):
        super().__init__(emulated.EmulatedBackend(HostProfile.preset("raspberry-pi-4")))

    def open(self, path):
        return {opens} or super().open(path)

native.NativeBackend = Board
choice.machine = lambda: "aarch64"
exists = os.path.exists
os.path.exists = lambda path: path == "/dev/kvm" or exists(path)
backend.DEVICE = {lock!r}
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """pytest with the plugin in a process of its own; all that it loads is what a user's loads."""

    def run_pytest(*arguments: str) -> pytest.RunResult:
        plugin = () if entry_points(group="pytest11", name="kvmipa") else ("-p", "kvmipa.pytest_plugin")
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *plugin, *arguments, timeout=120)

    return run_pytest


@pytest.fixture
def on_board(pytester: pytest.Pytester) -> Callable[..., None]:
    """Have the tests run on an arm64 machine; opens: 0, or -errno of every open of its device."""

    def go(opens: int = 0) -> None:
        lock = pytester.path / "device"
        lock.touch()
        pytester.makeconftest(BOARD.format(opens=opens, lock=str(lock)))

    return go


def kvmipa_lines(result: pytest.RunResult) -> list[str]:
    """What the plugin itself says."""
    return [line for line in result.outlines if line.startswith("kvmipa: ")]


# ------------------------------------------------------------------------------------------------ fixtures and hosts


def test_fixtures_are_there_and_agree(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import kvmipa

        kept = []

        def test_all(kvm, kvm_vm, kvm_host, kvm_backend):
            kept.extend([kvm, kvm_vm])
            assert kvm.host_ipa_limit == kvm_host.ipa_limit == 36
            assert kvm_vm.ipa_bits == 36
            assert kvm.backend == kvm_backend == "emulated"
            with kvmipa.open() as again:
                assert again.host_ipa_limit == 36

        def test_closed_afterwards():
            assert all(handle.closed for handle in kept) and len(kept) == 2
        """
    )
    run("--kvmipa-host=apple-m1").assert_outcomes(passed=2)


def test_every_host_runs_every_test_that_asks_for_a_kernel(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_host(kvm, kvm_host):
            assert kvm.host_ipa_limit == kvm_host.ipa_limit

        @pytest.mark.parametrize("number", [1, 2])
        def test_numbers(number, kvm_vm):
            assert kvm_vm.ipa_bits <= 40

        def test_other():
            pass
        """
    )
    options = ("--kvmipa-host=apple-m1, raspberry-pi-4", "--kvmipa-host=apple-m1", "--kvmipa-host=apple-m1@5.10")
    result = run("-v", *options)
    result.assert_outcomes(passed=10)
    result.stdout.fnmatch_lines(["*::test_host[[]apple-m1[]] PASSED*", "*::test_host[[]apple-m1@5.10[]] PASSED*"])
    assert kvmipa_lines(result) == ["kvmipa: EMULATED, 3 hosts: apple-m1, raspberry-pi-4, apple-m1@5.10"]


def test_all_is_every_preset(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_opens(kvm): assert kvm.host_ipa_limit")
    result = run("--kvmipa-host=all")
    result.assert_outcomes(passed=len(HostProfile.presets()))
    (line,) = kvmipa_lines(result)
    assert line.startswith(f"kvmipa: EMULATED, {len(HostProfile.presets())} hosts: ")


def test_kernel_of_the_test_is_what_its_own_processes_get(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import os, subprocess, sys
        PROGRAM = "import kvmipa; print(kvmipa.open().host_ipa_limit)"

        def test_child(kvm_backend):
            assert os.environ["KVMIPA_HOST"] == "apple-m1"
            assert subprocess.check_output([sys.executable, "-W", "ignore", "-c", PROGRAM], text=True) == "36\\n"

        def test_other():
            assert "KVMIPA_HOST" not in os.environ
        """
    )
    run("--kvmipa-host=apple-m1").assert_outcomes(passed=2)


def test_environment_says_what_the_options_do_not(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_limit(kvm): print('limit', kvm.backend, kvm.host_ipa_limit)")
    monkeypatch.setenv("KVMIPA_BACKEND", "emulated")
    monkeypatch.setenv("KVMIPA_HOST", "apple-m1")
    run("-s").stdout.fnmatch_lines(["kvmipa: EMULATED apple-m1, Linux 6.12, IPA limit 36 bits", "*limit emulated 36*"])
    run("-s", "--kvmipa-host=raspberry-pi-4").stdout.fnmatch_lines(["*limit emulated 44*"])


@pytest.mark.parametrize(
    ("name", "value"), [("KVMIPA_BACKEND", "real"), ("KVMIPA_HOST", "apple-m9"), ("KVMIPA_HOST", "all")]
)
def test_environment_that_is_wrong_is_an_error_where_a_test_asks(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    pytester.makepyfile("def test_other(): pass")
    run().assert_outcomes(passed=1)
    pytester.makepyfile("def test_limit(kvm): pass")
    result = run()
    assert result.ret != 0
    shown = result.stdout.str() + result.stderr.str()
    assert f"{name}: no host preset {value!r}" in shown or f"{name} is {value!r}" in shown
    # A line for the user, and nothing of the plugin's inside.
    assert "Traceback" not in shown
    assert "pytest_plugin.py" not in shown


def test_host_of_the_option_is_enough_where_the_environments_is_none(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMIPA_HOST", "apple-m9")
    pytester.makepyfile("import pytest\ndef test_limit(kvm): pass\n@pytest.mark.kvm_native\ndef test_real(kvm): pass")
    monkeypatch.delenv("KVMIPA_BACKEND", raising=False)
    result = run("--kvmipa-host=apple-m1")
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] >= 1


def test_fixtures_of_a_project_come_first(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef kvm(): return 'mine'")
    pytester.makepyfile("def test_kvm(kvm): assert kvm == 'mine'")
    result = run()
    result.assert_outcomes(passed=1)
    assert kvmipa_lines(result) == []


def test_unittest_has_the_first_host(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import unittest, kvmipa, pytest

        @pytest.mark.usefixtures("kvm_backend")
        class TestVmm(unittest.TestCase):
            def test_limit(self):
                with kvmipa.open() as kvm:
                    self.assertEqual(kvm.host_ipa_limit, 36)

            @pytest.mark.kvm_native
            def test_native(self):
                raise AssertionError
        """
    )
    run("--kvmipa-host=apple-m1,raspberry-pi-4", "--kvmipa-backend=emulated").assert_outcomes(passed=1, skipped=1)


# ------------------------------------------------------------------------------------------------ usage errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kvmipa-host=aple-m1"], "no host preset 'aple-m1'; near: apple-m1"),
        (["--kvmipa-host="], "no host preset ''"),
        (["--kvmipa-host=apple-m1,,raspberry-pi-4"], "no host preset ''"),
        (["--kvmipa-host=apple-m1@2.6"], "2.6"),
        (["--kvmipa-host=apple-m1", "--kvmipa-backend=native"], "a host is a machine to emulate"),
        (["--kvmipa-backend=real"], "invalid choice: 'real'"),
        (["-o", "kvmipa_unused_faults=perhaps"], "kvmipa_unused_faults = perhaps: expected fail, warn, ignore"),
    ],
)
def test_wrong_option_is_a_usage_error_before_anything_runs(
    pytester: pytest.Pytester, run: Run, options: list[str], words: str
) -> None:
    pytester.makepyfile("raise AssertionError('collected')")
    result = run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str()
    assert "collected" not in result.stdout.str()


def test_wrong_marker_is_an_error(pytester: pytest.Pytester, run: Run) -> None:
    arguments = ("", "'48'", "48, 52", "bits=48", "0", "True")
    tests = [
        f"@pytest.mark.kvm_min_ipa_bits({given})\ndef test_{number}(kvm): pass"
        for number, given in enumerate(arguments)
    ]
    pytester.makepyfile("\n".join(["import pytest", *tests]))
    result = run()
    result.assert_outcomes(errors=len(arguments))
    assert result.outlines.count("kvm_min_ipa_bits takes one number of bits, as kvm_min_ipa_bits(48)") == len(arguments)


def test_contradiction_of_markers_is_an_error(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.kvm_native\n@pytest.mark.kvm_emulated\ndef test_x(kvm): pass")
    result = run()
    assert result.ret != 0
    assert "cannot need the real kernel and the emulated one" in result.stdout.str() + result.stderr.str()


# ------------------------------------------------------------------------------------------------ markers

MARKED = """
    import kvmipa, pytest

    @pytest.mark.kvm_native
    def test_native(kvm):
        assert kvm.backend == "native"

    @pytest.mark.kvm_emulated
    def test_emulated(kvm):
        assert kvm.backend == "emulated"

    @pytest.mark.kvm_emulated
    def test_without_a_fixture():
        with kvmipa.open() as kvm:
            assert kvm.backend == "emulated"

    def test_usual(kvm):
        print("usual", kvm.backend, kvm.host_ipa_limit)
"""


def test_markers_are_registered(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.kvm_exclusive
        @pytest.mark.kvm_min_ipa_bits(32)
        @pytest.mark.kvm_emulated
        def test_x(kvm): pass
        """
    )
    run("--strict-markers", "-W", "error").assert_outcomes(passed=1)
    run("--markers").stdout.fnmatch_lines(["*pytest.mark.kvm_min_ipa_bits(N): needs a host*"])


@pytest.mark.parametrize(
    ("options", "outcomes", "usual", "skip"),
    [
        ([], {"passed": 4}, "native 44", ""),
        (["--kvmipa-backend=native"], {"passed": 2, "skipped": 2}, "native 44", "needs the emulated backend: *native"),
        (["--kvmipa-backend=emulated"], {"passed": 3, "skipped": 1}, "emulated 52", "needs the native backend: *"),
        (["--kvmipa-host=apple-m1"], {"passed": 4}, "emulated 36", ""),
    ],
)
def test_board_runs_what_it_can(
    pytester: pytest.Pytester,
    run: Run,
    on_board: Callable[..., None],
    options: list[str],
    outcomes: dict[str, int],
    usual: str,
    skip: str,
) -> None:
    on_board()
    pytester.makepyfile(MARKED)
    result = run("-rs", "-s", *options)
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines([f"*usual {usual}*"])
    if skip:
        result.stdout.fnmatch_lines([f"SKIPPED*{skip}*"])


def test_test_that_needs_a_larger_host_is_skipped_with_the_reason(
    pytester: pytest.Pytester, run: Run, on_board: Callable[..., None]
) -> None:
    on_board()
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.kvm_min_ipa_bits(40)

        @pytest.mark.kvm_min_ipa_bits(48)
        def test_large(kvm):
            assert kvm.host_ipa_limit >= 48

        @pytest.mark.kvm_min_ipa_bits(44)
        def test_without_a_fixture():
            pass
        """
    )
    result = run("-rs", "--kvmipa-host=apple-m1,raspberry-pi-4,qemu-max-6.12-4k")
    result.assert_outcomes(passed=3, skipped=3)
    result.stdout.fnmatch_lines(["*needs 48 IPA bits, raspberry-pi-4 has 44", "*needs 44 IPA bits, apple-m1 has 36"])
    result = run("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*needs 48 IPA bits, native has 44"])


# ------------------------------------------------------------------------------------------------ what is missing


@pytest.mark.parametrize("options", [[], ["--kvmipa-backend=native"]])
def test_board_whose_kvm_cannot_be_used_fails_and_skips_nothing(
    pytester: pytest.Pytester, run: Run, on_board: Callable[..., None], options: list[str]
) -> None:
    on_board(opens=-13)
    pytester.makepyfile(
        """
        import pytest

        def test_usual(kvm): pass

        @pytest.mark.kvm_native
        def test_native(): pass

        @pytest.mark.kvm_min_ipa_bits(52)
        def test_large(kvm): pass
        """
    )
    result = run("-rs", *options)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "kvmipa: REAL /dev/kvm, which cannot be used: *may not open*",
            "*the native backend cannot be used: *may not *",
        ]
    )


def test_named_backend_that_is_missing_fails_the_tests(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        "from kvmipa import backend\nfrom kvmipa.backend import native\nnative._import_failure = ImportError()"
    )
    pytester.makepyfile("import pytest\n@pytest.mark.kvm_native\ndef test_native(kvm_vm): pass")
    for options in (["--kvmipa-backend=native"], []):
        result = run("-rs", *options)
        result.assert_outcomes(errors=1)
        assert "compiled extension is missing" in result.stdout.str()
        # And where the environment names it.
        monkeypatch.setenv("KVMIPA_BACKEND", "native")


# ------------------------------------------------------------------------------------------------ what is said


def test_sessions_without_such_tests_hear_and_load_nothing(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_other():
            assert sorted(name for name in sys.modules if name.partition(".")[0] == "kvmipa") == [
                "kvmipa", "kvmipa.pytest_plugin"
            ]
        """
    )
    for options in ([], ["-n1"] if entry_points(group="pytest11", name="xdist") else []):
        result = run(*options)
        result.assert_outcomes(passed=1)
        assert kvmipa_lines(result) == []


def test_kernel_is_named_even_where_nobody_chose_it(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_one(kvm): pass")
    lines = ["kvmipa: EMULATED qemu-max-6.12-4k, Linux 6.12, IPA limit 52 bits"]
    pytester.makeconftest(
        "import os\nexists = os.path.exists\nos.path.exists = lambda path: path != '/dev/kvm' and exists(path)"
    )
    assert kvmipa_lines(run()) == lines
    if entry_points(group="pytest11", name="xdist"):
        assert kvmipa_lines(run("-n1")) == lines
    assert kvmipa_lines(run("--kvmipa-backend=emulated")) == lines


def test_real_kernel_is_named_with_its_release(
    pytester: pytest.Pytester, run: Run, on_board: Callable[..., None]
) -> None:
    on_board()
    pytester.makepyfile("def test_one(kvm, kvm_host): assert kvm_host.ipa_limit == 44")
    (line,) = kvmipa_lines(run("--kvmipa-backend=native"))
    assert line == f"kvmipa: REAL /dev/kvm, Linux {os.uname().release} {os.uname().machine}, IPA limit 44 bits"


def test_session_can_leave_it_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(kvm): pass")
    result = pytester.runpytest_subprocess("-p", "no:kvmipa", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'kvm' not found*"])


def test_session_without_entry_points_can_name_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("def test_one(kvm): assert kvm.backend == 'emulated'")
    options = ("-p", "kvmipa.pytest_plugin", "--kvmipa-backend=emulated", "-p", "no:cacheprovider")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)


# ------------------------------------------------------------------------------------------------ faults


FAULTY = """
    import errno, kvmipa, pytest

    def test_kvm_has_them(kvm, kvm_vm, kvm_faults):
        kvm_faults.fail("KVM_CREATE_VM", errno.ENOMEM, nth=1)
        with pytest.raises(kvmipa.errors.OutOfMemoryError):
            kvm.create_vm(36)

    def test_limit_is_lower(kvm_faults, kvm, kvm_host):
        kvm_faults.limit_ipa(33)
        assert (kvm.host_ipa_limit, kvmipa.open().host_ipa_limit, kvm_host.ipa_limit) == (33, 33, 36)

    def test_code_that_opens_it_has_them(kvm_faults):
        kvm_faults.fail("open", errno.EACCES)
        with pytest.raises(PermissionError):
            kvmipa.open()

    def test_next_test_has_none(kvm_vm):
        assert kvmipa.open().host_ipa_limit == 36

    def test_relies_on_what_does_not_happen(kvm, kvm_faults):
        kvm_faults.fail("KVM_CREATE_VM", errno.ENOMEM, nth=2)
        kvm.create_vm(36).close()

    def test_fails_before_it_can_happen(kvm, kvm_faults):
        kvm_faults.fail("KVM_CREATE_VM", errno.ENOMEM)
        assert False, "the project's own"
"""


@pytest.mark.parametrize(
    ("consequence", "outcomes"),
    [
        ("", {"passed": 4, "failed": 2}),
        ("fail", {"passed": 4, "failed": 2}),
        ("warn", {"passed": 5, "failed": 1, "warnings": 1}),
        ("ignore", {"passed": 5, "failed": 1}),
    ],
)
def test_faults_are_the_tests_own_and_have_to_happen(
    pytester: pytest.Pytester, run: Run, consequence: str, outcomes: dict[str, int]
) -> None:
    pytester.makepyfile(FAULTY)
    options = ("-o", f"kvmipa_unused_faults={consequence}") if consequence else ()
    result = run("--kvmipa-host=apple-m1", "-W", "ignore::ResourceWarning", *options)
    result.assert_outcomes(**outcomes)
    said = "faults that met no call: fail(KVM_CREATE_VM, ENOMEM, nth=2), which saw 1 call"
    assert (said in result.stdout.str()) == (consequence != "ignore")


# ------------------------------------------------------------------------------------------------ alone


@xdist
def test_exclusive_tests_of_the_real_kernel_are_one_group(
    pytester: pytest.Pytester, run: Run, on_board: Callable[..., None]
) -> None:
    on_board()
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.kvm_exclusive
        @pytest.mark.parametrize("number", range(6))
        def test_alone(number, kvm): pass

        @pytest.mark.kvm_exclusive
        @pytest.mark.kvm_emulated
        def test_emulated(kvm): pass

        @pytest.mark.parametrize("number", range(6))
        def test_together(number, kvm): pass

        def test_groups(request):
            groups = {}
            for item in request.session.items:
                found = {mark.args[0] for mark in item.iter_markers("xdist_group")}
                groups.setdefault(item.originalname, set()).update(found)
            assert groups == {"test_alone": {"kvm-exclusive"}, "test_emulated": set(), "test_together": set(),
                              "test_groups": set()}
        """
    )
    result = run("-n2", "--dist=loadgroup", "-v", "--strict-markers")
    result.assert_outcomes(passed=14)
    alone = [line for line in result.outlines if "PASSED" in line and "test_alone" in line]
    assert len(alone) == 6
    # pytest-xdist 3.8.0 makes no groups under pytest 9.2, of whatever marks.
    if any("@kvm-exclusive" in line for line in alone):
        assert len({re.findall(r"gw\d", line)[0] for line in alone}) == 1
    assert kvmipa_lines(result)[0].startswith("kvmipa: REAL ")
    assert "EMULATED qemu-max" in kvmipa_lines(result)[0]
    run("-p", "no:xdist", "--strict-markers", "-k", "not groups").assert_outcomes(passed=13, deselected=1)


@xdist
@locks
@pytest.mark.parametrize("distribution", ["load", "loadgroup"])
def test_exclusive_test_runs_alone_over_all_workers(
    pytester: pytest.Pytester, run: Run, on_board: Callable[..., None], distribution: str
) -> None:
    on_board()
    pytester.makepyfile(
        """
        import os, pathlib, time, pytest

        HERE = pathlib.Path(__file__).parent

        @pytest.fixture
        def present(kvm):
            me = HERE / f"{os.getpid()}.present"
            me.touch()
            time.sleep(0.02)
            yield
            me.unlink()

        def others():
            return len(list(HERE.glob("*.present"))) - 1

        @pytest.mark.parametrize("number", range(8))
        def test_together(number, present):
            if others():
                (HERE / "together").touch()

        @pytest.mark.kvm_exclusive
        @pytest.mark.parametrize("number", range(4))
        def test_alone(number, present):
            for _ in range(10):
                assert not others()
                time.sleep(0.005)

        @pytest.mark.parametrize("number", range(8))
        def test_together_again(number, present):
            if others():
                (HERE / "together").touch()
        """
    )
    run("-n2", f"--dist={distribution}").assert_outcomes(passed=20)
    assert (pytester.path / "together").exists()


@locks
def test_who_wants_to_be_alone_waits_for_those_who_are_there_only(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    events: list[str] = []

    def use(name: str, alone: bool) -> threading.Thread:
        def body() -> None:
            with using(str(device), alone=alone):
                events.append(name)

        thread = threading.Thread(target=body)
        thread.start()
        time.sleep(0.1)
        return thread

    with using(str(device), alone=False):
        users = [use("with others", False), use("alone", True), use("later", False), use("later", False)]
        assert events == ["with others"]
    for user in users:
        user.join()
    assert events == ["with others", "alone", "later", "later"]


@locks
def test_lock_goes_with_the_test_that_raises(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    with pytest.raises(ZeroDivisionError), using(str(device), alone=True):
        raise ZeroDivisionError
    with using(str(device), alone=True):
        pass
    with using(str(tmp_path / "absent"), alone=True):
        pass


# ------------------------------------------------------------------------------------------------ its cost


def test_import_costs_a_few_milliseconds_and_brings_nothing() -> None:
    program = (
        "import sys, pytest; from time import perf_counter as now; before = set(sys.modules); start = now()\n"
        "import kvmipa.pytest_plugin; took = now() - start\n"
        "print(took, *sorted(set(sys.modules) - before))"
    )
    runs = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
        took, *loaded = done.stdout.split()
        assert [name for name in loaded if name.startswith("kvmipa")] == ["kvmipa", "kvmipa.pytest_plugin"]
        runs.append(float(took))
    # 2 to 5 ms where it has no bytecode yet; a whole session is 50 times that.
    assert min(runs) < 0.05
