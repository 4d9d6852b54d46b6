// Device memory and its checks. See device_memory.h.
#include "device_memory.h"

#include <sched.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "worker.h"

namespace sim {

constexpr uint64_t kPage = 16 * 1024;        // a multiple of every system's
constexpr uint64_t kGuard = 4 * kPage;       // mapped: overruns go on, into nothing
constexpr uint64_t kZone = 16 * 1024 * 1024;  // on either side: overruns that still name the buffer
constexpr uint32_t kStripes = 64;

static uint64_t round_up(uint64_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

bool DeviceMemory::copy_in(bool lock) {
  for (uint32_t i = 0; i < launch_.buffer_count; i++)
    memory_bytes_ += 2 * kZone + round_up(launch_.buffers[i].bytes);
  if (memory_bytes_ == 0) return true;
  void* memory = mmap(nullptr, memory_bytes_, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  memory_ = static_cast<char*>(memory);
  if (lock && launch_.check) locks_ = std::vector<SpinLock>(kStripes);

  char* zone = memory_;
  for (uint32_t i = 0; i < launch_.buffer_count; i++) {
    const sim_buffer& source = launch_.buffers[i];
    const uint64_t space = round_up(source.bytes);
    Buffer buffer{};
    buffer.source = &source;
    buffer.bytes = source.bytes;
    buffer.element_bytes = source.element_bytes ? source.element_bytes : 1;
    buffer.granule = record_granule(buffer.element_bytes);
    buffer.zone = zone;
    buffer.base = zone + kZone;
    zone = buffer.zone_end = buffer.base + space + kZone;
    if (mprotect(buffer.base - kGuard, space + 2 * kGuard, PROT_READ | PROT_WRITE)) return false;
    if (source.bytes) memcpy(buffer.base, source.data, source.bytes);
    memset(buffer.base - kPage, 0xff, kPage);  // NaN: an overrun shows in the result as well
    memset(buffer.base + source.bytes, 0xff, space - source.bytes + kPage);
    if (source.writable && launch_.check) {  // pages that are never touched cost nothing
      const uint64_t granules = source.bytes / buffer.granule + 1;
      buffer.writes = static_cast<Access*>(calloc(granules, sizeof(Access)));
      buffer.reads = static_cast<Reads*>(calloc(granules, sizeof(Reads)));
    }
    buffers_.push_back(buffer);
    pointers_.push_back(buffer.base);
    if (source.writable && launch_.check && (!buffer.writes || !buffer.reads)) return false;
  }
  return true;
}

void DeviceMemory::copy_out() {
  for (const Buffer& buffer : buffers_)
    if (buffer.source->writable && buffer.bytes)
      memcpy(buffer.source->data, buffer.base, buffer.bytes);
}

DeviceMemory::~DeviceMemory() {
  for (const Buffer& buffer : buffers_) {
    free(buffer.writes);
    free(buffer.reads);
  }
  if (memory_) munmap(memory_, memory_bytes_);
}

SpinLock* DeviceMemory::lock_of(const Buffer& buffer, uint64_t offset) {
  if (locks_.empty()) return nullptr;
  const uint64_t number = (offset / 256 + static_cast<uint64_t>(&buffer - buffers_.data()) * 7);
  return &locks_[number % kStripes];
}

namespace {
class Locked {
 public:
  explicit Locked(SpinLock* lock) : lock_(lock) {
    while (lock_ && lock_->taken.exchange(true, std::memory_order_acquire)) sched_yield();
  }
  ~Locked() {
    if (lock_) lock_->taken.store(false, std::memory_order_release);
  }

 private:
  SpinLock* lock_;
};
}  // namespace

void describe_element(const Buffer& buffer, uintptr_t address, sim_finding& finding) {
  const int64_t bytes = static_cast<int64_t>(address - reinterpret_cast<uintptr_t>(buffer.base));
  const int64_t size = buffer.element_bytes;
  set_text(finding.variable, buffer.source->name);
  finding.element = bytes >= 0 ? bytes / size : -((-bytes + size - 1) / size);
  finding.elements = buffer.bytes / buffer.element_bytes;
}

static sim_finding finding_at(const Buffer& buffer, sim_kind kind, uintptr_t address,
                              uint32_t bytes, bool write, const sim_place& place) {
  sim_finding finding = make_finding(kind, place);
  describe_element(buffer, address, finding);
  finding.bytes = bytes;
  finding.write = write;
  return finding;
}

void report_device_overrun(Worker& worker, const Buffer& buffer, uintptr_t address, uint32_t bytes,
                           bool write, const sim_place& place) {
  const uintptr_t base = reinterpret_cast<uintptr_t>(buffer.base);
  const bool mapped = address - (base - kGuard) < round_up(buffer.bytes) + 2 * kGuard - bytes;
  // Where a part is inside, the first element behind the end is the one that is wrong.
  const bool partly = address - base < buffer.bytes;
  sim_finding finding = finding_at(buffer, SIM_DEVICE_OUT_OF_BOUNDS,
                                   partly ? base + buffer.bytes : address, bytes, write, place);
  found(worker, finding, !mapped);
}

static void report_race(Worker& worker, const Buffer& buffer, uintptr_t address, uint32_t bytes,
                        const Access& access, const Access& other, uint64_t race_offset) {
  sim_finding finding =
      finding_at(buffer, SIM_DEVICE_RACE, reinterpret_cast<uintptr_t>(buffer.base) + race_offset,
                 bytes, access.write, place_in_library(access.place));
  finding.other_place = place_in_library(other.place);
  finding.other_who = worker.launch->who(other.threadgroup, other.thread);
  finding.other_write = other.write;
  UndecidedWrite& undecided = worker.undecided;
  if (access.write && other.write && bytes <= sizeof undecided.before) {
    finding.who = worker.who();
    undecided.address = reinterpret_cast<const char*>(address);
    undecided.bytes = bytes;
    memcpy(undecided.before, undecided.address, bytes);
    undecided.finding = finding;
    worker.attention = worker.attention | kUndecidedWrite;
  } else {
    found(worker, finding, false);
  }
}

void decide_write(Worker& worker) {
  UndecidedWrite& undecided = worker.undecided;
  worker.attention = worker.attention & ~kUndecidedWrite;
  if (!memcmp(undecided.before, undecided.address, undecided.bytes))
    undecided.finding.kind = SIM_REDUNDANT_WRITE;
  found(worker, undecided.finding, false);
}

void check_device_access(Worker& worker, const Buffer& buffer, uintptr_t address, uint32_t bytes,
                         uint8_t kind, uint32_t place) {
  const bool write = kind & kWrite;
  if (write && !buffer.source->writable) {
    sim_finding finding =
        finding_at(buffer, SIM_WRITE_TO_INPUT, address, bytes, true, place_in_library(place));
    found(worker, finding, true);
    return;
  }
  if (!buffer.writes) return;

  const Fiber& fiber = *worker.current;
  const Access access = make_access(worker.threadgroup, worker.device_epoch, place, fiber.index,
                                    kind, worker.simdgroups[fiber.simdgroup].device_epoch);
  const uint64_t offset = address - reinterpret_cast<uintptr_t>(buffer.base);
  Access other{};
  uint64_t race_offset = 0, uninitialized_offset = 0;
  bool uninitialized = false;
  for (uint64_t i = offset / buffer.granule; i <= (offset + bytes - 1) / buffer.granule; i++) {
    Locked locked(worker.launch->memory.lock_of(buffer, i));
    const Access* race = find_race(buffer.writes[i], buffer.reads[i], access);
    if (race && !other.epoch) {
      other = *race;
      race_offset = i * buffer.granule;
    }
    if (kind & kRead && !buffer.writes[i].epoch && !buffer.source->initialized && !uninitialized) {
      uninitialized = true;
      uninitialized_offset = i * buffer.granule;
    }
    record(buffer.writes[i], buffer.reads[i], access);
  }
  if (uninitialized) {
    const uintptr_t element = reinterpret_cast<uintptr_t>(buffer.base) + uninitialized_offset;
    sim_finding finding = finding_at(buffer, SIM_DEVICE_UNINITIALIZED, element, bytes, write,
                                     place_in_library(place));
    found(worker, finding, false);
  }
  if (other.epoch) report_race(worker, buffer, address, bytes, access, other, race_offset);
}

void report_unwritten(const DeviceMemory& memory, Findings& findings) {
  for (const Buffer& buffer : memory.buffers()) {
    if (!buffer.writes || buffer.source->initialized) continue;
    sim_finding finding = make_finding(SIM_OUTPUT_NOT_WRITTEN, {});
    set_text(finding.variable, buffer.source->name);
    finding.elements = buffer.bytes / buffer.element_bytes;
    for (uint64_t i = 0; i < finding.elements; i++) {
      if (buffer.writes[i * buffer.element_bytes / buffer.granule].epoch) continue;
      if (!finding.value++) finding.element = static_cast<int64_t>(i);
    }
    if (finding.value) findings.add(finding, false);
  }
}

}  // namespace sim
