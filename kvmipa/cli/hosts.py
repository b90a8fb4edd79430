# SPDX-License-Identifier: Apache-2.0
"""``kvmipa hosts``: the machines that --host knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvmipa.cli.output import columns

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "hosts",
        parents=[common],
        help="the machines that --host knows, and where their numbers are from",
        description="List the presets: machines and kernels that the emulated backend knows by name. "
        "PRESET@RELEASE is one of them with another kernel, from 4.19 to 7.3: apple-m1@5.10.",
    )
    parser.set_defaults(run=run)


def run(_arguments: Namespace, output: Output) -> int:
    """Print the table."""
    from kvmipa.backend.emulated.host import HostProfile

    presets = HostProfile.presets()
    found = {
        name: {
            "release": host.release,
            "page_size": host.page_size,
            "mode": host.mode,
            "ipa_limit": host.ipa_limit,
            "source": host.source,
        }
        for name, host in presets.items()
    }
    table = columns(
        ("preset", "Linux", "pages", "mode", "IPA limit", "source"),
        [
            (name, host.release, f"{host.page_size >> 10}K", host.mode, str(host.ipa_limit or "-"), host.source)
            for name, host in presets.items()
        ],
    )
    output.result({"command": "hosts", "presets": found}, table)
    return 0
