# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="misc,untyped-decorator"
"""labgrid's strategy for the conformance run: a machine is off, or at its shell."""

from __future__ import annotations

import enum

import attr
from labgrid import step, target_factory
from labgrid.strategy import Strategy, StrategyError


class Status(enum.Enum):
    """What a machine can be brought to."""

    UNKNOWN = 0
    OFF = 1
    SHELL = 2


@target_factory.reg_driver
@attr.s(eq=False)
class KvmipaStrategy(Strategy):
    """Switches the machine on and waits for its shell."""

    bindings = {"power": "PowerProtocol", "console": "ConsoleProtocol", "shell": "ShellDriver"}  # noqa: RUF012

    status: Status = attr.ib(default=Status.UNKNOWN)

    @step()
    def transition(self, status: Status | str, *, step: object) -> None:
        """Bring the machine to a status, whatever its present one."""
        if not isinstance(status, Status):
            status = Status[status.upper()]
        if status == self.status:
            return
        if status == Status.OFF:
            self._off()
        elif status == Status.SHELL:
            self._off()
            self.power.cycle()
            self.target.activate(self.shell)
        else:
            raise StrategyError(f"no way to {status}")
        self.status = status

    def _off(self) -> None:
        self.target.deactivate(self.shell)
        self.target.activate(self.power)
        self.target.activate(self.console)
        self.power.off()
