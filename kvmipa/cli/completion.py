# SPDX-License-Identifier: Apache-2.0
"""``kvmipa completion``: shell completion, from files that ``python -m ci.docs`` makes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kvmipa.cli.output import Output

#: The files have the names that the shells' own directories for completions want.
FILES: Final = {"bash": "kvmipa.bash", "zsh": "_kvmipa", "fish": "kvmipa.fish", "tcsh": "kvmipa.tcsh"}
DIRECTORY: Final = Path(__file__).parent / "completions"

_DESCRIPTION: Final = """\
Print the script with which a shell completes commands, options, the presets of --host and the claims of conform.
A wheel also installs it where the shells look for it: PREFIX/share/bash-completion/completions,
PREFIX/share/zsh/site-functions and PREFIX/share/fish/vendor_completions.d.
"""

_EPILOG: Final = """\
examples:
  source <(kvmipa completion bash)                         this shell only; for all, put the line into ~/.bashrc
  kvmipa completion zsh > ~/.zfunc/_kvmipa                 a directory of fpath, before compinit runs
  kvmipa completion fish > ~/.config/fish/completions/kvmipa.fish
  kvmipa completion tcsh > ~/.kvmipa.tcsh                  and in ~/.tcshrc: source ~/.kvmipa.tcsh
"""


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "completion",
        parents=[common],
        help="print the script with which a shell completes kvmipa",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=tuple(FILES), help="the shell that is to complete")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Print the file."""
    shell = arguments.shell
    script = (DIRECTORY / FILES[shell]).read_text(encoding="utf-8")
    output.result({"command": "completion", "shell": shell, "script": script}, script.removesuffix("\n"))
    return 0
