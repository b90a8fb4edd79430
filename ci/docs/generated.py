# SPDX-License-Identifier: Apache-2.0
"""Parts of pages that are made from the code's own data: ``.. generated:: NAME``, one function each."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final

from ci.docs import error_causes
from ci.docs.commands import commands
from ci.docs.rst import code, escape, indented, literal, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ci.docs.commands import Argument, Command
    from kvmipa.backend.emulated.capabilities import Row


def releases() -> str:
    """What differs between releases: the rows of Behaviour, by the release that brought them."""
    from kvmipa.backend.emulated.release import CHANGES

    body = [
        (
            f"{change.since[0]}.{change.since[1]}",
            ", ".join(".".join(map(str, point)) for point in change.backports),
            code(change.name),
            escape(change.source),
        )
        for change in sorted(CHANGES, key=lambda change: change.since)
    ]
    return table(("since", "also in", "name", "what, and where that is from"), body, "8 12 30 50")


def capabilities() -> str:
    """From which release on a capability is there, and what its answer is."""
    from kvmipa import abi
    from kvmipa.backend.emulated.capabilities import ROWS

    names = {value: name for name, value in vars(abi).items() if name.startswith("KVM_CAP_")}
    body = [(code(names[cap]), str(cap), "\n\n".join(map(_answer, rows))) for cap, rows in sorted(ROWS.items())]
    return table(("capability", "number", "answer"), body, "45 10 45")


def _answer(row: Row) -> str:
    answer = str(row.answer) if isinstance(row.answer, int) else "of the host"
    return f"{answer}, since {row.since[0]}.{row.since[1]}"


def presets() -> str:
    """The machines that --host knows."""
    from kvmipa import HostProfile

    body = [
        (
            code(name),
            host.release,
            f"{host.page_size >> 10}K",
            host.mode,
            f"{host.ipa_limit} bits" if host.ipa_limit else "no KVM",
            escape(host.source),
        )
        for name, host in HostProfile.presets().items()
    ]
    return table(("preset", "Linux", "pages", "mode", "IPA limit", "where its numbers are from"), body)


def claims() -> str:
    """What kvmipa conform checks."""
    from kvmipa.conformance.claims import CLAIMS

    parts = []
    for claim in CLAIMS:
        notes = [claim.kind, f"since Linux {claim.since}", *(["runs a guest"] if claim.guest else [])]
        notes += [f"rests on {', '.join(claim.rests_on)}"] if claim.rests_on else []
        parts.append(f"{claim.id}: {code(claim.name)}")
        parts.append(indented(f"{escape(claim.text)}\n\n*How:* {escape(claim.how)}\n\n{'; '.join(notes)}"))
        parts.append(indented(f"\n*Source:* {escape(claim.source)}") + "\n")
    return "\n".join(parts)


def lacks() -> str:
    """What a guest on the emulated CPU does not get."""
    from kvmipa.backend.emulated.cpu.not_emulated import TABLE

    body = [(escape(lack.what), escape(lack.instead), escape(lack.source)) for lack in TABLE]
    return table(("on a real CPU and kernel", "here", "source of the real thing"), body, "40 40 20")


def error_classes() -> str:
    """Each error with its errno, what it means, and what its messages say."""
    return "\n".join(line for kind in error_causes.classes()[1:] for line in _error(kind))


def _error(kind: type[Exception]) -> Iterator[str]:
    name, bases = kind.__name__, [base.__name__ for base in kind.__bases__]
    from kvmipa import errors

    of = ", ".join(f":exc:`~kvmipa.errors.{base}`" if hasattr(errors, base) else code(base) for base in bases)
    errno = error_causes.errnos(kind)  # type: ignore[arg-type]
    yield f":exc:`~kvmipa.errors.{name}`{f' ({errno})' if errno else ''}"
    yield indented(f"{escape((kind.__doc__ or '').splitlines()[0])} Is a {of}.")
    yield ""
    said = error_causes.advice().get(name, ())
    if said:
        yield indented(table(("cause", "what to do"), [(escape(one.cause), escape(one.fix)) for one in said], "50 50"))
    yield ""


def create_vm_refusals() -> str:
    """The causes of one EINVAL, in the order in which the kernel looks."""
    from kvmipa.causes.system import _REFUSALS

    body = [
        (
            f":exc:`~kvmipa.errors.{cause.kind.__name__}`",
            *map(escape, error_causes.without_formats(cause.cause, cause.fix)),
        )
        for cause in _REFUSALS.values()
    ]
    return table(("class", "cause", "what to do"), body, "34 33 33")


def command_line() -> str:
    """Every command, its options and its examples."""
    return "\n".join(line for command in commands() for line in _command(command))


def _command(command: Command) -> Iterator[str]:
    # The same levels of headings as in the page that this stands in.
    yield from (f".. _cli-{command.name.replace(' ', '-')}:", "", command.name, "-" * len(command.name), "")
    yield from (f".. program:: {command.name}", "")
    yield literal([" ".join(command.synopsis)], "text")
    yield f"{escape(command.description or command.summary)}\n"
    if command.name == "kvmipa":
        yield "Options of every command, before or after its name:\n"
        yield from _options(command.common)
    for title, description, arguments in command.groups:
        if title not in ("options", "positional arguments"):
            yield f"{escape(title[:1].upper() + title[1:])}{f': {escape(description)}' if description else ''}\n"
        yield from _options(arguments)
    for section in command.sections:
        if section.title:
            yield f"{section.title.capitalize()}:\n"
        yield f"{escape(' '.join(section.lines))}\n" if section.prose else literal(section.lines)


def _options(arguments: Iterable[Argument]) -> Iterator[str]:
    for argument in arguments:
        yield from (f".. option:: {argument.title}", "", indented(escape(argument.help)), "")


def json_schemas() -> str:
    """The keys of what each command prints with --json, as it printed them now on an emulated host."""
    from ci.docs.json_objects import objects

    parts = []
    for title, text in objects():
        parts += [f"{code(title)}\n", literal(text.splitlines(), "text" if text.endswith("...") else "json")]
    return "\n".join(parts)


def environment_variables() -> str:
    """What is read from the environment."""
    body = [(code(name), escape(meaning)) for name, meaning in ENVIRONMENT]
    return table(("variable", "meaning"), body, "30 70")


ENVIRONMENT: Final = (
    ("KVMIPA_BACKEND", "auto, native or emulated, where open() or --backend says auto"),
    ("KVMIPA_HOST", "the preset to emulate where the backend is emulated and no host is named"),
    ("KVMIPA_TRACE", "a file: every kvmipa.open() writes there what it asks of KVM (kvmipa record sets it)"),
    ("KVMIPA_NATIVE", "when kvmipa is built: auto, require (an error where the extension cannot be built) or skip"),
    ("KVMIPA_REQUIRE_COMPILER", "kvmipa's own tests: what a machine lacks fails a test instead of skipping it"),
    ("KVMIPA_LAB_MIRROR", "the lab: the mirror of Debian's packages"),
    ("NO_COLOR", "no colours on a terminal, whatever the value"),
)


def picture(page_size: int, ipa_bits: int) -> str:
    """The SVG of a VM's stage 2, as a URI: it is in no file, and its style cannot touch the page's."""
    from kvmipa.stage2.geometry import Geometry
    from kvmipa.stage2.picture import svg

    return f"data:image/svg+xml;base64,{b64encode(svg(Geometry(page_size, ipa_bits)).encode()).decode()}"


def _tables(count: int) -> str:
    return f"{count} tables" if count > 1 else "1 table"


def shapes() -> str:
    """Levels and tables of the start level for every size and page size."""
    from kvmipa.machine_type import size_text
    from kvmipa.stage2.geometry import Geometry

    body = []
    for bits in range(32, 53):
        shown = (Geometry(page_size, bits) for page_size in (4096, 16384, 65536))
        cells = [f"{shape.levels} levels, {_tables(shape.concatenated_tables)}" for shape in shown]
        body.append((str(bits), size_text(1 << bits), *cells))
    return table(("bits", "size", "4K pages", "16K pages", "64K pages"), body)


PARTS: Final[dict[str, Callable[[], str]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        releases,
        capabilities,
        presets,
        claims,
        lacks,
        error_classes,
        create_vm_refusals,
        command_line,
        json_schemas,
        environment_variables,
        shapes,
    )
}
