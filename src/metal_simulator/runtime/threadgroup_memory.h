// Threadgroup memory: the variables that the threads of a threadgroup share. They lie in an arena
// with red zones between them; shadow cells remember who used each element last.
#pragma once
#include <cstdint>
#include <vector>

#include "abi.h"
#include "access_order.h"

namespace sim {

struct Worker;

constexpr uint32_t kThreadgroupLimit = 32768;  // bytes, as on Apple's GPUs
constexpr uint32_t kArenaBytes = 256 * 1024;
constexpr uint32_t kRedZoneBytes = 512;

struct Variable {
  const void* id;
  const char* name;
  uint32_t offset, bytes, element_bytes;
  uint32_t granule;  // bytes that share one cell: the element's, at most 4
};

struct Cell {
  Access last_write;
  Reads reads;
  uint32_t bytes;  // that it stands for
};

class ThreadgroupMemory {
 public:
  bool reserve();      // false: no memory
  void start_launch();  // forgets the variables
  void start_threadgroup();  // poisons them

  const Variable* find(const void* id) const;
  Variable* at(uint32_t offset) {
    for (Variable& variable : variables_)
      if (offset - variable.offset < variable.bytes) return &variable;
    return nullptr;
  }
  const Variable* nearest(uint32_t offset) const;

  // Adds a variable; null if it does not fit. `needed` gets the sum of bytes with it.
  const Variable* add(const Variable& variable, uint32_t align, uint64_t& needed);

  // Gives every byte of a variable a cell of its own, because an access does not match its cells.
  void split(Variable& variable);

  char* address(uint32_t offset) { return arena_ + offset; }
  bool contains(uintptr_t address) const { return address - begin() < kArenaBytes; }
  uint32_t offset(uintptr_t address) const { return static_cast<uint32_t>(address - begin()); }
  Cell& cell(uint32_t offset) { return cells_[offset]; }

  // Whether a plain read need not be checked; see access_order.h.
  bool tells_nothing_new(uint32_t offset, uint32_t bytes, uint32_t thread,
                         uint32_t simdgroup_epoch) const {
    const Cell& cell = cells_[offset];
    return cell.bytes == bytes && cell.last_write.epoch >= first_epoch &&
           sim::tells_nothing_new(cell.last_write, cell.reads, epoch, thread, simdgroup_epoch);
  }
  uint64_t bytes() const { return used_; }

  // The epoch of barriers. It grows from launch to launch, so that cells need not be cleared.
  uint32_t epoch = 1, first_epoch = 1;

 private:
  uintptr_t begin() const { return reinterpret_cast<uintptr_t>(arena_); }

  char* arena_ = nullptr;
  Cell* cells_ = nullptr;
  std::vector<Variable> variables_;
  uint32_t arena_used_ = 0;
  uint64_t used_ = 0;  // bytes by Metal's count, without red zones
};

// Checks an access to the arena and records it. `kind` is a set of AccessKind.
void check_threadgroup_access(Worker& worker, uint32_t offset, uint32_t bytes, uint8_t kind,
                              uint32_t place);

// Fills in which element of which variable an offset means.
void describe_element(const Variable& variable, uint32_t offset, sim_finding& finding);

}  // namespace sim
