# SPDX-License-Identifier: Apache-2.0
"""What is made is made once, and never seen half finished."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from ci.lab.cache import Cache

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_made_once(cache: Cache) -> None:
    calls = []

    def make(directory: Path) -> None:
        calls.append(directory)
        (directory / "file").write_text(str(len(calls)))

    assert (
        cache.entry("kind", "name", make=make) == cache.entry("kind", "name", make=make) == cache.path("kind", "name")
    )
    assert len(calls) == 1
    assert cache.entry("kind", "name", make=make, again=True).joinpath("file").read_text() == "2"
    assert list(cache.path("tmp").iterdir()) == []


def test_a_failure_leaves_nothing(cache: Cache) -> None:
    def make(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError):
        cache.entry("name", make=make)
    assert not cache.path("name").exists()
    assert list(cache.path("tmp").iterdir()) == []


def test_a_failure_keeps_the_old_one(cache: Cache) -> None:
    def make(directory: Path) -> None:
        (directory / "file").write_text("old")

    def fail(directory: Path) -> None:
        raise RuntimeError("no network")

    cache.entry("name", make=make)
    with pytest.raises(RuntimeError):
        cache.entry("name", make=fail, again=True)
    assert cache.path("name", "file").read_text() == "old"


def test_two_at_once_make_it_once(cache: Cache) -> None:
    calls = []
    start = threading.Barrier(2)

    def make(directory: Path) -> None:
        calls.append(directory)

    def work() -> None:
        start.wait()
        cache.entry("name", make=make)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_the_newest_are_kept(cache: Cache) -> None:
    for age, name in enumerate(["file", "oldest", "old", "new", "touched"]):
        path = cache.directory("kind") / name
        path.touch() if name == "file" else (path / "inside").mkdir(parents=True)
        os.utime(path, (1000 + age, 1000 + age))
    cache.path("kind", "oldest").touch()
    cache.keep_newest("kind", 3)
    assert {path.name for path in cache.path("kind").iterdir()} == {"oldest", "new", "touched"}
    assert list(cache.path("tmp").iterdir()) == []
    cache.keep_newest("no such kind", 3)


def test_slots(cache: Cache) -> None:
    order = []

    def wait() -> None:
        with cache.slot(1):
            order.append("second")

    thread = threading.Thread(target=wait)
    with cache.slot(1):
        thread.start()
        thread.join(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
