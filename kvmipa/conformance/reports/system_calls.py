# SPDX-License-Identifier: Apache-2.0
"""The system calls of a trace in lines that people read, as strace has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from kvmipa.abi import capability_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kvmipa.conformance.results import ClaimResult, Mismatch

# How many calls are shown of a long trace: those just before something was noticed, or else its beginning and its end.
_BEFORE: Final = 6
_FIRST: Final = 3
_LAST: Final = 9


def before(mismatches: Sequence[Mismatch], result: ClaimResult) -> Iterator[str]:
    """What of a failed check's system calls leads to these mismatches."""
    lines = calls(result.trace) if result.trace else []
    if lines:
        yield from excerpt(lines, [one.after for one in mismatches if one.after is not None])


def calls(trace: str) -> list[str]:
    r"""Every operation of a trace as a line.

    >>> calls('{"kvmipa_trace":1}\n{"ioctl":"KVM_CREATE_VM","on":"kvm","argument":33,"result":"EINVAL"}')
    ['ioctl(kvm, KVM_CREATE_VM, 33) = EINVAL']
    """
    return [_call(json.loads(line)) for line in trace.splitlines()[1:] if line.strip()]


def excerpt(lines: Sequence[str], after: Sequence[int]) -> Iterator[str]:
    """The lines that matter most, with a word about those left out between them.

    after: how many lines there were when something was noticed.

    >>> list(excerpt([f"call {number}" for number in range(9)], [8]))
    ['(2 calls)', 'call 2', 'call 3', 'call 4', 'call 5', 'call 6', 'call 7', '(1 call)']
    """
    total = len(lines)
    if after:
        shown = {number for end in after for number in range(max(0, end - _BEFORE), min(end, total))}
    elif total <= _FIRST + _LAST:
        shown = set(range(total))
    else:
        shown = {*range(_FIRST), *range(total - _LAST, total)}
    left_out = 0
    for number, line in enumerate((*lines, "")):
        if number in shown or number == total:
            if left_out:
                yield f"({left_out} call{'s' * (left_out > 1)})"
            left_out = 0
            if number < total:
                yield line
        else:
            left_out += 1


def _call(line: dict[str, Any]) -> str:
    verb = next(iter(line))
    if verb == "note":
        return f"# {line['note']}"
    words = _WORDS[verb](line) if verb in _WORDS else f"{verb}({_value(line[verb])})"
    result = line.get("result", 0)
    if result == "new" and verb != "ioctl":
        result = line[verb]
    elif result == "new":
        # A sweep closes what it makes at once; that has no name.
        result = line.get("new", "ok")
    return f"{words} = {result}{''.join(_left(line))}"


def _left(line: dict[str, Any]) -> Iterator[str]:
    """What the kernel left in memory."""
    for where, what in line.get("wrote", {}).items():
        if where == "exit":
            yield f", exit {what['kind']}{_value({name: one for name, one in what.items() if name != 'kind'})}"
        else:
            yield f", wrote {where}: {_value(what)}"


def _ioctl(line: dict[str, Any]) -> str:
    note = ", with no free descriptor" if line.get("no_descriptor") else ""
    argument = line.get("argument", 0)
    if line["ioctl"] == "KVM_CHECK_EXTENSION" and isinstance(argument, int):
        argument = capability_name(argument)
    return f"ioctl({line['on']}, {line['ioctl']}, {_value(argument)}{note})"


_WORDS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "ioctl": _ioctl,
    "open": lambda line: f'open("{line["open"]}")',
    "map": lambda line: f"map({line['map']}, {_value(line['size'])}, {line['protection']})",
    "protect": lambda line: f"protect({line['protect']}, {line['protection']})",
    "mmap": lambda line: f"mmap({line['mmap']}, pages {line.get('first', 0)} on, {line['pages']})",
    "run": lambda line: f"KVM_RUN({line['run']}{_before(line)})",
    "write": lambda line: f"write({line['write']}, {_value(line['data'])})",
}


def _before(line: dict[str, Any]) -> str:
    """What user space put into the run area."""
    put = "".join(f", {content} at {offset}" for offset, content in line.get("before", {}).items())
    return put + (", interrupted" if line.get("interrupted") is not None else "")


_LONGEST: Final = 64


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if not isinstance(value, dict):
        return str(value)
    if "zlib" in value:
        return f"({value['size']} bytes)"
    if "hex" in value:
        text = str(value["hex"])
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text) // 2} bytes)"
    inside = ", ".join(f"{name}={_value(one)}" for name, one in value.items() if name != "struct")
    return f"{value.get('struct', '')}{{{inside}}}"
