// Fibers: how a thread of the kernel gets a stack of its own, and how the processor changes from
// one stack to another. An operating system thread for each of up to 1024 threads of a threadgroup
// would cost a thousand times more per switch.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

// Saves the caller's registers on its stack and the stack pointer in *save, then goes on where
// `next` was saved. Returns when somebody switches back.
extern "C" void sim_switch_stack(void** save, void* next);

namespace sim {

constexpr uint32_t kMaxThreads = 1024;           // of a threadgroup
constexpr size_t kStackBytes = 256 * 1024;       // of one fiber, its guard included
constexpr size_t kGuardBytes = 16 * 1024;        // one page on Apple silicon, four elsewhere

// The stacks of one worker. They are reserved once and used again by every launch; the lowest part
// of each is a guard that faults, so that endless recursion is noticed.
class Stacks {
 public:
  bool reserve();  // false: no memory
  char* take();
  void give_back(char* stack) { free_.push_back(stack); }
  void give_back_all();

  bool contains(uintptr_t address) const { return address - begin() < kStackBytes * kMaxThreads; }
  bool in_guard(uintptr_t address) const {
    return contains(address) && (address - begin()) % kStackBytes < kGuardBytes;
  }
  uintptr_t begin() const { return reinterpret_cast<uintptr_t>(memory_); }

  // The stack pointer of a fiber that will start in `entry` when first switched to.
  void* start(char* stack, void (*entry)()) const;

 private:
  char* memory_ = nullptr;
  uint32_t used_ = 0;  // stacks that have been taken at least once
  std::vector<char*> free_;
};

}  // namespace sim
