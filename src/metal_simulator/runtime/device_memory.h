// Device memory: the buffers of a launch. A kernel works on copies that lie far apart between guard
// zones, so that an overrun is noticed, does no harm, and is named after the buffer it left.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "abi.h"
#include "access_order.h"

namespace sim {

struct Worker;

struct Buffer {
  const sim_buffer* source;
  char* base;
  uint64_t bytes;
  uint32_t element_bytes;
  uint32_t granule;   // bytes that one entry of the records below stands for
  char* zone;         // what is taken to mean this buffer: from here
  char* zone_end;     // to here; only the guards next to the buffer are mapped
  Access* writes;     // the last write of each granule; null where nothing is recorded
  Reads* reads;

  bool contains(uintptr_t address, uint64_t count) const {
    const uint64_t offset = address - reinterpret_cast<uintptr_t>(base);
    return offset < bytes && count <= bytes - offset;
  }
  bool in_zone(uintptr_t address) const {
    return address - reinterpret_cast<uintptr_t>(zone) < static_cast<uintptr_t>(zone_end - zone);
  }
};

// Records of different granules are shared by all workers, which take the lock of a stripe of them.
struct alignas(64) SpinLock {
  std::atomic<bool> taken{false};
};

class DeviceMemory {
 public:
  explicit DeviceMemory(sim_launch& launch) : launch_(launch) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  bool copy_in(bool lock);  // false: no memory. `lock`: several workers will use it
  void copy_out();          // outputs only: the memory of inputs is never written

  const std::vector<Buffer>& buffers() const { return buffers_; }
  void** pointers() { return pointers_.data(); }
  SpinLock* lock_of(const Buffer& buffer, uint64_t offset);  // null: one worker needs none

 private:
  sim_launch& launch_;
  std::vector<Buffer> buffers_;
  std::vector<void*> pointers_;
  std::vector<SpinLock> locks_;
  char* memory_ = nullptr;
  uint64_t memory_bytes_ = 0;
};

// Checks an access inside a buffer and records it. `kind` is a set of AccessKind.
void check_device_access(Worker& worker, const Buffer& buffer, uintptr_t address, uint32_t bytes,
                         uint8_t kind, uint32_t place);

// Reports an access in the zone of a buffer, but outside of it.
void report_device_overrun(Worker& worker, const Buffer& buffer, uintptr_t address, uint32_t bytes,
                           bool write, const sim_place& place);

// A write that raced with another write is only redundant if it does not change the value. This is
// known after it happened, so it is decided when the thread next enters the runtime.
struct UndecidedWrite {
  const char* address;
  uint32_t bytes;
  char before[16];
  sim_finding finding;
};
void decide_write(Worker& worker);

// After a launch without findings: outputs of which elements were never written.
void report_unwritten(const DeviceMemory& memory, class Findings& findings);

// Fills in which element of a buffer an address means.
void describe_element(const Buffer& buffer, uintptr_t address, sim_finding& finding);

}  // namespace sim
