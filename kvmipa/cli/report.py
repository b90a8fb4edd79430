# SPDX-License-Identifier: Apache-2.0
"""``kvmipa report``: show and compare saved reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("report", parents=[common], help="show and compare saved reports")
    parser.set_defaults(run=run)


def run(_arguments: Namespace, _output: Output) -> int:
    """Not there yet."""
    raise NotImplementedError
