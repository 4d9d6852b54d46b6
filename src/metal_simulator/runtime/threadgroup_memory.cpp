// Threadgroup memory and its checks. See threadgroup_memory.h.
#include "threadgroup_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "scheduler.h"
#include "worker.h"

namespace sim {

static void* map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

bool ThreadgroupMemory::reserve() {
  if (!arena_) arena_ = static_cast<char*>(map(kArenaBytes));
  if (!cells_) cells_ = static_cast<Cell*>(map(kArenaBytes * sizeof(Cell)));
  return arena_ && cells_;
}

void ThreadgroupMemory::start_launch() {
  variables_.clear();
  used_ = 0;
  arena_used_ = 0;
  if (epoch > 0x7fffffff) {  // long before it wraps
    memset(static_cast<void*>(cells_), 0, kArenaBytes * sizeof(Cell));
    epoch = 1;
  }
}

void ThreadgroupMemory::start_threadgroup() {
  first_epoch = ++epoch;
  if (!variables_.empty()) memset(arena_, 0xff, arena_used_ + kRedZoneBytes);  // NaN, also around
}

const Variable* ThreadgroupMemory::find(const void* id) const {
  for (const Variable& variable : variables_)
    if (variable.id == id) return &variable;
  return nullptr;
}

const Variable* ThreadgroupMemory::nearest(uint32_t offset) const {
  const Variable* best = nullptr;
  uint32_t best_distance = 0;
  for (const Variable& variable : variables_) {
    const uint32_t end = variable.offset + variable.bytes;
    const uint32_t distance = offset < variable.offset ? variable.offset - offset
                              : offset >= end          ? offset - end + 1
                                                       : 0;
    if (!best || distance < best_distance) {
      best = &variable;
      best_distance = distance;
    }
  }
  return best;
}

const Variable* ThreadgroupMemory::add(const Variable& variable, uint32_t align, uint64_t& needed) {
  needed = (used_ + align - 1) / align * align + variable.bytes;
  const uint32_t offset = (arena_used_ + kRedZoneBytes + align - 1) / align * align;
  if (needed > kThreadgroupLimit || offset + variable.bytes + kRedZoneBytes > kArenaBytes)
    return nullptr;
  used_ = needed;
  variables_.push_back(variable);
  variables_.back().offset = offset;
  memset(arena_ + arena_used_, 0xff, offset + variable.bytes + kRedZoneBytes - arena_used_);
  arena_used_ = offset + variable.bytes;
  return &variables_.back();
}

void ThreadgroupMemory::split(Variable& variable) {
  for (uint32_t i = 0; i < variable.bytes; i++) {
    cells_[variable.offset + i] = cells_[variable.offset + i - i % variable.granule];
    cells_[variable.offset + i].bytes = 1;
  }
  variable.granule = 1;
}

void describe_element(const Variable& variable, uint32_t offset, sim_finding& finding) {
  const int64_t bytes = static_cast<int64_t>(offset) - variable.offset;
  const int64_t size = variable.element_bytes;
  set_text(finding.variable, variable.name);
  finding.element = bytes >= 0 ? bytes / size : -((-bytes + size - 1) / size);
  finding.elements = variable.bytes / variable.element_bytes;
}

static sim_finding finding_at(const Variable* variable, sim_kind kind, uint32_t offset,
                              uint32_t bytes, bool write, uint32_t place) {
  sim_finding finding = make_finding(kind, place_in_library(place));
  if (variable) describe_element(*variable, offset, finding);
  finding.bytes = bytes;
  finding.write = write;
  return finding;
}

__attribute__((noinline)) static void report_overrun(Worker& worker, const Variable* variable,
                                                     uint32_t offset, uint32_t bytes, bool write,
                                                     uint32_t place) {
  // Where a part is inside, the first element behind the end is the one that is wrong.
  if (variable) offset = variable->offset + variable->bytes;
  const Variable* const nearest = variable ? variable : worker.threadgroup_memory.nearest(offset);
  sim_finding finding =
      finding_at(nearest, SIM_THREADGROUP_OUT_OF_BOUNDS, offset, bytes, write, place);
  found(worker, finding, false);
}

__attribute__((noinline)) static void report_race(Worker& worker, const Variable& variable,
                                                  uint32_t offset, uint32_t bytes, bool write,
                                                  uint32_t place, const Access& other) {
  sim_finding finding = finding_at(&variable, SIM_THREADGROUP_RACE, offset, bytes, write, place);
  finding.other_place = place_in_library(other.place);
  finding.other_who = worker.launch->who(worker.threadgroup, other.thread);
  finding.other_write = other.write;
  found(worker, finding, false);
}

__attribute__((noinline)) static void report_uninitialized(Worker& worker, const Variable& variable,
                                                           uint32_t offset, uint32_t bytes,
                                                           bool write, uint32_t place) {
  sim_finding finding =
      finding_at(&variable, SIM_THREADGROUP_UNINITIALIZED, offset, bytes, write, place);
  found(worker, finding, false);
}

void check_threadgroup_access(Worker& worker, uint32_t offset, uint32_t bytes, uint8_t kind,
                              uint32_t place) {
  ThreadgroupMemory& memory = worker.threadgroup_memory;
  const bool write = kind & kWrite;
  Variable* const variable = memory.at(offset);
  if (!variable || bytes > variable->bytes - (offset - variable->offset))
    return report_overrun(worker, variable, offset, bytes, write, place);
  if (((offset - variable->offset) | bytes) & (variable->granule - 1)) memory.split(*variable);

  const Fiber& fiber = *worker.current;
  const Access access = make_access(0, memory.epoch, place, fiber.index, kind,
                                    worker.simdgroups[fiber.simdgroup].threadgroup_epoch);
  // Offset 0 is in the first red zone, so it means that nothing was found.
  uint32_t race_offset = 0, uninitialized_offset = 0;
  Access other{};
  for (uint32_t i = 0; i < bytes; i += variable->granule) {
    Cell& cell = memory.cell(offset + i);
    const Access* const race = find_race(cell.last_write, cell.reads, access);
    if (race && !race_offset) {
      other = *race;
      race_offset = offset + i;
    }
    if (kind & kRead && cell.last_write.epoch < memory.first_epoch && !uninitialized_offset)
      uninitialized_offset = offset + i;
    record(cell.last_write, cell.reads, access);
    cell.bytes = variable->granule;
  }
  if (race_offset) report_race(worker, *variable, race_offset, bytes, write, place, other);
  if (uninitialized_offset)
    report_uninitialized(worker, *variable, uninitialized_offset, bytes, write, place);
}

}  // namespace sim

extern "C" void* sim_threadgroup_variable(const void* id, const char* name, uint64_t bytes,
                                          uint64_t align, uint64_t element_bytes, const char* file,
                                          uint32_t line) {
  using namespace sim;
  Worker& worker = *current_worker;
  if (worker.attention) attend(worker, place_in_source(file, line), false);
  ThreadgroupMemory& memory = worker.threadgroup_memory;
  const Variable* variable = memory.find(id);
  if (variable) return memory.address(variable->offset);

  Variable added{id,
                 name,
                 0,
                 static_cast<uint32_t>(bytes),
                 static_cast<uint32_t>(element_bytes),
                 record_granule(static_cast<uint32_t>(element_bytes))};
  uint64_t needed = bytes;
  if (bytes <= kThreadgroupLimit)
    variable = memory.add(added, static_cast<uint32_t>(align < 16 ? 16 : align), needed);
  if (!variable) {
    sim_finding finding = make_finding(SIM_THREADGROUP_MEMORY, place_in_source(file, line));
    set_text(finding.variable, name);
    finding.elements = bytes / element_bytes;
    finding.value = static_cast<int64_t>(needed);
    found(worker, finding, true);
  }
  return memory.address(variable->offset);
}
