# SPDX-License-Identifier: Apache-2.0
"""Vm: the descriptor of one virtual machine."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import (
    KVM_ARM_PREFERRED_TARGET,
    KVM_ARM_SET_DEVICE_ADDR,
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CREATE_DEVICE,
    KVM_CREATE_DEVICE_TEST,
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_VCPU,
    KVM_DEV_TYPE_ARM_VGIC_V2,
    KVM_ENABLE_CAP,
    KVM_RESET_DIRTY_RINGS,
)
from kvmipa.extension import ExtensionHandle
from kvmipa.memory_region import MemoryRegion
from kvmipa.packing import PackedStruct, unsigned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvmipa.access import Result
    from kvmipa.backend import Backend
    from kvmipa.device import Device
    from kvmipa.event_fds import EventFd, IoEventFd, Irqfd
    from kvmipa.gsi_routing import IrqchipRoute, MsiRoute
    from kvmipa.guest_memfd import GuestMemfd
    from kvmipa.interrupt_lines import IrqLine
    from kvmipa.memory import GuestMemory
    from kvmipa.memslot import Memslot
    from kvmipa.registers import Reg
    from kvmipa.slots import SlotTable
    from kvmipa.smccc_filter import SmcccAction
    from kvmipa.stage2 import Stage2
    from kvmipa.stage2.debugfs import ShownStage2
    from kvmipa.stage2.geometry import Geometry
    from kvmipa.statistics import Statistic, StatisticsFile
    from kvmipa.vcpu import Vcpu

_CREATE_DEVICE: Final = PackedStruct("create_device")
_DEVICE_ADDR: Final = PackedStruct("arm_device_addr")
_ENABLE_CAP: Final = PackedStruct("enable_cap")
_VCPU_INIT: Final = PackedStruct("vcpu_init")

# struct kvm_enable_cap: args[4].
_MOST_ARGUMENTS: Final = 4


class Vm(ExtensionHandle):
    """A virtual machine; made by Kvm.create_vm().

    It keeps working when the Kvm that made it is closed, and belongs to the process that created it.

    ipa_bits: the size asked for, in bits (40 for the default). A pKVM host gives every VM its limit instead.
    page_size: the host's, in bytes. dirty_ring_size: of each vCPU's dirty ring, in bytes; 0 where there is none.

    >>> import kvmipa
    >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm:
    ...     vm = kvm.create_vm(36)
    >>> with vm:
    ...     vm.ipa_bits, vm.geometry.levels
    (36, 3)
    """

    kind = "Vm"

    # Until the first slot is set: most programs that try VM sizes set none.
    _slot_table: SlotTable | None = None

    def __init__(
        self, backend: Backend, fd: int, ipa_bits: int, *, given_bits: Callable[[], int], page_size: int
    ) -> None:
        super().__init__(backend, fd)
        self.ipa_bits = ipa_bits
        self._given_bits = given_bits
        self.page_size = page_size
        self._enabled: set[int] = set()
        # What its vCPUs need to know of it when it is closed.
        self.dirty_ring_size = 0
        self._vcpu_ids: set[int] = set()
        # For the vCPUs, which are initialised after the Vm is closed as well.
        self._target: int | None = None

    @property
    def geometry(self) -> Geometry:
        """The shape of the VM's stage-2 tables on this host: levels, start level, concatenation.

        On a pKVM host that ignores the size it is the shape of the host's limit, which the VM was given and which KVM
        checks memory against; whether the host does that is asked when it is first wanted (Kvm.ignores_size).
        """
        from kvmipa.stage2.geometry import Geometry

        return Geometry(self.page_size, self._given_bits())

    @property
    def stage2(self) -> Stage2 | ShownStage2:
        """The VM's stage 2 as the kernel has it: its shape, its mappings, dump() in the kernel's own format.

        The emulated kernel shows all of it. A real one shows root its shape and mappings where it was built with
        CONFIG_PTDUMP_STAGE2_DEBUGFS, and else nothing: NotSupportedError. Raises ClosedError; OtherProcessError where
        the emulated VM is another process's.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm:
        ...     hex(vm.stage2.vtcr_el2.value)
        '0x1802e3558'
        """
        try:
            return self._backend.stage2(self.fileno())
        except OSError as error:
            raise self._named(error, "Vm.stage2") from None

    def access(
        self,
        ipa: int,
        kind: str = "load",
        size: int = 8,
        valid_syndrome: bool = True,
        *,
        va: int | None = None,
        from_el: int = 1,
        stage1_level: int | None = 3,
    ) -> Result:
        """What comes of a guest's access to an IPA, as this host and release have it: no vCPU is needed.

        kind: "load", "store", "fetch", "walk" or "fetch-walk" (the CPU reads a stage-1 table there, for data or for an
        instruction) or "cache" (maintenance by address); size: bytes; valid_syndrome: whether the CPU describes the
        instruction, as it does for loads and stores of one register; va, from_el, stage1_level: see
        kvmipa.access.Access.

        The result is one of kvmipa.access: Mapped, MmioExit, NisvExit, Aborted, RunFailed, Skipped, Retried. What a
        real access would change is changed: mappings, the dirty log. What the process unmaps is EFAULT from the next
        access on; mprotect(), MADV_DONTNEED, and another mapping put at the same place, are not noticed.

        Raises NotSupportedError on the native backend, ValueError for what no guest does, TypeError for what is no
        int; ClosedError, OtherProcessError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm:
        ...     vm.access(0x1234, "store", 4)
        ...     hex(vm.access(1 << 40).esr_el1)
        MmioExit(phys_addr=4660, size=4, is_write=True)
        '0x96000010'
        """
        from kvmipa.access import Access

        what = Access(ipa, kind, size, valid_syndrome, va, from_el, stage1_level)
        what.check()
        try:
            return self._backend.access(self.fileno(), what)
        except OSError as error:
            raise self._named(error, "Vm.access()") from None

    def set_user_memory_region(
        self, slot: int, guest_phys_addr: int, memory_size: int, userspace_addr: int, flags: int = 0
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION, with its fields as they are: set, move or (size 0) delete a slot.

        Addresses and the size in bytes; flags: KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY of kvmipa.abi. The memory at
        the user address is the caller's to keep mapped; add_memory() sees to that itself.

        Raises a MemorySlotError whose class is the cause: SlotBeyondIpaSpaceError, SlotOverlapError,
        MisalignedSlotError, SlotIdError, SlotFlagsError, SlotAddressError, SlotSizeError, SlotResizeError,
        NoSuchSlotError, SlotMappingError, ProtectedSlotError; OverflowError and TypeError for what does not fit the
        struct; ClosedError, OtherProcessError. What is refused changes nothing.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(36) as vm:
        ...     vm.set_user_memory_region(0, (1 << 36) - 0x1000, 0x1000, 0x10000)
        ...     try:
        ...         vm.set_user_memory_region(1, 1 << 36, 0x1000, 0x20000)
        ...     except kvmipa.KvmError as error:
        ...         type(error).__name__, error.cause
        ('SlotBeyondIpaSpaceError', "the slot ends 0x1000 bytes beyond the VM's IPA space of 2^36 bytes")
        """
        table = self._slot_table or self._slots()
        table.set_region(MemoryRegion(slot, guest_phys_addr, memory_size, userspace_addr, flags))

    def set_user_memory_region2(
        self,
        slot: int,
        guest_phys_addr: int,
        memory_size: int,
        userspace_addr: int,
        flags: int = 0,
        *,
        guest_memfd: int = 0,
        guest_memfd_offset: int = 0,
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION2 (Linux 6.8): as set_user_memory_region(), and memory may be of a guest_memfd.

        guest_memfd: its descriptor, guest_memfd_offset: bytes, both with KVM_MEM_GUEST_MEMFD in flags (arm64 since
        7.x); the slot has its memory as long as that is open. Raises GuestMemfdError too, and NotSupportedError where
        the kernel has no such request.
        """
        region = MemoryRegion(
            slot, guest_phys_addr, memory_size, userspace_addr, flags, guest_memfd, guest_memfd_offset
        )
        self._slots().set_region2(region)

    def add_memory(
        self,
        guest_phys_addr: int,
        memory: GuestMemory,
        *,
        slot: int | None = None,
        readonly: bool = False,
        log_dirty: bool = False,
        offset: int = 0,
        size: int | None = None,
    ) -> Memslot:
        """Give the VM memory at a guest address: a new slot, whose GuestMemory stays mapped as long as the slot is.

        slot: its number, None for the lowest that is free. readonly: the guest's stores exit as MMIO. log_dirty: KVM
        notes which pages are written. offset, size: a piece of the memory, in bytes. Raises what
        set_user_memory_region() raises; ClosedError for memory that is closed.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
        ...     vm.add_memory(0x4000_0000, kvmipa.GuestMemory(2 << 20), log_dirty=True)
        <kvmipa.Memslot 0: 0x40000000..0x401fffff log_dirty>
        """
        from kvmipa.slots import region_flags

        flags = region_flags(readonly=readonly, log_dirty=log_dirty)
        return self._slots().add(guest_phys_addr, memory, slot=slot, flags=flags, offset=offset, size=size)

    @property
    def memslots(self) -> dict[int, Memslot]:
        """The VM's slots by number, in the order of their guest addresses: as they are now, in a new dict."""
        return self._slot_table.known() if self._slot_table is not None else {}

    def create_guest_memfd(self, size: int, flags: int = 0) -> GuestMemfd:
        """KVM_CREATE_GUEST_MEMFD: memory as a file of this VM's, of ``size`` bytes (arm64 since 7.x).

        flags: 1 so that it can be mapped, which arm64 wants of a slot's memory, and 2 so that it is shared from the
        start; both are needed to use it. Raises GuestMemfdError, and NotSupportedError where the kernel has none.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host=kvmipa.HostProfile("7.3")) as kvm, kvm.create_vm(40) as vm:
        ...     with vm.create_guest_memfd(1 << 20, flags=3) as memfd:
        ...         vm.set_user_memory_region2(0, 0, 1 << 20, 0, 4, guest_memfd=memfd.fileno())
        """
        from kvmipa.guest_memfd import create

        return create(self._slots(), size, flags)

    def _slots(self) -> SlotTable:
        """The slots, and what keeps their memory mapped."""
        if self._slot_table is not None:
            return self._slot_table
        from kvmipa.slots import SlotTable

        table = SlotTable(self._backend, self._fd, page_size=self.page_size, ipa_bits=self._given_bits)
        # Threads that come here at once get the same one.
        found: SlotTable = vars(self).setdefault("_slot_table", table)
        if self.closed:
            # By another thread, which may not have seen the table.
            found.disconnect()
        return found

    @property
    def died_of(self) -> str | None:
        """As of any handle; all of a VM's have it from here."""
        return None if self._slot_table is None else self._slot_table.died_of

    def note_death(self, cause: str) -> None:
        """The VM is dead, for this cause: whatever is asked of it or of what belongs to it is refused (EIO)."""
        self._slots().died_of = cause

    def close(self) -> None:
        """Close the descriptor; closing twice does nothing.

        The memory of its slots is no longer used once its vCPUs, devices and guest_memfds are closed as well: they keep
        the VM in the kernel. Until then memslots lists what it still has.
        """
        super().close()

    def _before_close(self) -> None:
        if self._slot_table is not None:
            self._slot_table.disconnect()

    def _after_close(self) -> None:
        super()._after_close()
        if self._slot_table is not None:
            self._slot_table.release()

    def enable_cap(self, cap: int, *args: int, flags: int = 0) -> None:
        """Enable a capability of this VM: KVM_ENABLE_CAP.

        args: up to four, 64 bits each; what they mean is the capability's (sizes in bytes). flags: 32 bits; no
        capability has one.

        Raises an EnableCapError whose class is the cause: CapabilityNotEnableableError,
        InvalidCapabilityArgumentError, TooLateToEnableError, AlreadyEnabledError, NeedsOtherCapabilityError; TypeError
        for more arguments or what is not an int; OverflowError for what does not fit; ClosedError, OtherProcessError.
        Source: kernel-device-spec 4.7.

        >>> import kvmipa
        >>> from kvmipa.abi import KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm:
        ...     vm.enable_cap(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, 2 << 20)
        ...     vm.check_extension(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE)
        2097152
        """
        if len(args) > _MOST_ARGUMENTS:
            raise TypeError(f"KVM_ENABLE_CAP has {_MOST_ARGUMENTS} arguments, not {len(args)}")
        result = self._backend.ioctl_buffer(self._fd, KVM_ENABLE_CAP, _ENABLE_CAP.pack(cap, flags, *args))
        if result < 0:
            from kvmipa.causes.enabling import EnableAttempt

            attempt = EnableAttempt(cap, args, flags, self.page_size, self._enabled)
            raise self.refused(attempt.error(-result, self.check_extension))
        self._enabled.add(cap)
        if cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
            # The kernel takes an unsigned int.
            self.dirty_ring_size = args[0] & 0xFFFF_FFFF

    def create_device(self, kind: int | str, flags: int = 0) -> Device:
        """A device of this VM: KVM_CREATE_DEVICE.

        kind: a kvmipa.device.DeviceType, its name ("vgic-v3", "vgic-v2", "vgic-its", "vfio"), or a number. The handle
        is a Vgic or an Its where it is one. flags: KVM ignores all but KVM_CREATE_DEVICE_TEST, for which there is
        has_device_type(): ValueError.

        Raises DeviceTypeUnsupportedError, VgicExistsError, DeviceExistsError, TooManyVcpusError, VcpuHasRunError,
        DescriptorLimitError; ValueError for an unknown name; TypeError, OverflowError for what does not fit the struct
        (32 bits each); ClosedError, OtherProcessError. Source: kernel-device-spec 1.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
        ...     vm.has_device_type("vgic-v3"), vm.has_device_type("vgic-v2")
        ...     with vm.create_device("vgic-v3") as vgic:
        ...         vgic.set_distributor(0x800_0000)
        (True, False)
        """
        if unsigned("flags", flags, 32) & KVM_CREATE_DEVICE_TEST:
            raise ValueError("KVM_CREATE_DEVICE_TEST creates nothing: has_device_type() asks with it")
        from kvmipa.causes.device_addresses import DeviceFacts
        from kvmipa.device import opened, type_of

        number = type_of(kind)
        fd = self._ask_for_device(number, flags)
        device = opened(self._backend, fd, number, DeviceFacts(self._given_bits, self._vcpu_ids))
        device.keep(self._slots())
        return device

    def has_device_type(self, kind: int | str) -> bool:
        """Whether there are devices of a type here: KVM_CREATE_DEVICE with KVM_CREATE_DEVICE_TEST.

        It does not say whether this VM can have another one. Raises ValueError, TypeError and OverflowError as
        create_device(); ClosedError, OtherProcessError.
        """
        from kvmipa.device import type_of
        from kvmipa.errors import DeviceTypeUnsupportedError

        try:
            self._ask_for_device(type_of(kind), KVM_CREATE_DEVICE_TEST)
        except DeviceTypeUnsupportedError:
            return False
        return True

    def _ask_for_device(self, number: int, flags: int) -> int:
        """KVM_CREATE_DEVICE: what it writes to fd."""
        asked = _CREATE_DEVICE.pack(number, 0, flags)
        result = self._backend.ioctl_buffer(self._fd, KVM_CREATE_DEVICE, asked)
        if result < 0:
            from kvmipa.causes.devices import create_device_error
            from kvmipa.device import DeviceType

            label = number.label if isinstance(number, DeviceType) else f"of type {number}"
            vcpus = len(self._vcpu_ids)
            raise self.refused(create_device_error(-result, "KVM_CREATE_DEVICE", number, label, vcpus))
        fd: int = _CREATE_DEVICE.unpack(asked)[1]
        return fd

    def create_irqchip(self) -> None:
        """A vGICv2 without a descriptor: KVM_CREATE_IRQCHIP, the way of before KVM_CREATE_DEVICE.

        Raises as create_device(). Its addresses are set with set_device_addr().
        """
        result = self._ioctl(self._fd, KVM_CREATE_IRQCHIP, 0)
        if result < 0:
            from kvmipa.causes.devices import create_device_error

            ioctl, vcpus = "KVM_CREATE_IRQCHIP", len(self._vcpu_ids)
            raise self.refused(create_device_error(-result, ioctl, KVM_DEV_TYPE_ARM_VGIC_V2, "vgic-v2", vcpus))

    def set_device_addr(self, identity: int, address: int) -> None:
        """KVM_ARM_SET_DEVICE_ADDR: an address of a vGICv2, distributor (0) or CPU interface (1), by its old request.

        Before 6.1 a vGICv3's too. Raises NoSuchAttributeError, DeviceBeyondIpaSpaceError,
        MisalignedDeviceAddressError, AddressAlreadySetError; TypeError, OverflowError for what does not fit 64 bits;
        ClosedError, OtherProcessError.
        """
        asked = _DEVICE_ADDR.pack(identity, address)
        result = self._backend.ioctl_buffer(self._fd, KVM_ARM_SET_DEVICE_ADDR, asked)
        if result < 0:
            from kvmipa.causes.device_addresses import device_addr_error

            raise self.refused(device_addr_error(-result, identity, address, self._given_bits))

    def create_vcpu(self, vcpu_id: int = 0) -> Vcpu:
        """A virtual CPU: KVM_CREATE_VCPU.

        Raises VcpuIdError, VcpuExistsError, TooManyVcpusError, VgicInitialisedError, DeviceOverlapError (its
        redistributor has no place), DescriptorLimitError; TypeError, OverflowError for an id of more than 32 bits, of
        which kernels before 6.12 would drop the upper ones; ClosedError, OtherProcessError. Source: kernel-device-spec
        4.1.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     vcpu.init()
        """
        from kvmipa.vcpu import Vcpu

        vcpu_id = unsigned("vcpu_id", vcpu_id, 32)
        fd = self._ioctl(self._fd, KVM_CREATE_VCPU, vcpu_id)
        if fd < 0:
            from kvmipa.causes.vcpus import create_vcpu_error

            raise self.refused(create_vcpu_error(-fd, vcpu_id, self._vcpu_ids, self.check_extension))
        self._vcpu_ids.add(vcpu_id)
        if self._target is None:
            answer = self._ask_target()
            self._target = answer if answer >= 0 else None
        vcpu = Vcpu(self._backend, fd, self, vcpu_id, self._target)
        # The kernel keeps a VM, and so its slots, as long as a descriptor of it or of what belongs to it is open.
        vcpu.keep(self._slots())
        return vcpu

    def irq_line(self, line: IrqLine, level: bool) -> None:
        """Raise (True) or lower an interrupt line: KVM_IRQ_LINE.

        line: IrqLine.spi(40), IrqLine.ppi(20, vcpu=1); IrqLine.cpu_irq() for VMs without a vGIC. An interrupt that is
        triggered by its edge becomes pending where its line rises; one that is triggered by its level is, as long as
        it is high.

        Raises InterruptNumberError, also before KVM is asked; NoVgicError, VgicNotInitialisedError, NoSuchVcpuError;
        VgicOwnsLinesError for a CPU's own line; TypeError, OverflowError for what does not fit the struct; ClosedError,
        OtherProcessError. Source: kernel-device-spec 4.8.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     vm.irq_line(kvmipa.IrqLine.cpu_irq(), True)
        ...     try:
        ...         vm.irq_line(kvmipa.IrqLine.spi(40), True)
        ...     except kvmipa.KvmError as error:
        ...         print(error)
        the VM has no vGIC (KVM_IRQ_LINE(): ENXIO)
          asked:     SPI 40
          available: VMs with one
          fix:       create one first: Vm.create_device("vgic-v3")
        """
        from kvmipa.interrupt_lines import set_line

        set_line(self._ask, line, level, self._vcpu_ids)

    def add_irqfd(self, eventfd: EventFd, gsi: int, *, resamplefd: EventFd | None = None) -> Irqfd:
        """Have an eventfd's signals be an interrupt, without a request for each: KVM_IRQFD.

        eventfd: its number, or what has a fileno(). gsi: which interrupt, by the VM's routes; at first GSI n is SPI
        32 + n. resamplefd: an eventfd that KVM signals when the guest has acknowledged a level-triggered interrupt.

        Raises NotAnEventFdError, EventFdInUseError, NoVgicError, VgicNotInitialisedError; TypeError, OverflowError for
        what does not fit the struct; ClosedError, OtherProcessError. The vGIC has to be initialised before.
        """
        from kvmipa.event_fds import assign_irqfd

        return assign_irqfd(self._ask, self, eventfd, gsi, resamplefd)

    def remove_irqfd(self, eventfd: EventFd, gsi: int) -> None:
        """Take an irqfd away: KVM_IRQFD with KVM_IRQFD_FLAG_DEASSIGN. Where there is none, nothing happens.

        Raises NotAnEventFdError; TypeError, OverflowError; ClosedError, OtherProcessError.
        """
        from kvmipa.event_fds import deassign_irqfd

        deassign_irqfd(self._ask, self, eventfd, gsi)

    def add_ioeventfd(
        self, eventfd: EventFd, guest_phys_addr: int, size: int, *, datamatch: int | None = None
    ) -> IoEventFd:
        """Have a guest's writes signal an eventfd, without an exit: KVM_IOEVENTFD.

        eventfd: its number, or what has a fileno(). guest_phys_addr: where the VM has no memory. size: 1, 2, 4 or 8
        bytes, 0 for any. datamatch: the value that is written, None for any.

        Raises NotAnEventFdError, IoEventFdRangeError, IoEventFdExistsError, IoBusFullError; TypeError, OverflowError
        for what does not fit the struct, or a value that does not fit the size; ClosedError, OtherProcessError.
        """
        from kvmipa.event_fds import GuestWrite, assign_ioeventfd

        return assign_ioeventfd(self._ask, self, eventfd, GuestWrite(guest_phys_addr, size, datamatch))

    def remove_ioeventfd(
        self, eventfd: EventFd, guest_phys_addr: int, size: int, *, datamatch: int | None = None
    ) -> None:
        """Take an ioeventfd away, named as it was made: KVM_IOEVENTFD with KVM_IOEVENTFD_FLAG_DEASSIGN.

        Raises NoSuchIoEventFdError, NotAnEventFdError; TypeError, OverflowError; ClosedError, OtherProcessError.
        """
        from kvmipa.event_fds import GuestWrite, deassign_ioeventfd

        deassign_ioeventfd(self._ask, self, eventfd, GuestWrite(guest_phys_addr, size, datamatch))

    def set_gsi_routing(self, routes: Iterable[IrqchipRoute | MsiRoute]) -> None:
        """Where irqfds' GSIs lead: these routes in place of all that there were (KVM_SET_GSI_ROUTING).

        Until then, and again when the vGIC is initialised, GSI n leads to its pin n, SPI 32 + n.

        Raises GsiRouteError; TypeError, OverflowError for what does not fit the struct; ClosedError, OtherProcessError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
        ...     vm.set_gsi_routing([kvmipa.IrqchipRoute(gsi=0, pin=8), kvmipa.MsiRoute(1, 0x808_0040, 7, device_id=3)])
        """
        from kvmipa.gsi_routing import set_routes

        set_routes(self._ask, routes)

    def signal_msi(self, address: int, data: int, device_id: int | None = None) -> bool:
        """Send a message that is an interrupt, as a device would: KVM_SIGNAL_MSI. False: the guest does not take it.

        address: GITS_TRANSLATER of an ITS, 0x10040 above its address. data: 32 bits, the event. device_id: 32 bits, who
        sends it.

        Raises NoVgicError, NoItsError, MsiDeviceIdError, ItsOffError; TypeError, OverflowError; ClosedError,
        OtherProcessError.
        """
        from kvmipa.gsi_routing import signal_msi

        return signal_msi(self._ask, address, data, device_id)

    def add_coalesced_mmio(self, guest_phys_addr: int, size: int) -> None:
        """Collect the guest's writes to a range instead of ending KVM_RUN for each: KVM_REGISTER_COALESCED_MMIO.

        Vcpu.coalesced_writes() gives them; they come before what the next exit tells. When there is no more room, a
        write is an exit as ever. guest_phys_addr, size: bytes, where the VM has no memory.

        Raises IoBusFullError; TypeError, OverflowError for what does not fit 64 and 32 bits; ClosedError,
        OtherProcessError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
        ...     vm.add_coalesced_mmio(0x900_0000, 0x1000)
        ...     vm.remove_coalesced_mmio(0x900_0000, 0x1000)
        """
        from kvmipa.coalesced_mmio import register

        register(self._ask, guest_phys_addr, size)

    def remove_coalesced_mmio(self, guest_phys_addr: int, size: int) -> None:
        """Collect no more writes: every zone that has this range in it goes; none is no error.

        Raises TypeError, OverflowError; ClosedError, OtherProcessError.
        """
        from kvmipa.coalesced_mmio import unregister

        unregister(self._ask, guest_phys_addr, size)

    def enable_dirty_ring(self, size: int, *, with_bitmap: bool = True) -> None:
        """Give the vCPUs dirty rings, Vcpu.dirty_ring: before the first vCPU and the first slot (since Linux 6.2).

        size: bytes, 16 for each page that it has room for: a power of two, from a page up to 1 MiB. with_bitmap: slots
        that are logged have a dirty bitmap as well, for what no vCPU writes (an ITS that saves its tables). Without it
        arm64 maps their memory by blocks, and the ring has the first page of each alone (seen in 6.12.117 and 7.3.4).

        Raises what enable_cap() does: InvalidCapabilityArgumentError, TooLateToEnableError, AlreadyEnabledError,
        CapabilityNotEnableableError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
        ...     vm.enable_dirty_ring(1 << 16)
        ...     with vm.create_vcpu(0) as vcpu:
        ...         vcpu.dirty_ring
        <kvmipa.DirtyRing 4096 pages>
        """
        self.enable_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, unsigned("size", size, 32))
        if with_bitmap:
            self.enable_cap(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP)

    def reset_dirty_rings(self) -> int:
        """Watch the pages again that were harvested from any vCPU's ring: how many (KVM_RESET_DIRTY_RINGS).

        Raises DirtyRingOffError, another DirtyRingError where KVM says no; ClosedError, OtherProcessError.
        """
        result = self._ioctl(self._fd, KVM_RESET_DIRTY_RINGS, 0)
        if result < 0:
            from kvmipa.causes.dirty_ring import reset_error

            raise self.refused(reset_error(-result))
        return result

    def open_stats(self) -> StatisticsFile:
        """What KVM counts of this VM, to be read again and again: KVM_GET_STATS_FD (Linux 5.14).

        Raises NotSupportedError before that; StatisticsError; ClosedError, OtherProcessError.
        """
        from kvmipa.statistics import open_statistics

        return open_statistics(self._backend, self._fd, "Vm", self._slots())

    def stats(self) -> dict[str, Statistic]:
        """What KVM has counted of this VM so far, by name; raises as open_stats().

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
        ...     vm.stats()["remote_tlb_flush"].value
        0
        """
        with self.open_stats() as file:
            return file.read()

    def set_counter_offset(self, ticks: int) -> None:
        """What all vCPUs' counters are behind the host's: KVM_ARM_SET_COUNTER_OFFSET (Linux 6.4).

        ticks: 64 bits; from then on the vCPUs' own timer registers do not change it. Raises VcpuBusyError;
        NotSupportedError; TypeError, OverflowError; ClosedError, OtherProcessError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm:
        ...     vm.set_counter_offset(1 << 40)
        """
        from kvmipa.counter_offset import set_offset

        set_offset(self._ask, ticks)

    def read_memory_tags(self, guest_phys_addr: int, size: int) -> bytes:
        """The tags of guest memory, a byte for each 16 bytes: KVM_ARM_MTE_COPY_TAGS (Linux 5.14).

        guest_phys_addr, size: bytes, multiples of the host's page size; less than 2 GiB. The VM needs KVM_CAP_ARM_MTE.
        Raises MemoryTagsOffError, MemoryTagsRangeError; TypeError, OverflowError; ClosedError, OtherProcessError.
        """
        from kvmipa.memory_tags import read

        return read(self._ask, guest_phys_addr, size, self.page_size)

    def write_memory_tags(self, guest_phys_addr: int, tags: bytes) -> None:
        """Set the tags of guest memory, from a page's start on and for whole pages; raises as read_memory_tags().

        MemoryTagsLoggedError too: the slots' pages are not to be logged meanwhile.

        >>> import kvmipa
        >>> from kvmipa.abi import KVM_CAP_ARM_MTE
        >>> with kvmipa.open("emulated", host=kvmipa.HostProfile("6.12", id_aa64pfr1_el1=0x200)) as kvm:
        ...     vm = kvm.create_vm(40)
        >>> with vm:
        ...     vm.enable_cap(KVM_CAP_ARM_MTE)
        ...     slot = vm.add_memory(0x4000_0000, kvmipa.GuestMemory(0x1000))
        ...     vm.write_memory_tags(0x4000_0000, bytes([7] * 256))
        ...     set(vm.read_memory_tags(0x4000_0000, 0x1000))
        {7}
        """
        from kvmipa.memory_tags import write

        write(self._ask, guest_phys_addr, tags, self.page_size)

    def set_smccc_filter(self, first: int, count: int, action: SmcccAction) -> None:
        """What becomes of a guest's HVC and SMC calls of these function ids (Linux 6.4; before the first run).

        first: 32 bits; action: SmcccAction.DENY, FORWARD (KVM_RUN ends with an exit) or HANDLE. Each function can be
        named once. Raises SmcccRangeError, SmcccRangeTakenError, VcpuHasRunError; NotSupportedError; TypeError,
        OverflowError, ValueError for what does not fit; ClosedError, OtherProcessError. Source: kernel-device-spec 3.5.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm:
        ...     vm.set_smccc_filter(0x8600_0000, 16, kvmipa.SmcccAction.FORWARD)
        """
        from kvmipa.smccc_filter import set_action

        set_action(self._ask, first, count, action)

    def writable_masks(self) -> dict[Reg, int]:
        """ID register -> which of its bits may be changed: KVM_ARM_GET_REG_WRITABLE_MASKS (Linux 6.7).

        Registers of which no bit may are left out. Raises NotSupportedError; ClosedError, OtherProcessError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm:
        ...     hex(vm.writable_masks()[kvmipa.Reg.ID_AA64MMFR0_EL1])
        '0xff00f000ffffff0f'
        """
        from kvmipa.writable_masks import masks

        return masks(self._ask)

    def _ask(self, request: int, argument: bytearray) -> int:
        """A request with a struct: its result, or -errno."""
        result = self._backend.ioctl_buffer(self._fd, request, argument)
        if result == -errno.EIO and self.died_of is not None:
            from kvmipa.abi import request_name
            from kvmipa.causes import other_process_error

            raise self.refused(other_process_error("Vm", request_name(request)))
        return result

    def preferred_target(self) -> int:
        """The target that vCPUs are initialised with: KVM_ARM_PREFERRED_TARGET; 5 stands for any CPU.

        Raises ClosedError, OtherProcessError.
        """
        target = self._ask_target()
        if target < 0:
            from kvmipa.causes.vcpus import preferred_target_error

            raise self.refused(preferred_target_error(-target))
        return target

    def _ask_target(self) -> int:
        """KVM_ARM_PREFERRED_TARGET: the target, or -errno."""
        asked = bytearray(_VCPU_INIT.size)
        result = self._backend.ioctl_buffer(self._fd, KVM_ARM_PREFERRED_TARGET, asked)
        target: int = _VCPU_INIT.unpack(asked)[0]
        return result if result < 0 else target

    def _named(self, error: OSError, what: str) -> OSError:
        """The error with its cause: a backend's own operation is refused as the requests of the VM are."""
        if error.errno != errno.EIO:
            return error
        from kvmipa.causes import other_process_error

        return self.refused(other_process_error("Vm", None, asked=what))

    def __repr__(self) -> str:
        """Backend, size and state."""
        state = "closed" if self.closed else f"fd={self._fd}"
        return f"<kvmipa.Vm {self.backend} ipa_bits={self.ipa_bits} {state}>"
