// The scheduler: which thread of a threadgroup runs next, in which order, and what happens when
// threads wait for each other at barriers and SIMD-group operations.
#pragma once
#include "worker.h"

namespace sim {

// Runs all threads of a threadgroup, until the last returned or the launch stops.
void run_threadgroup(Worker& worker, uint64_t index);

// Lets another thread run, perhaps, in a random order.
void yield(Worker& worker);

// Gives up the running thread and, with it, the launch. Does nothing on the worker's own stack.
void leave_launch(Worker& worker);

// What every entry into the runtime does when `worker.attention` is set.
void attend(Worker& worker, const sim_place& place, bool may_yield);

sim_finding make_timeout(const Worker& worker, const sim_place& place);

uint64_t next_random(uint64_t& state);

}  // namespace sim
