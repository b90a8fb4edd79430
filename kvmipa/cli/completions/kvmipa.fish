# SPDX-License-Identifier: Apache-2.0
# Made by python -m ci.docs; what was typed here is lost with the next run.
# The functions are shtab's (https://github.com/tqdm/shtab, Apache-2.0).

function _kvmipa_hosts
    string split ' ' -- 'qemu-max-5.10-4k qemu-max-nolpa2-5.10-4k qemu-cortex-a35-5.10-4k qemu-cortex-a53-5.10-4k qemu-cortex-a57-5.10-4k qemu-cortex-a72-5.10-4k qemu-cortex-a76-5.10-4k qemu-a64fx-5.10-4k qemu-neoverse-n1-5.10-4k qemu-max-6.1-4k qemu-max-nolpa2-6.1-4k qemu-cortex-a35-6.1-4k qemu-cortex-a53-6.1-4k qemu-cortex-a57-6.1-4k qemu-cortex-a72-6.1-4k qemu-cortex-a76-6.1-4k qemu-a64fx-6.1-4k qemu-neoverse-n1-6.1-4k qemu-max-6.12-4k qemu-max-nolpa2-6.12-4k qemu-cortex-a35-6.12-4k qemu-cortex-a53-6.12-4k qemu-cortex-a57-6.12-4k qemu-cortex-a72-6.12-4k qemu-cortex-a76-6.12-4k qemu-a64fx-6.12-4k qemu-neoverse-n1-6.12-4k qemu-max-6.12-16k qemu-max-nolpa2-6.12-16k qemu-cortex-a35-6.12-16k qemu-cortex-a76-6.12-16k qemu-neoverse-n1-6.12-16k qemu-max-6.12-64k qemu-max-nolpa2-6.12-64k qemu-cortex-a35-6.12-64k qemu-cortex-a53-6.12-64k qemu-cortex-a57-6.12-64k qemu-cortex-a72-6.12-64k qemu-cortex-a76-6.12-64k qemu-a64fx-6.12-64k qemu-neoverse-n1-6.12-64k qemu-max-7.3-4k qemu-max-nolpa2-7.3-4k qemu-cortex-a35-7.3-4k qemu-cortex-a53-7.3-4k qemu-cortex-a57-7.3-4k qemu-cortex-a72-7.3-4k qemu-cortex-a76-7.3-4k qemu-a64fx-7.3-4k qemu-neoverse-n1-7.3-4k qemu-max-7.3-16k qemu-max-nolpa2-7.3-16k qemu-cortex-a35-7.3-16k qemu-cortex-a76-7.3-16k qemu-neoverse-n1-7.3-16k qemu-max-6.1-4k-pkvm qemu-max-6.12-4k-pkvm qemu-cortex-a53-p32-5.10-4k qemu-cortex-a53-p32-6.1-4k qemu-cortex-a53-p32-6.12-4k qemu-cortex-a53-p32-7.3-4k qemu-cortex-a53-p36-5.10-4k qemu-cortex-a53-p36-6.1-4k qemu-cortex-a53-p36-6.12-4k qemu-cortex-a53-p36-7.3-4k qemu-cortex-a53-p42-5.10-4k qemu-cortex-a53-p42-6.1-4k qemu-cortex-a53-p42-6.12-4k qemu-cortex-a53-p42-7.3-4k raspberry-pi-4 raspberry-pi-5 apple-m1 all'
end

function _kvmipa_claims
    string split ' ' -- 'C1 system.api_version C6 system.ipa_limit C16 system.vm_capabilities C17 system.eager_split_chunk_size I1 system.capability_of_vm I2 system.computed_limit I3 system.vcpu_mmap_size I4 system.unknown_requests C2 vm.empty C5 machine_type.valid_sizes C7 machine_type.implicit_size C10 machine_type.reserved_bits C10p machine_type.protected_vm I5 machine_type.errno C3 machine_type.default_size C4 machine_type.size C8 machine_type.parange I6 machine_type.any_size C11 memory.flags C11i memory.slot_ids C11o memory.overlap C11r memory.fixed_properties C11m memory.move C11d memory.delete C12 memory.user_address I7 memory.beyond_space I8 memory.error_order I9 memory.alignment I10 memory.user_space_end I11 memory.largest_slot I12 memory.refused_change I13 memory.checked_deletion V1 vgic_v3.address_space V2 vgic_v3.address_alignment V3 vgic_v3.address_once V4 vgic_v3.region_space V5 vgic_v3.region_arguments V6 vgic_v3.region_reading V7 vgic_v3.mixed_regions V8 vgic_v3.unknown_attribute V9 its.address_space V10 its.address_alignment V11 its.address_once V12 its.unknown_attribute V13 vgic_v2.address_space V14 vgic_v2.address_alignment V15 vgic_v2.address_once V16 vgic_v2.unknown_attribute V17 vgic.bad_pointer V18 vgic.interrupts V19 vgic.devices I14 vgic_v3.late_range_check C8g guest.parange C9 guest.reach C13 guest.readonly_slot C13w guest.readonly_slot_walker C14 guest.dirty_log C15 guest.no_syndrome G1 guest.mmio IG1 guest.out_of_range IG2 guest.fetch_without_memory IG3 guest.slot_without_mapping IG4 guest.mmio_signed_loads C18 guest.huge_mappings'
end
# End Custom Preamble

# Parse current commandline:
# - _shtab_kvmipa_cmdpath=(sub)command path seen so far
# - _shtab_kvmipa_npos=number of positional arguments given after it
# - options are skipped based on _shtab_kvmipa_opts_with_value & _shtab_kvmipa_commands lists
function _shtab_kvmipa_scan
  set -g _shtab_kvmipa_cmdpath ''
  set -g _shtab_kvmipa_npos 0
  set -l tokens (commandline -opc)
  set -e tokens[1]
  set -l expect_value 0
  for t in $tokens
    if test $expect_value -eq 1
      set expect_value 0
      continue
    end
    switch "$t"
      case '--*=*'
        continue
      case '-*'
        if contains -- $t $_shtab_kvmipa_opts_with_value
          set expect_value 1
        end
        continue
      case '*'
        if test $_shtab_kvmipa_npos -eq 0
          set -l candidate $t
          if test -n "$_shtab_kvmipa_cmdpath"
            set candidate "$_shtab_kvmipa_cmdpath $t"
          end
          if contains -- $candidate $_shtab_kvmipa_commands
            set -g _shtab_kvmipa_cmdpath $candidate
            continue
          end
        end
        set -g _shtab_kvmipa_npos (math $_shtab_kvmipa_npos + 1)
    end
  end
end

# Condition helper: true if the current (sub)command path equals the given one.
function _shtab_kvmipa_using
  _shtab_kvmipa_scan
  test "$_shtab_kvmipa_cmdpath" = "$argv"
end

set -g _shtab_kvmipa_commands probe create stage2 sweep type 'type encode' 'type decode' 'type explain' plan conform report 'report show' 'report compare' record replay hosts doctor completion
set -g _shtab_kvmipa_opts_with_value --backend --claim --device --host --html --ipa-bits --jobs --junit --kcidb --kcidb-build --kcidb-origin --kind --ktap --limit --map --output --page-size --ram --ram-base --report --strategy --svg --traces -j -o

complete -c kvmipa -e
complete -c kvmipa -f

complete -c kvmipa -n _shtab_kvmipa_using -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n _shtab_kvmipa_using -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n _shtab_kvmipa_using -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n _shtab_kvmipa_using -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n _shtab_kvmipa_using -l json -d 'one JSON object on standard output'
complete -c kvmipa -n _shtab_kvmipa_using -l version -d 'show program'"'"'s version number and exit'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a probe -d 'backend, IPA limit, sizes accepted, page size, and why'
complete -c kvmipa -n '_shtab_kvmipa_using probe' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using probe' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using probe' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using probe' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using probe' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a create -d 'create a VM of N bits, and show the shape of its stage 2'
complete -c kvmipa -n '_shtab_kvmipa_using create' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using create' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using create' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using create' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using create' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using create' -l ipa-bits -x -d 'IPA size (default: the kernel'"'"'s own, 40 bits)'
complete -c kvmipa -n '_shtab_kvmipa_using create' -l protected -d 'ask for a protected VM (pKVM, Linux 7.x)'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a stage2 -d 'draw the stage-2 tables of a VM of N bits: levels, index bits, VTCR_EL2'
complete -c kvmipa -n '_shtab_kvmipa_using stage2' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using stage2' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using stage2' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using stage2' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using stage2' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using stage2' -l ipa-bits -x -d 'IPA size (default: the kernel'"'"'s own, 40 bits)'
complete -c kvmipa -n '_shtab_kvmipa_using stage2' -l svg -xka "(__fish_complete_path (commandline -ct))" -d 'write the picture to FILE too, as SVG; -: to stdout'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a sweep -d 'try every machine type, and show runs of equal answers'
complete -c kvmipa -n '_shtab_kvmipa_using sweep' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using sweep' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using sweep' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using sweep' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using sweep' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a type -d 'encode, decode or explain a machine type (the argument of KVM_CREATE_VM)'
complete -c kvmipa -n '_shtab_kvmipa_using type' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using type' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using type' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using type' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using type' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using type; and test $_shtab_kvmipa_npos -eq 0' -a encode -d 'from an IPA size to the machine type'
complete -c kvmipa -n '_shtab_kvmipa_using type encode' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using type encode' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using type encode' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using type encode' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using type encode' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using type encode' -l protected -d 'a protected VM (pKVM, Linux 7.x)'
complete -c kvmipa -n '_shtab_kvmipa_using type; and test $_shtab_kvmipa_npos -eq 0' -a decode -d 'from a machine type to the IPA size'
complete -c kvmipa -n '_shtab_kvmipa_using type decode' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using type decode' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using type decode' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using type decode' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using type decode' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using type; and test $_shtab_kvmipa_npos -eq 0' -a explain -d 'any 64-bit argument in words, also one that no kernel accepts'
complete -c kvmipa -n '_shtab_kvmipa_using type explain' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using type explain' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using type explain' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using type explain' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using type explain' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a plan -d 'the smallest IPA size for a memory map, what does not fit, what other VMMs choose'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l ram -x -d 'its RAM; without it: as much as fits'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l ram-base -x -d 'where that starts (default: 1G)'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l device -x -d 'addresses that the guest must reach; may be repeated'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l map -xka "(__fish_complete_path (commandline -ct))" -d 'regions from a file, JSON or .toml; -: from stdin'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l limit -x -d 'its IPA limit in bits, 32 to 52; 0: Linux before 4.20, always 40 bits'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l page-size -x -d 'its pages: 4K (default), 16K or 64K'
complete -c kvmipa -n '_shtab_kvmipa_using plan' -l strategy -xka "minimum qemu-virt qemu-virt-highmem-off kvmtool host-maximum crosvm cloud-hypervisor firecracker default all" -d 'whose rule to show, and to draw the map of: minimum, qemu-virt, qemu-virt-highmem-off, kvmtool, host-maximum, crosvm, cloud-hypervisor, firecracker, default; or all (default)'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a conform -d 'check what KVM promises about the IPA size, and report'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l claim -xka "(_kvmipa_claims)" -d 'an id (C5), a name (machine_type.valid_sizes) or what names begin with ("machine_type.")'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l kind -xka "contract implementation all" -d 'what is documented, what kernels do beside that, or both'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l no-guest -d 'none of those that run a guest'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l list -d 'show the claims and do nothing'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l report -xka "(__fish_complete_path (commandline -ct))" -d 'the JSON report, which kvmipa report shows and compares'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l ktap -xka "(__fish_complete_path (commandline -ct))" -d 'KTAP 1, as kselftest and KernelCI read it'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l junit -xka "(__fish_complete_path (commandline -ct))" -d 'JUnit XML, which every CI reads'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l html -xka "(__fish_complete_path (commandline -ct))" -d 'one self-contained HTML file'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l kcidb -xka "(__fish_complete_path (commandline -ct))" -d 'JSON as KernelCI'"'"'s database takes it'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l kcidb-origin -x -d 'who submits it (kvmipa)'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l kcidb-build -x -d 'the build in KernelCI'"'"'s database that the machine runs'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l traces -xka "(__fish_complete_directories)" -d 'a trace for kvmipa replay of every claim that fails'
complete -c kvmipa -n '_shtab_kvmipa_using conform' -l jobs -s j -x -d 'how many hosts at once (as many as there are CPUs)'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a report -d 'show and compare saved reports'
complete -c kvmipa -n '_shtab_kvmipa_using report' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using report' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using report' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using report' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using report' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using report; and test $_shtab_kvmipa_npos -eq 0' -a show -d 'a saved report in any form'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l text -d 'plain text, as kvmipa conform prints it; this is the default'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l ktap -d 'KTAP 1, as kselftest and KernelCI read it'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l junit -d 'JUnit XML, which every CI reads'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l kcidb -d 'JSON as KernelCI'"'"'s database takes it'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l html -d 'one self-contained HTML file'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l kcidb-origin -x -d 'who submits it (kvmipa)'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l kcidb-build -x -d 'the build in KernelCI'"'"'s database that the machine runs'
complete -c kvmipa -n '_shtab_kvmipa_using report show' -l output -s o -xka "(__fish_complete_path (commandline -ct))" -d 'write it there instead of on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using report show; and test $_shtab_kvmipa_npos -eq 0' -ka "(__fish_complete_path (commandline -ct))" -d 'the report'
complete -c kvmipa -n '_shtab_kvmipa_using report; and test $_shtab_kvmipa_npos -eq 0' -a compare -d 'what differs between reports'
complete -c kvmipa -n '_shtab_kvmipa_using report compare' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using report compare' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using report compare' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using report compare' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using report compare' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using report compare' -l all -d 'show every claim, not only those that came out differently'
complete -c kvmipa -n '_shtab_kvmipa_using report compare' -l html -xka "(__fish_complete_path (commandline -ct))" -d 'write the whole matrix as an HTML file too'
complete -c kvmipa -n '_shtab_kvmipa_using report compare; and test $_shtab_kvmipa_npos -ge 0' -ka "(__fish_complete_path (commandline -ct))" -d 'reports, or directories of them'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a record -d 'trace the ioctls of a kvmipa program'
complete -c kvmipa -n '_shtab_kvmipa_using record' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using record' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using record' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using record' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using record' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using record' -s o -l output -xka "(__fish_complete_path (commandline -ct))" -d 'the trace (kvmipa-trace.jsonl)'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a replay -d 'run a trace on a kernel and show what it answers differently'
complete -c kvmipa -n '_shtab_kvmipa_using replay' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using replay' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using replay' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using replay' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using replay' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using replay' -l all -d 'show every difference, and not the first 20'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a hosts -d 'the machines that --host knows, and where their numbers are from'
complete -c kvmipa -n '_shtab_kvmipa_using hosts' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using hosts' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using hosts' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using hosts' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using hosts' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a doctor -d 'why is there no usable KVM here, and what to do'
complete -c kvmipa -n '_shtab_kvmipa_using doctor' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using doctor' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using doctor' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using doctor' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using doctor' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using; and test $_shtab_kvmipa_npos -eq 0' -a completion -d 'print the script with which a shell completes kvmipa'
complete -c kvmipa -n '_shtab_kvmipa_using completion' -s h -l help -d 'show this help message and exit'
complete -c kvmipa -n '_shtab_kvmipa_using completion' -l backend -xka "auto native emulated" -d 'the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM'
complete -c kvmipa -n '_shtab_kvmipa_using completion' -l host -xka "(_kvmipa_hosts)" -d 'the machine to emulate; see: kvmipa hosts'
complete -c kvmipa -n '_shtab_kvmipa_using completion' -l device -xka "(__fish_complete_path (commandline -ct))" -d 'the KVM device (/dev/kvm)'
complete -c kvmipa -n '_shtab_kvmipa_using completion' -l json -d 'one JSON object on standard output'
complete -c kvmipa -n '_shtab_kvmipa_using completion; and test $_shtab_kvmipa_npos -eq 0' -ka "bash zsh fish tcsh" -d 'the shell that is to complete'
