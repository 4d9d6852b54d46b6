// Which of two memory accesses comes first, and which are a race. The checks of threadgroup memory
// and of device memory keep, for each element, its last write and up to two reads.
//
// Time is counted in epochs. A threadgroup barrier for a kind of memory begins a new epoch of that
// memory for the threadgroup; a SIMD-group barrier begins a new one for the SIMD group.
#pragma once
#include <cstdint>

namespace sim {

// What an access does, as a set.
enum AccessKind : uint8_t { kRead = 1, kWrite = 2, kAtomic = 4 };

struct Access {
  uint32_t threadgroup;           // its index in the grid; always 0 for threadgroup memory
  uint32_t epoch;                 // 0: there was no access
  uint32_t place;                 // offset in the kernel's library
  uint32_t thread : 10;           // its index in the threadgroup
  uint32_t write : 1;
  uint32_t atomic : 1;
  uint32_t simdgroup_epoch : 20;  // only compared within an epoch of the threadgroup
};

inline Access make_access(uint32_t threadgroup, uint32_t epoch, uint32_t place, uint32_t thread,
                          uint8_t kind, uint32_t simdgroup_epoch) {
  return {threadgroup,
          epoch,
          place,
          thread & 1023,
          (kind & kWrite) != 0,
          (kind & kAtomic) != 0,
          simdgroup_epoch & 0xfffff};
}

struct Reads {
  Access first, second;
};

// How many bytes share one record: an element, or 4 bytes of a larger one.
inline uint32_t record_granule(uint32_t element_bytes) {
  return element_bytes % 4 == 0 ? 4 : element_bytes % 2 == 0 ? 2 : 1;
}

// How far apart two threads are, if they are different ones.
inline int distance(const Access& a, const Access& b) {
  return a.threadgroup != b.threadgroup ? 2 : a.thread / 32 != b.thread / 32 ? 1 : 0;
}

// Whether `earlier`, which was recorded before `later`, had to come before it: by the order of the
// program or by a barrier.
inline bool ordered(const Access& earlier, const Access& later) {
  if (earlier.threadgroup != later.threadgroup) return false;
  if (earlier.epoch != later.epoch || earlier.thread == later.thread) return true;
  return earlier.thread / 32 == later.thread / 32 &&
         earlier.simdgroup_epoch != later.simdgroup_epoch;
}

inline bool is_race(const Access& earlier, const Access& later) {
  return (earlier.write || later.write) && earlier.epoch && !ordered(earlier, later) &&
         !(earlier.atomic && later.atomic);
}

// The recorded access that `now` races with, or null.
inline const Access* find_race(const Access& last_write, const Reads& reads, const Access& now) {
  if (is_race(last_write, now)) return &last_write;
  if (is_race(reads.first, now)) return &reads.first;
  if (is_race(reads.second, now)) return &reads.second;
  return nullptr;
}

// Two reads are enough to find a race with any later write: a read that is ordered before another
// can be forgotten, since a write after the other comes after it too; and of several unordered ones
// the two that are farthest apart (threadgroups, else SIMD groups, else threads) cannot both be
// ordered before a write that races with a third.
inline void record_read(Reads& reads, const Access& now) {
  if (!reads.first.epoch || ordered(reads.first, now)) {
    reads.first = now;
    if (reads.second.epoch && ordered(reads.second, now)) reads.second.epoch = 0;
  } else if (!reads.second.epoch || ordered(reads.second, now) ||
             distance(reads.first, now) > distance(reads.first, reads.second)) {
    reads.second = now;
  }
}

// Whether a plain read by a thread of the same threadgroup needs no check: the last write came
// before it, and the two recorded reads race with every write that it would race with. Most reads
// of a tile are like this, which makes the shortcut worth its lines.
inline bool tells_nothing_new(const Access& last_write, const Reads& reads, uint32_t epoch,
                              uint32_t thread, uint32_t simdgroup_epoch) {
  const Access &a = reads.first, &b = reads.second;
  if (last_write.epoch == epoch || a.epoch != epoch || b.epoch != epoch || a.write || b.write)
    return false;
  return a.thread / 32 != b.thread / 32 ||
         (a.thread / 32 == thread / 32 && a.simdgroup_epoch == simdgroup_epoch &&
          b.simdgroup_epoch == simdgroup_epoch);
}

inline void record(Access& last_write, Reads& reads, const Access& now) {
  if (now.write) last_write = now;
  // Atomic writes do not race with each other, so a later plain access may race with one that is
  // no longer the last: it is kept among the reads as well.
  if (!now.write || now.atomic) record_read(reads, now);
}

}  // namespace sim
