# SPDX-License-Identifier: Apache-2.0
"""Shell completion: made here from the parser by shtab, shipped as files, for boards have no shtab."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, Final

from kvmipa.cli import parser
from kvmipa.cli.completion import DIRECTORY, FILES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NOTICE: Final = (
    "# SPDX-License-Identifier: Apache-2.0\n"
    "# Made by python -m ci.docs; what was typed here is lost with the next run.\n"
)

# A function of each shell that prints words, and how an option calls it. csh has no functions: the words stand there.
_FUNCTIONS: Final = {
    "bash": '{name}() {{\n  compgen -W "{words}" -- "$1"\n}}\n',
    "zsh": "{name}() {{\n  compadd -- {words}\n}}\n",
    "fish": "function {name}\n    string split ' ' -- '{words}'\nend\n",
    "tcsh": "",
}
_CALLS: Final = {"bash": "{name}", "zsh": "{name}", "fish": "({name})", "tcsh": "({words})"}


def files() -> dict[Path, str]:
    """What the package has to have, by the file."""
    return {DIRECTORY / name: script(shell) for shell, name in FILES.items()}


def script(shell: str) -> str:
    """The completion of one shell."""
    import shtab

    top = parser()
    vocabulary = {"hosts": host_names(), "claims": claim_names()}
    for one in _all_parsers(top):
        for action in one._actions:
            _complete(action, vocabulary)
    preamble = "\n".join(
        _FUNCTIONS[shell].format(name=f"_kvmipa_{name}", words=" ".join(words)) for name, words in vocabulary.items()
    )
    made: str = shtab.complete(top, shell, preamble={shell: preamble.strip()})
    if shell == "bash":
        # With readline's own completion as the fallback, the current directory was offered for an unknown preset.
        made = made.replace("complete -o bashdefault -F", "complete -F")
    return _with_notice(made)


def host_names() -> list[str]:
    """What --host takes: every preset, and all of them."""
    from kvmipa import HostProfile

    return [*HostProfile.presets(), "all"]


def claim_names() -> list[str]:
    """What --claim takes: ids and names."""
    from kvmipa.conformance.claims import CLAIMS

    return [word for claim in CLAIMS for word in (claim.id, claim.name)]


def _all_parsers(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all of its commands; their help becomes what the shell shows beside their names."""
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                action.choices[choice.dest].description = choice.help
            for command in action.choices.values():
                yield from _all_parsers(command)


def _complete(action: argparse.Action, vocabulary: dict[str, list[str]]) -> None:
    """Say what the values of an option or an argument are, by the name that they have in the help."""
    import shtab

    files: dict[str, Any] = {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}
    names = {"PRESET": "hosts", "CLAIM": "claims"}
    metavar = action.metavar
    if metavar in files:
        action.complete = files[metavar]  # type: ignore[attr-defined]
    elif metavar in names:
        name = names[metavar]
        words = " ".join(vocabulary[name])
        calls = {shell: call.format(name=f"_kvmipa_{name}", words=words) for shell, call in _CALLS.items()}
        action.complete = calls  # type: ignore[attr-defined]


def _with_notice(made: str) -> str:
    """Our header instead of shtab's, which tells users to copy the file; #compdef stays the first line."""
    first, _, rest = made.partition("\n") if made.startswith("#compdef") else ("", "", made)
    body = re.sub(r"\A(?:\s*#[^\n]*\n)+", "", rest.lstrip("\n"))
    by = "# The functions are shtab's (https://github.com/tqdm/shtab, Apache-2.0).\n"
    head = f"{first}\n{_NOTICE}" if first else _NOTICE
    return f"{head}{by}\n{body.strip()}\n"
