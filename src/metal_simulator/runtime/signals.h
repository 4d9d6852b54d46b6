// Signals: faults of a kernel become findings, and an endless loop can be interrupted.
#pragma once
#include <pthread.h>

#include <cstddef>

#include "worker.h"

namespace sim {

constexpr size_t kSignalStackBytes = 64 * 1024;

// For the time of a launch; the handlers that were there before come back.
void install_signal_handlers();
void restore_signal_handlers();

// On a worker's thread: a stack for the handlers (the fiber's may have overflowed), and no other
// signals of the process, whose handlers would run on a fiber's stack.
void prepare_thread_for_signals(char* signal_stack);
void release_signal_stack();

// Stops what a worker runs, if that is kernel code; otherwise it will stop soon, or try again.
void interrupt(pthread_t thread);

}  // namespace sim
