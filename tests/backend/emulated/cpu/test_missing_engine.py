# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN without the Unicorn engine: what is missing is said, and how to get it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import errors, exits
from kvmipa.backend.emulated.cpu.library import library
from tests.backend.emulated.cpu.guests import NO_ENGINE, guest

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOP = (0x14000000,)  # b .


@pytest.fixture
def no_unicorn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library.cache_clear()
    monkeypatch.setitem(sys.modules, "unicorn", None)
    yield
    library.cache_clear()


@pytest.mark.usefixtures("no_unicorn")
def test_the_error_names_the_extra() -> None:
    with guest(LOOP) as it:
        with pytest.raises(errors.NotSupportedError, match=r"kvmipa\[cpu\]"):
            it.vcpu.run()
        # Everything else works on.
        assert it.vcpu.regs.pstate == 0x3C5
        assert isinstance(it.vcpu.run(timeout=0), exits.Interrupted)


@pytest.mark.usefixtures("no_unicorn")
def test_what_the_kernel_refuses_comes_first() -> None:
    with (
        kvmipa.open("emulated") as kvm,
        kvm.create_vm(40) as vm,
        vm.create_vcpu(0) as vcpu,
        pytest.raises(errors.VcpuNotInitialisedError),
    ):
        vcpu.run()


def test_an_engine_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    unicorn = pytest.importorskip("unicorn", reason=NO_ENGINE)
    library.cache_clear()
    monkeypatch.setattr(unicorn, "__version__", "2.0.1")
    try:
        with guest(LOOP) as it, pytest.raises(errors.NotSupportedError, match=r"2\.0\.1"):
            it.vcpu.run()
    finally:
        library.cache_clear()
