"""What is used of ``linux/kvm.h``."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<linux/kvm.h>" nogil:
    """
    #include <stdint.h>
    #include <sys/ioctl.h>

    /* As newer kernels have them. Older headers lack some of the members, and older kernels leave them zero. */
    typedef struct { uint64_t hardware_entry_failure_reason; uint32_t cpu; } dbs_fail_entry;
    typedef struct { uint32_t type, ndata; uint64_t data[16]; } dbs_system_event;
    typedef struct { uint64_t phys_addr; uint32_t len, pio; uint8_t data[8]; } dbs_coalesced_write;
    typedef struct { uint64_t addr; uint32_t size, pio; } dbs_coalescing_zone;
    _Static_assert(sizeof(dbs_coalesced_write) == sizeof(struct kvm_coalesced_mmio), "linux/kvm.h");
    _Static_assert(sizeof(dbs_coalescing_zone) == sizeof(struct kvm_coalesced_mmio_zone), "linux/kvm.h");

    #define dbs_fail_entry_of(run) ((const dbs_fail_entry *)&(run)->fail_entry)
    #define dbs_system_event_of(run) ((const dbs_system_event *)&(run)->system_event)

    #define dbs_ring_last(ring) __atomic_load_n(&(ring)->last, __ATOMIC_ACQUIRE)
    #define dbs_ring_release(ring, value) __atomic_store_n(&(ring)->first, value, __ATOMIC_RELEASE)
    #define dbs_ring_item(ring, index) \\
        ((const dbs_coalesced_write *)((const char *)(ring) + sizeof(struct kvm_coalesced_mmio_ring)) + (index))
    #define dbs_ring_length(page) \\
        (((page) - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(dbs_coalesced_write))
    """
    ctypedef struct kvm_run_io:
        uint8_t direction
        uint8_t size
        uint16_t port
        uint32_t count
        uint64_t data_offset
    ctypedef struct kvm_run_mmio:
        uint64_t phys_addr
        uint8_t data[8]
        uint32_t len
        uint8_t is_write
    ctypedef struct dbs_fail_entry:
        uint64_t hardware_entry_failure_reason
        uint32_t cpu
    ctypedef struct kvm_run_internal:
        uint32_t suberror
        uint32_t ndata
        uint64_t data[16]
    ctypedef struct dbs_system_event:
        uint32_t type
        uint32_t ndata
        uint64_t data[16]
    cdef struct kvm_run:
        uint8_t request_interrupt_window
        uint8_t immediate_exit
        uint32_t exit_reason
        uint8_t ready_for_interrupt_injection
        uint8_t if_flag
        kvm_run_io io
        kvm_run_mmio mmio
        kvm_run_internal internal
    const dbs_fail_entry *dbs_fail_entry_of(kvm_run *run)
    const dbs_system_event *dbs_system_event_of(kvm_run *run)

    ctypedef struct dbs_coalesced_write:
        uint64_t phys_addr
        uint32_t len
        uint32_t pio
        uint8_t data[8]
    cdef struct kvm_coalesced_mmio_ring:
        uint32_t first
        uint32_t last
    uint32_t dbs_ring_last(kvm_coalesced_mmio_ring *ring)
    void dbs_ring_release(kvm_coalesced_mmio_ring *ring, uint32_t first)
    const dbs_coalesced_write *dbs_ring_item(kvm_coalesced_mmio_ring *ring, uint32_t index)
    uint32_t dbs_ring_length(size_t page_size)

    cdef struct kvm_interrupt:
        uint32_t irq
    cdef struct kvm_userspace_memory_region:
        uint32_t slot
        uint32_t flags
        uint64_t guest_phys_addr
        uint64_t memory_size
        uint64_t userspace_addr
    cdef struct kvm_irq_level:
        uint32_t irq
        uint32_t level
    cdef struct kvm_irqfd:
        uint32_t fd
        uint32_t gsi
        uint32_t flags
    cdef struct kvm_ioeventfd:
        uint64_t datamatch
        uint64_t addr
        uint32_t len
        int fd
        uint32_t flags
    ctypedef struct dbs_coalescing_zone:
        uint64_t addr
        uint32_t size
        uint32_t pio

    int ioctl(int fd, unsigned long request, ...)
    unsigned long KVM_RUN
    unsigned long KVM_INTERRUPT
    unsigned long KVM_SET_USER_MEMORY_REGION
    unsigned long KVM_IRQ_LINE
    unsigned long KVM_IRQFD
    unsigned long KVM_IOEVENTFD
    unsigned long KVM_REGISTER_COALESCED_MMIO
    unsigned long KVM_UNREGISTER_COALESCED_MMIO
    enum:
        KVM_MEM_READONLY
        KVM_IRQFD_FLAG_DEASSIGN
        KVM_IOEVENTFD_FLAG_DATAMATCH
        KVM_IOEVENTFD_FLAG_PIO
        KVM_IOEVENTFD_FLAG_DEASSIGN
        KVM_EXIT_IO
        KVM_EXIT_IO_OUT
        KVM_EXIT_MMIO
        KVM_EXIT_IRQ_WINDOW_OPEN
        KVM_EXIT_INTR
        KVM_EXIT_FAIL_ENTRY
        KVM_EXIT_INTERNAL_ERROR
        KVM_EXIT_SYSTEM_EVENT
