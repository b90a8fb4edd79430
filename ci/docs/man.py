# SPDX-License-Identifier: Apache-2.0
"""The manual page kvmipa(1), in roff (man(7)), made from the parser."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.docs.commands import commands

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ci.docs.commands import Argument, Command, Section

#: Beside the command line's code, for it is installed with it (pyproject.toml: data-files).
FILE: Final = Path(__file__).parents[2] / "kvmipa" / "cli" / "kvmipa.1"

# Of the version; a page that had the day of its making would never be up to date.
_DATE: Final = "2026-11-24"

_NOTICE: Final = """\
.\\" SPDX-License-Identifier: Apache-2.0
.\\" Made by python -m ci.docs from the parser; what was typed here is lost with the next run.
"""

_FILES: Final = (
    ("/dev/kvm", "The device of the native backend. Whoever may open it is in its group, as a rule kvm."),
    ("/sys/kernel/debug/kvm", "Where kernels with CONFIG_PTDUMP_STAGE2_DEBUGFS show stage-2 tables, to root."),
)

_SEE_ALSO: Final = ("strace (1)", "ioctl (2)", "qemu-system-aarch64 (1)")


def page() -> str:
    """The whole page."""
    from kvmipa import __version__

    top, *rest = commands()
    lines = [
        *_NOTICE.splitlines(),
        f'.TH KVMIPA 1 {_DATE} "kvmipa {__version__}" "User Commands"',
        ".ad l",
        ".nh",
        ".SH NAME",
        *_text(f"kvmipa - {_lower(top.description.rstrip('.'))}"),
        ".SH SYNOPSIS",
        *_synopsis(top, rest),
        ".SH DESCRIPTION",
        *_paragraphs(
            "The first line that a command prints says REAL or EMULATED, and which host. What cannot be done is an "
            "error of four parts: the cause, what was asked, what is available, and what to do.\n\n"
            "Without --backend and --host, the real kernel answers where this is an arm64 Linux with /dev/kvm; "
            "elsewhere, the emulated one."
        ),
        ".SH OPTIONS",
        "The first four stand before or after the command.",
        *_entries((*top.common, *top.arguments)),
        ".SH COMMANDS",
        *(line for command in rest for line in _command(command)),
        *(line for section in top.sections for line in _top_section(section)),
        ".SH FILES",
        *(line for name, text in _FILES for line in (".TP", f".I {_escape(name)}", *_paragraphs(text))),
        ".SH SEE ALSO",
        *_references(),
    ]
    return "\n".join(line for line in lines if line) + "\n"


def _synopsis(top: Command, rest: Iterable[Command]) -> Iterator[str]:
    yield f".B {top.name}"
    yield from _text(" ".join([*(argument.short for argument in top.common), "COMMAND ..."]))
    for command in rest:
        if not command.has_commands:
            yield ".br"
            yield f".B {_escape(command.name)}"
            yield from _text(" ".join(command.synopsis[1:]))


def _command(command: Command) -> Iterator[str]:
    yield f".SS {_escape(command.name)}"
    yield from _paragraphs(command.description or _sentence(command.summary))
    for title, description, arguments in command.groups:
        if description:
            yield from (".PP", *_text(_sentence(f"{_upper(title)}: {description}")))
        yield from _entries(arguments)
    for section in command.sections:
        if section.title:
            yield from (".PP", *_text(f"{_upper(section.title)}:"))
        yield from (".PP", *_paragraphs("\n".join(section.lines))) if section.prose else _verbatim(section.lines)


def _top_section(section: Section) -> Iterator[str]:
    """EXIT STATUS and ENVIRONMENT have entries, a line or two each; examples stay as they are."""
    yield f".SH {section.title.upper()}"
    if section.title == "examples":
        yield from _verbatim(section.lines)
        return
    for line in section.lines:
        entry = re.match(r"(\S+)\s\s+(.+)", line)
        if entry:
            yield from (".TP", f".B {_escape(entry[1])}", *_text(entry[2]))
        else:
            yield from _text(line.strip())


def _entries(arguments: Iterable[Argument]) -> Iterator[str]:
    for argument in arguments:
        yield ".TP"
        names = [rf"\fB{_escape(name)}\fR" for name in sorted(argument.names, key=len)]
        value = rf"\fI{_escape(argument.value)}\fR" if argument.value else ""
        yield ", ".join(f"{name} {value}".strip() for name in names) if names else value
        yield from _text(_sentence(_upper(argument.help)))


def _paragraphs(text: str) -> Iterator[str]:
    for number, block in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        # A sentence a line: what follows a full stop gets the space of a sentence.
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", re.sub(r"\s+", " ", block)):
            yield from _text(sentence)


def _verbatim(lines: Iterable[str]) -> Iterator[str]:
    yield from (".RS 2", ".nf")
    yield from (_guarded(_escape(line)) or r"\&" for line in lines)
    yield from (".fi", ".RE")


def _references() -> Iterator[str]:
    last = len(_SEE_ALSO) - 1
    for number, name in enumerate(_SEE_ALSO):
        yield f".BR {_escape(name)}{'' if number == last else ' ,'}"
    yield ".PP"
    yield from _text("The kernel's Documentation/virt/kvm/api.rst, on KVM_CREATE_VM and KVM_CAP_ARM_VM_IPA_SIZE.")


def _text(text: str) -> Iterator[str]:
    """Text in lines of at most 80 bytes."""
    for line in textwrap.wrap(_escape(text), 79, break_long_words=False, break_on_hyphens=False):
        yield _guarded(line)


def _sentence(text: str) -> str:
    return text if not text or text[-1] in ".!?" else text + "."


def _upper(text: str) -> str:
    """A word such as fd=3 or 64-bit is not changed."""
    return text[:1].upper() + text[1:] if text[:2].isalpha() or text[1:2] == " " else text


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _escape(text: str) -> str:
    """Text as roff has it: what is typed is printed, hyphens and quotes too."""
    for typed, escape in (("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("^", r"\(ha"), ("~", r"\(ti"), ("`", r"\(ga")):
        text = text.replace(typed, escape)
    return text


def _guarded(line: str) -> str:
    """No line of text begins as a request does."""
    return rf"\&{line}" if line.startswith((".", "'")) else line
