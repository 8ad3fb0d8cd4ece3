"""The ioctls of a VM that concern the bus."""

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from .kvm_abi cimport (
    KVM_IOEVENTFD,
    KVM_IOEVENTFD_FLAG_DATAMATCH,
    KVM_IOEVENTFD_FLAG_DEASSIGN,
    KVM_IOEVENTFD_FLAG_PIO,
    KVM_IRQ_LINE,
    KVM_IRQFD,
    KVM_IRQFD_FLAG_DEASSIGN,
    KVM_MEM_READONLY,
    KVM_REGISTER_COALESCED_MMIO,
    KVM_SET_USER_MEMORY_REGION,
    KVM_UNREGISTER_COALESCED_MMIO,
    dbs_coalescing_zone,
    ioctl,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irqfd,
    kvm_userspace_memory_region,
)
from .tables cimport PIO

import os

__all__ = ["set_coalescing", "set_ioeventfd", "set_irq_line", "set_irqfd", "set_memory_slot"]


cdef int check(int result) except -1:
    if result == -1:
        raise OSError(errno, os.strerror(errno))
    return result


def set_memory_slot(int vm, uint32_t slot, uint64_t base, uint64_t size, uint64_t address, bint readonly):
    """Back guest memory by the host's; a size of 0 removes the slot."""
    cdef kvm_userspace_memory_region region = kvm_userspace_memory_region(
        slot, KVM_MEM_READONLY if readonly else 0, base, size, address
    )
    cdef int result
    with nogil:
        result = ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region)
    check(result)


def set_irq_line(int vm, uint32_t irq, bint level):
    """Set the level of an input of the interrupt controllers in the kernel."""
    cdef kvm_irq_level line = kvm_irq_level(irq, level)
    cdef int result
    with nogil:
        result = ioctl(vm, KVM_IRQ_LINE, &line)
    check(result)


def set_irqfd(int vm, uint32_t gsi, int event, bint assign):
    """Have an eventfd raise an interrupt, or no longer."""
    cdef kvm_irqfd irqfd
    memset(&irqfd, 0, sizeof(irqfd))
    irqfd.fd, irqfd.gsi, irqfd.flags = event, gsi, 0 if assign else KVM_IRQFD_FLAG_DEASSIGN
    check(ioctl(vm, KVM_IRQFD, &irqfd))


def set_ioeventfd(int vm, space, uint64_t address, uint32_t size, value, int event, bint assign):
    """Have a write signal an eventfd in place of an exit, or no longer; any value if it is None."""
    cdef kvm_ioeventfd ioeventfd
    memset(&ioeventfd, 0, sizeof(ioeventfd))
    ioeventfd.addr, ioeventfd.len, ioeventfd.fd = address, size, event
    if value is not None:
        ioeventfd.datamatch = value
        ioeventfd.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH
    if space == PIO:
        ioeventfd.flags |= KVM_IOEVENTFD_FLAG_PIO
    if not assign:
        ioeventfd.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN
    check(ioctl(vm, KVM_IOEVENTFD, &ioeventfd))


def set_coalescing(int vm, space, uint64_t address, uint32_t size, bint coalesce):
    """Have writes to a range wait in the ring, or no longer."""
    cdef dbs_coalescing_zone zone
    memset(&zone, 0, sizeof(zone))
    zone.addr, zone.size, zone.pio = address, size, space == PIO
    check(ioctl(vm, KVM_REGISTER_COALESCED_MMIO if coalesce else KVM_UNREGISTER_COALESCED_MMIO, &zone))
