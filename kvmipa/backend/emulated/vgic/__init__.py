# SPDX-License-Identifier: Apache-2.0
"""The interrupt controllers of the emulated kernel: vGICv2, vGICv3 and ITS (arch/arm64/kvm/vgic; kernel-device-spec 2).

``controller`` is the vGIC itself and ``state`` what its registers hold; ``addresses``, ``frames`` and
``redistributors`` say where its frames are; ``attributes`` are its groups of attributes. Of those, the ones that are
registers go through ``register_access`` to the tables of ``distributor``, ``redistributor_registers`` and
``cpu_interface_v2``, or to ``cpu_interface_v3``. ``its`` is the ITS.
"""
