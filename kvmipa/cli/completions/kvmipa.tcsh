# SPDX-License-Identifier: Apache-2.0
# Made by python -m ci.docs; what was typed here is lost with the next run.
# The functions are shtab's (https://github.com/tqdm/shtab, Apache-2.0).

complete kvmipa \
        'c/--backend=/(auto native emulated)/' \
        'c/--host=/(qemu-max-5.10-4k qemu-max-nolpa2-5.10-4k qemu-cortex-a35-5.10-4k qemu-cortex-a53-5.10-4k qemu-cortex-a57-5.10-4k qemu-cortex-a72-5.10-4k qemu-cortex-a76-5.10-4k qemu-a64fx-5.10-4k qemu-neoverse-n1-5.10-4k qemu-max-6.1-4k qemu-max-nolpa2-6.1-4k qemu-cortex-a35-6.1-4k qemu-cortex-a53-6.1-4k qemu-cortex-a57-6.1-4k qemu-cortex-a72-6.1-4k qemu-cortex-a76-6.1-4k qemu-a64fx-6.1-4k qemu-neoverse-n1-6.1-4k qemu-max-6.12-4k qemu-max-nolpa2-6.12-4k qemu-cortex-a35-6.12-4k qemu-cortex-a53-6.12-4k qemu-cortex-a57-6.12-4k qemu-cortex-a72-6.12-4k qemu-cortex-a76-6.12-4k qemu-a64fx-6.12-4k qemu-neoverse-n1-6.12-4k qemu-max-6.12-16k qemu-max-nolpa2-6.12-16k qemu-cortex-a35-6.12-16k qemu-cortex-a76-6.12-16k qemu-neoverse-n1-6.12-16k qemu-max-6.12-64k qemu-max-nolpa2-6.12-64k qemu-cortex-a35-6.12-64k qemu-cortex-a53-6.12-64k qemu-cortex-a57-6.12-64k qemu-cortex-a72-6.12-64k qemu-cortex-a76-6.12-64k qemu-a64fx-6.12-64k qemu-neoverse-n1-6.12-64k qemu-max-7.3-4k qemu-max-nolpa2-7.3-4k qemu-cortex-a35-7.3-4k qemu-cortex-a53-7.3-4k qemu-cortex-a57-7.3-4k qemu-cortex-a72-7.3-4k qemu-cortex-a76-7.3-4k qemu-a64fx-7.3-4k qemu-neoverse-n1-7.3-4k qemu-max-7.3-16k qemu-max-nolpa2-7.3-16k qemu-cortex-a35-7.3-16k qemu-cortex-a76-7.3-16k qemu-neoverse-n1-7.3-16k qemu-max-6.1-4k-pkvm qemu-max-6.12-4k-pkvm qemu-cortex-a53-p32-5.10-4k qemu-cortex-a53-p32-6.1-4k qemu-cortex-a53-p32-6.12-4k qemu-cortex-a53-p32-7.3-4k qemu-cortex-a53-p36-5.10-4k qemu-cortex-a53-p36-6.1-4k qemu-cortex-a53-p36-6.12-4k qemu-cortex-a53-p36-7.3-4k qemu-cortex-a53-p42-5.10-4k qemu-cortex-a53-p42-6.1-4k qemu-cortex-a53-p42-6.12-4k qemu-cortex-a53-p42-7.3-4k raspberry-pi-4 raspberry-pi-5 apple-m1 all)/' \
        'c/--device=/f/' \
        'c/--svg=/f/' \
        'c/--map=/f/' \
        'c/--strategy=/(minimum qemu-virt qemu-virt-highmem-off kvmtool host-maximum crosvm cloud-hypervisor firecracker default all)/' \
        'c/--claim=/(C1 system.api_version C6 system.ipa_limit C16 system.vm_capabilities C17 system.eager_split_chunk_size I1 system.capability_of_vm I2 system.computed_limit I3 system.vcpu_mmap_size I4 system.unknown_requests C2 vm.empty C5 machine_type.valid_sizes C7 machine_type.implicit_size C10 machine_type.reserved_bits C10p machine_type.protected_vm I5 machine_type.errno C3 machine_type.default_size C4 machine_type.size C8 machine_type.parange I6 machine_type.any_size C11 memory.flags C11i memory.slot_ids C11o memory.overlap C11r memory.fixed_properties C11m memory.move C11d memory.delete C12 memory.user_address I7 memory.beyond_space I8 memory.error_order I9 memory.alignment I10 memory.user_space_end I11 memory.largest_slot I12 memory.refused_change I13 memory.checked_deletion V1 vgic_v3.address_space V2 vgic_v3.address_alignment V3 vgic_v3.address_once V4 vgic_v3.region_space V5 vgic_v3.region_arguments V6 vgic_v3.region_reading V7 vgic_v3.mixed_regions V8 vgic_v3.unknown_attribute V9 its.address_space V10 its.address_alignment V11 its.address_once V12 its.unknown_attribute V13 vgic_v2.address_space V14 vgic_v2.address_alignment V15 vgic_v2.address_once V16 vgic_v2.unknown_attribute V17 vgic.bad_pointer V18 vgic.interrupts V19 vgic.devices I14 vgic_v3.late_range_check C8g guest.parange C9 guest.reach C13 guest.readonly_slot C13w guest.readonly_slot_walker C14 guest.dirty_log C15 guest.no_syndrome G1 guest.mmio IG1 guest.out_of_range IG2 guest.fetch_without_memory IG3 guest.slot_without_mapping IG4 guest.mmio_signed_loads C18 guest.huge_mappings)/' \
        'c/--kind=/(contract implementation all)/' \
        'c/--report=/f/' \
        'c/--ktap=/f/' \
        'c/--junit=/f/' \
        'c/--html=/f/' \
        'c/--kcidb=/f/' \
        'c/--traces=/d/' \
        'c/--output=/f/' \
        'c/-o=/f/' \
        'c/--/(all backend claim device help host html ipa-bits jobs json junit kcidb kcidb-build kcidb-origin kind ktap limit list map no-guest output page-size protected ram ram-base report strategy svg text traces version)/' \
        'c/-/(- h j o)/' \
        'n/--backend/(auto native emulated)/' \
        'n/--host/(qemu-max-5.10-4k qemu-max-nolpa2-5.10-4k qemu-cortex-a35-5.10-4k qemu-cortex-a53-5.10-4k qemu-cortex-a57-5.10-4k qemu-cortex-a72-5.10-4k qemu-cortex-a76-5.10-4k qemu-a64fx-5.10-4k qemu-neoverse-n1-5.10-4k qemu-max-6.1-4k qemu-max-nolpa2-6.1-4k qemu-cortex-a35-6.1-4k qemu-cortex-a53-6.1-4k qemu-cortex-a57-6.1-4k qemu-cortex-a72-6.1-4k qemu-cortex-a76-6.1-4k qemu-a64fx-6.1-4k qemu-neoverse-n1-6.1-4k qemu-max-6.12-4k qemu-max-nolpa2-6.12-4k qemu-cortex-a35-6.12-4k qemu-cortex-a53-6.12-4k qemu-cortex-a57-6.12-4k qemu-cortex-a72-6.12-4k qemu-cortex-a76-6.12-4k qemu-a64fx-6.12-4k qemu-neoverse-n1-6.12-4k qemu-max-6.12-16k qemu-max-nolpa2-6.12-16k qemu-cortex-a35-6.12-16k qemu-cortex-a76-6.12-16k qemu-neoverse-n1-6.12-16k qemu-max-6.12-64k qemu-max-nolpa2-6.12-64k qemu-cortex-a35-6.12-64k qemu-cortex-a53-6.12-64k qemu-cortex-a57-6.12-64k qemu-cortex-a72-6.12-64k qemu-cortex-a76-6.12-64k qemu-a64fx-6.12-64k qemu-neoverse-n1-6.12-64k qemu-max-7.3-4k qemu-max-nolpa2-7.3-4k qemu-cortex-a35-7.3-4k qemu-cortex-a53-7.3-4k qemu-cortex-a57-7.3-4k qemu-cortex-a72-7.3-4k qemu-cortex-a76-7.3-4k qemu-a64fx-7.3-4k qemu-neoverse-n1-7.3-4k qemu-max-7.3-16k qemu-max-nolpa2-7.3-16k qemu-cortex-a35-7.3-16k qemu-cortex-a76-7.3-16k qemu-neoverse-n1-7.3-16k qemu-max-6.1-4k-pkvm qemu-max-6.12-4k-pkvm qemu-cortex-a53-p32-5.10-4k qemu-cortex-a53-p32-6.1-4k qemu-cortex-a53-p32-6.12-4k qemu-cortex-a53-p32-7.3-4k qemu-cortex-a53-p36-5.10-4k qemu-cortex-a53-p36-6.1-4k qemu-cortex-a53-p36-6.12-4k qemu-cortex-a53-p36-7.3-4k qemu-cortex-a53-p42-5.10-4k qemu-cortex-a53-p42-6.1-4k qemu-cortex-a53-p42-6.12-4k qemu-cortex-a53-p42-7.3-4k raspberry-pi-4 raspberry-pi-5 apple-m1 all)/' \
        'n/--device/f/' \
        'n/--svg/f/' \
        'n/--map/f/' \
        'n/--strategy/(minimum qemu-virt qemu-virt-highmem-off kvmtool host-maximum crosvm cloud-hypervisor firecracker default all)/' \
        'n/--claim/(C1 system.api_version C6 system.ipa_limit C16 system.vm_capabilities C17 system.eager_split_chunk_size I1 system.capability_of_vm I2 system.computed_limit I3 system.vcpu_mmap_size I4 system.unknown_requests C2 vm.empty C5 machine_type.valid_sizes C7 machine_type.implicit_size C10 machine_type.reserved_bits C10p machine_type.protected_vm I5 machine_type.errno C3 machine_type.default_size C4 machine_type.size C8 machine_type.parange I6 machine_type.any_size C11 memory.flags C11i memory.slot_ids C11o memory.overlap C11r memory.fixed_properties C11m memory.move C11d memory.delete C12 memory.user_address I7 memory.beyond_space I8 memory.error_order I9 memory.alignment I10 memory.user_space_end I11 memory.largest_slot I12 memory.refused_change I13 memory.checked_deletion V1 vgic_v3.address_space V2 vgic_v3.address_alignment V3 vgic_v3.address_once V4 vgic_v3.region_space V5 vgic_v3.region_arguments V6 vgic_v3.region_reading V7 vgic_v3.mixed_regions V8 vgic_v3.unknown_attribute V9 its.address_space V10 its.address_alignment V11 its.address_once V12 its.unknown_attribute V13 vgic_v2.address_space V14 vgic_v2.address_alignment V15 vgic_v2.address_once V16 vgic_v2.unknown_attribute V17 vgic.bad_pointer V18 vgic.interrupts V19 vgic.devices I14 vgic_v3.late_range_check C8g guest.parange C9 guest.reach C13 guest.readonly_slot C13w guest.readonly_slot_walker C14 guest.dirty_log C15 guest.no_syndrome G1 guest.mmio IG1 guest.out_of_range IG2 guest.fetch_without_memory IG3 guest.slot_without_mapping IG4 guest.mmio_signed_loads C18 guest.huge_mappings)/' \
        'n/--kind/(contract implementation all)/' \
        'n/--report/f/' \
        'n/--ktap/f/' \
        'n/--junit/f/' \
        'n/--html/f/' \
        'n/--kcidb/f/' \
        'n/--traces/d/' \
        'n/--output/f/' \
        'n/-o/f/' \
        'p/1/(probe create stage2 sweep type plan conform report record replay hosts doctor completion)/' \
        'n/type/(encode decode explain)/' \
        'n/report/(show compare)/' \
        'n/completion/(bash zsh fish tcsh)/' \
        'n/show/f/' \
        'n/compare/f/' \
        'p/*/()/'
