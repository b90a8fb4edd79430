// SPDX-License-Identifier: Apache-2.0
//
// A guest that does what it is told, one operation after the other, and reports what came of each. It runs at EL1, is
// position independent within one slot of 64 KiB, uses no stack, and keeps its registers x19 to x28 for itself.
//
// At the start  x0: the first command, x1: behind the last, x2: the page to report to, where no memory is.
// A command is 64 bytes: u32 operation (a number of the table below), u32 flags, u64 x0, x1, x2, x3 for it, 24 unused.
// Flags: bits 2:0, of how many registers, x0 on, the values are reported afterwards; bit 8, it is done at EL0.
//
// Reports are stores of 64 bits to the page, each at an offset that says what it is:
//   0x00, 0x08, 0x10, 0x18   the values of x0 to x3 after the operation
//   0x20                     the command's number: it is over
//   0x28                     an exception was taken; which of the 16 vectors
//   0x30, 0x38, 0x40, 0x48   its ESR_EL1, FAR_EL1, ELR_EL1, SPSR_EL1; the operation is not tried again
// Behind the last command it calls PSCI SYSTEM_OFF.
//
// kvmipa/payload/program.py has the same numbers; tests/payload compares the two, and this with conformance.bin:
//   aarch64-linux-gnu-as -march=armv8-a -o conformance.o conformance.S
//   aarch64-linux-gnu-ld -e 0 -Ttext 0 -o conformance.elf conformance.o
//   aarch64-linux-gnu-objcopy -O binary conformance.elf conformance.bin

        .equ    END, 0x20
        .equ    EXCEPTION, 0x28
        .equ    COMMAND_SIZE, 64
        .equ    AT_EL0, 8               // bit of the flags
        .equ    EL1, 0x3c5              // PSTATE: EL1 with its own stack pointer, interrupts masked
        .equ    EL0, 0x3c0
        .equ    TABLE, 0x8000           // from the start: stage 1's table, of both halves of the VA space
        .equ    SYSTEM_OFF, 0x84000008
        // 4K pages and 39 bits in both halves, so that the table has blocks of 1 GiB; cacheable, inner shareable.
        .equ    TCR, 25 | 0x3500 | 25 << 16 | 0x3500 << 16 | 2 << 30
        .equ    BLOCK, 0x701            // normal memory, inner shareable, accessed, for EL1

        .text
start:  mov     x21, x0
        mov     x22, x1
        mov     x19, x2
        mov     x26, #0
        adr     x28, vectors
        msr     vbar_el1, x28
        mov     x28, #3 << 20           // CPACR_EL1.FPEN: floating point does not trap
        msr     cpacr_el1, x28
        isb

next:   cmp     x21, x22
        b.hs    finish
        ldp     w24, w25, [x21]
        ldp     x0, x1, [x21, #8]
        ldp     x2, x3, [x21, #24]
        add     x21, x21, #COMMAND_SIZE
        adr     x27, operations
        add     x24, x27, x24, lsl #4
        adr     x23, resume
        tbnz    w25, #AT_EL0, 1f
        mov     x30, x23
        ret     x24                     // rather than br: PSTATE.BTYPE stays 0, on every CPU
1:      adr     x30, supervise
        msr     elr_el1, x24
        mov     x27, #EL0
        msr     spsr_el1, x27
        eret
supervise:
        svc     #0                      // back from EL0: through the vectors, to resume

resume: ands    w27, w25, #7
        b.eq    1f
        str     x0, [x19]
        cmp     w27, #2
        b.lo    1f
        str     x1, [x19, #8]
        b.eq    1f
        str     x2, [x19, #16]
        cmp     w27, #4
        b.lo    1f
        str     x3, [x19, #24]
1:      str     x26, [x19, #END]
        add     x26, x26, #1
        b       next

finish: ldr     x0, =SYSTEM_OFF
        hvc     #0
        b       .

exception:
        str     x28, [x19, #EXCEPTION]
        mrs     x28, esr_el1
        str     x28, [x19, #EXCEPTION + 8]
        mrs     x28, far_el1
        str     x28, [x19, #EXCEPTION + 16]
        mrs     x28, elr_el1
        str     x28, [x19, #EXCEPTION + 24]
        mrs     x28, spsr_el1
        str     x28, [x19, #EXCEPTION + 32]
        msr     elr_el1, x23
        mov     x28, #EL1
        msr     spsr_el1, x28
        eret
        .ltorg

        .balign 0x800
vectors:
        .set    number, 0
        .rept   16
        .balign 0x80
        mov     x28, #number
        b       exception
        .set    number, number + 1
        .endr

// The operations, 16 bytes each. x1: the address, x2 (and x3): what is stored, x0: what is loaded or comes back.

        .macro  op name:req, code:vararg
        .balign 16
        \code
        ret
        .endm

        .balign 0x800
operations:
        op      ldrb            ldrb w0, [x1]
        op      ldrh            ldrh w0, [x1]
        op      ldr_w           ldr w0, [x1]
        op      ldr             ldr x0, [x1]
        op      ldrsb_w         ldrsb w0, [x1]
        op      ldrsb           ldrsb x0, [x1]
        op      ldrsh_w         ldrsh w0, [x1]
        op      ldrsh           ldrsh x0, [x1]
        op      ldrsw           ldrsw x0, [x1]
        op      ldur            ldur x0, [x1, #-8]
        op      ldr_register    ldr x0, [x1, x2, lsl #3]
        op      ldr_xzr         ldr xzr, [x1]
        op      ldar            ldar x0, [x1]
        op      ldtr            ldtr x0, [x1]
        op      strb            strb w2, [x1]
        op      strh            strh w2, [x1]
        op      str_w           str w2, [x1]
        op      str             str x2, [x1]
        op      str_xzr         str xzr, [x1]
        op      stlr            stlr x2, [x1]
        op      sttr            sttr x2, [x1]
        op      ldp             ldp x0, x2, [x1]
        op      stp             stp x2, x3, [x1]
        op      ldr_post        ldr x0, [x1], #8
        op      ldr_pre         ldr x0, [x1, #8]!
        op      str_post        str x2, [x1], #8
        op      str_pre         str x2, [x1, #-8]!
        op      ldr_d           ldr d0, [x1]
        op      str_d           str d0, [x1]
        op      ldr_q           ldr q0, [x1]
        op      ldxr            ldxr x0, [x1]
        op      prfm            prfm pldl1keep, [x1]
        op      dc_civac        dc civac, x1
        op      dc_cvau         dc cvau, x1
        op      ic_ivau         ic ivau, x1
        op      dc_zva          dc zva, x1
        op      fetch           ret x1
        op      hvc             hvc #0
        op      hvc_1           hvc #1
        op      smc             smc #0
        op      smc_1           smc #1
        op      svc             svc #9
        op      brk             brk #7
        op      undefined       udf #0
        op      current_el      mrs x0, currentel
        op      mpidr           mrs x0, mpidr_el1
        op      mmfr0           mrs x0, id_aa64mmfr0_el1
        op      sctlr           mrs x0, sctlr_el1
        op      pmcr            mrs x0, pmcr_el0
        op      read_d          fmov x0, d0
        op      stage1_on       b stage1_on
        op      stage1_off      b stage1_off
        op      map             b map
        op      move            b move

// Stage 1 on, the first 4 GiB at their own addresses in both halves; x0: TCR_EL1, or -1 where the CPU has no 4K pages.
        .balign 16
stage1_on:
        mrs     x6, id_aa64mmfr0_el1
        ubfx    x7, x6, #28, #4         // TGran4
        cmp     x7, #15
        b.ne    1f
        mov     x0, #-1
        ret
1:      and     x6, x6, #15             // PARange; with these tables an address has at most 48 bits
        mov     x7, #5
        cmp     x6, x7
        csel    x6, x6, x7, lo
        ldr     x0, =TCR
        orr     x0, x0, x6, lsl #32
        adr     x5, start
        add     x5, x5, #TABLE
        mov     x8, x5
        add     x9, x5, #0x1000
2:      stp     xzr, xzr, [x8], #16
        cmp     x8, x9
        b.lo    2b
        mov     x8, #BLOCK
        mov     x7, #1 << 30
        str     x8, [x5]
        add     x8, x8, x7
        str     x8, [x5, #8]
        add     x8, x8, x7
        str     x8, [x5, #16]
        add     x8, x8, x7
        str     x8, [x5, #24]
        dsb     sy
        mov     x8, x5                  // what the caches have of it is older: the stores went past them
3:      dc      civac, x8
        add     x8, x8, #16
        cmp     x8, x9
        b.lo    3b
        dsb     sy
        mov     x8, #0xff
        msr     mair_el1, x8
        msr     tcr_el1, x0
        msr     ttbr0_el1, x5
        msr     ttbr1_el1, x5
        isb
        tlbi    vmalle1
        dsb     sy
        isb
        mrs     x8, sctlr_el1
        mov     x7, #0x1005             // M, C, I
        orr     x8, x8, x7
        msr     sctlr_el1, x8
        isb
        ret

stage1_off:
        mrs     x8, sctlr_el1
        mov     x7, #0x1005
        bic     x8, x8, x7
        msr     sctlr_el1, x8
        isb
        tlbi    vmalle1
        dsb     sy
        isb
        ret

// Stage 1's entry number x1 is x2.
map:    adr     x5, start
        add     x5, x5, #TABLE
        str     x2, [x5, x1, lsl #3]
        dsb     sy
        tlbi    vmalle1
        dsb     sy
        isb
        ret

// Everything goes on at addresses that are larger by x1.
move:   add     x19, x19, x1
        add     x21, x21, x1
        add     x22, x22, x1
        add     x30, x30, x1
        mrs     x8, vbar_el1
        add     x8, x8, x1
        msr     vbar_el1, x8
        isb
        ret
        .ltorg
