# SPDX-License-Identifier: Apache-2.0
"""``kvmipa record``: trace the ioctls of a kvmipa program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("record", parents=[common], help="trace the ioctls of a kvmipa program")
    parser.set_defaults(run=run)


def run(_arguments: Namespace, _output: Output) -> int:
    """Not there yet."""
    raise NotImplementedError
