// A worker: an operating system thread that runs threadgroups, one after the other, with a fiber
// for each thread. Everything that the runtime knows while kernel code runs hangs on it.
#pragma once
#include <array>
#include <cstdint>

#include "abi.h"
#include "device_memory.h"
#include "fibers.h"
#include "findings.h"
#include "threadgroup_memory.h"

namespace sim {

constexpr uint32_t kLanes = 32;

// What all workers of a launch share.
struct Launch {
  explicit Launch(sim_launch& request) : request(request), memory(request), findings(request) {}

  sim_launch& request;
  DeviceMemory memory;
  Findings findings;
  uintptr_t library = 0, library_end = 0;  // where the kernel's library is loaded
  uint64_t threadgroup_count = 0;
  uint64_t stride = 1, start = 0;          // a random order of threadgroups: start + i * stride
  std::atomic<uint64_t> next_threadgroup{0};

  bool in_library(uintptr_t address) const { return address - library < library_end - library; }
  sim_uint3 threadgroup_position(uint64_t index) const;
  sim_uint3 threadgroup_size(const sim_uint3& position) const;  // smaller at the grid's end
  sim_who who(uint32_t threadgroup, uint32_t thread) const;
};

// What a thread waits for.
struct Wait {
  sim_simd_function function;  // null at a barrier
  const void* in;
  void* out;
  const char* name;
  const char* file;
  uint32_t line, flags;
};

struct Fiber {
  void* stack_pointer;
  char* stack;  // null before it starts
  uint32_t index, lane, simdgroup;
  sim_thread thread;
  Wait wait;
};

// Sets of lanes are masks. A lane that runs is in none of them but `members`.
struct SimdGroup {
  uint32_t members, ready, at_operation, at_barrier, returned;
  uint32_t threadgroup_epoch, device_epoch;  // counts of SIMD-group barriers
};

// Reasons why a memory access is more than a check.
enum Attention : uint8_t { kUndecidedWrite = 1, kRandomOrder = 2, kTimedOut = 4 };

struct Worker {
  Launch* launch = nullptr;
  Fiber* current = nullptr;
  void* main_stack_pointer = nullptr;
  bool on_main_stack = true;
  volatile uint8_t attention = 0;

  // Memory that is free to access without a check: the stack of the fiber that runs.
  uintptr_t unchecked_begin = 0;
  uintptr_t unchecked_bytes = 0;

  std::array<Fiber, kMaxThreads> fibers{};
  std::array<SimdGroup, kMaxThreads / kLanes> simdgroups{};
  uint32_t thread_count = 0, simdgroup_count = 0;
  uint32_t threadgroup = 0;  // its index in the grid
  uint32_t device_epoch = 1;
  uint64_t random_state = 0;

  Stacks stacks;
  ThreadgroupMemory threadgroup_memory;
  const Buffer* last_buffer = nullptr;
  UndecidedWrite undecided{};

  uint64_t switches = 0, accesses = 0, simd_operations = 0, barriers = 0;

  sim_who who() const { return launch->who(threadgroup, current->index); }
  uint32_t place(uintptr_t address) const {
    return launch->in_library(address) ? static_cast<uint32_t>(address - launch->library) : 0;
  }
};

// The worker of this operating system thread; null in threads that are not ours. `__thread` rather
// than `thread_local`, which asks at each use whether it was constructed.
#if defined(__ELF__)
extern __thread Worker* current_worker __attribute__((tls_model("initial-exec")));
#else
extern __thread Worker* current_worker;
#endif

// Adds a finding of the thread that runs and leaves the launch if it is to stop.
void found(Worker& worker, sim_finding& finding, bool fatal);

}  // namespace sim
