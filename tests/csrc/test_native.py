# SPDX-License-Identifier: Apache-2.0
"""What the C of the native backend does, by programs that call it: on any Linux, without a KVM."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.csrc.conftest import Compiler

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the native backend is Linux's")

SOURCE = "kvmipa_native.c"

HEAD = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "kvmipa_native.h"
#define MUST(what) do { if (!(what)) { printf("%d: %s\\n", __LINE__, #what); return 1; } } while (0)
"""

RUN = """
int main(void)
{
    char area[4096] = {0};
    uint32_t me = (uint32_t)syscall(SYS_gettid);
    int number = SIGRTMIN + 9;
    struct kvmipa_turn turn = {.signal = number, .fd = 9999, .area = (uint64_t)(uintptr_t)area};
    sigset_t blocked, now;
    int child, status;

    /* The signal is let through once in a thread. */
    sigfillset(&blocked);
    MUST(pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0);
    area[48] = 8;
    MUST(kvmipa_run(&turn) == -EBADF);
    MUST(turn.holder == (me | KVMIPA_TAKEN) && area[48] == 0);
    MUST(pthread_sigmask(SIG_BLOCK, NULL, &now) == 0);
    MUST(!sigismember(&now, number) && sigismember(&now, number + 1) && sigismember(&now, SIGINT));

    /* KVM_RUN says what it does: there is no exit until it has one, but for MMIO, at which it looks. */
    for (int reason = 0; reason < 50; reason++) {
        turn.holder = 0;
        area[8] = (char)reason;
        MUST(kvmipa_run(&turn) == -EBADF && area[8] == (reason == 6 ? 6 : 0));
    }

    /* Where the turns were ended, the area is not there any more. */
    turn.holder = 0;
    turn.fd = -EIO;
    turn.area = 0;
    MUST(kvmipa_run(&turn) == -EIO && turn.holder == (me | KVMIPA_TAKEN));
    turn.area = (uint64_t)(uintptr_t)area;

    /* It is one thread's turn. */
    area[48] = 8;
    MUST(kvmipa_run(&turn) == -EALREADY && area[48] == 8);
    /* Python gives it back by the byte that is not the number's. */
    ((char *)&turn.holder)[3] = 0;
    turn.fd = open("/dev/null", O_RDONLY);
    MUST(kvmipa_run(&turn) == -ENOTTY);
    turn.fd = -EBADF;

    /* A child of fork() has a number of its own. */
    turn.holder = 0;
    child = fork();
    if (!child)
        _exit(kvmipa_run(&turn) != -EBADF || turn.holder != ((uint32_t)getpid() | KVMIPA_TAKEN));
    MUST(waitpid(child, &status, 0) == child && status == 0);

    /* An exit that is open is not run over; it is the caller's turn. */
    turn.holder = 0;
    turn.fd = 9999;
    turn.open = 1;
    area[48] = 8;
    MUST(kvmipa_run(&turn) == -EINPROGRESS && turn.holder == (me | KVMIPA_TAKEN) && area[48] == 8);
    return 0;
}
"""

MMAP = """
int main(void)
{
    int fd = memfd_create("area", 0);
    long first, second;

    MUST(fd >= 0 && ftruncate(fd, 3 * 4096) == 0);
    first = kvmipa_mmap(fd, 4096, 4096);
    second = kvmipa_mmap(fd, 8192, 4096);
    MUST(first > 0 && second > 0 && first != second);
    *(char *)(intptr_t)first = 'k';
    MUST(*(char *)(intptr_t)second == 'k');
    close(fd);
    MUST(*(char *)(intptr_t)second == 'k');
    kvmipa_munmap((void *)(intptr_t)first, 4096);
    MUST(msync((void *)(intptr_t)first, 4096, MS_ASYNC) == -1 && errno == ENOMEM);
    MUST(kvmipa_mmap(-1, 4096, 0) == -EBADF);
    MUST(kvmipa_mmap(0, 4096, 1) == -EINVAL);
    return 0;
}
"""

KICK = """
static volatile int tid, result, code, called;
static int place[2];

static void *wait_for_a_signal(void *unused)
{
    struct timespec while_ = {5, 0};

    tid = (int)syscall(SYS_gettid);
    /* Not restarted, whatever SA_RESTART says (signal(7)): as KVM_RUN. */
    result = nanosleep(&while_, NULL);
    code = errno;
    return unused;
}

static void *wait_for_a_byte(void *unused)
{
    char byte;

    tid = (int)syscall(SYS_gettid);
    result = (int)read(place[0], &byte, 1);
    code = errno;
    return unused;
}

static void own_handler(int number)
{
    called = number;
}

static int kick(int thread, int number)
{
    struct kvmipa_turn turn = {.holder = thread ? (uint32_t)thread | KVMIPA_TAKEN : 0, .signal = number};

    return (int)kvmipa_kick(&turn);
}

int main(void)
{
    int number = SIGRTMIN + 9;
    struct kvmipa_turn own = {.signal = SIGKILL};
    struct sigaction now;
    struct timespec moment = {0, 50000000};
    pthread_t thread;

    /* Nobody's signal ends the process no more; again is no harm. */
    MUST(kvmipa_catch(number) == 0 && kvmipa_catch(number) == 0);
    MUST(kick((int)syscall(SYS_gettid), number) == 0);
    MUST(kick(0, number) == 0);
    /* Nobody is at KVM_RUN. */
    own.holder = (uint32_t)syscall(SYS_gettid);
    MUST(kvmipa_kick(&own) == 0);
    MUST(pthread_create(&thread, NULL, wait_for_a_signal, NULL) == 0);
    while (!tid)
        ;
    nanosleep(&moment, NULL);
    MUST(kick(tid, number) == 0);
    pthread_join(thread, NULL);
    MUST(result == -1 && code == EINTR);
    /* It has ended. */
    MUST(kick(tid, number) == 0);
    MUST(kick(tid, 9999) == -EINVAL || kick(getpid(), 9999) == -EINVAL);

    /* A kick that comes late does not disturb other system calls. */
    tid = 0;
    MUST(pipe(place) == 0 && pthread_create(&thread, NULL, wait_for_a_byte, NULL) == 0);
    while (!tid)
        ;
    nanosleep(&moment, NULL);
    MUST(kick(tid, number) == 0);
    nanosleep(&moment, NULL);
    MUST(write(place[1], "k", 1) == 1);
    pthread_join(thread, NULL);
    MUST(result == 1);

    /* A program's own handler stays, and what it ignores is refused. */
    signal(number, own_handler);
    MUST(kvmipa_catch(number) == 0 && sigaction(number, NULL, &now) == 0 && now.sa_handler == own_handler);
    MUST(kick((int)syscall(SYS_gettid), number) == 0 && called == number);
    signal(number, SIG_IGN);
    MUST(kvmipa_catch(number) == -EBUSY);
    MUST(kvmipa_catch(9999) == -EINVAL && kvmipa_catch(SIGKILL) == -EINVAL);
    return 0;
}
"""


@pytest.mark.parametrize("main", [RUN, MMAP, KICK], ids=["run", "mmap", "kick"])
def test_program(main: str, host_compiler: Compiler, tmp_path: Path) -> None:
    program = host_compiler.program(tmp_path / "main", HEAD + main, SOURCE, "-pthread")
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
