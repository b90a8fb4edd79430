# SPDX-License-Identifier: Apache-2.0
"""Why kvm-vfio, the device that tells KVM of VFIO's files, did not add or remove one (virt/kvm/vfio.c)."""

from __future__ import annotations

import errno
from typing import Final

from kvmipa import abi, errors
from kvmipa.causes import Cause


def vfio_file_cause(attr: int, value: int | None, code: int) -> Cause | None:
    """Why the file of a descriptor was refused with errno ``code``; value: the descriptor, None where nobody knows."""
    found = _CAUSES.get((attr, code))
    return found and found.filled(descriptor="the descriptor" if value is None else f"descriptor {value}")


def _refused(cause: str, available: str, fix: str) -> Cause:
    return Cause(errors.VfioFileError, cause, available, fix)


_NOT_OPEN: Final = _refused(
    "{descriptor} is not open in this process",
    "descriptors of VFIO's files, such as /dev/vfio/1",
    "open the VFIO file first, and keep it open until it is removed",
)
_CAUSES: Final = {
    (abi.KVM_DEV_VFIO_FILE_ADD, errno.EBADF): _NOT_OPEN,
    (abi.KVM_DEV_VFIO_FILE_DEL, errno.EBADF): _NOT_OPEN,
    (abi.KVM_DEV_VFIO_FILE_ADD, errno.EINVAL): _refused(
        "{descriptor} is not VFIO's, or of a group that older kernels want in a container first",
        "descriptors of VFIO's groups; newer kernels take those of its devices too",
        "pass the descriptor of /dev/vfio/N",
    ),
    (abi.KVM_DEV_VFIO_FILE_ADD, errno.EEXIST): _refused(
        "{descriptor} is of a file that was added already", "files that were not", "add each file once"
    ),
    (abi.KVM_DEV_VFIO_FILE_DEL, errno.ENOENT): _refused(
        "{descriptor} is of a file that was not added", "the files that were", "remove what was added"
    ),
}
