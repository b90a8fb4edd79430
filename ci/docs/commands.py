# SPDX-License-Identifier: Apache-2.0
"""The command line as data, read off its parser: what the man page and the CLI reference are made of.

argparse's own text differs from one Python to the next; what is made here does not.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.cli import parser

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The group of options that every command has.
COMMON: Final = "which KVM"


@dataclass(frozen=True)
class Argument:
    """An option, or a positional argument (no names). value: what stands for its value; "" where it has none."""

    names: tuple[str, ...]
    value: str
    help: str
    required: bool

    @property
    def title(self) -> str:
        """Its names with the value, as a manual heads an entry."""
        if not self.names:
            return self.value
        return ", ".join(f"{name} {self.value}".strip() for name in sorted(self.names, key=len))

    @property
    def short(self) -> str:
        """As a synopsis has it."""
        text = f"{max(self.names, key=len)} {self.value}".strip() if self.names else self.value
        return text if self.required else f"[{text}]"


@dataclass(frozen=True)
class Section:
    """A titled part of a command's epilog."""

    title: str
    lines: tuple[str, ...]

    @property
    def prose(self) -> bool:
        """Whether the lines may be filled: no title, no columns, nothing indented."""
        return not self.title and not any(line.startswith(" ") or "  " in line for line in self.lines)


@dataclass(frozen=True)
class Command:
    """One command. name: the words that call it ("kvmipa report show"); groups: its own options by title."""

    name: str
    summary: str
    description: str
    groups: tuple[tuple[str, str, tuple[Argument, ...]], ...]
    common: tuple[Argument, ...]
    sections: tuple[Section, ...]
    has_commands: bool

    @property
    def arguments(self) -> list[Argument]:
        """All that is its own."""
        return [argument for _, _, arguments in self.groups for argument in arguments]

    @property
    def synopsis(self) -> list[str]:
        """The words of the call: its name, what is its own, options first."""
        own = sorted(self.arguments, key=lambda argument: not argument.names)
        return [self.name, *(argument.short for argument in own), *(["COMMAND ..."] if self.has_commands else [])]


def commands() -> list[Command]:
    """The program itself, then its commands and theirs, in the order of the help."""
    return list(_walk(parser(), ""))


def _walk(one: argparse.ArgumentParser, summary: str) -> Iterator[Command]:
    below = [action for action in one._actions if isinstance(action, argparse._SubParsersAction)]
    yield _command(one, summary, bool(below))
    for action in below:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, command in action.choices.items():
            yield from _walk(command, helps.get(name, ""))


def _command(one: argparse.ArgumentParser, summary: str, has_commands: bool) -> Command:
    groups = []
    common: tuple[Argument, ...] = ()
    for group in one._action_groups:
        arguments = tuple(_argument(action) for action in group._group_actions if _shown(action))
        if group.title == COMMON:
            common = arguments
        elif arguments or group.description:
            groups.append((group.title or "", _one_paragraph(group.description), arguments))
    return Command(
        name=one.prog,
        summary=summary,
        description=(one.description or "").strip(),
        groups=tuple(groups),
        common=common,
        sections=tuple(_sections(one.epilog or "")),
        has_commands=has_commands,
    )


def _shown(action: argparse.Action) -> bool:
    hidden = (argparse._SubParsersAction, argparse._HelpAction)
    return action.help != argparse.SUPPRESS and not isinstance(action, hidden)


def _argument(action: argparse.Action) -> Argument:
    value = "" if action.nargs == 0 else _value(action)
    return Argument(tuple(action.option_strings), value, _one_paragraph(action.help), action.required)


def _value(action: argparse.Action) -> str:
    """What stands for the value, repeated or optional as it may be."""
    if action.metavar is not None:
        name = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    elif action.choices is not None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        name = action.dest.upper() if action.option_strings else action.dest
    forms = {"+": f"{name} [{name} ...]", "*": f"[{name} ...]", "?": f"[{name}]", argparse.REMAINDER: f"{name} ..."}
    return forms.get(str(action.nargs), name)


def _one_paragraph(text: str | None) -> str:
    return re.sub(r"\s+", " ", (text or "").replace("%%", "%").strip())


def _sections(epilog: str) -> Iterator[Section]:
    """The epilog by its titles ("examples:"); text without one is a section without a title."""
    for block in re.split(r"\n\s*\n", epilog.strip("\n")):
        lines = block.splitlines()
        if not lines or not block.strip():
            continue
        title = re.fullmatch(r"(\w[\w ,]*):", lines[0])
        if title and len(lines) > 1:
            yield Section(title[1], tuple(line[2:] if line.startswith("  ") else line for line in lines[1:]))
        else:
            yield Section("", tuple(lines))
