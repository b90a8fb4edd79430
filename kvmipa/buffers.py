# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a Python object are in this process: requests carry addresses."""

from __future__ import annotations

from typing import Any


def address_of(buffer: Any) -> int:
    """The address of a buffer's first byte: of a bytearray, an mmap or what else has bytes in place.

    It holds as long as nobody resizes or closes the buffer; an empty one has some address too.

    >>> import ctypes
    >>> data = bytearray(b"kvm")
    >>> ctypes.string_at(address_of(data), 3)
    b'kvm'
    """
    import ctypes

    try:
        return ctypes.addressof((ctypes.c_char * 0).from_buffer(buffer))
    except TypeError:
        # ctypes takes no buffer that it could not write to. The first field of a Py_buffer is the address.
        view = (ctypes.c_void_p * 32)()
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), view, 0)
        address = view[0]
        ctypes.pythonapi.PyBuffer_Release(view)
        return address or 0
