// The scheduler. See scheduler.h.
#include "scheduler.h"

namespace sim {

uint64_t next_random(uint64_t& state) {  // splitmix64
  uint64_t x = state += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

static uint32_t count(uint32_t lanes) {
  return static_cast<uint32_t>(__builtin_popcount(lanes));
}

static uint32_t lowest(uint32_t lanes) {
  return static_cast<uint32_t>(__builtin_ctz(lanes));
}

static uint32_t random_below(Worker& worker, uint32_t n) {
  return static_cast<uint32_t>((next_random(worker.random_state) >> 32) * n >> 32);
}

// Which of the ready lanes of a SIMD group runs next.
static uint32_t choose_lane(Worker& worker, uint32_t ready) {
  const uint64_t order = worker.launch->request.order;
  if (order == 0) return lowest(ready);
  if (order == 1) return 31 - static_cast<uint32_t>(__builtin_clz(ready));
  for (uint32_t skip = random_below(worker, count(ready)); skip > 0; skip--) ready &= ready - 1;
  return lowest(ready);
}

// The SIMD group that is tried as the k-th, from the one that ran last.
static uint32_t choose_simdgroup(Worker& worker, uint32_t first, uint32_t k) {
  const uint32_t n = worker.simdgroup_count;
  return worker.launch->request.order == 1 ? (first + n - k) % n : (first + k) % n;
}

// Completes a finding with a thread that does not take part in what the others wait for.
static void describe_absent(Worker& worker, const SimdGroup& group, const Fiber& absent,
                            sim_finding& finding) {
  finding.other_who = worker.launch->who(worker.threadgroup, absent.index);
  const uint32_t lane = 1u << absent.lane;
  if (group.returned & lane) {
    set_text(finding.detail, "returned");
    return;
  }
  finding.other_place = place_in_source(absent.wait.file, absent.wait.line);
  set_text(finding.detail, group.at_barrier & lane ? "waits at a barrier"
                                                   : "waits at another SIMD-group operation");
}

static bool same_operation(const Wait& a, const Wait& b) {
  return a.function == b.function && a.line == b.line && same_text(a.file, b.file);
}

// All lanes of a SIMD group wait or returned: completes an operation that some of them wait for. If
// they wait for different ones, the one that comes first in the source goes first.
static void run_simd_operation(Worker& worker, uint32_t index) {
  SimdGroup& group = worker.simdgroups[index];
  Fiber* const lanes = &worker.fibers[index * kLanes];
  Fiber* first = nullptr;
  for (uint32_t rest = group.at_operation; rest; rest &= rest - 1) {
    Fiber& fiber = lanes[lowest(rest)];
    if (!first || fiber.wait.line < first->wait.line) first = &fiber;
  }
  uint32_t active = 0;
  for (uint32_t rest = group.at_operation; rest; rest &= rest - 1)
    if (same_operation(lanes[lowest(rest)].wait, first->wait)) active |= rest & -rest;

  const bool is_barrier = !first->wait.function;
  if (worker.launch->request.check && active != group.members) {
    const sim_kind kind =
        is_barrier ? SIM_DIVERGENT_SIMDGROUP_BARRIER : SIM_DIVERGENT_SIMD_OPERATION;
    sim_finding finding = make_finding(kind, place_in_source(first->wait.file, first->wait.line));
    finding.who = worker.launch->who(worker.threadgroup, first->index);
    set_text(finding.variable, first->wait.name);
    finding.lanes = active;
    finding.value = count(active);
    finding.elements = count(group.members);
    describe_absent(worker, group, lanes[lowest(group.members & ~active)], finding);
    if (worker.launch->findings.add(finding, false)) return;
  }

  if (is_barrier) {
    if (first->wait.flags & 2) group.threadgroup_epoch++;
    if (first->wait.flags & 1) group.device_epoch++;
  } else {
    const void* in[kLanes] = {};
    void* out[kLanes] = {};
    for (uint32_t rest = active; rest; rest &= rest - 1) {
      const uint32_t lane = lowest(rest);
      in[lane] = lanes[lane].wait.in;
      out[lane] = lanes[lane].wait.out;
    }
    // The function reads and writes the stacks of all lanes, so nothing is checked meanwhile.
    const uintptr_t unchecked_begin = worker.unchecked_begin;
    worker.unchecked_begin = 0;
    worker.unchecked_bytes = UINTPTR_MAX;
    worker.current = first;  // whom findings name
    first->wait.function(in, out, active);
    worker.unchecked_begin = unchecked_begin;
    worker.unchecked_bytes = kStackBytes;
    worker.simd_operations++;
  }
  group.at_operation &= ~active;
  group.ready |= active;
}

static void report_divergent_barrier(Worker& worker, const Fiber& first, const Fiber& absent,
                                     uint32_t waiting) {
  sim_finding finding = make_finding(SIM_DIVERGENT_BARRIER,
                                     place_in_source(first.wait.file, first.wait.line));
  finding.who = worker.launch->who(worker.threadgroup, first.index);
  finding.other_who = worker.launch->who(worker.threadgroup, absent.index);
  const bool returned =
      worker.simdgroups[absent.simdgroup].returned >> absent.lane & 1;
  if (!returned) finding.other_place = place_in_source(absent.wait.file, absent.wait.line);
  set_text(finding.detail, returned ? "returned" : "waits at another barrier");
  finding.value = waiting;
  finding.elements = worker.thread_count;
  worker.launch->findings.add(finding, true);
}

// All threads wait at a threadgroup barrier or returned: lets them go on if all wait at the same.
static bool release_barrier(Worker& worker) {
  const Fiber* first = nullptr;
  const Fiber* absent = nullptr;
  uint32_t waiting = 0;
  for (uint32_t i = 0; i < worker.thread_count; i++) {
    const Fiber& fiber = worker.fibers[i];
    const bool waits = worker.simdgroups[fiber.simdgroup].at_barrier >> fiber.lane & 1;
    if (waits && !first) first = &fiber;
    if (waits && same_operation(fiber.wait, first->wait))
      waiting++;
    else if (!absent)
      absent = &fiber;
  }
  if (!first) return false;  // all returned
  if (absent) {
    report_divergent_barrier(worker, *first, *absent, waiting);
    return false;
  }
  worker.barriers++;
  if (first->wait.flags & 2) worker.threadgroup_memory.epoch++;
  if (first->wait.flags & 1) worker.device_epoch++;
  for (uint32_t s = 0; s < worker.simdgroup_count; s++) {
    worker.simdgroups[s].ready = worker.simdgroups[s].at_barrier;
    worker.simdgroups[s].at_barrier = 0;
  }
  return true;
}

// Takes the thread that is to run next, or null when none is left or the launch stops.
static Fiber* next_fiber(Worker& worker) {
  const uint64_t order = worker.launch->request.order;
  uint32_t first = worker.current ? worker.current->simdgroup : 0;
  for (;;) {
    if (order >= 2) first = random_below(worker, worker.simdgroup_count);
    for (uint32_t k = 0; k < worker.simdgroup_count; k++) {
      if (worker.launch->findings.stopped()) return nullptr;
      const uint32_t s = choose_simdgroup(worker, first, k);
      SimdGroup& group = worker.simdgroups[s];
      if (!group.ready && group.at_operation) run_simd_operation(worker, s);
      if (worker.launch->findings.stopped()) return nullptr;
      if (!group.ready) continue;
      const uint32_t lane = choose_lane(worker, group.ready);
      group.ready &= ~(1u << lane);
      return &worker.fibers[s * kLanes + lane];
    }
    if (!release_barrier(worker)) return nullptr;
    first = order == 1 ? worker.simdgroup_count - 1 : 0;
  }
}

static void fiber_main() {
  Worker& worker = *current_worker;
  Fiber& fiber = *worker.current;
  worker.launch->request.entry(worker.launch->memory.pointers(), &fiber.thread);
  if (worker.attention & kUndecidedWrite) decide_write(worker);
  worker.simdgroups[fiber.simdgroup].returned |= 1u << fiber.lane;
  // The worker's own stack goes on, so that this one is free for the next thread to start.
  worker.stacks.give_back(fiber.stack);
  worker.on_main_stack = true;
  void* unused;
  sim_switch_stack(&unused, worker.main_stack_pointer);
  __builtin_unreachable();
}

static void resume(Worker& worker, Fiber& fiber, void** save) {
  if (!fiber.stack) {
    fiber.stack = worker.stacks.take();
    fiber.stack_pointer = worker.stacks.start(fiber.stack, fiber_main);
  }
  worker.current = &fiber;
  worker.unchecked_begin = reinterpret_cast<uintptr_t>(fiber.stack);
  worker.unchecked_bytes = kStackBytes;
  worker.on_main_stack = false;
  worker.switches++;
  sim_switch_stack(save, fiber.stack_pointer);
}

// Called by a thread that was put into one of the sets of its SIMD group: others run until it is
// taken out and chosen again.
static void wait_for_turn(Worker& worker) {
  Fiber& self = *worker.current;
  Fiber* next = next_fiber(worker);
  if (!next) {
    leave_launch(worker);
  } else if (next == &self) {
    worker.current = &self;  // a SIMD-group operation may have changed it
  } else {
    resume(worker, *next, &self.stack_pointer);
  }
}

void leave_launch(Worker& worker) {
  if (worker.on_main_stack) return;
  worker.on_main_stack = true;
  void* unused;
  sim_switch_stack(&unused, worker.main_stack_pointer);
}

void found(Worker& worker, sim_finding& finding, bool fatal) {
  finding.who = worker.who();
  if (worker.launch->findings.add(finding, fatal)) leave_launch(worker);
}

sim_finding make_timeout(const Worker& worker, const sim_place& place) {
  sim_finding finding = make_finding(SIM_TIMEOUT, place);
  finding.value = static_cast<int64_t>(worker.launch->request.timeout * 1000);
  return finding;
}

void yield(Worker& worker) {
  Fiber& self = *worker.current;
  worker.simdgroups[self.simdgroup].ready |= 1u << self.lane;
  wait_for_turn(worker);
}

void attend(Worker& worker, const sim_place& place, bool may_yield) {
  if (worker.on_main_stack) return;
  if (worker.attention & kUndecidedWrite) decide_write(worker);
  if (worker.attention & kTimedOut) {
    sim_finding finding = make_timeout(worker, place);
    found(worker, finding, true);
  }
  if (may_yield && worker.attention & kRandomOrder && next_random(worker.random_state) % 8 == 0)
    yield(worker);
}

// The attributes of each thread, under the rules of a dispatch of threads (not of threadgroups):
// at the end of the grid, threadgroups are smaller.
static void prepare_fiber(Worker& worker, uint32_t index, const sim_uint3& position,
                          const sim_uint3& size) {
  const sim_launch& request = worker.launch->request;
  const sim_uint3& full = request.threadgroup;
  Fiber& fiber = worker.fibers[index];
  fiber.stack = nullptr;
  fiber.index = index;
  fiber.lane = index % kLanes;
  fiber.simdgroup = index / kLanes;
  const sim_uint3 thread = {index % size.x, index / size.x % size.y, index / (size.x * size.y)};
  sim_thread& t = fiber.thread;
  t.thread_position_in_threadgroup = thread;
  t.threadgroup_position_in_grid = position;
  t.thread_position_in_grid = {position.x * full.x + thread.x, position.y * full.y + thread.y,
                               position.z * full.z + thread.z};
  t.threads_per_threadgroup = size;
  t.dispatch_threads_per_threadgroup = full;
  t.threads_per_grid = request.grid;
  t.threadgroups_per_grid = request.threadgroups;
  t.thread_index_in_threadgroup = index;
  t.thread_index_in_simdgroup = fiber.lane;
  t.simdgroup_index_in_threadgroup = fiber.simdgroup;
  t.simdgroups_per_threadgroup = worker.simdgroup_count;
  t.dispatch_simdgroups_per_threadgroup = (full.x * full.y * full.z + kLanes - 1) / kLanes;
  t.threads_per_simdgroup = kLanes;
}

void run_threadgroup(Worker& worker, uint64_t index) {
  const Launch& launch = *worker.launch;
  const sim_uint3 position = launch.threadgroup_position(index);
  const sim_uint3 size = launch.threadgroup_size(position);
  worker.threadgroup = static_cast<uint32_t>(index);
  worker.thread_count = size.x * size.y * size.z;
  worker.simdgroup_count = (worker.thread_count + kLanes - 1) / kLanes;
  // The same interleaving whichever worker runs this threadgroup.
  worker.random_state = launch.request.order ^ (index + 1) * 0xd1342543de82ef95;
  for (uint32_t i = 0; i < worker.thread_count; i++) prepare_fiber(worker, i, position, size);
  for (uint32_t s = 0; s < worker.simdgroup_count; s++) {
    const uint32_t lanes = worker.thread_count - s * kLanes;
    SimdGroup& group = worker.simdgroups[s];
    group = {};
    group.members = group.ready = lanes >= kLanes ? ~0u : (1u << lanes) - 1;
  }
  worker.device_epoch++;
  worker.threadgroup_memory.start_threadgroup();
  worker.current = launch.request.order == 1 ? &worker.fibers[worker.thread_count - 1] : nullptr;
  worker.on_main_stack = true;
  while (Fiber* fiber = next_fiber(worker)) resume(worker, *fiber, &worker.main_stack_pointer);
  if (launch.findings.stopped()) worker.stacks.give_back_all();
}

}  // namespace sim

using sim::current_worker;
using sim::Worker;

extern "C" {

void sim_barrier(uint32_t flags, const char* file, uint32_t line) {
  Worker& worker = *current_worker;
  if (worker.attention) sim::attend(worker, sim::place_in_source(file, line), false);
  sim::Fiber& self = *worker.current;
  self.wait = {nullptr, nullptr, nullptr, "threadgroup_barrier", file, line, flags};
  worker.simdgroups[self.simdgroup].at_barrier |= 1u << self.lane;
  sim::wait_for_turn(worker);
}

void sim_simd(sim_simd_function function, const void* in, void* out, const char* name,
              const char* file, uint32_t line) {
  Worker& worker = *current_worker;
  if (worker.attention) sim::attend(worker, sim::place_in_source(file, line), false);
  sim::Fiber& self = *worker.current;
  self.wait = {function, in, out, name, file, line, 0};
  worker.simdgroups[self.simdgroup].at_operation |= 1u << self.lane;
  sim::wait_for_turn(worker);
}

void sim_simdgroup_barrier(uint32_t flags, const char* file, uint32_t line) {
  Worker& worker = *current_worker;
  if (worker.attention) sim::attend(worker, sim::place_in_source(file, line), false);
  sim::Fiber& self = *worker.current;
  self.wait = {nullptr, nullptr, nullptr, "simdgroup_barrier", file, line, flags};
  worker.simdgroups[self.simdgroup].at_operation |= 1u << self.lane;
  sim::wait_for_turn(worker);
}

// Called by a SIMD-group operation's function, which runs for all lanes at once.
void sim_inactive_lane(uint32_t lane, uint32_t source_lane, const char* name, const char* file,
                       uint32_t line) {
  Worker& worker = *current_worker;
  if (!worker.launch->request.check) return;
  sim_finding finding = sim::make_finding(SIM_INACTIVE_LANE, sim::place_in_source(file, line));
  finding.who =
      worker.launch->who(worker.threadgroup, worker.current->simdgroup * sim::kLanes + lane);
  sim::set_text(finding.variable, name);
  finding.value = static_cast<int32_t>(source_lane);
  worker.launch->findings.add(finding, false);
}
}
