// Signals. See signals.h. The macOS parts were compiled and run nowhere yet.
#include "signals.h"

#include <signal.h>
#include <ucontext.h>

#include "scheduler.h"

namespace sim {
namespace {

constexpr int kInterrupt = SIGUSR2;
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, kInterrupt};
constexpr size_t kSignalCount = sizeof kSignals / sizeof *kSignals;
struct sigaction earlier_handlers[kSignalCount];

#if defined(__APPLE__) && defined(__aarch64__)
uint64_t& program_counter(ucontext_t& context) { return context.uc_mcontext->__ss.__pc; }
uint64_t& stack_pointer(ucontext_t& context) { return context.uc_mcontext->__ss.__sp; }
#elif defined(__APPLE__)
uint64_t& program_counter(ucontext_t& context) { return context.uc_mcontext->__ss.__rip; }
uint64_t& stack_pointer(ucontext_t& context) { return context.uc_mcontext->__ss.__rsp; }
#elif defined(__aarch64__)
auto& program_counter(ucontext_t& context) { return context.uc_mcontext.pc; }
auto& stack_pointer(ucontext_t& context) { return context.uc_mcontext.sp; }
#else
auto& program_counter(ucontext_t& context) { return context.uc_mcontext.gregs[REG_RIP]; }
auto& stack_pointer(ucontext_t& context) { return context.uc_mcontext.gregs[REG_RSP]; }
#endif

// Only x86-64 says whether a fault was a write.
bool is_write(const ucontext_t& context) {
#if defined(__linux__) && defined(__x86_64__)
  return context.uc_mcontext.gregs[REG_ERR] & 2;
#else
  (void)context;
  return false;
#endif
}

void leave() {
  leave_launch(*current_worker);
}

// The fiber goes on in `leave` once the handler returns. It never comes back, so it may use its
// stack from the top again, however deep it was.
void leave_after_handler(Worker& worker, ucontext_t& context) {
  uintptr_t top = reinterpret_cast<uintptr_t>(worker.current->stack) + kStackBytes - 64;
#if defined(__x86_64__)
  top -= 8;  // as after a call
#endif
  program_counter(context) = reinterpret_cast<uintptr_t>(leave);
  stack_pointer(context) = top;
}

sim_finding describe_memory_fault(Worker& worker, uintptr_t address, const sim_place& place) {
  if (worker.stacks.in_guard(address)) return make_finding(SIM_STACK_OVERFLOW, place);
  for (const Buffer& buffer : worker.launch->memory.buffers()) {
    if (!buffer.in_zone(address)) continue;
    sim_finding finding = make_finding(SIM_DEVICE_OUT_OF_BOUNDS, place);
    describe_element(buffer, address, finding);
    return finding;
  }
  sim_finding finding = make_finding(SIM_INVALID_ADDRESS, place);
  finding.value = static_cast<int64_t>(address);
  return finding;
}

void handle_fault(Worker& worker, int signal, const siginfo_t& info, ucontext_t& context,
                  const sim_place& place) {
  sim_finding finding;
  if (signal == SIGSEGV || signal == SIGBUS) {
    finding = describe_memory_fault(worker, reinterpret_cast<uintptr_t>(info.si_addr), place);
    finding.write = is_write(context);
    // Vector instructions fault, without an address, on what was reported as misaligned already.
    if (!info.si_addr && worker.launch->findings.has(SIM_MISALIGNED))
      return worker.launch->findings.stop();
  } else {
    finding = make_finding(SIM_DIVISION_BY_ZERO, place);
    if (signal != SIGFPE)
      set_text(finding.detail, "the compiler put a trap in place of an undefined operation");
  }
  finding.who = worker.who();
  worker.launch->findings.add(finding, true);
}

void on_signal(int signal, siginfo_t* info, void* raw_context) {
  Worker* const worker = current_worker;
  ucontext_t& context = *static_cast<ucontext_t*>(raw_context);
  if (!worker || worker->on_main_stack) {
    // Not the fault of a kernel: the instruction runs again and meets the earlier handler.
    for (size_t i = 0; i < kSignalCount; i++)
      if (signal == kSignals[i] && signal != kInterrupt)
        sigaction(signal, &earlier_handlers[i], nullptr);
    return;
  }
  const uintptr_t address = static_cast<uintptr_t>(program_counter(context));
  const sim_place place = place_in_library(worker->place(address));
  Findings& findings = worker->launch->findings;
  if (signal == kInterrupt) {
    if (!worker->launch->in_library(address)) {
      // The runtime may hold a lock; it attends to this when kernel code next enters it.
      worker->attention = worker->attention | kTimedOut;
      return;
    }
    if (!findings.stopped()) {
      sim_finding finding = make_timeout(*worker, place);
      finding.who = worker->who();
      findings.add(finding, true);
    }
  } else {
    handle_fault(*worker, signal, *info, context, place);
  }
  leave_after_handler(*worker, context);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignalCount; i++)
    sigaction(kSignals[i], &action, &earlier_handlers[i]);
}

void restore_signal_handlers() {
  for (size_t i = 0; i < kSignalCount; i++) sigaction(kSignals[i], &earlier_handlers[i], nullptr);
}

void prepare_thread_for_signals(char* signal_stack) {
  stack_t stack{};
  stack.ss_sp = signal_stack;
  stack.ss_size = kSignalStackBytes;
  sigaltstack(&stack, nullptr);
  sigset_t others;
  sigfillset(&others);
  for (int signal : kSignals) sigdelset(&others, signal);
  pthread_sigmask(SIG_SETMASK, &others, nullptr);
}

void release_signal_stack() {
  stack_t stack{};
  stack.ss_flags = SS_DISABLE;
  stack.ss_size = kSignalStackBytes;  // macOS looks at it
  sigaltstack(&stack, nullptr);
}

void interrupt(pthread_t thread) {
  pthread_kill(thread, kInterrupt);
}

}  // namespace sim
