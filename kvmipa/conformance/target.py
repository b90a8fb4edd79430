# SPDX-License-Identifier: Apache-2.0
"""What a check talks to: a KVM, what is known of its host, and somebody who notes what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from kvmipa.conformance.results import Mismatch
from kvmipa.errno_names import errno_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.conformance.facts import Facts
    from kvmipa.system import Kvm


class SkipCheckError(Exception):
    """A check cannot be done here; the reason is a clause."""


class Target:
    """One check's KVM, opened for it alone.

    observations: how many answers were compared. mismatches: those that were not as expected.
    """

    def __init__(self, kvm: Kvm, facts: Facts) -> None:
        self.kvm = kvm
        self.facts = facts
        self.observations = 0
        self.mismatches: list[Mismatch] = []

    def expect(self, what: str, expected: object, came: object) -> bool:
        """Compare an answer with the expected one; whether they are the same. The check goes on in any case."""
        self.observations += 1
        if expected == came:
            return True
        self.mismatches.append(Mismatch(what, str(expected), str(came)))
        return False

    def expect_answer(self, what: str, expected: str, call: Callable[[], object]) -> bool:
        """Compare what comes of a call: "ok", or the name of the errno that it fails with."""
        return self.expect(what, expected, answer(call))

    def skip(self, reason: str) -> NoReturn:
        """End the check without a verdict."""
        raise SkipCheckError(reason)


def answer(call: Callable[[], object]) -> str:
    """What comes of a call: "ok", or the name of an errno.

    A handle that the call makes is closed.

    >>> answer(lambda: 1), answer(lambda: open("/"))
    ('ok', 'EISDIR')
    """
    try:
        made = call()
    except OSError as error:
        if error.errno is None:
            raise
        return errno_name(error.errno)
    close = getattr(made, "close", None)
    if close is not None:
        close()
    return "ok"
