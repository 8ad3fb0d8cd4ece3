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

extern "C" void *engine_create() { return new Bus; }

extern "C" void engine_destroy(void *engine) { delete static_cast<Bus *>(engine); }

extern "C" void engine_register(void *engine, std::uint64_t base, std::uint64_t size) {
    static_cast<Bus *>(engine)->insert_or_assign(base, Range{size, std::make_shared<OffsetDevice>()});
}

// 0: served; 1: nobody owns the address.
extern "C" int engine_read(void *engine, std::uint64_t address, std::uint8_t *data, std::size_t size) {
    const Bus &bus = *static_cast<Bus *>(engine);
    auto next = bus.upper_bound(address);
    if (next == bus.begin()) return 1;
    const auto &[base, range] = *--next;
    if (address - base >= range.size) return 1;
    range.device->read(base, address - base, data, size);
    return 0;
}

// What the crate does at the beginning of a transaction.
extern "C" void engine_clone_and_drop(void *engine, std::size_t times) {
    for (; times > 0; times--) delete new Bus(*static_cast<Bus *>(engine));
}
