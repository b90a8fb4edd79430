# SPDX-License-Identifier: Apache-2.0
# Made by python -m ci.docs; what was typed here is lost with the next run.
# The functions are shtab's (https://github.com/tqdm/shtab, Apache-2.0).

_shtab_kvmipa_type_subparsers=(encode decode explain)
_shtab_kvmipa_report_subparsers=(show compare)
_shtab_kvmipa_subparsers=(probe create stage2 sweep type plan conform report record replay hosts doctor completion)

_shtab_kvmipa_probe_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_create_option_strings=(-h --help --backend --host --device --json --ipa-bits --protected)
_shtab_kvmipa_stage2_option_strings=(-h --help --backend --host --device --json --ipa-bits --svg)
_shtab_kvmipa_sweep_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_type_encode_option_strings=(-h --help --backend --host --device --json --protected)
_shtab_kvmipa_type_decode_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_type_explain_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_type_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_plan_option_strings=(-h --help --backend --host --json --ram --ram-base --device --map --limit --page-size --strategy)
_shtab_kvmipa_conform_option_strings=(-h --help --backend --host --device --json --claim --kind --no-guest --list --report --ktap --junit --html --kcidb --kcidb-origin --kcidb-build --traces --jobs -j)
_shtab_kvmipa_report_show_option_strings=(-h --help --backend --host --device --json --text --ktap --junit --kcidb --html --kcidb-origin --kcidb-build --output -o)
_shtab_kvmipa_report_compare_option_strings=(-h --help --backend --host --device --json --all --html)
_shtab_kvmipa_report_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_record_option_strings=(-h --help --backend --host --device --json -o --output)
_shtab_kvmipa_replay_option_strings=(-h --help --backend --host --device --json --all)
_shtab_kvmipa_hosts_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_doctor_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_completion_option_strings=(-h --help --backend --host --device --json)
_shtab_kvmipa_option_strings=(-h --help --backend --host --device --json --version)

_shtab_kvmipa_probe___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_probe___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_create___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_create___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_stage2___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_stage2___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_stage2___svg_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_sweep___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_sweep___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_type_encode___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_type_encode___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_type_decode___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_type_decode___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_type_explain___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_type_explain___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_type___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_type___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_plan___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_plan___map_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_conform___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_conform___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_conform___claim_COMPGEN=_kvmipa_claims
_shtab_kvmipa_conform___report_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_conform___ktap_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_conform___junit_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_conform___html_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_conform___kcidb_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_conform___traces_COMPGEN=_shtab_compgen_dirs
_shtab_kvmipa_report_show_pos_0_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_report_show___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_report_show___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_report_show___output_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_report_show__o_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_report_compare_pos_0_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_report_compare___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_report_compare___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_report_compare___html_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_report___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_report___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_record___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_record___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_record__o_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_record___output_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_replay___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_replay___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_hosts___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_hosts___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_doctor___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_doctor___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa_completion___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa_completion___device_COMPGEN=_shtab_compgen_files
_shtab_kvmipa___host_COMPGEN=_kvmipa_hosts
_shtab_kvmipa___device_COMPGEN=_shtab_compgen_files

_shtab_kvmipa_probe___backend_choices=(auto native emulated)
_shtab_kvmipa_create___backend_choices=(auto native emulated)
_shtab_kvmipa_stage2___backend_choices=(auto native emulated)
_shtab_kvmipa_sweep___backend_choices=(auto native emulated)
_shtab_kvmipa_type_encode___backend_choices=(auto native emulated)
_shtab_kvmipa_type_decode___backend_choices=(auto native emulated)
_shtab_kvmipa_type_explain___backend_choices=(auto native emulated)
_shtab_kvmipa_type_pos_0_choices=(encode decode explain)
_shtab_kvmipa_type___backend_choices=(auto native emulated)
_shtab_kvmipa_plan___backend_choices=(auto native emulated)
_shtab_kvmipa_plan___strategy_choices=(minimum qemu-virt qemu-virt-highmem-off kvmtool host-maximum crosvm cloud-hypervisor firecracker default all)
_shtab_kvmipa_conform___backend_choices=(auto native emulated)
_shtab_kvmipa_conform___kind_choices=(contract implementation all)
_shtab_kvmipa_report_show___backend_choices=(auto native emulated)
_shtab_kvmipa_report_compare___backend_choices=(auto native emulated)
_shtab_kvmipa_report_pos_0_choices=(show compare)
_shtab_kvmipa_report___backend_choices=(auto native emulated)
_shtab_kvmipa_record___backend_choices=(auto native emulated)
_shtab_kvmipa_replay___backend_choices=(auto native emulated)
_shtab_kvmipa_hosts___backend_choices=(auto native emulated)
_shtab_kvmipa_doctor___backend_choices=(auto native emulated)
_shtab_kvmipa_completion_pos_0_choices=(bash zsh fish tcsh)
_shtab_kvmipa_completion___backend_choices=(auto native emulated)
_shtab_kvmipa_pos_0_choices=(probe create stage2 sweep type plan conform report record replay hosts doctor completion)
_shtab_kvmipa___backend_choices=(auto native emulated)

_shtab_kvmipa_probe__h_nargs=0
_shtab_kvmipa_probe___help_nargs=0
_shtab_kvmipa_probe___json_nargs=0
_shtab_kvmipa_create__h_nargs=0
_shtab_kvmipa_create___help_nargs=0
_shtab_kvmipa_create___json_nargs=0
_shtab_kvmipa_create___protected_nargs=0
_shtab_kvmipa_stage2__h_nargs=0
_shtab_kvmipa_stage2___help_nargs=0
_shtab_kvmipa_stage2___json_nargs=0
_shtab_kvmipa_sweep__h_nargs=0
_shtab_kvmipa_sweep___help_nargs=0
_shtab_kvmipa_sweep___json_nargs=0
_shtab_kvmipa_type_encode__h_nargs=0
_shtab_kvmipa_type_encode___help_nargs=0
_shtab_kvmipa_type_encode___json_nargs=0
_shtab_kvmipa_type_encode___protected_nargs=0
_shtab_kvmipa_type_decode__h_nargs=0
_shtab_kvmipa_type_decode___help_nargs=0
_shtab_kvmipa_type_decode___json_nargs=0
_shtab_kvmipa_type_explain__h_nargs=0
_shtab_kvmipa_type_explain___help_nargs=0
_shtab_kvmipa_type_explain___json_nargs=0
_shtab_kvmipa_type_pos_0_nargs=A...
_shtab_kvmipa_type__h_nargs=0
_shtab_kvmipa_type___help_nargs=0
_shtab_kvmipa_type___json_nargs=0
_shtab_kvmipa_plan__h_nargs=0
_shtab_kvmipa_plan___help_nargs=0
_shtab_kvmipa_plan___json_nargs=0
_shtab_kvmipa_conform__h_nargs=0
_shtab_kvmipa_conform___help_nargs=0
_shtab_kvmipa_conform___json_nargs=0
_shtab_kvmipa_conform___claim_nargs=+
_shtab_kvmipa_conform___no_guest_nargs=0
_shtab_kvmipa_conform___list_nargs=0
_shtab_kvmipa_conform___ktap_nargs='?'
_shtab_kvmipa_conform___junit_nargs='?'
_shtab_kvmipa_conform___html_nargs='?'
_shtab_kvmipa_conform___kcidb_nargs='?'
_shtab_kvmipa_report_show__h_nargs=0
_shtab_kvmipa_report_show___help_nargs=0
_shtab_kvmipa_report_show___json_nargs=0
_shtab_kvmipa_report_show___text_nargs=0
_shtab_kvmipa_report_show___ktap_nargs=0
_shtab_kvmipa_report_show___junit_nargs=0
_shtab_kvmipa_report_show___kcidb_nargs=0
_shtab_kvmipa_report_show___html_nargs=0
_shtab_kvmipa_report_compare_pos_0_nargs=+
_shtab_kvmipa_report_compare__h_nargs=0
_shtab_kvmipa_report_compare___help_nargs=0
_shtab_kvmipa_report_compare___json_nargs=0
_shtab_kvmipa_report_compare___all_nargs=0
_shtab_kvmipa_report_pos_0_nargs=A...
_shtab_kvmipa_report__h_nargs=0
_shtab_kvmipa_report___help_nargs=0
_shtab_kvmipa_report___json_nargs=0
_shtab_kvmipa_record_pos_0_nargs=...
_shtab_kvmipa_record__h_nargs=0
_shtab_kvmipa_record___help_nargs=0
_shtab_kvmipa_record___json_nargs=0
_shtab_kvmipa_replay__h_nargs=0
_shtab_kvmipa_replay___help_nargs=0
_shtab_kvmipa_replay___json_nargs=0
_shtab_kvmipa_replay___all_nargs=0
_shtab_kvmipa_hosts__h_nargs=0
_shtab_kvmipa_hosts___help_nargs=0
_shtab_kvmipa_hosts___json_nargs=0
_shtab_kvmipa_doctor__h_nargs=0
_shtab_kvmipa_doctor___help_nargs=0
_shtab_kvmipa_doctor___json_nargs=0
_shtab_kvmipa_completion__h_nargs=0
_shtab_kvmipa_completion___help_nargs=0
_shtab_kvmipa_completion___json_nargs=0
_shtab_kvmipa_pos_0_nargs=A...
_shtab_kvmipa__h_nargs=0
_shtab_kvmipa___help_nargs=0
_shtab_kvmipa___json_nargs=0
_shtab_kvmipa___version_nargs=0


# Custom Preamble
_kvmipa_hosts() {
  compgen -W "qemu-max-5.10-4k qemu-max-nolpa2-5.10-4k qemu-cortex-a35-5.10-4k qemu-cortex-a53-5.10-4k qemu-cortex-a57-5.10-4k qemu-cortex-a72-5.10-4k qemu-cortex-a76-5.10-4k qemu-a64fx-5.10-4k qemu-neoverse-n1-5.10-4k qemu-max-6.1-4k qemu-max-nolpa2-6.1-4k qemu-cortex-a35-6.1-4k qemu-cortex-a53-6.1-4k qemu-cortex-a57-6.1-4k qemu-cortex-a72-6.1-4k qemu-cortex-a76-6.1-4k qemu-a64fx-6.1-4k qemu-neoverse-n1-6.1-4k qemu-max-6.12-4k qemu-max-nolpa2-6.12-4k qemu-cortex-a35-6.12-4k qemu-cortex-a53-6.12-4k qemu-cortex-a57-6.12-4k qemu-cortex-a72-6.12-4k qemu-cortex-a76-6.12-4k qemu-a64fx-6.12-4k qemu-neoverse-n1-6.12-4k qemu-max-6.12-16k qemu-max-nolpa2-6.12-16k qemu-cortex-a35-6.12-16k qemu-cortex-a76-6.12-16k qemu-neoverse-n1-6.12-16k qemu-max-6.12-64k qemu-max-nolpa2-6.12-64k qemu-cortex-a35-6.12-64k qemu-cortex-a53-6.12-64k qemu-cortex-a57-6.12-64k qemu-cortex-a72-6.12-64k qemu-cortex-a76-6.12-64k qemu-a64fx-6.12-64k qemu-neoverse-n1-6.12-64k qemu-max-7.3-4k qemu-max-nolpa2-7.3-4k qemu-cortex-a35-7.3-4k qemu-cortex-a53-7.3-4k qemu-cortex-a57-7.3-4k qemu-cortex-a72-7.3-4k qemu-cortex-a76-7.3-4k qemu-a64fx-7.3-4k qemu-neoverse-n1-7.3-4k qemu-max-7.3-16k qemu-max-nolpa2-7.3-16k qemu-cortex-a35-7.3-16k qemu-cortex-a76-7.3-16k qemu-neoverse-n1-7.3-16k qemu-max-6.1-4k-pkvm qemu-max-6.12-4k-pkvm qemu-cortex-a53-p32-5.10-4k qemu-cortex-a53-p32-6.1-4k qemu-cortex-a53-p32-6.12-4k qemu-cortex-a53-p32-7.3-4k qemu-cortex-a53-p36-5.10-4k qemu-cortex-a53-p36-6.1-4k qemu-cortex-a53-p36-6.12-4k qemu-cortex-a53-p36-7.3-4k qemu-cortex-a53-p42-5.10-4k qemu-cortex-a53-p42-6.1-4k qemu-cortex-a53-p42-6.12-4k qemu-cortex-a53-p42-7.3-4k raspberry-pi-4 raspberry-pi-5 apple-m1 all" -- "$1"
}

_kvmipa_claims() {
  compgen -W "C1 system.api_version C6 system.ipa_limit C16 system.vm_capabilities C17 system.eager_split_chunk_size I1 system.capability_of_vm I2 system.computed_limit I3 system.vcpu_mmap_size I4 system.unknown_requests C2 vm.empty C5 machine_type.valid_sizes C7 machine_type.implicit_size C10 machine_type.reserved_bits C10p machine_type.protected_vm I5 machine_type.errno C3 machine_type.default_size C4 machine_type.size C8 machine_type.parange I6 machine_type.any_size C11 memory.flags C11i memory.slot_ids C11o memory.overlap C11r memory.fixed_properties C11m memory.move C11d memory.delete C12 memory.user_address I7 memory.beyond_space I8 memory.error_order I9 memory.alignment I10 memory.user_space_end I11 memory.largest_slot I12 memory.refused_change I13 memory.checked_deletion V1 vgic_v3.address_space V2 vgic_v3.address_alignment V3 vgic_v3.address_once V4 vgic_v3.region_space V5 vgic_v3.region_arguments V6 vgic_v3.region_reading V7 vgic_v3.mixed_regions V8 vgic_v3.unknown_attribute V9 its.address_space V10 its.address_alignment V11 its.address_once V12 its.unknown_attribute V13 vgic_v2.address_space V14 vgic_v2.address_alignment V15 vgic_v2.address_once V16 vgic_v2.unknown_attribute V17 vgic.bad_pointer V18 vgic.interrupts V19 vgic.devices I14 vgic_v3.late_range_check C8g guest.parange C9 guest.reach C13 guest.readonly_slot C13w guest.readonly_slot_walker C14 guest.dirty_log C15 guest.no_syndrome G1 guest.mmio IG1 guest.out_of_range IG2 guest.fetch_without_memory IG3 guest.slot_without_mapping IG4 guest.mmio_signed_loads C18 guest.huge_mappings" -- "$1"
}
# End Custom Preamble

# $1=COMP_WORDS[1]
_shtab_compgen_files() {
  compgen -f -- $1  # files
}

# $1=COMP_WORDS[1]
_shtab_compgen_dirs() {
  compgen -d -- $1  # recurse into subdirs
}

# $1=COMP_WORDS[1]
_shtab_replace_nonword() {
  echo "${1//[^[:word:]]/_}"
}

# set default values (called for the initial parser & any subparsers)
_set_parser_defaults() {
  local subparsers_var="${prefix}_subparsers[@]"
  sub_parsers=${!subparsers_var-}

  local current_option_strings_var="${prefix}_option_strings[@]"
  current_option_strings=${!current_option_strings_var}

  completed_positional_actions=0

  _set_new_action "pos_$completed_positional_actions" true
}

# $1=action identifier
# $2=positional action (bool)
# set all identifiers for an action's parameters
_set_new_action() {
  current_action="${prefix}_$(_shtab_replace_nonword $1)"

  local current_action_compgen_var=${current_action}_COMPGEN
  current_action_compgen="${!current_action_compgen_var-}"

  local current_action_choices_var="${current_action}_choices[@]"
  current_action_choices="${!current_action_choices_var-}"

  local current_action_nargs_var="${current_action}_nargs"
  if [ -n "${!current_action_nargs_var-}" ]; then
    current_action_nargs="${!current_action_nargs_var}"
  else
    current_action_nargs=1
  fi

  current_action_args_start_index=$(( $word_index + 1 - $pos_only ))

  current_action_is_positional=$2
}

# Notes:
# `COMPREPLY`: what will be rendered after completion is triggered
# `completing_word`: currently typed word to generate completions for
# `${!var}`: evaluates the content of `var` and expand its content as a variable
#     hello="world"
#     x="hello"
#     ${!x} -> ${hello} -> "world"
_shtab_kvmipa() {
  local completing_word="${COMP_WORDS[COMP_CWORD]}"
  local previous_word="${COMP_WORDS[COMP_CWORD-1]}"
  local completed_positional_actions
  local current_action
  local current_action_args_start_index
  local current_action_choices
  local current_action_compgen
  local current_action_is_positional
  local current_action_nargs
  local current_option_strings
  local sub_parsers
  COMPREPLY=()

  local prefix=_shtab_kvmipa
  local word_index=0
  local pos_only=0 # "--" delimiter not encountered yet
  _set_parser_defaults
  word_index=1

  # determine what arguments are appropriate for the current state
  # of the arg parser
  while [ $word_index -ne $COMP_CWORD ]; do
    local this_word="${COMP_WORDS[$word_index]}"

    if [[ $pos_only = 1 || " $this_word " != " -- " ]]; then
      if [[ -n $sub_parsers && " ${sub_parsers[@]} " == *" $this_word "* ]]; then
        # valid subcommand: add it to the prefix & reset the current action
        prefix="${prefix}_$(_shtab_replace_nonword $this_word)"
        _set_parser_defaults
      fi

      if [[ " ${current_option_strings[@]} " == *" $this_word "* ]]; then
        # a new action should be acquired (due to recognised option string or
        # no more input expected from current action);
        # the next positional action can fill in here
        _set_new_action $this_word false
      fi

      if [[ "$current_action_nargs" != "*" ]] && \
         [[ "$current_action_nargs" != "+" ]] && \
         [[ "$current_action_nargs" != "?" ]] && \
         [[ "$current_action_nargs" != *"..." ]] && \
         (( $word_index + 1 - $current_action_args_start_index - $pos_only >= \
            $current_action_nargs )); then
        $current_action_is_positional && let "completed_positional_actions += 1"
        _set_new_action "pos_$completed_positional_actions" true
      fi
    else
      pos_only=1 # "--" delimiter encountered
    fi

    let "word_index+=1"
  done

  # Generate the completions

  COMPREPLY=()
  if [[ $pos_only = 0 && "$completing_word" == -* &&
        ( -z "$current_action_compgen" || "$current_action_is_positional" = true ) ]]; then
    # optional argument started: use option strings
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
      compgen -W "${current_option_strings[*]}" -- "$completing_word")
  elif [[ "$previous_word" =~ ^[0-9\&]*[\<\>]\>?$ ]]; then
    # handle redirection operators
    compopt -o filenames 2>/dev/null || : # bash>=4
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$completing_word")
  else
    # use choices & compgen
    local action_compgen_word="$completing_word"
    # handle tab-completing in the middle of a line (#248 <- #116)
    [[ -n "$current_action_compgen" && "$completing_word" == -* ]] && action_compgen_word=""
    [ -n "$current_action_compgen" ] && {
      [[ "$current_action_compgen" =~ _(file|dir|glob|FILE|DIR|GLOB)|File|Dir|Glob ]] &&
        compopt -o filenames 2>/dev/null || : # bash>=4
      while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
        "$current_action_compgen" "$action_compgen_word")
    }
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
      compgen -W "${current_action_choices[*]}" -- "$completing_word")
  fi

  if [[ ${#COMPREPLY[@]} = 0 ]]; then
    # native fallback matches are not necessarily filenames (e.g. variables)
    compopt +o filenames 2>/dev/null || : # bash>=4
  fi

  return 0
}

complete -F _shtab_kvmipa kvmipa
