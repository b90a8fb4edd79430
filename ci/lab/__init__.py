# SPDX-License-Identifier: Apache-2.0
"""The lab: real arm64 kernels with a working /dev/kvm, on a machine that has neither.

``qemu-system-aarch64 -M virt,virtualization=on`` gives its guest an EL2, so an unmodified arm64 Linux offers
``/dev/kvm`` there without any hardware virtualisation. The lab fetches such kernels from Debian, builds one small root
filesystem with CPython and pytest in it, and runs a command in the guest. ``python -m ci.lab --help`` says how.
"""
