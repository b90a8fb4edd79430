# SPDX-License-Identifier: Apache-2.0
"""What an installed kvmipa says about itself, and what it should."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from ci.packaging import check_wheel
from ci.packaging.build import CheckError, Tools, unpack

if TYPE_CHECKING:
    from pathlib import Path

# Opens the device and asks it; creates no VM on the real kernel.
PROBE = """
import json, kvmipa
from kvmipa import errors
from kvmipa.backend import native
message = ""
try:
    kvmipa.open("native").close()
    state = "opened"
except errors.NativeMissingError as error:
    state, message = "missing", str(error)
except errors.KvmError as error:
    state, message = "no device", str(error)
with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
    emulated = vm.ipa_bits
facts = 0
if native.why_missing() is None:
    from kvmipa import _native
    while _native.lib.kvmipa_facts[facts].name:
        facts += 1
print(json.dumps([native.why_missing(), state, message, emulated, facts]))
"""


class Answer(NamedTuple):
    """What PROBE printed."""

    why_missing: str | None
    state: str
    message: str
    emulated_bits: int
    facts: int


def expect(condition: bool, otherwise: object) -> None:
    """Refuse what is not as promised."""
    if not condition:
        raise CheckError(str(otherwise))


def ask(tools: Tools, package: Path) -> Answer:
    """Have kvmipa imported from a directory, and its backends opened."""
    answer = Answer(*json.loads(tools.use(package, "-c", PROBE).check("using it").output))
    expect(answer.emulated_bits == 40, f"the emulated backend does not work: {answer}")
    return answer


def expect_pure(answer: Answer, *words: str) -> None:
    """No native backend, and the reason has these words."""
    expect(answer.state == "missing", f"the native backend should be missing: {answer}")
    for word in words:
        expect(word in (answer.why_missing or ""), f"no {word!r} in the reason: {answer.why_missing}")
        expect(word in answer.message, f"no {word!r} in the error: {answer.message}")


def expect_native(answer: Answer) -> None:
    """A native backend that is loaded; whether this machine has a KVM for it is another question."""
    expect(answer.state in ("opened", "no device"), f"the native backend should be there: {answer}")
    expect(answer.facts > 0, f"the extension has no table of facts: {answer}")


def expect_wheel(wheel: Path, tag: str) -> None:
    """A wheel with this tag and nothing that contradicts it."""
    expect(wheel.name.endswith(f"-{tag}.whl"), f"{wheel.name} should be tagged {tag}")
    found = check_wheel.defects(wheel)
    expect(not found, f"{wheel.name}: {'; '.join(found)}")


def expect_log(log: str, *words: str) -> None:
    """The build's output has these words."""
    for word in words:
        expect(word in log, f"no {word!r} in the build's output:\n{log[-2000:]}")


def expect_pure_wheel(tools: Tools, wheel: Path, into: Path, *words: str) -> None:
    """A pure wheel that works; the library and its doctor say why it is one."""
    expect_wheel(wheel, "py3-none-any")
    package = unpack(wheel, into)
    expect_pure(ask(tools, package), *words)
    doctor = tools.use(package, "-m", "kvmipa", "doctor").output
    for word in words:
        expect(word in doctor, f"no {word!r} in what kvmipa doctor says:\n{doctor}")
