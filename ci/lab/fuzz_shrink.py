# SPDX-License-Identifier: Apache-2.0
"""Shrinking a trace that two kernels answer differently, for as long as they differ in the same way."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.trace import Ioctl, Result, Session, Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kvmipa.backend import Backend
    from kvmipa.trace import Operation
    from kvmipa.trace.values import Value

# How many candidates are run for one trace.
BUDGET: Final = 1500


class Signature(NamedTuple):
    """What a difference is: the request, what one kernel answered, and the other."""

    request: str
    real: str
    other: str


def signature(operation: Operation, real: Result, other: Result) -> Signature:
    """Of one operation; differences of the same cause are to have the same."""
    request = operation.as_json()["ioctl"] if isinstance(operation, Ioctl) else type(operation).__name__
    if isinstance(operation, Ioctl) and isinstance(operation.argument, Struct):
        fields = operation.argument.fields
        request += "".join(f" {name}={fields[name]}" for name in ("group", "cap") if isinstance(fields.get(name), int))
    if real.value == other.value:
        places = sorted({*real.wrote, *other.wrote})
        return Signature(request, f"{real.value} wrote {places}", "wrote something else")
    return Signature(request, str(real.value), str(other.value))


def attempt(session: Session, operation: Operation) -> Result:
    """Do an operation on the emulation: an exception that it raises is a difference, and not the end of the fuzzer."""
    try:
        return session.do(operation)
    except Exception as failure:
        return Result(f"{type(failure).__name__}: {failure}", {})


def first_difference(operations: Iterable[Operation], real: Backend, other: Backend) -> tuple[int, Signature] | None:
    """The number of the first operation that two kernels answer differently, and how; None: there is none."""
    steps = list(operations)
    with Session(real) as session:
        results = [session.do(operation) for operation in steps]
    with Session(other) as session:
        for number, (operation, result) in enumerate(zip(steps, results, strict=True)):
            answer = attempt(session, operation)
            if answer != result:
                return number, signature(operation, result, answer)
    return None


def shrink(operations: Sequence[Operation], real: Backend, other: Backend, budget: int = BUDGET) -> list[Operation]:
    """The shortest trace that is found with the same first difference; ValueError where there is none."""
    found = first_difference(operations, real, other)
    if found is None:
        raise ValueError("the two kernels answer alike")
    number, wanted = found
    left = budget

    def differs(candidate: list[Operation]) -> int | None:
        """The number of the operation that differs as wanted."""
        nonlocal left
        left -= 1
        here = first_difference(candidate, real, other)
        return here[0] if here and here[1] == wanted else None

    shortest = list(operations[: number + 1])
    for smaller in (_without, _with_less):
        shortest = _smallest(shortest, smaller, differs, lambda: left > 0)
    return shortest


def _smallest(
    operations: list[Operation],
    smaller: Callable[[list[Operation]], Iterator[list[Operation]]],
    differs: Callable[[list[Operation]], int | None],
    goes_on: Callable[[], bool],
) -> list[Operation]:
    """Go to a smaller candidate for as long as there is one that differs."""
    again = True
    while again:
        again = False
        candidates = smaller(operations)
        skip = 0
        while goes_on():
            candidate = next(candidates, None)
            if candidate is None:
                break
            skip += 1
            number = differs(candidate)
            if number is not None:
                operations = candidate[: number + 1]
                again = True
                # What was tried in vain before this place is not tried again until the next round.
                candidates = islice(smaller(operations), max(skip - 1, 0), None)
                skip = max(skip - 1, 0)
    return operations


def _without(operations: list[Operation]) -> Iterator[list[Operation]]:
    """Every candidate that lacks a run of operations, long ones first; the last operation stays."""
    length = len(operations) - 1
    size = max(length // 2, 1)
    while size:
        for start in range(0, length, size):
            yield operations[:start] + operations[min(start + size, length) :]
        size //= 2


def _with_less(operations: list[Operation]) -> Iterator[list[Operation]]:
    """Every candidate of which one operation is simpler."""
    for at, operation in enumerate(operations):
        if isinstance(operation, Ioctl):
            for simpler in _simpler(operation):
                yield [*operations[:at], simpler, *operations[at + 1 :]]


def _simpler(operation: Ioctl) -> Iterator[Ioctl]:
    if operation.no_descriptor:
        yield replace(operation, no_descriptor=False)
    for value in _simpler_values(operation.argument):
        yield replace(operation, argument=value)


def _simpler_values(value: Value) -> Iterator[Value]:
    if isinstance(value, Struct):
        for name, field in value.fields.items():
            if field == 0:
                continue
            yield Struct(value.name, {other: kept for other, kept in value.fields.items() if other != name})
            if isinstance(field, (int, str, Struct)):
                for simpler in _simpler_values(field):
                    yield Struct(value.name, {**value.fields, name: simpler})
    elif isinstance(value, int):
        if value:
            yield 0
        # The lowest or the highest bit alone, where several are set.
        if value & (value - 1) > 0:
            yield 1 << value.bit_length() - 1
            yield value & -value
    elif isinstance(value, tuple):
        for at in range(len(value)):
            if len(value) > 1:
                yield value[:at] + value[at + 1 :]


__all__ = ["BUDGET", "Signature", "attempt", "first_difference", "shrink", "signature"]
