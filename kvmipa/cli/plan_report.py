# SPDX-License-Identifier: Apache-2.0
"""What ``kvmipa plan`` prints: the answer in words, the map as a picture, two tables; or all of it as JSON."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from kvmipa.cli.output import columns, rows, shape_numbers
from kvmipa.errno_names import errno_name
from kvmipa.layout import STRATEGIES, MemoryMap, Question, Region, amount_text, short_text
from kvmipa.machine_type import DEFAULT_IPA_BITS, MAX_IPA_BITS, MIN_IPA_BITS, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.cli.plan import Host
    from kvmipa.layout import Choice, Plan, Stage2Cost, Strategy


class Asked(NamedTuple):
    """A strategy, what it chooses, and the most RAM with which it works on this host, in bytes."""

    strategy: Strategy
    choice: Choice
    largest_ram: int


class Answer(NamedTuple):
    """Everything that the command found out. how_much: no RAM was given; only: the one strategy that was asked for."""

    plan: Plan
    host: Host
    strategies: list[Asked]
    how_much: bool
    only: str | None


def strategies_asked(name: str, plan: Plan, *, how_much: bool, ram_base: int) -> list[Asked]:
    """One strategy, or all; without RAM given, each chooses for as much as it can hold."""
    found = []
    for strategy in STRATEGIES.values() if name == "all" else [STRATEGIES[name]]:
        largest = _largest_ram(strategy, plan)
        memory_map = plan.memory_map
        if how_much and largest and strategy.own_map:
            memory_map = MemoryMap([Region("ram", ram_base, largest)])
        found.append(
            Asked(strategy, strategy.choose(Question(memory_map, plan.limit, plan.page_size, plan.last_page)), largest)
        )
    return found


def _largest_ram(strategy: Strategy, plan: Plan) -> int:
    """Of rules that take the map as it is, the RAM stays where the user has it, and so does the rest of the map."""
    if strategy.own_map:
        return strategy.largest_ram(plan.limit, plan.page_size, last_page=plan.last_page)
    if strategy.name == "default":
        if not plan.default_made:
            return 0
        plan = replace(plan, limit=DEFAULT_IPA_BITS)
    largest = plan.largest_ram
    if largest is None or any(misfit.region != largest.region for misfit in plan.misfits):
        return 0
    return largest.total


def as_text(answer: Answer) -> str:
    """The report for people."""
    plan, host = answer.plan, answer.host
    parts = [rows([(host.reality, host.text), *_answer_rows(answer)])]
    drawn, bits, whose = plan.memory_map, plan.ipa_bits, "the map"
    if answer.only is not None:
        choice = answer.strategies[0].choice
        drawn, bits, whose = choice.memory_map, choice.ipa_bits, f"the map of {answer.only}"
    parts.append(f"{whose}, highest address first:\n{picture(drawn, bits, plan.available_bits)}")
    parts.append(f"what VMMs choose{_for_how_much(answer)}:\n{_strategy_table(answer)}")
    parts.append(f"stage 2 by size, with {_memory_text(plan)} mapped:\n{_cost_table(plan)}{_one_bit_more(plan)}")
    return "\n\n".join(parts)


def _for_how_much(answer: Answer) -> str:
    return ", each for the largest RAM that it can hold" if answer.how_much else f" for {_ram_text(answer.plan)}"


def _ram_text(plan: Plan) -> str:
    return f"{amount_text(plan.memory_map.ram_size)} of RAM"


def _memory_text(plan: Plan) -> str:
    return f"{amount_text(sum(slot.size for slot in plan.memory_map.slots))} of memory"


def _answer_rows(answer: Answer) -> Iterator[tuple[str, str]]:
    plan, host = answer.plan, answer.host
    yield "IPA limit", _limit_text(plan)
    if answer.only is not None:
        strategy = answer.strategies[0].strategy
        yield "rule", f"{strategy.name} ({strategy.used_by}): {strategy.rule}"
    if answer.how_much:
        yield "RAM", "not given: as much as fits"
    yield "smallest size", _size_text(plan)
    for misfit in plan.misfits:
        how = "lies beyond it wholly; it ends" if misfit.wholly else "ends"
        name = f"{misfit.region.name} ({misfit.region.kind}, {amount_text(misfit.region.size)})"
        yield "does not fit", f"{name}: {how} {amount_text(misfit.excess)} beyond 2^{plan.available_bits}"
    largest = plan.largest_ram
    if largest is not None:
        bound = "the limit" if largest.bounded_by is None else f"{largest.bounded_by.name} above it"
        more = f"; {amount_text(largest.total)} with the RAM below" if largest.total != largest.size else ""
        yield "largest RAM", f"{amount_text(largest.size)} from {largest.region.base:#x} up to {bound}{more}"
    yield "default size", _default_text(plan)
    if plan.fits and len(plan.slots) != len(plan.memory_map.slots):
        yield "memory slots", f"{len(plan.slots)}: KVM takes slots of less than 2^31 pages"
    if not plan.last_page:
        yield "last page", "this kernel (before March 2021) takes no memory slot that ends at the end of the addresses"
    if host.size_ignored:
        yield "pKVM", f"this host gives every VM its limit, {plan.limit} bits, whatever the type says"
    elif host.kernel:
        yield (
            "asked the kernel",
            "; ".join(
                f"KVM_CREATE_VM({number:#x}): {errno_name(code) if code else 'ok'}"
                for number, code in host.kernel.items()
            ),
        )


def _limit_text(plan: Plan) -> str:
    pages = f"{plan.page_size >> 10}K pages"
    if plan.limit is None:
        return f"not configurable: every VM has {DEFAULT_IPA_BITS} bits ({size_text(1 << DEFAULT_IPA_BITS)}), {pages}"
    return f"{plan.limit} bits ({size_text(1 << plan.limit)}), {pages}"


def _size_text(plan: Plan) -> str:
    needed = plan.needed_bits
    space = f"{needed} bits ({size_text(1 << needed)})" if needed < 64 else f"{needed} bits"
    if not plan.fits:
        above = needed - plan.available_bits
        impossible = "; no arm64 host makes such a VM" if needed > MAX_IPA_BITS else ""
        return f"{space}: does not fit, {above} bit{'s' if above > 1 else ''} above what the host makes{impossible}"
    why = ", the least that KVM makes" if needed == MIN_IPA_BITS else ""
    if plan.limit is None:
        return f"{space}{why}; the kernel makes {DEFAULT_IPA_BITS} bits, machine type 0"
    return f"{space}{why}: machine type {plan.machine_type:#x}"


def _default_text(plan: Plan) -> str:
    if not plan.default_made:
        return f"type 0 is refused: it means {DEFAULT_IPA_BITS} bits, and the limit is {plan.limit}"
    if not plan.default_works:
        return f"type 0 makes {DEFAULT_IPA_BITS} bits: too few for this map"
    return f"type 0 makes {DEFAULT_IPA_BITS} bits: holds this map"


def picture(memory_map: MemoryMap, ipa_bits: int | None, limit: int) -> str:
    """The map as boxes, not to scale, with lines where the VM's and the host's addresses end.

    ipa_bits: of the VM, None where none is made; limit: of the host, in bits.

    >>> print(picture(MemoryMap([Region("ram", 1 << 30, 1 << 30)]), 32, 32))
    0x100000000  +--------------+  2^32: the VM's addresses end, the host's limit
                 | free   2 GiB |
    0x80000000   +--------------+
                 | ram    1 GiB |
    0x40000000   +--------------+
                 | free   1 GiB |
    0x0          +--------------+
    """
    lines = {1 << limit: f"2^{limit}: the host's limit"}
    if ipa_bits == limit:
        lines = {1 << limit: f"2^{limit}: the VM's addresses end, the host's limit"}
    elif ipa_bits is not None:
        lines[1 << ipa_bits] = f"2^{ipa_bits}: the VM's addresses end"
    edges = sorted({0, *lines, *(edge for region in memory_map.regions for edge in (region.base, region.end))})
    boxes = [(_label(memory_map, low, high), short_text(high - low)) for low, high in pairwise(edges)]
    names, sizes = (max(len(box[column]) for box in boxes) for column in (0, 1))
    border = "+" + "-" * (names + sizes + 5) + "+"
    address = max(len(hex(edge)) for edge in edges) + 2
    drawn = []
    for edge, box in zip(reversed(edges), [*reversed(boxes), None], strict=True):
        drawn.append(f"{edge:#x}".ljust(address) + f"{border}  {lines.get(edge, '')}".rstrip())
        if box is not None:
            drawn.append(" " * address + f"| {box[0]:<{names}}   {box[1]:>{sizes}} |")
    return "\n".join(drawn)


def _label(memory_map: MemoryMap, low: int, high: int) -> str:
    regions = memory_map.regions
    region = regions[max(0, bisect_right(regions, low, key=lambda region: region.base) - 1)]
    if not region.base <= low < high <= region.end:
        return "free"
    kind = "" if region.kind == region.name else f" ({region.kind})"
    return f"{region.name}{kind}" + ("" if region.base == low else ", goes on")


def _strategy_table(answer: Answer) -> str:
    body = []
    for strategy, choice, largest in answer.strategies:
        chosen = "-" if choice.ipa_bits is None else f"{choice.ipa_bits} bits"
        kind = "-" if choice.machine_type is None else f"{choice.machine_type:#x}"
        result = "; ".join(filter(None, ("fails: " + choice.problem if choice.problem else "works", choice.note)))
        body.append((strategy.name, chosen, kind, short_text(largest) if largest else "none", result))
    return columns(("strategy", "size", "type", "largest RAM", "result"), body)


def _cost_table(plan: Plan) -> str:
    costs = [(plan.cost(bits), why) for bits, why in plan.sizes_to_compare().items()]
    if not costs:
        return "(no arm64 host makes a VM of the size needed)"
    block = size_text(costs[0][0].block_size)
    head = ("size", "levels", "start level", "its tables", f"by {plan.page_size >> 10}K pages", f"by {block} blocks")
    body = [
        (
            f"{cost.ipa_bits} bits",
            f"{cost.geometry.levels}",
            f"{cost.geometry.start_level}",
            f"{cost.geometry.concatenated_tables} ({size_text(cost.geometry.pgd_size)})",
            short_text(cost.tables_by_pages),
            short_text(cost.tables_by_blocks),
            f"{cost.close_steps}",
            why,
        )
        for cost, why in costs
    ]
    return columns((*head, "steps to close (7.3)", ""), body)


def _one_bit_more(plan: Plan) -> str:
    if plan.ipa_bits is None or plan.limit is None or plan.ipa_bits >= plan.limit:
        return ""
    changes = list(_differences(plan.cost(plan.ipa_bits), plan.cost(plan.ipa_bits + 1)))
    tables = "; ".join(changes) or "the tables stay as they are"
    return f"\none bit more: {tables}; and on Linux 7.3 twice the steps to close the VM, one for each largest block"


def _differences(now: Stage2Cost, more: Stage2Cost) -> Iterator[str]:
    if more.geometry.levels != now.geometry.levels:
        yield f"a walk of {more.geometry.levels} levels and not {now.geometry.levels}"
    tables = now.geometry.concatenated_tables, more.geometry.concatenated_tables
    if tables[0] != tables[1]:
        yield f"{tables[1]} table{'s' if tables[1] > 1 else ''} at the start level and not {tables[0]}"
    added = more.tables_by_pages - now.tables_by_pages
    if added:
        yield f"{amount_text(abs(added))} {'more' if added > 0 else 'less'} for tables"


def as_json(answer: Answer) -> dict[str, Any]:
    """The report for programs; sizes and addresses in bytes."""
    plan, host = answer.plan, answer.host
    largest = plan.largest_ram
    return {
        "command": "plan",
        "reality": host.reality,
        "host": host.text,
        "backend": host.backend,
        "host_ipa_limit": plan.limit,
        "page_size": plan.page_size,
        "ram_given": not answer.how_much,
        "regions": [_region(region) for region in plan.memory_map.regions],
        "needed_bits": plan.needed_bits,
        "available_bits": plan.available_bits,
        "fits": plan.fits,
        "ipa_bits": plan.ipa_bits,
        "machine_type": None if plan.machine_type is None else hex(plan.machine_type),
        "last_page": plan.last_page,
        "size_ignored": host.size_ignored,
        "kernel": {hex(number): errno_name(code) if code else "ok" for number, code in host.kernel.items()},
        "default": {"made": plan.default_made, "works": plan.default_works},
        "does_not_fit": [
            {"name": misfit.region.name, "excess": misfit.excess, "wholly": misfit.wholly} for misfit in plan.misfits
        ],
        "largest_ram": None
        if largest is None
        else {
            "name": largest.region.name,
            "base": largest.region.base,
            "size": largest.size,
            "total": largest.total,
            "bounded_by": None if largest.bounded_by is None else largest.bounded_by.name,
        },
        "memory_slots": [_region(slot) for slot in plan.slots] if plan.fits else [],
        "strategies": {asked.strategy.name: _choice(asked) for asked in answer.strategies},
        "stage2": [{"why": why, **_cost(plan.cost(bits))} for bits, why in plan.sizes_to_compare().items()],
    }


def _region(region: Region) -> dict[str, Any]:
    return {"name": region.name, "base": region.base, "size": region.size, "kind": region.kind}


def _choice(asked: Asked) -> dict[str, Any]:
    strategy, choice, largest = asked
    return {
        "used_by": strategy.used_by,
        "rule": strategy.rule,
        "source": strategy.source,
        "works": choice.works,
        "ipa_bits": choice.ipa_bits,
        "machine_type": None if choice.machine_type is None else hex(choice.machine_type),
        "problem": choice.problem,
        "note": choice.note or None,
        "dropped": list(choice.dropped),
        "largest_ram": largest,
        "regions": [_region(region) for region in choice.memory_map.regions],
    }


def _cost(cost: Stage2Cost) -> dict[str, Any]:
    return {
        "ipa_bits": cost.ipa_bits,
        **shape_numbers(cost.geometry),
        "tables_by_pages": cost.tables_by_pages,
        "tables_by_blocks": cost.tables_by_blocks,
        "block_size": cost.block_size,
        "close_steps": cost.close_steps,
    }
