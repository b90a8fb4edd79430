# SPDX-License-Identifier: Apache-2.0
r"""Traces: operations on a kernel and what came of each, in a form that runs anywhere.

A trace is JSON lines. The first is the header: "kvmipa_trace" is the version of the format, "profile" the host that
answered (kvmipa.recording.profile_as_json), anything else says how the trace was taken. Each line after it is one
operation; its first key is the verb.

======================================================  ==============================================================
``{"begin": "name"}``                                   everything is closed and unmapped: a new start
``{"open": "kvm"}``                                     open the device, and call the descriptor "kvm"
``{"eventfd": "eventfd0"}``                             make an eventfd
``{"close": "vm0"}``                                    close a descriptor
``{"map": "mem0", "size": 65536, "protection": "rw"}``  map anonymous memory, aligned to 2 MiB; "rw", "ro" or "none"
``{"protect": "mem0", "protection": "ro"}``             change its protection
``{"unmap": "mem0"}``                                   unmap it
``{"write": "mem0+0x10", "data": DATA}``                write to it
``{"ioctl": REQUEST, "on": "vm0", "argument": VALUE}``  an ioctl; "new": name of the descriptor that it makes
``{"mmap": "vcpu0", "pages": 2}``                       map what a vCPU shares with user space; "first": from which page
``{"run": "vcpu0", "before": {"40": "34120000"}}``      KVM_RUN, after these bytes were put into the run area
``{"note": "what whoever took the trace has to say"}``  nothing to do: above all what the trace lacks
======================================================  ==============================================================

REQUEST is a name, or a number. With ``"no_descriptor": true`` the process can have no further descriptor meanwhile.
"on" is a descriptor's name or a number; a name that stands for nothing, such as "closed", is a number that is not open.

VALUE is a number (``"0x..."`` where large), a symbol, or DATA, which stands for the address of a buffer that holds it.
Symbols are "null", "unmapped", "kernel" (an address beyond user space), an area with an offset ("mem0+0x1000",
"mem0-0x8"), and the name of a descriptor, which is its number. DATA is a struct by its fields (``{"struct":
"device_attr", "group": 3, "addr": VALUE}``, names as in kvmipa.abi.STRUCTS or "u32" and "u64" with a "value"; absent
fields are 0), bytes (``{"hex": "00ff"}``, ``{"zeros": 4096}``, or ``{"zlib": "...", "size": 4096}``, which is zlib's
format in base64), or a list of those, one behind the other.

Where an area lies is the process's own business. So a memory slot that begins in one must not be longer than the 16 MiB
that are kept free around it, or what "room" of its map says: its end could be beyond user space on one machine, and not
on another. A guest runs only where all of its slots are in areas, or in what is kept free around them.

What came of it stands in the same line: "result" is the number that the call returned, the name of an errno, or "new"
where it made a descriptor (never its number), and "wrote" is what changed in the buffers: ``{"1+4": "00ff"}`` are the
bytes from offset 4 of buffer 1 on. Buffers are numbered in the order in which they stand in the line, from 0. The
descriptor that KVM_CREATE_DEVICE writes to its struct is not among them. Writes to areas are not recorded.

Of a run, "result" is exit_reason, and "wrote" is ``{"exit": {"kind": "Mmio", ...}}``: a class of kvmipa.exits by its
fields. One that somebody ended has "interrupted", the seconds that it took: it is ended after as long again. One that
has no exit within kvmipa.trace.runs.PATIENCE is ended, and is a difference.

Verbs that a reader does not know are an error: that is how the format grows ("mmap", "run", "note", "zeros", "zlib" and
"room" came after its first version).

>>> from kvmipa import HostProfile
>>> from kvmipa.backend.emulated import EmulatedBackend
>>> backend = EmulatedBackend(HostProfile())
>>> trace = run([Open("kvm"), Ioctl("kvm", "KVM_CREATE_VM", 32, new="vm0"), Ioctl("vm0", "KVM_CREATE_VM")], backend)
>>> print(trace.text(), end="") # doctest: +ELLIPSIS
{"kvmipa_trace":1,"profile":{...}}
{"open":"kvm","result":"new"}
{"ioctl":"KVM_CREATE_VM","on":"kvm","argument":32,"new":"vm0","result":"new"}
{"ioctl":"KVM_CREATE_VM","on":"vm0","result":"EINVAL"}
>>> list(replay(trace, backend))
[]
"""

from __future__ import annotations

from kvmipa.trace.file import FORMAT, Difference, Step, Trace, replay, run
from kvmipa.trace.operations import (
    Begin,
    Close,
    EventFd,
    Ioctl,
    Map,
    MapRunArea,
    Note,
    Open,
    Operation,
    Protect,
    Run,
    Unmap,
    Write,
)
from kvmipa.trace.session import NEW, Result, Session
from kvmipa.trace.values import Bytes, Struct, struct, u32, u64

__all__ = [
    "FORMAT",
    "NEW",
    "Begin",
    "Bytes",
    "Close",
    "Difference",
    "EventFd",
    "Ioctl",
    "Map",
    "MapRunArea",
    "Note",
    "Open",
    "Operation",
    "Protect",
    "Result",
    "Run",
    "Session",
    "Step",
    "Struct",
    "Trace",
    "Unmap",
    "Write",
    "replay",
    "run",
    "struct",
    "u32",
    "u64",
]
