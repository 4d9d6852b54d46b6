// What the compiler calls: a kernel is compiled with -fsanitize=thread,bounds,alignment,shift and
// others, but linked with these functions instead of the sanitizers' own.
#include <cstdlib>
#include <cstring>

#include "scheduler.h"
#include "worker.h"

namespace sim {
namespace {

// Accesses that are neither in threadgroup memory nor inside a buffer.
__attribute__((noinline)) void check_other_access(Worker& worker, uintptr_t address,
                                                  uint32_t bytes, bool write,
                                                  const sim_place& place) {
  for (const Buffer& buffer : worker.launch->memory.buffers())
    if (buffer.in_zone(address))
      return report_device_overrun(worker, buffer, address, bytes, write, place);
  // An unsigned index below zero: 2^32 elements behind what was meant.
  for (const Buffer& buffer : worker.launch->memory.buffers()) {
    const uintptr_t wrapped = address - (uint64_t{buffer.element_bytes} << 32);
    const uintptr_t base = reinterpret_cast<uintptr_t>(buffer.base);
    if (base - wrapped < uint64_t{buffer.element_bytes} << 20)
      return report_device_overrun(worker, buffer, address, bytes, write, place);
  }
  // Constants and static data, and what the runtime itself hands to the kernel.
  if (worker.launch->in_library(address)) return;
  const uintptr_t fibers = reinterpret_cast<uintptr_t>(worker.fibers.data());
  if (address - fibers < sizeof worker.fibers) return;
  const uintptr_t pointers = reinterpret_cast<uintptr_t>(worker.launch->memory.pointers());
  if (address - pointers < worker.launch->memory.buffers().size() * sizeof(void*)) return;

  sim_finding finding = make_finding(SIM_INVALID_ADDRESS, place);
  finding.bytes = bytes;
  finding.write = write;
  finding.value = static_cast<int64_t>(address);
  if (worker.stacks.contains(address)) set_text(finding.detail, "another thread's memory");
  found(worker, finding, true);
}

// Fills in which element an address means, if it is in a buffer or a threadgroup variable.
void describe_address(Worker& worker, uintptr_t address, sim_finding& finding) {
  for (const Buffer& buffer : worker.launch->memory.buffers())
    if (buffer.contains(address, 1)) return describe_element(buffer, address, finding);
  if (!worker.threadgroup_memory.contains(address)) return;
  const uint32_t offset = worker.threadgroup_memory.offset(address);
  const Variable* const variable = worker.threadgroup_memory.at(offset);
  if (variable) describe_element(*variable, offset, finding);
}

inline __attribute__((always_inline)) void check(const void* pointer, uint64_t bytes, uint8_t kind,
                                                 void* return_address) {
  Worker* const running = current_worker;
  if (__builtin_expect(!running, 0)) return;
  Worker& worker = *running;
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (address - worker.unchecked_begin < worker.unchecked_bytes) return;

  worker.accesses++;
  const uint32_t place = worker.place(reinterpret_cast<uintptr_t>(return_address) - 1);
  if (__builtin_expect(worker.attention, 0)) attend(worker, place_in_library(place), true);
  const uint32_t size = static_cast<uint32_t>(bytes);
  if (worker.threadgroup_memory.contains(address)) {
    const uint32_t offset = worker.threadgroup_memory.offset(address);
    const Fiber& fiber = *worker.current;
    const uint32_t simdgroup_epoch = worker.simdgroups[fiber.simdgroup].threadgroup_epoch;
    if (kind == kRead && worker.threadgroup_memory.tells_nothing_new(offset, size, fiber.index,
                                                                     simdgroup_epoch))
      return;
    return check_threadgroup_access(worker, offset, size, kind, place);
  }
  if (worker.last_buffer && worker.last_buffer->contains(address, bytes))
    return check_device_access(worker, *worker.last_buffer, address, size, kind, place);
  for (const Buffer& buffer : worker.launch->memory.buffers()) {
    if (!buffer.contains(address, bytes)) continue;
    worker.last_buffer = &buffer;
    return check_device_access(worker, buffer, address, size, kind, place);
  }
  check_other_access(worker, address, size, kind & kWrite, place_in_library(place));
}

}  // namespace
}  // namespace sim

// Nothing: the order of device memory between threadgroups is not modelled.
extern "C" void __tsan_atomic_thread_fence(int) {}

#define CHECK(pointer, bytes, kind) \
  sim::check(pointer, bytes, kind, __builtin_return_address(0))

// -fsanitize=thread
#define HOOKS(n)                                                                   \
  void __tsan_read##n(void* p) { CHECK(p, n, sim::kRead); }                        \
  void __tsan_write##n(void* p) { CHECK(p, n, sim::kWrite); }                      \
  void __tsan_unaligned_read##n(void* p) { CHECK(p, n, sim::kRead); }              \
  void __tsan_unaligned_write##n(void* p) { CHECK(p, n, sim::kWrite); }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void* p, uint64_t bytes) {
  if (bytes) CHECK(p, bytes, sim::kRead);
}
void __tsan_write_range(void* p, uint64_t bytes) {
  if (bytes) CHECK(p, bytes, sim::kWrite);
}
void* __tsan_memset(void* to, int value, uint64_t bytes) {
  if (bytes) CHECK(to, bytes, sim::kWrite);
  return memset(to, value, bytes);
}
void* __tsan_memcpy(void* to, const void* from, uint64_t bytes) {
  if (bytes) CHECK(from, bytes, sim::kRead);
  if (bytes) CHECK(to, bytes, sim::kWrite);
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, uint64_t bytes) {
  if (bytes) CHECK(from, bytes, sim::kRead);
  if (bytes) CHECK(to, bytes, sim::kWrite);
  return memmove(to, from, bytes);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}

// `write`: 0 for a load, 1 for a store, 2 for an operation that reads and writes.
void sim_atomic(void* address, uint32_t bytes, int write) {
  const uint8_t kinds[] = {sim::kRead, sim::kWrite, sim::kRead | sim::kWrite};
  if (sim::current_worker && sim::current_worker->launch->request.check)
    CHECK(address, bytes, kinds[write] | sim::kAtomic);
}
}

// The structures that the compiler passes for -fsanitize=bounds,alignment,shift and others.
namespace {

struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];
};
struct OutOfBounds {
  SourceLocation location;
  const TypeDescriptor* array;
  const TypeDescriptor* index;
};
struct TypeMismatch {
  SourceLocation location;
  const TypeDescriptor* type;
  uint8_t log_alignment, kind;
};
struct Division {
  SourceLocation location;
  const TypeDescriptor* type;
};
struct Shift {
  SourceLocation location;
  const TypeDescriptor* left;
  const TypeDescriptor* right;
};

uint32_t bits(const TypeDescriptor& type) {
  return 1u << (type.info >> 1);
}

// A value as the compiler passes it: a signed one need not have been extended to 64 bits.
int64_t value_of(const TypeDescriptor& type, uint64_t value) {
  const uint32_t unused = bits(type) < 64 ? 64 - bits(type) : 0;
  return type.info & 1 ? static_cast<int64_t>(value << unused) >> unused
                       : static_cast<int64_t>(value);
}

// "'float [8]'" without the quotes.
void set_type(sim_finding& finding, const TypeDescriptor& type) {
  sim::set_text(finding.detail, type.name + (type.name[0] == '\''));
  char* const quote = strrchr(finding.detail, '\'');
  if (quote) *quote = 0;
}

void report(sim_finding& finding, bool fatal) {
  sim::Worker* const worker = sim::current_worker;
  if (!worker) return;
  if (worker->attention) sim::attend(*worker, finding.place, false);
  sim::found(*worker, finding, fatal);
}

sim_finding finding_at(sim_kind kind, const SourceLocation& location) {
  return sim::make_finding(kind, sim::place_in_source(location.file, location.line));
}

}  // namespace

extern "C" {

void __ubsan_handle_out_of_bounds(OutOfBounds* data, uint64_t index) {
  sim_finding finding = finding_at(SIM_ARRAY_OUT_OF_BOUNDS, data->location);
  finding.element = finding.value = value_of(*data->index, index);
  set_type(finding, *data->array);
  const char* const extent = strchr(finding.detail, '[');
  if (extent) finding.elements = strtoull(extent + 1, nullptr, 10);
  // The access comes next, and could destroy the thread's own stack.
  report(finding, true);
}

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uint64_t pointer) {
  sim_finding finding =
      finding_at(pointer ? SIM_MISALIGNED : SIM_INVALID_ADDRESS, data->location);
  finding.value = pointer ? int64_t{1} << data->log_alignment : 0;
  set_type(finding, *data->type);
  if (sim::current_worker) sim::describe_address(*sim::current_worker, pointer, finding);
  report(finding, !pointer);
}

void __ubsan_handle_divrem_overflow(Division* data, uint64_t, uint64_t) {
  sim_finding finding = finding_at(SIM_DIVISION_BY_ZERO, data->location);
  set_type(finding, *data->type);
  report(finding, true);
}

void __ubsan_handle_shift_out_of_bounds(Shift* data, uint64_t, uint64_t count) {
  sim_finding finding = finding_at(SIM_SHIFT, data->location);
  finding.value = value_of(*data->right, count);
  finding.bytes = bits(*data->left) / 8;
  set_type(finding, *data->left);
  report(finding, false);
}
}
