# SPDX-License-Identifier: Apache-2.0
"""The cache: everything that is downloaded or built, once, also when two labs run at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def progress(message: str) -> None:
    """Say on stderr what takes time."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def default_root() -> Path:
    """``$KVMIPA_LAB_CACHE``, or the user's cache directory."""
    if named := os.environ.get("KVMIPA_LAB_CACHE"):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kvmipa-lab"


class Cache:
    """A directory of finished things; what is being made is never seen under its final name."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def path(self, *names: str) -> Path:
        return self.root.joinpath(*names)

    def directory(self, *names: str) -> Path:
        path = self.path(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of this name; wait for whoever has it."""
        with (self.directory("locks") / f"{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another lab ({name})")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def slot(self, count: int) -> Iterator[None]:
        """Hold one of `count` places; wait until one is free."""
        files = [(self.directory("locks") / f"slot-{n}.lock").open("w") for n in range(count)]
        try:
            told = False
            while not any(_try_lock(file.fileno()) for file in files):
                if not told:
                    progress(f"waiting: {count} guests are running")
                    told = True
                time.sleep(0.2)
            yield
        finally:
            for file in files:
                file.close()

    def entry(self, *names: str, make: Callable[[Path], None], again: bool = False) -> Path:
        """The finished directory of this name; `make` fills a new one where there is none.

        With `again` it is made even so, and takes the old one's place when it is complete.
        """
        path = self.path(*names)
        if path.exists() and not again:
            return path
        with self.lock("-".join(names)):
            if path.exists() and not again:
                return path
            with self.scratch() as scratch:
                make(scratch)
                self._install(scratch, path)
        return path

    def read_json(self, *names: str) -> dict[str, Any] | None:
        """What a file of the cache says, or None where there is no such file."""
        try:
            found: dict[str, Any] = json.loads(self.path(*names).read_text())
        except FileNotFoundError:
            return None
        return found

    def keep_newest(self, kind: str, count: int) -> None:
        """Remove all of a kind but those that were made or touched last."""
        oldest_first = sorted(self.directory(kind).iterdir(), key=_modified)
        with self.scratch() as attic:
            for path in oldest_first[:-count]:
                # Another lab may be removing it too.
                with contextlib.suppress(FileNotFoundError):
                    path.rename(attic / path.name)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory in the cache for making something; it is gone afterwards."""
        path = Path(tempfile.mkdtemp(dir=self.directory("tmp")))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _install(self, made: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.scratch() as attic:
            if path.exists():
                path.rename(attic / "old")
            made.chmod(0o755)
            made.rename(path)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
