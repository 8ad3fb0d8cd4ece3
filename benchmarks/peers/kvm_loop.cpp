// The least that an exit of KVM can cost: a loop in C that calls the one device there is, and looks nothing up.

#include <cstdint>
#include <cstring>

#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace {

// As OffsetDevice of suites/accesses.pyx: reads as the offset. Not inlined, as the device of an embedder is not.
__attribute__((noinline)) void read_device(uint64_t offset, uint8_t *data, size_t size) {
    std::memset(data, static_cast<uint8_t>(offset), size);
}

__attribute__((noinline)) void write_device(uint64_t, const uint8_t *, size_t) { __asm__ volatile(""); }

void serve(uint64_t offset, uint8_t *data, size_t size, bool is_write) {
    if (is_write) {
        write_device(offset, data, size);
    } else {
        read_device(offset, data, size);
    }
}

}  // namespace

// Run a vCPU until an exit that is neither for ports nor for memory; return its reason, or -1.
extern "C" int kvm_run_raw(int fd, kvm_run *run) {
    for (;;) {
        if (ioctl(fd, KVM_RUN, 0) != 0) {
            return -1;
        }
        if (run->exit_reason == KVM_EXIT_IO) {
            auto *data = reinterpret_cast<uint8_t *>(run) + run->io.data_offset;
            for (uint32_t item = 0; item < run->io.count; item++, data += run->io.size) {
                serve(run->io.port & 0xF, data, run->io.size, run->io.direction == KVM_EXIT_IO_OUT);
            }
        } else if (run->exit_reason == KVM_EXIT_MMIO) {
            serve(run->mmio.phys_addr & 0xFFF, run->mmio.data, run->mmio.len, run->mmio.is_write);
        } else {
            return static_cast<int>(run->exit_reason);
        }
    }
}
