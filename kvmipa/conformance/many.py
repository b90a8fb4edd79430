# SPDX-License-Identifier: Apache-2.0
"""The conformance run on many emulated hosts at once, a process for each CPU.

A host whose run ends its process, or does not end, is an error of that host; the others go on. With one job all is done
in this process, which neither is kept from.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, resource_tracker
from typing import TYPE_CHECKING, Any, Final

from kvmipa.backend.emulated.presets import every_host, machine_name
from kvmipa.conformance.results import FAIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from kvmipa.conformance.results import Report

    # What is done with a host: its name and the ids of claims (None: all) -> what came of it.
    Work = Callable[[str, "tuple[str, ...] | None"], "HostRun"]

ALL: Final = "all"

# Seconds that one host may take; a run takes less than one.
PATIENCE: Final = 120.0

CONFORMS: Final = "conforms"
FAILS: Final = "fails"
NO_KVM: Final = "no KVM"
ERROR: Final = "error"


@dataclass(frozen=True)
class HostRun:
    """What came of one host. obstacle: why its KVM does not start; error: why there is no report of one that does."""

    host: str
    report: Report | None = None
    obstacle: str = ""
    error: str = ""

    @property
    def outcome(self) -> str:
        """CONFORMS, FAILS, NO_KVM or ERROR."""
        if self.report is not None:
            return FAILS if self.report.count(FAIL) else CONFORMS
        return NO_KVM if self.obstacle else ERROR

    @property
    def machine(self) -> str:
        """What is the same whatever its release."""
        return machine_name(self.host)[0]

    @property
    def release(self) -> str:
        """Its kernel's."""
        return machine_name(self.host)[1]


@dataclass(frozen=True)
class ManyRuns:
    """All that came of it, in the order of the hosts. missing: hosts that were not run any more when Ctrl-C came."""

    runs: tuple[HostRun, ...]
    seconds: float
    jobs: int
    missing: tuple[str, ...] = ()

    def count(self, outcome: str) -> int:
        """How many hosts came out so."""
        return sum(run.outcome == outcome for run in self.runs)

    @property
    def conform(self) -> bool:
        """Whether no host fails, and none is an error or missing."""
        return not (self.missing or self.count(FAILS) or self.count(ERROR))


def hosts_of(words: Iterable[str]) -> tuple[str, ...]:
    """The hosts that names stand for: presets, "PRESET@RELEASE", lists with commas, and "all"; each once.

    Raises ValueError, with near names, for what is no host.

    >>> hosts_of(["apple-m1,raspberry-pi-4", "apple-m1@5.10"])
    ('apple-m1', 'raspberry-pi-4', 'apple-m1@5.10')
    """
    from kvmipa.backend.emulated.host import HostProfile

    found: dict[str, None] = {}
    for word in words:
        for name in word.split(","):
            if name == ALL:
                found.update(dict.fromkeys(every_host()))
            else:
                found[HostProfile.preset(name).name] = None
    return tuple(found)


def conform(host: str, claims: tuple[str, ...] | None) -> HostRun:
    """Run the claims of these ids, None for all, on one emulated host."""
    from kvmipa.backend.emulated import EmulatedBackend
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.conformance.claims import CLAIMS
    from kvmipa.conformance.runner import run
    from kvmipa.system import Kvm

    profile = HostProfile.preset(host)
    if profile.obstacle is not None:
        return HostRun(host, obstacle=profile.obstacle)
    chosen = [claim for claim in CLAIMS if claims is None or claim.id in claims]
    with Kvm(EmulatedBackend(profile)) as kvm:
        return HostRun(host, run(kvm, chosen))


def run_many(
    hosts: Sequence[str],
    claims: Sequence[str] | None = None,
    *,
    jobs: int | None = None,
    done: Callable[[HostRun], None] = lambda _run: None,
    work: Work = conform,
    patience: float = PATIENCE,
) -> ManyRuns:
    """Run the claims of these ids on each host, jobs at a time (None: as many as there are CPUs).

    done: told of each host as it comes. Ctrl-C ends it early, with what has come so far. Raises ValueError for fewer
    jobs than one.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs={jobs}: expected 1 or more")
    jobs = max(1, min(jobs or _cpus(), len(hosts)))
    clock = time.perf_counter()
    ids = None if claims is None else tuple(claims)
    found: dict[str, HostRun] = {}
    with suppress(KeyboardInterrupt):
        for run in _in_turn(hosts, ids, work) if jobs == 1 else _Pool(hosts, ids, work, jobs, patience).runs():
            found[run.host] = run
            done(run)
    return ManyRuns(
        runs=tuple(found[host] for host in hosts if host in found),
        seconds=round(time.perf_counter() - clock, 3),
        jobs=jobs,
        missing=tuple(host for host in hosts if host not in found),
    )


def _cpus() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _safely(work: Work, host: str, claims: tuple[str, ...] | None) -> HostRun:
    try:
        return work(host, claims)
    except Exception as error:  # whatever it is, the other hosts are run
        return HostRun(host, error=f"{type(error).__name__}: {error}")


def _in_turn(hosts: Sequence[str], claims: tuple[str, ...] | None, work: Work) -> Iterator[HostRun]:
    return (_safely(work, host, claims) for host in hosts)


def _serve(channel: Connection, work: Work) -> None:
    """A worker: hosts come, and runs go, until nobody listens any more."""
    with suppress(EOFError, OSError):
        while True:
            channel.send(_safely(work, *channel.recv()))


@dataclass
class _Worker:
    """A process, what it is doing, and since when."""

    process: Any
    channel: Connection
    host: str = ""
    since: float = 0.0

    def end(self) -> None:
        """Whatever it does."""
        self.process.kill()
        self.process.join()
        self.channel.close()


class _Pool:
    """Workers, each with one host at a time: of a worker that dies it is known which host it was about."""

    def __init__(
        self, hosts: Sequence[str], claims: tuple[str, ...] | None, work: Work, jobs: int, patience: float
    ) -> None:
        self._waiting = deque(hosts)
        self._claims = claims
        self._work = work
        self._jobs = jobs
        self._patience = patience
        self._workers: list[_Worker] = []
        # Not fork: who calls this may have threads, and locks that they hold.
        self._context = get_context("spawn")

    def runs(self) -> Iterator[HostRun]:
        """As they come."""
        try:
            for _ in range(self._jobs):
                self._workers.append(self._start())
            while self._workers:
                yield from self._next()
        finally:
            for worker in self._workers:
                worker.end()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._work), daemon=True)
        with _no_sigint():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._give(worker)
        return worker

    def _give(self, worker: _Worker) -> None:
        worker.host, worker.since = self._waiting.popleft(), time.monotonic()
        # One that is dead already is seen to when it is waited for.
        with suppress(OSError):
            worker.channel.send((worker.host, self._claims))

    def _next(self) -> Iterator[HostRun]:
        """Wait until something has come, or one has taken too long."""
        end = min(worker.since for worker in self._workers) + self._patience
        ready = connection.wait([worker.channel for worker in self._workers], max(0.0, end - time.monotonic()))
        for worker in list(self._workers):
            if worker.channel in ready:
                yield self._received(worker)
            elif time.monotonic() - worker.since >= self._patience:
                yield self._replace(worker, f"it took more than {self._patience:g} s")

    def _received(self, worker: _Worker) -> HostRun:
        try:
            run: HostRun = worker.channel.recv()
        except (EOFError, OSError):
            worker.process.join()
            return self._replace(worker, f"the process that ran it ended, {_ending(worker.process.exitcode)}")
        if self._waiting:
            self._give(worker)
        else:
            self._workers.remove(worker)
            worker.end()
        return run

    def _replace(self, worker: _Worker, error: str) -> HostRun:
        """One that has failed."""
        self._workers.remove(worker)
        worker.end()
        if self._waiting:
            self._workers.append(self._start())
        return HostRun(worker.host, error=error)


def _ending(code: int | None) -> str:
    """How a process ended, from multiprocessing's exit code.

    >>> _ending(-9), _ending(3)
    ('by SIGKILL', 'with exit status 3')
    """
    if code is not None and code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit status {code}"


@contextmanager
def _no_sigint() -> Iterator[None]:
    """What is started here has SIGINT blocked: Ctrl-C is for the process that the user sees, which ends the others."""
    # multiprocessing's own helper, which it starts with the first process; it unblocks SIGINT then.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
