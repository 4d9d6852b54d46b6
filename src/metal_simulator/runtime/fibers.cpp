// The context switch for x86-64 and arm64, and the stacks. See fibers.h.
#include "fibers.h"

#include <sys/mman.h>

// Names carry an underscore on macOS, and only ELF knows symbol types and sizes.
#if defined(__APPLE__)
#define SWITCH_BEGIN ".text\n.globl _sim_switch_stack\n.private_extern _sim_switch_stack\n" \
                     ".p2align 4\n_sim_switch_stack:\n"
#define SWITCH_END ""
#else
#define SWITCH_BEGIN ".text\n.globl sim_switch_stack\n.hidden sim_switch_stack\n" \
                     ".type sim_switch_stack, %function\n.p2align 4\nsim_switch_stack:\n"
#define SWITCH_END ".size sim_switch_stack, .-sim_switch_stack\n"
#endif

// Only the registers that a called function must preserve are saved. The jump goes through a
// register because `ret` would be predicted to return to the old stack's caller.
#if defined(__x86_64__)
asm(SWITCH_BEGIN R"(
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
)" SWITCH_END);
#elif defined(__aarch64__)
asm(SWITCH_BEGIN R"(
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  br x30
)" SWITCH_END);
#else
#error "the simulator runs on x86-64 and arm64"
#endif

namespace sim {

bool Stacks::reserve() {
  if (memory_) return true;
  void* memory = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  memory_ = static_cast<char*>(memory);
  free_.reserve(kMaxThreads);  // giving a stack back must not allocate
  return true;
}

char* Stacks::take() {
  if (free_.empty()) {
    char* stack = memory_ + kStackBytes * used_++;
    mprotect(stack, kGuardBytes, PROT_NONE);
    return stack;
  }
  char* stack = free_.back();
  free_.pop_back();
  return stack;
}

void Stacks::give_back_all() {
  free_.clear();
  for (uint32_t i = used_; i-- > 0;) free_.push_back(memory_ + kStackBytes * i);
}

void* Stacks::start(char* stack, void (*entry)()) const {
  // Stacks that all began at the same offset would compete for the same lines of the cache.
  const size_t index = static_cast<size_t>(stack - memory_) / kStackBytes;
  uint64_t* top = reinterpret_cast<uint64_t*>(stack + kStackBytes - 64 - index % 61 * 320);
#if defined(__x86_64__)
  // As after a call: a multiple of 16, less the 8 bytes of a return address (that nobody uses).
  uint64_t* saved = top - 8;
  for (int i = 0; i < 8; i++) saved[i] = 0;
  saved[6] = reinterpret_cast<uint64_t>(entry);
#else
  uint64_t* saved = top - 20;
  for (int i = 0; i < 20; i++) saved[i] = 0;
  saved[11] = reinterpret_cast<uint64_t>(entry);  // x30
#endif
  return saved;
}

}  // namespace sim
