// What a compiled kernel, the runtime and Python agree on. `launch.py` mirrors the structures.
#pragma once
#include <stdint.h>

struct sim_uint3 {
  uint32_t x, y, z;
};

// One thread's attributes, under the names of the Metal Shading Language specification
// (section 5.2.3.6, "Attributes for kernel function input arguments").
struct sim_thread {
  sim_uint3 thread_position_in_threadgroup, threadgroup_position_in_grid, thread_position_in_grid;
  sim_uint3 threads_per_threadgroup, dispatch_threads_per_threadgroup;
  sim_uint3 threads_per_grid, threadgroups_per_grid;
  uint32_t thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup;
  uint32_t simdgroups_per_threadgroup, dispatch_simdgroups_per_threadgroup, threads_per_simdgroup;
};

// Runs a kernel's body for one thread.
typedef void (*sim_entry)(void** buffers, const sim_thread* thread);

// Runs a SIMD-group operation for all lanes that take part in it: bit l of `lanes` says that lane l
// does, and then in[l] and out[l] are its argument and its result.
typedef void (*sim_simd_function)(const void* const* in, void* const* out, uint32_t lanes);

struct sim_buffer {
  void* data;
  uint64_t bytes;
  uint32_t element_bytes;
  uint8_t writable, initialized;
  const char* name;
};

// `findings.py` has the names and the sentences, in this order.
enum sim_kind : uint32_t {
  SIM_DEVICE_OUT_OF_BOUNDS,
  SIM_THREADGROUP_OUT_OF_BOUNDS,
  SIM_ARRAY_OUT_OF_BOUNDS,
  SIM_INVALID_ADDRESS,
  SIM_STACK_OVERFLOW,
  SIM_WRITE_TO_INPUT,
  SIM_THREADGROUP_RACE,
  SIM_DEVICE_RACE,
  SIM_REDUNDANT_WRITE,
  SIM_DIVERGENT_BARRIER,
  SIM_DIVERGENT_SIMDGROUP_BARRIER,
  SIM_DIVERGENT_SIMD_OPERATION,
  SIM_INACTIVE_LANE,
  SIM_THREADGROUP_UNINITIALIZED,
  SIM_DEVICE_UNINITIALIZED,
  SIM_OUTPUT_NOT_WRITTEN,
  SIM_MISALIGNED,
  SIM_THREADGROUP_MEMORY,
  SIM_DIVISION_BY_ZERO,
  SIM_SHIFT,
  SIM_TIMEOUT,
};

// A place in the source: a file and line where the runtime was told them, else the offset of an
// instruction in the kernel's library (a return address less one; 0 if there is none).
struct sim_place {
  const char* file;
  uint32_t line;
  uint64_t offset;
};

struct sim_who {
  uint8_t known;
  sim_uint3 thread, threadgroup;  // positions in the threadgroup and in the grid of threadgroups
  uint32_t simdgroup, lane;
};

struct sim_finding {
  uint32_t kind;
  uint8_t write, other_write;  // of the access, and of the earlier one that it conflicts with
  sim_place place, other_place;
  sim_who who, other_who;
  char variable[64];   // the buffer, the threadgroup variable, or the function
  int64_t element;     // index into it; may be negative, or beyond its end
  uint64_t elements;   // its size
  uint32_t bytes;      // of the access
  uint32_t lanes;      // SIMD operations: the mask of those that take part
  int64_t value;       // see findings.py: bytes, a lane, an index, a number of threads
  char detail[160];    // words that no other field has
  uint64_t count;      // how often this was found at this place; the rest is of the first time
};

struct sim_launch {
  sim_entry entry;
  sim_buffer* buffers;
  uint32_t buffer_count;
  sim_uint3 grid, threadgroup;  // in threads
  sim_uint3 threadgroups;       // their numbers
  uint32_t workers;  // operating system threads
  uint32_t check;
  uint64_t order;  // 0: threads in ascending order, 1: descending, else the seed of a random order
  double timeout;  // seconds
  volatile uint32_t stop;  // set it from another thread to end the launch
  sim_finding* findings;
  uint32_t finding_capacity;
  // Results.
  uint32_t finding_count;
  double seconds;
  uint64_t switches, accesses, simd_operations, barriers;
  uint32_t threadgroup_bytes;
};

extern "C" {
int sim_run(sim_launch* launch);  // 0, or an errno

// What a kernel calls.
void sim_barrier(uint32_t flags, const char* file, uint32_t line);
void sim_simd(sim_simd_function function, const void* in, void* out, const char* name,
              const char* file, uint32_t line);
void sim_simdgroup_barrier(uint32_t flags, const char* file, uint32_t line);
void sim_inactive_lane(uint32_t lane, uint32_t source_lane, const char* name, const char* file,
                       uint32_t line);
void* sim_threadgroup_variable(const void* id, const char* name, uint64_t bytes, uint64_t align,
                               uint64_t element_bytes, const char* file, uint32_t line);
// access: 0 a load, 1 a store, 2 a read-modify-write.
void sim_atomic(void* address, uint32_t bytes, int access);
}
