// The look-up of the Rust crate dbs-device 0.2 in C++: an ordered tree of ranges, the last one that begins at or below
// the address, one compare with its end, and a virtual call on a shared device.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>

namespace {

struct Device {
    virtual ~Device() = default;
    virtual void read(std::uint64_t base, std::uint64_t offset, std::uint8_t *data, std::size_t size) = 0;
};

struct OffsetDevice final : Device {
    void read(std::uint64_t, std::uint64_t offset, std::uint8_t *data, std::size_t size) override {
        const auto value = static_cast<std::uint32_t>(offset);
        if (size == sizeof value) {
            std::memcpy(data, &value, sizeof value);
        } else {
            std::memset(data, static_cast<std::uint8_t>(offset), size);
        }
    }
};

struct Range {
    std::uint64_t size;
    std::shared_ptr<Device> device;
};

using Bus = std::map<std::uint64_t, Range>;

}  // namespace

extern "C" void *peer_create() { return new Bus; }

extern "C" void peer_destroy(void *peer) { delete static_cast<Bus *>(peer); }

extern "C" void peer_register(void *peer, std::uint64_t base, std::uint64_t size) {
    static_cast<Bus *>(peer)->insert_or_assign(base, Range{size, std::make_shared<OffsetDevice>()});
}

// 0: served; 1: the address is unowned.
extern "C" int peer_read(void *peer, std::uint64_t address, std::uint8_t *data, std::size_t size) {
    const Bus &bus = *static_cast<Bus *>(peer);
    auto next = bus.upper_bound(address);
    if (next == bus.begin()) return 1;
    const auto &[base, range] = *--next;
    if (address - base >= range.size) return 1;
    range.device->read(base, address - base, data, size);
    return 0;
}

// As the crate does at the beginning of a transaction.
extern "C" void peer_clone_and_drop(void *peer, std::size_t times) {
    for (; times > 0; times--) delete new Bus(*static_cast<Bus *>(peer));
}
